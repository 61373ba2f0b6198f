/* tensor_file.h: what safetensors and GGUF files have in common: named tensors of typed
 * blocks, mapped read-only. Everything under host/io/ may call nib_fail. */
#ifndef NIB_TENSOR_FILE_H
#define NIB_TENSOR_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "nibble/format.h"

/* Element types of both file formats. */
typedef enum nib_tensor_type {
    NIB_TT_C64, NIB_TT_F64, NIB_TT_F32, NIB_TT_F16, NIB_TT_BF16,
    NIB_TT_F8_E4M3, NIB_TT_F8_E5M2, NIB_TT_F8_E8M0, NIB_TT_F8_E4M3FNUZ, NIB_TT_F8_E5M2FNUZ,
    NIB_TT_F6_E2M3, NIB_TT_F6_E3M2, NIB_TT_F4,
    NIB_TT_I64, NIB_TT_I32, NIB_TT_I16, NIB_TT_I8,
    NIB_TT_U64, NIB_TT_U32, NIB_TT_U16, NIB_TT_U8, NIB_TT_BOOL,
    NIB_TT_Q4_0, NIB_TT_Q4_1, NIB_TT_Q5_0, NIB_TT_Q5_1, NIB_TT_Q8_0,
    NIB_TT_Q4_K, NIB_TT_Q5_K, NIB_TT_Q6_K, NIB_TT_MXFP4, NIB_TT_NVFP4,
    NIB_TT_COUNT
} nib_tensor_type;

typedef struct nib_tensor_type_info {
    const char *name;           /* safetensors' dtype, or ggml's name: "BF16", "Q4_K" */
    int32_t     block;          /* elements of a block, 1 for plain types: GGUF's lie along a row;
                                   safetensors' F4 and F6 are packed from row to row */
    int32_t     block_bytes;
    int32_t     ggml;           /* ggml's type number, -1: not in GGUF */
    int32_t     in_safetensors;
    int32_t     decodable;      /* nib_scalar_ops can make f32 of it: F32, F16, BF16, Q*, *FP4 */
} nib_tensor_type_info;

/* type < NIB_TT_COUNT. */
const nib_tensor_type_info *nib_tensor_type_get(nib_tensor_type type);
/* NIB_TT_COUNT if there is none. */
nib_tensor_type nib_tensor_type_from_safetensors(const char *dtype);
nib_tensor_type nib_tensor_type_from_ggml(uint32_t number);

#define NIB_TENSOR_DIMS 8

typedef struct nib_tensor {
    const char     *name;      /* NUL-terminated UTF-8, owned by the file */
    nib_tensor_type type;
    int32_t         n_dims;    /* 0: a scalar */
    int64_t         dims[NIB_TENSOR_DIMS]; /* outermost first, for GGUF too (its file has them
                                              innermost first) */
    const uint8_t  *data;      /* mapped; NULL when bytes is 0. Not always aligned to the type:
                                  old safetensors files begin their data anywhere, so copy
                                  elements out (memcpy) where alignment matters */
    uint64_t        bytes;
    uint64_t        offset;    /* of data in its file */
    int32_t         file;      /* index of the file, for sharded checkpoints */
} nib_tensor;

/* Product of dims; the parser has checked that it fits int64_t. */
int64_t nib_tensor_elements(const nib_tensor *tensor);

/* One read-only mapping of a regular file that is not empty. Another process that cuts the file
 * short while it is mapped makes reading it a SIGBUS. */
typedef struct nib_mapping {
    const uint8_t *data;
    uint64_t       bytes;
    char          *path;
} nib_mapping;

nib_status nib_mapping_open(const char *path, nib_mapping *mapping);
void       nib_mapping_close(nib_mapping *mapping);
/* Tells the system that these bytes of a mapping are not needed again soon: keeps resident memory
 * bounded. Whole pages inside the range only; reading them again is correct, it costs a fault.
 * Never for memory that is not a nib_mapping: its content would be lost. */
void       nib_mapping_release(const void *data, uint64_t bytes);

/* A tensor that is to be written; the caller owns name. */
typedef struct nib_tensor_spec {
    const char     *name;
    nib_tensor_type type;
    int32_t         n_dims;
    int64_t         dims[NIB_TENSOR_DIMS];
} nib_tensor_spec;

/* Bytes of such a tensor; -1 if a dim is negative, the innermost one, or of F4 and F6 the number of
 * elements, is no multiple of the type's block, or elements or bytes are over INT64_MAX. */
int64_t nib_tensor_spec_bytes(const nib_tensor_spec *spec);

/* The header of a file whose tensors are written in place afterwards, in any order. */
typedef struct nib_file_layout {
    uint8_t  *header;       /* the file's first header_bytes bytes; malloc'd */
    uint64_t  header_bytes;
    uint64_t *offsets;      /* absolute, one per spec; malloc'd */
    uint64_t  file_bytes;   /* bytes between tensors are zero */
} nib_file_layout;

void nib_file_layout_free(nib_file_layout *layout);

#endif
