/* element.h: the five small floats, encoded and decoded. The one definition for all backends.
 *
 *            bits s/e/m   magnitude of code c (e = c >> m, f = c & (2^m - 1))
 *     E2M1   4    1/2/1   e = 0:  f * 2^(emin - m)            (subnormal)
 *     E2M3   6    1/2/3   e > 0:  (1 + f/2^m) * 2^(e - 1 + emin)
 *     E3M2   6    1/3/2
 *     E4M3   8    1/4/3   0x7f is NaN, no Inf
 *     E5M2   8    1/5/2   0x7c is Inf, 0x7d..0x7f are NaN
 *
 * OCP Microscaling Formats v1.0 section 5.3. Encoding rounds to nearest even and saturates,
 * as the CUDA toolkit's __nv_cvt_float_to_fp4, _fp6 and _fp8 with __NV_SATFINITE do.
 */
#ifndef NIB_ELEMENT_H
#define NIB_ELEMENT_H

#include "hd.h"

/* The values of nib_element; this folder includes nothing of ours. kernels/ check equality. */
#define NIB_EL_E2M1 0
#define NIB_EL_E2M3 1
#define NIB_EL_E3M2 2
#define NIB_EL_E4M3 3
#define NIB_EL_E5M2 4

typedef struct nib_element_traits {
    int      bits;     /* with the sign */
    int      m;        /* mantissa bits */
    int      emin;     /* exponent of the smallest normal */
    int      emax;     /* exponent of the largest value */
    float    max;      /* largest finite value */
    uint32_t max_code; /* its code */
    uint32_t nan_code; /* what NaN of either sign becomes */
} nib_element_traits;

NIB_HD nib_element_traits nib_element_traits_of(int element)
{
    const nib_element_traits e2m1 = { 4, 1, 0, 2, 6.0f, 0x07, 0x07 };
    const nib_element_traits e2m3 = { 6, 3, 0, 2, 7.5f, 0x1f, 0x1f };
    const nib_element_traits e3m2 = { 6, 2, -2, 4, 28.0f, 0x1f, 0x1f };
    const nib_element_traits e4m3 = { 8, 3, -6, 8, 448.0f, 0x7e, 0x7f };
    const nib_element_traits e5m2 = { 8, 2, -14, 15, 57344.0f, 0x7b, 0x7f };
    return element == NIB_EL_E2M1 ? e2m1
         : element == NIB_EL_E2M3 ? e2m3
         : element == NIB_EL_E3M2 ? e3m2
         : element == NIB_EL_E4M3 ? e4m3 : e5m2;
}

/* Exponent bits of the binade that a >= 0 is rounded in: its own, or the smallest normal one.
 * Bits are compared, which order like magnitudes: compilers do not turn the choice between two
 * floats into a vector minimum, since a NaN might trap. */
NIB_HD uint32_t nib_binade_bits(nib_element_traits t, float a)
{
    const uint32_t bits = nib_bits_of(a), smallest = nib_bits_of(nib_pow2(t.emin));
    return (bits > smallest ? bits : smallest) & NIB_F32_INF_BITS;
}

/* Code of a magnitude a >= 0 (Inf allowed), nearest even, saturating, and the value that it stands
 * for.
 *
 * Adding 1.5 * 2^(E + 23 - m) makes the f32 adder itself round a to a multiple of 2^(E - m),
 * the element's spacing in a's binade E; the low bits of the sum then count those multiples. */
NIB_HD uint32_t nib_round_nearest(nib_element_traits t, float a, float *value)
{
    const uint32_t bits = nib_bits_of(a), most = nib_bits_of(t.max);
    a = nib_float_of(bits < most ? bits : most);
    const uint32_t binade = nib_binade_bits(t, a);
    const uint32_t magic = binade + ((uint32_t)(23 - t.m) << 23) + (1u << 22);
    const float    sum = a + nib_float_of(magic);
    *value = sum - nib_float_of(magic); /* exact */
    return nib_bits_of(sum) - magic + (((binade >> 23) - (uint32_t)(t.emin + 127)) << t.m);
}

NIB_HD uint32_t nib_encode_nearest(nib_element_traits t, float a)
{
    float value;
    return nib_round_nearest(t, a, &value);
}

NIB_HD float nib_decode_magnitude(nib_element_traits t, uint32_t code)
{
    const uint32_t e = code >> t.m, f = code & ((1u << t.m) - 1u);
    return e ? nib_float_of((e + (uint32_t)(t.emin + 126)) << 23 | f << (23 - t.m))
             : (float)f * nib_pow2(t.emin - t.m);
}

/* As nib_encode_nearest, but a tie goes to the smaller magnitude. */
NIB_HD uint32_t nib_encode_ties_down(nib_element_traits t, float a)
{
    const uint32_t code = nib_encode_nearest(t, a);
    if (code == 0 || a >= t.max) return code;
    const float above = nib_decode_magnitude(t, code), below = nib_decode_magnitude(t, code - 1);
    return above - a == a - below ? code - 1 : code; /* both differences are exact */
}

/* Up with the probability of a's distance from the code below, to within 2^-24.
 * word: 32 random bits, of which the upper 24 are used. */
NIB_HD uint32_t nib_encode_stochastic(nib_element_traits t, float a, uint32_t word)
{
    a = nib_min(a, t.max);
    const uint32_t binade = nib_binade_bits(t, a);
    const int e = (int)(binade >> 23) - 127;
    const float units = a * nib_pow2(t.m - e); /* exact, < 2^(m+1) */
    const uint32_t below = (uint32_t)units;
    const float u = (float)(word >> 8) * 0x1p-24f;
    return below + (u < units - (float)below) + ((uint32_t)(e - t.emin) << t.m);
}

/* Any f32 to a code with its sign; the conversion of the CUDA toolkit. */
NIB_HD uint32_t nib_element_from_f32(int element, float x)
{
    const nib_element_traits t = nib_element_traits_of(element);
    if (nib_is_nan(x)) return t.nan_code;
    return nib_encode_nearest(t, nib_abs(x)) | nib_bits_of(x) >> 31 << (t.bits - 1);
}

NIB_HD float nib_element_to_f32(int element, uint32_t code)
{
    const nib_element_traits t = nib_element_traits_of(element);
    const uint32_t sign = code >> (t.bits - 1) & 1, magnitude = code & ((1u << (t.bits - 1)) - 1);
    if (t.bits == 8 && magnitude > t.max_code) {
        const int is_inf = element == NIB_EL_E5M2 && magnitude == 0x7c;
        return nib_float_of(is_inf ? NIB_F32_INF_BITS | sign << 31 : NIB_F32_NAN_BITS);
    }
    return nib_float_of(nib_bits_of(nib_decode_magnitude(t, magnitude)) | sign << 31);
}

#endif
