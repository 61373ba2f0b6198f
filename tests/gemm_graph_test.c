/* gemm_graph_test.c: packing and products in CUDA graphs, and from two threads at a time. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gemm_fixture.h"

#define RUN(call) \
    do { \
        char why[NIB_WHY_BYTES] = ""; \
        const nib_status got_ = (call); \
        EXPECT(got_ == NIB_OK, "%s", why); \
    } while (0)

enum { M = 19, N = 80, K = 64 * 34 + 40 };

/* A source, its pack and a product of it, all where a runner computes. */
typedef struct layer {
    gemm_source   s;
    gemm_pack     pack;
    nib_packed    src;
    nib_gemm_plan plan;
    nib_exec      exec;
    buffer        codes, scales, a, d, bias, workspace, alpha;
} layer;

static void layer_open(layer *l, const runner *r, nib_format format, int64_t m)
{
    const float alpha = 0.5f;
    nib_gemm_options o = gemm_options(format, N, K, M, NIB_F16, NIB_BF16);
    *l = (layer){ .s = gemm_source_make(format, N, K, NIB_CODES_PAIRS, NIB_SCALES_SWIZZLED_128X4, 0,
                                        GEMM_TAME),
                  .plan = { .size = sizeof l->plan }, .exec = exec_of(r) };
    OK(nib_gemm_plan_make(r->device, &o, &l->plan));
    if (runner_is_cuda(r)) {
        nib_gemm_tactic t;
        OK(nib_gemm_choice(&l->plan, m, &t));
        EXPECT(t.splits > 1, "%s is not cut: one launch", t.name);
    }
    l->pack = gemm_pack_new(r, NIB_GEMM_LAYOUT_AUTO, &l->s.p, 0, l->s.tensor_scale);
    l->codes = buffer_new(r, l->s.p.codes, (size_t)l->s.codes_bytes, 0);
    l->scales = buffer_new(r, l->s.p.scales, (size_t)l->s.scales_bytes, 0);
    l->src = l->s.p;
    l->src.codes = l->codes.at, l->src.scales = l->scales.at;
    l->src.tensor_scale = l->pack.w.tensor_scale;
    l->a = buffer_new(r, NULL, (size_t)m * K * 2, 0);
    l->d = buffer_new(r, NULL, (size_t)m * N * 2, 0);
    l->bias = buffer_new(r, NULL, N * 2, 0);
    l->alpha = buffer_new(r, &alpha, 4, 0);
    l->workspace = buffer_new(r, NULL, nib_gemm_workspace_bytes(&l->plan, m), 0);
    l->exec.workspace = l->workspace.at;
    l->exec.workspace_bytes = l->workspace.bytes;
}

static nib_status layer_pack(layer *l) { return nib_gemm_pack(&l->exec, &l->src, &l->pack.w); }

static nib_status layer_run(layer *l, int64_t m)
{
    const nib_matrix a = { l->a.at, NIB_F16, m, K, K }, d = { l->d.at, NIB_BF16, m, N, N };
    const nib_gemm_args args = { .size = sizeof args, .a = &a, .w = &l->pack.w, .d = &d,
                                 .alpha = l->alpha.at, .bias = l->bias.at };
    return nib_gemm(&l->exec, &l->plan, &args);
}

static void layer_fill(layer *l, uint32_t seed)
{
    uint8_t *a = malloc(l->a.bytes), *bias = malloc(l->bias.bytes);
    random_state = seed;
    for (size_t i = 0; i < l->a.bytes / 2; i++)
        gemm_put_number(NIB_F16, a, (int64_t)i, (double)next_unit());
    for (int64_t i = 0; i < N; i++) gemm_put_number(NIB_BF16, bias, i, (double)next_unit());
    buffer_put(&l->a, a), buffer_put(&l->bias, bias);
    free(a), free(bias);
}

static uint8_t *layer_close(layer *l)
{
    buffer_free(&l->codes), buffer_free(&l->scales), buffer_free(&l->a), buffer_free(&l->bias);
    buffer_free(&l->alpha), buffer_free(&l->workspace);
    gemm_pack_free(&l->pack), gemm_source_free(&l->s);
    return buffer_take(&l->d);
}

/* What the runner gives without a graph. */
static uint8_t *right_of(const runner *r, nib_format format, int64_t m, uint32_t source_seed,
                         uint32_t seed)
{
    layer l;
    random_state = source_seed;
    layer_open(&l, r, format, m);
    layer_fill(&l, seed);
    OK(layer_pack(&l));
    OK(layer_run(&l, m));
    runner_wait(r);
    return layer_close(&l);
}

static void replay(const runner *r, nib_format format, int64_t m)
{
    layer l;
    void *graph = NULL;
    random_state = 650;
    layer_open(&l, r, format, m);
    RUN(r->runtime->capture_begin(r->ordinal, r->stream, why));
    OK(layer_pack(&l));
    OK(layer_run(&l, m));
    RUN(r->runtime->capture_end(r->ordinal, r->stream, &graph, why));
    uint8_t *got = malloc(l.d.bytes);
    for (uint32_t round = 0; round < 3; round++) {
        layer_fill(&l, 651 + round);
        RUN(r->runtime->graph_launch(r->ordinal, graph, r->stream, why));
        runner_wait(r);
        buffer_get(&l.d, got);
        uint8_t *right = right_of(r, format, m, 650, 651 + round);
        EXPECT(!memcmp(got, right, l.d.bytes), "format %#x, %lld rows, replay %u", format,
               (long long)m, round);
        free(right);
    }
    free(got);
    RUN(r->runtime->graph_destroy(r->ordinal, graph, why));
    free(layer_close(&l));
}

NIB_TEST(OnDeviceGemmGraph, WantsToBePreparedAndReplays)
{
    const runner *list;
    if (!test_is_alone()) {
        const char *kind = getenv("NIBBLE_TEST_DEVICE");
        if (!kind || strcmp(kind, "cuda") != 0) SKIP("graphs are CUDA's");
        run_test_alone("OnDeviceGemmGraph.WantsToBePreparedAndReplays", "NIB_TEST_ALONE", "1");
        return;
    }
    REQUIRE(runners_open(&list) == 2, "no device");
    const runner *r = &list[1];
    layer l;
    void *graph = NULL;
    random_state = 649;
    layer_open(&l, r, NIB_NVFP4, M);
    const nib_matrix whole = { l.a.at, NIB_F16, N, K, K }; /* only to be refused */
    RUN(r->runtime->capture_begin(r->ordinal, r->stream, why));
    for (int i = 0; i < 3; i++) {
        const nib_status got = i == 0 ? layer_pack(&l) : i == 1 ? layer_run(&l, M)
                             : nib_gemm_unpack(&l.exec, &l.pack.w, &whole);
        EXPECT(got == NIB_ERR_NOT_PREPARED && strstr(nib_last_error(), "nib_prepare"), "%d: %s: %s",
               i, nib_status_name(got), nib_last_error());
    }
    RUN(r->runtime->capture_end(r->ordinal, r->stream, &graph, why));
    RUN(r->runtime->graph_destroy(r->ordinal, graph, why));
    free(layer_close(&l));
    OK(nib_prepare(r->device, NIB_PREPARE_GEMM));
    for (int i = 0; i < 8; i++) replay(r, gemm_formats[i % 4], i < 4 ? M : 2);
}

/* ---- threads ---- */

enum { THREADS = 2, ROUNDS = 8 };

typedef struct job {
    runner   r; /* with a stream of its own */
    layer    l[ROUNDS];
    pthread_barrier_t *start;
} job;

static void *work_of(void *argument)
{
    job *j = argument;
    pthread_barrier_wait(j->start);
    for (int i = 0; i < ROUNDS; i++) {
        OK(layer_pack(&j->l[i]));
        OK(layer_run(&j->l[i], 1 + i * 2));
    }
    runner_wait(&j->r);
    return NULL;
}

NIB_TEST(OnDeviceGemmGraph, TwoThreadsWithAStreamEach)
{
    static job jobs[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t start;
    const runner *list;
    const int n = runners_open(&list);
    REQUIRE(n > 0 && gemm_is_offered(&list[n - 1]), "this backend has no products");
    pthread_barrier_init(&start, NULL, THREADS);
    for (int t = 0; t < THREADS; t++) {
        jobs[t].r = list[n > 4 ? 4 : n - 1];
        jobs[t].start = &start;
        if (runner_is_cuda(&jobs[t].r))
            RUN(list[1].runtime->stream_create(0, &jobs[t].r.stream, why));
        for (int i = 0; i < ROUNDS; i++) {
            random_state = (uint32_t)(660 + t * 100 + i);
            layer_open(&jobs[t].l[i], &jobs[t].r, gemm_formats[i % 4], 1 + i * 2);
            layer_fill(&jobs[t].l[i], (uint32_t)(700 + t * 100 + i));
        }
    }
    for (int t = 0; t < THREADS; t++) pthread_create(&threads[t], NULL, work_of, &jobs[t]);
    for (int t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < ROUNDS; i++) {
            const size_t bytes = jobs[t].l[i].d.bytes;
            uint8_t *got = layer_close(&jobs[t].l[i]);
            uint8_t *right = right_of(&list[n > 4 ? 4 : n - 1], gemm_formats[i % 4], 1 + i * 2,
                                      (uint32_t)(660 + t * 100 + i), (uint32_t)(700 + t * 100 + i));
            EXPECT(!memcmp(got, right, bytes), "thread %d, product %d", t, i);
            free(got), free(right);
        }
        if (runner_is_cuda(&jobs[t].r))
            RUN(list[1].runtime->stream_destroy(0, jobs[t].r.stream, why));
    }
    pthread_barrier_destroy(&start);
}
