/* json_fuzz.c: any bytes give either a sentence or a value that survives dump and parse.
 * Looks below include/. */
#include <stdlib.h>

#include "host/io/json_util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_round_trip(const json_t *value, int indent)
{
    char *text;
    size_t text_bytes;
    json_t *again;
    if (nib_json_dump(value, indent, &text, &text_bytes) != NIB_OK) abort();
    if (nib_json_parse("again", text, text_bytes, 0, &again) != NIB_OK) abort();
    if (!json_equal(value, again)) abort();
    json_decref(again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    json_t *value;
    if (nib_json_parse("fuzz", data, bytes, 0, &value) != NIB_OK) {
        if (value || !*nib_last_error()) abort();
        return 0;
    }
    uint64_t number;
    const char *key;
    json_t *item;
    json_object_foreach(value, key, item) {
        (void)nib_json_str(value, key);
        (void)nib_json_u64(item, &number);
    }
    check_round_trip(value, 0);
    check_round_trip(value, 2);
    json_decref(value);
    return 0;
}
