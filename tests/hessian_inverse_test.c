/* hessian_inverse_test.c: the factor of the inverse against the definition and against three plain
 * steps in f64; and the same bits from run to run and for every number of threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/expect_status.h"
#include "tests/gptq_fixture.h"

/* U of h on r, k x k in f64; in_place: over the Hessian. Returns the call's info. */
static int64_t inverse_on(const runner *r, nib_real real, const double *h, int64_t k,
                          double damping, int in_place, double *u)
{
    const int64_t gap = 3, ld = k + gap;
    const nib_exec exec = exec_of(r);
    gptq_moments m = gptq_moments_new(r, real, k, gap, h, 5);
    buffer out = buffer_new(r, NULL, reals_bytes(real, k, ld), 0);
    int64_t info = -1;
    OK(nib_hessian_inverse(&exec, &m.hessian, damping, in_place ? m.data.at : out.at, ld, &info));
    if (!in_place) gptq_moments_get(&m, u); /* what it was made of has not changed */
    for (int64_t e = 0; e < k * k && !in_place && real == NIB_REAL_F64; e++)
        EXPECT(u[e] == h[e], "%s: the Hessian has changed", r->name);
    void *got = buffer_take(in_place ? &m.data : &out);
    for (int64_t e = 0; e < k * k; e++) u[e] = real_get(real, got, e / k * ld + e % k);
    for (int64_t i = 0; i + 1 < k && !in_place; i++) { /* between rows */
        const uint8_t *row = (uint8_t *)got + (size_t)(i * ld + k) * (real ? 8 : 4);
        for (size_t b = 0; b < (size_t)gap * (real ? 8 : 4); b++)
            EXPECT(row[b] == POISON, "%s: the gap behind row %lld", r->name, (long long)i);
    }
    free(got);
    buffer_free(in_place ? &out : &m.data);
    buffer_free(&m.tokens);
    return info;
}

/* The largest element of U^T U (h + damping) - I. */
static double residual(const double *u, const double *h, int64_t k, double damping)
{
    double *uh = calloc((size_t)(k * k), 8), *row = malloc((size_t)k * 8), most = 0;
    for (int64_t i = 0; i < k; i++)
        for (int64_t m = i; m < k; m++)
            for (int64_t j = 0; j < k; j++)
                uh[i * k + j] += u[i * k + m]
                               * (h[m * k + j] + (m == j ? damping + (h[m * k + m] == 0) : 0));
    for (int64_t i = 0; i < k; i++) {
        memset(row, 0, (size_t)k * 8);
        for (int64_t m = 0; m <= i; m++)
            for (int64_t j = 0; j < k; j++) row[j] += u[m * k + i] * uh[m * k + j];
        for (int64_t j = 0; j < k; j++) most = fmax(most, fabs(row[j] - (i == j)));
    }
    free(uh), free(row);
    return most;
}

static double mean_of(const double *h, int64_t k)
{
    double sum = 0;
    for (int64_t i = 0; i < k; i++) sum += h[i * k + i];
    return sum / (double)k;
}

NIB_TEST(OnDeviceHessianInverse, IsTheUpperFactorOfTheInverse)
{
    static const int64_t sizes[] = { 1, 2, 31, 64, 97, 270 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int s = 0; s < 6; s++) {
        const int64_t k = sizes[s];
        gptq_source source = gptq_source_make(NIB_F32, 1, k, 2 * k + 3, k > 30 ? 3 : 0);
        const double damping = 0.01 * mean_of(source.h, k);
        double *u = malloc((size_t)(k * k) * 8), *right = malloc((size_t)(k * k) * 8);
        double *whole = malloc((size_t)(k * k) * 8);
        memcpy(whole, source.h, (size_t)(k * k) * 8);
        for (int64_t i = 0; i < k; i++) whole[i * (k + 1)] += damping + (whole[i * (k + 1)] == 0);
        EXPECT(ref_inverse_factor(whole, k, right) == 0, "the reference fails");
        for (int i = 0; i < (k > 200 ? 4 : 4 * n); i++) {
            const nib_real real = (nib_real)(i % 2);
            const runner *r = list[k > 200 ? n - 1 : i / 4];
            EXPECT(inverse_on(r, real, source.h, k, damping, i / 2 % 2, u) == 0, "info");
            double most = 0, size = 0;
            int64_t below = 0;
            for (int64_t e = 0; e < k * k; e++) {
                most = fmax(most, fabs(u[e] - right[e])), size = fmax(size, fabs(right[e]));
                below += e / k > e % k && u[e] != 0;
            }
            EXPECT(below == 0, "%s: %lld numbers below the diagonal", r->name, (long long)below);
            EXPECT(most <= size * (real ? 1e-10 : 2e-2), "%s, k %lld, real %d: off by %g of %g",
                   r->name, (long long)k, (int)real, most, size);
            const double rest = residual(u, source.h, k, damping);
            EXPECT(rest <= (real ? 1e-9 : 5e-2), "%s, k %lld, real %d: U^T U H - I has %g", r->name,
                   (long long)k, (int)real, rest);
        }
        free(u), free(right), free(whole);
        gptq_source_free(&source);
    }
}

/* The minor is counted from H's end: that is where the factorisation begins. */
NIB_TEST(OnDeviceHessianInverse, TellsWhichMinorIsNotDefinite)
{
    const double h[16] = { 1, 0, 0, 0, 0, 1, 2, 0, 0, 2, 1, 0, 0, 0, 0, 1 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < 2 * n; i++) {
        double u[16];
        const int64_t info = inverse_on(list[i / 2], (nib_real)(i % 2), h, 4, 0, 0, u);
        EXPECT(info == 3, "%s: info %lld", list[i / 2]->name, (long long)info);
        EXPECT(inverse_on(list[i / 2], (nib_real)(i % 2), h, 4, 1.5, 0, u) == 0, "damped");
    }
    enum { MANY = 300 }; /* behind the first tile of a factorisation too */
    double *large = calloc(MANY * MANY, sizeof *large), *u = malloc(MANY * MANY * sizeof *u);
    for (int i = 0; i < MANY; i++) large[i * (MANY + 1)] = 1;
    large[20 * MANY + 21] = large[21 * MANY + 20] = 2;
    for (int i = 0; i < 2; i++) {
        const int64_t info = inverse_on(GPTQ_FAST(list, n), (nib_real)i, large, MANY, 0, i, u);
        EXPECT(info == MANY - 20, "info %lld", (long long)info);
    }
    free(large), free(u);
}

/* ---- the same bits ---- */

enum { K = 150, TOKENS = 333 };

/* Every number that hessian.h makes of some tokens: a sum, its rotation, its inverse's factor. */
static void *all_of(const runner *r, nib_real real, const float *x, size_t *bytes)
{
    const size_t each = reals_bytes(real, K, K);
    nib_exec exec = exec_of(r);
    gptq_moments m = gptq_moments_new(r, real, K, 0, NULL, 0);
    buffer in = buffer_new(r, x, TOKENS * K * 4, 0), u = buffer_new(r, NULL, each, 0);
    buffer work = buffer_new(r, NULL, nib_hessian_add_workspace_bytes(r->device, &m.hessian,
                                                                      TOKENS), 0);
    const nib_matrix tokens = { in.at, NIB_F32, TOKENS, K, K };
    int64_t info = -1;
    exec.workspace = work.at, exec.workspace_bytes = work.bytes;
    OK(nib_hessian_clear(&exec, &m.hessian));
    OK(nib_hessian_add(&exec, &tokens, NIB_HESSIAN_EXACT, &m.hessian));
    OK(nib_hessian_add(&exec, &tokens, NIB_HESSIAN_EXACT, &m.hessian));
    OK(nib_hessian_inverse(&exec, &m.hessian, 1, u.at, K, &info));
    runner_wait(r);
    EXPECT(info == 0, "%s: info %lld", r->name, (long long)info);
    uint8_t *sum = buffer_take(&m.data), *factor = buffer_take(&u);
    uint8_t *both = malloc(2 * each);
    memcpy(both, sum, each);
    memcpy(both + each, factor, each);
    *bytes = 2 * each;
    free(sum), free(factor);
    buffer_free(&m.tokens), buffer_free(&in), buffer_free(&work);
    return both;
}

NIB_TEST(OnDeviceHessianInverse, SameBitsForAllThreadsAndRuns)
{
    static float x[TOKENS * K];
    const runner *all;
    GPTQ_RUNNERS_OR_SKIP(few, any);
    EXPECT(any > 0 && few[0], "a runner");
    const int n = runners_open(&all);
    for (int i = 0; i < TOKENS * K; i++) x[i] = (float)next_normal();
    for (int real = 0; real < 2; real++) {
        for (int i = runner_is_cuda(&all[n - 1]) ? n - 1 : 0; i < n;) {
            size_t bytes;
            const int first = i; /* of one device, which is of one kind */
            void *right = all_of(&all[i], (nib_real)real, x, &bytes);
            for (; i < n && all[i].device == all[first].device; i++) {
                void *got = all_of(&all[i], (nib_real)real, x, &bytes);
                EXPECT(memcmp(got, right, bytes) == 0, "%s, real %d: other bits", all[i].name,
                       real);
                free(got);
            }
            free(right);
        }
    }
}
