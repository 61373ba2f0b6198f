/* safetensors_open.c: from a path to the file or files it means, and the look-ups. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/internal.h"
#include "host/io/file_util.h"
#include "host/io/json_util.h"
#include "host/io/safetensors_table.h"

#define INDEX_NAME "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"

nib_safetensors *nib_safetensors_new(size_t n_files)
{
    nib_safetensors *st = calloc(1, sizeof *st);
    if (!st) return NULL;
    st->files = calloc(n_files, sizeof *st->files);
    st->n_files = n_files;
    if (st->files) return st;
    free(st);
    return NULL;
}

void nib_safetensors_close(nib_safetensors *st)
{
    if (!st) return;
    for (size_t i = 0; i < st->count; i++) free((char *)(uintptr_t)st->tensors[i].name);
    for (size_t i = 0; i < st->n_files; i++) {
        if (st->borrowed) st->files[i].data = NULL;
        nib_mapping_close(&st->files[i]);
    }
    json_decref(st->metadata);
    free(st->names);
    free(st->tensors);
    free(st->files);
    free(st);
}

const nib_tensor *nib_safetensors_tensors(const nib_safetensors *st, size_t *count)
{
    *count = st->count;
    return st->tensors;
}

static int name_order(const void *key, const void *item)
{
    return strcmp(key, (*(const nib_tensor *const *)item)->name);
}

const nib_tensor *nib_safetensors_find(const nib_safetensors *st, const char *name)
{
    const nib_tensor **found = bsearch(name, st->names, st->count, sizeof *st->names, name_order);
    return found ? *found : NULL;
}

size_t nib_safetensors_files(const nib_safetensors *st) { return st->n_files; }

const char *nib_safetensors_path(const nib_safetensors *st, size_t file)
{
    return st->files[file].path;
}

const char *nib_safetensors_metadata(const nib_safetensors *st, const char *key)
{
    return nib_json_str(st->metadata, key);
}

static int ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static nib_status open_file(nib_safetensors *st, size_t file, const char *path)
{
    NIB_TRY(nib_mapping_open(path, &st->files[file]));
    return nib_safetensors_read_header(st, (int32_t)file);
}

static nib_status open_single(const char *path, nib_safetensors **out)
{
    nib_safetensors *st = nib_safetensors_new(1);
    NIB_REQUIRE(st, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for its tensors", path);
    nib_status status = open_file(st, 0, path);
    if (status == NIB_OK) status = nib_safetensors_sort_names(st);
    if (status == NIB_OK) *out = st;
    else nib_safetensors_close(st);
    return status;
}

/* ---- an index ---- */

static int text_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of the map, sorted; they belong to the map. */
static nib_status list_files(const char *index, json_t *map, const char **files, size_t *n_files)
{
    size_t count = 0;
    const char *name;
    json_t *value;
    char text[256];
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        char tensor[256];
        nib_clean_text(tensor, sizeof tensor, name);
        NIB_REQUIRE(file, NIB_ERR_FORMAT, "%s: weight_map gives tensor '%s' no file name", index,
                    tensor);
        NIB_REQUIRE(nib_is_plain_name(file) && ends_with(file, ".safetensors"), NIB_ERR_FORMAT,
                    "%s: weight_map puts tensor '%s' into '%s', which is not the name of a "
                    ".safetensors file of this folder", index, tensor,
                    nib_clean_text(text, sizeof text, file));
        files[count++] = file;
    }
    qsort(files, count, sizeof *files, text_order);
    *n_files = 0;
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(files[i], files[i - 1]) != 0) files[(*n_files)++] = files[i];
    return NIB_OK;
}

/* Both ways: what the files hold is in the map, what the map says is in the files. */
static nib_status check_map(const nib_safetensors *st, const char *index, json_t *map,
                            const char *const *files)
{
    for (size_t i = 0; i < st->count; i++) {
        const nib_tensor *tensor = &st->tensors[i];
        const char *said = nib_json_str(map, tensor->name);
        NIB_REQUIRE(said, NIB_ERR_FORMAT, "%s: holds tensor '%.200s', which %s does not name",
                    st->files[tensor->file].path, tensor->name, index);
        NIB_REQUIRE(strcmp(said, files[tensor->file]) == 0, NIB_ERR_FORMAT,
                    "%s: holds tensor '%.200s', which %s puts into '%.200s'",
                    st->files[tensor->file].path, tensor->name, index, said);
    }
    const char *name;
    json_t *value;
    char text[256];
    json_object_foreach(map, name, value)
        NIB_REQUIRE(nib_safetensors_find(st, name), NIB_ERR_FORMAT,
                    "%s: weight_map puts tensor '%s' into '%.200s', which does not hold it",
                    index, nib_clean_text(text, sizeof text, name), json_string_value(value));
    return NIB_OK;
}

static nib_status open_shards(const char *index, json_t *map, const char *const *files,
                              nib_safetensors *st)
{
    const char *slash = strrchr(index, '/');
    char *folder = slash ? strndup(index, (size_t)(slash - index)) : strdup(".");
    nib_status status = NIB_OK;
    for (size_t i = 0; status == NIB_OK && i < st->n_files; i++) {
        char *path = folder ? nib_path_join(folder, files[i]) : NULL;
        status = path ? open_file(st, i, path)
                      : nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", index);
        free(path);
    }
    free(folder);
    if (status == NIB_OK) status = nib_safetensors_sort_names(st);
    if (status == NIB_OK) status = check_map(st, index, map, files);
    return status;
}

static nib_status open_map(const char *index, json_t *map, const char **files,
                           nib_safetensors **out)
{
    size_t n_files;
    NIB_TRY(list_files(index, map, files, &n_files));
    nib_safetensors *st = nib_safetensors_new(n_files);
    NIB_REQUIRE(st, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu files", index, n_files);
    const nib_status status = open_shards(index, map, files, st);
    if (status == NIB_OK) *out = st;
    else nib_safetensors_close(st);
    return status;
}

static nib_status open_index(const char *index, nib_safetensors **out)
{
    json_t *root;
    NIB_TRY(nib_json_load(index, &root));
    json_t *map = json_object_get(root, "weight_map");
    const char **files = NULL;
    nib_status status;
    if (json_object_size(map) == 0)
        status = nib_fail(NIB_ERR_FORMAT, "%s: no 'weight_map' that names a tensor", index);
    else if (!(files = malloc(json_object_size(map) * sizeof *files)))
        status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", index);
    else
        status = open_map(index, map, files, out);
    free(files);
    json_decref(root);
    return status;
}

/* ---- a folder ---- */

static nib_status find_single(const char *folder, char **name)
{
    DIR *dir = opendir(folder);
    NIB_REQUIRE(dir, NIB_ERR_IO, "%s: cannot open the folder: %s", folder, strerror(errno));
    size_t count = 0;
    const struct dirent *entry;
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.' && ends_with(entry->d_name, ".safetensors") && count++ == 0)
            *name = strdup(entry->d_name);
    closedir(dir);
    NIB_REQUIRE(count == 1, NIB_ERR_FORMAT,
                "%s: %zu .safetensors files, and neither " INDEX_NAME " nor " SINGLE_NAME, folder,
                count);
    NIB_REQUIRE(*name, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", folder);
    return NIB_OK;
}

static int is_file(const char *folder, const char *name, char **path)
{
    struct stat info;
    *path = nib_path_join(folder, name);
    if (*path && stat(*path, &info) == 0) return 1;
    free(*path);
    *path = NULL;
    return 0;
}

static nib_status open_folder(const char *folder, nib_safetensors **out)
{
    char *path, *name = NULL;
    nib_status status = NIB_OK;
    if (is_file(folder, INDEX_NAME, &path)) {
        status = open_index(path, out);
    } else if (is_file(folder, SINGLE_NAME, &path)) {
        status = open_single(path, out);
    } else {
        status = find_single(folder, &name);
        path = status == NIB_OK ? nib_path_join(folder, name) : NULL;
        if (path) status = open_single(path, out);
        else if (status == NIB_OK)
            status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", folder);
    }
    free(name);
    free(path);
    return status;
}

nib_status nib_safetensors_open(const char *path, nib_safetensors **out)
{
    struct stat info;
    *out = NULL;
    NIB_REQUIRE(stat(path, &info) == 0, NIB_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return open_folder(path, out);
    return ends_with(path, ".json") ? open_index(path, out) : open_single(path, out);
}
