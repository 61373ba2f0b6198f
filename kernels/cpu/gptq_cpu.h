/* gptq_cpu.h: one layer's sweep, cut into tiles of rows.
 *
 * Rows do not depend on each other, so a thread takes a tile of them through all steps:
 *
 *     d, rows x k reals, ld apart, column k-1-s is step s:
 *
 *         [  w  w  w  w  w | t  t  t  t | d  d  d  d  d  d ]     w: weights that are still to come
 *            steps to come    this part     steps done          d: w - q of those that are done
 *
 *     before = t's weights           t += d * (the factor's rows and columns in question)
 *     block by block of t:           step by step to codes, its place takes d; then, n blocks being
 *                                    done and 2^i the largest power that divides n, the 2^i blocks
 *                                    to come += the d of the last 2^i
 *
 * A part is NIB_GPTQ_WIDE steps: d is laid out less often for the product with all steps done.
 * A block is done for 16 rows at a time, a row in each lane of the compiler's vectors.
 */
#ifndef NIB_GPTQ_CPU_H
#define NIB_GPTQ_CPU_H

#include "gptq_tune_cpu.h"
#include "kernels/common/grid.h"
#include "kernels/packed.h"

/* From row to row of a block's A, and of a part's weights: no powers of two, as ld below. */
enum { NIB_GPTQ_APART = NIB_GPTQ_STEPS + 16, NIB_GPTQ_PART_APART = NIB_GPTQ_WIDE + 16 };

/* How codes are rounded. PLAIN: to nearest even, where a zero keeps its sign or has its input's.
 * INTEGER: by steps. */
enum { NIB_GPTQ_ANY, NIB_GPTQ_PLAIN, NIB_GPTQ_E2M1, NIB_GPTQ_INTEGER };

typedef struct nib_gptq_job {
    const nib_gptq_request *request;
    nib_tensor_math math;       /* of a format */
    nib_grid        grid;       /* of integers */
    int             f64, kind;
    int             keep; /* PLAIN, E2M1: a zero keeps its sign */
    int             by_hessian, fresh, full, divide;
    int64_t         k, ld;      /* ld: not a power of two, which caches do not like */
    int64_t         block, groups; /* inputs that share a scale, or a step; of them in a row */
    int32_t        *segments;   /* where segments of steps begin, with k at the end */
    double         *pivot_sq;   /* by column of d: R^2; and what was added to H's diagonal */
    double         *extra;
    double         *row_errors; /* of each row's plain rounding */
    float           factor[256], step[256]; /* by scale byte: of nib_block_unit, nib_block_step */
    float           element[256]; /* by code */
} nib_gptq_job;

/* What a thread has to itself. Sizes for tiles of NIB_GPTQ_ROWS. */
typedef struct nib_gptq_scratch {
    void    *d;       /* rows x ld reals */
    void    *before;  /* rows x NIB_GPTQ_PART_APART: the weights of steps up to kept_last */
    int64_t  kept_last;
    void    *a;       /* A of the block's steps: a row for each, NIB_GPTQ_APART apart, the steps
                         behind it from the last on */
    void    *h;       /* the Hessian of a block of inputs, NIB_MAX_BLOCK apart, both triangles */
    void    *spare;   /* k reals */
    uint8_t *codes;   /* rows x k: by 16 rows, by step, by row */
    uint8_t *scales;  /* groups x NIB_GPTQ_ROWS; */
    float   *steps, *lows; /* or, of integers, s and lo - z */
    double   error[NIB_GPTQ_ROWS];
} nib_gptq_scratch;

/* The loops that are compiled for each instruction set. rows: of the tile, those behind the last
 * being whole lanes of anything finite. */
typedef struct nib_gptq_loops {
    /* Steps [first, last) of a tile, in the segments from *segment on, which moves on. */
    void (*block)(const nib_gptq_job *job, nib_gptq_scratch *s, int rows, int64_t first,
                  int64_t last, int64_t *segment);
    /* Scales by the Hessian of weights that lie in d in their own order. */
    void (*scales)(const nib_gptq_job *job, nib_gptq_scratch *s, int rows);
} nib_gptq_loops;

/* ---- gptq_steps_cpu.c: integers, where gptq_cpu.c has formats ---- */

void nib_gptq_integers_make(nib_gptq_job *job);
/* to, a row's reals, less the values that the packed row holds. */
void nib_gptq_integers_subtract(const nib_gptq_job *job, int64_t row, void *to);
/* The plain rounding's steps of a tile, 1 for rows from rows to padded. */
void nib_gptq_integers_take(const nib_gptq_job *job, nib_gptq_scratch *s, int64_t row, int rows,
                            int padded);
/* Row r of a tile, its codes by input, to row row. */
void nib_gptq_integers_store(const nib_gptq_job *job, const nib_gptq_scratch *s, int64_t row, int r,
                             const uint8_t *codes);

/* ---- the backend's entries ---- */

size_t nib_gptq_need_cpu(nib_real real, int64_t rows, int64_t k, int64_t group, int32_t threads);
nib_status nib_gptq_measure_cpu(const nib_launch *launch, const nib_gptq_request *request,
                                nib_gptq_sums *sums);
nib_status nib_gptq_run(const nib_launch *launch, const nib_gptq_request *request,
                        nib_gptq_sums *sums, const nib_gptq_loops *loops);

nib_status nib_gptq_sweep_portable(const nib_launch *launch, const nib_gptq_request *request,
                                   nib_gptq_sums *sums);
nib_status nib_gptq_sweep_avx2(const nib_launch *launch, const nib_gptq_request *request,
                               nib_gptq_sums *sums);
nib_status nib_gptq_sweep_avx512(const nib_launch *launch, const nib_gptq_request *request,
                                 nib_gptq_sums *sums);

#endif
