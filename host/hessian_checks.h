/* hessian_checks.h: what host/hessian.c and host/gptq.c both ask of their arguments. */
#ifndef NIB_HESSIAN_CHECKS_H
#define NIB_HESSIAN_CHECKS_H

#include "dispatch.h"

nib_status nib_hessian_valid(const char *what, const nib_hessian *hessian);

/* A k x k matrix of reals, called name in the text. */
nib_status nib_square_check(const char *what, const char *name, nib_real real, int64_t k,
                            const void *data, int64_t ld_elems);

/* Fills in *info; NONFINITE, with row and column in the text, if the triangle is not all finite.
 * whole 0: of it, only the diagonal is looked at. */
nib_status nib_hessian_look(const char *what, const nib_backend *ops, const nib_launch *launch,
                            const nib_hessian *hessian, int32_t whole, nib_hessian_info *info);

/* exec->workspace has the bytes that a query named, aligned to 64. */
nib_status nib_room_check(const char *what, const nib_launch *launch, size_t needed);

#endif
