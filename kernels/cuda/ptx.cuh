/* ptx.cuh: all PTX of this backend, one wrapper an instruction, but for wgmma's (ptx_wgmma.cuh).
 * Kernels hold no asm.
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

/* Of two kernels in a row on a stream, the second by NIB_LAUNCH_DEPENDENT: the first lets it start
 * once all its blocks have said so or ended; the second waits, before all it does, until the first
 * has ended and what it wrote is there. Before sm_90 neither is needed. */
__device__ __forceinline__ void grid_launch_dependents()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void grid_dependency_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
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

/* ---- conversions: two values a register, the first in the lower half ----
 * Each equals the rule of kernels/common that stands with it, NaN included, for every bit pattern
 * (tests/emu/convert_emu_test.cu). PTX names the upper half's source first (section "cvt").
 *
 * Not every target has each: a kernel asks NIB_HAS_... with #if, in device code, and calls the rule
 * elsewhere; a wrapper without its instruction traps. E2M1 needs a family or architecture specific
 * target (sm_100f, not sm_100), and sm_90a, which defines such a macro as well, has none. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000 \
    && (defined(__CUDA_ARCH_FAMILY_SPECIFIC__) || defined(__CUDA_ARCH_SPECIFIC__))
#define NIB_HAS_CVT_E2M1 1
#else
#define NIB_HAS_CVT_E2M1 0
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
#define NIB_HAS_CVT_E4M3 1
#else
#define NIB_HAS_CVT_E4M3 0
#endif
/* Since PTX ISA 8.8, which came with CUDA 12.9. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000 \
    && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1209
#define NIB_HAS_MEM32 1
#else
#define NIB_HAS_MEM32 0
#endif

/* nib_element_from_f32(E2M1): a byte. */
__device__ __forceinline__ uint32_t cvt_e2m1x2(float lo, float hi)
{
#if NIB_HAS_CVT_E2M1
    uint16_t d;
    asm("{\n.reg .b8 d;\ncvt.rn.satfinite.e2m1x2.f32 d, %2, %1;\nmov.b16 %0, {d, 0};\n}"
        : "=h"(d) : "f"(lo), "f"(hi));
    return d;
#else
    __trap();
    return 0;
#endif
}

/* nib_element_from_f32(E4M3): two bytes. */
__device__ __forceinline__ uint32_t cvt_e4m3x2(float lo, float hi)
{
#if NIB_HAS_CVT_E4M3
    uint16_t d;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %2, %1;" : "=h"(d) : "f"(lo), "f"(hi));
    return d;
#else
    __trap();
    return 0;
#endif
}

/* nib_element_to_f32 of two codes, as f16, which holds every one of them: of the word's byte. */
template <int byte = 0> __device__ __forceinline__ uint32_t cvt_f16x2_e2m1x2(uint32_t codes)
{
#if NIB_HAS_CVT_E2M1
    uint32_t d;
    asm("{\n.reg .b8 b0, b1, b2, b3;\nmov.b32 {b0, b1, b2, b3}, %1;\n"
        "cvt.rn.f16x2.e2m1x2 %0, b%2;\n}"
        : "=r"(d) : "r"(codes), "n"(byte));
    return d;
#else
    __trap();
    return 0;
#endif
}

__device__ __forceinline__ uint32_t cvt_f16x2_e4m3x2(uint32_t codes)
{
#if NIB_HAS_CVT_E4M3
    uint32_t d;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((uint16_t)codes));
    return d;
#else
    __trap();
    return 0;
#endif
}

/* nib_f16_from_f32 and nib_bf16_from_f32; sm_80. */
__device__ __forceinline__ uint32_t cvt_f16x2(float lo, float hi)
{
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(d) : "f"(lo), "f"(hi));
    return d;
}

__device__ __forceinline__ uint32_t cvt_bf16x2(float lo, float hi)
{
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(d) : "f"(lo), "f"(hi));
    return d;
}

/* nib_f16_to_f32 of the lower half; a NaN's payload is the machine's. */
__device__ __forceinline__ float cvt_f32_f16(uint32_t half)
{
    float d;
    asm("cvt.f32.f16 %0, %1;" : "=f"(d) : "h"((uint16_t)half));
    return d;
}

/* The larger of |a| and |b| in each half, NaN if either is one; its sign bits mean nothing. One
 * instruction from sm_86 on: before, magnitudes are made first. */
__device__ __forceinline__ uint32_t max_abs_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t d;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 860
    asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#else
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a & 0x7fff7fffu), "r"(b & 0x7fff7fffu));
#endif
    return d;
}

__device__ __forceinline__ uint32_t max_abs_f16x2(uint32_t a, uint32_t b)
{
    uint32_t d;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 860
    asm("max.NaN.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#else
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a & 0x7fff7fffu), "r"(b & 0x7fff7fffu));
#endif
    return d;
}

/* The larger and the smaller in each half; of a NaN and a number the number, -0 below +0. */
#define NIB_HALVES(name, op)                                                 \
    __device__ __forceinline__ uint32_t name(uint32_t a, uint32_t b)         \
    {                                                                        \
        uint32_t d;                                                          \
        asm(op " %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));                   \
        return d;                                                            \
    }
NIB_HALVES(max_f16x2, "max.f16x2")
NIB_HALVES(min_f16x2, "min.f16x2")
NIB_HALVES(max_bf16x2, "max.bf16x2")
NIB_HALVES(min_bf16x2, "min.bf16x2")
/* Products of halves, nearest even, subnormals kept. */
NIB_HALVES(mul_f16x2, "mul.rn.f16x2")
#undef NIB_HALVES

/* a * b + c in each half, nearest even, rounded once. */
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* sm_80 has no mul.bf16x2: a product plus -0, which changes no product. */
__device__ __forceinline__ uint32_t mul_bf16x2(uint32_t a, uint32_t b)
{
    return fma_bf16x2(a, b, 0x80008000u);
}

/* 1 where a half of a is above b's, as f16, else 0. sm_80 does not compare bf16, but positive ones
 * below 0x7c00 have the order of f16. */
__device__ __forceinline__ uint32_t above_f16x2(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("set.gt.f16x2.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

/* Bytes of b:a by nibbles of s: __byte_perm, which masks bit 3 of them. It is to be 0. */
__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t s)
{
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(s));
    return d;
}

/* ---- global memory that this kernel reads once and no thread of it writes: not kept in L1 ---- */
__device__ __forceinline__ uint32_t ld_once(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

__device__ __forceinline__ uint2 ld_once(const uint2 *p)
{
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.b32 {%0, %1}, [%2];"
                 : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

__device__ __forceinline__ uint4 ld_once(const uint4 *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

/* 32 bytes, aligned to that: one instruction from sm_100 on, two before. */
struct alignas(32) Bytes32 {
    uint4 lo, hi;
};

__device__ __forceinline__ Bytes32 ld_once(const Bytes32 *p)
{
    Bytes32 v;
#if NIB_HAS_MEM32
    asm volatile("ld.global.nc.L1::no_allocate.v8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
                 : "=r"(v.lo.x), "=r"(v.lo.y), "=r"(v.lo.z), "=r"(v.lo.w),
                   "=r"(v.hi.x), "=r"(v.hi.y), "=r"(v.hi.z), "=r"(v.hi.w) : "l"(p));
#else
    v.lo = ld_once(&p->lo);
    v.hi = ld_once(&p->hi);
#endif
    return v;
}

__device__ __forceinline__ void st_32(Bytes32 *p, const Bytes32 &v)
{
#if NIB_HAS_MEM32
    asm volatile("st.global.v8.b32 [%8], {%0, %1, %2, %3, %4, %5, %6, %7};"
                 :: "r"(v.lo.x), "r"(v.lo.y), "r"(v.lo.z), "r"(v.lo.w),
                    "r"(v.hi.x), "r"(v.hi.y), "r"(v.hi.z), "r"(v.hi.w), "l"(p) : "memory");
#else
    *p = v;
#endif
}

} // namespace nib_ptx
#endif

#endif
