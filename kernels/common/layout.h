/* layout.h: where a code and a scale lie, and the inverse maps. */
#ifndef NIB_LAYOUT_H
#define NIB_LAYOUT_H

#include "hd.h"

NIB_HD int64_t nib_ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

/* ---- nibbles ----
 *   pairs        byte i : | hi: x[2i+1] | lo: x[2i] |
 *   GGUF halves  byte j of a block of B : | hi: x[j + B/2] | lo: x[j] |                    */
typedef struct nib_nibble {
    int64_t byte;
    int     shift; /* 0 or 4 */
} nib_nibble;

NIB_HD nib_nibble nib_nibble_pairs(int64_t col)
{
    const nib_nibble n = { col / 2, (int)(col % 2) * 4 };
    return n;
}

NIB_HD int64_t nib_nibble_pairs_inverse(nib_nibble n) { return n.byte * 2 + n.shift / 4; }

NIB_HD nib_nibble nib_nibble_halves(int64_t col, int block)
{
    const int half = block / 2, in = (int)(col % block);
    const nib_nibble n = { col / block * half + in % half, in / half * 4 };
    return n;
}

NIB_HD int64_t nib_nibble_halves_inverse(nib_nibble n, int block)
{
    const int half = block / 2;
    return n.byte / half * block + n.byte % half + n.shift / 4 * half;
}

/* ---- six-bit codes: 4 in 3 bytes, code i at bits 6i..6i+5 of the little-endian string ---- */
NIB_HD int64_t nib_six_bit_byte(int64_t col) { return col * 6 / 8; }
NIB_HD int     nib_six_bit_shift(int64_t col) { return (int)(col * 6 % 8); }

/* ---- scales: one 512-byte tile holds 128 rows x 4 columns ----
 *   16-byte line m%32 : | m k0..3 | m+32 k0..3 | m+64 k0..3 | m+96 k0..3 |                  */
NIB_HD int64_t nib_swizzle_128x4(int64_t m, int64_t k, int64_t scale_cols)
{
    return (m / 128 * nib_ceil_div(scale_cols, 4) + k / 4) * 512
         + m % 32 * 16 + m % 128 / 32 * 4 + k % 4;
}

NIB_HD void nib_swizzle_128x4_inverse(int64_t offset, int64_t scale_cols, int64_t *m, int64_t *k)
{
    const int64_t tile = offset / 512, in = offset % 512, tiles = nib_ceil_div(scale_cols, 4);
    *m = tile / tiles * 128 + in % 16 / 4 * 32 + in / 16;
    *k = tile % tiles * 4 + in % 4;
}

#endif
