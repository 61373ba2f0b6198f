/* gptq_avx512.c: the plain C of gptq_span.h compiled for AVX-512. */
#if defined(__x86_64__)

#include "gptq_span.h"

static const nib_gptq_loops loops = { .block = gptq_block, .scales = gptq_scales };

nib_status nib_gptq_sweep_avx512(const nib_launch *launch, const nib_gptq_request *request,
                               nib_gptq_sums *sums)
{
    return nib_gptq_run(launch, request, sums, &loops);
}

#else

typedef int nib_gptq_avx512_is_empty; /* ISO C wants a declaration */

#endif
