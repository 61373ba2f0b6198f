/* qbench_op_dense.c: products of plain matrices by the libraries that our own are held against:
 * OpenBLAS on the CPU, the fastest of cublasLt's heuristics on a GPU.
 * d[M,N] = a[M,K] * w[N,K]^T. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "qbench_ops.h"

enum { A = NIB_QB_OTHER, W = NIB_QB_CODES, D = NIB_QB_MATRIX };

static int64_t m_of(const nib_qb_case *c) { return c->value[NIB_QB_M]; }
static int64_t n_of(const nib_qb_case *c) { return c->value[NIB_QB_N]; }
static int64_t k_of(const nib_qb_case *c) { return c->value[NIB_QB_K]; }

static nib_dtype dtype_of(const nib_qb_case *c) { return (nib_dtype)c->value[NIB_QB_DTYPE]; }

/* Of rows x cols elements; -1 if that is over INT64_MAX. */
static int64_t bytes_of(const nib_qb_case *c, int64_t rows, int64_t cols)
{
    int64_t bytes;
    const int64_t size = dtype_of(c) == NIB_F32 ? 4 : 2;
    const int over = __builtin_mul_overflow(rows, cols, &bytes)
                  || __builtin_mul_overflow(bytes, size, &bytes);
    return over ? -1 : bytes;
}

static nib_status dense_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[A] = (nib_qb_part){ bytes_of(c, m_of(c), k_of(c)), NIB_QB_IN };
    part[W] = (nib_qb_part){ bytes_of(c, n_of(c), k_of(c)), NIB_QB_WEIGHT };
    part[D] = (nib_qb_part){ bytes_of(c, m_of(c), n_of(c)), NIB_QB_OUT };
    return part[A].bytes < 0 || part[W].bytes < 0 || part[D].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static int64_t dense_bytes(const nib_qb_case *c)
{
    return bytes_of(c, m_of(c), k_of(c)) + bytes_of(c, n_of(c), k_of(c))
         + bytes_of(c, m_of(c), n_of(c));
}

static nib_status dense_fill(const nib_qb_call *call)
{
    nib_qb_case c = *call->c;
    nib_qb_call one = { .c = &c, .exec = call->exec };
    c.value[NIB_QB_BATCH] = 1;
    c.value[NIB_QB_COLS] = k_of(&c);
    c.value[NIB_QB_ROWS] = m_of(&c);
    one.part[NIB_QB_MATRIX] = call->part[A];
    (void)nib_qb_fill_matrix(&one);
    c.value[NIB_QB_ROWS] = n_of(&c);
    one.part[NIB_QB_MATRIX] = call->part[W];
    return nib_qb_fill_matrix(&one);
}

/* ---- running ---- */

static void *plan; /* of the case that is being measured on a GPU */

/* A plan that cannot be made is told by the run. */
static nib_status dense_prepare(const nib_qb_call *call)
{
    if (!call->gpu) return NIB_OK;
    const nib_bench_cuda_ops *bench = call->gpu->bench;
    const nib_launch how = nib_qb_device_launch(call->gpu);
    bench->gemm_release(plan);
    plan = NULL;
    return bench->gemm_plan(&how, dtype_of(call->c), m_of(call->c), n_of(call->c), k_of(call->c),
                            call->part[A], call->part[W], call->part[D], &plan);
}

static int64_t dense_flops(const nib_qb_call *call)
{
    return 2 * m_of(call->c) * n_of(call->c) * k_of(call->c);
}

static nib_status dense_run(const nib_qb_call *call)
{
    const nib_qb_case *c = call->c;
    if (call->gpu) {
        const nib_launch how = nib_qb_device_launch(call->gpu);
        return call->gpu->bench->gemm(&how, plan, call->part[A], call->part[W], call->part[D]);
    }
    if (dtype_of(c) == NIB_F32) /* else it is the reference's turn: see dense_compare */
        nib_bench_cpu.gemm(m_of(c), n_of(c), k_of(c), call->part[A], call->part[W], call->part[D],
                           call->exec->threads);
    return NIB_OK;
}

static const char *dense_why_not(const nib_qb_case *c)
{
    enum { MOST = INT32_MAX };
    if (m_of(c) > MOST || n_of(c) > MOST || k_of(c) > MOST)
        return "the libraries take sizes up to 2147483647";
    if (c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA) return NULL;
    if (dtype_of(c) != NIB_F32) return "OpenBLAS multiplies f32; --dtype f32, or --backend cuda";
    return nib_bench_cpu.gemm_missing();
}

/* ---- checking ---- */

static double element_at(const nib_qb_case *c, const void *matrix, int64_t i)
{
    const int64_t size = dtype_of(c) == NIB_F32 ? 4 : 2;
    float x;
    nib_scalar_cpu.to_f32(dtype_of(c), (const uint8_t *)matrix + i * size, 1, &x);
    return x;
}

/* Sums in f32, whatever their order, are within K * 2^-23 of the sum of magnitudes (Higham,
 * Accuracy and Stability of Numerical Algorithms, section 3.1, with twice 2^-24 for units that
 * truncate); then comes one rounding to the result's dtype. */
static double bound(const nib_qb_case *c, double value, double magnitudes)
{
    const double rounding = dtype_of(c) == NIB_F32 ? 0x1p-24 : dtype_of(c) == NIB_F16 ? 0x1p-11
                                                                                      : 0x1p-8;
    return (double)(k_of(c) + 2) * 0x1p-23 * magnitudes + rounding * fabs(value) + DBL_MIN;
}

/* In f64; of large results about 2^26 / K elements, spread over the whole. */
static nib_status dense_compare(const nib_qb_call *got, const nib_qb_call *right,
                                nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const int64_t k = k_of(c), all = m_of(c) * n_of(c), most = ((int64_t)1 << 26) / k + 1;
    const int64_t size = dtype_of(c) == NIB_F32 ? 4 : 2;
    for (int64_t i = 0; i < (all < most ? all : most); i++) {
        const int64_t at = all <= most ? i : nib_qb_visit(i, all);
        const int64_t a = at / n_of(c) * k, w = at % n_of(c) * k;
        double sum = 0, magnitudes = 0;
        for (int64_t j = 0; j < k; j++) {
            const double term = element_at(c, right->part[A], a + j)
                              * element_at(c, right->part[W], w + j);
            sum += term;
            magnitudes += fabs(term);
        }
        const double apart = fabs(element_at(c, got->part[D], at) - sum);
        if (!(apart <= bound(c, sum, magnitudes))) verdict->wrong_bytes += size;
        if (!(apart <= verdict->max_err)) verdict->max_err = apart;
    }
    return NIB_OK;
}

const nib_qb_op nib_qb_dense = {
    .name = "dense", .help = "M x N x K product by OpenBLAS or cublasLt; all three matrices' bytes",
    .axes = (MATRIX_AXES & ~(NIB_QB_AXIS(ISA) | NIB_QB_AXIS(ROWS) | NIB_QB_AXIS(COLS)))
          | NIB_QB_AXIS(M) | NIB_QB_AXIS(N) | NIB_QB_AXIS(K),
    .cpu_kernel = "openblas", .cuda_kernel = "cublaslt", .limit = &nib_qb_limit_read,
    .bytes = dense_bytes, .flops = dense_flops, .prepare = dense_prepare,
    .layout = dense_layout, .fill = dense_fill,
    .run = dense_run, .why_not = dense_why_not, .compare = dense_compare,
};

/* ---- as what a product of packed weights is held against, in f32 on a CPU ---- */

static int64_t rival_place(const nib_qb_rival *r)
{
    const int64_t size = r->device->runtime ? 2 : 4, m = m_of(r->c), n = n_of(r->c), k = k_of(r->c);
    if (!r->device->runtime && nib_bench_cpu.gemm_missing()) return 0;
    return (n * k + m * k + m * n) * size + 64;
}

/* W, A and D of a place, each on 16 bytes: N and K are multiples of 8. */
static void *rival_part(const nib_qb_rival *r, uint8_t *at, int part)
{
    const int64_t size = r->device->runtime ? 2 : 4, n = n_of(r->c), k = k_of(r->c);
    return at + (part == W ? 0 : n * k + (part == A ? 0 : m_of(r->c) * k)) * size;
}

/* All places, with numbers like the operation's own: on equal ones a GPU draws less power, and
 * runs faster. */
static nib_status rival_fill(nib_qb_rival *r, nib_dtype dtype)
{
    enum { CHUNK = 1 << 18 };
    const int64_t bytes = r->window * r->windows;
    const int64_t chunk = (int64_t)CHUNK * (dtype == NIB_F32 ? 4 : 2);
    float *const x = malloc(2 * CHUNK * sizeof *x), *const numbers = x + CHUNK;
    uint64_t state = 1;
    nib_status status = x ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    if (x) {
        nib_qb_bell_shaped(x, CHUNK, &state);
        nib_scalar_cpu.from_f32(dtype, x, CHUNK, numbers);
    }
    for (int64_t at = 0; at < bytes && status == NIB_OK; at += chunk) {
        const int64_t some = bytes - at < chunk ? bytes - at : chunk;
        status = nib_qb_device_copy(r->device, r->buffer + at, numbers, (size_t)some);
    }
    free(x);
    return status;
}

static nib_status rival_open(nib_qb_rival *r)
{
    if (!r->device->runtime) return rival_fill(r, NIB_F32);
    const nib_launch how = nib_qb_device_launch(r->device);
    const nib_dtype dtype = dtype_of(r->c) == NIB_F32 ? NIB_F16 : dtype_of(r->c);
    const nib_status status = rival_fill(r, dtype);
    if (status != NIB_OK) return status;
    return r->device->bench->gemm_plan(&how, dtype, m_of(r->c), n_of(r->c), k_of(r->c),
                                       rival_part(r, r->buffer, A), rival_part(r, r->buffer, W),
                                       rival_part(r, r->buffer, D), &r->plan);
}

static nib_status rival_run(nib_qb_rival *r, uint8_t *first, uint8_t *second)
{
    const nib_launch how = nib_qb_device_launch(r->device);
    void *const a = rival_part(r, first, A), *const w = rival_part(r, first, W);
    void *const d = rival_part(r, first, D);
    (void)second;
    if (r->device->runtime) return r->device->bench->gemm(&how, r->plan, a, w, d);
    nib_bench_cpu.gemm(m_of(r->c), n_of(r->c), k_of(r->c), a, w, d, r->threads);
    return NIB_OK;
}

static void rival_close(nib_qb_rival *r) { r->device->bench->gemm_release(r->plan); }

const nib_qb_rival_kind nib_qb_baseline_dense = {
    .name = "openblas", .cuda_name = "cublaslt", .buffers = 1, .run = rival_run,
    .place = rival_place, .open = rival_open, .close = rival_close,
};
