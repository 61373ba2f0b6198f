/* hf_parts.c: small files in memory, and checked reading of single metadata values. */
#include "host/io/hf_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/json_util.h"

void nib_text_files_free(nib_text_files *files)
{
    for (size_t i = 0; i < files->count; i++) {
        free(files->items[i].name);
        free(files->items[i].data);
    }
    free(files->items);
    *files = (nib_text_files){ NULL, 0 };
}

nib_status nib_text_files_add(nib_text_files *files, const char *name, const char *data,
                              size_t bytes)
{
    nib_text_file *items = realloc(files->items, (files->count + 1) * sizeof *items);
    NIB_REQUIRE(items, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for its name", name);
    files->items = items;
    nib_text_file *file = &items[files->count];
    file->name = strdup(name);
    file->data = malloc(bytes + 1);
    file->bytes = bytes;
    if (!file->name || !file->data) {
        free(file->name);
        free(file->data);
        return nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu bytes", name, bytes);
    }
    if (bytes) memcpy(file->data, data, bytes);
    file->data[bytes] = 0;
    files->count++;
    return NIB_OK;
}

nib_status nib_text_files_add_json(nib_text_files *files, const char *name, json_t *json)
{
    NIB_REQUIRE(json, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for its JSON", name);
    char *text = NULL;
    size_t bytes = 0;
    nib_status status = nib_json_dump(json, 2, &text, &bytes);
    json_decref(json);
    if (status == NIB_OK) {
        text[bytes] = '\n'; /* in place of the NUL: files end with a line's end */
        status = nib_text_files_add(files, name, text, bytes + 1);
    }
    free(text);
    return status;
}

static int is_integer(nib_gguf_type type)
{
    switch (type) {
    case NIB_GGUF_U8: case NIB_GGUF_I8: case NIB_GGUF_U16: case NIB_GGUF_I16:
    case NIB_GGUF_U32: case NIB_GGUF_I32: case NIB_GGUF_U64: case NIB_GGUF_I64:
        return 1;
    case NIB_GGUF_F32: case NIB_GGUF_F64: case NIB_GGUF_BOOL: case NIB_GGUF_STRING:
    case NIB_GGUF_ARRAY: case NIB_GGUF_TYPES:
        return 0;
    }
    return 0;
}

nib_status nib_meta_int(const nib_gguf *gguf, const char *key, int optional, int64_t lo,
                        int64_t hi, int64_t *value)
{
    const nib_gguf_value *found = nib_gguf_find(gguf, key);
    if (!found && optional) return NIB_OK;
    NIB_REQUIRE(found, NIB_ERR_FORMAT, "GGUF metadata: no key %s", key);
    NIB_REQUIRE(is_integer(found->type), NIB_ERR_FORMAT,
                "GGUF metadata: %s has value type %d, an integer is needed", key,
                (int)found->type);
    if (found->type == NIB_GGUF_U64)
        NIB_REQUIRE(found->as.u <= INT64_MAX, NIB_ERR_FORMAT, "GGUF metadata: %s is %llu", key,
                    (unsigned long long)found->as.u);
    const int64_t number = nib_gguf_i64(gguf, key, lo - 1);
    NIB_REQUIRE(number >= lo && number <= hi, NIB_ERR_FORMAT,
                "GGUF metadata: %s is %lld, outside %lld..%lld", key, (long long)number,
                (long long)lo, (long long)hi);
    *value = number;
    return NIB_OK;
}

nib_status nib_meta_real(const nib_gguf *gguf, const char *key, int optional, double *value)
{
    const nib_gguf_value *found = nib_gguf_find(gguf, key);
    if (!found && optional) return NIB_OK;
    NIB_REQUIRE(found, NIB_ERR_FORMAT, "GGUF metadata: no key %s", key);
    NIB_REQUIRE(found->type == NIB_GGUF_F32 || found->type == NIB_GGUF_F64, NIB_ERR_FORMAT,
                "GGUF metadata: %s has value type %d, a real number is needed", key,
                (int)found->type);
    NIB_REQUIRE(isfinite((float)found->as.f) && (float)found->as.f > 0.0f, NIB_ERR_FORMAT,
                "GGUF metadata: %s is %g, a finite number above 0 is needed", key, found->as.f);
    *value = found->as.f;
    return NIB_OK;
}

int nib_meta_bool(const nib_gguf *gguf, const char *key, int fallback)
{
    const nib_gguf_value *found = nib_gguf_find(gguf, key);
    return found && found->type == NIB_GGUF_BOOL ? found->as.i != 0 : fallback;
}

int nib_str_is(nib_gguf_string text, const char *word)
{
    return text.data && text.bytes == strlen(word) && memcmp(text.data, word, text.bytes) == 0;
}

json_t *nib_json_f32(double value)
{
    char text[64];
    for (int digits = 1; digits <= 9; digits++) { /* 9 always suffice for f32 */
        snprintf(text, sizeof text, "%.*g", digits, (double)(float)value);
        const float back = strtof(text, NULL);
        if (back >= (float)value && back <= (float)value) break;
    }
    return json_real(strtod(text, NULL));
}

double nib_llama3_divisor(const nib_llama3_rope *rope, int64_t i)
{
    const double wave = 2.0 * 3.14159265358979323846 *
                        pow(rope->theta, 2.0 * (double)i / (double)rope->head_dim);
    const double smooth = (rope->positions / wave - rope->low) / (rope->high - rope->low);
    return smooth >= 1.0   ? 1.0
           : smooth <= 0.0 ? rope->factor
                           : 1.0 / ((1.0 - smooth) / rope->factor + smooth);
}
