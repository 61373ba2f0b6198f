/* merge.h: joins the parts that shards of one run wrote. */
#ifndef NIB_MERGE_H
#define NIB_MERGE_H

#include <stddef.h>
#include <stdint.h>

#include "nibble/status.h"

nib_status nib_merge_run(const char *const *parts, size_t n_parts, const char *dst,
                         int32_t force);

#endif
