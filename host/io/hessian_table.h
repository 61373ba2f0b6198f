/* hessian_table.h: Hessians in safetensors files, or the inputs that they are the sums of, found by
 * the names of layers. hessian.h says how a Hessian is stored.
 */
#ifndef NIB_HESSIAN_TABLE_H
#define NIB_HESSIAN_TABLE_H

#include "host/io/safetensors.h"
#include "nibble/hessian.h"

typedef struct nib_hessian_entry {
    const nib_tensor *tensor;  /* [k, k], or of inputs [..., k]; NULL: there is none */
    const nib_tensor *tokens;  /* "NAME.tokens", as hessian.h says; NULL: none */
    const char       *path;    /* of the file, for errors */
    int32_t           inputs;  /* 1: rows of tensor are inputs */
    int64_t           k;
} nib_hessian_entry;

/* The files at path: one, or all *.safetensors of a folder, in the order of their names. */
typedef struct nib_hessian_table {
    nib_safetensors **files;
    size_t            count;
    char             *path;
    int32_t           inputs;
} nib_hessian_table;

nib_status nib_hessian_table_open(const char *path, int32_t inputs, nib_hessian_table *table);
void       nib_hessian_table_close(nib_hessian_table *table);

/* The tensor of this very name, checked: square of F32 or F64, or, of inputs, at least two
 * dimensions of F32, F16 or BF16. entry->tensor is NULL if there is none. NIB_ERR_SHAPE; of a table
 * NIB_ERR_FORMAT if two files have it. */
nib_status nib_hessian_entry_find(const nib_safetensors *file, int32_t inputs, const char *name,
                                  nib_hessian_entry *entry);
nib_status nib_hessian_table_find(const nib_hessian_table *table, const char *name,
                                  nib_hessian_entry *entry);

/* Some names of what can be found, for errors. Returns text. */
const char *nib_hessian_names(const nib_safetensors *file, char *text, size_t bytes);

/* NIB_ERR_NONFINITE, naming the first, if an element of a Hessian's diagonal is NaN, Inf or
 * negative. Of inputs: NIB_OK. */
nib_status nib_hessian_entry_check(const nib_hessian_entry *entry);

/* Copies the triangle, converted to hessian->real, and the tokens (UINT64_MAX if the file has none)
 * of a Hessian that is no inputs. hessian->k is entry->k. */
void nib_hessian_entry_read(const nib_hessian_entry *entry, const nib_hessian *hessian);

#endif
