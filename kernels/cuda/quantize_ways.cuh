/* quantize_ways.cuh: the fast kernels' ways from a block's amax to its scale, which of them a
 * call's rules take, and the grid: what quantize and fake-quantize share. */
#ifndef NIB_QUANTIZE_WAYS_CUH
#define NIB_QUANTIZE_WAYS_CUH

#include "quantize_job.cuh"
#include "quantize_tune.h"

/* How the fast kernel makes scales and codes. */
enum Way {
    WAY_TE,     /* E4M3 scales by TransformerEngine's rules */
    WAY_DIVIDE, /* E4M3 scales by any rules that divide; ties to even, -0 gives +0 */
    WAY_MX,     /* E8M0 scales; ties to even, the input's sign */
    WAY_MX_ANY  /* E8M0 scales, any rules */
};

/* Rules of a job, with what the way says as constants. */
template <int way, int dtype>
__device__ __forceinline__ nib_tensor_math known_math(const QuantizeJob &job)
{
    nib_tensor_math m;
    m.rules = job.rules;
    m.rules.element = NIB_EL_E2M1;
    m.rules.source = dtype;
    m.rules.e4m3_scale = way == WAY_TE || way == WAY_DIVIDE;
    if (way != WAY_MX_ANY) m.rules.ties = NIB_TIE_EVEN;
    if (way == WAY_DIVIDE) m.rules.zero_sign = NIB_Z_INPUT;
    if (way == WAY_TE || way == WAY_MX) m.rules.zero_sign = NIB_Z_KEEP;
    if (way == WAY_TE) {
        m.rules.block_scale = NIB_B_FOLDED;
        m.rules.factor = NIB_E_RECIPROCAL;
        m.rules.e4m3_zero = m.rules.e4m3_min = 0;
    }
    m.element_max = 6.0f;
    m.scales.encode = m.scales.decode = m.folded = m.denominator = m.inverse = 1.0f;
    return m;
}

/* What a tensor's scale comes to is the same for all blocks: one thread computes it, while the
 * others' elements are on their way. */
struct TensorShared {
    float encode, decode, folded, denominator, inverse;
};

__device__ __forceinline__ void share_tensor(const QuantizeJob &job, const nib_block_rules &rules,
                                             int64_t z, TensorShared &to)
{
    __syncthreads(); /* after the last reader of the matrix before */
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        const nib_tensor_math m = nib_tensor_math_of(&rules, tensor_scales(job, rules, z));
        to.encode = m.scales.encode, to.decode = m.scales.decode;
        to.folded = m.folded, to.denominator = m.denominator, to.inverse = m.inverse;
        store_tensor_scale(job, z, m.scales.decode);
    }
    __syncthreads();
}

/* The tensor's numbers that share_tensor left. */
__device__ __forceinline__ void use_tensor(nib_tensor_math &math, const TensorShared &tensor)
{
    math.scales.encode = tensor.encode, math.scales.decode = tensor.decode;
    math.folded = tensor.folded, math.denominator = tensor.denominator;
    math.inverse = tensor.inverse;
}

/* Scale byte of a block of finite elements. */
template <int way>
__device__ __forceinline__ uint32_t block_byte(const QuantizeJob &job, const nib_tensor_math &m,
                                               float amax)
{
    if constexpr (way == WAY_TE || way == WAY_DIVIDE) {
        const float    v = nib_block_scale_value(&m, amax);
        const uint32_t cast = e4m3_byte(v); /* v >= 0: TransformerEngine has no other rules */
        return way == WAY_TE ? cast : nib_e4m3_scale_of(&m, v, cast);
    } else {
        return way == WAY_MX || job.round != ~0u ? nib_e8m0_scale(amax, job.round)
                                                 : nib_block_scale(&m, amax);
    }
}

/* The factor or divisor for a block's elements. */
template <int way>
__device__ __forceinline__ float block_factor(const nib_tensor_math &m, uint32_t byte)
{
    if constexpr (way == WAY_TE || way == WAY_DIVIDE) {
        return nib_block_unit_e4m3(&m, e4m3_value(byte)).factor;
    } else {
        return nib_block_unit_of(&m, byte).factor;
    }
}

template <int way>
__device__ __forceinline__ uint32_t block_scale(const QuantizeJob &job, const nib_tensor_math &m,
                                                float amax, float &factor)
{
    const uint32_t byte = block_byte<way>(job, m, amax);
    factor = block_factor<way>(m, byte);
    return byte;
}

/* E4M3 scales have so few factors that a block of threads keeps them: one load instead of a
 * reciprocal. */
struct FactorTable {
    float of_byte[NIB_E4M3_LAST + 1];
};

/* After share_tensor. */
template <int way>
__device__ __forceinline__ void share_factors(const nib_tensor_math &m, FactorTable &table)
{
    const unsigned threads = blockDim.x * blockDim.y;
    for (unsigned byte = threadIdx.y * blockDim.x + threadIdx.x; byte <= NIB_E4M3_LAST;
         byte += threads) {
        table.of_byte[byte] = block_factor<way>(m, byte);
    }
    __syncthreads();
}

/* ---- launching ---- */

/* What quantize_cuda.cu has for other operations: a job, with src or its transpose for its source;
 * whether a GPU takes its format, else the reason is left in launch->why; debug mode's checks; and
 * the kernels, by the stream. */
QuantizeJob nib_cuda_quantize_job(const nib_batch *batch, const nib_matrix *src,
                                  const nib_quantize_request *request, const nib_packed *dst,
                                  bool transposed);
bool        nib_cuda_quantize_has(const nib_launch *launch, const QuantizeJob *job);
nib_status  nib_cuda_quantize_check(const nib_launch *launch, const QuantizeJob *job);
void        nib_cuda_quantize_launch(QuantizeJob *job, cudaStream_t stream);

/* The way of the fast kernel for these rules, or -1. */
static inline int way_of(const nib_block_rules *r)
{
    const bool even = r->ties == NIB_TIE_EVEN;
    if (!r->e4m3_scale) {
        return even && r->zero_sign == NIB_Z_KEEP && nib_e8m0_round(r) != ~0u ? WAY_MX : WAY_MX_ANY;
    }
    if (even && r->zero_sign == NIB_Z_KEEP && r->block_scale == NIB_B_FOLDED
        && r->factor == NIB_E_RECIPROCAL && r->e4m3_zero == 0 && r->e4m3_min == 0) {
        return WAY_TE;
    }
    return even && r->zero_sign == NIB_Z_INPUT && r->factor != NIB_E_RECIPROCAL ? WAY_DIVIDE : -1;
}

/* Whether p, and all that lies at these distances from it, is a multiple of bytes. */
static inline bool aligned(const void *p, int64_t ld, int64_t stride, int64_t bytes)
{
    return ((uintptr_t)p | (uintptr_t)ld | (uintptr_t)stride) % (uintptr_t)bytes == 0;
}

/* A grid for units threads a row, each of which takes up to turns rows, and how many rows a turn
 * goes on. */
struct QuantizeShape {
    dim3    grid, block;
    int64_t step;
};

/* The grid for a block of threads that covers width units of height rows. */
static inline QuantizeShape grid_over(QuantizeJob *job, QuantizeShape shape, int64_t rows,
                                      int64_t units, int width, int height, int turns)
{
    const int64_t most = 65535; /* blocks along y and z */
    job->row_tiles = nib_ceil_div(rows, height);
    const int64_t across = nib_ceil_div(units, width), blocks = across * job->row_tiles;
    while (turns > 1 && blocks / turns < NIB_QUANTIZE_ENOUGH_BLOCKS) turns /= 2;
    const int64_t fewest = nib_ceil_div(job->row_tiles, most); /* turns, for so many tiles */
    job->turns = (unsigned)(turns > fewest ? turns : fewest);
    const int64_t down = nib_ceil_div(job->row_tiles, job->turns);
    shape.grid = dim3((unsigned)across, (unsigned)down,
                      (unsigned)(job->count < most ? job->count : most));
    shape.step = job->backward ? -height : height;
    job->row_step = (unsigned)shape.step;
    job->x_step = shape.step * job->x_ld;
    return shape;
}

static inline QuantizeShape shape_over(QuantizeJob *job, int64_t rows, int64_t units, int threads,
                                       int turns)
{
    int width = NIB_QUANTIZE_MIN_WIDTH;
    while (width < units && width < threads) width *= 2;
    const int     height = threads / width;
    QuantizeShape shape = { dim3(), dim3((unsigned)width, (unsigned)height), 0 };
    return grid_over(job, shape, rows, units, width, height, turns);
}

#endif
