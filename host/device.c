/* device.c: opens a backend's table and describes where calls run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* First versions' sizes: what a caller built against them passes. */
enum { DEVICE_OPTIONS_V1 = sizeof(nib_device_options), EXEC_V1 = sizeof(nib_exec) };

static nib_status backend_from_environment(nib_backend_kind *kind)
{
    const char *value = getenv("NIBBLE_BACKEND");
    if (!value || !*value || !strcmp(value, "auto")) return NIB_OK;
    if (!strcmp(value, "cpu")) return *kind = NIB_BACKEND_CPU, NIB_OK;
    if (!strcmp(value, "cuda")) return *kind = NIB_BACKEND_CUDA, NIB_OK;
    return nib_fail(NIB_ERR_ARGUMENT,
                    "device_open: NIBBLE_BACKEND is '%s'; the choices are cpu, cuda, auto", value);
}

static nib_status cpu_table(nib_cpu_isa isa, const nib_backend **ops)
{
    const nib_backend *avx2 = nib_backend_cpu_avx2();
    NIB_REQUIRE(isa != NIB_CPU_ISA_AVX2 || avx2, NIB_ERR_UNSUPPORTED,
                "device_open: this processor or build lacks AVX2, FMA or F16C");
    *ops = isa == NIB_CPU_ISA_PORTABLE || !avx2 ? &nib_backend_cpu_portable : avx2;
    return NIB_OK;
}

/* "model name : ..." of the first processor, or "" where the kernel gives none (aarch64). */
static void processor_name(char *text, size_t bytes)
{
    text[0] = '\0';
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    char line[256];
    while (fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        const size_t n = strcspn(colon + 1, "\n");
        if (n > 1) snprintf(text, bytes, ", %.*s", (int)n - 1, colon + 2);
        break;
    }
    fclose(f);
}

nib_status nib_device_open(const nib_device_options *options, nib_device **device)
{
    NIB_REQUIRE(device, NIB_ERR_ARGUMENT, "device_open: device is NULL");
    *device = NULL;
    nib_device_options o = { .size = sizeof o };
    if (options) {
        NIB_REQUIRE(options->size >= DEVICE_OPTIONS_V1, NIB_ERR_ARGUMENT,
                    "device_open: options->size is %u, at least %d is needed", options->size,
                    (int)DEVICE_OPTIONS_V1);
        o = *options;
    }
    NIB_REQUIRE((unsigned)o.backend <= NIB_BACKEND_CUDA, NIB_ERR_ARGUMENT,
                "device_open: unknown backend %d", (int)o.backend);
    NIB_REQUIRE((unsigned)o.cpu_isa <= NIB_CPU_ISA_AVX2, NIB_ERR_ARGUMENT,
                "device_open: unknown instruction set %d", (int)o.cpu_isa);
    NIB_REQUIRE(o.ordinal >= 0, NIB_ERR_ARGUMENT, "device_open: ordinal is %d", o.ordinal);
    if (o.backend == NIB_BACKEND_AUTO) NIB_TRY(backend_from_environment(&o.backend));
    NIB_REQUIRE(o.backend != NIB_BACKEND_CUDA, NIB_ERR_UNSUPPORTED,
                "device_open: this version of nibble has no CUDA backend");
    NIB_REQUIRE(o.ordinal == 0, NIB_ERR_UNSUPPORTED,
                "device_open: ordinal %d, but the CPU is device 0", o.ordinal);

    const nib_backend *ops = NULL;
    NIB_TRY(cpu_table(o.cpu_isa, &ops));
    nib_device *d = calloc(1, sizeof *d);
    NIB_REQUIRE(d, NIB_ERR_OUT_OF_MEMORY, "device_open: no memory for %zu bytes", sizeof *d);
    d->kind = NIB_BACKEND_CPU;
    d->ops = ops;
    d->max_threads = nib_cpu_max_threads();
    char name[128];
    processor_name(name, sizeof name);
    snprintf(d->description, sizeof d->description, "%s%s", ops->name, name);
    *device = d;
    return NIB_OK;
}

void nib_device_close(nib_device *device) { free(device); }

nib_backend_kind nib_device_backend(const nib_device *device)
{
    return device ? device->kind : NIB_BACKEND_AUTO;
}

const char *nib_device_description(const nib_device *device)
{
    return device ? device->description : "";
}

nib_status nib_exec_check(const nib_exec *exec, const char *what, nib_launch *launch,
                          const nib_backend **ops)
{
    NIB_REQUIRE(exec, NIB_ERR_ARGUMENT, "%s: exec is NULL", what);
    NIB_REQUIRE(exec->size >= EXEC_V1, NIB_ERR_ARGUMENT,
                "%s: exec->size is %u, at least %d is needed", what, exec->size, (int)EXEC_V1);
    NIB_REQUIRE(exec->device, NIB_ERR_ARGUMENT, "%s: exec->device is NULL", what);
    NIB_REQUIRE(exec->threads >= 0 && exec->threads <= 1024, NIB_ERR_ARGUMENT,
                "%s: exec->threads is %d, outside 0..1024", what, exec->threads);
    NIB_REQUIRE(exec->device->kind != NIB_BACKEND_CPU || !exec->stream, NIB_ERR_ARGUMENT,
                "%s: exec->stream is %p, but the CPU has no streams", what, exec->stream);
    launch->stream = exec->stream;
    launch->workspace = exec->workspace;
    launch->workspace_bytes = exec->workspace_bytes;
    launch->threads = exec->threads ? exec->threads : exec->device->max_threads;
    *ops = exec->device->ops;
    return NIB_OK;
}
