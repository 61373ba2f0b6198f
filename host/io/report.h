/* report.h: building the reports that checkpoint.h hands out. */
#ifndef NIB_REPORT_H
#define NIB_REPORT_H

#include "host/io/hessian_table.h"
#include "host/io/model.h"
#include "nibble/checkpoint.h"

/* A report with room for n tensors, or NULL. */
nib_checkpoint_report *nib_report_new(size_t n);

/* Fills in entry i from a logical tensor; stored_type NULL: as in the source. */
nib_status nib_report_tensor(nib_checkpoint_report *report, size_t i, const nib_logical *t,
                             const char *stored_type, uint64_t stored_bytes, int quantized);

/* Says that tensor i goes with this Hessian. */
nib_status nib_report_gptq(nib_checkpoint_report *report, size_t i, const nib_hessian_entry *entry);

enum { NIB_TYPE_NAME_BYTES = 48 };

/* "NVFP4", "INT4-B32-ASYM", ...: a format that is stored, by its name; written into text, which is
 * returned. */
const char *nib_stored_type_name(nib_format format, char text[NIB_TYPE_NAME_BYTES]);

/* The same, or "BF16", ..., of what stands in the file. */
const char *nib_logical_type_name(const nib_logical *t, char text[NIB_TYPE_NAME_BYTES]);

#endif
