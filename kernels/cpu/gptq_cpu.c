/* gptq_cpu.c: tiles of rows through the sweep, and through the sums that measure a rounding. */
#include "gptq_cpu.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "blas_cpu.h"
#include "foreign_cpu.h"
#include "hessian_cpu.h"

/* ---- workspace ---- */

enum {
    ROWS = NIB_GPTQ_ROWS, STEPS = NIB_GPTQ_STEPS, WIDE = NIB_GPTQ_WIDE, LANES = NIB_GPTQ_LANES,
    SMALLEST_BLOCK = 8
};

static size_t up64(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* The next bytes behind *at, which moves on. base NULL: counts only. */
static void *take(uint8_t *base, size_t *at, size_t bytes)
{
    void *const part = base ? base + *at : NULL;
    *at += up64(bytes);
    return part;
}

/* What all threads share. Returns its bytes. */
static size_t lay_shared(uint8_t *base, int64_t rows, int64_t k, nib_gptq_job *job)
{
    size_t at = 0;
    job->row_errors = take(base, &at, (size_t)rows * sizeof *job->row_errors);
    job->pivot_sq = take(base, &at, (size_t)k * sizeof *job->pivot_sq);
    job->extra = take(base, &at, (size_t)k * sizeof *job->extra);
    job->segments = take(base, &at, ((size_t)k / SMALLEST_BLOCK + 3) * sizeof *job->segments);
    return at;
}

/* Distance of a tile's rows. */
static int64_t ld_of(int64_t k) { return (k + 15) / 16 * 16 + 16; }

/* What each thread has. group: of integers, else 0. */
static size_t lay_scratch(uint8_t *base, int f64, int64_t k, int64_t group, nib_gptq_scratch *s)
{
    const size_t real = f64 ? 8 : 4, depth = (size_t)k;
    const size_t blocks = group ? 0 : (depth + SMALLEST_BLOCK - 1) / SMALLEST_BLOCK;
    const size_t steps = group ? (size_t)nib_ceil_div(k, group) : 0;
    size_t at = 0;
    s->d = take(base, &at, ROWS * (size_t)ld_of(k) * real);
    s->codes = take(base, &at, ROWS * depth);
    s->spare = take(base, &at, depth * real);
    s->scales = take(base, &at, blocks * ROWS);
    s->steps = take(base, &at, steps * ROWS * sizeof *s->steps);
    s->lows = take(base, &at, steps * ROWS * sizeof *s->lows);
    s->before = take(base, &at, ROWS * NIB_GPTQ_PART_APART * real);
    s->a = take(base, &at, STEPS * NIB_GPTQ_APART * real);
    s->h = take(base, &at, (size_t)NIB_MAX_BLOCK * NIB_MAX_BLOCK * real);
    return at;
}

static int64_t threads_of(int64_t rows, int64_t threads)
{
    const int64_t tiles = nib_ceil_div(rows, ROWS);
    return threads < tiles ? threads : tiles;
}

/* Of integers, else 0. */
static int64_t group_of(const nib_gptq_request *r) { return r->steps ? r->step.group : 0; }

size_t nib_gptq_need_cpu(nib_real real, int64_t rows, int64_t k, int64_t group, int32_t threads)
{
    nib_gptq_job     job;
    nib_gptq_scratch s;
    return lay_shared(NULL, rows, k, &job)
         + (size_t)threads_of(rows, threads)
               * lay_scratch(NULL, real == NIB_REAL_F64, k, group, &s);
}

/* ---- a job ---- */

/* Where segments begin. Fresh scales: with each block of inputs; the order keeps those together. */
static void cut_segments(nib_gptq_job *job)
{
    const int32_t *const order = job->request->factor->order;
    const int64_t block = job->block;
    int64_t n = 0;
    for (int64_t s = 0, from = 0; s < job->k; s++) {
        const int begins = job->fresh ? s == 0 || order[s] / block != order[s - 1] / block
                                      : s == 0 || s - from == NIB_GPTQ_SEGMENT;
        if (!begins) continue;
        job->segments[n++] = (int32_t)s;
        from = s;
    }
    job->segments[n] = (int32_t)job->k;
}

static void fill_tables(nib_gptq_job *job)
{
    const nib_block_rules *const r = &job->math.rules;
    const uint32_t last = r->e4m3_scale ? NIB_E4M3_LAST : 254;
    for (uint32_t byte = 0; byte <= last; byte++) {
        const nib_block_unit unit = nib_block_unit_of(&job->math, byte);
        job->factor[byte] = unit.factor;
        job->step[byte] = nib_block_step(r->e4m3_scale, byte, job->math.scales.decode);
        job->divide = unit.divide;
    }
    for (uint32_t code = 0; code >> nib_part_bits(job->request->dst->format) == 0; code++)
        job->element[code] = nib_element_to_f32(r->element, code);
}

static void format_make(nib_gptq_job *job)
{
    const nib_gptq_request *const r = job->request;
    const nib_packed *const dst = r->dst;
    const nib_block_rules rules = nib_block_rules_of(dst->format, &r->quantize.rules,
                                                     r->quantize.scale_choice, r->w->dtype);
    const nib_tensor_scales one = { 1.0f, 1.0f };
    /* Amax's scale, if there is one, gave both of its factors by the rules: so does this. */
    const nib_tensor_scales scales = !dst->tensor_scale ? one
        : r->quantize.tensor_amax ? nib_tensor_factors(&rules, *r->quantize.tensor_amax)
                                  : nib_tensor_given(*dst->tensor_scale);
    job->block = rules.block;
    job->math = nib_tensor_math_of(&rules, scales);
    const int plain = rules.ties == NIB_TIE_EVEN
                   && (rules.zero_sign == NIB_Z_KEEP || rules.zero_sign == NIB_Z_INPUT);
    job->kind = !plain ? NIB_GPTQ_ANY
              : rules.element == NIB_EL_E2M1 ? NIB_GPTQ_E2M1 : NIB_GPTQ_PLAIN;
    job->keep = rules.zero_sign == NIB_Z_KEEP;
    fill_tables(job);
}

static void job_make(const nib_gptq_request *r, uint8_t *workspace, nib_gptq_job *job)
{
    const nib_hessian *const h = r->hessian;
    const int64_t k = r->w->cols;
    *job = (nib_gptq_job){ .request = r, .k = k, .ld = ld_of(k) };
    job->f64 = r->factor->real == NIB_REAL_F64;
    job->by_hessian = r->scales >= NIB_GPTQ_SCALES_HESSIAN;
    job->full = r->scales == NIB_GPTQ_SCALES_HESSIAN_FULL;
    job->fresh = r->scales == NIB_GPTQ_SCALES_FRESH || r->scales == NIB_GPTQ_SCALES_HESSIAN_FRESH;
    if (r->steps) nib_gptq_integers_make(job);
    else format_make(job);
    job->groups = nib_ceil_div(k, job->block);
    (void)lay_shared(workspace, r->w->rows, k, job);
    if (r->factor->outcome != NIB_GPTQ_DONE) return;
    cut_segments(job);
    for (int64_t c = 0; c < k; c++) {
        const double pivot = nib_real_get(r->factor->l, job->f64, c * r->factor->ld_elems + c);
        const double own = nib_hessian_diag(h, r->factor->order[k - 1 - c]);
        /* Dead inputs are no part of any error: what was added for them would drown small ones. */
        job->pivot_sq[c] = own == 0.0 ? 0.0 : pivot * pivot;
        job->extra[c] = own == 0.0 ? 0.0 : r->factor->added;
    }
}

/* ---- rows in and out ---- */

/* What load_row works on: a row in f32, which for f64 is made wider at the end. */
static void load_f32(const nib_gptq_job *job, int64_t row, float *to)
{
    const nib_matrix one = nib_matrix_rows(job->request->w, row, row + 1);
    nib_to_f32_cpu(one.dtype, one.data, job->k, to);
}

/* to -= the values that dst holds of a row. */
static void subtract_row(const nib_gptq_job *job, int64_t row, void *to)
{
    if (job->kind == NIB_GPTQ_INTEGER) {
        nib_gptq_integers_subtract(job, row, to);
        return;
    }
    const nib_packed *const p = job->request->dst;
    const int block = (int)job->block, bits = nib_part_bits(p->format);
    uint8_t codes[NIB_MAX_BLOCK];
    for (int64_t g = 0; g < job->groups; g++) {
        const int64_t col = g * block, left = job->k - col;
        const int n = left < block ? (int)left : block;
        const float step = job->step[p->scales[nib_scale_index(p->scale_layout, row, g,
                                                               job->groups)]];
        nib_unpack_codes(bits, p->code_order == NIB_CODES_GGUF_HALVES,
                         p->codes + row * p->ld_codes_bytes + col / 8 * bits, n, codes);
        if (job->f64)
            for (int i = 0; i < n; i++)
                ((double *)to)[col + i] -= (double)(job->element[codes[i]] * step);
        else
            for (int i = 0; i < n; i++) ((float *)to)[col + i] -= job->element[codes[i]] * step;
    }
}

/* A row of the weights, in their order. spare: k reals. */
static void load_row(const nib_gptq_job *job, int64_t row, void *spare, void *to)
{
    float *const narrow = job->f64 ? spare : to;
    load_f32(job, row, narrow);
    for (int64_t i = 0; i < job->k && job->f64; i++) ((double *)to)[i] = (double)narrow[i];
}

/* A row's numbers from the weights' order to that of d. */
static void permute_row(const nib_gptq_job *job, void *row, void *spare)
{
    const int64_t k = job->k;
    const int32_t *const order = job->request->factor->order;
    memcpy(spare, row, (size_t)k * (job->f64 ? 8 : 4));
    for (int64_t s = 0; s < k; s++) {
        if (job->f64) ((double *)row)[k - 1 - s] = ((const double *)spare)[order[s]];
        else ((float *)row)[k - 1 - s] = ((const float *)spare)[order[s]];
    }
}

/* Row row of dst, of its codes by input, with 3 zeros behind. */
static void store_row(const nib_gptq_job *job, const nib_gptq_scratch *s, int64_t row, int r,
                      const uint8_t *codes)
{
    if (job->kind == NIB_GPTQ_INTEGER) {
        nib_gptq_integers_store(job, s, row, r, codes);
        return;
    }
    const nib_packed *const p = job->request->dst;
    uint8_t *const to = p->codes + row * p->ld_codes_bytes;
    const int bits = nib_part_bits(p->format), halves = p->code_order == NIB_CODES_GGUF_HALVES;
    /* Blocks are whole bytes: all but halves of blocks can be packed at once. */
    const int64_t piece = halves ? job->block : job->k;
    for (int64_t col = 0; col < job->k; col += piece)
        nib_pack_codes(bits, halves, codes + col, (int)piece, to + col / 8 * bits);
    for (int64_t g = 0; g < job->groups; g++)
        p->scales[nib_scale_index(p->scale_layout, row, g, job->groups)] =
            s->scales[g * ROWS + r];
}

/* What is kept of a tile. Its errors are needed no more: codes by input take their place. */
static void store_tile(const nib_gptq_job *job, const nib_gptq_scratch *s, int64_t row, int rows,
                       nib_gptq_sums *sums)
{
    const nib_gptq_request *const q = job->request;
    const int32_t *const order = q->factor->order;
    const int64_t k = job->k;
    uint8_t *const by_input = s->d, *const whole = s->spare; /* k reals: k + 3 bytes at least */
    for (int r = 0; r < rows; r++) {
        const double error = s->error[r] < 0.0 ? 0.0 : s->error[r];
        for (int64_t i = 0; i < k && r % LANES == 0; i++)
            memcpy(by_input + order[i] * LANES, s->codes + r * k + i * LANES, LANES);
        if (q->guard && !(error < job->row_errors[row + r])) {
            sums->plain_rows++;
            continue;
        }
        job->row_errors[row + r] = error;
        for (int64_t i = 0; i < k; i++) whole[i] = by_input[i * LANES + r % LANES];
        memset(whole + k, 0, 3);
        store_row(job, s, row + r, r, whole);
    }
}

/* ---- measuring ---- */

/* Of each row x of d, x H x^T, by the factor: |x R|^2 less what the diagonal had added. */
static void square_by_factor(const nib_gptq_job *job, nib_gptq_scratch *s, int rows)
{
    const nib_gptq_factor *const f = job->request->factor;
    const int64_t k = job->k;
    for (int r = 0; r < rows; r++) {
        permute_row(job, nib_real_at(s->d, job->f64, r, job->ld, 0), s->spare);
        s->error[r] = 0.0;
        for (int64_t c = 0; c < k; c++) {
            const double x = nib_real_get(s->d, job->f64, r * job->ld + c);
            s->error[r] -= x * (x * job->extra[c]);
        }
    }
    nib_blas_trmm(job->f64, rows, k, f->l, f->ld_elems, s->d, job->ld);
    for (int r = 0; r < rows; r++)
        for (int64_t c = 0; c < k; c++) {
            const double y = nib_real_get(s->d, job->f64, r * job->ld + c);
            s->error[r] += y * (y * job->pivot_sq[c]);
        }
}

/* The same without a factor, for half a tile: the other half takes the products with H. */
static void square_by_hessian(const nib_gptq_job *job, nib_gptq_scratch *s, int rows)
{
    const nib_hessian *const h = job->request->hessian;
    const int64_t k = job->k, half = ROWS / 2;
    void *const y = nib_real_at(s->d, job->f64, half, job->ld, 0);
    nib_blas_symm(job->f64, rows, k, h->data, h->ld_elems, s->d, job->ld, y, job->ld);
    for (int r = 0; r < rows; r++) {
        s->error[r] = 0.0;
        for (int64_t c = 0; c < k; c++)
            s->error[r] += nib_real_get(s->d, job->f64, r * job->ld + c)
                         * nib_real_get(y, job->f64, r * job->ld + c);
    }
}

/* Rows from row on: the sums of w (less 0) or of w - q (less 1) into s->error. */
static void measure_rows(const nib_gptq_job *job, nib_gptq_scratch *s, int64_t row, int rows,
                         int less)
{
    for (int r = 0; r < rows; r++) {
        void *const to = nib_real_at(s->d, job->f64, r, job->ld, 0);
        load_row(job, row + r, s->spare, to);
        if (less) subtract_row(job, row + r, to);
    }
    if (job->request->factor->outcome != NIB_GPTQ_DONE) {
        square_by_hessian(job, s, rows);
        return;
    }
    square_by_factor(job, s, rows);
    for (int r = 0; r < rows; r++)
        if (s->error[r] < 0.0) s->error[r] = 0.0; /* the difference of two sums that are alike */
}

nib_status nib_gptq_measure_cpu(const nib_launch *launch, const nib_gptq_request *request,
                                nib_gptq_sums *sums)
{
    const nib_status status = nib_blas_needed(launch);
    if (status != NIB_OK) return status;
    nib_gptq_job job;
    job_make(request, launch->workspace, &job);
    const int64_t rows = request->w->rows, group = group_of(request);
    const int64_t height = request->factor->outcome == NIB_GPTQ_DONE ? ROWS : ROWS / 2;
    nib_gptq_scratch none;
    const size_t shared = lay_shared(NULL, rows, job.k, &(nib_gptq_job){ 0 });
    const size_t each = lay_scratch(NULL, job.f64, job.k, group, &none);
    double *const weights = calloc((size_t)rows, sizeof *weights);
    if (!weights) return NIB_ERR_OUT_OF_MEMORY;
    nib_blas_enter();
#pragma omp parallel num_threads((int)threads_of(rows, launch->threads))
    {
        nib_gptq_scratch s;
        (void)lay_scratch((uint8_t *)launch->workspace + shared
                              + (size_t)omp_get_thread_num() * each, job.f64, job.k, group, &s);
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < rows; row += height) {
            const int n = rows - row < height ? (int)(rows - row) : (int)height;
            measure_rows(&job, &s, row, n, 0);
            memcpy(weights + row, s.error, (size_t)n * sizeof *weights);
            measure_rows(&job, &s, row, n, 1);
            memcpy(job.row_errors + row, s.error, (size_t)n * sizeof *weights);
        }
    }
    nib_blas_leave();
    *sums = (nib_gptq_sums){ .plain_rows = rows };
    for (int64_t row = 0; row < rows; row++) {
        sums->weight += weights[row];
        sums->error += job.row_errors[row];
    }
    free(weights);
    return NIB_OK;
}

/* ---- sweep ---- */

/* Weights into d, in the steps' order, and the scales that are known before. */
static void load_tile(const nib_gptq_job *job, const nib_gptq_loops *loops, nib_gptq_scratch *s,
                      int64_t row, int rows, int padded)
{
    const nib_packed *const p = job->request->dst;
    for (int r = 0; r < rows; r++)
        load_row(job, row + r, s->spare, nib_real_at(s->d, job->f64, r, job->ld, 0));
    memset(nib_real_at(s->d, job->f64, rows, job->ld, 0), 0,
           (size_t)(padded - rows) * (size_t)job->ld * (job->f64 ? 8 : 4));
    if (job->kind == NIB_GPTQ_INTEGER) nib_gptq_integers_take(job, s, row, rows, padded);
    for (int64_t g = 0; g < job->groups && p; g++)
        for (int r = 0; r < padded; r++)
            s->scales[g * ROWS + r] = r >= rows ? 1
                : p->scales[nib_scale_index(p->scale_layout, row + r, g, job->groups)];
    if (job->by_hessian && !job->fresh) loops->scales(job, s, padded);
    for (int r = 0; r < rows; r++)
        permute_row(job, nib_real_at(s->d, job->f64, r, job->ld, 0), s->spare);
    for (int r = 0; r < padded; r++) s->error[r] = 0.0;
}

/* Weights of steps [first, last) += the errors of steps [from, first), as they were rounded. */
static void carry(const nib_gptq_job *job, nib_gptq_scratch *s, int rows, int64_t from,
                  int64_t first, int64_t last)
{
    const nib_gptq_factor *const f = job->request->factor;
    const int64_t k = job->k;
    if (from == first) return;
    nib_blas_gemm(job->f64, 0, 0, rows, last - first, first - from, 1.0,
                  nib_real_at(s->d, job->f64, 0, 0, k - first), job->ld,
                  nib_real_at(f->l, job->f64, k - first, f->ld_elems, k - last), f->ld_elems, 1.0,
                  nib_real_at(s->d, job->f64, 0, 0, k - last), job->ld);
}

/* Weights of steps [first, last) as they are, for when only their changes are left. */
static void keep_weights(const nib_gptq_job *job, nib_gptq_scratch *s, int rows, int64_t first,
                         int64_t last)
{
    const size_t bytes = (size_t)(last - first) * (job->f64 ? 8 : 4);
    for (int r = 0; r < rows; r++)
        memcpy(nib_real_at(s->before, job->f64, r, NIB_GPTQ_PART_APART, 0),
               nib_real_at(s->d, job->f64, r, job->ld, job->k - last), bytes);
    s->kept_last = last;
}

/* A of a block's own steps. */
static void load_a(const nib_gptq_job *job, nib_gptq_scratch *s, int64_t first, int64_t last)
{
    const nib_gptq_factor *const f = job->request->factor;
    for (int64_t i = 0; i < last - first; i++)
        memcpy(nib_real_at(s->a, job->f64, i, NIB_GPTQ_APART, 0),
               nib_real_at(f->l, job->f64, job->k - 1 - first - i, f->ld_elems, job->k - last),
               (size_t)(last - first - i - 1) * (job->f64 ? 8 : 4));
}

/* Behind as many whole segments as fit into so many steps. */
static int64_t block_end(const nib_gptq_job *job, int64_t first, int64_t segment, int64_t steps)
{
    while (job->segments[segment] < job->k && job->segments[segment + 1] - first <= steps)
        segment++;
    return job->segments[segment];
}

/* Steps [first, last), which have the errors of all before, to codes; their places take their
 * errors. Behind n blocks those carry on that no later block has: the fewer products, the fewer
 * times OpenBLAS lays them out. */
static void sweep_wide(const nib_gptq_job *job, const nib_gptq_loops *loops, nib_gptq_scratch *s,
                       int padded, int64_t first, int64_t last, int64_t *segment)
{
    /* Where blocks begin, and last. Any two in a row are more than STEPS steps. */
    int64_t at[2 * WIDE / STEPS + 2] = { first };
    int64_t count = 0;
    for (int64_t i = *segment; at[count] < last; count++) {
        const int64_t end = block_end(job, at[count], i, STEPS);
        at[count + 1] = end < last ? end : last;
        while (job->segments[i] < at[count + 1]) i++;
    }
    for (int64_t n = 0; n < count; n++) {
        const int64_t just = n & -n;
        if (n) carry(job, s, padded, at[n - just], at[n], at[n + just < count ? n + just : count]);
        load_a(job, s, at[n], at[n + 1]);
        loops->block(job, s, padded, at[n], at[n + 1], segment);
    }
}

static void sweep_tile(const nib_gptq_job *job, const nib_gptq_loops *loops, nib_gptq_scratch *s,
                       int64_t row, int rows, nib_gptq_sums *sums)
{
    const int padded = (rows + NIB_GPTQ_LANES - 1) / NIB_GPTQ_LANES * NIB_GPTQ_LANES;
    load_tile(job, loops, s, row, rows, padded);
    for (int64_t first = 0, segment = 0, last; first < job->k; first = last) {
        last = block_end(job, first, segment, WIDE);
        keep_weights(job, s, padded, first, last);
        carry(job, s, padded, 0, first, last);
        sweep_wide(job, loops, s, padded, first, last, &segment);
    }
    store_tile(job, s, row, rows, sums);
}

nib_status nib_gptq_run(const nib_launch *launch, const nib_gptq_request *request,
                        nib_gptq_sums *sums, const nib_gptq_loops *loops)
{
    const nib_status status = nib_blas_needed(launch);
    if (status != NIB_OK) return status;
    nib_gptq_job     job;
    nib_gptq_scratch none;
    job_make(request, launch->workspace, &job);
    const int64_t rows = request->w->rows, group = group_of(request);
    const size_t  shared = lay_shared(NULL, rows, job.k, &(nib_gptq_job){ 0 });
    const size_t  each = lay_scratch(NULL, job.f64, job.k, group, &none);
    int64_t    plain_rows = 0;
    atomic_int stopped = 0;
    nib_blas_enter();
#pragma omp parallel num_threads((int)threads_of(rows, launch->threads)) reduction(+ : plain_rows)
    {
        nib_gptq_scratch s;
        nib_gptq_sums    own = { 0 };
        (void)lay_scratch((uint8_t *)launch->workspace + shared
                              + (size_t)omp_get_thread_num() * each, job.f64, job.k, group, &s);
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < rows; row += ROWS) {
            if (request->cancel && *request->cancel) stopped = 1;
            if (stopped) continue;
            sweep_tile(&job, loops, &s, row, rows - row < ROWS ? (int)(rows - row) : ROWS, &own);
        }
        plain_rows += own.plain_rows;
    }
    nib_blas_leave();
    sums->plain_rows = plain_rows;
    sums->error = 0.0;
    for (int64_t row = 0; row < rows; row++) sums->error += job.row_errors[row];
    return stopped ? NIB_ERR_CANCELLED : NIB_OK;
}
