/* nibble_quantize.c: `nibble quantize`. */
#include <string.h>

#include "nibble_quantize.h"

static const struct argp_option options[] = {
    { "keep-dtype", OPT_KEEP, "NAME", 0, "f32, f16 or bf16 (default): what unquantized tensors "
      "become that come as GGUF blocks and leave for a folder, and steps of int4 and int8 there",
      NIBBLE_MADE },
    { "max-file-size", OPT_FILE_SIZE, "BYTES", 0, "Start a new safetensors file above this "
      "(5G; suffixes k M G T)", NIBBLE_MADE },
    { "method", OPT_METHOD, "NAME", 0, "rtn (round to nearest, the default) or gptq, which needs "
      "--hessians", NIBBLE_ARITHMETIC },
    { "rounding", OPT_ROUNDING, "NAME", 0, "nearest (default) or stochastic", NIBBLE_ARITHMETIC },
    { "seed", OPT_SEED, "N", 0, "Seed of stochastic rounding (0)", NIBBLE_ARITHMETIC },
    { "nonfinite", OPT_NONFINITE, "NAME", 0, "refuse (default) models with NaN or Inf, or "
      "saturate: go on and count them", NIBBLE_ARITHMETIC },
    { "policy", OPT_POLICY, "FILE", 0, "Format by tensor: \"default\" (what --format nvfp4 takes, "
      "MLP and experts by mse; its lines are printed by --dry-run; a file of that name is "
      "./default), or a file with lines of PATTERN FORMAT (nvfp4, int4-b64-asym, "
      "int8-channel, ...), or keep for FORMAT, then if wanted scale choice and rules. The first "
      "line that matches a matrix decides; what none matches is kept. --exclude wins; not with "
      "--format, --block, --asymmetric, --include, --rules or --scale-choice", NIBBLE_WHICH },
    { "shard", OPT_SHARD, "I/N", 0, "Make part I of N, for `nibble merge`", NIBBLE_RUNS },
    { 0 },
};

static const nibble_choice methods[] = { { "rtn", 0 }, { "gptq", 1 }, { NULL, 0 } };
static const nibble_choice roundings[] = { { "nearest", NIB_ROUND_NEAREST },
    { "stochastic", NIB_ROUND_STOCHASTIC }, { NULL, 0 } };
static const nibble_choice nonfinites[] = { { "refuse", NIB_NONFINITE_REFUSE },
    { "saturate", NIB_NONFINITE_GO_ON }, { NULL, 0 } };
static const nibble_choice dtypes[] = { { "f32", NIB_F32 }, { "f16", NIB_F16 },
    { "bf16", NIB_BF16 }, { NULL, 0 } };

static void parse_shard(const char *me, const char *text, nib_checkpoint_options *o)
{
    char first[16];
    const char *slash = strchr(text, '/');
    if (!slash || slash - text >= (long)sizeof first)
        nibble_usage(me, "--shard '%s' is not I/N, such as 1/3", text);
    snprintf(first, sizeof first, "%.*s", (int)(slash - text), text);
    o->shards = (int32_t)nibble_number(me, "N of --shard", slash + 1, 1, 1000000);
    o->shard = (int32_t)nibble_number(me, "I of --shard", first, 1, o->shards);
}

static void check_method(const nibble_quantize_args *a)
{
    if (a->by_gptq && !a->gptq.hessians)
        nibble_usage(a->me, "--method gptq needs --hessians PATH; `nibble gptq` also makes them "
                     "of inputs");
    if (!a->by_gptq && a->gptq_option)
        nibble_usage(a->me, "%s goes with --method gptq", a->gptq_option);
    if (a->by_gptq && a->o.rounding != NIB_ROUND_NEAREST)
        nibble_usage(a->me, "--method gptq rounds to nearest; --rounding stochastic goes with rtn");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    nibble_quantize_args *a = state->input;
    nib_checkpoint_options *o = &a->o;
    const char *me = a->me;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = state->child_inputs[1] = a; return 0;
    case OPT_KEEP:
        o->keep_dtype = (nib_dtype)nibble_choose(me, "--keep-dtype", arg, dtypes);
        return 0;
    case OPT_FILE_SIZE:
        o->max_file_bytes = (uint64_t)nibble_number(me, "--max-file-size", arg, 1, INT64_MAX);
        return 0;
    case OPT_METHOD: a->by_gptq = nibble_choose(me, "--method", arg, methods); return 0;
    case OPT_POLICY: a->policy = arg; return 0;
    case OPT_ROUNDING:
        o->rounding = (nib_rounding)nibble_choose(me, "--rounding", arg, roundings);
        return 0;
    case OPT_SEED: o->seed = (uint64_t)nibble_number(me, "--seed", arg, 0, INT64_MAX); return 0;
    case OPT_NONFINITE:
        o->nonfinite = (nib_nonfinite_policy)nibble_choose(me, "--nonfinite", arg, nonfinites);
        return 0;
    case OPT_SHARD: parse_shard(me, arg, o); return 0;
    case ARGP_KEY_END:
        check_method(a);
        if (a->policy && a->line_option)
            nibble_usage(me, "%s is what the lines of --policy say; leave out one of both",
                         a->line_option);
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int nibble_quantize_main(int argc, char **argv)
{
    const struct argp_child children[] = { { &nibble_checkpoint_argp, 0, NULL, 0 },
                                           { &nibble_gptq_argp, 0, NULL, 0 }, { 0 } };
    const struct argp argp = { options, parse, "MODEL",
                               "Quantizes a Hugging Face folder, a safetensors file or a GGUF file "
                               "and writes a complete checkpoint that runtimes load.\v"
                               "Output is written aside and renamed when it is whole and on disk. "
                               "Memory is a few panels of rows; of a tensor that has a Hessian it "
                               "is the whole: the Hessian and its factor (K * K numbers each), "
                               "the weights once or twice, and their codes.",
                               children, NULL, NULL };
    nibble_quantize_args a;
    if (!nibble_quantize_defaults(&a, "nibble quantize", argc)) return 1;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    const int code = nibble_quantize_run(&a);
    nibble_quantize_free(&a);
    return code;
}
