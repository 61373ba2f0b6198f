/* gptq_factor_cuda.cu: the order of inputs, the factor R of a permuted Hessian, and the factor of
 * an inverse. Reversed, H' = R R^T is L L^T, which cuSOLVER computes: element (i, j) of L lies
 * where gptq.h wants steps k-1-i and k-1-j. */
#include "cusolver.cuh"
#include "gptq_job.cuh"

#include "kernels/gptq_order.h"

#include <math.h>
#include <stdlib.h>

namespace {

/* Blocks of the triangle j <= i: columns along x, rows along y. Calls visit(i, j) for this thread's
 * elements. */
template <class Visit> __device__ __forceinline__ void each_of_triangle(int64_t n, Visit visit)
{
    const int64_t j = (int64_t)blockIdx.x * NIB_GPTQ_TRIANGLE + threadIdx.x % NIB_GPTQ_TRIANGLE;
    const int     down = NIB_GPTQ_THREADS / NIB_GPTQ_TRIANGLE;
    for (int64_t top = (int64_t)blockIdx.y * NIB_GPTQ_TRIANGLE; top < n;
         top += (int64_t)gridDim.y * NIB_GPTQ_TRIANGLE) {
        for (int at = 0; at < NIB_GPTQ_TRIANGLE; at += down) {
            const int64_t i = top + at + threadIdx.x / NIB_GPTQ_TRIANGLE;
            if (i < n && j <= i) visit(i, j);
        }
    }
}

/* H's diagonal element, damped: of a dead input 1 more. One rounding, as the CPU's. */
template <class T> __device__ __forceinline__ T damped(T x, double added)
{
    return (T)((double)x + (x == (T)0 ? 1.0 + added : added));
}

/* l(i, j) = H' of steps n-1-i and n-1-j. order NULL: the natural one. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
gptq_gather(const T *__restrict__ h, int64_t h_ld, int64_t n, const int32_t *__restrict__ order,
            double added, T *l, int64_t l_ld)
{
    each_of_triangle(n, [=](int64_t i, int64_t j) {
        const int64_t p = order ? order[n - 1 - i] : n - 1 - i;
        const int64_t q = order ? order[n - 1 - j] : n - 1 - j;
        const T       x = p > q ? h[p * h_ld + q] : h[q * h_ld + p];
        l[i * l_ld + j] = i == j ? damped(x, added) : x;
    });
}

/* The same of the natural order, in place: (i, j) and (n-1-j, n-1-i) change places. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
gptq_reverse(T *h, int64_t ld, int64_t n, double added)
{
    each_of_triangle(n, [=](int64_t i, int64_t j) {
        if (i + j > n - 1) return;
        T *const a = h + i * ld + j, *const b = h + (n - 1 - j) * ld + n - 1 - i;
        const T  x = *a, y = *b;
        *b = i == j ? damped(x, added) : x;
        if (a != b) *a = i == j ? damped(y, added) : y;
    });
}

/* Columns less their pivots: quotients, as the CPU's. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_divide(T *l, int64_t ld, int64_t n)
{
    each_of_triangle(n, [=](int64_t i, int64_t j) {
        if (j < i) l[i * ld + j] /= l[j * ld + j];
    });
}

/* The triangle turned by half a turn, with zeros where it was. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_turn(T *a, int64_t ld, int64_t n)
{
    each_of_triangle(n, [=](int64_t i, int64_t j) {
        T *const from = a + i * ld + j, *const to = a + (n - 1 - i) * ld + n - 1 - j;
        if (i == j && i >= n - 1 - i) return; /* the other one's to exchange */
        const T x = *from;
        *from = i == j ? *to : (T)0;
        *to = x;
    });
}

dim3 triangle_grid(int64_t n)
{
    const int64_t side = nib_ceil_div(n, (int64_t)NIB_GPTQ_TRIANGLE);
    return dim3((unsigned)side, (unsigned)(side < 65535 ? side : 65535));
}

#define LAUNCH(kernel, n, ...)                                                            \
    NIB_LAUNCH((kernel), triangle_grid(n), NIB_GPTQ_THREADS, 0, (cudaStream_t)launch->stream, \
               __VA_ARGS__)

/* l = the triangle to be factored, of H that may lie there (order NULL then). */
template <class T>
void gather(const nib_launch *launch, const nib_hessian *h, const int32_t *order, double added,
            void *l, int64_t ld)
{
    if (l == h->data) {
        LAUNCH(gptq_reverse<T>, h->k, (T *)l, ld, h->k, added);
    } else {
        LAUNCH(gptq_gather<T>, h->k, (const T *)h->data, h->ld_elems, h->k, order, added, (T *)l,
               ld);
    }
}

nib_status check(const nib_launch *launch, const nib_hessian *h, const char *what, const void *l,
                 int64_t ld)
{
    NIB_CUDA_TRY(nib_cuda_begin_waiting(launch, NIB_PREPARE_GPTQ));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "hessian->data", h->data,
                                  nib_cuda_square_bytes(h->real, h->k, h->ld_elems)));
    return nib_cuda_pointer(launch, what, l, nib_cuda_square_bytes(h->real, h->k, ld));
}

/* A factor may be NaN with no word of cuSOLVER's. */
nib_status check_pivots(const nib_launch *launch, const nib_hessian *h, const void *l, int64_t ld,
                        int64_t *minor)
{
    double *const pivots = (double *)malloc((size_t)h->k * sizeof *pivots);
    if (!pivots) return NIB_ERR_OUT_OF_MEMORY;
    const nib_status status = nib_cuda_diagonal(launch, h->real, h->k, l, ld, pivots);
    for (int64_t i = 0; status == NIB_OK && i < h->k && !*minor; i++)
        if (!(pivots[i] > 0.0 && pivots[i] < (double)INFINITY)) *minor = i + 1;
    free(pivots);
    return status;
}

template <class T>
nib_status factor_of(const nib_launch *launch, const nib_hessian *h, double added,
                     const nib_gptq_factor *f, int64_t *minor)
{
    gather<T>(launch, h, f->order, added, f->l, f->ld_elems);
    NIB_CUDA_TRY(nib_cuda_end(launch, "gptq_gather"));
    NIB_CUDA_TRY(nib_cuda_solver_factor(launch, h->real, h->k, f->l, f->ld_elems, false, minor));
    if (!*minor) NIB_CUDA_TRY(check_pivots(launch, h, f->l, f->ld_elems, minor));
    if (!*minor) LAUNCH(gptq_divide<T>, h->k, (T *)f->l, f->ld_elems, h->k);
    return NIB_OK;
}

template <class T>
nib_status inverse_of(const nib_launch *launch, const nib_hessian *h, double added, void *u,
                      int64_t ld, int64_t *minor)
{
    gather<T>(launch, h, nullptr, added, u, ld);
    NIB_CUDA_TRY(nib_cuda_end(launch, "gptq_gather"));
    NIB_CUDA_TRY(nib_cuda_solver_factor(launch, h->real, h->k, u, ld, true, minor));
    if (!*minor) NIB_CUDA_TRY(check_pivots(launch, h, u, ld, minor));
    if (!*minor) LAUNCH(gptq_turn<T>, h->k, (T *)u, ld, h->k);
    return NIB_OK;
}

/* The launches of a synchronising call, to their end. */
nib_status end(const nib_launch *launch, const char *what)
{
    NIB_CUDA_TRY(nib_cuda_end(launch, what));
    const cudaError_t error = cudaStreamSynchronize((cudaStream_t)launch->stream);
    return error == cudaSuccess ? NIB_OK : nib_cuda_failed(launch->why, what, error);
}

} // namespace

nib_status nib_cuda_gptq_order(const nib_launch *launch, const nib_hessian *h,
                               nib_gptq_order order, int32_t block, const nib_gptq_factor *factor)
{
    const size_t bytes = (size_t)h->k * sizeof(int32_t);
    NIB_CUDA_TRY(nib_cuda_begin_waiting(launch, NIB_PREPARE_GPTQ));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "factor->order", factor->order, (int64_t)bytes));
    double *const  diagonal = (double *)malloc((size_t)h->k * sizeof *diagonal);
    int32_t *const list = (int32_t *)malloc(bytes);
    nib_status     status = diagonal && list ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    if (status == NIB_OK && order != NIB_GPTQ_NATURAL)
        status = nib_cuda_diagonal(launch, h->real, h->k, h->data, h->ld_elems, diagonal);
    if (status == NIB_OK) status = nib_gptq_order_of(diagonal, h->k, order, block, list);
    if (status == NIB_OK) {
        const cudaError_t error = cudaMemcpyAsync(factor->order, list, bytes,
                                                  cudaMemcpyHostToDevice,
                                                  (cudaStream_t)launch->stream);
        status = error == cudaSuccess ? end(launch, "gptq_order")
                                      : nib_cuda_failed(launch->why, "gptq_order", error);
    }
    free(diagonal);
    free(list);
    return status;
}

nib_status nib_cuda_gptq_factor(const nib_launch *launch, const nib_hessian *h, double added,
                                const nib_gptq_factor *factor, int64_t *minor)
{
    *minor = 0;
    NIB_CUDA_TRY(check(launch, h, "factor->l", factor->l, factor->ld_elems));
    NIB_CUDA_TRY(h->real == NIB_REAL_F64 ? factor_of<double>(launch, h, added, factor, minor)
                                         : factor_of<float>(launch, h, added, factor, minor));
    return end(launch, "gptq_factor");
}

nib_status nib_cuda_hessian_inverse(const nib_launch *launch, const nib_hessian *h, double added,
                                    void *u, int64_t ld_elems, int64_t *minor)
{
    *minor = 0;
    NIB_CUDA_TRY(check(launch, h, "u", u, ld_elems));
    NIB_CUDA_TRY(h->real == NIB_REAL_F64
                     ? inverse_of<double>(launch, h, added, u, ld_elems, minor)
                     : inverse_of<float>(launch, h, added, u, ld_elems, minor));
    return end(launch, "hessian_inverse");
}

cudaError_t nib_cuda_load_gptq_factor()
{
    cudaFuncAttributes a;
    const void *const  kernels[] = {
        (const void *)gptq_gather<float>, (const void *)gptq_gather<double>,
        (const void *)gptq_reverse<float>, (const void *)gptq_reverse<double>,
        (const void *)gptq_divide<float>, (const void *)gptq_divide<double>,
        (const void *)gptq_turn<float>, (const void *)gptq_turn<double>,
    };
    cudaError_t error = cudaSuccess;
    for (const void *kernel : kernels)
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, kernel);
    return error;
}
