/* amax_cpu.h: the largest finite magnitude, over tasks that any thread may take: maxima and
 * counts do not depend on the order. */
#ifndef NIB_AMAX_CPU_H
#define NIB_AMAX_CPU_H

#include "kernels/backend.h"

typedef struct nib_amax_part {
    uint32_t bits;      /* of the largest finite magnitude */
    int64_t  nonfinite;
} nib_amax_part;

/* n elements that lie side by side. */
typedef nib_amax_part (*nib_amax_span)(nib_dtype dtype, const void *data, int64_t n);

nib_amax_part nib_amax_span_portable(nib_dtype dtype, const void *data, int64_t n);

nib_status nib_amax_run(const nib_launch *launch, const nib_matrix *src, float *amax,
                        uint64_t *nonfinite, nib_amax_span span);
nib_status nib_amax_rows_run(const nib_launch *launch, const nib_matrix *src, float *amax,
                             nib_amax_span span);

#endif
