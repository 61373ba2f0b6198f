/* golden_kernels.cu: one kernel for each wrapper of ptx.cuh and ptx_wgmma.cuh, named for it, so
 * that the PTX of each can be read by itself; see ptx_golden_test.sh. "want" gives what must stand
 * in it; "want 100f", on targets from that one on, with an f only those of a family or one
 * architecture; "want 90a", on that one
 * alone. */
#include "kernels/cuda/ptx_wgmma.cuh"

#define SHARED_AND_LANE                                            \
    NIB_SHARED_DYNAMIC(smem);                                      \
    unsigned char *const row = smem + 16 * (threadIdx.x % 32)

#define CP_ASYNC(bytes)                                                                   \
    __global__ void golden_cp_async_##bytes(const unsigned char *src)                     \
    {                                                                                     \
        SHARED_AND_LANE;                                                                  \
        nib_ptx::cp_async<bytes>(row, src + 16 * threadIdx.x, threadIdx.x != 3);          \
    }
CP_ASYNC(4)  /* want cp.async.ca.shared.global [%], [%], 4, % */
CP_ASYNC(8)  /* want cp.async.ca.shared.global [%], [%], 8, % */
CP_ASYNC(16) /* want cp.async.cg.shared.global [%], [%], 16, % */

/* want cp.async.commit_group */
__global__ void golden_cp_async_commit() { nib_ptx::cp_async_commit(); }
/* want cp.async.wait_group 1 */
__global__ void golden_cp_async_wait() { nib_ptx::cp_async_wait<1>(); }
/* want cp.async.wait_all */
__global__ void golden_cp_async_wait_all() { nib_ptx::cp_async_wait_all(); }

#define LDMATRIX(name, matrices, transposed)                                     \
    __global__ void golden_ldmatrix_##name(uint32_t *out)                        \
    {                                                                            \
        SHARED_AND_LANE;                                                         \
        uint32_t regs[matrices];                                                 \
        nib_ptx::ldmatrix<matrices, transposed>(regs, row);                      \
        for (int i = 0; i < matrices; i++) out[i * 32 + threadIdx.x] = regs[i];  \
    }
LDMATRIX(x1, 1, false)      /* want ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%}, [%] */
LDMATRIX(x2, 2, false)      /* want ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%, %}, [%] */
LDMATRIX(x4, 4, false)      /* want ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%, %, %, %}, [%] */
LDMATRIX(x1_trans, 1, true) /* want ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%}, [%] */
LDMATRIX(x2_trans, 2, true) /* want ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%, %}, [%] */
/* want ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%, %, %, %}, [%] */
LDMATRIX(x4_trans, 4, true)

#define MMA(name, type, registers)                                                        \
    __global__ void golden_mma_##name(const uint32_t *in, type *out)                      \
    {                                                                                     \
        const uint32_t a[4] = { in[0], in[1], in[2], in[3] }, b[2] = { in[4], in[5] };    \
        type d[registers] = {};                                                           \
        nib_ptx::mma_##name(d, a, b);                                                     \
        for (int i = 0; i < registers; i++) out[i * 32 + threadIdx.x] = d[i];             \
    }
MMA(f16_f32, float, 4)    /* want mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 */
MMA(bf16_f32, float, 4)   /* want mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 */
MMA(f16_f16, uint32_t, 2) /* want mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 */

/* want 90a wgmma.fence.sync.aligned */
__global__ void golden_wgmma_fence() { nib_ptx::wgmma_fence(); }
/* want 90a wgmma.commit_group.sync.aligned */
__global__ void golden_wgmma_commit() { nib_ptx::wgmma_commit(); }
/* want 90a wgmma.wait_group.sync.aligned 1 */
__global__ void golden_wgmma_wait() { nib_ptx::wgmma_wait<1>(); }
/* want 90a fence.proxy.async.shared::cta */
__global__ void golden_fence_proxy_async() { nib_ptx::fence_proxy_async(); }

#define WGMMA(name)                                                                       \
    __global__ void golden_wgmma_##name(const uint32_t *in, float *out, uint64_t desc)    \
    {                                                                                     \
        const uint32_t a[4] = { in[0], in[1], in[2], in[3] };                             \
        float d[64] = {};                                                                 \
        nib_ptx::wgmma_##name(d, a, desc);                                                \
        for (int i = 0; i < 64; i++) out[i * 128 + threadIdx.x] = d[i];                   \
    }
WGMMA(f16_f32)  /* want 90a wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {%, %, %, %, */
WGMMA(bf16_f32) /* want 90a wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%, %, %, %, */

/* want 90 griddepcontrol.launch_dependents */
__global__ void golden_grid_launch_dependents() { nib_ptx::grid_launch_dependents(); }
/* want 90 griddepcontrol.wait */
__global__ void golden_grid_dependency_wait() { nib_ptx::grid_dependency_wait(); }

/* want bar.sync %, % */
__global__ void golden_bar_sync(int id) { nib_ptx::bar_sync(id, 64); }

/* want mbarrier.init.shared.b64 [%], % */
__global__ void golden_mbarrier_init(uint32_t count)
{
    NIB_SHARED(uint64_t, bar, );
    nib_ptx::mbarrier_init(&bar, count);
}
/* want mbarrier.arrive.shared.b64 state, [%] */
__global__ void golden_mbarrier_arrive()
{
    NIB_SHARED(uint64_t, bar, );
    nib_ptx::mbarrier_arrive(&bar);
}
/* want mbarrier.test_wait.parity.shared.b64 p, [%], % */
__global__ void golden_mbarrier_wait(uint32_t parity)
{
    NIB_SHARED(uint64_t, bar, );
    nib_ptx::mbarrier_wait(&bar, parity);
}

/* want atom.global.acq_rel.gpu.add.u32 %, [%], % */
__global__ void golden_atom_add_acq_rel(uint32_t *p) { p[1] = nib_ptx::atom_add_acq_rel(p, 3); }
/* want ld.global.acquire.gpu.u32 %, [%] */
__global__ void golden_ld_acquire(uint32_t *p) { p[1] = nib_ptx::ld_acquire(p); }
/* want st.global.release.gpu.u32 [%], % */
__global__ void golden_st_release(uint32_t *p) { nib_ptx::st_release(p, 3); }
/* want red.global.relaxed.gpu.add.u32 [%], % */
__global__ void golden_red_add_relaxed(uint32_t *p) { nib_ptx::red_add_relaxed(p, 3); }
/* want red.global.relaxed.gpu.max.u32 [%], % */
__global__ void golden_red_max_relaxed(uint32_t *p) { nib_ptx::red_max_relaxed(p, 3); }

/* want 100f cvt.rn.satfinite.e2m1x2.f32 d, %, % */
__global__ void golden_cvt_e2m1x2(float *p, uint32_t *out)
{
    out[0] = nib_ptx::cvt_e2m1x2(p[0], p[1]);
}
/* want 89 cvt.rn.satfinite.e4m3x2.f32 %, %, % */
__global__ void golden_cvt_e4m3x2(float *p, uint32_t *out)
{
    out[0] = nib_ptx::cvt_e4m3x2(p[0], p[1]);
}
/* want 100f cvt.rn.f16x2.e2m1x2 %, b3 */
__global__ void golden_cvt_f16x2_e2m1x2(uint32_t *p)
{
    p[1] = nib_ptx::cvt_f16x2_e2m1x2<3>(p[0]);
}
/* want 89 cvt.rn.f16x2.e4m3x2 %, % */
__global__ void golden_cvt_f16x2_e4m3x2(uint32_t *p) { p[1] = nib_ptx::cvt_f16x2_e4m3x2(p[0]); }
/* want cvt.rn.f16x2.f32 %, %, % */
__global__ void golden_cvt_f16x2(float *p, uint32_t *out)
{
    out[0] = nib_ptx::cvt_f16x2(p[0], p[1]);
}
/* want cvt.rn.bf16x2.f32 %, %, % */
__global__ void golden_cvt_bf16x2(float *p, uint32_t *out)
{
    out[0] = nib_ptx::cvt_bf16x2(p[0], p[1]);
}
/* want cvt.f32.f16 %, % */
__global__ void golden_cvt_f32_f16(uint32_t half, float *out) { *out = nib_ptx::cvt_f32_f16(half); }

/* On targets before sm_86, without the absolute values. */
/* want 86 max.NaN.xorsign.abs.bf16x2 %, %, % */
__global__ void golden_max_abs_bf16x2(uint32_t *p) { p[2] = nib_ptx::max_abs_bf16x2(p[0], p[1]); }
/* want 86 max.NaN.xorsign.abs.f16x2 %, %, % */
__global__ void golden_max_abs_f16x2(uint32_t *p) { p[2] = nib_ptx::max_abs_f16x2(p[0], p[1]); }

/* want max.f16x2 %, %, % */
__global__ void golden_max_f16x2(uint32_t *p) { p[2] = nib_ptx::max_f16x2(p[0], p[1]); }
/* want min.f16x2 %, %, % */
__global__ void golden_min_f16x2(uint32_t *p) { p[2] = nib_ptx::min_f16x2(p[0], p[1]); }
/* want max.bf16x2 %, %, % */
__global__ void golden_max_bf16x2(uint32_t *p) { p[2] = nib_ptx::max_bf16x2(p[0], p[1]); }
/* want min.bf16x2 %, %, % */
__global__ void golden_min_bf16x2(uint32_t *p) { p[2] = nib_ptx::min_bf16x2(p[0], p[1]); }
/* want mul.rn.f16x2 %, %, % */
__global__ void golden_mul_f16x2(uint32_t *p) { p[2] = nib_ptx::mul_f16x2(p[0], p[1]); }
/* want fma.rn.bf16x2 %, %, %, % */
__global__ void golden_fma_bf16x2(uint32_t *p) { p[3] = nib_ptx::fma_bf16x2(p[0], p[1], p[2]); }
/* want set.gt.f16x2.f16x2 %, %, % */
__global__ void golden_above_f16x2(uint32_t *p) { p[2] = nib_ptx::above_f16x2(p[0], p[1]); }
/* want prmt.b32 %, %, %, % */
__global__ void golden_prmt(uint32_t *p) { p[3] = nib_ptx::prmt(p[0], p[1], p[2]); }

#define LD_ONCE(name, type)                                                     \
    __global__ void golden_ld_once_##name(const type *in, type *out)            \
    {                                                                           \
        out[threadIdx.x] = nib_ptx::ld_once(in + threadIdx.x);                  \
    }
LD_ONCE(4, uint32_t) /* want ld.global.nc.L1::no_allocate.b32 %, [%] */
LD_ONCE(8, uint2)    /* want ld.global.nc.L1::no_allocate.v2.b32 {%, %}, [%] */
LD_ONCE(16, uint4)   /* want ld.global.nc.L1::no_allocate.v4.b32 {%, %, %, %}, [%] */

/* Two of 16 bytes on other targets, as above. */
/* want 100 ld.global.nc.L1::no_allocate.v8.b32 {%, %, %, %, %, %, %, %}, [%] */
__global__ void golden_ld_once_32(const nib_ptx::Bytes32 *in, uint32_t *out)
{
#if NIB_HAS_MEM32
    const nib_ptx::Bytes32 v = nib_ptx::ld_once(in);
    *out = v.lo.x + v.hi.w;
#endif
}
/* want 100 st.global.v8.b32 [%], {%, %, %, %, %, %, %, %} */
__global__ void golden_st_32(const uint4 *in, nib_ptx::Bytes32 *out)
{
#if NIB_HAS_MEM32
    const nib_ptx::Bytes32 v = { *in, *in };
    nib_ptx::st_32(out, v);
#endif
}
