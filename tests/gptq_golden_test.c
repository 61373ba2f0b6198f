/* gptq_golden_test.c: from tokens and weights to codes and scales as numpy and scipy make them: see
 * scripts/oracles/make_gptq.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gptq_fixture.h"

enum { MOST_ROWS = 32, MOST_K = 96, MOST_TOKENS = 128, MOST_BLOCKS = MOST_K / 16 };

typedef struct head {
    uint32_t rows, k, tokens, cases;
    float    damping, amax;
} head;

typedef struct golden {
    uint32_t format, order, scales;
    double   error, plain_error, weight;
    int32_t  inputs[MOST_K];
    uint8_t  bytes[MOST_ROWS * MOST_BLOCKS], codes[MOST_ROWS * MOST_K];
} golden;

static int take(FILE *file, void *to, size_t bytes) { return fread(to, 1, bytes, file) == bytes; }

static int take_case(FILE *file, const head *y, golden *c)
{
    const size_t n = (size_t)y->rows * y->k;
    if (!take(file, &c->format, 4) || !take(file, &c->order, 4) || !take(file, &c->scales, 4)
        || !nib_format_is_valid(c->format))
        return 0;
    const int64_t blocks = nib_scales_per_row(c->format, y->k);
    return take(file, &c->error, 8) && take(file, &c->plain_error, 8) && take(file, &c->weight, 8)
        && take(file, c->inputs, y->k * 4) && take(file, c->bytes, (size_t)(y->rows * blocks))
        && take(file, c->codes, n);
}

/* The Hessian of f16 tokens, as the library adds it up. */
static void moments_of(const runner *r, const head *y, const uint16_t *x, double *h)
{
    nib_exec exec = exec_of(r);
    gptq_moments m = gptq_moments_new(r, NIB_REAL_F64, y->k, 0, NULL, 0);
    buffer in = buffer_new(r, x, (size_t)y->tokens * y->k * 2, 0);
    buffer work = buffer_new(r, NULL, nib_hessian_add_workspace_bytes(r->device, &m.hessian,
                                                                      y->tokens), 0);
    const nib_matrix tokens = { in.at, NIB_F16, y->tokens, y->k, y->k };
    exec.workspace = work.at, exec.workspace_bytes = work.bytes;
    OK(nib_hessian_clear(&exec, &m.hessian));
    OK(nib_hessian_add(&exec, &tokens, NIB_HESSIAN_EXACT, &m.hessian));
    EXPECT(gptq_moments_get(&m, h) == y->tokens, "tokens");
    buffer_free(&in), buffer_free(&work);
    gptq_moments_free(&m);
}

static void check(const runner *r, const head *y, const golden *c, const gptq_source *s)
{
    gptq_job job = gptq_job_of(s, c->format);
    job.order = (nib_gptq_order)c->order, job.scales = (nib_gptq_scales)c->scales;
    job.damping = 0.01;
    const size_t blocks = (size_t)nib_scales_per_row(c->format, y->k);
    gptq_result o = gptq_run(r, &job);
    EXPECT(memcmp(o.order, c->inputs, y->k * 4) == 0, "%s: another order", gptq_text(r, &job));
    EXPECT(memcmp(o.scales, c->bytes, y->rows * blocks) == 0, "%s: other scales",
           gptq_text(r, &job));
    EXPECT(memcmp(o.codes, c->codes, (size_t)y->rows * y->k) == 0, "%s: other codes",
           gptq_text(r, &job));
    EXPECT(fabs(o.report.error - c->error) <= 1e-9 * c->plain_error
           && fabs(o.report.plain_error - c->plain_error) <= 1e-9 * c->plain_error
           && fabs(o.report.weight - c->weight) <= 1e-9 * c->weight, "%s: %g of %g of %g, not %g "
           "of %g of %g", gptq_text(r, &job), o.report.error, o.report.plain_error,
           o.report.weight, c->error, c->plain_error, c->weight);
    gptq_result_free(&o);
}

NIB_TEST(OnDeviceGptqGolden, CodesAndScalesAreNumpys)
{
    static uint16_t x[MOST_TOKENS * MOST_K];
    static float w[MOST_ROWS * MOST_K];
    static double h[MOST_K * MOST_K];
    static golden c;
    head y = { 0 };
    char magic[8];
    uint32_t seen = 0;
    GPTQ_RUNNERS_OR_SKIP(list, n);
    FILE *file = fopen("tests/golden/gptq.bin", "rb");
    REQUIRE(file, "tests/golden/gptq.bin is missing");
    EXPECT(take(file, magic, 8) && !memcmp(magic, "NIBGPTQ1", 8) && take(file, &y, sizeof y)
           && y.rows <= MOST_ROWS && y.k <= MOST_K && y.tokens <= MOST_TOKENS, "head");
    if (nib_test_failed() || !take(file, x, (size_t)y.tokens * y.k * 2)
        || !take(file, w, (size_t)y.rows * y.k * 4))
        EXPECT(0, "the file is short");
    for (; seen < y.cases && !nib_test_failed() && take_case(file, &y, &c); seen++) {
        for (int i = 0; i < n; i++) {
            moments_of(list[i], &y, x, h);
            gptq_source s = gptq_source_of(NIB_F32, y.rows, y.k, h);
            memcpy(s.wf, w, (size_t)y.rows * y.k * 4);
            gptq_source_store(&s);
            s.tokens = y.tokens;
            EXPECT(s.amax == y.amax, "amax");
            check(list[i], &y, &c, &s);
            gptq_source_free(&s);
        }
    }
    EXPECT(seen == y.cases && seen == 10 && fgetc(file) == EOF, "%u of %u cases", seen, y.cases);
    fclose(file);
}
