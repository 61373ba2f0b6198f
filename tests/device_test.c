/* device_test.c: opening devices: options, environment, refusals. */
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "expect_status.h"
#include "kernels/backend.h"

/* Sets NIBBLE_BACKEND and remembers what the user had. */
static char *swap_backend(const char *value)
{
    const char *old = getenv("NIBBLE_BACKEND");
    char *saved = old ? strdup(old) : NULL;
    if (value) setenv("NIBBLE_BACKEND", value, 1);
    else unsetenv("NIBBLE_BACKEND");
    return saved;
}

static void restore_backend(char *saved)
{
    if (saved) setenv("NIBBLE_BACKEND", saved, 1);
    else unsetenv("NIBBLE_BACKEND");
    free(saved);
}

static nib_device_options valid_options(void)
{
    return (nib_device_options){ .size = sizeof(nib_device_options), .backend = NIB_BACKEND_CPU };
}

static int has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); /* and F16C, older */
#else
    return 0;
#endif
}

static int has_avx512(void)
{
#if defined(__x86_64__)
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}

NIB_TEST(Device, OpensWithDefaults)
{
    nib_device *device = NULL;
    char *saved = swap_backend("cpu");
    EXPECT(nib_device_open(NULL, &device) == NIB_OK, "%s", nib_last_error());
    restore_backend(saved);
    REQUIRE(device, "no device");
    EXPECT(nib_device_backend(device) == NIB_BACKEND_CPU, "backend %d",
           (int)nib_device_backend(device));
    const char *expected = has_avx512() ? "cpu avx512" : has_avx2() ? "cpu avx2" : "cpu portable";
    EXPECT(!strncmp(nib_device_description(device), expected, strlen(expected)),
           "'%s' does not start with '%s'", nib_device_description(device), expected);
    nib_device_close(device);
}

NIB_TEST(Device, EveryInstructionSet)
{
    for (int isa = NIB_CPU_ISA_AUTO; isa <= NIB_CPU_ISA_AVX512; isa++) {
        nib_device_options options = valid_options();
        nib_device *device = NULL;
        options.cpu_isa = (nib_cpu_isa)isa;
        if (isa == NIB_CPU_ISA_AVX2 && !has_avx2()) {
            EXPECT_FAILS("avx2", nib_device_open(&options, &device), NIB_ERR_UNSUPPORTED, "AVX2");
            EXPECT(!device, "a device that failed to open");
            continue;
        }
        if (isa == NIB_CPU_ISA_AVX512 && !has_avx512()) {
            EXPECT_FAILS("avx512", nib_device_open(&options, &device), NIB_ERR_UNSUPPORTED,
                         "AVX-512");
            EXPECT(!device, "a device that failed to open");
            continue;
        }
        EXPECT(nib_device_open(&options, &device) == NIB_OK, "%d: %s", isa, nib_last_error());
        if (isa == NIB_CPU_ISA_PORTABLE)
            EXPECT(!strncmp(nib_device_description(device), "cpu portable", 12), "'%s'",
                   nib_device_description(device));
        if (isa == NIB_CPU_ISA_AVX512)
            EXPECT(!strncmp(nib_device_description(device), "cpu avx512", 10), "'%s'",
                   nib_device_description(device));
        if (isa == NIB_CPU_ISA_AVX2)
            EXPECT(!strncmp(nib_device_description(device), "cpu avx2", 8), "'%s'",
                   nib_device_description(device));
        nib_device_close(device);
    }
}

NIB_TEST(Device, NullIsAllowedWhereItSays)
{
    nib_device_close(NULL);
    EXPECT(nib_device_backend(NULL) == NIB_BACKEND_AUTO, "backend %d",
           (int)nib_device_backend(NULL));
    EXPECT(!strcmp(nib_device_description(NULL), ""), "'%s'", nib_device_description(NULL));
    EXPECT(!strcmp(nib_device_reason(NULL), ""), "'%s'", nib_device_reason(NULL));
    EXPECT_FAILS("device NULL", nib_device_open(NULL, NULL), NIB_ERR_ARGUMENT, "device is NULL");
}

NIB_TEST(Device, OneFieldWrong)
{
    static const struct {
        const char *label;
        uint32_t    size;
        int         backend, ordinal, isa;
        nib_status  status;
        const char *piece;
        int         debug;
    } rows[] = {
        { "debug 2", sizeof(nib_device_options), 1, 0, 0, NIB_ERR_ARGUMENT, "debug is 2", 2 },
        { "debug -1", sizeof(nib_device_options), 1, 0, 0, NIB_ERR_ARGUMENT, "debug is -1", -1 },
        { "size 0", 0, 1, 0, 0, NIB_ERR_ARGUMENT, "size is 0", 0 },
        { "size short", offsetof(nib_device_options, debug) - 1, 1, 0, 0, NIB_ERR_ARGUMENT,
          "size is 15", 0 },
        { "backend 3", sizeof(nib_device_options), 3, 0, 0, NIB_ERR_ARGUMENT, "backend 3", 0 },
        { "backend -1", sizeof(nib_device_options), -1, 0, 0, NIB_ERR_ARGUMENT, "backend -1", 0 },
        { "ordinal -1", sizeof(nib_device_options), 1, -1, 0, NIB_ERR_ARGUMENT, "-1", 0 },
        { "ordinal min", sizeof(nib_device_options), 1, INT_MIN, 0, NIB_ERR_ARGUMENT,
          "-2147483648", 0 },
        { "ordinal 1", sizeof(nib_device_options), 1, 1, 0, NIB_ERR_UNSUPPORTED, "1", 0 },
        { "isa 4", sizeof(nib_device_options), 1, 0, 4, NIB_ERR_ARGUMENT, "set 4", 0 },
        { "isa -1", sizeof(nib_device_options), 1, 0, -1, NIB_ERR_ARGUMENT, "set -1", 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_device_options options = { .size = rows[i].size, .ordinal = rows[i].ordinal,
                                       .debug = rows[i].debug };
        nib_device *device = (nib_device *)&options; /* must become NULL */
        memcpy(&options.backend, &rows[i].backend, sizeof options.backend);
        memcpy(&options.cpu_isa, &rows[i].isa, sizeof options.cpu_isa);
        EXPECT_FAILS(rows[i].label, nib_device_open(&options, &device), rows[i].status,
                     rows[i].piece);
        EXPECT(!device, "%s: device is not NULL after the failure", rows[i].label);
    }
}

NIB_TEST(Device, TakesOptionsOfALaterVersion) /* more members behind the ones known here */
{
    struct {
        nib_device_options known;
        uint64_t           later[4];
    } options = { valid_options(), { 1, 2, 3, 4 } };
    nib_device *device = NULL;
    options.known.size = sizeof options;
    EXPECT(nib_device_open(&options.known, &device) == NIB_OK, "%s", nib_last_error());
    nib_device_close(device);
}

NIB_TEST(Device, TakesOptionsOfTheFirstVersion) /* which had no debug: what follows is not read */
{
    nib_device_options options = valid_options();
    nib_device *device = NULL;
    options.debug = 77;
    for (uint32_t size = offsetof(nib_device_options, debug); size < sizeof options; size++) {
        options.size = size;
        EXPECT(nib_device_open(&options, &device) == NIB_OK, "%u: %s", size, nib_last_error());
        nib_device_close(device);
    }
}

NIB_TEST(Device, AutoObeysTheEnvironment)
{
    static const struct {
        const char *value;
        nib_status  status; /* on a machine or build without CUDA */
        const char *piece;
    } rows[] = {
        { "cpu", NIB_OK, "" },
        { "auto", NIB_OK, "" },
        { "", NIB_OK, "" },
        { NULL, NIB_OK, "" },
        { "CPU", NIB_ERR_ARGUMENT, "'CPU'" },
        { "gpu", NIB_ERR_ARGUMENT, "cpu, cuda, auto" },
        { "cpu ", NIB_ERR_ARGUMENT, "'cpu '" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *label = rows[i].value ? rows[i].value : "(unset)";
        nib_device *device = NULL;
        char *saved = swap_backend(rows[i].value);
        if (rows[i].status == NIB_OK)
            EXPECT(nib_device_open(NULL, &device) == NIB_OK, "%s: %s", label, nib_last_error());
        else
            EXPECT_FAILS(label, nib_device_open(NULL, &device), rows[i].status, rows[i].piece);
        EXPECT(!device == (rows[i].status != NIB_OK), "%s: device %p", label, (void *)device);
        nib_device_close(device);

        /* A backend that is asked for by name is not the environment's business. */
        const nib_device_options cpu = valid_options();
        EXPECT(nib_device_open(&cpu, &device) == NIB_OK, "%s: %s", label, nib_last_error());
        nib_device_close(device);
        restore_backend(saved);
    }
}

/* With a GPU it opens; without one it says why, however it was asked for. */
NIB_TEST(Device, CudaOpensOrSaysWhy)
{
    nib_device_options options = valid_options();
    options.backend = NIB_BACKEND_CUDA;
    for (int by_environment = 0; by_environment < 2; by_environment++) {
        nib_device *device = NULL;
        char *saved = swap_backend(by_environment ? "cuda" : "cpu");
        soil_last_error();
        const nib_status status = nib_device_open(by_environment ? NULL : &options, &device);
        restore_backend(saved);
        if (status == NIB_OK) {
            EXPECT(nib_device_backend(device) == NIB_BACKEND_CUDA, "backend %d",
                   (int)nib_device_backend(device));
            nib_device_close(device);
        } else {
            EXPECT(status == NIB_ERR_NO_DEVICE, "%s", nib_status_name(status));
            EXPECT(last_error_has("device_open: no CUDA device: "), "'%s'", nib_last_error());
            EXPECT(!device, "a device that failed to open");
        }
    }
}

/* AUTO alone, on any machine: CUDA, or the CPU and the same words that CUDA's refusal has. */
NIB_TEST(Device, AutoSaysWhyItTookTheCpu)
{
    nib_device *device = NULL, *cuda = NULL;
    char *saved = swap_backend(NULL);
    EXPECT(nib_device_open(NULL, &device) == NIB_OK, "%s", nib_last_error());
    restore_backend(saved);
    REQUIRE(device, "no device");
    nib_device_options options = valid_options();
    options.backend = NIB_BACKEND_CUDA;
    soil_last_error();
    const nib_status status = nib_device_open(&options, &cuda);
    const char *reason = nib_device_reason(device);
    EXPECT((status == NIB_OK) == (nib_device_backend(device) == NIB_BACKEND_CUDA), "AUTO is %d, "
           "CUDA %s", (int)nib_device_backend(device), nib_status_name(status));
    EXPECT((status == NIB_OK) == !*reason, "'%s'", reason);
    EXPECT(status == NIB_OK || last_error_has(reason), "'%s' is not '%s'", reason,
           nib_last_error());
    options.backend = NIB_BACKEND_AUTO;
    options.ordinal = 1000;
    nib_device *none = device;
    EXPECT(nib_device_open(&options, &none) == NIB_ERR_UNSUPPORTED && !none, "ordinal 1000");
    EXPECT(last_error_has("1000") && last_error_has(reason), "'%s'", nib_last_error());
    nib_device_close(cuda);
    nib_device_close(device);

    const nib_device_options cpu = valid_options();
    EXPECT(nib_device_open(&cpu, &device) == NIB_OK, "%s", nib_last_error());
    EXPECT(!*nib_device_reason(device), "who asks for the CPU wants no reason: '%s'",
           nib_device_reason(device));
    nib_device_close(device);
}

NIB_TEST(Device, InfoOfTheCpu)
{
    const nib_device_options options = valid_options();
    nib_device *device = NULL;
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    struct {
        nib_device_info known;
        uint64_t        later;
    } info;
    memset(&info, 0x55, sizeof info);
    info.known.size = sizeof info;
    EXPECT(nib_device_get_info(device, &info.known) == NIB_OK, "%s", nib_last_error());
    EXPECT(info.known.size == sizeof info && info.later == 0x5555555555555555u, "size %u",
           info.known.size);
    EXPECT(info.known.backend == NIB_BACKEND_CPU && info.known.ordinal == 0
               && info.known.compute_capability == 0 && info.known.driver_version == 0,
           "backend %d", (int)info.known.backend);
    EXPECT(info.known.processors >= 1 && info.known.memory_bytes > 0, "%d, %zu",
           info.known.processors, info.known.memory_bytes);
    EXPECT(strstr(nib_device_description(device), info.known.name), "'%s'", info.known.name);

    nib_device_info bad = { .size = sizeof bad - 1 };
    EXPECT_FAILS("size", nib_device_get_info(device, &bad), NIB_ERR_ARGUMENT, "size is");
    EXPECT_FAILS("info", nib_device_get_info(device, NULL), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("device", nib_device_get_info(NULL, &bad), NIB_ERR_ARGUMENT, "NULL");
    nib_device_close(device);
}

NIB_TEST(Device, PrepareChecksItsArguments)
{
    const nib_device_options options = valid_options();
    nib_device *device = NULL;
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_prepare(device, NIB_PREPARE_QUANTIZE) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_prepare(device, NIB_PREPARE_ALL) == NIB_OK, "%s", nib_last_error());
    EXPECT_FAILS("device", nib_prepare(NULL, NIB_PREPARE_ALL), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("0", nib_prepare(device, 0), NIB_ERR_ARGUMENT, "0");
    EXPECT_FAILS("unknown", nib_prepare(device, 0x40000000), NIB_ERR_ARGUMENT, "0x40000000");
    EXPECT_FAILS("too many", nib_prepare(device, 0xffffffffu), NIB_ERR_ARGUMENT, "0xffffffff");
    nib_device_close(device);
}

NIB_TEST(Device, RuntimeOfTheCpu) /* looks below include/ */
{
    const nib_device_options options = valid_options();
    nib_device *device = NULL;
    EXPECT(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
    const nib_runtime_ops *r = nib_device_runtime(device);
    EXPECT(!nib_device_bench(device), "limits of a GPU");
    char why[NIB_WHY_BYTES] = "";
    unsigned char back[5] = { 0 };
    void *memory = NULL, *stream = back;
    EXPECT(r->allocate(0, 5, &memory, why) == NIB_OK && (uintptr_t)memory % 256 == 0, "%p", memory);
    EXPECT(r->stream_create(0, &stream, why) == NIB_OK && !stream, "the CPU has no streams");
    EXPECT(r->fill(0, stream, memory, 0x5a, 5, why) == NIB_OK, "fill");
    EXPECT(r->copy(0, stream, back, memory, 5, why) == NIB_OK, "copy");
    EXPECT(r->synchronize(0, stream, why) == NIB_OK, "synchronize");
    EXPECT(back[0] == 0x5a && back[4] == 0x5a, "%#x", back[4]);
    EXPECT(r->release(0, memory, why) == NIB_OK, "release");
    EXPECT(r->stream_destroy(0, stream, why) == NIB_OK, "stream_destroy");
    EXPECT(r->allocate(0, 0, &memory, why) == NIB_OK && !memory, "no bytes");
    nib_device_close(device);
}
