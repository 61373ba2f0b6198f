/* portable_cpu.h: the operations in plain C. An AVX2 operation falls back to them. */
#ifndef NIB_PORTABLE_CPU_H
#define NIB_PORTABLE_CPU_H

#include "kernels/backend.h"

nib_status nib_quantize_portable(const nib_launch *launch, const nib_matrix *src,
                                 const nib_quantize_request *request, const nib_packed *dst);
nib_status nib_dequantize_portable(const nib_launch *launch, const nib_packed *src,
                                   const nib_matrix *dst);
nib_status nib_amax_portable(const nib_launch *launch, const nib_matrix *src, float *amax,
                             uint64_t *nonfinite);
nib_status nib_amax_rows_portable(const nib_launch *launch, const nib_matrix *src, float *amax);
nib_status nib_quantize_stats_portable(const nib_launch *launch, const nib_matrix *src,
                                       const nib_packed *packed, nib_quantize_report *report);

/* One implementation for both instruction sets: it only moves bytes. */
nib_status nib_relayout_scales_cpu(const nib_launch *launch, int64_t rows, int64_t scale_cols,
                                   nib_scale_layout from, const uint8_t *src,
                                   nib_scale_layout to, uint8_t *dst);

#endif
