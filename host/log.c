/* log.c: see log.h. */
#include "log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nibble/policy.h"

atomic_int nib_log_state = NIB_LOG_UNKNOWN;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int output = STDERR_FILENO;

static void begin(void)
{
    const char *wanted = getenv("NIBBLE_LOG"), *path = getenv("NIBBLE_LOG_FILE");
    const int on = wanted && !strcmp(wanted, "bench");
    if (on && path && *path) {
        const int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        if (file >= 0) output = file;
    }
    atomic_store(&nib_log_state, on ? NIB_LOG_ON : NIB_LOG_OFF);
}

typedef struct line {
    char   text[768];
    size_t used;
} line;

static void add(line *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(line *l, const char *format, ...)
{
    va_list list;
    const size_t room = sizeof l->text - l->used;
    va_start(list, format);
    const int n = vsnprintf(l->text + l->used, room, format, list);
    va_end(list);
    if (n > 0) l->used += (size_t)n < room ? (size_t)n : room - 1;
}

static void add_device(line *l, const nib_exec *exec, const nib_launch *launch)
{
    const nib_device *d = exec->device;
    if (d->kind == NIB_BACKEND_CUDA) {
        add(l, " --backend cuda");
        if (launch->ordinal) add(l, " --device %d", (int)launch->ordinal);
        return;
    }
    const char *isa = strchr(d->ops->name, ' '); /* "cpu avx2" */
    add(l, " --backend cpu --isa %s --threads %d", isa ? isa + 1 : "auto", (int)launch->threads);
}

static const char *dtype_name(nib_dtype dtype)
{
    switch (dtype) {
    case NIB_F32: return "f32";
    case NIB_F16: return "f16";
    case NIB_BF16: return "bf16";
    }
    return "?";
}

/* The preset whose rules these are, or -1. */
static int preset_of(const nib_rules *rules, nib_format format)
{
    for (int p = NIB_RULES_TE; p <= NIB_RULES_GGUF; p++) {
        nib_rules r;
        if (nib_rules_fill((nib_rules_preset)p, format, &r) == NIB_OK
            && r.tensor == rules->tensor && r.block == rules->block && r.element == rules->element
            && r.mx == rules->mx && r.ties == rules->ties && r.zero_sign == rules->zero_sign
            && r.nonfinite == rules->nonfinite && r.e4m3_zero == rules->e4m3_zero
            && r.e4m3_min == rules->e4m3_min)
            return p;
    }
    return -1;
}

/* Returns whether the rules have a name. */
static int add_request(line *l, const nib_quantize_request *q, nib_format format)
{
    const int preset = preset_of(&q->rules, format);
    if (preset >= 0) add(l, " --rules %s", nib_rules_preset_name((nib_rules_preset)preset));
    add(l, " --scale-choice %s", nib_scale_choice_name(q->scale_choice));
    if (q->rounding == NIB_ROUND_STOCHASTIC) add(l, " --rounding stochastic");
    if (q->scale_rows > 1) add(l, " --scale-rows %d", (int)q->scale_rows);
    return preset >= 0;
}

static const char *layout_name(nib_scale_layout layout)
{
    return layout == NIB_SCALES_SWIZZLED_128X4 ? "swizzled" : "linear";
}

/* As qbench writes it: what is not said is its default. */
static void add_product(line *l, const nib_gemm_options *o, int64_t m)
{
    add(l, " --dtype %s", dtype_name(o->a_dtype));
    if (o->accumulate == NIB_GEMM_ACCUMULATE_F16)
        add(l, o->f16_chunk == 64 ? " --accumulate f16" : " --accumulate f16-%d",
            (int)o->f16_chunk);
    if (o->activations == NIB_GEMM_ACTIVATIONS_INT8) add(l, " --activations int8");
    add(l, " --m %lld --n %lld --k %lld", (long long)m, (long long)o->n, (long long)o->k);
    if (o->d_dtype != o->a_dtype) add(l, " # to %s", dtype_name(o->d_dtype));
    if (o->gated) add(l, " # gated");
}

static void add_real(line *l, nib_real real)
{
    add(l, " --real %s", real == NIB_REAL_F64 ? "f64" : "f32");
}

static void add_order(line *l, nib_gptq_order order)
{
    static const char *const names[] = { "natural", "act", "group-aware" };
    add(l, " --order %s", names[order]);
}

static void add_element(line *l, nib_step_element e)
{
    static const char *const floats[] = { "e2m1", "e2m3", "e3m2", "e4m3", "e5m2" };
    if (e >= NIB_INT2) add(l, "int%d", (int)e - NIB_INT2 + 2);
    else add(l, "%s", (unsigned)e < sizeof floats / sizeof *floats ? floats[e] : "?");
}

/* A group of a row is its columns, rounded up to a multiple of 8. */
static void add_steps(line *l, const nib_step_request *s)
{
    add(l, " --element ");
    add_element(l, s->element);
    add(l, " --block %lld", (long long)s->group);
}

/* What qbench has no axis for. */
static void note_steps(line *l, const nib_step_request *s)
{
    static const char *const rules[] = { "", "e4m3", "e8m0", "bf16", "f16" };
    if (s->asymmetric) add(l, " # with zero points");
    if (s->rule) add(l, " # steps in %s", rules[s->rule]);
    if (s->middle) add(l, " # steps of hi + 1/2");
}

/* The same of what has no axes at all: INT4 by 128, or by the row; or INT8 by the row. */
static void note_fake_steps(line *l, const char *op, const nib_step_request *s, int64_t cols)
{
    const int by_rows = strstr(op, "_rows") || strstr(op, "_backward");
    const int64_t usual = by_rows || cols < 128 ? (cols + 7) / 8 * 8 : 128;
    const nib_step_element element = strstr(op, "_rows") ? NIB_INT8 : NIB_INT4;
    if (s->element != element || (s->group != usual && !s->whole)) {
        add(l, " # ");
        add_element(l, s->element);
        if (!s->whole) add(l, " by %lld", (long long)s->group);
    }
    note_steps(l, s);
}

static void add_gptq(line *l, const nib_gptq_request *q)
{
    static const char *const names[] = { "frozen", "fresh", "hessian", "hessian-fresh",
                                         "hessian-full" };
    add_real(l, q->factor->real);
    add_order(l, q->factor->order_kind);
    if (q->steps) add_steps(l, &q->step);
    add(l, " --scales %s --guard %s", names[q->scales], q->guard ? "on" : "off");
}

void nib_log_call(const nib_exec *exec, const nib_launch *launch, const char *op,
                  const nib_log_args *args)
{
    (void)pthread_once(&once, begin);
    if (atomic_load_explicit(&nib_log_state, memory_order_relaxed) != NIB_LOG_ON) return;
    const nib_matrix *m = args->matrix;
    const nib_packed *p = args->packed;
    const nib_format *f = p ? &p->format : args->gemm ? &args->gemm->format
                        : args->weights ? &args->weights->format : args->format;
    line l = { .used = 0 };
    int named = 1;
    add(&l, "qbench %s", op);
    add_device(&l, exec, launch);
    if (f) {
        char format[64];
        if (nib_format_name(*f, format, sizeof format) == NIB_OK) add(&l, " --format %s", format);
    }
    if (m) add(&l, " --dtype %s", dtype_name(m->dtype));
    if (args->request && f) named = add_request(&l, args->request, *f);
    if (args->fake) {
        if (args->backward)
            add(&l, " --gradient %s",
                args->fake->gradient == NIB_FAKE_CLAMP ? "clamp" : "identity");
        add(&l, " --mask %s", args->fake->mask ? "bits" : "none");
        if (args->fake->scales) add(&l, " --layout %s", layout_name(args->fake->scale_layout));
    }
    if (p || args->relayout)
        add(&l, " --layout %s", layout_name(p ? p->scale_layout : args->to));
    if (args->batch && args->batch->count != 1)
        add(&l, " --batch %lld", (long long)args->batch->count);
    if (args->gptq) add_gptq(&l, args->gptq);
    if (args->steps) add_steps(&l, args->steps);
    if (args->precision == NIB_HESSIAN_TF32) add(&l, " --precision tf32");
    if (args->hessian) add_real(&l, args->hessian->real);
    if (args->factor) {
        add_order(&l, args->factor->order);
        const int by_groups = args->factor->order == NIB_GPTQ_GROUP_AWARE;
        const int block = (int)args->factor->block;
        const int is_format = block <= 128 && (block & (block - 1)) == 0;
        if (by_groups && is_format) add(&l, " --block %d", block);
        add(&l, " --cols %lld", (long long)args->hessian->k);
        if (by_groups && !is_format) add(&l, " # groups of %d", block);
    } else if (args->hessian && !m)
        add(&l, " --cols %lld", (long long)args->hessian->k);
    else if (args->gemm)
        add_product(&l, args->gemm, args->rows);
    else if (args->weights)
        add(&l, " --n %lld --k %lld", (long long)args->weights->n, (long long)args->weights->k);
    else
        add(&l, " --rows %lld --cols %lld", (long long)(m ? m->rows : args->rows),
            (long long)(m ? m->cols : args->cols));
    if (args->gptq && args->gptq->steps) note_steps(&l, &args->gptq->step);
    if (args->steps) note_steps(&l, args->steps);
    if (args->fake_steps && m) note_fake_steps(&l, op, args->fake_steps, m->cols);
    if (!named) add(&l, " # rules of the caller's own");
    if (m && m->ld_elems != m->cols) add(&l, " # rows %lld apart", (long long)m->ld_elems);
    if (p && p->code_order == NIB_CODES_GGUF_HALVES) add(&l, " # codes in GGUF's order");
    if (args->note) add(&l, " # %s", args->note);
    if (l.used > sizeof l.text - 2) l.used = sizeof l.text - 2;
    l.text[l.used++] = '\n';
    ssize_t written = write(output, l.text, l.used);
    (void)written; /* there is nobody to tell */
}
