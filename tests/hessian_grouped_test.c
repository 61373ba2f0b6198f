/* hessian_grouped_test.c: each expert's Hessian has the bits of nib_hessian_add of its rows alone,
 * for any offsets; empty groups' are not touched. */
#include <stdlib.h>
#include <string.h>

#include "nibble/grouped.h"
#include "nibble/hessian.h"
#include "tests/expect_status.h"
#include "tests/gptq_fixture.h"

enum { MOST_GROUPS = 24 };

typedef struct experts {
    nib_real              real;
    nib_dtype             dtype;
    nib_hessian_precision precision;
    int64_t               rows, k, gap, count, offsets[MOST_GROUPS + 1];
} experts;

static size_t size_of(const experts *e) { return e->dtype == NIB_F32 ? 4 : 2; }

/* As grouped.h says it. */
static int64_t begin_of(const experts *e, int64_t group)
{
    int64_t begin = 0;
    for (int64_t i = 0; i <= group; i++) begin = e->offsets[i] > begin ? e->offsets[i] : begin;
    return begin < e->rows ? begin : e->rows;
}

/* Hessians that hold something already, all on r; every third is not counted. */
static void moments_open(const runner *r, const experts *e, gptq_moments *m, nib_hessian *h)
{
    double *start = malloc((size_t)(e->k * e->k) * 8 + 8);
    for (int64_t g = 0; g < e->count; g++) {
        for (int64_t i = 0; i < e->k * e->k; i++) start[i] = (double)((g + i) % 7);
        m[g] = gptq_moments_new(r, e->real, e->k, g % 3, start, (uint64_t)g);
        h[g] = m[g].hessian;
        if (g % 3 == 2) h[g].tokens = NULL;
    }
    free(start);
}

static void check(const runner *r, const experts *e)
{
    gptq_moments a[MOST_GROUPS], b[MOST_GROUPS];
    nib_hessian ha[MOST_GROUPS], hb[MOST_GROUPS];
    nib_exec exec = exec_of(r);
    const int64_t ld = e->k + e->gap, elements = e->rows * ld;
    void *tokens = calloc((size_t)elements + 1, 4);
    fill_matrix(e->dtype, tokens, elements, 1);
    moments_open(r, e, a, ha);
    moments_open(r, e, b, hb);
    buffer x = buffer_new(r, tokens, (size_t)elements * size_of(e), 0);
    buffer offsets = buffer_new(r, e->offsets, (size_t)(e->count + 1) * 8, 0);
    const nib_hessian any = { .size = sizeof any, .real = e->real, .k = e->k, .data = x.at,
                              .ld_elems = e->k };
    buffer work = buffer_new(r, NULL, nib_hessian_add_workspace_bytes(r->device, &any, e->rows), 0);
    exec.workspace = work.at, exec.workspace_bytes = work.bytes;
    const nib_matrix all = { x.at, e->dtype, e->rows, e->k, ld };
    const nib_groups groups = { sizeof groups, e->count, offsets.at };
    for (int64_t g = 0; g < e->count; g++) {
        const int64_t begin = begin_of(e, g), rows = begin_of(e, g + 1) - begin;
        nib_matrix part = all;
        part.data = (uint8_t *)x.at + (size_t)(begin * ld) * size_of(e);
        part.rows = rows;
        OK(nib_hessian_add(&exec, &part, e->precision, &ha[g]));
    }
    OK(nib_hessian_add_grouped(&exec, &groups, &all, e->precision, hb));
    runner_wait(r);
    double *right = malloc((size_t)(e->k * e->k) * 8 + 8), *got = malloc((size_t)(e->k * e->k) * 8
                                                                         + 8);
    for (int64_t g = 0; g < e->count && !nib_test_failed(); g++) {
        const int64_t rows = begin_of(e, g + 1) - begin_of(e, g);
        const uint64_t want = (uint64_t)g + (uint64_t)(g % 3 == 2 ? 0 : rows);
        EXPECT(gptq_moments_get(&a[g], right) == want && gptq_moments_get(&b[g], got) == want,
               "%s: group %lld's tokens", r->name, (long long)g);
        EXPECT(!memcmp(right, got, (size_t)(e->k * e->k) * 8),
               "%s: group %lld of %lld, %lld of %lld rows, k = %lld, real %d, dtype %d", r->name,
               (long long)g, (long long)e->count, (long long)rows, (long long)e->rows,
               (long long)e->k, (int)e->real, (int)e->dtype);
        for (int64_t i = 0; i < e->k * e->k && rows == 0; i++) {
            const int64_t low = i / e->k >= i % e->k ? i : i % e->k * e->k + i / e->k;
            EXPECT(got[i] == (double)((g + low) % 7), "%s: empty group %lld has changed", r->name,
                   (long long)g);
            if (nib_test_failed()) break;
        }
    }
    for (int64_t g = 0; g < e->count; g++) gptq_moments_free(&a[g]), gptq_moments_free(&b[g]);
    buffer_free(&x), buffer_free(&offsets), buffer_free(&work);
    free(tokens), free(right), free(got);
}

/* Sorted offsets, every third group empty. */
static void fill_offsets(experts *e)
{
    int64_t at = (int64_t)(next_random() % 3);
    for (int64_t g = 0; g <= e->count; g++) {
        e->offsets[g] = at < e->rows ? at : e->rows;
        if (g % 3 != 1) at += (int64_t)(next_random() % (uint32_t)(2 * e->rows / e->count + 1));
    }
}

NIB_TEST(OnDeviceHessianGrouped, BitsAreThoseOfEachGroupAlone)
{
    static const int64_t shapes[][3] = { { 90, 40, 7 }, { 1, 5, 1 }, { 130, 33, 24 }, { 0, 9, 3 },
                                         { 1100, 24, 2 } }; /* rows, k, groups */
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 51;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 30 && !nib_test_failed(); turn++) {
            const int64_t *shape = shapes[turn % 5];
            experts e = { .real = (nib_real)(turn / 5 % 2), .dtype = (nib_dtype)(turn % 3),
                          .precision = turn % 4 ? NIB_HESSIAN_EXACT : NIB_HESSIAN_TF32,
                          .rows = shape[0], .k = shape[1], .gap = turn % 2 * 3,
                          .count = shape[2] };
            fill_offsets(&e);
            check(list[i], &e);
        }
    }
}

/* Many tiles of H, on as many threads as there are. */
NIB_TEST(OnDeviceHessianGrouped, LargeHessians)
{
    GPTQ_RUNNERS_OR_SKIP(list, n);
    experts e = { .dtype = NIB_BF16, .rows = 40, .k = 530, .count = 3,
                  .offsets = { 0, 17, 17, 40 } };
    check(list[n - 1], &e);
}

NIB_TEST(OnDeviceHessianGrouped, AnyOffsetsAreSafe)
{
    const int64_t offsets[][6] = {
        { 0, 40, 20, 60, 10, 70 }, { 70, 60, 50, 40, 30, 0 }, { -5, -1, 30, 30, 200, 300 },
        { INT64_MIN, INT64_MAX, 0, 5, 9, 12 }, { 200, 300, 400, 500, 600, 700 },
        { 0, 0, 0, 0, 0, 0 }, { 69, 70, 71, 70, 70, 70 }, { -1, INT64_MIN, 70, -7, 70, 71 },
    };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    random_state = 52;
    for (int i = 0; i < 16 && !nib_test_failed(); i++) {
        experts e = { .real = (nib_real)(i / 8), .dtype = (nib_dtype)(i % 3), .rows = 70, .k = 19,
                      .gap = i % 2, .count = 5 };
        memcpy(e.offsets, offsets[i % 8], sizeof offsets[0]);
        check(list[i % n], &e);
    }
}

/* ---- what is refused, with nothing written ---- */

typedef struct request {
    nib_exec    exec;
    nib_groups  groups;
    nib_matrix  x;
    nib_hessian h[3];
} request;

#define ADD nib_hessian_add_grouped(&r.exec, &r.groups, &r.x, NIB_HESSIAN_EXACT, r.h)
#define BAD(status, piece, call, what)                       \
    do {                                                     \
        request r = good;                                    \
        what;                                                \
        EXPECT_FAILS(#call ", " #what, call, status, piece); \
    } while (0)

NIB_TEST(OnDeviceHessianGrouped, BadInput)
{
    enum { K = 8, ROWS = 12 };
    const int64_t begins[4] = { 0, 4, 4, ROWS };
    GPTQ_RUNNERS_OR_SKIP(list, n);
    const runner *on = GPTQ_FAST(list, n);
    const experts e = { .real = NIB_REAL_F64, .rows = ROWS, .k = K, .count = 3 };
    gptq_moments m[3];
    request good = { .exec = exec_of(on) };
    moments_open(on, &e, m, good.h);
    float tokens[ROWS * K];
    for (int i = 0; i < ROWS * K; i++) tokens[i] = (float)(i % 5);
    buffer x = buffer_new(on, tokens, sizeof tokens, 0);
    buffer offsets = buffer_new(on, begins, sizeof begins, 0);
    buffer work = buffer_new(on, NULL, nib_hessian_add_workspace_bytes(on->device, good.h, ROWS),
                             0);
    good.exec.workspace = work.at, good.exec.workspace_bytes = work.bytes;
    good.groups = (nib_groups){ sizeof good.groups, 3, offsets.at };
    good.x = (nib_matrix){ x.at, NIB_F32, ROWS, K, K };

    BAD(NIB_ERR_ARGUMENT, "exec->device is NULL", ADD, r.exec.device = NULL);
    BAD(NIB_ERR_ARGUMENT, "groups is NULL",
        nib_hessian_add_grouped(&r.exec, NULL, &r.x, NIB_HESSIAN_EXACT, r.h), (void)0);
    BAD(NIB_ERR_ARGUMENT, "groups->size is 4", ADD, r.groups.size = 4);
    BAD(NIB_ERR_SHAPE, "count is -1", ADD, r.groups.count = -1);
    BAD(NIB_ERR_ARGUMENT, "offsets is NULL", ADD, r.groups.offsets = NULL);
    BAD(NIB_ERR_ALIGNMENT, "offsets", ADD,
        r.groups.offsets = (const int64_t *)(const void *)((const char *)r.groups.offsets + 4));
    BAD(NIB_ERR_ARGUMENT, "x is NULL",
        nib_hessian_add_grouped(&r.exec, &r.groups, NULL, NIB_HESSIAN_EXACT, r.h), (void)0);
    BAD(NIB_ERR_SHAPE, "hessians[0]: x has 7 columns", ADD, r.x.cols = 7);
    BAD(NIB_ERR_ARGUMENT, "x->data is NULL", ADD, r.x.data = NULL);
    BAD(NIB_ERR_ARGUMENT, "precision is 2",
        nib_hessian_add_grouped(&r.exec, &r.groups, &r.x, (nib_hessian_precision)2, r.h), (void)0);
    BAD(NIB_ERR_ARGUMENT, "hessians is NULL",
        nib_hessian_add_grouped(&r.exec, &r.groups, &r.x, NIB_HESSIAN_EXACT, NULL), (void)0);
    BAD(NIB_ERR_ARGUMENT, "hessians[1]: hessian->size is 8", ADD, r.h[1].size = 8);
    BAD(NIB_ERR_ARGUMENT, "hessians[2]: hessian has no data", ADD, r.h[2].data = NULL);
    BAD(NIB_ERR_SHAPE, "hessians[2]", ADD, r.h[2].k = 7);
    BAD(NIB_ERR_UNSUPPORTED, "hessians[1]: real is 0", ADD, r.h[1].real = NIB_REAL_F32);
    BAD(NIB_ERR_OUT_OF_MEMORY, "are needed", ADD, r.exec.workspace_bytes = 64);

    double h[K * K];
    for (int g = 0; g < 3; g++) { /* as they were */
        EXPECT(gptq_moments_get(&m[g], h) == (uint64_t)g, "tokens of group %d", g);
        for (int i = 0; i < K * K; i++) {
            const int low = i / K >= i % K ? i : i % K * K + i / K;
            EXPECT(h[i] == (double)((g + low) % 7), "group %d has changed", g);
        }
    }
    request r = good;
    OK(ADD);
    r.x.rows = 0, r.x.data = NULL;
    OK(ADD);
    r.groups.count = 0, r.groups.offsets = NULL;
    OK(nib_hessian_add_grouped(&r.exec, &r.groups, &r.x, NIB_HESSIAN_EXACT, NULL));
    EXPECT(gptq_moments_get(&m[0], h) == 4 && gptq_moments_get(&m[1], h) == 1, "tokens");
    for (int g = 0; g < 3; g++) gptq_moments_free(&m[g]);
    buffer_free(&x), buffer_free(&offsets), buffer_free(&work);
}

/* It must wait for the offsets, which a capture forbids. */
NIB_TEST(OnDeviceHessianGrouped, IsRefusedUnderCapture)
{
    enum { K = 8, ROWS = 4 };
    const runner *list[GPTQ_RUNNERS];
    char why[NIB_WHY_BYTES] = "";
    void *graph = NULL;
    if (gptq_runners(list) == 0 || !runner_is_cuda(list[0])) SKIP("not on CUDA");
    const runner *r = list[0];
    OK(nib_prepare(r->device, NIB_PREPARE_GPTQ));
    const int64_t begins[2] = { 0, ROWS };
    const experts e = { .rows = ROWS, .k = K, .count = 1 };
    gptq_moments m;
    nib_hessian h;
    nib_exec exec = exec_of(r);
    moments_open(r, &e, &m, &h);
    buffer x = buffer_new(r, NULL, ROWS * K * 4, 0), at = buffer_new(r, begins, sizeof begins, 0);
    buffer work = buffer_new(r, NULL, nib_hessian_add_workspace_bytes(r->device, &h, ROWS), 0);
    const nib_groups groups = { sizeof groups, 1, at.at };
    const nib_matrix all = { x.at, NIB_F32, ROWS, K, K };
    exec.workspace = work.at, exec.workspace_bytes = work.bytes;
    EXPECT(r->runtime->capture_begin(r->ordinal, r->stream, why) == NIB_OK, "%s", why);
    EXPECT_FAILS("captured", nib_hessian_add_grouped(&exec, &groups, &all, NIB_HESSIAN_EXACT, &h),
                 NIB_ERR_UNSUPPORTED, "being captured");
    EXPECT(r->runtime->capture_end(r->ordinal, r->stream, &graph, why) == NIB_OK, "%s", why);
    if (graph) EXPECT(r->runtime->graph_destroy(r->ordinal, graph, why) == NIB_OK, "%s", why);
    OK(nib_hessian_add_grouped(&exec, &groups, &all, NIB_HESSIAN_EXACT, &h));
    runner_wait(r);
    gptq_moments_free(&m);
    buffer_free(&x), buffer_free(&at), buffer_free(&work);
}
