/* relayout_cpu.c: scales between the linear and the swizzled layout. */
#include "portable_cpu.h"
#include "quantize_cpu.h"
#include "tasks_cpu.h"

/* Four columns that begin at a multiple of 4 lie side by side in both layouts. */
enum { RUN = 4 };

void nib_zero_scale_padding(int64_t rows, int64_t scale_cols, uint8_t *scales, int32_t threads)
{
    const int64_t padded_rows = nib_ceil_div(rows, 128) * 128, runs = nib_ceil_div(scale_cols, RUN);
    const nib_tasks tasks = nib_tasks_of(padded_rows, runs * RUN);
    const int team = nib_task_threads(&tasks, threads);
#pragma omp parallel for num_threads(team)
    for (int64_t m = 0; m < padded_rows; m++) {
        /* A row has only the tail of its last run; a padded row is all padding. */
        for (int64_t k = m < rows ? scale_cols : 0; k < runs * RUN; k = (k / RUN + 1) * RUN) {
            memset(scales + nib_swizzle_128x4(m, k, scale_cols), 0, (size_t)(RUN - k % RUN));
        }
    }
}

nib_status nib_relayout_scales_cpu(const nib_launch *launch, int64_t rows, int64_t scale_cols,
                                   nib_scale_layout from, const uint8_t *src,
                                   nib_scale_layout to, uint8_t *dst)
{
    const nib_tasks tasks = nib_tasks_of(rows, scale_cols);
    const int team = nib_task_threads(&tasks, launch->threads);
#pragma omp parallel for num_threads(team) schedule(dynamic)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        for (int64_t m = t.row0; m < t.row1; m++) {
            for (int64_t k = t.col0; k < t.col1; k += RUN) {
                const int64_t left = t.col1 - k;
                memcpy(dst + nib_scale_index(to, m, k, scale_cols),
                       src + nib_scale_index(from, m, k, scale_cols),
                       (size_t)(left < RUN ? left : RUN));
            }
        }
    }
    if (to == NIB_SCALES_SWIZZLED_128X4) {
        nib_zero_scale_padding(rows, scale_cols, dst, launch->threads);
    }
    return NIB_OK;
}
