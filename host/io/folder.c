/* folder.c: what makes a folder of weights a model that loaders take. */
#include "host/io/folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/io/file_util.h"
#include "host/io/json_util.h"

nib_status nib_folder_json(nib_output *out, const char *name, json_t *json)
{
    char *text = NULL;
    size_t bytes = 0;
    nib_status status = json ? nib_json_dump(json, 2, &text, &bytes)
                             : nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory", name);
    json_decref(json);
    if (status == NIB_OK) status = nib_output_text(out, name, text, bytes);
    free(text);
    return status;
}

nib_status nib_folder_index(nib_output *out, uint64_t total_bytes, json_t *weight_map)
{
    json_t *index = json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)total_bytes,
                              "weight_map", weight_map);
    return nib_folder_json(out, "model.safetensors.index.json", index);
}

/* ---- copying ---- */

static int is_weights(const char *name)
{
    static const char *const tails[] = { ".safetensors", ".safetensors.index.json", ".bin",
                                         ".bin.index.json", ".pt", ".pth", ".gguf", ".h5",
                                         ".msgpack", ".onnx", ".onnx_data", ".ckpt", ".npz" };
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        const size_t m = strlen(tails[i]);
        if (n >= m && !strcmp(name + n - m, tails[i])) return 1;
    }
    return 0;
}

int nib_folder_copies(const char *name) { return name[0] != '.' && !is_weights(name); }

static int in_list(const char *const *list, const char *name)
{
    for (; list && *list; list++)
        if (!strcmp(*list, name)) return 1;
    return 0;
}

static nib_status copy_entry(const char *folder, const char *name, nib_output *out)
{
    char *path = nib_path_join(folder, name);
    NIB_REQUIRE(path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
    struct stat st;
    nib_status status = NIB_OK;
    if (stat(path, &st)) status = nib_fail(NIB_ERR_IO, "%s: %s", path, strerror(errno));
    else if (S_ISREG(st.st_mode)) status = nib_output_copy(out, name, path);
    free(path);
    return status;
}

nib_status nib_folder_copy(const char *folder, const char *const *skip, nib_output *out)
{
    DIR *d = opendir(folder);
    NIB_REQUIRE(d, NIB_ERR_IO, "%s: %s", folder, strerror(errno));
    nib_status status = NIB_OK;
    for (const struct dirent *e; status == NIB_OK && (e = readdir(d));) {
        if (!nib_folder_copies(e->d_name) || in_list(skip, e->d_name)) continue;
        status = copy_entry(folder, e->d_name, out);
    }
    closedir(d);
    return status;
}

/* ---- configuration ---- */

/* config with its quantization_config replaced; a new reference. */
static json_t *with_section(const json_t *config, json_t *section)
{
    json_t *copy = json_deep_copy(config);
    if (copy && section && json_object_set(copy, "quantization_config", section)) {
        json_decref(copy);
        return NULL;
    }
    return copy;
}

static nib_status config_files(const nib_model *model, const nib_checkpoint_options *o,
                               const nib_plan *plan, nib_output *out)
{
    json_t *section = NULL, *separate = NULL, *made = NULL;
    if (plan->n_quantized) /* a folder without a quantized tensor is a plain one */
        NIB_TRY(nib_target_config(o->export_as, &plan->modules, &section, &separate));
    const json_t *config = model->config;
    nib_status status = NIB_OK;
    for (size_t i = 0; i < plan->texts.count; i++) {
        const nib_text_file *f = &plan->texts.items[i];
        if (strcmp(f->name, "config.json")) continue;
        status = nib_json_parse(f->name, f->data, f->bytes, 0, &made);
        config = made;
    }
    if (status == NIB_OK && config)
        status = nib_folder_json(out, "config.json", with_section(config, section));
    if (status == NIB_OK && separate)
        status = nib_folder_json(out, "hf_quant_config.json", json_incref(separate));
    json_decref(made);
    json_decref(section);
    json_decref(separate);
    return status;
}

static nib_status index_file(const nib_plan *plan, nib_output *out)
{
    if (plan->n_files < 2) return NIB_OK;
    json_t *map = json_object();
    uint64_t total = 0;
    for (size_t i = 0; map && i < plan->n_outs; i++) {
        const nib_out_tensor *t = &plan->outs[i];
        total += (uint64_t)nib_tensor_spec_bytes(&t->spec);
        if (json_object_set_new(map, t->spec.name, json_string(plan->files[t->file].name))) {
            json_decref(map);
            map = NULL;
        }
    }
    return nib_folder_index(out, total, map);
}

nib_status nib_folder_finish(const nib_model *model, const nib_checkpoint_options *o,
                             const nib_plan *plan, nib_output *out)
{
    static const char *const changed[] = { "config.json", "hf_quant_config.json", NIB_PART_FILE,
                                           NULL };
    if (model->folder) NIB_TRY(nib_folder_copy(model->folder, changed, out));
    for (size_t i = 0; i < plan->texts.count; i++) {
        const nib_text_file *f = &plan->texts.items[i];
        if (strcmp(f->name, "config.json"))
            NIB_TRY(nib_output_text(out, f->name, f->data, f->bytes));
    }
    NIB_TRY(config_files(model, o, plan, out));
    NIB_TRY(index_file(plan, out));
    if (o->gptq && o->gptq->rotate)
        NIB_TRY(nib_folder_json(out, NIB_ROTATION_FILE,
                                json_pack("{s:i,s:s}", "hadamard", o->gptq->rotate, "needs",
                                          NIB_ROTATION_NEEDS)));
    if (!o->shards) return NIB_OK;
    return nib_folder_json(out, NIB_PART_FILE,
                           json_pack("{s:i,s:i,s:s}", NIB_PART_SHARD, o->shard, NIB_PART_SHARDS,
                                     o->shards, NIB_PART_RUN, plan->run));
}
