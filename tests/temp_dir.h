/* temp_dir.h: a folder of a test's own, and whole files in one call. */
#ifndef NIB_TEST_TEMP_DIR_H
#define NIB_TEST_TEMP_DIR_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct temp_dir {
    char path[256];
} temp_dir;

static inline temp_dir temp_dir_make(void)
{
    temp_dir dir;
    const char *base = getenv("TMPDIR");
    snprintf(dir.path, sizeof dir.path, "%s/nibble-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(dir.path)) {
        perror(dir.path);
        dir.path[0] = '\0'; /* every path below it fails, and the test says which */
    }
    return dir;
}

/* path and all below it; only ever what temp_dir_make made. */
static inline void temp_dir_remove_at(const char *path)
{
    char inner[1024];
    struct stat info;
    DIR *folder = lstat(path, &info) == 0 && S_ISDIR(info.st_mode) ? opendir(path) : NULL;
    const struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) < (int)sizeof inner)
            temp_dir_remove_at(inner);
    }
    if (folder) closedir(folder);
    remove(path);
}

static inline void temp_dir_remove(const temp_dir *dir)
{
    if (dir->path[0]) temp_dir_remove_at(dir->path);
}

/* "path/name" in one of eight buffers that take turns: copy what must last. */
static inline const char *temp_path(const temp_dir *dir, const char *name)
{
    static char paths[8][512];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", dir->path, name);
    return path;
}

static inline int temp_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    if (!file) return 0;
    const int ok = fwrite(data, 1, bytes, file) == bytes;
    return fclose(file) == 0 && ok;
}

/* Whole file, NUL behind it; NULL if it cannot be read. The caller frees it. */
static inline char *temp_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    const long size = ftell(file);
    rewind(file);
    char *data = size >= 0 ? malloc((size_t)size + 1) : NULL;
    const size_t got = data ? fread(data, 1, (size_t)size, file) : 0;
    fclose(file);
    if (data) data[got] = '\0';
    if (bytes) *bytes = got;
    return data;
}

/* Entries of a folder, "." and ".." not counted; -1 if there is no such folder. */
static inline int temp_count(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) return -1;
    int count = -2;
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

#endif
