/* tasks_cpu.h: how a matrix is cut for threads.
 *
 * A task is either some whole rows or a piece of one row. The cut depends on the matrix only,
 * never on the number of threads, so whatever is merged in task order is the same for every
 * number. Pieces begin at a multiple of every block length and of 8 codes.
 */
#ifndef NIB_TASKS_CPU_H
#define NIB_TASKS_CPU_H

#include "kernels/common/layout.h"

enum {
    NIB_TASK_ELEMS   = 1 << 16, /* a multiple of 128, the longest block */
    NIB_SERIAL_ELEMS = 1 << 15  /* smaller matrices do not pay for waking threads */
};

typedef struct nib_tasks {
    int64_t rows, cols;
    int64_t rows_each; /* 1 when rows are cut */
    int64_t pieces;    /* of one row */
    int64_t count;
} nib_tasks;

typedef struct nib_task {
    int64_t row0, row1, col0, col1;
} nib_task;

static inline nib_tasks nib_tasks_of(int64_t rows, int64_t cols)
{
    nib_tasks t = { rows, cols, 1, 0, 0 };
    if (rows <= 0 || cols <= 0) return t;
    if (cols < NIB_TASK_ELEMS) t.rows_each = NIB_TASK_ELEMS / cols;
    t.pieces = nib_ceil_div(cols, NIB_TASK_ELEMS);
    t.count = nib_ceil_div(rows, t.rows_each) * t.pieces;
    return t;
}

static inline nib_task nib_task_at(const nib_tasks *t, int64_t i)
{
    const int64_t row = i / t->pieces * t->rows_each, col = i % t->pieces * NIB_TASK_ELEMS;
    nib_task task = { row, row + t->rows_each, col, col + NIB_TASK_ELEMS };
    if (task.row1 > t->rows) task.row1 = t->rows;
    if (task.col1 > t->cols) task.col1 = t->cols;
    return task;
}

/* Threads worth starting for this work. */
static inline int nib_task_threads(const nib_tasks *t, int32_t threads)
{
    if (t->rows * t->cols < NIB_SERIAL_ELEMS || t->count < 2) return 1;
    return t->count < threads ? (int)t->count : threads;
}

#endif
