/* transform_any.cuh: a row at a time through shared memory, or those that share scales, whatever
 * their format, rules, sizes and alignment. */
#ifndef NIB_TRANSFORM_ANY_CUH
#define NIB_TRANSFORM_ANY_CUH

#include "transform_job.cuh"

/* Element c of a row with its residual. first: as for load_unit. */
__device__ __forceinline__ float any_source(const TransformJob &job, int64_t row, int64_t c,
                                            bool first)
{
    const int dtype = job.rules.source;
    uint8_t *const kept = job.residual_out + row * job.residual_out_ld;
    if (!first && job.residual_out) return nib_load_f32(dtype, kept, c);
    const float x = nib_load_f32(dtype, job.x + row * job.x_ld, c);
    if (!job.residual) return x;
    const float h = nib_add_residual(dtype, x, nib_load_f32(dtype,
                                                            job.residual + row * job.residual_ld,
                                                            c));
    if (first && job.residual_out) nib_store_f32(dtype, kept, c, h);
    return h;
}

/* r of a row, by all threads of a block. v: a chunk's elements; lane: NIB_SUM_LANES. */
__device__ __forceinline__ float any_inverse(const TransformJob &job, int64_t row, float *v,
                                             float *lane)
{
    constexpr int threads = NIB_TRANSFORM_ANY_THREADS, chunk = NIB_TRANSFORM_ANY_CHUNK;
    const int     thread = (int)threadIdx.x;
    __syncthreads(); /* after the last reader of the row before */
    for (int i = thread; i < NIB_SUM_LANES; i += threads) lane[i] = 0.0f;
    for (int64_t col = 0; col < job.cols; col += chunk) {
        const int n = job.cols - col < chunk ? (int)(job.cols - col) : chunk;
        const int units = (n + NIB_UNIT - 1) / NIB_UNIT;
        __syncthreads(); /* after the sums of the chunk before */
        for (int i = thread; i < units * NIB_UNIT; i += threads) {
            v[i] = i < n ? any_source(job, row, col + i, true) : 0.0f;
        }
        __syncthreads();
        for (int u = thread; u < units; u += threads) {
            lane[(col / NIB_UNIT + u) % NIB_SUM_LANES] += nib_sum_sq16(v + u * NIB_UNIT);
        }
    }
    for (int n = 16; n >= 1; n /= 2) {
        __syncthreads();
        for (int i = thread; i < NIB_SUM_LANES / 32 * n; i += threads) {
            const int at = i / n * 32 + i % n;
            lane[at] += lane[at + n];
        }
    }
    for (int n = 16; n >= 1; n /= 2) {
        __syncthreads();
        if (thread < n) lane[32 * thread] += lane[32 * (thread + n)];
    }
    __syncthreads();
    return nib_rms_inverse(lane[0], job.cols, job.eps);
}

__device__ __forceinline__ float any_value(const TransformJob &job, int64_t row, int64_t c, float r)
{
    const int dtype = job.rules.source;
    float     v = any_source(job, row, c, false);
    if (job.op == NIB_TR_RMSNORM) {
        v *= r;
        if (job.weight_kind != WEIGHT_NONE) {
            v *= nib_load_f32(job.weight_kind == WEIGHT_F32 ? NIB_DT_F32 : dtype, job.weight, c);
        }
    } else if (job.op == NIB_TR_SILU_MUL) {
        v = nib_silu(v) * nib_load_f32(dtype, job.y + row * job.y_ld, c);
    }
    return job.signs ? nib_with_sign(v, job.signs[c / 8] >> (c % 8) & 1) : v;
}

/* The rotation of n elements of shared memory but its last product, by all threads of a block. */
__device__ __forceinline__ void any_butterflies(const TransformJob &job, float *v, int n)
{
    for (int d = 1; d < job.hadamard; d *= 2) {
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n / 2; i += NIB_TRANSFORM_ANY_THREADS) {
            const int   at = i / d * (2 * d) + i % d;
            const float a = v[at], b = v[at + d];
            v[at] = a + b;
            v[at + d] = a - b;
        }
    }
}

/* Codes and scales of n values of each of so many rows, one behind the other from v on. Each thread
 * has one row of a block, and finds for itself the scale that the rows share. */
__device__ __forceinline__ void any_codes(const TransformJob &job, const nib_tensor_math &math,
                                          const float *v, int64_t row, int rows, int64_t col, int n)
{
    const int block = job.rules.block, blocks = (n + block - 1) / block;
    for (int i = (int)threadIdx.x; i < blocks * rows; i += NIB_TRANSFORM_ANY_THREADS) {
        const int         r = i / blocks, at = i % blocks * block;
        const int         some = n - at < block ? n - at : block;
        const BlockSource source = { NIB_DT_F32, v + at, 1, n * (int64_t)sizeof *v };
        const ScaledBlock scaled = scaled_source<PLAIN_ANY>(math, source, rows, col + at, some,
                                                            job.choice);
        store_scale(job, 0, row + r, (col + at) / block, scaled.byte);
        quantize_row<PLAIN_ANY>(job, math, scaled, 0, row, r);
    }
}

/* Zeros for the scales of padding beside and below so many rows. */
__device__ __forceinline__ void any_padding(const TransformJob &job, int64_t row, int rows)
{
    for (int r = 0; r < job.scale_rows && row + r < job.padded_rows; r++) {
        for (int64_t k = (r < rows ? job.scale_cols : 0) + threadIdx.x; k < job.padded_cols;
             k += NIB_TRANSFORM_ANY_THREADS) {
            store_scale(job, 0, row + r, k, 0);
        }
    }
}

/* grid: rows, or as many as share scales, strided, with those of the scales' padding */
template <bool quantizes>
__global__ void __launch_bounds__(NIB_TRANSFORM_ANY_THREADS, NIB_TRANSFORM_ANY_PER_SM)
transform_any(const __grid_constant__ TransformJob job)
{
    NIB_SHARED(float, v, [NIB_TRANSFORM_ANY_CHUNK]);
    NIB_SHARED(float, lane, [NIB_SUM_LANES]);
    NIB_SHARED(float, inverse, [16]); /* of each row */
    constexpr int threads = NIB_TRANSFORM_ANY_THREADS;
    const int     thread = (int)threadIdx.x, dtype = job.rules.source;
    const int     tall = quantizes ? job.scale_rows : 1;
    const int     chunk = NIB_TRANSFORM_ANY_CHUNK / tall; /* of a row */
    const nib_tensor_scales scales = quantizes ? tensor_scales(job, job.rules, 0)
                                               : nib_tensor_given(1.0f);
    const nib_tensor_math math = nib_tensor_math_of(&job.rules, scales);
    if (quantizes) store_tensor_scale(job, 0, scales.decode);

    uint32_t largest = 0;
    for (int64_t row = (int64_t)blockIdx.x * tall; row < job.padded_rows;
         row += (int64_t)gridDim.x * tall) {
        const int64_t left = job.rows - row;
        const int     rows = left < tall ? (int)(left > 0 ? left : 0) : tall;
        for (int r = 0; r < rows && job.op == NIB_TR_RMSNORM; r++) {
            const float of_row = any_inverse(job, row + r, v, lane);
            if (thread == 0) inverse[r] = of_row;
        }
        for (int64_t col = 0; col < job.cols && rows > 0; col += chunk) {
            const int n = job.cols - col < chunk ? (int)(job.cols - col) : chunk;
            __syncthreads(); /* after the last reader of the chunk before */
            for (int r = 0; r < rows; r++) {
                const float of_row = job.op == NIB_TR_RMSNORM ? inverse[r] : 1.0f;
                for (int i = thread; i < n; i += threads) {
                    v[r * n + i] = any_value(job, row + r, col + i, of_row);
                }
            }
            if (job.hadamard) any_butterflies(job, v, rows * n);
            __syncthreads();
            for (int i = thread; i < rows * n; i += threads) {
                const float x = job.hadamard ? v[i] * nib_hadamard_scale(job.hadamard) : v[i];
                if (!quantizes) {
                    nib_store_f32(job.out_dtype, job.out + row * job.out_ld, col + i, x);
                }
                v[i] = nib_round_to_dtype(dtype, x);
                const uint32_t bits = nib_magnitude_bits(v[i]);
                if (bits < NIB_F32_INF_BITS) largest = max(largest, bits);
            }
            if (!quantizes) continue;
            __syncthreads();
            any_codes(job, math, v, row, rows, col, n);
        }
        if (quantizes) any_padding(job, row, rows);
    }
    if (job.amax) raise_amax(job, largest);
}

#endif
