/* tensor_stats_test.c: nib_observe_stats on every backend, bit for bit against the order of sums
 * that calibrate.h and kernels/common/observe.h state, written here a second time, and within the
 * stated bounds against sums in long double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "nibble/fakequant.h"
#include "nibble/monitor.h"
#include "tests/device_case.h"
#include "tests/expect_status.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

/* A source, its values, and a mask or NULL; all dense buffers of rows x (cols + extra). */
typedef struct pair {
    nib_dtype  dtype, value_dtype;
    int64_t    rows, cols, extra, value_extra, mask_extra;
    size_t     off;
    void      *x, *v;
    uint8_t   *mask;
} pair;

static int64_t mask_ld(const pair *p) { return (p->cols + 7) / 8 + p->mask_extra; }

static float x_at(const pair *p, int64_t row, int64_t c)
{
    return nib_load_f32((int)p->dtype, p->x, row * (p->cols + p->extra) + c);
}

static float v_at(const pair *p, int64_t row, int64_t c)
{
    return nib_load_f32((int)p->value_dtype, p->v, row * (p->cols + p->value_extra) + c);
}

/* ---- what is right ---- */

/* Adds list[t + h] to list[t], for h = n / 2, ..., 1. */
static float f32_tree(float *list, int n)
{
    for (int h = n / 2; h > 0; h /= 2)
        for (int t = 0; t < h; t++) list[t] = list[t] + list[t + h];
    return list[0];
}

static double f64_tree(double *list, int n)
{
    for (int h = n / 2; h > 0; h /= 2)
        for (int t = 0; t < h; t++) list[t] = list[t] + list[t + h];
    return list[0];
}

/* A piece: 1024 numbers, absent ones 0. 8 neighbours make the same tree. */
static float piece_tree(const float *y)
{
    float lane[32] = { 0 };
    for (int g = 0; g < 128; g++) {
        float eight[8];
        memcpy(eight, y + 8 * g, sizeof eight);
        lane[g % 32] = lane[g % 32] + f32_tree(eight, 8);
    }
    return f32_tree(lane, 32);
}

/* Sum of y^power, scaled where the largest is far from 1. */
static double piece_sum(const float *y, int power)
{
    float most = 0, scaled[1024];
    int e = 0;
    for (int i = 0; i < 1024; i++) most = fmaxf(most, fabsf(y[i]));
    if (most != 0 && (most < 0x1p-40f || most >= 0x1p40f)) {
        e = most < 0x1p-126f ? 126 : isinf(most) ? -126 : -ilogbf(most);
        if (e < -126) e = -126;
    }
    for (int i = 0; i < 1024; i++) {
        scaled[i] = ldexpf(y[i], e);
        if (power == 2) scaled[i] = scaled[i] * scaled[i];
    }
    return ldexp((double)piece_tree(scaled), -e * power);
}

static float larger(float a, float b) { return a > b ? a : b; }

static nib_tensor_stats right_of(const pair *p)
{
    static double partial[3][4096];
    nib_tensor_stats s = { .elements = (uint64_t)(p->rows * p->cols),
                           .range = { -INFINITY, -INFINITY } };
    int64_t index = 0;
    memset(partial, 0, sizeof partial);
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t first = 0; first < p->cols; first += 1024, index++) {
            float x[1024] = { 0 }, d[1024] = { 0 };
            for (int64_t c = first; c < p->cols && c < first + 1024; c++) {
                const float a = x_at(p, row, c), b = v_at(p, row, c);
                if (!isfinite(a) || !isfinite(b)) {
                    s.nonfinite++;
                    continue;
                }
                if (p->mask) s.clipped += !(p->mask[row * mask_ld(p) + c / 8] >> c % 8 & 1);
                s.zeroed += a != 0 && b == 0;
                s.range[0] = larger(a == 0 ? 0.0f : -a, s.range[0]);
                s.range[1] = larger(a == 0 ? 0.0f : a, s.range[1]);
                x[c - first] = a, d[c - first] = a - b;
            }
            partial[0][index % 4096] += piece_sum(x, 1);
            partial[1][index % 4096] += piece_sum(x, 2);
            partial[2][index % 4096] += piece_sum(d, 2);
        }
    }
    s.sum = f64_tree(partial[0], 4096);
    s.sum_sq = f64_tree(partial[1], 4096);
    s.sum_sq_error = f64_tree(partial[2], 4096);
    return s;
}

/* The stated bounds, and exact counts. */
static void check_bounds(const pair *p, const nib_tensor_stats *s)
{
    long double sum = 0, magnitude = 0, square = 0, error = 0;
    for (int64_t i = 0; i < p->rows * p->cols; i++) {
        const float a = x_at(p, i / p->cols, i % p->cols), b = v_at(p, i / p->cols, i % p->cols);
        if (!isfinite(a) || !isfinite(b)) continue;
        const long double d = (long double)(a - b), x = (long double)a;
        sum += x, magnitude += fabsl(x), square += x * x, error += d * d;
    }
    EXPECT(fabsl((long double)s->sum - sum) <= 1e-6L * magnitude, "sum %g, not %g", s->sum,
           (double)sum);
    EXPECT(fabsl((long double)s->sum_sq - square) <= 1e-6L * square, "squares %g, not %g",
           s->sum_sq, (double)square);
    EXPECT(isinf((double)error) ? isinf(s->sum_sq_error)
                                : fabsl((long double)s->sum_sq_error - error) <= 1e-6L * error,
           "errors %g, not %g", s->sum_sq_error, (double)error);
}

/* ---- one case ---- */

static size_t width(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

static size_t matrix_bytes(const pair *p, nib_dtype dtype, int64_t extra)
{
    return p->rows ? (size_t)((p->rows - 1) * (p->cols + extra) + p->cols) * width(dtype) : 0;
}

/* Twice, from zeros: the second call adds to what the first one left. */
static void check_on(const runner *r, const pair *p, const nib_tensor_stats *one)
{
    nib_exec exec = exec_of(r);
    const int64_t bytes = nib_observe_stats_workspace_bytes(p->rows, p->cols);
    nib_tensor_stats right = { 0 }, start = { 0 };
    buffer x = buffer_new(r, p->x, matrix_bytes(p, p->dtype, p->extra), p->off * width(p->dtype));
    buffer v = buffer_new(r, p->v, matrix_bytes(p, p->value_dtype, p->value_extra),
                          p->off * width(p->value_dtype));
    buffer mask = buffer_new(r, p->mask, p->mask && p->rows ? (size_t)((p->rows - 1) * mask_ld(p)
                             + (p->cols + 7) / 8) : 0, p->off);
    buffer stats = buffer_new(r, &start, sizeof start, 8);
    buffer workspace = buffer_new(r, NULL, (size_t)bytes, 8);
    const nib_matrix src = { x.at, p->dtype, p->rows, p->cols, p->cols + p->extra };
    const nib_matrix values = { v.at, p->value_dtype, p->rows, p->cols,
                                p->cols + p->value_extra };
    exec.workspace = workspace.at, exec.workspace_bytes = (size_t)bytes;
    for (int call = 0; call < 2; call++) {
        OK(nib_observe_stats(&exec, &src, &values, p->mask ? mask.at : NULL, mask_ld(p),
                             stats.at));
        OK(nib_monitor_add(&right, one));
    }
    nib_tensor_stats *got = buffer_take(&stats);
    EXPECT(!memcmp(got, &right, sizeof right), "%s: dtypes %d %d, %lld x %lld + %lld + %lld, off "
           "%zu, mask %d: nonfinite %llu %llu clipped %llu %llu zeroed %llu %llu sum %a %a squares "
           "%a %a errors %a %a range %a %a %a %a", r->name, p->dtype, p->value_dtype,
           (long long)p->rows, (long long)p->cols, (long long)p->extra, (long long)p->value_extra,
           p->off, p->mask != NULL, (unsigned long long)got->nonfinite,
           (unsigned long long)right.nonfinite, (unsigned long long)got->clipped,
           (unsigned long long)right.clipped, (unsigned long long)got->zeroed,
           (unsigned long long)right.zeroed, got->sum, right.sum, got->sum_sq, right.sum_sq,
           got->sum_sq_error, right.sum_sq_error, (double)got->range[0], (double)right.range[0],
           (double)got->range[1], (double)right.range[1]);
    free(got);
    buffer_free(&x), buffer_free(&v), buffer_free(&mask), buffer_free(&workspace);
}

static void check_all(const pair *p, int few)
{
    const runner *list;
    const int n = runners_open(&list);
    const nib_tensor_stats one = right_of(p);
    if (one.elements) check_bounds(p, &one);
    const nib_tensor_stats nothing = { 0 };
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (few && i != 0 && i != 3 && i != n - 1) continue;
        check_on(&list[i], p, one.elements ? &one : &nothing);
    }
}

/* Values near x, of which some are 0, some far away and some not finite. */
static void check_random(pair *p, int tame, int few)
{
    const int64_t n = p->rows * (p->cols + p->extra);
    const int64_t value_n = p->rows * (p->cols + p->value_extra);
    p->x = malloc((size_t)n * 4 + 4), p->v = malloc((size_t)value_n * 4 + 4);
    p->mask = next_random() % 2 ? malloc((size_t)(p->rows * mask_ld(p)) + 1) : NULL;
    fill_matrix(p->dtype, p->x, n, tame);
    fill_matrix(p->value_dtype, p->v, value_n, tame);
    for (int64_t row = 0; row < p->rows; row++) {
        for (int64_t c = 0; c < p->cols; c++) {
            const float a = x_at(p, row, c);
            const uint32_t kind = next_random() % 64;
            if (kind == 0 || (kind == 1 && !tame)) continue;
            const float near = kind < 5 ? 0.0f : kind < 20 ? a : a * (1 + next_unit() * 0.1f);
            nib_store_f32((int)p->value_dtype, p->v, row * (p->cols + p->value_extra) + c, near);
        }
    }
    for (int64_t i = 0; p->mask && i < p->rows * mask_ld(p); i++)
        p->mask[i] = (uint8_t)(next_random() | next_random());
    check_all(p, few);
    free(p->x), free(p->v), free(p->mask);
}

/* ---- the tests ---- */

NIB_TEST(OnDeviceStats, EveryTypeAndRaggedShape)
{
    random_state = 64;
    for (int i = 0; i < 240 && !nib_test_failed(); i++) {
        pair p = { .dtype = (nib_dtype)(i % 3), .value_dtype = (nib_dtype)(i / 3 % 3) };
        p.rows = i % 19 == 0 ? 0 : 1 + (int64_t)(next_random() % 6);
        p.cols = (int64_t)(next_random() % (i % 3 ? 300 : 4000));
        if (i % 4 == 0) p.cols = p.cols / 16 * 16; /* whole vectors in every row */
        p.extra = i % 5 ? 0 : (int64_t)(next_random() % 40);
        p.value_extra = i % 7 ? 0 : (int64_t)(next_random() % 40);
        p.mask_extra = i % 3;
        p.off = i % 6 ? 0 : next_random() % 9;
        check_random(&p, i % 2, 1);
    }
}

/* So many pieces that each partial sum takes several, down many rows and along one; the emulator
 * would take long for the last. */
NIB_TEST(OnDeviceStats, PartialSumsTakeTurns)
{
    const int64_t shapes[][2] = { { 9001, 24 }, { 1400, 2048 + 8 }, { 1, 4100 * 1024 + 7 } };
    const runner *list;
    const int n = runners_open(&list);
    random_state = 4096;
    for (int i = 0; i < 3 && !nib_test_failed(); i++) {
        pair p = { .dtype = i == 1 ? NIB_BF16 : NIB_F32, .value_dtype = NIB_BF16 };
        if (i == 2 && runner_is_emulated(&list[n - 1])) break;
        p.rows = shapes[i][0], p.cols = shapes[i][1];
        check_random(&p, i != 0, i != 0);
    }
}

/* Magnitudes from the smallest to the largest f32, a binade a matrix, and each binade where the
 * arithmetic changes. */
NIB_TEST(OnDeviceStats, EveryBinade)
{
    float x[1100], v[1100];
    random_state = 7;
    for (int e = -149; e <= 127 && !nib_test_failed(); e++) {
        if (e % 6 && abs(e) < 124 && abs(abs(e) - 40) > 2) continue;
        for (int i = 0; i < 1100; i++) {
            x[i] = ldexpf(1.0f + fabsf(next_unit()), e - (i % 9 == 0) * 20);
            if (next_random() % 2) x[i] = -x[i];
            v[i] = i % 4 ? x[i] * 0.9f : -x[i];
        }
        const pair p = { .rows = 1, .cols = 1100, .x = x, .v = v };
        check_all(&p, 1);
    }
}

/* Known answers: 3 rows of 2000 times 0.5 against 0.25, one NaN, one value Inf, two zeroed. */
NIB_TEST(OnDeviceStats, KnownAnswer)
{
    enum { ROWS = 3, COLS = 2000, N = ROWS * COLS };
    float x[N], v[N];
    uint8_t mask[ROWS * COLS / 8];
    for (int i = 0; i < N; i++) x[i] = 0.5f, v[i] = 0.25f;
    memset(mask, 0xff, sizeof mask);
    x[5] = NAN, v[4000] = INFINITY, v[17] = -0.0f, v[5999] = 0.0f;
    mask[0] = 0xdf; /* of the NaN: not counted */
    mask[700] = 0x7e;
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < n; i++) {
        const runner *r = &list[i];
        nib_exec exec = exec_of(r);
        const nib_tensor_stats start = { 0 };
        buffer bx = buffer_new(r, x, sizeof x, 0), bv = buffer_new(r, v, sizeof v, 0);
        buffer bm = buffer_new(r, mask, sizeof mask, 0);
        buffer stats = buffer_new(r, &start, sizeof start, 0);
        buffer workspace = buffer_new(r, NULL, 6 * 56, 0);
        EXPECT(nib_observe_stats_workspace_bytes(ROWS, COLS) == 6 * 56, "workspace");
        exec.workspace = workspace.at, exec.workspace_bytes = workspace.bytes;
        const nib_matrix src = { bx.at, NIB_F32, ROWS, COLS, COLS };
        const nib_matrix values = { bv.at, NIB_F32, ROWS, COLS, COLS };
        OK(nib_observe_stats(&exec, &src, &values, bm.at, COLS / 8, stats.at));
        nib_tensor_stats *s = buffer_take(&stats);
        EXPECT(s->elements == N && s->nonfinite == 2 && s->zeroed == 2 && s->clipped == 2,
               "%s: %llu %llu %llu %llu", r->name, (unsigned long long)s->elements,
               (unsigned long long)s->nonfinite, (unsigned long long)s->zeroed,
               (unsigned long long)s->clipped);
        EXPECT(s->sum == 0.5 * (N - 2) && s->sum_sq == 0.25 * (N - 2)
                   && s->sum_sq_error == 0.0625 * (N - 4) + 0.25 * 2, "%s: %g %g %g", r->name,
               s->sum, s->sum_sq, s->sum_sq_error);
        EXPECT(s->range[0] == -0.5f && s->range[1] == 0.5f, "%s", r->name);
        free(s);
        buffer_free(&bx), buffer_free(&bv), buffer_free(&bm), buffer_free(&workspace);
    }
}

/* What fake-quantize writes, mask and all, as the statistics count it. */
NIB_TEST(OnDeviceStats, AgreeWithQuantizeStats)
{
    enum { ROWS = 20, COLS = 1600, N = ROWS * COLS };
    float *x = malloc(N * 4), *v = malloc(N * 4), scale = 0.002f;
    uint8_t *mask = malloc(N / 8), *codes = malloc(N / 2), *scales = malloc(N / 16);
    const runner *list;
    const int n = runners_open(&list);
    const nib_exec host = exec_of(&list[0]);
    random_state = 11;
    fill_matrix(NIB_F32, x, N, 1);
    const nib_matrix src = { x, NIB_F32, ROWS, COLS, COLS };
    const nib_matrix dst = { v, NIB_F32, ROWS, COLS, COLS };
    const nib_fake_options o = { .size = sizeof o, .format = NIB_NVFP4, .tensor_scale = &scale,
                                 .mask = mask, .ld_mask_bytes = COLS / 8 };
    OK(nib_fake_quantize(&host, &src, &o, &dst));
    const nib_packed packed = { .size = sizeof packed, .format = NIB_NVFP4, .rows = ROWS,
                                .cols = COLS, .codes = codes, .ld_codes_bytes = COLS / 2,
                                .scales = scales, .tensor_scale = &scale };
    nib_quantize_report report = { .size = sizeof report };
    OK(nib_quantize(&host, &src, NULL, &packed));
    OK(nib_quantize_stats(&host, &src, &packed, &report));
    const pair p = { .rows = ROWS, .cols = COLS, .x = x, .v = v, .mask = mask };
    const nib_tensor_stats s = right_of(&p);
    EXPECT(s.zeroed == report.flushed && s.clipped == report.saturated,
           "zeroed %llu, flushed %llu, clipped %llu, saturated %llu",
           (unsigned long long)s.zeroed, (unsigned long long)report.flushed,
           (unsigned long long)s.clipped, (unsigned long long)report.saturated);
    EXPECT(fabs(s.sum_sq_error - report.sum_sq_error) <= 2e-6 * report.sum_sq_error, "errors");
    for (int i = 0; i < n; i++) check_on(&list[i], &p, &s);
    free(x), free(v), free(mask), free(codes), free(scales);
}

NIB_TEST(Stats, WorkspaceOfAnyShape)
{
    const struct { int64_t rows, cols, bytes; } sizes[] = {
        { 0, 5, 0 }, { 5, 0, 0 }, { 1, 1, 56 }, { 1, 1024, 56 }, { 1, 1025, 112 },
        { 4095, 7, 4095 * 56 }, { 4096, 7, 4096 * 56 }, { 4097, 7, 4096 * 56 },
        { 1, (int64_t)1 << 60, 4096 * 56 }, { INT64_MAX, INT64_MAX, 4096 * 56 },
        { -1, 5, -1 }, { 5, -1, -1 },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t got = nib_observe_stats_workspace_bytes(sizes[i].rows, sizes[i].cols);
        EXPECT(got == sizes[i].bytes, "%lld x %lld: %lld", (long long)sizes[i].rows,
               (long long)sizes[i].cols, (long long)got);
    }
}

NIB_TEST(Stats, BadArgumentsAreNamed)
{
    nib_device *device;
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    REQUIRE(nib_device_open(&cpu, &device) == NIB_OK, "%s", nib_last_error());
    float x[8] = { 1 };
    double workspace[8];
    nib_tensor_stats s = { 0 };
    uint8_t mask[4];
    const nib_exec exec = { .size = sizeof exec, .device = device, .workspace = workspace,
                            .workspace_bytes = 56 };
    nib_exec none = exec, odd = exec, small = exec;
    const nib_matrix m = { x, NIB_F32, 1, 8, 8 }, other = { x, NIB_F32, 1, 7, 8 };
    none.workspace = NULL;
    odd.workspace = (char *)workspace + 4;
    small.workspace_bytes = 55;
    nib_matrix many = { x, NIB_F32, INT64_MAX / 64, 1, 1 }, bad = m;
    bad.dtype = (nib_dtype)3;
    nib_tensor_stats *const odd_stats = (nib_tensor_stats *)(void *)((char *)&s + 4);
#define STATS(exec, src, values, mask, ld, stats) \
    nib_observe_stats((exec), (src), (values), (mask), (ld), (stats))
    EXPECT_FAILS("exec", STATS(NULL, &m, &m, NULL, 0, &s), NIB_ERR_ARGUMENT, "exec");
    EXPECT_FAILS("src", STATS(&exec, &bad, &m, NULL, 0, &s), NIB_ERR_ARGUMENT, "src");
    EXPECT_FAILS("values", STATS(&exec, &m, NULL, NULL, 0, &s), NIB_ERR_ARGUMENT, "quantized");
    EXPECT_FAILS("sizes", STATS(&exec, &m, &other, NULL, 0, &s), NIB_ERR_SHAPE, "1 x 7");
    EXPECT_FAILS("stats", STATS(&exec, &m, &m, NULL, 0, NULL), NIB_ERR_ARGUMENT, "stats");
    EXPECT_FAILS("odd", STATS(&exec, &m, &m, NULL, 0, odd_stats), NIB_ERR_ALIGNMENT, "stats");
    EXPECT_FAILS("none", STATS(&none, &m, &m, NULL, 0, &s), NIB_ERR_ARGUMENT, "workspace");
    EXPECT_FAILS("small", STATS(&small, &m, &m, NULL, 0, &s), NIB_ERR_SHAPE, "55");
    EXPECT_FAILS("odd", STATS(&odd, &m, &m, NULL, 0, &s), NIB_ERR_ALIGNMENT, "workspace");
    EXPECT_FAILS("mask", STATS(&exec, &m, &m, mask, 0, &s), NIB_ERR_SHAPE, "ld_mask_bytes");
    EXPECT_FAILS("far mask", STATS(&exec, &many, &many, mask, 65, &s), NIB_ERR_SHAPE,
                 "INT64_MAX");
#undef STATS
    const nib_matrix empty = { NULL, NIB_F32, 0, 8, 8 };
    OK(nib_observe_stats(&none, &empty, &empty, NULL, 0, &s));
    EXPECT(s.elements == 0, "changed");
    nib_device_close(device);
}
