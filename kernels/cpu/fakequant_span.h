/* fakequant_span.h: values and gradients of any blocks in plain C. Compiled twice, for the base
 * instruction set (fakequant_cpu.c) and for AVX2 (fakequant_avx2.c). */
#ifndef NIB_FAKEQUANT_SPAN_H
#define NIB_FAKEQUANT_SPAN_H

#include "fakequant_cpu.h"
#include "quantize_block.h"

/* The mask of n elements of a block, which begins at a multiple of 8. */
static inline void store_mask(const float *x, int n, float limit, uint8_t *mask)
{
    for (int i = 0; i < n; i += 8) {
        uint32_t bits = 0;
        for (int j = i; j < i + 8 && j < n; j++)
            bits |= (uint32_t)!nib_is_clamped(x[j], limit) << (j - i);
        mask[i / 8] = (uint8_t)bits;
    }
}

/* One block, n elements at from, whose first is element col of its row. All of it is read before
 * any of it is written. math is a copy whose fields the compiler may know. shared: NULL, or the
 * block's scale. */
static inline __attribute__((always_inline)) void
fake_block(const nib_fake_job *job, const nib_tensor_math *math, int plain,
           const block_scale *shared, int64_t row, int64_t col, int n, const void *from)
{
    const nib_quantize_job *q = &job->quantize;
    const int to = (int)job->dst->dtype;
    float x[NIB_MAX_BLOCK];
    uint8_t codes[NIB_MAX_BLOCK];

    load_block((int)job->src->dtype, from, n, x);
    const uint64_t first = (uint64_t)row * (uint64_t)job->shape.cols + (uint64_t)col;
    const block_scale scale = shared ? *shared
                            : q->given ? given_scale(q, row, col / math->rules.block, x, n)
                            : scale_of_block(math, plain ? NIB_SC_AMAX : q->choice, x, n);
    codes_of_block(q, math, plain, scale, first, x, n, codes);
    const float step = nib_block_step(math->rules.e4m3_scale, scale.byte, job->decode);
    if (job->mask)
        store_mask(x, n, nib_block_limit(math->rules.element, step),
                   job->mask + row * job->ld_mask + col / 8);
    void *dst = nib_matrix_at(job->dst, row, col);
    for (int i = 0; i < n; i++) nib_store_f32(to, dst, i, job->values[codes[i]] * step);
}

static inline __attribute__((always_inline)) void
fake_blocks(const nib_fake_job *job, int64_t row, int64_t first, int64_t last, int plain,
            int element, int e4m3_scale)
{
    nib_tensor_math math = job->quantize.math;
    math.rules.element = element;
    math.rules.e4m3_scale = e4m3_scale;
    const int64_t block = math.rules.block;
    for (int64_t k = first; k < last; k++) {
        const int64_t col = k * block, left = job->shape.cols - col;
        fake_block(job, &math, plain, NULL, row, col, (int)(left < block ? left : block),
                   nib_matrix_at(job->src, row, col));
    }
}

static inline void fake_any_span(const nib_fake_job *job, int64_t row, int64_t first,
                                 int64_t last)
{
    const nib_block_rules *r = &job->quantize.math.rules;
    switch (plain_kind(&job->quantize)) {
    case NIB_EL_E2M1 * 2:     fake_blocks(job, row, first, last, 1, NIB_EL_E2M1, 0); return;
    case NIB_EL_E2M1 * 2 + 1: fake_blocks(job, row, first, last, 1, NIB_EL_E2M1, 1); return;
    case NIB_EL_E2M3 * 2:     fake_blocks(job, row, first, last, 1, NIB_EL_E2M3, 0); return;
    case NIB_EL_E2M3 * 2 + 1: fake_blocks(job, row, first, last, 1, NIB_EL_E2M3, 1); return;
    case NIB_EL_E3M2 * 2:     fake_blocks(job, row, first, last, 1, NIB_EL_E3M2, 0); return;
    case NIB_EL_E4M3 * 2:     fake_blocks(job, row, first, last, 1, NIB_EL_E4M3, 0); return;
    case NIB_EL_E4M3 * 2 + 1: fake_blocks(job, row, first, last, 1, NIB_EL_E4M3, 1); return;
    case NIB_EL_E5M2 * 2:     fake_blocks(job, row, first, last, 1, NIB_EL_E5M2, 0); return;
    default: break; /* not a named format, or not plain */
    }
    fake_blocks(job, row, first, last, 0, r->element, r->e4m3_scale);
}

/* ---- backward ---- */

/* n gradients from column col on; passes: NULL, or 1 for each that is not clamped. */
static inline void pass_gradients(const nib_fake_job *job, int64_t row, int64_t col, int n,
                                  const uint8_t *passes)
{
    const int from = (int)job->grad_out->dtype, to = (int)job->dst->dtype;
    const uint8_t *g = nib_matrix_at(job->grad_out, row, col);
    uint8_t *dst = nib_matrix_at(job->dst, row, col);
    if (from == to && !passes) {
        memmove(dst, g, (size_t)n * (from == NIB_DT_F32 ? 4 : 2));
    } else if (from == to && from == NIB_DT_F32) { /* as words: the bits of a NaN stay */
        const uint32_t *in = (const uint32_t *)(const void *)g;
        uint32_t *out = (uint32_t *)(void *)dst;
#pragma omp simd
        for (int i = 0; i < n; i++) out[i] = in[i] & (0u - passes[i]);
    } else if (from == to) {
        const uint16_t *in = (const uint16_t *)(const void *)g;
        uint16_t *out = (uint16_t *)(void *)dst;
#pragma omp simd
        for (int i = 0; i < n; i++) out[i] = (uint16_t)(in[i] & (0u - passes[i]));
    } else {
        for (int i = 0; i < n; i++) {
            const float x = nib_load_f32(from, g, i);
            nib_store_f32(to, dst, i, !passes || passes[i] ? x : 0.0f);
        }
    }
}

/* Which of a block's n elements are not clamped: from the mask, or from src again. shared: NULL, or
 * the block's scale. */
static inline void passes_of_block(const nib_fake_job *job, const block_scale *shared, int64_t row,
                                   int64_t col, int n, uint8_t *passes)
{
    const nib_quantize_job *q = &job->quantize;
    float x[NIB_MAX_BLOCK];
    if (job->mask) {
        const uint8_t *bits = job->mask + row * job->ld_mask + col / 8;
        for (int i = 0; i < n; i++) passes[i] = bits[i / 8] >> i % 8 & 1;
        return;
    }
    load_block((int)job->src->dtype, nib_matrix_at(job->src, row, col), n, x);
    const uint32_t byte = shared ? shared->byte
                        : q->given ? nib_given_byte(q, row, col / q->math.rules.block)
                                   : scale_of_block(&q->math, q->choice, x, n).byte;
    const float step = nib_block_step(q->math.rules.e4m3_scale, byte, job->decode);
    const float limit = nib_block_limit(q->math.rules.element, step);
    for (int i = 0; i < n; i++) passes[i] = (uint8_t)!nib_is_clamped(x[i], limit);
}

static inline void backward_any_span(const nib_fake_job *job, int64_t row, int64_t first,
                                     int64_t last)
{
    const int64_t block = job->quantize.math.rules.block;
    for (int64_t k = first; k < last; k++) {
        const int64_t col = k * block, left = job->shape.cols - col;
        const int n = (int)(left < block ? left : block);
        uint8_t passes[NIB_MAX_BLOCK];
        if (job->gradient == NIB_FAKE_CLAMP) passes_of_block(job, NULL, row, col, n, passes);
        pass_gradients(job, row, col, n, job->gradient == NIB_FAKE_CLAMP ? passes : NULL);
    }
}

#endif
