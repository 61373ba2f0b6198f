/* measured_test.c: codes and statistics in one pass are those of two, byte for byte, and of the
 * portable code.
 *
 * Looks below include/: calls quantize_measured of the tables of kernels/backend.h, and the host
 * function that a conversion calls.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "kernels/backend.h"
#include "kernels/common/half.h"
#include "nibble/format.h"
#include "tests/shim.h"

enum { MOST = 3 * 1100, POISON = 0xa5, GUARD = 64 };

static uint32_t random_state = 1;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

static float next_unit(void) { return (float)(next_random() >> 8) * 0x1p-24f * 2.0f - 1.0f; }

enum { KINDS = 15 };

/* Data of one kind; the first few are what weights look like, with an odd one among them. */
static float element_of(int kind, int64_t i)
{
    const float specials[] = { INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f, -1e-40f,
                               -0.0f };
    const float x = next_unit() * next_unit() * 0.05f;
    switch (kind) {
    case 0: return x;
    case 1: return next_random() % 8 ? x : next_random() % 2 ? 0.0f : -0.0f;
    case 2: return next_random() % 500 ? x : x * 60.0f;         /* outliers */
    case 3: return (float)(int)(next_random() % 57 - 28) * 0.25f; /* ties and exact values */
    case 4: return i / 32 % 3 ? x : -0.0f;                        /* blocks of zeros */
    case 5: return 0.0f;
    case 6: return ldexpf(x, -40 - (int)(next_random() % 20));
    case 7: return ldexpf(x, -125 - (int)(next_random() % 24));   /* denormal */
    case 8: return ldexpf(x, 50 + (int)(next_random() % 20));
    case 9: return ldexpf(x, 110 + (int)(next_random() % 20));
    case 10: return ldexpf(x, (int)(next_random() % 200) - 100);
    case 11: return next_random() % 700 ? x : specials[next_random() % 8];
    case 12: return specials[next_random() % 8];
    case 13: return ldexpf(x, i / 16 % 2 ? -14 : 0); /* blocks whose scale underflows */
    default: return (float)(int)(next_random() % 121 - 60) * 0.125f + next_unit() * 1e-6f;
    }
}

static void fill(nib_dtype dtype, int kind, void *data, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float x = element_of(kind, i);
        if (dtype == NIB_F32) ((float *)data)[i] = x;
        else nib_store_f32((int)dtype, data, i, x);
    }
}

typedef struct setting {
    nib_format           format;
    nib_matrix           src;
    nib_scale_layout     layout;
    nib_code_order       order;
    float                given; /* tensor scale; 0: from amax */
    nib_quantize_request request;
    int                  with_counts;
} setting;

typedef struct outcome {
    uint8_t            *codes, *scales;
    size_t              codes_bytes, scales_bytes;
    float               tensor_scale, amax;
    nib_packed          packed;
    nib_quantize_report report;
} outcome;

static nib_quantize_request prepare(const setting *s, outcome *o)
{
    const nib_launch launch = { .threads = 1 };
    nib_quantize_request request = s->request;
    uint64_t nonfinite;
    const int tensor = nib_format_has_tensor_scale(s->format);
    const int64_t ld = nib_codes_row_bytes(s->format, s->src.cols) + 3;
    o->codes_bytes = (size_t)(s->src.rows * ld) + GUARD;
    o->scales_bytes = (size_t)nib_scales_bytes(s->format, s->layout, s->src.rows, s->src.cols)
                    + GUARD;
    o->codes = malloc(o->codes_bytes);
    o->scales = malloc(o->scales_bytes);
    memset(o->codes, POISON, o->codes_bytes);
    memset(o->scales, POISON, o->scales_bytes);
    nib_backend_cpu_portable.amax(&launch, &s->src, &o->amax, &nonfinite);
    o->tensor_scale = s->given;
    request.tensor_amax = tensor && s->given == 0.0f ? &o->amax : NULL;
    o->packed = (nib_packed){ sizeof o->packed, s->format, s->order, s->layout, s->src.rows,
                              s->src.cols, o->codes, ld, o->scales,
                              tensor ? &o->tensor_scale : NULL };
    /* Counts are added to; figures that are not 0 would swallow small ones. */
    o->report = (nib_quantize_report){ .size = sizeof o->report, .elements = 7, .flushed = 3,
                                       .without_counts = !s->with_counts };
    return request;
}

static void release(outcome *o) { free(o->codes), free(o->scales); }

static void check(const setting *s, int32_t threads, const char *what)
{
    const nib_backend *portable = &nib_backend_cpu_portable, *avx2 = nib_backend_cpu_avx2();
    const nib_launch launch = { .threads = threads };
    outcome two, one;
    nib_quantize_request request = prepare(s, &two);
    portable->quantize(&launch, &s->src, &request, &two.packed);
    portable->quantize_stats(&launch, &s->src, &two.packed, &two.report);
    request = prepare(s, &one);
    const nib_status status = avx2->quantize_measured(&launch, &s->src, &request, &one.packed,
                                                      &one.report);
    const nib_quantize_report *a = &one.report, *b = &two.report;
    EXPECT(status == NIB_OK && memcmp(one.codes, two.codes, one.codes_bytes) == 0
               && memcmp(one.scales, two.scales, one.scales_bytes) == 0
               && memcmp(&one.tensor_scale, &two.tensor_scale, 4) == 0
               && memcmp(a, b, sizeof *a) == 0,
           "%s, format %#x dtype %d, %lld columns, layout %d, %d threads: status %d; %llu flushed "
           "for %llu, %llu saturated for %llu, error %a for %a, sums %a, %a for %a, %a", what,
           s->format, (int)s->src.dtype, (long long)s->src.cols, (int)s->layout, threads,
           (int)status, (unsigned long long)a->flushed, (unsigned long long)b->flushed,
           (unsigned long long)a->saturated, (unsigned long long)b->saturated, a->max_error,
           b->max_error, a->sum_sq_error, a->sum_sq, b->sum_sq_error, b->sum_sq);
    release(&one), release(&two);
}

static const nib_format formats[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16,
                                      0x00100100 /* e4m3 scales alone */ };

static setting setting_of(int turn, int preset, const void *x, nib_dtype dtype, int64_t rows,
                          int64_t cols, int64_t extra)
{
    setting s = { .format = formats[turn % 5], .layout = (nib_scale_layout)(turn / 5 % 2),
                  .src = { (void *)(uintptr_t)x, dtype, rows, cols, cols + extra } };
    nib_rules_fill((nib_rules_preset)preset, s.format, &s.request.rules);
    return s;
}

NIB_TEST(Measured, EveryPresetKindAndRaggedWidth)
{
    if (!nib_backend_cpu_avx2()) SKIP("no AVX2");
    static float x[MOST];
    random_state = 99;
    int turn = 0;
    for (int preset = 0; preset < 5 && !nib_test_failed(); preset++) {
        for (int kind = 0; kind < KINDS; kind++) {
            for (int64_t cols = 1; cols <= 1100; cols += cols < 70 ? 3 : cols == 199 ? 801 : 43) {
                for (int dtype = 0; dtype < 3; dtype++) {
                    char what[40];
                    snprintf(what, sizeof what, "preset %d, kind %d", preset, kind);
                    fill((nib_dtype)dtype, kind, x, 2 * cols);
                    const setting s = setting_of(turn++, preset, x, (nib_dtype)dtype, 2, cols, 0);
                    check(&s, 1, what);
                }
            }
        }
    }
}

NIB_TEST(Measured, WholePiecesOfEveryFormat)
{
    if (!nib_backend_cpu_avx2()) SKIP("no AVX2");
    static float x[MOST];
    random_state = 5;
    for (int i = 0; i < 5 * 5 * KINDS * 3 && !nib_test_failed(); i++) {
        const int preset = i / 5 % 5, kind = i / 25 % KINDS, dtype = i / 25 / KINDS;
        char what[40];
        snprintf(what, sizeof what, "preset %d, kind %d", preset, kind);
        fill((nib_dtype)dtype, kind, x, 3 * 1100);
        setting s = setting_of(i, preset, x, (nib_dtype)dtype, 3, 1024, 76);
        check(&s, 1, what);
        s.with_counts = 1;
        check(&s, 1, "with counts");
    }
}

NIB_TEST(Measured, EveryRuleChoiceAndTensorScale)
{
    if (!nib_backend_cpu_avx2()) SKIP("no AVX2");
    static float x[MOST];
    const uint64_t random[2] = { 1, 2 };
    const float given[] = { 0.0f, 0.011f, 1.0f, 1e-3f, 1e-44f, 2e-38f, 3e38f, 1e25f, 1e-27f, 6e-31f,
                            -1.0f, NAN, INFINITY };
    random_state = 777;
    for (int i = 0; i < 3000 && !nib_test_failed(); i++) {
        const nib_dtype dtype = (nib_dtype)(i / 5 % 3);
        fill(dtype, (int)(next_random() % KINDS), x, MOST);
        setting s = setting_of(i, 0, x, dtype, 1 + i % 3, 900 + next_random() % 200, 0);
        nib_rules *r = &s.request.rules;
        r->tensor = (nib_tensor_rule)(next_random() % 3);
        r->block = (nib_block_rule)(next_random() % 3);
        r->element = (nib_element_rule)(next_random() % 3);
        r->mx = (nib_mx_rule)(next_random() % 7);
        r->ties = (nib_tie_rule)(next_random() % 2);
        r->zero_sign = (nib_zero_rule)(next_random() % 5);
        r->nonfinite = (nib_nonfinite_rule)(next_random() % 2);
        r->e4m3_zero = next_random() % 127;
        r->e4m3_min = next_random() % 3 ? next_random() % 127 : 0;
        s.given = given[next_random() % 13];
        if (next_random() % 3 == 0) {
            const int four = (s.format & 0xf00) == 0x100;
            s.request.scale_choice = (nib_scale_choice)(next_random() % (four ? 5 : 3));
        }
        if (i % 20 == 0) {
            s.request.rounding = NIB_ROUND_STOCHASTIC;
            s.request.random = random;
        }
        if (i % 20 == 1) {
            s.order = NIB_CODES_GGUF_HALVES;
            s.src.cols = s.src.ld_elems = s.src.cols / 32 * 32;
        }
        check(&s, 1, "rules at random");
    }
}

/* Quotients around the limit: codes of 7 further than 6 steps from 0, or just not. */
NIB_TEST(Measured, ElementsAroundSixSteps)
{
    if (!nib_backend_cpu_avx2()) SKIP("no AVX2");
    static float x[MOST];
    random_state = 31;
    for (int i = 0; i < 600 && !nib_test_failed(); i++) {
        const float amax = ldexpf(1.0f + next_unit() * 0.4f, i % 200 - 100);
        for (int c = 0; c < 1024; c++) {
            const int ulps = (int)(next_random() % 9) - 4;
            const float v = c % 16 ? amax * (c % 5 ? 0.97f : 1.0f) : amax * 1.01f;
            x[c] = nib_float_of(nib_bits_of(v * (c % 3 ? 1.0f : -1.0f)) + (uint32_t)ulps);
        }
        const setting s = setting_of(i, i / 5 % 5, x, NIB_F32, 1, 1024, 0);
        check(&s, 1, "around six steps");
    }
}

/* One square that lets the sums run in f32, and others that underflow there: a fused sum has one
 * rounding and not two. The tensor scale is too small for the large element, whose error counts. */
NIB_TEST(Measured, SquaresThatUnderflow)
{
    if (!nib_backend_cpu_avx2()) SKIP("no AVX2");
    static uint16_t x[1024];
    random_state = 17;
    for (int i = 0; i < 300; i++) {
        for (int c = 0; c < 1024; c++) {
            const float v = c ? ldexpf(next_unit(), -61 - (i + c % 3) % 8) : 0x1.2p-49f;
            x[c] = (uint16_t)(nib_bits_of(v) >> 16);
        }
        setting s = setting_of(0, i % 5, x, NIB_BF16, 1, 1024, 0);
        s.given = 0x1p-62f;
        check(&s, 1, "squares that underflow");
    }
}

NIB_TEST(Measured, SameForEveryNumberOfThreads)
{
    if (!nib_backend_cpu_avx2()) SKIP("no AVX2");
    enum { ROWS = 70, COLS = 2100 };
    float *x = malloc(sizeof *x * ROWS * COLS);
    random_state = 8;
    for (int dtype = 0; dtype < 3; dtype++) {
        for (int kind = 0; kind < KINDS; kind += 2) {
            const int32_t threads[] = { 1, 2, 5 };
            fill((nib_dtype)dtype, kind, x, ROWS * COLS);
            for (int t = 0; t < 3; t++) {
                const setting s = setting_of(kind, 1, x, (nib_dtype)dtype, ROWS, COLS, 0);
                check(&s, threads[t], "threads");
            }
        }
    }
    free(x);
}

NIB_TEST(Measured, HostFunctionIsTheTwoPublicOnes)
{
    enum { ROWS = 3, COLS = 700 };
    static float x[ROWS * COLS];
    random_state = 3;
    fill(NIB_F32, 2, x, ROWS * COLS);
    nib_device *device;
    const nib_device_options choose = { .size = sizeof choose, .backend = NIB_BACKEND_CPU };
    REQUIRE(nib_device_open(&choose, &device) == NIB_OK, "%s", nib_last_error());
    const nib_exec exec = { .size = sizeof exec, .device = device, .threads = 1 };
    outcome two, one;
    setting s = setting_of(0, 1, x, NIB_F32, ROWS, COLS, 0);
    for (int empty = 0; empty < 2 && nib_has_quantize_measured(&exec); empty++) {
        if (empty) s.src.rows = 0;
        nib_quantize_request request = prepare(&s, &two);
        nib_quantize_options options = { .size = sizeof options, .rules = &request.rules,
                                         .tensor_amax = request.tensor_amax };
        EXPECT(nib_quantize(&exec, &s.src, &options, &two.packed) == NIB_OK
                   && nib_quantize_stats(&exec, &s.src, &two.packed, &two.report) == NIB_OK,
               "%s", nib_last_error());
        request = prepare(&s, &one);
        options.tensor_amax = request.tensor_amax;
        EXPECT(nib_quantize_measured(&exec, &s.src, &options, &one.packed, &one.report) == NIB_OK,
               "%s", nib_last_error());
        EXPECT(memcmp(one.codes, two.codes, one.codes_bytes) == 0
                   && memcmp(&one.report, &two.report, sizeof one.report) == 0
                   && one.tensor_scale == two.tensor_scale, "empty %d", empty);
        s.src.cols--;
        EXPECT(nib_quantize_measured(&exec, &s.src, &options, &one.packed, &one.report)
                   == NIB_ERR_SHAPE, "%s", nib_last_error());
        s.src.cols++;
        EXPECT(nib_quantize_measured(&exec, &s.src, &options, &one.packed, NULL)
                   == NIB_ERR_ARGUMENT, "%s", nib_last_error());
        release(&one), release(&two);
    }
    EXPECT(!nib_has_quantize_measured(NULL), "no exec");
    nib_device_close(device);
}
