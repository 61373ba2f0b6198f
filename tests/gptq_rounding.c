/* gptq_rounding.c: what format.h says of one block, written once more and slowly: elements by
 * search among their values, E8M0 by frexp. See gptq_reference.h. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/common/half.h"
#include "tests/gptq_reference.h"

static const struct {
    int m, bias, count, emax;
} elements[5] = { { 1, 1, 8, 2 }, { 3, 1, 32, 2 }, { 2, 3, 32, 4 }, { 3, 7, 127, 8 },
                  { 2, 15, 124, 15 } };

static double small_float(int m, int bias, int code)
{
    const int e = code >> m, f = code & ((1 << m) - 1);
    return e ? ldexp((1 << m) + f, e - bias - m) : ldexp(f, 1 - bias - m);
}

ref_rounding ref_rounding_make(nib_format format, const nib_rules *rules, nib_dtype source,
                               nib_scale_choice choice)
{
    const nib_element element = nib_format_element(format);
    ref_rounding r = { .format = format, .source = source, .choice = choice,
                       .block = nib_format_block(format), .values = elements[element].count,
                       .has_e4m3_scale = nib_format_scale(format) == NIB_SCALE_E4M3,
                       .encode = 1, .decode = 1 };
    r.rules.size = sizeof r.rules;
    if (rules) r.rules = *rules;
    else (void)nib_rules_fill(NIB_RULES_TE, format, &r.rules);
    for (int i = 0; i < r.values; i++)
        r.value[i] = small_float(elements[element].m, elements[element].bias, i);
    for (int i = 0; i < (r.has_e4m3_scale ? 127 : 255); i++)
        r.scale[i] = (float)(r.has_e4m3_scale ? small_float(3, 7, i) : ldexp(1, i - 127));
    return r;
}

static float most_of(const ref_rounding *r) { return (float)r->value[r->values - 1]; }

void ref_tensor_amax(ref_rounding *r, float amax)
{
    const float over_six = r->choice >= NIB_SCALE_FOUR_OVER_SIX_MSE ? 256.0f : 448.0f;
    const float m = most_of(r) * over_six;
    r->encode = r->decode = 1;
    if (!(amax > 0) || !isfinite(amax)) return;
    if (r->rules.tensor == NIB_TENSOR_DECODE) {
        r->decode = fmaxf(amax / m, ldexpf(1, -149));
        r->encode = fminf(1 / r->decode, FLT_MAX);
        return;
    }
    if (r->rules.tensor == NIB_TENSOR_SOURCE) {
        const float inverse = nib_round_to_dtype((int)r->source, 1 / amax);
        r->encode = nib_round_to_dtype((int)r->source, inverse * m);
        if (!(r->encode > 0) || !isfinite(r->encode)) r->encode = 1;
    } else {
        r->encode = fminf(m / amax, FLT_MAX);
    }
    r->decode = 1 / r->encode;
}

void ref_tensor_given(ref_rounding *r, float t)
{
    const int good = t > 0 && isfinite(t);
    r->decode = good ? t : 1;
    r->encode = good ? fminf(1 / t, FLT_MAX) : 1;
}

/* The index of the nearest of values[0 .. n - 1], which rise from 0; a tie by the rule. */
static int nearest(const double *values, int n, double a, int ties_down)
{
    int low = 0, high = n - 1; /* values[low] <= a < values[high] */
    if (a >= values[n - 1]) return n - 1;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (values[middle] <= a) low = middle;
        else high = middle;
    }
    const double below = a - values[low], above = values[high] - a;
    if (below == above) return ties_down || low % 2 == 0 ? low : high;
    return below < above ? low : high;
}

/* ---- scales ---- */

static int e4m3_scale(const ref_rounding *r, float v)
{
    double bytes[127];
    if (!(v > 0)) return (int)r->rules.e4m3_zero;
    for (int i = 0; i < 127; i++) bytes[i] = (double)r->scale[i];
    const int byte = nearest(bytes, 127, (double)v, 0), least = (int)r->rules.e4m3_min;
    if (byte == 0) return least ? least : (int)r->rules.e4m3_zero;
    return byte > least ? byte : least;
}

static float e4m3_scale_value(const ref_rounding *r, float a)
{
    const float most = most_of(r);
    switch (r->rules.block) {
    case NIB_BLOCK_FOLDED: return a * (r->encode * (1 / most));
    case NIB_BLOCK_DIVIDE: return a / (most * r->decode);
    case NIB_BLOCK_TWO_STEP: break;
    }
    return nib_round_to_dtype((int)r->source, a / most) * r->encode;
}

static int floor_log2(double a)
{
    int e;
    (void)frexp(a, &e);
    return e - 1;
}

static int e8m0_exponent(const ref_rounding *r, double a)
{
    const nib_element element = nib_format_element(r->format);
    const int emax = elements[element].emax, low = floor_log2(a);
    const int m = r->rules.mx == NIB_MX_EVEN ? elements[element].m : element == NIB_E2M3 ? 3 : 1;
    const float q = (float)a / most_of(r);
    int e = low - emax - 2;
    switch (r->rules.mx) {
    case NIB_MX_RCEIL:
        while (ldexp(r->value[r->values - 1], e) < a) e++;
        return e;
    case NIB_MX_FLOOR:       return low - emax;
    case NIB_MX_CEIL:        return low + (ldexp(1, low) != a) - emax;
    case NIB_MX_RCEIL_LOG2:  return q > 0 ? (int)ceilf((float)log2((double)q)) : -127;
    case NIB_MX_FLOOR_LOG2:  return (int)floorf((float)log2(a)) - emax;
    case NIB_MX_EVEN:
    case NIB_MX_EVEN_SOURCE: break;
    }
    if (r->rules.mx == NIB_MX_EVEN_SOURCE && r->source == NIB_F16
        && a < (1 - ldexp(1, -m - 1)) * 0x1p-14)
        return 0;
    return floor_log2(a + ldexp(1, low - m - 1)) - emax;
}

int ref_amax_scale(const ref_rounding *r, float amax)
{
    if (r->has_e4m3_scale) return e4m3_scale(r, e4m3_scale_value(r, amax));
    if (!(amax > 0))
        return r->rules.mx == NIB_MX_EVEN_SOURCE && r->source == NIB_F16 ? 127 : 0;
    const int e = e8m0_exponent(r, (double)amax);
    return (e < -127 ? -127 : e > 127 ? 127 : e) + 127;
}

/* ---- elements ---- */

static float scaled(const ref_rounding *r, int64_t scale, float x)
{
    const float s = r->scale[scale];
    float y = 0;
    if (!r->has_e4m3_scale) return (float)ldexp((double)x, 127 - (int)scale);
    switch (r->rules.element) {
    case NIB_ELEMENT_RECIPROCAL: y = x * fminf(1 / (s * (1 / r->encode)), FLT_MAX); break;
    case NIB_ELEMENT_DIVIDE:     y = x / (s * r->decode); break;
    case NIB_ELEMENT_DIVIDE_ENC: y = x / (s / r->encode); break;
    }
    return isnan(y) ? x < 0 ? -0.0f : 0.0f : y;
}

int ref_code(const ref_rounding *r, int64_t scale, float x)
{
    if (r->integers) return (uint8_t)ref_integer(r, scale, x);
    const float y = scaled(r, scale, x);
    const int magnitude = nearest(r->value, r->values, fabs((double)y),
                                  r->rules.ties == NIB_TIES_DOWN);
    const int bits = nib_format_element_bits(r->format);
    int negative = signbit(y) != 0;
    switch (r->rules.zero_sign) {
    case NIB_ZERO_KEEP:     break;
    case NIB_ZERO_INPUT:    negative = y < 0; break;
    case NIB_ZERO_POSITIVE: negative = magnitude && negative; break;
    case NIB_ZERO_MODELOPT: negative = !(y > 0); break;
    case NIB_ZERO_SOURCE:   negative = nib_round_to_dtype((int)r->source, y) < 0; break;
    }
    return magnitude | negative << (bits - 1);
}

double ref_value(const ref_rounding *r, int64_t scale, int code)
{
    if (r->integers) return (double)ref_integer_value(scale, (int8_t)code);
    const int bits = nib_format_element_bits(r->format), magnitude = code & ((1 << (bits - 1)) - 1);
    const float step = r->scale[scale] * r->decode, value = (float)r->value[magnitude] * step;
    return (double)(code >> (bits - 1) ? -value : value);
}

/* ---- choices ---- */

/* In f32, in the order that kernels/common/search.h fixes. */
static float f32_error(const ref_rounding *r, const float *x, int n, int scale, int absolute)
{
    float p[8] = { 0 };
    for (int i = 0; i < n; i++) {
        const float d = x[i] - (float)ref_value(r, scale, ref_code(r, scale, x[i]));
        p[i % 8] += absolute ? fabsf(d) : d * d;
    }
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

static double hessian_error(const ref_rounding *r, const double *x, int n, int64_t scale,
                            const double *h, int64_t ld, const int32_t *at)
{
    double d[128], sum = 0;
    for (int i = 0; i < n; i++) d[i] = x[i] - ref_value(r, scale, ref_code(r, scale, (float)x[i]));
    for (int i = 0; i < n; i++) {
        double beside = 0;
        for (int j = 0; j < i; j++) beside += h[at[i] * ld + at[j]] * d[j];
        sum += d[i] * (h[at[i] * ld + at[i]] * d[i] + 2 * beside);
    }
    return sum;
}

static float amax_of(const float *x, int n)
{
    float amax = 0;
    for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[i]));
    return amax;
}

/* The candidates of NIB_SCALE_MSE or all, amax's first. Returns how many. */
static int candidates(const ref_rounding *r, int base, int full, int out[256])
{
    static const int offsets[4][8] = { { 0, -1, 1, -2, 3, 4, 5, 6 }, { 0, -1, 1, 2, 3, 4, 6, 7 },
                                       { 0, 1, 2, 3, 4, 5, 6, 7 }, { 0, 1, -1 } };
    const int first = r->has_e4m3_scale ? 1 : 0, last = r->has_e4m3_scale ? 126 : 254;
    const int m = elements[nib_format_element(r->format)].m;
    int n = 0;
    out[n++] = base;
    for (int i = first; full && i <= last; i++) out[n++] = i;
    for (int i = 1; !full && i < (r->has_e4m3_scale ? 8 : 3); i++) {
        const int byte = base + offsets[r->has_e4m3_scale ? m - 1 : 3][i];
        if (byte >= first && byte <= last) out[n++] = byte;
    }
    return n;
}

int64_t ref_plain_scale(const ref_rounding *r, const float *x, int n)
{
    if (r->integers) return ref_dynamic_step(r, x, n);
    const float amax = amax_of(x, n);
    const int base = ref_amax_scale(r, amax), full = r->choice == NIB_SCALE_MSE_FULL;
    const int absolute = r->choice == NIB_SCALE_FOUR_OVER_SIX_MAE;
    int tried[256], best = base;
    if (r->choice == NIB_SCALE_AMAX || !(amax > 0)) return base;
    if (r->choice >= NIB_SCALE_FOUR_OVER_SIX_MSE) {
        const int four = e4m3_scale(r, 1.5f * e4m3_scale_value(r, amax));
        return f32_error(r, x, n, four, absolute) < f32_error(r, x, n, base, absolute) ? four
                                                                                      : base;
    }
    const int count = candidates(r, base, full, tried);
    float least = f32_error(r, x, n, base, 0);
    for (int i = 1; i < count; i++) {
        const float error = f32_error(r, x, n, tried[i], 0);
        if (error < least) least = error, best = tried[i];
    }
    return best;
}

int64_t ref_hessian_scale(const ref_rounding *r, const double *x, int n, const double *h,
                          int64_t ld, const int32_t *at, int full)
{
    float amax = 0, rounded[128];
    int64_t tried[256], best;
    int bytes[256], count = 16;
    for (int i = 0; i < n; i++) rounded[i] = (float)x[i], amax = fmaxf(amax, fabsf(rounded[i]));
    if (r->integers) {
        for (int i = 0; i < count; i++) tried[i] = ref_shrunk_step(r, rounded, n, i);
    } else {
        const int base = ref_amax_scale(r, amax);
        if (!(amax > 0)) return base;
        count = candidates(r, base, full, bytes);
        for (int i = 0; i < count; i++) tried[i] = bytes[i];
    }
    best = tried[0];
    double least = hessian_error(r, x, n, best, h, ld, at);
    for (int i = 1; i < count; i++) {
        const double error = hessian_error(r, x, n, tried[i], h, ld, at);
        if (error < least) least = error, best = tried[i];
    }
    return best;
}
