/* amax_avx2.c: largest finite magnitude, integer maxima of |x|. */
#include "amax_cpu.h"
#include "avx2_cpu.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels/common/half.h"

enum { RUN = 4096 }; /* elements between looks for NaN and Inf */

static uint32_t max_of_u32x8(__m256i v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_srli_si128(m, 8));
    m = _mm_max_epu32(m, _mm_srli_si128(m, 4));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* Largest magnitude of n = a multiple of 32 elements, NaN and Inf included. */
static uint32_t most_f32(const float *p, int64_t n)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m[4];
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) m[j] = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 32) {
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(p + i + 8 * j));
            m[j] = _mm256_max_epi32(m[j], _mm256_and_si256(x, magnitude));
        }
    }
    return max_of_u32x8(_mm256_max_epi32(_mm256_max_epi32(m[0], m[1]),
                                         _mm256_max_epi32(m[2], m[3])));
}

/* The same of 64s of 16-bit elements. */
static uint32_t most_u16(const uint16_t *p, int64_t n)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    __m256i m[4];
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) m[j] = _mm256_setzero_si256();
    for (int64_t i = 0; i < n; i += 64) {
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)(p + i + 16 * j));
            m[j] = _mm256_max_epi16(m[j], _mm256_and_si256(x, magnitude));
        }
    }
    const __m256i all = _mm256_max_epi16(_mm256_max_epi16(m[0], m[1]),
                                         _mm256_max_epi16(m[2], m[3]));
    const __m256i low = _mm256_and_si256(all, _mm256_set1_epi32(0xffff));
    return max_of_u32x8(_mm256_max_epi32(low, _mm256_srli_epi32(all, 16)));
}

static nib_amax_part amax_span(nib_dtype dtype, const void *data, int64_t n)
{
    nib_amax_part part = { 0, 0 };
    int64_t i = 0;
    while (i < n) {
        const int64_t left = n - i < RUN ? n - i : RUN, whole = left / 64 * 64;
        const void *p = dtype == NIB_F32 ? (const void *)((const float *)data + i)
                                         : (const void *)((const uint16_t *)data + i);
        const uint32_t inf = dtype == NIB_F32 ? NIB_F32_INF_BITS
                           : dtype == NIB_F16 ? 0x7c00u : 0x7f80u;
        uint32_t bits = 0;
        int64_t done = whole;

        if (whole) bits = dtype == NIB_F32 ? most_f32(p, whole) : most_u16(p, whole);
        if (!whole || bits >= inf) { /* the tail, or some NaN or Inf */
            const nib_amax_part slow = nib_amax_span_portable(dtype, p, left);
            bits = slow.bits;
            part.nonfinite += slow.nonfinite;
            done = left;
        } else if (dtype == NIB_F16) {
            bits = nib_bits_of(nib_f16_to_f32((uint16_t)bits));
        } else if (dtype == NIB_BF16) {
            bits <<= 16;
        }
        if (bits > part.bits) part.bits = bits;
        i += done;
    }
    return part;
}

nib_status nib_amax_avx2(const nib_launch *launch, const nib_matrix *src, float *amax,
                         uint64_t *nonfinite)
{
    return nib_amax_run(launch, src, amax, nonfinite, amax_span);
}

nib_status nib_amax_rows_avx2(const nib_launch *launch, const nib_matrix *src, float *amax)
{
    return nib_amax_rows_run(launch, src, amax, amax_span);
}

#endif
