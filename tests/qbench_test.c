/* qbench_test.c: runs the built qbench and reads what it prints. No speed is judged here. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"
#include "temp_dir.h"

#ifndef NIB_BUILD_DIR
#define NIB_BUILD_DIR "build"
#endif

typedef struct result {
    int    status; /* of exit; -signal if one ended it */
    char  *out, *err;
    json_t *rows;  /* the JSON lines of out, as an array */
} result;

static void result_free(result *r)
{
    free(r->out);
    free(r->err);
    json_decref(r->rows);
}

static json_t *json_lines(const char *text)
{
    json_t *rows = json_array();
    while (text && *text == '{') {
        const char *end = strchr(text, '\n');
        json_t *row = end ? json_loadb(text, (size_t)(end - text), 0, NULL) : NULL;
        if (!row) break;
        json_array_append_new(rows, row);
        text = end + 1;
    }
    EXPECT(text && !*text, "not a line of JSON: '%.80s'", text);
    return rows;
}

/* The shell splits the arguments. */
static result run(const char *arguments)
{
    const temp_dir dir = temp_dir_make();
    char command[1024];
    snprintf(command, sizeof command, "%s/qbench %s >%s/out 2>%s/err", NIB_BUILD_DIR, arguments,
             dir.path, dir.path);
    const int status = system(command);
    result r = { .status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status) };
    r.out = temp_read(temp_path(&dir, "out"), NULL);
    r.err = temp_read(temp_path(&dir, "err"), NULL);
    if (strstr(arguments, "--json -")) r.rows = json_lines(r.out);
    temp_dir_remove(&dir);
    return r;
}

static const json_t *row_of(const result *r, size_t i) { return json_array_get(r->rows, i); }

static const char *text_of(const json_t *row, const char *key)
{
    const char *text = json_string_value(json_object_get(row, key));
    return text ? text : "(none)";
}

static double number_of(const json_t *row, const char *key)
{
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static int near(double a, double b) { return fabs(a - b) <= 1e-4 * fabs(b); }

#define QUICK " --min-time 0.01 --max-time 0.05 --json - "

NIB_TEST(Qbench, TheDocumentedLineGivesEveryField)
{
    static const char *const texts[] = { "op", "backend", "device", "kernel", "format", "dtype",
                                         "rules", "layout", "cache", "limit", "baseline",
                                         "command", "version", "commit" };
    static const char *const numbers[] = { "threads", "bytes", "flops", "median_us", "p99_us", "cv",
                                           "gbps", "sol", "speedup", "max_err" };
    result r = run("quantize --backend cpu --rows 4096 --cols 4096" QUICK);
    EXPECT(r.status == 0, "status %d: %s", r.status, r.err);
    EXPECT(json_array_size(r.rows) == 1, "%zu rows", json_array_size(r.rows));
    const json_t *row = row_of(&r, 0), *shape = json_object_get(row, "shape");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        EXPECT(json_is_string(json_object_get(row, texts[i])), "no text '%s'", texts[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        EXPECT(json_is_number(json_object_get(row, numbers[i])), "no number '%s'", numbers[i]);
    EXPECT(json_is_boolean(json_object_get(row, "noisy")), "no 'noisy'");
    EXPECT(json_is_null(json_object_get(row, "tflops")), "quantize counts no flops");
    EXPECT(json_is_true(json_object_get(row, "verified")), "not verified");
    EXPECT(number_of(shape, "rows") == 4096 && number_of(shape, "cols") == 4096, "wrong shape");
    EXPECT(number_of(row, "bytes") == 4096.0 * 4096 * 4, "%g bytes", number_of(row, "bytes"));
    const double gbps = number_of(row, "bytes") / number_of(row, "median_us") / 1e3;
    EXPECT(near(number_of(row, "gbps"), gbps), "GB/s is not bytes / median, %g", gbps);
    EXPECT(near(number_of(row, "sol"), number_of(row, "gbps") / number_of(row, "limit_gbps")),
           "sol is not GB/s / limit");
    EXPECT(number_of(row, "min_us") <= number_of(row, "median_us")
               && number_of(row, "median_us") <= number_of(row, "p99_us"), "times out of order");
    EXPECT(!strncmp(text_of(row, "command"), "qbench quantize ", 16), "'%s'",
           text_of(row, "command"));
    EXPECT(strstr(r.err, "median us"), "the table is not on standard error: %s", r.err);
    result_free(&r);
}

NIB_TEST(Qbench, AxesMakeTheirProduct)
{
    static const int cols[] = { 16, 32, 64 }, rows[] = { 1, 3 };
    result r = run("quantize amax --rows 1,3 --cols 16:64:x2 --format nvfp4,mxfp4 --cache hot"
                   " --isa portable" QUICK);
    EXPECT(r.status == 0, "status %d: %s", r.status, r.err);
    REQUIRE(json_array_size(r.rows) == 12 + 6, "%zu rows", json_array_size(r.rows));
    for (size_t i = 0; i < 18; i++) { /* amax has no format */
        const json_t *row = row_of(&r, i), *shape = json_object_get(row, "shape");
        EXPECT(!strcmp(text_of(row, "op"), i < 12 ? "quantize" : "amax"), "row %zu", i);
        EXPECT(!strcmp(text_of(row, "format"), i < 6 ? "nvfp4" : i < 12 ? "mxfp4" : "(none)"),
               "row %zu: %s", i, text_of(row, "format"));
        EXPECT(number_of(shape, "rows") == rows[i / 3 % 2], "row %zu", i);
        EXPECT(number_of(shape, "cols") == cols[i % 3], "row %zu", i);
        EXPECT(json_is_true(json_object_get(row, "verified")), "row %zu", i);
    }
    result_free(&r);
    r = run("fill --rows 16:48:+16,100 --cols 64 --cache hot" QUICK);
    EXPECT(json_array_size(r.rows) == 4, "%zu rows of a step range and a number",
           json_array_size(r.rows));
    result_free(&r);
}

NIB_TEST(Qbench, EveryOperationIsVerified)
{
    static const char *const axes[] = { "--isa auto --threads 2", "--isa portable --dtype bf16,f16",
                                        "--layout swizzled --rules ocp,modelopt",
                                        "--scale-choice mse,four-over-six-mse" };
    for (int i = 0; i < 4; i++) {
        char line[256];
        snprintf(line, sizeof line, "quantize dequantize amax quantize_amax memcpy fill --rows 33 "
                 "--cols 100 --cache hot %s" QUICK, axes[i]);
        result r = run(line);
        EXPECT(r.status == 0, "%s: status %d: %s", axes[i], r.status, r.err);
        EXPECT(json_array_size(r.rows) >= 6, "%zu rows", json_array_size(r.rows));
        for (size_t k = 0; k < json_array_size(r.rows); k++)
            EXPECT(json_is_true(json_object_get(row_of(&r, k), "verified"))
                       && number_of(row_of(&r, k), "max_err") == 0, "%s",
                   text_of(row_of(&r, k), "command"));
        result_free(&r);
    }
}

NIB_TEST(Qbench, AWrongResultIsSeen)
{
    result r = run("quantize dequantize amax quantize_amax memcpy fill --rows 8 --cols 100"
                   " --dtype f32,bf16 --cache hot --inject-fault" QUICK);
    EXPECT(r.status == 1, "status %d", r.status);
    EXPECT(json_array_size(r.rows) == 12, "%zu rows", json_array_size(r.rows));
    for (size_t i = 0; i < json_array_size(r.rows); i++)
        EXPECT(json_is_false(json_object_get(row_of(&r, i), "verified"))
                   && number_of(row_of(&r, i), "max_err") > 0, "%s",
               text_of(row_of(&r, i), "command"));
    EXPECT(strstr(r.err, "12 of 12 rows are wrong"), "%s", r.err);
    result_free(&r);
    r = run("quantize --rows 8 --cols 100 --cache hot --inject-fault --no-verify" QUICK);
    EXPECT(r.status == 0 && json_is_null(json_object_get(row_of(&r, 0), "verified")),
           "--no-verify: status %d", r.status);
    result_free(&r);
}

NIB_TEST(Qbench, ColdCopiesAreAllWrittenAndVerified) /* many small copies, threads, both rivals */
{
    result r = run("quantize dequantize --rows 64 --cols 4096 --threads 1,2 --min-time 0.1"
                   " --json -");
    EXPECT(r.status == 0 && json_array_size(r.rows) == 4, "status %d: %s", r.status, r.err);
    for (size_t i = 0; i < json_array_size(r.rows); i++) {
        EXPECT(json_is_true(json_object_get(row_of(&r, i), "verified")), "row %zu", i);
        EXPECT(!strcmp(text_of(row_of(&r, i), "limit"), i < 2 ? "read" : "nt fill"), "row %zu", i);
        EXPECT(!strcmp(text_of(row_of(&r, i), "baseline"), "memcpy"), "row %zu", i);
        EXPECT(number_of(row_of(&r, i), "sol") > 0 && number_of(row_of(&r, i), "speedup") > 0,
               "row %zu", i);
    }
    result_free(&r);
}

NIB_TEST(Qbench, WrongUsageNamesTheChoices)
{
    static const struct {
        const char *arguments;
        int         status;
        const char *piece;
    } rows[] = {
        { "", 2, "quantize, dequantize, amax" },
        { "quantise", 2, "quantize, dequantize, amax" },
        { "quantize --isa sse", 2, "auto, portable, avx2" },
        { "quantize --backend gpu", 2, "auto, cpu, cuda" },
        { "quantize --dtype f64", 2, "f32, f16, bf16" },
        { "quantize --format fp4", 2, "nvfp4, nvfp4-b32, mxfp4" },
        { "quantize --rules nv", 2, "te, modelopt, compressed-tensors, ocp, gguf" },
        { "quantize --scale-choice max", 2, "amax, mse, mse-full" },
        { "quantize --layout tiled", 2, "linear, swizzled" },
        { "quantize --cache warm", 2, "cold, hot" },
        { "quantize --rows 0", 2, "'0' is not a number >= 1" },
        { "quantize --rows -4", 2, "'-4' is not" },
        { "quantize --rows 1,,2", 2, "1:4096:x2" },
        { "quantize --rows 1:8", 2, "1:4096:x2" },
        { "quantize --rows 1:8:x1", 2, "1:4096:x2" },
        { "quantize --rows 8:1:x2", 2, "1:4096:x2" },
        { "quantize --rows 1:8:+0", 2, "1:4096:x2" },
        { "quantize --rows 1:99999999:+1", 2, "is not" },
        { "quantize --cols 99999999999999999999", 2, "is not" },
        { "quantize --threads x", 2, "'x' is not" },
        { "quantize --threads 1025", 2, "1025" },
        { "quantize --noise 2", 2, "from 0 to 1" },
        { "quantize --min-time 1s", 2, "'1s' is not" },
        { "quantize --max-runs 0", 2, "from 1" },
        { "quantize --json - --csv -", 2, "cannot both" },
        { "quantize --bogus", 2, "--bogus" },
        { "quantize --rows 8 --format mxfp4 --scale-choice four-over-six-mse", 2, "four-over-six" },
        { "quantize_amax --rows 8 --format mxfp4", 2, "no tensor scale" },
        { "quantize --rows 4000000000 --cols 4000000000", 2, "too large" },
        { "quantize --rows 4000000 --cols 4000000", 2, "MB are free" },
        { "quantize --json /nonexistent/x.json", 1, "/nonexistent/x.json" },
        { "fma --min-time 0.01 --json /dev/full", 1, "/dev/full" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        result r = run(rows[i].arguments);
        EXPECT(r.status == rows[i].status, "'%s': status %d", rows[i].arguments, r.status);
        EXPECT(r.err && strstr(r.err, rows[i].piece), "'%s': no '%s' in: %s", rows[i].arguments,
               rows[i].piece, r.err);
        result_free(&r);
    }
}

NIB_TEST(Qbench, ARowThatCannotRunSaysWhyAndTheOthersRun)
{
    result r = run("quantize --rows 8 --cols 64 --cache hot --format mxfp4,nvfp4 --scale-choice"
                   " four-over-six-mse" QUICK);
    EXPECT(r.status == 0 && json_array_size(r.rows) == 2, "status %d: %s", r.status, r.err);
    EXPECT(strstr(text_of(row_of(&r, 0), "skipped"), "four-over-six"), "'%s'",
           text_of(row_of(&r, 0), "skipped"));
    EXPECT(json_is_null(json_object_get(row_of(&r, 0), "median_us")), "a row that did not run");
    EXPECT(json_is_null(json_object_get(row_of(&r, 1), "skipped")), "'%s'",
           text_of(row_of(&r, 1), "skipped"));
    EXPECT(strstr(r.err, "not run: "), "the table does not say why: %s", r.err);
    result_free(&r);
}

NIB_TEST(Qbench, HelpTeaches)
{
    result r = run("--help");
    static const char *const pieces[] = { "quantize_amax", "source bytes", "--scale-choice", "sol",
                                          "Examples:", "Exit status" };
    EXPECT(r.status == 0, "status %d", r.status);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        EXPECT(r.out && strstr(r.out, pieces[i]), "no '%s'", pieces[i]);
    result_free(&r);
}

static int commas(const char *line)
{
    int n = 0, quoted = 0;
    for (; *line && *line != '\n'; line++) {
        quoted ^= *line == '"';
        n += *line == ',' && !quoted;
    }
    return n;
}

NIB_TEST(Qbench, CsvHasOneHeaderAndEqualLines)
{
    result r = run("quantize fma --rows 8 --cols 64 --cache hot --min-time 0.01 --csv -");
    const char *first = r.out ? strchr(r.out, '\n') : NULL;
    const char *second = first ? strchr(first + 1, '\n') : NULL;
    REQUIRE(r.status == 0 && second && second[1], "status %d: %s", r.status, r.out);
    EXPECT(!strncmp(r.out, "op,backend,", 11) && strstr(r.out, ",rows,cols,"), "%s", r.out);
    EXPECT(commas(r.out) == commas(first + 1) && commas(r.out) == commas(second + 1),
           "%d, %d, %d commas", commas(r.out), commas(first + 1), commas(second + 1));
    result_free(&r);
}

/* Interrupted in its second row: prints the first, exits with 1. */
NIB_TEST(Qbench, InterruptPrintsWhatWasMeasured)
{
    const temp_dir dir = temp_dir_make();
    char path[512], program[] = NIB_BUILD_DIR "/qbench", *rows = NULL;
    snprintf(path, sizeof path, "%s", temp_path(&dir, "rows.json"));
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(99);
        execl(program, program, "fma", "--threads", "1,1,1,1,1,1,1,1,1,1", "--min-time", "1",
              "--max-time", "1", "--json", path, (char *)NULL);
        _exit(99);
    }
    for (int i = 0; i < 600 && !(rows && strchr(rows, '\n')); i++) { /* the first row, or 30 s */
        nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
        free(rows);
        rows = temp_read(path, NULL);
    }
    int status = 0;
    kill(child, SIGINT);
    waitpid(child, &status, 0);
    free(rows);
    rows = temp_read(path, NULL);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %#x", (unsigned)status);
    json_t *read = json_lines(rows ? rows : "");
    EXPECT(json_array_size(read) >= 1 && json_array_size(read) < 10, "%zu rows",
           json_array_size(read));
    json_decref(read);
    free(rows);
    temp_dir_remove(&dir);
}
