/* target.h: what each export writes: names, types, configuration. */
#ifndef NIB_TARGET_H
#define NIB_TARGET_H

#include <jansson.h>

#include "host/io/model.h"
#include "nibble/checkpoint.h"
#include "nibble/int_format.h"

/* Parts of a quantized tensor in the output. */
enum { NIB_ROLE_CODES, NIB_ROLE_SCALES, NIB_ROLE_TENSOR_SCALE, NIB_ROLE_ZEROS, NIB_ROLE_SHAPE,
       NIB_ROLES };

typedef struct nib_target {
    const char      *name;       /* as --export names it */
    int              is_folder;
    int              interleaved; /* GGUF: codes and scales in one tensor of blocks */
    int              stores_encode; /* the tensor scale is stored as a divisor */
    nib_rules_preset (*preset)(nib_format format);
    /* NIB_ERR_UNSUPPORTED with the reason if the target has no such tensor. */
    nib_status       (*check)(nib_format format, const nib_logical *t);
    /* Specs of a quantized tensor; n_roles of them, roles[] says which. Names are malloc'd. plain:
     * what integers' steps are stored in. */
    nib_status       (*specs)(nib_format format, nib_tensor_type plain, const nib_logical *t,
                              nib_tensor_spec *specs, int *roles, int *n_roles);
} nib_target;

/* NULL for an unknown export. */
const nib_target *nib_target_get(nib_export export_as);

/* Names of modules: those that are quantized, by format, and linear layers that are kept. */
typedef struct nib_target_group {
    nib_format format;
    json_t    *names; /* array */
} nib_target_group;
typedef struct nib_target_modules {
    nib_target_group *groups; /* their formats rise */
    size_t            n_groups;
    json_t           *ignore; /* array */
    int32_t           act_order; /* integers are rounded by GPTQ in that order */
} nib_target_modules;
void nib_target_modules_free(nib_target_modules *modules);

/* The names of a format, a new list if it had none; NULL without memory. */
json_t *nib_target_names(nib_target_modules *modules, nib_format format);

/* Quantization section for config.json, and for ModelOpt hf_quant_config.json (else NULL), of a
 * model with some quantized module. Both results are new references. */
nib_status nib_target_config(nib_export export_as, const nib_target_modules *modules,
                             json_t **section, json_t **separate);

/* A spec named as t with its ".weight" replaced by tail; see model.c for names without it. */
nib_status nib_target_spec(const nib_logical *t, const char *tail, nib_tensor_type type,
                           int64_t last, int role, nib_tensor_spec *specs, int *roles, int *n);

/* target_integers.c: compressed-tensors' pack-quantized, for its entries of nib_target, and one of
 * its config_groups, NULL without memory; names: a new reference. */
nib_status nib_integers_check(nib_format format, const nib_logical *t);
nib_status nib_integers_specs(nib_format format, nib_tensor_type plain, const nib_logical *t,
                              nib_tensor_spec *specs, int *roles, int *n);
json_t    *nib_integers_group(nib_format format, int32_t act_order, json_t *names);

#endif
