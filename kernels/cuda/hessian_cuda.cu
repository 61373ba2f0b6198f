/* hessian_cuda.cu: sums of x x^T by cublasLt, a tile's rows of the lower triangle at a time:
 *
 *     H[i, 0 .. i)   += X_i^T X[0 .. i)       in place
 *     H[i, i], j <= i  : X_i^T X_i to the workspace, whose lower triangle is added
 *
 * Products come one after another and none is cut along the tokens, so that bits do not change from
 * run to run. bf16 and f16 tokens are multiplied as they are: their products are exact in f32. For
 * sums in f64 tokens are converted, a part of the rows at a time. Workspace: cublasLt's own, the
 * diagonal tile, and those doubles. Of rows in groups, sizes are fetched, since cublasLt takes them
 * from the host: a kernel of our own would leave its tensor cores' speed, or its bits. */
#include "cublaslt.cuh"
#include "gptq_job.cuh"

#include "kernels/common/groups.h"
#include "kernels/common/half.h"

#include <stdlib.h>

namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- kernels ---- */

/* What becomes of the number of tokens. to may be NULL. */
struct Count {
    uint64_t       *to;
    const uint64_t *from; /* or NULL */
    uint64_t        more;
};

template <class T> struct Triangle {
    const T *from; /* adds: n x n as well */
    T       *to;
    int64_t  from_ld, to_ld, n;
};

/* to = 0, or += from, where j <= i. Blocks: columns along x, rows along y. */
template <class T, bool adds>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
hessian_triangle(const Triangle<T> t, const Count count)
{
    const int64_t col = (int64_t)blockIdx.x * NIB_GPTQ_TRIANGLE + threadIdx.x % NIB_GPTQ_TRIANGLE;
    const int     down = NIB_GPTQ_THREADS / NIB_GPTQ_TRIANGLE;
    if (count.to && !blockIdx.x && !blockIdx.y && !threadIdx.x)
        *count.to = !adds ? 0
                  : nib_tokens_sum(nib_tokens_sum(*count.to, count.from ? *count.from : 0),
                                   count.more);
    for (int64_t top = (int64_t)blockIdx.y * NIB_GPTQ_TRIANGLE; top < t.n;
         top += (int64_t)gridDim.y * NIB_GPTQ_TRIANGLE) {
        NIB_UNROLL
        for (int i = 0; i < NIB_GPTQ_TRIANGLE; i += down) {
            const int64_t row = top + i + threadIdx.x / NIB_GPTQ_TRIANGLE;
            if (row >= t.n || col > row) continue;
            T *const to = t.to + row * t.to_ld + col;
            *to = adds ? *to + t.from[row * t.from_ld + col] : (T)0;
        }
    }
}

struct Widen {
    const void *x;
    double     *to; /* rows x k without gaps */
    int64_t     rows, k, ld;
    int         dtype;
};

__global__ void __launch_bounds__(NIB_GPTQ_THREADS) hessian_widen(const Widen w)
{
    const int64_t col = (int64_t)blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x;
    if (col >= w.k) return;
    for (int64_t row = blockIdx.y; row < w.rows; row += gridDim.y)
        w.to[row * w.k + col] = (double)nib_load_f32(w.dtype, w.x, row * w.ld + col);
}

/* A 2 x 2 Hadamard from both sides, on rows i and i + s and columns j and j + s of the triangle. */
template <class T>
__device__ __forceinline__ void rotate_pairs(T *h, int64_t ld, int64_t i, int64_t j, int64_t s,
                                             T factor)
{
    T *const a = h + i * ld + j, *const b = a + s * ld, *const d = b + s;
    T *const c = j + s > i ? h + (j + s) * ld + i : a + s; /* b, if i is j */
    const T ab = *a + *b, a_b = *a - *b, cd = *c + *d, c_d = *c - *d;
    *a = (ab + cd) * factor;
    *d = (a_b - c_d) * factor;
    if (b != c) *c = (ab - cd) * factor;
    *b = (a_b + c_d) * factor;
}

/* H_block from both sides, one of its factors of 2 x 2 after another, each of which leaves the tile
 * symmetric if it was. Blocks: a tile each, columns along x, rows along y. In place in global
 * memory: it is the block's alone. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
hessian_rotate(T *h, int64_t ld, int64_t k, int block)
{
    const int     half = NIB_HESSIAN_ROTATE / 2;
    const int64_t left = (int64_t)blockIdx.x * NIB_HESSIAN_ROTATE;
    for (int64_t top = (int64_t)blockIdx.y * NIB_HESSIAN_ROTATE; top < k;
         top += (int64_t)gridDim.y * NIB_HESSIAN_ROTATE) {
        if (left > top) continue;
        for (int s = 1; s < block; s *= 2) {
            const T factor = 2 * s < block ? (T)1 : (T)1 / (T)block; /* exact */
            for (int q = threadIdx.x; q < half * half; q += NIB_GPTQ_THREADS) {
                /* The number of a row or column whose bit s is 0, among those. */
                const int     r = q / half, c = q % half;
                const int64_t i = top + (r / s * 2 * s + r % s), j = left + (c / s * 2 * s + c % s);
                if (i + s < k && j <= i) rotate_pairs(h, ld, i, j, s, factor);
            }
            __syncthreads();
        }
    }
}

/* ---- launching ---- */

dim3 triangle_grid(int64_t n) /* n may be 0: tokens are counted all the same */
{
    const int64_t side = most(nib_ceil_div(n, (int64_t)NIB_GPTQ_TRIANGLE), 1);
    return dim3((unsigned)side, (unsigned)least(side, 65535));
}

template <class T, bool adds>
void launch_triangle(const nib_launch *launch, const void *from, int64_t from_ld, void *to,
                     int64_t to_ld, int64_t n, Count count)
{
    const Triangle<T> t = { (const T *)from, (T *)to, from_ld, to_ld, n };
    NIB_LAUNCH((hessian_triangle<T, adds>), triangle_grid(n), NIB_GPTQ_THREADS, 0,
               (cudaStream_t)launch->stream, t, count);
}

/* Where things lie in the workspace of an add. */
struct Room {
    int64_t side, chunk; /* of the tile; tokens converted at a time, 0: none */
    size_t  tile, wide, bytes;
};

Room room_of(const nib_hessian *h, int64_t rows)
{
    Room r;
    r.side = least(h->k, NIB_HESSIAN_TILE);
    r.chunk = h->real == NIB_REAL_F64
        ? least(rows, most(NIB_HESSIAN_WIDE / most(h->k, 1), NIB_HESSIAN_WIDE_LEAST)) : 0;
    r.tile = NIB_GPTQ_LT_WORKSPACE;
    r.wide = r.tile + nib_cuda_up256((size_t)(r.side * r.side) * nib_cuda_real_bytes(h->real));
    r.bytes = r.wide + (size_t)(r.chunk * h->k) * sizeof(double);
    return r;
}

/* ---- one add ---- */

struct Add {
    const nib_launch  *launch;
    const nib_hessian *h;
    LtProduct          product; /* dtypes and leading dimensions */
    Room               room;
    size_t             x_bytes; /* of an element of x as it is multiplied */
};

nib_status add_tile(Add *a, const uint8_t *x, int64_t rows, int64_t from, uint64_t tokens)
{
    const nib_hessian *const h = a->h;
    const size_t   real = nib_cuda_real_bytes(h->real);
    const int64_t  side = least(NIB_HESSIAN_TILE, h->k - from);
    uint8_t *const row = (uint8_t *)h->data + (size_t)(from * h->ld_elems) * real;
    uint8_t *const workspace = nib_cuda_workspace(a->launch);
    uint8_t *const tile = workspace + a->room.tile;
    LtProduct      p = a->product;
    p.m = side, p.k = rows;
    p.a = x + (size_t)from * a->x_bytes;
    if (from) {
        p.n = from, p.w = x, p.d = row, p.d_ld = h->ld_elems, p.adds = true;
        NIB_CUDA_TRY(nib_cuda_lt_product(a->launch, p, workspace, NIB_GPTQ_LT_WORKSPACE));
    }
    p.n = side, p.w = p.a, p.d = tile, p.d_ld = side, p.adds = false;
    NIB_CUDA_TRY(nib_cuda_lt_product(a->launch, p, workspace, NIB_GPTQ_LT_WORKSPACE));
    const Count count = { from ? nullptr : h->tokens, nullptr, tokens };
    if (h->real == NIB_REAL_F64)
        launch_triangle<double, true>(a->launch, tile, side, row + (size_t)from * real,
                                      h->ld_elems, side, count);
    else
        launch_triangle<float, true>(a->launch, tile, side, row + (size_t)from * real, h->ld_elems,
                                     side, count);
    return NIB_OK;
}

nib_status add_rows(Add *a, const uint8_t *x, int64_t rows)
{
    for (int64_t from = 0; from < a->h->k; from += NIB_HESSIAN_TILE)
        NIB_CUDA_TRY(add_tile(a, x, rows, from, (uint64_t)rows));
    return NIB_OK;
}

nib_status add_converted(Add *a, const nib_matrix *x)
{
    double *const wide = (double *)(nib_cuda_workspace(a->launch) + a->room.wide);
    const int64_t k = a->h->k, size = x->dtype == NIB_F32 ? 4 : 2;
    for (int64_t row = 0; row < x->rows; row += a->room.chunk) {
        const int64_t rows = least(a->room.chunk, x->rows - row);
        const Widen   w = { (const uint8_t *)x->data + row * x->ld_elems * size, wide, rows, k,
                            x->ld_elems, (int)x->dtype };
        const dim3    grid((unsigned)nib_ceil_div(k, (int64_t)NIB_GPTQ_THREADS),
                           (unsigned)least(rows, 65535));
        NIB_LAUNCH(hessian_widen, grid, NIB_GPTQ_THREADS, 0, (cudaStream_t)a->launch->stream, w);
        NIB_CUDA_TRY(add_rows(a, (const uint8_t *)wide, rows));
    }
    return NIB_OK;
}

} // namespace

nib_status nib_cuda_hessian_begin(const nib_launch *launch, const nib_hessian *h)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GPTQ));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "hessian->data", h->data,
                                  nib_cuda_square_bytes(h->real, h->k, h->ld_elems)));
    return nib_cuda_pointer(launch, "hessian->tokens", h->tokens, 8);
}

nib_status nib_cuda_hessian_clear(const nib_launch *launch, const nib_hessian *h)
{
    NIB_CUDA_TRY(nib_cuda_hessian_begin(launch, h));
    const Count count = { h->tokens, nullptr, 0 };
    if (h->real == NIB_REAL_F64)
        launch_triangle<double, false>(launch, nullptr, 0, h->data, h->ld_elems, h->k, count);
    else
        launch_triangle<float, false>(launch, nullptr, 0, h->data, h->ld_elems, h->k, count);
    return nib_cuda_end(launch, "hessian_clear");
}

nib_status nib_cuda_hessian_merge(const nib_launch *launch, const nib_hessian *from,
                                  const nib_hessian *to)
{
    NIB_CUDA_TRY(nib_cuda_hessian_begin(launch, from));
    NIB_CUDA_TRY(nib_cuda_hessian_begin(launch, to));
    const Count count = { to->tokens, from->tokens, from->tokens ? 0 : UINT64_MAX };
    if (to->real == NIB_REAL_F64)
        launch_triangle<double, true>(launch, from->data, from->ld_elems, to->data, to->ld_elems,
                                      to->k, count);
    else
        launch_triangle<float, true>(launch, from->data, from->ld_elems, to->data, to->ld_elems,
                                     to->k, count);
    return nib_cuda_end(launch, "hessian_merge");
}

size_t nib_cuda_hessian_add_need(const nib_hessian *h, int64_t rows)
{
    return room_of(h, rows).bytes + 256;
}

nib_status nib_cuda_hessian_add(const nib_launch *launch, const nib_matrix *x,
                                nib_hessian_precision precision, const nib_hessian *h)
{
    const int64_t size = x->dtype == NIB_F32 ? 4 : 2;
    NIB_CUDA_TRY(nib_cuda_hessian_begin(launch, h));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "x->data", x->data,
                                  ((x->rows - 1) * x->ld_elems + x->cols) * size));
    if (x->rows < 1) return NIB_OK;
    if (h->k < 1) {
        const Count count = { h->tokens, nullptr, (uint64_t)x->rows };
        launch_triangle<float, true>(launch, nullptr, 0, nullptr, 0, 0, count);
        return nib_cuda_end(launch, "hessian_add");
    }
    Add a = {};
    a.launch = launch, a.h = h, a.room = room_of(h, x->rows);
    a.product.factor = 1.0f, a.product.a_transposed = a.product.strict = true;
    if (h->real == NIB_REAL_F64) {
        a.product.sums = LT_F64;
        a.product.a_ld = a.product.w_ld = h->k;
        a.x_bytes = sizeof(double);
        NIB_CUDA_TRY(add_converted(&a, x));
    } else {
        a.product.sums = precision == NIB_HESSIAN_TF32 && x->dtype == NIB_F32 ? LT_TF32 : LT_F32;
        a.product.a_dtype = x->dtype, a.product.d_dtype = NIB_F32;
        a.product.a_ld = a.product.w_ld = x->ld_elems;
        a.x_bytes = (size_t)size;
        NIB_CUDA_TRY(add_rows(&a, (const uint8_t *)x->data, x->rows));
    }
    return nib_cuda_end(launch, "hessian_add");
}

nib_status nib_cuda_hessian_add_grouped(const nib_launch *launch, const nib_groups *groups,
                                        const nib_matrix *x, nib_hessian_precision precision,
                                        const nib_hessian *hessians)
{
    const size_t bytes = (size_t)(groups->count + 1) * sizeof(int64_t);
    NIB_CUDA_TRY(nib_cuda_begin_waiting(launch, NIB_PREPARE_GPTQ));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "groups->offsets", groups->offsets, (int64_t)bytes));
    int64_t *const offsets = (int64_t *)malloc(bytes);
    if (!offsets) return NIB_ERR_OUT_OF_MEMORY;
    nib_status status = nib_cuda_fetch(launch, "groups->offsets", offsets, groups->offsets, bytes);
    int64_t    begin = nib_group_next(0, status == NIB_OK ? offsets[0] : 0, x->rows);
    for (int64_t g = 0; status == NIB_OK && g < groups->count; g++) {
        const int64_t    end = nib_group_next(begin, offsets[g + 1], x->rows);
        const nib_matrix rows = nib_matrix_rows(x, begin, end);
        if (end > begin) status = nib_cuda_hessian_add(launch, &rows, precision, &hessians[g]);
        begin = end;
    }
    free(offsets);
    return status;
}

nib_status nib_cuda_hessian_rotate(const nib_launch *launch, const nib_hessian *h, int32_t block)
{
    NIB_CUDA_TRY(nib_cuda_hessian_begin(launch, h));
    const int64_t side = nib_ceil_div(h->k, (int64_t)NIB_HESSIAN_ROTATE);
    const dim3    grid((unsigned)side, (unsigned)least(side, 65535));
    if (h->real == NIB_REAL_F64)
        NIB_LAUNCH(hessian_rotate<double>, grid, NIB_GPTQ_THREADS, 0, (cudaStream_t)launch->stream,
                   (double *)h->data, h->ld_elems, h->k, (int)block);
    else
        NIB_LAUNCH(hessian_rotate<float>, grid, NIB_GPTQ_THREADS, 0, (cudaStream_t)launch->stream,
                   (float *)h->data, h->ld_elems, h->k, (int)block);
    return nib_cuda_end(launch, "hessian_rotate");
}

cudaError_t nib_cuda_load_hessian()
{
    cudaFuncAttributes a;
    const void *const  kernels[] = {
        (const void *)hessian_triangle<float, false>, (const void *)hessian_triangle<float, true>,
        (const void *)hessian_triangle<double, false>, (const void *)hessian_triangle<double, true>,
        (const void *)hessian_widen, (const void *)hessian_rotate<float>,
        (const void *)hessian_rotate<double>,
    };
    cudaError_t error = nib_cuda_load_hessian_look();
    for (const void *kernel : kernels)
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, kernel);
    return error;
}
