/* output_test.c: outputs from begin to commit, resumed, replaced and refused. Looks below
 * include/; output_fault_test.c breaks things. */
#include <fcntl.h>
#include <stdint.h>

#include "host/io/output.h"
#include "shim.h"
#include "temp_dir.h"

static nib_output *begin(const char *dst, int is_folder, int force, int resume, const char *print)
{
    nib_output *out;
    const nib_status status = nib_output_begin(dst, is_folder, force, resume, print, &out);
    EXPECT(status == NIB_OK && out, "%s: %s", dst, nib_last_error());
    return out;
}

static void expect_begin(const char *dst, int is_folder, int force, int resume, const char *print,
                         nib_status status, const char *words)
{
    nib_output *out;
    EXPECT(nib_output_begin(dst, is_folder, force, resume, print, &out) == status, "%s: %s", dst,
           nib_last_error());
    EXPECT(!out && strstr(nib_last_error(), words), "%s\n    not: %s", nib_last_error(), words);
    nib_output_abort(out, 0);
}

static void expect_file(const char *path, const char *content)
{
    char *text = temp_read(path, NULL);
    EXPECT(text && strcmp(text, content) == 0, "%s holds '%s', not '%s'", path,
           text ? text : "(nothing)", content);
    free(text);
}

/* A folder of one large file that holds content, committed. */
static void write_folder(const char *dst, int force, const char *content)
{
    nib_output *out = begin(dst, 1, force, 0, "print");
    nib_output_data *data;
    REQUIRE(out, " ");
    REQUIRE(nib_output_file(out, "data", "", 0, strlen(content), &data) == NIB_OK &&
                nib_output_write(data, 0, content, strlen(content)) == NIB_OK &&
                nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
}

NIB_TEST(Output, Folder)
{
    const temp_dir dir = temp_dir_make();
    REQUIRE(temp_write(temp_path(&dir, "source"), "copied", 6), " ");
    nib_output *out = begin(temp_path(&dir, "model///"), 1, 0, 0, "print");
    nib_output_data *a, *b;
    REQUIRE(out, " ");
    REQUIRE(nib_output_file(out, "a.bin", "head", 4, 10, &a) == NIB_OK &&
                nib_output_file(out, "b.bin", NULL, 0, 3, &b) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_output_write(a, 8, "89", 2) == NIB_OK && nib_output_write(a, 4, "45", 2) == NIB_OK &&
               nib_output_write(b, 0, "xyz", 3) == NIB_OK &&
               nib_output_write(b, 3, "", 0) == NIB_OK,
           "%s", nib_last_error());
    EXPECT(nib_output_text(out, "config.json", "{}", 2) == NIB_OK &&
               nib_output_text(out, "empty", "", 0) == NIB_OK &&
               nib_output_copy(out, "copy", temp_path(&dir, "source")) == NIB_OK, "%s",
           nib_last_error());
    EXPECT(nib_output_done(out, "a") == NIB_OK && nib_output_is_done(out, "a") &&
               !nib_output_is_done(out, "b") && nib_output_resumed(out) == 0, " ");
    EXPECT(temp_count(temp_path(&dir, "model")) == -1, "nothing under the final name yet");
    REQUIRE(nib_output_commit(out) == NIB_OK, "%s", nib_last_error());

    size_t bytes;
    char *text = temp_read(temp_path(&dir, "model/a.bin"), &bytes);
    EXPECT(text && bytes == 10 && memcmp(text, "head45\0\0" "89", 10) == 0, " ");
    free(text);
    expect_file(temp_path(&dir, "model/b.bin"), "xyz");
    expect_file(temp_path(&dir, "model/config.json"), "{}");
    expect_file(temp_path(&dir, "model/empty"), "");
    expect_file(temp_path(&dir, "model/copy"), "copied");
    EXPECT(temp_count(temp_path(&dir, "model")) == 5 && temp_count(dir.path) == 2, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(Output, FileInCurrentFolder)
{
    const temp_dir dir = temp_dir_make();
    char *here = getcwd(NULL, 0);
    REQUIRE(here && chdir(dir.path) == 0, " ");
    nib_output *out = begin("m.gguf", 0, 0, 0, "print");
    nib_output_data *data;
    EXPECT(out && nib_output_file(out, NULL, "GG", 2, 4, &data) == NIB_OK &&
               nib_output_write(data, 2, "UF", 2) == NIB_OK && nib_output_commit(out) == NIB_OK,
           "%s", nib_last_error());
    EXPECT(chdir(here) == 0, "%s", here);
    free(here);
    expect_file(temp_path(&dir, "m.gguf"), "GGUF");
    EXPECT(temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

/* A large copy goes through whatever the kernel offers, in several pieces. */
NIB_TEST(Output, CopyIsExact)
{
    const temp_dir dir = temp_dir_make();
    const size_t bytes = (3u << 20) + 17;
    char *data = malloc(bytes), *back;
    REQUIRE(data, " ");
    for (size_t i = 0; i < bytes; i++) data[i] = (char)(i * 2654435761u >> 13);
    REQUIRE(temp_write(temp_path(&dir, "source"), data, bytes), " ");
    nib_output *out = begin(temp_path(&dir, "model"), 1, 0, 0, "print");
    REQUIRE(out, " ");
    EXPECT(nib_output_copy(out, "copy", temp_path(&dir, "source")) == NIB_OK &&
               nib_output_copy(out, "link", "/proc/self/cmdline") == NIB_OK, "%s",
           nib_last_error()); /* a file whose stated size is 0 */
    EXPECT(nib_output_copy(out, "folder", dir.path) == NIB_ERR_IO &&
               strstr(nib_last_error(), "not a regular file"), "%s", nib_last_error());
    EXPECT(nib_output_copy(out, "absent", temp_path(&dir, "absent")) == NIB_ERR_IO &&
               strstr(nib_last_error(), "No such file"), "%s", nib_last_error());
    EXPECT(nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
    size_t got = 0;
    back = temp_read(temp_path(&dir, "model/copy"), &got);
    EXPECT(back && got == bytes && memcmp(back, data, bytes) == 0, "%zu", got);
    free(back);
    back = temp_read(temp_path(&dir, "model/link"), &got);
    EXPECT(back && got > 0, " ");
    free(back);
    free(data);
    temp_dir_remove(&dir);
}

NIB_TEST(Output, NamesAndArguments)
{
    static const char *const bad[] = { "", ".", "..", "a/b", "/a", "../a", "a\nb", "a\x7f" };
    const temp_dir dir = temp_dir_make();
    nib_output_data *data;
    nib_output *out = begin(temp_path(&dir, "model"), 1, 0, 0, "print");
    REQUIRE(out, " ");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        EXPECT(nib_output_file(out, bad[i], "", 0, 1, &data) == NIB_ERR_ARGUMENT, "%s", bad[i]);
        EXPECT(nib_output_text(out, bad[i], "", 0) == NIB_ERR_ARGUMENT, "%s", bad[i]);
        EXPECT(nib_output_copy(out, bad[i], "/proc/self/cmdline") == NIB_ERR_ARGUMENT, "%s",
               bad[i]);
        EXPECT(strstr(nib_last_error(), "not the name of a file"), "%s", nib_last_error());
    }
    EXPECT(nib_output_file(out, NULL, "", 0, 1, &data) == NIB_ERR_ARGUMENT, "needs a name");
    EXPECT(nib_output_file(out, "f", "abc", 3, 2, &data) == NIB_ERR_ARGUMENT, "header too long");
    EXPECT(nib_output_file(out, "f", "", 0, UINT64_MAX, &data) == NIB_ERR_ARGUMENT, "too long");
    REQUIRE(nib_output_file(out, "f", "", 0, 4, &data) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_output_write(data, 3, "ab", 2) == NIB_ERR_ARGUMENT, "over the end");
    EXPECT(nib_output_write(data, UINT64_MAX, "ab", 2) == NIB_ERR_ARGUMENT, "wraps");
    EXPECT(nib_output_write(data, 5, "", 0) == NIB_ERR_ARGUMENT, "behind the end");
    EXPECT(nib_output_text(out, "f", "", 0) == NIB_ERR_ARGUMENT, "f is being written");
    EXPECT(nib_output_file(out, "f", "", 0, 4, &data) == NIB_ERR_ARGUMENT, "twice");
    EXPECT(nib_output_done(out, "") == NIB_ERR_ARGUMENT, " ");
    EXPECT(nib_output_done(out, "a\nb") == NIB_ERR_ARGUMENT, " ");
    EXPECT(nib_output_commit(out) == NIB_OK, "no argument error breaks it: %s", nib_last_error());

    static const char *const no_name[] = { "", "/", ".", "..", "./", "x/..", "x/." };
    for (size_t i = 0; i < sizeof no_name / sizeof *no_name; i++)
        expect_begin(no_name[i], 1, 1, 0, "print", NIB_ERR_ARGUMENT, "not a name");
    expect_begin(temp_path(&dir, "x"), 1, 0, 0, "", NIB_ERR_ARGUMENT, "fingerprint");
    expect_begin(temp_path(&dir, "x"), 1, 0, 0, "a\nb", NIB_ERR_ARGUMENT, "fingerprint");
    out = begin(temp_path(&dir, "file"), 0, 0, 0, "print");
    REQUIRE(out, " ");
    EXPECT(nib_output_file(out, "f", "", 0, 4, &data) == NIB_ERR_ARGUMENT, "a file has no files");
    nib_output_abort(out, 0);
    nib_output_abort(NULL, 0);
    EXPECT(temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(Output, ExistingIsKeptWithoutForce)
{
    const temp_dir dir = temp_dir_make();
    const char *dst = temp_path(&dir, "dst");
    write_folder(dst, 0, "first");
    expect_begin(dst, 1, 0, 0, "print", NIB_ERR_EXISTS, "exists already");
    expect_begin(dst, 1, 0, 1, "print", NIB_ERR_EXISTS, "exists already");
    EXPECT(temp_count(dir.path) == 1, "a refusal leaves nothing");
    write_folder(dst, 1, "second");
    expect_file(temp_path(&dir, "dst/data"), "second");
    EXPECT(temp_count(dir.path) == 1 && temp_count(temp_path(&dir, "dst")) == 1, "leftovers");

    /* Abort leaves what was there. */
    nib_output *out = begin(dst, 1, 1, 0, "print");
    REQUIRE(out, " ");
    EXPECT(nib_output_text(out, "data", "third", 5) == NIB_OK, " ");
    nib_output_abort(out, 0);
    expect_file(temp_path(&dir, "dst/data"), "second");
    EXPECT(temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(Output, ForceReplacesOnlyItsKind)
{
    const temp_dir dir = temp_dir_make();
    REQUIRE(temp_write(temp_path(&dir, "file"), "old", 3) &&
                mkdir(temp_path(&dir, "folder"), 0700) == 0 &&
                mkdir(temp_path(&dir, "home"), 0700) == 0 &&
                mkdir(temp_path(&dir, "home/sub"), 0700) == 0 &&
                symlink("file", temp_path(&dir, "link")) == 0 &&
                symlink("folder", temp_path(&dir, "folderlink")) == 0 &&
                symlink("nowhere", temp_path(&dir, "dangling")) == 0 &&
                mkfifo(temp_path(&dir, "pipe"), 0600) == 0, " ");
    const int entries = temp_count(dir.path);
    expect_begin(temp_path(&dir, "file"), 1, 1, 0, "p", NIB_ERR_EXISTS, "is no folder");
    expect_begin(temp_path(&dir, "folder"), 0, 1, 0, "p", NIB_ERR_EXISTS, "is no regular file");
    expect_begin(temp_path(&dir, "pipe"), 0, 1, 0, "p", NIB_ERR_EXISTS, "is no regular file");
    expect_begin(temp_path(&dir, "link"), 0, 1, 0, "p", NIB_ERR_EXISTS, "symbolic link");
    expect_begin(temp_path(&dir, "folderlink"), 1, 1, 0, "p", NIB_ERR_EXISTS, "symbolic link");
    expect_begin(temp_path(&dir, "dangling"), 0, 1, 0, "p", NIB_ERR_EXISTS, "symbolic link");
    expect_begin(temp_path(&dir, "dangling"), 0, 0, 0, "p", NIB_ERR_EXISTS, "exists already");
    expect_begin(temp_path(&dir, "home"), 1, 1, 0, "p", NIB_ERR_EXISTS, "holds the folder 'sub'");
    EXPECT(temp_count(dir.path) == entries, "a refusal leaves nothing");

    nib_output *out = begin(temp_path(&dir, "file"), 0, 1, 0, "p");
    REQUIRE(out, " ");
    EXPECT(nib_output_text(out, NULL, "new", 3) == NIB_OK, "%s", nib_last_error());
    expect_file(temp_path(&dir, "file"), "old");
    EXPECT(nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
    expect_file(temp_path(&dir, "file"), "new");
    EXPECT(temp_count(dir.path) == entries, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(Output, OneRunAtATime)
{
    const temp_dir dir = temp_dir_make();
    const char *dst = temp_path(&dir, "dst");
    nib_output *out = begin(dst, 1, 0, 0, "print");
    REQUIRE(out, " ");
    expect_begin(dst, 1, 0, 0, "print", NIB_ERR_EXISTS, "another run is writing it");
    expect_begin(dst, 1, 1, 1, "print", NIB_ERR_EXISTS, "another run is writing it");
    nib_output *other = begin(temp_path(&dir, "other"), 1, 0, 0, "print"); /* its own lock */
    EXPECT(nib_output_text(out, "f", "1", 1) == NIB_OK && nib_output_commit(out) == NIB_OK, "%s",
           nib_last_error());
    nib_output_abort(other, 0);
    EXPECT(temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

/* The other run's output appears without its lock being seen (another program, another host). */
NIB_TEST(Output, DestinationAppears)
{
    const temp_dir dir = temp_dir_make();
    for (int is_folder = 0; is_folder < 2; is_folder++) {
        const char *dst = temp_path(&dir, is_folder ? "folder" : "file");
        nib_output *out = begin(dst, is_folder, 0, 0, "print");
        REQUIRE(out, " ");
        EXPECT(nib_output_text(out, is_folder ? "f" : NULL, "mine", 4) == NIB_OK, " ");
        REQUIRE(temp_write(dst, "theirs", 6), " ");
        EXPECT(nib_output_commit(out) == NIB_ERR_EXISTS &&
                   strstr(nib_last_error(), "appeared"), "%s", nib_last_error());
        nib_output_abort(out, 1); /* and it can be resumed once the way is free */
        EXPECT(strstr(nib_last_error(), "appeared"), "abort keeps the text");
        expect_file(dst, "theirs");
        REQUIRE(unlink(dst) == 0, " ");
        out = begin(dst, is_folder, 0, 1, "print");
        EXPECT(out && nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
        expect_file(is_folder ? temp_path(&dir, "folder/f") : dst, "mine");
    }
    EXPECT(temp_count(dir.path) == 2, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(Output, Resume)
{
    const temp_dir dir = temp_dir_make();
    const char *dst = temp_path(&dir, "dst");
    nib_output_data *data;
    nib_output *out = begin(dst, 1, 0, 1, "source=a format=nvfp4 rules=te"); /* nothing to resume */
    REQUIRE(out, " ");
    EXPECT(nib_output_file(out, "f", "H", 1, 3, &data) == NIB_OK &&
               nib_output_write(data, 1, "1", 1) == NIB_OK && nib_output_done(out, "one") == NIB_OK,
           "%s", nib_last_error());
    nib_output_abort(out, 1);
    EXPECT(temp_count(dst) == -1 && temp_count(dir.path) == 2, "partial and journal stay");

    expect_begin(dst, 1, 0, 1, "source=a format=mxfp4 rules=te", NIB_ERR_EXISTS,
                 "with 'format=nvfp4', this run has 'format=mxfp4'");
    expect_begin(dst, 1, 0, 1, "source=a format=nvfp4", NIB_ERR_EXISTS, "'rules=te'");
    expect_begin(dst, 0, 0, 1, "source=a format=nvfp4 rules=te", NIB_ERR_EXISTS,
                 "with 'folder', this run has 'file'");
    EXPECT(temp_count(dir.path) == 2, "a refusal removes nothing");

    out = begin(dst, 1, 0, 1, "source=a format=nvfp4 rules=te");
    REQUIRE(out, " ");
    EXPECT(nib_output_resumed(out) == 1 && nib_output_is_done(out, "one") &&
               !nib_output_is_done(out, "two"), " ");
    EXPECT(nib_output_file(out, "f", "H", 1, 3, &data) == NIB_OK &&
               nib_output_write(data, 2, "2", 1) == NIB_OK && nib_output_done(out, "two") == NIB_OK,
           "%s", nib_last_error());
    nib_output_abort(out, 1);

    out = begin(dst, 1, 0, 1, "source=a format=nvfp4 rules=te");
    REQUIRE(out, " ");
    EXPECT(nib_output_resumed(out) == 2 && nib_output_is_done(out, "one") &&
               nib_output_is_done(out, "two"), " ");
    EXPECT(nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
    expect_file(temp_path(&dir, "dst/f"), "H12");
    EXPECT(temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(Output, WithoutResumeItStartsAfresh)
{
    const temp_dir dir = temp_dir_make();
    const char *dst = temp_path(&dir, "dst");
    nib_output_data *data;
    nib_output *out = begin(dst, 1, 0, 0, "print");
    EXPECT(out && nib_output_file(out, "stale", "H", 1, 3, &data) == NIB_OK &&
               nib_output_done(out, "one") == NIB_OK, "%s", nib_last_error());
    nib_output_abort(out, 1);
    out = begin(dst, 1, 0, 0, "print");
    REQUIRE(out, " ");
    EXPECT(!nib_output_is_done(out, "one") && nib_output_resumed(out) == 0, " ");
    EXPECT(nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
    EXPECT(temp_count(dst) == 0, "the stale file is gone");
    temp_dir_remove(&dir);
}
