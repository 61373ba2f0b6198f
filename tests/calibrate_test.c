/* calibrate_test.c: amaxes from histograms against numpy and scipy (scripts/oracles/
 * gen_observers.py), and by hand; the golden tensors through the observers of every backend. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/calibrate_cpu.h" /* the logarithm alone */
#include "nibble/monitor.h"
#include "tests/device_fixture.h"
#include "tests/expect_status.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

/* ---- the golden file ---- */

typedef struct reader {
    uint8_t *data;
    size_t   at, size;
} reader;

static int reader_open(reader *r)
{
    FILE *file = fopen("tests/golden/observers.bin", "rb");
    *r = (reader){ .data = malloc(1 << 20) };
    if (!file) return 0;
    r->size = fread(r->data, 1, 1 << 20, file);
    fclose(file);
    r->at = 8;
    return r->size > 8 && !memcmp(r->data, "NIBOBS01", 8);
}

/* What is behind the end is 0. */
static void take(reader *r, void *to, size_t bytes)
{
    memset(to, 0, bytes);
    if (bytes <= r->size - r->at) memcpy(to, r->data + r->at, bytes);
    r->at += bytes <= r->size - r->at ? bytes : r->size - r->at;
}

static uint32_t take_u32(reader *r)
{
    uint32_t n;
    take(r, &n, sizeof n);
    return n;
}

static void take_counts(reader *r, uint32_t bins, uint64_t *counts)
{
    for (uint32_t b = 0; b < bins; b++) counts[b] = take_u32(r);
}

typedef struct result {
    uint32_t kind, integer_bits, element, start;
    double   percentile;
    float    amax;
    uint32_t unused;
} result;

static nib_status solve(const result *k, const uint64_t *counts, int32_t bins, float top,
                        float *amax)
{
    const nib_calibrate_options o = {
        .size = sizeof o, .integer_bits = (int32_t)k->integer_bits,
        .element = (nib_element)k->element, .start = (int32_t)k->start,
    };
    return k->kind == 0 ? nib_calibrate_percentile(counts, bins, top, k->percentile, amax)
         : k->kind == 1 ? nib_calibrate_kl(counts, bins, top, &o, amax)
                        : nib_calibrate_mse(counts, bins, top, &o, amax);
}

static void check_histograms(reader *r)
{
    static uint64_t counts[8192];
    const uint32_t n = take_u32(r);
    int checked = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t bins = take_u32(r);
        float top, amax;
        take(r, &top, sizeof top);
        take_counts(r, bins, counts);
        const uint32_t results = take_u32(r);
        for (uint32_t j = 0; j < results; j++, checked++) {
            result k;
            take(r, &k, sizeof k);
            OK(solve(&k, counts, (int32_t)bins, top, &amax));
            EXPECT(amax == k.amax, "histogram %u, kind %u, %u bits, element %u, start %u, %g %%: "
                   "bin %.2f, not %.2f", i, k.kind, k.integer_bits, k.element, k.start,
                   k.percentile, (double)amax / (double)top * bins,
                   (double)k.amax / (double)top * bins);
        }
    }
    EXPECT(n == 4 && checked == 4 * 32, "%u histograms, %d results", n, checked);
}

static int is_near(double a, double b, double relative)
{
    return fabs(a - b) <= relative * fabs(b);
}

static void check_tensor(reader *r, const runner *list, int runners)
{
    enum { MOST = 4096, BINS = 256 };
    static float x[MOST], v[MOST];
    uint64_t counts[BINS];
    const uint64_t zeros[BINS] = { 0 };
    float range[2], top;
    double figure[6];
    const uint32_t n = take_u32(r), bins = take_u32(r);
    REQUIRE(n <= MOST && bins <= BINS, "%u elements", n);
    take(r, x, n * 4), take(r, v, n * 4), take(r, range, sizeof range), take(r, &top, 4);
    take_counts(r, bins, counts);
    const uint32_t zeroed = take_u32(r);
    take(r, figure, sizeof figure);
    for (int i = 0; i < runners; i++) {
        nib_exec exec = exec_of(&list[i]);
        const float none[2] = { -INFINITY, -INFINITY };
        const nib_tensor_stats start = { 0 };
        const size_t bytes = (size_t)nib_observe_stats_workspace_bytes(1, n);
        buffer bx = buffer_new(&list[i], x, n * 4, 0), bv = buffer_new(&list[i], v, n * 4, 0);
        buffer br = buffer_new(&list[i], none, 8, 0), bt = buffer_new(&list[i], &top, 4, 0);
        buffer bc = buffer_new(&list[i], zeros, bins * 8, 0);
        buffer bs = buffer_new(&list[i], &start, sizeof start, 0);
        buffer workspace = buffer_new(&list[i], NULL, bytes, 0);
        exec.workspace = workspace.at, exec.workspace_bytes = bytes;
        const nib_matrix src = { bx.at, NIB_F32, 1, n, n }, values = { bv.at, NIB_F32, 1, n, n };
        OK(nib_observe_range(&exec, &src, br.at));
        OK(nib_observe_histogram(&exec, &src, bt.at, (int32_t)bins, bc.at));
        OK(nib_observe_stats(&exec, &src, &values, NULL, 0, bs.at));
        float *got_range = buffer_take(&br);
        uint64_t *got_counts = buffer_take(&bc);
        nib_tensor_stats *s = buffer_take(&bs);
        nib_monitor_row row = { .size = sizeof row };
        OK(nib_monitor_report(s, NULL, &row));
        EXPECT(!memcmp(got_range, range, 8), "%s: range %g %g", list[i].name,
               (double)got_range[0], (double)got_range[1]);
        EXPECT(!memcmp(got_counts, counts, bins * 8), "%s: histogram", list[i].name);
        EXPECT(row.zeroed == zeroed && row.elements == n, "%s: zeroed %llu, not %u", list[i].name,
               (unsigned long long)row.zeroed, zeroed);
        EXPECT(fabs(row.mean - figure[0]) <= 1e-6 * fmax(figure[3], -figure[2])
                   && is_near(row.std, figure[1], 1e-4) && row.min == figure[2]
                   && row.max == figure[3] && is_near(row.relative_error, figure[4], 2e-6)
                   && is_near(row.mse, figure[5], 2e-6),
               "%s: mean %g std %g min %g max %g error %g mse %g, not %g %g %g %g %g %g",
               list[i].name, row.mean, row.std, row.min, row.max, row.relative_error, row.mse,
               figure[0], figure[1], figure[2], figure[3], figure[4], figure[5]);
        free(got_range), free(got_counts), free(s);
        buffer_free(&bx), buffer_free(&bv), buffer_free(&bt), buffer_free(&workspace);
    }
}

static void check_averages(reader *r, const runner *list, int runners)
{
    enum { MOST = 100 };
    float keep, now[MOST], right[MOST];
    const uint32_t n = take_u32(r);
    REQUIRE(n > 0 && n <= MOST, "%u steps", n);
    take(r, &keep, 4), take(r, now, n * 4), take(r, right, n * 4);
    for (int i = 0; i < runners; i++) {
        const nib_exec exec = exec_of(&list[i]);
        float unset = NAN, got;
        buffer average = buffer_new(&list[i], &unset, 4, 0);
        for (uint32_t step = 0; step < n; step++) {
            buffer b = buffer_new(&list[i], &now[step], 4, 0);
            OK(nib_observe_ema(&exec, 1, b.at, keep, average.at));
            buffer_get(&average, &got);
            EXPECT(got == right[step], "%s: step %u: %g, not %g", list[i].name, step, (double)got,
                   (double)right[step]);
            buffer_free(&b);
        }
        buffer_free(&average);
    }
}

NIB_TEST(OnDeviceCalibrate, AsNumpyAndScipy)
{
    reader r;
    const runner *list;
    const int n = runners_open(&list);
    REQUIRE(reader_open(&r), "tests/golden/observers.bin is missing");
    check_histograms(&r);
    const uint32_t tensors = take_u32(&r);
    EXPECT(tensors == 4, "%u tensors", tensors);
    for (uint32_t i = 0; i < tensors; i++) check_tensor(&r, list, n);
    check_averages(&r, list, n);
    EXPECT(r.at == r.size, "%zu of %zu bytes", r.at, r.size);
    free(r.data);
}

/* ---- by hand ---- */

NIB_TEST(Calibrate, PercentilesByHand)
{
    const uint64_t counts[8] = { 90, 5, 0, 3, 0, 0, 2, 0 };
    const struct { double percentile; float amax; } known[] = {
        { 1e-9, 1 }, { 50, 1 }, { 90, 1 }, { 90.0001, 2 }, { 95, 2 }, { 95.1, 4 }, { 98, 4 },
        { 98.5, 7 }, { 99.99, 7 }, { 100, 7 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        float amax = -1;
        OK(nib_calibrate_percentile(counts, 8, 8.0f, known[i].percentile, &amax));
        EXPECT(amax == known[i].amax, "%g %%: %g", known[i].percentile, (double)amax);
    }
}

/* Equal counts up to bin 255: clipping there loses nothing, and folding is exact; the largest of
 * equal candidates, 256 and all above, where the bins behind are empty. */
NIB_TEST(Calibrate, EntropyTakesTheLastOfEqualCandidates)
{
    static uint64_t counts[512];
    float amax;
    for (int i = 0; i < 256; i++) counts[i] = 7;
    const nib_calibrate_options o = { .size = sizeof o, .integer_bits = 8 };
    OK(nib_calibrate_kl(counts, 256, 2.56f, &o, &amax));
    EXPECT(amax == 2.56f, "%g", (double)amax);
    OK(nib_calibrate_kl(counts, 512, 5.12f, &o, &amax));
    EXPECT(amax == 5.12f, "%g", (double)amax);
    counts[511] = 1; /* candidates before it clip into an empty bin, which is worst, but for 256 */
    OK(nib_calibrate_kl(counts, 512, 5.12f, &o, &amax));
    EXPECT(amax == 5.12f || fabsf(amax - 2.56f) < 1e-6f, "%g", (double)amax);
}

/* An outlier of one count in a million: least squares keep it out, and 4 bits more than 8. */
NIB_TEST(Calibrate, SquaresClipAnOutlier)
{
    static uint64_t counts[2048];
    float four, eight, fp4;
    for (int i = 0; i < 300; i++) counts[i] = 300000 / (uint64_t)(i + 1);
    counts[2047] = 1;
    nib_calibrate_options o = { .size = sizeof o, .integer_bits = 4, .start = 16 };
    OK(nib_calibrate_mse(counts, 2048, 2048.0f, &o, &four));
    o.integer_bits = 8;
    OK(nib_calibrate_mse(counts, 2048, 2048.0f, &o, &eight));
    o.integer_bits = 0, o.element = NIB_E2M1;
    OK(nib_calibrate_mse(counts, 2048, 2048.0f, &o, &fp4));
    EXPECT(four <= eight && eight < 2048 && fp4 < 2048 && four >= 16.5f, "%g %g %g", (double)four,
           (double)eight, (double)fp4);
}

/* NULL options are E2M1 from 128 bins on. */
NIB_TEST(Calibrate, Defaults)
{
    static uint64_t counts[1024];
    const nib_calibrate_options o = { .size = sizeof o, .element = NIB_E2M1, .start = 128 };
    float a, b;
    for (int i = 0; i < 1024; i++) counts[i] = (uint64_t)(1e6 * exp(-i * i / 4e4));
    OK(nib_calibrate_kl(counts, 1024, 3.0f, NULL, &a));
    OK(nib_calibrate_kl(counts, 1024, 3.0f, &o, &b));
    EXPECT(a == b && a > 0, "%g %g", (double)a, (double)b);
    OK(nib_calibrate_mse(counts, 1024, 3.0f, NULL, &a));
    OK(nib_calibrate_mse(counts, 1024, 3.0f, &o, &b));
    EXPECT(a == b && a > 0, "%g %g", (double)a, (double)b);
}

/* Scaling counts or top scales what it must and nothing else. */
NIB_TEST(Calibrate, ScalesWithTop)
{
    static uint64_t counts[2][600];
    float a, b;
    uint64_t state = 5;
    for (int i = 0; i < 600; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        counts[0][i] = (state >> 44) / (uint64_t)(i + 20);
        counts[1][i] = counts[0][i] * 4096;
    }
    for (int kind = 0; kind < 3; kind++) {
        const result k = { .kind = (uint32_t)kind, .element = NIB_E2M3, .percentile = 99.9 };
        OK(solve(&k, counts[0], 600, 1.5f, &a));
        OK(solve(&k, counts[1], 600, 0.75f, &b));
        EXPECT(a == 2 * b, "kind %d: %g, %g", kind, (double)a, (double)b);
    }
}

NIB_TEST(Calibrate, DegenerateHistograms)
{
    static uint64_t counts[300];
    const result kinds[] = { { .kind = 0, .percentile = 99.99 }, { .kind = 1 }, { .kind = 2 },
                             { .kind = 1, .integer_bits = 8 }, { .kind = 2, .integer_bits = 2 } };
    for (int i = 0; i < 5; i++) {
        float amax = -1;
        memset(counts, 0, sizeof counts);
        EXPECT_FAILS("empty", solve(&kinds[i], counts, 300, 3.0f, &amax), NIB_ERR_ARGUMENT,
                     "nothing was counted");
        EXPECT(amax == -1, "changed");
        counts[0] = 5;
        OK(solve(&kinds[i], counts, 1, 3.0f, &amax));
        EXPECT(amax == 3.0f, "one bin: %g", (double)amax);
        OK(solve(&kinds[i], counts, 300, 3.0f, &amax));
        EXPECT(amax == 0.01f, "bin 0 alone: %g", (double)amax);
        counts[0] = 0, counts[1] = 9; /* few bins: start counts as bins, or as the last one */
        OK(solve(&kinds[i], counts, 2, 3.0f, &amax));
        EXPECT(amax == (kinds[i].kind == 2 ? 2.25f : 3.0f), "two bins: %g", (double)amax);
        counts[1] = 0, counts[299] = 1; /* every candidate but the last clips into an empty bin */
        OK(solve(&kinds[i], counts, 300, 3.0f, &amax));
        EXPECT(amax <= 3.0f && amax > 2.8f, "the last bin alone: %g", (double)amax);
        counts[299] = (uint64_t)INT64_MAX;
        OK(solve(&kinds[i], counts, 300, 3.0f, &amax));
        counts[0] = 1;
        EXPECT_FAILS("too many", solve(&kinds[i], counts, 300, 3.0f, &amax), NIB_ERR_SHAPE,
                     "INT64_MAX");
        counts[0] = UINT64_MAX;
        EXPECT_FAILS("wraps", solve(&kinds[i], counts, 300, 3.0f, &amax), NIB_ERR_SHAPE,
                     "INT64_MAX");
        counts[0] = 5, counts[299] = 0;
        EXPECT_FAILS("counts", solve(&kinds[i], NULL, 300, 3.0f, &amax), NIB_ERR_ARGUMENT,
                     "counts");
        EXPECT_FAILS("amax", solve(&kinds[i], counts, 300, 3.0f, NULL), NIB_ERR_ARGUMENT, "amax");
        EXPECT_FAILS("bins", solve(&kinds[i], counts, 0, 3.0f, &amax), NIB_ERR_SHAPE, "bins");
        EXPECT_FAILS("bins", solve(&kinds[i], counts, 8193, 3.0f, &amax), NIB_ERR_SHAPE, "8193");
        const float tops[] = { 0.0f, -1.0f, NAN, INFINITY };
        for (int t = 0; t < 4; t++)
            EXPECT_FAILS("top", solve(&kinds[i], counts, 300, tops[t], &amax), NIB_ERR_ARGUMENT,
                         "top");
    }
}

NIB_TEST(Calibrate, BadOptionsAreNamed)
{
    const uint64_t counts[2] = { 1, 1 };
    float amax;
    const double percentiles[] = { 0.0, -1.0, 100.1, NAN };
    for (int i = 0; i < 4; i++)
        EXPECT_FAILS("percentile", nib_calibrate_percentile(counts, 2, 1, percentiles[i], &amax),
                     NIB_ERR_ARGUMENT, "percentile");
    const nib_calibrate_options good = { .size = sizeof good };
    for (int i = 0; i < 6; i++) {
        static const char *const words[] = { "size", "integer_bits", "integer_bits",
                                             "integer_bits", "element", "start" };
        nib_calibrate_options o = good;
        if (i == 0) o.size--;
        if (i == 1) o.integer_bits = 1;
        if (i == 2) o.integer_bits = 9;
        if (i == 3) o.integer_bits = -8;
        if (i == 4) o.element = (nib_element)5;
        if (i == 5) o.start = -1;
        EXPECT_FAILS(words[i], nib_calibrate_kl(counts, 2, 1, &o, &amax), NIB_ERR_ARGUMENT,
                     words[i]);
        EXPECT_FAILS(words[i], nib_calibrate_mse(counts, 2, 1, &o, &amax), NIB_ERR_ARGUMENT,
                     words[i]);
    }
}

/* ---- the logarithm ---- */

NIB_TEST(Calibrate, LogarithmIsNearLibms)
{
    uint64_t state = 3;
    double worst = 0;
    for (int i = 0; i < 2000000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        double x = i % 2 ? 1 + ((double)(state >> 11) - 0x1p52) * 0x1p-54
                         : ldexp(1 + (double)(state >> 12) * 0x1p-52, (int)(state % 127) - 63);
        if (i < 3000) x = 1 + (i - 1500) * 0x1p-52;
        const double right = log(x), off = fabs(nib_natural_log(x) - right);
        if (off > 1e-18) worst = fmax(worst, off / fabs(right));
    }
    EXPECT(worst <= 0x1p-51, "%g of the logarithm", worst);
    EXPECT(nib_natural_log(1.0) == 0.0, "ln 1 is 0");
}

NIB_TEST(Calibrate, TimesArePrinted)
{
    static uint64_t counts[2048];
    float amax;
    for (int i = 0; i < 2048; i++) counts[i] = (uint64_t)(1e7 * exp(-i * i / 2e5)) + 1;
    for (int kind = 1; kind < 3; kind++) {
        for (int element = -1; element < 5; element++) {
            const result k = { .kind = (uint32_t)kind, .integer_bits = element < 0 ? 8 : 0,
                               .element = element < 0 ? 0 : (uint32_t)element };
            const clock_t start = clock();
            OK(solve(&k, counts, 2048, 1.0f, &amax));
            printf("%s of 2048 bins, %s %d: %.1f ms\n", kind == 1 ? "kl" : "mse",
                   element < 0 ? "integers of" : "element", element < 0 ? 8 : element,
                   (double)(clock() - start) * 1e3 / CLOCKS_PER_SEC);
        }
    }
}
