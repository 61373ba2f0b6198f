/* warp_emu_test.cu: shuffles, votes, matches, reductions and barriers against plain C++. */
#include "tests/emu/emu_test.h"

enum { WIDTHS = 6, VALUES = 32 * WIDTHS * 4 };

__global__ static void shuffles(const int *by, int *out)
{
    const int lane = (int)threadIdx.x % 32, value = 100 * (int)(threadIdx.x / 32) + lane;
    for (int w = 0; w < WIDTHS; w++) {
        const int width = 1 << w;
        int *row = out + (threadIdx.x / 32) * VALUES + w * 128 + lane;
        row[0] = __shfl_sync(~0u, value, by[lane], width);
        row[32] = __shfl_up_sync(~0u, value, (unsigned)by[32], width);
        row[64] = __shfl_down_sync(~0u, value, (unsigned)by[32], width);
        row[96] = __shfl_xor_sync(~0u, value, by[32], width);
    }
}

/* CUDA C++ Programming Guide, "Warp Shuffle Functions"; the butterfly by PTX ISA, shfl. */
static int shuffled(int kind, int lane, int by, int width)
{
    const int first = lane / width * width, last = first + width - 1;
    if (kind == 0) return first + ((by % width) + width) % width;
    const int from = kind == 1 ? lane - by : kind == 2 ? lane + by : lane ^ by;
    if (kind == 1) return from < first ? lane : from;
    return from > last ? lane : from;
}

NIB_TEST(EmuWarp, Shuffles)
{
    each_schedule([] {
        for (int distance = 0; distance < 32; distance += 1 + distance / 3) {
            std::vector<int> by(33);
            Random random((uint64_t)distance);
            for (int i = 0; i < 32; i++) by[(size_t)i] = random.below(64) - 16;
            by[32] = distance;
            Device<int> steps(by), out((size_t)2 * VALUES);
            NIB_LAUNCH(shuffles, 1, 64, 0, 0, (const int *)steps, (int *)out);
            const std::vector<int> got = out.read();
            for (int i = 0; i < 2 * VALUES; i++) {
                const int lane = i % 32, kind = i / 32 % 4, width = 1 << (i % VALUES / 128);
                const int want = i / VALUES * 100 +
                    shuffled(kind, lane, kind ? distance : by[(size_t)lane], width);
                EXPECT(got[(size_t)i] == want, "kind %d width %d lane %d by %d: %d, not %d", kind,
                       width, lane, distance, got[(size_t)i], want);
            }
        }
    });
}

template <class T> __global__ static void rotate(T *values)
{
    values[threadIdx.x] = __shfl_sync(~0u, values[threadIdx.x], (int)threadIdx.x + 1);
}

template <class T> static void expect_rotation()
{
    std::vector<T> in(32);
    for (int i = 0; i < 32; i++) in[(size_t)i] = (T)(i * 3 - 7);
    Device<T> values(in);
    NIB_LAUNCH(rotate<T>, 1, 32, 0, 0, (T *)values);
    const std::vector<T> got = values.read();
    for (size_t i = 0; i < 32; i++) EXPECT(got[i] == in[(i + 1) % 32], "%zu", i);
}

NIB_TEST(EmuWarp, ShufflesTakeEveryType)
{
    expect_rotation<int>();
    expect_rotation<unsigned>();
    expect_rotation<long long>();
    expect_rotation<unsigned long long>();
    expect_rotation<float>();
    expect_rotation<double>();
}

__global__ static void votes(const unsigned *predicates, unsigned *out)
{
    const unsigned lane = threadIdx.x;
    const int p = (int)(predicates[0] >> lane & 1);
    unsigned *row = out + lane * 8;
    row[0] = __ballot_sync(~0u, p);
    row[1] = (unsigned)__any_sync(~0u, p);
    row[2] = (unsigned)__all_sync(~0u, p);
    row[3] = __match_any_sync(~0u, (int)(predicates[1] >> lane & 1) * 2 + p);
    int all = -1;
    row[4] = __match_all_sync(~0u, p, &all);
    row[5] = (unsigned)all;
    /* The two halves of a warp part, and each has its own. */
    if (lane < 16) row[6] = __ballot_sync(0x0000ffffu, p);
    else row[6] = __ballot_sync(0xffff0000u, p);
    row[7] = lane < 5 ? __reduce_add_sync(0x1fu, lane) : 0;
}

NIB_TEST(EmuWarp, VotesAndMatches)
{
    each_schedule([] {
        const unsigned cases[][2] = {
            { 0, 0 }, { ~0u, 0 }, { 1, ~0u }, { 0xf0f03c01, 0x5a5a1234 } };
        for (const auto &c : cases) {
            Device<unsigned> in(std::vector<unsigned>{ c[0], c[1] }), out(32 * 8);
            NIB_LAUNCH(votes, 1, 32, 0, 0, (const unsigned *)in, (unsigned *)out);
            const std::vector<unsigned> got = out.read();
            for (unsigned lane = 0; lane < 32; lane++) {
                const unsigned *row = &got[lane * 8];
                const unsigned same0 = c[0] >> lane & 1 ? c[0] : ~c[0];
                const unsigned same1 = c[1] >> lane & 1 ? c[1] : ~c[1];
                const bool all = c[0] == 0 || c[0] == ~0u;
                EXPECT(row[0] == c[0] && row[1] == (c[0] != 0) && row[2] == (c[0] == ~0u), "vote");
                EXPECT(row[3] == (same0 & same1), "match_any %#x", row[3]);
                EXPECT(row[4] == (all ? ~0u : 0) && row[5] == (unsigned)all, "match_all");
                EXPECT(row[6] == (c[0] & (lane < 16 ? 0xffffu : 0xffff0000u)), "half ballot");
                EXPECT(row[7] == (lane < 5 ? 10u : 0), "reduce");
            }
        }
    });
}

__global__ static void reductions(const int *in, int *out)
{
    const int v = in[threadIdx.x];
    const unsigned u = (unsigned)v;
    const int results[] = {
        __reduce_add_sync(~0u, v), (int)__reduce_min_sync(~0u, u), (int)__reduce_max_sync(~0u, u),
        __reduce_min_sync(~0u, v), __reduce_max_sync(~0u, v), (int)__reduce_and_sync(~0u, u),
        (int)__reduce_or_sync(~0u, u), (int)__reduce_xor_sync(~0u, u) };
    for (int i = 0; i < 8; i++) out[threadIdx.x * 8 + i] = results[i];
}

NIB_TEST(EmuWarp, Reductions)
{
    Random random(3);
    std::vector<int> in(32);
    for (int &v : in) v = (int)random.next();
    unsigned sum = 0, least = ~0u, most = 0, both = ~0u, any = 0, odd = 0;
    int low = in[0], high = in[0];
    for (int v : in) {
        const unsigned u = (unsigned)v;
        sum += u, both &= u, any |= u, odd ^= u;
        least = u < least ? u : least, most = u > most ? u : most;
        low = v < low ? v : low, high = v > high ? v : high;
    }
    const int want[8] = { (int)sum, (int)least, (int)most, low, high, (int)both, (int)any,
                          (int)odd };
    Device<int> values(in), out(256);
    NIB_LAUNCH(reductions, 1, 32, 0, 0, (const int *)values, (int *)out);
    const std::vector<int> got = out.read();
    for (size_t i = 0; i < 256; i++) EXPECT(got[i] == want[i % 8], "%zu", i);
}

/* Sum of a ragged array by block: shuffles, shared memory, a tree of barriers. */
__global__ static void block_sums(const int *in, int n, int *out)
{
    NIB_SHARED(int, partial, [32]);
    int sum = 0;
    for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < n;
         i += (int)(gridDim.x * blockDim.x)) sum += in[i];
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) sum += partial[w];
    out[blockIdx.x] = sum;
}

NIB_TEST(EmuWarp, BlockSumsByGridStride)
{
    each_schedule([] {
        for (int n : { 0, 1, 33, 1000, 4099 }) {
            std::vector<int> in((size_t)n + 1);
            int want = 0;
            for (int i = 0; i < n; i++) want += in[(size_t)i] = i * 7 - 5;
            Device<int> values(in), out(3);
            NIB_LAUNCH(block_sums, 3, 256, 0, 0, (const int *)values, n, (int *)out);
            const std::vector<int> got = out.read();
            EXPECT(got[0] + got[1] + got[2] == want, "%d values", n);
        }
    });
}

__global__ static void named_barriers(int *out)
{
    NIB_SHARED(int, value, [2][64]);
    const int half = (int)threadIdx.x / 64, i = (int)threadIdx.x % 64;
    for (int round = 0; round < 5; round++) {
        value[half][i] = round * 1000 + i;
        nib_ptx::bar_sync(1 + half, 64);
        const int other = value[half][63 - i];
        nib_ptx::bar_sync(1 + half, 64);
        out[threadIdx.x] = other;
    }
}

NIB_TEST(EmuWarp, NamedBarriersHoldHalvesApart)
{
    each_schedule([] {
        Device<int> out(128);
        NIB_LAUNCH(named_barriers, 1, 128, 0, 0, (int *)out);
        const std::vector<int> got = out.read();
        for (int i = 0; i < 128; i++) EXPECT(got[(size_t)i] == 4063 - i % 64, "%d", i);
    });
}

__global__ static void transpose_in_warp(const int *in, int *out)
{
    NIB_SHARED(int, tile, [4][32]);
    int *mine = tile[threadIdx.x / 32];
    mine[threadIdx.x % 32] = in[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = mine[31 - threadIdx.x % 32];
}

NIB_TEST(EmuWarp, SyncwarpOrdersSharedMemory)
{
    each_schedule([] {
        std::vector<int> in(128);
        for (int i = 0; i < 128; i++) in[(size_t)i] = i * i;
        Device<int> values(in), out(128);
        NIB_LAUNCH(transpose_in_warp, 1, 128, 0, 0, (const int *)values, (int *)out);
        const std::vector<int> got = out.read();
        for (size_t i = 0; i < 128; i++) EXPECT(got[i] == in[i / 32 * 32 + 31 - i % 32], "%zu", i);
    });
}
