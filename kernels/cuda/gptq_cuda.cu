/* gptq_cuda.cu: what the roundings of a layer cost: of each row x of W and of W - Q, x H x^T.
 *
 * H has its lower triangle, so a panel of inputs after another is taken with all before it:
 *
 *     Y = 2 x[0 .. i) H[i, 0 .. i)^T + x[i] H[i, i]        x H x^T = sum of Y x[i]
 *
 * the square H[i, i] being made whole in the workspace. */
#include "gptq_layer.cuh"

#include <stdio.h>
#include <stdlib.h>

namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- kernels ---- */

__device__ __forceinline__ uint32_t code_at(const GptqLayer &g, int64_t row, int64_t col)
{
    const uint8_t *const codes = g.codes + row * g.codes_ld;
    if (g.bits == 8) return codes[col];
    if (g.bits == 4) {
        const nib_nibble n = g.halves ? nib_nibble_halves(col, g.block) : nib_nibble_pairs(col);
        return codes[n.byte] >> n.shift & 15;
    }
    const int64_t byte = nib_six_bit_byte(col), shift = nib_six_bit_shift(col);
    const uint32_t next = shift > 2 ? (uint32_t)codes[byte + 1] << 8 : 0;
    return (codes[byte] | next) >> shift & 63;
}

/* d = the weights, in their order, less dst's values. Blocks: columns along x, a row along y. */
template <class T, bool less>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS) gptq_load(const GptqLayer g)
{
    const int64_t col = (int64_t)blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x, r = blockIdx.y;
    if (col >= g.k) return;
    T x = (T)gptq_weight(g, r, col);
    if (less && g.kind == GPTQ_INTEGER) {
        const nib_step step = gptq_plain_step(g, (g.row + r) * g.groups + col / g.block);
        const int q = nib_step_code_at(g.codes + (g.row + r) * g.codes_ld, g.bits, col);
        x -= (T)((float)(q - step.z) * step.s);
    } else if (less) {
        const int64_t at = nib_scale_index((nib_scale_layout)g.layout, g.row + r, col / g.block,
                                           g.groups);
        const uint32_t code = code_at(g, g.row + r, col);
        x -= (T)nib_block_value(g.math.rules.element, code, gptq_step(g, g.scales[at]));
    }
    ((T *)g.d)[r * g.k + col] = x;
}

/* to = H's square from input first on, both triangles. Blocks: columns along x, a row along y. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
gptq_square(const T *__restrict__ h, int64_t ld, int64_t first, int side, T *to)
{
    const int j = (int)(blockIdx.x * NIB_GPTQ_THREADS + threadIdx.x), i = (int)blockIdx.y;
    if (j >= side) return;
    const int64_t p = first + (i > j ? i : j), q = first + (i > j ? j : i);
    to[(int64_t)i * side + j] = h[p * ld + q];
}

/* errors += the sum over a panel of y d, a warp a row, in f64; clamps: below 0 it counts as 0. */
template <class T>
__global__ void __launch_bounds__(NIB_GPTQ_THREADS)
gptq_dot(const T *__restrict__ d, int64_t ld, const T *__restrict__ y, int side, int64_t rows,
         bool is_first, bool clamps, double *errors)
{
    const int64_t row = (int64_t)blockIdx.x * NIB_GPTQ_WARPS + threadIdx.x / 32;
    const int     lane = threadIdx.x % 32;
    double        sum = 0.0;
    if (row >= rows) return;
    for (int i = lane; i < side; i += 32)
        sum += (double)d[row * ld + i] * (double)y[row * side + i];
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (lane) return;
    if (!is_first) sum += errors[row];
    errors[row] = clamps && sum < 0.0 ? 0.0 : sum;
}

/* ---- one tile of rows ---- */

struct Measure {
    const nib_launch  *launch;
    const nib_hessian *h;
    GptqRoom           room;
    bool               done; /* the factor stands: sums below 0 are an H's that is not definite */
};

template <class T>
nib_status measure_panel(Measure *m, const GptqLayer &g, int64_t first, double *errors)
{
    uint8_t *const workspace = nib_cuda_workspace(m->launch);
    T *const      y = (T *)(workspace + m->room.sums), *const s = (T *)(workspace + m->room.square);
    const T *const h = (const T *)g.h, *const d = (const T *)g.d;
    const int     side = (int)least(NIB_GPTQ_PANEL, g.k - first);
    const auto    stream = (cudaStream_t)m->launch->stream;
    LtProduct     p = {};
    p.sums = sizeof(T) == 8 ? LT_F64 : LT_F32, p.strict = true;
    p.a_dtype = p.d_dtype = NIB_F32;
    p.m = g.rows, p.n = side, p.a_ld = g.k, p.d = y, p.d_ld = side;
    if (first) {
        p.a = d, p.w = h + first * g.h_ld, p.w_ld = g.h_ld, p.k = first, p.transposed = true;
        p.factor = 2.0f;
        NIB_CUDA_TRY(nib_cuda_lt_product(m->launch, p, workspace, NIB_GPTQ_LT_WORKSPACE));
    }
    const dim3 grid((unsigned)nib_ceil_div(side, (int64_t)NIB_GPTQ_THREADS), (unsigned)side);
    NIB_LAUNCH(gptq_square<T>, grid, NIB_GPTQ_THREADS, 0, stream, h, g.h_ld, first, side, s);
    p.a = d + first, p.w = s, p.w_ld = side, p.k = side, p.transposed = false;
    p.factor = 1.0f, p.adds = first > 0;
    NIB_CUDA_TRY(nib_cuda_lt_product(m->launch, p, workspace, NIB_GPTQ_LT_WORKSPACE));
    NIB_LAUNCH(gptq_dot<T>, (unsigned)nib_ceil_div(g.rows, (int64_t)NIB_GPTQ_WARPS),
               NIB_GPTQ_THREADS, 0, stream, d + first, g.k, (const T *)y, side, g.rows,
               first == 0, m->done && first + side == g.k, errors);
    return NIB_OK;
}

template <class T, bool less>
nib_status measure_rows(Measure *m, const GptqLayer &g, double *errors)
{
    const dim3 grid((unsigned)nib_ceil_div(g.k, (int64_t)NIB_GPTQ_THREADS), (unsigned)g.rows);
    NIB_LAUNCH((gptq_load<T, less>), grid, NIB_GPTQ_THREADS, 0, (cudaStream_t)m->launch->stream,
               g);
    for (int64_t first = 0; first < g.k; first += NIB_GPTQ_PANEL)
        NIB_CUDA_TRY((measure_panel<T>(m, g, first, errors + g.row)));
    return NIB_OK;
}

/* Weights to the place of swept errors: nothing was swept yet. */
template <class T> nib_status measure(Measure *m, GptqLayer *g, int64_t rows)
{
    for (int64_t row = 0; row < rows; row += NIB_GPTQ_ROWS) {
        nib_cuda_gptq_rows(m->launch, m->room, row, least(NIB_GPTQ_ROWS, rows - row), g);
        NIB_CUDA_TRY((measure_rows<T, false>(m, *g, g->swept)));
        NIB_CUDA_TRY((measure_rows<T, true>(m, *g, g->plain)));
    }
    return NIB_OK;
}

nib_status sum_of(const nib_launch *launch, const double *errors, int64_t rows, double *host,
                  double *sum)
{
    NIB_CUDA_TRY(nib_cuda_fetch(launch, "gptq_measure", host, errors,
                                (size_t)rows * sizeof *errors));
    *sum = 0.0;
    for (int64_t row = 0; row < rows; row++) *sum += host[row];
    return NIB_OK;
}

nib_status one_float(const nib_launch *launch, const char *what, const float *from, float *to)
{
    return nib_cuda_fetch(launch, what, to, from, sizeof *to);
}

} // namespace

/* What a format's rounding needs; fetches what the tensor's scale is made of. */
static nib_status format_layer(const nib_launch *launch, const nib_gptq_request *r, GptqLayer *g)
{
    const nib_packed *const dst = r->dst;
    const nib_block_rules   rules = nib_block_rules_of(dst->format, &r->quantize.rules,
                                                       r->quantize.scale_choice, r->w->dtype);
    nib_tensor_scales scales = { 1.0f, 1.0f };
    float             given;
    if (dst->tensor_scale && r->quantize.tensor_amax) {
        NIB_CUDA_TRY(one_float(launch, "tensor_amax", r->quantize.tensor_amax, &given));
        scales = nib_tensor_factors(&rules, given);
    } else if (dst->tensor_scale) {
        NIB_CUDA_TRY(one_float(launch, "dst->tensor_scale", dst->tensor_scale, &given));
        scales = nib_tensor_given(given);
    }
    g->math = nib_tensor_math_of(&rules, scales);
    g->divide = nib_block_unit_of(&g->math, 1).divide;
    g->keep = rules.zero_sign == NIB_Z_KEEP;
    g->kind = rules.element == NIB_EL_E2M1 && rules.ties == NIB_TIE_EVEN
           && (g->keep || rules.zero_sign == NIB_Z_INPUT) ? GPTQ_E2M1 : GPTQ_ANY;
    g->full = r->scales == NIB_GPTQ_SCALES_HESSIAN_FULL;
    g->choice = (int)r->quantize.scale_choice;
    g->codes = dst->codes, g->scales = dst->scales, g->codes_ld = dst->ld_codes_bytes;
    g->block = rules.block;
    g->layout = (int)dst->scale_layout, g->halves = dst->code_order == NIB_CODES_GGUF_HALVES;
    g->bits = nib_part_bits(dst->format);
    if (rules.block <= GPTQ_MOST_BLOCK) return NIB_OK;
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "blocks of %d; on CUDA at most %d",
                              rules.block, (int)GPTQ_MOST_BLOCK);
    return NIB_ERR_UNSUPPORTED;
}

static void integer_layer(const nib_gptq_request *r, GptqLayer *g)
{
    const nib_packed_steps *const p = r->steps;
    g->kind = GPTQ_INTEGER;
    g->grid = nib_grid_of_codes((int)r->step.element, r->step.middle);
    g->asymmetric = r->step.asymmetric, g->rule = (int)r->step.rule;
    g->chooses = r->scales != NIB_GPTQ_SCALES_FROZEN;
    g->codes = p->codes, g->codes_ld = p->ld_codes_bytes;
    g->steps = p->steps, g->zeros = p->zeros;
    g->block = (int)r->step.group, g->bits = nib_step_code_bits((int)r->step.element);
}

nib_status nib_cuda_gptq_layer(const nib_launch *launch, const nib_gptq_request *r, GptqLayer *g)
{
    *g = {};
    if (r->steps) integer_layer(r, g);
    else NIB_CUDA_TRY(format_layer(launch, r, g));
    g->w = r->w->data, g->w_ld = r->w->ld_elems, g->dtype = (int)r->w->dtype;
    g->k = r->w->cols, g->groups = nib_ceil_div(g->k, (int64_t)g->block);
    g->h = r->hessian->data, g->h_ld = r->hessian->ld_elems;
    g->l = r->factor->l, g->l_ld = r->factor->ld_elems, g->order = r->factor->order;
    g->added = r->factor->added;
    return NIB_OK;
}

void nib_cuda_gptq_rows(const nib_launch *launch, const GptqRoom &room, int64_t row, int64_t rows,
                        GptqLayer *g)
{
    uint8_t *const workspace = nib_cuda_workspace(launch);
    g->row = row, g->rows = rows;
    g->d = workspace + room.d;
    g->tile_codes = workspace + room.codes, g->tile_scales = workspace + room.scales;
    if (g->chooses) {
        g->tile_steps = (float *)(workspace + room.scales);
        g->tile_lows = g->tile_steps + room.rows * g->groups;
    }
    g->plain = (double *)(workspace + room.plain), g->swept = (double *)(workspace + room.swept);
}

size_t nib_cuda_gptq_need(nib_real real, int64_t rows, int64_t k, int64_t group, int32_t)
{
    return gptq_room(real, rows, k, group).bytes + 256;
}

nib_status nib_cuda_gptq_measure(const nib_launch *launch, const nib_gptq_request *request,
                                 nib_gptq_sums *sums)
{
    const nib_hessian *const h = request->hessian;
    const int64_t rows = request->w->rows;
    NIB_CUDA_TRY(nib_cuda_begin_waiting(launch, NIB_PREPARE_GPTQ));
    GptqLayer layer;
    NIB_CUDA_TRY(nib_cuda_gptq_layer(launch, request, &layer));
    Measure m = {};
    m.launch = launch, m.h = h, m.done = request->factor->outcome == NIB_GPTQ_DONE;
    m.room = gptq_room(h->real, rows, h->k, nib_cuda_gptq_group(request));
    NIB_CUDA_TRY(h->real == NIB_REAL_F64 ? measure<double>(&m, &layer, rows)
                                         : measure<float>(&m, &layer, rows));
    NIB_CUDA_TRY(nib_cuda_end(launch, "gptq_measure"));
    double *const host = (double *)malloc((size_t)rows * sizeof *host);
    if (!host) return NIB_ERR_OUT_OF_MEMORY;
    *sums = {};
    sums->plain_rows = rows;
    nib_status status = sum_of(launch, layer.plain, rows, host, &sums->error);
    if (status == NIB_OK) status = sum_of(launch, layer.swept, rows, host, &sums->weight);
    free(host);
    return status;
}

cudaError_t nib_cuda_load_gptq()
{
    cudaFuncAttributes a;
    const void *const  kernels[] = {
        (const void *)gptq_load<float, false>, (const void *)gptq_load<float, true>,
        (const void *)gptq_load<double, false>, (const void *)gptq_load<double, true>,
        (const void *)gptq_square<float>, (const void *)gptq_square<double>,
        (const void *)gptq_dot<float>, (const void *)gptq_dot<double>,
    };
    cudaError_t error = cudaSuccess;
    for (const void *kernel : kernels)
        if (error == cudaSuccess) error = cudaFuncGetAttributes(&a, kernel);
    return error == cudaSuccess ? nib_cuda_load_gptq_sweep() : error;
}
