/* measure_avx2.h: the eight sums of stats_cpu.h in vectors, and what is measured of elements while
 * their codes are made.
 *
 * Elements come as -|x| and rounded to minus their magnitude: neither squares nor the size of
 * x - value depend on the sign that both have, and a value of 0 has none.
 */
#ifndef NIB_MEASURE_AVX2_H
#define NIB_MEASURE_AVX2_H

#include <immintrin.h>

#include "stats_cpu.h"

/* The sums while a piece adds to them. */
typedef struct nib_lanes {
    __m256d error[2], square[2];
} nib_lanes;

typedef struct nib_measure {
    __m256   error[2], square[2]; /* of a group; each column has its lane */
    __m256i  worst;               /* bits of the largest d * d */
    __m256i  flushed, saturated;  /* counts: codes of 0 in bytes, those past the limit in words */
} nib_measure;

static inline nib_lanes nib_lanes_of(const nib_stats_sums *sums)
{
    const nib_lanes l = {
        { _mm256_loadu_pd(sums->error), _mm256_loadu_pd(sums->error + 4) },
        { _mm256_loadu_pd(sums->square), _mm256_loadu_pd(sums->square + 4) },
    };
    return l;
}

/* Adds a group's pairs of sums, in order. */
static inline __attribute__((always_inline)) void nib_lanes_add(nib_lanes *l, __m256 error,
                                                                __m256 square)
{
    l->error[0] = _mm256_add_pd(l->error[0], _mm256_cvtps_pd(_mm256_castps256_ps128(error)));
    l->error[1] = _mm256_add_pd(l->error[1], _mm256_cvtps_pd(_mm256_extractf128_ps(error, 1)));
    l->square[0] = _mm256_add_pd(l->square[0], _mm256_cvtps_pd(_mm256_castps256_ps128(square)));
    l->square[1] = _mm256_add_pd(l->square[1], _mm256_cvtps_pd(_mm256_extractf128_ps(square, 1)));
}

/* Ends a piece. worst: bits of its largest d * d, for which sums may run in f32; or 0. */
static inline void nib_lanes_store(const nib_lanes *l, uint32_t worst, nib_stats_sums *sums,
                                   nib_stats_counts *counts)
{
    /* The root of a rounded square is what was squared: radix 2, no overflow or underflow. */
    const uint32_t error = nib_bits_of(
        _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(nib_float_of(worst)))));
    if (error > counts->max_error) counts->max_error = error;
    for (int i = 0; i < 2; i++) {
        _mm256_storeu_pd(sums->error + 4 * i, l->error[i]);
        _mm256_storeu_pd(sums->square + 4 * i, l->square[i]);
    }
}

static inline uint32_t nib_max_of8(__m256i v)
{
    uint32_t m[8], most = 0;
    _mm256_storeu_si256((__m256i *)m, v);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) most = m[i] > most ? m[i] : most;
    return most;
}

static inline uint64_t nib_sum_of_bytes(__m256i bytes)
{
    uint64_t part[4];
    _mm256_storeu_si256((__m256i *)part, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    return part[0] + part[1] + part[2] + part[3];
}

/* Masks of 16 words of two masks of even and odd columns. */
static inline __m256i nib_even_odd(__m256i even, __m256i odd)
{
    return _mm256_blend_epi16(even, odd, 0xaa);
}

/* Of eight steps, the largest magnitude that is no further from 0 than the largest element, as
 * the source's bits (twice, in both halves, if they are 16). */
static inline __m256i nib_limits8(int dtype, __m256 step)
{
    const __m256 last = _mm256_mul_ps(step, _mm256_set1_ps(6.0f));
    const __m256i limit = _mm256_castps_si256(last);
    if (dtype == NIB_DT_F16) { /* towards 0, as the shift for bf16 does */
        const __m256i h = _mm256_cvtepu16_epi32(_mm256_cvtps_ph(last, _MM_FROUND_TO_ZERO));
        return _mm256_or_si256(h, _mm256_slli_epi32(h, 16));
    }
    return dtype == NIB_DT_BF16 ? nib_even_odd(_mm256_srli_epi32(limit, 16), limit) : limit;
}

/* ---- while codes are made ---- */

/* Limits to compare with magnitudes whose sign bit is set: their order is that of integers. */
static inline __m256i nib_measure_limits8(int dtype, __m256 step)
{
    const int sign = dtype == NIB_DT_F32 ? (int)0x80000000 : (int)0x80008000;
    return _mm256_or_si256(nib_limits8(dtype, step), _mm256_set1_epi32(sign));
}

static inline nib_measure nib_measure_none(void)
{
    const __m256 zero = _mm256_setzero_ps();
    const __m256i none = _mm256_setzero_si256();
    const nib_measure m = { { zero, zero }, { zero, zero }, none, none, none };
    return m;
}

/* -|x| of 16 elements. */
static inline __attribute__((always_inline)) void nib_measure_f32(nib_measure *m, const __m256 y[2],
                                                                  const uint32_t *limit)
{
    const __m256i l = _mm256_set1_epi32((int)*limit);
    const __m256i a = _mm256_castps_si256(y[0]), b = _mm256_castps_si256(y[1]);
    m->saturated = _mm256_sub_epi16(m->saturated, _mm256_packs_epi32(_mm256_cmpgt_epi32(a, l),
                                                                     _mm256_cmpgt_epi32(b, l)));
}

static inline __attribute__((always_inline)) void nib_measure_half(nib_measure *m, __m256i y,
                                                                   const uint32_t *limit)
{
    const __m256i past = _mm256_cmpgt_epi16(y, _mm256_set1_epi32((int)*limit));
    m->saturated = _mm256_sub_epi16(m->saturated, past);
}

/* Minus the elements of the codes 0..7. */
static inline __m256 nib_measure_elements(void)
{
    return _mm256_setr_ps(-0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
}

/* Eight elements -|x| of vector i and what they became. The product of 16-bit elements is exact:
 * fused or not is the same, but that what underflows is rounded once (stats_cpu.c). Squares are
 * never negative, so that their bits order like them, and more units compare integers. */
static inline __attribute__((always_inline)) void
nib_measure_error(nib_measure *m, int dtype, int i, __m256 x, __m256 value)
{
    const __m256 d = _mm256_sub_ps(x, value), q = _mm256_mul_ps(d, d);
    m->worst = _mm256_max_epu32(m->worst, _mm256_castps_si256(q));
    m->error[i] = _mm256_add_ps(m->error[i], q);
    m->square[i] = dtype == NIB_DT_F32 ? _mm256_add_ps(m->square[i], _mm256_mul_ps(x, x))
                                       : _mm256_fmadd_ps(x, x, m->square[i]);
}

/* 32 codes without their signs, in bytes. */
static inline __attribute__((always_inline)) void nib_measure_codes(nib_measure *m, __m256i codes)
{
    m->flushed = _mm256_sub_epi8(m->flushed, _mm256_cmpeq_epi8(codes, _mm256_setzero_si256()));
}

/* Sums of the columns 2 j and 2 j + 1. nib_codes16 takes the columns 0-7 and 8-15, but of bf16
 * 0-3, 8-11 and 4-7, 12-15. */
static inline __attribute__((always_inline)) __m256 nib_measure_pairs(int dtype,
                                                                      const __m256 sum[2])
{
    const __m256 pairs = _mm256_hadd_ps(sum[0], sum[1]);
    if (dtype == NIB_DT_BF16) return pairs;
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), 0xd8));
}

/* Zeros among n elements, a multiple of 128. */
static inline uint64_t nib_measure_zeros(int dtype, const uint8_t *x, int n)
{
    const int bytes = n * (dtype == NIB_DT_F32 ? 4 : 2);
    const __m256i sign = dtype == NIB_DT_F32 ? _mm256_set1_epi32((int)0x80000000)
                                             : _mm256_set1_epi16((short)0x8000);
    __m256i count = _mm256_setzero_si256();
    for (int i = 0; i < bytes; i += 32) {
        const __m256i v = _mm256_or_si256(
            _mm256_loadu_si256((const __m256i *)(const void *)(x + i)), sign);
        count = dtype == NIB_DT_F32 ? _mm256_sub_epi32(count, _mm256_cmpeq_epi32(v, sign))
                                    : _mm256_sub_epi16(count, _mm256_cmpeq_epi16(v, sign));
    }
    return nib_sum_of_bytes(count); /* at most 128 in an element */
}

#endif
