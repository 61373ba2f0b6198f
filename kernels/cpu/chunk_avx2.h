/* chunk_avx2.h: a chunk of E2M1 in blocks of 16 and 32, nearest rounding, with or without its
 * error statistics.
 *
 * 1024 elements at a time, first all scales and factors, then all codes: the divisions of one
 * block run beside those of others, and beside the statistics. Blocks with NaN, Inf or a factor
 * out of range are done again by the plain C of quantize_span.h.
 */
#ifndef NIB_CHUNK_AVX2_H
#define NIB_CHUNK_AVX2_H

#include "codes_avx2.h"
#include "quantize_cpu.h"
#include "scale8_avx2.h"
#include "search_avx2.h"

enum { CHUNK = NIB_STATS_PIECE, GROUP = 8 /* blocks whose scales are one vector */ };

/* How a chunk's codes are made; the constants of nib_codes64. */
typedef enum path {
    PATH_PLAIN, PATH_CLAMPED, PATH_DIVIDED_PLAIN, PATH_DIVIDED, PATH_RULES, PATH_RULES_DIVIDED
} path;

typedef struct chunk_out {
    uint8_t *codes;
    uint8_t  scales[CHUNK / 16];
    uint64_t again;   /* bit k: block k is for quantize_span.h */
    int      outside; /* some |x| * factor may reach 7 */
    int      sinks;   /* some |x| / factor may round to 0 */
} chunk_out;

/* What measuring a chunk needs and finds. */
typedef struct chunk_measure {
    float       step[CHUNK / 16];  /* of each 16 elements, and its nib_measure_limits8 */
    uint32_t    limit[CHUNK / 16];
    uint64_t    zeros;             /* among the elements */
    int         unusual;           /* sums may not run in f32, or flags not be told from codes */
    nib_lanes   lanes;
    nib_measure found;
} chunk_measure;

/* Amax of eight blocks of f32, as bits. least: NULL, or the least magnitudes so far. */
static inline __attribute__((always_inline)) __m256i amax8_f32(const float *x, int block,
                                                               __m256i *least)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m[8];
#pragma GCC unroll 8
    for (int b = 0; b < 8; b++) {
        m[b] = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + b * block)), magnitude);
        if (least) *least = _mm256_min_epu32(*least, m[b]);
#pragma GCC unroll 8
        for (int j = 8; j < block; j += 8) {
            const __m256i v = _mm256_and_si256(
                _mm256_loadu_si256((const __m256i *)(x + b * block + j)), magnitude);
            m[b] = _mm256_max_epi32(m[b], v);
            if (least) *least = _mm256_min_epu32(*least, v);
        }
    }
    __m256i t[4], u[2];
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_max_epi32(_mm256_unpacklo_epi32(m[2 * i], m[2 * i + 1]),
                                _mm256_unpackhi_epi32(m[2 * i], m[2 * i + 1]));
    }
#pragma GCC unroll 8
    for (int i = 0; i < 2; i++) {
        u[i] = _mm256_max_epi32(_mm256_unpacklo_epi64(t[2 * i], t[2 * i + 1]),
                                _mm256_unpackhi_epi64(t[2 * i], t[2 * i + 1]));
    }
    return _mm256_max_epi32(_mm256_permute2x128_si256(u[0], u[1], 0x20),
                            _mm256_permute2x128_si256(u[0], u[1], 0x31));
}

/* The same of f16 or bf16, as f32 bits: magnitudes order like integers there too. */
static inline __attribute__((always_inline)) __m256i amax8_half(int dtype, const uint16_t *x,
                                                                int block, __m256i *least)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    __m256i m[8];
#pragma GCC unroll 8
    for (int b = 0; b < 8; b++) {
        m[b] = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + b * block)), magnitude);
        if (least) *least = _mm256_min_epu16(*least, m[b]);
#pragma GCC unroll 8
        for (int j = 16; j < block; j += 16) {
            const __m256i v = _mm256_and_si256(
                _mm256_loadu_si256((const __m256i *)(x + b * block + j)), magnitude);
            m[b] = _mm256_max_epi16(m[b], v);
            if (least) *least = _mm256_min_epu16(*least, v);
        }
    }
    __m256i t[4], u[2];
#pragma GCC unroll 8
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_max_epi16(_mm256_unpacklo_epi16(m[2 * i], m[2 * i + 1]),
                                _mm256_unpackhi_epi16(m[2 * i], m[2 * i + 1]));
    }
#pragma GCC unroll 8
    for (int i = 0; i < 2; i++) {
        u[i] = _mm256_max_epi16(_mm256_unpacklo_epi32(t[2 * i], t[2 * i + 1]),
                                _mm256_unpackhi_epi32(t[2 * i], t[2 * i + 1]));
    }
    const __m256i v = _mm256_max_epi16(_mm256_unpacklo_epi64(u[0], u[1]),
                                       _mm256_unpackhi_epi64(u[0], u[1]));
    const __m128i bits = _mm_max_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return dtype == NIB_DT_F16 ? _mm256_castps_si256(_mm256_cvtph_ps(bits))
                               : _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
}

/* Amax of each block of the groups; returns 1 if zeros are asked for and there are some. */
static inline __attribute__((always_inline)) int amaxes(int dtype, int block, int zeros,
                                                        const uint8_t *x, int groups,
                                                        __m256i *amax)
{
    const int size = dtype == NIB_DT_F32 ? 4 : 2;
    __m256i least = _mm256_set1_epi32(-1);
    for (int g = 0; g < groups; g++) {
        const void *from = x + g * GROUP * block * size;
        amax[g] = dtype == NIB_DT_F32 ? amax8_f32(from, block, zeros ? &least : NULL)
                                      : amax8_half(dtype, from, block, zeros ? &least : NULL);
    }
    const __m256i zero = _mm256_setzero_si256();
    const __m256i none = dtype == NIB_DT_F32 ? _mm256_cmpeq_epi32(least, zero)
                                             : _mm256_cmpeq_epi16(least, zero);
    return !_mm256_testz_si256(none, none);
}

/* Eight words, one for each block, to one for each 16 elements of group g. */
static inline __attribute__((always_inline)) void store_each16(int block, int g, __m256 v,
                                                               void *words)
{
    float *const at = (float *)words + g * GROUP * block / 16;
    if (block == 16) {
        _mm256_storeu_ps(at, v);
    } else {
        const __m256 lo = _mm256_unpacklo_ps(v, v), hi = _mm256_unpackhi_ps(v, v);
        _mm256_storeu_ps(at, _mm256_permute2f128_ps(lo, hi, 0x20));
        _mm256_storeu_ps(at + 8, _mm256_permute2f128_ps(lo, hi, 0x31));
    }
}

/* With the largest magnitude of a chunk in AMAX_LEAST..AMAX_MOST its squares may be added in f32
 * (stats_cpu.h): the largest pair of sums is at least that one's, and at most 16 of them. */
#define AMAX_LEAST 0x1p-49f
#define AMAX_MOST  0x1p57f

/* The largest amax and step of a chunk, and where a step is 0 or next to it but its block not. */
typedef struct measure_range {
    __m256 amax, step, lost;
} measure_range;

/* Steps and limits of group g. */
static inline __attribute__((always_inline)) void
measure_scales(int dtype, int block, int g, __m256 step, __m256 amax, measure_range *range,
               chunk_measure *measure)
{
    const __m256 some = _mm256_cmp_ps(amax, _mm256_setzero_ps(), _CMP_NEQ_UQ);
    const __m256 tiny = _mm256_cmp_ps(step, _mm256_set1_ps(NIB_STATS_TINY), _CMP_LT_OQ);
    range->lost = _mm256_or_ps(range->lost, _mm256_and_ps(some, tiny));
    range->amax = _mm256_max_ps(range->amax, amax);
    range->step = _mm256_max_ps(range->step, step);
    store_each16(block, g, step, measure->step);
    store_each16(block, g, _mm256_castsi256_ps(nib_measure_limits8(dtype, step)),
                 measure->limit);
}

static inline __attribute__((always_inline)) int is_unusual(const measure_range *range)
{
    const __m256 most = _mm256_set1_ps(AMAX_MOST);
    const __m256 high = _mm256_or_ps(_mm256_cmp_ps(range->amax, most, _CMP_NLE_UQ),
                                     _mm256_cmp_ps(range->step, most, _CMP_NLE_UQ));
    const __m256 enough = _mm256_cmp_ps(range->amax, _mm256_set1_ps(AMAX_LEAST), _CMP_GE_OQ);
    return _mm256_movemask_ps(_mm256_or_ps(range->lost, high)) || !_mm256_movemask_ps(enough);
}

/* Scales and factors of a chunk's groups; factors gets one for each 16 elements. known: the scales
 * are in out already. */
static inline __attribute__((always_inline)) void
scales(const nib_tensor_math *m, int dtype, int block, int divide, int known,
       const __m256i *amax, int groups, float *factors, chunk_out *out, chunk_measure *measure)
{
    __m256 outside = _mm256_setzero_ps(), sinks = outside;
    measure_range range = { outside, outside, outside };
    out->again = 0;
    for (int g = 0; g < groups; g++) {
        const __m256 a = _mm256_castsi256_ps(amax[g]);
        uint8_t *const at = out->scales + g * GROUP;
        const __m256i byte = known ? _mm256_cvtepu8_epi32(_mm_loadl_epi64((__m128i *)at))
                           : m->rules.e4m3_scale ? nib_e4m3_scales8(m, a)
                                                 : nib_e8m0_scales8(m, a);
        const __m256 f = nib_block_factors8(m, byte);
        const uint64_t bytes = nib_bytes8(byte);
        memcpy(at, &bytes, sizeof bytes);

        /* a * f < 7 for sure: then no code leaves the grid, however f was rounded. */
        const __m256 large = divide ? _mm256_cmp_ps(a, _mm256_mul_ps(f, _mm256_set1_ps(6.5f)),
                                                    _CMP_NLT_UQ)
                                    : _mm256_cmp_ps(_mm256_mul_ps(a, f), _mm256_set1_ps(7.0f),
                                                    _CMP_NLT_UQ);
        outside = _mm256_or_ps(outside, large);
        __m256 odd = _mm256_castsi256_ps(
            _mm256_cmpgt_epi32(amax[g], _mm256_set1_epi32(0x7f7fffff)));
        if (divide) { /* 0 / 0 and a / Inf have rules of their own */
            sinks = _mm256_or_ps(sinks, _mm256_cmp_ps(f, _mm256_set1_ps(1.0f), _CMP_NLE_UQ));
            const __m256 low = _mm256_cmp_ps(f, _mm256_setzero_ps(), _CMP_NGT_UQ);
            const __m256 high = _mm256_cmp_ps(f, _mm256_set1_ps(NIB_F32_MAX), _CMP_NLE_UQ);
            odd = _mm256_or_ps(odd, _mm256_or_ps(low, high));
        }
        out->again |= (uint64_t)(uint32_t)_mm256_movemask_ps(odd) << g * GROUP;
        store_each16(block, g, f, factors);
        if (measure) {
            const int is_step = m->rules.e4m3_scale && m->rules.factor == NIB_E_DIVIDE;
            const __m256 step = is_step ? f : nib_block_steps8(m->rules.e4m3_scale, byte,
                                                               m->scales.decode);
            measure_scales(dtype, block, g, step, a, &range, measure);
        }
    }
    if (measure) measure->unusual = is_unusual(&range);
    out->sinks = _mm256_movemask_ps(sinks);
    out->outside = _mm256_movemask_ps(outside);
}

/* The scales by the rules; the default ones compiled for themselves. */
static inline __attribute__((always_inline)) void
scales_by_rules(const nib_tensor_math *math, int dtype, int block, int divide,
                const __m256i *amax, int groups, float *factors, chunk_out *out,
                chunk_measure *measure)
{
    const nib_block_rules *r = &math->rules;
    if (r->e4m3_scale && r->block_scale == NIB_B_FOLDED && r->factor == NIB_E_RECIPROCAL
        && r->e4m3_zero == 0 && r->e4m3_min == 0) {
        nib_tensor_math m = *math;
        m.rules.e4m3_scale = 1;
        m.rules.block_scale = NIB_B_FOLDED;
        m.rules.factor = NIB_E_RECIPROCAL;
        m.rules.e4m3_zero = m.rules.e4m3_min = 0;
        scales(&m, dtype, block, 0, 0, amax, groups, factors, out, measure);
    } else if (r->e4m3_scale && r->block_scale == NIB_B_DIVIDE && r->factor == NIB_E_DIVIDE) {
        nib_tensor_math m = *math; /* ModelOpt's */
        m.rules.e4m3_scale = 1;
        m.rules.block_scale = NIB_B_DIVIDE;
        m.rules.factor = NIB_E_DIVIDE;
        scales(&m, dtype, block, 1, 0, amax, groups, factors, out, measure);
    } else {
        scales(math, dtype, block, divide, 0, amax, groups, factors, out, measure);
    }
}

/* The loop over codes leaves memory idle, since it reads what the first loop brought: ask for the
 * chunk after next. f32 went from 0.53 to 0.60 of the read bandwidth (Zen 5, one thread); 16-bit
 * elements, with half the bytes for the same work, gained nothing. */
static inline __attribute__((always_inline)) void prefetch64(int dtype, const uint8_t *x)
{
    const uintptr_t ahead = (uintptr_t)x + 2 * CHUNK * sizeof(float);
    if (dtype != NIB_DT_F32) return;
#pragma GCC unroll 4
    for (uintptr_t line = 0; line < 256; line += 64) {
        _mm_prefetch((const char *)(ahead + line), _MM_HINT_T0);
    }
}

/* Codes of n elements, a multiple of 128. */
static inline __attribute__((always_inline)) void
codes(int dtype, int divides, int clamps, int kind, const nib_codes_rules *rules, const uint8_t *x,
      int n, const float *factors, uint8_t *q, chunk_measure *measure)
{
    const int size = dtype == NIB_DT_F32 ? 4 : 2;
    if (!measure) {
        for (int i = 0; i < n; i += 64, q += 32) {
            prefetch64(dtype, x + i * size);
            nib_codes64(dtype, divides, clamps, kind, rules, x + i * size, factors + i / 16, q,
                        NULL, NULL, NULL);
        }
        return;
    }
    nib_lanes lanes = measure->lanes;
    nib_measure found = measure->found;
    for (int i = 0; i < n; i += NIB_STATS_GROUP, q += NIB_STATS_GROUP / 2) {
        found.error[0] = found.error[1] = _mm256_setzero_ps();
        found.square[0] = found.square[1] = _mm256_setzero_ps();
#pragma GCC unroll 2
        for (int j = 0; j < NIB_STATS_GROUP; j += 64) {
            prefetch64(dtype, x + (i + j) * size);
            nib_codes64(dtype, divides, clamps, kind, rules, x + (i + j) * size,
                        factors + (i + j) / 16, q + j / 2, measure->step + (i + j) / 16,
                        measure->limit + (i + j) / 16, &found);
        }
        nib_lanes_add(&lanes, nib_measure_pairs(dtype, found.error),
                      nib_measure_pairs(dtype, found.square));
    }
    measure->lanes = lanes;
    measure->found = found;
}

/* Scales and factors of a chunk by the request, and how its codes are to be made. Where scales are
 * given, out has them already. */
static inline __attribute__((always_inline)) path
chunk_scales(const nib_quantize_job *job, int dtype, int block, const uint8_t *x, int groups,
             float *factors, chunk_out *out, chunk_measure *measure)
{
    const nib_block_rules *r = &job->math.rules;
    const int divide = r->e4m3_scale && r->factor != NIB_E_RECIPROCAL;
    __m256i amax[CHUNK / 16 / GROUP];

    const int even = r->ties == NIB_TIE_EVEN, keep = r->zero_sign == NIB_Z_KEEP;
    const int input = divide && even && r->zero_sign == NIB_Z_INPUT;
    const int zeros = measure || input ? amaxes(dtype, block, 1, x, groups, amax)
                                       : amaxes(dtype, block, 0, x, groups, amax);
    if (measure)
        measure->zeros = zeros ? nib_measure_zeros(dtype, x, groups * GROUP * block) : 0;
    if (!job->given && job->choice == NIB_SC_AMAX) {
        scales_by_rules(&job->math, dtype, block, divide, amax, groups, factors, out, measure);
    } else {
        uint32_t bits[CHUNK / 16];
        memcpy(bits, amax, (size_t)groups * sizeof *amax);
        if (!job->given)
            nib_search_blocks(&job->math, job->choice, dtype, block, x, bits, groups * GROUP,
                              out->scales);
        scales(&job->math, dtype, block, divide, 1, amax, groups, factors, out, measure);
    }
    /* Without a 0 among the quotients, all have the sign of their element. */
    return input ? zeros || out->sinks || out->outside ? PATH_DIVIDED : PATH_DIVIDED_PLAIN
         : divide ? PATH_RULES_DIVIDED
         : !even || !keep ? PATH_RULES : out->outside ? PATH_CLAMPED : PATH_PLAIN;
}

/* What CODES(divides, clamps, kind) does, by the path. */
#define SWITCH_PATH(p, CODES)                                      \
    switch (p) {                                                   \
    case PATH_PLAIN:         CODES(0, 0, NIB_CODES_KEEP); break;   \
    case PATH_CLAMPED:       CODES(0, 1, NIB_CODES_KEEP); break;   \
    case PATH_DIVIDED_PLAIN: CODES(1, 0, NIB_CODES_KEEP); break;   \
    case PATH_DIVIDED:       CODES(1, 1, NIB_CODES_INPUT); break;  \
    case PATH_RULES:         CODES(0, 1, NIB_CODES_ANY); break;    \
    case PATH_RULES_DIVIDED: CODES(1, 1, NIB_CODES_ANY); break;    \
    }

/* One chunk of groups of eight blocks; x and block lengths are whole. First every amax, then
 * every scale, then every code: each loop is short enough for several rounds to be in flight.
 * measure: NULL, or what is filled in; its lanes and what it found so far are the caller's. */
static inline __attribute__((always_inline)) void
chunk(const nib_quantize_job *job, int dtype, int block, const uint8_t *x, int groups,
      chunk_out *out, chunk_measure *measure)
{
    float factors[CHUNK / 16];
    const path p = chunk_scales(job, dtype, block, x, groups, factors, out, measure);
    const nib_codes_rules rules = nib_codes_rules_of(&job->math.rules);
    const int n = groups * GROUP * block;
#define CODES(divides, clamps, kind) \
    codes(dtype, divides, clamps, kind, &rules, x, n, factors, out->codes, measure)
    SWITCH_PATH(p, CODES)
#undef CODES
}

/* The given bytes of count blocks from block k on, a multiple of 4, others behind them. Returns
 * which of them are NaN: nib_block_steps8 does not know. */
static inline uint64_t given_bytes(const nib_quantize_job *job, int64_t row, int64_t k, int count,
                                   uint8_t *bytes)
{
    const int e4m3 = job->math.rules.e4m3_scale;
    uint64_t nan = 0;
    memset(bytes, 1, CHUNK / 16);
    if (job->given_layout == NIB_SCALES_LINEAR) {
        memcpy(bytes, job->given + row * job->scale_cols + k, (size_t)count);
    } else {
        for (int i = 0; i < count; i += 4)
            memcpy(bytes + i, job->given + nib_swizzle_128x4(row, k + i, job->scale_cols),
                   (size_t)(count - i < 4 ? count - i : 4));
    }
    for (int i = 0; i < CHUNK / 16; i += 32) {
        __m256i *const at = (__m256i *)(void *)(bytes + i);
        const __m256i v = _mm256_and_si256(
            _mm256_loadu_si256(at), _mm256_set1_epi8((char)nib_scale_given(e4m3, 0xff)));
        const __m256i is_nan = _mm256_cmpeq_epi8(v,
                                                 _mm256_set1_epi8((char)nib_scale_nan_byte(e4m3)));
        _mm256_storeu_si256(at, v);
        nan |= (uint64_t)(uint32_t)_mm256_movemask_epi8(is_nan) << i;
    }
    return nan;
}

/* count scales from block k (a multiple of 4) on. */
static inline void store_scales(const nib_quantize_job *job, int64_t row, int64_t k,
                                const uint8_t *bytes, int64_t count)
{
    if (job->dst->scale_layout == NIB_SCALES_LINEAR) {
        memcpy(job->dst->scales + row * job->scale_cols + k, bytes, (size_t)count);
        return;
    }
    for (int64_t i = 0; i < count; i += 4) {
        memcpy(job->dst->scales + nib_swizzle_128x4(row, k + i, job->scale_cols), bytes + i,
               (size_t)(count - i < 4 ? count - i : 4));
    }
}

typedef void (*chunk_function)(const nib_quantize_job *, const uint8_t *, int, chunk_out *,
                               chunk_measure *);

/* Blocks k.. of a row, at most a chunk of them, k at a multiple of one. */
static inline void chunk_at(chunk_function function, const nib_quantize_job *job, int64_t row,
                            int64_t k, int64_t blocks, chunk_measure *measure, chunk_out *out)
{
    const int dtype = (int)job->src->dtype, block = job->math.rules.block;
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2, col = k * block;
    const int64_t groups = nib_ceil_div(blocks, GROUP), left = job->dst->cols - col;
    const int64_t n = left < blocks * block ? left : blocks * block;
    const int64_t whole = groups * GROUP * block;
    const uint8_t *x = (const uint8_t *)job->src->data + (row * job->src->ld_elems + col) * size;
    uint8_t *to = job->dst->codes + row * job->dst->ld_codes_bytes + col / 2;

    const uint64_t nan = job->given ? given_bytes(job, row, k, (int)blocks, out->scales) : 0;

    if (n == whole) {
        out->codes = to;
        function(job, x, (int)groups, out, measure);
    } else { /* an unfinished group: with zeros behind it, in buffers of our own */
        uint8_t padded[CHUNK * 4], packed[CHUNK / 2];
        memcpy(padded, x, (size_t)(n * size));
        memset(padded + n * size, 0, (size_t)((whole - n) * size));
        out->codes = packed;
        function(job, padded, (int)groups, out, measure);
        memcpy(to, packed, (size_t)((n + 1) / 2));
        if (n % 2) to[n / 2] &= 15;
    }
    out->again |= nan;
    if (!job->given) store_scales(job, row, k, out->scales, blocks);
    for (uint64_t again = out->again; again; again &= again - 1) {
        const int64_t b = __builtin_ctzll(again);
        if (b < blocks) nib_quantize_span_any_avx2(job, row, k + b, k + b + 1);
    }
}

/* Whether this file knows the request. */
static inline int has_chunks(const nib_quantize_request *request, const nib_packed *dst)
{
    const int block = nib_part_block(dst->format);
    return nib_part_element(dst->format) == NIB_EL_E2M1 && (block == 16 || block == 32)
        && dst->code_order == NIB_CODES_PAIRS && request->rounding == NIB_ROUND_NEAREST
        && request->scale_rows <= 1
        && (request->scale_choice == NIB_SCALE_AMAX || request->rules.ties == NIB_TIES_EVEN);
}

#endif
