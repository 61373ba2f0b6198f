/* quantize.h: plain matrices to packed ones and back, scale layouts, error statistics.
 *
 * Everything here but nib_quantize_stats is asynchronous: a CUDA call is enqueued on exec's
 * stream, a CPU call returns when done. Nothing is allocated. Buffers belong to the caller and
 * live where exec's device computes; inputs and outputs must not overlap. The bytes that are
 * written are the same for every backend, instruction set and thread count.
 *
 * exec. Each function returns NIB_ERR_ARGUMENT if exec or exec->device is NULL, exec->size is
 * smaller than the first version's, threads is outside 0..1024, or a stream is given to the CPU.
 *
 * Matrices. Each function that takes a nib_matrix returns NIB_ERR_ARGUMENT for NULL (data may
 * be NULL when rows or cols is 0) or an unknown dtype, NIB_ERR_SHAPE for a negative size, for
 * ld_elems < cols, or for rows * ld_elems * 4 over INT64_MAX, and NIB_ERR_ALIGNMENT for data
 * not aligned to its element. One that takes a nib_packed returns NIB_ERR_ARGUMENT for NULL, a
 * size smaller than the first version's, an invalid format, code order or scale layout, NULL
 * codes or scales (allowed when there are none), or a tensor_scale that is NULL for a format
 * that has one or given for one that has none; NIB_ERR_SHAPE for bad sizes or ld_codes_bytes
 * below nib_codes_row_bytes; NIB_ERR_UNSUPPORTED for NIB_CODES_GGUF_HALVES with an element
 * that is not 4 bits wide or cols that is no multiple of the block. A float or uint64 that is not
 * aligned to its size gives NIB_ERR_ALIGNMENT. A backend that lacks an operation, or a format,
 * gives NIB_ERR_UNSUPPORTED. rows == 0 or cols == 0 succeeds and writes no codes.
 */
#ifndef NIBBLE_QUANTIZE_H
#define NIBBLE_QUANTIZE_H

#include "nibble/device.h"
#include "nibble/format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a block's scale is chosen. Errors are sums over the block of squared (MSE) or absolute
 * (MAE) differences x - value in f32, added in the order of kernels/common/search.h. */
typedef enum nib_scale_choice {
    NIB_SCALE_AMAX              = 0, /* from the block's amax, by the rules */
    NIB_SCALE_MSE               = 1, /* least MSE of 8 E4M3 scales around amax's, or 3 E8M0 ones.
                                        On Gaussian, Laplacian and Student-t(4) blocks of 16
                                        the mean MSE is within 0.1 % (E2M1) or 1 % (others) of
                                        NIB_SCALE_MSE_FULL's, where amax alone is 20 to 120 %
                                        above it; E8M0: within 0.01 %. tests/search_test.c */
    NIB_SCALE_MSE_FULL          = 2, /* least MSE of all 126 E4M3 scales, or 254 E8M0 ones */
    NIB_SCALE_FOUR_OVER_SIX_MSE = 3, /* the better of amax -> 6 and amax -> 4 with M = 6 * 256;
                                        E2M1 with E4M3 scales only. arXiv:2512.02010 */
    NIB_SCALE_FOUR_OVER_SIX_MAE = 4
} nib_scale_choice;

typedef enum nib_rounding {
    NIB_ROUND_NEAREST    = 0, /* ties by rules.ties */
    NIB_ROUND_STOCHASTIC = 1  /* up with the probability of the distance from below; scales
                                 still round to nearest. See random below */
} nib_rounding;

typedef struct nib_quantize_options {
    uint32_t         size;         /* sizeof(nib_quantize_options) */
    nib_scale_choice scale_choice;
    nib_rounding     rounding;
    const nib_rules *rules;        /* NULL: NIB_RULES_TE */
    const float     *tensor_amax;  /* NULL: dst->tensor_scale is read. Else the amax of the
                                      tensor (or of all that share its scale), where the device
                                      computes: the tensor scale follows from it by the rules
                                      and is written to dst->tensor_scale */
    const uint64_t  *random;       /* STOCHASTIC: seed and offset, where the device computes.
                                      Element i = row * cols + col takes word i % 4 of
                                      Philox4x32-10(counter = offset + i / 4, key = seed) */
    int32_t          scale_rows;   /* 0 or 1: a row's blocks have scales of their own. 16: the rows
                                      of a tile share them, see below. Options of a size without
                                      this member have 0 */
} nib_quantize_options;

/* Scales in two dimensions (scale_rows 16; NVIDIA arXiv:2509.25149): rows 16 g to 16 g + 15, fewer
 * at the matrix's end, are a tile with the columns of one block. The scale that the rules give the
 * amax of the tile is stored in the place of each row's block, so that layouts, nib_dequantize and
 * all else stay as they are. NIB_NONFINITE_NAN: NaN or Inf spoils the whole tile. With blocks of 16
 * a matrix and its transpose, of multiples of 16, get transposed values. The scale choice has to be
 * NIB_SCALE_AMAX. */

/* dst = quantize(src). Blocks run along rows.
 *
 *   src      rows x cols as dst
 *   options  NULL: amax, nearest, TransformerEngine's rules, tensor scale given
 *   dst      in: all but the buffers' contents, and *tensor_scale unless tensor_amax is given
 *            out: codes, scales with zeroed padding, *tensor_scale if tensor_amax is given
 *
 * Bits between the last code of a row and the end of its last byte are zero; bytes from there
 * to ld_codes_bytes are left alone. A tensor scale that is not finite and > 0 counts as 1.
 *
 * Also returns NIB_ERR_ARGUMENT for an option outside its enum, a rules member outside its
 * range, random NULL with stochastic rounding, or scale_rows other than 0, 1 and 16;
 * NIB_ERR_SHAPE if the sizes of src and dst differ; NIB_ERR_UNSUPPORTED for tensor_amax with a
 * format that has no tensor scale, four-over-six with a format other than E2M1 by E4M3, or
 * scale_rows 16 with another choice than NIB_SCALE_AMAX. */
nib_status nib_quantize(const nib_exec *exec, const nib_matrix *src,
                        const nib_quantize_options *options, const nib_packed *dst);

/* dst's codes = quantize(src) by the block scales that dst holds: static ones, of a calibration or
 * of a training that froze them.
 *
 *   src      rows x cols as dst
 *   options  as for nib_quantize, but see below
 *   dst      in: all but the codes, the scales too, and *tensor_scale unless tensor_amax is given
 *            out: codes, *tensor_scale if tensor_amax is given
 *
 * An element is rounded by its block's byte as nib_quantize rounds by the byte that it stores. So
 * by the scales and tensor scale that nib_quantize wrote for the same src and options the codes are
 * its own, and by any others their values are those of nib_fake_quantize by the same scales.
 *
 * Elements have no say in their scale: those that are not finite are rounded as under
 * NIB_NONFINITE_SATURATE. Of the rules, element, ties and zero_sign are read, and tensor where
 * there is a tensor_amax. scale_choice and scale_rows have nothing to choose, but that
 * four-over-six makes a tensor scale of tensor_amax by its own M. The codes of a block whose byte
 * is NaN are 0. The sign bit of an E4M3 byte is not read, and padding neither.
 *
 * Returns what nib_quantize returns. */
nib_status nib_quantize_given(const nib_exec *exec, const nib_matrix *src,
                              const nib_quantize_options *options, const nib_packed *dst);

/* dst = element(code) * step, step = scale * tensor scale: two f32 products, then one rounding
 * to dst's dtype (nearest even; overflow gives Inf as IEEE 754 says). A NaN scale gives NaN;
 * any other step is finite or the overflow of its product.
 * Also returns NIB_ERR_SHAPE if the sizes of src and dst differ. */
nib_status nib_dequantize(const nib_exec *exec, const nib_packed *src, const nib_matrix *dst);

/* *amax = the largest |x| of src's finite elements, 0 if there is none.
 *
 *   amax       1 float where the device computes
 *   nonfinite  NULL, or 1 uint64 where the device computes: the number of NaN and Inf
 *
 * Exact, so that merging parts by max and sum gives the whole. */
nib_status nib_amax(const nib_exec *exec, const nib_matrix *src, float *amax,
                    uint64_t *nonfinite);

/* amax[r] = the largest finite |x| of row r, 0 if there is none. amax: src->rows floats. */
nib_status nib_amax_rows(const nib_exec *exec, const nib_matrix *src, float *amax);

/* The two factors of a tensor whose amax is known on the host, for writers of files.
 *
 *   rules         NULL: NIB_RULES_TE
 *   scale_choice  four-over-six has its own M
 *   source        the dtype of the weights (NIB_TENSOR_SOURCE rounds to it)
 *   encode        S, what compressed-tensors stores as weight_global_scale
 *   decode        t, the multiplier: what nib_quantize writes to *tensor_scale
 *
 * Host memory, any thread, no device. Returns NIB_ERR_ARGUMENT for a NULL pointer, an unknown
 * enum, an amax that is negative or not finite, NIB_ERR_UNSUPPORTED for a format without a
 * tensor scale. */
nib_status nib_tensor_scale(nib_format format, const nib_rules *rules,
                            nib_scale_choice scale_choice, nib_dtype source, float amax,
                            float *encode, float *decode);

/* Copies scales of rows x scale_cols from one layout to the other; padding is written as 0.
 * src and dst are where the device computes; swizzled buffers hold
 * up(rows, 128) * up(scale_cols, 4) bytes. Returns NIB_ERR_ARGUMENT for a NULL buffer or an
 * unknown layout, NIB_ERR_SHAPE for a negative size or a padded size over INT64_MAX. */
nib_status nib_relayout_scales(const nib_exec *exec, int64_t rows, int64_t scale_cols,
                               nib_scale_layout from, const uint8_t *src,
                               nib_scale_layout to, uint8_t *dst);

/* count matrices of one shape, dtype and format at equal distances, such as a layer's experts.
 * The descriptors that go with it describe the first; a stride that a function has no use for
 * is not read. Inputs may overlap each other, at stride 0 for one. Outputs must not: each matrix
 * ends before the next begins, or their rows take turns (stride >= a row, and count of them
 * within the distance of two rows). A single matrix, or an empty one, may have any stride. */
typedef struct nib_batch {
    uint32_t size;                /* sizeof(nib_batch) */
    int64_t  count;               /* >= 0 */
    int64_t  matrix_stride_elems; /* of plain matrices, >= 0 */
    int64_t  codes_stride_bytes;  /* >= 0 */
    int64_t  scales_stride_bytes; /* >= 0 */
    int64_t  tensor_stride;       /* of tensor_scale, tensor_amax, amax and nonfinite: 1, or 0 when
                                     all matrices share one */
} nib_batch;

/* nib_quantize, nib_dequantize and nib_amax of each matrix of a batch: the same bytes as so many
 * single calls, in fewer launches. count == 0 succeeds and writes nothing, but the amax 0 that
 * nib_amax_batch gives with tensor_stride 0.
 *
 *   tensor_stride 1   matrix i has the i-th tensor scale, tensor_amax, amax and nonfinite: arrays
 *                     of count
 *   tensor_stride 0   one of each: a given tensor scale, or the one made of the tensor_amax, is
 *                     that of all; nib_amax_batch gives the largest amax and the sum of nonfinite
 *
 * Stochastic rounding: matrix i is quantized as by nib_quantize with offset + i * ceil(rows * cols
 * / 4), modulo 2^64, in place of random's offset.
 *
 * Also return NIB_ERR_ARGUMENT for batch NULL, a size smaller than the first version's, or a
 * tensor_stride other than 0 or 1; NIB_ERR_SHAPE for a negative count or stride, strides at which
 * outputs overlap, or count * stride plus a matrix over INT64_MAX bytes. amax may be NULL if count
 * is 0 and tensor_stride 1. */
nib_status nib_quantize_batch(const nib_exec *exec, const nib_batch *batch, const nib_matrix *src,
                              const nib_quantize_options *options, const nib_packed *dst);
nib_status nib_dequantize_batch(const nib_exec *exec, const nib_batch *batch,
                                const nib_packed *src, const nib_matrix *dst);
nib_status nib_amax_batch(const nib_exec *exec, const nib_batch *batch, const nib_matrix *src,
                          float *amax, uint64_t *nonfinite);

/* nib_amax_batch into amax, then nib_quantize_batch with tensor_amax = amax: a dynamic tensor
 * scale that never leaves the device, the second pass beginning with what the first left in the
 * cache.
 *
 *   batch    NULL: one matrix
 *   options  as for nib_quantize, with tensor_amax NULL
 *   dst      *tensor_scale is written
 *   amax     out: 1 float, or count of them with tensor_stride 1
 *
 * Also returns NIB_ERR_ARGUMENT if options->tensor_amax is not NULL, NIB_ERR_UNSUPPORTED for a
 * format without a tensor scale, and what nib_quantize_batch and nib_amax_batch return. */
nib_status nib_quantize_dynamic(const nib_exec *exec, const nib_batch *batch,
                                const nib_matrix *src, const nib_quantize_options *options,
                                const nib_packed *dst, float *amax);

/* rowwise = quantize(src) and columnwise = quantize(the transpose of src): what the forward and the
 * backward products of a layer ask for, in one pass over src.
 *
 *   src         rows x cols
 *   options     as for nib_quantize, for both
 *   rowwise     NULL, or as nib_quantize's dst
 *   columnwise  NULL, or the same of cols x rows: bit for bit what nib_quantize makes of a matrix
 *               whose element (c, r) is src's (r, c), so blocks run along src's columns. Of
 *               rowwise's format; orders and layouts of both may differ
 *
 * Each has its tensor scale where its descriptor says, both in one place if the pointers are equal;
 * with tensor_amax both are written. Stochastic rounding counts the elements of each output by
 * itself: element (c, r) of columnwise has i = c * rows + r. With scale_rows 16 and blocks of 16
 * both outputs have the same scales and the same values.
 *
 * Also returns what nib_quantize returns, for columnwise too; NIB_ERR_ARGUMENT if both are NULL,
 * NIB_ERR_SHAPE if columnwise is not cols x rows, NIB_ERR_UNSUPPORTED if the formats differ. */
nib_status nib_quantize_both(const nib_exec *exec, const nib_matrix *src,
                             const nib_quantize_options *options, const nib_packed *rowwise,
                             const nib_packed *columnwise);

/* What quantizing cost. Host memory. x - value is rounded to f32. Squares are added in one fixed
 * order, a few of them in f32 and those sums in f64: within 1e-6 of the exact sum, relatively. */
typedef struct nib_quantize_report {
    uint32_t size;            /* sizeof(nib_quantize_report) */
    uint32_t without_counts;  /* in: 1 leaves code_count and scale_count alone, which is faster;
                                 0 fills them */
    uint64_t elements;
    uint64_t nonfinite;       /* NaN and Inf in the source: not in the figures below */
    uint64_t flushed;         /* finite and not zero, stored as zero */
    uint64_t saturated;       /* stored as the largest element, and further than it from 0 */
    double   max_error;       /* largest |x - value|; Inf, as the next, where a finite x became Inf,
                                 by rules that round an E8M0 scale near f32's end up */
    double   sum_sq_error;    /* sum of (x - value)^2 */
    double   sum_sq;          /* sum of x^2 */
    uint64_t code_count[256]; /* uses of each code; 16, 64 or 256 of them can occur */
    uint64_t scale_count[256];
} nib_quantize_report;

/* Adds src's error against packed to *report, which the caller sets to zeros (but size and
 * without_counts) before the first call. MSE = sum_sq_error / elements; SNR in dB =
 * 10 log10(sum_sq / sum_sq_error). Synchronising. Also returns NIB_ERR_ARGUMENT for report NULL,
 * a size smaller than the first version's or without_counts above 1, NIB_ERR_SHAPE if the sizes
 * of src and packed differ. */
nib_status nib_quantize_stats(const nib_exec *exec, const nib_matrix *src,
                              const nib_packed *packed, nib_quantize_report *report);

#ifdef __cplusplus
}
#endif

#endif
