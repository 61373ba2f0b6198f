/* output_sync_test.c: the order in which an output becomes durable, and a disk that fails. The
 * system's sync calls are replaced for this program by ones that write down what they sync, as
 * only a loss of power would show the difference. Looks below include/. */
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "host/io/output_state.h"
#include "shim.h"
#include "temp_dir.h"

int fsync(int fd);
int fdatasync(int fd);

static char events[1024]; /* names of what was synced, while watching */
static int watching;
static const char *failing; /* what cannot be synced, or NULL */

static int note(int fd, long call)
{
    if (watching) {
        char link[64], path[512];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        const ssize_t n = readlink(link, path, sizeof path - 1);
        path[n > 0 ? n : 0] = '\0';
        const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
        const size_t at = strlen(events);
        snprintf(events + at, sizeof events - at, "%s ", name);
        if (failing && strcmp(name, failing) == 0) {
            errno = EIO;
            return -1;
        }
    }
    return (int)syscall(call, fd);
}

int fsync(int fd) { return note(fd, SYS_fsync); }
int fdatasync(int fd) { return note(fd, SYS_fdatasync); }

static void watch(const char *fails)
{
    events[0] = '\0';
    failing = fails;
    watching = 1;
}

static int journal_has(const temp_dir *dir, const char *line)
{
    char *text = temp_read(temp_path(dir, ".dst.nibble-journal"), NULL);
    const int has = text && strstr(text, line) != NULL;
    free(text);
    return has;
}

static nib_output *begin(const temp_dir *dir, nib_output_data **data)
{
    nib_output *out = NULL;
    EXPECT(nib_output_begin(temp_path(dir, "dst"), 1, 0, 0, "print", &out) == NIB_OK &&
               nib_output_file(out, "data", "", 0, 8, data) == NIB_OK &&
               nib_output_write(*data, 0, "12345678", 8) == NIB_OK, "%s", nib_last_error());
    return out;
}

NIB_TEST(OutputSync, DataThenNamesThenJournalThenRename)
{
    const temp_dir dir = temp_dir_make();
    const char *parent = strrchr(dir.path, '/') + 1;
    char wanted[512];
    nib_output_data *data;
    nib_output *out = begin(&dir, &data);
    REQUIRE(out && data, " ");
    watch(NULL);
    EXPECT(nib_output_done(out, "first") == NIB_OK && !*events && !journal_has(&dir, "first"),
           "small steps wait: %s", events);
    out->sync_bytes = 1;
    EXPECT(nib_output_done(out, "second") == NIB_OK, "%s", nib_last_error());
    EXPECT(strcmp(events, "data .dst.nibble-partial .dst.nibble-journal ") == 0, "%s", events);
    EXPECT(journal_has(&dir, "step first\nstep second\n"), " ");

    watch(NULL);
    EXPECT(nib_output_write(data, 0, "9", 1) == NIB_OK &&
               nib_output_done(out, "third") == NIB_OK, "%s", nib_last_error());
    EXPECT(strcmp(events, "data .dst.nibble-journal ") == 0, "no new names: %s", events);

    watch(NULL);
    EXPECT(nib_output_text(out, "text", "{}", 2) == NIB_OK && strcmp(events, "text ") == 0, "%s",
           events);
    watch(NULL);
    EXPECT(nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
    /* The second pass finds the commit line only; the parent is synced after the rename. */
    snprintf(wanted, sizeof wanted, "data .dst.nibble-partial .dst.nibble-journal %s ", parent);
    EXPECT(strcmp(events, wanted) == 0, "%s", events);
    watching = 0;
    temp_dir_remove(&dir);
}

NIB_TEST(OutputSync, FailingDisk)
{
    static const char *const places[] = { "data", ".dst.nibble-partial", ".dst.nibble-journal" };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const temp_dir dir = temp_dir_make();
        nib_output_data *data;
        nib_output *out = begin(&dir, &data);
        REQUIRE(out && data, " ");
        out->sync_bytes = 1;
        watch(places[i]);
        EXPECT(nib_output_done(out, "step") == NIB_ERR_IO, "%s", places[i]);
        EXPECT(strstr(nib_last_error(), places[i]) && strstr(nib_last_error(), "Input/output"),
               "%s", nib_last_error());
        EXPECT(i == 2 || !journal_has(&dir, "step"), "%s: journalled", places[i]);
        watch(NULL); /* the kernel reports a lost page once; a second sync would say all is well */
        EXPECT(nib_output_done(out, "next") == NIB_ERR_IO && nib_output_commit(out) == NIB_ERR_IO,
               "%s: went on", places[i]);
        nib_output_abort(out, 1);
        EXPECT(!journal_has(&dir, "next") && temp_count(temp_path(&dir, "dst")) == -1, "%s",
               places[i]);
        watching = 0;
        temp_dir_remove(&dir);
    }
}
