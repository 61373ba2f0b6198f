/* gptq_test.c: codes and scales of gptq.h in f64 are those of the published algorithm, every one:
 * for all formats, orders, rules, kinds of weights and shapes. What a layer reports is what f64
 * makes of it. See gptq_reference.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gptq_fixture.h"

#define NATURAL NIB_GPTQ_NATURAL
#define ACT     NIB_GPTQ_ACT
#define GAR     NIB_GPTQ_GROUP_AWARE
#define FROZEN  NIB_GPTQ_SCALES_FROZEN
#define FRESH   NIB_GPTQ_SCALES_FRESH

/* 1e-12 of the rounding of sums at damping 0.01, more where the factor is worse conditioned. */
#define TOLERANCE 1e-10

NIB_TEST(OnDeviceGptq, EveryFormatInEveryOrder)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 11;
    for (int f = 0; f < FORMATS; f++) {
        const nib_dtype dtype = (nib_dtype)(f % 3);
        gptq_source s = gptq_source_make(dtype, 17, 100, 150, 2);
        gptq_job job = gptq_job_of(&s, case_formats[f]);
        job.gap = f % 4;
        for (int i = 0; i < 5; i++) {
            static const nib_gptq_order orders[] = { NATURAL, ACT, GAR, NATURAL, GAR };
            const runner *r = list[(f + i) % n];
            job.order = orders[i];
            job.scales = i < 3 ? FROZEN : FRESH;
            if (!runner_is_cuda(r) || format_has_name(job.format)) gptq_check(r, &job, TOLERANCE);
        }
        gptq_source_free(&s);
    }
}

NIB_TEST(OnDeviceGptq, ShapesOfEveryKind)
{
    static const int64_t shapes[][2] = { { 1, 1 },    { 1, 16 },  { 3, 15 },  { 2, 33 },
                                         { 7, 129 },  { 1, 300 }, { 130, 40 }, { 257, 65 },
                                         { 33, 257 }, { 301, 31 } };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 12;
    for (int i = 0; i < 10; i++) {
        gptq_source s = gptq_source_make((nib_dtype)(i % 3), shapes[i][0], shapes[i][1],
                                         shapes[i][1] + 20, i % 2);
        gptq_job job = gptq_job_of(&s, i % 2 ? NIB_NVFP4 : NIB_MXFP4);
        job.order = (nib_gptq_order)(i % 3);
        job.layout = i % 4 == 1 ? NIB_SCALES_SWIZZLED_128X4 : NIB_SCALES_LINEAR;
        gptq_check(list[i % n], &job, TOLERANCE);
        job.format = i % 2 ? NIB_MXFP4_B16 : NIB_NVFP4_B32;
        job.scales = job.order == ACT ? FROZEN : FRESH;
        gptq_check(list[(i + 1) % n], &job, TOLERANCE);
        gptq_source_free(&s);
    }
}

/* Across the borders of the tiles that rows, steps and factors are cut into. */
NIB_TEST(OnDeviceGptq, LargerThanOneTile)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 20;
    gptq_source s = gptq_source_make(NIB_BF16, 140, 401, 150, 4);
    for (int i = 0; i < 3; i++) {
        gptq_job job = gptq_job_of(&s, i == 1 ? NIB_NVFP4_B32 : NIB_NVFP4);
        job.order = (nib_gptq_order)i;
        if (i == 0) job.scales = FRESH;
        gptq_check(list[i % n], &job, TOLERANCE);
    }
    gptq_source_free(&s);
}

/* What packages do with zeros, ties and scales, of weights of each dtype. */
NIB_TEST(OnDeviceGptq, RulesOfEveryPackage)
{
    static const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4, NIB_MXFP8_E4M3, NIB_FP6_E2M3_B16 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 13;
    for (int dtype = NIB_F32; dtype <= NIB_BF16; dtype++) {
        gptq_source s = gptq_source_make((nib_dtype)dtype, 21, 77, 200, 1);
        for (int f = 0; f < 4; f++) {
            for (int preset = NIB_RULES_TE; preset <= NIB_RULES_GGUF; preset++) {
                nib_rules rules = { .size = sizeof rules };
                gptq_job job = gptq_job_of(&s, formats[f]);
                OK(nib_rules_fill((nib_rules_preset)preset, job.format, &rules));
                job.rules = &rules;
                job.order = (nib_gptq_order)(preset % 3);
                job.scales = preset % 2 || job.order == ACT ? FROZEN : FRESH;
                gptq_check(list[(f + preset) % n], &job, TOLERANCE);
            }
        }
        gptq_source_free(&s);
    }
}

NIB_TEST(OnDeviceGptq, ScalesByEveryChoice)
{
    static const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4, NIB_FP8_E4M3_B16,
                                          NIB_FP6_E2M3_B8 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 14;
    gptq_source s = gptq_source_make(NIB_BF16, 13, 90, 200, 1);
    for (int f = 0; f < 4; f++) {
        for (int choice = NIB_SCALE_MSE; choice <= NIB_SCALE_FOUR_OVER_SIX_MAE; choice++) {
            if (choice > NIB_SCALE_MSE_FULL && formats[f] != NIB_NVFP4) continue;
            for (int order = 0; order < 3; order++) {
                gptq_job job = gptq_job_of(&s, formats[f]);
                job.order = (nib_gptq_order)order;
                job.choice = (nib_scale_choice)choice;
                gptq_check(list[(f + order) % n], &job, TOLERANCE);
                job.scales = NIB_GPTQ_SCALES_FRESH;
                if (job.order != ACT) gptq_check(list[(f + choice) % n], &job, TOLERANCE);
            }
        }
    }
    gptq_source_free(&s);
}

/* Down to 1e-6, and with fewer tokens than inputs: H without damping has no factor then. */
NIB_TEST(OnDeviceGptq, DampingFromAMillionthToOne)
{
    static const double damping[] = { 1e-6, 1e-4, 1e-2, 0.05, 1 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 15;
    for (int few = 0; few < 2; few++) {
        gptq_source s = gptq_source_make(NIB_F32, 30, 128, few ? 40 : 500, 3);
        for (int d = 0; d < 5; d++) {
            for (int order = 0; order < 3; order++) {
                gptq_job job = gptq_job_of(&s, order == 1 ? NIB_MXFP4 : NIB_NVFP4);
                job.order = (nib_gptq_order)order;
                job.damping = damping[d];
                gptq_check(list[(d + order) % n], &job, damping[d] < 1e-3 ? 1e-6 : TOLERANCE);
            }
        }
        gptq_source_free(&s);
    }
}

NIB_TEST(OnDeviceGptq, LayoutsOrdersOfCodesAndScalesThatAreGiven)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 16;
    gptq_source s = gptq_source_make(NIB_F16, 140, 96, 200, 0);
    for (int i = 0; i < n; i++) {
        gptq_job job = gptq_job_of(&s, NIB_NVFP4);
        job.tensor_scale = 0.001f * (float)(i + 1);
        job.layout = NIB_SCALES_SWIZZLED_128X4;
        job.gap = i;
        gptq_check(list[i], &job, TOLERANCE);
        job.code_order = NIB_CODES_GGUF_HALVES;
        job.without_guard = 1;
        gptq_check(list[i], &job, TOLERANCE);
        job.format = NIB_MXFP4, job.uncounted = 1, job.order = NIB_GPTQ_ACT;
        gptq_check(list[i], &job, TOLERANCE);
    }
    gptq_source_free(&s);
}

/* A scale that is far too small saturates; the guard then has rows to keep. */
NIB_TEST(OnDeviceGptq, RowsThatPlainRoundingDoesBetterAreKept)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 17;
    gptq_source s = gptq_source_make(NIB_F32, 64, 48, 60, 0);
    gptq_job job = gptq_job_of(&s, NIB_MXFP8_E4M3);
    int64_t kept = 0;
    for (int64_t i = 0; i < 64 * 48; i++) /* rows that are all but on the grid */
        if (i / 48 % 2) s.wf[i] = ldexpf((float)(int)(next_random() % 15) - 7, -8);
    gptq_source_store(&s);
    for (int order = 0; order < 3; order++) {
        job.order = (nib_gptq_order)order;
        job.damping = 1;
        gptq_check(list[order % n], &job, TOLERANCE);
        gptq_result o = gptq_run(list[0], &job);
        kept += o.report.plain_rows;
        EXPECT(o.report.error <= o.report.plain_error, "worse than plain rounding");
        gptq_result_free(&o);
    }
    EXPECT(kept >= 3 * 32, "%lld rows were kept", (long long)kept);
    gptq_source_free(&s);
}

/* ---- the factor ---- */

/* A and R of the factor make up H' = R R^T. */
NIB_TEST(OnDeviceGptq, FactorMakesUpTheDampedHessian)
{
    enum { K = 90 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 18;
    gptq_source s = gptq_source_make(NIB_F32, 1, K, 130, 2);
    double mean = 0, most = 0;
    for (int i = 0; i < K; i++) mean += s.h[i * K + i] / K, most = fmax(most, s.h[i * K + i]);
    for (int i = 0; i < 2 * n; i++) {
        gptq_job job = gptq_job_of(&s, NIB_NVFP4);
        job.real = (nib_real)(i % 2);
        job.order = (nib_gptq_order)(i % 3);
        job.damping = i % 4 ? 0.02 : 0; /* 0 means 0.01 */
        gptq_result o = gptq_run(list[i / 2], &job);
        const nib_gptq_factor *f = &o.factor;
        const double damping = job.damping == 0 ? 0.01 : job.damping;
        EXPECT(f->outcome == NIB_GPTQ_DONE && f->tries == 1 && f->dead == 2 && f->tokens == 130
               && f->damping == damping && f->order_kind == job.order && f->seconds >= 0
               && f->block == (job.order == GAR ? 16 : 0), "%s: outcome %d, tries %d, dead %lld",
               gptq_text(list[i / 2], &job), (int)f->outcome, f->tries, (long long)f->dead);
        EXPECT(fabs(f->added - damping * mean) <= 1e-6 * f->added, "%g was added, not %g", f->added,
               damping * mean);
        double worst = 0;
        for (int a = 0; a < K; a++) {
            for (int b = 0; b <= a; b++) { /* steps; R is upper */
                double sum = 0;
                for (int c = a; c < K; c++) {
                    const double r = o.l[(K - 1 - c) * (K + 1)];
                    const double x = a == c ? 1 : o.l[(K - 1 - a) * K + K - 1 - c];
                    const double y = b == c ? 1 : o.l[(K - 1 - b) * K + K - 1 - c];
                    sum += x * r * y * r;
                }
                double right = s.h[o.order[a] * K + o.order[b]];
                if (a == b) right += f->added + (right == 0);
                worst = fmax(worst, fabs(sum - right));
            }
        }
        EXPECT(worst <= most * (job.real == NIB_REAL_F64 ? 1e-13 : 1e-5), "%s: off by %g of %g",
               gptq_text(list[i / 2], &job), worst, most);
        gptq_result_free(&o);
    }
    gptq_source_free(&s);
}

/* ---- the same bits ---- */

NIB_TEST(OnDeviceGptq, SameBitsForAllThreadsAndRuns)
{
    const runner *all;
    GPTQ_RUNNERS_OR_SKIP(few, any);
    EXPECT(any > 0 && few[0], "a runner");
    const int n = runners_open(&all);
    random_state = 19;
    gptq_source s = gptq_source_make(NIB_BF16, 131, 200, 220, 1);
    for (int job_idx = 0; job_idx < 4; job_idx++) {
        gptq_job job = gptq_job_of(&s, job_idx % 2 ? NIB_NVFP4 : NIB_MXFP4);
        job.real = job_idx < 3 ? NIB_REAL_F32 : NIB_REAL_F64;
        job.order = (nib_gptq_order)(job_idx % 3);
        job.scales = job_idx == 2 ? NIB_GPTQ_SCALES_HESSIAN_FRESH
                   : job_idx == 3 ? NIB_GPTQ_SCALES_FRESH : NIB_GPTQ_SCALES_HESSIAN;
        if (job_idx == 3) job.choice = NIB_SCALE_MSE;
        for (int i = runner_is_cuda(&all[n - 1]) ? n - 1 : 0; i < n;) {
            const int first = i; /* of one device, which is of one kind */
            gptq_result right = gptq_run(&all[i], &job);
            for (; i < n && all[i].device == all[first].device; i++) {
                gptq_result got = gptq_run(&all[i], &job);
                EXPECT(memcmp(got.bytes, right.bytes, right.bytes_count) == 0, "%s: other bits",
                       gptq_text(&all[i], &job));
                EXPECT(got.report.error == right.report.error
                       && got.report.plain_error == right.report.plain_error
                       && got.report.weight == right.report.weight
                       && got.report.plain_rows == right.report.plain_rows,
                       "%s: another report", gptq_text(&all[i], &job));
                gptq_result_free(&got);
            }
            gptq_result_free(&right);
        }
    }
    gptq_source_free(&s);
}
