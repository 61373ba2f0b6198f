/* panels.c: see panels.h. */
#include "host/io/panels.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/io/integers.h"

enum { ZEROS_ROWS = 8 }; /* of a word of 4-bit zero points, and two of 8-bit ones */

nib_status nib_panel_buffers_alloc(nib_panel_buffers *b, int64_t elems, int64_t steps)
{
    b->rows = malloc((size_t)elems * sizeof *b->rows);
    b->codes = malloc((size_t)elems);
    b->scales = malloc((size_t)elems / 8 + 1);
    b->blocks = malloc((size_t)elems * 4);
    b->steps = malloc((size_t)steps * sizeof *b->steps);
    b->zeros = malloc((size_t)steps);
    const int ok = b->rows && b->codes && b->scales && b->blocks;
    const int also = !steps || (b->steps && b->zeros);
    return (ok && also) || !elems ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
}

void nib_panel_buffers_free(nib_panel_buffers *b)
{
    free(b->rows);
    free(b->codes);
    free(b->scales);
    free(b->blocks);
    free(b->steps);
    free(b->zeros);
    *b = (nib_panel_buffers){ 0 };
}

static int is_integers(const nib_plan_item *item)
{
    return item->quantize && nib_int_format_is_valid(item->way.format);
}

int64_t nib_panel_rows(const nib_plan_item *item, int64_t elems)
{
    const nib_logical *t = item->src;
    const int64_t fit = t->cols ? elems / t->cols : t->rows;
    if (!is_integers(item) || !nib_int_format_asymmetric(item->way.format))
        return fit > 0 ? fit : 1;
    const int64_t whole = fit / ZEROS_ROWS * ZEROS_ROWS;
    return whole ? whole : ZEROS_ROWS;
}

static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

void nib_panel_need(const nib_plan *plan, int64_t *elems, int64_t *steps)
{
    *elems = NIB_PANEL_ELEMS;
    *steps = 0;
    for (size_t i = 0; i < plan->n_order; i++) {
        const nib_plan_item *item = &plan->items[plan->order[i]];
        const nib_logical *t = item->src;
        if (t->rows == 0) continue; /* 0 x 2^62 needs none */
        const int64_t wanted = at_most(nib_panel_rows(item, 0), t->rows) * t->cols;
        if (wanted > *elems) *elems = wanted;
    }
    for (size_t i = 0; i < plan->n_order; i++) {
        const nib_plan_item *item = &plan->items[plan->order[i]];
        const nib_logical *t = item->src;
        if (t->rows == 0 || !is_integers(item)) continue;
        const int64_t wanted = at_most(nib_panel_rows(item, *elems), t->rows)
                             * nib_integers_groups(item->way.format, t->cols);
        if (wanted > *steps) *steps = wanted;
    }
}

nib_status nib_panel_pool_open(const nib_exec *exec, int64_t elems, int64_t steps,
                               nib_panel_pool *pool)
{
    *pool = (nib_panel_pool){ .threads = exec->threads > 0 ? exec->threads : nib_cpu_max_threads(),
                              .exec = *exec,
                              .elems = elems > NIB_PANEL_ELEMS ? elems : NIB_PANEL_ELEMS };
    pool->exec.threads = 1;
    NIB_TRY(nib_workers_open(pool->threads, &pool->workers));
    pool->buffers = calloc((size_t)pool->threads, sizeof *pool->buffers);
    pool->results = calloc(NIB_PANEL_BATCH, sizeof *pool->results);
    nib_status status = pool->buffers && pool->results ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    for (int32_t i = 0; i < pool->threads && status == NIB_OK; i++)
        status = nib_panel_buffers_alloc(&pool->buffers[i], pool->elems, steps);
    NIB_REQUIRE(status == NIB_OK, status, "no memory for %d panels of %lld elements",
                pool->threads, (long long)pool->elems);
    return NIB_OK;
}

void nib_panel_pool_close(nib_panel_pool *pool)
{
    nib_workers_close(pool->workers);
    for (int32_t i = 0; pool->buffers && i < pool->threads; i++)
        nib_panel_buffers_free(&pool->buffers[i]);
    free(pool->buffers);
    free(pool->results);
}

void nib_panel_add_error(nib_quantize_report *sum, const nib_quantize_report *part)
{
    sum->elements += part->elements;
    sum->nonfinite += part->nonfinite;
    sum->flushed += part->flushed;
    sum->saturated += part->saturated;
    sum->sum_sq_error += part->sum_sq_error;
    sum->sum_sq += part->sum_sq;
    if (part->max_error > sum->max_error) sum->max_error = part->max_error;
    if (part->without_counts) return;
    for (int i = 0; i < 256; i++) {
        sum->code_count[i] += part->code_count[i];
        sum->scale_count[i] += part->scale_count[i];
    }
}

/* A batch of panels at work. Error texts belong to threads: the first failure's is kept here. */
typedef struct batch_work {
    nib_panel_pool      *pool;
    const nib_plan_item *item;
    nib_panel_work      *work;
    void                *context;
    int64_t              start, rows; /* first panel; rows of a panel */
    pthread_mutex_t      mutex;       /* of what follows */
    nib_status           status;
    int64_t              failed;
    char                 text[1024];
} batch_work;

static nib_panel panel_of(const batch_work *b, int64_t i, nib_panel_buffers *buffers)
{
    const int64_t first = (b->start + i) * b->rows, left = b->item->src->rows - first;
    return (nib_panel){ &b->pool->exec, buffers, b->item, first, left < b->rows ? left : b->rows };
}

static void run_panel(void *context, int32_t worker, int64_t i)
{
    batch_work *b = context;
    const nib_panel panel = panel_of(b, i, &b->pool->buffers[worker]);
    nib_panel_result *result = &b->pool->results[i];
    *result = (nib_panel_result){ .error.size = sizeof(nib_quantize_report) };
    const nib_status status = b->work(b->context, &panel, result);
    if (status == NIB_OK) return;
    pthread_mutex_lock(&b->mutex);
    if (b->status == NIB_OK || i < b->failed) {
        b->status = status;
        b->failed = i;
        snprintf(b->text, sizeof b->text, "%s", nib_last_error());
    }
    pthread_mutex_unlock(&b->mutex);
}

nib_status nib_panels_run(nib_panel_pool *pool, const nib_plan_item *item, nib_panel_work *work,
                          nib_panel_merge *merge, void *context)
{
    const nib_logical *t = item->src;
    const int64_t rows = nib_panel_rows(item, pool->elems);
    const int64_t panels = t->rows / rows + (t->rows % rows != 0);
    batch_work b = { .pool = pool, .item = item, .work = work, .context = context, .rows = rows,
                     .mutex = PTHREAD_MUTEX_INITIALIZER };
    for (b.start = 0; b.start < panels; b.start += NIB_PANEL_BATCH) {
        const int64_t left = panels - b.start, n = left < NIB_PANEL_BATCH ? left : NIB_PANEL_BATCH;
        nib_workers_run(pool->workers, n, run_panel, &b);
        NIB_REQUIRE(b.status == NIB_OK, b.status, "%s", b.text);
        for (int64_t i = 0; i < n; i++) {
            const nib_panel panel = panel_of(&b, i, NULL);
            NIB_TRY(merge(context, &panel, &pool->results[i]));
        }
    }
    return NIB_OK;
}
