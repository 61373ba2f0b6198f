/* gemm_test.c: every kernel's products are what f64 says, to the bound of gemm.h: formats, types,
 * accumulations, epilogues and ragged shapes, each with the others in turn. */
#include <stdlib.h>
#include <string.h>

#include "tests/gemm_fixture.h"

/* What a device may be asked for. */
typedef struct kind {
    nib_dtype            a;
    nib_gemm_accumulate  accumulate;
    int32_t              chunk;
    nib_gemm_activations activations;
} kind;

#define F16_SUMS NIB_GEMM_ACCUMULATE_F16
#define INT8     NIB_GEMM_ACTIVATIONS_INT8

static const kind of_cuda[] = { { NIB_F16, 0, 0, 0 },          { NIB_BF16, 0, 0, 0 },
                                { NIB_F16, F16_SUMS, 0, 0 },   { NIB_F16, F16_SUMS, 128, 0 },
                                { NIB_F16, F16_SUMS, 256, 0 }, { NIB_F16, F16_SUMS, 64, 0 } };
static const kind of_cpu[] = { { NIB_F32, 0, 0, 0 },    { NIB_F16, 0, 0, 0 },
                               { NIB_BF16, 0, 0, 0 },   { NIB_F32, 0, 0, INT8 },
                               { NIB_F16, 0, 0, INT8 }, { NIB_BF16, 0, 0, INT8 } };
enum { KINDS = 6 };

static const kind *kind_of(const runner *r, int i)
{
    return runner_is_cuda(r) ? &of_cuda[i] : &of_cpu[i];
}

static int is_possible(const kind *k, nib_format format)
{
    return k->chunk <= 64 || nib_format_scale(format) == NIB_SCALE_E4M3;
}

static const int64_t many_m[] = { 1, 7, 8, 9, 16, 17, 33, 65, 130, 2, 0 };
static const int64_t many_n[] = { 8, 16, 24, 56, 64, 72, 128, 136, 200 };
static const int64_t many_k[] = { 8, 16, 24, 40, 56, 64, 72, 120, 200, 264, 328, 0 };

static int64_t one_of(const int64_t *list, int count)
{
    return list[next_random() % (uint32_t)count];
}

/* Everything else by chance. */
static gemm_case draw(const kind *k, nib_format format)
{
    gemm_case c = { .m = one_of(many_m, 11) };
    c.o = gemm_options(format, one_of(many_n, 9), one_of(many_k, 12), c.m + 1 + next_random() % 9,
                       k->a, (nib_dtype)(next_random() % 3));
    c.o.accumulate = k->accumulate;
    c.o.f16_chunk = k->chunk;
    c.o.activations = k->activations;
    c.o.act = (nib_gemm_act)(next_random() % 5);
    c.o.gated = c.o.n % 16 == 0 && next_random() % 3 == 0;
    c.gap = next_random() % 3;
    c.alpha = next_random() % 2, c.bias = next_random() % 2, c.residual = next_random() % 2;
    c.in_place = c.residual && next_random() % 2;
    c.off = next_random() % 4 * 16;
    return c;
}

static gemm_source source_for(const gemm_case *c)
{
    const int halves = c->o.k % nib_format_block(c->o.format) == 0 && next_random() % 3 == 0;
    return gemm_source_make(c->o.format, c->o.n, c->o.k,
                            halves ? NIB_CODES_GGUF_HALVES : NIB_CODES_PAIRS,
                            (nib_scale_layout)(next_random() % 2), next_random() % 3,
                            next_random() % 3 ? GEMM_TAME : GEMM_WIDE);
}

static void check(const runner *r, const gemm_case *c)
{
    gemm_source s = source_for(c);
    gemm_check(r, c, &s);
    gemm_source_free(&s);
}

NIB_TEST(OnDeviceGemm, EveryTacticKeepsTheBound)
{
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 600;
    for (int i = 0; i < n; i++) {
        for (int at = 0; at < KINDS * 4 && !nib_test_failed(); at++) {
            const kind *k = kind_of(list[i], at / 4);
            const nib_format format = gemm_formats[at % 4];
            const nib_gemm_options any = { .size = sizeof any, .format = format, .n = 8, .k = 8,
                                           .m_max = 1, .a_dtype = k->a, .accumulate = k->accumulate,
                                           .f16_chunk = k->chunk, .activations = k->activations };
            int32_t tactics = 0;
            if (!is_possible(k, format)) continue;
            while (gemm_tactic_name(list[i], &any, tactics)) tactics++;
            EXPECT(tactics >= 1, "%s: kind %d, format %#x: %s", list[i]->name, at / 4, format,
                   nib_last_error());
            for (int32_t t = 0; t < tactics * 3; t++) {
                gemm_case c = draw(k, format);
                c.o.tactic = gemm_tactic_name(list[i], &any, t / 3);
                c.label = "every tactic";
                check(list[i], &c);
            }
        }
    }
}

NIB_TEST(OnDeviceGemm, PlansKeepTheBoundForEveryM)
{
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 601;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 48 && !nib_test_failed(); turn++) {
            const kind *k = kind_of(list[i], turn / 4 % KINDS);
            const nib_format format = gemm_formats[turn % 4];
            if (!is_possible(k, format)) continue;
            gemm_case c = draw(k, format);
            c.o.m_max = turn % 2 ? 4000 : c.o.m_max;
            c.o.batch_invariant = turn / 24;
            c.label = "by M";
            check(list[i], &c);
        }
    }
}

/* Each epilogue with each type of D, over the tactics in turn. */
NIB_TEST(OnDeviceGemm, EveryEpilogue)
{
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 602;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 5 * 2 * 3 * 4 && !nib_test_failed(); turn++) {
            const int which = turn / 30; /* of alpha, bias, residual, in place */
            const kind *k = kind_of(list[i], turn % 2);
            gemm_case c = draw(k, gemm_formats[turn % 4]);
            int32_t tactics = 0;
            c.m = 1 + turn % 10;
            c.o.m_max = c.m, c.o.n = turn % 3 ? 48 : 80, c.o.k = 72;
            c.o.act = (nib_gemm_act)(turn % 5);
            c.o.gated = turn / 5 % 2;
            c.o.d_dtype = (nib_dtype)(turn / 10 % 3);
            c.alpha = which == 0, c.bias = which == 1 || which == 3;
            c.residual = which >= 2, c.in_place = which == 3;
            c.label = "every epilogue";
            while (gemm_tactic_name(list[i], &c.o, tactics)) tactics++;
            if (tactics) c.o.tactic = gemm_tactic_name(list[i], &c.o, turn % tactics);
            check(list[i], &c);
        }
    }
}

/* K long enough to be cut, and N of several stripes of tiles. */
NIB_TEST(OnDeviceGemm, LongRowsAreCutAndAddedUp)
{
    static const int64_t shapes[][3] = { { 1, 64, 4160 }, { 9, 72, 2056 }, { 17, 16, 1096 },
                                         { 40, 136, 1544 }, { 3, 264, 1032 }, { 70, 8, 2312 } };
    const runner *list[GEMM_RUNNERS];
    const int n = gemm_runners(list);
    REQUIRE(n > 0, "this backend has no products");
    random_state = 603;
    for (int i = 0; i < n; i++) {
        for (int turn = 0; turn < 18 && !nib_test_failed(); turn++) {
            const kind *k = kind_of(list[i], turn % KINDS);
            const nib_format format = gemm_formats[(turn + turn / 6) % 4];
            int32_t tactics = 0;
            if (!is_possible(k, format)) continue;
            gemm_case c = draw(k, format);
            c.m = shapes[turn % 6][0], c.o.n = shapes[turn % 6][1], c.o.k = shapes[turn % 6][2];
            c.o.m_max = c.m, c.o.gated = c.o.n % 16 == 0 && turn % 2;
            c.label = "long rows";
            while (gemm_tactic_name(list[i], &c.o, tactics)) tactics++;
            if (tactics && turn % 3) c.o.tactic = gemm_tactic_name(list[i], &c.o, turn % tactics);
            check(list[i], &c);
        }
    }
}
