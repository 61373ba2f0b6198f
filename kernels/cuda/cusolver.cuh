/* cusolver.cuh: Cholesky factors and triangular inverses by NVIDIA's cuSOLVER, which is opened at
 * run time and never linked. */
#ifndef NIB_CUSOLVER_CUH
#define NIB_CUSOLVER_CUH

#include "ops_cuda.cuh"

/* As nib_cuda_lt_why_not, nib_cuda_lt_is_refused and nib_cuda_lt_load. */
const char *nib_cuda_solver_why_not(int32_t ordinal);
bool        nib_cuda_solver_is_refused(int32_t ordinal);
void        nib_cuda_solver_load();

/* Whether a library of this name would do, and why not (NIB_WHY_BYTES). It stays open. */
bool nib_cuda_solver_would_open(const char *name, char *why);

/* a, of which the triangle j <= i of n x n reals is used, becomes L with a = L L^T or, inverted,
 * L^-1. *minor: 0, or LAPACK's info, and a is undefined. Synchronises, and allocates what cuSOLVER
 * wants for itself. Threads take turns on a device. Returns UNSUPPORTED, DEVICE or OUT_OF_MEMORY
 * with words. */
nib_status nib_cuda_solver_factor(const nib_launch *launch, nib_real real, int64_t n, void *a,
                                  int64_t ld_elems, bool inverted, int64_t *minor);

#endif
