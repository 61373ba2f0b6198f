/* quantize_span.h: quantize any blocks in plain C. Compiled twice, for the base instruction set
 * (quantize_cpu.c) and for AVX2 (quantize_any_avx2.c): the compiler makes the vectors.
 */
#ifndef NIB_QUANTIZE_SPAN_H
#define NIB_QUANTIZE_SPAN_H

#include "quantize_cpu.h"

enum { LANES = 8 }; /* of the inner loops, whose fixed length lets compilers use vectors */

/* Loads n elements as f32, with zeros behind them up to a multiple of LANES, into x. */
static inline __attribute__((always_inline)) void load_block(int dtype, const nib_matrix *src,
                                                             int64_t at, int n, float *x)
{
    for (int i = n / LANES * LANES; i < (n + LANES - 1) / LANES * LANES; i++) x[i] = 0.0f;
    if (dtype == NIB_DT_F32) {
        memcpy(x, (const float *)src->data + at, (size_t)n * sizeof *x);
    } else if (dtype == NIB_DT_BF16) {
        const uint16_t *h = (const uint16_t *)src->data + at;
        for (int i = 0; i < n; i++) x[i] = nib_bf16_to_f32(h[i]);
    } else {
        const uint16_t *h = (const uint16_t *)src->data + at;
        for (int i = 0; i < n; i++) x[i] = nib_f16_to_f32(h[i]);
    }
}

/* Largest magnitude among finite elements, as bits; *special is set when another was seen. */
static inline __attribute__((always_inline)) uint32_t block_amax(const float *x, int n,
                                                                 int *special)
{
    int32_t lanes[LANES] = { 0 }, all = 0;
    for (int i = 0; i < n; i += LANES) {
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            const int32_t bits = (int32_t)nib_magnitude_bits(x[i + j]);
            lanes[j] = bits > lanes[j] ? bits : lanes[j];
        }
    }
    for (int j = 0; j < LANES; j++) all = lanes[j] > all ? lanes[j] : all;
    *special = (uint32_t)all >= NIB_F32_INF_BITS;
    if (!*special) return (uint32_t)all;
    uint32_t a = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t bits = nib_magnitude_bits(x[i]);
        if (bits < NIB_F32_INF_BITS && bits > a) a = bits;
    }
    return a;
}

/* nib_block_code of finite x, nearest even, the input's sign. */
static inline __attribute__((always_inline)) void
plain_codes(nib_element_traits t, float factor, int divide, const float *x, int n, uint8_t *codes)
{
    const int whole = (n + LANES - 1) / LANES * LANES;
#pragma omp simd
    for (int i = 0; i < whole; i++) {
        const float scaled = divide ? x[i] / factor : x[i] * factor;
        const uint32_t number = 0u - (uint32_t)!nib_is_nan(scaled); /* 0 / 0 becomes 0 */
        const uint32_t y = nib_bits_of(scaled) & number;
        codes[i] = (uint8_t)(nib_encode_nearest(t, nib_float_of(y & 0x7fffffffu))
                             | y >> 31 << (t.bits - 1));
    }
}

/* One block. math is a copy whose fields the compiler may know; plain: ties to even and the
 * input's sign. A block whose scale is NaN has no values, so its codes are written as 0. */
static inline __attribute__((always_inline)) void
quantize_block(const nib_quantize_job *job, const nib_tensor_math *math, int plain, int64_t row,
               int64_t k)
{
    const nib_element_traits t = nib_element_traits_of(math->rules.element);
    const int block = math->rules.block, choice = plain ? NIB_SC_AMAX : job->choice;
    const int64_t col = k * block, left = job->dst->cols - col;
    const int n = left < block ? (int)left : block;
    float x[NIB_MAX_BLOCK];
    uint8_t codes[NIB_MAX_BLOCK];
    int special;

    load_block((int)job->src->dtype, job->src, row * job->src->ld_elems + col, n, x);
    const float amax = nib_float_of(block_amax(x, n, &special));
    const int is_nan = special && math->rules.nonfinite == NIB_NF_NAN;
    const uint32_t byte = is_nan ? nib_scale_nan_byte(math->rules.e4m3_scale)
                        : choice == NIB_SC_AMAX ? nib_block_scale(math, amax)
                                                : nib_block_search(math, choice, x, n, amax);
    const nib_block_unit unit = is_nan ? (nib_block_unit){ 0.0f, 0 }
                                       : nib_block_unit_of(math, byte);
    if (is_nan) {
        memset(codes, 0, (size_t)n);
    } else if (job->stochastic && !plain) {
        const uint64_t first = (uint64_t)row * (uint64_t)job->dst->cols + (uint64_t)col;
        for (int i = 0; i < n; i++) {
            const uint32_t word = nib_random_word(job->seed, job->offset, first + (uint64_t)i);
            codes[i] = (uint8_t)nib_block_code(math, unit, x[i], 1, word);
        }
    } else if (plain && !special && !unit.divide) {
        plain_codes(t, unit.factor, 0, x, n, codes);
    } else if (plain && !special) {
        plain_codes(t, unit.factor, 1, x, n, codes);
    } else {
        for (int i = 0; i < n; i++) codes[i] = (uint8_t)nib_block_code(math, unit, x[i], 0, 0);
    }
    for (int i = n; i < (n + 3) / 4 * 4; i++) codes[i] = 0;
    uint8_t *out = job->dst->codes + row * job->dst->ld_codes_bytes + col / 8 * t.bits;
    nib_pack_codes(t.bits, job->dst->code_order == NIB_CODES_GGUF_HALVES, codes, n, out);
    nib_quantize_store_scale(job, row, k, byte);
}

/* The usual request with the element and the scale type known. */
static inline __attribute__((always_inline)) void
plain_span(const nib_quantize_job *job, int64_t row, int64_t first, int64_t last, int element,
           int e4m3_scale)
{
    nib_tensor_math math = job->math;
    math.rules.element = element;
    math.rules.e4m3_scale = e4m3_scale;
    for (int64_t k = first; k < last; k++) quantize_block(job, &math, 1, row, k);
}

static void quantize_any_span(const nib_quantize_job *job, int64_t row, int64_t first,
                              int64_t last)
{
    const nib_block_rules *r = &job->math.rules;
    if (job->choice == NIB_SC_AMAX && !job->stochastic && r->ties == NIB_TIE_EVEN
        && r->zero_sign == NIB_Z_KEEP) {
        switch (r->element * 2 + r->e4m3_scale) {
        case NIB_EL_E2M1 * 2:     plain_span(job, row, first, last, NIB_EL_E2M1, 0); return;
        case NIB_EL_E2M1 * 2 + 1: plain_span(job, row, first, last, NIB_EL_E2M1, 1); return;
        case NIB_EL_E2M3 * 2:     plain_span(job, row, first, last, NIB_EL_E2M3, 0); return;
        case NIB_EL_E2M3 * 2 + 1: plain_span(job, row, first, last, NIB_EL_E2M3, 1); return;
        case NIB_EL_E3M2 * 2:     plain_span(job, row, first, last, NIB_EL_E3M2, 0); return;
        case NIB_EL_E4M3 * 2:     plain_span(job, row, first, last, NIB_EL_E4M3, 0); return;
        case NIB_EL_E4M3 * 2 + 1: plain_span(job, row, first, last, NIB_EL_E4M3, 1); return;
        case NIB_EL_E5M2 * 2:     plain_span(job, row, first, last, NIB_EL_E5M2, 0); return;
        default: break; /* not a named format */
        }
    }
    for (int64_t k = first; k < last; k++) quantize_block(job, &job->math, 0, row, k);
}

#endif
