/* observe_test.c: ranges, averages and histograms on every backend, against loops of this file.
 * device_fixture.h says what is compared with what. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/common/half.h"
#include "nibble/calibrate.h"
#include "tests/device_case.h"
#include "tests/expect_status.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

/* ---- what is right ---- */

/* IEEE 754's totalOrder. */
static int is_above(float a, float b)
{
    int32_t x, y;
    memcpy(&x, &a, 4), memcpy(&y, &b, 4);
    if (x < 0) x = (int32_t)(0x80000000u - (uint32_t)x) - 1;
    if (y < 0) y = (int32_t)(0x80000000u - (uint32_t)y) - 1;
    return x > y;
}

static void observe_right(const setting *s, const void *x, int64_t row, float *range)
{
    for (int64_t c = 0; c < s->cols; c++) {
        const float v = nib_load_f32((int)s->dtype, x, row * (s->cols + s->ld_extra) + c);
        if (!isfinite(v)) continue;
        const float low = v == 0.0f ? 0.0f : -v, high = v == 0.0f ? 0.0f : v;
        if (is_above(low, range[0])) range[0] = low;
        if (is_above(high, range[1])) range[1] = high;
    }
}

static void count_right(const setting *s, const void *x, float top, int bins, uint64_t *counts)
{
    if (!(top > 0.0f) || isinf(top)) return;
    float f = (float)bins / top;
    if (isinf(f)) f = 3.40282347e+38f;
    for (int64_t i = 0; i < s->rows * s->cols; i++) {
        const int64_t at = i / s->cols * (s->cols + s->ld_extra) + i % s->cols;
        const float v = nib_load_f32((int)s->dtype, x, at);
        if (!isfinite(v)) continue;
        const float place = floorf(fabsf(v) * f);
        counts[place >= (float)bins ? bins - 1 : (int)place]++;
    }
}

/* ---- one case ---- */

static void expect_same(const void *got, const void *right, size_t bytes, const char *what,
                        const setting *s, const runner *r)
{
    EXPECT(!memcmp(got, right, bytes), "%s: %s of dtype %d, %lld x %lld + %lld, off %zu", r->name,
           what, s->dtype, (long long)s->rows, (long long)s->cols, (long long)s->ld_extra, s->off);
}

/* Two calls, so that the second merges with what the first one found. */
static void check_on(const runner *r, const setting *s, const void *x, float start, float top,
                     int bins)
{
    const nib_exec exec = exec_of(r);
    const size_t rows_bytes = (size_t)s->rows * 8, counts_bytes = (size_t)bins * 8;
    float whole[2] = { start, start };
    float *rows = malloc(rows_bytes + 1);
    uint64_t *counts = calloc((size_t)bins, 8);
    for (int64_t i = 0; i < 2 * s->rows; i++) rows[i] = start;
    for (int b = 0; b < bins; b++) counts[b] = (uint64_t)b << 31; /* beyond 32 bits */

    buffer src = buffer_new(r, x, (size_t)setting_matrix_bytes(s, s->dtype),
                            s->off * (s->dtype == NIB_F32 ? 4 : 2));
    buffer range = buffer_new(r, whole, sizeof whole, 4);
    buffer row_ranges = buffer_new(r, rows, rows_bytes, 4);
    buffer tops = buffer_new(r, &top, 4, 4), histogram = buffer_new(r, counts, counts_bytes, 8);
    const nib_matrix m = { src.at, s->dtype, s->rows, s->cols, s->cols + s->ld_extra };
    for (int call = 0; call < 2; call++) {
        OK(nib_observe_range(&exec, &m, range.at));
        OK(nib_observe_range_rows(&exec, &m, row_ranges.at));
        OK(nib_observe_histogram(&exec, &m, tops.at, bins, histogram.at));
        for (int64_t row = 0; row < s->rows; row++) {
            observe_right(s, x, row, whole);
            observe_right(s, x, row, rows + 2 * row);
        }
        count_right(s, x, top, bins, counts);
    }
    void *got = buffer_take(&range);
    expect_same(got, whole, sizeof whole, "range", s, r);
    free(got);
    got = buffer_take(&row_ranges);
    expect_same(got, rows, rows_bytes, "ranges of rows", s, r);
    free(got);
    got = buffer_take(&histogram);
    expect_same(got, counts, counts_bytes, "histogram", s, r);
    free(got);
    buffer_free(&src), buffer_free(&tops);
    free(rows), free(counts);
}

static void check_all(const setting *s, const void *x, float start, float top, int bins, int few)
{
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < n && !nib_test_failed(); i++) {
        if (few && i != 0 && i != 3 && i != n - 1) continue;
        check_on(&list[i], s, x, start, top, bins);
    }
}

static void check_random(setting *s, int tame, float start, float top, int bins, int few)
{
    const int64_t n = s->rows * (s->cols + s->ld_extra);
    void *x = malloc((size_t)n * 4 + 4);
    fill_matrix(s->dtype, x, n, tame);
    check_all(s, x, start, top, bins, few);
    free(x);
}

NIB_TEST(OnDeviceObserve, EveryTypeAndRaggedShape)
{
    const float starts[] = { -INFINITY, 0.0f, -0.0f, 3.0f, NAN, -1e-3f };
    const float tops[] = { 1.0f, 0.05f, 3.3e38f, 1e-42f, 7.0f, 0.0f, NAN, INFINITY, -1.0f };
    const int bins[] = { 1, 2, 7, 100, 2048, 8192, 1000 };
    random_state = 1717;
    for (int i = 0; i < 300 && !nib_test_failed(); i++) {
        setting s = setting_of(NIB_NVFP4, (nib_dtype)(i % 3), NIB_RULES_TE);
        s.rows = i % 17 == 0 ? 0 : 1 + (int64_t)(next_random() % 9);
        s.cols = (int64_t)(next_random() % (i % 4 ? 90 : 3000));
        s.ld_extra = i % 2 ? 0 : (int64_t)(next_random() % 40);
        s.off = i % 3 ? 0 : next_random() % 9;
        check_random(&s, i % 5 == 0, starts[i % 6], tops[i % 9], bins[i % 7], 1);
    }
}

NIB_TEST(OnDeviceObserve, LongRowsAndMany)
{
    const int64_t shapes[][2] = { { 1, 200007 }, { 3, 70001 }, { 3001, 40 }, { 90, 1024 } };
    random_state = 4;
    for (int i = 0; i < 4; i++) {
        setting s = setting_of(NIB_NVFP4, (nib_dtype)(i % 3), NIB_RULES_TE);
        s.rows = shapes[i][0];
        s.cols = shapes[i][1];
        s.ld_extra = i == 1 ? 3 : 0;
        check_random(&s, i % 2, -INFINITY, 0.03f, 512, 0);
    }
}

/* One element below or above all others, wherever it stands. */
NIB_TEST(OnDeviceObserve, EveryElementCounts)
{
    for (int dtype = 0; dtype < 3 && !nib_test_failed(); dtype++) {
        setting s = setting_of(NIB_NVFP4, (nib_dtype)dtype, NIB_RULES_TE);
        s.rows = 2, s.cols = 37, s.off = 1;
        float x[80];
        for (int i = 0; i < 74; i++) {
            for (int j = 0; j < 74; j++) nib_store_f32(dtype, x, j, 0.5f);
            nib_store_f32(dtype, x, i, i % 2 ? -3.0f : 4.0f);
            check_all(&s, x, -INFINITY, 8.0f, 16, 1);
        }
    }
}

NIB_TEST(OnDeviceObserve, NothingFiniteChangesNothing)
{
    for (int dtype = 0; dtype < 3; dtype++) {
        setting s = setting_of(NIB_NVFP4, (nib_dtype)dtype, NIB_RULES_TE);
        s.rows = 3, s.cols = 50;
        float x[150];
        for (int i = 0; i < 150; i++)
            nib_store_f32(dtype, x, i, i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY);
        check_all(&s, x, -INFINITY, 1.0f, 10, 1);
        check_all(&s, x, 0.0f, 1.0f, 10, 1);
        for (int i = 0; i < 150; i++) nib_store_f32(dtype, x, i, i % 3 ? -0.0f : 0.0f);
        check_all(&s, x, -INFINITY, 1.0f, 10, 1); /* both zeros give +0 */
    }
}

/* Edges: k * top / bins and the floats beside it, for tops that are no powers of two. */
NIB_TEST(OnDeviceObserve, NumbersAtTheEdgesOfBins)
{
    enum { BINS = 60, N = 3 * BINS };
    const float tops[] = { 1.0f, 3.0f, 0.7f, 1e-3f, 1e30f };
    for (int t = 0; t < 5; t++) {
        float x[N];
        for (int k = 0; k < BINS; k++) {
            const float edge = (float)k * tops[t] / BINS;
            x[3 * k] = nextafterf(edge, -1), x[3 * k + 1] = -edge;
            x[3 * k + 2] = nextafterf(edge, INFINITY);
        }
        setting s = setting_of(NIB_NVFP4, NIB_F32, NIB_RULES_TE);
        s.rows = 1, s.cols = N;
        check_all(&s, x, 0.0f, tops[t], BINS, 1);
        check_all(&s, x, 0.0f, tops[t] / 2, 8192, 1);
    }
}

NIB_TEST(OnDeviceObserve, AveragesMove)
{
    enum { N = 70001 };
    const float keeps[] = { 0.9f, 0.0f, 1.0f, 0.3f };
    const float specials[] = { NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 3.4e38f, -3.4e38f, 1e-45f };
    float *now = malloc(N * 4), *before = malloc(N * 4), *right = malloc(N * 4);
    const runner *list;
    const int n = runners_open(&list);
    random_state = 90;
    for (int k = 0; k < 4; k++) {
        const volatile float keep = keeps[k], rest = 1.0f - keep;
        for (int i = 0; i < N; i++) {
            now[i] = next_random() % 5 ? next_unit() : specials[next_random() % 8];
            before[i] = next_random() % 5 ? next_unit() : specials[next_random() % 8];
            const volatile float kept = keep * before[i], added = rest * now[i];
            right[i] = !isfinite(now[i]) ? before[i] : !isfinite(before[i]) ? now[i]
                                                                            : kept + added;
        }
        for (int i = 0; i < n; i++) {
            const nib_exec exec = exec_of(&list[i]);
            const int64_t count = i % 2 ? N : 7;
            buffer a = buffer_new(&list[i], now, N * 4, 4);
            buffer b = buffer_new(&list[i], before, N * 4, 4);
            OK(nib_observe_ema(&exec, count, a.at, keep, b.at));
            float *got = buffer_take(&b);
            EXPECT(!memcmp(got, right, (size_t)count * 4)
                       && !memcmp(got + count, before + count, (size_t)(N - count) * 4),
                   "%s, keep %g", list[i].name, (double)keep);
            free(got);
            buffer_free(&a);
        }
    }
    free(now), free(before), free(right);
}

/* Rows 4 GiB apart, in memory that is mostly not there. */
NIB_TEST(OnDeviceObserve, RowsBeyond32Bits)
{
    const int64_t ld = ((int64_t)1 << 31) + 24, cols = 1000;
    const size_t bytes = (size_t)(ld + cols) * 2;
    uint16_t *x = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (x == MAP_FAILED) SKIP("no address space");
    const runner *list;
    const int n = runners_open(&list);
    for (int i = 0; i < cols; i++) x[ld + i] = 0x4000; /* 2 in bf16 */
    x[ld + 999] = 0xc080; /* -4 */
    for (int i = 0; i < n; i++) {
        const runner *r = &list[i];
        if (runner_is_cuda(r) && !runner_is_emulated(r)) continue;
        const nib_exec exec = exec_of(r);
        const nib_matrix m = { x, NIB_BF16, 2, cols, ld };
        const float none[4] = { -INFINITY, -INFINITY, -INFINITY, -INFINITY }, top = 4.0f;
        const uint64_t zeros[4] = { 0 };
        buffer range = buffer_new(r, none, 16, 0), counts = buffer_new(r, zeros, 32, 0);
        buffer tops = buffer_new(r, &top, 4, 0);
        OK(nib_observe_range_rows(&exec, &m, range.at));
        OK(nib_observe_histogram(&exec, &m, tops.at, 4, counts.at));
        float *got = buffer_take(&range);
        EXPECT(got[0] == 0 && got[1] == 0 && got[2] == 4 && got[3] == 2, "%s: %g %g", r->name,
               (double)got[2], (double)got[3]);
        free(got);
        uint64_t *count = buffer_take(&counts);
        EXPECT(count[0] == 1000 && count[2] == 999 && count[3] == 1, "%s", r->name);
        free(count);
        buffer_free(&tops);
    }
    munmap(x, bytes);
}

/* ---- preconditions ---- */

NIB_TEST(Observe, BadArgumentsAreNamed)
{
    nib_device *device;
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    REQUIRE(nib_device_open(&cpu, &device) == NIB_OK, "%s", nib_last_error());
    const nib_exec exec = { .size = sizeof exec, .device = device };
    float x[8] = { 1 }, range[4] = { 0 }, top = 1;
    uint64_t counts[8] = { 0 };
    float *const odd = (float *)(void *)((char *)range + 2);
    const nib_matrix m = { x, NIB_F32, 2, 4, 4 };
    nib_matrix bad = m, far = { NULL, NIB_F32, INT64_MAX / 4, 0, 0 };
    bad.ld_elems = 3;
    EXPECT_FAILS("exec", nib_observe_range(NULL, &m, range), NIB_ERR_ARGUMENT, "exec");
    EXPECT_FAILS("src", nib_observe_range(&exec, NULL, range), NIB_ERR_ARGUMENT, "src");
    EXPECT_FAILS("ld", nib_observe_range(&exec, &bad, range), NIB_ERR_SHAPE, "ld_elems");
    EXPECT_FAILS("range", nib_observe_range(&exec, &m, NULL), NIB_ERR_ARGUMENT, "range");
    EXPECT_FAILS("odd", nib_observe_range(&exec, &m, odd), NIB_ERR_ALIGNMENT, "range");
    EXPECT_FAILS("rows exec", nib_observe_range_rows(NULL, &m, range), NIB_ERR_ARGUMENT, "exec");
    EXPECT_FAILS("rows ld", nib_observe_range_rows(&exec, &bad, range), NIB_ERR_SHAPE, "ld_elems");
    EXPECT_FAILS("rows", nib_observe_range_rows(&exec, &m, NULL), NIB_ERR_ARGUMENT, "range");
    EXPECT_FAILS("rows odd", nib_observe_range_rows(&exec, &m, odd), NIB_ERR_ALIGNMENT, "range");
    EXPECT_FAILS("so many", nib_observe_range_rows(&exec, &far, range), NIB_ERR_SHAPE, "rows");
    EXPECT_FAILS("ema exec", nib_observe_ema(NULL, 1, x, 0.9f, range), NIB_ERR_ARGUMENT, "exec");
    EXPECT_FAILS("n", nib_observe_ema(&exec, -1, x, 0.9f, range), NIB_ERR_SHAPE, "-1");
    EXPECT_FAILS("n", nib_observe_ema(&exec, INT64_MAX / 4 + 1, x, 0.9f, range), NIB_ERR_SHAPE,
                 "n is");
    EXPECT_FAILS("now", nib_observe_ema(&exec, 1, NULL, 0.9f, range), NIB_ERR_ARGUMENT, "now");
    EXPECT_FAILS("average", nib_observe_ema(&exec, 1, x, 0.9f, NULL), NIB_ERR_ARGUMENT,
                 "average");
    EXPECT_FAILS("now odd", nib_observe_ema(&exec, 1, odd, 0.9f, x), NIB_ERR_ALIGNMENT, "now");
    EXPECT_FAILS("odd", nib_observe_ema(&exec, 1, x, 0.9f, odd), NIB_ERR_ALIGNMENT, "average");
    const float keeps[] = { -0.1f, 1.1f, NAN };
    for (int i = 0; i < 3; i++)
        EXPECT_FAILS("keep", nib_observe_ema(&exec, 1, x, keeps[i], range), NIB_ERR_ARGUMENT,
                     "keep");
    EXPECT_FAILS("exec", nib_observe_histogram(NULL, &m, &top, 8, counts), NIB_ERR_ARGUMENT,
                 "exec");
    EXPECT_FAILS("ld", nib_observe_histogram(&exec, &bad, &top, 8, counts), NIB_ERR_SHAPE,
                 "ld_elems");
    EXPECT_FAILS("top", nib_observe_histogram(&exec, &m, NULL, 8, counts), NIB_ERR_ARGUMENT,
                 "top");
    EXPECT_FAILS("counts", nib_observe_histogram(&exec, &m, &top, 8, NULL), NIB_ERR_ARGUMENT,
                 "counts");
    EXPECT_FAILS("top odd", nib_observe_histogram(&exec, &m, odd, 8, counts), NIB_ERR_ALIGNMENT,
                 "top");
    uint64_t *const odd_counts = (uint64_t *)(void *)((char *)counts + 4);
    EXPECT_FAILS("counts odd", nib_observe_histogram(&exec, &m, &top, 8, odd_counts),
                 NIB_ERR_ALIGNMENT, "counts");
    EXPECT_FAILS("no bins", nib_observe_histogram(&exec, &m, &top, 0, counts), NIB_ERR_SHAPE,
                 "bins");
    EXPECT_FAILS("bins", nib_observe_histogram(&exec, &m, &top, 8193, counts), NIB_ERR_SHAPE,
                 "8193");
    const nib_matrix empty = { NULL, NIB_F32, 0, 4, 4 };
    OK(nib_observe_range(&exec, &empty, range));
    OK(nib_observe_range_rows(&exec, &empty, NULL));
    OK(nib_observe_ema(&exec, 0, NULL, 0.5f, NULL));
    OK(nib_observe_histogram(&exec, &empty, &top, 8, counts));
    nib_device_close(device);
}

/* ---- graphs ---- */

NIB_TEST(OnDeviceObserve, CapturedOnceReplayedTwice)
{
    enum { N = 3000 };
    const runner *list;
    const int n = runners_open(&list);
    if (n < 2 || !runner_is_cuda(&list[1])) SKIP("graphs are CUDA's");
    const runner *r = &list[1];
    nib_exec exec = exec_of(r);
    char why[NIB_WHY_BYTES] = "";
    float x[N];
    random_state = 12;
    for (int i = 0; i < N; i++) x[i] = next_unit();
    const float none[2] = { -INFINITY, -INFINITY }, unset[2] = { NAN, NAN }, top = 1.0f;
    const uint64_t zeros[64] = { 0 };
    const nib_tensor_stats start = { 0 };
    buffer src = buffer_new(r, x, sizeof x, 0), range = buffer_new(r, none, 8, 0);
    buffer average = buffer_new(r, unset, 8, 0), tops = buffer_new(r, &top, 4, 0);
    buffer counts = buffer_new(r, zeros, sizeof zeros, 0);
    buffer stats = buffer_new(r, &start, sizeof start, 0);
    const int64_t bytes = nib_observe_stats_workspace_bytes(3, N / 3);
    buffer workspace = buffer_new(r, NULL, (size_t)bytes, 0);
    exec.workspace = workspace.at, exec.workspace_bytes = (size_t)bytes;
    const nib_matrix m = { src.at, NIB_F32, 3, N / 3, N / 3 };
    void *graph = NULL;
    OK(nib_prepare(r->device, NIB_PREPARE_OBSERVE));
    EXPECT(r->runtime->capture_begin(r->ordinal, r->stream, why) == NIB_OK, "%s", why);
    OK(nib_observe_range(&exec, &m, range.at));
    OK(nib_observe_range_rows(&exec, &(nib_matrix){ src.at, NIB_F32, 1, N, N }, range.at));
    OK(nib_observe_ema(&exec, 2, range.at, 0.9f, average.at));
    OK(nib_observe_histogram(&exec, &m, tops.at, 64, counts.at));
    OK(nib_observe_stats(&exec, &m, &m, NULL, 0, stats.at));
    EXPECT(r->runtime->capture_end(r->ordinal, r->stream, &graph, why) == NIB_OK, "%s", why);
    for (int i = 0; i < 2; i++)
        EXPECT(r->runtime->graph_launch(r->ordinal, graph, r->stream, why) == NIB_OK, "%s", why);
    runner_wait(r);
    EXPECT(r->runtime->graph_destroy(r->ordinal, graph, why) == NIB_OK, "%s", why);
    float right[2] = { -INFINITY, -INFINITY };
    setting s = setting_of(NIB_NVFP4, NIB_F32, NIB_RULES_TE);
    s.rows = 1, s.cols = N;
    observe_right(&s, x, 0, right);
    uint64_t right_counts[64] = { 0 };
    for (int i = 0; i < 2; i++) count_right(&s, x, top, 64, right_counts);
    float *got = buffer_take(&range), *moved = buffer_take(&average);
    uint64_t *counted = buffer_take(&counts);
    nib_tensor_stats *all = buffer_take(&stats);
    EXPECT(!memcmp(got, right, 8), "range");
    EXPECT(fabsf(moved[0] - right[0]) < 1e-6f && fabsf(moved[1] - right[1]) < 1e-6f, "average");
    EXPECT(!memcmp(counted, right_counts, sizeof right_counts), "histogram");
    EXPECT(all->elements == 2 * N && all->sum_sq_error == 0 && !memcmp(all->range, right, 8),
           "stats");
    free(got), free(moved), free(counted), free(all);
    buffer_free(&src), buffer_free(&tops), buffer_free(&workspace);
}
