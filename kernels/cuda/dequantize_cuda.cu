/* dequantize_cuda.cu: dst = element(code) * step, by two kernels: E2M1 in pairs by blocks of 16 or
 * 32 with rows that 16-byte stores fit, and everything else.
 *
 * A warp writes one row's stretch, its lanes side by side: each store of the warp fills whole
 * sectors, and a thread loads what all its stores need before it computes. */
#include "dequantize_tune.h"
#include "dequantize_values.cuh"
#include "kernels/packed.h"
#include "ops_cuda.cuh"

#include <array>
#include <utility>

namespace {

struct Job {
    nib_packed src; /* of the first matrix; size and the enums are read on the host */
    nib_matrix dst;
    nib_batch  batch;
    int64_t    scale_cols;
    int        block_shift; /* log2 of the block */
    int        e4m3_scale, swizzled, halves;
    bool       whole_words;  /* dequantize_any: a group's codes may be read as one word */
    bool       wide_stores;  /* and its values stored as one */
};

NIB_HD constexpr int element_bytes(int dtype) { return dtype == NIB_DT_F32 ? 4 : 2; }

__device__ __forceinline__ float tensor_scale_of(const Job &job, int64_t matrix)
{
    const float *t = job.src.tensor_scale;
    return t ? nib_tensor_given(__ldg(t + matrix * job.batch.tensor_stride)).decode : 1.0f;
}

/* The place of element (row, col) of a matrix of the batch. */
template <int dtype>
__device__ __forceinline__ char *value_at(const Job &job, int64_t matrix, int64_t row, int64_t col)
{
    return (char *)job.dst.data + (matrix * job.batch.matrix_stride_elems +
                                   row * job.dst.ld_elems + col) * element_bytes(dtype);
}

/* n values of E2M1 codes that begin at an even one, by the rules alone: the ends of rows, and steps
 * that are NaN or Inf. */
template <int dtype>
__device__ __forceinline__ void store_each(const uint8_t *codes, float step, int n, char *dst)
{
    NIB_NO_UNROLL
    for (int i = 0; i < n; i++) {
        const uint32_t code = (uint32_t)codes[i / 2] >> (i % 2 * 4) & 15;
        nib_store_f32(dtype, dst, i, nib_block_value(NIB_EL_E2M1, code, step));
    }
}

template <int chunk> __device__ __forceinline__ uint32_t load_chunk(const uint8_t *codes)
{
    return chunk == 8 ? nib_ptx::ld_once((const uint32_t *)codes)
                      : __ldg((const uint16_t *)codes);
}

/* A lane's chunks in one row: of 16 bytes of values, a span apart. */
template <int dtype, int block, bool e4m3_scale, bool swizzled> struct Chunks {
    static constexpr int size = 16 / element_bytes(dtype), span = 32 * size;
    static constexpr int count = NIB_DEQUANTIZE_CHUNKS, tile = count * span;
    static constexpr int codes_step = span / 2, dst_step = span * element_bytes(dtype);
    /* Scales from one chunk to the next: a multiple of 4, so whole tiles of swizzled ones. */
    static constexpr int scales_step = span / block * (swizzled ? 512 / 4 : 1);
    static_assert(span / block % 4 == 0, "a lane's scales stand alike in their tiles");

    /* All of them, each whole. Returns false if a step was NaN or Inf: then some() writes again. */
    static __device__ __forceinline__ bool all(const uint8_t *codes, const uint8_t *scales,
                                               float t, char *dst)
    {
        uint32_t word[count];
        float    step[count];
        NIB_UNROLL
        for (int u = 0; u < count; u++) {
            word[u] = load_chunk<size>(codes + u * codes_step);
            step[u] = block_step<e4m3_scale>(__ldg(scales + u * scales_step), t);
        }
        bool finite = true;
        NIB_UNROLL
        for (int u = 0; u < count; u++) {
            *(uint4 *)(dst + u * dst_step) = e2m1_values<dtype>(word[u], step[u]);
            finite = finite && step[u] <= NIB_F32_MAX;
        }
        return finite;
    }

    /* The n elements that are left, counted with those of other lanes in between. */
    static __device__ __forceinline__ void some(const uint8_t *codes, const uint8_t *scales,
                                                float t, char *dst, int n)
    {
        NIB_NO_UNROLL
        for (; n > 0; n -= span) {
            const float step = block_step<e4m3_scale>(__ldg(scales), t);
            if (n >= size && step <= NIB_F32_MAX) {
                *(uint4 *)dst = e2m1_values<dtype>(load_chunk<size>(codes), step);
            } else {
                store_each<dtype>(codes, step, n < size ? n : size, dst);
            }
            codes += codes_step, scales += scales_step, dst += dst_step;
        }
    }
};

/* grid   x: tiles of a row, y: rows (strided), z: matrices (strided)
 * block  x: lanes, y: rows
 * dst 16-byte aligned in every row and matrix, codes 4-byte (f32: 2-byte) */
template <int dtype, int block, bool e4m3_scale, bool swizzled>
__global__ void __launch_bounds__(32 * NIB_DEQUANTIZE_WARPS)
dequantize_e2m1(const __grid_constant__ Job job)
{
    using Lane = Chunks<dtype, block, e4m3_scale, swizzled>;
    const int64_t col = (int64_t)blockIdx.x * Lane::tile + (int)threadIdx.x * Lane::size;
    const int64_t left = job.src.cols - col, k = (int64_t)((uint64_t)col / block);

    for (int64_t matrix = blockIdx.z; matrix < job.batch.count; matrix += gridDim.z) {
        const float t = tensor_scale_of(job, matrix);
        for (int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; row < job.src.rows;
             row += (int64_t)gridDim.y * blockDim.y) {
            const uint8_t *codes = job.src.codes + matrix * job.batch.codes_stride_bytes +
                                   row * job.src.ld_codes_bytes + col / 2;
            const uint8_t *scales = job.src.scales + matrix * job.batch.scales_stride_bytes +
                (swizzled ? nib_swizzle_128x4(row, k, job.scale_cols) : row * job.scale_cols + k);
            char *dst = value_at<dtype>(job, matrix, row, col);
            const bool whole = left >= Lane::tile - Lane::span + Lane::size;
            if (whole && Lane::all(codes, scales, t, dst)) continue;
            Lane::some(codes, scales, t, dst,
                       left < 0 ? 0 : left < Lane::tile ? (int)left : Lane::tile);
        }
    }
}

/* The first bytes of p, at most 4, as a little-endian word. */
template <int bytes>
__device__ __forceinline__ uint32_t load_word(const uint8_t *p, int bytes_left, bool whole)
{
    if (bytes == 2 && whole && bytes_left >= bytes) return __ldg((const uint16_t *)p);
    if (bytes == 4 && whole && bytes_left >= bytes) return __ldg((const uint32_t *)p);
    uint32_t word = 0;
    NIB_UNROLL
    for (int b = 0; b < bytes; b++) {
        if (b < bytes_left) word |= (uint32_t)__ldg(p + b) << (8 * b);
    }
    return word;
}

/* Up to four codes from column col, a multiple of 4, of a row: code i at bits i * width. */
template <int bits>
__device__ __forceinline__ uint32_t load_group(const Job &job, const uint8_t *row, int64_t col,
                                               int n, int *width)
{
    *width = bits;
    if (bits == 4 && job.halves) { /* there are four: a row is whole blocks */
        const int block = 1 << job.block_shift, half = block / 2, in = (int)(col & (block - 1));
        const int64_t at = (col >> job.block_shift) * half + (in & (half - 1));
        *width = 8;
        return load_word<4>(row + at, 4, job.whole_words) >> (in >= half ? 4 : 0);
    }
    return load_word<bits / 2>(row + col / 4 * (bits / 2), (n * bits + 7) / 8, job.whole_words);
}

template <int dtype>
__device__ __forceinline__ void store_group(char *dst, const float (&v)[4], int n, bool wide)
{
    if constexpr (dtype == NIB_DT_F32) {
        const float4 all = make_float4(nib_canonical(v[0]), nib_canonical(v[1]),
                                       nib_canonical(v[2]), nib_canonical(v[3]));
        float *p = (float *)dst;
        if (wide && n == 4) {
            *(float4 *)p = all;
            return;
        }
        p[0] = all.x;
        if (n > 1) p[1] = all.y;
        if (n > 2) p[2] = all.z;
        if (n > 3) p[3] = all.w;
    } else {
        const uint2 all = make_uint2(pack_halves<dtype>(v[0], v[1]),
                                     pack_halves<dtype>(v[2], v[3]));
        uint16_t *p = (uint16_t *)dst;
        if (wide && n == 4) {
            *(uint2 *)p = all;
            return;
        }
        p[0] = (uint16_t)all.x;
        if (n > 1) p[1] = (uint16_t)(all.x >> 16);
        if (n > 2) p[2] = (uint16_t)all.y;
        if (n > 3) p[3] = (uint16_t)(all.y >> 16);
    }
}

/* Any format, order, layout and alignment: four values a lane. Grid and block as above. */
template <int dtype, int element>
__global__ void __launch_bounds__(32 * NIB_DEQUANTIZE_WARPS)
dequantize_any(const __grid_constant__ Job job)
{
    constexpr int bits = element == NIB_EL_E2M1 ? 4 : element <= NIB_EL_E3M2 ? 6 : 8;
    constexpr int groups = NIB_DEQUANTIZE_GROUPS;
    const int64_t col0 = (int64_t)blockIdx.x * (groups * 128) + (int)threadIdx.x * 4;

    for (int64_t matrix = blockIdx.z; matrix < job.batch.count; matrix += gridDim.z) {
        const float t = tensor_scale_of(job, matrix);
        const uint8_t *scales = job.src.scales + matrix * job.batch.scales_stride_bytes;
        for (int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; row < job.src.rows;
             row += (int64_t)gridDim.y * blockDim.y) {
            const uint8_t *codes = job.src.codes + matrix * job.batch.codes_stride_bytes +
                                   row * job.src.ld_codes_bytes;
            NIB_NO_UNROLL
            for (int u = 0; u < groups; u++) {
                const int64_t col = col0 + u * 128, left = job.src.cols - col;
                if (left <= 0) break;
                const int n = left < 4 ? (int)left : 4;
                const int64_t k = col >> job.block_shift;
                const int64_t at = job.swizzled ? nib_swizzle_128x4(row, k, job.scale_cols)
                                                : row * job.scale_cols + k;
                const float step = nib_block_step(job.e4m3_scale, __ldg(scales + at), t);
                int width;
                const uint32_t word = load_group<bits>(job, codes, col, n, &width);
                float v[4];
                NIB_UNROLL
                for (int i = 0; i < 4; i++) {
                    const uint32_t code = word >> (i * width) & ((1u << bits) - 1);
                    v[i] = nib_block_value(element, code, step);
                }
                store_group<dtype>(value_at<dtype>(job, matrix, row, col), v, n, job.wide_stores);
            }
        }
    }
}

/* One instantiation of either kernel: how to start it and how to load it. */
struct Variant {
    void (*launch)(const Job &job, cudaStream_t stream);
    cudaError_t (*load)();
};

int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

struct Shape {
    dim3 grid, block;
};

Shape shape_of(const Job &job, int tile)
{
    const int64_t rows = at_most(job.src.rows, NIB_DEQUANTIZE_WARPS);
    return { dim3((unsigned)nib_ceil_div(job.src.cols, tile),
                  (unsigned)at_most(nib_ceil_div(job.src.rows, rows), 65535),
                  (unsigned)at_most(job.batch.count, 65535)),
             dim3(32, (unsigned)rows) };
}

template <int dtype, int block, bool e4m3_scale, bool swizzled>
void launch_e2m1(const Job &job, cudaStream_t stream)
{
    const Shape s = shape_of(job, NIB_DEQUANTIZE_CHUNKS * 32 * 16 / element_bytes(dtype));
    NIB_LAUNCH((dequantize_e2m1<dtype, block, e4m3_scale, swizzled>), s.grid, s.block, 0, stream,
               job);
}

template <int dtype, int element> void launch_any(const Job &job, cudaStream_t stream)
{
    const Shape s = shape_of(job, NIB_DEQUANTIZE_GROUPS * 128);
    NIB_LAUNCH((dequantize_any<dtype, element>), s.grid, s.block, 0, stream, job);
}

template <auto kernel> cudaError_t load()
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kernel);
}

/* v: dtype * 8 + block 32 * 4 + E4M3 scales * 2 + swizzled. */
template <int... v>
constexpr std::array<Variant, sizeof...(v)> e2m1_variants(std::integer_sequence<int, v...>)
{
    return { { { launch_e2m1<v / 8, (v & 4) ? 32 : 16, (v & 2) != 0, (v & 1) != 0>,
                 load<dequantize_e2m1<v / 8, (v & 4) ? 32 : 16, (v & 2) != 0, (v & 1) != 0>>
             }... } };
}

/* v: dtype * 5 + element. */
template <int... v>
constexpr std::array<Variant, sizeof...(v)> any_variants(std::integer_sequence<int, v...>)
{
    return { { { launch_any<v / 5, v % 5>, load<dequantize_any<v / 5, v % 5>> }... } };
}

const std::array<Variant, 24> of_e2m1 = e2m1_variants(std::make_integer_sequence<int, 24>());
const std::array<Variant, 15> of_any = any_variants(std::make_integer_sequence<int, 15>());

/* Whether every row of every matrix begins at a multiple of n, a power of two. */
bool is_aligned(const void *p, int64_t ld_bytes, int64_t stride_bytes, int64_t n)
{
    return ((intptr_t)p | ld_bytes | stride_bytes) % n == 0;
}

const Variant &choose(Job *job)
{
    const int element = nib_part_element(job->src.format), bits = nib_part_bits(job->src.format);
    const int dtype = (int)job->dst.dtype, bytes = element_bytes(dtype);
    const int block = 1 << job->block_shift;
    const auto codes = [&](int n) {
        return is_aligned(job->src.codes, job->src.ld_codes_bytes,
                          job->batch.codes_stride_bytes, n);
    };
    const auto values = [&](int n) {
        return is_aligned(job->dst.data, job->dst.ld_elems * bytes,
                          job->batch.matrix_stride_elems * bytes, n);
    };
    if (element == NIB_EL_E2M1 && (block == 16 || block == 32) && !job->halves && values(16) &&
        codes(8 / bytes)) {
        return of_e2m1[(size_t)(dtype * 8 + (block == 32) * 4 + job->e4m3_scale * 2 +
                                job->swizzled)];
    }
    job->whole_words = codes(job->halves ? 4 : bits / 2 & ~1);
    job->wide_stores = values(4 * bytes);
    return of_any[(size_t)(dtype * 5 + element)];
}

nib_status check_pointers(const nib_launch *launch, const Job &job)
{
    const int64_t last = job.batch.count - 1, rows = job.src.rows, cols = job.src.cols;
    const int64_t values = last * job.batch.matrix_stride_elems +
                           (rows - 1) * job.dst.ld_elems + cols;
    const int64_t codes = last * job.batch.codes_stride_bytes +
                          (rows - 1) * job.src.ld_codes_bytes +
                          nib_code_bytes(nib_part_bits(job.src.format), cols);
    const int64_t scales = last * job.batch.scales_stride_bytes +
        (job.swizzled ? nib_ceil_div(rows, 128) * nib_ceil_div(job.scale_cols, 4) * 512
                      : rows * job.scale_cols);
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "codes", job.src.codes, codes));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "scales", job.src.scales, scales));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "tensor_scale", job.src.tensor_scale,
                                  4 * (last * job.batch.tensor_stride + 1)));
    return nib_cuda_pointer(launch, "dst", job.dst.data,
                            values * element_bytes((int)job.dst.dtype));
}

} // namespace

nib_status nib_cuda_dequantize(const nib_launch *launch, const nib_batch *batch,
                               const nib_packed *src, const nib_matrix *dst)
{
    Job job = { *src, *dst, *batch, 0, 0, 0, 0, 0, false, false };
    const int block = nib_part_block(src->format);
    while (1 << job.block_shift < block) job.block_shift++;
    job.scale_cols = nib_ceil_div(src->cols, block);
    job.e4m3_scale = nib_part_e4m3_scale(src->format);
    job.swizzled = src->scale_layout == NIB_SCALES_SWIZZLED_128X4;
    job.halves = src->code_order == NIB_CODES_GGUF_HALVES;
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_QUANTIZE));
    NIB_CUDA_TRY(check_pointers(launch, job));
    choose(&job).launch(job, (cudaStream_t)launch->stream);
    return nib_cuda_end(launch, "dequantize");
}

cudaError_t nib_cuda_load_dequantize()
{
    for (const Variant &v : of_e2m1) {
        const cudaError_t error = v.load();
        if (error != cudaSuccess) return error;
    }
    for (const Variant &v : of_any) {
        const cudaError_t error = v.load();
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
