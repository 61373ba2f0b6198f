/* backend.h: the only seam between host/ and kernels/.
 *
 * host/ validates a request once, fills in defaults, and calls through this table. A backend
 * may assume valid arguments and must not check them again. NULL entry: the backend lacks the
 * operation, which host/ reports as NIB_ERR_UNSUPPORTED.
 */
#ifndef NIB_BACKEND_H
#define NIB_BACKEND_H

#include "nibble/calibrate.h"
#include "nibble/device.h"
#include "nibble/fakequant.h"
#include "nibble/format.h"
#include "nibble/gemm.h"
#include "nibble/gptq.h"
#include "nibble/grouped.h"
#include "nibble/quantize.h"
#include "nibble/step_codes.h"
#include "nibble/transform.h"

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
    int32_t ordinal; /* CUDA device */
    int32_t debug;   /* CUDA: check pointers before and wait after each call */
    char   *why;     /* NIB_WHY_BYTES, "" : a backend's own words for its failure, if it has any */
} nib_launch;

enum { NIB_WHY_BYTES = 512 };

/* Options with every default filled in. */
typedef struct nib_quantize_request {
    nib_rules        rules;
    nib_scale_choice scale_choice;
    nib_rounding     rounding;
    const float     *tensor_amax; /* NULL: dst->tensor_scale is an input */
    const uint64_t  *random;
    int32_t          scale_rows; /* 16, or, for scales of each row, 0 or 1 */
    int32_t          given;      /* of quantize alone: dst->scales are an input. scale_rows is then
                                    1 and scale_choice only that of a tensor scale */
} nib_quantize_request;

typedef struct nib_fake_request {
    nib_quantize_request quantize;
    nib_format           format;
    const float         *tensor_scale;  /* not NULL exactly if the format has a tensor scale and
                                           quantize.tensor_amax is NULL */
    nib_fake_gradient    gradient;
    uint8_t             *mask;          /* forward: written, backward: read; or NULL */
    int64_t              ld_mask_bytes;
    const uint8_t       *scales;        /* given; NULL: by quantize. With them its scale_rows is 1
                                           and its scale_choice only that of a tensor scale */
    nib_scale_layout     scale_layout;
} nib_fake_request;

/* Of nib_observe_stats and nib_observe_histogram; kernels/common/observe.h says the same. */
enum { NIB_OBSERVE_PIECE = 1024, NIB_OBSERVE_PARTIALS = 4096, NIB_OBSERVE_PARTIAL_BYTES = 56,
       NIB_OBSERVE_BINS = 8192 };
/* Options of steps.h, checked. */
typedef struct nib_step_request {
    nib_step_element  element;
    int32_t           asymmetric;
    nib_step_rule     rule;
    int32_t           middle;       /* symmetric dynamic steps of integers are of hi + 1/2 */
    nib_fake_gradient gradient;
    int32_t           whole;        /* the matrix has one step */
    int64_t           group;        /* elements of a row, a multiple of 8; of the whole matrix, and
                                       of a row that has one step, cols rounded up to one */
    const float      *steps;        /* NULL: dynamic, and if whole from range */
    const int8_t     *zeros;
    const float      *range, *tensor_scale;
    float            *steps_out;
    int8_t           *zeros_out;
    uint8_t          *mask;         /* forward: written; backward: not read, see below */
    int64_t           ld_mask_bytes;
    float             grad_factor;  /* 0: LSQ's own */
    float            *grad_steps;   /* backward, with steps; NULL: not wanted */
} nib_step_request;

/* Rows and columns of a tile of packed weights, to which kernels/gemm_pack.h holds common/. */
enum { NIB_GEMM_GPU_ROWS = 64, NIB_GEMM_GPU_COLS = 64, NIB_GEMM_CPU_ROWS = 8,
       NIB_GEMM_CPU_COLS = 32 };

/* A product, checked. m and the columns of d >= 1; what is summed over may be empty. */
typedef struct nib_gemm_request {
    const nib_gemm_options *options; /* with defaults */
    int32_t                 tactic;  /* of gemm_tactics, for M = a->rows; backward: not read */
    int32_t                 splits;  /* as gemm_need said */
    const nib_matrix       *a;       /* backward: dY */
    const nib_gemm_weights *w;
    const nib_matrix       *d;       /* backward: dX */
    const float            *alpha;   /* or NULL */
    const void             *bias;    /* or NULL */
    const nib_matrix       *residual; /* or NULL */
} nib_gemm_request;

/* One layer of gptq.h, checked; rows and k >= 1, the factor's outcome NIB_GPTQ_DONE unless said. */
typedef struct nib_gptq_request {
    const nib_hessian     *hessian;
    const nib_gptq_factor *factor;
    const nib_matrix      *w;
    const nib_packed      *dst;      /* holds the plain rounding, the tensor scale included */
    nib_quantize_request   quantize; /* that gave it */
    nib_gptq_scales        scales;
    int32_t                guard;
    const volatile int32_t *cancel;  /* or NULL */
    /* Integers instead: NULL, or what holds the plain rounding, of step, whose group is at most k
     * rounded up to 8. dst is NULL then, and quantize is not read. */
    const nib_packed_steps *steps;
    nib_step_request       step;
} nib_gptq_request;

/* Sums over rows. */
typedef struct nib_gptq_sums {
    double  error, weight;
    int64_t plain_rows;
} nib_gptq_sums;

typedef struct nib_backend {
    uint32_t    version; /* NIB_BACKEND_VERSION */
    const char *name;    /* "cpu portable", "cpu avx2", "cpu avx512", "cuda" */

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
    /* The same for batch->count >= 1 matrices. NULL: host/ calls the entry above for each. */
    nib_status (*quantize_batch)(const nib_launch *launch, const nib_batch *batch,
                                 const nib_matrix *src, const nib_quantize_request *request,
                                 const nib_packed *dst);
    nib_status (*dequantize_batch)(const nib_launch *launch, const nib_batch *batch,
                                   const nib_packed *src, const nib_matrix *dst);
    nib_status (*amax_batch)(const nib_launch *launch, const nib_batch *batch,
                             const nib_matrix *src, float *amax, uint64_t *nonfinite);
    /* quantize and then quantize_stats, with the same bytes and the same report, in one pass. */
    nib_status (*quantize_measured)(const nib_launch *launch, const nib_matrix *src,
                                    const nib_quantize_request *request, const nib_packed *dst,
                                    nib_quantize_report *report);
    /* rows and cols >= 1. dst may be src, grad_in may be grad_out. src is NULL when it is not read:
     * for NIB_FAKE_IDENTITY, never in place, and for NIB_FAKE_CLAMP with a mask. */
    nib_status (*fake_quantize)(const nib_launch *launch, const nib_matrix *src,
                                const nib_fake_request *request, const nib_matrix *dst);
    nib_status (*fake_quantize_backward)(const nib_launch *launch, const nib_matrix *grad_out,
                                         const nib_matrix *src, const nib_fake_request *request,
                                         const nib_matrix *grad_in);
    /* calibrate.h. rows, cols and n >= 1. */
    nib_status (*observe_range)(const nib_launch *launch, const nib_matrix *src, float *range);
    nib_status (*observe_range_rows)(const nib_launch *launch, const nib_matrix *src,
                                     float *range);
    nib_status (*observe_ema)(const nib_launch *launch, int64_t n, const float *now, float keep,
                              float *average);
    nib_status (*observe_histogram)(const nib_launch *launch, const nib_matrix *src,
                                    const float *top, int32_t bins, uint64_t *counts);
    nib_status (*observe_stats)(const nib_launch *launch, const nib_matrix *src,
                                const nib_matrix *quantized, const uint8_t *mask,
                                int64_t ld_mask_bytes, nib_tensor_stats *stats);
    /* rows and cols >= 1. dst may be src, grad_in may be grad_out. The backward entry always reads
     * src: for grad_steps, or for NIB_FAKE_CLAMP without a mask. Other gradients by steps are
     * fake_quantize_backward's. launch->workspace: see nib_steps_workspace_bytes. */
    nib_status (*fake_quantize_steps)(const nib_launch *launch, const nib_matrix *src,
                                      const nib_step_request *request, const nib_matrix *dst);
    nib_status (*fake_quantize_steps_backward)(const nib_launch *launch,
                                               const nib_matrix *grad_out, const nib_matrix *src,
                                               const nib_step_request *request,
                                               const nib_matrix *grad_in);
    /* rows and cols >= 1. Members of transform that its op does not read are NULL. In the second
     * they may be 0: a tensor scale alone. */
    nib_status (*transform_apply)(const nib_launch *launch, const nib_transform *transform,
                                  const nib_matrix *src, const nib_matrix *dst);
    nib_status (*quantize_transformed)(const nib_launch *launch, const nib_transform *transform,
                                       const nib_matrix *src, const nib_quantize_request *request,
                                       const nib_packed *dst);
    /* count >= 1; rows or cols may be 0. */
    nib_status (*quantize_grouped)(const nib_launch *launch, const nib_groups *groups,
                                   const nib_matrix *src, const nib_quantize_request *request,
                                   const nib_packed *dst);
    nib_status (*amax_grouped)(const nib_launch *launch, const nib_groups *groups,
                               const nib_matrix *src, float *amax);
    /* quantize of src into rowwise, which may be NULL, and of its transpose into columnwise. */
    nib_status (*quantize_both)(const nib_launch *launch, const nib_matrix *src,
                                const nib_quantize_request *request, const nib_packed *rowwise,
                                const nib_packed *columnwise);
    /* gemm.h. The first two touch no device but to ask what was loaded. gemm_tactics fills in every
     * kernel that can hold the options, m_low .. m_high being where it works, and returns how many;
     * 0: why, of NIB_WHY_BYTES, says what the backend lacks. gemm_plan does the same with ranges as
     * the device is to take them, in order and without gaps from 1 to m_max. */
    int32_t (*gemm_tactics)(const nib_gemm_options *options, const nib_device_info *info,
                            nib_gemm_tactic tactics[NIB_GEMM_TACTICS], char *why);
    int32_t (*gemm_plan)(const nib_gemm_options *options, const nib_device_info *info,
                         nib_gemm_tactic tactics[NIB_GEMM_TACTICS], char *why);
    /* Workspace of a tactic for any 1 .. m rows, which grows with m; *splits: those for m. */
    size_t (*gemm_need)(const nib_gemm_options *options, const nib_device_info *info,
                        const nib_gemm_tactic *tactic, int64_t m, int32_t *splits);
    size_t (*gemm_backward_need)(const nib_gemm_options *options, const nib_device_info *info,
                                 int64_t m);
    /* n and k >= 1. In place, launch->workspace holds >= one row of tiles. */
    nib_status (*gemm_pack)(const nib_launch *launch, const nib_packed *src,
                            const nib_gemm_weights *w);
    nib_status (*gemm_unpack)(const nib_launch *launch, const nib_gemm_weights *w,
                              const nib_matrix *dst);
    nib_status (*gemm)(const nib_launch *launch, const nib_gemm_request *request);
    nib_status (*gemm_backward)(const nib_launch *launch, const nib_gemm_request *request);
    /* hessian.h. k >= 1. hessian_info fills in all but size, bad_row and bad_col of the whole
     * triangle or else of the diagonal alone, and synchronises; so does all below. */
    size_t (*hessian_add_need)(const nib_hessian *hessian, int64_t rows);
    nib_status (*hessian_clear)(const nib_launch *launch, const nib_hessian *hessian);
    nib_status (*hessian_add)(const nib_launch *launch, const nib_matrix *x,
                              nib_hessian_precision precision, const nib_hessian *hessian);
    /* count and rows >= 1; hessians of one k and real. */
    nib_status (*hessian_add_grouped)(const nib_launch *launch, const nib_groups *groups,
                                      const nib_matrix *x, nib_hessian_precision precision,
                                      const nib_hessian *hessians);
    nib_status (*hessian_merge)(const nib_launch *launch, const nib_hessian *from,
                                const nib_hessian *to);
    nib_status (*hessian_rotate)(const nib_launch *launch, const nib_hessian *hessian,
                                 int32_t block);
    nib_status (*hessian_info)(const nib_launch *launch, const nib_hessian *hessian, int32_t whole,
                               nib_hessian_info *info);
    /* added: to the diagonal. *minor: 0, or that of nib_hessian_inverse's info. */
    nib_status (*hessian_inverse)(const nib_launch *launch, const nib_hessian *hessian,
                                  double added, void *u, int64_t ld_elems, int64_t *minor);
    /* gptq.h. The order into factor->order; then, as often as need be, l from H + added I. */
    nib_status (*gptq_order)(const nib_launch *launch, const nib_hessian *hessian,
                             nib_gptq_order order, int32_t block, const nib_gptq_factor *factor);
    nib_status (*gptq_factor)(const nib_launch *launch, const nib_hessian *hessian, double added,
                              const nib_gptq_factor *factor, int64_t *minor);
    /* The first NaN or Inf of a matrix as row and column, or -1 and -1. */
    nib_status (*find_nonfinite)(const nib_launch *launch, const nib_matrix *matrix,
                                 int64_t at[2]);
    /* Workspace of the two below. gptq_measure: error and weight of what dst holds, whatever the
     * factor's outcome; leaves each row's error in the workspace, for gptq_sweep's guard.
     * gptq_sweep: codes and scales into dst, or codes, steps and zeros into steps; weight is not
     * written. CANCELLED. group: of integers, else 0. */
    size_t (*gptq_need)(nib_real real, int64_t rows, int64_t k, int64_t group, int32_t threads);
    nib_status (*gptq_measure)(const nib_launch *launch, const nib_gptq_request *request,
                               nib_gptq_sums *sums);
    nib_status (*gptq_sweep)(const nib_launch *launch, const nib_gptq_request *request,
                             nib_gptq_sums *sums);
    /* step_codes.h. rows and cols >= 1. request: of the packed matrix, whose steps and zeros are
     * written (steps_out), or read (steps): always so in the second. */
    nib_status (*quantize_steps)(const nib_launch *launch, const nib_matrix *src,
                                 const nib_step_request *request, const nib_packed_steps *dst);
    nib_status (*dequantize_steps)(const nib_launch *launch, const nib_packed_steps *src,
                                   const nib_step_request *request, const nib_matrix *dst);
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
    /* Solvers of calibrate.h, and *to += *part. */
    float (*percentile_amax)(const uint64_t *counts, int32_t bins, float top, double percentile);
    float (*kl_amax)(const uint64_t *counts, int32_t bins, float top,
                     const nib_calibrate_options *options);
    float (*mse_amax)(const uint64_t *counts, int32_t bins, float top,
                      const nib_calibrate_options *options);
    void (*tensor_stats_add)(nib_tensor_stats *to, const nib_tensor_stats *part);
    /* The index of the first of n steps that is not finite and > 0, or n. */
    int64_t (*bad_step)(const float *steps, int64_t n);
} nib_scalar_ops;

extern const nib_backend nib_backend_cpu_portable;
extern const nib_scalar_ops nib_scalar_cpu;

/* NULL when this processor, or this build, does not have it. */
const nib_backend *nib_backend_cpu_avx2(void);
const nib_backend *nib_backend_cpu_avx512(void);

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
    /* d[M,N] = a[M,K] * w[N,K]^T, row-major f32 without gaps, by OpenBLAS, which is opened when it
     * is first asked for. gemm_missing: NULL, or why it cannot be had; gemm only after NULL. */
    const char *(*gemm_missing)(void);
    const char *(*gemm_core)(void); /* the processor that its loops are for: "SkylakeX", or "?" */
    void (*gemm)(int64_t m, int64_t n, int64_t k, const float *a, const float *w, float *d,
                 int32_t threads);
    /* Its Cholesky factorisation of the lower triangle of a, n x n, in place; and the lower
     * triangle of h += x^T x, x k x n. */
    void (*potrf)(int64_t n, float *a, int32_t threads);
    void (*syrk)(int64_t n, int64_t k, const float *x, float *h, int32_t threads);
} nib_bench_ops;

extern const nib_bench_ops nib_bench_cpu;

/* Memory, streams and graphs of a backend, for tests and tools: the library itself allocates
 * nothing where a device computes. On the CPU a stream is NULL and everything is done at once;
 * entries that it does not offer are NULL. why: NIB_WHY_BYTES, for the backend's words. */
typedef struct nib_runtime_ops {
    nib_status (*allocate)(int32_t ordinal, size_t bytes, void **memory, char *why);
    nib_status (*release)(int32_t ordinal, void *memory, char *why);
    /* Between host and device, either way, after the stream's earlier work; done on return. */
    nib_status (*copy)(int32_t ordinal, void *stream, void *dst, const void *src, size_t bytes,
                       char *why);
    nib_status (*fill)(int32_t ordinal, void *stream, void *dst, int byte, size_t bytes,
                       char *why); /* asynchronous */
    nib_status (*stream_create)(int32_t ordinal, void **stream, char *why);
    nib_status (*stream_destroy)(int32_t ordinal, void *stream, char *why);
    nib_status (*synchronize)(int32_t ordinal, void *stream, char *why);
    nib_status (*capture_begin)(int32_t ordinal, void *stream, char *why);
    nib_status (*capture_end)(int32_t ordinal, void *stream, void **graph, char *why);
    nib_status (*graph_launch)(int32_t ordinal, void *graph, void *stream, char *why);
    nib_status (*graph_destroy)(int32_t ordinal, void *graph, char *why);
    /* Time stamps in a stream, and milliseconds between two that were reached. */
    nib_status (*event_create)(int32_t ordinal, void **event, char *why);
    nib_status (*event_destroy)(int32_t ordinal, void *event, char *why);
    nib_status (*event_record)(int32_t ordinal, void *event, void *stream, char *why);
    nib_status (*event_elapsed)(int32_t ordinal, void *from, void *to, float *milliseconds,
                                char *why);
} nib_runtime_ops;

extern const nib_runtime_ops nib_runtime_cpu;

/* The limits of a GPU, each enqueued on the stream; device memory, aligned to 16 bytes and a
 * multiple of them long. read adds the sum of all 32-bit words to *sink, fill writes 0x55; *sink
 * of fma and mma, 4 bytes, stays as it is, *flops is what the launch will do. */
typedef struct nib_bench_cuda_ops {
    nib_status (*read)(const nib_launch *launch, const void *src, size_t bytes, void *sink);
    nib_status (*copy)(const nib_launch *launch, void *dst, const void *src, size_t bytes);
    nib_status (*fill)(const nib_launch *launch, void *dst, size_t bytes);
    nib_status (*fma)(const nib_launch *launch, int64_t iterations, void *sink, double *flops);
    /* Tensor cores by mma.sync m16n8k16 of f16; sums in f32, or in f16. */
    nib_status (*mma)(const nib_launch *launch, int64_t iterations, int32_t f16_sums, void *sink,
                      double *flops);
    /* d[M,N] = a[M,K] * w[N,K]^T, row-major without gaps, all of one dtype, sums in f32, by the
     * fastest of cublasLt's heuristics: gemm_plan times them on these buffers and synchronises;
     * gemm is enqueued. UNSUPPORTED where the build or the machine has no cublasLt. */
    nib_status (*gemm_plan)(const nib_launch *launch, nib_dtype dtype, int64_t m, int64_t n,
                            int64_t k, const void *a, const void *w, void *d, void **plan);
    nib_status (*gemm)(const nib_launch *launch, void *plan, const void *a, const void *w, void *d);
    void (*gemm_release)(void *plan); /* NULL is allowed */
    /* Keeps the stream busy for some 20 to 50 us with almost nothing: what is enqueued behind it is
     * there before its turn comes. sink as for fma. */
    nib_status (*pause)(const nib_launch *launch, void *sink);
    /* gemm_plan of h[k,k] = x^T x, the whole square, which gemm with x, x and h runs. x is rows x k
     * of dtype, or for F64 of doubles; h of real. */
    nib_status (*square_plan)(const nib_launch *launch, nib_dtype dtype, nib_real real,
                              nib_hessian_precision precision, int64_t rows, int64_t k,
                              const void *x, void *h, void **plan);
    /* cuSOLVER's Cholesky factorisation of a[n,n]'s lower triangle, f32, in place. Synchronises. */
    nib_status (*potrf)(const nib_launch *launch, int64_t n, float *a);
} nib_bench_cuda_ops;

/* ---- the CUDA backend ----
 * libnibble_cuda.so exports one object of this type, under the name NIB_CUDA_SYMBOL; a static
 * program links it from libnibble_cuda.a. A version or size other than expected is refused. */
#define NIB_CUDA_TABLE_VERSION 1
#define NIB_CUDA_SYMBOL "nib_cuda_table_v1"

typedef struct nib_cuda_table {
    uint32_t                  version; /* NIB_CUDA_TABLE_VERSION */
    uint32_t                  size;    /* sizeof(nib_cuda_table) */
    const char               *library; /* nibble's version, as nib_version() gives it */
    const nib_backend        *ops;
    const nib_runtime_ops    *runtime;
    const nib_bench_cuda_ops *bench;
    /* Fills in all of *info but its size, or says why the device cannot be used (NO_DEVICE, or
     * UNSUPPORTED for an ordinal that is not there). Makes no context. Never crashes, whatever is
     * missing. */
    nib_status (*probe)(int32_t ordinal, nib_device_info *info, char *why);
    /* See nib_prepare. */
    nib_status (*prepare)(int32_t ordinal, uint32_t ops, char *why);
} nib_cuda_table;

extern const nib_cuda_table nib_cuda_table_v1;

/* What stands behind a device, for tools and tests; host/device.c. The second: NULL on the CPU. */
const nib_runtime_ops    *nib_device_runtime(const nib_device *device);
const nib_bench_cuda_ops *nib_device_bench(const nib_device *device);

/* Largest useful number of threads; what exec->threads == 0 means. */
int32_t nib_cpu_max_threads(void);

#ifdef __cplusplus
}
#endif

#endif
