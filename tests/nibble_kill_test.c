/* nibble_kill_test.c: runs that are stopped, killed, doubled or out of disk leave nothing under
 * the final name, and --resume ends in the bytes of an undisturbed run. */
#include <math.h>
#include <time.h>

#include "model_fixture.h"
#include "run_tool.h"
#include "shim.h"

enum { KILLS = 30, KILLS_FULL = 100 }; /* NIB_TEST_FULL=1: the second */

static temp_dir dir;
static char src[300], dst[300], whole[300], out[300], err[300], journal[300];
static double seconds_whole; /* the least that a run has taken, so that no later one is missed */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_for(double seconds)
{
    const time_t whole_seconds = (time_t)seconds;
    const struct timespec t = { whole_seconds, (long)((seconds - (double)whole_seconds) * 1e9) };
    nanosleep(&t, NULL);
}

/* 32 tensors; three of four are rows x 256 weights. */
static int make_source(int64_t rows)
{
    enum { N = 32 };
    static char names[N][64];
    fixture_tensor t[N];
    for (int i = 0; i < N; i++) {
        static const char *const kinds[] = { "self_attn.q_proj", "self_attn.k_proj",
                                             "mlp.down_proj", "input_layernorm" };
        snprintf(names[i], sizeof names[i], "model.layers.%d.%s.weight", i / 4, kinds[i % 4]);
        t[i] = (fixture_tensor){ names[i], NIB_TT_BF16, i % 4 == 3 ? 1 : 2, { rows, 256 }, 1,
                                 NULL };
    }
    return fixture_folder(src, t, N, 2);
}

/* Starts a run onto dst. */
static pid_t start(const char *to, const char *last)
{
    const char *const args[] = { "quantize", src, "-o", to, "--scale-choice", "mse-full", "-t", "1",
                                 "--max-file-size", "10k", last, NULL };
    return tool_start(args, out, err, NULL);
}

/* Source and undisturbed output, of a size that takes long enough to be hit anywhere, however
 * fast the machine. The first run of all is slow, and says nothing of the later ones. */
static int begin(void)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    snprintf(whole, sizeof whole, "%s/whole", dir.path);
    snprintf(out, sizeof out, "%s/stdout.txt", dir.path);
    snprintf(err, sizeof err, "%s/stderr.txt", dir.path);
    snprintf(journal, sizeof journal, "%s/.dst.nibble-journal", dir.path);
    for (int64_t rows = 16;; rows *= 2) {
        if (!make_source(rows)) return 0;
        seconds_whole = HUGE_VAL;
        for (int i = 0; i < 3; i++) {
            temp_dir_remove_at(whole);
            const double t = now();
            if (tool_wait(start(whole, NULL), NULL) != 0) return 0;
            seconds_whole = fmin(seconds_whole, now() - t);
        }
        if (seconds_whole > 0.1 || rows == 1024) return 1;
        temp_dir_remove_at(src);
        temp_dir_remove_at(whole);
    }
}

/* A number in [0, 1), the same in every run of the test. */
static double draw(void)
{
    static uint64_t s = 88172645463325252u;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return (double)(s >> 11) * 0x1p-53;
}

/* Signals a run after a random time, up to this part of what is expected of it. Returns its exit
 * status; -signal if that ended it. A run that ends first has told how long the next may take:
 * *left, of a whole run, is lowered until signals hit. */
static int disturb(int number, double part, double *left)
{
    const pid_t child = start(dst, "--resume");
    pause_for(draw() * part * *left * seconds_whole);
    kill(child, number);
    const int status = tool_wait(child, NULL);
    *left = status == 0 ? *left * 0.8 : fmin(1, *left * 1.05);
    return status;
}

static int journal_steps(void)
{
    size_t n;
    int steps = 0;
    char *text = temp_read(journal, &n);
    for (const char *p = text; p && (p = strstr(p, "\nstep ")); p++) steps++;
    free(text);
    return steps;
}

NIB_TEST(NibbleKill, KilledRunsAreResumedToTheSameBytes)
{
    const int kills = getenv("NIB_TEST_FULL") ? KILLS_FULL : KILLS;
    int killed = 0, resumed = 0, finished = 0;
    double left_whole = 1, left_resumed = 1;
    REQUIRE(begin(), "the undisturbed run failed");
    for (int i = 0; i < kills && !nib_test_failed(); i++) {
        /* Every other kill hits a run that goes on from durable steps: SIGINT leaves some. */
        int status = i % 2 ? disturb(SIGINT, 0.8, &left_whole) : 1;
        EXPECT(status == 0 || status == 1 || status == -SIGINT, "SIGINT: %d", status);
        if (journal_steps() > 0) resumed++;
        double *const left = i % 2 ? &left_resumed : &left_whole; /* less is left to do */
        if (status != 0) status = disturb(SIGKILL, 0.9, left);
        EXPECT(status == 0 || status == -SIGKILL, "SIGKILL: %d", status);
        killed += status == -SIGKILL;
        if (temp_count(dst) >= 0) { /* it got as far as the rename */
            EXPECT(fixture_same(whole, dst), "kill %d: a torn output", i);
            temp_dir_remove_at(dst);
            finished += status == 0;
        }
        if (i % 3 != 2) continue;
        const char *const args[] = { "quantize", src, "-o", dst, "--scale-choice", "mse-full",
                                     "--max-file-size", "10k", "--resume", "--force", NULL };
        status = tool_wait(tool_start(args, out, err, NULL), NULL);
        EXPECT(status == 0, "the resumed run exits with %d", status);
        EXPECT(fixture_same(whole, dst), "kill %d: other bytes", i);
        EXPECT(!fixture_leftovers(dst), "kill %d: something is left", i);
        temp_dir_remove_at(dst);
    }
    EXPECT(killed > kills / 6, "only %d of %d runs were hit (%d ended)", killed, kills, finished);
    EXPECT(resumed > 0, "no run went on from durable steps");
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleKill, InterruptedRunSaysHowToGoOn)
{
    char text[2048] = "";
    REQUIRE(begin(), "the undisturbed run failed");
    int status = 0;
    for (int i = 0; i < 200 && (status != 1 || !journal_steps()); i++) { /* hit in its work */
        temp_dir_remove_at(dst);
        const pid_t child = start(dst, NULL);
        pause_for(seconds_whole * (0.3 + 0.02 * (i % 40)));
        kill(child, i % 2 ? SIGTERM : SIGINT);
        status = tool_wait(child, NULL);
    }
    REQUIRE(status == 1, "exit status %d", status);
    tool_text(err, text, sizeof text);
    EXPECT(strstr(text, "--resume"), "%s", text);
    EXPECT(temp_count(dst) < 0, "something stands under the final name");
    EXPECT(journal_steps() > 0, "no step is durable");

    /* Other arguments do not fit, and spoil nothing. */
    const tool_result other = tool_run(&dir, "quantize", src, "-o", dst, "--resume");
    EXPECT(other.status == 1 && strstr(other.err, "resume"), "%d: %s", other.status, other.err);
    EXPECT(tool_wait(start(dst, "--resume"), NULL) == 0, "the resumed run failed");
    EXPECT(fixture_same(whole, dst) && !fixture_leftovers(dst), "other bytes");
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleKill, TwoRunsOnOneOutput)
{
    char partial[300];
    REQUIRE(begin(), "the undisturbed run failed");
    snprintf(partial, sizeof partial, "%s/.dst.nibble-partial", dir.path);
    int refused = 0;
    for (int i = 0; i < 10 && !refused; i++) {
        const pid_t first = start(dst, "--force");
        int status = 0, ended = 0;
        while (access(partial, F_OK) != 0 && !ended)
            ended = waitpid(first, &status, WNOHANG) != 0; /* then too fast for us */
        if (ended) continue;
        kill(first, SIGSTOP);
        if (waitpid(first, &status, WUNTRACED) != first || !WIFSTOPPED(status)) continue;
        const int caught = access(partial, F_OK) == 0;
        const tool_result second = tool_run(&dir, "quantize", src, "-o", dst, "--force");
        kill(first, SIGCONT);
        EXPECT(tool_wait(first, NULL) == 0, "the first run was disturbed");
        EXPECT(!caught || fixture_same(whole, dst), "round %d: other bytes", i);
        refused = second.status == 1 && strstr(second.err, "another run");
    }
    EXPECT(refused, "the second run was let in");
    EXPECT(!fixture_leftovers(dst), "something is left");
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleKill, ThreeProcessesMakeTheParts)
{
    REQUIRE(begin(), "the undisturbed run failed");
    static const char *const shards[] = { "3/3", "1/3", "2/3" };
    char parts[3][300];
    pid_t child[3];
    for (int i = 0; i < 3; i++) {
        snprintf(parts[i], sizeof parts[i], "%s/part%d", dir.path, i);
        const char *const args[] = { "quantize", src, "-o", parts[i], "--scale-choice", "mse-full",
                                     "-t", "1", "--max-file-size", "10k", "--shard", shards[i],
                                     NULL };
        child[i] = tool_start(args, out, err, NULL);
    }
    for (int i = 0; i < 3; i++) EXPECT(tool_wait(child[i], NULL) == 0, "part %s", shards[i]);
    const tool_result r = tool_run(&dir, "merge", parts[0], parts[1], parts[2], "-o", dst);
    EXPECT(r.status == 0, "%s", r.err);
    EXPECT(fixture_same_tensors(whole, dst), "other tensors");
    temp_dir_remove(&dir);
}

static void small_files(void)
{
    const struct rlimit limit = { 4000, 4000 };
    setrlimit(RLIMIT_FSIZE, &limit);
}

NIB_TEST(NibbleKill, FullDiskIsSaidAndCanBeMended)
{
    REQUIRE(begin(), "the undisturbed run failed");
    const char *const args[] = { "quantize", src, "-o", dst, "--scale-choice", "mse-full",
                                 "--max-file-size", "10k", NULL };
    const tool_result r = tool_run_with(&dir, small_files, args);
    EXPECT(r.status == 1, "exit status %d", r.status);
    EXPECT(strstr(r.err, "safetensors") && strstr(r.err, "bytes"), "%s", r.err);
    EXPECT(temp_count(dst) < 0, "something stands under the final name");
    EXPECT(tool_wait(start(dst, "--resume"), NULL) == 0, "the resumed run failed");
    EXPECT(fixture_same(whole, dst) && !fixture_leftovers(dst), "other bytes");
    temp_dir_remove(&dir);
}
