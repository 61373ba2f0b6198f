/* load8_avx2.h: 8 elements of a matrix to f32 and back, as kernels/common/half.h does. */
#ifndef NIB_LOAD8_AVX2_H
#define NIB_LOAD8_AVX2_H

#include <immintrin.h>

#include "kernels/common/half.h"

static inline __attribute__((always_inline)) void load8(int dtype, const void *src, int64_t at,
                                                        float *dst)
{
    __m256 x;
    if (dtype == NIB_DT_F32) {
        x = _mm256_loadu_ps((const float *)src + at);
    } else {
        const __m128i h = _mm_loadu_si128((const __m128i *)((const uint16_t *)src + at));
        x = dtype == NIB_DT_F16 ? _mm256_cvtph_ps(h)
          : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    _mm256_storeu_ps(dst, x);
}

static inline __attribute__((always_inline)) void store8(int dtype, void *dst, int64_t at,
                                                         const float *src)
{
    const __m256  x = _mm256_loadu_ps(src);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i all = _mm256_set1_epi32(0x7fffffff), u = _mm256_castps_si256(x);
    if (dtype == NIB_DT_F32) {
        _mm256_storeu_si256((__m256i *)(void *)((float *)dst + at),
                            _mm256_blendv_epi8(u, all, nan));
        return;
    }
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i bf16 = _mm256_srli_epi32(
        _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i wide = dtype == NIB_DT_F16
        ? _mm256_cvtepu16_epi32(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)) : bf16;
    const __m256i h = _mm256_blendv_epi8(wide, _mm256_set1_epi32(0x7fff), nan);
    _mm_storeu_si128((__m128i *)(void *)((uint16_t *)dst + at),
                     _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

#endif
