/* device.c: opens a backend's table and describes where calls run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "trace.h"

/* First versions' sizes: what a caller built against them passes. */
enum {
    DEVICE_OPTIONS_V1 = offsetof(nib_device_options, debug),
    DEVICE_INFO_V1 = sizeof(nib_device_info),
    EXEC_V1 = sizeof(nib_exec)
};

enum {
    PREPARED = NIB_PREPARE_QUANTIZE | NIB_PREPARE_FAKE_QUANTIZE | NIB_PREPARE_OBSERVE
             | NIB_PREPARE_TRANSFORM | NIB_PREPARE_GROUPED | NIB_PREPARE_GEMM | NIB_PREPARE_GPTQ
};

/* The backend's words about this thread's present call. */
static _Thread_local char why[NIB_WHY_BYTES];

static nib_status backend_from_environment(nib_backend_kind *kind)
{
    const char *value = getenv("NIBBLE_BACKEND");
    if (!value || !*value || !strcmp(value, "auto")) return NIB_OK;
    if (!strcmp(value, "cpu")) return *kind = NIB_BACKEND_CPU, NIB_OK;
    if (!strcmp(value, "cuda")) return *kind = NIB_BACKEND_CUDA, NIB_OK;
    return nib_fail(NIB_ERR_ARGUMENT,
                    "device_open: NIBBLE_BACKEND is '%s'; the choices are cpu, cuda, auto", value);
}

/* 0 says nothing: the environment decides. */
static int32_t debug_wanted(const nib_device_options *o)
{
    const char *value = getenv("NIBBLE_DEBUG");
    return o->debug || (value && !strcmp(value, "1"));
}

static nib_status cpu_table(nib_cpu_isa isa, const nib_backend **ops)
{
    const nib_backend *avx2 = nib_backend_cpu_avx2(), *avx512 = nib_backend_cpu_avx512();
    NIB_REQUIRE(isa != NIB_CPU_ISA_AVX2 || avx2, NIB_ERR_UNSUPPORTED,
                "device_open: this processor or build lacks AVX2, FMA or F16C");
    NIB_REQUIRE(isa != NIB_CPU_ISA_AVX512 || avx512, NIB_ERR_UNSUPPORTED,
                "device_open: this processor or build lacks AVX-512 F, BW, DQ, VL or VNNI");
    *ops = isa == NIB_CPU_ISA_PORTABLE || !avx2  ? &nib_backend_cpu_portable
         : isa == NIB_CPU_ISA_AVX2 || !avx512 ? avx2 : avx512;
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

static nib_status open_cpu(nib_device *d, const nib_device_options *o)
{
    /* With AUTO it matters why this is not a CUDA device. */
    const char *sep = d->reason[0] ? "; no CUDA device: " : "";
    NIB_REQUIRE(o->ordinal == 0, NIB_ERR_UNSUPPORTED,
                "device_open: ordinal %d, but the CPU is device 0%s%s", o->ordinal, sep,
                d->reason);
    NIB_TRY(cpu_table(o->cpu_isa, &d->ops));
    d->kind = NIB_BACKEND_CPU;
    d->max_threads = nib_cpu_max_threads();
    char name[128];
    processor_name(name, sizeof name);
    snprintf(d->description, sizeof d->description, "%s%s", d->ops->name, name);

    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    d->info = (nib_device_info){
        .backend = NIB_BACKEND_CPU,
        .processors = d->max_threads,
        .pageable_memory = 1,
        .memory_bytes = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0,
    };
    snprintf(d->info.name, sizeof d->info.name, "%s", name[0] ? name + 2 : ""); /* after ", " */
    return NIB_OK;
}

/* Leaves in d->reason why it fails. */
static nib_status open_cuda(nib_device *d, const nib_device_options *o)
{
    const char *missing;
    const nib_cuda_table *cuda = nib_cuda_library(&missing);
    if (!cuda) {
        snprintf(d->reason, sizeof d->reason, "%s", missing);
        return NIB_ERR_NO_DEVICE;
    }
    const nib_status status = cuda->probe(o->ordinal, &d->info, d->reason);
    if (status != NIB_OK) return status;
    d->kind = NIB_BACKEND_CUDA;
    d->cuda = cuda;
    d->ops = cuda->ops;
    d->ordinal = o->ordinal;
    d->debug = debug_wanted(o);
    d->max_threads = 1;
    snprintf(d->description, sizeof d->description, "%s sm_%d, %s", d->ops->name,
             d->info.compute_capability, d->info.name);
    return NIB_OK;
}

static nib_status open_any(nib_device *d, const nib_device_options *o)
{
    if (o->backend == NIB_BACKEND_CPU) return open_cpu(d, o);
    const nib_status status = open_cuda(d, o);
    if (status == NIB_ERR_NO_DEVICE && o->backend == NIB_BACKEND_AUTO) return open_cpu(d, o);
    NIB_REQUIRE(status == NIB_OK, status, "device_open: no CUDA device: %s", d->reason);
    return NIB_OK;
}

nib_status nib_device_open(const nib_device_options *options, nib_device **device)
{
    NIB_TRACE_NAME();
    NIB_REQUIRE(device, NIB_ERR_ARGUMENT, "device_open: device is NULL");
    *device = NULL;
    nib_device_options o = { .size = sizeof o };
    if (options) {
        NIB_REQUIRE(options->size >= DEVICE_OPTIONS_V1, NIB_ERR_ARGUMENT,
                    "device_open: options->size is %u, at least %d is needed", options->size,
                    (int)DEVICE_OPTIONS_V1);
        const size_t known = options->size < sizeof o ? DEVICE_OPTIONS_V1 : sizeof o;
        memcpy(&o, options, known);
    }
    NIB_REQUIRE((unsigned)o.backend <= NIB_BACKEND_CUDA, NIB_ERR_ARGUMENT,
                "device_open: unknown backend %d", (int)o.backend);
    NIB_REQUIRE((unsigned)o.cpu_isa <= NIB_CPU_ISA_AVX512, NIB_ERR_ARGUMENT,
                "device_open: unknown instruction set %d", (int)o.cpu_isa);
    NIB_REQUIRE(o.ordinal >= 0, NIB_ERR_ARGUMENT, "device_open: ordinal is %d", o.ordinal);
    NIB_REQUIRE(o.debug == 0 || o.debug == 1, NIB_ERR_ARGUMENT,
                "device_open: debug is %d, not 0 or 1", o.debug);
    if (o.backend == NIB_BACKEND_AUTO) NIB_TRY(backend_from_environment(&o.backend));

    nib_device *d = calloc(1, sizeof *d);
    NIB_REQUIRE(d, NIB_ERR_OUT_OF_MEMORY, "device_open: no memory for %zu bytes", sizeof *d);
    const nib_status status = open_any(d, &o);
    if (status == NIB_OK) *device = d;
    else free(d);
    return status;
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

const char *nib_device_reason(const nib_device *device)
{
    return device ? device->reason : "";
}

nib_status nib_device_get_info(const nib_device *device, nib_device_info *info)
{
    NIB_REQUIRE(device && info, NIB_ERR_ARGUMENT, "device_get_info: device or info is NULL");
    NIB_REQUIRE(info->size >= DEVICE_INFO_V1, NIB_ERR_ARGUMENT,
                "device_get_info: info->size is %u, at least %d is needed", info->size,
                (int)DEVICE_INFO_V1);
    const uint32_t size = info->size;
    memcpy(info, &device->info, size < sizeof *info ? size : sizeof *info);
    info->size = size;
    return NIB_OK;
}

nib_status nib_prepare(const nib_device *device, uint32_t ops)
{
    NIB_TRACE_NAME();
    NIB_REQUIRE(device, NIB_ERR_ARGUMENT, "prepare: device is NULL");
    NIB_REQUIRE(ops == NIB_PREPARE_ALL || (ops && !(ops & ~(uint32_t)PREPARED)),
                NIB_ERR_ARGUMENT, "prepare: ops is %#x, not a sum of NIB_PREPARE_*", ops);
    if (!device->cuda) return NIB_OK;
    why[0] = '\0';
    const nib_status status = device->cuda->prepare(device->ordinal, ops, why);
    NIB_REQUIRE(status == NIB_OK, status, "prepare: %s", why);
    return NIB_OK;
}

const nib_runtime_ops *nib_device_runtime(const nib_device *device)
{
    return device->cuda ? device->cuda->runtime : &nib_runtime_cpu;
}

const nib_bench_cuda_ops *nib_device_bench(const nib_device *device)
{
    return device->cuda ? device->cuda->bench : NULL;
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
    launch->ordinal = exec->device->ordinal;
    launch->debug = exec->device->debug;
    launch->why = why;
    why[0] = '\0';
    *ops = exec->device->ops;
    return NIB_OK;
}
