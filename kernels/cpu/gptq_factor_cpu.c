/* gptq_factor_cpu.c: the order of inputs, and a Cholesky factor by tiles, each done by one thread's
 * OpenBLAS in an order that the number of threads does not change. */
#include <math.h>
#include <omp.h>
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

/* The tile (i, j) of H and its mirror image, its rows where they go, its columns not yet. */
static void spread_tile(const nib_hessian *h, const int32_t *places, void *l, int64_t ld, int64_t i,
                        int64_t j)
{
    enum { T = NIB_GATHER_TILE };
    const int f64 = h->real == NIB_REAL_F64;
    const int64_t n = h->k, i1 = i + T < n ? i + T : n, j1 = j + T < n ? j + T : n;
    for (int64_t p = i; p < i1; p++) {
        const int64_t row = place_of(places, n, p) * ld, last = j1 < p + 1 ? j1 : p + 1;
        memcpy(nib_real_at(l, f64, 0, 0, row + j), nib_real_at(h->data, f64, p, h->ld_elems, j),
               (size_t)(last - j) * (f64 ? 8 : 4));
    }
    for (int64_t q = j; q < j1; q++) {
        const int64_t row = place_of(places, n, q) * ld;
        for (int64_t p = i > q ? i : q + 1; p < i1; p++)
            nib_real_set(l, f64, row + p, nib_real_get(h->data, f64, p * h->ld_elems + q));
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

/* l = its Cholesky factor. Returns 0 or LAPACK's info. Right-looking:
 *
 *     tile (k, k)          factored
 *     tiles (i, k), i > k  solved against it, each by one thread
 *     tiles (i, j), j > k  less (i, k) (j, k)^T, each by one thread */
static int64_t factor_tiles(const nib_launch *launch, int f64, int64_t n, void *l, int64_t ld)
{
    enum { T = NIB_FACTOR_TILE };
    const int64_t side = nib_ceil_div(n, T);
    int64_t bad = 0;
#pragma omp parallel num_threads(launch->threads)
    for (int64_t k = 0; k < side; k++) {
        const int64_t at = k * T, width = n - at < T ? n - at : T, rest = side - k - 1;
        void *const kk = nib_real_at(l, f64, at, ld, at);
#pragma omp single
        {
            const int info = nib_lapack_potrf(f64, width, kk, ld);
            if (info) bad = at + info;
        }
        if (bad) break; /* seen by all threads: behind single's barrier */
#pragma omp for schedule(dynamic)
        for (int64_t i = k + 1; i < side; i++)
            nib_blas_trsm(f64, n - i * T < T ? n - i * T : T, width, kk, ld,
                          nib_real_at(l, f64, i * T, ld, at), ld);
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < rest * rest; t++) {
            const int64_t i = k + 1 + t / rest, j = k + 1 + t % rest;
            if (j > i) continue;
            const int64_t m = n - i * T < T ? n - i * T : T;
            const void *const a = nib_real_at(l, f64, i * T, ld, at);
            void *const c = nib_real_at(l, f64, i * T, ld, j * T);
            if (i == j)
                nib_blas_syrk(f64, 0, m, width, -1.0, a, ld, c, ld);
            else
                nib_blas_gemm(f64, 0, 1, m, T, width, -1.0, a, ld,
                              nib_real_at(l, f64, j * T, ld, at), ld, 1.0, c, ld);
        }
    }
    for (int64_t i = 0; i < n && !bad; i++) {
        const double d = nib_real_get(l, f64, i * ld + i);
        if (!(d > 0.0 && d < INFINITY)) bad = i + 1;
    }
    return bad;
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
    nib_blas_enter();
    *minor = factor_tiles(launch, f64, h->k, factor->l, factor->ld_elems);
    nib_blas_leave();
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
    nib_blas_enter();
    *minor = factor_tiles(launch, f64, h->k, u, ld);
    if (!*minor) *minor = nib_lapack_trtri(f64, h->k, u, ld);
    nib_blas_leave();
    if (!*minor) flip_up(f64, h->k, u, ld);
    return NIB_OK;
}
