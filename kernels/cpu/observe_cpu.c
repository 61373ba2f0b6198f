/* observe_cpu.c: ranges, averages and histograms. Maxima and counts do not depend on the order, so
 * that any thread may take any task. */
#include "observe_cpu.h"
#include "tasks_cpu.h"

#include <string.h>

static const void *element_at(const nib_matrix *m, int64_t row, int64_t col)
{
    const int64_t size = m->dtype == NIB_F32 ? 4 : 2;
    return (const uint8_t *)m->data + (row * m->ld_elems + col) * size;
}

/* ---- ranges ---- */

typedef struct span_range {
    int32_t least, most; /* f32 bits, turned so that they order as signed integers */
} span_range;

static const span_range no_range = { INT32_MAX, INT32_MIN };

/* Of n elements. First without a look for NaN and Inf, which compilers make vectors of; the rare
 * span that has some is read again. inf: the turned bits of Inf, low 16 bits 0 for halves. */
#define SPAN(type, turn, inf)                                                           \
    do {                                                                                \
        const type *p = data;                                                           \
        int32_t most = INT32_MIN, least = INT32_MAX;                                    \
        _Pragma("omp simd reduction(max : most) reduction(min : least)")                \
        for (int64_t i = 0; i < n; i++) {                                               \
            const int32_t at = (turn);                                                  \
            most = at > most ? at : most;                                               \
            least = at < least ? at : least;                                            \
        }                                                                               \
        if (most < (inf) && least > ~(inf)) return (span_range){ least, most };         \
        most = INT32_MIN, least = INT32_MAX;                                            \
        for (int64_t i = 0; i < n; i++) {                                               \
            const int32_t at = (turn);                                                  \
            if (at >= (inf) || at <= ~(inf)) continue;                                  \
            most = at > most ? at : most;                                               \
            least = at < least ? at : least;                                            \
        }                                                                               \
        return (span_range){ least, most };                                             \
    } while (0)

static int32_t turned_half(int32_t i) { return i ^ ((i >> 15) & 0x7fff); }

static span_range half_span(const void *data, int64_t n, int32_t inf)
{
    SPAN(int16_t, turned_half(p[i]), inf);
}

static span_range f32_span(const void *data, int64_t n)
{
    SPAN(float, nib_turned(nib_bits_of(p[i])), (int32_t)NIB_F32_INF_BITS);
}

static int32_t half_turned_in_f32(nib_dtype dtype, int32_t half)
{
    const uint16_t bits = (uint16_t)turned_half(half);
    return nib_turned(nib_bits_of(dtype == NIB_F16 ? nib_f16_to_f32(bits) : nib_bf16_to_f32(bits)));
}

static span_range span_of(nib_dtype dtype, const void *data, int64_t n)
{
    if (dtype == NIB_F32) return f32_span(data, n);
    const span_range r = half_span(data, n, dtype == NIB_F16 ? 0x7c00 : 0x7f80);
    if (r.least > r.most) return no_range;
    return (span_range){ half_turned_in_f32(dtype, r.least), half_turned_in_f32(dtype, r.most) };
}

static void merge(span_range r, float *range)
{
    if (r.least > r.most) return; /* no finite element */
    range[0] = nib_range_merged(range[0], nib_range_low(nib_turned_back(r.least)));
    range[1] = nib_range_merged(range[1], nib_range_high(nib_turned_back(r.most)));
}

nib_status nib_observe_range_cpu(const nib_launch *launch, const nib_matrix *src, float *range)
{
    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    int32_t least = INT32_MAX, most = INT32_MIN;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(max : most) \
    reduction(min : least)
    for (int64_t i = 0; i < tasks.count; i++) {
        const nib_task t = nib_task_at(&tasks, i);
        for (int64_t row = t.row0; row < t.row1; row++) {
            const span_range r = span_of(src->dtype, element_at(src, row, t.col0),
                                         t.col1 - t.col0);
            least = r.least < least ? r.least : least;
            most = r.most > most ? r.most : most;
        }
    }
    merge((span_range){ least, most }, range);
    return NIB_OK;
}

nib_status nib_observe_range_rows_cpu(const nib_launch *launch, const nib_matrix *src,
                                      float *range)
{
    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    if (tasks.pieces > 1 && src->rows < 4 * (int64_t)launch->threads) {
        for (int64_t row = 0; row < src->rows; row++) { /* few long rows: threads share each */
            const nib_matrix one = { (uint8_t *)src->data + (row * src->ld_elems)
                                         * (src->dtype == NIB_F32 ? 4 : 2),
                                     src->dtype, 1, src->cols, src->cols };
            nib_observe_range_cpu(launch, &one, range + 2 * row);
        }
        return NIB_OK;
    }
    const int threads = nib_task_threads(&tasks, launch->threads);
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < src->rows; row++) {
        merge(span_of(src->dtype, element_at(src, row, 0), src->cols), range + 2 * row);
    }
    return NIB_OK;
}

/* ---- averages ---- */

nib_status nib_observe_ema_cpu(const nib_launch *launch, int64_t n, const float *now, float keep,
                               float *average)
{
    const int threads = n < NIB_SERIAL_ELEMS ? 1 : launch->threads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) average[i] = nib_moved_average(keep, average[i], now[i]);
    return NIB_OK;
}

/* ---- histograms ---- */

nib_status nib_observe_histogram_cpu(const nib_launch *launch, const nib_matrix *src,
                                     const float *top, int32_t bins, uint64_t *counts)
{
    const float factor = nib_histogram_factor(*top, bins);
    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    if (factor == 0.0f) return NIB_OK;
#pragma omp parallel num_threads(threads)
    {
        uint64_t mine[NIB_HISTOGRAM_BINS];
        memset(mine, 0, (size_t)bins * sizeof *mine);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks.count; i++) {
            const nib_task t = nib_task_at(&tasks, i);
            for (int64_t row = t.row0; row < t.row1; row++) {
                const void *data = element_at(src, row, t.col0);
                for (int64_t c = 0; c < t.col1 - t.col0; c++) {
                    const float a = nib_abs(nib_load_f32((int)src->dtype, data, c));
                    if (nib_bits_of(a) >= NIB_F32_INF_BITS) continue;
                    mine[nib_histogram_bin(a, factor, bins)]++;
                }
            }
        }
#pragma omp critical(nib_histogram_merge)
        for (int32_t b = 0; b < bins; b++) counts[b] += mine[b];
    }
    return NIB_OK;
}
