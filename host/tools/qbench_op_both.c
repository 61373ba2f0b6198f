/* qbench_op_both.c: a matrix and its transpose in one call. */
#include "qbench_ops.h"

/* The transpose's parts, in places that this operation has no other use for. */
enum { COLUMN_CODES = NIB_QB_OTHER, COLUMN_SCALES = NIB_QB_REPORT };

static nib_packed columnwise_of(const nib_qb_call *call)
{
    nib_packed p = nib_qb_packed_of(call);
    const int64_t rows = p.rows;
    p.rows = p.cols, p.cols = rows;
    p.codes = call->part[COLUMN_CODES], p.scales = call->part[COLUMN_SCALES];
    p.ld_codes_bytes = nib_codes_row_bytes(p.format, p.cols);
    return p;
}

static nib_status layout(const nib_qb_case *c, nib_qb_part *part)
{
    const nib_format format = (nib_format)c->value[NIB_QB_FORMAT];
    const int64_t rows = c->value[NIB_QB_ROWS], cols = c->value[NIB_QB_COLS];
    const int64_t scales = nib_scales_bytes(format, (nib_scale_layout)c->value[NIB_QB_LAYOUT],
                                            cols, rows);
    if (nib_qb_packed_layout(c, part) != NIB_OK || scales < 0) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX].role = part[NIB_QB_TENSOR].role = NIB_QB_IN;
    part[NIB_QB_CODES].role = part[NIB_QB_SCALES].role = NIB_QB_OUT;
    part[COLUMN_CODES] = (nib_qb_part){ cols * nib_codes_row_bytes(format, rows), NIB_QB_OUT };
    part[COLUMN_SCALES] = (nib_qb_part){ scales, NIB_QB_OUT };
    if (c->value[NIB_QB_ROUNDING] == NIB_ROUND_STOCHASTIC)
        part[NIB_QB_RANDOM] = (nib_qb_part){ 2 * sizeof(uint64_t), NIB_QB_IN };
    return NIB_OK;
}

static nib_status run(const nib_qb_call *call)
{
    nib_rules rules;
    nib_quantize_options options;
    const nib_status status = nib_qb_quantize_options(call, &rules, &options);
    if (status != NIB_OK) return status;
    const nib_matrix src = nib_qb_matrix_of(call);
    const nib_packed rowwise = nib_qb_packed_of(call), columnwise = columnwise_of(call);
    return nib_quantize_both(call->exec, &src, &options, &rowwise, &columnwise);
}

const nib_qb_op nib_qb_quantize_both = {
    .name = "quantize_both", .help = "matrix and transpose to codes and scales; source bytes",
    .axes = QUANTIZE_AXES & ~NIB_QB_AXIS(BATCH), .limit = &nib_qb_limit_read,
    .baseline = { &nib_qb_baseline_copy }, .bytes = nib_qb_matrix_bytes, .layout = layout,
    .fill = nib_qb_quantize_fill, .run = run,
};
