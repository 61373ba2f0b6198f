/* steps_reference.c: see steps_reference.h. Floats are rounded by search, integers by libm. */
#include "steps_reference.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "kernels/common/scale.h"

static int is_integer(nib_step_element e) { return e >= NIB_INT2; }
static int is_step(float s) { return s > 0 && isfinite(s); }

double step_most(nib_step_element e)
{
    const double most[] = { 6, 7.5, 28, 448, 57344 };
    return is_integer(e) ? (1 << (e - 17)) - 1 : most[e];
}

static double least_of(nib_step_element e) { return -step_most(e) - is_integer(e); }

int64_t step_mask_ld(const step_setting *s) { return (s->cols + 7) / 8 + s->ld_extra; }

int64_t step_matrix_bytes(const step_setting *s, nib_dtype dtype)
{
    const int64_t n = s->rows ? (s->rows - 1) * (s->cols + s->ld_extra) + s->cols : 0;
    return n * (dtype == NIB_F32 ? 4 : 2);
}

int64_t step_mask_bytes(const step_setting *s)
{
    return s->rows ? (s->rows - 1) * step_mask_ld(s) + (s->cols + 7) / 8 : 0;
}

/* The nearest of values[0 .. n - 1], which rise; a tie goes to the even index. */
static int nearest_index(const double *values, int n, double a)
{
    int best = 0;
    if (a >= values[n - 1]) return n - 1; /* Inf too */
    for (int i = 1; i < n; i++) {
        const double here = fabs(a - values[i]), there = fabs(a - values[best]);
        if (here < there || (here == there && i % 2 == 0)) best = i;
    }
    return best;
}

static float nearest_float(nib_step_element e, float y)
{
    static double tables[5][128];
    double *table = tables[e];
    const int last[] = { 7, 31, 31, 126, 123 }; /* codes of the largest values */
    if (isnan(y)) return e <= NIB_STEP_E3M2 ? (float)step_most(e) : NAN;
    if (table[1] == 0.0)
        for (int i = 0; i <= last[e]; i++) table[i] = nib_element_to_f32((int)e, (uint32_t)i);
    const int i = nearest_index(table, last[e] + 1, fabs((double)y));
    return copysignf((float)table[i], y);
}

float step_nearest(nib_step_element e, float low, float high, float y)
{
    if (!is_integer(e)) return nearest_float(e, y);
    if (isnan(y)) return 0.0f;
    const double r = fmin(fmax(nearbyint((double)y), (double)low), (double)high);
    return (float)r + 0.0f; /* never -0 */
}

float step_by_rule(nib_step_rule rule, float t, float s)
{
    if (!is_step(s)) s = 1;
    if (rule == NIB_STEP_E4M3_BYTE) {
        double bytes[127];
        for (int i = 0; i < 127; i++)
            bytes[i] = i < 8 ? ldexp(i, -9) : ldexp(8 + i % 8, i / 8 - 10);
        const float quotient = s / t;
        const int i = nearest_index(bytes, 127, (double)quotient);
        s = (float)bytes[i ? i : 1] * t;
    } else if (rule == NIB_STEP_E8M0_BYTE) {
        int e = -127;
        while (e < 127 && ldexp(1, e) < (double)s) e++;
        s = (float)ldexp(1, e);
    } else if (rule == NIB_STEP_BF16 || rule == NIB_STEP_F16) { /* multiples of the binade's ulp */
        const int bits = rule == NIB_STEP_BF16 ? 8 : 11, least = rule == NIB_STEP_BF16 ? -126 : -14;
        int e;
        (void)frexp((double)s, &e);
        const double ulp = ldexp(1, (e - 1 < least ? least : e - 1) - bits + 1);
        const double most = rule == NIB_STEP_BF16 ? 0x1.fep127 : 65504;
        s = (float)fmin(fmax(nearbyint((double)s / ulp), 1) * ulp, most);
    }
    return is_step(s) ? s : 1;
}

/* ---- random input ---- */

void step_case_fill(const step_setting *s, step_case *c)
{
    const float odd[] = { 0.0f, -0.5f, NAN, INFINITY, 1e-45f, 3e38f, 1e-30f };
    const int64_t n = s->rows * (s->cols + s->ld_extra);
    const int64_t group = s->group && s->group < s->cols ? s->group : s->cols;
    *c = (step_case){ .steps = s->group == 0 ? 1 : group ? s->rows * ((s->cols + group - 1) / group)
                                                         : 0 };
    c->x = malloc((size_t)n * 4 + 4);
    c->grad = malloc((size_t)n * 4 + 4);
    fill_matrix(s->dtype, c->x, n, next_random() % 3 == 0);
    fill_matrix(s->grad_dtype, c->grad, n, next_random() % 2);
    c->given = malloc((size_t)c->steps * 4 + 4);
    c->zeros = malloc((size_t)c->steps + 1);
    for (int64_t i = 0; i < c->steps; i++) {
        c->given[i] = next_random() % 10 ? ldexpf(1.0f + fabsf(next_unit()),
                                                  (int)(next_random() % 16) - 14)
                                         : odd[next_random() % 7];
        c->zeros[i] = (int8_t)(next_random() % 2 ? next_random() % 256 : next_random() % 9);
    }
    c->range[0] = next_random() % 4 ? fabsf(next_unit()) : odd[next_random() % 7];
    c->range[1] = next_random() % 4 ? fabsf(next_unit()) : odd[next_random() % 7];
    c->tensor_scale = next_random() % 4 ? 0.01f * fabsf(next_unit()) : odd[next_random() % 7];
}

/* ---- what follows ---- */

static float load(const step_setting *s, const void *m, nib_dtype dtype, int64_t row, int64_t col)
{
    return nib_load_f32((int)dtype, m, row * (s->cols + s->ld_extra) + col);
}

/* Step i, of columns from .. to of a row. */
static void solve_step(const step_setting *s, step_case *c, int64_t i, int64_t row, int64_t from,
                       int64_t to)
{
    const double lo = least_of(s->element), hi = step_most(s->element);
    const float t = s->rule == NIB_STEP_E4M3_BYTE && is_step(c->tensor_scale) ? c->tensor_scale : 1;
    float below = 0, above = 0, z = 0;
    if (s->given) {
        c->used[i] = step_by_rule(s->rule, t, c->given[i]);
        if (s->asymmetric) z = c->zeros[i];
    } else {
        if (s->group == 0) {
            below = is_step(c->range[0]) ? c->range[0] : 0;
            above = is_step(c->range[1]) ? c->range[1] : 0;
        }
        for (int64_t col = from; col < to && s->group; col++) {
            const float x = load(s, c->x, s->dtype, row, col);
            if (!isfinite(x)) continue;
            below = fmaxf(below, -x);
            above = fmaxf(above, x);
        }
        const float most = fmaxf(below, above), span = (float)(hi - lo);
        float step = most / (float)(s->of_half ? hi + 0.5 : hi);
        if (s->asymmetric) step = (above + below) / span;
        if (isinf(step)) step = 2 * ((above / 2 + below / 2) / span);
        if (step < ldexpf(1, -149)) step = ldexpf(1, -149);
        c->used[i] = step_by_rule(s->rule, t, most == 0 ? 1 : step);
        if (s->asymmetric && most != 0)
            z = nearbyintf(fminf((float)lo + below / c->used[i], (float)hi));
    }
    c->used_zeros[i] = (int8_t)fmin(fmax((double)z, lo), hi);
}

static void solve_elements(const step_setting *s, step_case *c, int64_t i, int64_t row,
                           int64_t from, int64_t to)
{
    const float z = c->used_zeros[i];
    const float low = (float)least_of(s->element) - z, high = (float)step_most(s->element) - z;
    for (int64_t col = from; col < to; col++) {
        const int64_t at = row * s->cols + col;
        const float y = load(s, c->x, s->dtype, row, col) / c->used[i];
        c->y[at] = y;
        c->v[at] = step_nearest(s->element, low, high, y);
        c->passes[at] = y >= low && y <= high;
        nib_store_f32((int)s->out_dtype, c->values, row * (s->cols + s->ld_extra) + col,
                      c->v[at] * c->used[i]);
    }
}

/* The sum of one piece, in the order of steps.h. */
static float piece_sum(const step_setting *s, const step_case *c, int64_t row, int64_t from,
                       int64_t to)
{
    float lane[32] = { 0 };
    for (int64_t u = 0; from + u * 8 < to; u++) {
        float p[8] = { 0 };
        for (int64_t j = 0; j < 8 && from + u * 8 + j < to; j++) {
            const int64_t col = from + u * 8 + j, at = row * s->cols + col;
            const float d = c->passes[at] ? c->v[at] - c->y[at] : c->v[at];
            p[j] = d * load(s, c->grad, s->grad_dtype, row, col);
        }
        lane[u % 32] += ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
    }
    for (int half = 16; half; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

typedef struct pieces {
    double  sum[256];
    int64_t count, elements;
} pieces;

static void solve_pieces(const step_setting *s, const step_case *c, pieces *p, int64_t row,
                         int64_t from, int64_t to)
{
    for (int64_t at = from; at < to; at += 1024)
        p->sum[p->count++ % 256] += (double)piece_sum(s, c, row, at, at + 1024 < to ? at + 1024
                                                                                     : to);
    p->elements += to - from;
}

static float gradient_of(const step_setting *s, pieces *p)
{
    const float factor = s->factor != 0 ? s->factor
                       : (float)(1 / sqrt((double)p->elements * step_most(s->element)));
    for (int half = 128; half; half /= 2)
        for (int j = 0; j < half; j++) p->sum[j] += p->sum[j + half];
    return nib_canonical((float)(p->sum[0] * (double)factor));
}

void step_case_solve(const step_setting *s, step_case *c)
{
    const size_t n = (size_t)(s->rows * s->cols) + 1, steps = (size_t)c->steps + 1;
    const int64_t group = s->group && s->group < s->cols ? s->group : s->cols;
    const size_t bytes = (size_t)step_matrix_bytes(s, s->out_dtype);
    c->used = malloc(steps * 4), c->used_zeros = malloc(steps), c->grad_steps = malloc(steps * 4);
    c->v = malloc(n * 4), c->y = malloc(n * 4), c->passes = malloc(n);
    c->values = malloc(bytes + 1), c->mask = malloc((size_t)step_mask_bytes(s) + 1);
    memset(c->values, POISON, bytes);
    memset(c->mask, POISON, (size_t)step_mask_bytes(s));
    int64_t i = 0;
    pieces whole = { .count = 0 };
    if (s->group == 0) solve_step(s, c, 0, 0, 0, 0);
    for (int64_t row = 0; row < s->rows; row++) {
        uint8_t *mask = c->mask + row * step_mask_ld(s);
        for (int64_t from = 0; from < s->cols; from += group) {
            const int64_t to = from + group < s->cols ? from + group : s->cols;
            pieces one = { .count = 0 };
            if (s->group) solve_step(s, c, i, row, from, to);
            solve_elements(s, c, i, row, from, to);
            solve_pieces(s, c, s->group ? &one : &whole, row, from, to);
            if (s->group) c->grad_steps[i++] = gradient_of(s, &one);
        }
        memset(mask, 0, (size_t)(s->cols + 7) / 8);
        for (int64_t col = 0; col < s->cols; col++)
            mask[col / 8] |= (uint8_t)(c->passes[row * s->cols + col] << col % 8);
    }
    if (s->group == 0 && s->rows && s->cols) c->grad_steps[0] = gradient_of(s, &whole);
}

void step_case_free(step_case *c)
{
    void *list[] = { c->x, c->grad, c->given, c->zeros, c->used, c->used_zeros, c->v, c->y,
                     c->passes, c->values, c->mask, c->grad_steps };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) free(list[i]);
}
