/* quantize_cpu.h: one quantization, cut into spans of blocks of one row.
 *
 * The portable code and AVX2 differ only in their span function; what a span cannot do in
 * vectors of its own it hands to nib_quantize_span_any_avx2, which takes any blocks. Rows that
 * share scales are done by portable code alone.
 */
#ifndef NIB_QUANTIZE_CPU_H
#define NIB_QUANTIZE_CPU_H

#include "kernels/packed.h"

typedef struct nib_quantize_job {
    nib_tensor_math   math;
    int               choice;     /* NIB_SC_* */
    int               stochastic;
    int               scale_rows; /* that share their blocks' scales: 1 or 16 */
    int               bits;       /* of a code */
    int64_t           scale_cols; /* scales of a row */
    uint64_t          seed, offset;
    const uint8_t    *given;      /* scales, or NULL; choice is then NIB_SC_AMAX */
    nib_scale_layout  given_layout;
    const nib_matrix *src;
    const nib_packed *dst;
} nib_quantize_job;

/* Blocks [first, last) of a row. */
typedef void (*nib_quantize_span)(const nib_quantize_job *job, int64_t row, int64_t first,
                                  int64_t last);

void nib_quantize_span_portable(const nib_quantize_job *job, int64_t row, int64_t first,
                                int64_t last);

/* The same compiled for AVX2. */
void nib_quantize_span_any_avx2(const nib_quantize_job *job, int64_t row, int64_t first,
                                int64_t last);

/* What a request asks; writes the tensor scale, if it comes from amax. */
void nib_quantize_job_of(const nib_matrix *src, const nib_quantize_request *request,
                         const nib_packed *dst, nib_quantize_job *job);

/* Writes the padding of scales that have some. */
void nib_quantize_padding(const nib_launch *launch, const nib_quantize_job *job);

/* The whole matrix, its padding and its tensor scale. */
nib_status nib_quantize_run(const nib_launch *launch, const nib_matrix *src,
                            const nib_quantize_request *request, const nib_packed *dst,
                            nib_quantize_span span);

/* Both of nib_quantize_both; quantize: the way to rowwise. */
nib_status nib_quantize_both_run(const nib_launch *launch, const nib_matrix *src,
                                 const nib_quantize_request *request, const nib_packed *rowwise,
                                 const nib_packed *columnwise,
                                 nib_status (*quantize)(const nib_launch *, const nib_matrix *,
                                                        const nib_quantize_request *,
                                                        const nib_packed *));

/* Writes the padding of swizzled scales. */
void nib_zero_scale_padding(int64_t rows, int64_t scale_cols, uint8_t *scales, int32_t threads);

/* The byte of block k, of scales that are given. */
static inline uint32_t nib_given_byte(const nib_quantize_job *job, int64_t row, int64_t k)
{
    const int64_t i = nib_scale_index(job->given_layout, row, k, job->scale_cols);
    return nib_scale_given(job->math.rules.e4m3_scale, job->given[i]);
}

static inline void nib_quantize_store_scale(const nib_quantize_job *job, int64_t row, int64_t k,
                                            uint32_t byte)
{
    const int64_t i = nib_scale_index(job->dst->scale_layout, row, k, job->scale_cols);
    job->dst->scales[i] = (uint8_t)byte;
}

#endif
