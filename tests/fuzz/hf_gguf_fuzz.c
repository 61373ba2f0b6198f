/* hf_gguf_fuzz.c: the metadata of any GGUF file gives either a sentence or a folder's files,
 * each JSON file of which parses. Looks below include/. */
#include <stdlib.h>
#include <string.h>

#include "host/io/hf_gguf.h"
#include "host/io/json_util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_files(const nib_text_files *files, const nib_gguf_heads *heads)
{
    if (files->count < 5 || heads->q < 1 || heads->kv < 1 || heads->q % heads->kv) abort();
    for (size_t i = 0; i < files->count; i++) {
        const nib_text_file *file = &files->items[i];
        json_t *json;
        if (strlen(file->data) != file->bytes && strstr(file->name, ".json")) abort();
        if (!strstr(file->name, ".json")) continue;
        if (nib_json_parse(file->name, file->data, file->bytes, 0, &json) != NIB_OK) abort();
        json_decref(json);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    nib_gguf *gguf;
    nib_text_files files = { NULL, 0 };
    nib_gguf_heads heads;
    if (nib_gguf_parse("fuzz", data, bytes, &gguf) != NIB_OK) return 0;
    if (nib_hf_files_from_gguf(gguf, "bfloat16", &files, &heads) == NIB_OK)
        check_files(&files, &heads);
    else if (files.count || !*nib_last_error())
        abort();
    nib_text_files_free(&files);
    nib_gguf_close(gguf);
    return 0;
}
