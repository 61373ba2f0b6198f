/* qbench_data.c: an operation's buffers, in so many copies that each call finds none of its
 * data in a cache. Everything is touched before it is timed, or the first pass would measure
 * page faults. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "qbench.h"

enum { HUGE_PAGE = 2 << 20, LINE = 64 };

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

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
    const int64_t size = round_up((int64_t)bytes, HUGE_PAGE);
    if (size > nib_qb_memory_available() / 10 * 9) return NULL;
    uint8_t *p = aligned_alloc(HUGE_PAGE, (size_t)size);
    if (!p) return NULL;
    (void)madvise(p, (size_t)size, MADV_HUGEPAGE); /* a wish: small pages work too */
    /* By the threads that will use it, so that pages lie near them. */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < size / HUGE_PAGE; i++) memset(p + i * HUGE_PAGE, 0xa5, HUGE_PAGE);
    return p;
}

void nib_qb_unmap(void *p, size_t bytes)
{
    (void)bytes;
    free(p);
}

static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

/* Steps by about 0.62 of the ring: a prefetcher cannot follow from one copy to the next. */
int64_t nib_qb_visit(int64_t i, int64_t copies)
{
    int64_t step = copies * 5 / 8 + 1;
    while (gcd(step, copies) != 1) step++;
    return i % copies * step % copies;
}

void *nib_qb_part(const nib_qb_data *data, int64_t copy, int part)
{
    return data->base + copy * data->stride + data->part_offset[part];
}

/* Offsets of the parts and the distance of copies; 0 if the size is absurd. */
static int place(nib_qb_data *data)
{
    int64_t at = 0, unit = LINE;
    for (int i = 0; i < NIB_QB_PARTS; i++) {
        const int64_t n = data->part_bytes[i];
        if (n < 0 || n > INT64_MAX / 16) return 0;
        const int64_t align = n >= HUGE_PAGE ? HUGE_PAGE : LINE;
        if (align > unit) unit = align;
        data->part_offset[i] = round_up(at, align);
        at = data->part_offset[i] + n;
    }
    data->stride = round_up(at, unit);
    return 1;
}

nib_status nib_qb_data_open(nib_qb_data *data, char *error, size_t error_bytes)
{
    const nib_qb_case *c = data->c;
    const nib_status status = c->op->layout(c, data->part_bytes);
    if (status != NIB_OK || !place(data)) {
        snprintf(error, error_bytes, "%lld x %lld is too large to hold",
                 (long long)c->value[NIB_QB_ROWS], (long long)c->value[NIB_QB_COLS]);
        return NIB_ERR_SHAPE;
    }
    const int64_t cold_bytes = 4 * nib_qb_llc_bytes();
    data->copies = 1;
    if (data->stride == 0) return NIB_OK; /* no buffers, as for fma */
    if (c->value[NIB_QB_CACHE] == NIB_QB_CACHE_COLD)
        data->copies = (cold_bytes + data->stride - 1) / data->stride;

    int64_t bytes;
    if (__builtin_mul_overflow(data->copies, data->stride, &bytes)
        || bytes > nib_qb_memory_available() / 10 * 9
        || !(data->base = nib_qb_map((size_t)bytes, data->exec.threads))) {
        snprintf(error, error_bytes, "needs %lld copies of %lld MB; %lld MB are free",
                 (long long)data->copies, (long long)(data->stride >> 20),
                 (long long)(nib_qb_memory_available() >> 20));
        return NIB_ERR_OUT_OF_MEMORY;
    }
    data->mapped_bytes = (size_t)bytes;
    const nib_status filled = c->op->fill ? c->op->fill(data) : NIB_OK;
    if (filled != NIB_OK) {
        snprintf(error, error_bytes, "%s", nib_last_error());
        nib_qb_data_close(data);
        return filled;
    }
    for (int64_t i = 1; i < data->copies; i++)
        memcpy(data->base + i * data->stride, data->base, (size_t)data->stride);
    return NIB_OK;
}

void nib_qb_data_close(nib_qb_data *data)
{
    if (data->base) nib_qb_unmap(data->base, data->mapped_bytes);
    data->base = NULL;
}
