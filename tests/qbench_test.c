/* qbench_test.c: runs the built qbench and reads what it prints. No speed is judged here. */
#include <time.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "qbench_run.h"

NIB_TEST(Qbench, TheDocumentedLineGivesEveryField)
{
    static const char *const texts[] = { "op", "backend", "device", "kernel", "format", "dtype",
                                         "rules", "layout", "cache", "limit", "baseline",
                                         "command", "version", "commit" };
    static const char *const numbers[] = { "threads", "bytes", "flops", "median_us", "p99_us", "cv",
                                           "gbps", "sol", "speedup", "max_err" };
    result r = run("quantize --backend cpu --rows 4096 --cols 4096" QUICK);
    EXPECT(r.status == 0, "status %d: %s", r.status, r.err);
    EXPECT(json_array_size(r.rows) == 1, "%zu rows", json_array_size(r.rows));
    const json_t *row = row_of(&r, 0), *shape = json_object_get(row, "shape");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        EXPECT(json_is_string(json_object_get(row, texts[i])), "no text '%s'", texts[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        EXPECT(json_is_number(json_object_get(row, numbers[i])), "no number '%s'", numbers[i]);
    EXPECT(json_is_boolean(json_object_get(row, "noisy")), "no 'noisy'");
    EXPECT(json_is_null(json_object_get(row, "tflops")), "quantize counts no flops");
    EXPECT(json_is_true(json_object_get(row, "verified")), "not verified");
    EXPECT(number_of(shape, "rows") == 4096 && number_of(shape, "cols") == 4096, "wrong shape");
    EXPECT(number_of(row, "bytes") == 4096.0 * 4096 * 4, "%g bytes", number_of(row, "bytes"));
    const double gbps = number_of(row, "bytes") / number_of(row, "median_us") / 1e3;
    EXPECT(near(number_of(row, "gbps"), gbps), "GB/s is not bytes / median, %g", gbps);
    EXPECT(near(number_of(row, "sol"), number_of(row, "gbps") / number_of(row, "limit_gbps")),
           "sol is not GB/s / limit");
    EXPECT(number_of(row, "min_us") <= number_of(row, "median_us")
               && number_of(row, "median_us") <= number_of(row, "p99_us"), "times out of order");
    EXPECT(!strncmp(text_of(row, "command"), "qbench quantize ", 16), "'%s'",
           text_of(row, "command"));
    EXPECT(strstr(r.err, "median us"), "the table is not on standard error: %s", r.err);
    result_free(&r);
}

NIB_TEST(Qbench, AxesMakeTheirProduct)
{
    static const int cols[] = { 16, 32, 64 }, rows[] = { 1, 3 };
    result r = run("quantize amax --rows 1,3 --cols 16:64:x2 --format nvfp4,mxfp4 --cache hot"
                   " --isa portable" QUICK);
    EXPECT(r.status == 0, "status %d: %s", r.status, r.err);
    REQUIRE(json_array_size(r.rows) == 12 + 6, "%zu rows", json_array_size(r.rows));
    for (size_t i = 0; i < 18; i++) { /* amax has no format */
        const json_t *row = row_of(&r, i), *shape = json_object_get(row, "shape");
        EXPECT(!strcmp(text_of(row, "op"), i < 12 ? "quantize" : "amax"), "row %zu", i);
        EXPECT(!strcmp(text_of(row, "format"), i < 6 ? "nvfp4" : i < 12 ? "mxfp4" : "(none)"),
               "row %zu: %s", i, text_of(row, "format"));
        EXPECT(number_of(shape, "rows") == rows[i / 3 % 2], "row %zu", i);
        EXPECT(number_of(shape, "cols") == cols[i % 3], "row %zu", i);
        EXPECT(json_is_true(json_object_get(row, "verified")), "row %zu", i);
    }
    result_free(&r);
    r = run("fill --rows 16:48:+16,100 --cols 64 --cache hot" QUICK);
    EXPECT(json_array_size(r.rows) == 4, "%zu rows of a step range and a number",
           json_array_size(r.rows));
    result_free(&r);
}

NIB_TEST(Qbench, EveryOperationIsVerified)
{
    static const char *const axes[] = { "--isa auto --threads 2", "--isa portable --dtype bf16,f16",
                                        "--layout swizzled --rules ocp,modelopt",
                                        "--scale-choice mse,four-over-six-mse",
                                        "--batch 3 --rounding stochastic --block 32 --isa auto" };
    for (int i = 0; i < 5; i++) {
        char line[512];
        snprintf(line, sizeof line, "quantize dequantize amax amax_rows quantize_amax "
                 "quantize_dynamic quantize_given relayout quantize_stats fake_quantize "
                 "fake_quantize_given fake_quantize_backward fake_quantize_steps "
                 "fake_quantize_steps_rows fake_quantize_steps_given fake_quantize_steps_backward "
                 "quantize_steps dequantize_steps memcpy fill %s--mask none,bits "
                 "--rows 33 --cols 100 --cache hot %s" QUICK,
                 strstr(axes[i], "--batch") ? "" : "quantize_both ", axes[i]);
        result r = run(line);
        EXPECT(r.status == 0, "%s: status %d: %s", axes[i], r.status, r.err);
        EXPECT(json_array_size(r.rows) >= 15, "%zu rows", json_array_size(r.rows));
        for (size_t k = 0; k < json_array_size(r.rows); k++)
            EXPECT(json_is_true(json_object_get(row_of(&r, k), "verified"))
                       && number_of(row_of(&r, k), "max_err") == 0, "%s",
                   text_of(row_of(&r, k), "command"));
        result_free(&r);
    }
}

NIB_TEST(Qbench, TransformsGroupsAndObserversAreVerified)
{
    static const char *const axes[] = { "--isa auto --dtype f32,bf16", "--isa portable --batch 3",
                                        "--layout swizzled --format mxfp4 --rules ocp" };
    for (int i = 0; i < 3; i++) {
        char line[512];
        snprintf(line, sizeof line, "quantize_rmsnorm quantize_hadamard quantize_hadamard128 "
                 "quantize_silu transform_apply quantize_grouped amax_grouped observe_range "
                 "observe_range_rows observe_ema observe_histogram observe_stats --rows 9 "
                 "--cols 128 --cache hot %s" QUICK, axes[i]);
        result r = run(line);
        EXPECT(r.status == 0, "%s: status %d: %s", axes[i], r.status, r.err);
        EXPECT(json_array_size(r.rows) >= 12, "%zu rows", json_array_size(r.rows));
        for (size_t k = 0; k < json_array_size(r.rows); k++)
            EXPECT(json_is_true(json_object_get(row_of(&r, k), "verified")), "%s",
                   text_of(row_of(&r, k), "command"));
        result_free(&r);
    }
}

NIB_TEST(Qbench, ProductsOfOtherLibrariesHaveTheirOwnAxes)
{
    if (nib_bench_cpu.gemm_missing()) SKIP(nib_bench_cpu.gemm_missing());
    result r = run("dense --backend cpu --m 1,5 --n 24 --k 7:28:x2 --cache hot" QUICK);
    EXPECT(r.status == 0, "status %d: %s", r.status, r.err);
    REQUIRE(json_array_size(r.rows) == 6, "%zu rows", json_array_size(r.rows));
    const json_t *row = row_of(&r, 5), *shape = json_object_get(row, "shape");
    EXPECT(number_of(shape, "m") == 5 && number_of(shape, "n") == 24 && number_of(shape, "k") == 28
               && !json_object_get(shape, "rows"), "wrong shape");
    EXPECT(number_of(row, "bytes") == 4 * (5 * 28 + 24 * 28 + 5 * 24)
               && number_of(row, "flops") == 2 * 5 * 24 * 28, "wrong counts");
    EXPECT(!strcmp(text_of(row, "kernel"), "openblas"), "%s", text_of(row, "kernel"));
    for (size_t i = 0; i < 6; i++)
        EXPECT(json_is_true(json_object_get(row_of(&r, i), "verified")), "row %zu", i);
    result_free(&r);
    r = run("dense --backend cpu --m 2 --n 8 --k 16 --inject-fault" QUICK);
    EXPECT(r.status == 1 && strstr(r.err, "wrong result"), "status %d: %s", r.status, r.err);
    result_free(&r);
    r = run("dense --backend cpu --dtype bf16" QUICK);
    EXPECT(r.status == 2 && strstr(r.err, "OpenBLAS multiplies f32"), "status %d: %s", r.status,
           r.err);
    result_free(&r);
    r = run("dense --backend cpu --model llama-3.2-1b --m 1 --max-time 0.01 --cache hot"
            " --min-time 0.001 --json -");
    EXPECT(r.status == 0 && json_array_size(r.rows) > 2
               && number_of(json_object_get(row_of(&r, 0), "shape"), "n") == 2048,
           "status %d: %s", r.status, r.err);
    result_free(&r);
}

NIB_TEST(Qbench, AWrongResultIsSeen)
{
    result r = run("quantize dequantize amax amax_rows quantize_amax quantize_dynamic"
                   " quantize_given quantize_stats memcpy fill fake_quantize_steps"
                   " fake_quantize_steps_backward"
                   " --rows 8 --cols 100 --dtype f32,bf16 --cache hot"
                   " --inject-fault" QUICK);
    EXPECT(r.status == 1, "status %d", r.status);
    EXPECT(json_array_size(r.rows) == 24, "%zu rows", json_array_size(r.rows));
    for (size_t i = 0; i < json_array_size(r.rows); i++)
        EXPECT(json_is_false(json_object_get(row_of(&r, i), "verified"))
                   && number_of(row_of(&r, i), "max_err") > 0, "%s",
               text_of(row_of(&r, i), "command"));
    EXPECT(strstr(r.err, "24 of 24 rows are wrong"), "%s", r.err);
    result_free(&r);
    r = run("quantize --rows 8 --cols 100 --cache hot --inject-fault --no-verify" QUICK);
    EXPECT(r.status == 0 && json_is_null(json_object_get(row_of(&r, 0), "verified")),
           "--no-verify: status %d", r.status);
    result_free(&r);
}

NIB_TEST(Qbench, ColdCopiesAreAllWrittenAndVerified) /* many small copies, threads, both rivals */
{
    result r = run("quantize dequantize --rows 64 --cols 4096 --threads 1,2 --min-time 0.1"
                   " --json -");
    EXPECT(r.status == 0 && json_array_size(r.rows) == 4, "status %d: %s", r.status, r.err);
    for (size_t i = 0; i < json_array_size(r.rows); i++) {
        EXPECT(json_is_true(json_object_get(row_of(&r, i), "verified")), "row %zu", i);
        EXPECT(!strcmp(text_of(row_of(&r, i), "limit"), i < 2 ? "read" : "nt fill"), "row %zu", i);
        EXPECT(!strcmp(text_of(row_of(&r, i), "baseline"), "memcpy"), "row %zu", i);
        EXPECT(number_of(row_of(&r, i), "sol") > 0 && number_of(row_of(&r, i), "speedup") > 0,
               "row %zu", i);
    }
    result_free(&r);
}

/* The entries do not change: buffers, graphs and events are the emulated GPU's. */
NIB_TEST(Qbench, TheSameEntriesRunOnAGpu)
{
    static const char library[] = NIB_BUILD_DIR "/emulated/libnibble_cuda.so";
    if (access(library, R_OK) != 0) SKIP("the emulated CUDA library is not built");
    char *before = getenv("NIBBLE_CUDA_LIBRARY");
    before = before ? strdup(before) : NULL;
    setenv("NIBBLE_CUDA_LIBRARY", library, 1);
    result r = run("quantize quantize_amax quantize_dynamic dequantize amax amax_rows relayout"
                   " memcpy read fill quantize_both quantize_given"
                   " --backend cuda --rows 6 --cols 80 --cache hot --max-runs 10"
                   " --launch graph,stream" QUICK);
    EXPECT(r.status == 0 && json_array_size(r.rows) == 24, "status %d: %s", r.status, r.err);
    for (size_t i = 0; i < json_array_size(r.rows); i++) {
        const json_t *row = row_of(&r, i), *verified = json_object_get(row, "verified");
        const int is_read = !strcmp(text_of(row, "op"), "read"); /* writes nothing */
        EXPECT(is_read ? json_is_null(verified) : json_is_true(verified), "%s",
               text_of(row, "command"));
        EXPECT(!strcmp(text_of(row, "launch"), i % 2 ? "stream" : "graph"), "%s: %s",
               text_of(row, "command"), text_of(row, "launch"));
        EXPECT(number_of(row, "sol") > 0, "%s has no limit", text_of(row, "command"));
    }
    result_free(&r);
    r = run("quantize amax --backend cuda --rows 6 --cols 80 --batch 2 --cache hot --max-runs 10"
            " --inject-fault" QUICK);
    EXPECT(r.status == 1 && json_array_size(r.rows) == 2, "status %d: %s", r.status, r.err);
    EXPECT(strstr(r.err, "2 of 2 rows are wrong"), "%s", r.err);
    result_free(&r);
    if (before) setenv("NIBBLE_CUDA_LIBRARY", before, 1);
    else unsetenv("NIBBLE_CUDA_LIBRARY");
    free(before);
}

NIB_TEST(Qbench, WrongUsageNamesTheChoices)
{
    static const struct {
        const char *arguments;
        int         status;
        const char *piece;
    } rows[] = {
        { "", 2, "quantize, quantize_amax, quantize_dynamic, quantize_given, quantize_both" },
        { "quantise", 2, "quantize_dynamic, quantize_given, quantize_both, dequantize" },
        { "quantize --isa sse", 2, "auto, portable, avx2" },
        { "quantize --backend gpu", 2, "auto, cpu, cuda" },
        { "quantize --dtype f64", 2, "f32, f16, bf16" },
        { "quantize --format fp4", 2, "nvfp4, nvfp4-b32, mxfp4" },
        { "quantize --rules nv", 2, "te, modelopt, compressed-tensors, ocp, gguf" },
        { "quantize --scale-choice max", 2, "amax, mse, mse-full" },
        { "quantize --layout tiled", 2, "linear, swizzled" },
        { "quantize --cache warm", 2, "cold, cold-weights, flush, hot" },
        { "quantize --rows 0", 2, "'0' is not a number >= 1" },
        { "quantize --rows -4", 2, "'-4' is not" },
        { "quantize --rows 1,,2", 2, "1:4096:x2" },
        { "quantize --rows 1:8", 2, "1:4096:x2" },
        { "quantize --rows 1:8:x1", 2, "1:4096:x2" },
        { "quantize --rows 8:1:x2", 2, "1:4096:x2" },
        { "quantize --rows 1:8:+0", 2, "1:4096:x2" },
        { "quantize --rows 1:99999999:+1", 2, "is not" },
        { "quantize --cols 99999999999999999999", 2, "is not" },
        { "quantize --threads x", 2, "'x' is not" },
        { "quantize --threads 1025", 2, "1025" },
        { "quantize --noise 2", 2, "from 0 to 1" },
        { "quantize --min-time 1s", 2, "'1s' is not" },
        { "quantize --max-runs 0", 2, "from 1" },
        { "quantize --json - --csv -", 2, "cannot both" },
        { "quantize --csv - --markdown -", 2, "cannot both" },
        { "quantize --kernel sse", 2, "auto, portable, avx2" },
        { "quantize --block 12", 2, "unknown '12'; the choices are 0, 8, 16, 32, 64, 128" },
        { "quantize --rounding up", 2, "nearest, stochastic" },
        { "quantize --batch 0", 2, "'0' is not a number >= 1" },
        { "quantize --launch late", 2, "auto, graph, stream" },
        { "quantize --model llama-9", 2, "llama-3.1-8b, llama-3.1-70b" },
        { "quantize --model llama-3.1-8b,", 2, "unknown ''" },
        { "quantize --model qwen3-8b --cols 64", 2, "--cols comes from" },
        { "dense --model qwen3-8b --k 64", 2, "--k comes from" },
        { "quantize --shapes /nonexistent/shapes", 2, "cannot read '/nonexistent/shapes'" },
        { "quantize --shapes /dev/null", 2, "has no shapes" },
        { "quantize --min-sol quantize", 2, "quantize=0.9" },
        { "quantize --min-sol x=1", 2, "unknown operation 'x'" },
        { "quantize --min-sol quantize=much", 2, "'much' is not" },
        { "quantize --rows 8 --cols 64 --cache weights", 2, "cold, flush, hot" },
        { "mma", 2, "tensor cores" },
        { "quantize --bogus", 2, "--bogus" },
        { "quantize --rows 8 --format mxfp4 --scale-choice four-over-six-mse", 2, "four-over-six" },
        { "quantize_amax quantize_dynamic --rows 8 --format mxfp4", 2, "no tensor scale" },
        { "quantize --rows 4000000000 --cols 4000000000", 2, "too large" },
        { "quantize --rows 4000000 --cols 4000000", 2, "MB are free" },
        { "quantize --json /nonexistent/x.json", 1, "/nonexistent/x.json" },
        { "fma --min-time 0.01 --json /dev/full", 1, "/dev/full" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        result r = run(rows[i].arguments);
        EXPECT(r.status == rows[i].status, "'%s': status %d", rows[i].arguments, r.status);
        EXPECT(r.err && strstr(r.err, rows[i].piece), "'%s': no '%s' in: %s", rows[i].arguments,
               rows[i].piece, r.err);
        result_free(&r);
    }
}

NIB_TEST(Qbench, ARowThatCannotRunSaysWhyAndTheOthersRun)
{
    result r = run("quantize --rows 8 --cols 64 --cache hot --format mxfp4,nvfp4 --scale-choice"
                   " four-over-six-mse" QUICK);
    EXPECT(r.status == 0 && json_array_size(r.rows) == 2, "status %d: %s", r.status, r.err);
    EXPECT(strstr(text_of(row_of(&r, 0), "skipped"), "four-over-six"), "'%s'",
           text_of(row_of(&r, 0), "skipped"));
    EXPECT(json_is_null(json_object_get(row_of(&r, 0), "median_us")), "a row that did not run");
    EXPECT(json_is_null(json_object_get(row_of(&r, 1), "skipped")), "'%s'",
           text_of(row_of(&r, 1), "skipped"));
    EXPECT(strstr(r.err, "not run: "), "the table does not say why: %s", r.err);
    result_free(&r);
}

NIB_TEST(Qbench, BlockChangesTheFormat)
{
    result r = run("quantize --rows 8 --cols 64 --cache hot --format nvfp4,mxfp4"
                   " --block 32,64" QUICK);
    static const char *const names[] = { "nvfp4-b32", "e2m1/e4m3/64/tensor", "mxfp4",
                                         "e2m1/e8m0/64" };
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 4, "status %d: %s", r.status, r.err);
    for (size_t i = 0; i < 4; i++) {
        EXPECT(!strcmp(text_of(row_of(&r, i), "format"), names[i]), "row %zu: %s", i,
               text_of(row_of(&r, i), "format"));
        EXPECT(number_of(row_of(&r, i), "block") == (i % 2 ? 64 : 32), "row %zu", i);
        EXPECT(!strstr(text_of(row_of(&r, i), "command"), "--block"), "named twice");
    }
    result_free(&r);
}

NIB_TEST(Qbench, ModelsAndFilesGiveShapes)
{
    const temp_dir dir = temp_dir_make();
    char line[640];
    result r = run("amax --rows 2 --cache hot --model smollm2-135m" QUICK);
    static const int cols[] = { 576, 576, 576, 1536 }; /* q and o; k and v; gate and up; down */
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 4, "status %d: %s", r.status, r.err);
    for (size_t i = 0; i < 4; i++) {
        const json_t *shape = json_object_get(row_of(&r, i), "shape");
        EXPECT(number_of(shape, "rows") == 2 && number_of(shape, "cols") == cols[i], "row %zu", i);
    }
    EXPECT(!strcmp(text_of(row_of(&r, 1), "layer"), "smollm2-135m k+v"), "'%s'",
           text_of(row_of(&r, 1), "layer"));
    result_free(&r);

    static const char good[] = "# rows cols batch name\n\n 3 64\n4\t32 2  my layer \n";
    temp_write(temp_path(&dir, "shapes"), good, strlen(good));
    snprintf(line, sizeof line, "quantize amax_rows --cache hot --shapes %s" QUICK,
             temp_path(&dir, "shapes"));
    r = run(line);
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 4, "status %d: %s", r.status, r.err);
    const json_t *second = json_object_get(row_of(&r, 1), "shape");
    EXPECT(number_of(second, "rows") == 4 && number_of(second, "cols") == 32
               && number_of(second, "batch") == 2, "the second line");
    EXPECT(!strcmp(text_of(row_of(&r, 1), "layer"), "my layer"), "'%s'",
           text_of(row_of(&r, 1), "layer"));
    EXPECT(number_of(json_object_get(row_of(&r, 3), "shape"), "batch") == 1, "amax_rows: one");
    result_free(&r);

#define LONG "....|....|....|....|....|....|....|....|....|....|....|....|....|....|....|....|....|"
    static const char *const bad[] = { "3\n", "3 0\n", "a b\n", "3 64x\n", "3 64\n-1 2\n",
                                       "#" LONG LONG LONG LONG "\n3 0\n" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        temp_write(temp_path(&dir, "shapes"), bad[i], strlen(bad[i]));
        r = run(line);
        EXPECT(r.status == 2 && strstr(r.err, "'rows cols [batch [name]]'")
                   && strstr(r.err, i < 4 ? "line 1 " : "line 2 "), "'%s': %s", bad[i], r.err);
        result_free(&r);
    }
    temp_dir_remove(&dir);
}

/* Each row's command, run, gives that row again. */
NIB_TEST(Qbench, TheCommandRepeatsTheRow)
{
    result r = run("quantize relayout dequantize --rows 5 --cols 96 --batch 2 --format mxfp4"
                   " --block 16 --dtype bf16 --rules ocp --scale-choice mse --layout swizzled"
                   " --isa portable --threads 2 --cache hot --no-baseline" QUICK);
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 3, "status %d: %s", r.status, r.err);
    for (size_t i = 0; i < 3; i++) {
        char line[1024];
        const char *command = text_of(row_of(&r, i), "command");
        snprintf(line, sizeof line, "%s" QUICK, command + strlen("qbench "));
        result again = run(line);
        EXPECT(json_array_size(again.rows) == 1
                   && !strcmp(text_of(row_of(&again, 0), "command"), command), "%s", command);
        static const char *const same[] = { "shape", "format", "dtype", "rules", "scale_choice",
                                            "layout", "threads", "cache", "bytes", "kernel" };
        for (size_t k = 0; k < sizeof same / sizeof *same; k++)
            EXPECT(json_equal(json_object_get(row_of(&r, i), same[k]),
                              json_object_get(row_of(&again, 0), same[k])), "%s: %s", command,
                   same[k]);
        result_free(&again);
    }
    result_free(&r);
}

NIB_TEST(Qbench, FlushedRowsAreTimedCallByCall)
{
    result r = run("quantize --rows 8 --cols 64 --cache flush --no-baseline" QUICK);
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 1, "status %d: %s", r.status, r.err);
    EXPECT(number_of(row_of(&r, 0), "batch") == 1, "batch %g", number_of(row_of(&r, 0), "batch"));
    EXPECT(json_is_true(json_object_get(row_of(&r, 0), "verified")), "not verified");
    EXPECT(json_is_null(json_object_get(row_of(&r, 0), "baseline")), "--no-baseline");
    result_free(&r);
}

NIB_TEST(Qbench, AFloorThatIsMissedFails)
{
    result r = run("amax --rows 8 --cols 64 --cache hot --min-sol amax=90" QUICK);
    EXPECT(r.status == 1 && strstr(r.err, "less than --min-sol amax=90"), "status %d: %s",
           r.status, r.err);
    result_free(&r);
    r = run("amax --rows 8 --cols 64 --cache hot --min-sol amax=0" QUICK);
    EXPECT(r.status == 0, "status %d: %s", r.status, r.err);
    result_free(&r);
    r = run("amax --rows 8 --cols 64 --cache hot --min-sol quantize=0" QUICK);
    EXPECT(r.status == 1 && strstr(r.err, "no row of it"), "status %d: %s", r.status, r.err);
    result_free(&r);
}

/* One row that ran does not make up for one that had no device. */
NIB_TEST(Qbench, AMissingDeviceFailsBesideRowsThatRan)
{
    setenv("NIBBLE_CUDA_LIBRARY", "/nonexistent/libnibble_cuda.so", 1);
    result r = run("amax --rows 8 --cols 64 --cache hot --backend cpu,cuda" QUICK);
    EXPECT(r.status == 1 && strstr(r.err, "had no device"), "status %d: %s", r.status, r.err);
    result_free(&r);
    setenv("NIBBLE_BACKEND", "gpu", 1);
    r = run("amax --rows 8 --cols 64 --cache hot" QUICK);
    EXPECT(r.status == 1 && strstr(r.err, "NIBBLE_BACKEND is 'gpu'"), "status %d: %s", r.status,
           r.err);
    result_free(&r);
    unsetenv("NIBBLE_BACKEND");
    unsetenv("NIBBLE_CUDA_LIBRARY");
}

NIB_TEST(Qbench, ProfileRunsWithoutTiming)
{
    result r = run("quantize --rows 8 --cols 64 --profile --json -");
    EXPECT(r.status == 0 && json_array_size(r.rows) == 1, "status %d: %s", r.status, r.err);
    EXPECT(json_is_null(json_object_get(row_of(&r, 0), "median_us"))
               && json_is_true(json_object_get(row_of(&r, 0), "verified")),
           "timed, or not verified");
    result_free(&r);
}

NIB_TEST(Qbench, HelpTeaches)
{
    result r = run("--help");
    static const char *const pieces[] = { "quantize_amax", "source bytes", "--scale-choice", "sol",
                                          "Examples:", "Exit status" };
    EXPECT(r.status == 0, "status %d", r.status);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        EXPECT(r.out && strstr(r.out, pieces[i]), "no '%s'", pieces[i]);
    result_free(&r);
}

static int commas(const char *line)
{
    int n = 0, quoted = 0;
    for (; *line && *line != '\n'; line++) {
        quoted ^= *line == '"';
        n += *line == ',' && !quoted;
    }
    return n;
}

NIB_TEST(Qbench, CsvHasOneHeaderAndEqualLines)
{
    result r = run("quantize fma --rows 8 --cols 64 --cache hot --min-time 0.01 --csv -");
    const char *first = r.out ? strchr(r.out, '\n') : NULL;
    const char *second = first ? strchr(first + 1, '\n') : NULL;
    REQUIRE(r.status == 0 && second && second[1], "status %d: %s", r.status, r.out);
    EXPECT(!strncmp(r.out, "op,backend,", 11) && strstr(r.out, ",rows,cols,"), "%s", r.out);
    EXPECT(commas(r.out) == commas(first + 1) && commas(r.out) == commas(second + 1),
           "%d, %d, %d commas", commas(r.out), commas(first + 1), commas(second + 1));
    result_free(&r);
}

NIB_TEST(Qbench, MarkdownIsATable)
{
    result r = run("quantize fma mma --rows 8 --cols 64 --cache hot --min-time 0.01 --markdown -");
    const char *at = r.out ? strstr(r.out, "| op |") : NULL;
    REQUIRE(r.status == 0 && at, "status %d: %s", r.status, r.out);
    EXPECT(strstr(r.out, "    command    qbench quantize") && strstr(r.out, "commit"), "%s", r.out);
    int lines = 0;
    for (; at && *at; at = strchr(at, '\n') + 1, lines++) {
        int bars = 0;
        for (const char *p = at; *p && *p != '\n'; p++) bars += *p == '|';
        EXPECT(bars == 20, "%d bars in %.60s", bars, at);
    }
    EXPECT(lines == 5, "%d lines", lines);
    result_free(&r);
}

/* Interrupted in its second row: prints the first, exits with 1. */
NIB_TEST(Qbench, InterruptPrintsWhatWasMeasured)
{
    const temp_dir dir = temp_dir_make();
    char path[512], program[] = NIB_BUILD_DIR "/qbench", *rows = NULL;
    snprintf(path, sizeof path, "%s", temp_path(&dir, "rows.json"));
    const pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(99);
        execl(program, program, "fma", "--threads", "1,1,1,1,1,1,1,1,1,1", "--min-time", "1",
              "--max-time", "1", "--json", path, (char *)NULL);
        _exit(99);
    }
    for (int i = 0; i < 600 && !(rows && strchr(rows, '\n')); i++) { /* the first row, or 30 s */
        nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
        free(rows);
        rows = temp_read(path, NULL);
    }
    int status = 0;
    kill(child, SIGINT);
    waitpid(child, &status, 0);
    free(rows);
    rows = temp_read(path, NULL);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %#x", (unsigned)status);
    json_t *read = json_lines(rows ? rows : "");
    EXPECT(json_array_size(read) >= 1 && json_array_size(read) < 10, "%zu rows",
           json_array_size(read));
    json_decref(read);
    free(rows);
    temp_dir_remove(&dir);
}
