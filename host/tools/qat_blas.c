/* qat_blas.c: the matrix product of qat.h by OpenBLAS, on one thread: the same bits on each run. */
#include <cblas.h>

#include "host/tools/qat.h"

void qat_multiply(int ta, int tb, int64_t rows, int64_t cols, int64_t k, llm_real alpha,
                  const llm_real *a, int64_t lda, const llm_real *b, int64_t ldb, int add,
                  llm_real *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (blasint)rows, (blasint)cols, (blasint)k, alpha, a, (blasint)lda, b, (blasint)ldb,
                add ? 1.0f : 0.0f, c, (blasint)ldc);
}
