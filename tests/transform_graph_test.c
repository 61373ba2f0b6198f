/* transform_graph_test.c: transforms and groups in CUDA graphs: refused before they are prepared,
 * and right when a graph is replayed with new input. */
#include <stdlib.h>
#include <string.h>

#include "nibble/grouped.h"
#include "nibble/transform.h"
#include "tests/device_case.h"

enum { ROWS = 40, COLS = 128, GROUPS = 3 };

static char why[NIB_WHY_BYTES];

#define RUN(call) EXPECT((call) == NIB_OK, "%s", why)
#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

/* Four calls on one matrix, and all that they write. */
typedef struct calls {
    nib_exec exec;
    buffer   x, offsets, values, codes, scales, scale, amax, grouped_codes, grouped_scales,
             grouped_scale;
} calls;

static const int64_t offsets[GROUPS + 1] = { 0, 7, 7, ROWS };

static void calls_open(calls *c, const runner *r, const uint16_t *x)
{
    const float one = 1.0f;
    const int64_t scales = nib_grouped_scales_bytes(NIB_NVFP4, NIB_SCALES_SWIZZLED_128X4, GROUPS,
                                                    ROWS, COLS);
    c->exec = exec_of(r);
    c->x = buffer_new(r, x, ROWS * COLS * 2, 0);
    c->offsets = buffer_new(r, offsets, sizeof offsets, 0);
    c->values = buffer_new(r, NULL, ROWS * COLS * 2, 0);
    c->codes = buffer_new(r, NULL, ROWS * COLS / 2, 0);
    c->scales = buffer_new(r, NULL, ROWS * COLS / 16, 0);
    c->scale = buffer_new(r, &one, sizeof one, 0);
    c->amax = buffer_new(r, NULL, GROUPS * sizeof(float), 0);
    c->grouped_codes = buffer_new(r, NULL, ROWS * COLS / 2, 0);
    c->grouped_scales = buffer_new(r, NULL, (size_t)scales, 0);
    c->grouped_scale = buffer_new(r, NULL, GROUPS * sizeof(float), 0);
}

static nib_status call_one(const calls *c, int which)
{
    const nib_matrix x = { c->x.at, NIB_BF16, ROWS, COLS, COLS };
    const nib_matrix values = { c->values.at, NIB_BF16, ROWS, COLS, COLS };
    const nib_transform t = { .size = sizeof t, .op = NIB_TRANSFORM_RMSNORM, .hadamard = 32 };
    const nib_groups groups = { sizeof groups, GROUPS, c->offsets.at };
    const nib_quantize_options dynamic = { .size = sizeof dynamic, .tensor_amax = c->amax.at };
    const nib_packed packed = { sizeof packed, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, ROWS,
                                COLS, c->codes.at, COLS / 2, c->scales.at, c->scale.at };
    const nib_packed grouped = { sizeof grouped, NIB_NVFP4, NIB_CODES_PAIRS,
                                 NIB_SCALES_SWIZZLED_128X4, ROWS, COLS, c->grouped_codes.at,
                                 COLS / 2, c->grouped_scales.at, c->grouped_scale.at };
    switch (which) {
    case 0:  return nib_transform_apply(&c->exec, &t, &x, &values);
    case 1:  return nib_quantize_transformed(&c->exec, &t, &x, NULL, &packed);
    case 2:  return nib_amax_grouped(&c->exec, &groups, &x, c->amax.at);
    default: return nib_quantize_grouped(&c->exec, &groups, &x, &dynamic, &grouped);
    }
}

static void expect_equal(calls *a, calls *b)
{
    buffer *const got[] = { &a->values, &a->codes, &a->scales, &a->amax, &a->grouped_codes,
                            &a->grouped_scales, &a->grouped_scale, &a->x, &a->offsets, &a->scale };
    buffer *const right[] = { &b->values, &b->codes, &b->scales, &b->amax, &b->grouped_codes,
                              &b->grouped_scales, &b->grouped_scale, &b->x, &b->offsets,
                              &b->scale };
    for (int i = 0; i < 10; i++) {
        const size_t bytes = got[i]->bytes;
        void *x = buffer_take(got[i]), *y = buffer_take(right[i]);
        EXPECT(!memcmp(x, y, bytes), "buffer %d", i);
        free(x), free(y);
    }
}

NIB_TEST(OnDeviceTransformGraph, WantsToBePreparedAndReplays)
{
    const runner *list;
    if (!test_is_alone()) {
        const char *kind = getenv("NIBBLE_TEST_DEVICE");
        if (!kind || strcmp(kind, "cuda") != 0) SKIP("graphs are CUDA's");
        run_test_alone("OnDeviceTransformGraph.WantsToBePreparedAndReplays", "NIB_TEST_ALONE", "1");
        return;
    }
    REQUIRE(runners_open(&list) == 2, "no device");
    const runner *r = &list[1];
    uint16_t x[ROWS * COLS];
    calls c, right;
    void *graph = NULL;
    random_state = 77;
    fill_matrix(NIB_BF16, x, ROWS * COLS, 1);
    calls_open(&c, r, x);
    RUN(r->runtime->capture_begin(r->ordinal, r->stream, why));
    for (int i = 0; i < 4; i++) {
        const nib_status got = call_one(&c, i);
        EXPECT(got == NIB_ERR_NOT_PREPARED && strstr(nib_last_error(), "nib_prepare"), "%d: %s: %s",
               i, nib_status_name(got), nib_last_error());
    }
    RUN(r->runtime->capture_end(r->ordinal, r->stream, &graph, why));
    RUN(r->runtime->graph_destroy(r->ordinal, graph, why));

    OK(nib_prepare(r->device, NIB_PREPARE_TRANSFORM | NIB_PREPARE_GROUPED));
    RUN(r->runtime->capture_begin(r->ordinal, r->stream, why));
    for (int i = 0; i < 4; i++) OK(call_one(&c, i));
    RUN(r->runtime->capture_end(r->ordinal, r->stream, &graph, why));
    fill_matrix(NIB_BF16, x, ROWS * COLS, 1);
    buffer_put(&c.x, x);
    RUN(r->runtime->graph_launch(r->ordinal, graph, r->stream, why));
    runner_wait(r);
    RUN(r->runtime->graph_destroy(r->ordinal, graph, why));
    calls_open(&right, &list[0], x);
    for (int i = 0; i < 4; i++) OK(call_one(&right, i));
    expect_equal(&c, &right);
}
