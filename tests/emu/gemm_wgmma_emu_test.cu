/* gemm_wgmma_emu_test.cu: products by Hopper's wgmma keep gemm.h's bound, are exact where nothing
 * rounds, and a token's bits do not depend on other tokens. */
#include "tests/emu/gemm_case.h"
#include "tests/emu/hopper.h"

namespace {

Case wgmma_case(int bf16, nib_format format)
{
    Case c;
    c.tactic = "wgmma128";
    c.format = format;
    c.layout = NIB_GEMM_LAYOUT_SM80;
    set_kind(&c, bf16);
    return c;
}

} // namespace

NIB_TEST(GemmWgmmaEmu, KindsFormatsAndEdges)
{
    ON_HOPPER();
    Random   random(3);
    uint64_t seed = 2000;
    for (const nib_format format : gemm_formats) {
        for (int i = 0; i < 14; i++) {
            Case c = wgmma_case(i % 2, format);
            shuffle(&c, i % 4 < 2 ? 140 : 300, 330, 520, random);
            c.f16_sums = false;
            (void)check(c, seed++);
        }
    }
}

/* One CTA's tokens are not all there, one's rows are not, the last step is half a step; more steps
 * than stages. */
NIB_TEST(GemmWgmmaEmu, WholeTilesAndTheirNeighbours)
{
    ON_HOPPER();
    uint64_t seed = 2100;
    for (const int64_t k : { 64, 128, 192, 512, 520, 640, 1032 }) {
        Case c = wgmma_case(k == 192 || k == 640, k % 3 ? NIB_NVFP4 : NIB_MXFP4);
        c.m = 128 + (k == 192), c.n = k == 128 ? 256 : 320, c.k = k;
        (void)check(c, seed++);
    }
}

NIB_TEST(GemmWgmmaEmu, ExactWhereNothingRounds)
{
    ON_HOPPER();
    uint64_t seed = 2200;
    for (const nib_format format : gemm_formats) {
        for (int i = 0; i < 4; i++) {
            Case c = wgmma_case(i % 2, format);
            c.exact = true;
            c.splits = 1 + (int)(seed % 3);
            c.m = 131, c.n = 264, c.k = 328;
            (void)check(c, seed++);
        }
    }
}

NIB_TEST(GemmWgmmaEmu, EverySchedule)
{
    ON_HOPPER();
    each_schedule([] {
        for (int i = 0; i < 4; i++) {
            Case c = wgmma_case(i % 2, i / 2 ? NIB_MXFP4 : NIB_NVFP4);
            c.gated = i == 3, c.d_dtype = i < 2 ? NIB_F32 : NIB_BF16;
            c.residual = c.in_place = i == 1 || i == 3;
            c.m = 97, c.n = 80, c.k = 840; /* longer than all stages */
            c.splits = i == 2 ? 2 : 1;
            (void)check(c, (uint64_t)(2300 + i));
        }
    });
}

/* Whatever other tokens there are, in its CTA or in others. */
NIB_TEST(GemmWgmmaEmu, NumbersOfTokensAgree)
{
    ON_HOPPER();
    for (int i = 0; i < 4; i++) {
        Case c = wgmma_case(i % 2, gemm_formats[i]);
        c.m = 140, c.n = 72, c.k = 456;
        const Bytes all = multiply(c, make_inputs(c, 2400));
        for (const int64_t m : { 3, 128 }) {
            Case few = c;
            few.m = m;
            const Bytes part = multiply(few, make_inputs(few, 2400));
            EXPECT(Bytes(all.begin(), all.begin() + (int64_t)part.size()) == part,
                   "%lld rows alone differ, case %d", (long long)m, i);
        }
    }
}

/* NaN and Inf stay in their rows, NaN scales in their columns. */
NIB_TEST(GemmWgmmaEmu, NonfiniteValuesStayWhereTheyAre)
{
    ON_HOPPER();
    for (int i = 0; i < 2; i++) {
        Case c = wgmma_case(0, i ? NIB_MXFP4 : NIB_NVFP4);
        c.m = 135, c.n = 136, c.k = 264;
        Inputs in = make_inputs(c, 2500);
        const Bytes clean = multiply(c, in);
        const uint16_t inf = 0x7c00, nan = 0x7e00;
        memcpy(in.a.data() + 2 * (7 * in.a_ld + 100), &inf, 2);
        memcpy(in.a.data() + 2 * (134 * in.a_ld + 263), &nan, 2);
        in.src_scales[(size_t)(9 * nib_scales_per_row(c.format, c.k) + 3)] = i ? 0xff : 0x7f;
        pack(c, &in);
        const Bytes d = multiply(c, in);
        for (int64_t e = 0; e < c.m * c.n; e++) {
            float was, is;
            memcpy(&was, &clean[(size_t)e * 4], 4), memcpy(&is, &d[(size_t)e * 4], 4);
            const bool spoilt = e / c.n == 134 || e % c.n == 9;
            if (e / c.n == 7 && e % c.n != 9) EXPECT(!isfinite(is), "row 7: %g", (double)is);
            else EXPECT(spoilt ? isnan(is) : was == is, "case %d, (%lld, %lld): %g, was %g", i,
                        (long long)(e / c.n), (long long)(e % c.n), (double)is, (double)was);
        }
    }
}

/* Compute capability 9.0 alone has it, for F32 sums; its plans too, where tile64 would be. */
NIB_TEST(GemmWgmmaEmu, OfferedWhereItIs)
{
    for (const int capability : { 80, 89, 90, 100, 120 }) {
        for (int f16_sums = 0; f16_sums < 2; f16_sums++) {
            Case c;
            c.f16_sums = f16_sums, c.m = 512;
            nib_gemm_tactic  all[NIB_GEMM_TACTICS];
            char             why[NIB_WHY_BYTES] = "";
            nib_device_info  info = {};
            nib_gemm_options o = options_of(c);
            o.layout = capability < 100 ? NIB_GEMM_LAYOUT_SM80 : NIB_GEMM_LAYOUT_SM100;
            info.compute_capability = capability, info.processors = 132;
            const auto is_in = [&all](int count) {
                for (int i = 0; i < count; i++)
                    if (!strcmp(all[i].name, "wgmma128")) return true;
                return false;
            };
            EXPECT(is_in(nib_cuda_gemm_tactics(&o, &info, all, why))
                       == (capability == 90 && !f16_sums), "sm_%d, %d", capability, f16_sums);
            const int count = nib_cuda_gemm_plan(&o, &info, all, why);
            EXPECT(is_in(count) == (capability == 90 && !f16_sums), "sm_%d's plan", capability);
            for (int i = 0; i < count; i++) {
                const bool wgmma = !strcmp(all[i].name, "wgmma128");
                EXPECT(!wgmma || (all[i].m_low == 65 && all[i].m_high == 512), "%lld to %lld",
                       (long long)all[i].m_low, (long long)all[i].m_high);
            }
            o.batch_invariant = 1;
            EXPECT(!is_in(nib_cuda_gemm_plan(&o, &info, all, why)), "sm_%d, invariant", capability);
        }
    }
}
