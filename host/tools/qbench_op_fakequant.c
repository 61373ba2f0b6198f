/* qbench_op_fakequant.c: fake-quantization and its gradient, held against a copy of the matrix,
 * which reads and writes as many bytes. */
#include <stdlib.h>
#include <string.h>

#include "qbench_ops.h"

/* NIB_QB_MATRIX is what is written. */
enum { SOURCE = NIB_QB_OTHER, GRADIENT = NIB_QB_REPORT, MASK = NIB_QB_CODES };

enum { FAKE_AXES = MATRIX_AXES | NIB_QB_AXIS(FORMAT) | NIB_QB_AXIS(BLOCK) | NIB_QB_AXIS(RULES)
                 | NIB_QB_AXIS(CHOICE) | NIB_QB_AXIS(MASK) };

static int64_t mask_row_bytes(const nib_qb_case *c) { return (c->value[NIB_QB_COLS] + 7) / 8; }

static nib_status forward_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t bytes = nib_qb_matrix_bytes(c);
    if (bytes < 0) return NIB_ERR_SHAPE;
    part[SOURCE] = (nib_qb_part){ bytes, NIB_QB_IN };
    part[NIB_QB_MATRIX] = (nib_qb_part){ bytes, NIB_QB_OUT };
    if (c->value[NIB_QB_MASK])
        part[MASK] = (nib_qb_part){ c->value[NIB_QB_ROWS] * mask_row_bytes(c), NIB_QB_OUT };
    if (nib_format_has_tensor_scale((nib_format)c->value[NIB_QB_FORMAT]))
        part[NIB_QB_TENSOR] = (nib_qb_part){ sizeof(float), NIB_QB_IN };
    if (c->value[NIB_QB_ROUNDING] == NIB_ROUND_STOCHASTIC)
        part[NIB_QB_RANDOM] = (nib_qb_part){ 2 * sizeof(uint64_t), NIB_QB_IN };
    return NIB_OK;
}

static nib_matrix matrix_at(const nib_qb_call *call, int part)
{
    nib_matrix m = nib_qb_matrix_of(call);
    m.data = call->part[part];
    return m;
}

static nib_status source_fill(const nib_qb_call *call)
{
    nib_qb_call source = *call;
    source.part[NIB_QB_MATRIX] = call->part[SOURCE];
    return nib_qb_quantize_fill(&source);
}

typedef struct fake_options {
    nib_rules            rules;
    nib_quantize_options quantize;
    nib_fake_options     fake;
} fake_options;

static nib_status fake_options_of(const nib_qb_call *call, fake_options *o)
{
    o->fake = (nib_fake_options){
        .size = sizeof o->fake,
        .format = (nib_format)call->c->value[NIB_QB_FORMAT],
        .quantize = &o->quantize,
        .tensor_scale = call->part[NIB_QB_TENSOR],
        .gradient = (nib_fake_gradient)call->c->value[NIB_QB_GRADIENT],
        .mask = call->part[MASK],
        .ld_mask_bytes = mask_row_bytes(call->c),
        .scales = call->part[NIB_QB_SCALES],
        .scale_layout = (nib_scale_layout)call->c->value[NIB_QB_LAYOUT],
    };
    return nib_qb_quantize_options(call, &o->rules, &o->quantize);
}

static nib_status forward_run(const nib_qb_call *call)
{
    fake_options o;
    const nib_status status = fake_options_of(call, &o);
    const nib_matrix src = matrix_at(call, SOURCE), dst = matrix_at(call, NIB_QB_MATRIX);
    return status == NIB_OK ? nib_fake_quantize(call->exec, &src, &o.fake, &dst) : status;
}

const nib_qb_op nib_qb_fake_quantize = {
    .name = "fake_quantize", .help = "values as quantized, in one pass; source bytes",
    .axes = FAKE_AXES | NIB_QB_AXIS(ROUNDING), .limit = &nib_qb_limit_copy,
    .bytes = nib_qb_matrix_bytes, .layout = forward_layout, .fill = source_fill,
    .run = forward_run, .distance = nib_qb_matrix_distance,
};

/* ---- by given scales ---- */

static nib_status given_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t bytes = nib_scales_bytes((nib_format)c->value[NIB_QB_FORMAT],
                                           (nib_scale_layout)c->value[NIB_QB_LAYOUT],
                                           c->value[NIB_QB_ROWS], c->value[NIB_QB_COLS]);
    if (bytes < 0 || forward_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_SCALES] = (nib_qb_part){ bytes, NIB_QB_WEIGHT };
    return NIB_OK;
}

/* The scales that quantizing the source gives. */
static nib_status given_fill(const nib_qb_call *call)
{
    fake_options o;
    const nib_matrix src = matrix_at(call, SOURCE);
    const nib_format format = (nib_format)call->c->value[NIB_QB_FORMAT];
    const int64_t row_bytes = nib_codes_row_bytes(format, src.cols);
    nib_status status = source_fill(call);
    if (status == NIB_OK) status = fake_options_of(call, &o);
    if (status != NIB_OK) return status;
    uint8_t *codes = malloc((size_t)(src.rows * row_bytes) + 1);
    if (!codes) return NIB_ERR_OUT_OF_MEMORY;
    const nib_packed packed = {
        .size = sizeof packed, .format = format, .scale_layout = o.fake.scale_layout,
        .rows = src.rows, .cols = src.cols, .codes = codes, .ld_codes_bytes = row_bytes,
        .scales = call->part[NIB_QB_SCALES], .tensor_scale = call->part[NIB_QB_TENSOR],
    };
    status = nib_quantize(call->exec, &src, &o.quantize, &packed);
    free(codes);
    return status;
}

const nib_qb_op nib_qb_fake_quantize_given = {
    .name = "fake_quantize_given", .help = "the same by given block scales; source bytes",
    .axes = FAKE_AXES | NIB_QB_AXIS(ROUNDING) | NIB_QB_AXIS(LAYOUT), .limit = &nib_qb_limit_copy,
    .bytes = nib_qb_matrix_bytes, .layout = given_layout, .fill = given_fill,
    .run = forward_run, .distance = nib_qb_matrix_distance,
};

/* ---- backward ---- */

static int reads_source(const nib_qb_case *c)
{
    return c->value[NIB_QB_GRADIENT] == NIB_FAKE_CLAMP && !c->value[NIB_QB_MASK];
}

/* Only what is read takes up a cache; the mask's source is needed to fill it. */
static nib_status backward_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (forward_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[GRADIENT] = part[SOURCE];
    if (!reads_source(c)) part[SOURCE].bytes = 0;
    if (c->value[NIB_QB_MASK]) part[MASK].role = NIB_QB_IN;
    return NIB_OK;
}

/* Gradients look as sources do. A mask is the one of the source that is not kept: itself. */
static nib_status backward_fill(const nib_qb_call *call)
{
    nib_qb_call with_source = *call;
    if (!call->part[SOURCE]) with_source.part[SOURCE] = call->part[GRADIENT];
    nib_status status = source_fill(&with_source);
    if (status == NIB_OK && call->part[MASK]) status = forward_run(&with_source);
    if (call->part[SOURCE])
        memcpy(call->part[GRADIENT], call->part[SOURCE], (size_t)nib_qb_matrix_bytes(call->c));
    memset(call->part[NIB_QB_MATRIX], 0xa5, (size_t)nib_qb_matrix_bytes(call->c));
    return status;
}

static nib_status backward_run(const nib_qb_call *call)
{
    fake_options o;
    const nib_status status = fake_options_of(call, &o);
    const nib_matrix src = matrix_at(call, SOURCE), grad_out = matrix_at(call, GRADIENT);
    const nib_matrix grad_in = matrix_at(call, NIB_QB_MATRIX);
    return status != NIB_OK ? status
         : nib_fake_quantize_backward(call->exec, &grad_out, call->part[SOURCE] ? &src : NULL,
                                      &o.fake, &grad_in);
}

const nib_qb_op nib_qb_fake_quantize_backward = {
    .name = "fake_quantize_backward",
    .help = "gradient past the clamps; a gradient's bytes",
    .axes = FAKE_AXES | NIB_QB_AXIS(GRADIENT), .limit = &nib_qb_limit_copy,
    .bytes = nib_qb_matrix_bytes, .layout = backward_layout, .fill = backward_fill,
    .run = backward_run, .distance = nib_qb_matrix_distance,
};
