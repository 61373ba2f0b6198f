/* log_test.c: NIBBLE_LOG=bench: an application's calls come back as lines that qbench runs. */
#include "kernels/backend.h"
#include "qbench_run.h"

/* Runs qbench as an application that makes some calls; returns the lines of the log. */
static char *log_of(const char *arguments, const char *level)
{
    const temp_dir dir = temp_dir_make();
    char path[512];
    snprintf(path, sizeof path, "%s", temp_path(&dir, "log"));
    setenv("NIBBLE_LOG", level, 1);
    setenv("NIBBLE_LOG_FILE", path, 1);
    result r = run(arguments);
    unsetenv("NIBBLE_LOG");
    unsetenv("NIBBLE_LOG_FILE");
    EXPECT(r.status == 0, "%s: status %d: %s", arguments, r.status, r.err);
    result_free(&r);
    char *log = temp_read(path, NULL);
    temp_dir_remove(&dir);
    return log;
}

/* The line that begins with start and has piece, or an empty text. */
static const char *line_with(const char *log, const char *start, const char *piece, char *line,
                             size_t bytes)
{
    line[0] = '\0';
    for (const char *at = log; at && *at;) {
        const size_t n = strcspn(at, "\n");
        snprintf(line, bytes, "%.*s", (int)n, at);
        if (!strncmp(line, start, strlen(start)) && strstr(line, piece)) return line;
        line[0] = '\0';
        at += n + (at[n] == '\n');
    }
    return line;
}

/* A logged line, run, is a row of the call's shape. */
static void expect_repeats(const char *log, const char *op, const char *piece)
{
    char start[64], line[1024], arguments[1200];
    snprintf(start, sizeof start, "qbench %s --backend cpu --isa portable ", op);
    line_with(log, start, piece, line, sizeof line);
    REQUIRE(line[0], "no line '%s...%s' in: %s", start, piece, log ? log : "");
    snprintf(arguments, sizeof arguments,
             "%.1000s --cache hot --min-time 0.01 --max-time 0.05 --json -", line + 7);
    result r = run(arguments);
    REQUIRE(r.status == 0 && json_array_size(r.rows) == 1, "'%s': status %d: %s", line, r.status,
            r.err);
    const char *command = text_of(row_of(&r, 0), "command");
    static const char *const axes[] = { "--isa", "--format", "--dtype", "--rules", "--layout",
                                        "--scale-choice", "--rounding", "--scale-rows",
                                        "--gradient", "--mask", "--batch", "--rows", "--cols",
                                        "--threads", "--real", "--order", "--scales",
                                        "--guard", "--element", "--block" };
    const int by_format = !strstr(line, "--element"); /* whose name has its block */
    for (size_t i = 0; i < sizeof axes / sizeof *axes; i++) {
        const char *asked = strstr(line, axes[i]), *got = strstr(command, axes[i]);
        /* the command may say more: what dequantize's input was made by */
        if (!asked || (by_format && !strcmp(axes[i], "--block"))) continue;
        EXPECT(got && strcspn(asked, " ") == strlen(axes[i])
                   && !strncmp(asked, got, strlen(axes[i]) + 1
                                               + strcspn(asked + strlen(axes[i]) + 1, " ")),
               "%s: '%s' became '%s'", axes[i], line, command);
    }
    result_free(&r);
}

NIB_TEST(Log, EachCallBecomesALineThatRepeatsIt)
{
    char *log = log_of("quantize quantize_dynamic dequantize amax amax_rows relayout quantize_stats"
                       " --profile --no-verify --isa portable --threads 2 --rows 6 --cols 96"
                       " --format nvfp4 --dtype bf16 --rules modelopt --scale-choice mse"
                       " --layout swizzled", "bench");
    expect_repeats(log, "quantize", "--threads 2");
    expect_repeats(log, "quantize_dynamic", "--threads 2");
    expect_repeats(log, "dequantize", "--threads 2");
    expect_repeats(log, "amax", "--threads 2");
    expect_repeats(log, "amax_rows", "--threads 2");
    expect_repeats(log, "relayout", "--layout swizzled");
    expect_repeats(log, "quantize_stats", "--threads 2");
    free(log);
    log = log_of("fake_quantize_steps fake_quantize_steps_given fake_quantize_steps_backward"
                 " quantize_steps dequantize_steps --profile --no-verify --isa portable --rows 6"
                 " --cols 96 --threads 2", "bench");
    expect_repeats(log, "fake_quantize_steps", "--threads 2");
    expect_repeats(log, "fake_quantize_steps_given", "--threads 2");
    expect_repeats(log, "fake_quantize_steps_backward", "--threads 2");
    expect_repeats(log, "quantize_steps", "--threads 2");
    expect_repeats(log, "dequantize_steps", "--threads 2");
    free(log);
    log = log_of("quantize_steps dequantize_steps fake_quantize_steps_rows --profile --no-verify"
                 " --isa portable --rows 6 --cols 600 --threads 2 --element int3 --block 256",
                 "bench");
    expect_repeats(log, "quantize_steps", "--element int3 --block 256 --rows 6 --cols 600");
    expect_repeats(log, "dequantize_steps", "--element int3 --block 256 --rows 6 --cols 600");
    expect_repeats(log, "fake_quantize_steps_rows", "--rows 6 --cols 600");
    free(log);
    log = log_of("quantize_steps --profile --no-verify --isa portable --rows 6 --cols 100"
                 " --threads 2 --element int8 --block channel", "bench");
    expect_repeats(log, "quantize_steps", "--element int8 --block 104 --rows 6 --cols 100");
    free(log);
    log = log_of("quantize dequantize amax --profile --no-verify --isa portable --rows 6 --cols 64"
                 " --threads 2 --format mxfp4 --batch 3 --rounding stochastic --rules ocp",
                 "bench");
    expect_repeats(log, "quantize", "--rules ocp --scale-choice amax --rounding stochastic"
                                    " --layout linear --batch 3");
    expect_repeats(log, "dequantize", "--batch 3");
    expect_repeats(log, "amax", "--batch 3");
    free(log);
    log = log_of("fake_quantize fake_quantize_given fake_quantize_backward --profile --no-verify"
                 " --isa portable --rows 6 --cols 8 --threads 2 --format mxfp4 --dtype f16"
                 " --rules ocp --mask bits --gradient clamp --layout swizzled", "bench");
    expect_repeats(log, "fake_quantize", "--mask bits");
    expect_repeats(log, "fake_quantize_given", "--mask bits --layout swizzled");
    expect_repeats(log, "fake_quantize_backward", "--gradient clamp --mask bits");
    free(log);
    log = log_of("fake_quantize_backward --profile --no-verify --isa portable --rows 6 --cols 40"
                 " --threads 2 --gradient identity", "bench");
    expect_repeats(log, "fake_quantize_backward", "--gradient identity --mask none");
    free(log);
    log = log_of("quantize quantize_both --profile --no-verify --isa portable --rows 32 --cols 64"
                 " --threads 2 --scale-rows 16", "bench");
    expect_repeats(log, "quantize", "--scale-rows 16 --layout linear");
    expect_repeats(log, "quantize_both", "--scale-rows 16 --layout linear");
    free(log);
    log = log_of("quantize_given --profile --no-verify --isa portable --rows 6 --cols 64"
                 " --threads 2 --format mxfp4 --layout swizzled", "bench");
    expect_repeats(log, "quantize_given", "--layout swizzled --rows 6 --cols 64");
    free(log);
}

NIB_TEST(Log, ProductsBecomeLinesThatRepeatThem)
{
    char *log = log_of("gemm gemm_backward --profile --no-verify --isa portable --threads 2 --m 3"
                       " --n 16 --k 40 --format mxfp4 --dtype bf16 --activations int8", "bench");
    expect_repeats(log, "gemm", "--activations int8 --m 3 --n 16 --k 40");
    expect_repeats(log, "gemm_backward", "--m 3 --n 16 --k 40");
    free(log);
    log = log_of("gemm_pack --profile --no-verify --isa portable --threads 2 --n 16 --k 40",
                 "bench");
    expect_repeats(log, "gemm_pack", "--n 16 --k 40");
    free(log);
    log = log_of("gemm_unpack --profile --no-verify --isa portable --threads 2 --n 16 --k 40"
                 " --dtype f16", "bench");
    expect_repeats(log, "gemm_unpack", "--dtype f16 --n 16 --k 40");
    free(log);
}

NIB_TEST(Log, GptqBecomesLinesThatRepeatIt)
{
    if (nib_bench_cpu.gemm_missing()) SKIP(nib_bench_cpu.gemm_missing());
    char *log = log_of("hessian gptq --profile --no-verify --isa portable --threads 2 --rows 9"
                       " --cols 64 --dtype bf16 --real f64 --order group-aware --format mxfp4"
                       " --scales hessian-fresh --guard on", "bench");
    expect_repeats(log, "hessian", "--dtype bf16 --real f64 --rows 9 --cols 64");
    expect_repeats(log, "gptq_factor", "--real f64 --order group-aware --block 32 --cols 64");
    expect_repeats(log, "gptq_quantize", "--real f64 --order group-aware --scales hessian-fresh"
                                         " --guard on");
    free(log);
    log = log_of("hessian --profile --no-verify --isa portable --rows 9 --cols 64 --threads 2"
                 " --precision tf32", "bench");
    expect_repeats(log, "hessian", "--precision tf32 --real f32 --rows 9 --cols 64");
    free(log);
    log = log_of("gptq --profile --no-verify --isa portable --rows 9 --cols 64 --threads 2"
                 " --order act", "bench");
    expect_repeats(log, "gptq_factor", "--real f32 --order act --cols 64");
    expect_repeats(log, "gptq_quantize", "--order act --scales frozen --guard off");
    free(log);
    log = log_of("hessian_grouped hessian_inverse gptq_quantize_steps --profile --no-verify --isa"
                 " portable --rows 9 --cols 64 --threads 2 --order group-aware --element int8"
                 " --block 32 --scales fresh --guard on --real f64", "bench");
    EXPECT(strstr(log, "qbench hessian_grouped --backend cpu --isa portable --threads 2 --dtype f32"
                       " --real f64 --rows 9 --cols 64 # rows in groups\n"), "%s", log);
    expect_repeats(log, "hessian_inverse", "--real f64 --cols 64");
    expect_repeats(log, "gptq_quantize_steps", "--real f64 --order group-aware --element int8"
                                               " --block 32 --scales fresh --guard on");
    free(log);
    log = log_of("gptq_quantize_steps --profile --no-verify --isa portable --rows 9 --cols 300"
                 " --threads 2 --block 256,channel --order group-aware", "bench");
    expect_repeats(log, "gptq_quantize_steps", "--element int4 --block 256 --scales frozen");
    expect_repeats(log, "gptq_quantize_steps", "--element int4 --block 304 --scales frozen");
    EXPECT(strstr(log, "gptq_factor") && strstr(log, " --cols 300 # groups of 256\n")
               && strstr(log, " # groups of 300\n"), "%s", log);
    free(log);
}

NIB_TEST(Log, NothingIsWrittenUnasked)
{
    static const char *const levels[] = { "", "benchmark", "1" };
    for (int i = 0; i < 3; i++) {
        char *log = log_of("amax --profile --rows 6 --cols 96", levels[i]);
        EXPECT(!log || !*log, "NIBBLE_LOG='%s': %s", levels[i], log);
        free(log);
    }
}

NIB_TEST(Log, WithoutAFileItGoesToStandardError)
{
    setenv("NIBBLE_LOG", "bench", 1);
    result r = run("amax --profile --rows 6 --cols 96 --threads 1");
    setenv("NIBBLE_LOG_FILE", "/nonexistent/log", 1);
    result other = run("amax --profile --rows 6 --cols 96 --threads 1");
    unsetenv("NIBBLE_LOG");
    unsetenv("NIBBLE_LOG_FILE");
    EXPECT(strstr(r.err, "qbench amax --backend cpu") && strstr(r.err, "--rows 6 --cols 96\n"),
           "%s", r.err);
    EXPECT(strstr(other.err, "--rows 6 --cols 96\n"), "a file that cannot be opened: %s",
           other.err);
    result_free(&r);
    result_free(&other);
}
