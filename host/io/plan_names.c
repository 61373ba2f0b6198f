/* plan_names.c: refuses kept tensors that loaders would take for parts of quantized ones, whatever
 * file they lie in. */
#include <stdlib.h>
#include <string.h>

#include "host/io/plan.h"

static int by_name(const void *a, const void *b)
{
    const nib_plan_item *x = *(const nib_plan_item *const *)a;
    const nib_plan_item *y = *(const nib_plan_item *const *)b;
    return strcmp(x->src->name, y->src->name);
}

/* Quantized items, sorted; the caller frees them. NULL without memory. */
static const nib_plan_item **quantized(const nib_plan *plan, size_t *n)
{
    const nib_plan_item **sorted = calloc(plan->n_items + 1, sizeof *sorted);
    *n = 0;
    for (size_t i = 0; sorted && i < plan->n_items; i++)
        if (plan->items[i].quantize) sorted[(*n)++] = &plan->items[i];
    if (sorted) qsort(sorted, *n, sizeof *sorted, by_name);
    return sorted;
}

static nib_status check_kept(const nib_plan_item *kept, const nib_plan_item **sorted, size_t n)
{
    char *whole = NULL;
    int of_integers = 0;
    NIB_TRY(nib_part_name(kept->src->name, &whole, &of_integers));
    if (!whole) return NIB_OK;
    const nib_logical named = { .name = whole };
    const nib_plan_item key = { .src = &named }, *const at = &key;
    const nib_plan_item **found = bsearch(&at, sorted, n, sizeof *sorted, by_name);
    const int taken = found && (!of_integers || nib_int_format_is_valid((*found)->way.format));
    const nib_status status = !taken ? NIB_OK : nib_fail(
        NIB_ERR_UNSUPPORTED, "%s: loaders would take it for a part of %s, which is to be quantized "
        "(exclude that to keep both as they are)", kept->src->name, whole);
    free(whole);
    return status;
}

nib_status nib_plan_names(const nib_plan *plan)
{
    size_t n;
    if (!plan->target->is_folder) return NIB_OK;
    const nib_plan_item **sorted = quantized(plan, &n);
    NIB_REQUIRE(sorted, NIB_ERR_OUT_OF_MEMORY, "no memory for %zu names", plan->n_items);
    nib_status status = NIB_OK;
    for (size_t i = 0; n && i < plan->n_items && status == NIB_OK; i++)
        if (!plan->items[i].quantize) status = check_kept(&plan->items[i], sorted, n);
    free(sorted);
    return status;
}
