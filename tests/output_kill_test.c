/* output_kill_test.c: processes that are killed at any moment, and threads that write at once.
 * Looks below include/. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>

#include "host/io/output_state.h"
#include "shim.h"
#include "temp_dir.h"

enum { CHUNKS = 96, CHUNK = 8192 };

static uint8_t byte_of(int version, int chunk) { return (uint8_t)(version * 41 + chunk * 7 + 1); }

/* What the child of the resume test does. Returns an exit status: 0 done, 1 failed. */
static int write_chunks(const char *dst, unsigned pause_us)
{
    nib_output *out;
    nib_output_data *data;
    uint8_t chunk[CHUNK];
    if (nib_output_begin(dst, 1, 0, 1, "print", &out) != NIB_OK) return 1;
    out->sync_bytes = 2 * CHUNK;
    if (nib_output_file(out, "data", "HEADER", 6, 6 + CHUNKS * CHUNK, &data) != NIB_OK) return 1;
    for (int i = 0; i < CHUNKS; i++) {
        char step[32];
        snprintf(step, sizeof step, "chunk %d", i);
        if (nib_output_is_done(out, step)) continue;
        memset(chunk, byte_of(0, i), CHUNK);
        /* In two halves, so that a kill may fall between them. */
        const uint64_t at = 6 + (uint64_t)i * CHUNK;
        if (nib_output_write(data, at, chunk, CHUNK / 2) != NIB_OK) return 1;
        usleep(pause_us);
        if (nib_output_write(data, at + CHUNK / 2, chunk + CHUNK / 2, CHUNK / 2) != NIB_OK ||
            nib_output_done(out, step) != NIB_OK)
            return 1;
    }
    return nib_output_text(out, "config.json", "{}", 2) != NIB_OK ||
           nib_output_commit(out) != NIB_OK;
}

static int chunk_is_whole(const char *data, size_t bytes, int chunk)
{
    const size_t at = 6 + (size_t)chunk * CHUNK;
    if (bytes < at + CHUNK) return 0;
    for (size_t i = 0; i < CHUNK; i++)
        if ((uint8_t)data[at + i] != byte_of(0, chunk)) return 0;
    return 1;
}

/* Every step that the journal names must be in the data: in the partial's, or in dst's if the
 * kill fell between the rename and the journal's removal. Returns how many it names. */
static int check_journal(const temp_dir *dir)
{
    size_t bytes = 0;
    const int renamed = temp_count(temp_path(dir, "dst")) >= 0;
    char *journal = temp_read(temp_path(dir, ".dst.nibble-journal"), NULL);
    char *data = temp_read(temp_path(dir, renamed ? "dst/data" : ".dst.nibble-partial/data"),
                           &bytes);
    int steps = 0, chunk;
    for (char *line = journal; line && strchr(line, '\n'); line = strchr(line, '\n') + 1) {
        if (sscanf(line, "step chunk %d\n", &chunk) != 1) continue;
        steps++;
        EXPECT(data && chunk_is_whole(data, bytes, chunk), "chunk %d is journalled, not there",
               chunk);
    }
    free(journal);
    free(data);
    return steps;
}

NIB_TEST(OutputKill, ResumesAfterKills)
{
    const temp_dir dir = temp_dir_make();
    char dst[512];
    snprintf(dst, sizeof dst, "%s", temp_path(&dir, "dst"));
    unsigned seed = 20250731, span_us = 14000;
    int kills = 0, grew = 0, steps = 0;
    while ((kills < 20 || grew < 3) && kills < 60 && temp_count(dst) < 0 && !nib_test_failed()) {
        const pid_t child = fork();
        REQUIRE(child >= 0, "%s", strerror(errno));
        if (child == 0) _exit(write_chunks(dst, 1000));
        seed = seed * 1664525 + 1013904223;
        usleep(500 + (seed >> 8) % span_us);
        kill(child, SIGKILL);
        int status;
        REQUIRE(waitpid(child, &status, 0) == child, " ");
        EXPECT(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "failed");
        kills++;
        const int now = check_journal(&dir);
        EXPECT(temp_count(dst) >= 0 || now >= steps, "%d steps, %d before", now, steps);
        grew += now > steps;
        if (now <= steps) span_us += span_us / 8; /* a busy machine gets more time */
        steps = now;
    }
    EXPECT(grew >= 3 || temp_count(dst) >= 0, "the kills must fall into the work: %d of %d runs",
           grew, kills);
    if (temp_count(dst) < 0) {
        const pid_t child = fork();
        if (child == 0) _exit(write_chunks(dst, 0));
        int status;
        REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) &&
                    WEXITSTATUS(status) == 0, "the last run failed");
    }
    /* A kill behind the rename leaves the journal; the next run, stopped by dst, clears it. */
    nib_output *out;
    REQUIRE(nib_output_begin(dst, 1, 0, 1, "print", &out) == NIB_ERR_EXISTS, "%s",
            nib_last_error());
    size_t bytes = 0;
    char *data = temp_read(temp_path(&dir, "dst/data"), &bytes);
    REQUIRE(data && bytes == 6 + CHUNKS * CHUNK && memcmp(data, "HEADER", 6) == 0, "%zu", bytes);
    for (int i = 0; i < CHUNKS; i++) EXPECT(chunk_is_whole(data, bytes, i), "chunk %d", i);
    free(data);
    EXPECT(temp_count(dst) == 2 && temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

static int write_version(const char *dst, int is_folder, int version)
{
    nib_output *out;
    nib_output_data *data;
    uint8_t chunk[CHUNK];
    memset(chunk, byte_of(version, 0), CHUNK);
    return nib_output_begin(dst, is_folder, 1, version & 1, "print", &out) == NIB_OK &&
           nib_output_file(out, is_folder ? "data" : NULL, chunk, 1, CHUNK, &data) == NIB_OK &&
           nib_output_write(data, 1, chunk + 1, CHUNK - 1) == NIB_OK &&
           (!is_folder || nib_output_text(out, "twin", chunk, CHUNK) == NIB_OK) &&
           nib_output_commit(out) == NIB_OK;
}

/* Version after version over dst, until it is killed. */
static int replace_for_ever(const char *dst, int is_folder)
{
    for (int version = 0; write_version(dst, is_folder, version); version = (version + 1) & 63) {}
    return 1;
}

static unsigned now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned)now.tv_sec * 1000000u + (unsigned)(now.tv_nsec / 1000);
}

static int is_one_version(const char *path, uint8_t *version)
{
    size_t bytes = 0;
    char *data = temp_read(path, &bytes);
    int same = data && bytes == CHUNK;
    for (size_t i = 1; same && i < CHUNK; i++) same = data[i] == data[0];
    if (same) *version = (uint8_t)data[0];
    free(data);
    return same;
}

static void kill_while_replacing(int is_folder)
{
    const temp_dir dir = temp_dir_make();
    char dst[512];
    snprintf(dst, sizeof dst, "%s", temp_path(&dir, "dst"));
    unsigned seed = 4711;
    const unsigned start = now_us();
    for (int version = 0; version < 4; version++)
        REQUIRE(write_version(dst, is_folder, version), "%s", nib_last_error());
    const unsigned span_us = now_us() - start + 1000; /* kills fall into the first four or so */
    for (int kills = 0; kills < 40 && !nib_test_failed(); kills++) {
        const pid_t child = fork();
        REQUIRE(child >= 0, "%s", strerror(errno));
        if (child == 0) _exit(replace_for_ever(dst, is_folder));
        seed = seed * 1664525 + 1013904223;
        usleep((seed >> 8) % span_us);
        kill(child, SIGKILL);
        int status;
        REQUIRE(waitpid(child, &status, 0) == child, " ");
        /* A resumed run may meet another version's header (the fingerprint is the same on
         * purpose) and refuse; it then leaves everything as it is. */
        EXPECT(WIFSIGNALED(status) || WEXITSTATUS(status) == 1, " ");
        EXPECT(access(dst, F_OK) == 0, "kill %d: there was an output, and now there is none",
               kills);
        uint8_t a = 0, b = 0;
        EXPECT(is_one_version(is_folder ? temp_path(&dir, "dst/data") : dst, &a), "torn");
        if (is_folder) EXPECT(is_one_version(temp_path(&dir, "dst/twin"), &b) && a == b, "mixed");
    }
    /* Whatever the last kill left, a fresh run cleans it up. */
    nib_output *out;
    REQUIRE(nib_output_begin(dst, is_folder, 1, 0, "print", &out) == NIB_OK, "%s",
            nib_last_error());
    nib_output_abort(out, 0);
    EXPECT(temp_count(dir.path) == 1, "leftovers");
    temp_dir_remove(&dir);
}

NIB_TEST(OutputKill, KillsWhileReplacingAFolder) { kill_while_replacing(1); }
NIB_TEST(OutputKill, KillsWhileReplacingAFile) { kill_while_replacing(0); }

/* ---- threads ---- */

typedef struct job {
    nib_output      *out;
    nib_output_data *data;
    int              first;
    int              failed;
} job;

static void *write_every_fourth(void *arg)
{
    job *mine = arg;
    uint8_t chunk[CHUNK];
    for (int i = mine->first; i < CHUNKS; i += 4) {
        char step[32];
        snprintf(step, sizeof step, "chunk %d", i);
        memset(chunk, byte_of(0, i), CHUNK);
        mine->failed |= nib_output_is_done(mine->out, step);
        mine->failed |=
            nib_output_write(mine->data, 6 + (uint64_t)i * CHUNK, chunk, CHUNK) != NIB_OK;
        mine->failed |= nib_output_done(mine->out, step) != NIB_OK;
        mine->failed |= !nib_output_is_done(mine->out, step);
    }
    return NULL;
}

NIB_TEST(OutputKill, ThreadsWriteAtOnce)
{
    const temp_dir dir = temp_dir_make();
    nib_output *out;
    nib_output_data *data;
    pthread_t threads[4];
    job jobs[4];
    REQUIRE(nib_output_begin(temp_path(&dir, "dst"), 0, 0, 0, "print", &out) == NIB_OK &&
                nib_output_file(out, NULL, "HEADER", 6, 6 + CHUNKS * CHUNK, &data) == NIB_OK, "%s",
            nib_last_error());
    out->sync_bytes = 7 * CHUNK;
    for (int i = 0; i < 4; i++) {
        jobs[i] = (job){ out, data, i, 0 };
        REQUIRE(pthread_create(&threads[i], NULL, write_every_fourth, &jobs[i]) == 0, " ");
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        EXPECT(!jobs[i].failed, "thread %d", i);
    }
    REQUIRE(nib_output_commit(out) == NIB_OK, "%s", nib_last_error());
    size_t bytes = 0;
    char *whole = temp_read(temp_path(&dir, "dst"), &bytes);
    REQUIRE(whole && bytes == 6 + CHUNKS * CHUNK, " ");
    for (int i = 0; i < CHUNKS; i++) EXPECT(chunk_is_whole(whole, bytes, i), "chunk %d", i);
    free(whole);
    temp_dir_remove(&dir);
}
