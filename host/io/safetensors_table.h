/* safetensors_table.h: what the header reader and the index reader share; nobody else's. */
#ifndef NIB_SAFETENSORS_TABLE_H
#define NIB_SAFETENSORS_TABLE_H

#include <jansson.h>

#include "host/io/safetensors.h"

struct nib_safetensors {
    nib_mapping       *files;
    size_t             n_files;
    int                borrowed;   /* files[0].data is the caller's memory, not a mapping */
    nib_tensor        *tensors;    /* names are strdup'd */
    size_t             count;
    size_t             file_first; /* first tensor of the file that is being read */
    const nib_tensor **names;      /* sorted by name, for find */
    json_t            *metadata;   /* of the first file, or NULL */
};

/* With n_files empty mappings; NULL: out of memory. */
nib_safetensors *nib_safetensors_new(size_t n_files);

/* Appends the tensors of files[file]. */
nib_status nib_safetensors_read_header(nib_safetensors *st, int32_t file);

/* Makes find work; to be called once, after the last header. */
nib_status nib_safetensors_sort_names(nib_safetensors *st);

#endif
