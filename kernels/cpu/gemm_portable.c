/* gemm_portable.c: gemm_span.h in plain C: 8 lanes are an array, which turns into vectors. */
#include <math.h>

#include "gemm_cpu.h"
#include "kernels/common/half.h"

#define LANES 8
#define ROWS_STRIPS 1
#define ROWS_TOKENS 4
#define ROWS_OWN 0
#define PANEL_STRIPS 1
#define PANEL_TOKENS 4
#define BYTES_STRIPS 1
#define BYTES_TOKENS 4
#define BYTES_DEPTH 256
#define PANEL_SIGNED 0

typedef struct vf { float f[8]; } vf;
typedef struct vb { uint8_t b[32]; } vb;
typedef struct vb vc;

#include "gemm_span.h"

INLINE vf vf_zero(void)
{
    const vf x = { { 0 } };
    return x;
}

INLINE vf vf_load(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE void vf_store(float *p, vf x) { memcpy(p, &x, sizeof x); }

INLINE vf vf_set(float x)
{
    vf y;
    for (int i = 0; i < 8; i++) y.f[i] = x;
    return y;
}

INLINE vf vf_mul(vf a, vf b)
{
    for (int i = 0; i < 8; i++) a.f[i] *= b.f[i];
    return a;
}

INLINE vf vf_fma(vf a, vf b, vf c)
{
    for (int i = 0; i < 8; i++) c.f[i] += a.f[i] * b.f[i];
    return c;
}

INLINE vb vb_load(const uint8_t *p)
{
    vb x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE void vb_store(uint8_t *p, vb x) { memcpy(p, &x, sizeof x); }

INLINE vc vc_load(const strip *s, int64_t offset, int v)
{
    return vb_load(s->codes + offset + 32 * v);
}

INLINE vf scales_of(const strip *s, int64_t offset, int e4m3)
{
    vf out;
    for (int r = 0; r < 8; r++) {
        const uint32_t byte = s->scales[offset + r];
        out.f[r] = e4m3 ? nib_gemm_s0e5m3_to_f32(byte) : nib_e8m0_to_f32(byte) * 0x1p-4f;
    }
    return out;
}

/* e of a code, without a table, so that loops become vectors: 0 1 2 3 4 6 8 12 and negative. */
INLINE int32_t doubled(int32_t code)
{
    const int32_t m = code & 7, sign = -(code >> 3 & 1);
    const int32_t e = m + (m > 4 ? m - 4 : 0) + (m == 7 ? 2 : 0);
    return (e ^ sign) - sign;
}

INLINE uint8_t byte_of(uint8_t code)
{
    const uint8_t m = code & 7, past = (uint8_t)(m > 4 ? m - 4 : 0);
    const uint8_t e = (uint8_t)(m + past + (m == 7 ? 2 : 0));
    return (uint8_t)(code & 8 ? 12 - e : 12 + e);
}

INLINE void values4(vc codes, int half, vf out[4])
{
    uint32_t rows[8];
    memcpy(rows, &codes, sizeof rows); /* byte 0 is the lowest: x86-64 and aarch64 */
    for (int c = 0; c < 4; c++) {
        for (int r = 0; r < 8; r++)
            out[c].f[r] = (float)doubled((int32_t)(rows[r] >> (8 * c + 4 * half) & 15));
    }
}

INLINE void bytes_of(vc codes, vb out[2])
{
    for (int i = 0; i < 32; i++) out[0].b[i] = byte_of(codes.b[i] & 15);
    for (int i = 0; i < 32; i++) out[1].b[i] = byte_of(codes.b[i] >> 4);
}

/* a and b in the two halves of every 32 bits. */
INLINE void spread(int8_t a, int8_t b, int16_t out[16])
{
    uint32_t both[8];
    for (int r = 0; r < 8; r++) both[r] = (uint16_t)a | (uint32_t)(uint16_t)b << 16;
    memcpy(out, both, sizeof both);
}

/* Pairs of columns in 16 bits, at most 8 * 24 * 127. */
INLINE vf dot16(int32_t base, const vb w[4], const int8_t *q)
{
    int16_t sum[16] = { 0 };
    vf      out;
    UNROLL
    for (int v = 0; v < 4; v++) {
        uint16_t pair[16];
        int16_t  low[16], high[16];
        memcpy(pair, &w[v], sizeof pair);
        spread(q[4 * v], q[4 * v + 2], low);
        spread(q[4 * v + 1], q[4 * v + 3], high);
        for (int i = 0; i < 16; i++)
            sum[i] = (int16_t)(sum[i] + (pair[i] & 255) * low[i] + (pair[i] >> 8) * high[i]);
    }
    int32_t two[8];
    memcpy(two, sum, sizeof two);
    for (int r = 0; r < 8; r++)
        out.f[r] = (float)(base + (int16_t)(two[r] & 0xffff) + (two[r] >> 16));
    return out;
}

INLINE vf columns_of(const uint8_t *tile, int r, int c)
{
    vf out;
    for (int i = 0; i < 8; i++)
        out.f[i] = (float)doubled(tile[4 * c + 4 * r + i % 4] >> i / 4 * 4 & 15);
    return out;
}

INLINE uint32_t top16(const float *x)
{
    uint32_t top = 0;
    for (int i = 0; i < 16; i++) {
        const uint32_t a = nib_magnitude_bits(x[i]);
        top = a > top ? a : top;
    }
    return top;
}

/* Adding 1.5 * 2^23 rounds; the low bits of the sum are the number. */
INLINE int32_t round16(const float *x, float up, float factor, int8_t *q)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        q[i] = (int8_t)(nib_bits_of(x[i] * up * factor + 12582912.0f) & 0xffu);
        sum += q[i];
    }
    return sum;
}

INLINE void load8(int dtype, const void *src, int64_t at, float *dst)
{
    for (int i = 0; i < 8; i++) dst[i] = nib_load_f32(dtype, src, at + i);
}

INLINE void store8(int dtype, void *dst, int64_t at, const float *src)
{
    for (int i = 0; i < 8; i++) nib_store_f32(dtype, dst, at + i, src[i]);
}

nib_status nib_gemm_portable(const nib_launch *launch, const nib_gemm_request *request)
{
    return nib_gemm_run(launch, request, &kernels);
}

nib_status nib_gemm_backward_portable(const nib_launch *launch, const nib_gemm_request *request)
{
    return nib_gemm_backward_run(launch, request, &kernels);
}
