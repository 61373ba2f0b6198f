/* qbench_gptq_check.c: whether GPTQ's results are right, without a second GPTQ.
 *
 *     factor     elements of R R^T are those of the damped Hessian, in f64
 *     bytes      a second run, on another number of threads of a CPU, gives the same
 *     errors     of some rows, d H d^T in f64 is no larger than plain rounding's, and what the
 *                library reports of these rows is that */
#include <float.h>
#include <math.h>
#include <string.h>

#include "qbench_gptq.h"

static int64_t k_of(const nib_qb_case *c) { return c->value[NIB_QB_COLS]; }
static int is_f64(const nib_qb_case *c) { return c->value[NIB_QB_REAL] == NIB_REAL_F64; }

static double real_at(const nib_qb_case *c, const void *reals, int64_t i)
{
    return is_f64(c) ? ((const double *)reals)[i] : (double)((const float *)reals)[i];
}

static void wrong(nib_qb_verdict *verdict, int64_t bytes, double apart)
{
    verdict->wrong_bytes += bytes;
    if (!(apart <= verdict->max_err)) verdict->max_err = apart;
}

/* ---- where the case's device computes ---- */

static void release(const nib_qb_call *call, void *p)
{
    if (p) nib_qb_device_release(call->home, p);
}

/* The parts first .. end - 1 of a call in host memory, copied there; on a CPU they are its own. */
static nib_status move_parts(const nib_qb_call *call, int first, int end, nib_qb_call *there)
{
    nib_qb_part part[NIB_QB_PARTS] = { { 0 } };
    there->c = call->c;
    for (int i = first; i < end; i++) there->part[i] = call->home->runtime ? NULL : call->part[i];
    if (!call->home->runtime) return NIB_OK;
    nib_status status = call->c->op->layout(call->c, part);
    for (int i = first; i < end && status == NIB_OK; i++) {
        if (!part[i].bytes) continue;
        there->part[i] = nib_qb_device_allocate(call->home, (size_t)part[i].bytes);
        status = there->part[i] ? nib_qb_device_copy(call->home, there->part[i], call->part[i],
                                                     (size_t)part[i].bytes)
                                : NIB_ERR_OUT_OF_MEMORY;
    }
    return status;
}

/* Codes and scales, back from there. */
static nib_status fetch_packed(const nib_qb_call *there, const nib_qb_call *call)
{
    nib_qb_part part[NIB_QB_PARTS] = { { 0 } };
    if (!call->home->runtime) return NIB_OK;
    nib_status status = call->c->op->layout(call->c, part);
    for (int i = NIB_QB_CODES; i <= NIB_QB_SCALES && status == NIB_OK; i++)
        status = nib_qb_device_copy(call->home, call->part[i], there->part[i],
                                    (size_t)part[i].bytes);
    return status;
}

static void drop_parts(nib_qb_call *there, int first, int end)
{
    for (int i = first; i < end && there->home && there->home->runtime; i++)
        release(there, there->part[i]);
}

/* A second run of the case. */
typedef struct second {
    nib_exec        exec;
    nib_qb_call     there;  /* the case's parts */
    nib_gptq_factor factor;
    void           *l;
} second;

static void second_close(second *s)
{
    release(&s->there, s->l);
    release(&s->there, s->exec.workspace);
    drop_parts(&s->there, 0, NIB_QB_PARTS);
}

static nib_status second_open(const nib_qb_call *got, second *s, nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const size_t l_bytes = (size_t)nib_qb_hessian_bytes(c);
    *s = (second){ .exec = { .size = sizeof s->exec, .device = got->target }, .there = *got };
    s->exec.threads = c->value[NIB_QB_THREADS] == 1 ? 2 : 1;
    s->exec.stream = got->home->exec.stream;
    nib_status status = move_parts(got, 0, NIB_QB_PARTS, &s->there);
    s->l = nib_qb_device_allocate(got->home, l_bytes + (size_t)k_of(c) * sizeof(int32_t));
    if (status != NIB_OK || !s->l) return status != NIB_OK ? status : NIB_ERR_OUT_OF_MEMORY;
    s->factor.l = s->l;
    s->factor.order = (int32_t *)(void *)((uint8_t *)s->l + l_bytes);
    status = nib_qb_gptq_factor_make(&s->exec, c, s->there.part[NIB_QB_HESSIAN], &s->factor);
    if (s->factor.outcome != NIB_GPTQ_DONE)
        wrong(verdict, (int64_t)sizeof s->factor.outcome, 0);
    if (status != NIB_OK || !(c->op->axes & NIB_QB_AXIS(ROWS))) return status;
    s->exec.workspace_bytes = nib_qb_gptq_room(got->target, c, s->exec.threads);
    if (s->exec.workspace_bytes < SIZE_MAX)
        s->exec.workspace = nib_qb_device_allocate(got->home, s->exec.workspace_bytes);
    return s->exec.workspace ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
}

/* ---- the factor ---- */

/* Element (a, b) of H' = R R^T, b <= a in the place of the factor's rows: steps k-1-a and k-1-b.
 * Rounded, it is within k + 1 units of the sum of magnitudes (Higham, Accuracy and Stability of
 * Numerical Algorithms, theorem 10.3), and A's and R's product within two more. */
static void compare_one(const nib_qb_call *got, const second *s, int64_t a, int64_t b,
                        nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const int64_t k = k_of(c);
    const void *l = got->part[NIB_QB_CODES], *h = got->part[NIB_QB_HESSIAN];
    const int32_t *order = got->part[NIB_QB_SCALES];
    const int64_t p = order[k - 1 - a], q = order[k - 1 - b];
    double sum = 0, magnitudes = 0;
    if (p < 0 || p >= k || q < 0 || q >= k) {
        wrong(verdict, (int64_t)sizeof *order, (double)k);
        return;
    }
    for (int64_t j = 0; j <= b; j++) {
        const double r = real_at(c, l, j * k + j);
        const double x = j == a ? 1 : real_at(c, l, a * k + j);
        const double y = j == b ? 1 : real_at(c, l, b * k + j);
        sum += x * y * r * r;
        magnitudes += fabs(x * y) * r * r;
    }
    const double is = real_at(c, h, p > q ? p * k + q : q * k + p) + (a == b ? s->factor.added : 0);
    const double unit = is_f64(c) ? 0x1p-52 : 0x1p-24;
    const double bound = 2 * (double)(k + 4) * unit * magnitudes + DBL_MIN, apart = fabs(sum - is);
    if (apart <= bound) verdict->max_err = fmax(verdict->max_err, apart);
    else wrong(verdict, is_f64(c) ? 8 : 4, apart);
}

/* Each byte against a second run's. */
static nib_status compare_second(const nib_qb_call *got, const second *s, nib_qb_verdict *verdict)
{
    const int64_t k = k_of(got->c), real = is_f64(got->c) ? 8 : 4;
    const size_t bytes = (size_t)nib_qb_hessian_bytes(got->c) + (size_t)k * sizeof(int32_t);
    uint8_t *const again = nib_qb_map(bytes, 1); /* l, and then its order */
    if (!again) return NIB_ERR_OUT_OF_MEMORY;
    const nib_status status = nib_qb_device_copy(s->there.home, again, s->l, bytes);
    for (int64_t i = 0; i < k && status == NIB_OK; i++)
        if (memcmp((uint8_t *)got->part[NIB_QB_CODES] + i * k * real, again + i * k * real,
                   (size_t)((i + 1) * real)))
            wrong(verdict, real, 0);
    if (status == NIB_OK && memcmp(got->part[NIB_QB_SCALES], again + k * k * real,
                                   (size_t)k * sizeof(int32_t)))
        wrong(verdict, (int64_t)sizeof(int32_t), 0);
    nib_qb_unmap(again);
    return status;
}

/* About 2^25 / k elements, spread over the whole. */
nib_status nib_qb_gptq_factor_compare(const nib_qb_call *got, const nib_qb_call *right,
                                      nib_qb_verdict *verdict)
{
    const nib_qb_case *c = got->c;
    const int64_t k = k_of(c), all = k * k, most = ((int64_t)1 << 25) / k + 1;
    second s;
    nib_status status = second_open(right, &s, verdict);
    for (int64_t n = 0; n < (all < most ? all : most) && status == NIB_OK; n++) {
        const int64_t at = all <= most ? n : nib_qb_visit(n, all), i = at / k, j = at % k;
        compare_one(got, &s, i > j ? i : j, i > j ? j : i, verdict);
    }
    if (status == NIB_OK) status = compare_second(got, &s, verdict);
    second_close(&s);
    return status;
}

/* ---- errors of some rows ---- */

enum { GOT, PLAIN, ALONE, KINDS }; /* what was measured; plain; GPTQ of these rows only */

typedef struct sample {
    nib_qb_case c;     /* of these rows */
    nib_qb_call call;  /* with their weights, and place for codes and scales */
    int64_t     rows;
    float      *w, *q; /* in f32 */
    double     *d;     /* KINDS x rows x k */
    double     *error; /* KINDS x rows */
} sample;

static void sample_close(sample *s)
{
    for (int i = 0; i < NIB_QB_PARTS; i++)
        if (i == NIB_QB_MATRIX || i == NIB_QB_CODES || i == NIB_QB_SCALES)
            nib_qb_unmap(s->call.part[i]);
    nib_qb_unmap(s->w);
    nib_qb_unmap(s->q);
    nib_qb_unmap(s->d);
    nib_qb_unmap(s->error);
}

static int64_t place_of(const nib_qb_call *got, int64_t i)
{
    return nib_qb_visit(i, got->c->value[NIB_QB_ROWS]);
}

static nib_status sample_open(const nib_qb_call *got, sample *s)
{
    const int64_t k = k_of(got->c), rows = got->c->value[NIB_QB_ROWS];
    const int64_t most = ((int64_t)1 << 27) / (k * k) + 1, n = rows < most ? rows : most;
    nib_qb_part part[NIB_QB_PARTS] = { { 0 } };
    *s = (sample){ .c = *got->c, .call = *got, .rows = n };
    s->c.value[NIB_QB_ROWS] = n;
    s->call.c = &s->c;
    (void)nib_qb_rounded_layout(&s->c, part);
    const int64_t row_bytes = part[NIB_QB_MATRIX].bytes / n;
    for (int i = NIB_QB_MATRIX; i <= NIB_QB_SCALES; i++)
        s->call.part[i] = nib_qb_map((size_t)part[i].bytes, 1);
    s->w = nib_qb_map((size_t)(n * k) * sizeof(float), 1);
    s->q = nib_qb_map((size_t)(rows * k) * sizeof(float), 1);
    s->d = nib_qb_map((size_t)(KINDS * n * k) * sizeof(double), 1);
    s->error = nib_qb_map((size_t)(KINDS * n) * sizeof(double), 1);
    if (!s->call.part[NIB_QB_MATRIX] || !s->call.part[NIB_QB_CODES]
        || !s->call.part[NIB_QB_SCALES] || !s->w || !s->q || !s->d || !s->error)
        return NIB_ERR_OUT_OF_MEMORY;
    for (int64_t i = 0; i < n; i++)
        memcpy((uint8_t *)s->call.part[NIB_QB_MATRIX] + i * row_bytes,
               (uint8_t *)got->part[NIB_QB_MATRIX] + place_of(got, i) * row_bytes,
               (size_t)row_bytes);
    nib_scalar_cpu.to_f32((nib_dtype)got->c->value[NIB_QB_DTYPE], s->call.part[NIB_QB_MATRIX],
                          n * k, s->w);
    return NIB_OK;
}

/* Decodes what call has and takes the sample's rows, which lie one behind the other in the
 * sample's own. */
static nib_status differ(sample *s, int kind, const nib_qb_call *call, const nib_exec *exec)
{
    const int64_t k = k_of(&s->c);
    double *d = s->d + kind * s->rows * k;
    const nib_status status = nib_qb_rounded_values(exec, call, s->q);
    for (int64_t i = 0; i < s->rows && status == NIB_OK; i++) {
        const float *w = s->w + i * k;
        const float *q = s->q + (kind == GOT ? place_of(call, i) : i) * k;
        for (int64_t j = 0; j < k; j++) d[i * k + j] = (double)w[j] - (double)q[j];
    }
    return status;
}

/* d H d^T of each row, from one triangle. */
static nib_status weigh(sample *s, const void *hessian)
{
    const int64_t k = k_of(&s->c), n = KINDS * s->rows;
    double *row = nib_qb_map((size_t)k * sizeof *row, 1);
    if (!row) return NIB_ERR_OUT_OF_MEMORY;
    memset(s->error, 0, (size_t)n * sizeof *s->error);
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j <= i; j++) row[j] = real_at(&s->c, hessian, i * k + j);
        for (int64_t r = 0; r < n; r++) {
            const double *d = s->d + r * k;
            double sum = 0.5 * row[i] * d[i];
            for (int64_t j = 0; j < i; j++) sum += row[j] * d[j];
            s->error[r] += 2 * d[i] * sum;
        }
    }
    nib_qb_unmap(row);
    return NIB_OK;
}

static double total(const sample *s, int kind)
{
    double sum = 0;
    for (int64_t i = 0; i < s->rows; i++) sum += s->error[kind * s->rows + i];
    return sum;
}

/* Sums in F32 may be 1e-4 away (gptq.h); here some more, as rows are few. */
static double tolerance(const nib_qb_case *c) { return is_f64(c) ? 1e-9 : 1e-3; }

static void expect_near(const sample *s, double reported, double is, nib_qb_verdict *verdict)
{
    const double apart = fabs(reported - is) / fmax(is, DBL_MIN);
    if (apart <= tolerance(&s->c)) verdict->max_err = fmax(verdict->max_err, apart);
    else wrong(verdict, (int64_t)sizeof reported, apart);
}

static void judge(const sample *s, const nib_gptq_report *whole, const nib_gptq_report *alone,
                  nib_qb_verdict *verdict)
{
    const double above = 1 + tolerance(&s->c), *got = s->error, *plain = got + s->rows;
    expect_near(s, alone->error, total(s, ALONE), verdict);
    if (whole->rows == s->rows) expect_near(s, whole->error, total(s, GOT), verdict);
    if (!s->c.value[NIB_QB_GUARD]) {
        if (!(total(s, GOT) <= above * total(s, PLAIN)))
            wrong(verdict, (int64_t)sizeof *got, total(s, GOT) / total(s, PLAIN));
        return;
    }
    expect_near(s, alone->plain_error, total(s, PLAIN), verdict);
    for (int64_t i = 0; i < s->rows; i++)
        if (!(got[i] <= above * plain[i])) wrong(verdict, (int64_t)sizeof *got, got[i] / plain[i]);
}

/* The second run's codes and scales become right's. */
static nib_status run_again(const nib_qb_call *got, const nib_qb_call *right, const second *s,
                            nib_gptq_report *report, nib_qb_verdict *verdict)
{
    nib_qb_part part[NIB_QB_PARTS] = { { 0 } };
    int64_t bytes = 0;
    nib_status status = nib_qb_gptq_solve(&s->exec, &s->there, &s->factor, report);
    if (status == NIB_OK) status = fetch_packed(&s->there, right);
    if (status == NIB_OK) status = nib_qb_rounded_layout(right->c, part);
    if (status != NIB_OK) return status;
    for (int i = NIB_QB_CODES; i <= NIB_QB_SCALES; i++)
        for (int64_t at = 0; at < part[i].bytes; at++)
            bytes += ((uint8_t *)got->part[i])[at] != ((uint8_t *)right->part[i])[at];
    verdict->wrong_bytes += bytes;
    return bytes ? nib_qb_rounded_distance(got, right, &verdict->max_err) : NIB_OK;
}

/* The sample's rows alone, where the device computes. */
static nib_status solve_sample(const second *s, sample *some, nib_gptq_report *report)
{
    enum { END = NIB_QB_SCALES + 1 }; /* the Hessian and the tensor's scale are there */
    nib_qb_call there = s->there;
    nib_status status = move_parts(&some->call, NIB_QB_MATRIX, END, &there);
    if (status == NIB_OK) status = nib_qb_gptq_solve(&s->exec, &there, &s->factor, report);
    if (status == NIB_OK) status = fetch_packed(&there, &some->call);
    drop_parts(&there, NIB_QB_MATRIX, END);
    return status;
}

static nib_status measure(const nib_qb_call *got, const nib_qb_call *right, const second *s,
                          sample *some, nib_gptq_report *report)
{
    nib_status status = differ(some, GOT, got, right->exec);
    if (status == NIB_OK) status = nib_qb_plain_solve(right->exec, &some->call);
    if (status == NIB_OK) status = differ(some, PLAIN, &some->call, right->exec);
    if (status == NIB_OK) status = solve_sample(s, some, report);
    if (status == NIB_OK) status = differ(some, ALONE, &some->call, right->exec);
    return status == NIB_OK ? weigh(some, right->part[NIB_QB_HESSIAN]) : status;
}

/* Of about 2^27 / k^2 rows; all of a small matrix. */
nib_status nib_qb_gptq_compare(const nib_qb_call *got, const nib_qb_call *right,
                               nib_qb_verdict *verdict)
{
    nib_gptq_report whole = { .size = sizeof whole }, alone = { .size = sizeof alone };
    second s;
    sample some = { .rows = 0 };
    nib_status status = second_open(right, &s, verdict);
    if (status == NIB_OK) status = run_again(got, right, &s, &whole, verdict);
    if (status == NIB_OK) status = sample_open(right, &some);
    if (status == NIB_OK) status = measure(got, right, &s, &some, &alone);
    if (status == NIB_OK) judge(&some, &whole, &alone, verdict);
    sample_close(&some);
    second_close(&s);
    return status;
}
