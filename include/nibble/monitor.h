/* monitor.h: figures of a tensor's quantization for people and their tools: what nib_observe_stats
 * counted as means and shares, warnings, lines of CSV and of JSON. Host memory, any thread, no
 * device; nothing is allocated and nothing printed: texts go into the caller's buffers.
 */
#ifndef NIBBLE_MONITOR_H
#define NIBBLE_MONITOR_H

#include "nibble/calibrate.h"

#ifdef __cplusplus
extern "C" {
#endif

/* To be added up. In lines: "error", "std", "nonfinite", in this order, a blank between. */
typedef enum nib_monitor_warning {
    NIB_MONITOR_ERROR     = 1, /* relative_error is above the threshold */
    NIB_MONITOR_STD       = 2, /* std is below it: a tensor that says nothing */
    NIB_MONITOR_NONFINITE = 4  /* some elements are NaN or Inf */
} nib_monitor_warning;

typedef struct nib_monitor_options {
    uint32_t size;               /* sizeof(nib_monitor_options) */
    double   max_relative_error; /* 0.1 when options is NULL; Inf never warns */
    double   min_std;            /* 1e-6 when options is NULL; 0 never warns */
} nib_monitor_options;

/* n = elements - nonfinite. If it is 0, mean, std, min, max and errors are NaN, the shares 0. */
typedef struct nib_monitor_row {
    uint32_t size;           /* in: sizeof(nib_monitor_row) */
    uint32_t warnings;       /* nib_monitor_warning */
    uint64_t elements, nonfinite, clipped, zeroed;
    double   mean;           /* sum / n */
    double   std;            /* of the population: sqrt(sum_sq / n - mean^2) */
    double   min, max;
    double   relative_error; /* sqrt(sum_sq_error / sum_sq); 0 if both are 0, Inf if sum_sq is */
    double   mse;            /* sum_sq_error / n */
    double   clipped_share;  /* clipped / n */
    double   zeroed_share;   /* zeroed / n */
} nib_monitor_row;

/* *total += *part, as one call of nib_observe_stats over both would count: ranks, or tensors that
 * belong together. Sums are added once each. Returns NIB_ERR_ARGUMENT for a NULL pointer. */
nib_status nib_monitor_add(nib_tensor_stats *total, const nib_tensor_stats *part);

/* Fills *row. The variance is held to what n numbers between min and max can have, (max - min)^2 /
 * 2n .. (max - min)^2 / 4, so that a difference of two large sums is never negative and a constant
 * tensor's std is 0; beyond that, a std below 1e-3 * |mean| is uncertain.
 *
 * Returns NIB_ERR_ARGUMENT for stats or row NULL, a size smaller than the first version's, a
 * threshold that is NaN or negative, or stats whose nonfinite is above elements. */
nib_status nib_monitor_report(const nib_tensor_stats *stats, const nib_monitor_options *options,
                              nib_monitor_row *row);

/* One line each into text, with '\n' and NUL at its end:
 *
 *     name,step,elements,nonfinite,clipped,zeroed,mean,std,min,max,relative_error,mse,
 *     clipped_share,zeroed_share,warnings             the header: no break after "mse,"
 *
 *     {"name":"blk.0","step":7,"elements":4096,...,"warnings":["error","std"]}
 *
 * Numbers have up to 9 digits and a point, whatever the locale. One that is not finite is "nan",
 * "inf" or "-inf" in CSV, null in JSON.
 *
 *   name        any bytes up to NUL. CSV: in quotation marks, doubled inside, if it has a comma, a
 *               quotation mark, a line break or a blank at an end (RFC 4180). JSON: escaped (RFC
 *               8259); what is not UTF-8 becomes U+FFFD
 *   step        the caller's own number
 *   text_bytes  1024 are enough for a name of 64 bytes
 *
 * Return NIB_ERR_ARGUMENT for a NULL pointer or a row->size smaller than the first version's,
 * NIB_ERR_SHAPE if the line was cut: text then ends with NUL all the same if text_bytes > 0. */
nib_status nib_monitor_csv_header(char *text, size_t text_bytes);
nib_status nib_monitor_csv(const nib_monitor_row *row, const char *name, int64_t step, char *text,
                           size_t text_bytes);
nib_status nib_monitor_json(const nib_monitor_row *row, const char *name, int64_t step, char *text,
                            size_t text_bytes);

#ifdef __cplusplus
}
#endif

#endif
