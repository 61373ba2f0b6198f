/* cuda_library.c: finds the CUDA backend's table, once per process, and keeps why it could not. */
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "nibble/version.h"

#define FILE_NAME "libnibble_cuda.so"

/* There in a program that is linked with libnibble_cuda.a; else the linker leaves NULL. */
extern const nib_cuda_table nib_cuda_table_v1 __attribute__((weak));

static pthread_once_t        once = PTHREAD_ONCE_INIT;
static const nib_cuda_table *found;
static char                  reason[NIB_WHY_BYTES];

static void accept(const nib_cuda_table *table, const char *file)
{
    if (table->version != NIB_CUDA_TABLE_VERSION)
        snprintf(reason, sizeof reason, "%s has version %u of the backend's table, this nibble "
                 "needs %d", file, table->version, NIB_CUDA_TABLE_VERSION);
    else if (table->size != sizeof *table)
        snprintf(reason, sizeof reason, "%s has a table of %u bytes, this nibble's has %zu", file,
                 table->size, sizeof *table);
    else if (strcmp(table->library, nib_version()))
        snprintf(reason, sizeof reason, "%s is of nibble %s, this is %s", file, table->library,
                 nib_version());
    else
        found = table;
}

/* It stays open whatever it is: a CUDA runtime in it may have threads by now. */
static int open_file(const char *file, const char *before)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *words = dlerror();
        snprintf(reason, sizeof reason, "%s%s", before, words ? words : file);
        return 0;
    }
    const nib_cuda_table *table = dlsym(library, NIB_CUDA_SYMBOL);
    if (table) accept(table, file);
    else snprintf(reason, sizeof reason, "%s is not nibble's CUDA backend: it has no %s", file,
                  NIB_CUDA_SYMBOL);
    return 1;
}

/* The file beside the one that this code is in: libnibble.so, or the program. */
static int file_beside(char *path, size_t bytes)
{
    Dl_info info;
    struct link_map *map = NULL;
    if (dladdr1(&once, &info, (void **)&map, RTLD_DL_LINKMAP) && map && map->l_name
        && map->l_name[0]) {
        snprintf(path, bytes, "%s", map->l_name);
    } else { /* the main program has no name there */
        const ssize_t n = readlink("/proc/self/exe", path, bytes - 1);
        path[n > 0 ? n : 0] = '\0';
    }
    char *slash = strrchr(path, '/');
    const size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
    if (!folder || folder + sizeof FILE_NAME > bytes) return 0;
    memcpy(path + folder, FILE_NAME, sizeof FILE_NAME);
    return 1;
}

static void find(void)
{
    char beside[PATH_MAX], before[NIB_WHY_BYTES] = "";
    const char *named = secure_getenv("NIBBLE_CUDA_LIBRARY");
    if (&nib_cuda_table_v1) {
        accept(&nib_cuda_table_v1, "the linked libnibble_cuda.a");
    } else if (named && *named) {
        open_file(named, "NIBBLE_CUDA_LIBRARY: ");
    } else {
        if (file_beside(beside, sizeof beside)) {
            if (access(beside, F_OK) == 0) {
                open_file(beside, "");
                return;
            }
            snprintf(before, sizeof before, "there is no %.300s, and elsewhere ", beside);
        }
        open_file(FILE_NAME, before);
    }
}

const nib_cuda_table *nib_cuda_library(const char **why)
{
    pthread_once(&once, find);
    *why = reason;
    return found;
}
