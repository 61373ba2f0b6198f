/* dequantize_cpu.h: one dequantization, cut into spans of blocks of one row, as quantize_cpu.h. */
#ifndef NIB_DEQUANTIZE_CPU_H
#define NIB_DEQUANTIZE_CPU_H

#include "kernels/packed.h"

typedef struct nib_dequantize_job {
    int               element, e4m3_scale, block, bits;
    int64_t           scale_cols;
    float             decode;      /* t */
    float             values[256]; /* of every code */
    const nib_packed *src;
    const nib_matrix *dst;
} nib_dequantize_job;

void nib_dequantize_job_of(const nib_packed *src, const nib_matrix *dst, nib_dequantize_job *job);

typedef void (*nib_dequantize_span)(const nib_dequantize_job *job, int64_t row, int64_t first,
                                    int64_t last);

void nib_dequantize_span_portable(const nib_dequantize_job *job, int64_t row, int64_t first,
                                  int64_t last);

/* fence: NULL, or what each thread calls after its last span, so that others see its stores. */
nib_status nib_dequantize_run(const nib_launch *launch, const nib_packed *src,
                              const nib_matrix *dst, nib_dequantize_span span,
                              void (*fence)(void));

#endif
