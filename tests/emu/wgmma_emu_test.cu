/* wgmma_emu_test.cu: wgmma m64n128k16 against the product of plain matrices, and the sentence that
 * each of its rules gives when it is broken. Where elements lie is written here once more, from the
 * figures of the PTX ISA's "Asynchronous warpgroup level matrix instructions". */
#include "kernels/common/half.h"
#include "kernels/cuda/ptx_wgmma.cuh"
#include "tests/emu/hopper.h"

#include <math.h>
#include <string.h>

enum { M = 128, N = 128, K = 64, THREADS = 256, EIGHT = 2048, FIRST = 3072,
       SMEM = FIRST + N / 8 * EIGHT };

enum Fault { NONE, NO_FENCE, A_AFTER_FENCE, SUM_AFTER_FENCE, A_IN_FLIGHT, SUM_IN_FLIGHT,
             B_IN_FLIGHT, NO_WAIT, NO_PROXY_FENCE, WARP_ABSENT, WARP_ELSEWHERE, NO_SWIZZLE,
             OFF_1024, ROW_LEFT, OUTSIDE };

/* a: M x K, b: N x K, both row-major; d: M x N, in: C. Two warpgroups of 64 rows; K in two groups
 * of two products. B's rows lie in 128 bytes, eight of them EIGHT bytes after the eight before. */
template <bool bf16>
__global__ static void multiply(const uint16_t *a, const uint16_t *b, float *d, int wanted)
{
    NIB_SHARED_DYNAMIC(smem);
    const int fault = NIB_ON_EMULATOR ? wanted : (int)NONE;
    const int tid = (int)threadIdx.x, warp = tid / 32, lane = tid % 32;
    unsigned char *const tile = smem + FIRST;
    for (int i = tid; i < N * 8; i += THREADS) { /* 8 values, chunk c of row r */
        const int r = i / 8, c = i % 8;
        unsigned char *const to = tile + r / 8 * EIGHT + r % 8 * 128 + (c ^ (r % 8)) * 16;
        nib_ptx::cp_async<16>(to, b + r * K + 8 * c);
    }
    nib_ptx::cp_async_wait_all();
    if (fault != NO_PROXY_FENCE || tid != 77) nib_ptx::fence_proxy_async();
    __syncthreads();

    uint32_t regs[4][4];
    float    sum[64];
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 4; i++) {
            const int row = 16 * warp + lane / 4 + 8 * (i & 1);
            memcpy(&regs[j][i], a + row * K + 16 * j + lane % 4 * 2 + 8 * (i / 2), 4);
        }
    }
    float *const mine = d + (16 * warp + lane / 4) * N + lane % 4 * 2;
    for (int i = 0; i < 64; i++) sum[i] = mine[i / 2 % 2 * 8 * N + 8 * (i / 4) + i % 2];
    uint64_t desc = (uint64_t)1 << 62 | (uint64_t)(EIGHT / 16) << 32
                  | (nib_ptx::shared_address(tile) & 0x3ffff) >> 4;
    if (fault == NO_SWIZZLE) desc &= ~((uint64_t)3 << 62);
    if (fault == OFF_1024) desc += 128 / 16;
    if (fault == ROW_LEFT) desc += 112 / 16;
    if (fault == OUTSIDE) desc += 2048 / 16;
    if (fault == WARP_ELSEWHERE && warp == 6) desc += 2;
    NIB_UNROLL
    for (int group = 0; group < 2; group++) {
        if (fault != NO_FENCE || tid < 128 || group == 0) nib_ptx::wgmma_fence();
        if (fault == A_AFTER_FENCE && group && tid == 5) regs[0][2]++;
        if (fault == SUM_AFTER_FENCE && group && tid == 5) sum[63] += 1;
        NIB_UNROLL
        for (int i = 0; i < 2; i++) {
            const int      j = 2 * group + i;
            const uint64_t at = desc + (uint64_t)j * 32 / 16;
            if (fault == WARP_ABSENT && warp == 2 && group) continue;
            /* a set of registers that both groups use */
            uint32_t (&set)[4] = fault == A_AFTER_FENCE ? regs[i] : regs[j];
            if constexpr (bf16) nib_ptx::wgmma_bf16_f32(sum, set, at);
            else nib_ptx::wgmma_f16_f32(sum, set, at);
        }
        nib_ptx::wgmma_commit();
        if (fault == A_IN_FLIGHT && tid == 200) regs[3][0] ^= 1;
        if (fault == SUM_IN_FLIGHT && group && tid == 200) sum[5] *= 2;
        if (fault == B_IN_FLIGHT && group && tid == 0) tile[2 * EIGHT + 2 * 128] ^= 1;
        if (fault == A_AFTER_FENCE || fault == SUM_AFTER_FENCE) nib_ptx::wgmma_wait<0>();
    }
    nib_ptx::wgmma_wait<1>();
    if (fault != NO_WAIT) nib_ptx::wgmma_wait<0>();
    for (int i = 0; i < 64; i++) mine[i / 2 % 2 * 8 * N + 8 * (i / 4) + i % 2] = sum[i];
}

/* exact: small integers, whose sums no order of additions rounds. */
template <bool bf16> static void expect_product(bool exact, uint64_t seed)
{
    Random random(seed);
    std::vector<uint16_t> a((size_t)M * K), b((size_t)N * K);
    std::vector<float> fa(a.size()), fb(b.size()), c((size_t)M * N);
    const auto draw = [&](std::vector<uint16_t> *bits, std::vector<float> *values) {
        for (size_t i = 0; i < bits->size(); i++) {
            const float x = exact ? (float)(random.below(9) - 4)
                                  : (float)(random.below(20001) - 10000) / 4096.0f;
            (*bits)[i] = bf16 ? nib_bf16_from_f32(x) : nib_f16_from_f32(x);
            (*values)[i] = bf16 ? nib_bf16_to_f32((*bits)[i]) : nib_f16_to_f32((*bits)[i]);
        }
    };
    draw(&a, &fa);
    draw(&b, &fb);
    for (float &x : c) x = (float)(random.below(201) - 100);
    Device<uint16_t> da(a), db(b);
    Device<float>    dd(c);
    EXPECT_CUDA(cudaFuncSetAttribute(multiply<bf16>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     SMEM));
    NIB_LAUNCH(multiply<bf16>, 1, THREADS, SMEM, 0, (const uint16_t *)da, (const uint16_t *)db,
               (float *)dd, (int)NONE);
    EXPECT_CUDA(cudaDeviceSynchronize());
    const std::vector<float> got = dd.read();
    int wrong = 0;
    for (size_t m = 0; m < M; m++) {
        for (size_t n = 0; n < N; n++) {
            double want = c[m * N + n], size = fabs(want);
            for (size_t k = 0; k < K; k++) {
                const double p = (double)fa[m * K + k] * fb[n * K + k];
                want += p;
                size += fabs(p);
            }
            const double is = got[m * N + n];
            if (fabs(is - want) <= (exact ? 0 : 0x1p-19) * size) continue;
            if (!wrong++)
                EXPECT(0, "bf16 %d exact %d (%zu, %zu): %g, %g", bf16, exact, m, n, is, want);
        }
    }
    EXPECT(!wrong, "%d wrong", wrong);
}

NIB_TEST(EmuWgmma, Products)
{
    ON_HOPPER();
    each_schedule([] {
        for (uint64_t seed = 1; seed <= 2; seed++) {
            expect_product<false>(seed % 2, seed);
            expect_product<true>(seed % 2, seed);
        }
    });
}

#if NIB_ON_EMULATOR
static void expect_fault(Fault fault, const char *word)
{
    const std::vector<uint16_t> ones(M * K, 0x3c00);
    Device<uint16_t> a(ones), b(ones);
    Device<float>    d(std::vector<float>(M * N, 1.0f));
    EXPECT_CUDA(cudaFuncSetAttribute(multiply<false>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     SMEM));
    NIB_LAUNCH(multiply<false>, 1, THREADS, SMEM, 0, (const uint16_t *)a, (const uint16_t *)b,
               (float *)d, (int)fault);
    EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure, "fault %d: %s", fault, word);
    EXPECT(strstr(nib_emu_failure(), word), "'%s' is not in: %s", word, nib_emu_failure());
    nib_emu_reset();
}

NIB_TEST(EmuWgmma, Faults)
{
    static const struct {
        Fault       fault;
        const char *word;
    } rows[] = {
        { NO_FENCE, "does not begin with wgmma.fence" },
        { A_AFTER_FENCE, "registers of A were touched after wgmma.fence" },
        { SUM_AFTER_FENCE, "registers of the accumulators were touched after wgmma.fence" },
        { A_IN_FLIGHT, "registers of A" },
        { SUM_IN_FLIGHT, "registers of the accumulators were touched while" },
        { B_IN_FLIGHT, "B has changed before the wait, column 18" },
        { NO_WAIT, "ends with a wgmma in flight" },
        { NO_PROXY_FENCE, "copied by thread 77 without fence.proxy.async" },
        { WARP_ABSENT, "deadlock" },
        { WARP_ELSEWHERE, "diverge" },
        { NO_SWIZZLE, "not of the 128-byte swizzle" },
        { OFF_1024, "no multiples of 1024" },
        { ROW_LEFT, "leave their row" },
        { OUTSIDE, "outside of dynamic shared memory" },
    };
    ON_HOPPER();
    for (int s = 0; s < NIB_EMU_SCHEDULES; s++) {
        nib_emu_reset();
        nib_emu_set_schedule((nib_emu_schedule)s, 3);
        nib_emu_set_architecture(90);
        for (const auto &row : rows) expect_fault(row.fault, row.word);
        nib_emu_set_architecture(80);
        expect_fault(NONE, "sm_90a alone has it");
    }
    nib_emu_set_schedule(NIB_EMU_FORWARD, 1);
}
#endif
