/* steps_span.h: fake-quantization by f32 steps, and codes of it. Compiled twice, for the base
 * instruction set (steps_cpu.c) and for AVX2 (steps_avx2.c), which bring what is declared below.
 *
 * A matrix is cut into items of one row, by its shape alone: threads change nothing. An item is
 * worked on in chunks of one group, each read whole before any of it is written. */
#ifndef NIB_STEPS_SPAN_H
#define NIB_STEPS_SPAN_H

#include "fakequant_span.h"
#include "kernels/common/grid.h"
#include "tasks_cpu.h"

static_assert(NIB_STEP_E5M2 == (int)NIB_EL_E5M2 && NIB_INT2 == NIB_GR_INT + 2
              && NIB_INT8 == NIB_GR_INT + 8, "step elements");
static_assert(NIB_SR_F32 == (int)NIB_STEP_F32 && NIB_SR_E4M3 == (int)NIB_STEP_E4M3_BYTE
              && NIB_SR_E8M0 == (int)NIB_STEP_E8M0_BYTE && NIB_SR_BF16 == (int)NIB_STEP_BF16
              && NIB_SR_F16 == (int)NIB_STEP_F16, "step rules");

enum { STEP_CHUNK = 128 };
static_assert((int)NIB_GRID_UNIT * NIB_GRID_LANES % STEP_CHUNK == 0, "a chunk's lanes");

/* What an instruction set brings, of chunks of n elements, n <= STEP_CHUNK. Arrays of floats have
 * room for whole units of LANES; those in chunk_load's x behind n are 0. */
static inline void chunk_load(int dtype, const void *src, int n, float *x);
static inline nib_grid_range chunk_range(nib_grid_range r, int n, const float *x);
/* y = x / s and v of integers. */
static inline void chunk_integers(nib_step step, int n, const float *x, float *y, float *v);
/* Codes of v, to where the first of them lies; low: the step's. */
static inline void chunk_codes(int bits, const nib_grid *grid, float low, int n, const float *v,
                               uint8_t *to);
static inline void chunk_values(int dtype, float s, int n, const float *v, void *to);
/* Which are not clamped: as bits, and as bytes. */
static inline void chunk_mask(nib_step step, int n, const float *y, uint8_t *mask);
static inline void chunk_passes(nib_step step, int n, const float *y, uint8_t *passes);
/* g times the slope; the sums of n's units, added to the lanes. */
static inline void chunk_slopes(nib_step step, int n, const float *y, const float *v, float *g);
static inline void chunk_sums(int n, const float *g, float *lanes);
/* Values of stored codes. */
static inline void chunk_decode(int bits, nib_step step, int n, const uint8_t *codes, int dtype,
                                void *to);

typedef struct step_job {
    nib_grid                grid;
    const nib_step_request *request;
    const nib_matrix       *src;
    nib_fake_job            fake;   /* its grad_out and dst: see pass_gradients */
    const nib_packed_steps *packed; /* instead of fake.dst: codes are wanted; or NULL */
    int64_t                 cols, groups, pieces; /* groups of a row, pieces of a group's row */
    float                   t;      /* tensor scale */
    nib_step                whole;  /* if the matrix has one step */
    float                  *sums;   /* of pieces; NULL: each group has one, and its gradient */
} step_job;

static inline nib_grid_range range_of(const step_job *job, int64_t row, int64_t col, int64_t end)
{
    nib_grid_range r = { 0.0f, 0.0f };
    for (int64_t c = col; c < end; c += STEP_CHUNK) {
        const int n = (int)(end - c < STEP_CHUNK ? end - c : STEP_CHUNK);
        float x[STEP_CHUNK];
        chunk_load((int)job->src->dtype, nib_matrix_at(job->src, row, c), n, x);
        r = chunk_range(r, n, x);
    }
    return r;
}

static inline int64_t group_end(const step_job *job, int64_t k)
{
    const int64_t group = job->request->group;
    return job->cols - k * group < group ? job->cols : (k + 1) * group;
}

static inline nib_step step_of(const step_job *job, int64_t row, int64_t k)
{
    const nib_step_request *r = job->request;
    const int64_t i = row * job->groups + k;
    if (r->whole) return job->whole;
    if (r->steps)
        return nib_step_given(&job->grid, (int)r->rule, job->t, r->steps[i],
                              r->zeros ? r->zeros[i] : 0);
    return nib_step_dynamic(&job->grid, r->asymmetric, (int)r->rule, job->t,
                            range_of(job, row, k * r->group, group_end(job, k)));
}

static inline void store_step(const nib_step_request *r, int64_t i, nib_step step)
{
    if (r->steps_out) r->steps_out[i] = step.s;
    if (r->zeros_out) r->zeros_out[i] = (int8_t)step.z;
}

/* y = x / s and v of n elements of a float. */
static inline void nearest_floats(const nib_grid *grid, nib_step step, int n, const float *x,
                                  float *y, float *v)
{
    nib_grid g = *grid;
    g.floats = 1; /* which the compiler now knows */
    const int whole = (n + LANES - 1) / LANES * LANES;
#pragma omp simd
    for (int i = 0; i < whole; i++) {
        y[i] = x[i] / step.s;
        v[i] = nib_grid_nearest(&g, step, y[i]);
    }
}

/* Loads n elements, with zeros behind them up to a whole unit. */
static inline void chunk_of(const step_job *job, nib_step step, int64_t row, int64_t col, int n,
                            float *y, float *v)
{
    float x[STEP_CHUNK];
    chunk_load((int)job->src->dtype, nib_matrix_at(job->src, row, col), n, x);
    if (job->grid.floats) nearest_floats(&job->grid, step, n, x, y, v);
    else chunk_integers(step, n, x, y, v);
}

static inline void values_of(const step_job *job, nib_step step, int64_t row, int64_t col, int n)
{
    const nib_step_request *r = job->request;
    const nib_matrix *dst = job->fake.dst;
    float y[STEP_CHUNK], v[STEP_CHUNK];
    chunk_of(job, step, row, col, n, y, v);
    chunk_values((int)dst->dtype, step.s, n, v, nib_matrix_at(dst, row, col));
    if (r->mask) chunk_mask(step, n, y, r->mask + row * r->ld_mask_bytes + col / 8);
}

/* Codes of n elements from a column on that is a multiple of 8. */
static inline void codes_of(const step_job *job, nib_step step, int64_t row, int64_t col, int n)
{
    const nib_packed_steps *const p = job->packed;
    const int bits = nib_step_code_bits((int)p->element);
    float y[STEP_CHUNK], v[STEP_CHUNK];
    chunk_of(job, step, row, col, n, y, v);
    chunk_codes(bits, &job->grid, step.low, n, v,
                p->codes + row * p->ld_codes_bytes + col * bits / 8);
}

static inline void clamps_of(const step_job *job, nib_step step, int64_t row, int64_t col, int n)
{
    float y[STEP_CHUNK], v[STEP_CHUNK];
    uint8_t passes[STEP_CHUNK];
    chunk_of(job, step, row, col, n, y, v);
    chunk_passes(step, n, y, passes);
    pass_gradients(&job->fake, row, col, n, passes);
}

/* Columns col .. end of a row, which begin with a group if steps are dynamic. */
static inline void steps_span(const step_job *job, int64_t row, int64_t col, int64_t end)
{
    const nib_step_request *r = job->request;
    for (int64_t k = col / r->group; col < end; k++) {
        const nib_step step = step_of(job, row, k);
        const int64_t last = group_end(job, k) < end ? group_end(job, k) : end;
        if (!r->whole && col == k * r->group && !job->fake.grad_out)
            store_step(r, row * job->groups + k, step);
        for (; col < last; col += STEP_CHUNK) {
            const int n = (int)(last - col < STEP_CHUNK ? last - col : STEP_CHUNK);
            if (job->fake.grad_out) clamps_of(job, step, row, col, n);
            else if (job->packed) codes_of(job, step, row, col, n);
            else values_of(job, step, row, col, n);
        }
        col = last;
    }
}

/* Gradients of one piece of group k, and the sum of its products. */
static inline float piece_sum(const step_job *job, int64_t row, int64_t k, int64_t piece)
{
    const int clamp = job->request->gradient == NIB_FAKE_CLAMP;
    const int64_t col = k * job->request->group + piece * NIB_GRID_PIECE, end = group_end(job, k);
    const nib_step step = step_of(job, row, k);
    float lane[NIB_GRID_LANES] = { 0 };
    for (int64_t at = 0; at < NIB_GRID_PIECE && col + at < end; at += STEP_CHUNK) {
        const int64_t c = col + at;
        const int n = (int)(end - c < STEP_CHUNK ? end - c : STEP_CHUNK);
        float y[STEP_CHUNK], v[STEP_CHUNK], g[STEP_CHUNK];
        uint8_t passes[STEP_CHUNK];
        chunk_of(job, step, row, c, n, y, v);
        chunk_load((int)job->fake.grad_out->dtype, nib_matrix_at(job->fake.grad_out, row, c), n, g);
        chunk_slopes(step, n, y, v, g);
        chunk_sums(n, g, lane + at / NIB_GRID_UNIT % NIB_GRID_LANES);
        if (clamp) chunk_passes(step, n, y, passes);
        pass_gradients(&job->fake, row, c, n, clamp ? passes : NULL);
    }
    return nib_grid_sum_lanes(lane);
}

/* Of group i: its number of elements, and so its factor. */
static inline float factor_of(const step_job *job, int64_t i)
{
    const nib_step_request *r = job->request;
    const int64_t k = i % job->groups;
    const int64_t n = r->whole ? job->src->rows * job->cols : group_end(job, k) - k * r->group;
    return nib_grid_factor(r->grad_factor, n, job->grid.hi);
}

static inline void sum_pieces(const step_job *job, int64_t i, int64_t count)
{
    const float *sums = job->sums + i * count;
    double part[NIB_GRID_SUMS] = { 0 };
    for (int64_t p = 0; p < count; p++) part[p % NIB_GRID_SUMS] += (double)sums[p];
    for (int o = NIB_GRID_SUMS / 2; o; o /= 2)
        for (int j = 0; j < o; j++) part[j] += part[j + o];
    job->request->grad_steps[i] = nib_grid_gradient(part[0], factor_of(job, i));
}

/* ---- whole matrices ---- */

static inline step_job step_job_of(const nib_matrix *src, const nib_matrix *grad_out,
                                   const nib_step_request *r, const nib_matrix *dst)
{
    step_job job = { .grid = nib_grid_of_codes((int)r->element, r->middle), .request = r,
                     .src = src, .cols = src->cols, .groups = nib_ceil_div(src->cols, r->group),
                     .t = 1.0f };
    job.fake.grad_out = grad_out;
    job.fake.dst = dst;
    job.pieces = nib_grid_pieces(r->group < src->cols ? r->group : src->cols);
    if (r->tensor_scale) job.t = nib_tensor_given(*r->tensor_scale).decode;
    if (!r->whole) return job;
    job.whole = r->steps ? nib_step_given(&job.grid, (int)r->rule, job.t, r->steps[0],
                                          r->zeros ? r->zeros[0] : 0)
                         : nib_step_dynamic(&job.grid, r->asymmetric, (int)r->rule, job.t,
                                            nib_grid_range_given(r->range));
    if (!grad_out) store_step(r, 0, job.whole);
    return job;
}

static inline int steps_threads(const nib_launch *launch, const nib_matrix *m)
{
    return m->rows * m->cols < NIB_SERIAL_ELEMS ? 1 : launch->threads;
}

static inline nib_status steps_over_items(const nib_launch *launch, const step_job *job)
{
    const nib_step_request *r = job->request;
    const int64_t group = r->group, size = NIB_GRID_PIECE;
    const int64_t item = group < size ? size / group * group : r->steps || r->whole ? size : group;
    const int64_t of_row = nib_ceil_div(job->cols, item), count = job->src->rows * of_row;
    const int threads = steps_threads(launch, job->src);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const int64_t col = i % of_row * item;
        steps_span(job, i / of_row, col, job->cols - col < item ? job->cols : col + item);
    }
    return NIB_OK;
}

static inline nib_status steps_over_pieces(const nib_launch *launch, step_job *job)
{
    const nib_step_request *r = job->request;
    const int64_t groups = job->groups, of_group = job->pieces;
    const int64_t steps = r->whole ? 1 : job->src->rows * groups;
    const int64_t count = job->src->rows * groups * of_group, each = count / steps;
    const int threads = steps_threads(launch, job->src);
    job->sums = each > 1 ? launch->workspace : NULL;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const int64_t g = i / of_group;
        const float sum = piece_sum(job, g / groups, g % groups, i % of_group);
        if (job->sums) job->sums[i] = nib_canonical(sum);
        else r->grad_steps[i] = nib_canonical(sum * factor_of(job, i));
    }
    if (!job->sums) return NIB_OK;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < steps; i++) sum_pieces(job, i, each);
    return NIB_OK;
}

/* Values of codes, a group at a time. */
static inline nib_status step_decode_run(const nib_launch *launch, const nib_packed_steps *src,
                                         const nib_step_request *request, const nib_matrix *dst)
{
    const nib_grid grid = nib_grid_of((int)request->element);
    const int      bits = nib_step_code_bits((int)request->element);
    const int64_t  groups = nib_ceil_div(src->cols, request->group);
#pragma omp parallel for num_threads(steps_threads(launch, dst)) schedule(static)
    for (int64_t i = 0; i < src->rows * groups; i++) {
        const int64_t row = i / groups, col = i % groups * request->group;
        const int64_t end = src->cols - col < request->group ? src->cols : col + request->group;
        const uint8_t *const codes = src->codes + row * src->ld_codes_bytes;
        const nib_step step = nib_step_given(&grid, (int)request->rule, 1.0f, request->steps[i],
                                             request->zeros ? request->zeros[i] : 0);
        for (int64_t c = col; c < end; c += STEP_CHUNK)
            chunk_decode(bits, step, (int)(end - c < STEP_CHUNK ? end - c : STEP_CHUNK),
                         codes + c * bits / 8, (int)dst->dtype, nib_matrix_at(dst, row, c));
    }
    return NIB_OK;
}

static inline nib_status step_codes_run(const nib_launch *launch, const nib_matrix *src,
                                        const nib_step_request *request,
                                        const nib_packed_steps *dst)
{
    step_job job = step_job_of(src, NULL, request, NULL);
    job.packed = dst;
    return steps_over_items(launch, &job);
}

static inline nib_status steps_run(const nib_launch *launch, const nib_matrix *grad_out,
                                   const nib_matrix *src, const nib_step_request *request,
                                   const nib_matrix *dst)
{
    step_job job = step_job_of(src, grad_out, request, dst);
    return grad_out && request->grad_steps ? steps_over_pieces(launch, &job)
                                           : steps_over_items(launch, &job);
}

#endif
