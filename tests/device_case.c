/* device_case.c: runs and compares. See device_case.h. */
#include "device_case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"

const nib_format case_formats[FORMATS] = {
    NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, NIB_MXFP6_E2M3, NIB_MXFP6_E3M2,
    NIB_MXFP8_E4M3, NIB_MXFP8_E5M2, NIB_FP6_E2M3_B8, NIB_FP6_E2M3_B16, NIB_FP6_E2M3_B32,
    NIB_FP8_E4M3_B8, NIB_FP8_E4M3_B16, NIB_FP8_E4M3_B32,
    0x00801100, 0x00080000, 0x00100100, 0x00200101 /* no names: e2m1 by 128, by 8, no tensor */
};

uint32_t random_state = 1;

uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

float next_unit(void) { return (float)(next_random() >> 8) * 0x1p-24f * 2.0f - 1.0f; }

/* One element of a stretch of some kind: blocks see one kind or a border of two. */
static float element_of(int kind)
{
    const float specials[] = { INFINITY, -INFINITY, NAN, -NAN, 0.0f, -0.0f, 1e-45f, -1e-40f,
                               3.4e38f, -3.4e38f, 1.0f, -6.0f };
    switch (kind) {
    case 0: return -0.0f;
    case 1: return next_random() % 3 ? 0.0f : -0.0f;
    case 2: return (float)(int)(next_random() % 57 - 28) * 0.25f; /* ties of every step */
    case 3: return specials[next_random() % 12];
    case 4: return next_random() % 40 ? next_unit() : specials[next_random() % 12];
    case 5: return ldexpf(next_unit(), (int)(next_random() % 60) - 30);
    case 6: return ldexpf(next_unit(), -120 - (int)(next_random() % 30));
    case 7: return ldexpf(next_unit(), 100 + (int)(next_random() % 27));
    case 8: return (float)(int)(next_random() % 121 - 60) * 0.125f + next_unit() * 1e-6f;
    default: return next_unit() * 0.05f;
    }
}

void fill_matrix(nib_dtype dtype, void *data, int64_t n, int only_tame)
{
    int kind = 9;
    for (int64_t i = 0; i < n; i++) {
        if (i % 48 == 0) kind = only_tame ? 9 : (int)(next_random() % 14);
        const float x = element_of(kind);
        if (dtype == NIB_F32) ((float *)data)[i] = x;
        else nib_store_f32((int)dtype, data, i, x);
    }
}

setting setting_of(nib_format format, nib_dtype dtype, int preset)
{
    setting s = { .format = format, .dtype = dtype };
    EXPECT(nib_rules_fill((nib_rules_preset)preset, format, &s.rules) == NIB_OK, "%s",
           nib_last_error());
    return s;
}

int64_t setting_ld_codes(const setting *s)
{
    return nib_codes_row_bytes(s->format, s->cols) + s->ld_extra;
}

int64_t setting_matrix_bytes(const setting *s, nib_dtype dtype)
{
    const int64_t last = s->rows > 0 ? s->cols : 0;
    return ((s->rows - 1) * (s->cols + s->ld_extra) * (s->rows > 0) + last)
         * (dtype == NIB_F32 ? 4 : 2);
}

int64_t setting_codes_bytes(const setting *s)
{
    if (s->rows == 0) return 0;
    return (s->rows - 1) * setting_ld_codes(s) + nib_codes_row_bytes(s->format, s->cols);
}

int64_t setting_scales_bytes(const setting *s)
{
    return nib_scales_bytes(s->format, s->layout, s->rows, s->cols);
}

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

static void *take(buffer *b, void *to) /* into the host's own variable */
{
    const size_t bytes = b->bytes;
    void *content = buffer_take(b);
    memcpy(to, content, bytes);
    free(content);
    return to;
}

static void run_amax(const nib_exec *exec, const runner *r, const nib_matrix *src, outcome *o)
{
    buffer amax = buffer_new(r, NULL, sizeof(float), 0);
    buffer nonfinite = buffer_new(r, NULL, sizeof(uint64_t), 0);
    buffer rows = buffer_new(r, NULL, (size_t)src->rows * sizeof(float), 0);
    OK(nib_amax(exec, src, amax.at, nonfinite.at));
    OK(nib_amax_rows(exec, src, rows.at));
    take(&amax, &o->amax);
    take(&nonfinite, &o->nonfinite);
    o->amax_rows = buffer_take(&rows);
}

void case_run(const runner *r, const setting *s, const void *x, outcome *o)
{
    const nib_exec exec = exec_of(r);
    const int tensor = nib_format_has_tensor_scale(s->format);
    const int64_t ld = s->cols + s->ld_extra;
    const size_t width = s->dtype == NIB_F32 ? 4 : 2;
    buffer input = buffer_new(r, x, (size_t)setting_matrix_bytes(s, s->dtype), s->off * width);
    const nib_matrix src = { input.at, s->dtype, s->rows, s->cols, ld };
    memset(o, 0, sizeof *o);
    run_amax(&exec, r, &src, o);

    const float given = s->tensor_scale == 0.0f ? NAN : s->tensor_scale;
    buffer codes = buffer_new(r, NULL, (size_t)setting_codes_bytes(s), s->off);
    buffer scales = buffer_new(r, NULL, (size_t)setting_scales_bytes(s), s->off);
    buffer scale = buffer_new(r, &given, sizeof given, 0);
    buffer amax = buffer_new(r, &o->amax, sizeof o->amax, 0);
    buffer random = buffer_new(r, s->random, sizeof s->random, 0);
    const nib_packed packed = { sizeof packed, s->format, s->order, s->layout, s->rows, s->cols,
                                codes.at, setting_ld_codes(s), scales.at,
                                tensor ? scale.at : NULL };
    const nib_quantize_options options = {
        .size = sizeof options, .scale_choice = s->choice, .rounding = s->rounding,
        .rules = &s->rules, .random = random.at,
        .tensor_amax = tensor && s->tensor_scale == 0.0f ? amax.at : NULL,
        .scale_rows = s->scale_rows,
    };
    OK(nib_quantize(&exec, &src, &options, &packed));
    for (int d = 0; d < 3; d++) {
        buffer values = buffer_new(r, NULL, (size_t)setting_matrix_bytes(s, (nib_dtype)d),
                                   s->off * (d ? 2 : 4));
        const nib_matrix dst = { values.at, (nib_dtype)d, s->rows, s->cols, ld };
        OK(nib_dequantize(&exec, &packed, &dst));
        o->values[d] = buffer_take(&values);
    }
    o->report.size = sizeof o->report;
    const nib_status status = nib_quantize_stats(&exec, &src, &packed, &o->report);
    EXPECT(status == NIB_OK || (status == NIB_ERR_UNSUPPORTED && runner_is_cuda(r)), "%s",
           nib_last_error());
    if (status != NIB_OK) o->report.size = 0;
    take(&scale, &o->tensor_scale);
    o->codes = buffer_take(&codes);
    o->scales = buffer_take(&scales);
    buffer_free(&amax), buffer_free(&random), buffer_free(&input);
}

void case_release(outcome *o)
{
    free(o->codes), free(o->scales), free(o->amax_rows);
    for (int d = 0; d < 3; d++) free(o->values[d]);
}

static void describe(const setting *s, const runner *r, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s: format %#x dtype %d %lldx%lld + %lld, layout %d order %d, choice %d "
             "rounding %d, tensor scale %g, off %zu, scale rows %d, rules %d%d%d%d%d%d%d", r->name,
             s->format, s->dtype, (long long)s->rows, (long long)s->cols, (long long)s->ld_extra,
             s->layout, s->order, s->choice, s->rounding, (double)s->tensor_scale, s->off,
             s->scale_rows, s->rules.tensor, s->rules.block, s->rules.element, s->rules.mx,
             s->rules.ties, s->rules.zero_sign, s->rules.nonfinite);
}

/* Says what differs first, where many bytes may. */
static void same(const void *a, const void *b, int64_t n, const char *what, const char *text)
{
    if (n == 0 || memcmp(a, b, (size_t)n) == 0) return;
    const uint8_t *p = a, *q = b;
    int64_t first = -1, count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (p[i] == q[i]) continue;
        if (first < 0) first = i;
        count++;
    }
    EXPECT(count == 0, "%s: %lld of %lld bytes differ, first [%lld]: %#x, not %#x; %s", what,
           (long long)count, (long long)n, (long long)first, q[first], p[first], text);
}

void case_expect_equal(const setting *s, const runner *r, const outcome *a, const outcome *b)
{
    char text[600];
    describe(s, r, text, sizeof text);
    same(&a->amax, &b->amax, sizeof a->amax, "amax", text);
    same(&a->nonfinite, &b->nonfinite, sizeof a->nonfinite, "nonfinite", text);
    same(a->amax_rows, b->amax_rows, s->rows * 4, "amax_rows", text);
    same(&a->tensor_scale, &b->tensor_scale, sizeof a->tensor_scale, "tensor scale", text);
    same(a->scales, b->scales, setting_scales_bytes(s), "scales", text);
    same(a->codes, b->codes, setting_codes_bytes(s), "codes", text);
    static const char *const names[] = { "f32 values", "f16 values", "bf16 values" };
    for (int d = 0; d < 3; d++)
        same(a->values[d], b->values[d], setting_matrix_bytes(s, (nib_dtype)d), names[d], text);
    if (b->report.size) same(&a->report, &b->report, sizeof a->report, "statistics", text);
}

/* What lies between a row's end and the next row must not change. */
static void expect_gaps(const setting *s, const outcome *o)
{
    const int64_t row_bytes = nib_codes_row_bytes(s->format, s->cols);
    const int tail = (int)(s->cols * nib_format_element_bits(s->format) % 8);
    int64_t touched = 0;
    for (int64_t r = 0; r < s->rows; r++) {
        const uint8_t *gap = o->codes + r * (row_bytes + s->ld_extra) + row_bytes;
        if (tail) touched += gap[-1] >> tail != 0;
        if (r == s->rows - 1) break; /* behind the last row are canaries */
        for (int64_t i = 0; i < s->ld_extra; i++) touched += gap[i] != POISON;
        for (int d = 0; d < 3; d++) {
            const int64_t size = d ? 2 : 4, ld = s->cols + s->ld_extra;
            const uint8_t *end = o->values[d] + (r * ld + s->cols) * size;
            for (int64_t i = 0; i < s->ld_extra * size; i++) touched += end[i] != POISON;
        }
    }
    EXPECT(touched == 0, "%lld bytes between rows changed: format %#x %lldx%lld",
           (long long)touched, s->format, (long long)s->rows, (long long)s->cols);
}

/* Swizzled padding is zero: what no (row, scale column) maps to. */
static void expect_padding(const setting *s, const outcome *o)
{
    const int64_t cols = nib_scales_per_row(s->format, s->cols), tiles = (cols + 3) / 4;
    if (s->layout == NIB_SCALES_LINEAR) return;
    int64_t wrong = 0;
    for (int64_t i = 0; i < setting_scales_bytes(s); i++) {
        const int64_t tile = i / 512, in = i % 512;
        const int64_t m = tile / tiles * 128 + in % 16 / 4 * 32 + in / 16;
        const int64_t k = tile % tiles * 4 + in % 4;
        if (m >= s->rows || k >= cols) wrong += o->scales[i] != 0;
    }
    EXPECT(wrong == 0, "%lld padding bytes are not 0", (long long)wrong);
}

/* A GPU need not take what has no name, but says so. */
static int is_taken(const runner *r, const setting *s)
{
    const nib_exec exec = exec_of(r);
    if (!runner_is_cuda(r) || format_has_name(s->format)) return 1;
    buffer b = buffer_new(r, NULL, 256, 0);
    const nib_matrix m = { b.at, NIB_F32, 1, 8, 8 };
    const nib_packed p = { sizeof p, s->format, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 1, 8,
                           (uint8_t *)b.at + 64, 8, (uint8_t *)b.at + 128,
                           nib_format_has_tensor_scale(s->format)
                               ? (float *)(void *)((uint8_t *)b.at + 192) : NULL };
    const nib_status q = nib_quantize(&exec, &m, NULL, &p), d = nib_dequantize(&exec, &p, &m);
    EXPECT(q == NIB_OK || q == NIB_ERR_UNSUPPORTED, "%s", nib_last_error());
    EXPECT(d == NIB_OK || d == NIB_ERR_UNSUPPORTED, "%s", nib_last_error());
    buffer_free(&b);
    return q == NIB_OK && d == NIB_OK;
}

void case_check(const setting *s, const void *x, int few)
{
    const runner *list;
    const int n = runners_open(&list);
    const int lucky = 4 + (int)(next_random() % 4);
    outcome first, other;
    if (n == 0) return;
    case_run(&list[0], s, x, &first);
    expect_gaps(s, &first);
    expect_padding(s, &first);
    for (int i = 1; i < n; i++) {
        const int is_cuda = runner_is_cuda(&list[i]);
        if (few && !is_cuda && i != 2 && i != lucky) continue;
        if (!is_taken(&list[i], s)) continue;
        case_run(&list[i], s, x, &other);
        case_expect_equal(s, &list[i], &first, &other);
        case_release(&other);
    }
    case_release(&first);
}

void case_check_random(const setting *s, int only_tame, int few)
{
    void *x = case_source(s, only_tame);
    case_check(s, x, few);
    free(x);
}

int case_is_few(const runner *r, int i, const setting *s)
{
    return runner_is_cuda(r) ? format_has_name(s->format) : i == 0 || i == 4 || i == 6;
}

void *case_source(const setting *s, int only_tame)
{
    const int64_t n = s->rows * (s->cols + s->ld_extra);
    void *x = malloc((size_t)n * 4 + 4);
    fill_matrix(s->dtype, x, n, only_tame);
    return x;
}
