/* qbench_ops.h: what the entries of the operations' table are made of. */
#ifndef NIB_QBENCH_OPS_H
#define NIB_QBENCH_OPS_H

#include "qbench.h"

enum {
    DEVICE_AXES = NIB_QB_AXIS(BACKEND) | NIB_QB_AXIS(DEVICE) | NIB_QB_AXIS(LAUNCH)
                | NIB_QB_AXIS(THREADS),
    MATRIX_AXES = DEVICE_AXES | NIB_QB_AXIS(ISA) | NIB_QB_AXIS(DTYPE) | NIB_QB_AXIS(ROWS)
                | NIB_QB_AXIS(COLS) | NIB_QB_AXIS(CACHE),
    PACKED_AXES = MATRIX_AXES | NIB_QB_AXIS(FORMAT) | NIB_QB_AXIS(BLOCK) | NIB_QB_AXIS(LAYOUT)
                | NIB_QB_AXIS(BATCH),
    QUANTIZE_AXES = PACKED_AXES | NIB_QB_AXIS(RULES) | NIB_QB_AXIS(CHOICE)
                  | NIB_QB_AXIS(ROUNDING) | NIB_QB_AXIS(SCALE_ROWS),
    QUANTIZED_AXES = QUANTIZE_AXES & ~(NIB_QB_AXIS(ROUNDING) | NIB_QB_AXIS(SCALE_ROWS))
};

/* The source, and the tensor scale that its amax gives; the options of a case, without tensor_amax.
 * Both are quantize's, in qbench_ops.c. */
nib_status nib_qb_quantize_fill(const nib_qb_call *call);
nib_status nib_qb_quantize_options(const nib_qb_call *call, nib_rules *rules,
                                   nib_quantize_options *options);

extern const nib_qb_op nib_qb_quantize_both;
extern const nib_qb_op nib_qb_fake_quantize, nib_qb_fake_quantize_given,
    nib_qb_fake_quantize_backward;
extern const nib_qb_op nib_qb_observe_range, nib_qb_observe_range_rows, nib_qb_observe_histogram,
    nib_qb_observe_ema, nib_qb_observe_stats;
extern const nib_qb_op nib_qb_steps, nib_qb_steps_rows, nib_qb_steps_given, nib_qb_steps_backward;
extern const nib_qb_op nib_qb_step_codes, nib_qb_step_values;
extern const nib_qb_op nib_qb_quantize_rmsnorm, nib_qb_quantize_hadamard,
    nib_qb_quantize_hadamard128, nib_qb_quantize_silu, nib_qb_quantize_grouped,
    nib_qb_transform_apply, nib_qb_amax_grouped;
extern const nib_qb_op nib_qb_memcpy, nib_qb_read, nib_qb_fill, nib_qb_fma, nib_qb_mma;
extern const nib_qb_op nib_qb_dense, nib_qb_gemm, nib_qb_gemm_backward, nib_qb_gemm_pack,
    nib_qb_gemm_unpack;

extern const nib_qb_op nib_qb_hessian, nib_qb_hessian_grouped, nib_qb_hessian_inverse, nib_qb_gptq,
    nib_qb_gptq_factor, nib_qb_gptq_quantize, nib_qb_gptq_steps;

/* What --tactic takes; qbench_gemm_kernels.c tells of each. */
#define NIB_QB_TACTIC_NAMES                                                                  \
    "rows", "panel", "rows-int8", "panel-int8", "small8", "small16", "tile32", "tile64",         \
    "wgmma128", "exact"
extern const char *const nib_qb_tactic_names[]; /* the same, ending with NULL */
void nib_qb_list_kernels(void);

#endif
