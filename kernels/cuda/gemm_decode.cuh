/* gemm_decode.cuh: packed weights to the A operand of mma m16n8k16: kernels/common/gemm_layout.h.
 *
 *     pair[r] = word's codes of register r, two halves, times their row's scale, exact in f16 and
 *               bf16 (E2M1 x E4M3 has 6 significant bits) but for E8M0 blocks far below their row
 *
 * What comes out lacks a power of two, one for all (E4M3) or one a row (E8M0), which goes into the
 * product's f32 end. Instructions for a word of 8 codes, by nvcc 13.0 (all 4 targets):
 *
 *     f16    11 + 4 products     the interleaved layout: 6 LOP3, 5 shifts
 *     bf16   13 + 4 products     the same words
 *     sm_100 4 cvt + 4 products (f16), 16 + 4 (bf16)
 *
 * and 2 for each scale of a lane, which serves 4 words; E8M0 about the same. */
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

/* Of E8M0, as gemm_settle leaves byte i: f16's upper byte; for bf16 exponent's bits less field. */
template <int dtype, int field>
__device__ __forceinline__ uint32_t gemm_scale_e8m0(uint32_t word, int i)
{
    if constexpr (dtype == NIB_DT_F16)
        return __byte_perm(word, 0, 0x0404u + 0x1010u * (unsigned)i); /* 0, i, 0, i */
    return __byte_perm(word, 0, 0x4040u + 0x0101u * (unsigned)i) * 128u + field * 0x00800080u;
}

/* A lane's scales in one tile: of 2 row tiles a word, [rt][h]. */
template <int tiles> struct GemmScales {
    uint32_t word[tiles / 2];
};

template <bool shared, class T> __device__ __forceinline__ T gemm_load(const T *p)
{
    if constexpr (shared) return *p;
    else return __ldg(p); /* not once: several loads share a sector, which L1 then has */
}

/* Where in a tile's scales a lane's are, of row tile 0. */
__device__ __forceinline__ int gemm_scales_at(int block, int lane)
{
    return nib_gemm_scale_at(block, 0, lane / 4, 0, lane % 4);
}

/* Of row tiles rt0 .. rt0 + tiles - 1, both even, from at = the tile's scales + gemm_scales_at.
 * shared: they lie in shared memory, else in global. */
template <bool shared, int tiles>
__device__ __forceinline__ void gemm_load_scales(const uint8_t *at, int rt0, GemmScales<tiles> *to)
{
    if constexpr (tiles == 4) {
        const uint2 v = gemm_load<shared>((const uint2 *)at);
        to->word[0] = v.x, to->word[1] = v.y;
    } else {
        to->word[0] = gemm_load<shared>((const uint32_t *)(at + 2 * rt0));
    }
}

__device__ __forceinline__ uint32_t gemm_word(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* ---- all of it, for one kind of kernel ---- */

template <int layout_, int dtype_, int scale_, bool f16_sums_> struct GemmKind {
    static constexpr int  layout = layout_, dtype = dtype_, scale = scale_;
    static constexpr bool f16_sums = f16_sums_;
    static constexpr bool whole = layout == NIB_GL_SM100; /* codes' values as they are */
    static constexpr bool f16_first = whole && scale == GEMM_E4M3; /* times s in f16, exactly */
    static constexpr bool lowered = whole && f16_sums; /* codes times 2^-14, so that f16 sums do not
                                                          overflow; SM80's are so anyway */

    /* E8M0, see gemm_floor.cuh: how far e may lie above its floor; by how much more than a row's
     * largest e yet; the exponent's bits of a scale at its floor; and log2 of what a row with
     * floor 0 lacks, of F16 sums but for 2^7, which GemmJob's factor has: f32 ends at 2^127. */
    static constexpr bool e8m0_f16 = dtype == NIB_DT_F16;
    static constexpr int  span = e8m0_f16 ? 15 : 127;
    static constexpr int  above = !e8m0_f16 ? 7 : f16_sums ? 1 : 2;
    static constexpr int  field = !e8m0_f16 ? (whole ? 1 : 127) : f16_sums ? 8 : whole ? 13 : 15;
    static constexpr int  row_log2 = !e8m0_f16 ? -1 : whole && !f16_sums ? -125 : -113;

    static __device__ __forceinline__ void codes(uint32_t w, uint32_t (&pair)[4])
    {
        if constexpr (layout == NIB_GL_SM80 && dtype == NIB_DT_F16) gemm_codes_sm80_f16(w, pair);
        else if constexpr (layout == NIB_GL_SM80) gemm_codes_sm80_bf16(w, pair);
        else if constexpr (f16_first || dtype == NIB_DT_F16) gemm_codes_sm100_f16(w, pair);
        else gemm_codes_sm100_bf16(w, pair);
        if constexpr (lowered) {
            for (int r = 0; r < 4; r++) pair[r] = nib_ptx::mul_f16x2(pair[r], 0x04000400u);
        }
    }

    /* Bytes e - floor to what pair_scale takes: of f16 a half's upper byte. */
    static __device__ __forceinline__ uint32_t scale_bytes(uint32_t d)
    {
        return e8m0_f16 ? d * 4u + (uint32_t)field * 0x04040404u : d;
    }

    /* Scales of rows g (h = 0) and g + 8 of row tile i for the lane's columns; E8M0: settled. */
    template <int tiles>
    static __device__ __forceinline__ uint32_t pair_scale(const GemmScales<tiles> &s, int i, int h)
    {
        const uint32_t word = s.word[i / 2];
        const int      byte = i % 2 * 2 + h;
        if constexpr (scale == GEMM_E4M3)
            return gemm_scale_e4m3<f16_first ? NIB_DT_F16 : dtype>(word, byte);
        else return gemm_scale_e8m0<dtype, field>(word, byte);
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
