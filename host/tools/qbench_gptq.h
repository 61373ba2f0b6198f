/* qbench_gptq.h: what the entries of hessian.h and gptq.h share. */
#ifndef NIB_QBENCH_GPTQ_H
#define NIB_QBENCH_GPTQ_H

#include "qbench_ops.h"

/* Tokens of a layer's input whose numbers hang together, as activations do: x = S H D z. z is
 * bell-shaped and independent; D_i = 1 / sqrt(i): the spectrum falls as 1 / i; H is Sylvester's
 * matrix. S gives each input a size from 0.5 to 1.5, and some 8 of them 15 times that. */
nib_status nib_qb_fill_tokens(const nib_matrix *x, uint64_t *state);

/* The case's H, cols x cols, in data; and its bytes, -1 if over INT64_MAX. */
nib_hessian nib_qb_hessian_of(const nib_qb_case *c, void *data);
int64_t nib_qb_hessian_bytes(const nib_qb_case *c);
/* Of 2 cols such tokens, by nib_hessian_add. */
nib_status nib_qb_fill_hessian(const nib_qb_call *call, void *data);

/* *factor's l and order are given. */
nib_status nib_qb_gptq_factor_make(const nib_exec *exec, const nib_qb_case *c, void *hessian,
                                   nib_gptq_factor *factor);

/* What GPTQ's weights are rounded to, a format's codes and block scales, or integers' codes and
 * steps, as parts NIB_QB_CODES and NIB_QB_SCALES (qbench_integers.c). */
int nib_qb_is_integers(const nib_qb_case *c);
nib_status nib_qb_rounded_layout(const nib_qb_case *c, nib_qb_part *part); /* and the weights */
nib_status nib_qb_weights_fill(const nib_qb_call *call);
nib_status nib_qb_rounded_values(const nib_exec *exec, const nib_qb_call *call, float *values);
nib_status nib_qb_rounded_distance(const nib_qb_call *got, const nib_qb_call *right, double *max);
/* Bytes of its workspace; GPTQ; plain rounding. */
size_t nib_qb_gptq_room(const nib_device *device, const nib_qb_case *c, int32_t threads);
nib_status nib_qb_gptq_solve(const nib_exec *exec, const nib_qb_call *call,
                             const nib_gptq_factor *factor, nib_gptq_report *report);
nib_status nib_qb_plain_solve(const nib_exec *exec, const nib_qb_call *call);

/* The part where H lies, in all of these entries. */
enum { NIB_QB_HESSIAN = NIB_QB_OTHER };

/* qbench_gptq_check.c */
nib_status nib_qb_gptq_compare(const nib_qb_call *got, const nib_qb_call *right,
                               nib_qb_verdict *verdict);
nib_status nib_qb_gptq_factor_compare(const nib_qb_call *got, const nib_qb_call *right,
                                      nib_qb_verdict *verdict);

#endif
