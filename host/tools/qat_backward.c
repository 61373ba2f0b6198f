/* qat_backward.c: the gradient of qat_forward's loss, layer by layer from the end. */
#include <string.h>

#include "host/tools/qat.h"

/* dx (+)= gradient through y = x / rms(x) * weight; d_weight += its weight's. */
static void rms_norm_backward(int64_t rows, int64_t n, const llm_real *x, const llm_real *weight,
                              const llm_real *inverse_rms, const llm_real *dy, int add,
                              llm_real *dx, llm_real *d_weight)
{
    for (int64_t r = 0; r < rows; r++) {
        const llm_real *xr = x + r * n, *dyr = dy + r * n, inverse = inverse_rms[r];
        llm_real *dxr = dx + r * n, dot = 0;
        for (int64_t i = 0; i < n; i++) {
            dot += dyr[i] * weight[i] * xr[i];
            d_weight[i] += dyr[i] * xr[i] * inverse;
        }
        const llm_real back = dot * inverse * inverse / (llm_real)n;
        for (int64_t i = 0; i < n; i++) {
            const llm_real d = (dyr[i] * weight[i] - xr[i] * back) * inverse;
            dxr[i] = add ? dxr[i] + d : d;
        }
    }
}

/* In the place of gate and up: their gradients. */
static void swiglu_backward(int64_t n, const llm_real *dy, llm_real *gate, llm_real *up)
{
    for (int64_t i = 0; i < n; i++) {
        const llm_real g = gate[i], u = up[i], p = nib_sigmoid(g);
        gate[i] = dy[i] * u * p * (1 + g * (1 - p));
        up[i] = dy[i] * g * p;
    }
}

/* ds = gradient through p = softmax(s), in place of dp. */
static void causal_softmax_backward(int64_t n, const llm_real *p, llm_real *dp)
{
    for (int64_t r = 0; r < n; r++) {
        llm_real dot = 0;
        for (int64_t c = 0; c <= r; c++) dot += p[r * n + c] * dp[r * n + c];
        for (int64_t c = 0; c <= r; c++) dp[r * n + c] = p[r * n + c] * (dp[r * n + c] - dot);
        for (int64_t c = r + 1; c < n; c++) dp[r * n + c] = 0;
    }
}

/* dx (+)= dy . W, and d_W += dy^T . x: x and W as the forward pass multiplied them. */
static void linear_backward(qat_model *m, const llm_real *weights, const qat_layer_at *at,
                            qat_linear linear, const llm_real *x, const llm_real *dy, int add,
                            llm_real *dx)
{
    const int64_t n = qat_linear_rows(&m->shape, linear), k = qat_linear_cols(&m->shape, linear);
    const int64_t rows = m->sequences * m->shape.context;
    qat_multiply(1, 0, n, k, rows, 1, dy, n, x, k, 1, m->grad + at->linear[linear], k);
    qat_multiply(0, 0, rows, k, n, 1, dy, n, weights + at->linear[linear], k, add, dx, k);
}

static void input_backward(const qat_model *m, const qat_input *in, int64_t cols,
                           const qat_fake *fake, llm_real *dx)
{
    if (fake)
        fake->gradient(fake->user, m->sequences * m->shape.context, cols, dx, in->mask);
}

/* dq, dk, dv from d_mixed. */
static void attention_backward(qat_model *m, const qat_kept *kept, const llm_real *d_mixed,
                               llm_real *dq, llm_real *dk, llm_real *dv)
{
    const qat_shape *s = &m->shape;
    const int64_t t = s->context, d = s->head_dim, q_ld = s->heads * d, kv_ld = s->kv_heads * d;
    const int64_t group = s->heads / s->kv_heads;
    const llm_real scale = 1 / sqrt((llm_real)d);
    for (int64_t b = 0; b < m->sequences; b++)
        for (int64_t h = 0; h < s->heads; h++) {
            const int64_t q_at = b * t * q_ld + h * d, kv_at = b * t * kv_ld + h / group * d;
            const llm_real *p = kept->scores + (b * s->heads + h) * t * t;
            const int add = h % group != 0; /* the first head of a group begins its sum */
            qat_multiply(0, 1, t, t, d, 1, d_mixed + q_at, q_ld, kept->v + kv_at, kv_ld, 0,
                         m->d_scores, t);
            qat_multiply(1, 0, t, d, t, 1, p, t, d_mixed + q_at, q_ld, add, dv + kv_at, kv_ld);
            causal_softmax_backward(t, p, m->d_scores);
            qat_multiply(0, 0, t, d, t, scale, m->d_scores, t, kept->k + kv_at, kv_ld, 0,
                         dq + q_at, q_ld);
            qat_multiply(1, 0, t, d, t, scale, m->d_scores, t, kept->q + q_at, q_ld, add,
                         dk + kv_at, kv_ld);
        }
}

/* dx: the gradient at the layer's end, then at its start. */
static void layer_backward(qat_model *m, int64_t l, const qat_fake *fake, llm_real *dx)
{
    const qat_shape *s = &m->shape;
    const qat_layer_at *at = &m->at.layer[l];
    qat_kept *k = &m->kept[l];
    const int64_t rows = m->sequences * s->context, hidden = s->hidden;
    const llm_real *w = fake ? m->fake_value : m->value;
#define IN(input) (fake ? (input).fake : (input).plain)
    llm_real *d_in = m->scratch[1], *dq = m->scratch[2], *dk = m->scratch[3], *dv = m->scratch[4];

    linear_backward(m, w, at, QAT_DOWN, IN(k->product), dx, 0, d_in);
    input_backward(m, &k->product, s->inner, fake, d_in);
    swiglu_backward(rows * s->inner, d_in, k->gate, k->up);
    linear_backward(m, w, at, QAT_GATE, IN(k->normed_mlp), k->gate, 0, d_in);
    linear_backward(m, w, at, QAT_UP, IN(k->normed_mlp), k->up, 1, d_in);
    input_backward(m, &k->normed_mlp, hidden, fake, d_in);
    rms_norm_backward(rows, hidden, k->x_middle, m->value + at->norm_mlp, k->rms_mlp, d_in, 1, dx,
                      m->grad + at->norm_mlp);

    linear_backward(m, w, at, QAT_O, IN(k->mixed), dx, 0, d_in);
    input_backward(m, &k->mixed, s->heads * s->head_dim, fake, d_in);
    attention_backward(m, k, d_in, dq, dk, dv);
    nib_rope(rows, s->context, s->heads, s->head_dim, m->rope, 1, dq);
    nib_rope(rows, s->context, s->kv_heads, s->head_dim, m->rope, 1, dk);
    linear_backward(m, w, at, QAT_Q, IN(k->normed), dq, 0, d_in);
    linear_backward(m, w, at, QAT_K, IN(k->normed), dk, 1, d_in);
    linear_backward(m, w, at, QAT_V, IN(k->normed), dv, 1, d_in);
    input_backward(m, &k->normed, hidden, fake, d_in);
    rms_norm_backward(rows, hidden, k->x, m->value + at->norm_attention, k->rms_attention, d_in, 1,
                      dx, m->grad + at->norm_attention);
#undef IN
}

void qat_backward(qat_model *m, const uint8_t *tokens, const qat_fake *fake)
{
    const qat_shape *s = &m->shape;
    const int64_t rows = m->sequences * s->context, hidden = s->hidden;
    const llm_real *embedding = m->value + m->at.embedding, share = 1 / (llm_real)rows;
    llm_real *d_embedding = m->grad + m->at.embedding, *dx = m->scratch[0], *d_in = m->scratch[1];
    memset(m->grad, 0, m->at.n * sizeof *m->grad);

    /* The logits' memory holds the probabilities. */
    for (int64_t r = 0; r < rows; r++) {
        llm_real *row = m->logits + r * s->vocab;
        row[tokens[r / s->context * (s->context + 1) + r % s->context + 1]] -= 1;
        for (int64_t i = 0; i < s->vocab; i++) row[i] *= share;
    }
    qat_multiply(1, 0, s->vocab, hidden, rows, 1, m->logits, s->vocab, m->normed_end, hidden, 1,
                 d_embedding, hidden);
    qat_multiply(0, 0, rows, hidden, s->vocab, 1, m->logits, s->vocab, embedding, hidden, 0, d_in,
                 hidden);
    rms_norm_backward(rows, hidden, m->x_end, m->value + m->at.norm, m->rms_end, d_in, 0, dx,
                      m->grad + m->at.norm);
    for (int64_t l = s->layers - 1; l >= 0; l--) layer_backward(m, l, fake, dx);
    for (int64_t r = 0; r < rows; r++) {
        llm_real *of = d_embedding
                     + tokens[r / s->context * (s->context + 1) + r % s->context] * hidden;
        for (int64_t i = 0; i < hidden; i++) of[i] += dx[r * hidden + i];
    }
}
