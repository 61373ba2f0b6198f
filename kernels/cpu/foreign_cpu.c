/* foreign_cpu.c: kernels/common's decoders over rows, in loops that compilers vectorise. */
#include "foreign_cpu.h"

#include "kernels/common/foreign.h"

/* gcc 12 vectorises these at -O3 only, and selects of f32 results only when it need not keep
 * exception flags; clang does both at -O2. Neither flag changes a result. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3", "no-trapping-math")
#endif

/* Blocks one after the other. A macro: the decoder must be inlined into its loop. */
#define DECODE(decoder, elems, bytes)                                                    \
    for (int64_t b = 0; b < n / (elems); b++) decoder(src + b * (bytes), dst + b * (elems)); \
    return

void nib_decode_foreign_cpu(int32_t ggml_type, const uint8_t *restrict src, int64_t n,
                            float *restrict dst)
{
    switch (ggml_type) {
    case NIB_GGML_F32:   nib_to_f32_cpu(NIB_F32, src, n, dst); return;
    case NIB_GGML_F16:   nib_to_f32_cpu(NIB_F16, src, n, dst); return;
    case NIB_GGML_BF16:  nib_to_f32_cpu(NIB_BF16, src, n, dst); return;
    case NIB_GGML_Q4_0:  DECODE(nib_decode_q4_0, 32, 18);
    case NIB_GGML_Q4_1:  DECODE(nib_decode_q4_1, 32, 20);
    case NIB_GGML_Q5_0:  DECODE(nib_decode_q5_0, 32, 22);
    case NIB_GGML_Q5_1:  DECODE(nib_decode_q5_1, 32, 24);
    case NIB_GGML_Q8_0:  DECODE(nib_decode_q8_0, 32, 34);
    case NIB_GGML_Q4_K:  DECODE(nib_decode_q4_k, 256, 144);
    case NIB_GGML_Q5_K:  DECODE(nib_decode_q5_k, 256, 176);
    case NIB_GGML_Q6_K:  DECODE(nib_decode_q6_k, 256, 210);
    case NIB_GGML_MXFP4: DECODE(nib_decode_gguf_mxfp4, 32, 17);
    case NIB_GGML_NVFP4: DECODE(nib_decode_gguf_nvfp4, 64, 36);
    }
}

/* ---- halves: half.h's conversions with every branch as a select, which is what vectorises.
 * tests/foreign_test.c compares them on all inputs that matter. ---- */

static inline uint16_t load_u16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

static inline float f16_select(uint32_t h)
{
    const uint32_t a = h & 0x7fffu;
    const uint32_t small = nib_bits_of((float)(int32_t)a * 0x1p-24f);
    const uint32_t normal = (a + (112u << 10)) << 13;
    const uint32_t large = a >= 0x7c00u ? 112u << 23 : 0; /* Inf and NaN: exponent 255 */
    return nib_float_of((a < 0x400u ? small : normal + large) | (h & 0x8000u) << 16);
}

static inline uint16_t f16_from_select(float x)
{
    const uint32_t u = nib_bits_of(x), a = u & 0x7fffffffu;
    const uint32_t small = nib_bits_of(nib_float_of(a) + 0.5f) - 0x3f000000u;
    const uint32_t normal = ((a + 0xfffu + (a >> 13 & 1)) >> 13) - (112u << 10);
    const uint32_t finite = a < 0x38800000u ? small : normal;
    const uint32_t magnitude = a >= 0x477ff000u ? 0x7c00u : finite;
    const uint32_t code = magnitude | (u >> 16 & 0x8000u);
    return (uint16_t)(a > NIB_F32_INF_BITS ? 0x7fffu : code);
}

static inline uint16_t bf16_from_select(float x)
{
    const uint32_t u = nib_bits_of(x), rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > NIB_F32_INF_BITS ? 0x7fffu : rounded);
}

void nib_to_f32_cpu(nib_dtype dtype, const void *src, int64_t n, float *restrict dst)
{
    const uint8_t *restrict p = src;
    switch (dtype) {
    case NIB_F32:
        if (n > 0) memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    case NIB_F16:
        for (int64_t i = 0; i < n; i++) dst[i] = f16_select(load_u16(p + 2 * i));
        return;
    case NIB_BF16:
        for (int64_t i = 0; i < n; i++) dst[i] = nib_bf16_to_f32(load_u16(p + 2 * i));
        return;
    }
}

void nib_from_f32_cpu(nib_dtype dtype, const float *restrict src, int64_t n, void *dst)
{
    uint16_t *restrict halves = dst;
    float *restrict floats = dst;
    switch (dtype) {
    case NIB_F32:
        for (int64_t i = 0; i < n; i++) floats[i] = nib_canonical(src[i]);
        return;
    case NIB_F16:
        for (int64_t i = 0; i < n; i++) halves[i] = f16_from_select(src[i]);
        return;
    case NIB_BF16:
        for (int64_t i = 0; i < n; i++) halves[i] = bf16_from_select(src[i]);
        return;
    }
}

/* n codes (n/2 bytes) from pairs to halves: byte pair (i, i + n/4) gives bytes 2i, 2i + 1. */
static inline void halves_of_pairs(const uint8_t *restrict src, int n, uint8_t *restrict dst)
{
    for (int i = 0; i < n / 4; i++) {
        const uint8_t a = src[i], b = src[i + n / 4];
        dst[2 * i] = (uint8_t)((a & 15) | b << 4);
        dst[2 * i + 1] = (uint8_t)(a >> 4 | (b & 0xf0));
    }
}

void nib_pack_gguf_row_cpu(nib_format format, int64_t cols, const uint8_t *restrict codes,
                           const uint8_t *restrict scales, uint8_t *restrict dst)
{
    if (format == NIB_MXFP4) {
        for (int64_t b = 0; b < cols / 32; b++) {
            dst[17 * b] = scales[b];
            halves_of_pairs(codes + 16 * b, 32, dst + 17 * b + 1);
        }
        return;
    }
    for (int64_t b = 0; b < cols / 64; b++) {
        memcpy(dst + 36 * b, scales + 4 * b, 4);
        for (int s = 0; s < 4; s++) {
            halves_of_pairs(codes + 32 * b + 8 * s, 16, dst + 36 * b + 4 + 8 * s);
        }
    }
}
