/* grouped_test.c: each group's bytes are those of nib_quantize of its rows alone, on every backend,
 * for any offsets; nothing else is written. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "nibble/grouped.h"
#include "tests/device_case.h"

enum { MOST_GROUPS = 400 };

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

static size_t width_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

/* Groups of a setting's rows. */
typedef struct grouping {
    setting s;
    int64_t count, offsets[MOST_GROUPS + 1];
    void   *x;
} grouping;

static int64_t scales_bytes(const grouping *g)
{
    return nib_grouped_scales_bytes(g->s.format, g->s.layout, g->count, g->s.rows, g->s.cols);
}

/* As grouped.h says it. */
static int64_t begin_of(const grouping *g, int64_t group)
{
    int64_t begin = 0;
    for (int64_t i = 0; i <= group; i++) begin = g->offsets[i] > begin ? g->offsets[i] : begin;
    return begin < g->s.rows ? begin : g->s.rows;
}

typedef struct result {
    uint8_t *codes, *scales;
    float   *tensor_scale, *amax;
} result;

static void result_free(result *r)
{
    free(r->codes), free(r->scales), free(r->tensor_scale), free(r->amax);
}

/* Group by group on the reference, by quantize.h alone. */
static result expected(const grouping *g)
{
    const runner *list;
    const setting *s = &g->s;
    const size_t codes_bytes = (size_t)setting_codes_bytes(s), tensors = (size_t)g->count + 1;
    result e = { malloc(codes_bytes + 1), malloc((size_t)scales_bytes(g) + 1),
                 malloc(tensors * sizeof(float)), malloc(tensors * sizeof(float)) };
    int64_t scales_at = 0;
    (void)runners_open(&list);
    memset(e.codes, POISON, codes_bytes);
    memset(e.scales, POISON, (size_t)scales_bytes(g));
    const nib_exec exec = exec_of(&list[0]);
    const int tensor = nib_format_has_tensor_scale(s->format);
    for (int64_t i = 0; i < g->count; i++) {
        const int64_t begin = begin_of(g, i), rows = begin_of(g, i + 1) - begin;
        const int64_t scale_bytes = nib_scales_bytes(s->format, s->layout, rows, s->cols);
        if (s->layout == NIB_SCALES_LINEAR)
            scales_at = begin * nib_scales_per_row(s->format, s->cols);
        const nib_matrix src = {
            (uint8_t *)g->x + (size_t)(begin * (s->cols + s->ld_extra)) * width_of(s->dtype),
            s->dtype, rows, s->cols, s->cols + s->ld_extra
        };
        const uint64_t random[2] = {
            s->random[0],
            s->random[1] + (uint64_t)i + (uint64_t)begin * (uint64_t)s->cols / 4
        };
        OK(nib_amax(&exec, &src, &e.amax[i], NULL));
        e.tensor_scale[i] = s->tensor_scale * (float)(i + 1);
        const nib_packed dst = {
            sizeof dst, s->format, s->order, s->layout, rows, s->cols,
            e.codes + begin * setting_ld_codes(s), setting_ld_codes(s), e.scales + scales_at,
            tensor ? &e.tensor_scale[i] : NULL
        };
        const nib_quantize_options options = {
            .size = sizeof options, .scale_choice = s->choice, .rounding = s->rounding,
            .rules = &s->rules, .random = random,
            .tensor_amax = tensor && s->tensor_scale == 0.0f ? &e.amax[i] : NULL,
            .scale_rows = s->scale_rows,
        };
        OK(nib_quantize(&exec, &src, &options, &dst));
        scales_at += scale_bytes;
    }
    return e;
}

/* In one call where r computes. */
static result grouped(const grouping *g, const runner *r)
{
    const setting *s = &g->s;
    const nib_exec exec = exec_of(r);
    const int tensor = nib_format_has_tensor_scale(s->format);
    const size_t tensors = (size_t)g->count * sizeof(float);
    float given[MOST_GROUPS + 1];
    for (int64_t i = 0; i < g->count; i++)
        given[i] = s->tensor_scale == 0.0f ? NAN : s->tensor_scale * (float)(i + 1);
    buffer x = buffer_new(r, g->x, (size_t)setting_matrix_bytes(s, s->dtype),
                          s->off * width_of(s->dtype));
    buffer offsets = buffer_new(r, g->offsets, (size_t)(g->count + 1) * sizeof(int64_t), 0);
    buffer codes = buffer_new(r, NULL, (size_t)setting_codes_bytes(s), s->off);
    buffer scales = buffer_new(r, NULL, (size_t)scales_bytes(g), s->off);
    buffer scale = buffer_new(r, given, tensors, 0), amax = buffer_new(r, NULL, tensors, 0);
    buffer random = buffer_new(r, s->random, sizeof s->random, 0);
    const nib_matrix src = { x.at, s->dtype, s->rows, s->cols, s->cols + s->ld_extra };
    const nib_groups groups = { sizeof groups, g->count, offsets.at };
    const nib_packed dst = { sizeof dst, s->format, s->order, s->layout, s->rows, s->cols, codes.at,
                             setting_ld_codes(s), scales.at, tensor ? scale.at : NULL };
    const nib_quantize_options options = {
        .size = sizeof options, .scale_choice = s->choice, .rounding = s->rounding,
        .rules = &s->rules, .random = random.at,
        .tensor_amax = tensor && s->tensor_scale == 0.0f ? amax.at : NULL,
        .scale_rows = s->scale_rows,
    };
    OK(nib_amax_grouped(&exec, &groups, &src, amax.at));
    OK(nib_quantize_grouped(&exec, &groups, &src, &options, &dst));
    buffer_free(&x), buffer_free(&offsets), buffer_free(&random);
    return (result){ buffer_take(&codes), buffer_take(&scales), buffer_take(&scale),
                     buffer_take(&amax) };
}

static void same(const void *a, const void *b, int64_t n, const char *what, const grouping *g,
                 const runner *r)
{
    const uint8_t *got = a, *right = b;
    for (int64_t i = 0; n > 0 && memcmp(got, right, (size_t)n) && i < n; i++) {
        if (got[i] == right[i]) continue;
        EXPECT(0, "%s: %s, byte %lld of %lld is %#x, not %#x: %lld groups, format %#x, dtype %d, "
               "%lld x %lld + %lld, layout %d, choice %d, rounding %d, scale rows %d, tensor scale "
               "%g, off %zu",
               r->name, what, (long long)i, (long long)n, got[i], right[i], (long long)g->count,
               g->s.format, g->s.dtype, (long long)g->s.rows, (long long)g->s.cols,
               (long long)g->s.ld_extra, g->s.layout, g->s.choice, g->s.rounding,
               g->s.scale_rows, (double)g->s.tensor_scale, g->s.off);
        return;
    }
}

static void check(grouping *g, int only_tame)
{
    const setting *s = &g->s;
    const runner *list;
    const int n = runners_open(&list);
    const int64_t elements = s->rows * (s->cols + s->ld_extra);
    const int tensor = nib_format_has_tensor_scale(s->format);
    g->x = malloc((size_t)elements * 4 + 4);
    fill_matrix(s->dtype, g->x, elements, only_tame);
    for (int64_t i = 5; i < elements && !only_tame && s->dtype != NIB_F32; i += 61)
        ((uint16_t *)g->x)[i] = 0xffc1; /* a NaN whose sign bit is set */
    result right = expected(g);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        const runner *r = &list[i];
        if (!r->device->ops->quantize_grouped) continue;
        if (runner_is_cuda(r) && !format_has_name(s->format)) continue;
        result got = grouped(g, r);
        same(got.amax, right.amax, g->count * 4, "amax", g, r);
        if (tensor) same(got.tensor_scale, right.tensor_scale, g->count * 4, "tensor scales", g, r);
        same(got.codes, right.codes, setting_codes_bytes(s), "codes", g, r);
        same(got.scales, right.scales, scales_bytes(g), "scales", g, r);
        result_free(&got);
    }
    result_free(&right);
    free(g->x);
}

/* Sizes of many kinds, empty ones among them, over most of the rows. */
static void fill_offsets(grouping *g)
{
    int64_t at = next_random() % 3 ? 0 : next_random() % 3;
    for (int64_t i = 0; i <= g->count; i++) {
        g->offsets[i] = at < g->s.rows ? at : g->s.rows;
        const int64_t left = g->s.rows - g->offsets[i];
        at = g->offsets[i] + (next_random() % 3 == 0 || left == 0
                                  ? 0 : next_random() % (2 * left / (g->count - i + 1) + 2));
    }
    if (g->count && next_random() % 2) g->offsets[g->count] = g->s.rows;
}

static grouping grouping_of(int turn, nib_format format, int preset)
{
    grouping g = { .s = setting_of(format, (nib_dtype)(turn % 3), preset) };
    g.s.layout = (nib_scale_layout)(turn / 2 % 2);
    g.s.tensor_scale = turn % 5 ? 0.0f : 0.003f;
    g.s.random[0] = next_random();
    g.s.random[1] = (uint64_t)next_random() << 32;
    return g;
}

/* ---- the tests ---- */

NIB_TEST(OnDeviceGrouped, EveryFormatAndPreset)
{
    random_state = 41;
    for (int f = 0; f < FORMATS && !nib_test_failed(); f++) {
        for (int preset = 0; preset < 5; preset++) {
            const int turn = f * 5 + preset;
            grouping g = grouping_of(turn, case_formats[f], preset);
            g.count = 1 + turn % 6;
            g.s.rows = 20 + turn % 60;
            g.s.cols = 128 + turn % 3 * 64;
            fill_offsets(&g);
            check(&g, turn % 2);
        }
    }
}

NIB_TEST(OnDeviceGrouped, RaggedUnalignedAndEmpty)
{
    const int64_t cols[] = { 1, 16, 33, 100, 48, 0, 272, 15 };
    random_state = 42;
    for (int turn = 0; turn < 120 && !nib_test_failed(); turn++) {
        grouping g = grouping_of(turn, case_formats[turn % 4], turn % 5);
        g.count = turn % 9;
        g.s.rows = turn % 11 == 0 ? 0 : 1 + turn * 7 % 140;
        g.s.cols = cols[turn % 8];
        g.s.ld_extra = turn % 3 ? 0 : 5;
        g.s.off = turn % 4 ? 0 : (size_t)(turn % 5);
        fill_offsets(&g);
        check(&g, 0);
    }
}

NIB_TEST(OnDeviceGrouped, StochasticSearchedAndHalvesOrder)
{
    random_state = 43;
    for (int turn = 0; turn < 40 && !nib_test_failed(); turn++) {
        grouping g = grouping_of(turn, case_formats[turn % 4], turn % 5);
        g.s.choice = turn % 3 ? NIB_SCALE_AMAX : NIB_SCALE_MSE;
        g.s.rounding = (nib_rounding)(turn % 2);
        g.s.order = turn % 4 == 2 ? NIB_CODES_GGUF_HALVES : NIB_CODES_PAIRS;
        g.count = 1 + turn % 5;
        g.s.rows = 9 + turn;
        g.s.cols = g.s.order ? 64 : 33 + turn % 7;
        fill_offsets(&g);
        check(&g, 0);
    }
}

/* Scales of 16 rows, from each group's first on. */
NIB_TEST(OnDeviceGrouped, RowsThatShareScales)
{
    const int64_t cols[] = { 64, 1, 256, 33, 48, 512, 0, 272 };
    random_state = 46;
    for (int turn = 0; turn < 120 && !nib_test_failed(); turn++) {
        grouping g = grouping_of(turn, case_formats[turn % (turn % 3 ? 4 : FORMATS)], turn / 3 % 5);
        g.s.scale_rows = 16;
        g.count = 1 + turn % 6;
        g.s.rows = turn % 19 == 0 ? 0 : 1 + turn * 11 % 130;
        g.s.cols = cols[turn % 8];
        g.s.ld_extra = turn % 5 ? 0 : 3;
        g.s.off = turn % 6 ? 0 : (size_t)(turn % 5);
        g.s.rounding = turn % 7 ? NIB_ROUND_NEAREST : NIB_ROUND_STOCHASTIC;
        fill_offsets(&g);
        check(&g, turn % 2);
    }
}

/* More groups than a warp has lanes, and than there are rows; groups of many tiles; wide rows. */
NIB_TEST(OnDeviceGrouped, ManyGroupsAndLargeOnes)
{
    const int64_t shapes[][3] = { { 400, 90, 32 }, { 65, 1000, 64 }, { 32, 33, 48 }, { 2, 700, 16 },
                                  { 3, 40, 8224 }, { 300, 299, 160 } };
    random_state = 44;
    for (int i = 0; i < 12 && !nib_test_failed(); i++) {
        grouping g = grouping_of(i, i / 6 ? NIB_MXFP4 : NIB_NVFP4, NIB_RULES_TE);
        g.s.layout = (nib_scale_layout)(i / 3 % 2);
        g.count = shapes[i % 6][0], g.s.rows = shapes[i % 6][1], g.s.cols = shapes[i % 6][2];
        fill_offsets(&g);
        check(&g, i % 2);
    }
}

/* Offsets that no router makes: what they mean is stated, and nothing outside is touched. */
NIB_TEST(OnDeviceGrouped, OffsetsThatDoNotRiseOrLieOutside)
{
    const int64_t offsets[][6] = {
        { 0, 40, 20, 60, 10, 70 }, { 70, 60, 50, 40, 30, 0 }, { -5, -1, 30, 30, 200, 300 },
        { INT64_MIN, INT64_MAX, 0, 5, 9, 12 }, { 200, 300, 400, 500, 600, 700 },
        { 0, 0, 0, 0, 0, 0 }, { 69, 70, 71, 70, 70, 70 }, { -1, INT64_MIN, 70, -7, 70, 71 },
    };
    random_state = 45;
    for (int i = 0; i < 32 && !nib_test_failed(); i++) {
        grouping g = grouping_of(i, i / 8 % 2 ? NIB_MXFP6_E2M3 : NIB_NVFP4, NIB_RULES_TE);
        g.s.layout = (nib_scale_layout)(i / 16);
        g.count = 5, g.s.rows = 70, g.s.cols = 64;
        memcpy(g.offsets, offsets[i % 8], sizeof offsets[0]);
        check(&g, 1);
    }
}

NIB_TEST(Grouped, ScalesBytesAreEnoughForAnySizes)
{
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, 9, 100, 64) == 400, " ");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, NIB_SCALES_SWIZZLED_128X4, 0, 100, 64) == 0, " ");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, NIB_SCALES_SWIZZLED_128X4, 1, 100, 64) == 512, " ");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, NIB_SCALES_SWIZZLED_128X4, 3, 129, 64) == 512 * 3,
           "128 rows, and one each");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, NIB_SCALES_SWIZZLED_128X4, 99, 2, 64) == 1024, " ");
    const nib_scale_layout swizzled = NIB_SCALES_SWIZZLED_128X4;
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, swizzled, -1, 1, 1) == -1, "count");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, -1, 1, 1) == -1, "count");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, swizzled, 1, -1, 1) == -1, "rows");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, swizzled, 1, 1, -1) == -1, "cols");
    EXPECT(nib_grouped_scales_bytes(0, swizzled, 1, 1, 1) == -1, "format");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, (nib_scale_layout)2, 1, 1, 1) == -1, "layout");
    EXPECT(nib_grouped_scales_bytes(NIB_NVFP4, swizzled, INT64_MAX, INT64_MAX, 1) == -1, "huge");
}
