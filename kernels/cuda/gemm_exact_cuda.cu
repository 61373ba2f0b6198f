/* gemm_exact_cuda.cu: packed weights dequantized to scratch, a part of the outputs at a time, and
 * multiplied by cublasLt. Outputs are columns of D, terms what a sum runs over:
 *
 *     D[m, n]  over k     W' rows of weights, packed order     gemm
 *     dX[m, k] over n     W' columns, rows in source's order   gemm_backward
 *
 * Where D is a sum times one number, of a dtype that cublasLt writes, it writes D; else f32 sums,
 * which gemm_finish ends. Workspace, in this order, each on 256 bytes, for any 1 .. m rows:
 *
 *     cublasLt's own        4 or 32 MB
 *     2 floats              alpha * t and 0
 *     P bytes               exponents
 *     P * terms * 2 bytes   W', P = min(outputs, NIB_GEMM_EXACT_OUTPUTS) or fewer for long sums
 *     f32 sums              min(m * P, NIB_GEMM_EXACT_SUMS) */
#include "cublaslt.cuh"
#include "gemm_dequantize.cuh"

#include <stdio.h>

namespace {

/* ---- sizes ---- */

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t down(int64_t x, int64_t unit) { return x / unit * unit; }
size_t  up256(int64_t bytes) { return ((size_t)bytes + 255) & ~(size_t)255; }

struct Tiling {
    int64_t outputs, terms;
    int64_t part, rows;  /* outputs and rows of activations of one product */
    size_t  lt, top, weights, sums, bytes; /* cublasLt's workspace; offsets; the whole */
};

Tiling tiling_of(int64_t outputs, int64_t terms, int64_t m, int capability)
{
    Tiling t = {};
    t.outputs = outputs, t.terms = terms;
    const int64_t room = down(NIB_GEMM_EXACT_WEIGHTS / most(terms, 1), NIB_GEMM_TILE);
    const int64_t widest = least(least(most(room, NIB_GEMM_TILE), NIB_GEMM_EXACT_OUTPUTS),
                                 nib_gemm_round_up(most(outputs, 1), NIB_GEMM_TILE));
    const int64_t waves = down(NIB_GEMM_EXACT_SUMS / m, NIB_GEMM_TILE);
    t.part = least(widest, most(waves, NIB_GEMM_EXACT_LEAST));
    t.rows = least(m, down(NIB_GEMM_EXACT_SUMS / t.part, 128));
    t.lt = capability >= 90 ? NIB_GEMM_LT_WORKSPACE_SM90 : NIB_GEMM_LT_WORKSPACE;
    t.top = t.lt + 256;
    t.weights = t.top + up256(widest);
    t.sums = t.weights + up256(widest * terms * 2);
    const int64_t sums = m < NIB_GEMM_EXACT_SUMS ? least(m * widest, NIB_GEMM_EXACT_SUMS)
                                                 : (int64_t)NIB_GEMM_EXACT_SUMS;
    t.bytes = t.sums + up256(sums * 4);
    return t;
}

/* ---- kernels ---- */

/* to = the factor of a whole product, and 0. */
__global__ void gemm_exact_factor(const GemmJob job, float *to)
{
    to[0] = job.factor * gemm_factor(job);
    to[1] = 0.0f;
}

struct Sums {
    const float   *sums; /* rows x cols, or NULL: all are 0 */
    const uint8_t *top;  /* NULL, or exponents of the outputs */
    int64_t        m, rows, output, cols; /* of D: from row m and output on */
};

__device__ __forceinline__ float sum_at(const Sums &s, int64_t row, int64_t col)
{
    if (!s.sums) return 0.0f;
    const float sum = s.sums[row * s.cols + col];
    return s.top ? sum * nib_pow2((int)s.top[col] - 127 - 13) : sum;
}

/* Blocks: columns along x, NIB_GEMM_FINISH_ROWS rows a thread along y. */
__global__ void __launch_bounds__(NIB_GEMM_FINISH_THREADS)
gemm_exact_finish(const GemmJob job, const Sums s)
{
    const int64_t col = (int64_t)blockIdx.x * NIB_GEMM_FINISH_THREADS + threadIdx.x;
    int64_t       column;
    if (col >= s.cols || !gemm_is_column(job, s.output + col, &column)) return;
    const float scale = gemm_factor(job);
    for (int64_t first = (int64_t)blockIdx.y * NIB_GEMM_FINISH_ROWS; first < s.rows;
         first += (int64_t)gridDim.y * NIB_GEMM_FINISH_ROWS) {
        float sum[NIB_GEMM_FINISH_ROWS], other[NIB_GEMM_FINISH_ROWS];
        NIB_UNROLL
        for (int i = 0; i < NIB_GEMM_FINISH_ROWS; i++) {
            sum[i] = other[i] = 0.0f;
            if (first + i < s.rows) {
                sum[i] = sum_at(s, first + i, col);
                if (job.gated) other[i] = sum_at(s, first + i, col + 8);
            }
        }
        NIB_UNROLL
        for (int i = 0; i < NIB_GEMM_FINISH_ROWS; i++) {
            if (first + i < s.rows)
                gemm_finish(job, scale, s.m + first + i, column, sum[i], other[i]);
        }
    }
}

using dequantize = void (*)(GemmPart);

dequantize dequantize_of(int layout, int dtype, int scale)
{
    static const dequantize all[2][2][2] = {
        { { gemm_dequantize<NIB_GL_SM80, NIB_DT_F16, GEMM_E4M3>,
            gemm_dequantize<NIB_GL_SM80, NIB_DT_F16, GEMM_E8M0> },
          { gemm_dequantize<NIB_GL_SM80, NIB_DT_BF16, GEMM_E4M3>,
            gemm_dequantize<NIB_GL_SM80, NIB_DT_BF16, GEMM_E8M0> } },
        { { gemm_dequantize<NIB_GL_SM100, NIB_DT_F16, GEMM_E4M3>,
            gemm_dequantize<NIB_GL_SM100, NIB_DT_F16, GEMM_E8M0> },
          { gemm_dequantize<NIB_GL_SM100, NIB_DT_BF16, GEMM_E4M3>,
            gemm_dequantize<NIB_GL_SM100, NIB_DT_BF16, GEMM_E8M0> } },
    };
    return all[layout == NIB_GL_SM100][dtype == NIB_DT_BF16][scale];
}

/* ---- one call ---- */

struct Run {
    const nib_launch *launch;
    GemmJob           job;  /* what gemm_finish does to the sums */
    GemmPart          part;
    LtProduct         product; /* its shape and pointers are each part's */
    Tiling            t;
    dequantize        kernel;
    bool              direct; /* cublasLt writes D */
    float            *sums;
    cudaStream_t      stream;
};

/* Outputs from first on to W'. */
void dequantize_part(Run *r, int64_t first, int64_t cols)
{
    GemmPart     &p = r->part;
    const int64_t tile = first / NIB_GEMM_TILE, tiles = nib_ceil_div(cols, NIB_GEMM_TILE);
    if (p.backward) p.unit = tile, p.units = tiles;
    else p.stripe = tile, p.stripes = tiles;
    if (p.top)
        NIB_LAUNCH(gemm_exponents, (unsigned)tiles, NIB_GEMM_EXPONENTS_THREADS, 0, r->stream, p);
    const int64_t blocks = nib_ceil_div(p.stripes * p.units, (int64_t)GEMM_DEQUANTIZE_WARPS);
    NIB_LAUNCH(r->kernel, (unsigned)blocks, NIB_GEMM_DEQUANTIZE_THREADS, 0, r->stream, p);
}

void finish(const Run &r, int64_t m, int64_t rows, int64_t first, int64_t cols)
{
    const Sums s = { r.t.terms ? r.sums : nullptr, r.part.top, m, rows, first, cols };
    const dim3 grid((unsigned)nib_ceil_div(cols, NIB_GEMM_FINISH_THREADS),
                    (unsigned)least(nib_ceil_div(rows, NIB_GEMM_FINISH_ROWS), 65535));
    NIB_LAUNCH(gemm_exact_finish, grid, NIB_GEMM_FINISH_THREADS, 0, r.stream, r.job, s);
}

nib_status multiply(Run *r, int64_t m, int64_t rows, int64_t first, int64_t cols)
{
    LtProduct p = r->product;
    p.m = rows, p.n = cols, p.k = r->t.terms;
    p.a = r->job.a + m * r->job.a_ld;
    if (r->direct) {
        p.d = (uint8_t *)r->job.d
            + (m * r->job.d_ld + first) * (p.d_dtype == NIB_F32 ? 4 : 2);
    } else {
        p.d = r->sums, p.d_ld = cols;
    }
    return nib_cuda_lt_product(r->launch, p, r->launch->workspace, r->t.lt);
}

nib_status run(Run *r)
{
    if (r->product.factor_at)
        NIB_LAUNCH(gemm_exact_factor, 1, 1, 0, r->stream, r->job, (float *)r->product.factor_at);
    for (int64_t first = 0; first < r->t.outputs; first += r->t.part) {
        const int64_t cols = least(r->t.part, r->t.outputs - first);
        if (r->t.terms) dequantize_part(r, first, cols);
        for (int64_t m = 0; m < r->job.m; m += r->t.rows) {
            const int64_t rows = least(r->t.rows, r->job.m - m);
            if (r->t.terms) NIB_CUDA_TRY(multiply(r, m, rows, first, cols));
            if (!r->direct) finish(*r, m, rows, first, cols);
        }
    }
    return NIB_OK;
}

/* Where things lie in the workspace, and who ends the sums. */
void prepare(Run *r, const nib_gemm_request *q, bool trivial)
{
    const nib_gemm_options *o = q->options;
    const bool     e8m0 = !nib_part_e4m3_scale(q->w->format);
    const bool     by_row = e8m0 && o->a_dtype == NIB_F16;
    uint8_t *const workspace = (uint8_t *)r->launch->workspace;
    r->stream = (cudaStream_t)r->launch->stream;
    r->sums = (float *)(workspace + r->t.sums);
    r->kernel = dequantize_of((int)q->w->layout, (int)o->a_dtype, e8m0 ? GEMM_E8M0 : GEMM_E4M3);
    r->job.factor = e8m0 && !by_row ? 4.0f : 1.0f;
    r->direct = trivial && !by_row && r->t.terms
             && (o->d_dtype == NIB_F32 || o->d_dtype == o->a_dtype);
    GemmPart &p = r->part;
    p.codes = q->w->codes, p.scales = q->w->scales;
    p.top = by_row ? workspace + r->t.top : nullptr;
    p.to = (uint16_t *)(workspace + r->t.weights);
    p.ld_tiles = q->w->ld_tiles, p.n = q->w->n, p.k = q->w->k;
    p.stripes = nib_ceil_div(p.n, NIB_GEMM_TILE), p.units = nib_ceil_div(p.k, NIB_GEMM_TILE);
    p.block = nib_part_block(q->w->format), p.gated = q->w->gated;
    p.to_ld = p.backward ? nib_gemm_round_up(least(r->t.part, p.k), NIB_GEMM_TILE) : p.k;
    LtProduct &l = r->product;
    l.a_dtype = o->a_dtype, l.d_dtype = r->direct ? o->d_dtype : NIB_F32;
    l.transposed = !p.backward;
    l.a_ld = r->job.a_ld, l.w_ld = p.to_ld, l.d_ld = r->job.d_ld; /* not q's: see job_of */
    l.w = p.to;
    l.factor = r->direct ? r->job.factor : 1.0f;
    if (r->direct && (r->job.alpha || r->job.tensor_scale))
        l.factor_at = (const float *)(workspace + r->t.lt);
}

nib_status run_for(const nib_launch *launch, const nib_gemm_request *q, const GemmJob &job,
                   bool backward)
{
    int        major = 0;
    const auto attribute = cudaDevAttrComputeCapabilityMajor;
    const cudaError_t error = cudaDeviceGetAttribute(&major, attribute, launch->ordinal);
    if (error != cudaSuccess) return nib_cuda_failed(launch->why, "the compute capability", error);
    Run r = {};
    r.launch = launch, r.job = job;
    r.part.backward = backward;
    r.t = tiling_of(backward ? job.k : job.n, backward ? job.n : job.k, job.m, 10 * major);
    if (backward) {
        r.job.bias = r.job.residual = nullptr;
        r.job.act = NIB_GEMM_ACT_NONE, r.job.gated = 0;
        r.job.n = job.k;
    }
    prepare(&r, q, !r.job.bias && !r.job.residual && !r.job.gated
                       && r.job.act == NIB_GEMM_ACT_NONE);
    return run(&r);
}

} // namespace

const char *nib_cuda_gemm_exact_why_not(const nib_device_info *info)
{
    return nib_cuda_lt_why_not(info->ordinal);
}

size_t nib_cuda_gemm_exact_need(const nib_gemm_options *o, const nib_device_info *info, int64_t m,
                                bool backward)
{
    return tiling_of(backward ? o->k : o->n, backward ? o->n : o->k, m, info->compute_capability)
        .bytes;
}

nib_status nib_cuda_gemm_exact(const nib_launch *launch, const nib_gemm_request *request,
                               const GemmJob &job)
{
    return run_for(launch, request, job, false);
}

nib_status nib_cuda_gemm_exact_backward(const nib_launch *launch, const nib_gemm_request *request,
                                        const GemmJob &job)
{
    return run_for(launch, request, job, true);
}

cudaError_t nib_cuda_load_gemm_exact()
{
    cudaFuncAttributes attributes;
    cudaError_t        error = cudaFuncGetAttributes(&attributes, gemm_exact_factor);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, gemm_exact_finish);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, gemm_exponents);
    for (int i = 0; i < 8 && error == cudaSuccess; i++) {
        error = cudaFuncGetAttributes(
            &attributes, dequantize_of(i & 4 ? NIB_GL_SM100 : NIB_GL_SM80,
                                       i & 2 ? NIB_DT_BF16 : NIB_DT_F16, i & 1));
    }
    return error;
}
