/* gptq_steps_cpu.c: integers by steps on their way through gptq_cpu.c: what a sweep is told of
 * them, and their rows in and out. */
#include "gptq_cpu.h"

static_assert(NIB_INT2 == NIB_GR_INT + 2 && NIB_INT8 == NIB_GR_INT + 8, "step elements");

void nib_gptq_integers_make(nib_gptq_job *job)
{
    job->kind = NIB_GPTQ_INTEGER;
    const nib_step_request *const step = &job->request->step;
    job->grid = nib_grid_of_codes((int)step->element, step->middle);
    job->block = step->group;
}

/* Step of group g of a row, as the plain rounding wrote it. */
static nib_step step_at(const nib_gptq_job *job, int64_t row, int64_t g)
{
    const nib_packed_steps *const p = job->request->steps;
    const int64_t i = row * job->groups + g;
    return nib_step_make(&job->grid, p->steps[i], p->zeros ? (float)p->zeros[i] : 0.0f);
}

void nib_gptq_integers_subtract(const nib_gptq_job *job, int64_t row, void *to)
{
    const nib_packed_steps *const p = job->request->steps;
    const int bits = nib_step_code_bits((int)p->element);
    const uint8_t *const codes = p->codes + row * p->ld_codes_bytes;
    for (int64_t g = 0; g < job->groups; g++) {
        const nib_step step = step_at(job, row, g);
        for (int64_t i = g * job->block; i < (g + 1) * job->block && i < job->k; i++) {
            const float value = (float)(nib_step_code_at(codes, bits, i) - step.z) * step.s;
            if (job->f64) ((double *)to)[i] -= (double)value;
            else ((float *)to)[i] -= value;
        }
    }
}

void nib_gptq_integers_take(const nib_gptq_job *job, nib_gptq_scratch *s, int64_t row, int rows,
                            int padded)
{
    const nib_step one = nib_step_make(&job->grid, 1.0f, 0.0f);
    for (int64_t g = 0; g < job->groups; g++)
        for (int r = 0; r < padded; r++) {
            const nib_step step = r < rows ? step_at(job, row + r, g) : one;
            s->steps[g * NIB_GPTQ_ROWS + r] = step.s;
            s->lows[g * NIB_GPTQ_ROWS + r] = step.low;
        }
}

void nib_gptq_integers_store(const nib_gptq_job *job, const nib_gptq_scratch *s, int64_t row, int r,
                             const uint8_t *codes)
{
    const nib_packed_steps *const p = job->request->steps;
    uint8_t *const to = p->codes + row * p->ld_codes_bytes;
    if (nib_step_code_bits((int)p->element) == 8) memcpy(to, codes, (size_t)job->k);
    else
        for (int64_t i = 0; i < job->k; i += 2)
            to[i / 2] = (uint8_t)((codes[i] & 15) | (i + 1 < job->k ? codes[i + 1] << 4 : 0));
    for (int64_t g = 0; g < job->groups; g++) {
        const int64_t from = g * NIB_GPTQ_ROWS + r;
        p->steps[row * job->groups + g] = s->steps[from];
        if (p->zeros) p->zeros[row * job->groups + g] = (int8_t)(job->grid.lo - s->lows[from]);
    }
}
