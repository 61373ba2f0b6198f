/* gptq.c: gptq.h as steps over a backend's calls: checks, damping that rises until a factor stands,
 * plain rounding, its error, the sweep; for formats and for integers. */
#include <math.h>
#include <time.h>

#include "hessian_checks.h"
#include "log.h"
#include "step_checks.h"
#include "trace.h"

enum {
    FACTOR_V1 = sizeof(nib_gptq_factor), FACTOR_OPTIONS_V1 = sizeof(nib_gptq_factor_options),
    OPTIONS_V1 = sizeof(nib_gptq_options), REPORT_V1 = sizeof(nib_gptq_report),
    MOST_CHOSEN = 128 /* inputs of a group that a sweep brings up to date at a time */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- factor ---- */

nib_status nib_gptq_factor_options_make(const char *what, const nib_gptq_factor_options *o,
                                        int64_t k, nib_gptq_factor_options *made)
{
    *made = (nib_gptq_factor_options){ .size = sizeof *made };
    if (o) {
        NIB_REQUIRE(o->size >= FACTOR_OPTIONS_V1, NIB_ERR_ARGUMENT,
                    "%s: options->size is %u, at least %d is needed", what, o->size,
                    (int)FACTOR_OPTIONS_V1);
        *made = *o;
    }
    NIB_REQUIRE((unsigned)made->order <= NIB_GPTQ_GROUP_AWARE, NIB_ERR_ARGUMENT,
                "%s: unknown order %d", what, (int)made->order);
    const int32_t b = made->block;
    NIB_REQUIRE(made->order != NIB_GPTQ_GROUP_AWARE || (b > 0 && (b % 8 == 0 || b >= k)),
                NIB_ERR_ARGUMENT, "%s: options->block is %d, neither a multiple of 8 nor >= %lld",
                what, b, (long long)k);
    if (made->order != NIB_GPTQ_GROUP_AWARE) made->block = 0;
    NIB_REQUIRE(isfinite(made->damping) && isfinite(made->most_damping)
                    && made->most_damping >= 0.0, NIB_ERR_ARGUMENT,
                "%s: damping is %g, most_damping %g", what, made->damping, made->most_damping);
    if (made->damping == 0.0) made->damping = 0.01;
    else if (made->damping < 0.0) made->damping = 0.0;
    if (made->most_damping == 0.0) made->most_damping = 1.0;
    return NIB_OK;
}

static nib_status factor_check(const char *what, const nib_hessian *h, const nib_gptq_factor *f)
{
    NIB_REQUIRE(f, NIB_ERR_ARGUMENT, "%s: factor is NULL", what);
    NIB_REQUIRE(f->size >= FACTOR_V1, NIB_ERR_ARGUMENT,
                "%s: factor->size is %u, at least %d is needed", what, f->size, (int)FACTOR_V1);
    NIB_TRY(nib_square_check(what, "factor->l", f->real, f->k, f->l, f->ld_elems));
    NIB_REQUIRE(f->order || f->k == 0, NIB_ERR_ARGUMENT, "%s: factor->order is NULL", what);
    NIB_TRY(nib_pointer_check(f->order, sizeof *f->order, what, "factor->order"));
    NIB_REQUIRE(f->real == h->real && f->k == h->k, NIB_ERR_SHAPE,
                "%s: factor is of real %d, k = %lld; hessian of real %d, k = %lld", what,
                (int)f->real, (long long)f->k, (int)h->real, (long long)h->k);
    return NIB_OK;
}

/* Raises the damping until a factor stands, or it is too much. */
static nib_status factor_try(const char *what, const nib_backend *ops, const nib_launch *launch,
                             const nib_hessian *h, const nib_gptq_factor_options *o, double mean,
                             nib_gptq_factor *f)
{
    double damping = o->damping;
    for (;;) {
        int64_t minor = 0;
        f->damping = damping;
        f->added = damping * mean;
        f->tries++;
        NIB_TRY(nib_dispatched(ops->gptq_factor(launch, h, f->added, f, &minor), what, ops,
                               launch));
        if (!minor) return f->outcome = NIB_GPTQ_DONE, NIB_OK;
        damping = damping == 0.0 ? 0.01 : 10.0 * damping;
        if (damping <= o->most_damping * (1.0 + 1e-9)) continue; /* 0.01 * 10 * 10 is not 1.0 */
        f->outcome = NIB_GPTQ_NOT_DEFINITE;
        return NIB_OK;
    }
}

nib_status nib_gptq_factor_make(const nib_exec *exec, const nib_hessian *hessian,
                                const nib_gptq_factor_options *options, nib_gptq_factor *factor)
{
    NIB_TRACE_NAME();
    const char *what = "gptq_factor_make";
    const double start = now();
    nib_launch launch;
    const nib_backend *ops;
    nib_gptq_factor_options o;
    nib_hessian_info info = { .size = sizeof info };
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_hessian_valid(what, hessian));
    NIB_TRY(nib_gptq_factor_options_make(what, options, hessian->k, &o));
    NIB_TRY(factor_check(what, hessian, factor));
    NIB_NEED(ops, gptq_order, what);
    NIB_NEED(ops, gptq_factor, what);
    NIB_LOG(exec, &launch, "gptq_factor", .hessian = hessian, .factor = &o);
    NIB_TRY(nib_hessian_look(what, ops, &launch, hessian, 1, &info));
    factor->outcome = NIB_GPTQ_NO_TOKENS;
    factor->tries = 0;
    factor->dead = info.dead;
    factor->tokens = info.tokens;
    factor->damping = factor->added = 0.0;
    factor->order_kind = o.order;
    factor->block = o.block;
    if (hessian->k)
        NIB_TRY(nib_dispatched(ops->gptq_order(&launch, hessian, o.order, o.block, factor), what,
                               ops, &launch));
    if (info.tokens != 0 && info.dead < hessian->k)
        NIB_TRY(factor_try(what, ops, &launch, hessian, &o, info.mean_diag, factor));
    factor->seconds = now() - start;
    return NIB_OK;
}

/* ---- layers ---- */

static size_t need_of(const nib_device *device, nib_real real, int64_t rows, int64_t k,
                      int64_t group, int32_t threads)
{
    if (!device || !device->ops->gptq_need || (unsigned)real > NIB_REAL_F64 || rows < 0 || k < 0
        || k > INT32_MAX || rows > INT64_MAX / 16 || threads < 0 || threads > 1024)
        return SIZE_MAX;
    if (!rows || !k) return 0;
    return device->ops->gptq_need(real, rows, k, group, threads ? threads : device->max_threads);
}

size_t nib_gptq_workspace_bytes(const nib_device *device, nib_real real, int64_t rows, int64_t k,
                                int32_t threads)
{
    return need_of(device, real, rows, k, 0, threads);
}

size_t nib_gptq_steps_workspace_bytes(const nib_device *device, nib_real real, int64_t rows,
                                      int64_t k, int64_t group, int32_t threads)
{
    if (nib_step_count(rows, k, group) < 0) return SIZE_MAX;
    return need_of(device, real, rows, k, group, threads);
}

static nib_status options_check(const char *what, const nib_gptq_options *o)
{
    NIB_REQUIRE(o->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "%s: options->size is %u, at least %d is needed", what, o->size, (int)OPTIONS_V1);
    NIB_REQUIRE((unsigned)o->scales <= NIB_GPTQ_SCALES_HESSIAN_FULL, NIB_ERR_ARGUMENT,
                "%s: unknown scales %d", what, (int)o->scales);
    NIB_REQUIRE((unsigned)o->without_guard <= 1, NIB_ERR_ARGUMENT,
                "%s: without_guard is %d, not 0 or 1", what, o->without_guard);
    return NIB_OK;
}

/* Whether the factor's order allows the scales. block: the format's or the group, at most k. */
static nib_status order_check(const char *what, const nib_gptq_factor *f, nib_gptq_scales scales,
                              const char *whose, int64_t block)
{
    const int fresh = scales == NIB_GPTQ_SCALES_FRESH || scales == NIB_GPTQ_SCALES_HESSIAN_FRESH;
    NIB_REQUIRE((unsigned)f->outcome <= NIB_GPTQ_NOT_DEFINITE
                    && (unsigned)f->order_kind <= NIB_GPTQ_GROUP_AWARE, NIB_ERR_ARGUMENT,
                "%s: factor was not made by nib_gptq_factor_make", what);
    NIB_REQUIRE(f->outcome != NIB_GPTQ_DONE || f->tries > 0 || f->k == 0, NIB_ERR_ARGUMENT,
                "%s: factor was not made by nib_gptq_factor_make", what);
    NIB_REQUIRE(!fresh || f->order_kind != NIB_GPTQ_ACT, NIB_ERR_UNSUPPORTED,
                "%s: fresh scales with act-order, which takes a block's inputs apart", what);
    NIB_REQUIRE(f->order_kind != NIB_GPTQ_GROUP_AWARE || f->block == block
                    || (f->block >= f->k && block >= f->k), NIB_ERR_UNSUPPORTED,
                "%s: the factor's order is for blocks of %d, the %s %lld", what, f->block, whose,
                (long long)block);
    return NIB_OK;
}

/* Hessian, factor, weights, options. */
static nib_status common_check(const char *what, const nib_hessian *h, const nib_gptq_factor *f,
                               const nib_matrix *w, const nib_gptq_options *o, nib_gptq_request *r)
{
    NIB_TRY(nib_hessian_valid(what, h));
    NIB_TRY(factor_check(what, h, f));
    NIB_TRY(nib_matrix_check(w, what, "w"));
    NIB_REQUIRE(w->cols == h->k, NIB_ERR_SHAPE, "%s: w has %lld columns, hessian %lld", what,
                (long long)w->cols, (long long)h->k);
    NIB_TRY(options_check(what, o));
    r->hessian = h;
    r->factor = f;
    r->w = w;
    r->scales = o->scales;
    r->guard = !o->without_guard;
    r->cancel = o->cancel;
    return NIB_OK;
}

static nib_status format_check(const char *what, const nib_gptq_options *o, const nib_packed *dst,
                               nib_gptq_request *r)
{
    NIB_TRY(nib_packed_check(dst, what, "dst"));
    NIB_TRY(nib_shape_check(what, r->w, dst));
    NIB_REQUIRE(o->quantize.rounding != NIB_ROUND_STOCHASTIC, NIB_ERR_UNSUPPORTED,
                "%s: stochastic rounding; only to nearest", what);
    NIB_REQUIRE(o->quantize.scale_rows != 16, NIB_ERR_UNSUPPORTED,
                "%s: scale_rows is 16; only scales of one row", what);
    NIB_TRY(order_check(what, r->factor, o->scales, "format has",
                        nib_format_block(dst->format)));
    r->dst = dst;
    return nib_request_make(what, &o->quantize, dst->format, &r->quantize);
}

static nib_status steps_check(const char *what, const nib_packed_steps *dst, nib_gptq_request *r)
{
    NIB_TRY(nib_packed_steps_check(what, "dst", dst));
    NIB_TRY(nib_packed_steps_size_check(what, r->w, "dst", dst));
    const int64_t k = r->w->cols, group = dst->group < k ? dst->group : k;
    NIB_REQUIRE(r->scales != NIB_GPTQ_SCALES_HESSIAN_FULL, NIB_ERR_UNSUPPORTED,
                "%s: all steps by the Hessian; only all scale bytes can be tried", what);
    NIB_REQUIRE(r->scales == NIB_GPTQ_SCALES_FROZEN || group <= MOST_CHOSEN, NIB_ERR_UNSUPPORTED,
                "%s: steps are chosen for groups of at most %d inputs, not %lld", what,
                (int)MOST_CHOSEN, (long long)group);
    NIB_TRY(order_check(what, r->factor, r->scales, "groups have", group));
    r->steps = dst;
    r->step = nib_packed_steps_request(dst, 0);
    return NIB_OK;
}

static nib_status plain_rounding(const nib_backend *ops, const nib_launch *launch,
                                 const nib_gptq_request *r)
{
    return r->steps ? ops->quantize_steps(launch, r->w, &r->step, r->steps)
                    : ops->quantize(launch, r->w, &r->quantize, r->dst);
}

/* The layer, given enough workspace. */
static nib_status quantize_layer(const char *what, const nib_backend *ops,
                                 const nib_launch *launch, const nib_gptq_request *r,
                                 nib_gptq_report *report)
{
    nib_gptq_sums sums = { .plain_rows = r->w->rows };
    const int done = r->factor->outcome == NIB_GPTQ_DONE;
    const double start = now();
    NIB_TRY(nib_dispatched(plain_rounding(ops, launch, r), what, ops, launch));
    const double rounded = now();
    if ((r->guard || !done) && r->factor->outcome != NIB_GPTQ_NO_TOKENS)
        NIB_TRY(nib_dispatched(ops->gptq_measure(launch, r, &sums), what, ops, launch));
    report->plain_error = report->error = sums.error;
    report->weight = sums.weight;
    const double measured = now();
    if (done) {
        NIB_TRY(nib_dispatched(ops->gptq_sweep(launch, r, &sums), what, ops, launch));
        report->error = sums.error;
    }
    report->plain_rows = sums.plain_rows;
    report->seconds_plain = rounded - start;
    report->seconds_measure = measured - rounded;
    report->seconds_sweep = now() - measured;
    return NIB_OK;
}

static nib_status report_check(const char *what, const nib_gptq_report *report)
{
    NIB_REQUIRE(!report || report->size >= REPORT_V1, NIB_ERR_ARGUMENT,
                "%s: report->size is %u, at least %d is needed", what, report ? report->size : 0,
                (int)REPORT_V1);
    return NIB_OK;
}

/* A request that was checked. */
static nib_status run(const char *what, const nib_backend *ops, const nib_launch *launch,
                      const nib_gptq_request *r, nib_gptq_report *report)
{
    const nib_matrix *const w = r->w;
    nib_gptq_report  made = { .size = sizeof made, .outcome = r->factor->outcome,
                              .rows = w->rows };
    nib_hessian_info info = { .size = sizeof info };
    int64_t at[2];
    if (w->rows && w->cols) {
        NIB_TRY(nib_room_check(what, launch,
                               ops->gptq_need(r->factor->real, w->rows, w->cols,
                                              r->steps ? r->step.group : 0, launch->threads)));
        NIB_TRY(nib_hessian_look(what, ops, launch, r->hessian, 0, &info));
        NIB_TRY(nib_dispatched(ops->find_nonfinite(launch, w, at), what, ops, launch));
        NIB_REQUIRE(at[0] < 0, NIB_ERR_NONFINITE, "%s: w is NaN or Inf in row %lld, column %lld",
                    what, (long long)at[0], (long long)at[1]);
        NIB_TRY(quantize_layer(what, ops, launch, r, &made));
    } else {
        if (!r->steps) NIB_TRY(nib_dispatched(plain_rounding(ops, launch, r), what, ops, launch));
        made.plain_rows = w->rows;
    }
    if (report) {
        made.size = report->size;
        *report = made;
    }
    return NIB_OK;
}

static const nib_gptq_options defaults = { .size = sizeof defaults,
                                           .quantize = { .size = sizeof defaults.quantize } };

nib_status nib_gptq_quantize(const nib_exec *exec, const nib_hessian *hessian,
                             const nib_gptq_factor *factor, const nib_matrix *w,
                             const nib_gptq_options *options, const nib_packed *dst,
                             nib_gptq_report *report)
{
    NIB_TRACE(.reads = w, .packs = dst);
    const char *what = "gptq_quantize";
    const nib_gptq_options *const o = options ? options : &defaults;
    nib_launch launch;
    const nib_backend *ops;
    nib_gptq_request request = { 0 };
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(common_check(what, hessian, factor, w, o, &request));
    NIB_TRY(format_check(what, o, dst, &request));
    NIB_TRY(report_check(what, report));
    NIB_NEED(ops, gptq_sweep, what);
    NIB_NEED(ops, find_nonfinite, what);
    NIB_LOG(exec, &launch, "gptq_quantize", .matrix = w, .packed = dst,
            .request = &request.quantize, .gptq = &request);
    return run(what, ops, &launch, &request, report);
}

nib_status nib_gptq_quantize_steps(const nib_exec *exec, const nib_hessian *hessian,
                                   const nib_gptq_factor *factor, const nib_matrix *w,
                                   const nib_gptq_options *options, const nib_packed_steps *dst,
                                   nib_gptq_report *report)
{
    NIB_TRACE(.reads = w);
    const char *what = "gptq_quantize_steps";
    nib_launch launch;
    const nib_backend *ops;
    nib_gptq_request request = { 0 };
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(common_check(what, hessian, factor, w, options ? options : &defaults, &request));
    NIB_TRY(steps_check(what, dst, &request));
    NIB_TRY(report_check(what, report));
    NIB_NEED(ops, gptq_sweep, what);
    NIB_NEED(ops, find_nonfinite, what);
    NIB_NEED(ops, quantize_steps, what);
    NIB_LOG(exec, &launch, what, .matrix = w, .gptq = &request);
    return run(what, ops, &launch, &request, report);
}
