/* llama_layers.h: the layers of a Llama (arXiv:2302.13971) that are not matrix products, forward.
 *
 * Rows are tokens. Plain loops, sums in one order, and an exponential of our own: a result depends
 * on nothing but its input. The including file may define NIB_REAL as double, which checks of
 * gradients do. */
#ifndef NIB_LLAMA_LAYERS_H
#define NIB_LLAMA_LAYERS_H

#include <stdint.h>
#include <string.h>
#include <tgmath.h>

#ifndef NIB_REAL
#define NIB_REAL float
#endif
typedef NIB_REAL llm_real;

/* e^x within 2 units of the last place of f32, for |x| < 2^21. Without a branch, so that loops
 * become vectors. 2^64 and 2^-64 times at most sqrt(2) are its ends: far from subnormal numbers,
 * and more than softmax or a sigmoid can tell. Coefficients: Moshier, Cephes, expf. */
static inline float nib_exp_f32(float x)
{
    const float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole n */
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f, power;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    int32_t e = (int32_t)(bits - 0x4b400000); /* 12582912's bits: leaves n */
    e = e < -64 ? -64 : e > 64 ? 64 : e;
    e = (e + 127) * (1 << 23);
    memcpy(&power, &e, sizeof power);
    return (p * r * r + r + 1) * power;
}

static inline llm_real nib_layer_exp(llm_real x)
{
    return sizeof x == sizeof(float) ? (llm_real)nib_exp_f32((float)x) : exp(x);
}

/* y = x / rms(x) * weight, row by row of n. inverse_rms: out, one for each row.
 * arXiv:1910.07467. y may be x. */
static inline void nib_rms_norm(int64_t rows, int64_t n, const llm_real *x, const llm_real *weight,
                                llm_real eps, llm_real *y, llm_real *inverse_rms)
{
    for (int64_t r = 0; r < rows; r++) {
        llm_real sum = 0;
        for (int64_t i = 0; i < n; i++) sum += x[r * n + i] * x[r * n + i];
        const llm_real inverse = 1 / sqrt(sum / (llm_real)n + eps);
        for (int64_t i = 0; i < n; i++) y[r * n + i] = x[r * n + i] * inverse * weight[i];
        inverse_rms[r] = inverse;
    }
}

/* The rotations of RoPE: for each position of context cos and then sin, each of head_dim / 2. */
static inline void nib_rope_table(int64_t context, int64_t head_dim, double theta, llm_real *table)
{
    const int64_t half = head_dim / 2;
    for (int64_t t = 0; t < context; t++)
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)t * pow(theta, -2.0 * (double)i / (double)head_dim);
            table[(2 * t + 0) * half + i] = (llm_real)cos(angle);
            table[(2 * t + 1) * half + i] = (llm_real)sin(angle);
        }
}

/* Rotates, in place, the pairs (i, i + head_dim / 2) of each head, as Hugging Face stores them:
 * row r is at position r % context. arXiv:2104.09864. back: 1 turns the other way, which is the
 * inverse and the gradient. */
static inline void nib_rope(int64_t rows, int64_t context, int64_t heads, int64_t head_dim,
                            const llm_real *table, int back, llm_real *x)
{
    const int64_t half = head_dim / 2;
    for (int64_t r = 0; r < rows; r++) {
        const llm_real *cosine = table + r % context * head_dim, *sine = cosine + half;
        for (int64_t h = 0; h < heads; h++) {
            llm_real *a = x + (r * heads + h) * head_dim, *b = a + half;
            for (int64_t i = 0; i < half; i++) {
                const llm_real s = back ? -sine[i] : sine[i], a0 = a[i], b0 = b[i];
                a[i] = a0 * cosine[i] - b0 * s;
                b[i] = b0 * cosine[i] + a0 * s;
            }
        }
    }
}

/* x = e^(x - most) */
static inline void nib_exp_each(int64_t n, llm_real most, llm_real *x)
{
    for (int64_t i = 0; i < n; i++) x[i] = nib_layer_exp(x[i] - most);
}

/* Softmax of a square of scores, in place, each row over the columns up to its own; 0 behind. */
static inline void nib_causal_softmax(int64_t n, llm_real *s)
{
    for (int64_t r = 0; r < n; r++) {
        llm_real *row = s + r * n, most = row[0], sum = 0;
        for (int64_t c = 1; c <= r; c++) most = row[c] > most ? row[c] : most;
        nib_exp_each(r + 1, most, row);
        for (int64_t c = 0; c <= r; c++) sum += row[c];
        const llm_real inverse = 1 / sum;
        for (int64_t c = 0; c <= r; c++) row[c] *= inverse;
        for (int64_t c = r + 1; c < n; c++) row[c] = 0;
    }
}

static inline llm_real nib_sigmoid(llm_real x) { return 1 / (1 + nib_layer_exp(-x)); }

/* y = silu(gate) * up. arXiv:2002.05202 */
static inline void nib_swiglu(int64_t n, const llm_real *gate, const llm_real *up, llm_real *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = gate[i] * nib_sigmoid(gate[i]) * up[i];
}

/* -log softmax(logits)[target], in nats; logits become the probabilities. */
static inline double nib_cross_entropy(int64_t n, llm_real *logits, int64_t target)
{
    llm_real most = logits[0], sum = 0;
    for (int64_t i = 1; i < n; i++) most = logits[i] > most ? logits[i] : most;
    const double of_target = (double)(logits[target] - most);
    nib_exp_each(n, most, logits);
    for (int64_t i = 0; i < n; i++) sum += logits[i];
    const llm_real inverse = 1 / sum;
    for (int64_t i = 0; i < n; i++) logits[i] *= inverse;
    return log((double)sum) - of_target;
}

#endif
