/* qbench_op_gptq.c: GPTQ of rows x cols weights, beside OpenBLAS's spotrf of cols, or cuSOLVER's on
 * a GPU: the one factorisation that it cannot do without.
 *
 *     gptq                  the factor, and the rounding that it steers
 *     gptq_factor           the first alone
 *     gptq_quantize         the second alone
 *     gptq_quantize_steps   the second, to integers in groups
 *
 * A row's stages are what the library reports of its calls: plain rounding and measure (the guard's
 * products) are parts of the second step. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qbench_gptq.h"

enum { FACTOR_L = NIB_QB_CODES, FACTOR_ORDER = NIB_QB_SCALES }; /* gptq_factor's outputs */

static int64_t k_of(const nib_qb_case *c) { return c->value[NIB_QB_COLS]; }

/* ---- buffers ---- */

static nib_status gptq_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (nib_qb_rounded_layout(c, part) != NIB_OK) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX].role = part[NIB_QB_TENSOR].role = NIB_QB_IN;
    part[NIB_QB_CODES].role = part[NIB_QB_SCALES].role = NIB_QB_OUT;
    part[NIB_QB_HESSIAN] = (nib_qb_part){ nib_qb_hessian_bytes(c), NIB_QB_IN };
    return part[NIB_QB_HESSIAN].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status factor_layout(const nib_qb_case *c, nib_qb_part *part)
{
    const int64_t bytes = nib_qb_hessian_bytes(c);
    if (bytes < 0) return NIB_ERR_SHAPE;
    part[FACTOR_L] = (nib_qb_part){ bytes, NIB_QB_OUT };
    part[FACTOR_ORDER] = (nib_qb_part){ k_of(c) * (int64_t)sizeof(int32_t), NIB_QB_OUT };
    part[NIB_QB_HESSIAN] = (nib_qb_part){ bytes, NIB_QB_IN };
    return NIB_OK;
}

static nib_status gptq_fill(const nib_qb_call *call)
{
    const nib_status status = nib_qb_weights_fill(call);
    return status == NIB_OK ? nib_qb_fill_hessian(call, call->part[NIB_QB_HESSIAN]) : status;
}

static nib_status factor_fill(const nib_qb_call *call)
{
    return nib_qb_fill_hessian(call, call->part[NIB_QB_HESSIAN]);
}

/* The factor's, and a multiplication and an addition for each pair of a row's inputs. */
static int64_t factor_flops(const nib_qb_call *call)
{
    const double k = (double)k_of(call->c);
    return (int64_t)(k * k * k / 3);
}

static int64_t quantize_flops(const nib_qb_call *call)
{
    return call->c->value[NIB_QB_ROWS] * k_of(call->c) * (k_of(call->c) - 1);
}

static int64_t gptq_flops(const nib_qb_call *call)
{
    return factor_flops(call) + quantize_flops(call);
}

/* ---- running ---- */

enum { FACTOR, PLAIN, MEASURE, SWEEP, STAGES, MOST_SAMPLES = 64 };

static struct { /* of the case that is being measured */
    nib_gptq_factor factor;
    void           *l, *workspace;
    size_t          bytes;
    double          seconds[STAGES][MOST_SAMPLES]; /* of the last calls */
    int64_t         calls[STAGES];
} now;

static void took(int stage, double seconds)
{
    now.seconds[stage][now.calls[stage]++ % MOST_SAMPLES] = seconds;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void gptq_stages(nib_qb_stage stage[NIB_QB_STAGES])
{
    static const char *const names[STAGES] = { "factor", "plain", "measure", "sweep" };
    int used = 0;
    for (int i = 0; i < STAGES; i++) {
        const int64_t n = now.calls[i] < MOST_SAMPLES ? now.calls[i] : MOST_SAMPLES;
        if (!n) continue;
        qsort(now.seconds[i], (size_t)n, sizeof **now.seconds, by_value);
        stage[used++] = (nib_qb_stage){ names[i], 1e6 * now.seconds[i][n / 2] };
    }
}

static void gptq_release(const nib_qb_call *call)
{
    if (now.l) nib_qb_device_release(call->home, now.l);
    if (now.workspace) nib_qb_device_release(call->home, now.workspace);
    memset(&now, 0, sizeof now);
}

nib_status nib_qb_gptq_factor_make(const nib_exec *exec, const nib_qb_case *c, void *hessian,
                                   nib_gptq_factor *factor)
{
    const nib_hessian h = nib_qb_hessian_of(c, hessian);
    const nib_gptq_factor_options options = {
        .size = sizeof options, .order = (nib_gptq_order)c->value[NIB_QB_ORDER],
        .block = (int32_t)c->value[NIB_QB_BLOCK],
    };
    factor->size = sizeof *factor;
    factor->real = h.real;
    factor->k = factor->ld_elems = h.k;
    return nib_gptq_factor_make(exec, &h, &options, factor);
}

/* Memory for a factor that is no output, and made for gptq_quantize, which only uses it. */
static nib_status gptq_prepare(const nib_qb_call *call)
{
    const nib_qb_case *c = call->c;
    const size_t l_bytes = (size_t)nib_qb_hessian_bytes(c);
    gptq_release(call);
    now.bytes = nib_qb_gptq_room(call->target, c, call->exec->threads);
    now.l = nib_qb_device_allocate(call->home, l_bytes + (size_t)k_of(c) * sizeof(int32_t));
    if (now.bytes < SIZE_MAX) now.workspace = nib_qb_device_allocate(call->home, now.bytes);
    if (!now.l || !now.workspace) return NIB_ERR_OUT_OF_MEMORY;
    now.factor.l = now.l;
    now.factor.order = (int32_t *)(void *)((uint8_t *)now.l + l_bytes);
    return c->op == &nib_qb_gptq ? NIB_OK
         : nib_qb_gptq_factor_make(call->exec, c, call->part[NIB_QB_HESSIAN], &now.factor);
}

static nib_status quantize_run(const nib_qb_call *call)
{
    nib_exec exec = *call->exec;
    nib_gptq_report report = { .size = sizeof report };
    if (exec.device != call->target) return NIB_OK; /* compare knows what is right */
    exec.workspace = now.workspace;
    exec.workspace_bytes = now.bytes;
    const nib_status status = nib_qb_gptq_solve(&exec, call, &now.factor, &report);
    if (status != NIB_OK) return status;
    took(PLAIN, report.seconds_plain);
    if (call->c->value[NIB_QB_GUARD]) took(MEASURE, report.seconds_measure);
    took(SWEEP, report.seconds_sweep);
    return NIB_OK;
}

static nib_status gptq_run(const nib_qb_call *call)
{
    if (call->exec->device != call->target) return NIB_OK;
    const nib_status status = nib_qb_gptq_factor_make(call->exec, call->c,
                                                      call->part[NIB_QB_HESSIAN], &now.factor);
    if (status != NIB_OK) return status;
    took(FACTOR, now.factor.seconds);
    return quantize_run(call);
}

static nib_status factor_run(const nib_qb_call *call)
{
    nib_gptq_factor factor = { .l = call->part[FACTOR_L], .order = call->part[FACTOR_ORDER] };
    if (call->exec->device != call->target) return NIB_OK;
    const nib_status status = nib_qb_gptq_factor_make(call->exec, call->c,
                                                      call->part[NIB_QB_HESSIAN], &factor);
    if (status == NIB_OK) took(FACTOR, factor.seconds);
    return status;
}

static nib_status factor_prepare(const nib_qb_call *call)
{
    gptq_release(call);
    return NIB_OK;
}

static const char *why_not(const nib_qb_case *c)
{
    return c->value[NIB_QB_BACKEND] == NIB_BACKEND_CUDA ? NULL : nib_bench_cpu.gemm_missing();
}

enum {
    FACTOR_AXES = DEVICE_AXES | NIB_QB_AXIS(ISA) | NIB_QB_AXIS(FORMAT) | NIB_QB_AXIS(BLOCK)
                | NIB_QB_AXIS(REAL) | NIB_QB_AXIS(ORDER) | NIB_QB_AXIS(COLS),
    GPTQ_AXES = FACTOR_AXES | NIB_QB_AXIS(ROWS) | NIB_QB_AXIS(DTYPE) | NIB_QB_AXIS(LAYOUT)
              | NIB_QB_AXIS(RULES) | NIB_QB_AXIS(CHOICE) | NIB_QB_AXIS(GPTQ_SCALES)
              | NIB_QB_AXIS(GUARD),
    STEPS_AXES = (FACTOR_AXES & ~NIB_QB_AXIS(FORMAT)) | NIB_QB_AXIS(ELEMENT) | NIB_QB_AXIS(ROWS)
               | NIB_QB_AXIS(DTYPE) | NIB_QB_AXIS(GPTQ_SCALES) | NIB_QB_AXIS(GUARD)
};

const nib_qb_op nib_qb_gptq = {
    .name = "gptq", .help = "factor and sweep, with --guard on all of GPTQ; bytes of the weights",
    .axes = GPTQ_AXES, .waits = 1, .why_not = why_not, .limit = &nib_qb_limit_potrf,
    .bytes = nib_qb_matrix_bytes, .flops = gptq_flops, .prepare = gptq_prepare,
    .release = gptq_release, .layout = gptq_layout, .fill = gptq_fill, .run = gptq_run,
    .stages = gptq_stages, .compare = nib_qb_gptq_compare,
};

const nib_qb_op nib_qb_gptq_factor = {
    .name = "gptq_factor", .help = "GPTQ's factor of a Hessian of cols inputs; its bytes",
    .axes = FACTOR_AXES, .waits = 1, .why_not = why_not, .limit = &nib_qb_limit_potrf,
    .bytes = nib_qb_hessian_bytes, .flops = factor_flops, .prepare = factor_prepare,
    .release = gptq_release, .layout = factor_layout, .fill = factor_fill, .run = factor_run,
    .stages = gptq_stages, .compare = nib_qb_gptq_factor_compare,
};

const nib_qb_op nib_qb_gptq_quantize = {
    .name = "gptq_quantize", .help = "GPTQ's rounding by a factor; bytes of the weights",
    .axes = GPTQ_AXES, .waits = 1, .why_not = why_not, .limit = &nib_qb_limit_potrf,
    .bytes = nib_qb_matrix_bytes, .flops = quantize_flops, .prepare = gptq_prepare,
    .release = gptq_release, .layout = gptq_layout, .fill = gptq_fill, .run = quantize_run,
    .stages = gptq_stages, .compare = nib_qb_gptq_compare,
};

const nib_qb_op nib_qb_gptq_steps = {
    .name = "gptq_quantize_steps",
    .help = "GPTQ's rounding to integers by a factor; bytes of the weights",
    .axes = STEPS_AXES, .waits = 1, .why_not = why_not, .limit = &nib_qb_limit_potrf,
    .bytes = nib_qb_matrix_bytes, .flops = quantize_flops, .prepare = gptq_prepare,
    .release = gptq_release, .layout = gptq_layout, .fill = gptq_fill, .run = quantize_run,
    .stages = gptq_stages, .compare = nib_qb_gptq_compare,
};

/* ---- what they are held against, in f32 whatever the case's types ---- */

static int64_t limit_place(const nib_qb_rival *r)
{
    return k_of(r->c) * k_of(r->c) * (int64_t)sizeof(float);
}

/* I plus numbers up to 2^-20, whose products are far below 2^-24: it is its own factor, and can be
 * factored in place again and again at full speed. */
static void fill_factor(float *a, int64_t k)
{
    uint64_t state = 1;
    nib_qb_bell_shaped(a, k * k, &state);
    for (int64_t i = 0; i < k * k; i++) a[i] *= 0x1p-18f;
    for (int64_t i = 0; i < k; i++) a[i * k + i] = 1;
}

static nib_status limit_open(nib_qb_rival *r)
{
    const size_t bytes = (size_t)limit_place(r);
    float *a = r->device->runtime ? nib_qb_map(bytes, 1) : (float *)r->buffer;
    if (!a) return NIB_ERR_OUT_OF_MEMORY;
    fill_factor(a, k_of(r->c));
    if (!r->device->runtime) return NIB_OK;
    const nib_status status = nib_qb_device_copy(r->device, r->buffer, a, bytes);
    nib_qb_unmap(a);
    return status;
}

static nib_status limit_run(nib_qb_rival *r, uint8_t *first, uint8_t *second)
{
    const nib_launch how = nib_qb_device_launch(r->device);
    (void)second;
    if (r->device->runtime) return r->device->bench->potrf(&how, k_of(r->c), (float *)first);
    nib_bench_cpu.potrf(k_of(r->c), (float *)first, r->threads);
    return NIB_OK;
}

const nib_qb_rival_kind nib_qb_limit_potrf = {
    .name = "spotrf", .cuda_name = "potrf", .buffers = 1, .waits = 1, .run = limit_run,
    .place = limit_place, .open = limit_open,
};
