/* gptq_identity_test.c: what must not change, or change alike, when a layer does: its inputs' order
 * and signs, its Hessian's size, the rows that are worked on together. No reference is needed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gptq_fixture.h"

enum { ROWS = 37, K = 112, BLOCK = 16 };

/* A layer whose input i is s's input from[i], negated where sign says so. */
static gptq_source moved(const gptq_source *s, const int32_t *from, const int *sign)
{
    gptq_source t = gptq_source_of(s->dtype, s->rows, s->k, s->h);
    for (int64_t i = 0; i < s->k; i++) {
        for (int64_t j = 0; j < s->k; j++)
            t.h[i * s->k + j] = s->h[from[i] * s->k + from[j]] * (sign[i] == sign[j] ? 1 : -1);
        for (int64_t r = 0; r < s->rows; r++)
            t.wf[r * s->k + i] = s->wf[r * s->k + from[i]] * (float)(sign[i] ? -1 : 1);
    }
    gptq_source_store(&t);
    t.tokens = s->tokens;
    return t;
}

/* Blocks in another order, and the inputs of each block in another order. */
static void shuffle(int32_t *from)
{
    int32_t blocks[K / BLOCK];
    for (int32_t b = 0; b < K / BLOCK; b++) blocks[b] = b;
    for (uint32_t b = K / BLOCK - 1; b > 0; b--) {
        const uint32_t other = next_random() % (b + 1);
        const int32_t kept = blocks[b];
        blocks[b] = blocks[other], blocks[other] = kept;
    }
    for (int32_t i = 0; i < K; i++) from[i] = blocks[i / BLOCK] * BLOCK + i % BLOCK;
    for (uint32_t i = 0; i < K; i++) {
        const uint32_t other = i / BLOCK * BLOCK + next_random() % BLOCK;
        const int32_t kept = from[i];
        from[i] = from[other], from[other] = kept;
    }
}

/* Inputs that are taken by their diagonal are taken alike wherever they stand. */
NIB_TEST(OnDeviceGptqIdentity, InputsMayBePermutedWithTheirBlocks)
{
    const int same[K] = { 0 };
    int32_t from[K];
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 31;
    gptq_source s = gptq_source_make(NIB_F32, ROWS, K, 300, 0);
    for (int i = 0; i < 4; i++) {
        gptq_job job = gptq_job_of(&s, i % 2 ? NIB_NVFP4 : NIB_MXFP4_B16);
        job.order = i < 2 ? NIB_GPTQ_ACT : NIB_GPTQ_GROUP_AWARE;
        job.scales = i == 3 ? NIB_GPTQ_SCALES_FRESH : NIB_GPTQ_SCALES_FROZEN;
        shuffle(from);
        gptq_source t = moved(&s, from, same);
        gptq_job other = job;
        other.s = &t;
        gptq_result a = gptq_run(list[i % n], &job), b = gptq_run(list[i % n], &other);
        int64_t wrong = 0;
        for (int64_t r = 0; r < ROWS; r++) {
            for (int64_t j = 0; j < K; j++) {
                wrong += b.codes[r * K + j] != a.codes[r * K + from[j]];
                wrong += b.scales[r * (K / BLOCK) + j / BLOCK]
                      != a.scales[r * (K / BLOCK) + from[j] / BLOCK];
            }
        }
        EXPECT(wrong == 0, "%s: %lld codes and scales", gptq_text(list[i % n], &job),
               (long long)wrong);
        EXPECT(fabs(a.report.error - b.report.error) <= 1e-11 * a.report.plain_error,
               "%g becomes %g", a.report.error, b.report.error);
        gptq_result_free(&a), gptq_result_free(&b);
        gptq_source_free(&t);
    }
    gptq_source_free(&s);
}

/* By powers of 2 all sums are the same, in F32 too where an error's square would be 0 or Inf. */
NIB_TEST(OnDeviceGptqIdentity, ErrorsMayBeFarFromOne)
{
    static const int scaled[][2] = { { -66, 40 }, { 62, -80 } }; /* weights, inputs' products */
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 33;
    gptq_source s = gptq_source_make(NIB_F32, ROWS, K, 300, 1);
    for (int i = 0; i < 4; i++) {
        const int w = scaled[i % 2][0], h = scaled[i % 2][1];
        const runner *r = list[i % n];
        gptq_job job = gptq_job_of(&s, NIB_NVFP4);
        job.real = NIB_REAL_F32;
        job.without_guard = i >= 2;
        gptq_source t = gptq_source_of(NIB_F32, ROWS, K, s.h);
        for (int64_t e = 0; e < K * K; e++) t.h[e] = ldexp(s.h[e], h);
        for (int64_t e = 0; e < ROWS * K; e++) t.wf[e] = ldexpf(s.wf[e], w);
        gptq_source_store(&t);
        t.tokens = s.tokens;
        gptq_job other = job;
        other.s = &t;
        gptq_result a = gptq_run(r, &job), b = gptq_run(r, &other);
        EXPECT(a.status == NIB_OK && b.status == NIB_OK, "%s", nib_last_error());
        EXPECT(!memcmp(a.codes, b.codes, ROWS * K) && !memcmp(a.scales, b.scales, ROWS * K / BLOCK)
               && a.report.plain_rows == b.report.plain_rows, "%s: other bytes",
               gptq_text(r, &job));
        EXPECT(a.report.error > 0 && ldexp(b.report.error, -2 * w - h) == a.report.error
               && ldexp(b.report.plain_error, -2 * w - h) == a.report.plain_error,
               "%s: %g becomes %g", gptq_text(r, &job), a.report.error,
               ldexp(b.report.error, -2 * w - h));
        gptq_result_free(&a), gptq_result_free(&b);
        gptq_source_free(&t);
    }
    gptq_source_free(&s);
}

/* Negated inputs get negated codes: magnitudes are the same. */
NIB_TEST(OnDeviceGptqIdentity, InputsMayBeNegated)
{
    int32_t from[K];
    int sign[K];
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 32;
    gptq_source s = gptq_source_make(NIB_BF16, ROWS, K, 300, 1);
    for (int32_t i = 0; i < K; i++) from[i] = i, sign[i] = (int)(next_random() % 2);
    gptq_source t = moved(&s, from, sign);
    for (int i = 0; i < 5; i++) {
        gptq_job job = gptq_job_of(&s, i % 2 ? NIB_MXFP4 : NIB_NVFP4), other;
        job.order = (nib_gptq_order)(i % 3);
        job.scales = job.order == NIB_GPTQ_ACT ? NIB_GPTQ_SCALES_HESSIAN : (nib_gptq_scales)i;
        other = job, other.s = &t;
        gptq_result a = gptq_run(list[i % n], &job), b = gptq_run(list[i % n], &other);
        const int64_t blocks = nib_scales_per_row(job.format, K);
        int64_t wrong = memcmp(a.scales, b.scales, (size_t)(ROWS * blocks)) != 0;
        for (int64_t e = 0; e < ROWS * K; e++)
            wrong += a.codes[e] % 8 != b.codes[e] % 8
                  || (a.codes[e] % 8 && (a.codes[e] != b.codes[e]) != sign[e % K]);
        EXPECT(wrong == 0, "%s: %lld codes", gptq_text(list[i % n], &job), (long long)wrong);
        gptq_result_free(&a), gptq_result_free(&b);
    }
    gptq_source_free(&s), gptq_source_free(&t);
}

/* H times a power of two: every number is scaled, no code changes. No outside constant enters. */
NIB_TEST(OnDeviceGptqIdentity, ScaleOfHDoesNotMatter)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 33;
    gptq_source s = gptq_source_make(NIB_F32, ROWS, K, 300, 0);
    for (int i = 0; i < 8; i++) {
        gptq_source t = gptq_source_of(s.dtype, ROWS, K, s.h);
        memcpy(t.wf, s.wf, ROWS * K * 4);
        gptq_source_store(&t);
        t.tokens = s.tokens;
        const double factor = ldexp(1, i < 4 ? 20 : -30);
        for (int64_t e = 0; e < K * K; e++) t.h[e] *= factor;
        gptq_job job = gptq_job_of(&s, NIB_NVFP4), other;
        job.real = (nib_real)(i % 2);
        job.order = (nib_gptq_order)(i % 3);
        if (i % 4 == 3) job.scales = NIB_GPTQ_SCALES_HESSIAN;
        other = job, other.s = &t;
        gptq_result a = gptq_run(list[i % n], &job), b = gptq_run(list[i % n], &other);
        EXPECT(memcmp(a.codes, b.codes, ROWS * K) == 0
               && memcmp(a.scales, b.scales, ROWS * K / BLOCK) == 0, "%s: other codes",
               gptq_text(list[i % n], &job));
        EXPECT(b.report.error == a.report.error * factor
               && b.report.weight == a.report.weight * factor, "%s: %g becomes %g",
               gptq_text(list[i % n], &job), a.report.error, b.report.error);
        gptq_result_free(&a), gptq_result_free(&b);
        gptq_source_free(&t);
    }
    gptq_source_free(&s);
}

/* Rows do not know of each other: layers that share an input may be stacked or not. */
NIB_TEST(OnDeviceGptqIdentity, RowsAreIndependent)
{
    enum { MANY = 300 };
    static const int64_t parts[][2] = { { 0, 1 }, { 1, 130 }, { 130, MANY } };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 34;
    gptq_source s = gptq_source_make(NIB_BF16, MANY, K, 300, 0);
    for (int i = 0; i < n; i++) {
        gptq_job job = gptq_job_of(&s, NIB_NVFP4);
        job.order = (nib_gptq_order)(i % 3);
        gptq_result all = gptq_run(list[i], &job);
        double sum = 0;
        for (int p = 0; p < 3; p++) {
            const int64_t first = parts[p][0], rows = parts[p][1] - first;
            gptq_source t = s; /* the same scale for all: the largest amax */
            t.rows = rows;
            t.w = (uint8_t *)s.w + first * K * 2;
            gptq_job part = job;
            part.s = &t;
            gptq_result o = gptq_run(list[i], &part);
            EXPECT(memcmp(o.codes, all.codes + first * K, (size_t)(rows * K)) == 0
                   && memcmp(o.scales, all.scales + first * (K / BLOCK),
                             (size_t)(rows * K / BLOCK)) == 0, "%s: rows from %lld",
                   gptq_text(list[i], &part), (long long)first);
            sum += o.report.error;
            gptq_result_free(&o);
        }
        EXPECT(fabs(sum - all.report.error) <= 1e-12 * all.report.plain_error, "%g, not %g", sum,
               all.report.error);
        gptq_result_free(&all);
    }
    gptq_source_free(&s);
}

/* A diagonal H carries nothing: GPTQ is plain rounding then, in every order. */
NIB_TEST(OnDeviceGptqIdentity, DiagonalHIsPlainRounding)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 35;
    double *h = calloc(K * K, sizeof *h);
    for (int64_t i = 0; i < K; i++) h[i * (K + 1)] = 1 + fabs((double)next_unit());
    gptq_source s = gptq_source_of(NIB_F32, ROWS, K, h);
    for (int i = 0; i < 6; i++) {
        gptq_job job = gptq_job_of(&s, i % 2 ? NIB_NVFP4 : NIB_FP8_E4M3_B16), plain;
        job.order = (nib_gptq_order)(i % 3);
        job.without_guard = i < 3;
        job.real = (nib_real)(i % 2);
        plain = job, plain.without_guard = 0;
        gptq_result o = gptq_run(list[i % n], &job), p;
        s.tokens = 0; /* plain rounding */
        p = gptq_run(list[i % n], &plain);
        s.tokens = 4096;
        EXPECT(p.report.outcome == NIB_GPTQ_NO_TOKENS && p.report.plain_rows == ROWS
               && memcmp(o.codes, p.codes, ROWS * K) == 0
               && memcmp(o.scales, p.scales, ROWS * K / BLOCK) == 0, "%s: codes differ",
               gptq_text(list[i % n], &job));
        gptq_result_free(&o), gptq_result_free(&p);
    }
    free(h);
    gptq_source_free(&s);
}
