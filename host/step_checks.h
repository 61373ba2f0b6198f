/* step_checks.h: what host/step_codes.c and host/gptq_steps.c both ask of packed integers. */
#ifndef NIB_STEP_CHECKS_H
#define NIB_STEP_CHECKS_H

#include "dispatch.h"

/* p, called name in the text. */
nib_status nib_packed_steps_check(const char *what, const char *name, const nib_packed_steps *p);

/* m is as large as p, which is called name. */
nib_status nib_packed_steps_size_check(const char *what, const nib_matrix *m, const char *name,
                                       const nib_packed_steps *p);

/* Of a p that was checked: a request without outputs but p's steps and zeros, or with given, that
 * reads them. */
nib_step_request nib_packed_steps_request(const nib_packed_steps *p, int32_t given);

#endif
