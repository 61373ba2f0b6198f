/* quantize_cpu.c: quantize in plain C, every format and every rule. */
#include "quantize_cpu.h"
#include "portable_cpu.h"
#include "quantize_span.h"
#include "tasks_cpu.h"

void nib_quantize_span_portable(const nib_quantize_job *job, int64_t row, int64_t first,
                                int64_t last)
{
    quantize_any_span(job, row, first, last);
}

nib_status nib_quantize_run(const nib_launch *launch, const nib_matrix *src,
                            const nib_quantize_request *request, const nib_packed *dst,
                            nib_quantize_span span)
{
    const nib_block_rules rules = nib_block_rules_of(dst->format, &request->rules,
                                                     request->scale_choice, src->dtype);
    nib_tensor_scales scales = { 1.0f, 1.0f };
    if (dst->tensor_scale && request->tensor_amax) {
        scales = nib_tensor_factors(&rules, *request->tensor_amax);
        *dst->tensor_scale = scales.decode;
    } else if (dst->tensor_scale) {
        scales = nib_tensor_given(*dst->tensor_scale);
    }
    const nib_quantize_job job = {
        .math = nib_tensor_math_of(&rules, scales),
        .choice = (int)request->scale_choice,
        .stochastic = request->rounding == NIB_ROUND_STOCHASTIC,
        .bits = nib_part_bits(dst->format),
        .scale_cols = nib_ceil_div(dst->cols, rules.block),
        .seed = request->random ? request->random[0] : 0,
        .offset = request->random ? request->random[1] : 0,
        .src = src,
        .dst = dst,
    };
    const nib_tasks tasks = nib_tasks_of(dst->rows, dst->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        const int64_t first = t.col0 / rules.block, last = nib_ceil_div(t.col1, rules.block);
        for (int64_t row = t.row0; row < t.row1; row++) span(&job, row, first, last);
    }
    if (dst->scale_layout == NIB_SCALES_SWIZZLED_128X4) {
        nib_zero_scale_padding(dst->rows, job.scale_cols, dst->scales, launch->threads);
    }
    return NIB_OK;
}

nib_status nib_quantize_portable(const nib_launch *launch, const nib_matrix *src,
                                 const nib_quantize_request *request, const nib_packed *dst)
{
    return nib_quantize_run(launch, src, request, dst, nib_quantize_span_portable);
}
