/* qbench_op_inverse.c: the factor U of a damped Hessian's inverse, beside OpenBLAS's spotrf of cols
 * in f32, or cuSOLVER's: half of its work, the triangular inverse being as much again. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "qbench_gptq.h"

enum { U = NIB_QB_CODES };

static int64_t k_of(const nib_qb_case *c) { return c->value[NIB_QB_COLS]; }
static int is_f64(const nib_qb_case *c) { return c->value[NIB_QB_REAL] == NIB_REAL_F64; }

static double damping; /* of the case that is being measured: 0.01 of the mean diagonal */

static nib_status layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t bytes = nib_qb_hessian_bytes(c);
    if (bytes < 0) return NIB_ERR_SHAPE;
    part[U] = (nib_qb_part){ bytes, NIB_QB_OUT };
    part[NIB_QB_HESSIAN] = (nib_qb_part){ bytes, NIB_QB_IN };
    return NIB_OK;
}

static nib_status fill(const nib_qb_call *call)
{
    return nib_qb_fill_hessian(call, call->part[NIB_QB_HESSIAN]);
}

static int64_t flops(const nib_qb_call *call)
{
    const double k = (double)k_of(call->c);
    return (int64_t)(2 * k * k * k / 3);
}

static nib_status prepare(const nib_qb_call *call)
{
    const nib_hessian h = nib_qb_hessian_of(call->c, call->part[NIB_QB_HESSIAN]);
    nib_hessian_info info = { .size = sizeof info };
    const nib_status status = nib_hessian_check(call->exec, &h, &info);
    damping = 0.01 * info.mean_diag;
    return status;
}

/* u may be h. */
static nib_status invert(const nib_exec *exec, const nib_qb_case *c, void *h, void *u)
{
    const nib_hessian hessian = nib_qb_hessian_of(c, h);
    int64_t minor;
    const nib_status status = nib_hessian_inverse(exec, &hessian, damping, u, hessian.k, &minor);
    return status == NIB_OK && minor ? NIB_ERR_SHAPE : status;
}

static nib_status run(const nib_qb_call *call)
{
    if (call->exec->device != call->target) return NIB_OK; /* compare knows what is right */
    return invert(call->exec, call->c, call->part[NIB_QB_HESSIAN], call->part[U]);
}

static const char *why_not(const nib_qb_case *c)
{
    return c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA ? NULL : nib_bench_cpu.gemm_missing();
}

/* ---- checking: without a second inversion ---- */

static double real_at(const nib_qb_case *c, const void *reals, int64_t i)
{
    return is_f64(c) ? ((const double *)reals)[i] : (double)((const float *)reals)[i];
}

/* Of the damped H. */
static double h_at(const nib_qb_case *c, const void *h, int64_t i, int64_t j)
{
    const int64_t k = k_of(c);
    return real_at(c, h, i > j ? i * k + j : j * k + i) + (i == j ? damping : 0);
}

/* Row i of U H U^T is that of I. With s_j = sqrt(H_jj) and v = |U| s, which is >= 1, an element may
 * be away by some k units of v_i v_j: |R| |R^T| <= s s^T bounds what a Cholesky factor of H rounds
 * (Higham, Accuracy and Stability of Numerical Algorithms, theorem 10.3), and |U| |R| <= v 1^T what
 * a triangular inverse of small left residual does (section 14.2). Of OpenBLAS's results on these
 * inputs 0.02 of that was the most, k = 64 to 1000. uh: room for a row. */
static void compare_row(const nib_qb_call *got, const nib_qb_call *right, int64_t i,
                        const double *v, double *uh, nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const int64_t k = k_of(c);
    const void *u = got->part[U], *h = right->part[NIB_QB_HESSIAN];
    const double unit = is_f64(c) ? 0x1p-52 : 0x1p-24;
    memset(uh, 0, (size_t)k * sizeof *uh);
    for (int64_t m = i; m < k; m++) {
        const double x = real_at(c, u, i * k + m);
        for (int64_t j = 0; j < k; j++) uh[j] += x * h_at(c, h, m, j);
    }
    for (int64_t j = 0; j < k; j++) {
        double sum = 0;
        for (int64_t m = j; m < k; m++) sum += uh[m] * real_at(c, u, j * k + m);
        const double apart = fabs(sum - (i == j));
        if (!(apart <= 4 * (double)(k + 4) * unit * v[i] * v[j]))
            verdict->wrong_bytes += is_f64(c) ? 8 : 4;
        if (!(apart <= verdict->max_err)) verdict->max_err = apart;
    }
}

/* About 2^26 / k^2 rows, the first among them; zeros below the diagonal. */
static nib_status compare_rows(const nib_qb_call *got, const nib_qb_call *right,
                               nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const int64_t k = k_of(c), real = is_f64(c) ? 8 : 4;
    const int64_t most = ((int64_t)1 << 26) / (k * k) + 1;
    double *const v = nib_qb_map((size_t)(2 * k) * sizeof *v, 1), *const uh = v + k;
    if (!v) return NIB_ERR_OUT_OF_MEMORY;
    for (int64_t i = 0; i < k; i++) {
        v[i] = 0;
        for (int64_t m = i; m < k; m++)
            v[i] += fabs(real_at(c, got->part[U], i * k + m))
                  * sqrt(h_at(c, right->part[NIB_QB_HESSIAN], m, m));
        for (int64_t j = 0; j < i; j++)
            if (real_at(c, got->part[U], i * k + j) != 0) verdict->wrong_bytes += real;
    }
    for (int64_t n = 0; n < (k < most ? k : most); n++)
        compare_row(got, right, nib_qb_visit(n, k), v, uh, verdict);
    nib_qb_unmap(v);
    return NIB_OK;
}

/* The same bytes in place, on another number of threads of a CPU. */
static nib_status compare_second(const nib_qb_call *got, const nib_qb_call *right,
                                 nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const size_t bytes = (size_t)nib_qb_hessian_bytes(c);
    const int64_t real = is_f64(c) ? 8 : 4;
    nib_exec exec = { .size = sizeof exec, .device = got->target,
                      .stream = got->home->exec.stream };
    exec.threads = c->value[NIB_QB_THREADS] == 1 ? 2 : 1;
    uint8_t *const there = nib_qb_device_allocate(got->home, bytes);
    uint8_t *const again = nib_qb_map(bytes, 1);
    nib_status status = there && again ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    if (status == NIB_OK)
        status = nib_qb_device_copy(got->home, there, right->part[NIB_QB_HESSIAN], bytes);
    if (status == NIB_OK) status = invert(&exec, c, there, there);
    if (status == NIB_OK) status = nib_qb_device_copy(got->home, again, there, bytes);
    for (size_t at = 0; at < bytes && status == NIB_OK; at += (size_t)real)
        if (memcmp((uint8_t *)got->part[U] + at, again + at, (size_t)real))
            verdict->wrong_bytes += real;
    if (there) nib_qb_device_release(got->home, there);
    nib_qb_unmap(again);
    return status;
}

static nib_status compare(const nib_qb_call *got, const nib_qb_call *right,
                          nib_qb_verdict *verdict)
{
    const nib_status status = compare_rows(got, right, verdict);
    return status == NIB_OK ? compare_second(got, right, verdict) : status;
}

const nib_qb_op nib_qb_hessian_inverse = {
    .name = "hessian_inverse",
    .help = "U with U^T U = (H + damping)^-1, of cols inputs; H's bytes. spotrf is half of it",
    .axes = DEVICE_AXES | NIB_QB_AXIS(ISA) | NIB_QB_AXIS(REAL) | NIB_QB_AXIS(COLS), .waits = 1,
    .why_not = why_not, .limit = &nib_qb_limit_potrf, .bytes = nib_qb_hessian_bytes,
    .flops = flops, .layout = layout, .fill = fill, .prepare = prepare, .run = run,
    .compare = compare,
};
