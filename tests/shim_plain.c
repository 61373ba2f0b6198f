/* shim_plain.c: shim.h without Google Test, for a processor that has no package of it. Speaks
 * its dialect: --gtest_filter=A*:B*-C*, GTEST_TOTAL_SHARDS, GTEST_SHARD_INDEX, and the lines that
 * scripts/run_tests.sh counts. */
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

typedef struct test {
    const char *suite, *name;
    void      (*body)(void);
} test;

static test   tests[4096];
static size_t n_tests;
static int    failed, skipped, brief; /* brief: failures alone are told, as of --gtest_brief=1 */

void nib_test_register(const char *suite, const char *name, void (*body)(void), const char *file,
                       int line)
{
    if (n_tests == sizeof tests / sizeof *tests) {
        fprintf(stderr, "%s:%d: more than %zu tests\n", file, line, n_tests);
        exit(2);
    }
    tests[n_tests++] = (test){ suite, name, body };
}

void nib_test_expect(int ok, const char *file, int line, const char *condition,
                     const char *format, ...)
{
    if (ok) return;
    va_list args;
    va_start(args, format);
#pragma omp critical
    {
        printf("%s:%d: Failure\n%s:", file, line, condition);
        vprintf(format, args);
        printf("\n");
        failed = 1;
    }
    va_end(args);
}

void nib_test_skip(const char *file, int line, const char *reason)
{
    printf("%s:%d: Skipped\n%s\n", file, line, reason);
    skipped = 1;
}

int nib_test_failed(void) { return failed; }

static size_t number_from(const char *variable, size_t otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? strtoul(text, NULL, 10) : otherwise;
}

static int run(const test *t)
{
    struct timespec start, end;
    failed = skipped = 0;
    if (!brief) printf("[ RUN      ] %s.%s\n", t->suite, t->name);
    fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &start);
    t->body();
    clock_gettime(CLOCK_MONOTONIC, &end);
    const long ms = (long)(end.tv_sec - start.tv_sec) * 1000
                  + (end.tv_nsec - start.tv_nsec) / 1000000;
    if (!brief || failed)
        printf("[%s] %s.%s (%ld ms)\n", failed ? "  FAILED  " : skipped ? "  SKIPPED "
               : "       OK ", t->suite, t->name, ms);
    fflush(stdout);
    return failed;
}

/* In a process of its own, which may last so many seconds: a GPU's context that is lost, a crash or
 * a kernel without an end take no other test along. */
static int run_alone(const test *t, unsigned seconds)
{
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(seconds);
        const int bad = run(t);
        fflush(NULL);
        _exit(bad);
    }
    if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status)
        && WEXITSTATUS(status) <= 1)
        return WEXITSTATUS(status);
    printf("%s.%s: Failure\nits process ended with status %#x\n[  FAILED  ] %s.%s (0 ms)\n",
           t->suite, t->name, (unsigned)status, t->suite, t->name);
    return 1;
}

/* Patterns with : between them, up to a - or the end. */
static int one_fits(const char *patterns, const char *name)
{
    while (*patterns && *patterns != '-') {
        char pattern[256];
        const size_t n = strcspn(patterns, ":-");
        snprintf(pattern, sizeof pattern, "%.*s", (int)n, patterns);
        if (fnmatch(pattern, name, 0) == 0) return 1;
        patterns += n + (patterns[n] == ':');
    }
    return 0;
}

static int is_wanted(const char *filter, const char *name)
{
    const char *but = strchr(filter, '-');
    return (filter == but || one_fits(filter, name)) && !(but && one_fits(but + 1, name));
}

int main(int argc, char **argv)
{
    const char *filter = "*";
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--gtest_filter=", 15) == 0) filter = argv[i] + 15;
        if (strcmp(argv[i], "--gtest_brief=1") == 0) brief = 1;
    }

    const unsigned alone = (unsigned)number_from("NIB_TEST_SECONDS", 0);
    const size_t shards = number_from("GTEST_TOTAL_SHARDS", 1);
    const size_t shard  = number_from("GTEST_SHARD_INDEX", 0);
    int any_failed = 0;
    for (size_t i = 0; i < n_tests; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s.%s", tests[i].suite, tests[i].name);
        if (i % shards != shard || !is_wanted(filter, name)) continue;
        any_failed |= alone ? run_alone(&tests[i], alone) : run(&tests[i]);
    }
    return any_failed;
}
