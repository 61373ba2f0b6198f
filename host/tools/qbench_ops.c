/* qbench_ops.c: the list of operations, and those of quantize.h. A new one is an entry such as
 * these, and its line in the list. */
#include <math.h>
#include <string.h>

#include "qbench_ops.h"

/* ---- quantize ---- */

static nib_status quantize_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (nib_qb_packed_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX].role = NIB_QB_IN;
    part[NIB_QB_CODES].role = part[NIB_QB_SCALES].role = NIB_QB_OUT;
    part[NIB_QB_TENSOR].role = NIB_QB_IN;
    if (c->value[NIB_QB_ROUNDING] == NIB_ROUND_STOCHASTIC)
        part[NIB_QB_RANDOM] = (nib_qb_part){ 2 * sizeof(uint64_t), NIB_QB_IN };
    return NIB_OK;
}

static nib_status dynamic_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (quantize_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_TENSOR].role = NIB_QB_OUT;
    part[NIB_QB_AMAX] = (nib_qb_part){ c->value[NIB_QB_BATCH] * (int64_t)sizeof(float),
                                       NIB_QB_OUT };
    return NIB_OK;
}

nib_status nib_qb_quantize_fill(const nib_qb_call *call)
{
    const int64_t *value = call->c->value;
    const nib_format format = (nib_format)value[NIB_QB_FORMAT];
    const nib_batch batch = nib_qb_batch_of(call->c);
    nib_matrix m = nib_qb_matrix_of(call);
    nib_rules rules;
    nib_status status = nib_rules_fill((nib_rules_preset)value[NIB_QB_RULES], format, &rules);
    nib_qb_fill_matrix(call);
    if (call->part[NIB_QB_RANDOM])
        memcpy(call->part[NIB_QB_RANDOM], (uint64_t[2]){ 20240229, 7 }, 2 * sizeof(uint64_t));
    if (!nib_format_has_tensor_scale(format)) return status;
    const int64_t bytes = nib_qb_matrix_bytes(call->c) / batch.count;
    for (int64_t i = 0; i < batch.count && status == NIB_OK; i++) {
        float amax, encode;
        status = nib_amax(call->exec, &m, &amax, NULL);
        m.data = (uint8_t *)m.data + bytes;
        if (status != NIB_OK) break;
        status = nib_tensor_scale(format, &rules, (nib_scale_choice)value[NIB_QB_CHOICE], m.dtype,
                                  amax, &encode, (float *)call->part[NIB_QB_TENSOR] + i);
    }
    return status;
}

nib_status nib_qb_quantize_options(const nib_qb_call *call, nib_rules *rules,
                                   nib_quantize_options *o)
{
    const int64_t *value = call->c->value;
    *o = (nib_quantize_options){
        .size = sizeof *o,
        .scale_choice = (nib_scale_choice)value[NIB_QB_CHOICE],
        .rounding = (nib_rounding)value[NIB_QB_ROUNDING],
        .rules = rules,
        .random = call->part[NIB_QB_RANDOM],
        .scale_rows = value[NIB_QB_SCALE_ROWS] ? 16 : 1,
    };
    return nib_rules_fill((nib_rules_preset)value[NIB_QB_RULES],
                          (nib_format)value[NIB_QB_FORMAT], rules);
}

static nib_status quantize_with(const nib_qb_call *call, const float *tensor_amax)
{
    nib_rules rules;
    nib_quantize_options options;
    const nib_status status = nib_qb_quantize_options(call, &rules, &options);
    if (status != NIB_OK) return status;
    const nib_batch batch = nib_qb_batch_of(call->c);
    const nib_matrix src = nib_qb_matrix_of(call);
    const nib_packed dst = nib_qb_packed_of(call);
    options.tensor_amax = tensor_amax;
    return batch.count == 1 ? nib_quantize(call->exec, &src, &options, &dst)
                            : nib_quantize_batch(call->exec, &batch, &src, &options, &dst);
}

static nib_status quantize_run(const nib_qb_call *call) { return quantize_with(call, NULL); }

static nib_status amax_run(const nib_qb_call *call)
{
    const nib_batch batch = nib_qb_batch_of(call->c);
    const nib_matrix src = nib_qb_matrix_of(call);
    float *amax = call->part[NIB_QB_AMAX];
    return batch.count == 1 ? nib_amax(call->exec, &src, amax, NULL)
                            : nib_amax_batch(call->exec, &batch, &src, amax, NULL);
}

static nib_status quantize_amax_run(const nib_qb_call *call)
{
    const nib_status status = amax_run(call);
    return status == NIB_OK ? quantize_with(call, call->part[NIB_QB_AMAX]) : status;
}

static nib_status dynamic_run(const nib_qb_call *call)
{
    nib_rules rules;
    nib_quantize_options options;
    const nib_status status = nib_qb_quantize_options(call, &rules, &options);
    if (status != NIB_OK) return status;
    const nib_batch batch = nib_qb_batch_of(call->c);
    const nib_matrix src = nib_qb_matrix_of(call);
    const nib_packed dst = nib_qb_packed_of(call);
    return nib_quantize_dynamic(call->exec, batch.count == 1 ? NULL : &batch, &src, &options, &dst,
                                call->part[NIB_QB_AMAX]);
}

static nib_status dynamic_distance(const nib_qb_call *got, const nib_qb_call *right, double *max)
{
    nib_qb_amax_distance(got, right, max);
    return nib_qb_packed_distance(got, right, max);
}

static const nib_qb_op quantize = {
    .name = "quantize", .help = "matrix to codes and scales, tensor scale given; source bytes",
    .axes = QUANTIZE_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = quantize_layout, .fill = nib_qb_quantize_fill,
    .run = quantize_run, .distance = nib_qb_packed_distance,
};
static const nib_qb_op quantize_amax = {
    .name = "quantize_amax", .help = "amax, then quantize by it: two calls; source bytes, once",
    .axes = QUANTIZE_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = dynamic_layout, .fill = nib_qb_quantize_fill,
    .run = quantize_amax_run, .distance = dynamic_distance,
};
static const nib_qb_op quantize_dynamic = {
    .name = "quantize_dynamic", .help = "both in one call; source bytes, once",
    .axes = QUANTIZE_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = dynamic_layout, .fill = nib_qb_quantize_fill,
    .run = dynamic_run, .distance = dynamic_distance,
};

/* ---- quantize by given scales ---- */

static nib_status given_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (quantize_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_SCALES].role = NIB_QB_WEIGHT;
    return NIB_OK;
}

/* The scales that quantizing the source gives. */
static nib_status given_fill(const nib_qb_call *call)
{
    nib_status status = nib_qb_quantize_fill(call);
    if (status == NIB_OK) status = quantize_run(call);
    const nib_packed dst = nib_qb_packed_of(call);
    memset(dst.codes, 0xa5, (size_t)(dst.rows * dst.ld_codes_bytes));
    return status;
}

static nib_status given_run(const nib_qb_call *call)
{
    nib_rules rules;
    nib_quantize_options options;
    const nib_status status = nib_qb_quantize_options(call, &rules, &options);
    const nib_matrix src = nib_qb_matrix_of(call);
    const nib_packed dst = nib_qb_packed_of(call);
    return status == NIB_OK ? nib_quantize_given(call->exec, &src, &options, &dst) : status;
}

static const nib_qb_op quantize_given = {
    .name = "quantize_given", .help = "matrix to codes by given block scales; source bytes",
    .axes = QUANTIZE_AXES & ~(NIB_QB_AXIS(BATCH) | NIB_QB_AXIS(SCALE_ROWS)),
    .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = given_layout, .fill = given_fill, .run = given_run,
    .distance = nib_qb_packed_distance,
};

/* ---- dequantize ---- */

static nib_status dequantize_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (nib_qb_packed_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX].role = NIB_QB_OUT;
    part[NIB_QB_CODES].role = part[NIB_QB_SCALES].role = part[NIB_QB_TENSOR].role = NIB_QB_WEIGHT;
    return NIB_OK;
}

static nib_status dequantize_fill(const nib_qb_call *call)
{
    nib_status status = nib_qb_quantize_fill(call);
    if (status == NIB_OK) status = quantize_with(call, NULL);
    memset(call->part[NIB_QB_MATRIX], 0xa5, (size_t)nib_qb_matrix_bytes(call->c));
    return status;
}

static nib_status dequantize_run(const nib_qb_call *call)
{
    const nib_batch batch = nib_qb_batch_of(call->c);
    const nib_packed src = nib_qb_packed_of(call);
    const nib_matrix dst = nib_qb_matrix_of(call);
    return batch.count == 1 ? nib_dequantize(call->exec, &src, &dst)
                            : nib_dequantize_batch(call->exec, &batch, &src, &dst);
}

static const nib_qb_op dequantize = {
    .name = "dequantize", .help = "codes and scales to matrix; bytes written",
    .axes = QUANTIZED_AXES, .limit = &nib_qb_limit_fill,
    .baseline = { &nib_qb_baseline_copy }, .bytes = nib_qb_matrix_bytes,
    .layout = dequantize_layout, .fill = dequantize_fill, .run = dequantize_run,
    .distance = nib_qb_matrix_distance,
};

/* ---- amax ---- */

static nib_status amax_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    part[NIB_QB_AMAX] = (nib_qb_part){ c->value[NIB_QB_BATCH] * (int64_t)sizeof(float),
                                       NIB_QB_OUT };
    return part[NIB_QB_MATRIX].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status amax_rows_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    if (part[NIB_QB_MATRIX].bytes < 0) return NIB_ERR_SHAPE;
    part[NIB_QB_AMAX] = (nib_qb_part){ c->value[NIB_QB_ROWS] * (int64_t)sizeof(float), NIB_QB_OUT };
    return NIB_OK;
}

static nib_status amax_rows_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call);
    return nib_amax_rows(call->exec, &src, call->part[NIB_QB_AMAX]);
}

static const nib_qb_op amax = {
    .name = "amax", .help = "largest magnitude of a matrix; source bytes",
    .axes = MATRIX_AXES | NIB_QB_AXIS(BATCH), .limit = &nib_qb_limit_read,
    .baseline = { &nib_qb_baseline_copy }, .bytes = nib_qb_matrix_bytes, .layout = amax_layout,
    .fill = nib_qb_fill_matrix, .run = amax_run, .distance = nib_qb_amax_distance,
};
static const nib_qb_op amax_rows = {
    .name = "amax_rows", .help = "largest magnitude of each row; source bytes",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = amax_rows_layout, .fill = nib_qb_fill_matrix,
    .run = amax_rows_run, .distance = nib_qb_amax_distance,
};

/* ---- scale layouts ---- */

/* To the layout that the axis names, from the other. Rows and columns are the scales'. */
static int64_t relayout_bytes(const nib_qb_case *c)
{
    int64_t bytes;
    return __builtin_mul_overflow(c->value[NIB_QB_ROWS], c->value[NIB_QB_COLS], &bytes) ? -1
                                                                                        : bytes;
}

static int64_t layout_bytes(const nib_qb_case *c, nib_scale_layout layout)
{
    if (layout == NIB_SCALES_LINEAR) return relayout_bytes(c);
    /* 16 columns of NVFP4 share a scale: so many scales in a row. */
    const int64_t cols = c->value[NIB_QB_COLS];
    return cols > INT64_MAX / 16 ? -1 : nib_scales_bytes(NIB_NVFP4, layout, c->value[NIB_QB_ROWS],
                                                         cols * 16);
}

static nib_scale_layout other(nib_scale_layout layout)
{
    return layout == NIB_SCALES_LINEAR ? NIB_SCALES_SWIZZLED_128X4 : NIB_SCALES_LINEAR;
}

static nib_status relayout_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const nib_scale_layout to = (nib_scale_layout)c->value[NIB_QB_LAYOUT];
    part[NIB_QB_OTHER] = (nib_qb_part){ layout_bytes(c, other(to)), NIB_QB_IN };
    part[NIB_QB_SCALES] = (nib_qb_part){ layout_bytes(c, to), NIB_QB_OUT };
    return part[NIB_QB_OTHER].bytes < 0 || part[NIB_QB_SCALES].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status relayout_fill(const nib_qb_call *call)
{
    const nib_scale_layout from = other((nib_scale_layout)call->c->value[NIB_QB_LAYOUT]);
    uint8_t *scales = call->part[NIB_QB_OTHER];
    for (int64_t i = 0, n = layout_bytes(call->c, from); i < n; i++)
        scales[i] = (uint8_t)(i * 131 >> 3);
    return NIB_OK;
}

static nib_status relayout_run(const nib_qb_call *call)
{
    const int64_t *value = call->c->value;
    const nib_scale_layout to = (nib_scale_layout)value[NIB_QB_LAYOUT];
    return nib_relayout_scales(call->exec, value[NIB_QB_ROWS], value[NIB_QB_COLS], other(to),
                               call->part[NIB_QB_OTHER], to, call->part[NIB_QB_SCALES]);
}

static const nib_qb_op relayout = {
    .name = "relayout", .help = "rows x cols scales to --layout from the other; scales copied",
    .axes = (MATRIX_AXES & ~NIB_QB_AXIS(DTYPE)) | NIB_QB_AXIS(LAYOUT), .limit = &nib_qb_limit_copy,
    .bytes = relayout_bytes, .layout = relayout_layout, .fill = relayout_fill,
    .run = relayout_run,
};

/* ---- statistics ---- */

static nib_status stats_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (nib_qb_packed_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX].role = part[NIB_QB_CODES].role = NIB_QB_IN;
    part[NIB_QB_SCALES].role = part[NIB_QB_TENSOR].role = NIB_QB_IN;
    part[NIB_QB_REPORT] = (nib_qb_part){ sizeof(nib_quantize_report), NIB_QB_OUT_HOST };
    return NIB_OK;
}

static nib_status stats_fill(const nib_qb_call *call)
{
    const nib_status status = nib_qb_quantize_fill(call);
    return status == NIB_OK ? quantize_with(call, NULL) : status;
}

static nib_status stats_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call);
    const nib_packed packed = nib_qb_packed_of(call);
    nib_quantize_report *report = call->part[NIB_QB_REPORT];
    *report = (nib_quantize_report){ .size = sizeof *report };
    return nib_quantize_stats(call->exec, &src, &packed, report);
}

/* Sums may be added in another order (quantize.h): all else is exact. */
static nib_status stats_compare(const nib_qb_call *got, const nib_qb_call *right,
                                nib_qb_verdict *verdict)
{
    nib_quantize_report a, b;
    memcpy(&a, got->part[NIB_QB_REPORT], sizeof a);
    memcpy(&b, right->part[NIB_QB_REPORT], sizeof b);
    const int sums = fabs(a.sum_sq_error - b.sum_sq_error) <= 2e-6 * b.sum_sq_error
                  && fabs(a.sum_sq - b.sum_sq) <= 2e-6 * b.sum_sq;
    a.sum_sq_error = b.sum_sq_error;
    a.sum_sq = b.sum_sq;
    if (sums && memcmp(&a, &b, sizeof a) == 0) return NIB_OK;
    verdict->wrong_bytes = (int64_t)sizeof a;
    verdict->max_err = fmax(fabs(a.max_error - b.max_error), 1e-6);
    return NIB_OK;
}

static const nib_qb_op quantize_stats = {
    .name = "quantize_stats", .help = "error and counts of a quantized matrix; source bytes",
    .axes = QUANTIZED_AXES & ~NIB_QB_AXIS(BATCH), .waits = 1,
    .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = stats_layout, .fill = stats_fill, .run = stats_run,
    .compare = stats_compare,
};

const nib_qb_op *const nib_qb_ops[] = {
    &quantize, &quantize_amax, &quantize_dynamic, &quantize_given, &nib_qb_quantize_both,
    &dequantize, &amax, &amax_rows, &relayout, &quantize_stats,
    &nib_qb_quantize_rmsnorm, &nib_qb_quantize_hadamard, &nib_qb_quantize_hadamard128,
    &nib_qb_quantize_silu, &nib_qb_transform_apply, &nib_qb_quantize_grouped, &nib_qb_amax_grouped,
    &nib_qb_fake_quantize, &nib_qb_fake_quantize_given, &nib_qb_fake_quantize_backward,
    &nib_qb_steps, &nib_qb_steps_rows, &nib_qb_steps_given, &nib_qb_steps_backward,
    &nib_qb_step_codes, &nib_qb_step_values,
    &nib_qb_observe_range, &nib_qb_observe_range_rows, &nib_qb_observe_histogram,
    &nib_qb_observe_ema, &nib_qb_observe_stats,
    &nib_qb_memcpy, &nib_qb_read, &nib_qb_fill, &nib_qb_fma, &nib_qb_mma, &nib_qb_dense,
    &nib_qb_gemm, &nib_qb_gemm_backward, &nib_qb_gemm_pack,
    &nib_qb_gemm_unpack, &nib_qb_hessian, &nib_qb_hessian_grouped, &nib_qb_hessian_inverse,
    &nib_qb_gptq, &nib_qb_gptq_factor, &nib_qb_gptq_quantize, &nib_qb_gptq_steps, NULL,
};
