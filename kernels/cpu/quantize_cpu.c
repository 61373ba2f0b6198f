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

void nib_quantize_job_of(const nib_matrix *src, const nib_quantize_request *request,
                         const nib_packed *dst, nib_quantize_job *job)
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
    *job = (nib_quantize_job){
        .math = nib_tensor_math_of(&rules, scales),
        .choice = request->given ? NIB_SC_AMAX : (int)request->scale_choice,
        .stochastic = request->rounding == NIB_ROUND_STOCHASTIC,
        .scale_rows = request->scale_rows > 1 ? request->scale_rows : 1,
        .bits = nib_part_bits(dst->format),
        .scale_cols = nib_ceil_div(dst->cols, rules.block),
        .seed = request->random ? request->random[0] : 0,
        .offset = request->random ? request->random[1] : 0,
        .given = request->given ? dst->scales : NULL,
        .given_layout = dst->scale_layout,
        .src = src,
        .dst = dst,
    };
}

void nib_quantize_padding(const nib_launch *launch, const nib_quantize_job *job)
{
    if (job->dst->scale_layout == NIB_SCALES_SWIZZLED_128X4 && !job->given)
        nib_zero_scale_padding(job->dst->rows, job->scale_cols, job->dst->scales, launch->threads);
}

/* Blocks [first, last) of so many rows from row on, which share their scales. */
static void quantize_tiles(const nib_quantize_job *job, int64_t row, int rows, int64_t first,
                           int64_t last)
{
    const int plain = plain_kind(job) >= 0, block = job->math.rules.block;
    const int64_t size = job->src->dtype == NIB_F32 ? 4 : 2, ld = job->src->ld_elems * size;
    const uint8_t *x = (const uint8_t *)job->src->data + row * ld;
    for (int64_t k = first; k < last; k++) {
        const int64_t col = k * block, left = job->dst->cols - col;
        const block_scale scale = scale_of_tile(&job->math, (int)job->src->dtype,
                                                x + col * size, ld, rows,
                                                left < block ? (int)left : block);
        for (int r = 0; r < rows; r++)
            quantize_block(job, &job->math, plain, &scale, row + r, k);
    }
}

nib_status nib_quantize_run(const nib_launch *launch, const nib_matrix *src,
                            const nib_quantize_request *request, const nib_packed *dst,
                            nib_quantize_span span)
{
    nib_quantize_job job;
    nib_quantize_job_of(src, request, dst, &job);
    const int64_t block = job.math.rules.block;
    const int64_t tall = job.scale_rows;
    const nib_tasks tasks = nib_tasks_of(nib_ceil_div(dst->rows, tall), dst->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        const int64_t first = t.col0 / block, last = nib_ceil_div(t.col1, block);
        for (int64_t row = t.row0 * tall; row < t.row1 * tall && row < dst->rows; row += tall) {
            const int64_t left = dst->rows - row;
            if (tall == 1) span(&job, row, first, last);
            else quantize_tiles(&job, row, (int)(left < tall ? left : tall), first, last);
        }
    }
    nib_quantize_padding(launch, &job);
    return NIB_OK;
}

nib_status nib_quantize_portable(const nib_launch *launch, const nib_matrix *src,
                                 const nib_quantize_request *request, const nib_packed *dst)
{
    return nib_quantize_run(launch, src, request, dst, nib_quantize_span_portable);
}
