/* stats_cpu.c: what quantizing cost, in plain C. */
#include "stats_cpu.h"
#include "portable_cpu.h"
#include "tasks_cpu.h"

void nib_stats_span_portable(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                             nib_stats_sums *sums, nib_stats_counts *counts)
{
    const nib_dequantize_job *p = &job->packed;
    const nib_packed *src = p->src;
    const int dtype = (int)job->src->dtype, halves = src->code_order == NIB_CODES_GGUF_HALVES;
    const uint32_t magnitude_mask = (1u << (p->bits - 1)) - 1;

    for (int64_t k = first; k < last; k++) {
        const int64_t col = k * p->block, left = src->cols - col;
        const int n = left < p->block ? (int)left : p->block;
        const uint8_t byte = src->scales[nib_scale_index(src->scale_layout, row, k, p->scale_cols)];
        const float step = nib_block_step(p->e4m3_scale, byte, p->decode);
        uint8_t codes[NIB_MAX_BLOCK];

        counts->scale[byte]++;
        nib_unpack_codes(p->bits, halves, src->codes + row * src->ld_codes_bytes
                         + col / 8 * p->bits, n, codes);
        for (int i = 0; i < n; i++) {
            const float x = nib_load_f32(dtype, job->src->data,
                                         row * job->src->ld_elems + col + i);
            if (nib_magnitude_bits(x) >= NIB_F32_INF_BITS) {
                counts->nonfinite++;
                continue;
            }
            const float value = p->values[codes[i]] * step, d = x - value;
            const uint32_t error = nib_magnitude_bits(d);
            counts->code[codes[i]]++;
            counts->flushed += value == 0.0f && x != 0.0f;
            counts->saturated += (codes[i] & magnitude_mask) == job->max_magnitude
                              && nib_abs(x) > nib_abs(value);
            if (error > counts->max_error) counts->max_error = error;
            sums->error[i % 8] += (double)d * (double)d; /* a block begins at a multiple of 8 */
            sums->square[i % 8] += (double)x * (double)x;
        }
    }
}

static void add_counts(nib_stats_counts *to, const nib_stats_counts *from)
{
    to->nonfinite += from->nonfinite;
    to->flushed += from->flushed;
    to->saturated += from->saturated;
    if (from->max_error > to->max_error) to->max_error = from->max_error;
    for (int i = 0; i < 256; i++) {
        to->code[i] += from->code[i];
        to->scale[i] += from->scale[i];
    }
}

/* First task of a group: count * g / groups, without overflow. */
static int64_t group_begin(int64_t count, int g)
{
    return count / NIB_STATS_GROUPS * g + count % NIB_STATS_GROUPS * g / NIB_STATS_GROUPS;
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
    for (int i = 0; i < 256; i++) {
        report->code_count[i] += c->code[i];
        report->scale_count[i] += c->scale[i];
    }
}

nib_status nib_stats_run(const nib_launch *launch, const nib_matrix *src, const nib_packed *packed,
                         nib_quantize_report *report, nib_stats_span span)
{
    nib_stats_job job = { .src = src };
    nib_dequantize_job_of(packed, NULL, &job.packed);
    job.max_magnitude = nib_element_traits_of(job.packed.element).max_code;

    const nib_tasks tasks = nib_tasks_of(src->rows, src->cols);
    const int threads = nib_task_threads(&tasks, launch->threads);
    double error[NIB_STATS_GROUPS], square[NIB_STATS_GROUPS];
    nib_stats_counts all = { 0 };
#pragma omp parallel num_threads(threads)
    {
        nib_stats_counts counts = { 0 };
#pragma omp for schedule(dynamic)
        for (int g = 0; g < NIB_STATS_GROUPS; g++) {
            const int64_t begin = group_begin(tasks.count, g);
            const int64_t end = group_begin(tasks.count, g + 1);
            nib_stats_sums sums = { { 0 }, { 0 } };
            for (int64_t i = begin; i < end; i++) {
                const nib_task t = nib_task_at(&tasks, i);
                const int64_t first = t.col0 / job.packed.block;
                const int64_t last = nib_ceil_div(t.col1, job.packed.block);
                for (int64_t row = t.row0; row < t.row1; row++) {
                    span(&job, row, first, last, &sums, &counts);
                }
            }
            error[g] = sum8(sums.error);
            square[g] = sum8(sums.square);
        }
#pragma omp critical(nib_stats_merge)
        add_counts(&all, &counts);
    }
    for (int g = 1; g < NIB_STATS_GROUPS; g++) {
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
    return nib_stats_run(launch, src, packed, report, nib_stats_span_portable);
}
