/* scale.h: the two block scale bytes, E4M3 with sign 0, and E8M0 = 2^(byte - 127). */
#ifndef NIB_SCALE_H
#define NIB_SCALE_H

#include "element.h"

#define NIB_E8M0_NAN  0xffu
#define NIB_E4M3_NAN  0x7fu
#define NIB_E4M3_LAST 0x7eu /* 448 */

/* The values of nib_mx_rule. */
#define NIB_MX_RULE_RCEIL      0
#define NIB_MX_RULE_FLOOR      1
#define NIB_MX_RULE_EVEN       2
#define NIB_MX_RULE_CEIL       3
#define NIB_MX_RULE_RCEIL_LOG2 4

/* v >= 0, not NaN; nearest even, saturating at 448. */
NIB_HD uint32_t nib_e4m3_from_f32(float v)
{
    return nib_encode_nearest(nib_element_traits_of(NIB_EL_E4M3), v);
}

NIB_HD float nib_e4m3_to_f32(uint32_t byte) { return nib_element_to_f32(NIB_EL_E4M3, byte); }

NIB_HD float nib_e8m0_to_f32(uint32_t byte)
{
    return byte == NIB_E8M0_NAN ? nib_float_of(NIB_F32_NAN_BITS) : nib_pow2((int)byte - 127);
}

/* a = 2^e * (1 + f / 2^23) for finite a > 0, subnormals included. */
NIB_HD int nib_split(float a, uint32_t *f)
{
    uint32_t u = nib_bits_of(a);
    int e = (int)(u >> 23) - 127;
    if (e == -127) { /* subnormal: 2^24 * a is exact and normal */
        u = nib_bits_of(a * 16777216.0f);
        e = (int)(u >> 23) - 127 - 24;
    }
    *f = u & 0x7fffffu;
    return e;
}

/* ceil(log2f(q)) where log2f is correctly rounded to f32: with q = 2^k (1 + f/2^23), a tiny
 * log2(1 + f/2^23) vanishes in k's rounding. It does when it is at most half the spacing of
 * f32 numbers just above k (k > 0), just below |k| (k < 0), and never when k = 0. */
NIB_HD int nib_ceil_log2f(float q)
{
    uint32_t f;
    const int k = nib_split(q, &f);
    if (f == 0) return k;
    if (k == 0) return 1;
    const int n = k > 0 ? k : -k - 1; /* log2 q lies in (n, n+1) by magnitude */
    int spacing = 0;                  /* log2 of 2^23 * (spacing of f32 around there) */
    while (n >> (spacing + 1)) spacing++;
    if (n == 0) spacing = -1;         /* k = -1: |log2 q| in (0.5, 1) for the small f at issue */
    /* log2(1 + f/2^23) * 2^23 = f * 1.442695 for these small f; half spacing is 2^(spacing-1) */
    const float half = 0.5f * nib_pow2(spacing);
    return (float)f * 1.44269504f <= half ? k : k + 1;
}

/* E8M0 byte for a block of amax a (finite, >= 0); element: NIB_EL_*, rule: NIB_MX_RULE_*.
 * Integer tests, so that no libm and no rounded quotient decides (aiter#3212 lists the names).
 * a = 0 gives byte 0. */
NIB_HD uint32_t nib_e8m0_from_amax(int element, int rule, float a)
{
    const nib_element_traits t = nib_element_traits_of(element);
    uint32_t f, fmax;
    if (!(a > 0.0f)) return 0;
    int e = nib_split(a, &f);
    nib_split(t.max, &fmax);

    switch (rule) {
    case NIB_MX_RULE_FLOOR: e -= t.emax; break;
    case NIB_MX_RULE_CEIL:  e += (f != 0) - t.emax; break;
    case NIB_MX_RULE_EVEN:  e += (int)((f + (1u << (22 - t.m))) >> 23) - t.emax; break;
    case NIB_MX_RULE_RCEIL_LOG2: {
        const float q = a / t.max;
        e = q > 0.0f ? nib_ceil_log2f(q) : -127;
        break;
    }
    default: e += (f > fmax) - t.emax; break; /* RCEIL: least e with a <= max * 2^e */
    }
    return (uint32_t)((e < -127 ? -127 : e > 127 ? 127 : e) + 127);
}

#endif
