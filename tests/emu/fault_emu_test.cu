/* fault_emu_test.cu: the sentence that each broken rule gives. Seeded bugs of a real kernel are in
 * seeded_kernels.cu. */
#include "tests/emu/emu_test.h"

#if NIB_ON_EMULATOR
#include <string.h>

/* The kernel fails, with a sentence that holds each of the words; afterwards every call says so,
 * until the reset. */
template <class... Arguments>
static void expect_fault(const std::vector<const char *> &words, void (*kernel)(Arguments...),
                         Arguments... arguments)
{
    for (int s = 0; s < NIB_EMU_SCHEDULES; s++) {
        nib_emu_reset();
        nib_emu_set_schedule((nib_emu_schedule)s, 3);
        NIB_LAUNCH(kernel, 1, 64, 256, 0, arguments...);
        EXPECT(cudaGetLastError() == cudaSuccess, "the launch itself is right");
        EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure, "%s", words[0]);
        for (const char *word : words) {
            EXPECT(strstr(nib_emu_failure(), word), "'%s' is not in: %s", word, nib_emu_failure());
        }
        int *more;
        EXPECT(cudaMalloc(&more, 4) == cudaErrorLaunchFailure, "the error stays");
        EXPECT(cudaPeekAtLastError() == cudaErrorLaunchFailure, "and is the last");
        EXPECT(!strcmp(cudaGetErrorString(cudaErrorLaunchFailure), nib_emu_failure()), "text");
    }
    nib_emu_set_schedule(NIB_EMU_FORWARD, 1);
    nib_emu_reset();
    EXPECT(cudaGetLastError() == cudaSuccess && !*nib_emu_failure(), "the reset forgets");
}

__global__ static void half_at_barrier() { if (threadIdx.x < 32) __syncthreads(); }
__global__ static void two_barriers()
{
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads();
}
__global__ static void barrier_sizes() { nib_ptx::bar_sync(2, threadIdx.x < 32 ? 32 : 64); }
__global__ static void barrier_not_whole_warps() { nib_ptx::bar_sync(2, 40); }
__global__ static void barrier_17() { nib_ptx::bar_sync(17, 64); }

NIB_TEST(EmuFault, Barriers)
{
    expect_fault({ "deadlock", "a barrier at", "fault_emu_test.cu:",
                   "32 of 64 threads have ended" }, half_at_barrier);
    expect_fault({ "barrier 0 is reached at two places" }, two_barriers);
    expect_fault({ "bar.sync", "takes whole warps" }, barrier_not_whole_warps);
    expect_fault({ "barrier 17 of 16" }, barrier_17);
    /* 32 threads pass alone, or meet the others, who expect more: either is wrong. */
    expect_fault({ "barrier" }, barrier_sizes);
}

__global__ static void not_in_mask() { (void)__ballot_sync(0xfffffffe, 1); }
__global__ static void ended_lane()
{
    if (threadIdx.x % 32 == 31) return;
    __syncwarp(0x7fffffff); /* now lane 31 has surely ended, or will before the deadlock */
    (void)__shfl_xor_sync(~0u, 1, 1);
}
__global__ static void masks_overlap()
{
    if (threadIdx.x % 32 < 16) (void)__ballot_sync(0x0001ffff, 1);
    else (void)__ballot_sync(0xffff0000, 1);
}
__global__ static void lanes_part()
{
    if (threadIdx.x % 2) (void)__shfl_xor_sync(~0u, 1, 1);
    else (void)__ballot_sync(~0u, 1);
}
__global__ static void reads_outside_mask()
{
    if (threadIdx.x % 32 < 4) (void)__shfl_sync(0xf, 1, 4);
}
__global__ static void odd_width() { (void)__shfl_sync(~0u, 1, 4, 12); }

NIB_TEST(EmuFault, WarpOperations)
{
    expect_fault({ "lane 0 calls with mask 0xfffffffe, which lacks it" }, not_in_mask);
    expect_fault({ "thread" }, ended_lane);
    expect_fault({ "mask", "0x0001ffff" }, masks_overlap); /* they meet, or one half has ended */
    expect_fault({ "lanes of one warp diverge", "fault_emu_test.cu" }, lanes_part);
    expect_fault({ "reads lane 4, which mask 0x0000000f lacks" }, reads_outside_mask);
    expect_fault({ "width 12 is no power of two" }, odd_width);
}

__global__ static void copy_outside(const int *src)
{
    NIB_SHARED_DYNAMIC(smem);
    nib_ptx::cp_async<4>(smem + 256, src);
}
__global__ static void copy_to_odd(const int *src)
{
    NIB_SHARED_DYNAMIC(smem);
    nib_ptx::cp_async<16>(smem + 8, src);
}
__global__ static void copy_from_odd(const int *src)
{
    NIB_SHARED_DYNAMIC(smem);
    nib_ptx::cp_async<8>(smem, (const char *)src + 4);
}
__global__ static void copy_and_leave(const int *src)
{
    NIB_SHARED_DYNAMIC(smem);
    nib_ptx::cp_async<4>(smem + 4 * threadIdx.x, src);
    nib_ptx::cp_async_commit();
}
__global__ static void matrix_outside(const int *src)
{
    NIB_SHARED_DYNAMIC(smem);
    uint32_t regs[1];
    nib_ptx::ldmatrix<1>(regs, src ? smem + 16 * threadIdx.x : smem);
}

NIB_TEST(EmuFault, CopiesAndMatrices)
{
    alignas(16) static const int source[4] = {};
    const int *src = source;
    expect_fault({ "cp.async", "4 bytes outside shared memory" }, copy_outside, src);
    expect_fault({ "not aligned to 16 bytes" }, copy_to_odd, src);
    expect_fault({ "global address is not aligned to 8 bytes" }, copy_from_odd, src);
    expect_fault({ "ends with a cp.async in flight" }, copy_and_leave, src);
    expect_fault({ "ldmatrix", "outside shared memory" }, matrix_outside, src);
}

__global__ static void no_init()
{
    NIB_SHARED(uint64_t, bar, );
    nib_ptx::mbarrier_arrive(&bar);
}
__global__ static void zero_count()
{
    NIB_SHARED(uint64_t, bar, );
    nib_ptx::mbarrier_init(&bar, 0);
}
__global__ static void never_complete()
{
    NIB_SHARED(uint64_t, bar, );
    if (threadIdx.x == 0) nib_ptx::mbarrier_init(&bar, 65);
    __syncthreads();
    nib_ptx::mbarrier_arrive(&bar);
    nib_ptx::mbarrier_wait(&bar, 0);
}

NIB_TEST(EmuFault, Mbarriers)
{
    expect_fault({ "was not initialised" }, no_init);
    expect_fault({ "count 0 is not in" }, zero_count);
    expect_fault({ "deadlock", "an mbarrier at" }, never_complete);
}

__global__ static void too_much_static()
{
    NIB_SHARED(int, big, [12289]);
    big[threadIdx.x] = 0;
}
/* ---- dependent launches ---- */

__global__ static void does_not_wait() {}
__global__ static void waits(uint32_t *out)
{
    nib_ptx::grid_dependency_wait();
    out[threadIdx.x] += 1;
}

NIB_TEST(EmuFault, DependentLaunches)
{
    {
        Device<uint32_t> out(std::vector<uint32_t>(64, 0));
        NIB_LAUNCH(waits, 1, 64, 0, 0, (uint32_t *)out); /* for nothing */
        NIB_LAUNCH_DEPENDENT(waits, 1, 64, 0, 0, (uint32_t *)out);
        for (const uint32_t got : out.read()) EXPECT(got == 2, "%u", got);
    }
    NIB_LAUNCH_DEPENDENT(does_not_wait, 1, 64, 0, 0);
    EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure, "nobody waits");
    EXPECT(strstr(nib_emu_failure(), "never waits for the grid before"), "%s", nib_emu_failure());
    nib_emu_reset();
    EXPECT(cudaGetLastError() == cudaSuccess, "the reset forgets");
}

NIB_TEST(EmuFault, StaticSharedMemory)
{
    expect_fault({ "static shared memory", "49156 bytes in all" }, too_much_static);
}
#endif
