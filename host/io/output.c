/* output.c: the life of an output: lock, leftovers, rename. */
#include "host/io/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/internal.h"
#include "host/io/file_util.h"
#include "host/io/output_state.h"

#define SYNC_BYTES ((uint64_t)256 << 20)

static int exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

/* ---- names ---- */

static char *beside(const char *parent, const char *name, const char *suffix)
{
    const size_t bytes = strlen(name) + strlen(suffix) + 2;
    char *file = malloc(bytes);
    if (file) snprintf(file, bytes, ".%s%s", name, suffix);
    char *path = file ? nib_path_join(parent, file) : NULL;
    free(file);
    return path;
}

static nib_status set_paths(nib_output *out, const char *dst)
{
    size_t length = strlen(dst);
    while (length > 1 && dst[length - 1] == '/') length--;
    out->dst = strndup(dst, length);
    NIB_REQUIRE(out->dst, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", dst);
    const char *slash = strrchr(out->dst, '/');
    const char *name = slash ? slash + 1 : out->dst;
    NIB_REQUIRE(nib_is_plain_name(name), NIB_ERR_ARGUMENT,
                "'%s': the output's last part is not a name to write under", dst);

    out->parent = !slash            ? strdup(".")
                : slash == out->dst ? strdup("/")
                                    : strndup(out->dst, (size_t)(slash - out->dst));
    if (out->parent) {
        out->partial = beside(out->parent, name, ".nibble-partial");
        out->journal_path = beside(out->parent, name, ".nibble-journal");
        out->lock = beside(out->parent, name, ".nibble-lock");
        out->old = beside(out->parent, name, ".nibble-old");
    }
    NIB_REQUIRE(out->partial && out->journal_path && out->lock && out->old,
                NIB_ERR_OUT_OF_MEMORY, "%s: no memory for names", dst);
    struct stat info;
    NIB_REQUIRE(stat(out->parent, &info) == 0, NIB_ERR_IO,
                "%s: cannot look at the folder to write into: %s", out->parent, strerror(errno));
    NIB_REQUIRE(S_ISDIR(info.st_mode), NIB_ERR_IO, "%s: is not a folder to write into",
                out->parent);
    return NIB_OK;
}

/* ---- what may be replaced ---- */

static nib_status check_no_folders(const char *path)
{
    DIR *folder = opendir(path);
    NIB_REQUIRE(folder, NIB_ERR_IO, "%s: cannot open the folder: %s", path, strerror(errno));
    nib_status status = NIB_OK;
    const struct dirent *entry;
    while (status == NIB_OK && (entry = readdir(folder))) {
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(info.st_mode))
            status = nib_fail(NIB_ERR_EXISTS,
                              "%s: holds the folder '%s', so it is no earlier output and is not "
                              "replaced", path, entry->d_name);
    }
    closedir(folder);
    return status;
}

static nib_status check_dst(const nib_output *out)
{
    struct stat info;
    if (lstat(out->dst, &info) != 0) {
        NIB_REQUIRE(errno == ENOENT, NIB_ERR_IO, "%s: cannot look at it: %s", out->dst,
                    strerror(errno));
        return NIB_OK;
    }
    NIB_REQUIRE(out->force, NIB_ERR_EXISTS, "%s: exists already", out->dst);
    NIB_REQUIRE(!S_ISLNK(info.st_mode), NIB_ERR_EXISTS,
                "%s: is a symbolic link, which is never replaced", out->dst);
    NIB_REQUIRE(out->is_folder ? S_ISDIR(info.st_mode) : S_ISREG(info.st_mode), NIB_ERR_EXISTS,
                "%s: exists and is no %s, so it is not replaced by one", out->dst,
                out->is_folder ? "folder" : "regular file");
    return out->is_folder ? check_no_folders(out->dst) : NIB_OK;
}

/* ---- the lock ---- */

static nib_status take_lock(nib_output *out)
{
    for (;;) {
        struct stat held, named;
        out->lock_fd = open(out->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        NIB_REQUIRE(out->lock_fd >= 0, NIB_ERR_IO, "%s: cannot create: %s", out->lock,
                    strerror(errno));
        if (flock(out->lock_fd, LOCK_EX | LOCK_NB) != 0) {
            const int reason = errno;
            close(out->lock_fd);
            out->lock_fd = -1;
            NIB_REQUIRE(reason == EWOULDBLOCK, NIB_ERR_IO, "%s: cannot lock: %s", out->lock,
                        strerror(reason));
            return nib_fail(NIB_ERR_EXISTS, "%s: another run is writing it (and holds %s)",
                            out->dst, out->lock);
        }
        /* The run before may have removed the name between our open and our lock. */
        if (fstat(out->lock_fd, &held) == 0 && stat(out->lock, &named) == 0 &&
            held.st_dev == named.st_dev && held.st_ino == named.st_ino)
            return NIB_OK;
        close(out->lock_fd);
        out->lock_fd = -1;
    }
}

static void release(nib_output *out)
{
    if (out->lock_fd >= 0) {
        unlink(out->lock); /* while it is held, so that nobody else's is removed */
        close(out->lock_fd);
    }
    nib_journal_close(&out->journal);
    pthread_mutex_destroy(&out->mutex);
    free(out->dst);
    free(out->parent);
    free(out->partial);
    free(out->journal_path);
    free(out->lock);
    free(out->old);
    free(out);
}

/* ---- leftovers ---- */

static int is_committed(const nib_journal *journal, const char *path)
{
    struct stat info;
    return journal->has_commit && lstat(path, &info) == 0 && info.st_dev == journal->device &&
           info.st_ino == journal->inode;
}

static nib_status forget(nib_output *out)
{
    nib_journal_close(&out->journal);
    NIB_TRY(nib_remove(out->journal_path));
    return nib_remove(out->partial);
}

/* Ends what a kill during a commit left: afterwards partial, if there is one and a journal, is
 * unfinished work, and dst is whole or absent. */
static nib_status recover(nib_output *out)
{
    NIB_TRY(nib_journal_read(out->journal_path, &out->journal));
    const int finished = is_committed(&out->journal, out->dst);
    if (exists(out->old)) {
        if (!exists(out->dst)) {
            NIB_REQUIRE(rename(out->old, out->dst) == 0, NIB_ERR_IO,
                        "%s: cannot rename back to %s: %s", out->old, out->dst, strerror(errno));
        } else {
            NIB_REQUIRE(finished, NIB_ERR_EXISTS,
                        "%s: was left by a run that was killed, and %s is not what that run "
                        "wrote: remove one of the two", out->old, out->dst);
            NIB_TRY(nib_remove(out->old));
        }
    }
    /* Once renamed, partial is absent or what dst was before, not work to resume. */
    const int renamed = out->journal.has_commit && !is_committed(&out->journal, out->partial);
    return renamed ? forget(out) : NIB_OK;
}

/* Names the first word that differs; a fingerprint that ends there shows ''. */
static nib_status fail_other(const nib_output *out, const char *there, const char *here)
{
    int n, m;
    nib_differing_words(&there, &n, &here, &m);
    return nib_fail(NIB_ERR_EXISTS,
                    "%s: the unfinished output was made with '%.*s', this run has '%.*s': it "
                    "cannot be resumed, only begun anew, without resume", out->dst, n, there, m,
                    here);
}

static nib_status start(nib_output *out, const char *identity)
{
    NIB_TRY(forget(out));
    NIB_TRY(nib_journal_create(out->journal_path, identity, &out->journal));
    NIB_REQUIRE(!out->is_folder || mkdir(out->partial, 0777) == 0, NIB_ERR_IO,
                "%s: cannot create the folder: %s", out->partial, strerror(errno));
    return nib_sync_folder(out->parent);
}

static nib_status begin(nib_output *out, int resume, const char *identity)
{
    if (!exists(out->journal_path)) NIB_TRY(check_dst(out)); /* before anything is created */
    NIB_TRY(take_lock(out));
    NIB_TRY(recover(out));
    NIB_TRY(check_dst(out));
    clock_gettime(CLOCK_MONOTONIC, &out->synced_at);
    if (!resume || !out->journal.identity || !exists(out->partial)) return start(out, identity);
    if (strcmp(out->journal.identity, identity) != 0)
        return fail_other(out, out->journal.identity, identity);
    return nib_journal_resume(&out->journal);
}

nib_status nib_output_check(const char *dst, int is_folder, int force)
{
    nib_output *made = calloc(1, sizeof *made);
    NIB_REQUIRE(made, NIB_ERR_OUT_OF_MEMORY, "%s: no memory to look at it", dst);
    made->is_folder = is_folder;
    made->force = force;
    made->lock_fd = made->journal.fd = -1;
    pthread_mutex_init(&made->mutex, NULL);
    nib_status status = set_paths(made, dst);
    if (status == NIB_OK && !exists(made->journal_path)) status = check_dst(made);
    release(made);
    return status;
}

nib_status nib_output_begin(const char *dst, int is_folder, int force, int resume,
                            const char *fingerprint, nib_output **out)
{
    *out = NULL;
    NIB_REQUIRE(*fingerprint && !strchr(fingerprint, '\n'), NIB_ERR_ARGUMENT,
                "%s: the fingerprint is empty or has a line break", dst);
    nib_output *made = calloc(1, sizeof *made);
    const size_t bytes = strlen(fingerprint) + 8;
    char *identity = malloc(bytes);
    nib_status status = NIB_ERR_OUT_OF_MEMORY;
    if (made && identity) {
        snprintf(identity, bytes, "%s %s", is_folder ? "folder" : "file", fingerprint);
        made->is_folder = is_folder;
        made->force = force;
        made->lock_fd = -1;
        made->sync_bytes = SYNC_BYTES;
        made->journal.fd = -1;
        pthread_mutex_init(&made->mutex, NULL);
        status = set_paths(made, dst);
        if (status == NIB_OK) status = begin(made, resume, identity);
        if (status == NIB_OK) *out = made;
        else release(made);
    } else {
        nib_fail(status, "%s: no memory to begin it", dst);
        free(made);
    }
    free(identity);
    return status;
}

/* ---- the end ---- */

nib_status nib_replace_in_two_steps(const char *partial, const char *dst, const char *old)
{
    NIB_REQUIRE(rename(dst, old) == 0, NIB_ERR_IO, "%s: cannot rename to %s: %s", dst, old,
                strerror(errno));
    if (rename(partial, dst) == 0) return NIB_OK;
    const int reason = errno;
    const int lost = rename(old, dst) != 0;
    return nib_fail(NIB_ERR_IO, "%s: cannot rename to %s: %s%s%s", partial, dst, strerror(reason),
                    lost ? "; what was there is now " : "", lost ? old : "");
}

static nib_status rename_new(const nib_output *out)
{
    int failed = renameat2(AT_FDCWD, out->partial, AT_FDCWD, out->dst, RENAME_NOREPLACE);
    if (failed && (errno == EINVAL || errno == ENOSYS)) { /* not on every file system */
        NIB_REQUIRE(!exists(out->dst), NIB_ERR_EXISTS, "%s: appeared while it was written",
                    out->dst);
        failed = rename(out->partial, out->dst);
    }
    NIB_REQUIRE(!failed || errno != EEXIST, NIB_ERR_EXISTS, "%s: appeared while it was written",
                out->dst);
    NIB_REQUIRE(!failed, NIB_ERR_IO, "%s: cannot rename to %s: %s", out->partial, out->dst,
                strerror(errno));
    return NIB_OK;
}

static nib_status rename_over(const nib_output *out)
{
    if (!out->is_folder) {
        NIB_REQUIRE(rename(out->partial, out->dst) == 0, NIB_ERR_IO, "%s: cannot rename to %s: %s",
                    out->partial, out->dst, strerror(errno));
        return NIB_OK;
    }
    if (renameat2(AT_FDCWD, out->partial, AT_FDCWD, out->dst, RENAME_EXCHANGE) == 0) return NIB_OK;
    NIB_REQUIRE(errno == EINVAL || errno == ENOSYS, NIB_ERR_IO,
                "%s: cannot change places with %s: %s", out->partial, out->dst, strerror(errno));
    return nib_replace_in_two_steps(out->partial, out->dst, out->old);
}

/* From here on a kill is told apart from unfinished work by the partial's inode. */
static nib_status journal_commit(nib_output *out)
{
    struct stat info;
    char text[64];
    NIB_REQUIRE(lstat(out->partial, &info) == 0, NIB_ERR_IO, "%s: cannot look at it: %s",
                out->partial, strerror(errno));
    snprintf(text, sizeof text, "%llu %llu", (unsigned long long)info.st_dev,
             (unsigned long long)info.st_ino);
    NIB_TRY(nib_journal_add(&out->journal, "commit", text));
    return nib_output_sync(out);
}

nib_status nib_output_commit(nib_output *out)
{
    NIB_REQUIRE(!atomic_load(&out->broken), NIB_ERR_IO,
                "%s: an earlier write failed, it cannot be finished", out->dst);
    NIB_TRY(nib_output_sync(out));
    NIB_TRY(nib_output_close_data(out));
    NIB_TRY(journal_commit(out));
    if (out->force) NIB_TRY(check_dst(out));
    NIB_TRY(out->force && exists(out->dst) ? rename_over(out) : rename_new(out));
    NIB_TRY(nib_sync_folder(out->parent));
    NIB_TRY(nib_remove(out->partial)); /* what dst was before; nothing, mostly */
    NIB_TRY(nib_remove(out->old));
    NIB_TRY(nib_remove(out->journal_path));
    release(out);
    return NIB_OK;
}

void nib_output_abort(nib_output *out, int keep)
{
    if (!out) return;
    /* The text of the failure that led here is worth more than one of the cleaning. */
    char *text = strdup(nib_last_error());
    if (keep && !atomic_load(&out->broken)) (void)nib_output_sync(out);
    (void)nib_output_close_data(out);
    if (!keep) (void)forget(out);
    release(out);
    if (text) nib_fail(NIB_OK, "%s", text);
    free(text);
}
