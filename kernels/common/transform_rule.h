/* transform_rule.h: what a row becomes before it is quantized, in f32 and in one order of
 * operations.
 *
 *   RMSNorm    h -> (h * r) * weight,  r = 1 / sqrt(sum(h * h) / cols + eps)
 *   silu       x -> x / (1 + e^-x)
 *   Hadamard   each run of k elements -> H_k of it, times 1 / sqrt(k)
 *
 * Every line is a fixed order of correctly rounded f32 operations, as in block.h. A row's sum of
 * squares has an order of its own, so that a warp, a block of threads of any size and a processor's
 * vectors all follow it at full speed:
 *
 *   unit u       elements 16u .. 16u + 15, those past the row's end being 0. Its sum: halves are
 *                added, s[i] + s[i + 8], then s[i] + s[i + 4], + 2, + 1
 *   lane p       of 1024: the sums of units p, p + 1024, ... in that order
 *   the row      in each run of 32 lanes, lanes are added by halves, s[i] + s[i + 16] first; then
 *                these 32 sums, likewise
 *
 * A lane without units is +0, which changes no sum of squares: threads that have a power of two of
 * lanes between them leave out the halves that nobody has.
 */
#ifndef NIB_TRANSFORM_RULE_H
#define NIB_TRANSFORM_RULE_H

#include "half.h"

#include <math.h>

/* The values of nib_transform_op. */
enum { NIB_TR_NONE, NIB_TR_RMSNORM, NIB_TR_SILU_MUL };

enum { NIB_UNIT = 16, NIB_SUM_LANES = 1024 };

/* The loops below have lengths that compilers know, and are to be unrolled: arrays are
 * registers. */
#ifdef __CUDACC__
#define NIB_TR_UNROLL _Pragma("unroll")
#else
#define NIB_TR_UNROLL
#endif

/* Sum of the squares of a unit; x is overwritten. */
NIB_HD float nib_sum_sq16(float *x)
{
    NIB_TR_UNROLL
    for (int i = 0; i < NIB_UNIT; i++) x[i] = x[i] * x[i];
    NIB_TR_UNROLL
    for (int i = 0; i < 8; i++) x[i] += x[i + 8];
    NIB_TR_UNROLL
    for (int i = 0; i < 4; i++) x[i] += x[i + 4];
    return (x[0] + x[2]) + (x[1] + x[3]);
}

/* The row's, of all lanes; they are overwritten. */
NIB_HD float nib_sum_lanes(float *lane)
{
    for (int n = 16; n >= 1; n /= 2)
        for (int run = 0; run < NIB_SUM_LANES; run += 32)
            for (int i = run; i < run + n; i++) lane[i] += lane[i + n];
    for (int n = 16; n >= 1; n /= 2)
        for (int i = 0; i < n; i++) lane[32 * i] += lane[32 * (i + n)];
    return lane[0];
}

/* r of a row of cols elements. */
NIB_HD float nib_rms_inverse(float sum_sq, int64_t cols, float eps)
{
    return 1.0f / sqrtf(sum_sq / (float)cols + eps);
}

/* m and n of e^x = m 2^n, for x <= 0; as of -120 for smaller ones and for NaN.
 *
 * x = n ln 2 + r by Cody and Waite: n ln2_hi is exact, since ln2_hi has 15 bits. m = e^r is
 * 1 + (r + r^2 q(r)), q of degree 4, whose own error is below 2^-28. */
typedef struct nib_power {
    float m;
    float low, high; /* 2^n in two factors: m low is exact, so that a subnormal result is rounded
                        once */
} nib_power;

NIB_HD nib_power nib_exp_of_negative(float x)
{
    const float magic = 0x1.8p23f; /* its ulp is 1: the sum's low bits are n */
    x = x > -120.0f ? x : -120.0f;
    const float shifted = x * 0x1.715476p+0f + magic, n = shifted - magic;
    const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
    float q = 0x1.6db68ap-10f;
    q = q * r + 0x1.123d12p-7f;
    q = q * r + 0x1.55545cp-5f;
    q = q * r + 0x1.55548cp-3f;
    q = q * r + 0.5f;
    const int power = (int)(nib_bits_of(shifted) - nib_bits_of(magic)), half = power / 2;
    const nib_power p = { 1.0f + ((r * r) * q + r), nib_pow2(half), nib_pow2(power - half) };
    return p;
}

/* e^x for x <= 0, within 1.02 ulp where that is a normal number, else within 2^-149. */
NIB_HD float nib_exp_value(nib_power p) { return p.m * p.low * p.high; }

/* x / (1 + e^-x) within 3.4 ulp where that is a normal number, else within 2^-148: both are true of
 * every x (tests/transform_rule_test.c). For negative x it is x e^x / (1 + e^x), which does not
 * overflow, and whose small factor comes last. -Inf gives -0, its limit. */
NIB_HD float nib_silu(float x)
{
    const nib_power p = nib_exp_of_negative(-nib_abs(x));
    const float     below = x < -120.0f ? -120.0f : x, divisor = 1.0f + nib_exp_value(p);
    const float     q = (x < 0.0f ? below * p.m : x) / divisor;
    return x < 0.0f ? q * p.low * p.high : q;
}

/* 1 / sqrt(k), for k of 32 and 128 rounded to f32. */
NIB_HD float nib_hadamard_scale(int k)
{
    return k == 16 ? 0.25f : k == 32 ? 0x1.6a09e6p-3f : k == 64 ? 0.125f : 0x1.6a09e6p-4f;
}

/* The butterflies of distance d in n elements: (a, b) becomes (a + b, a - b). Those of 1, 2, 4, ...
 * k / 2, in that order, are H_k, Sylvester's: H_1 = 1, H_2k = [H_k H_k; H_k -H_k]. */
NIB_HD void nib_butterflies(float *x, int n, int d)
{
    NIB_TR_UNROLL
    for (int run = 0; run < n; run += 2 * d) {
        NIB_TR_UNROLL
        for (int i = run; i < run + d; i++) {
            const float a = x[i], b = x[i + d];
            x[i] = a + b;
            x[i + d] = a - b;
        }
    }
}

/* x, or with a sign -x. */
NIB_HD float nib_with_sign(float x, uint32_t sign)
{
    return nib_float_of(nib_bits_of(x) ^ sign << 31);
}

/* h of an element and its residual: rounded to the dtype that both have. */
NIB_HD float nib_add_residual(int dtype, float x, float residual)
{
    return nib_round_to_dtype(dtype, x + residual);
}

#endif
