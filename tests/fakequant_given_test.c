/* fakequant_given_test.c: fake-quantize by given block scales. With the bytes that nib_quantize
 * writes it is what it is without them; with any others, what a loop of this file computes, which
 * knows the rules from format.h alone. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "expect_status.h"
#include "kernels/common/half.h"
#include "kernels/common/philox.h"
#include "nibble/fakequant.h"
#include "tests/device_case.h"

#define NEED_OFFER()                                                          \
    do {                                                                      \
        const runner *all_;                                                   \
        const int n_ = runners_open(&all_);                                   \
        if (!n_ || !all_[n_ - 1].device->ops->fake_quantize                   \
            || !all_[n_ - 1].device->ops->fake_quantize_backward)             \
            SKIP("fake_quantize is not in this backend");                     \
    } while (0)

static int64_t mask_ld(const setting *s) { return (s->cols + 7) / 8 + s->ld_extra; }

static size_t mask_bytes(const setting *s)
{
    return s->rows ? (size_t)((s->rows - 1) * mask_ld(s) + (s->cols + 7) / 8) : 0;
}

static size_t width_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* ---- the reference ---- */

typedef struct element_parts {
    int    bits, m, emin, codes; /* codes: magnitudes that are finite */
} element_parts;

static element_parts parts_of(nib_element element)
{
    static const element_parts parts[] = { /* format.h */
        { 4, 1, 0, 8 }, { 6, 3, 0, 32 }, { 6, 2, -2, 32 }, { 8, 3, -6, 127 }, { 8, 2, -14, 124 }
    };
    return parts[element];
}

static double magnitude_of(element_parts p, int code)
{
    const int e = code >> p.m, f = code & ((1 << p.m) - 1);
    return e ? ldexp(f + (1 << p.m), e - 1 + p.emin - p.m) : ldexp(f, p.emin - p.m);
}

/* NAN for a NaN's byte. */
static double scale_of(nib_format format, uint8_t byte)
{
    if (nib_format_scale(format) == NIB_SCALE_E8M0)
        return byte == 255 ? NAN : ldexp(1, (int)byte - 127);
    const int e = byte >> 3 & 15, m = byte & 7;
    return (byte & 127) == 127 ? NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
}

/* The number that is rounded to the element. */
static float scaled(const setting *s, float x, float scale, float t)
{
    const float encode = fminf(1.0f / t, FLT_MAX);
    if (nib_format_scale(s->format) == NIB_SCALE_E8M0) return x * (float)(1.0 / (double)scale);
    switch (s->rules.element) {
    case NIB_ELEMENT_RECIPROCAL: return x * fminf(1.0f / (scale * (1.0f / encode)), FLT_MAX);
    case NIB_ELEMENT_DIVIDE:     return x / (scale * t);
    case NIB_ELEMENT_DIVIDE_ENC: return x / (scale / encode);
    }
    return NAN;
}

/* Code of a magnitude. word: of stochastic rounding. */
static int rounded(const setting *s, element_parts p, double a, uint32_t word)
{
    int code = 0;
    while (code + 1 < p.codes && magnitude_of(p, code + 1) <= a) code++;
    if (code + 1 == p.codes) return code;
    const double low = magnitude_of(p, code), high = magnitude_of(p, code + 1);
    if (s->rounding == NIB_ROUND_STOCHASTIC)
        return code + ((double)(word >> 8) * 0x1p-24 < (a - low) / (high - low));
    if (a != (low + high) / 2) return code + (a > (low + high) / 2);
    return s->rules.ties == NIB_TIES_DOWN ? code : code + code % 2;
}

static int is_negative(const setting *s, float y, int code)
{
    switch (s->rules.zero_sign) {
    case NIB_ZERO_KEEP:     return signbit(y) != 0;
    case NIB_ZERO_POSITIVE: return code && signbit(y);
    case NIB_ZERO_MODELOPT: return !(y > 0);
    case NIB_ZERO_SOURCE:   return nib_round_to_dtype((int)s->dtype, y) < 0;
    case NIB_ZERO_INPUT:    break;
    }
    return y < 0;
}

/* What element i of the matrix becomes by this byte. */
static float value_of(const setting *s, float x, uint8_t byte, float t, uint64_t i, int *passes)
{
    const element_parts p = parts_of(nib_format_element(s->format));
    const float scale = (float)scale_of(s->format, byte), step = scale * t;
    const float limit = (float)magnitude_of(p, p.codes - 1) * step;
    *passes = fabsf(x) <= limit;
    if (isnan(scale)) return NAN;
    if (isnan(x)) /* an element's own, or its largest value */
        return p.bits == 8 ? NAN : (float)magnitude_of(p, p.codes - 1) * step;
    float y = scaled(s, x, scale, t);
    if (isnan(y)) y = x < 0 ? -0.0f : 0.0f;
    const uint32_t word = s->rounding == NIB_ROUND_STOCHASTIC
                              ? nib_random_word(s->random[0], s->random[1], i) : 0;
    const int code = rounded(s, p, fabs((double)y), word);
    const float magnitude = (float)magnitude_of(p, code);
    return (is_negative(s, y, code) ? -magnitude : magnitude) * step;
}

/* Values as f32 without gaps, and passes, one byte each. */
static void reference(const setting *s, const void *x, const uint8_t *scales, float given,
                      float *values, uint8_t *passes)
{
    const int64_t block = nib_format_block(s->format);
    const int64_t count = nib_scales_per_row(s->format, s->cols);
    const int has = nib_format_has_tensor_scale(s->format);
    const float t = has && given > 0 && isfinite(given) ? given : 1;
    for (int64_t i = 0; i < s->rows * s->cols; i++) {
        const int64_t row = i / s->cols, col = i % s->cols;
        int passed;
        values[i] = value_of(s, nib_load_f32((int)s->dtype, x,
                                             row * (s->cols + s->ld_extra) + col),
                             scales[row * count + col / block], t, (uint64_t)i, &passed);
        passes[i] = (uint8_t)passed;
    }
}

/* ---- one call ---- */

typedef struct call {
    const runner    *r;
    const setting   *s;
    const void      *x;
    const uint8_t   *scales;  /* linear; NULL: none are given */
    float            tensor;  /* scale */
    const float     *amax;    /* or NULL: tensor is read */
    nib_dtype        to;
    int              in_place;
} call;

#define OK(call) EXPECT((call) == NIB_OK, "%s", nib_last_error())

typedef struct made {
    uint8_t *values, *mask, *gradient; /* with all that lies between rows */
} made;

static void made_free(made *m) { free(m->values), free(m->mask), free(m->gradient); }

/* The bytes in the setting's layout, padding spoiled: it is not read. */
static uint8_t *laid_out(const setting *s, const uint8_t *linear)
{
    const int64_t cols = nib_scales_per_row(s->format, s->cols);
    uint8_t *out = malloc((size_t)setting_scales_bytes(s) + 1);
    memset(out, 0xff, (size_t)setting_scales_bytes(s));
    for (int64_t i = 0; i < s->rows * cols; i++) {
        const int64_t m = i / cols, k = i % cols;
        const int64_t at = s->layout == NIB_SCALES_LINEAR ? i
            : ((m / 128) * ((cols + 3) / 4) + k / 4) * 512 + m % 32 * 16 + m % 128 / 32 * 4 + k % 4;
        out[at] = linear[i];
    }
    return out;
}

/* Forward with a mask, then the gradient that is clamped by src: of src itself, so that the
 * elements that pass are seen. */
static made call_make(const call *c)
{
    const setting *s = c->s;
    const nib_exec exec = exec_of(c->r);
    const int tensor = nib_format_has_tensor_scale(s->format);
    const int64_t ld = s->cols + s->ld_extra;
    uint8_t *laid = c->scales ? laid_out(s, c->scales) : NULL;
    buffer input = buffer_new(c->r, c->x, (size_t)setting_matrix_bytes(s, s->dtype),
                              s->off * width_of(s->dtype));
    buffer output = c->in_place ? input : buffer_new(c->r, NULL, (size_t)setting_matrix_bytes(
                                                         s, c->to), s->off * width_of(c->to));
    buffer grad = buffer_new(c->r, NULL, (size_t)setting_matrix_bytes(s, s->dtype), 0);
    buffer mask = buffer_new(c->r, NULL, mask_bytes(s), s->off);
    buffer scale = buffer_new(c->r, &c->tensor, sizeof c->tensor, 0);
    buffer amax = buffer_new(c->r, c->amax, sizeof(float), 0);
    buffer random = buffer_new(c->r, s->random, sizeof s->random, 0);
    buffer bytes = buffer_new(c->r, laid, laid ? (size_t)setting_scales_bytes(s) : 0, s->off);
    const nib_quantize_options how = {
        .size = sizeof how, .scale_choice = s->choice, .rounding = s->rounding,
        .rules = &s->rules, .random = random.at, .tensor_amax = tensor && c->amax ? amax.at : NULL,
        .scale_rows = s->scale_rows,
    };
    nib_fake_options o = {
        .size = sizeof o, .format = s->format, .quantize = &how, .gradient = NIB_FAKE_CLAMP,
        .tensor_scale = tensor && !c->amax ? scale.at : NULL, .ld_mask_bytes = mask_ld(s),
        .scales = laid ? bytes.at : NULL, .scale_layout = s->layout,
    };
    const nib_matrix src = { input.at, s->dtype, s->rows, s->cols, ld };
    const nib_matrix dst = { output.at, c->to, s->rows, s->cols, ld };
    const nib_matrix grad_in = { grad.at, s->dtype, s->rows, s->cols, ld };
    made m;
    OK(nib_fake_quantize_backward(&exec, &src, &src, &o, &grad_in));
    o.mask = mask.at;
    OK(nib_fake_quantize(&exec, &src, &o, &dst));
    m.values = buffer_take(&output);
    m.mask = buffer_take(&mask);
    m.gradient = buffer_take(&grad);
    uint8_t *after = buffer_take(&bytes);
    EXPECT(!laid || !memcmp(after, laid, (size_t)setting_scales_bytes(s)), "%s: scales changed",
           c->r->name);
    free(after);
    if (!c->in_place) buffer_free(&input);
    buffer_free(&scale), buffer_free(&amax), buffer_free(&random);
    free(laid);
    return m;
}

static void expect_same(const call *c, const void *got, const void *right, size_t n,
                        const char *what)
{
    const setting *s = c->s;
    const uint8_t *a = got, *b = right;
    size_t first = 0;
    if (n == 0 || !memcmp(a, b, n)) return;
    while (a[first] == b[first]) first++;
    EXPECT(0, "%s: %s, byte %zu of %zu is %#x, not %#x: format %#x, dtype %d to %d, %lld x %lld + "
           "%lld, layout %d, rules %d%d%d, choice %d, rounding %d, tensor %g, in place %d",
           c->r->name, what, first, n, a[first], b[first], s->format, s->dtype, c->to,
           (long long)s->rows, (long long)s->cols, (long long)s->ld_extra, s->layout,
           s->rules.element, s->rules.ties, s->rules.zero_sign, s->choice, s->rounding,
           (double)c->tensor, c->in_place);
}

/* What the reference's values and passes are in memory, where src's gaps or POISON lie between. */
static void expect_reference(const call *c, const made *got, const float *values,
                             const uint8_t *passes)
{
    const setting *s = c->s;
    const int64_t ld = s->cols + s->ld_extra;
    const size_t bytes = (size_t)setting_matrix_bytes(s, c->to);
    const size_t source_bytes = (size_t)setting_matrix_bytes(s, s->dtype);
    uint8_t *right = malloc(bytes + 1), *gradient = malloc(source_bytes + 1);
    uint8_t *mask = malloc(mask_bytes(s) + 1);
    if (c->in_place) memcpy(right, c->x, bytes);
    else memset(right, POISON, bytes);
    memset(mask, POISON, mask_bytes(s));
    memset(gradient, POISON, source_bytes);
    for (int64_t r = 0; r < s->rows; r++) {
        memset(mask + r * mask_ld(s), 0, (size_t)(s->cols + 7) / 8);
        for (int64_t k = 0; k < s->cols; k++) {
            const int64_t i = r * s->cols + k, at = r * ld + k;
            const size_t w = width_of(s->dtype);
            nib_store_f32((int)c->to, right, at, values[i]);
            mask[r * mask_ld(s) + k / 8] |= (uint8_t)(passes[i] << k % 8);
            memset(gradient + (size_t)at * w, 0, w);
            if (passes[i]) memcpy(gradient + (size_t)at * w,
                                  (const uint8_t *)c->x + (size_t)at * w, w);
        }
    }
    expect_same(c, got->values, right, bytes, "values");
    expect_same(c, got->mask, mask, mask_bytes(s), "mask");
    expect_same(c, got->gradient, gradient, source_bytes, "gradient");
    free(right), free(mask), free(gradient);
}

/* What nib_quantize writes in linear layout, and its tensor scale and amax. */
static outcome quantized(const setting *s, const void *x)
{
    const runner *list;
    setting linear = *s;
    outcome o = { 0 };
    linear.layout = NIB_SCALES_LINEAR;
    if (runners_open(&list)) case_run(&list[0], &linear, x, &o);
    return o;
}

/* ---- tests ---- */
static void check_quantized(const setting *s, int only_tame, int turn)
{
    const runner *list;
    const int n = runners_open(&list);
    void *x = case_source(s, only_tame);
    outcome o = quantized(s, x);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (!case_is_few(&list[i], i, s)) continue;
        call c = { .r = &list[i], .s = s, .x = x, .tensor = s->tensor_scale,
                   .amax = s->tensor_scale == 0 ? &o.amax : NULL, .to = (nib_dtype)(turn % 3) };
        made without = call_make(&c);
        c.scales = o.scales;
        made with = call_make(&c);
        expect_same(&c, with.values, without.values, (size_t)setting_matrix_bytes(s, c.to),
                    "values as without");
        expect_same(&c, with.values, o.values[c.to], (size_t)setting_matrix_bytes(s, c.to),
                    "values as dequantized");
        expect_same(&c, with.mask, without.mask, mask_bytes(s), "mask as without");
        expect_same(&c, with.gradient, without.gradient,
                    (size_t)setting_matrix_bytes(s, s->dtype), "gradient as without");
        made_free(&with), made_free(&without);
    }
    case_release(&o);
    free(x);
}

NIB_TEST(OnDeviceFakequantGiven, ScalesThatQuantizeWritesChangeNothing)
{
    NEED_OFFER();
    const int64_t cols[] = { 0, 1, 7, 16, 33, 100, 128, 1024, 1300 };
    const float given[] = { 0.0f, 0.011f, 1.0f };
    random_state = 4711;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int d = 0; d < 3; d++) {
                for (int rounding = 0; rounding < 2; rounding++) {
                    const int turn = f * 5 + preset * 7 + d * 11 + rounding * 13;
                    setting s = setting_of(case_formats[f], (nib_dtype)d, preset);
                    s.rows = turn % 19 == 0 ? 0 : 1 + turn % 4;
                    s.cols = cols[(turn + f) % 9];
                    s.layout = (nib_scale_layout)(turn / 2 % 2);
                    s.ld_extra = turn % 2 ? 5 : 0;
                    s.tensor_scale = given[turn / 3 % 3];
                    s.off = turn % 7 == 0 ? (size_t)(turn / 7 % 5) : 0;
                    s.rounding = (nib_rounding)rounding;
                    s.random[0] = next_random(), s.random[1] = next_random();
                    check_quantized(&s, turn % 5 == 0, turn);
                }
            }
        }
    }
}

NIB_TEST(OnDeviceFakequantGiven, NorDoThoseOfSearchesAndOfSixteenRows)
{
    NEED_OFFER();
    random_state = 8;
    for (int i = 0; i < 120 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i % FORMATS], (nib_dtype)(i / 7 % 3), i % 5);
        const int four = (s.format & 0xfff) == 0x100;
        s.choice = i % 3 ? (nib_scale_choice)(next_random() % (four ? 5 : 3)) : NIB_SCALE_AMAX;
        s.scale_rows = i % 3 ? 0 : 16;
        s.rows = i % 3 ? 1 + i % 3 : 1 + i % 35;
        s.cols = s.choice == NIB_SCALE_MSE_FULL ? 100 : 70 + i % 9 * 110;
        s.layout = (nib_scale_layout)(i / 2 % 2);
        s.tensor_scale = i % 2 ? 0.02f : 0.0f;
        s.rounding = i % 4 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        check_quantized(&s, i % 2, i);
    }
}

/* Bytes that nib_quantize would write, near those, or any at all. */
static void fill_scales(const setting *s, const outcome *o, uint8_t *scales)
{
    const int64_t n = s->rows * nib_scales_per_row(s->format, s->cols);
    for (int64_t i = 0; i < n; i++) {
        const uint32_t kind = next_random() % 4, near = next_random() % 7;
        scales[i] = kind == 0 ? (uint8_t)next_random() : kind == 1 ? o->scales[i]
                              : (uint8_t)(o->scales[i] + near - 3);
    }
}

static void check_any(const setting *s, int only_tame, int turn)
{
    const runner *list;
    const int n = runners_open(&list);
    const size_t count = (size_t)(s->rows * s->cols);
    void *x = case_source(s, only_tame);
    outcome o = quantized(s, x);
    float *values = malloc((count + 1) * sizeof *values);
    uint8_t *passes = malloc(count + 1);
    uint8_t *scales = malloc((size_t)(s->rows * nib_scales_per_row(s->format, s->cols)) + 1);
    fill_scales(s, &o, scales);
    reference(s, x, scales, o.tensor_scale, values, passes);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (!case_is_few(&list[i], i, s)) continue;
        call c = { .r = &list[i], .s = s, .x = x, .scales = scales, .tensor = o.tensor_scale };
        for (int d = 0; d < 4; d++) {
            c.in_place = d == 3;
            c.to = d == 3 ? s->dtype : (nib_dtype)d;
            if (d < 3 && d != (turn + i) % 3) continue;
            made m = call_make(&c);
            expect_reference(&c, &m, values, passes);
            made_free(&m);
        }
    }
    case_release(&o);
    free(x), free(values), free(passes), free(scales);
}

NIB_TEST(OnDeviceFakequantGiven, AnyScalesAreALoopOverTheRules)
{
    NEED_OFFER();
    const int64_t cols[] = { 0, 1, 7, 16, 33, 100, 128, 1024, 1300 };
    const float given[] = { 0.0f, 0.011f, 1.0f };
    random_state = 20;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int c = 0; c < 9; c++) {
                const int turn = f * 5 + preset * 7 + c;
                setting s = setting_of(case_formats[f], (nib_dtype)(turn % 3), preset);
                s.rows = turn % 11 == 0 ? 0 : 1 + turn % 4;
                s.cols = cols[c];
                s.layout = (nib_scale_layout)(turn / 2 % 2);
                s.ld_extra = turn % 2 ? 5 : 0;
                s.tensor_scale = given[turn / 3 % 3];
                s.off = turn % 7 == 0 ? (size_t)(turn / 7 % 5) : 0;
                check_any(&s, turn % 5 == 0, turn);
            }
        }
    }
}

NIB_TEST(OnDeviceFakequantGiven, AnyRulesRoundingAndExtremeTensorScales)
{
    NEED_OFFER();
    const float given[] = { 1.0f, 1e-3f, 1e-44f, 2e-38f, 3e38f, 1e36f, -1.0f, NAN, INFINITY, 0.1f };
    random_state = 77;
    for (int i = 0; i < 240 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i % FORMATS], (nib_dtype)(i / 5 % 3), NIB_RULES_TE);
        nib_rules *r = &s.rules;
        r->element = (nib_element_rule)(next_random() % 3);
        r->ties = (nib_tie_rule)(next_random() % 2);
        r->zero_sign = (nib_zero_rule)(next_random() % 5);
        r->nonfinite = (nib_nonfinite_rule)(next_random() % 2);
        s.tensor_scale = given[next_random() % 10];
        s.rounding = i % 5 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        s.random[0] = next_random();
        s.random[1] = (uint64_t)next_random() << 32;
        s.layout = (nib_scale_layout)(i / 2 % 2);
        s.rows = 1 + i % 3;
        s.cols = 500 + i % 17 * 45;
        check_any(&s, i % 3 == 0, i);
    }
}

NIB_TEST(OnDeviceFakequantGiven, LongRowsAndManyRows)
{
    NEED_OFFER();
    const int64_t shapes[][2] = { { 1, 100007 }, { 700, 40 }, { 140, 1024 } };
    random_state = 98;
    for (int i = 0; i < 6 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i * 2 % 6], (nib_dtype)(i % 3),
                               i % 2 ? NIB_RULES_MODELOPT : NIB_RULES_TE);
        s.rows = shapes[i / 2][0], s.cols = shapes[i / 2][1];
        s.layout = (nib_scale_layout)(i % 2);
        check_any(&s, i == 2, i);
    }
}

/* What a refused option says, and what a caller of the first version leaves out. */
NIB_TEST(FakequantGiven, Preconditions)
{
    const runner *list;
    if (runners_open(&list) == 0) return;
    const nib_exec exec = exec_of(&list[0]); /* the CPU's */
    float x[32], y[32], again[32];
    for (int i = 0; i < 32; i++) x[i] = (float)i;
    const nib_matrix src = { x, NIB_F32, 1, 32, 32 }, dst = { y, NIB_F32, 1, 32, 32 };
    const uint8_t scale = 127;
    nib_fake_options o = { .size = sizeof o, .format = NIB_MXFP4, .gradient = NIB_FAKE_CLAMP,
                           .scales = &scale };
    OK(nib_fake_quantize(&exec, &src, &o, &dst));
    EXPECT(y[3] == 3 && y[5] == 4 && y[31] == 6, "%g %g %g", (double)y[3], (double)y[5],
           (double)y[31]);
    OK(nib_fake_quantize_backward(&exec, &src, &src, &o, &dst));
    EXPECT(y[6] == 6 && y[7] == 0, "%g %g", (double)y[6], (double)y[7]);
    o.scale_layout = (nib_scale_layout)2;
    EXPECT_FAILS("layout 2", nib_fake_quantize(&exec, &src, &o, &dst), NIB_ERR_ARGUMENT,
                 "scale_layout 2");
    EXPECT_FAILS("backward", nib_fake_quantize_backward(&exec, &src, &src, &o, &dst),
                 NIB_ERR_ARGUMENT, "scale_layout 2");
    o.size = offsetof(nib_fake_options, scales); /* the first version */
    OK(nib_fake_quantize(&exec, &src, &o, &dst));
    o = (nib_fake_options){ .size = sizeof o, .format = NIB_MXFP4 };
    OK(nib_fake_quantize(&exec, &src, &o, &(nib_matrix){ again, NIB_F32, 1, 32, 32 }));
    EXPECT(!memcmp(y, again, sizeof y), "the first version's options took scales");
    o.size = offsetof(nib_fake_options, scales) - 1;
    EXPECT_FAILS("size", nib_fake_quantize(&exec, &src, &o, &dst), NIB_ERR_ARGUMENT, "size");
    o.size = sizeof o, o.format = NIB_MXFP4_B16;
    o.scales = &scale, o.scale_layout = NIB_SCALES_SWIZZLED_128X4;
    const int64_t far = INT64_MAX / 4 - 64; /* 128 rows of scales are more */
    const nib_matrix wide = { x, NIB_F32, 1, far, far };
    EXPECT_FAILS("wide", nib_fake_quantize(&exec, &wide, &o, &wide), NIB_ERR_SHAPE, "over INT64");
}
