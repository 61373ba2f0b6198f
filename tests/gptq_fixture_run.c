/* gptq_fixture_run.c: one run of gptq.h and its comparison with the reference. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gptq_fixture.h"

/* ---- packed bytes ---- */

static int bits_at(const uint8_t *row, int64_t from, int bits)
{
    int code = 0;
    for (int i = 0; i < bits; i++)
        code |= (row[(from + i) / 8] >> (from + i) % 8 & 1) << i;
    return code;
}

static int code_of(const nib_packed *p, const uint8_t *codes, int64_t row, int64_t col)
{
    const int bits = nib_format_element_bits(p->format);
    const int64_t block = nib_format_block(p->format), i = col % block, half = block / 2;
    const uint8_t *at = codes + row * p->ld_codes_bytes;
    if (p->code_order == NIB_CODES_GGUF_HALVES)
        return at[(col - i) / 2 + i % half] >> (i < half ? 0 : 4) & 15;
    return bits_at(at, col * bits, bits);
}

/* q of integers. */
static int integer_of(const gptq_job *job, const uint8_t *row, int64_t col)
{
    if (job->element > NIB_INT4) return (int8_t)row[col];
    const int nibble = row[col / 2] >> (col % 2 ? 4 : 0) & 15;
    return nibble > 7 ? nibble - 16 : nibble;
}

static int scale_of(const nib_packed *p, const uint8_t *scales, int64_t m, int64_t k)
{
    const int64_t per_row = nib_scales_per_row(p->format, p->cols);
    if (p->scale_layout == NIB_SCALES_LINEAR) return scales[m * per_row + k];
    return scales[(m / 128 * ((per_row + 3) / 4) + k / 4) * 512 + m % 32 * 16 + m % 128 / 32 * 4
                  + k % 4];
}

/* ---- one run ---- */

gptq_job gptq_job_of(const gptq_source *s, nib_format format)
{
    return (gptq_job){ .s = s, .format = format, .real = NIB_REAL_F64 };
}

gptq_job gptq_job_of_integers(const gptq_source *s, nib_step_element element, int64_t group)
{
    return (gptq_job){ .s = s, .real = NIB_REAL_F64, .element = element, .group = group };
}

/* Inputs that share a scale, and how many such blocks a row has. */
static int64_t block_of(const gptq_job *job)
{
    if (!job->group) return nib_format_block(job->format);
    return job->group < job->s->k ? job->group : job->s->k;
}

static int64_t blocks_of(const gptq_job *job)
{
    return (job->s->k + block_of(job) - 1) / block_of(job);
}

const char *gptq_text(const runner *r, const gptq_job *job)
{
    static const char *const orders[] = { "natural", "act", "group-aware" };
    static const char *const scales[] = { "frozen", "fresh", "hessian", "hessian fresh",
                                          "hessian full" };
    static char text[700];
    char format[64];
    if (job->group)
        snprintf(format, sizeof format, "INT%d by %lld, asymmetric %d, rule %d", job->element - 16,
                 (long long)job->group, job->asymmetric, (int)job->step_rule);
    else (void)nib_format_name(job->format, format, sizeof format);
    snprintf(text, sizeof text, "%s: %s of %lld x %lld, dtype %d, f%d, %s order, %s scales, choice "
             "%d, damping %g", r->name, format, (long long)job->s->rows, (long long)job->s->k,
             (int)job->s->dtype, job->real == NIB_REAL_F64 ? 64 : 32, orders[job->order],
             scales[job->scales], (int)job->choice, job->damping);
    return text;
}

/* Everything of one run, where the runner computes. */
typedef struct memory {
    gptq_moments moments;
    buffer       w, l, order, codes, scales, zeros, tensor_scale, amax, workspace;
    nib_packed   dst;
    nib_packed_steps steps;
} memory;

static memory memory_new(const runner *r, const gptq_job *job)
{
    const gptq_source *s = job->s;
    const int64_t gap = job->gap, groups = job->group ? s->rows * blocks_of(job) : 0;
    const int64_t ld_codes = gap + (job->group ? nib_step_codes_row_bytes(job->element, s->k)
                                               : nib_codes_row_bytes(job->format, s->k));
    const size_t size = s->dtype == NIB_F32 ? 4 : 2;
    const size_t codes = s->rows ? (size_t)(s->rows * ld_codes - gap) : 0;
    const int has_scale = !job->group && nib_format_has_tensor_scale(job->format);
    uint8_t *w = calloc((size_t)(s->rows * (s->k + gap)) + 1, size);
    for (int64_t i = 0; i < s->rows; i++)
        memcpy(w + (size_t)(i * (s->k + gap)) * size, (uint8_t *)s->w + (size_t)(i * s->k) * size,
               (size_t)s->k * size);
    memory m = {
        .moments = gptq_moments_new(r, job->real, s->k, gap, s->h, s->tokens),
        .w = buffer_new(r, w, s->rows ? (size_t)(s->rows * (s->k + gap) - gap) * size : 0, 0),
        .l = buffer_new(r, NULL, reals_bytes(job->real, s->k, s->k + gap), 0),
        .order = buffer_new(r, NULL, (size_t)s->k * 4, 0),
        .codes = buffer_new(r, NULL, codes, 0),
        .scales = buffer_new(r, NULL, job->group ? (size_t)groups * 4
                                 : (size_t)nib_scales_bytes(job->format, job->layout, s->rows,
                                                            s->k), 0),
        .zeros = buffer_new(r, NULL, job->asymmetric ? (size_t)groups : 0, 0),
        .tensor_scale = buffer_new(r, &job->tensor_scale, has_scale ? 4 : 0, 0),
        .amax = buffer_new(r, &s->amax, 4, 0),
    };
    m.workspace = buffer_new(r, NULL, job->group
        ? nib_gptq_steps_workspace_bytes(r->device, job->real, s->rows, s->k, job->group,
                                         r->threads)
        : nib_gptq_workspace_bytes(r->device, job->real, s->rows, s->k, r->threads), 0);
    m.steps = (nib_packed_steps){
        sizeof m.steps, job->element, job->asymmetric, job->step_rule, s->rows, s->k, job->group,
        m.codes.at, ld_codes, m.scales.at, job->asymmetric ? m.zeros.at : NULL,
        job->divisor
    };
    m.dst = (nib_packed){ sizeof m.dst, job->format, job->code_order, job->layout, s->rows, s->k,
                          m.codes.at, ld_codes, m.scales.at, has_scale ? m.tensor_scale.at : NULL };
    if (job->uncounted) m.moments.hessian.tokens = NULL;
    free(w);
    return m;
}

/* Takes codes, scales and the factor into the host's memory, once packed and once a byte each. */
static void take(const gptq_job *job, memory *m, gptq_result *o)
{
    const gptq_source *s = job->s;
    const int64_t per_row = blocks_of(job), ld = s->k + job->gap;
    const size_t sizes[] = { m->codes.bytes, m->scales.bytes, m->l.bytes, m->order.bytes,
                             m->moments.data.bytes, m->zeros.bytes };
    buffer *const from[] = { &m->codes, &m->scales, &m->l, &m->order, &m->moments.data,
                             &m->zeros };
    size_t at[7] = { 0 };
    for (int i = 0; i < 6; i++) at[i + 1] = at[i] + sizes[i];
    o->bytes_count = at[6];
    o->bytes = malloc(at[6] + 8);
    for (int i = 0; i < 6; i++) {
        uint8_t *part = buffer_take(from[i]);
        memcpy(o->bytes + at[i], part, sizes[i]);
        if (i == 2)
            for (int64_t e = 0; e < s->k * s->k; e++)
                o->l[e] = real_get(job->real, part, e / s->k * ld + e % s->k);
        if (i == 3) memcpy(o->order, part, sizes[i]);
        free(part);
    }
    for (int64_t i = 0; i < s->rows; i++) {
        for (int64_t j = 0; j < s->k; j++)
            o->codes[i * s->k + j] = (uint8_t)(job->group
                ? integer_of(job, o->bytes + i * m->steps.ld_codes_bytes, j)
                : code_of(&m->dst, o->bytes, i, j));
        for (int64_t j = 0; j < per_row; j++) {
            const int64_t e = i * per_row + j;
            float step;
            if (job->group) {
                const int8_t *zeros = (const int8_t *)o->bytes + at[5];
                memcpy(&step, o->bytes + at[1] + 4 * e, 4);
                o->words[e] = ref_step_scale(step, job->asymmetric ? zeros[e] : 0);
                continue;
            }
            o->scales[e] = (uint8_t)scale_of(&m->dst, o->bytes + at[1], i, j);
            o->words[e] = o->scales[e];
        }
    }
    if (m->tensor_scale.bytes) buffer_get(&m->tensor_scale, &o->tensor_scale);
}

gptq_result gptq_run(const runner *r, const gptq_job *job)
{
    const gptq_source *s = job->s;
    const int64_t per_row = blocks_of(job);
    gptq_result o = { .l = malloc((size_t)(s->k * s->k) * 8 + 8),
                      .order = malloc((size_t)s->k * 4 + 4),
                      .codes = malloc((size_t)(s->rows * s->k) + 1),
                      .scales = malloc((size_t)(s->rows * per_row) + 1),
                      .words = malloc((size_t)(s->rows * per_row) * 8 + 1), .tensor_scale = 1 };
    memory m = memory_new(r, job);
    nib_exec exec = exec_of(r);
    const nib_matrix w = { m.w.at, s->dtype, s->rows, s->k, s->k + job->gap };
    const nib_gptq_factor_options fo = {
        .size = sizeof fo, .order = job->order, .block = (int32_t)block_of(job),
        .damping = job->damping, .most_damping = job->most_damping
    };
    nib_gptq_options options = {
        .size = sizeof options, .scales = job->scales, .without_guard = job->without_guard,
        .quantize = { .size = sizeof options.quantize, .scale_choice = job->choice,
                      .rules = job->rules }
    };
    if (m.tensor_scale.bytes && job->tensor_scale == 0) options.quantize.tensor_amax = m.amax.at;
    exec.workspace = m.workspace.at, exec.workspace_bytes = m.workspace.bytes;
    o.factor = (nib_gptq_factor){ .size = sizeof o.factor, .real = job->real, .k = s->k,
                                  .l = m.l.at, .ld_elems = s->k + job->gap, .order = m.order.at };
    o.report = (nib_gptq_report){ .size = sizeof o.report };
    o.status = nib_gptq_factor_make(&exec, &m.moments.hessian, &fo, &o.factor);
    EXPECT(o.status == NIB_OK, "%s: factor: %s", gptq_text(r, job), nib_last_error());
    if (o.status == NIB_OK) {
        o.status = job->group
            ? nib_gptq_quantize_steps(&exec, &m.moments.hessian, &o.factor, &w, &options, &m.steps,
                                      &o.report)
            : nib_gptq_quantize(&exec, &m.moments.hessian, &o.factor, &w, &options, &m.dst,
                                &o.report);
        EXPECT(o.status == NIB_OK, "%s: %s", gptq_text(r, job), nib_last_error());
    }
    take(job, &m, &o);
    buffer_free(&m.w), buffer_free(&m.moments.tokens), buffer_free(&m.tensor_scale);
    buffer_free(&m.amax), buffer_free(&m.workspace);
    o.factor.l = NULL, o.factor.order = NULL;
    return o;
}

void gptq_result_free(gptq_result *o)
{
    free(o->l), free(o->order), free(o->codes), free(o->scales), free(o->words), free(o->bytes);
    *o = (gptq_result){ 0 };
}

/* ---- comparison ---- */

ref_rounding gptq_rounding_of(const gptq_job *job)
{
    if (job->group) {
        ref_rounding i = ref_integers_make(job->element, job->asymmetric, job->step_rule,
                                           block_of(job));
        i.of_half = job->divisor == NIB_STEP_OF_HALF;
        return i;
    }
    ref_rounding r = ref_rounding_make(job->format, job->rules, job->s->dtype, job->choice);
    if (!nib_format_has_tensor_scale(job->format)) return r;
    if (job->tensor_scale != 0) ref_tensor_given(&r, job->tensor_scale);
    else ref_tensor_amax(&r, job->s->amax);
    return r;
}

ref_layer gptq_layer_of(const gptq_job *job, const ref_rounding *r, const gptq_result *o)
{
    return (ref_layer){ .r = r, .w = job->s->wf, .h = job->s->h, .rows = job->s->rows,
                        .k = job->s->k, .order = job->order, .scales = job->scales,
                        .added = o->factor.added, .no_guard = job->without_guard,
                        .plain = o->factor.outcome != NIB_GPTQ_DONE };
}

double gptq_row_error(const gptq_job *job, const gptq_result *o, int64_t row)
{
    const gptq_source *s = job->s;
    const int64_t per_row = blocks_of(job);
    const ref_rounding r = gptq_rounding_of(job);
    double *d = malloc((size_t)s->k * sizeof *d + 8);
    for (int64_t j = 0; j < s->k; j++)
        d[j] = (double)s->wf[row * s->k + j]
             - ref_value(&r, o->words[row * per_row + j / r.block], o->codes[row * s->k + j]);
    const double error = ref_quadratic(d, s->h, s->k);
    free(d);
    return error;
}

double gptq_error(const gptq_job *job, const gptq_result *o)
{
    double sum = 0;
    for (int64_t i = 0; i < job->s->rows; i++) sum += gptq_row_error(job, o, i);
    return sum;
}

static int64_t differing(const uint8_t *a, const uint8_t *b, int64_t n, int64_t *first)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (a[i] != b[i] && count++ == 0) *first = i;
    return count;
}

static void expect_near(const char *text, const char *what, double got, double right, double bound)
{
    EXPECT(fabs(got - right) <= bound, "%s: %s is %.17g, not %.17g", text, what, got, right);
}

void gptq_check(const runner *r, const gptq_job *job, double tolerance)
{
    const gptq_source *s = job->s;
    const int64_t blocks = blocks_of(job);
    const ref_rounding rounding = gptq_rounding_of(job);
    gptq_result o = gptq_run(r, job);
    const ref_layer layer = gptq_layer_of(job, &rounding, &o);
    const char *text = gptq_text(r, job);
    ref_answer a;
    int64_t at = 0;
    EXPECT(ref_solve(&layer, &a), "%s: the reference's H is not definite", text);
    EXPECT(memcmp(o.order, a.order, (size_t)s->k * 4) == 0, "%s: another order", text);
    if (!job->group && nib_format_has_tensor_scale(job->format))
        EXPECT(o.tensor_scale == rounding.decode, "%s: tensor scale %g, not %g", text,
               (double)o.tensor_scale, (double)rounding.decode);
    int64_t scales = 0;
    for (int64_t i = s->rows * blocks; i-- > 0;)
        if (o.words[i] != a.scales[i]) at = i, scales++;
    EXPECT(scales == 0, "%s: %lld scales differ, the first of row %lld, block %lld", text,
           (long long)scales, (long long)(at / (blocks + !blocks)),
           (long long)(at % (blocks + !blocks)));
    const int64_t codes = differing(o.codes, a.codes, s->rows * s->k, &at);
    EXPECT(codes == 0, "%s: %lld codes differ, the first of row %lld, column %lld", text,
           (long long)codes, (long long)(at / (s->k + !s->k)), (long long)(at % (s->k + !s->k)));
    expect_near(text, "error", o.report.error, a.error, tolerance * a.plain_error);
    EXPECT(o.report.rows == s->rows, "%s: rows %lld", text, (long long)o.report.rows);
    if (!job->without_guard) {
        expect_near(text, "plain_error", o.report.plain_error, a.plain_error,
                    tolerance * a.plain_error);
        expect_near(text, "weight", o.report.weight, a.weight, tolerance * a.weight);
        EXPECT(o.report.plain_rows >= a.plain_least && o.report.plain_rows <= a.plain_most,
               "%s: %lld plain rows, not %lld .. %lld", text, (long long)o.report.plain_rows,
               (long long)a.plain_least, (long long)a.plain_most);
    }
    if (!layer.plain)
        expect_near(text, "sum of (w' - q)^2 R^2", a.carried, a.carried_direct,
                    1e-9 * a.carried_direct);
    ref_answer_free(&a);
    gptq_result_free(&o);
}
