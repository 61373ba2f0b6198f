/* qbench_gptq_test.c: qbench's rows of hessian.h and gptq.h. No speed is judged here. */
#include <unistd.h>

#include "qbench_run.h"

static int have_openblas(void)
{
    result r = run("dense --backend cpu --m 1 --n 8 --k 8 --cache hot" QUICK);
    const int have = r.status == 0;
    result_free(&r);
    return have;
}

static void expect_verified(const char *line, size_t rows)
{
    result r = run(line);
    EXPECT(r.status == 0 && json_array_size(r.rows) == rows, "%s: status %d, %zu rows: %s", line,
           r.status, json_array_size(r.rows), r.err);
    for (size_t i = 0; i < json_array_size(r.rows); i++) {
        EXPECT(json_is_true(json_object_get(row_of(&r, i), "verified")), "%s: %s",
               text_of(row_of(&r, i), "command"), r.err);
        EXPECT(number_of(row_of(&r, i), "sol") > 0, "%s has no limit",
               text_of(row_of(&r, i), "command"));
    }
    result_free(&r);
}

NIB_TEST(QbenchGptq, EveryRowIsVerified)
{
    if (!have_openblas()) SKIP("OpenBLAS is not installed");
    expect_verified("hessian --rows 40 --cols 70 --dtype f32,f16,bf16 --real f32,f64 --threads 2"
                    QUICK, 6);
    expect_verified("gptq_factor --cols 1,300 --real f32,f64 --order natural,group-aware" QUICK, 8);
    expect_verified("gptq --rows 35 --cols 96 --order act,group-aware --real f32,f64"
                    " --scales frozen,hessian --guard off,on" QUICK, 16);
    expect_verified("gptq --rows 35 --cols 300 --scales fresh,hessian-fresh,hessian-full"
                    " --dtype bf16 --threads 2 --isa portable,auto" QUICK, 6);
    expect_verified("gptq_quantize --rows 5 --cols 96 --format mxfp4,mxfp8-e4m3 --rules ocp"
                    " --layout swizzled --dtype f16 --guard on" QUICK, 2);
    expect_verified("gptq_quantize_steps --rows 35 --cols 200 --element int2,int8 --block 32,0"
                    " --order group-aware --scales hessian --guard on --threads 2" QUICK, 4);
    expect_verified("gptq_quantize_steps --rows 5 --cols 97 --dtype bf16 --real f32,f64"
                    " --scales frozen,hessian-fresh" QUICK, 4);
    expect_verified("hessian_grouped --rows 20 --cols 70 --batch 1,3 --dtype bf16 --real f32,f64"
                    QUICK, 4);
    expect_verified("hessian_inverse --cols 1,300 --real f32,f64" QUICK, 4);
}

NIB_TEST(QbenchGptq, AWrongResultIsSeen)
{
    if (!have_openblas()) SKIP("OpenBLAS is not installed");
    result r = run("hessian hessian_grouped hessian_inverse gptq gptq_factor gptq_quantize"
                   " gptq_quantize_steps --batch 2 --rows 8 --cols 64 --real f32,f64 --inject-fault"
                   QUICK);
    EXPECT(r.status == 1 && strstr(r.err, "14 of 14 rows are wrong"), "status %d: %s", r.status,
           r.err);
    for (size_t i = 0; i < json_array_size(r.rows); i++)
        EXPECT(json_is_false(json_object_get(row_of(&r, i), "verified"))
                   && number_of(row_of(&r, i), "max_err") > 0, "%s",
               text_of(row_of(&r, i), "command"));
    result_free(&r);
}

NIB_TEST(QbenchGptq, ARowSaysWhatItsTimeWentInto)
{
    if (!have_openblas()) SKIP("OpenBLAS is not installed");
    result r = run("gptq --rows 40 --cols 256 --order act --guard off,on" QUICK);
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 2, "status %d: %s", r.status, r.err);
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = row_of(&r, i), *stages = json_object_get(row, "stages_us");
        EXPECT(!strcmp(text_of(row, "order"), "act") && !strcmp(text_of(row, "real"), "f32")
                   && !strcmp(text_of(row, "scales"), "frozen")
                   && !strcmp(text_of(row, "guard"), i ? "on" : "off")
                   && !strcmp(text_of(row, "limit"), "spotrf"), "row %zu: %s", i,
               text_of(row, "command"));
        EXPECT(number_of(stages, "factor") > 0 && number_of(stages, "plain") > 0
                   && number_of(stages, "sweep") > 0, "row %zu lacks a stage", i);
        EXPECT(json_is_number(json_object_get(stages, "measure")) == (int)i,
               "row %zu: only the guard measures", i);
        /* The limit did the whole of its work, however much it counts. */
        EXPECT(near(number_of(row, "sol") * number_of(row, "limit_gbps"), number_of(row, "gbps")),
               "row %zu: sol %g", i, number_of(row, "sol"));
        EXPECT(strlen(text_of(row, "openblas")) > 0 && strcmp(text_of(row, "openblas"), "(none)"),
               "row %zu does not say which loops OpenBLAS took", i);
        EXPECT(number_of(row, "bytes") == 40 * 256 * 4, "row %zu: %g bytes", i,
               number_of(row, "bytes"));
    }
    result_free(&r);
    r = run("hessian --rows 40 --cols 64 --dtype bf16" QUICK);
    EXPECT(json_is_null(json_object_get(row_of(&r, 0), "stages_us"))
               && !strcmp(text_of(row_of(&r, 0), "limit"), "ssyrk")
               && number_of(row_of(&r, 0), "flops") == 40.0 * 64 * 65, "%s", r.err);
    result_free(&r);
    r = run("gptq_quantize_steps --rows 5 --cols 64 --element int8 --guard on" QUICK);
    const json_t *row = row_of(&r, 0), *stages = json_object_get(row, "stages_us");
    EXPECT(!strcmp(text_of(row, "element"), "int8") && number_of(row, "block") == 128
               && json_is_null(json_object_get(row, "format"))
               && strstr(text_of(row, "command"), " --block 128 ")
               && strstr(text_of(row, "command"), " --element int8 ")
               && number_of(stages, "plain") > 0 && number_of(stages, "measure") > 0
               && number_of(stages, "sweep") > 0, "%s", r.out);
    result_free(&r);
    r = run("hessian_grouped --batch 3 --rows 8 --cols 64" QUICK);
    row = row_of(&r, 0);
    EXPECT(number_of(row, "bytes") == 3 * 8 * 64 * 4 && number_of(row, "flops") == 3.0 * 8 * 64 * 65
               && !strcmp(text_of(row, "limit"), "ssyrk"), "%s", r.out);
    result_free(&r);
    r = run("hessian_inverse --cols 64 --real f64" QUICK);
    row = row_of(&r, 0);
    EXPECT(number_of(row, "bytes") == 64 * 64 * 8 && !strcmp(text_of(row, "limit"), "spotrf"), "%s",
           r.out);
    result_free(&r);
    r = run("gptq_factor --cols 64 --order act --format mxfp4" QUICK);
    const json_t *shape = json_object_get(row_of(&r, 0), "shape");
    EXPECT(number_of(shape, "cols") == 64 && !json_object_get(shape, "rows"), "%s", r.err);
    result_free(&r);
}

/* On the emulated GPU: every kind of case, its limit, its stages, and a fault. */
NIB_TEST(QbenchGptq, RunsOnAGpu)
{
    static const char library[] = NIB_BUILD_DIR "/emulated/libnibble_cuda.so";
    if (access(library, R_OK) != 0) SKIP("the emulated CUDA library is not built");
    char *before = getenv("NIBBLE_CUDA_LIBRARY");
    if (before) before = strdup(before);
    setenv("NIBBLE_CUDA_LIBRARY", library, 1);
#define GPU " --backend cuda" QUICK
    expect_verified("hessian --rows 40 --cols 70 --dtype f32,bf16 --real f32,f64"
                    " --precision exact,tf32" GPU, 8);
    expect_verified("gptq_factor --cols 1,70 --real f32,f64 --order natural,group-aware" GPU, 8);
    expect_verified("gptq --rows 5 --cols 48 --order act --real f32,f64 --guard off,on" GPU, 4);
    expect_verified("gptq_quantize --rows 5 --cols 64 --format mxfp4 --rules ocp --dtype f16"
                    " --scales fresh --layout swizzled --guard on" GPU, 1);
    expect_verified("gptq_quantize_steps --rows 5 --cols 64 --block 32 --element int4,int8"
                    " --scales hessian --guard on" GPU, 2);
    expect_verified("hessian_grouped hessian_inverse --rows 9 --cols 70 --batch 3 --real f32,f64"
                    GPU, 4);
    result r = run("hessian gptq --rows 5 --cols 48 --precision tf32 --guard on" GPU);
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 2, "status %d: %s", r.status, r.err);
    const json_t *hessian = row_of(&r, 0), *gptq = row_of(&r, 1);
    const json_t *stages = json_object_get(gptq, "stages_us");
    EXPECT(!strcmp(text_of(hessian, "limit"), "cublaslt")
               && !strcmp(text_of(hessian, "precision"), "tf32")
               && strstr(text_of(hessian, "command"), "--precision tf32")
               && number_of(hessian, "flops") == 5.0 * 48 * 49
               && !strcmp(text_of(gptq, "limit"), "potrf")
               && json_is_null(json_object_get(gptq, "openblas")), "%s", r.out);
    EXPECT(number_of(stages, "factor") > 0 && number_of(stages, "measure") > 0
               && number_of(stages, "sweep") > 0, "%s", r.out);
    result_free(&r);
    r = run("hessian hessian_grouped hessian_inverse gptq gptq_factor gptq_quantize"
            " gptq_quantize_steps --rows 5 --cols 48 --inject-fault" GPU);
    EXPECT(r.status == 1 && strstr(r.err, "7 of 7 rows are wrong"), "status %d: %s", r.status,
           r.err);
    result_free(&r);
    if (before) setenv("NIBBLE_CUDA_LIBRARY", before, 1);
    else unsetenv("NIBBLE_CUDA_LIBRARY");
    free(before);
}

NIB_TEST(QbenchGptq, WrongUsageNamesTheChoices)
{
    static const struct {
        const char *arguments, *piece;
    } rows[] = {
        { "gptq --order first", "natural, act, group-aware" },
        { "gptq --scales amax", "frozen, fresh, hessian, hessian-fresh, hessian-full" },
        { "gptq --real f16", "f32, f64" },
        { "gptq --guard 1", "off, on" },
        { "gptq_quantize_steps --element e2m1", "int2, int3, int4, int5, int6, int7, int8" },
        { "hessian --precision f16", "exact, tf32" },
        { "quantize_steps --block row", "any multiple of 8, and channel" },
        { "quantize --rows 8 --block 24", "--block 24; the choices of a format are 8, 16" },
        { "quantize --rows 8 --block channel", "--block channel; the choices of a format are" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        result r = run(rows[i].arguments);
        EXPECT(r.status == 2 && r.err && strstr(r.err, rows[i].piece), "'%s': status %d: %s",
               rows[i].arguments, r.status, r.err);
        result_free(&r);
    }
    result r = run("gptq --order act --scales fresh --rows 8 --cols 64");
    EXPECT(r.status == 2 && strstr(r.out, "act"), "fresh scales with act: status %d: %s", r.status,
           r.err);
    result_free(&r);
}
