/* gemm_small_emu_test.cu: the kernels for few rows of activations keep gemm.h's bound, are exact
 * where nothing rounds, and agree with each other bit by bit. */
#include "tests/emu/gemm_case.h"

namespace {

const char *const smalls[] = { "small8", "small16" };

} // namespace

NIB_TEST(GemmSmallEmu, KindsFormatsLayoutsAndEdges)
{
    Random   random(2);
    uint64_t seed = 1000;
    for (const nib_format format : gemm_formats) {
        for (int i = 0; i < 24; i++) {
            Case c;
            c.format = format;
            c.tactic = smalls[i % 2];
            c.layout = i / 2 % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
            set_kind(&c, i / 4 % 3);
            shuffle(&c, i % 4 ? 16 : 36, 150, i % 3 ? 1100 : 200, random);
            (void)check(c, seed++);
        }
    }
}

NIB_TEST(GemmSmallEmu, ExactWhereNothingRounds)
{
    uint64_t seed = 1200;
    for (const nib_format format : gemm_formats) {
        for (int i = 0; i < 6; i++) {
            Case c;
            c.format = format;
            c.tactic = smalls[i % 2];
            c.layout = seed % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
            set_kind(&c, i / 2);
            c.exact = true;
            c.splits = 1 + (int)(seed % 3);
            c.m = 13, c.n = 72, c.k = 584;
            (void)check(c, seed++);
        }
    }
}

NIB_TEST(GemmSmallEmu, EverySchedule)
{
    each_schedule([] {
        for (int i = 0; i < 6; i++) {
            Case c;
            c.tactic = smalls[i % 2];
            set_kind(&c, i / 2);
            c.format = i % 2 ? NIB_MXFP4_B16 : NIB_NVFP4_B32;
            c.layout = i / 2 % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
            c.gated = i == 4;
            c.m = 9, c.n = 80, c.k = 1160;
            c.splits = i % 3 + 1;
            (void)check(c, (uint64_t)(1300 + i));
        }
    });
}

/* A token's bits are the same by both kernels, and whatever other tokens there are. */
NIB_TEST(GemmSmallEmu, KernelsAndNumbersOfTokensAgree)
{
    for (int i = 0; i < 12; i++) {
        Case c;
        set_kind(&c, i % 3);
        c.format = gemm_formats[i / 3];
        c.layout = i % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
        c.m = 20, c.n = 72, c.k = 904, c.splits = 2;
        const Bytes first = multiply(c, make_inputs(c, 1400));
        for (const char *tactic : smalls) {
            Case few = c;
            few.tactic = tactic;
            for (const int64_t m : { 20, 11, 1 }) {
                few.m = m;
                const Bytes d = multiply(few, make_inputs(few, 1400));
                EXPECT(Bytes(first.begin(), first.begin() + (int64_t)d.size()) == d,
                       "%s: %lld rows differ, case %d", tactic, (long long)m, i);
            }
        }
    }
}
