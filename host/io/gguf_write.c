/* gguf_write.c: GGUF metadata under construction, and the layout of a file that holds it.
 *
 * A pair is kept as the bytes it will have in the file, so that copying one of another file
 * and laying out are the same few lines for every type. */
#include <stdlib.h>
#include <string.h>

#include "gguf_internal.h"
#include "host/internal.h"

typedef struct entry {
    uint8_t *bytes;      /* key's length, key, type, value */
    uint64_t key_bytes;
    uint64_t total;
} entry;

struct nib_gguf_meta {
    entry *items;
    size_t count, room;
    uint64_t alignment;
};

typedef struct writer { /* NULL at: only counts */
    uint8_t *at;
    uint64_t bytes;
} writer;

typedef unsigned long long ull;

static void put(writer *w, const void *data, uint64_t bytes)
{
    if (w->at && bytes) memcpy(w->at + w->bytes, data, bytes);
    w->bytes += bytes;
}

static void put_u32(writer *w, uint32_t value) { put(w, &value, sizeof value); }
static void put_u64(writer *w, uint64_t value) { put(w, &value, sizeof value); }

static void put_string(writer *w, const char *data, uint64_t bytes)
{
    put_u64(w, bytes);
    put(w, data, bytes);
}

static void put_array(writer *w, const nib_gguf_value *value)
{
    put_u32(w, (uint32_t)value->item);
    put_u64(w, value->count);
    if (value->item == NIB_GGUF_STRING) {
        const nib_gguf_string *items = value->as.items;
        for (uint64_t i = 0; i < value->count; i++) put_string(w, items[i].data, items[i].bytes);
    } else {
        put(w, value->as.items, value->count * nib_gguf_type_bytes((uint32_t)value->item));
    }
}

static void put_pair(writer *w, nib_gguf_string key, const nib_gguf_value *value)
{
    const float f32 = (float)value->as.f;
    put_string(w, key.data, key.bytes);
    put_u32(w, (uint32_t)value->type);
    switch (value->type) {
    case NIB_GGUF_STRING: put_string(w, value->as.s.data, value->as.s.bytes); break;
    case NIB_GGUF_ARRAY:  put_array(w, value); break;
    case NIB_GGUF_F32:    put(w, &f32, sizeof f32); break;
    case NIB_GGUF_F64:    put(w, &value->as.f, sizeof value->as.f); break;
    case NIB_GGUF_U8: case NIB_GGUF_I8: case NIB_GGUF_U16: case NIB_GGUF_I16: case NIB_GGUF_U32:
    case NIB_GGUF_I32: case NIB_GGUF_BOOL: case NIB_GGUF_U64: case NIB_GGUF_I64:
        put(w, &value->as.u, nib_gguf_type_bytes((uint32_t)value->type)); /* the low bytes */
        break;
    case NIB_GGUF_TYPES: break;
    }
}

/* ---- metadata ---- */

nib_gguf_meta *nib_gguf_meta_new(void)
{
    nib_gguf_meta *meta = calloc(1, sizeof *meta);
    if (meta) meta->alignment = NIB_GGUF_DEFAULT_ALIGNMENT;
    return meta;
}

void nib_gguf_meta_free(nib_gguf_meta *meta)
{
    if (!meta) return;
    for (size_t i = 0; i < meta->count; i++) free(meta->items[i].bytes);
    free(meta->items);
    free(meta);
}

static entry *find_entry(const nib_gguf_meta *meta, nib_gguf_string key)
{
    for (size_t i = 0; i < meta->count; i++) {
        entry *item = &meta->items[i];
        if (item->key_bytes == key.bytes && memcmp(item->bytes + 8, key.data, key.bytes) == 0) {
            return item;
        }
    }
    return NULL;
}

/* Room for one more pair, so that adding it cannot fail. */
static int reserve(nib_gguf_meta *meta)
{
    if (meta->count < meta->room) return 1;
    const size_t room = meta->room ? 2 * meta->room : 32;
    entry *items = realloc(meta->items, room * sizeof *items);
    if (!items) return 0;
    meta->items = items;
    meta->room = room;
    return 1;
}

static nib_status set_value(nib_gguf_meta *meta, nib_gguf_string key, const nib_gguf_value *value)
{
    static const char alignment_key[] = "general.alignment";
    const nib_gguf_string alignment = { alignment_key, sizeof alignment_key - 1 };
    const char *fault = nib_gguf_name_fault(key, NIB_GGUF_KEY_BYTES);
    const int shown = (int)(key.bytes < 80 ? key.bytes : 80);
    NIB_REQUIRE(!fault, NIB_ERR_ARGUMENT, "GGUF metadata: key \"%.*s\" of %llu bytes %s", shown,
                key.data ? key.data : "", (ull)key.bytes, fault);

    const int is_array = value->type == NIB_GGUF_ARRAY;
    NIB_REQUIRE((uint32_t)value->type < NIB_GGUF_TYPES
                    && (!is_array || ((uint32_t)value->item < NIB_GGUF_TYPES
                                      && value->item != NIB_GGUF_ARRAY)),
                NIB_ERR_ARGUMENT, "GGUF metadata: key \"%.*s\": value type %d with items of %d",
                shown, key.data, (int)value->type, (int)value->item);
    const int is_alignment = nib_gguf_compare(key, alignment) == 0;
    NIB_REQUIRE(!is_alignment || (value->type == NIB_GGUF_U32
                                  && nib_gguf_alignment_is_valid(value->as.u)),
                NIB_ERR_ARGUMENT, "GGUF metadata: general.alignment is no u32 and power of two in "
                "8..%u", NIB_GGUF_MAX_ALIGNMENT);

    writer w = { NULL, 0 };
    put_pair(&w, key, value);
    w.at = malloc(w.bytes);
    const uint64_t total = w.bytes;
    if (!w.at || !reserve(meta)) {
        free(w.at);
        return nib_fail(NIB_ERR_OUT_OF_MEMORY, "GGUF metadata: key \"%.*s\": no memory for %llu "
                        "bytes", shown, key.data, (ull)total);
    }
    w.bytes = 0;
    put_pair(&w, key, value);

    entry *item = find_entry(meta, key);
    if (item) free(item->bytes);
    else item = &meta->items[meta->count++];
    *item = (entry){ w.at, key.bytes, total };
    if (is_alignment) meta->alignment = value->as.u;
    return NIB_OK;
}

static nib_status set_text_key(nib_gguf_meta *meta, const char *key, nib_gguf_value value)
{
    const nib_gguf_string name = { key, strlen(key) };
    return set_value(meta, name, &value);
}

static nib_status set_array(nib_gguf_meta *meta, const char *key, nib_gguf_type item,
                            const void *items, uint64_t count)
{
    return set_text_key(meta, key, (nib_gguf_value){ .type = NIB_GGUF_ARRAY, .item = item,
                                                     .count = count, .as.items = items });
}

nib_status nib_gguf_set_u32(nib_gguf_meta *meta, const char *key, uint32_t value)
{
    return set_text_key(meta, key, (nib_gguf_value){ .type = NIB_GGUF_U32, .as.u = value });
}

nib_status nib_gguf_set_f32(nib_gguf_meta *meta, const char *key, float value)
{
    return set_text_key(meta, key, (nib_gguf_value){ .type = NIB_GGUF_F32,
                                                     .as.f = (double)value });
}

nib_status nib_gguf_set_bool(nib_gguf_meta *meta, const char *key, int value)
{
    return set_text_key(meta, key, (nib_gguf_value){ .type = NIB_GGUF_BOOL, .as.i = !!value });
}

nib_status nib_gguf_set_str(nib_gguf_meta *meta, const char *key, const char *data,
                            uint64_t bytes)
{
    return set_text_key(meta, key, (nib_gguf_value){ .type = NIB_GGUF_STRING,
                                                     .as.s = { data, bytes } });
}

nib_status nib_gguf_set_str_array(nib_gguf_meta *meta, const char *key,
                                  const nib_gguf_string *items, uint64_t count)
{
    return set_array(meta, key, NIB_GGUF_STRING, items, count);
}

nib_status nib_gguf_set_i32_array(nib_gguf_meta *meta, const char *key, const int32_t *items,
                                  uint64_t count)
{
    return set_array(meta, key, NIB_GGUF_I32, items, count);
}

nib_status nib_gguf_set_f32_array(nib_gguf_meta *meta, const char *key, const float *items,
                                  uint64_t count)
{
    return set_array(meta, key, NIB_GGUF_F32, items, count);
}

nib_status nib_gguf_set_pair(nib_gguf_meta *meta, const nib_gguf_pair *pair)
{
    return set_value(meta, pair->key, &pair->value);
}

/* ---- layout ---- */

static nib_status check_spec(const nib_tensor_spec *spec)
{
    const char *name = spec->name ? spec->name : "";
    const nib_gguf_string text = { name, strlen(name) };
    const char *fault = nib_gguf_name_fault(text, NIB_GGUF_NAME_BYTES_WRITE);
    NIB_REQUIRE(!fault, NIB_ERR_ARGUMENT, "GGUF: tensor \"%.80s\": its name of %llu bytes %s; "
                "1 to %d bytes of UTF-8 are allowed", name, (ull)text.bytes, fault,
                NIB_GGUF_NAME_BYTES_WRITE);
    NIB_REQUIRE((uint32_t)spec->type < NIB_TT_COUNT, NIB_ERR_ARGUMENT,
                "GGUF: tensor \"%s\": unknown type %d", name, (int)spec->type);
    const nib_tensor_type_info *info = nib_tensor_type_get(spec->type);
    NIB_REQUIRE(info->ggml >= 0, NIB_ERR_UNSUPPORTED, "GGUF: tensor \"%s\": GGUF has no type %s",
                name, info->name);
    NIB_REQUIRE(spec->n_dims >= 0 && spec->n_dims <= NIB_GGUF_DIMS, NIB_ERR_SHAPE,
                "GGUF: tensor \"%s\": %d dims, GGUF holds 0 to %d", name, spec->n_dims,
                NIB_GGUF_DIMS);
    int64_t product = 1; /* as the reader: an empty tensor's other dims count too */
    for (int32_t i = 0; i < spec->n_dims; i++) {
        const int64_t dim = spec->dims[i];
        NIB_REQUIRE(dim >= 0 && (dim < 2 || product <= INT64_MAX / dim), NIB_ERR_SHAPE,
                    "GGUF: tensor \"%s\": dim %d is %lld, negative or too large", name, i,
                    (long long)dim);
        product *= dim ? dim : 1;
    }
    const long long inner = spec->n_dims ? (long long)spec->dims[spec->n_dims - 1] : 1;
    NIB_REQUIRE(nib_tensor_spec_bytes(spec) >= 0, NIB_ERR_SHAPE, "GGUF: tensor \"%s\": innermost "
                "dim %lld is no multiple of %s's block of %d, or its size overflows", name, inner,
                info->name, info->block);
    return NIB_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static nib_status check_unique(const nib_tensor_spec *specs, size_t count)
{
    nib_status status = NIB_OK;
    const char **names = malloc((count + 1) * sizeof *names);
    NIB_REQUIRE(names, NIB_ERR_OUT_OF_MEMORY, "GGUF: no memory for %zu tensors", count);
    for (size_t i = 0; i < count; i++) names[i] = specs[i].name;
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 1; i < count && status == NIB_OK; i++) {
        if (strcmp(names[i - 1], names[i]) == 0) {
            status = nib_fail(NIB_ERR_ARGUMENT, "GGUF: tensor \"%s\" is there twice", names[i]);
        }
    }
    free(names);
    return status;
}

static uint64_t align_up(uint64_t n, uint64_t alignment)
{
    return (n + alignment - 1) & ~(alignment - 1);
}

/* offsets: relative to the data. */
static void put_header(writer *w, const nib_gguf_meta *meta, const nib_tensor_spec *specs,
                       size_t count, const uint64_t *offsets)
{
    put(w, "GGUF", 4);
    put_u32(w, NIB_GGUF_VERSION);
    put_u64(w, count);
    put_u64(w, meta ? meta->count : 0);
    for (size_t i = 0; meta && i < meta->count; i++) {
        put(w, meta->items[i].bytes, meta->items[i].total);
    }
    for (size_t i = 0; i < count; i++) {
        const nib_tensor_spec *spec = &specs[i];
        put_string(w, spec->name, strlen(spec->name));
        put_u32(w, (uint32_t)spec->n_dims);
        for (int32_t d = spec->n_dims - 1; d >= 0; d--) put_u64(w, (uint64_t)spec->dims[d]);
        put_u32(w, (uint32_t)nib_tensor_type_get(spec->type)->ggml);
        put_u64(w, offsets[i]);
    }
}

/* Sets offsets relative to the data, and returns the data's size. */
static nib_status place_specs(const nib_tensor_spec *specs, size_t count, uint64_t alignment,
                              uint64_t *offsets, uint64_t *data_bytes)
{
    *data_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        offsets[i] = *data_bytes;
        const uint64_t bytes = (uint64_t)nib_tensor_spec_bytes(&specs[i]);
        /* Half of the range stays free for the header and the alignment. */
        NIB_REQUIRE(bytes <= INT64_MAX / 2 - *data_bytes, NIB_ERR_SHAPE,
                    "GGUF: tensor \"%s\": %llu bytes after %llu overflow the file's size",
                    specs[i].name, (ull)bytes, (ull)*data_bytes);
        *data_bytes = align_up(*data_bytes + bytes, alignment);
    }
    return NIB_OK;
}

nib_status nib_gguf_layout(const nib_gguf_meta *meta, const nib_tensor_spec *specs, size_t count,
                           nib_file_layout *layout)
{
    const uint64_t alignment = meta ? meta->alignment : NIB_GGUF_DEFAULT_ALIGNMENT;
    uint64_t data_bytes = 0;
    *layout = (nib_file_layout){ 0 };
    for (size_t i = 0; i < count; i++) NIB_TRY(check_spec(&specs[i]));
    NIB_TRY(check_unique(specs, count));

    uint64_t *offsets = malloc((count + 1) * sizeof *offsets);
    NIB_REQUIRE(offsets, NIB_ERR_OUT_OF_MEMORY, "GGUF: no memory for %zu tensors", count);
    layout->offsets = offsets;
    const nib_status status = place_specs(specs, count, alignment, offsets, &data_bytes);
    if (status != NIB_OK) {
        nib_file_layout_free(layout);
        return status;
    }

    writer w = { NULL, 0 };
    put_header(&w, meta, specs, count, offsets);
    const uint64_t header_bytes = align_up(w.bytes, alignment);
    w = (writer){ calloc(1, header_bytes), 0 };
    if (!w.at) {
        nib_file_layout_free(layout);
        return nib_fail(NIB_ERR_OUT_OF_MEMORY, "GGUF: no memory for a header of %llu bytes",
                        (ull)header_bytes);
    }
    put_header(&w, meta, specs, count, offsets);
    for (size_t i = 0; i < count; i++) offsets[i] += header_bytes;
    layout->header = w.at;
    layout->header_bytes = header_bytes;
    layout->file_bytes = header_bytes + data_bytes;
    return NIB_OK;
}
