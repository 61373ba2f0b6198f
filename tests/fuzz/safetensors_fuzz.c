/* safetensors_fuzz.c: any bytes give either a sentence or tensors that lie inside them and can
 * be laid out again. Looks below include/. */
#include <stdlib.h>
#include <string.h>

#include "host/io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static volatile uint8_t sink;

static void check_data(const nib_safetensors *st, const nib_tensor *tensor, const uint8_t *data,
                       size_t bytes)
{
    if (nib_safetensors_find(st, tensor->name) != tensor) abort();
    if (tensor->bytes == 0) return;
    if (tensor->data < data || tensor->data + tensor->bytes > data + bytes) abort();
    for (uint64_t i = 0; i < tensor->bytes; i++) sink = (uint8_t)(sink + tensor->data[i]);
}

/* What was read can be written, and reads back as the same. */
static void check_layout(const nib_tensor *tensors, size_t count)
{
    nib_tensor_spec *specs = calloc(count + 1, sizeof *specs);
    if (!specs) return;
    for (size_t i = 0; i < count; i++) {
        specs[i] = (nib_tensor_spec){ tensors[i].name, tensors[i].type, tensors[i].n_dims, { 0 } };
        memcpy(specs[i].dims, tensors[i].dims, sizeof specs[i].dims);
    }
    nib_file_layout layout;
    if (nib_safetensors_layout(specs, count, &layout) != NIB_OK) abort();
    uint8_t *file = calloc(1, (size_t)layout.file_bytes);
    if (file) {
        memcpy(file, layout.header, (size_t)layout.header_bytes);
        nib_safetensors *again;
        size_t n;
        if (nib_safetensors_parse("again", file, layout.file_bytes, &again) != NIB_OK) abort();
        nib_safetensors_tensors(again, &n);
        if (n != count) abort();
        for (size_t i = 0; i < count; i++) {
            const nib_tensor *tensor = nib_safetensors_find(again, specs[i].name);
            if (!tensor || tensor->offset != layout.offsets[i] || tensor->bytes != tensors[i].bytes)
                abort();
        }
        nib_safetensors_close(again);
    }
    free(file);
    nib_file_layout_free(&layout);
    free(specs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    nib_safetensors *st;
    if (nib_safetensors_parse("fuzz", data, bytes, &st) != NIB_OK) {
        if (st || !*nib_last_error()) abort();
        return 0;
    }
    size_t count;
    const nib_tensor *tensors = nib_safetensors_tensors(st, &count);
    for (size_t i = 0; i < count; i++) check_data(st, &tensors[i], data, bytes);
    (void)nib_safetensors_metadata(st, "format");
    check_layout(tensors, count);
    nib_safetensors_close(st);
    return 0;
}
