/* nibble_cli_test.c: the built command: exit statuses, what it says, what it writes as JSON. */
#include <math.h>

#include "model_fixture.h"
#include "run_tool.h"
#include "shim.h"

static temp_dir dir;
static char src[300], dst[300], json_path[300];

static int begin(void)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    snprintf(json_path, sizeof json_path, "%s/report.json", dir.path);
    return fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1);
}

static int has(const char *text, const char *part) { return strstr(text, part) != NULL; }

NIB_TEST(NibbleCli, HelpAndVersion)
{
    static const char *const commands[] = { "quantize", "gptq", "info", "compare", "merge" };
    REQUIRE(begin(), "%s", src);
    tool_result r = tool_run(&dir, "--help");
    EXPECT(has(r.out, "make a 4-bit (or INT8) checkpoint"), "%s", r.out);
    EXPECT(r.status == 0 && !r.err[0], "%d: %s", r.status, r.err);
    for (int i = 0; i < 5; i++) {
        EXPECT(has(r.out, commands[i]), "%s is not in the help", commands[i]);
        const tool_result help = tool_run(&dir, commands[i], "--help");
        EXPECT(help.status == 0 && has(help.out, "Usage: nibble"), "%s: %d: %s", commands[i],
               help.status, help.out);
        const tool_result none = tool_run(&dir, commands[i]);
        EXPECT(none.status == 2 && has(none.err, commands[i]), "%s: %d: %s", commands[i],
               none.status, none.err);
        const tool_result unknown = tool_run(&dir, commands[i], "--no-such-option");
        EXPECT(unknown.status == 2, "%s: %d: %s", commands[i], unknown.status, unknown.err);
    }
    r = tool_run(&dir, "--version");
    EXPECT(r.status == 0 && has(r.out, nib_version()), "%s", r.out);
    r = tool_run(&dir, "convert");
    EXPECT(r.status == 2 && has(r.err, "quantize, gptq, info, compare, merge"), "%s", r.err);
    r = tool_run(&dir, NULL);
    EXPECT(r.status == 2 && has(r.err, "quantize"), "%s", r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleCli, WrongUsageNamesTheChoices)
{
    static const struct {
        const char *option, *value, *says;
    } rows[] = {
        { "--export", "onnx", "modelopt, compressed-tensors, gguf" },
        { "--format", "fp3", "nvfp4" },
        { "--method", "awq", "rtn" },
        { "--rules", "mine", "compressed-tensors" },
        { "--scale-choice", "best", "mse-full" },
        { "--rounding", "up", "stochastic" },
        { "--nonfinite", "ignore", "saturate" },
        { "--keep-dtype", "f8", "bf16" },
        { "--block", "17", "16, 32" },
        { "--block", "x", "17" },
        { "--threads", "-1", "from 0 to 1024" },
        { "--threads", "1.5", "whole number" },
        { "--threads", "", "whole number" },
        { "--seed", "99999999999999999999", "whole number" },
        { "--max-file-size", "5X", "whole number" },
        { "--shard", "2", "I/N" },
        { "--shard", "0/3", "from 1 to 3" },
        { "--shard", "4/3", "from 1 to 3" },
        { "--shard", "1/3x", "--shard" },
    };
    REQUIRE(begin(), "%s", src);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const tool_result r = tool_run(&dir, "quantize", src, "-o", dst, rows[i].option,
                                       rows[i].value);
        EXPECT(r.status == 2, "%s %s: %d: %s", rows[i].option, rows[i].value, r.status, r.err);
        if (strcmp(rows[i].says, "17"))
            EXPECT(has(r.err, rows[i].says), "%s %s: %s", rows[i].option, rows[i].value, r.err);
        EXPECT(temp_count(dst) < 0, "%s: written all the same", rows[i].option);
    }
    EXPECT(tool_run(&dir, "quantize", src, "-o", dst, "--dry-run", "--max-file-size", "1K").status
               == 0, "1K");
    EXPECT(tool_run(&dir, "quantize", src).status == 2, "no -o");
    EXPECT(tool_run(&dir, "quantize", src, src, "-o", dst).status == 2, "two models");
    EXPECT(tool_run(&dir, "compare", src).status == 2, "one model");
    EXPECT(tool_run(&dir, "compare", src, src, src).status == 2, "three models");
    EXPECT(tool_run(&dir, "info", src, src).status == 2, "two models");
    EXPECT(tool_run(&dir, "merge", src).status == 2, "no -o");
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleCli, FailedWorkIsOneSentence)
{
    static const char *const bad[][6] = {
        { "--block", "32", NULL }, { "--export", "modelopt", "--format", "mxfp4", NULL },
        { "--include", "*nothing*", NULL }, { "--scale-choice", "four-over-six-mse",
          "--format", "mxfp4", NULL } };
    static const char *const says[] = { "nvfp4-b32", "mxfp4", "*nothing*", "four-over-six" };
    REQUIRE(begin(), "%s", src);
    for (int i = 0; i < 4; i++) {
        const char *args[TOOL_ARGS + 1] = { "quantize", src, "-o", dst };
        for (int k = 0; bad[i][k]; k++) args[4 + k] = bad[i][k];
        const tool_result r = tool_run_with(&dir, NULL, args);
        EXPECT(r.status == 1 && has(r.err, says[i]), "%d: %s", r.status, r.err);
        EXPECT(strchr(r.err, '\n') == r.err + strlen(r.err) - 1, "more than a line: %s", r.err);
    }
    tool_result r = tool_run(&dir, "info", "/no/such/model");
    EXPECT(r.status == 1 && has(r.err, "/no/such/model"), "%s", r.err);
    r = tool_run(&dir, "compare", src, "/no/such/model");
    EXPECT(r.status == 1 && has(r.err, "/no/such/model"), "%s", r.err);
    r = tool_run(&dir, "merge", src, "-o", dst);
    EXPECT(r.status == 1 && has(r.err, "not a part"), "%s", r.err);
    r = tool_run(&dir, "quantize", src, "-o", src);
    EXPECT(r.status == 1 && has(r.err, src), "%s", r.err);
    temp_dir_remove(&dir);
}

/* ---- JSON ---- */

/* The file's object; every tensor's entry has those members, and quantized ones figures. */
static json_t *report(const char *command, const char *text)
{
    static const char *const members[] = { "name", "layer_type", "source_type", "stored_type",
                                           "quantized", "dims", "source_bytes", "stored_bytes" };
    static const char *const figures[] = { "tensor_scale", "mse", "relative_mse", "snr_db",
                                           "max_error", "sum_sq_error", "sum_sq", "nonfinite",
                                           "flushed", "saturated" };
    json_t *j = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL)
                     : json_load_file(json_path, JSON_REJECT_DUPLICATES, NULL);
    EXPECT(j, "%s: no JSON", command);
    const char *named = json_string_value(json_object_get(j, "command"));
    EXPECT(named && !strcmp(named, command), "%s: command", command);
    const char *source = json_string_value(json_object_get(j, "source"));
    EXPECT(source && !strcmp(source, src), "%s: source", command);
    EXPECT(json_is_string(json_object_get(j, "version")), "%s: version", command);
    EXPECT(json_is_number(json_object_get(json_object_get(j, "seconds"), "total")), "seconds");
    const json_t *tensors = json_object_get(j, "tensors");
    EXPECT(json_array_size(tensors) == FIXTURE_LLAMA, "%s: %zu tensors", command,
           json_array_size(tensors));
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *t = json_array_get(tensors, i);
        for (int k = 0; k < 8; k++)
            EXPECT(json_object_get(t, members[k]), "%s: no %s", command, members[k]);
        if (!strcmp(command, "info") || !json_is_true(json_object_get(t, "quantized"))) continue;
        for (int k = 0; k < 10; k++)
            EXPECT(json_object_get(t, figures[k]), "%s: no %s", command, figures[k]);
    }
    return j;
}

NIB_TEST(NibbleCli, ReportsAreJson)
{
    REQUIRE(begin(), "%s", src);
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--json", json_path);
    REQUIRE(r.status == 0, "%s", r.err);
    EXPECT(has(r.out, "bits per weight") && has(r.out, "Worst tensors"), "%s", r.out);
    json_t *j = report("quantize", NULL);
    const json_t *first = json_array_get(json_object_get(j, "tensors"), 1);
    EXPECT(!json_object_get(first, "code_count") && !json_object_get(first, "scale_count"),
           "counts without --counts");
    json_decref(j);
    r = tool_run(&dir, "quantize", src, "-o", dst, "-f", "-t", "2", "--json", json_path,
                 "--counts");
    REQUIRE(r.status == 0, "%s", r.err);
    j = report("quantize", NULL);
    EXPECT(json_integer_value(json_object_get(j, "threads")) == 2, "threads");
    first = json_array_get(json_object_get(j, "tensors"), 1);
    json_int_t codes = 0, blocks = 0;
    size_t i;
    const json_t *n;
    json_array_foreach(json_object_get(first, "code_count"), i, n) codes += json_integer_value(n);
    json_array_foreach(json_object_get(first, "scale_count"), i, n) blocks += json_integer_value(n);
    EXPECT(codes == 64 * 64 && blocks == 64 * 4, "%lld codes, %lld scales", (long long)codes,
           (long long)blocks);
    json_decref(j);

    r = tool_run(&dir, "compare", src, dst, "--json", json_path);
    REQUIRE(r.status == 0, "%s", r.err);
    EXPECT(has(r.out, "21 tensors, 7 of them equal"), "%s", r.out);
    json_decref(report("compare", NULL));
    r = tool_run(&dir, "info", src, "--json", json_path);
    REQUIRE(r.status == 0, "%s", r.err);
    EXPECT(has(r.out, "21 tensors") && has(r.out, "q_proj"), "%s", r.out);
    json_decref(report("info", NULL));
    r = tool_run(&dir, "info", src, "--all");
    EXPECT(r.status == 0 && has(r.out, "model.layers.1.mlp.up_proj.weight"), "%s", r.out);

    r = tool_run(&dir, "quantize", src, "--dry-run", "--quiet", "--json", "-");
    REQUIRE(r.status == 0, "%s", r.err);
    EXPECT(r.out[0] == '{', "more than JSON on standard output: %s", r.out);
    r = tool_run(&dir, "quantize", src, "-o", dst, "--force", "--quiet");
    EXPECT(r.status == 0 && !r.out[0] && !r.err[0], "--quiet says %s%s", r.out, r.err);
    temp_dir_remove(&dir);
}

static void put_huge(float *x, int64_t n)
{
    for (int64_t i = 0; i < 32 && i < n; i++) x[i] = 3e38f;
}

/* Finite weights that some rules make Inf are told, and no figure is left out. */
NIB_TEST(NibbleCli, OverflowIsToldAndItsFiguresAreNull)
{
    static const char *const figures[] = { "mse", "relative_mse", "snr_db", "max_error",
                                           "sum_sq_error" };
    static const char *const rules[] = { "te", "modelopt", "compressed-tensors", "ocp", "gguf" };
    static const fixture_tensor t[] = {
        { "a.up_proj.weight", NIB_TT_F32, 2, { 4, 64 }, 1.0f, NULL },
        { "a.down_proj.weight", NIB_TT_F32, 2, { 4, 64 }, 1.0f, put_huge } };
    REQUIRE(begin(), "%s", src);
    temp_dir_remove_at(src);
    REQUIRE(fixture_folder(src, t, 2, 1), "%s", src);
    for (int i = 0; i < 5; i++) {
        const int is_inf = i < 3;
        const tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "-f", "--format", "mxfp4",
                                       "--rules", rules[i], "-j", json_path);
        EXPECT(r.status == 0 && has(r.out, "overflow         1 tensors") == is_inf, "%s: %s%s",
               rules[i], r.out, r.err);
        EXPECT(has(r.out, "first a.down_proj.weight") == is_inf, "%s: %s", rules[i], r.out);
        json_t *j = json_load_file(json_path, 0, NULL);
        for (size_t k = 0; k < 2; k++) {
            const json_t *x = json_array_get(json_object_get(j, "tensors"), k);
            const char *name = json_string_value(json_object_get(x, "name"));
            const int told = json_is_true(json_object_get(x, "overflowed"));
            EXPECT(name && told == (is_inf && has(name, "down")), "%s: %d", rules[i], told);
            for (int f = 0; f < 5; f++) {
                const json_t *figure = json_object_get(x, figures[f]);
                EXPECT(told ? json_is_null(figure) || f == 2 : json_is_number(figure), "%s: %s",
                       rules[i], figures[f]);
            }
        }
        json_decref(j);
    }
    temp_dir_remove(&dir);
}

static void put_nans(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = NAN;
}

NIB_TEST(NibbleCli, NansAloneHaveNoFigures)
{
    static const fixture_tensor good = { "a.down_proj.weight", NIB_TT_F32, 2, { 4, 64 }, 1, NULL };
    static const fixture_tensor bad = { "a.down_proj.weight", NIB_TT_F32, 2, { 4, 64 }, 1,
                                        put_nans };
    REQUIRE(begin(), "%s", src);
    temp_dir_remove_at(src);
    REQUIRE(fixture_folder(src, &good, 1, 1) && fixture_folder(dst, &bad, 1, 1), "%s", src);
    const tool_result r = tool_run(&dir, "compare", src, dst, "-j", json_path);
    EXPECT(r.status == 0 && has(r.out, "nan") && !has(r.out, "inf dB"), "%s%s", r.out, r.err);
    EXPECT(has(r.out, "256 elements differ"), "%s", r.out);
    json_t *j = json_load_file(json_path, 0, NULL);
    const json_t *t = json_array_get(json_object_get(j, "tensors"), 0);
    static const char *const figures[] = { "mse", "relative_mse", "snr_db", "max_error" };
    for (int i = 0; i < 4; i++)
        EXPECT(json_is_null(json_object_get(t, figures[i])), "%s", figures[i]);
    EXPECT(json_integer_value(json_object_get(t, "nonfinite")) == 256, "nonfinite");
    json_decref(j);
    temp_dir_remove(&dir);
}

/* The report never takes the place of what is read, nor lies in what is made. */
NIB_TEST(NibbleCli, JsonReplacesNothingThatIsRead)
{
    static const char *const files[] = { "src/model.safetensors", "src/config.json" };
    char path[320], hessians[300];
    REQUIRE(begin(), "%s", src);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir.path, files[i]);
        const char *const runs[][7] = { { "info", src, "-j", path },
                                        { "compare", src, src, "-j", path },
                                        { "quantize", src, "-o", dst, "-j", path } };
        struct stat before, after;
        REQUIRE(stat(path, &before) == 0, "%s", path);
        for (int k = 0; k < 3; k++) {
            const tool_result r = tool_run_with(&dir, NULL, runs[k]);
            EXPECT(r.status == 1 && has(r.err, "is read"), "%s %s: %d: %s", runs[k][0], path,
                   r.status, r.err);
            EXPECT(stat(path, &after) == 0 && after.st_size == before.st_size, "%s", path);
            EXPECT(temp_count(dst) < 0, "the work was done");
        }
    }
    snprintf(hessians, sizeof hessians, "%s/h.safetensors", dir.path);
    REQUIRE(fixture_safetensors(hessians, fixture_llama(NIB_TT_F32), 1), "%s", hessians);
    tool_result r = tool_run(&dir, "gptq", src, "--inputs", hessians, "-o", dst, "-j", hessians);
    EXPECT(r.status == 1 && has(r.err, "is read"), "%d: %s", r.status, r.err);
    r = tool_run(&dir, "quantize", src, "-o", hessians, "--export", "gguf", "-j", hessians);
    EXPECT(r.status == 1 && has(r.err, "lies in"), "%d: %s", r.status, r.err);
    REQUIRE(tool_run(&dir, "quantize", src, "-o", dst).status == 0, "quantize");
    snprintf(path, sizeof path, "%s/r.json", dst);
    r = tool_run(&dir, "quantize", src, "-o", dst, "-f", "-j", path);
    EXPECT(r.status == 1 && has(r.err, "lies in"), "%d: %s", r.status, r.err);
    /* Elsewhere in the source's folder it may lie. */
    snprintf(path, sizeof path, "%s/src/.report.json", dir.path);
    r = tool_run(&dir, "info", src, "-j", path);
    EXPECT(r.status == 0 && fixture_has(src, ".report.json"), "%d: %s", r.status, r.err);
    temp_dir_remove(&dir);
}

static void limit_files(void)
{
    const struct rlimit limit = { 2000, 2000 };
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_IGN);
}

NIB_TEST(NibbleCli, TornJsonIsNeverLeft)
{
    const char *const args[TOOL_ARGS + 1] = { "info", src, "--json", json_path };
    char link[300], target[300];
    REQUIRE(begin(), "%s", src);
    for (int old = 0; old < 2; old++) {
        if (old) REQUIRE(temp_write(json_path, "old", 3), "%s", json_path);
        const tool_result r = tool_run_with(&dir, limit_files, args);
        EXPECT(r.status == 1 && has(r.err, "report.json"), "%d: %s", r.status, r.err);
        char *text = temp_read(json_path, NULL);
        EXPECT(old ? text && !strcmp(text, "old") : !text, "%d: there is now '%s'", old, text);
        EXPECT(!fixture_leftovers(json_path), "something is left");
        free(text);
    }
    snprintf(link, sizeof link, "%s/link.json", dir.path);
    snprintf(target, sizeof target, "%s/target.json", dir.path);
    REQUIRE(symlink(target, link) == 0, "symlink");
    tool_result r = tool_run(&dir, "info", src, "--json", link);
    EXPECT(r.status == 0 && fixture_has(dir.path, "target.json"), "%d: %s", r.status, r.err);
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleCli, FullStandardOutputIsAFailure)
{
    REQUIRE(begin(), "%s", src);
    /* A file in a folder that takes none, even root's: the tool's own name, cut to 15 bytes. */
    tool_result r = tool_run(&dir, "info", src, "--json", "/proc/self/comm");
    EXPECT(r.status == 0 && has(r.err, "takes no new file")
               && has(r.err, "written over what is there"), "%d: %s", r.status, r.err);
    r = tool_run(&dir, "info", src, "--json", "/proc/self/none");
    EXPECT(r.status == 1 && !has(r.err, "written over"), "%d: %s", r.status, r.err);
    r = tool_run(&dir, "info", src, "--json", "/dev/full");
    EXPECT(r.status == 1 && has(r.err, "/dev/full"), "%d: %s", r.status, r.err);
    r = tool_run(&dir, "info", src, "--json", "/no/such/folder/x");
    EXPECT(r.status == 1 && has(r.err, "/no/such/folder"), "%d: %s", r.status, r.err);
    static const char *const args[][5] = { { "info", src }, { "info", src, "--json", "-" },
                                           { "compare", src, src }, { "--help" } };
    for (int i = 0; i < 4; i++) {
        const int status = tool_wait(tool_start(args[i], "/dev/full", json_path, NULL), NULL);
        EXPECT(status == 1, "%s onto a full disk exits with %d", args[i][0], status);
    }
    temp_dir_remove(&dir);
}

NIB_TEST(NibbleCli, DefaultsFollowFormatAndDestination)
{
    REQUIRE(begin(), "%s", src);
    tool_result r = tool_run(&dir, "quantize", src, "-o", dst, "--format", "mxfp4");
    REQUIRE(r.status == 0, "%s", r.err);
    EXPECT(!fixture_has(dst, "hf_quant_config.json"), "mxfp4 went to modelopt");
    char gguf[300], made[300];
    snprintf(gguf, sizeof gguf, "%s/a.gguf", dir.path);
    snprintf(made, sizeof made, "%s/b.gguf", dir.path);
    REQUIRE(fixture_gguf(gguf, fixture_llama_gguf(NIB_TT_F16), FIXTURE_LLAMA), "%s", gguf);
    r = tool_run(&dir, "quantize", gguf, "-o", made);
    EXPECT(r.status == 0 && has(r.out, "gguf"), "%s%s", r.out, r.err);
    r = tool_run(&dir, "info", made);
    EXPECT(r.status == 0 && has(r.out, "NVFP4"), "%s", r.out);
    /* A source in blocks is told apart. */
    r = tool_run(&dir, "quantize", made, "-o", gguf, "--format", "mxfp4", "--force");
    EXPECT(r.status == 0 && has(r.out, "already"), "%s%s", r.out, r.err);
    temp_dir_remove(&dir);
}
