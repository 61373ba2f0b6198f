/* blas_cpu.h: OpenBLAS, opened at run time, since the library itself does without. Matrices are
 * row-major; a real is a float, or with f64 a double; n and k are below 2^31. The names are those
 * of CBLAS and LAPACK (www.netlib.org/blas, /lapack). */
#ifndef NIB_BLAS_CPU_H
#define NIB_BLAS_CPU_H

#include <stddef.h>
#include <stdint.h>

/* NULL, or why OpenBLAS cannot be had. Nothing below may be called but after NULL. */
const char *nib_blas_missing(void);

/* Between these two, from any number of threads at once, OpenBLAS computes on the thread that calls
 * it: what comes out does not depend on how many there are. */
void nib_blas_enter(void);
void nib_blas_leave(void);

/* The element (i, j) of a matrix of reals. */
static inline void *nib_real_at(const void *data, int f64, int64_t i, int64_t ld, int64_t j)
{
    return (char *)(uintptr_t)data + (i * ld + j) * (f64 ? 8 : 4);
}

/* c = alpha op(a) op(b) + beta c, op(a) m x k, op(b) k x n. */
void nib_blas_gemm(int f64, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k,
                   double alpha, const void *a, int64_t lda, const void *b, int64_t ldb,
                   double beta, void *c, int64_t ldc);
/* Lower triangle of c += alpha op(a) op(a)^T, op(a) n x k. */
void nib_blas_syrk(int f64, int trans_a, int64_t n, int64_t k, double alpha, const void *a,
                   int64_t lda, void *c, int64_t ldc);
/* b = b l^-T, l n x n lower triangular, b m x n. */
void nib_blas_trsm(int f64, int64_t m, int64_t n, const void *l, int64_t ldl, void *b,
                   int64_t ldb);
/* b = b l, l n x n lower triangular with ones on its diagonal, b m x n. */
void nib_blas_trmm(int f64, int64_t m, int64_t n, const void *l, int64_t ldl, void *b,
                   int64_t ldb);
/* c = b h, h n x n symmetric by its lower triangle, b and c m x n. */
void nib_blas_symm(int f64, int64_t m, int64_t n, const void *h, int64_t ldh, const void *b,
                   int64_t ldb, void *c, int64_t ldc);
/* a = l, a = l l^T, lower triangles. Returns LAPACK's info. */
int nib_lapack_potrf(int f64, int64_t n, void *a, int64_t lda);
/* a = a^-1, lower triangles. Returns LAPACK's info. */
int nib_lapack_trtri(int f64, int64_t n, void *a, int64_t lda);

#endif
