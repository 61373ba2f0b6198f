/* observe_emu_test.cu: the observers' kernels give the CPU's bits and counts. */
#include "kernels/common/observe.h"
#include "kernels/cuda/observe_tune.h"
#include "kernels/cuda/ops_cuda.cuh"
#include "tests/emu/emu_test.h"

#include <math.h>
#include <string.h>

namespace {

struct Setting {
    nib_dtype dtype, value_dtype;
    int64_t   rows, cols, ld_extra, offset;
    int       specials; /* one element in so many is NaN or Inf; 0: none */
    float     start, top;
    int       bins;
    bool      mask;
};

int64_t size_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

std::vector<uint8_t> source(nib_dtype dtype, int64_t elements, int specials, Random &random)
{
    std::vector<uint8_t> x((size_t)(elements * size_of(dtype)));
    for (int64_t i = 0; i < elements; i++) {
        float v = ldexpf((float)random.next() * 0x1p-32f, random.below(8) - 5);
        if (specials && random.below(specials) == 0) v = random.below(2) ? NAN : INFINITY;
        if (random.below(9) == 0) v = 0.0f;
        nib_store_f32((int)dtype, x.data(), i, random.below(2) ? v : -v);
    }
    return x;
}

nib_matrix matrix_at(const Setting &s, const void *x, nib_dtype dtype)
{
    return { (uint8_t *)(uintptr_t)x + s.offset * size_of(dtype), dtype, s.rows, s.cols,
             s.cols + s.ld_extra };
}

/* Every observer on the CPU and on the device, twice, so that the second merges. */
void check(const Setting &s, uint64_t seed)
{
    Random random(seed);
    const int64_t n = s.offset + s.rows * (s.cols + s.ld_extra), ld_mask = (s.cols + 7) / 8 + 1;
    const auto x = source(s.dtype, n, s.specials, random);
    const auto v = source(s.value_dtype, n, s.specials, random);
    const auto mask = source(NIB_F16, s.rows * ld_mask, 0, random);
    std::vector<float>    range(2, s.start), rows((size_t)s.rows * 2, s.start), average(2, NAN);
    std::vector<uint64_t> counts((size_t)s.bins, 1ull << 33);
    std::vector<nib_tensor_stats>  stats(1);
    std::vector<nib_stats_partial> partial(NIB_PARTIALS);
    memset(stats.data(), 0, sizeof stats[0]);
    const Device<uint8_t>  device_x(x), device_v(v), device_mask(mask);
    const Device<float>    device_range(range), device_rows(rows), device_average(average);
    const Device<float>    top(std::vector<float>{ s.top });
    const Device<uint64_t> device_counts(counts);
    const Device<nib_tensor_stats>  device_stats(stats);
    const Device<nib_stats_partial> device_partial(partial);

    const nib_backend &cpu = nib_backend_cpu_portable;
    const nib_matrix m = matrix_at(s, x.data(), s.dtype);
    const nib_matrix values = matrix_at(s, v.data(), s.value_dtype);
    const nib_matrix dm = matrix_at(s, device_x, s.dtype);
    const nib_matrix dv = matrix_at(s, device_v, s.value_dtype);
    nib_launch launch = {}, device = {};
    launch.threads = 1;
    launch.workspace = partial.data();
    device.workspace = (nib_stats_partial *)device_partial;
    nib_status status = NIB_OK;
    const auto run = [&](nib_status next) { status = status == NIB_OK ? next : status; };
    for (int call = 0; call < 2; call++) {
        (void)cpu.observe_range(&launch, &m, range.data());
        (void)cpu.observe_range_rows(&launch, &m, rows.data());
        (void)cpu.observe_ema(&launch, 2, range.data(), 0.9f, average.data());
        (void)cpu.observe_histogram(&launch, &m, &s.top, s.bins, counts.data());
        (void)cpu.observe_stats(&launch, &m, &values, s.mask ? mask.data() : nullptr, ld_mask,
                                stats.data());
        run(nib_cuda_observe_range(&device, &dm, device_range));
        run(nib_cuda_observe_range_rows(&device, &dm, device_rows));
        run(nib_cuda_observe_ema(&device, 2, device_range, 0.9f, device_average));
        run(nib_cuda_observe_histogram(&device, &dm, top, s.bins, device_counts));
        run(nib_cuda_observe_stats(&device, &dm, &dv, s.mask ? (uint8_t *)device_mask : nullptr,
                                   ld_mask, device_stats));
    }
    const auto tell = [&](const char *what, bool same) {
        EXPECT(status == NIB_OK && same, "seed %llu status %d: %s of dtypes %d %d, %lld x %lld + "
               "%lld at %lld, specials %d, start %g, top %g, %d bins", (unsigned long long)seed,
               status, what, s.dtype, s.value_dtype, (long long)s.rows, (long long)s.cols,
               (long long)s.ld_extra, (long long)s.offset, s.specials, (double)s.start,
               (double)s.top, s.bins);
    };
    const auto got_range = device_range.read(), got_rows = device_rows.read();
    const auto got_average = device_average.read();
    const auto got_stats = device_stats.read();
    tell("range", !memcmp(got_range.data(), range.data(), 8));
    tell("ranges of rows", !memcmp(got_rows.data(), rows.data(), 4 * rows.size()));
    tell("average", !memcmp(got_average.data(), average.data(), 8));
    tell("histogram", device_counts.read() == counts);
    tell("statistics", !memcmp(got_stats.data(), stats.data(), sizeof stats[0]));
}

Setting random_setting(Random &random, int most)
{
    const int   specials[] = { 0, 400, 7, 1 };
    const float starts[] = { -INFINITY, 0.0f, 0.5f }, tops[] = { 1.0f, 0.3f, 0.0f, 8.0f };
    const int   bins[] = { 1, 3, 64, 1000, 8192 };
    Setting s = {};
    s.dtype = (nib_dtype)random.below(3), s.value_dtype = (nib_dtype)random.below(3);
    s.rows = 1 + random.below(8), s.cols = 1 + random.below(most);
    s.ld_extra = random.below(3) ? 0 : random.below(40);
    s.offset = random.below(2) ? 0 : random.below(9);
    if (random.below(2)) s.cols = (s.cols + 15) / 16 * 16, s.ld_extra = 0, s.offset = 0;
    s.specials = specials[random.below(4)];
    s.start = starts[random.below(3)], s.top = tops[random.below(4)];
    s.bins = bins[random.below(5)];
    s.mask = random.below(2);
    return s;
}

} // namespace

NIB_TEST(ObserveEmu, EveryShapeAndType)
{
    Random random(1);
    for (uint64_t seed = 0; seed < 150; seed++) {
        check(random_setting(random, seed % 3 ? 90 : 2500), seed);
    }
}

/* Several blocks for a row. */
NIB_TEST(ObserveEmu, SeveralBlocksUnderEverySchedule)
{
    each_schedule([] {
        for (int dtype = NIB_DT_F32; dtype <= NIB_DT_BF16; dtype++) {
            Setting s = {};
            s.dtype = (nib_dtype)dtype, s.value_dtype = NIB_BF16;
            s.rows = 2, s.specials = dtype ? 0 : 5000, s.start = -INFINITY, s.top = 1.0f;
            s.cols = 16 * NIB_RANGE_THREADS * NIB_RANGE_VECTORS / size_of(s.dtype) + 24;
            s.bins = 2048, s.mask = true;
            check(s, (uint64_t)dtype);
        }
    });
}

NIB_TEST(ObserveEmu, MorePiecesThanPartialSums)
{
    Setting s = {};
    s.dtype = NIB_F16, s.value_dtype = NIB_F32, s.rows = NIB_PARTIALS + 300, s.cols = 8;
    s.start = -INFINITY, s.top = 0.5f, s.bins = 10;
    check(s, 9);
}

/* A product of any size, one bit pattern in 61. */
NIB_TEST(ObserveEmu, BinsAreFloors)
{
    uint64_t wrong = 0;
    for (uint64_t bits = 0; bits < NIB_F32_INF_BITS; bits += 61) {
        const float at = nib_float_of((uint32_t)bits);
        const int want = at < 8192.0f ? (int)at : 8191;
        wrong += nib_histogram_bin(at, 1.0f, 8192) != want;
    }
    for (int k = 1; k < 8192; k++) { /* integers and their neighbours */
        const float at = (float)k, below = nextafterf(at, 0.0f);
        wrong += nib_histogram_bin(at, 1.0f, 8192) != k;
        wrong += nib_histogram_bin(below, 1.0f, 8192) != k - 1;
    }
    EXPECT(wrong == 0, "%llu numbers", (unsigned long long)wrong);
}
