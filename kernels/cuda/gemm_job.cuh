/* gemm_job.cuh: what the kernels of gemm.h share: their arguments, and what ends a product.
 *
 *     x = factor * t * alpha * sum                 in f32, t by nib_tensor_given
 *     D = act(x + bias) [* (x' + bias')] + residual
 *
 * Rows of weights are called n, rows of activations m, as everywhere; a gated pack's row n is the
 * packed one (kernels/common/gemm_layout.h), of which 16 * i + g and 16 * i + 8 + g are a pair. */
#ifndef NIB_GEMM_JOB_CUH
#define NIB_GEMM_JOB_CUH

#include "kernels/common/gemm_layout.h"
#include "kernels/packed.h"
#include "ops_cuda.cuh"
#include "ptx.cuh"

struct GemmJob {
    const uint16_t *a;        /* m x k, rows a_ld apart, 16-byte aligned */
    const uint8_t  *codes, *scales;
    const float    *alpha, *tensor_scale; /* or NULL: 1 */
    const void     *bias, *residual;      /* or NULL; of d's dtype */
    void           *d;
    float          *partials; /* splits x m x partial_ld sums, if splits > 1 */
    int64_t         a_ld, d_ld, residual_ld, partial_ld; /* elements */
    int64_t         m, n, k;  /* n: packed rows without padding; d has n, gated n / 2, columns */
    int64_t         ld_tiles, stripes, units; /* of 64 rows, of 64 columns: whole tiles */
    int32_t         block;    /* 16 or 32 */
    int32_t         splits;   /* of units, each beginning at split * units / splits */
    int32_t         chunk_units; /* F16 sums: units until they are added in f32 */
    int32_t         d_dtype, act, gated;
    float           factor;   /* 2^14 or so: what the decoded weights lack */
};

/* What a chunk of weights is decoded to, as template arguments. */
enum { GEMM_E4M3, GEMM_E8M0 };

__device__ __forceinline__ float gemm_element(int dtype, const void *p, int64_t i)
{
    if (dtype == NIB_DT_F32) return ((const float *)p)[i];
    const uint32_t bits = ((const uint16_t *)p)[i];
    return dtype == NIB_DT_F16 ? nib_ptx::cvt_f32_f16(bits) : nib_float_of(bits << 16);
}

__device__ __forceinline__ void gemm_store(int dtype, void *p, int64_t i, float x)
{
    if (dtype == NIB_DT_F32) {
        ((float *)p)[i] = x;
    } else {
        ((uint16_t *)p)[i] = (uint16_t)(dtype == NIB_DT_F16 ? nib_ptx::cvt_f16x2(x, 0.0f)
                                                            : nib_ptx::cvt_bf16x2(x, 0.0f));
    }
}

/* Elements i .. i + 7, i a multiple of 8, from 16-byte aligned x: D's rows are aligned too. */
__device__ __forceinline__ void gemm_store_8(int dtype, void *p, int64_t i, const float *x)
{
    const float4 lo = *(const float4 *)x, hi = *(const float4 *)(x + 4);
    if (dtype == NIB_DT_F32) {
        float4 *const to = (float4 *)((float *)p + i);
        to[0] = lo, to[1] = hi;
    } else if (dtype == NIB_DT_F16) {
        *(uint4 *)((uint16_t *)p + i) = make_uint4(
            nib_ptx::cvt_f16x2(lo.x, lo.y), nib_ptx::cvt_f16x2(lo.z, lo.w),
            nib_ptx::cvt_f16x2(hi.x, hi.y), nib_ptx::cvt_f16x2(hi.z, hi.w));
    } else {
        *(uint4 *)((uint16_t *)p + i) = make_uint4(
            nib_ptx::cvt_bf16x2(lo.x, lo.y), nib_ptx::cvt_bf16x2(lo.z, lo.w),
            nib_ptx::cvt_bf16x2(hi.x, hi.y), nib_ptx::cvt_bf16x2(hi.z, hi.w));
    }
}

__device__ __forceinline__ float gemm_act(int act, float x)
{
    switch (act) {
    case NIB_GEMM_ACT_RELU: return x < 0.0f ? 0.0f : x;
    case NIB_GEMM_ACT_GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case NIB_GEMM_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case NIB_GEMM_ACT_SILU: return x / (1.0f + expf(-x));
    }
    return x;
}

/* The factor before the sum; one load each, the same for all threads. Its parts are multiplied
 * in this order, so that 2^14 * t cannot overflow before a small alpha. */
__device__ __forceinline__ float gemm_factor(const GemmJob &job)
{
    const float t = job.tensor_scale ? nib_tensor_given(*job.tensor_scale).decode : 1.0f;
    return job.alpha ? *job.alpha * t : t;
}

/* Element (m, column) of D, from the sum, of a gated product from both. scale: gemm_factor's. */
__device__ __forceinline__ float gemm_value(const GemmJob &job, float scale, int64_t m,
                                            int64_t column, float sum, float sum_up)
{
    float x = job.factor * sum * scale;
    if (job.bias) x += gemm_element(job.d_dtype, job.bias, column);
    x = gemm_act(job.act, x);
    if (job.gated) {
        float up = job.factor * sum_up * scale;
        if (job.bias) up += gemm_element(job.d_dtype, job.bias, job.n / 2 + column);
        x *= up;
    }
    if (job.residual) x += gemm_element(job.d_dtype, job.residual, m * job.residual_ld + column);
    return x;
}

__device__ __forceinline__ void gemm_finish(const GemmJob &job, float scale, int64_t m,
                                            int64_t column, float sum, float sum_up)
{
    gemm_store(job.d_dtype, job.d, m * job.d_ld + column,
               gemm_value(job, scale, m, column, sum, sum_up));
}

/* Packed row n of token m is done, n + 8 too if gated, where n is the gate's: see gemm_finish. */
__device__ __forceinline__ bool gemm_is_column(const GemmJob &job, int64_t n, int64_t *column)
{
    *column = job.gated ? n / 16 * 8 + n % 8 : n;
    return n < job.n && !(job.gated && n & 8);
}

/* Adds the partial sums of each split in order, then as gemm_finish. gemm_cuda.cu */
void nib_cuda_gemm_reduce(const GemmJob &job, cudaStream_t stream);

/* Launchers, a file each. dtype: NIB_DT_F16 or BF16 of the activations. job.splits and partials are
 * set. small: tokens 8 or 16; tile: tokens 32 or 64 of a CTA; wgmma: layout SM80, f32 sums, a
 * GPU and an image of sm_90a, and 128 tokens. */
void nib_cuda_gemm_small(const GemmJob &job, int layout, int dtype, int scale, bool f16_sums,
                         int tokens, cudaStream_t stream);
void nib_cuda_gemm_tile(const GemmJob &job, int layout, int dtype, int scale, bool f16_sums,
                        int tokens, cudaStream_t stream);
void nib_cuda_gemm_wgmma(const GemmJob &job, int dtype, int scale, cudaStream_t stream);

/* Dequantize to scratch, then cublasLt. gemm_exact_cuda.cu; why_not: NULL if it can be had. */
const char *nib_cuda_gemm_exact_why_not(const nib_device_info *info);
size_t      nib_cuda_gemm_exact_need(const nib_gemm_options *o, const nib_device_info *info,
                                     int64_t m, bool backward);
nib_status  nib_cuda_gemm_exact(const nib_launch *launch, const nib_gemm_request *request,
                                const GemmJob &job);
nib_status  nib_cuda_gemm_exact_backward(const nib_launch *launch,
                                         const nib_gemm_request *request, const GemmJob &job);

#endif
