/* qat.h: a small Llama with its gradient, to show what training with fake-quantize gives back.
 *
 *   tokens -> embedding -> layers x { norm, attention, norm, SwiGLU } -> norm -> tied head
 *
 * Every linear layer is y = fake(x) fake(W)^T: fake is the identity, or what a quantized matrix
 * would hold, and its gradient a surrogate's. Master weights, sums and the head stay in f32.
 * Memory is taken once by qat_model_make; nothing here fails later. */
#ifndef NIB_QAT_H
#define NIB_QAT_H

#include <stddef.h>
#include <stdint.h>

#include "host/model/llama_layers.h"

typedef struct qat_shape {
    int64_t vocab, hidden, inner, layers, heads, kv_heads, head_dim, context;
    double  theta, eps;
} qat_shape;

/* The linear layers of a layer, as they stand in qat_tensors' order behind its two norms. */
typedef enum qat_linear {
    QAT_Q, QAT_K, QAT_V, QAT_O, QAT_GATE, QAT_UP, QAT_DOWN, QAT_LINEARS
} qat_linear;

/* Places of the parameters in one array of n. Gradients and moments have the same places. */
typedef struct qat_layer_at {
    size_t norm_attention, norm_mlp, linear[QAT_LINEARS];
} qat_layer_at;

typedef struct qat_places {
    size_t        embedding, norm, n;
    qat_layer_at *layer;
} qat_places;

/* A linear layer's input and what it is fake-quantized to; the same memory if it is not. */
typedef struct qat_input {
    llm_real *plain, *fake;
    uint8_t  *mask; /* bit c % 8 of byte c / 8 of a row: not clamped */
} qat_input;

/* What one layer keeps for its gradient. */
typedef struct qat_kept {
    llm_real *x, *x_middle;         /* residual stream at the layer's start and before its MLP */
    llm_real *rms_attention, *rms_mlp;
    qat_input normed, mixed, normed_mlp, product; /* inputs of qkv, o, gate and up, down */
    llm_real *q, *k, *v;            /* q and k rotated */
    llm_real *scores;               /* sequence x head x context x context, after softmax */
    llm_real *gate, *up;
} qat_kept;

/* How matrices are fake-quantized: rows of k values, blocks along them. */
typedef struct qat_fake {
    void *user;
    llm_real (*amax)(void *user, int64_t rows, int64_t k, const llm_real *x);
    /* y = fake(x). amax: x's, or that of all weights that share x's tensor scale. mask: NULL for
     * weights, whose gradient goes straight through; else out. */
    void (*values)(void *user, int64_t rows, int64_t k, const llm_real *x, llm_real amax,
                   llm_real *y, uint8_t *mask);
    /* dx = the surrogate's gradient for dx, in place. */
    void (*gradient)(void *user, int64_t rows, int64_t k, llm_real *dx, uint8_t *mask);
} qat_fake;

enum { QAT_SCRATCH = 5 };

typedef struct qat_model {
    qat_shape  shape;
    int64_t    sequences;           /* of a batch, each of context tokens */
    qat_places at;
    llm_real  *value, *grad, *fake_value; /* fake_value: fake-quantized weights */
    qat_kept  *kept;
    llm_real  *rope, *x_end, *normed_end, *rms_end, *logits;
    llm_real  *scratch[QAT_SCRATCH]; /* rows x the widest of hidden, inner, heads * head_dim */
    llm_real  *d_scores;            /* context x context */
    void      *memory;
    size_t     memory_used;
} qat_model;

int64_t qat_linear_rows(const qat_shape *s, qat_linear linear);
int64_t qat_linear_cols(const qat_shape *s, qat_linear linear);

/* SplitMix64: the next number of a sequence. */
uint64_t qat_random(uint64_t *state);

/* Returns 0 without memory. */
int  qat_model_make(const qat_shape *shape, int64_t sequences, qat_model *m);
void qat_model_free(qat_model *m);

/* Normal deviates from the seed; the layers' outputs scaled down by their number. */
void qat_model_init(qat_model *m, uint64_t seed);

/* Mean loss in nats of a batch: sequences rows of context + 1 tokens. fake: NULL for none. */
double qat_forward(qat_model *m, const uint8_t *tokens, const qat_fake *fake);

/* grad = the loss's gradient, after qat_forward with the same arguments. */
void qat_backward(qat_model *m, const uint8_t *tokens, const qat_fake *fake);

/* c[rows, cols] = a . b + add * c, row-major; ta: a is stored [k, rows]; tb: b is stored
 * [cols, k]. What the including program multiplies by. */
void qat_multiply(int ta, int tb, int64_t rows, int64_t cols, int64_t k, llm_real alpha,
                  const llm_real *a, int64_t lda, const llm_real *b, int64_t ldb, int add,
                  llm_real *c, int64_t ldc);

/* AdamW (arXiv:1711.05101). Returns the gradient's norm before it was clipped. */
typedef struct qat_adam {
    double    rate, beta1, beta2, eps, decay, clip;
    int64_t   step;
    llm_real *first, *second; /* moments */
} qat_adam;

double qat_adam_step(qat_adam *adam, qat_model *m);

/* Warmed up linearly over the first steps, then along half a cosine from peak to last. */
double qat_rate(int64_t step, int64_t steps, int64_t warm_up, double peak, double last);

#endif
