/* file_util.c: system calls that may be interrupted, cut short or refused. */
#include "host/io/file_util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/internal.h"

int nib_is_plain_name(const char *name)
{
    const size_t length = strlen(name);
    if (length == 0 || length > 255 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return 0;
    for (size_t i = 0; i < length; i++)
        if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f) return 0;
    return 1;
}

char *nib_path_join(const char *folder, const char *name)
{
    const size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = malloc(bytes);
    if (path) snprintf(path, bytes, "%s/%s", folder, name);
    return path;
}

char *nib_clean_text(char *dst, uint64_t bytes, const char *text)
{
    snprintf(dst, (size_t)bytes, "%s", text);
    for (char *at = dst; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = '?';
    return dst;
}

void nib_differing_words(const char **a, int *a_bytes, const char **b, int *b_bytes)
{
    const char *x = *a, *y = *b;
    int n, m;
    for (;;) {
        n = (int)strcspn(x, " ");
        m = (int)strcspn(y, " ");
        if (n != m || strncmp(x, y, (size_t)n) != 0 || !x[n] || !y[m]) break;
        x += n + 1;
        y += m + 1;
    }
    if (n == m && strncmp(x, y, (size_t)n) == 0) { /* only one of them goes on */
        x += n + (x[n] == ' ');
        y += m + (y[m] == ' ');
        n = (int)strlen(x);
        m = (int)strlen(y);
    }
    *a = x, *a_bytes = n;
    *b = y, *b_bytes = m;
}

nib_status nib_write_all(int fd, const char *path, uint64_t offset, const void *data,
                         uint64_t bytes)
{
    const uint8_t *src = data;
    const uint64_t chunk = 1u << 30; /* Linux moves at most 2 GiB - 4 KiB in one call */
    while (bytes > 0) {
        const ssize_t n = pwrite(fd, src, (size_t)(bytes < chunk ? bytes : chunk), (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        NIB_REQUIRE(n > 0, NIB_ERR_IO, "%s: cannot write %llu bytes at offset %llu: %s", path,
                    (unsigned long long)bytes, (unsigned long long)offset,
                    n < 0 ? strerror(errno) : "nothing was taken");
        src += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return NIB_OK;
}

static nib_status append(int fd, const char *path, const char *data, size_t bytes)
{
    while (bytes > 0) {
        const ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        NIB_REQUIRE(n > 0, NIB_ERR_IO, "%s: cannot write: %s", path,
                    n < 0 ? strerror(errno) : "nothing was taken");
        data += n;
        bytes -= (size_t)n;
    }
    return NIB_OK;
}

nib_status nib_copy_all(int from, const char *from_path, int to, const char *to_path)
{
    /* The kernel's copy may share blocks; where it cannot serve this pair of files, or stops
     * early, the plain loop goes on at the same positions and finds the real error, if any. */
    ssize_t n;
    do n = copy_file_range(from, NULL, to, NULL, 1u << 30, 0);
    while (n > 0 || (n < 0 && errno == EINTR));

    const size_t room = 1u << 18;
    char *buffer = malloc(room);
    NIB_REQUIRE(buffer, NIB_ERR_OUT_OF_MEMORY, "%s: no memory to copy it", from_path);
    nib_status status = NIB_OK;
    while (status == NIB_OK && (n = read(from, buffer, room)) != 0) {
        if (n > 0) status = append(to, to_path, buffer, (size_t)n);
        else if (errno != EINTR)
            status = nib_fail(NIB_ERR_IO, "%s: cannot read: %s", from_path, strerror(errno));
    }
    free(buffer);
    return status;
}

nib_status nib_sync_folder(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    NIB_REQUIRE(fd >= 0, NIB_ERR_IO, "%s: cannot open the folder: %s", path, strerror(errno));
    const int failed = fsync(fd);
    const int reason = errno;
    close(fd);
    /* EINVAL: this file system has no sync of folders, so there is nothing to wait for. */
    NIB_REQUIRE(!failed || reason == EINVAL, NIB_ERR_IO, "%s: cannot sync the folder: %s", path,
                strerror(reason));
    return NIB_OK;
}

static nib_status remove_entries(const char *path)
{
    DIR *folder = opendir(path);
    NIB_REQUIRE(folder, NIB_ERR_IO, "%s: cannot open the folder: %s", path, strerror(errno));
    nib_status status = NIB_OK;
    const struct dirent *entry;
    while (status == NIB_OK && (entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (unlinkat(dirfd(folder), entry->d_name, 0) != 0)
            status = nib_fail(NIB_ERR_IO, "%s/%s: cannot remove: %s", path, entry->d_name,
                              strerror(errno));
    }
    closedir(folder);
    return status;
}

nib_status nib_remove(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0) {
        NIB_REQUIRE(errno == ENOENT, NIB_ERR_IO, "%s: cannot look at it: %s", path,
                    strerror(errno));
        return NIB_OK;
    }
    const int is_folder = S_ISDIR(info.st_mode);
    if (is_folder) NIB_TRY(remove_entries(path));
    NIB_REQUIRE((is_folder ? rmdir(path) : unlink(path)) == 0, NIB_ERR_IO,
                "%s: cannot remove: %s", path, strerror(errno));
    return NIB_OK;
}
