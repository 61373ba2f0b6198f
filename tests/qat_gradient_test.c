/* qat_gradient_test.c: the gradients of the training that qat_demo runs, against differences of its
 * loss. Its source is compiled here once more, in f64, where differences are sharp: the stated
 * bound is a millionth of the gradient's norm. */
#define NIB_REAL double
#include "host/tools/qat_adam.c"
#include "host/tools/qat_backward.c"
#include "host/tools/qat_forward.c"
#include "host/tools/qat_model.c"
#include "shim.h"

void qat_multiply(int ta, int tb, int64_t rows, int64_t cols, int64_t k, llm_real alpha,
                  const llm_real *a, int64_t lda, const llm_real *b, int64_t ldb, int add,
                  llm_real *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++)
                sum += a[ta ? p * lda + i : i * lda + p] * b[tb ? j * ldb + p : p * ldb + j];
            c[i * ldc + j] = (add ? c[i * ldc + j] : 0) + alpha * sum;
        }
}

/* Odd sizes, two heads to a pair of k and v, two sequences. */
static const qat_shape shape = { .vocab = 19, .hidden = 12, .inner = 20, .layers = 2, .heads = 4,
                                 .kv_heads = 2, .head_dim = 6, .context = 5, .theta = 100,
                                 .eps = 1e-3 };
enum { SEQUENCES = 2 };

static const uint8_t tokens[SEQUENCES * 6] = { 3, 18, 0, 3, 7, 7, 11, 2, 2, 18, 5, 0 };

/* ---- surrogates whose exact derivative is known ---- */

/* y = x + c with c that is fixed by the place: its derivative is the identity, as straight-through
 * says, but products see other numbers than x. */
static void moved(void *user, int64_t rows, int64_t k, const llm_real *x, llm_real amax,
                  llm_real *y, uint8_t *mask)
{
    (void)user, (void)amax;
    uint64_t state = (uint64_t)(rows * 1000 + k);
    for (int64_t i = 0; i < rows * k; i++)
        y[i] = x[i] + 0.3 * ((double)(qat_random(&state) >> 11) * 0x1p-53 - 0.5);
    if (mask) memset(mask, 0xff, (size_t)(rows * ((k + 7) / 8)));
}

/* Inputs are clamped to +-0.8, weights as above. */
static void clamped(void *user, int64_t rows, int64_t k, const llm_real *x, llm_real amax,
                    llm_real *y, uint8_t *mask)
{
    moved(user, rows, k, x, amax, y, mask);
    if (!mask) return;
    const int64_t ld = (k + 7) / 8;
    memset(mask, 0, (size_t)(rows * ld));
    for (int64_t i = 0; i < rows * k; i++) {
        y[i] = x[i] > 0.8 ? 0.8 : x[i] < -0.8 ? -0.8 : x[i];
        if (fabs(x[i]) <= 0.8) mask[i / k * ld + i % k / 8] |= (uint8_t)(1 << i % k % 8);
    }
}

static llm_real amax_of(void *user, int64_t rows, int64_t k, const llm_real *x)
{
    (void)user, (void)rows, (void)k;
    return fabs(x[0]);
}

static void by_mask(void *user, int64_t rows, int64_t k, llm_real *dx, uint8_t *mask)
{
    (void)user;
    for (int64_t i = 0; i < rows * k; i++)
        if (!(mask[i / k * ((k + 7) / 8) + i % k / 8] >> i % k % 8 & 1)) dx[i] = 0;
}

/* ---- the check ---- */

/* Each tensor's gradient against a difference along a random direction within it. */
static void tensor_check(qat_model *m, const qat_fake *fake, const char *what, const char *name,
                         size_t at, size_t n, uint64_t *state)
{
    const double h = 1e-6;
    double dot = 0, square = 0, loss[2];
    double *direction = malloc(n * sizeof *direction), *value = malloc(n * sizeof *value);
    for (size_t i = 0; i < n; i++) {
        direction[i] = (double)(qat_random(state) >> 11) * 0x1p-52 - 1;
        value[i] = m->value[at + i];
        dot += direction[i] * m->grad[at + i];
        square += m->grad[at + i] * m->grad[at + i];
    }
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            m->value[at + i] = value[i] + (side ? -h : h) * direction[i];
        loss[side] = qat_forward(m, tokens, fake);
    }
    memcpy(m->value + at, value, n * sizeof *value);
    const double difference = (loss[0] - loss[1]) / (2 * h);
    EXPECT(square > 1e-12, "%s, %s: no gradient", what, name);
    EXPECT(fabs(difference - dot) <= 1e-6 * sqrt(square) + 1e-9,
           "%s, %s: %.12g by difference, %.12g", what, name, difference, dot);
    free(direction);
    free(value);
}

static void gradients_check(const char *what, const qat_fake *fake)
{
    qat_model m;
    REQUIRE(qat_model_make(&shape, SEQUENCES, &m), "memory");
    qat_model_init(&m, 7);
    uint64_t state = 11;
    for (size_t i = 0; i < m.at.n; i++) /* norms that are not 1, an embedding of its own weight */
        m.value[i] += 0.2 * ((double)(qat_random(&state) >> 11) * 0x1p-52 - 1);
    (void)qat_forward(&m, tokens, fake);
    qat_backward(&m, tokens, fake);
    static const char *const names[] = { "q", "k", "v", "o", "gate", "up", "down" };
    const size_t hidden = (size_t)shape.hidden;
    tensor_check(&m, fake, what, "embedding", m.at.embedding, 19 * hidden, &state);
    tensor_check(&m, fake, what, "norm", m.at.norm, hidden, &state);
    for (int64_t l = 0; l < shape.layers; l++) {
        const qat_layer_at *at = &m.at.layer[l];
        tensor_check(&m, fake, what, "norm_attention", at->norm_attention, hidden, &state);
        tensor_check(&m, fake, what, "norm_mlp", at->norm_mlp, hidden, &state);
        for (int i = 0; i < QAT_LINEARS; i++)
            tensor_check(&m, fake, what, names[i], at->linear[i],
                         (size_t)(qat_linear_rows(&shape, (qat_linear)i)
                                  * qat_linear_cols(&shape, (qat_linear)i)), &state);
    }
    qat_model_free(&m);
}

NIB_TEST(QatGradient, EqualsDifferencesWithoutQuantizing) { gradients_check("plain", NULL); }

NIB_TEST(QatGradient, StraightThroughSeesFakeValues)
{
    const qat_fake fake = { .amax = amax_of, .values = moved, .gradient = by_mask };
    gradients_check("moved", &fake);
}

NIB_TEST(QatGradient, ClampedInputsPassNothing)
{
    const qat_fake fake = { .amax = amax_of, .values = clamped, .gradient = by_mask };
    gradients_check("clamped", &fake);
}

/* Rows of softmax sum to 1 and see nothing behind themselves: a later token changes no loss before
 * it. */
NIB_TEST(QatGradient, AttentionIsCausal)
{
    qat_model m;
    uint8_t other[sizeof tokens];
    REQUIRE(qat_model_make(&shape, SEQUENCES, &m), "memory");
    qat_model_init(&m, 7);
    const size_t row = (size_t)shape.vocab;
    double first[4 * 19];
    (void)qat_forward(&m, tokens, NULL);
    memcpy(first, m.logits, sizeof first);
    memcpy(other, tokens, sizeof other);
    other[4] = 9; /* the last input of sequence 0 */
    (void)qat_forward(&m, other, NULL);
    EXPECT(memcmp(first, m.logits, sizeof first) == 0, "the tokens before it");
    (void)qat_forward(&m, tokens, NULL);
    double sum = 0;
    for (size_t i = 0; i < row; i++) sum += m.logits[i];
    EXPECT(fabs(sum - 1) < 1e-12, "probabilities sum to %.15g", sum);
    qat_model_free(&m);
}

/* Against the update written out for one number: arXiv:1711.05101, algorithm 2. */
NIB_TEST(QatAdam, IsAdamWWithDecayOnMatricesAlone)
{
    qat_model m;
    REQUIRE(qat_model_make(&shape, SEQUENCES, &m), "memory");
    double *moments = calloc(2 * m.at.n, sizeof *moments);
    qat_adam adam = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip = 1e9,
                      .first = moments, .second = moments + m.at.n };
    const size_t places[] = { m.at.embedding, m.at.layer[1].linear[QAT_DOWN], m.at.norm,
                              m.at.layer[0].norm_mlp, m.at.layer[1].norm_attention };
    for (size_t i = 0; i < m.at.n; i++) m.value[i] = 2;
    double want[2] = { 2, 2 }, first = 0, second = 0;
    for (int step = 1; step <= 3; step++) {
        for (size_t i = 0; i < m.at.n; i++) m.grad[i] = 0.5 * step;
        adam.rate = 0.01 * step;
        (void)qat_adam_step(&adam, &m);
        first = 0.9 * first + 0.1 * 0.5 * step;
        second = 0.95 * second + 0.05 * 0.25 * step * step;
        const double move = adam.rate * first / (1 - pow(0.9, step))
                          / (sqrt(second / (1 - pow(0.95, step))) + 1e-8);
        want[0] = want[0] * (1 - adam.rate * 0.1) - move;
        want[1] -= move;
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        EXPECT(fabs(m.value[places[i]] - want[i > 1]) < 1e-12, "place %zu: %.15g, not %.15g", i,
               m.value[places[i]], want[i > 1]);

    /* A gradient over the limit is scaled down to it: Adam's first step then sees clip / norm. */
    memset(moments, 0, 2 * m.at.n * sizeof *moments);
    adam.step = 0;
    adam.clip = 1;
    for (size_t i = 0; i < m.at.n; i++) m.grad[i] = 3;
    const double norm = qat_adam_step(&adam, &m);
    EXPECT(fabs(norm - 3 * sqrt((double)m.at.n)) < 1e-9, "norm %g", norm);
    EXPECT(fabs(moments[0] - 0.1 * 3 / norm) < 1e-15, "clipped to %g", moments[0]);
    free(moments);
    qat_model_free(&m);
}

NIB_TEST(QatAdam, RateWarmsUpAndFollowsACosine)
{
    EXPECT(fabs(qat_rate(0, 110, 10, 1, 0.1) - 0.1) < 1e-15, "first");
    EXPECT(fabs(qat_rate(9, 110, 10, 1, 0.1) - 1) < 1e-15, "end of the warm-up");
    EXPECT(fabs(qat_rate(10, 110, 10, 1, 0.1) - 1) < 1e-15, "peak");
    EXPECT(fabs(qat_rate(60, 110, 10, 1, 0.1) - 0.55) < 1e-15, "half way");
    EXPECT(qat_rate(109, 110, 10, 1, 0.1) < 0.101, "last");
}
