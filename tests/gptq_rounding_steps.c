/* gptq_rounding_steps.c: what steps.h says of one group of integers, for gptq_reference.h. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "tests/gptq_reference.h"
#include "tests/steps_reference.h"

ref_rounding ref_integers_make(nib_step_element element, int asymmetric, nib_step_rule rule,
                               int64_t block)
{
    const int hi = (int)step_most(element);
    return (ref_rounding){ .integers = 1, .block = (int)block, .lo = -hi - 1, .hi = hi,
                           .asymmetric = asymmetric, .rule = (int)rule };
}

int64_t ref_step_scale(float s, int z)
{
    uint32_t bits;
    memcpy(&bits, &s, sizeof bits);
    return (int64_t)bits * 256 + z + 128;
}

static float step_of(int64_t scale, int *z)
{
    const uint32_t bits = (uint32_t)(scale / 256);
    float s;
    memcpy(&s, &bits, sizeof s);
    *z = (int)(scale % 256) - 128;
    return s;
}

int64_t ref_dynamic_step(const ref_rounding *r, const float *x, int n)
{
    return ref_shrunk_step(r, x, n, 0);
}

int64_t ref_shrunk_step(const ref_rounding *r, const float *x, int n, int i)
{
    const float keep = (float)(32 - i) / 32;
    const float span = (float)(r->hi - r->lo);
    float least = 0, most = 0, s, z = 0;
    for (int j = 0; j < n; j++) least = fminf(least, x[j]), most = fmaxf(most, x[j]);
    least *= keep, most *= keep;
    if (r->asymmetric) s = (most - least) / span;
    else s = fmaxf(-least, most) / ((float)r->hi + (r->of_half ? 0.5f : 0.0f));
    if (least == most) s = 1;
    s = step_by_rule((nib_step_rule)r->rule, 1, fmaxf(s, 0x1p-149f));
    if (r->asymmetric && least != most)
        z = nearbyintf(fminf((float)r->lo - least / s, (float)r->hi));
    return ref_step_scale(s, (int)fmaxf(z, (float)r->lo));
}

int ref_integer(const ref_rounding *r, int64_t scale, float x)
{
    int z;
    const float s = step_of(scale, &z);
    const double q = nearbyint((double)(x / s)) + z;
    return (int)fmin(fmax(q, r->lo), r->hi);
}

float ref_integer_value(int64_t scale, int q)
{
    int z;
    const float s = step_of(scale, &z);
    return (float)(q - z) * s;
}
