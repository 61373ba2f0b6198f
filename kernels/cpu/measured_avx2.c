/* measured_avx2.c: codes and their error statistics in one pass: the statistics take what the
 * codes have in registers, and hide behind their divisions.
 *
 * The sums are those of stats_cpu.h, bit for bit. A chunk is a piece of theirs, and one with
 * anything unusual is measured by nib_stats_span_avx2, from the codes just written.
 */
#include "avx2_cpu.h"
#include "stats_cpu.h"

#if defined(__x86_64__)

#include "chunk_avx2.h"

#define CHUNK_FUNCTION(name, dtype, block)                                                  \
    static void name(const nib_quantize_job *job, const uint8_t *x, int groups,             \
                     chunk_out *out, chunk_measure *measure)                                \
    { chunk(job, dtype, block, x, groups, out, measure); }
CHUNK_FUNCTION(chunk_f32_16, NIB_DT_F32, 16)
CHUNK_FUNCTION(chunk_f32_32, NIB_DT_F32, 32)
CHUNK_FUNCTION(chunk_f16_16, NIB_DT_F16, 16)
CHUNK_FUNCTION(chunk_f16_32, NIB_DT_F16, 32)
CHUNK_FUNCTION(chunk_bf16_16, NIB_DT_BF16, 16)
CHUNK_FUNCTION(chunk_bf16_32, NIB_DT_BF16, 32)

/* Adds what a piece says. Returns 0, and adds nothing, if its squares of d may not run in f32. */
static int add_piece(const chunk_measure *m, nib_stats_sums *sums, nib_stats_counts *counts)
{
    const uint32_t worst = nib_max_of8(m->found.worst);
    if (!nib_stats_in_f32(worst)) return 0;
    nib_lanes_store(&m->lanes, worst, sums, counts);
    counts->flushed += nib_sum_of_bytes(m->found.flushed) - m->zeros;
    counts->saturated += nib_sum_of_bytes(m->found.saturated);
    return 1;
}

static void measured_span(const nib_stats_job *job, int64_t row, int64_t first, int64_t last,
                          nib_stats_sums *sums, nib_stats_counts *counts, nib_stats_uses *uses)
{
    const chunk_function functions[3][2] = {
        { chunk_f32_16, chunk_f32_32 }, { chunk_f16_16, chunk_f16_32 },
        { chunk_bf16_16, chunk_bf16_32 },
    };
    const int block = job->packed.block;
    const chunk_function function = functions[job->src->dtype][block == 32];
    const int64_t per_chunk = CHUNK / block;
    chunk_out out;
    chunk_measure measure;
    for (int64_t k = first; k < last; k += per_chunk) {
        const int64_t blocks = last - k < per_chunk ? last - k : per_chunk;
        measure.lanes = nib_lanes_of(sums);
        measure.found = nib_measure_none();
        chunk_at(function, job->quantize, row, k, blocks, &measure, &out);
        /* What is done again was no number: also zeros behind the row's end, as 0 / 0. */
        if (out.again || measure.unusual || !add_piece(&measure, sums, counts))
            nib_stats_span_avx2(job, row, k, k + blocks, sums, counts, uses);
    }
}

/* 1 if factors are steps' reciprocals but for roundings, so that |x| > 6 steps becomes code 7:
 * far from where tensor scales are clamped or lose digits. */
static int usual_scale(const nib_packed *dst, const nib_tensor_scales *scales)
{
    return !dst->tensor_scale || (scales->decode > 0x1p-100f && scales->decode < 0x1p100f);
}

nib_status nib_quantize_measured_avx2(const nib_launch *launch, const nib_matrix *src,
                                      const nib_quantize_request *request, const nib_packed *dst,
                                      nib_quantize_report *report)
{
    nib_quantize_job job;
    nib_quantize_job_of(src, request, dst, &job);
    if (!has_chunks(request, dst) || !report->without_counts
        || !usual_scale(dst, &job.math.scales)) {
        const nib_status status = nib_quantize_avx2(launch, src, request, dst);
        return status ? status : nib_quantize_stats_avx2(launch, src, dst, report);
    }
    const nib_status status = nib_stats_run(launch, src, dst, report, &job, measured_span);
    nib_quantize_padding(launch, &job);
    return status;
}

#endif
