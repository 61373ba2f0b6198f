/* target.c: the three exports: tensor names and shapes, and the sections that loaders read. */
#include "host/io/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/select.h"
#include "nibble/version.h"

static nib_rules_preset preset_modelopt(nib_format format)
{
    (void)format;
    return NIB_RULES_MODELOPT;
}

static nib_rules_preset preset_compressed_tensors(nib_format format)
{
    (void)format;
    return NIB_RULES_COMPRESSED_TENSORS;
}

static nib_rules_preset preset_gguf(nib_format format)
{
    return format == NIB_MXFP4 ? NIB_RULES_GGUF : NIB_RULES_TE;
}

/* Why the target cannot hold t, or NIB_OK. unit: what K must be a multiple of. */
static nib_status check_format(const char *target, nib_format format, int mx_too, int64_t unit,
                               const nib_logical *t)
{
    char name[48];
    NIB_TRY(nib_weight_format_name(format, name, sizeof name));
    NIB_REQUIRE(format == NIB_NVFP4 || (mx_too && format == NIB_MXFP4), NIB_ERR_UNSUPPORTED,
                "%s cannot hold %s: its loaders know %s only%s", target, name,
                mx_too ? "nvfp4 and mxfp4" : "nvfp4 (block 16)",
                !strcmp(target, "compressed-tensors") ? ", int4 and int8" : "");
    if (!t) return NIB_OK;
    NIB_REQUIRE(t->n_dims == 2 || t->n_dims == 3, NIB_ERR_UNSUPPORTED,
                "%s: %d dimensions; only matrices can be quantized", t->name, t->n_dims);
    NIB_REQUIRE(t->cols % unit == 0 && t->cols > 0, NIB_ERR_UNSUPPORTED,
                "%s: %lld columns; %s in %s needs a multiple of %lld (exclude the tensor to keep "
                "it as it is)", t->name, (long long)t->cols, name, target, (long long)unit);
    return NIB_OK;
}

/* Their configurations are of linear layers: an embedding's codes would be unknown tensors, and
 * transformers make up a new embedding for one whose weight is missing. */
static nib_status check_linear(const char *target, const nib_logical *t)
{
    NIB_REQUIRE(!t || !nib_is_embedding(t->name), NIB_ERR_UNSUPPORTED,
                "%s: is an embedding; loaders of %s know quantized linear layers only (exclude the "
                "tensor to keep it as it is)", t->name, target);
    return NIB_OK;
}

static nib_status check_modelopt(nib_format format, const nib_logical *t)
{
    NIB_TRY(check_format("modelopt", format, 0, 16, t));
    return check_linear("modelopt", t);
}

static nib_status check_compressed_tensors(nib_format format, const nib_logical *t)
{
    NIB_TRY(nib_int_format_is_valid(format)
                ? nib_integers_check(format, t)
                : check_format("compressed-tensors", format, 1, nib_format_block(format), t));
    return check_linear("compressed-tensors", t);
}

static nib_status check_gguf(nib_format format, const nib_logical *t)
{
    return check_format("gguf", format, 1, format == NIB_NVFP4 ? 64 : 32, t);
}

nib_status nib_target_spec(const nib_logical *t, const char *tail, nib_tensor_type type,
                           int64_t last, int role, nib_tensor_spec *specs, int *roles, int *n)
{
    const size_t length = strlen(t->name);
    const int weight = length > 7 && !strcmp(t->name + length - 7, ".weight");
    const char *mark = weight ? "." : strcmp(tail, ".weight") ? "_" : "";
    char *name = NULL;
    NIB_REQUIRE(asprintf(&name, "%.*s%s%s", (int)(weight ? length - 7 : length), t->name, mark,
                         *mark ? tail + 1 : "") >= 0,
                NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
    nib_tensor_spec *s = &specs[*n];
    *s = (nib_tensor_spec){ .name = name, .type = type, .n_dims = t->n_dims };
    for (int i = 0; i < t->n_dims; i++) s->dims[i] = i + 1 < t->n_dims ? t->dims[i] : last;
    roles[(*n)++] = role;
    return NIB_OK;
}

static nib_status specs_modelopt(nib_format format, nib_tensor_type plain, const nib_logical *t,
                                 nib_tensor_spec *specs, int *roles, int *n)
{
    (void)plain;
    *n = 0;
    NIB_TRY(nib_target_spec(t, ".weight", NIB_TT_U8, t->cols / 2, NIB_ROLE_CODES, specs, roles, n));
    NIB_TRY(nib_target_spec(t, ".weight_scale", NIB_TT_F8_E4M3, nib_scales_per_row(format, t->cols),
                            NIB_ROLE_SCALES, specs, roles, n));
    NIB_TRY(nib_target_spec(t, ".weight_scale_2", NIB_TT_F32, 1, NIB_ROLE_TENSOR_SCALE, specs,
                            roles, n));
    specs[2].n_dims = 0;
    return NIB_OK;
}

static nib_status specs_compressed_tensors(nib_format format, nib_tensor_type plain,
                                           const nib_logical *t, nib_tensor_spec *specs,
                                           int *roles, int *n)
{
    if (nib_int_format_is_valid(format))
        return nib_integers_specs(format, plain, t, specs, roles, n);
    const int nvfp4 = format == NIB_NVFP4;
    *n = 0;
    NIB_TRY(nib_target_spec(t, ".weight_packed", NIB_TT_U8, t->cols / 2, NIB_ROLE_CODES, specs,
                            roles, n));
    NIB_TRY(nib_target_spec(t, ".weight_scale", nvfp4 ? NIB_TT_F8_E4M3 : NIB_TT_U8,
                            nib_scales_per_row(format, t->cols), NIB_ROLE_SCALES, specs, roles,
                            n));
    if (!nvfp4) return NIB_OK;
    NIB_TRY(nib_target_spec(t, ".weight_global_scale", NIB_TT_F32, 1, NIB_ROLE_TENSOR_SCALE, specs,
                            roles, n));
    specs[2].n_dims = 1;
    specs[2].dims[0] = 1;
    return NIB_OK;
}

static nib_status specs_gguf(nib_format format, nib_tensor_type plain, const nib_logical *t,
                             nib_tensor_spec *specs, int *roles, int *n)
{
    char name[128];
    (void)plain;
    *n = 0;
    NIB_TRY(nib_name_hf_to_gguf(t->name, name, sizeof name));
    specs[0] = (nib_tensor_spec){
        .name = strdup(name), .type = format == NIB_NVFP4 ? NIB_TT_NVFP4 : NIB_TT_MXFP4,
        .n_dims = t->n_dims };
    memcpy(specs[0].dims, t->dims, sizeof t->dims);
    roles[(*n)++] = NIB_ROLE_CODES;
    NIB_REQUIRE(specs[0].name, NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
    if (format != NIB_NVFP4) return NIB_OK;

    char *side = NULL; /* "blk.0.attn_q.scale", as llama.cpp names it */
    const size_t length = strlen(name);
    const int weight = length > 7 && !strcmp(name + length - 7, ".weight");
    NIB_REQUIRE(asprintf(&side, "%.*s.scale", (int)(weight ? length - 7 : length), name) >= 0,
                NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
    specs[1] = (nib_tensor_spec){ .name = side, .type = NIB_TT_F32, .n_dims = 1, .dims = { 1 } };
    roles[(*n)++] = NIB_ROLE_TENSOR_SCALE;
    return NIB_OK;
}

static const nib_target targets[] = {
    { "modelopt", 1, 0, 0, preset_modelopt, check_modelopt, specs_modelopt },
    { "compressed-tensors", 1, 0, 1, preset_compressed_tensors, check_compressed_tensors,
      specs_compressed_tensors },
    { "gguf", 0, 1, 0, preset_gguf, check_gguf, specs_gguf },
};

const nib_target *nib_target_get(nib_export export_as)
{
    return (unsigned)export_as < sizeof targets / sizeof *targets ? &targets[export_as] : NULL;
}

/* ---- modules ---- */

void nib_target_modules_free(nib_target_modules *m)
{
    for (size_t i = 0; i < m->n_groups; i++) json_decref(m->groups[i].names);
    free(m->groups);
    json_decref(m->ignore);
    *m = (nib_target_modules){ 0 };
}

json_t *nib_target_names(nib_target_modules *m, nib_format format)
{
    size_t at = 0;
    while (at < m->n_groups && m->groups[at].format < format) at++;
    if (at < m->n_groups && m->groups[at].format == format) return m->groups[at].names;
    nib_target_group *more = realloc(m->groups, (m->n_groups + 1) * sizeof *more);
    if (!more) return NULL;
    m->groups = more;
    json_t *names = json_array();
    if (!names) return NULL;
    memmove(more + at + 1, more + at, (m->n_groups++ - at) * sizeof *more);
    more[at] = (nib_target_group){ format, names };
    return names;
}

/* ---- configuration sections ---- */

static nib_status packed_or_memory(json_t *json)
{
    NIB_REQUIRE(json, NIB_ERR_OUT_OF_MEMORY, "no memory for the quantization section");
    return NIB_OK;
}

/* As ModelOpt 0.47 writes for W4A16_NVFP4. kv_cache_quant_algo and exclude_modules must be
 * there: vLLM and SGLang fail without them. */
static nib_status config_modelopt(json_t *ignore, json_t **section, json_t **separate)
{
    const int group = nib_format_block(NIB_NVFP4);
    *separate = json_pack("{s:{s:s,s:s},s:{s:s,s:n,s:i,s:O}}", "producer", "name", "nibble",
                          "version", nib_version(), "quantization", "quant_algo", "W4A16_NVFP4",
                          "kv_cache_quant_algo", "group_size", group, "exclude_modules", ignore);
    NIB_TRY(packed_or_memory(*separate));
    *section = json_pack("{s:{s:{s:{s:b,s:i,s:s,s:i},s:[s]}},s:O,s:s,s:{s:s,s:s},s:s}",
                         "config_groups", "group_0", "weights", "dynamic", 0, "num_bits", 4,
                         "type", "float", "group_size", group, "targets", "Linear", "ignore",
                         ignore, "quant_algo", "W4A16_NVFP4", "producer", "name", "nibble",
                         "version", nib_version(), "quant_method", "modelopt");
    return packed_or_memory(*section);
}

static const char *format_of(nib_format format)
{
    return nib_int_format_is_valid(format) ? "pack-quantized"
         : format == NIB_NVFP4             ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized";
}

/* One of config_groups: the modules of a format; NULL without memory. names: a new reference. */
static json_t *group_of(nib_format format, int32_t act_order, json_t *names)
{
    const int nvfp4 = format == NIB_NVFP4;
    if (nib_int_format_is_valid(format)) return nib_integers_group(format, act_order, names);
    return json_pack("{s:o,s:{s:i,s:s,s:s,s:i,s:b,s:b,s:s},s:n,s:n,s:s}", "targets", names,
                     "weights", "num_bits", 4, "type", "float", "strategy",
                     nvfp4 ? "tensor_group" : "group", "group_size", nib_format_block(format),
                     "symmetric", 1, "dynamic", 0, "scale_dtype",
                     nvfp4 ? "torch.float8_e4m3fn" : "torch.uint8", "input_activations",
                     "output_activations", "format", format_of(format));
}

/* Of one format: the class of all layers. Of more: each module's name. The whole has the groups'
 * format, or is "mixed-precision" if they differ; each group has its own anyway (compressed-tensors
 * #415, vLLM #22468). */
static nib_status config_compressed_tensors(const nib_target_modules *m, json_t **section)
{
    json_t *groups = json_object();
    const char *name = m->n_groups ? format_of(m->groups[0].format) : "";
    for (size_t i = 0; i < m->n_groups && groups; i++) {
        char key[32];
        const nib_target_group *g = &m->groups[i];
        json_t *names = m->n_groups > 1 ? json_incref(g->names) : json_pack("[s]", "Linear");
        if (strcmp(name, format_of(g->format))) name = "mixed-precision";
        snprintf(key, sizeof key, "group_%zu", i);
        if (!json_object_set_new(groups, key, group_of(g->format, m->act_order, names))) continue;
        json_decref(groups);
        groups = NULL;
    }
    NIB_TRY(packed_or_memory(groups));
    *section = json_pack("{s:s,s:s,s:s,s:o,s:O,s:n}", "quant_method", "compressed-tensors",
                         "format", name, "quantization_status", "compressed", "config_groups",
                         groups, "ignore", m->ignore, "kv_cache_scheme");
    return packed_or_memory(*section);
}

nib_status nib_target_config(nib_export export_as, const nib_target_modules *modules,
                             json_t **section, json_t **separate)
{
    *section = *separate = NULL;
    switch (export_as) {
    case NIB_EXPORT_MODELOPT: return config_modelopt(modules->ignore, section, separate);
    case NIB_EXPORT_COMPRESSED_TENSORS: return config_compressed_tensors(modules, section);
    case NIB_EXPORT_GGUF: break;
    }
    return NIB_OK;
}
