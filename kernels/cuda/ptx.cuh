/* ptx.cuh: all PTX of this backend, one wrapper an instruction. Kernels hold no asm.
 *
 * Other compilers take the wrappers of the same names from the <cuda_runtime.h> that stands in for
 * the toolkit's. tests/emu has a conformance test for each, and pins the PTX that nvcc makes of it
 * (tests/ptx_golden_test.sh). Sections named below are of NVIDIA's "Parallel Thread Execution ISA".
 *
 * Fragments of m16n8k16, with g = lane / 4 and q = 2 * (lane % 4); two 16-bit values a register,
 * the lower column (of B: row) in the lower half:
 *
 *   A, 16x16, row-major: register i: row g + 8 * (i & 1), columns q + 8 * (i >> 1), + 1
 *   B, 16x8, col-major:  register i: rows q + 8 * i, + 1, column g
 *   D, 16x8:             (g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1) */
#ifndef NIB_PTX_CUH
#define NIB_PTX_CUH

#include "runtime.cuh"

#ifdef __CUDACC__
namespace nib_ptx {

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* cp.async: starts a copy of 4, 8 or 16 bytes, both sides aligned to that; !valid writes zeros and
 * reads nothing. 16 bytes bypass L1. It is done for this thread after commit and wait, and for
 * others after a barrier too. */
template <int bytes>
__device__ __forceinline__ void cp_async(void *smem_wr, const void *gmem_rd, bool valid = true)
{
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    const int from_src = valid ? bytes : 0;
    if constexpr (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :: "r"(shared_address(smem_wr)), "l"(gmem_rd), "r"(from_src) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     :: "r"(shared_address(smem_wr)), "l"(gmem_rd), "n"(bytes), "r"(from_src)
                     : "memory");
    }
}

__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most this many of the thread's latest groups are in flight. */
template <int groups> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(groups) : "memory");
}

__device__ __forceinline__ void cp_async_wait_all() /* committed or not */
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* ldmatrix: 8x8 matrices of 16-bit values; lane 8 * m + r names row r of matrix m, 16 bytes,
 * aligned to 16. The whole warp calls. regs[m] of a lane: row lane / 4, columns q and q + 1. */
template <int matrices, bool transposed = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&regs)[matrices], const void *row)
{
    static_assert(matrices == 1 || matrices == 2 || matrices == 4, "ldmatrix loads 1, 2 or 4");
    const uint32_t at = shared_address(row);
    if constexpr (matrices == 1 && !transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                     : "=r"(regs[0]) : "r"(at) : "memory");
    } else if constexpr (matrices == 1) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                     : "=r"(regs[0]) : "r"(at) : "memory");
    } else if constexpr (matrices == 2 && !transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(regs[0]), "=r"(regs[1]) : "r"(at) : "memory");
    } else if constexpr (matrices == 2) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(regs[0]), "=r"(regs[1]) : "r"(at) : "memory");
    } else if constexpr (!transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
                     : "r"(at) : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
                     : "r"(at) : "memory");
    }
}

/* mma: d += a * b by the whole warp. */
__device__ __forceinline__ void mma_f16_f32(float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16_f32(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_f16_f16(uint32_t (&d)[2], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 "
                 "{%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* bar.sync: one of 16 barriers of the block, for whole warps; __syncthreads is number 0. */
__device__ __forceinline__ void bar_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

/* mbarrier in shared memory, 8-byte aligned. Others may use it after init and a barrier. */
__device__ __forceinline__ void mbarrier_init(uint64_t *bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;"
                 :: "r"(shared_address(bar)), "r"(count) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t *bar)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}"
                 :: "r"(shared_address(bar)) : "memory");
}

/* Until the phase of this parity is complete; the first phase has parity 0. */
__device__ __forceinline__ void mbarrier_wait(uint64_t *bar, uint32_t parity)
{
    uint32_t complete = 0;
    while (!complete) {
        asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(complete) : "r"(shared_address(bar)), "r"(parity) : "memory");
    }
}

/* Global memory, scope: the GPU. What a thread wrote before a release is seen by whoever read the
 * released value with an acquire; relaxed ones order nothing. */
__device__ __forceinline__ uint32_t atom_add_acq_rel(uint32_t *p, uint32_t value)
{
    uint32_t before;
    asm volatile("atom.global.acq_rel.gpu.add.u32 %0, [%1], %2;"
                 : "=r"(before) : "l"(p), "r"(value) : "memory");
    return before;
}

__device__ __forceinline__ uint32_t ld_acquire(const uint32_t *p)
{
    uint32_t value;
    asm volatile("ld.global.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}

__device__ __forceinline__ void st_release(uint32_t *p, uint32_t value)
{
    asm volatile("st.global.release.gpu.u32 [%0], %1;" :: "l"(p), "r"(value) : "memory");
}

__device__ __forceinline__ void red_add_relaxed(uint32_t *p, uint32_t value)
{
    asm volatile("red.global.relaxed.gpu.add.u32 [%0], %1;" :: "l"(p), "r"(value) : "memory");
}

__device__ __forceinline__ void red_max_relaxed(uint32_t *p, uint32_t value)
{
    asm volatile("red.global.relaxed.gpu.max.u32 [%0], %1;" :: "l"(p), "r"(value) : "memory");
}

} // namespace nib_ptx
#endif

#endif
