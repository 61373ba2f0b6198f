/* hessian_cpu.h: Hessians and GPTQ on the CPU; one implementation of all but the sweep's spans. */
#ifndef NIB_HESSIAN_CPU_H
#define NIB_HESSIAN_CPU_H

#include "kernels/backend.h"

/* Says in launch->why that OpenBLAS is missing. Returns UNSUPPORTED then, else OK. */
nib_status nib_blas_needed(const nib_launch *launch);

size_t     nib_hessian_add_need_cpu(const nib_hessian *hessian, int64_t rows);
nib_status nib_hessian_clear_cpu(const nib_launch *launch, const nib_hessian *hessian);
nib_status nib_hessian_add_cpu(const nib_launch *launch, const nib_matrix *x,
                               nib_hessian_precision precision, const nib_hessian *hessian);
nib_status nib_hessian_add_grouped_cpu(const nib_launch *launch, const nib_groups *groups,
                                       const nib_matrix *x, nib_hessian_precision precision,
                                       const nib_hessian *hessians);
nib_status nib_hessian_merge_cpu(const nib_launch *launch, const nib_hessian *from,
                                 const nib_hessian *to);
nib_status nib_hessian_rotate_cpu(const nib_launch *launch, const nib_hessian *hessian,
                                  int32_t block);
nib_status nib_hessian_info_cpu(const nib_launch *launch, const nib_hessian *hessian,
                                int32_t whole, nib_hessian_info *info);
nib_status nib_hessian_inverse_cpu(const nib_launch *launch, const nib_hessian *hessian,
                                   double added, void *u, int64_t ld_elems, int64_t *minor);
nib_status nib_gptq_order_cpu(const nib_launch *launch, const nib_hessian *hessian,
                              nib_gptq_order order, int32_t block, const nib_gptq_factor *factor);
nib_status nib_gptq_factor_cpu(const nib_launch *launch, const nib_hessian *hessian, double added,
                               const nib_gptq_factor *factor, int64_t *minor);
nib_status nib_find_nonfinite_cpu(const nib_launch *launch, const nib_matrix *matrix,
                                  int64_t at[2]);
/* The same of the triangle. */
void       nib_hessian_nonfinite_cpu(const nib_launch *launch, const nib_hessian *hessian,
                                     int64_t at[2]);

static inline double nib_real_get(const void *data, int f64, int64_t i)
{
    return f64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

static inline void nib_real_set(void *data, int f64, int64_t i, double value)
{
    if (f64) ((double *)data)[i] = value;
    else ((float *)data)[i] = (float)value;
}

static inline double nib_hessian_diag(const nib_hessian *h, int64_t i)
{
    return nib_real_get(h->data, h->real == NIB_REAL_F64, i * h->ld_elems + i);
}

#endif
