/* compare.h: two models, tensor by tensor. */
#ifndef NIB_COMPARE_H
#define NIB_COMPARE_H

#include "host/io/report.h"

/* The work behind nib_checkpoint_compare. */
nib_status nib_compare_run(const nib_exec *exec, const nib_model *a, const nib_model *b,
                           const nib_checkpoint_options *options,
                           nib_checkpoint_report **report);

#endif
