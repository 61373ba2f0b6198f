/* cublaslt.cuh: products of plain matrices by NVIDIA's cublasLt, which is opened at run time and
 * never linked: for large products with packed weights, and to hold kernels against. */
#ifndef NIB_CUBLASLT_CUH
#define NIB_CUBLASLT_CUH

#include "ops_cuda.cuh"

/* NULL if products run on this device, or why not: a text of this thread's until it asks again. Any
 * thread, any time; the first call opens the library, once for the process. Whether a device gets a
 * handle is known after nib_cuda_lt_load; what needs one that was refused asks for it again. */
const char *nib_cuda_lt_why_not(int32_t ordinal);
bool        nib_cuda_lt_is_refused(int32_t ordinal);

/* The current device's handle, if there is a library, and none yet. Callers exclude each other, as
 * those of nib_cuda_prepare do. */
void nib_cuda_lt_load();

/* Whether a library of this name would do, and why not (NIB_WHY_BYTES). It stays open. */
bool nib_cuda_lt_would_open(const char *name, char *why);

/* What a and w are multiplied in, and added up in. */
enum LtSums {
    LT_F32,  /* factors as they are */
    LT_TF32, /* f32 factors may be rounded to 11 bits of significand */
    LT_F64   /* all three are doubles, dtypes are not read */
};

/* d[m,n] = factor * a[m,k] * w, or with adds d + that, row-major, one rounding. w is n x k if
 * transposed, else k x n; a is k x m if a_transposed. Dtypes: a's, which is w's, f16, bf16 or f32;
 * d's that or f32.
 *
 * a and d are on 16 bytes, unless strict: then they are aligned to their elements, and no sum is
 * cut into parts. */
struct LtProduct {
    nib_dtype    a_dtype, d_dtype;
    bool         transposed;
    int64_t      m, n, k, a_ld, w_ld, d_ld; /* elements */
    const void  *a, *w;
    void        *d;
    float        factor;
    const float *factor_at; /* NULL, or instead 2 floats where the device computes: factor, 0; with
                               f32 sums, and not with adds */
    LtSums       sums;
    bool         a_transposed, adds, strict;
};

/* Enqueues p on launch's stream; nothing is allocated on the device, nothing waits. The workspace
 * is on 256 bytes. The algorithm is remembered for products of the same kind. Returns UNSUPPORTED,
 * DEVICE or OUT_OF_MEMORY with cublasLt's status in words; NOT_PREPARED where it cannot choose an
 * algorithm because the stream is being captured. */
nib_status nib_cuda_lt_product(const nib_launch *launch, const LtProduct &p, void *workspace,
                               size_t workspace_bytes);

#endif
