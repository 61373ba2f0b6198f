/* plan_files.c: the output's tensors, spread over files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/plan.h"

static nib_tensor_type plain_type(nib_dtype dtype)
{
    switch (dtype) {
    case NIB_F32: return NIB_TT_F32;
    case NIB_F16: return NIB_TT_F16;
    case NIB_BF16: break;
    }
    return NIB_TT_BF16;
}

/* Kept tensors keep their type where the target has it. */
static nib_status kept_type(const nib_plan *plan, const nib_checkpoint_options *o,
                            const nib_logical *t, nib_tensor_type *type)
{
    if (t->storage != NIB_STORAGE_PLAIN)
        return nib_fail(NIB_ERR_UNSUPPORTED,
                        "%s: is quantized in the source; nibble does not copy such tensors",
                        t->name);
    const nib_tensor_type_info *info = nib_tensor_type_get(t->tensor->type);
    *type = t->tensor->type;
    /* llama.cpp's converter (convert_hf_to_gguf.py: n_dims <= 1) writes all norms and biases as
     * F32, and some of its backends take nothing else there. Widening is exact. */
    if (!plan->target->is_folder && t->n_dims <= 1
        && (*type == NIB_TT_F16 || *type == NIB_TT_BF16)) {
        *type = NIB_TT_F32;
        return NIB_OK;
    }
    if (plan->target->is_folder ? info->in_safetensors : info->ggml >= 0) return NIB_OK;
    NIB_REQUIRE(info->decodable, NIB_ERR_UNSUPPORTED, "%s: %s cannot hold type %s", t->name,
                plan->target->name, info->name);
    *type = plain_type(o->keep_dtype);
    return NIB_OK;
}

static nib_status kept_spec(const nib_plan *plan, const nib_plan_item *item,
                            nib_tensor_spec *spec)
{
    char name[256];
    const nib_logical *t = item->src;
    if (plan->target->is_folder || nib_name_hf_to_gguf(t->name, name, sizeof name) != NIB_OK) {
        /* A name that GGUF alone knows ("rope_freqs.weight") passes through to GGUF. */
        const int known = plan->target->is_folder || !strcmp(t->name, t->tensor->name);
        NIB_REQUIRE(known, NIB_ERR_UNSUPPORTED, "%s: has no name in GGUF", t->name);
        snprintf(name, sizeof name, "%s", t->name);
    }
    *spec = (nib_tensor_spec){ .name = strdup(name), .type = item->stored, .n_dims = t->n_dims };
    memcpy(spec->dims, t->dims, sizeof t->dims);
    NIB_REQUIRE(spec->name, NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
    return NIB_OK;
}

static nib_status add_outs(const nib_checkpoint_options *o, nib_plan *plan, nib_plan_item *item)
{
    const nib_logical *t = item->src;
    nib_tensor_spec specs[NIB_ROLES];
    int roles[NIB_ROLES] = { NIB_ROLE_CODES }, n = 1;
    if (item->quantize) {
        const nib_tensor_type own = t->tensor->type;
        const int plain = own == NIB_TT_F32 || own == NIB_TT_F16 || own == NIB_TT_BF16;
        item->stored = plain ? own : plain_type(o->keep_dtype);
        NIB_TRY(plan->target->specs(item->way.format, item->stored, t, specs, roles, &n));
    } else {
        NIB_TRY(kept_type(plan, o, t, &item->stored));
        NIB_TRY(kept_spec(plan, item, &specs[0]));
    }
    for (int i = 0; i < n; i++) {
        item->out[roles[i]] = (int64_t)plan->n_outs;
        plan->outs[plan->n_outs++].spec = specs[i];
    }
    return NIB_OK;
}

/* ---- files ---- */

nib_status nib_plan_layout(nib_plan *plan, const nib_gguf_meta *meta, nib_out_file *file)
{
    nib_tensor_spec *specs = calloc(file->n_outs ? file->n_outs : 1, sizeof *specs);
    NIB_REQUIRE(specs, NIB_ERR_OUT_OF_MEMORY, "no memory for %zu tensors", file->n_outs);
    for (size_t i = 0; i < file->n_outs; i++) specs[i] = plan->outs[file->outs[i]].spec;
    const nib_status status = meta ? nib_gguf_layout(meta, specs, file->n_outs, &file->layout)
                                   : nib_safetensors_layout(specs, file->n_outs, &file->layout);
    free(specs);
    NIB_TRY(status);
    for (size_t i = 0; i < file->n_outs; i++)
        plan->outs[file->outs[i]].offset = file->layout.offsets[i];
    return NIB_OK;
}

static int32_t alignment(const nib_out_tensor *out)
{
    const nib_tensor_type_info *info = nib_tensor_type_get(out->spec.type);
    return info->block == 1 ? info->block_bytes : 1;
}

/* safetensors allows no holes: wider types first keeps every tensor aligned. */
static void sort_by_alignment(const nib_plan *plan, nib_out_file *file)
{
    size_t *sorted = file->outs + file->n_outs, n = 0; /* second half of the array: scratch */
    for (int32_t bytes = 8; bytes >= 1; bytes /= 2)
        for (size_t i = 0; i < file->n_outs; i++)
            if (alignment(&plan->outs[file->outs[i]]) == bytes) sorted[n++] = file->outs[i];
    memcpy(file->outs, sorted, n * sizeof *sorted);
}

static uint64_t item_bytes(const nib_plan *plan, const nib_plan_item *item)
{
    uint64_t bytes = 0;
    for (int r = 0; r < NIB_ROLES; r++)
        if (item->out[r] >= 0)
            bytes += (uint64_t)nib_tensor_spec_bytes(&plan->outs[item->out[r]].spec);
    return bytes;
}

/* Gives each file the list of its tensors, in the order of the plan. */
static nib_status list_outs(nib_plan *plan)
{
    for (size_t i = 0; i < plan->n_outs; i++) plan->files[plan->outs[i].file].n_outs++;
    for (size_t i = 0; i < plan->n_files; i++) {
        nib_out_file *file = &plan->files[i];
        file->outs = calloc(2 * file->n_outs + 1, sizeof *file->outs);
        NIB_REQUIRE(file->outs, NIB_ERR_OUT_OF_MEMORY, "no memory for a file's tensors");
        file->n_outs = 0;
        if (plan->n_files == 1) snprintf(file->name, sizeof file->name, "model.safetensors");
        else snprintf(file->name, sizeof file->name, "model-%05zu-of-%05zu.safetensors", i + 1,
                      plan->n_files);
    }
    for (size_t i = 0; i < plan->n_outs; i++) {
        nib_out_file *file = &plan->files[plan->outs[i].file];
        file->outs[file->n_outs++] = i;
    }
    return NIB_OK;
}

/* Items go into files in order; a file that would grow over the limit is closed first. */
static nib_status spread(const nib_checkpoint_options *o, nib_plan *plan)
{
    const uint64_t limit = !plan->target->is_folder ? UINT64_MAX
                         : o->max_file_bytes        ? o->max_file_bytes : 5000000000u;
    uint64_t used = 0;
    plan->n_files = 1;
    for (size_t i = 0; i < plan->n_order; i++) {
        const nib_plan_item *item = &plan->items[plan->order[i]];
        const uint64_t bytes = item_bytes(plan, item);
        if (used > 0 && (bytes > limit || used > limit - bytes)) {
            plan->n_files++;
            used = 0;
        }
        for (int r = 0; r < NIB_ROLES; r++)
            if (item->out[r] >= 0) plan->outs[item->out[r]].file = (int32_t)plan->n_files - 1;
        used += bytes;
    }
    return list_outs(plan);
}

nib_status nib_plan_files(const nib_checkpoint_options *o, nib_plan *plan)
{
    plan->outs = calloc(plan->n_order * NIB_ROLES + 1, sizeof *plan->outs);
    plan->files = calloc(plan->n_order + 1, sizeof *plan->files);
    NIB_REQUIRE(plan->outs && plan->files, NIB_ERR_OUT_OF_MEMORY, "no memory for %zu tensors",
                plan->n_order);
    for (size_t i = 0; i < plan->n_order; i++)
        NIB_TRY(add_outs(o, plan, &plan->items[plan->order[i]]));
    NIB_TRY(spread(o, plan));
    for (size_t i = 0; i < plan->n_files; i++) {
        if (plan->target->is_folder) sort_by_alignment(plan, &plan->files[i]);
        NIB_TRY(nib_plan_layout(plan, plan->meta, &plan->files[i]));
    }
    return NIB_OK;
}
