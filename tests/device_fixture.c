/* device_fixture.c: the devices that the suite runs on, and memory there. */
#include "device_fixture.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/emu/emu.h"

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1 /* as gcc says it */
#elif __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define EXACT_MEMORY 1
#else
#define EXACT_MEMORY 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TAKES_FAULTS 1
#else
#define TAKES_FAULTS 0
#endif

enum { GUARD = 256, CANARY = 0xc7 };

static runner runners[MOST_RUNNERS];
static int    runners_open_already;

int runner_is_cuda(const runner *r) { return nib_device_backend(r->device) == NIB_BACKEND_CUDA; }

int runner_is_emulated(const runner *r)
{
    nib_device_info info = { .size = sizeof info };
    return runner_is_cuda(r) && nib_device_get_info(r->device, &info) == NIB_OK
        && !strncmp(info.name, "emulated", 8);
}

static int add(int n, nib_device *device, int32_t threads)
{
    char why[NIB_WHY_BYTES] = "";
    runner *r = &runners[n];
    *r = (runner){ .device = device, .runtime = nib_device_runtime(device), .threads = threads };
    snprintf(r->name, sizeof r->name, "%s, %d threads", nib_device_description(device), threads);
    if (runner_is_cuda(r) && r->runtime->stream_create(0, &r->stream, why) != NIB_OK) {
        EXPECT(0 && "no stream", "%s", why);
        return n;
    }
    return n + 1;
}

static nib_device *open_device(nib_backend_kind kind, nib_cpu_isa isa)
{
    const nib_device_options options = { .size = sizeof options, .backend = kind, .cpu_isa = isa };
    nib_device *device = NULL;
    return nib_device_open(&options, &device) == NIB_OK ? device : NULL;
}

static int open_all(void)
{
    static const int32_t threads[] = { 1, 2, 3, 7 };
    const char *kind = getenv("NIBBLE_TEST_DEVICE");
    const int cuda = kind && !strcmp(kind, "cuda");
    nib_device *portable = open_device(NIB_BACKEND_CPU, NIB_CPU_ISA_PORTABLE);
    EXPECT(portable, "%s", nib_last_error());
    if (!portable) return 0;
    EXPECT(!kind || !*kind || cuda || !strcmp(kind, "cpu"), "NIBBLE_TEST_DEVICE is '%s'", kind);
    int n = add(0, portable, 1);
    if (cuda) {
        nib_device *device = open_device(NIB_BACKEND_CUDA, NIB_CPU_ISA_AUTO);
        EXPECT(device, "%s", nib_last_error());
        return device ? add(n, device, 0) : 0;
    }
    for (int i = 1; i < 4; i++) n = add(n, portable, threads[i]);
    nib_device *avx2 = open_device(NIB_BACKEND_CPU, NIB_CPU_ISA_AVX2);
    for (int i = 0; i < 4 && avx2; i++) n = add(n, avx2, threads[i]);
    /* Differs from AVX2 in products alone. */
    nib_device *avx512 = open_device(NIB_BACKEND_CPU, NIB_CPU_ISA_AVX512);
    for (int i = 0; i < 3 && avx512; i += 2) n = add(n, avx512, threads[i]);
    return n;
}

int runners_open(const runner **list)
{
    if (!runners_open_already) runners_open_already = open_all();
    *list = runners;
    EXPECT(runners_open_already, "no device");
    return runners_open_already;
}

nib_exec exec_of(const runner *r)
{
    return (nib_exec){ .size = sizeof(nib_exec), .device = r->device, .stream = r->stream,
                       .threads = r->threads };
}

int format_has_name(nib_format format)
{
    char name[64];
    return nib_format_name(format, name, sizeof name) == NIB_OK && !strchr(name, '/');
}

static void check(const runner *r, nib_status status, const char *what, const char *why)
{
    EXPECT(status == NIB_OK, "%s of %s: %s", what, r->name, why);
}

buffer buffer_new(const runner *on, const void *data, size_t bytes, size_t off)
{
    char why[NIB_WHY_BYTES] = "";
    buffer b = { .on = on, .bytes = bytes, .before = EXACT_MEMORY ? off : GUARD + off,
                 .after = EXACT_MEMORY ? 0 : GUARD };
    const size_t total = b.before + bytes + b.after;
    if (total == 0) b.after = 1;
    check(on, on->runtime->allocate(on->ordinal, total ? total : 1, &b.whole, why), "allocate",
          why);
    uint8_t *content = malloc(total + 1);
    memset(content, CANARY, total);
    if (data && bytes) memcpy(content + b.before, data, bytes);
    else memset(content + b.before, POISON, bytes);
    if (total)
        check(on, on->runtime->copy(on->ordinal, on->stream, b.whole, content, total, why), "copy",
              why);
    free(content);
    b.at = (uint8_t *)b.whole + b.before;
    return b;
}

void buffer_put(const buffer *b, const void *data)
{
    char why[NIB_WHY_BYTES] = "";
    if (!b->bytes) return;
    check(b->on, b->on->runtime->copy(b->on->ordinal, b->on->stream, b->at, data, b->bytes, why),
          "copy", why);
}

void buffer_get(const buffer *b, void *data)
{
    char why[NIB_WHY_BYTES] = "";
    if (!b->bytes) return;
    check(b->on, b->on->runtime->copy(b->on->ordinal, b->on->stream, data, b->at, b->bytes, why),
          "copy", why);
}

void *buffer_take(buffer *b)
{
    char why[NIB_WHY_BYTES] = "";
    const nib_runtime_ops *runtime = b->on->runtime;
    const size_t total = b->before + b->bytes + (EXACT_MEMORY ? 0 : b->after);
    uint8_t *content = malloc(total + 1);
    memset(content, CANARY, total + 1);
    if (total)
        check(b->on, runtime->copy(b->on->ordinal, b->on->stream, content, b->whole, total, why),
              "copy", why);
    size_t changed = 0;
    for (size_t i = 0; i < b->before; i++) changed += content[i] != CANARY;
    for (size_t i = b->before + b->bytes; i < total; i++) changed += content[i] != CANARY;
    EXPECT(changed == 0, "%s: %zu bytes around a buffer of %zu changed", b->on->name, changed,
           b->bytes);
    check(b->on, runtime->release(b->on->ordinal, b->whole, why), "release", why);
    memmove(content, content + b->before, b->bytes);
    *b = (buffer){ .on = b->on };
    return content;
}

void buffer_free(buffer *b) { free(buffer_take(b)); }

void runner_wait(const runner *r)
{
    char why[NIB_WHY_BYTES] = "";
    if (runner_is_cuda(r))
        check(r, r->runtime->synchronize(r->ordinal, r->stream, why), "wait", why);
}

int sanitizer_takes_faults(void) { return TAKES_FAULTS; }

int test_is_alone(void) { return getenv("NIB_TEST_ALONE") != NULL; }

void run_test_alone(const char *test, const char *name, const char *value)
{
    char filter[200];
    snprintf(filter, sizeof filter, "--gtest_filter=%s", test);
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        setenv("NIB_TEST_ALONE", "1", 1);
        setenv(name, value, 1);
        unsetenv("GTEST_TOTAL_SHARDS"); /* a share of one test may be none */
        unsetenv("GTEST_SHARD_INDEX");
        dup2(STDERR_FILENO, STDOUT_FILENO); /* its summary is not this program's */
        execl("/proc/self/exe", "all", filter, "--gtest_brief=1", (char *)NULL);
        _exit(127);
    }
    int status = -1;
    EXPECT(child > 0 && waitpid(child, &status, 0) == child, "%s", test);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s with %s=%s: status %#x", test, name,
           value, (unsigned)status);
}

/* A name of the library that NIBBLE_CUDA_LIBRARY has made this process open. */
static void *emulator_symbol(const char *name)
{
    const char *path = getenv("NIBBLE_CUDA_LIBRARY");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : NULL;
    void *symbol = library ? dlsym(library, name) : NULL;
    if (library) dlclose(library); /* the device holds it */
    return symbol;
}

int emulator_inject(const char *what)
{
    int (*inject)(const char *) = NULL;
    void *symbol = emulator_symbol("nib_emu_inject");
    memcpy(&inject, &symbol, sizeof inject);
    return inject ? inject(what) : -1;
}

uint64_t emulator_kernels(void)
{
    nib_emu_counts (*counts)(void) = NULL;
    void *symbol = emulator_symbol("nib_emu_get_counts");
    memcpy(&counts, &symbol, sizeof counts);
    return counts ? counts().kernels : 0;
}
