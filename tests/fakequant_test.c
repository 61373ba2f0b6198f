/* fakequant_test.c: fake-quantize is quantize and then dequantize, byte for byte; its mask and its
 * gradient are those of a reference that this file computes in f64. device_fixture.h says what is
 * compared with what. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "nibble/fakequant.h"
#include "tests/device_case.h"

static int is_offered(const runner *r)
{
    return r->device->ops->fake_quantize && r->device->ops->fake_quantize_backward;
}

/* A backend may lack the operation. */
static int device_offers(void)
{
    const runner *list;
    const int n = runners_open(&list);
    return n && is_offered(&list[n - 1]);
}

#define NEED_OFFER() \
    do { if (!device_offers()) SKIP("fake_quantize is not in this backend"); } while (0)

static size_t width_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

static int64_t mask_ld(const setting *s) { return (s->cols + 7) / 8 + s->ld_extra; }

/* Buffers end with their last row. */
static int64_t mask_bytes(const setting *s)
{
    return s->rows ? (s->rows - 1) * mask_ld(s) + (s->cols + 7) / 8 : 0;
}

/* ---- the reference ---- */

static double element_max(nib_format format)
{
    const double most[] = { 6, 7.5, 28, 448, 57344 }; /* format.h */
    return most[nib_format_element(format)];
}

/* NAN for a NaN's byte. */
static double scale_of(nib_format format, uint8_t byte)
{
    if (nib_format_scale(format) == NIB_SCALE_E8M0)
        return byte == 255 ? NAN : ldexp(1, (int)byte - 127);
    const int e = byte >> 3 & 15, m = byte & 7;
    return (byte & 127) == 127 ? NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
}

/* Which elements are not clamped, one byte each. A product of two f32 is exact in f64. */
static uint8_t *passes_of(const setting *s, const void *x, const outcome *o)
{
    uint8_t *passes = malloc((size_t)(s->rows * s->cols) + 1);
    const int64_t block = nib_format_block(s->format);
    const int64_t scales = nib_scales_per_row(s->format, s->cols);
    const float t = o->tensor_scale > 0 && isfinite(o->tensor_scale) ? o->tensor_scale : 1;
    const int has = nib_format_has_tensor_scale(s->format);
    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t c = 0; c < s->cols; c++) {
            const double scale = scale_of(s->format, o->scales[r * scales + c / block]);
            const float step = has ? (float)(scale * (double)t) : (float)scale;
            const float limit = (float)(element_max(s->format) * (double)step);
            const float v = nib_load_f32((int)s->dtype, x, r * (s->cols + s->ld_extra) + c);
            passes[r * s->cols + c] = fabsf(v) <= limit;
        }
    }
    return passes;
}

static uint8_t *mask_of(const setting *s, const uint8_t *passes)
{
    uint8_t *mask = malloc((size_t)mask_bytes(s) + 1);
    memset(mask, POISON, (size_t)mask_bytes(s));
    for (int64_t r = 0; r < s->rows; r++) {
        uint8_t *row = mask + r * mask_ld(s);
        memset(row, 0, (size_t)(s->cols + 7) / 8);
        for (int64_t c = 0; c < s->cols; c++)
            row[c / 8] |= (uint8_t)(passes[r * s->cols + c] << c % 8);
    }
    return mask;
}

/* What a gradient becomes; passes NULL: all pass. Gaps are as the buffer was before. */
static void *gradient_of(const setting *s, const void *g, nib_dtype from, nib_dtype to,
                         const uint8_t *passes, int in_place)
{
    const size_t bytes = (size_t)setting_matrix_bytes(s, to);
    uint8_t *out = malloc(bytes + 1);
    if (in_place) memcpy(out, g, bytes);
    else memset(out, POISON, bytes);
    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t c = 0; c < s->cols; c++) {
            const int64_t i = r * (s->cols + s->ld_extra) + c;
            const size_t w = width_of(to);
            if (passes && !passes[r * s->cols + c])
                memset(out + (size_t)i * w, 0, w);
            else if (from == to)
                memcpy(out + (size_t)i * w, (const uint8_t *)g + (size_t)i * w, w);
            else
                nib_store_f32((int)to, out, i, nib_load_f32((int)from, g, i));
        }
    }
    return out;
}

/* ---- one case ---- */

static void expect_bytes(const void *got, const void *right, int64_t n, const char *what,
                         const setting *s, const runner *r)
{
    const uint8_t *a = got, *b = right;
    for (int64_t i = 0; n > 0 && memcmp(a, b, (size_t)n) && i < n; i++) {
        if (a[i] == b[i]) continue;
        EXPECT(0, "%s: %s, byte %lld of %lld is %#x, not %#x: format %#x, dtype %d, %lld x %lld "
               "+ %lld, choice %d, rounding %d, tensor scale %g, off %zu", r->name, what,
               (long long)i, (long long)n, a[i], b[i], s->format, s->dtype, (long long)s->rows,
               (long long)s->cols, (long long)s->ld_extra, s->choice, s->rounding,
               (double)s->tensor_scale, s->off);
        return;
    }
}

/* Takes the buffer, and compares. */
static void expect_buffer(buffer *b, const void *right, const char *what, const setting *s)
{
    const runner *r = b->on;
    const size_t bytes = b->bytes;
    void *got = buffer_take(b);
    expect_bytes(got, right, (int64_t)bytes, what, s, r);
    free(got);
}

typedef struct fake_case {
    const setting    *s;
    const runner     *r;
    const void       *x;
    buffer            scale, amax, random;
    nib_exec          exec;
    nib_quantize_options quantize;
    nib_fake_options  options;
} fake_case;

static nib_matrix matrix_in(const fake_case *f, const buffer *b, nib_dtype dtype)
{
    const setting *s = f->s;
    return (nib_matrix){ b->at, dtype, s->rows, s->cols, s->cols + s->ld_extra };
}

static buffer matrix_buffer(const fake_case *f, const void *data, nib_dtype dtype)
{
    return buffer_new(f->r, data, (size_t)setting_matrix_bytes(f->s, dtype),
                      f->s->off * width_of(dtype));
}

static void case_open(fake_case *f, const runner *r, const setting *s, const void *x,
                      const outcome *o)
{
    const int tensor = nib_format_has_tensor_scale(s->format);
    const int dynamic = tensor && s->tensor_scale == 0.0f;
    *f = (fake_case){ .s = s, .r = r, .x = x, .exec = exec_of(r) };
    f->scale = buffer_new(r, &s->tensor_scale, sizeof(float), 0);
    f->amax = buffer_new(r, &o->amax, sizeof(float), 0);
    f->random = buffer_new(r, s->random, sizeof s->random, 0);
    f->quantize = (nib_quantize_options){
        .size = sizeof f->quantize, .scale_choice = s->choice, .rounding = s->rounding,
        .rules = &s->rules, .random = f->random.at, .tensor_amax = dynamic ? f->amax.at : NULL,
        .scale_rows = s->scale_rows,
    };
    f->options = (nib_fake_options){
        .size = sizeof f->options, .format = s->format,
        .tensor_scale = tensor && !dynamic ? f->scale.at : NULL,
    };
}

static void case_close(fake_case *f)
{
    buffer_free(&f->scale), buffer_free(&f->amax), buffer_free(&f->random);
}

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

/* To dtype, with a mask or without, in place or not. */
static void check_forward(fake_case *f, nib_dtype dtype, const void *values, const uint8_t *mask,
                          int in_place)
{
    const setting *s = f->s;
    buffer input = matrix_buffer(f, f->x, s->dtype);
    buffer output = in_place ? input : matrix_buffer(f, NULL, dtype);
    buffer bits = buffer_new(f->r, NULL, (size_t)mask_bytes(s), s->off);
    nib_fake_options o = f->options;
    o.quantize = &f->quantize;
    o.mask = mask ? bits.at : NULL;
    o.ld_mask_bytes = mask_ld(s);
    const nib_matrix src = matrix_in(f, &input, s->dtype), dst = matrix_in(f, &output, dtype);
    OK(nib_fake_quantize(&f->exec, &src, &o, &dst));
    if (mask) expect_buffer(&bits, mask, "mask", s);
    else buffer_free(&bits);
    if (!in_place) {
        expect_buffer(&input, f->x, "src", s);
        expect_buffer(&output, values, "values", s);
        return;
    }
    uint8_t *right = malloc((size_t)setting_matrix_bytes(s, dtype) + 1);
    const int64_t ld = s->cols + s->ld_extra, w = (int64_t)width_of(dtype);
    memcpy(right, f->x, (size_t)setting_matrix_bytes(s, dtype)); /* the gaps are src's */
    for (int64_t r = 0; r < s->rows; r++)
        memcpy(right + r * ld * w, (const uint8_t *)values + r * ld * w, (size_t)(s->cols * w));
    expect_buffer(&output, right, "values in place", s);
    free(right);
}

enum { BY_IDENTITY, BY_SOURCE, BY_MASK };

static void check_backward(fake_case *f, nib_dtype from, nib_dtype to, int how,
                           const uint8_t *passes, const uint8_t *mask, int in_place)
{
    static const char *const names[] = { "identity", "clamp by src", "clamp by mask" };
    const setting *s = f->s;
    uint8_t *g = malloc((size_t)setting_matrix_bytes(s, from) + 1);
    fill_matrix(from, g, setting_matrix_bytes(s, from) / (int64_t)width_of(from), 0);
    for (int64_t i = 0; i < setting_matrix_bytes(s, from) / (int64_t)width_of(from); i += 13) {
        if (from == NIB_F32) memcpy(g + i * 4, &(uint32_t){ 0xffa00001u }, 4); /* a NaN's own */
    }
    buffer input = matrix_buffer(f, f->x, s->dtype), grad = matrix_buffer(f, g, from);
    buffer output = in_place ? grad : matrix_buffer(f, NULL, to);
    buffer bits = buffer_new(f->r, mask, (size_t)mask_bytes(s), s->off);
    nib_fake_options o = f->options;
    o.quantize = &f->quantize;
    o.gradient = how == BY_IDENTITY ? NIB_FAKE_IDENTITY : NIB_FAKE_CLAMP;
    o.mask = how == BY_MASK ? bits.at : NULL;
    o.ld_mask_bytes = mask_ld(s);
    const nib_matrix src = matrix_in(f, &input, s->dtype), grad_out = matrix_in(f, &grad, from);
    const nib_matrix grad_in = matrix_in(f, &output, to);
    OK(nib_fake_quantize_backward(&f->exec, &grad_out, how == BY_SOURCE ? &src : NULL, &o,
                                  &grad_in));
    void *right = gradient_of(s, g, from, to, how == BY_IDENTITY ? NULL : passes, in_place);
    expect_buffer(&input, f->x, "src", s);
    expect_buffer(&bits, mask, "mask", s);
    if (!in_place) expect_buffer(&grad, g, "grad_out", s);
    expect_buffer(&output, right, names[how], s);
    free(right), free(g);
}

/* Every pass on every runner, or on few: the first of each instruction set. thorough: every pair of
 * dtypes; else some of them, by turn. */
static void check_all(const setting *s, const void *x, int few, int thorough, int turn)
{
    const runner *list;
    const int n = runners_open(&list);
    outcome o;
    case_run(&list[0], s, x, &o);
    uint8_t *passes = passes_of(s, x, &o), *mask = mask_of(s, passes);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        const runner *r = &list[i];
        if (!is_offered(r) || (runner_is_cuda(r) && !format_has_name(s->format))) continue;
        if (few && i != 0 && i != 4 && i != n - 1) continue;
        fake_case f;
        case_open(&f, r, s, x, &o);
        for (int d = 0; d < 3; d++) {
            if (!thorough && d != (turn + i) % 3) continue;
            const int with_mask = (turn + d + i) % 2;
            check_forward(&f, (nib_dtype)d, o.values[d], with_mask ? mask : NULL, 0);
        }
        check_forward(&f, s->dtype, o.values[s->dtype], turn % 2 ? mask : NULL, 1);
        for (int pair = 0; pair < 9; pair++) {
            const nib_dtype from = (nib_dtype)(pair / 3), to = (nib_dtype)(pair % 3);
            const int how = (turn + pair + i) % 3;
            if (!thorough && pair != (turn * 4 + i) % 9) continue;
            check_backward(&f, from, to, how, passes, mask, 0);
            if (from == to) check_backward(&f, from, to, (how + 1) % 3, passes, mask, 1);
        }
        check_backward(&f, s->dtype, s->dtype, BY_SOURCE, passes, mask, turn % 2);
        case_close(&f);
    }
    free(passes), free(mask);
    case_release(&o);
}

static void check_random(setting *s, int only_tame, int few, int thorough, int turn)
{
    const int64_t n = s->rows * (s->cols + s->ld_extra);
    void *x = malloc((size_t)n * 4 + 4);
    s->layout = NIB_SCALES_LINEAR;
    s->order = NIB_CODES_PAIRS;
    fill_matrix(s->dtype, x, n, only_tame);
    check_all(s, x, few, thorough, turn);
    free(x);
}

/* ---- the tests ---- */

NIB_TEST(OnDeviceFakequant, EveryFormatPresetDtypeAndRaggedShape)
{
    NEED_OFFER();
    const int64_t cols[] = { 0, 1, 7, 16, 33, 100, 128, 1024, 1300 };
    const float given[] = { 0.0f, 0.011f, 1.0f };
    random_state = 555;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int c = 0; c < 9; c++) {
                const int turn = f * 5 + preset * 7 + c;
                setting s = setting_of(case_formats[f], (nib_dtype)(turn % 3), preset);
                s.rows = turn % 11 == 0 ? 0 : 1 + turn % 4;
                s.cols = cols[c];
                s.ld_extra = turn % 2 ? 5 : 0;
                s.tensor_scale = given[turn / 3 % 3];
                s.off = turn % 7 == 0 ? (size_t)(turn / 7 % 5) : 0;
                check_random(&s, turn % 5 == 0, 1, turn % 4 == 0, turn);
            }
        }
    }
}

NIB_TEST(OnDeviceFakequant, EveryRuleChoiceRoundingAndExtremeTensorScale)
{
    NEED_OFFER();
    const float given[] = { 0.0f, 1.0f, 1e-3f, 1e-44f, 2e-38f, 3e38f, 1e36f, -1.0f, NAN, INFINITY };
    random_state = 1308;
    for (int i = 0; i < 300 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i % FORMATS], (nib_dtype)(i / 5 % 3), NIB_RULES_TE);
        const int four = (s.format & 0xfff) == 0x100;
        nib_rules *r = &s.rules;
        r->tensor = (nib_tensor_rule)(next_random() % 3);
        r->block = (nib_block_rule)(next_random() % 3);
        r->element = (nib_element_rule)(next_random() % 3);
        r->mx = (nib_mx_rule)(next_random() % 7);
        r->ties = (nib_tie_rule)(next_random() % 2);
        r->zero_sign = (nib_zero_rule)(next_random() % 5);
        r->nonfinite = (nib_nonfinite_rule)(next_random() % 2);
        r->e4m3_zero = next_random() % 127;
        r->e4m3_min = next_random() % 3 ? next_random() % 127 : 0;
        s.tensor_scale = given[next_random() % 10];
        s.choice = i % 3 ? NIB_SCALE_AMAX : (nib_scale_choice)(next_random() % (four ? 5 : 3));
        s.rounding = i % 5 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        s.random[0] = next_random();
        s.random[1] = (uint64_t)next_random() << 32;
        s.scale_rows = s.choice == NIB_SCALE_AMAX && i % 4 == 1 ? 16 : i % 2;
        s.rows = s.scale_rows > 1 ? 1 + i % 35 : 1 + i % 3;
        s.cols = s.choice == NIB_SCALE_MSE_FULL ? 200 : 1024 + i % 7 * 45;
        if (s.scale_rows > 1) s.cols = 70 + i % 9 * 10;
        check_random(&s, 0, 1, 0, i);
    }
}

NIB_TEST(OnDeviceFakequant, ThreadsShareOneLongRowAndManyShortOnes)
{
    NEED_OFFER();
    const int64_t shapes[][2] = { { 1, 200007 }, { 3001, 40 }, { 90, 1024 } };
    const nib_format format[] = { NIB_NVFP4, NIB_MXFP6_E2M3, NIB_MXFP4 };
    random_state = 99;
    for (int i = 0; i < 3 && !nib_test_failed(); i++) {
        setting s = setting_of(format[i], (nib_dtype)i, NIB_RULES_TE);
        s.rows = shapes[i][0];
        s.cols = shapes[i][1];
        check_random(&s, i == 2, 0, 0, i);
    }
}

NIB_TEST(OnDeviceFakequant, OutputsOfMoreThan8MiB) /* streamed past the caches on some CPUs */
{
    NEED_OFFER();
    random_state = 31;
    for (int i = 0; i < 2; i++) {
        setting s = setting_of(NIB_NVFP4, i ? NIB_BF16 : NIB_F32, NIB_RULES_TE);
        s.rows = 1500;
        s.cols = 3008;
        check_random(&s, 1, 1, 0, 2 - i);
    }
}

/* One NaN and one Inf in the gradient of a matrix without any: all others are those without. */
NIB_TEST(OnDeviceFakequant, GradientsThatAreNotFiniteMeetNoOther)
{
    NEED_OFFER();
    enum { N = 1024 };
    float x[N], g[N], got[N], scale = 0.01f;
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < N; i++) x[i] = (float)(i % 13 - 6) * 0.25f, g[i] = (float)i - 500.0f;
    g[100] = NAN;
    g[900] = -INFINITY;
    for (int i = 0; i < n; i++) {
        const nib_exec exec = exec_of(&list[i]);
        if (!is_offered(&list[i])) continue;
        buffer src = buffer_new(&list[i], x, sizeof x, 0);
        buffer grad = buffer_new(&list[i], g, sizeof g, 0);
        buffer t = buffer_new(&list[i], &scale, sizeof scale, 0);
        const nib_matrix xm = { src.at, NIB_F32, 1, N, N }, gm = { grad.at, NIB_F32, 1, N, N };
        const nib_fake_options o = { .size = sizeof o, .format = NIB_NVFP4, .tensor_scale = t.at,
                                     .gradient = NIB_FAKE_CLAMP };
        OK(nib_fake_quantize_backward(&exec, &gm, &xm, &o, &gm));
        buffer_get(&grad, got);
        int64_t wrong = 0, clamped = 0;
        for (int j = 0; j < N; j++) {
            clamped += got[j] == 0.0f && g[j] != 0.0f;
            wrong += got[j] != 0.0f && memcmp(&got[j], &g[j], sizeof got[j]) != 0;
        }
        EXPECT(wrong == 0 && clamped < N / 8, "%s: %lld are wrong, %lld clamped", list[i].name,
               (long long)wrong, (long long)clamped);
        buffer_free(&src), buffer_free(&grad), buffer_free(&t);
    }
}
