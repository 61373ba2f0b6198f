/* bench_cuda.cu: what a GPU can do at best, as plain as it can be written: the limits that qbench
 * holds kernels against. Launch numbers are untuned: no GPU has timed them yet. */
#include "cublaslt.cuh"
#include "cusolver.cuh"
#include "ptx.cuh"

#include <stdio.h>

enum {
    THREADS = 256,
    WIDTH = 8,          /* 16-byte accesses that a thread has in flight */
    FMA_CHAINS = 8,     /* independent sums: latency 4 and two FMA pipes of 16 lanes a quarter */
    PAUSE = 5000,       /* turns of a lone thread: 8 to 16 clocks each */
    MMA_CHAINS = 8,
    BLOCKS_PER_PROCESSOR = 8
};
static const uint32_t FILL = 0x55555555u;

/* Tiles of WIDTH * THREADS vectors, one a block; what is left of the last by its block. */
__global__ static void __launch_bounds__(THREADS)
bench_copy(uint4 *__restrict__ dst, const uint4 *__restrict__ src, int64_t vectors)
{
    const int64_t first = (int64_t)blockIdx.x * (WIDTH * THREADS) + threadIdx.x;
    uint4 v[WIDTH];
    NIB_UNROLL
    for (int i = 0; i < WIDTH; i++)
        if (first + i * THREADS < vectors) v[i] = __ldcs(src + first + i * THREADS);
    NIB_UNROLL
    for (int i = 0; i < WIDTH; i++)
        if (first + i * THREADS < vectors) __stcs(dst + first + i * THREADS, v[i]);
}

__global__ static void __launch_bounds__(THREADS)
bench_fill(uint4 *__restrict__ dst, int64_t vectors)
{
    const int64_t first = (int64_t)blockIdx.x * (WIDTH * THREADS) + threadIdx.x;
    NIB_UNROLL
    for (int i = 0; i < WIDTH; i++)
        if (first + i * THREADS < vectors)
            __stcs(dst + first + i * THREADS, make_uint4(FILL, FILL, FILL, FILL));
}

/* Adds the sum of all 32-bit words, modulo 2^32, to *sink: one atomic a block, since those of all
 * blocks wait for each other. */
__global__ static void __launch_bounds__(THREADS)
bench_read(const uint4 *__restrict__ src, int64_t vectors, uint32_t *sink)
{
    NIB_SHARED(uint32_t, part, [THREADS / 32]);
    const int64_t first = (int64_t)blockIdx.x * (WIDTH * THREADS) + threadIdx.x;
    uint4 v[WIDTH];
    NIB_UNROLL
    for (int i = 0; i < WIDTH; i++)
        v[i] = first + i * THREADS < vectors ? __ldcs(src + first + i * THREADS)
                                             : make_uint4(0, 0, 0, 0);
    uint32_t sum = 0;
    NIB_UNROLL
    for (int i = 0; i < WIDTH; i++) sum += v[i].x + v[i].y + v[i].z + v[i].w;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < THREADS / 32; warp++) sum += part[warp];
    nib_ptx::red_add_relaxed(sink, sum);
}

/* Independent multiply-adds; a and b are arguments, so that nothing is known beforehand. */
__global__ static void __launch_bounds__(THREADS)
bench_fma(int64_t iterations, float a, float b, float *sink)
{
    float x[FMA_CHAINS], sum = 0;
    NIB_UNROLL
    for (int c = 0; c < FMA_CHAINS; c++) x[c] = (float)(c + (int)threadIdx.x);
    for (int64_t i = 0; i < iterations; i++) {
        NIB_UNROLL
        for (int c = 0; c < FMA_CHAINS; c++) x[c] = __fmaf_rn(x[c], a, b);
    }
    NIB_UNROLL
    for (int c = 0; c < FMA_CHAINS; c++) sum += x[c];
    if (sum == -1.0f) *sink = sum; /* never: every term is positive */
}

/* Independent m16n8k16 products; operands are arguments as above. Hopper's and Blackwell's own
 * instructions (wgmma, tcgen05) go further than mma.sync there. */
template <bool f16_sums>
__global__ static void __launch_bounds__(THREADS)
bench_mma(int64_t iterations, uint32_t operand, uint32_t *sink)
{
    const uint32_t a[4] = { operand, operand, operand, operand };
    const uint32_t b[2] = { operand, operand };
    float d[MMA_CHAINS][4] = {};
    uint32_t h[MMA_CHAINS][2] = {};
    for (int64_t i = 0; i < iterations; i++) {
        NIB_UNROLL
        for (int c = 0; c < MMA_CHAINS; c++) {
            if (f16_sums) nib_ptx::mma_f16_f16(h[c], a, b);
            else nib_ptx::mma_f16_f32(d[c], a, b);
        }
    }
    float sum = 0;
    uint32_t bits = 0;
    NIB_UNROLL
    for (int c = 0; c < MMA_CHAINS; c++) {
        sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];
        bits |= h[c][0] | h[c][1];
    }
    if (sum < 0.0f || bits == 0xffffffffu) *sink = bits; /* never: every term is positive */
}

static unsigned tiles(int64_t vectors)
{
    return (unsigned)((vectors + WIDTH * THREADS - 1) / (WIDTH * THREADS));
}

static cudaStream_t stream_of(const nib_launch *launch) { return (cudaStream_t)launch->stream; }

static nib_status whole_vectors(const nib_launch *launch, size_t bytes)
{
    if (bytes % 16 == 0 && bytes / 16 <= (size_t)0x7fffffff * WIDTH * THREADS) return NIB_OK;
    if (launch->why)
        snprintf(launch->why, NIB_WHY_BYTES, "%zu bytes are no whole vectors of 16, or too many",
                 bytes);
    return NIB_ERR_SHAPE;
}

static nib_status copy(const nib_launch *launch, void *dst, const void *src, size_t bytes)
{
    const int64_t n = (int64_t)(bytes / 16);
    NIB_CUDA_TRY(whole_vectors(launch, bytes));
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    if (n) NIB_LAUNCH(bench_copy, tiles(n), THREADS, 0, stream_of(launch), (uint4 *)dst,
                      (const uint4 *)src, n);
    return nib_cuda_end(launch, "copy");
}

static nib_status fill(const nib_launch *launch, void *dst, size_t bytes)
{
    const int64_t n = (int64_t)(bytes / 16);
    NIB_CUDA_TRY(whole_vectors(launch, bytes));
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    if (n) NIB_LAUNCH(bench_fill, tiles(n), THREADS, 0, stream_of(launch), (uint4 *)dst, n);
    return nib_cuda_end(launch, "fill");
}

static nib_status read(const nib_launch *launch, const void *src, size_t bytes, void *sink)
{
    const int64_t n = (int64_t)(bytes / 16);
    NIB_CUDA_TRY(whole_vectors(launch, bytes));
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    if (n) NIB_LAUNCH(bench_read, tiles(n), THREADS, 0, stream_of(launch), (const uint4 *)src, n,
                      (uint32_t *)sink);
    return nib_cuda_end(launch, "read");
}

/* Blocks that fill the device. */
static unsigned full_grid(const nib_launch *launch)
{
    int processors = 0;
    if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, launch->ordinal)
        != cudaSuccess)
        processors = 1;
    return (unsigned)processors * BLOCKS_PER_PROCESSOR;
}

static nib_status fma(const nib_launch *launch, int64_t iterations, void *sink, double *flops)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    const unsigned blocks = full_grid(launch);
    *flops = 2.0 * FMA_CHAINS * THREADS * (double)blocks * (double)iterations;
    NIB_LAUNCH(bench_fma, blocks, THREADS, 0, stream_of(launch), iterations, 0.999f, 0.5f,
               (float *)sink);
    return nib_cuda_end(launch, "fma");
}

static nib_status pause_stream(const nib_launch *launch, void *sink)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    NIB_LAUNCH(bench_fma, 1, 1, 0, stream_of(launch), (int64_t)PAUSE, 0.999f, 0.5f, (float *)sink);
    return nib_cuda_end(launch, "pause");
}

static nib_status mma(const nib_launch *launch, int64_t iterations, int32_t f16_sums, void *sink,
                      double *flops)
{
    const uint32_t operand = 0x10011001u; /* 2^-11 and a little: sums stay far from overflow */
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_CUDA_PREPARE_BENCH));
    const unsigned blocks = full_grid(launch);
    *flops = 2.0 * 16 * 8 * 16 * MMA_CHAINS * (THREADS / 32) * (double)blocks * (double)iterations;
    if (f16_sums)
        NIB_LAUNCH(bench_mma<true>, blocks, THREADS, 0, stream_of(launch), iterations, operand,
                   (uint32_t *)sink);
    else
        NIB_LAUNCH(bench_mma<false>, blocks, THREADS, 0, stream_of(launch), iterations, operand,
                   (uint32_t *)sink);
    return nib_cuda_end(launch, "mma");
}

/* A function's attributes cannot be asked for before its module is on the device. */
template <class Kernel> static cudaError_t load(Kernel *kernel)
{
    cudaFuncAttributes a;
    const cudaError_t  error = cudaFuncGetAttributes(&a, kernel);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 0);
}

cudaError_t nib_cuda_load_bench()
{
    cudaError_t error = load(bench_copy);
    if (error == cudaSuccess) error = load(bench_fill);
    if (error == cudaSuccess) error = load(bench_read);
    if (error == cudaSuccess) error = load(bench_fma);
    if (error == cudaSuccess) error = load(bench_mma<false>);
    if (error == cudaSuccess) error = load(bench_mma<true>);
    return error;
}

static nib_status potrf(const nib_launch *launch, int64_t n, float *a)
{
    int64_t minor = 0;
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GPTQ));
    NIB_CUDA_TRY(nib_cuda_solver_factor(launch, NIB_REAL_F32, n, a, n, false, &minor));
    if (!minor) return NIB_OK;
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "potrf: leading minor %lld of what is "
                              "timed is not positive definite", (long long)minor);
    return NIB_ERR_DEVICE;
}

const nib_bench_cuda_ops nib_bench_cuda = {
    read, copy, fill, fma, mma, nib_cuda_gemm_plan, nib_cuda_gemm, nib_cuda_gemm_release,
    pause_stream, nib_cuda_square_plan, potrf
};
