/* codes_avx2.h: 64 elements to 32 bytes of E2M1 codes.
 *
 * With a = |x| * factor < 8, the step of E2M1 around a depends on floor(a) only: 0.5 for 0 and
 * 1, 1 for 2 and 3, 2 from 4 on. floor(a) picks one of three numbers that are added to a: each
 * makes the f32 adder round to that step, nearest even, and its low bits hold the code of the
 * step's first value less that value in steps, so that the low bits of the sum are the code.
 * All of it runs on -a, whose sums have their sign bit set: then the saturating pack to 16 bits
 * turns their upper halves into 0 and leaves the codes.
 */
#ifndef NIB_CODES_AVX2_H
#define NIB_CODES_AVX2_H

#include <immintrin.h>

#include "kernels/packed.h"
#include "measure_avx2.h"

/* Which sign and tie rules the code is compiled for. */
enum {
    NIB_CODES_KEEP,  /* NIB_Z_KEEP, ties to even */
    NIB_CODES_INPUT, /* negative only where a > 0; ties to even */
    NIB_CODES_ANY    /* whatever nib_codes_rules says */
};

typedef struct nib_codes_rules {
    __m256  ties_down; /* by floor(a): the tie that nearest even sends up, or none */
    __m256  threshold; /* negative: -a below it has x's sign ... */
    __m256i keep;      /* ... all ones: any has */
    __m256i negative;  /* all ones: the others are negative, else positive */
} nib_codes_rules;

/* The tables' order: index = low 3 bits of trunc(-a), which is 0, -1, ... -7. */
static inline __m256 nib_codes_table(float at0, float at1, float at2, float at3, float from4)
{
    return _mm256_setr_ps(at0, from4, from4, from4, from4, at3, at2, at1);
}

/* What is added to -a. */
static inline __m256 nib_codes_magic(void)
{
    return nib_codes_table(-0x1p22f, -0x1p22f, -(0x1p23f + 2.0f), -(0x1p23f + 2.0f),
                           -(0x1p24f + 8.0f));
}

static inline nib_codes_rules nib_codes_rules_of(const nib_block_rules *r)
{
    const float none = 1.0f; /* -a is never positive */
    /* What rounds to 0 loses its sign: in f32 only 0 does, in f16 all up to 2^-25, in bf16 all
     * up to 2^-134; POSITIVE asks of E2M1, where 0.25 still does. */
    float threshold = 0.0f;
    if (r->zero_sign == NIB_Z_POSITIVE) threshold = -0.25f;
    if (r->zero_sign == NIB_Z_SOURCE && r->source == NIB_DT_F16) threshold = -0x1p-25f;
    if (r->zero_sign == NIB_Z_SOURCE && r->source == NIB_DT_BF16) threshold = -0x1p-134f;
    const nib_codes_rules rules = {
        r->ties == NIB_TIE_DOWN ? nib_codes_table(-0.75f, -1.75f, none, -3.5f, none)
                                : _mm256_set1_ps(none),
        _mm256_set1_ps(threshold),
        _mm256_set1_epi16((short)(r->zero_sign == NIB_Z_KEEP ? -1 : 0)),
        _mm256_set1_epi16((short)(r->zero_sign == NIB_Z_MODELOPT ? -1 : 0)),
    };
    return rules;
}

/* Of eight y = -|x| * factor: sums whose low 3 bits are the codes without their signs. below: all
 * ones where rules look for a sign, see threshold. */
static inline __attribute__((always_inline)) __m256i
nib_codes_sums8(int clamps, int kind, const nib_codes_rules *rules, __m256 y, __m256i *below)
{
    if (kind != NIB_CODES_KEEP) {
        const __m256 threshold = kind == NIB_CODES_INPUT ? _mm256_setzero_ps()
                                                         : rules->threshold;
        *below = _mm256_castps_si256(_mm256_cmp_ps(y, threshold, _CMP_LT_OQ));
    }
    if (clamps) y = _mm256_max_ps(y, _mm256_set1_ps(-6.0f));
    const __m256i floor = _mm256_cvttps_epi32(y);
    const __m256 add = _mm256_permutevar8x32_ps(nib_codes_magic(), floor);
    const __m256i sum = _mm256_castps_si256(_mm256_add_ps(y, add));
    if (kind != NIB_CODES_ANY) return sum;
    const __m256 tie = _mm256_permutevar8x32_ps(rules->ties_down, floor);
    const __m256 down = _mm256_cmp_ps(y, tie, _CMP_EQ_OQ);
    return _mm256_add_epi32(sum, _mm256_castps_si256(down));
}

/* The code's sign in the sign bit of each lane of 16 or 32 bits, from x's there. */
static inline __attribute__((always_inline)) __m256i
nib_codes_signs(int kind, const nib_codes_rules *rules, __m256i x, __m256i below)
{
    if (kind == NIB_CODES_KEEP) return x;
    if (kind == NIB_CODES_INPUT) return _mm256_and_si256(x, below);
    return _mm256_or_si256(_mm256_and_si256(x, _mm256_or_si256(below, rules->keep)),
                           _mm256_andnot_si256(below, rules->negative));
}

/* Codes of 16 elements as words, and words with their signs in bit 15. Order: that of
 * _mm256_packs_epi32 of two vectors for f32 and f16, natural for bf16. m: NULL, or what is
 * measured, by the step and the limit of the 16. */
static inline __attribute__((always_inline)) __m256i
nib_codes16(int dtype, int divides, int clamps, int kind, const nib_codes_rules *rules,
            const void *x, const float *factor, __m256i *signs, const float *step,
            const uint32_t *limit, nib_measure *m)
{
    const __m256 f = _mm256_broadcast_ss(factor);
    __m256 y[2]; /* -|x| */
    if (dtype == NIB_DT_F32) {
        const __m256 x0 = _mm256_loadu_ps(x), x1 = _mm256_loadu_ps((const float *)x + 8);
        y[0] = _mm256_or_ps(x0, _mm256_set1_ps(-0.0f));
        y[1] = _mm256_or_ps(x1, _mm256_set1_ps(-0.0f));
        *signs = _mm256_packs_epi32(_mm256_castps_si256(x0), _mm256_castps_si256(x1));
        if (m) nib_measure_f32(m, y, limit);
    } else {
        const __m256i v = _mm256_loadu_si256(x);
        const __m256i n = _mm256_or_si256(v, _mm256_set1_epi16((short)0x8000));
        if (m) nib_measure_half(m, n, limit);
        if (dtype == NIB_DT_F16) {
            y[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(n));
            y[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(n, 1));
            *signs = _mm256_permute4x64_epi64(v, 0xd8);
        } else {
            const __m256i zero = _mm256_setzero_si256();
            y[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, n));
            y[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, n));
            *signs = v;
        }
    }
    /* By code, the low 3 bits of a sum: minus the values. */
    const __m256 values = m ? _mm256_mul_ps(_mm256_broadcast_ss(step), nib_measure_elements())
                            : _mm256_setzero_ps();
    __m256i sum[2], below[2];
#pragma GCC unroll 8
    for (int i = 0; i < 2; i++) {
        const __m256 x0 = y[i];
        y[i] = divides ? _mm256_div_ps(y[i], f) : _mm256_mul_ps(y[i], f);
        sum[i] = nib_codes_sums8(clamps, kind, rules, y[i], &below[i]);
        if (m) nib_measure_error(m, dtype, i, x0, _mm256_permutevar8x32_ps(values, sum[i]));
    }
    if (kind != NIB_CODES_KEEP)
        *signs = nib_codes_signs(kind, rules, *signs, _mm256_packs_epi32(below[0], below[1]));
    return _mm256_packus_epi16(sum[0], sum[1]);
}

/* 64 elements and their four factors to 32 bytes. m, steps, limits: as for nib_codes16. */
static inline __attribute__((always_inline)) void
nib_codes64(int dtype, int divides, int clamps, int kind, const nib_codes_rules *rules,
            const uint8_t *x, const float *factors, uint8_t *dst, const float *steps,
            const uint32_t *limits, nib_measure *m)
{
    const __m256i sign = _mm256_set1_epi8(8), pair = _mm256_set1_epi16(0x1001); /* 1, 16 */
    __m256i code[4], signs[4], bytes[2];
#pragma GCC unroll 8
    for (int b = 0; b < 4; b++) {
        code[b] = nib_codes16(dtype, divides, clamps, kind, rules,
                              x + b * 16 * (dtype == NIB_DT_F32 ? 4 : 2), factors + b, &signs[b],
                              m ? steps + b : NULL, m ? limits + b : NULL, m);
    }
#pragma GCC unroll 8
    for (int b = 0; b < 2; b++) {
        const __m256i c = _mm256_packus_epi16(code[2 * b], code[2 * b + 1]);
        if (m) nib_measure_codes(m, c);
        const __m256i s = _mm256_packs_epi16(signs[2 * b], signs[2 * b + 1]);
        const __m256i nibbles = _mm256_or_si256(
            c, _mm256_and_si256(_mm256_srli_epi16(s, 4), sign));
        bytes[b] = _mm256_maddubs_epi16(nibbles, pair);
    }
    const __m256i o = _mm256_packus_epi16(bytes[0], bytes[1]);
    const __m128i lo = _mm256_castsi256_si128(o), hi = _mm256_extracti128_si256(o, 1);
    const int natural = dtype == NIB_DT_BF16;
    _mm_storeu_si128((__m128i *)dst, natural ? _mm_unpacklo_epi32(lo, hi)
                                             : _mm_unpacklo_epi16(lo, hi));
    _mm_storeu_si128((__m128i *)(dst + 16), natural ? _mm_unpackhi_epi32(lo, hi)
                                                    : _mm_unpackhi_epi16(lo, hi));
}

#endif
