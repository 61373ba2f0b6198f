/* block.h: the arithmetic of one block, for every format and every rules value.
 *
 *   amax of the tensor --> S, t          nib_tensor_factors
 *   amax of a block    --> scale byte    nib_block_scale
 *   scale byte         --> factor, step  nib_block_unit    (encode by factor, decode by step)
 *   x, factor          --> code          nib_block_code
 *   code, step         --> value         nib_block_value
 *
 * Each line is a fixed order of correctly rounded f32 operations: build without fast-math and
 * without contraction. The names of the rules are those of nibble/format.h, whose comments say
 * which package does what.
 */
#ifndef NIB_BLOCK_H
#define NIB_BLOCK_H

#include "half.h"
#include "philox.h"
#include "scale.h"

/* The values of nib_tensor_rule, nib_block_rule, nib_element_rule, nib_tie_rule, nib_zero_rule,
 * nib_nonfinite_rule and nib_rounding. */
enum { NIB_T_ENCODE, NIB_T_DECODE, NIB_T_SOURCE };
enum { NIB_B_FOLDED, NIB_B_DIVIDE, NIB_B_TWO_STEP };
enum { NIB_E_RECIPROCAL, NIB_E_DIVIDE, NIB_E_DIVIDE_ENC };
enum { NIB_TIE_EVEN, NIB_TIE_DOWN };
enum { NIB_Z_KEEP, NIB_Z_INPUT, NIB_Z_POSITIVE, NIB_Z_MODELOPT, NIB_Z_SOURCE };
enum { NIB_NF_SATURATE, NIB_NF_NAN };

/* A format and its rules, unpacked; one per call. */
typedef struct nib_block_rules {
    int      element, e4m3_scale, has_tensor_scale, block;
    int      tensor, block_scale, factor, mx, ties, zero_sign, nonfinite;
    int      source;    /* dtype of the weights */
    uint32_t e4m3_zero, e4m3_min;
    float    scale_max; /* 448, or 256 for four-over-six */
} nib_block_rules;

typedef struct nib_tensor_scales {
    float encode; /* S */
    float decode; /* t, the multiplier that is stored */
} nib_tensor_scales;

/* S and t from the tensor's amax; one that is not finite and positive gives 1 and 1. */
NIB_HD nib_tensor_scales nib_tensor_factors(const nib_block_rules *r, float amax)
{
    const float m = nib_element_traits_of(r->element).max * r->scale_max;
    nib_tensor_scales f = { 1.0f, 1.0f };
    if (!(amax > 0.0f && amax <= NIB_F32_MAX)) return f;

    if (r->tensor == NIB_T_DECODE) {
        f.decode = amax / m;
        if (!(f.decode > 0.0f)) f.decode = nib_pow2(-149); /* amax / m underflowed */
        f.encode = nib_min(1.0f / f.decode, NIB_F32_MAX);
        return f;
    }
    if (r->tensor == NIB_T_SOURCE) {
        const float inverse = nib_round_to_dtype(r->source, 1.0f / amax);
        f.encode = nib_round_to_dtype(r->source, inverse * m);
        if (!(f.encode > 0.0f && f.encode <= NIB_F32_MAX)) f.encode = 1.0f;
    } else {
        f.encode = m / amax;
    }
    f.encode = nib_min(f.encode, NIB_F32_MAX);
    f.decode = 1.0f / f.encode;
    return f;
}

/* The same from a given t; one that is not finite and positive counts as 1. */
NIB_HD nib_tensor_scales nib_tensor_given(float t)
{
    nib_tensor_scales f = { 1.0f, 1.0f };
    if (t > 0.0f && t <= NIB_F32_MAX) {
        f.decode = t;
        f.encode = nib_min(1.0f / t, NIB_F32_MAX);
    }
    return f;
}

/* Constants of a tensor that every block uses. */
typedef struct nib_tensor_math {
    nib_block_rules   rules;
    nib_tensor_scales scales;
    float             element_max; /* E */
    float             folded;      /* S * (1/E) */
    float             denominator; /* E * t */
    float             inverse;     /* 1/S */
} nib_tensor_math;

NIB_HD nib_tensor_math nib_tensor_math_of(const nib_block_rules *rules, nib_tensor_scales scales)
{
    nib_tensor_math m;
    m.rules = *rules;
    m.scales = scales;
    m.element_max = nib_element_traits_of(rules->element).max;
    m.folded = scales.encode * (1.0f / m.element_max);
    m.denominator = m.element_max * scales.decode;
    m.inverse = 1.0f / scales.encode;
    return m;
}

/* E4M3 scale before its cast, for a block of amax a (finite, >= 0). */
NIB_HD float nib_block_scale_value(const nib_tensor_math *m, float a)
{
    switch (m->rules.block_scale) {
    case NIB_B_FOLDED: return a * m->folded;
    case NIB_B_DIVIDE: return a / m->denominator;
    default:
        return nib_round_to_dtype(m->rules.source, a / m->element_max) * m->scales.encode;
    }
}

/* The rules' floor and zero byte; byte: v's cast to E4M3. */
NIB_HD uint32_t nib_e4m3_scale_of(const nib_tensor_math *m, float v, uint32_t byte)
{
    if (!(v > 0.0f)) return m->rules.e4m3_zero;
    if (byte == 0) return m->rules.e4m3_min ? m->rules.e4m3_min : m->rules.e4m3_zero;
    return byte > m->rules.e4m3_min ? byte : m->rules.e4m3_min;
}

NIB_HD uint32_t nib_e4m3_scale_byte(const nib_tensor_math *m, float v)
{
    return nib_e4m3_scale_of(m, v, nib_e4m3_from_f32(v));
}

/* Scale byte of a block whose finite elements have amax a. */
NIB_HD uint32_t nib_block_scale(const nib_tensor_math *m, float a)
{
    if (m->rules.e4m3_scale) return nib_e4m3_scale_byte(m, nib_block_scale_value(m, a));
    if (m->rules.mx == NIB_MX_RULE_EVEN_SOURCE)
        return nib_e8m0_even_source(m->rules.element, m->rules.source == NIB_DT_F16, a);
    return nib_e8m0_from_amax(m->rules.element, m->rules.mx, a);
}

NIB_HD uint32_t nib_scale_nan_byte(int e4m3_scale)
{
    return e4m3_scale ? NIB_E4M3_NAN : NIB_E8M0_NAN;
}

/* A scale byte that anybody may have written: an E4M3's sign bit is not read. */
NIB_HD uint32_t nib_scale_given(int e4m3_scale, uint32_t byte)
{
    return e4m3_scale ? byte & 0x7f : byte;
}

NIB_HD float nib_scale_to_f32(int e4m3_scale, uint32_t byte)
{
    return e4m3_scale ? nib_e4m3_to_f32(nib_scale_given(1, byte)) : nib_e8m0_to_f32(byte);
}

/* What one unit of a code is worth. t is 1 for formats without a tensor scale: exact. */
NIB_HD float nib_block_step(int e4m3_scale, uint32_t byte, float t)
{
    return nib_scale_to_f32(e4m3_scale, byte) * t;
}

/* How x becomes the number that is rounded: x * factor, or x / factor. */
typedef struct nib_block_unit {
    float factor;
    int   divide;
} nib_block_unit;

/* Of an E4M3 scale worth s. */
NIB_HD nib_block_unit nib_block_unit_e4m3(const nib_tensor_math *m, float s)
{
    nib_block_unit u = { 0.0f, 0 };
    switch (m->rules.factor) {
    case NIB_E_RECIPROCAL: u.factor = nib_min(1.0f / (s * m->inverse), NIB_F32_MAX); break;
    case NIB_E_DIVIDE:     u.factor = s * m->scales.decode, u.divide = 1; break;
    default:               u.factor = s / m->scales.encode, u.divide = 1; break;
    }
    return u;
}

NIB_HD nib_block_unit nib_block_unit_of(const nib_tensor_math *m, uint32_t byte)
{
    if (m->rules.e4m3_scale) return nib_block_unit_e4m3(m, nib_e4m3_to_f32(byte));
    const nib_block_unit u = { nib_pow2(127 - (int)byte), 0 }; /* exact; byte is never NaN's here */
    return u;
}

NIB_HD float nib_block_scaled(nib_block_unit u, float x)
{
    return u.divide ? x / u.factor : x * u.factor;
}

/* Sign bit (0 or 1) of a code for scaled y and magnitude code. */
NIB_HD uint32_t nib_code_sign(int zero_sign, float y, uint32_t magnitude)
{
    const uint32_t negative = nib_bits_of(y) >> 31;
    switch (zero_sign) {
    case NIB_Z_KEEP:     return negative;
    case NIB_Z_SOURCE:
    case NIB_Z_INPUT:    return y < 0.0f;
    case NIB_Z_POSITIVE: return magnitude ? negative : 0;
    default:             return !(y > 0.0f);
    }
}

/* Code of x. stochastic: word decides, else the rules' ties. */
NIB_HD uint32_t nib_block_code(const nib_tensor_math *m, nib_block_unit u, float x, int stochastic,
                               uint32_t word)
{
    const nib_element_traits t = nib_element_traits_of(m->rules.element);
    if (nib_is_nan(x)) return t.nan_code;
    float y = nib_block_scaled(u, x);
    if (nib_is_nan(y)) y = x < 0.0f ? -0.0f : 0.0f; /* 0 / 0: a zero in a block of step 0 */
    const float a = nib_abs(y);
    const uint32_t magnitude = stochastic ? nib_encode_stochastic(t, a, word)
                             : m->rules.ties == NIB_TIE_DOWN ? nib_encode_ties_down(t, a)
                                                             : nib_encode_nearest(t, a);
    if (m->rules.zero_sign == NIB_Z_SOURCE) y = nib_round_to_dtype(m->rules.source, y);
    return magnitude | nib_code_sign(m->rules.zero_sign, y, magnitude) << (t.bits - 1);
}

NIB_HD float nib_block_value(int element, uint32_t code, float step)
{
    return nib_element_to_f32(element, code) * step;
}

/* What nib_fake_options says of clamping. */
NIB_HD float nib_block_limit(int element, float step)
{
    return nib_element_traits_of(element).max * step;
}

NIB_HD int nib_is_clamped(float x, float limit) { return !(nib_abs(x) <= limit); }

#endif
