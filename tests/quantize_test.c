/* quantize_test.c: the preconditions of quantize.h: one valid request, one field changed. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "expect_status.h"
#include "nibble/quantize.h"

enum { ROWS = 3, COLS = 40, SCALES = 3, CODE_BYTES = 20, POISON = 0xa5 };

/* Everything that the functions of quantize.h take, valid and small. */
typedef struct request {
    const nib_exec             *exec_p;
    const nib_matrix           *matrix_p;
    const nib_packed           *packed_p;
    const nib_quantize_options *options_p;
    const nib_batch            *batch_p;
    nib_batch                   batch;
    nib_exec                    exec;
    nib_matrix                  matrix;
    nib_packed                  packed;
    nib_quantize_options        options;
    nib_rules                   rules;
    float                      *amax_p;
    uint64_t                   *nonfinite_p;
    nib_quantize_report        *report_p;
    nib_quantize_report         report;
    float                       tensor_scale, tensor_amax, amax[ROWS];
    uint64_t                    random[2], nonfinite;
    float                       values[ROWS * COLS];
    uint8_t                     codes[ROWS * CODE_BYTES];
    uint8_t                     scales[128 * 4]; /* enough for the swizzled layout */
} request;

static void request_init(request *r, const nib_device *device)
{
    memset(r, 0, sizeof *r);
    r->exec = (nib_exec){ .size = sizeof r->exec, .device = device, .threads = 1 };
    r->matrix = (nib_matrix){ r->values, NIB_F32, ROWS, COLS, COLS };
    r->packed = (nib_packed){
        .size = sizeof r->packed, .format = NIB_NVFP4, .rows = ROWS, .cols = COLS,
        .codes = r->codes, .ld_codes_bytes = CODE_BYTES, .scales = r->scales,
        .tensor_scale = &r->tensor_scale,
    };
    (void)nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, &r->rules);
    r->options = (nib_quantize_options){ .size = sizeof r->options, .rules = &r->rules };
    r->report.size = sizeof r->report;
    r->batch = (nib_batch){ .size = sizeof r->batch, .count = 1 };
    r->batch_p = &r->batch;
    r->exec_p = &r->exec;
    r->matrix_p = &r->matrix;
    r->packed_p = &r->packed;
    r->options_p = &r->options;
    r->amax_p = r->amax;
    r->nonfinite_p = &r->nonfinite;
    r->report_p = &r->report;
    r->tensor_scale = 0.5f;
    for (int i = 0; i < ROWS * COLS; i++) r->values[i] = (float)(i % 13 - 6);
    memset(r->codes, POISON, sizeof r->codes);
    memset(r->scales, POISON, sizeof r->scales);
}

typedef nib_status function(request *r);

static nib_status quantize(request *r)
{
    return nib_quantize(r->exec_p, r->matrix_p, r->options_p, r->packed_p);
}
static nib_status dequantize(request *r)
{
    return nib_dequantize(r->exec_p, r->packed_p, r->matrix_p);
}
static nib_status amax(request *r)
{
    return nib_amax(r->exec_p, r->matrix_p, r->amax_p, r->nonfinite_p);
}
static nib_status amax_rows(request *r)
{
    return nib_amax_rows(r->exec_p, r->matrix_p, r->amax_p);
}
static nib_status stats(request *r)
{
    return nib_quantize_stats(r->exec_p, r->matrix_p, r->packed_p, r->report_p);
}
static nib_status relayout(request *r)
{
    return nib_relayout_scales(r->exec_p, 1, SCALES, NIB_SCALES_LINEAR, r->scales,
                               NIB_SCALES_LINEAR, r->codes);
}

static nib_status quantize_batch(request *r)
{
    return nib_quantize_batch(r->exec_p, r->batch_p, r->matrix_p, r->options_p, r->packed_p);
}
static nib_status dequantize_batch(request *r)
{
    return nib_dequantize_batch(r->exec_p, r->batch_p, r->packed_p, r->matrix_p);
}
static nib_status amax_batch(request *r)
{
    return nib_amax_batch(r->exec_p, r->batch_p, r->matrix_p, r->amax_p, r->nonfinite_p);
}
static nib_status dynamic(request *r)
{
    return nib_quantize_dynamic(r->exec_p, r->batch_p, r->matrix_p, r->options_p, r->packed_p,
                                r->amax_p);
}

enum { QUANTIZE = 1, DEQUANTIZE = 2, AMAX = 4, AMAX_ROWS = 8, STATS = 16, RELAYOUT = 32,
       QUANTIZES = 64, DEQUANTIZES = 128, AMAXES = 256, DYNAMIC = 512,
       TAKE_BATCH = QUANTIZES | DEQUANTIZES | AMAXES | DYNAMIC,
       TAKE_OPTIONS = QUANTIZE | QUANTIZES | DYNAMIC,
       TAKE_MATRIX = QUANTIZE | DEQUANTIZE | AMAX | AMAX_ROWS | STATS | TAKE_BATCH,
       TAKE_PACKED = QUANTIZE | DEQUANTIZE | STATS | QUANTIZES | DEQUANTIZES | DYNAMIC,
       ALL = TAKE_MATRIX | RELAYOUT };

static const struct {
    unsigned    bit;
    const char *name; /* starts the sentence */
    function   *call;
} functions[] = {
    { QUANTIZE, "quantize: ", quantize },
    { DEQUANTIZE, "dequantize: ", dequantize },
    { AMAX, "amax: ", amax },
    { AMAX_ROWS, "amax_rows: ", amax_rows },
    { STATS, "quantize_stats: ", stats },
    { RELAYOUT, "relayout_scales: ", relayout },
    { QUANTIZES, "quantize_batch: ", quantize_batch },
    { DEQUANTIZES, "dequantize_batch: ", dequantize_batch },
    { AMAXES, "amax_batch: ", amax_batch },
    { DYNAMIC, "quantize_dynamic: ", dynamic },
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* One field of the request, and the integer or pointer that it is set to (little-endian). */
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

#define ARGUMENT    NIB_ERR_ARGUMENT
#define SHAPE       NIB_ERR_SHAPE
#define UNSUPPORTED NIB_ERR_UNSUPPORTED
#define MAX         INT64_MAX

static const change changes[] = {
    /* exec */
    ROW(ALL, exec_p, 0, ARGUMENT, "exec is NULL"),
    ROW(ALL, exec.size, 0, ARGUMENT, "size is 0"),
    ROW(ALL, exec.size, sizeof(nib_exec) - 1, ARGUMENT, "size is"),
    ROW(ALL, exec.device, 0, ARGUMENT, "device is NULL"),
    ROW(ALL, exec.threads, -1, ARGUMENT, "-1"),
    ROW(ALL, exec.threads, 1025, ARGUMENT, "1025"),
    ROW(ALL, exec.stream, 16, ARGUMENT, "stream"),
    /* matrix */
    ROW(TAKE_MATRIX, matrix_p, 0, ARGUMENT, "NULL"),
    ROW(TAKE_MATRIX, matrix.data, 0, ARGUMENT, "data is NULL"),
    ROW(TAKE_MATRIX, matrix.dtype, 3, ARGUMENT, "dtype 3"),
    ROW(TAKE_MATRIX, matrix.dtype, -1, ARGUMENT, "dtype -1"),
    ROW(TAKE_MATRIX, matrix.rows, -1, SHAPE, "-1"),
    ROW(TAKE_MATRIX, matrix.cols, -1, SHAPE, "-1"),
    ROW(TAKE_MATRIX, matrix.rows, INT64_MIN, SHAPE, "-9223372036854775808"),
    ROW(TAKE_MATRIX, matrix.ld_elems, COLS - 1, SHAPE, "39 < cols 40"),
    ROW(TAKE_MATRIX, matrix.ld_elems, -COLS, SHAPE, "-40 < cols 40"),
    ROW(TAKE_MATRIX, matrix.rows, MAX, SHAPE, "9223372036854775807"),
    ROW(TAKE_MATRIX, matrix.rows, MAX / COLS / 4 + 1, SHAPE, "57646075230342349"),
    ROW(TAKE_MATRIX, matrix.cols, MAX, SHAPE, "9223372036854775807"),
    ROW(TAKE_MATRIX, matrix.ld_elems, MAX, SHAPE, "9223372036854775807"),
    ROW(TAKE_MATRIX, matrix.ld_elems, MAX / ROWS / 4 + 1, SHAPE, "768614336404564651"),
    /* packed */
    ROW(TAKE_PACKED, packed_p, 0, ARGUMENT, "NULL"),
    ROW(TAKE_PACKED, packed.size, 0, ARGUMENT, "size is 0"),
    ROW(TAKE_PACKED, packed.size, sizeof(nib_packed) - 1, ARGUMENT, "size is"),
    ROW(TAKE_PACKED, packed.format, 0, ARGUMENT, "not a format"),
    ROW(TAKE_PACKED, packed.format, 0xffffffff, ARGUMENT, "0xffffffff"),
    ROW(TAKE_PACKED, packed.format, 0x00181100, ARGUMENT, "0x181100"),
    ROW(TAKE_PACKED, packed.code_order, 2, ARGUMENT, "code_order 2"),
    ROW(TAKE_PACKED, packed.code_order, -1, ARGUMENT, "code_order -1"),
    ROW(TAKE_PACKED, packed.scale_layout, 2, ARGUMENT, "scale_layout 2"),
    ROW(TAKE_PACKED, packed.scale_layout, -1, ARGUMENT, "scale_layout -1"),
    ROW(TAKE_PACKED, packed.codes, 0, ARGUMENT, "NULL"),
    ROW(TAKE_PACKED, packed.scales, 0, ARGUMENT, "NULL"),
    ROW(TAKE_PACKED, packed.tensor_scale, 0, ARGUMENT, "tensor_scale is NULL"),
    ROW(TAKE_PACKED, packed.format, NIB_MXFP4, ARGUMENT, "tensor_scale is given"),
    ROW(TAKE_PACKED, packed.rows, -1, SHAPE, "-1"),
    ROW(TAKE_PACKED, packed.cols, -1, SHAPE, "-1"),
    ROW(TAKE_PACKED, packed.rows, MAX, SHAPE, "9223372036854775807"),
    ROW(TAKE_PACKED, packed.cols, MAX, SHAPE, "9223372036854775807"),
    ROW(TAKE_PACKED, packed.ld_codes_bytes, CODE_BYTES - 1, SHAPE, "19 < 20"),
    ROW(TAKE_PACKED, packed.ld_codes_bytes, -1, SHAPE, "-1 < 20"),
    ROW(TAKE_PACKED, packed.ld_codes_bytes, MAX, SHAPE, "over INT64_MAX"),
    ROW(TAKE_PACKED, packed.code_order, NIB_CODES_GGUF_HALVES, UNSUPPORTED, "40"),
    /* both */
    ROW(TAKE_PACKED, matrix.rows, ROWS - 1, SHAPE, "2 x 40"),
    ROW(TAKE_PACKED, matrix.cols, COLS - 1, SHAPE, "3 x 39"),
    ROW(TAKE_PACKED, packed.rows, ROWS - 1, SHAPE, "2 x 40"),
    ROW(TAKE_PACKED, packed.cols, COLS - 1, SHAPE, "3 x 39"),
    /* results */
    ROW(AMAX | AMAX_ROWS | AMAXES | DYNAMIC, amax_p, 0, ARGUMENT, "amax is NULL"),
    ROW(STATS, report_p, 0, ARGUMENT, "report is NULL"),
    ROW(STATS, report.size, 0, ARGUMENT, "size is 0"),
    ROW(STATS, report.size, sizeof(nib_quantize_report) - 1, ARGUMENT, "size is"),
    ROW(STATS, report.without_counts, 2, ARGUMENT, "without_counts is 2"),
    /* numbers where the device computes: addresses that no float or uint64 has */
    ROW(AMAX | AMAX_ROWS | AMAXES | DYNAMIC, amax_p, 0x1002, NIB_ERR_ALIGNMENT, "amax 0x1002"),
    ROW(AMAX | AMAXES, nonfinite_p, 0x1004, NIB_ERR_ALIGNMENT, "nonfinite 0x1004"),
    ROW(TAKE_PACKED, packed.tensor_scale, 0x1003, NIB_ERR_ALIGNMENT, "tensor_scale 0x1003"),
    ROW(QUANTIZE | QUANTIZES, options.tensor_amax, 0x1001, NIB_ERR_ALIGNMENT, "tensor_amax"),
    ROW(TAKE_OPTIONS, options.random, 0x1004, NIB_ERR_ALIGNMENT, "random 0x1004"),
    /* batch; a dynamic scale takes NULL for one matrix */
    ROW(TAKE_BATCH & ~DYNAMIC, batch_p, 0, ARGUMENT, "batch is NULL"),
    ROW(TAKE_BATCH, batch.size, 0, ARGUMENT, "size is 0"),
    ROW(TAKE_BATCH, batch.size, sizeof(nib_batch) - 1, ARGUMENT, "size is"),
    ROW(TAKE_BATCH, batch.tensor_stride, 2, ARGUMENT, "tensor_stride is 2"),
    ROW(TAKE_BATCH, batch.tensor_stride, -1, ARGUMENT, "tensor_stride is -1"),
    ROW(TAKE_BATCH, batch.count, -1, SHAPE, "count is -1"),
    ROW(TAKE_BATCH, batch.count, INT64_MIN, SHAPE, "-9223372036854775808"),
    ROW(TAKE_BATCH, batch.matrix_stride_elems, -1, SHAPE, "matrix_stride_elems is -1"),
    ROW(TAKE_BATCH, batch.matrix_stride_elems, MAX, SHAPE, "over INT64_MAX"),
    ROW(TAKE_BATCH, batch.matrix_stride_elems, MAX / 4 - ROWS * COLS + 1, SHAPE, "over INT64_MAX"),
    ROW(TAKE_PACKED & TAKE_BATCH, batch.codes_stride_bytes, -1, SHAPE, "codes_stride_bytes is -1"),
    ROW(TAKE_PACKED & TAKE_BATCH, batch.codes_stride_bytes, MAX, SHAPE, "over INT64_MAX"),
    ROW(TAKE_PACKED & TAKE_BATCH, batch.scales_stride_bytes, -1, SHAPE, "scales_stride_bytes is"),
    ROW(TAKE_PACKED & TAKE_BATCH, batch.scales_stride_bytes, MAX, SHAPE, "over INT64_MAX"),
    ROW(DEQUANTIZES, batch.count, 2, SHAPE, "matrix_stride_elems 0 outputs overlap"),
    ROW(QUANTIZES | DYNAMIC, batch.count, 2, SHAPE, "codes_stride_bytes 0 outputs overlap"),
    ROW(DYNAMIC, options.tensor_amax, 0x1000, ARGUMENT, "options->tensor_amax is given"),
    /* options */
    ROW(TAKE_OPTIONS, options.size, 0, ARGUMENT, "size is 0"),
    ROW(TAKE_OPTIONS, options.size, offsetof(nib_quantize_options, scale_rows) - 1, ARGUMENT,
        "size is"),
    ROW(TAKE_OPTIONS, options.scale_rows, 2, ARGUMENT, "scale_rows is 2"),
    ROW(TAKE_OPTIONS, options.scale_rows, 17, ARGUMENT, "17"),
    ROW(TAKE_OPTIONS, options.scale_rows, -16, ARGUMENT, "-16"),
    ROW(TAKE_OPTIONS, options.scale_choice, 5, ARGUMENT, "5"),
    ROW(TAKE_OPTIONS, options.scale_choice, -1, ARGUMENT, "-1"),
    ROW(TAKE_OPTIONS, options.rounding, 2, ARGUMENT, "2"),
    ROW(TAKE_OPTIONS, options.rounding, -1, ARGUMENT, "-1"),
    ROW(TAKE_OPTIONS, options.rounding, NIB_ROUND_STOCHASTIC, ARGUMENT, "random"),
    ROW(TAKE_OPTIONS, rules.size, 0, ARGUMENT, "size is 0"),
    ROW(TAKE_OPTIONS, rules.size, sizeof(nib_rules) - 1, ARGUMENT, "size is"),
    ROW(TAKE_OPTIONS, rules.tensor, 3, ARGUMENT, "tensor is 3"),
    ROW(TAKE_OPTIONS, rules.block, 3, ARGUMENT, "block is 3"),
    ROW(TAKE_OPTIONS, rules.element, 3, ARGUMENT, "element is 3"),
    ROW(TAKE_OPTIONS, rules.ties, 2, ARGUMENT, "ties is 2"),
    ROW(TAKE_OPTIONS, rules.zero_sign, 5, ARGUMENT, "zero_sign is 5"),
    ROW(TAKE_OPTIONS, rules.nonfinite, 2, ARGUMENT, "nonfinite is 2"),
    ROW(TAKE_OPTIONS, rules.mx, -1, ARGUMENT, "mx is"),
    ROW(TAKE_OPTIONS, rules.mx, 7, ARGUMENT, "mx is 7"),
    ROW(TAKE_OPTIONS, rules.e4m3_zero, 127, ARGUMENT, "e4m3_zero is 127"),
    ROW(TAKE_OPTIONS, rules.e4m3_min, 127, ARGUMENT, "e4m3_min is 127"),
};

static nib_device *open_cpu(void)
{
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    nib_device *device = NULL;
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    return device;
}

NIB_TEST(QuantizeRefuses, NothingOfAValidRequest)
{
    nib_device *device = open_cpu();
    for (int f = 0; f < FUNCTIONS; f++) {
        request r;
        request_init(&r, device);
        EXPECT(functions[f].call(&r) == NIB_OK, "%s%s", functions[f].name, nib_last_error());
    }
    nib_device_close(device);
}

NIB_TEST(QuantizeRefuses, OneFieldChanged)
{
    nib_device *device = open_cpu();
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        for (int f = 0; f < FUNCTIONS; f++) {
            const change *c = &changes[i];
            request r, before;
            if (!(c->functions & functions[f].bit)) continue;
            request_init(&r, device);
            memcpy((uint8_t *)&r + c->offset, &c->value, c->bytes);
            memcpy(&before, &r, sizeof r);
            EXPECT_FAILS(c->label, functions[f].call(&r), c->status, c->piece);
            EXPECT(!strncmp(nib_last_error(), functions[f].name, strlen(functions[f].name)),
                   "%s: '%s' does not start with '%s'", c->label, nib_last_error(),
                   functions[f].name);
            EXPECT(!memcmp(&before, &r, sizeof r), "%s%s: something was written", functions[f].name,
                   c->label);
        }
    nib_device_close(device);
}

/* The last allowed value of each field: what a check that is one too strict would refuse. */
static const change limits[] = {
    ROW(ALL, exec.threads, 0, NIB_OK, ""),
    ROW(ALL, exec.threads, 1024, NIB_OK, ""),
    ROW(DYNAMIC, batch_p, 0, NIB_OK, ""),
    ROW(TAKE_BATCH, batch.count, 0, NIB_OK, ""),
    ROW(TAKE_BATCH, batch.tensor_stride, 1, NIB_OK, ""),
    ROW(TAKE_BATCH, batch.matrix_stride_elems, MAX / 4 - ROWS * COLS, NIB_OK, ""),
    ROW(TAKE_BATCH, batch.codes_stride_bytes, MAX - ROWS * CODE_BYTES, NIB_OK, ""),
    ROW(TAKE_BATCH, batch.scales_stride_bytes, MAX - ROWS * SCALES, NIB_OK, ""),
    ROW(AMAX | AMAXES, nonfinite_p, 0, NIB_OK, ""),
    ROW(TAKE_PACKED, packed.scale_layout, NIB_SCALES_SWIZZLED_128X4, NIB_OK, ""),
    ROW(TAKE_OPTIONS, options_p, 0, NIB_OK, ""),
    ROW(TAKE_OPTIONS, options.rules, 0, NIB_OK, ""),
    ROW(TAKE_OPTIONS, options.scale_choice, NIB_SCALE_FOUR_OVER_SIX_MAE, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.tensor, NIB_TENSOR_SOURCE, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.block, NIB_BLOCK_TWO_STEP, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.element, NIB_ELEMENT_DIVIDE_ENC, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.mx, NIB_MX_EVEN_SOURCE, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.ties, NIB_TIES_DOWN, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.zero_sign, NIB_ZERO_SOURCE, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.nonfinite, NIB_NONFINITE_NAN, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.e4m3_zero, 126, NIB_OK, ""),
    ROW(TAKE_OPTIONS, rules.e4m3_min, 126, NIB_OK, ""),
};

NIB_TEST(QuantizeRefuses, NothingAtTheLimits)
{
    nib_device *device = open_cpu();
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        for (int f = 0; f < FUNCTIONS; f++) {
            request r;
            if (!(limits[i].functions & functions[f].bit)) continue;
            request_init(&r, device);
            memcpy((uint8_t *)&r + limits[i].offset, &limits[i].value, limits[i].bytes);
            EXPECT(functions[f].call(&r) == NIB_OK, "%s: %s", limits[i].label, nib_last_error());
        }
    nib_device_close(device);
}

NIB_TEST(QuantizeRefuses, MisalignedData)
{
    static const struct {
        const char *label;
        nib_dtype   dtype;
        size_t      off;
        nib_status  status;
    } rows[] = {
        { "f32 + 1", NIB_F32, 1, NIB_ERR_ALIGNMENT }, { "f32 + 2", NIB_F32, 2, NIB_ERR_ALIGNMENT },
        { "f32 + 4", NIB_F32, 4, NIB_OK },            { "f16 + 1", NIB_F16, 1, NIB_ERR_ALIGNMENT },
        { "f16 + 2", NIB_F16, 2, NIB_OK },            { "bf16 + 2", NIB_BF16, 2, NIB_OK },
        { "bf16 + 1", NIB_BF16, 1, NIB_ERR_ALIGNMENT },
    };
    nib_device *device = open_cpu();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int f = 0; f < FUNCTIONS; f++) {
            request r;
            if (functions[f].bit == RELAYOUT) continue;
            request_init(&r, device);
            r.matrix.dtype = rows[i].dtype;
            r.matrix.data = (uint8_t *)r.values + rows[i].off;
            r.matrix.rows = r.packed.rows = 2; /* the offset must not leave the buffer */
            if (rows[i].status == NIB_OK)
                EXPECT(functions[f].call(&r) == NIB_OK, "%s: %s", rows[i].label, nib_last_error());
            else
                EXPECT_FAILS(rows[i].label, functions[f].call(&r), rows[i].status,
                             rows[i].dtype == NIB_F32 ? "4 bytes" : "2 bytes");
        }
    nib_device_close(device);
}

NIB_TEST(QuantizeRefuses, WhatItsFormatCannotHold)
{
    nib_device *device = open_cpu();
    request r;
    request_init(&r, device);
    r.packed.format = NIB_MXFP4;
    r.packed.tensor_scale = NULL;
    EXPECT(quantize(&r) == NIB_OK, "%s", nib_last_error());
    r.options.tensor_amax = &r.tensor_amax;
    EXPECT_FAILS("tensor_amax", quantize(&r), UNSUPPORTED, "no tensor scale");
    r.options.tensor_amax = NULL;
    r.options.scale_choice = NIB_SCALE_FOUR_OVER_SIX_MSE;
    EXPECT_FAILS("four-over-six", quantize(&r), UNSUPPORTED, "0x200000");
    r.options.scale_choice = NIB_SCALE_FOUR_OVER_SIX_MAE;
    EXPECT_FAILS("four-over-six", quantize(&r), UNSUPPORTED, "0x200000");
    EXPECT_FAILS("four-over-six", quantize_batch(&r), UNSUPPORTED, "0x200000");
    r.options.scale_choice = NIB_SCALE_MSE;
    r.options.scale_rows = 16;
    EXPECT_FAILS("16 rows", quantize(&r), UNSUPPORTED, "scale choice 1");
    EXPECT_FAILS("16 rows", quantize_batch(&r), UNSUPPORTED, "scale choice 1");
    r.options.scale_choice = NIB_SCALE_AMAX;
    EXPECT_FAILS("dynamic", dynamic(&r), UNSUPPORTED, "no tensor scale");
    request_init(&r, device); /* GGUF's halves: 4 bits, whole blocks */
    r.packed.code_order = NIB_CODES_GGUF_HALVES;
    r.matrix.cols = r.packed.cols = 32;
    EXPECT(quantize(&r) == NIB_OK, "%s", nib_last_error());
    r.packed.format = NIB_MXFP6_E2M3;
    r.packed.ld_codes_bytes = 24;
    r.matrix.rows = r.packed.rows = 2;
    r.packed.tensor_scale = NULL;
    EXPECT_FAILS("6 bits", quantize(&r), UNSUPPORTED, "6 bits");
    nib_device_close(device);
}

NIB_TEST(QuantizeRefuses, TensorScaleArguments)
{
    float encode = 7, decode = 7;
    nib_rules rules;
    (void)nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, &rules);
    const nib_scale_choice amax_choice = NIB_SCALE_AMAX;
#define SCALE(format, r, choice, dtype, a, e, d) \
    nib_tensor_scale(format, r, (nib_scale_choice)(choice), (nib_dtype)(dtype), a, e, d)
    EXPECT_FAILS("encode", SCALE(NIB_NVFP4, &rules, amax_choice, 0, 1, NULL, &decode), ARGUMENT,
                 "NULL");
    EXPECT_FAILS("decode", SCALE(NIB_NVFP4, &rules, amax_choice, 0, 1, &encode, NULL), ARGUMENT,
                 "NULL");
    EXPECT_FAILS("format", SCALE(5, &rules, amax_choice, 0, 1, &encode, &decode), ARGUMENT, "0x5");
    EXPECT_FAILS("mxfp4", SCALE(NIB_MXFP4, &rules, amax_choice, 0, 1, &encode, &decode),
                 UNSUPPORTED, "no tensor scale");
    EXPECT_FAILS("choice", SCALE(NIB_NVFP4, &rules, 5, 0, 1, &encode, &decode), ARGUMENT, "5");
    EXPECT_FAILS("fp8 4/6", SCALE(NIB_FP8_E4M3_B16, &rules, NIB_SCALE_FOUR_OVER_SIX_MAE, 0, 1,
                                  &encode, &decode), UNSUPPORTED, "0x101103");
    EXPECT_FAILS("dtype", SCALE(NIB_NVFP4, &rules, amax_choice, 3, 1, &encode, &decode), ARGUMENT,
                 "dtype 3");
    static const float bad[] = { -1, NAN, INFINITY, -INFINITY };
    for (int i = 0; i < 4; i++)
        EXPECT_FAILS("amax", SCALE(NIB_NVFP4, &rules, amax_choice, 0, bad[i], &encode, &decode),
                     ARGUMENT, "amax is");
    rules.ties = (nib_tie_rule)2;
    EXPECT_FAILS("rules", SCALE(NIB_NVFP4, &rules, amax_choice, 0, 1, &encode, &decode), ARGUMENT,
                 "ties is 2");
    rules.size = 4;
    EXPECT_FAILS("rules.size", SCALE(NIB_NVFP4, &rules, amax_choice, 0, 1, &encode, &decode),
                 ARGUMENT, "size is 4");
    EXPECT(encode == 7 && decode == 7, "a refused call wrote %g, %g", (double)encode,
           (double)decode);
    EXPECT(SCALE(NIB_NVFP4, NULL, amax_choice, 0, 0, &encode, &decode) == NIB_OK, "%s",
           nib_last_error());
    EXPECT(encode == 1 && decode == 1, "an all-zero tensor: %g, %g", (double)encode,
           (double)decode);
    EXPECT(SCALE(NIB_NVFP4, NULL, amax_choice, 0, 2688, &encode, &decode) == NIB_OK && decode == 1,
           "amax 6 * 448 gives %g", (double)decode);
    EXPECT(SCALE(NIB_NVFP4, NULL, amax_choice, 0, FLT_MAX, &encode, &decode) == NIB_OK, "%s",
           nib_last_error());
}

NIB_TEST(QuantizeRefuses, RelayoutArguments)
{
    static const struct {
        const char *label;
        int64_t     rows, cols;
        int         from, to, null_src, null_dst;
        nib_status  status;
        const char *piece;
    } rows[] = {
        { "src", 1, 4, 0, 1, 1, 0, NIB_ERR_ARGUMENT, "NULL" },
        { "dst", 1, 4, 0, 1, 0, 1, NIB_ERR_ARGUMENT, "NULL" },
        { "from 2", 1, 4, 2, 1, 0, 0, NIB_ERR_ARGUMENT, "2" },
        { "to -1", 1, 4, 0, -1, 0, 0, NIB_ERR_ARGUMENT, "-1" },
        { "rows -1", -1, 4, 0, 1, 0, 0, NIB_ERR_SHAPE, "-1" },
        { "cols -1", 1, -1, 0, 1, 0, 0, NIB_ERR_SHAPE, "-1" },
        { "rows max", INT64_MAX, 1, 0, 1, 0, 0, NIB_ERR_SHAPE, "9223372036854775807" },
        { "cols max", 1, INT64_MAX, 0, 1, 0, 0, NIB_ERR_SHAPE, "9223372036854775807" },
        { "product", (int64_t)1 << 32, (int64_t)1 << 32, 0, 1, 0, 0, NIB_ERR_SHAPE, "4294967296" },
    };
    static uint8_t src[512], dst[512];
    nib_device *device = open_cpu();
    const nib_exec exec = { .size = sizeof exec, .device = device };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_scale_layout from, to;
        memcpy(&from, &rows[i].from, sizeof from);
        memcpy(&to, &rows[i].to, sizeof to);
        EXPECT_FAILS(rows[i].label,
                     nib_relayout_scales(&exec, rows[i].rows, rows[i].cols, from,
                                         rows[i].null_src ? NULL : src, to,
                                         rows[i].null_dst ? NULL : dst),
                     rows[i].status, rows[i].piece);
    }
    for (int i = 0; i < 4; i++)
        EXPECT(nib_relayout_scales(&exec, 1, 4, (nib_scale_layout)(i / 2), src,
                                   (nib_scale_layout)(i % 2), dst) == NIB_OK, "%s",
               nib_last_error());
    nib_device_close(device);
}
