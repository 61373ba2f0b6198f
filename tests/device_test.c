/* device_test.c: opening devices: options, environment, refusals. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "expect_status.h"

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

NIB_TEST(Device, OpensWithDefaults)
{
    nib_device *device = NULL;
    char *saved = swap_backend("cpu");
    EXPECT(nib_device_open(NULL, &device) == NIB_OK, "%s", nib_last_error());
    restore_backend(saved);
    REQUIRE(device, "no device");
    EXPECT(nib_device_backend(device) == NIB_BACKEND_CPU, "backend %d",
           (int)nib_device_backend(device));
    const char *expected = has_avx2() ? "cpu avx2" : "cpu portable";
    EXPECT(!strncmp(nib_device_description(device), expected, strlen(expected)),
           "'%s' does not start with '%s'", nib_device_description(device), expected);
    nib_device_close(device);
}

NIB_TEST(Device, EveryInstructionSet)
{
    for (int isa = NIB_CPU_ISA_AUTO; isa <= NIB_CPU_ISA_AVX2; isa++) {
        nib_device_options options = valid_options();
        nib_device *device = NULL;
        options.cpu_isa = (nib_cpu_isa)isa;
        if (isa == NIB_CPU_ISA_AVX2 && !has_avx2()) {
            EXPECT_FAILS("avx2", nib_device_open(&options, &device), NIB_ERR_UNSUPPORTED, "AVX2");
            EXPECT(!device, "a device that failed to open");
            continue;
        }
        EXPECT(nib_device_open(&options, &device) == NIB_OK, "%d: %s", isa, nib_last_error());
        if (isa == NIB_CPU_ISA_PORTABLE)
            EXPECT(!strncmp(nib_device_description(device), "cpu portable", 12), "'%s'",
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
    } rows[] = {
        { "size 0", 0, 1, 0, 0, NIB_ERR_ARGUMENT, "size is 0" },
        { "size short", sizeof(nib_device_options) - 1, 1, 0, 0, NIB_ERR_ARGUMENT, "size is" },
        { "backend 3", sizeof(nib_device_options), 3, 0, 0, NIB_ERR_ARGUMENT, "backend 3" },
        { "backend -1", sizeof(nib_device_options), -1, 0, 0, NIB_ERR_ARGUMENT, "backend -1" },
        { "ordinal -1", sizeof(nib_device_options), 1, -1, 0, NIB_ERR_ARGUMENT, "-1" },
        { "ordinal min", sizeof(nib_device_options), 1, INT_MIN, 0, NIB_ERR_ARGUMENT,
          "-2147483648" },
        { "ordinal 1", sizeof(nib_device_options), 1, 1, 0, NIB_ERR_UNSUPPORTED, "1" },
        { "isa 3", sizeof(nib_device_options), 1, 0, 3, NIB_ERR_ARGUMENT, "set 3" },
        { "isa -1", sizeof(nib_device_options), 1, 0, -1, NIB_ERR_ARGUMENT, "set -1" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_device_options options = { .size = rows[i].size, .ordinal = rows[i].ordinal };
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
            EXPECT(status == NIB_ERR_UNSUPPORTED, "%s", nib_status_name(status));
            EXPECT(last_error_has("CUDA"), "'%s'", nib_last_error());
            EXPECT(!device, "a device that failed to open");
        }
    }
}
