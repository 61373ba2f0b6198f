/* steps_avx2.c: steps_span.h for AVX2, whose chunks are in steps_chunk_avx2.h. */
#include "avx2_cpu.h"

#if defined(__x86_64__)

#include "steps_span.h"
#include "steps_chunk_avx2.h"

nib_status nib_fake_steps_avx2(const nib_launch *launch, const nib_matrix *src,
                               const nib_step_request *request, const nib_matrix *dst)
{
    return steps_run(launch, NULL, src, request, dst);
}

nib_status nib_fake_steps_backward_avx2(const nib_launch *launch, const nib_matrix *grad_out,
                                        const nib_matrix *src, const nib_step_request *request,
                                        const nib_matrix *grad_in)
{
    return steps_run(launch, grad_out, src, request, grad_in);
}

nib_status nib_quantize_steps_avx2(const nib_launch *launch, const nib_matrix *src,
                                   const nib_step_request *request, const nib_packed_steps *dst)
{
    return step_codes_run(launch, src, request, dst);
}

nib_status nib_dequantize_steps_avx2(const nib_launch *launch, const nib_packed_steps *src,
                                     const nib_step_request *request, const nib_matrix *dst)
{
    return step_decode_run(launch, src, request, dst);
}

#endif
