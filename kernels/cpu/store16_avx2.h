/* store16_avx2.h: values to a matrix of any dtype, through the caches or past them. */
#ifndef NIB_STORE16_AVX2_H
#define NIB_STORE16_AVX2_H

#include <immintrin.h>

#include "kernels/common/half.h"

/* Non-temporal stores pay when the output leaves the caches before anybody reads it; 8 MiB is
 * above the L2 of most and below the L3 of most. */
#define NIB_STREAM_BYTES ((int64_t)8 << 20)

/* 16 values at a time. */
static inline __attribute__((always_inline)) void nib_store16(int dtype, int stream,
                                                              uint8_t *dst, __m256 a, __m256 b)
{
    if (dtype == NIB_DT_F32) {
        if (stream) {
            _mm256_stream_ps((float *)(void *)dst, a);
            _mm256_stream_ps((float *)(void *)(dst + 32), b);
        } else {
            _mm256_storeu_ps((float *)(void *)dst, a);
            _mm256_storeu_ps((float *)(void *)(dst + 32), b);
        }
        return;
    }
    __m256i v;
    if (dtype == NIB_DT_F16) {
        v = _mm256_set_m128i(_mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    } else { /* nib_bf16_from_f32 of what is no NaN */
        const __m256i one = _mm256_set1_epi32(1), half = _mm256_set1_epi32(0x7fff);
        const __m256i i = _mm256_castps_si256(a), j = _mm256_castps_si256(b);
        const __m256i odd_i = _mm256_and_si256(_mm256_srli_epi32(i, 16), one);
        const __m256i odd_j = _mm256_and_si256(_mm256_srli_epi32(j, 16), one);
        const __m256i hi_i = _mm256_srli_epi32(
            _mm256_add_epi32(i, _mm256_add_epi32(half, odd_i)), 16);
        const __m256i hi_j = _mm256_srli_epi32(
            _mm256_add_epi32(j, _mm256_add_epi32(half, odd_j)), 16);
        v = _mm256_permute4x64_epi64(_mm256_packus_epi32(hi_i, hi_j), 0xd8);
    }
    if (stream) _mm256_stream_si256((__m256i *)(void *)dst, v);
    else _mm256_storeu_si256((__m256i *)(void *)dst, v);
}

#endif
