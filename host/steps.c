/* steps.c: checks, defaults and dispatch of steps.h. No arithmetic lives here. */
#include "dispatch.h"
#include "trace.h"

#include <math.h>

enum { OPTIONS_V1 = sizeof(nib_step_options), UNIT = 8, PIECE = 1024, CHECKED_AT_ONCE = 4096 };

static int64_t ceil_div(int64_t n, int64_t by) { return n / by + (n % by != 0); }

static int is_integer(nib_step_element e) { return e >= NIB_INT2 && e <= NIB_INT8; }

static int is_group(int64_t group, int64_t cols)
{
    return group >= 0 && (group % UNIT == 0 || group >= cols);
}

static nib_status exactly(const char *what, const char *name, int given, int wanted,
                          const char *when)
{
    NIB_REQUIRE(given == wanted, NIB_ERR_ARGUMENT, "%s: options->%s is %s; it goes with %s", what,
                name, given ? "given" : "NULL", when);
    return NIB_OK;
}

static nib_status parts_check(const char *what, const nib_step_options *o)
{
    NIB_REQUIRE(is_integer(o->element) || (unsigned)o->element <= NIB_STEP_E5M2, NIB_ERR_ARGUMENT,
                "%s: unknown element %d", what, (int)o->element);
    NIB_REQUIRE((unsigned)o->step_rule <= NIB_STEP_F16, NIB_ERR_ARGUMENT,
                "%s: unknown step rule %d", what, (int)o->step_rule);
    NIB_REQUIRE((unsigned)o->gradient <= NIB_FAKE_CLAMP, NIB_ERR_ARGUMENT,
                "%s: unknown gradient %d", what, (int)o->gradient);
    NIB_REQUIRE(o->asymmetric == 0 || (o->asymmetric == 1 && is_integer(o->element)),
                NIB_ERR_ARGUMENT, "%s: asymmetric is %d, for element %d; it is 0 or, for integers, "
                "1", what, o->asymmetric, (int)o->element);
    NIB_TRY(exactly(what, "zeros", o->zeros != NULL, o->asymmetric && o->steps,
                    "asymmetric and given steps"));
    NIB_TRY(exactly(what, "range", o->range != NULL, !o->group && !o->steps,
                    "the dynamic step of a whole matrix"));
    NIB_TRY(exactly(what, "tensor_scale", o->tensor_scale != NULL,
                    o->step_rule == NIB_STEP_E4M3_BYTE, "NIB_STEP_E4M3_BYTE"));
    NIB_REQUIRE(!o->zeros_out || o->asymmetric, NIB_ERR_ARGUMENT,
                "%s: zeros_out is given, but asymmetric is 0", what);
    NIB_REQUIRE(isfinite(o->grad_factor), NIB_ERR_ARGUMENT, "%s: grad_factor is %g", what,
                (double)o->grad_factor);
    NIB_TRY(nib_pointer_check(o->steps, sizeof(float), what, "options->steps"));
    NIB_TRY(nib_pointer_check(o->range, sizeof(float), what, "options->range"));
    NIB_TRY(nib_pointer_check(o->tensor_scale, sizeof(float), what, "options->tensor_scale"));
    return nib_pointer_check(o->steps_out, sizeof(float), what, "options->steps_out");
}

/* Checks o, for matrices of m's size, and fills in every default. */
static nib_status request_make(const char *what, const nib_step_options *o, const nib_matrix *m,
                               nib_step_request *request)
{
    NIB_REQUIRE(o, NIB_ERR_ARGUMENT, "%s: options is NULL", what);
    NIB_REQUIRE(o->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "%s: options->size is %u, at least %d is needed", what, o->size, (int)OPTIONS_V1);
    NIB_TRY(parts_check(what, o));
    NIB_REQUIRE(is_group(o->group, m->cols), NIB_ERR_SHAPE,
                "%s: options->group %lld is neither 0 nor a multiple of %d nor >= %lld columns",
                what, (long long)o->group, UNIT, (long long)m->cols);
    NIB_TRY(nib_mask_check(o->mask, o->ld_mask_bytes, m, what));
    const int along = o->group == 0 || o->group >= m->cols; /* one group a row, or fewer */
    *request = (nib_step_request){
        .element = o->element, .asymmetric = o->asymmetric, .rule = o->step_rule,
        .gradient = o->gradient, .whole = o->group == 0,
        .group = along ? ceil_div(m->cols, UNIT) * UNIT : o->group,
        .steps = o->steps, .zeros = o->zeros, .range = o->range, .tensor_scale = o->tensor_scale,
        .steps_out = o->steps_out, .zeros_out = o->zeros_out, .mask = o->mask,
        .ld_mask_bytes = o->ld_mask_bytes, .grad_factor = o->grad_factor,
    };
    return NIB_OK;
}

/* qbench's operation. */
static const char *bench_op(const nib_step_request *r, int64_t cols)
{
    if (r->steps) return "fake_quantize_steps_given";
    return r->element == NIB_INT8 && r->group >= cols && !r->whole ? "fake_quantize_steps_rows"
                                                                   : "fake_quantize_steps";
}

nib_status nib_fake_quantize_steps(const nib_exec *exec, const nib_matrix *src,
                                   const nib_step_options *options, const nib_matrix *dst)
{
    NIB_TRACE(.reads = src, .writes = dst);
    const char *what = "fake_quantize_steps";
    nib_launch launch;
    const nib_backend *ops;
    nib_step_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_pair_check(what, "src", src, "dst", dst));
    NIB_TRY(request_make(what, options, src, &request));
    NIB_NEED(ops, fake_quantize_steps, what);
    NIB_LOG(exec, &launch, bench_op(&request, src->cols), .matrix = src, .fake_steps = &request,
            .note = request.whole ? "one step" : NULL);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->fake_quantize_steps(&launch, src, &request, dst), what, ops,
                          &launch);
}

int64_t nib_steps_workspace_bytes(int64_t rows, int64_t cols, int64_t group)
{
    if (rows < 0 || cols < 0 || !is_group(group, cols)) return -1;
    if (rows == 0 || cols == 0) return 0;
    const int64_t along = group && group < cols ? group : cols;
    const int64_t pieces = ceil_div(along, PIECE);
    int64_t all;
    if (__builtin_mul_overflow(ceil_div(cols, along), pieces, &all)
        || __builtin_mul_overflow(all, rows, &all)) return -1;
    if ((group ? pieces : all) <= 1) return 0;
    return __builtin_mul_overflow(all, (int64_t)sizeof(float), &all) ? -1 : all;
}

static nib_status workspace_check(const char *what, const nib_launch *launch,
                                  const nib_matrix *m, int64_t group)
{
    const int64_t needed = nib_steps_workspace_bytes(m->rows, m->cols, group);
    NIB_REQUIRE(needed >= 0, NIB_ERR_SHAPE, "%s: the workspace is over INT64_MAX bytes", what);
    if (needed == 0) return NIB_OK;
    NIB_REQUIRE(launch->workspace && launch->workspace_bytes >= (uint64_t)needed, NIB_ERR_ARGUMENT,
                "%s: exec->workspace %p has %zu bytes, %lld are needed", what, launch->workspace,
                launch->workspace_bytes, (long long)needed);
    return nib_pointer_check(launch->workspace, sizeof(float), what, "exec->workspace");
}

/* Straight through, or by a mask: steps have no part in it. */
static nib_status pass_on(const nib_launch *launch, const nib_backend *ops, const char *what,
                          const nib_matrix *grad_out, const nib_step_request *steps,
                          const nib_matrix *grad_in)
{
    nib_fake_request request = { .format = NIB_MXFP4, .gradient = steps->gradient,
                                 .mask = steps->mask, .ld_mask_bytes = steps->ld_mask_bytes };
    NIB_NEED(ops, fake_quantize_backward, what);
    NIB_TRY(nib_rules_fill(NIB_RULES_TE, request.format, &request.quantize.rules));
    return nib_dispatched(ops->fake_quantize_backward(launch, grad_out, NULL, &request, grad_in),
                          what, ops, launch);
}

nib_status nib_fake_quantize_steps_backward(const nib_exec *exec, const nib_matrix *grad_out,
                                            const nib_matrix *src,
                                            const nib_step_options *options,
                                            const nib_matrix *grad_in, float *grad_steps)
{
    NIB_TRACE(.reads = grad_out, .reads_too = src, .writes = grad_in);
    const char *what = "fake_quantize_steps_backward";
    nib_launch launch;
    const nib_backend *ops;
    nib_step_request request;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_pair_check(what, "grad_out", grad_out, "grad_in", grad_in));
    NIB_TRY(request_make(what, options, grad_out, &request));
    if (src) {
        NIB_TRY(nib_matrix_check(src, what, "src"));
        NIB_TRY(nib_same_size_check(what, "src", grad_out, src));
    }
    const int identity = request.gradient == NIB_FAKE_IDENTITY;
    const int reads_src = grad_steps || (!identity && !request.mask);
    NIB_REQUIRE(src || !reads_src, NIB_ERR_ARGUMENT, "%s: src is NULL, and %s", what,
                grad_steps ? "grad_steps follow from it"
                           : "there is no mask to tell what was clamped");
    NIB_REQUIRE(!grad_steps || request.steps, NIB_ERR_ARGUMENT,
                "%s: grad_steps of dynamic steps: only given ones are learned", what);
    NIB_TRY(nib_pointer_check(grad_steps, sizeof(float), what, "grad_steps"));
    if (grad_steps) NIB_TRY(workspace_check(what, &launch, grad_out, options->group));
    NIB_NEED(ops, fake_quantize_steps_backward, what);
    NIB_LOG(exec, &launch, what, .matrix = grad_out, .fake_steps = &request,
            .note = grad_steps ? NULL
                    : identity ? "identity" : request.mask ? "by a mask" : "not of the steps");
    if (grad_out->rows == 0 || grad_out->cols == 0) return NIB_OK;
    if (identity && !grad_steps && grad_out->data == grad_in->data) return NIB_OK;
    if (!reads_src) return pass_on(&launch, ops, what, grad_out, &request, grad_in);
    request.grad_steps = grad_steps;
    return nib_dispatched(ops->fake_quantize_steps_backward(&launch, grad_out, src, &request,
                                                            grad_in), what, ops, &launch);
}

nib_status nib_steps_check(const nib_exec *exec, const float *steps, int64_t n, int64_t *bad)
{
    NIB_TRACE_NAME();
    const char *what = "steps_check";
    float part[CHECKED_AT_ONCE];
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_REQUIRE(n >= 0 && n <= INT64_MAX / 4, NIB_ERR_SHAPE, "%s: n is %lld", what, (long long)n);
    NIB_REQUIRE(steps || n == 0, NIB_ERR_ARGUMENT, "%s: steps is NULL", what);
    NIB_TRY(nib_pointer_check(steps, sizeof(float), what, "steps"));
    const nib_runtime_ops *runtime = nib_device_runtime(exec->device);
    if (bad) *bad = -1;
    for (int64_t i = 0; i < n; i += CHECKED_AT_ONCE) {
        const int64_t count = n - i < CHECKED_AT_ONCE ? n - i : CHECKED_AT_ONCE;
        NIB_TRY(nib_dispatched(runtime->copy(launch.ordinal, launch.stream, part, steps + i,
                                             (size_t)count * sizeof(float), launch.why),
                               what, ops, &launch));
        const int64_t at = nib_scalar_cpu.bad_step(part, count);
        if (at == count) continue;
        if (bad) *bad = i + at;
        return nib_fail(NIB_ERR_NONFINITE, "%s: step %lld of %lld is %g, not finite and > 0", what,
                        (long long)(i + at), (long long)n, (double)part[at]);
    }
    return NIB_OK;
}
