/* emu_mma.cc: ldmatrix and mma.sync m16n8k16. Lane layouts: PTX ISA, "Matrix fragments for
 * mma.m16n8k16"; with g = lane / 4 and q = 2 * (lane % 4):
 *
 *   A, 16x16: register i holds row g + 8 * (i & 1), columns q + 8 * (i >> 1) and the next
 *   B, 16x8:  register i holds rows q + 8 * i and the next, column g
 *   C, 16x8:  elements at (g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1)
 *
 * Products are exact in f32 and summed in order of k, which is not the hardware's order: results
 * agree with it to a bound, and exactly where every partial sum is exact. */
#include "kernels/common/half.h"
#include "tests/emu/emu_internal.h"
#include "tests/emu/emu_ptx.h"

#include <cstring>

namespace nib_emu {

typedef unsigned char Lanes[32][lane_bytes];

struct MatrixIn {
    uint32_t row[4];
    int      matrices, transposed;
};

void load_matrix(uint32_t *regs, int matrices, bool transposed, const void *row, const char *file,
                 int line)
{
    MatrixIn in = {};
    in.matrices = matrices;
    in.transposed = transposed;
    const bool gives_row = (int)thread->lane < 8 * matrices;
    {
        Unseen unseen;
        if (gives_row) {
            need_shared(row, 16, "ldmatrix", file, line);
            memcpy(in.row, row, 16);
        }
    }
    if (gives_row) saw_read(row, 16);
    collective(OP_LDMATRIX + matrices + 8 * transposed, ~0u, &in, sizeof in, regs,
               4 * (size_t)matrices, false, file, line,
               [](unsigned, unsigned char (*from)[lane_bytes], unsigned char (*to)[lane_bytes]) {
                   MatrixIn lanes[32];
                   for (int l = 0; l < 32; l++) memcpy(&lanes[l], from[l], sizeof lanes[l]);
                   for (int l = 0; l < 32; l++) {
                       for (int m = 0; m < lanes[0].matrices; m++) {
                           uint16_t pair[2];
                           for (int i = 0; i < 2; i++) { /* row r, column c of the 8x8 matrix */
                               int r = l / 4, c = l % 4 * 2 + i;
                               if (lanes[0].transposed) { const int t = r; r = c; c = t; }
                               memcpy(&pair[i], (char *)lanes[8 * m + r].row + 2 * c, 2);
                           }
                           memcpy(to[l] + 4 * m, pair, 4);
                       }
                   }
               });
}

struct MmaIn {
    uint32_t a[4], b[2], c[4];
};

static const float *f16_values()
{
    static const std::vector<float> values = [] {
        std::vector<float> v(65536);
        for (uint32_t i = 0; i < 65536; i++) v[i] = nib_f16_to_f32((uint16_t)i);
        return v;
    }();
    return values.data();
}

float value_of_16(Mma kind, uint16_t bits)
{
    static const float *const table = f16_values();
    return kind == Mma::bf16_f32 ? nib_bf16_to_f32(bits) : table[bits];
}

static float value_of(Mma kind, uint32_t pair, int half)
{
    return value_of_16(kind, (uint16_t)(pair >> (16 * half)));
}

static void multiply(Mma kind, const MmaIn *in, float (*c)[8])
{
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, q = 2 * (lane % 4);
        for (int h = 0; h < 2; h++) {
            for (int i = 0; i < 4; i++) {
                a[g + 8 * (i & 1)][q + 8 * (i >> 1) + h] = value_of(kind, in[lane].a[i], h);
            }
            for (int i = 0; i < 2; i++) {
                b[q + 8 * i + h][g] = value_of(kind, in[lane].b[i], h);
            }
        }
    }
    for (int m = 0; m < 16; m++) {
        float sum[8] = {};
        for (int k = 0; k < 16; k++) {
            for (int n = 0; n < 8; n++) sum[n] += a[m][k] * b[k][n];
        }
        for (int n = 0; n < 8; n++) c[m][n] += sum[n];
    }
}

template <Mma kind>
static void combine_mma(unsigned, unsigned char (*from)[lane_bytes],
                        unsigned char (*to)[lane_bytes])
{
    MmaIn in[32];
    float c[16][8];
    counts.mma++;
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, q = 2 * (lane % 4);
        memcpy(&in[lane], from[lane], sizeof in[lane]);
        for (int i = 0; i < 4; i++) {
            const uint32_t word = in[lane].c[kind == Mma::f16_f16 ? i / 2 : i];
            c[g + 8 * (i / 2)][q + i % 2] = kind == Mma::f16_f16
                ? nib_f16_to_f32((uint16_t)(word >> (16 * (i % 2)))) : nib_float_of(word);
        }
    }
    multiply(kind, in, c);
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, q = 2 * (lane % 4);
        uint32_t d[4] = {};
        for (int i = 0; i < 4; i++) {
            const float x = c[g + 8 * (i / 2)][q + i % 2];
            if (kind == Mma::f16_f16) d[i / 2] |= (uint32_t)nib_f16_from_f32(x) << (16 * (i % 2));
            else d[i] = nib_bits_of(x);
        }
        memcpy(to[lane], d, sizeof d);
    }
}

void mma(Mma kind, void *d, const uint32_t *a, const uint32_t *b, const char *file, int line)
{
    const size_t bytes = kind == Mma::f16_f16 ? 8 : 16;
    MmaIn in = {};
    {
        Unseen unseen;
        memcpy(in.a, a, sizeof in.a);
        memcpy(in.b, b, sizeof in.b);
        memcpy(in.c, d, bytes);
    }
    collective(OP_MMA + (int)kind, ~0u, &in, sizeof in, d, bytes, false, file, line,
               kind == Mma::f16_f32 ? combine_mma<Mma::f16_f32>
               : kind == Mma::bf16_f32 ? combine_mma<Mma::bf16_f32> : combine_mma<Mma::f16_f16>);
}

} // namespace nib_emu
