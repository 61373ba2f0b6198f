/* gptq_layer.cuh: one layer's weights on their way through gptq_cuda.cu and gptq_sweep_cuda.cu.
 *
 * Rows do not depend on each other: NIB_GPTQ_ROWS at a time lie in the workspace, as reals, in the
 * weights' order to be measured, in the steps' order, reversed, to be swept (as on the CPU):
 *
 *     d:  [  w  w  w  w  w | t  t  t  t | d  d  d  d  d  d ]     column k-1-s is step s
 *            steps to come   this block   steps done
 */
#ifndef NIB_GPTQ_LAYER_CUH
#define NIB_GPTQ_LAYER_CUH

#include "cublaslt.cuh"
#include "gptq_job.cuh"

#include "kernels/common/grid.h"

/* What a block of inputs has at most: no named format has more. */
enum { GPTQ_MOST_BLOCK = 32 };

/* How codes are rounded. E2M1: to nearest even, a zero's sign kept or its input's. */
enum { GPTQ_ANY, GPTQ_E2M1, GPTQ_INTEGER, GPTQ_KINDS };

struct GptqLayer {
    nib_tensor_math math;
    int             kind;
    int             keep;       /* GPTQ_E2M1: a zero's sign is kept */
    int             divide, full, choice; /* of units; candidates of the HESSIAN scales; plain's */
    /* integers */
    nib_grid        grid;
    int             asymmetric, rule;
    float          *steps;      /* of the plain rounding, and what becomes of it */
    int8_t         *zeros;
    int             chooses;    /* steps are not the plain rounding's */
    /* weights and what they become */
    const void     *w;
    uint8_t        *codes, *scales;
    int64_t         w_ld, codes_ld, k, groups;
    int             dtype, layout, halves, bits, block;
    /* the factor */
    const void     *h, *l;
    const int32_t  *order;
    int64_t         h_ld, l_ld;
    double          added;
    /* rows that are worked on */
    int64_t         row, rows;
    void           *d;           /* rows x k reals */
    uint8_t        *tile_codes;  /* rows x k, in the weights' order */
    uint8_t        *tile_scales; /* rows x groups; */
    float          *tile_steps, *tile_lows; /* or, of integers that chooses, s and lo - z */
    double         *plain, *swept; /* errors of all rows */
};

/* Where things lie in the workspace. */
struct GptqRoom {
    int64_t rows;
    size_t  plain, swept, d, sums, square, codes, scales, bytes;
};

/* Measuring needs sums and square, sweeping codes and scales: they share their place. */
/* group: of integers, else 0. */
static inline GptqRoom gptq_room(nib_real real, int64_t rows, int64_t k, int64_t group)
{
    const size_t size = nib_cuda_real_bytes(real), panel = (size_t)NIB_GPTQ_PANEL;
    GptqRoom     r;
    r.rows = rows < NIB_GPTQ_ROWS ? rows : (int64_t)NIB_GPTQ_ROWS;
    const size_t high = (size_t)r.rows, wide = (size_t)k;
    r.plain = NIB_GPTQ_LT_WORKSPACE;
    r.swept = r.plain + nib_cuda_up256((size_t)rows * sizeof(double));
    r.d = r.swept + nib_cuda_up256((size_t)rows * sizeof(double));
    r.sums = r.codes = r.d + nib_cuda_up256(high * wide * size);
    r.square = r.sums + nib_cuda_up256(high * panel * size);
    r.scales = r.codes + nib_cuda_up256(high * wide);
    const size_t measured = r.square + panel * panel * size;
    const size_t sweeping = r.scales + high * (group ? (size_t)nib_ceil_div(k, group) * 8
                                                     : wide / 8 + 1);
    r.bytes = nib_cuda_up256(measured > sweeping ? measured : sweeping);
    return r;
}

/* Of integers, else 0. */
static inline int64_t nib_cuda_gptq_group(const nib_gptq_request *request)
{
    return request->steps ? request->step.group : 0;
}

/* All but the rows; fetches what the tensor's scale is made of. */
nib_status nib_cuda_gptq_layer(const nib_launch *launch, const nib_gptq_request *request,
                               GptqLayer *layer);
/* Rows from row on. */
void nib_cuda_gptq_rows(const nib_launch *launch, const GptqRoom &room, int64_t row, int64_t rows,
                        GptqLayer *layer);

cudaError_t nib_cuda_load_gptq_sweep();

#ifdef __CUDACC__
#define GPTQ_DEVICE __device__ __forceinline__
#else
#define GPTQ_DEVICE static inline
#endif

GPTQ_DEVICE float gptq_weight(const GptqLayer &g, int64_t row, int64_t col)
{
    return nib_load_f32(g.dtype, g.w, (g.row + row) * g.w_ld + col);
}

GPTQ_DEVICE float gptq_step(const GptqLayer &g, uint32_t byte)
{
    return nib_block_step(g.math.rules.e4m3_scale, byte, g.math.scales.decode);
}

/* A group's step as the plain rounding wrote it. at: of all rows' groups. */
GPTQ_DEVICE nib_step gptq_plain_step(const GptqLayer &g, int64_t at)
{
    return nib_step_make(&g.grid, g.steps[at], g.zeros ? (float)g.zeros[at] : 0.0f);
}

/* A row's step that was known before the first weight was rounded. */
GPTQ_DEVICE nib_step gptq_frozen_step(const GptqLayer &g, int64_t row, int64_t group)
{
    if (!g.tile_steps) return gptq_plain_step(g, (g.row + row) * g.groups + group);
    const int64_t at = row * g.groups + group;
    return nib_step_make(&g.grid, g.tile_steps[at], g.grid.lo - g.tile_lows[at]);
}

/* The code of x, which is finite, and the value it stands for. Of integers factor is the step, and
 * step lo - z. */
template <int kind>
GPTQ_DEVICE float gptq_rounded(const GptqLayer &g, float x, float factor, float step,
                               uint32_t *code)
{
    if (kind == GPTQ_INTEGER) {
        const nib_step unit = { factor, step, step + (g.grid.hi - g.grid.lo), 0 };
        const float    v = nib_grid_integer(unit, x / factor);
        *code = (uint32_t)nib_step_code(&g.grid, step, v) & 255u;
        return v * factor;
    }
    if (kind == GPTQ_ANY) {
        const nib_block_unit unit = { factor, g.divide };
        *code = nib_block_code(&g.math, unit, x, 0, 0);
        return nib_block_value(g.math.rules.element, *code, step);
    }
    const nib_element_traits t = nib_element_traits_of(NIB_EL_E2M1);
    float scaled = g.divide ? x / factor : x * factor;
    if (nib_is_nan(scaled)) scaled = 0.0f; /* 0 / 0 */
    const uint32_t a = nib_magnitude_bits(scaled);
    const uint32_t magnitude = nib_encode_nearest(t, nib_float_of(a));
    const uint32_t sign = nib_bits_of(scaled) >> 31 & (uint32_t)(g.keep || a != 0);
    *code = magnitude | sign << 3;
    return nib_float_of(nib_bits_of(nib_decode_magnitude(t, magnitude)) | sign << 31) * step;
}

#endif
