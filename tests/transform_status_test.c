/* transform_status_test.c: every precondition of transform.h and grouped.h, one broken at a
 * time. */
#include <math.h>

#include "expect_status.h"
#include "nibble/grouped.h"
#include "nibble/transform.h"

enum { ROWS = 2, COLS = 32 };

/* A valid call of everything, of which a test spoils one thing. */
typedef struct request {
    float   x[ROWS * COLS], other[ROWS * COLS], out[ROWS * COLS], w[COLS], amax[4], tensor[4];
    uint8_t codes[ROWS * COLS], scales[1024], signs[COLS / 8];
    int64_t offsets[4];
    nib_exec             exec;
    nib_matrix           src, second, third, dst;
    nib_transform        t;
    nib_quantize_options options;
    nib_packed           packed;
    nib_groups           groups;
    nib_device          *device;
} request;

static nib_matrix matrix_of(float *data)
{
    return (nib_matrix){ data, NIB_F32, ROWS, COLS, COLS };
}

static void open_request(request *r)
{
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    *r = (request){ .offsets = { 0, 1, 1, 2 }, .amax = { 1, 1, 1, 1 }, .tensor = { 1, 1, 1, 1 } };
    EXPECT(nib_device_open(&cpu, &r->device) == NIB_OK, "%s", nib_last_error());
    for (int i = 0; i < ROWS * COLS; i++) r->x[i] = (float)(i % 13 - 6);
    r->exec = (nib_exec){ .size = sizeof r->exec, .device = r->device };
    r->src = matrix_of(r->x);
    r->second = matrix_of(r->other);
    r->third = matrix_of(r->out);
    r->dst = matrix_of(r->out);
    r->t = (nib_transform){ .size = sizeof r->t, .op = NIB_TRANSFORM_RMSNORM, .weight = r->w,
                            .weight_dtype = NIB_F32, .hadamard = 16, .signs = r->signs };
    r->options = (nib_quantize_options){ .size = sizeof r->options };
    r->packed = (nib_packed){ sizeof r->packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, ROWS,
                              COLS, r->codes, COLS / 2, r->scales, r->tensor };
    r->groups = (nib_groups){ sizeof r->groups, 3, r->offsets };
}

static nib_status apply(request *r)
{
    return nib_transform_apply(&r->exec, &r->t, &r->src, &r->dst);
}

static nib_status quantize(request *r)
{
    return nib_quantize_transformed(&r->exec, &r->t, &r->src, &r->options, &r->packed);
}

/* Both calls of a transform that is spoilt by what. */
#define BOTH(label, status, piece, what)                                        \
    do {                                                                        \
        request r;                                                              \
        open_request(&r);                                                       \
        what;                                                                   \
        EXPECT_FAILS(label, apply(&r), status, piece);                          \
        EXPECT_FAILS(label, quantize(&r), status, piece);                       \
        nib_device_close(r.device);                                             \
    } while (0)

#define ONE(label, call, status, piece, what)                                   \
    do {                                                                        \
        request r;                                                              \
        open_request(&r);                                                       \
        what;                                                                   \
        EXPECT_FAILS(label, call, status, piece);                               \
        nib_device_close(r.device);                                             \
    } while (0)

NIB_TEST(TransformStatus, OfTheTransform)
{
    const nib_status argument = NIB_ERR_ARGUMENT, shape = NIB_ERR_SHAPE;
    request ok;
    open_request(&ok);
    EXPECT(apply(&ok) == NIB_OK && quantize(&ok) == NIB_OK, "%s", nib_last_error());
    EXPECT_FAILS("NULL", nib_transform_apply(&ok.exec, NULL, &ok.src, &ok.dst), argument,
                 "transform is NULL");
    EXPECT_FAILS("NULL", nib_quantize_transformed(&ok.exec, NULL, &ok.src, NULL, &ok.packed),
                 argument, "transform is NULL");
    nib_device_close(ok.device);
    BOTH("exec", argument, "exec->device", r.exec.device = NULL);
    BOTH("size", argument, "transform->size is 8", r.t.size = 8);
    BOTH("op", argument, "op 3 is unknown", r.t.op = (nib_transform_op)3);
    BOTH("op", argument, "op -1 is unknown", r.t.op = (nib_transform_op)-1);
    BOTH("hadamard", argument, "hadamard is 8", r.t.hadamard = 8);
    BOTH("hadamard", argument, "hadamard is 256", r.t.hadamard = 256);
    BOTH("hadamard", argument, "hadamard is -16", r.t.hadamard = -16);
    BOTH("run", shape, "32 columns are no multiple of transform->hadamard 64", r.t.hadamard = 64);
    BOTH("signs", argument, "hadamard is 0", r.t.hadamard = 0);
    BOTH("eps", argument, "eps is -1", r.t.eps = -1.0f);
    BOTH("eps", argument, "eps is nan", r.t.eps = NAN);
    BOTH("eps", argument, "eps is inf", r.t.eps = INFINITY);
    BOTH("weight", argument, "weight_dtype is 2", r.t.weight_dtype = NIB_BF16);
    BOTH("weight", argument, "weight_dtype is 9", r.t.weight_dtype = (nib_dtype)9);
    BOTH("weight", NIB_ERR_ALIGNMENT, "weight", r.t.weight = (uint8_t *)r.w + 2);
    BOTH("amax", NIB_ERR_ALIGNMENT, "amax", r.t.amax = (float *)(void *)(r.signs + 1));
    BOTH("residual", shape, "residual is 2 x 31",
         (r.t.residual = &r.second, r.second.cols = 31));
    BOTH("residual", argument, "residual->dtype is 2",
         (r.t.residual = &r.second, r.second.dtype = NIB_BF16));
    BOTH("residual", argument, "residual->data is NULL",
         (r.t.residual = &r.second, r.second.data = NULL));
    BOTH("residual_out", argument, "residual is NULL", r.t.residual_out = &r.third);
    BOTH("residual_out", shape, "residual_out is 1 x 32",
         (r.t.residual = &r.second, r.t.residual_out = &r.third, r.third.rows = 1));
    BOTH("residual_out", argument, "residual_out->dtype is 1",
         (r.t.residual = &r.second, r.t.residual_out = &r.third, r.third.dtype = NIB_F16));
    BOTH("in place", argument, "ld_elems 40, not 32",
         (r.t.residual = &r.second, r.t.residual_out = &r.third, r.third.data = r.other,
          r.third.ld_elems = 40));
    BOTH("y", argument, "transform->y is NULL", r.t.op = NIB_TRANSFORM_SILU_MUL);
    BOTH("y", shape, "y is 2 x 16",
         (r.t.op = NIB_TRANSFORM_SILU_MUL, r.t.y = &r.second, r.second.cols = 16));
    BOTH("y", argument, "y->dtype is 1",
         (r.t.op = NIB_TRANSFORM_SILU_MUL, r.t.y = &r.second, r.second.dtype = NIB_F16));
    BOTH("src", shape, "ld_elems", r.src.ld_elems = 3);
}

NIB_TEST(TransformStatus, OfWhatItIsMadeOf)
{
    ONE("dst", apply(&r), NIB_ERR_SHAPE, "dst is 1 x 32", r.dst.rows = 1);
    ONE("dst", apply(&r), NIB_ERR_ARGUMENT, "dst->dtype", r.dst.dtype = (nib_dtype)7);
    ONE("packed", quantize(&r), NIB_ERR_SHAPE, "the packed one 1 x 32", r.packed.rows = 1);
    ONE("packed", quantize(&r), NIB_ERR_ARGUMENT, "not a format", r.packed.format = 1);
    ONE("options", quantize(&r), NIB_ERR_ARGUMENT, "rounding 7",
        r.options.rounding = (nib_rounding)7);
    ONE("amax twice", quantize(&r), NIB_ERR_ARGUMENT, "one is read, the other written",
        (r.t.amax = r.amax, r.options.tensor_amax = r.amax));
    /* What an op does not read is not looked at. */
    request r;
    open_request(&r);
    r.t.op = NIB_TRANSFORM_NONE;
    r.t.eps = NAN, r.t.weight_dtype = (nib_dtype)9, r.t.residual_out = &r.third;
    r.t.y = &r.second, r.second.cols = 5;
    EXPECT(apply(&r) == NIB_OK, "%s", nib_last_error());
    nib_device_close(r.device);
}

static nib_status quantize_groups(request *r)
{
    return nib_quantize_grouped(&r->exec, &r->groups, &r->src, &r->options, &r->packed);
}

static nib_status amax_groups(request *r)
{
    return nib_amax_grouped(&r->exec, &r->groups, &r->src, r->amax);
}

#define GROUPS(label, status, piece, what)                                      \
    do {                                                                        \
        ONE(label, quantize_groups(&r), status, piece, what);                   \
        ONE(label, amax_groups(&r), status, piece, what);                       \
    } while (0)

NIB_TEST(TransformStatus, OfGroups)
{
    request ok;
    open_request(&ok);
    EXPECT(quantize_groups(&ok) == NIB_OK && amax_groups(&ok) == NIB_OK, "%s", nib_last_error());
    EXPECT(ok.amax[0] == 6.0f && ok.amax[1] == 0.0f && ok.amax[2] == 6.0f, "%g %g %g",
           (double)ok.amax[0], (double)ok.amax[1], (double)ok.amax[2]);
    EXPECT_FAILS("NULL", nib_quantize_grouped(&ok.exec, NULL, &ok.src, NULL, &ok.packed),
                 NIB_ERR_ARGUMENT, "groups is NULL");
    EXPECT_FAILS("NULL", nib_amax_grouped(&ok.exec, NULL, &ok.src, ok.amax), NIB_ERR_ARGUMENT,
                 "groups is NULL");
    EXPECT_FAILS("amax", nib_amax_grouped(&ok.exec, &ok.groups, &ok.src, NULL), NIB_ERR_ARGUMENT,
                 "amax is NULL");
    ok.groups.count = 0, ok.groups.offsets = NULL;
    EXPECT(quantize_groups(&ok) == NIB_OK && nib_amax_grouped(&ok.exec, &ok.groups, &ok.src, NULL)
           == NIB_OK, "%s", nib_last_error());
    nib_device_close(ok.device);
    GROUPS("exec", NIB_ERR_ARGUMENT, "exec->device", r.exec.device = NULL);
    GROUPS("size", NIB_ERR_ARGUMENT, "groups->size is 4", r.groups.size = 4);
    GROUPS("count", NIB_ERR_SHAPE, "count is -1", r.groups.count = -1);
    GROUPS("offsets", NIB_ERR_ARGUMENT, "offsets is NULL", r.groups.offsets = NULL);
    GROUPS("offsets", NIB_ERR_ALIGNMENT, "offsets",
           r.groups.offsets = (int64_t *)(void *)((uint8_t *)r.offsets + 4));
    GROUPS("src", NIB_ERR_SHAPE, "ld_elems", r.src.ld_elems = 3);
    ONE("amax", nib_amax_grouped(&r.exec, &r.groups, &r.src, (float *)(void *)(r.codes + 1)),
        NIB_ERR_ALIGNMENT, "amax", (void)0);
    ONE("packed", quantize_groups(&r), NIB_ERR_SHAPE, "the packed one", r.packed.cols = 16);
    ONE("options", quantize_groups(&r), NIB_ERR_ARGUMENT, "options->size", r.options.size = 1);
    ONE("huge", quantize_groups(&r), NIB_ERR_SHAPE, "over INT64_MAX bytes",
        (r.groups.count = INT64_MAX, r.packed.scale_layout = NIB_SCALES_SWIZZLED_128X4,
         r.src.rows = r.packed.rows = INT64_MAX / 128, r.src.cols = r.packed.cols = 1,
         r.src.ld_elems = 1, r.packed.ld_codes_bytes = 1));
}
