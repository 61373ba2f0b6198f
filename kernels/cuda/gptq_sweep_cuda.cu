/* gptq_sweep_cuda.cu: a layer's inputs rounded one after another, all rows at once. Left-looking,
 * by products for what comes from far and on chip for what is near:
 *
 *     each NIB_GPTQ_PANEL steps   t += d A of all steps before             cublasLt
 *     each NIB_GPTQ_STEPS         t += d A of the panel's steps before     cublasLt
 *     each step                   round t, d = w - q, t += d A within      gptq_block, a warp a row
 *
 * A lane has every 32nd step of the block in registers, and the block's part of A is in shared
 * memory. Products and sums within a block are not fused: they are the CPU's, in its order. */
#include "gptq_scales.cuh"

#include <stdlib.h>

namespace {

enum { STEPS = NIB_GPTQ_STEPS, EACH = STEPS / 32, WARPS = NIB_GPTQ_WARPS };
enum { FROZEN, FRESH, FRESH_HESSIAN }; /* how a block of threads gets scales */

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
template <class T, bool plain_e2m1>
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
    const uint32_t byte = gptq_choose_hessian<T, plain_e2m1>(g, v, n, h[lane], lane);
    if (!lane) g.tile_scales[r * g.groups + blockIdx.x] = (uint8_t)byte;
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

/* ---- a block of steps ---- */

/* Of A's part: element (s, t), s < t, lies at a[triangle_row(s) + t]. */
__device__ __forceinline__ int triangle_row(int s) { return s * (2 * STEPS - s - 3) / 2 - 1; }

enum { TRIANGLE = STEPS * (STEPS - 1) / 2 };

/* The step of the block that the group of step c begins with. */
__device__ __forceinline__ int group_begin(const GptqLayer &g, int64_t first, int c)
{
    const int32_t group = g.order[first + c] / g.block;
    while (c > 0 && g.order[first + c - 1] / g.block == group) c--;
    return c;
}

/* Where row i of the Hessian of the group that begins with step c lies: up to its diagonal. */
__device__ __forceinline__ int hessian_row(const GptqLayer &g, int c, int i)
{
    return c * (g.block / 2 + 1) + i * (i + 1) / 2;
}

/* A's part, and of each step's row of its group's Hessian what comes up to it. */
template <class T, int scales>
__device__ __forceinline__ void load_shared(const GptqLayer &g, int64_t first, int count, T *a,
                                            T *h)
{
    const T *const l = (const T *)g.l;
    const int64_t  top = g.k - 1 - first;
    for (int i = threadIdx.x; i < count * STEPS; i += NIB_GPTQ_THREADS) {
        const int s = i / STEPS, t = i % STEPS;
        if (s < t && t < count) a[triangle_row(s) + t] = l[(top - s) * g.l_ld + top - t];
    }
    if constexpr (scales == FRESH_HESSIAN) {
        const T *const all = (const T *)g.h;
        for (int c = threadIdx.x; c < count; c += NIB_GPTQ_THREADS) {
            const int     begin = group_begin(g, first, c);
            const int64_t p = g.order[first + c];
            for (int j = begin; j <= c; j++) {
                const int64_t q = g.order[first + j];
                h[hessian_row(g, begin, c - begin) + j - begin] =
                    p > q ? all[p * g.h_ld + q] : all[q * g.h_ld + p];
            }
        }
    }
}

/* What a lane has of its steps: of lane + 32 r. */
template <class T> struct Steps {
    T       target[EACH], w[EACH];
    float   factor[EACH], step[EACH];
    int32_t input[EACH];
};

template <class T>
__device__ __forceinline__ void set_scale(const GptqLayer &g, Steps<T> *s, int r, uint32_t byte)
{
    s->factor[r] = nib_block_unit_of(&g.math, byte).factor;
    s->step[r] = gptq_step(g, byte);
}

template <class T, int scales>
__device__ __forceinline__ void load_steps(const GptqLayer &g, int64_t row, int64_t first,
                                           int count, Steps<T> *s)
{
    const T *const d = (const T *)g.d + row * g.k + g.k - 1 - first;
    NIB_UNROLL
    for (int r = 0; r < EACH; r++) {
        const int  c = (int)threadIdx.x % 32 + 32 * r;
        const bool in = c < count;
        s->input[r] = in ? g.order[first + c] : 0;
        s->target[r] = in ? d[-c] : (T)0;
        s->w[r] = in ? (T)gptq_weight(g, row, s->input[r]) : (T)0;
        s->factor[r] = s->step[r] = 0.0f;
        if (scales == FROZEN && in)
            set_scale(g, s, r, g.tile_scales[row * g.groups + s->input[r] / g.block]);
    }
}

/* The scale of the group of n inputs that begins with step c: from what its targets would be if
 * none of them were rounded, which the published loop holds at this point. They differ from the
 * targets by what the weights' own changes carry on within the group. stage: 64 reals of the
 * warp's own. */
template <class T, bool plain_e2m1, int scales>
__device__ __forceinline__ void fresh_scale(const GptqLayer &g, int64_t row, int32_t group, int c,
                                            int n, T *stage, const T *a, const T *h, Steps<T> *s)
{
    const int lane = threadIdx.x % 32;
    __syncwarp(); /* what the last group's readers read */
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        const int at = lane + 32 * i - c;
        if (at >= 0 && at < n) stage[at] = s->target[i], stage[32 + at] = s->w[i];
    }
    __syncwarp();
    T       now = lane < n ? stage[lane] : (T)0;
    const T w = lane < n ? stage[32 + lane] : (T)0;
    NIB_NO_UNROLL
    for (int i = 0; i + 1 < n; i++) {
        const T change = __shfl_sync(GPTQ_ALL_LANES, w - now, i);
        if (lane > i && lane < n) now += change * a[triangle_row(c + i) + c + lane];
    }
    uint32_t byte;
    if constexpr (scales == FRESH_HESSIAN) {
        byte = gptq_choose_hessian<T, plain_e2m1>(g, now, n, h + hessian_row(g, c, lane), lane);
    } else {
        float *const x = (float *)stage;
        __syncwarp();
        if (lane < n) x[lane] = (float)now;
        __syncwarp();
        byte = gptq_choose_plain<plain_e2m1>(g, x, (float)now, n, lane);
    }
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        const int at = lane + 32 * i - c;
        if (at >= 0 && at < n) set_scale(g, s, i, byte);
    }
    if (!lane) g.tile_scales[row * g.groups + group] = (uint8_t)byte;
}

/* Steps [c, end), those of register r: each lane rounds a step of its own, of which step c's is
 * right, and an earlier one's comes out as before. */
template <class T, bool plain_e2m1, int r>
__device__ __forceinline__ void take_steps(const GptqLayer &g, int c, int end, int count,
                                           const T *a, Steps<T> *s)
{
    const int lane = threadIdx.x % 32;
    NIB_NO_UNROLL
    for (c = max(c, 32 * r); c < min(end, 32 * r + 32); c++) {
        uint32_t    code;
        const float q = gptq_rounded<plain_e2m1>(g, (float)s->target[r], s->factor[r], s->step[r],
                                                 &code);
        const T        d = __shfl_sync(GPTQ_ALL_LANES, s->w[r] - (T)q, c % 32);
        const T *const part = a + triangle_row(c);
        NIB_UNROLL
        for (int i = r; i < EACH; i++) {
            const int t = lane + 32 * i;
            if (t > c && t < count) s->target[i] += d * part[t];
        }
    }
}

/* Codes and d of a lane's steps. Returns what they add to the row's error: of H', less what the
 * diagonal had added. */
template <class T, bool plain_e2m1>
__device__ __forceinline__ double store_steps(const GptqLayer &g, int64_t row, int64_t first,
                                              int count, const Steps<T> &s)
{
    double error = 0.0;
    NIB_UNROLL
    for (int r = 0; r < EACH; r++) {
        const int c = (int)threadIdx.x % 32 + 32 * r;
        if (c >= count) continue;
        uint32_t      code;
        const float   q = gptq_rounded<plain_e2m1>(g, (float)s.target[r], s.factor[r], s.step[r],
                                                   &code);
        const int64_t col = g.k - 1 - first - c, p = s.input[r];
        const double  pivot = (double)((const T *)g.l)[col * g.l_ld + col];
        const T       own = ((const T *)g.h)[p * g.h_ld + p];
        const T       e = s.target[r] - (T)q, d = s.w[r] - (T)q;
        if (own != (T)0) /* dead inputs are no part of an error */
            error += (double)(e * (e * (T)(pivot * pivot))) - (double)(d * (d * (T)g.added));
        ((T *)g.d)[row * g.k + col] = d;
        g.tile_codes[row * g.k + p] = (uint8_t)code;
    }
    return error;
}

/* Shared memory: A's part, the groups' Hessians, and 64 reals a warp. */
template <class T> size_t shared_bytes(int scales, int block)
{
    const int hessians = scales == FRESH_HESSIAN ? STEPS * (block / 2 + 1) : 0;
    return (size_t)(TRIANGLE + hessians + (scales == FROZEN ? 0 : WARPS * 64)) * sizeof(T);
}

/* Steps [first, first + count) of g's rows, whose columns of d hold the targets; a group of inputs
 * after another where scales are fresh. Codes, d and errors are written, and fresh scales. */
template <class T, bool plain_e2m1, int scales>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS, 2) /* else registers are spilt for a third */
gptq_block(const GptqLayer g, int64_t first, int count)
{
    NIB_SHARED_DYNAMIC(dynamic);
    T *const      a = (T *)dynamic, *const h = a + TRIANGLE;
    T *const      stage = h + (scales == FRESH_HESSIAN ? STEPS * (g.block / 2 + 1) : 0);
    const int     lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t row = (int64_t)blockIdx.x * WARPS + warp;
    load_shared<T, scales>(g, first, count, a, h);
    __syncthreads();
    if (row >= g.rows) return;
    Steps<T> s;
    load_steps<T, scales>(g, row, first, count, &s);
    NIB_NO_UNROLL
    for (int c = 0, end; c < count; c = end) {
        end = count;
        if constexpr (scales != FROZEN) {
            const int32_t group = g.order[first + c] / g.block;
            const int64_t left = g.k - (int64_t)group * g.block;
            const int     n = left < g.block ? (int)left : g.block;
            fresh_scale<T, plain_e2m1, scales>(g, row, group, c, n, stage + 64 * warp, a, h, &s);
            end = c + n;
        }
        static_assert(EACH == 4, "these are all");
        take_steps<T, plain_e2m1, 0>(g, c, end, count, a, &s);
        take_steps<T, plain_e2m1, 1>(g, c, end, count, a, &s);
        take_steps<T, plain_e2m1, 2>(g, c, end, count, a, &s);
        take_steps<T, plain_e2m1, 3>(g, c, end, count, a, &s);
    }
    double error = store_steps<T, plain_e2m1>(g, row, first, count, s);
    for (int by = 16; by; by /= 2) error += __shfl_xor_sync(GPTQ_ALL_LANES, error, by);
    if (lane) return;
    double *const swept = g.swept + g.row + row;
    const double  sum = first ? *swept + error : error;
    const bool    is_last = first + count == g.k;
    *swept = is_last && sum < 0.0 ? 0.0 : sum; /* the difference of two sums that are alike */
}

/* ---- launching ---- */

typedef void (*block_kernel)(GptqLayer, int64_t, int);

template <class T> block_kernel block_of(bool plain_e2m1, int scales)
{
    static const block_kernel all[2][3] = {
        { gptq_block<T, false, FROZEN>, gptq_block<T, false, FRESH>,
          gptq_block<T, false, FRESH_HESSIAN> },
        { gptq_block<T, true, FROZEN>, gptq_block<T, true, FRESH>,
          gptq_block<T, true, FRESH_HESSIAN> },
    };
    return all[plain_e2m1][scales];
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
    LtChoice                far, near;
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
nib_status carry(Sweep *s, int64_t from, int64_t first, int64_t last, LtChoice *choice)
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
    return nib_cuda_lt_product(s->launch, p, nib_cuda_workspace(s->launch), NIB_GPTQ_LT_WORKSPACE,
                               choice);
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
    if (s->request->scales < NIB_GPTQ_SCALES_HESSIAN)
        NIB_LAUNCH(gptq_take_scales, by_group, NIB_GPTQ_THREADS, 0, stream, g);
    else if (g.plain_e2m1)
        NIB_LAUNCH((gptq_scales<T, true>), tiles, NIB_GPTQ_THREADS, 0, stream, g);
    else
        NIB_LAUNCH((gptq_scales<T, false>), tiles, NIB_GPTQ_THREADS, 0, stream, g);
}

template <class T> nib_status sweep_rows(Sweep *s)
{
    const GptqLayer   &g = s->layer;
    const cudaStream_t stream = (cudaStream_t)s->launch->stream;
    start_rows<T>(s);
    for (int64_t panel = 0, panel_end; panel < g.k; panel = panel_end) {
        panel_end = end_of(*s, panel, NIB_GPTQ_PANEL);
        NIB_CUDA_TRY(carry(s, 0, panel, panel_end, &s->far));
        for (int64_t first = panel, last; first < panel_end; first = last) {
            last = least(end_of(*s, first, STEPS), panel_end);
            NIB_CUDA_TRY(carry(s, panel, first, last, &s->near));
            NIB_LAUNCH(s->kernel, (unsigned)nib_ceil_div(g.rows, (int64_t)WARPS),
                       NIB_GPTQ_THREADS, s->shared, stream, g, first, (int)(last - first));
        }
    }
    const dim3 by_group((unsigned)nib_ceil_div(g.groups, (int64_t)NIB_GPTQ_THREADS),
                        (unsigned)g.rows);
    NIB_LAUNCH(gptq_finish, by_group, NIB_GPTQ_THREADS, 0, stream, g, (int)s->request->guard);
    return NIB_OK;
}

template <class T> nib_status sweep(Sweep *s)
{
    const int64_t rows = s->request->w->rows;
    s->kernel = block_of<T>(s->layer.plain_e2m1 != 0, s->scales);
    s->shared = shared_bytes<T>(s->scales, s->layer.block);
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

template <class T> cudaError_t load_block(bool plain_e2m1, int scales)
{
    cudaFuncAttributes a;
    const auto         kernel = block_of<T>(plain_e2m1, scales);
    cudaError_t        error = cudaFuncGetAttributes(&a, (const void *)kernel);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)shared_bytes<T>(scales, GPTQ_MOST_BLOCK));
}

} // namespace

nib_status nib_cuda_gptq_sweep(const nib_launch *launch, const nib_gptq_request *request,
                               nib_gptq_sums *sums)
{
    const int64_t rows = request->w->rows, k = request->w->cols;
    const nib_gptq_scales scales = request->scales;
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GPTQ));
    Sweep s = {};
    s.launch = launch, s.request = request;
    s.room = gptq_room(request->factor->real, rows, k);
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
        (const void *)gptq_scales<float, false>, (const void *)gptq_scales<float, true>,
        (const void *)gptq_scales<double, false>, (const void *)gptq_scales<double, true>,
    };
    cudaError_t error = cudaSuccess;
    for (const void *kernel : kernels)
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, kernel);
    for (int i = 0; i < 6 && error == cudaSuccess; i++) {
        error = load_block<float>(i % 2 != 0, i / 2);
        if (error == cudaSuccess) error = load_block<double>(i % 2 != 0, i / 2);
    }
    return error;
}
