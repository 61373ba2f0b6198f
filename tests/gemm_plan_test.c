/* gemm_plan_test.c: plans of gemm.h: ranges, choices, workspace; and that bits depend on what the
 * header says alone. */
#include <stdlib.h>
#include <string.h>

#include "tests/expect_status.h"
#include "tests/gemm_fixture.h"

static int device_of(const runner **r)
{
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    if (n) *r = list[0];
    return n;
}

static int is_name(const runner *r, const nib_gemm_options *o, const char *name)
{
    nib_gemm_tactic t;
    for (int32_t i = 0; nib_gemm_tactic_at(r->device, o, i, &t) == NIB_OK; i++)
        if (!strcmp(t.name, name)) return 1;
    return 0;
}

/* ---- ranges ---- */

static void expect_ranges(const runner *r, const nib_gemm_options *o)
{
    nib_gemm_plan plan = { .size = sizeof plan };
    OK(nib_gemm_plan_make(r->device, o, &plan));
    int64_t next = 1;
    EXPECT(plan.size == sizeof plan && plan.device == r->device && !plan.options.tactic
           && plan.options.layout != NIB_GEMM_LAYOUT_AUTO && plan.options.f16_chunk >= 64
           && plan.options.m_max == o->m_max, "%s: defaults are filled in", r->name);
    EXPECT(plan.count >= 1 && plan.count <= NIB_GEMM_TACTICS, "%d tactics", plan.count);
    for (int i = 0; i < plan.count && plan.count <= NIB_GEMM_TACTICS; i++) {
        const nib_gemm_tactic *t = &plan.tactic[i];
        EXPECT(t->m_low == next && t->m_high >= t->m_low, "%s: %s takes %lld to %lld, after %lld",
               r->name, t->name, (long long)t->m_low, (long long)t->m_high, (long long)next - 1);
        EXPECT(t->reason && strlen(t->reason) > 10 && t->splits >= 1, "%s: '%s', %d splits",
               t->name, t->reason ? t->reason : "NULL", t->splits);
        EXPECT(memchr(t->name, 0, sizeof t->name) && is_name(r, o, t->name), "'%.24s'", t->name);
        next = t->m_high + 1;
    }
    EXPECT(next == o->m_max + 1, "%s: tactics end at %lld of %lld", r->name, (long long)next - 1,
           (long long)o->m_max);
    size_t before = 0;
    for (int64_t m = 0; m <= o->m_max; m += m < 600 ? 1 : 1 + m / 7) {
        nib_gemm_tactic t;
        OK(nib_gemm_choice(&plan, m, &t));
        const int64_t rows = m ? m : 1;
        EXPECT(t.m_low <= rows && rows <= t.m_high && t.splits >= 1, "M = %lld: %s from %lld to "
               "%lld", (long long)m, t.name, (long long)t.m_low, (long long)t.m_high);
        const size_t bytes = nib_gemm_workspace_bytes(&plan, m);
        EXPECT(bytes >= before && bytes != SIZE_MAX, "M = %lld: workspace %zu after %zu",
               (long long)m, bytes, before);
        before = bytes;
        if (nib_test_failed()) break;
    }
}

NIB_TEST(OnDeviceGemmPlan, RangesHaveNoGapsAndWorkspaceGrows)
{
    static const int64_t m_max[] = { 1, 7, 8, 9, 16, 33, 500, 5000, 100000, INT32_MAX };
    static const int64_t shapes[][2] = { { 8, 8 }, { 4096, 4096 }, { 64, 14336 }, { 0, 64 },
                                         { 256, 0 }, { 57344, 8192 } };
    const runner *r;
    REQUIRE(device_of(&r), "this backend has no products");
    for (int turn = 0; turn < 120 && !nib_test_failed(); turn++) {
        const int64_t *shape = shapes[turn % 6];
        nib_gemm_options o = gemm_options(gemm_formats[turn / 6 % 4], shape[0], shape[1],
                                          m_max[turn / 2 % 10], turn % 2 ? NIB_F16 : NIB_BF16,
                                          NIB_BF16);
        o.gated = turn / 60 && shape[0] % 16 == 0, o.batch_invariant = turn / 30 % 2;
        if (turn % 7 == 1 && runner_is_cuda(r)) o.accumulate = NIB_GEMM_ACCUMULATE_F16;
        if (o.m_max == INT32_MAX && runner_is_cuda(r)) o.m_max = 1 << 20; /* without cublasLt */
        if (o.accumulate && o.a_dtype != NIB_F16) continue;
        expect_ranges(r, &o);
    }
}

NIB_TEST(OnDeviceGemmPlan, TacticsHaveNamesAndCanBeNamed)
{
    const runner *r;
    REQUIRE(device_of(&r), "this backend has no products");
    nib_gemm_options o = gemm_options(NIB_NVFP4, 128, 128, 20, NIB_F16, NIB_F16);
    nib_gemm_tactic t, other;
    int32_t count = 0;
    for (; nib_gemm_tactic_at(r->device, &o, count, &t) == NIB_OK; count++) {
        nib_gemm_plan plan = { .size = sizeof plan };
        EXPECT(t.name[0] && t.reason && t.reason[0] && t.m_low <= 1 && t.m_high >= 1, "%d", count);
        for (int32_t j = 0; j < count; j++) {
            OK(nib_gemm_tactic_at(r->device, &o, j, &other));
            EXPECT(strcmp(t.name, other.name) != 0 && t.id != other.id, "%s twice", t.name);
        }
        o.tactic = t.name;
        OK(nib_gemm_plan_make(r->device, &o, &plan));
        EXPECT(plan.count == 1 && !strcmp(plan.tactic[0].name, t.name)
               && plan.tactic[0].m_low == 1 && plan.tactic[0].m_high == 20
               && plan.tactic[0].reason[0], "%s", t.name);
        OK(nib_gemm_choice(&plan, 13, &other));
        EXPECT(!strcmp(other.name, t.name), "%s, not %s", other.name, t.name);
        o.tactic = NULL;
    }
    EXPECT(count >= 1 && count <= NIB_GEMM_TACTICS, "%d", count);
    EXPECT_FAILS("past the last", nib_gemm_tactic_at(r->device, &o, count, &t), NIB_ERR_SHAPE,
                 "tactics");
    EXPECT_FAILS("before the first", nib_gemm_tactic_at(r->device, &o, -1, &t), NIB_ERR_SHAPE,
                 "-1");
}

/* ---- bits ---- */

static gemm_case random_case(int turn, int64_t m)
{
    gemm_case c = { .m = m, .gap = turn % 2, .alpha = 1, .bias = turn % 3 == 0,
                    .residual = turn % 3 == 1, .label = "bits" };
    c.o = gemm_options(gemm_formats[turn % 4], turn % 2 ? 136 : 80, turn % 3 ? 1096 : 328, m,
                       turn / 2 % 2 ? NIB_BF16 : NIB_F16, (nib_dtype)(turn / 3 % 3));
    c.o.act = (nib_gemm_act)(turn % 5);
    c.o.gated = c.o.n == 80 && turn / 4 % 2;
    return c;
}

/* D's rows of two runs, of which b may have more. */
static void expect_rows(const runner *r, const gemm_case *c, const gemm_inputs *x, const uint8_t *a,
                        const uint8_t *b, int64_t b_row, const char *what)
{
    const size_t width = c->o.d_dtype == NIB_F32 ? 4 : 2;
    for (int64_t m = 0; m < c->m; m++) {
        EXPECT(!memcmp(a + (size_t)(m * x->d_ld) * width,
                       b + (size_t)((m + b_row) * x->d_ld) * width, (size_t)x->columns * width),
               "%s: row %lld: %s", gemm_text(r, c), (long long)(m + b_row), what);
    }
}

/* Rows b_row .. of a case's inputs, as inputs. */
static gemm_inputs rows_of(const gemm_case *c, const gemm_inputs *x, int64_t row)
{
    gemm_inputs part = *x;
    part.a += (size_t)(row * x->a_ld) * (c->o.a_dtype == NIB_F32 ? 4 : 2);
    part.residual += (size_t)(row * x->d_ld) * (c->o.d_dtype == NIB_F32 ? 4 : 2);
    return part;
}

NIB_TEST(OnDeviceGemmPlan, BatchInvariantRowsDoNotDependOnM)
{
    static const int64_t parts[][2] = { { 0, 1 }, { 5, 1 }, { 63, 1 }, { 0, 7 }, { 8, 9 },
                                        { 3, 16 }, { 1, 17 }, { 20, 33 }, { 2, 62 }, { 0, 64 } };
    enum { ALL = 64 };
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 630;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 12 && !nib_test_failed(); turn++) {
            gemm_case c = random_case(turn, ALL);
            size_t bytes;
            c.o.batch_invariant = 1;
            c.o.m_max = turn % 3 == 0 ? ALL : 4000; /* the small kernels alone, or the tiles */
            if (runner_is_cuda(list[i]) && c.o.a_dtype == NIB_F16 && turn / 6)
                c.o.accumulate = NIB_GEMM_ACCUMULATE_F16;
            if (!runner_is_cuda(list[i]) && turn / 6)
                c.o.activations = NIB_GEMM_ACTIVATIONS_INT8;
            gemm_source s = gemm_source_make(c.o.format, c.o.n, c.o.k, NIB_CODES_PAIRS,
                                             NIB_SCALES_LINEAR, 0,
                                             turn / 4 % 2 ? GEMM_WIDE : GEMM_TAME);
            gemm_inputs x = gemm_inputs_make(&c);
            gemm_pack p = gemm_pack_of(list[i], &s, c.o.gated);
            uint8_t *all = gemm_run(list[i], &c, &s, &p, &x, &bytes);
            for (int j = 0; j < 10 && all; j++) {
                const gemm_inputs some = rows_of(&c, &x, parts[j][0]);
                c.m = parts[j][1];
                uint8_t *d = gemm_run(list[i], &c, &s, &p, &some, &bytes);
                if (d) expect_rows(list[i], &c, &x, d, all, parts[j][0], "another M, other bits");
                free(d);
            }
            free(all);
            gemm_pack_free(&p);
            gemm_inputs_free(&x), gemm_source_free(&s);
        }
    }
}

/* The same bits again; on the CPU from any number of threads. */
NIB_TEST(OnDeviceGemmPlan, RunsAndThreadsDoNotChangeBits)
{
    const runner *list;
    const int n = runners_open(&list);
    REQUIRE(n > 0 && gemm_is_offered(&list[n - 1]), "this backend has no products");
    random_state = 631;
    for (int turn = 0; turn < 24 && !nib_test_failed(); turn++) {
        static const int64_t rows[] = { 1, 9, 17, 40, 70, 3 };
        gemm_case c = random_case(turn, rows[turn % 6]);
        const runner *const first[2] = { &list[n == 2 ? 1 : 0], &list[n == 8 ? 4 : n - 1] };
        size_t bytes;
        if (n > 2 && turn % 2) c.o.activations = NIB_GEMM_ACTIVATIONS_INT8;
        gemm_source s = gemm_source_make(c.o.format, c.o.n, c.o.k, NIB_CODES_PAIRS,
                                         NIB_SCALES_LINEAR, 0, GEMM_TAME);
        gemm_inputs x = gemm_inputs_make(&c);
        for (int f = 0; f < (n == 8 ? 2 : 1); f++) {
            gemm_pack p = gemm_pack_of(first[f], &s, c.o.gated);
            uint8_t *right = gemm_run(first[f], &c, &s, &p, &x, &bytes);
            for (int i = 0; i < (n == 2 ? 2 : 4) && right; i++) {
                const runner *r = n == 2 ? first[f] : first[f] + i;
                uint8_t *d = gemm_run(r, &c, &s, &p, &x, &bytes);
                if (d) expect_rows(r, &c, &x, d, right, 0, "other bits");
                free(d);
            }
            free(right);
            gemm_pack_free(&p);
        }
        gemm_inputs_free(&x), gemm_source_free(&s);
    }
}
