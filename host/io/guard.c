/* guard.c: compares resolved paths, and devices and inodes on the way up from what is read. */
#include "host/io/guard.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/io/file_util.h"
#include "host/io/folder.h"

/* Resolved but for the last name; malloc'd, or NULL. */
static char *resolved_name(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    char *name = strndup(path, length);
    if (!name) return NULL;
    char *slash = strrchr(name, '/');
    if (slash) *slash = '\0';
    char *folder = realpath(!slash ? "." : *name ? name : "/", NULL);
    char *whole = folder ? nib_path_join(folder, slash ? slash + 1 : name) : NULL;
    free(folder);
    free(name);
    return whole;
}

/* What links lead to; of what does not exist its name. */
static char *resolved(const char *path)
{
    char *real = realpath(path, NULL);
    return real ? real : resolved_name(path);
}

/* path and there: resolved. Inodes tell what two names of one file, or mounts, hide. */
static int lies_in(const char *there, const char *path)
{
    struct stat want, st;
    const size_t length = strlen(there);
    if (!strncmp(path, there, length) && (!path[length] || path[length] == '/')) return 1;
    if (stat(there, &want)) return 0;
    char *at = strdup(path);
    int found = 0;
    while (at && *at && !found) {
        found = stat(at, &st) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino;
        *strrchr(at, '/') = '\0';
    }
    free(at);
    return found;
}

int nib_path_is_within(const char *dst, const char *path)
{
    struct stat st;
    if (!*dst || !*path) return 0;
    char *there = resolved(dst), *real = resolved(path);
    const int is_link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
    char *link = is_link ? resolved_name(path) : NULL;
    const int found = there && ((real && lies_in(there, real)) || (link && lies_in(there, link)));
    free(there);
    free(real);
    free(link);
    return found;
}

static nib_status guard(const char *dst, const char *path)
{
    NIB_REQUIRE(!path || !nib_path_is_within(dst, path), NIB_ERR_EXISTS,
                "%s: is not replaced: %s, which is read, %s", dst, path,
                strcmp(dst, path) ? "is it or lies in it" : "is it");
    return NIB_OK;
}

static nib_status guard_safetensors(const char *dst, const nib_safetensors *st)
{
    for (size_t i = 0; st && i < nib_safetensors_files(st); i++)
        NIB_TRY(guard(dst, nib_safetensors_path(st, i)));
    return NIB_OK;
}

static nib_status guard_copied(const char *dst, const char *folder)
{
    DIR *d = folder ? opendir(folder) : NULL; /* reading it tells why it cannot be opened */
    nib_status status = NIB_OK;
    for (const struct dirent *e; d && status == NIB_OK && (e = readdir(d));) {
        struct stat st;
        char *path = nib_folder_copies(e->d_name) ? nib_path_join(folder, e->d_name) : NULL;
        if (path && stat(path, &st) == 0 && S_ISREG(st.st_mode)) status = guard(dst, path);
        free(path);
    }
    if (d) closedir(d);
    return status;
}

nib_status nib_guard_model(const char *dst, const nib_model *model)
{
    NIB_TRY(guard(dst, model->path));
    NIB_TRY(guard(dst, model->folder));
    NIB_TRY(guard(dst, model->gguf_path));
    NIB_TRY(guard_safetensors(dst, model->st));
    return guard_copied(dst, model->folder);
}

nib_status nib_guard_hessians(const char *dst, const nib_hessian_table *table)
{
    if (!table->path) return NIB_OK;
    NIB_TRY(guard(dst, table->path));
    for (size_t i = 0; i < table->count; i++) NIB_TRY(guard_safetensors(dst, table->files[i]));
    return NIB_OK;
}
