/* bench_avx2.c: the loops that show what memory and the multipliers can do. */
#include "bench_cpu.h"

#if defined(__x86_64__)

#include <immintrin.h>

/* The inner loops must be unrolled, or their accumulators live in memory: gcc 12 at -O2 then
 * shows 0.4 of the multiplication rate and 0.9 of the read bandwidth. */

static uint32_t read_sum(const void *src, size_t bytes)
{
    const __m256i *p = src;
    __m256i s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) s[i] = _mm256_setzero_si256();
    for (const __m256i *end = p + bytes / 32; p < end; p += 8) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) s[i] = _mm256_add_epi32(s[i], _mm256_load_si256(p + i));
    }
#pragma GCC unroll 8
    for (int i = 1; i < 8; i++) s[0] = _mm256_add_epi32(s[0], s[i]);
    const __m128i high = _mm256_extracti128_si256(s[0], 1);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(s[0]), high);
    const __m128i two = _mm_add_epi32(four, _mm_srli_si128(four, 8));
    return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_srli_si128(two, 4)));
}

static void nt_copy(void *dst, const void *src, size_t bytes)
{
    __m256i *to = dst;
    const __m256i *from = src;
    for (const __m256i *end = from + bytes / 32; from < end; from += 4, to += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) _mm256_stream_si256(to + i, _mm256_load_si256(from + i));
    }
    _mm_sfence();
}

static void nt_fill(void *dst, size_t bytes)
{
    const __m256i value = _mm256_set1_epi8(NIB_BENCH_FILL);
    __m256i *to = dst;
    for (const __m256i *end = to + bytes / 32; to < end; to += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) _mm256_stream_si256(to + i, value);
    }
    _mm_sfence();
}

static float fma_chains(int64_t iterations)
{
    const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.5f);
    __m256 x[12];
#pragma GCC unroll 12
    for (int c = 0; c < 12; c++) x[c] = _mm256_set1_ps((float)c);
    for (int64_t i = 0; i < iterations; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < 12; c++) x[c] = _mm256_fmadd_ps(x[c], a, b);
    }
#pragma GCC unroll 12
    for (int c = 1; c < 12; c++) x[0] = _mm256_add_ps(x[0], x[c]);
    return _mm256_cvtss_f32(x[0]);
}

const nib_bench_loops nib_bench_loops_avx2 = { read_sum, nt_copy, nt_fill, fma_chains };

#endif
