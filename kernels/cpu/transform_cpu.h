/* transform_cpu.h: one transform, to a plain matrix or a packed one, cut into spans of rows. */
#ifndef NIB_TRANSFORM_CPU_H
#define NIB_TRANSFORM_CPU_H

#include "quantize_cpu.h"

typedef struct nib_transform_job {
    const nib_transform *transform;
    const nib_matrix    *src;
    const nib_matrix    *dst;      /* NULL: quantize */
    nib_quantize_job     quantize;
} nib_transform_job;

enum { NIB_SHARED_ROWS = 16 }; /* at most, that share their blocks' scales */

/* Columns [col0, col1) of one row, or of all rows that share scales; all columns for RMSNorm, else
 * from a multiple of 128 on. Returns the bits of the largest finite magnitude. */
typedef uint32_t (*nib_transform_span)(const nib_transform_job *job, int64_t row, int rows,
                                       int64_t col0, int64_t col1);

/* dst or packed is NULL; request goes with packed. */
nib_status nib_transform_run(const nib_launch *launch, const nib_transform *transform,
                             const nib_matrix *src, const nib_matrix *dst,
                             const nib_quantize_request *request, const nib_packed *packed,
                             nib_transform_span span);

#endif
