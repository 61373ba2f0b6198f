/* qat_model.c: parameters, their places and first values, and the memory of a training step. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/tools/qat.h"

int64_t qat_linear_rows(const qat_shape *s, qat_linear linear)
{
    switch (linear) {
    case QAT_Q:    return s->heads * s->head_dim;
    case QAT_K:
    case QAT_V:    return s->kv_heads * s->head_dim;
    case QAT_GATE:
    case QAT_UP:   return s->inner;
    default:       return s->hidden;
    }
}

int64_t qat_linear_cols(const qat_shape *s, qat_linear linear)
{
    return linear == QAT_O ? s->heads * s->head_dim : linear == QAT_DOWN ? s->inner : s->hidden;
}

static size_t place(size_t *n, int64_t rows, int64_t cols)
{
    const size_t at = *n;
    *n += (size_t)(rows * cols);
    return at;
}

static void places_make(const qat_shape *s, qat_places *at)
{
    at->n = 0;
    at->embedding = place(&at->n, s->vocab, s->hidden);
    for (int64_t l = 0; l < s->layers; l++) {
        at->layer[l].norm_attention = place(&at->n, 1, s->hidden);
        at->layer[l].norm_mlp = place(&at->n, 1, s->hidden);
        for (int i = 0; i < QAT_LINEARS; i++)
            at->layer[l].linear[i] = place(&at->n, qat_linear_rows(s, (qat_linear)i),
                                           qat_linear_cols(s, (qat_linear)i));
    }
    at->norm = place(&at->n, 1, s->hidden);
}

/* Bytes from the model's one block, aligned to 64; before there is one, only counts. */
static void *take(qat_model *m, int64_t count, size_t width)
{
    const size_t at = m->memory_used;
    m->memory_used += ((size_t)count * width + 63) / 64 * 64;
    return m->memory ? (char *)m->memory + at : NULL;
}

static llm_real *reals(qat_model *m, int64_t count) { return take(m, count, sizeof(llm_real)); }

static qat_input input_take(qat_model *m, int64_t rows, int64_t cols)
{
    qat_input in = { .plain = reals(m, rows * cols), .fake = reals(m, rows * cols) };
    in.mask = take(m, rows * ((cols + 7) / 8), 1);
    return in;
}

static int64_t widest(const qat_shape *s)
{
    const int64_t q = s->heads * s->head_dim, most = s->hidden > q ? s->hidden : q;
    return s->inner > most ? s->inner : most;
}

static void all_take(qat_model *m)
{
    const qat_shape *s = &m->shape;
    const int64_t rows = m->sequences * s->context, n = (int64_t)m->at.n;
    const int64_t kv = s->kv_heads * s->head_dim, q = s->heads * s->head_dim;
    m->value = reals(m, n);
    m->grad = reals(m, n);
    m->fake_value = reals(m, n);
    for (int64_t l = 0; l < s->layers; l++) {
        qat_kept *k = &m->kept[l];
        k->x = reals(m, rows * s->hidden);
        k->x_middle = reals(m, rows * s->hidden);
        k->rms_attention = reals(m, rows);
        k->rms_mlp = reals(m, rows);
        k->normed = input_take(m, rows, s->hidden);
        k->mixed = input_take(m, rows, q);
        k->normed_mlp = input_take(m, rows, s->hidden);
        k->product = input_take(m, rows, s->inner);
        k->q = reals(m, rows * q);
        k->k = reals(m, rows * kv);
        k->v = reals(m, rows * kv);
        k->scores = reals(m, rows * s->heads * s->context);
        k->gate = reals(m, rows * s->inner);
        k->up = reals(m, rows * s->inner);
    }
    m->rope = reals(m, s->context * s->head_dim);
    m->x_end = reals(m, rows * s->hidden);
    m->normed_end = reals(m, rows * s->hidden);
    m->rms_end = reals(m, rows);
    m->logits = reals(m, rows * s->vocab);
    for (int i = 0; i < QAT_SCRATCH; i++) m->scratch[i] = reals(m, rows * widest(s));
    m->d_scores = reals(m, s->context * s->context);
}

int qat_model_make(const qat_shape *shape, int64_t sequences, qat_model *m)
{
    memset(m, 0, sizeof *m);
    m->shape = *shape;
    m->sequences = sequences;
    m->at.layer = calloc((size_t)shape->layers, sizeof *m->at.layer);
    m->kept = calloc((size_t)shape->layers, sizeof *m->kept);
    if (!m->at.layer || !m->kept) return qat_model_free(m), 0;
    places_make(shape, &m->at);
    all_take(m);
    m->memory = aligned_alloc(64, m->memory_used);
    if (!m->memory) return qat_model_free(m), 0;
    memset(m->memory, 0, m->memory_used);
    m->memory_used = 0;
    all_take(m);
    nib_rope_table(shape->context, shape->head_dim, shape->theta, m->rope);
    return 1;
}

void qat_model_free(qat_model *m)
{
    free(m->at.layer);
    free(m->kept);
    free(m->memory);
    memset(m, 0, sizeof *m);
}

/* SplitMix64. */
uint64_t qat_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Box and Muller's transform. */
static void normal_fill(uint64_t *state, double deviation, size_t n, llm_real *x)
{
    for (size_t i = 0; i < n; i++) {
        const double u = ((double)(qat_random(state) >> 11) + 0.5) * 0x1p-53;
        const double v = (double)(qat_random(state) >> 11) * 0x1p-53;
        x[i] = (llm_real)(deviation * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
}

static void ones_fill(size_t n, llm_real *x)
{
    for (size_t i = 0; i < n; i++) x[i] = 1;
}

void qat_model_init(qat_model *m, uint64_t seed)
{
    const qat_shape *s = &m->shape;
    const double deep = 1 / sqrt(2 * (double)s->layers);
    normal_fill(&seed, 0.02, (size_t)(s->vocab * s->hidden), m->value + m->at.embedding);
    for (int64_t l = 0; l < s->layers; l++) {
        const qat_layer_at *at = &m->at.layer[l];
        ones_fill((size_t)s->hidden, m->value + at->norm_attention);
        ones_fill((size_t)s->hidden, m->value + at->norm_mlp);
        for (int i = 0; i < QAT_LINEARS; i++) {
            const int64_t rows = qat_linear_rows(s, (qat_linear)i);
            const int64_t cols = qat_linear_cols(s, (qat_linear)i);
            const double scale = i == QAT_O || i == QAT_DOWN ? deep : 1;
            normal_fill(&seed, scale / sqrt((double)cols), (size_t)(rows * cols),
                        m->value + at->linear[i]);
        }
    }
    ones_fill((size_t)s->hidden, m->value + m->at.norm);
}
