/* convert.c: unit by unit, tensor by tensor, panel by panel.
 *
 *   rows of the source --(in place, or decoded to f32)--> panel
 *   panel --amax--> A of the unit            first pass, formats with a tensor scale only
 *   panel --quantize--> codes, scales --> statistics while all of it is in the cache --> file
 */
#include "host/io/convert.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* f32 elements of a panel, for each thread: codes, rows and their decoding stay within a
 * core's share of the last-level cache. Untuned beyond that. */
enum { PANEL_ELEMS = 512 * 1024, COPY_BYTES = 8 << 20 };
/* Above this the first pass hands its pages back, so that resident memory stays bounded. */
#define RELEASE_BYTES ((uint64_t)64 << 20)

typedef struct converter {
    const nib_exec               *exec;
    const nib_checkpoint_options *options;
    const nib_plan               *plan;
    nib_output                   *out;
    nib_output_data             **files;  /* one per plan->files */
    nib_checkpoint_report        *report;
    int64_t                       panel;  /* elements that the buffers hold */
    float                        *rows;   /* decoded rows */
    uint8_t                      *codes, *scales, *blocks;
    nib_progress                  progress;
} converter;

/* A panel of a source: n rows from first, in place or decoded. */
typedef struct panel {
    int64_t    first, n;
    nib_matrix matrix;
} panel;

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

/* The dtype all of a unit's panels have: the sources' own if they agree and lie ready, else
 * f32. compressed-tensors computes in the weights' dtype, where half precision overflows its
 * global scale to 1: f16 is widened there, as a careful user of that package does. */
static nib_dtype unit_dtype(const converter *c, const nib_plan_unit *unit)
{
    nib_dtype first = NIB_F32;
    for (size_t i = 0; i < unit->count; i++) {
        const nib_plan_item *item = &c->plan->items[c->plan->order[unit->first + i]];
        nib_dtype dtype;
        if (item->order.to_gguf_heads || !nib_logical_in_place(item->src, &dtype)) return NIB_F32;
        if (i > 0 && dtype != first) return NIB_F32;
        first = dtype;
    }
    return c->plan->target->stores_encode && first == NIB_F16 ? NIB_F32 : first;
}

static int64_t panel_rows(const converter *c, const nib_logical *t)
{
    const int64_t rows = t->cols ? c->panel / t->cols : t->rows;
    return rows < 1 ? 1 : rows;
}

static nib_status load(const converter *c, const nib_plan_item *item, nib_dtype dtype,
                       int64_t first, panel *p)
{
    const nib_logical *t = item->src;
    const int64_t most = panel_rows(c, t);
    p->first = first;
    p->n = t->rows - first < most ? t->rows - first : most;
    nib_dtype own;
    const uint8_t *in_place = item->order.to_gguf_heads ? NULL : nib_logical_in_place(t, &own);
    if (in_place && own == dtype) {
        const int64_t bytes = dtype == NIB_F32 ? 4 : 2;
        p->matrix = (nib_matrix){ (void *)(uintptr_t)(in_place + first * t->cols * bytes), dtype,
                                  p->n, t->cols, t->cols };
        return NIB_OK;
    }
    p->matrix = (nib_matrix){ c->rows, NIB_F32, p->n, t->cols, t->cols };
    return nib_logical_read(c->exec, t, item->order, first, p->n, c->rows);
}

/* Position of the first NaN or Inf of a panel, for the error's text. */
static nib_status refuse_nonfinite(const converter *c, const nib_plan_item *item, const panel *p)
{
    const nib_matrix *m = &p->matrix;
    float *row = malloc((size_t)m->cols * sizeof *row);
    NIB_REQUIRE(row, NIB_ERR_OUT_OF_MEMORY, "no memory for a row");
    const int64_t bytes = m->dtype == NIB_F32 ? 4 : 2;
    for (int64_t r = 0; r < m->rows; r++) {
        nib_scalar_cpu.to_f32(m->dtype, (const uint8_t *)m->data + r * m->cols * bytes, m->cols,
                              row);
        for (int64_t k = 0; k < m->cols; k++) {
            if (isfinite(row[k])) continue;
            const nib_status status = nib_fail(
                NIB_ERR_NONFINITE, "%s: element [%lld, %lld] is %s", item->src->tensor->name,
                (long long)nib_logical_row(item->src, item->order, p->first + r), (long long)k,
                isnan(row[k]) ? "NaN" : "Inf");
            free(row);
            return status;
        }
    }
    free(row);
    (void)c;
    return nib_fail(NIB_ERR_NONFINITE, "%s: holds NaN or Inf", item->src->tensor->name);
}

static nib_status item_amax(converter *c, const nib_plan_item *item, nib_dtype dtype, int release,
                            float *amax)
{
    const nib_logical *t = item->src;
    for (int64_t first = 0; first < t->rows;) {
        panel p;
        float part;
        uint64_t nonfinite = 0;
        NIB_TRY(load(c, item, dtype, first, &p));
        NIB_TRY(nib_amax(c->exec, &p.matrix, &part, &nonfinite));
        if (nonfinite && c->options->nonfinite == NIB_NONFINITE_REFUSE)
            return refuse_nonfinite(c, item, &p);
        if (part > *amax) *amax = part;
        first += p.n;
        if (release) nib_logical_release(t, p.first, p.n);
        NIB_TRY(tick(c, NIB_STAGE_AMAX, item, 0));
    }
    return NIB_OK;
}

static nib_status put(const converter *c, int64_t out, uint64_t at, const void *data,
                      uint64_t bytes)
{
    const nib_out_tensor *o = &c->plan->outs[out];
    const double start = now();
    const nib_status status = nib_output_write(c->files[o->file], o->offset + at, data, bytes);
    c->report->seconds_write += now() - start;
    return status;
}

static nib_status put_panel(const converter *c, const nib_plan_item *item, const panel *p,
                            const nib_packed *packed)
{
    const int64_t cols = packed->cols, row_codes = packed->ld_codes_bytes;
    const int64_t row_scales = nib_scales_per_row(packed->format, cols);
    const uint64_t n = (uint64_t)p->n, first = (uint64_t)p->first;
    if (!c->plan->target->interleaved) {
        NIB_TRY(put(c, item->out[NIB_ROLE_CODES], first * (uint64_t)row_codes, packed->codes,
                    n * (uint64_t)row_codes));
        return put(c, item->out[NIB_ROLE_SCALES], first * (uint64_t)row_scales, packed->scales,
                   n * (uint64_t)row_scales);
    }
    const int64_t row_blocks = row_codes + row_scales;
    for (int64_t r = 0; r < p->n; r++)
        nib_scalar_cpu.pack_gguf_row(packed->format, cols, packed->codes + r * row_codes,
                                     packed->scales + r * row_scales, c->blocks + r * row_blocks);
    return put(c, item->out[NIB_ROLE_CODES], first * (uint64_t)row_blocks, c->blocks,
               n * (uint64_t)row_blocks);
}

static nib_status quantize_panel(converter *c, const nib_plan_item *item, const panel *p,
                                 const float *amax, nib_tensor_report *report)
{
    const nib_checkpoint_options *o = c->options;
    const int has_tensor_scale = nib_format_has_tensor_scale(o->format);
    const uint64_t random[2] = {
        o->seed, item->random_offset + (uint64_t)p->first * (uint64_t)p->matrix.cols / 4 };
    const nib_quantize_options options = {
        .size = sizeof options, .scale_choice = o->scale_choice, .rounding = o->rounding,
        .rules = &c->plan->rules, .tensor_amax = has_tensor_scale ? amax : NULL,
        .random = random };
    const nib_packed packed = {
        .size = sizeof packed, .format = o->format, .code_order = NIB_CODES_PAIRS,
        .scale_layout = NIB_SCALES_LINEAR, .rows = p->n, .cols = p->matrix.cols,
        .codes = c->codes, .ld_codes_bytes = nib_codes_row_bytes(o->format, p->matrix.cols),
        .scales = c->scales, .tensor_scale = has_tensor_scale ? &report->tensor_scale : NULL };

    const double t0 = now();
    NIB_TRY(nib_quantize(c->exec, &p->matrix, &options, &packed));
    const double t1 = now();
    const uint64_t nonfinite = report->error.nonfinite;
    NIB_TRY(nib_quantize_stats(c->exec, &p->matrix, &packed, &report->error));
    c->report->seconds_quantize += t1 - t0;
    c->report->seconds_stats += now() - t1;
    if (report->error.nonfinite != nonfinite && o->nonfinite == NIB_NONFINITE_REFUSE)
        return refuse_nonfinite(c, item, p);
    return put_panel(c, item, p, &packed);
}

static nib_status quantize_item(converter *c, const nib_plan_item *item, nib_dtype dtype,
                                float amax, nib_tensor_report *report)
{
    const nib_checkpoint_options *o = c->options;
    const nib_logical *t = item->src;
    for (int64_t first = 0; first < t->rows;) {
        panel p;
        const double start = now();
        NIB_TRY(load(c, item, dtype, first, &p));
        c->report->seconds_quantize += now() - start; /* decoding is part of the work */
        NIB_TRY(quantize_panel(c, item, &p, &amax, report));
        first += p.n;
        nib_logical_release(t, p.first, p.n);
        NIB_TRY(tick(c, NIB_STAGE_QUANTIZE, item, t->bytes * (uint64_t)p.n / (uint64_t)t->rows));
    }
    if (item->out[NIB_ROLE_TENSOR_SCALE] < 0) return NIB_OK;
    float encode, decode;
    NIB_TRY(nib_tensor_scale(o->format, &c->plan->rules, o->scale_choice, dtype, amax, &encode,
                             &decode));
    report->tensor_scale = decode;
    return put(c, item->out[NIB_ROLE_TENSOR_SCALE], 0,
               c->plan->target->stores_encode ? &encode : &decode, sizeof encode);
}

/* ---- tensors that are kept ---- */

static nib_status copy_bytes(converter *c, const nib_plan_item *item)
{
    const nib_tensor *t = item->src->tensor;
    for (uint64_t at = 0; at < t->bytes; at += COPY_BYTES) {
        const uint64_t n = t->bytes - at < COPY_BYTES ? t->bytes - at : COPY_BYTES;
        NIB_TRY(put(c, item->out[NIB_ROLE_CODES], at, t->data + at, n));
        nib_mapping_release(t->data + at, n);
        NIB_TRY(tick(c, NIB_STAGE_COPY, item, n));
    }
    return NIB_OK;
}

/* Permuted rows, or another type: through f32, which holds f16, bf16 and f32 exactly. */
static nib_status copy_rows(converter *c, const nib_plan_item *item)
{
    const nib_logical *t = item->src;
    const nib_tensor_type_info *type = nib_tensor_type_get(item->stored);
    const nib_dtype dtype = item->stored == NIB_TT_F32   ? NIB_F32
                          : item->stored == NIB_TT_F16 ? NIB_F16 : NIB_BF16;
    for (int64_t first = 0; first < t->rows;) {
        const int64_t most = panel_rows(c, t);
        const int64_t n = t->rows - first < most ? t->rows - first : most;
        const uint64_t row = (uint64_t)(t->cols * type->block_bytes);
        NIB_TRY(nib_logical_read(c->exec, t, item->order, first, n, c->rows));
        nib_scalar_cpu.from_f32(dtype, c->rows, n * t->cols, c->blocks);
        NIB_TRY(put(c, item->out[NIB_ROLE_CODES], (uint64_t)first * row, c->blocks,
                    (uint64_t)n * row));
        nib_logical_release(t, first, n);
        first += n;
        NIB_TRY(tick(c, NIB_STAGE_COPY, item, t->bytes * (uint64_t)n / (uint64_t)t->rows));
    }
    return NIB_OK;
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
    return copy_rows(c, item);
}

/* ---- the journal: what a restart need not do again ---- */

static void step_text(const nib_tensor_report *r, char *text, size_t bytes)
{
    const nib_quantize_report *e = &r->error;
    snprintf(text, bytes, "%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %a %a %a %a",
             r->name, e->elements, e->nonfinite, e->flushed, e->saturated, e->max_error,
             e->sum_sq_error, e->sum_sq, (double)r->tensor_scale);
}

/* 1 if the journal has the tensor; its figures then come from there. */
static int step_done(const converter *c, nib_tensor_report *r)
{
    const char *rest = nib_output_step(c->out, r->name);
    if (!rest) return 0;
    nib_quantize_report *e = &r->error;
    double scale;
    if (sscanf(rest, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %la %la %la %la",
               &e->elements, &e->nonfinite, &e->flushed, &e->saturated, &e->max_error,
               &e->sum_sq_error, &e->sum_sq, &scale) != 8)
        return 0;
    r->tensor_scale = (float)scale;
    return 1;
}

static nib_status run_unit(converter *c, const nib_plan_unit *unit)
{
    const nib_plan *plan = c->plan;
    const nib_dtype dtype = unit_dtype(c, unit);
    uint64_t bytes = 0;
    int todo = 0;
    float amax = 0.0f;
    for (size_t i = unit->first; i < unit->first + unit->count; i++) {
        bytes += plan->items[plan->order[i]].src->bytes;
        todo |= !step_done(c, &c->report->tensors[i]);
    }
    const int needs_amax = nib_format_has_tensor_scale(c->options->format)
                        && plan->items[plan->order[unit->first]].quantize;
    const double start = now();
    for (size_t i = unit->first; needs_amax && todo && i < unit->first + unit->count; i++)
        NIB_TRY(item_amax(c, &plan->items[plan->order[i]], dtype, bytes > RELEASE_BYTES, &amax));
    c->report->seconds_amax += now() - start;

    for (size_t i = unit->first; i < unit->first + unit->count; i++) {
        const nib_plan_item *item = &plan->items[plan->order[i]];
        nib_tensor_report *r = &c->report->tensors[i];
        if (step_done(c, r)) {
            NIB_TRY(tick(c, NIB_STAGE_COPY, item, item->src->bytes));
        } else {
            char text[1024];
            NIB_TRY(item->quantize ? quantize_item(c, item, dtype, amax, r) : copy_item(c, item));
            step_text(r, text, sizeof text);
            NIB_TRY(nib_output_done(c->out, text));
        }
        c->report->nonfinite += r->error.nonfinite;
        c->progress.tensors_done++;
    }
    return NIB_OK;
}

static nib_status allocate(converter *c)
{
    const int threads = c->exec->threads > 0 ? c->exec->threads : nib_cpu_max_threads();
    c->panel = (int64_t)PANEL_ELEMS * (threads < 16 ? threads : 16);
    for (size_t i = 0; i < c->plan->n_order; i++) {
        const nib_logical *t = c->plan->items[c->plan->order[i]].src;
        if (t->cols > c->panel && t->n_dims > 1) c->panel = t->cols;
    }
    c->rows = malloc((size_t)c->panel * sizeof *c->rows);
    c->codes = malloc((size_t)c->panel);
    c->scales = malloc((size_t)c->panel / 8 + 1);
    c->blocks = malloc((size_t)c->panel * 4);
    c->files = calloc(c->plan->n_files, sizeof *c->files);
    NIB_REQUIRE(c->rows && c->codes && c->scales && c->blocks && c->files, NIB_ERR_OUT_OF_MEMORY,
                "no memory for panels of %lld elements", (long long)c->panel);
    return NIB_OK;
}

nib_status nib_convert_run(const nib_exec *exec, const nib_checkpoint_options *options,
                           const nib_plan *plan, nib_output *out, nib_checkpoint_report *report)
{
    converter c = { .exec = exec, .options = options, .plan = plan, .out = out,
                    .report = report,
                    .progress = { .size = sizeof c.progress, .tensors_total = plan->n_order,
                                  .source_bytes_total = plan->source_bytes } };
    nib_status status = allocate(&c);
    for (size_t i = 0; i < plan->n_files && status == NIB_OK; i++) {
        const nib_out_file *file = &plan->files[i];
        status = nib_output_file(out, plan->target->is_folder ? file->name : NULL,
                                 file->layout.header, file->layout.header_bytes,
                                 file->layout.file_bytes, &c.files[i]);
    }
    for (size_t i = 0; i < plan->n_units && status == NIB_OK; i++)
        status = run_unit(&c, &plan->units[i]);
    free(c.files);
    free(c.rows);
    free(c.codes);
    free(c.scales);
    free(c.blocks);
    return status;
}
