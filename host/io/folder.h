/* folder.h: the small files of a Hugging Face folder: copied, made, or changed. */
#ifndef NIB_FOLDER_H
#define NIB_FOLDER_H

#include "host/io/output.h"
#include "host/io/plan.h"

/* Writes all small files of plan's output: configuration with its quantization section, index of
 * several files, tokenizer and the like from the source's folder or from GGUF's metadata, and for
 * a part nibble_part.json. */
nib_status nib_folder_finish(const nib_model *model, const nib_checkpoint_options *options,
                             const nib_plan *plan, nib_output *out);

/* Copies the files of folder that are neither weights nor an index nor named in skip (NULL ends
 * the list): tokenizer, chat template, generation config, licence, readme. */
nib_status nib_folder_copy(const char *folder, const char *const *skip, nib_output *out);

/* 1 if nib_folder_copy takes a file of that name. */
int nib_folder_copies(const char *name);

/* model.safetensors.index.json: weight_map is a new reference that this takes. */
nib_status nib_folder_index(nib_output *out, uint64_t total_bytes, json_t *weight_map);

/* Writes json as a file and drops the reference. */
nib_status nib_folder_json(nib_output *out, const char *name, json_t *json);

#endif
