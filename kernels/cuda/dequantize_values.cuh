/* dequantize_values.cuh: E2M1 codes to 16 bytes of values at once, for a step that is finite. Held
 * to nib_block_value and nib_store_f32 for all codes and scales by dequantize_emu_test.cu. */
#ifndef NIB_DEQUANTIZE_VALUES_CUH
#define NIB_DEQUANTIZE_VALUES_CUH

#include "kernels/common/block.h"
#include "ptx.cuh"

template <int dtype> __device__ __forceinline__ uint32_t pack_halves(float lo, float hi)
{
    return dtype == NIB_DT_F16 ? nib_ptx::cvt_f16x2(lo, hi) : nib_ptx::cvt_bf16x2(lo, hi);
}

/* 8 codes to f16 or bf16. A step has 8 magnitudes: they are rounded once and kept as a table of
 * their lower bytes and one of their upper ones, of which a byte permute picks four by four codes
 * without signs. The signs are the codes' own, since rounding does not know them; a NaN has none,
 * which is why the step is finite. */
template <int dtype> __device__ __forceinline__ uint4 e2m1_values8(uint32_t codes, float step)
{
    uint32_t pair[4], out[4];
    NIB_UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        pair[i] = pack_halves<dtype>(nib_block_value(NIB_EL_E2M1, 2 * i, step),
                                     nib_block_value(NIB_EL_E2M1, 2 * i + 1, step));
    }
    const uint32_t lower[2] = { __byte_perm(pair[0], pair[1], 0x6420),
                                __byte_perm(pair[2], pair[3], 0x6420) };
    const uint32_t upper[2] = { __byte_perm(pair[0], pair[1], 0x7531),
                                __byte_perm(pair[2], pair[3], 0x7531) };
    const uint32_t magnitudes = codes & 0x77777777u;
    const uint32_t even = codes << 4; /* its bytes have the even codes' signs on top */
    NIB_UNROLL
    for (int h = 0; h < 2; h++) {
        const uint32_t four = magnitudes >> (16 * h);
        const uint32_t signs = __byte_perm(even, codes, h ? 0x7362 : 0x5140) & 0x80808080u;
        const uint32_t lo = __byte_perm(lower[0], lower[1], four);
        const uint32_t hi = __byte_perm(upper[0], upper[1], four) | signs;
        out[2 * h] = __byte_perm(lo, hi, 0x5140);
        out[2 * h + 1] = __byte_perm(lo, hi, 0x7362);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

/* 4 codes, in the lower 16 bits, to f32. A code whose sign moves to bit 31 and whose magnitude to
 * bits 22..24 is a f32 of 2^-126 times its value, subnormals too; the scaling back is exact. */
__device__ __forceinline__ uint4 e2m1_values4(uint32_t codes, float step)
{
    uint32_t out[4];
    NIB_UNROLL
    for (int i = 0; i < 4; i++) {
        const int32_t top = (int32_t)(codes << (28 - 4 * i));
        const float small = nib_float_of((uint32_t)(top >> 6) & 0x81c00000u);
        out[i] = nib_bits_of(small * 0x1p126f * step);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

template <int dtype> __device__ __forceinline__ uint4 e2m1_values(uint32_t codes, float step)
{
    if constexpr (dtype == NIB_DT_F32) return e2m1_values4(codes, step);
    else return e2m1_values8<dtype>(codes, step);
}

/* nib_block_step. An E4M3 scale's bits, moved up to a f32's, are 2^-120 times its value. */
template <bool e4m3_scale> __device__ __forceinline__ float block_step(uint32_t byte, float t)
{
    if (!e4m3_scale) return nib_block_step(0, byte, t);
    const uint32_t magnitude = byte & 0x7f;
    const float scale = nib_float_of(magnitude << 20) * 0x1p120f;
    return (magnitude == NIB_E4M3_NAN ? nib_float_of(NIB_F32_NAN_BITS) : scale) * t;
}

#endif
