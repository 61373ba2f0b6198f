/* search_avx2.h: the error of a scale byte for whole blocks of E2M1, in kernels/common/search.h's
 * order: lane i holds partial sum i. */
#ifndef NIB_SEARCH_AVX2_H
#define NIB_SEARCH_AVX2_H

#include "codes_avx2.h"

/* nib_block_error for finite x, n a multiple of 8, E2M1 and ties to even. All of it runs on -|x|,
 * since neither kind of error depends on the sign. */
static inline float nib_block_error_avx2(const nib_tensor_math *m, const float *x, int n,
                                         uint32_t byte, int absolute)
{
    const nib_block_unit unit = nib_block_unit_of(m, byte);
    if (unit.divide && !(unit.factor > 0.0f && unit.factor <= NIB_F32_MAX)) {
        return nib_block_error(m, x, n, byte, absolute); /* 0 / 0 has rules of its own */
    }
    const __m256 minus = _mm256_set1_ps(-0.0f), factor = _mm256_set1_ps(unit.factor);
    const __m256 step = _mm256_set1_ps(
        nib_block_step(m->rules.e4m3_scale, byte, m->scales.decode));
    const __m256 magic = nib_codes_magic();
    __m256 sum = _mm256_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < n; i += 8) {
        const __m256 ax = _mm256_or_ps(_mm256_loadu_ps(x + i), minus);
        const __m256 y = unit.divide ? _mm256_div_ps(ax, factor) : _mm256_mul_ps(ax, factor);
        const __m256 clamped = _mm256_max_ps(y, _mm256_set1_ps(-6.0f));
        const __m256 add = _mm256_permutevar8x32_ps(magic, _mm256_cvttps_epi32(clamped));
        const __m256 element = _mm256_sub_ps(_mm256_add_ps(clamped, add), add);
        const __m256 d = _mm256_sub_ps(ax, _mm256_mul_ps(element, step));
        sum = _mm256_add_ps(sum, absolute ? _mm256_andnot_ps(minus, d) : _mm256_mul_ps(d, d));
    }
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Eight elements as f32. */
static inline __attribute__((always_inline)) __m256 nib_load8(int dtype, const uint8_t *x)
{
    if (dtype == NIB_DT_F32) return _mm256_loadu_ps((const float *)(const void *)x);
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)x);
    return dtype == NIB_DT_F16
         ? _mm256_cvtph_ps(h)
         : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* Scale bytes of count blocks by the chosen search; amax: their bits. Blocks with NaN or Inf
 * get 0: the portable code does them again. */
static inline __attribute__((always_inline)) void
nib_search_blocks(const nib_tensor_math *m, int choice, int dtype, int block, const uint8_t *x,
                  const uint32_t *amax, int count, uint8_t *bytes)
{
    const int size = dtype == NIB_DT_F32 ? 4 : 2;
    float values[32];
    for (int b = 0; b < count; b++) {
        bytes[b] = 0;
        if (amax[b] >= NIB_F32_INF_BITS) continue;
        for (int i = 0; i < block; i += 8) {
            _mm256_storeu_ps(values + i, nib_load8(dtype, x + (b * block + i) * size));
        }
        bytes[b] = (uint8_t)nib_block_search_by(m, choice, values, block, nib_float_of(amax[b]),
                                                nib_block_error_avx2);
    }
}

#endif
