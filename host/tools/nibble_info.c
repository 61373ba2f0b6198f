/* nibble_info.c: `nibble info`. */
#include <argp.h>
#include <string.h>

#include "nibble_tool.h"

typedef struct info_args {
    const char *path, *json;
    int         all;
} info_args;

static const struct argp_option options[] = {
    { "json", 'j', "FILE", 0, "Write the list as JSON, - for standard output", 0 },
    { "all", 'a', NULL, 0, "List every tensor, not only a line for each layer type", 0 },
    { 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    info_args *a = state->input;
    switch (key) {
    case 'j': a->json = arg; return 0;
    case 'a': a->all = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->path) nibble_usage("nibble info", "one model at a time, but '%s' follows", arg);
        a->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->path || !*a->path) nibble_usage("nibble info", "a model is missing");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static int same_line(const nib_tensor_report *a, const nib_tensor_report *b)
{
    return !strcmp(a->layer_type, b->layer_type) && !strcmp(a->stored_type, b->stored_type)
        && a->n_dims == b->n_dims && !memcmp(a->dims, b->dims, sizeof a->dims);
}

/* Columns of the longest type, "INT8-CHANNEL-ASYM" say. */
static int type_width(const nib_checkpoint_report *r)
{
    size_t width = 10;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const size_t n = strlen(r->tensors[i].stored_type);
        if (n > width) width = n;
    }
    return (int)width;
}

/* Tensors of one layer type, type and shape share a line. */
static void print_types(const nib_checkpoint_report *r)
{
    const int width = type_width(r);
    printf("  %-20s %-*s %-16s %7s  %10s\n", "layer type", width, "stored as", "dims", "tensors",
           "bytes");
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        int seen = 0;
        uint64_t n = 0, bytes = 0;
        for (uint64_t j = 0; j < i && !seen; j++) seen = same_line(&r->tensors[i], &r->tensors[j]);
        for (uint64_t j = i; j < r->n_tensors && !seen; j++) {
            if (!same_line(&r->tensors[i], &r->tensors[j])) continue;
            n++;
            bytes += r->tensors[j].stored_bytes;
        }
        if (!seen)
            printf("  %-20s %-*s %-16s %7llu  %10s\n", r->tensors[i].layer_type, width,
                   r->tensors[i].stored_type, nibble_dims(&r->tensors[i]), (unsigned long long)n,
                   nibble_bytes((double)bytes));
    }
}

static void print_tensors(const nib_checkpoint_report *r)
{
    const int width = type_width(r);
    for (uint64_t i = 0; i < r->n_tensors; i++)
        printf("  %-*s %-16s %10s  %s\n", width, r->tensors[i].stored_type,
               nibble_dims(&r->tensors[i]), nibble_bytes((double)r->tensors[i].stored_bytes),
               r->tensors[i].name);
}

int nibble_info_main(int argc, char **argv)
{
    info_args a = { 0 };
    const struct argp argp = { options, parse, "MODEL",
                               "Lists the tensors of a Hugging Face folder, a safetensors file or "
                               "a GGUF file. A quantized weight and its scales are one tensor.",
                               NULL, NULL, NULL };
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (nibble_check_json(a.json, &(nibble_reads){ .models = { a.path } })) return 1;
    nib_checkpoint_report *r;
    if (nib_checkpoint_info(a.path, &r) != NIB_OK) return nibble_failed(NULL);
    int status = 0;
    double weights = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++) weights += (double)r->tensors[i].elements;
    if (a.json) status = nibble_write_json(a.json, "info", r, a.path, NULL);
    if (!a.json || strcmp(a.json, "-")) {
        printf("%s: %llu tensors, %.4g weights, %s, %.2f bits per weight\n", a.path,
               (unsigned long long)r->n_tensors, weights, nibble_bytes((double)r->source_bytes),
               weights > 0 ? 8 * (double)r->source_bytes / weights : 0);
        if (a.all) print_tensors(r);
        else print_types(r);
    }
    nib_checkpoint_report_free(r);
    return status;
}
