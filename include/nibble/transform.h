/* transform.h: RMSNorm, silu(x) * y and block Hadamard rotations, alone or on the way to a packed
 * matrix: what stands before the matrix multiplications of a transformer, in one pass.
 *
 * All that quantize.h says of exec, matrices, memory and asynchrony holds here too; the bytes that
 * are written are the same for every backend, instruction set and thread count. Arithmetic is f32,
 * each operation correctly rounded, in the order of kernels/common/transform_rule.h; nothing is
 * fused or approximated beyond what is said here. No output may overlap an input or another
 * output, but residual_out, which may be residual.
 */
#ifndef NIBBLE_TRANSFORM_H
#define NIBBLE_TRANSFORM_H

#include "nibble/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nib_transform_op {
    NIB_TRANSFORM_NONE     = 0,
    NIB_TRANSFORM_RMSNORM  = 1, /* arXiv:1910.07467, with a residual before it if there is one:
                                   h = round(x + residual), which is residual_out
                                   t = (h * r) * weight,   r = 1 / sqrt(sum(h * h) / cols + eps) */
    NIB_TRANSFORM_SILU_MUL = 2  /* t = silu(x) * y,   silu(x) = x / (1 + e^-x): the gate of SwiGLU,
                                   arXiv:2002.05202 */
} nib_transform_op;             /* append-only */

/* T of a matrix, first the op, then the rotation. Members that the op does not name are not read;
 * zeros are the identity. round() is to src's dtype, nearest even, overflow to Inf.
 *
 * silu is within 4 ulp of its value where that is a normal f32, else within 2^-148; silu(-Inf) is
 * -0. NaN and Inf otherwise go through as IEEE 754 says: one of them spoils its row for RMSNORM,
 * and its run of the rotation. */
typedef struct nib_transform {
    uint32_t          size;         /* sizeof(nib_transform) */
    nib_transform_op  op;
    const void       *weight;       /* RMSNORM: NULL for ones, or cols numbers where the device
                                       computes, of weight_dtype */
    nib_dtype         weight_dtype; /* src's, or NIB_F32; not read if weight is NULL */
    float             eps;          /* RMSNORM: finite, >= 0 */
    const nib_matrix *residual;     /* RMSNORM: NULL, or as src: the same size and dtype */
    const nib_matrix *residual_out; /* RMSNORM: NULL, or, where there is a residual, out, as src.
                                       May be residual: the same data and ld_elems */
    const nib_matrix *y;            /* SILU_MUL: as src. Two halves of one matrix: data apart by
                                       half a row, ld_elems that of the whole */
    int32_t           hadamard;     /* 0, or k = 16, 32, 64 or 128, of which cols is a multiple:
                                       each run t of k elements of a row becomes (H_k t) / sqrt(k),
                                       H_k Sylvester's, by butterflies of distance 1, 2, ..., k / 2,
                                       then a product with 1 / sqrt(k) rounded to f32.
                                       arXiv:2404.00456 */
    const uint8_t    *signs;        /* NULL, or with hadamard ceil(cols / 8) bytes where the device
                                       computes: where bit c % 8 of byte c / 8 is 1, element c of
                                       each row is negated before it is rotated. Any alignment */
    float            *amax;         /* NULL, or in and out, 1 float where the device computes,
                                       finite, >= 0: raised to the largest finite |round(T(src))|,
                                       for the scale of a later call */
} nib_transform;

/* dst = T(src), rounded once, to dst's dtype.
 *
 *   src   rows x cols
 *   dst   out, rows x cols, any dtype. Every NaN is 0x7fff or, in f32, 0x7fffffff
 *
 * Returns NIB_ERR_ARGUMENT for transform NULL, a size smaller than the first version's, an unknown
 * op or hadamard, eps negative or not finite, an unknown weight_dtype or one that is neither src's
 * nor f32, signs without hadamard, residual_out without residual, y that is missing, a residual,
 * residual_out or y of another dtype than src's, residual_out in residual's place with another
 * ld_elems; NIB_ERR_SHAPE for one of another size, or cols that is no multiple of hadamard;
 * NIB_ERR_ALIGNMENT for weight or amax not aligned to its element; what quantize.h says of exec
 * and of each matrix. rows == 0 or cols == 0 succeeds and writes nothing. */
nib_status nib_transform_apply(const nib_exec *exec, const nib_transform *transform,
                               const nib_matrix *src, const nib_matrix *dst);

/* dst = nib_quantize(round(T(src))), bit for bit what nib_transform_apply to src's dtype and then
 * nib_quantize make; in one pass over src, or two over rows of more than 16384 elements, or, after
 * RMSNORM, where rows share their scales, are not whole units of 16 elements, or options ask for
 * more than amax scales by TE's or MX's rules, to nearest.
 *
 *   src      rows x cols as dst
 *   options  as for nib_quantize. The tensor scale is given, or follows from a tensor_amax that is:
 *            the amax of T(src) is known only at its end. transform->amax of an earlier step may
 *            take its place (delayed scaling)
 *   dst      as for nib_quantize
 *
 * Also returns what nib_quantize returns for options and dst, and NIB_ERR_ARGUMENT if
 * options->tensor_amax is transform->amax. rows == 0 or cols == 0 succeeds and writes no codes. */
nib_status nib_quantize_transformed(const nib_exec *exec, const nib_transform *transform,
                                    const nib_matrix *src, const nib_quantize_options *options,
                                    const nib_packed *dst);

#ifdef __cplusplus
}
#endif

#endif
