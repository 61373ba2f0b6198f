/* json_util.h: jansson with nibble's errors. Held on reading: UTF-8, no duplicate keys, no NUL
 * in strings, nesting up to jansson's 2048. */
#ifndef NIB_JSON_UTIL_H
#define NIB_JSON_UTIL_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "nibble/status.h"

/* Parses an object or array that fills data. path, offset: where data came from, for errors:
 * NIB_ERR_FORMAT names the file, line, column and byte (counted from 1). *out is the caller's
 * reference, NULL on failure. */
nib_status nib_json_parse(const char *path, const void *data, size_t bytes, uint64_t offset,
                          json_t **out);

/* Reads a whole file, at most 1 GiB. */
nib_status nib_json_load(const char *path, json_t **out);

/* Text of value, NUL-terminated and malloc'd. indent: spaces per level, 0 for one line. A real
 * number takes the fewest digits (15 to 17, one choice for the whole text) that read back as the
 * same number: 1e-05, not 1.0000000000000001e-05. bytes may be NULL. */
nib_status nib_json_dump(const json_t *value, int indent, char **text, size_t *bytes);

/* A member that is a string, or NULL if object is no object or has no such string. */
const char *nib_json_str(const json_t *object, const char *key);

/* Reads a non-negative integer: 1 if value is one. 3.0 and 1e3 are reals, not integers. */
int nib_json_u64(const json_t *value, uint64_t *number);

#endif
