/* nibble_checkpoint.c: the options and the run that `nibble quantize` and `nibble gptq` share. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "host/io/guard.h"
#include "nibble_quantize.h"

/* ---- options ---- */

static const struct argp_option options[] = {
    { NULL, 0, NULL, 0, "What is made:", NIBBLE_MADE },
    { "output", 'o', "DST", 0, "Folder, or file for GGUF, that is made", NIBBLE_MADE },
    { "format", 'F', "NAME", 0, "nvfp4 (default), mxfp4, int4 or int8", NIBBLE_MADE },
    { "export", OPT_EXPORT, "NAME", 0, "modelopt (nvfp4), compressed-tensors (all formats) or gguf "
      "(nvfp4, mxfp4). Default: gguf if DST ends in .gguf, else modelopt for nvfp4 and "
      "compressed-tensors for the others. A folder made of a bare safetensors file has no "
      "config.json, without which runtimes do not load it", NIBBLE_MADE },
    { NULL, 0, NULL, 0, "Which tensors:", NIBBLE_WHICH },
    { "include", OPT_INCLUDE, "PATTERN", 0, "Quantize just the matrices whose name matches "
      "(*, ?, [...]; may be repeated); embeddings in GGUF alone. Default: linear layers without "
      "lm_head and routers",
      NIBBLE_WHICH },
    { "exclude", OPT_EXCLUDE, "PATTERN", 0, "Keep what matches as it is; wins over --include",
      NIBBLE_WHICH },
    { NULL, 0, NULL, 0, "Arithmetic:", NIBBLE_ARITHMETIC },
    { "rules", OPT_RULES, "NAME", 0, "te, modelopt, compressed-tensors, ocp or gguf: whose "
      "rounding to follow to the bit, but that --export compressed-tensors takes F16 weights as "
      "F32, in which nothing overflows. Default: the export's own. Not of int4 and int8",
      NIBBLE_ARITHMETIC },
    { "scale-choice", OPT_CHOICE, "NAME", 0, "amax (default), mse, mse-full, four-over-six-mse or "
      "four-over-six-mae; of int4 and int8 amax alone", NIBBLE_ARITHMETIC },
    { "block", OPT_BLOCK, "N", 0, "Elements that share a scale, if not the format's own; of int4 "
      "and int8 those that share a step, a multiple of 8 (128), or `channel': the row. Where "
      "--format's name has one, as int4-b64, it is to be the same",
      NIBBLE_ARITHMETIC },
    { "asymmetric", OPT_ASYMMETRIC, NULL, 0, "int4 and int8: with zero points", NIBBLE_ARITHMETIC },
    { NULL, 0, NULL, 0, "How it runs:", NIBBLE_RUNS },
    { "threads", 't', "N", 0, "Threads; 0, the default: all. The bytes are the same", NIBBLE_RUNS },
    { "dry-run", OPT_DRY, NULL, 0, "Say what would be made; read no weights, write nothing",
      NIBBLE_RUNS },
    { "resume", OPT_RESUME, NULL, 0, "Go on where a stopped run with the same arguments was",
      NIBBLE_RUNS },
    { "force", 'f', NULL, 0, "Replace what stands under DST", NIBBLE_RUNS },
    { "json", 'j', "FILE", 0, "Write all figures as JSON, - for standard output; not in DST",
      NIBBLE_RUNS },
    { "counts", OPT_COUNTS, NULL, 0, "Count the uses of codes and scales for --json",
      NIBBLE_RUNS },
    { "quiet", 'q', NULL, 0, "No progress and no summary", NIBBLE_RUNS },
    { 0 },
};

static const nibble_choice exports[] = { { "modelopt", NIB_EXPORT_MODELOPT },
    { "compressed-tensors", NIB_EXPORT_COMPRESSED_TENSORS }, { "gguf", NIB_EXPORT_GGUF },
    { NULL, 0 } };
static const nibble_choice choices[] = { { "amax", NIB_SCALE_AMAX }, { "mse", NIB_SCALE_MSE },
    { "mse-full", NIB_SCALE_MSE_FULL }, { "four-over-six-mse", NIB_SCALE_FOUR_OVER_SIX_MSE },
    { "four-over-six-mae", NIB_SCALE_FOUR_OVER_SIX_MAE }, { NULL, 0 } };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    nibble_quantize_args *a = state->input;
    nib_checkpoint_options *o = &a->o;
    switch (key) {
    case 'o': a->dst = arg; return 0;
    case 'F': a->format = arg, a->line_option = "--format"; return 0;
    case OPT_EXPORT: a->export_as = nibble_choose(a->me, "--export", arg, exports); return 0;
    case OPT_RULES: a->rules = arg, a->line_option = "--rules"; return 0;
    case OPT_CHOICE:
        o->scale_choice = (nib_scale_choice)nibble_choose(a->me, "--scale-choice", arg, choices);
        a->line_option = "--scale-choice";
        return 0;
    case OPT_INCLUDE:
        a->include[o->n_include++] = arg;
        a->line_option = "--include";
        return 0;
    case OPT_BLOCK:
        a->block_text = arg;
        a->line_option = "--block";
        return 0;
    case OPT_ASYMMETRIC: a->asymmetric = 1, a->line_option = "--asymmetric"; return 0;
    case OPT_EXCLUDE: a->exclude[o->n_exclude++] = arg; return 0;
    case 't': a->threads = (int)nibble_number(a->me, "--threads", arg, 0, 1024); return 0;
    case OPT_DRY: o->dry_run = 1; return 0;
    case OPT_COUNTS: o->counts = 1; return 0;
    case OPT_RESUME: o->resume = 1; return 0;
    case 'f': o->force = 1; return 0;
    case 'j': a->json = arg; return 0;
    case 'q': a->quiet = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->src) nibble_usage(a->me, "one model at a time, but '%s' follows", arg);
        a->src = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->src || !*a->src) nibble_usage(a->me, "a model is missing");
        if ((!a->dst || !*a->dst) && !o->dry_run) nibble_usage(a->me, "-o DST is missing");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

const struct argp nibble_checkpoint_argp = { options, parse, NULL, NULL, NULL, NULL, NULL };

int nibble_quantize_defaults(nibble_quantize_args *a, const char *me, int argc)
{
    *a = (nibble_quantize_args){
        .me = me, .format = "nvfp4", .export_as = -1,
        .include = calloc((size_t)argc, sizeof *a->include),
        .exclude = calloc((size_t)argc, sizeof *a->exclude),
        .o = { .size = sizeof a->o, .keep_dtype = NIB_BF16 },
        .gptq = { .size = sizeof a->gptq, .scales = NIB_GPTQ_SCALES_BY_FORMAT },
        .factor = { .size = sizeof a->factor, .order = NIB_GPTQ_ACT } };
    a->gptq.factor = &a->factor;
    return a->include && a->exclude;
}

void nibble_quantize_free(nibble_quantize_args *a)
{
    free(a->include);
    free(a->exclude);
}

static int ends_with(const char *text, const char *tail)
{
    const size_t n = strlen(text), m = strlen(tail);
    return n >= m && !strcmp(text + n - m, tail);
}

/* Of those that ModelOpt does not have and compressed-tensors does. */
static int is_for_compressed_tensors(nib_format f)
{
    return f == NIB_MXFP4 || nib_int_format_is_valid(f);
}

/* Whether the format, or that of some line of the policy, is such a one. */
static int has_other_formats(const nib_checkpoint_options *o)
{
    if (!o->policy) return is_for_compressed_tensors(o->format);
    for (int32_t i = 0; i < nib_policy_count(o->policy); i++) {
        nib_policy_line line = { .size = sizeof line };
        if (nib_policy_get(o->policy, i, &line) == NIB_OK
            && is_for_compressed_tensors(line.format))
            return 1;
    }
    return 0;
}

/* What --block says: elements, 0 for the row. */
static int block_of(const nibble_quantize_args *a, int is_integer)
{
    const char *text = a->block_text;
    if (!strcmp(text, "channel") && is_integer) return 0;
    if (!strcmp(text, "channel"))
        nibble_usage(a->me, "--block channel is of int4 and int8; of %s the choices are 8, 16, "
                     "32, 64, 128", a->format);
    if (*text < '0' || *text > '9')
        nibble_usage(a->me, is_integer ? "--block '%s': of %s a multiple of 8, or channel"
                                       : "--block '%s': of %s the choices are 8, 16, 32, 64, 128",
                     text, a->format);
    return (int)nibble_number(a->me, "--block", text, 1, 1 << 24);
}

/* Refuses a --block other than the one that the name in --format says: "int4-b64", "nvfp4-b32". */
static void check_block(const nibble_quantize_args *a, int64_t block, int64_t own)
{
    const int named = strstr(a->format, "-b") || strstr(a->format, "-channel")
                   || strchr(a->format, '/');
    if (named && block != own)
        nibble_usage(a->me, "--block %s is not what --format %s says; leave out one of both",
                     a->block_text, a->format);
}

/* The format with the group and zero points that other options say. */
static void settle_integers(nibble_quantize_args *a)
{
    nib_format *f = &a->o.format;
    if (a->rules || a->o.scale_choice != NIB_SCALE_AMAX)
        nibble_usage(a->me, "%s is of formats with scales; %s has steps, which the range gives",
                     a->rules ? "--rules" : "--scale-choice", a->format);
    const int64_t group = a->block_text ? block_of(a, 1) : nib_int_format_group(*f);
    check_block(a, group, nib_int_format_group(*f));
    const int32_t asymmetric = a->asymmetric || nib_int_format_asymmetric(*f);
    *f = nib_int_format_make(nib_int_format_element(*f), group, asymmetric);
    if (!nib_int_format_is_valid(*f))
        nibble_usage(a->me, "--block %s: of %s a multiple of 8, or channel", a->block_text,
                     a->format);
}

/* Options that depend on each other. */
static void settle(nibble_quantize_args *a, nib_rules *rules)
{
    nib_checkpoint_options *o = &a->o;
    if (nib_int_format_from_name(a->format, &o->format) == NIB_OK) settle_integers(a);
    else if (!strncasecmp(a->format, "int", 3)) /* and what its sentence says */
        nibble_usage(a->me, "--format: %s", nib_last_error());
    else if (nib_format_from_name(a->format, &o->format) != NIB_OK)
        nibble_usage(a->me, "--format '%s' is unknown; the exports hold nvfp4, mxfp4, int4 and "
                     "int8", a->format);
    else if (a->asymmetric)
        nibble_usage(a->me, "--asymmetric goes with --format int4 and int8");
    else if (a->block_text) {
        const int block = block_of(a, 0);
        check_block(a, block, nib_format_block(o->format));
        const nib_format f = nib_format_make(nib_format_element(o->format),
                                             nib_format_scale(o->format), block,
                                             nib_format_has_tensor_scale(o->format));
        if (!nib_format_is_valid(f))
            nibble_usage(a->me, "--block %d: the choices are 8, 16, 32, 64, 128", block);
        o->format = f;
    }
    const int to_gguf = a->dst && ends_with(a->dst, ".gguf");
    o->export_as = a->export_as >= 0 ? (nib_export)a->export_as
                 : to_gguf           ? NIB_EXPORT_GGUF
                 : has_other_formats(o) ? NIB_EXPORT_COMPRESSED_TENSORS : NIB_EXPORT_MODELOPT;
    if (a->rules) {
        nib_rules_preset preset;
        if (nib_rules_preset_from_name(a->rules, &preset) != NIB_OK
            || nib_rules_fill(preset, o->format, rules) != NIB_OK)
            nibble_usage(a->me, "--rules: %s", nib_last_error());
        o->rules = rules;
    }
    o->include = a->include;
    o->exclude = a->exclude;
    o->gptq = a->by_gptq ? &a->gptq : NULL;
}

/* ---- what is said ---- */

/* A file of this name is "./default". */
static int is_default(const char *policy) { return !strcmp(policy, "default"); }

static void print_overflow(const nib_checkpoint_report *r)
{
    const char *first = NULL;
    uint64_t n = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++)
        if (nibble_overflowed(&r->tensors[i].error) && !n++) first = r->tensors[i].name;
    if (n)
        printf("  overflow         %llu tensors hold Inf where the weights are finite, first %s\n",
               (unsigned long long)n, first);
}

/* What only the source could have. */
static void print_config(const nibble_quantize_args *a)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", a->dst);
    if (a->o.export_as != NIB_EXPORT_GGUF && !a->o.shards && access(path, F_OK))
        puts("  config.json      none, as beside the source: runtimes do not load this as it is");
}

static void print_summary(const nibble_quantize_args *a, const nib_checkpoint_report *r)
{
    char format[48];
    double weights = 0, quantized_weights = 0, quantized_bytes = 0;
    uint64_t n_quantized = 0, n_fused = 0, n_others = 0;
    const char *other = NULL; /* a matrix that the default does not take, for its name */
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const nib_tensor_report *t = &r->tensors[i];
        weights += (double)t->elements;
        n_fused += !t->quantized && t->n_dims == 3 && strstr(t->name, "experts");
        if (!t->quantized && t->n_dims == 2 && !a->o.n_include && !ends_with(t->name, ".weight")
            && !n_others++)
            other = t->name;
        if (!t->quantized) continue;
        n_quantized++;
        quantized_weights += (double)t->elements;
        quantized_bytes += (double)t->stored_bytes;
    }
    if (r->gptq && a->gptq.all && !a->o.dry_run) nibble_print_layers(stdout, r);
    if (nib_format_name(a->o.format, format, sizeof format) != NIB_OK
        && nib_int_format_name(a->o.format, format, sizeof format) != NIB_OK)
        format[0] = '\0';
    if (a->policy) snprintf(format, sizeof format, "by policy");
    printf("%s%s: %s, %s\n", a->o.dry_run ? "would make " : "", a->dst ? a->dst : "output",
           format, exports[a->o.export_as].name);
    printf("  tensors          %llu, %llu of them quantized\n", (unsigned long long)r->n_tensors,
           (unsigned long long)n_quantized);
    printf("  bytes            %s -> %s\n", nibble_bytes((double)r->source_bytes),
           nibble_bytes((double)r->stored_bytes));
    if (quantized_weights > 0)
        printf("  bits per weight  %.3f in quantized tensors, %.3f over all\n",
               8 * quantized_bytes / quantized_weights, 8 * (double)r->stored_bytes / weights);
    else
        printf("  bits per weight  %.3f; no tensor is quantized\n",
               weights > 0 ? 8 * (double)r->stored_bytes / weights : 0);
    if (n_fused)
        printf("  fused experts    %llu tensors kept: [experts, in, out], blocks would run along "
               "the output\n", (unsigned long long)n_fused);
    if (n_others)
        printf("  no .weight       %llu matrices kept, first %s; --include takes them\n",
               (unsigned long long)n_others, other);
    if (r->gptq) nibble_print_gptq(stdout, r);
    if (a->o.dry_run) {
        if (a->policy && is_default(a->policy))
            printf("\nThe default policy:\n%s", nib_policy_export_text());
        return;
    }
    print_config(a);
    printf("  time             %.2f s, of them %.2f s writing\n", r->seconds, r->seconds_write);
    if (r->nonfinite)
        printf("  NaN and Inf      %llu, by the rules\n", (unsigned long long)r->nonfinite);
    print_overflow(r);
    if (r->gptq && !a->gptq.all)
        puts("GPTQ moves outputs less than plain rounding and weights more; these are weights.");
    if (!a->gptq.all) nibble_print_errors(stdout, r, "quantized");
    if (r->source_quantized)
        puts("Note: the source held these weights in 4- to 8-bit blocks already. The errors above "
             "are\nagainst those blocks, not against the model they were made from.");
}

static int finish(const nibble_quantize_args *a, nib_status status, nib_checkpoint_report *r)
{
    if (status == NIB_ERR_CANCELLED) {
        fprintf(stderr, "nibble: stopped; the same command with --resume goes on (%s)\n",
                nib_last_error());
        return 1;
    }
    if (status != NIB_OK) return nibble_failed(NULL);
    const char *command = strchr(a->me, ' ') + 1;
    int failed = 0;
    if (a->json) failed = nibble_write_json(a->json, command, r, a->src, a->dst);
    if (!a->quiet && (!a->json || strcmp(a->json, "-"))) print_summary(a, r);
    nib_checkpoint_report_free(r);
    return failed;
}

static nib_status open_policy(const char *name, nib_policy **policy)
{
    const char *text = nib_policy_export_text();
    return is_default(name) ? nib_policy_parse("the default policy", text, strlen(text), policy)
                            : nib_policy_open(name, policy);
}

/* The library guards what it reads; a policy was read by the tool. */
static int replaces_policy(const nibble_quantize_args *a, const char *path)
{
    if (!path || !strcmp(path, "-") || is_default(a->policy)
        || !nib_path_is_within(path, a->policy))
        return 0;
    fprintf(stderr, "nibble: %s: is not replaced: %s, the policy, is it or lies in it\n", path,
            a->policy);
    return 1;
}

int nibble_quantize_run(nibble_quantize_args *a)
{
    nib_rules rules;
    nib_device *device;
    nib_exec exec;
    nibble_meter meter;
    nib_checkpoint_report *r = NULL;
    nib_policy *policy = NULL;
    if (a->policy && open_policy(a->policy, &policy) != NIB_OK) return nibble_failed(NULL);
    a->o.policy = policy;
    settle(a, &rules);
    if (nibble_check_json(a->json, &(nibble_reads){ { a->src }, a->gptq.hessians, a->gptq.inputs,
                                                    a->dst })
        || (policy && (replaces_policy(a, a->dst) || replaces_policy(a, a->json)))) {
        nib_policy_close(policy);
        return 1;
    }
    nibble_open_cpu(a->threads, &device, &exec);
    nibble_catch_signals();
    nibble_meter_start(&meter, strchr(a->me, ' ') + 1, a->quiet);
    a->o.progress = nibble_meter_show;
    a->o.user = &meter;
    a->o.cancel = &nibble_stopped;
    const nib_status status = nib_checkpoint_quantize(&exec, a->src, a->dst, &a->o, &r);
    nibble_meter_end(&meter);
    nib_device_close(device);
    nib_policy_close(policy);
    return finish(a, status, r);
}
