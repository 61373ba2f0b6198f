/* backend.h: the only seam between host/ and kernels/.
 *
 * host/ validates a request once, fills in defaults, and calls through this table. A backend
 * may assume valid arguments and must not check them again. NULL entry: the backend lacks the
 * operation, which host/ reports as NIB_ERR_UNSUPPORTED.
 */
#ifndef NIB_BACKEND_H
#define NIB_BACKEND_H

#include "nibble/device.h"
#include "nibble/format.h"
#include "nibble/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NIB_BACKEND_VERSION 1

/* What a kernel needs of nib_exec. */
typedef struct nib_launch {
    void   *stream;
    void   *workspace;
    size_t  workspace_bytes;
    int32_t threads; /* CPU: >= 1 */
} nib_launch;

/* Options with every default filled in. */
typedef struct nib_quantize_request {
    nib_rules        rules;
    nib_scale_choice scale_choice;
    nib_rounding     rounding;
    const float     *tensor_amax; /* NULL: dst->tensor_scale is an input */
    const uint64_t  *random;
} nib_quantize_request;

typedef struct nib_backend {
    uint32_t    version; /* NIB_BACKEND_VERSION */
    const char *name;    /* "cpu portable", "cpu avx2", "cuda" */

    nib_status (*quantize)(const nib_launch *launch, const nib_matrix *src,
                           const nib_quantize_request *request, const nib_packed *dst);
    nib_status (*dequantize)(const nib_launch *launch, const nib_packed *src,
                             const nib_matrix *dst);
    nib_status (*amax)(const nib_launch *launch, const nib_matrix *src, float *amax,
                       uint64_t *nonfinite);
    nib_status (*amax_rows)(const nib_launch *launch, const nib_matrix *src, float *amax);
    nib_status (*relayout_scales)(const nib_launch *launch, int64_t rows, int64_t scale_cols,
                                  nib_scale_layout from, const uint8_t *src,
                                  nib_scale_layout to, uint8_t *dst);
    nib_status (*quantize_stats)(const nib_launch *launch, const nib_matrix *src,
                                 const nib_packed *packed, nib_quantize_report *report);
} nib_backend;

/* Scalar rules and foreign blocks, computed on the host whatever the device. */
typedef struct nib_scalar_ops {
    void (*tensor_scale)(nib_format format, const nib_rules *rules, nib_scale_choice choice,
                         nib_dtype source, float amax, float *encode, float *decode);
    /* n elements, a multiple of the type's block, from src into dst; type: ggml's number. */
    void (*decode_foreign)(int32_t ggml_type, const uint8_t *src, int64_t n, float *dst);
    void (*to_f32)(nib_dtype dtype, const void *src, int64_t n, float *dst);
    void (*from_f32)(nib_dtype dtype, const float *src, int64_t n, void *dst);
    /* Rows of codes and linear scales to GGUF's interleaved blocks and back. */
    void (*pack_gguf_row)(nib_format format, int64_t cols, const uint8_t *codes,
                          const uint8_t *scales, uint8_t *dst);
    /* Adds b's error against a, n elements, to *report (elements, nonfinite, max_error,
     * sum_sq_error, sum_sq of a). Equal bits, NaN and Inf included, are no error. */
    void (*difference)(const float *a, const float *b, int64_t n, nib_quantize_report *report);
} nib_scalar_ops;

extern const nib_backend nib_backend_cpu_portable;
extern const nib_scalar_ops nib_scalar_cpu;

/* NULL when this processor, or this build, does not have it. */
const nib_backend *nib_backend_cpu_avx2(void);

/* What this machine can do at best: the limits that a benchmark holds kernels against. Each uses
 * threads threads (>= 1) on equal parts of the buffers, which are 64-byte aligned. */
typedef struct nib_bench_ops {
    void (*read)(const void *src, size_t bytes, int32_t threads); /* loads and sums every byte */
    void (*copy)(void *dst, const void *src, size_t bytes, int32_t threads); /* memcpy */
    void (*nt_copy)(void *dst, const void *src, size_t bytes, int32_t threads);
    void (*nt_fill)(void *dst, size_t bytes, int32_t threads); /* with 0x55. nt_: non-temporal
                                                                  stores, where there are any */
    /* Independent f32 multiply-adds; returns the operations that all threads did, 2 for each. */
    double (*fma_flops)(int64_t iterations, int32_t threads);
} nib_bench_ops;

extern const nib_bench_ops nib_bench_cpu;

/* Largest useful number of threads; what exec->threads == 0 means. */
int32_t nib_cpu_max_threads(void);

#ifdef __cplusplus
}
#endif

#endif
