/* qat_main.c: `qat_demo`, which trains a small Llama on a text, first in f32, then with
 * fake-quantize. Every run is a process of its own on one thread; scripts/demo_qat.sh runs several
 * side by side. Exit status: 0 done, 1 the work failed, 2 wrong usage. */
#include <argp.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#include "host/tools/qat_demo.h"

static const qat_shape usual = { .vocab = 258, .hidden = 128, .inner = 384, .layers = 5,
                                 .heads = 4, .kv_heads = 4, .head_dim = 32, .context = 128,
                                 .theta = 10000, .eps = 1e-5 };
static const qat_shape small = { .vocab = 258, .hidden = 64, .inner = 128, .layers = 2,
                                 .heads = 2, .kv_heads = 1, .head_dim = 32, .context = 64,
                                 .theta = 10000, .eps = 1e-5 };

void qat_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("qat_demo: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static const struct argp_option options[] = {
    { "text", 't', "FILE", 0, "what to learn; of every 16 blocks the last is for validation", 0 },
    { "run", 'r', "RUN", 0, "none (f32, the default), a format's name, or a schedule", 0 },
    { "from", 'f', "DIR", 0, "go on from a model that -m wrote, else begin anew", 0 },
    { "model", 'm', "DIR", 0, "write the model here, in f32", 0 },
    { "output", 'o', "FILE", 0, "write the losses here, as JSON", 0 },
    { "seed", 's', "N", 0, "of the first weights and the batches (1)", 0 },
    { "steps", 'n', "N", 0, "(1000)", 0 },
    { "sequences", 'b', "N", 0, "of a batch, 1 to 8 (8)", 0 },
    { "rate", 'l', "X", 0, "AdamW's largest rate (3e-3)", 0 },
    { "gradient", 'g', "NAME", 0, "through inputs: identity (the default), or clamp, by which the "
      "clamped pass none", 0 },
    { "validate", 'v', "BYTES", 0, "of the validation text (131072)", 0 },
    { "small", 'S', NULL, 0, "a tiny model, for tests", 0 },
    { 0 }
};

static int64_t number(struct argp_state *state, const char *arg, int64_t low, int64_t high)
{
    char *end;
    errno = 0;
    const long long value = strtoll(arg, &end, 10);
    if (errno || end == arg || *end || value < low || value > high)
        argp_failure(state, 2, 0, "'%s' is not a whole number from %lld to %lld", arg,
                     (long long)low, (long long)high);
    return value;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    qat_arguments *a = state->input;
    char *end;
    switch (key) {
    case 't': a->text = arg; return 0;
    case 'r': a->run = arg; return 0;
    case 'f': a->from = arg; return 0;
    case 'm': a->model = arg; return 0;
    case 'o': a->output = arg; return 0;
    case 's': a->seed = number(state, arg, 0, INT32_MAX); return 0;
    case 'n': a->steps = number(state, arg, 1, INT32_MAX); return 0;
    case 'b': a->sequences = number(state, arg, 1, QAT_SEQUENCES); return 0;
    case 'v': a->validation_bytes = number(state, arg, 1, INT32_MAX); return 0;
    case 'S': a->small = 1; return 0;
    case 'g':
        if (strcmp(arg, "identity") && strcmp(arg, "clamp"))
            argp_failure(state, 2, 0, "--gradient '%s': the choices are identity, clamp", arg);
        a->gradient = strcmp(arg, "clamp") ? NIB_FAKE_IDENTITY : NIB_FAKE_CLAMP;
        return 0;
    case 'l':
        a->rate = strtod(arg, &end);
        if (end == arg || *end || !(a->rate > 0 && a->rate <= 1))
            argp_failure(state, 2, 0, "--rate '%s' is not a number in (0, 1]", arg);
        return 0;
    case ARGP_KEY_ARG: argp_failure(state, 2, 0, "'%s' follows no option", arg); return 0;
    case ARGP_KEY_END:
        if (!a->text || !a->output) argp_failure(state, 2, 0, "--text and --output are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

/* A bare format stands for the whole training. */
static void schedule_read(const char *text, nib_schedule *schedule)
{
    char whole[128];
    const int is_list = strchr(text, ':') || !strcmp(text, "progressive");
    if (snprintf(whole, sizeof whole, is_list ? "%s" : "%s:1", text) >= (int)sizeof whole)
        qat_die("the schedule '%s' is too long", text);
    if (nib_schedule_parse(whole, schedule) != NIB_OK) qat_die("--run: %s", nib_last_error());
}

int main(int argc, char **argv)
{
    qat_arguments a = { .run = "none", .seed = 1, .steps = 1000, .rate = 3e-3,
                    .sequences = QAT_SEQUENCES, .validation_bytes = 131072 };
    const struct argp parser = { options, parse, NULL,
                                 "Trains a small Llama on a text, with or without fake-quantize.",
                                 NULL, NULL, NULL };
    argp_err_exit_status = 2;
    argp_parse(&parser, argc, argv, 0, NULL, &a);
    openblas_set_num_threads(1);

    qat_run r = { .a = &a, .curve = json_array() };
    nib_device *device;
    const nib_device_options cpu = { .size = sizeof cpu, .backend = NIB_BACKEND_CPU };
    if (nib_device_open(&cpu, &device) != NIB_OK) qat_die("%s", nib_last_error());
    r.exec = (nib_exec){ .size = sizeof r.exec, .device = device, .threads = 1 };
    schedule_read(a.run, &r.schedule);
    const qat_shape *shape = a.small ? &small : &usual;
    if (!qat_model_make(shape, QAT_SEQUENCES, &r.m)) qat_die("no memory for the model");
    qat_text_read(a.text, QAT_SEQUENCES * shape->context + 1, &r.text);
    r.tokens = malloc((size_t)(QAT_SEQUENCES * (shape->context + 1)));
    if (!r.tokens) qat_die("no memory for a batch");
    if (a.from) qat_model_read(a.from, &r.m);
    else qat_model_init(&r.m, (uint64_t)a.seed);

    qat_train(&r);
    if (a.model) qat_model_write(&r.m, a.model);
    qat_result_write(&r);

    json_decref(r.curve);
    free(r.tokens);
    qat_text_free(&r.text);
    qat_model_free(&r.m);
    nib_device_close(device);
    return 0;
}
