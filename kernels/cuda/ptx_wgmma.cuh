/* ptx_wgmma.cuh: as ptx.cuh, Hopper's products by a warpgroup, four warps of which the first is a
 * multiple of 4. The PTX ISA's section "Asynchronous warpgroup level matrix instructions".
 *
 * d += a * b, 64 x 128 += 64 x 16 times 16 x 128. Each warp has 16 rows, as in 16 mma m16n8k16 side
 * by side: a is their A, and d[4 * i + e] D's register e of columns 8 * i .. + 7. b names shared
 * memory,
 *
 *     (address & 0x3ffff) >> 4 | SBO >> 4 << 32 | 1 << 62
 *
 * of B's columns, rows of 128 bytes, of which 16-byte chunk c lies at c ^ row % 8 (the 128-byte
 * swizzle; 8 rows SBO bytes after the 8 before, from a multiple of 1024 on); k16 are 32 bytes of a
 * row. The whole warpgroup calls.
 *
 * Registers that a product reads or writes must not be touched from its wgmma_fence until the wait
 * for its group, but by products that add to the same sums; what else has touched them comes before
 * a fence. wgmma_hold after a wait keeps a compiler, which knows nothing of waits, from moving what
 * a kernel itself does to sums across it. Arrays live as long.
 *
 * Only sm_90a has it: others trap. */
#ifndef NIB_PTX_WGMMA_CUH
#define NIB_PTX_WGMMA_CUH

#include "ptx.cuh"

#ifdef __CUDACC__
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define NIB_HAS_WGMMA 1
#define NIB_SM90A(...) asm volatile(__VA_ARGS__)
#else
#define NIB_HAS_WGMMA 0
#define NIB_SM90A(...) __trap()
#endif

namespace nib_ptx {

__device__ __forceinline__ void wgmma_fence()
{
    NIB_SM90A("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    NIB_SM90A("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most this many of the warpgroup's latest groups are in flight. */
template <int groups> __device__ __forceinline__ void wgmma_wait()
{
    NIB_SM90A("wgmma.wait_group.sync.aligned %0;" :: "n"(groups) : "memory");
}

/* What this thread has written to shared memory is there for the tensor cores too: before the
 * barrier behind which others' wgmma reads it. */
__device__ __forceinline__ void fence_proxy_async()
{
    NIB_SM90A("fence.proxy.async.shared::cta;" ::: "memory");
}

#define NIB_D8(d, i)                                                                        \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
    "+f"(d[i + 6]), "+f"(d[i + 7])
#define NIB_WGMMA(name, type)                                                               \
    __device__ __forceinline__ void name(float (&d)[64], const uint32_t (&a)[4], uint64_t b) \
    {                                                                                       \
        NIB_SM90A("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " "          \
                  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
                  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "  \
                  "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "  \
                  "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "  \
                  "%58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"   \
                  : NIB_D8(d, 0), NIB_D8(d, 8), NIB_D8(d, 16), NIB_D8(d, 24), NIB_D8(d, 32), \
                    NIB_D8(d, 40), NIB_D8(d, 48), NIB_D8(d, 56)                             \
                  : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                    \
    }
__device__ __forceinline__ void wgmma_hold(float (&d)[64])
{
    asm volatile("" : NIB_D8(d, 0), NIB_D8(d, 8), NIB_D8(d, 16), NIB_D8(d, 24), NIB_D8(d, 32),
                      NIB_D8(d, 40), NIB_D8(d, 48), NIB_D8(d, 56) :: "memory");
}

NIB_WGMMA(wgmma_f16_f32, "f16")
NIB_WGMMA(wgmma_bf16_f32, "bf16")
#undef NIB_WGMMA
#undef NIB_D8
#undef NIB_SM90A

} // namespace nib_ptx
#endif

#endif
