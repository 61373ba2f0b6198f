/* qbench_op_hessian.c: second moments of rows tokens of cols inputs, or of --batch groups of so
 * many, beside OpenBLAS's ssyrk of the same size; on a GPU beside cublasLt's rate in the same
 * types. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qbench_gptq.h"

/* The tokens are NIB_QB_MATRIX. Groups have a Hessian and a count each, one behind the other. */
enum { H = NIB_QB_CODES, COUNT = NIB_QB_TENSOR, OFFSETS = NIB_QB_OTHER };

static int64_t tokens_of(const nib_qb_case *c) { return c->value[NIB_QB_ROWS]; } /* of a group */
static int is_grouped(const nib_qb_case *c) { return c->op == &nib_qb_hessian_grouped; }
static int64_t groups_of(const nib_qb_case *c)
{
    return is_grouped(c) ? c->value[NIB_QB_BATCH] : 1;
}
static int64_t k_of(const nib_qb_case *c) { return c->value[NIB_QB_COLS]; }
static int is_f64(const nib_qb_case *c) { return c->value[NIB_QB_REAL] == NIB_REAL_F64; }
static int is_cuda(const nib_qb_case *c) { return c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA; }

static nib_hessian_precision precision_of(const nib_qb_case *c)
{
    return (nib_hessian_precision)c->value[NIB_QB_PRECISION];
}

static nib_status layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t groups = groups_of(c), bytes = nib_qb_hessian_bytes(c);
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    if (part[NIB_QB_MATRIX].bytes < 0 || bytes < 0 || bytes > INT64_MAX / groups)
        return NIB_ERR_SHAPE;
    part[H] = (nib_qb_part){ bytes * groups, NIB_QB_OUT };
    part[COUNT] = (nib_qb_part){ groups * (int64_t)sizeof(uint64_t), NIB_QB_OUT };
    if (is_grouped(c))
        part[OFFSETS] = (nib_qb_part){ (groups + 1) * (int64_t)sizeof(int64_t), NIB_QB_IN };
    return NIB_OK;
}

static nib_matrix tokens_matrix(const nib_qb_call *call)
{
    nib_matrix x = nib_qb_matrix_of(call);
    x.rows *= groups_of(call->c);
    return x;
}

static nib_status fill(const nib_qb_call *call)
{
    const nib_matrix x = tokens_matrix(call);
    const int64_t groups = groups_of(call->c);
    int64_t *const offsets = call->part[OFFSETS];
    memset(call->part[H], 0, (size_t)(nib_qb_hessian_bytes(call->c) * groups));
    memset(call->part[COUNT], 0, (size_t)groups * sizeof(uint64_t));
    for (int64_t g = 0; g <= groups && offsets; g++) offsets[g] = g * tokens_of(call->c);
    return nib_qb_fill_tokens(&x, &(uint64_t){ 1 });
}

static int64_t flops(const nib_qb_call *call)
{
    return groups_of(call->c) * tokens_of(call->c) * k_of(call->c) * (k_of(call->c) + 1);
}

/* ---- running ---- */

static struct { /* of the case that is being measured */
    void        *workspace;
    size_t       bytes;
    nib_hessian *hessian; /* of each group */
} now;

static void release(const nib_qb_call *call)
{
    if (now.workspace) nib_qb_device_release(call->home, now.workspace);
    free(now.hessian);
    memset(&now, 0, sizeof now);
}

static nib_status prepare(const nib_qb_call *call)
{
    const nib_hessian h = nib_qb_hessian_of(call->c, call->part[H]);
    const int64_t groups = groups_of(call->c);
    release(call);
    now.hessian = calloc((size_t)groups, sizeof *now.hessian);
    if (!now.hessian) return NIB_ERR_OUT_OF_MEMORY;
    const size_t bytes = nib_hessian_add_workspace_bytes(call->target, &h,
                                                         groups * tokens_of(call->c));
    if (bytes == SIZE_MAX) return NIB_ERR_SHAPE;
    if (bytes) now.workspace = nib_qb_device_allocate(call->home, bytes);
    now.bytes = bytes;
    return bytes && !now.workspace ? NIB_ERR_OUT_OF_MEMORY : NIB_OK;
}

/* Once more onto what is there. The reference is compare's, in f64. */
static nib_status run(const nib_qb_call *call)
{
    const int64_t groups = groups_of(call->c), bytes = nib_qb_hessian_bytes(call->c);
    nib_exec exec = *call->exec;
    const nib_matrix x = tokens_matrix(call);
    if (exec.device != call->target) return NIB_OK;
    for (int64_t g = 0; g < groups; g++) {
        now.hessian[g] = nib_qb_hessian_of(call->c, (uint8_t *)call->part[H] + g * bytes);
        now.hessian[g].tokens = (uint64_t *)call->part[COUNT] + g;
    }
    exec.workspace = now.workspace;
    exec.workspace_bytes = now.bytes;
    if (!is_grouped(call->c)) return nib_hessian_add(&exec, &x, precision_of(call->c), now.hessian);
    const nib_groups list = { sizeof list, groups, call->part[OFFSETS] };
    const nib_status status = nib_hessian_add_grouped(&exec, &list, &x, precision_of(call->c),
                                                      now.hessian);
    /* A GPU's call waits for the offsets, not for the sums. */
    return status == NIB_OK && call->gpu ? nib_qb_device_finish(call->gpu) : status;
}

static const char *why_not(const nib_qb_case *c)
{
    return is_cuda(c) ? NULL : nib_bench_cpu.gemm_missing();
}

/* ---- checking ---- */

static double token_at(const nib_qb_call *call, int64_t row, int64_t col)
{
    const nib_matrix x = nib_qb_matrix_of(call);
    const int64_t element = x.dtype == NIB_F32 ? 4 : 2;
    float value;
    nib_scalar_cpu.to_f32(x.dtype, (uint8_t *)x.data + (row * x.cols + col) * element, 1, &value);
    return value;
}

/* hessian.h's bound of calls calls; in F64 as much again for the sum here. */
static void compare_one(const nib_qb_call *got, const nib_qb_call *right, int64_t group, int64_t i,
                        int64_t j, double calls, nib_qb_verdict *verdict)
{
    const int64_t k = k_of(got->c), at = (group * k + i) * k + j, first = group * tokens_of(got->c);
    const int f64 = is_f64(got->c);
    const int f32 = got->c->value[NIB_QB_DTYPE] == NIB_F32;
    const int narrow = is_cuda(got->c) && !f64 && f32 && precision_of(got->c) == NIB_HESSIAN_TF32;
    const double times = is_cuda(got->c) && !f64 && (!f32 || narrow) ? 2 : 1;
    double sum = 0, magnitudes = 0;
    for (int64_t t = 0; t < tokens_of(got->c); t++) {
        const double term = token_at(right, first + t, i) * token_at(right, first + t, j);
        sum += term;
        magnitudes += fabs(term);
    }
    const double value = f64 ? ((double *)got->part[H])[at] : (double)((float *)got->part[H])[at];
    const double unit = (times * (double)tokens_of(got->c) + calls) * (f64 ? 0x1p-52 : 0x1p-24);
    const double bound = (unit + (narrow ? 0x1p-9 : 0)) * 1.01 * calls * magnitudes + DBL_MIN;
    const double apart = fabs(value - calls * sum);
    if (!(apart <= bound)) verdict->wrong_bytes += f64 ? 8 : 4;
    if (!(apart / calls <= verdict->max_err)) verdict->max_err = apart / calls;
}

/* About 2^25 / tokens elements, spread over the whole; and the other triangle, which stays. */
static void compare_group(const nib_qb_call *got, const nib_qb_call *right, int64_t group,
                          nib_qb_verdict *verdict)
{
    const int64_t k = k_of(got->c), all = k * k;
    const int64_t most = ((int64_t)1 << 25) / (tokens_of(got->c) * groups_of(got->c)) + 1;
    const int64_t real = got->c->value[NIB_QB_REAL] == NIB_REAL_F64 ? 8 : 4;
    uint64_t count;
    memcpy(&count, (uint64_t *)got->part[COUNT] + group, sizeof count);
    const uint64_t calls = count / (uint64_t)tokens_of(got->c);
    if (calls == 0 || count % (uint64_t)tokens_of(got->c))
        verdict->wrong_bytes += (int64_t)sizeof count;
    for (int64_t n = 0; n < (all < most ? all : most); n++) {
        const int64_t at = all <= most ? n : nib_qb_visit(n, all), i = at / k, j = at % k;
        compare_one(got, right, group, i > j ? i : j, i > j ? j : i, (double)calls, verdict);
    }
    for (int64_t i = 0; i < k; i++) {
        const int64_t from = ((group * k + i) * k + i + 1) * real;
        if (memcmp((uint8_t *)got->part[H] + from, (uint8_t *)right->part[H] + from,
                   (size_t)((k - i - 1) * real)))
            verdict->wrong_bytes += real;
    }
}

static nib_status compare(const nib_qb_call *got, const nib_qb_call *right,
                          nib_qb_verdict *verdict)
{
    for (int64_t g = 0; g < groups_of(got->c); g++) compare_group(got, right, g, verdict);
    return NIB_OK;
}

enum { HESSIAN_AXES = (MATRIX_AXES & ~NIB_QB_AXIS(CACHE)) | NIB_QB_AXIS(REAL)
                    | NIB_QB_AXIS(PRECISION) };

const nib_qb_op nib_qb_hessian = {
    .name = "hessian", .help = "second moments of rows tokens of cols inputs; bytes of the tokens",
    .axes = HESSIAN_AXES, .why_not = why_not,
    .limit = &nib_qb_limit_syrk, .bytes = nib_qb_matrix_bytes, .flops = flops, .layout = layout,
    .fill = fill, .prepare = prepare, .release = release, .run = run, .compare = compare,
};

const nib_qb_op nib_qb_hessian_grouped = {
    .name = "hessian_grouped",
    .help = "those of --batch groups of --rows tokens, one for each; bytes of the tokens",
    .axes = HESSIAN_AXES | NIB_QB_AXIS(BATCH), .waits = 1, .why_not = why_not,
    .limit = &nib_qb_limit_syrk, .bytes = nib_qb_matrix_bytes, .flops = flops, .layout = layout,
    .fill = fill, .prepare = prepare, .release = release, .run = run, .compare = compare,
};

/* ---- what it is held against: one group; on a CPU in f32, whatever the case's types ---- */

static int64_t up256(int64_t n) { return (n + 255) / 256 * 256; }

/* Of one token's element, and one of H. */
static int64_t x_size(const nib_qb_rival *r)
{
    if (!r->device->runtime) return (int64_t)sizeof(float);
    return is_f64(r->c) ? (int64_t)sizeof(double) : r->c->value[NIB_QB_DTYPE] == NIB_F32 ? 4 : 2;
}

static int64_t h_size(const nib_qb_rival *r)
{
    return r->device->runtime && is_f64(r->c) ? (int64_t)sizeof(double) : (int64_t)sizeof(float);
}

static uint8_t *h_of(const nib_qb_rival *r, uint8_t *first)
{
    return first + up256(tokens_of(r->c) * k_of(r->c) * x_size(r));
}

static int64_t limit_place(const nib_qb_rival *r)
{
    const int64_t k = k_of(r->c);
    return up256(tokens_of(r->c) * k * x_size(r)) + k * k * h_size(r);
}

/* cublasLt knows no triangles: of its square's operations 2 k / (k + 1) times those that count are
 * done, and that is what its time is for. */
static nib_status cuda_open(nib_qb_rival *r)
{
    const nib_launch how = nib_qb_device_launch(r->device);
    const int64_t k = k_of(r->c);
    r->bytes = (int64_t)((double)r->bytes * 2 * (double)k / (double)(k + 1));
    return r->device->bench->square_plan(&how, (nib_dtype)r->c->value[NIB_QB_DTYPE],
                                         (nib_real)r->c->value[NIB_QB_REAL], precision_of(r->c),
                                         tokens_of(r->c), k, r->buffer, h_of(r, r->buffer),
                                         &r->plan);
}

static nib_status limit_open(nib_qb_rival *r)
{
    r->bytes /= groups_of(r->c);
    if (r->device->runtime) return cuda_open(r);
    const nib_matrix tokens = { r->buffer, NIB_F32, tokens_of(r->c), k_of(r->c), k_of(r->c) };
    memset(h_of(r, r->buffer), 0, (size_t)(k_of(r->c) * k_of(r->c)) * sizeof(float));
    return nib_qb_fill_tokens(&tokens, &(uint64_t){ 1 });
}

static nib_status limit_run(nib_qb_rival *r, uint8_t *first, uint8_t *second)
{
    const nib_launch how = nib_qb_device_launch(r->device);
    void *const x = first, *const h = h_of(r, first);
    (void)second;
    if (r->device->runtime) return r->device->bench->gemm(&how, r->plan, x, x, h);
    nib_bench_cpu.syrk(k_of(r->c), tokens_of(r->c), x, h, r->threads);
    return NIB_OK;
}

static void limit_close(nib_qb_rival *r) { r->device->bench->gemm_release(r->plan); }

const nib_qb_rival_kind nib_qb_limit_syrk = {
    .name = "ssyrk", .cuda_name = "cublaslt", .buffers = 1, .run = limit_run,
    .place = limit_place, .open = limit_open, .close = limit_close,
};
