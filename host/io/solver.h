/* solver.h: whole matrices rounded by their Hessians (gptq.h), for convert.c. Holds one Hessian and
 * its factor at a time, for the tensors in a row that share them. */
#ifndef NIB_SOLVER_H
#define NIB_SOLVER_H

#include "host/io/plan.h"

typedef struct nib_solver nib_solver;

/* options->gptq is not NULL; exec and options outlive the solver. */
nib_status      nib_solver_open(const nib_exec *exec, const nib_checkpoint_options *options,
                                nib_solver **out);
void            nib_solver_close(nib_solver *solver); /* NULL is allowed */
/* With the caller's threads. */
const nib_exec *nib_solver_exec(const nib_solver *solver);

/* dst = w, the tensor of item, rounded by item->hessian; fills in all of *out but its name. */
nib_status nib_solver_quantize(nib_solver *solver, const nib_plan_item *item, const nib_matrix *w,
                               const nib_quantize_options *quantize, const nib_packed *dst,
                               nib_tensor_gptq *out);

/* The same for integers. */
nib_status nib_solver_integers(nib_solver *solver, const nib_plan_item *item, const nib_matrix *w,
                               const nib_packed_steps *dst, nib_tensor_gptq *out);

/* The figures of *out as words for a journal, and back: 1 if text has them all. */
void nib_solver_to_text(const nib_tensor_gptq *out, char *text, size_t bytes);
int  nib_solver_from_text(const char *text, nib_tensor_gptq *out);

#endif
