/* quantize_both_cpu.c: a matrix and its transpose, the latter in plain C: strips of 16 columns,
 * which are rows of the transpose, a block of each at a time. */
#include "portable_cpu.h"
#include "quantize_span.h"
#include "tasks_cpu.h"

enum { STRIP = 16 };

/* n rows of up to STRIP columns to as many rows of n elements, as load_block leaves them. */
static void load_strip(int dtype, const uint8_t *from, int64_t ld, int n, int cols,
                       float (*x)[NIB_MAX_BLOCK])
{
    for (int i = 0; i < (n + LANES - 1) / LANES * LANES; i++) {
        for (int c = 0; c < cols; c++)
            x[c][i] = i < n ? nib_load_f32(dtype, from, i * ld + c) : 0.0f;
    }
}

/* Block k of so many rows of the transpose, from row on: at most STRIP, which share their scales if
 * any rows do. */
static void strip_blocks(const nib_quantize_job *job, int64_t row, int rows, int64_t k)
{
    const int dtype = (int)job->src->dtype, block = job->math.rules.block;
    const int plain = plain_kind(job) >= 0;
    const int64_t at = k * block, left = job->dst->cols - at, ld = job->src->ld_elems;
    const int n = left < block ? (int)left : block, shared = job->scale_rows > 1;
    float x[STRIP][NIB_MAX_BLOCK];
    block_scale scale[STRIP];
    load_strip(dtype, (const uint8_t *)job->src->data + (at * ld + row) * (dtype ? 2 : 4), ld, n,
               rows, x);
    uint32_t most = 0;
    int special = 0;
    for (int r = 0; r < rows; r++) {
        int is_special;
        const uint32_t bits = block_amax(x[r], n, &is_special);
        if (bits > most) most = bits;
        special |= is_special;
        if (!shared) scale[r] = scale_of_amax(&job->math, job->choice, x[r], n, bits, is_special);
    }
    for (int r = 0; shared && r < rows; r++)
        scale[r] = scale_of_amax(&job->math, NIB_SC_AMAX, NULL, 0, most, special);
    for (int r = 0; r < rows; r++)
        store_block(job, &job->math, plain, scale[r], row + r, k, x[r], n);
}

nib_status nib_quantize_both_run(const nib_launch *launch, const nib_matrix *src,
                                 const nib_quantize_request *request, const nib_packed *rowwise,
                                 const nib_packed *columnwise,
                                 nib_status (*quantize)(const nib_launch *, const nib_matrix *,
                                                        const nib_quantize_request *,
                                                        const nib_packed *))
{
    const nib_status status = rowwise ? quantize(launch, src, request, rowwise) : NIB_OK;
    if (status != NIB_OK) return status;
    nib_quantize_job job;
    nib_quantize_job_of(src, request, columnwise, &job);
    const int64_t block = job.math.rules.block;
    const nib_tasks tasks = nib_tasks_of(nib_ceil_div(columnwise->rows, STRIP), columnwise->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        const int64_t first = t.col0 / block, last = nib_ceil_div(t.col1, block);
        for (int64_t row = t.row0 * STRIP; row < t.row1 * STRIP && row < columnwise->rows;
             row += STRIP) {
            const int64_t left = columnwise->rows - row;
            for (int64_t k = first; k < last; k++)
                strip_blocks(&job, row, left < STRIP ? (int)left : STRIP, k);
        }
    }
    nib_quantize_padding(launch, &job);
    return NIB_OK;
}

nib_status nib_quantize_both_portable(const nib_launch *launch, const nib_matrix *src,
                                      const nib_quantize_request *request,
                                      const nib_packed *rowwise, const nib_packed *columnwise)
{
    return nib_quantize_both_run(launch, src, request, rowwise, columnwise, nib_quantize_portable);
}
