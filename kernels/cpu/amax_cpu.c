/* amax_cpu.c: largest finite magnitudes, as integers: they order like the floats. */
#include "amax_cpu.h"
#include "kernels/common/half.h"
#include "portable_cpu.h"
#include "tasks_cpu.h"

/* Largest magnitude of n elements of the given type, as their bits. First without a look for
 * NaN and Inf, which compilers make vectors of; the rare span that has some is read again. */
#define SPAN(type, load, inf)                                        \
    do {                                                             \
        const type *p = data;                                        \
        int32_t most = 0;                                            \
        _Pragma("omp simd reduction(max : most)")                    \
        for (int64_t i = 0; i < n; i++) {                            \
            const int32_t bits = (int32_t)(load);                    \
            most = bits > most ? bits : most;                        \
        }                                                            \
        part.bits = (uint32_t)most;                                  \
        if (part.bits < (inf)) break;                                \
        part.bits = 0;                                               \
        for (int64_t i = 0; i < n; i++) {                            \
            const uint32_t bits = (uint32_t)(load);                  \
            if (bits >= (inf)) part.nonfinite++;                     \
            else part.bits = bits > part.bits ? bits : part.bits;    \
        }                                                            \
    } while (0)

nib_amax_part nib_amax_span_portable(nib_dtype dtype, const void *data, int64_t n)
{
    nib_amax_part part = { 0, 0 };
    switch (dtype) {
    case NIB_F32:
        SPAN(float, nib_magnitude_bits(p[i]), NIB_F32_INF_BITS);
        break;
    case NIB_F16:
        SPAN(uint16_t, p[i] & 0x7fff, 0x7c00u);
        part.bits = nib_bits_of(nib_f16_to_f32((uint16_t)part.bits));
        break;
    case NIB_BF16:
        SPAN(uint16_t, p[i] & 0x7fff, 0x7f80u);
        part.bits <<= 16;
        break;
    }
    return part;
}

static void *element_at(const nib_matrix *m, int64_t row, int64_t col)
{
    const int64_t size = m->dtype == NIB_F32 ? 4 : 2;
    return (uint8_t *)m->data + (row * m->ld_elems + col) * size;
}

nib_status nib_amax_run(const nib_launch *launch, const nib_matrix *src, float *amax,
                        uint64_t *nonfinite, nib_amax_span span)
{
    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    uint32_t most = 0;
    int64_t count = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(max : most) \
    reduction(+ : count)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        for (int64_t row = t.row0; row < t.row1; row++) {
            const nib_amax_part part = span(src->dtype, element_at(src, row, t.col0),
                                            t.col1 - t.col0);
            if (part.bits > most) most = part.bits;
            count += part.nonfinite;
        }
    }
    *amax = nib_float_of(most);
    if (nonfinite) *nonfinite = (uint64_t)count;
    return NIB_OK;
}

nib_status nib_amax_rows_run(const nib_launch *launch, const nib_matrix *src, float *amax,
                             nib_amax_span span)
{
    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    if (tasks.pieces > 1 && src->rows < 4 * (int64_t)launch->threads) {
        for (int64_t row = 0; row < src->rows; row++) { /* few long rows: threads share each */
            nib_matrix one = *src;
            one.data = element_at(src, row, 0);
            one.rows = 1;
            nib_amax_run(launch, &one, amax + row, NULL, span);
        }
        return NIB_OK;
    }
    const int threads = nib_task_threads(&tasks, launch->threads);
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < src->rows; row++) {
        amax[row] = src->cols ? nib_float_of(span(src->dtype, element_at(src, row, 0),
                                                  src->cols).bits) : 0.0f;
    }
    return NIB_OK;
}

nib_status nib_amax_portable(const nib_launch *launch, const nib_matrix *src, float *amax,
                             uint64_t *nonfinite)
{
    return nib_amax_run(launch, src, amax, nonfinite, nib_amax_span_portable);
}

nib_status nib_amax_rows_portable(const nib_launch *launch, const nib_matrix *src, float *amax)
{
    return nib_amax_rows_run(launch, src, amax, nib_amax_span_portable);
}
