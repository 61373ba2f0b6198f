/* merge.c: parts 1..N of one run --> the whole.
 *
 * Folders: every safetensors file is copied under its final number and an index is made. GGUF:
 * one header over all tensors, then each part's data. Units lie in the parts in the plan's order,
 * so a merged GGUF file is the same, byte for byte, as one that was written whole.
 */
#include "host/io/merge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/file_util.h"
#include "host/io/folder.h"
#include "host/io/guard.h"
#include "host/io/json_util.h"

typedef struct part {
    const char *path;
    nib_model  *model;
    int64_t     shard, shards;
    char        run[sizeof(((nib_plan *)0)->run)];
} part;

static nib_status read_gguf_part(part *p)
{
    const nib_gguf *g = p->model->gguf;
    const nib_gguf_string run = nib_gguf_str(g, NIB_PART_RUN);
    p->shard = nib_gguf_i64(g, NIB_PART_SHARD, 0);
    p->shards = nib_gguf_i64(g, NIB_PART_SHARDS, 0);
    NIB_REQUIRE(run.data && run.bytes < sizeof p->run, NIB_ERR_ARGUMENT,
                "%s: not a part: it has no %s", p->path, NIB_PART_RUN);
    snprintf(p->run, sizeof p->run, "%.*s", (int)run.bytes, run.data);
    return NIB_OK;
}

static nib_status read_folder_part(part *p)
{
    char *path = p->model->folder ? nib_path_join(p->model->folder, NIB_PART_FILE) : NULL;
    NIB_REQUIRE(path, NIB_ERR_ARGUMENT, "%s: not a part: it is no folder", p->path);
    json_t *root = NULL;
    const nib_status status = nib_json_load(path, &root);
    free(path);
    NIB_REQUIRE(status == NIB_OK, NIB_ERR_ARGUMENT, "%s: not a part: no readable %s", p->path,
                NIB_PART_FILE);
    p->shard = json_integer_value(json_object_get(root, NIB_PART_SHARD));
    p->shards = json_integer_value(json_object_get(root, NIB_PART_SHARDS));
    const char *run = nib_json_str(root, NIB_PART_RUN);
    snprintf(p->run, sizeof p->run, "%s", run ? run : "");
    json_decref(root);
    return NIB_OK;
}

static int by_shard(const void *a, const void *b)
{
    const part *x = a, *y = b;
    return (x->shard > y->shard) - (x->shard < y->shard);
}

static nib_status open_parts(const char *const *paths, part *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        parts[i].path = paths[i];
        NIB_TRY(nib_model_open(paths[i], &parts[i].model));
        NIB_TRY(parts[i].model->is_gguf ? read_gguf_part(&parts[i]) : read_folder_part(&parts[i]));
    }
    qsort(parts, n, sizeof *parts, by_shard);
    for (size_t i = 0; i < n; i++) {
        const char *one = parts[0].run, *other = parts[i].run;
        int n_one, n_other;
        nib_differing_words(&one, &n_one, &other, &n_other);
        NIB_REQUIRE(!strcmp(parts[i].run, parts[0].run)
                        && parts[i].model->is_gguf == parts[0].model->is_gguf,
                    NIB_ERR_ARGUMENT, "%s and %s are parts of different runs: '%.*s', '%.*s'",
                    parts[0].path, parts[i].path, n_one, one, n_other, other);
        NIB_REQUIRE(parts[i].shards == (int64_t)n, NIB_ERR_ARGUMENT,
                    "%s is part %lld of %lld, but %zu parts are given", parts[i].path,
                    (long long)parts[i].shard, (long long)parts[i].shards, n);
        NIB_REQUIRE(parts[i].shard == (int64_t)i + 1, NIB_ERR_ARGUMENT,
                    "part %zu of %zu is missing; part %lld is given as %s", i + 1, n,
                    (long long)parts[i].shard, parts[i].path);
    }
    return NIB_OK;
}

/* ---- folders ---- */

static nib_status copy_file(const part *p, size_t file, const char *name, json_t *map,
                            uint64_t *total, nib_output *out)
{
    size_t n;
    const nib_tensor *t = nib_safetensors_tensors(p->model->st, &n);
    for (size_t i = 0; i < n; i++) {
        if ((size_t)t[i].file != file) continue;
        NIB_REQUIRE(!json_object_get(map, t[i].name), NIB_ERR_FORMAT,
                    "%s: tensor %s is in an earlier part too", p->path, t[i].name);
        NIB_REQUIRE(!json_object_set_new(map, t[i].name, json_string(name)),
                    NIB_ERR_OUT_OF_MEMORY, "no memory for the index");
        *total += t[i].bytes;
    }
    return nib_output_copy(out, name, nib_safetensors_path(p->model->st, file));
}

static int has_tensors(const part *p, size_t file)
{
    size_t n;
    const nib_tensor *t = nib_safetensors_tensors(p->model->st, &n);
    for (size_t i = 0; i < n; i++)
        if ((size_t)t[i].file == file) return 1;
    return 0;
}

/* More parts than tensors leave files without any, which are left out but for an only one. */
static nib_status merge_folders(const part *parts, size_t n, nib_output *out)
{
    static const char *const skip[] = { NIB_PART_FILE, NULL };
    size_t files = 0, number = 0;
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t f = 0; f < nib_safetensors_files(parts[i].model->st); f++)
            files += (size_t)has_tensors(&parts[i], f);
    const int keep_empty = files == 0;
    if (keep_empty) files = 1;
    json_t *map = json_object();
    nib_status status = map ? nib_folder_copy(parts[0].model->folder, skip, out)
                            : nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for the index");
    for (size_t i = 0; i < n; i++) {
        const size_t own = nib_safetensors_files(parts[i].model->st);
        for (size_t f = 0; f < own && status == NIB_OK; f++) {
            char name[64];
            if (number == files || (!keep_empty && !has_tensors(&parts[i], f))) continue;
            number++;
            if (files == 1) snprintf(name, sizeof name, "model.safetensors");
            else snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", number, files);
            status = copy_file(&parts[i], f, name, map, &total, out);
        }
    }
    if (status == NIB_OK && files > 1) return nib_folder_index(out, total, map);
    json_decref(map);
    return status;
}

/* ---- GGUF ---- */

static nib_status merged_meta(const part *first, nib_gguf_meta *meta)
{
    size_t n;
    const nib_gguf_pair *pairs = nib_gguf_pairs(first->model->gguf, &n);
    for (size_t i = 0; i < n; i++) {
        const nib_gguf_string key = pairs[i].key;
        const size_t prefix = strlen("nibble.part.");
        if (key.bytes >= prefix && !memcmp(key.data, "nibble.part.", prefix)) continue;
        NIB_TRY(nib_gguf_set_pair(meta, &pairs[i]));
    }
    return NIB_OK;
}

static nib_status write_gguf(const part *parts, size_t n, const nib_file_layout *layout,
                             nib_output *out)
{
    nib_output_data *data;
    NIB_TRY(nib_output_file(out, NULL, layout->header, layout->header_bytes, layout->file_bytes,
                            &data));
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t count;
        const nib_tensor *t = nib_gguf_tensors(parts[i].model->gguf, &count);
        for (size_t j = 0; j < count; j++, at++) {
            NIB_TRY(nib_output_write(data, layout->offsets[at], t[j].data, t[j].bytes));
            nib_mapping_release(t[j].data, t[j].bytes);
        }
    }
    return NIB_OK;
}

static nib_status merge_gguf(const part *parts, size_t n, nib_output *out)
{
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t count;
        nib_gguf_tensors(parts[i].model->gguf, &count);
        total += count;
    }
    nib_file_layout layout = { 0 };
    nib_tensor_spec *specs = calloc(total ? total : 1, sizeof *specs);
    nib_gguf_meta *meta = nib_gguf_meta_new();
    nib_status status = specs && meta ? merged_meta(&parts[0], meta)
                                      : nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory to merge");
    for (size_t i = 0; i < n && status == NIB_OK; i++) {
        size_t count;
        const nib_tensor *t = nib_gguf_tensors(parts[i].model->gguf, &count);
        for (size_t j = 0; j < count; j++, at++) {
            specs[at] = (nib_tensor_spec){ t[j].name, t[j].type, t[j].n_dims, { 0 } };
            memcpy(specs[at].dims, t[j].dims, sizeof t[j].dims);
        }
    }
    if (status == NIB_OK) status = nib_gguf_layout(meta, specs, total, &layout);
    if (status == NIB_OK) status = write_gguf(parts, n, &layout, out);
    nib_file_layout_free(&layout);
    nib_gguf_meta_free(meta);
    free(specs);
    return status;
}

nib_status nib_merge_run(const char *const *paths, size_t n, const char *dst, int32_t force)
{
    part *parts = calloc(n, sizeof *parts);
    NIB_REQUIRE(parts, NIB_ERR_OUT_OF_MEMORY, "no memory for %zu parts", n);
    nib_output *out = NULL;
    nib_status status = open_parts(paths, parts, n);
    const int is_folder = status == NIB_OK && !parts[0].model->is_gguf;
    for (size_t i = 0; i < n && status == NIB_OK; i++)
        status = nib_guard_model(dst, parts[i].model);
    if (status == NIB_OK) status = nib_output_begin(dst, is_folder, force, 0, "merge", &out);
    if (status == NIB_OK)
        status = is_folder ? merge_folders(parts, n, out) : merge_gguf(parts, n, out);
    if (status == NIB_OK) {
        status = nib_output_commit(out);
        if (status == NIB_OK) out = NULL;
    }
    if (out) nib_output_abort(out, 0);
    for (size_t i = 0; i < n; i++) nib_model_close(parts[i].model);
    free(parts);
    return status;
}
