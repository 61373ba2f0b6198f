/* foreign_cpu.h: rows of foreign blocks and of halves; the entries of nib_scalar_ops. */
#ifndef NIB_FOREIGN_CPU_H
#define NIB_FOREIGN_CPU_H

#include "kernels/backend.h"

/* As the fields of nib_scalar_ops say. src may lie at any address, also that of halves. */
void nib_decode_foreign_cpu(int32_t ggml_type, const uint8_t *src, int64_t n, float *dst);
void nib_to_f32_cpu(nib_dtype dtype, const void *src, int64_t n, float *dst);
void nib_from_f32_cpu(nib_dtype dtype, const float *src, int64_t n, void *dst);

/* codes in NIB_CODES_PAIRS order, scales linear, cols a multiple of GGUF's block:
 *
 *   NIB_MXFP4  32 -> 17 bytes: scale | 16 bytes, byte j = x[j] | x[j+16] << 4
 *   NIB_NVFP4  64 -> 36 bytes: 4 scales | 32 bytes, byte 8s+j = x[16s+j] | x[16s+j+8] << 4
 *
 * Codes and scales keep their bits. ggml reads the scale 0x7f as 0 and code 8 as +0; the tensor
 * scale goes into a tensor of its own, "<name>.scale". */
void nib_pack_gguf_row_cpu(nib_format format, int64_t cols, const uint8_t *codes,
                           const uint8_t *scales, uint8_t *dst);

#endif
