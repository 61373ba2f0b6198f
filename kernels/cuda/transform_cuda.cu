/* transform_cuda.cu: RMSNorm, silu * y and rotations, stored or quantized in the same pass.
 *
 * transform_e2m1: a thread takes 16 elements of a row, in registers from the load to the codes. A
 * rotation of 16 is a thread's own, longer ones are exchanged by the lanes that have their parts.
 * norm_e2m1: the same after RMSNorm, whose threads hold four such units of a row until its sum is
 * known. transform_any: everything else, a row at a time, or rows that share scales.
 */
#include "ops_cuda.cuh"
#include "transform_any.cuh"
#include "transform_norm.cuh"

#include <stdio.h>

static_assert(NIB_TR_NONE == (int)NIB_TRANSFORM_NONE && NIB_TR_RMSNORM == (int)NIB_TRANSFORM_RMSNORM
              && NIB_TR_SILU_MUL == (int)NIB_TRANSFORM_SILU_MUL, "transforms");

constexpr int transform_per_sm(int dtype) { return dtype == NIB_DT_F32 ? 3 : 4; }

/* All matrices: rows of 16-byte aligned units of 16 elements, in whole blocks; weights as well.
 * grid   job.turns tiles of blockDim.y rows, one behind the other
 * block  x: units of a row, strided; a power of two
 *
 * All threads of a block take every turn of the loops, since lanes exchange elements. Those without
 * a unit of their own do another one again and store nothing; warps without any skip it. */
template <int dtype, int op, int way>
__global__ void __launch_bounds__(NIB_TRANSFORM_THREADS, transform_per_sm(dtype))
transform_e2m1(const __grid_constant__ TransformJob job)
{
    NIB_SHARED(TensorShared, tensor, );
    NIB_SHARED(FactorTable, factors, );
    constexpr bool quantizes = way != WAY_APPLY, has_tensor = way == WAY_TE;
    constexpr bool folds = quantizes && op == NIB_TR_NONE; /* products of rotations */
    nib_tensor_math math = known_math<quantizes ? way : WAY_MX, dtype>(job);
    const unsigned k0 = threadIdx.x >> job.lane_shift;
    const bool     leads = (threadIdx.x & (unsigned)job.lane_shift) == 0; /* of 1 or 2 lanes */
    const auto     factor_of = [&](uint32_t byte) {
        return has_tensor ? factors.of_byte[byte] : block_factor<WAY_MX>(math, byte);
    };
    const auto share = [&] {
        share_tensor(job, math.rules, 0, tensor);
        use_tensor(math, tensor);
        share_factors<WAY_TE>(math, factors);
    };
    float largest = 0.0f;

    unsigned       row = blockIdx.x * job.turns * blockDim.y + threadIdx.y;
    const uint8_t *next_x = job.x + row * job.x_ld;
    uint8_t       *out_row = quantizes ? job.codes + row * job.codes_ld
                                       : job.out + row * job.out_ld;
    for (unsigned turn = 0; turn < job.turns;
         turn++, row += blockDim.y, next_x += job.x_step, out_row += job.codes_step) {
        const bool     has_row = row < (unsigned)job.rows;
        const unsigned units = has_row ? job.units : 0, row_rd = has_row ? row : 0;
        const uint8_t *const x_row = has_row ? next_x : job.x;
        uint8_t *scale_wr = job.scales + scale_index(job, quantizes ? row : 0, 0)
                          + scale_column(job, k0);
        for (unsigned base = 0; base < job.padded_units;
             base += blockDim.x, scale_wr += job.scales_step) {
            const unsigned unit = base + threadIdx.x, unit_rd = min(unit, job.units - 1);
            const bool     present = unit < units;
            Unit<dtype>    x;
            load_unit<dtype, op>(job, x_row, row_rd, unit, false, present, x);
            if (has_tensor && turn == 0 && base == 0) share();
            if ((unit & ~31u) >= job.padded_units) continue; /* a warp without any */
            float v[NIB_UNIT];
            values_of(x, v);
            if constexpr (op == NIB_TR_SILU_MUL) apply_silu<dtype>(job, row_rd, unit_rd, v);
            if (job.hadamard) {
                rotate_unit(job, unit_rd, v);
                if (!folds || job.fold == 1.0f) scale_unit(job.rotation_scale, v);
            }
            Unit<dtype> t = rounded_unit<dtype>(v);
            if constexpr (quantizes) {
                const auto unfold = [&] {
                    float w[NIB_UNIT];
                    NIB_UNROLL
                    for (int j = 0; j < NIB_UNIT; j++) w[j] = v[j] * job.fold;
                    return rounded_unit<dtype>(w);
                };
                quantize_folded<dtype, way, folds, false>(
                    job, math, factor_of, t, job.fold, unfold, present, leads, scale_wr,
                    out_row + (int64_t)unit * 8, largest);
                if (present) continue;
                if (leads && row < (unsigned)job.padded_rows && unit < job.padded_units) {
                    *scale_wr = 0;
                }
            } else if (present) {
                store_unit(out_row + (int64_t)unit * (4 * Unit<dtype>::words), t);
                if (job.amax) {
                    largest = fmaxf(largest, Unit<dtype>::amax_value(finite_amax(t)));
                }
            }
        }
    }
    if (job.amax) raise_amax(job, nib_bits_of(largest));
}

/* ---- launching ---- */

typedef void (*transform_kernel)(TransformJob);

/* Kinds: no op, silu, RMSNorm of whole rows, and any RMSNorm. */
enum { TRANSFORM_KINDS = 4, TRANSFORM_WAYS = 3 };

static transform_kernel kernel_of(int dtype, int kind, int way)
{
    static const transform_kernel kernels[3][TRANSFORM_KINDS][TRANSFORM_WAYS] = {
#define OP(dtype, op)                                                                  \
    { transform_e2m1<dtype, op, WAY_APPLY>, transform_e2m1<dtype, op, WAY_TE>,         \
      transform_e2m1<dtype, op, WAY_MX> }
#define NORM(dtype, any)                                                               \
    { norm_e2m1<dtype, WAY_APPLY, any>, norm_e2m1<dtype, WAY_TE, any>,                 \
      norm_e2m1<dtype, WAY_MX, any> }
#define ROW(dtype)                                                                     \
    { OP(dtype, NIB_TR_NONE), OP(dtype, NIB_TR_SILU_MUL), NORM(dtype, false),          \
      NORM(dtype, true) }
        ROW(NIB_DT_F32), ROW(NIB_DT_F16), ROW(NIB_DT_BF16)
#undef ROW
#undef NORM
#undef OP
    };
    return kernels[dtype][kind][way == WAY_APPLY ? 0 : way == WAY_TE ? 1 : 2];
}

static int64_t size_of(int dtype) { return dtype == NIB_DT_F32 ? 4 : 2; }

static TransformJob job_of(const nib_transform *t, const nib_matrix *src)
{
    const int64_t size = size_of((int)src->dtype);
    TransformJob  job = {};
    job.rules.source = (int)src->dtype;
    job.op = (int)t->op;
    job.hadamard = t->hadamard;
    job.exchanges = t->hadamard / NIB_UNIT;
    job.rotation_scale = nib_hadamard_scale(t->hadamard);
    job.fold = t->hadamard == 16 || t->hadamard == 64 ? job.rotation_scale : 1.0f;
    job.eps = t->eps;
    job.weight = (const uint8_t *)t->weight;
    job.weight_kind = !t->weight ? WEIGHT_NONE
                    : t->weight_dtype == src->dtype ? WEIGHT_AS_SOURCE : WEIGHT_F32;
    job.signs = t->signs;
    job.amax = t->amax;
    job.x = (const uint8_t *)src->data;
    job.x_ld = src->ld_elems * size;
    job.rows = job.padded_rows = src->rows;
    job.cols = src->cols;
    job.aligned32 = aligned(job.x, job.x_ld, 0, 32);
    job.has_residual = t->residual != NULL;
    if (t->residual) {
        job.residual = (const uint8_t *)t->residual->data;
        job.residual_ld = t->residual->ld_elems * size;
    }
    if (t->residual_out) {
        job.residual_out = (uint8_t *)t->residual_out->data;
        job.residual_out_ld = t->residual_out->ld_elems * size;
    }
    if (t->y) {
        job.y = (const uint8_t *)t->y->data;
        job.y_ld = t->y->ld_elems * size;
    }
    return job;
}

/* Whether transform_e2m1's loads and stores fit these matrices; codes are its way's business. */
static bool has_whole_units(const TransformJob *job)
{
    return job->cols > 0 && job->cols % NIB_UNIT == 0 && job->cols <= INT32_MAX
        && job->padded_rows <= INT32_MAX && aligned(job->x, job->x_ld, 0, 16)
        && aligned(job->weight, 0, 0, 16) && aligned(job->residual, job->residual_ld, 0, 16)
        && aligned(job->residual_out, job->residual_out_ld, 0, 16)
        && aligned(job->y, job->y_ld, 0, 16) && aligned(job->out, job->out_ld, 0, 16);
}

/* held: units of a thread at a time. */
static void launch_by(transform_kernel kernel, TransformJob *job, unsigned held, unsigned most,
                      cudaStream_t stream)
{
    unsigned width = NIB_TRANSFORM_MIN_WIDTH;
    while (width < most && held * width < job->padded_units) width *= 2;
    const unsigned height = width < NIB_TRANSFORM_THREADS ? NIB_TRANSFORM_THREADS / width : 1;
    const int64_t  tiles = nib_ceil_div(job->padded_rows, height);
    job->turns = NIB_TRANSFORM_TURNS;
    while (job->turns > 1 && tiles / job->turns < NIB_TRANSFORM_ENOUGH_BLOCKS) job->turns /= 2;
    job->x_step = height * job->x_ld;
    job->scales_step = scale_column(*job, width >> job->lane_shift);
    job->codes_step = height * (job->codes ? job->codes_ld : job->out_ld);
    NIB_LAUNCH(kernel, (unsigned)nib_ceil_div(tiles, job->turns), dim3(width, height), 0, stream,
               *job);
}

static void launch_units(TransformJob *job, int way, cudaStream_t stream)
{
    const bool is_norm = job->op == NIB_TR_RMSNORM;
    job->units = (unsigned)(job->cols / NIB_UNIT);
    const int  dtype = job->rules.source;
    const bool any = job->hadamard || job->units > NIB_NORM_HELD * NIB_TRANSFORM_THREADS;
    const int  kind = is_norm ? 2 + any : job->op == NIB_TR_SILU_MUL;
    job->shares_weight = job->weight_kind != WEIGHT_NONE && job->units <= NIB_NORM_WEIGHT_UNITS;
    const unsigned most = (unsigned)norm_threads(dtype, is_norm && any);
    const unsigned held = is_norm ? NIB_NORM_HELD * NIB_TRANSFORM_THREADS / most : 1;
    launch_by(kernel_of(dtype, kind, way), job, held, most, stream);
}

static void launch_any(TransformJob *job, transform_kernel kernel, cudaStream_t stream)
{
    const int64_t tall = job->scale_rows > 1 ? job->scale_rows : 1;
    const int64_t tiles = nib_ceil_div(job->padded_rows, tall);
    const int64_t rows = tiles < INT32_MAX ? tiles : INT32_MAX;
    NIB_LAUNCH(kernel, (unsigned)(rows > 0 ? rows : 1), NIB_TRANSFORM_ANY_THREADS, 0, stream, *job);
}

static nib_status check_rows(const nib_launch *launch, const char *what, const void *p,
                             int64_t rows, int64_t ld, int64_t bytes)
{
    if (rows == 0 || bytes == 0) return NIB_OK;
    return nib_cuda_pointer(launch, what, p, (rows - 1) * ld + bytes);
}

static nib_status check_inputs(const nib_launch *launch, const TransformJob *job)
{
    const int64_t size = size_of(job->rules.source), rows = job->rows, bytes = job->cols * size;
    NIB_CUDA_TRY(check_rows(launch, "src", job->x, rows, job->x_ld, bytes));
    NIB_CUDA_TRY(check_rows(launch, "residual", job->residual, rows, job->residual_ld, bytes));
    NIB_CUDA_TRY(check_rows(launch, "residual_out", job->residual_out, rows, job->residual_out_ld,
                            bytes));
    NIB_CUDA_TRY(check_rows(launch, "y", job->y, rows, job->y_ld, bytes));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "weight", job->weight,
                                  job->cols * (job->weight_kind == WEIGHT_F32 ? 4 : size)));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "signs", job->signs, (job->cols + 7) / 8));
    return nib_cuda_pointer(launch, "amax", job->amax, 4);
}

nib_status nib_cuda_transform_apply(const nib_launch *launch, const nib_transform *transform,
                                    const nib_matrix *src, const nib_matrix *dst)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    TransformJob       job = job_of(transform, src);
    job.out = (uint8_t *)dst->data;
    job.out_dtype = (int)dst->dtype;
    job.out_ld = dst->ld_elems * size_of(job.out_dtype);
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_TRANSFORM));
    NIB_CUDA_TRY(check_inputs(launch, &job));
    NIB_CUDA_TRY(check_rows(launch, "dst", job.out, job.rows, job.out_ld,
                            job.cols * size_of(job.out_dtype)));
    if (has_whole_units(&job) && job.out_dtype == job.rules.source) {
        job.padded_units = (unsigned)(job.cols / NIB_UNIT);
        launch_units(&job, WAY_APPLY, stream);
    } else {
        launch_any(&job, transform_any<false>, stream);
    }
    return nib_cuda_end(launch, "transform_apply");
}

static nib_status check_outputs(const nib_launch *launch, const TransformJob *job)
{
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_scale", job->tensor_scale, 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_amax", job->tensor_amax, 4));
    if (job->stochastic) NIB_CUDA_TRY(nib_cuda_pointer(launch, "random", job->random, 16));
    NIB_CUDA_TRY(check_rows(launch, "codes", job->codes, job->rows, job->codes_ld,
                            nib_code_bytes(job->bits, job->cols)));
    return nib_cuda_pointer(launch, "scales", job->scales, job->padded_rows * job->padded_cols);
}

nib_status nib_cuda_quantize_transformed(const nib_launch *launch, const nib_transform *transform,
                                         const nib_matrix *src,
                                         const nib_quantize_request *request,
                                         const nib_packed *dst)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    TransformJob       job = job_of(transform, src);
    unit_job(src, request, dst, &job);
    if (job.rules.block > 32) {
        if (launch->why) {
            snprintf(launch->why, NIB_WHY_BYTES, "blocks of %d elements; a GPU takes 8, 16 and 32",
                     job.rules.block);
        }
        return NIB_ERR_UNSUPPORTED;
    }
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_TRANSFORM));
    NIB_CUDA_TRY(check_inputs(launch, &job));
    NIB_CUDA_TRY(check_outputs(launch, &job));
    const int way = job.scale_rows == 1 ? unit_way(&job) : -1;
    if (way >= 0 && job.rows > 0 && has_whole_units(&job)) {
        job.padded_units = (unsigned)job.padded_cols << job.lane_shift;
        launch_units(&job, way, stream);
    } else {
        launch_any(&job, transform_any<true>, stream);
    }
    return nib_cuda_end(launch, "quantize_transformed");
}

cudaError_t nib_cuda_load_transform()
{
    static const int   ways[TRANSFORM_WAYS] = { WAY_APPLY, WAY_TE, WAY_MX };
    cudaFuncAttributes attributes;
    for (int i = 0; i < 3 * TRANSFORM_KINDS * TRANSFORM_WAYS; i++) {
        const transform_kernel kernel = kernel_of(i / 3 / TRANSFORM_KINDS, i / 3 % TRANSFORM_KINDS,
                                                  ways[i % 3]);
        const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
        if (error != cudaSuccess) return error;
    }
    const cudaError_t error = cudaFuncGetAttributes(&attributes, transform_any<false>);
    return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, transform_any<true>);
}
