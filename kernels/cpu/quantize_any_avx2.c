/* quantize_any_avx2.c: the plain C of quantize_span.h compiled for AVX2. */
#include "quantize_span.h"

#if defined(__x86_64__)

void nib_quantize_span_any_avx2(const nib_quantize_job *job, int64_t row, int64_t first,
                                int64_t last)
{
    quantize_any_span(job, row, first, last);
}

#endif
