/* quantize_avx2.c: E2M1 by blocks of 16 and 32, nearest rounding.
 *
 * 1024 elements at a time, first all scales and factors, then all codes: the divisions of one
 * block run beside those of others. Blocks with NaN, Inf or a factor out of range are done again by
 * the plain C of quantize_span.h, as is whatever this file does not know.
 */
#include "avx2_cpu.h"
#include "quantize_cpu.h"

#if defined(__x86_64__)

#include "codes_avx2.h"
#include "scale8_avx2.h"
#include "search_avx2.h"

enum { CHUNK = 1024, GROUP = 8 /* blocks whose scales are one vector */ };

/* How a chunk's codes are made; the constants of nib_codes64. */
typedef enum path { PATH_PLAIN, PATH_CLAMPED, PATH_DIVIDED, PATH_RULES, PATH_RULES_DIVIDED } path;

typedef struct chunk_out {
    uint8_t *codes;
    uint8_t  scales[CHUNK / 16];
    uint64_t again;   /* bit k: block k is for quantize_span.h */
    int      outside; /* some |x| * factor may reach 7 */
} chunk_out;

/* Amax of eight blocks of f32, as bits. */
static inline __attribute__((always_inline)) __m256i amax8_f32(const float *x, int block)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m[8];
#pragma GCC unroll 8
    for (int b = 0; b < 8; b++) {
        m[b] = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + b * block)), magnitude);
#pragma GCC unroll 8
        for (int j = 8; j < block; j += 8) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(x + b * block + j));
            m[b] = _mm256_max_epi32(m[b], _mm256_and_si256(v, magnitude));
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
                                                                int block)
{
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    __m256i m[8];
#pragma GCC unroll 8
    for (int b = 0; b < 8; b++) {
        m[b] = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + b * block)), magnitude);
#pragma GCC unroll 8
        for (int j = 16; j < block; j += 16) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(x + b * block + j));
            m[b] = _mm256_max_epi16(m[b], _mm256_and_si256(v, magnitude));
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

/* Scales and factors of a chunk's groups; factors gets one for each 16 elements. searched: the
 * scales are in out already. */
static inline __attribute__((always_inline)) void
scales(const nib_tensor_math *m, int block, int divide, int searched, const __m256i *amax,
       int groups, float *factors, chunk_out *out)
{
    __m256 outside = _mm256_setzero_ps();
    out->again = 0;
    for (int g = 0; g < groups; g++) {
        const __m256 a = _mm256_castsi256_ps(amax[g]);
        uint8_t *const at = out->scales + g * GROUP;
        const __m256i byte = searched ? _mm256_cvtepu8_epi32(_mm_loadl_epi64((__m128i *)at))
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
            const __m256 low = _mm256_cmp_ps(f, _mm256_setzero_ps(), _CMP_NGT_UQ);
            const __m256 high = _mm256_cmp_ps(f, _mm256_set1_ps(NIB_F32_MAX), _CMP_NLE_UQ);
            odd = _mm256_or_ps(odd, _mm256_or_ps(low, high));
        }
        out->again |= (uint64_t)(uint32_t)_mm256_movemask_ps(odd) << g * GROUP;
        if (block == 16) {
            _mm256_storeu_ps(factors + g * GROUP, f);
        } else {
            const __m256 lo = _mm256_unpacklo_ps(f, f), hi = _mm256_unpackhi_ps(f, f);
            _mm256_storeu_ps(factors + 2 * g * GROUP, _mm256_permute2f128_ps(lo, hi, 0x20));
            _mm256_storeu_ps(factors + 2 * g * GROUP + 8, _mm256_permute2f128_ps(lo, hi, 0x31));
        }
    }
    out->outside = _mm256_movemask_ps(outside);
}

/* The scales by the rules; the default ones compiled for themselves. */
static inline __attribute__((always_inline)) void
scales_by_rules(const nib_tensor_math *math, int block, int divide, const __m256i *amax,
                int groups, float *factors, chunk_out *out)
{
    const nib_block_rules *r = &math->rules;
    if (r->e4m3_scale && r->block_scale == NIB_B_FOLDED && r->factor == NIB_E_RECIPROCAL
        && r->e4m3_zero == 0 && r->e4m3_min == 0) {
        nib_tensor_math m = *math;
        m.rules.e4m3_scale = 1;
        m.rules.block_scale = NIB_B_FOLDED;
        m.rules.factor = NIB_E_RECIPROCAL;
        m.rules.e4m3_zero = m.rules.e4m3_min = 0;
        scales(&m, block, 0, 0, amax, groups, factors, out);
    } else {
        scales(math, block, divide, 0, amax, groups, factors, out);
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

/* One chunk of groups of eight blocks; x and block lengths are whole. First every amax, then
 * every scale, then every code: each loop is short enough for several rounds to be in flight. */
static inline __attribute__((always_inline)) void
chunk(const nib_quantize_job *job, int dtype, int block, const uint8_t *x, int groups,
      chunk_out *out)
{
    const nib_block_rules *r = &job->math.rules;
    const int divide = r->e4m3_scale && r->factor != NIB_E_RECIPROCAL;
    const int size = dtype == NIB_DT_F32 ? 4 : 2, n = groups * GROUP * block;
    __m256i amax[CHUNK / 16 / GROUP];
    float factors[CHUNK / 16];

    for (int g = 0; g < groups; g++) {
        const void *from = x + g * GROUP * block * size;
        amax[g] = dtype == NIB_DT_F32 ? amax8_f32(from, block) : amax8_half(dtype, from, block);
    }
    if (job->choice == NIB_SC_AMAX) {
        scales_by_rules(&job->math, block, divide, amax, groups, factors, out);
    } else {
        uint32_t bits[CHUNK / 16];
        memcpy(bits, amax, (size_t)groups * sizeof *amax);
        nib_search_blocks(&job->math, job->choice, dtype, block, x, bits, groups * GROUP,
                          out->scales);
        scales(&job->math, block, divide, 1, amax, groups, factors, out);
    }
    const int even = r->ties == NIB_TIE_EVEN, keep = r->zero_sign == NIB_Z_KEEP;
    const path p = divide ? (even && r->zero_sign == NIB_Z_INPUT ? PATH_DIVIDED
                                                                 : PATH_RULES_DIVIDED)
                 : !even || !keep ? PATH_RULES : out->outside ? PATH_CLAMPED : PATH_PLAIN;
    const nib_codes_rules rules = nib_codes_rules_of(r);
    uint8_t *q = out->codes;

#define CODES(divides, clamps, kind)                                                          \
    for (int i = 0; i < n; i += 64, q += 32) {                                                \
        prefetch64(dtype, x + i * size);                                                      \
        nib_codes64(dtype, divides, clamps, kind, &rules, x + i * size, factors + i / 16, q); \
    }                                                                                         \
    break
    switch (p) {
    case PATH_PLAIN:         CODES(0, 0, NIB_CODES_KEEP);
    case PATH_CLAMPED:       CODES(0, 1, NIB_CODES_KEEP);
    case PATH_DIVIDED:       CODES(1, 1, NIB_CODES_INPUT);
    case PATH_RULES:         CODES(0, 1, NIB_CODES_ANY);
    case PATH_RULES_DIVIDED: CODES(1, 1, NIB_CODES_ANY);
    }
#undef CODES
}

typedef void (*chunk_function)(const nib_quantize_job *, const uint8_t *, int, chunk_out *);

#define CHUNK_FUNCTION(name, dtype, block)                                               \
    static void name(const nib_quantize_job *job, const uint8_t *x, int groups, chunk_out *out) \
    { chunk(job, dtype, block, x, groups, out); }
CHUNK_FUNCTION(chunk_f32_16, NIB_DT_F32, 16)
CHUNK_FUNCTION(chunk_f32_32, NIB_DT_F32, 32)
CHUNK_FUNCTION(chunk_f16_16, NIB_DT_F16, 16)
CHUNK_FUNCTION(chunk_f16_32, NIB_DT_F16, 32)
CHUNK_FUNCTION(chunk_bf16_16, NIB_DT_BF16, 16)
CHUNK_FUNCTION(chunk_bf16_32, NIB_DT_BF16, 32)

/* count scales from block k (a multiple of 4) on. */
static void store_scales(const nib_quantize_job *job, int64_t row, int64_t k, const uint8_t *bytes,
                         int64_t count)
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

static void quantize_span(const nib_quantize_job *job, int64_t row, int64_t first, int64_t last)
{
    const chunk_function functions[3][2] = {
        { chunk_f32_16, chunk_f32_32 }, { chunk_f16_16, chunk_f16_32 },
        { chunk_bf16_16, chunk_bf16_32 },
    };
    const int dtype = (int)job->src->dtype, block = job->math.rules.block;
    const chunk_function function = functions[dtype][block == 32];
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2, cols = job->dst->cols;
    const uint8_t *x = (const uint8_t *)job->src->data + row * job->src->ld_elems * size;
    uint8_t *codes = job->dst->codes + row * job->dst->ld_codes_bytes;
    const int64_t per_chunk = CHUNK / block;
    chunk_out out;

    for (int64_t k = first; k < last; k += per_chunk) {
        const int64_t blocks = last - k < per_chunk ? last - k : per_chunk;
        const int64_t groups = nib_ceil_div(blocks, GROUP), col = k * block;
        const int64_t n = cols - col < blocks * block ? cols - col : blocks * block;
        if (n == groups * GROUP * block) {
            out.codes = codes + col / 2;
            function(job, x + col * size, (int)groups, &out);
        } else { /* an unfinished group: with zeros behind it, in buffers of our own */
            uint8_t whole[CHUNK * 4], packed[CHUNK / 2];
            memcpy(whole, x + col * size, (size_t)(n * size));
            memset(whole + n * size, 0, (size_t)((groups * GROUP * block - n) * size));
            out.codes = packed;
            function(job, whole, (int)groups, &out);
            memcpy(codes + col / 2, packed, (size_t)((n + 1) / 2));
            if (n % 2) codes[(col + n) / 2] &= 15;
        }
        store_scales(job, row, k, out.scales, blocks);
        for (uint64_t again = out.again; again; again &= again - 1) {
            const int64_t b = __builtin_ctzll(again);
            if (b < blocks) nib_quantize_span_any_avx2(job, row, k + b, k + b + 1);
        }
    }
}

/* Whether quantize_span knows this request. */
static int has_span(const nib_quantize_request *request, const nib_packed *dst)
{
    const int block = nib_part_block(dst->format);
    return nib_part_element(dst->format) == NIB_EL_E2M1 && (block == 16 || block == 32)
        && dst->code_order == NIB_CODES_PAIRS && request->rounding == NIB_ROUND_NEAREST
        && (request->scale_choice == NIB_SCALE_AMAX || request->rules.ties == NIB_TIES_EVEN);
}

nib_status nib_quantize_avx2(const nib_launch *launch, const nib_matrix *src,
                             const nib_quantize_request *request, const nib_packed *dst)
{
    return nib_quantize_run(launch, src, request, dst,
                            has_span(request, dst) ? quantize_span : nib_quantize_span_any_avx2);
}

#endif
