/* trace_test.c: what a profiler sees of the public calls. Each test starts this program again with
 * a profiler attached (nvtx_recorder.c), where one of the tests named DISABLED runs. Looks below
 * include/ for the state of host/trace.h. */
#include "shim.h"

#ifndef NIB_NVTX

NIB_TEST(Trace, NeedsHeaders) { SKIP("built without NVTX's headers: no call is traced"); }

#else
#include <ctype.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/trace.h"
#include "nibble/nibble.h"
#include "nvtx_recorder.h"

#ifndef NIB_BUILD_DIR
#define NIB_BUILD_DIR "build"
#endif
#define RECORDER NIB_BUILD_DIR "/tests/nvtx_recorder.so"

/* ---- starting the program again ---- */

/* Runs the disabled test of this name in a process of its own. settings: for env(1). */
static void run_traced(const char *test, const char *settings)
{
    char self[512], command[1400], line[1024], tail[4096] = "";
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    REQUIRE(n > 0, "no /proc/self/exe");
    self[n] = '\0';
    snprintf(command, sizeof command,
             "env -u GTEST_TOTAL_SHARDS -u GTEST_SHARD_INDEX -u GTEST_SHARD_STATUS_FILE %s '%s' "
             "--gtest_color=no --gtest_also_run_disabled_tests "
             "--gtest_filter=Traced.DISABLED_%s 2>&1", settings, self, test);
    FILE *output = popen(command, "r");
    REQUIRE(output, "%s", command);
    int passed = 0;
    size_t length = 0;
    while (fgets(line, sizeof line, output)) {
        if (strstr(line, "[  PASSED  ] 1 test")) passed = 1;
        if (strncmp(line, "ns per call", 11) == 0) fputs(line, stdout);
        length += (size_t)snprintf(tail + length, sizeof tail - length, "%s", line);
        if (length >= sizeof tail) length = sizeof tail - 1;
    }
    const int status = pclose(output);
    EXPECT(status == 0 && passed, "%s\nended with %d:\n%s", command, status, tail);
}

#define ATTACHED "NVTX_INJECTION64_PATH=" RECORDER

static nvtx_record *the_record(void)
{
    void *library = dlopen(RECORDER, RTLD_NOW | RTLD_NOLOAD);
    void *symbol = library ? dlsym(library, NVTX_RECORDER_SYMBOL) : NULL;
    nvtx_recorder_function *function;
    if (!symbol) return NULL;
    memcpy(&function, &symbol, sizeof symbol);
    return function();
}

/* ---- one valid call of each function of quantize.h ---- */

enum { ROWS = 5, COLS = 40, COUNT = 3, CODES = 20, SCALES = 3, SWIZZLED = 512 };

typedef struct request {
    nib_exec            exec;
    nib_matrix          matrix;
    nib_packed          packed;
    nib_batch           batch;
    nib_quantize_report report;
    float               values[COUNT * ROWS * COLS], amax[ROWS], tensor_scale[COUNT];
    uint8_t             codes[COUNT * ROWS * CODES], scales[COUNT * SWIZZLED], other[SWIZZLED];
    uint8_t             turned[COLS * ((ROWS + 1) / 2)], turned_scales[COLS];
} request;

static void request_init(request *r, const nib_device *device)
{
    memset(r, 0, sizeof *r);
    r->exec = (nib_exec){ .size = sizeof r->exec, .device = device, .threads = 1 };
    r->matrix = (nib_matrix){ r->values, NIB_F32, ROWS, COLS, COLS };
    r->packed = (nib_packed){
        .size = sizeof r->packed, .format = NIB_NVFP4, .rows = ROWS, .cols = COLS,
        .codes = r->codes, .ld_codes_bytes = CODES, .scales = r->scales,
        .tensor_scale = r->tensor_scale,
    };
    r->batch = (nib_batch){
        .size = sizeof r->batch, .count = COUNT, .matrix_stride_elems = ROWS * COLS,
        .codes_stride_bytes = ROWS * CODES, .scales_stride_bytes = SWIZZLED, .tensor_stride = 1,
    };
    r->report.size = sizeof r->report;
    for (int i = 0; i < COUNT * ROWS * COLS; i++) r->values[i] = (float)(i % 13 - 6);
    for (int i = 0; i < COUNT; i++) r->tensor_scale[i] = 0.5f;
}

static nib_status quantize(request *r)
{
    return nib_quantize(&r->exec, &r->matrix, NULL, &r->packed);
}
static nib_status given(request *r)
{
    return nib_quantize_given(&r->exec, &r->matrix, NULL, &r->packed);
}
static nib_status dequantize(request *r)
{
    return nib_dequantize(&r->exec, &r->packed, &r->matrix);
}
static nib_status amax(request *r) { return nib_amax(&r->exec, &r->matrix, r->amax, NULL); }
static nib_status amax_rows(request *r) { return nib_amax_rows(&r->exec, &r->matrix, r->amax); }
static nib_status tensor_scale(request *r)
{
    return nib_tensor_scale(r->packed.format, NULL, NIB_SCALE_AMAX, r->matrix.dtype, 3.0f,
                            &r->amax[0], &r->amax[1]);
}
static nib_status relayout_scales(request *r)
{
    return nib_relayout_scales(&r->exec, r->packed.rows, SCALES, NIB_SCALES_LINEAR, r->scales,
                               NIB_SCALES_SWIZZLED_128X4, r->other);
}
static nib_status quantize_batch(request *r)
{
    return nib_quantize_batch(&r->exec, &r->batch, &r->matrix, NULL, &r->packed);
}
static nib_status dequantize_batch(request *r)
{
    return nib_dequantize_batch(&r->exec, &r->batch, &r->packed, &r->matrix);
}
static nib_status amax_batch(request *r)
{
    return nib_amax_batch(&r->exec, &r->batch, &r->matrix, r->amax, NULL);
}
static nib_status quantize_dynamic(request *r)
{
    return nib_quantize_dynamic(&r->exec, &r->batch, &r->matrix, NULL, &r->packed, r->amax);
}
static nib_status quantize_both(request *r)
{
    nib_packed turned = r->packed;
    turned.rows = COLS, turned.cols = ROWS, turned.codes = r->turned;
    turned.scales = r->turned_scales, turned.ld_codes_bytes = nib_codes_row_bytes(NIB_NVFP4, ROWS);
    return nib_quantize_both(&r->exec, &r->matrix, NULL, &r->packed, &turned);
}
static nib_status quantize_stats(request *r)
{
    return nib_quantize_stats(&r->exec, &r->matrix, &r->packed, &r->report);
}

enum {
    PLAIN = ROWS * COLS * 4,
    PACKED = ROWS * (CODES + SCALES), GIVEN = ROWS * SCALES,
    NONE = 255 /* of dtype */
};

/* What each must tell: numbers that follow from quantize.h and the sizes above. */
static const struct function {
    const char *name;
    nib_status (*call)(request *r);
    const char *format;
    int64_t     dtype, rows, cols, count, bytes_read, bytes_written;
} functions[] = {
    { "nib_quantize", quantize, "nvfp4", NIB_F32, ROWS, COLS, 1, PLAIN, PACKED },
    { "nib_quantize_given", given, "nvfp4", NIB_F32, ROWS, COLS, 1, PLAIN + GIVEN, PACKED - GIVEN },
    { "nib_dequantize", dequantize, "nvfp4", NIB_F32, ROWS, COLS, 1, PACKED, PLAIN },
    { "nib_amax", amax, "", NIB_F32, ROWS, COLS, 1, PLAIN, 0 },
    { "nib_amax_rows", amax_rows, "", NIB_F32, ROWS, COLS, 1, PLAIN, ROWS * 4 },
    { "nib_tensor_scale", tensor_scale, "nvfp4", NONE, 0, 0, 1, 0, 0 },
    { "nib_relayout_scales", relayout_scales, "", NONE, ROWS, SCALES, 1, ROWS * SCALES, SWIZZLED },
    { "nib_quantize_batch", quantize_batch, "nvfp4", NIB_F32, ROWS, COLS, COUNT, COUNT * PLAIN,
      COUNT * PACKED },
    { "nib_dequantize_batch", dequantize_batch, "nvfp4", NIB_F32, ROWS, COLS, COUNT,
      COUNT * PACKED, COUNT * PLAIN },
    { "nib_amax_batch", amax_batch, "", NIB_F32, ROWS, COLS, COUNT, COUNT * PLAIN, 0 },
    { "nib_quantize_dynamic", quantize_dynamic, "nvfp4", NIB_F32, ROWS, COLS, COUNT,
      COUNT * 2 * PLAIN, COUNT * PACKED },
    { "nib_quantize_both", quantize_both, "nvfp4", NIB_F32, ROWS, COLS, 1, PLAIN,
      PACKED + COLS * ((ROWS + 1) / 2) + COLS * ((ROWS + 15) / 16) },
    { "nib_quantize_stats", quantize_stats, "nvfp4", NIB_F32, ROWS, COLS, 1, PLAIN + PACKED, 0 },
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* ---- reading the record, through the schema that came with it ---- */

static const nvtx_field *field_named(const nvtx_record *record, const char *name)
{
    for (int32_t i = 0; i < record->n_fields; i++)
        if (strcmp(record->fields[i].name, name) == 0) return &record->fields[i];
    return NULL;
}

static int64_t number(const nvtx_record *record, const nvtx_range *range, const char *name)
{
    const nvtx_field *field = field_named(record, name);
    uint32_t four;
    int64_t eight;
    if (!field) return -1;
    switch (field->type) {
    case 16: /* NVTX_PAYLOAD_ENTRY_TYPE_UINT32 */
        memcpy(&four, range->payload + field->offset, sizeof four);
        return four;
    case 17: /* _INT64 */
        memcpy(&eight, range->payload + field->offset, sizeof eight);
        return eight;
    default: return -1;
    }
}

static void expect_payload(const nvtx_record *record, const nvtx_range *range,
                           const struct function *f)
{
    const struct { const char *name; int64_t value; } wanted[] = {
        { "dtype", f->dtype }, { "rows", f->rows }, { "cols", f->cols }, { "count", f->count },
        { "bytes_read", f->bytes_read }, { "bytes_written", f->bytes_written },
        { "format", f->format[0] ? NIB_NVFP4 : UINT32_MAX },
    };
    EXPECT((size_t)range->payload_bytes == record->schema_bytes, "%s: a payload of %d bytes, "
           "the schema has %zu", f->name, range->payload_bytes, record->schema_bytes);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        EXPECT(number(record, range, wanted[i].name) == wanted[i].value, "%s: %s is %lld, not %lld",
               f->name, wanted[i].name, (long long)number(record, range, wanted[i].name),
               (long long)wanted[i].value);
    const nvtx_field *name = field_named(record, "format_name");
    REQUIRE(name && name->type == 75 && name->length == 24, "format_name: no string of 24 bytes");
    EXPECT(strncmp((const char *)range->payload + name->offset, f->format, name->length) == 0,
           "%s: format_name is '%.24s', not '%s'", f->name,
           (const char *)range->payload + name->offset, f->format);
}

static nib_device *cpu(void)
{
    nib_device *device = NULL;
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU };
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    return device;
}

/* Whether the last range, and no other since before, is f's. */
static int is_range_of(const nvtx_record *record, int32_t before, const struct function *f)
{
    const nvtx_range *range = &record->ranges[before % RECORDED_RANGES];
    return record->pushes == before + 1 && record->pops == before + 1 && record->depth == 0
           && strcmp(range->name, f->name) == 0 && range->registered && range->in_domain
           && range->depth == 1;
}

NIB_TEST(Traced, DISABLED_EachCallIsOneRange)
{
    static request r;
    nib_device *device = cpu();
    request_init(&r, device);
    REQUIRE(quantize(&r) == NIB_OK, "%s", nib_last_error()); /* codes to dequantize */
    nvtx_record *record = the_record();
    REQUIRE(record, "the recorder is not loaded");
    EXPECT(record->domains == 1 && strcmp(record->domain, "nibble") == 0, "%d domains, '%s'",
           record->domains, record->domain);
    EXPECT(record->schemas == 1 && record->enums == 1 && record->enum_names == 4,
           "%d schemas, %d enums of %d", record->schemas, record->enums, record->enum_names);
    EXPECT(record->strings == 2 && strcmp(record->ranges[0].name, "nib_device_open") == 0,
           "%d names are registered after two calls", record->strings);

    for (int i = 0; i < FUNCTIONS; i++) {
        const struct function *f = &functions[i];
        request_init(&r, device);
        const int32_t before = record->pushes;
        EXPECT(f->call(&r) == NIB_OK, "%s: %s", f->name, nib_last_error());
        EXPECT(is_range_of(record, before, f), "%s: %d ranges, the first is '%s'", f->name,
               record->pushes - before, record->ranges[before].name);
        expect_payload(record, &record->ranges[before], f);
    }
    EXPECT(record->strings == 1 + FUNCTIONS, "%d names for %d functions", record->strings,
           1 + FUNCTIONS);
    nib_device_close(device);
}

/* Wrong sizes, NULL and garbage, and a call that fails: a range opens and closes all the same. */
NIB_TEST(Traced, DISABLED_FailuresAreRangesToo)
{
    static request r;
    nib_device *device = cpu();
    nvtx_record *record = the_record();
    REQUIRE(record, "the recorder is not loaded");
    for (int i = 0; i < FUNCTIONS; i++) {
        const struct function *f = &functions[i];
        for (int fault = 0; fault < 6; fault++) {
            request_init(&r, device);
            if (fault == 0) r.exec.device = NULL;
            if (fault == 1) r.matrix = (nib_matrix){ NULL, (nib_dtype)77, -3, INT64_MAX, 2 };
            if (fault == 2) r.packed.size = 1, r.batch.size = 1, r.report.size = 1;
            if (fault == 3) r.packed.format = 0x12345678, r.batch.count = -1, r.report.size = 0;
            if (fault == 4) r.packed.rows = r.packed.cols = INT64_MAX;
            if (fault == 5) r.matrix.rows = r.matrix.ld_elems = r.batch.count = INT64_MAX;
            const int32_t before = record->pushes;
            const nib_status status = f->call(&r);
            EXPECT(record->pushes == before + 1 && record->pops == before + 1
                       && record->depth == 0
                       && strcmp(record->ranges[before % RECORDED_RANGES].name, f->name) == 0,
                   "%s, fault %d: %d ranges, %d open", f->name, fault, record->pushes - before,
                   record->depth);
            if (fault == 2) { /* structs that say that they are too small are not read */
                const nvtx_range *range = &record->ranges[before % RECORDED_RANGES];
                EXPECT(f->call == tensor_scale || number(record, range, "format") == UINT32_MAX,
                       "%s: the format of a struct of size 1", f->name);
                EXPECT(number(record, range, "count") == 1, "%s: the count of a struct of size 1",
                       f->name);
            }
            if (fault == 0 && f->call != tensor_scale)
                EXPECT(status == NIB_ERR_ARGUMENT, "%s: no device is %s", f->name,
                       nib_status_name(status));
        }
    }
    const nvtx_field *read = field_named(record, "bytes_read");
    REQUIRE(read, "no field bytes_read");
    for (int32_t i = 0; i < record->pushes && i < RECORDED_RANGES; i++)
        EXPECT(number(record, &record->ranges[i], "bytes_read") >= 0
                   && number(record, &record->ranges[i], "bytes_written") >= 0,
               "%s: negative bytes", record->ranges[i].name);
    EXPECT(nib_quantize(NULL, NULL, NULL, NULL) == NIB_ERR_ARGUMENT, "NULL is taken");
    EXPECT(nib_quantize_dynamic(NULL, NULL, NULL, NULL, NULL, NULL) == NIB_ERR_ARGUMENT, "NULL");
    EXPECT(nib_dequantize_batch(NULL, NULL, NULL, NULL) == NIB_ERR_ARGUMENT, "NULL is taken");
    EXPECT(record->depth == 0, "%d ranges are open", record->depth);
    nib_device_close(device);
}

NIB_TEST(Traced, DISABLED_CheckpointsAreNamed)
{
    nib_checkpoint_report *report = NULL;
    EXPECT(nib_checkpoint_info("/nowhere", &report) != NIB_OK, "a model that is not there");
    nvtx_record *record = the_record();
    REQUIRE(record, "the recorder is not loaded");
    EXPECT(record->pushes == 1 && record->pops == 1
               && strcmp(record->ranges[0].name, "nib_checkpoint_info") == 0
               && record->ranges[0].payload_bytes == 0,
           "%d ranges, '%s'", record->pushes, record->ranges[0].name);
}

/* Ranges come before checks: a call without a device will do, and no OpenBLAS is needed. */
NIB_TEST(Traced, DISABLED_GptqIsNamed)
{
    static request r;
    static const struct function payloads[] = {
        { "nib_hessian_add", NULL, "", NIB_F32, ROWS, COLS, 1, PLAIN, 0 },
        { "nib_gptq_quantize", NULL, "nvfp4", NIB_F32, ROWS, COLS, 1, PLAIN, PACKED },
    };
    static const char *const names[] = { "nib_hessian_clear", "nib_hessian_merge",
                                         "nib_hessian_rotate", "nib_hessian_check",
                                         "nib_hessian_inverse", "nib_gptq_factor_make",
                                         "nib_hessian_add_grouped" };
    request_init(&r, NULL);
    EXPECT(nib_hessian_add(NULL, &r.matrix, NIB_HESSIAN_EXACT, NULL) == NIB_ERR_ARGUMENT
               && nib_gptq_quantize(NULL, NULL, NULL, &r.matrix, NULL, &r.packed, NULL)
                      == NIB_ERR_ARGUMENT
               && nib_hessian_clear(NULL, NULL) == NIB_ERR_ARGUMENT
               && nib_hessian_merge(NULL, NULL, NULL) == NIB_ERR_ARGUMENT
               && nib_hessian_rotate(NULL, NULL, 16) == NIB_ERR_ARGUMENT
               && nib_hessian_check(NULL, NULL, NULL) == NIB_ERR_ARGUMENT
               && nib_hessian_inverse(NULL, NULL, 0, NULL, 0, NULL) == NIB_ERR_ARGUMENT
               && nib_gptq_factor_make(NULL, NULL, NULL, NULL) == NIB_ERR_ARGUMENT
               && nib_hessian_add_grouped(NULL, NULL, &r.matrix, NIB_HESSIAN_EXACT, NULL)
                      == NIB_ERR_ARGUMENT, "no device");
    nvtx_record *record = the_record();
    REQUIRE(record && record->pushes == 9 && record->depth == 0, "not 9 ranges");
    for (int i = 0; i < 2; i++) expect_payload(record, &record->ranges[i], &payloads[i]);
    for (int i = 0; i < 9; i++) {
        const char *name = i < 2 ? payloads[i].name : names[i - 2];
        EXPECT(strcmp(record->ranges[i].name, name) == 0, "'%s' is not %s",
               record->ranges[i].name, name);
    }
}

static void *many_calls(void *argument)
{
    request *r = malloc(sizeof *r);
    if (!r) return NULL;
    request_init(r, NULL); /* opening a device would be the first call */
    for (int i = 0; i < 20; i++)
        for (int k = 0; k < FUNCTIONS; k++) (void)functions[k].call(r);
    free(r);
    return argument;
}

/* The first calls of a process, from four threads at once. */
NIB_TEST(Traced, DISABLED_ThreadsStartTogether)
{
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, many_calls, NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    nvtx_record *record = the_record();
    REQUIRE(record, "the recorder is not loaded");
    EXPECT(record->domains == 1 && record->schemas == 1, "%d domains, %d schemas",
           record->domains, record->schemas);
    EXPECT(record->pushes == THREADS * 20 * FUNCTIONS && record->pops == record->pushes
               && record->depth == 0,
           "%d opened, %d closed", record->pushes, record->pops);
}

NIB_TEST(Traced, DISABLED_WithoutPayloads)
{
    static request r;
    nib_device *device = cpu();
    request_init(&r, device);
    EXPECT(quantize(&r) == NIB_OK, "%s", nib_last_error());
    nvtx_record *record = the_record();
    REQUIRE(record, "the recorder is not loaded");
    const nvtx_range *range = &record->ranges[1]; /* after nib_device_open's */
    EXPECT(record->pushes == 2 && record->pops == 2 && record->schemas == 0
               && strcmp(range->name, "nib_quantize") == 0 && range->payload_bytes == 0,
           "%d ranges, '%s' with %d bytes", record->pushes, range->name, range->payload_bytes);
    nib_device_close(device);
}

/* No profiler, or one that cannot be had: nobody is called, and nobody is asked again. */
NIB_TEST(Traced, DISABLED_Nobody)
{
    static request r;
    nib_device *device = cpu();
    void *preloaded = getenv("NIB_PRELOAD") ? dlopen(RECORDER, RTLD_NOW | RTLD_GLOBAL) : NULL;
    request_init(&r, device);
    for (int i = 0; i < FUNCTIONS; i++)
        EXPECT(functions[i].call(&r) == NIB_OK, "%s: %s", functions[i].name, nib_last_error());
    EXPECT(atomic_load(&nib_trace_state) == NIB_TRACE_OFF, "state %d",
           atomic_load(&nib_trace_state));
    const nvtx_record *record = preloaded ? the_record() : NULL;
    EXPECT(!preloaded == !record, "the recorder does not answer");
    EXPECT(!record || (record->domains == 0 && record->pushes == 0), "the recorder was called");
    nib_device_close(device);
}

/* Time of a call that does next to nothing: scales of no rows. */
NIB_TEST(Traced, DISABLED_Cost)
{
    enum { CALLS = 200000, TRIES = 5 };
    static request r;
    nib_device *device = cpu();
    double best = 1e9;
    request_init(&r, device);
    r.packed.rows = 0;
    for (int i = 0; i < TRIES; i++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        for (int k = 0; k < CALLS; k++) (void)relayout_scales(&r);
        clock_gettime(CLOCK_MONOTONIC, &to);
        const double ns = (double)(to.tv_sec - from.tv_sec) * 1e9
                          + (double)(to.tv_nsec - from.tv_nsec);
        if (ns / CALLS < best) best = ns / CALLS;
    }
    printf("ns per call, %s: %.1f\n", the_record() ? "profiler attached" : "no profiler", best);
    EXPECT(best < 20000.0, "%.1f ns per call", best);
    nib_device_close(device);
}

NIB_TEST(Trace, EachCallIsOneRange) { run_traced("EachCallIsOneRange", ATTACHED); }
NIB_TEST(Trace, FailuresAreRangesToo) { run_traced("FailuresAreRangesToo", ATTACHED); }
NIB_TEST(Trace, CheckpointsAreNamed) { run_traced("CheckpointsAreNamed", ATTACHED); }
NIB_TEST(Trace, GptqIsNamed) { run_traced("GptqIsNamed", ATTACHED); }
NIB_TEST(Trace, ThreadsStartTogether) { run_traced("ThreadsStartTogether", ATTACHED); }
NIB_TEST(Trace, ProfilerWithoutPayloads)
{
    run_traced("WithoutPayloads", ATTACHED " NVTX_RECORDER=core");
}
NIB_TEST(Trace, NobodyIsCalledWithoutProfiler)
{
    run_traced("Nobody", "-u NVTX_INJECTION64_PATH");
    run_traced("Nobody", "-u NVTX_INJECTION64_PATH NIB_PRELOAD=1");
    run_traced("Nobody", ATTACHED " NVTX_RECORDER=refuse");
    run_traced("Nobody", "NVTX_INJECTION64_PATH=/nowhere/at/all.so");
    run_traced("Nobody", "NVTX_INJECTION64_PATH=/dev/null");
}
NIB_TEST(Trace, CostIsPrinted)
{
    run_traced("Cost", "-u NVTX_INJECTION64_PATH");
    run_traced("Cost", ATTACHED);
}

/* A function that quantize.h declares and the table above lacks would go unseen. */
NIB_TEST(Trace, TableHasEachFunctionOfTheHeader)
{
    FILE *header = fopen("include/nibble/quantize.h", "r");
    REQUIRE(header, "include/nibble/quantize.h cannot be read");
    char line[256];
    int found = 0;
    while (fgets(line, sizeof line, header)) {
        if (strncmp(line, "nib_status nib_", 15) != 0) continue;
        char *name = line + 11;
        name[strcspn(name, "(")] = '\0';
        int at = 0;
        while (at < FUNCTIONS && strcmp(functions[at].name, name) != 0) at++;
        EXPECT(at < FUNCTIONS, "%s is not in this test", name);
        found++;
    }
    fclose(header);
    EXPECT(found == FUNCTIONS, "%d functions in quantize.h, %d here", found, FUNCTIONS);
}

#endif
