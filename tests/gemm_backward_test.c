/* gemm_backward_test.c: dX = dY * W by the pack of the forward product, against f64. */
#include <math.h>
#include <stdlib.h>

#include "tests/gemm_fixture.h"

static size_t width_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* The largest E8M0 scale byte in column k's 64, but those of zeros. */
static int columns_top(gemm_source *s, int64_t k)
{
    const int64_t block = nib_format_block(s->p.format), first = k / 64 * 64, cols = s->p.cols;
    int top = 0;
    for (int64_t n = 0; n < s->p.rows; n++) {
        for (int64_t i = first; i < first + 64 && i < cols; i++) {
            const int e = *gemm_source_scale(s, n, i / block);
            if (e > top && s->w[n * cols + i] != 0) top = e;
        }
    }
    return top;
}

/* dX[m,k] and the header's bound. */
static gemm_answer gradient(const gemm_case *c, gemm_source *s, const uint8_t *dy, int64_t ld,
                            int64_t m, int64_t k, int top)
{
    const nib_gemm_options *o = &c->o;
    const int e8m0 = nib_format_scale(o->format) == NIB_SCALE_E8M0;
    const double factor = gemm_tensor_scale(s) * (c->alpha ? 0.75 : 1);
    const double least = o->a_dtype == NIB_F16 ? 0x1p-35 : 0x1p-60;
    double sum = 0, magnitude = 0, scales = 0;
    for (int64_t n = 0; n < o->n; n++) {
        const double y = gemm_number(o->a_dtype, dy, m * ld + n), w = s->w[n * o->k + k];
        sum += y * w;
        magnitude += fabs(y * w);
        if (e8m0) scales += fabs(y) * least * ldexp(1, top - 127);
    }
    const double v = sum * factor, unit = o->d_dtype == NIB_F32 ? 0x1p-24
                                        : o->d_dtype == NIB_F16 ? 0x1p-11 : 0x1p-8;
    double bound = fabs(factor) * (((double)o->n + 64) * 0x1p-23 * magnitude + scales)
                 + 0x1p-22 * fabs(v);
    bound += unit * (fabs(v) + bound) + (o->d_dtype == NIB_F16 ? 0x1p-25 : 0x1p-134);
    return (gemm_answer){ v, bound };
}

/* diagonal: dY is 1024 on its diagonal and else 0, so that dX are single weights. */
static void check(const runner *r, const gemm_case *c, gemm_source *s, int diagonal)
{
    const nib_gemm_options *o = &c->o;
    const int64_t ld = o->n + 8 * c->gap, d_ld = o->k + 8 * c->gap;
    const float alpha = 0.75f;
    nib_exec exec = exec_of(r);
    nib_gemm_plan plan = { .size = sizeof plan };
    OK(nib_gemm_plan_make(r->device, o, &plan));
    const size_t a_bytes = (size_t)(c->m * ld) * width_of(o->a_dtype);
    const size_t d_bytes = (size_t)(c->m * d_ld) * width_of(o->d_dtype);
    uint8_t *dy = malloc(a_bytes + 4);
    for (int64_t i = 0; i < c->m * ld; i++)
        gemm_put_number(o->a_dtype, dy, i, i % ld >= o->n ? NAN
                        : !diagonal ? (double)next_unit() : i % ld == i / ld ? 1024 : 0);
    int *top = malloc((size_t)o->k * sizeof *top + 1);
    for (int64_t k = 0; k < o->k; k++) top[k] = columns_top(s, k);
    gemm_pack p = gemm_pack_of(r, s, o->gated);
    buffer a = buffer_new(r, dy, a_bytes, 16), d = buffer_new(r, NULL, d_bytes, 32);
    buffer alphas = buffer_new(r, &alpha, 4, 4);
    buffer workspace = buffer_new(r, NULL, nib_gemm_backward_workspace_bytes(&plan, c->m), 0);
    const nib_matrix am = { a.at, o->a_dtype, c->m, o->n, ld };
    const nib_matrix dm = { d.at, o->d_dtype, c->m, o->k, d_ld };
    const nib_gemm_args args = { .size = sizeof args, .a = &am, .w = &p.w, .d = &dm,
                                 .alpha = c->alpha ? alphas.at : NULL };
    exec.workspace = workspace.at;
    exec.workspace_bytes = workspace.bytes;
    OK(nib_gemm_backward(&exec, &plan, &args));
    runner_wait(r);
    buffer_free(&a), buffer_free(&alphas), buffer_free(&workspace);
    uint8_t *got = buffer_take(&d);
    for (int64_t i = 0; i < c->m * d_ld && !nib_test_failed(); i++) {
        if (i % d_ld >= o->k) {
            EXPECT(got[(size_t)i * width_of(o->d_dtype)] == POISON, "%s: a gap of row %lld",
                   gemm_text(r, c), (long long)(i / d_ld));
            continue;
        }
        const gemm_answer right = gradient(c, s, dy, ld, i / d_ld, i % d_ld,
                                           top[i % d_ld]);
        const double x = gemm_number(o->d_dtype, got, i);
        EXPECT(gemm_is_within(o->d_dtype, x, right), "%s: dX[%lld,%lld] is %g, not %g +- %g",
               gemm_text(r, c), (long long)(i / d_ld), (long long)(i % d_ld), x, right.value,
               right.bound);
    }
    free(got), free(dy), free(top);
    gemm_pack_free(&p);
}

NIB_TEST(OnDeviceGemmBackward, KeepsTheBound)
{
    static const int64_t m[] = { 1, 9, 33, 5, 0, 64 }, n[] = { 8, 64, 80, 144, 200, 272 };
    static const int64_t k[] = { 64, 8, 72, 136, 264 };
    const runner *list[GEMM_RUNNERS];
    const int count = gemm_runners(list);
    REQUIRE(count > 0, "this backend has no products");
    random_state = 640;
    for (int i = 0; i < count; i++) {
        const runner *r = list[i];
        nib_gemm_plan plan = { .size = sizeof plan };
        nib_gemm_options o = gemm_options(NIB_NVFP4, 64, 64, 8, NIB_F16, NIB_F16);
        OK(nib_gemm_plan_make(r->device, &o, &plan));
        if (runner_is_cuda(r) && nib_gemm_backward_workspace_bytes(&plan, 8) == SIZE_MAX)
            SKIP("gradients are cublasLt's, which is not here");
        for (int turn = 0; turn < 48 && !nib_test_failed(); turn++) {
            gemm_case c = { .m = m[turn % 6], .gap = turn % 3, .alpha = turn % 2,
                            .label = "backward" };
            c.o = gemm_options(gemm_formats[turn % 4], n[turn / 2 % 6], k[turn % 5], c.m + 1,
                               runner_is_cuda(r) ? (nib_dtype)(1 + turn % 2)
                                                 : (nib_dtype)(turn % 3),
                               (nib_dtype)(turn / 3 % 3));
            c.o.gated = c.o.n % 16 == 0 && turn / 4 % 2;
            gemm_source s = gemm_source_make(c.o.format, c.o.n, c.o.k, NIB_CODES_PAIRS,
                                             NIB_SCALES_LINEAR, 0,
                                             turn % 2 ? GEMM_TAME : GEMM_WIDE);
            check(r, &c, &s, 0);
            gemm_source_free(&s);
        }
    }
}

/* Rows whose scales are far below another's. */
NIB_TEST(OnDeviceGemmBackward, E8M0RowsFarApart)
{
    enum { N = 64, K = 40 };
    const runner *list[GEMM_RUNNERS];
    const int count = gemm_runners(list);
    random_state = 641;
    for (int i = 0; i < count * 4 && !nib_test_failed(); i++) {
        gemm_case c = { .m = N, .label = "rows far apart" };
        nib_gemm_plan plan = { .size = sizeof plan };
        c.o = gemm_options(i % 2 ? NIB_MXFP4_B16 : NIB_MXFP4, N, K, N,
                           i % 4 < 2 ? NIB_F16 : NIB_BF16, NIB_F32);
        OK(nib_gemm_plan_make(list[i / 4]->device, &c.o, &plan));
        if (nib_gemm_backward_workspace_bytes(&plan, N) == SIZE_MAX)
            SKIP("gradients are cublasLt's, which is not here");
        gemm_source s = gemm_source_make(c.o.format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        for (int64_t n = 0; n < N; n++)
            for (int64_t b = 0; b < nib_scales_per_row(c.o.format, K); b++)
                *gemm_source_scale(&s, n, b) = (uint8_t)(140 - n - (n ? 9 : 0));
        gemm_source_decode(&s);
        check(list[i / 4], &c, &s, 1);
        gemm_source_free(&s);
    }
}

/* No weights at all: a sum of nothing. */
NIB_TEST(OnDeviceGemmBackward, OfNoRowsIsZero)
{
    const runner *list[GEMM_RUNNERS];
    const int count = gemm_runners(list);
    for (int i = 0; i < count; i++) {
        gemm_case c = { .m = 3, .label = "no rows" };
        nib_gemm_plan plan = { .size = sizeof plan };
        c.o = gemm_options(NIB_MXFP4, 0, 72, 3, NIB_F16, NIB_F16);
        OK(nib_gemm_plan_make(list[i]->device, &c.o, &plan));
        if (nib_gemm_backward_workspace_bytes(&plan, 3) == SIZE_MAX)
            SKIP("gradients are cublasLt's, which is not here");
        gemm_source s = gemm_source_make(NIB_MXFP4, 0, 72, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        check(list[i], &c, &s, 0);
        gemm_source_free(&s);
    }
}

NIB_TEST(OnDeviceGemmBackward, WorkspaceGrows)
{
    const runner *list[GEMM_RUNNERS];
    REQUIRE(gemm_runners(list) > 0, "this backend has no products");
    nib_gemm_plan plan = { .size = sizeof plan };
    nib_gemm_options o = gemm_options(NIB_MXFP4, 4096, 1024, 3000, NIB_BF16, NIB_BF16);
    OK(nib_gemm_plan_make(list[0]->device, &o, &plan));
    REQUIRE(list[0]->device->ops->gemm_backward_need, "no gradients");
    size_t before = 0;
    for (int64_t m = 0; m <= 3000; m += 1 + m / 9) {
        const size_t bytes = nib_gemm_backward_workspace_bytes(&plan, m);
        EXPECT(bytes >= before && bytes != SIZE_MAX, "M = %lld: %zu after %zu", (long long)m, bytes,
               before);
        before = bytes;
    }
    EXPECT(nib_gemm_backward_workspace_bytes(&plan, 3001) == SIZE_MAX
           && nib_gemm_backward_workspace_bytes(&plan, -1) == SIZE_MAX
           && nib_gemm_backward_workspace_bytes(NULL, 1) == SIZE_MAX, "a bad plan or m");
}
