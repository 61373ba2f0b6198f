/* nibble_compare.c: `nibble compare`. */
#include <argp.h>
#include <string.h>

#include "nibble_tool.h"

typedef struct compare_args {
    const char *model[2], *json;
    int         count, threads, quiet;
} compare_args;

static const struct argp_option options[] = {
    { "json", 'j', "FILE", 0, "Write the figures as JSON, - for standard output", 0 },
    { "threads", 't', "N", 0, "Threads; 0, the default: all", 0 },
    { "quiet", 'q', NULL, 0, "No progress", 0 },
    { 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    compare_args *a = state->input;
    const char *me = "nibble compare";
    switch (key) {
    case 'j': a->json = arg; return 0;
    case 't': a->threads = (int)nibble_number(me, "--threads", arg, 0, 1024); return 0;
    case 'q': a->quiet = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->count == 2) nibble_usage(me, "two models, but '%s' follows", arg);
        a->model[a->count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->count != 2) nibble_usage(me, "two models are needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static void print_summary(const compare_args *a, const nib_checkpoint_report *r)
{
    uint64_t equal = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        nib_tensor_report *t = &r->tensors[i];
        t->quantized = t->error.sum_sq_error > 0 || t->error.nonfinite > 0;
        equal += !t->quantized;
    }
    printf("%s against %s: %llu tensors, %llu of them equal\n", a->model[1], a->model[0],
           (unsigned long long)r->n_tensors, (unsigned long long)equal);
    if (equal < r->n_tensors) nibble_print_errors(stdout, r, "differing");
    if (r->nonfinite)
        printf("%llu elements differ where one of them is NaN or Inf.\n",
               (unsigned long long)r->nonfinite);
}

int nibble_compare_main(int argc, char **argv)
{
    compare_args a = { 0 };
    const struct argp argp = { options, parse, "A B",
                               "Decodes the tensors of two models, in any of the layouts that "
                               "nibble reads, and prints how far B's are from A's.",
                               NULL, NULL, NULL };
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (nibble_check_json(a.json, &(nibble_reads){ .models = { a.model[0], a.model[1] } }))
        return 1;
    nib_device *device;
    nib_exec exec;
    nibble_open_cpu(a.threads, &device, &exec);
    nibble_catch_signals();
    nibble_meter meter;
    nibble_meter_start(&meter, "compare", a.quiet);
    const nib_checkpoint_options o = { .size = sizeof o, .progress = nibble_meter_show,
                                       .user = &meter, .cancel = &nibble_stopped };
    nib_checkpoint_report *r;
    const nib_status status = nib_checkpoint_compare(&exec, a.model[0], a.model[1], &o, &r);
    nibble_meter_end(&meter);
    nib_device_close(device);
    if (status != NIB_OK) return nibble_failed(NULL);
    int failed = 0;
    if (a.json) failed = nibble_write_json(a.json, "compare", r, a.model[0], a.model[1]);
    if (!a.json || strcmp(a.json, "-")) print_summary(&a, r);
    nib_checkpoint_report_free(r);
    return failed;
}
