/* grouped.h: a matrix whose rows belong to groups, each with a tensor scale of its own: the tokens
 * of a mixture of experts, sorted by expert, in one launch and without a look at their numbers
 * from the host.
 *
 * All that quantize.h says of exec, matrices, memory and asynchrony holds here too.
 */
#ifndef NIBBLE_GROUPED_H
#define NIBBLE_GROUPED_H

#include "nibble/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows begin(g) .. begin(g + 1) - 1 are group g's, which may be empty:
 *
 *     begin(g) = the largest of 0 and offsets[0] .. offsets[g], but at most rows
 *
 * which is offsets[g] itself where offsets rise from 0 or more to rows or less. So any offsets are
 * safe: no row outside of the matrix is touched, and none is of two groups. Rows that are in no
 * group are neither read nor written. */
typedef struct nib_groups {
    uint32_t       size;    /* sizeof(nib_groups) */
    int64_t        count;   /* >= 0 */
    const int64_t *offsets; /* count + 1, where the device computes; NULL if count is 0 */
} nib_groups;

/* Bytes of the scales of a grouped matrix: those of one matrix for NIB_SCALES_LINEAR; for
 * NIB_SCALES_SWIZZLED_128X4 those of rows + 127 * min(count, rows) rows, rounded down to a multiple
 * of 128: enough for all groups, whatever their sizes. -1 for an invalid format or layout, a
 * negative number, or a size over INT64_MAX. */
int64_t nib_grouped_scales_bytes(nib_format format, nib_scale_layout layout, int64_t count,
                                 int64_t rows, int64_t cols);

/* Quantizes each group as a matrix of its own.
 *
 *   groups   count groups
 *   src      rows x cols
 *   options  as for nib_quantize, but tensor_amax is NULL or an array of count: group g's is
 *            tensor_amax[g]
 *   dst      as for nib_quantize, but tensor_scale is an array of count, in or out; codes are
 *            those of one matrix; scales, nib_grouped_scales_bytes of them:
 *
 *     LINEAR          those of one matrix: group g's begin at row begin(g)
 *     SWIZZLED_128X4  group g's are a swizzled matrix that begins at row
 *                     sum over h < g of up(size of h, 128), its padding written as 0. Bytes behind
 *                     the last group's are left alone. The layout of CUTLASS's and vLLM's grouped
 *                     multiplications
 *
 * Group g's bytes are those of nib_quantize of its rows alone, whose tiles with scale_rows of 16
 * begin at its first row; with stochastic rounding, and offset + g + floor(begin(g) * cols / 4),
 * modulo 2^64, in place of random's offset. Empty groups still get a tensor scale that follows from
 * an amax.
 *
 * Returns what nib_quantize returns; NIB_ERR_ARGUMENT for groups NULL, a size smaller than the
 * first version's, or offsets NULL with count > 0; NIB_ERR_SHAPE for a negative count, or scales
 * over INT64_MAX bytes; NIB_ERR_ALIGNMENT for offsets that are not aligned to 8;
 * NIB_ERR_UNSUPPORTED on a GPU where a grid would have 2^31 blocks, one of 32 rows of a group or
 * more and 1024 columns or more, 256 with scale_rows of 16. count, rows or cols of 0 succeed. */
nib_status nib_quantize_grouped(const nib_exec *exec, const nib_groups *groups,
                                const nib_matrix *src, const nib_quantize_options *options,
                                const nib_packed *dst);

/* amax[g] = the largest finite |x| of group g's rows, 0 if there is none: tensor_amax of
 * nib_quantize_grouped.
 *
 *   amax   out, count floats where the device computes; may be NULL if count is 0
 *
 * Returns what nib_quantize_grouped returns for groups and src, and NIB_ERR_ARGUMENT for amax
 * NULL. */
nib_status nib_amax_grouped(const nib_exec *exec, const nib_groups *groups, const nib_matrix *src,
                            float *amax);

#ifdef __cplusplus
}
#endif

#endif
