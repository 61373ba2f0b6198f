/* nibble_integers_test.c: int4 and int8 on the command line: they write what the library writes
 * (checkpoint_integers_test.c has the bytes); what they say, and what they refuse. */
#include "gptq_model.h"
#include "run_tool.h"

static temp_dir dir;
static char src[300], dst[300], other[300], hessians[300], json_path[300];

static void begin(void)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    snprintf(other, sizeof other, "%s/other", dir.path);
    snprintf(hessians, sizeof hessians, "%s/h.safetensors", dir.path);
    snprintf(json_path, sizeof json_path, "%s/report.json", dir.path);
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", src);
}

static int has(const char *text, const char *part) { return strstr(text, part) != NULL; }

/* 1 if what stands at dst is what the library makes. */
static int by_library(nib_format format, const nib_checkpoint_gptq *gptq)
{
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, format);
    o.gptq = gptq;
    const nib_status s = nib_checkpoint_quantize(fixture_exec(1), src, other, &o, NULL);
    EXPECT(s == NIB_OK, "%s", nib_last_error());
    const int same = fixture_same(dst, other);
    temp_dir_remove_at(dst);
    temp_dir_remove_at(other);
    return same;
}

NIB_TEST(NibbleIntegers, OptionsAndNamesMakeOneFormat)
{
    begin();
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4", "--block", "32");
    EXPECT(r.status == 0 && has(r.out, "int4-b32, compressed-tensors\n"), "%s%s", r.out, r.err);
    EXPECT(has(r.out, "bits per weight  4.5") && has(r.out, "Worst tensors"), "%s", r.out);
    EXPECT(by_library(nib_int_format_make(NIB_INT4, 32, 0), NULL), "--block");
    r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int8", "--block", "channel",
                 "--asymmetric");
    EXPECT(r.status == 0 && has(r.out, "int8-channel-asym, "), "%s%s", r.out, r.err);
    EXPECT(by_library(nib_int_format_make(NIB_INT8, 0, 1), NULL), "--asymmetric");
    r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4-b16-asym", "--json", json_path,
                 "--counts");
    EXPECT(r.status == 0, "%s", r.err);
    json_t *j = json_load_file(json_path, 0, NULL);
    const json_t *tensors = json_object_get(j, "tensors"), *t = NULL;
    for (size_t i = 0; i < json_array_size(tensors) && !t; i++)
        if (json_object_get(json_array_get(tensors, i), "code_count"))
            t = json_array_get(tensors, i);
    EXPECT(t && json_array_size(json_object_get(t, "code_count")) == 16
               && !json_object_get(t, "scale_count"), "counts of 16 codes");
    json_decref(j);
    EXPECT(by_library(nib_int_format_make(NIB_INT4, 16, 1), NULL), "a name");
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleIntegers, InfoAndCompare)
{
    begin();
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int8-b32", "--quiet");
    REQUIRE(r.status == 0, "%s", r.err);
    r = tool_run(&dir, "info", dst);
    EXPECT(r.status == 0 && has(r.out, "q_proj               INT8-B32   64x64")
               && has(r.out, "BF16"), "%s%s", r.out, r.err);
    r = tool_run(&dir, "quantize", src, "-o", other, "--format", "int4-channel-asym", "--quiet");
    REQUIRE(r.status == 0, "%s", r.err);
    r = tool_run(&dir, "info", other);
    EXPECT(r.status == 0 && has(r.out, "layer type           stored as         dims ")
               && has(r.out, "q_proj               INT4-CHANNEL-ASYM 64x64"), "%s", r.out);
    r = tool_run(&dir, "info", other, "--json", "-");
    EXPECT(r.status == 0 && has(r.out, "\"stored_type\": \"INT4-CHANNEL-ASYM\""), "%s", r.out);
    temp_dir_remove_at(other);
    r = tool_run(&dir, "compare", src, dst);
    EXPECT(r.status == 0 && has(r.out, "21 tensors, 7 of them equal") && has(r.out, "down_proj"),
           "%s%s", r.out, r.err);
    r = tool_run(&dir, "quantize", dst, "-o", other, "--format", "int4");
    EXPECT(r.status == 1 && has(r.err, "quantized already (compressed-tensors)"), "%s", r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleIntegers, SaysThatABareFileHasNoConfiguration)
{
    static const char *const says = "config.json      none, as beside the source";
    begin();
    const char *bare = temp_path(&dir, "bare.safetensors");
    REQUIRE(fixture_safetensors(bare, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA), "%s", bare);
    tool_result r = tool_run(&dir, "quantize", bare, "-o", other, "--format", "int4-b32");
    EXPECT(r.status == 0 && has(r.out, says) && !fixture_has(other, "config.json"), "%s%s", r.out,
           r.err);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4-b32");
    EXPECT(r.status == 0 && !has(r.out, says), "%s%s", r.out, r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleIntegers, DryRunSaysTheSizes)
{
    begin();
    tool_result dry = tool_run(&dir, "quantize", src, "--dry-run", "--format", "int4", "--block",
                               "64", "--asymmetric", "--json", "-");
    EXPECT(dry.status == 0, "%s", dry.err);
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4-b64-asym",
                             "--quiet", "--json", json_path);
    EXPECT(r.status == 0, "%s", r.err);
    json_t *made = json_load_file(json_path, 0, NULL);
    r = tool_run(&dir, "quantize", src, "--dry-run", "--format", "int4-b64-asym", "--quiet",
                 "--json", json_path);
    EXPECT(r.status == 0, "%s", r.err);
    json_t *planned = json_load_file(json_path, 0, NULL);
    EXPECT(json_integer_value(json_object_get(made, "stored_bytes"))
               == json_integer_value(json_object_get(planned, "stored_bytes")), "other sizes");
    json_decref(made);
    json_decref(planned);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleIntegers, Gptq)
{
    nib_gptq_factor_options factor = { .size = sizeof factor, .order = NIB_GPTQ_ACT };
    nib_checkpoint_gptq gptq = { .size = sizeof gptq, .factor = &factor, .hessians = hessians,
                                 .scales = NIB_GPTQ_SCALES_HESSIAN };
    NEEDS_OPENBLAS;
    begin();
    REQUIRE(gptq_save_hessians(hessians, NIB_REAL_F32, GPTQ_INPUTS), "%s", nib_last_error());
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--method", "gptq", "--hessians",
                             hessians, "--format", "int4-b32");
    EXPECT(r.status == 0 && has(r.out, "GPTQ             14 tensors"), "%s%s", r.out, r.err);
    EXPECT(by_library(nib_int_format_make(NIB_INT4, 32, 0), &gptq), "quantize");
    gptq.all = 1;
    r = tool_run(&dir, "gptq", src, "-o", dst, "--hessians", hessians, "--format", "int8",
                 "--block", "32", "--asymmetric");
    EXPECT(r.status == 0 && has(r.out, "int8-b32-asym"), "%s%s", r.out, r.err);
    EXPECT(by_library(nib_int_format_make(NIB_INT8, 32, 1), &gptq), "gptq");
    gptq.scales = NIB_GPTQ_SCALES_FROZEN; /* the default of rows */
    r = tool_run(&dir, "gptq", src, "-o", dst, "--hessians", hessians, "--format", "int4-channel");
    EXPECT(r.status == 0, "%s%s", r.out, r.err);
    EXPECT(by_library(nib_int_format_make(NIB_INT4, 0, 0), &gptq), "channel");
    temp_dir_remove(&dir);
}

/* Without --scales each layer has those that its format can have: what it has alone. */
NIB_TEST(NibbleIntegers, GptqChoosesScalesByFormat)
{
    static const fixture_tensor t[] = {
        { "a.down_proj.weight", NIB_TT_BF16, 2, { 8, 256 }, 1.0f, NULL },
        { "a.o_proj.weight", NIB_TT_BF16, 2, { 8, 256 }, 1.0f, NULL },
    };
    static const char *const alone[][2] = { { "int8-b256", "*o_proj*" },
                                            { "int4-b32", "*down_proj*" } };
    char policy[300];
    NEEDS_OPENBLAS;
    begin();
    snprintf(hessians, sizeof hessians, "%s/h", dir.path);
    snprintf(policy, sizeof policy, "%s/policy", dir.path);
    FILE *f = fopen(policy, "w");
    REQUIRE(f && fputs("*down_proj* int8-b256\n*o_proj* int4-b32\n", f) >= 0 && fclose(f) == 0
                && mkdir(hessians, 0777) == 0, "%s", policy);
    REQUIRE(gptq_save_diagonal(temp_path(&dir, "h/1.safetensors"), "a.down_proj", 256, 3, 1)
                && gptq_save_diagonal(temp_path(&dir, "h/2.safetensors"), "a.o_proj", 256, 3, 1)
                && fixture_folder(other, t, 2, 1), "%s", nib_last_error());
    tool_result r = tool_run(&dir, "quantize", other, "-o", dst, "--method", "gptq", "--hessians",
                             hessians, "--policy", policy);
    EXPECT(r.status == 0 && has(r.out, "GPTQ             2 tensors"), "%s%s", r.out, r.err);
    for (int i = 0; i < 2; i++) {
        const char *part = temp_path(&dir, i ? "o" : "down");
        r = tool_run(&dir, "quantize", other, "-o", part, "--method", "gptq", "--hessians",
                     hessians, "--format", alone[i][0], "--exclude", alone[i][1]);
        EXPECT(r.status == 0, "%d: %s", i, r.err);
        r = tool_run(&dir, "compare", part, dst, "--json", json_path);
        json_t *j = json_load_file(json_path, 0, NULL);
        const json_t *tensors = json_object_get(j, "tensors");
        EXPECT(r.status == 0 && json_array_size(tensors) == 2, "%d: %s", i, r.err);
        for (size_t k = 0; k < json_array_size(tensors); k++) {
            const json_t *x = json_array_get(tensors, k);
            const int own = has(json_string_value(json_object_get(x, "name")), "o_proj") == i;
            EXPECT((json_number_value(json_object_get(x, "sum_sq_error")) == 0) == own, "%d, %zu",
                   i, k);
        }
        json_decref(j);
    }
    r = tool_run(&dir, "quantize", other, "-o", dst, "-f", "--method", "gptq", "--hessians",
                 hessians, "--policy", policy, "--scales", "hessian");
    EXPECT(r.status == 1 && has(r.err, "a.down_proj.weight: groups of 256 inputs")
               && has(r.err, "say --scales frozen"), "%s", r.err);
    temp_dir_remove(&dir);
}

/* The log says what qbench's line cannot. */
NIB_TEST(NibbleIntegers, LogNotesZeroPointsAndSteps)
{
    begin();
    setenv("NIBBLE_LOG", "bench", 1);
    setenv("NIBBLE_LOG_FILE", temp_path(&dir, "log"), 1);
    const tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4-b32-asym",
                                   "-t", "1");
    unsetenv("NIBBLE_LOG");
    unsetenv("NIBBLE_LOG_FILE");
    EXPECT(r.status == 0, "%s", r.err);
    char *log = temp_read(temp_path(&dir, "log"), NULL);
    const char *line = log ? strstr(log, "qbench quantize_steps") : NULL;
    EXPECT(line && has(line, "--dtype bf16 --element int4 --block 32 --rows")
               && has(line, " # with zero points # steps in bf16"), "%s", log);
    free(log);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleIntegers, WrongUsage)
{
    static const struct { const char *args[6], *words; } rows[] = {
        { { "--format", "int4", "--block", "12" }, "--block 12: of int4 a multiple of 8, or" },
        { { "--format", "int4", "--block", "0" }, "not a whole number from 1" },
        { { "--format", "int4", "--rules", "te" }, "--rules is of formats with scales" },
        { { "--format", "int8", "--scale-choice", "mse" }, "--scale-choice is of formats" },
        { { "--format", "int5" }, "unknown integer format 'int5'; they are int4 and int8" },
        { { "--format", "INT4" }, "unknown integer format 'INT4'; they are int4 and int8, then" },
        { { "--format", "int4-b999" }, "a group of N, a multiple of 8 (128), or -channel" },
        { { "--format", "fp4" }, "the exports hold nvfp4, mxfp4, int4 and int8" },
        { { "--format", "int4-b64", "--block", "32" }, "--block 32 is not what --format int4-b64 "
                                                       "says; leave out one of both" },
        { { "--format", "int4-channel", "--block", "64" }, "--block 64 is not what --format" },
        { { "--format", "nvfp4-b32", "--block", "16" }, "--block 16 is not what --format" },
        { { "--format", "int8", "--block", "Channel" }, "--block 'Channel': of int8 a multiple of "
                                                        "8, or channel" },
        { { "--format", "mxfp4", "--block", "Channel" }, "of mxfp4 the choices are 8, 16, 32, 64, "
                                                         "128" },
        { { "--asymmetric" }, "--asymmetric goes with --format int4 and int8" },
        { { "--block", "channel" }, "--block channel is of int4 and int8; of nvfp4 the "
                                      "choices are 8, 16" },
        { { "--policy", "p", "--asymmetric" }, "--asymmetric is what the lines of --policy say" },
    };
    begin();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *const *a = rows[i].args;
        const tool_result r = tool_run(&dir, "quantize", src, "-o", dst, a[0], a[1], a[2], a[3],
                                       a[4], a[5]);
        EXPECT(r.status == 2 && has(r.err, rows[i].words), "%zu: %d: %s", i, r.status, r.err);
    }
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4", "--block", "64",
                             "--export", "modelopt");
    EXPECT(r.status == 1 && has(r.err, "modelopt cannot hold int4-b64"), "%s", r.err);
    r = tool_run(&dir, "quantize", src, "-o", temp_path(&dir, "dst.gguf"), "--format", "int4-b64");
    EXPECT(r.status == 1 && has(r.err, "gguf cannot hold int4-b64"), "%s", r.err);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "int4-b64", "--rounding",
                 "stochastic");
    EXPECT(r.status == 1 && has(r.err, "not stochastically"), "%s", r.err);
    temp_dir_remove(&dir);
}
