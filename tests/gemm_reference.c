/* gemm_reference.c: products of gemm.h in f64, from the definitions of the formats, and the bound
 * that the header allows. Nothing of kernels/ is used. */
#include <math.h>
#include <string.h>

#include "tests/gemm_fixture.h"

/* ---- numbers ---- */

static double half_value(uint16_t bits, int exponent_bits)
{
    const int mantissa_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int e = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
    const int f = bits & ((1 << mantissa_bits) - 1);
    const double sign = bits >> 15 ? -1.0 : 1.0;
    if (e == (1 << exponent_bits) - 1) return f ? NAN : sign * INFINITY;
    return sign * (e ? ldexp((1 << mantissa_bits) + f, e - bias - mantissa_bits)
                     : ldexp(f, 1 - bias - mantissa_bits));
}

double gemm_number(nib_dtype dtype, const void *data, int64_t i)
{
    if (dtype == NIB_F32) {
        float x;
        memcpy(&x, (const uint8_t *)data + 4 * i, 4);
        return (double)x;
    }
    uint16_t bits;
    memcpy(&bits, (const uint8_t *)data + 2 * i, 2);
    return half_value(bits, dtype == NIB_F16 ? 5 : 8);
}

static double element_value(int code)
{
    static const double magnitude[8] = { 0, 0.5, 1, 1.5, 2, 3, 4, 6 };
    return code & 8 ? -magnitude[code & 7] : magnitude[code & 7];
}

static double scale_value(nib_format format, int byte)
{
    if (nib_format_scale(format) == NIB_SCALE_E8M0)
        return byte == 255 ? NAN : ldexp(1.0, byte - 127);
    const int e = byte >> 3 & 15, f = byte & 7;
    if ((byte & 127) == 127) return NAN;
    const double magnitude = e ? ldexp(8 + f, e - 10) : ldexp(f, -9);
    return byte & 128 ? -magnitude : magnitude;
}

/* ---- weights: where the bytes of a source are ---- */

static int64_t code_at(const nib_packed *p, int64_t row, int64_t col, int *shift)
{
    const int64_t block = nib_format_block(p->format), first = col / block * block;
    const int64_t i = col - first;
    int64_t byte = col / 2;
    *shift = (int)(col % 2) * 4;
    if (p->code_order == NIB_CODES_GGUF_HALVES) { /* low nibbles: the block's first half */
        byte = first / 2 + i % (block / 2);
        *shift = i < block / 2 ? 0 : 4;
    }
    return row * p->ld_codes_bytes + byte;
}

uint8_t *gemm_source_scale(gemm_source *s, int64_t row, int64_t block)
{
    const nib_packed *p = &s->p;
    const int64_t per_row = nib_scales_per_row(p->format, p->cols);
    int64_t at = row * per_row + block;
    if (p->scale_layout == NIB_SCALES_SWIZZLED_128X4)
        at = (row / 128 * ((per_row + 3) / 4) + block / 4) * 512 + row % 32 * 16
           + row % 128 / 32 * 4 + block % 4;
    return p->scales + at;
}

void gemm_source_put(gemm_source *s, int64_t row, int64_t col, uint8_t code)
{
    int shift;
    uint8_t *byte = s->p.codes + code_at(&s->p, row, col, &shift);
    *byte = (uint8_t)((*byte & ~(15 << shift)) | code << shift);
}

void gemm_source_decode(gemm_source *s)
{
    const nib_packed *p = &s->p;
    const int64_t block = nib_format_block(p->format);
    for (int64_t n = 0; n < p->rows; n++) {
        for (int64_t k = 0; k < p->cols; k++) {
            int shift;
            const int64_t at = code_at(p, n, k, &shift);
            const int code = p->codes[at] >> shift & 15;
            s->w[n * p->cols + k] =
                element_value(code) * scale_value(p->format, *gemm_source_scale(s, n, k / block));
        }
    }
}

double gemm_tensor_scale(const gemm_source *s)
{
    if (!nib_format_has_tensor_scale(s->p.format)) return 1.0;
    return isfinite(s->tensor_scale) && s->tensor_scale > 0 ? (double)s->tensor_scale : 1.0;
}

/* ---- products ---- */

/* A value and how far the computed one may be off. */
static gemm_answer activated(nib_gemm_act act, gemm_answer x)
{
    const double v = x.value, c = 0.79788456080286535588;
    double y = v;
    switch (act) {
    case NIB_GEMM_ACT_NONE: return x;
    case NIB_GEMM_ACT_RELU: y = v < 0 ? 0 : v; break; /* NaN stays */
    case NIB_GEMM_ACT_GELU: y = v / 2 * erfc(-v * 0.70710678118654752440); break;
    case NIB_GEMM_ACT_GELU_TANH: y = v / (1 + exp(-2 * c * (v + 0.044715 * v * v * v))); break;
    case NIB_GEMM_ACT_SILU: y = v / (1 + exp(-v)); break;
    }
    const double steepest = act == NIB_GEMM_ACT_RELU ? 1.0 : 1.13;
    const double own = act == NIB_GEMM_ACT_RELU
        ? 0.0 : 0x1p-20 * fmax(fabs(y), (fabs(v) + x.bound) * 0x1p-4);
    return (gemm_answer){ y, steepest * x.bound * (1 + 0x1p-20) + own };
}

/* The largest scale of a row: E of the header. Blocks of zeros do not count. */
static double row_scale(const gemm_source *s, int64_t n)
{
    const int64_t block = nib_format_block(s->p.format);
    double most = 0;
    for (int64_t k = 0; k < s->p.cols; k++) {
        const uint8_t byte = *gemm_source_scale((gemm_source *)s, n, k / block);
        const double  e = scale_value(s->p.format, byte);
        if (s->w[n * s->p.cols + k] != 0 && e > most) most = e;
    }
    return most;
}

/* Sum of |A| u, u as the header has it. */
static double scale_error(const gemm_case *c, const gemm_source *s, const gemm_inputs *x, int64_t m,
                          int64_t n, double most)
{
    const int    f16_sums = c->o.accumulate == NIB_GEMM_ACCUMULATE_F16;
    const double least = c->o.a_dtype != NIB_F16 ? 0x1p-60 : f16_sums ? 0x1p-16 : 0x1p-22;
    const int64_t block = nib_format_block(c->o.format);
    double sum = 0;
    if (nib_format_scale(c->o.format) == NIB_SCALE_E4M3) return 0;
    for (int64_t k = 0; k < c->o.k; k++) {
        const double e = scale_value(s->p.format,
                                     *gemm_source_scale((gemm_source *)s, n, k / block));
        if (e * (f16_sums ? 0x1p17 : 0x1p23) <= most)
            sum += fabs(gemm_number(c->o.a_dtype, x->a, m * x->a_ld + k)) * least * most;
    }
    return sum;
}

/* y of one row of weights. */
static gemm_answer product(const gemm_case *c, const gemm_source *s, const gemm_inputs *x,
                           int64_t m, int64_t n)
{
    const nib_gemm_options *o = &c->o;
    const double *w = s->w + n * o->k;
    const double factor = gemm_tensor_scale(s) * (c->alpha ? (double)x->alpha : 1);
    double sum = 0, magnitude = 0, int8 = 0;
    for (int64_t k0 = 0; k0 < o->k; k0 += 16) {
        double most = 0, weights = 0;
        for (int64_t k = k0; k < k0 + 16 && k < o->k; k++) {
            const double a = gemm_number(o->a_dtype, x->a, m * x->a_ld + k);
            sum += a * w[k];
            magnitude += fabs(a * w[k]);
            weights += fabs(w[k]);
            if (fabs(a) > most) most = fabs(a);
        }
        int8 += most / 254 * weights;
    }
    const double most = row_scale(s, n);
    double bound = ((double)o->k + 64) * 0x1p-23 * magnitude + scale_error(c, s, x, m, n, most);
    if (o->activations == NIB_GEMM_ACTIVATIONS_INT8) bound += int8;
    if (o->accumulate == NIB_GEMM_ACCUMULATE_F16) {
        const double chunk = o->f16_chunk ? o->f16_chunk : 64;
        const double t = nib_format_scale(o->format) == NIB_SCALE_E4M3
                       ? 1.0 : 0x1p-7 * fmax(most, 0x1p-113);
        bound += chunk / 16 * 0x1p-10 * magnitude + ceil((double)o->k / 16) * 0x1p-10 * t;
    }
    const double y = sum * factor;
    return (gemm_answer){ y, bound * fabs(factor) + 0x1p-22 * fabs(y) };
}

static gemm_answer plus(gemm_answer x, double other)
{
    const double sum = x.value + other;
    return (gemm_answer){ sum, x.bound + 0x1p-23 * (fabs(sum) + x.bound) };
}

static gemm_answer rounded(nib_dtype dtype, gemm_answer x)
{
    const double unit = dtype == NIB_F32 ? 0x1p-24 : dtype == NIB_F16 ? 0x1p-11 : 0x1p-8;
    const double least = dtype == NIB_F16 ? 0x1p-25 : 0x1p-134;
    x.bound += unit * (fabs(x.value) + x.bound) + least;
    return x;
}

gemm_answer gemm_exact(const gemm_case *c, const gemm_source *s, const gemm_inputs *x, int64_t m,
                       int64_t column)
{
    const nib_gemm_options *o = &c->o;
    gemm_answer y = product(c, s, x, m, column);
    if (c->bias) y = plus(y, gemm_number(o->d_dtype, x->bias, column));
    y = activated(o->act, y);
    if (o->gated) {
        gemm_answer up = product(c, s, x, m, o->n / 2 + column);
        if (c->bias) up = plus(up, gemm_number(o->d_dtype, x->bias, o->n / 2 + column));
        const double v = y.value * up.value;
        y = (gemm_answer){ v, fabs(y.value) * up.bound + fabs(up.value) * y.bound
                              + y.bound * up.bound + 0x1p-23 * fabs(v) };
    }
    if (c->residual) y = plus(y, gemm_number(o->d_dtype, x->residual, m * x->d_ld + column));
    return rounded(o->d_dtype, y);
}
