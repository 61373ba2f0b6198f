/* steps_chunk_avx2.h: what steps_span.h wants of an instruction set, over the 8 lanes of AVX2. Each
 * operation on an element is that of kernels/common/grid.h: the division is IEEE's, and maximum and
 * minimum give their second operand for a NaN, as the macros there do. */
#ifndef NIB_STEPS_CHUNK_AVX2_H
#define NIB_STEPS_CHUNK_AVX2_H

#include "load8_avx2.h"

static inline __attribute__((always_inline)) void load_whole(int dtype, const void *src, int n,
                                                             float *x)
{
    for (int i = 0; i < n; i += 8) load8(dtype, src, i, x + i);
}

static inline void chunk_load(int dtype, const void *src, int n, float *x)
{
    const int whole = n / 8 * 8, size = dtype == NIB_DT_F32 ? 4 : 2;
    switch (dtype) {
    case NIB_DT_F32: load_whole(NIB_DT_F32, src, whole, x); break;
    case NIB_DT_F16: load_whole(NIB_DT_F16, src, whole, x); break;
    default:         load_whole(NIB_DT_BF16, src, whole, x); break;
    }
    if (whole < n) load_block(dtype, (const uint8_t *)src + whole * size, n - whole, x + whole);
}

static inline float largest8(__m256 x)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

/* Zeros behind n change no range. */
static inline nib_grid_range chunk_range(nib_grid_range r, int n, const float *x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), most = _mm256_set1_ps(NIB_F32_MAX);
    __m256 below = _mm256_set1_ps(r.below), above = _mm256_set1_ps(r.above);
    for (int i = 0; i < n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        const __m256 finite = _mm256_cmp_ps(_mm256_andnot_ps(sign, v), most, _CMP_LE_OQ);
        above = _mm256_max_ps(_mm256_and_ps(v, finite), above);
        below = _mm256_max_ps(_mm256_and_ps(_mm256_xor_ps(v, sign), finite), below);
    }
    return (nib_grid_range){ .below = largest8(below), .above = largest8(above) };
}

static inline void chunk_integers(nib_step step, int n, const float *x, float *y, float *v)
{
    const __m256 s = _mm256_set1_ps(step.s), magic = _mm256_set1_ps(0x1.8p23f);
    const __m256 low = _mm256_set1_ps(step.low), high = _mm256_set1_ps(step.high);
    for (int i = 0; i < n; i += 8) {
        const __m256 q = _mm256_div_ps(_mm256_loadu_ps(x + i), s);
        const __m256 c = _mm256_min_ps(_mm256_max_ps(q, low), high);
        const __m256 round = _mm256_sub_ps(_mm256_add_ps(c, magic), magic);
        _mm256_storeu_ps(y + i, q);
        _mm256_storeu_ps(v + i, _mm256_and_ps(round, _mm256_cmp_ps(q, q, _CMP_ORD_Q)));
    }
}

static inline __m256i codes8(__m256 z, const float *v)
{
    return _mm256_cvttps_epi32(_mm256_add_ps(_mm256_loadu_ps(v), z));
}

/* 32 codes as bytes. */
static inline __m256i codes32(__m256 z, const float *v)
{
    const __m256i first = _mm256_packs_epi32(codes8(z, v), codes8(z, v + 8));
    const __m256i second = _mm256_packs_epi32(codes8(z, v + 16), codes8(z, v + 24));
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline void chunk_codes(int bits, const nib_grid *grid, float low, int n, const float *v,
                               uint8_t *to)
{
    const __m256 z = _mm256_set1_ps(grid->lo - low);
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i code = codes32(z, v + i);
        if (bits == 8) {
            _mm256_storeu_si256((__m256i *)(void *)(to + i), code);
            continue;
        }
        const __m256i pair = _mm256_maddubs_epi16(_mm256_and_si256(code, _mm256_set1_epi8(15)),
                                                  _mm256_set1_epi16(0x1001));
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi16(pair, pair), 0xd8);
        _mm_storeu_si128((__m128i *)(void *)(to + i / 2), _mm256_castsi256_si128(both));
    }
    for (; i < n; i++) {
        const uint8_t code = (uint8_t)nib_step_code(grid, low, v[i]);
        if (bits == 8) to[i] = code;
        else if (i % 2 == 0) to[i / 2] = code & 15;
        else to[i / 2] |= (uint8_t)(code << 4);
    }
}

static inline __attribute__((always_inline)) void store_whole(int dtype, __m256 s, int n,
                                                              const float *v, void *to)
{
    for (int i = 0; i < n; i += 8) {
        float x[8];
        _mm256_storeu_ps(x, _mm256_mul_ps(_mm256_loadu_ps(v + i), s));
        store8(dtype, to, i, x);
    }
}

static inline void chunk_values(int dtype, float s, int n, const float *v, void *to)
{
    const int whole = n / 8 * 8;
    const __m256 step = _mm256_set1_ps(s);
    switch (dtype) {
    case NIB_DT_F32: store_whole(NIB_DT_F32, step, whole, v, to); break;
    case NIB_DT_F16: store_whole(NIB_DT_F16, step, whole, v, to); break;
    default:         store_whole(NIB_DT_BF16, step, whole, v, to); break;
    }
    for (int i = whole; i < n; i++) nib_store_f32(dtype, to, i, v[i] * s);
}

/* All bits of 8 elements that are not clamped. */
static inline __m256 inside8(nib_step step, __m256 y)
{
    return _mm256_and_ps(_mm256_cmp_ps(y, _mm256_set1_ps(step.low), _CMP_GE_OQ),
                         _mm256_cmp_ps(y, _mm256_set1_ps(step.high), _CMP_LE_OQ));
}

static inline void chunk_mask(nib_step step, int n, const float *y, uint8_t *mask)
{
    for (int i = 0; i < n; i += 8) {
        const int bits = _mm256_movemask_ps(inside8(step, _mm256_loadu_ps(y + i)));
        mask[i / 8] = (uint8_t)(n - i < 8 ? bits & ((1 << (n - i)) - 1) : bits);
    }
}

static inline void chunk_passes(nib_step step, int n, const float *y, uint8_t *passes)
{
    for (int i = 0; i < n; i += 8) {
        const __m256i in = _mm256_castps_si256(inside8(step, _mm256_loadu_ps(y + i)));
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(in),
                                              _mm256_extracti128_si256(in, 1));
        _mm_storel_epi64((__m128i *)(void *)(passes + i),
                         _mm_abs_epi8(_mm_packs_epi16(words, words)));
    }
}

/* v - y, or v - 0. */
static inline void chunk_slopes(nib_step step, int n, const float *y, const float *v, float *g)
{
    for (int i = 0; i < n; i += 8) {
        const __m256 q = _mm256_loadu_ps(y + i);
        const __m256 d = _mm256_sub_ps(_mm256_loadu_ps(v + i), _mm256_and_ps(q, inside8(step, q)));
        _mm256_storeu_ps(g + i, _mm256_mul_ps(_mm256_loadu_ps(g + i), d));
    }
}

/* nib_sum8's pairs. */
static inline void chunk_sums(int n, const float *g, float *lanes)
{
    for (int i = 0; i < n; i += 8) {
        const __m256 p = _mm256_loadu_ps(g + i);
        __m128 sum = _mm_add_ps(_mm256_castps256_ps128(p), _mm256_extractf128_ps(p, 1));
        sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        sum = _mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1));
        lanes[i / 8] += _mm_cvtss_f32(sum);
    }
}

/* v of 8 codes, bytes in the lower half. */
static inline __m256 values8(__m128i codes, __m256i z)
{
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepi8_epi32(codes), z));
}

/* v of 16 codes, bytes or, of 4 bits, in the lower half. */
static inline void values16(int bits, __m128i codes, __m256i z, float *v)
{
    const __m128i low = _mm_set1_epi8(15), sign = _mm_set1_epi8(8);
    if (bits == 4) {
        const __m128i even = _mm_and_si128(codes, low);
        const __m128i odd = _mm_and_si128(_mm_srli_epi16(codes, 4), low);
        codes = _mm_sub_epi8(_mm_xor_si128(_mm_unpacklo_epi8(even, odd), sign), sign);
    }
    _mm256_storeu_ps(v, values8(codes, z));
    _mm256_storeu_ps(v + 8, values8(_mm_unpackhi_epi64(codes, codes), z));
}

static inline void chunk_decode(int bits, nib_step step, int n, const uint8_t *codes, int dtype,
                                void *to)
{
    const __m256i z = _mm256_set1_epi32(step.z);
    float v[STEP_CHUNK];
    int   i = 0;
    for (; i + 16 <= n; i += 16) {
        const uint8_t *const at = codes + i * bits / 8;
        values16(bits, bits == 8 ? _mm_loadu_si128((const __m128i *)(const void *)at)
                                 : _mm_loadl_epi64((const __m128i *)(const void *)at), z, v + i);
    }
    for (; i < n; i++) v[i] = (float)(nib_step_code_at(codes, bits, i) - step.z);
    chunk_values(dtype, step.s, n, v, to);
}

#endif
