/* format.h: block formats, packed matrices and rounding rules, all of them plain values.
 *
 * Glossary. element: the small float that is stored. code: its bits. block: elements along
 * a row that share one block scale. amax: the largest magnitude of a set. block scale: the
 * stored byte, and its decoded value. tensor scale: one f32 multiplier for the matrix.
 * step: block scale * tensor scale, rounded to f32; it is what one unit of a code means.
 *
 *     value = element(code) * step,     step = scale(byte) * tensor_scale   (f32 products)
 */
#ifndef NIBBLE_FORMAT_H
#define NIBBLE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "nibble/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Type of a plain matrix. */
typedef enum nib_dtype {
    NIB_F32  = 0,
    NIB_F16  = 1, /* IEEE 754 binary16 */
    NIB_BF16 = 2  /* upper half of an f32 */
} nib_dtype;

/* bits s/e/m, bias, largest value. OCP "Microscaling Formats v1.0" section 5.3. */
typedef enum nib_element {
    NIB_E2M1 = 0, /* 4 bits 1/2/1, bias  1, 6       no NaN, no Inf */
    NIB_E2M3 = 1, /* 6 bits 1/2/3, bias  1, 7.5     no NaN, no Inf */
    NIB_E3M2 = 2, /* 6 bits 1/3/2, bias  3, 28      no NaN, no Inf */
    NIB_E4M3 = 3, /* 8 bits 1/4/3, bias  7, 448     NaN 0x7f, 0xff, no Inf */
    NIB_E5M2 = 4  /* 8 bits 1/5/2, bias 15, 57344   IEEE NaN and Inf */
} nib_element;

typedef enum nib_scale_type {
    NIB_SCALE_E8M0 = 0, /* 2^(byte - 127); 255 is NaN; there is no zero */
    NIB_SCALE_E4M3 = 1  /* e4m3 with sign 0 */
} nib_scale_type;

/* A format is a number that can be compared, stored and switched on:
 *
 *     bits  0..7   nib_element        bits 12..15  1 when there is a tensor scale
 *     bits  8..11  nib_scale_type     bits 16..27  block length: 8, 16, 32, 64 or 128
 *
 * The CPU takes every combination but E8M0 scales with a tensor scale, which is no format; a GPU
 * takes the named ones. */
typedef uint32_t nib_format;

enum {                               /*  block t s el */
    NIB_NVFP4           = 0x00101100, /* E2M1, E4M3 by 16, tensor scale. NVIDIA arXiv:2509.25149 */
    NIB_NVFP4_B32       = 0x00201100,
    NIB_MXFP4           = 0x00200000, /* E2M1, E8M0 by 32. OCP MX v1.0 */
    NIB_MXFP4_B16       = 0x00100000,
    NIB_MXFP6_E2M3      = 0x00200001,
    NIB_MXFP6_E3M2      = 0x00200002,
    NIB_MXFP8_E4M3      = 0x00200003,
    NIB_MXFP8_E5M2      = 0x00200004,
    NIB_FP6_E2M3_B8     = 0x00081101, /* FP6 and FP8 by small blocks: E4M3 scale, tensor scale */
    NIB_FP6_E2M3_B16    = 0x00101101,
    NIB_FP6_E2M3_B32    = 0x00201101,
    NIB_FP8_E4M3_B8     = 0x00081103,
    NIB_FP8_E4M3_B16    = 0x00101103,
    NIB_FP8_E4M3_B32    = 0x00201103
};

/* Returns the format of these parts, or 0xffffffff if they do not make one. */
nib_format nib_format_make(nib_element element, nib_scale_type scale, int32_t block,
                           int32_t has_tensor_scale);

/* Parts of a valid format. */
nib_element    nib_format_element(nib_format format);
nib_scale_type nib_format_scale(nib_format format);
int32_t        nib_format_block(nib_format format);
int32_t        nib_format_has_tensor_scale(nib_format format);
int32_t        nib_format_element_bits(nib_format format);

/* Returns 1 if the number is a format, else 0. */
int32_t nib_format_is_valid(nib_format format);

/* Writes the format's name into text: "nvfp4", "nvfp4-b32", "mxfp6-e2m3", or, without a
 * name of its own, "e2m1/e4m3/64/tensor". Always ends with NUL when text_bytes > 0.
 * Returns NIB_ERR_ARGUMENT for an invalid format or text NULL, NIB_ERR_SHAPE if it was cut. */
nib_status nib_format_name(nib_format format, char *text, size_t text_bytes);

/* Reads a name that nib_format_name writes. Returns NIB_ERR_ARGUMENT for a NULL pointer or
 * an unknown name (the text lists the named ones). */
nib_status nib_format_from_name(const char *name, nib_format *format);

/* Order of codes within a row. Codes are packed without gaps, lowest bits first:
 *
 *   NIB_CODES_PAIRS         4 bits: byte i = x[2i] | x[2i+1] << 4
 *                           6 bits: 4 codes in 3 bytes, little-endian bit order
 *                           8 bits: byte i = x[i]
 *   NIB_CODES_GGUF_HALVES   4 bits only, h = block/2: byte j of a block = x[j] | x[j+h] << 4 */
typedef enum nib_code_order {
    NIB_CODES_PAIRS       = 0,
    NIB_CODES_GGUF_HALVES = 1
} nib_code_order;

/* Place of the scale of row m, scale column k, with S = ceil(cols / block):
 *
 *   NIB_SCALES_LINEAR          m*S + k
 *   NIB_SCALES_SWIZZLED_128X4  ((m/128)*ceil(S/4) + k/4)*512 + (m%32)*16 + (m%128/32)*4 + k%4
 *                              rows padded to 128, columns to 4; the padding is written as 0.
 *                              cuBLASLt's and CUTLASS's layout (CUDA cuBLAS manual, "1D Block
 *                              Scaling Factors Layout"). */
typedef enum nib_scale_layout {
    NIB_SCALES_LINEAR         = 0,
    NIB_SCALES_SWIZZLED_128X4 = 1
} nib_scale_layout;

/* A plain row-major matrix that the caller owns. */
typedef struct nib_matrix {
    void     *data;     /* aligned to its element: 4 bytes (f32) or 2 (f16, bf16) */
    nib_dtype dtype;
    int64_t   rows;     /* >= 0 */
    int64_t   cols;     /* >= 0; for quantized matrices this is K, the direction of the blocks */
    int64_t   ld_elems; /* elements from one row to the next, >= cols */
} nib_matrix;

/* A packed matrix. The caller owns every buffer. The last block of a row may be short. */
typedef struct nib_packed {
    uint32_t         size;           /* sizeof(nib_packed) */
    nib_format       format;
    nib_code_order   code_order;     /* GGUF_HALVES needs cols to be a multiple of the block */
    nib_scale_layout scale_layout;
    int64_t          rows;
    int64_t          cols;
    uint8_t         *codes;          /* rows of nib_codes_row_bytes, ld_codes_bytes apart; row
                                        tails' unused bits are written as 0 */
    int64_t          ld_codes_bytes; /* >= nib_codes_row_bytes(format, cols) */
    uint8_t         *scales;         /* nib_scales_bytes(format, scale_layout, rows, cols) */
    float           *tensor_scale;   /* 1 float where the device computes, a multiplier;
                                        NULL exactly when the format has none */
} nib_packed;

/* Bytes of one row's codes: ceil(cols * bits / 8). -1 for an invalid format or cols < 0. */
int64_t nib_codes_row_bytes(nib_format format, int64_t cols);

/* Scales of one row: ceil(cols / block). -1 as above. */
int64_t nib_scales_per_row(nib_format format, int64_t cols);

/* Bytes of all scales with padding; one byte each. -1 for invalid arguments or a size over
 * INT64_MAX. */
int64_t nib_scales_bytes(nib_format format, nib_scale_layout layout, int64_t rows, int64_t cols);

/* ---- rounding rules ------------------------------------------------------------------
 * Packages disagree on the order of the f32 operations, on zero blocks and on ties. A rules
 * value names each choice. A is the tensor's amax, a the block's, E the element's largest
 * value, M = E * 448 (four-over-six: E * 256), S the encode scale, t the tensor scale, s the
 * decoded block scale. Every operation is one correctly rounded f32 operation. */
typedef enum nib_tensor_rule {  /* E4M3 scales with a tensor scale */
    NIB_TENSOR_ENCODE = 0,      /* S = min(M / A, FLT_MAX), t = 1 / S */
    NIB_TENSOR_DECODE = 1,      /* t = A / M, S = 1 / t */
    NIB_TENSOR_SOURCE = 2       /* S = (1 / A) * M, both results rounded to the source's dtype,
                                   1 if that overflows; t = 1 / S. compressed-tensors */
} nib_tensor_rule;              /* A that is not finite and > 0 gives S = t = 1. A given t:
                                   S = 1 / t */

typedef enum nib_block_rule {   /* E4M3 scale before its cast, which saturates at 448 */
    NIB_BLOCK_FOLDED     = 0,   /* a * (S * (1/E)) */
    NIB_BLOCK_DIVIDE     = 1,   /* a / (E * t) */
    NIB_BLOCK_TWO_STEP   = 2    /* (a / E) * S; a / E first rounded to the source's dtype */
} nib_block_rule;

typedef enum nib_element_rule { /* E4M3 scales: what is rounded to the element */
    NIB_ELEMENT_RECIPROCAL = 0, /* x * min(1 / (s * (1/S)), FLT_MAX) */
    NIB_ELEMENT_DIVIDE     = 1, /* x / (s * t) */
    NIB_ELEMENT_DIVIDE_ENC = 2  /* x / (s / S) */
} nib_element_rule;             /* E8M0 scales: x / 2^e, exact but for underflow */

typedef enum nib_mx_rule {      /* exponent e of an E8M0 scale, clamped to [-127, 127] */
    NIB_MX_RCEIL      = 0,      /* ceil(log2(a / E)), exact quotient: never saturates. TE, cuBLAS */
    NIB_MX_FLOOR      = 1,      /* floor(log2 a) - emax. OCP MX v1.0 section 6.3 */
    NIB_MX_EVEN       = 2,      /* floor(log2 of a rounded to the element's mantissa) - emax */
    NIB_MX_CEIL       = 3,      /* ceil(log2 a) - emax */
    NIB_MX_RCEIL_LOG2 = 4,      /* ceil of the f32 log2 of the f32 quotient a / E. ModelOpt */
    NIB_MX_FLOOR_LOG2 = 5,      /* floor of the f32 log2 of a, - emax. ggml */
    NIB_MX_EVEN_SOURCE = 6      /* EVEN on the bits of the source's dtype; mantissa of 3 bits
                                   for E2M3, 1 for all others. An f16 source whose amax is
                                   below 0.75 * 2^-14 (E2M3: 0.9375 * 2^-14) gets e = 0, even
                                   if it is 0. compressed-tensors */
} nib_mx_rule;

typedef enum nib_tie_rule {
    NIB_TIES_EVEN = 0,
    NIB_TIES_DOWN = 1           /* toward the smaller magnitude. ModelOpt's MXFP4, GGUF */
} nib_tie_rule;

typedef enum nib_zero_rule {    /* sign of a code whose magnitude is 0; input: scaled, in f32 */
    NIB_ZERO_KEEP     = 0,      /* the input's sign */
    NIB_ZERO_INPUT    = 1,      /* negative only if the input is < 0: -0 gives +0 */
    NIB_ZERO_POSITIVE = 2,      /* never negative */
    NIB_ZERO_MODELOPT = 3,      /* negative unless the input is > 0. ModelOpt's MXFP4 */
    NIB_ZERO_SOURCE   = 4       /* as INPUT, of the scaled input rounded to the source's dtype.
                                   compressed-tensors' MXFP4 */
} nib_zero_rule;

typedef enum nib_nonfinite_rule {
    NIB_NONFINITE_SATURATE = 0, /* a is over finite elements; Inf becomes +-E; NaN becomes +E */
    NIB_NONFINITE_NAN      = 1  /* NaN or Inf in a block makes its scale NaN and its codes 0.
                                   OCP MX section 6.3 */
} nib_nonfinite_rule;

typedef struct nib_rules {
    uint32_t           size;       /* sizeof(nib_rules) */
    nib_tensor_rule    tensor;
    nib_block_rule     block;
    nib_element_rule   element;
    nib_mx_rule        mx;
    nib_tie_rule       ties;
    nib_zero_rule      zero_sign;
    nib_nonfinite_rule nonfinite;
    uint32_t           e4m3_zero;  /* E4M3 scale byte of a block whose scale is 0, 0..126 */
    uint32_t           e4m3_min;   /* smallest E4M3 scale byte of any other block, 0..126 */
} nib_rules;

typedef enum nib_rules_preset {
    NIB_RULES_TE                 = 0, /* TransformerEngine; the default */
    NIB_RULES_MODELOPT           = 1, /* NVFP4QTensor, MXFP4QTensor */
    NIB_RULES_COMPRESSED_TENSORS = 2,
    NIB_RULES_OCP                = 3, /* MX v1.0: FLOOR, NaN scales */
    NIB_RULES_GGUF               = 4  /* ggml's MXFP4: FLOOR_LOG2, ties down, no -0 */
} nib_rules_preset;

/* Fills *rules with a preset for this format (ModelOpt's NVFP4 and MXFP4 differ in ties and
 * zeros). Where a package makes a NaN scale from an all-zero tensor, nibble writes its
 * zero-block byte with tensor scale 1. Where it lets a number overflow (ModelOpt's t below
 * 2^-149, compressed-tensors' MX amax that rounds to 2^128 or f16's 2^16, ggml's below 2^-125),
 * nibble clamps. Returns NIB_ERR_ARGUMENT for rules NULL, an unknown
 * preset or an invalid format. */
nib_status nib_rules_fill(nib_rules_preset preset, nib_format format, nib_rules *rules);

/* "te", "modelopt", "compressed-tensors", "ocp", "gguf"; "?" for an unknown preset. */
const char *nib_rules_preset_name(nib_rules_preset preset);

/* Reads such a name. Returns NIB_ERR_ARGUMENT for a NULL pointer or an unknown name. */
nib_status nib_rules_preset_from_name(const char *name, nib_rules_preset *preset);

#ifdef __cplusplus
}
#endif

#endif
