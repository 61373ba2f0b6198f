/* gemm_avx512.c: gemm_span.h over the 16 lanes of AVX-512 with VNNI: two rows of tiles. */
#include <math.h>

#include "gemm_cpu.h"

#if defined(__x86_64__)

#include "load8_avx2.h"

#define LANES 16
#define ROWS_STRIPS 4
#define ROWS_TOKENS 4
#define ROWS_OWN 0
#define PANEL_STRIPS 2
#define PANEL_TOKENS 12
#define BYTES_STRIPS 2
#define BYTES_TOKENS 8
#define BYTES_DEPTH 256
#define PANEL_SIGNED 0

typedef __m512  vf;
typedef __m512i vb;
typedef __m512i vc;

#include "gemm_span.h"

INLINE vf   vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf   vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf   vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vf   vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf   vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vb   vb_load(const uint8_t *p) { return _mm512_loadu_si512((const void *)p); }
INLINE void vb_store(uint8_t *p, vb x) { _mm512_storeu_si512((void *)p, x); }

INLINE vc vc_load(const strip *s, int64_t offset, int v)
{
    const uint8_t *p = s->codes + offset + 32 * v;
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)p)),
        _mm256_loadu_si256((const __m256i *)(const void *)(p + s->codes_next)), 1);
}

INLINE vf scales_of(const strip *s, int64_t offset, int e4m3)
{
    const uint8_t *p = s->scales + offset;
    const __m128i  byte = _mm_unpacklo_epi64(
        _mm_loadl_epi64((const __m128i *)(const void *)p),
        _mm_loadl_epi64((const __m128i *)(const void *)(p + s->scales_next)));
    if (e4m3) /* S0E5M3 is the upper byte of an f16 but for its sign */
        return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(byte), 7));
    const __m512i   e = _mm512_cvtepu8_epi32(byte);
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32((int)NIB_E8M0_NAN));
    const __m512i   bits = _mm512_max_epi32(_mm512_slli_epi32(e, 23), _mm512_set1_epi32(1 << 22));
    return _mm512_mul_ps(
        _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(-1))),
        _mm512_set1_ps(0x1p-4f));
}

/* e of lanes whose lowest 4 bits are codes. */
INLINE vf looked_up(__m512i codes)
{
    const __m512 e = _mm512_setr_ps(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    return _mm512_permutexvar_ps(codes, e);
}

INLINE void values4(vc codes, int half, vf out[4])
{
    out[0] = looked_up(half ? _mm512_srli_epi32(codes, 4) : codes);
    out[1] = looked_up(half ? _mm512_srli_epi32(codes, 12) : _mm512_srli_epi32(codes, 8));
    out[2] = looked_up(half ? _mm512_srli_epi32(codes, 20) : _mm512_srli_epi32(codes, 16));
    out[3] = looked_up(half ? _mm512_srli_epi32(codes, 28) : _mm512_srli_epi32(codes, 24));
}

INLINE void bytes_of(vc codes, vb out[2])
{
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const __m512i low = _mm512_set1_epi8(15);
    out[0] = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, low));
    out[1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), low));
}

INLINE __m512i four_of(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

INLINE vf dot16(int32_t base, const vb w[4], const int8_t *q)
{
    __m512i sum = _mm512_set1_epi32(base);
    UNROLL
    for (int v = 0; v < 4; v++) sum = _mm512_dpbusd_epi32(sum, w[v], four_of(q + 4 * v));
    return _mm512_cvtepi32_ps(sum);
}

/* Lanes 0..7 are columns c .., 8..15 columns c + 8 ..: lane i takes byte i % 4 of its row's 4, the
 * lower half of it for i % 8 < 4. */
INLINE vf columns_of(const uint8_t *tile, int r, int c)
{
    int32_t four, next;
    memcpy(&four, tile + 4 * c + 4 * r, sizeof four);
    memcpy(&next, tile + 4 * c + 4 * r + 32, sizeof next);
    const __m512i both = _mm512_mask_set1_epi32(_mm512_set1_epi32(four), 0xff00, next);
    const __m512i down = _mm512_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28, 0, 8, 16, 24, 4, 12, 20,
                                           28);
    return looked_up(_mm512_srlv_epi32(both, down));
}

/* By halves, as load8 has stored them: one load would wait for both stores to reach the cache. */
INLINE __m512 halves(const float *x)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(x)), _mm256_loadu_ps(x + 8),
                              1);
}

INLINE uint32_t top16(const float *x)
{
    const __m512i a = _mm512_castps_si512(halves(x));
    return (uint32_t)_mm512_reduce_max_epi32(_mm512_and_si512(a, _mm512_set1_epi32(0x7fffffff)));
}

INLINE int32_t round16(const float *x, float up, float factor, int8_t *q)
{
    const __m512  scaled = _mm512_mul_ps(halves(x), _mm512_set1_ps(up));
    const __m512i r = _mm512_cvtps_epi32(_mm512_mul_ps(scaled, _mm512_set1_ps(factor)));
    _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtsepi32_epi8(r));
    return _mm512_reduce_add_epi32(r);
}

nib_status nib_gemm_avx512(const nib_launch *launch, const nib_gemm_request *request)
{
    return nib_gemm_run(launch, request, &kernels);
}

nib_status nib_gemm_backward_avx512(const nib_launch *launch, const nib_gemm_request *request)
{
    return nib_gemm_backward_run(launch, request, &kernels);
}

#endif
