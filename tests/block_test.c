/* block_test.c: the rules of kernels/common/block.h one by one, and the blocks that go wrong in
 * other packages: zeros, -0, denormals, NaN, Inf, tiny and huge tensors. */
#include <math.h>
#include <stdint.h>

#include "kernels/common/block.h"
#include "tests/shim.h"

static const nib_block_rules nvfp4_te = {
    .element = NIB_EL_E2M1, .e4m3_scale = 1, .has_tensor_scale = 1, .block = 16,
    .scale_max = 448.0f,
};
static const nib_block_rules mxfp4_te = { .element = NIB_EL_E2M1, .block = 32 };

static nib_tensor_math math_with(const nib_block_rules *r, float amax)
{
    const nib_tensor_scales one = { 1.0f, 1.0f };
    return nib_tensor_math_of(r, r->has_tensor_scale ? nib_tensor_factors(r, amax) : one);
}

static uint32_t code_of(const nib_tensor_math *m, uint32_t byte, float x)
{
    return nib_block_code(m, nib_block_unit_of(m, byte), x, 0, 0);
}

NIB_TEST(Block, TensorFactorsByHand)
{
    nib_block_rules r = nvfp4_te;
    nib_tensor_scales f = nib_tensor_factors(&r, 3.0f);
    EXPECT(f.encode == 896.0f && f.decode == 1.0f / 896.0f, "ENCODE: S %g", (double)f.encode);
    r.tensor = NIB_T_DECODE;
    f = nib_tensor_factors(&r, 3.0f);
    EXPECT(f.decode == 3.0f / 2688.0f && f.encode == 1.0f / (3.0f / 2688.0f), "DECODE");
    r.tensor = NIB_T_SOURCE;
    r.source = NIB_DT_BF16;
    f = nib_tensor_factors(&r, 3.0f); /* 1/3 is 0.333984375 in bf16; times 2688 is 897.75, 896 */
    EXPECT(f.encode == 896.0f && f.decode == 1.0f / 896.0f, "SOURCE: S %g", (double)f.encode);
    r.source = NIB_DT_F16;
    f = nib_tensor_factors(&r, 0.04114f); /* 1/A is 24.3125 in f16 */
    EXPECT(f.encode == 65344.0f, "f16: S %g", (double)f.encode);
    f = nib_tensor_factors(&r, 0.041f);
    EXPECT(f.encode == 1.0f && f.decode == 1.0f, "f16's S overflows to 1: %g", (double)f.encode);
    r.scale_max = 256.0f; /* four-over-six */
    r.tensor = NIB_T_ENCODE;
    f = nib_tensor_factors(&r, 3.0f);
    EXPECT(f.encode == 512.0f, "M = 6 * 256: S %g", (double)f.encode);
}

NIB_TEST(Block, TensorFactorsAreAlwaysFiniteAndPositive) /* every rule, from 2^-149 to FLT_MAX */
{
    for (int tensor = 0; tensor < 3; tensor++)
        for (int source = 0; source < 3; source++)
            for (uint32_t bits = 0; bits < NIB_F32_INF_BITS; bits += bits < 4096 ? 1 : 65521) {
                nib_block_rules r = nvfp4_te;
                r.tensor = tensor;
                r.source = source;
                const nib_tensor_scales f = nib_tensor_factors(&r, nib_float_of(bits));
                EXPECT(f.encode > 0.0f && f.encode <= NIB_F32_MAX && f.decode > 0.0f
                           && f.decode <= NIB_F32_MAX,
                       "rule %d, amax %#x: S %g, t %g", tensor, bits, (double)f.encode,
                       (double)f.decode);
            }
}

NIB_TEST(Block, TensorFactorsOfNoAmaxAreOne)
{
    const float bad[] = { 0.0f, -0.0f, -1.0f, INFINITY, -INFINITY, NAN };
    for (int tensor = 0; tensor < 3; tensor++)
        for (int i = 0; i < 6; i++) {
            nib_block_rules r = nvfp4_te;
            r.tensor = tensor;
            const nib_tensor_scales f = nib_tensor_factors(&r, bad[i]);
            EXPECT(f.encode == 1.0f && f.decode == 1.0f, "rule %d, amax %g: S %g, t %g", tensor,
                   (double)bad[i], (double)f.encode, (double)f.decode);
        }
}

NIB_TEST(Block, GivenTensorScaleOrOne)
{
    const float bad[] = { 0.0f, -0.0f, -1.0f, INFINITY, -INFINITY, NAN };
    for (int i = 0; i < 6; i++) {
        const nib_tensor_scales f = nib_tensor_given(bad[i]);
        EXPECT(f.decode == 1.0f && f.encode == 1.0f, "%g counts as 1", (double)bad[i]);
    }
    const nib_tensor_scales quarter = nib_tensor_given(0.25f), tiny = nib_tensor_given(0x1p-149f);
    EXPECT(quarter.decode == 0.25f && quarter.encode == 4.0f, "1/4");
    EXPECT(tiny.decode == 0x1p-149f && tiny.encode == NIB_F32_MAX, "2^-149: S is clamped");
}

NIB_TEST(Block, ScaleBytes)
{
    nib_block_rules r = nvfp4_te;
    nib_tensor_math m = math_with(&r, 2688.0f); /* S = t = 1: the scale is a / 6 */
    EXPECT(nib_block_scale(&m, 6.0f) == 0x38 && nib_block_scale(&m, 2688.0f) == 0x7e, "1 and 448");
    EXPECT(nib_block_scale(&m, 5000.0f) == 0x7e, "saturates");
    EXPECT(nib_block_scale(&m, 0.0f) == 0, "zero block");
    EXPECT(nib_block_scale(&m, 0x1p-20f) == 0, "below half of 2^-9");
    r.e4m3_zero = 0x38;
    r.e4m3_min = 1;
    m = math_with(&r, 2688.0f);
    EXPECT(nib_block_scale(&m, 0.0f) == 0x38, "zero block: 1.0");
    EXPECT(nib_block_scale(&m, 0x1p-20f) == 1, "raised to 2^-9");
    EXPECT(nib_block_scale(&m, 0x1p-149f) == 0x38, "a / 6 underflows: a zero block");
    r.e4m3_min = 8;
    m = math_with(&r, 2688.0f);
    EXPECT(nib_block_scale(&m, 0x1p-6f) == 8, "raised to 2^-6, torchao's least");
    EXPECT(nib_block_scale(&m, 6.0f) == 0x38, "others are left alone");
    r.e4m3_zero = 0x20;
    r.e4m3_min = 0;
    m = math_with(&r, 2688.0f);
    EXPECT(nib_block_scale(&m, 0.0f) == 0x20 && nib_block_scale(&m, 0x1p-20f) == 0x20, "0.125");
    EXPECT(nib_scale_nan_byte(1) == 0x7f && nib_scale_nan_byte(0) == 0xff, "NaN bytes");
    EXPECT(nib_is_nan(nib_block_step(1, 0x7f, 1.0f)) && nib_is_nan(nib_block_step(0, 0xff, 1.0f)),
           "a NaN scale has a NaN step");
}

NIB_TEST(Block, SignOfZero) /* inputs 0, -0, -tiny, +tiny; each rule's answer */
{
    const float x[4] = { 0.0f, -0.0f, -0.1f, 0.1f };
    const uint32_t want[5][4] = { { 0, 8, 8, 0 }, { 0, 0, 8, 0 }, { 0, 0, 0, 0 }, { 8, 8, 8, 0 },
                                  { 0, 0, 8, 0 } };
    for (int rule = 0; rule < 5; rule++)
        for (int e4m3 = 0; e4m3 < 2; e4m3++) {
            nib_block_rules r = e4m3 ? nvfp4_te : mxfp4_te;
            r.zero_sign = rule;
            const nib_tensor_math m = math_with(&r, 2688.0f);
            for (int i = 0; i < 4; i++)
                EXPECT(code_of(&m, e4m3 ? 0x38 : 127, x[i]) == want[rule][i],
                       "rule %d, %g: %#x, want %#x", rule, (double)x[i],
                       code_of(&m, e4m3 ? 0x38 : 127, x[i]), want[rule][i]);
            for (int i = 0; i < 2; i++) /* other codes keep their sign */
                EXPECT(code_of(&m, e4m3 ? 0x38 : 127, i ? -3.0f : 3.0f) == (i ? 0xdu : 5u), "3");
        }
    nib_block_rules r = mxfp4_te; /* 2^-26 is 0 in f16, so the sign goes with it */
    r.zero_sign = NIB_Z_SOURCE;
    r.source = NIB_DT_F16;
    const nib_tensor_math m = math_with(&r, 0.0f);
    EXPECT(code_of(&m, 129, -0x1p-24f) == 0 && code_of(&m, 127, -0x1p-24f) == 8, "f16 underflow");
}

NIB_TEST(Block, TiesOfEveryRule)
{
    const float ties[7] = { 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f };
    const uint32_t even[7] = { 0, 2, 2, 4, 4, 6, 6 };
    for (int down = 0; down < 2; down++) {
        nib_block_rules r = mxfp4_te;
        r.ties = down;
        const nib_tensor_math m = math_with(&r, 0.0f);
        for (uint32_t i = 0; i < 7; i++) {
            const uint32_t want = down ? i : even[i];
            EXPECT(code_of(&m, 127, ties[i]) == want, "%g", (double)ties[i]);
            EXPECT(code_of(&m, 127, -ties[i]) == (want | 8), "-%g", (double)ties[i]);
        }
    }
}

NIB_TEST(Block, NanInfAndZeroBlocksHaveDefinedCodes) /* any rule, any scale byte but NaN */
{
    const float x[] = { NAN, -NAN, INFINITY, -INFINITY, 0.0f, 1.0f };
    for (int el = 0; el < 5; el++)
        for (int factor = 0; factor < 3; factor++)
            for (uint32_t byte = 0; byte < 0x7f; byte += 0x7e) {
                nib_block_rules r = nvfp4_te;
                r.element = el;
                r.factor = factor;
                const nib_element_traits t = nib_element_traits_of(el);
                const uint32_t minus = 1u << (t.bits - 1);
                const nib_tensor_math m = math_with(&r, 100.0f);
                const uint32_t want[] = { t.nan_code, t.nan_code, t.max_code, t.max_code | minus,
                                          0 };
                for (int i = 0; i < 5; i++)
                    EXPECT(code_of(&m, byte, x[i]) == want[i], "element %d, %g: %#x", el,
                           (double)x[i], code_of(&m, byte, x[i]));
                EXPECT(code_of(&m, 0, 1.0f) == t.max_code, "a scale of 0 saturates");
                const float step = nib_block_step(1, 0, m.scales.decode);
                EXPECT(nib_block_value(el, t.max_code, step) == 0.0f, "and means 0");
            }
}

/* The E8M0 factor 2^(127 - byte) and the step 2^(byte - 127) at both ends of the range. */
NIB_TEST(Block, MxEndsOfTheRange)
{
    const nib_tensor_math m = math_with(&mxfp4_te, 0.0f);
    EXPECT(nib_block_scale(&m, NIB_F32_MAX) == 253, "FLT_MAX / 6 < 2^126");
    EXPECT(code_of(&m, 253, NIB_F32_MAX) == 6, "2^128 / 2^126 is 4");
    EXPECT(nib_block_scale(&m, 0x1p-149f) == 0 && code_of(&m, 0, 0x1p-149f) == 0, "2^-149 is lost");
    EXPECT(code_of(&m, 0, 0x1p-127f) == 2 && nib_block_step(0, 0, 1.0f) == 0x1p-127f, "2^-127");
    EXPECT(code_of(&m, 0, 0x1p-128f) == 1, "2^-128");
    EXPECT(nib_block_value(NIB_EL_E2M1, 1, 0x1p-127f) == 0x1p-128f, "denormals come back");
    EXPECT(code_of(&m, 254, NIB_F32_MAX) == 4 && code_of(&m, 0, 1.0f) == 7, "other bytes saturate");
}

/* With amax rules no element is further from its value than half a step of its binade or, at
 * the top, than what the scale's own rounding cuts off. */
NIB_TEST(Block, ErrorIsWithinHalfAStep)
{
    const uint64_t seed = 7;
    for (int e4m3 = 0; e4m3 < 2; e4m3++)
        for (int b = 0; b < 2000; b++) {
            float x[32], amax = 0.0f;
            const int n = e4m3 ? 16 : 32;
            for (int i = 0; i < n; i++) {
                const uint32_t word = nib_random_word(seed, 0, (uint64_t)(b * 32 + i));
                x[i] = ((float)(word >> 8) * 0x1p-23f - 1.0f) * nib_pow2((int)(word & 7) - 4);
                amax = nib_abs(x[i]) > amax ? nib_abs(x[i]) : amax;
            }
            const nib_tensor_math m = math_with(e4m3 ? &nvfp4_te : &mxfp4_te, 8.0f);
            const uint32_t byte = nib_block_scale(&m, amax);
            const float step = nib_block_step(e4m3, byte, m.scales.decode);
            for (int i = 0; i < n; i++) {
                const float v = nib_block_value(NIB_EL_E2M1, code_of(&m, byte, x[i]), step);
                const float in_steps = nib_abs(x[i]) / step;
                const float half = in_steps <= 2.0f ? 0.25f : in_steps <= 4.0f ? 0.5f : 1.0f;
                EXPECT(nib_abs(x[i] - v) <= half * step * 1.0001f, "e4m3 %d: %g became %g", e4m3,
                       (double)x[i], (double)v);
            }
        }
}

NIB_TEST(BlockStochastic, MeanIsTheInputAndEndsSaturate)
{
    const nib_tensor_math m = math_with(&mxfp4_te, 0.0f);
    const nib_block_unit unit = nib_block_unit_of(&m, 127);
    const float x[] = { 0.1f, -0.6f, 1.7f, -2.2f, 4.9f };
    const int n = 1 << 20;
    for (int k = 0; k < 5; k++) {
        double sum = 0.0;
        for (int i = 0; i < n; i++) {
            const uint32_t word = nib_random_word(11, (uint64_t)k << 40, (uint64_t)i);
            sum += (double)nib_element_to_f32(NIB_EL_E2M1, nib_block_code(&m, unit, x[k], 1, word));
        }
        const double off = sum / n - (double)x[k]; /* sigma of the mean <= 1 / 1024 */
        EXPECT(fabs(off) < 5.0 / 1024, "mean of %g is off by %g", (double)x[k], off);
    }
    for (uint32_t word = 0; word < 0xff000000u; word += 0x00ffffffu) {
        EXPECT(nib_block_code(&m, unit, 100.0f, 1, word) == 7, "saturates");
        EXPECT(nib_block_code(&m, unit, -INFINITY, 1, word) == 15, "-Inf");
        EXPECT(nib_block_code(&m, unit, NAN, 1, word) == 7, "NaN");
        EXPECT(nib_block_code(&m, unit, 3.0f, 1, word) == 5, "a code's own value stays");
        EXPECT(nib_block_code(&m, unit, -0.0f, 1, word) == 8, "-0");
    }
}
