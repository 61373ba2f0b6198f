/* gptq_fixture_inputs.c: four kinds of inputs, on which methods have been compared in print. */
#include <math.h>
#include <stdlib.h>

#include "tests/gptq_fixture.h"

enum { N = GPTQ_INPUTS, LATENTS = N, FEW_TOKENS = N / 2 };

/* Inputs A z of latents z: the spectrum falls as k^-slope, outliers of them are 15 times as large.
 * The tokens are A's columns, whose moments are those of infinitely many random z; or few of z. */
static const struct {
    double slope;
    int    outliers, few;
} kinds[GPTQ_KINDS] = { { 1, 8, 0 }, { 0.3, 0, 0 }, { 1, 8, 1 }, { 2, 16, 0 } };

/* tokens x N; the caller frees it. */
static float *tokens_of(int kind, int64_t *count)
{
    float *a = malloc(LATENTS * N * sizeof *a), *x = calloc(FEW_TOKENS * N, sizeof *x);
    float *gain = malloc(N * sizeof *gain);
    for (int i = 0; i < N; i++) gain[i] = 1;
    for (int i = 0; i < kinds[kind].outliers; i++) gain[next_random() % N] = 15;
    for (int k = 0; k < LATENTS; k++) {
        const double size = pow(k + 1, -kinds[kind].slope / 2) / sqrt(N);
        for (int i = 0; i < N; i++)
            a[k * N + i] = gain[i]
                         * (float)(next_normal() * size * (1 + 0.5 * (double)next_unit()));
    }
    for (int t = 0; t < FEW_TOKENS && kinds[kind].few; t++) {
        for (int k = 0; k < LATENTS; k++) {
            const float z = (float)next_normal();
            for (int i = 0; i < N; i++) x[t * N + i] += z * a[k * N + i];
        }
    }
    free(gain);
    *count = kinds[kind].few ? FEW_TOKENS : LATENTS;
    free(kinds[kind].few ? a : x);
    return kinds[kind].few ? x : a;
}

void gptq_inputs_moments(const runner *r, int kind, double *h)
{
    nib_exec exec = exec_of(r);
    int64_t count;
    random_state = 51 + (uint32_t)kind;
    float *x = tokens_of(kind, &count);
    gptq_moments m = gptq_moments_new(r, NIB_REAL_F64, N, 0, NULL, 0);
    buffer in = buffer_new(r, x, (size_t)count * N * 4, 0);
    buffer work = buffer_new(r, NULL, nib_hessian_add_workspace_bytes(r->device, &m.hessian,
                                                                      count), 0);
    const nib_matrix tokens = { in.at, NIB_F32, count, N, N };
    exec.workspace = work.at, exec.workspace_bytes = work.bytes;
    OK(nib_hessian_clear(&exec, &m.hessian));
    OK(nib_hessian_add(&exec, &tokens, NIB_HESSIAN_EXACT, &m.hessian));
    EXPECT(gptq_moments_get(&m, h) == (uint64_t)count, "tokens");
    gptq_moments_free(&m);
    buffer_free(&in), buffer_free(&work);
    free(x);
}
