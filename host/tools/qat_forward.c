/* qat_forward.c: the loss of a batch, keeping what its gradient needs. */
#include <string.h>

#include "host/tools/qat.h"

/* Weights that share one tensor scale, as `nibble quantize` lets them. */
static const int groups[][3] = { { QAT_Q, QAT_K, QAT_V }, { QAT_O, -1, -1 },
                                 { QAT_GATE, QAT_UP, -1 }, { QAT_DOWN, -1, -1 } };

static void weights_fake(qat_model *m, const qat_layer_at *at, const qat_fake *fake)
{
    const qat_shape *s = &m->shape;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        llm_real most = 0;
        for (int i = 0; i < 3 && groups[g][i] >= 0; i++) {
            const qat_linear linear = (qat_linear)groups[g][i];
            const llm_real amax = fake->amax(fake->user, qat_linear_rows(s, linear),
                                             qat_linear_cols(s, linear),
                                             m->value + at->linear[linear]);
            most = amax > most ? amax : most;
        }
        for (int i = 0; i < 3 && groups[g][i] >= 0; i++) {
            const qat_linear linear = (qat_linear)groups[g][i];
            fake->values(fake->user, qat_linear_rows(s, linear), qat_linear_cols(s, linear),
                         m->value + at->linear[linear], most, m->fake_value + at->linear[linear],
                         NULL);
        }
    }
}

static const llm_real *input_fake(const qat_model *m, const qat_input *in, int64_t cols,
                                  const qat_fake *fake)
{
    if (!fake) return in->plain;
    const int64_t rows = m->sequences * m->shape.context;
    fake->values(fake->user, rows, cols, in->plain, fake->amax(fake->user, rows, cols, in->plain),
                 in->fake, in->mask);
    return in->fake;
}

/* y = x . W^T (+ y) */
static void linear_forward(qat_model *m, const llm_real *weights, const qat_layer_at *at,
                           qat_linear linear, const llm_real *x, int add, llm_real *y)
{
    const int64_t n = qat_linear_rows(&m->shape, linear), k = qat_linear_cols(&m->shape, linear);
    qat_multiply(0, 1, m->sequences * m->shape.context, n, k, 1, x, k, weights + at->linear[linear],
                 k, add, y, n);
}

/* mixed = softmax(q k^T / sqrt(d)) v, for each sequence and head; heads share k and v in groups. */
static void attention_forward(qat_model *m, qat_kept *kept)
{
    const qat_shape *s = &m->shape;
    const int64_t t = s->context, d = s->head_dim, q_ld = s->heads * d, kv_ld = s->kv_heads * d;
    const llm_real scale = 1 / sqrt((llm_real)d);
    for (int64_t b = 0; b < m->sequences; b++)
        for (int64_t h = 0; h < s->heads; h++) {
            const int64_t q_at = b * t * q_ld + h * d;
            const int64_t kv_at = b * t * kv_ld + h / (s->heads / s->kv_heads) * d;
            llm_real *scores = kept->scores + (b * s->heads + h) * t * t;
            qat_multiply(0, 1, t, t, d, scale, kept->q + q_at, q_ld, kept->k + kv_at, kv_ld, 0,
                         scores, t);
            nib_causal_softmax(t, scores);
            qat_multiply(0, 0, t, d, t, 1, scores, t, kept->v + kv_at, kv_ld, 0,
                         kept->mixed.plain + q_at, q_ld);
        }
}

static void layer_forward(qat_model *m, int64_t l, const qat_fake *fake, llm_real *x_next)
{
    const qat_shape *s = &m->shape;
    const qat_layer_at *at = &m->at.layer[l];
    qat_kept *k = &m->kept[l];
    const int64_t rows = m->sequences * s->context, hidden = s->hidden;
    const llm_real eps = (llm_real)s->eps;
    if (fake) weights_fake(m, at, fake);
    const llm_real *w = fake ? m->fake_value : m->value;

    nib_rms_norm(rows, hidden, k->x, m->value + at->norm_attention, eps, k->normed.plain,
                 k->rms_attention);
    const llm_real *in = input_fake(m, &k->normed, hidden, fake);
    linear_forward(m, w, at, QAT_Q, in, 0, k->q);
    linear_forward(m, w, at, QAT_K, in, 0, k->k);
    linear_forward(m, w, at, QAT_V, in, 0, k->v);
    nib_rope(rows, s->context, s->heads, s->head_dim, m->rope, 0, k->q);
    nib_rope(rows, s->context, s->kv_heads, s->head_dim, m->rope, 0, k->k);
    attention_forward(m, k);
    memcpy(k->x_middle, k->x, (size_t)(rows * hidden) * sizeof *k->x);
    in = input_fake(m, &k->mixed, s->heads * s->head_dim, fake);
    linear_forward(m, w, at, QAT_O, in, 1, k->x_middle);

    nib_rms_norm(rows, hidden, k->x_middle, m->value + at->norm_mlp, eps, k->normed_mlp.plain,
                 k->rms_mlp);
    in = input_fake(m, &k->normed_mlp, hidden, fake);
    linear_forward(m, w, at, QAT_GATE, in, 0, k->gate);
    linear_forward(m, w, at, QAT_UP, in, 0, k->up);
    nib_swiglu(rows * s->inner, k->gate, k->up, k->product.plain);
    memcpy(x_next, k->x_middle, (size_t)(rows * hidden) * sizeof *k->x);
    in = input_fake(m, &k->product, s->inner, fake);
    linear_forward(m, w, at, QAT_DOWN, in, 1, x_next);
}

double qat_forward(qat_model *m, const uint8_t *tokens, const qat_fake *fake)
{
    const qat_shape *s = &m->shape;
    const int64_t rows = m->sequences * s->context, hidden = s->hidden;
    const llm_real *embedding = m->value + m->at.embedding;
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t token = tokens[r / s->context * (s->context + 1) + r % s->context];
        memcpy(m->kept[0].x + r * hidden, embedding + token * hidden,
               (size_t)hidden * sizeof *embedding);
    }
    for (int64_t l = 0; l < s->layers; l++)
        layer_forward(m, l, fake, l + 1 < s->layers ? m->kept[l + 1].x : m->x_end);
    nib_rms_norm(rows, hidden, m->x_end, m->value + m->at.norm, (llm_real)s->eps, m->normed_end,
                 m->rms_end);
    qat_multiply(0, 1, rows, s->vocab, hidden, 1, m->normed_end, hidden, embedding, hidden, 0,
                 m->logits, s->vocab);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t target = tokens[r / s->context * (s->context + 1) + r % s->context + 1];
        sum += nib_cross_entropy(s->vocab, m->logits + r * s->vocab, target);
    }
    return sum / (double)rows;
}
