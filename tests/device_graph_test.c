/* device_graph_test.c: calls captured in a CUDA graph and replayed, and two host threads on one
 * device. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/device_case.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)
#define RUN(call) \
    do { \
        char why[NIB_WHY_BYTES] = ""; \
        const nib_status got_ = (call); \
        EXPECT(got_ == NIB_OK, "%s", why); \
    } while (0)

enum { ROWS = 33, COLS = 330, LD_CODES = 250, N = ROWS * COLS };

/* Everything that the calls of a graph work on. */
typedef struct work {
    setting s;
    buffer  x, random, amax, nonfinite, amax_rows, codes, scales, linear, scale, values;
    buffer  dynamic_amax, dynamic_codes, dynamic_scales, dynamic_scale;
} work;

static void work_init(const runner *r, const setting *s, work *w)
{
    const size_t scales = (size_t)setting_scales_bytes(s), codes = ROWS * LD_CODES;
    *w = (work){ .s = *s };
    w->x = buffer_new(r, NULL, N * 2, 0);
    w->random = buffer_new(r, NULL, 16, 0);
    w->amax = buffer_new(r, NULL, 4, 0);
    w->nonfinite = buffer_new(r, NULL, 8, 0);
    w->amax_rows = buffer_new(r, NULL, ROWS * 4, 0);
    w->codes = buffer_new(r, NULL, codes, 0);
    w->scales = buffer_new(r, NULL, scales, 0);
    w->linear = buffer_new(r, NULL, (size_t)(ROWS * nib_scales_per_row(s->format, COLS)), 0);
    w->scale = buffer_new(r, NULL, 4, 0);
    w->values = buffer_new(r, NULL, N * 2, 0);
    w->dynamic_amax = buffer_new(r, NULL, 4, 0);
    w->dynamic_codes = buffer_new(r, NULL, codes, 0);
    w->dynamic_scales = buffer_new(r, NULL, scales, 0);
    w->dynamic_scale = buffer_new(r, NULL, 4, 0);
}

enum { PARTS = 12 };

/* What the calls write. */
static void outputs(work *w, buffer *list[PARTS])
{
    buffer *all[PARTS] = { &w->amax, &w->nonfinite, &w->amax_rows, &w->codes, &w->scales,
                           &w->linear, &w->scale, &w->values, &w->dynamic_amax,
                           &w->dynamic_codes, &w->dynamic_scales, &w->dynamic_scale };
    memcpy(list, all, sizeof all);
}

/* Every asynchronous operation once, each with what the one before it has made. */
static void calls(const nib_exec *exec, const work *w)
{
    const setting *s = &w->s;
    const int tensor = nib_format_has_tensor_scale(s->format);
    const nib_matrix src = { w->x.at, s->dtype, ROWS, COLS, COLS };
    const nib_matrix dst = { w->values.at, s->dtype, ROWS, COLS, COLS };
    const nib_packed packed = { sizeof packed, s->format, s->order, s->layout, ROWS, COLS,
                                w->codes.at, LD_CODES, w->scales.at,
                                tensor ? w->scale.at : NULL };
    nib_packed other = packed;
    other.codes = w->dynamic_codes.at, other.scales = w->dynamic_scales.at;
    other.tensor_scale = w->dynamic_scale.at;
    nib_quantize_options options = {
        .size = sizeof options, .rules = &s->rules, .rounding = s->rounding,
        .random = w->random.at, .tensor_amax = tensor ? w->amax.at : NULL,
    };
    OK(nib_amax(exec, &src, w->amax.at, w->nonfinite.at));
    OK(nib_amax_rows(exec, &src, w->amax_rows.at));
    OK(nib_quantize(exec, &src, &options, &packed));
    OK(nib_relayout_scales(exec, ROWS, nib_scales_per_row(s->format, COLS), s->layout,
                           w->scales.at, NIB_SCALES_LINEAR, w->linear.at));
    OK(nib_dequantize(exec, &packed, &dst));
    options.tensor_amax = NULL;
    if (tensor) OK(nib_quantize_dynamic(exec, NULL, &src, &options, &other, w->dynamic_amax.at));
}

static void work_free(work *w)
{
    buffer *list[PARTS];
    outputs(w, list);
    for (int i = 0; i < PARTS; i++) buffer_free(list[i]);
    buffer_free(&w->x), buffer_free(&w->random);
}

static void put_input(const work *w, int round)
{
    uint16_t x[N];
    const uint64_t random[2] = { 17u + (uint64_t)round, 3 };
    random_state = 1000 + (uint32_t)round;
    fill_matrix(w->s.dtype, x, N, round);
    buffer_put(&w->x, x);
    buffer_put(&w->random, random);
}

static void *content_of(const buffer *b)
{
    void *content = malloc(b->bytes + 1);
    buffer_get(b, content);
    return content;
}

static void replay(const runner *reference, const runner *r, const setting *s)
{
    static const char *const names[PARTS] = {
        "amax", "nonfinite", "amax_rows", "codes", "scales", "linear scales", "tensor scale",
        "values", "dynamic amax", "dynamic codes", "dynamic scales", "dynamic tensor scale"
    };
    const nib_exec here = exec_of(reference), there = exec_of(r);
    work expected, got;
    buffer *a[PARTS], *b[PARTS];
    void *graph = NULL;
    work_init(reference, s, &expected);
    work_init(r, s, &got);
    outputs(&expected, a), outputs(&got, b);
    RUN(r->runtime->capture_begin(r->ordinal, r->stream, why));
    calls(&there, &got);
    RUN(r->runtime->capture_end(r->ordinal, r->stream, &graph, why));
    for (int i = 0; i < PARTS; i++) { /* a capture runs nothing */
        uint8_t *x = content_of(b[i]);
        size_t touched = 0;
        for (size_t k = 0; k < b[i]->bytes; k++) touched += x[k] != POISON;
        EXPECT(touched == 0, "%s: %zu bytes", names[i], touched);
        free(x);
    }
    for (int round = 0; round < 3; round++) {
        put_input(&expected, round), put_input(&got, round);
        calls(&here, &expected);
        RUN(r->runtime->graph_launch(r->ordinal, graph, r->stream, why));
        runner_wait(r);
        for (int i = 0; i < PARTS; i++) {
            void *x = content_of(a[i]), *y = content_of(b[i]);
            EXPECT(!memcmp(x, y, a[i]->bytes), "format %#x, replay %d: %s", s->format, round,
                   names[i]);
            free(x), free(y);
        }
    }
    RUN(r->runtime->graph_destroy(r->ordinal, graph, why));
    work_free(&expected), work_free(&got);
}

NIB_TEST(OnDeviceGraph, ReplaysWithNewInput)
{
    const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4, NIB_FP6_E2M3_B16 };
    const runner *list;
    const int n = runners_open(&list);
    if (n < 2 || !runner_is_cuda(&list[1])) SKIP("graphs are CUDA's");
    OK(nib_prepare(list[1].device, NIB_PREPARE_QUANTIZE));
    for (int i = 0; i < 6; i++) {
        setting s = setting_of(formats[i / 2], i % 2 ? NIB_F16 : NIB_BF16, NIB_RULES_TE);
        s.rows = ROWS;
        s.cols = COLS;
        s.layout = NIB_SCALES_SWIZZLED_128X4;
        s.rounding = i % 2 ? NIB_ROUND_STOCHASTIC : NIB_ROUND_NEAREST;
        replay(&list[0], &list[1], &s);
    }
}

/* In a process that has loaded nothing: each call says what is missing, and harms nothing. */
NIB_TEST(OnDeviceGraph, WantsToBePrepared)
{
    const runner *list;
    if (!test_is_alone()) {
        const char *kind = getenv("NIBBLE_TEST_DEVICE");
        if (!kind || strcmp(kind, "cuda") != 0) SKIP("graphs are CUDA's");
        run_test_alone("OnDeviceGraph.WantsToBePrepared", "NIB_TEST_ALONE", "1");
        return;
    }
    REQUIRE(runners_open(&list) == 2, "no device");
    const runner *r = &list[1];
    const nib_exec exec = exec_of(r);
    setting s = setting_of(NIB_NVFP4, NIB_BF16, NIB_RULES_TE);
    s.rows = ROWS, s.cols = COLS;
    work w;
    void *graph = NULL;
    work_init(r, &s, &w);
    const nib_matrix m = { w.x.at, NIB_BF16, ROWS, COLS, COLS };
    const nib_packed p = { sizeof p, NIB_NVFP4, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, ROWS, COLS,
                           w.codes.at, LD_CODES, w.scales.at, w.scale.at };
    const nib_matrix out = { w.values.at, NIB_BF16, ROWS, COLS, COLS };
    const nib_batch batch = { .size = sizeof batch, .count = 1 };
    RUN(r->runtime->capture_begin(r->ordinal, r->stream, why));
#define UNPREPARED(call)                                                                     \
    do {                                                                                     \
        const nib_status got_ = (call);                                                      \
        EXPECT(got_ == NIB_ERR_NOT_PREPARED && strstr(nib_last_error(), "nib_prepare"),      \
               "%s: '%s'", nib_status_name(got_), nib_last_error());                         \
    } while (0)
    UNPREPARED(nib_amax(&exec, &m, w.amax.at, NULL));
    UNPREPARED(nib_amax_rows(&exec, &m, w.amax_rows.at));
    UNPREPARED(nib_quantize(&exec, &m, NULL, &p));
    UNPREPARED(nib_quantize_given(&exec, &m, NULL, &p));
    UNPREPARED(nib_dequantize(&exec, &p, &out));
    UNPREPARED(nib_relayout_scales(&exec, ROWS, 21, NIB_SCALES_LINEAR, w.scales.at,
                                   NIB_SCALES_LINEAR, w.linear.at));
    UNPREPARED(nib_quantize_batch(&exec, &batch, &m, NULL, &p));
    UNPREPARED(nib_dequantize_batch(&exec, &batch, &p, &out));
    UNPREPARED(nib_amax_batch(&exec, &batch, &m, w.amax.at, NULL));
    UNPREPARED(nib_quantize_both(&exec, &m, NULL, &p, NULL));
    UNPREPARED(nib_quantize_dynamic(&exec, NULL, &m, NULL, &p, w.amax.at));
    RUN(r->runtime->capture_end(r->ordinal, r->stream, &graph, why));
    RUN(r->runtime->graph_destroy(r->ordinal, graph, why));
    work_free(&w);
    RUN(r->runtime->capture_begin(r->ordinal, r->stream, why)); /* the other way: while capturing */
    OK(nib_prepare(r->device, NIB_PREPARE_QUANTIZE));
    RUN(r->runtime->capture_end(r->ordinal, r->stream, &graph, why));
    RUN(r->runtime->graph_destroy(r->ordinal, graph, why));
    s.layout = NIB_SCALES_SWIZZLED_128X4;
    replay(&list[0], r, &s);
}

/* ---- threads ---- */

enum { ROUNDS = 12, THREADS = 2 };

typedef struct job {
    runner   r; /* with a stream of its own */
    setting  s[ROUNDS];
    void    *x[ROUNDS];
    outcome  got[ROUNDS];
    pthread_barrier_t *start;
} job;

static void *work_of(void *argument)
{
    job *j = argument;
    pthread_barrier_wait(j->start);
    for (int i = 0; i < ROUNDS; i++) case_run(&j->r, &j->s[i], j->x[i], &j->got[i]);
    return NULL;
}

NIB_TEST(OnDeviceThreads, TwoWithAStreamEach)
{
    static job jobs[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t start;
    const runner *list;
    const int n = runners_open(&list);
    if (n < 2) return;
    random_state = 2222;
    pthread_barrier_init(&start, NULL, THREADS);
    for (int t = 0; t < THREADS; t++) {
        jobs[t] = (job){ .r = list[n > 4 ? 4 : 1], .start = &start };
        runner *r = &jobs[t].r;
        if (runner_is_cuda(r)) RUN(r->runtime->stream_create(r->ordinal, &r->stream, why));
        for (int i = 0; i < ROUNDS; i++) {
            setting *s = &jobs[t].s[i];
            *s = setting_of(case_formats[(t + i) % NAMED_FORMATS], (nib_dtype)(i % 3), i % 5);
            s->rows = 1 + (t + i) * 7 % 40;
            s->cols = 500 + i * 31;
            jobs[t].x[i] = malloc((size_t)(s->rows * s->cols) * 4);
            fill_matrix(s->dtype, jobs[t].x[i], s->rows * s->cols, i % 2);
        }
        EXPECT(!pthread_create(&threads[t], NULL, work_of, &jobs[t]), "no thread");
    }
    for (int t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    for (int t = 0; t < THREADS; t++) {
        runner *r = &jobs[t].r;
        for (int i = 0; i < ROUNDS; i++) {
            const setting *s = &jobs[t].s[i];
            outcome *got = &jobs[t].got[i], expected;
            case_run(&list[0], s, jobs[t].x[i], &expected);
            case_expect_equal(s, r, &expected, got);
            case_release(&expected), case_release(got), free(jobs[t].x[i]);
        }
        if (runner_is_cuda(r)) RUN(r->runtime->stream_destroy(r->ordinal, r->stream, why));
    }
    pthread_barrier_destroy(&start);
}
