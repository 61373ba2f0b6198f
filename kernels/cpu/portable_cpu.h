/* portable_cpu.h: the operations in plain C. An AVX2 operation falls back to them. */
#ifndef NIB_PORTABLE_CPU_H
#define NIB_PORTABLE_CPU_H

#include "kernels/backend.h"

nib_status nib_quantize_portable(const nib_launch *launch, const nib_matrix *src,
                                 const nib_quantize_request *request, const nib_packed *dst);
nib_status nib_quantize_both_portable(const nib_launch *launch, const nib_matrix *src,
                                      const nib_quantize_request *request,
                                      const nib_packed *rowwise, const nib_packed *columnwise);
nib_status nib_dequantize_portable(const nib_launch *launch, const nib_packed *src,
                                   const nib_matrix *dst);
nib_status nib_amax_portable(const nib_launch *launch, const nib_matrix *src, float *amax,
                             uint64_t *nonfinite);
nib_status nib_amax_rows_portable(const nib_launch *launch, const nib_matrix *src, float *amax);
nib_status nib_quantize_stats_portable(const nib_launch *launch, const nib_matrix *src,
                                       const nib_packed *packed, nib_quantize_report *report);
nib_status nib_fake_quantize_portable(const nib_launch *launch, const nib_matrix *src,
                                      const nib_fake_request *request, const nib_matrix *dst);
nib_status nib_fake_backward_portable(const nib_launch *launch, const nib_matrix *grad_out,
                                      const nib_matrix *src, const nib_fake_request *request,
                                      const nib_matrix *grad_in);
nib_status nib_fake_steps_portable(const nib_launch *launch, const nib_matrix *src,
                                   const nib_step_request *request, const nib_matrix *dst);
nib_status nib_fake_steps_backward_portable(const nib_launch *launch, const nib_matrix *grad_out,
                                            const nib_matrix *src,
                                            const nib_step_request *request,
                                            const nib_matrix *grad_in);

nib_status nib_quantize_steps_portable(const nib_launch *launch, const nib_matrix *src,
                                       const nib_step_request *request,
                                       const nib_packed_steps *dst);
nib_status nib_dequantize_steps_portable(const nib_launch *launch, const nib_packed_steps *src,
                                         const nib_step_request *request, const nib_matrix *dst);

/* The index of the first of n steps that is not finite and > 0, or n. */
int64_t nib_bad_step_cpu(const float *steps, int64_t n);
nib_status nib_transform_apply_portable(const nib_launch *launch, const nib_transform *transform,
                                        const nib_matrix *src, const nib_matrix *dst);
nib_status nib_quantize_transformed_portable(const nib_launch *launch,
                                             const nib_transform *transform, const nib_matrix *src,
                                             const nib_quantize_request *request,
                                             const nib_packed *dst);
nib_status nib_quantize_grouped_portable(const nib_launch *launch, const nib_groups *groups,
                                         const nib_matrix *src, const nib_quantize_request *request,
                                         const nib_packed *dst);
nib_status nib_amax_grouped_portable(const nib_launch *launch, const nib_groups *groups,
                                     const nib_matrix *src, float *amax);

/* One implementation for both instruction sets: it only moves bytes. */
nib_status nib_relayout_scales_cpu(const nib_launch *launch, int64_t rows, int64_t scale_cols,
                                   nib_scale_layout from, const uint8_t *src,
                                   nib_scale_layout to, uint8_t *dst);

#endif
