/* difference_cpu.h: one row of numbers against another. */
#ifndef NIB_DIFFERENCE_CPU_H
#define NIB_DIFFERENCE_CPU_H

#include "kernels/backend.h"

/* nib_scalar_ops.difference. */
void nib_difference_cpu(const float *a, const float *b, int64_t n, nib_quantize_report *report);

#endif
