/* observe_cpu.h: calibrate.h's observers on the CPU, in plain C for every instruction set. */
#ifndef NIB_OBSERVE_CPU_H
#define NIB_OBSERVE_CPU_H

#include "kernels/backend.h"
#include "kernels/common/observe.h"

/* Bits as integers that order like the floats, and back: compilers make vectors of their least and
 * largest, but not of the floats', among which there may be a NaN. */
static inline int32_t nib_turned(uint32_t bits)
{
    return (int32_t)(bits ^ ((0u - (bits >> 31)) >> 1));
}
static inline float nib_turned_back(int32_t i)
{
    return nib_float_of((uint32_t)nib_turned((uint32_t)i));
}

nib_status nib_observe_range_cpu(const nib_launch *launch, const nib_matrix *src, float *range);
nib_status nib_observe_range_rows_cpu(const nib_launch *launch, const nib_matrix *src,
                                      float *range);
nib_status nib_observe_ema_cpu(const nib_launch *launch, int64_t n, const float *now, float keep,
                               float *average);
nib_status nib_observe_histogram_cpu(const nib_launch *launch, const nib_matrix *src,
                                     const float *top, int32_t bins, uint64_t *counts);
nib_status nib_observe_stats_cpu(const nib_launch *launch, const nib_matrix *src,
                                 const nib_matrix *quantized, const uint8_t *mask,
                                 int64_t ld_mask_bytes, nib_tensor_stats *stats);

#endif
