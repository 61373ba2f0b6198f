/* search_test.c: kernels/common/search.h: the bounded search against the full sweep, whose loss
 * the headers state; and four-over-six against scripts/oracles/gen_search.py. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "kernels/common/search.h"
#include "tests/shim.h"

enum { BLOCKS = 4096, BLOCK = 16 };
enum { GAUSS, LAPLACE, UNIFORM, STUDENT, DISTRIBUTIONS };
static const char *const names[] = { "Gaussian", "Laplacian", "uniform", "Student-t(4)" };

/* Uniform in (0, 1). */
static double uniform(uint64_t seed, uint64_t i)
{
    return (nib_random_word(seed, 0, i) + 0.5) * 0x1p-32;
}

static double gauss(uint64_t seed, uint64_t i) /* Box and Muller */
{
    return sqrt(-2.0 * log(uniform(seed, 2 * i))) * cos(2.0 * M_PI * uniform(seed, 2 * i + 1));
}

static double draw(int distribution, uint64_t i)
{
    const double u = uniform(2, i);
    switch (distribution) {
    case GAUSS:   return gauss(1, i);
    case LAPLACE: return u < 0.5 ? log(2.0 * u) : -log(2.0 - 2.0 * u);
    case UNIFORM: return 2.0 * u - 1.0;
    default: { /* t with 4 degrees of freedom: a normal over the root of chi square / 4 */
        const double a = uniform(3, 2 * i), b = uniform(3, 2 * i + 1);
        return gauss(4, i) / sqrt(-2.0 * log(a * b) / 4.0);
    }
    }
}

static float tensor_of(int distribution, float *x)
{
    float amax = 0.0f;
    for (int i = 0; i < BLOCKS * BLOCK; i++) {
        x[i] = (float)draw(distribution, (uint64_t)i);
        amax = nib_abs(x[i]) > amax ? nib_abs(x[i]) : amax;
    }
    return amax;
}

static float block_amax(const float *x, int n)
{
    float a = 0.0f;
    for (int i = 0; i < n; i++) a = nib_abs(x[i]) > a ? nib_abs(x[i]) : a;
    return a;
}

static nib_tensor_math math_of(int element, int e4m3, int mx, float amax)
{
    const nib_block_rules r = { .element = element, .e4m3_scale = e4m3, .has_tensor_scale = e4m3,
                                .block = BLOCK, .mx = mx, .scale_max = 448.0f };
    const nib_tensor_scales one = { 1.0f, 1.0f };
    return nib_tensor_math_of(&r, e4m3 ? nib_tensor_factors(&r, amax) : one);
}

/* Mean MSE of the choice. */
static double mean_error(const nib_tensor_math *m, const float *x, int choice)
{
    double sum = 0.0;
    for (int b = 0; b < BLOCKS; b++) {
        const float *p = x + b * BLOCK;
        const uint32_t byte = nib_block_search(m, choice, p, BLOCK, block_amax(p, BLOCK));
        sum += (double)nib_block_error(m, p, BLOCK, byte, 0);
    }
    return sum / BLOCKS / BLOCK;
}

/* The bounds that search.h and quantize.h state. */
NIB_TEST(Search, LossAgainstTheFullSweep)
{
    static float x[BLOCKS * BLOCK];
    for (int d = 0; d < DISTRIBUTIONS; d++) {
        const float amax = tensor_of(d, x);
        const struct {
            int    element, e4m3, mx;
            double bound, amax_at_least;
        } rows[] = {
            { NIB_EL_E2M1, 1, 0, d == UNIFORM ? 0.003 : 0.001, 0.20 },
            { NIB_EL_E2M3, 1, 0, 0.010, 0.05 },
            { NIB_EL_E4M3, 1, 0, d == UNIFORM ? 0.015 : 0.010, 0.05 },
            { NIB_EL_E3M2, 1, 0, 0.010, 0.05 },
            { NIB_EL_E2M1, 0, NIB_MX_RULE_RCEIL, 0.0001, 0.001 },
            { NIB_EL_E2M1, 0, NIB_MX_RULE_FLOOR, 0.0001, 0.05 },
        };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            const nib_tensor_math m = math_of(rows[i].element, rows[i].e4m3, rows[i].mx, amax);
            const double full = mean_error(&m, x, NIB_SC_MSE_FULL);
            const double bounded = mean_error(&m, x, NIB_SC_MSE) / full - 1.0;
            const double alone = mean_error(&m, x, NIB_SC_AMAX) / full - 1.0;
            EXPECT(bounded >= 0.0 && bounded <= rows[i].bound, "%s, row %d: %.4f over the sweep",
                   names[d], (int)i, bounded);
            EXPECT(alone >= rows[i].amax_at_least, "%s, row %d: amax %.4f over the sweep", names[d],
                   (int)i, alone);
        }
    }
}

/* The error by f64, plainly. */
static double plain_error(const nib_tensor_math *m, const float *x, int n, uint32_t byte,
                          int absolute)
{
    const nib_block_unit unit = nib_block_unit_of(m, byte);
    const double step = (double)nib_block_step(m->rules.e4m3_scale, byte, m->scales.decode);
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        const uint32_t code = nib_block_code(m, unit, x[i], 0, 0);
        const double d = (double)x[i] - (double)nib_element_to_f32(m->rules.element, code) * step;
        sum += absolute ? fabs(d) : d * d;
    }
    return sum;
}

NIB_TEST(Search, PicksTheLeastOfItsCandidates) /* against a search of the test's own, in f64 */
{
    static float x[BLOCKS * BLOCK];
    const int offsets[] = { 0, -1, 1, -2, 3, 4, 5, 6 };
    const nib_tensor_math m = math_of(NIB_EL_E2M1, 1, 0, tensor_of(GAUSS, x));
    for (int b = 0; b < BLOCKS; b++) {
        const float *p = x + b * BLOCK;
        const float a = block_amax(p, BLOCK);
        const int base = (int)nib_block_scale(&m, a);
        double least = INFINITY, all = INFINITY;
        for (int i = 0; i < 8; i++)
            if (base + offsets[i] >= 1 && base + offsets[i] <= 126)
                least = fmin(least, plain_error(&m, p, BLOCK, (uint32_t)(base + offsets[i]), 0));
        for (uint32_t byte = 1; byte <= 126; byte++)
            all = fmin(all, plain_error(&m, p, BLOCK, byte, 0));
        const uint32_t bounded = nib_block_search(&m, NIB_SC_MSE, p, BLOCK, a);
        const uint32_t full = nib_block_search(&m, NIB_SC_MSE_FULL, p, BLOCK, a);
        EXPECT(plain_error(&m, p, BLOCK, bounded, 0) <= least * 1.00001, "block %d: %#x", b,
               bounded);
        EXPECT(plain_error(&m, p, BLOCK, full, 0) <= all * 1.00001, "block %d: %#x", b, full);
    }
}

NIB_TEST(Search, OrderOfTheSum) /* 2^24 absorbs a 1 and rounds a 3 to 4: the order shows */
{
    const float even[8] = { 0x1p24f, 1, 1, 1, 3, 1, 1, 1 };
    const float odd[8] = { 1, 0x1p24f, 1, 1, 1, 3, 1, 1 };
    EXPECT(nib_sum8(even) == 0x1p24f + 10.0f, "%.1f", (double)nib_sum8(even));
    EXPECT(nib_sum8(odd) == 0x1p24f + 10.0f, "%.1f", (double)nib_sum8(odd));

    const nib_tensor_math m = math_of(NIB_EL_E2M1, 0, 0, 0.0f);
    float x[BLOCK] = { 0 };
    x[0] = x[8] = 6.25f; /* p0 = 2 * 0.0625; NaN and Inf count for nothing */
    x[3] = NAN;
    x[4] = INFINITY;
    x[15] = 0.2f;
    EXPECT(nib_block_error(&m, x, BLOCK, 127, 0) == 0.125f + 0.2f * 0.2f, "squares");
    EXPECT(nib_block_error(&m, x, BLOCK, 127, 1) == 0.5f + 0.2f, "magnitudes");

    const float far[BLOCK] = { 0x1p24f + 6, 7, 0, 7, 0, 7 }; /* 2^24 and three ones beyond 6 */
    EXPECT(nib_block_error(&m, far, BLOCK, 127, 1) == 0x1p24f + 4.0f, "p0 + (p1 + p3 + p5)");
}

NIB_TEST(Search, EqualErrorsAndOddBlocksKeepAmax)
{
    const nib_tensor_math nv = math_of(NIB_EL_E2M1, 1, 0, 2688.0f);
    const nib_tensor_math mx = math_of(NIB_EL_E2M1, 0, 0, 0.0f);
    const int choices[] = { NIB_SC_MSE, NIB_SC_MSE_FULL };
    float zeros[BLOCK] = { 0 }, exact[BLOCK], huge[BLOCK], tiny[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        exact[i] = i % 3 ? 6.0f : -3.0f; /* 6 under 1.0 and 3 under 2.0 are exact alike */
        huge[i] = i == 0 ? 0x1.8p127f : 0x1.1p100f; /* every square is Inf */
        tiny[i] = i == 0 ? 0x1p-80f : 0x1.1p-82f;   /* every square is 0 */
    }
    for (int c = 0; c < 2; c++) {
        EXPECT(nib_block_search(&nv, choices[c], zeros, BLOCK, 0.0f) == 0, "zero block");
        EXPECT(nib_block_search(&mx, choices[c], zeros, BLOCK, 0.0f) == 0, "zero block");
        EXPECT(nib_block_search(&nv, choices[c], exact, BLOCK, 6.0f) == 0x38, "exact");
        EXPECT(nib_block_search(&mx, choices[c], exact, BLOCK, 6.0f) == 127, "exact");
        EXPECT(nib_block_search(&mx, choices[c], huge, BLOCK, huge[0])
                   == nib_block_scale(&mx, huge[0]), "huge");
        EXPECT(nib_block_search(&mx, choices[c], tiny, BLOCK, tiny[0])
                   == nib_block_scale(&mx, tiny[0]), "tiny");
    }
    float small[BLOCK] = { 0x1p-7f, 0x1p-8f }; /* amax's scale is 0, yet 2^-9 keeps the values */
    EXPECT(nib_block_scale(&nv, small[0]) == 1, "a / 6 rounds up");
    small[0] = 0x1.6p-8f;
    EXPECT(nib_block_scale(&nv, small[0]) == 0, "a / 6 is below 2^-10");
    EXPECT(nib_block_search(&nv, NIB_SC_MSE, small, BLOCK, small[0]) == 1, "1 is a candidate");
}

NIB_TEST(Search, ShortBlocks) /* n below the block length: the sum takes what there is */
{
    const nib_tensor_math m = math_of(NIB_EL_E2M1, 1, 0, 10.0f);
    const float x[BLOCK] = { 1.1f, -0.3f, 0.7f, 9.0f, 9.5f };
    for (int n = 1; n <= 3; n++) {
        float padded[BLOCK] = { 0 };
        memcpy(padded, x, (size_t)n * sizeof *x);
        const float a = block_amax(x, n);
        EXPECT(nib_block_search(&m, NIB_SC_MSE_FULL, x, n, a)
                   == nib_block_search(&m, NIB_SC_MSE_FULL, padded, BLOCK, a), "%d elements", n);
    }
}

NIB_TEST(FourOverSix, EqualErrorsKeepSix) /* multiples of 3 are exact under 1.0 and under 1.5 */
{
    nib_block_rules r = { .element = NIB_EL_E2M1, .e4m3_scale = 1, .has_tensor_scale = 1,
                          .block = BLOCK, .scale_max = NIB_FOUR_OVER_SIX_MAX };
    const nib_tensor_math m = nib_tensor_math_of(&r, nib_tensor_factors(&r, 6.0f * 256.0f));
    float x[BLOCK] = { 6.0f, -3.0f, 0.0f, 3.0f, -6.0f };
    for (int choice = NIB_SC_46_MSE; choice <= NIB_SC_46_MAE; choice++)
        EXPECT(nib_block_search(&m, choice, x, BLOCK, 6.0f) == 0x38, "six: 1.0");
    x[5] = 4.5f; /* 3 * 1.5, not a value under 1.0 */
    for (int choice = NIB_SC_46_MSE; choice <= NIB_SC_46_MAE; choice++)
        EXPECT(nib_block_search(&m, choice, x, BLOCK, 6.0f) == 0x3c, "four: 1.5");
}

enum { MAX_46 = 1024 };

NIB_TEST(FourOverSix, GoldenBytes)
{
    static struct {
        char     magic[8];
        uint32_t blocks;
        float    amax;
        float    x[MAX_46 * BLOCK];
    } head;
    static uint8_t results[4 * MAX_46 * (1 + BLOCK)];
    FILE *file = fopen("tests/golden/four_over_six.bin", "rb");
    REQUIRE(file, "tests/golden/four_over_six.bin is missing");
    size_t items = fread(&head, 16, 1, file);
    REQUIRE(items == 1 && memcmp(head.magic, "NIB46_01", 8) == 0 && head.blocks <= MAX_46, "head");
    items = fread(head.x, BLOCK * sizeof(float), head.blocks, file);
    const size_t bytes = fread(results, 1, sizeof results, file);
    fclose(file);
    REQUIRE(items == head.blocks && bytes == 4 * (size_t)head.blocks * (1 + BLOCK), "%zu", bytes);

    const uint8_t *want = results;
    for (int result = 0; result < 4; result++) {
        const nib_block_rules r = {
            .element = NIB_EL_E2M1, .e4m3_scale = 1, .has_tensor_scale = 1, .block = BLOCK,
            .block_scale = result / 2 ? NIB_B_TWO_STEP : NIB_B_FOLDED,
            .scale_max = NIB_FOUR_OVER_SIX_MAX,
        };
        const int choice = result % 2 ? NIB_SC_46_MAE : NIB_SC_46_MSE;
        const nib_tensor_math m = nib_tensor_math_of(&r, nib_tensor_factors(&r, head.amax));
        const uint8_t *codes = want + head.blocks;
        for (uint32_t b = 0; b < head.blocks; b++) {
            const float *p = head.x + b * BLOCK;
            const uint32_t byte = nib_block_search(&m, choice, p, BLOCK, block_amax(p, BLOCK));
            EXPECT(byte == want[b], "result %d, block %u: %#x, want %#x", result, b, byte, want[b]);
            const nib_block_unit unit = nib_block_unit_of(&m, byte);
            for (uint32_t i = 0; i < BLOCK; i++) {
                const uint32_t code = nib_block_code(&m, unit, p[i], 0, 0);
                EXPECT(code == codes[b * BLOCK + i], "result %d, block %u, %a: %#x, want %#x",
                       result, b, (double)p[i], code, codes[b * BLOCK + i]);
            }
        }
        want = codes + (size_t)head.blocks * BLOCK;
    }
}
