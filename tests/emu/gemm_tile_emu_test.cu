/* gemm_tile_emu_test.cu: the kernels for some more rows of activations keep gemm.h's bound, are
 * exact where nothing rounds, and agree with each other bit by bit. */
#include "tests/emu/gemm_case.h"

namespace {

const char *const tiles[] = { "tile32", "tile64" };

} // namespace

NIB_TEST(GemmTileEmu, KindsFormatsLayoutsAndEdges)
{
    Random   random(1);
    uint64_t seed = 0;
    for (const nib_format format : gemm_formats) {
        for (int i = 0; i < 18; i++) {
            Case c;
            c.format = format;
            c.tactic = tiles[i % 2];
            c.layout = i / 2 % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
            set_kind(&c, i / 6);
            shuffle(&c, i % 2 ? 140 : 70, 330, 520, random);
            (void)check(c, seed++);
        }
    }
}

/* One CTA's tokens are not all there, one's rows are not, and the last step is half a step. */
NIB_TEST(GemmTileEmu, WholeTilesAndTheirNeighbours)
{
    uint64_t seed = 100;
    for (int i = 0; i < 2; i++) {
        for (const int64_t k : { 128, 192, 512, 520, 640 }) {
            Case c;
            c.tactic = tiles[i];
            c.m = (32 << i) + (k == 192), c.n = k == 128 ? 256 : 320, c.k = k;
            (void)check(c, seed++);
        }
    }
}

NIB_TEST(GemmTileEmu, ExactWhereNothingRounds)
{
    uint64_t seed = 200;
    for (const nib_format format : gemm_formats) {
        for (int i = 0; i < 6; i++) {
            Case c;
            c.format = format;
            c.tactic = tiles[i % 2];
            c.layout = seed % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
            set_kind(&c, i / 2);
            c.exact = true;
            c.splits = 1 + (int)(seed % 3);
            c.m = 37, c.n = 264, c.k = 328;
            (void)check(c, seed++);
        }
    }
}

NIB_TEST(GemmTileEmu, EverySchedule)
{
    each_schedule([] {
        for (int i = 0; i < 6; i++) {
            Case c;
            c.tactic = tiles[i % 2];
            set_kind(&c, i / 2);
            c.format = i % 2 ? NIB_MXFP4 : NIB_NVFP4;
            c.layout = i / 2 % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
            c.gated = i == 4, c.d_dtype = i < 4 ? NIB_F32 : NIB_F16;
            c.residual = c.in_place = i == 1 || i == 5;
            c.m = 33, c.n = 80, c.k = i % 2 ? 700 / 8 * 8 : 640; /* longer than all stages */
            c.splits = i == 3 ? 2 : 1;
            (void)check(c, (uint64_t)(300 + i));
        }
    });
}

/* A token's bits are the same by each kernel, and whatever other tokens there are. */
NIB_TEST(GemmTileEmu, KernelsAndNumbersOfTokensAgree)
{
    for (int i = 0; i < 12; i++) {
        Case c;
        set_kind(&c, i % 3);
        c.format = gemm_formats[i / 3];
        c.layout = i % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
        c.m = 40, c.n = 72, c.k = 456;
        Bytes first;
        for (const char *tactic : tiles) {
            c.tactic = tactic;
            const Bytes d = multiply(c, make_inputs(c, 400));
            if (first.empty()) first = d;
            EXPECT(d == first, "%s differs from tile32, case %d", tactic, i);
            Case few = c;
            few.m = 3;
            const Bytes part = multiply(few, make_inputs(few, 400));
            EXPECT(Bytes(first.begin(), first.begin() + (int64_t)part.size()) == part,
                   "%s: 3 rows alone differ, case %d", tactic, i);
        }
    }
}

/* NaN and Inf stay in their rows, NaN scales in their columns. */
NIB_TEST(GemmTileEmu, NonfiniteValuesStayWhereTheyAre)
{
    for (int i = 0; i < 4; i++) {
        Case c;
        c.tactic = tiles[i % 2];
        c.format = i < 2 ? NIB_NVFP4 : NIB_MXFP4;
        c.m = 35, c.n = 136, c.k = 264;
        Inputs in = make_inputs(c, 500);
        const Bytes clean = multiply(c, in);
        const uint16_t inf = 0x7c00, nan = 0x7e00;
        memcpy(in.a.data() + 2 * (7 * in.a_ld + 100), &inf, 2);
        memcpy(in.a.data() + 2 * (34 * in.a_ld + 263), &nan, 2);
        in.src_scales[(size_t)(9 * nib_scales_per_row(c.format, c.k) + 3)] = i < 2 ? 0x7f : 0xff;
        pack(c, &in);
        const Bytes d = multiply(c, in);
        for (int64_t e = 0; e < c.m * c.n; e++) {
            float was, is;
            memcpy(&was, &clean[(size_t)e * 4], 4), memcpy(&is, &d[(size_t)e * 4], 4);
            const bool spoilt = e / c.n == 34 || e % c.n == 9;
            if (e / c.n == 7 && e % c.n != 9) EXPECT(!isfinite(is), "row 7: %g", (double)is);
            else EXPECT(spoilt ? isnan(is) : was == is, "tile %d, (%lld, %lld): %g, was %g", i,
                        (long long)(e / c.n), (long long)(e % c.n), (double)is, (double)was);
        }
    }
}

#if NIB_ON_EMULATOR
/* What nib_prepare loads is all that a launch needs, whatever the driver leaves for later. */
NIB_TEST(GemmTileEmu, EveryKernelIsLoadedBefore)
{
    nib_emu_reset();
    EXPECT_CUDA(nib_cuda_load_gemm());
    EXPECT_CUDA(nib_cuda_load_gemm_tile());
    const int before = nib_emu_late_loads();
    for (int i = 0; i < 24; i++) {
        Case c;
        c.tactic = tiles[i % 2];
        c.layout = i / 2 % 2 ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
        c.format = i / 4 % 2 ? NIB_MXFP4 : NIB_NVFP4;
        set_kind(&c, i / 8);
        c.m = 2, c.n = 8, c.k = 128, c.splits = 2;
        (void)multiply(c, make_inputs(c, 600));
        EXPECT(nib_emu_late_loads() == before, "kernel %d is loaded by its launch", i);
    }
}
#endif
