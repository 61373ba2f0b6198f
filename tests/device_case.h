/* device_case.h: one matrix through every operation of quantize.h, on any runner. */
#ifndef NIB_TEST_DEVICE_CASE_H
#define NIB_TEST_DEVICE_CASE_H

#include "tests/device_fixture.h"

/* Random numbers of this suite: xorshift32, seeded by each test. */
extern uint32_t random_state;
uint32_t next_random(void);
float    next_unit(void); /* [-1, 1) */

/* n elements in stretches of 48 of one kind each: zeros, ties, specials, all ranges; only_tame:
 * small numbers alone. */
void fill_matrix(nib_dtype dtype, void *data, int64_t n, int only_tame);

typedef struct setting {
    nib_format       format;
    nib_dtype        dtype;
    int64_t          rows, cols, ld_extra;
    nib_scale_layout layout;
    nib_code_order   order;
    float            tensor_scale; /* given; 0: from amax, as a dynamic scale */
    nib_rules        rules;
    nib_scale_choice choice;
    nib_rounding     rounding;
    uint64_t         random[2];
    int32_t          scale_rows;
    size_t           off; /* elements by which matrices, and bytes by which codes and scales, are
                             off an alignment of 256 */
} setting;

setting setting_of(nib_format format, nib_dtype dtype, int preset);

/* Sizes that follow from a setting. */
int64_t setting_ld_codes(const setting *s);
int64_t setting_codes_bytes(const setting *s); /* buffers end with their last row */
int64_t setting_matrix_bytes(const setting *s, nib_dtype dtype);
int64_t setting_scales_bytes(const setting *s);

/* Everything that one runner makes of one matrix, in the host's memory. */
typedef struct outcome {
    uint8_t  *codes, *scales, *values[3];
    float     tensor_scale, amax, *amax_rows;
    uint64_t  nonfinite;
    nib_quantize_report report; /* size 0: the backend has no statistics */
} outcome;

void case_run(const runner *r, const setting *s, const void *x, outcome *o);
void case_release(outcome *o);

/* a is right; b is what r made. */
void case_expect_equal(const setting *s, const runner *r, const outcome *a, const outcome *b);

/* Runs the setting on the reference and on every runner, or on few: one of each kind. The bytes
 * must be the same, gaps untouched, padding zero. x: rows * (cols + ld_extra) elements. */
void case_check(const setting *s, const void *x, int few);

/* case_check of random elements. */
void case_check_random(const setting *s, int only_tame, int few);

/* Whether runner i of a list is one of few: one of each instruction set, and CUDA. */
int case_is_few(const runner *r, int i, const setting *s);

/* Random elements for a setting, malloc's. */
void *case_source(const setting *s, int only_tame);

/* The named formats, then four without names, which a GPU does not take. */
enum { NAMED_FORMATS = 14, FORMATS = 18 };
extern const nib_format case_formats[FORMATS];

#endif
