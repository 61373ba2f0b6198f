/* gemm_fixture.c: inputs of products and their runs on devices. */
#include "tests/gemm_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"
#include "tests/expect_status.h"

const nib_format gemm_formats[4] = { NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16 };

int gemm_is_offered(const runner *r) { return r->device->ops->gemm != NULL; }

/* AVX-512's products, on 3 threads; opened once, and kept. NULL: not on this machine. */
static const runner *avx512(void)
{
    static runner r;
    static int    is_open;
    const nib_device_options options = { .size = sizeof options, .backend = NIB_BACKEND_CPU,
                                         .cpu_isa = NIB_CPU_ISA_AVX512 };
    if (!is_open && nib_device_open(&options, &r.device) == NIB_OK) {
        r.runtime = nib_device_runtime(r.device);
        r.threads = 3;
        snprintf(r.name, sizeof r.name, "%s, 3 threads", nib_device_description(r.device));
    }
    is_open = 1;
    return r.device ? &r : NULL;
}

int gemm_runners(const runner *few[GEMM_RUNNERS])
{
    static const int of_cpu[4] = { 4, 0, 6, 3 }; /* AVX2 first, where there is one */
    const runner *list, *wide;
    const int n = runners_open(&list);
    int count = 0;
    if (n == 2) {
        if (gemm_is_offered(&list[1])) few[count++] = &list[1];
        return count;
    }
    for (int i = 0; i < 4; i++)
        if (of_cpu[i] < n && gemm_is_offered(&list[of_cpu[i]])) few[count++] = &list[of_cpu[i]];
    if ((wide = avx512()) && gemm_is_offered(wide)) few[count++] = wide;
    return count;
}

static size_t width_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

const char *gemm_tactic_name(const runner *r, const nib_gemm_options *o, int32_t i)
{
    static nib_gemm_tactic tactic;
    return nib_gemm_tactic_at(r->device, o, i, &tactic) == NIB_OK ? tactic.name : NULL;
}

/* ---- weights ---- */

static uint8_t random_scale(nib_format format, enum gemm_fill fill)
{
    const uint32_t x = next_random() >> 7;
    if (nib_format_scale(format) == NIB_SCALE_E8M0)
        return (uint8_t)(fill == GEMM_TAME ? 124 + x % 7
                         : fill == GEMM_WIDE ? 107 + x % 41 : x % 255);
    if (fill == GEMM_TAME) return (uint8_t)(0x28 + x % 0x20);
    const uint8_t byte = (uint8_t)x;
    return x % 5 == 0 ? (uint8_t)(byte & 0x80) : (byte & 0x7f) == 0x7f ? 0x30 : byte;
}

gemm_source gemm_source_make(nib_format format, int64_t n, int64_t k, nib_code_order order,
                             nib_scale_layout layout, int64_t gap, enum gemm_fill fill)
{
    const int64_t ld = nib_codes_row_bytes(format, k) + gap;
    gemm_source s = { .tensor_scale = 0.0123f, .codes_bytes = n * ld,
                      .scales_bytes = nib_scales_bytes(format, layout, n, k) };
    s.p = (nib_packed){ sizeof s.p, format, order, layout, n, k,
                        calloc(1, (size_t)s.codes_bytes + 1), ld,
                        calloc(1, (size_t)s.scales_bytes + 1), NULL };
    s.w = malloc((size_t)(n * k + 1) * sizeof *s.w);
    for (int64_t i = 0; i < s.codes_bytes; i++) s.p.codes[i] = (uint8_t)(next_random() >> 11);
    for (int64_t row = 0; row < n; row++)
        for (int64_t b = 0; b < nib_scales_per_row(format, k); b++)
            *gemm_source_scale(&s, row, b) = random_scale(format, fill);
    gemm_source_decode(&s);
    return s;
}

void gemm_source_free(gemm_source *s) { free(s->p.codes), free(s->p.scales), free(s->w); }

gemm_pack gemm_pack_new(const runner *r, nib_gemm_layout layout, const nib_packed *like,
                        int32_t gated, float tensor_scale)
{
    gemm_pack p = { 0 };
    OK(nib_gemm_describe(r->device, layout, like->format, like->rows, like->cols, gated, &p.w));
    p.codes = buffer_new(r, NULL, (size_t)nib_gemm_codes_bytes(&p.w), 32);
    p.scales = buffer_new(r, NULL, (size_t)nib_gemm_scales_bytes(&p.w), 48);
    p.tensor_scale = buffer_new(r, &tensor_scale, 4, 4);
    p.w.codes = p.codes.at;
    p.w.scales = p.scales.at;
    if (nib_format_has_tensor_scale(like->format)) p.w.tensor_scale = p.tensor_scale.at;
    return p;
}

nib_status gemm_pack_into(const runner *r, const gemm_source *s, const nib_gemm_weights *w)
{
    const nib_exec exec = exec_of(r);
    buffer codes = buffer_new(r, s->p.codes, (size_t)s->codes_bytes, 3);
    buffer scales = buffer_new(r, s->p.scales, (size_t)s->scales_bytes, 5);
    nib_packed src = s->p;
    src.codes = codes.at;
    src.scales = scales.at;
    src.tensor_scale = w->tensor_scale;
    const nib_status status = nib_gemm_pack(&exec, &src, w);
    runner_wait(r);
    buffer_free(&codes), buffer_free(&scales);
    return status;
}

gemm_pack gemm_pack_of(const runner *r, const gemm_source *s, int32_t gated)
{
    gemm_pack p = gemm_pack_new(r, NIB_GEMM_LAYOUT_AUTO, &s->p, gated, s->tensor_scale);
    OK(gemm_pack_into(r, s, &p.w));
    return p;
}

void gemm_pack_free(gemm_pack *p)
{
    buffer_free(&p->codes), buffer_free(&p->scales), buffer_free(&p->tensor_scale);
}

/* ---- products ---- */

nib_gemm_options gemm_options(nib_format format, int64_t n, int64_t k, int64_t m_max,
                              nib_dtype a_dtype, nib_dtype d_dtype)
{
    return (nib_gemm_options){ .size = sizeof(nib_gemm_options), .format = format, .n = n, .k = k,
                               .m_max = m_max, .a_dtype = a_dtype, .d_dtype = d_dtype };
}

void gemm_put_number(nib_dtype dtype, void *data, int64_t i, double value)
{
    nib_store_f32((int)dtype, data, i, (float)value);
}

static void fill(nib_dtype dtype, uint8_t *data, int64_t n, int tame)
{
    for (int64_t i = 0; i < n; i++) {
        const double unit = (double)next_unit(); /* a few are larger, a few 0 */
        const uint32_t kind = next_random() >> 5 & 15;
        gemm_put_number(dtype, data, i, tame ? floor(unit * 4)
                                             : kind == 0 ? 0 : kind == 1 ? unit * 40 : unit);
    }
}

gemm_inputs gemm_inputs_make(const gemm_case *c)
{
    const nib_gemm_options *o = &c->o;
    const int64_t columns = o->gated ? o->n / 2 : o->n, a_unit = 16 / (int64_t)width_of(o->a_dtype);
    const int64_t d_unit = 16 / (int64_t)width_of(o->d_dtype);
    gemm_inputs x = { .columns = columns, .alpha = 0.75f };
    x.a_ld = o->k + c->gap * a_unit; /* K and N are multiples of 8 */
    x.d_ld = columns + c->gap * d_unit;
    x.a = malloc((size_t)(c->m * x.a_ld) * 4 + 4);
    x.bias = malloc((size_t)o->n * 4 + 4);
    x.residual = malloc((size_t)(c->m * x.d_ld) * 4 + 4);
    fill(o->a_dtype, x.a, c->m * x.a_ld, c->tame);
    for (int64_t i = 0; i < c->m * x.a_ld && c->shrink != 0; i++)
        gemm_put_number(o->a_dtype, x.a, i, gemm_number(o->a_dtype, x.a, i) * c->shrink);
    fill(o->d_dtype, x.bias, o->n, c->tame);
    fill(o->d_dtype, x.residual, c->m * x.d_ld, c->tame);
    for (int64_t m = 0; m < c->m; m++) /* what lies between rows is not to be read */
        for (int64_t k = o->k; k < x.a_ld; k++)
            gemm_put_number(o->a_dtype, x.a, m * x.a_ld + k, NAN);
    return x;
}

void gemm_inputs_free(gemm_inputs *x) { free(x->a), free(x->bias), free(x->residual); }

static size_t matrix_bytes(nib_dtype dtype, int64_t rows, int64_t cols, int64_t ld)
{
    return rows == 0 || cols == 0 ? 0 : (size_t)((rows - 1) * ld + cols) * width_of(dtype);
}

static void check_gaps(const runner *r, const gemm_case *c, const gemm_inputs *x, const uint8_t *d)
{
    const size_t width = width_of(c->o.d_dtype), row = (size_t)x->d_ld * width;
    size_t touched = 0;
    for (int64_t m = 0; m + 1 < c->m; m++) {
        for (size_t i = (size_t)x->columns * width; i < row; i++) {
            const size_t at = (size_t)m * row + i;
            touched += d[at] != (c->in_place ? x->residual[at] : POISON);
        }
    }
    EXPECT(touched == 0, "%s: %zu bytes between rows of d were written", gemm_text(r, c), touched);
}

uint8_t *gemm_run(const runner *r, const gemm_case *c, const gemm_source *s, const gemm_pack *p,
                  const gemm_inputs *x, size_t *bytes)
{
    const nib_gemm_options *o = &c->o;
    const size_t a_bytes = matrix_bytes(o->a_dtype, c->m, o->k, x->a_ld);
    const size_t d_bytes = matrix_bytes(o->d_dtype, c->m, x->columns, x->d_ld);
    nib_gemm_plan plan = { .size = sizeof plan };
    nib_exec exec = exec_of(r);
    (void)s;
    *bytes = d_bytes;
    soil_last_error();
    const nib_status made = nib_gemm_plan_make(r->device, o, &plan);
    EXPECT(made == NIB_OK, "%s: %s", gemm_text(r, c), nib_last_error());
    if (made != NIB_OK) return NULL;
    buffer a = buffer_new(r, x->a, a_bytes, c->off), d = buffer_new(r, c->in_place ? x->residual
                                                                  : NULL, d_bytes, c->off);
    buffer residual = buffer_new(r, x->residual, d_bytes, c->off);
    buffer bias = buffer_new(r, x->bias, (size_t)o->n * width_of(o->d_dtype),
                             width_of(o->d_dtype));
    buffer alpha = buffer_new(r, &x->alpha, 4, 4);
    buffer workspace = buffer_new(r, NULL, nib_gemm_workspace_bytes(&plan, c->m), 0);
    const nib_matrix am = { a.at, o->a_dtype, c->m, o->k, x->a_ld };
    const nib_matrix dm = { d.at, o->d_dtype, c->m, x->columns, x->d_ld };
    const nib_matrix rm = { residual.at, o->d_dtype, c->m, x->columns, x->d_ld };
    const nib_gemm_args args = {
        .size = sizeof args, .a = &am, .w = &p->w, .d = &dm, .alpha = c->alpha ? alpha.at : NULL,
        .bias = c->bias ? bias.at : NULL,
        .residual = !c->residual ? NULL : c->in_place ? &dm : &rm,
    };
    exec.workspace = workspace.at;
    exec.workspace_bytes = workspace.bytes;
    const nib_status status = nib_gemm(&exec, &plan, &args);
    EXPECT(status == NIB_OK, "%s: %s", gemm_text(r, c), nib_last_error());
    runner_wait(r);
    buffer_free(&a), buffer_free(&residual), buffer_free(&bias), buffer_free(&alpha);
    buffer_free(&workspace);
    uint8_t *got = buffer_take(&d);
    if (status == NIB_OK) check_gaps(r, c, x, got);
    return got;
}

int gemm_is_within(nib_dtype dtype, double got, gemm_answer right)
{
    const double most = dtype == NIB_F16 ? 65504 : 0x1.fp127;
    if (isnan(right.value)) return isnan(got);
    if (isinf(right.value) || got == right.value) return got == right.value;
    if (isinf(got)) return (got > 0 ? right.value : -right.value) + right.bound > most;
    return fabs(got - right.value) <= right.bound;
}

void gemm_check_with(const runner *r, const gemm_case *c, const gemm_source *s,
                     const gemm_inputs *x)
{
    size_t bytes;
    int wrong = 0;
    gemm_pack p = gemm_pack_of(r, s, c->o.gated);
    uint8_t *d = gemm_run(r, c, s, &p, x, &bytes);
    for (int64_t m = 0; m < c->m && d && !wrong; m++) {
        for (int64_t n = 0; n < x->columns && !wrong; n++) {
            const gemm_answer right = gemm_exact(c, s, x, m, n);
            const double got = gemm_number(c->o.d_dtype, d, m * x->d_ld + n);
            if (gemm_is_within(c->o.d_dtype, got, right)) continue;
            wrong = 1;
            EXPECT(0, "%s: D[%lld,%lld] is %.9g, not %.9g +- %.3g", gemm_text(r, c), (long long)m,
                   (long long)n, got, right.value, right.bound);
        }
    }
    free(d);
    gemm_pack_free(&p);
}

void gemm_check(const runner *r, const gemm_case *c, const gemm_source *s)
{
    gemm_inputs x = gemm_inputs_make(c);
    gemm_check_with(r, c, s, &x);
    gemm_inputs_free(&x);
}

const char *gemm_text(const runner *r, const gemm_case *c)
{
    static _Thread_local char text[600];
    const nib_gemm_options *o = &c->o;
    snprintf(text, sizeof text, "%s: %s: tactic %s, %lld of %lld x %lld x %lld, format %#x, a %d, "
             "d %d, accumulate %d by %d, int8 %d, act %d, gated %d, invariant %d, gap %lld, alpha "
             "%d, bias %d, residual %d, in place %d", r->name, c->label ? c->label : "",
             o->tactic ? o->tactic : "by M", (long long)c->m, (long long)o->m_max, (long long)o->n,
             (long long)o->k, o->format, (int)o->a_dtype, (int)o->d_dtype, (int)o->accumulate,
             o->f16_chunk, (int)o->activations, (int)o->act, o->gated, o->batch_invariant,
             (long long)c->gap, c->alpha, c->bias, c->residual, c->in_place);
    return text;
}
