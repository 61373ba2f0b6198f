/* quantize_span.h: quantize any blocks in plain C. Compiled twice, for the base instruction set
 * (quantize_cpu.c) and for AVX2 (quantize_any_avx2.c): the compiler makes the vectors.
 */
#ifndef NIB_QUANTIZE_SPAN_H
#define NIB_QUANTIZE_SPAN_H

#include "quantize_block.h"

/* One block. math is a copy whose fields the compiler may know. shared: NULL, or its scale. */
static inline __attribute__((always_inline)) void
quantize_block(const nib_quantize_job *job, const nib_tensor_math *math, int plain,
               const block_scale *shared, int64_t row, int64_t k)
{
    const int block = math->rules.block;
    const int64_t col = k * block, left = job->dst->cols - col;
    const int64_t at = row * job->src->ld_elems + col;
    const int n = left < block ? (int)left : block, size = job->src->dtype == NIB_F32 ? 4 : 2;
    float x[NIB_MAX_BLOCK];
    load_block((int)job->src->dtype, (const uint8_t *)job->src->data + at * size, n, x);
    const block_scale scale = shared ? *shared
                            : job->given ? given_scale(job, row, k, x, n)
                            : scale_of_block(math, plain ? NIB_SC_AMAX : job->choice, x, n);
    store_block(job, math, plain, scale, row, k, x, n);
}

/* The usual request with the element and the scale type known. */
static inline __attribute__((always_inline)) void
plain_span(const nib_quantize_job *job, int64_t row, int64_t first, int64_t last, int element,
           int e4m3_scale)
{
    nib_tensor_math math = job->math;
    math.rules.element = element;
    math.rules.e4m3_scale = e4m3_scale;
    for (int64_t k = first; k < last; k++) quantize_block(job, &math, 1, NULL, row, k);
}

static inline void quantize_any_span(const nib_quantize_job *job, int64_t row, int64_t first,
                                     int64_t last)
{
    switch (plain_kind(job)) {
    case NIB_EL_E2M1 * 2:     plain_span(job, row, first, last, NIB_EL_E2M1, 0); return;
    case NIB_EL_E2M1 * 2 + 1: plain_span(job, row, first, last, NIB_EL_E2M1, 1); return;
    case NIB_EL_E2M3 * 2:     plain_span(job, row, first, last, NIB_EL_E2M3, 0); return;
    case NIB_EL_E2M3 * 2 + 1: plain_span(job, row, first, last, NIB_EL_E2M3, 1); return;
    case NIB_EL_E3M2 * 2:     plain_span(job, row, first, last, NIB_EL_E3M2, 0); return;
    case NIB_EL_E4M3 * 2:     plain_span(job, row, first, last, NIB_EL_E4M3, 0); return;
    case NIB_EL_E4M3 * 2 + 1: plain_span(job, row, first, last, NIB_EL_E4M3, 1); return;
    case NIB_EL_E5M2 * 2:     plain_span(job, row, first, last, NIB_EL_E5M2, 0); return;
    default: break; /* not a named format, or not plain */
    }
    for (int64_t k = first; k < last; k++) quantize_block(job, &job->math, 0, NULL, row, k);
}

#endif
