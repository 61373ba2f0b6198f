/* grouped_cuda.cu: rows of groups to packed ones, each group by its own tensor scale, and the amax
 * of each. A block of threads has 32 rows of one group, which it finds on the device
 * (grouped_tile.cuh); from there on it works as quantize's do. */
#include "grouped_tile.cuh"
#include "grouped_tune.h"
#include "ops_cuda.cuh"
#include "quantize_unit.cuh"

#include <stdio.h>

/* Pointers are those of the whole matrix, numbers of rows unused. */
struct GroupedJob : QuantizeJob {
    Groups   groups;
    unsigned units, padded_units;
};

/* The block's tile, for all of its threads. The first block writes every tensor scale that follows
 * from an amax, since empty groups have no block. */
__device__ __forceinline__ GroupTile begin_tile(const GroupedJob &job, GroupTile &shared)
{
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (blockIdx.x == 0 && job.tensor_amax && job.tensor_scale) {
        for (int64_t g = thread; g < job.groups.count; g += blockDim.x * blockDim.y) {
            job.tensor_scale[g] = tensor_scales(job, job.rules, g).decode;
        }
    }
    if (thread < 32) find_tile(job.groups, blockIdx.x / job.groups.across, thread, shared);
    __syncthreads();
    return shared;
}

constexpr int grouped_per_sm(int dtype)
{
    return dtype == NIB_DT_F32 ? NIB_GROUPED_PER_SM - 2 : NIB_GROUPED_PER_SM;
}

/* As quantize_e2m1: 16 elements a thread. grid: tiles, each by groups.across blocks; block: x:
 * units of a row, y: rows, strided. square: 16 rows share their scales, and each warp has two units
 * of them. */
template <int dtype, int way, bool square>
__global__ void __launch_bounds__(NIB_GROUPED_THREADS, grouped_per_sm(dtype))
quantize_groups_e2m1(const __grid_constant__ GroupedJob job)
{
    NIB_SHARED(TensorShared, tensor, );
    NIB_SHARED(GroupTile, shared, );
    constexpr bool  has_tensor = way == WAY_TE;
    const GroupTile tile = begin_tile(job, shared);
    if (tile.group == NIB_TILE_NONE) return;
    nib_tensor_math math = known_math<way, dtype>(job);
    if (has_tensor) {
        if (threadIdx.x == 0 && threadIdx.y == 0) {
            const nib_tensor_math m = nib_tensor_math_of(
                &math.rules, tensor_scales(job, math.rules, tile.group));
            tensor.encode = m.scales.encode, tensor.decode = m.scales.decode;
            tensor.folded = m.folded, tensor.denominator = m.denominator;
            tensor.inverse = m.inverse;
        }
        __syncthreads();
        use_tensor(math, tensor);
    }
    const unsigned width = square ? (unsigned)NIB_GROUPED_THREADS / 16 : blockDim.x;
    const unsigned height = square ? 16 : blockDim.y;
    const unsigned across = square ? threadIdx.y * 2 + threadIdx.x % 2 : threadIdx.x;
    const unsigned unit = blockIdx.x % job.groups.across * width + across;
    const unsigned k = unit >> job.lane_shift;
    const bool     leads = k << job.lane_shift == unit && k < (unsigned)job.padded_cols;
    const int64_t  scale_ld = job.swizzled ? job.padded_cols : job.scale_cols;
    uint8_t *const scales_wr = job.scales + tile.scales_row * scale_ld + scale_column(job, k);
    const uint8_t *x_rd = job.x + tile.begin * job.x_ld + (int64_t)unit * (4 * Unit<dtype>::words);
    uint8_t *codes_wr = job.codes + tile.begin * job.codes_ld + (int64_t)unit * 8;
    float    largest = 0.0f;
    for (unsigned y = square ? threadIdx.x / 2 : threadIdx.y; y < NIB_TILE_ROWS; y += height) {
        const int64_t  row = tile.row + y;
        const bool     present = row < tile.rows && unit < job.units;
        uint8_t *const scale_wr = scales_wr + scale_index(job, row, 0);
        Unit<dtype>    x = {};
        if (present) x.load(x_rd + row * job.x_ld, job.aligned32);
        quantize_unit<dtype, way, square>(job, math, x, present, leads, scale_wr,
                                          codes_wr + row * job.codes_ld, largest);
        if (!present && leads && job.swizzled) *scale_wr = 0;
    }
}

/* A thread a block of elements, or those of rows that share a scale, whatever the rules. Grid as
 * above, with blocks for units. */
__global__ void __launch_bounds__(NIB_GROUPED_ANY_THREADS, NIB_GROUPED_ANY_PER_SM)
quantize_groups_any(const __grid_constant__ GroupedJob job)
{
    NIB_SHARED(GroupTile, shared, );
    const GroupTile tile = begin_tile(job, shared);
    if (tile.group == NIB_TILE_NONE) return;
    const nib_tensor_math math = nib_tensor_math_of(&job.rules,
                                                    tensor_scales(job, job.rules, tile.group));
    const int64_t scale_ld = job.swizzled ? job.padded_cols : job.scale_cols;
    const int64_t k = (int64_t)(blockIdx.x % job.groups.across) * blockDim.x + threadIdx.x;
    QuantizeJob group = job; /* as a matrix of its own */
    group.x += tile.begin * job.x_ld;
    group.codes += tile.begin * job.codes_ld;
    group.scales += tile.scales_row * scale_ld;
    group.rows = tile.rows;
    group.random_skip = nib_group_random(tile.group, tile.begin, job.cols);
    const unsigned tall = (unsigned)job.scale_rows;
    for (unsigned y = threadIdx.y * tall; y < NIB_TILE_ROWS; y += blockDim.y * tall) {
        const int64_t row = tile.row + y;
        const int     rows = k < job.scale_cols ? max(tile_rows(group, row), 0) : 0;
        if (rows > 0) quantize_block<PLAIN_ANY>(group, math, 0, row, rows, k, group.choice);
        for (unsigned r = (unsigned)rows; r < tall && job.swizzled && k < job.padded_cols; r++) {
            store_scale(group, 0, row + r, k, 0);
        }
    }
}

/* ---- launching ---- */

typedef void (*grouped_kernel)(GroupedJob);

static grouped_kernel kernel_of(int dtype, int way, bool square)
{
    static const grouped_kernel kernels[3][2][2] = {
#define WAY(dtype, way) \
    { quantize_groups_e2m1<dtype, way, false>, quantize_groups_e2m1<dtype, way, true> }
#define ROW(dtype) { WAY(dtype, WAY_TE), WAY(dtype, WAY_MX) }
        ROW(NIB_DT_F32), ROW(NIB_DT_F16), ROW(NIB_DT_BF16)
#undef ROW
#undef WAY
    };
    return kernels[dtype][way == WAY_MX][square];
}

/* Threads along and down the tile of a block of threads; shape: what they cover. */
struct GroupedShape {
    dim3     block;
    unsigned width;
};

static GroupedShape shape_of(int64_t across, bool any, bool square)
{
    const unsigned most = any ? NIB_GROUPED_ANY_THREADS : NIB_GROUPED_THREADS;
    unsigned       width = NIB_GROUPED_MIN_WIDTH;
    if (square && !any) return { dim3(32, most / 32), most / 16 };
    while (width < most && width < across) width *= 2;
    return { dim3(width, most / width), width };
}

static nib_status check_pointers(const nib_launch *launch, const GroupedJob *job)
{
    const int64_t count = job->groups.count, last = job->groups.rows - 1;
    const int64_t size = job->rules.source == NIB_DT_F32 ? 4 : 2;
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "offsets", job->groups.offsets, (count + 1) * 8));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_scale", job->tensor_scale, count * 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_amax", job->tensor_amax, count * 4));
    if (last < 0 || job->cols == 0) return NIB_OK;
    if (job->stochastic) NIB_CUDA_TRY(nib_cuda_pointer(launch, "random", job->random, 16));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "src", job->x, last * job->x_ld + job->cols * size));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "codes", job->codes,
                                  last * job->codes_ld + nib_code_bytes(job->bits, job->cols)));
    const int64_t filled = count <= last ? count : last + 1;
    const int64_t rows = job->swizzled ? (last + 1 + 127 * filled) / 128 * 128 : last + 1;
    return nib_cuda_pointer(launch, "scales", job->scales, rows * job->padded_cols);
}

static nib_status refuse(const nib_launch *launch, const char *what, int64_t n)
{
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, what, (long long)n);
    return NIB_ERR_UNSUPPORTED;
}

nib_status nib_cuda_quantize_grouped(const nib_launch *launch, const nib_groups *groups,
                                     const nib_matrix *src, const nib_quantize_request *request,
                                     const nib_packed *dst)
{
    GroupedJob job = {};
    job.x = (const uint8_t *)src->data;
    job.x_ld = src->ld_elems * (src->dtype == NIB_F32 ? 4 : 2);
    job.aligned32 = aligned(job.x, job.x_ld, 0, 32);
    job.rows = job.padded_rows = src->rows;
    job.cols = src->cols;
    job.tensor_stride = 1;
    unit_job(src, request, dst, &job);
    job.groups = groups_of(groups, src, job.swizzled);
    if (job.rules.block > 32) {
        return refuse(launch, "blocks of %lld elements; a GPU takes 8, 16 and 32", job.rules.block);
    }
    const int way = aligned(job.x, job.x_ld, 0, 16) ? unit_way(&job) : -1;
    job.units = way < 0 ? 0 : (unsigned)(job.cols / 16);
    const int64_t      across = way < 0 ? job.padded_cols : job.padded_cols << job.lane_shift;
    const bool         square = job.scale_rows > 1;
    const GroupedShape shape = shape_of(across, way < 0, square);
    const unsigned     width = shape.width;
    if (across > (int64_t)INT32_MAX * width) return refuse(launch, "%lld columns", job.cols);
    if (across > width) job.groups.across = (unsigned)nib_ceil_div(across, width);
    const unsigned blocks = tile_blocks(&job.groups);
    if (blocks == 0) return refuse(launch, "%lld rows or groups", groups->count + src->rows);

    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GROUPED));
    NIB_CUDA_TRY(check_pointers(launch, &job));
    const bool empty = job.rows == 0 || job.cols == 0;
    if (!empty || job.tensor_amax) {
        NIB_LAUNCH((way < 0 ? quantize_groups_any : kernel_of(job.rules.source, way, square)),
                   empty ? 1 : blocks, shape.block, 0, (cudaStream_t)launch->stream, job);
    }
    return nib_cuda_end(launch, "quantize_grouped");
}

cudaError_t nib_cuda_load_grouped()
{
    cudaFuncAttributes attributes;
    for (int i = 0; i < 12; i++) {
        const grouped_kernel kernel = kernel_of(i / 4, i / 2 % 2 ? WAY_MX : WAY_TE, i % 2);
        const cudaError_t    error = cudaFuncGetAttributes(&attributes, kernel);
        if (error != cudaSuccess) return error;
    }
    const cudaError_t error = cudaFuncGetAttributes(&attributes, quantize_groups_any);
    return error != cudaSuccess ? error : nib_cuda_load_amax_grouped();
}
