/* llama_layers_test.c: each layer in f32 against its definition in f64. tests/qat_gradient_test.c
 * and scripts/oracles/check_loss.py hold them together as a whole model. */
#include "host/model/llama_layers.h"

#include <stdlib.h>

#include "shim.h"

/* Every 397th f32 whose e^x is within 2^-64..2^64, of both signs: 2 units of the last place. */
NIB_TEST(LlamaLayers, ExponentialWithinTwoUnits)
{
    double worst = 0;
    for (uint32_t bits = 0; bits < 0x42317000u; bits += 397) /* up to 44.36 */
        for (int sign = 0; sign < 2; sign++) {
            const uint32_t signed_bits = bits | (uint32_t)sign << 31;
            float x;
            memcpy(&x, &signed_bits, sizeof x);
            const double want = exp((double)x), got = (double)nib_exp_f32(x);
            int e;
            (void)frexp(want, &e);
            const double units = fabs(got - want) / ldexp(1, e - 24);
            worst = units > worst ? units : worst;
        }
    EXPECT(worst <= 2, "%.3f units", worst);
}

NIB_TEST(LlamaLayers, ExponentialStaysAtItsEnds)
{
    static const float far[] = { 45, 89, 1000, 2000000 };
    for (size_t i = 0; i < sizeof far / sizeof *far; i++) {
        const double high = (double)nib_exp_f32(far[i]), low = (double)nib_exp_f32(-far[i]);
        EXPECT(high >= 0x1p63 && high <= 0x1p65, "e^%g is %g", (double)far[i], high);
        EXPECT(low >= 0x1p-65 && low <= 0x1p-63, "e^-%g is %g", (double)far[i], low);
    }
    EXPECT(nib_exp_f32(0) >= 1 && nib_exp_f32(0) <= 1, "e^0 is %g", (double)nib_exp_f32(0));
}

enum { N = 24, ROWS = 5 };

static void fill(uint32_t seed, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / (float)(1 << 22) - 2;
    }
}

static int is_near(double got, double want, double bound)
{
    return fabs(got - want) <= bound * (1 + fabs(want));
}

NIB_TEST(LlamaLayers, NormAndSwigluEqualTheirDefinitions)
{
    float x[ROWS * N], w[N], y[ROWS * N], inverse[ROWS], gate[N], up[N];
    fill(1, ROWS * N, x);
    fill(2, N, w);
    fill(3, N, gate);
    fill(4, N, up);
    nib_rms_norm(ROWS, N, x, w, 1e-5f, y, inverse);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int i = 0; i < N; i++) sum += (double)x[r * N + i] * (double)x[r * N + i];
        const double rms = sqrt(sum / N + 1e-5);
        EXPECT(is_near((double)inverse[r], 1 / rms, 1e-6), "row %d", r);
        for (int i = 0; i < N; i++)
            EXPECT(is_near((double)y[r * N + i], (double)x[r * N + i] / rms * (double)w[i], 1e-6),
                   "row %d, %d", r, i);
    }
    gate[0] = -200; /* far out: silu is 0 or its argument */
    gate[1] = 200;
    nib_swiglu(N, gate, up, y);
    for (int i = 0; i < N; i++) {
        const double g = (double)gate[i];
        EXPECT(is_near((double)y[i], g / (1 + exp(-g)) * (double)up[i], 1e-6), "%d: %g", i,
               (double)y[i]);
    }
}

/* A rotation by position times theta^(-2i/d) of the complex number x[i] + j x[i + d/2]. */
NIB_TEST(LlamaLayers, RopeTurnsAndTurnsBack)
{
    enum { CONTEXT = 3, HEADS = 2, D = 8, TOKENS = 6 };
    float table[CONTEXT * D], x[TOKENS * HEADS * D], y[TOKENS * HEADS * D];
    fill(5, TOKENS * HEADS * D, x);
    memcpy(y, x, sizeof y);
    nib_rope_table(CONTEXT, D, 50, table);
    nib_rope(TOKENS, CONTEXT, HEADS, D, table, 0, y);
    for (int r = 0; r < TOKENS; r++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < D / 2; i++) {
                const int at = (r * HEADS + h) * D + i;
                const double angle = r % CONTEXT * pow(50, -2.0 * i / D);
                const double a = (double)x[at], b = (double)x[at + D / 2];
                EXPECT(is_near((double)y[at], a * cos(angle) - b * sin(angle), 1e-6)
                           && is_near((double)y[at + D / 2], a * sin(angle) + b * cos(angle), 1e-6),
                       "token %d, head %d, pair %d", r, h, i);
            }
    nib_rope(TOKENS, CONTEXT, HEADS, D, table, 1, y);
    for (int i = 0; i < TOKENS * HEADS * D; i++)
        EXPECT(is_near((double)y[i], (double)x[i], 1e-6), "%d comes back", i);
}

NIB_TEST(LlamaLayers, SoftmaxAndCrossEntropyEqualTheirDefinitions)
{
    float s[N * N], p[N * N], logits[N];
    fill(6, N * N, s);
    for (int i = 0; i < N; i++) s[i] *= 30; /* large ones too */
    memcpy(p, s, sizeof p);
    nib_causal_softmax(N, p);
    for (int r = 0; r < N; r++) {
        double sum = 0;
        for (int c = 0; c <= r; c++) sum += exp((double)s[r * N + c]);
        for (int c = 0; c < N; c++) {
            const double want = c <= r ? exp((double)s[r * N + c]) / sum : 0;
            EXPECT(is_near((double)p[r * N + c], want, 1e-6), "row %d, column %d", r, c);
        }
    }
    for (int target = 0; target < N; target++) {
        double sum = 0;
        memcpy(logits, s, sizeof logits);
        for (int i = 0; i < N; i++) sum += exp((double)logits[i]);
        const double want = log(sum) - (double)logits[target];
        const double loss = nib_cross_entropy(N, logits, target);
        EXPECT(is_near(loss, want, 1e-6), "target %d: %g, not %g", target, loss, want);
        EXPECT(is_near((double)logits[target], exp(-want), 1e-6), "its probability");
    }
}
