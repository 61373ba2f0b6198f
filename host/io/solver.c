/* solver.c: see solver.h. */
#include "host/io/solver.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Grows and keeps what it has; aligned as gptq.h wants a workspace. */
typedef struct room {
    void  *data;
    size_t bytes;
} room;

struct nib_solver {
    nib_exec                      exec;
    const nib_checkpoint_options *options;
    nib_hessian_entry             entry; /* of hessian and factor; tensor NULL: there are none */
    nib_hessian                   hessian;
    uint64_t                      tokens;
    nib_gptq_factor               factor;
    int32_t                       block; /* that it was made for */
    room                          h, l, order, workspace;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static nib_status need(room *r, size_t bytes)
{
    if (r->data && bytes <= r->bytes) return NIB_OK;
    NIB_REQUIRE(bytes < SIZE_MAX - 64, NIB_ERR_ARGUMENT, "no size of a workspace: %s",
                nib_last_error());
    free(r->data);
    r->bytes = (bytes + 64) / 64 * 64;
    r->data = aligned_alloc(64, r->bytes);
    NIB_REQUIRE(r->data, NIB_ERR_OUT_OF_MEMORY, "no memory for %zu bytes", r->bytes);
    return NIB_OK;
}

static nib_status need_workspace(nib_solver *s, size_t bytes)
{
    NIB_TRY(need(&s->workspace, bytes));
    s->exec.workspace = s->workspace.data;
    s->exec.workspace_bytes = s->workspace.bytes;
    return NIB_OK;
}

nib_status nib_solver_open(const nib_exec *exec, const nib_checkpoint_options *options,
                           nib_solver **out)
{
    nib_solver *s = *out = calloc(1, sizeof *s);
    NIB_REQUIRE(s, NIB_ERR_OUT_OF_MEMORY, "no memory for a solver");
    s->exec = *exec;
    s->options = options;
    return NIB_OK;
}

void nib_solver_close(nib_solver *s)
{
    if (!s) return;
    free(s->h.data);
    free(s->l.data);
    free(s->order.data);
    free(s->workspace.data);
    free(s);
}

const nib_exec *nib_solver_exec(const nib_solver *s) { return &s->exec; }

/* ---- the Hessian ---- */

/* Caches do not like rows a power of two apart: gptq.h. */
static int64_t ld_of(int64_t k) { return k & (k - 1) ? k : k + 16; }

static size_t square_bytes(int64_t k, nib_real real)
{
    return (size_t)(k * ld_of(k)) * (real == NIB_REAL_F64 ? 8 : 4);
}

static nib_real real_of(const nib_checkpoint_gptq *g, const nib_hessian_entry *e)
{
    if (g->real_bits) return g->real_bits == 64 ? NIB_REAL_F64 : NIB_REAL_F32;
    return e->tensor->type == NIB_TT_F64 ? NIB_REAL_F64 : NIB_REAL_F32;
}

static nib_status add_inputs(nib_solver *s, const nib_tensor *t)
{
    const nib_dtype dtype = t->type == NIB_TT_F32 ? NIB_F32 : t->type == NIB_TT_F16 ? NIB_F16
                                                                                    : NIB_BF16;
    const int64_t k = s->hessian.k, rows = k ? nib_tensor_elements(t) / k : 0;
    const nib_matrix x = { (void *)(uintptr_t)t->data, dtype, rows, k, k };
    NIB_TRY(need_workspace(s, nib_hessian_add_workspace_bytes(s->exec.device, &s->hessian, rows)));
    NIB_TRY(nib_hessian_clear(&s->exec, &s->hessian));
    return nib_hessian_add(&s->exec, &x, NIB_HESSIAN_EXACT, &s->hessian);
}

static nib_status make_hessian(nib_solver *s, const nib_hessian_entry *e)
{
    const nib_checkpoint_gptq *g = s->options->gptq;
    nib_hessian *h = &s->hessian;
    nib_hessian_info info = { .size = sizeof info };
    *h = (nib_hessian){ .size = sizeof *h, .real = real_of(g, e), .k = e->k,
                        .ld_elems = ld_of(e->k), .tokens = &s->tokens };
    NIB_TRY(need(&s->h, square_bytes(h->k, h->real)));
    h->data = s->h.data;
    if (e->inputs) NIB_TRY(add_inputs(s, e->tensor));
    else nib_hessian_entry_read(e, h);
    nib_mapping_release(e->tensor->data, e->tensor->bytes);
    if (!g->rotate) return NIB_OK;
    NIB_TRY(nib_hessian_check(&s->exec, h, &info)); /* a rotation would spread what is bad */
    return nib_hessian_rotate(&s->exec, h, g->rotate);
}

static nib_status make_factor(nib_solver *s, int32_t block)
{
    const nib_gptq_factor_options *given = s->options->gptq->factor;
    const nib_hessian *h = &s->hessian;
    nib_gptq_factor_options o = { .size = sizeof o };
    if (given) memcpy(&o, given, given->size < sizeof o ? given->size : sizeof o);
    o.size = sizeof o;
    o.block = s->block = block;
    NIB_TRY(need(&s->l, square_bytes(h->k, h->real)));
    NIB_TRY(need(&s->order, (size_t)h->k * sizeof(int32_t)));
    s->factor = (nib_gptq_factor){ .size = sizeof s->factor, .real = h->real, .k = h->k,
                                   .l = s->l.data, .ld_elems = ld_of(h->k),
                                   .order = s->order.data };
    return nib_gptq_factor_make(&s->exec, h, &o, &s->factor);
}

/* Hooks at q, k and v save what is the same three times: then one factor does as well. */
static int is_same(const nib_hessian_entry *a, const nib_hessian_entry *b)
{
    if (!a->tensor) return 0;
    if (a->tensor == b->tensor) return 1;
    const int same_tokens = !a->tokens == !b->tokens
                         && (!a->tokens || !memcmp(a->tokens->data, b->tokens->data, 8));
    return same_tokens && a->k == b->k && a->tensor->type == b->tensor->type
        && a->tensor->bytes == b->tensor->bytes
        && !memcmp(a->tensor->data, b->tensor->data, a->tensor->bytes);
}

static nib_status prepare(nib_solver *s, const nib_hessian_entry *e, int32_t block,
                          nib_tensor_gptq *out)
{
    out->seconds_hessian = out->seconds_factor = 0;
    if (s->block == block && is_same(&s->entry, e)) return NIB_OK;
    s->entry.tensor = NULL;
    const double t0 = now();
    NIB_TRY(make_hessian(s, e));
    const double t1 = now();
    NIB_TRY(make_factor(s, block));
    out->seconds_hessian = t1 - t0;
    out->seconds_factor = now() - t1;
    s->entry = *e;
    return NIB_OK;
}

/* ---- the weights ---- */

/* The factor for what has blocks of so many inputs, and what *out tells of it. */
static nib_status ready(nib_solver *s, const nib_hessian_entry *e, int32_t block,
                        nib_tensor_gptq *out)
{
    NIB_TRY(prepare(s, e, block, out));
    out->tokens = s->factor.tokens;
    out->damping = s->factor.damping;
    out->tries = s->factor.tries;
    out->dead = s->factor.dead;
    out->report = (nib_gptq_report){ .size = sizeof out->report };
    return NIB_OK;
}

static nib_gptq_options options_of(const nib_solver *s, const nib_plan_item *item)
{
    const nib_checkpoint_options *o = s->options;
    return (nib_gptq_options){ .size = sizeof(nib_gptq_options), .scales = item->scales,
                               .quantize.size = sizeof(nib_quantize_options),
                               .without_guard = o->gptq->without_guard, .cancel = o->cancel };
}

static nib_status quantize(nib_solver *s, const nib_plan_item *item, const nib_matrix *w,
                           const nib_quantize_options *q, const nib_packed *dst,
                           nib_tensor_gptq *out)
{
    nib_gptq_options options = options_of(s, item);
    options.quantize = *q;
    NIB_TRY(ready(s, &item->hessian, nib_format_block(dst->format), out));
    NIB_TRY(need_workspace(s, nib_gptq_workspace_bytes(s->exec.device, s->hessian.real, w->rows,
                                                       w->cols, s->exec.threads)));
    return nib_gptq_quantize(&s->exec, &s->hessian, &s->factor, w, &options, dst, &out->report);
}

static nib_status integers(nib_solver *s, const nib_plan_item *item, const nib_matrix *w,
                           const nib_packed_steps *dst, nib_tensor_gptq *out)
{
    const nib_gptq_options options = options_of(s, item);
    NIB_TRY(ready(s, &item->hessian, (int32_t)dst->group, out));
    NIB_TRY(need_workspace(s, nib_gptq_steps_workspace_bytes(s->exec.device, s->hessian.real,
                                                             w->rows, w->cols, dst->group,
                                                             s->exec.threads)));
    return nib_gptq_quantize_steps(&s->exec, &s->hessian, &s->factor, w, &options, dst,
                                   &out->report);
}

static nib_status named(nib_status status, const nib_plan_item *item)
{
    if (status == NIB_OK) return NIB_OK;
    const nib_hessian_entry *e = &item->hessian;
    return nib_fail(status, "%s, with '%s' of %s: %s", item->src->name, e->tensor->name, e->path,
                    nib_last_error());
}

nib_status nib_solver_quantize(nib_solver *s, const nib_plan_item *item, const nib_matrix *w,
                               const nib_quantize_options *options, const nib_packed *dst,
                               nib_tensor_gptq *out)
{
    return named(quantize(s, item, w, options, dst, out), item);
}

nib_status nib_solver_integers(nib_solver *s, const nib_plan_item *item, const nib_matrix *w,
                               const nib_packed_steps *dst, nib_tensor_gptq *out)
{
    return named(integers(s, item, w, dst, out), item);
}

/* ---- the journal ---- */

void nib_solver_to_text(const nib_tensor_gptq *g, char *text, size_t bytes)
{
    const nib_gptq_report *r = &g->report;
    snprintf(text, bytes,
             " %" PRIu64 " %a %d %" PRId64 " %d %" PRId64 " %" PRId64 " %a %a %a %a %a %a %a %a",
             g->tokens, g->damping, g->tries, g->dead, (int)r->outcome, r->rows, r->plain_rows,
             r->error, r->plain_error, r->weight, g->seconds_hessian, g->seconds_factor,
             r->seconds_plain, r->seconds_measure, r->seconds_sweep);
}

int nib_solver_from_text(const char *text, nib_tensor_gptq *g)
{
    nib_gptq_report *r = &g->report;
    int outcome = 0;
    *r = (nib_gptq_report){ .size = sizeof *r };
    const int n = sscanf(
        text,
        "%" SCNu64 " %la %d %" SCNd64 " %d %" SCNd64 " %" SCNd64 " %la %la %la %la %la %la %la %la",
        &g->tokens, &g->damping, &g->tries, &g->dead, &outcome, &r->rows, &r->plain_rows, &r->error,
        &r->plain_error, &r->weight, &g->seconds_hessian, &g->seconds_factor, &r->seconds_plain,
        &r->seconds_measure, &r->seconds_sweep);
    r->outcome = (nib_gptq_outcome)outcome;
    return n == 15;
}
