/* nibble_gptq.c: `nibble gptq`, and GPTQ's options. */
#include "nibble_quantize.h"

static const struct argp_option method_options[] = {
    { NULL, 0, NULL, 0, "GPTQ:", NIBBLE_GPTQ },
    { "hessians", OPT_HESSIANS, "PATH", 0, "safetensors file, or folder of such, of the sums of "
      "x x^T over each layer's inputs x: P, or else P.weight, of [K, K], F32 or F64, for the "
      "weights P.weight; P.tokens or P.weight.tokens, U64 of [1], says how many. Without one of "
      "their own A.q_proj, A.k_proj and A.v_proj take A.qkv, A.gate_proj and A.up_proj A.gate_up, "
      "or else what the only one of them that has any has", NIBBLE_GPTQ },
    { "order", OPT_ORDER, "NAME", 0, "natural, act (default: falling diagonal of the Hessian) or "
      "group-aware (blocks first). Nothing is permuted at inference", NIBBLE_GPTQ },
    { "scales", OPT_SCALES, "NAME", 0, "frozen and fresh take --scale-choice, before any rounding "
      "or when a block's turn comes; hessian and hessian-fresh the best of a few by the "
      "Hessian of the block, hessian-full the best of all. No fresh ones with --order act. int4 "
      "and int8 have no hessian-full, and of groups over 128 inputs frozen alone. Default, by "
      "tensor: frozen for int4 and int8 in such groups or by the row, else hessian",
      NIBBLE_GPTQ },
    { "damping", OPT_DAMPING, "X", 0, "What is added to the Hessian's diagonal, in units of "
      "its mean (0.01; 0: nothing). Raised tenfold, up to 1, where the sum is not definite",
      NIBBLE_GPTQ },
    { "real", OPT_REAL, "NAME", 0, "f32 or f64: type of all sums. Default: the Hessian's; f32 of "
      "inputs", NIBBLE_GPTQ },
    { 0 },
};

static const nibble_choice orders[] = { { "natural", NIB_GPTQ_NATURAL }, { "act", NIB_GPTQ_ACT },
    { "group-aware", NIB_GPTQ_GROUP_AWARE }, { NULL, 0 } };
static const nibble_choice scales[] = { { "frozen", NIB_GPTQ_SCALES_FROZEN },
    { "fresh", NIB_GPTQ_SCALES_FRESH }, { "hessian", NIB_GPTQ_SCALES_HESSIAN },
    { "hessian-fresh", NIB_GPTQ_SCALES_HESSIAN_FRESH },
    { "hessian-full", NIB_GPTQ_SCALES_HESSIAN_FULL }, { NULL, 0 } };
static const nibble_choice reals[] = { { "f32", 32 }, { "f64", 64 }, { NULL, 0 } };
static const nibble_choice rotations[] = { { "0", 0 }, { "16", 16 }, { "32", 32 }, { "64", 64 },
    { "128", 128 }, { NULL, 0 } };

static void settle(const nibble_quantize_args *a)
{
    const int fresh = a->gptq.scales == NIB_GPTQ_SCALES_FRESH
                   || a->gptq.scales == NIB_GPTQ_SCALES_HESSIAN_FRESH;
    if (fresh && a->factor.order == NIB_GPTQ_ACT)
        nibble_usage(a->me, "--order act takes a block's inputs apart: --scales fresh and "
                     "hessian-fresh go with --order natural or group-aware");
}

static error_t parse_method(int key, char *arg, struct argp_state *state)
{
    nibble_quantize_args *a = state->input;
    static const char *const names[] = { "--hessians", "--order", "--scales", "--damping",
                                         "--real" };
    if (key >= OPT_HESSIANS && key <= OPT_REAL && !a->gptq_option)
        a->gptq_option = names[key - OPT_HESSIANS];
    switch (key) {
    case OPT_HESSIANS: a->gptq.hessians = arg; return 0;
    case OPT_ORDER:
        a->factor.order = (nib_gptq_order)nibble_choose(a->me, "--order", arg, orders);
        return 0;
    case OPT_SCALES:
        a->gptq.scales = (nib_gptq_scales)nibble_choose(a->me, "--scales", arg, scales);
        return 0;
    case OPT_DAMPING: {
        const double x = nibble_real(a->me, "--damping", arg, 0, 1e6);
        a->factor.damping = x > 0 ? x : -1; /* 0 is the library's word for its default */
        return 0;
    }
    case OPT_REAL: a->gptq.real_bits = nibble_choose(a->me, "--real", arg, reals); return 0;
    case ARGP_KEY_END: settle(a); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

const struct argp nibble_gptq_argp = { method_options, parse_method, NULL, NULL, NULL, NULL, NULL };

/* ---- the command ---- */

static const struct argp_option options[] = {
    { "inputs", OPT_INPUTS, "FILE", 0, "In place of --hessians: safetensors file, or folder of "
      "such, of inputs: P, P.weight or P.input of [..., K], F32, F16 or BF16, for the weights "
      "P.weight; shared in the same way", NIBBLE_GPTQ },
    { "rotate", OPT_ROTATE, "N", 0, "0 (default), 16, 32, 64 or 128: first rotate weights and "
      "Hessians by the Hadamard transform of runs of N inputs. The output is WRONG unless the "
      "runtime rotates the inputs of these layers in the same way; nibble_rotation.json beside it, "
      "or its GGUF metadata, says so", NIBBLE_GPTQ },
    { 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    nibble_quantize_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = state->child_inputs[1] = a; return 0;
    case OPT_INPUTS: a->gptq.inputs = arg; return 0;
    case OPT_ROTATE: a->gptq.rotate = nibble_choose(a->me, "--rotate", arg, rotations); return 0;
    case ARGP_KEY_END:
        if (!a->gptq.hessians == !a->gptq.inputs)
            nibble_usage(a->me, "one of --hessians PATH and --inputs FILE is needed");
        return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int nibble_gptq_main(int argc, char **argv)
{
    const struct argp_child children[] = { { &nibble_checkpoint_argp, 0, NULL, 0 },
                                           { &nibble_gptq_argp, 0, NULL, 0 }, { 0 } };
    const struct argp argp = {
        options, parse, "WEIGHTS",
        "Quantizes the layers of a safetensors file, or of a model, each by the Hessian of its "
        "inputs: weights are rounded one input at a time, and those that follow make up for each "
        "error, so that the layer's output changes less than by rounding alone. A row keeps its "
        "plain rounding where that is better.\v"
        "Every layer needs its Hessian or inputs; leave others out with --exclude, or take `nibble "
        "quantize --method gptq`, which rounds them plainly. Memory is that of the largest layer: "
        "its Hessian and one factor (K * K numbers each), its weights once or twice, and their "
        "codes.",
        children, NULL, NULL };
    nibble_quantize_args a;
    if (!nibble_quantize_defaults(&a, "nibble gptq", argc)) return 1;
    a.by_gptq = a.gptq.all = 1;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    const int code = nibble_quantize_run(&a);
    nibble_quantize_free(&a);
    return code;
}
