/* hessian_look_cuda.cu: what numbers where the device computes say to the host: a diagonal, and the
 * first NaN or Inf of a matrix or of a triangle, along its rows. */
#include "gptq_job.cuh"

#include "kernels/common/half.h"
#include "kernels/gptq_order.h"

#include <stdlib.h>

namespace {

/* ---- kernels ---- */

template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
hessian_diagonal(const T *h, int64_t ld, int64_t k, double *to)
{
    const int64_t i = (int64_t)blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x;
    if (i < k) to[i] = (double)h[i * ld + i];
}

struct Numbers {
    const void *x;
    int64_t     rows, cols, ld;
    int         dtype; /* of floats */
};

/* *first = the least row * cols + col of a NaN or Inf, if that is less; triangle: of columns up to
 * the row's number. A block of threads takes every gridDim.x'th row. */
template <bool doubles, bool triangle>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
find_nonfinite(const Numbers m, unsigned long long *first)
{
    for (int64_t row = blockIdx.x; row < m.rows; row += gridDim.x) {
        const int64_t end = triangle ? row + 1 : m.cols;
        for (int64_t col = threadIdx.x; col < end; col += NIB_GPTQ_THREADS) {
            const int64_t at = row * m.ld + col;
            const bool    finite = doubles
                ? (nib_bits_of64(((const double *)m.x)[at]) & NIB_F64_INF_BITS) != NIB_F64_INF_BITS
                : nib_magnitude_bits(nib_load_f32(m.dtype, m.x, at)) < NIB_F32_INF_BITS;
            if (finite) continue;
            atomicMin(first, (unsigned long long)(row * m.cols + col));
            return; /* later ones are larger */
        }
    }
}

/* ---- launching ---- */

enum { MOST_BLOCKS = 1 << 16 };

nib_status find(const nib_launch *launch, const Numbers &m, bool doubles, bool triangle,
                int64_t at[2])
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    const unsigned     blocks = (unsigned)(m.rows < MOST_BLOCKS ? m.rows : (int64_t)MOST_BLOCKS);
    nib_cuda_scratch   scratch;
    uint64_t           first = UINT64_MAX;
    at[0] = at[1] = -1;
    if (m.rows < 1 || m.cols < 1) return NIB_OK;
    NIB_CUDA_TRY(scratch.allocate(launch, "memory for an index", sizeof first));
    unsigned long long *const to = scratch.as<unsigned long long>();
    const cudaError_t         error = cudaMemsetAsync(to, 0xff, sizeof first, stream);
    if (error != cudaSuccess) return nib_cuda_failed(launch->why, "find_nonfinite", error);
    if (doubles)
        NIB_LAUNCH((find_nonfinite<true, true>), blocks, NIB_GPTQ_THREADS, 0, stream, m, to);
    else if (triangle)
        NIB_LAUNCH((find_nonfinite<false, true>), blocks, NIB_GPTQ_THREADS, 0, stream, m, to);
    else
        NIB_LAUNCH((find_nonfinite<false, false>), blocks, NIB_GPTQ_THREADS, 0, stream, m, to);
    NIB_CUDA_TRY(nib_cuda_fetch(launch, "find_nonfinite", &first, to, sizeof first));
    if (first == UINT64_MAX) return NIB_OK;
    at[0] = (int64_t)first / m.cols, at[1] = (int64_t)first % m.cols;
    return NIB_OK;
}

} // namespace

nib_status nib_cuda_fetch(const nib_launch *launch, const char *what, void *to, const void *from,
                          size_t bytes)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    cudaError_t error = cudaPeekAtLastError();
    if (error == cudaSuccess)
        error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    return error == cudaSuccess ? NIB_OK : nib_cuda_failed(launch->why, what, error);
}

nib_status nib_cuda_diagonal(const nib_launch *launch, nib_real real, int64_t k, const void *data,
                             int64_t ld_elems, double *to)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    const unsigned     blocks = (unsigned)nib_ceil_div(k, (int64_t)NIB_GPTQ_THREADS);
    nib_cuda_scratch   scratch;
    NIB_CUDA_TRY(scratch.allocate(launch, "memory for a diagonal", (size_t)k * sizeof(double)));
    double *const diagonal = scratch.as<double>();
    if (real == NIB_REAL_F64)
        NIB_LAUNCH(hessian_diagonal<double>, blocks, NIB_GPTQ_THREADS, 0, stream,
                   (const double *)data, ld_elems, k, diagonal);
    else
        NIB_LAUNCH(hessian_diagonal<float>, blocks, NIB_GPTQ_THREADS, 0, stream,
                   (const float *)data, ld_elems, k, diagonal);
    return nib_cuda_fetch(launch, "a diagonal", to, diagonal, (size_t)k * sizeof(double));
}

nib_status nib_cuda_hessian_info(const nib_launch *launch, const nib_hessian *h, int32_t whole,
                                 nib_hessian_info *info)
{
    const bool    f64 = h->real == NIB_REAL_F64;
    const Numbers numbers = { h->data, h->k, h->k, h->ld_elems, NIB_DT_F32 };
    int64_t       at[2] = { -1, -1 };
    uint64_t      tokens = UINT64_MAX;
    NIB_CUDA_TRY(nib_cuda_hessian_begin(launch, h));
    NIB_CUDA_TRY(nib_cuda_not_captured(launch));
    double *const diagonal = (double *)malloc((size_t)(h->k ? h->k : 1) * sizeof *diagonal);
    nib_status    status = diagonal ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    if (status == NIB_OK && h->k)
        status = nib_cuda_diagonal(launch, h->real, h->k, h->data, h->ld_elems, diagonal);
    if (status == NIB_OK && whole) status = find(launch, numbers, f64, true, at);
    if (status == NIB_OK && h->tokens)
        status = nib_cuda_fetch(launch, "hessian->tokens", &tokens, h->tokens, sizeof tokens);
    if (status == NIB_OK) nib_hessian_info_of(diagonal, h->k, at, tokens, info);
    free(diagonal);
    return status;
}

nib_status nib_cuda_find_nonfinite(const nib_launch *launch, const nib_matrix *m, int64_t at[2])
{
    const int64_t size = m->dtype == NIB_F32 ? 4 : 2;
    const Numbers numbers = { m->data, m->rows, m->cols, m->ld_elems, (int)m->dtype };
    NIB_CUDA_TRY(nib_cuda_begin_waiting(launch, NIB_PREPARE_GPTQ));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "matrix->data", m->data,
                                  ((m->rows - 1) * m->ld_elems + m->cols) * size));
    return find(launch, numbers, false, false, at);
}

cudaError_t nib_cuda_load_hessian_look()
{
    cudaFuncAttributes a;
    const void *const  kernels[] = {
        (const void *)hessian_diagonal<float>, (const void *)hessian_diagonal<double>,
        (const void *)find_nonfinite<false, false>, (const void *)find_nonfinite<false, true>,
        (const void *)find_nonfinite<true, true>,
    };
    cudaError_t error = cudaSuccess;
    for (const void *kernel : kernels)
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, kernel);
    return error;
}
