/* plan.c: selection, units that share a tensor scale, shards. */
#include "host/io/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/io/select.h"

enum { SAMPLE_BYTES = 4096 };

#define MIX_BEGIN 0xcbf29ce484222325u

/* FNV-1a, 64 bits (Fowler, Noll, Vo). A fingerprint, no defence against anyone. */
static uint64_t mix(uint64_t h, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* ---- which tensors ---- */

static int matches_any(const char *const *patterns, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (nib_name_matches(patterns[i], name)) return 1;
    return 0;
}

static nib_status check_patterns(const nib_model *model, const nib_checkpoint_options *o)
{
    for (size_t p = 0; p < o->n_include; p++) {
        int used = 0;
        for (size_t i = 0; i < model->count && !used; i++)
            used = model->tensors[i].n_dims >= 2
                && nib_name_matches(o->include[p], model->tensors[i].name);
        NIB_REQUIRE(used, NIB_ERR_ARGUMENT, "include pattern '%s' matches no matrix of %s",
                    o->include[p], model->path);
    }
    return NIB_OK;
}

static nib_status select_item(const nib_checkpoint_options *o, nib_plan *plan,
                              nib_plan_item *item)
{
    const nib_logical *t = item->src;
    item->way = plan->way;
    if (o->policy) NIB_TRY(nib_plan_policy_item(o, plan, item));
    const int candidate = o->policy    ? item->quantize
                        : o->n_include ? matches_any(o->include, o->n_include, t->name)
                                             && t->n_dims >= 2
                                       : nib_selected_by_default(t);
    item->quantize = candidate && !matches_any(o->exclude, o->n_exclude, t->name);
    if (!item->quantize) return NIB_OK;
    NIB_REQUIRE(nib_logical_decodable(t), NIB_ERR_UNSUPPORTED,
                "%s: stored as %s, which nibble cannot read as numbers (exclude it to copy it)",
                t->name, nib_tensor_type_get(t->tensor->type)->name);
    NIB_TRY(item->line ? nib_plan_policy_holds(o, plan, item)
                       : plan->target->check(item->way.format, t));
    NIB_REQUIRE(o->rounding == NIB_ROUND_NEAREST || !nib_int_format_is_valid(item->way.format),
                NIB_ERR_UNSUPPORTED, "%s: integers are rounded to nearest, not stochastically",
                t->name);
    return NIB_OK;
}

/* "model.layers.0.mlp.gate" of "model.layers.0.mlp.gate.weight", for the configuration's lists. */
static nib_status list_module(nib_plan *plan, const nib_plan_item *item)
{
    const char *name = item->src->name;
    if (!item->quantize && !nib_is_linear(item->src)) return NIB_OK;
    json_t *list = item->quantize ? nib_target_names(&plan->modules, item->way.format)
                                  : plan->modules.ignore;
    const size_t n = strlen(name);
    const size_t stem = n > 7 && !strcmp(name + n - 7, ".weight") ? n - 7 : n;
    if (stem == 7 && !strncmp(name, "lm_head", 7)) { /* the first of ignore, see make_items */
        if (!item->quantize) return NIB_OK;
        json_array_remove(plan->modules.ignore, 0);
    }
    NIB_REQUIRE(list && !json_array_append_new(list, json_stringn(name, stem)),
                NIB_ERR_OUT_OF_MEMORY, "no memory for a list of modules");
    return NIB_OK;
}

/* ---- units ---- */

typedef struct keyed {
    char  *key;
    size_t item;
} keyed;

static int by_key(const void *a, const void *b)
{
    const keyed *x = a, *y = b;
    const int c = strcmp(x->key, y->key);
    return c ? c : (x->item > y->item) - (x->item < y->item);
}

typedef struct span {
    size_t first, count; /* in the sorted keys */
    size_t lowest;       /* item that comes first in the source */
} span;

static int by_lowest(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return (x->lowest > y->lowest) - (x->lowest < y->lowest);
}

static uint64_t span_bytes(const nib_plan *plan, const keyed *keys, const span *s)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->count; i++) bytes += plan->items[keys[s->first + i].item].src->bytes;
    return bytes;
}

/* Units in the order of their first member; shard k of n takes those whose middle byte lies in
 * the k-th n-th of the source's bytes. */
static nib_status take_units(const nib_checkpoint_options *o, nib_plan *plan, const keyed *keys,
                             const span *spans, size_t n_spans)
{
    uint64_t total = 0, before = 0;
    for (size_t i = 0; i < n_spans; i++) total += span_bytes(plan, keys, &spans[i]);
    const unsigned shards = o->shards ? (unsigned)o->shards : 1;
    const unsigned shard = o->shards ? (unsigned)o->shard - 1 : 0;

    for (size_t i = 0; i < n_spans; i++) {
        const uint64_t bytes = span_bytes(plan, keys, &spans[i]);
        const double middle = (double)before + (double)bytes / 2;
        before += bytes;
        const unsigned owner = total ? (unsigned)(middle / (double)total * shards) : 0;
        if ((owner < shards ? owner : shards - 1) != shard) continue;
        plan->units[plan->n_units++] = (nib_plan_unit){ plan->n_order, spans[i].count };
        for (size_t j = 0; j < spans[i].count; j++)
            plan->order[plan->n_order++] = keys[spans[i].first + j].item;
        plan->source_bytes += bytes;
    }
    return NIB_OK;
}

/* Of what shares a tensor scale. Folders' loaders join what has one key, see make_units; elsewhere
 * only what is quantized in one way shares it. */
static void unit_key(const nib_plan *plan, const nib_plan_item *item, char *text, size_t bytes)
{
    char group[480];
    nib_scale_group(item->src->name, group, sizeof group);
    const int apart = item->line && !plan->target->is_folder;
    snprintf(text, bytes, apart ? "%s %016llx" : "%s", group,
             (unsigned long long)mix(MIX_BEGIN, &item->way, sizeof item->way));
}

static nib_status make_units(const nib_checkpoint_options *o, nib_plan *plan)
{
    const size_t n = plan->n_items, room = n ? n : 1;
    keyed *keys = calloc(room, sizeof *keys);
    span *spans = calloc(room, sizeof *spans);
    plan->order = calloc(room, sizeof *plan->order);
    plan->units = calloc(room, sizeof *plan->units);
    nib_status status = keys && spans && plan->order && plan->units
                          ? NIB_OK
                          : nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n && status == NIB_OK; i++) {
        char text[512];
        const char *name = plan->items[i].src->name;
        if (plan->items[i].quantize) unit_key(plan, &plan->items[i], text, sizeof text);
        else snprintf(text, sizeof text, "%s", name);
        keys[i] = (keyed){ strdup(text), i };
        if (!keys[i].key) status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for a name");
    }
    if (status == NIB_OK) {
        qsort(keys, n, sizeof *keys, by_key);
        size_t n_spans = 0;
        for (size_t i = 0; i < n; i++) {
            if (n_spans && !strcmp(keys[i].key, keys[i - 1].key)) {
                spans[n_spans - 1].count++;
                const nib_plan_item *a = &plan->items[keys[i - 1].item];
                const nib_plan_item *b = &plan->items[keys[i].item];
                if (status == NIB_OK && memcmp(&a->way, &b->way, sizeof a->way))
                    status = nib_plan_policy_unlike(plan, a, b);
                continue;
            }
            spans[n_spans++] = (span){ i, 1, keys[i].item };
        }
        qsort(spans, n_spans, sizeof *spans, by_lowest);
        if (status == NIB_OK) status = take_units(o, plan, keys, spans, n_spans);
    }
    for (size_t i = 0; keys && i < n; i++) free(keys[i].key);
    free(keys);
    free(spans);
    return status;
}

/* ---- the whole ---- */

static uint64_t mix_file(uint64_t h, const char *path, int with_times)
{
    struct stat st;
    if (stat(path, &st)) return h;
    h = mix(h, &st.st_size, sizeof st.st_size);
    if (!with_times) return h;
    h = mix(h, &st.st_mtim.tv_sec, sizeof st.st_mtim.tv_sec);
    return mix(h, &st.st_mtim.tv_nsec, sizeof st.st_mtim.tv_nsec);
}

static uint64_t mix_safetensors(uint64_t h, const nib_safetensors *st, int with_times)
{
    for (size_t i = 0; i < nib_safetensors_files(st); i++)
        h = mix_file(h, nib_safetensors_path(st, i), with_times);
    return h;
}

/* Size and, for a restart, time of last change of the files that are read. Parts may be made from
 * copies on several machines, whose times differ. */
static uint64_t mix_files(uint64_t h, const nib_model *model, const nib_plan *plan,
                          int with_times)
{
    h = model->is_gguf ? mix_file(h, model->gguf_path, with_times)
                       : mix_safetensors(h, model->st, with_times);
    for (size_t i = 0; i < plan->hessians.count; i++)
        h = mix_safetensors(h, plan->hessians.files[i], with_times);
    return h;
}

/* Some bytes of a tensor, which tell files of one shape apart. */
static uint64_t mix_sample(uint64_t h, const nib_tensor *t)
{
    return mix(h, t->data, t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES);
}

/* Of each file's weights, and each Hessian. */
static uint64_t mix_weights(uint64_t h, const nib_plan *plan)
{
    int32_t file = -1;
    for (size_t i = 0; i < plan->n_items; i++) {
        const nib_tensor *t = plan->items[i].src->tensor;
        if (plan->items[i].hessian.tensor) h = mix_sample(h, plan->items[i].hessian.tensor);
        if (t->file == file || !t->bytes) continue;
        file = t->file;
        h = mix_sample(h, t);
    }
    return h;
}

/* "gptq=..." with all that decides its bytes but the Hessians; "" without it. */
static void gptq_text(const nib_checkpoint_gptq *g, char *text, size_t bytes)
{
    static const char *const orders[] = { "natural", "act", "group-aware" };
    static const char *const scales[] = { "frozen", "fresh", "hessian", "hessian-fresh",
                                          "hessian-full", "by-format" };
    const nib_gptq_factor_options none = { .size = sizeof none };
    const nib_gptq_factor_options *f = g && g->factor ? g->factor : &none;
    text[0] = '\0';
    if (g)
        snprintf(text, bytes, "gptq=%s order=%s scales=%s damping=%.17g..%.17g guard=%s real=f%d "
                 "rotate=%d ", g->inputs ? "inputs" : "hessians", orders[f->order],
                 scales[g->scales], f->damping, f->most_damping, g->without_guard ? "off" : "on",
                 g->real_bits, g->rotate);
}

/* "format=..." and the scale choice of all; by a policy "policy=..." of all that its lines say. */
static void way_text(const nib_policy *policy, const nib_plan_way *way, char *text, size_t bytes)
{
    uint64_t h = MIX_BEGIN;
    char format[64];
    if (nib_weight_format_name(way->format, format, sizeof format) != NIB_OK) format[0] = '\0';
    snprintf(text, bytes, "format=%s scale_choice=%s ", format,
             nib_scale_choice_name(way->scale_choice));
    for (int32_t i = 0; i < nib_policy_count(policy); i++) {
        nib_policy_line line = { .size = sizeof line };
        if (nib_policy_get(policy, i, &line) != NIB_OK) continue;
        h = mix(h, line.pattern, strlen(line.pattern) + 1);
        h = mix(h, &line.format, sizeof line.format);
        h = mix(h, &line.scale_choice, sizeof line.scale_choice);
        h = mix(h, &line.rules, sizeof line.rules);
        h = mix(h, &line.has_rules, sizeof line.has_rules);
        snprintf(text, bytes, "policy=%016llx ", (unsigned long long)h);
    }
}

static void make_fingerprint(const nib_model *model, const nib_checkpoint_options *o,
                             nib_plan *plan)
{
    char gptq[176], way[112];
    uint64_t h = mix_files(MIX_BEGIN, model, plan, 0);
    for (size_t i = 0; i < plan->n_items; i++) {
        const nib_plan_item *item = &plan->items[i];
        h = mix(h, item->src->name, strlen(item->src->name) + 1);
        h = mix(h, item->src->dims, sizeof item->src->dims);
        h = mix(h, &item->src->tensor->type, sizeof item->src->tensor->type);
        h = mix(h, &item->src->tensor->offset, sizeof item->src->tensor->offset);
        h = mix(h, &item->quantize, sizeof item->quantize);
        if (item->hessian.tensor)
            h = mix(h, item->hessian.tensor->name, strlen(item->hessian.tensor->name) + 1);
    }
    if (!o->dry_run) h = mix_weights(h, plan);
    h = mix(h, &plan->way.rules, sizeof plan->way.rules);
    h = mix(h, &o->seed, sizeof o->seed);
    h = mix(h, &o->keep_dtype, sizeof o->keep_dtype);
    h = mix(h, &o->max_file_bytes, sizeof o->max_file_bytes);
    gptq_text(o->gptq, gptq, sizeof gptq);
    way_text(o->policy, &plan->way, way, sizeof way);
    snprintf(plan->run, sizeof plan->run,
             "export=%s %srounding=%s nonfinite=%s %ssource_and_options=%016llx",
             plan->target->name, way,
             o->rounding == NIB_ROUND_STOCHASTIC ? "stochastic" : "nearest",
             o->nonfinite == NIB_NONFINITE_GO_ON ? "saturate" : "refuse", gptq,
             (unsigned long long)h);
    snprintf(plan->fingerprint, sizeof plan->fingerprint, "shard=%d/%d %s files=%016llx",
             o->shard, o->shards, plan->run, (unsigned long long)mix_files(h, model, plan, 1));
}

static nib_status add_item(const nib_checkpoint_options *o, nib_plan *plan, const nib_logical *t,
                           uint64_t *random_offset)
{
    /* config.json has taken what it says (nib_hf_files_from_gguf). */
    if (plan->target->is_folder && t->gguf_only && nib_name_is_configuration(t->name))
        return NIB_OK;
    NIB_REQUIRE(!plan->target->is_folder || !t->gguf_only, NIB_ERR_UNSUPPORTED,
                "%s: has no name in Hugging Face folders", t->name);
    nib_plan_item *item = &plan->items[plan->n_items++];
    item->src = t;
    for (int role = 0; role < NIB_ROLES; role++) item->out[role] = -1;
    item->random_offset = *random_offset;
    *random_offset += ((uint64_t)t->rows * (uint64_t)t->cols + 3) / 4;
    NIB_TRY(select_item(o, plan, item));
    plan->n_quantized += (size_t)item->quantize;
    return list_module(plan, item);
}

static nib_status make_items(const nib_model *model, const nib_checkpoint_options *o,
                             nib_plan *plan)
{
    plan->items = calloc(model->count + 1, sizeof *plan->items);
    plan->modules.ignore = json_pack("[s]", "lm_head");
    plan->modules.act_order = o->gptq && o->gptq->factor && o->gptq->factor->order == NIB_GPTQ_ACT;
    NIB_REQUIRE(plan->items && plan->modules.ignore, NIB_ERR_OUT_OF_MEMORY,
                "no memory for %zu tensors", model->count);
    NIB_TRY(check_patterns(model, o));
    uint64_t random_offset = 0;
    for (size_t i = 0; i < model->count; i++)
        NIB_TRY(add_item(o, plan, &model->tensors[i], &random_offset));
    if (plan->made.name) NIB_TRY(add_item(o, plan, &plan->made, &random_offset));
    return o->policy ? nib_plan_policy_used(o, plan) : NIB_OK;
}

nib_status nib_plan_make(const nib_model *model, const nib_checkpoint_options *o, nib_plan **out)
{
    *out = NULL;
    nib_plan *plan = calloc(1, sizeof *plan);
    NIB_REQUIRE(plan, NIB_ERR_OUT_OF_MEMORY, "no memory for a plan");
    plan->target = nib_target_get(o->export_as);
    plan->way = (nib_plan_way){ .format = o->policy ? NIB_NVFP4 : o->format,
                                .scale_choice = o->scale_choice };
    const nib_format format = plan->way.format;
    nib_status status = plan->target->check(format, NULL);
    if (status == NIB_OK && o->rules) plan->way.rules = *o->rules;
    else if (status == NIB_OK && !nib_int_format_is_valid(format))
        status = nib_rules_fill(plan->target->preset(format), format, &plan->way.rules);
    if (status == NIB_OK) status = nib_plan_cross(model, o, plan);
    if (status == NIB_OK) status = make_items(model, o, plan);
    if (status == NIB_OK) status = nib_plan_names(plan);
    if (status == NIB_OK) status = nib_plan_gptq(o, plan);
    if (status == NIB_OK) status = make_units(o, plan);
    if (status == NIB_OK) {
        make_fingerprint(model, o, plan);
        status = nib_plan_cross_items(o, plan);
    }
    if (status == NIB_OK) status = nib_plan_files(o, plan);
    if (status != NIB_OK) {
        nib_plan_free(plan);
        return status;
    }
    *out = plan;
    return NIB_OK;
}

void nib_plan_free(nib_plan *plan)
{
    if (!plan) return;
    for (size_t i = 0; i < plan->n_outs; i++) free((char *)(uintptr_t)plan->outs[i].spec.name);
    for (size_t i = 0; i < plan->n_files; i++) {
        free(plan->files[i].outs);
        nib_file_layout_free(&plan->files[i].layout);
    }
    nib_hessian_table_close(&plan->hessians);
    nib_target_modules_free(&plan->modules);
    nib_gguf_meta_free(plan->meta);
    nib_text_files_free(&plan->texts);
    free(plan->made_data);
    free(plan->files);
    free(plan->outs);
    free(plan->units);
    free(plan->order);
    free(plan->items);
    free(plan);
}
