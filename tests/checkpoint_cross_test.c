/* checkpoint_cross_test.c: what is a tensor in GGUF and configuration in a folder, and folders in
 * which nothing is quantized. Looks below include/ to read the files that were written. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/model.h"
#include "nibble/nibble.h"
#include "shim.h"
#include "temp_dir.h"

#define LLAMA3 "tests/golden/hf_gguf/llama3.gguf"

/* src to dst with every tensor kept. */
static nib_status convert(const char *src, const char *dst, nib_export export_as)
{
    static const char *const all[] = { "*" };
    nib_device *device;
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    if (nib_device_open(&cpu, &device) != NIB_OK) return NIB_ERR_DEVICE;
    const nib_exec exec = { .size = sizeof exec, .device = device, .threads = 2 };
    const nib_checkpoint_options o = { .size = sizeof o, .export_as = export_as,
                                       .format = NIB_NVFP4, .keep_dtype = NIB_F32,
                                       .exclude = all, .n_exclude = 1 };
    const nib_status status = nib_checkpoint_quantize(&exec, src, dst, &o, NULL);
    nib_device_close(device);
    return status;
}

NIB_TEST(CheckpointCross, Llama3RopeIsTensorOrConfiguration)
{
    const temp_dir dir = temp_dir_make();
    char folder[512], back[512];
    snprintf(folder, sizeof folder, "%s/folder", dir.path);
    snprintf(back, sizeof back, "%s/back.gguf", dir.path);
    nib_model *made = NULL, *again = NULL, *source = NULL;
    EXPECT(convert(LLAMA3, folder, NIB_EXPORT_MODELOPT) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_model_open(folder, &made) == NIB_OK, "%s", nib_last_error());
    EXPECT(convert(folder, back, NIB_EXPORT_GGUF) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_model_open(back, &again) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_model_open(LLAMA3, &source) == NIB_OK, "%s", nib_last_error());
    if (made && again && source) {
        EXPECT(!nib_safetensors_find(made->st, "rope_freqs.weight"), "no tensor in the folder");
        const json_t *scaling = json_object_get(made->config, "rope_scaling");
        EXPECT(json_is_object(scaling), "config.json says it instead");
        const nib_tensor *want = nib_gguf_find_tensor(source->gguf, "rope_freqs.weight");
        const nib_tensor *got = nib_gguf_find_tensor(again->gguf, "rope_freqs.weight");
        EXPECT(want && got && want->bytes == got->bytes, "the tensor is back");
        for (uint64_t i = 0; want && got && i < want->bytes / 4; i++) {
            float a, b;
            memcpy(&a, want->data + 4 * i, 4);
            memcpy(&b, got->data + 4 * i, 4);
            EXPECT(fabsf(a - b) <= 1e-5f * a, "divisor %d: %g, was %g", (int)i, (double)b,
                   (double)a);
        }
    }
    nib_model_close(source);
    nib_model_close(again);
    nib_model_close(made);
    temp_dir_remove(&dir);
}

/* Its rope_freqs.weight is in config.json there: not missing. Of two GGUF files it would be. */
NIB_TEST(CheckpointCross, Llama3ComparesWithItsFolder)
{
    const temp_dir dir = temp_dir_make();
    char folder[512];
    snprintf(folder, sizeof folder, "%s/folder", dir.path);
    nib_checkpoint_report *all = NULL, *r = NULL;
    nib_device *device;
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    REQUIRE(nib_device_open(&cpu, &device) == NIB_OK, "%s", nib_last_error());
    const nib_exec one = { .size = sizeof one, .device = device }, *exec = &one;
    REQUIRE(convert(LLAMA3, folder, NIB_EXPORT_MODELOPT) == NIB_OK, "%s", nib_last_error());
    REQUIRE(nib_checkpoint_compare(exec, LLAMA3, LLAMA3, NULL, &all) == NIB_OK, "%s",
            nib_last_error());
    for (int back = 0; back < 2; back++) {
        const char *a = back ? folder : LLAMA3, *b = back ? LLAMA3 : folder;
        REQUIRE(nib_checkpoint_compare(exec, a, b, NULL, &r) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(r->n_tensors + 1 == all->n_tensors, "%d of %d tensors", (int)r->n_tensors,
               (int)all->n_tensors);
        for (uint64_t i = 0; i < r->n_tensors; i++)
            EXPECT(r->tensors[i].error.elements && r->tensors[i].error.max_error == 0, "%s",
                   r->tensors[i].name);
        nib_checkpoint_report_free(r);
    }
    nib_checkpoint_report_free(all);
    nib_device_close(device);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointCross, FolderWithoutQuantizedTensorsIsPlain)
{
    const temp_dir dir = temp_dir_make();
    char folder[512];
    snprintf(folder, sizeof folder, "%s/folder", dir.path);
    nib_model *made = NULL;
    EXPECT(convert(LLAMA3, folder, NIB_EXPORT_COMPRESSED_TENSORS) == NIB_OK, "%s",
           nib_last_error());
    EXPECT(nib_model_open(folder, &made) == NIB_OK, "%s", nib_last_error());
    if (made) EXPECT(!json_object_get(made->config, "quantization_config"), "no such section");
    nib_model_close(made);
    temp_dir_remove(&dir);
}
