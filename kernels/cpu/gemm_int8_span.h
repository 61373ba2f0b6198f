/* gemm_int8_span.h: products of activations of 8 bits. A part of gemm_span.h.
 *
 * The instructions multiply unsigned by signed bytes. So weights become bytes e + 12 = 0 .. 24; the
 * 16 columns of a step then sum up in integers, and base takes the 12 off again. With PANEL_SIGNED
 * those of a panel stay e, activations become q + 128, and an offset of the weights takes the 128
 * off: it serves all tokens, and AVX2's instruction reads signed bytes from memory as it goes. */
#ifndef NIB_GEMM_INT8_SPAN_H
#define NIB_GEMM_INT8_SPAN_H

/* acc + 16 columns' products, whose integers sum up to dot. */
INLINE vf add16(vf acc, vf dot, const nib_gemm_q16 *q, vf scale)
{
    return vf_fma(vf_mul(dot, vf_set(q->step)), scale, acc);
}

INLINE void bytes16(const strip *s, int64_t tile, int block, vb out[4])
{
    bytes_of(vc_load(s, tile * 128, 2 * block), out);
    bytes_of(vc_load(s, tile * 128, 2 * block + 1), out + 2);
}

INLINE void rows_int8_strip(const nib_gemm_job *job, const strip *s, int tokens,
                            const nib_gemm_q16 *q, float *sums)
{
    vf    acc[ROWS_TOKENS];
    ahead next = ahead_of(job, s, 1);
    UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = vf_zero();
    for (int64_t tile = 0; tile < job->padded / 32; tile++) {
        vf scale[2];
        ahead_step(&next, LANES / 8);
        tile_scales(job, s, tile, scale);
        UNROLL
        for (int b = 0; b < 2; b++, q += tokens) {
            vb w[4];
            bytes16(s, tile, b, w);
            UNROLL
            for (int t = 0; t < tokens; t++)
                acc[t] = add16(acc[t], dot16(q[t].base, w, q[t].q), q + t, scale[b]);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) vf_store(sums + t * TASK, acc[t]);
}

static void rows_int8(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch)
{
    const int64_t count = task_rows(job, first);
    strip     s[TASK_STRIPS];
    float     sums[ROWS_TOKENS * TASK];
    const int strips = strips_of(job, first, count, s);
    (void)scratch;
    for (int64_t g = 0; g * job->width < job->m; g++) {
        const int64_t tokens = group_tokens(job, g);
        const nib_gemm_q16 *q = job->q + g * job->width * (job->padded / 16);
        for (int i = 0; i < strips; i++) {
            switch (tokens) {
            case 1: rows_int8_strip(job, s + i, 1, q, sums + i * LANES); break;
            case 2: rows_int8_strip(job, s + i, 2, q, sums + i * LANES); break;
#if ROWS_TOKENS == 4
            case 3: rows_int8_strip(job, s + i, 3, q, sums + i * LANES); break;
            case 4: rows_int8_strip(job, s + i, 4, q, sums + i * LANES); break;
#endif
            default: break;
            }
        }
        for (int64_t t = 0; t < tokens; t++)
            finish(job, g * job->width + t, first, count, sums + t * TASK);
    }
}

/* ---- a panel ----
 *
 *   bytes    [part of BYTES_ROWS rows][16 columns][vector 0..3][strip of the part]
 *   scales   [part][16 columns][strip]
 *   offsets  likewise, with PANEL_SIGNED */

typedef struct bytes_panel {
    uint8_t *bytes;
    int32_t *offsets;
    float   *scales;
} bytes_panel;

/* Where strip i begins in a panel of depth columns. */
INLINE bytes_panel panel_at(nib_gemm_scratch *scratch, int64_t depth, int64_t i)
{
    const int64_t part = i / BYTES_STRIPS, lane = i % BYTES_STRIPS * LANES;
    const int64_t step = part * BYTES_ROWS * (depth / 16) + lane;
    return (bytes_panel){ scratch->panel.int8.bytes + part * BYTES_ROWS * depth + lane * 4,
                          scratch->panel.int8.offsets + step,
                          scratch->panel.int8.scales + step };
}

INLINE vf panel_dot(const nib_gemm_q16 *q, const vb w[4], const int32_t *offsets)
{
#if PANEL_SIGNED
    return dot16_signed(vb_load((const uint8_t *)offsets), w, q->q);
#else
    (void)offsets;
    return dot16(q->base, w, q->q);
#endif
}

INLINE void bytes_tokens(bytes_panel p, const nib_gemm_q16 *q, int64_t blocks, int tokens,
                         int is_first, float *sums)
{
    vf acc[BYTES_TOKENS][BYTES_STRIPS];
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < BYTES_STRIPS; r++)
            acc[t][r] = is_first ? vf_zero() : vf_load(sums + t * TASK + r * LANES);
    }
    for (int64_t b = 0; b < blocks; b++, q += tokens) {
        vb w[BYTES_STRIPS][4];
        vf scale[BYTES_STRIPS];
        UNROLL
        for (int r = 0; r < BYTES_STRIPS; r++) {
            scale[r] = vf_load(p.scales + (b * BYTES_STRIPS + r) * LANES);
            UNROLL
            for (int v = 0; v < 4; v++)
                w[r][v] = vb_load(p.bytes + ((b * 4 + v) * BYTES_STRIPS + r) * LANES * 4);
        }
        UNROLL
        for (int t = 0; t < tokens; t++) {
            UNROLL
            for (int r = 0; r < BYTES_STRIPS; r++)
                acc[t][r] = add16(acc[t][r],
                                  panel_dot(q + t, w[r],
                                            p.offsets + (b * BYTES_STRIPS + r) * LANES),
                                  q + t, scale[r]);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < BYTES_STRIPS; r++) vf_store(sums + t * TASK + r * LANES, acc[t][r]);
    }
}

static void bytes_part(bytes_panel p, const nib_gemm_q16 *q, int64_t blocks, int64_t tokens,
                       int is_first, float *sums)
{
    switch (tokens) {
    case 1: bytes_tokens(p, q, blocks, 1, is_first, sums); break;
    case 2: bytes_tokens(p, q, blocks, 2, is_first, sums); break;
    case 3: bytes_tokens(p, q, blocks, 3, is_first, sums); break;
#if BYTES_TOKENS >= 4
    case 4: bytes_tokens(p, q, blocks, 4, is_first, sums); break;
#endif
#if BYTES_TOKENS == 8
    case 5: bytes_tokens(p, q, blocks, 5, is_first, sums); break;
    case 6: bytes_tokens(p, q, blocks, 6, is_first, sums); break;
    case 7: bytes_tokens(p, q, blocks, 7, is_first, sums); break;
    case 8: bytes_tokens(p, q, blocks, 8, is_first, sums); break;
#endif
    default: break;
    }
}

static void decode_bytes(const nib_gemm_job *job, const strip *s, int64_t k, int64_t depth,
                         bytes_panel to)
{
    for (int64_t tile = k / 32; tile < (k + depth) / 32; tile++) {
        vf scale[2];
        decode_ahead(s, tile + depth / 32);
        tile_scales(job, s, tile, scale);
        UNROLL
        for (int b = 0; b < 2; b++) {
            vb w[4];
            bytes16(s, tile, b, w);
#if PANEL_SIGNED
            vb_store((uint8_t *)to.offsets, signed16(w));
            to.offsets += BYTES_ROWS;
#endif
            UNROLL
            for (int v = 0; v < 4; v++, to.bytes += BYTES_ROWS * 4) vb_store(to.bytes, w[v]);
            vf_store(to.scales, scale[b]);
            to.scales += BYTES_ROWS;
        }
    }
}

static void multiply_bytes(const nib_gemm_job *job, int parts, int64_t g0, int64_t end, int64_t k,
                           int64_t depth, nib_gemm_scratch *scratch)
{
    for (int p = 0; p < parts; p++) {
        for (int64_t g = g0; g < end; g++) {
            const int64_t tokens = group_tokens(job, g);
            bytes_part(panel_at(scratch, depth, p * BYTES_STRIPS),
                       job->q + g * job->width * (job->padded / 16) + k / 16 * tokens, depth / 16,
                       tokens, k == 0, scratch->sums + (g - g0) * job->width * TASK
                                       + p * BYTES_ROWS);
        }
    }
}

static void panel_int8(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch)
{
    const int64_t count = task_rows(job, first);
    strip     s[TASK_STRIPS];
    const int strips = strips_of(job, first, count, s);
    const int parts = (strips + BYTES_STRIPS - 1) / BYTES_STRIPS;
    for (int64_t g = 0, end; g * job->width < job->m; g = end) {
        end = groups_end(job, g);
        for (int64_t k = 0; k < job->padded; k += BYTES_DEPTH) {
            const int64_t depth = job->padded - k < BYTES_DEPTH ? job->padded - k : BYTES_DEPTH;
            for (int i = 0; i < parts * BYTES_STRIPS; i++)
                decode_bytes(job, &s[i], k, depth, panel_at(scratch, depth, i));
            multiply_bytes(job, parts, g, end, k, depth, scratch);
        }
        finish_groups(job, first, count, g, end, scratch);
    }
}

#endif
