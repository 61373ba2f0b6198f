/* gguf.c: the GGUF reader. Every length is held against the bytes that are left before
 * anything is read or allocated, so memory stays within a small multiple of the file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_internal.h"
#include "host/internal.h"

typedef struct cursor {
    const char    *path;
    const uint8_t *data;
    uint64_t       bytes, at;
    char           what[112]; /* the pair or tensor that is being read, for error texts */
} cursor;

typedef unsigned long long ull;

/* Fails with "file: what: ..." */
#define REFUSE_IF(cond, status, c, format, ...) \
    NIB_REQUIRE(!(cond), (status), "%s: %s: " format, (c)->path, (c)->what, __VA_ARGS__)

/* Names a thing with a key or name that may be anything. */
static void name_it(cursor *c, const char *kind, nib_gguf_string name)
{
    snprintf(c->what, sizeof c->what, "%s \"%.*s\"", kind, (int)(name.bytes < 80 ? name.bytes : 80),
             name.data);
}

/* ---- bytes ---- */

static nib_status take(cursor *c, uint64_t n, const uint8_t **out)
{
    REFUSE_IF(n > c->bytes - c->at, NIB_ERR_FORMAT, c,
              "%llu bytes wanted at offset %llu, but the file ends at %llu", (ull)n, (ull)c->at,
              (ull)c->bytes);
    *out = c->data + c->at;
    c->at += n;
    return NIB_OK;
}

static nib_status take_u32(cursor *c, uint32_t *out)
{
    const uint8_t *p = NULL;
    NIB_TRY(take(c, sizeof *out, &p));
    memcpy(out, p, sizeof *out);
    return NIB_OK;
}

static nib_status take_u64(cursor *c, uint64_t *out)
{
    const uint8_t *p = NULL;
    NIB_TRY(take(c, sizeof *out, &p));
    memcpy(out, p, sizeof *out);
    return NIB_OK;
}

static nib_status take_string(cursor *c, nib_gguf_string *out)
{
    const uint8_t *p = NULL;
    NIB_TRY(take_u64(c, &out->bytes));
    NIB_TRY(take(c, out->bytes, &p));
    out->data = (const char *)p;
    return NIB_OK;
}

/* A count whose items take at least min_bytes each must fit into what is left. */
static nib_status check_count(const cursor *c, uint64_t count, uint64_t min_bytes,
                              const char *things)
{
    REFUSE_IF(count > (c->bytes - c->at) / min_bytes, NIB_ERR_FORMAT, c,
              "%llu %s cannot lie in the %llu bytes that are left", (ull)count, things,
              (ull)(c->bytes - c->at));
    return NIB_OK;
}

/* ---- pairs ---- */

static nib_status check_bools(const cursor *c, const uint8_t *p, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        REFUSE_IF(p[i] > 1, NIB_ERR_FORMAT, c, "bool %llu has the value %d", (ull)i, p[i]);
    }
    return NIB_OK;
}

static nib_status take_strings(cursor *c, nib_gguf_value *value)
{
    NIB_TRY(check_count(c, value->count, 8, "strings"));
    if (value->count == 0) return NIB_OK;
    nib_gguf_string *items = malloc(value->count * sizeof *items);
    REFUSE_IF(!items, NIB_ERR_OUT_OF_MEMORY, c, "no memory for %llu strings", (ull)value->count);
    value->as.items = items; /* nib_gguf_close frees it, whatever happens below */
    for (uint64_t i = 0; i < value->count; i++) NIB_TRY(take_string(c, &items[i]));
    return NIB_OK;
}

static nib_status take_array(cursor *c, nib_gguf_value *value)
{
    uint32_t item;
    const uint8_t *p = NULL;
    NIB_TRY(take_u32(c, &item));
    REFUSE_IF(item == NIB_GGUF_ARRAY, NIB_ERR_FORMAT, c, "an array of arrays, at offset %llu",
              (ull)(c->at - 4));
    REFUSE_IF(item >= NIB_GGUF_TYPES, NIB_ERR_FORMAT, c, "array items of unknown type %u", item);
    NIB_TRY(take_u64(c, &value->count));
    value->item = (nib_gguf_type)item;
    if (item == NIB_GGUF_STRING) return take_strings(c, value);

    const uint64_t bytes = nib_gguf_type_bytes(item);
    NIB_TRY(check_count(c, value->count, bytes, "array items"));
    NIB_TRY(take(c, value->count * bytes, &p));
    value->as.items = p;
    return item == NIB_GGUF_BOOL ? check_bools(c, p, value->count) : NIB_OK;
}

static nib_status take_pair(cursor *c, nib_gguf_pair *pair)
{
    uint32_t type;
    const uint8_t *p = NULL;
    NIB_TRY(take_string(c, &pair->key));
    const char *fault = nib_gguf_name_fault(pair->key, NIB_GGUF_KEY_BYTES);
    REFUSE_IF(fault, NIB_ERR_FORMAT, c, "the key of %llu bytes %s", (ull)pair->key.bytes, fault);
    name_it(c, "key", pair->key);

    NIB_TRY(take_u32(c, &type));
    REFUSE_IF(type >= NIB_GGUF_TYPES, NIB_ERR_FORMAT, c, "unknown value type %u", type);
    pair->value.type = pair->value.item = (nib_gguf_type)type;
    pair->value.count = 1;
    if (type == NIB_GGUF_STRING) return take_string(c, &pair->value.as.s);
    if (type == NIB_GGUF_ARRAY) return take_array(c, &pair->value);

    NIB_TRY(take(c, nib_gguf_type_bytes(type), &p));
    if (type == NIB_GGUF_BOOL) NIB_TRY(check_bools(c, p, 1));
    pair->value = nib_gguf_scalar((nib_gguf_type)type, p);
    return NIB_OK;
}

static int compare_pairs(const void *a, const void *b)
{
    return nib_gguf_compare((*(nib_gguf_pair *const *)a)->key, (*(nib_gguf_pair *const *)b)->key);
}

static nib_status take_pairs(cursor *c, uint64_t count, nib_gguf *gguf)
{
    NIB_TRY(check_count(c, count, 8 + 1 + 4 + 1, "key-value pairs"));
    if (count == 0) return NIB_OK;
    gguf->pairs = calloc(count, sizeof *gguf->pairs);
    gguf->by_key = malloc(count * sizeof *gguf->by_key);
    REFUSE_IF(!gguf->pairs || !gguf->by_key, NIB_ERR_OUT_OF_MEMORY, c,
              "no memory for %llu pairs", (ull)count);
    gguf->n_pairs = count;
    for (size_t i = 0; i < count; i++) {
        snprintf(c->what, sizeof c->what, "key-value pair %zu", i);
        NIB_TRY(take_pair(c, &gguf->pairs[i]));
        gguf->by_key[i] = &gguf->pairs[i];
    }

    qsort(gguf->by_key, count, sizeof *gguf->by_key, compare_pairs);
    for (size_t i = 1; i < count; i++) {
        name_it(c, "key", gguf->by_key[i]->key);
        REFUSE_IF(compare_pairs(&gguf->by_key[i - 1], &gguf->by_key[i]) == 0, NIB_ERR_FORMAT, c,
                  "it is there twice, as pairs %td and %td", gguf->by_key[i - 1] - gguf->pairs,
                  gguf->by_key[i] - gguf->pairs);
    }
    return NIB_OK;
}

/* ---- tensor infos ---- */

static nib_status take_dims(cursor *c, uint32_t n_dims, nib_tensor *tensor)
{
    uint64_t product = 1;
    REFUSE_IF(n_dims > NIB_GGUF_DIMS, NIB_ERR_FORMAT, c, "%u dims, more than %d", n_dims,
              NIB_GGUF_DIMS);
    tensor->n_dims = (int32_t)n_dims;
    for (uint32_t i = 0; i < n_dims; i++) { /* the file has the innermost first */
        uint64_t dim;
        NIB_TRY(take_u64(c, &dim));
        const uint64_t factor = dim ? dim : 1; /* an empty tensor's other dims count too */
        REFUSE_IF(dim > INT64_MAX || factor > INT64_MAX / product, NIB_ERR_FORMAT, c,
                  "dim %u is %llu: the number of elements overflows", i, (ull)dim);
        product *= factor;
        tensor->dims[n_dims - 1 - i] = (int64_t)dim;
    }
    return NIB_OK;
}

static nib_status check_size(const cursor *c, nib_tensor *tensor)
{
    const nib_tensor_type_info *info = nib_tensor_type_get(tensor->type);
    const int64_t inner = tensor->n_dims ? tensor->dims[tensor->n_dims - 1] : 1;
    REFUSE_IF(inner % info->block, NIB_ERR_FORMAT, c,
              "innermost dim %lld is no multiple of %s's block of %d", (long long)inner,
              info->name, info->block);

    nib_tensor_spec spec = { tensor->name, tensor->type, tensor->n_dims, { 0 } };
    memcpy(spec.dims, tensor->dims, sizeof spec.dims);
    const int64_t bytes = nib_tensor_spec_bytes(&spec);
    REFUSE_IF(bytes < 0, NIB_ERR_FORMAT, c, "its size in bytes overflows, type %s", info->name);
    tensor->bytes = (uint64_t)bytes;
    return NIB_OK;
}

/* The offset stays relative to the data for now: where that begins is not known yet. */
static nib_status take_tensor(cursor *c, nib_tensor *tensor, char *name_text)
{
    nib_gguf_string name;
    uint32_t n_dims, type;
    NIB_TRY(take_string(c, &name));
    const char *fault = nib_gguf_name_fault(name, NIB_GGUF_NAME_BYTES);
    REFUSE_IF(fault, NIB_ERR_FORMAT, c, "the name of %llu bytes %s", (ull)name.bytes, fault);
    memcpy(name_text, name.data, name.bytes);
    tensor->name = name_text;
    name_it(c, "tensor", name);

    NIB_TRY(take_u32(c, &n_dims));
    NIB_TRY(take_dims(c, n_dims, tensor));
    NIB_TRY(take_u32(c, &type));
    tensor->type = nib_tensor_type_from_ggml(type);
    REFUSE_IF(tensor->type == NIB_TT_COUNT, NIB_ERR_UNSUPPORTED, c,
              "ggml type %u is not one that nibble reads", type);
    NIB_TRY(check_size(c, tensor));
    return take_u64(c, &tensor->offset);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp((*(nib_tensor *const *)a)->name, (*(nib_tensor *const *)b)->name);
}

static nib_status take_tensors(cursor *c, uint64_t count, nib_gguf *gguf)
{
    snprintf(c->what, sizeof c->what, "tensor infos");
    NIB_TRY(check_count(c, count, 8 + 1 + 4 + 4 + 8, "tensor infos"));
    if (count == 0) return NIB_OK;
    gguf->tensors = calloc(count, sizeof *gguf->tensors);
    gguf->names = calloc(count, sizeof *gguf->names);
    gguf->by_name = malloc(count * sizeof *gguf->by_name);
    REFUSE_IF(!gguf->tensors || !gguf->names || !gguf->by_name, NIB_ERR_OUT_OF_MEMORY, c,
              "no memory for %llu tensors", (ull)count);
    gguf->n_tensors = count;
    for (size_t i = 0; i < count; i++) {
        snprintf(c->what, sizeof c->what, "tensor info %zu", i);
        NIB_TRY(take_tensor(c, &gguf->tensors[i], gguf->names[i]));
        gguf->by_name[i] = &gguf->tensors[i];
    }

    qsort(gguf->by_name, count, sizeof *gguf->by_name, compare_tensors);
    for (size_t i = 1; i < count; i++) {
        NIB_REQUIRE(compare_tensors(&gguf->by_name[i - 1], &gguf->by_name[i]), NIB_ERR_FORMAT,
                    "%s: tensor \"%s\" is there twice, as infos %td and %td", c->path,
                    gguf->by_name[i]->name, gguf->by_name[i - 1] - gguf->tensors,
                    gguf->by_name[i] - gguf->tensors);
    }
    return NIB_OK;
}

/* ---- data ---- */

static nib_status read_alignment(const cursor *c, const nib_gguf *gguf, uint64_t *alignment)
{
    const nib_gguf_value *value = nib_gguf_find(gguf, "general.alignment");
    *alignment = NIB_GGUF_DEFAULT_ALIGNMENT;
    if (!value) return NIB_OK;
    NIB_REQUIRE(value->type == NIB_GGUF_U32, NIB_ERR_FORMAT,
                "%s: key \"general.alignment\": value type %d, not u32", c->path, value->type);
    *alignment = value->as.u;
    NIB_REQUIRE(nib_gguf_alignment_is_valid(*alignment), NIB_ERR_FORMAT,
                "%s: key \"general.alignment\": %llu is no power of two in 8..%u", c->path,
                (ull)*alignment, NIB_GGUF_MAX_ALIGNMENT);
    return NIB_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const nib_tensor *x = *(nib_tensor *const *)a, *y = *(nib_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static nib_status check_overlap(const cursor *c, const nib_gguf *gguf)
{
    size_t n = 0;
    nib_status status = NIB_OK;
    const nib_tensor **order = malloc((gguf->n_tensors + 1) * sizeof *order);
    NIB_REQUIRE(order, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu tensors", c->path,
                gguf->n_tensors);
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        if (gguf->tensors[i].bytes) order[n++] = &gguf->tensors[i];
    }
    qsort(order, n, sizeof *order, compare_offsets);
    for (size_t i = 1; i < n && status == NIB_OK; i++) {
        const nib_tensor *a = order[i - 1], *b = order[i];
        if (a->offset + a->bytes > b->offset) {
            status = nib_fail(NIB_ERR_FORMAT,
                              "%s: tensor \"%s\" at %llu overlaps tensor \"%s\" of %llu bytes at "
                              "%llu", c->path, b->name, (ull)b->offset, a->name, (ull)a->bytes,
                              (ull)a->offset);
        }
    }
    free(order);
    return status;
}

static nib_status place_tensors(cursor *c, nib_gguf *gguf)
{
    uint64_t alignment;
    NIB_TRY(read_alignment(c, gguf, &alignment));
    /* A file without tensor data may end before the padding. */
    const uint64_t padding = (alignment - c->at % alignment) % alignment;
    const uint64_t start = padding <= c->bytes - c->at ? c->at + padding : c->bytes;
    const uint64_t room = c->bytes - start;

    for (size_t i = 0; i < gguf->n_tensors; i++) {
        nib_tensor *tensor = &gguf->tensors[i];
        snprintf(c->what, sizeof c->what, "tensor \"%s\"", tensor->name);
        REFUSE_IF(tensor->offset % alignment, NIB_ERR_FORMAT, c,
                  "offset %llu is no multiple of the alignment %llu", (ull)tensor->offset,
                  (ull)alignment);
        REFUSE_IF(tensor->offset > room || tensor->bytes > room - tensor->offset, NIB_ERR_FORMAT,
                  c, "%llu bytes at offset %llu of the data, which has only %llu",
                  (ull)tensor->bytes, (ull)tensor->offset, (ull)room);
        tensor->offset += start;
        if (tensor->bytes) tensor->data = c->data + tensor->offset;
    }
    return check_overlap(c, gguf);
}

/* ---- the whole ---- */

static nib_status parse(cursor *c, nib_gguf *gguf)
{
    const uint8_t *magic = NULL;
    uint32_t version;
    uint64_t n_tensors, n_pairs;
    NIB_TRY(take(c, 4, &magic));
    REFUSE_IF(memcmp(magic, "GGUF", 4), NIB_ERR_FORMAT, c,
              "it begins with %02x %02x %02x %02x, not \"GGUF\"", magic[0], magic[1], magic[2],
              magic[3]);
    NIB_TRY(take_u32(c, &version));
    REFUSE_IF(version && (version & 0xffff) == 0, NIB_ERR_UNSUPPORTED, c,
              "version %u read as little-endian: a big-endian file", version);
    REFUSE_IF(version != 2 && version != NIB_GGUF_VERSION, NIB_ERR_UNSUPPORTED, c,
              "version %u; nibble reads 2 and 3", version);
    NIB_TRY(take_u64(c, &n_tensors));
    NIB_TRY(take_u64(c, &n_pairs));
    NIB_TRY(take_pairs(c, n_pairs, gguf));
    NIB_TRY(take_tensors(c, n_tensors, gguf));
    return place_tensors(c, gguf);
}

nib_status nib_gguf_parse(const char *path, const uint8_t *data, uint64_t bytes, nib_gguf **out)
{
    cursor c = { .path = path, .data = data, .bytes = bytes, .at = 0, .what = "header" };
    *out = NULL;
    nib_gguf *gguf = calloc(1, sizeof *gguf);
    NIB_REQUIRE(gguf, NIB_ERR_OUT_OF_MEMORY, "%s: no memory", path);
    const nib_status status = parse(&c, gguf);
    if (status == NIB_OK) *out = gguf;
    else nib_gguf_close(gguf);
    return status;
}

nib_status nib_gguf_open(const char *path, nib_gguf **out)
{
    nib_mapping mapping;
    *out = NULL;
    NIB_TRY(nib_mapping_open(path, &mapping));
    const nib_status status = nib_gguf_parse(path, mapping.data, mapping.bytes, out);
    if (status == NIB_OK) (*out)->mapping = mapping;
    else nib_mapping_close(&mapping);
    return status;
}

void nib_gguf_close(nib_gguf *gguf)
{
    if (!gguf) return;
    for (size_t i = 0; i < gguf->n_pairs; i++) {
        const nib_gguf_value *value = &gguf->pairs[i].value;
        if (value->type == NIB_GGUF_ARRAY && value->item == NIB_GGUF_STRING) {
            free((void *)(uintptr_t)value->as.items);
        }
    }
    free(gguf->pairs);
    free(gguf->by_key);
    free(gguf->tensors);
    free(gguf->names);
    free(gguf->by_name);
    if (gguf->mapping.path) nib_mapping_close(&gguf->mapping);
    free(gguf);
}
