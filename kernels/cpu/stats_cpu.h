/* stats_cpu.h: error statistics in one order whatever the threads and the instruction set.
 *
 * The tasks (tasks_cpu.h) are dealt to NIB_STATS_PARTS parts by position. A part has eight f64
 * sums of each kind, and the parts are merged in order. A part takes its rows and columns in
 * rising order, in pieces of NIB_STATS_PIECE columns of a row. d = x - value is rounded to f32.
 *
 * Squares, of d or of x, run in f32 first: of each NIB_STATS_GROUP columns of a piece, 16 f32
 * sums, each of at most 8 squares in rising order; the one of column c is c % 16. Sums 2 j and
 * 2 j + 1 are added, and then added to f64 sum j. 9 roundings of 2^-24 at most: the relative error
 * below 1e-6. If the largest such pair of a piece is not in [2^-100, 2^120), the piece adds its
 * squares in f64 instead: then none overflows, and what underflows is below 2^-40 of the sum.
 * For the squares of d it is the largest one that counts in place of the largest sum.
 */
#ifndef NIB_STATS_CPU_H
#define NIB_STATS_CPU_H

#include "dequantize_cpu.h"

enum { NIB_STATS_PARTS = 64, NIB_STATS_PIECE = 1024, NIB_STATS_GROUP = 128 };

/* Bits of a piece's largest sum or square: may the squares run in f32? */
static inline int nib_stats_in_f32(uint32_t largest)
{
    return largest >= (127u - 100) << 23 && largest < (127u + 120) << 23;
}

/* Below this an element's product with its step can be 0. */
#define NIB_STATS_TINY 0x1p-140f

typedef struct nib_stats_sums {
    double error[8], square[8];
} nib_stats_sums;

/* What does not depend on the order; one for each thread. */
typedef struct nib_stats_counts {
    uint64_t nonfinite, flushed, saturated;
    uint32_t max_error; /* bits of the largest |d|; a NaN is above all */
} nib_stats_counts;

typedef struct nib_stats_uses {
    uint64_t code[256], scale[256];
} nib_stats_uses;

typedef struct nib_stats_job {
    nib_dequantize_job packed; /* its dst is NULL */
    uint32_t           max_magnitude; /* code of the largest element */
    const nib_matrix  *src;
    const struct nib_quantize_job *quantize; /* NULL: the codes are there; else a span makes them */
} nib_stats_job;

/* Blocks first..last-1 of a row, first at a multiple of NIB_STATS_PIECE. uses: NULL if nobody
 * asks for them. */
typedef void (*nib_stats_span)(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                               nib_stats_sums *sums, nib_stats_counts *counts,
                               nib_stats_uses *uses);

void nib_stats_span_portable(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                             nib_stats_sums *sums, nib_stats_counts *counts,
                             nib_stats_uses *uses);

/* E2M1 in blocks of 16 and 32, in pairs. */
void nib_stats_span_avx2(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                         nib_stats_sums *sums, nib_stats_counts *counts, nib_stats_uses *uses);

nib_status nib_stats_run(const nib_launch *launch, const nib_matrix *src, const nib_packed *packed,
                         nib_quantize_report *report, const struct nib_quantize_job *quantize,
                         nib_stats_span span);

#endif
