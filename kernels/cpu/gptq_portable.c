/* gptq_portable.c: the plain C of gptq_span.h for the base instruction set. */
#include "gptq_span.h"

static const nib_gptq_loops loops = { .block = gptq_block, .scales = gptq_scales };

nib_status nib_gptq_sweep_portable(const nib_launch *launch, const nib_gptq_request *request,
                                   nib_gptq_sums *sums)
{
    return nib_gptq_run(launch, request, sums, &loops);
}
