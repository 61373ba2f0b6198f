/* quantize_given_test.c: quantize by given block scales. By the bytes that nib_quantize writes the
 * codes are its own; by any others their values are those of nib_fake_quantize by the same bytes,
 * which fakequant_given_test.c holds to a loop over the rules. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "expect_status.h"
#include "nibble/fakequant.h"
#include "tests/device_case.h"

#define OK(call) EXPECT((call) == NIB_OK, "%s", nib_last_error())

/* What nib_quantize_given leaves. */
typedef struct given {
    uint8_t *codes, *scales, *values; /* values: of the codes, in the source's dtype */
    float    tensor_scale;
} given;

static void given_free(given *g) { free(g->codes), free(g->scales), free(g->values); }

/* scales: in the setting's layout, with padding. tensor: the scale, read if there is no amax. */
static given given_run(const runner *r, const setting *s, const void *x, const uint8_t *scales,
                       float tensor, const float *amax)
{
    const nib_exec exec = exec_of(r);
    const int has = nib_format_has_tensor_scale(s->format);
    const int64_t ld = s->cols + s->ld_extra;
    const size_t width = s->dtype == NIB_F32 ? 4 : 2;
    const size_t bytes = (size_t)setting_matrix_bytes(s, s->dtype);
    buffer in = buffer_new(r, x, bytes, s->off * width);
    buffer values = buffer_new(r, NULL, bytes, s->off * width);
    buffer codes = buffer_new(r, NULL, (size_t)setting_codes_bytes(s), s->off);
    buffer block = buffer_new(r, scales, (size_t)setting_scales_bytes(s), s->off);
    buffer scale = buffer_new(r, &tensor, sizeof tensor, 0);
    buffer most = buffer_new(r, amax, sizeof *amax, 0);
    buffer random = buffer_new(r, s->random, sizeof s->random, 0);
    const nib_matrix src = { in.at, s->dtype, s->rows, s->cols, ld };
    const nib_matrix back = { values.at, s->dtype, s->rows, s->cols, ld };
    const nib_packed dst = { sizeof dst, s->format, s->order, s->layout, s->rows, s->cols, codes.at,
                             setting_ld_codes(s), block.at, has ? scale.at : NULL };
    const nib_quantize_options options = {
        .size = sizeof options, .scale_choice = s->choice, .rounding = s->rounding,
        .rules = &s->rules, .random = random.at, .tensor_amax = has && amax ? most.at : NULL,
        .scale_rows = s->scale_rows,
    };
    OK(nib_quantize_given(&exec, &src, &options, &dst));
    OK(nib_dequantize(&exec, &dst, &back));
    given g;
    buffer_get(&scale, &g.tensor_scale);
    g.codes = buffer_take(&codes);
    g.scales = buffer_take(&block);
    g.values = buffer_take(&values);
    buffer_free(&in), buffer_free(&scale), buffer_free(&most), buffer_free(&random);
    return g;
}

static void same(const void *a, const void *b, int64_t n, const char *what, const setting *s,
                 const runner *r)
{
    const uint8_t *got = a, *right = b;
    for (int64_t i = 0; n > 0 && memcmp(got, right, (size_t)n) && i < n; i++) {
        if (got[i] == right[i]) continue;
        EXPECT(0, "%s: %s, byte %lld of %lld is %#x, not %#x: format %#x, dtype %d, %lld x %lld + "
               "%lld, layout %d, order %d, rules %d%d%d, choice %d, rounding %d, scale rows %d, "
               "tensor scale %g, off %zu", r->name, what, (long long)i, (long long)n, got[i],
               right[i], s->format, s->dtype, (long long)s->rows, (long long)s->cols,
               (long long)s->ld_extra, s->layout, s->order, s->rules.element, s->rules.ties,
               s->rules.zero_sign, s->choice, s->rounding, s->scale_rows, (double)s->tensor_scale,
               s->off);
        return;
    }
}

/* By the scales that nib_quantize writes. */
static void check_quantized(const setting *s, int only_tame)
{
    const runner *list;
    const int n = runners_open(&list);
    void *x = case_source(s, only_tame);
    outcome o;
    case_run(&list[0], s, x, &o);
    const float *amax = s->tensor_scale == 0.0f ? &o.amax : NULL;
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (!case_is_few(&list[i], i, s)) continue;
        given g = given_run(&list[i], s, x, o.scales, amax ? NAN : s->tensor_scale, amax);
        same(g.codes, o.codes, setting_codes_bytes(s), "codes", s, &list[i]);
        same(g.scales, o.scales, setting_scales_bytes(s), "scales", s, &list[i]);
        if (nib_format_has_tensor_scale(s->format))
            same(&g.tensor_scale, &o.tensor_scale, sizeof(float), "tensor scale", s, &list[i]);
        given_free(&g);
    }
    case_release(&o);
    free(x);
}

/* What nib_fake_quantize makes of the same on the reference. */
static void *faked(const runner *r, const setting *s, const void *x, const uint8_t *scales,
                   float tensor)
{
    const nib_exec exec = exec_of(r);
    const int64_t ld = s->cols + s->ld_extra;
    const size_t bytes = (size_t)setting_matrix_bytes(s, s->dtype);
    buffer in = buffer_new(r, x, bytes, 0), out = buffer_new(r, NULL, bytes, 0);
    const nib_matrix src = { in.at, s->dtype, s->rows, s->cols, ld };
    const nib_matrix dst = { out.at, s->dtype, s->rows, s->cols, ld };
    const nib_quantize_options how = { .size = sizeof how, .rounding = s->rounding,
                                       .rules = &s->rules, .random = s->random };
    const nib_fake_options options = {
        .size = sizeof options, .format = s->format, .quantize = &how, .scales = scales,
        .scale_layout = s->layout,
        .tensor_scale = nib_format_has_tensor_scale(s->format) ? &tensor : NULL,
    };
    OK(nib_fake_quantize(&exec, &src, &options, &dst));
    buffer_free(&in);
    return buffer_take(&out);
}

/* By any bytes at all, padding among them, which stay as they are. */
static void check_any(const setting *s, float tensor, int only_tame)
{
    const runner *list;
    const int n = runners_open(&list);
    void *x = case_source(s, only_tame);
    outcome o;
    case_run(&list[0], s, x, &o);
    const int64_t count = setting_scales_bytes(s);
    for (int64_t i = 0; i < count; i++) {
        const uint32_t kind = next_random() % 4, near = next_random() % 7;
        o.scales[i] = kind == 0 ? (uint8_t)next_random() : kind == 1 ? o.scales[i]
                                : (uint8_t)(o.scales[i] + near - 3);
    }
    void *right = faked(&list[0], s, x, o.scales, tensor);
    given first = { .codes = NULL };
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (!case_is_few(&list[i], i, s)) continue;
        given g = given_run(&list[i], s, x, o.scales, tensor, NULL);
        same(g.values, right, setting_matrix_bytes(s, s->dtype), "values", s, &list[i]);
        same(g.scales, o.scales, count, "scales", s, &list[i]);
        if (i) same(g.codes, first.codes, setting_codes_bytes(s), "codes", s, &list[i]);
        if (i) given_free(&g);
        else first = g;
    }
    given_free(&first);
    case_release(&o);
    free(right), free(x);
}

/* ---- the tests ---- */

NIB_TEST(OnDeviceQuantizeGiven, ScalesThatQuantizeWritesGiveItsCodes)
{
    const int64_t cols[] = { 0, 1, 7, 16, 33, 100, 128, 1024, 1300 };
    const float tensor[] = { 0.0f, 0.011f, 1.0f };
    random_state = 4712;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int d = 0; d < 3; d++) {
                const int turn = f * 5 + preset * 7 + d * 11;
                setting s = setting_of(case_formats[f], (nib_dtype)d, preset);
                s.rows = turn % 19 == 0 ? 0 : 1 + turn % 4;
                s.cols = cols[(turn + f) % 9];
                s.layout = (nib_scale_layout)(turn / 2 % 2);
                s.ld_extra = turn % 2 ? 5 : 0;
                s.tensor_scale = tensor[turn / 3 % 3];
                s.off = turn % 7 == 0 ? (size_t)(turn / 7 % 5) : 0;
                s.rounding = (nib_rounding)(turn / 5 % 2);
                s.random[0] = next_random(), s.random[1] = next_random();
                check_quantized(&s, turn % 5 == 0);
            }
        }
    }
}

NIB_TEST(OnDeviceQuantizeGiven, SearchedOnesAndThoseOfSixteenRowsToo)
{
    random_state = 9;
    for (int i = 0; i < 90 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i % FORMATS], (nib_dtype)(i / 7 % 3), i % 5);
        const int four = (s.format & 0xfff) == 0x100;
        s.choice = i % 3 ? (nib_scale_choice)(next_random() % (four ? 5 : 3)) : NIB_SCALE_AMAX;
        s.scale_rows = i % 3 ? 0 : 16;
        s.rows = i % 3 ? 1 + i % 3 : 1 + i % 35;
        s.cols = s.choice == NIB_SCALE_MSE_FULL ? 96 : 64 + i % 9 * 32;
        if (s.choice != NIB_SCALE_MSE_FULL && i % 4 == 1) s.cols += 5;
        s.order = nib_format_element_bits(s.format) == 4 && s.cols % 32 == 0 && i % 2
                      ? NIB_CODES_GGUF_HALVES : NIB_CODES_PAIRS;
        s.layout = (nib_scale_layout)(i / 2 % 2);
        s.tensor_scale = i % 2 ? 0.02f : 0.0f;
        s.rounding = i % 4 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        check_quantized(&s, i % 2);
    }
}

NIB_TEST(OnDeviceQuantizeGiven, AnyScalesGiveWhatFakeQuantizeGives)
{
    const int64_t cols[] = { 0, 1, 7, 16, 33, 128, 1024, 1300 };
    const float tensor[] = { 1.0f, 0.011f, 1e-3f, 1e-44f, 3e38f, -1.0f, NAN };
    random_state = 21;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int c = 0; c < 8; c++) {
                const int turn = f * 5 + preset * 7 + c;
                setting s = setting_of(case_formats[f], (nib_dtype)(turn % 3), preset);
                s.rows = turn % 11 == 0 ? 0 : 1 + turn % 4;
                s.cols = cols[c];
                s.layout = (nib_scale_layout)(turn / 2 % 2);
                s.ld_extra = turn % 2 ? 5 : 0;
                s.off = turn % 7 == 0 ? (size_t)(turn / 7 % 5) : 0;
                s.rounding = turn % 6 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
                check_any(&s, tensor[turn % 7], turn % 5 == 0);
            }
        }
    }
}

NIB_TEST(OnDeviceQuantizeGiven, ManyRowsAndLongOnes)
{
    const int64_t shapes[][2] = { { 1, 100007 }, { 700, 48 }, { 140, 1024 } };
    random_state = 99;
    for (int i = 0; i < 6 && !nib_test_failed(); i++) {
        setting s = setting_of(i % 2 ? NIB_MXFP4 : NIB_NVFP4, (nib_dtype)(i % 3), NIB_RULES_TE);
        s.rows = shapes[i / 2][0], s.cols = shapes[i / 2][1];
        s.layout = (nib_scale_layout)(i % 2);
        check_any(&s, 0.5f, i == 2);
    }
}

/* By hand, and what is refused: all that nib_quantize refuses. */
NIB_TEST(QuantizeGiven, ByHandAndPreconditions)
{
    const runner *list;
    if (!runners_open(&list)) return;
    const nib_exec exec = exec_of(&list[0]);
    float x[32], tensor = 2.0f;
    uint8_t codes[16], scales[2] = { 0x38 | 0x80, 0x40 }; /* 1, its sign bit set, and 2 */
    for (int i = 0; i < 32; i++) x[i] = (float)(i % 16);
    const nib_matrix src = { x, NIB_F32, 1, 32, 32 };
    nib_packed dst = { sizeof dst, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 1, 32, codes, 16,
                       scales, &tensor };
    OK(nib_quantize_given(&exec, &src, NULL, &dst));
    EXPECT(codes[1] == 0x32 && codes[6] == 0x77, "%#x %#x", codes[1], codes[6]); /* 1 1.5, 6 6.5 */
    EXPECT(codes[9] == 0x21 && codes[15] == 0x66, "%#x %#x", codes[9], codes[15]);
    EXPECT(scales[0] == 0xb8 && scales[1] == 0x40 && tensor == 2.0f, "scales are an input");
    scales[1] = 0xff;
    memset(codes, 0x55, sizeof codes);
    OK(nib_quantize_given(&exec, &src, NULL, &dst));
    EXPECT(codes[1] == 0x32 && codes[8] == 0 && codes[15] == 0, "a scale that is NaN");
    dst.scales = NULL;
    EXPECT_FAILS("scales", nib_quantize_given(&exec, &src, NULL, &dst), NIB_ERR_ARGUMENT, "scales");
    dst.scales = scales, dst.cols = 16;
    EXPECT_FAILS("shape", nib_quantize_given(&exec, &src, NULL, &dst), NIB_ERR_SHAPE, "1 x 16");
    dst.cols = 32;
    nib_quantize_options o = { .size = sizeof o, .rounding = NIB_ROUND_STOCHASTIC };
    EXPECT_FAILS("random", nib_quantize_given(&exec, &src, &o, &dst), NIB_ERR_ARGUMENT,
                 "quantize_given: stochastic rounding needs");
    EXPECT_FAILS("exec", nib_quantize_given(NULL, &src, NULL, &dst), NIB_ERR_ARGUMENT, "exec");
    EXPECT_FAILS("src", nib_quantize_given(&exec, NULL, NULL, &dst), NIB_ERR_ARGUMENT, "src");
}
