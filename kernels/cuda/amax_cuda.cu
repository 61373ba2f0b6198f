/* amax_cuda.cu: largest finite magnitudes, as integers: they order like the floats.
 *
 * NaN and Inf are larger than every finite one, so that a look at the largest of many elements
 * tells whether some are not finite; only then are these elements looked at one by one.
 */
#include "amax_tune.h"
#include "grouped_tile.cuh"
#include "ops_cuda.cuh"
#include "ptx.cuh"
#include "walk.cuh"

#include <stdio.h>

struct AmaxJob {
    WalkMatrix          m;
    int64_t             tensor_stride;
    unsigned           *amax; /* bits of floats */
    unsigned long long *nonfinite;
};

/* Magnitudes of one or two elements in a word, by dtype. */
template <int dtype> struct Magnitudes {
    static constexpr int      size = dtype == NIB_DT_F32 ? 4 : 2;
    static constexpr uint32_t inf = dtype == NIB_DT_F32 ? NIB_F32_INF_BITS
                                  : dtype == NIB_DT_F16 ? 0x7c00 : 0x7f80;

    static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b)
    {
        if constexpr (dtype == NIB_DT_BF16) return nib_ptx::max_abs_bf16x2(a, b);
        else if constexpr (dtype == NIB_DT_F16) return nib_ptx::max_abs_f16x2(a, b);
        else return max(a & 0x7fffffffu, b & 0x7fffffffu);
    }

    /* Of a word: its larger magnitude. */
    static __device__ __forceinline__ uint32_t one(uint32_t word)
    {
        if constexpr (dtype == NIB_DT_F32) return word & 0x7fffffffu;
        else return larger(word, word >> 16) & 0x7fff;
    }

    static __device__ __forceinline__ uint32_t f32_bits(uint32_t magnitude)
    {
        if constexpr (dtype == NIB_DT_F32) return magnitude;
        else if constexpr (dtype == NIB_DT_BF16) return magnitude << 16;
        else return nib_bits_of(nib_ptx::cvt_f32_f16(magnitude));
    }

    /* Elements of a word one by one. */
    static __device__ __forceinline__ void finite(uint32_t word, uint32_t &most, uint32_t &others)
    {
        NIB_UNROLL
        for (int i = 0; i < 4; i += size) {
            const uint32_t m = dtype == NIB_DT_F32 ? word & 0x7fffffffu : word >> 8 * i & 0x7fff;
            if (m >= inf) others++;
            else most = max(most, m);
        }
    }
};

/* Largest finite magnitude, and how many elements are not finite. */
template <int dtype>
__device__ __forceinline__ uint32_t walk(const Walk &w, uint64_t &nonfinite)
{
    using M = Magnitudes<dtype>;
    uint32_t most = 0;
    walk_groups<M::size, 0, NIB_AMAX_IN_FLIGHT>(w, [&](const uint4 (&got)[NIB_AMAX_IN_FLIGHT]) {
        uint32_t group = 0;
        NIB_UNROLL
        for (int i = 0; i < NIB_AMAX_IN_FLIGHT; i++) {
            group = M::larger(group, M::larger(M::larger(got[i].x, got[i].y),
                                               M::larger(got[i].z, got[i].w)));
        }
        const uint32_t largest = M::one(group);
        if (largest < M::inf) {
            most = max(most, largest);
            return;
        }
        uint32_t others = 0;
        NIB_UNROLL
        for (int i = 0; i < NIB_AMAX_IN_FLIGHT; i++) {
            M::finite(got[i].x, most, others), M::finite(got[i].y, most, others);
            M::finite(got[i].z, most, others), M::finite(got[i].w, most, others);
        }
        nonfinite += others;
    });
    return M::f32_bits(most);
}

/* amax and nonfinite start at 0. grid x, y: along and down a matrix, z: matrices. A block has one
 * piece of a row, so that the blocks that start last leave the matrix's end in L2, where the pass
 * that quantizes it begins. */
template <int dtype>
__global__ void __launch_bounds__(NIB_AMAX_THREADS)
amax_tensor(const __grid_constant__ AmaxJob job)
{
    NIB_SHARED(unsigned, warp_most, [NIB_AMAX_THREADS / 32]);
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int64_t z = blockIdx.z; z < job.m.count; z += gridDim.z) {
        uint64_t nonfinite = 0;
        const uint32_t found = walk<dtype>(walk_piece(job.m, z), nonfinite);
        const unsigned most = __reduce_max_sync(~0u, found);
        if (nonfinite && job.nonfinite) {
            atomicAdd(&job.nonfinite[z * job.tensor_stride], (unsigned long long)nonfinite);
        }
        if (thread % 32 == 0) warp_most[thread / 32] = most;
        __syncthreads();
        if (thread < 32) {
            const unsigned mine = thread < NIB_AMAX_THREADS / 32 ? warp_most[thread] : 0;
            const unsigned all = __reduce_max_sync(~0u, mine);
            if (thread == 0 && all) atomicMax(&job.amax[z * job.tensor_stride], all);
        }
        __syncthreads(); /* before the next matrix's warps write */
    }
}

/* A warp a row. */
template <int dtype>
__global__ void __launch_bounds__(NIB_AMAX_THREADS)
amax_each_row(const __grid_constant__ AmaxJob job)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.y;
    for (int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; row < job.m.rows;
         row += step) {
        uint64_t nonfinite = 0;
        const uint32_t mine = walk<dtype>(walk_row(job.m, row), nonfinite);
        const unsigned most = __reduce_max_sync(~0u, mine);
        if (threadIdx.x == 0) job.amax[row] = most;
    }
}

/* amax of each group, which start at 0. grid: tiles, each by groups.across blocks of one piece of
 * its rows. */
template <int dtype>
__global__ void __launch_bounds__(NIB_AMAX_THREADS)
amax_groups(const __grid_constant__ AmaxJob job, const __grid_constant__ Groups groups)
{
    NIB_SHARED(GroupTile, found, );
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (thread < 32) find_tile(groups, blockIdx.x / groups.across, thread, found);
    __syncthreads();
    const GroupTile tile = found;
    if (tile.group == NIB_TILE_NONE) return;
    const int64_t from = blockIdx.x % groups.across * job.m.chunk, left = job.m.row_bytes - from;
    const int64_t first = tile.begin + tile.row, rows = tile.rows - tile.row;
    const int64_t tile_rows = NIB_TILE_ROWS;
    const Walk w = {
        job.m.x + first * job.m.ld + from, job.m.ld, left < job.m.chunk ? left : job.m.chunk,
        rows < tile_rows ? rows : tile_rows, threadIdx.y, blockDim.y, threadIdx.x,
        blockDim.x,
    };
    uint64_t nonfinite = 0;
    const unsigned most = __reduce_max_sync(~0u, walk<dtype>(w, nonfinite));
    if (thread % 32 == 0 && most) atomicMax(&job.amax[tile.group], most);
}

/* ---- launching ---- */

typedef void (*amax_kernel)(AmaxJob);
typedef void (*group_kernel)(AmaxJob, Groups);
static const group_kernel group_kernels[] = { amax_groups<NIB_DT_F32>, amax_groups<NIB_DT_F16>,
                                              amax_groups<NIB_DT_BF16> };
static const amax_kernel tensor_kernels[] = { amax_tensor<NIB_DT_F32>, amax_tensor<NIB_DT_F16>,
                                              amax_tensor<NIB_DT_BF16> };
static const amax_kernel row_kernels[] = { amax_each_row<NIB_DT_F32>, amax_each_row<NIB_DT_F16>,
                                           amax_each_row<NIB_DT_BF16> };

static void launch_tensor(AmaxJob *job, nib_dtype dtype, cudaStream_t stream)
{
    const WalkShape shape = walk_shape(&job->m, NIB_AMAX_THREADS, NIB_AMAX_VECTORS);
    NIB_LAUNCH(tensor_kernels[dtype], shape.grid, shape.block, 0, stream, *job);
}

static AmaxJob job_of(const nib_matrix *src, float *amax, uint64_t *nonfinite)
{
    AmaxJob job = {};
    job.m = walk_matrix(src);
    job.amax = (unsigned *)(void *)amax;
    job.nonfinite = (unsigned long long *)(void *)nonfinite;
    return job;
}

static nib_status check_pointers(const nib_launch *launch, const AmaxJob *job, int64_t results)
{
    if (!launch->debug) return NIB_OK;
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "amax", job->amax, results * 4));
    if (job->nonfinite) {
        NIB_CUDA_TRY(nib_cuda_pointer(launch, "nonfinite", job->nonfinite, results * 8));
    }
    if (job->m.rows == 0 || job->m.row_bytes == 0) return NIB_OK;
    return nib_cuda_pointer(launch, "src", job->m.x, (job->m.count - 1) * job->m.stride
                            + (job->m.rows - 1) * job->m.ld + job->m.row_bytes);
}

static nib_status set_zero(const nib_launch *launch, void *p, int64_t bytes)
{
    const cudaError_t error = cudaMemsetAsync(p, 0, (size_t)bytes, (cudaStream_t)launch->stream);
    return error == cudaSuccess ? NIB_OK : nib_cuda_failed(launch->why, "amax", error);
}

nib_status nib_cuda_amax(const nib_launch *launch, const nib_batch *batch, const nib_matrix *src,
                         float *amax, uint64_t *nonfinite)
{
    const int64_t results = batch->tensor_stride ? batch->count : 1;
    const int64_t size = src->dtype == NIB_F32 ? 4 : 2;
    AmaxJob job = job_of(src, amax, nonfinite);
    job.m.count = batch->count;
    job.m.stride = batch->count > 1 ? batch->matrix_stride_elems * size : 0;
    job.tensor_stride = batch->tensor_stride;
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launch, &job, results));
    NIB_CUDA_TRY(set_zero(launch, amax, results * 4));
    if (nonfinite) NIB_CUDA_TRY(set_zero(launch, nonfinite, results * 8));
    if (job.m.rows && job.m.row_bytes) {
        walk_join_rows(&job.m);
        launch_tensor(&job, src->dtype, (cudaStream_t)launch->stream);
    }
    return nib_cuda_end(launch, "amax");
}

nib_status nib_cuda_amax_rows(const nib_launch *launch, const nib_matrix *src, float *amax)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    AmaxJob job = job_of(src, amax, nullptr);
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launch, &job, job.m.rows));
    if (job.m.row_bytes == 0) {
        NIB_CUDA_TRY(set_zero(launch, amax, job.m.rows * 4));
    } else if (job.m.row_bytes < NIB_AMAX_LONG_ROW || job.m.rows >= NIB_AMAX_MANY_ROWS) {
        const int64_t warps = NIB_AMAX_THREADS / 32;
        const dim3 grid((unsigned)walk_at_most(nib_ceil_div(job.m.rows, warps), INT32_MAX));
        NIB_LAUNCH(row_kernels[src->dtype], grid, dim3(32, (unsigned)warps), 0, stream, job);
    } else { /* each row as a matrix of a batch */
        NIB_CUDA_TRY(set_zero(launch, amax, job.m.rows * 4));
        job.m.count = job.m.rows;
        job.m.stride = job.m.ld;
        job.tensor_stride = 1;
        job.m.rows = 1;
        launch_tensor(&job, src->dtype, stream);
    }
    return nib_cuda_end(launch, "amax_rows");
}

nib_status nib_cuda_amax_grouped(const nib_launch *launch, const nib_groups *groups,
                                 const nib_matrix *src, float *amax)
{
    AmaxJob job = job_of(src, amax, nullptr);
    Groups  g = groups_of(groups, src, 0);
    const int64_t vectors = nib_ceil_div(job.m.row_bytes, 16) + 1; /* with a head and a tail */
    const int     width = walk_width(vectors, NIB_AMAX_THREADS);
    job.m.chunk = 16 * (int64_t)width * NIB_AMAX_IN_FLIGHT;
    const int64_t across = nib_ceil_div(job.m.row_bytes, job.m.chunk);
    if (across > 1) g.across = (unsigned)walk_at_most(across, INT32_MAX);
    const unsigned blocks = tile_blocks(&g);
    if (blocks == 0 || across > INT32_MAX) {
        if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "%lld rows, %lld groups",
                                  (long long)src->rows, (long long)groups->count);
        return NIB_ERR_UNSUPPORTED;
    }
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GROUPED));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "offsets", g.offsets, (g.count + 1) * 8));
    NIB_CUDA_TRY(check_pointers(launch, &job, groups->count));
    NIB_CUDA_TRY(set_zero(launch, amax, groups->count * 4));
    if (job.m.rows && job.m.row_bytes) {
        const dim3 block((unsigned)width, (unsigned)(NIB_AMAX_THREADS / width));
        NIB_LAUNCH(group_kernels[src->dtype], blocks, block, 0, (cudaStream_t)launch->stream, job,
                   g);
    }
    return nib_cuda_end(launch, "amax_grouped");
}

cudaError_t nib_cuda_load_amax_grouped()
{
    cudaFuncAttributes attributes;
    for (const group_kernel kernel : group_kernels) {
        const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t nib_cuda_load_amax()
{
    cudaFuncAttributes attributes;
    for (int dtype = NIB_DT_F32; dtype <= NIB_DT_BF16; dtype++) {
        cudaError_t error = cudaFuncGetAttributes(&attributes, tensor_kernels[dtype]);
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, row_kernels[dtype]);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
