/* quantize_cuda.cu: plain matrices to packed ones. The fast kernel is quantize_e2m1.cuh's; all else
 * is quantize_any's: other elements, all scales searched, GGUF's order, rows that are not aligned.
 */
#include "ops_cuda.cuh"
#include "quantize_e2m1.cuh"

#include <stdio.h>

/* A thread a block, or those of rows that share a scale, whatever the rules. Grid as for
 * quantize_e2m1, with blocks for units and so many rows for one. */
__global__ void __launch_bounds__(NIB_QUANTIZE_ANY_THREADS, NIB_QUANTIZE_ANY_PER_SM)
quantize_any(const __grid_constant__ QuantizeJob job)
{
    const int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t z = blockIdx.z; z < job.count; z += gridDim.z) { /* 2^32 of them and more */
        const nib_tensor_math math = nib_tensor_math_of(&job.rules,
                                                        tensor_scales(job, job.rules, z));
        store_tensor_scale(job, z, math.scales.decode);
        for (unsigned tile = blockIdx.y; tile < job.row_tiles; tile += gridDim.y) {
            const int64_t row = ((int64_t)tile * blockDim.y + threadIdx.y) * job.scale_rows;
            const int     rows = k < job.scale_cols ? tile_rows(job, row) : 0;
            if (rows > 0) quantize_block<PLAIN_ANY>(job, math, z, row, rows, k, job.choice);
            for (int64_t r = row + (rows > 0 ? rows : 0);
                 r < row + job.scale_rows && r < job.padded_rows && k < job.padded_cols
                 && !job.given; r++) {
                store_scale(job, z, r, k, 0);
            }
        }
    }
}

/* Matrices without elements still have a tensor scale. */
__global__ void quantize_tensor_scales(const __grid_constant__ QuantizeJob job)
{
    const int64_t last = job.tensor_stride ? job.count : 1;
    for (int64_t z = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; z < last;
         z += (int64_t)gridDim.x * blockDim.x) {
        job.tensor_scale[z * job.tensor_stride] = tensor_scales(job, job.rules, z).decode;
    }
}

/* ---- launching ---- */

static quantize_kernel kernel_of(int kind, int dtype, int way)
{
    static const quantize_kernel kernels[3][4] = {
#define KERNEL(dtype, way) quantize_e2m1<dtype, way, KIND_AMAX>
#define ROW(dtype)                                                                     \
    { KERNEL(dtype, WAY_TE), KERNEL(dtype, WAY_DIVIDE), KERNEL(dtype, WAY_MX),         \
      KERNEL(dtype, WAY_MX_ANY) }
        ROW(NIB_DT_F32), ROW(NIB_DT_F16), ROW(NIB_DT_BF16)
#undef ROW
#undef KERNEL
    };
    return kind == KIND_AMAX ? kernels[dtype][way] : nib_cuda_quantize_kind(kind, dtype, way);
}

QuantizeJob nib_cuda_quantize_job(const nib_batch *batch, const nib_matrix *src,
                                  const nib_quantize_request *request, const nib_packed *dst,
                                  bool transposed)
{
    const int64_t size = src->dtype == NIB_F32 ? 4 : 2;
    QuantizeJob   job = {};
    job.rules = nib_block_rules_of(dst->format, &request->rules, request->scale_choice,
                                   src->dtype);
    job.choice = (int)request->scale_choice;
    job.stochastic = request->rounding == NIB_ROUND_STOCHASTIC;
    job.bits = nib_part_bits(dst->format);
    job.halves = dst->code_order == NIB_CODES_GGUF_HALVES;
    job.swizzled = dst->scale_layout == NIB_SCALES_SWIZZLED_128X4;
    job.lane_shift = 0;
    job.scale_rows = request->scale_rows > 1 ? request->scale_rows : 1;
    job.given = request->given;
    job.backward = request->tensor_amax != nullptr;
    job.round = nib_e8m0_round(&job.rules);
    job.codes_rules = nib_code_rules(&job.rules);
    job.x = (const uint8_t *)src->data;
    job.codes = dst->codes;
    job.scales = dst->scales;
    job.tensor_scale = dst->tensor_scale;
    job.tensor_amax = request->tensor_amax;
    job.random = request->random;
    job.rows = job.padded_rows = dst->rows;
    job.cols = dst->cols;
    job.scale_cols = job.padded_cols = nib_ceil_div(dst->cols, job.rules.block);
    if (job.swizzled) {
        job.padded_rows = nib_ceil_div(job.rows, 128) * 128;
        job.padded_cols = nib_ceil_div(job.scale_cols, 4) * 4;
    }
    job.x_ld = transposed ? size : src->ld_elems * size;
    job.x_next = transposed ? src->ld_elems : 1;
    job.codes_ld = dst->ld_codes_bytes;
    job.count = batch->count;
    job.x_stride = batch->count > 1 ? batch->matrix_stride_elems * size : 0;
    job.codes_stride = batch->count > 1 ? batch->codes_stride_bytes : 0;
    job.scales_stride = batch->count > 1 ? batch->scales_stride_bytes : 0;
    job.tensor_stride = batch->tensor_stride;
    job.aligned32 = aligned(job.x, job.x_ld, job.x_stride, 32);
    return job;
}

bool nib_cuda_quantize_has(const nib_launch *launch, const QuantizeJob *job)
{
    if (job->rules.block <= 32) return true;
    if (launch->why) {
        snprintf(launch->why, NIB_WHY_BYTES, "blocks of %d elements; a GPU takes 8, 16 and 32",
                 job->rules.block);
    }
    return false;
}

/* The fast kernel's kind for a job, or -1. */
static int kind_of(const QuantizeJob *job)
{
    const bool by_amax = job->choice == NIB_SC_AMAX;
    if (job->given) return job->stochastic ? -1 : KIND_GIVEN;
    if (job->scale_rows > 1) return by_amax && !job->stochastic ? KIND_SQUARE : -1;
    if (job->stochastic) return by_amax && job->cols % 4 == 0 ? KIND_RANDOM : -1;
    switch (job->choice) {
    case NIB_SC_AMAX:   return KIND_AMAX;
    case NIB_SC_MSE:    return KIND_MSE;
    case NIB_SC_46_MSE: return KIND_FOUR_OVER_SIX_MSE;
    case NIB_SC_46_MAE: return KIND_FOUR_OVER_SIX_MAE;
    }
    return -1;
}

/* Whether quantize_e2m1 does it, by which kernel. */
static quantize_kernel fast_kernel(const QuantizeJob *job)
{
    const int block = job->rules.block;
    const int way = way_of(&job->rules), kind = kind_of(job);
    const bool is_fast = way >= 0 && kind >= 0 && job->rules.element == NIB_EL_E2M1
                      && (block == 16 || block == 32) && !job->halves
                      && aligned(job->x, job->x_ld, job->x_stride, 16)
                      && aligned(job->codes, job->codes_ld, job->codes_stride, 8)
                      && job->padded_rows <= INT32_MAX && job->cols <= INT32_MAX
                      && job->count <= INT32_MAX && job->x_ld <= UINT32_MAX
                      && job->codes_ld <= UINT32_MAX; /* it counts in 32 bits */
    return is_fast ? kernel_of(kind, job->rules.source, way) : nullptr;
}

static void launch_over(QuantizeJob *job, quantize_kernel kernel, const QuantizeShape &shape,
                        cudaStream_t stream)
{
    job->codes_step = shape.step * job->codes_ld;
    job->scales_step = job->swizzled ? 0 : shape.step * job->scale_cols;
    NIB_LAUNCH(kernel, shape.grid, shape.block, 0, stream, *job);
}

/* As launch_over, with the fast kernel's grid. */
static void launch_fast(QuantizeJob *job, quantize_kernel kernel, cudaStream_t stream)
{
    job->lane_shift = job->rules.block == 32;
    job->whole_units = (unsigned)(job->cols / job->rules.block) << job->lane_shift;
    const int64_t units = job->padded_cols << job->lane_shift;
    const QuantizeShape square = { dim3(), dim3(32, NIB_QUANTIZE_THREADS / 32), 0 };
    launch_over(job, kernel,
                job->scale_rows > 1
                    ? grid_over(job, square, job->padded_rows, units, NIB_SQUARE_WIDTH,
                                NIB_SQUARE_HEIGHT, NIB_QUANTIZE_TURNS)
                    : shape_over(job, job->padded_rows, units, NIB_QUANTIZE_THREADS,
                                 NIB_QUANTIZE_TURNS),
                stream);
}

nib_status nib_cuda_quantize_check(const nib_launch *launch, const QuantizeJob *job)
{
    const int64_t last = job->count - 1, row = job->rows - 1;
    const int64_t size = job->rules.source == NIB_DT_F32 ? 4 : 2;
    const int64_t tensors = job->tensor_stride ? job->count : 1;
    if (!launch->debug) return NIB_OK;
    if (job->tensor_scale) {
        NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_scale", job->tensor_scale,
                                      tensors * 4));
    }
    if (job->tensor_amax) {
        NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_amax", job->tensor_amax,
                                      tensors * 4));
    }
    if (job->rows == 0 || job->cols == 0) return NIB_OK;
    if (job->stochastic) {
        NIB_CUDA_TRY(nib_cuda_pointer(launch, "random", job->random, 16));
    }
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "src", job->x,
                                  last * job->x_stride + row * job->x_ld
                                      + ((job->cols - 1) * job->x_next + 1) * size));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "codes", job->codes,
                                  last * job->codes_stride + row * job->codes_ld
                                      + nib_code_bytes(job->bits, job->cols)));
    return nib_cuda_pointer(launch, "scales", job->scales,
                            last * job->scales_stride + job->padded_rows * job->padded_cols);
}

void nib_cuda_quantize_launch(QuantizeJob *job, cudaStream_t stream)
{
    const quantize_kernel kernel = job->x_next == 1 ? fast_kernel(job) : nullptr;
    if (job->rows == 0 || job->cols == 0) {
        if (job->tensor_amax) NIB_LAUNCH(quantize_tensor_scales, 1, 128, 0, stream, *job);
    } else if (kernel) {
        launch_fast(job, kernel, stream);
    } else {
        const int64_t rows = nib_ceil_div(job->padded_rows, job->scale_rows);
        launch_over(job, quantize_any,
                    shape_over(job, rows, job->padded_cols, NIB_QUANTIZE_ANY_THREADS, 1), stream);
    }
}

nib_status nib_cuda_quantize(const nib_launch *launch, const nib_batch *batch,
                             const nib_matrix *src, const nib_quantize_request *request,
                             const nib_packed *dst)
{
    QuantizeJob job = nib_cuda_quantize_job(batch, src, request, dst, false);
    if (!nib_cuda_quantize_has(launch, &job)) return NIB_ERR_UNSUPPORTED;
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_QUANTIZE));
    NIB_CUDA_TRY(nib_cuda_quantize_check(launch, &job));
    nib_cuda_quantize_launch(&job, (cudaStream_t)launch->stream);
    return nib_cuda_end(launch, "quantize");
}

cudaError_t nib_cuda_load_quantize()
{
    cudaFuncAttributes attributes;
    for (int dtype = NIB_DT_F32; dtype <= NIB_DT_BF16; dtype++) {
        for (int way = WAY_TE; way <= WAY_MX_ANY; way++) {
            for (int kind = KIND_AMAX; kind < KINDS; kind++) {
                const quantize_kernel kernel = kernel_of(kind, dtype, way);
                if (!kernel) continue;
                const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
                if (error != cudaSuccess) return error;
            }
        }
    }
    const cudaError_t error = cudaFuncGetAttributes(&attributes, quantize_any);
    return error != cudaSuccess ? error
                                : cudaFuncGetAttributes(&attributes, quantize_tensor_scales);
}
