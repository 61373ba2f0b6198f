/* steps_learn_test.c: LSQ's gradient is the slope of its surrogate; what is not finite stays in its
 * group; a bad step is named; calls can be captured. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "expect_status.h"
#include "tests/steps_reference.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

enum { ROWS = 4, COLS = 64, N = ROWS * COLS, GROUP = 16, STEPS = N / GROUP };

/* Buffers of one matrix of N f32 with STEPS groups. */
typedef struct bench {
    const runner *r;
    buffer        x, g, out, steps, learned;
    nib_exec      exec;
} bench;

static bench bench_open(const runner *r, const float *x, const float *g, const float *steps)
{
    return (bench){ r, buffer_new(r, x, N * 4, 0), buffer_new(r, g, N * 4, 0),
                    buffer_new(r, NULL, N * 4, 0), buffer_new(r, steps, STEPS * 4, 0),
                    buffer_new(r, NULL, STEPS * 4, 0), exec_of(r) };
}

static nib_status bench_run(const bench *b, nib_step_options o, int backward)
{
    const nib_matrix x = { b->x.at, NIB_F32, ROWS, COLS, COLS };
    const nib_matrix g = { b->g.at, NIB_F32, ROWS, COLS, COLS };
    const nib_matrix out = { b->out.at, NIB_F32, ROWS, COLS, COLS };
    o.size = sizeof o, o.group = GROUP, o.steps = b->steps.at;
    return backward ? nib_fake_quantize_steps_backward(&b->exec, &g, &x, &o, &out, b->learned.at)
                    : nib_fake_quantize_steps(&b->exec, &x, &o, &out);
}

static void bench_close(bench *b)
{
    buffer_free(&b->x), buffer_free(&b->g), buffer_free(&b->out);
    buffer_free(&b->steps), buffer_free(&b->learned);
}

/* The surrogate of one group at step s, in f64: what rounding added at s0 stays as it was, and the
 * bound of what is clamped there. */
static double surrogate(const float *x, const float *g, double s, double s0, double lo, double hi)
{
    double sum = 0;
    for (int i = 0; i < GROUP; i++) {
        const double y0 = (double)x[i] / s0, y = (double)x[i] / s;
        const double v = y0 < lo ? lo : y0 > hi ? hi : y + (nearbyint(y0) - y0);
        sum += v * s * (double)g[i];
    }
    return sum;
}

NIB_TEST(OnDeviceSteps, GradientIsTheSlopeOfTheSurrogate)
{
    float x[N], g[N], steps[STEPS], got[STEPS];
    const runner *list;
    const int n = runners_open(&list);
    random_state = 153;
    for (int i = 0; i < N; i++) x[i] = next_unit(), g[i] = next_unit();
    for (int k = 0; k < STEPS; k++) steps[k] = 0.05f + 0.2f * fabsf(next_unit());
    for (int i = 0; i < n; i++) {
        bench b = bench_open(&list[i], x, g, steps);
        OK(bench_run(&b, (nib_step_options){ .element = NIB_INT4, .grad_factor = 1 }, 1));
        buffer_get(&b.learned, got);
        for (int k = 0; k < STEPS; k++) {
            const double s = steps[k], h = 1e-6;
            const float *xk = x + k * GROUP, *gk = g + k * GROUP;
            const double slope = (surrogate(xk, gk, s + h, s, -8, 7)
                                  - surrogate(xk, gk, s - h, s, -8, 7)) / (2 * h);
            EXPECT(fabs(slope - (double)got[k]) < 1e-4, "%s: group %d: %g, not %g", list[i].name, k,
                   (double)got[k], slope);
        }
        bench_close(&b);
    }
}

/* The default factor is 1 / sqrt(N * hi), of the group's own N. */
NIB_TEST(OnDeviceSteps, DefaultFactor)
{
    float x[N], g[N], steps[STEPS], one[STEPS], got[STEPS];
    const runner *list;
    const int n = runners_open(&list);
    random_state = 8153;
    for (int i = 0; i < N; i++) x[i] = next_unit(), g[i] = next_unit();
    for (int k = 0; k < STEPS; k++) steps[k] = 0.1f;
    for (int i = 0; i < n; i++) {
        bench b = bench_open(&list[i], x, g, steps);
        OK(bench_run(&b, (nib_step_options){ .element = NIB_INT4, .grad_factor = 1 }, 1));
        buffer_get(&b.learned, one);
        OK(bench_run(&b, (nib_step_options){ .element = NIB_INT4 }, 1));
        buffer_get(&b.learned, got);
        const float factor = (float)(1 / sqrt(GROUP * 7.0));
        for (int k = 0; k < STEPS; k++)
            EXPECT(got[k] == one[k] * factor, "%s: %d: %g, not %g", list[i].name, k, (double)got[k],
                   (double)(one[k] * factor));
        bench_close(&b);
    }
}

static int64_t different(const float *a, const float *b, int from, int to)
{
    int64_t n = 0;
    for (int i = from; i < to; i++) n += memcmp(&a[i], &b[i], 4) != 0;
    return n;
}

/* One Inf in group 5's gradients and one NaN in group 9's elements: all other groups' steps get
 * what they get without, and gradients pass as they are. */
NIB_TEST(OnDeviceSteps, NonFiniteStaysInItsGroup)
{
    float x[N], g[N], bad_x[N], bad_g[N], steps[STEPS];
    float right[STEPS], got[STEPS], right_in[N], got_in[N];
    const runner *list;
    const int n = runners_open(&list);
    random_state = 77;
    for (int i = 0; i < N; i++) x[i] = next_unit(), g[i] = next_unit();
    for (int k = 0; k < STEPS; k++) steps[k] = 0.1f;
    memcpy(bad_x, x, sizeof x), memcpy(bad_g, g, sizeof g);
    bad_g[5 * GROUP + 3] = -INFINITY;
    bad_x[9 * GROUP + 7] = NAN;
    for (int i = 0; i < n; i++) {
        const nib_step_options o = { .element = NIB_STEP_E4M3, .gradient = NIB_FAKE_CLAMP };
        bench a = bench_open(&list[i], x, g, steps), b = bench_open(&list[i], bad_x, bad_g, steps);
        OK(bench_run(&a, o, 1));
        OK(bench_run(&b, o, 1));
        buffer_get(&a.learned, right), buffer_get(&b.learned, got);
        buffer_get(&a.out, right_in), buffer_get(&b.out, got_in);
        EXPECT(different(right, got, 0, 5) + different(right, got, 6, 9)
                       + different(right, got, 10, STEPS) == 0, "%s: other groups' steps changed",
               list[i].name);
        EXPECT(!isfinite(got[5]) && isnan(got[9]), "%s: %g and %g", list[i].name, (double)got[5],
               (double)got[9]);
        EXPECT(got_in[5 * GROUP + 3] == -INFINITY && got_in[9 * GROUP + 7] == 0.0f
                   && different(right_in, got_in, 0, N) == 2, "%s: grad_in", list[i].name);
        bench_close(&a), bench_close(&b);
    }
}

/* Steps that are none: each is named, and each counts as 1. */
NIB_TEST(OnDeviceSteps, BadStepsAreNamed)
{
    static const struct { float step; const char *name; } bad[] = {
        { 0.0f, "is 0," }, { -0.0f, "is -0," }, { -2.5f, "is -2.5," }, { NAN, "nan," },
        { INFINITY, "is inf," }, { -INFINITY, "is -inf," },
    };
    enum { MANY = 10000 };
    static float steps[MANY];
    const runner *list;
    const int n = runners_open(&list), places[] = { 0, 4095, 4096, MANY - 1 };
    for (int i = 0; i < n; i++) {
        const nib_exec exec = exec_of(&list[i]);
        for (int k = 0; k < MANY; k++) steps[k] = k % 2 ? 1e-45f : 3.4e38f;
        buffer b = buffer_new(&list[i], steps, sizeof steps, 4);
        int64_t at = 7;
        OK(nib_steps_check(&exec, b.at, MANY, &at));
        EXPECT(at == -1, "%lld", (long long)at);
        OK(nib_steps_check(&exec, b.at, MANY, NULL));
        OK(nib_steps_check(&exec, NULL, 0, &at));
        for (int k = 3; k >= 0; k--) { /* the first of several */
            char where[40];
            steps[places[k]] = bad[(i + k) % 6].step;
            snprintf(where, sizeof where, "step %d of 10000", places[k]);
            buffer_put(&b, steps);
            EXPECT_FAILS(bad[(i + k) % 6].name, nib_steps_check(&exec, b.at, MANY, &at),
                         NIB_ERR_NONFINITE, where);
            EXPECT(last_error_has(bad[(i + k) % 6].name), "%s", nib_last_error());
            EXPECT(at == places[k], "%lld", (long long)at);
        }
        EXPECT_FAILS("NULL", nib_steps_check(&exec, NULL, 1, &at), NIB_ERR_ARGUMENT, "NULL");
        EXPECT_FAILS("n", nib_steps_check(&exec, b.at, -1, &at), NIB_ERR_SHAPE, "-1");
        EXPECT_FAILS("n", nib_steps_check(&exec, b.at, INT64_MAX, &at), NIB_ERR_SHAPE, "n is");
        EXPECT_FAILS("align", nib_steps_check(&exec, (float *)((uintptr_t)b.at + 1), 1, &at),
                     NIB_ERR_ALIGNMENT, "steps");
        EXPECT_FAILS("exec", nib_steps_check(NULL, b.at, 1, &at), NIB_ERR_ARGUMENT, "exec");
        buffer_free(&b);
    }
}

/* Each group's call captured once, and replayed with other numbers. */
NIB_TEST(OnDeviceSteps, CallsAreCapturedAndReplayed)
{
    const runner *list, *r;
    const int n = runners_open(&list);
    float x[N], g[N], steps[STEPS], right[STEPS], got[STEPS], right_in[N], got_in[N];
    char why[NIB_WHY_BYTES] = "";
    void *graph = NULL;
    if (n == 0 || !runner_is_cuda(&list[n - 1])) SKIP("the CPU has no graphs");
    r = &list[n - 1];
    const nib_step_options o = { .element = NIB_INT8 };
    OK(nib_prepare(r->device, NIB_PREPARE_FAKE_QUANTIZE));
    bench b = bench_open(r, NULL, NULL, NULL);
    EXPECT(r->runtime->capture_begin(r->ordinal, r->stream, why) == NIB_OK, "%s", why);
    OK(bench_run(&b, o, 1));
    EXPECT(r->runtime->capture_end(r->ordinal, r->stream, &graph, why) == NIB_OK, "%s", why);
    random_state = 3;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) x[i] = next_unit(), g[i] = next_unit();
        for (int k = 0; k < STEPS; k++) steps[k] = 0.01f;
        bench reference = bench_open(&list[0], x, g, steps);
        buffer_put(&b.x, x), buffer_put(&b.g, g), buffer_put(&b.steps, steps);
        EXPECT(r->runtime->graph_launch(r->ordinal, graph, r->stream, why) == NIB_OK, "%s", why);
        runner_wait(r);
        OK(bench_run(&reference, o, 1));
        buffer_get(&reference.learned, right), buffer_get(&b.learned, got);
        buffer_get(&reference.out, right_in), buffer_get(&b.out, got_in);
        EXPECT(different(right, got, 0, STEPS) == 0 && different(right_in, got_in, 0, N) == 0,
               "replay %d", round);
        bench_close(&reference);
    }
    EXPECT(r->runtime->graph_destroy(r->ordinal, graph, why) == NIB_OK, "%s", why);
    bench_close(&b);
}
