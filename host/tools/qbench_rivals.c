/* qbench_rivals.c: limits and baselines that are timed in turn with an operation. A new one is an
 * entry such as those below. */
#include <string.h>

#include "qbench.h"

static nib_status read_run(nib_qb_rival *r, uint8_t *first, uint8_t *second)
{
    const nib_launch launch = nib_qb_device_launch(r->device);
    (void)second;
    if (r->device->bench)
        return r->device->bench->read(&launch, first, (size_t)r->bytes, r->sink);
    nib_bench_cpu.read(first, (size_t)r->bytes, r->threads);
    return NIB_OK;
}

static nib_status fill_run(nib_qb_rival *r, uint8_t *first, uint8_t *second)
{
    const nib_launch launch = nib_qb_device_launch(r->device);
    (void)second;
    if (r->device->bench) return r->device->bench->fill(&launch, first, (size_t)r->bytes);
    nib_bench_cpu.nt_fill(first, (size_t)r->bytes, r->threads);
    return NIB_OK;
}

static nib_status copy_run(nib_qb_rival *r, uint8_t *first, uint8_t *second)
{
    const nib_launch launch = nib_qb_device_launch(r->device);
    if (r->device->bench) return r->device->bench->copy(&launch, second, first, (size_t)r->bytes);
    nib_bench_cpu.copy(second, first, (size_t)r->bytes, r->threads);
    return NIB_OK;
}

/* Limits: the whole of a buffer that no cache holds, unless the case is hot. */
const nib_qb_rival_kind nib_qb_limit_read = { .name = "read", .cuda_name = "read",
    .buffers = 1, .run = read_run };
const nib_qb_rival_kind nib_qb_limit_fill = { .name = "nt fill", .cuda_name = "fill",
    .buffers = 1, .run = fill_run };
const nib_qb_rival_kind nib_qb_limit_copy = { .name = "copy", .cuda_name = "copy",
    .buffers = 2, .run = copy_run };
/* A plain copy of the bytes that count: what the operation's user would wait for anyway. */
const nib_qb_rival_kind nib_qb_baseline_copy = { .name = "memcpy", .cuda_name = "copy",
    .buffers = 2, .run = copy_run };

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static int is_cold(const nib_qb_case *c)
{
    return nib_qb_obeys(c, NIB_QB_CACHE) && c->value[NIB_QB_CACHE] != NIB_QB_CACHE_HOT;
}

int nib_qb_rival_open(const nib_qb_data *data, nib_qb_rival *r)
{
    r->device = data->device;
    r->threads = data->device->exec.threads;
    r->c = data->c;
    const char *name = data->device->runtime ? r->kind->cuda_name : r->kind->name;
    if (!name) return 1;
    if (data->device->runtime && !r->kind->place) r->bytes = round_up(r->bytes, 16);
    r->window = round_up(r->kind->place ? r->kind->place(r) : r->bytes, 256);
    if (r->window == 0) return 1;
    if (r->kind->place && is_cold(r->c))
        r->windows = (4 * data->device->cache_bytes + r->window - 1) / r->window;
    const size_t bytes = (size_t)(r->window * r->windows * r->kind->buffers);
    r->buffer = nib_qb_device_allocate(r->device, bytes + 64);
    if (!r->buffer) return 0;
    r->sink = r->buffer + bytes;
    if (r->kind->open && r->kind->open(r) != NIB_OK) return 1; /* it has no name then */
    r->name = name;
    return 1;
}

int nib_qb_limit_open(const nib_qb_data *data, nib_qb_rival *limit)
{
    const nib_qb_case *c = data->c;
    *limit = (nib_qb_rival){ .kind = c->op->limit, .windows = 1 };
    if (!limit->kind) return 1;
    const int64_t beyond_caches = 4 * data->device->cache_bytes;
    limit->bytes = c->op->bytes(c);
    if (is_cold(c) && !limit->kind->place && limit->bytes < beyond_caches)
        limit->bytes = beyond_caches;
    return nib_qb_rival_open(data, limit);
}

int nib_qb_baseline_open(const nib_qb_data *data, int i, nib_qb_rival *baseline)
{
    const nib_qb_case *c = data->c;
    *baseline = (nib_qb_rival){ .kind = c->op->baseline[i], .windows = 1 };
    if (!baseline->kind) return 1;
    baseline->bytes = c->op->bytes(c);
    if (is_cold(c))
        baseline->windows = (2 * data->device->cache_bytes + baseline->bytes - 1)
                          / baseline->bytes;
    return nib_qb_rival_open(data, baseline);
}

static nib_status run(void *state, int64_t call)
{
    nib_qb_rival *r = state;
    uint8_t *first = r->buffer + nib_qb_visit(call, r->windows) * r->window;
    return r->kind->run(r, first, first + (r->kind->buffers - 1) * r->windows * r->window);
}

nib_qb_work nib_qb_rival_work(nib_qb_rival *rival)
{
    return (nib_qb_work){ .run = run, .state = rival, .ring = rival->windows,
                          .waits = rival->kind->waits };
}

void nib_qb_rival_close(nib_qb_rival *rival)
{
    if (rival->plan) rival->kind->close(rival);
    rival->plan = NULL;
    if (rival->buffer) nib_qb_device_release(rival->device, rival->buffer);
    rival->buffer = NULL;
}
