/* gguf.h: reading and laying out GGUF version 3 files (ggml's docs/gguf.md).
 *
 *   "GGUF" | u32 3 | u64 tensors | u64 pairs | pairs | tensor infos | padding | data
 *
 * Held on reading: little-endian, version 3 (2 reads alike and is taken); counts that the file's
 * size could hold; known value types; arrays at most one level deep; no duplicate keys or names;
 * names of 1..64 bytes without NUL (keys up to 65535); 1..4 dims >= 0; known ggml types; innermost dim a
 * multiple of the block; general.alignment a power of two in 1..2^20 (a multiple of 8 when
 * given); offsets aligned, inside the file, not overlapping. Any breach: NIB_ERR_FORMAT with
 * file, tensor or key, and numbers. A ggml type that nibble cannot decode is kept out with
 * NIB_ERR_UNSUPPORTED and the type's number.
 */
#ifndef NIB_GGUF_H
#define NIB_GGUF_H

#include "host/io/tensor_file.h"

typedef enum nib_gguf_type {
    NIB_GGUF_U8 = 0, NIB_GGUF_I8, NIB_GGUF_U16, NIB_GGUF_I16, NIB_GGUF_U32, NIB_GGUF_I32,
    NIB_GGUF_F32, NIB_GGUF_BOOL, NIB_GGUF_STRING, NIB_GGUF_ARRAY, NIB_GGUF_U64, NIB_GGUF_I64,
    NIB_GGUF_F64, NIB_GGUF_TYPES
} nib_gguf_type;

typedef struct nib_gguf_string {
    const char *data; /* not NUL-terminated */
    uint64_t    bytes;
} nib_gguf_string;

typedef struct nib_gguf_value {
    nib_gguf_type type;
    nib_gguf_type item;     /* ARRAY: type of its items, never ARRAY */
    uint64_t      count;    /* ARRAY: number of items; else 1 */
    union {
        int64_t         i;  /* I*, BOOL; U* up to INT64_MAX */
        uint64_t        u;
        double          f;  /* F32, F64 */
        nib_gguf_string s;
        const void     *items; /* ARRAY: nib_gguf_string[], or packed little-endian numbers,
                                  unaligned (use nib_gguf_item_*) */
    } as;
} nib_gguf_value;

typedef struct nib_gguf_pair {
    nib_gguf_string key;
    nib_gguf_value  value;
} nib_gguf_pair;

typedef struct nib_gguf nib_gguf;

nib_status nib_gguf_open(const char *path, nib_gguf **out);
void       nib_gguf_close(nib_gguf *gguf);
/* Parses a file that is in memory and outlives the result; what the fuzzer calls. */
nib_status nib_gguf_parse(const char *path, const uint8_t *data, uint64_t bytes, nib_gguf **out);

const nib_tensor    *nib_gguf_tensors(const nib_gguf *gguf, size_t *count);
const nib_tensor    *nib_gguf_find_tensor(const nib_gguf *gguf, const char *name);
const nib_gguf_pair *nib_gguf_pairs(const nib_gguf *gguf, size_t *count);
/* NULL if there is no such key. */
const nib_gguf_value *nib_gguf_find(const nib_gguf *gguf, const char *key);

/* Typed look-ups; fallback when the key is absent or of another kind. Integers of every width
 * and both signs serve _i64 and _f64. */
int64_t         nib_gguf_i64(const nib_gguf *gguf, const char *key, int64_t fallback);
double          nib_gguf_f64(const nib_gguf *gguf, const char *key, double fallback);
nib_gguf_string nib_gguf_str(const nib_gguf *gguf, const char *key); /* data NULL if absent */

/* Item i of an array (i < count), whatever its width. */
int64_t         nib_gguf_item_i64(const nib_gguf_value *array, uint64_t i);
double          nib_gguf_item_f64(const nib_gguf_value *array, uint64_t i);
nib_gguf_string nib_gguf_item_str(const nib_gguf_value *array, uint64_t i);

/* Metadata under construction: pairs in order, copied in. A key that is set again keeps its
 * place and takes the new value. */
typedef struct nib_gguf_meta nib_gguf_meta;

nib_gguf_meta *nib_gguf_meta_new(void); /* NULL: out of memory */
void           nib_gguf_meta_free(nib_gguf_meta *meta);
nib_status nib_gguf_set_u32(nib_gguf_meta *meta, const char *key, uint32_t value);
nib_status nib_gguf_set_f32(nib_gguf_meta *meta, const char *key, float value);
nib_status nib_gguf_set_bool(nib_gguf_meta *meta, const char *key, int value);
nib_status nib_gguf_set_str(nib_gguf_meta *meta, const char *key, const char *data,
                            uint64_t bytes);
nib_status nib_gguf_set_str_array(nib_gguf_meta *meta, const char *key,
                                  const nib_gguf_string *items, uint64_t count);
nib_status nib_gguf_set_i32_array(nib_gguf_meta *meta, const char *key, const int32_t *items,
                                  uint64_t count);
nib_status nib_gguf_set_f32_array(nib_gguf_meta *meta, const char *key, const float *items,
                                  uint64_t count);
/* Copies any pair, such as one of another file. */
nib_status nib_gguf_set_pair(nib_gguf_meta *meta, const nib_gguf_pair *pair);

/* Lays out a version 3 file: pairs, then specs in their order, data on 32 bytes. Refuses what
 * reading refuses. */
nib_status nib_gguf_layout(const nib_gguf_meta *meta, const nib_tensor_spec *specs, size_t count,
                           nib_file_layout *layout);

#endif
