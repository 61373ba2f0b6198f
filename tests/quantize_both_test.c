/* quantize_both_test.c: both outputs are nib_quantize's, of the matrix and of its transpose, on
 * every backend; and what is refused. */
#include <stdlib.h>
#include <string.h>

#include "tests/device_case.h"
#include "tests/expect_status.h"

static int64_t size_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* One output's buffers. */
typedef struct output {
    setting s;
    buffer  codes, scales, scale;
} output;

static output output_new(const runner *r, const setting *s)
{
    const float given = s->tensor_scale == 0.0f ? -7.0f : s->tensor_scale;
    output o = { .s = *s };
    o.codes = buffer_new(r, NULL, (size_t)setting_codes_bytes(s), s->off);
    o.scales = buffer_new(r, NULL, (size_t)setting_scales_bytes(s), s->off);
    o.scale = buffer_new(r, &given, sizeof given, 0);
    return o;
}

static nib_packed packed_of(const output *o)
{
    return (nib_packed){ sizeof(nib_packed), o->s.format, o->s.order, o->s.layout, o->s.rows,
                         o->s.cols, o->codes.at, setting_ld_codes(&o->s), o->scales.at,
                         nib_format_has_tensor_scale(o->s.format) ? o->scale.at : NULL };
}

static void expect_equal(output *got, output *right, const char *what)
{
    const runner *r = got->codes.on;
    const setting *s = &got->s;
    buffer *const pairs[][2] = { { &got->codes, &right->codes }, { &got->scales, &right->scales },
                                 { &got->scale, &right->scale } };
    static const char *const names[] = { "codes", "scales", "tensor scale" };
    for (int i = 0; i < 3; i++) {
        const size_t bytes = pairs[i][0]->bytes;
        void *a = buffer_take(pairs[i][0]), *b = buffer_take(pairs[i][1]);
        EXPECT(bytes == 0 || !memcmp(a, b, bytes), "%s: %s of %s: format %#x dtype %d %lldx%lld, "
               "layout %d order %d choice %d rounding %d rows %d off %zu", r->name, names[i], what,
               s->format, s->dtype, (long long)s->rows, (long long)s->cols, s->layout, s->order,
               s->choice, s->rounding, s->scale_rows, s->off);
        free(a), free(b);
    }
}

/* which: bit 0 rowwise, bit 1 columnwise. */
static void check_on(const runner *r, const setting *s, const setting *t, const void *x,
                     const void *y, int which)
{
    const runner *list;
    runners_open(&list);
    const nib_exec exec = exec_of(r), plain = exec_of(&list[0]);
    const int64_t size = size_of(s->dtype);
    const int dynamic = nib_format_has_tensor_scale(s->format) && s->tensor_scale == 0.0f;
    const float amax = 3.5f;
    buffer input = buffer_new(r, x, (size_t)setting_matrix_bytes(s, s->dtype),
                              s->off * (size_t)size);
    buffer most = buffer_new(r, &amax, sizeof amax, 0);
    buffer random = buffer_new(r, s->random, sizeof s->random, 0);
    output rows = output_new(r, s), cols = output_new(r, t);
    output right_rows = output_new(&list[0], s), right_cols = output_new(&list[0], t);
    const nib_packed p = packed_of(&rows), q = packed_of(&cols);
    const nib_packed right_p = packed_of(&right_rows), right_q = packed_of(&right_cols);
    const nib_matrix src = { input.at, s->dtype, s->rows, s->cols, s->cols + s->ld_extra };
    const nib_matrix m = { (void *)(uintptr_t)x, s->dtype, s->rows, s->cols,
                           s->cols + s->ld_extra };
    const nib_matrix turned = { (void *)(uintptr_t)y, s->dtype, t->rows, t->cols, t->cols };
    nib_quantize_options o = {
        .size = sizeof o, .scale_choice = s->choice, .rounding = s->rounding, .rules = &s->rules,
        .tensor_amax = dynamic ? &amax : NULL, .random = s->random, .scale_rows = s->scale_rows,
    };
    EXPECT(!(which & 1) || nib_quantize(&plain, &m, &o, &right_p) == NIB_OK, "%s",
           nib_last_error());
    EXPECT(!(which & 2) || nib_quantize(&plain, &turned, &o, &right_q) == NIB_OK, "%s",
           nib_last_error());
    o.tensor_amax = dynamic ? most.at : NULL;
    o.random = random.at;
    EXPECT(nib_quantize_both(&exec, &src, &o, which & 1 ? &p : NULL, which & 2 ? &q : NULL)
               == NIB_OK, "%s", nib_last_error());
    expect_equal(&rows, &right_rows, "rowwise");
    expect_equal(&cols, &right_cols, "columnwise");
    void *after = buffer_take(&input);
    EXPECT(!input.bytes || !after || !memcmp(after, x, input.bytes), "src changed");
    free(after);
    buffer_free(&most), buffer_free(&random);
}

/* The settings of the transpose; its own layout and order. */
static setting turned_of(const setting *s)
{
    setting t = *s;
    t.rows = s->cols, t.cols = s->rows;
    t.layout = next_random() % 2 ? NIB_SCALES_LINEAR : NIB_SCALES_SWIZZLED_128X4;
    t.order = NIB_CODES_PAIRS;
    if (nib_format_element_bits(s->format) == 4 && t.cols % nib_format_block(s->format) == 0
        && next_random() % 8 == 0)
        t.order = NIB_CODES_GGUF_HALVES;
    return t;
}

static void check(const setting *s, int only_tame, int few)
{
    const runner *list;
    const int n = runners_open(&list);
    const int64_t ld = s->cols + s->ld_extra, size = size_of(s->dtype);
    uint8_t *x = malloc((size_t)(s->rows * ld * size) + 4);
    uint8_t *y = malloc((size_t)(s->rows * s->cols * size) + 4);
    const setting t = turned_of(s);
    fill_matrix(s->dtype, x, s->rows * ld, only_tame);
    for (int64_t r = 0; r < s->rows; r++) {
        for (int64_t c = 0; c < s->cols; c++)
            memcpy(y + (c * s->rows + r) * size, x + (r * ld + c) * size, (size_t)size);
    }
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (runner_is_cuda(&list[i]) && !format_has_name(s->format)) continue;
        if (few && i != 0 && i != 4 && i != n - 1) continue;
        check_on(&list[i], s, &t, x, y, next_random() % 4 ? 3 : 1 + (int)(next_random() % 2));
    }
    free(x), free(y);
}

NIB_TEST(OnDeviceBoth, EveryFormatRuleChoiceRoundingAndRaggedShape)
{
    random_state = 20;
    for (int i = 0; i < 500 && !nib_test_failed(); i++) {
        setting s = setting_of(case_formats[i % FORMATS], (nib_dtype)(i / 3 % 3), i % 5);
        const int four = (s.format & 0xfff) == 0x100;
        s.rows = i % 29 == 0 ? 0 : 1 + (int64_t)(next_random() % 90);
        s.cols = i % 31 == 0 ? 0 : 1 + (int64_t)(next_random() % 90);
        s.ld_extra = i % 4 == 0 ? 5 : 0;
        s.layout = (nib_scale_layout)(i / 2 % 2);
        s.tensor_scale = i % 2 ? 0.0f : 0.02f;
        s.off = i % 3 ? 0 : next_random() % 5;
        s.rounding = i % 7 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        s.random[0] = next_random(), s.random[1] = next_random();
        if (i % 5 == 0) s.choice = (nib_scale_choice)(next_random() % (four ? 5 : 3));
        if (s.choice == NIB_SCALE_MSE_FULL) s.rows = s.rows % 9, s.cols = s.cols % 9;
        if (s.choice == NIB_SCALE_AMAX && i % 3 == 1) s.scale_rows = 16;
        check(&s, i % 6 == 0, 1);
    }
}

/* Whole blocks both ways, aligned: what CUDA does in one pass. Several tiles along and down. */
NIB_TEST(OnDeviceBoth, WholeBlocks)
{
    const nib_format formats[] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16 };
    random_state = 21;
    for (int i = 0; i < 240 && !nib_test_failed(); i++) {
        setting s = setting_of(formats[i % 4], (nib_dtype)(i / 4 % 3), NIB_RULES_TE);
        const int64_t block = nib_format_block(s.format);
        s.rows = block * (1 + (int64_t)(next_random() % (320 / (unsigned)block)));
        s.cols = block * (1 + (int64_t)(next_random() % (192 / (unsigned)block)));
        s.ld_extra = i % 5 == 0 ? 16 : 0;
        s.layout = (nib_scale_layout)(i / 12 % 2);
        s.tensor_scale = i % 3 ? 0.0f : 0.02f;
        s.scale_rows = next_random() % 3 ? 0 : 16;
        check(&s, i % 2, 1);
    }
}

NIB_TEST(OnDeviceBoth, ThreadsShareLongColumns)
{
    const int64_t shapes[][2] = { { 70000, 20 }, { 40, 3001 }, { 512, 1024 } };
    random_state = 22;
    for (int i = 0; i < 3 && !nib_test_failed(); i++) {
        setting s = setting_of(NIB_NVFP4, NIB_BF16, NIB_RULES_TE);
        s.rows = shapes[i][0], s.cols = shapes[i][1];
        check(&s, 1, 0);
    }
}

NIB_TEST(QuantizeBoth, Refuses)
{
    const runner *list;
    if (!runners_open(&list)) return;
    const nib_exec exec = exec_of(&list[0]);
    float x[3 * 40] = { 1 }, scale = 1;
    uint8_t bytes[4][256];
    const nib_matrix m = { x, NIB_F32, 3, 40, 40 };
    const nib_packed rows = { sizeof rows, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 3, 40,
                              bytes[0], 20, bytes[1], &scale };
    const nib_packed cols = { sizeof cols, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, 40, 3,
                              bytes[2], 2, bytes[3], &scale };
#define BOTH(exec, m, o, p, q) nib_quantize_both(exec, m, o, p, q)
    EXPECT(BOTH(&exec, &m, NULL, &rows, &cols) == NIB_OK, "%s", nib_last_error());
    EXPECT_FAILS("exec", BOTH(NULL, &m, NULL, &rows, &cols), NIB_ERR_ARGUMENT, "exec is NULL");
    EXPECT_FAILS("src", BOTH(&exec, NULL, NULL, &rows, &cols), NIB_ERR_ARGUMENT, "src is NULL");
    EXPECT_FAILS("neither", BOTH(&exec, &m, NULL, NULL, NULL), NIB_ERR_ARGUMENT,
                 "rowwise and columnwise are NULL");
    EXPECT_FAILS("rowwise", BOTH(&exec, &m, NULL, &cols, &cols), NIB_ERR_SHAPE, "40 x 3");
    EXPECT_FAILS("columnwise", BOTH(&exec, &m, NULL, &rows, &rows), NIB_ERR_SHAPE, "40 x 3");
    EXPECT_FAILS("columnwise", BOTH(&exec, &m, NULL, NULL, &rows), NIB_ERR_SHAPE, "3 x 40");
    nib_packed p = cols;
    p.size = 8;
    EXPECT_FAILS("size", BOTH(&exec, &m, NULL, &rows, &p), NIB_ERR_ARGUMENT, "columnwise->size");
    p = cols;
    p.codes = NULL;
    EXPECT_FAILS("codes", BOTH(&exec, &m, NULL, &rows, &p), NIB_ERR_ARGUMENT, "columnwise->codes");
    p = cols;
    p.ld_codes_bytes = 1;
    EXPECT_FAILS("ld", BOTH(&exec, &m, NULL, &rows, &p), NIB_ERR_SHAPE, "ld_codes_bytes 1 < 2");
    p = cols;
    p.format = NIB_NVFP4_B32;
    EXPECT_FAILS("formats", BOTH(&exec, &m, NULL, &rows, &p), NIB_ERR_UNSUPPORTED, "0x201100");
    p = cols;
    p.code_order = NIB_CODES_GGUF_HALVES;
    EXPECT_FAILS("halves", BOTH(&exec, &m, NULL, &rows, &p), NIB_ERR_UNSUPPORTED, "whole blocks");
    nib_quantize_options o = { .size = sizeof o, .scale_rows = 3 };
    EXPECT_FAILS("options", BOTH(&exec, &m, &o, NULL, &cols), NIB_ERR_ARGUMENT, "scale_rows is 3");
    nib_matrix off = m;
    off.data = (uint8_t *)x + 1;
    EXPECT_FAILS("alignment", BOTH(&exec, &off, NULL, &rows, &cols), NIB_ERR_ALIGNMENT, "aligned");
}
