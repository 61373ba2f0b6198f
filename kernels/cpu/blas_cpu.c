/* blas_cpu.c: OpenBLAS for gptq.h and hessian.h, and its product to be held against. */
#include "blas_cpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "bench_cpu.h"

enum {
    ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, LOWER = 122, NON_UNIT = 131, UNIT = 132,
    RIGHT = 142 /* CBLAS_ORDER, _TRANSPOSE, _UPLO, _DIAG, _SIDE */
};

/* CBLAS's and LAPACK's prototypes for one type of real, r. */
#define PROTOTYPES(r)                                                                             \
    void (*gemm)(int order, int trans_a, int trans_b, int m, int n, int k, r alpha, const r *a,   \
                 int lda, const r *b, int ldb, r beta, r *c, int ldc);                            \
    void (*syrk)(int order, int uplo, int trans, int n, int k, r alpha, const r *a, int lda,      \
                 r beta, r *c, int ldc);                                                          \
    void (*trsm)(int order, int side, int uplo, int trans, int diag, int m, int n, r alpha,       \
                 const r *a, int lda, r *b, int ldb);                                             \
    void (*trmm)(int order, int side, int uplo, int trans, int diag, int m, int n, r alpha,       \
                 const r *a, int lda, r *b, int ldb);                                             \
    void (*symm)(int order, int side, int uplo, int m, int n, r alpha, const r *a, int lda,       \
                 const r *b, int ldb, r beta, r *c, int ldc);                                     \
    void (*potrf)(const char *uplo, const int *n, r *a, const int *lda, int *info, size_t length);\
    void (*trtri)(const char *uplo, const char *diag, const int *n, r *a, const int *lda,         \
                  int *info, size_t length, size_t length_diag);

static struct {
    char why[256];
    struct { PROTOTYPES(float) } s;
    struct { PROTOTYPES(double) } d;
    void (*gemv)(int order, int trans, int m, int n, float alpha, const float *a, int lda,
                 const float *x, int incx, float beta, float *y, int incy);
    void (*set_threads)(int threads);
    int (*get_threads)(void);
    const char *(*get_core)(void); /* or NULL */
} blas;

static pthread_once_t  once = PTHREAD_ONCE_INIT;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static int inside, threads_before; /* guard's */

/* POSIX lets a pointer to a function come out of dlsym so. */
#define FIND(member, name) (*(void **)&blas.member = dlsym(library, (name)))
#define FIND_REALS(p, letter)                                                                   \
    (FIND(p.gemm, "cblas_" letter "gemm") && FIND(p.syrk, "cblas_" letter "syrk")               \
     && FIND(p.trsm, "cblas_" letter "trsm") && FIND(p.trmm, "cblas_" letter "trmm")            \
     && FIND(p.symm, "cblas_" letter "symm") && FIND(p.potrf, letter "potrf_")                  \
     && FIND(p.trtri, letter "trtri_"))

static void open_blas(void)
{
    static const char *const names[] = { "libopenblas.so.0", "libopenblas.so" };
    void *library = NULL;
    for (int i = 0; i < 2 && !library; i++) library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        snprintf(blas.why, sizeof blas.why, "OpenBLAS (libopenblas0) is not here: %s", dlerror());
    else if (!FIND_REALS(s, "s") || !FIND_REALS(d, "d") || !FIND(gemv, "cblas_sgemv")
             || !FIND(set_threads, "openblas_set_num_threads")
             || !FIND(get_threads, "openblas_get_num_threads"))
        snprintf(blas.why, sizeof blas.why, "this OpenBLAS lacks a function: %s", dlerror());
    else
        (void)FIND(get_core, "openblas_get_corename");
}

const char *nib_blas_missing(void)
{
    (void)pthread_once(&once, open_blas);
    return blas.why[0] ? blas.why : NULL;
}

void nib_blas_enter(void)
{
    pthread_mutex_lock(&guard);
    if (!inside++) {
        threads_before = blas.get_threads();
        blas.set_threads(1);
    }
    pthread_mutex_unlock(&guard);
}

void nib_blas_leave(void)
{
    pthread_mutex_lock(&guard);
    if (!--inside) blas.set_threads(threads_before);
    pthread_mutex_unlock(&guard);
}

void nib_blas_gemm(int f64, int trans_a, int trans_b, int64_t m, int64_t n, int64_t k,
                   double alpha, const void *a, int64_t lda, const void *b, int64_t ldb,
                   double beta, void *c, int64_t ldc)
{
    const int ta = trans_a ? TRANS : NO_TRANS, tb = trans_b ? TRANS : NO_TRANS;
    if (f64)
        blas.d.gemm(ROW_MAJOR, ta, tb, (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb,
                    beta, c, (int)ldc);
    else
        blas.s.gemm(ROW_MAJOR, ta, tb, (int)m, (int)n, (int)k, (float)alpha, a, (int)lda, b,
                    (int)ldb, (float)beta, c, (int)ldc);
}

void nib_blas_syrk(int f64, int trans_a, int64_t n, int64_t k, double alpha, const void *a,
                   int64_t lda, void *c, int64_t ldc)
{
    const int ta = trans_a ? TRANS : NO_TRANS;
    if (f64)
        blas.d.syrk(ROW_MAJOR, LOWER, ta, (int)n, (int)k, alpha, a, (int)lda, 1.0, c, (int)ldc);
    else
        blas.s.syrk(ROW_MAJOR, LOWER, ta, (int)n, (int)k, (float)alpha, a, (int)lda, 1.0f, c,
                    (int)ldc);
}

void nib_blas_trsm(int f64, int64_t m, int64_t n, const void *l, int64_t ldl, void *b, int64_t ldb)
{
    if (f64)
        blas.d.trsm(ROW_MAJOR, RIGHT, LOWER, TRANS, NON_UNIT, (int)m, (int)n, 1.0, l, (int)ldl, b,
                    (int)ldb);
    else
        blas.s.trsm(ROW_MAJOR, RIGHT, LOWER, TRANS, NON_UNIT, (int)m, (int)n, 1.0f, l, (int)ldl, b,
                    (int)ldb);
}

void nib_blas_trmm(int f64, int64_t m, int64_t n, const void *l, int64_t ldl, void *b, int64_t ldb)
{
    if (f64)
        blas.d.trmm(ROW_MAJOR, RIGHT, LOWER, NO_TRANS, UNIT, (int)m, (int)n, 1.0, l, (int)ldl, b,
                    (int)ldb);
    else
        blas.s.trmm(ROW_MAJOR, RIGHT, LOWER, NO_TRANS, UNIT, (int)m, (int)n, 1.0f, l, (int)ldl, b,
                    (int)ldb);
}

void nib_blas_symm(int f64, int64_t m, int64_t n, const void *h, int64_t ldh, const void *b,
                   int64_t ldb, void *c, int64_t ldc)
{
    if (f64)
        blas.d.symm(ROW_MAJOR, RIGHT, LOWER, (int)m, (int)n, 1.0, h, (int)ldh, b, (int)ldb, 0.0, c,
                    (int)ldc);
    else
        blas.s.symm(ROW_MAJOR, RIGHT, LOWER, (int)m, (int)n, 1.0f, h, (int)ldh, b, (int)ldb, 0.0f,
                    c, (int)ldc);
}

/* LAPACK's matrices are column-major: a row-major lower triangle is its upper one. */
int nib_lapack_potrf(int f64, int64_t n, void *a, int64_t lda)
{
    const int size = (int)n, ld = (int)lda;
    int info = 0;
    if (f64) blas.d.potrf("U", &size, a, &ld, &info, 1);
    else blas.s.potrf("U", &size, a, &ld, &info, 1);
    return info;
}

int nib_lapack_trtri(int f64, int64_t n, void *a, int64_t lda)
{
    const int size = (int)n, ld = (int)lda;
    int info = 0;
    if (f64) blas.d.trtri("U", "N", &size, a, &ld, &info, 1, 1);
    else blas.s.trtri("U", "N", &size, a, &ld, &info, 1, 1);
    return info;
}

/* ---- for qbench ---- */

const char *nib_bench_gemm_missing(void) { return nib_blas_missing(); }

const char *nib_bench_gemm_core(void)
{
    return !nib_blas_missing() && blas.get_core ? blas.get_core() : "?";
}

void nib_bench_gemm(int64_t m, int64_t n, int64_t k, const float *a, const float *w, float *d,
                    int32_t threads)
{
    const int rows = (int)m, cols = (int)n, depth = (int)k;
    blas.set_threads(threads);
    if (rows == 1)
        blas.gemv(ROW_MAJOR, NO_TRANS, cols, depth, 1.0f, w, depth, a, 1, 0.0f, d, 1);
    else
        blas.s.gemm(ROW_MAJOR, NO_TRANS, TRANS, rows, cols, depth, 1.0f, a, depth, w, depth, 0.0f,
                    d, cols);
}

void nib_bench_potrf(int64_t n, float *a, int32_t threads)
{
    blas.set_threads(threads);
    (void)nib_lapack_potrf(0, n, a, n);
}

void nib_bench_syrk(int64_t n, int64_t k, const float *x, float *h, int32_t threads)
{
    blas.set_threads(threads);
    nib_blas_syrk(0, 1, n, k, 1.0, x, n, h, n);
}
