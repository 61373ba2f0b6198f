/* hessian_table.c: see hessian_table.h. */
#include "host/io/hessian_table.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/internal.h"
#include "host/io/file_util.h"

static int ends_with(const char *text, const char *tail)
{
    const size_t n = strlen(text), m = strlen(tail);
    return n >= m && !strcmp(text + n - m, tail);
}

/* ---- one file ---- */

static const char *path_of(const nib_safetensors *file, const nib_tensor *t)
{
    return nib_safetensors_path(file, (size_t)t->file);
}

static nib_status check_inputs(const char *path, const nib_tensor *t)
{
    NIB_REQUIRE(t->type == NIB_TT_F32 || t->type == NIB_TT_F16 || t->type == NIB_TT_BF16,
                NIB_ERR_SHAPE, "%s: inputs '%s' are %s, not F32, F16 or BF16", path, t->name,
                nib_tensor_type_get(t->type)->name);
    NIB_REQUIRE(t->n_dims >= 2, NIB_ERR_SHAPE, "%s: inputs '%s' have %d dimensions, not at least 2",
                path, t->name, t->n_dims);
    const int64_t bytes = nib_tensor_type_get(t->type)->block_bytes;
    NIB_REQUIRE((uintptr_t)t->data % (uintptr_t)bytes == 0, NIB_ERR_ALIGNMENT,
                "%s: inputs '%s' begin at byte %llu, which is no multiple of their %lld bytes",
                path, t->name, (unsigned long long)t->offset, (long long)bytes);
    return NIB_OK;
}

static nib_status check_square(const char *path, const nib_tensor *t)
{
    NIB_REQUIRE(t->type == NIB_TT_F32 || t->type == NIB_TT_F64, NIB_ERR_SHAPE,
                "%s: Hessian '%s' is %s, not F32 or F64", path, t->name,
                nib_tensor_type_get(t->type)->name);
    NIB_REQUIRE(t->n_dims == 2, NIB_ERR_SHAPE, "%s: Hessian '%s' has %d dimensions, not 2", path,
                t->name, t->n_dims);
    NIB_REQUIRE(t->dims[0] == t->dims[1], NIB_ERR_SHAPE,
                "%s: Hessian '%s' is %lld x %lld, not square", path, t->name, (long long)t->dims[0],
                (long long)t->dims[1]);
    return NIB_OK;
}

/* "NAME.tokens"; of a NAME "P.weight" also "P.tokens", unless that is the count of a tensor P. */
static nib_status find_tokens(const nib_safetensors *file, nib_hessian_entry *entry)
{
    char *name;
    const char *of = entry->tensor->name;
    NIB_REQUIRE(asprintf(&name, "%s.tokens", of) >= 0, NIB_ERR_OUT_OF_MEMORY,
                "no memory for a name");
    const nib_tensor *t = nib_safetensors_find(file, name);
    if (!t && ends_with(of, ".weight")) {
        char *tail = name + strlen(of) - strlen(".weight");
        *tail = '\0';
        if (!nib_safetensors_find(file, name)) {
            memcpy(tail, ".tokens", sizeof ".tokens");
            t = nib_safetensors_find(file, name);
        }
    }
    entry->tokens = t;
    free(name);
    NIB_REQUIRE(!t || !entry->inputs, NIB_ERR_SHAPE,
                "%s: '%s' stands beside '%s', which is therefore a Hessian, not inputs",
                entry->path, t->name, entry->tensor->name);
    NIB_REQUIRE(!t || (t->type == NIB_TT_U64 && t->n_dims == 1 && t->dims[0] == 1), NIB_ERR_SHAPE,
                "%s: '%s' is %s of %d dimensions, not U64 [1]", entry->path, t->name,
                nib_tensor_type_get(t->type)->name, t->n_dims);
    return NIB_OK;
}

nib_status nib_hessian_entry_find(const nib_safetensors *file, int32_t inputs, const char *name,
                                  nib_hessian_entry *entry)
{
    const nib_tensor *t = nib_safetensors_find(file, name);
    *entry = (nib_hessian_entry){ .tensor = t, .inputs = inputs };
    if (!t) return NIB_OK;
    entry->path = path_of(file, t);
    NIB_TRY(inputs ? check_inputs(entry->path, t) : check_square(entry->path, t));
    entry->k = t->dims[t->n_dims - 1];
    NIB_REQUIRE(entry->k <= INT32_MAX, NIB_ERR_SHAPE, "%s: '%s' has %lld inputs, over 2^31 - 1",
                entry->path, name, (long long)entry->k);
    return find_tokens(file, entry);
}

const char *nib_hessian_names(const nib_safetensors *file, char *text, size_t bytes)
{
    enum { SOME = 3 };
    size_t n, used = 0;
    int shown = 0;
    const nib_tensor *t = nib_safetensors_tensors(file, &n);
    text[0] = '\0';
    for (size_t i = 0; i < n && used < bytes; i++) {
        if (t[i].n_dims < 2) continue;
        used += (size_t)snprintf(text + used, bytes - used, shown == SOME ? ", ..." : "%s'%.80s'",
                                 shown ? ", " : "", t[i].name);
        if (shown++ == SOME) break;
    }
    if (!shown) snprintf(text, bytes, "none at all");
    return text;
}

static double real_at(const nib_tensor *t, int64_t i)
{
    float f;
    double d;
    if (t->type == NIB_TT_F64) return memcpy(&d, t->data + i * 8, sizeof d), d;
    return memcpy(&f, t->data + i * 4, sizeof f), (double)f;
}

nib_status nib_hessian_entry_check(const nib_hessian_entry *entry)
{
    for (int64_t i = 0; !entry->inputs && i < entry->k; i++) {
        const double x = real_at(entry->tensor, i * entry->k + i);
        NIB_REQUIRE(isfinite(x) && x >= 0, NIB_ERR_NONFINITE,
                    "%s: Hessian '%s': element [%lld, %lld] of its diagonal is %g", entry->path,
                    entry->tensor->name, (long long)i, (long long)i, x);
    }
    return NIB_OK;
}

void nib_hessian_entry_read(const nib_hessian_entry *entry, const nib_hessian *hessian)
{
    const nib_tensor *t = entry->tensor;
    const int64_t k = entry->k, from = t->type == NIB_TT_F64 ? 8 : 4;
    const int64_t to = hessian->real == NIB_REAL_F64 ? 8 : 4;
    for (int64_t i = 0; i < k; i++) {
        uint8_t *row = (uint8_t *)hessian->data + i * hessian->ld_elems * to;
        if (from == to) memcpy(row, t->data + i * k * from, (size_t)((i + 1) * to));
        else if (to == 8)
            for (int64_t j = 0; j <= i; j++) ((double *)(void *)row)[j] = real_at(t, i * k + j);
        else
            for (int64_t j = 0; j <= i; j++)
                ((float *)(void *)row)[j] = (float)real_at(t, i * k + j);
    }
    if (!hessian->tokens) return;
    *hessian->tokens = UINT64_MAX;
    if (entry->tokens) memcpy(hessian->tokens, entry->tokens->data, sizeof *hessian->tokens);
}

/* ---- files ---- */

static int is_weights(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && ends_with(entry->d_name, ".safetensors");
}

static nib_status open_one(nib_hessian_table *table, const char *path)
{
    NIB_TRY(nib_safetensors_open(path, &table->files[table->count]));
    table->count++;
    return NIB_OK;
}

static nib_status open_folder(const char *folder, nib_hessian_table *table)
{
    struct dirent **names = NULL;
    const int n = scandir(folder, &names, is_weights, alphasort);
    nib_status status = n < 0  ? nib_fail(NIB_ERR_IO, "%s: %s", folder, strerror(errno))
                      : n == 0 ? nib_fail(NIB_ERR_FORMAT, "%s: holds no .safetensors file", folder)
                               : NIB_OK;
    if (n > 0) {
        table->files = calloc((size_t)n, sizeof *table->files);
        if (!table->files) status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for %d files", n);
    }
    for (int i = 0; i < n; i++) {
        char *path = status == NIB_OK ? nib_path_join(folder, names[i]->d_name) : NULL;
        if (path) status = open_one(table, path);
        else if (status == NIB_OK) status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
        free(path);
        free(names[i]);
    }
    free(names);
    return status;
}

nib_status nib_hessian_table_open(const char *path, int32_t inputs, nib_hessian_table *table)
{
    struct stat info;
    *table = (nib_hessian_table){ .inputs = inputs };
    NIB_REQUIRE(stat(path, &info) == 0, NIB_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    table->path = strdup(path);
    if (!S_ISDIR(info.st_mode)) table->files = calloc(1, sizeof *table->files);
    const nib_status status =
        !table->path || (!S_ISDIR(info.st_mode) && !table->files)
            ? nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", path)
        : S_ISDIR(info.st_mode) ? open_folder(path, table)
                                : open_one(table, path);
    if (status != NIB_OK) nib_hessian_table_close(table);
    return status;
}

void nib_hessian_table_close(nib_hessian_table *table)
{
    for (size_t i = 0; i < table->count; i++) nib_safetensors_close(table->files[i]);
    free(table->files);
    free(table->path);
    *table = (nib_hessian_table){ 0 };
}

nib_status nib_hessian_table_find(const nib_hessian_table *table, const char *name,
                                  nib_hessian_entry *entry)
{
    *entry = (nib_hessian_entry){ 0 };
    for (size_t i = 0; i < table->count; i++) {
        nib_hessian_entry found;
        NIB_TRY(nib_hessian_entry_find(table->files[i], table->inputs, name, &found));
        if (!found.tensor) continue;
        NIB_REQUIRE(!entry->tensor, NIB_ERR_FORMAT, "'%s' is in two files: %s and %s", name,
                    entry->path, found.path);
        *entry = found;
    }
    return NIB_OK;
}
