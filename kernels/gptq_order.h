/* gptq_order.h: what a Hessian's elements say, and in which order inputs are taken by it: computed
 * on the host, whatever the device, so that every device's order is the same. */
#ifndef NIB_GPTQ_ORDER_H
#define NIB_GPTQ_ORDER_H

#include <math.h>
#include <stdlib.h>

#include "kernels/backend.h"

/* All of *info but its size. diag: the diagonal's k elements; at: the first element of the triangle
 * that is NaN or Inf, or -1. */
static inline void nib_hessian_info_of(const double *diag, int64_t k, const int64_t at[2],
                                       uint64_t tokens, nib_hessian_info *info)
{
    double sum = 0.0, least = (double)INFINITY, most = 0.0;
    info->tokens = tokens;
    info->dead = info->nonfinite = 0;
    info->first_nonfinite = -1;
    for (int64_t i = 0; i < k; i++) {
        const double d = diag[i];
        if (!(d >= 0.0 && d < (double)INFINITY)) {
            if (!info->nonfinite++) info->first_nonfinite = i;
            continue;
        }
        info->dead += d == 0.0;
        sum += d;
        if (d < least) least = d;
        if (d > most) most = d;
    }
    const int64_t finite = k - info->nonfinite;
    info->min_diag = finite ? least : 0.0;
    info->mean_diag = finite ? sum / (double)finite : 0.0;
    info->max_diag = most;
    info->bad_row = info->bad_col = info->first_nonfinite;
    if (at[0] < 0 || (info->bad_row >= 0 && info->bad_row < at[0])) return;
    info->bad_row = at[0];
    info->bad_col = at[1];
}

typedef struct nib_gptq_ranked {
    double  block, own;   /* the block's largest diagonal element, or 0 for all; the input's */
    int32_t first, input; /* the block's first input, or 0 */
} nib_gptq_ranked;

static inline int nib_gptq_falling(const void *a, const void *b)
{
    const nib_gptq_ranked *const x = (const nib_gptq_ranked *)a;
    const nib_gptq_ranked *const y = (const nib_gptq_ranked *)b;
    if (x->block != y->block) return x->block > y->block ? -1 : 1;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    if (x->own != y->own) return x->own > y->own ? -1 : 1;
    return x->input < y->input ? -1 : 1;
}

/* The order of k inputs; diag is not read for the natural one. Returns OUT_OF_MEMORY or OK. */
static inline nib_status nib_gptq_order_of(const double *diag, int64_t k, nib_gptq_order order,
                                           int32_t block, int32_t *to)
{
    if (order == NIB_GPTQ_NATURAL) {
        for (int64_t i = 0; i < k; i++) to[i] = (int32_t)i;
        return NIB_OK;
    }
    nib_gptq_ranked *const list = (nib_gptq_ranked *)calloc((size_t)k, sizeof *list);
    if (!list) return NIB_ERR_OUT_OF_MEMORY;
    double most = 0.0; /* of the block */
    for (int64_t i = 0; i < k; i++) {
        list[i].own = diag[i];
        list[i].input = (int32_t)i;
        if (order != NIB_GPTQ_GROUP_AWARE) continue;
        list[i].first = (int32_t)(i / block * block);
        if (i % block == 0) {
            most = 0.0;
            for (int64_t j = i; j < k && j < i + block; j++) most = fmax(most, diag[j]);
        }
        list[i].block = most;
    }
    qsort(list, (size_t)k, sizeof *list, nib_gptq_falling);
    for (int64_t i = 0; i < k; i++) to[i] = list[i].input;
    free(list);
    return NIB_OK;
}

#endif
