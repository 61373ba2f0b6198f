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
#define NIB_MX_RULE_FLOOR_LOG2 5
#define NIB_MX_RULE_EVEN_SOURCE 6

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

/* p, with 2^p <= |k| < 2^(p+1): just inside of k, log2f's results are 2^(p - 23) apart. */
NIB_HD int nib_log2_spacing(int k)
{
    const int n = k > 0 ? k : k < 0 ? -k - 1 : 0;
    int p = 0;
    while (n >> (p + 1)) p++;
    return p;
}

/* ceil(log2f(q)) and floor(log2f(q)) for q > 0 and a log2f that is correctly rounded to f32: a
 * log2 within half a spacing of an integer becomes that integer. With q = 2^k (1 + f/2^23),
 * log2(1 + f/2^23) is f * log2(e) / 2^23 for the few f at issue near 0, and 1 - log2 of the few
 * near 2 half as much for each step down from 2^23. 369/256 stands for log2(e) = 1.4427.
 * torch.log2 on a CPU, numpy's and glibc's log2f agree (tests/scale_test.c). */
NIB_HD int nib_ceil_log2f(float q)
{
    uint32_t f;
    const int k = nib_split(q, &f);
    return k + (f * 369u > 128u << nib_log2_spacing(k));
}

NIB_HD int nib_floor_log2f(float q)
{
    uint32_t f;
    const int k = nib_split(q, &f);
    return k + ((0x800000u - f) * 369u <= 256u << nib_log2_spacing(k));
}

NIB_HD uint32_t nib_e8m0_from_exponent(int e)
{
    return (uint32_t)((e < -127 ? -127 : e > 127 ? 127 : e) + 127);
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
    case NIB_MX_RULE_FLOOR_LOG2: e = nib_floor_log2f(a) - t.emax; break;
    default: e += (f > fmax) - t.emax; break; /* RCEIL: least e with a <= max * 2^e */
    }
    return nib_e8m0_from_exponent(e);
}

/* The same by EVEN_SOURCE. On the bits of an f16, amax below 2^-14 has the exponent of 0 or,
 * when its mantissa carries, of 2^-14; and the former's scale is 0 in f16, which becomes 1. */
NIB_HD uint32_t nib_e8m0_even_source(int element, int is_f16, float a)
{
    const int m = element == NIB_EL_E2M3 ? 3 : 1, emax = nib_element_traits_of(element).emax;
    if (is_f16 && a < nib_pow2(-14)) {
        const float carries = nib_pow2(-14) - nib_pow2(-15 - m);
        return nib_e8m0_from_exponent(a < carries ? 0 : -14 - emax);
    }
    if (!(a > 0.0f)) return 0;
    uint32_t f;
    const int e = nib_split(a, &f);
    return nib_e8m0_from_exponent(e + (int)((f + (1u << (22 - m))) >> 23) - emax);
}

#endif
