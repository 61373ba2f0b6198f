/* steps_golden_test.c: fake-quantization by f32 steps is onnxruntime's, numpy's and ml_dtypes',
 * value by value, and LSQ's gradients are those that jax derives of the surrogate: see
 * scripts/oracles/gen_steps.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/steps.h"
#include "tests/device_fixture.h"
#include "tests/steps_reference.h"

#define OK(call) \
    do { const nib_status got_ = (call); EXPECT(got_ == NIB_OK, "%s", nib_last_error()); } while (0)

enum { MOST_ELEMENTS = 4096, MOST_STEPS = 64, MOST_PIECES = 64 };

typedef struct golden {
    uint32_t element, asymmetric, rows, cols, group;
    float    steps[MOST_STEPS];
    int8_t   zeros[MOST_STEPS];
    float    x[MOST_ELEMENTS], values[MOST_ELEMENTS];
    float    u[MOST_ELEMENTS], g[MOST_ELEMENTS], grad_u[MOST_ELEMENTS];
    double   grad_steps[MOST_STEPS], magnitudes[MOST_STEPS];
    uint32_t n, n_steps;
} golden;

static int take(FILE *file, void *to, size_t bytes) { return fread(to, 1, bytes, file) == bytes; }

static int take_case(FILE *file, golden *c)
{
    if (!take(file, c, 5 * sizeof(uint32_t))) return 0;
    c->n = c->rows * c->cols;
    c->n_steps = c->group ? c->rows * ((c->cols + c->group - 1) / c->group) : 1;
    if (c->n > MOST_ELEMENTS || c->n_steps > MOST_STEPS) return 0;
    return take(file, c->steps, c->n_steps * 4)
        && (!c->asymmetric || take(file, c->zeros, c->n_steps)) && take(file, c->x, c->n * 4)
        && take(file, c->values, c->n * 4) && take(file, c->u, c->n * 4)
        && take(file, c->g, c->n * 4) && take(file, c->grad_u, c->n * 4)
        && take(file, c->grad_steps, c->n_steps * 8) && take(file, c->magnitudes, c->n_steps * 8);
}

/* Element i's group. */
static uint32_t group_of(const golden *c, uint32_t i)
{
    const uint32_t of_row = c->group ? (c->cols + c->group - 1) / c->group : 0;
    return c->group ? i / c->cols * of_row + i % c->cols / c->group : 0;
}

static int differs(const golden *c, const float *got, const float *right, const char *what,
                   const runner *r)
{
    for (uint32_t i = 0; i < c->n; i++) {
        /* onnxruntime and numpy have no -0 for integers either */
        if (memcmp(&got[i], &right[i], 4) == 0) continue;
        EXPECT(0, "%s: %s of element type %u, asymmetric %u, group %u of %u x %u: [%u]: %g gives "
               "%.9g, not %.9g", r->name, what, c->element, c->asymmetric, c->group, c->rows,
               c->cols, i, (double)c->x[i], (double)got[i], (double)right[i]);
        return 1;
    }
    return 0;
}

/* f32's error in y = x / s and in the product, and the sum's: each element's share. */
static void expect_gradients(const golden *c, const float *got, const runner *r)
{
    double bound[MOST_STEPS] = { 0 };
    for (uint32_t i = 0; i < c->n; i++) {
        const uint32_t k = group_of(c, i);
        const double y = fabs((double)c->u[i] / (double)c->steps[k]);
        bound[k] += fabs((double)c->g[i]) * (y + 1) * 0x1p-23;
    }
    for (uint32_t k = 0; k < c->n_steps; k++) {
        const double limit = bound[k] + c->magnitudes[k] * 0x1p-20;
        EXPECT(fabs((double)got[k] - c->grad_steps[k]) <= limit,
               "%s: grad_steps[%u] of element type %u, group %u: %.9g, not %.9g to within %g",
               r->name, k, c->element, c->group, (double)got[k], c->grad_steps[k], limit);
    }
}

static void check(const golden *c, const runner *r)
{
    static float got[MOST_ELEMENTS], learned[MOST_STEPS];
    nib_exec exec = exec_of(r);
    buffer x = buffer_new(r, c->x, c->n * 4, 0), y = buffer_new(r, NULL, c->n * 4, 0);
    buffer g = buffer_new(r, c->g, c->n * 4, 0), gs = buffer_new(r, NULL, c->n_steps * 4, 0);
    buffer steps = buffer_new(r, c->steps, c->n_steps * 4, 0);
    buffer zeros = buffer_new(r, c->zeros, c->n_steps, 0);
    buffer work = buffer_new(r, NULL, MOST_PIECES * 4, 0);
    const nib_matrix src = { x.at, NIB_F32, c->rows, c->cols, c->cols };
    const nib_matrix dst = { y.at, NIB_F32, c->rows, c->cols, c->cols };
    const nib_matrix grad = { g.at, NIB_F32, c->rows, c->cols, c->cols };
    const nib_step_options o = {
        .size = sizeof o, .element = (nib_step_element)c->element,
        .asymmetric = (int32_t)c->asymmetric, .gradient = NIB_FAKE_CLAMP, .group = c->group,
        .steps = steps.at, .zeros = c->asymmetric ? zeros.at : NULL, .grad_factor = 1,
    };
    exec.workspace = work.at, exec.workspace_bytes = work.bytes;
    OK(nib_fake_quantize_steps(&exec, &src, &o, &dst));
    buffer_get(&y, got);
    int wrong = differs(c, got, c->values, "values", r);
    buffer_put(&x, c->u);
    OK(nib_fake_quantize_steps_backward(&exec, &grad, &src, &o, &dst, gs.at));
    buffer_get(&y, got);
    buffer_get(&gs, learned);
    wrong += differs(c, got, c->grad_u, "gradients", r);
    if (!wrong) expect_gradients(c, learned, r);
    buffer_free(&x), buffer_free(&y), buffer_free(&g), buffer_free(&gs);
    buffer_free(&steps), buffer_free(&zeros), buffer_free(&work);
}

NIB_TEST(OnDeviceSteps, OtherImplementationsHaveTheSameValuesAndGradients)
{
    static golden c;
    const runner *list;
    char magic[8];
    uint32_t cases = 0, seen = 0;
    const int n = runners_open(&list);
    FILE *file = fopen("tests/golden/steps.bin", "rb");
    REQUIRE(file, "tests/golden/steps.bin is missing");
    EXPECT(take(file, magic, 8) && !memcmp(magic, "NIBSTEP1", 8) && take(file, &cases, 4), "head");
    for (; seen < cases && take_case(file, &c) && !nib_test_failed(); seen++)
        for (int i = 0; i < n; i++)
            if (i == 0 || i == 4 || i == n - 1) check(&c, &list[i]);
    EXPECT(seen == cases && cases >= 60 && fgetc(file) == EOF, "%u of %u cases", seen, cases);
    fclose(file);
}
