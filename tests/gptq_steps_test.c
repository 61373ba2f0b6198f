/* gptq_steps_test.c: GPTQ of integers by steps: in f64 codes, steps and zero points are those of
 * the published algorithm, every one; in f32 the error is the same to 0.1 %; what is refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/expect_status.h"
#include "tests/gptq_fixture.h"

#define ACT   NIB_GPTQ_ACT
#define FRESH NIB_GPTQ_SCALES_FRESH
#define TOLERANCE 1e-10

/* All orders, with steps of every kind where they go; fewer searches on the emulator, where they
 * take long. */
static void check_orders(const gptq_job *like, const runner *const *list, int n, int turn)
{
    static const nib_gptq_scales scales[] = { NIB_GPTQ_SCALES_FROZEN, FRESH,
                                              NIB_GPTQ_SCALES_HESSIAN,
                                              NIB_GPTQ_SCALES_HESSIAN_FRESH };
    for (int i = 0; i < 12; i++) {
        gptq_job job = *like;
        job.order = (nib_gptq_order)(i % 3);
        job.scales = scales[i / 3];
        const int64_t group = job.group < job.s->k ? job.group : job.s->k;
        if (job.order == ACT && i / 3 % 2) continue;
        if (i >= 6 && turn % 4 && runner_is_emulated(list[0])) continue;
        if (i < 3 || group <= 128) gptq_check(list[(turn + i) % n], &job, TOLERANCE);
    }
}

NIB_TEST(OnDeviceGptqSteps, EveryElementAndGroup)
{
    static const int64_t groups[] = { 8, 32, 128, 1 << 20 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 81;
    for (int e = NIB_INT2; e <= NIB_INT8; e++) {
        gptq_source s = gptq_source_make((nib_dtype)(e % 3), 17, 132, 160, 2);
        for (int g = 0; g < 4; g++) {
            if (e != NIB_INT4 && e != NIB_INT8 && (e + g) % 2) continue;
            gptq_job job = gptq_job_of_integers(&s, (nib_step_element)e, groups[g]);
            job.asymmetric = e == NIB_INT4 || e == NIB_INT8 ? g % 2 : e % 4 < 2;
            job.gap = g;
            job.divisor = (nib_step_divisor)((e + g) % 2);
            check_orders(&job, list, n, e + g);
            if (e != NIB_INT4) continue;
            job.asymmetric = !job.asymmetric;
            check_orders(&job, list, n, e + g + 1);
        }
        gptq_source_free(&s);
    }
}

NIB_TEST(OnDeviceGptqSteps, ShapesOfEveryKind)
{
    static const int64_t shapes[][3] = { { 1, 1, 8 },    { 1, 8, 8 },    { 3, 15, 16 },
                                         { 2, 33, 24 },  { 7, 129, 64 }, { 1, 300, 40 },
                                         { 130, 40, 32 }, { 257, 65, 1 << 30 }, { 33, 257, 256 } };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 82;
    for (int i = 0; i < 9; i++) {
        gptq_source s = gptq_source_make((nib_dtype)(i % 3), shapes[i][0], shapes[i][1],
                                         shapes[i][1] + 20, i % 2);
        gptq_job job = gptq_job_of_integers(&s, i % 2 ? NIB_INT4 : NIB_INT3, shapes[i][2]);
        job.asymmetric = i / 2 % 2;
        check_orders(&job, list, n, i);
        gptq_source_free(&s);
    }
}

/* Across the borders of the tiles that rows, steps and factors are cut into; groups that are no
 * part of a block of steps, and longer than one. */
NIB_TEST(OnDeviceGptqSteps, LargerThanOneTile)
{
    static const int64_t groups[] = { 128, 256, 1 << 20, 120 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 83;
    gptq_source s = gptq_source_make(NIB_BF16, 140, 405, 150, 4);
    for (int i = 0; i < 4; i++) {
        gptq_job job = gptq_job_of_integers(&s, i % 2 ? NIB_INT8 : NIB_INT4, groups[i]);
        job.order = (nib_gptq_order)(i % 3);
        job.asymmetric = i / 2;
        gptq_check(list[i % n], &job, TOLERANCE);
        job.scales = i ? FRESH : NIB_GPTQ_SCALES_HESSIAN_FRESH;
        job.order = i ? NIB_GPTQ_GROUP_AWARE : NIB_GPTQ_NATURAL;
        if (groups[i] <= 128) gptq_check(list[(i + 1) % n], &job, TOLERANCE);
    }
    gptq_source_free(&s);
}

NIB_TEST(OnDeviceGptqSteps, StepsByEveryRule)
{
    static const nib_step_rule rules[] = { NIB_STEP_E8M0_BYTE, NIB_STEP_BF16, NIB_STEP_F16 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 84;
    gptq_source s = gptq_source_make(NIB_F32, 21, 77, 200, 1);
    for (int i = 0; i < 6; i++) {
        gptq_job job = gptq_job_of_integers(&s, i % 2 ? NIB_INT4 : NIB_INT6, 32);
        job.step_rule = rules[i % 3];
        job.divisor = NIB_STEP_OF_HALF;
        job.asymmetric = i / 3;
        job.without_guard = i % 2;
        check_orders(&job, list, n, i);
    }
    gptq_source_free(&s);
}

NIB_TEST(OnDeviceGptqSteps, NoTokensMeansPlainRounding)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 85;
    gptq_source s = gptq_source_make(NIB_F16, 19, 50, 60, 0);
    s.tokens = 0;
    for (int i = 0; i < n; i++) {
        gptq_job job = gptq_job_of_integers(&s, NIB_INT4, i % 2 ? 16 : 64);
        job.asymmetric = i / 2;
        gptq_result o = gptq_run(list[i], &job);
        const ref_rounding r = gptq_rounding_of(&job);
        const ref_layer layer = gptq_layer_of(&job, &r, &o);
        const size_t blocks = (size_t)((50 + r.block - 1) / r.block) * 19;
        ref_answer a;
        EXPECT(ref_solve(&layer, &a), "solved");
        EXPECT(o.report.outcome == NIB_GPTQ_NO_TOKENS && o.report.plain_rows == 19
               && memcmp(o.codes, a.codes, 19 * 50) == 0
               && memcmp(o.words, a.scales, blocks * sizeof *o.words) == 0, "%s: not plain",
               gptq_text(list[i], &job));
        ref_answer_free(&a);
        gptq_result_free(&o);
    }
    gptq_source_free(&s);
}

/* Rows that are all but on the grid: rounding with carried errors has nothing to win there. */
NIB_TEST(OnDeviceGptqSteps, RowsThatPlainRoundingDoesBetterAreKept)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 86;
    gptq_source s = gptq_source_make(NIB_F32, 64, 48, 60, 0);
    int64_t kept = 0;
    for (int64_t i = 0; i < 64 * 48; i++)
        if (i / 48 % 2) s.wf[i] = ldexpf((float)(i % 16 ? (int)(next_random() % 15) - 7 : 7), -8);
    gptq_source_store(&s);
    for (int i = 0; i < 3; i++) {
        gptq_job job = gptq_job_of_integers(&s, NIB_INT4, 16);
        job.order = (nib_gptq_order)i;
        job.damping = 1;
        gptq_check(list[i % n], &job, TOLERANCE);
        gptq_result o = gptq_run(list[0], &job);
        kept += o.report.plain_rows;
        EXPECT(o.report.error <= o.report.plain_error, "worse than plain rounding");
        gptq_result_free(&o);
    }
    EXPECT(kept >= 3 * 32, "%lld rows were kept", (long long)kept);
    gptq_source_free(&s);
}

NIB_TEST(OnDeviceGptqSteps, SameBitsForAllThreadsAndRuns)
{
    const runner *all;
    GPTQ_RUNNERS_OR_SKIP(few, any);
    EXPECT(any > 0 && few[0], "a runner");
    const int n = runners_open(&all);
    random_state = 87;
    gptq_source s = gptq_source_make(NIB_BF16, 131, 200, 220, 1);
    for (int i = 0; i < 3; i++) {
        gptq_job job = gptq_job_of_integers(&s, i ? NIB_INT4 : NIB_INT8, i == 1 ? 128 : 256);
        job.real = i < 2 ? NIB_REAL_F32 : NIB_REAL_F64;
        job.order = i == 1 ? NIB_GPTQ_GROUP_AWARE : (nib_gptq_order)(i % 2);
        job.asymmetric = i != 1;
        job.scales = i == 1 ? FRESH : NIB_GPTQ_SCALES_FROZEN;
        for (int j = runner_is_cuda(&all[n - 1]) ? n - 1 : 0; j < n;) {
            const int first = j;
            gptq_result right = gptq_run(&all[j], &job);
            for (; j < n && all[j].device == all[first].device; j++) {
                gptq_result got = gptq_run(&all[j], &job);
                EXPECT(memcmp(got.bytes, right.bytes, right.bytes_count) == 0
                       && got.report.error == right.report.error
                       && got.report.plain_rows == right.report.plain_rows, "%s: other bits",
                       gptq_text(&all[j], &job));
                gptq_result_free(&got);
            }
            gptq_result_free(&right);
        }
    }
    gptq_source_free(&s);
}

/* tr(D H D^T) over that of plain rounding, 128 x 512, damping 0.01, measured in f64:
 *
 *                  order         steps               S1     S2     S3     S4
 *     INT4 by 128  natural       frozen              .269   .510   .063   .030
 *     INT4 by 128  act           frozen              .096   .468   .029   .008
 *     INT4 by 32   group-aware   frozen              .119   .499   .039   .011
 *     INT8 by row  act           frozen              .097   .472   .030   .008
 *     INT4 by 128  act           Hessian             .062   .370   .025   .005
 *     INT4 by 128  group-aware   Hessian, fresh      .066   .354   .023   .005
 *
 * and f32's error is the same to 0.1 %, but that fresh steps differ. */
NIB_TEST(OnDeviceGptqSteps, LossIsThatOfF64AndBelowPlain)
{
    enum { N = GPTQ_INPUTS };
    static const struct {
        nib_step_element element;
        int64_t          group;
        nib_gptq_order   order;
        nib_gptq_scales  scales;
        double           most[GPTQ_KINDS];
    } methods[] = {
        { NIB_INT4, 128, NIB_GPTQ_NATURAL, 0, { .33, .6, .09, .045 } },
        { NIB_INT4, 128, NIB_GPTQ_ACT, 0, { .13, .54, .045, .015 } },
        { NIB_INT4, 32, NIB_GPTQ_GROUP_AWARE, 0, { .16, .57, .06, .02 } },
        { NIB_INT8, 1 << 20, NIB_GPTQ_ACT, 0, { .13, .54, .045, .015 } },
        { NIB_INT4, 128, NIB_GPTQ_ACT, NIB_GPTQ_SCALES_HESSIAN, { .09, .43, .035, .01 } },
        { NIB_INT4, 128, NIB_GPTQ_GROUP_AWARE, NIB_GPTQ_SCALES_HESSIAN_FRESH,
          { .09, .42, .035, .01 } },
    };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    if (runner_is_emulated(list[0])) SKIP("takes minutes on the emulator");
    double *h = malloc(N * N * sizeof *h);
    for (int kind = 0; kind < GPTQ_KINDS; kind++) {
        gptq_inputs_moments(GPTQ_FAST(list, n), kind, h);
        gptq_source s = gptq_source_of(NIB_F32, 128, N, h);
        for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
            gptq_job job = gptq_job_of_integers(&s, methods[m].element, methods[m].group);
            job.order = methods[m].order;
            job.scales = methods[m].scales;
            double error[2];
            for (int real = 0; real < 2; real++) {
                const double rounding = real ? 1e-12 : 1e-4;
                job.real = (nib_real)real;
                gptq_result o = gptq_run(GPTQ_FAST(list, n), &job);
                const double plain = o.report.plain_error, direct = gptq_error(&job, &o);
                error[real] = o.report.error;
                EXPECT(fabs(error[real] - direct) <= rounding * plain, "S%d, %s: %g is reported, "
                       "%g is so", kind + 1, gptq_text(list[0], &job), error[real], direct);
                EXPECT(direct <= plain * (1 + rounding), "S%d: worse than plain", kind + 1);
                EXPECT(error[real] <= plain * methods[m].most[kind], "S%d, %s: the ratio is %.4f",
                       kind + 1, gptq_text(list[0], &job), error[real] / plain);
                gptq_result_free(&o);
            }
            const double apart = job.scales == NIB_GPTQ_SCALES_HESSIAN_FRESH ? 1e-2 : 1e-3;
            EXPECT(fabs(error[0] - error[1]) <= apart * error[1], "S%d, %s: f32 has %.6f of f64's "
                   "error", kind + 1, gptq_text(list[0], &job), error[0] / error[1]);
        }
        gptq_source_free(&s);
    }
    free(h);
}

/* ---- what is refused ---- */

enum { K = 48, ROWS = 20, GROUP = 16, G = K / GROUP };

typedef struct request {
    nib_exec         exec;
    nib_hessian      h;
    nib_gptq_factor  factor;
    nib_matrix       w;
    nib_gptq_options options;
    nib_packed_steps dst;
    nib_gptq_report  report;
    int32_t          cancel;
    gptq_source      source;
    gptq_moments     moments;
    buffer           memory[7];
} request;

static const runner *device; /* of the running test */

static void *memory_of(request *r, int i, const void *data, size_t bytes)
{
    r->memory[i] = buffer_new(device, data, bytes, 0);
    return r->memory[i].at;
}

static void request_open(request *r)
{
    random_state = 88;
    *r = (request){ .exec = exec_of(device), .source = gptq_source_make(NIB_F32, ROWS, K, 60, 0),
                    .options = { .size = sizeof r->options },
                    .report = { .size = sizeof r->report } };
    r->moments = gptq_moments_new(device, NIB_REAL_F32, K, 0, r->source.h, 60);
    r->h = r->moments.hessian;
    r->factor = (nib_gptq_factor){ .size = sizeof r->factor, .k = K, .ld_elems = K };
    r->factor.l = memory_of(r, 0, NULL, K * K * 4);
    r->factor.order = memory_of(r, 1, NULL, K * 4);
    OK(nib_gptq_factor_make(&r->exec, &r->h, NULL, &r->factor));
    r->w = (nib_matrix){ memory_of(r, 2, r->source.wf, ROWS * K * 4), NIB_F32, ROWS, K, K };
    r->dst = (nib_packed_steps){ sizeof r->dst, NIB_INT4, 1, NIB_STEP_F32, ROWS, K, GROUP,
                                 memory_of(r, 3, NULL, ROWS * K / 2), K / 2,
                                 memory_of(r, 4, NULL, ROWS * G * 4),
                                 memory_of(r, 5, NULL, ROWS * G), NIB_STEP_OF_HI };
    r->exec.workspace_bytes = nib_gptq_steps_workspace_bytes(device->device, NIB_REAL_F32, ROWS, K,
                                                             GROUP, device->threads);
    r->exec.workspace = memory_of(r, 6, NULL, r->exec.workspace_bytes);
}

static void request_close(request *r, const char *what, int untouched)
{
    double h[K * K];
    int64_t changed = 0;
    EXPECT(gptq_moments_get(&r->moments, h) == 60, "%s: tokens", what);
    for (int i = 0; i < K * K; i++) changed += h[i] != (double)(float)r->source.h[i];
    for (int i = 2; i < 6; i++) {
        const size_t bytes = r->memory[i].bytes;
        uint8_t *out = buffer_take(&r->memory[i]);
        if (i == 2) changed += memcmp(out, r->source.wf, bytes) != 0;
        for (size_t b = 0; b < bytes && i > 2; b++) changed += untouched && out[b] != POISON;
        free(out);
    }
    EXPECT(changed == 0, "%s: %lld numbers were written", what, (long long)changed);
    buffer_free(&r->memory[0]), buffer_free(&r->memory[1]), buffer_free(&r->memory[6]);
    gptq_moments_free(&r->moments);
    gptq_source_free(&r->source);
}

#define QUANTIZE nib_gptq_quantize_steps(&r.exec, &r.h, &r.factor, &r.w, &r.options, &r.dst, \
                                         &r.report)
#define BAD(status, piece, what)                                    \
    do {                                                            \
        request r;                                                  \
        request_open(&r);                                           \
        what;                                                       \
        EXPECT_FAILS(#what, QUANTIZE, NIB_ERR_##status, piece);     \
        request_close(&r, #what, 1);                                \
    } while (0)

NIB_TEST(OnDeviceGptqSteps, RefusesBadInput)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    device = GPTQ_FAST(list, n);
    BAD(ARGUMENT, "exec->device is NULL", r.exec.device = NULL);
    BAD(ARGUMENT, "hessian->size is 4", r.h.size = 4);
    BAD(ARGUMENT, "factor->size is 16", r.factor.size = 16);
    BAD(SHAPE, "w has 47 columns, hessian 48", r.w.cols = r.dst.cols = K - 1);
    BAD(SHAPE, "19", r.w.rows = ROWS - 1);
    BAD(ARGUMENT, "w->data is NULL", r.w.data = NULL);
    BAD(ARGUMENT, "dst->size is 1", r.dst.size = 1);
    BAD(ARGUMENT, "element 3", r.dst.element = NIB_STEP_E4M3);
    BAD(ARGUMENT, "steps is NULL", r.dst.steps = NULL);
    BAD(ARGUMENT, "zeros is NULL", r.dst.zeros = NULL);
    BAD(SHAPE, "group 12", r.dst.group = 12);
    BAD(UNSUPPORTED, "tensor scale", r.dst.step_rule = NIB_STEP_E4M3_BYTE);
    BAD(ARGUMENT, "options->size is 8", r.options.size = 8);
    BAD(ARGUMENT, "scales 5", r.options.scales = (nib_gptq_scales)5);
    BAD(ARGUMENT, "report->size is 8", r.report.size = 8);
    BAD(UNSUPPORTED, "all steps by the Hessian", r.options.scales = NIB_GPTQ_SCALES_HESSIAN_FULL);
    BAD(UNSUPPORTED, "fresh", r.factor.order_kind = ACT; r.options.scales = FRESH);
    BAD(UNSUPPORTED, "blocks of 32, the groups have 16",
        r.factor.order_kind = NIB_GPTQ_GROUP_AWARE; r.factor.block = 32);
    BAD(ARGUMENT, "was not made", r.factor.outcome = (nib_gptq_outcome)3);
    BAD(OUT_OF_MEMORY, "are needed", r.exec.workspace_bytes--);
    request r;
    request_open(&r);
    r.cancel = 1, r.options.cancel = &r.cancel;
    EXPECT_FAILS("cancelled", QUANTIZE, NIB_ERR_CANCELLED, "");
    r.cancel = 0;
    OK(QUANTIZE);
    EXPECT(r.report.rows == ROWS && r.report.error < r.report.plain_error, "%g", r.report.error);
    r.w.rows = r.dst.rows = 0, r.w.data = NULL, r.exec.workspace = NULL; /* no rows */
    r.dst.codes = NULL, r.dst.steps = NULL, r.dst.zeros = NULL;
    OK(QUANTIZE);
    EXPECT(r.report.error == 0 && r.report.rows == 0, "%g", r.report.error);
    request_close(&r, "good", 0);
}

/* gptq.h's formula; and a tile of weights and its steps for each thread. */
NIB_TEST(OnDeviceGptqSteps, WorkspaceIsWhatTheHeaderSays)
{
    static const int64_t shapes[][3] = { { 1, 1, 8 }, { 128, 128, 32 }, { 1000, 64, 1 << 20 },
                                         { 4096, 4096, 128 }, { 33, 14336, 64 }, { 257, 999, 24 } };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    if (runner_is_cuda(list[n - 1])) SKIP("the formula is the CPU's");
    for (int i = 0; i < 6 * 2 * 3; i++) {
        const int64_t rows = shapes[i % 6][0], k = shapes[i % 6][1], group = shapes[i % 6][2];
        const nib_real real = (nib_real)(i / 6 % 2);
        const int64_t r = real == NIB_REAL_F64 ? 8 : 4, threads = 1 << i / 12;
        const int64_t g = (k + group - 1) / group;
        const int64_t tiles = (rows + 255) / 256, t = threads < tiles ? threads : tiles;
        const int64_t most = t * (257 * k * (r + 1) + 2048 * g + 180000 * r + 1024) + 8 * rows
                           + 17 * k + 1024;
        const int64_t bytes = (int64_t)nib_gptq_steps_workspace_bytes(
            list[0]->device, real, rows, k, group, (int32_t)threads);
        EXPECT(bytes <= most && bytes >= t * (256 * k * r + 2048 * g), "%lld x %lld by %lld: %lld",
               (long long)rows, (long long)k, (long long)group, (long long)bytes);
    }
}

/* Fresh steps of more inputs than are brought up to date at a time. */
NIB_TEST(OnDeviceGptqSteps, RefusesFreshStepsOfLongGroups)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 89;
    gptq_source s = gptq_source_make(NIB_F32, 2, 136, 150, 0);
    gptq_moments m = gptq_moments_new(list[0], NIB_REAL_F64, 136, 0, s.h, 150);
    buffer l = buffer_new(list[0], NULL, 136 * 136 * 8, 0), w = buffer_new(list[0], s.wf, 1088, 0);
    buffer order = buffer_new(list[0], NULL, 544, 0), codes = buffer_new(list[0], NULL, 272, 0);
    buffer steps = buffer_new(list[0], NULL, 8, 0);
    nib_exec exec = exec_of(list[0]);
    nib_gptq_factor f = { .size = sizeof f, .real = NIB_REAL_F64, .k = 136, .l = l.at,
                          .ld_elems = 136, .order = order.at };
    const nib_matrix in = { w.at, NIB_F32, 2, 136, 136 };
    const nib_gptq_options o = { .size = sizeof o, .scales = FRESH };
    const nib_packed_steps dst = { sizeof dst, NIB_INT8, 0, NIB_STEP_F32, 2, 136, 136, codes.at,
                                   136, steps.at, NULL, NIB_STEP_OF_HI };
    OK(nib_gptq_factor_make(&exec, &m.hessian, NULL, &f));
    EXPECT_FAILS("fresh", nib_gptq_quantize_steps(&exec, &m.hessian, &f, &in, &o, &dst, NULL),
                 NIB_ERR_UNSUPPORTED, "at most 128 inputs, not 136");
    EXPECT(nib_gptq_steps_workspace_bytes(list[0]->device, NIB_REAL_F32, 2, 136, 12, 1) == SIZE_MAX
           && nib_gptq_steps_workspace_bytes(list[0]->device, NIB_REAL_F32, 2, 136, 0, 1)
                  == SIZE_MAX
           && nib_gptq_steps_workspace_bytes(NULL, NIB_REAL_F32, 2, 136, 8, 1) == SIZE_MAX, "size");
    buffer_free(&l), buffer_free(&w), buffer_free(&order), buffer_free(&codes);
    buffer_free(&steps);
    gptq_moments_free(&m);
    gptq_source_free(&s);
    (void)n;
}
