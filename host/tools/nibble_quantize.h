/* nibble_quantize.h: what `nibble quantize` and `nibble gptq` share: options, and the run. */
#ifndef NIBBLE_QUANTIZE_TOOL_H
#define NIBBLE_QUANTIZE_TOOL_H

#include <argp.h>

#include "nibble_tool.h"

typedef struct nibble_quantize_args {
    const char  *me;                        /* "nibble quantize" */
    const char  *src, *dst, *json, *format, *rules;
    const char **include, **exclude;
    const char  *block_text;                /* --block's, or NULL */
    int          export_as, threads, quiet; /* export_as: -1 when not given */
    int          asymmetric;
    int          by_gptq;                   /* o.gptq = &gptq */
    const char  *gptq_option;               /* the first of GPTQ's own that was given, or NULL */
    const char  *policy;                    /* its file, or NULL */
    const char  *line_option;               /* the first given of what a policy's lines say */
    nib_checkpoint_options  o;
    nib_checkpoint_gptq     gptq;           /* factor is below */
    nib_gptq_factor_options factor;
} nibble_quantize_args;

/* Zeros and defaults. Room for every argument that could be a pattern; 0: no memory. */
int  nibble_quantize_defaults(nibble_quantize_args *args, const char *me, int argc);
void nibble_quantize_free(nibble_quantize_args *args);

/* Parsers for argp_child, whose input is nibble_quantize_args: the source, where it goes, which
 * tensors, how it runs (nibble_checkpoint.c); and GPTQ's options (nibble_gptq.c). The parent's
 * options stand in the groups NIBBLE_*. */
extern const struct argp nibble_checkpoint_argp, nibble_gptq_argp;
enum { NIBBLE_MADE = 1, NIBBLE_WHICH, NIBBLE_ARITHMETIC, NIBBLE_GPTQ, NIBBLE_RUNS };

/* Keys of options without a letter. */
enum { OPT_EXPORT = 256, OPT_RULES, OPT_CHOICE, OPT_INCLUDE, OPT_EXCLUDE, OPT_RESUME, OPT_DRY,
       OPT_COUNTS, OPT_METHOD, OPT_BLOCK, OPT_ROUNDING, OPT_SEED, OPT_NONFINITE, OPT_KEEP,
       OPT_FILE_SIZE, OPT_SHARD, OPT_HESSIANS, OPT_ORDER, OPT_SCALES, OPT_DAMPING, OPT_REAL,
       OPT_INPUTS, OPT_ROTATE, OPT_POLICY, OPT_ASYMMETRIC };

/* Carries out what was parsed, prints and writes; the exit status. */
int nibble_quantize_run(nibble_quantize_args *args);

/* What GPTQ did: a few lines, or a row for each layer. */
void nibble_print_gptq(FILE *out, const nib_checkpoint_report *report);
void nibble_print_layers(FILE *out, const nib_checkpoint_report *report);

#endif
