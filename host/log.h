/* log.h: NIBBLE_LOG=bench: a line for each public call, which qbench repeats the call's shape from.
 *
 * Off unless the environment asks for it when the process makes its first call. Lines go to the
 * end of the file that NIBBLE_LOG_FILE names, else to standard error, each by one write(2). A line
 * is written when a call's arguments were found valid, before the work. */
#ifndef NIB_LOG_H
#define NIB_LOG_H

#include <stdatomic.h>

#include "internal.h"

/* What a call works on; what it has none of is left out. */
typedef struct nib_log_args {
    const nib_batch            *batch;
    const nib_matrix           *matrix;
    const nib_packed           *packed;
    const nib_format           *format;  /* where there is no packed matrix */
    const nib_quantize_request *request;
    const nib_fake_request     *fake;    /* and backward: its gradient */
    int32_t                     backward;
    const char                 *note;    /* of what the line cannot say */
    int32_t                     relayout;
    nib_scale_layout            to;
    int64_t                     rows, cols;
    const nib_gemm_options     *gemm;    /* a product of rows rows */
    const nib_gemm_weights     *weights; /* packed or unpacked */
    const nib_hessian          *hessian; /* that tokens are added to, or a factor, or an inverse
                                            made of */
    nib_hessian_precision       precision; /* of the former */
    const nib_gptq_factor_options *factor;
    const nib_gptq_request     *gptq;
    const nib_step_request     *steps;   /* of codes: qbench's operation has element and group */
    const nib_step_request     *fake_steps; /* of values: it has neither */
} nib_log_args;

enum { NIB_LOG_UNKNOWN, NIB_LOG_OFF, NIB_LOG_ON };
extern __attribute__((visibility("hidden"))) atomic_int nib_log_state;

void nib_log_call(const nib_exec *exec, const nib_launch *launch, const char *op,
                  const nib_log_args *args);

/* op: qbench's name of it. */
#define NIB_LOG(exec, launch, op, ...)                                                      \
    do {                                                                                    \
        if (__builtin_expect(atomic_load_explicit(&nib_log_state, memory_order_relaxed)     \
                             != NIB_LOG_OFF, 0))                                            \
            nib_log_call((exec), (launch), (op), &(const nib_log_args){ __VA_ARGS__ });     \
    } while (0)

#endif
