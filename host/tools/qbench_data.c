/* qbench_data.c: an operation's buffers, in so many copies that each call finds none of its
 * data in a cache. Everything is touched before it is timed, or the first pass would measure
 * page faults.
 *
 * An image is one copy of all parts; what lies between them stays as it was allocated, 0xa5. */
#include <stdlib.h>
#include <string.h>

#include "qbench.h"

enum { HUGE_PAGE = 2 << 20, LINE = 256 }; /* cudaMalloc's alignment, a multiple of cache lines */
enum { MOST_COPIES = 1 << 16 };

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

/* Steps by about 0.62 of the ring: a prefetcher cannot follow from one copy to the next. */
int64_t nib_qb_visit(int64_t i, int64_t copies)
{
    int64_t step = copies * 5 / 8 + 1;
    while (gcd(step, copies) != 1) step++;
    return i % copies * step % copies;
}

/* Places of the parts and the distance of images; 0 if the size is absurd. */
static int place(nib_qb_data *data)
{
    int64_t at = 0, unit = LINE;
    for (int i = 0; i < NIB_QB_PARTS; i++) {
        const int64_t n = data->part[i].bytes;
        if (n < 0 || n > INT64_MAX / 16) return 0;
        const int64_t align = n >= HUGE_PAGE ? HUGE_PAGE : LINE;
        if (align > unit) unit = align;
        data->offset[i] = round_up(at, align);
        at = data->offset[i] + n;
    }
    data->stride = round_up(at, unit);
    return 1;
}

static int has_weights(const nib_qb_data *data)
{
    for (int i = 0; i < NIB_QB_PARTS; i++)
        if (data->part[i].role == NIB_QB_WEIGHT && data->part[i].bytes) return 1;
    return 0;
}

static void plan_copies(nib_qb_data *data)
{
    const int64_t cache = data->c->value[NIB_QB_CACHE];
    int64_t rotating = data->stride;
    data->copies = 1;
    if (data->stride == 0) return; /* no buffers, as for fma */
    if (!nib_qb_obeys(data->c, NIB_QB_CACHE)) return; /* so long that memory hides behind it */
    if (cache != NIB_QB_CACHE_COLD && cache != NIB_QB_CACHE_WEIGHTS) return;
    if (cache == NIB_QB_CACHE_WEIGHTS) {
        rotating = 0;
        for (int i = 0; i < NIB_QB_PARTS; i++)
            if (data->part[i].role == NIB_QB_WEIGHT) rotating += data->part[i].bytes;
    }
    data->copies = (4 * data->device->cache_bytes + rotating - 1) / rotating;
    if (data->copies > MOST_COPIES) data->copies = MOST_COPIES;
}

nib_qb_call nib_qb_call_of(const nib_qb_data *data, int64_t copy)
{
    const int weights_only = data->c->value[NIB_QB_CACHE] == NIB_QB_CACHE_WEIGHTS;
    nib_qb_call call = { .c = data->c, .exec = &data->device->exec,
                         .gpu = data->device->runtime ? data->device : NULL,
                         .home = data->device, .target = data->device->device };
    for (int i = 0; i < NIB_QB_PARTS; i++) {
        if (data->part[i].bytes == 0) continue;
        const int64_t at = weights_only && data->part[i].role != NIB_QB_WEIGHT ? 0 : copy;
        call.part[i] = data->part[i].role == NIB_QB_OUT_HOST
                         ? data->side + data->offset[i]
                         : data->base + at * data->stride + data->offset[i];
    }
    return call;
}

nib_qb_call nib_qb_call_in(const nib_qb_data *data, uint8_t *image)
{
    nib_qb_call call = { .c = data->c, .exec = &data->reference, .home = data->device,
                         .target = data->device->device };
    for (int i = 0; i < NIB_QB_PARTS; i++)
        if (data->part[i].bytes) call.part[i] = image + data->offset[i];
    return call;
}

static nib_status allocate(nib_qb_data *data, char *error, size_t error_bytes)
{
    const int64_t free_bytes = nib_qb_memory_available();
    int64_t bytes;
    const int fits = !__builtin_mul_overflow(data->copies + 2, data->stride, &bytes)
                  && (data->device->runtime || bytes <= free_bytes / 10 * 9);
    if (fits) data->image = nib_qb_map((size_t)data->stride, 1);
    if (data->image) data->side = nib_qb_map((size_t)data->stride, 1);
    if (data->side)
        data->base = nib_qb_device_allocate(data->device, (size_t)(data->copies * data->stride));
    if (data->base) return NIB_OK;
    if (data->side && data->device->runtime)
        snprintf(error, error_bytes, "%lld copies of %lld MB: %.400s", (long long)data->copies,
                 (long long)(data->stride >> 20), data->device->why);
    else
        snprintf(error, error_bytes, "needs %lld copies of %lld MB; %lld MB are free",
                 (long long)data->copies + 2, (long long)(data->stride >> 20),
                 (long long)(free_bytes >> 20));
    return NIB_ERR_OUT_OF_MEMORY;
}

static nib_status fill(nib_qb_data *data, char *error, size_t error_bytes)
{
    const nib_qb_call call = nib_qb_call_in(data, data->image);
    nib_status status = data->c->op->fill ? data->c->op->fill(&call) : NIB_OK;
    if (status != NIB_OK) {
        snprintf(error, error_bytes, "%s", nib_last_error());
        return status;
    }
    for (int64_t i = 0; i < data->copies && status == NIB_OK; i++)
        status = nib_qb_device_copy(data->device, data->base + i * data->stride, data->image,
                                    (size_t)data->stride);
    if (status != NIB_OK) snprintf(error, error_bytes, "%.480s", data->device->why);
    return status;
}

nib_status nib_qb_data_open(nib_qb_data *data, char *error, size_t error_bytes)
{
    const nib_qb_case *c = data->c;
    nib_status status = c->op->layout(c, data->part);
    if (status != NIB_OK || !place(data)) {
        snprintf(error, error_bytes, "%lld x %lld is too large to hold",
                 (long long)c->value[NIB_QB_ROWS], (long long)c->value[NIB_QB_COLS]);
        return NIB_ERR_SHAPE;
    }
    if (c->value[NIB_QB_CACHE] == NIB_QB_CACHE_WEIGHTS && !has_weights(data)) {
        snprintf(error, error_bytes, "%s has no weights to keep cold; the choices of --cache are "
                 "cold, flush, hot", c->op->name);
        return NIB_ERR_UNSUPPORTED;
    }
    plan_copies(data);
    if (data->stride == 0) return NIB_OK;
    status = allocate(data, error, error_bytes);
    if (status == NIB_OK) status = fill(data, error, error_bytes);
    if (status != NIB_OK) nib_qb_data_close(data);
    return status;
}

void nib_qb_data_close(nib_qb_data *data)
{
    if (data->base) nib_qb_device_release(data->device, data->base);
    nib_qb_unmap(data->image);
    nib_qb_unmap(data->side);
    data->base = data->image = data->side = NULL;
}
