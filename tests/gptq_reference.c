/* gptq_reference.c: the published three steps and the sweep. See gptq_reference.h. */
#include "tests/gptq_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- matrices ---- */

static double dot(const double *a, const double *b, int64_t n)
{
    double sum[4] = { 0 };
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++) sum[j] += a[i + j] * b[i + j];
    for (; i < n; i++) sum[0] += a[i] * b[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

int64_t ref_cholesky(double *a, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j <= i; j++) {
            const double rest = a[i * n + j] - dot(a + i * n, a + j * n, j);
            if (i == j && !(rest > 0)) return i + 1;
            a[i * n + j] = i == j ? sqrt(rest) : rest / a[j * n + j];
        }
        for (int64_t j = i + 1; j < n; j++) a[i * n + j] = 0;
    }
    return 0;
}

void ref_invert_lower(double *l, int64_t n)
{
    double *row = malloc((size_t)n * sizeof *row + 1);
    for (int64_t i = 0; i < n; i++) { /* rows above are inverted already */
        const double pivot = l[i * n + i];
        memset(row, 0, (size_t)n * sizeof *row);
        for (int64_t k = 0; k < i; k++)
            for (int64_t j = 0; j <= k; j++) row[j] -= l[i * n + k] * l[k * n + j];
        for (int64_t j = 0; j < i; j++) l[i * n + j] = row[j] / pivot;
        l[i * n + i] = 1 / pivot;
    }
    free(row);
}

int64_t ref_inverse_factor(const double *a, int64_t n, double *u)
{
    double *l = malloc((size_t)(n * n) * sizeof *l + 1);
    memcpy(l, a, (size_t)(n * n) * sizeof *l);
    const int64_t minor = ref_cholesky(l, n); /* a = l l^T */
    if (minor) {
        free(l);
        return minor;
    }
    ref_invert_lower(l, n);
    memset(u, 0, (size_t)(n * n) * sizeof *u);
    for (int64_t k = 0; k < n; k++) /* a^-1 = l^-T l^-1 */
        for (int64_t i = 0; i <= k; i++)
            for (int64_t j = 0; j <= i; j++) u[i * n + j] += l[k * n + i] * l[k * n + j];
    (void)ref_cholesky(u, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) u[j * n + i] = u[i * n + j], u[i * n + j] = 0;
    free(l);
    return 0;
}

double ref_quadratic(const double *d, const double *h, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (d[i] != 0) sum += d[i] * dot(d, h + i * n, n);
    return sum;
}

/* ---- order ---- */

typedef struct ranked {
    double  key, inner; /* of the block, of the input */
    int64_t block, input;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    if (x->block != y->block) return x->block < y->block ? -1 : 1;
    if (x->inner != y->inner) return x->inner > y->inner ? -1 : 1;
    return x->input < y->input ? -1 : x->input > y->input;
}

void ref_order(const double *h, int64_t k, nib_gptq_order order, int block, int32_t *out)
{
    ranked *list = calloc((size_t)k + 1, sizeof *list);
    for (int64_t i = 0; i < k; i++) {
        list[i].input = i;
        if (order == NIB_GPTQ_NATURAL) continue;
        list[i].inner = h[i * k + i];
        if (order == NIB_GPTQ_ACT) continue;
        list[i].block = i / block;
        for (int64_t j = i / block * block; j < k && j < (i / block + 1) * block; j++)
            list[i].key = fmax(list[i].key, h[j * k + j]);
    }
    qsort(list, (size_t)k, sizeof *list, by_rank);
    for (int64_t i = 0; i < k; i++) out[i] = (int32_t)list[i].input;
    free(list);
}

/* ---- the sweep ---- */

static int is_fresh(nib_gptq_scales s)
{
    return s == NIB_GPTQ_SCALES_FRESH || s == NIB_GPTQ_SCALES_HESSIAN_FRESH;
}

/* The scale of a block from x, which holds the block's n numbers; its first input is from. */
static int64_t scale_of(const ref_layer *y, int plain, const double *x, int n, int64_t from)
{
    int32_t at[128];
    if (plain || y->scales == NIB_GPTQ_SCALES_FROZEN || y->scales == NIB_GPTQ_SCALES_FRESH) {
        float *rounded = malloc((size_t)n * sizeof *rounded + 1);
        for (int i = 0; i < n; i++) rounded[i] = (float)x[i];
        const int64_t scale = ref_plain_scale(y->r, rounded, n);
        free(rounded);
        return scale;
    }
    for (int i = 0; i < n; i++) at[i] = (int32_t)(from + i);
    return ref_hessian_scale(y->r, x, n, y->h, y->k, at,
                             y->scales == NIB_GPTQ_SCALES_HESSIAN_FULL);
}

static int64_t blocks_of(const ref_layer *y) { return (y->k + y->r->block - 1) / y->r->block; }

static int length_of(const ref_layer *y, int64_t block)
{
    const int64_t left = y->k - block * y->r->block;
    return (int)(left < y->r->block ? left : y->r->block);
}

/* One row without carried errors: scales, and with them codes. */
static void plain_row(const ref_layer *y, int plain, const double *w, uint8_t *codes,
                      int64_t *scales)
{
    for (int64_t b = 0; b * y->r->block < y->k; b++) {
        const int64_t from = b * y->r->block;
        scales[b] = scale_of(y, plain, w + from, length_of(y, b), from);
        for (int64_t i = from; i < from + length_of(y, b); i++)
            codes[i] = (uint8_t)ref_code(y->r, scales[b], (float)w[i]);
    }
}

/* One row of the published loop; w is the row in f64, by input, and changes. Returns the sum of
 * the squared, weighted errors. */
static double sweep_row(const ref_layer *y, const ref_answer *a, double *w, uint8_t *codes,
                        int64_t *scales)
{
    const int64_t block = y->r->block;
    int64_t open = -1; /* the block whose scale is chosen, for fresh ones */
    double loss = 0;
    for (int64_t s = 0; s < y->k; s++) {
        const double *u = a->u + s * y->k;
        const int32_t j = a->order[s];
        if (is_fresh(y->scales) && open != j / block) {
            open = j / block;
            scales[open] = scale_of(y, 0, w + open * block, length_of(y, open), open * block);
        }
        codes[j] = (uint8_t)ref_code(y->r, scales[j / block], (float)w[j]);
        const double e = (w[j] - ref_value(y->r, scales[j / block], codes[j])) / u[s];
        for (int64_t t = s + 1; t < y->k; t++) w[a->order[t]] -= e * u[t];
        loss += e * e;
    }
    return loss;
}

/* h, damped and with h's dead inputs alive, in a's order. */
static double *damped(const ref_layer *y, const int32_t *order)
{
    double *h = malloc((size_t)(y->k * y->k) * sizeof *h + 1);
    for (int64_t i = 0; i < y->k; i++) {
        for (int64_t j = 0; j < y->k; j++)
            h[i * y->k + j] = y->h[order[i] * y->k + order[j]];
        const double diagonal = h[i * y->k + i];
        h[i * y->k + i] = diagonal + y->added + (diagonal == 0);
    }
    return h;
}

static double error_of(const ref_layer *y, const float *w, const uint8_t *codes,
                       const int64_t *scales, const double *h, const int32_t *order)
{
    double *d = malloc((size_t)y->k * sizeof *d + 1);
    for (int64_t s = 0; s < y->k; s++) {
        const int64_t j = order ? order[s] : s;
        d[s] = (double)w[j];
        if (codes) d[s] -= ref_value(y->r, scales[j / y->r->block], codes[j]);
    }
    const double error = ref_quadratic(d, h, y->k);
    free(d);
    return error;
}

static void solve_row(const ref_layer *y, ref_answer *a, int64_t row, const double *whole,
                      double *w, uint8_t *codes, int64_t *scales)
{
    const int64_t per_row = blocks_of(y);
    const float *from = y->w + row * y->k;
    uint8_t *kept = a->codes + row * y->k;
    int64_t *kept_scales = a->scales + row * per_row;
    for (int64_t j = 0; j < y->k; j++) w[j] = (double)from[j];
    plain_row(y, 1, w, kept, kept_scales);
    const double plain = error_of(y, from, kept, kept_scales, y->h, NULL);
    double error = plain;
    a->plain_error += plain;
    a->weight += error_of(y, from, NULL, NULL, y->h, NULL);
    if (!y->plain) {
        plain_row(y, 0, w, codes, scales); /* scales that stay, or are chosen anew */
        a->carried += sweep_row(y, a, w, codes, scales);
        a->carried_direct += error_of(y, from, codes, scales, whole, a->order);
        error = error_of(y, from, codes, scales, y->h, NULL);
    }
    a->plain_least += y->plain || plain < error * (1 - 1e-9);
    a->plain_most += plain <= error * (1 + 1e-9);
    if (!y->plain && (y->no_guard || error < plain)) {
        memcpy(kept, codes, (size_t)y->k);
        memcpy(kept_scales, scales, (size_t)per_row * sizeof *scales);
        a->error += error;
    } else {
        a->error += plain;
    }
}

int ref_solve(const ref_layer *y, ref_answer *a)
{
    const int64_t per_row = blocks_of(y);
    double *w = malloc((size_t)y->k * sizeof *w + 1);
    uint8_t *codes = malloc((size_t)y->k + 1);
    int64_t *scales = malloc((size_t)per_row * sizeof *scales + 1);
    *a = (ref_answer){ .order = malloc((size_t)y->k * sizeof(int32_t) + 1),
                       .codes = malloc((size_t)(y->rows * y->k) + 1),
                       .scales = malloc((size_t)(y->rows * per_row) * sizeof(int64_t) + 1),
                       .u = malloc((size_t)(y->k * y->k) * sizeof(double) + 1) };
    ref_order(y->h, y->k, y->order, y->r->block, a->order);
    double *whole = damped(y, a->order);
    const int good = y->plain || ref_inverse_factor(whole, y->k, a->u) == 0;
    for (int64_t row = 0; row < y->rows && good; row++)
        solve_row(y, a, row, whole, w, codes, scales);
    free(whole), free(w), free(codes), free(scales);
    return good;
}

void ref_answer_free(ref_answer *a)
{
    free(a->order), free(a->codes), free(a->scales), free(a->u);
    *a = (ref_answer){ 0 };
}
