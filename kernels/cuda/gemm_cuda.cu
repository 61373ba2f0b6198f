/* gemm_cuda.cu: products with packed weights: which kernel, and with what. */
#include "gemm_job.cuh"
#include "gemm_tune.h"
#include "ptx.cuh"

#include <stdio.h>
#include <string.h>

/* ---- tactics ---- */

enum { SMALL8, SMALL16, TILE32, TILE64, WGMMA128, EXACT, TACTICS };

static const char *const names[TACTICS] = { "small8", "small16", "tile32", "tile64", "wgmma128",
                                            "exact" };
static const char *const reasons[TACTICS] = {
    "at most 8 rows: the weights' memory is the limit, and tensor cores take them as they come",
    "at most 16 rows: the weights' memory is the limit, and tensor cores take them as they come",
    "weights are decoded once for 32 rows", "weights are decoded once for 64 rows",
    "weights are decoded once for 128 rows, and wgmma has all of Hopper's tensor cores",
    "many rows: dequantizing to scratch, a part at a time, costs little beside cublasLt's product",
};
static const int tokens_of[TACTICS] = { 8, 16, 32, 64, 128, 0 };
static const int64_t MOST_ROWS = 1 << 20;
static const int64_t MOST_GROUPS = 65535; /* of a grid's third dimension: small kernels' tokens */

static const nib_gemm_table *table_of(const nib_device_info *info)
{
    const nib_gemm_table *found = &nib_gemm_tables[0];
    for (const nib_gemm_table &t : nib_gemm_tables) {
        if (t.capability <= info->compute_capability) found = &t;
    }
    return found;
}

static nib_gemm_tactic tactic_of(int id, int64_t low, int64_t high)
{
    nib_gemm_tactic t = {};
    snprintf(t.name, sizeof t.name, "%s", names[id]);
    t.id = id;
    t.splits = id == EXACT ? 1
             : id <= SMALL16 ? (int)NIB_GEMM_SMALL_MAX_SPLITS : (int)NIB_GEMM_TILE_MAX_SPLITS;
    t.m_low = low;
    t.m_high = high;
    t.reason = reasons[id];
    return t;
}

/* NULL if the kernels hold the options. */
static const char *refused(const nib_gemm_options *o, const nib_device_info *info)
{
    const bool blackwell = info->compute_capability >= 100;
    if (o->a_dtype == NIB_F32) return "activations are f32; a GPU multiplies f16 and bf16";
    if (o->activations != NIB_GEMM_ACTIVATIONS_EXACT) return "INT8 activations are the CPU's";
    if (o->accumulate == NIB_GEMM_ACCUMULATE_F16 && o->a_dtype != NIB_F16)
        return "F16 accumulation of bf16 activations: tensor cores sum bf16 in f32 only";
    if (o->layout != (blackwell ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80))
        return blackwell ? "this device takes weights in layout SM100"
                         : "this device takes weights in layout SM80";
    return nullptr;
}

/* The kernels are sm_90a's alone; of a build with sm_90's too it is not said which a GPU takes. */
static bool has_wgmma(const nib_gemm_options *o, const nib_device_info *info)
{
#ifdef NIB_CUDA_ARCHS
    const bool built = nib_cuda_has_arch(NIB_CUDA_ARCHS, "sm_90a")
                    && !nib_cuda_has_arch(NIB_CUDA_ARCHS, "sm_90");
#elif defined(__CUDACC__)
    const bool built = false;
#else
    const bool built = true; /* emulated */
#endif
    return built && info->compute_capability == 90 && o->accumulate == NIB_GEMM_ACCUMULATE_F32;
}

int32_t nib_cuda_gemm_tactics(const nib_gemm_options *o, const nib_device_info *info,
                              nib_gemm_tactic *tactics, char *why)
{
    int32_t     count = 0;
    const char *no = refused(o, info);
    if (no) {
        if (why) snprintf(why, NIB_WHY_BYTES, "%s", no);
        return 0;
    }
    for (int id = SMALL8; id <= WGMMA128; id++) {
        if (id == WGMMA128 && !has_wgmma(o, info)) continue;
        const int64_t most = id <= SMALL16 ? MOST_GROUPS * tokens_of[id] : MOST_ROWS;
        tactics[count++] = tactic_of(id, 1, most);
    }
    if (o->accumulate == NIB_GEMM_ACCUMULATE_F32 && !o->batch_invariant
        && !nib_cuda_gemm_exact_why_not(info)) {
        tactics[count++] = tactic_of(EXACT, 1, INT32_MAX);
    }
    return count;
}

/* Without cublasLt, or where it may not be used, the largest tile goes on. With batch_invariant
 * either the small kernels, which agree bit by bit, or the tiles, which do with one split; wgmma's
 * sums go in another order. */
int32_t nib_cuda_gemm_plan(const nib_gemm_options *o, const nib_device_info *info,
                           nib_gemm_tactic *tactics, char *why)
{
    nib_gemm_tactic all[NIB_GEMM_TACTICS];
    const int32_t   there = nib_cuda_gemm_tactics(o, info, all, why);
    if (!there) return 0;
    const nib_gemm_table *t = table_of(info);
    const bool    exact = all[there - 1].id == EXACT;
    const bool    small_only = o->batch_invariant && o->m_max <= 4 * t->small16;
    const bool    wgmma = t->wgmma128 > t->tile64 && has_wgmma(o, info) && !o->batch_invariant;
    const int     tiles = wgmma || t->tile64 > t->wgmma128 ? t->tile64 : t->wgmma128;
    const int64_t last[TACTICS] = { t->small8, small_only ? MOST_ROWS : t->small16, t->tile32,
                                    exact || wgmma ? tiles : MOST_ROWS,
                                    !wgmma ? 0 : exact ? t->wgmma128 : MOST_ROWS, INT32_MAX };
    const int first = o->batch_invariant && !small_only ? TILE32 : SMALL8;
    int32_t   count = 0;
    int64_t   low = 1;
    for (int id = first; id < TACTICS && low <= o->m_max; id++) {
        if (last[id] < low || (id == EXACT && !exact)) continue;
        const int64_t high = last[id] < o->m_max ? last[id] : o->m_max;
        tactics[count++] = tactic_of(id, low, high);
        if (o->batch_invariant && id >= TILE32) tactics[count - 1].splits = 1;
        low = high + 1;
    }
    if (low > o->m_max) return count;
    if (why) snprintf(why, NIB_WHY_BYTES, "m_max %lld: without cublasLt the kernels take %lld rows",
                      (long long)o->m_max, (long long)MOST_ROWS);
    return 0;
}

/* ---- how K is cut ---- */

static int64_t clamped(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* CTAs of a product that is not cut, and how many the device runs at once. */
static int64_t ctas_of(const nib_gemm_options *o, int id, int64_t m)
{
    const int64_t stripes = nib_ceil_div(o->n, NIB_GEMM_TILE);
    return id <= SMALL16 ? stripes : nib_ceil_div(stripes, (int64_t)NIB_GEMM_TILE_STRIPES)
                                         * nib_ceil_div(m, tokens_of[id]);
}

static int64_t slots_of(const nib_device_info *info, int id)
{
    return (int64_t)(id <= SMALL16 ? NIB_GEMM_SMALL_PER_SM : NIB_GEMM_TILE_PER_SM)
         * info->processors;
}

/* Bytes that pass L2 for one CTA of a product that is not cut. Small kernels': of 16 tokens. */
static double bytes_of(const nib_gemm_options *o, int id)
{
    const bool   small = id <= SMALL16;
    const double rows = NIB_GEMM_TILE * (small ? 1 : NIB_GEMM_TILE_STRIPES);
    return (double)o->k * (rows * 0.5625 + 2.0 * tokens_of[small ? (int)SMALL16 : id]);
}

/* Time for a number of CTAs, in waves. A wave that is not full takes less, down to the share of the
 * slots with which memory is as busy as with all. */
static double waves_of(int64_t ctas, int64_t slots, int id)
{
    const double most = (id <= SMALL16 ? NIB_GEMM_SMALL_BUSY
                         : id == TILE32 ? NIB_GEMM_TILE32_BUSY : 100) * 0.01;
    const double rest = (double)(ctas % slots) / (double)slots;
    return (double)(ctas / slots) + (rest > most || rest == 0 ? rest : most);
}

/* The splits, each with enough to do, that take the least time, in bytes that pass L2 meanwhile:
 * waves of shorter CTAs, but sums that are written and read, and a second launch. Two waves and
 * more are not cut. Small kernels': without regard to m. */
static int32_t splits_for(const nib_gemm_options *o, const nib_device_info *info, int id, int64_t m)
{
    const bool small = id <= SMALL16;
    if (id == EXACT || (o->batch_invariant && !small)) return 1;
    const int64_t ctas = ctas_of(o, id, m), slots = slots_of(info, id);
    const int64_t units = nib_ceil_div(o->k, NIB_GEMM_TILE);
    const int64_t each = small ? NIB_GEMM_SMALL_MIN_UNITS : NIB_GEMM_TILE_MIN_UNITS;
    const int64_t most = clamped(units / each, 1, small ? (int)NIB_GEMM_SMALL_MAX_SPLITS
                                                        : (int)NIB_GEMM_TILE_MAX_SPLITS);
    const double  sums = (double)ctas * NIB_GEMM_TILE * 8 /* written and read */
                       * (small ? tokens_of[SMALL16] : NIB_GEMM_TILE_STRIPES * tokens_of[id]);
    const double  second = (double)NIB_GEMM_SECOND_LAUNCH * info->processors;
    double  least = 0;
    int32_t found = 1;
    if (ctas >= 2 * slots) return 1;
    for (int64_t s = 1; s <= most; s++) {
        const double bytes = waves_of(ctas * s, slots, id) / (double)s * (double)slots
                           * bytes_of(o, id)
                           + (s > 1 ? (double)s * sums + second : 0.0);
        if (s == 1 || bytes < least) least = bytes, found = (int32_t)s;
    }
    return found;
}

static int64_t partial_ld(const nib_gemm_options *o)
{
    return nib_gemm_round_up(o->n, NIB_GEMM_TILE);
}

/* The most over 1 .. m: splits fall where a row of CTAs begins. */
size_t nib_cuda_gemm_need(const nib_gemm_options *o, const nib_device_info *info,
                          const nib_gemm_tactic *tactic, int64_t m, int32_t *splits)
{
    const int id = tactic->id;
    *splits = splits_for(o, info, id, m);
    if (id == EXACT) return nib_cuda_gemm_exact_need(o, info, m, false);
    const int64_t step = id <= SMALL16 ? m : tokens_of[id];
    size_t        most = 0;
    for (int64_t rows = step < m ? step : m;; rows = rows + step < m ? rows + step : m) {
        const int64_t s = splits_for(o, info, id, rows);
        const size_t  bytes = s > 1 ? (size_t)(s * rows * partial_ld(o)) * sizeof(float) : 0;
        if (bytes > most) most = bytes;
        if (rows == m || o->batch_invariant || ctas_of(o, id, rows) >= 2 * slots_of(info, id))
            return most; /* more rows are not cut */
    }
}

size_t nib_cuda_gemm_backward_need(const nib_gemm_options *o, const nib_device_info *info,
                                   int64_t m)
{
    return nib_cuda_gemm_exact_need(o, info, m, true);
}

/* ---- running ---- */

static GemmJob job_of(const nib_launch *launch, const nib_gemm_request *r)
{
    const nib_gemm_options *o = r->options;
    const nib_gemm_weights *w = r->w;
    const bool e8m0 = !nib_part_e4m3_scale(w->format);
    const bool f16_sums = o->accumulate == NIB_GEMM_ACCUMULATE_F16;
    const bool whole = w->layout == NIB_GEMM_LAYOUT_SM100;
    GemmJob    j = {};
    j.a = (const uint16_t *)r->a->data;
    j.codes = w->codes, j.scales = w->scales;
    j.alpha = r->alpha, j.tensor_scale = w->tensor_scale;
    j.bias = r->bias;
    j.residual = r->residual ? r->residual->data : nullptr;
    j.d = r->d->data;
    j.partials = (float *)launch->workspace;
    j.a_ld = r->a->rows < 2 ? r->a->cols : r->a->ld_elems; /* a single row's may be anything */
    j.d_ld = r->d->rows < 2 ? r->d->cols : r->d->ld_elems;
    j.residual_ld = r->residual ? r->residual->ld_elems : 0;
    j.partial_ld = partial_ld(o);
    j.m = r->a->rows, j.n = w->n, j.k = w->k;
    j.ld_tiles = w->ld_tiles;
    j.stripes = nib_ceil_div(w->n, NIB_GEMM_TILE), j.units = nib_ceil_div(w->k, NIB_GEMM_TILE);
    j.block = nib_part_block(w->format);
    j.splits = r->splits;
    j.chunk_units = e8m0 || !f16_sums ? 1 : o->f16_chunk / NIB_GEMM_TILE;
    j.d_dtype = (int32_t)o->d_dtype, j.act = (int32_t)o->act, j.gated = o->gated;
    j.factor = e8m0 ? (f16_sums ? 128.0f : 1.0f) : whole && !f16_sums ? 1.0f : 16384.0f;
    return j;
}

static nib_status check_rows(const nib_launch *launch, const char *what, const nib_matrix *m)
{
    const int64_t size = m->dtype == NIB_F32 ? 4 : 2;
    if (m->rows < 1 || m->cols < 1) return NIB_OK;
    return nib_cuda_pointer(launch, what, m->data,
                            ((m->rows - 1) * m->ld_elems + m->cols) * size);
}

static nib_status check_pack(const nib_launch *launch, const nib_gemm_weights *w)
{
    const int64_t tiles = (nib_ceil_div(w->n, NIB_GEMM_TILE) - 1) * w->ld_tiles
                        + nib_ceil_div(w->k, NIB_GEMM_TILE);
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "w->codes", w->codes, tiles * NIB_GEMM_CODE_BYTES));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "w->scales", w->scales,
                                  tiles * nib_gemm_scale_tile_bytes(nib_part_block(w->format))));
    return nib_cuda_pointer(launch, "w->tensor_scale", w->tensor_scale, 4);
}

static nib_status check_request(const nib_launch *launch, const nib_gemm_request *r)
{
    if (!launch->debug) return NIB_OK;
    NIB_CUDA_TRY(check_rows(launch, "a", r->a));
    NIB_CUDA_TRY(check_rows(launch, "d", r->d));
    if (r->residual) NIB_CUDA_TRY(check_rows(launch, "residual", r->residual));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "alpha", r->alpha, 4));
    NIB_CUDA_TRY(nib_cuda_pointer(launch, "bias", r->bias,
                                  r->w->n * (r->options->d_dtype == NIB_F32 ? 4 : 2)));
    return check_pack(launch, r->w);
}

nib_status nib_cuda_gemm_run(const nib_launch *launch, const nib_gemm_request *r)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GEMM));
    NIB_CUDA_TRY(check_request(launch, r));
    const GemmJob      job = job_of(launch, r);
    const cudaStream_t stream = (cudaStream_t)launch->stream;
    const int  layout = (int)r->w->layout, dtype = (int)r->options->a_dtype;
    const int  scale = nib_part_e4m3_scale(r->w->format) ? GEMM_E4M3 : GEMM_E8M0;
    const bool f16_sums = r->options->accumulate == NIB_GEMM_ACCUMULATE_F16;
    if (r->tactic == EXACT)
        NIB_CUDA_TRY(nib_cuda_gemm_exact(launch, r, job));
    else if (r->tactic <= SMALL16)
        nib_cuda_gemm_small(job, layout, dtype, scale, f16_sums, tokens_of[r->tactic], stream);
    else if (r->tactic == WGMMA128)
        nib_cuda_gemm_wgmma(job, dtype, scale, stream);
    else
        nib_cuda_gemm_tile(job, layout, dtype, scale, f16_sums, tokens_of[r->tactic], stream);
    return nib_cuda_end(launch, "gemm");
}

nib_status nib_cuda_gemm_backward(const nib_launch *launch, const nib_gemm_request *r)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, NIB_PREPARE_GEMM));
    NIB_CUDA_TRY(check_request(launch, r));
    const GemmJob job = job_of(launch, r);
    NIB_CUDA_TRY(nib_cuda_gemm_exact_backward(launch, r, job));
    return nib_cuda_end(launch, "gemm_backward");
}

/* ---- the second launch of a product that was cut along K ---- */

/* Sums of 8 rows over the splits, in order, whose loads are under way four at a time. */
__device__ __forceinline__ void add_splits(const GemmJob &job, const float *p, float (&sum)[8])
{
    const int64_t next = job.m * job.partial_ld;
    NIB_NO_UNROLL
    for (int32_t left = job.splits; left > 0; left -= 4) {
        float4 x[4][2];
        NIB_UNROLL
        for (int i = 0; i < 4; i++, p += next) {
            if (i >= left) continue;
            x[i][0] = ((const float4 *)p)[0], x[i][1] = ((const float4 *)p)[1];
        }
        NIB_UNROLL
        for (int i = 0; i < 4; i++) {
            if (i >= left) continue;
            sum[0] += x[i][0].x, sum[1] += x[i][0].y, sum[2] += x[i][0].z, sum[3] += x[i][0].w;
            sum[4] += x[i][1].x, sum[5] += x[i][1].y, sum[6] += x[i][1].z, sum[7] += x[i][1].w;
        }
    }
}

__global__ void __launch_bounds__(NIB_GEMM_REDUCE_THREADS) gemm_reduce(const GemmJob job)
{
    nib_ptx::grid_dependency_wait();
    const int64_t n = ((int64_t)blockIdx.x * NIB_GEMM_REDUCE_THREADS + threadIdx.x) * 8;
    const int64_t m = blockIdx.y + (int64_t)blockIdx.z * 32768;
    int64_t       column;
    if (m >= job.m || !gemm_is_column(job, n, &column)) return;
    const float *const p = job.partials + m * job.partial_ld + n;
    const float        scale = gemm_factor(job);
    alignas(16) float  sum[8] = {};
    float              up[8] = {};
    add_splits(job, p, sum);
    if (job.gated) add_splits(job, p + 8, up);
    NIB_UNROLL
    for (int i = 0; i < 8; i++) sum[i] = gemm_value(job, scale, m, column + i, sum[i], up[i]);
    gemm_store_8(job.d_dtype, job.d, m * job.d_ld + column, sum);
}

void nib_cuda_gemm_reduce(const GemmJob &job, cudaStream_t stream)
{
    const unsigned rows = (unsigned)(job.m < 32768 ? job.m : 32768);
    const dim3 grid((unsigned)nib_ceil_div(job.n, 8 * NIB_GEMM_REDUCE_THREADS), rows,
                    (unsigned)nib_ceil_div(job.m, 32768));
    NIB_LAUNCH_DEPENDENT(gemm_reduce, grid, NIB_GEMM_REDUCE_THREADS, 0, stream, job);
}

cudaError_t nib_cuda_load_gemm()
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, gemm_reduce);
}
