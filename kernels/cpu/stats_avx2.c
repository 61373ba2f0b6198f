/* stats_avx2.c: error statistics of E2M1 pairs; what is added, and when, is stats_cpu.h's.
 *
 * Sixteen columns are two vectors, the even ones and the odd ones: that is how 16-bit elements
 * fall out of a load with one operation each, and how stats_cpu.h's eight sums take them. Codes
 * become bf16 by two byte shuffles and fall out likewise. Flags are masks of 32 bytes, one for
 * each column, in the order that packing two vectors of 16 words gives them (BYTES below).
 */
#include "avx2_cpu.h"
#include "stats_cpu.h"

#if defined(__x86_64__)

#include <math.h>

#include "measure_avx2.h"
#include "values_avx2.h"

enum { STEP = 32, STEPS = NIB_STATS_PIECE / 16 + 8 };

#define INLINE static inline __attribute__((always_inline))

/* Of a piece: for each 16 elements their step and their limit (nib_limits8). */
typedef struct piece_steps {
    float    step[STEPS];
    uint32_t limit[STEPS];
    int      tiny; /* a step may make 0 of an element that is none */
} piece_steps;

/* What a piece adds. */
typedef struct lanes {
    nib_lanes sums;
    __m256    worst;              /* largest d * d */
    __m256i   most;               /* bits of the largest f32 sum of x * x; a NaN is above all */
    __m256i   largest;            /* magnitudes of f16 */
    __m256i   flushed, saturated; /* minus the counts, in bytes */
} lanes;

/* Even and odd columns of 16. Returns the magnitudes of 16-bit elements, in order. */
INLINE __m256i load16(int dtype, const uint8_t *x, __m256 *even, __m256 *odd)
{
    if (dtype == NIB_DT_F32) {
        const __m256 a = _mm256_loadu_ps((const float *)(const void *)x);
        const __m256 b = _mm256_loadu_ps((const float *)(const void *)(x + 32));
        *even = _mm256_castpd_ps(_mm256_permute4x64_pd(
            _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), 0xd8));
        *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(
            _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8));
        return _mm256_setzero_si256();
    }
    const __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)x);
    if (dtype == NIB_DT_BF16) {
        *even = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
        *odd = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)));
    } else { /* sign, and the other bits 3 lower: the value by 2^-112, if it is finite */
        const __m256i keep = _mm256_set1_epi32((int)0x8fffe000);
        const __m256i e = _mm256_srai_epi32(_mm256_slli_epi32(w, 16), 3);
        const __m256i o = _mm256_srai_epi32(w, 3);
        const __m256 scale = _mm256_set1_ps(0x1p112f);
        *even = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_and_si256(e, keep)), scale);
        *odd = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_and_si256(o, keep)), scale);
    }
    return _mm256_and_si256(w, _mm256_set1_epi16(0x7fff));
}

/* 32 codes, one a byte, BYTES: columns 0-7, 16-23 in the lower half, 8-15, 24-31 in the upper. */
INLINE __m256i load_codes(const uint8_t *codes)
{
    const __m256i order = _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11,
                                           4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15,
                                           15);
    const __m256i pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(
        _mm_loadu_si128((const __m128i *)(const void *)codes)), order);
    return _mm256_blendv_epi8(_mm256_and_si256(pairs, _mm256_set1_epi8(15)),
                              _mm256_srli_epi16(pairs, 4), _mm256_set1_epi16((short)0xff00));
}

/* Elements of 32 codes as bf16: columns 0-15 and 16-31 in order. */
INLINE void elements(__m256i codes, __m256i *first, __m256i *second)
{
    const __m256i upper = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, (char)0x80, (char)0xbf, (char)0xbf,
        (char)0xbf, (char)0xc0, (char)0xc0, (char)0xc0, (char)0xc0));
    const __m256i lower = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 0, (char)0x80, (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0,
        0, 0, (char)0x80, (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0));
    const __m256i hi = _mm256_shuffle_epi8(upper, codes), lo = _mm256_shuffle_epi8(lower, codes);
    *first = _mm256_unpacklo_epi8(lo, hi);
    *second = _mm256_unpackhi_epi8(lo, hi);
}

/* x - value of the even and of the odd columns of 16. */
INLINE void differences(__m256 even, __m256 odd, __m256i elements16, const float *step,
                        __m256 d[2])
{
    const __m256 s = _mm256_broadcast_ss(step);
    const __m256 e = _mm256_castsi256_ps(_mm256_slli_epi32(elements16, 16));
    const __m256 o = _mm256_castsi256_ps(
        _mm256_and_si256(elements16, _mm256_set1_epi32((int)0xffff0000)));
    d[0] = _mm256_sub_ps(even, _mm256_mul_ps(e, s));
    d[1] = _mm256_sub_ps(odd, _mm256_mul_ps(o, s));
}

INLINE __m256i magnitude8(__m256 x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

/* Masks of f32 sources: past their limits, and zero. */
INLINE void flags16(__m256 even, __m256 odd, const uint32_t *limit, __m256i *past,
                    __m256i *none)
{
    const __m256i l = _mm256_set1_epi32((int)*limit), zero = _mm256_setzero_si256();
    const __m256i e = magnitude8(even), o = magnitude8(odd);
    *past = nib_even_odd(_mm256_cmpgt_epi32(e, l), _mm256_cmpgt_epi32(o, l));
    *none = nib_even_odd(_mm256_cmpeq_epi32(e, zero), _mm256_cmpeq_epi32(o, zero));
}

/* The product of 16-bit elements is exact: fused or not is the same, but that what underflows is
 * rounded once (stats_cpu.c). */
INLINE __m256 add_square(int dtype, __m256 sum, __m256 x)
{
    return dtype == NIB_DT_F32 ? _mm256_add_ps(sum, _mm256_mul_ps(x, x))
                               : _mm256_fmadd_ps(x, x, sum);
}

/* n elements of a group, a multiple of 32. */
INLINE void group(int dtype, const uint8_t *x, const uint8_t *codes, const float *step,
                  const uint32_t *limit, int n, lanes *l)
{
    const int size = dtype == NIB_DT_F32 ? 4 : 2;
    const __m256i one = _mm256_set1_epi8(1), seven = _mm256_set1_epi8(7);
    __m256 error0 = _mm256_setzero_ps(), error1 = error0, square0 = error0, square1 = error0;
#pragma GCC unroll 4 /* 5 % of the time on Zen 5 */
    for (int i = 0; i < n; i += STEP, x += STEP * size, step += 2, limit += 2) {
        __m256 e0, o0, e1, o1, d0[2], d1[2];
        __m256i v0, v1, past0, past1, some; /* some: 1 where x is not 0 */
        const __m256i m0 = load16(dtype, x, &e0, &o0);
        const __m256i m1 = load16(dtype, x + 16 * size, &e1, &o1);
        const __m256i c = load_codes(codes + i / 2);
        elements(c, &v0, &v1);
        differences(e0, o0, v0, step, d0);
        differences(e1, o1, v1, step + 1, d1);
        if (dtype == NIB_DT_F32) {
            __m256i none0, none1;
            flags16(e0, o0, limit, &past0, &none0);
            flags16(e1, o1, limit + 1, &past1, &none1);
            some = _mm256_add_epi8(_mm256_packs_epi16(none0, none1), one);
        } else {
            if (dtype == NIB_DT_F16)
                l->largest = _mm256_max_epi16(l->largest, _mm256_max_epi16(m0, m1));
            past0 = _mm256_cmpgt_epi16(m0, _mm256_set1_epi32((int)limit[0]));
            past1 = _mm256_cmpgt_epi16(m1, _mm256_set1_epi32((int)limit[1]));
            some = _mm256_min_epu8(_mm256_packus_epi16(m0, m1), one);
        }
        const __m256i past = _mm256_packs_epi16(past0, past1);
        const __m256i m = _mm256_and_si256(c, seven);
        l->flushed = _mm256_add_epi8(l->flushed, _mm256_cmpgt_epi8(some, m));
        l->saturated = _mm256_add_epi8(l->saturated,
                                       _mm256_and_si256(past, _mm256_cmpeq_epi8(m, seven)));
        const __m256 q0 = _mm256_mul_ps(d0[0], d0[0]), q1 = _mm256_mul_ps(d0[1], d0[1]);
        const __m256 q2 = _mm256_mul_ps(d1[0], d1[0]), q3 = _mm256_mul_ps(d1[1], d1[1]);
        l->worst = _mm256_max_ps(l->worst, _mm256_max_ps(_mm256_max_ps(q0, q1),
                                                         _mm256_max_ps(q2, q3)));
        error0 = _mm256_add_ps(_mm256_add_ps(error0, q0), q2);
        error1 = _mm256_add_ps(_mm256_add_ps(error1, q1), q3);
        square0 = add_square(dtype, add_square(dtype, square0, e0), e1);
        square1 = add_square(dtype, add_square(dtype, square1, o0), o1);
    }
    const __m256 square = _mm256_add_ps(square0, square1);
    l->most = _mm256_max_epu32(l->most, _mm256_castps_si256(square));
    nib_lanes_add(&l->sums, _mm256_add_ps(error0, error1), square);
}

INLINE void groups(int dtype, const uint8_t *x, const uint8_t *codes, const piece_steps *steps,
                   int n, lanes *sums)
{
    const int size = dtype == NIB_DT_F32 ? 4 : 2;
    lanes l = *sums;
    int i = 0;
    for (; i + NIB_STATS_GROUP <= n; i += NIB_STATS_GROUP)
        group(dtype, x + i * size, codes + i / 2, steps->step + i / 16, steps->limit + i / 16,
              NIB_STATS_GROUP, &l);
    if (i < n)
        group(dtype, x + i * size, codes + i / 2, steps->step + i / 16, steps->limit + i / 16,
              n - i, &l);
    *sums = l;
}

static void any_groups(int dtype, const uint8_t *x, const uint8_t *codes,
                       const piece_steps *steps, int n, lanes *l)
{
    switch (dtype) {
    case NIB_DT_F32: groups(NIB_DT_F32, x, codes, steps, n, l); break;
    case NIB_DT_F16: groups(NIB_DT_F16, x, codes, steps, n, l); break;
    default:         groups(NIB_DT_BF16, x, codes, steps, n, l); break;
    }
}

/* 1 if every value is x exactly. */
static int all_exact(int dtype, const uint8_t *x, const uint8_t *codes, const piece_steps *steps,
                     int n)
{
    const int size = dtype == NIB_DT_F32 ? 4 : 2;
    __m256 some = _mm256_setzero_ps();
    for (int i = 0; i < n; i += STEP) {
        __m256i v[2];
        elements(load_codes(codes + i / 2), &v[0], &v[1]);
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            __m256 even, odd, d[2];
            load16(dtype, x + (i + 16 * j) * size, &even, &odd);
            differences(even, odd, v[j], steps->step + i / 16 + j, d);
            some = _mm256_or_ps(some, _mm256_or_ps(d[0], d[1]));
        }
    }
    const __m256i m = magnitude8(some);
    return _mm256_testz_si256(m, m);
}

/* 1 if x is zero wherever the step is below tiny. */
static int zero_where(float tiny, int dtype, const uint8_t *x, const piece_steps *steps, int n)
{
    const int bytes = dtype == NIB_DT_F32 ? 64 : 32;
    const __m256i mask = _mm256_set1_epi32(dtype == NIB_DT_F32 ? 0x7fffffff : 0x7fff7fff);
    for (int i = 0; i < n / 16; i++) {
        if (steps->step[i] >= tiny) continue;
        for (int j = 0; j < bytes; j += 32) {
            if (!_mm256_testz_si256(mask, _mm256_loadu_si256(
                    (const __m256i *)(const void *)(x + i * bytes + j)))) return 0;
        }
    }
    return 1;
}

/* Fills limit and tiny; n elements, a multiple of 32. */
static void limits(int dtype, int n, piece_steps *p)
{
    int tiny = 0;
    for (int i = 0; i < n / 16; i += 8) { /* step has room, its last ones count for nothing */
        const __m256 step = _mm256_loadu_ps(p->step + i);
        _mm256_storeu_si256((__m256i *)(void *)(p->limit + i), nib_limits8(dtype, step));
        const int left = n / 16 - i, mask = left < 8 ? (1 << left) - 1 : 255;
        tiny |= mask & _mm256_movemask_ps(
            _mm256_cmp_ps(step, _mm256_set1_ps(NIB_STATS_TINY), _CMP_LT_OQ));
    }
    p->tiny = tiny;
}

static uint64_t negated_sum(__m256i bytes)
{
    return nib_sum_of_bytes(_mm256_sub_epi8(_mm256_setzero_si256(), bytes));
}

/* Adds what n elements, a multiple of 32, say. Returns 0, and adds nothing, if the sums may not
 * run in f32 or the flags cannot be told from codes. */
static int piece(int dtype, const uint8_t *x, const uint8_t *codes, piece_steps *steps, int n,
                 nib_stats_sums *sums, nib_stats_counts *counts)
{
    lanes l = { .sums = nib_lanes_of(sums), .worst = _mm256_setzero_ps() };
    limits(dtype, n, steps);
    if (steps->tiny && !zero_where(NIB_STATS_TINY, dtype, x, steps, n)) return 0;
    l.most = l.largest = l.flushed = l.saturated = _mm256_setzero_si256();
    any_groups(dtype, x, codes, steps, n, &l);

    const __m256i f16_inf = _mm256_cmpgt_epi16(l.largest, _mm256_set1_epi16(0x7bff));
    if (!_mm256_testz_si256(f16_inf, f16_inf)) return 0;
    const uint32_t most = nib_max_of8(l.most);
    if (!nib_stats_in_f32(most) && (most >= NIB_F32_INF_BITS / 2
                                    || !zero_where(INFINITY, dtype, x, steps, n))) return 0;
    const uint32_t worst = nib_max_of8(_mm256_castps_si256(l.worst));
    const int in_f32 = nib_stats_in_f32(worst);
    if (!in_f32 && (worst >= NIB_F32_INF_BITS / 2 || !all_exact(dtype, x, codes, steps, n)))
        return 0;
    nib_lanes_store(&l.sums, in_f32 ? worst : 0, sums, counts);
    counts->flushed += negated_sum(l.flushed);
    counts->saturated += negated_sum(l.saturated);
    return 1;
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

static void count_uses(const nib_dequantize_job *p, int64_t row, int64_t k, int blocks,
                       const uint8_t *codes, int n, nib_stats_uses *uses)
{
    uint8_t buffer[NIB_STATS_PIECE / 16 + 8];
    const uint8_t *bytes = nib_scale_bytes_of_row(p, row, k, blocks, buffer);
    for (int b = 0; b < blocks; b++) uses->scale[bytes[b]]++;
    count_codes(codes, n / 2 / 32 * 32, uses->code);
    for (int i = n / 64 * 64; i < n; i++) uses->code[codes[i / 2] >> i % 2 * 4 & 15]++;
}

void nib_stats_span_avx2(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                         nib_stats_sums *sums, nib_stats_counts *counts, nib_stats_uses *uses)
{
    const nib_dequantize_job *p = &job->packed;
    const int dtype = (int)job->src->dtype, per_piece = NIB_STATS_PIECE / p->block;
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2;
    const uint8_t *codes = p->src->codes + row * p->src->ld_codes_bytes;
    const uint8_t *x = (const uint8_t *)job->src->data + row * job->src->ld_elems * size;
    uint8_t x_end[NIB_STATS_PIECE * 4], codes_end[NIB_STATS_PIECE / 2];
    piece_steps steps;

    for (int64_t k = first; k < last; k += per_piece) {
        const int64_t col = k * p->block, left = p->src->cols - col;
        const int blocks = last - k < per_piece ? (int)(last - k) : per_piece;
        const int n = left < blocks * p->block ? (int)left : blocks * p->block;
        const int whole = (n + STEP - 1) / STEP * STEP;
        const uint8_t *from = x + col * size, *q = codes + col / 2;
        if (n < whole) { /* zeros that are exact change nothing */
            memset(codes_end, 0, (size_t)whole / 2);
            memcpy(codes_end, q, (size_t)(n + 1) / 2);
            if (n % 2) codes_end[n / 2] &= 15;
            memcpy(x_end, from, (size_t)(n * size));
            memset(x_end + n * size, 0, (size_t)((whole - n) * size));
            from = x_end, q = codes_end;
        }
        if (!nib_steps_of_row(p, row, k, blocks, steps.step)
            || !piece(dtype, from, q, &steps, whole, sums, counts)) {
            nib_stats_span_portable(job, row, k, k + blocks, sums, counts, uses);
        } else if (uses) {
            count_uses(p, row, k, blocks, q, n, uses);
        }
    }
}

nib_status nib_quantize_stats_avx2(const nib_launch *launch, const nib_matrix *src,
                                   const nib_packed *packed, nib_quantize_report *report)
{
    return nib_stats_run(launch, src, packed, report, NULL,
                         nib_has_values32(packed) ? nib_stats_span_avx2
                                                  : nib_stats_span_portable);
}

#endif
