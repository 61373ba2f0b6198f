/* compare.c: logical tensors of two models, decoded panel by panel and subtracted. */
#include "host/io/compare.h"

#include <stdlib.h>
#include <string.h>

#include "host/io/panels.h"

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const nib_logical *const *)a)->name, (*(const nib_logical *const *)b)->name);
}

/* b's tensors sorted by name. */
static const nib_logical **sorted_tensors(const nib_model *m)
{
    const nib_logical **s = calloc(m->count ? m->count : 1, sizeof *s);
    for (size_t i = 0; s && i < m->count; i++) s[i] = &m->tensors[i];
    if (s) qsort(s, m->count, sizeof *s, by_name);
    return s;
}

static const nib_logical *find(const nib_logical **sorted, size_t n, const nib_logical *wanted)
{
    const nib_logical **hit = bsearch(&wanted, sorted, n, sizeof *sorted, by_name);
    return hit ? *hit : NULL;
}

/* What one of them says by a tensor, and the other, a folder, in config.json. */
static int is_configuration(const nib_logical *t, const nib_model *other)
{
    return !other->is_gguf && t->gguf_only && nib_name_is_configuration(t->name);
}

static nib_status check_pair(const nib_model *a, const nib_model *b, const nib_logical *x,
                             const nib_logical *y)
{
    NIB_REQUIRE(y, NIB_ERR_SHAPE, "%s is in %s only, not in %s", x->name, a->path, b->path);
    NIB_REQUIRE(x->n_dims == y->n_dims && !memcmp(x->dims, y->dims, sizeof x->dims),
                NIB_ERR_SHAPE, "%s: %lld x %lld in %s, %lld x %lld in %s", x->name,
                (long long)x->rows, (long long)x->cols, a->path, (long long)y->rows,
                (long long)y->cols, b->path);
    return NIB_OK;
}

/* Types that nibble does not decode, such as integers: equal to the byte, or not compared. */
static nib_status compare_bytes(const nib_logical *x, const nib_logical *y, nib_tensor_report *r)
{
    const uint8_t *p = x->tensor->data, *q = y->tensor->data;
    char type[NIB_TYPE_NAME_BYTES], other[NIB_TYPE_NAME_BYTES];
    NIB_REQUIRE(x->tensor->type == y->tensor->type && x->tensor->bytes == y->tensor->bytes,
                NIB_ERR_UNSUPPORTED, "%s: %s against %s cannot be compared", x->name,
                nib_logical_type_name(x, type), nib_logical_type_name(y, other));
    for (uint64_t i = 0; i < x->tensor->bytes; i++)
        NIB_REQUIRE(p[i] == q[i], NIB_ERR_UNSUPPORTED,
                    "%s: differs at byte %llu, and type %s cannot be compared as numbers", x->name,
                    (unsigned long long)i, nib_logical_type_name(x, type));
    r->error.elements = r->elements;
    return NIB_OK;
}

/* A tensor of both models at work. */
typedef struct compared {
    const nib_logical *x, *y;
    nib_tensor_report *report;
} compared;

/* x's rows go to the panel's rows, y's to its blocks, which hold as many f32. */
static nib_status compare_work(void *context, const nib_panel *p, nib_panel_result *result)
{
    const compared *c = context;
    const nib_row_order hf = { 0 };
    float *left = p->buffers->rows, *right = (float *)(void *)p->buffers->blocks;
    NIB_TRY(nib_logical_read(p->exec, c->x, hf, p->first, p->n, left));
    NIB_TRY(nib_logical_read(p->exec, c->y, hf, p->first, p->n, right));
    nib_scalar_cpu.difference(left, right, p->n * c->x->cols, &result->error);
    if (!c->x->gguf_heads) nib_logical_release(c->x, p->first, p->n);
    if (!c->y->gguf_heads) nib_logical_release(c->y, p->first, p->n);
    return NIB_OK;
}

static nib_status compare_merge(void *context, const nib_panel *p, const nib_panel_result *result)
{
    const compared *c = context;
    (void)p;
    nib_panel_add_error(&c->report->error, &result->error);
    return NIB_OK;
}

static nib_status compare_tensor(nib_panel_pool *pool, const nib_logical *x, const nib_logical *y,
                                 nib_tensor_report *report)
{
    if (!nib_logical_decodable(x) || !nib_logical_decodable(y))
        return compare_bytes(x, y, report);
    const nib_plan_item item = { .src = x };
    compared pair = { x, y, report };
    return nib_panels_run(pool, &item, compare_work, compare_merge, &pair);
}

/* b's tensors are all in a, of which so many are in b. Names are unique: as many in b are the same
 * ones. */
static nib_status check_rest(const nib_model *a, const nib_model *b, uint64_t common)
{
    uint64_t wanted = 0;
    for (size_t i = 0; i < b->count; i++) wanted += !is_configuration(&b->tensors[i], a);
    for (size_t i = 0; i < b->count && wanted != common; i++) {
        int found = is_configuration(&b->tensors[i], a);
        for (size_t j = 0; j < a->count && !found; j++)
            found = !strcmp(a->tensors[j].name, b->tensors[i].name);
        NIB_REQUIRE(found, NIB_ERR_SHAPE, "%s is in %s only, not in %s", b->tensors[i].name,
                    b->path, a->path);
    }
    return NIB_OK;
}

static nib_status compare_all(nib_panel_pool *pool, const nib_model *a, const nib_model *b,
                              const nib_logical **sorted, const nib_checkpoint_options *o,
                              nib_checkpoint_report *report)
{
    nib_progress progress = { .size = sizeof progress, .stage = NIB_STAGE_COPY,
                              .tensors_total = a->count };
    for (size_t i = 0; i < a->count; i++) progress.source_bytes_total += a->tensors[i].bytes;
    report->n_tensors = 0;
    for (size_t i = 0; i < a->count; i++) {
        const nib_logical *x = &a->tensors[i], *y = find(sorted, b->count, x);
        if (is_configuration(x, b)) continue;
        NIB_TRY(check_pair(a, b, x, y));
        nib_tensor_report *r = &report->tensors[report->n_tensors++];
        char type[NIB_TYPE_NAME_BYTES];
        NIB_TRY(nib_report_tensor(report, (size_t)(r - report->tensors), x,
                                  nib_logical_type_name(y, type), y->bytes, 0));
        r->quantized = strcmp(r->source_type, r->stored_type) != 0;
        NIB_TRY(compare_tensor(pool, x, y, r));
        report->nonfinite += r->error.nonfinite;
        progress.tensor = x->name;
        progress.tensors_done++;
        progress.source_bytes_done += x->bytes;
        if (o && o->progress) o->progress(o->user, &progress);
        NIB_REQUIRE(!o || !o->cancel || !*o->cancel, NIB_ERR_CANCELLED, "stopped in tensor %s",
                    x->name);
    }
    return check_rest(a, b, report->n_tensors);
}

nib_status nib_compare_run(const nib_exec *exec, const nib_model *a, const nib_model *b,
                           const nib_checkpoint_options *options, nib_checkpoint_report **report)
{
    int64_t max_cols = 0;
    for (size_t i = 0; i < a->count; i++)
        if (a->tensors[i].rows > 0 && a->tensors[i].cols > max_cols)
            max_cols = a->tensors[i].cols;
    nib_panel_pool pool;
    const nib_logical **sorted = sorted_tensors(b);
    nib_checkpoint_report *r = nib_report_new(a->count);
    nib_status status = nib_panel_pool_open(exec, max_cols, 0, &pool);
    if (status == NIB_OK)
        status = sorted && r ? compare_all(&pool, a, b, sorted, options, r)
                             : nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory to compare");
    nib_panel_pool_close(&pool);
    free(sorted);
    if (status != NIB_OK) nib_checkpoint_report_free(r);
    else *report = r;
    return status;
}
