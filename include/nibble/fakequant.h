/* fakequant.h: values as a quantized matrix would have them, in one pass and without its bytes, and
 * the gradient back through them: quantization-aware training.
 *
 * All that quantize.h says of exec, matrices, memory and asynchrony holds here too; the bytes that
 * are written are the same for every backend, instruction set and thread count. Outputs may take
 * the place of one input (see each function); else no output may overlap an input or another.
 */
#ifndef NIBBLE_FAKEQUANT_H
#define NIBBLE_FAKEQUANT_H

#include "nibble/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The gradient of a rounding is 0 almost everywhere; a surrogate takes its place. */
typedef enum nib_fake_gradient {
    NIB_FAKE_IDENTITY = 0, /* straight through: grad_in = grad_out. arXiv:1308.3432 */
    NIB_FAKE_CLAMP    = 1  /* straight through where the element was not clamped, else 0 */
} nib_fake_gradient;       /* append-only: gradients of learned scales (LSQ, arXiv:1902.08153) will
                              be further values, their outputs further members of the options */

/* An element x of a block with this step (format.h) is clamped unless
 *
 *     |x| <= E * step       E the element type's largest value, the product rounded to f32.
 *
 * So NaN is clamped, Inf is unless the product is Inf, and so is all of a block whose scale is NaN;
 * in a block of step 0 only zeros pass. nib_quantize_report.saturated counts the clamped ones that
 * are finite and stored as the largest element. */
typedef struct nib_fake_options {
    uint32_t                    size;          /* sizeof(nib_fake_options) */
    nib_format                  format;
    const nib_quantize_options *quantize;      /* NULL: as for nib_quantize. tensor_amax: the tensor
                                                  scale follows from it and is stored nowhere */
    const float                *tensor_scale;  /* 1 float where the device computes, a multiplier:
                                                  given exactly when the format has one and there is
                                                  no quantize->tensor_amax */
    nib_fake_gradient           gradient;      /* read by nib_fake_quantize_backward alone */
    uint8_t                    *mask;          /* NULL or, where the device computes, rows of
                                                  ceil(cols / 8) bytes: bit c % 8 of byte c / 8 of
                                                  a row is 1 unless element c is clamped, and 0
                                                  behind the row's end. Any alignment */
    int64_t                     ld_mask_bytes; /* bytes from one row of mask to the next; not read
                                                  when mask is NULL */
    const uint8_t              *scales;        /* NULL, or where the device computes: block scales
                                                  that are given, see below. Options of a size
                                                  without these two members have NULL */
    nib_scale_layout            scale_layout;  /* of scales; not read when scales is NULL */
} nib_fake_options;

/* Given scales are nib_scales_bytes(format, scale_layout, rows, cols) bytes as in a nib_packed, at
 * any alignment, such as a checkpoint's beside its tensor scale. An element is rounded by its
 * block's byte as nib_quantize rounds by the byte that it stores, and the step of that byte makes
 * its value and says whether it is clamped. So with the bytes that nib_quantize writes for the same
 * src, quantize and tensor scale all is bit for bit what it is without them.
 *
 * Elements have no say in their scale: those that are not finite are rounded as under
 * NIB_NONFINITE_SATURATE. Of the rules, element, ties and zero_sign are read, and tensor where
 * there is a tensor_amax. quantize->scale_choice and scale_rows have nothing to choose, but that
 * four-over-six makes a tensor scale of tensor_amax by its own M.
 *
 * A byte that is NaN makes all of its block NaN. In a block of step 0 (E4M3 byte 0; E8M0's is
 * 2^-127) every value is a zero, with the sign of its code, but those of codes that are NaN. The
 * sign bit of an E4M3 byte is not read, and padding neither. */

/* dst = dequantize(quantize(src)): bit for bit what nib_quantize and nib_dequantize make, with the
 * same options and tensor scale, or by given scales. In one pass; nothing but dst and mask is
 * written.
 *
 *   src      rows x cols. Its dtype is the source of the rules that ask for one
 *   options  mask: NULL, or out: which elements are not clamped; bytes between a row's mask and
 *            the next are left alone
 *   dst      out, rows x cols, any dtype: each product element * step is rounded to it once. May
 *            be src: the same data, dtype and ld_elems
 *
 * Returns what nib_quantize returns for src and options->quantize, and NIB_ERR_ARGUMENT for
 * options NULL, a size smaller than the first version's, an invalid format, an unknown gradient,
 * a tensor scale that is missing or one too many, scales of an unknown layout, or dst->data ==
 * src->data with another dtype or ld_elems; NIB_ERR_SHAPE if the sizes of src and dst differ, for
 * ld_mask_bytes below ceil(cols / 8), or for rows * ld_mask_bytes or given scales over INT64_MAX
 * bytes; NIB_ERR_ALIGNMENT for a tensor_scale that is not aligned to 4. rows == 0 or cols == 0
 * succeeds and writes nothing. */
nib_status nib_fake_quantize(const nib_exec *exec, const nib_matrix *src,
                             const nib_fake_options *options, const nib_matrix *dst);

/* grad_in = the surrogate's gradient at src, for the gradient grad_out at its output.
 *
 *   grad_out  rows x cols
 *   src       what nib_fake_quantize read. Not read for NIB_FAKE_IDENTITY, or when there is a
 *             mask: may be NULL then, and is checked all the same if it is not
 *   options   as for the forward pass. NIB_FAKE_CLAMP with mask: in: what the forward pass wrote.
 *             Without: the same bits are made again from src; scales do not depend on the rounding,
 *             and given ones are read again
 *   grad_in   out, rows x cols, any dtype. May be grad_out: the same data, dtype and ld_elems
 *
 * An element that passes is grad_out's, bit for bit if the dtypes are equal, else converted: to
 * nearest even, overflow gives Inf, every NaN becomes 0x7fff or, in f32, 0x7fffffff. One that is
 * clamped is +0, whatever its gradient. So gradients that are not finite pass as they are and
 * meet no other element.
 *
 * Returns what nib_fake_quantize returns for options, and for grad_out and grad_in in the places
 * of src and dst; NIB_ERR_ARGUMENT if src is NULL but needed; NIB_ERR_SHAPE if its size differs. */
nib_status nib_fake_quantize_backward(const nib_exec *exec, const nib_matrix *grad_out,
                                      const nib_matrix *src, const nib_fake_options *options,
                                      const nib_matrix *grad_in);

#ifdef __cplusplus
}
#endif

#endif
