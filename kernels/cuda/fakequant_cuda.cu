/* fakequant_cuda.cu: the values that a quantized matrix would have, and gradients through them.
 *
 * fake_e2m1: quantize_e2m1's blocks, whose values a thread makes of its 16 elements without a code;
 * with gradient it makes only the mask, and sees grad_out through it. fake_any: a thread a block,
 * whatever the rules, or by a scale that is given. fake_pass and fake_pass_any: gradients without a
 * look at the source, straight through or by a mask that the forward pass kept.
 *
 * dst may be src, and grad_in grad_out: a thread reads all of its block, its partner's half too,
 * before either writes, by loads that are not read-only.
 */
#include "fakequant_job.cuh"
#include "fakequant_tune.h"
#include "fakequant_values.cuh"
#include "ops_cuda.cuh"
#include "quantize_ways.cuh"

#include <stdio.h>

constexpr int fake_blocks_per_sm(int dtype, int way)
{
    const int is_heavy = dtype == NIB_DT_F32 || way == WAY_DIVIDE || way == WAY_MX_ANY;
    return NIB_FAKE_PER_SM - is_heavy;
}

/* x, out and grad   rows of 16-byte aligned units of 16 elements, all of the same dtype
 * grid              x: units of a row, y: job.turns tiles of blockDim.y rows, one behind the other
 *
 * All threads of a block take every turn of the loop, since lanes exchange amax. */
template <int dtype, int way, bool gradient>
__global__ void __launch_bounds__(NIB_FAKE_THREADS, fake_blocks_per_sm(dtype, way))
fake_e2m1(const __grid_constant__ FakeJob job)
{
    NIB_SHARED(TensorShared, tensor, );
    constexpr bool has_tensor = way == WAY_TE || way == WAY_DIVIDE;
    constexpr int  vectors = Unit<dtype>::words / 4, in_vector = 16 / vectors;
    const unsigned unit = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned k = unit >> job.lane_shift;
    const bool     leads = k << job.lane_shift == unit;
    const unsigned rows = k < (unsigned)job.scale_cols ? (unsigned)job.rows : 0; /* with blocks */
    const unsigned whole_rows = unit < job.whole_units ? rows : 0;
    const unsigned last = (unsigned)job.row_tiles - 1, first = blockIdx.y * job.turns;
    /* The amax pass has left the end of the matrix in L2: begin there. */
    const unsigned tile = job.backward ? last - first : first;
    unsigned       row = tile * blockDim.y + threadIdx.y; /* past either end: no row */
    const int64_t  at = (int64_t)unit * (4 * Unit<dtype>::words);
    const uint8_t *x_rd = job.x + row * job.x_ld + at;
    const uint8_t *grad_rd = job.grad + row * job.grad_ld + at;
    uint8_t       *out_wr = job.out + row * job.out_ld + at;
    uint8_t       *mask_wr = job.mask + row * job.mask_ld + (int64_t)unit * 2;
    nib_tensor_math math = known_math<way, dtype>(job);

    for (unsigned turn = 0; turn < job.turns;
         turn++, row += job.row_step, x_rd += job.x_step, grad_rd += job.grad_step,
                 out_wr += job.out_step, mask_wr += job.mask_step) {
        Unit<dtype> x = {};
        if (row < whole_rows && gradient) x.load(x_rd, job.aligned32);
        if (row < whole_rows && !gradient) x.load_written(x_rd);
        if (has_tensor && turn == 0) share_tensor(job, math.rules, 0, tensor);
        uint32_t most = x.amax();
        if (job.lane_shift) most = max(most, __shfl_xor_sync(~0u, most, 1));
        /* In place, the lane that leads may write what the other has read: a shuffle orders no
         * memory. */
        if (job.lane_shift && !gradient) __syncwarp();
        if (row >= rows) continue;
        if (has_tensor) {
            math.scales.encode = tensor.encode, math.scales.decode = tensor.decode;
            math.folded = tensor.folded, math.denominator = tensor.denominator;
            math.inverse = tensor.inverse;
        }
        const float    amax = Unit<dtype>::amax_value(most);
        float          factor, inverse = 0.0f;
        const uint32_t byte = block_scale<way>(job, math, amax, factor);
        const float    step = block_step<has_tensor>(byte, math.scales.decode);
        const float    limit = nib_block_limit(NIB_EL_E2M1, step);
        bool ordinary = row < whole_rows && most < Unit<dtype>::inf && step <= NIB_F32_MAX;
        if (way == WAY_DIVIDE && !gradient) {
            ordinary = ordinary && nib_quotient_is_exact(dtype, amax, factor);
            inverse = 1.0f / factor;
        }
        if (!ordinary) {
            if (leads) fake_block<PLAIN_USUAL, gradient>(job, math, row, 1, k);
            continue;
        }
        const uint4 *const grad = (const uint4 *)grad_rd;
        uint4 *const       out = (uint4 *)out_wr;
        uint32_t           passes = 0;
        if (gradient || job.mask) passes = fake_passes(x, limit);
        if constexpr (gradient) {
            uint4 v[vectors];
            NIB_UNROLL
            for (int i = 0; i < vectors; i++) v[i] = grad[i];
            NIB_UNROLL
            for (int i = 0; i < vectors; i++) {
                out[i] = fake_keep<16 / in_vector>(v[i], passes >> (i * in_vector));
            }
            continue;
        }
        if (job.mask) mask_wr[0] = (uint8_t)passes, mask_wr[1] = (uint8_t)(passes >> 8);
        constexpr int codes = way == WAY_DIVIDE ? CODES_DIVIDED
                            : way == WAY_MX_ANY ? CODES_ANY : CODES_PLAIN;
        if (codes == CODES_PLAIN && amax * factor < 7.0f) { /* nothing leaves the grid */
            NIB_UNROLL
            for (int i = 0; i < vectors; i++) {
                out[i] = fake_values<codes, false>(x, i * in_vector, factor, inverse, step,
                                                   job.codes_rules);
            }
        } else {
            NIB_UNROLL
            for (int i = 0; i < vectors; i++) {
                out[i] = fake_values<codes, true>(x, i * in_vector, factor, inverse, step,
                                                  job.codes_rules);
            }
        }
    }
}

/* A thread a block, or those of rows that share a scale, whatever the rules. Grid as above, with
 * blocks for units and so many rows for one. */
template <bool gradient>
__global__ void __launch_bounds__(NIB_FAKE_ANY_THREADS, NIB_FAKE_ANY_PER_SM)
fake_any(const __grid_constant__ FakeJob job)
{
    const int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= job.scale_cols) return;
    const nib_tensor_math math = nib_tensor_math_of(&job.rules, tensor_scales(job, job.rules, 0));
    for (unsigned tile = blockIdx.y; tile < job.row_tiles; tile += gridDim.y) {
        const int64_t row = ((int64_t)tile * blockDim.y + threadIdx.y) * job.scale_rows;
        if (row < job.rows) {
            fake_block<PLAIN_ANY, gradient>(job, math, row, tile_rows(job, row), k);
        }
    }
}

/* grad and out of one dtype of size bytes, aligned to 16 in every row. A mask's byte is 8 elements.
 * grid  x: tiles of a row, y: rows, strided */
template <int size, bool masked>
__global__ void __launch_bounds__(NIB_FAKE_PASS_THREADS, NIB_FAKE_PASS_PER_SM)
fake_pass(const __grid_constant__ FakeJob job)
{
    constexpr int count = NIB_FAKE_PASS_VECTORS, in_vector = 16 / size;
    const int64_t vectors = job.cols / in_vector;
    const int64_t first = (int64_t)blockIdx.x * (count * NIB_FAKE_PASS_THREADS) + threadIdx.x;
    for (int64_t row = blockIdx.y; row < job.rows; row += gridDim.y) {
        const uint8_t *const grad = job.grad + row * job.grad_ld;
        const uint8_t *const mask = job.mask + row * job.mask_ld;
        uint8_t *const       out = job.out + row * job.out_ld;
        uint4    v[count];
        uint32_t passes[count];
        NIB_UNROLL
        for (int i = 0; i < count; i++) {
            const int64_t at = first + i * NIB_FAKE_PASS_THREADS;
            if (at < vectors) v[i] = ((const uint4 *)grad)[at];
            if (masked && at < vectors) {
                passes[i] = size == 2 ? mask[at] : mask[at / 2] >> (at % 2 * 4);
            }
        }
        NIB_UNROLL
        for (int i = 0; i < count; i++) {
            const int64_t at = first + i * NIB_FAKE_PASS_THREADS;
            if (at < vectors) {
                ((uint4 *)out)[at] = masked ? fake_keep<size>(v[i], passes[i]) : v[i];
            } else if (at == vectors) {
                for (int64_t c = vectors * in_vector; c < job.cols; c++) {
                    pass_element(job, grad, out, c, !masked || (mask[c / 8] >> (c % 8) & 1));
                }
            }
        }
    }
}

/* Any dtypes and alignment: an element a thread. Grid as above. */
__global__ void __launch_bounds__(NIB_FAKE_PASS_THREADS)
fake_pass_any(const __grid_constant__ FakeJob job)
{
    const int64_t c = (int64_t)blockIdx.x * NIB_FAKE_PASS_THREADS + threadIdx.x;
    if (c >= job.cols) return;
    for (int64_t row = blockIdx.y; row < job.rows; row += gridDim.y) {
        const bool passes = !job.mask || (job.mask[row * job.mask_ld + c / 8] >> (c % 8) & 1);
        pass_element(job, job.grad + row * job.grad_ld, job.out + row * job.out_ld, c, passes);
    }
}

/* ---- launching ---- */

typedef void (*fake_kernel)(FakeJob);

static fake_kernel kernel_of(int dtype, int way, bool gradient)
{
    static const fake_kernel kernels[3][4][2] = {
#define WAY(dtype, way) { fake_e2m1<dtype, way, false>, fake_e2m1<dtype, way, true> }
#define ROW(dtype)                                                                     \
    { WAY(dtype, WAY_TE), WAY(dtype, WAY_DIVIDE), WAY(dtype, WAY_MX), WAY(dtype, WAY_MX_ANY) }
        ROW(NIB_DT_F32), ROW(NIB_DT_F16), ROW(NIB_DT_BF16)
#undef ROW
#undef WAY
    };
    return kernels[dtype][way][gradient];
}

static FakeJob job_of(const nib_matrix *src, const nib_matrix *grad,
                      const nib_fake_request *request, const nib_matrix *out)
{
    FakeJob job = {};
    job.rules = nib_block_rules_of(request->format, &request->quantize.rules,
                                   request->quantize.scale_choice, src ? src->dtype : NIB_F32);
    job.choice = (int)request->quantize.scale_choice;
    job.scale_rows = request->quantize.scale_rows > 1 ? request->quantize.scale_rows : 1;
    job.x_next = 1;
    job.stochastic = request->quantize.rounding == NIB_ROUND_STOCHASTIC;
    job.backward = request->quantize.tensor_amax != nullptr;
    job.round = nib_e8m0_round(&job.rules);
    job.codes_rules = nib_code_rules(&job.rules);
    job.tensor_scale = (float *)request->tensor_scale; /* only read, and so are scales */
    job.scales = (uint8_t *)request->scales;
    job.given = request->scales != nullptr;
    job.swizzled = request->scale_layout == NIB_SCALES_SWIZZLED_128X4;
    job.tensor_amax = request->quantize.tensor_amax;
    job.random = request->quantize.random;
    job.rows = job.padded_rows = out->rows;
    job.cols = out->cols;
    job.scale_cols = job.padded_cols = nib_ceil_div(out->cols, job.rules.block);
    job.count = 1;
    if (src) {
        job.x = (const uint8_t *)src->data;
        job.x_ld = src->ld_elems * fake_size((int)src->dtype);
        job.aligned32 = aligned(job.x, job.x_ld, 0, 32);
    }
    if (grad) {
        job.grad = (const uint8_t *)grad->data;
        job.grad_dtype = (int)grad->dtype;
        job.grad_ld = grad->ld_elems * fake_size(job.grad_dtype);
    }
    job.out = (uint8_t *)out->data;
    job.out_dtype = (int)out->dtype;
    job.out_ld = out->ld_elems * fake_size(job.out_dtype);
    job.mask = request->mask;
    job.mask_ld = request->mask ? request->ld_mask_bytes : 0;
    return job;
}

static bool is_aligned16(const FakeJob *job, bool gradient)
{
    return aligned(job->out, job->out_ld, 0, 16)
        && (!gradient || (aligned(job->grad, job->grad_ld, 0, 16)
                          && job->grad_dtype == job->out_dtype));
}

/* The kernel that takes blocks by 16 elements a thread, if these are such. */
static fake_kernel fast_kernel(const FakeJob *job, bool gradient)
{
    const int  block = job->rules.block, way = way_of(&job->rules);
    const bool is_fast = way >= 0 && job->rules.element == NIB_EL_E2M1
                      && (block == 16 || block == 32) && job->choice == NIB_SC_AMAX
                      && job->scale_rows == 1 && !job->given
                      && (!job->stochastic || gradient) && job->out_dtype == job->rules.source
                      && aligned(job->x, job->x_ld, 0, 16) && is_aligned16(job, gradient)
                      && job->rows <= INT32_MAX && job->cols <= INT32_MAX
                      && job->x_ld <= UINT32_MAX;
    return is_fast ? kernel_of(job->rules.source, way, gradient) : nullptr;
}

/* kernel_rows: that a thread takes at once. */
static void launch_blocks(FakeJob *job, fake_kernel kernel, int64_t kernel_rows, int64_t units,
                          int threads, int turns, cudaStream_t stream)
{
    const int64_t       rows = nib_ceil_div(job->rows, kernel_rows);
    const QuantizeShape shape = shape_over(job, rows, units, threads, turns);
    job->out_step = shape.step * job->out_ld;
    job->grad_step = shape.step * job->grad_ld;
    job->mask_step = shape.step * job->mask_ld;
    NIB_LAUNCH(kernel, shape.grid, shape.block, 0, stream, *job);
}

/* By blocks of src: the forward pass, and the gradient with a mask that nobody kept. */
static nib_status over_blocks(const nib_launch *launch, FakeJob *job, bool gradient)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    if (const fake_kernel kernel = fast_kernel(job, gradient)) {
        job->lane_shift = job->rules.block == 32;
        job->whole_units = (unsigned)(job->cols / job->rules.block) << job->lane_shift;
        launch_blocks(job, kernel, 1, job->scale_cols << job->lane_shift, NIB_FAKE_THREADS,
                      NIB_FAKE_TURNS, stream);
    } else {
        const fake_kernel any = gradient ? fake_any<true> : fake_any<false>;
        job->backward = 0; /* tiles are taken in rising order */
        launch_blocks(job, any, job->scale_rows, job->scale_cols, NIB_FAKE_ANY_THREADS, 1, stream);
    }
    return nib_cuda_end(launch, gradient ? "fake_quantize_backward" : "fake_quantize");
}

/* Gradients one by one. */
static nib_status over_elements(const nib_launch *launch, FakeJob *job)
{
    const int64_t size = fake_size(job->out_dtype), row = job->cols * size;
    const bool    fast = is_aligned16(job, true);
    if (fast && !job->mask && job->grad_ld == row && job->out_ld == row) {
        job->cols *= job->rows, job->rows = 1;
    }
    const int64_t tile = NIB_FAKE_PASS_THREADS * (fast ? NIB_FAKE_PASS_VECTORS * (16 / size) : 1);
    const fake_kernel kernel = !fast ? fake_pass_any
                             : size == 2 ? job->mask ? fake_pass<2, true> : fake_pass<2, false>
                                         : job->mask ? fake_pass<4, true> : fake_pass<4, false>;
    const dim3 grid((unsigned)nib_ceil_div(job->cols, tile),
                    (unsigned)(job->rows < 65535 ? job->rows : 65535));
    NIB_LAUNCH(kernel, grid, NIB_FAKE_PASS_THREADS, 0, (cudaStream_t)launch->stream, *job);
    return nib_cuda_end(launch, "fake_quantize_backward");
}

static nib_status check_rows(const nib_launch *launch, const char *what, const void *p,
                             int64_t rows, int64_t ld, int64_t bytes)
{
    return nib_cuda_pointer(launch, what, p, (rows - 1) * ld + bytes);
}

/* What a kernel will read and write; sees_src: the block scales' sources as well. */
static nib_status check_pointers(const nib_launch *launch, const FakeJob *job, bool gradient,
                                 bool sees_src)
{
    const int64_t rows = job->rows, cols = job->cols;
    if (sees_src) {
        NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_scale", job->tensor_scale, 4));
        NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_amax", job->tensor_amax, 4));
        if (job->stochastic && !gradient) {
            NIB_CUDA_TRY(nib_cuda_pointer(launch, "random", job->random, 16));
        }
        const int64_t tall = job->swizzled ? 128 : 1, wide = job->swizzled ? 4 : 1;
        NIB_CUDA_TRY(nib_cuda_pointer(launch, "scales", job->scales,
                                      nib_ceil_div(rows, tall) * tall
                                          * nib_ceil_div(job->scale_cols, wide) * wide));
        NIB_CUDA_TRY(check_rows(launch, "src", job->x, rows, job->x_ld,
                                cols * fake_size(job->rules.source)));
    }
    NIB_CUDA_TRY(check_rows(launch, "mask", job->mask, rows, job->mask_ld, (cols + 7) / 8));
    NIB_CUDA_TRY(check_rows(launch, "grad_out", job->grad, rows, job->grad_ld,
                            cols * fake_size(job->grad_dtype)));
    return check_rows(launch, gradient ? "grad_in" : "dst", job->out, rows, job->out_ld,
                      cols * fake_size(job->out_dtype));
}

static nib_status check_block(const nib_launch *launch, const FakeJob *job)
{
    if (job->rules.block <= 32) return NIB_OK;
    if (launch->why) {
        snprintf(launch->why, NIB_WHY_BYTES, "blocks of %d elements; a GPU takes 8, 16 and 32",
                 job->rules.block);
    }
    return NIB_ERR_UNSUPPORTED;
}

nib_status nib_cuda_fake_quantize(const nib_launch *launch, const nib_matrix *src,
                                  const nib_fake_request *request, const nib_matrix *dst)
{
    FakeJob job = job_of(src, nullptr, request, dst);
    NIB_CUDA_TRY(check_block(launch, &job));
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_FAKE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launch, &job, false, true));
    return over_blocks(launch, &job, false);
}

nib_status nib_cuda_fake_backward(const nib_launch *launch, const nib_matrix *grad_out,
                                  const nib_matrix *src, const nib_fake_request *request,
                                  const nib_matrix *grad_in)
{
    const bool clamps = request->gradient == NIB_FAKE_CLAMP, sees_src = clamps && !request->mask;
    FakeJob job = job_of(sees_src ? src : nullptr, grad_out, request, grad_in);
    if (!clamps) job.mask = nullptr, job.mask_ld = 0;
    if (sees_src) NIB_CUDA_TRY(check_block(launch, &job));
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_FAKE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launch, &job, true, sees_src));
    return sees_src ? over_blocks(launch, &job, true) : over_elements(launch, &job);
}

cudaError_t nib_cuda_load_fakequant()
{
    cudaFuncAttributes attributes;
    for (int i = 0; i < 3 * 4 * 2; i++) {
        const cudaError_t error = cudaFuncGetAttributes(&attributes,
                                                        kernel_of(i / 8, i / 2 % 4, i % 2));
        if (error != cudaSuccess) return error;
    }
    for (const fake_kernel kernel : { fake_kernel(fake_any<false>), fake_kernel(fake_any<true>),
                                      fake_kernel(fake_pass<2, false>),
                                      fake_kernel(fake_pass<2, true>),
                                      fake_kernel(fake_pass<4, false>),
                                      fake_kernel(fake_pass<4, true>),
                                      fake_kernel(fake_pass_any) }) {
        const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
