/* gemm_avx2.c: gemm_span.h over the 8 lanes of AVX2. */
#include <math.h>

#include "gemm_cpu.h"

#if defined(__x86_64__)

#include "load8_avx2.h"

#define LANES 8
#define ROWS_STRIPS 4
#define ROWS_TOKENS 4
#define ROWS_OWN 1
#define PANEL_STRIPS 2
#define PANEL_TOKENS 6
#define BYTES_STRIPS 2
#define BYTES_TOKENS 3
#define BYTES_DEPTH 512
#define PANEL_SIGNED 1

typedef __m256  vf;
typedef __m256i vb;
typedef __m256i vc;

#include "gemm_span.h"

INLINE vf   vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vf   vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
INLINE vf   vf_set(float x) { return _mm256_set1_ps(x); }
INLINE vf   vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf   vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE void vb_store(uint8_t *p, vb x) { _mm256_storeu_si256((__m256i *)(void *)p, x); }

INLINE vb vb_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

INLINE vc vc_load(const strip *s, int64_t offset, int v)
{
    return vb_load(s->codes + offset + 32 * v);
}

INLINE vf scales_of(const strip *s, int64_t offset, int e4m3)
{
    const __m128i byte = _mm_loadl_epi64((const __m128i *)(const void *)(s->scales + offset));
    if (e4m3) /* S0E5M3 is the upper byte of an f16 but for its sign */
        return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(byte), 7));
    const __m256i e = _mm256_cvtepu8_epi32(byte);
    const __m256i nan = _mm256_cmpeq_epi32(e, _mm256_set1_epi32((int)NIB_E8M0_NAN));
    const __m256i bits = _mm256_max_epi32(_mm256_slli_epi32(e, 23), _mm256_set1_epi32(1 << 22));
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(bits, nan)),
                         _mm256_set1_ps(0x1p-4f));
}

/* e of 16 codes, for byte shuffles. */
INLINE __m256i doubled(int plus)
{
    const __m128i e = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    return _mm256_broadcastsi128_si256(_mm_add_epi8(e, _mm_set1_epi8((char)plus)));
}

INLINE __m256i nibbles(vc codes, int half)
{
    return _mm256_and_si256(half ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
}

INLINE void values4(vc codes, int half, vf out[4])
{
    const __m256i e = _mm256_shuffle_epi8(doubled(0), nibbles(codes, half));
    out[0] = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(e, 24), 24));
    out[1] = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(e, 16), 24));
    out[2] = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(e, 8), 24));
    out[3] = _mm256_cvtepi32_ps(_mm256_srai_epi32(e, 24));
}

INLINE void bytes_of(vc codes, vb out[2])
{
    out[0] = _mm256_shuffle_epi8(doubled(12), nibbles(codes, 0));
    out[1] = _mm256_shuffle_epi8(doubled(12), nibbles(codes, 1));
}

INLINE __m256i pairs(vb w, const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_maddubs_epi16(w, _mm256_set1_epi32(four));
}

/* At most 8 * 24 * 127 in 16 bits. */
INLINE vf dot16(int32_t base, const vb w[4], const int8_t *q)
{
    const __m256i a = _mm256_add_epi16(pairs(w[0], q), pairs(w[1], q + 4));
    const __m256i b = _mm256_add_epi16(pairs(w[2], q + 8), pairs(w[3], q + 12));
    const __m256i sum = _mm256_madd_epi16(_mm256_add_epi16(a, b), _mm256_set1_epi16(1));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(sum, _mm256_set1_epi32(base)));
}

INLINE vb signed16(vb w[4])
{
    __m256i sum = _mm256_setzero_si256();
    UNROLL
    for (int v = 0; v < 4; v++) {
        w[v] = _mm256_sub_epi8(w[v], _mm256_set1_epi8(12));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(1), w[v]));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(-128));
}

INLINE __m256i unsigned_pairs(const int8_t *q, vb e)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_maddubs_epi16(_mm256_set1_epi32(four), e);
}

/* At most 8 * 255 * 12 in 16 bits. */
INLINE vf dot16_signed(vb offset, const vb w[4], const int8_t *q)
{
    const __m256i a = _mm256_add_epi16(unsigned_pairs(q, w[0]), unsigned_pairs(q + 4, w[1]));
    const __m256i b = _mm256_add_epi16(unsigned_pairs(q + 8, w[2]), unsigned_pairs(q + 12, w[3]));
    const __m256i sum = _mm256_madd_epi16(_mm256_add_epi16(a, b), _mm256_set1_epi16(1));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(sum, offset));
}

/* Lane i takes byte i % 4 of the row's 4, the lower half of it for i < 4. */
INLINE vf columns_of(const uint8_t *tile, int r, int c)
{
    int32_t four;
    memcpy(&four, tile + 4 * c + 4 * r, sizeof four);
    const __m256i up = _mm256_setr_epi32(28, 20, 12, 4, 24, 16, 8, 0);
    const __m256i code = _mm256_srli_epi32(_mm256_sllv_epi32(_mm256_set1_epi32(four), up), 28);
    const __m256i e = _mm256_shuffle_epi8(doubled(0), code); /* upper bytes: code 0 */
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(e, 24), 24));
}

INLINE uint32_t top16(const float *x)
{
    const __m256i all = _mm256_set1_epi32(0x7fffffff);
    const __m256i a = _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x)), all);
    const __m256i b = _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + 8)), all);
    const __m256i c = _mm256_max_epi32(a, b);
    __m128i d = _mm_max_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
    d = _mm_max_epi32(d, _mm_shuffle_epi32(d, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(d, _mm_shuffle_epi32(d, 0xb1)));
}

INLINE __m256i round8(const float *x, float up, float factor)
{
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(up));
    return _mm256_cvtps_epi32(_mm256_mul_ps(scaled, _mm256_set1_ps(factor)));
}

INLINE int32_t round16(const float *x, float up, float factor, int8_t *q)
{
    const __m256i a = round8(x, up, factor), b = round8(x + 8, up, factor);
    const __m256i words = _mm256_packs_epi32(a, b); /* a0 b0 a1 b1, each of 4 */
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words, words),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
    _mm_storeu_si128((__m128i *)(void *)q, _mm256_castsi256_si128(bytes));
    const __m256i c = _mm256_add_epi32(a, b);
    __m128i d = _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
    d = _mm_add_epi32(d, _mm_shuffle_epi32(d, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(d, _mm_shuffle_epi32(d, 0xb1)));
}

#include "gemm_rows_avx2.h"

nib_status nib_gemm_avx2(const nib_launch *launch, const nib_gemm_request *request)
{
    return nib_gemm_run(launch, request, &kernels);
}

nib_status nib_gemm_backward_avx2(const nib_launch *launch, const nib_gemm_request *request)
{
    return nib_gemm_backward_run(launch, request, &kernels);
}

#endif
