/* scale8_avx2.h: nib_block_scale and nib_block_unit for eight blocks at a time.
 *
 * The operations and their order are those of kernels/common/block.h; the tests compare every
 * byte. What is rare goes through the scalar code.
 */
#ifndef NIB_SCALE8_AVX2_H
#define NIB_SCALE8_AVX2_H

#include <immintrin.h>

#include "kernels/packed.h"

/* E4M3 bytes of v >= 0, nearest even, saturating: nib_e4m3_from_f32. */
static inline __m256i nib_e4m3_bytes8(__m256 v)
{
    const __m256 s = _mm256_min_ps(v, _mm256_set1_ps(448.0f));
    const __m256i e = _mm256_and_si256(
        _mm256_castps_si256(_mm256_max_ps(s, _mm256_set1_ps(0x1p-6f))),
        _mm256_set1_epi32(0x7f800000));
    const __m256i magic = _mm256_add_epi32(e, _mm256_set1_epi32((20 << 23) + (1 << 22)));
    const __m256 sum = _mm256_add_ps(s, _mm256_castsi256_ps(magic));
    const __m256i units = _mm256_sub_epi32(_mm256_castps_si256(sum), magic);
    return _mm256_add_epi32(units, _mm256_sub_epi32(_mm256_srli_epi32(e, 20),
                                                    _mm256_set1_epi32(121 << 3)));
}

/* Values of E4M3 bytes below 0x7f. Subnormals by conversion: an f32 subnormal would be slow. */
static inline __m256 nib_e4m3_values8(__m256i byte)
{
    const __m256 normal = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_slli_epi32(byte, 20), _mm256_set1_epi32(120 << 23)));
    const __m256 subnormal = _mm256_mul_ps(_mm256_cvtepi32_ps(byte), _mm256_set1_ps(0x1p-9f));
    const __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), byte);
    return _mm256_blendv_ps(normal, subnormal, _mm256_castsi256_ps(small));
}

/* nib_round_to_dtype of finite numbers. */
static inline __m256 nib_round8(int dtype, __m256 v)
{
    if (dtype == NIB_DT_F32) return v;
    if (dtype == NIB_DT_F16) {
        return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return _mm256_castsi256_ps(_mm256_and_si256(sum, _mm256_set1_epi32((int)0xffff0000u)));
}

static inline __m256i nib_e4m3_scales8(const nib_tensor_math *m, __m256 amax)
{
    __m256 v;
    switch (m->rules.block_scale) {
    case NIB_B_FOLDED: v = _mm256_mul_ps(amax, _mm256_set1_ps(m->folded)); break;
    case NIB_B_DIVIDE: v = _mm256_div_ps(amax, _mm256_set1_ps(m->denominator)); break;
    default:
        v = _mm256_div_ps(amax, _mm256_set1_ps(m->element_max));
        v = _mm256_mul_ps(nib_round8(m->rules.source, v), _mm256_set1_ps(m->scales.encode));
        break;
    }
    if (m->rules.e4m3_zero == 0 && m->rules.e4m3_min == 0) return nib_e4m3_bytes8(v);
    /* nib_e4m3_scale_byte: the floor for v > 0, the zero byte for what is still 0. */
    const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NGT_UQ));
    const __m256i floor = _mm256_andnot_si256(none, _mm256_set1_epi32((int)m->rules.e4m3_min));
    const __m256i byte = _mm256_max_epi32(nib_e4m3_bytes8(v), floor);
    const __m256i zero = _mm256_or_si256(none, _mm256_cmpeq_epi32(byte, _mm256_setzero_si256()));
    return _mm256_blendv_epi8(byte, _mm256_set1_epi32((int)m->rules.e4m3_zero), zero);
}

/* The definition, eight times, for what the vectors leave out. */
static inline __m256i nib_e8m0_scales_scalar8(const nib_tensor_math *m, __m256 amax)
{
    float a[8];
    int32_t byte[8];
    _mm256_storeu_ps(a, amax);
    for (int i = 0; i < 8; i++) byte[i] = (int32_t)nib_block_scale(m, a[i]);
    return _mm256_loadu_si256((const __m256i *)byte);
}

/* nib_ceil_log2f(q) or nib_floor_log2f(q) of normal q: its exponent k, plus 1 when its mantissa
 * is far enough above 2^k (ceil), or near enough below 2^(k+1) (floor). How far depends on the
 * spacing of log2's results, p = nib_log2_spacing(k), and is (128 or 256 << p) / 369. */
static inline __m256i nib_log2_8(__m256 q, int ceil)
{
    const __m256i u = _mm256_castps_si256(q);
    const __m256i k = _mm256_sub_epi32(_mm256_srli_epi32(u, 23), _mm256_set1_epi32(127));
    const __m256i f = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffff));
    const __m256i n = _mm256_xor_si256(k, _mm256_srai_epi32(k, 31)); /* k, or -k - 1 */
    const __m256 some = _mm256_cvtepi32_ps(_mm256_max_epi32(n, _mm256_set1_epi32(1)));
    const __m256i p = _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(some), 23),
                                       _mm256_set1_epi32(127)); /* 0..6 */
    const __m256i above = _mm256_setr_epi32(0, 0, 1, 2, 5, 11, 22, 44);
    const __m256i below = _mm256_setr_epi32(0, 1, 2, 5, 11, 22, 44, 88);
    const __m256i up = ceil
        ? _mm256_cmpgt_epi32(f, _mm256_permutevar8x32_epi32(above, p))
        : _mm256_cmpgt_epi32(f, _mm256_sub_epi32(_mm256_set1_epi32(0x7fffff),
                                                 _mm256_permutevar8x32_epi32(below, p)));
    return _mm256_sub_epi32(k, up);
}

/* The two rules that imitate a rounded log2. */
static inline __m256i nib_e8m0_log2_scales8(const nib_tensor_math *m, __m256 amax)
{
    const nib_element_traits t = nib_element_traits_of(m->rules.element);
    const int ceil = m->rules.mx == NIB_MX_RULE_RCEIL_LOG2;
    const __m256 none = _mm256_cmp_ps(amax, _mm256_setzero_ps(), _CMP_EQ_OQ);
    const __m256 low = _mm256_cmp_ps(amax, _mm256_set1_ps(0x1p-100f), _CMP_LT_OQ);
    if (_mm256_movemask_ps(_mm256_andnot_ps(none, low))) { /* quotients may be subnormal */
        return nib_e8m0_scales_scalar8(m, amax);
    }
    const __m256 q = ceil ? _mm256_div_ps(amax, _mm256_set1_ps(t.max)) : amax;
    const __m256i byte = _mm256_add_epi32(nib_log2_8(q, ceil),
                                          _mm256_set1_epi32(127 - (ceil ? 0 : t.emax)));
    return _mm256_andnot_si256(_mm256_castps_si256(none), byte);
}

/* E8M0: ((bits of a + round) >> 23) - emax, where round carries into the exponent exactly when
 * the rule goes up. Subnormal and zero amax have exponent 0 and end in byte 0. */
static inline __m256i nib_e8m0_scales8(const nib_tensor_math *m, __m256 amax)
{
    const nib_element_traits t = nib_element_traits_of(m->rules.element);
    int32_t round = 0;
    switch (m->rules.mx) {
    case NIB_MX_RULE_RCEIL: round = 0x7fffff - (int32_t)(nib_bits_of(t.max) & 0x7fffff); break;
    case NIB_MX_RULE_FLOOR: round = 0; break;
    case NIB_MX_RULE_EVEN:  round = 1 << (22 - t.m); break;
    case NIB_MX_RULE_CEIL:  round = 0x7fffff; break;
    case NIB_MX_RULE_EVEN_SOURCE: /* f16's low end is for the scalar code */
        if (m->rules.source == NIB_DT_F16
            && _mm256_movemask_ps(_mm256_cmp_ps(amax, _mm256_set1_ps(0x1p-14f), _CMP_LT_OQ))) {
            return nib_e8m0_scales_scalar8(m, amax);
        }
        round = 1 << (m->rules.element == NIB_EL_E2M3 ? 19 : 21);
        break;
    default: return nib_e8m0_log2_scales8(m, amax);
    }
    const __m256i sum = _mm256_add_epi32(_mm256_castps_si256(amax), _mm256_set1_epi32(round));
    const __m256i e = _mm256_sub_epi32(_mm256_srli_epi32(sum, 23), _mm256_set1_epi32(t.emax));
    return _mm256_max_epi32(e, _mm256_setzero_si256());
}

/* nib_block_unit.factor of eight bytes; whether it divides depends on the rules only. */
static inline __m256 nib_block_factors8(const nib_tensor_math *m, __m256i byte)
{
    if (!m->rules.e4m3_scale) { /* 2^(127 - byte); byte 254 gives 2^-127, which is subnormal */
        const __m256i e = _mm256_sub_epi32(_mm256_set1_epi32(254), byte);
        const __m256i last = _mm256_cmpeq_epi32(e, _mm256_setzero_si256());
        return _mm256_castsi256_ps(_mm256_or_si256(
            _mm256_slli_epi32(e, 23), _mm256_and_si256(last, _mm256_set1_epi32(1 << 22))));
    }
    const __m256 s = nib_e4m3_values8(byte);
    switch (m->rules.factor) {
    case NIB_E_RECIPROCAL: /* minps takes its second operand for a NaN, as nib_min does */
        return _mm256_min_ps(_mm256_div_ps(_mm256_set1_ps(1.0f),
                                           _mm256_mul_ps(s, _mm256_set1_ps(m->inverse))),
                             _mm256_set1_ps(NIB_F32_MAX));
    case NIB_E_DIVIDE: return _mm256_mul_ps(s, _mm256_set1_ps(m->scales.decode));
    default:           return _mm256_div_ps(s, _mm256_set1_ps(m->scales.encode));
    }
}

/* nib_block_step of eight bytes that are no NaN. */
static inline __m256 nib_block_steps8(int e4m3_scale, __m256i byte, float t)
{
    if (e4m3_scale) return _mm256_mul_ps(nib_e4m3_values8(byte), _mm256_set1_ps(t));
    const __m256i tiny = _mm256_cmpeq_epi32(byte, _mm256_setzero_si256()); /* 2^-127 */
    return _mm256_mul_ps(
        _mm256_castsi256_ps(_mm256_or_si256(
            _mm256_slli_epi32(byte, 23), _mm256_and_si256(tiny, _mm256_set1_epi32(1 << 22)))),
        _mm256_set1_ps(t));
}

/* Eight values of 0..255 to eight bytes. */
static inline uint64_t nib_bytes8(__m256i v)
{
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v),
                                           _mm256_extracti128_si256(v, 1));
    return (uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(words, words));
}

#endif
