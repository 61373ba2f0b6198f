/* transform_cpu.c: transforms in plain C, every format and every rule. */
#include "portable_cpu.h"
#include "tasks_cpu.h"
#include "transform_span.h"

static_assert(NIB_TR_NONE == (int)NIB_TRANSFORM_NONE && NIB_TR_RMSNORM == (int)NIB_TRANSFORM_RMSNORM
              && NIB_TR_SILU_MUL == (int)NIB_TRANSFORM_SILU_MUL, "transforms");

nib_status nib_transform_run(const nib_launch *launch, const nib_transform *transform,
                             const nib_matrix *src, const nib_matrix *dst,
                             const nib_quantize_request *request, const nib_packed *packed,
                             nib_transform_span span)
{
    nib_transform_job job = { .transform = transform, .src = src, .dst = dst };
    if (packed) nib_quantize_job_of(src, request, packed, &job.quantize);
    const int64_t tall = packed ? job.quantize.scale_rows : 1;
    nib_tasks tasks = nib_tasks_of(nib_ceil_div(src->rows, tall), src->cols);
    const int whole_rows = transform->op == NIB_TRANSFORM_RMSNORM;
    if (whole_rows && tasks.pieces > 1) tasks.count /= tasks.pieces, tasks.pieces = 1;
    const int threads = nib_task_threads(&tasks, launch->threads);
    uint32_t most = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(max : most)
    for (int64_t i = 0; i < tasks.count; i++) {
        nib_task t = nib_task_at(&tasks, i);
        if (whole_rows) t.col1 = src->cols;
        for (int64_t row = t.row0 * tall; row < t.row1 * tall && row < src->rows; row += tall) {
            const int64_t left = src->rows - row;
            const uint32_t largest = span(&job, row, (int)(left < tall ? left : tall), t.col0,
                                          t.col1);
            if (largest > most) most = largest;
        }
    }
    if (packed) nib_quantize_padding(launch, &job.quantize);
    if (transform->amax && nib_float_of(most) > *transform->amax)
        *transform->amax = nib_float_of(most);
    return NIB_OK;
}

static uint32_t portable_span(const nib_transform_job *job, int64_t row, int rows, int64_t col0,
                              int64_t col1)
{
    return transform_span(job, row, rows, col0, col1);
}

nib_status nib_transform_apply_portable(const nib_launch *launch, const nib_transform *transform,
                                        const nib_matrix *src, const nib_matrix *dst)
{
    return nib_transform_run(launch, transform, src, dst, NULL, NULL, portable_span);
}

nib_status nib_quantize_transformed_portable(const nib_launch *launch,
                                             const nib_transform *transform, const nib_matrix *src,
                                             const nib_quantize_request *request,
                                             const nib_packed *dst)
{
    return nib_transform_run(launch, transform, src, NULL, request, dst, portable_span);
}
