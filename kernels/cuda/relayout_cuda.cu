/* relayout_cuda.cu: scales between the linear and the swizzled layout, a panel at a time through
 * shared memory: 128 rows of 64 columns, 16 of the swizzled layout's tiles side by side. */
#include "kernels/packed.h"
#include "ops_cuda.cuh"

namespace {

enum { ROWS = 128, COLS = 64, TILES = COLS / 4, THREADS = 256 };

/* In shared memory a tile takes 16 bytes more than its 512: a row's words lie a tile apart, and
 * would all be in one bank. */
enum { TILE_BYTES = 512 + 16 };

struct Job {
    const uint8_t *src;
    uint8_t       *dst;
    int64_t        rows, scale_cols;
    int64_t        row_panels;
    bool           src_words, dst_words; /* rows or tiles begin at multiples of 4 or 16 bytes */
};

/* Word w, four columns, of row m of a panel in shared memory. */
__device__ __forceinline__ uint32_t *panel_word(unsigned char *panel, int m, int w)
{
    return (uint32_t *)(panel + w * TILE_BYTES + nib_swizzle_128x4(m, 0, 4));
}

/* The four columns from k of a row, of which n >= 1 are there; the others are 0. */
__device__ __forceinline__ uint32_t load_four(const uint8_t *p, int n, bool whole)
{
    if (whole && n >= 4) return __ldg((const uint32_t *)p);
    uint32_t word = 0;
    NIB_UNROLL
    for (int i = 0; i < 4; i++) {
        if (i < n) word |= (uint32_t)__ldg(p + i) << (8 * i);
    }
    return word;
}

__device__ __forceinline__ void store_four(uint8_t *p, uint32_t word, int n, bool whole)
{
    if (whole && n >= 4) {
        *(uint32_t *)p = word;
        return;
    }
    NIB_UNROLL
    for (int i = 0; i < 4; i++) {
        if (i < n) p[i] = (uint8_t)(word >> (8 * i));
    }
}

/* Columns from k on of the n that a word has, at most 4. */
__device__ __forceinline__ int columns_left(const Job &job, int64_t k)
{
    const int64_t left = job.scale_cols - k;
    return left >= 4 ? 4 : left > 0 ? (int)left : 0;
}

/* Lanes go along rows: 16 words, 64 bytes, of two rows by a warp. Calls f(row, column, word of the
 * panel, columns that the word has, 0 in padding). */
template <class F>
__device__ __forceinline__ void each_word(const Job &job, int64_t m0, int64_t k0,
                                          unsigned char *panel, F f)
{
    const int w = (int)threadIdx.x % TILES;
    const int n = columns_left(job, k0 + 4 * w);
    NIB_UNROLL
    for (int m = (int)threadIdx.x / TILES; m < ROWS; m += THREADS / TILES) {
        f(m0 + m, k0 + 4 * w, panel_word(panel, m, w), m0 + m < job.rows ? n : 0);
    }
}

/* Lanes go along the panel's tiles, which lie side by side. Calls f(offset in the swizzled scales,
 * 16-byte line of the panel). */
template <class F>
__device__ __forceinline__ void each_line(const Job &job, int64_t m0, int64_t k0,
                                          unsigned char *panel, F f)
{
    const int64_t first = nib_swizzle_128x4(m0, k0, job.scale_cols);
    const int64_t tiles = nib_ceil_div(job.scale_cols, 4) - k0 / 4;
    NIB_UNROLL
    for (int i = (int)threadIdx.x; i < TILES * 32; i += THREADS) {
        if (i / 32 < tiles) f(first + i * 16, panel + i / 32 * TILE_BYTES + i % 32 * 16);
    }
}

/* grid   x: panels of 64 columns, y: panels of 128 rows (strided)
 * block  256 threads */
template <bool from_swizzled, bool to_swizzled>
__global__ void __launch_bounds__(THREADS) relayout_scales(const __grid_constant__ Job job)
{
    NIB_SHARED(uint4, shared, [TILES * TILE_BYTES / 16]);
    unsigned char *panel = (unsigned char *)shared;
    const int64_t k0 = (int64_t)blockIdx.x * COLS;

    for (int64_t p = blockIdx.y; p < job.row_panels; p += gridDim.y) {
        const int64_t m0 = p * ROWS;
        if constexpr (from_swizzled) {
            each_line(job, m0, k0, panel, [&](int64_t at, unsigned char *line) {
                uint32_t *words = (uint32_t *)line;
                if (job.src_words) {
                    *(uint4 *)line = __ldg((const uint4 *)(job.src + at));
                } else {
                    NIB_UNROLL
                    for (int i = 0; i < 4; i++) {
                        words[i] = load_four(job.src + at + 4 * i, 4, false);
                    }
                }
            });
            __syncthreads();
        }
        each_word(job, m0, k0, panel, [&](int64_t m, int64_t k, uint32_t *word, int n) {
            const uint32_t mask = n >= 4 ? ~0u : (1u << 8 * n) - 1;
            const int64_t at = m * job.scale_cols + k;
            if constexpr (from_swizzled && to_swizzled) {
                *word &= mask;
            } else if constexpr (from_swizzled) {
                if (n) store_four(job.dst + at, *word, n, job.dst_words);
            } else {
                *word = n ? load_four(job.src + at, n, job.src_words) : 0;
            }
        });
        __syncthreads();
        if constexpr (to_swizzled) {
            each_line(job, m0, k0, panel, [&](int64_t at, unsigned char *line) {
                const uint32_t *words = (const uint32_t *)line;
                if (job.dst_words) {
                    *(uint4 *)(job.dst + at) = *(const uint4 *)line;
                } else {
                    NIB_UNROLL
                    for (int i = 0; i < 4; i++) {
                        store_four(job.dst + at + 4 * i, words[i], 4, false);
                    }
                }
            });
            __syncthreads(); /* before the next panel's words */
        }
    }
}

bool is_aligned(const void *p, int64_t n) { return (uintptr_t)p % (uintptr_t)n == 0; }

} // namespace

nib_status nib_cuda_relayout_scales(const nib_launch *launch, int64_t rows, int64_t scale_cols,
                                    nib_scale_layout from, const uint8_t *src,
                                    nib_scale_layout to, uint8_t *dst)
{
    const bool from_swizzled = from == NIB_SCALES_SWIZZLED_128X4;
    const bool to_swizzled = to == NIB_SCALES_SWIZZLED_128X4;
    const int64_t linear = rows * scale_cols, row_panels = nib_ceil_div(rows, ROWS);
    const int64_t swizzled = row_panels * nib_ceil_div(scale_cols, 4) * 512;
    const cudaStream_t stream = (cudaStream_t)launch->stream;

    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_QUANTIZE));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "src", src, from_swizzled ? swizzled : linear));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "dst", dst, to_swizzled ? swizzled : linear));
    if (!from_swizzled && !to_swizzled) {
        const cudaError_t error = cudaMemcpyAsync(dst, src, (size_t)linear,
                                                  cudaMemcpyDefault, stream);
        if (error != cudaSuccess) return nib_cuda_failed(launch->why, "relayout_scales", error);
        return nib_cuda_end(launch, "relayout_scales");
    }
    const auto in_words = [&](const void *p, bool is_swizzled) {
        return is_swizzled ? is_aligned(p, 16) : is_aligned(p, 4) && scale_cols % 4 == 0;
    };
    const Job job = { src, dst, rows, scale_cols, row_panels, in_words(src, from_swizzled),
                      in_words(dst, to_swizzled) };
    const dim3 grid((unsigned)nib_ceil_div(scale_cols, COLS),
                    (unsigned)(row_panels < 65535 ? row_panels : 65535));
    if (from_swizzled && to_swizzled) {
        NIB_LAUNCH((relayout_scales<true, true>), grid, THREADS, 0, stream, job);
    } else if (from_swizzled) {
        NIB_LAUNCH((relayout_scales<true, false>), grid, THREADS, 0, stream, job);
    } else {
        NIB_LAUNCH((relayout_scales<false, true>), grid, THREADS, 0, stream, job);
    }
    return nib_cuda_end(launch, "relayout_scales");
}

cudaError_t nib_cuda_load_relayout()
{
    cudaFuncAttributes a;
    cudaError_t error = cudaFuncGetAttributes(&a, relayout_scales<true, true>);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, relayout_scales<true, false>);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, relayout_scales<false, true>);
    return error;
}
