/* gptq_device_test.c: Hessians, factors and GPTQ's roundings by every backend, against the portable
 * code on one thread. Sums come in another order on each, so numbers are held to bounds; in f64
 * the codes are the same. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/gptq.h"
#include "tests/device_case.h"
#include "tests/expect_status.h"

typedef struct layer {
    nib_real        real;
    nib_format      format;
    nib_dtype       dtype;
    int64_t         rows, k, tokens;
    nib_gptq_order  order;
    nib_gptq_scales scales;
    int             rotated;
} layer;

/* What a runner makes of a layer, in the host's memory. */
typedef struct made {
    double          *h, *l, *u; /* k x k */
    int32_t         *order;
    uint8_t         *codes, *scales;
    uint64_t         tokens;
    nib_gptq_factor  factor;
    nib_gptq_report  report;
    nib_hessian_info info;
    nib_status       status;
} made;

static size_t real_bytes(const layer *c) { return c->real == NIB_REAL_F64 ? 8 : 4; }

/* The square of reals in a buffer, as doubles; 0 in the triangle that is not asked for. */
static double *reals_of(const layer *c, const buffer *b, int lower)
{
    uint8_t *const bytes = malloc(b->bytes);
    double *const to = calloc((size_t)(c->k * c->k), sizeof *to);
    buffer_get(b, bytes);
    for (int64_t i = 0; i < c->k; i++)
        for (int64_t j = 0; j < c->k; j++) {
            if (lower && j > i) continue;
            const int64_t at = i * c->k + j;
            to[at] = c->real == NIB_REAL_F64 ? ((const double *)(void *)bytes)[at]
                                             : (double)((const float *)(void *)bytes)[at];
        }
    free(bytes);
    return to;
}

/* Tokens that hang together; input 3 is dead, but of a rotated Hessian. */
static void *tokens_of(const layer *c)
{
    uint16_t *const half = malloc((size_t)(c->tokens * c->k) * 4);
    float *const full = (float *)(void *)half, *const row = malloc((size_t)c->k * sizeof *row);
    for (int64_t t = 0; t < c->tokens; t++) {
        float common = next_unit();
        for (int64_t i = 0; i < c->k; i++) {
            row[i] = i == 3 ? 0.0f : (next_unit() + 2.0f * common) * (1.0f + (float)(i * 5 % 11));
            common = 0.9f * common + 0.1f * next_unit();
        }
        if (c->dtype == NIB_F32) memcpy(full + t * c->k, row, (size_t)c->k * sizeof *row);
        else nib_scalar_cpu.from_f32(c->dtype, row, c->k, half + t * c->k);
    }
    free(row);
    return half;
}

static void run(const runner *r, const layer *c, const void *tokens, const float *weights, made *m)
{
    const size_t   square = (size_t)(c->k * c->k) * real_bytes(c);
    const int64_t  first = c->tokens / 3;
    const size_t   size = c->dtype == NIB_F32 ? 4 : 2;
    const nib_exec plain = exec_of(r);
    nib_exec       exec = plain;
    buffer x = buffer_new(r, tokens, (size_t)(c->tokens * c->k) * size, 0);
    buffer w = buffer_new(r, weights, (size_t)(c->rows * c->k) * 4, 0);
    buffer l = buffer_new(r, NULL, square, 0), u = buffer_new(r, NULL, square, 0);
    buffer data[2], counts[2];
    nib_hessian h[2];
    *m = (made){ .info = { .size = sizeof m->info }, .report = { .size = sizeof m->report } };
    for (int i = 0; i < 2; i++) {
        data[i] = buffer_new(r, NULL, square, 0);
        counts[i] = buffer_new(r, NULL, 8, 0);
        h[i] = (nib_hessian){ .size = sizeof *h, .real = c->real, .k = c->k, .data = data[i].at,
                              .ld_elems = c->k, .tokens = counts[i].at };
    }
    const size_t adding = nib_hessian_add_workspace_bytes(r->device, &h[0], c->tokens);
    const size_t rounding = nib_gptq_workspace_bytes(r->device, c->real, c->rows, c->k, r->threads);
    const size_t room = adding > rounding ? adding : rounding;
    buffer workspace = buffer_new(r, NULL, room, 0);
    exec.workspace = workspace.at;
    exec.workspace_bytes = room;
    buffer order = buffer_new(r, NULL, (size_t)c->k * 4, 0);
    const int64_t ld_codes = nib_codes_row_bytes(c->format, c->k);
    const size_t  codes_bytes = (size_t)(c->rows * ld_codes);
    const size_t  scales_bytes = (size_t)nib_scales_bytes(c->format, NIB_SCALES_LINEAR, c->rows,
                                                          c->k);
    buffer codes = buffer_new(r, NULL, codes_bytes, 0);
    buffer scales = buffer_new(r, NULL, scales_bytes, 0), scale = buffer_new(r, NULL, 4, 0);
    const float given = 0.004f;
    buffer_put(&scale, &given);

    nib_matrix part = { .data = x.at, .dtype = c->dtype, .rows = first, .cols = c->k,
                        .ld_elems = c->k };
    nib_matrix rest = part;
    rest.data = (uint8_t *)x.at + (size_t)(first * c->k) * size;
    rest.rows = c->tokens - first;
    nib_status s = NIB_OK;
    for (int i = 0; i < 2 && s == NIB_OK; i++) s = nib_hessian_clear(&plain, &h[i]);
    if (s == NIB_OK) s = nib_hessian_add(&exec, &part, NIB_HESSIAN_EXACT, &h[0]);
    if (s == NIB_OK) s = nib_hessian_add(&exec, &rest, NIB_HESSIAN_EXACT, &h[1]);
    if (s == NIB_OK) s = nib_hessian_merge(&plain, &h[1], &h[0]);
    if (s == NIB_OK && c->rotated) s = nib_hessian_rotate(&plain, &h[0], c->rotated);
    if (s == NIB_OK) s = nib_hessian_check(&plain, &h[0], &m->info);
    if (s == NIB_OK) m->h = reals_of(c, &data[0], 1);
    const nib_gptq_factor_options fo = { .size = sizeof fo, .order = c->order,
                                         .block = nib_format_block(c->format) };
    m->factor = (nib_gptq_factor){ .size = sizeof m->factor, .real = c->real, .k = c->k,
                                   .l = l.at, .ld_elems = c->k, .order = order.at };
    if (s == NIB_OK) s = nib_gptq_factor_make(&plain, &h[0], &fo, &m->factor);
    if (s == NIB_OK) m->l = reals_of(c, &l, 1);
    const nib_matrix       wm = { .data = w.at, .rows = c->rows, .cols = c->k, .ld_elems = c->k };
    const nib_gptq_options o = { .size = sizeof o, .scales = c->scales,
                                 .quantize = { .size = sizeof o.quantize } };
    const nib_packed dst = { .size = sizeof dst, .format = c->format, .rows = c->rows,
                             .cols = c->k, .codes = codes.at, .ld_codes_bytes = ld_codes,
                             .scales = scales.at,
                             .tensor_scale = c->format == NIB_NVFP4 ? scale.at : NULL };
    if (s == NIB_OK) s = nib_gptq_quantize(&exec, &h[0], &m->factor, &wm, &o, &dst, &m->report);
    int64_t minor = 0;
    if (s == NIB_OK)
        s = nib_hessian_inverse(&plain, &h[0], m->factor.added, u.at, c->k, &minor);
    EXPECT(minor == 0, "%s: minor %lld", r->name, (long long)minor);
    if (s == NIB_OK) m->u = reals_of(c, &u, 0);
    if (s == NIB_OK) buffer_get(&counts[0], &m->tokens);
    m->status = s;
    m->order = buffer_take(&order);
    m->codes = buffer_take(&codes);
    m->scales = buffer_take(&scales);
    buffer *const all[] = { &x, &w, &data[0], &data[1], &counts[0], &counts[1], &l, &u, &workspace,
                            &scale };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) buffer_free(all[i]);
}

static void release(made *m)
{
    free(m->h);
    free(m->l);
    free(m->u);
    free(m->order);
    free(m->codes);
    free(m->scales);
}

/* Within rel of a row's largest element. */
static void expect_reals(const runner *r, const char *what, const layer *c, const double *a,
                         const double *b, double rel)
{
    for (int64_t i = 0; i < c->k && !nib_test_failed(); i++) {
        double most = 0.0;
        for (int64_t j = 0; j < c->k; j++) most = fmax(most, fabs(a[i * c->k + j]));
        for (int64_t j = 0; j < c->k; j++)
            EXPECT(fabs(a[i * c->k + j] - b[i * c->k + j]) <= rel * most,
                   "%s: %s(%lld, %lld) is %g, not %g", r->name, what, (long long)i, (long long)j,
                   b[i * c->k + j], a[i * c->k + j]);
    }
}

static int64_t differing(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += a[i] != b[i];
    return count;
}

static void expect_near(const runner *r, const char *what, double a, double b, double rel)
{
    EXPECT(fabs(a - b) <= rel * fabs(a), "%s: %s is %.17g, not %.17g", r->name, what, b, a);
}

static void compare(const runner *r, const layer *c, const made *a, const made *b)
{
    const int     f64 = c->real == NIB_REAL_F64;
    const int64_t bytes = c->rows * nib_codes_row_bytes(c->format, c->k);
    const int64_t blocks = c->rows * nib_scales_per_row(c->format, c->k);
    REQUIRE(b->status == NIB_OK, "%s: %s", r->name, nib_last_error());
    EXPECT(b->tokens == (uint64_t)c->tokens && a->info.dead == b->info.dead, "%s: %llu tokens",
           r->name, (unsigned long long)b->tokens);
    expect_reals(r, "H", c, a->h, b->h, (f64 ? 1e-15 : 6e-8) * (double)(c->tokens + 8));
    expect_near(r, "the mean", a->info.mean_diag, b->info.mean_diag, f64 ? 1e-12 : 1e-5);
    EXPECT(b->factor.outcome == NIB_GPTQ_DONE && b->factor.tries == a->factor.tries, "%s: tries",
           r->name);
    expect_reals(r, "L", c, a->l, b->l, f64 ? 1e-9 : 1e-2);
    expect_reals(r, "U", c, a->u, b->u, f64 ? 1e-9 : 1e-2);
    expect_near(r, "weight", a->report.weight, b->report.weight, f64 ? 1e-9 : 1e-3);
    expect_near(r, "plain error", a->report.plain_error, b->report.plain_error, f64 ? 1e-6 : 2e-2);
    expect_near(r, "error", a->report.error, b->report.error, f64 ? 1e-6 : 5e-2);
    EXPECT(b->report.error <= b->report.plain_error, "%s: the guard", r->name);
    if (!f64) return;
    EXPECT(!memcmp(a->order, b->order, (size_t)c->k * sizeof *a->order), "%s: order", r->name);
    const int64_t codes = differing(a->codes, b->codes, bytes);
    const int64_t scales = differing(a->scales, b->scales, blocks);
    EXPECT(!codes && !scales && a->report.plain_rows == b->report.plain_rows,
           "%s: %lld bytes of codes and %lld scales differ", r->name, (long long)codes,
           (long long)scales);
}

static void check(const layer *c)
{
    const runner *list;
    const int     n = runners_open(&list);
    made          right = { 0 };
    random_state = 77;
    void *const  tokens = tokens_of(c);
    float *const weights = malloc((size_t)(c->rows * c->k) * sizeof *weights);
    for (int64_t i = 0; i < c->rows * c->k; i++) weights[i] = next_unit() * next_unit();
    if (n) run(&list[0], c, tokens, weights, &right);
    EXPECT(right.status == NIB_OK, "%s", nib_last_error());
    for (int i = 1; i < n && right.status == NIB_OK; i++) {
        made other;
        run(&list[i], c, tokens, weights, &other);
        compare(&list[i], c, &right, &other);
        release(&other);
    }
    release(&right);
    free(tokens);
    free(weights);
}

NIB_TEST(OnDeviceGptqBackends, SumsAndRounds)
{
    if (nib_bench_cpu.gemm_missing()) SKIP(nib_bench_cpu.gemm_missing());
    const layer cases[] = {
        { NIB_REAL_F64, NIB_NVFP4, NIB_BF16, 6, 80, 150, NIB_GPTQ_NATURAL,
          NIB_GPTQ_SCALES_FROZEN, 0 },
        { NIB_REAL_F64, NIB_NVFP4, NIB_F32, 5, 71, 90, NIB_GPTQ_ACT, NIB_GPTQ_SCALES_HESSIAN, 0 },
        { NIB_REAL_F64, NIB_MXFP4, NIB_F16, 5, 150, 170, NIB_GPTQ_GROUP_AWARE,
          NIB_GPTQ_SCALES_HESSIAN_FRESH, 0 },
        { NIB_REAL_F64, NIB_MXFP4, NIB_F32, 3, 96, 100, NIB_GPTQ_NATURAL, NIB_GPTQ_SCALES_FRESH,
          32 },
        { NIB_REAL_F32, NIB_NVFP4, NIB_BF16, 6, 64, 200, NIB_GPTQ_NATURAL, NIB_GPTQ_SCALES_FRESH,
          16 },
        { NIB_REAL_F32, NIB_NVFP4, NIB_F32, 6, 64, 200, NIB_GPTQ_ACT, NIB_GPTQ_SCALES_FROZEN, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check(&cases[i]);
        if (nib_test_failed()) EXPECT(0, "in case %zu", i);
    }
}

/* Each call of hessian.h and gptq.h that wants a library says which, if it is not there. */
static void without(const char *test, const char *word, const char *text)
{
    const runner *list;
    const layer   c = { NIB_REAL_F32, NIB_NVFP4, NIB_F32, 4, 32, 40, NIB_GPTQ_NATURAL,
                        NIB_GPTQ_SCALES_FROZEN, 0 };
    made          m;
    if (runners_open(&list) < 2 || !runner_is_emulated(&list[1])) SKIP("not on the emulator");
    if (!test_is_alone()) {
        run_test_alone(test, "NIB_EMU_INJECT", word);
        return;
    }
    void *const  tokens = tokens_of(&c);
    float *const weights = calloc((size_t)(c.rows * c.k), sizeof *weights);
    run(&list[1], &c, tokens, weights, &m);
    EXPECT(m.status == NIB_ERR_UNSUPPORTED && strstr(nib_last_error(), text), "%s: %s",
           nib_status_name(m.status), nib_last_error());
    release(&m);
    free(tokens);
    free(weights);
}

NIB_TEST(OnDeviceGptqBackends, NamesCublasLtWhereItIsMissing)
{
    without("OnDeviceGptqBackends.NamesCublasLtWhereItIsMissing", "no_cublaslt", "libcublasLt.so");
}

NIB_TEST(OnDeviceGptqBackends, NamesCusolverWhereItIsMissing)
{
    without("OnDeviceGptqBackends.NamesCusolverWhereItIsMissing", "no_cusolver", "libcusolver.so");
}

/* A call under capture is refused before nib_prepare; after it, a graph adds once a launch. */
NIB_TEST(OnDeviceGptqBackends, AddsInAGraph)
{
    enum { K = 40, ROWS = 8 };
    const runner *list;
    char          why[NIB_WHY_BYTES] = "";
    void         *graph = NULL;
    if (runners_open(&list) < 2 || !runner_is_cuda(&list[1])) SKIP("not on CUDA");
    const runner *const r = &list[1];
    EXPECT(nib_prepare(r->device, NIB_PREPARE_GPTQ) == NIB_OK, "%s", nib_last_error());
    float ones[K * ROWS];
    for (int i = 0; i < K * ROWS; i++) ones[i] = 1.0f;
    buffer x = buffer_new(r, ones, sizeof ones, 0), data = buffer_new(r, NULL, K * K * 4, 0);
    buffer count = buffer_new(r, NULL, 8, 0);
    nib_exec          exec = exec_of(r);
    const nib_hessian h = { .size = sizeof h, .k = K, .data = data.at, .ld_elems = K,
                            .tokens = count.at };
    const nib_matrix  m = { .data = x.at, .rows = ROWS, .cols = K, .ld_elems = K };
    exec.workspace_bytes = nib_hessian_add_workspace_bytes(r->device, &h, ROWS);
    buffer workspace = buffer_new(r, NULL, exec.workspace_bytes, 0);
    exec.workspace = workspace.at;
    EXPECT(nib_hessian_clear(&exec, &h) == NIB_OK, "%s", nib_last_error());
    EXPECT(r->runtime->capture_begin(r->ordinal, r->stream, why) == NIB_OK, "%s", why);
    EXPECT(nib_hessian_add(&exec, &m, NIB_HESSIAN_TF32, &h) == NIB_OK, "%s", nib_last_error());
    EXPECT(r->runtime->capture_end(r->ordinal, r->stream, &graph, why) == NIB_OK, "%s", why);
    for (int turn = 1; turn <= 3; turn++) {
        float    row[K];
        uint64_t tokens;
        EXPECT(r->runtime->graph_launch(r->ordinal, graph, r->stream, why) == NIB_OK, "%s", why);
        runner_wait(r);
        EXPECT(r->runtime->copy(r->ordinal, r->stream, row,
                                (const uint8_t *)data.at + (K - 1) * K * 4, sizeof row, why)
                   == NIB_OK, "%s", why);
        buffer_get(&count, &tokens);
        EXPECT(tokens == (uint64_t)(turn * ROWS) && row[0] == (float)(turn * ROWS)
                   && row[K - 1] == row[0], "turn %d: %g", turn, (double)row[0]);
    }
    EXPECT(r->runtime->graph_destroy(r->ordinal, graph, why) == NIB_OK, "%s", why);
    buffer_free(&x);
    buffer_free(&data);
    buffer_free(&count);
    buffer_free(&workspace);
}
