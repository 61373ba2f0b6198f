/* tensor_stats_cpu.c: a tensor against its quantized values, in the order of
 * kernels/common/observe.h: whole partial sums are what threads share. */
#include "kernels/packed.h"
#include "observe_cpu.h"
#include "tasks_cpu.h"

#include <string.h>

enum { GROUP = 16 /* partial sums that a thread takes at once: their pieces lie side by side */ };

typedef struct stats_job {
    const nib_matrix *src, *quantized;
    const uint8_t    *mask;
    int64_t           ld_mask, row_pieces, pieces;
} stats_job;

/* A piece in f32: absent elements, and those that are left out, are 0 in both. */
typedef struct piece {
    float x[NIB_PIECE], v[NIB_PIECE], d[NIB_PIECE];
    int   n;
} piece;

static void load(const nib_matrix *m, int64_t row, int64_t col, int n, float *to)
{
    const int64_t first = row * m->ld_elems + col;
    for (int i = 0; i < n; i++) to[i] = nib_load_f32((int)m->dtype, m->data, first + i);
    for (int i = n; i % 8 != 0; i++) to[i] = 0.0f;
}

static int is_finite(float x) { return nib_magnitude_bits(x) < NIB_F32_INF_BITS; }

/* 1 unless all of x and v are finite. */
static int has_specials(const piece *p)
{
    uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int i = 0; i < p->n; i++) {
        const uint32_t a = nib_magnitude_bits(p->x[i]), b = nib_magnitude_bits(p->v[i]);
        const uint32_t m = a > b ? a : b;
        most = m > most ? m : most;
    }
    return most >= NIB_F32_INF_BITS;
}

static int bit_of(const uint8_t *mask, int64_t c) { return mask[c / 8] >> (c % 8) & 1; }

/* Counts, and the least and most; elements left out become 0. mask: of the row, or NULL. */
static void count(piece *p, const uint8_t *mask, int64_t col, nib_tensor_stats *to)
{
    float least = 0.0f, most = 0.0f;
    int any = 0;
    for (int i = 0; i < p->n && mask; i++) to->clipped += !bit_of(mask, col + i);
    if (has_specials(p)) {
        for (int i = 0; i < p->n; i++) {
            if (is_finite(p->x[i]) && is_finite(p->v[i])) {
                if (!any || p->x[i] < least) least = p->x[i];
                if (!any || p->x[i] > most) most = p->x[i];
                any = 1;
                continue;
            }
            to->nonfinite++;
            if (mask) to->clipped -= !bit_of(mask, col + i);
            p->x[i] = p->v[i] = 0.0f;
        }
    } else {
        int32_t low = INT32_MAX, high = INT32_MIN;
#pragma omp simd reduction(max : high) reduction(min : low)
        for (int i = 0; i < p->n; i++) {
            const int32_t at = nib_turned(nib_bits_of(p->x[i]));
            low = at < low ? at : low;
            high = at > high ? at : high;
        }
        any = 1;
        least = nib_turned_back(low), most = nib_turned_back(high);
    }
    for (int i = 0; i < p->n; i++) to->zeroed += (p->x[i] != 0.0f) & (p->v[i] == 0.0f);
    if (!any) return;
    to->range[0] = nib_range_merged(to->range[0], nib_range_low(least));
    to->range[1] = nib_range_merged(to->range[1], nib_range_high(most));
}

static uint32_t largest(const float *x, int n)
{
    uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int i = 0; i < n; i++) {
        const uint32_t a = nib_magnitude_bits(x[i]);
        most = a > most ? a : most;
    }
    return most;
}

/* Of 8 elements, times a power of two. */
static float sum_of(const float *x, float f)
{
    return nib_sum8_of(x[0] * f, x[1] * f, x[2] * f, x[3] * f, x[4] * f, x[5] * f, x[6] * f,
                       x[7] * f);
}

static float squares_of(const float *x, float f)
{
    float y[8];
    for (int i = 0; i < 8; i++) y[i] = x[i] * f * (x[i] * f);
    return sum_of(y, 1.0f);
}

static float tree_of(float *lane)
{
    for (int h = NIB_PIECE_LANES / 2; h > 0; h /= 2) {
        for (int t = 0; t < h; t++) lane[t] += lane[t + h];
    }
    return lane[0];
}

static void add_sums(piece *p, nib_stats_partial *to)
{
    float sum[NIB_PIECE_LANES] = { 0 }, square[NIB_PIECE_LANES] = { 0 };
    float error[NIB_PIECE_LANES] = { 0 };
    const int groups = (p->n + 7) / 8;
    for (int i = 0; i < 8 * groups; i++) p->d[i] = p->x[i] - p->v[i];
    const int ex = nib_piece_exponent(largest(p->x, 8 * groups));
    const int ed = nib_piece_exponent(largest(p->d, 8 * groups));
    const float fx = nib_pow2(ex), fd = nib_pow2(ed);
    for (int g = 0; g < groups; g++) {
        const int t = g % NIB_PIECE_LANES;
        sum[t] += sum_of(p->x + 8 * g, fx);
        square[t] += squares_of(p->x + 8 * g, fx);
        error[t] += squares_of(p->d + 8 * g, fd);
    }
    to->sum += nib_piece_sum(tree_of(sum), ex);
    to->sum_sq += nib_piece_squares(tree_of(square), ex);
    to->sum_sq_error += nib_piece_squares(tree_of(error), ed);
}

static void add_piece(const stats_job *job, int64_t index, nib_stats_partial *sums,
                      nib_tensor_stats *counts)
{
    const int64_t row = index / job->row_pieces, col = index % job->row_pieces * NIB_PIECE;
    const int64_t left = job->src->cols - col;
    piece p;
    p.n = left < NIB_PIECE ? (int)left : NIB_PIECE;
    load(job->src, row, col, p.n, p.x);
    load(job->quantized, row, col, p.n, p.v);
    count(&p, job->mask ? job->mask + row * job->ld_mask : NULL, col, counts);
    add_sums(&p, sums);
}

static void add_tree(nib_stats_partial *list, int64_t n, nib_tensor_stats *to)
{
    for (int64_t h = NIB_PARTIALS / 2; h > 0; h /= 2) {
        for (int64_t i = 0; i < h && i + h < n; i++) {
            list[i].sum += list[i + h].sum;
            list[i].sum_sq += list[i + h].sum_sq;
            list[i].sum_sq_error += list[i + h].sum_sq_error;
        }
        n = n < h ? n : h;
    }
    to->sum = list->sum, to->sum_sq = list->sum_sq, to->sum_sq_error = list->sum_sq_error;
}

nib_status nib_observe_stats_cpu(const nib_launch *launch, const nib_matrix *src,
                                 const nib_matrix *quantized, const uint8_t *mask,
                                 int64_t ld_mask_bytes, nib_tensor_stats *stats)
{
    const int64_t row_pieces = nib_ceil_div(src->cols, NIB_PIECE);
    const stats_job job = { src, quantized, mask, ld_mask_bytes, row_pieces,
                            src->rows * row_pieces };
    const int64_t partials = job.pieces < NIB_PARTIALS ? job.pieces : NIB_PARTIALS;
    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    const float none = nib_float_of(NIB_RANGE_NONE_BITS);
    nib_stats_partial *list = launch->workspace;
    nib_tensor_stats all = { .range = { none, none } };
#pragma omp parallel num_threads(threads)
    {
        nib_tensor_stats counts = { .range = { none, none } };
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < partials; first += GROUP) {
            const int64_t end = first + GROUP < partials ? first + GROUP : partials;
            memset(list + first, 0, (size_t)(end - first) * sizeof *list);
            for (int64_t base = 0; base < job.pieces; base += NIB_PARTIALS) {
                for (int64_t k = first; k < end && base + k < job.pieces; k++)
                    add_piece(&job, base + k, &list[k], &counts);
            }
        }
#pragma omp critical(nib_tensor_stats_merge)
        {
            all.nonfinite += counts.nonfinite;
            all.clipped += counts.clipped;
            all.zeroed += counts.zeroed;
            for (int i = 0; i < 2; i++)
                all.range[i] = nib_range_merged(all.range[i], counts.range[i]);
        }
    }
    all.elements = (uint64_t)src->rows * (uint64_t)src->cols;
    add_tree(list, partials, &all);
    nib_tensor_stats_merge(stats, &all);
    return NIB_OK;
}
