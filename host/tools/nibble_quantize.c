/* nibble_quantize.c: `nibble quantize`. */
#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "nibble_tool.h"

static const char me[] = "nibble quantize";

typedef struct quantize_args {
    const char  *src, *dst, *json, *format, *rules;
    const char **include, **exclude;
    int          export_as, block, threads, quiet; /* export_as, block: -1 when not given */
    nib_checkpoint_options o;
} quantize_args;

enum { OPT_EXPORT = 256, OPT_METHOD, OPT_RULES, OPT_CHOICE, OPT_BLOCK, OPT_ROUNDING, OPT_SEED,
       OPT_NONFINITE, OPT_KEEP, OPT_INCLUDE, OPT_EXCLUDE, OPT_FILE_SIZE, OPT_SHARD, OPT_RESUME,
       OPT_DRY, OPT_COUNTS };

static const struct argp_option options[] = {
    { NULL, 0, NULL, 0, "What is made:", 1 },
    { "output", 'o', "DST", 0, "Folder, or file for GGUF, that is made", 1 },
    { "format", 'F', "NAME", 0, "nvfp4 (default) or mxfp4", 1 },
    { "export", OPT_EXPORT, "NAME", 0, "modelopt, compressed-tensors or gguf. Default: gguf if "
      "DST ends in .gguf, else modelopt for nvfp4 and compressed-tensors for mxfp4", 1 },
    { "keep-dtype", OPT_KEEP, "NAME", 0, "f32, f16 or bf16 (default): what unquantized tensors "
      "become that come as GGUF blocks and leave for a folder", 1 },
    { "max-file-size", OPT_FILE_SIZE, "BYTES", 0, "Start a new safetensors file above this "
      "(5G; suffixes k M G T)", 1 },
    { NULL, 0, NULL, 0, "Which tensors:", 2 },
    { "include", OPT_INCLUDE, "PATTERN", 0, "Quantize just the matrices whose name matches "
      "(*, ?, [...]; may be repeated). Default: linear layers without lm_head and routers", 2 },
    { "exclude", OPT_EXCLUDE, "PATTERN", 0, "Keep what matches as it is; wins over --include", 2 },
    { NULL, 0, NULL, 0, "Arithmetic:", 3 },
    { "method", OPT_METHOD, "NAME", 0, "rtn (round to nearest), the only one so far", 3 },
    { "rules", OPT_RULES, "NAME", 0, "te, modelopt, compressed-tensors, ocp or gguf: whose "
      "rounding to follow to the bit. Default: the export's own", 3 },
    { "scale-choice", OPT_CHOICE, "NAME", 0, "amax (default), mse, mse-full, four-over-six-mse or "
      "four-over-six-mae", 3 },
    { "block", OPT_BLOCK, "N", 0, "Elements that share a scale, if not the format's own", 3 },
    { "rounding", OPT_ROUNDING, "NAME", 0, "nearest (default) or stochastic", 3 },
    { "seed", OPT_SEED, "N", 0, "Seed of stochastic rounding (0)", 3 },
    { "nonfinite", OPT_NONFINITE, "NAME", 0, "refuse (default) models with NaN or Inf, or "
      "saturate: go on and count them", 3 },
    { NULL, 0, NULL, 0, "How it runs:", 4 },
    { "threads", 't', "N", 0, "Threads; 0, the default: all. The bytes are the same", 4 },
    { "shard", OPT_SHARD, "I/N", 0, "Make part I of N, for `nibble merge`", 4 },
    { "dry-run", OPT_DRY, NULL, 0, "Say what would be made; read no weights, write nothing", 4 },
    { "resume", OPT_RESUME, NULL, 0, "Go on where a stopped run with the same arguments was", 4 },
    { "force", 'f', NULL, 0, "Replace what stands under DST", 4 },
    { "json", 'j', "FILE", 0, "Write all figures as JSON, - for standard output", 4 },
    { "counts", OPT_COUNTS, NULL, 0, "Count the uses of codes and scales for --json", 4 },
    { "quiet", 'q', NULL, 0, "No progress and no summary", 4 },
    { 0 },
};

static const nibble_choice exports[] = { { "modelopt", NIB_EXPORT_MODELOPT },
    { "compressed-tensors", NIB_EXPORT_COMPRESSED_TENSORS }, { "gguf", NIB_EXPORT_GGUF },
    { NULL, 0 } };
static const nibble_choice methods[] = { { "rtn", 0 }, { NULL, 0 } };
static const nibble_choice choices[] = { { "amax", NIB_SCALE_AMAX }, { "mse", NIB_SCALE_MSE },
    { "mse-full", NIB_SCALE_MSE_FULL }, { "four-over-six-mse", NIB_SCALE_FOUR_OVER_SIX_MSE },
    { "four-over-six-mae", NIB_SCALE_FOUR_OVER_SIX_MAE }, { NULL, 0 } };
static const nibble_choice roundings[] = { { "nearest", NIB_ROUND_NEAREST },
    { "stochastic", NIB_ROUND_STOCHASTIC }, { NULL, 0 } };
static const nibble_choice nonfinites[] = { { "refuse", NIB_NONFINITE_REFUSE },
    { "saturate", NIB_NONFINITE_GO_ON }, { NULL, 0 } };
static const nibble_choice dtypes[] = { { "f32", NIB_F32 }, { "f16", NIB_F16 },
    { "bf16", NIB_BF16 }, { NULL, 0 } };

static void parse_shard(const char *text, nib_checkpoint_options *o)
{
    char first[16];
    const char *slash = strchr(text, '/');
    if (!slash || slash - text >= (long)sizeof first)
        nibble_usage(me, "--shard '%s' is not I/N, such as 1/3", text);
    snprintf(first, sizeof first, "%.*s", (int)(slash - text), text);
    o->shards = (int32_t)nibble_number(me, "N of --shard", slash + 1, 1, 1000000);
    o->shard = (int32_t)nibble_number(me, "I of --shard", first, 1, o->shards);
}

static error_t parse_arithmetic(int key, char *arg, quantize_args *a)
{
    nib_checkpoint_options *o = &a->o;
    switch (key) {
    case OPT_METHOD: nibble_choose(me, "--method", arg, methods); return 0;
    case OPT_RULES: a->rules = arg; return 0;
    case OPT_CHOICE:
        o->scale_choice = (nib_scale_choice)nibble_choose(me, "--scale-choice", arg, choices);
        return 0;
    case OPT_BLOCK: a->block = (int)nibble_number(me, "--block", arg, 1, 1024); return 0;
    case OPT_ROUNDING:
        o->rounding = (nib_rounding)nibble_choose(me, "--rounding", arg, roundings);
        return 0;
    case OPT_SEED: o->seed = (uint64_t)nibble_number(me, "--seed", arg, 0, INT64_MAX); return 0;
    case OPT_NONFINITE:
        o->nonfinite = (nib_nonfinite_policy)nibble_choose(me, "--nonfinite", arg, nonfinites);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    quantize_args *a = state->input;
    nib_checkpoint_options *o = &a->o;
    switch (key) {
    case 'o': a->dst = arg; return 0;
    case 'F': a->format = arg; return 0;
    case OPT_EXPORT: a->export_as = nibble_choose(me, "--export", arg, exports); return 0;
    case OPT_KEEP:
        o->keep_dtype = (nib_dtype)nibble_choose(me, "--keep-dtype", arg, dtypes);
        return 0;
    case OPT_FILE_SIZE:
        o->max_file_bytes = (uint64_t)nibble_number(me, "--max-file-size", arg, 1, INT64_MAX);
        return 0;
    case OPT_INCLUDE: a->include[o->n_include++] = arg; return 0;
    case OPT_EXCLUDE: a->exclude[o->n_exclude++] = arg; return 0;
    case 't': a->threads = (int)nibble_number(me, "--threads", arg, 0, 1024); return 0;
    case OPT_SHARD: parse_shard(arg, o); return 0;
    case OPT_DRY: o->dry_run = 1; return 0;
    case OPT_COUNTS: o->counts = 1; return 0;
    case OPT_RESUME: o->resume = 1; return 0;
    case 'f': o->force = 1; return 0;
    case 'j': a->json = arg; return 0;
    case 'q': a->quiet = 1; return 0;
    case ARGP_KEY_ARG:
        if (a->src) nibble_usage(me, "one model at a time, but '%s' follows", arg);
        a->src = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->src || !*a->src) nibble_usage(me, "a model is missing");
        if ((!a->dst || !*a->dst) && !o->dry_run) nibble_usage(me, "-o DST is missing");
        return 0;
    default: return parse_arithmetic(key, arg, a);
    }
}

static int ends_with(const char *text, const char *tail)
{
    const size_t n = strlen(text), m = strlen(tail);
    return n >= m && !strcmp(text + n - m, tail);
}

/* Options that depend on each other. */
static void settle(quantize_args *a, nib_rules *rules)
{
    nib_checkpoint_options *o = &a->o;
    if (nib_format_from_name(a->format, &o->format) != NIB_OK)
        nibble_usage(me, "--format '%s' is unknown; the exports hold nvfp4 and mxfp4", a->format);
    if (a->block >= 0) {
        const nib_format f = nib_format_make(nib_format_element(o->format),
                                             nib_format_scale(o->format), a->block,
                                             nib_format_has_tensor_scale(o->format));
        if (!nib_format_is_valid(f))
            nibble_usage(me, "--block %d: the choices are 8, 16, 32, 64, 128", a->block);
        o->format = f;
    }
    const int to_gguf = a->dst && ends_with(a->dst, ".gguf");
    o->export_as = a->export_as >= 0 ? (nib_export)a->export_as
                 : to_gguf           ? NIB_EXPORT_GGUF
                 : o->format == NIB_MXFP4 ? NIB_EXPORT_COMPRESSED_TENSORS : NIB_EXPORT_MODELOPT;
    if (a->rules) {
        nib_rules_preset preset;
        if (nib_rules_preset_from_name(a->rules, &preset) != NIB_OK
            || nib_rules_fill(preset, o->format, rules) != NIB_OK)
            nibble_usage(me, "--rules: %s", nib_last_error());
        o->rules = rules;
    }
    o->include = a->include;
    o->exclude = a->exclude;
}

static void print_summary(const quantize_args *a, const nib_checkpoint_report *r)
{
    char format[48];
    double weights = 0, quantized_weights = 0, quantized_bytes = 0;
    uint64_t n_quantized = 0, n_fused = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const nib_tensor_report *t = &r->tensors[i];
        weights += (double)t->elements;
        n_fused += !t->quantized && t->n_dims == 3 && strstr(t->name, "experts");
        if (!t->quantized) continue;
        n_quantized++;
        quantized_weights += (double)t->elements;
        quantized_bytes += (double)t->stored_bytes;
    }
    if (nib_format_name(a->o.format, format, sizeof format) != NIB_OK) format[0] = '\0';
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
    if (a->o.dry_run) return;
    printf("  time             %.2f s, of them %.2f s writing\n", r->seconds, r->seconds_write);
    if (r->nonfinite)
        printf("  NaN and Inf      %llu, by the rules\n", (unsigned long long)r->nonfinite);
    nibble_print_errors(stdout, r, "quantized");
    if (r->source_quantized)
        puts("Note: the source held these weights in 4- to 8-bit blocks already. The errors above "
             "are\nagainst those blocks, not against the model they were made from.");
}

static int finish(const quantize_args *a, nib_status status, nib_checkpoint_report *r)
{
    if (status == NIB_ERR_CANCELLED) {
        fprintf(stderr, "nibble: stopped; the same command with --resume goes on (%s)\n",
                nib_last_error());
        return 1;
    }
    if (status != NIB_OK) return nibble_failed(NULL);
    int failed = 0;
    if (a->json) failed = nibble_write_json(a->json, "quantize", r, a->src, a->dst);
    if (!a->quiet && (!a->json || strcmp(a->json, "-"))) print_summary(a, r);
    nib_checkpoint_report_free(r);
    return failed;
}

int nibble_quantize_main(int argc, char **argv)
{
    nib_rules rules;
    quantize_args a = { .format = "nvfp4", .export_as = -1, .block = -1,
                        .include = calloc((size_t)argc, sizeof *a.include),
                        .exclude = calloc((size_t)argc, sizeof *a.exclude),
                        .o = { .size = sizeof a.o, .keep_dtype = NIB_BF16 } };
    const struct argp argp = { options, parse, "MODEL",
                               "Quantizes a Hugging Face folder, a safetensors file or a GGUF file "
                               "and writes a complete checkpoint that runtimes load.\v"
                               "Output is written aside and renamed when it is whole and on disk.",
                               NULL, NULL, NULL };
    if (!a.include || !a.exclude) return 1;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    settle(&a, &rules);

    nib_device *device;
    nib_exec exec;
    nibble_open_cpu(a.threads, &device, &exec);
    nibble_catch_signals();
    nibble_meter meter;
    nibble_meter_start(&meter, "quantize", a.quiet);
    a.o.progress = nibble_meter_show;
    a.o.user = &meter;
    a.o.cancel = &nibble_stopped;
    nib_checkpoint_report *r = NULL;
    const nib_status status = nib_checkpoint_quantize(&exec, a.src, a.dst, &a.o, &r);
    nibble_meter_end(&meter);
    nib_device_close(device);
    const int code = finish(&a, status, r);
    free(a.include);
    free(a.exclude);
    return code;
}
