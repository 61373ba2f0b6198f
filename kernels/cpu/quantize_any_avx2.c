/* quantize_any_avx2.c: the plain C of quantize_span.h compiled for AVX2. */
#if defined(__x86_64__)

#include "quantize_span.h"

void nib_quantize_span_any_avx2(const nib_quantize_job *job, int64_t row, int64_t first,
                                int64_t last)
{
    quantize_any_span(job, row, first, last);
}

#else

typedef int nib_quantize_any_avx2_has_nothing_here; /* C forbids an empty file */

#endif
