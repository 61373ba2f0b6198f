/* checkpoint.c: the public calls on whole models: check, open, plan, run, commit. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/io/compare.h"
#include "host/io/convert.h"
#include "host/io/folder.h"
#include "host/io/guard.h"
#include "host/io/merge.h"
#include "host/io/report.h"
#include "internal.h"
#include "trace.h"

enum {
    OPTIONS_V1 = offsetof(nib_checkpoint_options, gptq),
    OPTIONS_V2 = offsetof(nib_checkpoint_options, policy),
    GPTQ_V1 = sizeof(nib_checkpoint_gptq),
    FACTOR_V1 = sizeof(nib_gptq_factor_options)
};

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static nib_status check_cpu(const nib_exec *exec, const char *what)
{
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_REQUIRE(nib_device_backend(exec->device) == NIB_BACKEND_CPU, NIB_ERR_UNSUPPORTED,
                "%s: weights are in host memory: open a CPU device", what);
    return NIB_OK;
}

static nib_status check_gptq(const nib_checkpoint_options *o, const char *what)
{
    const nib_checkpoint_gptq *g = o->gptq;
    NIB_REQUIRE(g->size >= GPTQ_V1, NIB_ERR_ARGUMENT,
                "%s: gptq->size is %u, at least %d is needed", what, g->size, (int)GPTQ_V1);
    NIB_REQUIRE(!g->hessians != !g->inputs, NIB_ERR_ARGUMENT,
                "%s: either gptq->hessians or gptq->inputs is needed", what);
    NIB_REQUIRE(!g->factor || g->factor->size >= FACTOR_V1, NIB_ERR_ARGUMENT,
                "%s: gptq->factor->size is %u, at least %d is needed", what, g->factor->size,
                (int)FACTOR_V1);
    NIB_REQUIRE((unsigned)g->scales <= NIB_GPTQ_SCALES_BY_FORMAT, NIB_ERR_ARGUMENT,
                "%s: unknown gptq->scales %d", what, (int)g->scales);
    NIB_REQUIRE(!g->factor || g->factor->order != NIB_GPTQ_ACT
                    || (g->scales != NIB_GPTQ_SCALES_FRESH
                        && g->scales != NIB_GPTQ_SCALES_HESSIAN_FRESH), NIB_ERR_UNSUPPORTED,
                "%s: fresh gptq->scales with act-order, which takes a block's inputs apart", what);
    NIB_REQUIRE(g->real_bits == 0 || g->real_bits == 32 || g->real_bits == 64, NIB_ERR_ARGUMENT,
                "%s: gptq->real_bits is %d, not 0, 32 or 64", what, g->real_bits);
    const int32_t r = g->rotate;
    NIB_REQUIRE(r == 0 || r == 16 || r == 32 || r == 64 || r == 128, NIB_ERR_ARGUMENT,
                "%s: gptq->rotate is %d, not 0, 16, 32, 64 or 128", what, r);
    NIB_REQUIRE(!r || g->all, NIB_ERR_ARGUMENT, "%s: gptq->rotate needs gptq->all", what);
    NIB_REQUIRE(o->rounding == NIB_ROUND_NEAREST, NIB_ERR_UNSUPPORTED,
                "%s: GPTQ rounds to nearest, not stochastically", what);
    NIB_REQUIRE((unsigned)g->all <= 1 && (unsigned)g->without_guard <= 1, NIB_ERR_ARGUMENT,
                "%s: gptq->all is %d, gptq->without_guard %d, not 0 or 1", what, g->all,
                g->without_guard);
    nib_gptq_factor_options factor = { .size = sizeof factor }, filled_in;
    if (g->factor) factor = *g->factor;
    factor.block = 16; /* each format's, when its factor is made */
    return nib_gptq_factor_options_make(what, &factor, INT64_MAX, &filled_in);
}

static nib_status check_flags(const nib_checkpoint_options *o, const char *what)
{
    const struct { const char *name; int32_t value; } flags[] = {
        { "force", o->force }, { "resume", o->resume }, { "dry_run", o->dry_run },
        { "counts", o->counts } };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        NIB_REQUIRE((unsigned)flags[i].value <= 1, NIB_ERR_ARGUMENT, "%s: %s is %d, not 0 or 1",
                    what, flags[i].name, flags[i].value);
    return NIB_OK;
}

static nib_status check_policy(const nib_checkpoint_options *o, const char *what)
{
    const char *also = o->rules ? "rules" : o->n_include ? "include"
                     : o->scale_choice != NIB_SCALE_AMAX ? "scale_choice" : NULL;
    NIB_REQUIRE(!also, NIB_ERR_ARGUMENT, "%s: %s and a policy, whose lines say that", what, also);
    return NIB_OK;
}

static nib_status check_options(const nib_checkpoint_options *o)
{
    const char *what = "checkpoint_quantize";
    NIB_TRY(check_flags(o, what));
    NIB_REQUIRE(nib_target_get(o->export_as), NIB_ERR_ARGUMENT, "%s: unknown export %d", what,
                (int)o->export_as);
    if (o->policy) NIB_TRY(check_policy(o, what));
    const int integers = !o->policy && nib_int_format_is_valid(o->format);
    NIB_REQUIRE(o->policy || integers || nib_format_is_valid(o->format), NIB_ERR_ARGUMENT,
                "%s: %#x is not a format", what, o->format);
    NIB_REQUIRE(!integers || !o->rules, NIB_ERR_UNSUPPORTED,
                "%s: rules, which are of blocks with scale bytes; integers have steps", what);
    NIB_REQUIRE(!integers || o->scale_choice == NIB_SCALE_AMAX, NIB_ERR_UNSUPPORTED,
                "%s: scale choice %s; integers have their steps from the range alone", what,
                nib_scale_choice_name(o->scale_choice));
    if (o->rules) NIB_TRY(nib_rules_check(o->rules, what));
    NIB_REQUIRE((unsigned)o->scale_choice <= NIB_SCALE_FOUR_OVER_SIX_MAE, NIB_ERR_ARGUMENT,
                "%s: unknown scale choice %d", what, (int)o->scale_choice);
    NIB_REQUIRE(o->scale_choice < NIB_SCALE_FOUR_OVER_SIX_MSE || integers
                    || nib_format_scale(o->format) == NIB_SCALE_E4M3,
                NIB_ERR_UNSUPPORTED, "%s: four-over-six needs E4M3 scales; MXFP4 has E8M0 ones",
                what);
    NIB_REQUIRE((unsigned)o->rounding <= NIB_ROUND_STOCHASTIC, NIB_ERR_ARGUMENT,
                "%s: unknown rounding %d", what, (int)o->rounding);
    NIB_REQUIRE((unsigned)o->nonfinite <= NIB_NONFINITE_GO_ON, NIB_ERR_ARGUMENT,
                "%s: unknown nonfinite policy %d", what, (int)o->nonfinite);
    NIB_REQUIRE((unsigned)o->keep_dtype <= NIB_BF16, NIB_ERR_ARGUMENT,
                "%s: unknown keep_dtype %d", what, (int)o->keep_dtype);
    const int whole = o->shard == 0 && o->shards == 0;
    NIB_REQUIRE(whole || (o->shard >= 1 && o->shard <= o->shards && o->shards <= 1000000),
                NIB_ERR_ARGUMENT, "%s: shard %d of %d", what, o->shard, o->shards);
    NIB_REQUIRE((o->include || !o->n_include) && (o->exclude || !o->n_exclude), NIB_ERR_ARGUMENT,
                "%s: patterns are NULL", what);
    for (size_t i = 0; i < o->n_include; i++)
        NIB_REQUIRE(o->include[i], NIB_ERR_ARGUMENT, "%s: include[%zu] is NULL", what, i);
    for (size_t i = 0; i < o->n_exclude; i++)
        NIB_REQUIRE(o->exclude[i], NIB_ERR_ARGUMENT, "%s: exclude[%zu] is NULL", what, i);
    return o->gptq ? check_gptq(o, what) : NIB_OK;
}

static nib_status planned_report(const nib_plan *plan, nib_checkpoint_report **out)
{
    nib_checkpoint_report *r = nib_report_new(plan->n_order);
    NIB_REQUIRE(r, NIB_ERR_OUT_OF_MEMORY, "no memory for a report of %zu tensors", plan->n_order);
    *out = r;
    for (size_t i = 0; i < plan->n_order; i++) {
        const nib_plan_item *item = &plan->items[plan->order[i]];
        uint64_t bytes = 0;
        char name[NIB_TYPE_NAME_BYTES];
        for (int role = 0; role < NIB_ROLES; role++)
            if (item->out[role] >= 0)
                bytes += (uint64_t)nib_tensor_spec_bytes(&plan->outs[item->out[role]].spec);
        const char *type = !item->quantize ? nib_tensor_type_get(item->stored)->name
                                         : nib_stored_type_name(item->way.format, name);
        NIB_TRY(nib_report_tensor(r, i, item->src, type, bytes, item->quantize));
        if (item->hessian.tensor) NIB_TRY(nib_report_gptq(r, i, &item->hessian));
    }
    return NIB_OK;
}

static nib_status write_output(const nib_exec *exec, const nib_model *model, const char *dst,
                               const nib_checkpoint_options *o, const nib_plan *plan,
                               nib_checkpoint_report *report)
{
    nib_output *out;
    NIB_TRY(nib_output_begin(dst, plan->target->is_folder, o->force, o->resume,
                             plan->fingerprint, &out));
    /* The small files first: what is wrong with one is said before the long work, not after. */
    nib_status status = plan->target->is_folder ? nib_folder_finish(model, o, plan, out) : NIB_OK;
    if (status == NIB_OK) status = nib_convert_run(exec, o, plan, out, report);
    const double start = seconds_now();
    if (status == NIB_OK) status = nib_output_commit(out);
    report->seconds_write += seconds_now() - start;
    if (status == NIB_OK) return NIB_OK;
    /* A stop or a full disk can be mended and the run resumed; a bad weight cannot. */
    nib_output_abort(out, status == NIB_ERR_CANCELLED || status == NIB_ERR_IO);
    return status;
}

nib_status nib_checkpoint_quantize(const nib_exec *exec, const char *src, const char *dst,
                                   const nib_checkpoint_options *options,
                                   nib_checkpoint_report **report)
{
    NIB_TRACE_NAME();
    if (report) *report = NULL;
    const double start = seconds_now();
    NIB_TRY(check_cpu(exec, "checkpoint_quantize"));
    NIB_REQUIRE(options, NIB_ERR_ARGUMENT, "checkpoint_quantize: options is NULL");
    NIB_REQUIRE(options->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "checkpoint_quantize: options->size is %u, at least %d is needed", options->size,
                (int)OPTIONS_V1);
    nib_checkpoint_options o = { .size = sizeof o };
    memcpy(&o, options, options->size >= sizeof o ? sizeof o
                      : options->size >= OPTIONS_V2 ? OPTIONS_V2 : OPTIONS_V1);
    NIB_TRY(check_options(&o));
    NIB_REQUIRE(src && (dst || o.dry_run), NIB_ERR_ARGUMENT,
                "checkpoint_quantize: src or dst is NULL");
    nib_model *model = NULL;
    nib_plan *plan = NULL;
    nib_checkpoint_report *made = NULL;
    nib_status status = nib_model_open(src, &model);
    if (status == NIB_OK && model->quant)
        status = nib_fail(NIB_ERR_UNSUPPORTED, "%s: its config.json says that it is quantized "
                          "already (%s); start from the original", src, model->quant);
    if (status == NIB_OK && dst) status = nib_guard_model(dst, model);
    if (status == NIB_OK && dst)
        status = nib_output_check(dst, nib_target_get(o.export_as)->is_folder, o.force);
    if (status == NIB_OK) status = nib_plan_make(model, &o, &plan);
    if (status == NIB_OK && dst) status = nib_guard_hessians(dst, &plan->hessians);
    if (status == NIB_OK) status = planned_report(plan, &made);
    if (status == NIB_OK && !o.dry_run) status = write_output(exec, model, dst, &o, plan, made);
    nib_plan_free(plan);
    nib_model_close(model);
    if (made) made->seconds = seconds_now() - start;
    if (status != NIB_OK || !report) nib_checkpoint_report_free(made);
    else *report = made;
    return status;
}

nib_status nib_checkpoint_merge(const char *const *parts, size_t n_parts, const char *dst,
                                int32_t force)
{
    NIB_TRACE_NAME();
    NIB_REQUIRE(parts && n_parts > 0 && dst, NIB_ERR_ARGUMENT,
                "checkpoint_merge: no parts, or dst is NULL");
    for (size_t i = 0; i < n_parts; i++)
        NIB_REQUIRE(parts[i], NIB_ERR_ARGUMENT, "checkpoint_merge: part %zu is NULL", i);
    return nib_merge_run(parts, n_parts, dst, force);
}

nib_status nib_checkpoint_info(const char *path, nib_checkpoint_report **report)
{
    NIB_TRACE_NAME();
    if (report) *report = NULL;
    NIB_REQUIRE(path && report, NIB_ERR_ARGUMENT, "checkpoint_info: path or report is NULL");
    nib_model *model;
    NIB_TRY(nib_model_open(path, &model));
    nib_checkpoint_report *r = nib_report_new(model->count);
    nib_status status = r ? NIB_OK : nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for a report");
    for (size_t i = 0; i < model->count && status == NIB_OK; i++) {
        const nib_logical *t = &model->tensors[i];
        const int blocks = t->storage != NIB_STORAGE_PLAIN
                        || nib_tensor_type_get(t->tensor->type)->block > 1;
        status = nib_report_tensor(r, i, t, NULL, t->bytes, blocks);
        if (status == NIB_OK) r->tensors[i].tensor_scale = t->tensor_scale;
    }
    nib_model_close(model);
    if (status != NIB_OK) nib_checkpoint_report_free(r);
    else *report = r;
    return status;
}

nib_status nib_checkpoint_compare(const nib_exec *exec, const char *a, const char *b,
                                  const nib_checkpoint_options *options,
                                  nib_checkpoint_report **report)
{
    NIB_TRACE_NAME();
    if (report) *report = NULL;
    NIB_REQUIRE(a && b && report, NIB_ERR_ARGUMENT, "checkpoint_compare: a NULL argument");
    NIB_TRY(check_cpu(exec, "checkpoint_compare"));
    NIB_REQUIRE(!options || options->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "checkpoint_compare: options->size is %u, at least %d is needed", options->size,
                (int)OPTIONS_V1);
    const double start = seconds_now();
    nib_model *model_a = NULL, *model_b = NULL;
    nib_status status = nib_model_open(a, &model_a);
    if (status == NIB_OK) status = nib_model_open(b, &model_b);
    if (status == NIB_OK) status = nib_compare_run(exec, model_a, model_b, options, report);
    nib_model_close(model_a);
    nib_model_close(model_b);
    if (status == NIB_OK) (*report)->seconds = seconds_now() - start;
    return status;
}
