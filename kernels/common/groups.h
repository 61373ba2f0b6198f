/* groups.h: where groups of rows begin, from offsets that may be any; see nib_groups. */
#ifndef NIB_GROUPS_H
#define NIB_GROUPS_H

#include "hd.h"

/* begin(g + 1) from begin(g) and offsets[g + 1]; begin(0) from 0 and offsets[0]. */
NIB_HD int64_t nib_group_next(int64_t begin, int64_t offset, int64_t rows)
{
    const int64_t next = offset > begin ? offset : begin;
    return next < rows ? next : rows;
}

/* What random's offset goes on for a group: as many counters as its elements before it need, and
 * one for each group, whose last one may be used in part. */
NIB_HD uint64_t nib_group_random(int64_t group, int64_t begin, int64_t cols)
{
    return (uint64_t)group + (uint64_t)begin * (uint64_t)cols / 4;
}

#endif
