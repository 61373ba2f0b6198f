/* checkpoint_select_test.c: which tensors are quantized, and what a target cannot hold. */
#include "model_fixture.h"
#include "shim.h"

static temp_dir dir;
static char src[300], dst[300];

static int begin(const fixture_tensor *t, size_t n)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    return fixture_folder(src, t, n, 1);
}

/* The planned report: what would be quantized. NULL if the plan is refused. */
static nib_checkpoint_report *plan(nib_checkpoint_options o)
{
    nib_checkpoint_report *r = NULL;
    o.dry_run = 1;
    const nib_status status = nib_checkpoint_quantize(fixture_exec(0), src, NULL, &o, &r);
    EXPECT(status == NIB_OK, "%s", nib_last_error());
    return r;
}

static int quantized(const nib_checkpoint_report *r, const char *name)
{
    for (uint64_t i = 0; r && i < r->n_tensors; i++)
        if (!strcmp(r->tensors[i].name, name)) return r->tensors[i].quantized;
    return -1;
}

static nib_status with(nib_checkpoint_options o)
{
    return nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL);
}

static int count(const nib_checkpoint_report *r)
{
    int n = 0;
    for (uint64_t i = 0; r && i < r->n_tensors; i++) n += r->tensors[i].quantized;
    return n;
}

NIB_TEST(CheckpointSelect, PatternsChooseAndExcludeWins)
{
    static const struct {
        const char *include[2], *exclude[2];
        int         n;
        const char *with, *without;
    } rows[] = {
        { { NULL }, { NULL }, 14, "model.layers.1.mlp.up_proj.weight", "lm_head.weight" },
        { { "*" }, { "*embed*" }, 15, "lm_head.weight", "model.norm.weight" },
        { { "lm_head.*" }, { NULL }, 1, "lm_head.weight", "model.layers.1.mlp.up_proj.weight" },
        { { "*q_proj*", "*k_proj*" }, { NULL }, 4, "model.layers.0.self_attn.k_proj.weight",
          "model.layers.0.self_attn.v_proj.weight" },
        { { NULL }, { "*.layers.0.*" }, 7, "model.layers.1.mlp.up_proj.weight",
          "model.layers.0.mlp.up_proj.weight" },
        { { "*layers.?.mlp*" }, { "*up_proj.weight", "*[6-9]*" }, 4,
          "model.layers.1.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight" },
        { { NULL }, { "*" }, 0, NULL, "model.layers.1.mlp.up_proj.weight" },
        { { NULL }, { "matches nothing" }, 14, "model.layers.1.mlp.up_proj.weight",
          "lm_head.weight" },
    };
    REQUIRE(begin(fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA), "%s", src);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
        o.include = rows[i].include;
        o.exclude = rows[i].exclude;
        for (int k = 0; k < 2; k++) {
            o.n_include += rows[i].include[k] != NULL;
            o.n_exclude += rows[i].exclude[k] != NULL;
        }
        nib_checkpoint_report *r = plan(o);
        EXPECT(count(r) == rows[i].n, "row %zu: %d quantized", i, count(r));
        if (rows[i].with) EXPECT(quantized(r, rows[i].with) == 1, "row %zu: %s", i, rows[i].with);
        EXPECT(quantized(r, rows[i].without) == 0, "row %zu: %s", i, rows[i].without);
        nib_checkpoint_report_free(r);
    }
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointSelect, DefaultsGoByLayerNames)
{
    static const struct {
        const char *name, *type;
        int         n_dims, quantized;
    } rows[] = {
        { "model.layers.0.self_attn.qkv_proj.weight", "qkv_proj", 2, 1 },
        { "model.layers.0.mlp.gate_up_proj.weight", "gate_up_proj", 2, 1 },
        { "model.layers.0.mlp.gate.weight", "gate", 2, 0 },
        { "model.layers.0.mlp.router.weight", "router", 2, 0 },
        { "model.layers.0.norm1.linear.weight", "linear", 2, 1 },
        { "model.layers.0.self_attn.q_norm.weight", "norm", 2, 0 },
        { "model.layers.0.mlp.experts.down_proj.weight", "down_proj", 3, 1 },
        { "model.layers.0.mlp.experts.gate_up_proj", "gate_up_proj", 3, 0 },
        { "model.embed_tokens.weight", "embed_tokens", 2, 0 },
        { "transformer.wte.weight", "wte", 2, 0 },
        { "lm_head.weight", "lm_head", 2, 0 },
        { "visual.blocks.0.attn.qkv.weight", "qkv", 2, 0 },
        { "model.vision_tower.x.weight", "x", 2, 0 },
        { "model.layers.0.conv.weight", "conv", 3, 0 },
        { "model.layers.0.self_attn.q_proj.bias", "bias", 1, 0 },
        { "weight", "weight", 1, 0 },
    };
    enum { N = sizeof rows / sizeof *rows };
    fixture_tensor t[N];
    for (int i = 0; i < N; i++) {
        t[i] = (fixture_tensor){ rows[i].name, NIB_TT_BF16, rows[i].n_dims, { 64, 64 }, 1, NULL };
        if (rows[i].n_dims == 3) t[i].dims[0] = 2, t[i].dims[1] = 32, t[i].dims[2] = 64;
    }
    REQUIRE(begin(t, N), "%s", src);
    nib_checkpoint_report *r = plan(fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4));
    for (int i = 0; i < N; i++)
        for (uint64_t k = 0; r && k < r->n_tensors; k++) {
            if (strcmp(r->tensors[k].name, rows[i].name)) continue;
            EXPECT(r->tensors[k].quantized == rows[i].quantized, "%s", rows[i].name);
            EXPECT(!strcmp(r->tensors[k].layer_type, rows[i].type), "%s is of type %s",
                   rows[i].name, r->tensors[k].layer_type);
        }
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointSelect, FusedExpertsAreWrittenAndReadBack)
{
    const fixture_tensor t[] = {
        { "model.layers.0.mlp.experts.gate_up_proj", NIB_TT_BF16, 3, { 3, 16, 64 }, 0.4f, NULL },
        { "model.layers.0.mlp.experts.down_proj.weight", NIB_TT_BF16, 3, { 3, 16, 64 }, 1, NULL },
    };
    static const nib_export exports[] = { NIB_EXPORT_MODELOPT, NIB_EXPORT_COMPRESSED_TENSORS };
    const char *all[] = { "*" };
    REQUIRE(begin(t, 2), "%s", src);
    for (int i = 0; i < 2; i++) {
        nib_checkpoint_options o = fixture_options(exports[i], NIB_NVFP4);
        nib_checkpoint_report *made = NULL, *r = NULL;
        o.include = all;
        o.n_include = 1;
        o.force = 1;
        REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, &made) == NIB_OK, "%s",
                nib_last_error());
        nib_safetensors *st = NULL;
        REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
        /* As ModelOpt's quantizer_attr_names says for a weight of another name. */
        EXPECT(nib_safetensors_find(st, "model.layers.0.mlp.experts.gate_up_proj_weight_scale"),
               "scales of fused experts");
        nib_safetensors_close(st);
        EXPECT(nib_checkpoint_compare(fixture_exec(0), src, dst, NULL, &r) == NIB_OK, "%s",
               nib_last_error());
        EXPECT(r && r->n_tensors == 2, "scales are listed as tensors");
        nib_checkpoint_report_free(r);
        nib_checkpoint_report_free(made);
    }
    temp_dir_remove(&dir);
}

/* ---- refused ---- */

NIB_TEST(CheckpointSelect, WhatATargetCannotHold)
{
    static const struct {
        nib_export      export_as;
        nib_format      format;
        nib_tensor_type type;
        int64_t         cols;
        nib_status      status;
        const char     *says[2];
    } rows[] = {
        { NIB_EXPORT_MODELOPT, NIB_NVFP4_B32, NIB_TT_F32, 64, NIB_ERR_UNSUPPORTED,
          { "modelopt", "nvfp4-b32" } },
        { NIB_EXPORT_MODELOPT, NIB_MXFP4, NIB_TT_F32, 64, NIB_ERR_UNSUPPORTED,
          { "modelopt", "mxfp4" } },
        { NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4_B32, NIB_TT_F32, 64, NIB_ERR_UNSUPPORTED,
          { "compressed-tensors", "nvfp4-b32" } },
        { NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4_B16, NIB_TT_F32, 64, NIB_ERR_UNSUPPORTED,
          { "compressed-tensors", "mxfp4-b16" } },
        { NIB_EXPORT_MODELOPT, NIB_MXFP8_E4M3, NIB_TT_F32, 64, NIB_ERR_UNSUPPORTED,
          { "modelopt", "mxfp8-e4m3" } },
        { NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_TT_F32, 72, NIB_ERR_UNSUPPORTED,
          { "a.q_proj.weight: 72 columns", "16" } },
        { NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4, NIB_TT_F32, 80, NIB_ERR_UNSUPPORTED,
          { "a.q_proj.weight: 80 columns", "32" } },
        { NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_TT_F32, 0, NIB_ERR_UNSUPPORTED,
          { "a.q_proj.weight: 0 columns", "16" } },
        { NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_TT_F8_E4M3, 64, NIB_ERR_UNSUPPORTED,
          { "a.q_proj.weight", "F8_E4M3" } },
        { NIB_EXPORT_MODELOPT, NIB_NVFP4, NIB_TT_I32, 64, NIB_ERR_UNSUPPORTED,
          { "a.q_proj.weight", "I32" } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const fixture_tensor t = { "a.q_proj.weight", rows[i].type, 2, { 8, rows[i].cols }, 1,
                                   NULL };
        REQUIRE(begin(&t, 1), "%s", src);
        const nib_status got = fixture_quantize(src, dst, rows[i].export_as, rows[i].format);
        EXPECT(got == rows[i].status, "row %zu: %s: %s", i, nib_status_name(got),
               nib_last_error());
        for (int k = 0; k < 2; k++)
            EXPECT(fixture_error_has(rows[i].says[k]), "row %zu: '%s' is not in '%s'", i,
                   rows[i].says[k], nib_last_error());
        EXPECT(!fixture_leftovers(dst) && temp_count(dst) < 0, "row %zu: something is left", i);
        temp_dir_remove(&dir);
    }
}

/* Loaders of folders take linear layers only; GGUF's take embeddings too. */
NIB_TEST(CheckpointSelect, EmbeddingsInGgufAlone)
{
    static const char *const embeddings[] = {
        "model.embed_tokens.weight", "transformer.wte.weight", "wpe.weight", "shared.weight",
        "bert.embeddings.word_embeddings.weight", "model.tok_embeddings.weight", "emb.weight",
        "gpt_neox.embed_in.weight", "model.decoder.embed_positions.weight", "x.token_embd_embed",
        "model.embed_tokens_per_layer.weight", "a.block.0.relative_attention_bias.weight" };
    static const char *const layers[] = {
        "embed_out.weight", "time_embedding.linear_1.weight", "context_embedder.weight",
        "model.embed_vision.embedding_projection.weight", "lm_head.weight", "a.shared.weight" };
    static const nib_export exports[] = { NIB_EXPORT_MODELOPT, NIB_EXPORT_COMPRESSED_TENSORS,
                                          NIB_EXPORT_COMPRESSED_TENSORS };
    enum { N = sizeof embeddings / sizeof *embeddings, ALL = N + sizeof layers / sizeof *layers };
    const char *all[] = { "*" };
    for (size_t i = 0; i < ALL; i++) {
        const char *name = i < N ? embeddings[i] : layers[i - N];
        const fixture_tensor t = { name, NIB_TT_BF16, 2, { 8, 64 }, 1, NULL };
        REQUIRE(begin(&t, 1), "%s", src);
        for (int k = 0; k < 3; k++) {
            nib_checkpoint_options o = fixture_options(
                exports[k], k < 2 ? NIB_NVFP4 : nib_int_format_make(NIB_INT4, 32, 0));
            o.dry_run = 1, o.include = all, o.n_include = 1;
            EXPECT(with(o) == (i < N ? NIB_ERR_UNSUPPORTED : NIB_OK), "%s %d", name, k);
            EXPECT(i >= N || (fixture_error_has(name) && fixture_error_has("is an embedding")),
                   "%s", nib_last_error());
            o.include = NULL, o.n_include = 0;
            EXPECT(with(o) == NIB_OK, "%s by default: %s", name, nib_last_error());
        }
        temp_dir_remove(&dir);
    }
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src.gguf", dir.path);
    snprintf(dst, sizeof dst, "%s/dst.gguf", dir.path);
    REQUIRE(fixture_gguf(src, fixture_llama_gguf(NIB_TT_F16), FIXTURE_LLAMA), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_GGUF, NIB_NVFP4);
    o.include = all, o.n_include = 1;
    nib_checkpoint_report *r = plan(o);
    EXPECT(quantized(r, "model.embed_tokens.weight") == 1, "GGUF");
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}

/* Loaders would look for codes of a linear layer that is not in the list. */
NIB_TEST(CheckpointSelect, KeptLayersOnEmbeddingsAreIgnored)
{
    const fixture_tensor t[] = {
        { "embed_in.weight", NIB_TT_BF16, 2, { 8, 64 }, 1, NULL },
        { "time_embedding.linear_1.weight", NIB_TT_BF16, 2, { 8, 64 }, 1, NULL },
        { "a.down_proj.weight", NIB_TT_BF16, 2, { 8, 64 }, 1, NULL } };
    REQUIRE(begin(t, 3), "%s", src);
    REQUIRE(fixture_quantize(src, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    json_t *config = fixture_json(dst, "config.json");
    const json_t *ignore = json_object_get(json_object_get(config, "quantization_config"),
                                           "ignore");
    const char *second = json_string_value(json_array_get(ignore, 1));
    EXPECT(json_array_size(ignore) == 2 && second && !strcmp(second, "time_embedding.linear_1"),
           "%zu ignored", json_array_size(ignore));
    json_decref(config);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointSelect, GgufNeedsBlocksOf64AndNames)
{
    fixture_tensor t = { "blk.0.attn_output.weight", NIB_TT_F32, 2, { 8, 96 }, 1, NULL };
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src.gguf", dir.path);
    snprintf(dst, sizeof dst, "%s/dst.gguf", dir.path);
    REQUIRE(fixture_gguf(src, &t, 1), "%s", src);
    EXPECT(fixture_quantize(src, dst, NIB_EXPORT_GGUF, NIB_NVFP4) == NIB_ERR_UNSUPPORTED, "%s",
           nib_last_error());
    EXPECT(fixture_error_has("96 columns") && fixture_error_has("64"), "%s", nib_last_error());
    EXPECT(fixture_quantize(src, dst, NIB_EXPORT_GGUF, NIB_MXFP4) == NIB_OK, "%s",
           nib_last_error());
    temp_dir_remove(&dir);

    t = (fixture_tensor){ "a.q_proj.weight", NIB_TT_F32, 2, { 8, 64 }, 1, NULL };
    REQUIRE(begin(&t, 1), "%s", src);
    EXPECT(fixture_quantize(src, dst, NIB_EXPORT_GGUF, NIB_NVFP4) != NIB_OK, "no name in GGUF");
    EXPECT(!fixture_leftovers(dst) && temp_count(dst) < 0, "something is left");
    temp_dir_remove(&dir);
}

/* They would be read as parts of a.down_proj.weight's codes, be it from another file. */
NIB_TEST(CheckpointSelect, NamesOfParts)
{
    static const struct {
        const char *name;
        int         of_integers;
    } rows[] = {
        { "a.down_proj.weight_zero_point", 1 }, { "a.down_proj.weight_g_idx", 1 },
        { "a.down_proj.weight_shape", 1 },      { "a.down_proj.weight_scale", 0 },
        { "a.down_proj.weight_packed", 0 },     { "a.down_proj.input_scale", 0 },
        { "a.down_proj.weight_scale_2", 0 },    { "a.down_proj.input_global_scale", 0 },
    };
    const char *const alone[] = { "a.down_proj.weight" };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const fixture_tensor t[] = {
            { "a.down_proj.weight", NIB_TT_BF16, 2, { 8, 64 }, 1, NULL },
            { rows[i].name, NIB_TT_F32, 1, { 8 }, 1, NULL },
            { "b.down_proj.weight_zero_point", NIB_TT_F32, 1, { 8 }, 1, NULL },
            { "b.down_proj.weight_scale", NIB_TT_F32, 1, { 8 }, 1, NULL } };
        REQUIRE(begin(t, 4), "%s", src);
        for (int integers = 0; integers < 2; integers++) {
            nib_checkpoint_options o = fixture_options(
                NIB_EXPORT_COMPRESSED_TENSORS,
                integers ? nib_int_format_make(NIB_INT4, 32, 0) : NIB_NVFP4);
            const int refused = integers || !rows[i].of_integers;
            o.max_file_bytes = 1; /* each tensor in a file of its own */
            for (o.dry_run = 1; o.dry_run >= 0; o.dry_run--)
                EXPECT(with(o) == (refused ? NIB_ERR_UNSUPPORTED : NIB_OK)
                           && (!refused || (fixture_error_has(rows[i].name)
                                            && fixture_error_has("part of a.down_proj.weight"))),
                       "%s %d: %s", rows[i].name, integers, nib_last_error());
            if (refused) EXPECT(!fixture_leftovers(dst) && temp_count(dst) < 0, "left");
            nib_checkpoint_report *r = NULL;
            if (!refused)
                EXPECT(nib_checkpoint_compare(fixture_exec(0), src, dst, NULL, &r) == NIB_OK
                           && r->n_tensors == 4, "%s: %s", rows[i].name, nib_last_error());
            nib_checkpoint_report_free(r);
            temp_dir_remove_at(dst);
            o.dry_run = 1, o.exclude = alone, o.n_exclude = 1;
            EXPECT(with(o) == NIB_OK, "%s kept: %s", rows[i].name, nib_last_error());
        }
        temp_dir_remove(&dir);
    }
}

/* ---- arguments ---- */

NIB_TEST(CheckpointSelect, ArgumentsAreChecked)
{
    const nib_checkpoint_options good = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    const char *vector[] = { "model.norm.weight" }, *none[] = { "*nothing*" };
    nib_rules rules = { 0 };
    REQUIRE(begin(fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA), "%s", src);
#define REFUSED(status_, member, value)                                                        \
    do {                                                                                       \
        nib_checkpoint_options o = good;                                                       \
        o.member = value;                                                                      \
        EXPECT(with(o) == status_, "%s: %s", #member, nib_last_error());                       \
    } while (0)
    REFUSED(NIB_ERR_ARGUMENT, size, 8);
    REFUSED(NIB_ERR_ARGUMENT, export_as, (nib_export)3);
    REFUSED(NIB_ERR_ARGUMENT, format, 77);
    REFUSED(NIB_ERR_ARGUMENT, rules, &rules);
    REFUSED(NIB_ERR_ARGUMENT, scale_choice, (nib_scale_choice)5);
    REFUSED(NIB_ERR_ARGUMENT, rounding, (nib_rounding)2);
    REFUSED(NIB_ERR_ARGUMENT, nonfinite, (nib_nonfinite_policy)2);
    REFUSED(NIB_ERR_ARGUMENT, keep_dtype, (nib_dtype)3);
    REFUSED(NIB_ERR_ARGUMENT, n_include, 1);
    REFUSED(NIB_ERR_ARGUMENT, n_exclude, 1);
    REFUSED(NIB_ERR_ARGUMENT, shard, 1);
    REFUSED(NIB_ERR_ARGUMENT, shards, 2);
    REFUSED(NIB_ERR_ARGUMENT, shard, -1);
    REFUSED(NIB_ERR_ARGUMENT, force, 7);
    REFUSED(NIB_ERR_ARGUMENT, resume, 7);
    REFUSED(NIB_ERR_ARGUMENT, dry_run, -1);
    REFUSED(NIB_ERR_ARGUMENT, counts, 2);
#undef REFUSED
    nib_checkpoint_options o = good;
    o.include = none;
    o.n_include = 1;
    EXPECT(with(o) == NIB_ERR_ARGUMENT && fixture_error_has("*nothing*"), "%s", nib_last_error());
    o.include = vector;
    EXPECT(with(o) == NIB_ERR_ARGUMENT && fixture_error_has("model.norm.weight"), "%s",
           nib_last_error());
    o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4);
    o.scale_choice = NIB_SCALE_FOUR_OVER_SIX_MAE;
    EXPECT(with(o) == NIB_ERR_UNSUPPORTED, "%s", nib_last_error());

    nib_exec exec = *fixture_exec(0);
    nib_checkpoint_report *r = (nib_checkpoint_report *)&exec;
    EXPECT(nib_checkpoint_quantize(NULL, src, dst, &good, &r) == NIB_ERR_ARGUMENT, "exec");
    EXPECT(!r, "the report is not NULL after a failure");
    EXPECT(nib_checkpoint_quantize(&exec, NULL, dst, &good, NULL) == NIB_ERR_ARGUMENT, "src");
    EXPECT(nib_checkpoint_quantize(&exec, src, NULL, &good, NULL) == NIB_ERR_ARGUMENT, "dst");
    EXPECT(nib_checkpoint_quantize(&exec, src, dst, NULL, NULL) == NIB_ERR_ARGUMENT, "options");
    exec.threads = 1025;
    EXPECT(nib_checkpoint_quantize(&exec, src, dst, &good, NULL) == NIB_ERR_ARGUMENT, "threads");
    EXPECT(!fixture_leftovers(dst) && temp_count(dst) < 0, "something is left");
    nib_checkpoint_report_free(NULL);
    temp_dir_remove(&dir);
}
