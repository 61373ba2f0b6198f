/* model.h: a model as logical tensors under Hugging Face names, wherever it came from.
 *
 * A logical tensor is a matrix of rows x cols (leading dims folded into rows) with a way to read
 * rows as f32, in the row order of Hugging Face. Behind it: a plain array, ggml blocks, or codes
 * and scales of a quantized checkpoint.
 */
#ifndef NIB_MODEL_H
#define NIB_MODEL_H

#include <jansson.h>

#include "host/internal.h"
#include "host/io/hf_gguf.h"
#include "host/io/safetensors.h"
#include "nibble/int_format.h"

typedef enum nib_storage {
    NIB_STORAGE_PLAIN,  /* any type of the file, ggml blocks included */
    NIB_STORAGE_PACKED, /* weight + scales: ModelOpt or compressed-tensors */
    NIB_STORAGE_INTEGERS /* weight_packed + steps: compressed-tensors' pack-quantized */
} nib_storage;

typedef struct nib_logical {
    char             *name;      /* Hugging Face name, "....weight" */
    const nib_tensor *tensor;    /* values, or codes */
    nib_storage       storage;
    const nib_tensor *scales;    /* PACKED; steps of INTEGERS */
    const nib_tensor *zeros;     /* asymmetric INTEGERS; else NULL */
    nib_format        format;    /* PACKED; of ggml's MXFP4 and NVFP4; of INTEGERS, int_format.h */
    float             tensor_scale; /* multiplier; 1 without one */
    int32_t           n_dims;    /* logical, codes unpacked */
    int64_t           dims[NIB_TENSOR_DIMS];
    int64_t           rows, cols;
    int32_t           gguf_only;  /* 1: a GGUF tensor that has no name in Hugging Face */
    int32_t           gguf_heads; /* > 0: tensor holds GGUF's row order for so many heads */
    uint64_t          bytes;     /* of everything that is stored for it */
} nib_logical;

typedef struct nib_model {
    char            *path;
    int              is_gguf;
    nib_safetensors *st;
    nib_gguf        *gguf;
    char            *gguf_path;  /* of the file itself */
    nib_gguf_heads   heads;      /* of GGUF, or as a GGUF of it would have; zeros: unknown */
    char            *folder;     /* with config.json; NULL for a bare safetensors file */
    json_t          *config;     /* config.json, or NULL */
    json_t          *named;      /* by module: "weights" of the config group that names it */
    const char      *quant;      /* NULL, "modelopt", "compressed-tensors" or another method */
    nib_logical     *tensors;    /* in the source's order */
    size_t           count;
} nib_model;

/* model_integers.c: what belongs to a weight_packed of integers. zeros or g_idx NULL: none. */
typedef struct nib_integer_parts {
    const nib_tensor *words, *steps, *shape, *zeros, *g_idx;
} nib_integer_parts;
/* Makes nib_model's named of a config.json, or NULL. */
nib_status nib_integers_named(const json_t *config, json_t **named);
/* Fills in all of *l but its name, which is there. */
nib_status nib_integers_logical(const nib_model *model, const nib_integer_parts *parts,
                                nib_logical *l);
/* Row row of the file as f32. scratch: nib_integers_scratch bytes, aligned to 4. */
size_t     nib_integers_scratch(const nib_logical *t);
nib_status nib_integers_read(const nib_exec *exec, const nib_logical *t, int64_t row,
                             uint8_t *scratch, float *dst);

/* *whole = the name, malloc'd, of the weight whose codes or other part a tensor of this name would
 * be in a folder where that weight is quantized, into integers if of_integers; NULL: of none. */
nib_status nib_part_name(const char *name, char **whole, int *of_integers);

nib_status nib_model_open(const char *path, nib_model **out);
void       nib_model_close(nib_model *model);

/* dtype of the rows without decoding when they can be used in place, in HF order: F32, F16 or
 * BF16, aligned. Returns NULL if they must be read. */
const void *nib_logical_in_place(const nib_logical *t, nib_dtype *dtype);

/* 1 if nib_logical_read can make f32 of it. */
int nib_logical_decodable(const nib_logical *t);

/* The order in which rows are wanted: Hugging Face's (0), or GGUF's for so many heads. */
typedef struct nib_row_order {
    int32_t to_gguf_heads;
} nib_row_order;

/* Rows first..first+n-1 of that order, as f32. dst: n x cols. exec: a CPU device. */
nib_status nib_logical_read(const nib_exec *exec, const nib_logical *t, nib_row_order order,
                            int64_t first, int64_t n, float *dst);

/* The file's own row that holds row i of the wanted order. */
int64_t nib_logical_row(const nib_logical *t, nib_row_order order, int64_t i);

/* Tells the system that rows first..first+n-1 of the file are done with. */
void nib_logical_release(const nib_logical *t, int64_t first, int64_t n);

#endif
