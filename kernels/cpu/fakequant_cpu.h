/* fakequant_cpu.h: one fake-quantization, or its gradient, cut into spans of blocks of one row. */
#ifndef NIB_FAKEQUANT_CPU_H
#define NIB_FAKEQUANT_CPU_H

#include "quantize_cpu.h"

typedef struct nib_fake_job {
    nib_quantize_job        quantize; /* its dst is shape: the bytes are never made */
    nib_packed              shape;
    float                   decode;      /* t */
    float                   values[256]; /* of every code */
    int                     in_place;
    int64_t                 ld_mask;
    uint8_t                *mask;        /* or NULL; the backward pass reads it */
    const nib_matrix       *src, *dst;   /* dst: or grad_in */
    const nib_matrix       *grad_out;    /* backward only, where src may be NULL */
    nib_fake_gradient       gradient;
} nib_fake_job;

/* Blocks [first, last) of a row. */
typedef void (*nib_fake_span)(const nib_fake_job *job, int64_t row, int64_t first, int64_t last);

/* grad_out: NULL for the forward pass. fence: NULL, or what each thread calls at its end. */
nib_status nib_fake_run(const nib_launch *launch, const nib_matrix *src,
                        const nib_matrix *grad_out, const nib_fake_request *request,
                        const nib_matrix *dst, nib_fake_span span, void (*fence)(void));

static inline uint8_t *nib_matrix_at(const nib_matrix *m, int64_t row, int64_t col)
{
    const int64_t size = m->dtype == NIB_F32 ? 4 : 2;
    return (uint8_t *)m->data + (row * m->ld_elems + col) * size;
}

#endif
