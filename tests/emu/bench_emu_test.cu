/* bench_emu_test.cu: the limits' kernels do the work that they are timed for. */
#include "tests/emu/emu_test.h"

#include "kernels/cuda/ops_cuda.cuh"

static nib_launch launch_on(cudaStream_t stream, char *why)
{
    nib_launch launch = {};
    launch.stream = stream;
    launch.why = why;
    why[0] = '\0';
    return launch;
}

/* Less than a tile, several, a part of one; what lies behind the buffer stays as it was. */
static const size_t sizes[] = { 0, 16, 4080, 32768, 32768 * 3 + 16 * 300 };

static std::vector<uint8_t> noise(size_t n)
{
    std::vector<uint8_t> bytes(n);
    Random random(n + 1);
    for (uint8_t &byte : bytes) byte = (uint8_t)random.next();
    return bytes;
}

NIB_TEST(CudaBench, CopyAndFillWriteTheirBytesAndNoOthers)
{
    each_schedule([] {
        for (const size_t n : sizes) {
            const std::vector<uint8_t> from = noise(n + 16), before(n + 16, 0xa5);
            Device<uint8_t> src(from), dst(before);
            char why[NIB_WHY_BYTES];
            const nib_launch launch = launch_on(0, why);
            EXPECT(nib_bench_cuda.copy(&launch, (uint8_t *)dst, (uint8_t *)src, n) == NIB_OK, "%s",
                   why);
            std::vector<uint8_t> got = dst.read();
            for (size_t i = 0; i < n + 16; i++)
                REQUIRE(got[i] == (i < n ? from[i] : 0xa5), "copy of %zu: byte %zu", n, i);
            EXPECT(nib_bench_cuda.fill(&launch, (uint8_t *)dst, n) == NIB_OK, "%s", why);
            got = dst.read();
            for (size_t i = 0; i < n + 16; i++)
                REQUIRE(got[i] == (i < n ? 0x55 : 0xa5), "fill of %zu: byte %zu", n, i);
        }
    });
}

NIB_TEST(CudaBench, ReadAddsEveryWord)
{
    each_schedule([] {
        for (const size_t n : sizes) {
            const std::vector<uint8_t> from = noise(n + 16);
            Device<uint8_t> src(from);
            Device<uint32_t> sink(std::vector<uint32_t>(1, 7));
            uint32_t sum = 7;
            for (size_t i = 0; i < n; i++) sum += (uint32_t)from[i] << (8 * (i % 4));
            char why[NIB_WHY_BYTES];
            const nib_launch launch = launch_on(0, why);
            EXPECT(nib_bench_cuda.read(&launch, (uint8_t *)src, n, (uint32_t *)sink) == NIB_OK,
                   "%s", why);
            const uint32_t got = sink.read()[0];
            EXPECT(got == sum, "%zu bytes: %08x, not %08x", n, got, sum);
        }
    });
}

/* flops grow with the iterations, and nothing is written. */
NIB_TEST(CudaBench, ArithmeticCountsItsWork)
{
    for (int kind = 0; kind < 3; kind++) {
        Device<uint32_t> sink(std::vector<uint32_t>(1, 7));
        char why[NIB_WHY_BYTES];
        const nib_launch launch = launch_on(0, why);
        double flops[2] = { 0, 0 };
        for (int i = 0; i < 2; i++) {
            const nib_status status =
                kind == 0 ? nib_bench_cuda.fma(&launch, 1 + i, (uint32_t *)sink, &flops[i])
                          : nib_bench_cuda.mma(&launch, 1 + i, kind == 1, (uint32_t *)sink,
                                               &flops[i]);
            EXPECT(status == NIB_OK, "%d: %s", kind, why);
        }
        EXPECT(flops[0] > 0 && flops[1] == 2 * flops[0], "%d: %g, %g flops", kind, flops[0],
               flops[1]);
        EXPECT(sink.read()[0] == 7, "%d: the sink was written", kind);
    }
}

NIB_TEST(CudaBench, BytesAreWholeVectors)
{
    Device<uint8_t> p(64);
    char why[NIB_WHY_BYTES];
    const nib_launch launch = launch_on(0, why);
    EXPECT(nib_bench_cuda.copy(&launch, (uint8_t *)p, (uint8_t *)p + 32, 24) == NIB_ERR_SHAPE
               && why[0], "24 bytes: %s", why);
    EXPECT(nib_bench_cuda.fill(&launch, (uint8_t *)p, 1) == NIB_ERR_SHAPE, "1 byte");
    EXPECT(nib_bench_cuda.read(&launch, (uint8_t *)p, 17, (uint8_t *)p) == NIB_ERR_SHAPE, "17");
}

#if NIB_ON_EMULATOR
NIB_TEST(CudaBench, EveryKernelIsLoadedBefore)
{
    char             why[NIB_WHY_BYTES];
    double           flops;
    const nib_launch launch = launch_on(0, why);
    nib_emu_reset();
    EXPECT_CUDA(nib_cuda_load_bench());
    Device<uint8_t> p(64);
    const int       before = nib_emu_late_loads();
    EXPECT(nib_bench_cuda.copy(&launch, (uint8_t *)p, (uint8_t *)p + 32, 32) == NIB_OK
               && nib_bench_cuda.fill(&launch, (uint8_t *)p, 32) == NIB_OK
               && nib_bench_cuda.read(&launch, (uint8_t *)p, 32, (uint8_t *)p + 32) == NIB_OK
               && nib_bench_cuda.fma(&launch, 1, (uint8_t *)p, &flops) == NIB_OK
               && nib_bench_cuda.mma(&launch, 1, 0, (uint8_t *)p, &flops) == NIB_OK
               && nib_bench_cuda.mma(&launch, 1, 1, (uint8_t *)p, &flops) == NIB_OK, "%s", why);
    EXPECT(nib_emu_late_loads() == before, "%d are not", nib_emu_late_loads() - before);
    EXPECT_CUDA(cudaDeviceSynchronize());
}
#endif
