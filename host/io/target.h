/* target.h: what each export writes: names, types, configuration. */
#ifndef NIB_TARGET_H
#define NIB_TARGET_H

#include <jansson.h>

#include "host/io/model.h"
#include "nibble/checkpoint.h"

/* Parts of a quantized tensor in the output. */
enum { NIB_ROLE_CODES, NIB_ROLE_SCALES, NIB_ROLE_TENSOR_SCALE, NIB_ROLES };

typedef struct nib_target {
    const char      *name;       /* as --export names it */
    int              is_folder;
    int              interleaved; /* GGUF: codes and scales in one tensor of blocks */
    int              stores_encode; /* the tensor scale is stored as a divisor */
    nib_rules_preset (*preset)(nib_format format);
    /* NIB_ERR_UNSUPPORTED with the reason if the target has no such tensor. */
    nib_status       (*check)(nib_format format, const nib_logical *t);
    /* Specs of a quantized tensor; n_roles of them, roles[] says which. Names are malloc'd. */
    nib_status       (*specs)(nib_format format, const nib_logical *t, nib_tensor_spec *specs,
                              int *roles, int *n_roles);
} nib_target;

/* NULL for an unknown export. */
const nib_target *nib_target_get(nib_export export_as);

/* Names of modules: those that are quantized, by format, and linear layers that are kept. */
typedef struct nib_target_modules {
    json_t *nvfp4, *mxfp4, *ignore; /* arrays */
} nib_target_modules;

/* Quantization section for config.json, and for ModelOpt hf_quant_config.json (else NULL), of a
 * model with some quantized module. Both results are new references. */
nib_status nib_target_config(nib_export export_as, const nib_target_modules *modules,
                             json_t **section, json_t **separate);

#endif
