/* steps_reference.h: what steps.h says, written once more and slowly, apart from kernels/. */
#ifndef NIB_TEST_STEPS_REFERENCE_H
#define NIB_TEST_STEPS_REFERENCE_H

#include "nibble/steps.h"
#include "tests/device_case.h"

typedef struct step_setting {
    nib_step_element element;
    int              asymmetric, given, mask, clamp;
    int              of_half;           /* of nib_packed_steps: divisor is NIB_STEP_OF_HALF */
    nib_step_rule    rule;
    int64_t          rows, cols, group; /* as in nib_step_options */
    int64_t          ld_extra;
    nib_dtype        dtype, out_dtype, grad_dtype;
    float            factor;
    size_t           off;
} step_setting;

/* One matrix, and all that must come of it. Matrices have rows of cols + ld_extra elements. */
typedef struct step_case {
    int64_t  steps;               /* how many */
    void    *x, *grad;
    float   *given, range[2], tensor_scale;
    int8_t  *zeros;
    float   *used;                /* the steps that x is divided by, and their zero points */
    int8_t  *used_zeros;
    float   *v, *y;               /* of each element, rows * cols */
    uint8_t *passes;
    void    *values;              /* of out_dtype; gaps are POISON */
    uint8_t *mask;                /* rows of mask_ld bytes, the last one shorter; likewise */
    float   *grad_steps;
} step_case;

int64_t step_mask_ld(const step_setting *s);
int64_t step_matrix_bytes(const step_setting *s, nib_dtype dtype); /* ends with its last row */
int64_t step_mask_bytes(const step_setting *s);
double  step_most(nib_step_element element); /* hi, or E */

/* Random elements, steps and gradients. */
void step_case_fill(const step_setting *s, step_case *c);
/* All that follows from them. */
void step_case_solve(const step_setting *s, step_case *c);
void step_case_free(step_case *c);

/* The value of y = x / s, in steps, and of a step by its rule. */
float step_nearest(nib_step_element element, float low, float high, float y);
float step_by_rule(nib_step_rule rule, float t, float s);

#endif
