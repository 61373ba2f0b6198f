/* calibrate.c: checks, defaults and dispatch of calibrate.h. No arithmetic lives here. */
#include "dispatch.h"
#include "trace.h"

enum { OPTIONS_V1 = sizeof(nib_calibrate_options), START = 128 };

/* ---- observers ---- */

nib_status nib_observe_range(const nib_exec *exec, const nib_matrix *src, float *range)
{
    NIB_TRACE(.reads = src);
    const char *what = "observe_range";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_REQUIRE(range, NIB_ERR_ARGUMENT, "%s: range is NULL", what);
    NIB_TRY(nib_pointer_check(range, sizeof *range, what, "range"));
    NIB_NEED(ops, observe_range, what);
    NIB_LOG(exec, &launch, what, .matrix = src);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->observe_range(&launch, src, range), what, ops, &launch);
}

nib_status nib_observe_range_rows(const nib_exec *exec, const nib_matrix *src, float *range)
{
    NIB_TRACE(.reads = src);
    const char *what = "observe_range_rows";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_REQUIRE(range || src->rows == 0, NIB_ERR_ARGUMENT, "%s: range is NULL", what);
    NIB_TRY(nib_pointer_check(range, sizeof *range, what, "range"));
    NIB_REQUIRE(src->rows <= INT64_MAX / 8, NIB_ERR_SHAPE, "%s: the ranges of %lld rows are over "
                "INT64_MAX bytes", what, (long long)src->rows);
    NIB_NEED(ops, observe_range_rows, what);
    NIB_LOG(exec, &launch, what, .matrix = src);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->observe_range_rows(&launch, src, range), what, ops, &launch);
}

nib_status nib_observe_ema(const nib_exec *exec, int64_t n, const float *now, float keep,
                           float *average)
{
    NIB_TRACE_NAME();
    const char *what = "observe_ema";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_REQUIRE(n >= 0 && n <= INT64_MAX / 4, NIB_ERR_SHAPE, "%s: n is %lld", what, (long long)n);
    NIB_REQUIRE((now && average) || n == 0, NIB_ERR_ARGUMENT, "%s: now or average is NULL", what);
    NIB_TRY(nib_pointer_check(now, sizeof *now, what, "now"));
    NIB_TRY(nib_pointer_check(average, sizeof *average, what, "average"));
    NIB_REQUIRE(keep >= 0.0f && keep <= 1.0f, NIB_ERR_ARGUMENT, "%s: keep is %g, not in 0..1",
                what, (double)keep);
    NIB_NEED(ops, observe_ema, what);
    NIB_LOG(exec, &launch, what, .rows = 1, .cols = n);
    if (n == 0) return NIB_OK;
    return nib_dispatched(ops->observe_ema(&launch, n, now, keep, average), what, ops, &launch);
}

static nib_status bins_check(int32_t bins, const char *what)
{
    NIB_REQUIRE(bins >= 1 && bins <= NIB_OBSERVE_BINS, NIB_ERR_SHAPE,
                "%s: bins is %d, not in 1..%d", what, (int)bins, (int)NIB_OBSERVE_BINS);
    return NIB_OK;
}

nib_status nib_observe_histogram(const nib_exec *exec, const nib_matrix *src, const float *top,
                                 int32_t bins, uint64_t *counts)
{
    NIB_TRACE(.reads = src);
    const char *what = "observe_histogram";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_REQUIRE(top && counts, NIB_ERR_ARGUMENT, "%s: top or counts is NULL", what);
    NIB_TRY(nib_pointer_check(top, sizeof *top, what, "top"));
    NIB_TRY(nib_pointer_check(counts, sizeof *counts, what, "counts"));
    NIB_TRY(bins_check(bins, what));
    NIB_NEED(ops, observe_histogram, what);
    NIB_LOG(exec, &launch, what, .matrix = src,
            .note = bins != 2048 ? "not of 2048 bins" : NULL);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->observe_histogram(&launch, src, top, bins, counts), what, ops,
                          &launch);
}

int64_t nib_observe_stats_workspace_bytes(int64_t rows, int64_t cols)
{
    NIB_TRACE_NAME();
    if (rows < 0 || cols < 0) return -1;
    const int64_t pieces = cols / NIB_OBSERVE_PIECE + (cols % NIB_OBSERVE_PIECE != 0);
    int64_t partials;
    if (__builtin_mul_overflow(rows, pieces, &partials) || partials > NIB_OBSERVE_PARTIALS)
        partials = NIB_OBSERVE_PARTIALS;
    return partials * NIB_OBSERVE_PARTIAL_BYTES;
}

static nib_status workspace_check(const nib_exec *exec, int64_t need, const char *what)
{
    NIB_REQUIRE(exec->workspace || need == 0, NIB_ERR_ARGUMENT,
                "%s: exec->workspace is NULL, %lld bytes are needed", what, (long long)need);
    NIB_REQUIRE(exec->workspace_bytes >= (size_t)need, NIB_ERR_SHAPE,
                "%s: exec->workspace_bytes is %zu, %lld are needed", what, exec->workspace_bytes,
                (long long)need);
    return nib_pointer_check(exec->workspace, sizeof(double), what, "exec->workspace");
}

nib_status nib_observe_stats(const nib_exec *exec, const nib_matrix *src,
                             const nib_matrix *quantized, const uint8_t *mask,
                             int64_t ld_mask_bytes, nib_tensor_stats *stats)
{
    NIB_TRACE(.reads = src, .reads_too = quantized);
    const char *what = "observe_stats";
    nib_launch launch;
    const nib_backend *ops;
    NIB_TRY(nib_exec_check(exec, what, &launch, &ops));
    NIB_TRY(nib_matrix_check(src, what, "src"));
    NIB_TRY(nib_matrix_check(quantized, what, "quantized"));
    NIB_TRY(nib_same_size_check(what, "quantized", src, quantized));
    NIB_TRY(nib_mask_check(mask, ld_mask_bytes, src, what));
    NIB_REQUIRE(stats, NIB_ERR_ARGUMENT, "%s: stats is NULL", what);
    NIB_TRY(nib_pointer_check(stats, sizeof(double), what, "stats"));
    NIB_TRY(workspace_check(exec, nib_observe_stats_workspace_bytes(src->rows, src->cols), what));
    NIB_NEED(ops, observe_stats, what);
    NIB_LOG(exec, &launch, what, .matrix = src,
            .note = quantized->dtype != src->dtype ? "of values of another dtype"
                    : mask ? "and a mask" : NULL);
    if (src->rows == 0 || src->cols == 0) return NIB_OK;
    return nib_dispatched(ops->observe_stats(&launch, src, quantized, mask, ld_mask_bytes, stats),
                          what, ops, &launch);
}

/* ---- solvers ---- */

static nib_status histogram_check(const uint64_t *counts, int32_t bins, float top,
                                  const float *amax, const char *what)
{
    NIB_REQUIRE(counts && amax, NIB_ERR_ARGUMENT, "%s: counts or amax is NULL", what);
    NIB_TRY(bins_check(bins, what));
    NIB_REQUIRE(top > 0.0f && top <= 3.40282347e+38f, NIB_ERR_ARGUMENT,
                "%s: top is %g, not a finite number > 0", what, (double)top);
    uint64_t total = 0;
    for (int32_t b = 0; b < bins; b++) {
        NIB_REQUIRE(!__builtin_add_overflow(total, counts[b], &total) && total <= INT64_MAX,
                    NIB_ERR_SHAPE, "%s: the counts up to bin %d are over INT64_MAX", what, (int)b);
    }
    NIB_REQUIRE(total > 0, NIB_ERR_ARGUMENT, "%s: nothing was counted in %d bins", what, (int)bins);
    return NIB_OK;
}

static nib_status options_check(const nib_calibrate_options *o, const char *what,
                                nib_calibrate_options *filled)
{
    *filled = (nib_calibrate_options){ .size = sizeof *filled, .start = START };
    if (!o) return NIB_OK;
    NIB_REQUIRE(o->size >= OPTIONS_V1, NIB_ERR_ARGUMENT,
                "%s: options->size is %u, at least %d is needed", what, o->size, (int)OPTIONS_V1);
    NIB_REQUIRE(o->integer_bits == 0 || (o->integer_bits >= 2 && o->integer_bits <= 8),
                NIB_ERR_ARGUMENT, "%s: options->integer_bits is %d, not 0 or 2..8", what,
                (int)o->integer_bits);
    NIB_REQUIRE(o->integer_bits || (unsigned)o->element <= NIB_E5M2, NIB_ERR_ARGUMENT,
                "%s: unknown element %d", what, (int)o->element);
    NIB_REQUIRE(o->start >= 0, NIB_ERR_ARGUMENT, "%s: options->start is %d", what, (int)o->start);
    filled->integer_bits = o->integer_bits;
    filled->element = o->integer_bits ? NIB_E2M1 : o->element;
    if (o->start) filled->start = o->start;
    return NIB_OK;
}

nib_status nib_calibrate_percentile(const uint64_t *counts, int32_t bins, float top,
                                    double percentile, float *amax)
{
    NIB_TRACE_NAME();
    const char *what = "calibrate_percentile";
    NIB_TRY(histogram_check(counts, bins, top, amax, what));
    NIB_REQUIRE(percentile > 0.0 && percentile <= 100.0, NIB_ERR_ARGUMENT,
                "%s: percentile is %g, not in (0, 100]", what, percentile);
    *amax = nib_scalar_cpu.percentile_amax(counts, bins, top, percentile);
    return NIB_OK;
}

nib_status nib_calibrate_kl(const uint64_t *counts, int32_t bins, float top,
                            const nib_calibrate_options *options, float *amax)
{
    NIB_TRACE_NAME();
    const char *what = "calibrate_kl";
    nib_calibrate_options filled;
    NIB_TRY(histogram_check(counts, bins, top, amax, what));
    NIB_TRY(options_check(options, what, &filled));
    *amax = nib_scalar_cpu.kl_amax(counts, bins, top, &filled);
    return NIB_OK;
}

nib_status nib_calibrate_mse(const uint64_t *counts, int32_t bins, float top,
                             const nib_calibrate_options *options, float *amax)
{
    NIB_TRACE_NAME();
    const char *what = "calibrate_mse";
    nib_calibrate_options filled;
    NIB_TRY(histogram_check(counts, bins, top, amax, what));
    NIB_TRY(options_check(options, what, &filled));
    *amax = nib_scalar_cpu.mse_amax(counts, bins, top, &filled);
    return NIB_OK;
}
