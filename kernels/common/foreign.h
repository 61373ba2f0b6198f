/* foreign.h: decoders of ggml's block types, the ones that GGUF files bring.
 *
 * Each takes one block of bytes and writes its elements as f32. Layouts: ggml-common.h. Every
 * formula is that of ggml's reference decoder (ggml-quants.c, dequantize_row_*), in its order
 * of f32 operations and without contraction; the numpy decoders of the gguf package round
 * alike, so all three agree bit for bit while the f16 scales are finite. Where they are Inf or
 * NaN the result is too, but the sign and payload of a NaN are the machine's.
 *
 *            elems bytes                                                   value
 *     Q4_0   32    18   f16 d | 16 nibbles*                                d * (q - 8)
 *     Q4_1   32    20   f16 d, m | 16 nibbles*                             d * q + m
 *     Q5_0   32    22   f16 d | u32 fifth bits | 16 nibbles*               d * (q - 16)
 *     Q5_1   32    24   f16 d, m | u32 fifth bits | 16 nibbles*            d * q + m
 *     Q8_0   32    34   f16 d | 32 i8                                      d * q
 *     Q4_K   256   144  f16 d, dmin | 12 scales** | 128 nibbles            (d*s) * q - (dmin*m)
 *     Q5_K   256   176  f16 d, dmin | 12 scales** | 32 fifth bits | 128    (d*s) * q - (dmin*m)
 *     Q6_K   256   210  128 low nibbles | 64 upper 2 bits | 16 i8 s | d    (d*s) * (q - 32)
 *     MXFP4  32    17   e8m0 | 16 nibbles*                                 scale * e2m1
 *     NVFP4  64    36   4 ue4m3 | 4 x 8 nibbles*                           scale * e2m1
 *
 *     *  halves: byte j holds x[j] low and x[j + n/2] high, of the n elements it serves
 *     ** eight 6-bit s and eight 6-bit m, see nib_k_scale
 *
 * The FP4 types: ggml keeps 2 * e2m1 as int8 and halves the scale, so code 8, minus zero,
 * gives +0. Its e8m0 has no NaN: byte 255 is 2^128, and 254 or 255 times a large element is Inf.
 * Its ue4m3 byte drops bit 7; bytes 0x00 and 0x7f are 0; exponent 15 is ordinary, so 0x7e is
 * 448 and 0xff, whose test for NaN is on all eight bits, is 480. The tensor scale of NVFP4 lies
 * in another tensor, "<name>.scale", and is not applied here.
 */
#ifndef NIB_FOREIGN_H
#define NIB_FOREIGN_H

#include "half.h"
#include "scale.h"

/* ggml's type numbers. */
enum {
    NIB_GGML_F32 = 0, NIB_GGML_F16 = 1, NIB_GGML_Q4_0 = 2, NIB_GGML_Q4_1 = 3,
    NIB_GGML_Q5_0 = 6, NIB_GGML_Q5_1 = 7, NIB_GGML_Q8_0 = 8, NIB_GGML_Q4_K = 12,
    NIB_GGML_Q5_K = 13, NIB_GGML_Q6_K = 14, NIB_GGML_BF16 = 30, NIB_GGML_MXFP4 = 39,
    NIB_GGML_NVFP4 = 40
};

/* Elements of the largest block. */
#define NIB_FOREIGN_MAX_BLOCK 256

/* A block lies at any address. */
NIB_HD float nib_foreign_f16(const uint8_t *p)
{
    return nib_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

/* ---- steps: codes to small integers, then one multiplication each; both loops vectorise ---- */

/* q[j], q[j + n/2] = nibbles of byte j. */
NIB_HD void nib_nibbles_of_halves(const uint8_t *src, int n, int8_t *q)
{
    for (int j = 0; j < n / 2; j++) {
        q[j] = (int8_t)(src[j] & 15);
        q[j + n / 2] = (int8_t)(src[j] >> 4);
    }
}

/* q[j] += 16 where bit j of the 32 is set. */
NIB_HD void nib_add_fifth_bits(const uint8_t *bits, int8_t *q)
{
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 8; j++) q[8 * i + j] |= (int8_t)((bits[i] >> j & 1) << 4);
    }
}

NIB_HD void nib_scale_codes(const int8_t *q, int n, int zero, float d, float *dst)
{
    for (int j = 0; j < n; j++) dst[j] = (float)(int8_t)(q[j] - zero) * d;
}

NIB_HD void nib_scale_and_add(const int8_t *q, int n, float d, float m, float *dst)
{
    for (int j = 0; j < n; j++) dst[j] = (float)q[j] * d + m;
}

/* 2 * e2m1 of a code: 0 1 2 3 4 6 8 12, then the negatives. Bits only: compares and selects
 * would leave the byte lanes. */
NIB_HD int8_t nib_twice_e2m1(int8_t code)
{
    const int8_t m = code & 7, one_more = (int8_t)-(m >> 1 & 1);  /* masks: 0 or -1 */
    const int8_t large = (int8_t)-(m >> 2), negative = (int8_t)-(code >> 3);
    const int8_t base = (int8_t)(4 | (m & 1) << 1);               /* 4 or 6 */
    const int8_t doubled = (int8_t)(base + (base & one_more));    /* 4 6 8 12 */
    const int8_t v = (int8_t)((doubled & large) | (m & ~large));
    return (int8_t)((v ^ negative) - negative);
}

NIB_HD void nib_decode_e2m1_halves(const uint8_t *src, int n, float half_scale, float *dst)
{
    int8_t q[32];
    nib_nibbles_of_halves(src, n, q);
    for (int j = 0; j < n; j++) q[j] = nib_twice_e2m1(q[j]);
    nib_scale_codes(q, n, 0, half_scale, dst);
}

/* ---- blocks of 32 ---- */

NIB_HD void nib_decode_q4_0(const uint8_t *src, float *dst)
{
    int8_t q[32];
    nib_nibbles_of_halves(src + 2, 32, q);
    nib_scale_codes(q, 32, 8, nib_foreign_f16(src), dst);
}

NIB_HD void nib_decode_q4_1(const uint8_t *src, float *dst)
{
    int8_t q[32];
    nib_nibbles_of_halves(src + 4, 32, q);
    nib_scale_and_add(q, 32, nib_foreign_f16(src), nib_foreign_f16(src + 2), dst);
}

NIB_HD void nib_decode_q5_0(const uint8_t *src, float *dst)
{
    int8_t q[32];
    nib_nibbles_of_halves(src + 6, 32, q);
    nib_add_fifth_bits(src + 2, q);
    nib_scale_codes(q, 32, 16, nib_foreign_f16(src), dst);
}

NIB_HD void nib_decode_q5_1(const uint8_t *src, float *dst)
{
    int8_t q[32];
    nib_nibbles_of_halves(src + 8, 32, q);
    nib_add_fifth_bits(src + 4, q);
    nib_scale_and_add(q, 32, nib_foreign_f16(src), nib_foreign_f16(src + 2), dst);
}

NIB_HD void nib_decode_q8_0(const uint8_t *src, float *dst)
{
    const float d = nib_foreign_f16(src);
    for (int j = 0; j < 32; j++) dst[j] = (float)(int8_t)src[2 + j] * d;
}

/* Half of an e8m0 scale. ggml's bytes 0 and 1 are subnormal: 2^-128 and 2^-127. */
NIB_HD float nib_ggml_half_e8m0(uint8_t byte)
{
    return nib_float_of(byte < 2 ? 0x00200000u << byte : (uint32_t)(byte - 1) << 23);
}

NIB_HD void nib_decode_gguf_mxfp4(const uint8_t *src, float *dst)
{
    nib_decode_e2m1_halves(src + 1, 32, nib_ggml_half_e8m0(src[0]), dst);
}

/* ---- four blocks of 16 ---- */

/* Half of a ue4m3 scale. */
NIB_HD float nib_ggml_half_ue4m3(uint8_t byte)
{
    const uint32_t e = byte >> 3 & 15, f = byte & 7;
    if (byte == 0x00 || byte == 0x7f) return 0.0f;
    return e ? nib_float_of((e + 119) << 23 | f << 20) : (float)f * 0x1p-10f;
}

NIB_HD void nib_decode_gguf_nvfp4(const uint8_t *src, float *dst)
{
    for (int s = 0; s < 4; s++) {
        nib_decode_e2m1_halves(src + 4 + 8 * s, 16, nib_ggml_half_ue4m3(src[s]), dst + 16 * s);
    }
}

/* ---- blocks of 256 ---- */

/* Scale i (0..7) of the 12 bytes of Q4_K and Q5_K; which: 0 for s, 1 for m.
 *
 *     byte 0..3   s4..7 bits 5,4 | s0..3      byte 8..11  m4..7 bits 3..0 | s4..7 bits 3..0
 *     byte 4..7   m4..7 bits 5,4 | m0..3                                                  */
NIB_HD float nib_k_scale(const uint8_t *p, int i, int which)
{
    const uint8_t *six = p + 4 * which;
    return (float)(i < 4 ? six[i] & 63
                         : (p[i + 4] >> (4 * which) & 15) | six[i - 4] >> 6 << 4);
}

/* 64 elements per step j: the low nibbles of 32 bytes, then the high ones. fifth: NULL, or 32
 * bytes whose bit 2j + h goes with half h of step j. */
NIB_HD void nib_decode_k(const uint8_t *src, const uint8_t *fifth, const uint8_t *nibbles,
                         float *dst)
{
    const float d = nib_foreign_f16(src), dmin = nib_foreign_f16(src + 2);
    for (int j = 0; j < 4; j++) {
        int8_t q[64];
        nib_nibbles_of_halves(nibbles + 32 * j, 64, q);
        for (int l = 0; fifth && l < 32; l++) {
            q[l] |= (int8_t)((fifth[l] >> (2 * j) & 1) << 4);
            q[l + 32] |= (int8_t)((fifth[l] >> (2 * j + 1) & 1) << 4);
        }
        for (int h = 0; h < 2; h++) {
            nib_scale_and_add(q + 32 * h, 32, d * nib_k_scale(src + 4, 2 * j + h, 0),
                              -(dmin * nib_k_scale(src + 4, 2 * j + h, 1)),
                              dst + 64 * j + 32 * h);
        }
    }
}

NIB_HD void nib_decode_q4_k(const uint8_t *src, float *dst)
{
    nib_decode_k(src, NULL, src + 16, dst);
}

NIB_HD void nib_decode_q5_k(const uint8_t *src, float *dst)
{
    nib_decode_k(src, src + 16, src + 48, dst);
}

/* Half h has 64 bytes of low nibbles and 32 of upper bits: element 32g + l of it takes the low
 * (g < 2) or high nibble of byte l + 32(g%2), and bits 2g, 2g + 1 of upper byte l. */
NIB_HD void nib_decode_q6_k(const uint8_t *src, float *dst)
{
    const float d = nib_foreign_f16(src + 208);
    for (int h = 0; h < 2; h++) {
        const uint8_t *low = src + 64 * h, *high = src + 128 + 32 * h;
        int8_t q[128];
        nib_nibbles_of_halves(low, 128, q);
        for (int g = 0; g < 4; g++) {
            for (int l = 0; l < 32; l++) {
                q[32 * g + l] |= (int8_t)((high[l] >> (2 * g) & 3) << 4);
            }
        }
        for (int s = 0; s < 8; s++) {
            nib_scale_codes(q + 16 * s, 16, 32, d * (float)(int8_t)src[192 + 8 * h + s],
                            dst + 128 * h + 16 * s);
        }
    }
}

#endif
