/* steps.h: fake-quantization by f32 steps: integers and small floats, symmetric and asymmetric, the
 * step dynamic, given, or learned with its gradient (LSQ, arXiv:1902.08153).
 *
 *     integers   value = (q - z) * s,   q = clamp(round(x / s) + z, lo, hi)
 *     floats     value = E(x / s) * s,  E: nearest value of the element, saturating
 *
 * Each operation is one correctly rounded f32 operation, round goes to nearest even, lo .. hi is
 * -2^(b-1) .. 2^(b-1) - 1 for integers of b bits. A step s, and for asymmetric integers a zero
 * point z, is shared by a *group*: elements along a row, a whole row (a channel), or the matrix.
 * Formats whose blocks have scale bytes are fakequant.h's.
 *
 * All that quantize.h says of exec, matrices, memory and asynchrony holds here too; the bytes that
 * are written are the same for every backend, instruction set and thread count. Outputs may take
 * the place of one input (see each function); else no output may overlap an input or another.
 *
 * Special elements. An integer NaN is q = z, value 0. A float NaN is the element's own: +E * s for
 * E2M1, E2M3 and E3M2, NaN for E4M3 and E5M2. Inf, and quotients that overflow, saturate. Integers
 * have no -0; floats keep the sign of x. */
#ifndef NIBBLE_STEPS_H
#define NIBBLE_STEPS_H

#include "nibble/fakequant.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nib_step_element {
    NIB_STEP_E2M1 = 0, /* the values of nib_element */
    NIB_STEP_E2M3 = 1,
    NIB_STEP_E3M2 = 2,
    NIB_STEP_E4M3 = 3,
    NIB_STEP_E5M2 = 4,
    NIB_INT2 = 18, /* 16 + bits */
    NIB_INT3 = 19,
    NIB_INT4 = 20,
    NIB_INT5 = 21,
    NIB_INT6 = 22,
    NIB_INT7 = 23,
    NIB_INT8 = 24
} nib_step_element;

/* What becomes of a step, dynamic or given, before it is used: learned steps that can be stored. */
typedef enum nib_step_rule {
    NIB_STEP_F32       = 0, /* as it is */
    NIB_STEP_E4M3_BYTE = 1, /* e4m3(s / t) * t with the tensor scale t: nearest even, byte 1 at
                               least, saturating: a block's step in NVFP4 */
    NIB_STEP_E8M0_BYTE = 2, /* the least power of two >= s, within 2^-127 .. 2^127 */
    NIB_STEP_BF16      = 3, /* the nearest bf16, to even, within 2^-133 .. 2^128 - 2^120 */
    NIB_STEP_F16       = 4  /* the nearest f16, to even, within 2^-24 .. 65504 */
} nib_step_rule;

/* A step that is not finite and > 0 counts as 1, before its rule and once more after it;
 * nib_steps_check names such steps. A tensor scale that is not, counts as 1 as well, a zero point
 * outside lo .. hi as the nearest inside.
 *
 * Dynamic steps. Over the group's finite elements and 0, mn and mx are the least and the largest:
 *
 *     symmetric    s = max(-mn, mx) / hi             floats: / E
 *     asymmetric   s = (mx - mn) / (hi - lo),  z = clamp(round(lo - mn / s), lo, hi), of s after
 *                  its rule. When mx - mn overflows, s = 2 * ((mx/2 - mn/2) / (hi - lo))
 *
 * s is 2^-149 at least, so that no nonzero element is lost to underflow; mn = mx = 0 gives s = 1
 * (before its rule) and z = 0. */
typedef struct nib_step_options {
    uint32_t          size;          /* sizeof(nib_step_options) */
    nib_step_element  element;
    int32_t           asymmetric;    /* 1: with zero points; integers only */
    nib_step_rule     step_rule;
    nib_fake_gradient gradient;      /* of grad_in; read by the backward pass alone */
    int64_t           group;         /* elements along a row that share a step: a multiple of 8, the
                                        last of a row may be short; >= cols: the row; 0: the whole
                                        matrix. G = ceil(cols / group) groups a row */
    const float      *steps;         /* NULL: dynamic. Else where the device computes: that of group
                                        k of row r at r * G + k; of the whole matrix: 1 float */
    const int8_t     *zeros;         /* likewise; given exactly when steps is and asymmetric is 1 */
    const float      *range;         /* exactly for a dynamic step of the whole matrix: 2 floats
                                        where the device computes, {-mn, mx}, so that ranges of
                                        parts merge by max. One that is not finite and > 0 is 0 */
    const float      *tensor_scale;  /* exactly for NIB_STEP_E4M3_BYTE: 1 float where the device
                                        computes */
    float            *steps_out;     /* NULL, or out: the steps that were used, as steps lie */
    int8_t           *zeros_out;     /* NULL, or out: their zero points; asymmetric only */
    uint8_t          *mask;          /* as in nib_fake_options */
    int64_t           ld_mask_bytes;
    float             grad_factor;   /* of grad_steps; 0: 1 / sqrt(N * hi), N the elements of the
                                        group; floats: E for hi. Read by the backward pass alone */
} nib_step_options;

/* dst = the value of each element of src.
 *
 *   src      rows x cols
 *   options  in: all but steps_out, zeros_out and mask, which are written if given. An element is
 *            clamped (mask bit 0) unless lo - z <= x / s <= hi - z, or |x / s| <= E, the quotient
 *            rounded to f32: so NaN is
 *   dst      out, rows x cols, any dtype: each value is rounded to it once. May be src: the same
 *            data, dtype and ld_elems
 *
 * One pass over src; the elements of large dynamic groups are read again, from a cache.
 *
 * Returns NIB_ERR_ARGUMENT for options NULL, a size smaller than the first version's, an unknown
 * element, step rule or gradient, asymmetric not 0 or 1 or with a float element, zeros, range or
 * tensor_scale missing or one too many, zeros_out without asymmetric, a grad_factor that is not
 * finite, or dst->data == src->data with another dtype or ld_elems; NIB_ERR_SHAPE if the sizes of
 * src and dst differ, for a group that is negative or neither a multiple of 8 nor >= cols, or for
 * ld_mask_bytes below ceil(cols / 8) or rows * ld_mask_bytes over INT64_MAX; NIB_ERR_ALIGNMENT for
 * a pointer to floats that is not aligned to 4. rows == 0 or cols == 0 succeeds and writes
 * nothing. */
nib_status nib_fake_quantize_steps(const nib_exec *exec, const nib_matrix *src,
                                   const nib_step_options *options, const nib_matrix *dst);

/* Bytes of exec->workspace that nib_fake_quantize_steps_backward needs for grad_steps: 4 for each
 * piece (below) of groups of more than one, else 0. -1 for a negative size, a group that is
 * negative or neither a multiple of 8 nor >= cols, or a result over INT64_MAX. */
int64_t nib_steps_workspace_bytes(int64_t rows, int64_t cols, int64_t group);

/* grad_in = the gradient at src, for the gradient grad_out at the output; grad_steps = that at the
 * steps.
 *
 *   grad_out    rows x cols
 *   src         what the forward pass read. Not read, and may be NULL, when grad_steps is NULL and
 *               gradient is NIB_FAKE_IDENTITY or there is a mask; checked all the same if given
 *   options     as for the forward pass; steps_out and zeros_out are not written. NIB_FAKE_CLAMP
 *               with mask and without grad_steps: the mask is read; else the same bits are made
 *               again from src
 *   grad_in     out, rows x cols, any dtype: grad_out's elements that pass, +0 for the others, bit
 *               for bit and converted as by nib_fake_quantize_backward. May be grad_out: the same
 *               data, dtype and ld_elems
 *   grad_steps  NULL, or out, where the device computes: as many floats as there are steps, which
 *               must be given: a dynamic step follows src and is not learned
 *
 * LSQ. With v = value / s (that is q - z, or E(x / s)) and y = x / s in f32, an element's slope is
 *
 *     d = v - y   unless it is clamped,   d = v   if it is (the bound it is clamped to)
 *
 * and grad_steps = factor * (sum over the group of d * grad_out). A step's rule is passed straight
 * through: the gradient at the rounded step is that at the step. NaN and Inf, in src or grad_out,
 * reach the grad_steps of their own group and no other; a NaN is written as 0x7fffffff.
 *
 * The sum's order is part of the contract. Along a row, each group is cut from its first element
 * into pieces of 1024, and these into units of 8, zeros behind the end. In f32: a unit's products
 * p as ((p0+p4)+(p2+p6))+((p1+p5)+(p3+p7)); lane l of 32 adds units l, l+32, l+64, l+96 to 0 in
 * turn; then lanes l and l+16 are added, l and l+8, and so on. In f64: of a group's pieces (for
 * the whole matrix: row by row) partial sum j of 256 adds pieces j, j+256, ... to 0 in turn; then
 * sums j and j+128, and so on, down to one; times the factor, a f32, and rounded to f32 once.
 *
 * exec->workspace: nib_steps_workspace_bytes, aligned to 4, if grad_steps is given.
 *
 * Returns what nib_fake_quantize_steps returns for options, and for grad_out and grad_in in the
 * places of src and dst; NIB_ERR_ARGUMENT if src is NULL but needed, if grad_steps is given but
 * steps is not, or for a workspace that is NULL or too small; NIB_ERR_SHAPE if src's size differs;
 * NIB_ERR_ALIGNMENT for grad_steps or a workspace not aligned to 4. */
nib_status nib_fake_quantize_steps_backward(const nib_exec *exec, const nib_matrix *grad_out,
                                            const nib_matrix *src,
                                            const nib_step_options *options,
                                            const nib_matrix *grad_in, float *grad_steps);

/* Whether n steps, where the device computes, are all finite and > 0. Synchronising: an optimizer's
 * mistake is found here, not by the passes above.
 *
 *   bad   NULL, or out, host memory: the index of the first step that is not, or -1
 *
 * Returns NIB_ERR_NONFINITE if there is one: the text has its index and value;
 * NIB_ERR_ARGUMENT if steps is NULL and n > 0; NIB_ERR_SHAPE for n negative or over INT64_MAX / 4;
 * NIB_ERR_ALIGNMENT for steps not aligned to 4. */
nib_status nib_steps_check(const nib_exec *exec, const float *steps, int64_t n, int64_t *bad);

#ifdef __cplusplus
}
#endif

#endif
