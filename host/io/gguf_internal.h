/* gguf_internal.h: what the reader, the look-ups and the writer of GGUF share. */
#ifndef NIB_GGUF_INTERNAL_H
#define NIB_GGUF_INTERNAL_H

#include "host/io/gguf.h"

/* Numbers are copied as they lie. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read on little-endian hosts");

#define NIB_GGUF_VERSION           3
#define NIB_GGUF_KEY_BYTES         65535
#define NIB_GGUF_NAME_BYTES        64 /* docs/gguf.md; */
#define NIB_GGUF_NAME_BYTES_WRITE  63 /* but ggml's GGML_MAX_NAME counts the NUL */
#define NIB_GGUF_DIMS              4
#define NIB_GGUF_DEFAULT_ALIGNMENT 32
#define NIB_GGUF_MAX_ALIGNMENT     (1u << 20)

struct nib_gguf {
    nib_mapping     mapping; /* path NULL: the bytes are the caller's */
    nib_gguf_pair  *pairs;   /* as in the file */
    nib_tensor     *tensors;
    size_t          n_pairs, n_tensors;
    char          (*names)[NIB_GGUF_NAME_BYTES + 1]; /* of tensors: the file has no NULs */
    nib_gguf_pair **by_key;  /* sorted, for look-ups */
    nib_tensor    **by_name;
};

/* Bytes of one number of this type in a file; 0 for STRING, ARRAY and unknown types. */
uint64_t nib_gguf_type_bytes(uint32_t type);

/* A number as a value, from its bytes in a file (unaligned). */
nib_gguf_value nib_gguf_scalar(nib_gguf_type type, const void *bytes);

/* Orders strings by bytes, a prefix before what it begins. */
int nib_gguf_compare(nib_gguf_string a, nib_gguf_string b);

/* What is wrong with a key or a tensor's name, or NULL. */
const char *nib_gguf_name_fault(nib_gguf_string name, uint64_t max_bytes);

/* 1 for a power of two in 8..2^20. */
int nib_gguf_alignment_is_valid(uint64_t alignment);

#endif
