/* gemm_dequantize.cuh: a part of packed weights to a plain matrix of 16-bit numbers, W'.
 *
 *     E4M3         W' = w                          exact in f16 and in bf16
 *     E8M0, bf16   W' = w * 2^-2                   exact: 6 * 2^127 would not fit
 *     E8M0, f16    W' = w * 2^(13 - (E - 127))     E: the largest exponent of the row, or of the 64
 *                                                  columns. Exact for scales down to 2^36 below it,
 *                                                  others within 2^-35 * 2^(E - 127)
 *
 * W' lies in rows of packed order, from the part's first on, or in rows of the source's order. */
#ifndef NIB_GEMM_DEQUANTIZE_CUH
#define NIB_GEMM_DEQUANTIZE_CUH

#include "gemm_decode.cuh"
#include "gemm_tune.h"

struct GemmPart {
    const uint8_t *codes, *scales; /* of the whole pack */
    uint8_t       *top;     /* E8M0 with f16: E of each of the part's rows, or columns; else NULL */
    uint16_t      *to;      /* 16-byte aligned */
    int64_t        to_ld;   /* elements, a multiple of 8 */
    int64_t        ld_tiles, n, k; /* n, k: of all weights, without padding */
    int64_t        stripe, stripes, unit, units; /* the part, in tiles: first and how many */
    int32_t        block, gated;
    int32_t        backward; /* 1: all rows, in the source's order; E is of 64 columns */
};

enum { GEMM_TOP_LANES = NIB_GEMM_EXPONENTS_THREADS / NIB_GEMM_TILE,
       GEMM_DEQUANTIZE_WARPS = NIB_GEMM_DEQUANTIZE_THREADS / 32 };

/* ---- E8M0 with f16: the largest exponents ---- */

/* Blocks: a row of tiles, whose rows get an E each; backward: a column of tiles, which gets one.
 * Threads: 64 rows, each by GEMM_TOP_LANES. NaN's 255 is no exponent. */
static __global__ void __launch_bounds__(NIB_GEMM_EXPONENTS_THREADS)
gemm_exponents(const GemmPart p)
{
    NIB_SHARED(int, best, [GEMM_TOP_LANES][NIB_GEMM_TILE]);
    const int row = (int)threadIdx.x % NIB_GEMM_TILE, lane = (int)threadIdx.x / NIB_GEMM_TILE;
    const int tile_bytes = nib_gemm_scale_tile_bytes(p.block), log2 = p.block == 16 ? 2 : 1;
    const int64_t step = (p.backward ? p.ld_tiles : 1) * tile_bytes;
    const int64_t first = p.backward ? p.stripe * p.ld_tiles + p.unit + blockIdx.x
                                     : (p.stripe + blockIdx.x) * p.ld_tiles + p.unit;
    const int64_t count = p.backward ? p.stripes : p.units;
    const uint8_t *at = p.scales + first * tile_bytes
                      + nib_gemm_scale_at(p.block, row / 16, row % 8, row % 16 / 8, 0);
    int most = 0;
    for (int64_t i = lane; i < count << log2; i += 4 * GEMM_TOP_LANES) {
        NIB_UNROLL
        for (int j = 0; j < 4; j++) { /* block t % (1 << log2) of a tile */
            const int64_t t = i + j * GEMM_TOP_LANES;
            const int     b = (int)t & ((1 << log2) - 1);
            const int     e = t < count << log2 ? (int)at[(t >> log2) * step + b * 8] : 0;
            most = e != (int)NIB_E8M0_NAN && e > most ? e : most;
        }
    }
    best[lane][row] = most;
    __syncthreads();
    if (lane) return;
    NIB_NO_UNROLL
    for (int i = 0; i < GEMM_TOP_LANES; i++) {
        NIB_NO_UNROLL
        for (int j = 0; j < (p.backward ? NIB_GEMM_TILE : 1); j++) {
            const int e = best[i][(row + j) % NIB_GEMM_TILE];
            most = e > most ? e : most;
        }
    }
    p.top[(int64_t)blockIdx.x * NIB_GEMM_TILE + row] = (uint8_t)most;
}

/* ---- a lane's share of a tile: 4 row tiles of 2 rows and 16 columns ---- */

/* Both halves: what makes W' of whole codes. top: of the row or the column. */
template <int dtype> __device__ __forceinline__ uint32_t gemm_part_factor(int e, int top)
{
    uint32_t half;
    if constexpr (dtype == NIB_DT_F16) { /* 2^(13 - (top - e)), which f16 has down to 2^-24 */
        const int normal = 28 - (top - e);
        half = normal > 0 ? (uint32_t)normal << 10 : normal > -10 ? 0x400u >> (1 - normal) : 0u;
        half = e == (int)NIB_E8M0_NAN ? 0x7e00u : half;
    } else { /* 2^(e - 129), down to 2^-129 */
        const int normal = e - 2;
        half = normal > 0 ? (uint32_t)normal << 7 : 0x80u >> (1 - normal);
        half = e == (int)NIB_E8M0_NAN ? 0x7fc0u : half;
    }
    return half | half << 16;
}

template <int layout, int dtype>
__device__ __forceinline__ void gemm_part_pairs(uint32_t word, uint32_t (&pair)[4])
{
    if constexpr (layout == NIB_GL_SM80 && dtype == NIB_DT_F16) gemm_codes_sm80_f16(word, pair);
    else if constexpr (layout == NIB_GL_SM80) gemm_codes_sm80_bf16(word, pair);
    else if constexpr (dtype == NIB_DT_F16) gemm_codes_sm100_f16(word, pair);
    else gemm_codes_sm100_bf16(word, pair);
}

template <int dtype> __device__ __forceinline__ uint32_t gemm_part_mul(uint32_t a, uint32_t b)
{
    if constexpr (dtype == NIB_DT_F16) return nib_ptx::mul_f16x2(a, b);
    else return nib_ptx::mul_bf16x2(a, b);
}

/* The 4 pairs of a word, rows g and g + 8 in turn, as W'. Codes come out as value * 2^-14 (f16),
 * 2^-126 (bf16) or, of SM100, whole; E4M3 scales as s, but of SM80's bf16 as s * 2^112. */
template <int layout, int dtype, int scale>
__device__ __forceinline__ void gemm_part_values(uint32_t word, const uint32_t (&by)[2],
                                                 uint32_t (&pair)[4])
{
    constexpr bool     whole = layout == NIB_GL_SM100;
    constexpr bool     f16_first = whole && scale == GEMM_E4M3; /* times s in f16, exactly */
    constexpr uint32_t up14 = dtype == NIB_DT_F16 ? 0x74007400u : 0x46804680u;
    constexpr uint32_t up126 = 0x7e807e80u;
    gemm_part_pairs<layout, f16_first ? NIB_DT_F16 : dtype>(word, pair);
    NIB_UNROLL
    for (int r = 0; r < 4; r++) {
        if constexpr (f16_first) {
            pair[r] = nib_ptx::mul_f16x2(pair[r], by[r % 2]);
        } else if constexpr (scale == GEMM_E4M3) {
            pair[r] = gemm_part_mul<dtype>(gemm_part_mul<dtype>(pair[r], by[r % 2]), up14);
        } else {
            if constexpr (!whole)
                pair[r] = gemm_part_mul<dtype>(pair[r], dtype == NIB_DT_F16 ? up14 : up126);
            pair[r] = gemm_part_mul<dtype>(pair[r], by[r % 2]);
        }
    }
    if constexpr (f16_first && dtype == NIB_DT_BF16) gemm_f16_to_bf16(pair);
}

/* 16 columns of one row, of which lane % 4 has the t-th. Neighbours exchange halves, so that a
 * store's 32 bytes are whole sectors. */
__device__ __forceinline__ void gemm_part_store(const GemmPart &p, int64_t n, int64_t column,
                                                int lane, const uint32_t (&v)[8])
{
    const int odd = lane % 2;
    uint32_t  got[4], first[4], second[4];
    NIB_UNROLL
    for (int i = 0; i < 4; i++) {
        got[i] = __shfl_xor_sync(0xffffffffu, odd ? v[i] : v[4 + i], 1);
        first[i] = odd ? got[i] : v[i];
        second[i] = odd ? v[4 + i] : got[i];
    }
    const int64_t at = column + 16 * (lane % 4 - odd) + 8 * odd; /* first; second is 16 behind */
    const int64_t row = p.backward ? nib_gemm_source_row(p.gated, p.n, n)
                                   : n - p.stripe * NIB_GEMM_TILE;
    uint16_t *const to = p.to + row * p.to_ld + at - p.unit * NIB_GEMM_TILE;
    if (n < p.n && at < p.k)
        __stcg((uint4 *)to, make_uint4(first[0], first[1], first[2], first[3]));
    if (n < p.n && at + 16 < p.k)
        __stcg((uint4 *)(to + 16), make_uint4(second[0], second[1], second[2], second[3]));
}

template <int layout>
constexpr bool gemm_part_here = layout == NIB_GL_SM80 ? NIB_HAS_GEMM_SM80 : NIB_HAS_GEMM_SM100;

/* A warp a tile. */
template <int layout, int dtype, int scale>
static __global__ void __launch_bounds__(NIB_GEMM_DEQUANTIZE_THREADS)
gemm_dequantize(const GemmPart p)
{
    if constexpr (gemm_part_here<layout>) {
        const int lane = (int)threadIdx.x % 32;
        const int64_t i = (int64_t)blockIdx.x * GEMM_DEQUANTIZE_WARPS + threadIdx.x / 32;
        if (i >= p.stripes * p.units) return;
        const int64_t stripe = p.stripe + i / p.units, unit = p.unit + i % p.units;
        const int64_t tile = stripe * p.ld_tiles + unit;
        const uint8_t *const codes = p.codes + tile * NIB_GEMM_CODE_BYTES;
        uint4 code[4];
        GemmScales<4> scales;
        NIB_UNROLL
        for (int rt = 0; rt < 4; rt++) {
            const uint8_t *const at = codes + nib_gemm_chunk_at(layout, rt, lane);
            if constexpr (layout == NIB_GL_SM80) {
                code[rt] = nib_ptx::ld_once((const uint4 *)at);
            } else if (rt % 2 == 0) { /* two row tiles' lie together, a sector */
                const nib_ptx::Bytes32 v = nib_ptx::ld_once((const nib_ptx::Bytes32 *)at);
                code[rt] = v.lo, code[rt + 1] = v.hi;
            }
        }
        gemm_load_scales<false>(p.scales + tile * nib_gemm_scale_tile_bytes(p.block)
                                    + gemm_scales_at(p.block, lane), 0, &scales);
        NIB_UNROLL
        for (int rt = 0; rt < 4; rt++) {
            const int64_t  n = stripe * NIB_GEMM_TILE + 16 * rt + lane / 4;
            const uint32_t word[4] = { code[rt].x, code[rt].y, code[rt].z, code[rt].w };
            uint32_t       by[2], row[2][8];
            NIB_UNROLL
            for (int h = 0; h < 2; h++) {
                if constexpr (scale == GEMM_E4M3) {
                    by[h] = gemm_scale_e4m3<layout == NIB_GL_SM100 ? NIB_DT_F16 : dtype>(
                        scales.word[rt / 2], rt % 2 * 2 + h);
                } else {
                    const int64_t at = p.backward ? (unit - p.unit) * NIB_GEMM_TILE
                                                  : n + 8 * h - p.stripe * NIB_GEMM_TILE;
                    const uint32_t e = scales.word[rt / 2] >> (rt % 2 * 2 + h) * 8 & 255u;
                    by[h] = gemm_part_factor<dtype>((int)e,
                                                    dtype == NIB_DT_F16 ? (int)p.top[at] : 0);
                }
            }
            NIB_UNROLL
            for (int j = 0; j < 4; j++) {
                uint32_t pair[4];
                gemm_part_values<layout, dtype, scale>(word[j], by, pair);
                NIB_UNROLL
                for (int r = 0; r < 4; r++) row[r % 2][2 * j + r / 2] = pair[r];
            }
            gemm_part_store(p, n, unit * NIB_GEMM_TILE, lane, row[0]);
            gemm_part_store(p, n + 8, unit * NIB_GEMM_TILE, lane, row[1]);
        }
    } else {
        gemm_no_image(), (void)p;
    }
}

#endif
