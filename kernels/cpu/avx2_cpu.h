/* avx2_cpu.h: the operations for processors with AVX2, FMA and F16C. */
#ifndef NIB_AVX2_CPU_H
#define NIB_AVX2_CPU_H

#include "kernels/backend.h"

nib_status nib_quantize_avx2(const nib_launch *launch, const nib_matrix *src,
                             const nib_quantize_request *request, const nib_packed *dst);
nib_status nib_quantize_both_avx2(const nib_launch *launch, const nib_matrix *src,
                                  const nib_quantize_request *request, const nib_packed *rowwise,
                                  const nib_packed *columnwise);
nib_status nib_dequantize_avx2(const nib_launch *launch, const nib_packed *src,
                               const nib_matrix *dst);
nib_status nib_amax_avx2(const nib_launch *launch, const nib_matrix *src, float *amax,
                         uint64_t *nonfinite);
nib_status nib_amax_rows_avx2(const nib_launch *launch, const nib_matrix *src, float *amax);
nib_status nib_quantize_stats_avx2(const nib_launch *launch, const nib_matrix *src,
                                   const nib_packed *packed, nib_quantize_report *report);
nib_status nib_quantize_measured_avx2(const nib_launch *launch, const nib_matrix *src,
                                      const nib_quantize_request *request, const nib_packed *dst,
                                      nib_quantize_report *report);
nib_status nib_fake_quantize_avx2(const nib_launch *launch, const nib_matrix *src,
                                  const nib_fake_request *request, const nib_matrix *dst);
nib_status nib_fake_backward_avx2(const nib_launch *launch, const nib_matrix *grad_out,
                                  const nib_matrix *src, const nib_fake_request *request,
                                  const nib_matrix *grad_in);
nib_status nib_fake_steps_avx2(const nib_launch *launch, const nib_matrix *src,
                               const nib_step_request *request, const nib_matrix *dst);
nib_status nib_quantize_steps_avx2(const nib_launch *launch, const nib_matrix *src,
                                   const nib_step_request *request, const nib_packed_steps *dst);
nib_status nib_dequantize_steps_avx2(const nib_launch *launch, const nib_packed_steps *src,
                                     const nib_step_request *request, const nib_matrix *dst);
nib_status nib_fake_steps_backward_avx2(const nib_launch *launch, const nib_matrix *grad_out,
                                        const nib_matrix *src,
                                        const nib_step_request *request,
                                        const nib_matrix *grad_in);
nib_status nib_transform_apply_avx2(const nib_launch *launch, const nib_transform *transform,
                                    const nib_matrix *src, const nib_matrix *dst);
nib_status nib_quantize_transformed_avx2(const nib_launch *launch,
                                         const nib_transform *transform, const nib_matrix *src,
                                         const nib_quantize_request *request,
                                         const nib_packed *dst);
nib_status nib_quantize_grouped_avx2(const nib_launch *launch, const nib_groups *groups,
                                     const nib_matrix *src, const nib_quantize_request *request,
                                     const nib_packed *dst);
nib_status nib_amax_grouped_avx2(const nib_launch *launch, const nib_groups *groups,
                                 const nib_matrix *src, float *amax);

#endif
