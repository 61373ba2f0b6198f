/* gemm_decode.cuh: packed weights to the A operand of mma m16n8k16: kernels/common/gemm_layout.h.
 *
 *     pair[r] = word's codes of register r, two halves, times their row's scale, exact in f16 and
 *               bf16 (E2M1 x E4M3 has 6 significant bits) but for E8M0 blocks far below their row
 *
 * What comes out is w * scale / factor, with factor NIB_..._FACTOR, a power of two that goes into
 * the product's f32 end. Instructions for a word of 8 codes, by nvcc 13.0 (all 4 targets):
 *
 *     f16    11 + 4 products     the interleaved layout: 6 LOP3, 5 shifts
 *     bf16   13 + 4 products     the same words
 *     sm_100 4 cvt + 4 products (f16), 16 + 4 (bf16)
 *
 * and 2 for each scale of a lane, which serves 4 words. */
#ifndef NIB_GEMM_DECODE_CUH
#define NIB_GEMM_DECODE_CUH

#include "gemm_job.cuh"
#include "ptx.cuh"

/* Which layouts this compilation's target will meet: a GPU takes its own family's. PTX for later
 * GPUs has both. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1000
#define NIB_HAS_GEMM_SM80 1
#else
#define NIB_HAS_GEMM_SM80 0
#endif
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 1000 \
    || (__CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL))
#define NIB_HAS_GEMM_SM100 1
#else
#define NIB_HAS_GEMM_SM100 0
#endif

template <int layout>
constexpr bool gemm_has_layout = layout == NIB_GL_SM80 ? NIB_HAS_GEMM_SM80 : NIB_HAS_GEMM_SM100;

/* What a kernel of another family than its GPU's does: a build of old PTX alone would otherwise
 * leave D unwritten without a word. */
__device__ __forceinline__ void gemm_no_image()
{
#ifdef __CUDA_ARCH__
    __trap();
#endif
}

/* ---- codes: value * 2^-14 (f16) or 2^-126 (bf16), or, by hardware, f16 as they are ---- */

__device__ __forceinline__ void gemm_codes_sm80_f16(uint32_t w, uint32_t (&pair)[4])
{
    pair[0] = w & 0x8e008e00u;
    pair[1] = (w << 3) & 0x8e008e00u;
    pair[2] = ((w << 6) & 0x0e000e00u) | ((w << 1) & 0x80008000u);
    pair[3] = ((w << 9) & 0x0e000e00u) | ((w << 2) & 0x80008000u);
}

__device__ __forceinline__ void gemm_codes_sm80_bf16(uint32_t w, uint32_t (&pair)[4])
{
    pair[0] = ((w >> 3) & 0x01c001c0u) | (w & 0x80008000u);
    pair[1] = (w & 0x01c001c0u) | ((w << 3) & 0x80008000u);
    pair[2] = ((w << 3) & 0x01c001c0u) | ((w << 1) & 0x80008000u);
    pair[3] = ((w << 6) & 0x01c001c0u) | ((w << 2) & 0x80008000u);
}

/* Byte r of the word, half 0 | half 1 << 4, as it is, in f16. */
template <int r> __device__ __forceinline__ uint32_t gemm_pair_sm100(uint32_t w)
{
#if NIB_HAS_CVT_E2M1
    return nib_ptx::cvt_f16x2_e2m1x2<r>(w);
#else /* each half's code to its top, bits 15 and 14..12, with others below it; times 2^14 */
    const uint32_t y = __byte_perm(w, w << 4, 0x0044u + 0x1111u * (unsigned)r);
    return nib_ptx::mul_f16x2(((y >> 3) & 0x0e000e00u) | (y & 0x80008000u), 0x74007400u);
#endif
}

__device__ __forceinline__ void gemm_codes_sm100_f16(uint32_t w, uint32_t (&pair)[4])
{
    pair[0] = gemm_pair_sm100<0>(w), pair[1] = gemm_pair_sm100<1>(w);
    pair[2] = gemm_pair_sm100<2>(w), pair[3] = gemm_pair_sm100<3>(w);
}

/* By way of f32: no conversion leads to bf16 from f16 or E2M1, and shifts and masks take more of
 * the pipe that has the least to spare. */
__device__ __forceinline__ void gemm_f16_to_bf16(uint32_t (&pair)[4])
{
    NIB_UNROLL
    for (int r = 0; r < 4; r++) {
        pair[r] = nib_ptx::cvt_bf16x2(nib_ptx::cvt_f32_f16(pair[r] & 0xffffu),
                                      nib_ptx::cvt_f32_f16(pair[r] >> 16));
    }
}

__device__ __forceinline__ void gemm_codes_sm100_bf16(uint32_t w, uint32_t (&pair)[4])
{
    gemm_codes_sm100_f16(w, pair);
    gemm_f16_to_bf16(pair);
}

/* ---- scales, as pairs of equal halves ---- */

/* byte: S0E5M3, at byte i of the word, to s (f16) or s * 2^112 (bf16). 0, whose codes are 0 too,
 * becomes a power of two in bf16; 0xff is NaN in both, which s itself in bf16 would not be. */
template <int dtype> __device__ __forceinline__ uint32_t gemm_scale_e4m3(uint32_t word, int i)
{
    const uint32_t both = __byte_perm(word, 0, 0x4040u + 0x0101u * (unsigned)i); /* i, 0, i, 0 */
    return dtype == NIB_DT_F16 ? both * 128u : both * 16u + 0x70007000u;
}

/* 2^(base - below), or 0 for 63; of a ready entry, see gemm_ready_scales. f16 holds what is above
 * 2^-25: the rest rounds to 0. */
template <int dtype, int base> __device__ __forceinline__ uint32_t gemm_scale_e8m0(uint32_t entry)
{
    const uint32_t below = entry & 0x1f800000u, bits = ((uint32_t)(127 + base) << 23) - below;
    if constexpr (dtype == NIB_DT_F16) {
        return nib_ptx::cvt_f16x2(nib_float_of(bits), nib_float_of(bits));
    } else {
        return below == 63u << 23 ? 0u : __byte_perm(bits, 0, 0x3232); /* the upper half, twice */
    }
}

/* The f32 scale 2^(E - 127) of an entry's row; E = 0 is 2^-127, 255 NaN. */
__device__ __forceinline__ float gemm_row_scale(uint32_t entry)
{
    const uint32_t e = entry & 255u, bits = e << 23;
    return nib_float_of(e == 255u ? NIB_F32_NAN_BITS : bits > 0x00400000u ? bits : 0x00400000u);
}

/* A lane's scales in one tile, E4M3: of 2 row tiles a word; E8M0: an entry a row. */
template <int scale, int tiles> struct GemmScales {
    uint32_t word[scale == GEMM_E4M3 ? tiles / 2 : tiles * 2];
};

template <bool shared, class T> __device__ __forceinline__ T gemm_load(const T *p)
{
    if constexpr (shared) return *p;
    else return __ldg(p); /* not once: several loads share a sector, which L1 then has */
}

/* Where in a tile's scales a lane's are, of row tile 0. */
template <int scale> __device__ __forceinline__ int gemm_scales_at(int block, int lane)
{
    if constexpr (scale == GEMM_E4M3) return nib_gemm_e4m3_at(block, 0, lane / 4, 0, lane % 4);
    else return lane / 4 * nib_gemm_e8m0_at(block == 16 ? 16 : 32, 0, 1, 0);
}

/* Of row tiles rt0 .. rt0 + tiles - 1 (E4M3: rt0 and tiles even), from at = the tile's scales +
 * gemm_scales_at. shared: they lie in shared memory, else in global. */
template <bool shared, int scale, int tiles>
__device__ __forceinline__ void gemm_load_scales(const uint8_t *at, int block, int rt0,
                                                 GemmScales<scale, tiles> *to)
{
    if constexpr (scale == GEMM_E4M3) {
        if constexpr (tiles == 4) {
            const uint2 v = gemm_load<shared>((const uint2 *)at);
            to->word[0] = v.x, to->word[1] = v.y;
        } else {
            to->word[0] = gemm_load<shared>((const uint32_t *)(at + 2 * rt0));
        }
    } else if (block == 32) {
        NIB_UNROLL
        for (int i = 0; i < tiles; i++) { /* a row tile: rows g and g + 8 */
            const uint32_t both = gemm_load<shared>((const uint32_t *)at + rt0 + i);
            to->word[2 * i] = both & 0xffffu, to->word[2 * i + 1] = both >> 16;
        }
    } else {
        NIB_UNROLL
        for (int i = 0; i < tiles; i++) {
            const uint2 v = gemm_load<shared>((const uint2 *)at + rt0 + i);
            to->word[2 * i] = v.x, to->word[2 * i + 1] = v.y;
        }
    }
}

__device__ __forceinline__ uint32_t gemm_word(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* After the load: of E8M0 entries bits 23..28 become how far below E the lane's block is; bits 0..7
 * stay E, the others mean nothing. */
template <int scale, int tiles>
__device__ __forceinline__ void gemm_ready_scales(int block, int lane, GemmScales<scale, tiles> *s)
{
    if constexpr (scale == GEMM_E8M0) {
        const int t = lane % 4;
        if (block == 16) { /* bits 8 + 6 * t ...: to the left, for t = 3 to the right */
            NIB_UNROLL
            for (int i = 0; i < tiles * 2; i++) {
                const uint32_t w = s->word[i];
                const uint32_t moved = __funnelshift_l(w, w, (uint32_t)(15 - 6 * t));
                s->word[i] = (moved & 0x1f800000u) | (w & ~0x1f800000u);
            }
        } else {
            const int sign = t < 2 ? 1 << 23 : -(1 << 23);
            NIB_UNROLL
            for (int i = 0; i < tiles * 2; i++) {
                const int below = sign * (int)(int8_t)(s->word[i] >> 8 & 255u);
                s->word[i] = (s->word[i] & 255u) | (uint32_t)(below > 0 ? below : 0);
            }
        }
    }
}

/* ---- all of it, for one kind of kernel ---- */

template <int layout_, int dtype_, int scale_, bool f16_sums_> struct GemmKind {
    static constexpr int  layout = layout_, dtype = dtype_, scale = scale_;
    static constexpr bool f16_sums = f16_sums_;
    static constexpr bool whole = layout == NIB_GL_SM100; /* codes' values as they are */
    static constexpr bool f16_first = whole && scale == GEMM_E4M3; /* times s in f16, exactly */
    static constexpr bool in_parts = f16_sums || scale == GEMM_E8M0; /* sums of a tile apart, added
                                                                        times the row's scale */
    /* Decoded weights are w * 2^-factor_log2: E4M3 14, so that f16 sums do not overflow. */
    static constexpr int factor_log2 = scale == GEMM_E8M0 ? (f16_sums ? 6 : 0)
                                     : whole && !f16_sums ? 0 : 14;

    static __device__ __forceinline__ void codes(uint32_t w, uint32_t (&pair)[4])
    {
        if constexpr (layout == NIB_GL_SM80 && dtype == NIB_DT_F16) gemm_codes_sm80_f16(w, pair);
        else if constexpr (layout == NIB_GL_SM80) gemm_codes_sm80_bf16(w, pair);
        else if constexpr (f16_first || dtype == NIB_DT_F16) gemm_codes_sm100_f16(w, pair);
        else gemm_codes_sm100_bf16(w, pair);
        if constexpr (whole && factor_log2 == 14) {
            for (int r = 0; r < 4; r++) pair[r] = nib_ptx::mul_f16x2(pair[r], 0x04000400u);
        }
    }

    /* Scales of rows g (h = 0) and g + 8 of row tile i for the lane's columns; s is ready. */
    template <int tiles>
    static __device__ __forceinline__ uint32_t pair_scale(const GemmScales<scale, tiles> &s, int i,
                                                          int h)
    {
        if constexpr (scale == GEMM_E4M3) {
            return gemm_scale_e4m3<f16_first ? NIB_DT_F16 : dtype>(s.word[i / 2], i % 2 * 2 + h);
        } else {
            constexpr int base = (whole ? 0 : dtype == NIB_DT_BF16 ? 126 : 14) - factor_log2;
            return gemm_scale_e8m0<dtype, base>(s.word[2 * i + h]);
        }
    }

    template <int tiles>
    static __device__ __forceinline__ float row_scale(const GemmScales<scale, tiles> &s, int i,
                                                      int h)
    {
        if constexpr (scale == GEMM_E4M3) return 1.0f;
        else return gemm_row_scale(s.word[2 * i + h]);
    }

    /* The A operand of one mma. */
    static __device__ __forceinline__ void weights(uint32_t w, uint32_t scale_g, uint32_t scale_g8,
                                                   uint32_t (&pair)[4])
    {
        codes(w, pair);
        NIB_UNROLL
        for (int r = 0; r < 4; r++) {
            const uint32_t by = r % 2 ? scale_g8 : scale_g;
            pair[r] = f16_first || dtype == NIB_DT_F16 ? nib_ptx::mul_f16x2(pair[r], by)
                                                       : nib_ptx::mul_bf16x2(pair[r], by);
        }
        if constexpr (f16_first && dtype == NIB_DT_BF16) gemm_f16_to_bf16(pair);
    }

    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4],
                                               const uint32_t (&b)[2])
    {
        if constexpr (dtype == NIB_DT_F16) nib_ptx::mma_f16_f32(d, a, b);
        else nib_ptx::mma_bf16_f32(d, a, b);
    }
};

#endif
