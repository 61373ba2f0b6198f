/* gptq.h: weights rounded one input at a time, each rounding's error carried to the inputs that are
 * still to come. GPTQ (arXiv:2210.17323), computed as LDLQ (QuIP, arXiv:2307.13304; the same
 * numbers, arXiv:2507.18553): one Cholesky factorisation, no inverse, for all layers that are fed
 * by the same input.
 *
 *     W   rows x k, a layer's weights          H = sum of x x^T, hessian.h
 *     s   the order in which inputs are taken  H' = H + damping I, dead inputs' diagonal + 1,
 *                                                   permuted by s
 *     H' = R R^T, R upper triangular           A = R diag(R)^-1
 *     w'_j = w_j + sum over k < j of (w_k - q_k) A_kj      q_j = round(w'_j)
 *     tr((W - Q) H' (W - Q)^T) = sum of (w'_j - q_j)^2 R_jj^2
 *
 * round() is that of quantize.h: to the format's element, by the rules, with the block's scale; or
 * for integers that of step_codes.h, with the group's step and zero point. w'_j is rounded to f32
 * before it. A dead input (diagonal 0: the tokens never had it) gets plain rounding and passes
 * nothing on.
 *
 * Two steps. nib_gptq_factor_make factors H once. nib_gptq_quantize, or nib_gptq_quantize_steps,
 * takes a layer's weights and that factor; layers that share an input (q, k and v; gate and up)
 * share the factor, and their tensor scale by the largest of their amax as
 * options.quantize.tensor_amax.
 *
 * All that hessian.h says of exec, buffers, OpenBLAS, threads, graphs and statuses holds. Both
 * steps are synchronising (NIB_ERR_UNSUPPORTED while exec's stream is being captured); inputs are
 * never changed. On any failure outputs are undefined, inputs as they were. Memory beyond weights
 * and outputs, in bytes, with r = 4 or 8 bytes of a real:
 *
 *     H           k * ld_elems * r                the caller's
 *     factor      k * ld_elems * r + 4 k          the caller's; ld_elems k + 16 rather than a power
 *                                                 of two, which caches do not like
 *     workspace   nib_gptq_workspace_bytes. On the CPU the weights of 256 rows for each of T
 *                 threads, T = min(threads, ceil(rows / 256)), as reals and as bytes; at most
 *                 T (257 k (r + 1) + 32 k + 180000 r + 1024) + 8 rows + 17 k + 1024. On CUDA of
 *                 R = min(rows, 4096) rows, at most R (k (r + 1) + k / 8 + 512 r + 1) + 16 rows
 *                 + 7 MiB. Of integers in G groups a row, nib_gptq_steps_workspace_bytes: 2048 G
 *                 instead of 32 k, or 8 R G instead of R k / 8
 *     within      a call on the CPU allocates and frees 8 k for each thread, and 40 k + 8 rows, or
 *                 less
 */
#ifndef NIBBLE_GPTQ_H
#define NIBBLE_GPTQ_H

#include "nibble/hessian.h"
#include "nibble/step_codes.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The order in which inputs are rounded. Ties go to the lower index. The codes' and scales' places
 * stay those of the weights: nothing has to be permuted at inference. */
typedef enum nib_gptq_order {
    NIB_GPTQ_NATURAL     = 0,
    NIB_GPTQ_ACT         = 1, /* falling diagonal of H: "act-order", with static scales */
    NIB_GPTQ_GROUP_AWARE = 2  /* blocks by their largest diagonal, and within a block by the
                                 diagonal, both falling. GPTQModel's GAR */
} nib_gptq_order;

/* When a block's scale is chosen, and by what. plain: quantize.scale_choice of the options. */
typedef enum nib_gptq_scales {
    NIB_GPTQ_SCALES_FROZEN        = 0, /* plain, from W, before anything is rounded */
    NIB_GPTQ_SCALES_FRESH         = 1, /* plain, from a block's weights as they stand, brought up to
                                          date with all errors so far, when its first input's turn
                                          comes; not with NIB_GPTQ_ACT */
    NIB_GPTQ_SCALES_HESSIAN       = 2, /* from W: of the candidates of NIB_SCALE_MSE (8 E4M3 scales
                                          around amax's, or 3 E8M0 ones) that of the least
                                          d H_b d^T, d = w - round(w), H_b the Hessian of the
                                          block's inputs, no damping. On correlated inputs that
                                          sum is at most 35 % (NVFP4) or 7 % (MXFP4) above the
                                          one by all 126 or 254 scales, which yet make the
                                          layer's error 0.98 to 1.24 times as large:
                                          tests/gptq_scales_test.c */
    NIB_GPTQ_SCALES_HESSIAN_FRESH = 3, /* the same of weights as they stand, as for FRESH */
    NIB_GPTQ_SCALES_HESSIAN_FULL  = 4, /* as HESSIAN, of all 126 or 254 scales */
    NIB_GPTQ_SCALES_BY_FORMAT     = 5  /* of checkpoint.h alone: FROZEN of integers in groups over
                                          128 or by the row, else HESSIAN */
} nib_gptq_scales;

typedef struct nib_gptq_factor_options {
    uint32_t       size;         /* sizeof(nib_gptq_factor_options) */
    nib_gptq_order order;
    int32_t        block;        /* GROUP_AWARE: the format's block length, or the integers' group:
                                    a multiple of 8, or >= k; else not read */
    double         damping;      /* times the mean of H's diagonal; 0 means 0.01, below 0 none */
    double         most_damping; /* where H + damping is not positive definite, damping is raised
                                    10 times (from none to 0.01), up to this; 0 means 1.0 */
} nib_gptq_factor_options;

typedef enum nib_gptq_outcome {
    NIB_GPTQ_DONE         = 0,
    NIB_GPTQ_NO_TOKENS    = 1, /* *hessian->tokens is 0 (an expert that was never chosen), or H is
                                  0: weights get plain rounding */
    NIB_GPTQ_NOT_DEFINITE = 2  /* not even with the most damping: weights get plain rounding */
} nib_gptq_outcome;

/* A factor. The caller sets the first members, whose buffers it owns and keeps while the factor is
 * used; the others are written. */
typedef struct nib_gptq_factor {
    uint32_t         size;             /* sizeof(nib_gptq_factor) */
    nib_real         real;             /* the Hessian's; the type of all sums of the second step */
    int64_t          k;
    void            *l;                /* k x k reals: the triangle i >= j is used. Element (i, j),
                                          i > j: A of steps k-1-i and k-1-j; (i, i): R of k-1-i */
    int64_t          ld_elems;         /* >= k */
    int32_t         *order;            /* k: order[s] is the input that is taken as the s-th */

    nib_gptq_outcome outcome;
    int32_t          tries;            /* factorisations that were tried */
    int64_t          dead;             /* dead inputs */
    uint64_t         tokens;           /* of the Hessian; UINT64_MAX: not counted. Fewer than k:
                                          only damping makes it definite */
    double           damping;          /* what was used, times the mean of the diagonal */
    double           added;            /* the number that was added to the diagonal */
    nib_gptq_order   order_kind;
    int32_t          block;            /* of GROUP_AWARE, else 0 */
    double           seconds;
} nib_gptq_factor;

/* *factor = the factor of hessian.
 *
 *   options  NULL: natural order, damping 0.01 raised to 1.0 at most
 *   factor   size, real, k, l, ld_elems and order are the caller's; real and k are hessian's
 *
 * An H that is not definite, or has no tokens, is no failure: outcome says so, and the second step
 * rounds plainly. Workspace: none. Returns NIB_ERR_NONFINITE as nib_hessian_check does, for NaN
 * or Inf anywhere in H's triangle;
 * NIB_ERR_SHAPE if real or k differ from the Hessian's; NIB_ERR_ARGUMENT for damping or
 * most_damping that is not finite, most_damping < 0, or a block that is neither a
 * multiple of 8 nor >= k. */
nib_status nib_gptq_factor_make(const nib_exec *exec, const nib_hessian *hessian,
                                const nib_gptq_factor_options *options, nib_gptq_factor *factor);

typedef struct nib_gptq_options {
    uint32_t             size;          /* sizeof(nib_gptq_options) */
    nib_gptq_scales      scales;
    nib_quantize_options quantize;      /* plain rounding: rules, scale_choice, tensor_amax, as for
                                           nib_quantize; to nearest, scales of one row. A zeroed one
                                           with its size set: nib_quantize's defaults */
    int32_t              without_guard; /* 1: rows are kept even where plain rounding is better, and
                                           plain_error and weight are not computed: the time of two
                                           triangular products is saved */
    const volatile int32_t *cancel;     /* NULL, or host: not 0 ends the call early, with
                                           NIB_ERR_CANCELLED; looked at between tiles of rows */
} nib_gptq_options;

/* What became of one layer. Host memory. Errors are of H itself, without damping, in f64 from sums
 * in the factor's type. Of an H that is not definite a row's sum can be below 0: it counts as 0
 * where outcome is NIB_GPTQ_DONE, and as it is where it is NIB_GPTQ_NOT_DEFINITE. */
typedef struct nib_gptq_report {
    uint32_t         size;        /* sizeof(nib_gptq_report) */
    nib_gptq_outcome outcome;     /* the factor's */
    int64_t          rows;
    int64_t          plain_rows;  /* rows whose plain rounding was better, or no worse, and was
                                     kept; all of them if outcome is not NIB_GPTQ_DONE */
    double           error;       /* tr((W - Q) H (W - Q)^T) of what was written */
    double           plain_error; /* of nib_quantize with the same options */
    double           weight;      /* tr(W H W^T); error / weight is the relative output error */
    double           seconds_plain, seconds_measure, seconds_sweep; /* plain rounding; plain_error
                                     and weight; rounding with carried errors */
} nib_gptq_report;

/* Bytes of exec->workspace, for exec->threads (CPU; 0 means all), aligned to 64. SIZE_MAX for bad
 * arguments. */
size_t nib_gptq_workspace_bytes(const nib_device *device, nib_real real, int64_t rows, int64_t k,
                                int32_t threads);

/* dst = the rounding of w that makes tr((W - Q) H (W - Q)^T) small.
 *
 *   hessian  the one that factor was made of: its diagonal is read, and for the HESSIAN scales the
 *            blocks along it
 *   w        rows x k, any dtype, finite
 *   options  NULL: frozen scales, nib_quantize's defaults, with the guard
 *   dst      as for nib_quantize
 *   report   NULL, or out
 *
 * Each row keeps its plain rounding, the codes and scales of nib_quantize, where that has no larger
 * error (the guard). The relative error of the output is never above plain rounding's, but for
 * the rounding of the sums: 1e-4 in F32, 1e-12 in F64, relatively, at damping 0.01.
 *
 * Returns what nib_quantize returns; NIB_ERR_NONFINITE, with row and column in the text and nothing
 * written, for NaN or Inf in w, or in the diagonal of H; NIB_ERR_SHAPE if w->cols, k of hessian and
 * of factor differ; NIB_ERR_UNSUPPORTED for stochastic rounding, scale_rows 16, FRESH or
 * HESSIAN_FRESH scales with a factor by NIB_GPTQ_ACT, or with one by GROUP_AWARE of another block
 * length than the format's; NIB_ERR_CANCELLED. */
nib_status nib_gptq_quantize(const nib_exec *exec, const nib_hessian *hessian,
                             const nib_gptq_factor *factor, const nib_matrix *w,
                             const nib_gptq_options *options, const nib_packed *dst,
                             nib_gptq_report *report);

/* As nib_gptq_workspace_bytes, for integers whose groups have group inputs; SIZE_MAX too for one
 * that nib_step_count refuses. */
size_t nib_gptq_steps_workspace_bytes(const nib_device *device, nib_real real, int64_t rows,
                                      int64_t k, int64_t group, int32_t threads);

/* The same for integers: dst holds codes, steps and zero points (step_codes.h). Plain rounding is
 * nib_quantize_steps with dynamic steps.
 *
 *   options  quantize is not read. FROZEN: the plain rounding's steps. FRESH: the dynamic rule on a
 *            group's weights as they stand. HESSIAN, HESSIAN_FRESH: of its steps for mn and mx
 *            times 1 - i / 32, i = 0 .. 15, that of the least d H_b d^T, the first of equals
 *   dst      as for nib_quantize_steps
 *
 * Guard, report, order, cancel and errors are those of nib_gptq_quantize.
 *
 * Returns what nib_quantize_steps returns; NONFINITE, SHAPE and CANCELLED as above; and
 * NIB_ERR_UNSUPPORTED for HESSIAN_FULL, which has no end here; for all but FROZEN with groups of
 * more than 128 inputs, what is brought up to date at a time; for fresh steps with a factor by
 * NIB_GPTQ_ACT; or with a factor by GROUP_AWARE of another block length than dst's group. */
nib_status nib_gptq_quantize_steps(const nib_exec *exec, const nib_hessian *hessian,
                                   const nib_gptq_factor *factor, const nib_matrix *w,
                                   const nib_gptq_options *options, const nib_packed_steps *dst,
                                   nib_gptq_report *report);

#ifdef __cplusplus
}
#endif

#endif
