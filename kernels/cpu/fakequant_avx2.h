/* fakequant_avx2.h: what fake-quantize's passes share of a chunk: its steps, and what passes. */
#ifndef NIB_FAKEQUANT_AVX2_H
#define NIB_FAKEQUANT_AVX2_H

#include "chunk_avx2.h"
#include "fakequant_span.h"

static inline int passes8(__m256 magnitude, __m256 limit)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(magnitude, limit, _CMP_LE_OQ));
}

/* One step for each 16 elements. Blocks whose step is not finite join those to be done again. */
static inline void chunk_steps(const nib_fake_job *job, int block, int groups, chunk_out *out,
                               float *steps)
{
    for (int g = 0; g < groups; g++) {
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)(out->scales + g * GROUP));
        const __m256 s = nib_block_steps8(job->quantize.math.rules.e4m3_scale,
                                          _mm256_cvtepu8_epi32(bytes), job->decode);
        const __m256 odd = _mm256_cmp_ps(s, _mm256_set1_ps(NIB_F32_MAX), _CMP_NLE_UQ);
        out->again |= (uint64_t)(uint32_t)_mm256_movemask_ps(odd) << g * GROUP;
        store_each16(block, g, s, steps);
    }
}

#endif
