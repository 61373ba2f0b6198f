/* gemm_value_test.c: products of hand-made inputs: sums in which nothing rounds, scales of all
 * bytes, NaN and Inf and where they go, the ends of f16. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gemm_fixture.h"

/* Calls body once for each runner and tactic that takes c's options, c.o.tactic being set. */
#define FOR_EACH_TACTIC(r, c, body)                                                       \
    do {                                                                                  \
        const runner *few_[GEMM_RUNNERS];                                                         \
        const int n_ = gemm_runners(few_);                                                \
        for (int i_ = 0; i_ < n_ && !nib_test_failed(); i_++) {                           \
            const runner *r = few_[i_];                                                   \
            int32_t t_ = 0;                                                               \
            (c)->o.tactic = NULL;                                                         \
            for (const char *name_; (name_ = gemm_tactic_name(r, &(c)->o, t_)); t_++) {        \
                (c)->o.tactic = name_;                                                    \
                body;                                                                     \
                (c)->o.tactic = NULL;                                                     \
            }                                                                             \
        }                                                                                 \
    } while (0)

static int has_products(void)
{
    const runner *list[GEMM_RUNNERS];
    return gemm_runners(list) > 0;
}

/* ---- nothing rounds ---- */

/* Weights 0, 1/2, 1 and 2 of either sign, scale 1. */
static gemm_source plain_weights(nib_format format, int64_t n, int64_t k)
{
    static const uint8_t codes[] = { 0, 1, 2, 4, 9, 10, 12 };
    gemm_source s = gemm_source_make(format, n, k, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                     GEMM_TAME);
    const int one = nib_format_scale(format) == NIB_SCALE_E8M0 ? 127 : 0x38;
    for (int64_t i = 0; i < n * k; i++)
        gemm_source_put(&s, i / k, i % k, codes[(next_random() >> 3) % sizeof codes]);
    memset(s.p.scales, one, (size_t)s.scales_bytes);
    s.tensor_scale = 0.25f;
    gemm_source_decode(&s);
    return s;
}

/* D, bit for bit: the exact value, rounded once. */
static void expect_exact(const runner *r, const gemm_case *c, const gemm_source *s,
                         const gemm_inputs *x)
{
    size_t bytes;
    gemm_pack p = gemm_pack_of(r, s, c->o.gated);
    uint8_t *d = gemm_run(r, c, s, &p, x, &bytes);
    for (int64_t i = 0; i < c->m * x->columns && d; i++) {
        const double exact = gemm_exact(c, s, x, i / x->columns, i % x->columns).value;
        uint8_t right[4];
        gemm_put_number(c->o.d_dtype, right, 0, exact);
        const double got = gemm_number(c->o.d_dtype, d, i / x->columns * x->d_ld + i % x->columns);
        if (got == gemm_number(c->o.d_dtype, right, 0)) continue;
        EXPECT(0, "%s: D[%lld,%lld] is %.9g, not %.9g", gemm_text(r, c),
               (long long)(i / x->columns), (long long)(i % x->columns), got, exact);
        break;
    }
    free(d);
    gemm_pack_free(&p);
}

static gemm_case exact_case(int turn, nib_dtype a, nib_gemm_accumulate accumulate,
                            nib_gemm_activations activations)
{
    static const int64_t m[] = { 1, 5, 8, 13, 16, 20, 33, 66 }, n[] = { 8, 48, 64, 80, 144 };
    static const int64_t k[] = { 8, 32, 64, 88, 256, 200 };
    gemm_case c = { .m = m[turn % 8], .label = "nothing rounds" };
    c.o = gemm_options(gemm_formats[turn % 4], n[turn % 5], k[turn % 6], c.m, a,
                       (nib_dtype)(turn % 3));
    c.o.accumulate = accumulate;
    c.o.activations = activations;
    c.o.act = turn % 2 ? NIB_GEMM_ACT_RELU : NIB_GEMM_ACT_NONE;
    c.o.gated = c.o.n % 16 == 0 && turn % 4 == 1;
    if (turn % 4 < 2 && accumulate) c.o.f16_chunk = turn % 2 ? 128 : 256;
    c.alpha = turn / 2 % 2, c.bias = turn / 3 % 2, c.residual = turn / 4 % 2;
    c.tame = 1;
    return c;
}

NIB_TEST(OnDeviceGemmValue, WhereNothingRoundsEveryKernelIsExact)
{
    static const struct { nib_dtype a; int f16_sums, int8; } kinds[] = {
        { NIB_F16, 0, 0 }, { NIB_BF16, 0, 0 }, { NIB_F16, 1, 0 }, { NIB_F32, 0, 0 },
        { NIB_F32, 0, 1 }, { NIB_BF16, 0, 1 },
    };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 610;
    for (int kind = 0; kind < 6; kind++) {
        for (int turn = 0; turn < 24 && !nib_test_failed(); turn++) {
            gemm_case c = exact_case(turn, kinds[kind].a, (nib_gemm_accumulate)kinds[kind].f16_sums,
                                     (nib_gemm_activations)kinds[kind].int8);
            gemm_source s = plain_weights(c.o.format, c.o.n, c.o.k);
            gemm_inputs x = gemm_inputs_make(&c);
            x.alpha = -0.5f;
            for (int64_t i = 0; i < c.m * x.a_ld; i++) { /* INT8's steps are 1: amax is 127 or 0 */
                const double a = (double)(next_random() >> 4 & 3) - 1;
                gemm_put_number(c.o.a_dtype, x.a, i, kinds[kind].int8 ? 127 * (a > 1 ? 0 : a)
                                                     : kinds[kind].f16_sums && a > 1 ? 0 : a);
            }
            FOR_EACH_TACTIC(r, &c, expect_exact(r, &c, &s, &x));
            gemm_inputs_free(&x);
            gemm_source_free(&s);
        }
    }
}

/* ---- scales ---- */

NIB_TEST(OnDeviceGemmValue, EveryByteAsE4M3Scale)
{
    enum { N = 256, K = 40 };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 611;
    for (int turn = 0; turn < 6 && !nib_test_failed(); turn++) {
        const nib_format format = turn % 2 ? NIB_NVFP4_B32 : NIB_NVFP4;
        gemm_case c = { .m = turn < 4 ? 3 : 21, .label = "all scale bytes" };
        c.o = gemm_options(format, N, K, c.m, turn / 2 == 1 ? NIB_BF16 : NIB_F16, NIB_F32);
        gemm_source s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        for (int64_t n = 0; n < N; n++) { /* negative ones, both NaN, 0 with codes that are not */
            *gemm_source_scale(&s, n, 0) = (uint8_t)n;
            *gemm_source_scale(&s, n, 1) = (uint8_t)(n % 16 ? 0x38 : 255 - n);
        }
        gemm_source_decode(&s);
        FOR_EACH_TACTIC(r, &c, gemm_check(r, &c, &s));
        gemm_source_free(&s);
    }
}

/* E8M0: rows whose scales are anywhere from 2^-127 to 2^127, and blocks far below their rows. */
NIB_TEST(OnDeviceGemmValue, E8M0ScalesFarApart)
{
    static const int tops[] = { 0, 1, 20, 64, 127, 180, 225, 220 }; /* sums below 2^128 */
    enum { N = 128, K = 200 };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 612;
    for (int turn = 0; turn < 12 && !nib_test_failed(); turn++) {
        const nib_format format = turn % 2 ? NIB_MXFP4_B16 : NIB_MXFP4;
        const int spread = turn / 2 % 3 == 0 ? 8 : turn / 2 % 3 == 1 ? 30 : 100;
        gemm_case c = { .m = turn % 3 ? 5 : 18, .alpha = turn % 2, .label = "scales far apart" };
        c.o = gemm_options(format, N, K, c.m, turn / 6 ? NIB_F16 : NIB_BF16, NIB_F32);
        gemm_source s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        for (int64_t n = 0; n < N; n++) {
            const int top = tops[n % 8];
            for (int64_t b = 0; b < nib_scales_per_row(format, K); b++) {
                const int e = top - (int)(next_random() >> 6) % spread;
                *gemm_source_scale(&s, n, b) = (uint8_t)(e < 0 ? 0 : e);
            }
        }
        *gemm_source_scale(&s, 7, 0) = 254; /* a single 2^127 / 2, times 1 */
        for (int64_t k = 0; k < 32; k++) gemm_source_put(&s, 7, k, k ? 0 : 1);
        for (int64_t k = 32; k < 64; k++) gemm_source_put(&s, 9, k, (uint8_t)(k % 2 * 8));
        *gemm_source_scale(&s, 9, 32 / nib_format_block(format)) = 254; /* of zeros: no scale */
        *gemm_source_scale(&s, 9, 48 / nib_format_block(format)) = 254;
        gemm_source_decode(&s);
        gemm_inputs x = gemm_inputs_make(&c);
        for (int64_t m = 0; m < c.m; m++) gemm_put_number(c.o.a_dtype, x.a, m * x.a_ld, 1);
        FOR_EACH_TACTIC(r, &c, gemm_check_with(r, &c, &s, &x));
        gemm_inputs_free(&x);
        gemm_source_free(&s);
    }
}

/* One weight alone counts, in a block far below its row's largest, which meets zeros. */
NIB_TEST(OnDeviceGemmValue, E8M0WeightsFarBelowTheirRow)
{
    static const uint8_t codes[8] = { 7, 1, 6, 9, 2, 13, 15, 3 };
    enum { N = 64, K = 64 };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 619;
    for (int turn = 0; turn < 8 * 6 && !nib_test_failed(); turn++) {
        const nib_format format = turn % 2 ? NIB_MXFP4_B16 : NIB_MXFP4;
        gemm_case c = { .m = turn % 3 ? 2 : 18, .label = "far below" };
        c.o = gemm_options(format, N, K, c.m, turn / 2 % 3 == 1 ? NIB_BF16 : NIB_F16, NIB_F32);
        if (turn / 2 % 3 == 2) c.o.accumulate = NIB_GEMM_ACCUMULATE_F16;
        gemm_source s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        const int64_t last = nib_scales_per_row(format, K) - 1;
        for (int64_t n = 0; n < N; n++) { /* below by 9 to 72 */
            for (int64_t b = 0; b <= last; b++) *gemm_source_scale(&s, n, b) = 130;
            *gemm_source_scale(&s, n, last) = (uint8_t)(130 - 9 - n);
            gemm_source_put(&s, n, K - 1, codes[turn / 6]);
        }
        gemm_source_decode(&s);
        gemm_inputs x = gemm_inputs_make(&c);
        for (int64_t i = 0; i < c.m * x.a_ld; i++)
            gemm_put_number(c.o.a_dtype, x.a, i, i % x.a_ld == K - 1 ? 1024 : 0);
        FOR_EACH_TACTIC(r, &c, gemm_check_with(r, &c, &s, &x));
        gemm_inputs_free(&x);
        gemm_source_free(&s);
    }
}

/* E8M0: scales that rise, fall and jump along rows so long that each warp meets several tiles. */
NIB_TEST(OnDeviceGemmValue, E8M0ScalesThatChangeAlongTheRow)
{
    enum { N = 24, K = 64 * 34 + 40 };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 640;
    for (int turn = 0; turn < 6 && !nib_test_failed(); turn++) {
        const nib_format format = turn % 2 ? NIB_MXFP4_B16 : NIB_MXFP4;
        gemm_case c = { .m = turn % 2 ? 3 : 18, .label = "along the row" };
        c.o = gemm_options(format, N, K, c.m, turn / 2 == 1 ? NIB_BF16 : NIB_F16, NIB_F32);
        if (turn / 2 == 2) c.o.accumulate = NIB_GEMM_ACCUMULATE_F16;
        gemm_source s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        for (int64_t i = 0; i < N * nib_scales_per_row(format, K); i++) {
            const int64_t n = i / nib_scales_per_row(format, K);
            const int tile = (int)(i % nib_scales_per_row(format, K) * nib_format_block(format)
                                   / 64);
            const int low = (int)(next_random() >> 6) % 20;
            const int e[6] = { tile, -tile, tile / 3 * 7, tile == 20 ? 60 : 0, -low,
                               tile % 2 ? 0 : tile - low };
            *gemm_source_scale(&s, n, i % nib_scales_per_row(format, K)) =
                (uint8_t)(100 + e[n % 6]);
        }
        gemm_source_decode(&s);
        FOR_EACH_TACTIC(r, &c, gemm_check(r, &c, &s));
        gemm_source_free(&s);
    }
}

/* Activations near the end of bf16's range, and E8M0 scales that bring their products back. */
NIB_TEST(OnDeviceGemmValue, SmallActivationsOfLargeE8M0Scales)
{
    enum { N = 24, K = 200 };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 641;
    for (int turn = 0; turn < 4 && !nib_test_failed(); turn++) {
        const nib_format format = turn % 2 ? NIB_MXFP4_B16 : NIB_MXFP4;
        gemm_case c = { .m = turn / 2 ? 3 : 18, .tame = 1, .shrink = 0x1p-100, .label = "small" };
        c.o = gemm_options(format, N, K, c.m, NIB_BF16, NIB_F32);
        gemm_source s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        for (int64_t i = 0; i < N * nib_scales_per_row(format, K); i++)
            *gemm_source_scale(&s, i / nib_scales_per_row(format, K),
                               i % nib_scales_per_row(format, K)) = (uint8_t)(126 + i % 70);
        gemm_source_decode(&s);
        FOR_EACH_TACTIC(r, &c, gemm_check(r, &c, &s));
        gemm_source_free(&s);
    }
}

NIB_TEST(OnDeviceGemmValue, ANaNScaleSpoilsItsColumn)
{
    enum { N = 72, K = 136 };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 613;
    for (int turn = 0; turn < 8 && !nib_test_failed(); turn++) {
        const nib_format format = gemm_formats[turn % 4];
        gemm_case c = { .m = turn / 4 ? 4 : 19, .label = "NaN scales" };
        c.o = gemm_options(format, N, K, c.m, turn / 4 ? NIB_BF16 : NIB_F16, NIB_F32);
        gemm_source s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        const int e8m0 = nib_format_scale(format) == NIB_SCALE_E8M0;
        *gemm_source_scale(&s, 3, 0) = e8m0 ? 255 : 0x7f;
        *gemm_source_scale(&s, 64, 2) = 255;
        *gemm_source_scale(&s, 71, nib_scales_per_row(format, K) - 1) = 255;
        gemm_source_decode(&s);
        FOR_EACH_TACTIC(r, &c, gemm_check(r, &c, &s));
        gemm_source_free(&s);
    }
}

NIB_TEST(OnDeviceGemmValue, ATensorScaleThatIsNoneCountsAsOne)
{
    static const float scales[] = { 0.0f, -2.0f, NAN, INFINITY, -INFINITY, 0x1p-130f, 0x1p100f };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 614;
    for (int i = 0; i < 7 && !nib_test_failed(); i++) {
        gemm_case c = { .m = 3, .alpha = 1, .label = "tensor scale" };
        c.o = gemm_options(NIB_NVFP4, 16, 40, c.m, NIB_F16, NIB_F32);
        gemm_source s = gemm_source_make(NIB_NVFP4, 16, 40, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        s.tensor_scale = scales[i];
        FOR_EACH_TACTIC(r, &c, gemm_check(r, &c, &s));
        gemm_source_free(&s);
    }
}

/* ---- activations that are no numbers ---- */

static void expect_spoilt_rows(const runner *r, const gemm_case *c, const gemm_source *s,
                               const gemm_inputs *clean)
{
    static const double bad[3] = { NAN, INFINITY, -INFINITY };
    const size_t width = c->o.a_dtype == NIB_F32 ? 4 : 2, d_width = c->o.d_dtype == NIB_F32 ? 4 : 2;
    size_t bytes;
    gemm_inputs x = *clean;
    x.a = malloc((size_t)(c->m * x.a_ld) * width);
    memcpy(x.a, clean->a, (size_t)(c->m * x.a_ld) * width);
    for (int64_t m = 1; m < c->m; m += 3) /* anywhere in the row */
        gemm_put_number(c->o.a_dtype, x.a, m * x.a_ld + (m * 37 + 5) % c->o.k, bad[m / 3 % 3]);
    gemm_pack p = gemm_pack_of(r, s, c->o.gated);
    uint8_t *right = gemm_run(r, c, s, &p, clean, &bytes), *d = gemm_run(r, c, s, &p, &x, &bytes);
    for (int64_t m = 0; m < c->m && d && right; m++) {
        const uint8_t *row = d + (size_t)(m * x.d_ld) * d_width;
        int64_t finite = 0;
        for (int64_t n = 0; n < x.columns; n++)
            finite += isfinite(gemm_number(c->o.d_dtype, d, m * x.d_ld + n)) != 0;
        if (m % 3 == 1)
            EXPECT(finite == 0, "%s: %lld numbers in spoilt row %lld", gemm_text(r, c),
                   (long long)finite, (long long)m);
        else
            EXPECT(!memcmp(row, right + (row - d), (size_t)x.columns * d_width),
                   "%s: row %lld has changed", gemm_text(r, c), (long long)m);
    }
    free(d), free(right), free(x.a);
    gemm_pack_free(&p);
}

NIB_TEST(OnDeviceGemmValue, NaNAndInfStayInTheirRow)
{
    static const struct { nib_dtype a; int f16_sums, int8; } kinds[] = {
        { NIB_F16, 0, 0 }, { NIB_BF16, 0, 0 }, { NIB_F16, 1, 0 }, { NIB_F32, 0, 0 },
        { NIB_F32, 0, 1 }, { NIB_F16, 0, 1 },
    };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 615;
    for (int turn = 0; turn < 24 && !nib_test_failed(); turn++) {
        gemm_case c = { .m = turn % 3 == 0 ? 2 : turn % 3 == 1 ? 14 : 40, .label = "no numbers" };
        c.o = gemm_options(gemm_formats[turn % 4], 72, 88, c.m, kinds[turn / 4].a,
                           (nib_dtype)(turn % 3));
        c.o.accumulate = (nib_gemm_accumulate)kinds[turn / 4].f16_sums;
        c.o.activations = (nib_gemm_activations)kinds[turn / 4].int8;
        gemm_source s = gemm_source_make(c.o.format, c.o.n, c.o.k, NIB_CODES_PAIRS,
                                         NIB_SCALES_LINEAR, 0, GEMM_TAME);
        gemm_inputs x = gemm_inputs_make(&c);
        FOR_EACH_TACTIC(r, &c, expect_spoilt_rows(r, &c, &s, &x));
        gemm_inputs_free(&x);
        gemm_source_free(&s);
    }
}

/* ---- the ends of f16 ---- */

/* 65504 + small: D is the nearest f16, past 65520 Inf. */
NIB_TEST(OnDeviceGemmValue, OverflowOfDIsInf)
{
    static const double small[] = { 0, 15, 16, 240, -15 };
    REQUIRE(has_products(), "this backend has no products");
    random_state = 616;
    for (int turn = 0; turn < 10; turn++) {
        gemm_case c = { .m = 5, .label = "overflow of D" };
        c.o = gemm_options(gemm_formats[turn % 4], 16, 24, c.m, turn % 2 ? NIB_BF16 : NIB_F16,
                           NIB_F16);
        gemm_source s = plain_weights(c.o.format, 16, 24);
        s.tensor_scale = 1.0f;
        for (int64_t i = 0; i < 16 * 24; i++) /* 1 or -1 */
            gemm_source_put(&s, i / 24, i % 24, i % 24 > 2 ? 0 : i / 24 % 2 ? 10 : 2);
        gemm_source_decode(&s);
        gemm_inputs x = gemm_inputs_make(&c);
        for (int64_t m = 0; m < 5; m++) {
            gemm_put_number(c.o.a_dtype, x.a, m * x.a_ld, 65280);
            gemm_put_number(c.o.a_dtype, x.a, m * x.a_ld + 1, 224);
            gemm_put_number(c.o.a_dtype, x.a, m * x.a_ld + 2, small[m]);
        }
        FOR_EACH_TACTIC(r, &c, expect_exact(r, &c, &s, &x));
        gemm_inputs_free(&x);
        gemm_source_free(&s);
    }
}

/* F16 sums of one sign and the largest weights: finite and right up to the header's limit of
 * C * max |A|; beyond, an infinite sum shows. */
NIB_TEST(OnDeviceGemmValue, F16SumsOverflowInTheOpen)
{
    static const int chunks[] = { 64, 128, 256 };
    const runner *list[GEMM_RUNNERS];
    if (gemm_runners(list) == 0 || !runner_is_cuda(list[0])) SKIP("F16 sums are a GPU's");
    random_state = 617;
    for (int turn = 0; turn < 12 && !nib_test_failed(); turn++) {
        const nib_format format = gemm_formats[turn % 4];
        const int e8m0 = nib_format_scale(format) == NIB_SCALE_E8M0;
        const int chunk = e8m0 ? 64 : chunks[turn / 4];
        gemm_case c = { .m = 9, .label = "overflow of a sum" };
        c.o = gemm_options(format, 72, 512, c.m, NIB_F16, NIB_F32);
        c.o.accumulate = NIB_GEMM_ACCUMULATE_F16;
        c.o.f16_chunk = chunk;
        gemm_source s = gemm_source_make(format, 72, 512, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 0,
                                         GEMM_TAME);
        memset(s.p.scales, e8m0 ? 140 : 0x7e, (size_t)s.scales_bytes);
        for (int64_t i = 0; i < 72 * 512; i++) gemm_source_put(&s, i / 512, i % 512, 7);
        gemm_source_decode(&s);
        gemm_inputs x = gemm_inputs_make(&c);
        const double limit = (e8m0 ? 698000.0 : 398000.0) / chunk;
        for (int64_t i = 0; i < c.m * x.a_ld; i++) { /* rows 3, 4 and 8 are beyond */
            const int64_t m = i / x.a_ld;
            gemm_put_number(NIB_F16, x.a, i, m == 3 || m == 8 ? 4 * limit
                                             : m == 4 ? -4 * limit : limit);
        }
        FOR_EACH_TACTIC(r, &c, {
            size_t bytes;
            gemm_pack p = gemm_pack_of(r, &s, 0);
            uint8_t *d = gemm_run(r, &c, &s, &p, &x, &bytes);
            for (int64_t i = 0; i < c.m * 72 && d; i++) {
                const gemm_answer right = gemm_exact(&c, &s, &x, i / 72, i % 72);
                const double got = gemm_number(NIB_F32, d, i);
                const int beyond = i / 72 == 3 || i / 72 == 4 || i / 72 == 8;
                const int is_right = fabs(got - right.value) <= right.bound;
                EXPECT(is_right || (beyond && !isfinite(got)), "%s: D[%lld,%lld] is %g, not %g",
                       gemm_text(r, &c), (long long)(i / 72), (long long)(i % 72), got,
                       right.value);
                if (nib_test_failed()) break;
            }
            free(d);
            gemm_pack_free(&p);
        });
        gemm_inputs_free(&x);
        gemm_source_free(&s);
    }
}
