/* stats_avx2.c: error statistics of E2M1 pairs; the sums' order is stats_cpu.h's. */
#include "avx2_cpu.h"
#include "stats_cpu.h"

#if defined(__x86_64__)

#include "search_avx2.h"
#include "values_avx2.h"

enum { CHUNK = 1024, STEP = 32 };

/* What a chunk adds; kept in vectors while it runs. */
typedef struct lanes {
    __m256d error[2], square[2]; /* the eight sums */
    __m256i most;                /* bits of the largest |d| */
    __m256i flushed, saturated;  /* minus the counts */
} lanes;

static inline __attribute__((always_inline)) void add_square(__m256d sum[2], __m256 v)
{
    const __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    const __m256d hi = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
    sum[0] = _mm256_fmadd_pd(lo, lo, sum[0]); /* the product is exact: fused or not is the same */
    sum[1] = _mm256_fmadd_pd(hi, hi, sum[1]);
}

/* n finite elements, a multiple of 32. Returns the bits of the largest |x| found, which the
 * caller checks: if it is no finite number, what was added to l is worthless. */
static inline __attribute__((always_inline)) uint32_t
errors(int dtype, const uint8_t *x, const uint8_t *codes, const float *steps, int64_t n, lanes *l)
{
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2;
    const __m256 sign = _mm256_set1_ps(-0.0f), six = _mm256_set1_ps(6.0f);
    __m256i largest = _mm256_setzero_si256();
    lanes s = *l;
    for (int64_t i = 0; i < n; i += STEP) {
        __m256 v[4];
        nib_values32(codes + i / 2, v);
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) {
            const __m256 xs = nib_load8(dtype, x + (i + 8 * j) * size);
            const __m256 value = _mm256_mul_ps(v[j], _mm256_broadcast_ss(steps + i / 16 + j / 2));
            const __m256 d = _mm256_sub_ps(xs, value);
            const __m256 ax = _mm256_andnot_ps(sign, xs), av = _mm256_andnot_ps(sign, value);
            const __m256 zero = _mm256_cmp_ps(av, _mm256_setzero_ps(), _CMP_EQ_OQ);
            const __m256 some = _mm256_cmp_ps(ax, _mm256_setzero_ps(), _CMP_GT_OQ);
            const __m256 last = _mm256_cmp_ps(_mm256_andnot_ps(sign, v[j]), six, _CMP_EQ_OQ);
            const __m256 past = _mm256_cmp_ps(ax, av, _CMP_GT_OQ);
            s.flushed = _mm256_add_epi32(s.flushed,
                                         _mm256_castps_si256(_mm256_and_ps(zero, some)));
            s.saturated = _mm256_add_epi32(s.saturated,
                                           _mm256_castps_si256(_mm256_and_ps(last, past)));
            s.most = _mm256_max_epi32(s.most, _mm256_castps_si256(_mm256_andnot_ps(sign, d)));
            largest = _mm256_max_epi32(largest, _mm256_castps_si256(ax));
            add_square(s.error, d);
            add_square(s.square, xs);
        }
    }
    *l = s;
    uint32_t m[8], most = 0;
    _mm256_storeu_si256((__m256i *)m, largest);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) most = m[i] > most ? m[i] : most;
    return most;
}

/* Adds the uses of the 16 codes in bytes of pairs, a multiple of 32 and at most 255 * 16. */
static void count_codes(const uint8_t *codes, int64_t bytes, uint64_t *count)
{
    const __m256i low = _mm256_set1_epi8(15);
    for (int half = 0; half < 16; half += 8) {
        __m256i sums[8];
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) sums[c] = _mm256_setzero_si256();
        for (int64_t i = 0; i < bytes; i += 32) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)(codes + i));
            const __m256i a = _mm256_and_si256(v, low);
            const __m256i b = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
#pragma GCC unroll 8
            for (int c = 0; c < 8; c++) {
                const __m256i which = _mm256_set1_epi8((char)(half + c));
                sums[c] = _mm256_sub_epi8(sums[c], _mm256_cmpeq_epi8(a, which));
                sums[c] = _mm256_sub_epi8(sums[c], _mm256_cmpeq_epi8(b, which));
            }
        }
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) {
            uint64_t part[4];
            _mm256_storeu_si256((__m256i *)part, _mm256_sad_epu8(sums[c], _mm256_setzero_si256()));
            count[half + c] += part[0] + part[1] + part[2] + part[3];
        }
    }
}

static uint64_t negated_sum(__m256i v)
{
    int32_t part[8];
    int64_t sum = 0;
    _mm256_storeu_si256((__m256i *)part, v);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) sum -= part[i];
    return (uint64_t)sum;
}

static void stats_span(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                       nib_stats_sums *sums, nib_stats_counts *counts)
{
    const nib_dequantize_job *p = &job->packed;
    const int dtype = (int)job->src->dtype, block = p->block;
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2, per_chunk = CHUNK / block;
    const uint8_t *codes = p->src->codes + row * p->src->ld_codes_bytes;
    const uint8_t *x = (const uint8_t *)job->src->data + row * job->src->ld_elems * size;
    float steps[CHUNK / 16];

    for (int64_t k = first; k < last; k += per_chunk) {
        const int64_t col = k * block, left = p->src->cols - col;
        const int64_t most_blocks = last - k < per_chunk ? last - k : per_chunk;
        /* Whole blocks that make 64 elements, which count_codes takes. */
        const int64_t n = (left < most_blocks * block ? left : most_blocks * block) / 64 * 64;
        const int64_t blocks = n / block;
        lanes l;
        uint32_t most = NIB_F32_INF_BITS;
        if (n && nib_steps_of_row(p, row, k, blocks, steps)) {
#pragma GCC unroll 8
            for (int i = 0; i < 2; i++) {
                l.error[i] = _mm256_loadu_pd(sums->error + 4 * i);
                l.square[i] = _mm256_loadu_pd(sums->square + 4 * i);
            }
            l.most = l.flushed = l.saturated = _mm256_setzero_si256();
            const uint8_t *from = x + col * size, *q = codes + col / 2;
            most = dtype == NIB_DT_F32 ? errors(NIB_DT_F32, from, q, steps, n, &l)
                 : dtype == NIB_DT_F16 ? errors(NIB_DT_F16, from, q, steps, n, &l)
                                       : errors(NIB_DT_BF16, from, q, steps, n, &l);
        }
        if (most >= NIB_F32_INF_BITS) { /* NaN or Inf in the chunk or its steps, or a short one */
            nib_stats_span_portable(job, row, k, k + most_blocks, sums, counts);
            continue;
        }
#pragma GCC unroll 8
        for (int i = 0; i < 2; i++) {
            _mm256_storeu_pd(sums->error + 4 * i, l.error[i]);
            _mm256_storeu_pd(sums->square + 4 * i, l.square[i]);
        }
        uint32_t m[8];
        _mm256_storeu_si256((__m256i *)m, l.most);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            if (m[i] > counts->max_error) counts->max_error = m[i];
        }
        counts->flushed += negated_sum(l.flushed);
        counts->saturated += negated_sum(l.saturated);
        count_codes(codes + col / 2, n / 2, counts->code);
        uint8_t buffer[CHUNK / 16 + 8];
        const uint8_t *bytes = nib_scale_bytes_of_row(p, row, k, blocks, buffer);
        for (int64_t b = 0; b < blocks; b++) counts->scale[bytes[b]]++;
        if (blocks < most_blocks) {
            nib_stats_span_portable(job, row, k + blocks, k + most_blocks, sums, counts);
        }
    }
}

nib_status nib_quantize_stats_avx2(const nib_launch *launch, const nib_matrix *src,
                                   const nib_packed *packed, nib_quantize_report *report)
{
    return nib_stats_run(launch, src, packed, report,
                         nib_has_values32(packed) ? stats_span : nib_stats_span_portable);
}

#endif
