/* steps_cpu.c: fake-quantization by f32 steps for the base instruction set. */
#include "portable_cpu.h"
#include "steps_span.h"

nib_status nib_fake_steps_portable(const nib_launch *launch, const nib_matrix *src,
                                   const nib_step_request *request, const nib_matrix *dst)
{
    return steps_run(launch, NULL, src, request, dst);
}

nib_status nib_fake_steps_backward_portable(const nib_launch *launch, const nib_matrix *grad_out,
                                            const nib_matrix *src,
                                            const nib_step_request *request,
                                            const nib_matrix *grad_in)
{
    return steps_run(launch, grad_out, src, request, grad_in);
}

int64_t nib_bad_step_cpu(const float *steps, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!nib_is_step(steps[i])) return i;
    return n;
}
