/* calibrate.h: observers: what range of numbers a tensor has, and the amax to quantize it with.
 *
 * An observer is a plain buffer where the device computes, which any number of calls add to:
 * batches follow each other, and ranks merge their buffers by one elementwise max (ranges) or sum
 * (counts) of the caller's. There are no objects and there is no state beside these buffers.
 *
 *     nib_observe_range      -Inf, then each batch         -> amax = max of {-min, max}
 *     nib_observe_ema        each batch's range            -> a moving average of it
 *     nib_observe_histogram  each batch, up to that amax   -> nib_calibrate_percentile, _kl, _mse
 *     nib_observe_stats      src and its quantized values  -> monitor.h
 *
 * All that quantize.h says of exec, matrices, memory and asynchrony holds here too: the functions
 * nib_observe_* are asynchronous, never allocate and may be captured (NIB_PREPARE_OBSERVE), and
 * what they write is the same, bit for bit, for every backend, instruction set and thread count.
 * Those named nib_calibrate_* compute on the host and want no device.
 */
#ifndef NIBBLE_CALIBRATE_H
#define NIBBLE_CALIBRATE_H

#include "nibble/device.h"
#include "nibble/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* range = max(range, {-min, max}) over src's finite elements: NaN and Inf are left out, and both
 * zeros are +0.
 *
 *   range  in, out: 2 floats where the device computes. The caller begins with -Inf in both, or
 *          with 0 for a range that has 0 in it whatever comes
 *
 * Numbers order as by IEEE 754's totalOrder: a NaN of the caller's stays if its sign is 0. Exact,
 * so that merging parts by max gives the whole; without any finite element range stays as it was.
 * The amax is the larger of the two. Reads src once.
 *
 * Returns NIB_ERR_ARGUMENT for range NULL, NIB_ERR_ALIGNMENT if it is not aligned to 4, and what
 * quantize.h says of exec and src. */
nib_status nib_observe_range(const nib_exec *exec, const nib_matrix *src, float *range);

/* The same of each row: range[2 * r] and range[2 * r + 1] are row r's. range: 2 * src->rows floats,
 * may be NULL for rows == 0; rows over INT64_MAX / 8 give NIB_ERR_SHAPE. */
nib_status nib_observe_range_rows(const nib_exec *exec, const nib_matrix *src, float *range);

/* average = keep * average + (1 - keep) * now, elementwise: an exponential moving average of
 * ranges, amaxes or any other numbers of the batches. f32: 1 - keep, two products and their sum,
 * each rounded. keep is usually 0.9; torch.ao's MovingAverageMinMaxObserver has 0.99.
 *
 *   n        floats, >= 0
 *   now      n floats, of this batch. One that is not finite says nothing: its average stays
 *   keep     0 .. 1
 *   average  in, out: n floats. One that is not finite was never set, and takes now as it is
 *
 * Both are aligned to 4 and lie where the device computes; they must not overlap.
 *
 * Returns NIB_ERR_ARGUMENT for a NULL pointer (allowed for n == 0) or keep outside 0..1 or NaN,
 * NIB_ERR_SHAPE for n negative or over INT64_MAX / 4, NIB_ERR_ALIGNMENT, and what quantize.h says
 * of exec. */
nib_status nib_observe_ema(const nib_exec *exec, int64_t n, const float *now, float keep,
                           float *average);

/* counts[b] += how many |x| lie in bin b of bins equal parts of [0, *top]:
 *
 *     b = min(floor(|x| * f), bins - 1),    f = min(bins / *top, FLT_MAX)     (f32, each rounded)
 *
 *   top     1 float where the device computes: the amax of earlier batches, say. One that is not
 *           finite and > 0 counts nothing
 *   bins    1..8192
 *   counts  in, out: bins uint64 where the device computes, aligned to 8. The caller begins with 0
 *
 * |x| above *top are in the last bin, NaN and Inf in none. Counts that were made with one top add
 * up; for another the caller begins anew. Exact.
 *
 * Returns NIB_ERR_ARGUMENT for top or counts NULL, NIB_ERR_SHAPE for bins outside 1..8192,
 * NIB_ERR_ALIGNMENT, and what quantize.h says of exec and src. */
nib_status nib_observe_histogram(const nib_exec *exec, const nib_matrix *src, const float *top,
                                 int32_t bins, uint64_t *counts);

/* ---- a tensor against its quantized values ---- */

/* Plain numbers where the device computes; all 0 before the first call. */
typedef struct nib_tensor_stats {
    uint64_t elements;     /* all of them */
    uint64_t nonfinite;    /* of these: src, or the value in its place, is NaN or Inf. They are in
                              no figure below */
    uint64_t clipped;      /* bits of the mask that are 0 */
    uint64_t zeroed;       /* x != 0 whose value is 0 */
    double   sum, sum_sq;  /* of x, of x^2 */
    double   sum_sq_error; /* of (x - value)^2, the difference rounded to f32 */
    float    range[2];     /* {-min, max} of x, both zeros +0; 0 while elements == nonfinite */
} nib_tensor_stats;

/* Bytes that nib_observe_stats asks of exec->workspace for this shape, on any backend: at most
 * 256 KiB. -1 for a negative size. */
int64_t nib_observe_stats_workspace_bytes(int64_t rows, int64_t cols);

/* Adds src and its quantized values to *stats.
 *
 *   exec           workspace: nib_observe_stats_workspace_bytes(rows, cols) at least, aligned to 8
 *   src            rows x cols
 *   quantized      rows x cols of any dtype: what nib_fake_quantize or nib_dequantize made of
 *                  src. May be src itself, for figures of src alone
 *   mask           NULL, which leaves stats->clipped as it is, or what nib_fake_quantize wrote:
 *                  its bits, ld_mask_bytes from one row to the next
 *   stats          in, out: where the device computes, aligned to 8
 *
 * Sums have one order everywhere. A row is cut into pieces of 1024 columns. In a piece the sums
 * are f32: 8 neighbours are added as a tree, these sums by turn to 32 lanes, and the lanes as a
 * tree; where a piece's largest finite magnitude (for errors: difference) is not 0 and not in
 * [2^-40, 2^40), it is first scaled to near 1 by a power of two, which the sum in f64 undoes.
 * Piece p of all adds in f64 to partial sum p % 4096, these are added as a tree, and that sum to
 * what *stats has. So sums of squares are within 1e-6 of the exact ones, relatively, and sum is
 * within 1e-6 of the sum of |x|. (x - value) that overflows gives Inf. kernels/common/observe.h
 * has the details.
 *
 * *stats of several ranks merge by adding and, where each rank had finite elements, by the max of
 * range; nib_monitor_add does so on the host.
 *
 * Returns NIB_ERR_ARGUMENT for stats NULL or a workspace that is NULL; NIB_ERR_SHAPE if the sizes
 * of src and quantized differ, for a workspace that is too small, or for a mask with ld_mask_bytes
 * below ceil(cols / 8) or rows * ld_mask_bytes over INT64_MAX; NIB_ERR_ALIGNMENT; and what
 * quantize.h says of exec, src and quantized. rows == 0 or cols == 0 succeeds, nothing changes. */
nib_status nib_observe_stats(const nib_exec *exec, const nib_matrix *src,
                             const nib_matrix *quantized, const uint8_t *mask,
                             int64_t ld_mask_bytes, nib_tensor_stats *stats);

/* ---- from a histogram to an amax ----
 * Host memory, any thread, no device; the same bits on every machine. counts are what
 * nib_observe_histogram counted up to top. Bin b has the edges b * w and (b + 1) * w with w = top /
 * bins, in f64; an amax is rounded to f32 once.
 *
 * All return NIB_ERR_ARGUMENT for counts or amax NULL, top that is not finite and > 0, or counts
 * that are all 0; NIB_ERR_SHAPE for bins outside 1..8192 or counts whose sum is over INT64_MAX. A
 * histogram of one bin, or with counts in bin 0 alone, gives that bin's upper edge. */

/* *amax = the upper edge of the first bin up to which at least percentile per cent of the counts
 * lie: cumulated / total >= percentile / 100, in f64. 99.99 is usual; 100 gives the last bin with
 * counts. Also returns NIB_ERR_ARGUMENT for a percentile outside (0, 100]. */
nib_status nib_calibrate_percentile(const uint64_t *counts, int32_t bins, float top,
                                    double percentile, float *amax);

/* What the elements will be. */
typedef struct nib_calibrate_options {
    uint32_t    size;         /* sizeof(nib_calibrate_options) */
    int32_t     integer_bits; /* 2..8: signed integers of so many bits. 0: elements */
    nib_element element;      /* read if integer_bits is 0 */
    int32_t     start;        /* the least candidate, in bins; 0: 128 */
} nib_calibrate_options;

/* *amax = the upper edge i * w whose clipped and quantized distribution has the least Kullback-
 * Leibler divergence from the clipped one, the largest such i of equal ones, i = start .. bins.
 * TensorRT's entropy calibration (S. Migacz, "8-bit Inference with TensorRT", GTC 2017), as
 * NVIDIA's pytorch-quantization has it:
 *
 *     bin 0 counts as bin 1 does. P: bins 0 .. i - 1, and all above in bin i - 1. Q: bins 0 ..
 *     i - 1 in groups by level; each bin that is not empty has the mean of its group's, the others
 *     0. sum of p log(p / q), both normalised to 1; a p with q = 0, or no Q, is worst.
 *
 *   integers  2^(bits - 1) levels: bin b has level floor(b * levels / i)
 *   elements  the values that are not negative: the one nearest to (b + 1/2) / i * E, ties to even
 *   options   NULL: E2M1, start 128
 *
 * start above bins counts as bins. Where every candidate is worst, i = bins. 2048 bins take some
 * ten milliseconds.
 *
 * Also returns NIB_ERR_ARGUMENT for an options->size smaller than the first version's, integer_bits
 * other than 0 and 2..8, an unknown element or a negative start. */
nib_status nib_calibrate_kl(const uint64_t *counts, int32_t bins, float top,
                            const nib_calibrate_options *options, float *amax);

/* *amax = the bin centre a = (i + 1/2) * w, i = start .. bins - 1, with the least sum of
 * count * (c - Q(c))^2 over all bin centres c, the smallest such i of equal ones. f64.
 *
 *   integers  Q(c) = min(round(c / s), m) * s with s = a / m, m = 2^(bits - 1) - 1, ties to even
 *   elements  Q(c) = the element nearest to c / s, at most E, times s = a / E
 *
 * start above bins - 1 counts as that. Options and statuses as for nib_calibrate_kl. */
nib_status nib_calibrate_mse(const uint64_t *counts, int32_t bins, float top,
                             const nib_calibrate_options *options, float *amax);

#ifdef __cplusplus
}
#endif

#endif
