/* qat_adam.c: AdamW with clipped gradients, and the rate over the steps. */
#include "host/tools/qat.h"

/* Norms are not decayed; they lie before a layer's first linear weight, and at the end. */
static double decay_of(const qat_adam *a, const qat_model *m, size_t i)
{
    for (int64_t l = 0; l < m->shape.layers; l++)
        if (i >= m->at.layer[l].norm_attention && i < m->at.layer[l].linear[0]) return 0;
    return i >= m->at.norm ? 0 : a->decay;
}

double qat_adam_step(qat_adam *a, qat_model *m)
{
    double square = 0;
    for (size_t i = 0; i < m->at.n; i++) square += (double)m->grad[i] * (double)m->grad[i];
    const double norm = sqrt(square);
    const llm_real shrink = (llm_real)(norm > a->clip ? a->clip / norm : 1);
    a->step++;
    const llm_real b1 = (llm_real)a->beta1, b2 = (llm_real)a->beta2, eps = (llm_real)a->eps;
    const llm_real fair1 = (llm_real)(1 / (1 - pow(a->beta1, (double)a->step)));
    const llm_real fair2 = (llm_real)(1 / (1 - pow(a->beta2, (double)a->step)));
    const llm_real rate = (llm_real)a->rate;
    const size_t hidden = (size_t)m->shape.hidden; /* every tensor is a multiple of it */
    for (size_t begin = 0; begin < m->at.n; begin += hidden) {
        const llm_real keep = (llm_real)(1 - a->rate * decay_of(a, m, begin));
        for (size_t i = begin; i < begin + hidden; i++) {
            const llm_real g = m->grad[i] * shrink;
            a->first[i] = b1 * a->first[i] + (1 - b1) * g;
            a->second[i] = b2 * a->second[i] + (1 - b2) * g * g;
            m->value[i] = m->value[i] * keep
                        - rate * (a->first[i] * fair1) / (sqrt(a->second[i] * fair2) + eps);
        }
    }
    return norm;
}

double qat_rate(int64_t step, int64_t steps, int64_t warm_up, double peak, double last)
{
    if (step < warm_up) return peak * (double)(step + 1) / (double)warm_up;
    const double share = (double)(step - warm_up) / (double)(steps - warm_up);
    return last + (peak - last) * 0.5 * (1 + cos(3.141592653589793 * share));
}
