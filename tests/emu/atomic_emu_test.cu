/* atomic_emu_test.cu: atomics and ordered accesses, and a grid's last block that sums for all. */
#include "tests/emu/emu_test.h"

#include <string.h>

__global__ static void every_atomic(int *ints, unsigned *words, unsigned long long *longs,
                                    float *floats)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&ints[0], i);
    atomicSub(&ints[1], i);
    atomicMin(&ints[2], 50 - i);
    atomicMax(&ints[3], i - 50);
    atomicAnd(&words[0], ~(1u << (i % 32)));
    atomicOr(&words[1], 1u << (i % 32));
    atomicXor(&words[2], 1u << (i % 7));
    nib_ptx::red_add_relaxed(&words[3], (uint32_t)i);
    nib_ptx::red_max_relaxed(&words[4], (uint32_t)(i ^ 21));
    int seen = atomicAdd(&ints[4], 0); /* a loop around compare-and-swap adds 2 */
    for (int before = -1; before != seen;) {
        before = seen;
        seen = atomicCAS(&ints[4], before, before + 2);
    }
    atomicAdd(&longs[0], (unsigned long long)i << 32);
    atomicMax(&longs[1], (unsigned long long)i << 40);
    atomicAdd(&floats[0], 0.5f);
    atomicExch(&floats[1], 3.0f);
}

NIB_TEST(EmuAtomic, Every)
{
    each_schedule([] {
        const int n = 96, sum = n * (n - 1) / 2;
        Device<int> ints(std::vector<int>{ 5, 5, 5, 5, 5 });
        Device<unsigned> words(std::vector<unsigned>{ ~0u, 0, 0, 1, 0 });
        Device<unsigned long long> longs(std::vector<unsigned long long>{ 1, 1 });
        Device<float> floats(std::vector<float>{ 1, 1 });
        NIB_LAUNCH(every_atomic, 3, 32, 0, 0, (int *)ints, (unsigned *)words,
                   (unsigned long long *)longs, (float *)floats);
        const std::vector<int> i = ints.read();
        const std::vector<unsigned> w = words.read();
        const std::vector<unsigned long long> l = longs.read();
        const std::vector<float> f = floats.read();
        EXPECT(i[0] == 5 + sum && i[1] == 5 - sum && i[2] == 50 - 95 && i[3] == 45, "ints");
        unsigned odd = 0, most = 0;
        for (unsigned k = 0; k < 96; k++) {
            odd ^= 1u << (k % 7);
            most = (k ^ 21) > most ? k ^ 21 : most;
        }
        EXPECT(w[0] == 0 && w[1] == ~0u && w[2] == odd, "bits %#x", w[2]);
        EXPECT(w[3] == 1u + (unsigned)sum && w[4] == most, "red %u %u", w[3], w[4]);
        EXPECT(i[4] == 5 + 2 * n, "compare and swap: %d", i[4]);
        EXPECT(l[0] == 1 + ((unsigned long long)sum << 32) && l[1] == 95ull << 40, "longs");
        EXPECT(f[0] == 1.0f + 0.5f * n && f[1] == 3.0f, "floats");
    });
}

/* Each block leaves its sum; the last to arrive adds them up. fence: the older way to order. */
__global__ static void grid_sum(const int *in, int *partial, unsigned *arrived, int *total,
                                int fence)
{
    NIB_SHARED(unsigned, rank, );
    if (threadIdx.x == 0) {
        int sum = 0;
        for (unsigned i = 0; i < 32; i++) sum += in[blockIdx.x * 32 + i];
        partial[blockIdx.x] = sum;
        if (fence) {
            __threadfence();
            rank = atomicAdd(arrived, 1u);
            __threadfence();
        } else {
            rank = nib_ptx::atom_add_acq_rel(arrived, 1);
        }
    }
    __syncthreads();
    if (rank != gridDim.x - 1 || threadIdx.x) return;
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += partial[i];
    *total = sum;
    nib_ptx::st_release(arrived, 0);
}

NIB_TEST(EmuAtomic, LastBlockSumsForAll)
{
    each_schedule([] {
        std::vector<int> in(7 * 32);
        int want = 0;
        for (size_t i = 0; i < in.size(); i++) want += in[i] = (int)(i * 13 % 101);
        for (int fence = 0; fence < 2; fence++) {
            Device<int> values(in), partial(7), total(1);
            Device<unsigned> arrived(std::vector<unsigned>{ 0 });
            NIB_LAUNCH(grid_sum, 7, 64, 0, 0, (const int *)values, (int *)partial,
                       (unsigned *)arrived, (int *)total, fence);
            EXPECT(total.read()[0] == want && arrived.read()[0] == 0, "fence %d", fence);
        }
    });
}

__global__ static void hand_over(int *data, uint32_t *flag, int *out)
{
    if (threadIdx.x == 0) {
        *data = 42;
        nib_ptx::st_release(flag, 1);
    }
    __syncthreads(); /* the flag is set; its acquire orders the data in global memory as well */
    if (threadIdx.x == 33 && nib_ptx::ld_acquire(flag)) *out = *data;
}

NIB_TEST(EmuAtomic, ReleaseAndAcquire)
{
    Device<int> data(1), out(1);
    Device<uint32_t> flag(std::vector<uint32_t>{ 0 });
    NIB_LAUNCH(hand_over, 1, 64, 0, 0, (int *)data, (uint32_t *)flag, (int *)out);
    EXPECT(out.read()[0] == 42, "%d", out.read()[0]);
}
