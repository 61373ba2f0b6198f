/* fakequant_cpu.c: fake-quantize and its gradient in plain C, every format and every rule. */
#include "fakequant_span.h"
#include "portable_cpu.h"
#include "tasks_cpu.h"

/* Blocks [first, last) of so many rows from row on, which share their scales. In place: all of a
 * tile is read before any of it is written. */
static void fake_tiles(const nib_fake_job *job, int64_t row, int rows, int64_t first, int64_t last)
{
    const nib_quantize_job *q = &job->quantize;
    const int plain = plain_kind(q) >= 0, block = q->math.rules.block;
    const int64_t ld = job->src->ld_elems * (job->src->dtype == NIB_F32 ? 4 : 2);
    for (int64_t k = first; k < last; k++) {
        const int64_t col = k * block, left = job->shape.cols - col;
        const int n = left < block ? (int)left : block;
        const block_scale scale = scale_of_tile(&q->math, (int)job->src->dtype,
                                                nib_matrix_at(job->src, row, col), ld, rows, n);
        for (int64_t r = row; r < row + rows; r++) {
            if (job->grad_out) {
                uint8_t passes[NIB_MAX_BLOCK];
                passes_of_block(job, &scale, r, col, n, passes);
                pass_gradients(job, r, col, n, passes);
            } else {
                fake_block(job, &q->math, plain, &scale, r, col, n,
                           nib_matrix_at(job->src, r, col));
            }
        }
    }
}

nib_status nib_fake_run(const nib_launch *launch, const nib_matrix *src,
                        const nib_matrix *grad_out, const nib_fake_request *request,
                        const nib_matrix *dst, nib_fake_span span, void (*fence)(void))
{
    nib_fake_job job = { .mask = request->mask, .ld_mask = request->ld_mask_bytes,
                         .src = src, .dst = dst, .grad_out = grad_out,
                         .gradient = request->gradient };
    /* quantize reads a tensor scale through this, or writes the one that follows from amax. */
    float tensor_scale = request->tensor_scale ? *request->tensor_scale : 1.0f;
    job.shape = (nib_packed){
        .size = sizeof job.shape, .format = request->format, .rows = dst->rows, .cols = dst->cols,
        .tensor_scale = nib_part_has_tensor_scale(request->format) ? &tensor_scale : NULL,
    };
    nib_quantize_job_of(src ? src : dst, &request->quantize, &job.shape, &job.quantize);
    job.quantize.given = request->scales;
    job.quantize.given_layout = request->scale_layout;
    if (request->scales) job.quantize.choice = NIB_SC_AMAX; /* the rules may be plain */
    job.decode = nib_packed_decode(&job.shape);
    job.in_place = src && src->data == dst->data;
    for (uint32_t c = 0; c < 1u << job.quantize.bits; c++)
        job.values[c] = nib_element_to_f32(job.quantize.math.rules.element, c);

    const int64_t block = job.quantize.math.rules.block;
    /* src NULL: nobody asks for a scale. */
    const int64_t tall = src ? job.quantize.scale_rows : 1;
    const nib_tasks tasks = nib_tasks_of(nib_ceil_div(dst->rows, tall), dst->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    /* Static, since taking tasks from a shared counter waits for streamed stores each time. */
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < tasks.count; i++) {
            const nib_task t = nib_task_at(&tasks, i);
            const int64_t first = t.col0 / block, last = nib_ceil_div(t.col1, block);
            for (int64_t row = t.row0 * tall; row < t.row1 * tall && row < dst->rows; row += tall) {
                const int64_t below = dst->rows - row;
                if (tall == 1) span(&job, row, first, last);
                else fake_tiles(&job, row, (int)(below < tall ? below : tall), first, last);
            }
        }
        if (fence) fence();
    }
    return NIB_OK;
}

nib_status nib_fake_quantize_portable(const nib_launch *launch, const nib_matrix *src,
                                      const nib_fake_request *request, const nib_matrix *dst)
{
    return nib_fake_run(launch, src, NULL, request, dst, fake_any_span, NULL);
}

nib_status nib_fake_backward_portable(const nib_launch *launch, const nib_matrix *grad_out,
                                      const nib_matrix *src, const nib_fake_request *request,
                                      const nib_matrix *grad_in)
{
    return nib_fake_run(launch, src, grad_out, request, grad_in, backward_any_span, NULL);
}
