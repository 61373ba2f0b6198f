/* safetensors.h: reading and laying out safetensors files (huggingface/safetensors, "Format").
 *
 *   u64 little-endian n | n bytes of JSON | data
 *   JSON: {"__metadata__": {string: string}, name: {"dtype", "shape", "data_offsets": [b, e]}}
 *
 * Held on reading: 2 <= n <= 100 MB and within the file; JSON an object that starts at once,
 * without duplicate keys; names not empty and without control characters; a dtype of safetensors
 * 0.7 (of those that nibble does not compute with, F4 say, bytes are all it knows); shape of
 * at most NIB_TENSOR_DIMS non-negative integers whose size is e - b; the ranges tile the data
 * without hole or overlap to the end of the file. Any breach: NIB_ERR_FORMAT with file, tensor
 * and numbers. Other members of a tensor are ignored, as the reference reader does.
 */
#ifndef NIB_SAFETENSORS_H
#define NIB_SAFETENSORS_H

#include "host/io/tensor_file.h"

/* The reference reader's limit of n (safetensors/src/tensor.rs, MAX_HEADER_SIZE). */
#define NIB_SAFETENSORS_HEADER_MAX 100000000u

/* One file or the shards of an index. */
typedef struct nib_safetensors nib_safetensors;

/* path: a .safetensors file; an index (its name ends in .json); or a folder that holds
 * model.safetensors.index.json, or model.safetensors, or exactly one .safetensors file
 * (hidden ones not counted).
 * An index may name .safetensors files of its own folder only (no '/', no "..":
 * NIB_ERR_FORMAT); every tensor of its weight_map must be in the file it names and in no other,
 * and no file may hold tensors that it does not name. Symbolic links are followed: the Hugging
 * Face cache is made of them. On failure *out is NULL. */
nib_status nib_safetensors_open(const char *path, nib_safetensors **out);
void       nib_safetensors_close(nib_safetensors *st);

/* In order of file, then offset. Files are in order of their names. */
const nib_tensor *nib_safetensors_tensors(const nib_safetensors *st, size_t *count);
const nib_tensor *nib_safetensors_find(const nib_safetensors *st, const char *name);
size_t            nib_safetensors_files(const nib_safetensors *st);
const char       *nib_safetensors_path(const nib_safetensors *st, size_t file);
/* Value of a key of the first file's __metadata__, or NULL. */
const char       *nib_safetensors_metadata(const nib_safetensors *st, const char *key);

/* Parses a file that is in memory and outlives the result; what the fuzzer calls. path: what
 * errors call it. */
nib_status nib_safetensors_parse(const char *path, const uint8_t *data, uint64_t bytes,
                                 nib_safetensors **out);

/* Lays out a file whose tensors lie in the order of specs, without holes, as the format demands.
 * The header is padded with spaces so that the data start at a multiple of 64 in the file;
 * "format": "pt" goes into __metadata__, which transformers asks for. count may be 0.
 *
 * Alignment is the caller's: order specs by element size, largest first (8, 4, 2, 1), and every
 * tensor is aligned to its element; PyTorch's reader refuses a tensor that is not.
 *
 * Returns NIB_ERR_ARGUMENT for a name that is empty, twice there, "__metadata__", not UTF-8 or
 * has control characters; NIB_ERR_SHAPE for a shape that nib_tensor_spec_bytes refuses or a file
 * over INT64_MAX bytes; NIB_ERR_UNSUPPORTED for a type that safetensors lacks or a header over
 * NIB_SAFETENSORS_HEADER_MAX. On failure *layout is empty. */
nib_status nib_safetensors_layout(const nib_tensor_spec *specs, size_t count,
                                  nib_file_layout *layout);

#endif
