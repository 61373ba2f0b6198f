/* nibble_gptq_test.c: `nibble gptq` and `nibble quantize --method gptq` write what the library
 * writes (checkpoint_gptq_test.c has the bytes); what they say, and what they refuse. */
#include <math.h>
#include <time.h>

#include "gptq_model.h"
#include "run_tool.h"
#include "shim.h"

static temp_dir dir;
static char src[300], dst[300], other[300], hessians[300], json_path[300];

static int begin(void)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/layers.safetensors", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    snprintf(other, sizeof other, "%s/other", dir.path);
    snprintf(hessians, sizeof hessians, "%s/h.safetensors", dir.path);
    snprintf(json_path, sizeof json_path, "%s/report.json", dir.path);
    return fixture_safetensors(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA)
        && gptq_save_hessians(hessians, NIB_REAL_F32, GPTQ_INPUTS);
}

static int has(const char *text, const char *part) { return strstr(text, part) != NULL; }

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* What the library makes with the tool's defaults, but for these. */
static nib_status by_library(const char *to, nib_export export_as, nib_format format,
                             const nib_checkpoint_gptq *gptq)
{
    nib_checkpoint_options o = fixture_options(export_as, format);
    o.gptq = gptq;
    return nib_checkpoint_quantize(fixture_exec(1), src, to, &o, NULL);
}

/* A matrix P is kept, unlike P.weight, and that is said. */
NIB_TEST(NibbleGptq, MatricesWithoutWeightInTheirNames)
{
    static const fixture_tensor t[] = {
        { "a.down_proj", NIB_TT_F32, 2, { 16, 64 }, 1.0f, NULL },
        { "b.down_proj.weight", NIB_TT_F32, 2, { 16, 64 }, 1.0f, NULL } };
    REQUIRE(begin(), "%s", nib_last_error());
    temp_dir_remove_at(src);
    REQUIRE(fixture_safetensors(src, t, 2) && gptq_save_diagonal(hessians, "b.down_proj", 64, 3, 1),
            "%s", src);
    tool_result r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", dst, "--dry-run");
    EXPECT(r.status == 0 && has(r.out, "1 matrices kept, first a.down_proj;"), "%d: %s%s", r.status,
           r.out, r.err);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--include", "*down_proj*");
    EXPECT(r.status == 0 && !has(r.out, "matrices kept"), "%d: %s%s", r.status, r.out, r.err);
    REQUIRE(fixture_safetensors(src, t, 1), "%s", src);
    r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", other, "--dry-run");
    EXPECT(r.status == 1 && has(r.err, "named P.weight"), "%d: %s", r.status, r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleGptq, WritesWhatTheLibraryWrites)
{
    nib_gptq_factor_options factor = { .size = sizeof factor, .order = NIB_GPTQ_ACT };
    nib_checkpoint_gptq gptq = { .size = sizeof gptq, .factor = &factor, .all = 1,
                                 .scales = NIB_GPTQ_SCALES_HESSIAN };
    NEEDS_OPENBLAS;
    REQUIRE(begin(), "%s", nib_last_error());
    gptq.hessians = hessians;
    REQUIRE(by_library(other, NIB_EXPORT_MODELOPT, NIB_NVFP4, &gptq) == NIB_OK, "%s",
            nib_last_error());
    tool_result r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", dst, "-t", "3");
    EXPECT(r.status == 0 && fixture_same(dst, other), "defaults: %d: %s", r.status, r.err);
    EXPECT(has(r.out, "14 tensors") && has(r.out, "128x64") && has(r.out, "layers.1.mlp.up_proj"),
           "%s", r.out);
    r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", dst);
    EXPECT(r.status == 1 && has(r.err, "exists"), "%d: %s", r.status, r.err);

    const char *inputs = temp_path(&dir, "inputs.safetensors");
    REQUIRE(fixture_safetensors(inputs, gptq_inputs(), GPTQ_INPUTS), "%s", inputs);
    r = tool_run(&dir, "gptq", src, "--inputs", inputs, "-o", dst, "--force", "-q");
    EXPECT(r.status == 0 && !r.out[0] && fixture_same(dst, other), "inputs: %d: %s", r.status,
           r.err);

    r = tool_run(&dir, "gptq", src, "--inputs", inputs, "-o", dst, "-f", "--damping", "0", "-j",
                 "-");
    EXPECT(r.status == 0 && has(r.out, "\"damping\": 0.0,"), "none: %d: %s", r.status, r.err);

    temp_dir_remove_at(other);
    factor.order = NIB_GPTQ_NATURAL;
    factor.damping = 0.05;
    gptq.scales = NIB_GPTQ_SCALES_FRESH;
    gptq.real_bits = 64;
    gptq.rotate = 16;
    REQUIRE(by_library(other, NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4, &gptq) == NIB_OK, "%s",
            nib_last_error());
    r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", dst, "-f", "--format", "mxfp4",
                 "--order", "natural", "--scales", "fresh", "--damping", "0.05", "--real", "f64",
                 "--rotate", "16", "-q");
    EXPECT(r.status == 0 && fixture_same(dst, other), "options: %d: %s", r.status, r.err);
    json_t *note = fixture_json(dst, "nibble_rotation.json");
    EXPECT(json_integer_value(json_object_get(note, "hadamard")) == 16, "no note of the rotation");
    json_decref(note);
    temp_dir_remove(&dir);
}

/* Tensors of layers called part whose error against the other model is not 0; -1: none to see. */
static int differing(const char *part)
{
    int n = 0, seen = 0;
    const tool_result r = tool_run(&dir, "compare", other, dst, "--json", json_path);
    EXPECT(r.status == 0, "%s", r.err);
    json_t *j = json_load_file(json_path, 0, NULL);
    const json_t *t;
    size_t i;
    json_array_foreach(json_object_get(j, "tensors"), i, t) {
        if (!has(json_string_value(json_object_get(t, "name")), part)) continue;
        seen++;
        n += number(t, "sum_sq_error") != 0;
    }
    json_decref(j);
    return seen ? n : -1;
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    REQUIRE(f && fputs(text, f) >= 0 && !fclose(f), "%s", path);
}

NIB_TEST(NibbleGptq, APolicyGivesEachLayerItsFormat)
{
    static const char *const parts[][2] = { { "nvfp4", ".self_attn." }, { "mxfp4", ".mlp." } };
    REQUIRE(begin(), "%s", nib_last_error());
    const char *policy = temp_path(&dir, "policy");
    write_text(policy, "*.self_attn.* nvfp4\n*.mlp.* mxfp4\n");
    tool_result r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians,
                             "--order", "group-aware", "--policy", policy, "-o", dst);
    REQUIRE(r.status == 0, "%d: %s", r.status, r.err);
    for (int i = 0; i < 2; i++) {
        char include[64];
        snprintf(include, sizeof include, "*%s*", parts[i][1]);
        r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians, "--order",
                     "group-aware", "--format", parts[i][0], "--include", include, "--export",
                     "compressed-tensors", "-o", other, "-f");
        EXPECT(r.status == 0 && differing(parts[i][1]) == 0 && differing(parts[1 - i][1]) > 0,
               "%s: %s", parts[i][0], r.err);
    }
    /* Layers of one Hessian: the factor of the one before was made for another block. */
    snprintf(src, sizeof src, "%s/src.gguf", dir.path);
    snprintf(dst, sizeof dst, "%s/dst.gguf", dir.path);
    snprintf(other, sizeof other, "%s/other.gguf", dir.path);
    REQUIRE(fixture_gguf(src, fixture_llama_gguf(NIB_TT_F16), FIXTURE_LLAMA), "%s", src);
    write_text(policy, "*q_proj* nvfp4\n*k_proj* mxfp4\n");
    r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians, "--order",
                 "group-aware", "--policy", policy, "-o", dst);
    EXPECT(r.status == 0, "%d: %s", r.status, r.err);
    r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians, "--order",
                 "group-aware", "--format", "mxfp4", "--include", "*k_proj*", "-o", other);
    EXPECT(r.status == 0 && differing("k_proj") == 0 && differing("q_proj") == 2, "%s", r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleGptq, JsonTellsOfEveryLayer)
{
    NEEDS_OPENBLAS;
    REQUIRE(begin(), "%s", nib_last_error());
    const tool_result r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", dst, "--json",
                                   json_path);
    REQUIRE(r.status == 0, "%d: %s", r.status, r.err);
    json_t *j = json_load_file(json_path, JSON_REJECT_DUPLICATES, NULL);
    REQUIRE(j, "no JSON");
    const json_t *all = json_object_get(j, "gptq"), *tensors = json_object_get(j, "tensors");
    int layers = 0;
    double sum = 0;
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *t = json_array_get(tensors, i), *g = json_object_get(t, "gptq");
        const char *name = json_string_value(json_object_get(t, "name"));
        char text[128];
        EXPECT(!g == !json_is_true(json_object_get(t, "quantized")), "%s", name);
        if (!g) continue;
        layers++;
        sum += number(g, "ratio");
        EXPECT(!strcmp(json_string_value(json_object_get(g, "hessian")),
                       gptq_feeds(name, text, sizeof text)), "%s: %s", name, text);
        EXPECT(!strcmp(json_string_value(json_object_get(g, "outcome")), "done"), "%s", name);
        EXPECT(number(g, "ratio") > 0 && number(g, "ratio") < 0.6, "%s: %g", name,
               number(g, "ratio"));
        EXPECT(fabs(number(g, "error") / number(g, "weight") - number(g, "relative_error")) < 1e-12
                   && number(g, "tokens") > GPTQ_TOKENS - 0.5 && number(g, "tries") > 0.5
                   && json_is_number(json_object_get(json_object_get(g, "seconds"), "sweep")),
               "%s", name);
    }
    EXPECT(layers == 14 && number(all, "layers") > 13.5, "%d layers", layers);
    EXPECT(fabs(number(all, "mean_ratio") - sum / layers) < 1e-9
               && number(all, "median_ratio") <= number(all, "worst_ratio"), "figures of all");
    json_decref(j);
    temp_dir_remove(&dir);
}

/* Sums that overflow: null, where JSON has no number, beside all the others. */
NIB_TEST(NibbleGptq, JsonHasNullForWhatOverflows)
{
    const char *name = "model.layers.0.self_attn.q_proj";
    const fixture_tensor large = { "model.layers.0.self_attn.q_proj.weight", NIB_TT_BF16, 2,
                                   { 32, 64 }, 1e30f, NULL };
    NEEDS_OPENBLAS;
    REQUIRE(begin(), "%s", nib_last_error());
    REQUIRE(fixture_safetensors(src, &large, 1) && gptq_save_diagonal(hessians, name, 64, 3, 1e300),
            "files");
    const tool_result r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", dst, "--json",
                                   json_path);
    REQUIRE(r.status == 0, "%d: %s", r.status, r.err);
    json_t *j = json_load_file(json_path, JSON_REJECT_DUPLICATES, NULL);
    REQUIRE(j, "no JSON");
    const json_t *g = json_object_get(json_array_get(json_object_get(j, "tensors"), 0), "gptq");
    EXPECT(json_is_null(json_object_get(g, "error")) && json_is_null(json_object_get(g, "weight"))
               && json_is_null(json_object_get(g, "plain_error")) && number(g, "rows") > 31.5
               && number(json_object_get(j, "gptq"), "layers") > 0.5, "an error or weight");
    json_decref(j);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleGptq, QuantizeRoundsOthersPlainly)
{
    NEEDS_OPENBLAS;
    REQUIRE(begin(), "%s", nib_last_error());
    REQUIRE(gptq_save_hessians(hessians, NIB_REAL_F32, GPTQ_INPUTS / 2), "%s", nib_last_error());
    const char *gguf = temp_path(&dir, "m.gguf"), *to = temp_path(&dir, "o.gguf");
    tool_result r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians,
                             "-o", dst, "--dry-run");
    EXPECT(r.status == 0 && has(r.out, "7 tensors\n") && has(r.out, "7 have no Hessian"), "%s",
           r.out);
    r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians, "-o", dst);
    EXPECT(r.status == 0 && has(r.out, "median 0.") && has(r.out, "7 have no Hessian (first "
           "model.layers.1.self_attn.q_proj.weight)"), "%d: %s%s", r.status, r.out, r.err);
    r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", other);
    EXPECT(r.status == 1 && has(r.err, "7 of the 14") && has(r.err, "layers.1.self_attn.q_proj"),
           "%d: %s", r.status, r.err);
    r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", other, "--exclude", "*layers.1*");
    EXPECT(r.status == 0, "%d: %s", r.status, r.err);
    REQUIRE(fixture_gguf(gguf, fixture_llama_gguf(NIB_TT_F16), FIXTURE_LLAMA), "%s", gguf);
    r = tool_run(&dir, "quantize", gguf, "--method", "gptq", "--hessians", hessians, "-o", to,
                 "--format", "mxfp4");
    EXPECT(r.status == 0 && has(r.out, "GPTQ             7 tensors"), "%d: %s", r.status, r.err);
    r = tool_run(&dir, "info", to);
    EXPECT(r.status == 0 && has(r.out, "MXFP4"), "%s", r.out);
    temp_dir_remove(&dir);
}

/* A stop by SIGINT at any moment; the journal's own tests have kills. */
NIB_TEST(NibbleGptq, ResumesAfterAStop)
{
    NEEDS_OPENBLAS;
    REQUIRE(begin(), "%s", nib_last_error());
    const char *const args[] = { "gptq", src, "--hessians", hessians, "-o", dst, "-t", "1",
                                 "--scales", "hessian-full", "--resume", NULL };
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    REQUIRE(tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", other, "-t", "1", "--scales",
                     "hessian-full").status == 0, "the undisturbed run");
    clock_gettime(CLOCK_MONOTONIC, &to);
    const double whole_us = 1e6 * (double)(to.tv_sec - from.tv_sec)
                          + 1e-3 * (double)(to.tv_nsec - from.tv_nsec);
    int stopped = 0;
    for (int i = 0; i < 200 && (!stopped || !fixture_has(dir.path, "dst")); i++) {
        char out[300], err[300];
        snprintf(out, sizeof out, "%s/out.txt", dir.path);
        snprintf(err, sizeof err, "%s/err.txt", dir.path);
        temp_dir_remove_at(dst); /* of a run that was too fast for us */
        const pid_t child = tool_start(args, out, err, NULL);
        usleep((useconds_t)(whole_us * 0.05 * (i % 23)));
        kill(child, SIGINT);
        const int status = tool_wait(child, NULL);
        EXPECT(status == 0 || status == 1 || status == -SIGINT, "%d", status);
        stopped += status != 0;
    }
    EXPECT(tool_run_with(&dir, NULL, args).status == (fixture_has(dir.path, "dst") ? 1 : 0), "end");
    EXPECT(stopped > 0 && fixture_same(dst, other), "%d stops, other bytes", stopped);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleGptq, RefusesBadHessiansByName)
{
    const char *q = "model.layers.0.self_attn.q_proj";
    NEEDS_OPENBLAS;
    REQUIRE(begin(), "%s", nib_last_error());
    REQUIRE(gptq_save_diagonal(hessians, q, 64, 3, NAN), "%s", nib_last_error());
    tool_result r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians,
                             "-o", dst);
    EXPECT(r.status == 1 && has(r.err, q) && has(r.err, "[3, 3]") && has(r.err, hessians), "%d: %s",
           r.status, r.err);
    static const char *const rotations[] = { "0", "16" }; /* named as in the file */
    REQUIRE(gptq_save_element(hessians, q, 64, 19, 4, NAN), "%s", nib_last_error());
    for (int i = 0; i < 2; i++) {
        r = tool_run(&dir, "gptq", src, "--hessians", hessians, "-o", dst, "--rotate",
                     rotations[i], "--include", "*layers.0.self_attn.q_proj*");
        EXPECT(r.status == 1 && has(r.err, "q_proj.weight, with") && has(r.err, hessians)
                   && has(r.err, q) && has(r.err, "row 19, column 4"), "%d: %s", r.status, r.err);
    }
    REQUIRE(gptq_save_diagonal(hessians, q, 48, 3, 1), "%s", nib_last_error());
    r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians, "-o", dst);
    EXPECT(r.status == 1 && has(r.err, "q_proj.weight: has 64 inputs") && has(r.err, ", 48"),
           "%d: %s", r.status, r.err);
    r = tool_run(&dir, "gptq", src, "--inputs", "/no/such/file", "-o", dst);
    EXPECT(r.status == 1 && has(r.err, "/no/such/file"), "%d: %s", r.status, r.err);
    EXPECT(temp_count(dst) < 0, "written all the same");

    /* Nothing but zeros: said, and rounded plainly. */
    REQUIRE(gptq_save_diagonal(hessians, q, 64, 3, 1), "%s", nib_last_error());
    const fixture_tensor zeros = { q, NIB_TT_F32, 2, { 64, 64 }, 0, NULL };
    REQUIRE(fixture_safetensors(hessians, &zeros, 1), "%s", hessians);
    r = tool_run(&dir, "quantize", src, "--method", "gptq", "--hessians", hessians, "-o", dst);
    EXPECT(r.status == 0 && has(r.out, "GPTQ             0 tensors") && has(r.out, "3 whose inputs "
           "were never seen"), "%d: %s%s", r.status, r.out, r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleGptq, WrongUsageNamesTheChoices)
{
    static const struct {
        const char *option, *value, *says;
    } rows[] = {
        { "--order", "random", "natural, act, group-aware" },
        { "--scales", "best", "frozen, fresh, hessian, hessian-fresh, hessian-full" },
        { "--scales", "fresh", "natural or group-aware" },
        { "--real", "f16", "f32, f64" },
        { "--rotate", "8", "0, 16, 32, 64, 128" },
        { "--damping", "x", "from 0 to" },
        { "--damping", "-1", "from 0 to" },
        { "--damping", "nan", "from 0 to" },
        { "--inputs", "also", "one of --hessians" },
        { "--export", "onnx", "modelopt" },
        { "--method", "gptq", "unrecognized" },
    };
    NEEDS_OPENBLAS;
    REQUIRE(begin(), "%s", nib_last_error());
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const tool_result r = tool_run(&dir, "gptq", src, "-o", dst, "--hessians", hessians,
                                       rows[i].option, rows[i].value);
        EXPECT(r.status == 2 && has(r.err, rows[i].says), "%s %s: %d: %s", rows[i].option,
               rows[i].value, r.status, r.err);
    }
    tool_result r = tool_run(&dir, "gptq", src, "-o", dst);
    EXPECT(r.status == 2 && has(r.err, "--inputs"), "%s", r.err);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--method", "gptq");
    EXPECT(r.status == 2 && has(r.err, "--hessians"), "%s", r.err);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--damping", "1");
    EXPECT(r.status == 2 && has(r.err, "--method gptq"), "%s", r.err);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--method", "gptq", "--hessians", hessians,
                 "--rounding", "stochastic");
    EXPECT(r.status == 2 && has(r.err, "nearest"), "%s", r.err);
    EXPECT(temp_count(dst) < 0, "written all the same");
    temp_dir_remove(&dir);
}
