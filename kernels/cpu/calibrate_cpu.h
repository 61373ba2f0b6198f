/* calibrate_cpu.h: the solvers of calibrate.h; arguments are valid, options filled in. */
#ifndef NIB_CALIBRATE_CPU_H
#define NIB_CALIBRATE_CPU_H

#include "kernels/backend.h"

float nib_percentile_amax(const uint64_t *counts, int32_t bins, float top, double percentile);
float nib_kl_amax(const uint64_t *counts, int32_t bins, float top,
                  const nib_calibrate_options *options);
float nib_mse_amax(const uint64_t *counts, int32_t bins, float top,
                   const nib_calibrate_options *options);

/* ln x of a normal x > 0, within 2 ulp or 1e-18, the same bits on every machine. */
double nib_natural_log(double x);

#endif
