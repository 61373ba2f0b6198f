/* gemm_checks.h: checks of packed weights that gemm.c and gemm_weights.c share. */
#ifndef NIB_GEMM_CHECKS_H
#define NIB_GEMM_CHECKS_H

#include "dispatch.h"

nib_status nib_gemm_format_check(const char *what, nib_format format);
nib_status nib_gemm_shape_check(const char *what, int64_t n, int64_t k, int32_t gated);
/* The first: all but the buffers. */
nib_status nib_gemm_weights_check(const char *what, const nib_gemm_weights *w);
nib_status nib_gemm_buffers_check(const char *what, const nib_gemm_weights *w);

nib_gemm_layout nib_gemm_own_layout(const nib_device *device); /* what AUTO means */

#endif
