/* half.h: f16 and bf16, nearest even. Overflow gives Inf, as IEEE 754 says and as the CUDA
 * toolkit's __float2half_rn and __float2bfloat16_rn do; every NaN becomes 0x7fff, as there. */
#ifndef NIB_HALF_H
#define NIB_HALF_H

#include "hd.h"

/* The values of nib_dtype. */
#define NIB_DT_F32  0
#define NIB_DT_F16  1
#define NIB_DT_BF16 2

NIB_HD uint16_t nib_f16_from_f32(float x)
{
    const uint32_t u = nib_bits_of(x), sign = u >> 16 & 0x8000u;
    const uint32_t a = u & 0x7fffffffu;
    if (a > NIB_F32_INF_BITS) return 0x7fff;
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* >= 65520 */
    if (a < 0x38800000u) { /* below 2^-14: multiples of 2^-24, which is the ulp of 0.5 */
        return (uint16_t)(sign | (nib_bits_of(nib_float_of(a) + 0.5f) - 0x3f000000u));
    }
    return (uint16_t)(sign | (((a + 0xfffu + (a >> 13 & 1)) >> 13) - (112u << 10)));
}

NIB_HD float nib_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, a = h & 0x7fffu;
    if (a >= 0x7c00u) return nib_float_of(sign | 0x7f800000u | (a & 0x3ffu) << 13);
    if (a < 0x400u) return nib_float_of(nib_bits_of((float)a * 0x1p-24f) | sign);
    return nib_float_of(sign | (a + (112u << 10)) << 13);
}

NIB_HD uint16_t nib_bf16_from_f32(float x)
{
    const uint32_t u = nib_bits_of(x);
    if ((u & 0x7fffffffu) > NIB_F32_INF_BITS) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

NIB_HD float nib_bf16_to_f32(uint16_t b) { return nib_float_of((uint32_t)b << 16); }

/* Element i of an array of the given dtype; exact. */
NIB_HD float nib_load_f32(int dtype, const void *data, int64_t i)
{
    if (dtype == NIB_DT_F32) return ((const float *)data)[i];
    const uint16_t h = ((const uint16_t *)data)[i];
    return dtype == NIB_DT_F16 ? nib_f16_to_f32(h) : nib_bf16_to_f32(h);
}

NIB_HD void nib_store_f32(int dtype, void *data, int64_t i, float x)
{
    if (dtype == NIB_DT_F32) ((float *)data)[i] = nib_canonical(x);
    else ((uint16_t *)data)[i] = dtype == NIB_DT_F16 ? nib_f16_from_f32(x) : nib_bf16_from_f32(x);
}

/* x rounded to dtype and back. */
NIB_HD float nib_round_to_dtype(int dtype, float x)
{
    return dtype == NIB_DT_F32 ? x
         : dtype == NIB_DT_F16 ? nib_f16_to_f32(nib_f16_from_f32(x))
                               : nib_bf16_to_f32(nib_bf16_from_f32(x));
}

#endif
