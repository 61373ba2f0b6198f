/* qbench_timer.c: one sample of a work: so many calls between two readings of a clock.
 *
 * On the CPU, and for calls that wait for their device, the clock is the system's. On a GPU it is
 * a pair of events around a graph that holds the calls, so that launching them from the CPU is no
 * part of the time; where a call cannot be captured, or --launch stream asks for it, around the
 * calls themselves. A work whose ring is longer than a graph gets several, launched in turn, and
 * so finds cold memory as it would by single calls. */
#include <stdlib.h>

#include "qbench.h"

enum { MOST_GRAPHS = 64, MOST_NODES = 1024 };

/* One sample is at least this long: the CPU's clock and its call take about 30 ns; CUDA events
 * resolve about 0.5 us (CUDA Runtime API, cudaEventElapsedTime). */
double nib_qb_timer_resolution_s(const nib_qb_timer *timer)
{
    return timer->device->runtime ? 200e-6 : 50e-6;
}

nib_status nib_qb_timer_open(nib_qb_timer *timer)
{
    nib_qb_device *d = timer->device;
    nib_status status = NIB_OK;
    timer->event[0] = timer->event[1] = timer->sink = NULL;
    if (!d->runtime) return NIB_OK;
    timer->sink = nib_qb_device_allocate(d, 16);
    if (!timer->sink) status = NIB_ERR_OUT_OF_MEMORY;
    for (int i = 0; i < 2 && status == NIB_OK; i++)
        status = d->runtime->event_create(d->ordinal, &timer->event[i], d->why);
    return status;
}

void nib_qb_timer_close(nib_qb_timer *timer)
{
    nib_qb_device *d = timer->device;
    for (int i = 0; i < 2; i++)
        if (timer->event[i])
            (void)d->runtime->event_destroy(d->ordinal, timer->event[i], d->why);
    if (timer->sink) nib_qb_device_release(d, timer->sink);
    timer->event[0] = timer->event[1] = timer->sink = NULL;
}

static nib_status call(nib_qb_series *s)
{
    const nib_status status = s->work->run(s->work->state, s->calls++);
    if (s->calls > s->covered) s->covered = s->calls;
    return status;
}

nib_status nib_qb_series_call(nib_qb_series *s)
{
    const nib_status status = call(s);
    return status == NIB_OK ? nib_qb_device_finish(s->timer->device) : status;
}

/* ---- graphs ---- */

static void drop_graphs(nib_qb_series *s)
{
    nib_qb_device *d = s->timer->device;
    for (int64_t i = 0; i < s->graphs; i++)
        (void)d->runtime->graph_destroy(d->ordinal, s->graph[i], d->why);
    free(s->graph);
    s->graph = NULL;
    s->graphs = 0;
}

static nib_status capture(nib_qb_series *s, int64_t first, void **graph)
{
    nib_qb_device *d = s->timer->device;
    nib_status status = d->runtime->capture_begin(d->ordinal, d->exec.stream, d->why);
    if (status != NIB_OK) return status;
    for (int64_t i = 0; i < s->batch && status == NIB_OK; i++)
        status = s->work->run(s->work->state, first + i);
    const nib_status ended = d->runtime->capture_end(d->ordinal, d->exec.stream, graph, d->why);
    return status == NIB_OK ? ended : status;
}

nib_status nib_qb_series_prepare(nib_qb_series *s)
{
    drop_graphs(s);
    nib_qb_timer *t = s->timer;
    if (t->flush.run) s->batch = 1;
    if (!t->device->runtime || !t->graphs || s->work->waits || t->flush.run) return NIB_OK;
    /* Enough nodes for the ring to be gone through. */
    const int64_t least = (s->work->ring + MOST_GRAPHS - 1) / MOST_GRAPHS;
    if (s->batch < least) s->batch = least;
    if (s->batch > MOST_NODES) s->batch = MOST_NODES;
    int64_t count = (s->work->ring + s->batch - 1) / s->batch;
    if (count > MOST_GRAPHS) count = MOST_GRAPHS;
    s->graph = calloc((size_t)count, sizeof *s->graph);
    if (!s->graph) return NIB_ERR_OUT_OF_MEMORY;
    s->next_graph = 0;
    for (int64_t i = 0; i < count; i++) {
        const nib_status status = capture(s, i * s->batch, &s->graph[i]);
        if (status != NIB_OK) return status;
        s->graphs++;
    }
    return NIB_OK;
}

void nib_qb_series_close(nib_qb_series *s)
{
    if (s->graphs) drop_graphs(s);
    free(s->sample);
    s->sample = NULL;
}

/* ---- samples ---- */

static nib_status launch_all(nib_qb_series *s)
{
    nib_qb_device *d = s->timer->device;
    nib_status status = NIB_OK;
    if (s->graphs) {
        const int64_t i = s->next_graph;
        s->next_graph = (i + 1) % s->graphs;
        if ((i + 1) * s->batch > s->covered) s->covered = (i + 1) * s->batch;
        return d->runtime->graph_launch(d->ordinal, s->graph[i], d->exec.stream, d->why);
    }
    for (int64_t i = 0; i < s->batch && status == NIB_OK; i++) status = call(s);
    return status;
}

/* Some fraction slower than it is, for tests of qbench itself. */
static void dawdle(const nib_qb_series *s, double start)
{
    const double until = start + (nib_qb_now_s() - start) * (1 + s->slowdown);
    while (s->slowdown > 0 && nib_qb_now_s() < until) continue;
}

static nib_status by_system_clock(nib_qb_series *s, double *seconds)
{
    const double start = nib_qb_now_s();
    nib_status status = launch_all(s);
    if (status == NIB_OK) status = nib_qb_device_finish(s->timer->device);
    if (s->slowdown > 0) dawdle(s, start);
    *seconds = (nib_qb_now_s() - start) / (double)s->batch;
    return status;
}

/* The stream must not be idle when the first event is recorded, or the time in which the CPU
 * launches what follows is part of the sample: either it still empties caches, or it pauses. */
static nib_status by_events(nib_qb_series *s, double *seconds)
{
    nib_qb_device *d = s->timer->device;
    const nib_launch how = nib_qb_device_launch(d);
    float ms = 0;
    nib_status status = s->timer->flush.run ? NIB_OK : d->bench->pause(&how, s->timer->sink);
    if (status == NIB_OK)
        status = d->runtime->event_record(d->ordinal, s->timer->event[0], d->exec.stream, d->why);
    if (status == NIB_OK) status = launch_all(s);
    if (status == NIB_OK)
        status = d->runtime->event_record(d->ordinal, s->timer->event[1], d->exec.stream, d->why);
    if (status == NIB_OK) status = nib_qb_device_finish(d);
    if (status == NIB_OK)
        status = d->runtime->event_elapsed(d->ordinal, s->timer->event[0], s->timer->event[1],
                                           &ms, d->why);
    *seconds = 1e-3 * (double)ms * (1 + s->slowdown) / (double)s->batch;
    return status;
}

nib_status nib_qb_series_sample(nib_qb_series *s, double *seconds)
{
    nib_qb_timer *t = s->timer;
    const int events = t->device->runtime && !s->work->waits;
    if (t->flush.run) {
        nib_status status = t->flush.run(t->flush.state, 0);
        if (status == NIB_OK && !events) status = nib_qb_device_finish(t->device);
        if (status != NIB_OK) return status;
    }
    return events ? by_events(s, seconds) : by_system_clock(s, seconds);
}
