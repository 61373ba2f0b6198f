/* tensor_stats_cuda.cu: a tensor against its quantized values, summed in the order that
 * kernels/common/observe.h states: a warp has a partial sum, and takes its pieces in turn; then one
 * block adds the partial sums. */
#include "kernels/packed.h"
#include "observe_tune.h"
#include "ops_cuda.cuh"
#include "ptx.cuh"

struct StatsJob {
    const uint8_t     *x, *v, *mask; /* mask: or NULL */
    int64_t            x_ld, v_ld, mask_ld; /* bytes */
    int64_t            rows, cols, row_pieces;
    int64_t            step_rows, step_pieces; /* from a piece to the NIB_PARTIALS-th after it */
    int                aligned; /* rows of x and v, to 16 bytes */
    nib_stats_partial *partial;
};

struct StatsMerge {
    const nib_stats_partial *partial;
    int64_t                  partials;
    uint64_t                 elements;
    nib_tensor_stats        *stats;
};

static __device__ __forceinline__ float nothing() { return nib_float_of(NIB_F32_NAN_BITS); }

/* What a thread knows of its elements: in shared memory, where it is alone, for want of registers.
 * Counts stay below 2^32 for any matrix that fits a GPU. */
struct Seen {
    float    least, most; /* NaN: none */
    uint32_t nonfinite, clipped, zeroed;

    __device__ __forceinline__ void add(float lower, float upper, uint32_t others, uint32_t clips,
                                        uint32_t zeros)
    {
        least = fminf(least, lower), most = fmaxf(most, upper);
        nonfinite += others, clipped += clips, zeroed += zeros;
    }
};

/* 8 elements of one dtype, as they lie. */
template <int dtype> struct Eight {
    static constexpr int vectors = dtype == NIB_DT_F32 ? 2 : 1;
    uint4 word[vectors];

    __device__ __forceinline__ void load(const uint8_t *piece, int c)
    {
        const uint4 *const p = (const uint4 *)(piece + c * (dtype == NIB_DT_F32 ? 4 : 2));
        NIB_UNROLL
        for (int i = 0; i < vectors; i++) word[i] = nib_ptx::ld_once(p + i);
    }
    __device__ __forceinline__ float at(int i) const
    {
        const int at = dtype == NIB_DT_F32 ? i : i / 2;
        const uint4 &four = word[at / 4];
        const uint32_t w = at % 4 == 0 ? four.x : at % 4 == 1 ? four.y : at % 4 == 2 ? four.z
                                                                                     : four.w;
        if constexpr (dtype == NIB_DT_F32) return nib_float_of(w);
        if constexpr (dtype == NIB_DT_BF16) return nib_float_of(i % 2 ? w & 0xffff0000u : w << 16);
        else return nib_ptx::cvt_f32_f16(i % 2 ? w >> 16 : w);
    }
};

/* Adds 8 numbers that come one by one, those of place 0 4 2 6 1 5 3 7, as nib_sum8_of does: fewer
 * wait than in an array. */
struct LaneTree {
    float two, four, eight, all;

    static __device__ __forceinline__ int place(int step)
    {
        return (step & 1) << 2 | (step & 2) | step >> 2;
    }
    __device__ __forceinline__ void add(int step, float s)
    {
        if (!(step & 1)) { two = s; return; }
        s = two + s;
        if (!(step & 2)) { four = s; return; }
        s = four + s;
        if (!(step & 4)) { eight = s; return; }
        all += eight + s;
    }
};

/* The tree over a warp's threads: every thread has the sum. */
__device__ __forceinline__ float tree_of(float s)
{
    NIB_UNROLL
    for (int h = 16; h > 0; h /= 2) s += __shfl_xor_sync(~0u, s, h);
    return s;
}

__device__ __forceinline__ uint32_t largest(float a)
{
    return __reduce_max_sync(~0u, nib_bits_of(fmaxf(a, 0.0f))); /* NaN, none, is 0 */
}

/* Threads 0, 1 and 2 of a warp each keep one of the three sums. */
__device__ __forceinline__ float own(int thread, float sum, float square, float error)
{
    return thread == 0 ? sum : thread == 1 ? square : error;
}

struct Piece {
    const uint8_t *x, *v, *mask; /* of its first element */
    int            n;
};

/* A piece of whole vectors, as if all were finite and none far from 1. Returns false, and has
 * changed nothing, if some are not. */
template <int xd, int vd>
__device__ __forceinline__ bool add_plain(const Piece &p, int thread, double &total, Seen &seen)
{
    constexpr int wide = 8 * 32; /* columns that a warp takes at once */
    constexpr int at_once = xd != NIB_DT_F32 && vd != NIB_DT_F32 ? 2 : 1;
    LaneTree sums = {}, squares = {}, errors = {};
    float    least = nothing(), most = nothing(), worst = 0.0f;
    uint32_t zeroed = 0, clipped = 0;
    NIB_NO_UNROLL /* with more on its way ptxas spills */
    for (int k = 0; k < NIB_PIECE / wide; k += at_once) {
        Eight<xd> x[at_once];
        Eight<vd> v[at_once];
        uint32_t  bits[at_once];
        NIB_UNROLL
        for (int j = 0; j < at_once; j++) {
            const int c = (k + j) * wide + 8 * thread;
            bits[j] = 0xff;
            if (c >= p.n) continue;
            x[j].load(p.x, c), v[j].load(p.v, c);
            if (p.mask) bits[j] = p.mask[c / 8];
        }
        NIB_UNROLL
        for (int j = 0; j < at_once; j++) {
            if ((k + j) * wide + 8 * thread >= p.n) continue;
            NIB_UNROLL
            for (int step = 0; step < 8; step++) {
                const int   i = LaneTree::place(step);
                const float a = x[j].at(i), b = v[j].at(i), d = a - b;
                least = fminf(least, a), most = fmaxf(most, a);
                worst = fmaxf(worst, nib_abs(d));
                zeroed += a != 0.0f && b == 0.0f;
                sums.add(step, a), squares.add(step, a * a), errors.add(step, d * d);
            }
            clipped += 8 - (uint32_t)__popc(bits[j]);
        }
    }
    const float sum = tree_of(sums.all), square = tree_of(squares.all);
    const float error = tree_of(errors.all);
    const uint32_t x_most = largest(fmaxf(nib_abs(least), nib_abs(most)));
    const uint32_t d_most = largest(worst);
    const bool is_plain = nib_piece_exponent(x_most) == 0 && nib_piece_exponent(d_most) == 0
                       && !nib_is_nan(sum) && !nib_is_nan(error);
    if (!is_plain) return false;
    total += (double)own(thread, sum, square, error);
    seen.add(least, most, 0, clipped, zeroed);
    return true;
}

/* Element c of a piece, if both it and its value are finite. */
template <int xd, int vd>
__device__ __forceinline__ bool element(const Piece &p, int c, float &a, float &b)
{
    if (c >= p.n) return false;
    a = nib_load_f32(xd, p.x, c), b = nib_load_f32(vd, p.v, c);
    return nib_magnitude_bits(a) < NIB_F32_INF_BITS && nib_magnitude_bits(b) < NIB_F32_INF_BITS;
}

/* Any piece, by the rule to the letter: one element at a time, twice. */
template <int xd, int vd>
__device__ __forceinline__ void add_any(const Piece &p, int thread, double &total, Seen &seen)
{
    float    a, b, least = nothing(), most = nothing(), worst = 0.0f;
    uint32_t nonfinite = 0, clipped = 0, zeroed = 0;
    NIB_NO_UNROLL
    for (int j = 0; j < NIB_PIECE / 32; j++) {
        const int c = j / 8 * 256 + 8 * thread + j % 8;
        if (element<xd, vd>(p, c, a, b)) {
            least = fminf(least, a), most = fmaxf(most, a), worst = fmaxf(worst, nib_abs(a - b));
            zeroed += a != 0.0f && b == 0.0f;
            if (p.mask) clipped += !(p.mask[c / 8] >> c % 8 & 1);
        } else {
            nonfinite += c < p.n;
        }
    }
    seen.add(least, most, nonfinite, clipped, zeroed);
    const int   ex = nib_piece_exponent(largest(fmaxf(nib_abs(least), nib_abs(most))));
    const int   ed = nib_piece_exponent(largest(worst));
    const float fx = nib_pow2(ex), fd = nib_pow2(ed);
    LaneTree    sum = {}, square = {}, error = {};
    NIB_NO_UNROLL
    for (int j = 0; j < NIB_PIECE / 32; j++) {
        const int step = j % 8;
        float x = 0.0f, d = 0.0f;
        if (element<xd, vd>(p, j / 8 * 256 + 8 * thread + LaneTree::place(step), a, b)) {
            x = a * fx, d = (a - b) * fd;
        }
        sum.add(step, x), square.add(step, x * x), error.add(step, d * d);
    }
    const float    f = own(thread, tree_of(sum.all), tree_of(square.all), tree_of(error.all));
    const int      e = thread == 2 ? ed : ex;
    total += thread == 0 ? nib_piece_sum(f, e) : nib_piece_squares(f, e);
}

__device__ __forceinline__ float merged(uint32_t key)
{
    return nib_float_of(key ? nib_order_bits(key) : NIB_RANGE_NONE_BITS);
}

/* block  x: a warp, y: warps     grid  x: partial sums */
template <int xd, int vd>
__global__ void __launch_bounds__(32 * NIB_STATS_WARPS, NIB_STATS_PER_SM)
tensor_stats(const __grid_constant__ StatsJob job)
{
    NIB_SHARED(Seen, all_seen, [NIB_STATS_WARPS][32]);
    const int     thread = (int)threadIdx.x;
    const int64_t k = (int64_t)blockIdx.x * NIB_STATS_WARPS + threadIdx.y;
    double  total = 0.0;
    Seen   &seen = all_seen[threadIdx.y][thread];
    int64_t row = k / job.row_pieces, piece = k % job.row_pieces;
    if (row >= job.rows) return;
    seen.least = seen.most = nothing(), seen.nonfinite = seen.clipped = seen.zeroed = 0;
    while (row < job.rows) {
        const int64_t col = piece * NIB_PIECE, left = job.cols - col;
        const Piece p = { job.x + row * job.x_ld + col * (xd == NIB_DT_F32 ? 4 : 2),
                          job.v + row * job.v_ld + col * (vd == NIB_DT_F32 ? 4 : 2),
                          job.mask ? job.mask + row * job.mask_ld + col / 8 : nullptr,
                          left < NIB_PIECE ? (int)left : NIB_PIECE };
        const bool vectors = job.aligned && p.n % 8 == 0;
        if (!vectors || !add_plain<xd, vd>(p, thread, total, seen)) {
            add_any<xd, vd>(p, thread, total, seen);
        }
        row += job.step_rows, piece += job.step_pieces;
        if (piece >= job.row_pieces) piece -= job.row_pieces, row++;
    }
    const bool     any = !nib_is_nan(seen.least);
    const uint32_t low = __reduce_max_sync(~0u, any ? nib_order_key(nib_bits_of(
                             nib_range_low(seen.least))) : 0);
    const uint32_t high = __reduce_max_sync(~0u, any ? nib_order_key(nib_bits_of(
                              nib_range_high(seen.most))) : 0);
    nib_stats_partial sums;
    sums.sum = __shfl_sync(~0u, total, 0);
    sums.sum_sq = __shfl_sync(~0u, total, 1);
    sums.sum_sq_error = __shfl_sync(~0u, total, 2);
    sums.nonfinite = __reduce_add_sync(~0u, seen.nonfinite);
    sums.clipped = __reduce_add_sync(~0u, seen.clipped);
    sums.zeroed = __reduce_add_sync(~0u, seen.zeroed);
    sums.range[0] = merged(low), sums.range[1] = merged(high);
    if (thread == 0) job.partial[k] = sums;
}

/* One block. Thread t begins the tree with partial sums t, t + 1024, t + 2048, t + 3072. */
__global__ void __launch_bounds__(NIB_STATS_MERGE_THREADS)
tensor_stats_merge(const __grid_constant__ StatsMerge job)
{
    enum { QUARTER = NIB_PARTIALS / 4 };
    static_assert(QUARTER == (int)NIB_STATS_MERGE_THREADS, "four partial sums a thread");
    NIB_SHARED(double, sums, [3][QUARTER]);
    NIB_SHARED(unsigned long long, counts, [3]);
    NIB_SHARED(unsigned, keys, [2]);
    const int t = (int)threadIdx.x;
    if (t < 3) counts[t] = 0;
    if (t < 2) keys[t] = 0;
    __syncthreads();

    double   tree[3][4] = {};
    uint64_t nonfinite = 0, clipped = 0, zeroed = 0;
    uint32_t low = 0, high = 0;
    NIB_UNROLL
    for (int i = 0; i < 4; i++) {
        const int k = t + i * QUARTER;
        if (k >= job.partials) continue;
        const nib_stats_partial &p = job.partial[k];
        tree[0][i] = p.sum, tree[1][i] = p.sum_sq, tree[2][i] = p.sum_sq_error;
        nonfinite += p.nonfinite, clipped += p.clipped, zeroed += p.zeroed;
        low = max(low, nib_order_key(nib_bits_of(p.range[0])));
        high = max(high, nib_order_key(nib_bits_of(p.range[1])));
    }
    NIB_UNROLL
    for (int i = 0; i < 3; i++) {
        sums[i][t] = (tree[i][0] + tree[i][2]) + (tree[i][1] + tree[i][3]);
    }
    if (nonfinite) atomicAdd(&counts[0], (unsigned long long)nonfinite);
    if (clipped) atomicAdd(&counts[1], (unsigned long long)clipped);
    if (zeroed) atomicAdd(&counts[2], (unsigned long long)zeroed);
    low = __reduce_max_sync(~0u, low), high = __reduce_max_sync(~0u, high);
    if (t % 32 == 0) atomicMax(&keys[0], low), atomicMax(&keys[1], high);
    for (int h = QUARTER / 2; h > 0; h /= 2) {
        __syncthreads();
        if (t >= h) continue;
        NIB_UNROLL
        for (int i = 0; i < 3; i++) sums[i][t] += sums[i][t + h];
    }
    __syncthreads();
    if (t != 0) return;
    nib_tensor_stats part;
    part.elements = job.elements;
    part.nonfinite = counts[0], part.clipped = counts[1], part.zeroed = counts[2];
    part.sum = sums[0][0], part.sum_sq = sums[1][0], part.sum_sq_error = sums[2][0];
    part.range[0] = merged(keys[0]), part.range[1] = merged(keys[1]);
    nib_tensor_stats all = *job.stats;
    nib_tensor_stats_merge(&all, &part);
    *job.stats = all;
}

/* ---- launching ---- */

typedef void (*stats_kernel)(StatsJob);
#define ROW(xd) { tensor_stats<xd, NIB_DT_F32>, tensor_stats<xd, NIB_DT_F16>, \
                  tensor_stats<xd, NIB_DT_BF16> }
static const stats_kernel kernels[3][3] = { ROW(NIB_DT_F32), ROW(NIB_DT_F16), ROW(NIB_DT_BF16) };
#undef ROW

static int64_t size_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

static nib_status check_matrix(const nib_launch *launch, const char *what, const nib_matrix *m)
{
    return nib_cuda_pointer(launch, what, m->data,
                            ((m->rows - 1) * m->ld_elems + m->cols) * size_of(m->dtype));
}

nib_status nib_cuda_observe_stats(const nib_launch *launch, const nib_matrix *src,
                                  const nib_matrix *quantized, const uint8_t *mask,
                                  int64_t ld_mask_bytes, nib_tensor_stats *stats)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    StatsJob job = {};
    job.x = (const uint8_t *)src->data, job.x_ld = src->ld_elems * size_of(src->dtype);
    job.v = (const uint8_t *)quantized->data;
    job.v_ld = quantized->ld_elems * size_of(quantized->dtype);
    job.mask = mask, job.mask_ld = mask ? ld_mask_bytes : 0;
    job.rows = src->rows, job.cols = src->cols;
    job.row_pieces = nib_ceil_div(src->cols, NIB_PIECE);
    job.step_rows = NIB_PARTIALS / job.row_pieces, job.step_pieces = NIB_PARTIALS % job.row_pieces;
    const uintptr_t all = (uintptr_t)job.x | (uintptr_t)job.v | (uintptr_t)job.x_ld
                        | (uintptr_t)job.v_ld;
    job.aligned = all % 16 == 0;
    job.partial = (nib_stats_partial *)launch->workspace;
    const int64_t pieces = src->rows * job.row_pieces;
    const int64_t most = NIB_PARTIALS, partials = pieces < most ? pieces : most;

    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_OBSERVE));
    NIB_CUDA_TRY(check_matrix(launch, "src", src));
    NIB_CUDA_TRY(check_matrix(launch, "quantized", quantized));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "mask", mask,
                                  (src->rows - 1) * job.mask_ld + (src->cols + 7) / 8));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "stats", stats, (int64_t)sizeof *stats));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "exec->workspace", job.partial,
                                  partials * (int64_t)sizeof *job.partial));
    const StatsMerge merge = { job.partial, partials, (uint64_t)src->rows * (uint64_t)src->cols,
                               stats };
    NIB_LAUNCH(kernels[src->dtype][quantized->dtype],
               (unsigned)nib_ceil_div(partials, NIB_STATS_WARPS), dim3(32, NIB_STATS_WARPS), 0,
               stream, job);
    NIB_LAUNCH(tensor_stats_merge, 1, NIB_STATS_MERGE_THREADS, 0, stream, merge);
    return nib_cuda_end(launch, "observe_stats");
}

cudaError_t nib_cuda_load_tensor_stats()
{
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, tensor_stats_merge);
    for (int i = 0; i < 9 && error == cudaSuccess; i++) {
        error = cudaFuncGetAttributes(&attributes, kernels[i / 3][i % 3]);
    }
    return error;
}
