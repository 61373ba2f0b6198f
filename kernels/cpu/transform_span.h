/* transform_span.h: rows through RMSNorm, silu * y and rotations in plain C, and into blocks.
 * Compiled twice, for the base instruction set (transform_cpu.c) and for AVX2
 * (transform_avx2.c). */
#ifndef NIB_TRANSFORM_SPAN_H
#define NIB_TRANSFORM_SPAN_H

#include "kernels/common/transform_rule.h"
#include "quantize_block.h"
#include "transform_cpu.h"

/* Elements at a time, of one row or of all that share scales: of each a multiple of blocks,
 * rotations and units. */
enum { CHUNK = 2048 };

static inline void *place_of(const nib_matrix *m, int64_t row, int64_t col)
{
    const int64_t size = m->dtype == NIB_F32 ? 4 : 2;
    return (uint8_t *)m->data + (row * m->ld_elems + col) * size;
}

/* n elements of src, with their residual, into x, which has zeros behind them up to a unit. first:
 * residual_out is written; else it is read, where there is one, since residual may be gone. */
static inline void load_source(const nib_transform_job *job, int first, int64_t row, int64_t col,
                               int n, float *x)
{
    const nib_transform *t = job->transform;
    const int dtype = (int)job->src->dtype;
    memset(x + n / NIB_UNIT * NIB_UNIT, 0, NIB_UNIT * sizeof *x);
    if (!first && t->residual_out) {
        load_block(dtype, place_of(t->residual_out, row, col), n, x);
        return;
    }
    load_block(dtype, place_of(job->src, row, col), n, x);
    if (!t->residual) return;
    float residual[CHUNK + LANES];
    load_block(dtype, place_of(t->residual, row, col), n, residual);
    for (int i = 0; i < n; i++) x[i] = nib_add_residual(dtype, x[i], residual[i]);
    if (!first || !t->residual_out) return;
    void *out = place_of(t->residual_out, row, col);
    for (int i = 0; i < n; i++) nib_store_f32(dtype, out, i, x[i]);
}

/* r of a row. */
static inline float row_inverse(const nib_transform_job *job, int64_t row)
{
    const int64_t cols = job->src->cols;
    float x[CHUNK + NIB_UNIT], lane[NIB_SUM_LANES] = { 0 };
    for (int64_t col = 0; col < cols; col += CHUNK) {
        const int n = cols - col < CHUNK ? (int)(cols - col) : CHUNK;
        load_source(job, 1, row, col, n, x);
        for (int i = 0; i < n; i += NIB_UNIT)
            lane[(col + i) / NIB_UNIT % NIB_SUM_LANES] += nib_sum_sq16(x + i);
    }
    return nib_rms_inverse(nib_sum_lanes(lane), cols, job->transform->eps);
}

/* The op of n elements in x; r: the row's, for RMSNorm. */
static inline void apply_op(const nib_transform_job *job, int64_t row, int64_t col, int n, float r,
                            float *x)
{
    const nib_transform *t = job->transform;
    float other[CHUNK + LANES];
    if (t->op == NIB_TRANSFORM_RMSNORM) {
#pragma omp simd
        for (int i = 0; i < n; i++) x[i] *= r;
        if (!t->weight) return;
        const size_t size = t->weight_dtype == NIB_F32 ? 4 : 2;
        load_block((int)t->weight_dtype, (const uint8_t *)t->weight + (size_t)col * size, n, other);
#pragma omp simd
        for (int i = 0; i < n; i++) x[i] *= other[i];
    } else if (t->op == NIB_TRANSFORM_SILU_MUL) {
        load_block((int)t->y->dtype, place_of(t->y, row, col), n, other);
#pragma omp simd
        for (int i = 0; i < n; i++) x[i] = nib_silu(x[i]) * other[i];
    }
}

static inline void rotate(const nib_transform *t, int64_t col, int n, float *x)
{
    const int k = t->hadamard;
    for (int i = 0; t->signs && i < n; i++)
        x[i] = nib_with_sign(x[i], t->signs[(col + i) / 8] >> (col + i) % 8 & 1);
    for (int d = 1; d < k; d *= 2) nib_butterflies(x, n, d);
    const float scale = nib_hadamard_scale(k);
#pragma omp simd
    for (int i = 0; i < n; i++) x[i] *= scale;
}

/* Rounds n elements, and returns the bits of the largest finite magnitude. */
static inline uint32_t round_values(int dtype, int n, float *x)
{
    int32_t most = 0;
    if (dtype == NIB_DT_BF16) {
#pragma omp simd
        for (int i = 0; i < n; i++) x[i] = nib_round_to_dtype(NIB_DT_BF16, x[i]);
    } else if (dtype == NIB_DT_F16) {
        for (int i = 0; i < n; i++) x[i] = nib_round_to_dtype(NIB_DT_F16, x[i]);
    }
#pragma omp simd reduction(max : most)
    for (int i = 0; i < n; i++) {
        const int32_t bits = (int32_t)nib_magnitude_bits(x[i]);
        const int32_t finite = bits < (int32_t)NIB_F32_INF_BITS ? bits : 0;
        most = finite > most ? finite : most;
    }
    return (uint32_t)most;
}

/* A chunk's values: those of each row are ld behind the row's before. */
typedef struct values {
    const float *x;
    int64_t      row, col;
    int          rows, n, ld;
} values;

/* The blocks of a chunk, whose rows share their scales. math is a copy whose fields the compiler
 * may know. */
static inline __attribute__((always_inline)) void
quantize_values(const nib_quantize_job *job, const nib_tensor_math *math, int plain,
                const values *v)
{
    const int block = math->rules.block;
    for (int i = 0; i < v->n; i += block) {
        const int some = v->n - i < block ? v->n - i : block;
        const float *const x = v->x + i;
        const block_scale scale =
            v->rows == 1 ? scale_of_block(math, job->choice, x, some)
                         : scale_of_tile(math, NIB_DT_F32, x, v->ld * (int64_t)sizeof *x, v->rows,
                                         some);
        for (int r = 0; r < v->rows; r++)
            store_block(job, math, plain, scale, v->row + r, (v->col + i) / block, x + r * v->ld,
                        some);
    }
}

static inline void quantize_chunk(const nib_quantize_job *job, const values *v)
{
    nib_tensor_math math = job->math;
    const int kind = plain_kind(job);
    if (kind == NIB_EL_E2M1 * 2 || kind == NIB_EL_E2M1 * 2 + 1) math.rules.element = NIB_EL_E2M1;
    if (kind == NIB_EL_E2M1 * 2) {
        math.rules.e4m3_scale = 0;
        quantize_values(job, &math, 1, v);
    } else if (kind == NIB_EL_E2M1 * 2 + 1) {
        math.rules.e4m3_scale = 1;
        quantize_values(job, &math, 1, v);
    } else {
        quantize_values(job, &math, 0, v);
    }
}

/* n elements of a row, transformed, into x, and to dst if there is one. Returns the bits of the
 * largest finite magnitude. */
static inline uint32_t transform_chunk(const nib_transform_job *job, int64_t row, int64_t col,
                                       int n, float r, float *x)
{
    const nib_transform *t = job->transform;
    load_source(job, 0, row, col, n, x);
    apply_op(job, row, col, n, r, x);
    if (t->hadamard) rotate(t, col, n, x);
    if (job->dst) {
        void *out = place_of(job->dst, row, col);
        for (int i = 0; i < n; i++) nib_store_f32((int)job->dst->dtype, out, i, x[i]);
    }
    return round_values((int)job->src->dtype, n, x);
}

static inline uint32_t transform_span(const nib_transform_job *job, int64_t row, int rows,
                                      int64_t col0, int64_t col1)
{
    const int wide = rows == 1 ? CHUNK : CHUNK / NIB_SHARED_ROWS, ld = wide + NIB_UNIT;
    float x[CHUNK + NIB_SHARED_ROWS * NIB_UNIT], inverse[NIB_SHARED_ROWS];
    uint32_t most = 0;
    for (int r = 0; r < rows; r++)
        inverse[r] = job->transform->op == NIB_TRANSFORM_RMSNORM ? row_inverse(job, row + r) : 1.0f;
    for (int64_t col = col0; col < col1; col += wide) {
        const int n = col1 - col < wide ? (int)(col1 - col) : wide;
        for (int r = 0; r < rows; r++) {
            const uint32_t largest = transform_chunk(job, row + r, col, n, inverse[r], x + r * ld);
            if (largest > most) most = largest;
        }
        if (!job->dst)
            quantize_chunk(&job->quantize, &(values){ x, row, col, rows, n, ld });
    }
    return most;
}

#endif
