/* gptq_fixture.c: runners, Hessians and layers. See gptq_fixture.h. */
#include "tests/gptq_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/half.h"

/* ---- runners ---- */

static char missing[400];

/* Whether the library can: OpenBLAS is opened by the first call that needs it. */
static int is_offered(const runner *r)
{
    static double h[1] = { 1 }, l[1];
    static int32_t order[1];
    const nib_exec exec = exec_of(r);
    const nib_hessian hessian = { sizeof hessian, NIB_REAL_F64, 1, h, 1, NULL };
    nib_gptq_factor factor = { .size = sizeof factor, .real = NIB_REAL_F64, .k = 1, .l = l,
                               .ld_elems = 1, .order = order };
    if (runner_is_cuda(r)) { /* k == 0 touches no memory */
        nib_hessian none = hessian;
        none.k = factor.k = 0;
        if (nib_gptq_factor_make(&exec, &none, NULL, &factor) != NIB_ERR_UNSUPPORTED) return 1;
    } else if (nib_gptq_factor_make(&exec, &hessian, NULL, &factor) != NIB_ERR_UNSUPPORTED) {
        return 1;
    }
    snprintf(missing, sizeof missing, "%s", nib_last_error());
    return 0;
}

const char *gptq_missing(void) { return missing; }

int gptq_runners(const runner *list[GPTQ_RUNNERS])
{
    const runner *all;
    const int n = runners_open(&all);
    int count = 0;
    if (n == 0) {
        snprintf(missing, sizeof missing, "no device can be opened");
        return 0;
    }
    const int cuda = runner_is_cuda(&all[n - 1]);
    if (!is_offered(&all[cuda ? n - 1 : 0])) return 0;
    if (cuda) return list[0] = &all[n - 1], 1;
    const int wanted[GPTQ_RUNNERS] = { 0, 2, 4, 7 };
    for (int i = 0; i < GPTQ_RUNNERS; i++)
        if (wanted[i] < n) list[count++] = &all[wanted[i]];
    return count;
}

double next_normal(void) /* Box and Muller */
{
    const double a = (next_random() + 0.5) * 0x1p-32, b = (next_random() + 0.5) * 0x1p-32;
    return sqrt(-2 * log(a)) * cos(2 * M_PI * b);
}

/* ---- Hessians ---- */

double real_get(nib_real real, const void *data, int64_t i)
{
    return real == NIB_REAL_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}

void real_put(nib_real real, void *data, int64_t i, double x)
{
    if (real == NIB_REAL_F64) ((double *)data)[i] = x;
    else ((float *)data)[i] = (float)x;
}

size_t reals_bytes(nib_real real, int64_t k, int64_t ld)
{
    return k ? (size_t)((k - 1) * ld + k) * (real == NIB_REAL_F64 ? 8 : 4) : 0;
}

gptq_moments gptq_moments_new(const runner *r, nib_real real, int64_t k, int64_t gap,
                              const double *h, uint64_t tokens)
{
    const int64_t ld = k + gap;
    const size_t bytes = reals_bytes(real, k, ld);
    void *data = malloc(bytes + 8);
    for (size_t i = 0; i < bytes / (real == NIB_REAL_F64 ? 8 : 4); i++)
        real_put(real, data, (int64_t)i, NAN);
    for (int64_t i = 0; i < k && h; i++)
        for (int64_t j = 0; j <= i; j++) real_put(real, data, i * ld + j, h[i * k + j]);
    gptq_moments m = { .data = buffer_new(r, data, bytes, 0),
                       .tokens = buffer_new(r, &tokens, sizeof tokens, 0) };
    m.hessian = (nib_hessian){ sizeof m.hessian, real, k, m.data.at, ld, m.tokens.at };
    free(data);
    return m;
}

uint64_t gptq_moments_get(const gptq_moments *m, double *h)
{
    const int64_t k = m->hessian.k, ld = m->hessian.ld_elems;
    const nib_real real = m->hessian.real;
    void *data = malloc(m->data.bytes + 8);
    uint64_t tokens = 0;
    int64_t written = 0;
    runner_wait(m->data.on);
    buffer_get(&m->data, data);
    buffer_get(&m->tokens, &tokens);
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j <= i; j++)
            h[i * k + j] = h[j * k + i] = real_get(real, data, i * ld + j);
        for (int64_t j = i + 1; j < ld && i + 1 < k; j++)
            written += !isnan(real_get(real, data, i * ld + j));
    }
    EXPECT(written == 0, "%lld reals beyond the triangle were written", (long long)written);
    free(data);
    return tokens;
}

void gptq_moments_free(gptq_moments *m)
{
    buffer_free(&m->data);
    buffer_free(&m->tokens);
}

/* ---- layers ---- */

void gptq_source_store(gptq_source *s)
{
    s->amax = 0;
    for (int64_t i = 0; i < s->rows * s->k; i++) {
        s->wf[i] = nib_round_to_dtype((int)s->dtype, s->wf[i]);
        s->amax = fmaxf(s->amax, fabsf(s->wf[i]));
        nib_store_f32((int)s->dtype, s->w, i, s->wf[i]);
    }
}

gptq_source gptq_source_of(nib_dtype dtype, int64_t rows, int64_t k, const double *h)
{
    const size_t n = (size_t)(rows * k);
    gptq_source s = { .rows = rows, .k = k, .dtype = dtype, .w = malloc(n * 4 + 4),
                      .wf = malloc(n * 4 + 4), .h = malloc((size_t)(k * k) * 8 + 8),
                      .tokens = 4096 };
    memcpy(s.h, h, (size_t)(k * k) * 8);
    for (size_t i = 0; i < n; i++)
        s.wf[i] = (float)(0.02 * next_normal() * (next_random() % 100 ? 1 : 3));
    gptq_source_store(&s);
    return s;
}

gptq_source gptq_source_make(nib_dtype dtype, int64_t rows, int64_t k, int64_t tokens, int dead)
{
    double *h = calloc((size_t)(k * k) + 1, sizeof *h);
    double *x = malloc((size_t)k * sizeof *x + 8), *gain = malloc((size_t)k * sizeof *gain + 8);
    for (int64_t j = 0; j < k; j++) {
        gain[j] = exp2((double)next_unit());
        if (next_random() % 48 == 0) gain[j] *= 15;
    }
    for (int i = 0; i < dead; i++) gain[next_random() % k] = 0;
    for (int64_t t = 0; t < tokens; t++) {
        double wave = next_normal();
        for (int64_t j = 0; j < k; j++) {
            wave = 0.9 * wave + 0.44 * next_normal();
            x[j] = (double)(float)(gain[j] * wave);
        }
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = 0; j <= i; j++) h[i * k + j] += x[i] * x[j];
    }
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < i; j++) h[j * k + i] = h[i * k + j];
    gptq_source s = gptq_source_of(dtype, rows, k, h);
    s.tokens = (uint64_t)tokens;
    for (int64_t j = 0; j < 32 && j < k; j++) s.wf[rows / 2 * k + j] = 0;
    if (rows >= 5) memset(s.wf + 3 * k, 0, (size_t)k * 4);
    gptq_source_store(&s);
    free(h), free(x), free(gain);
    return s;
}

void gptq_source_free(gptq_source *s)
{
    free(s->w), free(s->wf), free(s->h);
    *s = (gptq_source){ 0 };
}
