/* blas_cpu.c: OpenBLAS's f32 product, to be held against; opened at run time, since the library
 * itself does without. The names are those of CBLAS (www.netlib.org/blas, cblas.h). */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "bench_cpu.h"

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 }; /* CBLAS_ORDER, CBLAS_TRANSPOSE */

static struct {
    char why[256];
    void (*gemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
    void (*gemv)(int order, int trans, int m, int n, float alpha, const float *a, int lda,
                 const float *x, int incx, float beta, float *y, int incy);
    void (*set_threads)(int threads);
} blas;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* POSIX lets a pointer to a function come out of dlsym so. */
#define FIND(library, member, name) (*(void **)&blas.member = dlsym((library), (name)))

static void open_blas(void)
{
    static const char *const names[] = { "libopenblas.so.0", "libopenblas.so" };
    void *library = NULL;
    for (int i = 0; i < 2 && !library; i++) library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        snprintf(blas.why, sizeof blas.why, "OpenBLAS (libopenblas0) is not here: %s", dlerror());
    else if (!FIND(library, gemm, "cblas_sgemm") || !FIND(library, gemv, "cblas_sgemv")
             || !FIND(library, set_threads, "openblas_set_num_threads"))
        snprintf(blas.why, sizeof blas.why, "this OpenBLAS lacks a function: %s", dlerror());
}

const char *nib_bench_gemm_missing(void)
{
    (void)pthread_once(&once, open_blas);
    return blas.why[0] ? blas.why : NULL;
}

void nib_bench_gemm(int64_t m, int64_t n, int64_t k, const float *a, const float *w, float *d,
                    int32_t threads)
{
    const int rows = (int)m, cols = (int)n, depth = (int)k;
    blas.set_threads(threads);
    if (rows == 1)
        blas.gemv(ROW_MAJOR, NO_TRANS, cols, depth, 1.0f, w, depth, a, 1, 0.0f, d, 1);
    else
        blas.gemm(ROW_MAJOR, NO_TRANS, TRANS, rows, cols, depth, 1.0f, a, depth, w, depth, 0.0f, d,
                  cols);
}
