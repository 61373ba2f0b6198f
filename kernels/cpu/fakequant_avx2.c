/* fakequant_avx2.c: fake-quantize E2M1 by blocks of 16 and 32, nearest rounding. Scales are those
 * of chunk_avx2.h, or given; a code is looked up while it is still in a register. All else is the
 * plain C of fakequant_span.h, compiled for AVX2. */
#include "avx2_cpu.h"

#if defined(__x86_64__)

#include "fakequant_avx2.h"
#include "store16_avx2.h"

/* Where a chunk's values go. */
typedef struct fake_out {
    uint8_t *values;
    uint8_t *mask;   /* or NULL */
    int      dtype, stream;
} fake_out;

/* Eight elements from at on, as f32. */
static inline __attribute__((always_inline)) __m256 load8(int dtype, const uint8_t *x)
{
    if (dtype == NIB_DT_F32) return _mm256_loadu_ps((const float *)(const void *)x);
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)x);
    return dtype == NIB_DT_F16
               ? _mm256_cvtph_ps(h)
               : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* n elements, a multiple of 128, to their values; a factor and a step for each 16. */
static inline __attribute__((always_inline)) void
values(int dtype, int divides, int clamps, int kind, const nib_codes_rules *rules,
       const uint8_t *x, int n, const float *factors, const float *steps, const fake_out *out)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const int size = dtype == NIB_DT_F32 ? 4 : 2, to_size = out->dtype == NIB_DT_F32 ? 4 : 2;
    for (int i = 0; i < n; i += 16) {
        const __m256 f = _mm256_broadcast_ss(factors + i / 16);
        const __m256 step = _mm256_broadcast_ss(steps + i / 16);
        const __m256 minus = _mm256_mul_ps(step, nib_measure_elements()); /* by code */
        __m256 v[2], y[2];
        if (i % 64 == 0) prefetch64(dtype, x + i * size);
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const __m256 e = load8(dtype, x + (i + 8 * j) * size);
            __m256i below = _mm256_setzero_si256();
            y[j] = _mm256_or_ps(e, sign);
            const __m256 scaled = divides ? _mm256_div_ps(y[j], f) : _mm256_mul_ps(y[j], f);
            const __m256i sum = nib_codes_sums8(clamps, kind, rules, scaled, &below);
            const __m256 s = _mm256_castsi256_ps(
                nib_codes_signs(kind, rules, _mm256_castps_si256(e), below));
            v[j] = _mm256_or_ps(_mm256_andnot_ps(sign, _mm256_permutevar8x32_ps(minus, sum)),
                                _mm256_and_ps(sign, s));
        }
        if (out->mask) {
            const __m256 limit = _mm256_mul_ps(step, _mm256_set1_ps(6.0f));
            out->mask[i / 8] = (uint8_t)passes8(_mm256_andnot_ps(sign, y[0]), limit);
            out->mask[i / 8 + 1] = (uint8_t)passes8(_mm256_andnot_ps(sign, y[1]), limit);
        }
        nib_store16(out->dtype, out->stream, out->values + i * to_size, v[0], v[1]);
    }
}

/* Whole groups of blocks. given: NULL, or the scales' bytes. again: in: 0, or blocks that plain C
 * will do; out: all that are left for it. x is then copied to saved, if that is not NULL, before a
 * value is written. */
static inline __attribute__((always_inline)) void
fake_chunk(const nib_fake_job *job, int dtype, int block, const uint8_t *x, int groups,
           const uint8_t *given, const fake_out *out, uint8_t *saved, uint64_t *again)
{
    float factors[CHUNK / 16], steps[CHUNK / 16];
    chunk_out scales;
    if (given) memcpy(scales.scales, given, (size_t)(groups * GROUP));
    const path p = chunk_scales(&job->quantize, dtype, block, x, groups, factors, &scales, NULL);
    const nib_codes_rules rules = nib_codes_rules_of(&job->quantize.math.rules);
    const int n = groups * GROUP * block;
    chunk_steps(job, block, groups, &scales, steps);
    *again |= scales.again;
    if (*again && saved) memcpy(saved, x, (size_t)n * (dtype == NIB_DT_F32 ? 4 : 2));
#define VALUES(divides, clamps, kind) \
    values(dtype, divides, clamps, kind, &rules, x, n, factors, steps, out)
    SWITCH_PATH(p, VALUES)
#undef VALUES
}

typedef void (*fake_function)(const nib_fake_job *, const uint8_t *, int, const uint8_t *,
                              const fake_out *, uint8_t *, uint64_t *);

#define FAKE_FUNCTION(name, dtype, block)                                                    \
    static void name(const nib_fake_job *job, const uint8_t *x, int groups,                  \
                     const uint8_t *given, const fake_out *out, uint8_t *saved,              \
                     uint64_t *again)                                                        \
    { fake_chunk(job, dtype, block, x, groups, given, out, saved, again); }
FAKE_FUNCTION(fake_f32_16, NIB_DT_F32, 16)
FAKE_FUNCTION(fake_f32_32, NIB_DT_F32, 32)
FAKE_FUNCTION(fake_f16_16, NIB_DT_F16, 16)
FAKE_FUNCTION(fake_f16_32, NIB_DT_F16, 32)
FAKE_FUNCTION(fake_bf16_16, NIB_DT_BF16, 16)
FAKE_FUNCTION(fake_bf16_32, NIB_DT_BF16, 32)

/* n elements from column col on, at most a chunk, which begins at a multiple of one. */
static void fake_chunk_at(const nib_fake_job *job, fake_function function, int64_t row,
                          int64_t col, int n, int stream)
{
    const int block = job->quantize.math.rules.block, whole_group = GROUP * block;
    const int groups = (n + whole_group - 1) / whole_group, whole = groups * whole_group;
    const int size = job->src->dtype == NIB_F32 ? 4 : 2;
    const int to_size = job->dst->dtype == NIB_F32 ? 4 : 2;
    const uint8_t *x = nib_matrix_at(job->src, row, col);
    uint8_t saved[CHUNK * 4], padded_values[CHUNK * 4], padded_mask[CHUNK / 8];
    uint8_t bytes[CHUNK / 16];
    const uint8_t *given = job->quantize.given ? bytes : NULL;
    uint64_t again = 0;
    fake_out out = { nib_matrix_at(job->dst, row, col),
                     job->mask ? job->mask + row * job->ld_mask + col / 8 : NULL,
                     (int)job->dst->dtype, stream };

    if (given)
        again = given_bytes(&job->quantize, row, col / block, (n + block - 1) / block, bytes);
    if (n == whole) {
        function(job, x, groups, given, &out, job->in_place ? saved : NULL, &again);
        if (job->in_place) x = saved;
    } else { /* an unfinished group: with zeros behind it, in buffers of our own */
        const fake_out real = out;
        memcpy(saved, x, (size_t)(n * size));
        memset(saved + n * size, 0, (size_t)((whole - n) * size));
        x = saved;
        out = (fake_out){ padded_values, out.mask ? padded_mask : NULL, out.dtype, 0 };
        function(job, x, groups, given, &out, NULL, &again);
        memcpy(real.values, padded_values, (size_t)(n * to_size));
        if (real.mask) {
            if (n % 8) padded_mask[n / 8] &= (uint8_t)((1 << n % 8) - 1);
            memcpy(real.mask, padded_mask, (size_t)((n + 7) / 8));
        }
    }
    for (; again; again &= again - 1) {
        const int at = __builtin_ctzll(again) * block, left = n - at;
        if (left > 0)
            fake_block(job, &job->quantize.math, 0, NULL, row, col + at,
                       left < block ? left : block, x + at * size);
    }
}

static void fake_span(const nib_fake_job *job, int64_t row, int64_t first, int64_t last)
{
    const fake_function functions[3][2] = {
        { fake_f32_16, fake_f32_32 }, { fake_f16_16, fake_f16_32 },
        { fake_bf16_16, fake_bf16_32 },
    };
    const int64_t block = job->quantize.math.rules.block, cols = job->shape.cols;
    const int64_t end = last * block < cols ? last * block : cols;
    const fake_function function = functions[job->src->dtype][block == 32];
    const nib_matrix *dst = job->dst;
    const int64_t bytes = dst->rows * cols * (dst->dtype == NIB_F32 ? 4 : 2);
    const int stream = !job->in_place && bytes >= NIB_STREAM_BYTES
                    && (uintptr_t)nib_matrix_at(dst, row, 0) % 32 == 0;
    for (int64_t col = first * block; col < end; col += CHUNK) {
        const int64_t left = end - col;
        fake_chunk_at(job, function, row, col, (int)(left < CHUNK ? left : CHUNK), stream);
    }
}

static void fence(void) { _mm_sfence(); }

nib_status nib_fake_quantize_avx2(const nib_launch *launch, const nib_matrix *src,
                                  const nib_fake_request *request, const nib_matrix *dst)
{
    const nib_packed shape = { .format = request->format, .code_order = NIB_CODES_PAIRS };
    return has_chunks(&request->quantize, &shape)
               ? nib_fake_run(launch, src, NULL, request, dst, fake_span, fence)
               : nib_fake_run(launch, src, NULL, request, dst, fake_any_span, NULL);
}

#endif
