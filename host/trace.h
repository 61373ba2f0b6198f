/* trace.h: one NVTX range around each public call, for Nsight and other profilers.
 *
 * The first statement of a public function is one of
 *
 *     NIB_TRACE(.batch = batch, .reads = src, .packs = dst);
 *     NIB_TRACE_NAME();
 *
 * It opens a range in the domain "nibble" under the function's name, with what the call works on
 * as payload (the first form), and closes it however the function is left. With no profiler
 * attached it costs a load and a branch; built without NVTX's headers it is nothing. */
#ifndef NIB_TRACE_H
#define NIB_TRACE_H

#include "nibble/gemm.h"

/* What a call works on: any member may be left out, be NULL, or be what a caller got wrong.
 * Bytes are those of elements, codes, scales (with their padding) and a row's amax; masks and
 * single numbers such as tensor scales are not counted. */
typedef struct nib_trace_args {
    const nib_batch  *batch;
    const nib_matrix *reads, *reads_too, *writes;
    const nib_packed *unpacks, *packs, *packs_too;
    const nib_gemm_weights *weights, *packs_weights; /* read, written */
    int32_t           passes;          /* over what it reads; 0 is 1 */
    int32_t           writes_row_amax;
    const nib_format *format;          /* where no matrix tells */
    int32_t           given;           /* reads the block scales of packs */
    int32_t           scales;          /* reads the block scales of reads, which lie as from says */
    int32_t           relayout;        /* scales of rows x cols, from a layout to another */
    nib_scale_layout  from, to;
    int64_t           rows, cols;
} nib_trace_args;

#ifdef NIB_NVTX

#include <stdatomic.h>

enum { NIB_TRACE_UNKNOWN, NIB_TRACE_OFF, NIB_TRACE_ON };

/* Whether there is a profiler: unknown until the first call that is traced. */
extern __attribute__((visibility("hidden"))) atomic_int nib_trace_state;

/* site: the caller's own, NULL at first. Returns 1 if a range was opened. */
int nib_trace_begin(_Atomic(void *) *site, const char *name, const nib_trace_args *args);
void nib_trace_end(void);

static inline int nib_trace_possible(void)
{
    const int state = atomic_load_explicit(&nib_trace_state, memory_order_relaxed);
    return __builtin_expect(state != NIB_TRACE_OFF, 0) != 0;
}

#define NIB_TRACE_CALL(args)                                                              \
    static _Atomic(void *) nib_trace_site_;                                               \
    __attribute__((cleanup(nib_trace_leave), unused)) const int nib_trace_opened_ =       \
        nib_trace_possible() ? nib_trace_begin(&nib_trace_site_, __func__, (args)) : 0

static inline void nib_trace_leave(const int *opened)
{
    if (__builtin_expect(*opened, 0)) nib_trace_end();
}

#define NIB_TRACE(...)   NIB_TRACE_CALL((&(const nib_trace_args){ __VA_ARGS__ }))
#define NIB_TRACE_NAME() NIB_TRACE_CALL(NULL)

#else

#define NIB_TRACE(...)   ((void)0)
#define NIB_TRACE_NAME() ((void)0)

#endif

#endif
