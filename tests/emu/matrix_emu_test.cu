/* matrix_emu_test.cu: ldmatrix and mma.sync against the product of plain matrices. */
#include "kernels/common/half.h"
#include "tests/emu/emu_test.h"

#include <math.h>

template <int matrices, bool transposed>
__global__ static void load(const uint16_t *in, uint32_t *out)
{
    NIB_SHARED(uint4, tile, [32]);
    const int lane = (int)threadIdx.x;
    tile[lane] = ((const uint4 *)in)[lane];
    __syncthreads();
    uint32_t regs[matrices];
    nib_ptx::ldmatrix<matrices, transposed>(regs, &tile[lane % (8 * matrices)]);
    for (int m = 0; m < matrices; m++) out[m * 32 + lane] = regs[m];
}

template <int matrices, bool transposed> static void expect_load()
{
    std::vector<uint16_t> in(32 * 8);
    for (size_t i = 0; i < in.size(); i++) in[i] = (uint16_t)(i * 257 + 3);
    Device<uint16_t> src(in);
    Device<uint32_t> out(matrices * 32);
    NIB_LAUNCH((load<matrices, transposed>), 1, 32, 0, 0, (const uint16_t *)src, (uint32_t *)out);
    const std::vector<uint32_t> got = out.read();
    for (size_t i = 0; i < got.size(); i++) {
        const size_t m = i / 32, r = i % 32 / 4, c = i % 4 * 2;
        const uint32_t low = in[m * 64 + (transposed ? c * 8 + r : r * 8 + c)];
        const uint32_t high = in[m * 64 + (transposed ? (c + 1) * 8 + r : r * 8 + c + 1)];
        EXPECT(got[i] == (low | high << 16), "x%d trans %d, %zu", matrices, transposed, i);
    }
}

NIB_TEST(EmuMatrix, Ldmatrix)
{
    each_schedule([] {
        expect_load<1, false>();
        expect_load<2, false>();
        expect_load<4, false>();
        expect_load<1, true>();
        expect_load<2, true>();
        expect_load<4, true>();
    });
}

enum Kind { F16_F32, BF16_F32, F16_F16 };

/* a: 16x16 row-major, b: 16x8 row-major, c and d: 16x8 f32 bits, or f16. */
template <int kind>
__global__ static void multiply(const uint16_t *a, const uint16_t *b, const float *c, float *d)
{
    const int lane = (int)threadIdx.x, g = lane / 4, q = lane % 4 * 2;
    uint32_t ra[4], rb[2];
    for (int i = 0; i < 4; i++) {
        const uint16_t *at = a + (g + 8 * (i & 1)) * 16 + q + 8 * (i >> 1);
        ra[i] = at[0] | (uint32_t)at[1] << 16;
    }
    for (int i = 0; i < 2; i++) {
        const uint16_t *at = b + (q + 8 * i) * 8 + g;
        rb[i] = at[0] | (uint32_t)at[8] << 16;
    }
    float acc[4];
    for (int i = 0; i < 4; i++) acc[i] = c[(g + 8 * (i / 2)) * 8 + q + i % 2];
    if constexpr (kind == F16_F16) {
        uint32_t half[2];
        for (int i = 0; i < 2; i++) {
            half[i] = nib_f16_from_f32(acc[2 * i]) |
                      (uint32_t)nib_f16_from_f32(acc[2 * i + 1]) << 16;
        }
        nib_ptx::mma_f16_f16(half, ra, rb);
        for (int i = 0; i < 4; i++) {
            acc[i] = nib_f16_to_f32((uint16_t)(half[i / 2] >> (16 * (i % 2))));
        }
    } else if constexpr (kind == BF16_F32) {
        nib_ptx::mma_bf16_f32(acc, ra, rb);
    } else {
        nib_ptx::mma_f16_f32(acc, ra, rb);
    }
    for (int i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + q + i % 2] = acc[i];
}

/* exact: small integers, whose sums no order of additions rounds, in f16 neither. */
template <int kind> static void expect_product(bool exact, uint64_t seed)
{
    Random random(seed);
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> c(128), fa(256), fb(128);
    const auto draw = [&](std::vector<uint16_t> *bits, std::vector<float> *values) {
        for (size_t i = 0; i < bits->size(); i++) {
            const float x = exact ? (float)(random.below(9) - 4)
                                  : (float)(random.below(20001) - 10000) / 4096.0f;
            (*bits)[i] = kind == BF16_F32 ? nib_bf16_from_f32(x) : nib_f16_from_f32(x);
            (*values)[i] = kind == BF16_F32 ? nib_bf16_to_f32((*bits)[i])
                                            : nib_f16_to_f32((*bits)[i]);
        }
    };
    draw(&a, &fa);
    draw(&b, &fb);
    for (float &x : c) x = (float)(random.below(201) - 100);
    Device<uint16_t> da(a), db(b);
    Device<float> dc(c), dd(128);
    NIB_LAUNCH(multiply<kind>, 1, 32, 0, 0, (const uint16_t *)da, (const uint16_t *)db,
               (const float *)dc, (float *)dd);
    const std::vector<float> got = dd.read();
    for (size_t m = 0; m < 16; m++) {
        for (size_t n = 0; n < 8; n++) {
            double want = c[m * 8 + n], size = fabs(want);
            for (size_t k = 0; k < 16; k++) {
                const double p = (double)fa[m * 16 + k] * fb[k * 8 + n];
                want += p;
                size += fabs(p);
            }
            const double eps = exact ? 0 : kind == F16_F16 ? 0x1p-10 : 0x1p-21;
            EXPECT(fabs(got[m * 8 + n] - want) <= eps * size, "kind %d exact %d (%zu, %zu): %g, %g",
                   kind, exact, m, n, (double)got[m * 8 + n], want);
        }
    }
}

NIB_TEST(EmuMatrix, Mma)
{
    each_schedule([] {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            expect_product<F16_F32>(seed % 2, seed);
            expect_product<BF16_F32>(seed % 2, seed);
            expect_product<F16_F16>(seed % 2, seed);
        }
    });
}
