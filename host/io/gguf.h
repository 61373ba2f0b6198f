/* gguf.h: reading and laying out GGUF version 3 files (ggml's docs/gguf.md).
 *
 *   "GGUF" | u32 3 | u64 tensors | u64 pairs | pairs | tensor infos | padding | data
 *
 * Held on reading: little-endian, version 3 (2 reads alike and is taken); counts that the file's
 * size could hold; known value types; bools 0 or 1; arrays one level deep; no duplicate keys or
 * names; keys of 1..65535 bytes and names of 1..64, UTF-8 without NUL; 0..4 dims >= 0 (0 dims: a
 * scalar); innermost dim a multiple of the block; general.alignment, when given, a u32 and a
 * power of two in 8..2^20, else 32; offsets aligned, inside the file, not overlapping. Any
 * breach: NIB_ERR_FORMAT with file, tensor or key, and numbers. Another version, a big-endian
 * file or a ggml type outside tensor_file.h's table: NIB_ERR_UNSUPPORTED with the number.
 * Not held, because ggml's writers differ there: tensors may come in any order, with gaps; the
 * padding may have any bytes; after the last tensor there may be more, or no padding; string
 * values may have any bytes.
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
        int64_t         i;  /* I*, BOOL, U8, U16, U32; U64 up to INT64_MAX */
        uint64_t        u;  /* U* */
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
/* Parses a file that is in memory and outlives the result; what the fuzzer calls. Strings and
 * tensor data are views into it. On failure *out is NULL; closing NULL does nothing. */
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

/* Item i of an array, whatever its width; 0 or data NULL if i >= count or it is of another
 * kind, such as a string where a number is asked for. */
int64_t         nib_gguf_item_i64(const nib_gguf_value *array, uint64_t i);
double          nib_gguf_item_f64(const nib_gguf_value *array, uint64_t i);
nib_gguf_string nib_gguf_item_str(const nib_gguf_value *array, uint64_t i);

/* Metadata under construction: pairs in order, copied in. A key that is set again keeps its
 * place and takes the new value. Refused with NIB_ERR_ARGUMENT: a key of no or over 65535 bytes,
 * or not UTF-8; general.alignment that is no u32 or no power of two in 8..2^20. */
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

/* Lays out a version 3 file: pairs, then specs in their order, each tensor on 32 bytes
 * (general.alignment, when it was set) and the file padded to that at its end, as ggml's own
 * writer does. meta NULL: no pairs. Refuses what reading refuses, and names over 63 bytes, which
 * ggml does not load: NIB_ERR_ARGUMENT, NIB_ERR_SHAPE, or NIB_ERR_UNSUPPORTED for a type that
 * GGUF lacks, with the tensor's name. */
nib_status nib_gguf_layout(const nib_gguf_meta *meta, const nib_tensor_spec *specs, size_t count,
                           nib_file_layout *layout);

#endif
