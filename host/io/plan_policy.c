/* plan_policy.c: a policy's part of a plan: which matrix is quantized how, what is refused. */
#include <stdio.h>
#include <string.h>

#include "host/io/plan.h"

/* Lines have numbers of their own, in rising order. */
static nib_status line_at(const nib_policy *policy, int32_t number, nib_policy_line *line)
{
    *line = (nib_policy_line){ .size = sizeof *line };
    int32_t i = 0;
    do {
        NIB_TRY(nib_policy_get(policy, i++, line));
    } while (line->line != number);
    return NIB_OK;
}

/* "the policy" in a sentence. */
static const char *owner(const nib_policy *policy)
{
    return nib_policy_is_export(policy) ? "the default policy" : "the policy";
}

nib_status nib_plan_policy_item(const nib_checkpoint_options *o, const nib_plan *plan,
                                nib_plan_item *item)
{
    nib_policy_line line = { .size = sizeof line };
    if (item->src->n_dims < 2 || nib_policy_find(o->policy, item->src->name, &line) != NIB_OK)
        return NIB_OK; /* no line: kept */
    item->line = line.line;
    item->quantize = line.format != NIB_FORMAT_NONE;
    if (!item->quantize) return NIB_OK;
    item->way = (nib_plan_way){ line.format, line.scale_choice, line.rules };
    return line.has_rules || nib_int_format_is_valid(line.format)
             ? NIB_OK
             : nib_rules_fill(plan->target->preset(line.format), line.format, &item->way.rules);
}

nib_status nib_plan_policy_holds(const nib_checkpoint_options *o, const nib_plan *plan,
                                 const nib_plan_item *item)
{
    nib_policy_line line;
    char why[600], format[48];
    const nib_status status = plan->target->check(item->way.format, item->src);
    if (status == NIB_OK) return NIB_OK;
    snprintf(why, sizeof why, "%s", nib_last_error());
    NIB_TRY(line_at(o->policy, item->line, &line));
    NIB_TRY(nib_weight_format_name(line.format, format, sizeof format));
    return nib_fail(status, "%s's line %d, '%.64s %s', decides for %s, but %s", owner(o->policy),
                    (int)line.line, line.pattern, format, item->src->name, why);
}

/* Whether a line decides for caches of keys or values, which policy.h gives such names. */
static int is_for_caches(const nib_policy *policy, const nib_policy_line *line)
{
    static const char *const names[] = { "model.layers.0.self_attn.k_cache",
                                         "model.layers.0.self_attn.v_cache" };
    nib_policy_line found = { .size = sizeof found };
    for (int i = 0; i < 2; i++)
        if (nib_policy_find(policy, names[i], &found) == NIB_OK && found.line == line->line)
            return 1;
    return 0;
}

/* The default is for any model, and has lines for the names of others. */
static nib_status default_used(const nib_policy *policy, const nib_plan *plan)
{
    for (size_t k = 0; k < plan->n_items; k++) {
        nib_policy_line line;
        if (!plan->items[k].line) continue;
        NIB_TRY(line_at(policy, plan->items[k].line, &line));
        if (line.format != NIB_FORMAT_NONE) return NIB_OK; /* if only for what is excluded */
    }
    return nib_fail(NIB_ERR_ARGUMENT, "the default policy quantizes no matrix of the model: "
                    "none that is named P.weight is of a linear layer; a policy of your own can "
                    "name others");
}

nib_status nib_plan_policy_used(const nib_checkpoint_options *o, const nib_plan *plan)
{
    if (nib_policy_is_export(o->policy)) return default_used(o->policy, plan);
    for (int32_t i = 0; i < nib_policy_count(o->policy); i++) {
        nib_policy_line line = { .size = sizeof line };
        NIB_TRY(nib_policy_get(o->policy, i, &line));
        int used = line.format == NIB_FORMAT_NONE;
        for (size_t k = 0; k < plan->n_items && !used; k++)
            used = plan->items[k].line == line.line;
        NIB_REQUIRE(used || is_for_caches(o->policy, &line), NIB_ERR_ARGUMENT,
                    "the policy's line %d, '%.64s', decides for no matrix of the model",
                    (int)line.line, line.pattern);
    }
    return NIB_OK;
}

nib_status nib_plan_policy_unlike(const nib_plan *plan, const nib_plan_item *a,
                                  const nib_plan_item *b)
{
    return nib_fail(NIB_ERR_UNSUPPORTED,
                    "the policy's lines %d and %d quantize %s and %s in unlike ways, but loaders "
                    "of %s make one matrix of them", (int)a->line, (int)b->line, a->src->name,
                    b->src->name, plan->target->name);
}
