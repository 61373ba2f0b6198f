/* gptq_outcome_test.c: what a factor says of H's that need damping, have no tokens or are not
 * definite, and what becomes of a layer then; what a cancelled call leaves; how much memory a call
 * needs; degenerate sizes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/expect_status.h"
#include "tests/gptq_fixture.h"

/* nib_quantize of the job's layer: codes as they are packed. */
static uint8_t *plain_of(const runner *r, const gptq_job *job, uint8_t **scales)
{
    const gptq_source *s = job->s;
    const int64_t ld = nib_codes_row_bytes(job->format, s->k);
    const nib_exec exec = exec_of(r);
    buffer w = buffer_new(r, s->w, (size_t)(s->rows * s->k) * (s->dtype == NIB_F32 ? 4 : 2), 0);
    buffer codes = buffer_new(r, NULL, (size_t)(s->rows * ld), 0);
    buffer bytes = buffer_new(r, NULL, (size_t)nib_scales_bytes(job->format, NIB_SCALES_LINEAR,
                                                                s->rows, s->k), 0);
    buffer t = buffer_new(r, NULL, 4, 0), amax = buffer_new(r, &s->amax, 4, 0);
    const int has_scale = nib_format_has_tensor_scale(job->format);
    const nib_matrix src = { w.at, s->dtype, s->rows, s->k, s->k };
    const nib_packed dst = { sizeof dst, job->format, NIB_CODES_PAIRS, NIB_SCALES_LINEAR, s->rows,
                             s->k, codes.at, ld, bytes.at, has_scale ? t.at : NULL };
    const nib_quantize_options o = { .size = sizeof o, .scale_choice = job->choice,
                                     .rules = job->rules,
                                     .tensor_amax = has_scale ? amax.at : NULL };
    OK(nib_quantize(&exec, &src, &o, &dst));
    runner_wait(r);
    *scales = buffer_take(&bytes);
    buffer_free(&w), buffer_free(&t), buffer_free(&amax);
    return buffer_take(&codes);
}

/* Runs the job, which is to end in plain rounding, and compares with nib_quantize. */
static gptq_result expect_plain(const runner *r, const gptq_job *job, nib_gptq_outcome right)
{
    uint8_t *scales, *codes = plain_of(r, job, &scales);
    const int64_t ld = nib_codes_row_bytes(job->format, job->s->k);
    const size_t bytes = (size_t)(job->s->rows * ld);
    const size_t blocks = (size_t)(job->s->rows * nib_scales_per_row(job->format, job->s->k));
    gptq_result o = gptq_run(r, job);
    EXPECT(o.factor.outcome == right && o.report.outcome == right, "%s: outcome %d",
           gptq_text(r, job), (int)o.report.outcome);
    EXPECT(memcmp(o.bytes, codes, bytes) == 0 && memcmp(o.bytes + bytes, scales, blocks) == 0,
           "%s: not nib_quantize's bytes", gptq_text(r, job));
    EXPECT(o.report.plain_rows == job->s->rows && o.report.error == o.report.plain_error,
           "%s: %lld plain rows", gptq_text(r, job), (long long)o.report.plain_rows);
    free(codes), free(scales);
    return o;
}

NIB_TEST(OnDeviceGptqOutcome, NoTokensMeansPlainRounding)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 61;
    for (int i = 0; i < 2 * n; i++) {
        gptq_source s = gptq_source_make(NIB_BF16, 19, 50, 60, 0);
        gptq_job job = gptq_job_of(&s, i % 2 ? NIB_NVFP4 : NIB_MXFP4);
        job.real = (nib_real)(i % 2);
        job.choice = i % 4 < 2 ? NIB_SCALE_AMAX : NIB_SCALE_MSE;
        s.tokens = 0; /* an expert that was never chosen; whatever H holds */
        if (i % 2) memset(s.h, 0, 50 * 50 * sizeof *s.h);
        gptq_result o = expect_plain(list[i / 2], &job, NIB_GPTQ_NO_TOKENS);
        EXPECT(o.factor.tokens == 0 && o.factor.dead == (i % 2 ? 50 : 0), "tokens, dead");
        if (i % 2) EXPECT(o.report.error == 0 && o.report.weight == 0, "of nothing: %g",
                          o.report.error);
        gptq_result_free(&o);
        memset(s.h, 0, 50 * 50 * sizeof *s.h);
        s.tokens = 7; /* tokens of zeros */
        job.uncounted = i % 2;
        o = expect_plain(list[i / 2], &job, NIB_GPTQ_NO_TOKENS);
        EXPECT(o.factor.tokens == (i % 2 ? UINT64_MAX : 7), "tokens");
        gptq_result_free(&o);
        gptq_source_free(&s);
    }
}

/* 1 on the diagonal, pairs of inputs with x beside it: least eigenvalue 1 - x. */
static gptq_source pairs_make(int64_t k, double x)
{
    double *h = calloc((size_t)(k * k), sizeof *h);
    for (int64_t i = 0; i < k; i++) h[i * (k + 1)] = 1;
    for (int64_t i = 0; i + 1 < k; i += 2) h[i * k + i + 1] = h[(i + 1) * k + i] = x;
    gptq_source s = gptq_source_of(NIB_F32, 21, k, h);
    free(h);
    return s;
}

NIB_TEST(OnDeviceGptqOutcome, DampingIsRaisedUntilAFactorStands)
{
    static const struct {
        double x, damping, most, used;
        int    tries;
    } cases[] = {
        { 0.5, 0, 0, 0.01, 1 },     { 1.005, 0, 0, 0.01, 1 }, { 1.005, -1, 0, 0.01, 2 },
        { 1.05, 0, 0, 0.1, 2 },     { 1.5, 0, 0, 1.0, 3 },    { 1.5, -1, 0, 1.0, 4 },
        { 5, 0, 10, 10, 4 },        { 1.5, 0.2, 5, 2, 2 },    { 0.5, -1, 0, 0, 1 },
        { 1.05, 1e-4, 0, 0.1, 4 },
    };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 62;
    for (int c = 0; c < 10; c++) {
        gptq_source s = pairs_make(34, cases[c].x);
        for (int i = 0; i < 2; i++) {
            gptq_job job = gptq_job_of(&s, NIB_NVFP4);
            job.real = (nib_real)i;
            job.order = (nib_gptq_order)(c % 3);
            job.damping = cases[c].damping, job.most_damping = cases[c].most;
            gptq_result o = gptq_run(list[c % n], &job);
            const nib_gptq_factor *f = &o.factor;
            EXPECT(f->outcome == NIB_GPTQ_DONE && f->tries == cases[c].tries
                   && fabs(f->damping - cases[c].used) <= 1e-12 && f->added == f->damping,
                   "x %g, damping %g: %d tries, %g used, %g added", cases[c].x, cases[c].damping,
                   f->tries, f->damping, f->added);
            EXPECT(o.report.error <= o.report.plain_error * (1 + 1e-4), "worse than plain");
            gptq_result_free(&o);
        }
        gptq_source_free(&s);
    }
}

NIB_TEST(OnDeviceGptqOutcome, NotDefiniteMeansPlainRounding)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 63;
    for (int i = 0; i < 2 * n; i++) {
        gptq_source s = pairs_make(70, 3);
        gptq_job job = gptq_job_of(&s, i % 2 ? NIB_NVFP4 : NIB_FP8_E4M3_B16);
        job.real = (nib_real)(i % 2);
        if (i % 2) job.damping = 0.05, job.most_damping = 0.05;
        gptq_result o = expect_plain(list[i / 2], &job, NIB_GPTQ_NOT_DEFINITE);
        EXPECT(o.factor.tries == (i % 2 ? 1 : 3), "%d tries", o.factor.tries);
        const double direct = gptq_error(&job, &o);
        EXPECT(fabs(direct - o.report.error) <= 1e-5 * o.report.weight, "error %g, not %g",
               o.report.error, direct);
        gptq_result_free(&o);
        gptq_source_free(&s);
    }
}

/* Weights of which every second row's sum is below 0, and that of most inputs of the others. */
static gptq_source below_zero_make(int64_t k)
{
    gptq_source s = pairs_make(k, 1.5);
    for (int64_t i = 0; i < s.rows; i++)
        for (int64_t j = 0; j + 1 < k; j += 2) {
            float *const pair = s.wf + i * k + j;
            const int positive = i % 2 && j >= k / 4 * 3;
            if (positive) pair[0] *= 3;
            pair[1] = positive ? pair[0] : -pair[0];
        }
    gptq_source_store(&s);
    return s;
}

static double weight_of(const gptq_source *s, int64_t row)
{
    double *w = malloc((size_t)s->k * sizeof *w);
    for (int64_t j = 0; j < s->k; j++) w[j] = (double)s->wf[row * s->k + j];
    const double weight = ref_quadratic(w, s->h, s->k);
    free(w);
    return weight;
}

static void expect_sum(const runner *r, const char *what, double got, double right, double tiny)
{
    EXPECT(fabs(got - right) <= tiny, "%s: %s is %g, not %g", r->name, what, got, right);
}

/* H is not definite, damping makes it so: what is reported is of H itself. */
NIB_TEST(OnDeviceGptqOutcome, SumsBelowZeroCountAsZeroWhereAFactorStands)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 64;
    for (int i = 0; i < 2 * n; i++) {
        const runner *r = list[i / 2];
        gptq_source s = below_zero_make(r == list[n - 1] ? 700 : 70);
        gptq_job job = gptq_job_of(&s, NIB_NVFP4);
        job.real = (nib_real)(i % 2);
        gptq_result o = gptq_run(r, &job);
        job.most_damping = job.damping = 0.05; /* plain rounding then, with sums as they are */
        gptq_result plain = gptq_run(r, &job);
        REQUIRE(o.factor.outcome == NIB_GPTQ_DONE && o.factor.tries == 3
                && plain.factor.outcome == NIB_GPTQ_NOT_DEFINITE, "%s: outcomes", r->name);
        double weight[2] = { 0 }, error = 0, rounded[2] = { 0 }; /* as counted, and as they are */
        for (int64_t row = 0; row < s.rows; row++) {
            const double w = weight_of(&s, row), p = gptq_row_error(&job, &plain, row);
            weight[0] += fmax(w, 0), weight[1] += w;
            rounded[0] += fmax(p, 0), rounded[1] += p;
            error += fmax(gptq_row_error(&job, &o, row), 0);
        }
        const double tiny = 1e-5 * weight[0];
        REQUIRE(weight[0] > weight[1] + 100 * tiny && rounded[0] > rounded[1] + 10 * tiny,
                "%s: no row's sum is below 0", r->name);
        expect_sum(r, "weight", o.report.weight, weight[0], tiny);
        expect_sum(r, "error", o.report.error, error, tiny);
        expect_sum(r, "plain_error", o.report.plain_error, rounded[0], tiny);
        expect_sum(r, "weight without a factor", plain.report.weight, weight[1], tiny);
        expect_sum(r, "error without a factor", plain.report.error, rounded[1], tiny);
        gptq_result_free(&o), gptq_result_free(&plain);
        gptq_source_free(&s);
    }
}

/* Of rows of no inputs and inputs of no rows nothing is to be said. */
NIB_TEST(OnDeviceGptqOutcome, NoRowsOrNoInputs)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < n; i++) {
        for (int which = 0; which < 3; which++) {
            gptq_source s = gptq_source_of(NIB_F32, 4, 0, (double[]){ 0 });
            if (which == 1) gptq_source_free(&s), s = gptq_source_make(NIB_F32, 1, 40, 50, 0);
            s.rows = which == 0 ? 4 : 0;
            gptq_job job = gptq_job_of(&s, NIB_NVFP4);
            job.tensor_scale = 0.5f;
            gptq_result o = gptq_run(list[i], &job);
            EXPECT(o.status == NIB_OK && o.report.rows == s.rows && o.report.error == 0
                   && o.report.plain_rows == s.rows, "%s: rows %lld", list[i]->name,
                   (long long)o.report.rows);
            EXPECT(o.factor.outcome == (which == 1 ? NIB_GPTQ_DONE : NIB_GPTQ_NO_TOKENS)
                   || s.k == 0, "outcome %d", (int)o.factor.outcome);
            gptq_result_free(&o);
            gptq_source_free(&s);
        }
    }
}

/* ---- memory ---- */

/* T (257 k (r + 1) + 32 k + 180000 r + 1024) + 8 rows + 17 k + 1024. Not less than a tile of
 * weights for each thread either, so that the formula is of use. */
NIB_TEST(OnDeviceGptqOutcome, WorkspaceIsWhatTheHeaderSays)
{
    static const int64_t shapes[][2] = { { 1, 1 }, { 128, 128 }, { 1000, 64 }, { 4096, 4096 },
                                         { 33, 14336 }, { 14336, 4096 }, { 7, 3 }, { 257, 32768 } };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    if (runner_is_cuda(list[n - 1])) SKIP("the formula is the CPU's");
    for (int i = 0; i < n; i++) {
        for (int s = 0; s < 16 * 6; s++) { /* shapes, reals, threads */
            const int64_t rows = shapes[s % 8][0], k = shapes[s % 8][1];
            const nib_real real = (nib_real)(s / 8 % 2);
            const int64_t r = real == NIB_REAL_F64 ? 8 : 4, threads = 1 << s / 16;
            const int64_t tiles = (rows + 255) / 256, t = threads < tiles ? threads : tiles;
            const int64_t most = t * (257 * k * (r + 1) + 32 * k + 180000 * r + 1024) + 8 * rows
                               + 17 * k + 1024;
            const size_t bytes = nib_gptq_workspace_bytes(list[i]->device, real, rows, k,
                                                          (int32_t)threads);
            EXPECT((int64_t)bytes <= most && (int64_t)bytes >= t * 256 * k * r, "%lld x %lld, real "
                   "%d, %lld threads: %zu bytes", (long long)rows, (long long)k, (int)real,
                   (long long)threads, bytes);
        }
    }
}

NIB_TEST(OnDeviceGptqOutcome, WorkspaceQueriesOfBadArguments)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    const nib_device *on = list[n - 1]->device;
    const nib_real f32 = NIB_REAL_F32;
    EXPECT(nib_gptq_workspace_bytes(NULL, f32, 1, 1, 0) == SIZE_MAX
           && nib_gptq_workspace_bytes(on, (nib_real)2, 1, 1, 0) == SIZE_MAX
           && nib_gptq_workspace_bytes(on, f32, -1, 1, 0) == SIZE_MAX
           && nib_gptq_workspace_bytes(on, f32, 1, -1, 0) == SIZE_MAX
           && nib_gptq_workspace_bytes(on, f32, 1, (int64_t)INT32_MAX + 1, 0) == SIZE_MAX
           && nib_gptq_workspace_bytes(on, f32, 1, 1, -1) == SIZE_MAX
           && nib_gptq_workspace_bytes(on, f32, 1, 1, 1025) == SIZE_MAX, "a bad argument");
    nib_hessian h = { sizeof h, f32, 4, &h, 4, NULL };
    EXPECT(nib_hessian_add_workspace_bytes(on, &h, -1) == SIZE_MAX
           && nib_hessian_add_workspace_bytes(on, NULL, 1) == SIZE_MAX
           && nib_hessian_add_workspace_bytes(NULL, &h, 1) == SIZE_MAX, "a bad argument");
    size_t before = 0;
    for (int64_t rows = 0; rows < 3000; rows += 250) { /* grows with rows */
        const size_t bytes = nib_hessian_add_workspace_bytes(on, &h, rows);
        EXPECT(bytes >= before, "%lld rows", (long long)rows);
        before = bytes;
    }
    h.size = 3;
    EXPECT(nib_hessian_add_workspace_bytes(on, &h, 1) == SIZE_MAX, "a bad size");
}
