/* panels.h: work on a tensor's panels of rows, spread over threads.
 *
 * A panel is a fixed number of elements whatever the threads, and what panels report is merged
 * in their order: the same figures for every thread count.
 */
#ifndef NIB_PANELS_H
#define NIB_PANELS_H

#include "host/io/plan.h"
#include "host/io/workers.h"

/* f32 elements of a panel: rows, codes and statistics then stay within a core's second-level
 * cache. Untuned beyond that. */
enum { NIB_PANEL_ELEMS = 128 * 1024, NIB_PANEL_BATCH = 128 };

/* What one thread holds. */
typedef struct nib_panel_buffers {
    float   *rows;   /* NIB_PANEL_ELEMS, or one row if that is longer */
    uint8_t *codes;
    uint8_t *scales;
    uint8_t *blocks; /* 4 bytes for each element: rows in any type that is written */
    float   *steps;  /* of integers, and their zero points */
    int8_t  *zeros;
} nib_panel_buffers;

/* What one panel says. */
typedef struct nib_panel_result {
    float               amax;
    nib_quantize_report error;
    double              seconds_amax, seconds_quantize, seconds_stats, seconds_write;
} nib_panel_result;

/* Rows first..first+n-1. exec: for one thread. */
typedef struct nib_panel {
    const nib_exec      *exec;
    nib_panel_buffers   *buffers;
    const nib_plan_item *item;
    int64_t              first, n;
} nib_panel;

typedef struct nib_panel_pool {
    int32_t            threads;
    nib_workers       *workers;
    nib_exec           exec; /* of one thread */
    int64_t            elems;
    nib_panel_buffers *buffers;
    nib_panel_result  *results; /* of a batch */
} nib_panel_pool;

/* Room for so many elements, and steps of integers. NIB_ERR_OUT_OF_MEMORY: what there is belongs to
 * buffers_free. */
nib_status nib_panel_buffers_alloc(nib_panel_buffers *buffers, int64_t elems, int64_t steps);
void       nib_panel_buffers_free(nib_panel_buffers *buffers);

/* Rows of item's panels with room for elems elements, or for the least that a panel can have, which
 * is a row, or of asymmetric integers those of a word of zero points. */
int64_t nib_panel_rows(const nib_plan_item *item, int64_t elems);

/* Elements of the largest panel that a plan must have, and the steps of any. */
void nib_panel_need(const nib_plan *plan, int64_t *elems, int64_t *steps);

/* Threads as exec says, and buffers for so many elements or NIB_PANEL_ELEMS, and steps. */
nib_status nib_panel_pool_open(const nib_exec *exec, int64_t elems, int64_t steps,
                               nib_panel_pool *pool);
void       nib_panel_pool_close(nib_panel_pool *pool);

/* Calls work for each panel of item, in any thread, then merge for each in order, in the calling
 * thread. The first error, in the panels' order within a batch, ends it. */
typedef nib_status nib_panel_work(void *context, const nib_panel *panel,
                                  nib_panel_result *result);
typedef nib_status nib_panel_merge(void *context, const nib_panel *panel,
                                   const nib_panel_result *result);
nib_status nib_panels_run(nib_panel_pool *pool, const nib_plan_item *item, nib_panel_work *work,
                          nib_panel_merge *merge, void *context);

/* Adds a panel's figures to a tensor's. */
void nib_panel_add_error(nib_quantize_report *sum, const nib_quantize_report *part);

#endif
