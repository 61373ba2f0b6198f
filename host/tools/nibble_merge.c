/* nibble_merge.c: `nibble merge`. */
#include <argp.h>
#include <stdlib.h>

#include "nibble_tool.h"

typedef struct merge_args {
    const char **parts;
    size_t       count;
    const char  *dst;
    int          force;
} merge_args;

static const struct argp_option options[] = {
    { "output", 'o', "DST", 0, "Where the whole goes", 0 },
    { "force", 'f', NULL, 0, "Replace what stands there", 0 },
    { 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    merge_args *a = state->input;
    switch (key) {
    case 'o': a->dst = arg; return 0;
    case 'f': a->force = 1; return 0;
    case ARGP_KEY_ARG: a->parts[a->count++] = arg; return 0;
    case ARGP_KEY_END:
        if (!a->count) nibble_usage("nibble merge", "no parts are given");
        if (!a->dst) nibble_usage("nibble merge", "-o DST is missing");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int nibble_merge_main(int argc, char **argv)
{
    merge_args a = { .parts = calloc((size_t)argc + 1, sizeof *a.parts) };
    const struct argp argp = { options, parse, "PART...",
                               "Joins the parts that `nibble quantize --shard I/N` wrote, all N of "
                               "them in any order. The parts stay as they are.",
                               NULL, NULL, NULL };
    if (!a.parts) return 1;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    const nib_status status = nib_checkpoint_merge(a.parts, a.count, a.dst, a.force);
    if (status == NIB_OK) printf("%s: merged from %zu parts\n", a.dst, a.count);
    free(a.parts);
    return status == NIB_OK ? 0 : nibble_failed(NULL);
}
