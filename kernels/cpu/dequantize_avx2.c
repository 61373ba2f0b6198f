/* dequantize_avx2.c: E2M1 pairs by blocks of 16 and 32 to f32, f16 and bf16.
 *
 * Each E2M1 value is an f16 whose low byte is 0, so a byte shuffle finds its upper byte and
 * vcvtph2ps does the rest. Large outputs are written past the caches.
 */
#include "avx2_cpu.h"
#include "dequantize_cpu.h"

#if defined(__x86_64__)

#include "scale8_avx2.h"
#include "store16_avx2.h"
#include "values_avx2.h"

/* No prefetch: it gained nothing on a Zen 5 and cost a quarter of the rate, past the caches, on a
 * Xeon (profiles/cpu-zen5, profiles/cpu-xeon). */
enum { CHUNK = 1024, GROUP = 8 /* blocks whose steps are one vector */ };

/* n codes, a multiple of 32; steps: one for each 16. */
static inline __attribute__((always_inline)) void
values(int dtype, int stream, const uint8_t *codes, const float *steps, int64_t n, uint8_t *dst)
{
    const int size = dtype == NIB_DT_F32 ? 4 : 2;
    for (int64_t i = 0; i < n; i += 32) {
        __m256 v[4];
        nib_values32(codes + i / 2, v);
        const __m256 s0 = _mm256_broadcast_ss(steps + i / 16);
        const __m256 s1 = _mm256_broadcast_ss(steps + i / 16 + 1);
        nib_store16(dtype, stream, dst + i * size, _mm256_mul_ps(v[0], s0),
                    _mm256_mul_ps(v[1], s0));
        nib_store16(dtype, stream, dst + (i + 16) * size, _mm256_mul_ps(v[2], s1),
                    _mm256_mul_ps(v[3], s1));
    }
}

/* A chunk to dst; whether it may be streamed there. */
static void chunk(int dtype, int stream, const uint8_t *codes, const float *steps, int64_t n,
                  uint8_t *dst)
{
    switch (dtype * 2 + stream) {
    case NIB_DT_F32 * 2:      values(NIB_DT_F32, 0, codes, steps, n, dst); break;
    case NIB_DT_F32 * 2 + 1:  values(NIB_DT_F32, 1, codes, steps, n, dst); break;
    case NIB_DT_F16 * 2:      values(NIB_DT_F16, 0, codes, steps, n, dst); break;
    case NIB_DT_F16 * 2 + 1:  values(NIB_DT_F16, 1, codes, steps, n, dst); break;
    case NIB_DT_BF16 * 2:     values(NIB_DT_BF16, 0, codes, steps, n, dst); break;
    case NIB_DT_BF16 * 2 + 1: values(NIB_DT_BF16, 1, codes, steps, n, dst); break;
    default: break;
    }
}

/* blocks from k on, n elements of them inside the row. steps NULL: not all are finite. */
static void chunk_of_row(const nib_dequantize_job *job, int64_t row, int64_t k, int64_t blocks,
                         int64_t n, const float *steps, int stream)
{
    const int dtype = (int)job->dst->dtype;
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2, col = k * job->block, whole = n / 32 * 32;
    const uint8_t *codes = job->src->codes + row * job->src->ld_codes_bytes + col / 2;
    uint8_t *out = (uint8_t *)job->dst->data + (row * job->dst->ld_elems + col) * size;

    if (!steps) {
        nib_dequantize_span_portable(job, row, k, k + blocks);
        return;
    }
    chunk(dtype, stream, codes, steps, whole, out);
    if (n > whole) { /* the row's last elements, of one or two blocks */
        uint8_t packed[16] = { 0 }, tail[32 * 4];
        memcpy(packed, codes + whole / 2, (size_t)((n - whole + 1) / 2));
        chunk(dtype, 0, packed, steps + whole / 16, 32, tail);
        memcpy(out + whole * size, tail, (size_t)((n - whole) * size));
    }
}

static void dequantize_span(const nib_dequantize_job *job, int64_t row, int64_t first,
                            int64_t last)
{
    const nib_packed *src = job->src;
    const int dtype = (int)job->dst->dtype, block = job->block;
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2, per_chunk = CHUNK / block;
    const uint8_t *out = (const uint8_t *)job->dst->data + row * job->dst->ld_elems * size;
    const int stream = src->rows * src->cols * size >= NIB_STREAM_BYTES && (uintptr_t)out % 32 == 0;
    float steps[CHUNK / 16];

    for (int64_t k = first; k < last; k += per_chunk) {
        const int64_t blocks = last - k < per_chunk ? last - k : per_chunk, col = k * block;
        const int64_t n = src->cols - col < blocks * block ? src->cols - col : blocks * block;
        const int finite = nib_steps_of_row(job, row, k, blocks, steps);
        chunk_of_row(job, row, k, blocks, n, finite ? steps : NULL, stream);
    }
}

/* Once for each thread: after every row of 4096 it cost a fifth of the rate. */
static void fence(void) { _mm_sfence(); }

nib_status nib_dequantize_avx2(const nib_launch *launch, const nib_packed *src,
                               const nib_matrix *dst)
{
    return nib_has_values32(src)
         ? nib_dequantize_run(launch, src, dst, dequantize_span, fence)
         : nib_dequantize_run(launch, src, dst, nib_dequantize_span_portable, NULL);
}

#endif
