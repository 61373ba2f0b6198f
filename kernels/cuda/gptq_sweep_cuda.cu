/* gptq_sweep_cuda.cu: a layer's inputs rounded one after another, all rows at once. Left-looking,
 * by products for what comes from far and on chip for what is near:
 *
 *     each NIB_GPTQ_PANEL steps   t += d A of all steps before             cublasLt
 *     each NIB_GPTQ_STEPS         t += d A of the panel's steps before     cublasLt
 *     each step                   round t, d = w - q, t += d A within      gptq_block, a warp a row
 *
 * A lane has every 32nd step of the block in registers, and the block's part of A is in shared
 * memory: gptq_block.cuh. Products and sums within a block are not fused: they are the CPU's, in
 * its order. */
#include "gptq_block.cuh"

#include <stdlib.h>

namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- before and after the steps ---- */

/* d = the weights, column k-1-s the input of step s. Blocks: columns along x, a row along y. */
template <class T> __global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_start(const GptqLayer g)
{
    const int64_t col = (int64_t)blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x, r = blockIdx.y;
    if (col < g.k) ((T *)g.d)[r * g.k + col] = (T)gptq_weight(g, r, g.order[g.k - 1 - col]);
}

/* The scales of the plain rounding. Blocks: groups along x, a row along y. */
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_take_scales(const GptqLayer g)
{
    const int64_t at = (int64_t)blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x, r = blockIdx.y;
    if (at >= g.groups) return;
    g.tile_scales[r * g.groups + at] =
        g.scales[nib_scale_index((nib_scale_layout)g.layout, g.row + r, at, g.groups)];
}

/* Scales by the Hessian of the weights themselves. Blocks: a group along x, rows along y. */
template <class T, int kind>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_scales(const GptqLayer g)
{
    NIB_SHARED(T, h, [GPTQ_MOST_BLOCK][GPTQ_MOST_BLOCK]);
    const int64_t col = (int64_t)blockIdx.x * g.block, left = g.k - col;
    const int     n = left < g.block ? (int)left : g.block, lane = threadIdx.x % 32;
    const int64_t r = (int64_t)blockIdx.y * WARPS + threadIdx.x / 32;
    for (int i = threadIdx.x; i < n * GPTQ_MOST_BLOCK; i += NIB_GPTQ_THREADS) {
        const int row = i / GPTQ_MOST_BLOCK, at = i % GPTQ_MOST_BLOCK;
        if (at <= row) h[row][at] = ((const T *)g.h)[(col + row) * g.h_ld + col + at];
    }
    __syncthreads();
    if (r >= g.rows) return;
    const T v = lane < n ? (T)gptq_weight(g, r, col + lane) : (T)0;
    const uint32_t byte = gptq_choose_hessian<T, kind>(g, v, n, h[lane], lane);
    if (!lane) g.tile_scales[r * g.groups + blockIdx.x] = (uint8_t)byte;
}

/* The same of integers. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_choose_steps(const GptqLayer g)
{
    const int64_t col = (int64_t)blockIdx.x * g.block, left = g.k - col;
    const int     n = left < g.block ? (int)left : g.block, lane = threadIdx.x % 32;
    const int64_t r = (int64_t)blockIdx.y * WARPS + threadIdx.x / 32;
    T             v[EACH];
    int32_t       input[EACH];
    if (r >= g.rows) return;
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        const int t = lane + 32 * i;
        input[i] = (int32_t)col + (t < n ? t : 0);
        v[i] = t < n ? (T)gptq_weight(g, r, input[i]) : (T)0;
    }
    store_step(g, r, blockIdx.x, choose_step<T, true>(g, v, input, 0, n));
}

/* Byte b of n codes of a block, as nib_pack_codes has it. */
__device__ __forceinline__ uint8_t packed_byte(const GptqLayer &g, const uint8_t *codes, int n,
                                               int b)
{
    if (g.bits == 8) return codes[b];
    if (g.bits == 4 && g.halves) return (uint8_t)(codes[b] | codes[b + n / 2] << 4);
    if (g.bits == 4)
        return (uint8_t)(codes[2 * b] | (2 * b + 1 < n ? codes[2 * b + 1] << 4 : 0));
    uint32_t  word = 0;
    const int first = b / 3 * 4;
    for (int i = 0; i < 4; i++) if (first + i < n) word |= (uint32_t)codes[first + i] << 6 * i;
    return (uint8_t)(word >> 8 * (b % 3));
}

/* Rows that became better, into dst. Blocks: groups along x, a row along y. */
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_finish(const GptqLayer g, int guard)
{
    const int64_t at = (int64_t)blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x, r = blockIdx.y;
    const int64_t row = g.row + r, col = at * g.block, left = g.k - col;
    if (at >= g.groups || (guard && !(g.swept[row] < g.plain[row]))) return;
    const int            n = left < g.block ? (int)left : g.block;
    const int            bytes = (int)nib_code_bytes(g.bits, n);
    const uint8_t *const codes = g.tile_codes + r * g.k + col;
    uint8_t *const       to = g.codes + row * g.codes_ld + col / 8 * g.bits;
    for (int b = 0; b < bytes; b++) to[b] = packed_byte(g, codes, n, b);
    g.scales[nib_scale_index((nib_scale_layout)g.layout, row, at, g.groups)] =
        g.tile_scales[r * g.groups + at];
}

/* The same of integers. Blocks: units of 8 inputs along x, a row along y. */
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_finish_steps(const GptqLayer g, int guard)
{
    const int64_t unit = (int64_t)blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x, r = blockIdx.y;
    const int64_t row = g.row + r, col = unit * NIB_GRID_UNIT, group = col / g.block;
    if (col >= g.k || (guard && !(g.swept[row] < g.plain[row]))) return;
    const int64_t        left = g.k - col;
    const int            n = left < NIB_GRID_UNIT ? (int)left : NIB_GRID_UNIT;
    const uint8_t *const codes = g.tile_codes + r * g.k + col;
    uint8_t *const       to = g.codes + row * g.codes_ld + col / 8 * g.bits;
    for (int i = 0; i < n; i += 8 / g.bits) {
        const uint32_t next = i + 1 < n ? codes[i + 1] : 0u;
        if (g.bits == 8) to[i] = codes[i];
        else to[i / 2] = (uint8_t)((codes[i] & 15u) | next << 4);
    }
    if (!g.tile_steps || col != group * g.block) return;
    const int64_t at = row * g.groups + group, from = r * g.groups + group;
    g.steps[at] = g.tile_steps[from];
    if (g.zeros) g.zeros[at] = (int8_t)(g.grid.lo - g.tile_lows[from]);
}

/* ---- a block of steps ---- */

/* Shared memory: A's part; but for integers the groups' Hessians, and 64 reals a warp. */
template <class T> size_t shared_bytes(int kind, int scales, int block)
{
    if (kind == GPTQ_INTEGER) scales = FROZEN;
    const int hessians = scales == FRESH_HESSIAN ? STEPS * (block / 2 + 1) : 0;
    return (size_t)(TRIANGLE + hessians + (scales == FROZEN ? 0 : WARPS * 64)) * sizeof(T);
}

/* Steps [first, first + count) of g's rows, whose columns of d hold the targets; a group of inputs
 * after another where scales are fresh. Codes, d and errors are written, and fresh scales. */
template <class T, int kind, int scales>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS, 2) /* else registers are spilt for a third */
gptq_block(const GptqLayer g, int64_t first, int count)
{
    NIB_SHARED_DYNAMIC(dynamic);
    T *const      a = (T *)dynamic, *const h = a + TRIANGLE;
    constexpr int shared = kind == GPTQ_INTEGER ? FROZEN : scales;
    T *const      stage = h + (shared == FRESH_HESSIAN ? STEPS * (g.block / 2 + 1) : 0);
    const int     lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t row = (int64_t)blockIdx.x * WARPS + warp;
    load_shared<T, shared>(g, first, count, a, h);
    __syncthreads();
    if (row >= g.rows) return;
    Steps<T> s;
    load_steps<T, kind, scales>(g, row, first, count, &s);
    NIB_NO_UNROLL
    for (int c = 0, end; c < count; c = end) {
        end = count;
        if constexpr (scales != FROZEN) {
            const int32_t group = g.order[first + c] / g.block;
            const int64_t left = g.k - (int64_t)group * g.block;
            const int     n = left < g.block ? (int)left : g.block;
            end = c + n;
            if constexpr (kind == GPTQ_INTEGER)
                fresh_step<T, scales == FRESH_HESSIAN>(g, row, group, c, end, a, &s);
            else
                fresh_scale<T, kind, scales>(g, row, group, c, n, stage + 64 * warp, a, h, &s);
        }
        static_assert(EACH == 4, "these are all");
        take_steps<T, kind, 0>(g, c, end, count, a, &s);
        take_steps<T, kind, 1>(g, c, end, count, a, &s);
        take_steps<T, kind, 2>(g, c, end, count, a, &s);
        take_steps<T, kind, 3>(g, c, end, count, a, &s);
    }
    double error = store_steps<T, kind>(g, row, first, count, s);
    for (int by = 16; by; by /= 2) error += __shfl_xor_sync(GPTQ_ALL_LANES, error, by);
    if (lane) return;
    double *const swept = g.swept + g.row + row;
    const double  sum = first ? *swept + error : error;
    const bool    is_last = first + count == g.k;
    *swept = is_last && sum < 0.0 ? 0.0 : sum; /* the difference of two sums that are alike */
}

/* ---- launching ---- */

typedef void (*block_kernel)(GptqLayer, int64_t, int);

template <class T> block_kernel block_of(int kind, int scales)
{
    static const block_kernel all[GPTQ_KINDS][3] = {
        { gptq_block<T, GPTQ_ANY, FROZEN>, gptq_block<T, GPTQ_ANY, FRESH>,
          gptq_block<T, GPTQ_ANY, FRESH_HESSIAN> },
        { gptq_block<T, GPTQ_E2M1, FROZEN>, gptq_block<T, GPTQ_E2M1, FRESH>,
          gptq_block<T, GPTQ_E2M1, FRESH_HESSIAN> },
        { gptq_block<T, GPTQ_INTEGER, FROZEN>, gptq_block<T, GPTQ_INTEGER, FRESH>,
          gptq_block<T, GPTQ_INTEGER, FRESH_HESSIAN> },
    };
    return all[kind][scales];
}

struct Sweep {
    const nib_launch       *launch;
    const nib_gptq_request *request;
    GptqRoom                room;
    GptqLayer               layer;
    const int32_t          *order; /* the host's, or NULL if blocks of steps may begin anywhere */
    int                     scales;
    block_kernel            kernel;
    size_t                  shared;
};

/* As many whole groups, or steps, as fit into this many. */
int64_t end_of(const Sweep &s, int64_t first, int64_t most)
{
    const int64_t k = s.layer.k, block = s.layer.block;
    if (!s.order) return least(first + most, k);
    int64_t end = first;
    while (end < k) {
        const int64_t next = end + least(block, k - s.order[end] / block * block);
        if (next - first > most) break;
        end = next;
    }
    return end;
}

/* t of steps [first, last) += what steps [from, first) left of errors. */
nib_status carry(Sweep *s, int64_t from, int64_t first, int64_t last)
{
    const GptqLayer &g = s->layer;
    const nib_real   real = s->request->factor->real;
    const size_t     size = nib_cuda_real_bytes(real);
    LtProduct        p = {};
    if (from == first) return NIB_OK;
    p.sums = real == NIB_REAL_F64 ? LT_F64 : LT_F32, p.strict = p.adds = true;
    p.a_dtype = p.d_dtype = NIB_F32, p.factor = 1.0f;
    p.m = g.rows, p.n = last - first, p.k = first - from;
    p.a_ld = p.d_ld = g.k, p.w_ld = g.l_ld;
    p.a = (const uint8_t *)g.d + (size_t)(g.k - first) * size;
    p.w = (const uint8_t *)g.l + (size_t)((g.k - first) * g.l_ld + g.k - last) * size;
    p.d = (uint8_t *)g.d + (size_t)(g.k - last) * size;
    return nib_cuda_lt_product(s->launch, p, nib_cuda_workspace(s->launch), NIB_GPTQ_LT_WORKSPACE);
}

template <class T> void start_rows(Sweep *s)
{
    const GptqLayer   &g = s->layer;
    const cudaStream_t stream = (cudaStream_t)s->launch->stream;
    const dim3 by_col((unsigned)nib_ceil_div(g.k, (int64_t)NIB_GPTQ_THREADS), (unsigned)g.rows);
    const dim3 by_group((unsigned)nib_ceil_div(g.groups, (int64_t)NIB_GPTQ_THREADS),
                        (unsigned)g.rows);
    const dim3 tiles((unsigned)g.groups, (unsigned)nib_ceil_div(g.rows, (int64_t)WARPS));
    NIB_LAUNCH(gptq_start<T>, by_col, NIB_GPTQ_THREADS, 0, stream, g);
    if (s->scales != FROZEN) return;
    const bool by_hessian = s->request->scales >= NIB_GPTQ_SCALES_HESSIAN;
    if (g.kind == GPTQ_INTEGER) {
        if (by_hessian) NIB_LAUNCH(gptq_choose_steps<T>, tiles, NIB_GPTQ_THREADS, 0, stream, g);
        return;
    }
    if (!by_hessian)
        NIB_LAUNCH(gptq_take_scales, by_group, NIB_GPTQ_THREADS, 0, stream, g);
    else if (g.kind == GPTQ_E2M1)
        NIB_LAUNCH((gptq_scales<T, GPTQ_E2M1>), tiles, NIB_GPTQ_THREADS, 0, stream, g);
    else
        NIB_LAUNCH((gptq_scales<T, GPTQ_ANY>), tiles, NIB_GPTQ_THREADS, 0, stream, g);
}

template <class T> nib_status sweep_rows(Sweep *s)
{
    const GptqLayer   &g = s->layer;
    const cudaStream_t stream = (cudaStream_t)s->launch->stream;
    start_rows<T>(s);
    for (int64_t panel = 0, panel_end; panel < g.k; panel = panel_end) {
        panel_end = end_of(*s, panel, NIB_GPTQ_PANEL);
        NIB_CUDA_TRY(carry(s, 0, panel, panel_end));
        for (int64_t first = panel, last; first < panel_end; first = last) {
            last = least(end_of(*s, first, STEPS), panel_end);
            NIB_CUDA_TRY(carry(s, panel, first, last));
            NIB_LAUNCH(s->kernel, (unsigned)nib_ceil_div(g.rows, (int64_t)WARPS),
                       NIB_GPTQ_THREADS, s->shared, stream, g, first, (int)(last - first));
        }
    }
    const dim3 by_group((unsigned)nib_ceil_div(g.groups, (int64_t)NIB_GPTQ_THREADS),
                        (unsigned)g.rows);
    const dim3 by_unit((unsigned)nib_ceil_div(g.k, (int64_t)NIB_GPTQ_THREADS * NIB_GRID_UNIT),
                       (unsigned)g.rows);
    if (g.kind == GPTQ_INTEGER)
        NIB_LAUNCH(gptq_finish_steps, by_unit, NIB_GPTQ_THREADS, 0, stream, g,
                   (int)s->request->guard);
    else
        NIB_LAUNCH(gptq_finish, by_group, NIB_GPTQ_THREADS, 0, stream, g, (int)s->request->guard);
    return NIB_OK;
}

template <class T> nib_status sweep(Sweep *s)
{
    const int64_t rows = s->request->w->rows;
    s->kernel = block_of<T>(s->layer.kind, s->scales);
    s->shared = shared_bytes<T>(s->layer.kind, s->scales, s->layer.block);
    for (int64_t row = 0; row < rows; row += NIB_GPTQ_ROWS) {
        if (s->request->cancel && *(const volatile int32_t *)s->request->cancel)
            return NIB_ERR_CANCELLED;
        nib_cuda_gptq_rows(s->launch, s->room, row, least(NIB_GPTQ_ROWS, rows - row), &s->layer);
        NIB_CUDA_TRY(sweep_rows<T>(s));
        if (!s->request->cancel || row + NIB_GPTQ_ROWS >= rows) continue;
        const cudaError_t error = cudaStreamSynchronize((cudaStream_t)s->launch->stream);
        if (error != cudaSuccess) return nib_cuda_failed(s->launch->why, "gptq_sweep", error);
    }
    return NIB_OK;
}

/* What the rows' errors come to, by the comparison that gptq_finish made. */
nib_status sum_up(const Sweep &s, double *errors, nib_gptq_sums *sums)
{
    const int64_t rows = s.request->w->rows;
    const size_t  bytes = (size_t)rows * sizeof *errors;
    double *const plain = errors + rows;
    NIB_CUDA_TRY(nib_cuda_fetch(s.launch, "gptq_sweep", errors, s.layer.swept, bytes));
    if (s.request->guard)
        NIB_CUDA_TRY(nib_cuda_fetch(s.launch, "gptq_sweep", plain, s.layer.plain, bytes));
    sums->error = 0.0;
    sums->plain_rows = 0;
    for (int64_t row = 0; row < rows; row++) {
        const bool kept = s.request->guard && !(errors[row] < plain[row]);
        sums->plain_rows += kept;
        sums->error += kept ? plain[row] : errors[row];
    }
    return NIB_OK;
}

template <class T> cudaError_t load_block(int kind, int scales)
{
    cudaFuncAttributes a;
    const auto         kernel = block_of<T>(kind, scales);
    cudaError_t error = cudaFuncGetAttributes(&a, (const void *)kernel);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)shared_bytes<T>(kind, scales, GPTQ_MOST_BLOCK));
}

} // namespace

nib_status nib_cuda_gptq_sweep(const nib_launch *launch, const nib_gptq_request *request,
                               nib_gptq_sums *sums)
{
    const int64_t rows = request->w->rows, k = request->w->cols;
    const nib_gptq_scales scales = request->scales;
    NIB_CUDA_TRY(nib_cuda_begin_waiting(launch, NIB_PREPARE_GPTQ));
    Sweep s = {};
    s.launch = launch, s.request = request;
    s.room = gptq_room(request->factor->real, rows, k, nib_cuda_gptq_group(request));
    s.scales = scales == NIB_GPTQ_SCALES_FRESH           ? FRESH
             : scales == NIB_GPTQ_SCALES_HESSIAN_FRESH ? FRESH_HESSIAN : FROZEN;
    NIB_CUDA_TRY(nib_cuda_gptq_layer(launch, request, &s.layer));
    const size_t   bytes = (size_t)k * sizeof(int32_t);
    int32_t *const order = s.scales != FROZEN ? (int32_t *)malloc(bytes) : nullptr;
    double *const  errors = (double *)malloc(2 * (size_t)rows * sizeof *errors);
    nib_status status = errors && (order || s.scales == FROZEN) ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    s.order = order;
    if (status == NIB_OK && order)
        status = nib_cuda_fetch(launch, "factor->order", order, request->factor->order, bytes);
    if (status == NIB_OK)
        status = request->factor->real == NIB_REAL_F64 ? sweep<double>(&s) : sweep<float>(&s);
    if (status == NIB_OK) status = nib_cuda_end(launch, "gptq_sweep");
    if (status == NIB_OK) status = sum_up(s, errors, sums);
    free(order);
    free(errors);
    return status;
}

cudaError_t nib_cuda_load_gptq_sweep()
{
    cudaFuncAttributes a;
    const void *const  kernels[] = {
        (const void *)gptq_start<float>, (const void *)gptq_start<double>,
        (const void *)gptq_take_scales, (const void *)gptq_finish,
        (const void *)gptq_finish_steps, (const void *)gptq_choose_steps<float>,
        (const void *)gptq_choose_steps<double>,
        (const void *)gptq_scales<float, GPTQ_ANY>, (const void *)gptq_scales<float, GPTQ_E2M1>,
        (const void *)gptq_scales<double, GPTQ_ANY>, (const void *)gptq_scales<double, GPTQ_E2M1>,
    };
    cudaError_t error = cudaSuccess;
    for (const void *kernel : kernels)
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, kernel);
    for (int i = 0; i < 3 * GPTQ_KINDS && error == cudaSuccess; i++) {
        error = load_block<float>(i / 3, i % 3);
        if (error == cudaSuccess) error = load_block<double>(i / 3, i % 3);
    }
    return error;
}
