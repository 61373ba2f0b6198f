/* hessian.h: the second moments of a layer's inputs, H = sum over tokens of x x^T, which GPTQ and
 * its relatives weigh errors with; and their inverse's factor.
 *
 * A Hessian here is a sum, not a mean: what uses it does not depend on a constant factor, and sums
 * of parts are the whole. H is symmetric and one triangle of it is kept: row-major, element (i, j)
 * with j <= i. Nothing else of the buffer is read or written, unless said.
 *
 * exec and matrices: as quantize.h says. Buffers belong to the caller and live where exec's device
 * computes. On the CPU the dense products come from OpenBLAS, which is opened when first needed
 * (Debian: libopenblas0) and set to one thread while a call of hessian.h or gptq.h runs, since the
 * calls' own tiles are what is spread over threads: results are the same from run to run and for
 * every number of threads, on one kind of processor. A program that multiplies by OpenBLAS in other
 * threads at the same time does so on one thread meanwhile.
 *
 * On CUDA nib_hessian_add, nib_hessian_add_grouped and nib_gptq_quantize need cublasLt, and
 * nib_hessian_inverse and nib_gptq_factor_make need cuSOLVER; nib_prepare with NIB_PREPARE_GPTQ
 * opens both.
 *
 * Each function also returns NIB_ERR_ARGUMENT for a NULL pointer, a size below the first version's
 * or an unknown enum value; NIB_ERR_SHAPE for k or ld_elems < k out of 0 .. 2^31 - 1;
 * NIB_ERR_ALIGNMENT for data not aligned to its numbers; NIB_ERR_UNSUPPORTED where the backend does
 * not have the operation, or OpenBLAS is missing (the text says how it was looked for);
 * NIB_ERR_OUT_OF_MEMORY for a workspace smaller than the query says, or not aligned to 64 bytes,
 * with nothing written. k == 0 succeeds.
 *
 * Graphs (CUDA). A synchronising function returns NIB_ERR_UNSUPPORTED while exec's stream is being
 * captured, and the capture goes on; a capture of another stream, by any thread, is not disturbed,
 * but for what CUDA says of the legacy default stream. While captured, nib_hessian_add may return
 * NIB_ERR_NOT_PREPARED even after nib_prepare: see that.
 */
#ifndef NIBBLE_HESSIAN_H
#define NIBBLE_HESSIAN_H

#include "nibble/grouped.h"
#include "nibble/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nib_real {
    NIB_REAL_F32 = 0,
    NIB_REAL_F64 = 1
} nib_real;

typedef struct nib_hessian {
    uint32_t  size;     /* sizeof(nib_hessian) */
    nib_real  real;     /* type of data, and of all arithmetic on it */
    int64_t   k;        /* inputs of the layer */
    void     *data;     /* k x k, the triangle j <= i */
    int64_t   ld_elems; /* reals from one row to the next, >= k */
    uint64_t *tokens;   /* 1 number where the device computes: how many x were added. NULL or
                           UINT64_MAX: they are not counted, and H counts as one of many */
} nib_hessian;

typedef enum nib_hessian_precision {
    NIB_HESSIAN_EXACT = 0, /* products of data's type, and sums in it */
    NIB_HESSIAN_TF32  = 1  /* F32: factors of f32 may be rounded or cut to 11 bits of significand,
                              as tensor cores do. F64, and the CPU, compute EXACT */
} nib_hessian_precision;

/* H = 0, *tokens = 0. Asynchronous. */
nib_status nib_hessian_clear(const nib_exec *exec, const nib_hessian *hessian);

/* Bytes of exec->workspace that nib_hessian_add of up to so many rows needs; grows with rows.
 * SIZE_MAX for bad arguments. */
size_t nib_hessian_add_workspace_bytes(const nib_device *device, const nib_hessian *hessian,
                                       int64_t rows);

/* H += X^T X, *tokens += rows.
 *
 *   x   rows x k: a token a row, of any dtype
 *
 * F32: each sum over a call's tokens is within rows * 2^-24 * sum |x_i x_j|, on CUDA twice that of
 * f16 and bf16 tokens and with TF32 (tensor cores align the terms of a step to their largest and
 * cut them, which costs more than rounding one after another), and adding to H what was there
 * before costs 2^-24 of |H_ij| for each 256 tokens of a call or part of them; F64: the same with
 * 2^-53, bf16 and f16 products being exact. TF32 adds 2^-9 * sum |x_i x_j|: a factor cut to 11 bits
 * loses less than 2^-10 of itself, a product of two less than 2^-9.
 * NaN and Inf go through, as does what overflows: elements of H are then not finite, which
 * nib_hessian_check finds. Asynchronous. Also returns NIB_ERR_SHAPE if x->cols is not k, or
 * x->ld_elems not below 2^31. */
nib_status nib_hessian_add(const nib_exec *exec, const nib_matrix *x,
                           nib_hessian_precision precision, const nib_hessian *hessian);

/* hessians[g] += X_g^T X_g, its tokens += rows of group g, for each group g of x's rows: the inputs
 * of a mixture of experts, sorted by expert (grouped.h), each to its own expert's Hessian.
 *
 *   groups     count groups; where they begin is what grouped.h says of any offsets: each row is
 *              added to one Hessian or to none
 *   x          rows x k
 *   hessians   count of them, in host memory, all of x's columns and of one real; no two share
 *              data or tokens
 *
 * Bits are those of nib_hessian_add of each group's rows alone. An empty group's Hessian and tokens
 * are neither read nor written: expert by expert, tokens tell who was never chosen. Workspace:
 * nib_hessian_add_workspace_bytes of hessians[0] and of x's rows, as groups take turns.
 *
 * Synchronising on CUDA in one respect, since cublasLt must be told how many rows a product has:
 * after the stream's earlier work the offsets are copied to host memory that the call allocates.
 * Sums are then enqueued, as nib_hessian_add's are; a failure of the device may leave some of them
 * out. Returns what nib_hessian_add returns; NIB_ERR_ARGUMENT for groups NULL, a size of groups
 * below the first version's, or hessians or offsets NULL with count > 0; NIB_ERR_SHAPE for a
 * negative count; NIB_ERR_ALIGNMENT for offsets not aligned to 8; NIB_ERR_UNSUPPORTED if real
 * differs among hessians, or while exec's stream is being captured. count or rows of 0 succeed. */
nib_status nib_hessian_add_grouped(const nib_exec *exec, const nib_groups *groups,
                                   const nib_matrix *x, nib_hessian_precision precision,
                                   const nib_hessian *hessians);

/* to += from, the sum of partial Hessians, element by element; tokens too, which are not counted
 * any more (UINT64_MAX) if from's are not. Between processes the caller reduces data and tokens by
 * itself: MPI_SUM of the k * ld_elems numbers, whose other triangle should hold numbers as well, so
 * fill the buffer with zeros before the first nib_hessian_clear. Asynchronous. Also returns
 * NIB_ERR_SHAPE if k differs, NIB_ERR_UNSUPPORTED if real does. */
nib_status nib_hessian_merge(const nib_exec *exec, const nib_hessian *from, const nib_hessian *to);

/* H becomes B H B^T, the Hessian of rotated inputs: B has H_block / sqrt(block), Sylvester's, along
 * its diagonal. Goes with weights that nib_transform's hadamard of the same size has rotated
 * (MR-GPTQ, arXiv:2509.23202); tr(D H D^T) of any rotated D stays. block: 16, 32, 64 or 128.
 * Asynchronous. Also returns NIB_ERR_SHAPE if k is no multiple of block. */
nib_status nib_hessian_rotate(const nib_exec *exec, const nib_hessian *hessian, int32_t block);

/* What a Hessian's elements say. Host memory. */
typedef struct nib_hessian_info {
    uint32_t size;       /* sizeof(nib_hessian_info) */
    uint64_t tokens;     /* UINT64_MAX: not counted */
    int64_t  dead;       /* inputs whose diagonal element is 0: they never were anything else */
    int64_t  nonfinite;  /* diagonal elements that are NaN, Inf or negative */
    int64_t  first_nonfinite; /* the first such input, or -1 */
    double   min_diag, mean_diag, max_diag; /* of the finite ones; 0 if there are none */
    int64_t  bad_row, bad_col; /* the first element of the triangle, along its rows, that is NaN or
                                  Inf, or negative on the diagonal; -1 and -1: none is */
} nib_hessian_info;

/* Fills in *info: reads the triangle once. A NaN or Inf among the tokens of an input makes its row
 * and column of H not finite, and its diagonal element with them; sums that overflow give Inf and
 * NaN where they do. Synchronising. Returns NIB_ERR_NONFINITE, with *info filled in and row and
 * column of the first bad element in the text, if there is one, and the first bad input, if the
 * diagonal has one. A smaller size leaves out bad_row and bad_col, nothing else. */
nib_status nib_hessian_check(const nib_exec *exec, const nib_hessian *hessian,
                             nib_hessian_info *info);

/* Writes count Hessians of host memory to a safetensors file: for each, "NAME" [k, k] with zeros in
 * the other triangle, F32 or F64, and "NAME.tokens" [1] of U64 (left out where tokens is NULL). The
 * file appears under its name when it is whole. Synchronising, on the calling thread. Returns
 * NIB_ERR_EXISTS if path exists (force: 1 replaces it), NIB_ERR_IO. */
nib_status nib_hessian_save(const char *path, int64_t count, const char *const *names,
                            const nib_hessian *hessians, int32_t force);

/* Reads one, from a safetensors file or a folder with one. First with data NULL, which fills in
 * real, k and ld_elems = k; then with data, and tokens or NULL, in host memory and real, k as the
 * file has them. *tokens is UINT64_MAX, not counted, if the file does not tell; of a name
 * "P.weight", "P.tokens" tells where there is no "P.weight.tokens" and no P. Returns NIB_ERR_IO,
 * NIB_ERR_FORMAT for a file that is none, NIB_ERR_SHAPE if there is no such tensor (the text lists
 * some), it is not square or not F32 or F64, or differs from *hessian. */
nib_status nib_hessian_load(const char *path, const char *name, nib_hessian *hessian);

/* U, upper triangular, with (H + damping I)^-1 = U^T U: what SparseGPT (arXiv:2301.00774), SpQR and
 * the published GPTQ take; by one Cholesky factorisation of the reversed H and one triangular
 * inverse.
 *
 *   damping   >= 0, added to the diagonal as it is; dead inputs get 1 more
 *   u         out: k x k of hessian->real, zeros below the diagonal, rows ld_elems apart; may be
 *             hessian->data
 *   info      out, host: 0, or the number >= 1 of the leading minor, counted from H's end, that is
 *             not positive definite: u is then undefined
 *
 * Synchronising. Workspace: none. Returns NIB_ERR_NONFINITE as nib_hessian_check does, with nothing
 * written. */
nib_status nib_hessian_inverse(const nib_exec *exec, const nib_hessian *hessian, double damping,
                               void *u, int64_t ld_elems, int64_t *info);

#ifdef __cplusplus
}
#endif

#endif
