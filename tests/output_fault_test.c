/* output_fault_test.c: outputs under full disks, torn journals and closed folders: nothing
 * half-written may ever be under the final name. output_kill_test.c kills. Looks below include/. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "host/io/file_util.h"
#include "host/io/output_state.h"
#include "shim.h"
#include "temp_dir.h"

/* ---- states that a kill in the commit leaves, made by hand ---- */

static void make_folder(const char *path, const char *content)
{
    char name[600];
    snprintf(name, sizeof name, "%s/f", path);
    EXPECT(mkdir(path, 0700) == 0 && temp_write(name, content, strlen(content)), "%s", path);
}

static void make_journal(const temp_dir *dir, const char *committed)
{
    char text[256];
    struct stat info;
    REQUIRE(stat(committed, &info) == 0, "%s", committed);
    const int n = snprintf(text, sizeof text,
                           "nibble-journal 1 folder print\nfile f\nstep one\ncommit %llu %llu\n",
                           (unsigned long long)info.st_dev, (unsigned long long)info.st_ino);
    EXPECT(temp_write(temp_path(dir, ".dst.nibble-journal"), text, (size_t)n), " ");
}

static void expect_content(const char *path, const char *content)
{
    char *text = temp_read(path, NULL);
    EXPECT(text && strcmp(text, content) == 0, "%s: %s", path, text ? text : "(nothing)");
    free(text);
}

NIB_TEST(OutputFault, KilledBeforeTheRename)
{
    const temp_dir dir = temp_dir_make();
    nib_output *out;
    make_folder(temp_path(&dir, ".dst.nibble-partial"), "new");
    make_journal(&dir, temp_path(&dir, ".dst.nibble-partial"));
    REQUIRE(nib_output_begin(temp_path(&dir, "dst"), 1, 0, 1, "print", &out) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(nib_output_is_done(out, "one") && nib_output_commit(out) == NIB_OK, "%s",
           nib_last_error());
    expect_content(temp_path(&dir, "dst/f"), "new");
    EXPECT(temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(OutputFault, KilledAfterTheExchange)
{
    const temp_dir dir = temp_dir_make();
    nib_output *out;
    make_folder(temp_path(&dir, "dst"), "new");
    make_folder(temp_path(&dir, ".dst.nibble-partial"), "old");
    make_journal(&dir, temp_path(&dir, "dst"));
    /* What dst was before must not be taken for work to resume. */
    EXPECT(nib_output_begin(temp_path(&dir, "dst"), 1, 0, 1, "print", &out) == NIB_ERR_EXISTS,
           " ");
    expect_content(temp_path(&dir, "dst/f"), "new");
    EXPECT(temp_count(dir.path) == 1, "leftovers");

    make_folder(temp_path(&dir, ".dst.nibble-partial"), "old");
    make_journal(&dir, temp_path(&dir, "dst"));
    temp_dir_remove_at(temp_path(&dir, "dst")); /* the user removes the finished output */
    REQUIRE(nib_output_begin(temp_path(&dir, "dst"), 1, 0, 1, "print", &out) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(!nib_output_is_done(out, "one"), " ");
    EXPECT(nib_output_commit(out) == NIB_OK && temp_count(temp_path(&dir, "dst")) == 0, " ");
    temp_dir_remove(&dir);
}

NIB_TEST(OutputFault, ReplacingInTwoSteps)
{
    const temp_dir dir = temp_dir_make();
    char dst[512], partial[512], old[512];
    nib_output *out;
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    snprintf(partial, sizeof partial, "%s/.dst.nibble-partial", dir.path);
    snprintf(old, sizeof old, "%s/.dst.nibble-old", dir.path);

    make_folder(dst, "old");
    make_folder(partial, "new");
    make_journal(&dir, partial);
    EXPECT(nib_replace_in_two_steps(partial, dst, old) == NIB_OK, "%s", nib_last_error());
    expect_content(temp_path(&dir, "dst/f"), "new");
    expect_content(temp_path(&dir, ".dst.nibble-old/f"), "old");
    /* Killed here: the new one stays, the old one goes. */
    EXPECT(nib_output_begin(dst, 1, 0, 0, "print", &out) == NIB_ERR_EXISTS, " ");
    expect_content(temp_path(&dir, "dst/f"), "new");
    EXPECT(temp_count(dir.path) == 1, "leftovers");

    /* Killed between the renames: the old one comes back, the new one can be resumed. */
    make_folder(partial, "newer");
    make_journal(&dir, partial);
    REQUIRE(rename(dst, old) == 0, " ");
    EXPECT(nib_output_begin(dst, 1, 0, 0, "print", &out) == NIB_ERR_EXISTS, " ");
    expect_content(temp_path(&dir, "dst/f"), "new");
    REQUIRE(nib_output_begin(dst, 1, 1, 1, "print", &out) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_output_is_done(out, "one") && nib_output_commit(out) == NIB_OK, "%s",
           nib_last_error());
    expect_content(temp_path(&dir, "dst/f"), "newer");
    EXPECT(temp_count(dir.path) == 1, "leftovers");

    /* A failing second rename is undone. */
    EXPECT(nib_replace_in_two_steps(partial, dst, old) == NIB_ERR_IO, "there is no partial");
    EXPECT(strstr(nib_last_error(), partial) && !strstr(nib_last_error(), "is now"), "%s",
           nib_last_error());
    expect_content(temp_path(&dir, "dst/f"), "newer");

    /* An old one beside a dst that nobody journalled: both are kept. */
    make_folder(old, "old");
    EXPECT(nib_output_begin(dst, 1, 1, 0, "print", &out) == NIB_ERR_EXISTS &&
               strstr(nib_last_error(), "remove one of the two"), "%s", nib_last_error());
    expect_content(temp_path(&dir, "dst/f"), "newer");
    expect_content(temp_path(&dir, ".dst.nibble-old/f"), "old");
    temp_dir_remove(&dir);
}

/* ---- torn journals, changed leftovers ---- */

NIB_TEST(OutputFault, TornJournal)
{
    static const struct { const char *text; int one, two; } rows[] = {
        { "nibble-journal 1 folder print\nfile f\nstep one\nstep two\n", 1, 1 },
        { "nibble-journal 1 folder print\nfile f\nstep one\nstep two", 1, 0 },
        { "nibble-journal 1 folder print\nfile f\nstep one\nst", 1, 0 },
        { "nibble-journal 1 folder print\nfile f\n", 0, 0 },
        { "nibble-journal 1 folder print", 0, 0 }, /* no first line: a fresh start */
        { "nibble-journal 2 folder print\nfile f\nstep one\n", 0, 0 },
        { "", 0, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const temp_dir dir = temp_dir_make();
        nib_output *out;
        make_folder(temp_path(&dir, ".dst.nibble-partial"), "data");
        REQUIRE(temp_write(temp_path(&dir, ".dst.nibble-journal"), rows[i].text,
                           strlen(rows[i].text)), " ");
        REQUIRE(nib_output_begin(temp_path(&dir, "dst"), 1, 0, 1, "print", &out) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(nib_output_is_done(out, "one") == rows[i].one &&
                   nib_output_is_done(out, "two") == rows[i].two &&
                   nib_output_resumed(out) == (size_t)(rows[i].one + rows[i].two), "row %zu", i);
        /* What follows a torn line must not join it. */
        EXPECT(nib_output_done(out, "three") == NIB_OK, "%s", nib_last_error());
        nib_output_abort(out, 1);
        REQUIRE(nib_output_begin(temp_path(&dir, "dst"), 1, 0, 1, "print", &out) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(nib_output_is_done(out, "three") && nib_output_is_done(out, "one") == rows[i].one &&
                   nib_output_is_done(out, "two") == rows[i].two, "row %zu", i);
        nib_output_abort(out, 0);
        EXPECT(temp_count(dir.path) == 0, "leftovers");
        temp_dir_remove(&dir);
    }
}

NIB_TEST(OutputFault, ChangedPartialIsRefused)
{
    static const struct { const char *content; const char *words; } rows[] = {
        { "HEADdata", NULL }, { "HEADdat", "7 bytes are there, this run makes 8" },
        { "HEADdata+", "9 bytes" }, { "HEAPdata", "its header is not" }, { NULL, "0 bytes" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const temp_dir dir = temp_dir_make();
        const char *file = temp_path(&dir, ".dst.nibble-partial/f");
        const char *dst = temp_path(&dir, "dst");
        nib_output *out;
        nib_output_data *data;
        REQUIRE(nib_output_begin(dst, 1, 0, 0, "print", &out) == NIB_OK &&
                    nib_output_file(out, "f", "HEAD", 4, 8, &data) == NIB_OK &&
                    nib_output_write(data, 4, "data", 4) == NIB_OK &&
                    nib_output_done(out, "one") == NIB_OK, "%s", nib_last_error());
        nib_output_abort(out, 1);
        if (rows[i].content)
            REQUIRE(temp_write(file, rows[i].content, strlen(rows[i].content)), " ");
        else
            REQUIRE(unlink(file) == 0, " ");
        REQUIRE(nib_output_begin(dst, 1, 0, 1, "print", &out) == NIB_OK, "%s", nib_last_error());
        const nib_status status = nib_output_file(out, "f", "HEAD", 4, 8, &data);
        EXPECT(status == (rows[i].words ? NIB_ERR_EXISTS : NIB_OK), "row %zu", i);
        if (rows[i].words) {
            EXPECT(strstr(nib_last_error(), rows[i].words), "%s", nib_last_error());
            EXPECT(nib_output_commit(out) == NIB_ERR_IO, "a broken output is not committed");
        }
        nib_output_abort(out, 0);
        temp_dir_remove(&dir);
    }
}

/* ---- the system says no ---- */

/* Runs body in a child; its exit status is the number of the expectation that failed. */
static int in_child(int (*body)(const char *folder), const char *folder)
{
    const pid_t child = fork();
    if (child == 0) _exit(body(folder));
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
}

static int limited(const char *folder)
{
    char dst[512];
    nib_output *out;
    nib_output_data *data;
    const struct rlimit limit = { 64 << 10, 64 << 10 };
    snprintf(dst, sizeof dst, "%s/dst", folder);
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    if (nib_output_begin(dst, 1, 0, 0, "print", &out) != NIB_OK) return 2;
    /* Seen before any work: the size is taken at once. */
    if (nib_output_file(out, "big", "H", 1, 1 << 20, &data) != NIB_ERR_IO || data) return 3;
    if (!strstr(nib_last_error(), "File too large") || !strstr(nib_last_error(), "1048576") ||
        !strstr(nib_last_error(), "big"))
        return 4;
    if (nib_output_commit(out) != NIB_ERR_IO) return 5;
    nib_output_abort(out, 0);
    /* A small file that grows over the limit while it is written. */
    static const uint8_t text[128 << 10];
    if (nib_output_begin(dst, 1, 0, 0, "print", &out) != NIB_OK) return 6;
    if (nib_output_text(out, "text", text, sizeof text) != NIB_ERR_IO) return 7;
    if (!strstr(nib_last_error(), "offset 65536") || !strstr(nib_last_error(), "File too large"))
        return 8;
    if (nib_output_commit(out) != NIB_ERR_IO) return 9;
    if (nib_output_done(out, "step") != NIB_ERR_IO) return 10;
    nib_output_abort(out, 0);
    return 0;
}

NIB_TEST(OutputFault, FileTooLarge)
{
    const temp_dir dir = temp_dir_make();
    const int failed = in_child(limited, dir.path);
    EXPECT(failed == 0, "expectation %d", failed);
    EXPECT(temp_count(dir.path) == 0, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(OutputFault, DeviceIsFull)
{
    const int full = open("/dev/full", O_WRONLY);
    if (full < 0) SKIP("no /dev/full here");
    EXPECT(nib_write_all(full, "dir/name", 12, "abc", 3) == NIB_ERR_IO, " ");
    EXPECT(strstr(nib_last_error(), "dir/name: cannot write 3 bytes at offset 12: No space left"),
           "%s", nib_last_error());
    const int source = open("/proc/self/cmdline", O_RDONLY);
    EXPECT(nib_copy_all(source, "source", full, "dir/copy") == NIB_ERR_IO, " ");
    EXPECT(strstr(nib_last_error(), "dir/copy: cannot write: No space left"), "%s",
           nib_last_error());
    close(source);
    close(full);
}

static int unwritable(const char *folder)
{
    char dst[512];
    nib_output *out;
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 1;
    snprintf(dst, sizeof dst, "%s/closed/dst", folder);
    if (nib_output_begin(dst, 1, 0, 0, "print", &out) != NIB_ERR_IO || out) return 2;
    if (!strstr(nib_last_error(), "Permission denied")) return 3;
    snprintf(dst, sizeof dst, "%s/closed/there", folder);
    /* What exists is said first, though nothing could be written either. */
    if (nib_output_begin(dst, 0, 0, 0, "print", &out) != NIB_ERR_EXISTS) return 4;
    if (nib_output_begin(dst, 0, 1, 0, "print", &out) != NIB_ERR_IO) return 5;
    return 0;
}

NIB_TEST(OutputFault, UnwritableParent)
{
    const temp_dir dir = temp_dir_make();
    nib_output *out;
    REQUIRE(chmod(dir.path, 0755) == 0 && mkdir(temp_path(&dir, "closed"), 0755) == 0 &&
                temp_write(temp_path(&dir, "closed/there"), "", 0) &&
                chmod(temp_path(&dir, "closed"), 0555) == 0, " ");
    const int failed = in_child(unwritable, dir.path);
    EXPECT(failed == 0, "expectation %d", failed);
    EXPECT(temp_count(temp_path(&dir, "closed")) == 1, "leftovers");

    EXPECT(nib_output_begin(temp_path(&dir, "absent/dst"), 1, 0, 0, "print", &out) == NIB_ERR_IO &&
               strstr(nib_last_error(), "absent: cannot look") &&
               strstr(nib_last_error(), "No such file"), "%s", nib_last_error());
    EXPECT(nib_output_begin(temp_path(&dir, "closed/there/dst"), 1, 0, 0, "print", &out) ==
                   NIB_ERR_IO && strstr(nib_last_error(), "not a folder"), "%s", nib_last_error());
    char name[251];
    memset(name, 'n', sizeof name - 1);
    name[250] = '\0';
    EXPECT(nib_output_begin(temp_path(&dir, name), 1, 0, 0, "print", &out) == NIB_ERR_IO &&
               strstr(nib_last_error(), "name too long"), "%s", nib_last_error());
    temp_dir_remove(&dir);
}
