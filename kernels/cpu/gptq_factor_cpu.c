/* gptq_factor_cpu.c: the order of inputs, and a Cholesky factor by tiles, each done by one thread's
 * OpenBLAS in an order that the number of threads does not change. */
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "blas_cpu.h"
#include "gptq_tune_cpu.h"
#include "hessian_cpu.h"
#include "kernels/common/layout.h"
#include "kernels/gptq_order.h"

/* ---- order ---- */

nib_status nib_gptq_order_cpu(const nib_launch *launch, const nib_hessian *h, nib_gptq_order order,
                              int32_t block, const nib_gptq_factor *factor)
{
    double *const diag = order == NIB_GPTQ_NATURAL ? NULL : malloc((size_t)h->k * sizeof *diag);
    (void)launch;
    if (!diag && order != NIB_GPTQ_NATURAL) return NIB_ERR_OUT_OF_MEMORY;
    for (int64_t i = 0; diag && i < h->k; i++) diag[i] = nib_hessian_diag(h, i);
    const nib_status status = nib_gptq_order_of(diag, h->k, order, block, factor->order);
    free(diag);
    return status;
}

/* ---- Cholesky ---- */

/* Where input p goes: row and column n - 1 - step. */
static int64_t place_of(const int32_t *places, int64_t n, int64_t p)
{
    return places ? places[p] : n - 1 - p;
}

/* to = n numbers that lie stride apart. */
static void take_column(int f64, const void *from, int64_t stride, int64_t n, void *to)
{
    if (f64)
        for (int64_t i = 0; i < n; i++) ((double *)to)[i] = ((const double *)from)[i * stride];
    else
        for (int64_t i = 0; i < n; i++) ((float *)to)[i] = ((const float *)from)[i * stride];
}

/* The tile (i, j) of H and its mirror image, its rows where they go, its columns not yet. Columns
 * are read from a copy of the tile: H's own rows are too far apart for them. */
static void spread_tile(const nib_hessian *h, const int32_t *places, void *l, int64_t ld, int64_t i,
                        int64_t j)
{
    enum { T = NIB_GATHER_TILE };
    const int f64 = h->real == NIB_REAL_F64;
    const int64_t n = h->k, i1 = i + T < n ? i + T : n, j1 = j + T < n ? j + T : n;
    double tile[T * T];
    for (int64_t p = i; p < i1; p++) {
        const int64_t row = place_of(places, n, p) * ld, last = j1 < p + 1 ? j1 : p + 1;
        const void *const from = nib_real_at(h->data, f64, p, h->ld_elems, j);
        const size_t bytes = (size_t)(last - j) * (f64 ? 8 : 4);
        memcpy(nib_real_at(tile, f64, p - i, T, 0), from, bytes);
        memcpy(nib_real_at(l, f64, 0, 0, row + j), from, bytes);
    }
    for (int64_t q = j; q < j1; q++) {
        const int64_t row = place_of(places, n, q) * ld, first = i > q ? i : q + 1;
        if (first < i1)
            take_column(f64, nib_real_at(tile, f64, first - i, T, q - j), T, i1 - first,
                        nib_real_at(l, f64, 0, 0, row + first));
    }
}

/* The columns of row i where they go, up to the diagonal, and what is added to that. */
static void gather_row(int f64, int64_t n, int64_t i, const int32_t *order, double added,
                       void *spare, void *row)
{
    memcpy(spare, row, (size_t)n * (f64 ? 8 : 4));
    for (int64_t j = 0; j <= i; j++) {
        const int64_t from = order ? order[n - 1 - j] : n - 1 - j;
        if (f64) ((double *)row)[j] = ((const double *)spare)[from];
        else ((float *)row)[j] = ((const float *)spare)[from];
    }
    const double d = nib_real_get(row, f64, i);
    nib_real_set(row, f64, i, d + (d == 0.0 ? 1.0 + added : added));
}

/* Lower triangle (i, j) of l = H' of steps n-1-i and n-1-j. order NULL: the natural one. Whole rows
 * move first and elements within them then: nothing walks down a column but within a tile. */
static nib_status gather(const nib_launch *launch, const nib_hessian *h, double added,
                         const int32_t *order, void *l, int64_t ld)
{
    const int f64 = h->real == NIB_REAL_F64;
    const int64_t n = h->k, side = nib_ceil_div(n, NIB_GATHER_TILE);
    int32_t *const places = order ? malloc((size_t)n * sizeof *places) : NULL;
    double *const spare = malloc((size_t)n * (size_t)launch->threads * sizeof *spare);
    const int fits = spare && (places || !order);
    for (int64_t s = 0; s < n && fits && order; s++) places[order[s]] = (int32_t)(n - 1 - s);
#pragma omp parallel num_threads(launch->threads) if (fits)
    if (fits) {
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < side * side; t++)
            if (t / side >= t % side)
                spread_tile(h, places, l, ld, t / side * NIB_GATHER_TILE,
                            t % side * NIB_GATHER_TILE);
#pragma omp for schedule(dynamic, 16)
        for (int64_t i = 0; i < n; i++)
            gather_row(f64, n, i, order, added, spare + omp_get_thread_num() * n,
                       nib_real_at(l, f64, i, ld, 0));
    }
    free(places);
    free(spare);
    return fits ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
}

/* Columns less their pivots: quotients, since a product with a reciprocal would round twice. */
static nib_status divide_columns(const nib_launch *launch, int f64, int64_t n, void *l, int64_t ld)
{
    double *const pivot = malloc((size_t)n * sizeof *pivot);
    if (!pivot) return NIB_ERR_OUT_OF_MEMORY;
    float *const narrow = (float *)pivot;
    for (int64_t j = 0; j < n; j++) {
        const double d = nib_real_get(l, f64, j * ld + j);
        if (f64) pivot[j] = d;
        else narrow[j] = (float)d;
    }
#pragma omp parallel for num_threads(launch->threads) schedule(dynamic, 16)
    for (int64_t i = 1; i < n; i++) {
        void *const row = nib_real_at(l, f64, i, ld, 0);
        if (f64)
            for (int64_t j = 0; j < i; j++) ((double *)row)[j] /= pivot[j];
        else
            for (int64_t j = 0; j < i; j++) ((float *)row)[j] /= narrow[j];
    }
    free(pivot);
    return NIB_OK;
}

/* How threads share a factorisation by side x side tiles. Right-looking:
 *
 *     tile (k, k)                  factored
 *     tiles (i, k), i > k          solved against it
 *     tiles (i, j), i >= j > k     less (i, k) (j, k)^T, 2 x 2 of them in one call
 *
 * The tasks have an order, in which each comes behind all that it needs: a thread takes the next
 * one and waits until that is done. The order of calls on each tile is always the same. Tile (k+1,
 * k+1) is factored by who has just made it ready, while there is much else to do. */
typedef struct factoring {
    int64_t     side, n, ld;
    int         f64;
    void       *l;
    int64_t     step, taken; /* the next task: its k, from -1 on, and its number of those of k */
    atomic_int *done;        /* by tile: calls on (i, j), j + 1 in the end */
    atomic_int  bad;         /* 0, or LAPACK's info: it ends all */
} factoring;

enum { TILE = NIB_FACTOR_TILE, BLOCK = 2 }; /* BLOCK: tiles that are updated together, each way */

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

static void *tile_of(const factoring *f, int64_t i, int64_t j)
{
    return nib_real_at(f->l, f->f64, i * TILE, f->ld, j * TILE);
}

/* Rows of the tiles [i, end). */
static int64_t height_of(const factoring *f, int64_t i, int64_t end)
{
    return at_most(f->n, end * TILE) - i * TILE;
}

static void wait_for(const factoring *f, int64_t i, int64_t j, int64_t calls)
{
    const atomic_int *const done = &f->done[i * f->side + j];
    for (int spins = 0; atomic_load(done) < calls && !atomic_load(&f->bad);)
        if (spins < 1000) spins++;
        else (void)sched_yield();
}

static void factor_tile(factoring *f, int64_t k)
{
    const int info = nib_lapack_potrf(f->f64, height_of(f, k, k + 1), tile_of(f, k, k), f->ld);
    if (info) atomic_store(&f->bad, (int)(k * TILE) + info);
    else atomic_store(&f->done[k * f->side + k], (int)k + 1);
}

static void solve_tile(factoring *f, int64_t i, int64_t k)
{
    wait_for(f, k, k, k + 1);
    wait_for(f, i, k, k);
    if (atomic_load(&f->bad)) return;
    nib_blas_trsm(f->f64, height_of(f, i, i + 1), TILE, tile_of(f, k, k), f->ld, tile_of(f, i, k),
                  f->ld);
    atomic_store(&f->done[i * f->side + k], (int)k + 1);
}

/* Tiles from (i, j) on: those of a block on the diagonal if i == j. */
static void update_block(factoring *f, int64_t i, int64_t j, int64_t k)
{
    const int64_t i1 = at_most(i + BLOCK, f->side), j1 = at_most(j + BLOCK, f->side);
    for (int64_t p = i; p < i1; p++) wait_for(f, p, k, k + 1);
    for (int64_t q = j; q < j1; q++) wait_for(f, q, k, k + 1);
    for (int64_t p = i; p < i1; p++)
        for (int64_t q = j; q < j1 && q <= p; q++) wait_for(f, p, q, k);
    if (atomic_load(&f->bad)) return;
    const int64_t m = height_of(f, i, i1);
    const void *const a = tile_of(f, i, k);
    if (i == j)
        nib_blas_syrk(f->f64, 0, m, TILE, -1.0, a, f->ld, tile_of(f, i, j), f->ld);
    else
        nib_blas_gemm(f->f64, 0, 1, m, height_of(f, j, j1), TILE, -1.0, a, f->ld, tile_of(f, j, k),
                      f->ld, 1.0, tile_of(f, i, j), f->ld);
    for (int64_t p = i; p < i1; p++)
        for (int64_t q = j; q < j1 && q <= p; q++)
            atomic_store(&f->done[p * f->side + q], (int)k + 1);
}

/* A step's tasks: blocks of the triangle behind k, column by column; then the tiles (i, k + 1) to
 * be solved. Step -1 has one block, of nothing to update. */
static int64_t across(const factoring *f, int64_t k)
{
    return k < 0 ? 1 : nib_ceil_div(f->side - k - 1, BLOCK);
}

static int64_t blocks_of(const factoring *f, int64_t k)
{
    return across(f, k) * (across(f, k) + 1) / 2;
}

/* Returns 0 behind the last one. */
static int next_task(factoring *f, int64_t *k, int64_t *t)
{
#pragma omp critical(nib_factoring)
    {
        if (f->taken == blocks_of(f, f->step) + f->side - f->step - 2) {
            f->step++;
            f->taken = 0;
        }
        *k = f->step;
        *t = f->taken++;
    }
    return *k < f->side - 1 && !atomic_load(&f->bad);
}

static void do_task(factoring *f, int64_t k, int64_t t)
{
    const int64_t blocks = blocks_of(f, k);
    if (t >= blocks) {
        solve_tile(f, k + 2 + t - blocks, k + 1);
        return;
    }
    int64_t col = 0, row = t;
    for (; row >= across(f, k) - col; col++) row -= across(f, k) - col;
    if (k >= 0) update_block(f, k + 1 + (row + col) * BLOCK, k + 1 + col * BLOCK, k);
    if (t == 0 && !atomic_load(&f->bad)) factor_tile(f, k + 1);
}

/* l = its Cholesky factor. *minor: 0, or LAPACK's info. */
static nib_status factor_tiles(const nib_launch *launch, int f64, int64_t n, void *l, int64_t ld,
                               int64_t *minor)
{
    factoring f = { .side = nib_ceil_div(n, TILE), .n = n, .ld = ld, .f64 = f64, .l = l,
                    .step = -1 };
    f.done = calloc((size_t)(f.side * f.side), sizeof *f.done);
    if (!f.done) return NIB_ERR_OUT_OF_MEMORY;
    nib_blas_enter();
#pragma omp parallel num_threads(launch->threads)
    for (int64_t k, t; next_task(&f, &k, &t);) do_task(&f, k, t);
    nib_blas_leave();
    free(f.done);
    *minor = atomic_load(&f.bad);
    for (int64_t i = 0; i < n && !*minor; i++) {
        const double d = nib_real_get(l, f64, i * ld + i);
        if (!(d > 0.0 && d < INFINITY)) *minor = i + 1;
    }
    return NIB_OK;
}

nib_status nib_gptq_factor_cpu(const nib_launch *launch, const nib_hessian *h, double added,
                               const nib_gptq_factor *factor, int64_t *minor)
{
    const nib_status status = nib_blas_needed(launch);
    if (status != NIB_OK) return status;
    const int f64 = h->real == NIB_REAL_F64;
    const nib_status gathered = gather(launch, h, added, factor->order, factor->l,
                                       factor->ld_elems);
    if (gathered != NIB_OK) return gathered;
    const nib_status factored = factor_tiles(launch, f64, h->k, factor->l, factor->ld_elems, minor);
    if (factored != NIB_OK) return factored;
    return *minor ? NIB_OK : divide_columns(launch, f64, h->k, factor->l, factor->ld_elems);
}

/* ---- inverse ---- */

/* The lower triangle turned by half a turn: (i, j) to (n-1-i, n-1-j); zeros below. */
static void flip_up(int f64, int64_t n, void *a, int64_t ld)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            nib_real_set(a, f64, (n - 1 - i) * ld + n - 1 - j, nib_real_get(a, f64, i * ld + j));
    for (int64_t i = 0; i < n / 2; i++) {
        const double d = nib_real_get(a, f64, i * ld + i);
        nib_real_set(a, f64, i * ld + i, nib_real_get(a, f64, (n - 1 - i) * ld + n - 1 - i));
        nib_real_set(a, f64, (n - 1 - i) * ld + n - 1 - i, d);
    }
    for (int64_t i = 1; i < n; i++)
        memset(nib_real_at(a, f64, i, ld, 0), 0, (size_t)i * (f64 ? 8 : 4));
}

/* Element (i, j), j <= i, of the reversed H is (n-1-j, n-1-i) of H, of the same triangle: swaps. */
static void reverse_in_place(const nib_hessian *h, double added)
{
    const int f64 = h->real == NIB_REAL_F64;
    const int64_t n = h->k, ld = h->ld_elems;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            const int64_t a = i * ld + j, b = (n - 1 - j) * ld + n - 1 - i;
            if (b <= a) continue;
            const double v = nib_real_get(h->data, f64, a);
            nib_real_set(h->data, f64, a, nib_real_get(h->data, f64, b));
            nib_real_set(h->data, f64, b, v);
        }
    for (int64_t i = 0; i < n; i++) {
        const double d = nib_real_get(h->data, f64, i * ld + i);
        nib_real_set(h->data, f64, i * ld + i, d + (d == 0.0 ? 1.0 + added : added));
    }
}

nib_status nib_hessian_inverse_cpu(const nib_launch *launch, const nib_hessian *h, double added,
                                   void *u, int64_t ld, int64_t *minor)
{
    const nib_status status = nib_blas_needed(launch);
    if (status != NIB_OK) return status;
    const int f64 = h->real == NIB_REAL_F64;
    nib_status gathered = NIB_OK;
    if (u == h->data) reverse_in_place(h, added);
    else gathered = gather(launch, h, added, NULL, u, ld);
    if (gathered != NIB_OK) return gathered;
    const nib_status factored = factor_tiles(launch, f64, h->k, u, ld, minor);
    if (factored != NIB_OK || *minor) return factored;
    nib_blas_enter();
    *minor = nib_lapack_trtri(f64, h->k, u, ld);
    nib_blas_leave();
    if (!*minor) flip_up(f64, h->k, u, ld);
    return NIB_OK;
}
