/* stats_cpu.h: error statistics in one order whatever the threads and the instruction set.
 *
 * The tasks (tasks_cpu.h) are dealt to NIB_STATS_GROUPS groups by position. A group has eight
 * f64 sums of each kind; the element of column c goes into sum c % 8, in rising rows and
 * columns of its tasks. The groups are merged in order. d = x - value is rounded to f32, so
 * that d * d and x * x are exact in f64 and a fused multiply-add gives the same sum.
 */
#ifndef NIB_STATS_CPU_H
#define NIB_STATS_CPU_H

#include "dequantize_cpu.h"

enum { NIB_STATS_GROUPS = 64 };

typedef struct nib_stats_sums {
    double error[8], square[8];
} nib_stats_sums;

/* What does not depend on the order; one for each thread. */
typedef struct nib_stats_counts {
    uint64_t nonfinite, flushed, saturated;
    uint32_t max_error; /* bits of the largest |d|; a NaN is above all */
    uint64_t code[256], scale[256];
} nib_stats_counts;

typedef struct nib_stats_job {
    nib_dequantize_job packed; /* its dst is NULL */
    uint32_t           max_magnitude; /* code of the largest element */
    const nib_matrix  *src;
} nib_stats_job;

typedef void (*nib_stats_span)(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                               nib_stats_sums *sums, nib_stats_counts *counts);

void nib_stats_span_portable(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                             nib_stats_sums *sums, nib_stats_counts *counts);

nib_status nib_stats_run(const nib_launch *launch, const nib_matrix *src, const nib_packed *packed,
                         nib_quantize_report *report, nib_stats_span span);

#endif
