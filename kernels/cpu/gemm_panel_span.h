/* gemm_panel_span.h: products of many tokens: weights become f32 once for all of them. A part of
 * gemm_span.h.
 *
 *   panel   [part of PANEL_ROWS outputs][depth][output of the part]
 *   sums    [token][NIB_GEMM_TASK_ROWS outputs] */
#ifndef NIB_GEMM_PANEL_SPAN_H
#define NIB_GEMM_PANEL_SPAN_H

/* Adds depth products to each of a part's sums. */
INLINE void part_tokens(const float *panel, const float *x, int64_t depth, int tokens, int is_first,
                        float *sums)
{
    vf acc[PANEL_TOKENS][PANEL_STRIPS];
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < PANEL_STRIPS; r++)
            acc[t][r] = is_first ? vf_zero() : vf_load(sums + t * TASK + r * LANES);
    }
    for (int64_t k = 0; k < depth; k++, panel += PANEL_ROWS, x += tokens) {
        vf w[PANEL_STRIPS];
        UNROLL
        for (int r = 0; r < PANEL_STRIPS; r++) w[r] = vf_load(panel + r * LANES);
        UNROLL
        for (int t = 0; t < tokens; t++) {
            const vf a = vf_set(x[t]);
            UNROLL
            for (int r = 0; r < PANEL_STRIPS; r++) acc[t][r] = vf_fma(a, w[r], acc[t][r]);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < PANEL_STRIPS; r++) vf_store(sums + t * TASK + r * LANES, acc[t][r]);
    }
}

static void part(const float *p, const float *x, int64_t depth, int64_t tokens, int is_first,
                 float *sums)
{
    switch (tokens) {
    case 1:  part_tokens(p, x, depth, 1, is_first, sums); break;
    case 2:  part_tokens(p, x, depth, 2, is_first, sums); break;
    case 3:  part_tokens(p, x, depth, 3, is_first, sums); break;
    case 4:  part_tokens(p, x, depth, 4, is_first, sums); break;
#if PANEL_TOKENS >= 6
    case 5:  part_tokens(p, x, depth, 5, is_first, sums); break;
    case 6:  part_tokens(p, x, depth, 6, is_first, sums); break;
#endif
#if PANEL_TOKENS >= 12
    case 7:  part_tokens(p, x, depth, 7, is_first, sums); break;
    case 8:  part_tokens(p, x, depth, 8, is_first, sums); break;
    case 9:  part_tokens(p, x, depth, 9, is_first, sums); break;
    case 10: part_tokens(p, x, depth, 10, is_first, sums); break;
    case 11: part_tokens(p, x, depth, 11, is_first, sums); break;
    case 12: part_tokens(p, x, depth, 12, is_first, sums); break;
#endif
    default: break;
    }
}

/* The same place of the next panel, into the second cache. */
INLINE void decode_ahead(const strip *s, int64_t tile)
{
    const uint8_t *next = s->codes + tile * 128;
    UNROLL
    for (int i = 0; i < 2; i++) {
        __builtin_prefetch(next + 64 * i, 0, 2);
        if (LANES == 16) __builtin_prefetch(next + s->codes_next + 64 * i, 0, 2);
    }
}

/* Columns k .. k + depth - 1 of a strip to its place in the panel. */
static void decode_strip(const nib_gemm_job *job, const strip *s, int64_t k, int64_t depth,
                         float *to)
{
    for (int64_t tile = k / 32; tile < (k + depth) / 32; tile++) {
        vf scale[2];
        decode_ahead(s, tile + depth / 32);
        tile_scales(job, s, tile, scale);
        UNROLL
        for (int v = 0; v < 4; v++) {
            const vc codes = vc_load(s, tile * 128, v);
            UNROLL
            for (int half = 0; half < 2; half++, to += 4 * PANEL_ROWS) {
                vf e[4];
                values4(codes, half, e);
                UNROLL
                for (int c = 0; c < 4; c++)
                    vf_store(to + c * PANEL_ROWS, vf_mul(e[c], scale[v / 2]));
            }
        }
    }
}

/* One panel's product with the groups [g, end), whose sums are in scratch. */
static void multiply(const nib_gemm_job *job, int parts, int64_t g0, int64_t end, int64_t k,
                     int64_t depth, nib_gemm_scratch *scratch)
{
    for (int p = 0; p < parts; p++) {
        for (int64_t g = g0; g < end; g++) {
            const int64_t tokens = group_tokens(job, g);
            part(scratch->panel.f32 + p * PANEL_ROWS * depth,
                 job->x + g * job->width * job->padded + k * tokens, depth, tokens, k == 0,
                 scratch->sums + (g - g0) * job->width * TASK + p * PANEL_ROWS);
        }
    }
}

/* Groups that a panel is multiplied by before the next is made. */
INLINE int64_t groups_end(const nib_gemm_job *job, int64_t g0)
{
    const int64_t groups = nib_ceil_div(job->m, job->width);
    const int64_t end = g0 + NIB_GEMM_TASK_TOKENS / job->width;
    return end < groups ? end : groups;
}

static void finish_groups(const nib_gemm_job *job, int64_t first, int64_t count, int64_t g0,
                          int64_t end, const nib_gemm_scratch *scratch)
{
    const int64_t token0 = g0 * job->width;
    const int64_t last = end * job->width < job->m ? end * job->width : job->m;
    for (int64_t t = token0; t < last; t++)
        finish(job, t, first, count, scratch->sums + (t - token0) * TASK);
}

static void panel(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch)
{
    const int64_t count = task_rows(job, first);
    strip     s[TASK_STRIPS];
    const int strips = strips_of(job, first, count, s);
    const int parts = (strips + PANEL_STRIPS - 1) / PANEL_STRIPS;
    for (int64_t g = 0, end; g * job->width < job->m; g = end) {
        end = groups_end(job, g);
        for (int64_t k = 0; k < job->padded; k += NIB_GEMM_PANEL_DEPTH) {
            const int64_t depth = job->padded - k < NIB_GEMM_PANEL_DEPTH ? job->padded - k
                                                                         : NIB_GEMM_PANEL_DEPTH;
            for (int i = 0; i < parts * PANEL_STRIPS; i++)
                decode_strip(job, &s[i], k, depth, scratch->panel.f32 + i / PANEL_STRIPS
                             * PANEL_ROWS * depth + i % PANEL_STRIPS * LANES);
            multiply(job, parts, g, end, k, depth, scratch);
        }
        finish_groups(job, first, count, g, end, scratch);
    }
}

/* ---- backward: the depth is rows of weights, outputs are columns ---- */

/* Rows row .. row + LANES - 1 (or the last ones) and tile's columns to at, within the panel of rows
 * row0 .. row0 + depth - 1. */
static void decode_columns(const nib_gemm_job *job, int64_t row, int64_t row0, int64_t depth,
                           int64_t tile, int at, float *to)
{
    const strip s = strip_at(job, row);
    vf    v[2];
    float scale[2][LANES];
    tile_scales(job, &s, tile, v);
    vf_store(scale[0], v[0]);
    vf_store(scale[1], v[1]);
    for (int r = 0; r < LANES && row + r < row0 + depth; r++) {
        const uint8_t *codes = s.codes + (r / 8) * s.codes_next + tile * 128;
        for (int c = 0; c < 32; c += LANES) {
            float *p = to + (at + c) / PANEL_ROWS * PANEL_ROWS * depth
                     + (row - row0 + r) * PANEL_ROWS + (at + c) % PANEL_ROWS;
            vf_store(p, vf_mul(columns_of(codes, r % 8, c), vf_set(scale[c / 16][r])));
        }
    }
}

static void backward(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch)
{
    const int64_t count = task_rows(job, first);
    const int64_t tiles = nib_ceil_div(count, 32);
    const int     parts = (int)(tiles * 32 / PANEL_ROWS);
    for (int64_t g = 0, end; g * job->width < job->m; g = end) {
        end = groups_end(job, g);
        for (int64_t n = 0; n < job->depth; n += NIB_GEMM_PANEL_DEPTH) {
            const int64_t depth = job->depth - n < NIB_GEMM_PANEL_DEPTH ? job->depth - n
                                                                        : NIB_GEMM_PANEL_DEPTH;
            for (int64_t row = n; row < n + depth; row += LANES) {
                for (int64_t u = 0; u < tiles; u++)
                    decode_columns(job, row, n, depth, first / 32 + u, (int)u * 32,
                                   scratch->panel.f32);
            }
            multiply(job, parts, g, end, n, depth, scratch);
        }
        finish_groups(job, first, count, g, end, scratch);
    }
}

#endif
