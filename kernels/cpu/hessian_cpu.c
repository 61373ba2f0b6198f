/* hessian_cpu.c: sums of x x^T: tiles of the lower triangle, each by one thread's OpenBLAS. */
#include "hessian_cpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blas_cpu.h"
#include "foreign_cpu.h"
#include "gptq_tune_cpu.h"
#include "kernels/common/groups.h"
#include "kernels/gptq_order.h"
#include "kernels/packed.h"

nib_status nib_blas_needed(const nib_launch *launch)
{
    const char *const missing = nib_blas_missing();
    if (!missing) return NIB_OK;
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "%s", missing);
    return NIB_ERR_UNSUPPORTED;
}

/* ---- X^T X ---- */

/* Whether tokens are multiplied where they lie. */
static int is_direct(const nib_hessian *h, nib_dtype dtype)
{
    return dtype == NIB_F32 && h->real == NIB_REAL_F32;
}

size_t nib_hessian_add_need_cpu(const nib_hessian *h, int64_t rows)
{
    const int64_t chunk = rows < NIB_HESSIAN_CHUNK ? rows : NIB_HESSIAN_CHUNK;
    return (size_t)(chunk * h->k) * (h->real == NIB_REAL_F64 ? 8 : 4);
}

static void convert_row(const nib_matrix *x, int64_t row, int f64, void *to)
{
    const nib_matrix one = nib_matrix_rows(x, row, row + 1);
    if (!f64) {
        nib_to_f32_cpu(one.dtype, one.data, one.cols, to);
        return;
    }
    for (int64_t i = 0; i < one.cols; i++)
        ((double *)to)[i] = (double)nib_load_f32((int)one.dtype, one.data, i);
}

/* A tile of h: rows from i on, NIB_HESSIAN_TILE or what is left, and columns from j on. */
typedef struct place {
    int64_t i, j, width;
} place;

/* How h is cut. OpenBLAS lays out its operands anew in each call: fewer, larger tiles are faster,
 * more of them keep more threads at work.
 *
 *     d              d  on the diagonal
 *     h d            w  2 NIB_HESSIAN_TILE columns wide
 *     w w d          h  what these leave of every other row
 *     w w h d
 *     w w w w d      The large ones come first: little is left to wait for at the end.
 */
static int64_t places_of(int64_t side) { return (side - 1) * (side - 1) / 4 + side / 2 + side; }

static place place_at(int64_t side, int64_t t)
{
    enum { T = NIB_HESSIAN_TILE };
    int64_t row = 2;
    for (; row < side && t >= row / 2; row++) t -= row / 2;
    if (row < side) return (place){ row * T, t * 2 * T, 2 * T };
    if (t < side / 2) return (place){ (2 * t + 1) * T, 2 * t * T, T };
    return (place){ (t - side / 2) * T, (t - side / 2) * T, 0 };
}

/* This tile of h += x^T x, x rows x k reals. */
static void add_tile(const nib_hessian *h, const void *x, int64_t rows, int64_t ld, place at)
{
    const int f64 = h->real == NIB_REAL_F64;
    const int64_t m = h->k - at.i < NIB_HESSIAN_TILE ? h->k - at.i : NIB_HESSIAN_TILE;
    void *const c = nib_real_at(h->data, f64, at.i, h->ld_elems, at.j);
    const void *const a = nib_real_at(x, f64, 0, ld, at.i);
    if (at.i == at.j)
        nib_blas_syrk(f64, 1, m, rows, 1.0, a, ld, c, h->ld_elems);
    else
        nib_blas_gemm(f64, 1, 0, m, at.width, rows, 1.0, a, ld, nib_real_at(x, f64, 0, ld, at.j),
                      ld, 1.0, c, h->ld_elems);
}

/* The same of any number of rows, NIB_HESSIAN_CHUNK at a time. */
static void add_chunks(const nib_hessian *h, const void *x, int64_t rows, int64_t ld, place at)
{
    const int f64 = h->real == NIB_REAL_F64;
    for (int64_t row = 0; row < rows; row += NIB_HESSIAN_CHUNK) {
        const int64_t left = rows - row, n = left < NIB_HESSIAN_CHUNK ? left : NIB_HESSIAN_CHUNK;
        add_tile(h, nib_real_at(x, f64, row, ld, 0), n, ld, at);
    }
}

nib_status nib_hessian_add_cpu(const nib_launch *launch, const nib_matrix *x,
                               nib_hessian_precision precision, const nib_hessian *h)
{
    (void)precision; /* TF32 allows rounding, and asks for none */
    const nib_status status = nib_blas_needed(launch);
    if (status != NIB_OK) return status;
    const int f64 = h->real == NIB_REAL_F64, direct = is_direct(h, x->dtype);
    const int64_t side = nib_ceil_div(h->k, NIB_HESSIAN_TILE), tiles = places_of(side);
    /* What has to be converted takes turns with the products; the rest has none to wait for. */
    const int64_t turn = direct ? x->rows : NIB_HESSIAN_CHUNK;
    nib_blas_enter();
#pragma omp parallel num_threads(launch->threads)
    for (int64_t row = 0; row < x->rows; row += turn) {
        const int64_t n = x->rows - row < turn ? x->rows - row : turn;
        const void *from = nib_real_at(x->data, 0, row, x->ld_elems, 0);
        const int64_t ld = direct ? x->ld_elems : h->k;
        if (!direct) {
            from = launch->workspace;
#pragma omp for
            for (int64_t r = 0; r < n; r++)
                convert_row(x, row + r, f64, nib_real_at(from, f64, r, h->k, 0));
        }
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < tiles; t++) add_chunks(h, from, n, ld, place_at(side, t));
    }
    nib_blas_leave();
    if (h->tokens) *h->tokens = nib_tokens_sum(*h->tokens, (uint64_t)x->rows);
    return NIB_OK;
}

nib_status nib_hessian_add_grouped_cpu(const nib_launch *launch, const nib_groups *groups,
                                       const nib_matrix *x, nib_hessian_precision precision,
                                       const nib_hessian *hessians)
{
    int64_t begin = nib_group_next(0, groups->offsets[0], x->rows);
    for (int64_t g = 0; g < groups->count; g++) {
        const int64_t end = nib_group_next(begin, groups->offsets[g + 1], x->rows);
        const nib_matrix rows = nib_matrix_rows(x, begin, end);
        const nib_status status = end > begin
            ? nib_hessian_add_cpu(launch, &rows, precision, &hessians[g]) : NIB_OK;
        if (status != NIB_OK) return status;
        begin = end;
    }
    return NIB_OK;
}

/* ---- the rest ---- */

nib_status nib_hessian_clear_cpu(const nib_launch *launch, const nib_hessian *h)
{
    const int f64 = h->real == NIB_REAL_F64;
#pragma omp parallel for num_threads(launch->threads) schedule(static, 64)
    for (int64_t i = 0; i < h->k; i++)
        memset(nib_real_at(h->data, f64, i, h->ld_elems, 0), 0, (size_t)(i + 1) * (f64 ? 8 : 4));
    if (h->tokens) *h->tokens = 0;
    return NIB_OK;
}

nib_status nib_hessian_merge_cpu(const nib_launch *launch, const nib_hessian *from,
                                 const nib_hessian *to)
{
    const int f64 = to->real == NIB_REAL_F64;
#pragma omp parallel for num_threads(launch->threads) schedule(static, 64)
    for (int64_t i = 0; i < to->k; i++) {
        const void *const a = nib_real_at(from->data, f64, i, from->ld_elems, 0);
        void *const b = nib_real_at(to->data, f64, i, to->ld_elems, 0);
        for (int64_t j = 0; j <= i; j++) {
            if (f64) ((double *)b)[j] += ((const double *)a)[j];
            else ((float *)b)[j] += ((const float *)a)[j];
        }
    }
    if (to->tokens)
        *to->tokens = nib_tokens_sum(*to->tokens, from->tokens ? *from->tokens : UINT64_MAX);
    return NIB_OK;
}

/* H_n times the n numbers that lie stride apart, Sylvester's. */
static void butterflies(double *t, int n, int stride)
{
    for (int d = 1; d < n; d *= 2)
        for (int i = 0; i < n; i++) {
            if (i & d) continue;
            const double a = t[i * stride], b = t[(i + d) * stride];
            t[i * stride] = a + b;
            t[(i + d) * stride] = a - b;
        }
}

/* Block t of the lower triangle, counted along its rows: *i >= *j. */
static void block_at(int64_t t, int64_t *i, int64_t *j)
{
    int64_t row = (int64_t)((sqrt(8.0 * (double)t + 1.0) - 1.0) / 2.0);
    while (row * (row + 1) / 2 > t) row--;
    while ((row + 1) * (row + 2) / 2 <= t) row++;
    *i = row;
    *j = t - row * (row + 1) / 2;
}

/* The block (i, j), j <= i: from both sides, in f64. */
static void rotate_block(const nib_hessian *h, int n, int64_t i, int64_t j)
{
    const int f64 = h->real == NIB_REAL_F64;
    double t[NIB_MAX_BLOCK * NIB_MAX_BLOCK];
    for (int r = 0; r < n; r++)
        for (int c = 0; c < n; c++) {
            const int mirrored = i == j && c > r;
            const int64_t row = i * n + (mirrored ? c : r), col = j * n + (mirrored ? r : c);
            t[r * n + c] = nib_real_get(h->data, f64, row * h->ld_elems + col);
        }
    for (int r = 0; r < n; r++) butterflies(t + r * n, n, 1);
    for (int c = 0; c < n; c++) butterflies(t + c, n, n);
    for (int r = 0; r < n; r++)
        for (int c = 0; c < n && (i != j || c <= r); c++)
            nib_real_set(h->data, f64, (i * n + r) * h->ld_elems + j * n + c, t[r * n + c] / n);
}

nib_status nib_hessian_rotate_cpu(const nib_launch *launch, const nib_hessian *h, int32_t block)
{
    const int64_t side = h->k / block, blocks = side * (side + 1) / 2;
#pragma omp parallel for num_threads(launch->threads) schedule(dynamic)
    for (int64_t t = 0; t < blocks; t++) {
        int64_t i, j;
        block_at(t, &i, &j);
        rotate_block(h, block, i, j);
    }
    return NIB_OK;
}

nib_status nib_hessian_info_cpu(const nib_launch *launch, const nib_hessian *h, int32_t whole,
                                nib_hessian_info *info)
{
    double *const diag = malloc((size_t)(h->k ? h->k : 1) * sizeof *diag);
    int64_t at[2] = { -1, -1 };
    if (!diag) return NIB_ERR_OUT_OF_MEMORY;
    for (int64_t i = 0; i < h->k; i++) diag[i] = nib_hessian_diag(h, i);
    if (whole) nib_hessian_nonfinite_cpu(launch, h, at);
    nib_hessian_info_of(diag, h->k, at, h->tokens ? *h->tokens : UINT64_MAX, info);
    free(diag);
    return NIB_OK;
}
