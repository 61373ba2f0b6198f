/* gguf_values.c: finding GGUF metadata and reading it as one of three kinds of value. */
#include <string.h>

#include "gguf_internal.h"

uint64_t nib_gguf_type_bytes(uint32_t type)
{
    static const uint8_t bytes[NIB_GGUF_TYPES] = {
        [NIB_GGUF_U8] = 1,  [NIB_GGUF_I8] = 1,  [NIB_GGUF_U16] = 2,  [NIB_GGUF_I16] = 2,
        [NIB_GGUF_U32] = 4, [NIB_GGUF_I32] = 4, [NIB_GGUF_F32] = 4,  [NIB_GGUF_BOOL] = 1,
        [NIB_GGUF_U64] = 8, [NIB_GGUF_I64] = 8, [NIB_GGUF_F64] = 8,
    };
    return type < NIB_GGUF_TYPES ? bytes[type] : 0;
}

int nib_gguf_compare(nib_gguf_string a, nib_gguf_string b)
{
    const uint64_t shorter = a.bytes < b.bytes ? a.bytes : b.bytes;
    const int order = shorter ? memcmp(a.data, b.data, shorter) : 0;
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

int nib_gguf_alignment_is_valid(uint64_t alignment)
{
    return alignment >= 8 && alignment <= NIB_GGUF_MAX_ALIGNMENT
        && (alignment & (alignment - 1)) == 0;
}

/* Bytes of the UTF-8 sequence at p, 0 if it is none (RFC 3629: no overlong form, no surrogate). */
static uint64_t utf8_sequence(const uint8_t *p, uint64_t left)
{
    const uint8_t first = p[0];
    if (first < 0x80) return 1;
    const uint64_t n = first >= 0xc2 && first <= 0xdf ? 2
                     : first >= 0xe0 && first <= 0xef ? 3
                     : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
    if (n == 0 || n > left) return 0;
    for (uint64_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
    }
    if ((first == 0xe0 && p[1] < 0xa0) || (first == 0xed && p[1] > 0x9f)) return 0;
    if ((first == 0xf0 && p[1] < 0x90) || (first == 0xf4 && p[1] > 0x8f)) return 0;
    return n;
}

const char *nib_gguf_name_fault(nib_gguf_string name, uint64_t max_bytes)
{
    const uint8_t *p = (const uint8_t *)name.data;
    if (name.bytes == 0) return "is empty";
    if (name.bytes > max_bytes) return "is too long";
    if (memchr(p, 0, name.bytes)) return "holds a NUL";
    for (uint64_t i = 0; i < name.bytes;) {
        const uint64_t n = utf8_sequence(p + i, name.bytes - i);
        if (n == 0) return "is not UTF-8";
        i += n;
    }
    return NULL;
}

/* ---- finding ---- */

const nib_tensor *nib_gguf_tensors(const nib_gguf *gguf, size_t *count)
{
    *count = gguf->n_tensors;
    return gguf->tensors;
}

const nib_gguf_pair *nib_gguf_pairs(const nib_gguf *gguf, size_t *count)
{
    *count = gguf->n_pairs;
    return gguf->pairs;
}

const nib_tensor *nib_gguf_find_tensor(const nib_gguf *gguf, const char *name)
{
    for (size_t low = 0, high = gguf->n_tensors; low < high;) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, gguf->by_name[middle]->name);
        if (order == 0) return gguf->by_name[middle];
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

const nib_gguf_value *nib_gguf_find(const nib_gguf *gguf, const char *key)
{
    const nib_gguf_string wanted = { key, strlen(key) };
    for (size_t low = 0, high = gguf->n_pairs; low < high;) {
        const size_t middle = low + (high - low) / 2;
        const int order = nib_gguf_compare(wanted, gguf->by_key[middle]->key);
        if (order == 0) return &gguf->by_key[middle]->value;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return NULL;
}

/* ---- values ---- */

/* Returns 1 and sets *out when a scalar is an integer that int64_t holds. */
static int as_i64(const nib_gguf_value *value, int64_t *out)
{
    switch (value->type) {
    case NIB_GGUF_U64:
        if (value->as.u > INT64_MAX) return 0;
        *out = (int64_t)value->as.u;
        return 1;
    case NIB_GGUF_U8: case NIB_GGUF_I8: case NIB_GGUF_U16: case NIB_GGUF_I16:
    case NIB_GGUF_U32: case NIB_GGUF_I32: case NIB_GGUF_I64: case NIB_GGUF_BOOL:
        *out = value->as.i;
        return 1;
    case NIB_GGUF_F32: case NIB_GGUF_F64: case NIB_GGUF_STRING: case NIB_GGUF_ARRAY:
    case NIB_GGUF_TYPES:
        return 0;
    }
    return 0;
}

static int as_f64(const nib_gguf_value *value, double *out)
{
    int64_t i;
    if (value->type == NIB_GGUF_F32 || value->type == NIB_GGUF_F64) *out = value->as.f;
    else if (value->type == NIB_GGUF_U64) *out = (double)value->as.u;
    else if (as_i64(value, &i)) *out = (double)i;
    else return 0;
    return 1;
}

int64_t nib_gguf_i64(const nib_gguf *gguf, const char *key, int64_t fallback)
{
    const nib_gguf_value *value = nib_gguf_find(gguf, key);
    int64_t i;
    return value && as_i64(value, &i) ? i : fallback;
}

double nib_gguf_f64(const nib_gguf *gguf, const char *key, double fallback)
{
    const nib_gguf_value *value = nib_gguf_find(gguf, key);
    double f;
    return value && as_f64(value, &f) ? f : fallback;
}

nib_gguf_string nib_gguf_str(const nib_gguf *gguf, const char *key)
{
    const nib_gguf_value *value = nib_gguf_find(gguf, key);
    const nib_gguf_string none = { NULL, 0 };
    return value && value->type == NIB_GGUF_STRING ? value->as.s : none;
}

#define LOAD(type, bytes) (memcpy(&(type), (bytes), sizeof(type)), (type))

nib_gguf_value nib_gguf_scalar(nib_gguf_type type, const void *bytes)
{
    nib_gguf_value value = { .type = type, .item = type, .count = 1, .as = { .u = 0 } };
    uint8_t u8; uint16_t u16; uint32_t u32;
    int8_t i8; int16_t i16; int32_t i32;
    float f32; double f64;
    switch (type) {
    case NIB_GGUF_U8: case NIB_GGUF_BOOL: value.as.i = LOAD(u8, bytes); break;
    case NIB_GGUF_I8:   value.as.i = LOAD(i8, bytes); break;
    case NIB_GGUF_U16:  value.as.i = LOAD(u16, bytes); break;
    case NIB_GGUF_I16:  value.as.i = LOAD(i16, bytes); break;
    case NIB_GGUF_U32:  value.as.i = LOAD(u32, bytes); break;
    case NIB_GGUF_I32:  value.as.i = LOAD(i32, bytes); break;
    case NIB_GGUF_U64:  memcpy(&value.as.u, bytes, sizeof value.as.u); break;
    case NIB_GGUF_I64:  memcpy(&value.as.i, bytes, sizeof value.as.i); break;
    case NIB_GGUF_F32:  value.as.f = (double)LOAD(f32, bytes); break;
    case NIB_GGUF_F64:  value.as.f = LOAD(f64, bytes); break;
    case NIB_GGUF_STRING: case NIB_GGUF_ARRAY: case NIB_GGUF_TYPES: break;
    }
    return value;
}

/* Item i as a scalar; type NIB_GGUF_TYPES when there is no such number. */
static nib_gguf_value number_item(const nib_gguf_value *array, uint64_t i)
{
    const uint64_t bytes = nib_gguf_type_bytes((uint32_t)array->item);
    if (array->type != NIB_GGUF_ARRAY || i >= array->count || bytes == 0) {
        return nib_gguf_scalar(NIB_GGUF_TYPES, NULL);
    }
    return nib_gguf_scalar(array->item, (const uint8_t *)array->as.items + i * bytes);
}

int64_t nib_gguf_item_i64(const nib_gguf_value *array, uint64_t i)
{
    const nib_gguf_value item = number_item(array, i);
    int64_t out;
    return as_i64(&item, &out) ? out : 0;
}

double nib_gguf_item_f64(const nib_gguf_value *array, uint64_t i)
{
    const nib_gguf_value item = number_item(array, i);
    double out;
    return as_f64(&item, &out) ? out : 0.0;
}

nib_gguf_string nib_gguf_item_str(const nib_gguf_value *array, uint64_t i)
{
    const nib_gguf_string none = { NULL, 0 };
    if (array->type != NIB_GGUF_ARRAY || array->item != NIB_GGUF_STRING || i >= array->count) {
        return none;
    }
    return ((const nib_gguf_string *)array->as.items)[i];
}
