/* json_util.c: jansson's errors as sentences, and text that keeps numbers readable. */
#include "host/io/json_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/file_util.h"
#include "host/io/tensor_file.h"

#define FILE_BYTES_MAX (1u << 30)

nib_status nib_json_parse(const char *path, const void *data, size_t bytes, uint64_t offset,
                          json_t **out)
{
    json_error_t error;
    char text[JSON_ERROR_TEXT_LENGTH];
    *out = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, &error);
    if (*out) return NIB_OK;
    NIB_REQUIRE(json_error_code(&error) != json_error_out_of_memory, NIB_ERR_OUT_OF_MEMORY,
                "%s: no memory for its JSON", path);
    return nib_fail(NIB_ERR_FORMAT, "%s: JSON, line %d, column %d (byte %llu of the file): %s",
                    path, error.line, error.column,
                    (unsigned long long)offset + (unsigned long long)error.position,
                    nib_clean_text(text, sizeof text, error.text));
}

nib_status nib_json_load(const char *path, json_t **out)
{
    nib_mapping map;
    *out = NULL;
    NIB_TRY(nib_mapping_open(path, &map));
    const nib_status status =
        map.bytes <= FILE_BYTES_MAX
            ? nib_json_parse(path, map.data, (size_t)map.bytes, 0, out)
            : nib_fail(NIB_ERR_FORMAT, "%s: %llu bytes of JSON, over the limit of %u", path,
                       (unsigned long long)map.bytes, FILE_BYTES_MAX);
    nib_mapping_close(&map);
    return status;
}

/* jansson takes one precision for a whole text. */
static int digits_of(double value)
{
    char text[64];
    for (int digits = 15; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        const double back = strtod(text, NULL);
        if (back <= value && back >= value) return digits;
    }
    return 17;
}

static int max_digits(const json_t *value)
{
    int most = 15;
    if (json_is_real(value)) return digits_of(json_real_value(value));
    if (json_is_object(value)) {
        const char *key;
        json_t *item;
        json_object_foreach((json_t *)value, key, item) {
            const int digits = max_digits(item);
            if (digits > most) most = digits;
        }
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        const int digits = max_digits(json_array_get(value, i));
        if (digits > most) most = digits;
    }
    return most;
}

nib_status nib_json_dump(const json_t *value, int indent, char **text, size_t *bytes)
{
    size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION((size_t)max_digits(value));
    flags |= indent > 0 ? JSON_INDENT((size_t)indent) : JSON_COMPACT;
    *text = json_dumps(value, flags);
    NIB_REQUIRE(*text, NIB_ERR_OUT_OF_MEMORY, "no memory to write JSON");
    if (bytes) *bytes = strlen(*text);
    return NIB_OK;
}

const char *nib_json_str(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

int nib_json_u64(const json_t *value, uint64_t *number)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return 0;
    *number = (uint64_t)json_integer_value(value);
    return 1;
}
