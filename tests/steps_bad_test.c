/* steps_bad_test.c: the preconditions of steps.h: one valid request, one field changed. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "expect_status.h"
#include "nibble/steps.h"

enum { ROWS = 3, COLS = 40, GROUP = 16, STEPS = 9, LONG = 2048 };

typedef struct request {
    const nib_matrix       *src_p, *dst_p, *grad_p;
    const nib_step_options *options_p;
    nib_exec                exec;
    nib_matrix              src, dst, grad;
    nib_step_options        options;
    float                  *grad_steps;
    float  x[ROWS * COLS], y[ROWS * COLS], g[ROWS * COLS];
    float  steps[STEPS], range[2], scale, out[STEPS], learned[STEPS];
    int8_t zeros[STEPS];
    uint8_t mask[ROWS * COLS];
} request;

static void request_init(request *r, const nib_device *device)
{
    memset(r, 0, sizeof *r);
    r->exec = (nib_exec){ .size = sizeof r->exec, .device = device, .threads = 1 };
    r->src = (nib_matrix){ r->x, NIB_F32, ROWS, COLS, COLS };
    r->dst = (nib_matrix){ r->y, NIB_F32, ROWS, COLS, COLS };
    r->grad = (nib_matrix){ r->g, NIB_F32, ROWS, COLS, COLS };
    for (int i = 0; i < STEPS; i++) r->steps[i] = 0.5f;
    r->scale = 1;
    r->options = (nib_step_options){
        .size = sizeof r->options, .element = NIB_INT4, .asymmetric = 1, .group = GROUP,
        .steps = r->steps, .zeros = r->zeros, .gradient = NIB_FAKE_CLAMP,
        .step_rule = NIB_STEP_E4M3_BYTE, .tensor_scale = &r->scale,
    };
    r->src_p = &r->src, r->dst_p = &r->dst, r->grad_p = &r->grad, r->options_p = &r->options;
    r->grad_steps = r->learned;
}

static nib_status forward(request *r)
{
    return nib_fake_quantize_steps(&r->exec, r->src_p, r->options_p, r->dst_p);
}

static nib_status backward(request *r)
{
    return nib_fake_quantize_steps_backward(&r->exec, r->grad_p, r->src_p, r->options_p, r->dst_p,
                                            r->grad_steps);
}

static const struct {
    unsigned    bit;
    const char *name;
    nib_status (*call)(request *r);
} functions[] = {
    { 1, "fake_quantize_steps: ", forward }, { 2, "fake_quantize_steps_backward: ", backward },
};
enum { FORWARD = 1, BACKWARD = 2, BOTH = 3 };

typedef struct change {
    const char *label;
    unsigned    functions;
    size_t      offset, bytes;
    int64_t     value;
    nib_status  status;
    const char *piece;
} change;

#define ROW(who, member, value, status, piece)                                           \
    { #member " = " #value, who, offsetof(request, member), sizeof(((request *)0)->member), \
      (int64_t)(value), status, piece }
#define ARGUMENT  NIB_ERR_ARGUMENT
#define SHAPE     NIB_ERR_SHAPE
#define ALIGNMENT NIB_ERR_ALIGNMENT

static const change changes[] = {
    ROW(BOTH, exec.size, 0, ARGUMENT, "size is 0"),
    ROW(BOTH, exec.threads, -1, ARGUMENT, "-1"),
    ROW(FORWARD, src_p, 0, ARGUMENT, "src is NULL"),
    ROW(BACKWARD, src_p, 0, ARGUMENT, "grad_steps follow from it"),
    ROW(BACKWARD, grad_p, 0, ARGUMENT, "grad_out is NULL"),
    ROW(BOTH, dst_p, 0, ARGUMENT, "NULL"),
    ROW(BOTH, src.dtype, 3, ARGUMENT, "dtype 3"),
    ROW(BOTH, dst.dtype, -1, ARGUMENT, "dtype -1"),
    ROW(BACKWARD, grad.dtype, 7, ARGUMENT, "dtype 7"),
    ROW(BOTH, src.data, 0, ARGUMENT, "data is NULL"),
    ROW(BOTH, src.data, 0x1002, ALIGNMENT, "4 bytes"),
    ROW(BOTH, src.ld_elems, COLS - 1, SHAPE, "39 < cols 40"),
    ROW(BOTH, src.rows, -1, SHAPE, "-1"),
    ROW(BOTH, src.rows, ROWS - 1, SHAPE, "2 x 40"),
    ROW(BOTH, dst.rows, ROWS - 1, SHAPE, "2 x 40"),
    ROW(BOTH, dst.cols, COLS - 1, SHAPE, "3 x 39"),
    ROW(BACKWARD, grad.cols, COLS - 8, SHAPE, "3 x 32"),
    ROW(BOTH, options_p, 0, ARGUMENT, "options is NULL"),
    ROW(BOTH, options.size, 0, ARGUMENT, "size is 0"),
    ROW(BOTH, options.size, sizeof(nib_step_options) - 1, ARGUMENT, "size is"),
    ROW(BOTH, options.element, 5, ARGUMENT, "element 5"),
    ROW(BOTH, options.element, 17, ARGUMENT, "element 17"),
    ROW(BOTH, options.element, 25, ARGUMENT, "element 25"),
    ROW(BOTH, options.element, -1, ARGUMENT, "element -1"),
    ROW(BOTH, options.element, NIB_STEP_E2M1, ARGUMENT, "for integers, 1"),
    ROW(BOTH, options.asymmetric, 2, ARGUMENT, "asymmetric is 2"),
    ROW(BOTH, options.asymmetric, 0, ARGUMENT, "zeros is given"),
    ROW(BOTH, options.zeros, 0, ARGUMENT, "zeros is NULL"),
    ROW(BOTH, options.steps, 0, ARGUMENT, "zeros is given"),
    ROW(BOTH, options.range, 0x1000, ARGUMENT, "range is given"),
    ROW(BOTH, options.step_rule, 5, ARGUMENT, "step rule 5"),
    ROW(BOTH, options.step_rule, -1, ARGUMENT, "step rule -1"),
    ROW(BOTH, options.step_rule, NIB_STEP_F32, ARGUMENT, "tensor_scale is given"),
    ROW(BOTH, options.step_rule, NIB_STEP_E8M0_BYTE, ARGUMENT, "tensor_scale is given"),
    ROW(BOTH, options.step_rule, NIB_STEP_F16, ARGUMENT, "tensor_scale is given"),
    ROW(BOTH, options.tensor_scale, 0, ARGUMENT, "tensor_scale is NULL"),
    ROW(BOTH, options.gradient, 2, ARGUMENT, "gradient 2"),
    ROW(BOTH, options.gradient, -1, ARGUMENT, "gradient -1"),
    ROW(BOTH, options.grad_factor, 0x7fc00000, ARGUMENT, "grad_factor is"),
    ROW(BOTH, options.grad_factor, 0x7f800000, ARGUMENT, "grad_factor is inf"),
    ROW(BOTH, options.group, -8, SHAPE, "group -8"),
    ROW(BOTH, options.group, 12, SHAPE, "group 12"),
    ROW(BOTH, options.group, COLS - 1, SHAPE, "group 39"),
    ROW(BOTH, options.steps, 0x1002, ALIGNMENT, "steps 0x1002"),
    ROW(BOTH, options.tensor_scale, 0x1001, ALIGNMENT, "tensor_scale 0x1001"),
    ROW(BOTH, options.steps_out, 0x1003, ALIGNMENT, "steps_out 0x1003"),
    ROW(BACKWARD, grad_steps, 0x1002, ALIGNMENT, "grad_steps 0x1002"),
};

static nib_device *open_cpu(void)
{
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    nib_device *device = NULL;
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    return device;
}

NIB_TEST(StepsRefuse, NothingOfAValidRequest)
{
    nib_device *device = open_cpu();
    for (int f = 0; f < 2; f++) {
        request r;
        request_init(&r, device);
        EXPECT(functions[f].call(&r) == NIB_OK, "%s", nib_last_error());
        r.options.group = COLS; /* a row each, and any longer group */
        EXPECT(functions[f].call(&r) == NIB_OK, "%s", nib_last_error());
        r.options.group = INT64_MAX;
        EXPECT(functions[f].call(&r) == NIB_OK, "%s", nib_last_error());
        r.options.zeros_out = r.zeros + STEPS / 2; /* of the backward pass not written */
        r.options.mask = r.mask, r.options.ld_mask_bytes = INT64_MAX / ROWS;
        r.src.rows = r.dst.rows = r.grad.rows = 1;
        EXPECT(functions[f].call(&r) == NIB_OK, "%s", nib_last_error());
    }
    nib_device_close(device);
}

NIB_TEST(StepsRefuse, OneFieldChanged)
{
    nib_device *device = open_cpu();
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        for (int f = 0; f < 2; f++) {
            const change *c = &changes[i];
            request r, before;
            if (!(c->functions & functions[f].bit)) continue;
            request_init(&r, device);
            memcpy((uint8_t *)&r + c->offset, &c->value, c->bytes);
            memcpy(&before, &r, sizeof r);
            EXPECT_FAILS(c->label, functions[f].call(&r), c->status, c->piece);
            EXPECT(!strncmp(nib_last_error(), functions[f].name, strlen(functions[f].name)),
                   "%s: '%s'", c->label, nib_last_error());
            EXPECT(!memcmp(&before, &r, sizeof r), "%s: something was written", c->label);
        }
    }
    nib_device_close(device);
}

NIB_TEST(StepsRefuse, WhatDoesNotGoTogether)
{
    nib_device *device = open_cpu();
    for (int f = 0; f < 2; f++) {
        nib_status (*call)(request *r) = functions[f].call;
        request r;
        request_init(&r, device);
        r.options.mask = r.mask, r.options.ld_mask_bytes = 4;
        EXPECT_FAILS("mask", call(&r), SHAPE, "ld_mask_bytes 4 < 5");
        r.options.ld_mask_bytes = INT64_MAX / ROWS + 1;
        EXPECT_FAILS("mask", call(&r), SHAPE, "over INT64_MAX");
        request_init(&r, device);
        r.options.asymmetric = 0, r.options.zeros = NULL, r.options.zeros_out = r.zeros;
        EXPECT_FAILS("zeros_out", call(&r), ARGUMENT, "asymmetric is 0");
        request_init(&r, device); /* the dynamic step of a matrix has a range */
        r.options.group = 0, r.options.steps = NULL, r.options.zeros = NULL;
        r.grad_steps = NULL;
        EXPECT_FAILS("range", call(&r), ARGUMENT, "range is NULL");
        r.options.range = (const float *)(const void *)((const uint8_t *)r.range + 2);
        EXPECT_FAILS("range", call(&r), ALIGNMENT, "range");
        r.options.range = r.range;
        EXPECT(call(&r) == NIB_OK, "%s", nib_last_error());
        request_init(&r, device); /* in place, but not element by element */
        nib_matrix *from = f ? &r.grad : &r.src;
        r.dst.data = from->data;
        EXPECT(call(&r) == NIB_OK, "%s", nib_last_error());
        r.dst.dtype = NIB_F16;
        EXPECT_FAILS("dtype", call(&r), ARGUMENT, "in place");
        r.dst.dtype = NIB_F32, r.dst.ld_elems = COLS + 1;
        EXPECT_FAILS("ld", call(&r), ARGUMENT, "in place");
    }
    nib_device_close(device);
}

NIB_TEST(StepsRefuse, GradientsThatLackSomething)
{
    nib_device *device = open_cpu();
    request r;
    request_init(&r, device);
    r.options.steps = NULL, r.options.zeros = NULL;
    EXPECT_FAILS("dynamic", backward(&r), ARGUMENT, "only given ones are learned");
    r.grad_steps = NULL;
    EXPECT(backward(&r) == NIB_OK, "%s", nib_last_error());
    r.src_p = NULL;
    EXPECT_FAILS("src", backward(&r), ARGUMENT, "no mask");
    r.options.mask = r.mask, r.options.ld_mask_bytes = 5;
    EXPECT(backward(&r) == NIB_OK, "%s", nib_last_error());
    r.options.mask = NULL, r.options.gradient = NIB_FAKE_IDENTITY;
    EXPECT(backward(&r) == NIB_OK, "%s", nib_last_error());

    static float x[ROWS * LONG], y[ROWS * LONG], work[6];
    request_init(&r, device); /* rows of two pieces each */
    r.src = r.grad = (nib_matrix){ x, NIB_F32, ROWS, LONG, LONG };
    r.dst = (nib_matrix){ y, NIB_F32, ROWS, LONG, LONG };
    r.options.group = LONG;
    r.exec.workspace_bytes = 24;
    EXPECT_FAILS("workspace", backward(&r), ARGUMENT, "24 are needed");
    r.exec.workspace = work, r.exec.workspace_bytes = 23;
    EXPECT_FAILS("workspace", backward(&r), ARGUMENT, "23 bytes, 24 are needed");
    r.exec.workspace = (uint8_t *)work + 2, r.exec.workspace_bytes = 24;
    EXPECT_FAILS("workspace", backward(&r), ALIGNMENT, "workspace");
    r.exec.workspace = work;
    EXPECT(backward(&r) == NIB_OK, "%s", nib_last_error());
    nib_device_close(device);
}

NIB_TEST(StepsRefuse, WorkspaceSizes)
{
    static const int64_t rows[][4] = { /* rows, cols, group, bytes */
        { 3, 2048, 2048, 24 },    { 3, 2048, 0, 24 },     { 3, 1024, 0, 12 },  { 3, 1024, 1024, 0 },
        { 1, 1024, 0, 0 },        { 1, 1025, 0, 8 },      { 3, 1025, 1025, 24 },
        { 3, 4096, 16, 0 },       { 2, 5000, 2048, 48 },  { 5, 1, 0, 20 },     { 0, 9, 0, 0 },
        { 9, 0, 8, 0 },           { -1, 8, 8, -1 },       { 1, -1, 0, -1 },    { 1, 40, 12, -1 },
        { 1, 40, -8, -1 },        { 1, 40, 40, 0 },       { 1, 40, INT64_MAX, 0 },
        { INT64_MAX, 8, 0, -1 },  { INT64_MAX / 4, 8, 0, INT64_MAX / 4 * 4 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int64_t got = nib_steps_workspace_bytes(rows[i][0], rows[i][1], rows[i][2]);
        EXPECT(got == rows[i][3], "row %zu: %lld, not %lld", i, (long long)got,
               (long long)rows[i][3]);
    }
}
