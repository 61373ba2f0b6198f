/* async_emu_test.cu: cp.async of each size, its groups, and mbarriers. */
#include "tests/emu/emu_test.h"

template <int bytes> __global__ static void copy_chunks(const uint8_t *src, uint8_t *dst)
{
    NIB_SHARED_DYNAMIC(smem);
    const unsigned at = threadIdx.x * bytes;
    nib_ptx::cp_async<bytes>(smem + at, src + at, threadIdx.x % 5 != 3);
    nib_ptx::cp_async_commit();
    nib_ptx::cp_async_wait<0>();
    __syncthreads();
    const unsigned from = (blockDim.x - 1 - threadIdx.x) * bytes;
    for (unsigned i = 0; i < bytes; i++) dst[from + i] = smem[from + i];
}

template <int bytes> static void expect_copies()
{
    std::vector<uint8_t> in(96 * bytes);
    Random random(bytes);
    for (uint8_t &v : in) v = (uint8_t)random.next();
    Device<uint8_t> src(in), dst(in.size());
    NIB_LAUNCH(copy_chunks<bytes>, 1, 96, in.size(), 0, (const uint8_t *)src, (uint8_t *)dst);
    const std::vector<uint8_t> got = dst.read();
    for (size_t i = 0; i < in.size(); i++) {
        EXPECT(got[i] == (i / bytes % 5 == 3 ? 0 : in[i]), "%d bytes, byte %zu", bytes, i);
    }
}

NIB_TEST(EmuCopy, EverySizeAndZeroFill)
{
    each_schedule([] {
        expect_copies<4>();
        expect_copies<8>();
        expect_copies<16>();
    });
}

/* Three stages in flight, four bytes a thread and tile; wait_all takes what no group holds. */
__global__ static void pipeline(const uint32_t *src, int tiles, uint32_t *sums)
{
    NIB_SHARED(uint32_t, stage, [3][64]);
    const int i = (int)threadIdx.x;
    uint32_t sum = 0;
    for (int t = 0; t < 2; t++) {
        if (t < tiles) nib_ptx::cp_async<4>(&stage[t][i], src + t * 64 + i);
        nib_ptx::cp_async_commit();
    }
    for (int t = 0; t < tiles; t++) {
        nib_ptx::cp_async_wait<1>();
        __syncthreads(); /* all copies of tile t landed; all have read tile t - 1 */
        const int next = t + 2;
        if (next < tiles) nib_ptx::cp_async<4>(&stage[next % 3][i], src + next * 64 + i);
        nib_ptx::cp_async_commit();
        sum = sum * 31 + stage[t % 3][63 - i];
    }
    nib_ptx::cp_async_wait_all();
    __syncthreads();
    nib_ptx::cp_async<4>(&stage[0][i], src + i);
    nib_ptx::cp_async_wait_all();
    sums[i] = sum + stage[0][i];
}

NIB_TEST(EmuCopy, PipelineOfThreeStages)
{
    each_schedule([] {
        for (int tiles : { 1, 2, 3, 7 }) {
            std::vector<uint32_t> in((size_t)tiles * 64);
            Random random((uint64_t)tiles);
            for (uint32_t &v : in) v = random.next();
            Device<uint32_t> src(in), sums(64);
            NIB_LAUNCH(pipeline, 1, 64, 0, 0, (const uint32_t *)src, tiles, (uint32_t *)sums);
            const std::vector<uint32_t> got = sums.read();
            for (size_t i = 0; i < 64; i++) {
                uint32_t want = 0;
                for (size_t t = 0; t < (size_t)tiles; t++) want = want * 31 + in[t * 64 + 63 - i];
                EXPECT(got[i] == want + in[i], "%d tiles, thread %zu", tiles, i);
            }
        }
    });
}

/* A producing warp and a consuming one, two slots, a full and an empty mbarrier for each. */
__global__ static void produce_and_consume(const int *src, int rounds, int *out)
{
    NIB_SHARED(int, slot, [2][32]);
    NIB_SHARED(uint64_t, full, [2]);
    NIB_SHARED(uint64_t, empty, [2]);
    const int lane = (int)threadIdx.x % 32;
    if (threadIdx.x < 2) {
        nib_ptx::mbarrier_init(&full[threadIdx.x], 32);
        nib_ptx::mbarrier_init(&empty[threadIdx.x], 32);
    }
    __syncthreads();
    for (int r = 0; r < rounds; r++) {
        const int s = r % 2;
        const uint32_t parity = (uint32_t)(r / 2) & 1;
        if (threadIdx.x < 32) {
            if (r >= 2) nib_ptx::mbarrier_wait(&empty[s], parity ^ 1);
            slot[s][lane] = src[r * 32 + lane];
            nib_ptx::mbarrier_arrive(&full[s]);
        } else {
            nib_ptx::mbarrier_wait(&full[s], parity);
            out[r * 32 + lane] = slot[s][31 - lane];
            nib_ptx::mbarrier_arrive(&empty[s]);
        }
    }
}

NIB_TEST(EmuCopy, MbarriersPassSlotsToAndFro)
{
    each_schedule([] {
        const int rounds = 9;
        std::vector<int> in(rounds * 32);
        for (size_t i = 0; i < in.size(); i++) in[i] = (int)(i * i);
        Device<int> src(in), out(in.size());
        NIB_LAUNCH(produce_and_consume, 1, 64, 0, 0, (const int *)src, rounds, (int *)out);
        const std::vector<int> got = out.read();
        for (size_t i = 0; i < in.size(); i++) {
            EXPECT(got[i] == in[i / 32 * 32 + 31 - i % 32], "%zu", i);
        }
    });
}
