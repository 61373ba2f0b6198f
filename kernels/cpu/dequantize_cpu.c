/* dequantize_cpu.c: dequantize in plain C, every format. */
#include "dequantize_cpu.h"
#include "portable_cpu.h"
#include "tasks_cpu.h"

static inline __attribute__((always_inline)) void
dequantize_span(const nib_dequantize_job *job, int64_t row, int64_t first, int64_t last, int bits)
{
    const nib_packed *src = job->src;
    const int dtype = (int)job->dst->dtype;
    const int halves = src->code_order == NIB_CODES_GGUF_HALVES;

    for (int64_t k = first; k < last; k++) {
        const int64_t col = k * job->block, left = src->cols - col;
        const int n = left < job->block ? (int)left : job->block;
        const uint8_t byte = src->scales[nib_scale_index(src->scale_layout, row, k,
                                                         job->scale_cols)];
        const float step = nib_block_step(job->e4m3_scale, byte, job->decode);
        const int64_t at = row * job->dst->ld_elems + col;
        uint8_t codes[NIB_MAX_BLOCK];

        nib_unpack_codes(bits, halves, src->codes + row * src->ld_codes_bytes + col / 8 * bits, n,
                         codes);
        for (int i = 0; i < n; i++) {
            nib_store_f32(dtype, job->dst->data, at + i, job->values[codes[i]] * step);
        }
    }
}

void nib_dequantize_span_portable(const nib_dequantize_job *job, int64_t row, int64_t first,
                                  int64_t last)
{
    switch (job->bits) {
    case 4:  dequantize_span(job, row, first, last, 4); break;
    case 6:  dequantize_span(job, row, first, last, 6); break;
    default: dequantize_span(job, row, first, last, 8); break;
    }
}

void nib_dequantize_job_of(const nib_packed *src, const nib_matrix *dst, nib_dequantize_job *job)
{
    job->element = nib_part_element(src->format);
    job->e4m3_scale = nib_part_e4m3_scale(src->format);
    job->block = nib_part_block(src->format);
    job->bits = nib_part_bits(src->format);
    job->scale_cols = nib_ceil_div(src->cols, job->block);
    job->decode = nib_packed_decode(src);
    job->src = src;
    job->dst = dst;
    for (uint32_t c = 0; c < 1u << job->bits; c++) {
        job->values[c] = nib_element_to_f32(job->element, c);
    }
}

nib_status nib_dequantize_run(const nib_launch *launch, const nib_packed *src,
                              const nib_matrix *dst, nib_dequantize_span span,
                              void (*fence)(void))
{
    nib_dequantize_job job;
    nib_dequantize_job_of(src, dst, &job);
    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    /* Static, since taking tasks from a shared counter waits for streamed stores each time. */
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < tasks.count; i++) {
            const nib_task t = nib_task_at(&tasks, i);
            const int64_t first = t.col0 / job.block, last = nib_ceil_div(t.col1, job.block);
            for (int64_t row = t.row0; row < t.row1; row++) span(&job, row, first, last);
        }
        if (fence) fence();
    }
    return NIB_OK;
}

nib_status nib_dequantize_portable(const nib_launch *launch, const nib_packed *src,
                                   const nib_matrix *dst)
{
    return nib_dequantize_run(launch, src, dst, nib_dequantize_span_portable, NULL);
}
