/* stats_cpu.c: what quantizing cost, in plain C. */
#include "stats_cpu.h"
#include "portable_cpu.h"
#include "tasks_cpu.h"

#include <math.h>

/* What is in a piece; the rest of x and d is 0. */
typedef struct piece {
    float    x[NIB_STATS_PIECE], d[NIB_STATS_PIECE];
    uint32_t most; /* bits of the largest |d| */
} piece;

/* Element i of p is x, and value is what it became. */
static inline void put(const nib_stats_job *job, float x, float value, int code, int i, piece *p,
                       nib_stats_counts *counts)
{
    const uint32_t magnitude_mask = (1u << (job->packed.bits - 1)) - 1;
    const float d = x - value;
    const uint32_t error = nib_magnitude_bits(d);
    counts->flushed += value == 0.0f && x != 0.0f;
    counts->saturated += ((unsigned)code & magnitude_mask) == job->max_magnitude
                      && nib_abs(x) > nib_abs(value);
    if (error > p->most) p->most = error;
    p->x[i] = x;
    p->d[i] = d;
}

static void add_in_f64(const float *v, int n, double sums[8])
{
    for (int i = 0; i < n; i++) sums[i % 16 / 2] += (double)v[i] * (double)v[i];
}

enum { GROUPS = NIB_STATS_PIECE / NIB_STATS_GROUP };

/* The pairs of sums of each group. fused: the square is not rounded. That shows only where 16-bit
 * elements underflow, so only there the slow function is called. Returns the largest's bits. */
static uint32_t group_sums(const float *v, int n, int fused, float pairs[GROUPS][8])
{
    uint32_t most = 0;
    for (int g = 0; g < GROUPS; g++) {
        float sum[16] = { 0 };
        const int end = n < (g + 1) * NIB_STATS_GROUP ? n : (g + 1) * NIB_STATS_GROUP;
        for (int i = g * NIB_STATS_GROUP; i < end; i++) {
            float *s = &sum[i % 16];
            *s = fused && nib_abs(v[i]) < 0x1p-60f ? fmaf(v[i], v[i], *s) : *s + v[i] * v[i];
        }
        for (int j = 0; j < 8; j++) {
            pairs[g][j] = sum[2 * j] + sum[2 * j + 1];
            if (nib_bits_of(pairs[g][j]) > most) most = nib_bits_of(pairs[g][j]);
        }
    }
    return most;
}

static void add_group_sums(float pairs[GROUPS][8], double sums[8])
{
    for (int g = 0; g < GROUPS; g++) {
        for (int j = 0; j < 8; j++) sums[j] += (double)pairs[g][j];
    }
}

static void add_piece(const piece *p, int n, int dtype, nib_stats_sums *sums)
{
    float error[GROUPS][8], square[GROUPS][8];
    const float worst = nib_float_of(p->most);
    group_sums(p->d, n, 0, error);
    if (nib_stats_in_f32(nib_magnitude_bits(worst * worst))) add_group_sums(error, sums->error);
    else add_in_f64(p->d, n, sums->error);
    if (nib_stats_in_f32(group_sums(p->x, n, dtype != NIB_DT_F32, square)))
        add_group_sums(square, sums->square);
    else add_in_f64(p->x, n, sums->square);
}

/* n elements of block k, which begins at element i of the piece. */
static void add_block(const nib_stats_job *job, int64_t row, int64_t k, int n, int i, piece *to,
                      nib_stats_counts *counts, nib_stats_uses *uses)
{
    const nib_dequantize_job *p = &job->packed;
    const nib_packed *src = p->src;
    const int64_t col = k * p->block;
    const int dtype = (int)job->src->dtype, halves = src->code_order == NIB_CODES_GGUF_HALVES;
    const uint8_t byte = src->scales[nib_scale_index(src->scale_layout, row, k, p->scale_cols)];
    const float step = nib_block_step(p->e4m3_scale, byte, p->decode);
    uint8_t codes[NIB_MAX_BLOCK];

    if (uses) uses->scale[byte]++;
    nib_unpack_codes(p->bits, halves, src->codes + row * src->ld_codes_bytes
                     + col / 8 * p->bits, n, codes);
    for (int j = 0; j < n; j++) {
        const float x = nib_load_f32(dtype, job->src->data, row * job->src->ld_elems + col + j);
        if (nib_magnitude_bits(x) >= NIB_F32_INF_BITS) {
            counts->nonfinite++;
            continue;
        }
        if (uses) uses->code[codes[j]]++;
        put(job, x, p->values[codes[j]] * step, codes[j], i + j, to, counts);
    }
}

void nib_stats_span_portable(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                             nib_stats_sums *sums, nib_stats_counts *counts,
                             nib_stats_uses *uses)
{
    const int block = job->packed.block, per_piece = NIB_STATS_PIECE / block;
    for (int64_t k = first; k < last; k += per_piece) {
        piece p = { .most = 0 };
        int n = 0;
        for (int64_t b = k; b < k + per_piece && b < last; b++) {
            const int64_t left = job->src->cols - b * block;
            const int here = left < block ? (int)left : block;
            add_block(job, row, b, here, n, &p, counts, uses);
            n += here;
        }
        if (p.most > counts->max_error) counts->max_error = p.most;
        add_piece(&p, n, (int)job->src->dtype, sums);
    }
}

static void add_counts(nib_stats_counts *to, const nib_stats_counts *from)
{
    to->nonfinite += from->nonfinite;
    to->flushed += from->flushed;
    to->saturated += from->saturated;
    if (from->max_error > to->max_error) to->max_error = from->max_error;
}

static void add_uses(nib_quantize_report *report, const nib_stats_uses *uses)
{
    for (int i = 0; i < 256; i++) {
        report->code_count[i] += uses->code[i];
        report->scale_count[i] += uses->scale[i];
    }
}

/* First task of a part: count * g / parts, without overflow. */
static int64_t part_begin(int64_t count, int g, int parts)
{
    return count / parts * g + count % parts * g / parts;
}

static double sum8(const double *p)
{
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

/* Machines differ in the sign of the NaN that they make. */
static double canonical(double x)
{
    return x == x ? x : (double)nib_float_of(NIB_F32_NAN_BITS);
}

static void add_to_report(const nib_stats_counts *c, double error, double square,
                          nib_quantize_report *report)
{
    const double most = (double)nib_canonical(nib_float_of(c->max_error));
    report->nonfinite += c->nonfinite;
    report->flushed += c->flushed;
    report->saturated += c->saturated;
    if (most != most || most > report->max_error) report->max_error = most;
    report->sum_sq_error = canonical(report->sum_sq_error + error);
    report->sum_sq = canonical(report->sum_sq + square);
}

nib_status nib_stats_run(const nib_launch *launch, const nib_matrix *src, const nib_packed *packed,
                         nib_quantize_report *report, const struct nib_quantize_job *quantize,
                         nib_stats_span span)
{
    nib_stats_job job = { .src = src, .quantize = quantize };
    nib_dequantize_job_of(packed, NULL, &job.packed);
    job.max_magnitude = nib_element_traits_of(job.packed.element).max_code;

    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    double error[NIB_STATS_PARTS], square[NIB_STATS_PARTS];
    const int parts = tasks.count < 1 ? 1
                    : tasks.count < NIB_STATS_PARTS ? (int)tasks.count : NIB_STATS_PARTS;
    nib_stats_counts all = { 0 };
    const int with_uses = !report->without_counts;
#pragma omp parallel num_threads(threads)
    {
        nib_stats_counts counts = { 0 };
        nib_stats_uses uses;
        if (with_uses) memset(&uses, 0, sizeof uses);
#pragma omp for schedule(dynamic)
        for (int g = 0; g < parts; g++) {
            const int64_t begin = part_begin(tasks.count, g, parts);
            const int64_t end = part_begin(tasks.count, g + 1, parts);
            nib_stats_sums sums = { { 0 }, { 0 } };
            for (int64_t i = begin; i < end; i++) {
                const nib_task t = nib_task_at(&tasks, i);
                const int64_t first = t.col0 / job.packed.block;
                const int64_t last = nib_ceil_div(t.col1, job.packed.block);
                for (int64_t row = t.row0; row < t.row1; row++) {
                    span(&job, row, first, last, &sums, &counts, with_uses ? &uses : NULL);
                }
            }
            error[g] = sum8(sums.error);
            square[g] = sum8(sums.square);
        }
#pragma omp critical(nib_stats_merge)
        {
            add_counts(&all, &counts);
            if (with_uses) add_uses(report, &uses);
        }
    }
    for (int g = 1; g < parts; g++) {
        error[0] += error[g];
        square[0] += square[g];
    }
    report->elements += (uint64_t)src->rows * (uint64_t)src->cols;
    add_to_report(&all, error[0], square[0], report);
    return NIB_OK;
}

nib_status nib_quantize_stats_portable(const nib_launch *launch, const nib_matrix *src,
                                       const nib_packed *packed, nib_quantize_report *report)
{
    return nib_stats_run(launch, src, packed, report, NULL, nib_stats_span_portable);
}
