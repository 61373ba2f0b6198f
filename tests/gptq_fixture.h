/* gptq_fixture.h: a layer and the Hessian of its inputs, a run of gptq.h on a device, and its
 * comparison with tests/gptq_reference.h. Packed bytes are read by the test's own rules. */
#ifndef NIB_TEST_GPTQ_FIXTURE_H
#define NIB_TEST_GPTQ_FIXTURE_H

#include "tests/device_case.h"
#include "tests/gptq_reference.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

/* Few ways to compute: CUDA's one, or of the CPU portable and AVX2, 1 and more threads. Returns how
 * many; 0 where the backend has no GPTQ or OpenBLAS is missing: gptq_missing() says what. */
enum { GPTQ_RUNNERS = 4 };
int         gptq_runners(const runner *list[GPTQ_RUNNERS]);
const char *gptq_missing(void);

/* Declares few[] and count; skips the test where there are none. */
#define GPTQ_RUNNERS_OR_SKIP(few, count)                 \
    const runner *few[GPTQ_RUNNERS];                     \
    const int count = gptq_runners(few);                 \
    if (count == 0) SKIP(gptq_missing())

/* The one that is done soonest: of a busy machine's, without threads that wait. */
#define GPTQ_FAST(few, count) ((few)[(count) > 2 ? 2 : 0])

double next_normal(void); /* N(0, 1) */

/* Element i of an array of reals; the bytes of k rows of k of them, ld apart. */
double real_get(nib_real real, const void *data, int64_t i);
void   real_put(nib_real real, void *data, int64_t i, double x);
size_t reals_bytes(nib_real real, int64_t k, int64_t ld);

/* ---- Hessians where a runner computes ---- */

/* One of size k, with rows gap reals longer and the other triangle full of NaN. h: k x k, whole, in
 * f64, or NULL for what nib_hessian_clear leaves. */
typedef struct gptq_moments {
    nib_hessian hessian;
    buffer      data, tokens;
} gptq_moments;

gptq_moments gptq_moments_new(const runner *r, nib_real real, int64_t k, int64_t gap,
                              const double *h, uint64_t tokens);
/* Reads the triangle into h, k x k, mirrored, and the number of tokens; fails the test if the rest
 * of the buffer is no longer NaN. */
uint64_t gptq_moments_get(const gptq_moments *m, double *h);
void     gptq_moments_free(gptq_moments *m);

/* Inputs of kinds S1 to S4: a falling spectrum with outlying channels; one that hardly falls,
 * without; the first, by fewer tokens than inputs; a steep one with many outlying channels. */
enum { GPTQ_INPUTS = 512, GPTQ_KINDS = 4 };

/* Their Hessian as the library adds it up in f64: h, GPTQ_INPUTS x GPTQ_INPUTS. */
void gptq_inputs_moments(const runner *r, int kind, double *h);

/* ---- a layer in the host's memory ---- */

typedef struct gptq_source {
    int64_t   rows, k;
    nib_dtype dtype;
    void     *w;  /* rows x k of dtype */
    float    *wf; /* the same numbers */
    float     amax;
    double   *h;  /* k x k, whole */
    uint64_t  tokens;
} gptq_source;

/* Correlated inputs with outlying ones, dead of them 0; weights with a few large ones, a block of
 * zeros and, of 5 rows or more, a row of zeros. */
gptq_source gptq_source_make(nib_dtype dtype, int64_t rows, int64_t k, int64_t tokens, int dead);
/* Random weights for an h that is given. */
gptq_source gptq_source_of(nib_dtype dtype, int64_t rows, int64_t k, const double *h);
/* Weights again, from wf. */
void gptq_source_store(gptq_source *s);
void gptq_source_free(gptq_source *s);

/* ---- one run ---- */

typedef struct gptq_job {
    const gptq_source *s;
    nib_format         format;
    nib_real           real;
    nib_gptq_order     order;
    nib_gptq_scales    scales;
    nib_scale_choice   choice;
    const nib_rules   *rules;
    double             damping, most_damping;
    float              tensor_scale; /* given; 0: from the amax */
    int                without_guard;
    nib_code_order     code_order;
    nib_scale_layout   layout;
    int64_t            gap;          /* elements more in rows of w and l, bytes in rows of codes */
    int                uncounted;    /* the Hessian without tokens */
    int64_t            group;        /* not 0: integers by steps instead of format, rules, choice */
    nib_step_element   element;
    int                asymmetric;
    nib_step_rule      step_rule;
    nib_step_divisor   divisor;
} gptq_job;

gptq_job gptq_job_of(const gptq_source *s, nib_format format); /* f64, amax, with the guard */
gptq_job gptq_job_of_integers(const gptq_source *s, nib_step_element element, int64_t group);

typedef struct gptq_result {
    nib_status       status;
    nib_gptq_factor  factor;       /* its pointers are below */
    nib_gptq_report  report;
    double          *l;            /* k x k, as f64 */
    int32_t         *order;
    uint8_t         *codes, *scales; /* a byte each: rows x k, rows x blocks */
    int64_t         *words;        /* the scales, or of integers the reference's, rows x blocks */
    float            tensor_scale;
    uint8_t         *bytes;        /* everything that was written */
    size_t           bytes_count;
} gptq_result;

gptq_result gptq_run(const runner *r, const gptq_job *job);
void        gptq_result_free(gptq_result *result);

/* The rounding and the layer that a job is for the reference; the factor says what it added. */
ref_rounding gptq_rounding_of(const gptq_job *job);
ref_layer    gptq_layer_of(const gptq_job *job, const ref_rounding *r, const gptq_result *result);

/* Runs the job, solves it by the reference, and expects the same order, codes and scales, the same
 * report to within tolerance, relatively. */
void gptq_check(const runner *r, const gptq_job *job, double tolerance);

/* The sum over rows of d h d^T, d = w - q, of what was written. */
double gptq_error(const gptq_job *job, const gptq_result *result);
double gptq_row_error(const gptq_job *job, const gptq_result *result, int64_t row);
const char *gptq_text(const runner *r, const gptq_job *job);

#endif
