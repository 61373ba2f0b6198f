/* int_format.h: integer formats of weights as numbers and names, which policies and checkpoints
 * take beside those of format.h: what step_codes.h stores, INT4 or INT8, with one step for each
 * group of elements along a row, or for the row.
 *
 * Plain values, no device. Such a number is no format of format.h, whose functions refuse it, and
 * quantize.h's do.
 */
#ifndef NIBBLE_INT_FORMAT_H
#define NIBBLE_INT_FORMAT_H

#include "nibble/format.h"
#include "nibble/steps.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NIB_INT_FORMAT_GROUP = 128 }; /* of the names "int4" and "int8" */

/* Returns the number of these parts, or 0xffffffff if they do not make one:
 *
 *   element     NIB_INT4 or NIB_INT8
 *   group       elements along a row that share a step: a multiple of 8 up to 2^24; 0: the row
 *   asymmetric  0, or 1: with zero points */
nib_format nib_int_format_make(nib_step_element element, int64_t group, int32_t asymmetric);

/* Returns 1 if the number is such a format, else 0. */
int32_t nib_int_format_is_valid(nib_format format);

/* Parts of a valid one. */
nib_step_element nib_int_format_element(nib_format format);
int64_t          nib_int_format_group(nib_format format);
int32_t          nib_int_format_asymmetric(nib_format format);

/* Writes its name into text: "int4", "int8-b32", "int4-asym", "int8-channel-asym": without -bN the
 * group is 128, and "channel" (compressed-tensors' word) is the row. Always ends with NUL when
 * text_bytes > 0. Returns NIB_ERR_ARGUMENT for another number or text NULL, NIB_ERR_SHAPE if it was
 * cut. */
nib_status nib_int_format_name(nib_format format, char *text, size_t text_bytes);

/* Reads such a name. Returns NIB_ERR_ARGUMENT for a NULL pointer or an unknown name. */
nib_status nib_int_format_from_name(const char *name, nib_format *format);

#ifdef __cplusplus
}
#endif

#endif
