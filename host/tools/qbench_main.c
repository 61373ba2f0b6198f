/* qbench_main.c: the command line: operations, the product of the axes, where rows go. */
#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/version.h"
#include "qbench_ops.h"

enum { AXIS_KEY = 0x100, MIN_TIME = 0x200, MAX_TIME, MAX_RUNS, NOISE, NO_VERIFY, NO_BASELINE, JSON,
       CSV, MARKDOWN, MODEL, SHAPES, LIST_KERNELS, PROFILE, MIN_SOL, INJECT_FAULT, INJECT_SLOW };
enum { MOST_OPS = 64 };

typedef struct arguments {
    const nib_qb_op *op[MOST_OPS];
    int              ops;
    nib_qb_values    axis[NIB_QB_AXES], initial[NIB_QB_AXES];
    int              given[NIB_QB_AXES];
    nib_qb_shapes    shapes;
    nib_qb_floor     floor[MOST_OPS];
    int              floors;
    nib_qb_settings  settings;
    const char      *json, *csv, *markdown;
} arguments;

static volatile sig_atomic_t stop;

static void on_interrupt(int number)
{
    (void)number;
    stop = 1;
}

static const char head[] =
    "Times nibble's operations against what this machine can do."
    "\n\n'qbench compare --help' tells how to compare two runs or two builds.\v";

static const char tail[] =
    "An axis takes a list (--rows 1,128), a factor range (--rows 1:4096:x2) or a step range "
    "(--cols 16:64:+16); every combination is one row. Operations leave out axes that mean "
    "nothing to them. --model and --shapes stand in for rows and cols; with --rows as well, a "
    "model's layers give the columns alone, as for activations.\n\n"
    "Columns: median and p99 of one call; cv, standard deviation / mean; GB/s = the bytes that "
    "count (see the operations) / median; limit, what the row is held against, timed in turn "
    "with it on the same threads or GPU: 'read' (sum of a buffer), 'nt fill' (non-temporal "
    "stores) or 'copy', of 4 times the last cache or the operation's bytes, whichever is larger; "
    "sol = GB/s / the limit's; x cpy, speed against a plain copy of the same bytes, also timed in "
    "turn, or against OpenBLAS's or cublasLt's product of plain matrices; verified, every "
    "output that was written compared bit for bit with the portable kernels on one thread of "
    "the CPU, products and Hessians with f64's, within their headers' bounds, GPTQ with plain "
    "rounding and its own report, in f64, and with a second run. What takes seconds is held "
    "against OpenBLAS: hessian against ssyrk, gptq against spotrf of cols. 'noisy': the median "
    "is not known to --noise, other processes left too few processors for the threads, or the "
    "clock was held down ('throttled').\n\n"
    "cold rotates copies of all buffers beyond 4 times the last cache. All memory is touched "
    "before it is timed. On a GPU the calls are replayed from CUDA graphs and timed by events.\n\n"
    "Examples:\n"
    "  qbench quantize --backend cpu --rows 4096 --cols 4096 --json -\n"
    "  qbench quantize dequantize --dtype f32,bf16 --threads 1,2\n"
    "  qbench quantize --format nvfp4,mxfp4 --isa portable,avx2 --rows 1:4096:x4 --csv q.csv\n"
    "  qbench quantize_dynamic --backend cuda --dtype bf16 --model llama-3.1-8b --rows 1:4096:x4\n"
    "  qbench memcpy read fill fma --threads 1:16:x2\n"
    "  qbench gemm --m 1,8,128 --model llama-3.1-8b --dtype f16 --cache weights\n"
    "  qbench gptq --order act --scales frozen,hessian --guard off,on --threads 2\n"
    "  qbench compare old.json new.json --fail-on slower\n\n"
    "Exit status: 0 done; 1 a row was wrong, below --min-sol, could not be verified or written or "
    "had no device, or an interrupt ended the run (what was measured is printed); 2 wrong usage.";

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
            ? snprintf(text + used, bytes - used, "  %s\n      %s\n", op->name, op->help)
            : snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", op->name));
    }
}

/* The operations, from their table, ahead of the rest of --help's end. */
static char *help_filter(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC || !text) return (char *)(uintptr_t)text;
    char ops[4096], *all = NULL;
    size_t bytes;
    FILE *f = open_memstream(&all, &bytes);
    if (!f) return (char *)(uintptr_t)text;
    list_ops(ops, sizeof ops, 1);
    fprintf(f, "Operations, and the bytes that count:\n%s\nModels:\n", ops);
    nib_qb_models_list(f);
    fprintf(f, "\n%s", text);
    return fclose(f) == 0 ? all : (char *)(uintptr_t)text;
}

static const nib_qb_op *find_op(struct argp_state *state, const char *name, size_t n)
{
    char list[1024], sentence[1280];
    for (int i = 0; nib_qb_ops[i]; i++)
        if (strlen(nib_qb_ops[i]->name) == n && !strncmp(nib_qb_ops[i]->name, name, n))
            return nib_qb_ops[i];
    list_ops(list, sizeof list, 0);
    snprintf(sentence, sizeof sentence, "unknown operation '%.*s'; the choices are %s",
             n < 64 ? (int)n : 64, name, list);
    usage(state, sentence);
    return nib_qb_ops[0];
}

static void add_op(struct argp_state *state, arguments *a, const char *name)
{
    const nib_qb_op *op = find_op(state, name, strlen(name));
    if (a->ops < MOST_OPS) a->op[a->ops++] = op;
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

/* "quantize=0.9" */
static void add_floor(struct argp_state *state, arguments *a, const char *text)
{
    const size_t n = strcspn(text, "=");
    if (!text[n]) usage(state, "--min-sol: needs an operation and a number, such as quantize=0.9");
    if (a->floors == MOST_OPS) return;
    a->floor[a->floors++] = (nib_qb_floor){ .op = find_op(state, text, n),
        .sol = number(state, "min-sol", text + n + 1, 0, 100) };
}

static int is_stdout(const char *path) { return path && !strcmp(path, "-"); }

static void check_together(struct argp_state *state, const arguments *a)
{
    if (is_stdout(a->json) + is_stdout(a->csv) + is_stdout(a->markdown) > 1)
        usage(state, "--json, --csv and --markdown cannot both go to standard output");
    if (a->shapes.count && a->given[NIB_QB_COLS])
        usage(state, "--cols comes from --model or --shapes; give --rows, or neither of the two");
    if (a->shapes.count && a->given[NIB_QB_K])
        usage(state, "--k comes from --model or --shapes; give --n, or neither of the two");
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    arguments *a = state->input;
    nib_qb_policy *p = &a->settings.policy;
    char sentence[1280];
    if (key >= AXIS_KEY && key < AXIS_KEY + NIB_QB_AXES) {
        const nib_qb_axis_id id = (nib_qb_axis_id)(key - AXIS_KEY);
        if (!nib_qb_axis_parse(id, text, &a->axis[id], sentence, sizeof sentence))
            usage(state, sentence);
        a->given[id] = 1;
        return 0;
    }
    switch (key) {
    case MIN_TIME:     p->min_time_s = number(state, "min-time", text, 0, 3600); break;
    case MAX_TIME:     p->max_time_s = number(state, "max-time", text, 0, 3600); break;
    case MAX_RUNS:     p->max_runs = (int64_t)number(state, "max-runs", text, 1, 1e9); break;
    case NOISE:        p->noise = number(state, "noise", text, 0, 1); break;
    case NO_VERIFY:    a->settings.verify = 0; break;
    case NO_BASELINE:  a->settings.baselines = 0; break;
    case LIST_KERNELS: nib_qb_list_kernels(); exit(0);
    case PROFILE:      a->settings.profile = 1; break;
    case MIN_SOL:      add_floor(state, a, text); break;
    case INJECT_FAULT: a->settings.corrupt = 1; break;
    case INJECT_SLOW:  p->slowdown = number(state, "inject-slow", text, 0, 100); break;
    case JSON:         a->json = text; break;
    case CSV:          a->csv = text; break;
    case MARKDOWN:     a->markdown = text; break;
    case MODEL:
        if (!nib_qb_shapes_of_models(text, &a->shapes, sentence, sizeof sentence))
            usage(state, sentence);
        break;
    case SHAPES:
        if (!nib_qb_shapes_of_file(text, &a->shapes, sentence, sizeof sentence))
            usage(state, sentence);
        break;
    case ARGP_KEY_ARG: add_op(state, a, text); break;
    case ARGP_KEY_END:
        if (a->ops == 0) {
            list_ops(sentence, sizeof sentence, 0);
            argp_failure(state, 2, 0, "no operation given; the choices are %s", sentence);
        }
        check_together(state, a);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp_option measure_options[] = {
    { "kernel", AXIS_KEY + NIB_QB_ISA, "NAME", 0, "the same as --isa", 1 },
    { "model", MODEL, "NAME", 0, "the layers of published models, listed below", 1 },
    { "shapes", SHAPES, "FILE", 0, "shapes from a file, a line each: rows cols [batch [name]]", 1 },
    { "list-kernels", LIST_KERNELS, 0, 0, "of gemm: where each runs, what it takes, how far it is "
      "proven; then end", 1 },
    { 0, 0, 0, 0, "Measurement:", 2 },
    { "min-time", MIN_TIME, "SECONDS", 0, "time each row at least so long (0.5)", 2 },
    { "max-time", MAX_TIME, "SECONDS", 0, "and at most about so long (5)", 2 },
    { "max-runs", MAX_RUNS, "N", 0, "and with at most N samples (100000)", 2 },
    { "noise", NOISE, "FRACTION", 0, "stop when the median is known to this (0.01)", 2 },
    { "no-verify", NO_VERIFY, 0, 0, "do not compare results with the reference", 2 },
    { "no-baseline", NO_BASELINE, 0, 0, "time no copies or other libraries beside", 2 },
    { "profile", PROFILE, 0, 0, "no timing: each case thrice, the last call marked for "
      "profilers (profiles/README.md)", 2 },
    { "min-sol", MIN_SOL, "OP=FRACTION", 0,
      "exit with 1 if a row of OP reaches less of its limit, or none is there", 2 },
    { "inject-fault", INJECT_FAULT, 0, 0,
      "spoil one bit of each result, to see that verification notices", 2 },
    { "inject-slow", INJECT_SLOW, "FRACTION", 0,
      "make operations so much slower, to see that compare notices", 2 },
    { 0, 0, 0, 0, "Output (the table is always printed):", 3 },
    { "json", JSON, "FILE", 0, "one JSON object per row; - is standard output, and the table "
      "goes to standard error", 3 },
    { "csv", CSV, "FILE", 0, "comma-separated, with a header line; - as above", 3 },
    { "markdown", MARKDOWN, "FILE", 0, "a table, under what the machine is; - as above", 3 },
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
        nib_qb_axis_parse((nib_qb_axis_id)i, axis->initial, &a->initial[i], error, sizeof error);
    }
    memcpy(options + 1 + NIB_QB_AXES, measure_options, sizeof measure_options);

    static char doc[sizeof head + sizeof tail]; /* head ends where the operations come in */
    snprintf(doc, sizeof doc, "%s%s", head, tail);
    const struct argp argp = { options, parse_option, "OP...", doc, NULL, help_filter, NULL };
    static char version[64];
    snprintf(version, sizeof version, "qbench %s (%s)", nib_version(), nib_qb_commit());
    argp_program_version = version;
    argp_err_exit_status = 2;
    argp_parse(&argp, argc, argv, 0, NULL, a);
}

/* The axes that a model's or a file's shapes set, if the op has such. */
static int shape_axes(const arguments *a, const nib_qb_op *op, int *rows, int *cols)
{
    const int is_product = op->axes >> NIB_QB_N & 1;
    *rows = is_product ? NIB_QB_N : NIB_QB_ROWS;
    *cols = is_product ? NIB_QB_K : NIB_QB_COLS;
    return a->shapes.count > 0 && (op->axes >> *rows & 1);
}

/* NIBBLE_BACKEND may ask for what is not here. */
static int64_t auto_backend(void)
{
    const nib_backend_kind kind = nib_qb_backend_auto();
    if (kind != NIB_BACKEND_AUTO) return kind;
    fprintf(stderr, "qbench: %s\n", nib_last_error());
    exit(1);
}

/* Every combination of the axes that mean something to the op and its backend; the last axis
 * changes fastest. Backend is the first, so that the others know it. */
static void run_product(const arguments *a, int id, nib_qb_case *c, nib_qb_output *output)
{
    if (stop) return;
    if (id == NIB_QB_AXES) {
        nib_qb_run_case(c, &a->settings, output);
        return;
    }
    int rows, cols;
    const int shaped = shape_axes(a, c->op, &rows, &cols);
    if (shaped && id == cols) { /* set with the shape */
        run_product(a, id + 1, c, output);
        return;
    }
    if (shaped && id == NIB_QB_BATCH && (c->op->axes & NIB_QB_AXIS(BATCH)) && !a->given[id]) {
        run_product(a, id + 1, c, output);
        return;
    }
    const int varies = nib_qb_obeys(c, (nib_qb_axis_id)id);
    const nib_qb_values *values = varies ? &a->axis[id] : &a->initial[id];
    const int fixed = shaped && id == rows && !a->given[id];
    for (int i = 0; i < (fixed ? 1 : values->count); i++) {
        if (!fixed) c->value[id] = values->value[i];
        if (id == NIB_QB_BACKEND && c->value[id] == NIB_BACKEND_AUTO)
            c->value[id] = auto_backend();
        run_product(a, id + 1, c, output);
    }
}

/* A GPU takes the whole batch of a shape in one call; an op without batches takes one of it. */
static void run_op(const arguments *a, const nib_qb_op *op, nib_qb_output *output)
{
    int rows, cols;
    const int shaped = shape_axes(a, op, &rows, &cols);
    for (int i = 0; i < (shaped ? a->shapes.count : 1); i++) {
        nib_qb_case c = { .op = op };
        for (int id = 0; id < NIB_QB_AXES; id++) c.value[id] = a->initial[id].value[0];
        if (shaped) {
            const nib_qb_shape *shape = &a->shapes.shape[i];
            c.layer = shape->name[0] ? shape->name : NULL;
            c.value[rows] = shape->rows;
            c.value[cols] = shape->cols;
            if (op->axes & NIB_QB_AXIS(BATCH)) c.value[NIB_QB_BATCH] = shape->batch;
        }
        run_product(a, 0, &c, output);
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

static int finish(const arguments *a, nib_qb_output *output)
{
    int written = close_output(output->table, "the table");
    written &= close_output(output->json, a->json) & close_output(output->csv, a->csv)
             & close_output(output->markdown, a->markdown);
    if (stop) fprintf(stderr, "qbench: interrupted after %d rows\n", output->rows);
    if (output->wrong)
        fprintf(stderr, "qbench: %d of %d rows are wrong\n", output->wrong, output->rows);
    if (output->unverified)
        fprintf(stderr, "qbench: %d of %d rows could not be verified\n", output->unverified,
                output->rows);
    int unmet = output->wrong || output->below || output->unverified;
    for (int i = 0; i < a->floors && !stop; i++) {
        if (a->floor[i].rows) continue;
        fprintf(stderr, "qbench: --min-sol %s=%g: no row of it was held against a limit\n",
                a->floor[i].op->name, a->floor[i].sol);
        unmet = 1;
    }
    if (output->ran == 0 && !stop)
        fprintf(stderr, "qbench: no row could be run: %s\n", output->skipped);
    else if (output->device_missing)
        fprintf(stderr, "qbench: rows had no device: %s\n", output->skipped);
    if (unmet || stop || !written || output->device_missing) return 1;
    return output->ran > 0 ? 0 : 2;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "compare")) return nib_qb_compare_main(argc - 1, argv + 1);
    arguments a = { .settings = { { .min_time_s = 0.5, .max_time_s = 5, .noise = 0.01,
                                    .max_runs = 100000, .stop = &stop },
                                  .verify = 1, .baselines = 1 } };
    char command[1024];
    join_command(argc, argv, command, sizeof command); /* argp puts options first */
    parse_arguments(argc, argv, &a);
    nib_qb_output output = { .json = open_output(a.json), .csv = open_output(a.csv),
                             .markdown = open_output(a.markdown), .floors = a.floor,
                             .n_floors = a.floors };
    output.table = is_stdout(a.json) || is_stdout(a.csv) || is_stdout(a.markdown) ? stderr : stdout;

    /* A second interrupt ends the program at once. */
    const struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND };
    sigaction(SIGINT, &action, NULL);

    nib_qb_report_environment(output.table, "# ", command);
    if (output.markdown) {
        nib_qb_report_environment(output.markdown, "    ", command);
        fputc('\n', output.markdown);
    }
    for (int i = 0; i < a.ops; i++) run_op(&a, a.op[i], &output);
    for (int i = 0; i < NIB_QB_AXES; i++) {
        free(a.axis[i].value);
        free(a.initial[i].value);
    }
    free(a.shapes.shape);
    return finish(&a, &output);
}
