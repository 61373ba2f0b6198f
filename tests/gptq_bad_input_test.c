/* gptq_bad_input_test.c: every precondition of gptq.h, one broken at a time: the status, a piece of
 * the sentence, and inputs as they were. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/expect_status.h"
#include "tests/gptq_fixture.h"

enum { K = 48, ROWS = 20 };

#define ARGUMENT    NIB_ERR_ARGUMENT
#define SHAPE       NIB_ERR_SHAPE
#define UNSUPPORTED NIB_ERR_UNSUPPORTED
#define ALIGNMENT   NIB_ERR_ALIGNMENT
#define MEMORY      NIB_ERR_OUT_OF_MEMORY
#define NONFINITE   NIB_ERR_NONFINITE
#define CANCELLED   NIB_ERR_CANCELLED

/* Valid calls of both steps, of which a test spoils one thing. */
typedef struct request {
    nib_exec                exec;
    nib_hessian             h;
    nib_gptq_factor_options factor_options;
    nib_gptq_factor         factor;
    nib_matrix              w;
    nib_gptq_options        options;
    nib_packed              dst;
    nib_gptq_report         report;
    nib_rules               rules;
    int32_t                 cancel;
    gptq_source             source;
    gptq_moments            moments;
    buffer                  memory[8];
} request;

static void *memory_of(request *r, const runner *on, int i, const void *data, size_t bytes)
{
    r->memory[i] = buffer_new(on, data, bytes, 0);
    return r->memory[i].at;
}

static void request_open(request *r, const runner *on)
{
    static const float amax = 0.25f;
    random_state = 71;
    *r = (request){ .exec = exec_of(on), .source = gptq_source_make(NIB_F32, ROWS, K, 60, 0),
                    .factor_options = { .size = sizeof r->factor_options },
                    .report = { .size = sizeof r->report } };
    r->moments = gptq_moments_new(on, NIB_REAL_F32, K, 0, r->source.h, 60);
    r->h = r->moments.hessian;
    r->factor = (nib_gptq_factor){ .size = sizeof r->factor, .real = NIB_REAL_F32, .k = K,
                                   .l = memory_of(r, on, 0, NULL, K * K * 4), .ld_elems = K,
                                   .order = memory_of(r, on, 1, NULL, K * 4) };
    OK(nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, &r->rules));
    OK(nib_gptq_factor_make(&r->exec, &r->h, NULL, &r->factor));
    r->w = (nib_matrix){ memory_of(r, on, 2, r->source.wf, ROWS * K * 4), NIB_F32, ROWS, K, K };
    r->options = (nib_gptq_options){ .size = sizeof r->options,
                                     .quantize = { .size = sizeof r->options.quantize,
                                                   .rules = &r->rules,
                                                   .tensor_amax = memory_of(r, on, 3, &amax, 4) } };
    r->dst = (nib_packed){ sizeof r->dst, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, ROWS, K,
                           memory_of(r, on, 4, NULL, ROWS * K / 2), K / 2,
                           memory_of(r, on, 5, NULL, ROWS * K / 16),
                           memory_of(r, on, 6, NULL, 4) };
    r->exec.workspace_bytes = nib_gptq_workspace_bytes(on->device, NIB_REAL_F32, ROWS, K,
                                                       on->threads);
    r->exec.workspace = memory_of(r, on, 7, NULL, r->exec.workspace_bytes + 64);
}

/* After a failure: H and W are as they were, and with untouched, what is written as well. */
static void request_close(request *r, const char *what, int untouched)
{
    double h[K * K];
    int64_t changed = 0;
    EXPECT(gptq_moments_get(&r->moments, h) == 60, "%s: tokens", what);
    for (int i = 0; i < K * K; i++) changed += h[i] != (double)(float)r->source.h[i];
    float *w = buffer_take(&r->memory[2]);
    changed += memcmp(w, r->source.wf, ROWS * K * 4) != 0;
    free(w);
    for (int i = 4; i < 7; i++) {
        const size_t bytes = r->memory[i].bytes;
        uint8_t *out = buffer_take(&r->memory[i]);
        for (size_t b = 0; b < bytes; b++) changed += untouched && out[b] != POISON;
        free(out);
    }
    EXPECT(changed == 0, "%s: %lld numbers were written", what, (long long)changed);
    for (int i = 0; i < 8; i++)
        if (r->memory[i].whole) buffer_free(&r->memory[i]);
    gptq_moments_free(&r->moments);
    gptq_source_free(&r->source);
}

#define BAD(status, piece, call, what)                          \
    do {                                                        \
        request r;                                              \
        request_open(&r, device);                               \
        what;                                                   \
        EXPECT_FAILS(#call ", " #what, call, status, piece);    \
        request_close(&r, #call ", " #what, 1);                 \
    } while (0)

#define MAKE     nib_gptq_factor_make(&r.exec, &r.h, &r.factor_options, &r.factor)
#define QUANTIZE nib_gptq_quantize(&r.exec, &r.h, &r.factor, &r.w, &r.options, &r.dst, &r.report)
#define EITHER(status, piece, what)         \
    do {                                    \
        BAD(status, piece, MAKE, what);     \
        BAD(status, piece, QUANTIZE, what); \
    } while (0)

static const runner *device; /* of the running test */

static int is_there(void)
{
    const runner *list[GPTQ_RUNNERS];
    const int n = gptq_runners(list);
    if (n) device = GPTQ_FAST(list, n);
    return n;
}

NIB_TEST(OnDeviceGptqBadInput, OfHessianAndFactor)
{
    if (!is_there()) SKIP(gptq_missing());
    EITHER(ARGUMENT, "exec->device is NULL", r.exec.device = NULL);
    EITHER(ARGUMENT, "hessian->size is 4", r.h.size = 4);
    EITHER(ARGUMENT, "real", r.h.real = (nib_real)-1);
    EITHER(SHAPE, "k = -1", r.h.k = -1);
    EITHER(SHAPE, "ld_elems = 47", r.h.ld_elems = K - 1);
    EITHER(ARGUMENT, "data", r.h.data = NULL);
    EITHER(ALIGNMENT, "hessian", r.h.data = (uint8_t *)r.h.data + 2);
    EITHER(ALIGNMENT, "tokens", r.h.tokens = (uint64_t *)(void *)((uint8_t *)r.h.tokens + 4));
    EITHER(ARGUMENT, "factor->size is 16", r.factor.size = 16);
    EITHER(ARGUMENT, "real", r.factor.real = (nib_real)2);
    EITHER(ARGUMENT, "factor->l", r.factor.l = NULL);
    EITHER(ARGUMENT, "factor->order is NULL", r.factor.order = NULL);
    EITHER(ALIGNMENT, "factor->l", r.factor.l = (uint8_t *)r.factor.l + 2);
    EITHER(ALIGNMENT, "factor->order",
           r.factor.order = (int32_t *)(void *)((uint8_t *)r.factor.order + 2));
    EITHER(SHAPE, "ld_elems = 47", r.factor.ld_elems = K - 1);
    EITHER(SHAPE, "k = 47", r.factor.k = K - 1);
    EITHER(SHAPE, "real", r.factor.real = NIB_REAL_F64);
    BAD(ARGUMENT, "hessian is NULL",
        nib_gptq_factor_make(&r.exec, NULL, NULL, &r.factor), (void)0);
    BAD(ARGUMENT, "factor is NULL", nib_gptq_factor_make(&r.exec, &r.h, NULL, NULL), (void)0);
    BAD(ARGUMENT, "exec is NULL", nib_gptq_factor_make(NULL, &r.h, NULL, &r.factor), (void)0);
}

NIB_TEST(OnDeviceGptqBadInput, OfFactorOptions)
{
    if (!is_there()) SKIP(gptq_missing());
    BAD(ARGUMENT, "options->size is 4", MAKE, r.factor_options.size = 4);
    BAD(ARGUMENT, "order 3", MAKE, r.factor_options.order = (nib_gptq_order)3);
    BAD(ARGUMENT, "block is 28", MAKE, r.factor_options.order = NIB_GPTQ_GROUP_AWARE;
        r.factor_options.block = 28);
    BAD(ARGUMENT, "block is 0", MAKE, r.factor_options.order = NIB_GPTQ_GROUP_AWARE);
    BAD(ARGUMENT, "damping is inf", MAKE, r.factor_options.damping = INFINITY);
    BAD(ARGUMENT, "damping is", MAKE, r.factor_options.damping = NAN);
    BAD(ARGUMENT, "most_damping -1", MAKE, r.factor_options.most_damping = -1);
    BAD(ARGUMENT, "most_damping inf", MAKE, r.factor_options.most_damping = INFINITY);
    request r; /* a block is not read by other orders */
    request_open(&r, device);
    r.factor_options.block = 28;
    OK(MAKE);
    request_close(&r, "block", 1);
}

NIB_TEST(OnDeviceGptqBadInput, OfWeightsAndOutput)
{
    if (!is_there()) SKIP(gptq_missing());
    BAD(SHAPE, "w has 47 columns, hessian 48", QUANTIZE, r.w.cols = r.dst.cols = K - 1);
    BAD(SHAPE, "19", QUANTIZE, r.w.rows = ROWS - 1);
    BAD(SHAPE, "19", QUANTIZE, r.dst.rows = ROWS - 1);
    BAD(SHAPE, "w->ld_elems 47", QUANTIZE, r.w.ld_elems = K - 1);
    BAD(ARGUMENT, "w->dtype 9", QUANTIZE, r.w.dtype = (nib_dtype)9);
    BAD(ARGUMENT, "w->data is NULL", QUANTIZE, r.w.data = NULL);
    BAD(ALIGNMENT, "w->data", QUANTIZE, r.w.data = (uint8_t *)r.w.data + 2);
    BAD(ARGUMENT, "dst->size is 1", QUANTIZE, r.dst.size = 1);
    BAD(ARGUMENT, "not a format", QUANTIZE, r.dst.format = 3);
    BAD(SHAPE, "ld_codes_bytes 23", QUANTIZE, r.dst.ld_codes_bytes = K / 2 - 1);
    BAD(ARGUMENT, "codes", QUANTIZE, r.dst.codes = NULL);
    BAD(ARGUMENT, "tensor_scale is NULL", QUANTIZE, r.dst.tensor_scale = NULL);
    BAD(UNSUPPORTED, "GGUF", QUANTIZE, r.dst.code_order = NIB_CODES_GGUF_HALVES;
        r.dst.format = NIB_FP6_E2M3_B16; r.dst.ld_codes_bytes = K);
#define CALL(h, f, w, o, d) nib_gptq_quantize(&r.exec, h, f, w, o, d, NULL)
    BAD(ARGUMENT, "hessian is NULL", CALL(NULL, &r.factor, &r.w, NULL, &r.dst), (void)0);
    BAD(ARGUMENT, "factor is NULL", CALL(&r.h, NULL, &r.w, NULL, &r.dst), (void)0);
    BAD(ARGUMENT, "w is NULL", CALL(&r.h, &r.factor, NULL, NULL, &r.dst), (void)0);
    BAD(ARGUMENT, "dst is NULL", CALL(&r.h, &r.factor, &r.w, NULL, NULL), (void)0);
    BAD(ARGUMENT, "report->size is 8", QUANTIZE, r.report.size = 8);
}

NIB_TEST(OnDeviceGptqBadInput, OfOptions)
{
    static const uint64_t seed[2] = { 1, 0 };
    if (!is_there()) SKIP(gptq_missing());
#define Q r.options.quantize
    BAD(ARGUMENT, "options->size is 8", QUANTIZE, r.options.size = 8);
    BAD(ARGUMENT, "scales 5", QUANTIZE, r.options.scales = (nib_gptq_scales)5);
    BAD(ARGUMENT, "without_guard is 2", QUANTIZE, r.options.without_guard = 2);
    BAD(ARGUMENT, "options->size is 4", QUANTIZE, Q.size = 4);
    BAD(ARGUMENT, "scale choice 9", QUANTIZE, Q.scale_choice = (nib_scale_choice)9);
    BAD(ARGUMENT, "ties", QUANTIZE, r.rules.ties = (nib_tie_rule)2);
    BAD(ALIGNMENT, "tensor_amax", QUANTIZE,
        Q.tensor_amax = (const float *)(const void *)((const uint8_t *)Q.tensor_amax + 2));
    BAD(UNSUPPORTED, "tensor_amax", QUANTIZE, r.dst.format = NIB_MXFP4; r.dst.tensor_scale = NULL);
    BAD(UNSUPPORTED, "nearest", QUANTIZE, Q.rounding = NIB_ROUND_STOCHASTIC; Q.random = seed);
    BAD(UNSUPPORTED, "scale_rows is 16", QUANTIZE, Q.scale_rows = 16);
    BAD(ARGUMENT, "rounding", QUANTIZE, Q.rounding = (nib_rounding)2);
    BAD(ARGUMENT, "scale_rows", QUANTIZE, Q.scale_rows = 3);
    BAD(UNSUPPORTED, "fresh", QUANTIZE, r.factor.order_kind = NIB_GPTQ_ACT;
        r.options.scales = NIB_GPTQ_SCALES_FRESH);
    BAD(UNSUPPORTED, "fresh", QUANTIZE, r.factor.order_kind = NIB_GPTQ_ACT;
        r.options.scales = NIB_GPTQ_SCALES_HESSIAN_FRESH);
    BAD(UNSUPPORTED, "blocks of 32, the format has 16", QUANTIZE,
        r.factor.order_kind = NIB_GPTQ_GROUP_AWARE; r.factor.block = 32);
    BAD(ARGUMENT, "was not made", QUANTIZE, r.factor.outcome = (nib_gptq_outcome)3);
}

NIB_TEST(OnDeviceGptqBadInput, OfWorkspace)
{
    if (!is_there()) SKIP(gptq_missing());
    BAD(MEMORY, "has 0 bytes", QUANTIZE, r.exec.workspace = NULL);
    BAD(MEMORY, "are needed", QUANTIZE, r.exec.workspace_bytes--);
    BAD(MEMORY, "64 bytes", QUANTIZE, r.exec.workspace = (uint8_t *)r.exec.workspace + 16);
}

/* ---- NaN and Inf ---- */

static void put_weight(request *r, int64_t row, int64_t col, float x)
{
    float *w = malloc(ROWS * K * 4);
    memcpy(w, r->source.wf, ROWS * K * 4);
    w[row * K + col] = x;
    buffer_put(&r->memory[2], w);
    memcpy(r->source.wf, w, ROWS * K * 4);
    free(w);
}

/* The other triangle and other elements than the diagonal's are not looked at. */
static void put_diagonal(request *r, int64_t i, float x)
{
    const size_t bytes = K * K * 4;
    float *h = malloc(bytes);
    buffer_get(&r->moments.data, h);
    h[i * (K + 1)] = x;
    buffer_put(&r->moments.data, h);
    free(h);
}

NIB_TEST(OnDeviceGptqBadInput, OfNumbersThatAreNotFinite)
{
    if (!is_there()) SKIP(gptq_missing());
    BAD(NONFINITE, "row 0, column 0", QUANTIZE, put_weight(&r, 0, 0, INFINITY));
    BAD(NONFINITE, "row 19, column 47", QUANTIZE, put_weight(&r, ROWS - 1, K - 1, -INFINITY));
    BAD(NONFINITE, "row 7, column 5", QUANTIZE, put_weight(&r, 9, 0, -INFINITY);
        put_weight(&r, 7, 5, INFINITY));
    for (int i = 0; i < 6; i++) {
        const float bad[] = { NAN, INFINITY, -1 };
        request r;
        request_open(&r, device);
        put_diagonal(&r, 11, bad[i / 2]);
        if (i % 2) EXPECT_FAILS("factor", MAKE, NONFINITE, "input 11");
        else EXPECT_FAILS("layer", QUANTIZE, NONFINITE, "input 11");
        put_diagonal(&r, 11, (float)r.source.h[11 * (K + 1)]);
        request_close(&r, "diagonal", 1);
    }
}

/* Of halves too: their Inf and NaN are not those of f32. */
NIB_TEST(OnDeviceGptqBadInput, OfHalvesThatAreNotFinite)
{
    if (!is_there()) SKIP(gptq_missing());
    for (int i = 0; i < 4; i++) {
        const uint16_t bad[] = { 0x7c00, 0xfe00, 0xff80, 0x7fc1 };
        uint16_t halves[ROWS * K] = { 0 };
        request r;
        request_open(&r, device);
        halves[3 * K + 46] = bad[i];
        r.w.dtype = i < 2 ? NIB_F16 : NIB_BF16;
        buffer w = buffer_new(device, halves, sizeof halves, 0);
        r.w.data = w.at;
        EXPECT_FAILS("half", QUANTIZE, NONFINITE, "row 3, column 46");
        buffer_free(&w);
        request_close(&r, "half", 1);
    }
}

/* ---- cancelling; and what is left of a failed call ---- */

NIB_TEST(OnDeviceGptqBadInput, ACancelledCallSaysSo)
{
    if (!is_there()) SKIP(gptq_missing());
    request r;
    request_open(&r, device);
    r.cancel = 1;
    r.options.cancel = &r.cancel;
    EXPECT_FAILS("cancelled", QUANTIZE, CANCELLED, "");
    r.cancel = 0;
    OK(QUANTIZE);
    EXPECT(r.report.error < r.report.plain_error, "not cancelled");
    request_close(&r, "cancel", 0);
}

/* What a test spoils is good before. */
NIB_TEST(OnDeviceGptqBadInput, TheRestIsGood)
{
    if (!is_there()) SKIP(gptq_missing());
    request r;
    request_open(&r, device);
    OK(MAKE);
    OK(QUANTIZE);
    OK(nib_gptq_quantize(&r.exec, &r.h, &r.factor, &r.w, NULL, &r.dst, NULL));
    r.report.error = -1;
    r.w.rows = r.dst.rows = 0, r.w.data = NULL, r.exec.workspace = NULL; /* no rows */
    OK(QUANTIZE);
    EXPECT(r.report.error == 0 && r.report.rows == 0, "%g", r.report.error);
    request_close(&r, "good", 0);
}
