/* gemm_pack_cpu.c: packed matrices into the order of products' kernels, those of GPUs too, and
 * back to plain ones. The rules are kernels/gemm_pack.h's. */
#include "gemm_cpu.h"
#include "kernels/gemm_pack.h"

/* A row of tiles from src, whose row 0 is row 0 of the weights. */
static void pack_stripe(const nib_packed *src, const nib_gemm_weights *w, int64_t stripe)
{
    if (w->layout == NIB_GEMM_LAYOUT_CPU) {
        const int64_t units = nib_ceil_div(w->k, NIB_GEMM_CPU_TILE_COLS);
        for (int64_t u = 0; u < units; u++) nib_gemm_pack_cpu_tile(src, w, stripe, u);
        return;
    }
    const int64_t units = nib_ceil_div(w->k, NIB_GEMM_TILE);
    for (int64_t u = 0; u < units; u++) {
        for (int c = 0; c < NIB_GEMM_CHUNKS; c++) nib_gemm_pack_chunk(src, w, stripe, u, c);
    }
}

static void pack_stripes(const nib_packed *src, const nib_gemm_weights *w, int64_t first,
                         int64_t end, int32_t threads)
{
#pragma omp parallel for schedule(static) num_threads(threads) if (end - first > 1)
    for (int64_t s = first; s < end; s++) pack_stripe(src, w, s);
}

/* In place: the last rows of tiles first, since a row of tiles is no shorter than its source; each
 * from a copy in the workspace. */
static void pack_in_place(const nib_launch *launch, const nib_packed *src,
                          const nib_gemm_weights *w, int64_t tile_rows)
{
    const int64_t row = src->ld_codes_bytes;
    const int64_t scale_row = nib_ceil_div(src->cols, nib_part_block(src->format));
    const int64_t all = nib_ceil_div(w->n, tile_rows);
    const size_t  fit = launch->workspace_bytes / (size_t)(tile_rows * (row + scale_row));
    const int64_t room = fit < (size_t)all ? (int64_t)fit : all;
    for (int64_t end = all; end > 0;) {
        const int64_t first = end > room ? end - room : 0, row0 = first * tile_rows;
        const int64_t rows = (end * tile_rows < w->n ? end * tile_rows : w->n) - row0;
        uint8_t *const codes = launch->workspace, *const scales = codes + rows * row;
        memcpy(codes, src->codes + row0 * row, (size_t)(rows * row));
        memcpy(scales, src->scales + row0 * scale_row, (size_t)(rows * scale_row));
        nib_packed part = *src; /* as if the whole lay there: rows before are not read */
        part.codes = (uint8_t *)((uintptr_t)codes - (uintptr_t)(row0 * row));
        part.scales = (uint8_t *)((uintptr_t)scales - (uintptr_t)(row0 * scale_row));
        pack_stripes(&part, w, first, end, launch->threads);
        end = first;
    }
}

nib_status nib_gemm_pack_cpu(const nib_launch *launch, const nib_packed *src,
                             const nib_gemm_weights *w)
{
    const int64_t tile_rows = w->layout == NIB_GEMM_LAYOUT_CPU ? NIB_GEMM_CPU_TILE_ROWS
                                                               : NIB_GEMM_TILE;
    if (src->codes == w->codes) pack_in_place(launch, src, w, tile_rows);
    else pack_stripes(src, w, 0, nib_ceil_div(w->n, tile_rows), launch->threads);
    return NIB_OK;
}

nib_status nib_gemm_unpack_cpu(const nib_launch *launch, const nib_gemm_weights *w,
                               const nib_matrix *dst)
{
#pragma omp parallel for schedule(static) num_threads(launch->threads) if (w->n > 8)
    for (int64_t n = 0; n < w->n; n++) {
        for (int64_t k = 0; k < w->k; k += 8) nib_gemm_unpack_8(w, n, k, dst);
    }
    return NIB_OK;
}
