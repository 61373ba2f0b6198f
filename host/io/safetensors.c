/* safetensors.c: one file's header to a checked table of tensors. */
#include "host/io/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/file_util.h"
#include "host/io/json_util.h"
#include "host/io/safetensors_table.h"

#define HEADER_MIN 2u /* {} */

/* What every sentence about a tensor begins with; a name may be long, the numbers must show. */
#define WHERE "%s: tensor '%.200s'"

static uint64_t u64_of(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | at[i];
    return value;
}

static int has_control(const char *name)
{
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == 0x7f) return 1;
    return 0;
}

static nib_status read_type(const char *path, const char *name, const json_t *entry,
                            nib_tensor_spec *spec)
{
    const char *dtype = nib_json_str(entry, "dtype");
    NIB_REQUIRE(dtype, NIB_ERR_FORMAT, WHERE " has no string 'dtype'", path, name);
    spec->type = nib_tensor_type_from_safetensors(dtype);
    char text[32];
    NIB_REQUIRE(spec->type != NIB_TT_COUNT, NIB_ERR_FORMAT,
                WHERE " has dtype '%s', which is not known", path, name,
                nib_clean_text(text, sizeof text, dtype));
    return NIB_OK;
}

static nib_status read_shape(const char *path, const char *name, const json_t *entry,
                             nib_tensor_spec *spec)
{
    const json_t *shape = json_object_get(entry, "shape");
    NIB_REQUIRE(json_is_array(shape), NIB_ERR_FORMAT, WHERE " has no array 'shape'", path, name);
    const size_t n_dims = json_array_size(shape);
    NIB_REQUIRE(n_dims <= NIB_TENSOR_DIMS, NIB_ERR_FORMAT,
                WHERE " has %zu dimensions, over the limit of %d", path, name, n_dims,
                NIB_TENSOR_DIMS);
    spec->n_dims = (int32_t)n_dims;
    for (size_t i = 0; i < n_dims; i++) {
        uint64_t dim;
        NIB_REQUIRE(nib_json_u64(json_array_get(shape, i), &dim), NIB_ERR_FORMAT,
                    WHERE ": shape[%zu] is not a non-negative integer", path, name, i);
        spec->dims[i] = (int64_t)dim;
    }
    return NIB_OK;
}

static nib_status read_range(const char *path, const char *name, const json_t *entry,
                             uint64_t data_bytes, uint64_t *begin, uint64_t *end)
{
    const json_t *range = json_object_get(entry, "data_offsets");
    NIB_REQUIRE(json_is_array(range) && json_array_size(range) == 2 &&
                    nib_json_u64(json_array_get(range, 0), begin) &&
                    nib_json_u64(json_array_get(range, 1), end),
                NIB_ERR_FORMAT, WHERE ": 'data_offsets' is not two non-negative integers", path,
                name);
    NIB_REQUIRE(*begin <= *end && *end <= data_bytes, NIB_ERR_FORMAT,
                WHERE ": data_offsets [%llu, %llu] are not a range of the file's %llu data bytes",
                path, name, (unsigned long long)*begin, (unsigned long long)*end,
                (unsigned long long)data_bytes);
    return NIB_OK;
}

static nib_status read_tensor(nib_safetensors *st, int32_t file, uint64_t data_offset,
                              const char *name, const json_t *entry)
{
    const nib_mapping *map = &st->files[file];
    const char *path = map->path;
    NIB_REQUIRE(*name, NIB_ERR_FORMAT, "%s: a tensor's name is empty", path);
    NIB_REQUIRE(!has_control(name), NIB_ERR_FORMAT,
                "%s: the name of tensor %zu has control characters", path,
                st->count - st->file_first);
    NIB_REQUIRE(json_is_object(entry), NIB_ERR_FORMAT, WHERE " is described by no object", path,
                name);

    nib_tensor_spec spec = { .name = name };
    uint64_t begin, end;
    NIB_TRY(read_type(path, name, entry, &spec));
    NIB_TRY(read_shape(path, name, entry, &spec));
    NIB_TRY(read_range(path, name, entry, map->bytes - data_offset, &begin, &end));

    const int64_t bytes = nib_tensor_spec_bytes(&spec);
    NIB_REQUIRE(bytes >= 0, NIB_ERR_FORMAT,
                WHERE ": the size of its shape is over 2^63 bytes, or no whole number of them",
                path, name);
    NIB_REQUIRE((uint64_t)bytes == end - begin, NIB_ERR_FORMAT,
                WHERE ": its shape takes %lld bytes, its data_offsets [%llu, %llu] hold %llu",
                path, name, (long long)bytes, (unsigned long long)begin, (unsigned long long)end,
                (unsigned long long)(end - begin));

    nib_tensor *tensor = &st->tensors[st->count];
    *tensor = (nib_tensor){ .name = strdup(name), .type = spec.type, .n_dims = spec.n_dims,
                            .bytes = end - begin, .offset = data_offset + begin, .file = file };
    NIB_REQUIRE(tensor->name, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for its tensors", path);
    memcpy(tensor->dims, spec.dims, sizeof spec.dims);
    tensor->data = bytes > 0 ? map->data + tensor->offset : NULL;
    st->count++;
    return NIB_OK;
}

static nib_status read_metadata(nib_safetensors *st, int32_t file, json_t *metadata)
{
    const char *path = st->files[file].path;
    NIB_REQUIRE(json_is_object(metadata), NIB_ERR_FORMAT, "%s: '__metadata__' is not an object",
                path);
    const char *key;
    json_t *value;
    char text[200];
    json_object_foreach(metadata, key, value)
        NIB_REQUIRE(json_is_string(value), NIB_ERR_FORMAT,
                    "%s: '__metadata__' has a value that is not a string: '%s'", path,
                    nib_clean_text(text, sizeof text, key));
    if (file == 0) st->metadata = json_incref(metadata);
    return NIB_OK;
}

static int by_offset(const void *a, const void *b)
{
    const nib_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones come first */
    return strcmp(x->name, y->name);
}

/* Sorted, each tensor must start where the one before it ends. */
static nib_status check_tiling(nib_safetensors *st, const nib_mapping *map, uint64_t at)
{
    nib_tensor *tensors = st->tensors + st->file_first;
    const size_t count = st->count - st->file_first;
    const uint64_t data_offset = at;
    if (count > 0) qsort(tensors, count, sizeof *tensors, by_offset);
    for (size_t i = 0; i < count; i++) {
        const uint64_t begin = tensors[i].offset;
        NIB_REQUIRE(begin >= at, NIB_ERR_FORMAT,
                    WHERE " begins at data offset %llu, inside '%.200s', which ends at %llu",
                    map->path, tensors[i].name, (unsigned long long)(begin - data_offset),
                    tensors[i - 1].name, (unsigned long long)(at - data_offset));
        NIB_REQUIRE(begin == at, NIB_ERR_FORMAT,
                    "%s: %llu data bytes from offset %llu to tensor '%.200s' belong to no tensor",
                    map->path, (unsigned long long)(begin - at),
                    (unsigned long long)(at - data_offset), tensors[i].name);
        at += tensors[i].bytes;
    }
    NIB_REQUIRE(at == map->bytes, NIB_ERR_FORMAT,
                "%s: the last %llu bytes of the file belong to no tensor", map->path,
                (unsigned long long)(map->bytes - at));
    return NIB_OK;
}

static nib_status read_entries(nib_safetensors *st, int32_t file, uint64_t data_offset,
                               json_t *root)
{
    const nib_mapping *map = &st->files[file];
    NIB_REQUIRE(json_is_object(root), NIB_ERR_FORMAT, "%s: the header is not a JSON object",
                map->path);
    st->file_first = st->count;
    const size_t room = st->count + json_object_size(root);
    nib_tensor *tensors = realloc(st->tensors, (room + 1) * sizeof *tensors);
    NIB_REQUIRE(tensors, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu tensors", map->path, room);
    st->tensors = tensors;

    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry) {
        if (strcmp(name, "__metadata__") == 0) NIB_TRY(read_metadata(st, file, entry));
        else NIB_TRY(read_tensor(st, file, data_offset, name, entry));
    }
    return check_tiling(st, map, data_offset);
}

nib_status nib_safetensors_read_header(nib_safetensors *st, int32_t file)
{
    const nib_mapping *map = &st->files[file];
    NIB_REQUIRE(map->bytes >= 8 + HEADER_MIN, NIB_ERR_FORMAT,
                "%s: %llu bytes, a safetensors file has at least %u", map->path,
                (unsigned long long)map->bytes, 8 + HEADER_MIN);
    const uint64_t n = u64_of(map->data);
    NIB_REQUIRE(n >= HEADER_MIN && n <= NIB_SAFETENSORS_HEADER_MAX, NIB_ERR_FORMAT,
                "%s: a header of %llu bytes, outside %u..%u: no safetensors file?", map->path,
                (unsigned long long)n, HEADER_MIN, NIB_SAFETENSORS_HEADER_MAX);
    NIB_REQUIRE(n <= map->bytes - 8, NIB_ERR_FORMAT,
                "%s: a header of %llu bytes, but only %llu follow: the file is cut short",
                map->path, (unsigned long long)n, (unsigned long long)(map->bytes - 8));
    NIB_REQUIRE(map->data[8] == '{', NIB_ERR_FORMAT,
                "%s: the header begins with byte 0x%02x, not with '{'", map->path,
                (unsigned)map->data[8]);

    json_t *root;
    NIB_TRY(nib_json_parse(map->path, map->data + 8, (size_t)n, 8, &root));
    const nib_status status = read_entries(st, file, 8 + n, root);
    json_decref(root);
    return status;
}

static int by_name(const void *a, const void *b)
{
    const nib_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

nib_status nib_safetensors_sort_names(nib_safetensors *st)
{
    const char *path = st->files[0].path;
    st->names = malloc((st->count + 1) * sizeof *st->names);
    NIB_REQUIRE(st->names, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu names", path, st->count);
    for (size_t i = 0; i < st->count; i++) st->names[i] = &st->tensors[i];
    qsort(st->names, st->count, sizeof *st->names, by_name);
    for (size_t i = 1; i < st->count; i++)
        NIB_REQUIRE(by_name(&st->names[i - 1], &st->names[i]) != 0, NIB_ERR_FORMAT,
                    "tensor '%.200s' is in two files: %s and %s", st->names[i]->name,
                    st->files[st->names[i - 1]->file].path, st->files[st->names[i]->file].path);
    return NIB_OK;
}

nib_status nib_safetensors_parse(const char *path, const uint8_t *data, uint64_t bytes,
                                 nib_safetensors **out)
{
    *out = NULL;
    nib_safetensors *st = nib_safetensors_new(1);
    if (st) st->files[0].path = strdup(path);
    if (!st || !st->files[0].path) {
        nib_safetensors_close(st);
        return nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for its tensors", path);
    }
    st->borrowed = 1;
    st->files[0].data = data;
    st->files[0].bytes = bytes;
    nib_status status = nib_safetensors_read_header(st, 0);
    if (status == NIB_OK) status = nib_safetensors_sort_names(st);
    if (status == NIB_OK) *out = st;
    else nib_safetensors_close(st);
    return status;
}
