/* workers.h: a few threads that take numbered jobs.
 *
 * OpenMP's barriers spin, which is right inside a kernel and wrong here: on a machine that has
 * other work, a thread that spins for a sleeping one wastes whole scheduler slices (four fifths
 * of a run's time were seen). These threads sleep while they wait.
 */
#ifndef NIB_WORKERS_H
#define NIB_WORKERS_H

#include <stdint.h>

#include "nibble/status.h"

typedef struct nib_workers nib_workers;

/* n >= 1 workers; the calling thread is number 0. */
nib_status nib_workers_open(int32_t n, nib_workers **out);
void       nib_workers_close(nib_workers *workers); /* NULL is allowed */

/* Calls job(context, worker, index) for index 0..count-1, each once, by whichever worker is
 * free, and returns when all are done. Memory that jobs wrote is visible to the caller. */
typedef void nib_job(void *context, int32_t worker, int64_t index);
void nib_workers_run(nib_workers *workers, int64_t count, nib_job *job, void *context);

#endif
