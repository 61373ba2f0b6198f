/* output_data.c: the files of an output, and when they are durable. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/internal.h"
#include "host/io/file_util.h"
#include "host/io/output_state.h"

#define SYNC_SECONDS 2
#define SELF "/" /* in the journal: the output itself; no file of a folder can have this name */

static nib_status broken(nib_output *out, nib_status status)
{
    if (status != NIB_OK) atomic_store(&out->broken, 1);
    return status;
}

/* Path of a file of the output. SELF is what the caller's NULL has become. */
static nib_status file_path(const nib_output *out, const char *name, char **path)
{
    NIB_REQUIRE(out->is_folder ? nib_is_plain_name(name) : strcmp(name, SELF) == 0,
                NIB_ERR_ARGUMENT,
                out->is_folder ? "%s: '%.255s' is not the name of a file in this folder"
                               : "%s: this output is one file, it has no '%.255s'",
                out->dst, name);
    for (const nib_output_data *data = out->data; data; data = data->next)
        NIB_REQUIRE(strcmp(data->name, name) != 0, NIB_ERR_ARGUMENT,
                    "%s: '%s' is being written already", out->dst, name);
    *path = out->is_folder ? nib_path_join(out->partial, name) : strdup(out->partial);
    NIB_REQUIRE(*path, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", out->dst);
    return NIB_OK;
}

/* Sizes the file and takes its disk space now, where the file system can. */
static nib_status reserve(int fd, const char *path, uint64_t bytes)
{
    int failed;
    do failed = ftruncate(fd, 0) || ftruncate(fd, (off_t)bytes);
    while (failed && errno == EINTR);
    /* Not posix_fallocate: where the file system has no such call, it writes every block. */
    if (!failed && bytes > 0) {
        do failed = fallocate(fd, 0, 0, (off_t)bytes);
        while (failed && errno == EINTR);
        if (failed && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) failed = 0;
    }
    NIB_REQUIRE(!failed, NIB_ERR_IO, "%s: cannot take %llu bytes of disk: %s", path,
                (unsigned long long)bytes, strerror(errno));
    return NIB_OK;
}

/* The file of an earlier run must be the one that this run would have made. */
static nib_status check_resumed(const nib_output_data *data, const void *header, uint64_t bytes)
{
    struct stat info;
    NIB_REQUIRE(fstat(data->fd, &info) == 0, NIB_ERR_IO, "%s: cannot look at it: %s", data->path,
                strerror(errno));
    NIB_REQUIRE((uint64_t)info.st_size == data->file_bytes, NIB_ERR_EXISTS,
                "%s: %lld bytes are there, this run makes %llu: it cannot be resumed", data->path,
                (long long)info.st_size, (unsigned long long)data->file_bytes);
    uint8_t buffer[4096];
    for (uint64_t at = 0; at < bytes;) {
        const size_t want = bytes - at < sizeof buffer ? (size_t)(bytes - at) : sizeof buffer;
        const ssize_t n = pread(data->fd, buffer, want, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        NIB_REQUIRE(n > 0, NIB_ERR_IO, "%s: cannot read at offset %llu: %s", data->path,
                    (unsigned long long)at, n < 0 ? strerror(errno) : "the file ends");
        NIB_REQUIRE(memcmp(buffer, (const uint8_t *)header + at, (size_t)n) == 0, NIB_ERR_EXISTS,
                    "%s: its header is not the one that this run makes: it cannot be resumed",
                    data->path);
        at += (uint64_t)n;
    }
    return NIB_OK;
}

static nib_status fill_file(nib_output_data *data, const void *header, uint64_t header_bytes)
{
    nib_output *out = data->out;
    data->fd = open(data->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    NIB_REQUIRE(data->fd >= 0, NIB_ERR_IO, "%s: cannot create: %s", data->path, strerror(errno));
    if (nib_journal_has(&out->journal, "file", data->name))
        return check_resumed(data, header, header_bytes);
    NIB_TRY(reserve(data->fd, data->path, data->file_bytes));
    NIB_TRY(nib_write_all(data->fd, data->path, 0, header, header_bytes));
    return nib_journal_add(&out->journal, "file", data->name);
}

nib_status nib_output_file(nib_output *out, const char *name, const void *header,
                           uint64_t header_bytes, uint64_t file_bytes, nib_output_data **data)
{
    *data = NULL;
    NIB_REQUIRE(header_bytes <= file_bytes && file_bytes <= INT64_MAX, NIB_ERR_ARGUMENT,
                "%s: a header of %llu bytes in a file of %llu", out->dst,
                (unsigned long long)header_bytes, (unsigned long long)file_bytes);
    char *path;
    NIB_TRY(file_path(out, name ? name : SELF, &path));
    nib_output_data *made = calloc(1, sizeof *made);
    if (made) *made = (nib_output_data){ out, NULL, path, strdup(name ? name : SELF),
                                         file_bytes, -1 };
    if (!made || !made->name) {
        free(made);
        free(path);
        return nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", out->dst);
    }
    pthread_mutex_lock(&out->mutex);
    const nib_status status = fill_file(made, header, header_bytes);
    made->next = out->data; /* linked even when broken: close_data frees it */
    out->data = made;
    out->names_changed = 1;
    pthread_mutex_unlock(&out->mutex);
    if (status == NIB_OK) *data = made;
    return broken(out, status);
}

nib_status nib_output_write(nib_output_data *data, uint64_t offset, const void *bytes,
                            uint64_t n_bytes)
{
    NIB_REQUIRE(offset <= data->file_bytes && n_bytes <= data->file_bytes - offset,
                NIB_ERR_ARGUMENT, "%s: %llu bytes at offset %llu of a file of %llu", data->path,
                (unsigned long long)n_bytes, (unsigned long long)offset,
                (unsigned long long)data->file_bytes);
    const nib_status status = nib_write_all(data->fd, data->path, offset, bytes, n_bytes);
    if (status == NIB_OK) atomic_fetch_add(&data->out->unsynced, n_bytes);
    return broken(data->out, status);
}

nib_status nib_output_sync(nib_output *out)
{
    const uint64_t written = atomic_load(&out->unsynced);
    for (const nib_output_data *data = out->data; data; data = data->next)
        if (data->fd >= 0 && fdatasync(data->fd) != 0)
            return broken(out, nib_fail(NIB_ERR_IO, "%s: cannot sync: %s", data->path,
                                        strerror(errno)));
    if (out->names_changed) {
        const char *folder = out->is_folder ? out->partial : out->parent;
        NIB_TRY(broken(out, nib_sync_folder(folder)));
        out->names_changed = 0;
    }
    NIB_TRY(broken(out, nib_journal_flush(&out->journal)));
    atomic_fetch_sub(&out->unsynced, written);
    clock_gettime(CLOCK_MONOTONIC, &out->synced_at);
    return NIB_OK;
}

static int sync_is_due(const nib_output *out)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return atomic_load(&out->unsynced) >= out->sync_bytes ||
           now.tv_sec - out->synced_at.tv_sec >= SYNC_SECONDS;
}

nib_status nib_output_done(nib_output *out, const char *step)
{
    NIB_REQUIRE(*step && !strchr(step, '\n'), NIB_ERR_ARGUMENT,
                "%s: a step's name is empty or has a line break", out->dst);
    NIB_REQUIRE(!atomic_load(&out->broken), NIB_ERR_IO,
                "%s: step '%.200s' cannot be done, an earlier write failed", out->dst, step);
    pthread_mutex_lock(&out->mutex);
    nib_status status = nib_journal_add(&out->journal, "step", step);
    if (status == NIB_OK && sync_is_due(out)) status = nib_output_sync(out);
    pthread_mutex_unlock(&out->mutex);
    return status;
}

int nib_output_is_done(nib_output *out, const char *step)
{
    pthread_mutex_lock(&out->mutex);
    const int done = nib_journal_has(&out->journal, "step", step);
    pthread_mutex_unlock(&out->mutex);
    return done;
}

const char *nib_output_step(nib_output *out, const char *first_words)
{
    pthread_mutex_lock(&out->mutex);
    const char *rest = nib_journal_find(&out->journal, "step", first_words);
    pthread_mutex_unlock(&out->mutex);
    return rest;
}

size_t nib_output_resumed(const nib_output *out) { return out->journal.steps; }

nib_status nib_output_close_data(nib_output *out)
{
    nib_status status = NIB_OK;
    while (out->data) {
        nib_output_data *data = out->data;
        out->data = data->next;
        if (data->fd >= 0 && close(data->fd) != 0)
            status = broken(out, nib_fail(NIB_ERR_IO, "%s: cannot close: %s", data->path,
                                          strerror(errno)));
        free(data->path);
        free(data->name);
        free(data);
    }
    return status;
}

/* ---- small files ---- */

static nib_status finish_small(nib_output *out, int fd, const char *path, nib_status status)
{
    if (status == NIB_OK && fsync(fd) != 0)
        status = nib_fail(NIB_ERR_IO, "%s: cannot sync: %s", path, strerror(errno));
    if (close(fd) != 0 && status == NIB_OK)
        status = nib_fail(NIB_ERR_IO, "%s: cannot close: %s", path, strerror(errno));
    pthread_mutex_lock(&out->mutex);
    out->names_changed = 1;
    pthread_mutex_unlock(&out->mutex);
    return broken(out, status);
}

static nib_status open_small(nib_output *out, const char *name, char **path, int *fd)
{
    NIB_TRY(file_path(out, name ? name : SELF, path));
    *fd = open(*path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (*fd >= 0) return NIB_OK;
    const nib_status status =
        nib_fail(NIB_ERR_IO, "%s: cannot create: %s", *path, strerror(errno));
    free(*path);
    return broken(out, status);
}

nib_status nib_output_text(nib_output *out, const char *name, const void *text, size_t bytes)
{
    char *path;
    int fd;
    NIB_TRY(open_small(out, name, &path, &fd));
    const nib_status status =
        finish_small(out, fd, path, nib_write_all(fd, path, 0, text, bytes));
    free(path);
    return status;
}

static nib_status copy_from(nib_output *out, const char *name, const char *src_path, int src)
{
    struct stat info;
    char *path;
    int fd;
    NIB_REQUIRE(fstat(src, &info) == 0 && S_ISREG(info.st_mode), NIB_ERR_IO,
                "%s: is not a regular file", src_path);
    NIB_TRY(open_small(out, name, &path, &fd));
    const nib_status status =
        finish_small(out, fd, path, nib_copy_all(src, src_path, fd, path));
    free(path);
    return status;
}

nib_status nib_output_copy(nib_output *out, const char *name, const char *src_path)
{
    const int src = open(src_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    NIB_REQUIRE(src >= 0, NIB_ERR_IO, "%s: cannot open: %s", src_path, strerror(errno));
    const nib_status status = copy_from(out, name, src_path, src);
    close(src);
    return status;
}
