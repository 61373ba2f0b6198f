/* gguf_fuzz.c: any bytes give either a sentence or pairs and tensors that lie inside them, and
 * what was read can be laid out and read again. Looks below include/. */
#include <stdlib.h>
#include <string.h>

#include "host/io/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static volatile uint64_t sink;

static void touch(const void *data, uint64_t bytes)
{
    const uint8_t *p = data;
    for (uint64_t i = 0; i < bytes; i++) sink += p[i];
}

static void check_value(const nib_gguf_value *value)
{
    if (value->type == NIB_GGUF_STRING) touch(value->as.s.data, value->as.s.bytes);
    for (uint64_t i = 0; value->type == NIB_GGUF_ARRAY && i < value->count; i++) {
        const nib_gguf_string s = nib_gguf_item_str(value, i);
        touch(s.data, s.bytes);
        sink += (uint64_t)nib_gguf_item_i64(value, i);
        sink += nib_gguf_item_f64(value, i) > 0.0;
    }
}

static void check_tensors(const nib_gguf *gguf, const uint8_t *data, size_t bytes)
{
    size_t count;
    const nib_tensor *tensors = nib_gguf_tensors(gguf, &count);
    for (size_t i = 0; i < count; i++) {
        const nib_tensor *t = &tensors[i];
        if (nib_gguf_find_tensor(gguf, t->name) != t || strlen(t->name) > 64) abort();
        if (nib_tensor_elements(t) < 0) abort();
        if (t->bytes == 0) continue;
        if (t->data != data + t->offset || t->offset > bytes || t->bytes > bytes - t->offset) {
            abort();
        }
        touch(t->data, t->bytes);
    }
}

static nib_gguf_meta *copy_pairs(const nib_gguf *gguf)
{
    size_t count;
    const nib_gguf_pair *pairs = nib_gguf_pairs(gguf, &count);
    nib_gguf_meta *meta = nib_gguf_meta_new();
    for (size_t i = 0; meta && i < count; i++) {
        char key[256] = { 0 };
        check_value(&pairs[i].value);
        if (nib_gguf_set_pair(meta, &pairs[i]) != NIB_OK) abort();
        if (pairs[i].key.bytes >= sizeof key) continue;
        memcpy(key, pairs[i].key.data, pairs[i].key.bytes);
        if (nib_gguf_find(gguf, key) != &pairs[i].value) abort();
        sink += (uint64_t)nib_gguf_i64(gguf, key, 0) + (nib_gguf_f64(gguf, key, 0) > 0);
    }
    return meta;
}

/* Laid out, the same tensors and as many pairs come back. */
static void check_layout(const nib_gguf *gguf, const nib_gguf_meta *meta)
{
    size_t count, n, pairs;
    const nib_tensor *tensors = nib_gguf_tensors(gguf, &count);
    nib_tensor_spec *specs = calloc(count + 1, sizeof *specs);
    if (!specs) return;
    int long_name = 0; /* of 64 bytes: read, but not written */
    for (size_t i = 0; i < count; i++) {
        specs[i] = (nib_tensor_spec){ tensors[i].name, tensors[i].type, tensors[i].n_dims, { 0 } };
        memcpy(specs[i].dims, tensors[i].dims, sizeof specs[i].dims);
        long_name |= strlen(tensors[i].name) == 64;
    }
    nib_file_layout layout;
    const nib_status status = nib_gguf_layout(meta, specs, count, &layout);
    if ((status == NIB_OK) == long_name) abort();
    if (status == NIB_OK && layout.file_bytes < 1u << 24) {
        nib_gguf *again;
        uint8_t *file = calloc(1, layout.file_bytes);
        if (!file) abort();
        memcpy(file, layout.header, layout.header_bytes);
        if (nib_gguf_parse("again", file, layout.file_bytes, &again) != NIB_OK) abort();
        const nib_tensor *back = nib_gguf_tensors(again, &n);
        nib_gguf_pairs(gguf, &pairs);
        if (n != count) abort();
        for (size_t i = 0; i < n; i++) {
            if (back[i].offset != layout.offsets[i] || back[i].bytes != tensors[i].bytes) abort();
        }
        nib_gguf_pairs(again, &n);
        if (n != pairs) abort();
        nib_gguf_close(again);
        free(file);
    }
    nib_file_layout_free(&layout);
    free(specs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    nib_gguf *gguf;
    if (nib_gguf_parse("fuzz", data, bytes, &gguf) != NIB_OK) {
        if (gguf || !*nib_last_error()) abort();
        return 0;
    }
    check_tensors(gguf, data, bytes);
    nib_gguf_meta *meta = copy_pairs(gguf);
    if (meta) check_layout(gguf, meta);
    nib_gguf_meta_free(meta);
    nib_gguf_close(gguf);
    return 0;
}
