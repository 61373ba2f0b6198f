/* guard.h: what a run reads must not be what it replaces. */
#ifndef NIB_GUARD_H
#define NIB_GUARD_H

#include "host/io/hessian_table.h"
#include "host/io/model.h"

/* 1 if path is dst or lies anywhere in the folder dst, be it by its name or where links lead.
 * Neither needs to exist; folders that hold them do. */
int nib_path_is_within(const char *dst, const char *path);

/* NIB_ERR_EXISTS if a file that is read is so: replacing dst would lose it. A model's are its
 * weights and the small files that nib_folder_copy takes. */
nib_status nib_guard_model(const char *dst, const nib_model *model);
nib_status nib_guard_hessians(const char *dst, const nib_hessian_table *table);

#endif
