/* qbench_interleave.c: two programs in turn, A B, B A, A B, ..., so that what drifts on the
 * machine meets both alike. Each round gives a pair of medians, and their ratio is what counts. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qbench_compare.h"

enum { FEWEST_ROUNDS = 5 };

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

nib_qb_change nib_qb_paired_change(const nib_qb_record *old, const nib_qb_record *new_,
                                   double threshold)
{
    const int n = old->count < new_->count ? old->count : new_->count;
    nib_qb_change c = { 0, 1, NIB_QB_UNCLEAR };
    double *ratio = n > 0 ? malloc((size_t)n * sizeof *ratio) : NULL;
    if (!ratio) return c;
    for (int i = 0; i < n; i++) ratio[i] = new_->each[i] / old->each[i];
    qsort(ratio, (size_t)n, sizeof *ratio, by_value);
    c.change = (n % 2 ? ratio[n / 2] : 0.5 * (ratio[n / 2 - 1] + ratio[n / 2])) - 1;
    /* Ranks n/2 -+ sqrt(n) enclose the median with 95 %. */
    const int low = (int)floor(0.5 * (n - 1) - sqrt(n)), high = (int)ceil(0.5 * (n - 1) + sqrt(n));
    c.margin = 0.5 * (ratio[high < n ? high : n - 1] - ratio[low > 0 ? low : 0]);
    free(ratio);
    if (n >= FEWEST_ROUNDS) c.outcome = nib_qb_judge(c.change, c.margin, threshold);
    return c;
}

static void show_log(const char *path)
{
    char line[512];
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) fprintf(stderr, "  | %s", line);
    if (f) fclose(f);
}

/* program arguments --json rows; what it prints goes to a log. */
static int run(const nib_qb_comparison *how, const char *program, const char *rows,
               const char *log)
{
    char **argv = calloc((size_t)how->count + 8, sizeof *argv);
    if (!argv) return 0;
    const char *own[] = { "--min-time", "0.1", "--max-time", "0.5" };
    int n = 0;
    argv[n++] = (char *)(uintptr_t)program;
    for (int i = 0; i < 4; i++) argv[n++] = (char *)(uintptr_t)own[i]; /* the user's come later */
    for (int i = 0; i < how->count; i++) argv[n++] = how->arguments[i];
    argv[n++] = (char *)(uintptr_t)"--json";
    argv[n++] = (char *)(uintptr_t)rows;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGINT, SIG_DFL);
        if (!freopen(log, "w", stdout) || dup2(STDOUT_FILENO, STDERR_FILENO) < 0) _exit(126);
        execvp(program, argv);
        fprintf(stderr, "cannot run '%s': %s\n", program, strerror(errno));
        fflush(NULL);
        _exit(127);
    }
    int status = -1;
    if (child > 0) waitpid(child, &status, 0);
    free(argv);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 1;
    fprintf(stderr, "qbench compare: '%s' failed:\n", program);
    show_log(log);
    return 0;
}

static int all_clear(const nib_qb_records *old, const nib_qb_records *new_, double threshold)
{
    for (int i = 0; i < old->count; i++) {
        const nib_qb_record *other = nib_qb_record_find(new_, old->record[i].key);
        if (other
            && nib_qb_paired_change(&old->record[i], other, threshold).outcome == NIB_QB_UNCLEAR)
            return 0;
    }
    return 1;
}

int nib_qb_interleave(const nib_qb_comparison *how, nib_qb_records *old, nib_qb_records *new_)
{
    char folder[] = "/tmp/qbench.XXXXXX", rows[64], log[64], error[512] = "";
    if (!mkdtemp(folder)) return 0;
    snprintf(rows, sizeof rows, "%s/rows", folder);
    snprintf(log, sizeof log, "%s/log", folder);
    int good = 1;
    void (*const was)(int) = signal(SIGINT, SIG_IGN); /* it ends the child, whose end is told */
    for (int round = 0; round < how->rounds && good; round++) {
        for (int turn = 0; turn < 2 && good; turn++) {
            const int is_new = (round + turn) % 2;
            unlink(rows); /* the other's */
            good = run(how, is_new ? how->new_ : how->old, rows, log)
                && nib_qb_records_read(rows, is_new ? new_ : old, error, sizeof error);
        }
        if (error[0]) fprintf(stderr, "qbench compare: %s\n", error);
        if (round + 1 >= FEWEST_ROUNDS && all_clear(old, new_, how->threshold)) break;
    }
    signal(SIGINT, was);
    unlink(rows);
    unlink(log);
    rmdir(folder);
    return good;
}
