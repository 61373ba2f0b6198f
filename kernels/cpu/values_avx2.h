/* values_avx2.h: steps of a row's blocks and values of its E2M1 codes. */
#ifndef NIB_VALUES_AVX2_H
#define NIB_VALUES_AVX2_H

#include "dequantize_cpu.h"
#include "scale8_avx2.h"

/* 1 for the packed matrices that this file reads. */
static inline int nib_has_values32(const nib_packed *p)
{
    const int block = nib_part_block(p->format);
    return nib_part_element(p->format) == NIB_EL_E2M1 && (block == 16 || block == 32)
        && p->code_order == NIB_CODES_PAIRS;
}

/* 16 bytes of codes to 32 values, in order. Each E2M1 value is a bf16, the upper half of an f32:
 * two byte shuffles find its halves. Lane 0 takes the codes 0..3, 8..11, ... and lane 1 the codes
 * 4..7, 12..15, ..., so that unpacking within lanes leaves eight values in a row. */
static inline __attribute__((always_inline)) void nib_values32(const uint8_t *codes, __m256 v[4])
{
    const __m256i lanes = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13,
                                           2, 3, 6, 7, 10, 11, 14, 15, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i upper = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, (char)0x80, (char)0xbf, (char)0xbf,
        (char)0xbf, (char)0xc0, (char)0xc0, (char)0xc0, (char)0xc0));
    const __m256i lower = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 0, (char)0x80, (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0, 0, 0, (char)0x80,
        (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0));
    const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    const __m256i both = _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)codes)), lanes);
    const __m256i c = _mm256_unpacklo_epi8(
        _mm256_and_si256(both, nibble), _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble));
    const __m256i hi = _mm256_shuffle_epi8(upper, c), lo = _mm256_shuffle_epi8(lower, c);
    const __m256i first = _mm256_unpacklo_epi8(lo, hi), second = _mm256_unpackhi_epi8(lo, hi);
    v[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, first));
    v[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, first));
    v[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, second));
    v[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, second));
}

/* Scale bytes of blocks k..k+count-1 (k a multiple of 4), side by side and readable up to a
 * multiple of 8: where they lie, or in buffer, which has room for count + 8. */
static inline const uint8_t *nib_scale_bytes_of_row(const nib_dequantize_job *job, int64_t row,
                                                    int64_t k, int64_t count, uint8_t *buffer)
{
    if (job->src->scale_layout == NIB_SCALES_LINEAR) {
        const uint8_t *bytes = job->src->scales + row * job->scale_cols + k;
        if (count % 8 == 0) return bytes;
        memcpy(buffer, bytes, (size_t)count);
    } else {
        for (int64_t i = 0; i < count; i += 4) {
            memcpy(buffer + i, job->src->scales + nib_swizzle_128x4(row, k + i, job->scale_cols),
                   4); /* the padding is there to be read */
        }
    }
    memset(buffer + count, 0, 7);
    return buffer;
}

/* Steps of up to 64 blocks, one for each 16 elements. Returns 0 if one is NaN or Inf, so that
 * 0 * step may not be 0. */
static inline int nib_steps_of_row(const nib_dequantize_job *job, int64_t row, int64_t k,
                                   int64_t count, float *steps)
{
    uint8_t buffer[64 + 8];
    int odd = 0;
    const uint8_t *bytes = nib_scale_bytes_of_row(job, row, k, count, buffer);
    const __m256i nan = _mm256_set1_epi32((int)nib_scale_nan_byte(job->e4m3_scale));
    const __m256i mask = _mm256_set1_epi32(job->e4m3_scale ? 0x7f : 0xff);
    for (int64_t i = 0; i < count; i += 8) {
        const __m256i byte = _mm256_and_si256(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(bytes + i))), mask);
        const __m256 s = nib_block_steps8(job->e4m3_scale, byte, job->decode);
        const __m256 inf = _mm256_cmp_ps(s, _mm256_set1_ps(NIB_F32_MAX), _CMP_NLE_UQ);
        odd |= _mm256_movemask_ps(
            _mm256_or_ps(inf, _mm256_castsi256_ps(_mm256_cmpeq_epi32(byte, nan))));
        if (job->block == 16) {
            _mm256_storeu_ps(steps + i, s);
        } else {
            const __m256 lo = _mm256_unpacklo_ps(s, s), hi = _mm256_unpackhi_ps(s, s);
            _mm256_storeu_ps(steps + 2 * i, _mm256_permute2f128_ps(lo, hi, 0x20));
            _mm256_storeu_ps(steps + 2 * i + 8, _mm256_permute2f128_ps(lo, hi, 0x31));
        }
    }
    return !odd;
}

#endif
