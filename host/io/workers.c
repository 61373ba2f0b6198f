/* workers.c: see workers.h. */
#include "host/io/workers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"

typedef struct worker {
    nib_workers *all;
    int32_t      number;
    pthread_t    thread;
} worker;

struct nib_workers {
    pthread_mutex_t mutex;
    pthread_cond_t  start, done;
    worker         *items;  /* items[0] is the caller and has no thread */
    int32_t         n, busy;
    uint64_t        round;  /* of work; each worker joins each round once */
    int             ending;
    nib_job        *job;
    void           *context;
    int64_t         count;
    atomic_llong    next;
};

static void take_jobs(nib_workers *w, int32_t number)
{
    for (;;) {
        const int64_t index = atomic_fetch_add(&w->next, 1);
        if (index >= w->count) return;
        w->job(w->context, number, index);
    }
}

static void *worker_main(void *argument)
{
    const worker *me = argument;
    nib_workers *w = me->all;
    uint64_t seen = 0;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->ending && w->round == seen) pthread_cond_wait(&w->start, &w->mutex);
        if (w->ending) break;
        seen = w->round;
        pthread_mutex_unlock(&w->mutex);
        take_jobs(w, me->number);
        pthread_mutex_lock(&w->mutex);
        if (--w->busy == 0) pthread_cond_signal(&w->done);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

nib_status nib_workers_open(int32_t n, nib_workers **out)
{
    *out = NULL;
    nib_workers *w = calloc(1, sizeof *w);
    worker *items = calloc((size_t)n, sizeof *items);
    if (!w || !items) {
        free(w);
        free(items);
        return nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for %d threads", n);
    }
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->start, NULL);
    pthread_cond_init(&w->done, NULL);
    w->items = items;
    for (w->n = 1; w->n < n; w->n++) {
        items[w->n] = (worker){ .all = w, .number = w->n };
        const int error = pthread_create(&items[w->n].thread, NULL, worker_main, &items[w->n]);
        if (!error) continue;
        const nib_status status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "thread %d of %d: %s", w->n, n,
                                           strerror(error));
        nib_workers_close(w);
        return status;
    }
    *out = w;
    return NIB_OK;
}

void nib_workers_close(nib_workers *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->mutex);
    w->ending = 1;
    pthread_cond_broadcast(&w->start);
    pthread_mutex_unlock(&w->mutex);
    for (int32_t i = 1; i < w->n; i++) pthread_join(w->items[i].thread, NULL);
    pthread_cond_destroy(&w->done);
    pthread_cond_destroy(&w->start);
    pthread_mutex_destroy(&w->mutex);
    free(w->items);
    free(w);
}

void nib_workers_run(nib_workers *w, int64_t count, nib_job *job, void *context)
{
    w->job = job;
    w->context = context;
    w->count = count;
    atomic_store(&w->next, 0);
    const int alone = w->n == 1 || count < 2;
    if (!alone) {
        pthread_mutex_lock(&w->mutex);
        w->busy = w->n - 1;
        w->round++;
        pthread_cond_broadcast(&w->start);
        pthread_mutex_unlock(&w->mutex);
    }
    take_jobs(w, 0);
    if (alone) return;
    pthread_mutex_lock(&w->mutex);
    while (w->busy) pthread_cond_wait(&w->done, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}
