/* hessian_test.c: sums of x x^T against sums in long double within the stated bounds, exactly for
 * integers; parts and their sum; rotation; what a diagonal says. The other triangle of each buffer
 * is NaN and stays so. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nibble/gptq.h"
#include "nibble/hessian.h"
#include "nibble/transform.h"
#include "tests/expect_status.h"
#include "tests/gptq_fixture.h"

enum { FILL_RANDOM, FILL_INTEGERS };

/* Tokens in the host's memory, of a dtype, rows gap apart, and the same numbers as f32. */
typedef struct tokens {
    nib_dtype dtype;
    int64_t   rows, k, gap;
    uint8_t  *data;
    float    *x;
} tokens;

static size_t size_of(nib_dtype dtype) { return dtype == NIB_F32 ? 4 : 2; }

static tokens tokens_make(nib_dtype dtype, int64_t rows, int64_t k, int64_t gap, int fill)
{
    tokens t = { dtype, rows, k, gap, calloc((size_t)(rows * (k + gap)) + 1, 4),
                 malloc((size_t)(rows * k) * 4 + 4) };
    gptq_source s = { .rows = 1, .k = k, .dtype = dtype };
    s.w = malloc((size_t)k * 4 + 4);
    for (int64_t r = 0; r < rows; r++) {
        s.wf = t.x + r * k;
        for (int64_t i = 0; i < k; i++)
            s.wf[i] = fill == FILL_INTEGERS ? (float)(int)(next_random() % 15 - 7)
                                            : ldexpf(next_unit(), (int)(i % 7) - 3);
        gptq_source_store(&s); /* rounds to dtype */
        memcpy(t.data + (size_t)(r * (k + gap)) * size_of(dtype), s.w, (size_t)k * size_of(dtype));
    }
    free(s.w);
    return t;
}

static void tokens_free(tokens *t) { free(t->data), free(t->x); }

/* Adds rows from .. to of t to *h on r. */
static nib_status add(const runner *r, const tokens *t, int64_t from, int64_t to,
                      nib_hessian_precision precision, const nib_hessian *h)
{
    const int64_t ld = t->k + t->gap, rows = to - from;
    const size_t size = size_of(t->dtype);
    nib_exec exec = exec_of(r);
    buffer x = buffer_new(r, t->data + (size_t)(from * ld) * size,
                          rows ? (size_t)(rows * ld - t->gap) * size : 0, 0);
    buffer work = buffer_new(r, NULL, nib_hessian_add_workspace_bytes(r->device, h, rows), 0);
    const nib_matrix m = { x.at, t->dtype, rows, t->k, ld };
    exec.workspace = work.at, exec.workspace_bytes = work.bytes;
    const nib_status status = nib_hessian_add(&exec, &m, precision, h);
    runner_wait(r);
    buffer_free(&x), buffer_free(&work);
    return status;
}

/* The sum over t's rows from .. to, and of magnitudes. */
static void sums(const tokens *t, int64_t from, int64_t to, int64_t i, int64_t j, long double *sum,
                 long double *magnitude)
{
    *sum = *magnitude = 0;
    for (int64_t r = from; r < to; r++) {
        const long double p = (long double)t->x[r * t->k + i] * (long double)t->x[r * t->k + j];
        *sum += p;
        *magnitude += fabsl(p);
    }
}

/* Holds h to the bound of so many calls. The cuts are where the calls' tokens begin and end; a sum
 * loses times units a token, and factors of each product. */
static void expect_sums(const runner *r, const tokens *t, const double *h, const int64_t *cuts,
                        int calls, double unit, int times, double factors)
{
    for (int64_t i = 0; i < t->k && !nib_test_failed(); i++) {
        for (int64_t j = 0; j <= i; j++) {
            long double right = 0, bound = 0, sum, magnitude;
            for (int c = 0; c < calls; c++) {
                sums(t, cuts[c], cuts[c + 1], i, j, &sum, &magnitude);
                right += sum;
                bound += ((long double)(cuts[c + 1] - cuts[c]) * times * unit + factors) * magnitude
                       + unit * (fabsl(right) + bound);
            }
            EXPECT(fabsl((long double)h[i * t->k + j] - right) <= bound,
                   "%s, dtype %d, %lld x %lld: (%lld, %lld) is %.17g, not %.17Lg +- %.3Lg", r->name,
                   (int)t->dtype, (long long)t->rows, (long long)t->k, (long long)i, (long long)j,
                   h[i * t->k + j], right, bound);
        }
    }
}

static void check_add(const runner *r, nib_real real, nib_dtype dtype, int64_t rows, int64_t k,
                      nib_hessian_precision precision)
{
    const int64_t cuts[] = { 0, rows / 3, rows / 3, rows }; /* an empty call among them */
    const nib_exec exec = exec_of(r);
    tokens t = tokens_make(dtype, rows, k, (int64_t)(next_random() % 4), FILL_RANDOM);
    double *h = malloc((size_t)(k * k) * 8 + 8);
    for (int calls = 1; calls <= 3; calls += 2) {
        gptq_moments m = gptq_moments_new(r, real, k, (int64_t)(next_random() % 4), NULL, 77);
        OK(nib_hessian_clear(&exec, &m.hessian));
        const int64_t whole[] = { 0, rows }, *at = calls == 1 ? whole : cuts;
        for (int c = 0; c < calls; c++) OK(add(r, &t, at[c], at[c + 1], precision, &m.hessian));
        const uint64_t count = gptq_moments_get(&m, h);
        EXPECT(count == (uint64_t)rows, "%s: %llu tokens", r->name, (unsigned long long)count);
        const int tf32 = precision == NIB_HESSIAN_TF32 && dtype == NIB_F32;
        const int cores = runner_is_cuda(r) && !real && (dtype != NIB_F32 || tf32);
        expect_sums(r, &t, h, at, calls, real == NIB_REAL_F64 ? 0x1p-53 : 0x1p-24, cores ? 2 : 1,
                    tf32 ? 0x1p-9 : 0);
        gptq_moments_free(&m);
    }
    free(h);
    tokens_free(&t);
}

NIB_TEST(OnDeviceHessian, AddKeepsItsBoundInOneCallAndInThree)
{
    static const int64_t shapes[][2] = { { 1, 1 }, { 7, 3 }, { 0, 5 }, { 65, 17 }, { 130, 64 },
                                         { 33, 131 }, { 300, 40 }, { 513, 20 } };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < n; i++)
        for (int s = 0; s < 8; s++)
            for (int dtype = NIB_F32; dtype <= NIB_BF16; dtype++)
                for (int real = 0; real < 2; real++)
                    check_add(list[i], (nib_real)real, (nib_dtype)dtype, shapes[s][0], shapes[s][1],
                              NIB_HESSIAN_EXACT);
    check_add(list[n - 1], NIB_REAL_F32, NIB_BF16, 20, 530, NIB_HESSIAN_EXACT); /* many tiles */
    check_add(list[0], NIB_REAL_F64, NIB_F32, 20, 530, NIB_HESSIAN_EXACT);
    check_add(list[n - 1], NIB_REAL_F32, NIB_F32, 130, 96, NIB_HESSIAN_TF32);
    check_add(list[n - 1], NIB_REAL_F32, NIB_BF16, 64, 33, NIB_HESSIAN_TF32);
}

/* Small integers are added without rounding, in any order, and so are their parts. */
NIB_TEST(OnDeviceHessian, IntegersAreExactAndPartsMergeToTheWhole)
{
    enum { ROWS = 200, K = 75 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    double *whole = malloc(K * K * 8), *sum = malloc(K * K * 8);
    for (int i = 0; i < n; i++) {
        for (int real = 0; real < 2; real++) {
            const runner *r = list[i];
            const nib_exec exec = exec_of(r);
            tokens t = tokens_make((nib_dtype)(i % 3), ROWS, K, 1, FILL_INTEGERS);
            gptq_moments all = gptq_moments_new(r, (nib_real)real, K, 2, NULL, 0);
            gptq_moments part = gptq_moments_new(r, (nib_real)real, K, 0, NULL, 0);
            OK(nib_hessian_clear(&exec, &all.hessian));
            OK(nib_hessian_clear(&exec, &part.hessian));
            OK(add(r, &t, 0, 71, NIB_HESSIAN_EXACT, &all.hessian));
            OK(add(r, &t, 71, ROWS, real ? NIB_HESSIAN_EXACT : NIB_HESSIAN_TF32, &part.hessian));
            OK(nib_hessian_merge(&exec, &part.hessian, &all.hessian));
            EXPECT(gptq_moments_get(&all, sum) == ROWS
                   && gptq_moments_get(&part, whole) == ROWS - 71, "tokens");
            for (int64_t e = 0; e < K * K; e++) {
                long double right, magnitude;
                sums(&t, 0, ROWS, e / K, e % K, &right, &magnitude);
                EXPECT((long double)sum[e] == right, "%s: [%lld] is %g, not %Lg", r->name,
                       (long long)e, sum[e], right);
                if (nib_test_failed()) break;
            }
            gptq_moments_free(&all), gptq_moments_free(&part);
            tokens_free(&t);
        }
    }
    free(whole), free(sum);
}

NIB_TEST(OnDeviceHessian, ClearedIsZeroWithNoTokens)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < n; i++) {
        double h[11 * 11];
        const nib_exec exec = exec_of(list[i]);
        gptq_moments m = gptq_moments_new(list[i], (nib_real)(i % 2), 11, 3, NULL, 5);
        OK(nib_hessian_clear(&exec, &m.hessian));
        EXPECT(gptq_moments_get(&m, h) == 0, "tokens");
        for (int e = 0; e < 121; e++) EXPECT(h[e] == 0, "%s: [%d] is %g", list[i]->name, e, h[e]);
        m.hessian.tokens = NULL; /* not counted: no failure */
        OK(nib_hessian_clear(&exec, &m.hessian));
        OK(nib_hessian_merge(&exec, &m.hessian, &m.hessian));
        gptq_moments_free(&m);
    }
}

/* ---- the diagonal ---- */

NIB_TEST(OnDeviceHessian, CheckTellsOfDeadAndUnusableInputs)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < n; i++) {
        double h[36] = { 0 };
        const double diagonal[6] = { 4, 0, 1, 0, 2, 8 };
        for (int d = 0; d < 6; d++) h[d * 7] = diagonal[d];
        const nib_exec exec = exec_of(list[i]);
        nib_hessian_info info = { .size = sizeof info };
        gptq_moments m = gptq_moments_new(list[i], (nib_real)(i % 2), 6, i, h, 12);
        OK(nib_hessian_check(&exec, &m.hessian, &info));
        EXPECT(info.tokens == 12 && info.dead == 2 && info.nonfinite == 0
               && info.first_nonfinite == -1 && info.min_diag == 0 && info.max_diag == 8
               && info.mean_diag == 2.5, "%s: %llu tokens, %lld dead, mean %g", list[i]->name,
               (unsigned long long)info.tokens, (long long)info.dead, info.mean_diag);
        m.hessian.tokens = NULL;
        OK(nib_hessian_check(&exec, &m.hessian, &info));
        EXPECT(info.tokens == UINT64_MAX, "not counted");
        gptq_moments_free(&m);
        h[2 * 7] = INFINITY, h[4 * 7] = NAN, h[5 * 7] = -1;
        m = gptq_moments_new(list[i], (nib_real)(i % 2), 6, i, h, 12);
        EXPECT_FAILS("Inf, NaN, -1", nib_hessian_check(&exec, &m.hessian, &info),
                     NIB_ERR_NONFINITE, "2");
        EXPECT(info.nonfinite == 3 && info.first_nonfinite == 2 && info.dead == 2
               && info.max_diag == 4 && info.min_diag == 0, "%s: %lld of them", list[i]->name,
               (long long)info.nonfinite);
        gptq_moments_free(&m);
    }
}

/* One bad number among the tokens is seen in its input's diagonal element, whatever its type. */
NIB_TEST(OnDeviceHessian, BadTokensAreFoundByTheirInput)
{
    enum { ROWS = 40, K = 50 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < n; i++) {
        for (int dtype = NIB_F32; dtype <= NIB_BF16; dtype++) {
            const float bad = dtype == NIB_F16 ? -INFINITY : NAN;
            const uint16_t bits = dtype == NIB_F16 ? 0xfc00 : 0x7fc0;
            const nib_exec exec = exec_of(list[i]);
            nib_hessian_info info = { .size = sizeof info };
            tokens t = tokens_make((nib_dtype)dtype, ROWS, K, 0, FILL_RANDOM);
            const int64_t at = 17 * K + 37;
            if (dtype == NIB_F32) memcpy(t.data + 4 * at, &bad, 4);
            else memcpy(t.data + 2 * at, &bits, 2);
            gptq_moments m = gptq_moments_new(list[i], (nib_real)(i % 2), K, 0, NULL, 0);
            OK(nib_hessian_clear(&exec, &m.hessian));
            OK(add(list[i], &t, 0, ROWS, NIB_HESSIAN_EXACT, &m.hessian));
            EXPECT_FAILS("bad tokens", nib_hessian_check(&exec, &m.hessian, &info),
                         NIB_ERR_NONFINITE, "37");
            EXPECT(info.nonfinite == 1 && info.first_nonfinite == 37, "%s: input %lld",
                   list[i]->name, (long long)info.first_nonfinite);
            gptq_moments_free(&m);
            tokens_free(&t);
        }
    }
}

/* Beside the diagonal too: the first along the rows, whatever lies behind it, by every call that
 * factors. Small ones, and one that threads share; the other triangle is NaN all the time. */
NIB_TEST(OnDeviceHessian, BadElementsAreNamedByRowAndColumn)
{
    static const int64_t spots[][2] = { { -1, -2 }, { -1, 0 }, { -3, 7 }, { 40, 39 }, { 40, 7 },
                                        { 1, 0 }, { 0, 0 } };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < n; i++) {
        for (int real = 0; real < 2; real++) {
            const int64_t k = i == n - 1 && real ? 530 : 70;
            const nib_exec exec = exec_of(list[i]);
            double *h = calloc((size_t)(k * k), sizeof *h);
            for (int64_t d = 0; d < k; d++) h[d * (k + 1)] = 2;
            for (int s = 0; s < 7; s++) {
                const int64_t row = spots[s][0] < 0 ? k + spots[s][0] : spots[s][0];
                const int64_t col = spots[s][1] < 0 ? k + spots[s][1] : spots[s][1];
                char place[64];
                int64_t minor = -1;
                h[row * k + col] = s % 3 == 0 ? NAN : s % 3 == 1 ? INFINITY : -INFINITY;
                snprintf(place, sizeof place, "row %lld, column %lld", (long long)row,
                         (long long)col);
                gptq_moments m = gptq_moments_new(list[i], (nib_real)real, k, i, h, 12);
                buffer l = buffer_new(list[i], NULL, reals_bytes((nib_real)real, k, k), 0);
                buffer order = buffer_new(list[i], NULL, (size_t)k * 4, 0);
                nib_hessian_info info = { .size = sizeof info }, old = info;
                EXPECT_FAILS("check", nib_hessian_check(&exec, &m.hessian, &info),
                             NIB_ERR_NONFINITE, place);
                EXPECT(info.bad_row == row && info.bad_col == col && info.tokens == 12
                       && info.nonfinite == (s == 6) && info.first_nonfinite == (s == 6) - 1,
                       "%s: %lld, %lld", list[i]->name, (long long)info.bad_row,
                       (long long)info.bad_col);
                old.bad_row = old.bad_col = 77; /* an older caller has no such members */
                old.size = (uint32_t)offsetof(nib_hessian_info, bad_row);
                EXPECT_FAILS("older check", nib_hessian_check(&exec, &m.hessian, &old),
                             NIB_ERR_NONFINITE, place);
                EXPECT(old.bad_row == 77 && old.bad_col == 77 && old.tokens == 12, "written past");
                EXPECT_FAILS("inverse", nib_hessian_inverse(&exec, &m.hessian, 1, l.at, k, &minor),
                             NIB_ERR_NONFINITE, place);
                nib_gptq_factor f = { .size = sizeof f, .real = (nib_real)real, .k = k, .l = l.at,
                                      .ld_elems = k, .order = order.at };
                EXPECT_FAILS("factor", nib_gptq_factor_make(&exec, &m.hessian, NULL, &f),
                             NIB_ERR_NONFINITE, place);
                gptq_moments_free(&m);
                buffer_free(&l), buffer_free(&order);
            }
            free(h);
        }
    }
}

/* Tokens whose square overflows, and products that give NaN from what overflowed. */
NIB_TEST(OnDeviceHessian, OverflowIsFound)
{
    enum { ROWS = 3, K = 20 };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int i = 0; i < n; i++) {
        const nib_exec exec = exec_of(list[i]);
        nib_hessian_info info = { .size = sizeof info };
        tokens t = tokens_make(NIB_F32, ROWS, K, 0, FILL_INTEGERS);
        const float large[] = { 3e38f, -3e38f };
        memcpy(t.data + 4 * (K + 8), large, 4);          /* token 1, input 8 */
        memcpy(t.data + 4 * (2 * K + 5), large + 1, 4);  /* token 2, input 5 */
        memcpy(t.data + 4 * (2 * K + 11), large, 4);     /* token 2, input 11 */
        gptq_moments m = gptq_moments_new(list[i], NIB_REAL_F32, K, 0, NULL, 0);
        OK(nib_hessian_clear(&exec, &m.hessian));
        OK(add(list[i], &t, 0, ROWS, NIB_HESSIAN_EXACT, &m.hessian));
        EXPECT_FAILS("overflow", nib_hessian_check(&exec, &m.hessian, &info), NIB_ERR_NONFINITE,
                     "input 5");
        EXPECT(info.nonfinite == 3 && info.first_nonfinite == 5 && info.bad_row == 5,
               "%s: row %lld", list[i]->name, (long long)info.bad_row);
        gptq_moments_free(&m);
        m = gptq_moments_new(list[i], NIB_REAL_F64, K, 0, NULL, 0); /* where nothing overflows */
        OK(nib_hessian_clear(&exec, &m.hessian));
        OK(add(list[i], &t, 0, ROWS, NIB_HESSIAN_EXACT, &m.hessian));
        OK(nib_hessian_check(&exec, &m.hessian, &info));
        EXPECT(info.bad_row == -1 && info.bad_col == -1 && info.nonfinite == 0, "none");
        gptq_moments_free(&m);
        tokens_free(&t);
    }
}

/* ---- rotation ---- */

static double hadamard(int64_t i, int64_t j, int block) /* of H_block along the diagonal */
{
    if (i / block != j / block) return 0;
    return __builtin_parityll((uint64_t)((i % block) & (j % block))) ? -1 : 1;
}

/* b h b^T / block, in the plainest way. */
static void rotate(const double *h, int64_t k, int block, double *out)
{
    double *half = calloc((size_t)(k * k), sizeof *half);
    for (int64_t i = 0; i < k; i++)
        for (int64_t m = i / block * block; m < (i / block + 1) * block; m++)
            for (int64_t j = 0; j < k; j++) half[i * k + j] += hadamard(i, m, block) * h[m * k + j];
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j < k; j++) {
            double sum = 0;
            for (int64_t m = j / block * block; m < (j / block + 1) * block; m++)
                sum += half[i * k + m] * hadamard(j, m, block);
            out[i * k + j] = sum / block;
        }
    }
    free(half);
}

/* tr(d h d^T) of one row d, rotated by nib_transform_apply where it is rotated. */
static double rotated_error(const runner *r, const float *d, int64_t k, const double *h, int block)
{
    const nib_exec exec = exec_of(r);
    const nib_transform transform = { .size = sizeof transform, .hadamard = block };
    buffer in = buffer_new(r, d, (size_t)k * 4, 0), out = buffer_new(r, NULL, (size_t)k * 4, 0);
    const nib_matrix from = { in.at, NIB_F32, 1, k, k }, to = { out.at, NIB_F32, 1, k, k };
    if (block) OK(nib_transform_apply(&exec, &transform, &from, &to));
    runner_wait(r);
    float *got = buffer_take(block ? &out : &in);
    double *row = malloc((size_t)k * 8);
    for (int64_t i = 0; i < k; i++) row[i] = (double)got[i];
    const double error = ref_quadratic(row, h, k);
    free(got), free(row);
    buffer_free(block ? &in : &out);
    return error;
}

NIB_TEST(OnDeviceHessian, RotationIsThatOfNibTransformAndKeepsTheError)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    for (int block = 16; block <= 128; block *= 2) {
        const int64_t k = block == 16 ? 80 : 2 * block;
        gptq_source s = gptq_source_make(NIB_F32, 1, k, 100, 2);
        double *right = malloc((size_t)(k * k) * 8), *got = malloc((size_t)(k * k) * 8), most = 0;
        rotate(s.h, k, block, right);
        for (int64_t e = 0; e < k * k; e++) most = fmax(most, fabs(s.h[e]));
        for (int i = 0; i < n; i++) {
            for (int real = 0; real < 2; real++) {
                const nib_exec exec = exec_of(list[i]);
                gptq_moments m = gptq_moments_new(list[i], (nib_real)real, k, 3 * i, s.h, 9);
                OK(nib_hessian_rotate(&exec, &m.hessian, block));
                EXPECT(gptq_moments_get(&m, got) == 9, "tokens");
                const double bound = most * block * (real ? 0x1p-51 : 0x1p-22);
                int64_t wrong = 0;
                for (int64_t e = 0; e < k * k; e++) wrong += !(fabs(got[e] - right[e]) <= bound);
                EXPECT(wrong == 0, "%s, real %d, block %d: %lld elements", list[i]->name, real,
                       block, (long long)wrong);
                const double before = rotated_error(list[i], s.wf, k, s.h, 0);
                const double after = rotated_error(list[i], s.wf, k, got, block);
                EXPECT(fabs(after - before) <= 1e-5 * before, "%s, block %d: %g becomes %g",
                       list[i]->name, block, before, after);
                gptq_moments_free(&m);
            }
        }
        free(right), free(got);
        gptq_source_free(&s);
    }
}
