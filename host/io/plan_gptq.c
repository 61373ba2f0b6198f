/* plan_gptq.c: which tensor goes with which Hessian; checkpoint.h has the rule. */
#include <stdio.h>
#include <string.h>

#include "host/io/plan.h"
#include "host/io/select.h"

enum { NAME_BYTES = 512, MOST_CHOSEN = 128 /* of gptq.h's integers */ };

/* P of "P.weight", in the table as P or with a tail. */
static nib_status find_named(const nib_hessian_table *table, const char *weight,
                             nib_hessian_entry *entry)
{
    static const char *const tails[] = { "", ".weight", ".input" };
    const size_t length = strlen(weight);
    const int has_tail = length > 7 && !strcmp(weight + length - 7, ".weight");
    char name[NAME_BYTES + 16];
    *entry = (nib_hessian_entry){ 0 };
    for (int i = 0; i < 2 + (table->inputs != 0) && !entry->tensor; i++) {
        snprintf(name, sizeof name, "%.*s%s", (int)(has_tail ? length - 7 : length), weight,
                 tails[i]);
        NIB_TRY(nib_hessian_table_find(table, name, entry));
    }
    return NIB_OK;
}

/* What one of those has that t shares its input with. */
static nib_status find_shared(const nib_hessian_table *table, const nib_logical *t,
                              nib_hessian_entry *entry)
{
    char name[NAME_BYTES];
    nib_scale_group(t->name, name, sizeof name);
    if (!strcmp(name, t->name)) return NIB_OK;
    NIB_TRY(find_named(table, name, entry));
    if (entry->tensor) return NIB_OK;
    char group[NAME_BYTES];
    snprintf(group, sizeof group, "%s", name);
    for (int i = 0; nib_scale_sibling(t->name, i, name, sizeof name); i++) {
        nib_hessian_entry found;
        NIB_TRY(find_named(table, name, &found));
        NIB_REQUIRE(!found.tensor || !entry->tensor, NIB_ERR_ARGUMENT,
                    "%s: has none of its own in %s, and both '%s' and '%s' could be meant; name "
                    "one '%s' for all", t->name, table->path, entry->tensor->name,
                    found.tensor->name, group);
        if (found.tensor) *entry = found;
    }
    return NIB_OK;
}

static nib_gptq_scales scales_of(const nib_checkpoint_gptq *g, nib_format format)
{
    if (g->scales != NIB_GPTQ_SCALES_BY_FORMAT) return g->scales;
    const int64_t group = nib_int_format_group(format);
    return nib_int_format_is_valid(format) && (group == 0 || group > MOST_CHOSEN)
             ? NIB_GPTQ_SCALES_FROZEN : NIB_GPTQ_SCALES_HESSIAN;
}

/* What nib_gptq_quantize_steps would refuse after a long while. */
static nib_status check_integers(const nib_plan_item *item)
{
    const int64_t all = item->src->cols, group = nib_int_format_group(item->way.format);
    const int64_t inputs = group && group < all ? group : all;
    NIB_REQUIRE(item->scales != NIB_GPTQ_SCALES_HESSIAN_FULL, NIB_ERR_UNSUPPORTED,
                "%s: integers have no list of all steps that the Hessian could choose from",
                item->src->name);
    NIB_REQUIRE(item->scales == NIB_GPTQ_SCALES_FROZEN || inputs <= MOST_CHOSEN,
                NIB_ERR_UNSUPPORTED, "%s: groups of %lld inputs: steps of integers in groups over "
                "%d can only be frozen; say --scales frozen, or leave --scales out",
                item->src->name, (long long)inputs, (int)MOST_CHOSEN);
    return NIB_OK;
}

static nib_status find(const nib_checkpoint_options *o, const nib_plan *plan, nib_plan_item *item)
{
    const nib_logical *t = item->src;
    nib_hessian_entry *e = &item->hessian;
    NIB_TRY(find_named(&plan->hessians, t->name, e));
    if (!e->tensor) NIB_TRY(find_shared(&plan->hessians, t, e));
    if (!e->tensor) return NIB_OK;
    const char *what = e->inputs ? "inputs" : "Hessian";
    NIB_REQUIRE(t->n_dims == 2, NIB_ERR_UNSUPPORTED,
                "%s: is a stack of matrices, '%s' of %s the %s of one", t->name, e->tensor->name,
                e->path, what);
    NIB_REQUIRE(t->cols == e->k, NIB_ERR_SHAPE,
                "%s: has %lld inputs, but its %s, '%s' of %s, %lld", t->name, (long long)t->cols,
                what, e->tensor->name, e->path, (long long)e->k);
    NIB_REQUIRE(!o->gptq->rotate || t->cols % o->gptq->rotate == 0, NIB_ERR_SHAPE,
                "%s: %lld inputs cannot be rotated by runs of %d", t->name, (long long)t->cols,
                o->gptq->rotate);
    item->scales = scales_of(o->gptq, item->way.format);
    if (nib_int_format_is_valid(item->way.format)) NIB_TRY(check_integers(item));
    return o->dry_run ? NIB_OK : nib_hessian_entry_check(e);
}

static nib_status refuse_missing(const nib_plan *plan, size_t missing, const char *first)
{
    char some[400];
    NIB_REQUIRE(plan->n_quantized, NIB_ERR_ARGUMENT, "GPTQ: no tensor is to be quantized; without "
                "include patterns only matrices that are named P.weight are");
    return nib_fail(NIB_ERR_ARGUMENT, "%s: has nothing for %zu of the %zu tensors that are to be "
                    "quantized, first for %s. It has %s", plan->hessians.path, missing,
                    plan->n_quantized, first,
                    nib_hessian_names(plan->hessians.files[0], some, sizeof some));
}

nib_status nib_plan_gptq(const nib_checkpoint_options *o, nib_plan *plan)
{
    const nib_checkpoint_gptq *g = o->gptq;
    if (!g) return NIB_OK;
    NIB_TRY(nib_hessian_table_open(g->inputs ? g->inputs : g->hessians, g->inputs != NULL,
                                   &plan->hessians));
    size_t missing = 0;
    const char *first = "any";
    for (size_t i = 0; i < plan->n_items; i++) {
        nib_plan_item *item = &plan->items[i];
        if (!item->quantize) continue;
        NIB_TRY(find(o, plan, item));
        if (!item->hessian.tensor && !missing++) first = item->src->name;
    }
    if (missing == plan->n_quantized || (missing && g->all))
        return refuse_missing(plan, missing, first);
    return NIB_OK;
}
