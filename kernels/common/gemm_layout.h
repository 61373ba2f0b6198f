/* gemm_layout.h: the order of packed weights, and what the GPUs' scales become in it.
 *
 * GPU families. A tile is 64 rows (n) x 64 columns (k), in the order of the A operand of mma
 * m16n8k16, four of them high (rt) and four wide (j). Sums do not care for the order of k, so a
 * lane's columns are chosen to be 16 neighbours: they are one block, and 32 bytes of activations.
 *
 *   lane = 4 * g + t      g = 0..7, t = 0..3
 *   register r, half e of mma j:   row    16 * rt + g + 8 * (r & 1)
 *                                  column 16 * t + 4 * j + 2 * (r >> 1) + e
 *   its B operand, register i:     column 16 * t + 4 * j + 2 * i + e, token g
 *
 * A lane has 4 registers x 2 halves = 8 codes, one word, for each mma; a chunk is its words
 * j = 0..3 for one rt: two rows of 16 neighbouring columns.
 *
 *   codes, 2048 bytes:  SM80    [rt 0..3][lane][j]                16 bytes a lane and load
 *                       SM100   [rt / 2][lane][rt % 2][j]         32 bytes
 *   scales              by 16   256 bytes  [g][t][rt][h]          h: row g + 8 * h
 *                       by 32   128        [g][t / 2][rt][h]
 *
 * Words. SM100: byte r = code of half 0 | code of half 1 << 4, what cvt.f16x2.e2m1x2 takes. SM80:
 * each half of the word has the 4 codes of its half e, signs and magnitudes apart, so that 11
 * instructions make four f16 pairs (value * 2^-14) of a word:
 *
 *   code  sign  magnitude   to f16: bits 15 and 11..9
 *   r=0   15    [11:9]      w        & 8e00
 *   r=1   12    [8:6]       w << 3   & 8e00
 *   r=2   14    [5:3]       w << 6   & 0e00 | w << 1 & 8000
 *   r=3   13    [2:0]       w << 9   & 0e00 | w << 2 & 8000
 *
 * Scales. E4M3 becomes S0E5M3 = half(s) >> 7, exact for every s >= 0 (a negative one negates its
 * codes; one that is 0 makes them 0, since bf16's decoding has no zero): half = byte << 7. E8M0
 * stays as it is; of a block of zeros it becomes the largest of the row's others in the tile, not
 * NaN, and 0 where there are none, so that it never raises a floor (gemm_floor.cuh).
 *
 * CPU. A tile is 8 rows x 32 columns: 128 bytes of codes, and of a block its 8 rows' scales, E4M3
 * as S0E5M3, E8M0 as they came. A row is a lane, of f32, and of 32-bit numbers whose bytes an int8
 * product sums up.
 *
 *   codes   vector v = 0..3, row r, byte b = 0..3, at 32 * v + 4 * r + b: low nibble of column
 *           8 * v + b, high nibble of column 8 * v + 4 + b
 *   scales  [block of the tile][r] */
#ifndef NIB_GEMM_LAYOUT_H
#define NIB_GEMM_LAYOUT_H

#include "layout.h"
#include "scale.h"

/* The values of nib_gemm_layout. */
#define NIB_GL_CPU   1
#define NIB_GL_SM80  2
#define NIB_GL_SM100 3

enum { NIB_GEMM_TILE = 64, NIB_GEMM_CODE_BYTES = 2048, NIB_GEMM_CHUNKS = 128,
       NIB_GEMM_CPU_TILE_ROWS = 8, NIB_GEMM_CPU_TILE_COLS = 32, NIB_GEMM_CPU_CODE_BYTES = 128 };

NIB_HD int64_t nib_gemm_round_up(int64_t x, int64_t unit) { return nib_ceil_div(x, unit) * unit; }

/* Row of the source that row n of a pack holds. gated: 8 rows of the gate, the same 8 of the other,
 * so that a lane's rows g and g + 8 are a pair. */
NIB_HD int64_t nib_gemm_source_row(int gated, int64_t rows, int64_t n)
{
    return gated ? n / 16 * 8 + n % 8 + (n % 16 / 8) * (rows / 2) : n;
}

NIB_HD int64_t nib_gemm_packed_row(int gated, int64_t rows, int64_t source)
{
    if (!gated) return source;
    const int64_t half = source >= rows / 2, j = source - half * (rows / 2);
    return j / 8 * 16 + j % 8 + half * 8;
}

/* ---- a GPU's chunks of a tile: chunk = rt * 32 + lane ---- */

/* Byte of the tile's codes where a chunk's 16 begin. */
NIB_HD int nib_gemm_chunk_at(int layout, int rt, int lane)
{
    return layout == NIB_GL_SM80 ? rt * 512 + lane * 16
                                 : rt / 2 * 1024 + lane * 32 + rt % 2 * 16;
}

/* The 8 codes of one mma, code 2 * r + e at bits 4 * (2 * r + e), to a word, and back. No arrays:
 * a GPU would put them into memory. */
NIB_HD uint32_t nib_gemm_word_of(int layout, uint32_t codes)
{
    uint32_t w = 0;
    if (layout != NIB_GL_SM80) return codes;
    for (int e = 0; e < 2; e++) {
        const uint32_t c = codes >> 4 * e; /* register r at bits 8 * r */
        const uint32_t half = (c & 7) << 9 | (c >> 8 & 7) << 6 | (c >> 16 & 7) << 3 | (c >> 24 & 7)
                            | (c >> 3 & 1) << 15 | (c >> 11 & 1) << 12 | (c >> 19 & 1) << 14
                            | (c >> 27 & 1) << 13;
        w |= half << 16 * e;
    }
    return w;
}

NIB_HD uint32_t nib_gemm_codes_of(int layout, uint32_t w)
{
    uint32_t codes = 0;
    if (layout != NIB_GL_SM80) return w;
    for (int e = 0; e < 2; e++) {
        const uint32_t half = w >> 16 * e;
        codes |= ((half >> 9 & 7) | (half >> 15 & 1) << 3 | (half >> 6 & 7) << 8
                  | (half >> 12 & 1) << 11 | (half >> 3 & 7) << 16 | (half >> 14 & 1) << 19
                  | (half & 7) << 24 | (half >> 13 & 1) << 27) << 4 * e;
    }
    return codes;
}

/* Rows and columns within the tile of code 2 * r + e of mma j of a chunk. */
NIB_HD int nib_gemm_chunk_row(int rt, int lane, int code)
{
    return 16 * rt + lane / 4 + 8 * (code / 2 & 1);
}

NIB_HD int nib_gemm_chunk_col(int lane, int j, int code)
{
    return 16 * (lane % 4) + 4 * j + 2 * (code / 4) + code % 2;
}

/* ---- scales of a GPU's tile ---- */

NIB_HD int nib_gemm_scale_tile_bytes(int block) { return NIB_GEMM_TILE * NIB_GEMM_TILE / block; }

/* Byte of the scale of row 16 * rt + g + 8 * h and the columns of t. */
NIB_HD int nib_gemm_scale_at(int block, int rt, int g, int h, int t)
{
    return (block == 16 ? g * 4 + t : g * 2 + t / 2) * 8 + rt * 2 + h;
}

/* |s| of an E4M3 byte as S0E5M3; NaN as 0xff, which f16 and bf16 decode to NaN. */
NIB_HD uint32_t nib_gemm_s0e5m3(uint32_t e4m3)
{
    const uint32_t magnitude = e4m3 & 0x7fu, e = magnitude >> 3;
    if (magnitude == NIB_E4M3_NAN) return 0xffu;
    if (e) return magnitude + (8u << 3); /* biases 7 and 15 */
    return magnitude ? (nib_bits_of((float)magnitude * 0x1p-9f) >> 20) - (112u << 3) : 0;
}

NIB_HD float nib_gemm_s0e5m3_to_f32(uint32_t byte)
{
    return byte == 0xffu ? nib_float_of(NIB_F32_NAN_BITS)
         : byte ? nib_float_of((byte << 20) + (112u << 23)) : 0.0f;
}

/* ---- a CPU's tile ---- */

NIB_HD nib_nibble nib_gemm_cpu_nibble(int row, int col) /* within the tile */
{
    const nib_nibble at = { col / 8 * 32 + row * 4 + col % 4, col % 8 / 4 * 4 };
    return at;
}

NIB_HD int nib_gemm_cpu_scale_at(int block, int row, int col) { return col / block * 8 + row; }

#endif
