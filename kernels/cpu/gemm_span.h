/* gemm_span.h: products with packed weights over an instruction set's vectors, of which each lane
 * is a row of weights. Compiled for each set by a file that defines before:
 *
 *   LANES                        4 bytes of codes and an f32 each; 8 or 16: 1 or 2 rows of tiles
 *   ROWS_STRIPS, ROWS_TOKENS     vectors of rows x tokens in registers, straight from codes
 *   ROWS_OWN                     whether that file has rows_some itself
 *   PANEL_STRIPS, PANEL_TOKENS   from a panel of f32
 *   BYTES_STRIPS, BYTES_TOKENS   from a panel of bytes, of BYTES_DEPTH columns at most
 *   PANEL_SIGNED                 whether those are signed: gemm_int8_span.h
 *   vf, vb, vc                   LANES f32; LANES x 4 bytes; codes as loaded
 *
 * and after the functions that are declared below; gemm_portable.c has them in plain C. */
#ifndef NIB_GEMM_SPAN_H
#define NIB_GEMM_SPAN_H

/* Of loops over registers, which arrays of vectors become only then. Sanitizers' checks of all that
 * code would take minutes to compile. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

/* LANES packed rows: where their codes and scales begin. next: from one row of tiles to another. */
typedef struct strip {
    const uint8_t *codes, *scales;
    int64_t        codes_next, scales_next;
} strip;

INLINE vf     vf_zero(void);
INLINE vf     vf_load(const float *p);
INLINE void   vf_store(float *p, vf x);
INLINE vf     vf_set(float x);
INLINE vf     vf_mul(vf a, vf b);
INLINE vf     vf_fma(vf a, vf b, vf c); /* a * b + c */
/* Vector v of the tile that begins offset bytes into the strip. */
INLINE vc     vc_load(const strip *s, int64_t offset, int v);
/* nib_gemm_job's s of the rows, of a block whose bytes begin offset into the strip's scales. */
INLINE vf     scales_of(const strip *s, int64_t offset, int e4m3);
/* e of columns 4 * half .. of a vector. */
INLINE void   values4(vc codes, int half, vf out[4]);
/* e + 12 as bytes: columns 0..3, 4..7 of a vector. */
INLINE void   bytes_of(vc codes, vb out[2]);
INLINE vb     vb_load(const uint8_t *p);
INLINE void   vb_store(uint8_t *p, vb x);
/* base + the sum of 16 columns' products, as f32. */
INLINE vf     dot16(int32_t base, const vb w[4], const int8_t *q);
#if PANEL_SIGNED
/* e of e + 12, in place; returns -128 times the sum of 16 columns' e. */
INLINE vb     signed16(vb w[4]);
/* dot16 of e and of q + 128. */
INLINE vf     dot16_signed(vb offset, const vb w[4], const int8_t *q);
#endif
/* e of columns c .. c + LANES - 1 of row r of a tile. */
INLINE vf     columns_of(const uint8_t *tile, int r, int c);
/* The largest nib_magnitude_bits of 16; multiples of 1 / factor, nearest even, of up * x, and their
 * sum. Of NaN and Inf anything. */
INLINE uint32_t top16(const float *x);
INLINE int32_t  round16(const float *x, float up, float factor, int8_t *q);
/* 8 elements, to and from f32. */
INLINE void   load8(int dtype, const void *src, int64_t at, float *dst);
INLINE void   store8(int dtype, void *dst, int64_t at, const float *src);

enum { PANEL_ROWS = PANEL_STRIPS * LANES, BYTES_ROWS = BYTES_STRIPS * LANES,
       TASK_STRIPS = NIB_GEMM_TASK_ROWS / LANES, TASK = NIB_GEMM_TASK_ROWS };

/* ---- activations ---- */

static void load(int dtype, const void *src, int64_t n, float *dst)
{
    for (int64_t i = 0; i < n; i += 8) load8(dtype, src, i, dst + i);
}

/* A block with Inf or NaN has the step NaN, so that all of its row's sums become it. Multiplied by
 * 2^64, a small amax has a reciprocal. */
INLINE void quantize16(const float *x, int unsigned_q, nib_gemm_q16 *to)
{
    const uint32_t top = top16(x);
    const float    amax = nib_float_of(top), up = amax < 0x1p-60f ? 0x1p64f : 1.0f;
    const int      finite = top < NIB_F32_INF_BITS;
    const int32_t  sum = round16(x, up, top ? 127.0f / (amax * up) : 0.0f, to->q);
    to->step = finite ? amax / 127.0f : nib_float_of(NIB_F32_NAN_BITS);
    to->base = finite ? -12 * sum : 0;
    for (int i = 0; i < 16 && unsigned_q; i++) to->q[i] ^= -128;
}

INLINE int64_t group_tokens(const nib_gemm_job *job, int64_t group)
{
    const int64_t left = job->m - group * job->width;
    return left < job->width ? left : job->width;
}

/* Columns k .. k + 15 of a token, zeros past the last. */
INLINE void load16(const nib_gemm_job *job, int dtype, const uint8_t *row, int64_t k, float *v)
{
    for (int h = 0; h < 16; h += 8) {
        const int64_t at = k + h;
        if (at >= job->depth) memset(v + h, 0, 8 * sizeof *v);
        else load8(dtype, row, job->backward ? nib_gemm_source_row(job->w->gated, job->depth, at)
                                             : at, v + h);
    }
}

INLINE void prepare_as(const nib_gemm_job *job, int dtype, int64_t group, int64_t from, int64_t to)
{
    const nib_matrix *a = job->request->a;
    const int64_t tokens = group_tokens(job, group), size = dtype == NIB_DT_F32 ? 4 : 2;
    for (int64_t t = 0; t < tokens; t++) {
        const uint8_t *row = (const uint8_t *)a->data
                           + (group * job->width + t) * a->ld_elems * size;
        for (int64_t k = from; k < to; k += 16) {
            float v[16];
            load16(job, dtype, row, k, v);
            if (job->int8) {
                quantize16(v, job->unsigned_q,
                           job->q + group * job->width * (job->padded / 16) + k / 16 * tokens + t);
                continue;
            }
            float *x = job->x + group * job->width * job->padded + k * tokens + t;
            UNROLL
            for (int i = 0; i < 16; i++) x[i * tokens] = v[i];
        }
    }
}

static void prepare(const nib_gemm_job *job, int64_t group, int64_t from, int64_t to)
{
    switch ((int)job->request->a->dtype) {
    case NIB_DT_F32: prepare_as(job, NIB_DT_F32, group, from, to); break;
    case NIB_DT_F16: prepare_as(job, NIB_DT_F16, group, from, to); break;
    default:         prepare_as(job, NIB_DT_BF16, group, from, to); break;
    }
}

/* ---- the end of a product ---- */

INLINE void act8(int act, float *x)
{
    for (int i = 0; i < 8; i++) {
        const float v = x[i];
        switch (act) {
        case NIB_GEMM_ACT_RELU: x[i] = v < 0.0f ? 0.0f : v; break;
        case NIB_GEMM_ACT_GELU:
            x[i] = 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
            break;
        case NIB_GEMM_ACT_GELU_TANH:
            x[i] = 0.5f * v * (1.0f + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
            break;
        case NIB_GEMM_ACT_SILU: x[i] = v / (1.0f + expf(-v)); break;
        default: break;
        }
    }
}

/* 8 sums to y; column: of the source, for bias. */
INLINE void scaled8(const nib_gemm_job *job, const float *sums, int64_t column, float *y)
{
    for (int i = 0; i < 8; i++) y[i] = job->factor * sums[i] * job->scale;
    if (!job->bias) return;
    for (int i = 0; i < 8; i++) y[i] += job->bias[column + i];
}

/* A token's sums of outputs first .. first + count - 1 to its row of D. */
static void finish(const nib_gemm_job *job, int64_t token, int64_t first, int64_t count,
                   const float *sums)
{
    const nib_gemm_request *r = job->request;
    const int     dtype = (int)r->d->dtype, act = (int)r->options->act;
    const int     gated = job->w->gated && !job->backward;
    const int64_t size = dtype == NIB_DT_F32 ? 4 : 2;
    uint8_t *row = (uint8_t *)r->d->data + token * r->d->ld_elems * size;
    const uint8_t *residual = !r->residual ? NULL : (const uint8_t *)r->residual->data
                                                  + token * r->residual->ld_elems * size;
    for (int64_t i = 0; i < count; i += gated ? 16 : 8) {
        const int64_t column = gated ? (first + i) / 2 : first + i;
        float y[8], other[8];
        scaled8(job, sums + i, column, y);
        if (act != NIB_GEMM_ACT_NONE && !job->backward) act8(act, y);
        if (gated) {
            scaled8(job, sums + i + 8, job->w->n / 2 + column, other);
            for (int j = 0; j < 8; j++) y[j] *= other[j];
        }
        if (residual) {
            load8(dtype, residual, column, other);
            for (int j = 0; j < 8; j++) y[j] += other[j];
        }
        store8(dtype, row, column, y);
    }
}

/* ---- weights ---- */

INLINE strip strip_at(const nib_gemm_job *job, int64_t row)
{
    const nib_gemm_weights *w = job->w;
    const int64_t tile = row / 8 * w->ld_tiles, each = 256 / job->block;
    const int     more = LANES == 16 && row + 8 < w->n; /* else the same rows again, not used */
    const strip s = { w->codes + tile * 128, w->scales + tile * each, more ? w->ld_tiles * 128 : 0,
                      more ? w->ld_tiles * each : 0 };
    return s;
}

/* Strips of a task; at the end of the matrix the last one again and again. Returns how many. */
INLINE int strips_of(const nib_gemm_job *job, int64_t first, int64_t count, strip *s)
{
    const int there = (int)nib_ceil_div(count, LANES);
    for (int i = 0; i < TASK_STRIPS; i++) {
        s[i] = strip_at(job, first + (i < there ? i : there - 1) * LANES);
    }
    return there;
}

/* Both blocks' scales of a tile: of 32 columns they are one. */
INLINE void tile_scales(const nib_gemm_job *job, const strip *s, int64_t tile, vf out[2])
{
    const int64_t at = tile * (256 / job->block);
    out[0] = scales_of(s, at, job->e4m3);
    out[1] = job->block == 16 ? scales_of(s, at + 8, job->e4m3) : out[0];
}

/* While tiles are multiplied, as many that follow the rows at hand, in the order in which they lie:
 * one stream of memory, though several rows of tiles are read at a time. 2 KB ahead in each row of
 * tiles instead reached 0.6 of a Zen 5's read bandwidth, not 0.8; into the second cache alone 0.78,
 * not 0.84. */
typedef struct ahead {
    const uint8_t *codes, *scales;
    int64_t        left, tiles, gap; /* tiles to the end of a row, in one, and between two */
    int            each;             /* bytes of a tile's scales */
} ahead;

INLINE ahead ahead_of(const nib_gemm_job *job, const strip *s, int strips)
{
    const int64_t tiles = job->padded / 32, rows = strips * (LANES / 8);
    const int     each = 256 / job->block;
    const ahead   a = { s->codes + rows * job->w->ld_tiles * 128,
                        s->scales + rows * job->w->ld_tiles * each, tiles, tiles,
                        job->w->ld_tiles - tiles, each };
    return a;
}

INLINE void ahead_step(ahead *a, int tiles)
{
    UNROLL
    for (int i = 0; i < tiles; i++) {
        __builtin_prefetch(a->codes, 0, 3);
        __builtin_prefetch(a->codes + 64, 0, 3);
        if (i % 4 == 0) __builtin_prefetch(a->scales, 0, 3);
        a->codes += 128;
        a->scales += a->each;
        if (--a->left > 0) continue;
        a->left = a->tiles;
        a->codes += a->gap * 128;
        a->scales += a->gap * a->each;
    }
}

INLINE int64_t task_rows(const nib_gemm_job *job, int64_t first)
{
    return job->outputs - first < TASK ? job->outputs - first : TASK;
}

/* ---- straight from codes ---- */

#if ROWS_OWN
/* All columns' products of 1 .. ROWS_STRIPS strips with a group's tokens, to sums. */
static void rows_some(const nib_gemm_job *job, const strip *s, int strips, int64_t tokens,
                      const float *x, float *sums);
#else
INLINE void rows_strips(const nib_gemm_job *job, const strip *s, int strips, int tokens,
                        const float *x, float *sums)
{
    vf    acc[ROWS_TOKENS][ROWS_STRIPS];
    ahead next = ahead_of(job, s, strips);
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < strips; r++) acc[t][r] = vf_zero();
    }
    for (int64_t tile = 0; tile < job->padded / 32; tile++, x += 32 * tokens) {
        vf scale[ROWS_STRIPS][2];
        ahead_step(&next, strips * (LANES / 8));
        UNROLL
        for (int r = 0; r < strips; r++) {
            tile_scales(job, &s[r], tile, scale[r]);
        }
        for (int v = 0; v < 4; v++) {
            UNROLL
            for (int r = 0; r < strips; r++) {
                const vc codes = vc_load(&s[r], tile * 128, v);
                UNROLL
                for (int half = 0; half < 2; half++) {
                    vf e[4];
                    values4(codes, half, e);
                    UNROLL
                    for (int c = 0; c < 4; c++) {
                        const vf w = vf_mul(e[c], scale[r][v / 2]);
                        const float *at = x + (8 * v + 4 * half + c) * tokens;
                        UNROLL
                        for (int t = 0; t < tokens; t++)
                            acc[t][r] = vf_fma(vf_set(at[t]), w, acc[t][r]);
                    }
                }
            }
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < strips; r++) vf_store(sums + t * TASK + r * LANES, acc[t][r]);
    }
}

static void rows_some(const nib_gemm_job *job, const strip *s, int strips, int64_t tokens,
                      const float *x, float *sums)
{
    if (strips == ROWS_STRIPS) {
        switch (tokens) {
        case 1: rows_strips(job, s, ROWS_STRIPS, 1, x, sums); break;
        case 2: rows_strips(job, s, ROWS_STRIPS, 2, x, sums); break;
#if ROWS_TOKENS == 4
        case 3: rows_strips(job, s, ROWS_STRIPS, 3, x, sums); break;
        case 4: rows_strips(job, s, ROWS_STRIPS, 4, x, sums); break;
#endif
        default: break;
        }
        return;
    }
    for (int r = 0; r < strips; r++) {
        switch (tokens) {
        case 1: rows_strips(job, s + r, 1, 1, x, sums + r * LANES); break;
        case 2: rows_strips(job, s + r, 1, 2, x, sums + r * LANES); break;
#if ROWS_TOKENS == 4
        case 3: rows_strips(job, s + r, 1, 3, x, sums + r * LANES); break;
        case 4: rows_strips(job, s + r, 1, 4, x, sums + r * LANES); break;
#endif
        default: break;
        }
    }
}
#endif

static void rows(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch)
{
    const int64_t count = task_rows(job, first);
    strip     s[TASK_STRIPS];
    float     sums[ROWS_TOKENS * TASK];
    const int strips = strips_of(job, first, count, s);
    (void)scratch;
    for (int64_t g = 0; g * job->width < job->m; g++) {
        const int64_t tokens = group_tokens(job, g);
        const float  *x = job->x + g * job->width * job->padded;
        for (int i = 0; i < strips; i += ROWS_STRIPS)
            rows_some(job, s + i, strips - i < ROWS_STRIPS ? strips - i : ROWS_STRIPS, tokens, x,
                      sums + i * LANES);
        for (int64_t t = 0; t < tokens; t++)
            finish(job, g * job->width + t, first, count, sums + t * TASK);
    }
}

#include "gemm_panel_span.h"
#include "gemm_int8_span.h"

static const nib_gemm_kernels kernels = {
    .rows_tokens = ROWS_TOKENS,
    .panel_tokens = PANEL_TOKENS,
    .int8_tokens = BYTES_TOKENS,
    .panel_signed = PANEL_SIGNED,
    .load = load,
    .prepare = prepare,
    .rows = rows,
    .panel = panel,
    .rows_int8 = rows_int8,
    .panel_int8 = panel_int8,
    .backward = backward,
};

#endif
