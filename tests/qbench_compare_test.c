/* qbench_compare_test.c: two runs, or two builds, held against each other. */
#include "qbench_run.h"

/* A row as qbench writes it, but for what compare does not read. */
static void add_row(char *text, size_t bytes, const char *op, int rows, double median, double noise,
                    double sol)
{
    const size_t used = strlen(text);
    snprintf(text + used, bytes - used,
             "{\"op\":\"%s\",\"backend\":\"cpu\",\"threads\":1,"
             "\"shape\":{\"rows\":%d,\"cols\":64},"
             "\"median_us\":%.6f,\"noise\":%.4f,\"sol\":%.3f,"
             "\"command\":\"qbench %s --rows %d\"}\n",
             op, rows, median, noise, sol, op, rows);
}

static result compare(const char *old, const char *new_, const char *options)
{
    const temp_dir dir = temp_dir_make();
    char line[900], a[300];
    snprintf(a, sizeof a, "%s", temp_path(&dir, "old"));
    temp_write(a, old, strlen(old));
    temp_write(temp_path(&dir, "new"), new_, strlen(new_));
    snprintf(line, sizeof line, "compare %s %s %s", a, temp_path(&dir, "new"), options);
    result r = run(line);
    temp_dir_remove(&dir);
    return r;
}

static void expect_outcome(double change, double noise, const char *options, const char *outcome)
{
    char old[512] = "", new_[512] = "";
    add_row(old, sizeof old, "quantize", 8, 100, noise, 0.5);
    add_row(new_, sizeof new_, "quantize", 8, 100 * (1 + change), noise, 0.5);
    result r = compare(old, new_, options);
    EXPECT(r.status == 0 && r.out && strstr(r.out, outcome)
               && strchr(r.out, '\n') + 1 == strstr(r.out, outcome), "%+.3f of noise %.3f: %s%s",
           change, noise, r.out, r.err);
    result_free(&r);
}

NIB_TEST(QbenchCompare, TheRuleIsTheStatedOne) /* the margin is about 2.8 times the noise */
{
    expect_outcome(0.15, 0.01, "", "SLOWER ");
    expect_outcome(-0.15, 0.01, "", "FASTER ");
    expect_outcome(0, 0.01, "", "SAME ");
    expect_outcome(0, 0.5, "", "SAME "); /* a file against itself */
    expect_outcome(0.01, 0.01, "", "SAME ");
    expect_outcome(0.01, 0.02, "", "UNCLEAR ");
    expect_outcome(0.15, 0.05, "", "UNCLEAR ");
    expect_outcome(0.06, 0.01, "", "UNCLEAR ");
    expect_outcome(0.06, 0.001, "", "SLOWER ");
    expect_outcome(0.06, 0.001, "--threshold 0.1", "SAME ");
    expect_outcome(-0.06, 0.001, "--threshold 0.01", "FASTER ");
}

/* An older file's rows have no element, where there was INT4 by 128 alone. */
NIB_TEST(QbenchCompare, IntegersAreThoseOfOlderRows)
{
    static const struct { const char *has; int same; } rows[] = {
        { "\"element\":\"int4\",\"block\":128,", 1 }, { "\"element\":\"int8\",\"block\":128,", 0 },
        { "\"element\":\"int4\",\"block\":64,", 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char old[512] = "", row[512] = "", new_[600];
        add_row(old, sizeof old, "quantize_steps", 8, 100, 0.01, 0.5);
        add_row(row, sizeof row, "quantize_steps", 8, 100, 0.01, 0.5);
        snprintf(new_, sizeof new_, "{%s%s", rows[i].has, row + 1);
        result r = compare(old, new_, "");
        EXPECT((strstr(r.out, "SAME ") != NULL) == rows[i].same, "%zu: %s", i, r.out);
        result_free(&r);
    }
}

NIB_TEST(QbenchCompare, RowsThatAreThereSeveralTimesCarryTheirRange)
{
    char old[1024] = "", new_[1024] = "";
    add_row(old, sizeof old, "amax", 8, 100, 0.001, 0.5);
    for (int i = 0; i < 3; i++)
        add_row(new_, sizeof new_, "amax", 8, 106 + 8 * (i - 1), 0.001, 0.5);
    result r = compare(old, new_, "");
    EXPECT(strstr(r.out, "UNCLEAR      100.00     106.00"), "%s", r.out);
    result_free(&r);
}

NIB_TEST(QbenchCompare, ExitStatusIsWhatFailOnAndMinSolAsk)
{
    static const struct {
        const char *options;
        int         status;
    } rows[] = {
        { "", 0 }, { "--fail-on slower", 1 }, { "--fail-on faster,same", 1 },
        { "--fail-on faster", 0 }, { "--fail-on missing", 1 }, { "--fail-on unclear", 0 },
        { "--min-sol amax=0.4", 0 }, { "--min-sol amax=0.6", 1 }, { "--min-sol dequantize=0.9", 1 },
    };
    char old[2048] = "", new_[2048] = "";
    add_row(old, sizeof old, "quantize", 8, 100, 0.01, 0.9);
    add_row(old, sizeof old, "quantize", 16, 100, 0.01, 0.9);
    add_row(old, sizeof old, "read", 8, 100, 0.01, 1);
    add_row(new_, sizeof new_, "quantize", 8, 120, 0.01, 0.8);
    add_row(new_, sizeof new_, "quantize", 16, 100.5, 0.01, 0.9);
    add_row(new_, sizeof new_, "amax", 8, 100, 0.01, 0.5);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        result r = compare(old, new_, rows[i].options);
        EXPECT(r.status == rows[i].status, "'%s': status %d: %s%s", rows[i].options, r.status,
               r.out, r.err);
        EXPECT(strstr(r.out, "1 SAME, 0 FASTER, 1 SLOWER, 0 UNCLEAR, 1 MISSING"), "%s", r.out);
        EXPECT(strstr(r.out, "NEW ") && strstr(r.out, "amax --rows 8"), "%s", r.out);
        result_free(&r);
    }
}

NIB_TEST(QbenchCompare, WrongUsageNamesTheChoices)
{
    static const struct {
        const char *arguments;
        int         status;
        const char *piece;
    } rows[] = {
        { "compare", 2, "two files, OLD and NEW" },
        { "compare a", 2, "two files, OLD and NEW" },
        { "compare a b c", 2, "two files, OLD and NEW" },
        { "compare a b --fail-on worse", 2, "same, faster, slower, unclear, missing" },
        { "compare a b --threshold big", 2, "'big' is not" },
        { "compare a b --min-sol copy=1", 2, "quantize=0.9" },
        { "compare --interleave a", 2, "two programs" },
        { "compare a --interleave b c d", 2, "takes no files" },
        { "compare /nonexistent/a /nonexistent/b", 1, "cannot read '/nonexistent/a'" },
        { "compare Makefile Makefile", 1, "line 1 of 'Makefile' is not a row" },
        { "compare --interleave /nonexistent/a /nonexistent/b amax", 1, "'/nonexistent/a' failed" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        result r = run(rows[i].arguments);
        EXPECT(r.status == rows[i].status, "'%s': status %d", rows[i].arguments, r.status);
        EXPECT(r.err && strstr(r.err, rows[i].piece), "'%s': no '%s' in: %s", rows[i].arguments,
               rows[i].piece, r.err);
        result_free(&r);
    }
}

NIB_TEST(QbenchCompare, ARealFileIsTheSameAsItself)
{
    const temp_dir dir = temp_dir_make();
    char line[900];
    snprintf(line, sizeof line, "quantize amax fma --rows 8 --cols 64 --cache hot --min-time 0.01"
             " --max-time 0.05 --json %s", temp_path(&dir, "rows"));
    result r = run(line);
    EXPECT(r.status == 0, "%s", r.err);
    result_free(&r);
    snprintf(line, sizeof line, "compare %s", temp_path(&dir, "rows"));
    const size_t used = strlen(line);
    snprintf(line + used, sizeof line - used, " %s", temp_path(&dir, "rows"));
    r = run(line);
    EXPECT(r.status == 0 && strstr(r.out, "3 SAME, 0 FASTER, 0 SLOWER, 0 UNCLEAR, 0 MISSING"),
           "%s%s", r.out, r.err);
    result_free(&r);
    temp_dir_remove(&dir);
}

NIB_TEST(QbenchCompare, WrongNewResultsFail)
{
    char old[2048] = "", new_[2048] = "";
    add_row(old, sizeof old, "amax", 8, 100, 0.01, 0.5);
    add_row(new_, sizeof new_, "amax", 8, 100, 0.01, 0.5);
    char *const end = strrchr(new_, '}');
    REQUIRE(end, "%s", new_);
    snprintf(end, sizeof new_ - (size_t)(end - new_), "%s", ", \"verified\": false}\n");
    result r = compare(old, new_, "");
    EXPECT(r.status == 1 && strstr(r.err, "wrong: "), "status %d: %s%s", r.status, r.out, r.err);
    result_free(&r);
    r = compare(new_, old, "");
    EXPECT(r.status == 0, "the old ones': status %d: %s", r.status, r.err);
    result_free(&r);
}

/* A program that measures nothing must not be taken for the one before it. */
NIB_TEST(QbenchCompare, InterleaveWantsRowsOfBoth)
{
    char line[900];
    snprintf(line, sizeof line, "compare --interleave %s/qbench /bin/true amax --rows 64 --cols "
             "1024 --cache hot --min-time 0.02 --max-time 0.05", NIB_BUILD_DIR);
    result r = run(line);
    EXPECT(r.status == 1 && strstr(r.err, "cannot read"), "status %d: %s%s", r.status, r.out,
           r.err);
    result_free(&r);
}

/* The same program, and one that is slowed by half: far more than a busy machine hides. */
NIB_TEST(QbenchCompare, InterleaveFindsTheSlowerBuild)
{
    const temp_dir dir = temp_dir_make();
    char line[900], script[600];
    snprintf(script, sizeof script, "#!/bin/sh\nexec %s/qbench \"$@\" --inject-slow 0.5\n",
             NIB_BUILD_DIR);
    temp_write(temp_path(&dir, "slow"), script, strlen(script));
    snprintf(line, sizeof line, "chmod +x %s", temp_path(&dir, "slow"));
    REQUIRE(system(line) == 0, "%s", line);
    snprintf(line, sizeof line, "compare --fail-on slower --threshold 0.1 --interleave %s/qbench %s"
             " amax --rows 64 --cols 1024 --cache hot --min-time 0.02 --max-time 0.05",
             NIB_BUILD_DIR, temp_path(&dir, "slow"));
    result r = run(line);
    EXPECT(r.status == 1 && strstr(r.out, "SLOWER "), "status %d: %s%s", r.status, r.out, r.err);
    result_free(&r);
    temp_dir_remove(&dir);
}
