/* panels.c: see panels.h. */
#include "host/io/panels.h"

#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
static int thread_number(void) { return omp_get_thread_num(); }
#else
static int thread_number(void) { return 0; }
#endif

nib_status nib_panel_pool_open(const nib_exec *exec, const nib_plan *plan, nib_panel_pool *pool)
{
    *pool = (nib_panel_pool){ .threads = exec->threads > 0 ? exec->threads : nib_cpu_max_threads(),
                              .exec = *exec, .elems = NIB_PANEL_ELEMS };
    pool->exec.threads = 1;
    for (size_t i = 0; i < plan->n_order; i++) {
        const nib_logical *t = plan->items[plan->order[i]].src;
        if (t->cols > pool->elems) pool->elems = t->cols;
    }
    pool->buffers = calloc((size_t)pool->threads, sizeof *pool->buffers);
    pool->results = calloc(NIB_PANEL_BATCH, sizeof *pool->results);
    nib_status status = pool->buffers && pool->results ? NIB_OK : NIB_ERR_OUT_OF_MEMORY;
    for (int32_t i = 0; i < pool->threads && status == NIB_OK; i++) {
        nib_panel_buffers *b = &pool->buffers[i];
        b->rows = malloc((size_t)pool->elems * sizeof *b->rows);
        b->codes = malloc((size_t)pool->elems);
        b->scales = malloc((size_t)pool->elems / 8 + 1);
        b->blocks = malloc((size_t)pool->elems * 4);
        if (!b->rows || !b->codes || !b->scales || !b->blocks) status = NIB_ERR_OUT_OF_MEMORY;
    }
    NIB_REQUIRE(status == NIB_OK, status, "no memory for %d panels of %lld elements",
                pool->threads, (long long)pool->elems);
    return NIB_OK;
}

void nib_panel_pool_close(nib_panel_pool *pool)
{
    for (int32_t i = 0; pool->buffers && i < pool->threads; i++) {
        free(pool->buffers[i].rows);
        free(pool->buffers[i].codes);
        free(pool->buffers[i].scales);
        free(pool->buffers[i].blocks);
    }
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
    for (int i = 0; i < 256; i++) {
        sum->code_count[i] += part->code_count[i];
        sum->scale_count[i] += part->scale_count[i];
    }
}

/* The first failure of a batch. Error texts belong to threads: this carries one across. */
typedef struct failure {
    nib_status status;
    int64_t    panel;
    char       text[1024];
} failure;

static void note(failure *f, nib_status status, int64_t panel)
{
#pragma omp critical(nib_panel_failure)
    if (f->status == NIB_OK || panel < f->panel) {
        f->status = status;
        f->panel = panel;
        strncpy(f->text, nib_last_error(), sizeof f->text - 1);
    }
}

nib_status nib_panels_run(nib_panel_pool *pool, const nib_plan_item *item, nib_panel_work *work,
                          nib_panel_merge *merge, void *context)
{
    const nib_logical *t = item->src;
    const int64_t fit = t->cols ? pool->elems / t->cols : t->rows, most = fit > 0 ? fit : 1;
    const int64_t panels = t->rows / most + (t->rows % most != 0);

    for (int64_t start = 0; start < panels; start += NIB_PANEL_BATCH) {
        const int64_t batch = panels - start < NIB_PANEL_BATCH ? panels - start : NIB_PANEL_BATCH;
        const int threads = (int)(batch < pool->threads ? batch : pool->threads);
        failure f = { .status = NIB_OK };
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t i = 0; i < batch; i++) {
            const int64_t first = (start + i) * most;
            const nib_panel panel = { &pool->exec, &pool->buffers[thread_number()], item, first,
                                      t->rows - first < most ? t->rows - first : most };
            pool->results[i] = (nib_panel_result){ .error.size = sizeof(nib_quantize_report) };
            const nib_status status = work(context, &panel, &pool->results[i]);
            if (status != NIB_OK) note(&f, status, i);
        }
        NIB_REQUIRE(f.status == NIB_OK, f.status, "%s", f.text);
        for (int64_t i = 0; i < batch; i++) {
            const int64_t first = (start + i) * most;
            const nib_panel panel = { &pool->exec, NULL, item, first,
                                      t->rows - first < most ? t->rows - first : most };
            NIB_TRY(merge(context, &panel, &pool->results[i]));
        }
    }
    return NIB_OK;
}
