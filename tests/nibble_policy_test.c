/* nibble_policy_test.c: `nibble quantize --policy`: the bytes of one format are those of --include,
 * two stand side by side where an export has a place for it, and what cannot be is refused. */
#include "expect_status.h"
#include "model_fixture.h"
#include "run_tool.h"

static temp_dir dir;
static char src[300], dst[300], other[300], policy[300], json_path[300];

static int begin(void)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    snprintf(other, sizeof other, "%s/other", dir.path);
    snprintf(policy, sizeof policy, "%s/policy", dir.path);
    snprintf(json_path, sizeof json_path, "%s/report.json", dir.path);
    return fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1);
}

static void write_policy(const char *text)
{
    FILE *f = fopen(policy, "w");
    REQUIRE(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s", policy);
}

static int has(const char *text, const char *part) { return strstr(text, part) != NULL; }

/* The member of a tensor's entry in the report; NULL if there is no such tensor. */
static const json_t *entry(const json_t *report, const char *name, const char *member)
{
    const json_t *t;
    size_t i;
    json_array_foreach(json_object_get(report, "tensors"), i, t)
        if (!strcmp(json_string_value(json_object_get(t, "name")), name))
            return json_object_get(t, member);
    return NULL;
}

/* Tensors of a report that are stored in a type. */
static int count_type(const json_t *report, const char *type)
{
    const json_t *t;
    size_t i;
    int n = 0;
    json_array_foreach(json_object_get(report, "tensors"), i, t)
        n += !strcmp(json_string_value(json_object_get(t, "stored_type")), type);
    return n;
}

/* How many tensors whose name has the part differ between two models; -1: not comparable. */
static int differing(const char *a, const char *b, const char *part)
{
    const tool_result r = tool_run(&dir, "compare", a, b, "--json", json_path);
    EXPECT(r.status == 0, "%s", r.err);
    json_t *j = json_load_file(json_path, 0, NULL);
    const json_t *t;
    size_t i;
    int n = j ? 0 : -1;
    json_array_foreach(json_object_get(j, "tensors"), i, t)
        n += has(json_string_value(json_object_get(t, "name")), part)
          && json_number_value(json_object_get(t, "sum_sq_error")) != 0;
    json_decref(j);
    return n;
}

NIB_TEST(NibblePolicy, OneFormatGivesTheBytesOfInclude)
{
    static const struct {
        const char *policy, *args[7];
    } rows[] = {
        { "*.self_attn.*_proj.weight nvfp4\n*.mlp.* keep\n", { "--include", "*self_attn*" } },
        { "*.mlp.* nvfp4 mse te", { "--include", "*.mlp.*", "--scale-choice", "mse", "--rules",
                                    "te" } },
        { "# only this\n*.layers.1.*  nvfp4  modelopt # named\n", { "--include", "*.layers.1.*" } },
        { "*.layers.* mxfp4", { "--format", "mxfp4", "--include", "*.layers.*" } },
        { "*.layers.* keep", { "--exclude", "*" } },
    };
    REQUIRE(begin(), "%s", src);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        write_policy(rows[i].policy);
        const tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy, "-f");
        EXPECT(r.status == 0 && has(r.out, "by policy"), "%zu: %d: %s%s", i, r.status, r.out,
               r.err);
        const char *args[TOOL_ARGS + 1] = { "quantize", src, "-o", other, "-f" };
        for (int k = 0; k < 7 && rows[i].args[k]; k++) args[5 + k] = rows[i].args[k];
        const tool_result o = tool_run_with(&dir, NULL, args);
        EXPECT(o.status == 0 && fixture_same(dst, other), "%zu: %s: %s", i, rows[i].policy, o.err);
    }
    write_policy("*.layers.* nvfp4");
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy, "-f",
                             "--exclude", "*.1.*");
    EXPECT(r.status == 0, "%s", r.err);
    r = tool_run(&dir, "quantize", src, "-o", other, "-f", "--exclude", "*.1.*");
    EXPECT(r.status == 0 && fixture_same(dst, other), "exclude: %s", r.err);
    temp_dir_remove(&dir);
}

static const char two[] = "*.self_attn.* nvfp4 four-over-six-mse\n*.mlp.* mxfp4 mse te\n";

/* Attention of one export alone, MLP of the other, into other. */
static void expect_parts(const char *export_as)
{
    const char *args[] = { "quantize", src, "-o", other, "-f", "--export", export_as, "--format",
                           "nvfp4", "--include", "*self_attn*", "--scale-choice",
                           "four-over-six-mse", NULL };
    tool_result r = tool_run_with(&dir, NULL, args);
    EXPECT(r.status == 0 && differing(other, dst, "self_attn") == 0
               && differing(other, dst, ".mlp.") == 6, "%s: %s", export_as, r.err);
    const char *mlp[] = { "quantize", src, "-o", other, "-f", "--export", export_as, "--format",
                          "mxfp4", "--include", "*.mlp.*", "--scale-choice", "mse", "--rules",
                          "te", NULL };
    r = tool_run_with(&dir, NULL, mlp);
    EXPECT(r.status == 0 && differing(other, dst, ".mlp.") == 0
               && differing(other, dst, "self_attn") == 8, "%s: %s", export_as, r.err);
}

NIB_TEST(NibblePolicy, CompressedTensorsHasAGroupOfEachFormat)
{
    REQUIRE(begin(), "%s", src);
    write_policy(two);
    const tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy, "--json",
                                   json_path);
    REQUIRE(r.status == 0, "%s", r.err);
    json_t *j = json_load_file(json_path, 0, NULL), *config = fixture_json(dst, "config.json");
    EXPECT(count_type(j, "NVFP4") == 8 && count_type(j, "MXFP4") == 6, "%d, %d",
           count_type(j, "NVFP4"), count_type(j, "MXFP4"));
    json_decref(j);
    const json_t *q = json_object_get(config, "quantization_config");
    const char *format = json_string_value(json_object_get(q, "format"));
    EXPECT(format && !strcmp(format, "mixed-precision"), "%s", format);
    static const char *const formats[] = { "nvfp4-pack-quantized", "mxfp4-pack-quantized" };
    static const char *const first[] = { "model.layers.0.self_attn.", "model.layers.0.mlp." };
    static const int sizes[] = { 16, 32 }, counts[] = { 8, 6 };
    for (int i = 0; i < 2; i++) {
        const json_t *g = json_object_get(json_object_get(q, "config_groups"),
                                          i ? "group_1" : "group_0");
        const json_t *names = json_object_get(g, "targets");
        const char *name = json_string_value(json_array_get(names, 0));
        const char *own = json_string_value(json_object_get(g, "format"));
        EXPECT((int)json_array_size(names) == counts[i] && name && has(name, first[i])
                   && !has(name, ".weight"), "%d: %zu, %s", i, json_array_size(names), name);
        EXPECT(own && !strcmp(own, formats[i]), "%d: %s", i, own);
        EXPECT(json_integer_value(json_object_get(json_object_get(g, "weights"), "group_size"))
                   == sizes[i], "%d", i);
    }
    const json_t *ignored = json_object_get(q, "ignore");
    EXPECT(json_array_size(ignored) == 1, "%zu are ignored", json_array_size(ignored));
    json_decref(config);
    expect_parts("compressed-tensors");
    temp_dir_remove(&dir);
}

NIB_TEST(NibblePolicy, GgufHasATypeForEachTensor)
{
    REQUIRE(begin(), "%s", src);
    snprintf(src, sizeof src, "%s/src.gguf", dir.path);
    REQUIRE(fixture_gguf(src, fixture_llama_gguf(NIB_TT_F16), FIXTURE_LLAMA), "%s", src);
    snprintf(dst, sizeof dst, "%s/dst.gguf", dir.path);
    snprintf(other, sizeof other, "%s/other.gguf", dir.path);
    write_policy(two);
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy);
    REQUIRE(r.status == 0, "%s", r.err);
    expect_parts("gguf");
    /* What shares a tensor scale elsewhere may differ here. */
    write_policy("*q_proj* nvfp4\n*k_proj* mxfp4\n*v_proj* nvfp4 mse\n");
    r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy, "-f", "--json", json_path);
    REQUIRE(r.status == 0, "%s", r.err);
    json_t *j = json_load_file(json_path, 0, NULL);
    const double q = json_number_value(entry(j, "model.layers.0.self_attn.q_proj.weight",
                                             "tensor_scale"));
    const double v = json_number_value(entry(j, "model.layers.0.self_attn.v_proj.weight",
                                             "tensor_scale"));
    EXPECT(count_type(j, "NVFP4") == 4 && count_type(j, "MXFP4") == 2 && q > 0 && q != v,
           "scales %g, %g", q, v);
    json_decref(j);
    temp_dir_remove(&dir);
}

/* What --policy default says; that of training is refused, and which line and layer it is about. */
NIB_TEST(NibblePolicy, EveryExportHoldsTheDefault)
{
    static const char *const exports[] = { "modelopt", "compressed-tensors", "gguf" };
    char gguf[300];
    REQUIRE(begin(), "%s", src);
    snprintf(gguf, sizeof gguf, "%s/src.gguf", dir.path);
    REQUIRE(fixture_gguf(gguf, fixture_llama_gguf(NIB_TT_F16), FIXTURE_LLAMA), "%s", gguf);
    for (int i = 0; i < 3; i++) {
        snprintf(dst, sizeof dst, "%s/dst%s", dir.path, i == 2 ? ".gguf" : "");
        tool_result r = tool_run(&dir, "quantize", i == 2 ? gguf : src, "-o", dst, "--policy",
                                 "default", "--export", exports[i], "--json", json_path, "-f");
        EXPECT(r.status == 0 && has(r.out, "by policy"), "%s: %s", exports[i], r.err);
        json_t *j = json_load_file(json_path, 0, NULL);
        EXPECT(count_type(j, "NVFP4") == 14, "%s: %d", exports[i], count_type(j, "NVFP4"));
        json_decref(j);
        write_policy(nib_policy_default_text());
        r = tool_run(&dir, "quantize", i == 2 ? gguf : src, "--policy", policy, "--export",
                     exports[i], "--dry-run");
        EXPECT(r.status == 1 && has(r.err, "line 8, '*embed_tokens.weight fp8-e4m3-b8', decides "
                                           "for model.embed_tokens.weight")
                   && has(r.err, "cannot hold fp8-e4m3-b8"), "%s: %s", exports[i], r.err);
    }
    temp_dir_remove(&dir);
}

/* Names of other families, each of which lacks some: quantized is what --format nvfp4 takes. */
NIB_TEST(NibblePolicy, TheDefaultIsForAnyModel)
{
    static const struct { const char *names[6]; int quantized; } rows[] = {
        { { "model.layers.0.self_attn.q_proj.weight", "model.layers.0.block_sparse_moe.gate.weight",
            "model.layers.0.block_sparse_moe.experts.0.w1.weight",
            "model.layers.0.block_sparse_moe.experts.0.w2.weight",
            "model.layers.0.block_sparse_moe.experts.0.w3.weight" }, 4 },
        { { "model.decoder.embed_positions.weight",
            "model.decoder.layers.0.self_attn.q_proj.weight", "model.decoder.layers.0.fc1.weight",
            "model.decoder.layers.0.fc2.weight" }, 3 },
        { { "backbone.layers.0.mixer.in_proj.weight", "backbone.layers.0.mixer.out_proj.weight",
            "backbone.layers.0.mixer.A_log" }, 2 },
        { { "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight" }, 2 },
        { { "transformer.h.0.attn.c_attn.weight", "transformer.wte.weight",
            "transformer.h.0.mlp.c_fc.weight" }, 2 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fixture_tensor t[6];
        size_t n = 0;
        for (; n < 6 && rows[i].names[n]; n++)
            t[n] = (fixture_tensor){ rows[i].names[n], NIB_TT_BF16, 2, { 64, 64 }, 1, NULL };
        REQUIRE(begin() && fixture_folder(dst, t, n, 1), "%s", dst);
        tool_result r = tool_run(&dir, "quantize", dst, "-o", other, "--policy", "default",
                                 "--json", json_path);
        EXPECT(r.status == 0, "%zu: %s", i, r.err);
        json_t *j = json_load_file(json_path, 0, NULL);
        EXPECT(count_type(j, "NVFP4") == rows[i].quantized, "%zu: %d", i, count_type(j, "NVFP4"));
        json_decref(j);
        r = tool_run(&dir, "quantize", dst, "-o", other, "-f", "--json", json_path);
        EXPECT(r.status == 0, "%zu: %s", i, r.err);
        j = json_load_file(json_path, 0, NULL);
        EXPECT(count_type(j, "NVFP4") == rows[i].quantized, "%zu: %d", i, count_type(j, "NVFP4"));
        json_decref(j);
        temp_dir_remove(&dir);
    }
    const fixture_tensor none = { "model.embed_tokens.weight", NIB_TT_BF16, 2, { 64, 64 }, 1,
                                  NULL };
    REQUIRE(begin() && fixture_folder(dst, &none, 1, 1), "%s", dst);
    tool_result r = tool_run(&dir, "quantize", dst, "-o", other, "--policy", "default");
    EXPECT(r.status == 1 && has(r.err, "the default policy quantizes no matrix of the model"), "%s",
           r.err);
    r = tool_run(&dir, "quantize", src, "--policy", "default", "--dry-run");
    EXPECT(r.status == 0 && has(r.out, "The default policy:\n") && has(r.out,
           nib_policy_export_text()), "%s%s", r.out, r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibblePolicy, ShardsAndRestartsNeedTheSamePolicy)
{
    static const char another[] = "*.self_attn.* nvfp4\n*.mlp.* mxfp4 mse te\n";
    const int stop = 1;
    char part[2][310];
    nib_policy *p = NULL;
    REQUIRE(begin(), "%s", src);
    write_policy(two);
    tool_result r = tool_run(&dir, "quantize", src, "-o", other, "--policy", policy);
    REQUIRE(r.status == 0, "%s", r.err);
    for (int i = 0; i < 2; i++) {
        snprintf(part[i], sizeof part[i], "%s-%d", dst, i);
        r = tool_run(&dir, "quantize", src, "-o", part[i], "--policy", policy, "--shard",
                     i ? "2/2" : "1/2");
        EXPECT(r.status == 0, "%s", r.err);
    }
    r = tool_run(&dir, "merge", part[0], part[1], "-o", dst);
    EXPECT(r.status == 0 && fixture_same_tensors(dst, other), "%s", r.err);
    json_t *a = fixture_json(dst, "config.json"), *b = fixture_json(other, "config.json");
    EXPECT(a && json_equal(a, b), "the configuration of merged parts");
    json_decref(a), json_decref(b);
    write_policy(another);
    r = tool_run(&dir, "quantize", src, "-o", part[1], "--policy", policy, "--shard", "2/2", "-f");
    EXPECT(r.status == 0, "%s", r.err);
    r = tool_run(&dir, "merge", part[0], part[1], "-o", dst, "-f");
    EXPECT(r.status == 1, "parts by two policies: %d", r.status);

    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4);
    REQUIRE(nib_policy_parse("two", two, sizeof two - 1, &p) == NIB_OK, "%s", nib_last_error());
    o.policy = p, o.cancel = &stop, o.force = 1;
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_ERR_CANCELLED, "%s",
           nib_last_error());
    nib_policy_close(p);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy, "--resume", "-f");
    EXPECT(r.status == 1 && has(r.err, "policy="), "%d: %s", r.status, r.err);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4-b32", "--export",
                 "compressed-tensors", "--resume", "-f");
    EXPECT(r.status == 1 && has(r.err, "made with 'policy=")
               && has(r.err, "this run has 'format=int4-b32'"), "%s", r.err);
    write_policy(two);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy, "--resume", "-f");
    EXPECT(r.status == 0 && fixture_same(dst, other), "%d: %s", r.status, r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibblePolicy, WhatCannotBeIsRefusedInOneSentence)
{
    static const struct {
        const char *policy, *export_as, *says[3];
    } rows[] = {
        { "*norm* keep\n*.mlp.* fp8-e4m3-b16\n", "modelopt",
          { "line 2", "layers.0.mlp.", "modelopt cannot hold fp8-e4m3-b16" } },
        { "*.mlp.* mxfp4", "modelopt", { "line 1", ".mlp.", "know nvfp4" } },
        { "*.mlp.* nvfp4-b32", "compressed-tensors", { "line 1", "nvfp4-b32", "nvfp4 and mxfp4" } },
        { "*.mlp.* mxfp6-e2m3", "gguf", { "line 1", "mxfp6-e2m3", "gguf" } },
        { "*q_proj* nvfp4\n*k_proj* mxfp4\n", "compressed-tensors",
          { "lines", "_proj", "one matrix" } },
        { "*up_proj* nvfp4\n*gate_proj* nvfp4 mse\n", "modelopt",
          { "lines", "up_proj", "unlike" } },
        { "*.mlp.* nvfp4\n*.self_atn.* nvfp4\n", "modelopt",
          { "line 2", "*.self_atn.*", "no matrix" } },
        { "*norm.weight nvfp4\n", "modelopt", { "line 1", "*norm.weight", "no matrix" } },
        { "*.mlp.* fp3\n", "modelopt", { "policy:1", "fp3", "keep" } },
    };
    char gguf[300];
    REQUIRE(begin(), "%s", src);
    snprintf(gguf, sizeof gguf, "%s/src.gguf", dir.path);
    REQUIRE(fixture_gguf(gguf, fixture_llama_gguf(NIB_TT_F16), FIXTURE_LLAMA), "%s", gguf);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *from = strcmp(rows[i].export_as, "gguf") ? src : gguf;
        write_policy(rows[i].policy);
        const tool_result r = tool_run(&dir, "quantize", from, "-o", dst, "--policy", policy,
                                       "--export", rows[i].export_as, "--dry-run");
        EXPECT(r.status == 1, "%zu: %d: %s%s", i, r.status, r.out, r.err);
        for (int k = 0; k < 3; k++) EXPECT(has(r.err, rows[i].says[k]), "%zu: %s", i, r.err);
        EXPECT(strchr(r.err, '\n') == r.err + strlen(r.err) - 1, "more than a line: %s", r.err);
    }
    /* Caches are no tensors of a file, and a keep may keep nothing. */
    write_policy("*.?_cache fp8-e4m3-b16\n*router* keep\n*.mlp.* nvfp4\n");
    tool_result r = tool_run(&dir, "quantize", src, "--policy", policy, "--dry-run");
    EXPECT(r.status == 0, "%s", r.err);
    static const char *const also[][2] = { { "--format", "nvfp4" }, { "--rules", "te" },
        { "--include", "*" }, { "--scale-choice", "mse" }, { "--block", "16" } };
    for (int i = 0; i < 5; i++) {
        r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", policy, also[i][0], also[i][1]);
        EXPECT(r.status == 2 && has(r.err, also[i][0]) && has(r.err, "--policy"), "%d: %s",
               r.status, r.err);
    }
    r = tool_run(&dir, "quantize", src, "-o", dst, "--policy", "/no/such/policy");
    EXPECT(r.status == 1 && has(r.err, "/no/such/policy"), "%d: %s", r.status, r.err);
    EXPECT(temp_count(dst) < 0, "written all the same");
    r = tool_run(&dir, "quantize", src, "-o", dir.path, "--force", "--policy", policy);
    EXPECT(r.status == 1 && has(r.err, "the policy, is it or lies in it"), "%s", r.err);
    r = tool_run(&dir, "quantize", src, "--dry-run", "--policy", policy, "--json", policy);
    EXPECT(r.status == 1 && has(r.err, "the policy, is it or lies in it"), "%s", r.err);

    nib_policy *p = NULL;
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(nib_policy_open(policy, &p) == NIB_OK, "%s", nib_last_error());
    const char *const all = "*_proj*";
    o.policy = p, o.include = &all, o.n_include = 1, o.dry_run = 1;
    EXPECT_FAILS("include", nib_checkpoint_quantize(fixture_exec(1), src, NULL, &o, NULL),
                 NIB_ERR_ARGUMENT, "include");
    o.size = offsetof(nib_checkpoint_options, policy); /* the version before */
    EXPECT(nib_checkpoint_quantize(fixture_exec(1), src, NULL, &o, NULL) == NIB_OK, "%s",
           nib_last_error());
    nib_policy_close(p);
    temp_dir_remove(&dir);
}
