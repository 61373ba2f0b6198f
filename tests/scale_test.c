/* scale_test.c: kernels/common/scale.h: all 256 bytes of both types, and every MX mode against
 * f64 arithmetic with frexp, which shares nothing with the integer code. */
#include <math.h>
#include <stdint.h>

#include "kernels/common/half.h"
#include "kernels/common/scale.h"
#include "tests/shim.h"

NIB_TEST(Scale, AllE4m3Bytes)
{
    for (uint32_t b = 0; b < 256; b++) {
        const int e = (int)(b >> 3 & 15), f = (int)(b & 7);
        double want = e ? ldexp(8 + f, e - 10) : ldexp(f, -9);
        if (b >> 7) want = -want;
        const float x = nib_e4m3_to_f32(b);
        if ((b & 0x7f) == 0x7f) {
            EXPECT(nib_bits_of(x) == NIB_F32_NAN_BITS, "%#x", b);
            continue;
        }
        EXPECT(nib_bits_of(x) == nib_bits_of((float)want), "%#x is %g", b, (double)x);
        if (b < 0x7f) EXPECT(nib_e4m3_from_f32(x) == b, "%#x comes back", b);
    }
    EXPECT(nib_e4m3_from_f32(448.0f) == 0x7e && nib_e4m3_from_f32(449.0f) == 0x7e, "saturates");
    EXPECT(nib_e4m3_from_f32(nib_float_of(NIB_F32_INF_BITS)) == 0x7e, "Inf saturates");
    EXPECT(nib_e4m3_from_f32(0x1p-10f) == 0 && nib_e4m3_from_f32(0x1.000002p-10f) == 1, "2^-10");
}

NIB_TEST(Scale, AllE8m0Bytes)
{
    for (uint32_t b = 0; b < 255; b++)
        EXPECT(nib_e8m0_to_f32(b) == (float)ldexp(1.0, (int)b - 127), "%#x", b);
    EXPECT(nib_bits_of(nib_e8m0_to_f32(255)) == NIB_F32_NAN_BITS, "255 is NaN");
    for (int e = -149; e <= 127; e++) EXPECT(nib_pow2(e) == (float)ldexp(1.0, e), "2^%d", e);
}

/* floor(log2 a), a > 0, in f64, which is exact for every f32. */
static int floor_log2(double a)
{
    int e;
    frexp(a, &e);
    return e - 1;
}

static int ceil_log2(double a)
{
    int e;
    return frexp(a, &e) == 0.5 ? e - 1 : e;
}

static const struct {
    int    m, emax;
    double max;
} elements[5] = { { 1, 2, 6 }, { 3, 2, 7.5 }, { 2, 4, 28 }, { 3, 8, 448 }, { 2, 15, 57344 } };

/* The exponent by the definitions in nibble/format.h. */
static int exponent(int el, int rule, double a)
{
    switch (rule) {
    case NIB_MX_RULE_RCEIL: return ceil_log2(a / elements[el].max); /* see below */
    case NIB_MX_RULE_FLOOR: return floor_log2(a) - elements[el].emax;
    case NIB_MX_RULE_CEIL:  return ceil_log2(a) - elements[el].emax;
    case NIB_MX_RULE_EVEN: { /* half of the last mantissa bit, added as to an f32's bits */
        const double half = ldexp(1.0, floor_log2(a) - elements[el].m - 1);
        return floor_log2(a + half) - elements[el].emax;
    }
    case NIB_MX_RULE_RCEIL_LOG2: {
        const float q = (float)a / (float)elements[el].max;
        return q > 0.0f ? (int)ceilf((float)log2((double)q)) : -127;
    }
    default: return (int)floorf((float)log2(a)) - elements[el].emax;
    }
}

static const int rules[] = { NIB_MX_RULE_RCEIL, NIB_MX_RULE_FLOOR, NIB_MX_RULE_EVEN,
                             NIB_MX_RULE_CEIL, NIB_MX_RULE_RCEIL_LOG2, NIB_MX_RULE_FLOOR_LOG2 };
enum { RULES = sizeof rules / sizeof *rules };

/* a / max in f64 rounds by 2^-53 of itself; an f32 quotient is 2^-25 from a power of two or
 * is one, so ceil sees the exact quotient. log2 in f64, then to f32: the two roundings differ
 * from one only within 2^-29 of a tie, and no tie has an f32 so near. */
static void check_rules(float a)
{
    for (int el = 0; el < 5; el++)
        for (int i = 0; i < RULES; i++) {
            int e = exponent(el, rules[i], (double)a);
            e = e < -127 ? -127 : e > 127 ? 127 : e;
            const uint32_t byte = nib_e8m0_from_amax(el, rules[i], a);
            EXPECT(byte == (uint32_t)(e + 127), "element %d, rule %d, amax %a: %u, want %d", el,
                   rules[i], (double)a, byte, e + 127);
        }
}

NIB_TEST(MxRules, EveryBinadeNearItsEdges)
{
    const uint32_t edges[] = { 0, 0x400000, 0x600000, 0x700000, 0x780000, 0x7fffff };
    for (uint32_t e = 0; e < 255 && !nib_test_failed(); e++)
        for (int i = 0; i < 6; i++)
            for (int n = -64; n <= 64; n++) {
                const uint32_t bits = (e << 23 | edges[i]) + (uint32_t)n;
                if (bits - 1 < NIB_F32_INF_BITS - 1) check_rules(nib_float_of(bits));
            }
}

NIB_TEST(MxRules, EveryMantissaOfSomeBinades) /* stride 1 around zero's neighbours is above */
{
    const uint32_t binades[] = { 0, 1, 90, 126, 127, 130, 254 };
    for (int i = 0; i < 7; i++)
        for (uint32_t f = 1; f < 1u << 23 && !nib_test_failed(); f += 97)
            check_rules(nib_float_of(binades[i] << 23 | f));
}

NIB_TEST(MxRules, ZeroIsByteZeroAndRceilNeverSaturates)
{
    for (int el = 0; el < 5; el++) {
        for (int i = 0; i < RULES; i++)
            EXPECT(nib_e8m0_from_amax(el, rules[i], 0.0f) == 0, "element %d rule %d", el, rules[i]);
        for (uint32_t bits = 1; bits < NIB_F32_INF_BITS; bits += 65521) {
            const float a = nib_float_of(bits);
            const double step = (double)nib_e8m0_to_f32(
                nib_e8m0_from_amax(el, NIB_MX_RULE_RCEIL, a));
            EXPECT((double)a <= elements[el].max * step, "element %d, %a", el, (double)a);
            EXPECT(step == 0x1p-127 || (double)a > elements[el].max * step / 2, "least, %a",
                   (double)a);
        }
    }
}

/* torch 2.15 on a CPU, for each k the number of f (from 0 up; from 2^23 - 1 down) for which
 * ceil(log2(2^k (1 + f/2^23))) is k and floor is k + 1. Printed by
 *     x = 2.0**k * (1 + f / 2**23); torch.ceil(torch.log2(x)); torch.floor(torch.log2(x)) */
NIB_TEST(MxRules, Log2fAsTorchRoundsIt)
{
    for (int k = -126; k <= 127; k++) {
        const int n = k > 0 ? k : -k - 1;
        const int exact = n >= 64 ? 23 : n >= 32 ? 12 : n >= 16 ? 6 : n >= 8 ? 3 : n >= 4 ? 2 : 1;
        const int top = n >= 64 ? 44 : n >= 32 ? 22 : n >= 16 ? 11
                      : n >= 8 ? 5 : n >= 4 ? 2 : n >= 2;
        const uint32_t base = (uint32_t)(k + 127) << 23;
        for (int f = 0; f < 400; f++) {
            const float q = nib_float_of(base + (uint32_t)f);
            const float r = nib_float_of(base + 0x7fffffu - (uint32_t)f);
            EXPECT(nib_ceil_log2f(q) == k + (f >= exact), "ceil, k %d, f %d", k, f);
            EXPECT(nib_ceil_log2f(r) == k + 1, "ceil, k %d, 2^23 - %d", k, f + 1);
            EXPECT(nib_floor_log2f(r) == k + (f < top), "floor, k %d, 2^23 - %d", k, f + 1);
            EXPECT(nib_floor_log2f(q) == k, "floor, k %d, f %d", k, f);
        }
    }
}

/* compressed-tensors' round_to_power_2 and what follows, on a 16-bit pattern; see
 * calculate_qparams. f16: exponent 5, mantissa 10; bf16: 8, 7. */
static int source_byte(int el, int dtype, uint32_t pattern)
{
    const int mantissa = dtype == NIB_DT_F16 ? 10 : 7, m = el == NIB_EL_E2M3 ? 3 : 1;
    const uint32_t rounded = (pattern + (1u << (mantissa - m - 1))) >> mantissa << mantissa;
    const int bias = dtype == NIB_DT_F16 ? 15 : 127, field = (int)(rounded >> mantissa);
    if (field == 0) return dtype == NIB_DT_F16 ? 127 : 0; /* log2 of 0; 2^-127 is 0 in f16 */
    const int byte = 127 + field - bias - elements[el].emax;
    return byte < 0 ? 0 : byte;
}

NIB_TEST(MxRules, EvenOnTheBitsOfTheSource) /* all magnitudes that do not carry into Inf */
{
    for (int el = 0; el < 5; el++) {
        for (uint32_t h = 0; h < 0x7a00; h++) {
            const float a = h >> 10 ? ldexpf((float)(1024 + (h & 1023)), (int)(h >> 10) - 25)
                                    : ldexpf((float)h, -24);
            const uint32_t byte = nib_e8m0_even_source(el, 1, a);
            if (el == NIB_EL_E5M2 && h < 0x400) continue; /* 2^-29 is 0 in f16: no such format */
            EXPECT((int)byte == source_byte(el, NIB_DT_F16, h), "f16 %#x, element %d: %u, want %d",
                   h, el, byte, source_byte(el, NIB_DT_F16, h));
        }
        for (uint32_t h = 0; h < 0x7f00; h++) {
            const uint32_t byte = nib_e8m0_even_source(el, 0, nib_float_of(h << 16));
            EXPECT((int)byte == source_byte(el, NIB_DT_BF16, h), "bf16 %#x, element %d: %u", h, el,
                   byte);
        }
    }
}
