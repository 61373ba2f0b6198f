/* gemm.c: plans and products of gemm.h: checks and dispatch. */
#include <stdio.h>
#include <string.h>

#include "gemm_checks.h"
#include "trace.h"

enum {
    OPTIONS_V1 = sizeof(nib_gemm_options), PLAN_V1 = sizeof(nib_gemm_plan),
    ARGS_V1 = sizeof(nib_gemm_args)
};

/* ---- plans ---- */

/* Checks o, and copies it with its defaults. */
static nib_status options_make(const char *what, const nib_device *device,
                               const nib_gemm_options *o, nib_gemm_options *made)
{
    NIB_REQUIRE(device, NIB_ERR_ARGUMENT, "%s: device is NULL", what);
    NIB_REQUIRE(o, NIB_ERR_ARGUMENT, "%s: options is NULL", what);
    NIB_REQUIRE(o->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "%s: options->size is %u, at least %d is needed", what, o->size, (int)OPTIONS_V1);
    *made = *o;
    made->size = sizeof *made;
    NIB_REQUIRE((unsigned)o->layout <= NIB_GEMM_LAYOUT_SM100, NIB_ERR_ARGUMENT,
                "%s: options->layout %d is unknown", what, (int)o->layout);
    NIB_REQUIRE((unsigned)o->a_dtype <= NIB_BF16 && (unsigned)o->d_dtype <= NIB_BF16,
                NIB_ERR_ARGUMENT, "%s: options->%s %d is unknown", what,
                (unsigned)o->a_dtype <= NIB_BF16 ? "d_dtype" : "a_dtype",
                (int)((unsigned)o->a_dtype <= NIB_BF16 ? o->d_dtype : o->a_dtype));
    NIB_REQUIRE((unsigned)o->accumulate <= NIB_GEMM_ACCUMULATE_F16
                    && (unsigned)o->activations <= NIB_GEMM_ACTIVATIONS_INT8
                    && (unsigned)o->act <= NIB_GEMM_ACT_SILU, NIB_ERR_ARGUMENT,
                "%s: options->accumulate %d, activations %d or act %d is unknown", what,
                (int)o->accumulate, (int)o->activations, (int)o->act);
    for (int i = 0; i < 8; i++)
        NIB_REQUIRE(o->reserved[i] == 0, NIB_ERR_ARGUMENT, "%s: options->reserved is not 0", what);
    NIB_REQUIRE((unsigned)o->gated <= 1 && (unsigned)o->batch_invariant <= 1, NIB_ERR_ARGUMENT,
                "%s: options->gated is %d, batch_invariant %d; each is 0 or 1", what,
                (int)o->gated, (int)o->batch_invariant);
    NIB_REQUIRE(o->f16_chunk == 0 || o->f16_chunk == 64 || o->f16_chunk == 128
                    || o->f16_chunk == 256, NIB_ERR_ARGUMENT,
                "%s: options->f16_chunk is %d, not 64, 128 or 256", what, o->f16_chunk);
    NIB_TRY(nib_gemm_format_check(what, o->format));
    NIB_TRY(nib_gemm_shape_check(what, o->n, o->k, o->gated));
    NIB_REQUIRE(o->m_max >= 1 && o->m_max <= INT32_MAX, NIB_ERR_SHAPE,
                "%s: options->m_max is %lld, not 1 to %d", what, (long long)o->m_max, INT32_MAX);
    int64_t elements;
    NIB_REQUIRE(!__builtin_mul_overflow(o->n > o->k ? o->n : o->k, 4 * o->m_max, &elements),
                NIB_ERR_SHAPE, "%s: %lld rows of %lld numbers are over INT64_MAX bytes", what,
                (long long)o->m_max, (long long)(o->n > o->k ? o->n : o->k));
    if (made->layout == NIB_GEMM_LAYOUT_AUTO) made->layout = nib_gemm_own_layout(device);
    NIB_REQUIRE(o->f16_chunk <= 64 || nib_format_scale(o->format) == NIB_SCALE_E4M3,
                NIB_ERR_UNSUPPORTED, "%s: options->f16_chunk is %d; with E8M0 scales it is 64",
                what, o->f16_chunk);
    if (!made->f16_chunk) made->f16_chunk = 64;
    return NIB_OK;
}

static nib_status tactics_of(const char *what, const nib_device *device,
                             const nib_gemm_options *made, nib_gemm_tactic *all, int32_t *count)
{
    char why[NIB_WHY_BYTES] = "";
    NIB_NEED(device->ops, gemm_tactics, what);
    *count = device->ops->gemm_tactics(made, &device->info, all, why);
    NIB_REQUIRE(*count > 0, NIB_ERR_UNSUPPORTED, "%s: %s", what, why);
    return NIB_OK;
}

/* Whether the device has this tactic for any options at all. */
static int exists(const nib_device *device, const char *name)
{
    nib_gemm_tactic  all[NIB_GEMM_TACTICS];
    char             why[NIB_WHY_BYTES] = "";
    nib_gemm_options plain = { .size = sizeof plain, .layout = nib_gemm_own_layout(device),
                               .format = NIB_NVFP4, .n = 64, .k = 64, .m_max = 1,
                               .a_dtype = NIB_F16, .d_dtype = NIB_F16, .f16_chunk = 64 };
    for (int int8 = 0; int8 < 2; int8++) {
        plain.activations = (nib_gemm_activations)int8;
        const int32_t count = device->ops->gemm_tactics(&plain, &device->info, all, why);
        for (int32_t i = 0; i < count; i++)
            if (!strcmp(all[i].name, name)) return 1;
    }
    return 0;
}

/* One tactic by its name, for all rows. */
static nib_status named(const char *what, const nib_device *device, const nib_gemm_options *made,
                        const char *name, nib_gemm_plan *plan)
{
    nib_gemm_tactic all[NIB_GEMM_TACTICS];
    char    list[NIB_GEMM_TACTICS * 26] = "";
    int32_t count, at = 0;
    NIB_TRY(tactics_of(what, device, made, all, &count));
    for (int32_t i = 0; i < count; i++) {
        at += snprintf(list + at, sizeof list - (size_t)at, "%s%s", i ? ", " : "", all[i].name);
        if (strcmp(all[i].name, name) != 0) continue;
        NIB_REQUIRE(made->m_max >= all[i].m_low && made->m_max <= all[i].m_high,
                    NIB_ERR_UNSUPPORTED, "%s: tactic %s takes %lld to %lld rows; m_max is %lld",
                    what, name, (long long)all[i].m_low, (long long)all[i].m_high,
                    (long long)made->m_max);
        plan->count = 1;
        plan->tactic[0] = all[i];
        plan->tactic[0].m_low = 1;
        plan->tactic[0].m_high = made->m_max;
        plan->tactic[0].reason = "the options name it";
        return NIB_OK;
    }
    NIB_REQUIRE(!exists(device, name), NIB_ERR_UNSUPPORTED,
                "%s: tactic %s cannot hold these options; those that can: %s", what, name, list);
    return nib_fail(NIB_ERR_ARGUMENT, "%s: options->tactic is '%s'; there are %s", what, name,
                    list);
}

nib_status nib_gemm_plan_make(const nib_device *device, const nib_gemm_options *options,
                              nib_gemm_plan *plan)
{
    const char *what = "gemm_plan_make";
    char why[NIB_WHY_BYTES] = "";
    nib_gemm_options made;
    NIB_REQUIRE(plan, NIB_ERR_ARGUMENT, "%s: plan is NULL", what);
    NIB_REQUIRE(plan->size >= PLAN_V1, NIB_ERR_ARGUMENT,
                "%s: plan->size is %u, at least %d is needed", what, plan->size, (int)PLAN_V1);
    NIB_TRY(options_make(what, device, options, &made));
    const char *const name = made.tactic;
    made.tactic = NULL;
    nib_gemm_plan p = { .size = sizeof p, .device = device, .options = made };
    if (name) {
        NIB_TRY(named(what, device, &made, name, &p));
    } else {
        NIB_NEED(device->ops, gemm_plan, what);
        p.count = device->ops->gemm_plan(&made, &device->info, p.tactic, why);
        NIB_REQUIRE(p.count > 0, NIB_ERR_UNSUPPORTED, "%s: %s", what, why);
    }
    if (plan->size < sizeof p) p.size = plan->size; /* a caller of an older version */
    memcpy(plan, &p, p.size);
    return NIB_OK;
}

nib_status nib_gemm_tactic_at(const nib_device *device, const nib_gemm_options *options, int32_t i,
                              nib_gemm_tactic *tactic)
{
    const char *what = "gemm_tactic_at";
    nib_gemm_tactic all[NIB_GEMM_TACTICS];
    nib_gemm_options made;
    int32_t count;
    NIB_REQUIRE(tactic, NIB_ERR_ARGUMENT, "%s: tactic is NULL", what);
    NIB_TRY(options_make(what, device, options, &made));
    NIB_TRY(tactics_of(what, device, &made, all, &count));
    NIB_REQUIRE(i >= 0 && i < count, NIB_ERR_SHAPE, "%s: number %d of %d tactics", what, i, count);
    *tactic = all[i];
    return NIB_OK;
}

static nib_status plan_check(const char *what, const nib_gemm_plan *plan)
{
    NIB_REQUIRE(plan, NIB_ERR_ARGUMENT, "%s: plan is NULL", what);
    NIB_REQUIRE(plan->size >= PLAN_V1 && plan->device && plan->count >= 1
                    && plan->count <= NIB_GEMM_TACTICS, NIB_ERR_ARGUMENT,
                "%s: plan was not made by nib_gemm_plan_make", what);
    return NIB_OK;
}

/* The range of m >= 1. */
static const nib_gemm_tactic *range_of(const nib_gemm_plan *plan, int64_t m)
{
    int32_t i = 0;
    while (i + 1 < plan->count && m > plan->tactic[i].m_high) i++;
    return &plan->tactic[i];
}

/* Workspace of one tactic, and *splits of K. No columns need none. */
static size_t need_of(const nib_gemm_plan *plan, const nib_gemm_tactic *tactic, int64_t m,
                      int32_t *splits)
{
    *splits = 1;
    if (!plan->options.n) return 0;
    return plan->device->ops->gemm_need(&plan->options, &plan->device->info, tactic, m, splits);
}

nib_status nib_gemm_choice(const nib_gemm_plan *plan, int64_t m, nib_gemm_tactic *tactic)
{
    const char *what = "gemm_choice";
    NIB_TRY(plan_check(what, plan));
    NIB_REQUIRE(tactic, NIB_ERR_ARGUMENT, "%s: tactic is NULL", what);
    NIB_REQUIRE(m >= 0 && m <= plan->options.m_max, NIB_ERR_SHAPE,
                "%s: M is %lld, the plan is for 0 to %lld", what, (long long)m,
                (long long)plan->options.m_max);
    const int64_t rows = m ? m : 1;
    *tactic = *range_of(plan, rows);
    (void)need_of(plan, range_of(plan, rows), rows, &tactic->splits);
    return NIB_OK;
}

size_t nib_gemm_workspace_bytes(const nib_gemm_plan *plan, int64_t m)
{
    size_t most = 0;
    if (plan_check("gemm_workspace_bytes", plan) != NIB_OK || m < 0 || m > plan->options.m_max)
        return SIZE_MAX;
    for (int32_t i = 0; i < plan->count && plan->tactic[i].m_low <= m; i++) {
        const nib_gemm_tactic *t = &plan->tactic[i];
        int32_t splits;
        const size_t bytes = need_of(plan, t, m < t->m_high ? m : t->m_high, &splits);
        if (bytes > most) most = bytes;
    }
    return most;
}

size_t nib_gemm_backward_workspace_bytes(const nib_gemm_plan *plan, int64_t m)
{
    if (plan_check("gemm_backward_workspace_bytes", plan) != NIB_OK || m < 0
        || m > plan->options.m_max || !plan->device->ops->gemm_backward_need)
        return SIZE_MAX;
    if (m == 0 || plan->options.k == 0) return 0;
    return plan->device->ops->gemm_backward_need(&plan->options, &plan->device->info, m);
}

/* ---- products ---- */

/* A matrix of a product, cols wide, as the plan has it. */
static nib_status operand_check(const char *what, const char *name, const nib_matrix *m,
                                const nib_gemm_plan *plan, nib_dtype dtype, int64_t rows,
                                int64_t cols)
{
    NIB_TRY(nib_matrix_check(m, what, name));
    NIB_REQUIRE(m->rows == rows && m->cols == cols, NIB_ERR_SHAPE,
                "%s: %s is %lld x %lld, not %lld x %lld", what, name, (long long)m->rows,
                (long long)m->cols, (long long)rows, (long long)cols);
    NIB_REQUIRE(m->dtype == dtype, NIB_ERR_UNSUPPORTED, "%s: %s->dtype is %d, the plan's %d", what,
                name, (int)m->dtype, (int)dtype);
    if (plan->device->kind == NIB_BACKEND_CPU) return NIB_OK;
    const int64_t unit = dtype == NIB_F32 ? 4 : 8;
    NIB_TRY(nib_pointer_check(m->data, 16, what, name));
    NIB_REQUIRE(m->ld_elems % unit == 0 || rows < 2, NIB_ERR_ALIGNMENT,
                "%s: %s->ld_elems is %lld: rows are %lld bytes apart, no multiple of 16", what,
                name, (long long)m->ld_elems, (long long)(m->ld_elems * 16 / unit));
    return NIB_OK;
}

static nib_status fits_check(const char *what, const nib_gemm_plan *plan, const nib_gemm_weights *w)
{
    const nib_gemm_options *o = &plan->options;
    NIB_TRY(nib_gemm_weights_check(what, w));
    NIB_TRY(nib_gemm_buffers_check(what, w));
    NIB_REQUIRE(w->layout == o->layout && w->format == o->format && w->gated == o->gated,
                NIB_ERR_UNSUPPORTED, "%s: weights of layout %d, format %#x, gated %d; the plan is "
                "for layout %d, format %#x, gated %d", what, (int)w->layout, w->format, w->gated,
                (int)o->layout, o->format, o->gated);
    if (w->layout == NIB_GEMM_LAYOUT_SM100) /* loads of 32 bytes */
        NIB_TRY(nib_pointer_check(w->codes, 32, what, "w->codes"));
    NIB_REQUIRE(w->n == o->n && w->k == o->k, NIB_ERR_SHAPE,
                "%s: weights are %lld x %lld, the plan's %lld x %lld", what, (long long)w->n,
                (long long)w->k, (long long)o->n, (long long)o->k);
    return NIB_OK;
}

static nib_status args_check(const char *what, const nib_exec *exec, const nib_gemm_plan *plan,
                             const nib_gemm_args *args)
{
    NIB_TRY(plan_check(what, plan));
    NIB_REQUIRE(exec->device == plan->device, NIB_ERR_UNSUPPORTED,
                "%s: exec is of another device than the plan", what);
    NIB_REQUIRE(args && args->size >= ARGS_V1, NIB_ERR_ARGUMENT, "%s: args is NULL, or args->size "
                "is not at least %d", what, (int)ARGS_V1);
    NIB_REQUIRE(args->a && args->d, NIB_ERR_ARGUMENT, "%s: args->%s is NULL", what,
                args->a ? "d" : "a");
    NIB_TRY(nib_pointer_check(args->alpha, sizeof *args->alpha, what, "alpha"));
    NIB_TRY(fits_check(what, plan, args->w));
    NIB_REQUIRE(args->a->rows <= plan->options.m_max, NIB_ERR_SHAPE,
                "%s: a has %lld rows, the plan is for 0 to %lld", what, (long long)args->a->rows,
                (long long)plan->options.m_max);
    return NIB_OK;
}

static nib_status workspace_check(const char *what, const nib_launch *launch, size_t needed)
{
    const size_t given = launch->workspace ? launch->workspace_bytes : 0;
    NIB_REQUIRE(given >= needed, NIB_ERR_OUT_OF_MEMORY,
                "%s: the workspace has %zu bytes, %zu are needed", what, given, needed);
    return needed ? nib_pointer_check(launch->workspace, 256, what, "exec->workspace") : NIB_OK;
}

static nib_gemm_request request_of(const nib_gemm_plan *plan, const nib_gemm_args *args)
{
    return (nib_gemm_request){ .options = &plan->options, .a = args->a, .w = args->w, .d = args->d,
                               .alpha = args->alpha, .bias = args->bias,
                               .residual = args->residual };
}

/* What a line of qbench cannot say. */
static const char *note_of(const nib_gemm_args *args, const nib_gemm_options *o)
{
    const int ends = o->act != NIB_GEMM_ACT_NONE || args->bias || args->residual;
    return ends && o->batch_invariant ? "bias, activation or residual; batch invariant"
         : ends ? "bias, activation or residual" : o->batch_invariant ? "batch invariant" : NULL;
}

nib_status nib_gemm(const nib_exec *exec, const nib_gemm_plan *plan, const nib_gemm_args *args)
{
    NIB_TRACE(.reads = args ? args->a : NULL, .reads_too = args ? args->residual : NULL,
              .weights = args ? args->w : NULL, .writes = args ? args->d : NULL);
    const char *what = "gemm";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(args_check(what, exec, plan, args));
    const nib_gemm_options *o = &plan->options;
    const int64_t m = args->a->rows, columns = o->gated ? o->n / 2 : o->n;
    NIB_TRY(operand_check(what, "a", args->a, plan, o->a_dtype, m, o->k));
    NIB_TRY(operand_check(what, "d", args->d, plan, o->d_dtype, m, columns));
    if (args->residual)
        NIB_TRY(operand_check(what, "residual", args->residual, plan, o->d_dtype, m, columns));
    NIB_REQUIRE(!args->residual || args->residual->data != args->d->data
                    || args->residual->ld_elems == args->d->ld_elems || m < 2, NIB_ERR_ARGUMENT,
                "%s: residual lies in d's place, with ld_elems %lld, not %lld", what,
                (long long)args->residual->ld_elems, (long long)args->d->ld_elems);
    NIB_TRY(nib_pointer_check(args->bias, o->d_dtype == NIB_F32 ? 4 : 2, what, "bias"));
    NIB_NEED(ops, gemm, what);
    if (m == 0 || columns == 0) return NIB_OK;
    nib_gemm_request request = request_of(plan, args);
    const nib_gemm_tactic *t = range_of(plan, m);
    request.tactic = t->id;
    NIB_TRY(workspace_check(what, &launch, need_of(plan, t, m, &request.splits)));
    NIB_LOG(exec, &launch, what, .gemm = o, .rows = m, .note = note_of(args, o));
    return nib_dispatched(ops->gemm(&launch, &request), what, ops, &launch);
}

nib_status nib_gemm_backward(const nib_exec *exec, const nib_gemm_plan *plan,
                             const nib_gemm_args *args)
{
    NIB_TRACE(.reads = args ? args->a : NULL, .weights = args ? args->w : NULL,
              .writes = args ? args->d : NULL);
    const char *what = "gemm_backward";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(args_check(what, exec, plan, args));
    const nib_gemm_options *o = &plan->options;
    const int64_t m = args->a->rows;
    NIB_TRY(operand_check(what, "a", args->a, plan, o->a_dtype, m, o->n));
    NIB_TRY(operand_check(what, "d", args->d, plan, o->d_dtype, m, o->k));
    NIB_REQUIRE(!args->bias && !args->residual, NIB_ERR_ARGUMENT, "%s: args->%s is given", what,
                args->bias ? "bias" : "residual");
    NIB_NEED(ops, gemm_backward, what);
    if (m == 0 || o->k == 0) return NIB_OK;
    nib_gemm_request request = request_of(plan, args);
    request.splits = 1;
    NIB_TRY(workspace_check(what, &launch, ops->gemm_backward_need(o, &plan->device->info, m)));
    NIB_LOG(exec, &launch, what, .gemm = o, .rows = m);
    return nib_dispatched(ops->gemm_backward(&launch, &request), what, ops, &launch);
}
