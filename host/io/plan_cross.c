/* plan_cross.c: what crosses between Hugging Face and GGUF before tensors are planned:
 * configuration, tokenizer, the order of rows, and the one tensor that is configuration. */
#include <stdlib.h>
#include <string.h>

#include "host/io/plan.h"

/* Llama 3's rope scaling: numbers in config.json, a tensor in GGUF. */
static nib_status add_rope_freqs(nib_plan *plan, nib_rope_freqs *freqs)
{
    if (!freqs->data) return NIB_OK;
    plan->made_data = freqs->data;
    plan->made_tensor = (nib_tensor){
        .name = "rope_freqs.weight", .type = NIB_TT_F32, .n_dims = 1, .dims = { freqs->count },
        .data = (const uint8_t *)freqs->data, .bytes = (uint64_t)freqs->count * 4 };
    plan->made = (nib_logical){
        .name = (char *)(uintptr_t)plan->made_tensor.name, .tensor = &plan->made_tensor,
        .storage = NIB_STORAGE_PLAIN, .tensor_scale = 1.0f, .n_dims = 1,
        .dims = { freqs->count }, .rows = freqs->count, .cols = 1, .gguf_only = 1,
        .bytes = plan->made_tensor.bytes };
    return NIB_OK;
}

static nib_status to_gguf(const nib_model *model, nib_plan *plan)
{
    plan->meta = nib_gguf_meta_new();
    NIB_REQUIRE(plan->meta, NIB_ERR_OUT_OF_MEMORY, "no memory for metadata");
    if (model->is_gguf) {
        size_t n;
        const nib_gguf_pair *pairs = nib_gguf_pairs(model->gguf, &n);
        for (size_t i = 0; i < n; i++) NIB_TRY(nib_gguf_set_pair(plan->meta, &pairs[i]));
        plan->heads = model->heads;
        return NIB_OK;
    }
    NIB_REQUIRE(model->folder, NIB_ERR_UNSUPPORTED,
                "%s: GGUF needs the model's folder with config.json and its tokenizer",
                model->path);
    nib_rope_freqs freqs;
    NIB_TRY(nib_gguf_meta_from_hf(model->folder, plan->meta, &plan->heads, &freqs));
    return add_rope_freqs(plan, &freqs);
}

nib_status nib_plan_cross(const nib_model *model, const nib_checkpoint_options *o, nib_plan *plan)
{
    static const char *const dtypes[] = { "float32", "float16", "bfloat16" };
    if (!plan->target->is_folder) return to_gguf(model, plan);
    if (!model->is_gguf) return NIB_OK;
    nib_gguf_heads heads;
    return nib_hf_files_from_gguf(model->gguf, dtypes[o->keep_dtype], &plan->texts, &heads);
}

/* Metadata that depends on what was planned. */
static nib_status finish_meta(const nib_checkpoint_options *o, nib_plan *plan)
{
    if (plan->n_quantized) { /* llama.cpp's numbers for a file that is mostly of one type */
        size_t nvfp4 = 0;
        for (size_t i = 0; i < plan->n_items; i++)
            nvfp4 += plan->items[i].quantize && plan->items[i].way.format == NIB_NVFP4;
        const uint32_t type = 2 * nvfp4 >= plan->n_quantized ? 39 : 38;
        NIB_TRY(nib_gguf_set_u32(plan->meta, "general.file_type", type));
        NIB_TRY(nib_gguf_set_u32(plan->meta, "general.quantization_version", 2));
    }
    if (o->gptq && o->gptq->rotate) {
        const char *needs = NIB_ROTATION_NEEDS;
        NIB_TRY(nib_gguf_set_u32(plan->meta, NIB_ROTATION_KEY, (uint32_t)o->gptq->rotate));
        NIB_TRY(nib_gguf_set_str(plan->meta, NIB_ROTATION_KEY ".needs", needs, strlen(needs)));
    }
    if (!o->shards) return NIB_OK;
    NIB_TRY(nib_gguf_set_u32(plan->meta, NIB_PART_SHARD, (uint32_t)o->shard));
    NIB_TRY(nib_gguf_set_u32(plan->meta, NIB_PART_SHARDS, (uint32_t)o->shards));
    return nib_gguf_set_str(plan->meta, NIB_PART_RUN, plan->run, strlen(plan->run));
}

nib_status nib_plan_cross_items(const nib_checkpoint_options *o, nib_plan *plan)
{
    if (plan->target->is_folder) return NIB_OK;
    for (size_t i = 0; i < plan->n_items; i++) {
        nib_plan_item *item = &plan->items[i];
        item->order.to_gguf_heads = nib_permuted_heads(&plan->heads, item->src->name);
        const int64_t unit = 2 * (int64_t)item->order.to_gguf_heads;
        NIB_REQUIRE(!unit || item->src->rows % unit == 0, NIB_ERR_FORMAT,
                    "%s: %lld rows do not divide among %d heads", item->src->name,
                    (long long)item->src->rows, item->order.to_gguf_heads);
    }
    return finish_meta(o, plan);
}
