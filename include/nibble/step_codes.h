/* step_codes.h: integers by f32 steps, stored: the codes q, steps s and zero points z of steps.h,
 *
 *     value = (q - z) * s
 *
 * instead of values. What is written decodes to what nib_fake_quantize_steps gives, bit for bit.
 * Formats whose blocks have scale bytes are format.h's.
 *
 * compressed-tensors' pack-quantized stores q - lo in little-endian words: where a row's codes are
 * whole words, its weight_packed is these bytes, each ^ 0x88 for INT4 and ^ 0x80 for INT8, its
 * weight_scale these steps, which rules BF16 and F16 make what a file holds.
 *
 * All that steps.h says of elements, groups, steps, zero points, special elements, and that
 * quantize.h says of exec, matrices, memory and asynchrony, holds here too. No output may overlap
 * an input or another output. */
#ifndef NIBBLE_STEP_CODES_H
#define NIBBLE_STEP_CODES_H

#include "nibble/steps.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a symmetric group's largest magnitude is divided by for its dynamic step. */
typedef enum nib_step_divisor {
    NIB_STEP_OF_HI   = 0, /* hi: nothing is clamped */
    NIB_STEP_OF_HALF = 1  /* hi + 1/2, half of what all codes span: steps are finer by 1/15 (INT4),
                             and the largest element loses up to half a step if it is > 0.
                             compressed-tensors */
} nib_step_divisor;

/* A matrix of integers. codes, steps and zeros lie where the device computes.
 *
 *     codes   row r begins at byte r * ld_codes_bytes. A code is q in two's complement: of up to 4
 *             bits, two to a byte in 4 bits each, the even column's the lower ones (INT2 and INT3:
 *             with their sign in all bits above); of 5 bits and more, a byte each. Bits behind a
 *             row's last code are written as 0; bytes from there to the next row are not touched
 *     steps   of group g of row r at r * G + g, G = ceil(cols / group)
 *     zeros   likewise, lo .. hi; exactly if asymmetric */
typedef struct nib_packed_steps {
    uint32_t         size;       /* sizeof(nib_packed_steps) */
    nib_step_element element;    /* NIB_INT2 .. NIB_INT8 */
    int32_t          asymmetric;
    nib_step_rule    step_rule;  /* any but NIB_STEP_E4M3_BYTE */
    int64_t          rows, cols;
    int64_t          group;      /* elements along a row that share a step: a multiple of 8, the
                                    last of a row may be short; >= cols: the row */
    uint8_t         *codes;
    int64_t          ld_codes_bytes; /* >= nib_step_codes_row_bytes */
    float           *steps;
    int8_t          *zeros;
    nib_step_divisor divisor;    /* read for symmetric dynamic steps. Of a size without this member:
                                    NIB_STEP_OF_HI */
} nib_packed_steps;

/* Bytes of a row of codes: ceil(cols / 2), or cols. -1 for another element or cols < 0. */
int64_t nib_step_codes_row_bytes(nib_step_element element, int64_t cols);

/* rows * ceil(cols / group), the number of steps. -1 for a negative size, a group that is neither
 * a multiple of 8 nor >= cols, or <= 0, or more than INT64_MAX / 4 of them. */
int64_t nib_step_count(int64_t rows, int64_t cols, int64_t group);

/* dst = the codes of src.
 *
 *   src     rows x cols, any dtype
 *   given   0: steps and zero points by the dynamic rule of steps.h, symmetric ones with dst's
 *           divisor in place of hi, and written. 1: they are read, used by the rule, and stay as
 *           they are
 *   dst     codes written, and with given 0 steps and zeros
 *
 * NaN becomes z, Inf saturates. One pass over src; the elements of large groups are read again,
 * from a cache.
 *
 * Returns NIB_ERR_ARGUMENT for dst or a buffer of it NULL, a size smaller than the first version's,
 * an element that is no integer, an unknown step rule or divisor, asymmetric or given not 0 or 1,
 * or zeros missing or one too many; NIB_ERR_SHAPE if the sizes of src and dst differ, for negative
 * sizes, a group as for nib_step_count, ld_codes_bytes too small, or rows * ld_codes_bytes over
 * INT64_MAX; NIB_ERR_ALIGNMENT for steps not aligned to 4; NIB_ERR_UNSUPPORTED for
 * NIB_STEP_E4M3_BYTE, whose steps would want their tensor scale. rows == 0 or cols == 0 succeeds
 * and writes nothing, and then codes, steps and zeros may be NULL. */
nib_status nib_quantize_steps(const nib_exec *exec, const nib_matrix *src, int32_t given,
                              const nib_packed_steps *dst);

/* dst = the values of src: (q - z) * s, rounded to dst's dtype once. Steps and zero points that are
 * none are used as steps.h says; codes outside lo .. hi, which INT8 and INT4 have not, as they are.
 * Returns what nib_quantize_steps returns, of src and dst in each other's places. */
nib_status nib_dequantize_steps(const nib_exec *exec, const nib_packed_steps *src,
                                const nib_matrix *dst);

#ifdef __cplusplus
}
#endif

#endif
