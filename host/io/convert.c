/* convert.c: unit by unit, tensor by tensor, panel by panel.
 *
 *   rows of the source --(in place, or decoded to f32)--> panel
 *   panel --amax--> A of the unit            first pass, formats with a tensor scale only
 *   panel --quantize--> codes, scales, statistics --> file
 *                       a backend takes the statistics in the same step, or next, from the cache
 *
 * A tensor that has a Hessian is one panel, quantized by nib_solver.
 */
#include "host/io/convert.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/io/integers.h"
#include "host/io/panels.h"
#include "host/io/solver.h"

enum { COPY_BYTES = 8 << 20 };

typedef struct converter {
    const nib_checkpoint_options *options;
    const nib_plan               *plan;
    nib_output                   *out;
    nib_output_data             **files;  /* one per plan->files */
    nib_checkpoint_report        *report;
    nib_panel_pool                pool;
    nib_solver                   *solver; /* NULL: nothing has a Hessian */
    nib_progress                  progress;
    /* of the tensor at work */
    nib_dtype                     dtype;  /* of its panels */
    float                         amax;
    nib_tensor_report            *tensor;
    nib_tensor_gptq              *gptq;   /* NULL: without a Hessian */
} converter;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static nib_status tick(converter *c, nib_stage stage, const nib_plan_item *item, uint64_t bytes)
{
    c->progress.stage = stage;
    c->progress.tensor = item->src->tensor->name;
    c->progress.source_bytes_done += bytes;
    if (c->options->progress) c->options->progress(c->options->user, &c->progress);
    NIB_REQUIRE(!c->options->cancel || !*c->options->cancel, NIB_ERR_CANCELLED,
                "stopped in tensor %s", item->src->tensor->name);
    return NIB_OK;
}

/* Integers' numbers are none that format.h could read. */
static int has_tensor_scale(nib_format f)
{
    return !nib_int_format_is_valid(f) && nib_format_has_tensor_scale(f);
}

static int32_t rotation(const converter *c)
{
    return c->options->gptq ? c->options->gptq->rotate : 0;
}

/* The dtype all of a unit's panels have: the sources' own if they agree and lie ready, else
 * f32. compressed-tensors computes in the weights' dtype, where half precision overflows its
 * global scale to 1: f16 is widened there, as a careful user of that package does. */
static nib_dtype unit_dtype(const converter *c, const nib_plan_unit *unit)
{
    nib_dtype first = NIB_F32;
    for (size_t i = 0; i < unit->count; i++) {
        const nib_plan_item *item = &c->plan->items[c->plan->order[unit->first + i]];
        nib_dtype dtype;
        if (item->order.to_gguf_heads || rotation(c) || !nib_logical_in_place(item->src, &dtype))
            return NIB_F32;
        if (i > 0 && dtype != first) return NIB_F32;
        first = dtype;
    }
    return c->plan->target->stores_encode && first == NIB_F16 ? NIB_F32 : first;
}

/* The panel's rows, where they lie or decoded into its buffer; rotated ones are in its buffer. */
static nib_status load(const converter *c, const nib_panel *p, nib_matrix *m)
{
    const nib_logical *t = p->item->src;
    const nib_transform rotated = { .size = sizeof rotated, .hadamard = rotation(c) };
    nib_dtype own;
    const uint8_t *in_place = p->item->order.to_gguf_heads ? NULL : nib_logical_in_place(t, &own);
    if (in_place && own == c->dtype) {
        const int64_t bytes = own == NIB_F32 ? 4 : 2;
        *m = (nib_matrix){ (void *)(uintptr_t)(in_place + p->first * t->cols * bytes), own, p->n,
                           t->cols, t->cols };
    } else {
        float *rows = rotated.hadamard ? (float *)(void *)p->buffers->blocks : p->buffers->rows;
        *m = (nib_matrix){ rows, NIB_F32, p->n, t->cols, t->cols };
        NIB_TRY(nib_logical_read(p->exec, t, p->item->order, p->first, p->n, rows));
    }
    if (!rotated.hadamard) return NIB_OK;
    const nib_matrix plain = *m;
    *m = (nib_matrix){ p->buffers->rows, NIB_F32, p->n, t->cols, t->cols };
    return nib_transform_apply(p->exec, &rotated, &plain, m);
}

/* Position of the first NaN or Inf of a panel, for the error's text. */
static nib_status refuse_nonfinite(const nib_panel *p, const nib_matrix *m)
{
    const char *name = p->item->src->tensor->name;
    float *row = malloc((size_t)m->cols * sizeof *row);
    NIB_REQUIRE(row, NIB_ERR_OUT_OF_MEMORY, "%s: holds NaN or Inf", name);
    const int64_t bytes = m->dtype == NIB_F32 ? 4 : 2;
    for (int64_t r = 0; r < m->rows; r++) {
        nib_scalar_cpu.to_f32(m->dtype, (const uint8_t *)m->data + r * m->cols * bytes, m->cols,
                              row);
        int64_t k = 0;
        while (k < m->cols && isfinite(row[k])) k++;
        if (k == m->cols) continue;
        const int is_nan = isnan(row[k]);
        free(row);
        return nib_fail(NIB_ERR_NONFINITE, "%s: element [%lld, %lld] is %s", name,
                        (long long)nib_logical_row(p->item->src, p->item->order, p->first + r),
                        (long long)k, is_nan ? "NaN" : "Inf");
    }
    free(row);
    return nib_fail(NIB_ERR_NONFINITE, "%s: holds NaN or Inf", name);
}

/* ---- first pass ---- */

static nib_status amax_work(void *context, const nib_panel *p, nib_panel_result *result)
{
    const converter *c = context;
    nib_matrix m;
    uint64_t nonfinite = 0;
    const double start = now();
    NIB_TRY(load(c, p, &m));
    NIB_TRY(nib_amax(p->exec, &m, &result->amax, &nonfinite));
    if (nonfinite && c->options->nonfinite == NIB_NONFINITE_REFUSE)
        return refuse_nonfinite(p, &m);
    result->seconds_amax = now() - start;
    return NIB_OK;
}

static nib_status amax_merge(void *context, const nib_panel *p, const nib_panel_result *result)
{
    converter *c = context;
    if (result->amax > c->amax) c->amax = result->amax;
    c->report->seconds_amax += result->seconds_amax;
    return tick(c, NIB_STAGE_AMAX, p->item, 0);
}

/* ---- second pass ---- */

static nib_status put(const converter *c, int64_t out, uint64_t at, const void *data,
                      uint64_t bytes)
{
    const nib_out_tensor *o = &c->plan->outs[out];
    return nib_output_write(c->files[o->file], o->offset + at, data, bytes);
}

static nib_status put_panel(const converter *c, const nib_panel *p, const nib_packed *packed)
{
    const int64_t cols = packed->cols, row_codes = packed->ld_codes_bytes;
    const int64_t row_scales = nib_scales_per_row(packed->format, cols);
    const uint64_t n = (uint64_t)p->n, first = (uint64_t)p->first;
    const int64_t *out = p->item->out;
    if (!c->plan->target->interleaved) {
        NIB_TRY(put(c, out[NIB_ROLE_CODES], first * (uint64_t)row_codes, packed->codes,
                    n * (uint64_t)row_codes));
        return put(c, out[NIB_ROLE_SCALES], first * (uint64_t)row_scales, packed->scales,
                   n * (uint64_t)row_scales);
    }
    const int64_t row_blocks = row_codes + row_scales;
    uint8_t *blocks = p->buffers->blocks;
    for (int64_t r = 0; r < p->n; r++)
        nib_scalar_cpu.pack_gguf_row(packed->format, cols, packed->codes + r * row_codes,
                                     packed->scales + r * row_scales, blocks + r * row_blocks);
    return put(c, out[NIB_ROLE_CODES], first * (uint64_t)row_blocks, blocks,
               n * (uint64_t)row_blocks);
}

static nib_status quantize_work(void *context, const nib_panel *p, nib_panel_result *result)
{
    const converter *c = context;
    const nib_checkpoint_options *o = c->options;
    const nib_plan_way *way = &p->item->way;
    const int scaled = has_tensor_scale(way->format);
    const double t0 = now();
    nib_matrix m;
    NIB_TRY(load(c, p, &m)); /* decoding counts as part of quantizing */
    float tensor_scale;
    const uint64_t random[2] = {
        o->seed, p->item->random_offset + (uint64_t)p->first * (uint64_t)m.cols / 4 };
    const nib_quantize_options options = {
        .size = sizeof options, .scale_choice = way->scale_choice, .rounding = o->rounding,
        .rules = &way->rules, .tensor_amax = scaled ? &c->amax : NULL,
        .random = random };
    const nib_packed packed = {
        .size = sizeof packed, .format = way->format, .code_order = NIB_CODES_PAIRS,
        .scale_layout = NIB_SCALES_LINEAR, .rows = p->n, .cols = m.cols,
        .codes = p->buffers->codes, .ld_codes_bytes = nib_codes_row_bytes(way->format, m.cols),
        .scales = p->buffers->scales, .tensor_scale = scaled ? &tensor_scale : NULL };
    const int in_one = !c->gptq && nib_has_quantize_measured(p->exec);
    double t1 = 0;
    result->error.without_counts = !o->counts;
    if (in_one) {
        NIB_TRY(nib_quantize_measured(p->exec, &m, &options, &packed, &result->error));
    } else {
        NIB_TRY(c->gptq ? nib_solver_quantize(c->solver, p->item, &m, &options, &packed, c->gptq)
                        : nib_quantize(p->exec, &m, &options, &packed));
        t1 = now();
        NIB_TRY(nib_quantize_stats(p->exec, &m, &packed, &result->error));
    }
    const double t2 = now();
    if (in_one) t1 = t2;
    if (result->error.nonfinite && o->nonfinite == NIB_NONFINITE_REFUSE)
        return refuse_nonfinite(p, &m);
    NIB_TRY(put_panel(c, p, &packed));
    nib_logical_release(p->item->src, p->first, p->n);
    result->seconds_quantize = t1 - t0;
    result->seconds_stats = t2 - t1;
    result->seconds_write = now() - t2;
    return NIB_OK;
}

static nib_status quantize_merge(void *context, const nib_panel *p,
                                 const nib_panel_result *result)
{
    converter *c = context;
    const nib_logical *t = p->item->src;
    nib_panel_add_error(&c->tensor->error, &result->error);
    c->report->seconds_quantize += result->seconds_quantize;
    c->report->seconds_stats += result->seconds_stats;
    c->report->seconds_write += result->seconds_write / (double)c->pool.threads;
    return tick(c, NIB_STAGE_QUANTIZE, p->item,
                t->bytes * (uint64_t)p->n / (uint64_t)(t->rows ? t->rows : 1));
}

/* A panel that is written. */
typedef struct written {
    const converter *c;
    const nib_panel *panel;
} written;

static nib_status put_role(void *context, int role, uint64_t at, const void *data, uint64_t bytes)
{
    const written *w = context;
    return put(w->c, w->panel->item->out[role], at, data, bytes);
}

static nib_status integers_work(void *context, const nib_panel *p, nib_panel_result *result)
{
    const converter *c = context;
    written to = { c, p };
    const double t0 = now();
    nib_matrix m;
    NIB_TRY(load(c, p, &m));
    const nib_packed_steps packed = nib_integers_of(p);
    NIB_TRY(c->gptq ? nib_solver_integers(c->solver, p->item, &m, &packed, c->gptq)
                    : nib_quantize_steps(p->exec, &m, 0, &packed));
    const double t1 = now();
    result->error.without_counts = !c->options->counts;
    NIB_TRY(nib_integers_measure(p, &m, &packed, &result->error));
    const double t2 = now();
    if (result->error.nonfinite && c->options->nonfinite == NIB_NONFINITE_REFUSE)
        return refuse_nonfinite(p, &m);
    NIB_TRY(nib_integers_put(p, &packed, put_role, &to));
    nib_logical_release(p->item->src, p->first, p->n);
    result->seconds_quantize = t1 - t0;
    result->seconds_stats = t2 - t1;
    result->seconds_write = now() - t2;
    return NIB_OK;
}

/* The whole tensor as one panel, in all threads. */
static nib_status quantize_whole(converter *c, const nib_plan_item *item)
{
    nib_panel_buffers buffers = { 0 };
    const nib_panel whole = { nib_solver_exec(c->solver), &buffers, item, 0, item->src->rows };
    nib_panel_result result = { .error.size = sizeof result.error };
    const int64_t rows = item->src->rows, cols = item->src->cols;
    const nib_format f = item->way.format;
    nib_status status = nib_panel_buffers_alloc(
        &buffers, rows * cols,
        nib_int_format_is_valid(f) ? rows * nib_integers_groups(f, cols) : 0);
    if (status != NIB_OK)
        nib_fail(status, "%s: no memory for %lld x %lld elements at once", item->src->name,
                 (long long)rows, (long long)cols);
    if (status == NIB_OK)
        status = nib_int_format_is_valid(f) ? integers_work(c, &whole, &result)
                                            : quantize_work(c, &whole, &result);
    result.seconds_write *= c->pool.threads; /* the others waited */
    if (status == NIB_OK) status = quantize_merge(c, &whole, &result);
    nib_panel_buffers_free(&buffers);
    return status;
}

static nib_status quantize_item(converter *c, const nib_plan_item *item)
{
    const nib_plan_way *way = &item->way;
    c->tensor->error.without_counts = !c->options->counts;
    NIB_TRY(c->gptq ? quantize_whole(c, item)
                    : nib_panels_run(&c->pool, item,
                                     nib_int_format_is_valid(way->format) ? integers_work
                                                                          : quantize_work,
                                     quantize_merge, c));
    if (item->out[NIB_ROLE_SHAPE] >= 0) {
        const int64_t shape[2] = { item->src->rows, item->src->cols };
        return put(c, item->out[NIB_ROLE_SHAPE], 0, shape, sizeof shape);
    }
    if (item->out[NIB_ROLE_TENSOR_SCALE] < 0) return NIB_OK;
    float encode, decode;
    NIB_TRY(nib_tensor_scale(way->format, &way->rules, way->scale_choice, c->dtype, c->amax,
                             &encode, &decode));
    c->tensor->tensor_scale = decode;
    return put(c, item->out[NIB_ROLE_TENSOR_SCALE], 0,
               c->plan->target->stores_encode ? &encode : &decode, sizeof encode);
}

/* ---- tensors that are kept ---- */

static nib_status copy_bytes(converter *c, const nib_plan_item *item)
{
    const nib_tensor *t = item->src->tensor;
    for (uint64_t at = 0; at < t->bytes; at += COPY_BYTES) {
        const uint64_t n = t->bytes - at < COPY_BYTES ? t->bytes - at : COPY_BYTES;
        const double start = now();
        NIB_TRY(put(c, item->out[NIB_ROLE_CODES], at, t->data + at, n));
        c->report->seconds_write += now() - start;
        nib_mapping_release(t->data + at, n);
        NIB_TRY(tick(c, NIB_STAGE_COPY, item, n));
    }
    return NIB_OK;
}

/* Permuted rows, or another type: through f32, which holds f16, bf16 and f32 exactly. */
static nib_status copy_work(void *context, const nib_panel *p, nib_panel_result *result)
{
    const converter *c = context;
    const nib_logical *t = p->item->src;
    const nib_tensor_type_info *type = nib_tensor_type_get(p->item->stored);
    const nib_dtype dtype = p->item->stored == NIB_TT_F32 ? NIB_F32
                          : p->item->stored == NIB_TT_F16 ? NIB_F16 : NIB_BF16;
    const uint64_t row = (uint64_t)(t->cols * type->block_bytes);
    NIB_TRY(nib_logical_read(p->exec, t, p->item->order, p->first, p->n, p->buffers->rows));
    nib_scalar_cpu.from_f32(dtype, p->buffers->rows, p->n * t->cols, p->buffers->blocks);
    const double start = now();
    NIB_TRY(put(c, p->item->out[NIB_ROLE_CODES], (uint64_t)p->first * row, p->buffers->blocks,
                (uint64_t)p->n * row));
    result->seconds_write = now() - start;
    nib_logical_release(t, p->first, p->n);
    return NIB_OK;
}

static nib_status copy_merge(void *context, const nib_panel *p, const nib_panel_result *result)
{
    converter *c = context;
    const nib_logical *t = p->item->src;
    c->report->seconds_write += result->seconds_write / (double)c->pool.threads;
    return tick(c, NIB_STAGE_COPY, p->item,
                t->bytes * (uint64_t)p->n / (uint64_t)(t->rows ? t->rows : 1));
}

static nib_status copy_item(converter *c, const nib_plan_item *item)
{
    const nib_logical *t = item->src;
    const int same_rows = item->order.to_gguf_heads == t->gguf_heads;
    if (same_rows && item->stored == t->tensor->type) return copy_bytes(c, item);
    NIB_REQUIRE(item->stored == NIB_TT_F32 || item->stored == NIB_TT_F16
                    || item->stored == NIB_TT_BF16,
                NIB_ERR_UNSUPPORTED, "%s: rows of type %s cannot be put in another order",
                t->name, nib_tensor_type_get(item->stored)->name);
    return nib_panels_run(&c->pool, item, copy_work, copy_merge, c);
}

/* ---- the journal: what a restart need not do again ---- */

static void step_text(const nib_tensor_report *r, const nib_tensor_gptq *gptq, char *text,
                      size_t bytes)
{
    const nib_quantize_report *e = &r->error;
    const int n = snprintf(text, bytes,
                           "%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %a %a %a %a",
                           r->name, e->elements, e->nonfinite, e->flushed, e->saturated,
                           e->max_error, e->sum_sq_error, e->sum_sq, (double)r->tensor_scale);
    if (gptq && n > 0 && (size_t)n < bytes) nib_solver_to_text(gptq, text + n, bytes - (size_t)n);
}

static nib_tensor_gptq *gptq_of(const converter *c, size_t i)
{
    return c->report->gptq ? c->report->gptq[i] : NULL;
}

/* 1 if the journal has the tensor; its figures then come from there. */
static int step_done(const converter *c, size_t i)
{
    nib_tensor_report *r = &c->report->tensors[i];
    const char *rest = nib_output_step(c->out, r->name);
    if (!rest) return 0;
    nib_quantize_report *e = &r->error;
    double scale;
    int n = 0;
    if (sscanf(rest, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %la %la %la %la%n",
               &e->elements, &e->nonfinite, &e->flushed, &e->saturated, &e->max_error,
               &e->sum_sq_error, &e->sum_sq, &scale, &n) != 8)
        return 0;
    r->tensor_scale = (float)scale;
    return !gptq_of(c, i) || nib_solver_from_text(rest + n, gptq_of(c, i));
}

static nib_status run_item(converter *c, size_t i)
{
    const nib_plan_item *item = &c->plan->items[c->plan->order[i]];
    nib_tensor_report *r = c->tensor = &c->report->tensors[i];
    c->gptq = gptq_of(c, i);
    if (step_done(c, i)) {
        NIB_TRY(tick(c, NIB_STAGE_COPY, item, item->src->bytes));
    } else {
        char text[1536];
        NIB_TRY(item->quantize ? quantize_item(c, item) : copy_item(c, item));
        step_text(r, c->gptq, text, sizeof text);
        NIB_TRY(nib_output_done(c->out, text));
    }
    c->report->nonfinite += r->error.nonfinite;
    c->progress.tensors_done++;
    return NIB_OK;
}

/* The first pass leaves a unit's pages mapped for the second: at most three tensors, and mapping
 * them again would cost as much as quantizing them. */
static nib_status run_unit(converter *c, const nib_plan_unit *unit)
{
    const nib_plan *plan = c->plan;
    const size_t end = unit->first + unit->count;
    const nib_plan_item *lead = &plan->items[plan->order[unit->first]];
    int todo = 0;
    for (size_t i = unit->first; i < end; i++) todo |= !step_done(c, i);
    c->dtype = unit_dtype(c, unit);
    c->amax = 0.0f;
    if (todo && lead->quantize && has_tensor_scale(lead->way.format))
        for (size_t i = unit->first; i < end; i++)
            NIB_TRY(nib_panels_run(&c->pool, &plan->items[plan->order[i]], amax_work, amax_merge,
                                   c));
    for (size_t i = unit->first; i < end; i++) NIB_TRY(run_item(c, i));
    return NIB_OK;
}

nib_status nib_convert_run(const nib_exec *exec, const nib_checkpoint_options *options,
                           const nib_plan *plan, nib_output *out, nib_checkpoint_report *report)
{
    converter c = { .options = options, .plan = plan, .out = out, .report = report,
                    .files = calloc(plan->n_files, sizeof *c.files),
                    .progress = { .size = sizeof c.progress, .tensors_total = plan->n_order,
                                  .source_bytes_total = plan->source_bytes } };
    int64_t elems, steps;
    nib_panel_need(plan, &elems, &steps);
    nib_status status = nib_panel_pool_open(exec, elems, steps, &c.pool);
    if (status == NIB_OK && options->gptq) status = nib_solver_open(exec, options, &c.solver);
    report->threads = c.pool.threads;
    if (!c.files) status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for the files");
    const double start = now();
    for (size_t i = 0; i < plan->n_files && status == NIB_OK; i++) {
        const nib_out_file *file = &plan->files[i];
        status = nib_output_file(out, plan->target->is_folder ? file->name : NULL,
                                 file->layout.header, file->layout.header_bytes,
                                 file->layout.file_bytes, &c.files[i]);
    }
    report->seconds_write += now() - start; /* disk space is reserved there */
    for (size_t i = 0; i < plan->n_units && status == NIB_OK; i++)
        status = run_unit(&c, &plan->units[i]);
    nib_panel_pool_close(&c.pool);
    nib_solver_close(c.solver);
    free(c.files);
    return status;
}
