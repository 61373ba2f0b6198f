/* gemm_pack_cuda.cu: packed matrices into the order of products' kernels, and back to plain ones.
 * kernels/cpu packs the same bytes; the rules are kernels/common/gemm_layout.h's. */
#include "gemm_job.cuh"
#include "gemm_tune.h"
#include "kernels/gemm_pack.h"
#include "ptx.cuh"

#include <stdio.h>

static constexpr int THREADS = NIB_GEMM_PACK_THREADS;

/* A thread a chunk: 2 rows of 16 columns. Blocks: two tiles each. */
__global__ void __launch_bounds__(THREADS) gemm_pack(const nib_packed src, const nib_gemm_weights w,
                                                     int64_t stripe0, int64_t tiles)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= tiles * NIB_GEMM_CHUNKS) return;
    const int64_t units = nib_ceil_div(w.k, NIB_GEMM_TILE), tile = i / NIB_GEMM_CHUNKS;
    nib_gemm_pack_chunk(&src, &w, stripe0 + tile / units, tile % units,
                        (int)(i % NIB_GEMM_CHUNKS));
}

/* A thread 8 columns. */
__global__ void __launch_bounds__(THREADS) gemm_unpack(const nib_gemm_weights w,
                                                       const nib_matrix dst)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, per_row = w.k / 8;
    if (i >= w.n * per_row) return;
    nib_gemm_unpack_8(&w, i / per_row, i % per_row * 8, &dst);
}

/* Rows of tiles [first, first + count) from src, whose row 0 is row first * 64 of the weights. */
static void pack_stripes(const nib_packed &src, const nib_gemm_weights *w, int64_t first,
                         int64_t count, cudaStream_t stream)
{
    const int64_t units = nib_ceil_div(w->k, NIB_GEMM_TILE);
    for (int64_t s = first; s < first + count;) { /* grids below 2^31 blocks */
        const int64_t most = ((int64_t)1 << 30) / units + 1;
        const int64_t now = first + count - s < most ? first + count - s : most;
        const int64_t blocks = nib_ceil_div(now * units * NIB_GEMM_CHUNKS, THREADS);
        NIB_LAUNCH(gemm_pack, (unsigned)blocks, THREADS, 0, stream, src, *w, s, now * units);
        s += now;
    }
}

static int64_t scale_cols(const nib_packed *p)
{
    return nib_ceil_div(p->cols, nib_part_block(p->format));
}

/* In place: the last rows of tiles first, since a row of tiles is no shorter than its source; each
 * from a copy in the workspace. */
static nib_status pack_in_place(const nib_launch *launch, const nib_packed *src,
                                const nib_gemm_weights *w)
{
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    const int64_t      row = src->ld_codes_bytes, scale_row = scale_cols(src);
    const int64_t      each = NIB_GEMM_TILE * (row + scale_row);
    const size_t       fit = launch->workspace_bytes / (size_t)each;
    const int64_t      stripes = nib_ceil_div(w->n, NIB_GEMM_TILE);
    const int64_t      room = fit < (size_t)stripes ? (int64_t)fit : stripes;
    for (int64_t end = stripes; end > 0;) {
        const int64_t count = end < room ? end : room, first = end - count;
        const int64_t rows = (end * NIB_GEMM_TILE < w->n ? end * NIB_GEMM_TILE : w->n)
                           - first * NIB_GEMM_TILE;
        uint8_t *const codes = (uint8_t *)launch->workspace, *const scales = codes + rows * row;
        const uint8_t *from = src->codes + first * NIB_GEMM_TILE * row;
        const uint8_t *scales_from = src->scales + first * NIB_GEMM_TILE * scale_row;
        cudaError_t error = cudaMemcpyAsync(codes, from, (size_t)(rows * row),
                                            cudaMemcpyDeviceToDevice, stream);
        if (error == cudaSuccess)
            error = cudaMemcpyAsync(scales, scales_from, (size_t)(rows * scale_row),
                                    cudaMemcpyDeviceToDevice, stream);
        if (error != cudaSuccess) return nib_cuda_failed(launch->why, "copying a part", error);
        nib_packed part = *src; /* as if the whole lay there: rows before are not read */
        part.codes = codes - first * NIB_GEMM_TILE * row;
        part.scales = scales - first * NIB_GEMM_TILE * scale_row;
        pack_stripes(part, w, first, count, stream);
        end = first;
    }
    return NIB_OK;
}

static nib_status check(const nib_launch *launch, const nib_packed *p)
{
    if (!launch->debug) return NIB_OK;
    const int64_t codes = (p->rows - 1) * p->ld_codes_bytes + nib_code_bytes(4, p->cols);
    const int64_t scales = p->scale_layout == NIB_SCALES_LINEAR
        ? p->rows * scale_cols(p)
        : nib_ceil_div(p->rows, 128) * nib_ceil_div(scale_cols(p), 4) * 512;
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "src->codes", p->codes, codes));
    return nib_cuda_pointer(launch, "src->scales", p->scales, scales);
}

nib_status nib_cuda_gemm_pack(const nib_launch *launch, const nib_packed *src,
                              const nib_gemm_weights *w)
{
    if (w->layout == NIB_GEMM_LAYOUT_CPU) {
        if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "layout CPU: the CPU packs it");
        return NIB_ERR_UNSUPPORTED;
    }
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GEMM));
    NIB_CUDA_TRY(check(launch, src));
    if (src->codes == w->codes)
        NIB_CUDA_TRY(pack_in_place(launch, src, w));
    else
        pack_stripes(*src, w, 0, nib_ceil_div(w->n, NIB_GEMM_TILE), (cudaStream_t)launch->stream);
    return nib_cuda_end(launch, "gemm_pack");
}

nib_status nib_cuda_gemm_unpack(const nib_launch *launch, const nib_gemm_weights *w,
                                const nib_matrix *dst)
{
    if (w->layout == NIB_GEMM_LAYOUT_CPU) {
        if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "layout CPU: the CPU unpacks it");
        return NIB_ERR_UNSUPPORTED;
    }
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GEMM));
    const int64_t blocks = nib_ceil_div(w->n * (w->k / 8), THREADS);
    NIB_LAUNCH(gemm_unpack, (unsigned)blocks, THREADS, 0, (cudaStream_t)launch->stream, *w, *dst);
    return nib_cuda_end(launch, "gemm_unpack");
}

cudaError_t nib_cuda_load_gemm_pack()
{
    cudaFuncAttributes attributes;
    const cudaError_t  error = cudaFuncGetAttributes(&attributes, gemm_pack);
    return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, gemm_unpack);
}
