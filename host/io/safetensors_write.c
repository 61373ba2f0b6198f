/* safetensors_write.c: the header of a file whose tensors are written afterwards. */
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/json_util.h"
#include "host/io/safetensors.h"

#define DATA_ALIGNMENT 64u

static nib_status check_spec(const nib_tensor_spec *spec, const json_t *root, int64_t *bytes)
{
    const char *name = spec->name;
    NIB_REQUIRE(name && *name, NIB_ERR_ARGUMENT, "safetensors: a tensor without a name");
    for (const char *at = name; *at; at++)
        NIB_REQUIRE((unsigned char)*at >= 0x20 && *at != 0x7f, NIB_ERR_ARGUMENT,
                    "safetensors: a tensor's name has control character 0x%02x", (unsigned)*at);
    NIB_REQUIRE(strcmp(name, "__metadata__") != 0, NIB_ERR_ARGUMENT,
                "safetensors: no tensor can be named '__metadata__'");
    NIB_REQUIRE(!json_object_get(root, name), NIB_ERR_ARGUMENT,
                "safetensors: two tensors named '%.200s'", name);
    NIB_REQUIRE((uint32_t)spec->type < NIB_TT_COUNT, NIB_ERR_ARGUMENT,
                "safetensors: tensor '%.200s' has the unknown type %d", name, (int)spec->type);
    NIB_REQUIRE(nib_tensor_type_get(spec->type)->in_safetensors, NIB_ERR_UNSUPPORTED,
                "safetensors: tensor '%.200s' has type %s, which the format lacks", name,
                nib_tensor_type_get(spec->type)->name);
    *bytes = nib_tensor_spec_bytes(spec);
    NIB_REQUIRE(*bytes >= 0, NIB_ERR_SHAPE,
                "safetensors: tensor '%.200s' has more than %d dimensions, a negative one, "
                "over 2^63 bytes, or no whole number of them", name, NIB_TENSOR_DIMS);
    return NIB_OK;
}

/* Adds spec at data offset *at and moves *at behind it. */
static nib_status add_tensor(json_t *root, const nib_tensor_spec *spec, uint64_t *at)
{
    int64_t bytes = 0, end;
    NIB_TRY(check_spec(spec, root, &bytes));
    NIB_REQUIRE(!__builtin_add_overflow((int64_t)*at, bytes, &end), NIB_ERR_SHAPE,
                "safetensors: over 2^63 bytes with tensor '%.200s'", spec->name);

    json_t *shape = json_array();
    for (int32_t i = 0; i < spec->n_dims; i++)
        json_array_append_new(shape, json_integer(spec->dims[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype",
                              nib_tensor_type_get(spec->type)->name, "shape", shape,
                              "data_offsets", (json_int_t)*at, (json_int_t)end);
    NIB_REQUIRE(entry && json_array_size(shape) == (size_t)spec->n_dims, NIB_ERR_OUT_OF_MEMORY,
                "safetensors: no memory for the header");
    /* jansson refuses keys that are not UTF-8. */
    NIB_REQUIRE(json_object_set_new(root, spec->name, entry) == 0, NIB_ERR_ARGUMENT,
                "safetensors: the name of a tensor of %lld bytes is not UTF-8", (long long)bytes);
    *at = (uint64_t)end;
    return NIB_OK;
}

/* n | JSON | spaces, so that 8 + n is a multiple of the alignment. */
static nib_status make_header(const json_t *root, nib_file_layout *layout)
{
    char *text;
    size_t bytes;
    NIB_TRY(nib_json_dump(root, 0, &text, &bytes));
    const size_t whole = (8 + bytes + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    layout->header = malloc(whole);
    if (layout->header) {
        memset(layout->header, ' ', whole);
        memcpy(layout->header + 8, text, bytes);
        for (int i = 0; i < 8; i++) layout->header[i] = (uint8_t)((whole - 8) >> 8 * i);
        layout->header_bytes = whole;
    }
    free(text);
    NIB_REQUIRE(layout->header, NIB_ERR_OUT_OF_MEMORY, "safetensors: no memory for the header");
    NIB_REQUIRE(whole - 8 <= NIB_SAFETENSORS_HEADER_MAX, NIB_ERR_UNSUPPORTED,
                "safetensors: a header of %zu bytes, the format's readers take %u: split the "
                "tensors over more files", whole - 8, NIB_SAFETENSORS_HEADER_MAX);
    return NIB_OK;
}

static nib_status lay_out(json_t *root, const nib_tensor_spec *specs, size_t count,
                          nib_file_layout *layout)
{
    layout->offsets = malloc((count + 1) * sizeof *layout->offsets);
    NIB_REQUIRE(root && layout->offsets, NIB_ERR_OUT_OF_MEMORY,
                "safetensors: no memory for the header");
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        layout->offsets[i] = at;
        NIB_TRY(add_tensor(root, &specs[i], &at));
    }
    NIB_TRY(make_header(root, layout));
    for (size_t i = 0; i < count; i++) layout->offsets[i] += layout->header_bytes;
    layout->file_bytes = layout->header_bytes + at;
    NIB_REQUIRE(layout->file_bytes <= INT64_MAX, NIB_ERR_SHAPE,
                "safetensors: a file of over 2^63 bytes");
    return NIB_OK;
}

nib_status nib_safetensors_layout(const nib_tensor_spec *specs, size_t count,
                                  nib_file_layout *layout)
{
    *layout = (nib_file_layout){ 0 };
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    const nib_status status = lay_out(root, specs, count, layout);
    if (status != NIB_OK) nib_file_layout_free(layout);
    json_decref(root);
    return status;
}
