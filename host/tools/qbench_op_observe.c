/* qbench_op_observe.c: the operations of calibrate.h that read a whole matrix. */
#include <math.h>
#include <string.h>

#include "nibble/fakequant.h"
#include "qbench_ops.h"

enum { BINS = 2048 };

/* ---- ranges ---- */

static nib_status range_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    part[NIB_QB_OTHER] = (nib_qb_part){ 2 * sizeof(float), NIB_QB_OUT };
    return part[NIB_QB_MATRIX].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status range_rows_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    if (part[NIB_QB_MATRIX].bytes < 0 || c->value[NIB_QB_ROWS] > INT64_MAX / 8)
        return NIB_ERR_SHAPE;
    part[NIB_QB_OTHER] = (nib_qb_part){ c->value[NIB_QB_ROWS] * 8, NIB_QB_OUT };
    return NIB_OK;
}

static nib_status range_fill(const nib_qb_call *call)
{
    const int64_t rows = call->c->op == &nib_qb_observe_range ? 1 : call->c->value[NIB_QB_ROWS];
    memset(call->part[NIB_QB_OTHER], 0, (size_t)rows * 8);
    return nib_qb_fill_matrix(call);
}

/* From 0 on; merging again changes nothing, so that any number of calls ends the same. */
static nib_status range_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call);
    return nib_observe_range(call->exec, &src, call->part[NIB_QB_OTHER]);
}

static nib_status range_rows_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call);
    return nib_observe_range_rows(call->exec, &src, call->part[NIB_QB_OTHER]);
}

const nib_qb_op nib_qb_observe_range = {
    .name = "observe_range", .help = "least and largest of a matrix; source bytes",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = range_layout, .fill = range_fill,
    .run = range_run,
};
const nib_qb_op nib_qb_observe_range_rows = {
    .name = "observe_range_rows", .help = "least and largest of each row; source bytes",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = range_rows_layout, .fill = range_fill,
    .run = range_rows_run,
};

/* ---- moving averages ---- */

static int64_t floats_bytes(const nib_qb_case *c)
{
    int64_t n;
    if (__builtin_mul_overflow(c->value[NIB_QB_ROWS], c->value[NIB_QB_COLS], &n)
        || n > INT64_MAX / 8)
        return -1;
    return n * (int64_t)sizeof(float);
}

static nib_status ema_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[NIB_QB_MATRIX] = (nib_qb_part){ floats_bytes(c), NIB_QB_IN };
    part[NIB_QB_OTHER] = (nib_qb_part){ floats_bytes(c), NIB_QB_OUT };
    return floats_bytes(c) < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

/* Halves of equal numbers: the average stays exactly what it is, however often it is taken. */
static nib_status ema_fill(const nib_qb_call *call)
{
    const int64_t n = floats_bytes(call->c) / (int64_t)sizeof(float);
    float *now = call->part[NIB_QB_MATRIX];
    for (int64_t i = 0; i < n; i++) now[i] = (float)(i % 1000 + 1);
    memcpy(call->part[NIB_QB_OTHER], now, (size_t)floats_bytes(call->c));
    return NIB_OK;
}

static nib_status ema_run(const nib_qb_call *call)
{
    return nib_observe_ema(call->exec, floats_bytes(call->c) / (int64_t)sizeof(float),
                           call->part[NIB_QB_MATRIX], 0.5f, call->part[NIB_QB_OTHER]);
}

const nib_qb_op nib_qb_observe_ema = {
    .name = "observe_ema", .help = "moving average of rows x cols floats; bytes of the new ones",
    .axes = MATRIX_AXES & ~NIB_QB_AXIS(DTYPE), .limit = &nib_qb_limit_copy, .bytes = floats_bytes,
    .layout = ema_layout, .fill = ema_fill, .run = ema_run,
};

/* ---- histograms ---- */

static nib_status histogram_layout(const nib_qb_case *c, nib_qb_part *part)
{
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    part[NIB_QB_AMAX] = (nib_qb_part){ sizeof(float), NIB_QB_IN };
    part[NIB_QB_OTHER] = (nib_qb_part){ BINS * sizeof(uint64_t), NIB_QB_OUT };
    return part[NIB_QB_MATRIX].bytes < 0 ? NIB_ERR_SHAPE : NIB_OK;
}

static nib_status histogram_fill(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call);
    nib_qb_fill_matrix(call);
    memset(call->part[NIB_QB_OTHER], 0, BINS * sizeof(uint64_t));
    return nib_amax(call->exec, &src, call->part[NIB_QB_AMAX], NULL);
}

static nib_status histogram_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call);
    return nib_observe_histogram(call->exec, &src, call->part[NIB_QB_AMAX], BINS,
                                 call->part[NIB_QB_OTHER]);
}

/* Each call adds the same once more. */
static nib_status histogram_compare(const nib_qb_call *got, const nib_qb_call *right,
                                    nib_qb_verdict *verdict)
{
    const uint64_t *a = got->part[NIB_QB_OTHER], *b = right->part[NIB_QB_OTHER];
    uint64_t sum = 0, one = 0;
    int64_t wrong = 0;
    for (int i = 0; i < BINS; i++) sum += a[i], one += b[i];
    const uint64_t calls = one ? sum / one : 0;
    for (int i = 0; i < BINS; i++) {
        if (a[i] == calls * b[i]) continue;
        wrong += (int64_t)sizeof *a;
        verdict->max_err = fmax(verdict->max_err, fabs((double)a[i] - (double)(calls * b[i])));
    }
    verdict->wrong_bytes += wrong;
    return NIB_OK;
}

const nib_qb_op nib_qb_observe_histogram = {
    .name = "observe_histogram", .help = "magnitudes in 2048 bins; source bytes",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = nib_qb_matrix_bytes, .layout = histogram_layout, .fill = histogram_fill,
    .run = histogram_run, .compare = histogram_compare,
};

/* ---- statistics ---- */

enum { VALUES = NIB_QB_CODES, WORKSPACE = NIB_QB_SCALES, STATS = NIB_QB_OTHER };

static int64_t stats_bytes(const nib_qb_case *c)
{
    const int64_t bytes = nib_qb_matrix_bytes(c);
    return bytes < 0 || bytes > INT64_MAX / 2 ? -1 : 2 * bytes;
}

static nib_status stats_layout(const nib_qb_case *c, nib_qb_part *part)
{
    if (stats_bytes(c) < 0) return NIB_ERR_SHAPE;
    part[NIB_QB_MATRIX] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    part[VALUES] = (nib_qb_part){ nib_qb_matrix_bytes(c), NIB_QB_IN };
    part[WORKSPACE] = (nib_qb_part){
        nib_observe_stats_workspace_bytes(c->value[NIB_QB_ROWS], c->value[NIB_QB_COLS]),
        NIB_QB_SCRATCH
    };
    part[STATS] = (nib_qb_part){ sizeof(nib_tensor_stats), NIB_QB_OUT };
    return NIB_OK;
}

static nib_matrix values_of(const nib_qb_call *call)
{
    nib_matrix m = nib_qb_matrix_of(call);
    m.data = call->part[VALUES];
    return m;
}

static nib_status stats_fill(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call), values = values_of(call);
    const nib_fake_options options = { .size = sizeof options, .format = NIB_MXFP4 };
    nib_qb_fill_matrix(call);
    memset(call->part[STATS], 0, sizeof(nib_tensor_stats));
    return nib_fake_quantize(call->exec, &src, &options, &values);
}

static nib_status stats_run(const nib_qb_call *call)
{
    const nib_matrix src = nib_qb_matrix_of(call), values = values_of(call);
    nib_exec exec = *call->exec;
    exec.workspace = call->part[WORKSPACE];
    exec.workspace_bytes = (size_t)nib_observe_stats_workspace_bytes(src.rows, src.cols);
    return nib_observe_stats(&exec, &src, &values, NULL, 0, call->part[STATS]);
}

/* The reference's once for each call, added in the same way. */
static nib_status stats_compare(const nib_qb_call *got, const nib_qb_call *right,
                                nib_qb_verdict *verdict)
{
    nib_tensor_stats a, b, sum = { 0 };
    memcpy(&a, got->part[STATS], sizeof a);
    memcpy(&b, right->part[STATS], sizeof b);
    const uint64_t calls = b.elements ? a.elements / b.elements : 0;
    for (uint64_t i = 0; i < calls; i++) nib_scalar_cpu.tensor_stats_add(&sum, &b);
    if (memcmp(&a, &sum, sizeof a) == 0) return NIB_OK;
    verdict->wrong_bytes += (int64_t)sizeof a;
    verdict->max_err = fmax(verdict->max_err, fabs(a.sum_sq_error - sum.sum_sq_error));
    return NIB_OK;
}

const nib_qb_op nib_qb_observe_stats = {
    .name = "observe_stats", .help = "a matrix against its values; bytes of both",
    .axes = MATRIX_AXES, .limit = &nib_qb_limit_read, .baseline = { &nib_qb_baseline_copy },
    .bytes = stats_bytes, .layout = stats_layout, .fill = stats_fill, .run = stats_run,
    .compare = stats_compare,
};
