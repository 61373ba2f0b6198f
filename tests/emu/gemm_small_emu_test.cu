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

/* How many parts K is cut into, on an H200: gemm_tune.h. One wave and no more is filled, but not
 * where memory is busy without; short K is not cut. */
NIB_TEST(GemmSmallEmu, SplitsOfAnH200)
{
    static const struct {
        const char *tactic;
        int64_t     m, n, k;
        int32_t     splits;
    } rows[] = {
        { "small8", 1, 8192, 8192, 2 }, { "small8", 8, 8192, 8192, 2 },
        { "small16", 16, 8192, 8192, 2 }, { "small8", 8, 28672, 4096, 1 },
        { "small16", 16, 10240, 8192, 3 }, { "wgmma128", 128, 10240, 8192, 3 },
        { "small8", 8, 57344, 8192, 1 }, { "small8", 8, 4096, 4096, 4 },
        { "small8", 8, 64, 512, 1 }, { "small8", 8, 1024, 8192, 14 },
        { "tile32", 32, 8192, 8192, 4 }, { "tile32", 32, 28672, 4096, 1 },
        { "tile64", 64, 8192, 28672, 4 }, { "tile64", 512, 8192, 8192, 1 },
        { "wgmma128", 128, 8192, 8192, 4 }, { "wgmma128", 512, 8192, 8192, 1 },
    };
    for (const auto &row : rows) {
        Case c;
        c.tactic = row.tactic;
        c.m = row.m, c.n = row.n, c.k = row.k;
        nib_gemm_options o = options_of(c);
        nib_gemm_tactic  all[NIB_GEMM_TACTICS];
        nib_device_info  info = {};
        char             why[NIB_WHY_BYTES] = "";
        info.compute_capability = 90, info.processors = 132;
        o.layout = NIB_GEMM_LAYOUT_SM80;
        const int32_t count = nib_cuda_gemm_tactics(&o, &info, all, why);
        int32_t       found = 0;
        for (int32_t i = 0; i < count; i++) {
            if (!strcmp(all[i].name, row.tactic))
                (void)nib_cuda_gemm_need(&o, &info, &all[i], row.m, &found);
        }
        EXPECT(found == row.splits, "%s, %lld x %lld x %lld: %d splits, not %d", row.tactic,
               (long long)row.m, (long long)row.n, (long long)row.k, found, row.splits);
    }
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
