/* qbench_op_transform.c: transforms in the same pass as quantizing, and groups of rows. */
#include <string.h>

#include "nibble/grouped.h"
#include "nibble/transform.h"
#include "qbench_ops.h"

static int64_t row_bytes(const nib_qb_case *c)
{
    return c->value[NIB_QB_COLS] * (c->value[NIB_QB_DTYPE] == NIB_F32 ? 4 : 2);
}

/* The matrix and its packed form; other: bytes of what goes with it. */
static nib_status layout(const nib_qb_case *c, nib_qb_part *part, int64_t other)
{
    if (nib_qb_packed_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX].role = part[NIB_QB_TENSOR].role = NIB_QB_IN;
    part[NIB_QB_CODES].role = part[NIB_QB_SCALES].role = NIB_QB_OUT;
    if (other) part[NIB_QB_OTHER] = (nib_qb_part){ other, NIB_QB_IN };
    if (c->value[NIB_QB_ROUNDING] == NIB_ROUND_STOCHASTIC)
        part[NIB_QB_RANDOM] = (nib_qb_part){ 2 * sizeof(uint64_t), NIB_QB_IN };
    return NIB_OK;
}

static nib_status plain_layout(const nib_qb_case *c, nib_qb_part *part)
{
    return layout(c, part, 0);
}

static nib_status weight_layout(const nib_qb_case *c, nib_qb_part *part)
{
    return layout(c, part, row_bytes(c));
}

static nib_status two_layout(const nib_qb_case *c, nib_qb_part *part)
{
    return layout(c, part, nib_qb_matrix_bytes(c));
}

/* Elements, and the tensor scale of an earlier step. */
static nib_status fill(const nib_qb_call *call)
{
    float *tensor = call->part[NIB_QB_TENSOR];
    for (int64_t i = 0; tensor && i < call->c->value[NIB_QB_BATCH]; i++) tensor[i] = 0x1p-9f;
    if (call->part[NIB_QB_RANDOM])
        memcpy(call->part[NIB_QB_RANDOM], (uint64_t[2]){ 20240229, 7 }, 2 * sizeof(uint64_t));
    return nib_qb_fill_matrix(call);
}

static nib_status weight_fill(const nib_qb_call *call)
{
    const nib_status status = fill(call);
    memcpy(call->part[NIB_QB_OTHER], call->part[NIB_QB_MATRIX], (size_t)row_bytes(call->c));
    return status;
}

static nib_status two_fill(const nib_qb_call *call)
{
    const nib_status status = fill(call);
    memcpy(call->part[NIB_QB_OTHER], call->part[NIB_QB_MATRIX],
           (size_t)nib_qb_matrix_bytes(call->c));
    return status;
}

static nib_status run(const nib_qb_call *call, const nib_transform *t)
{
    nib_rules rules;
    nib_quantize_options options;
    const nib_status status = nib_qb_quantize_options(call, &rules, &options);
    const nib_matrix src = nib_qb_matrix_of(call);
    const nib_packed dst = nib_qb_packed_of(call);
    return status == NIB_OK ? nib_quantize_transformed(call->exec, t, &src, &options, &dst)
                            : status;
}

static nib_transform rmsnorm_of(const nib_qb_call *call)
{
    return (nib_transform){ .size = sizeof(nib_transform), .op = NIB_TRANSFORM_RMSNORM,
                            .eps = 1e-5f, .weight = call->part[NIB_QB_OTHER],
                            .weight_dtype = (nib_dtype)call->c->value[NIB_QB_DTYPE] };
}

static nib_status rmsnorm_run(const nib_qb_call *call)
{
    const nib_transform t = rmsnorm_of(call);
    return run(call, &t);
}

static nib_status hadamard_run(const nib_qb_call *call, int32_t k)
{
    const nib_transform t = { .size = sizeof t, .hadamard = k };
    return run(call, &t);
}

static nib_status hadamard16_run(const nib_qb_call *call) { return hadamard_run(call, 16); }
static nib_status hadamard128_run(const nib_qb_call *call) { return hadamard_run(call, 128); }

static nib_status silu_run(const nib_qb_call *call)
{
    nib_matrix y = nib_qb_matrix_of(call);
    y.data = call->part[NIB_QB_OTHER];
    const nib_transform t = { .size = sizeof t, .op = NIB_TRANSFORM_SILU_MUL, .y = &y };
    return run(call, &t);
}

static int64_t two_bytes(const nib_qb_case *c)
{
    const int64_t bytes = nib_qb_matrix_bytes(c);
    return bytes < 0 || bytes > INT64_MAX / 2 ? -1 : 2 * bytes;
}

enum { TRANSFORM_AXES = QUANTIZE_AXES & ~NIB_QB_AXIS(BATCH) };

const nib_qb_op nib_qb_quantize_rmsnorm = {
    .name = "quantize_rmsnorm", .help = "RMSNorm, then quantize, in one pass; source bytes",
    .axes = TRANSFORM_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = weight_layout, .fill = weight_fill, .run = rmsnorm_run,
    .distance = nib_qb_packed_distance,
};
const nib_qb_op nib_qb_quantize_hadamard = {
    .name = "quantize_hadamard", .help = "rotate by 16, then quantize, in one pass; source bytes",
    .axes = TRANSFORM_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = plain_layout, .fill = fill, .run = hadamard16_run,
    .distance = nib_qb_packed_distance,
};
const nib_qb_op nib_qb_quantize_hadamard128 = {
    .name = "quantize_hadamard128", .help = "the same by 128",
    .axes = TRANSFORM_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = plain_layout, .fill = fill, .run = hadamard128_run,
    .distance = nib_qb_packed_distance,
};
const nib_qb_op nib_qb_quantize_silu = {
    .name = "quantize_silu", .help = "silu(x) * y, then quantize, in one pass; bytes of x and y",
    .axes = TRANSFORM_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = two_bytes, .layout = two_layout, .fill = two_fill, .run = silu_run,
    .distance = nib_qb_packed_distance,
};

/* ---- a transform alone ---- */

enum { ALONE_AXES = MATRIX_AXES, TO = NIB_QB_CODES };

static nib_status alone_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t bytes = nib_qb_matrix_bytes(c);
    part[NIB_QB_MATRIX] = (nib_qb_part){ bytes, NIB_QB_IN };
    part[NIB_QB_OTHER] = (nib_qb_part){ row_bytes(c), NIB_QB_IN };
    part[TO] = (nib_qb_part){ bytes, NIB_QB_OUT };
    return bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status alone_run(const nib_qb_call *call)
{
    const nib_transform t = rmsnorm_of(call);
    const nib_matrix src = nib_qb_matrix_of(call);
    nib_matrix dst = src;
    dst.data = call->part[TO];
    return nib_transform_apply(call->exec, &t, &src, &dst);
}

const nib_qb_op nib_qb_transform_apply = {
    .name = "transform_apply", .help = "RMSNorm to a matrix; source bytes, as many written",
    .axes = ALONE_AXES, .limit = &nib_qb_limit_copy, .bytes = nib_qb_matrix_bytes,
    .layout = alone_layout, .fill = weight_fill, .run = alone_run,
};

/* ---- groups: --batch of them, of --rows rows each, so that bytes are those of a batch ---- */

static nib_status grouped_layout(const nib_qb_case *c, nib_qb_part *part)
{
    return layout(c, part, (c->value[NIB_QB_BATCH] + 1) * (int64_t)sizeof(int64_t));
}

static nib_status grouped_fill(const nib_qb_call *call)
{
    int64_t *offsets = call->part[NIB_QB_OTHER];
    for (int64_t i = 0; i <= call->c->value[NIB_QB_BATCH]; i++)
        offsets[i] = i * call->c->value[NIB_QB_ROWS];
    return fill(call);
}

static nib_status grouped_run(const nib_qb_call *call)
{
    nib_rules rules;
    nib_quantize_options options;
    const nib_status status = nib_qb_quantize_options(call, &rules, &options);
    const int64_t count = call->c->value[NIB_QB_BATCH];
    const nib_groups groups = { sizeof groups, count, call->part[NIB_QB_OTHER] };
    nib_matrix src = nib_qb_matrix_of(call);
    nib_packed dst = nib_qb_packed_of(call);
    src.rows *= count;
    dst.rows *= count;
    return status == NIB_OK ? nib_quantize_grouped(call->exec, &groups, &src, &options, &dst)
                            : status;
}

const nib_qb_op nib_qb_quantize_grouped = {
    .name = "quantize_grouped", .help = "--batch groups of --rows rows in one call; source bytes",
    .axes = QUANTIZE_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = grouped_layout, .fill = grouped_fill,
    .run = grouped_run, .distance = nib_qb_packed_distance,
};

static nib_status amax_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t count = c->value[NIB_QB_BATCH];
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    part[NIB_QB_OTHER] = (nib_qb_part){ (count + 1) * (int64_t)sizeof(int64_t), NIB_QB_IN };
    part[NIB_QB_AMAX] = (nib_qb_part){ count * (int64_t)sizeof(float), NIB_QB_OUT };
    return part[NIB_QB_MATRIX].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status amax_run(const nib_qb_call *call)
{
    const int64_t count = call->c->value[NIB_QB_BATCH];
    const nib_groups groups = { sizeof groups, count, call->part[NIB_QB_OTHER] };
    nib_matrix src = nib_qb_matrix_of(call);
    src.rows *= count;
    return nib_amax_grouped(call->exec, &groups, &src, call->part[NIB_QB_AMAX]);
}

const nib_qb_op nib_qb_amax_grouped = {
    .name = "amax_grouped", .help = "largest magnitude of each of --batch groups; source bytes",
    .axes = MATRIX_AXES | NIB_QB_AXIS(BATCH), .limit = &nib_qb_limit_read,
    .baseline = { &nib_qb_baseline_copy }, .bytes = nib_qb_matrix_bytes, .layout = amax_layout,
    .fill = grouped_fill, .run = amax_run, .distance = nib_qb_amax_distance,
};
