/* amax_emu_test.cu: amax's kernels give the CPU's bits and counts. */
#include "kernels/common/half.h"
#include "kernels/cuda/ops_cuda.cuh"
#include "tests/emu/emu_test.h"

#include <math.h>
#include <string.h>

namespace {

struct Setting {
    nib_dtype dtype;
    int64_t   rows, cols, ld_extra, offset, count, tensor_stride;
    int       specials; /* one element in so many is NaN or Inf; 0: none */
};

std::vector<uint8_t> source(const Setting &s, int64_t elements, Random &random)
{
    std::vector<uint8_t> x((size_t)elements * (s.dtype == NIB_F32 ? 4 : 2));
    for (int64_t i = 0; i < elements; i++) {
        float v = ldexpf((float)random.next() * 0x1p-32f, random.below(40) - 20);
        if (s.specials && random.below(s.specials) == 0) v = random.below(2) ? NAN : INFINITY;
        nib_store_f32((int)s.dtype, x.data(), i, random.below(2) ? v : -v);
    }
    return x;
}

void check(const Setting &s, uint64_t seed)
{
    Random random(seed);
    const int64_t size = s.dtype == NIB_F32 ? 4 : 2, ld = s.cols + s.ld_extra;
    nib_batch     batch = {};
    batch.size = sizeof batch;
    batch.count = s.count;
    batch.matrix_stride_elems = s.rows * ld + s.ld_extra;
    batch.tensor_stride = s.tensor_stride;
    const std::vector<uint8_t> x =
        source(s, s.offset + s.count * batch.matrix_stride_elems + 8, random);
    nib_launch launch = {};
    launch.threads = 1;

    const std::vector<float>    poison((size_t)(s.count + s.rows), -7.0f);
    const std::vector<uint64_t> count_poison((size_t)s.count, 99);
    std::vector<float>          want = poison, want_rows = poison;
    std::vector<uint64_t>       want_count = count_poison;
    for (int64_t i = 0; i < s.count; i++) {
        const nib_matrix m = { (void *)(uintptr_t)(x.data() + (s.offset
                                   + i * batch.matrix_stride_elems) * size),
                               s.dtype, s.rows, s.cols, ld };
        float    a;
        uint64_t n;
        (void)nib_backend_cpu_portable.amax(&launch, &m, &a, &n);
        const size_t to = (size_t)(i * s.tensor_stride);
        const bool   begins = i == 0 || s.tensor_stride;
        want[to] = begins || a > want[to] ? a : want[to];
        want_count[to] = begins ? n : want_count[to] + n;
        if (i == 0) (void)nib_backend_cpu_portable.amax_rows(&launch, &m, want_rows.data());
    }
    const Device<uint8_t>  device_x(x);
    const Device<float>    amax(poison), rows(poison), alone(poison);
    const Device<uint64_t> count(count_poison);
    const nib_matrix m = { (uint8_t *)device_x + s.offset * size, s.dtype, s.rows, s.cols, ld };
    nib_status status = nib_cuda_amax(&launch, &batch, &m, amax, count);
    if (status == NIB_OK) status = nib_cuda_amax(&launch, &batch, &m, alone, nullptr);
    if (status == NIB_OK && s.rows) status = nib_cuda_amax_rows(&launch, &m, rows);
    const std::vector<float> got = amax.read(), got_rows = rows.read(), got_alone = alone.read();
    EXPECT(status == NIB_OK && !memcmp(got.data(), want.data(), 4 * got.size())
           && !memcmp(got_alone.data(), want.data(), 4 * got.size())
           && !memcmp(got_rows.data(), want_rows.data(), 4 * got.size())
           && count.read() == want_count,
           "status %d: dtype %d, %lld x %lld x %lld + %lld at %lld, stride %lld: amax %g is %g, "
           "rows %d", status, s.dtype, (long long)s.count, (long long)s.rows, (long long)s.cols,
           (long long)s.ld_extra, (long long)s.offset, (long long)s.tensor_stride,
           (double)want[0], (double)got[0],
           !memcmp(got_rows.data(), want_rows.data(), 4 * got.size()));
}

} // namespace

NIB_TEST(AmaxEmu, EveryShapeAndType)
{
    Random random(1);
    for (uint64_t seed = 0; seed < 200; seed++) {
        const int  specials[] = { 0, 400, 7, 1 };
        const bool one = random.below(2);
        const Setting s = {
            (nib_dtype)random.below(3), random.below(9), random.below(seed % 3 ? 80 : 2000),
            random.below(3) ? 0 : random.below(40), random.below(2) ? 0 : random.below(9),
            one ? 1 : 1 + random.below(4), random.below(2), specials[random.below(4)]
        };
        check(s, seed);
    }
}

/* One element that is larger than all others is found wherever it stands. */
NIB_TEST(AmaxEmu, EveryElementCounts)
{
    for (int dtype = NIB_DT_F32; dtype <= NIB_DT_BF16; dtype++) {
        const int64_t rows = 3, cols = 45, ld = 47;
        const int64_t size = dtype == NIB_DT_F32 ? 4 : 2;
        nib_launch launch = {};
        nib_batch  batch = {};
        batch.count = 1;
        const Device<float> amax(1), each(3);
        for (int64_t i = 0; i < rows * ld; i++) {
            std::vector<uint8_t> x((size_t)((rows * ld + 1) * size));
            for (int64_t j = 0; j < rows * ld; j++) nib_store_f32(dtype, x.data(), j + 1, 0.5f);
            nib_store_f32(dtype, x.data(), i + 1, -3.0f);
            const Device<uint8_t> device_x(x);
            const nib_matrix m = { (uint8_t *)device_x + size, (nib_dtype)dtype, rows, cols, ld };
            (void)nib_cuda_amax(&launch, &batch, &m, amax, nullptr);
            (void)nib_cuda_amax_rows(&launch, &m, each);
            const bool  inside = i % ld < cols;
            const float want = inside ? 3.0f : 0.5f, of_row = each.read()[(size_t)(i / ld)];
            EXPECT(amax.read()[0] == want && of_row == want, "dtype %d element %lld: %g, %g",
                   dtype, (long long)i, (double)amax.read()[0], (double)of_row);
        }
    }
}

/* Many blocks; long rows, which many blocks share; many rows. */
NIB_TEST(AmaxEmu, LargeMatricesUnderEverySchedule)
{
    each_schedule([] {
        check({ NIB_BF16, 3, 70001, 3, 1, 1, 1, 5000 }, 1);
        check({ NIB_F32, 2, 30000, 0, 0, 2, 1, 5000 }, 2);
        check({ NIB_F16, 2100, 33, 7, 0, 1, 1, 3000 }, 3);
    });
}

NIB_TEST(AmaxEmu, Nothing)
{
    check({ NIB_BF16, 0, 8, 0, 0, 1, 1, 0 }, 1);
    check({ NIB_BF16, 3, 0, 0, 0, 2, 1, 0 }, 1);
    check({ NIB_F32, 3, 0, 5, 0, 2, 0, 0 }, 1);
}
