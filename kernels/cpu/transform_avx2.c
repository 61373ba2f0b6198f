/* transform_avx2.c: the plain C of transform_span.h compiled for AVX2. */
#if defined(__x86_64__)

#include "avx2_cpu.h"
#include "transform_span.h"

static uint32_t avx2_span(const nib_transform_job *job, int64_t row, int rows, int64_t col0,
                          int64_t col1)
{
    return transform_span(job, row, rows, col0, col1);
}

nib_status nib_transform_apply_avx2(const nib_launch *launch, const nib_transform *transform,
                                    const nib_matrix *src, const nib_matrix *dst)
{
    return nib_transform_run(launch, transform, src, dst, NULL, NULL, avx2_span);
}

nib_status nib_quantize_transformed_avx2(const nib_launch *launch, const nib_transform *transform,
                                         const nib_matrix *src,
                                         const nib_quantize_request *request,
                                         const nib_packed *dst)
{
    return nib_transform_run(launch, transform, src, NULL, request, dst, avx2_span);
}

#else

typedef int nib_transform_avx2_has_nothing_here; /* C forbids an empty file */

#endif
