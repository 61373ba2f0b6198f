/* gemm_pack.h: one chunk of packed weights, and their way back: what kernels/cpu and kernels/cuda
 * share beside kernels/common/gemm_layout.h, which knows nothing of the public types. */
#ifndef NIB_GEMM_PACK_H
#define NIB_GEMM_PACK_H

#include "kernels/common/gemm_layout.h"
#include "kernels/packed.h"

static_assert(NIB_GL_CPU == (int)NIB_GEMM_LAYOUT_CPU && NIB_GL_SM80 == (int)NIB_GEMM_LAYOUT_SM80
              && NIB_GL_SM100 == (int)NIB_GEMM_LAYOUT_SM100, "layouts");
static_assert(NIB_GEMM_TILE == (int)NIB_GEMM_GPU_ROWS && NIB_GEMM_TILE == (int)NIB_GEMM_GPU_COLS
              && NIB_GEMM_CPU_TILE_ROWS == (int)NIB_GEMM_CPU_ROWS
              && NIB_GEMM_CPU_TILE_COLS == (int)NIB_GEMM_CPU_COLS, "tiles");

/* Code of a source's element, 0 past its edges. */
NIB_HD uint32_t nib_gemm_source_code(const nib_packed *p, int64_t row, int64_t col)
{
    if (row >= p->rows || col >= p->cols) return 0;
    const nib_nibble at = p->code_order == NIB_CODES_PAIRS
        ? nib_nibble_pairs(col) : nib_nibble_halves(col, nib_part_block(p->format));
    return (uint32_t)p->codes[row * p->ld_codes_bytes + at.byte] >> at.shift & 15u;
}

NIB_HD uint32_t nib_gemm_source_scale(const nib_packed *p, int64_t row, int64_t block)
{
    const int64_t scale_cols = nib_ceil_div(p->cols, nib_part_block(p->format));
    if (row >= p->rows || block >= scale_cols) return 0;
    return p->scales[nib_scale_index(p->scale_layout, row, block, scale_cols)];
}

/* What an E4M3 scale does to its block's codes: a negative one negates, 0 makes zeros. */
NIB_HD uint32_t nib_gemm_scaled_code(uint32_t code, uint32_t e4m3)
{
    return (e4m3 & 0x7fu) == 0 ? 0 : code ^ (e4m3 >> 7 << 3);
}

NIB_HD int nib_gemm_is_zero(const nib_packed *p, int64_t row, int64_t block)
{
    const int length = nib_part_block(p->format);
    uint32_t  any = 0;
    for (int i = 0; i < length && !any; i++) {
        any = nib_gemm_source_code(p, row, block * length + i) & 7u;
    }
    return !any;
}

/* A row's E8M0 scale of a block in a GPU's tile. */
NIB_HD uint32_t nib_gemm_e8m0_of(const nib_packed *p, int64_t row, int64_t block)
{
    const uint32_t own = nib_gemm_source_scale(p, row, block);
    const int64_t  blocks = NIB_GEMM_TILE / nib_part_block(p->format);
    uint32_t       most = 0;
    if (own == NIB_E8M0_NAN || !nib_gemm_is_zero(p, row, block)) return own;
    for (int64_t b = block / blocks * blocks; b < block / blocks * blocks + blocks; b++) {
        const uint32_t other = nib_gemm_source_scale(p, row, b);
        if (other > most && other != NIB_E8M0_NAN && !nib_gemm_is_zero(p, row, b)) most = other;
    }
    return most;
}

/* Scale of row g + 8 * h of a chunk, which is written by one of those that share it; returns what
 * its codes are to know of it. */
NIB_HD uint32_t nib_gemm_pack_scale(const nib_packed *src, const nib_gemm_weights *w, int64_t row,
                                    int64_t unit, int chunk, int h, uint8_t *scales)
{
    const int rt = chunk / 32, g = chunk % 32 / 4, t = chunk % 4;
    const int block = nib_part_block(w->format), writes = t % (block / 16) == 0;
    const int64_t  at = (unit * NIB_GEMM_TILE + 16 * t) / block;
    uint8_t *const to = scales + nib_gemm_scale_at(block, rt, g, h, t);
    if (!nib_part_e4m3_scale(w->format)) {
        if (writes) *to = (uint8_t)nib_gemm_e8m0_of(src, row, at);
        return 1u;
    }
    const uint32_t scale = nib_gemm_source_scale(src, row, at);
    if (writes) *to = (uint8_t)nib_gemm_s0e5m3(scale);
    return scale;
}

/* Chunk rt * 32 + lane of a GPU's tile (stripe, unit), with the scales that are its own. */
NIB_HD void nib_gemm_pack_chunk(const nib_packed *src, const nib_gemm_weights *w, int64_t stripe,
                                int64_t unit, int chunk)
{
    const int rt = chunk / 32, lane = chunk % 32;
    const int64_t tile = stripe * w->ld_tiles + unit;
    uint8_t *codes = w->codes + tile * NIB_GEMM_CODE_BYTES
                   + nib_gemm_chunk_at((int)w->layout, rt, lane);
    uint8_t *scales = w->scales + tile * nib_gemm_scale_tile_bytes(nib_part_block(w->format));
    const int64_t n = stripe * NIB_GEMM_TILE + 16 * rt + lane / 4; /* w->n: past the edge */
    const int64_t row = n < w->n ? nib_gemm_source_row(w->gated, w->n, n) : w->n;
    const int64_t row8 = n + 8 < w->n ? nib_gemm_source_row(w->gated, w->n, n + 8) : w->n;
    const uint32_t scale = nib_gemm_pack_scale(src, w, row, unit, chunk, 0, scales);
    const uint32_t scale8 = nib_gemm_pack_scale(src, w, row8, unit, chunk, 1, scales);
    for (int j = 0; j < 4; j++) {
        uint32_t made = 0;
        for (int i = 0; i < 8; i++) {
            const int h = i / 2 & 1;
            const int64_t  col = unit * NIB_GEMM_TILE + nib_gemm_chunk_col(lane, j, i);
            const uint32_t code = nib_gemm_source_code(src, h ? row8 : row, col);
            made |= nib_gemm_scaled_code(code, h ? scale8 : scale) << 4 * i;
        }
        const uint32_t word = nib_gemm_word_of((int)w->layout, made);
        for (int b = 0; b < 4; b++) codes[4 * j + b] = (uint8_t)(word >> 8 * b);
    }
}

/* Tile (stripe, unit) of a CPU's pack. A block of zeros has E8M0's scale of 1, not a subnormal one,
 * by which some processors multiply slowly. */
NIB_HD void nib_gemm_pack_cpu_tile(const nib_packed *src, const nib_gemm_weights *w, int64_t stripe,
                                   int64_t unit)
{
    const int block = nib_part_block(w->format), e4m3 = nib_part_e4m3_scale(w->format);
    const int per_tile = NIB_GEMM_CPU_TILE_COLS / block;
    const int64_t tile = stripe * w->ld_tiles + unit;
    uint8_t *codes = w->codes + tile * NIB_GEMM_CPU_CODE_BYTES;
    uint8_t *scales = w->scales + tile * (8 * per_tile);
    memset(codes, 0, NIB_GEMM_CPU_CODE_BYTES);
    for (int i = 0; i < 8 * per_tile; i++) {
        const int     row = i % 8;
        const int64_t n = stripe * 8 + row, at = unit * per_tile + i / 8;
        const int64_t from = n < w->n ? nib_gemm_source_row(w->gated, w->n, n) : w->n;
        const uint32_t byte = nib_gemm_source_scale(src, from, at);
        uint32_t any = 0;
        for (int c = 0; c < block; c++) {
            const int col = i / 8 * block + c;
            uint32_t  code = nib_gemm_source_code(src, from, unit * NIB_GEMM_CPU_TILE_COLS + col);
            if (e4m3) code = nib_gemm_scaled_code(code, byte);
            const nib_nibble to = nib_gemm_cpu_nibble(row, col);
            codes[to.byte] = (uint8_t)(codes[to.byte] | code << to.shift);
            any |= code & 7u;
        }
        scales[i] = (uint8_t)(e4m3 ? nib_gemm_s0e5m3(byte) : any || byte == NIB_E8M0_NAN ? byte
                              : at * block < src->cols && from < src->rows ? 127u : 0u);
    }
}

/* ---- back, in f32 ---- */

NIB_HD float nib_gemm_gpu_value(const nib_gemm_weights *w, int64_t n, int64_t k)
{
    const int block = nib_part_block(w->format);
    const int r = (int)(n % NIB_GEMM_TILE), c = (int)(k % NIB_GEMM_TILE);
    const int rt = r / 16, g = r % 8, h = r % 16 / 8, t = c / 16, j = c % 16 / 4;
    const int lane = 4 * g + t, i = 4 * (c % 4 / 2) + 2 * h + c % 2; /* 2 * r + e, r = h + 2 * i' */
    const int64_t tile = n / NIB_GEMM_TILE * w->ld_tiles + k / NIB_GEMM_TILE;
    const uint8_t *at = w->codes + tile * NIB_GEMM_CODE_BYTES
                      + nib_gemm_chunk_at((int)w->layout, rt, lane) + 4 * j;
    const uint8_t *scales = w->scales + tile * nib_gemm_scale_tile_bytes(block);
    const uint32_t word = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16
                        | (uint32_t)at[3] << 24;
    const uint32_t code = nib_gemm_codes_of((int)w->layout, word) >> 4 * i & 15u;
    const uint32_t byte = scales[nib_gemm_scale_at(block, rt, g, h, t)];
    const float scale = nib_part_e4m3_scale(w->format) ? nib_gemm_s0e5m3_to_f32(byte)
                                                       : nib_e8m0_to_f32(byte);
    return nib_element_to_f32(NIB_EL_E2M1, code) * scale;
}

NIB_HD float nib_gemm_cpu_value(const nib_gemm_weights *w, int64_t n, int64_t k)
{
    const int block = nib_part_block(w->format), row = (int)(n % 8), col = (int)(k % 32);
    const int64_t tile = n / 8 * w->ld_tiles + k / 32;
    const nib_nibble at = nib_gemm_cpu_nibble(row, col);
    const uint32_t code = (uint32_t)w->codes[tile * 128 + at.byte] >> at.shift & 15u;
    const uint32_t byte = w->scales[tile * (256 / block) + nib_gemm_cpu_scale_at(block, row, col)];
    const float scale = nib_part_e4m3_scale(w->format) ? nib_gemm_s0e5m3_to_f32(byte)
                                                       : nib_e8m0_to_f32(byte);
    return nib_element_to_f32(NIB_EL_E2M1, code) * scale;
}

/* Element (n, k) of the weights, times no tensor scale; n: packed row. */
NIB_HD float nib_gemm_value(const nib_gemm_weights *w, int64_t n, int64_t k)
{
    return w->layout == NIB_GEMM_LAYOUT_CPU ? nib_gemm_cpu_value(w, n, k)
                                            : nib_gemm_gpu_value(w, n, k);
}

/* Columns k .. k + 7 of packed row n into dst, which has the source's order of rows. */
NIB_HD void nib_gemm_unpack_8(const nib_gemm_weights *w, int64_t n, int64_t k,
                              const nib_matrix *dst)
{
    const float   t = w->tensor_scale ? nib_tensor_given(*w->tensor_scale).decode : 1.0f;
    const int64_t row = nib_gemm_source_row(w->gated, w->n, n);
    for (int i = 0; i < 8; i++) {
        nib_store_f32((int)dst->dtype, dst->data, row * dst->ld_elems + k + i,
                      nib_gemm_value(w, n, k + i) * t);
    }
}

#endif
