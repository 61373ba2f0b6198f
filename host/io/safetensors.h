/* safetensors.h: reading and laying out safetensors files (huggingface/safetensors, "Format").
 *
 *   u64 little-endian n | n bytes of JSON | data
 *   JSON: {"__metadata__": {string: string}, name: {"dtype", "shape", "data_offsets": [b, e]}}
 *
 * Held on reading: 2 <= n <= 100 MB and within the file; JSON an object without duplicate keys;
 * known dtype; shape of non-negative integers whose size is e - b; the ranges tile the data
 * without hole or overlap to the end of the file. Any breach: NIB_ERR_FORMAT with file, tensor
 * and numbers.
 */
#ifndef NIB_SAFETENSORS_H
#define NIB_SAFETENSORS_H

#include "host/io/tensor_file.h"

/* One file or the shards of an index. */
typedef struct nib_safetensors nib_safetensors;

/* path: a .safetensors file; a model.safetensors.index.json; or a folder that holds
 * model.safetensors.index.json, or model.safetensors, or exactly one .safetensors file.
 * An index may name files of its own folder only (no '/', no "..": NIB_ERR_FORMAT); every
 * tensor of its weight_map must be in the file it names, and no file may hold others. */
nib_status nib_safetensors_open(const char *path, nib_safetensors **out);
void       nib_safetensors_close(nib_safetensors *st);

/* In order of file, then offset. */
const nib_tensor *nib_safetensors_tensors(const nib_safetensors *st, size_t *count);
const nib_tensor *nib_safetensors_find(const nib_safetensors *st, const char *name);
size_t            nib_safetensors_files(const nib_safetensors *st);
const char       *nib_safetensors_path(const nib_safetensors *st, size_t file);
/* Value of a key of the first file's __metadata__, or NULL. */
const char       *nib_safetensors_metadata(const nib_safetensors *st, const char *key);

/* Parses a header that is in memory; what the fuzzer calls. data: the whole file. */
nib_status nib_safetensors_parse(const char *path, const uint8_t *data, uint64_t bytes,
                                 nib_safetensors **out);

/* Lays out a file whose tensors lie in the order of specs, each starting on 8 bytes at least
 * relative to the data (the header is padded with spaces to 64 bytes so that this holds in the
 * file too); "format": "pt" goes into __metadata__, which transformers asks for. Duplicate or
 * empty names: NIB_ERR_ARGUMENT. A type that safetensors lacks: NIB_ERR_UNSUPPORTED.
 * Tensors follow each other without holes, as the format demands: order them so that sizes keep
 * the alignment, or accept less. */
nib_status nib_safetensors_layout(const nib_tensor_spec *specs, size_t count,
                                  nib_file_layout *layout);

#endif
