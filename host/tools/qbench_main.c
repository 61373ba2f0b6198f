/* qbench_main.c: the command line: operations, the product of the axes, where rows go. */
#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/version.h"
#include "qbench.h"

enum { AXIS_KEY = 0x100, MIN_TIME = 0x200, MAX_TIME, MAX_RUNS, NOISE, NO_VERIFY, JSON, CSV,
       INJECT_FAULT };
enum { MOST_OPS = 32 };

typedef struct arguments {
    const nib_qb_op *op[MOST_OPS];
    int              ops;
    nib_qb_values    axis[NIB_QB_AXES];
    nib_qb_settings  settings;
    const char      *json, *csv;
} arguments;

static volatile sig_atomic_t stop;

static void on_interrupt(int number)
{
    (void)number;
    stop = 1;
}

static const char head[] =
    "Times nibble's operations against what this machine can do.\v";

static const char tail[] =
    "An axis takes a list (--rows 1,128), a factor range (--rows 1:4096:x2) or a step range "
    "(--cols 16:64:+16); every combination is one row. Operations leave out axes that mean "
    "nothing to them.\n\n"
    "Columns: median and p99 of one call; cv, standard deviation / mean; GB/s = the bytes that "
    "count (see the operations) / median; limit, what the row is held against, timed in turn "
    "with it on the same threads: 'read' (sum of a buffer) or 'nt fill' (non-temporal stores) "
    "of 4 times the last-level cache or the operation's matrix, whichever is larger; sol = GB/s "
    "/ the limit's; x cpy, speed against a memcpy of the same bytes, also timed in turn; "
    "verified, every output that was written compared bit for bit with the portable kernels on "
    "one thread. 'noisy': the median is not known to --noise, or other processes left too few "
    "processors for the threads.\n\n"
    "cold rotates copies of all buffers beyond 4 times the last-level cache. All memory is "
    "touched before it is timed.\n\n"
    "Examples:\n"
    "  qbench quantize --backend cpu --rows 4096 --cols 4096 --json -\n"
    "  qbench quantize dequantize --dtype f32,bf16 --threads 1,2\n"
    "  qbench quantize --format nvfp4,mxfp4 --isa portable,avx2 --rows 1:4096:x4 --csv q.csv\n"
    "  qbench memcpy read fill fma --threads 1:16:x2\n\n"
    "Exit status: 0 done; 1 a row was wrong, could not be written or had no device, or an "
    "interrupt ended the run (what was measured is printed); 2 wrong usage.";

static void usage(struct argp_state *state, const char *sentence)
{
    argp_failure(state, 2, 0, "%s", sentence);
}

static void list_ops(char *text, size_t bytes, int with_help)
{
    size_t used = 0;
    for (int i = 0; nib_qb_ops[i] && used < bytes; i++) {
        const nib_qb_op *op = nib_qb_ops[i];
        used += (size_t)(with_help
            ? snprintf(text + used, bytes - used, "  %-14s %s\n", op->name, op->help)
            : snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", op->name));
    }
}

/* The operations, from their table, ahead of the rest of --help's end. */
static char *help_filter(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC || !text) return (char *)(uintptr_t)text;
    enum { MOST = 8192 };
    char *all = malloc(MOST);
    if (!all) return (char *)(uintptr_t)text;
    char ops[2048];
    list_ops(ops, sizeof ops, 1);
    snprintf(all, MOST, "Operations, and the bytes that count:\n%s\n%s", ops, text);
    return all;
}

static void add_op(struct argp_state *state, arguments *a, const char *name)
{
    char list[256], sentence[512];
    for (int i = 0; nib_qb_ops[i]; i++) {
        if (strcmp(nib_qb_ops[i]->name, name)) continue;
        if (a->ops < MOST_OPS) a->op[a->ops++] = nib_qb_ops[i];
        return;
    }
    list_ops(list, sizeof list, 0);
    snprintf(sentence, sizeof sentence, "unknown operation '%.64s'; the choices are %s", name,
             list);
    usage(state, sentence);
}

/* A decimal number in [low, high]. */
static double number(struct argp_state *state, const char *option, const char *text, double low,
                     double high)
{
    char sentence[256], *end;
    const double x = strtod(text, &end);
    if (end == text || *end || !(x >= low && x <= high)) {
        snprintf(sentence, sizeof sentence, "--%s: '%.64s' is not a number from %g to %g", option,
                 text, low, high);
        usage(state, sentence);
    }
    return x;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    arguments *a = state->input;
    nib_qb_policy *p = &a->settings.policy;
    char sentence[640];
    if (key >= AXIS_KEY && key < AXIS_KEY + NIB_QB_AXES) {
        const nib_qb_axis_id id = (nib_qb_axis_id)(key - AXIS_KEY);
        if (!nib_qb_axis_parse(id, text, &a->axis[id], sentence, sizeof sentence))
            usage(state, sentence);
        return 0;
    }
    switch (key) {
    case MIN_TIME:     p->min_time_s = number(state, "min-time", text, 0, 3600); break;
    case MAX_TIME:     p->max_time_s = number(state, "max-time", text, 0, 3600); break;
    case MAX_RUNS:     p->max_runs = (int64_t)number(state, "max-runs", text, 1, 1e9); break;
    case NOISE:        p->noise = number(state, "noise", text, 0, 1); break;
    case NO_VERIFY:    a->settings.verify = 0; break;
    case INJECT_FAULT: a->settings.corrupt = 1; break;
    case JSON:         a->json = text; break;
    case CSV:          a->csv = text; break;
    case ARGP_KEY_ARG: add_op(state, a, text); break;
    case ARGP_KEY_END:
        if (a->ops == 0) {
            list_ops(sentence, sizeof sentence / 2, 0);
            argp_failure(state, 2, 0, "no operation given; the choices are %s", sentence);
        }
        if (a->json && a->csv && !strcmp(a->json, "-") && !strcmp(a->csv, "-"))
            usage(state, "--json and --csv cannot both go to standard output");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option measure_options[] = {
    { 0, 0, 0, 0, "Measurement:", 2 },
    { "min-time", MIN_TIME, "SECONDS", 0, "time each row at least so long (0.5)", 2 },
    { "max-time", MAX_TIME, "SECONDS", 0, "and at most about so long (5)", 2 },
    { "max-runs", MAX_RUNS, "N", 0, "and with at most N samples (100000)", 2 },
    { "noise", NOISE, "FRACTION", 0, "stop when the median is known to this (0.01)", 2 },
    { "no-verify", NO_VERIFY, 0, 0, "do not compare results with the portable kernels", 2 },
    { "inject-fault", INJECT_FAULT, 0, 0,
      "spoil one bit of each result, to see that verification notices", 2 },
    { 0, 0, 0, 0, "Output (the table is always printed):", 3 },
    { "json", JSON, "FILE", 0, "one JSON object per row; - is standard output, and the table "
      "goes to standard error", 3 },
    { "csv", CSV, "FILE", 0, "comma-separated, with a header line; - as above", 3 },
    { 0 }
};

static void parse_arguments(int argc, char **argv, arguments *a)
{
    enum { OTHERS = sizeof measure_options / sizeof *measure_options };
    static struct argp_option options[NIB_QB_AXES + 1 + OTHERS];
    options[0] = (struct argp_option){ 0, 0, 0, 0, "Axes:", 1 };
    for (int i = 0; i < NIB_QB_AXES; i++) {
        const nib_qb_axis *axis = &nib_qb_axes[i];
        char error[256];
        options[1 + i] = (struct argp_option){ axis->name, AXIS_KEY + i, axis->metavar, 0,
                                               axis->help, 1 };
        nib_qb_axis_parse((nib_qb_axis_id)i, axis->initial, &a->axis[i], error, sizeof error);
    }
    memcpy(options + 1 + NIB_QB_AXES, measure_options, sizeof measure_options);

    static char doc[sizeof head + sizeof tail];
    snprintf(doc, sizeof doc, "%s%s", head, tail);
    const struct argp argp = { options, parse_option, "OP...", doc, NULL, help_filter, NULL };
    static char version[64];
    snprintf(version, sizeof version, "qbench %s (%s)", nib_version(), nib_qb_commit());
    argp_program_version = version;
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, a);
}

/* Every combination of the axes that the op obeys; the last axis changes fastest. */
static void run_product(const arguments *a, const nib_qb_op *op, int id, nib_qb_case *c,
                        nib_qb_output *output)
{
    if (stop) return;
    if (id == NIB_QB_AXES) {
        nib_qb_run_case(c, &a->settings, output);
        return;
    }
    const int varies = op->axes >> id & 1;
    for (int i = 0; i < (varies ? a->axis[id].count : 1); i++) {
        c->value[id] = a->axis[id].value[i];
        run_product(a, op, id + 1, c, output);
    }
}

static FILE *open_output(const char *path)
{
    if (!path) return NULL;
    if (!strcmp(path, "-")) return stdout;
    FILE *f = fopen(path, "w");
    if (!f) {
        fprintf(stderr, "qbench: cannot write '%s': %s\n", path, strerror(errno));
        exit(1);
    }
    return f;
}

static int close_output(FILE *f, const char *path)
{
    if (!f) return 1;
    const int bad = ferror(f);
    const int keep = f == stdout || f == stderr; /* more may be said */
    if (fflush(f) == 0 && !bad && (keep || fclose(f) == 0)) return 1;
    fprintf(stderr, "qbench: writing '%s' failed: %s\n", path, strerror(errno));
    return 0;
}

static void join_command(int argc, char **argv, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "qbench");
    for (int i = 1; i < argc && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, " %s", argv[i]);
}

int main(int argc, char **argv)
{
    arguments a = { .settings = { { .min_time_s = 0.5, .max_time_s = 5, .noise = 0.01,
                                    .max_runs = 100000, .stop = &stop }, 1, 0 } };
    char command[1024];
    join_command(argc, argv, command, sizeof command); /* argp puts options first */
    parse_arguments(argc, argv, &a);
    nib_qb_output output = { .json = open_output(a.json), .csv = open_output(a.csv) };
    output.table = output.json == stdout || output.csv == stdout ? stderr : stdout;

    /* A second interrupt ends the program at once. */
    const struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };
    sigaction(SIGINT, &action, NULL);

    nib_qb_report_environment(output.table, command);
    for (int i = 0; i < a.ops; i++) {
        nib_qb_case c = { .op = a.op[i] };
        run_product(&a, a.op[i], 0, &c, &output);
    }
    for (int i = 0; i < NIB_QB_AXES; i++) free(a.axis[i].value);

    int written = close_output(output.table, "the table");
    written &= close_output(output.json, a.json) & close_output(output.csv, a.csv);
    if (stop) fprintf(stderr, "qbench: interrupted after %d rows\n", output.rows);
    if (output.wrong)
        fprintf(stderr, "qbench: %d of %d rows are wrong\n", output.wrong, output.rows);
    if (output.wrong || stop || !written) return 1;
    if (output.ran > 0) return 0;
    fprintf(stderr, "qbench: no row could be run: %s\n", output.skipped);
    return output.device_missing ? 1 : 2;
}
