/* output_journal.c: a text file of whole lines, appended and synced. */
#include "host/io/output_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/internal.h"
#include "host/io/file_util.h"

#define FIRST_LINE "nibble-journal 1 "

static int line_order(const void *a, const void *b) { return strcmp(a, b); }

/* Takes line over. */
static int keep_line(nib_journal *journal, char *line)
{
    char *const *kept = line ? tsearch(line, &journal->lines, line_order) : NULL;
    if (!kept || *kept != line) free(line);
    return kept != NULL;
}

static nib_status read_line(nib_journal *journal, const char *line)
{
    unsigned long long device, inode;
    if (strncmp(line, "step ", 5) == 0) journal->steps++;
    if (sscanf(line, "commit %llu %llu", &device, &inode) == 2) {
        journal->has_commit = 1;
        journal->device = (dev_t)device;
        journal->inode = (ino_t)inode;
    }
    NIB_REQUIRE(keep_line(journal, strdup(line)), NIB_ERR_OUT_OF_MEMORY,
                "%s: no memory to read it", journal->path);
    return NIB_OK;
}

static nib_status read_text(nib_journal *journal, char *text)
{
    char *end = strchr(text, '\n');
    const size_t first = strlen(FIRST_LINE);
    if (!end || strncmp(text, FIRST_LINE, first) != 0) return NIB_OK;
    *end = '\0';
    journal->identity = strdup(text + first);
    NIB_REQUIRE(journal->identity, NIB_ERR_OUT_OF_MEMORY, "%s: no memory to read it",
                journal->path);
    char *line = end + 1;
    for (; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        NIB_TRY(read_line(journal, line));
    }
    journal->whole_bytes = (size_t)(line - text);
    return NIB_OK;
}

static nib_status read_file(int fd, const char *path, char **text)
{
    struct stat info;
    NIB_REQUIRE(fstat(fd, &info) == 0 && S_ISREG(info.st_mode), NIB_ERR_IO,
                "%s: is not a regular file", path);
    *text = calloc(1, (size_t)info.st_size + 1);
    NIB_REQUIRE(*text, NIB_ERR_OUT_OF_MEMORY, "%s: no memory to read it", path);
    for (off_t at = 0; at < info.st_size;) {
        const ssize_t n = pread(fd, *text + at, (size_t)(info.st_size - at), at);
        if (n < 0 && errno == EINTR) continue;
        NIB_REQUIRE(n >= 0, NIB_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        if (n == 0) break;
        at += n;
    }
    return NIB_OK;
}

nib_status nib_journal_read(char *path, nib_journal *journal)
{
    *journal = (nib_journal){ .path = path, .fd = -1 };
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return NIB_OK;
    NIB_REQUIRE(fd >= 0, NIB_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    char *text = NULL;
    nib_status status = read_file(fd, path, &text);
    close(fd);
    if (status == NIB_OK) status = read_text(journal, text);
    free(text);
    if (status != NIB_OK) nib_journal_close(journal);
    return status;
}

nib_status nib_journal_resume(nib_journal *journal)
{
    journal->fd = open(journal->path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    NIB_REQUIRE(journal->fd >= 0, NIB_ERR_IO, "%s: cannot open: %s", journal->path,
                strerror(errno));
    NIB_REQUIRE(ftruncate(journal->fd, (off_t)journal->whole_bytes) == 0, NIB_ERR_IO,
                "%s: cannot cut a torn line off: %s", journal->path, strerror(errno));
    return NIB_OK;
}

nib_status nib_journal_create(char *path, const char *identity, nib_journal *journal)
{
    *journal = (nib_journal){ .path = path, .fd = -1 };
    journal->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    NIB_REQUIRE(journal->fd >= 0, NIB_ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    const size_t bytes = strlen(FIRST_LINE) + strlen(identity) + 2;
    char *line = malloc(bytes);
    NIB_REQUIRE(line, NIB_ERR_OUT_OF_MEMORY, "%s: no memory to write it", path);
    snprintf(line, bytes, FIRST_LINE "%s\n", identity);
    const nib_status status = nib_write_all(journal->fd, path, 0, line, bytes - 1);
    free(line);
    NIB_TRY(status);
    NIB_REQUIRE(fsync(journal->fd) == 0, NIB_ERR_IO, "%s: cannot sync: %s", path,
                strerror(errno));
    return NIB_OK;
}

void nib_journal_close(nib_journal *journal)
{
    if (journal->fd >= 0) close(journal->fd);
    tdestroy(journal->lines, free);
    free(journal->identity);
    free(journal->pending);
    *journal = (nib_journal){ .fd = -1 };
}

static char *make_line(const char *word, const char *text)
{
    const size_t bytes = strlen(word) + strlen(text) + 2;
    char *line = malloc(bytes);
    if (line) snprintf(line, bytes, "%s %s", word, text);
    return line;
}

nib_status nib_journal_add(nib_journal *journal, const char *word, const char *text)
{
    const size_t bytes = strlen(word) + strlen(text) + 2;
    if (journal->pending_bytes + bytes + 1 > journal->pending_room) {
        const size_t room = 2 * journal->pending_room + bytes + 1;
        char *pending = realloc(journal->pending, room);
        NIB_REQUIRE(pending, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for a line", journal->path);
        journal->pending = pending;
        journal->pending_room = room;
    }
    NIB_REQUIRE(keep_line(journal, make_line(word, text)), NIB_ERR_OUT_OF_MEMORY,
                "%s: no memory for a line", journal->path);
    snprintf(journal->pending + journal->pending_bytes, bytes + 1, "%s %s\n", word, text);
    journal->pending_bytes += bytes;
    return NIB_OK;
}

int nib_journal_has(const nib_journal *journal, const char *word, const char *text)
{
    char *line = make_line(word, text);
    const int found = line && tfind(line, &journal->lines, line_order);
    free(line);
    return found;
}

/* key is a line's beginning; lines are sorted, so those that begin alike lie together. */
static int beginning_order(const void *key, const void *line)
{
    return strncmp(key, line, strlen(key)) == 0 ? 0 : strcmp(key, line);
}

const char *nib_journal_find(const nib_journal *journal, const char *word, const char *text)
{
    const size_t bytes = strlen(word) + strlen(text) + 3;
    char *key = malloc(bytes);
    if (!key) return NULL;
    snprintf(key, bytes, "%s %s ", word, text);
    char *const *found = tfind(key, &journal->lines, beginning_order);
    free(key);
    return found ? *found + bytes - 1 : NULL;
}

nib_status nib_journal_flush(nib_journal *journal)
{
    if (journal->pending_bytes == 0) return NIB_OK;
    /* The file is open for appending, so the offset does not matter (pwrite(2), BUGS). */
    NIB_TRY(nib_write_all(journal->fd, journal->path, 0, journal->pending,
                          journal->pending_bytes));
    NIB_REQUIRE(fdatasync(journal->fd) == 0, NIB_ERR_IO, "%s: cannot sync: %s", journal->path,
                strerror(errno));
    journal->pending_bytes = 0;
    return NIB_OK;
}
