/* checkpoint_gptq_bad_test.c: Hessians, names and options that nib_checkpoint_quantize refuses. */
#include <math.h>

#include "gptq_model.h"
#include "shim.h"

static gptq_case c;

static void refused(nib_status want, const char *first, const char *second)
{
    const nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_MODELOPT, NIB_NVFP4);
    const nib_status got = run_model(&c, c.dst, &o, 1, NULL);
    EXPECT(got == want, "%s: %s", nib_status_name(got), nib_last_error());
    EXPECT(fixture_error_has(first), "'%s' is not in '%s'", first, nib_last_error());
    EXPECT(fixture_error_has(second), "'%s' is not in '%s'", second, nib_last_error());
    EXPECT(!fixture_leftovers(c.dst) && temp_count(c.dst) < 0, "something is left");
}

NIB_TEST(CheckpointGptq, BadHessians)
{
    static const char *const q = "model.layers.0.self_attn.q_proj";
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    REQUIRE(gptq_save_diagonal(c.hessians, q, 64, 17, NAN), "%s", nib_last_error());
    refused(NIB_ERR_NONFINITE, q, "[17, 17] of its diagonal is nan");
    REQUIRE(gptq_save_diagonal(c.hessians, q, 64, 17, -1), "%s", nib_last_error());
    refused(NIB_ERR_NONFINITE, q, "-1");
    REQUIRE(gptq_save_diagonal(c.hessians, q, 32, 17, 1), "%s", nib_last_error());
    refused(NIB_ERR_SHAPE, "model.layers.0.self_attn.q_proj.weight: has 64 inputs",
            "h.safetensors, 32");
    REQUIRE(gptq_save_diagonal(c.hessians, "model.q_proj", 64, 0, 1), "%s", nib_last_error());
    refused(NIB_ERR_ARGUMENT, "14 of the 14", "'model.q_proj'");
    const char *folder = temp_path(&c.dir, "folder");
    REQUIRE(mkdir(folder, 0777) == 0, "%s", folder);
    c.gptq.hessians = folder;
    refused(NIB_ERR_FORMAT, folder, "no .safetensors");
    REQUIRE(gptq_save_diagonal(temp_path(&c.dir, "folder/1.safetensors"), q, 64, 0, 1)
                && gptq_save_diagonal(temp_path(&c.dir, "folder/2.safetensors"), q, 64, 0, 1),
            "files");
    refused(NIB_ERR_FORMAT, "1.safetensors and", "2.safetensors");
    c.gptq.hessians = c.hessians;
    c.gptq.all = 1;
    REQUIRE(gptq_save_hessians(c.hessians, NIB_REAL_F32, GPTQ_INPUTS - 1), "%s", nib_last_error());
    refused(NIB_ERR_ARGUMENT, "1 of the 14", "model.layers.1.mlp.down_proj.weight");
    c.gptq.inputs = c.hessians;
    c.gptq.hessians = NULL;
    refused(NIB_ERR_SHAPE, "self_attn.qkv.tokens", "not inputs");
    c.gptq.hessians = c.hessians;
    c.gptq.inputs = NULL;
    c.gptq.rotate = 128;
    REQUIRE(gptq_save_hessians(c.hessians, NIB_REAL_F32, GPTQ_INPUTS), "%s", nib_last_error());
    refused(NIB_ERR_SHAPE, "64 inputs", "runs of 128");
    temp_dir_remove(&c.dir);
}

static void put_nan(float *x, int64_t n) { x[n - 3] = NAN; }
static void put_inf(float *x, int64_t n) { x[n - 64 * 2 - 1] = INFINITY; }

NIB_TEST(CheckpointGptq, NonFiniteInputsAndWeights)
{
    const char *weight = "model.layers.0.mlp.down_proj.weight";
    const fixture_tensor x = { "model.layers.0.mlp.down_proj", NIB_TT_BF16, 2, { 9, 64 }, 1,
                               put_nan };
    const fixture_tensor w = { weight, NIB_TT_BF16, 2, { 48, 64 }, 1, NULL };
    const fixture_tensor bad = { weight, NIB_TT_BF16, 2, { 48, 64 }, 1, put_inf };
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    snprintf(c.src, sizeof c.src, "%s/w.safetensors", c.dir.path);
    REQUIRE(fixture_safetensors(c.hessians, &x, 1) && fixture_safetensors(c.src, &w, 1), "files");
    c.gptq.inputs = c.hessians;
    c.gptq.hessians = NULL;
    refused(NIB_ERR_NONFINITE, weight, "61");
    REQUIRE(fixture_safetensors(c.src, &bad, 1), "%s", c.src);
    c.gptq.inputs = NULL;
    c.gptq.hessians = c.hessians;
    REQUIRE(gptq_save_diagonal(c.hessians, x.name, 64, 0, 1), "%s", nib_last_error());
    refused(NIB_ERR_NONFINITE, weight, "[45, 63] is Inf");
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4);
    o.nonfinite = NIB_NONFINITE_GO_ON;
    EXPECT(run_model(&c, c.dst, &o, 1, NULL) == NIB_ERR_NONFINITE && fixture_error_has(weight)
               && fixture_error_has("row 45, column 63"), "%s", nib_last_error());
    temp_dir_remove(&c.dir);
}

/* Two of three have one: the third's is not guessed. */
NIB_TEST(CheckpointGptq, AmbiguousNamesAndStacks)
{
    const fixture_tensor two[] = {
        { "model.layers.0.self_attn.q_proj", NIB_TT_F32, 2, { 50, 64 }, 1.0f, NULL },
        { "model.layers.0.self_attn.v_proj.input", NIB_TT_BF16, 3, { 5, 10, 64 }, 1.0f, NULL } };
    const fixture_tensor stack = { "model.layers.0.mlp.experts.weight", NIB_TT_BF16, 3,
                                   { 4, 32, 64 }, 1.0f, NULL };
    const fixture_tensor its = { stack.name, NIB_TT_F32, 2, { 50, 64 }, 1.0f, NULL };
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    REQUIRE(fixture_safetensors(c.hessians, two, 2), "%s", c.hessians);
    c.gptq.inputs = c.hessians;
    c.gptq.hessians = NULL;
    refused(NIB_ERR_ARGUMENT, "k_proj.weight", "self_attn.qkv'");
    /* One of them: all three take it. */
    REQUIRE(fixture_safetensors(c.hessians, two + 1, 1), "%s", c.hessians);
    nib_checkpoint_report *r = NULL;
    const nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(run_model(&c, c.dst, &o, 1, &r) == NIB_OK, "%s", nib_last_error());
    int layers = 0;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        if (!r->gptq[i]) continue;
        EXPECT(!strcmp(r->gptq[i]->hessian, two[1].name) && r->gptq[i]->tokens == 50, "%s",
               r->gptq[i]->hessian);
        layers++;
    }
    EXPECT(layers == 3, "%d layers", layers);
    nib_checkpoint_report_free(r);
    temp_dir_remove_at(c.dst);
    temp_dir_remove_at(c.src);
    REQUIRE(fixture_folder(c.src, &stack, 1, 1) && fixture_safetensors(c.hessians, &its, 1), "%s",
            c.src);
    refused(NIB_ERR_UNSUPPORTED, stack.name, "stack");
    temp_dir_remove(&c.dir);
}

/* P.weight's tokens are P.weight.tokens or, where no P has them, P.tokens; P wins over P.weight. */
NIB_TEST(CheckpointGptq, TokensAreFoundUnderBothNames)
{
#define P "a.down_proj"
    static const fixture_tensor w = { P ".weight", NIB_TT_F32, 2, { 32, 64 }, 1.0f, NULL };
#define SQUARE(name) { name, NIB_TT_F32, 2, { 64, 64 }, 1.0f, NULL }
#define TOKENS(name) { name, NIB_TT_U64, 1, { 1 }, 1.0f, NULL }
    static const struct {
        fixture_tensor t[3];
        size_t         n;
        const char    *hessian;
        int            counted;
    } rows[] = {
        { { SQUARE(P), TOKENS(P ".tokens") }, 2, P, 1 },
        { { SQUARE(P ".weight"), TOKENS(P ".tokens") }, 2, P ".weight", 1 },
        { { SQUARE(P ".weight"), TOKENS(P ".weight.tokens") }, 2, P ".weight", 1 },
        { { SQUARE(P ".weight"), TOKENS("a.up_proj.tokens") }, 2, P ".weight", 0 },
        { { SQUARE(P), SQUARE(P ".weight"), TOKENS(P ".weight.tokens") }, 3, P, 0 },
    };
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    temp_dir_remove_at(c.src);
    REQUIRE(fixture_folder(c.src, &w, 1, 1), "%s", c.src);
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_MODELOPT, NIB_NVFP4);
    o.dry_run = 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_checkpoint_report *r = NULL;
        REQUIRE(fixture_safetensors(c.hessians, rows[i].t, rows[i].n), "%s", c.hessians);
        REQUIRE(run_model(&c, c.dst, &o, 1, &r) == NIB_OK, "%zu: %s", i, nib_last_error());
        EXPECT(!strcmp(r->gptq[0]->hessian, rows[i].hessian), "%zu: %s", i, r->gptq[0]->hessian);
        EXPECT((r->gptq[0]->tokens != UINT64_MAX) == rows[i].counted, "%zu: %llu tokens", i,
               (unsigned long long)r->gptq[0]->tokens);
        nib_checkpoint_report_free(r);
    }
    temp_dir_remove(&c.dir);
}

NIB_TEST(CheckpointGptq, BadRequests)
{
    NEEDS_OPENBLAS;
    REQUIRE(gptq_begin(&c), "%s", nib_last_error());
    const nib_checkpoint_gptq good = c.gptq;
#define BROKEN(member, value, status, piece) \
    do {                                     \
        c.gptq.member = value;                 \
        refused(status, piece, "");          \
        c.gptq = good;                         \
    } while (0)
    BROKEN(size, 8, NIB_ERR_ARGUMENT, "size is 8");
    BROKEN(hessians, NULL, NIB_ERR_ARGUMENT, "hessians");
    BROKEN(inputs, c.hessians, NIB_ERR_ARGUMENT, "inputs");
    BROKEN(hessians, "/no/such/file", NIB_ERR_IO, "/no/such/file");
    BROKEN(scales, (nib_gptq_scales)9, NIB_ERR_ARGUMENT, "scales 9");
    BROKEN(real_bits, 16, NIB_ERR_ARGUMENT, "16");
    BROKEN(rotate, 8, NIB_ERR_ARGUMENT, "rotate is 8");
    BROKEN(rotate, 16, NIB_ERR_ARGUMENT, "all");
    c.factor.damping = NAN;
    refused(NIB_ERR_ARGUMENT, "damping is nan", "");
    c.factor.damping = INFINITY;
    refused(NIB_ERR_ARGUMENT, "damping is inf", "");
    c.factor.damping = 0;
    c.factor.most_damping = -1;
    refused(NIB_ERR_ARGUMENT, "most_damping -1", "");
    c.factor.most_damping = 0;
    c.factor.order = (nib_gptq_order)7;
    refused(NIB_ERR_ARGUMENT, "order 7", "");
    c.factor.order = NIB_GPTQ_ACT;
    BROKEN(all, 2, NIB_ERR_ARGUMENT, "gptq->all is 2");
    BROKEN(without_guard, 5, NIB_ERR_ARGUMENT, "without_guard 5");
    c.factor.size = 4;
    refused(NIB_ERR_ARGUMENT, "factor->size is 4", "");
    c.factor.size = sizeof c.factor;
    c.factor.order = NIB_GPTQ_ACT;
    BROKEN(scales, NIB_GPTQ_SCALES_FRESH, NIB_ERR_UNSUPPORTED, "checkpoint_quantize: fresh");
    BROKEN(scales, NIB_GPTQ_SCALES_HESSIAN_FRESH, NIB_ERR_UNSUPPORTED, "checkpoint_quantize: fr");
    nib_checkpoint_options o = gptq_options(&c, NIB_EXPORT_MODELOPT, NIB_NVFP4);
    o.rounding = NIB_ROUND_STOCHASTIC;
    EXPECT(run_model(&c, c.dst, &o, 1, NULL) == NIB_ERR_UNSUPPORTED, "%s", nib_last_error());
    /* A caller of an older size has no such member. */
    o.rounding = NIB_ROUND_NEAREST;
    o.size = (uint32_t)offsetof(nib_checkpoint_options, gptq);
    nib_checkpoint_report *r = NULL;
    REQUIRE(run_model(&c, c.dst, &o, 1, &r) == NIB_OK, "%s", nib_last_error());
    EXPECT(!r->gptq, "an older caller got GPTQ");
    nib_checkpoint_report_free(r);
    temp_dir_remove(&c.dir);
}
