/* observe_cuda.cu: ranges, moving averages and histograms: maxima and counts, which come out the
 * same in any order. */
#include "observe_tune.h"
#include "ops_cuda.cuh"
#include "ptx.cuh"
#include "walk.cuh"

/* ---- ranges ---- */

struct RangeJob {
    WalkMatrix m;
    float     *range; /* of the batch's first matrix; the others' follow */
};

/* NaN in every dtype: neither the larger nor the smaller of anything. */
static constexpr uint32_t none = 0x7fff7fff;

/* Largest and smallest of one or two elements in a word, by dtype. */
template <int dtype> struct Extremes {
    static constexpr int      size = dtype == NIB_DT_F32 ? 4 : 2;
    static constexpr uint32_t inf = dtype == NIB_DT_F32 ? NIB_F32_INF_BITS
                                  : dtype == NIB_DT_F16 ? 0x7c00 : 0x7f80;

    uint32_t most = none, least = none;

    __device__ __forceinline__ void add(uint32_t word)
    {
        if constexpr (dtype == NIB_DT_BF16) {
            most = nib_ptx::max_bf16x2(most, word), least = nib_ptx::min_bf16x2(least, word);
        } else if constexpr (dtype == NIB_DT_F16) {
            most = nib_ptx::max_f16x2(most, word), least = nib_ptx::min_f16x2(least, word);
        } else {
            most = nib_bits_of(fmaxf(nib_float_of(most), nib_float_of(word)));
            least = nib_bits_of(fminf(nib_float_of(least), nib_float_of(word)));
        }
    }

    __device__ __forceinline__ void add(const Extremes &other)
    {
        if constexpr (dtype == NIB_DT_BF16) {
            most = nib_ptx::max_bf16x2(most, other.most);
            least = nib_ptx::min_bf16x2(least, other.least);
        } else if constexpr (dtype == NIB_DT_F16) {
            most = nib_ptx::max_f16x2(most, other.most);
            least = nib_ptx::min_f16x2(least, other.least);
        } else {
            most = nib_bits_of(fmaxf(nib_float_of(most), nib_float_of(other.most)));
            least = nib_bits_of(fminf(nib_float_of(least), nib_float_of(other.least)));
        }
    }

    __device__ __forceinline__ bool has_inf() const
    {
        if constexpr (dtype == NIB_DT_F32) return most == inf || least == (inf | 0x80000000u);
        else return (most & 0xffff) == inf || most >> 16 == inf
                 || (least & 0xffff) == (inf | 0x8000) || least >> 16 == (inf | 0x8000);
    }

    /* A word without its infinities. */
    static __device__ __forceinline__ uint32_t finite(uint32_t word)
    {
        if constexpr (dtype == NIB_DT_F32) return (word & 0x7fffffffu) == inf ? none : word;
        if ((word & 0x7fff) == inf) word |= 0x7fff;
        if ((word >> 16 & 0x7fff) == inf) word |= 0x7fff0000u;
        return word;
    }

    static __device__ __forceinline__ float half(uint32_t word, int i)
    {
        if constexpr (dtype == NIB_DT_BF16) return nib_bf16_to_f32((uint16_t)(word >> 16 * i));
        else return nib_ptx::cvt_f32_f16(word >> 16 * i);
    }

    /* Keys of what they merge into a range; 0: no element. */
    __device__ __forceinline__ void keys(uint32_t &low, uint32_t &high) const
    {
        float a = nib_float_of(least), b = nib_float_of(most);
        if constexpr (dtype != NIB_DT_F32) {
            a = fminf(half(least, 0), half(least, 1));
            b = fmaxf(half(most, 0), half(most, 1));
        }
        low = nib_is_nan(a) ? 0 : nib_order_key(nib_bits_of(nib_range_low(a)));
        high = nib_is_nan(b) ? 0 : nib_order_key(nib_bits_of(nib_range_high(b)));
    }
};

template <int dtype>
__device__ __forceinline__ void walk(const Walk &w, uint32_t &low, uint32_t &high)
{
    using E = Extremes<dtype>;
    E all;
    walk_groups<E::size, none, NIB_RANGE_IN_FLIGHT>(
        w, [&](const uint4 (&got)[NIB_RANGE_IN_FLIGHT]) {
            E group;
            NIB_UNROLL
            for (int i = 0; i < NIB_RANGE_IN_FLIGHT; i++) {
                group.add(got[i].x), group.add(got[i].y), group.add(got[i].z), group.add(got[i].w);
            }
            if (group.has_inf()) {
                group = E();
                NIB_UNROLL
                for (int i = 0; i < NIB_RANGE_IN_FLIGHT; i++) {
                    group.add(E::finite(got[i].x)), group.add(E::finite(got[i].y));
                    group.add(E::finite(got[i].z)), group.add(E::finite(got[i].w));
                }
            }
            all.add(group);
        });
    all.keys(low, high);
    low = __reduce_max_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
}

/* *to = max(*to, what the key stands for), in the order of keys, whatever *to is. */
__device__ __forceinline__ void merge_atomic(float *to, uint32_t key)
{
    const uint32_t bits = nib_order_bits(key);
    if (key == 0) return;
    if (bits >> 31) atomicMin((unsigned *)to, bits);
    else atomicMax((int *)to, (int)bits);
}

/* Grid as by walk_shape. */
template <int dtype>
__global__ void __launch_bounds__(NIB_RANGE_THREADS)
range_tensor(const __grid_constant__ RangeJob job)
{
    NIB_SHARED(unsigned, warp_keys, [2][NIB_RANGE_THREADS / 32]);
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int64_t z = blockIdx.z; z < job.m.count; z += gridDim.z) {
        uint32_t low, high;
        walk<dtype>(walk_piece(job.m, z), low, high);
        if (thread % 32 == 0) warp_keys[0][thread / 32] = low, warp_keys[1][thread / 32] = high;
        __syncthreads();
        if (thread < 32) {
            const bool     is_one = thread < NIB_RANGE_THREADS / 32;
            const unsigned lows = __reduce_max_sync(~0u, is_one ? warp_keys[0][thread] : 0);
            const unsigned highs = __reduce_max_sync(~0u, is_one ? warp_keys[1][thread] : 0);
            if (thread < 2) merge_atomic(&job.range[2 * z + thread], thread ? highs : lows);
        }
        __syncthreads(); /* before the next matrix's warps write */
    }
}

/* A warp a row, whose range is nobody else's. */
template <int dtype>
__global__ void __launch_bounds__(NIB_RANGE_THREADS)
range_each_row(const __grid_constant__ RangeJob job)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.y;
    for (int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; row < job.m.rows;
         row += step) {
        uint32_t low, high;
        walk<dtype>(walk_row(job.m, row), low, high);
        const uint32_t key = threadIdx.x ? high : low;
        if (threadIdx.x >= 2 || key == 0) continue;
        float *const to = &job.range[2 * row + threadIdx.x];
        *to = nib_range_merged(*to, nib_float_of(nib_order_bits(key)));
    }
}

/* ---- averages ---- */

__global__ void __launch_bounds__(NIB_EMA_THREADS)
ema(int64_t n, const float *now, float keep, float *average)
{
    const int64_t step = (int64_t)gridDim.x * NIB_EMA_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * NIB_EMA_THREADS + threadIdx.x; i < n; i += step) {
        average[i] = nib_moved_average(keep, average[i], now[i]);
    }
}

/* ---- histograms ---- */

struct HistogramJob {
    WalkMatrix          m;
    const float        *top;
    unsigned long long *counts;
    int                 bins, copies; /* copies: a power of two */
};

/* Blocks share the matrix vector by vector, x along and y down. A block has so few of the elements
 * that its counts fit 32 bits. */
template <int dtype>
__global__ void __launch_bounds__(NIB_HISTOGRAM_THREADS)
histogram(const __grid_constant__ HistogramJob job)
{
    constexpr int size = dtype == NIB_DT_F32 ? 4 : 2;
    NIB_SHARED_DYNAMIC(smem);
    unsigned *const shared = (unsigned *)(void *)smem;
    const int   bins = job.bins, all = bins * job.copies;
    const int   thread = (int)(threadIdx.y * blockDim.x + threadIdx.x);
    const float factor = nib_histogram_factor(*job.top, bins);
    if (factor == 0.0f) return;
    for (int i = thread; i < all; i += NIB_HISTOGRAM_THREADS) shared[i] = 0;
    __syncthreads();

    unsigned *const mine = shared + (thread / 32 & (job.copies - 1)) * bins;
    const auto count = [&](float x) {
        const float a = nib_abs(x);
        if (nib_bits_of(a) < NIB_F32_INF_BITS) {
            atomicAdd(&mine[nib_histogram_bin(a, factor, bins)], 1u);
        }
    };
    const auto count_word = [&](uint32_t word) {
        if constexpr (dtype == NIB_DT_F32) count(nib_float_of(word));
        else count(Extremes<dtype>::half(word, 0)), count(Extremes<dtype>::half(word, 1));
    };
    const Walk w = { job.m.x, job.m.ld, job.m.row_bytes, job.m.rows,
                     (int64_t)blockIdx.y * blockDim.y + threadIdx.y,
                     (int64_t)gridDim.y * blockDim.y,
                     (int64_t)blockIdx.x * blockDim.x + threadIdx.x,
                     (int64_t)gridDim.x * blockDim.x };
    walk_groups<size, none, NIB_HISTOGRAM_IN_FLIGHT>(
        w, [&](const uint4 (&got)[NIB_HISTOGRAM_IN_FLIGHT]) {
            NIB_UNROLL
            for (int i = 0; i < NIB_HISTOGRAM_IN_FLIGHT; i++) {
                count_word(got[i].x), count_word(got[i].y);
                count_word(got[i].z), count_word(got[i].w);
            }
        });
    __syncthreads();
    for (int b = thread; b < bins; b += NIB_HISTOGRAM_THREADS) {
        unsigned sum = 0;
        for (int copy = 0; copy < job.copies; copy++) sum += shared[copy * bins + b];
        if (sum) atomicAdd(&job.counts[b], (unsigned long long)sum);
    }
}

/* ---- launching ---- */

typedef void (*range_kernel)(RangeJob);
typedef void (*histogram_kernel)(HistogramJob);
static const range_kernel tensor_kernels[] = { range_tensor<NIB_DT_F32>, range_tensor<NIB_DT_F16>,
                                               range_tensor<NIB_DT_BF16> };
static const range_kernel row_kernels[] = { range_each_row<NIB_DT_F32>, range_each_row<NIB_DT_F16>,
                                            range_each_row<NIB_DT_BF16> };
static const histogram_kernel histogram_kernels[] = {
    histogram<NIB_DT_F32>, histogram<NIB_DT_F16>, histogram<NIB_DT_BF16>
};

static void launch_tensor(RangeJob *job, nib_dtype dtype, cudaStream_t stream)
{
    const WalkShape shape = walk_shape(&job->m, NIB_RANGE_THREADS, NIB_RANGE_VECTORS);
    NIB_LAUNCH(tensor_kernels[dtype], shape.grid, shape.block, 0, stream, *job);
}

static nib_status check_source(const nib_launch *launch, const WalkMatrix *m)
{
    return nib_cuda_pointer(launch, "src", m->x, (m->rows - 1) * m->ld + m->row_bytes);
}

nib_status nib_cuda_observe_range(const nib_launch *launch, const nib_matrix *src, float *range)
{
    RangeJob job = { walk_matrix(src), range };
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_OBSERVE));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "range", range, 8));
    NIB_CUDA_TRY(check_source(launch, &job.m));
    walk_join_rows(&job.m);
    launch_tensor(&job, src->dtype, (cudaStream_t)launch->stream);
    return nib_cuda_end(launch, "observe_range");
}

nib_status nib_cuda_observe_range_rows(const nib_launch *launch, const nib_matrix *src,
                                       float *range)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    RangeJob job = { walk_matrix(src), range };
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_OBSERVE));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "range", range, 8 * src->rows));
    NIB_CUDA_TRY(check_source(launch, &job.m));
    if (job.m.row_bytes < NIB_RANGE_LONG_ROW || job.m.rows >= NIB_RANGE_MANY_ROWS) {
        const int64_t warps = NIB_RANGE_THREADS / 32;
        const dim3 grid((unsigned)walk_at_most(nib_ceil_div(job.m.rows, warps), INT32_MAX));
        NIB_LAUNCH(row_kernels[src->dtype], grid, dim3(32, (unsigned)warps), 0, stream, job);
    } else { /* each row as a matrix of a batch */
        job.m.count = job.m.rows;
        job.m.stride = job.m.ld;
        job.m.rows = 1;
        launch_tensor(&job, src->dtype, stream);
    }
    return nib_cuda_end(launch, "observe_range_rows");
}

nib_status nib_cuda_observe_ema(const nib_launch *launch, int64_t n, const float *now, float keep,
                                float *average)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_OBSERVE));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "now", now, 4 * n));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "average", average, 4 * n));
    const unsigned blocks = (unsigned)walk_at_most(nib_ceil_div(n, NIB_EMA_THREADS),
                                                   WALK_MOST_BLOCKS);
    NIB_LAUNCH(ema, blocks, NIB_EMA_THREADS, 0, (cudaStream_t)launch->stream, n, now, keep,
               average);
    return nib_cuda_end(launch, "observe_ema");
}

nib_status nib_cuda_observe_histogram(const nib_launch *launch, const nib_matrix *src,
                                      const float *top, int32_t bins, uint64_t *counts)
{
    HistogramJob job = { walk_matrix(src), top, (unsigned long long *)(void *)counts, bins, 1 };
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_OBSERVE));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "top", top, 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "counts", counts, 8 * (int64_t)bins));
    NIB_CUDA_TRY(check_source(launch, &job.m));
    walk_join_rows(&job.m);
    while (job.copies < NIB_HISTOGRAM_COPIES && 2 * job.copies * bins <= NIB_HISTOGRAM_BINS) {
        job.copies *= 2;
    }
    const int64_t most = NIB_HISTOGRAM_BLOCKS;
    const int64_t vectors = nib_ceil_div(job.m.row_bytes, 16) + 1;
    const int     width = walk_width(vectors, NIB_HISTOGRAM_THREADS);
    const int64_t height = NIB_HISTOGRAM_THREADS / width, each = NIB_HISTOGRAM_VECTORS;
    const int64_t across = walk_at_most(nib_ceil_div(vectors, width * each), most);
    const int64_t rows = vectors < width * each ? nib_ceil_div(width * each, vectors) : 1;
    const int64_t down = walk_at_most(nib_ceil_div(job.m.rows, height * rows),
                                      most / across ? most / across : 1);
    NIB_LAUNCH(histogram_kernels[src->dtype], dim3((unsigned)across, (unsigned)down),
               dim3((unsigned)width, (unsigned)height), (size_t)(job.copies * bins) * 4,
               (cudaStream_t)launch->stream, job);
    return nib_cuda_end(launch, "observe_histogram");
}

cudaError_t nib_cuda_load_observe()
{
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, ema);
    for (int dtype = NIB_DT_F32; dtype <= NIB_DT_BF16 && error == cudaSuccess; dtype++) {
        error = cudaFuncGetAttributes(&attributes, tensor_kernels[dtype]);
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, row_kernels[dtype]);
        if (error == cudaSuccess) {
            error = cudaFuncGetAttributes(&attributes, histogram_kernels[dtype]);
        }
    }
    return error;
}
