/* quantize_codes_emu_test.cu: the forms of rules that quantize's kernels use equal kernels/common.
 * They are plain functions, which run on the host here. */
#include "kernels/cuda/quantize_codes.cuh"
#include "tests/emu/emu_test.h"

#include <math.h>

namespace {

const float ties[] = { 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 7.0f };

/* Magnitudes from 2^-3 to 8 in steps of 2^6 ulps, the 2^10 around each tie, and others of every
 * size. */
template <class F> void magnitudes(F check)
{
    for (uint32_t bits = 0x3e000000u; bits < 0x41000000u; bits += 1u << 6) check(bits);
    for (const float tie : ties) {
        for (uint32_t i = 0; i < 1024; i++) check(nib_bits_of(tie) - 512 + i);
    }
    for (uint32_t bits = 0; bits <= NIB_F32_INF_BITS; bits += 0xfff) check(bits);
    check(NIB_F32_INF_BITS);
}

} // namespace

NIB_TEST(QuantizeCodesEmu, TwoLinesAreE2M1)
{
    const nib_element_traits t = nib_element_traits_of(NIB_EL_E2M1);
    uint64_t wrong = 0;
    magnitudes([&](uint32_t bits) {
        const float    a = nib_float_of(bits);
        const uint32_t want = NIB_E2M1_SUM_0 + nib_encode_nearest(t, a);
        wrong += nib_e2m1_sum(a) != want;
    });
    EXPECT(wrong == 0, "%llu magnitudes", (unsigned long long)wrong);
}

NIB_TEST(QuantizeCodesEmu, TiesAndSigns)
{
    uint64_t wrong = 0;
    for (int rules = 0; rules < 2 * 5 * 3; rules++) {
        nib_block_rules r = {};
        r.element = NIB_EL_E2M1, r.ties = rules % 2, r.zero_sign = rules / 2 % 5;
        r.source = rules / 10;
        const nib_tensor_scales one = { 1.0f, 1.0f };
        const nib_tensor_math   m = nib_tensor_math_of(&r, one);
        const nib_block_unit    same = { 1.0f, 0 };
        const CodeRules         c = nib_code_rules(&r);
        const auto check = [&](uint32_t bits) {
            for (const uint32_t sign : { 0u, 0x80000000u }) {
                const float y = nib_float_of(bits | sign);
                const uint32_t want = NIB_E2M1_SUM_0 + nib_block_code(&m, same, y, 0, 0);
                wrong += nib_e2m1_signed_sum(c, y) != want;
            }
        };
        for (const float tie : ties) {
            for (uint32_t i = 0; i < 5; i++) check(nib_bits_of(tie) - 2 + i);
        }
        for (const float small : { 0.0f, 0x1p-25f, nib_pow2(-134), nib_pow2(-149) }) {
            for (uint32_t i = 0; i < 3; i++) check(nib_bits_of(small) + i);
            if (small > 0.0f) check(nib_bits_of(small) - 1);
        }
        for (uint32_t bits = 0; bits < NIB_F32_INF_BITS; bits += 0x12345) check(bits);
    }
    EXPECT(wrong == 0, "%llu elements", (unsigned long long)wrong);
}

/* For every mantissa of a divisor and every tie, the floats at and beside the element that is
 * nearest to it fall on the right side. Others are further from the tie than any rounding here. */
NIB_TEST(QuantizeCodesEmu, QuotientsBesideTies)
{
    const auto side = [](float q, float tie) { return (q > tie) - (q < tie); };
    uint64_t wrong = 0, hard = 0;
    for (int t = 0; t < 7; t++) {
        for (uint32_t mantissa = 0; mantissa < 1u << 23; mantissa++) {
            const float d = nib_float_of(127u << 23 | mantissa), inverse = 1.0f / d;
            const uint32_t at = nib_bits_of(d * ties[t]);
            for (uint32_t x = at - 1; x <= at + 1; x++) {
                const float a = nib_float_of(x);
                const int   want = side(a / d, ties[t]);
                wrong += side(nib_quotient(a, d, inverse), ties[t]) != want;
                hard += side(a * inverse, ties[t]) != want;
            }
        }
    }
    EXPECT(wrong == 0, "%llu quotients", (unsigned long long)wrong);
    EXPECT(hard > 1u << 20, "a product alone would do: %llu", (unsigned long long)hard);
}

/* Codes and signs of quotients: random ones, and the elements nearest to a divisor's ties. */
NIB_TEST(QuantizeCodesEmu, Quotients)
{
    Random random(3);
    const nib_element_traits t = nib_element_traits_of(NIB_EL_E2M1);
    uint64_t tested = 0, wrong = 0, inexact = 0;
    for (int i = 0; i < 600000; i++) {
        const int dtype = i % 3;
        const uint32_t exponent = (uint32_t)(127 - 62 + random.below(i % 2 ? 80 : 124));
        const float d = nib_float_of(exponent << 23 | (random.next() & 0x7fffff));
        float x = ldexpf((float)(random.next() >> 8) * 0x1p-23f, random.below(40) - 36) * d;
        if (i % 4) x = d * ties[random.below(8)];
        if (i % 16 == 4) x = nib_float_of(random.next() & 0xfffff); /* subnormal */
        x = nib_round_to_dtype(dtype, x);
        const uint32_t ulp = dtype == NIB_DT_F32 ? 1 : dtype == NIB_DT_BF16 ? 0x10000 : 0x2000;
        for (int step = -1; step <= 1; step++) {
            const uint32_t bits = nib_bits_of(x) + (uint32_t)step * ulp;
            if (bits >= NIB_F32_INF_BITS) continue;
            const float a = nib_round_to_dtype(dtype, nib_float_of(bits));
            if (!nib_quotient_is_exact(dtype, a, d)) continue;
            const float q = nib_quotient(-a, d, 1.0f / d), y = -a / d;
            const float plain = -a * (1.0f / d);
            tested++;
            wrong += nib_encode_nearest(t, nib_abs(q)) != nib_encode_nearest(t, nib_abs(y));
            wrong += (q < 0.0f) != (y < 0.0f) || (a == 0.0f && nib_bits_of(q) != 0);
            inexact += nib_encode_nearest(t, nib_abs(plain)) != nib_encode_nearest(t, nib_abs(y));
        }
    }
    EXPECT(wrong == 0, "%llu of %llu", (unsigned long long)wrong, (unsigned long long)tested);
    EXPECT(tested > 1000000 && inexact > 1000, "%llu, %llu: the cases are not the hard ones",
           (unsigned long long)tested, (unsigned long long)inexact);
}

NIB_TEST(QuantizeCodesEmu, E8M0Scales)
{
    uint64_t wrong = 0;
    for (int mx = NIB_MX_RULE_RCEIL; mx <= NIB_MX_RULE_EVEN_SOURCE; mx++) {
        for (int source = NIB_DT_F32; source <= NIB_DT_BF16; source++) {
            nib_block_rules r = {};
            r.element = NIB_EL_E2M1, r.mx = mx, r.source = source;
            const uint32_t round = nib_e8m0_round(&r);
            const bool log2 = mx == NIB_MX_RULE_RCEIL_LOG2 || mx == NIB_MX_RULE_FLOOR_LOG2;
            const bool f16_end = mx == NIB_MX_RULE_EVEN_SOURCE && source == NIB_DT_F16;
            EXPECT((round == ~0u) == (log2 || f16_end), "rule %d of %d", mx, source);
            if (round == ~0u) continue;
            const auto check = [&](uint32_t bits) {
                const float a = nib_float_of(bits);
                wrong += nib_e8m0_scale(a, round) != (mx == NIB_MX_RULE_EVEN_SOURCE
                    ? nib_e8m0_even_source(NIB_EL_E2M1, source == NIB_DT_F16, a)
                    : nib_e8m0_from_amax(NIB_EL_E2M1, mx, a));
            };
            for (uint32_t bits = 0; bits < NIB_F32_INF_BITS; bits += 0x1fff) check(bits);
            for (uint32_t upper = 0; upper < NIB_F32_INF_BITS; upper += 1u << 20) {
                for (uint32_t i = 0; i < 5; i++) check(upper + i); /* where a rule goes up */
                if (upper) check(upper - 1);
            }
        }
    }
    EXPECT(wrong == 0, "%llu", (unsigned long long)wrong);
}

/* ---- maxima of magnitudes, whose signs mean nothing ---- */

template <int dtype>
__global__ static void largest_of(const uint32_t *a, const uint32_t *b, uint32_t *out, int n)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[i] = Unit<dtype>::larger(a[i], b[i]) & 0x7fff7fffu;
}

NIB_HD uint32_t larger_half(uint32_t a, uint32_t b, uint32_t inf)
{
    a &= 0x7fff, b &= 0x7fff;
    return a > inf || b > inf ? 0x7fff : a > b ? a : b;
}

template <int dtype> static void check_largest(uint32_t inf)
{
    Random random(9);
    const int n = 1 << 14;
    std::vector<uint32_t> a((size_t)n), b((size_t)n);
    for (int i = 0; i < n; i++) {
        a[(size_t)i] = random.next(), b[(size_t)i] = random.next();
        if (i % 8 == 0) b[(size_t)i] = (inf + (uint32_t)random.below(3) - 1) * 0x10001u;
        if (i % 8 == 1) b[(size_t)i] = a[(size_t)i] ^ 0x80008000u;
    }
    const Device<uint32_t> device_a(a), device_b(b), out((size_t)n);
    NIB_LAUNCH(largest_of<dtype>, n / 128, 128, 0, 0, (const uint32_t *)device_a,
               (const uint32_t *)device_b, (uint32_t *)out, n);
    const std::vector<uint32_t> got = out.read();
    int wrong = 0;
    for (size_t i = 0; i < (size_t)n; i++) {
        wrong += got[i] != (larger_half(a[i] >> 16, b[i] >> 16, inf) << 16
                            | larger_half(a[i], b[i], inf));
    }
    EXPECT(wrong == 0, "%d of %d", wrong, n);
}

NIB_TEST(QuantizeCodesEmu, LargestMagnitudes)
{
    check_largest<NIB_DT_F16>(0x7c00);
    check_largest<NIB_DT_BF16>(0x7f80);
}
