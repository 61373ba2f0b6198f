/* seeded_kernels.cu: a correct kernel of every mechanism, and its faults, one at a time.
 *
 *   NIB_EMU_BUG=name emulated --gtest_filter=EmuSeeded.*
 *
 * runs it with that fault, and must fail; tests/emu_bugs_test.sh says under which means. Without
 * the variable the kernel is right, and must pass under all of them. */
#include "kernels/common/half.h"
#include "tests/emu/emu_test.h"

#include <stdlib.h>
#include <string.h>

#define SEEDED_BUGS(X)                                                                         \
    X(none)                                                                                    \
    X(no_barrier_after_wait)   /* others' copies are read before they are known to be there */ \
    X(no_barrier_before_reuse) /* a stage is overwritten while others still read it */         \
    X(wait_for_too_few)        /* one group more in flight than is read */                     \
    X(no_wait)                                                                                 \
    X(no_commit)                                                                               \
    X(cp_async_misaligned)                                                                     \
    X(lane_skips_mma)                                                                          \
    X(wrong_fragment)          /* registers of A exchanged */                                  \
    X(ldmatrix_outside)                                                                        \
    X(mask_names_ended_lanes)                                                                  \
    X(caller_not_in_mask)                                                                      \
    X(shuffle_too_narrow)                                                                      \
    X(no_syncwarp)             /* a shuffle orders no memory */                                \
    X(partial_not_written)     /* shared memory that nobody set */                             \
    X(warps_share_a_slot)      /* all write one word: no schedule needs to show it */          \
    X(warp_skips_barrier)                                                                      \
    X(barrier_in_two_places)                                                                   \
    X(barrier_counts_too_many)                                                                 \
    X(mbarrier_counts_too_many)                                                                \
    X(mbarrier_wrong_parity)   /* waits for a phase that is over: for nothing */               \
    X(shared_overrun)                                                                          \
    X(dynamic_overrun)                                                                         \
    X(global_overrun)                                                                          \
    X(vector_misaligned)       /* a float4 read at a multiple of 4 */                          \
    X(relaxed_arrival)         /* the last block adds up what it need not see */               \
    X(blocks_share_a_word)

#define NAME(name) BUG_##name,
#define TEXT(name) #name,
enum Bug { SEEDED_BUGS(NAME) BUGS };
static const char *const bug_names[] = { SEEDED_BUGS(TEXT) };

enum { THREADS = 128, TILES = 5, BLOCKS = 3, A_TILE = 64 * 16, B_TILE = 16 * 8 };
enum { STAGE = A_TILE + B_TILE, SMEM_BYTES = 2 * STAGE * 2 };

/* Copies a tile: each thread a chunk of 16 bytes that another warp reads. */
__device__ static void copy_tile(uint16_t *stage, const uint16_t *a, const uint16_t *b, int bug)
{
    const int t = (int)(threadIdx.x + 32) % THREADS;
    const int off = bug == BUG_cp_async_misaligned && t == 9 ? 1 : 0;
    nib_ptx::cp_async<16>(stage + t * 8, a + t * 8 + off);
    if (threadIdx.x < B_TILE / 8) {
        nib_ptx::cp_async<16>(stage + A_TILE + threadIdx.x * 8, b + threadIdx.x * 8);
    }
}

__device__ static void multiply_tile(float (&acc)[4], const uint16_t *stage, int bug)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int row = lane % 16, half = lane / 16;
    uint32_t a[4], b[2];
    const int beyond = bug == BUG_ldmatrix_outside && warp == 3 ? 4096 : 0;
    nib_ptx::ldmatrix<4>(a, stage + (warp * 16 + row) * 16 + half * 8 + beyond);
    nib_ptx::ldmatrix<2, true>(b, stage + A_TILE + row * 8);
    if (bug == BUG_wrong_fragment) {
        const uint32_t t = a[1];
        a[1] = a[2];
        a[2] = t;
    }
    if (bug == BUG_lane_skips_mma && lane == 5) return;
    nib_ptx::mma_f16_f32(acc, a, b);
}

__device__ static float sum_of_warp(float x, int bug)
{
    const int lane = (int)threadIdx.x % 32;
    unsigned mask = ~0u;
    if (bug == BUG_caller_not_in_mask) mask = 0x7fffffffu;
    for (int step = bug == BUG_shuffle_too_narrow ? 8 : 16; step; step /= 2) {
        x += __shfl_xor_sync(mask, x, step);
    }
    if (bug == BUG_mask_names_ended_lanes && lane < 4) x = __shfl_sync(~0u, x, 0);
    return x;
}

/* Hands each lane's word to its mirror through shared memory, and back through a shuffle. */
__device__ static float mirrored_twice(float x, float *words, int bug)
{
    const int lane = (int)threadIdx.x % 32;
    words[lane] = x;
    if (bug == BUG_no_syncwarp) (void)__shfl_xor_sync(~0u, lane, 1);
    else __syncwarp();
    x = words[31 - lane];
    __syncwarp();
    return __shfl_sync(~0u, x, 31 - lane);
}

__device__ static void sync_block(int bug)
{
    const int warp = (int)threadIdx.x / 32;
    if (bug == BUG_warp_skips_barrier && warp == 2) return;
    if (bug == BUG_barrier_counts_too_many) nib_ptx::bar_sync(1, warp == 1 ? 96 : THREADS);
    else if (bug == BUG_barrier_in_two_places && warp == 1) __syncthreads();
    else __syncthreads();
}

__global__ static void seeded(const uint16_t *a, const uint16_t *b, const float *bias, float *out,
                              float *partial, uint32_t *arrived, float *total, int bug)
{
    NIB_SHARED_DYNAMIC(smem);
    NIB_SHARED(float, words, [THREADS / 32][32]);
    NIB_SHARED(uint64_t, ready, );
    NIB_SHARED(float, sums, [THREADS / 32]);
    uint16_t *stage = (uint16_t *)smem;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    a += (int)blockIdx.x * TILES * A_TILE;

    if (threadIdx.x == 0) {
        nib_ptx::mbarrier_init(&ready, bug == BUG_mbarrier_counts_too_many ? THREADS + 1 : THREADS);
    }
    float acc[4] = {};
    copy_tile(stage, a, b, bug);
    if (bug != BUG_no_commit) nib_ptx::cp_async_commit();
    for (int t = 0; t < TILES; t++) {
        if (t + 1 < TILES) {
            copy_tile(stage + (t + 1) % 2 * STAGE, a + (t + 1) * A_TILE, b + (t + 1) * B_TILE, bug);
        }
        if (bug != BUG_no_commit) nib_ptx::cp_async_commit();
        if (bug == BUG_wait_for_too_few) nib_ptx::cp_async_wait<2>();
        else if (bug != BUG_no_wait) nib_ptx::cp_async_wait<1>();
        if (bug != BUG_no_barrier_after_wait) __syncthreads();
        multiply_tile(acc, stage + t % 2 * STAGE, bug);
        if (bug != BUG_no_barrier_before_reuse) __syncthreads();
    }
    nib_ptx::cp_async_wait_all();

    const float4 add = *(const float4 *)(bias + 4 * lane + (bug == BUG_vector_misaligned));
    float sum = acc[0] + add.x + acc[1] + add.y + acc[2] + add.z + acc[3] + add.w;
    if (bug == BUG_shared_overrun) sum += 0.0f * words[0][blockDim.x + threadIdx.x % 2];
    if (bug == BUG_dynamic_overrun && threadIdx.x == 0) smem[SMEM_BYTES] = 1;
    sum = mirrored_twice(sum, words[warp], bug);
    out[blockIdx.x * THREADS + threadIdx.x + (bug == BUG_global_overrun ? 1 : 0)] = sum;
    if (bug == BUG_mask_names_ended_lanes && lane >= 4) return;
    sum = sum_of_warp(sum, bug);
    if (lane == 0 && (bug != BUG_partial_not_written || warp != 2)) {
        sums[bug == BUG_warps_share_a_slot ? 0 : warp] = sum;
    }
    sync_block(bug);

    /* The sums again, ordered by an mbarrier this time. */
    if (lane == 1) sums[warp] += 1.0f;
    nib_ptx::mbarrier_arrive(&ready);
    nib_ptx::mbarrier_wait(&ready, bug == BUG_mbarrier_wrong_parity);
    if (threadIdx.x) return;
    partial[blockIdx.x] = sums[0] + sums[1] + sums[2] + sums[3];
    if (bug == BUG_blocks_share_a_word) *total = 0;
    uint32_t before;
    if (bug == BUG_relaxed_arrival) before = atomicAdd(arrived, 1u);
    else before = nib_ptx::atom_add_acq_rel(arrived, 1);
    if (before != gridDim.x - 1) return;
    float all = 0;
    for (unsigned i = 0; i < gridDim.x; i++) all += partial[i];
    *total = all;
}

/* Small integers: every sum is exact, whatever its order. */
NIB_TEST(EmuSeeded, TileProductAndSums)
{
    const char *wish = getenv("NIB_EMU_BUG");
    int bug = 0;
    while (wish && bug < BUGS && strcmp(wish, bug_names[bug])) bug++;
    REQUIRE(bug < BUGS, "no bug has the name %s", wish);

    Random random(5);
    std::vector<uint16_t> a((size_t)BLOCKS * TILES * A_TILE + 8), b((size_t)TILES * B_TILE);
    std::vector<float> fa(a.size()), fb(b.size()), bias(132);
    const auto draw = [&random](uint16_t *bits, float *value) {
        *value = (float)(random.below(7) - 3);
        *bits = nib_f16_from_f32(*value);
    };
    for (size_t i = 0; i < a.size(); i++) draw(&a[i], &fa[i]);
    for (size_t i = 0; i < b.size(); i++) draw(&b[i], &fb[i]);
    for (float &x : bias) x = (float)random.below(50);
    std::vector<float> want((size_t)BLOCKS * THREADS);
    float want_total = 4.0f * BLOCKS;
    for (int block = 0; block < BLOCKS; block++) {
        for (int t = 0; t < THREADS; t++) {
            const int lane = t % 32;
            float sum = 0;
            for (int e = 0; e < 4; e++) {
                const int row = t / 32 * 16 + lane / 4 + 8 * (e / 2), col = lane % 4 * 2 + e % 2;
                for (int k = 0; k < 16 * TILES; k++) {
                    const int tile = block * TILES + k / 16;
                    sum += fa[(size_t)(tile * A_TILE + row * 16 + k % 16)] *
                           fb[(size_t)(k / 16 * B_TILE + k % 16 * 8 + col)];
                }
                sum += bias[(size_t)(4 * lane + e)];
            }
            want[(size_t)(block * THREADS + t)] = sum;
            want_total += sum;
        }
    }

    Device<uint16_t> da(a), db(b);
    Device<float> dbias(bias), out(want.size()), partial(BLOCKS), total(1);
    Device<uint32_t> arrived(std::vector<uint32_t>{ 0 });
    NIB_LAUNCH(seeded, BLOCKS, THREADS, SMEM_BYTES, 0, (const uint16_t *)da, (const uint16_t *)db,
               (const float *)dbias, (float *)out, (float *)partial, (uint32_t *)arrived,
               (float *)total, bug);
    EXPECT_CUDA(cudaDeviceSynchronize());
    const std::vector<float> got = out.read();
    size_t wrong = 0;
    for (size_t i = 0; i < want.size(); i++) wrong += !(got[i] == want[i]);
    EXPECT(wrong == 0, "%zu of %zu values are wrong", wrong, want.size());
    EXPECT(total.read()[0] == want_total, "the total: %g, not %g", (double)total.read()[0],
           (double)want_total);
}
