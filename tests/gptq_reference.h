/* gptq_reference.h: GPTQ as it was published (arXiv:2210.17323), in f64 and in plain loops: three
 * factorisations, columns from left to right, each error passed on at once. The library computes
 * the same numbers another way (gptq.h); nothing of its code is used here. Formats and rules are
 * read from their text in format.h. Of kernels/ comes only the rounding of an f32 to f16 and bf16,
 * which half_test.c holds to every value. */
#ifndef NIB_TEST_GPTQ_REFERENCE_H
#define NIB_TEST_GPTQ_REFERENCE_H

#include "nibble/gptq.h"

/* ---- one block: gptq_rounding.c, gptq_rounding_steps.c ---- */

/* A format with rules and a tensor scale; or integers by steps, whose scale is both the step's bits
 * and the zero point, in one number. */
typedef struct ref_rounding {
    int              integers; /* 1: of what follows, choice, block and the last line alone count */
    nib_format       format;
    nib_rules        rules;
    nib_dtype        source; /* of the weights */
    nib_scale_choice choice;
    int              block, values, has_e4m3_scale;
    double           value[128];     /* of the magnitude codes */
    float            scale[256];     /* of the scale bytes */
    float            encode, decode; /* S and t */
    int              lo, hi, asymmetric, rule, of_half;
} ref_rounding;

/* block: of a row that has one step, k. */
ref_rounding ref_integers_make(nib_step_element element, int asymmetric, nib_step_rule rule,
                               int64_t block);
int64_t ref_step_scale(float s, int z);
int64_t ref_dynamic_step(const ref_rounding *r, const float *x, int n);
/* Of the step for the numbers times 1 - i / 32. */
int64_t ref_shrunk_step(const ref_rounding *r, const float *x, int n, int i);
int     ref_integer(const ref_rounding *r, int64_t scale, float x); /* q */
float   ref_integer_value(int64_t scale, int q);

/* Without a tensor scale yet: encode and decode are 1. rules NULL: TransformerEngine's. */
ref_rounding ref_rounding_make(nib_format format, const nib_rules *rules, nib_dtype source,
                               nib_scale_choice choice);
void ref_tensor_amax(ref_rounding *r, float amax);
void ref_tensor_given(ref_rounding *r, float t);

int    ref_amax_scale(const ref_rounding *r, float amax);
int    ref_code(const ref_rounding *r, int64_t scale, float x);
double ref_value(const ref_rounding *r, int64_t scale, int code);
/* The scale of n elements by r->choice. */
int64_t ref_plain_scale(const ref_rounding *r, const float *x, int n);
/* That of the least d H_b d^T, of the candidates of NIB_SCALE_MSE or of all; H_b(i, j) is
 * h[at[i] * ld + at[j]]. */
int64_t ref_hessian_scale(const ref_rounding *r, const double *x, int n, const double *h,
                          int64_t ld, const int32_t *at, int full);

/* ---- matrices: row-major, n x n, of f64 ---- */

/* The lower triangle of a becomes l with a = l l^T; zeros above. Returns 0, or the leading minor
 * that is not positive definite. */
int64_t ref_cholesky(double *a, int64_t n);
void    ref_invert_lower(double *l, int64_t n);
/* U, upper triangular, with a^-1 = U^T U. a: whole. Returns as ref_cholesky does, of a. */
int64_t ref_inverse_factor(const double *a, int64_t n, double *u);
/* tr(d h d^T) of one row. */
double  ref_quadratic(const double *d, const double *h, int64_t n);

/* ---- layers: gptq_reference.c ---- */

typedef struct ref_layer {
    const ref_rounding *r;
    const float        *w; /* rows x k */
    const double       *h; /* k x k, whole */
    int64_t             rows, k;
    nib_gptq_order      order;
    nib_gptq_scales     scales;
    double              added;  /* to the diagonal */
    int                 no_guard;
    int                 plain;  /* 1: plain rounding */
} ref_layer;

typedef struct ref_answer {
    int32_t *order;          /* k */
    uint8_t *codes;          /* rows x k, a byte each */
    int64_t *scales;         /* rows x ceil(k / block) */
    double  *u;              /* k x k */
    double   error, plain_error, weight; /* tr(. h .^T), no damping */
    double   carried;        /* sum of ((w' - q) / U_jj)^2 over all rows, before the guard */
    double   carried_direct; /* tr(D (h + damping) D^T) of the same D */
    int64_t  plain_least, plain_most; /* rows of which the plain rounding is better; or as good */
} ref_answer;

/* Returns 1; 0 where h is not positive definite. */
int  ref_solve(const ref_layer *layer, ref_answer *answer);
void ref_answer_free(ref_answer *answer);

void ref_order(const double *h, int64_t k, nib_gptq_order order, int block, int32_t *out);

#endif
