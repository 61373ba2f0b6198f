/* convert.h: carries out a plan: reads panels of rows, quantizes or copies them, writes. */
#ifndef NIB_CONVERT_H
#define NIB_CONVERT_H

#include "host/io/output.h"
#include "host/io/plan.h"

/* Writes every tensor of plan into out, whose files are created here; fills in the tensor
 * reports (report->tensors[i] belongs to plan->items[plan->order[i]]). */
nib_status nib_convert_run(const nib_exec *exec, const nib_checkpoint_options *options,
                           const nib_plan *plan, nib_output *out,
                           nib_checkpoint_report *report);

#endif
