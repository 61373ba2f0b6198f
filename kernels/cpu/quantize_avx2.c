/* quantize_avx2.c: E2M1 by blocks of 16 and 32, nearest rounding; what chunk_avx2.h does not know
 * goes through the plain C of quantize_span.h. */
#include "avx2_cpu.h"
#include "quantize_cpu.h"

#if defined(__x86_64__)

#include "chunk_avx2.h"

#define CHUNK_FUNCTION(name, dtype, block)                                                  \
    static void name(const nib_quantize_job *job, const uint8_t *x, int groups,             \
                     chunk_out *out, chunk_measure *measure)                                \
    {                                                                                       \
        (void)measure;                                                                      \
        chunk(job, dtype, block, x, groups, out, NULL);                                     \
    }
CHUNK_FUNCTION(chunk_f32_16, NIB_DT_F32, 16)
CHUNK_FUNCTION(chunk_f32_32, NIB_DT_F32, 32)
CHUNK_FUNCTION(chunk_f16_16, NIB_DT_F16, 16)
CHUNK_FUNCTION(chunk_f16_32, NIB_DT_F16, 32)
CHUNK_FUNCTION(chunk_bf16_16, NIB_DT_BF16, 16)
CHUNK_FUNCTION(chunk_bf16_32, NIB_DT_BF16, 32)

static void quantize_span(const nib_quantize_job *job, int64_t row, int64_t first, int64_t last)
{
    const chunk_function functions[3][2] = {
        { chunk_f32_16, chunk_f32_32 }, { chunk_f16_16, chunk_f16_32 },
        { chunk_bf16_16, chunk_bf16_32 },
    };
    const int block = job->math.rules.block;
    const chunk_function function = functions[job->src->dtype][block == 32];
    const int64_t per_chunk = CHUNK / block;
    chunk_out out;
    for (int64_t k = first; k < last; k += per_chunk) {
        const int64_t blocks = last - k < per_chunk ? last - k : per_chunk;
        chunk_at(function, job, row, k, blocks, NULL, &out);
    }
}

nib_status nib_quantize_avx2(const nib_launch *launch, const nib_matrix *src,
                             const nib_quantize_request *request, const nib_packed *dst)
{
    return nib_quantize_run(launch, src, request, dst,
                            has_chunks(request, dst) ? quantize_span : nib_quantize_span_any_avx2);
}

nib_status nib_quantize_both_avx2(const nib_launch *launch, const nib_matrix *src,
                                  const nib_quantize_request *request, const nib_packed *rowwise,
                                  const nib_packed *columnwise)
{
    return nib_quantize_both_run(launch, src, request, rowwise, columnwise, nib_quantize_avx2);
}

#endif
