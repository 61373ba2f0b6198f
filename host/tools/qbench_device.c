/* qbench_device.c: where a case runs, and its memory. On the CPU that is plain memory; of a GPU,
 * what the backend's runtime table offers. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "qbench.h"

enum { HUGE_PAGE = 2 << 20 };

int64_t nib_qb_memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char  line[128];
    long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld", &kb) == 1) break;
    if (f) fclose(f);
    return kb > 0 ? kb * 1024 : (int64_t)1 << 30;
}

/* The largest cache of processor 0, from sysfs: sysconf adds up a package's several caches on
 * some processors, of which one thread sees one. */
int64_t nib_qb_llc_bytes(void)
{
    long long largest = 0;
    for (int i = 0; i < 8; i++) {
        char path[96], unit = 'K';
        long long n = 0;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *f = fopen(path, "r");
        if (!f) break;
        if (fscanf(f, "%lld%c", &n, &unit) >= 1) n *= unit == 'M' ? 1 << 20 : 1 << 10;
        fclose(f);
        if (n > largest) largest = n;
    }
    if (largest == 0) largest = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return largest > 0 ? largest : 32 << 20;
}

void *nib_qb_map(size_t bytes, int32_t threads)
{
    const int64_t size = ((int64_t)bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (size > nib_qb_memory_available() / 10 * 9) return NULL;
    uint8_t *p = aligned_alloc(HUGE_PAGE, (size_t)size);
    if (!p) return NULL;
    (void)madvise(p, (size_t)size, MADV_HUGEPAGE); /* a wish: small pages work too */
    /* By the threads that will use it, so that pages lie near them. */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < size / HUGE_PAGE; i++) memset(p + i * HUGE_PAGE, 0xa5, HUGE_PAGE);
    return p;
}

void nib_qb_unmap(void *p) { free(p); }

nib_backend_kind nib_qb_backend_auto(void)
{
    static nib_backend_kind known;
    nib_device *device = NULL;
    if (known == NIB_BACKEND_AUTO && nib_device_open(NULL, &device) == NIB_OK) {
        known = nib_device_backend(device);
        nib_device_close(device);
    }
    return known;
}

static nib_status open_cuda(nib_qb_device *d)
{
    nib_device_info info = { .size = sizeof info };
    nib_status status = nib_device_get_info(d->device, &info);
    if (status == NIB_OK) status = nib_prepare(d->device, NIB_PREPARE_ALL);
    if (status != NIB_OK) {
        snprintf(d->why, sizeof d->why, "%s", nib_last_error());
        return status;
    }
    d->runtime = nib_device_runtime(d->device);
    d->bench = nib_device_bench(d->device);
    d->cache_bytes = info.l2_bytes ? (int64_t)info.l2_bytes : 32 << 20;
    return d->runtime->stream_create(d->ordinal, &d->exec.stream, d->why);
}

nib_status nib_qb_device_open(const nib_qb_case *c, nib_qb_device *d)
{
    *d = (nib_qb_device){ .ordinal = 0 };
    nib_device_options options = {
        .size = sizeof options,
        .backend = (nib_backend_kind)c->value[NIB_QB_BACKEND],
        .cpu_isa = (nib_cpu_isa)c->value[NIB_QB_ISA],
    };
    if (options.backend == NIB_BACKEND_CUDA)
        d->ordinal = options.ordinal = (int32_t)c->value[NIB_QB_DEVICE];
    nib_status status = nib_device_open(&options, &d->device);
    if (status != NIB_OK) {
        snprintf(d->why, sizeof d->why, "%s", nib_last_error());
        return status;
    }
    d->exec = (nib_exec){ .size = sizeof(nib_exec), .device = d->device,
                          .threads = (int32_t)c->value[NIB_QB_THREADS] };
    d->cache_bytes = nib_qb_llc_bytes();
    if (options.backend == NIB_BACKEND_CUDA) status = open_cuda(d);
    if (status != NIB_OK) nib_qb_device_close(d);
    return status;
}

void nib_qb_device_close(nib_qb_device *d)
{
    char why[NIB_WHY_BYTES];
    if (d->exec.stream) (void)d->runtime->stream_destroy(d->ordinal, d->exec.stream, why);
    nib_device_close(d->device);
    d->device = NULL;
    d->exec.stream = NULL;
}

nib_launch nib_qb_device_launch(nib_qb_device *d)
{
    return (nib_launch){ .stream = d->exec.stream, .threads = 1, .ordinal = d->ordinal,
                         .why = d->why };
}

nib_status nib_qb_device_finish(nib_qb_device *d)
{
    return d->runtime ? d->runtime->synchronize(d->ordinal, d->exec.stream, d->why) : NIB_OK;
}

void *nib_qb_device_allocate(nib_qb_device *d, size_t bytes)
{
    void *p = NULL;
    if (!d->runtime) return nib_qb_map(bytes, d->exec.threads);
    if (d->runtime->allocate(d->ordinal, bytes, &p, d->why) != NIB_OK) return NULL;
    if (d->runtime->fill(d->ordinal, d->exec.stream, p, 0xa5, bytes, d->why) == NIB_OK) return p;
    nib_qb_device_release(d, p);
    return NULL;
}

void nib_qb_device_release(nib_qb_device *d, void *p)
{
    char why[NIB_WHY_BYTES];
    if (!d->runtime) nib_qb_unmap(p);
    else (void)d->runtime->release(d->ordinal, p, why);
}

nib_status nib_qb_device_copy(nib_qb_device *d, void *dst, const void *src, size_t bytes)
{
    if (d->runtime) return d->runtime->copy(d->ordinal, d->exec.stream, dst, src, bytes, d->why);
    memcpy(dst, src, bytes);
    return NIB_OK;
}
