/* qbench_op_steps.c: quantization by f32 steps as operations: to codes of any integers in any
 * groups, and fake to INT4 by groups of 128 and to INT8 by rows. */
#include "nibble/step_codes.h"
#include "qbench_ops.h"

/* The source is NIB_QB_MATRIX. */
enum { OUT = NIB_QB_CODES, STEPS = NIB_QB_SCALES, LEARNED = NIB_QB_AMAX, WORK = NIB_QB_RANDOM,
       GRAD = NIB_QB_OTHER };
enum { GROUP = 128 };

/* Groups of a row are of group columns; 0: of all. */
static int64_t step_bytes(const nib_qb_case *c, int64_t group)
{
    const int64_t cols = c->value[NIB_QB_COLS], rows = c->value[NIB_QB_ROWS];
    const int64_t groups = group ? cols / group + (cols % group != 0) : 1;
    return rows * groups * (int64_t)sizeof(float); /* less than the matrix */
}

static nib_status layout(const nib_qb_case *c, nib_qb_part *part, int64_t group,
                         nib_qb_role steps)
{
    const int64_t bytes = nib_qb_matrix_bytes(c);
    if (bytes < 0 || bytes > INT64_MAX / 8) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX] = (nib_qb_part){ bytes, NIB_QB_IN };
    part[OUT] = (nib_qb_part){ bytes, NIB_QB_OUT };
    part[STEPS] = (nib_qb_part){ step_bytes(c, group), steps };
    return NIB_OK;
}

static nib_status dynamic_layout(const nib_qb_case *c, nib_qb_part *part)
{
    return layout(c, part, GROUP, NIB_QB_OUT);
}

static nib_status rows_layout(const nib_qb_case *c, nib_qb_part *part)
{
    return layout(c, part, 0, NIB_QB_OUT);
}

static nib_status given_layout(const nib_qb_case *c, nib_qb_part *part)
{
    return layout(c, part, GROUP, NIB_QB_IN);
}

static nib_status backward_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const nib_status status = layout(c, part, 0, NIB_QB_IN);
    const int64_t cols = c->value[NIB_QB_COLS];
    const int64_t work = nib_steps_workspace_bytes(c->value[NIB_QB_ROWS], cols, cols ? cols : 8);
    if (status != NIB_OK || work < 0) return NIB_ERR_SHAPE;
    part[GRAD] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    part[LEARNED] = (nib_qb_part){ step_bytes(c, 0), NIB_QB_OUT };
    if (work) part[WORK] = (nib_qb_part){ work, NIB_QB_SCRATCH };
    return NIB_OK;
}

/* Three matrices move, where the forward pass moves two: in bytes of a copy. */
static int64_t backward_bytes(const nib_qb_case *c)
{
    const int64_t bytes = nib_qb_matrix_bytes(c);
    return bytes < 0 || bytes > INT64_MAX / 8 ? -1 : bytes * 3 / 2;
}

static nib_status fill_with(const nib_qb_call *call, int64_t group)
{
    float *steps = call->part[STEPS];
    for (int64_t i = 0, n = step_bytes(call->c, group) / 4; i < n; i++)
        steps[i] = 0.01f + (float)(i % 7) * 0.003f;
    return nib_qb_fill_matrix(call);
}

static nib_status given_fill(const nib_qb_call *call) { return fill_with(call, GROUP); }

static nib_status backward_fill(const nib_qb_call *call)
{
    nib_qb_call grad = *call; /* as the source, of which it is as good as independent */
    grad.part[NIB_QB_MATRIX] = call->part[GRAD];
    const nib_status status = nib_qb_fill_matrix(&grad);
    return status == NIB_OK ? fill_with(call, 0) : status;
}

static nib_matrix matrix_at(const nib_qb_call *call, int part)
{
    nib_matrix m = nib_qb_matrix_of(call);
    m.data = call->part[part];
    return m;
}

static nib_status run_with(const nib_qb_call *call, nib_step_element element, int64_t group,
                           int given)
{
    const nib_matrix src = nib_qb_matrix_of(call), dst = matrix_at(call, OUT);
    const nib_step_options o = {
        .size = sizeof o, .element = element, .group = group ? group : src.cols ? src.cols : GROUP,
        .steps = given ? call->part[STEPS] : NULL, .steps_out = given ? NULL : call->part[STEPS],
    };
    return nib_fake_quantize_steps(call->exec, &src, &o, &dst);
}

static nib_status dynamic_run(const nib_qb_call *call)
{
    return run_with(call, NIB_INT4, GROUP, 0);
}

static nib_status rows_run(const nib_qb_call *call) { return run_with(call, NIB_INT8, 0, 0); }

static nib_status given_run(const nib_qb_call *call) { return run_with(call, NIB_INT4, GROUP, 1); }

static nib_status backward_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call), grad = matrix_at(call, GRAD);
    const nib_matrix out = matrix_at(call, OUT);
    const int64_t group = src.cols ? src.cols : GROUP;
    const nib_step_options o = { .size = sizeof o, .element = NIB_INT4, .group = group,
                                 .gradient = NIB_FAKE_CLAMP, .steps = call->part[STEPS] };
    nib_exec exec = *call->exec;
    exec.workspace = call->part[WORK];
    exec.workspace_bytes = (size_t)nib_steps_workspace_bytes(src.rows, src.cols, group);
    return nib_fake_quantize_steps_backward(&exec, &grad, &src, &o, &out, call->part[LEARNED]);
}

/* ---- codes ---- */

static nib_step_element element_of(const nib_qb_case *c)
{
    return (nib_step_element)(NIB_INT2 + c->value[NIB_QB_ELEMENT]);
}

static int64_t code_bytes(const nib_qb_case *c)
{
    return c->value[NIB_QB_ROWS] * nib_step_codes_row_bytes(element_of(c), c->value[NIB_QB_COLS]);
}

static nib_status codes_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const nib_status status = layout(c, part, c->value[NIB_QB_BLOCK], NIB_QB_OUT);
    if (status == NIB_OK) part[OUT].bytes = code_bytes(c); /* less than the matrix */
    return status;
}

static nib_status values_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const nib_status status = layout(c, part, c->value[NIB_QB_BLOCK], NIB_QB_IN);
    if (status != NIB_OK) return status;
    part[NIB_QB_MATRIX].role = NIB_QB_OUT;
    part[OUT] = (nib_qb_part){ code_bytes(c), NIB_QB_IN };
    return NIB_OK;
}

/* A byte as one code, or two, of so many bits: the sign fills those above. */
static uint8_t code_of(uint8_t byte, int bits)
{
    const int room = bits <= 4 ? 4 : 8, all = (1 << room) - 1, sign = 1 << (bits - 1);
    const int low = byte & ((1 << bits) - 1), high = byte >> room & ((1 << bits) - 1);
    const int first = ((low ^ sign) - sign) & all, second = ((high ^ sign) - sign) & all;
    return (uint8_t)(room == 4 ? first | second << 4 : first);
}

static nib_status values_fill(const nib_qb_call *call)
{
    uint8_t *const codes = call->part[OUT];
    float *const steps = call->part[STEPS];
    const int bits = (int)call->c->value[NIB_QB_ELEMENT] + 2;
    uint32_t state = 1;
    for (int64_t i = 0, n = code_bytes(call->c); i < n; i++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes' */
        codes[i] = code_of((uint8_t)(state >> 24), bits);
    }
    for (int64_t i = 0, n = step_bytes(call->c, call->c->value[NIB_QB_BLOCK]) / 4; i < n; i++)
        steps[i] = 0.01f + (float)(i % 7) * 0.003f;
    return NIB_OK;
}

static nib_packed_steps codes_of(const nib_qb_call *call)
{
    const nib_matrix m = nib_qb_matrix_of(call);
    return (nib_packed_steps){
        .size = sizeof(nib_packed_steps), .element = element_of(call->c), .rows = m.rows,
        .cols = m.cols, .group = call->c->value[NIB_QB_BLOCK], .codes = call->part[OUT],
        .steps = call->part[STEPS],
        .ld_codes_bytes = nib_step_codes_row_bytes(element_of(call->c), m.cols),
    };
}

static nib_status codes_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call);
    const nib_packed_steps dst = codes_of(call);
    return nib_quantize_steps(call->exec, &src, 0, &dst);
}

static nib_status values_run(const nib_qb_call *call)
{
    const nib_matrix dst = nib_qb_matrix_of(call);
    const nib_packed_steps src = codes_of(call);
    return nib_dequantize_steps(call->exec, &src, &dst);
}

enum { CODE_AXES = MATRIX_AXES | NIB_QB_AXIS(ELEMENT) | NIB_QB_AXIS(BLOCK) };

const nib_qb_op nib_qb_step_codes = {
    .name = "quantize_steps", .help = "integers' codes and steps; source bytes",
    .axes = CODE_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = codes_layout, .fill = nib_qb_fill_matrix,
    .run = codes_run,
};
const nib_qb_op nib_qb_step_values = {
    .name = "dequantize_steps", .help = "integers' codes and steps to matrix; bytes written",
    .axes = CODE_AXES, .limit = &nib_qb_limit_fill, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = values_layout, .fill = values_fill, .run = values_run,
};

/* ---- values ---- */

const nib_qb_op nib_qb_steps = {
    .name = "fake_quantize_steps", .help = "INT4 by dynamic steps of 128; bytes, once",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_copy, .bytes = nib_qb_matrix_bytes,
    .layout = dynamic_layout, .fill = nib_qb_fill_matrix, .run = dynamic_run,
};
const nib_qb_op nib_qb_steps_rows = {
    .name = "fake_quantize_steps_rows", .help = "INT8 by a dynamic step a row; bytes, once",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_copy, .bytes = nib_qb_matrix_bytes,
    .layout = rows_layout, .fill = nib_qb_fill_matrix, .run = rows_run,
};
const nib_qb_op nib_qb_steps_given = {
    .name = "fake_quantize_steps_given", .help = "INT4 by given steps of 128; bytes, once",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_copy, .bytes = nib_qb_matrix_bytes,
    .layout = given_layout, .fill = given_fill, .run = given_run,
};
const nib_qb_op nib_qb_steps_backward = {
    .name = "fake_quantize_steps_backward",
    .help = "LSQ of a step a row, INT4; bytes of a copy of as much, 1.5 a byte of the source",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_copy, .bytes = backward_bytes,
    .layout = backward_layout, .fill = backward_fill, .run = backward_run,
};
