/* backend_equality_test.c: every CPU table, thread count and layout writes the same bytes.
 *
 * Looks below include/: calls the tables of kernels/backend.h, since host/ chooses one of them.
 * What is compared is the portable code with one thread against itself with more, and AVX2.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/backend.h"
#include "kernels/common/half.h"
#include "nibble/format.h"
#include "tests/shim.h"

enum { POISON = 0xa5, GUARD = 64, MAX_TABLES = 8 };

static uint32_t random_state = 1;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

static float next_unit(void) { return (float)(next_random() >> 8) * 0x1p-24f * 2.0f - 1.0f; }

/* One element of a 48-element stretch of some kind: blocks see one kind or a border of two. */
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

static void fill(nib_dtype dtype, void *data, int64_t n, int only_tame)
{
    int kind = 9;
    for (int64_t i = 0; i < n; i++) {
        if (i % 48 == 0) kind = only_tame ? 9 : (int)(next_random() % 14);
        const float x = element_of(kind);
        if (dtype == NIB_F32) ((float *)data)[i] = x;
        else nib_store_f32((int)dtype, data, i, x);
    }
}

typedef struct table {
    const nib_backend *ops;
    int32_t            threads;
} table;

static int tables_of(table *t)
{
    const nib_backend *avx2 = nib_backend_cpu_avx2();
    const int32_t threads[] = { 1, 2, 3, 7 };
    int n = 0;
    for (int i = 0; i < 4; i++) t[n++] = (table){ &nib_backend_cpu_portable, threads[i] };
    for (int i = 0; i < 4 && avx2; i++) t[n++] = (table){ avx2, threads[i] };
    return n;
}

typedef struct setting {
    nib_format           format;
    nib_dtype            dtype;
    int64_t              rows, cols, ld_extra;
    nib_scale_layout     layout;
    nib_code_order       order;
    float                tensor_scale; /* given; 0: from amax */
    nib_quantize_request request;
} setting;

/* Everything one table makes of one matrix. */
typedef struct outcome {
    uint8_t *codes, *scales, *values[3];
    size_t   codes_bytes, scales_bytes, values_bytes[3];
    float    tensor_scale, amax, *amax_rows;
    uint64_t nonfinite;
    nib_quantize_report report;
} outcome;

static uint8_t *poisoned(size_t bytes)
{
    uint8_t *p = aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
    memset(p, POISON, bytes + GUARD);
    return p;
}

static int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

static void run(const table *t, const setting *s, const void *x, outcome *o)
{
    const nib_launch launch = { .threads = t->threads };
    const int block = (int)(s->format >> 16 & 0xfff), tensor = s->format >> 12 & 1;
    const int element = (int)(s->format & 0xff), bits = element == 0 ? 4 : element < 3 ? 6 : 8;
    const int64_t row_bytes = (s->cols * bits + 7) / 8, ld_codes = row_bytes + s->ld_extra;
    const int64_t scale_cols = (s->cols + block - 1) / block;
    const int64_t scales = s->layout == NIB_SCALES_LINEAR
                         ? s->rows * scale_cols
                         : round_up(s->rows, 128) * round_up(scale_cols, 4);
    const nib_matrix src = { (void *)(uintptr_t)x, s->dtype, s->rows, s->cols,
                             s->cols + s->ld_extra };

    memset(o, 0, sizeof *o);
    o->codes_bytes = (size_t)(s->rows * ld_codes) + GUARD;
    o->scales_bytes = (size_t)scales + GUARD;
    o->codes = poisoned(o->codes_bytes);
    o->scales = poisoned(o->scales_bytes);
    o->amax_rows = (float *)(void *)poisoned((size_t)s->rows * sizeof(float));
    t->ops->amax(&launch, &src, &o->amax, &o->nonfinite);
    t->ops->amax_rows(&launch, &src, o->amax_rows);

    nib_packed packed = { sizeof packed, s->format, s->order, s->layout, s->rows, s->cols,
                          o->codes, ld_codes, o->scales, tensor ? &o->tensor_scale : NULL };
    nib_quantize_request request = s->request;
    o->tensor_scale = s->tensor_scale;
    request.tensor_amax = tensor && s->tensor_scale == 0.0f ? &o->amax : NULL;
    t->ops->quantize(&launch, &src, &request, &packed);

    for (int d = 0; d < 3; d++) {
        o->values_bytes[d] = (size_t)(s->rows * (s->cols + s->ld_extra)) * (d ? 2 : 4) + GUARD;
        o->values[d] = poisoned(o->values_bytes[d]);
        const nib_matrix dst = { o->values[d], (nib_dtype)d, s->rows, s->cols,
                                 s->cols + s->ld_extra };
        t->ops->dequantize(&launch, &packed, &dst);
    }
    o->report.size = sizeof o->report;
    t->ops->quantize_stats(&launch, &src, &packed, &o->report);
}

static void release(outcome *o)
{
    free(o->codes), free(o->scales), free(o->amax_rows);
    for (int d = 0; d < 3; d++) free(o->values[d]);
}

static void describe(const setting *s, const table *t, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s, %d threads: format %#x dtype %d %lldx%lld + %lld, layout %d order "
             "%d, choice %d rounding %d, tensor scale %g, rules %d%d%d%d%d%d%d", t->ops->name,
             t->threads, s->format, s->dtype, (long long)s->rows, (long long)s->cols,
             (long long)s->ld_extra, s->layout, s->order, s->request.scale_choice,
             s->request.rounding, (double)s->tensor_scale, s->request.rules.tensor,
             s->request.rules.block, s->request.rules.element, s->request.rules.mx,
             s->request.rules.ties, s->request.rules.zero_sign, s->request.rules.nonfinite);
}

static int same_report(const nib_quantize_report *a, const nib_quantize_report *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static void expect_equal(const setting *s, const table *t, const outcome *a, const outcome *b)
{
    char text[400];
    describe(s, t, text, sizeof text);
    EXPECT(memcmp(&a->amax, &b->amax, 4) == 0 && a->nonfinite == b->nonfinite, "%s", text);
    EXPECT(memcmp(a->amax_rows, b->amax_rows, (size_t)s->rows * 4) == 0, "%s", text);
    EXPECT(memcmp(&a->tensor_scale, &b->tensor_scale, 4) == 0, "%s", text);
    EXPECT(memcmp(a->scales, b->scales, a->scales_bytes) == 0, "%s", text);
    EXPECT(memcmp(a->codes, b->codes, a->codes_bytes) == 0, "%s", text);
    for (int d = 0; d < 3; d++) {
        EXPECT(memcmp(a->values[d], b->values[d], a->values_bytes[d]) == 0, "%s to %d", text, d);
    }
    EXPECT(same_report(&a->report, &b->report), "%s", text);
}

/* What lies between a row's end and the next row must not change. */
static void expect_guards(const setting *s, const outcome *o)
{
    const int element = (int)(s->format & 0xff), bits = element == 0 ? 4 : element < 3 ? 6 : 8;
    const int64_t row_bytes = (s->cols * bits + 7) / 8;
    int64_t touched = 0;
    for (int64_t r = 0; r < s->rows; r++) {
        const uint8_t *gap = o->codes + r * (row_bytes + s->ld_extra) + row_bytes;
        for (int64_t i = 0; i < s->ld_extra; i++) touched += gap[i] != POISON;
        if (s->cols * bits % 8) touched += gap[-1] >> (s->cols * bits % 8) != 0;
        for (int d = 0; d < 3; d++) {
            const int64_t size = d ? 2 : 4, ld = s->cols + s->ld_extra;
            const uint8_t *end = o->values[d] + (r * ld + s->cols) * size;
            for (int64_t i = 0; i < s->ld_extra * size; i++) touched += end[i] != POISON;
        }
    }
    for (int i = 0; i < GUARD; i++) {
        touched += o->codes[o->codes_bytes - GUARD + (size_t)i] != POISON;
        touched += o->scales[o->scales_bytes - GUARD + (size_t)i] != POISON;
    }
    EXPECT(touched == 0, "%lld bytes outside the matrices changed: format %#x %lldx%lld",
           (long long)touched, s->format, (long long)s->rows, (long long)s->cols);
}

/* Swizzled padding is zero: what no (row, scale column) maps to. */
static void expect_padding(const setting *s, const outcome *o)
{
    const int block = (int)(s->format >> 16 & 0xfff);
    const int64_t cols = (s->cols + block - 1) / block, tiles = (cols + 3) / 4;
    if (s->layout == NIB_SCALES_LINEAR) return;
    int64_t wrong = 0;
    for (int64_t i = 0; i < (int64_t)o->scales_bytes - GUARD; i++) {
        const int64_t tile = i / 512, in = i % 512;
        const int64_t m = tile / tiles * 128 + in % 16 / 4 * 32 + in / 16;
        const int64_t k = tile % tiles * 4 + in % 4;
        if (m >= s->rows || k >= cols) wrong += o->scales[i] != 0;
    }
    EXPECT(wrong == 0, "%lld padding bytes are not 0", (long long)wrong);
}

/* Runs the setting on every table. few: two tables only, one of each kind. */
static void check(const setting *s, const void *x, int few)
{
    table tables[MAX_TABLES];
    const int n = tables_of(tables);
    outcome first, other;
    run(&tables[0], s, x, &first);
    expect_guards(s, &first);
    expect_padding(s, &first);
    for (int i = 1; i < n; i++) {
        if (few && i != 2 && i != 4 + (int)(next_random() % 4)) continue;
        run(&tables[i], s, x, &other);
        expect_equal(s, &tables[i], &first, &other);
        release(&other);
    }
    release(&first);
}

static const nib_format formats[] = {
    NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, NIB_MXFP6_E2M3, NIB_MXFP6_E3M2,
    NIB_MXFP8_E4M3, NIB_MXFP8_E5M2, NIB_FP6_E2M3_B8, NIB_FP6_E2M3_B16, NIB_FP6_E2M3_B32,
    NIB_FP8_E4M3_B8, NIB_FP8_E4M3_B16, NIB_FP8_E4M3_B32,
    0x00801100, 0x00080000, 0x00100100, 0x00201101 /* no names: e2m1 by 128, by 8, no tensor */
};
enum { FORMATS = sizeof formats / sizeof *formats };

static setting setting_of(nib_format format, nib_dtype dtype, int preset)
{
    setting s = { .format = format, .dtype = dtype };
    nib_rules_fill((nib_rules_preset)preset, format, &s.request.rules);
    return s;
}

NIB_TEST(BackendEquality, EveryFormatPresetDtypeAndRaggedShape)
{
    const int64_t cols[] = { 0, 1, 7, 15, 16, 17, 31, 33, 100, 128, 1000, 1024, 4101 };
    const int64_t rows[] = { 0, 1, 2, 3, 127, 129 };
    random_state = 12345;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            for (int c = 0; c < 13; c++) {
                for (int r = 0; r < 6; r++) {
                    const int turn = f + preset + c + r;
                    if (r >= 4 && (cols[c] > 128 || (turn & 3))) continue;
                    if (cols[c] > 4000 && r != 1 + turn % 3) continue;
                    setting s = setting_of(formats[f], (nib_dtype)(turn % 3), preset);
                    s.rows = rows[r];
                    s.cols = cols[c];
                    s.ld_extra = turn % 2 ? 5 : 0;
                    s.layout = (nib_scale_layout)(turn / 2 % 2);
                    const float given[] = { 0.0f, 0.011f, 1.0f };
                    s.tensor_scale = given[turn / 3 % 3];
                    const int64_t n = s.rows * (s.cols + s.ld_extra);
                    void *x = malloc((size_t)n * 4 + 4);
                    fill(s.dtype, x, n, turn % 5 == 0);
                    check(&s, x, 1);
                    free(x);
                }
            }
        }
    }
}

NIB_TEST(BackendEquality, EveryFourBitRuleOnTiesAndSpecials) /* each rule alone and together */
{
    const nib_format four[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, 0x00100100 };
    random_state = 777;
    for (int i = 0; i < 400 && !nib_test_failed(); i++) {
        setting s = setting_of(four[i % 5], (nib_dtype)(i / 5 % 3), NIB_RULES_TE);
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
        const float given[] = { 0.0f, 1.0f, 1e-3f, 1e-44f, 2e-38f, 3e38f, -1.0f, NAN, INFINITY };
        s.tensor_scale = given[next_random() % 9];
        s.rows = 1 + i % 3;
        s.cols = 2048 + i % 7 * 11;
        s.layout = (nib_scale_layout)(i % 2);
        float *x = malloc((size_t)(s.rows * s.cols) * 4);
        fill(s.dtype, x, s.rows * s.cols, 0);
        check(&s, x, 1);
        free(x);
    }
}

/* Blocks whose amax lies within 100 ulp of c * 2^k for every k: where rules of E8M0 scales turn.
 * c is 1, 1.5 (the quotient by 6) and 1.75 (rounded up to E2M1's mantissa). */
NIB_TEST(BackendEquality, EveryMxRuleAroundEveryPowerOfTwo)
{
    enum { BLOCKS = 255 * 3 * 41, N = BLOCKS * 16 };
    float *x = calloc(N, sizeof *x);
    for (int i = 0; i < BLOCKS; i++) {
        const uint32_t mantissa[] = { 0, 0x400000, 0x600000 };
        const uint32_t power = (uint32_t)(i / 123) << 23 | mantissa[i / 41 % 3];
        const uint32_t bits = power + (uint32_t)(i % 41 * 5 - 100);
        x[i * 16 + i % 16] = nib_float_of((int32_t)bits < 0 ? 0 : bits);
    }
    for (int rule = 0; rule < 7; rule++) {
        setting s = setting_of(NIB_MXFP4_B16, NIB_F32, NIB_RULES_TE);
        s.request.rules.mx = (nib_mx_rule)rule;
        s.rows = 1;
        s.cols = N;
        check(&s, x, 1);
    }
    uint16_t *h = malloc(N * sizeof *h); /* every third pattern */
    for (int i = 0; i < BLOCKS; i++) {
        for (int j = 0; j < 16; j++) h[i * 16 + j] = j ? 0 : (uint16_t)(i * 3);
    }
    for (int rule = 0; rule < 7; rule++) {
        setting s = setting_of(NIB_MXFP4_B16, rule % 2 ? NIB_F16 : NIB_BF16, NIB_RULES_TE);
        s.request.rules.mx = rule % 2 ? NIB_MX_EVEN_SOURCE : (nib_mx_rule)rule;
        s.request.rules.zero_sign = NIB_ZERO_SOURCE;
        s.rows = 1;
        s.cols = N;
        check(&s, h, 1);
    }
    free(x), free(h);
}

NIB_TEST(BackendEquality, SearchesStochasticRoundingAndGgufOrder)
{
    const uint64_t random[2] = { 0x123456789abcdefu, 0xfffffffffffffff0u };
    random_state = 4242;
    for (int i = 0; i < 120 && !nib_test_failed(); i++) {
        setting s = setting_of(formats[i % FORMATS], (nib_dtype)(i % 3), i % 5);
        const int four = (s.format & 0xfff) == 0x100;
        s.request.scale_choice = (nib_scale_choice)(i % (four ? 5 : 3));
        s.request.rounding = (nib_rounding)(i / 2 % 2);
        s.request.random = random;
        s.rows = 3;
        s.cols = s.request.scale_choice == NIB_SCALE_MSE_FULL ? 384 : 1280;
        if (i % 4 == 1) s.order = (s.format & 0xff) ? NIB_CODES_PAIRS : NIB_CODES_GGUF_HALVES;
        else s.cols += i % 9;
        s.layout = (nib_scale_layout)(i / 3 % 2);
        float *x = malloc((size_t)(s.rows * s.cols) * 4);
        fill(s.dtype, x, s.rows * s.cols, i % 2);
        check(&s, x, 1);
        free(x);
    }
}

NIB_TEST(BackendEquality, EverySearchOfFourBits)
{
    const nib_format four[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16 };
    random_state = 2024;
    for (int i = 0; i < 4 * 5 * 3 * 2 && !nib_test_failed(); i++) {
        const int choice = i / 4 % 5;
        setting s = setting_of(four[i % 4], (nib_dtype)(i / 20 % 3), (int)(next_random() % 4));
        if (choice >= 3 && s.format != NIB_NVFP4 && s.format != NIB_NVFP4_B32) continue;
        const float given[] = { 0.0f, 1e-3f, 1e-44f, 3e38f };
        s.tensor_scale = given[next_random() % 4];
        s.request.scale_choice = (nib_scale_choice)choice;
        s.rows = 2;
        s.cols = choice == NIB_SCALE_MSE_FULL ? 500 : 2100;
        float *x = malloc((size_t)(s.rows * s.cols) * 4);
        fill(s.dtype, x, s.rows * s.cols, i / 60);
        check(&s, x, 1);
        free(x);
    }
}

NIB_TEST(BackendEquality, ThreadsShareOneLongRowAndManyShortOnes)
{
    const int64_t shapes[][2] = { { 1, 200007 }, { 2, 70000 }, { 3001, 40 }, { 90, 1024 } };
    random_state = 99;
    const nib_format format[] = { NIB_NVFP4, NIB_MXFP6_E2M3, NIB_MXFP4, NIB_NVFP4_B32 };
    for (int i = 0; i < 4 && !nib_test_failed(); i++) {
        setting s = setting_of(format[i], (nib_dtype)(i % 3), NIB_RULES_TE);
        s.rows = shapes[i][0];
        s.cols = shapes[i][1];
        s.layout = (nib_scale_layout)(i % 2);
        float *x = malloc((size_t)(s.rows * s.cols) * 4);
        fill(s.dtype, x, s.rows * s.cols, i == 2);
        check(&s, x, 0);
        free(x);
    }
}

NIB_TEST(BackendEquality, StreamedStoresWriteWhatPlainOnesDo) /* outputs of more than 8 MiB */
{
    random_state = 31;
    setting s = setting_of(NIB_NVFP4, NIB_BF16, NIB_RULES_TE);
    s.rows = 1500;
    s.cols = 3008;
    uint16_t *x = malloc((size_t)(s.rows * s.cols) * 2);
    fill(s.dtype, x, s.rows * s.cols, 1);
    check(&s, x, 1);
    free(x);
}

NIB_TEST(BackendEquality, RelayoutIsItsOwnInverseAndPadsWithZero)
{
    const int64_t shapes[][2] = { { 1, 1 }, { 127, 3 }, { 128, 4 }, { 129, 5 }, { 300, 64 },
                                  { 0, 7 }, { 7, 0 }, { 1000, 257 } };
    table tables[MAX_TABLES];
    const int n = tables_of(tables);
    for (int i = 0; i < 8; i++) {
        const int64_t m = shapes[i][0], k = shapes[i][1];
        const size_t linear = (size_t)(m * k);
        const size_t padded = (size_t)(round_up(m, 128) * round_up(k, 4));
        uint8_t *src = malloc(linear + 1);
        for (size_t b = 0; b < linear; b++) src[b] = (uint8_t)(1 + b % 255);
        for (int t = 0; t < n; t++) {
            const nib_launch launch = { .threads = tables[t].threads };
            uint8_t *swizzled = poisoned(padded), *copy = poisoned(padded);
            uint8_t *back = poisoned(linear);
            tables[t].ops->relayout_scales(&launch, m, k, NIB_SCALES_LINEAR, src,
                                           NIB_SCALES_SWIZZLED_128X4, swizzled);
            tables[t].ops->relayout_scales(&launch, m, k, NIB_SCALES_SWIZZLED_128X4, swizzled,
                                           NIB_SCALES_SWIZZLED_128X4, copy);
            tables[t].ops->relayout_scales(&launch, m, k, NIB_SCALES_SWIZZLED_128X4, swizzled,
                                           NIB_SCALES_LINEAR, back);
            size_t zeros = 0;
            for (size_t b = 0; b < padded; b++) zeros += swizzled[b] == 0;
            EXPECT(zeros == padded - linear, "%zu zeros for %zu of padding", zeros,
                   padded - linear);
            EXPECT(memcmp(swizzled, copy, padded) == 0, "%lldx%lld", (long long)m, (long long)k);
            EXPECT(memcmp(src, back, linear) == 0, "%lldx%lld", (long long)m, (long long)k);
            EXPECT(swizzled[padded] == POISON && back[linear] == POISON, "wrote past the end");
            free(swizzled), free(copy), free(back);
        }
        free(src);
    }
}

NIB_TEST(BackendEquality, OffsetsBeyond32Bits) /* three rows, 2^30 elements apart */
{
    const int64_t ld = (int64_t)1 << 30, rows = 3, cols = 1000;
    const size_t bytes = (size_t)((rows - 1) * ld + cols) * 2;
    uint16_t *far = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint16_t *out = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (far == MAP_FAILED || out == MAP_FAILED) SKIP("no address space for 4 GiB without memory");
    uint16_t *near = malloc((size_t)(rows * cols) * 2);
    uint16_t *expected = malloc((size_t)(rows * cols) * 2);
    random_state = 5;
    fill(NIB_BF16, near, rows * cols, 1);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(far + r * ld, near + r * cols, (size_t)cols * 2);
    }
    table tables[MAX_TABLES];
    const int n = tables_of(tables);
    for (int t = 0; t < n; t += 3) {
        const nib_launch launch = { .threads = tables[t].threads };
        const setting s = setting_of(NIB_MXFP4, NIB_BF16, NIB_RULES_TE);
        uint8_t codes[2][3 * 500], scales[2][3 * 32];
        for (int i = 0; i < 2; i++) {
            const nib_matrix src = { i ? far : near, NIB_BF16, rows, cols, i ? ld : cols };
            const nib_matrix dst = { i ? out : expected, NIB_BF16, rows, cols, i ? ld : cols };
            const nib_packed packed = { sizeof packed, s.format, NIB_CODES_PAIRS,
                                        NIB_SCALES_LINEAR, rows, cols, codes[i], 500, scales[i],
                                        NULL };
            tables[t].ops->quantize(&launch, &src, &s.request, &packed);
            tables[t].ops->dequantize(&launch, &packed, &dst);
        }
        EXPECT(memcmp(codes[0], codes[1], sizeof codes[0]) == 0, "%s", tables[t].ops->name);
        EXPECT(memcmp(scales[0], scales[1], sizeof scales[0]) == 0, "%s", tables[t].ops->name);
        for (int64_t r = 0; r < rows; r++) {
            EXPECT(memcmp(expected + r * cols, out + r * ld, (size_t)cols * 2) == 0,
                   "%s row %lld", tables[t].ops->name, (long long)r);
        }
    }
    munmap(far, bytes), munmap(out, bytes), free(near), free(expected);
}
