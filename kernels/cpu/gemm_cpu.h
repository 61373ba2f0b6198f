/* gemm_cpu.h: products with packed weights on the CPU.
 *
 *     sum[m][n] = sum over k of x[m][k] * e[n][k] * s[n][k / block]      e: 2 * element, an integer
 *
 * s is E4M3's scale or 2^-4 of E8M0's, so that no e * s overflows; job.factor makes up for both.
 *
 * The work is cut into tasks of 64 packed rows, and each sum is one chain in the order of k, in
 * every kernel of an instruction set: so rows of D depend neither on M, nor on the tactic within
 * exact or INT8 ones, nor on the number of threads. */
#ifndef NIB_GEMM_CPU_H
#define NIB_GEMM_CPU_H

#include "kernels/common/gemm_layout.h"
#include "kernels/packed.h"

enum {
    NIB_GEMM_TASK_ROWS = 64,     /* a multiple of 16: the rows of a gated pair are together */
    NIB_GEMM_TASK_TOKENS = 256,  /* multiplied by one panel, at most */
    NIB_GEMM_PANEL_DEPTH = 128,  /* columns of a panel of f32 */
    NIB_GEMM_BYTES_DEPTH = 512,  /* columns of a panel of bytes, at most */
    NIB_GEMM_PIECE = 512         /* columns that one thread prepares at a time */
};

/* 16 activations, rounded to multiples of step. */
typedef struct nib_gemm_q16 {
    int8_t  q[16]; /* or q + 128, unsigned, if job.unsigned_q */
    float   step;
    int32_t base; /* -12 * sum of q: bytes of weights are 2 * element + 12 */
} nib_gemm_q16;

/* A thread's own room. */
typedef struct nib_gemm_scratch {
    float sums[NIB_GEMM_TASK_TOKENS * NIB_GEMM_TASK_ROWS]; /* [token][row] */
    union {
        float f32[NIB_GEMM_PANEL_DEPTH * NIB_GEMM_TASK_ROWS];
        struct {
            uint8_t bytes[NIB_GEMM_BYTES_DEPTH * NIB_GEMM_TASK_ROWS];
            float   scales[NIB_GEMM_BYTES_DEPTH / 16 * NIB_GEMM_TASK_ROWS];
            int32_t offsets[NIB_GEMM_BYTES_DEPTH / 16 * NIB_GEMM_TASK_ROWS];
        } int8;
    } panel;
} nib_gemm_scratch;

typedef struct nib_gemm_job {
    const nib_gemm_request *request;
    const nib_gemm_weights *w;
    int     e4m3, block, int8, unsigned_q, backward;
    int64_t m, depth, padded; /* depth: columns of a; padded: to whole tiles, with zeros */
    int64_t outputs;          /* packed rows, backward columns, of the weights */
    int64_t width;            /* tokens of a group; the last may have fewer */
    float  *x;                /* exact: [group][padded][token of the group] */
    nib_gemm_q16 *q;          /* int8: [group][padded / 16][token of the group] */
    const float  *bias;       /* n, in the source's order, or NULL */
    float   factor, scale;    /* x = factor * sum * scale */
} nib_gemm_job;

/* What an instruction set brings. */
typedef struct nib_gemm_kernels {
    int rows_tokens, panel_tokens, int8_tokens; /* the most in a group */
    int panel_signed; /* panel_int8 takes unsigned q */
    void (*load)(int dtype, const void *src, int64_t n, float *dst); /* n: a multiple of 8 */
    /* Columns [from, to) of all tokens of a group; whole tiles, but for the last. */
    void (*prepare)(const nib_gemm_job *job, int64_t group, int64_t from, int64_t to);
    /* All of outputs first .. first + NIB_GEMM_TASK_ROWS - 1 that there are, to D. */
    void (*rows)(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch);
    void (*panel)(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch);
    void (*rows_int8)(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch);
    void (*panel_int8)(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch);
    void (*backward)(const nib_gemm_job *job, int64_t first, nib_gemm_scratch *scratch);
} nib_gemm_kernels;

nib_status nib_gemm_run(const nib_launch *launch, const nib_gemm_request *request,
                        const nib_gemm_kernels *kernels);
nib_status nib_gemm_backward_run(const nib_launch *launch, const nib_gemm_request *request,
                                 const nib_gemm_kernels *kernels);

/* The table's entries. */
int32_t nib_gemm_tactics_cpu(const nib_gemm_options *options, const nib_device_info *info,
                             nib_gemm_tactic *tactics, char *why);
int32_t nib_gemm_plan_cpu(const nib_gemm_options *options, const nib_device_info *info,
                          nib_gemm_tactic *tactics, char *why);
size_t nib_gemm_need_cpu(const nib_gemm_options *options, const nib_device_info *info,
                         const nib_gemm_tactic *tactic, int64_t m, int32_t *splits);
size_t nib_gemm_backward_need_cpu(const nib_gemm_options *options, const nib_device_info *info,
                                  int64_t m);
nib_status nib_gemm_pack_cpu(const nib_launch *launch, const nib_packed *src,
                             const nib_gemm_weights *w);
nib_status nib_gemm_unpack_cpu(const nib_launch *launch, const nib_gemm_weights *w,
                               const nib_matrix *dst);
nib_status nib_gemm_portable(const nib_launch *launch, const nib_gemm_request *request);
nib_status nib_gemm_backward_portable(const nib_launch *launch, const nib_gemm_request *request);
nib_status nib_gemm_avx2(const nib_launch *launch, const nib_gemm_request *request);
nib_status nib_gemm_backward_avx2(const nib_launch *launch, const nib_gemm_request *request);
nib_status nib_gemm_avx512(const nib_launch *launch, const nib_gemm_request *request);
nib_status nib_gemm_backward_avx512(const nib_launch *launch, const nib_gemm_request *request);

#endif
