/* gemm_int8_span.h: products of activations of 8 bits. A part of gemm_span.h.
 *
 * Weights become bytes e + 12 = 0 .. 24, since the instructions multiply unsigned by signed bytes;
 * the 16 columns of a step then sum up in integers, and base takes the 12 off again. */
#ifndef NIB_GEMM_INT8_SPAN_H
#define NIB_GEMM_INT8_SPAN_H

/* acc + 16 columns' products. */
INLINE vf add16(vf acc, const nib_gemm_q16 *q, const vb w[4], vf scale)
{
    return vf_fma(vf_mul(dot16(q->base, w, q->q), vf_set(q->step)), scale, acc);
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
            for (int t = 0; t < tokens; t++) acc[t] = add16(acc[t], q + t, w, scale[b]);
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
 *   bytes   [part of BYTES_ROWS rows][16 columns][vector 0..3][strip of the part]
 *   scales  [part][16 columns][strip] */

INLINE void bytes_tokens(const uint8_t *bytes, const float *scales, const nib_gemm_q16 *q,
                         int64_t blocks, int tokens, int is_first, float *sums)
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
            scale[r] = vf_load(scales + (b * BYTES_STRIPS + r) * LANES);
            UNROLL
            for (int v = 0; v < 4; v++)
                w[r][v] = vb_load(bytes + ((b * 4 + v) * BYTES_STRIPS + r) * LANES * 4);
        }
        UNROLL
        for (int t = 0; t < tokens; t++) {
            UNROLL
            for (int r = 0; r < BYTES_STRIPS; r++)
                acc[t][r] = add16(acc[t][r], q + t, w[r], scale[r]);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < BYTES_STRIPS; r++) vf_store(sums + t * TASK + r * LANES, acc[t][r]);
    }
}

static void bytes_part(const uint8_t *bytes, const float *scales, const nib_gemm_q16 *q,
                       int64_t blocks, int64_t tokens, int is_first, float *sums)
{
    switch (tokens) {
    case 1: bytes_tokens(bytes, scales, q, blocks, 1, is_first, sums); break;
    case 2: bytes_tokens(bytes, scales, q, blocks, 2, is_first, sums); break;
    case 3: bytes_tokens(bytes, scales, q, blocks, 3, is_first, sums); break;
    case 4: bytes_tokens(bytes, scales, q, blocks, 4, is_first, sums); break;
#if BYTES_TOKENS == 8
    case 5: bytes_tokens(bytes, scales, q, blocks, 5, is_first, sums); break;
    case 6: bytes_tokens(bytes, scales, q, blocks, 6, is_first, sums); break;
    case 7: bytes_tokens(bytes, scales, q, blocks, 7, is_first, sums); break;
    case 8: bytes_tokens(bytes, scales, q, blocks, 8, is_first, sums); break;
#endif
    default: break;
    }
}

static void decode_bytes(const nib_gemm_job *job, const strip *s, int64_t k, int64_t depth,
                         uint8_t *bytes, float *scales)
{
    for (int64_t tile = k / 32; tile < (k + depth) / 32; tile++) {
        vf scale[2];
        decode_ahead(s, tile + depth / 32);
        tile_scales(job, s, tile, scale);
        UNROLL
        for (int b = 0; b < 2; b++) {
            vb w[4];
            bytes16(s, tile, b, w);
            UNROLL
            for (int v = 0; v < 4; v++, bytes += BYTES_ROWS * 4) vb_store(bytes, w[v]);
            vf_store(scales, scale[b]);
            scales += BYTES_ROWS;
        }
    }
}

static void multiply_bytes(const nib_gemm_job *job, int parts, int64_t g0, int64_t end, int64_t k,
                           int64_t depth, nib_gemm_scratch *scratch)
{
    for (int p = 0; p < parts; p++) {
        for (int64_t g = g0; g < end; g++) {
            const int64_t tokens = group_tokens(job, g);
            bytes_part(scratch->panel.int8.bytes + p * BYTES_ROWS * depth,
                       scratch->panel.int8.scales + p * BYTES_ROWS * (depth / 16),
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
        for (int64_t k = 0; k < job->padded; k += NIB_GEMM_BYTES_DEPTH) {
            const int64_t depth = job->padded - k < NIB_GEMM_BYTES_DEPTH ? job->padded - k
                                                                         : NIB_GEMM_BYTES_DEPTH;
            for (int i = 0; i < parts * BYTES_STRIPS; i++) {
                const int64_t p = i / BYTES_STRIPS, r = i % BYTES_STRIPS;
                decode_bytes(job, &s[i], k, depth,
                             scratch->panel.int8.bytes + p * BYTES_ROWS * depth + r * LANES * 4,
                             scratch->panel.int8.scales + p * BYTES_ROWS * (depth / 16)
                                 + r * LANES);
            }
            multiply_bytes(job, parts, g, end, k, depth, scratch);
        }
        finish_groups(job, first, count, g, end, scratch);
    }
}

#endif
