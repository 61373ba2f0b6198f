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

nib_status nib_quantize_steps_portable(const nib_launch *launch, const nib_matrix *src,
                                       const nib_step_request *request,
                                       const nib_packed_steps *dst)
{
    return step_codes_run(launch, src, request, dst);
}

nib_status nib_dequantize_steps_cpu(const nib_launch *launch, const nib_packed_steps *src,
                                    const nib_step_request *request, const nib_matrix *dst)
{
    const nib_grid grid = nib_grid_of((int)request->element);
    const int      bits = nib_step_code_bits((int)request->element);
    const int64_t  groups = nib_ceil_div(src->cols, request->group);
#pragma omp parallel for num_threads(steps_threads(launch, dst)) schedule(static)
    for (int64_t i = 0; i < src->rows * groups; i++) {
        const int64_t row = i / groups, col = i % groups * request->group;
        const int64_t left = src->cols - col, n = left < request->group ? left : request->group;
        const uint8_t *const codes = src->codes + row * src->ld_codes_bytes + col * bits / 8;
        const nib_step step = nib_step_given(&grid, (int)request->rule, 1.0f, request->steps[i],
                                             request->zeros ? request->zeros[i] : 0);
        uint8_t *const to = nib_matrix_at(dst, row, col);
        for (int64_t c = 0; c < n; c++)
            nib_store_f32((int)dst->dtype, to, c,
                          (float)(nib_step_code_at(codes, bits, c) - step.z) * step.s);
    }
    return NIB_OK;
}

int64_t nib_bad_step_cpu(const float *steps, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!nib_is_step(steps[i])) return i;
    return n;
}
