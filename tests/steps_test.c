/* steps_test.c: fake-quantization by f32 steps and its gradients on every runner, against a
 * reference of its own (steps_reference.h), bit for bit; every half against every element; LSQ's
 * gradient against differences of its surrogate. device_fixture.h says what a runner is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "kernels/common/scale.h"
#include "tests/steps_reference.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

static const nib_step_element elements[] = {
    NIB_STEP_E2M1, NIB_STEP_E2M3, NIB_STEP_E3M2, NIB_STEP_E4M3, NIB_STEP_E5M2, NIB_INT2, NIB_INT3,
    NIB_INT4, NIB_INT5, NIB_INT6, NIB_INT7, NIB_INT8
};
enum { ELEMENTS = 12 };

/* ---- one case on one runner ---- */

static void expect_bytes(const void *got, const void *right, size_t n, const char *what,
                         const step_setting *s, const runner *r)
{
    const uint8_t *a = got, *b = right;
    size_t i = 0;
    while (i < n && a[i] == b[i]) i++;
    EXPECT(i == n, "%s: %s, byte %zu of %zu is %#x, not %#x: element %d asymmetric %d given %d "
           "rule %d, group %lld of %lld x %lld + %lld, dtypes %d %d %d, clamp %d, off %zu", r->name,
           what, i, n, i < n ? a[i] : 0, i < n ? b[i] : 0, s->element, s->asymmetric, s->given,
           s->rule, (long long)s->group, (long long)s->rows, (long long)s->cols,
           (long long)s->ld_extra, s->dtype, s->out_dtype, s->grad_dtype, s->clamp, s->off);
}

static void expect_buffer(buffer *b, const void *right, const char *what, const step_setting *s)
{
    const runner *r = b->on;
    const size_t bytes = b->bytes;
    void *got = buffer_take(b);
    expect_bytes(got, right, bytes, what, s, r);
    free(got);
}

static size_t width_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* A matrix as it was, with the rows of another in it: what is written in place. */
static void *with_rows(const step_setting *s, nib_dtype dtype, const void *around, const void *rows)
{
    const size_t w = width_of(dtype), ld = (size_t)(s->cols + s->ld_extra) * w;
    uint8_t *m = malloc((size_t)step_matrix_bytes(s, dtype) + 1);
    memcpy(m, around, (size_t)step_matrix_bytes(s, dtype));
    for (int64_t r = 0; r < s->rows; r++)
        memcpy(m + (size_t)r * ld, (const uint8_t *)rows + (size_t)r * ld, (size_t)s->cols * w);
    return m;
}

/* Gradients that pass, of all that do not clamp or by passes. */
static void *gradient_of(const step_setting *s, const step_case *c, int clamp)
{
    const size_t w = width_of(s->out_dtype);
    uint8_t *out = malloc((size_t)step_matrix_bytes(s, s->out_dtype) + 1);
    memset(out, POISON, (size_t)step_matrix_bytes(s, s->out_dtype));
    for (int64_t i = 0; i < s->rows * s->cols; i++) {
        const int64_t at = i / s->cols * (s->cols + s->ld_extra) + i % s->cols;
        if (clamp && !c->passes[i]) memset(out + (size_t)at * w, 0, w);
        else if (s->grad_dtype == s->out_dtype)
            memcpy(out + (size_t)at * w, (const uint8_t *)c->grad + (size_t)at * w, w);
        else nib_store_f32((int)s->out_dtype, out, at,
                           nib_load_f32((int)s->grad_dtype, c->grad, at));
    }
    return out;
}

typedef struct fixture {
    const runner       *r;
    const step_setting *s;
    const step_case    *c;
    buffer              steps, zeros, range, scale, used, used_zeros, mask, work;
    nib_exec            exec;
    nib_step_options    options;
} fixture;

static void fixture_open(fixture *f, const runner *r, const step_setting *s, const step_case *c)
{
    const size_t n = (size_t)c->steps;
    const int64_t work = nib_steps_workspace_bytes(s->rows, s->cols, s->group);
    *f = (fixture){ .r = r, .s = s, .c = c, .exec = exec_of(r) };
    f->steps = buffer_new(r, c->given, n * 4, 0);
    f->zeros = buffer_new(r, c->zeros, n, s->off);
    f->range = buffer_new(r, c->range, 8, 4);
    f->scale = buffer_new(r, &c->tensor_scale, 4, 4);
    f->used = buffer_new(r, NULL, n * 4, 4);
    f->used_zeros = buffer_new(r, NULL, n, s->off);
    f->mask = buffer_new(r, NULL, (size_t)step_mask_bytes(s), s->off);
    f->work = buffer_new(r, NULL, (size_t)(work > 0 ? work : 0), 4);
    f->exec.workspace = f->work.bytes ? f->work.at : NULL;
    f->exec.workspace_bytes = f->work.bytes;
    f->options = (nib_step_options){
        .size = sizeof f->options, .element = s->element, .asymmetric = s->asymmetric,
        .step_rule = s->rule, .group = s->group, .steps = s->given ? f->steps.at : NULL,
        .zeros = s->given && s->asymmetric ? f->zeros.at : NULL,
        .range = !s->given && s->group == 0 ? f->range.at : NULL,
        .tensor_scale = s->rule == NIB_STEP_E4M3_BYTE ? f->scale.at : NULL,
        .ld_mask_bytes = step_mask_ld(s), .grad_factor = s->factor,
    };
}

static void fixture_close(fixture *f)
{
    buffer_free(&f->work);
    expect_buffer(&f->steps, f->c->given, "steps", f->s);
    expect_buffer(&f->zeros, f->c->zeros, "zeros", f->s);
    buffer_free(&f->range), buffer_free(&f->scale);
}

static nib_matrix matrix_in(const fixture *f, const buffer *b, nib_dtype dtype)
{
    const step_setting *s = f->s;
    return (nib_matrix){ b->at, dtype, s->rows, s->cols, s->cols + s->ld_extra };
}

static buffer matrix_buffer(const fixture *f, const void *data, nib_dtype dtype)
{
    return buffer_new(f->r, data, (size_t)step_matrix_bytes(f->s, dtype),
                      f->s->off * width_of(dtype));
}

static void check_forward(fixture *f, int in_place)
{
    const step_setting *s = f->s;
    const int empty = s->rows == 0 || s->cols == 0;
    buffer input = matrix_buffer(f, f->c->x, s->dtype);
    buffer output = in_place ? input : matrix_buffer(f, NULL, s->out_dtype);
    const nib_matrix src = matrix_in(f, &input, s->dtype);
    const nib_matrix dst = matrix_in(f, &output, s->out_dtype);
    f->options.steps_out = f->used.at;
    f->options.zeros_out = s->asymmetric ? f->used_zeros.at : NULL;
    f->options.mask = s->mask ? f->mask.at : NULL;
    OK(nib_fake_quantize_steps(&f->exec, &src, &f->options, &dst));
    f->options.steps_out = NULL, f->options.zeros_out = NULL, f->options.mask = NULL;
    void *right = in_place ? with_rows(s, s->dtype, f->c->x, f->c->values) : NULL;
    if (!in_place) expect_buffer(&input, f->c->x, "src", s);
    expect_buffer(&output, in_place ? right : f->c->values, in_place ? "in place" : "values", s);
    free(right);
    if (s->mask) expect_buffer(&f->mask, f->c->mask, "mask", s);
    else buffer_free(&f->mask);
    if (empty) buffer_free(&f->used);
    else expect_buffer(&f->used, f->c->used, "steps_out", s);
    if (s->asymmetric && !empty) expect_buffer(&f->used_zeros, f->c->used_zeros, "zeros_out", s);
    else buffer_free(&f->used_zeros);
}

enum { STRAIGHT, BY_SOURCE, BY_MASK, LEARNED };

static void check_backward(fixture *f, int how, int in_place)
{
    static const char *const names[] = { "straight", "by source", "by mask", "learned" };
    const step_setting *s = f->s;
    const int clamp = how == LEARNED ? s->clamp : how != STRAIGHT;
    const int empty = s->rows == 0 || s->cols == 0;
    buffer input = matrix_buffer(f, f->c->x, s->dtype);
    buffer grad = matrix_buffer(f, f->c->grad, s->grad_dtype);
    buffer output = in_place ? grad : matrix_buffer(f, NULL, s->out_dtype);
    buffer mask = buffer_new(f->r, f->c->mask, (size_t)step_mask_bytes(s), s->off);
    buffer learned = buffer_new(f->r, NULL, (size_t)f->c->steps * 4, 4);
    nib_step_options o = f->options;
    o.gradient = clamp ? NIB_FAKE_CLAMP : NIB_FAKE_IDENTITY;
    o.mask = how == BY_MASK ? mask.at : NULL;
    const nib_matrix src = matrix_in(f, &input, s->dtype);
    const nib_matrix grad_out = matrix_in(f, &grad, s->grad_dtype);
    const nib_matrix grad_in = matrix_in(f, &output, s->out_dtype);
    const int reads = how == BY_SOURCE || how == LEARNED;
    OK(nib_fake_quantize_steps_backward(&f->exec, &grad_out, reads ? &src : NULL, &o, &grad_in,
                                        how == LEARNED ? learned.at : NULL));
    void *rows = gradient_of(s, f->c, clamp);
    void *right = in_place ? with_rows(s, s->grad_dtype, f->c->grad, rows) : NULL;
    expect_buffer(&input, f->c->x, "src", s);
    if (!in_place) expect_buffer(&grad, f->c->grad, "grad_out", s);
    expect_buffer(&output, in_place ? right : rows, names[how], s);
    expect_buffer(&mask, f->c->mask, "given mask", s);
    if (how == LEARNED && !empty) expect_buffer(&learned, f->c->grad_steps, "grad_steps", s);
    else buffer_free(&learned);
    free(rows), free(right);
}

/* few: the first of each instruction set. */
static void check_case(const step_setting *s, int few, int turn)
{
    const runner *list;
    const int n = runners_open(&list);
    step_case c;
    step_case_fill(s, &c);
    step_case_solve(s, &c);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        fixture f;
        if (few && i != 0 && i != 4 && i != n - 1) continue;
        fixture_open(&f, &list[i], s, &c);
        check_forward(&f, s->out_dtype == s->dtype && turn % 2);
        const int how = s->given && turn % 4 ? LEARNED : turn / 4 % 3;
        check_backward(&f, how, s->out_dtype == s->grad_dtype && turn / 2 % 2);
        fixture_close(&f);
    }
    step_case_free(&c);
}

static step_setting random_setting(void)
{
    const int64_t groups[] = { 0, 8, 16, 24, 32, 40, 64, 128, 256, 264, 1024, 2056, 1 << 30 };
    step_setting s = { .element = elements[next_random() % ELEMENTS] };
    s.asymmetric = s.element >= NIB_INT2 && next_random() % 2;
    s.given = next_random() % 2, s.mask = next_random() % 2, s.clamp = next_random() % 2;
    s.rule = (nib_step_rule)(next_random() % 5);
    s.group = groups[next_random() % 13];
    s.rows = 1 + next_random() % 5;
    s.cols = 1 + next_random() % (next_random() % 5 ? 300 : 5000);
    if (next_random() % 2) s.cols = (s.cols + 7) / 8 * 8;
    if (s.group == 0 && next_random() % 4 == 0) s.rows = 300, s.cols = 1 + next_random() % 1100;
    s.ld_extra = next_random() % 2 ? (int64_t)(next_random() % 20) : 0;
    s.dtype = s.out_dtype = s.grad_dtype = (nib_dtype)(next_random() % 3);
    if (next_random() % 3 == 0) s.out_dtype = (nib_dtype)(next_random() % 3);
    if (next_random() % 3 == 0) s.grad_dtype = (nib_dtype)(next_random() % 3);
    s.factor = next_random() % 2 ? 0.0f : next_unit();
    s.off = next_random() % 4 ? 0 : next_random() % 9;
    return s;
}

/* ---- the tests ---- */

NIB_TEST(OnDeviceSteps, ElementsGroupsRulesTypesAndRaggedShapes)
{
    random_state = 1902;
    for (int turn = 0; turn < 700 && !nib_test_failed(); turn++) {
        const step_setting s = random_setting();
        check_case(&s, 1, turn);
    }
}

NIB_TEST(OnDeviceSteps, NoRowsNoColumnsAndOneElement)
{
    random_state = 8;
    for (int turn = 0; turn < 120 && !nib_test_failed(); turn++) {
        step_setting s = random_setting();
        s.rows = turn % 3 == 0 ? 0 : 1;
        s.cols = turn % 3 == 1 ? 0 : 1;
        check_case(&s, 1, turn);
    }
}

NIB_TEST(OnDeviceSteps, ThreadsShareLongRowsAndManyShortOnes)
{
    const int64_t shapes[][3] = { { 1, 200007, 0 }, { 2, 150000, 16 }, { 1, 100008, 100008 },
                                  { 6001, 24, 0 }, { 3000, 40, 8 }, { 90, 4096, 2048 } };
    random_state = 153;
    for (int i = 0; i < 12 && !nib_test_failed(); i++) {
        step_setting s = random_setting();
        s.rows = shapes[i / 2][0], s.cols = shapes[i / 2][1], s.group = shapes[i / 2][2];
        s.given = i % 2;
        check_case(&s, 0, i % 2 ? 5 : 4);
    }
}

/* What one call makes of cols elements of one dtype, by one given step, or by any group's. */
static void run_row(const runner *r, const nib_step_options *options, nib_dtype dtype, int64_t cols,
                    const void *x, const float *steps, int64_t n_steps, void *values)
{
    const nib_exec exec = exec_of(r);
    const size_t bytes = (size_t)cols * width_of(dtype);
    buffer in = buffer_new(r, x, bytes, 0), out = buffer_new(r, NULL, bytes, 0);
    buffer given = buffer_new(r, steps, (size_t)n_steps * 4, 0);
    const nib_matrix src = { in.at, dtype, 1, cols, cols }, dst = { out.at, dtype, 1, cols, cols };
    nib_step_options o = *options;
    o.size = sizeof o;
    if (steps) o.steps = given.at;
    OK(nib_fake_quantize_steps(&exec, &src, &o, &dst));
    buffer_get(&out, values);
    buffer_free(&in), buffer_free(&out), buffer_free(&given);
}

/* All 65536 f16 and bf16, by every element and steps of several sizes. */
NIB_TEST(OnDeviceSteps, EveryHalfOfEveryElement)
{
    enum { N = 65536 };
    static uint16_t x[N], got[N];
    const float steps[] = { 1.0f, 0.0078125f, 0.11f, 3.7e-5f, 300.0f, 1e30f };
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < N; i++) x[i] = (uint16_t)i;
    for (int e = 0; e < ELEMENTS && !nib_test_failed(); e++) {
        for (int d = NIB_F16; d <= NIB_BF16; d++) {
            const float step = steps[(e * 2 + d) % 6];
            const float most = (float)step_most(elements[e]);
            for (int i = 0; i < n; i++) {
                int64_t wrong = 0;
                if (i != 0 && i != 4 && i != n - 1) continue;
                run_row(&list[i], &(nib_step_options){ .element = elements[e] }, (nib_dtype)d, N, x,
                        &step, 1, got);
                for (int j = 0; j < N; j++) {
                    const float y = nib_load_f32(d, x, j) / step;
                    const float v = elements[e] < NIB_INT2
                        ? nib_element_to_f32((int)elements[e],
                                             nib_element_from_f32((int)elements[e], y))
                        : step_nearest(elements[e], -most - 1, most, y);
                    uint16_t right;
                    nib_store_f32(d, &right, 0, v * step);
                    wrong += right != got[j];
                }
                EXPECT(wrong == 0, "%s: element %d, dtype %d, step %g: %lld are wrong",
                       list[i].name, elements[e], d, (double)step, (long long)wrong);
            }
        }
    }
}

/* Numbers that were worked out by hand. */
NIB_TEST(OnDeviceSteps, WorkedExamples)
{
    static const struct {
        const char      *what;
        nib_step_options o;
        float            step, x[8], want[8]; /* step 0: dynamic */
    } rows[] = {
        { "INT4, ties to even, clamps", { .element = NIB_INT4 }, 0.5f,
          { 0.25f, 0.75f, 1.25f, -0.25f, 9, -9, 3.5f, -4 },
          { 0, 1, 1, 0, 3.5f, -4, 3.5f, -4 } },
        { "INT8 by amax", { .element = NIB_INT8, .group = 8 }, 0,
          { 127, -127, 0.5f, 1.5f, -2.5f, 63, 64, NAN }, { 127, -127, 0, 2, -2, 63, 64, 0 } },
        { "INT4 asymmetric, 0 .. 15", { .element = NIB_INT4, .asymmetric = 1, .group = 8 }, 0,
          { 0, 15, 1, 2, 7.5f, 8.5f, INFINITY, -3e38f * 10 }, { 0, 15, 1, 2, 8, 8, 15, 0 } },
        { "E2M1 by amax", { .element = NIB_STEP_E2M1, .group = 8 }, 0,
          { 12, -1, 5, -5, 0.4f, 7, 10, 9.9f }, { 12, -1, 4, -4, 0, 8, 8, 8 } },
        { "E8M0's power of two", { .element = NIB_INT4, .step_rule = NIB_STEP_E8M0_BYTE }, 1.5f,
          { 1, 3, 5, -1, 14, 100, -100, 2 }, { 0, 4, 4, 0, 14, 14, -16, 2 } },
        { "a step that is none is 1", { .element = NIB_INT8 }, NAN,
          { 1.5f, 2.5f, 400, -400, 0, 1, 2, 3 }, { 2, 2, 127, -128, 0, 1, 2, 3 } },
        { "nothing but zeros", { .element = NIB_INT4, .asymmetric = 1, .group = 8 }, 0,
          { 0, -0.0f, 0, NAN, 0, 0, 0, 0 }, { 0 } },
        { "the least step", { .element = NIB_INT8, .group = 8 }, 0,
          { 0x1p-149f, -0x1p-149f, 0, 0, 0, 0, 0, 0x1p-149f },
          { 0x1p-149f, -0x1p-149f, 0, 0, 0, 0, 0, 0x1p-149f } },
    };
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
            float got[8];
            run_row(&list[i], &rows[k].o, NIB_F32, 8, rows[k].x,
                    rows[k].step != 0 ? &rows[k].step : NULL, rows[k].step != 0, got);
            for (int j = 0; j < 8; j++)
                EXPECT(got[j] == rows[k].want[j], "%s: %s: %g gives %g, not %g", list[i].name,
                       rows[k].what, (double)rows[k].x[j], (double)got[j],
                       (double)rows[k].want[j]);
        }
    }
}
