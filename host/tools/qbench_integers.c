/* qbench_integers.c: the one place where GPTQ's rows tell a format from integers in groups: what is
 * written, by which call, and what it stands for. */
#include <math.h>

#include "qbench_gptq.h"

int nib_qb_is_integers(const nib_qb_case *c) { return c->op->axes >> NIB_QB_ELEMENT & 1; }

static nib_step_element element_of(const nib_qb_case *c)
{
    return (nib_step_element)(NIB_INT2 + c->value[NIB_QB_ELEMENT]);
}

static nib_packed_steps integers_of(const nib_qb_call *call)
{
    const int64_t *value = call->c->value;
    return (nib_packed_steps){
        .size = sizeof(nib_packed_steps), .element = element_of(call->c),
        .rows = value[NIB_QB_ROWS], .cols = value[NIB_QB_COLS], .group = value[NIB_QB_BLOCK],
        .codes = call->part[NIB_QB_CODES], .steps = call->part[NIB_QB_SCALES],
        .ld_codes_bytes = nib_step_codes_row_bytes(element_of(call->c), value[NIB_QB_COLS]),
    };
}

nib_status nib_qb_rounded_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (!nib_qb_is_integers(c)) return nib_qb_packed_layout(c, part);
    const int64_t rows = c->value[NIB_QB_ROWS], cols = c->value[NIB_QB_COLS];
    const int64_t steps = nib_step_count(rows, cols, c->value[NIB_QB_BLOCK]);
    part[NIB_QB_MATRIX].bytes = nib_qb_matrix_bytes(c);
    if (part[NIB_QB_MATRIX].bytes < 0 || steps < 0) return NIB_ERR_SHAPE;
    part[NIB_QB_CODES].bytes = rows * nib_step_codes_row_bytes(element_of(c), cols);
    part[NIB_QB_SCALES].bytes = steps * (int64_t)sizeof(float);
    return NIB_OK;
}

nib_status nib_qb_weights_fill(const nib_qb_call *call)
{
    return nib_qb_is_integers(call->c) ? nib_qb_fill_matrix(call) : nib_qb_quantize_fill(call);
}

size_t nib_qb_gptq_room(const nib_device *device, const nib_qb_case *c, int32_t threads)
{
    const nib_real real = (nib_real)c->value[NIB_QB_REAL];
    const int64_t rows = c->value[NIB_QB_ROWS], k = c->value[NIB_QB_COLS];
    return nib_qb_is_integers(c)
         ? nib_gptq_steps_workspace_bytes(device, real, rows, k, c->value[NIB_QB_BLOCK], threads)
         : nib_gptq_workspace_bytes(device, real, rows, k, threads);
}

static nib_status options_of(const nib_qb_call *call, nib_rules *rules, nib_gptq_options *o)
{
    const int64_t *value = call->c->value;
    *o = (nib_gptq_options){ .size = sizeof *o, .without_guard = !value[NIB_QB_GUARD],
                             .scales = (nib_gptq_scales)value[NIB_QB_GPTQ_SCALES] };
    return nib_qb_quantize_options(call, rules, &o->quantize);
}

nib_status nib_qb_gptq_solve(const nib_exec *exec, const nib_qb_call *call,
                             const nib_gptq_factor *factor, nib_gptq_report *report)
{
    nib_rules rules;
    nib_gptq_options o;
    const nib_hessian h = nib_qb_hessian_of(call->c, call->part[NIB_QB_HESSIAN]);
    const nib_matrix w = nib_qb_matrix_of(call);
    const nib_status status = options_of(call, &rules, &o);
    if (status != NIB_OK) return status;
    if (nib_qb_is_integers(call->c)) {
        const nib_packed_steps dst = integers_of(call);
        return nib_gptq_quantize_steps(exec, &h, factor, &w, &o, &dst, report);
    }
    const nib_packed dst = nib_qb_packed_of(call);
    return nib_gptq_quantize(exec, &h, factor, &w, &o, &dst, report);
}

nib_status nib_qb_plain_solve(const nib_exec *exec, const nib_qb_call *call)
{
    nib_rules rules;
    nib_gptq_options o;
    const nib_matrix w = nib_qb_matrix_of(call);
    const nib_status status = options_of(call, &rules, &o);
    if (status != NIB_OK) return status;
    if (nib_qb_is_integers(call->c)) {
        const nib_packed_steps dst = integers_of(call);
        return nib_quantize_steps(exec, &w, 0, &dst);
    }
    const nib_packed dst = nib_qb_packed_of(call);
    return nib_quantize(exec, &w, &o.quantize, &dst);
}

nib_status nib_qb_rounded_values(const nib_exec *exec, const nib_qb_call *call, float *values)
{
    const int64_t k = call->c->value[NIB_QB_COLS];
    const nib_matrix m = { values, NIB_F32, call->c->value[NIB_QB_ROWS], k, k };
    if (nib_qb_is_integers(call->c)) {
        const nib_packed_steps src = integers_of(call);
        return nib_dequantize_steps(exec, &src, &m);
    }
    const nib_packed src = nib_qb_packed_of(call);
    return nib_dequantize(exec, &src, &m);
}

nib_status nib_qb_rounded_distance(const nib_qb_call *got, const nib_qb_call *right, double *max)
{
    const int64_t n = got->c->value[NIB_QB_ROWS] * got->c->value[NIB_QB_COLS];
    float *x = nib_qb_map((size_t)n * sizeof *x, 1), *y = nib_qb_map((size_t)n * sizeof *y, 1);
    nib_status status = x && y ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    if (status == NIB_OK) status = nib_qb_rounded_values(right->exec, got, x);
    if (status == NIB_OK) status = nib_qb_rounded_values(right->exec, right, y);
    for (int64_t i = 0; i < n && status == NIB_OK; i++) {
        const double apart = fabs((double)x[i] - (double)y[i]);
        if (!(apart <= *max)) *max = isnan(apart) ? (double)INFINITY : apart;
    }
    nib_qb_unmap(x);
    nib_qb_unmap(y);
    return status;
}
