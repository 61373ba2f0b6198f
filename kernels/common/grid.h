/* grid.h: fake-quantization by f32 steps: the grid of an element, a group's step, a value, and the
 * gradient of the step. What nibble/steps.h says, once for all backends.
 *
 *   range of a group  --> step        nib_step_dynamic, nib_step_given
 *   x, step           --> y = x / s   --> v, in steps        nib_grid_nearest     value = v * s
 *   v, y              --> slope d     nib_grid_slope         grad_step = factor * sum(d * g)
 */
#ifndef NIB_GRID_H
#define NIB_GRID_H

#include "half.h"
#include "search.h" /* nib_sum8 */

#include <math.h>

/* The values of nib_step_element from NIB_GR_INT on: 16 + bits; below: NIB_EL_*. */
#define NIB_GR_INT 16
enum { NIB_SR_F32, NIB_SR_E4M3, NIB_SR_E8M0, NIB_SR_BF16, NIB_SR_F16 };

enum {
    NIB_GRID_UNIT = 8,     /* elements that are worked on together; groups begin at a multiple */
    NIB_GRID_PIECE = 1024, /* elements whose products are summed in f32 */
    NIB_GRID_LANES = 32,   /* partial sums of a piece */
    NIB_GRID_SUMS = 256    /* partial sums of a group's pieces */
};

/* Signs of zero apart, which nothing below depends on, all three forms agree, NaN included: it
 * gives b. */
#ifdef __CUDACC__
#define NIB_GRID_MAX(a, b) fmaxf((a), (b))
#define NIB_GRID_MIN(a, b) fminf((a), (b))
#else
#define NIB_GRID_MAX(a, b) ((a) > (b) ? (a) : (b))
#define NIB_GRID_MIN(a, b) ((a) < (b) ? (a) : (b))
#endif

typedef struct nib_grid {
    int   floats;
    float lo, hi;    /* integers: the least and largest q; floats: -E and E */
    float divisor;   /* of a symmetric group's largest magnitude: its step */
    float smallest;  /* floats: the smallest normal value */
    float rounder;   /* floats: 2^(23 - m), which times a's binade rounds a */
    float nan_value; /* what NaN becomes, in steps */
} nib_grid;

NIB_HD nib_grid nib_grid_of(int element)
{
    nib_grid g = { 0, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f };
    if (element >= NIB_GR_INT) {
        const int half = 1 << (element - NIB_GR_INT - 1);
        g.lo = (float)-half;
        g.hi = g.divisor = (float)(half - 1);
        return g;
    }
    const nib_element_traits t = nib_element_traits_of(element);
    g.floats = 1;
    g.lo = -t.max;
    g.hi = g.divisor = t.max;
    g.smallest = nib_pow2(t.emin);
    g.rounder = nib_pow2(23 - t.m);
    g.nan_value = nib_element_to_f32(element, t.nan_code);
    return g;
}

/* middle: symmetric steps are of half of all codes, hi + 1/2. */
NIB_HD nib_grid nib_grid_of_codes(int element, int middle)
{
    nib_grid g = nib_grid_of(element);
    if (middle) g.divisor = g.hi + 0.5f;
    return g;
}

/* A group's step, and the least and largest v: lo - z and hi - z, or -E and E. */
typedef struct nib_step {
    float s, low, high;
    int   z;
} nib_step;

NIB_HD int nib_is_step(float s) { return s > 0.0f && s <= NIB_F32_MAX; }

/* s by its rule; t: the tensor scale, 1 for the other rules. */
NIB_HD float nib_step_rounded(int rule, float t, float s)
{
    s = nib_is_step(s) ? s : 1.0f;
    if (rule == NIB_SR_E4M3) {
        const uint32_t byte = nib_e4m3_from_f32(s / t);
        s = nib_e4m3_to_f32(byte ? byte : 1) * t;
    } else if (rule == NIB_SR_E8M0) {
        uint32_t f;
        const int e = nib_split(s, &f);
        s = nib_e8m0_to_f32(nib_e8m0_from_exponent(e + (f != 0)));
    } else if (rule == NIB_SR_BF16) {
        s = nib_bf16_to_f32(nib_bf16_from_f32(s));
        s = NIB_GRID_MIN(NIB_GRID_MAX(s, nib_pow2(-133)), 0x1.fep127f);
    } else if (rule == NIB_SR_F16) {
        s = nib_f16_to_f32(nib_f16_from_f32(s));
        s = NIB_GRID_MIN(NIB_GRID_MAX(s, nib_pow2(-24)), 65504.0f);
    }
    return nib_is_step(s) ? s : 1.0f;
}

/* s is final; z is brought within lo .. hi. Floats have z = 0. */
NIB_HD nib_step nib_step_make(const nib_grid *g, float s, float z)
{
    nib_step step;
    z = NIB_GRID_MIN(NIB_GRID_MAX(z, g->lo), g->hi);
    if (g->floats) z = 0.0f;
    else z = (z + 0x1.8p23f) - 0x1.8p23f; /* the adder rounds to nearest even */
    step.s = s;
    step.low = g->lo - z;
    step.high = g->hi - z;
    step.z = (int)z;
    return step;
}

NIB_HD nib_step nib_step_given(const nib_grid *g, int rule, float t, float s, int z)
{
    return nib_step_make(g, nib_step_rounded(rule, t, s), (float)z);
}

/* Of a group's finite elements and 0: its largest -x and x. */
typedef struct nib_grid_range {
    float below, above;
} nib_grid_range;

NIB_HD nib_grid_range nib_grid_range_add(nib_grid_range r, float x)
{
    const int finite = nib_magnitude_bits(x) < NIB_F32_INF_BITS;
    const float up = finite ? x : 0.0f, down = finite ? -x : 0.0f;
    r.above = up > r.above ? up : r.above;
    r.below = down > r.below ? down : r.below;
    return r;
}

/* What a caller gives: what is no range is 0. */
NIB_HD nib_grid_range nib_grid_range_given(const float *pair)
{
    nib_grid_range r;
    r.below = nib_is_step(pair[0]) ? pair[0] : 0.0f;
    r.above = nib_is_step(pair[1]) ? pair[1] : 0.0f;
    return r;
}

NIB_HD nib_step nib_step_dynamic(const nib_grid *g, int asymmetric, int rule, float t,
                                 nib_grid_range r)
{
    const float least = nib_pow2(-149), most = r.above > r.below ? r.above : r.below;
    if (!(most > 0.0f)) return nib_step_make(g, nib_step_rounded(rule, t, 1.0f), 0.0f);
    float s = most / g->divisor;
    if (asymmetric) {
        const float width = r.above + r.below, n = g->hi - g->lo;
        s = width <= NIB_F32_MAX ? width / n : 2.0f * ((r.above * 0.5f + r.below * 0.5f) / n);
    }
    s = nib_step_rounded(rule, t, s > least ? s : least);
    return nib_step_make(g, s, asymmetric ? g->lo + r.below / s : 0.0f);
}

/* The range whose dynamic step is candidate i of those that are tried for a group. */
enum { NIB_GRID_SHRINKS = 16 };

NIB_HD nib_grid_range nib_grid_shrunk(nib_grid_range r, int i)
{
    const float f = 1.0f - (float)i * 0.03125f;
    r.below = r.below * f;
    r.above = r.above * f;
    return r;
}

/* v of y = x / s: nearest even, saturating. The first two are of anything but NaN.
 *
 * The adder rounds: an integer at 1.5 * 2^23, whose ulp is 1; a magnitude a float element's m bits
 * below its binade, at 2^(23-m) times that binade. */
NIB_HD float nib_grid_integer(nib_step step, float y)
{
    const float c = NIB_GRID_MIN(NIB_GRID_MAX(y, step.low), step.high);
    return (c + 0x1.8p23f) - 0x1.8p23f;
}

/* Of y >= 0. */
NIB_HD float nib_grid_magnitude(const nib_grid *g, float y)
{
    const float a = NIB_GRID_MIN(y, g->hi), normal = NIB_GRID_MAX(a, g->smallest);
    const float magic = nib_float_of(nib_bits_of(normal) & NIB_F32_INF_BITS) * g->rounder;
    return (a + magic) - magic;
}

NIB_HD float nib_grid_nearest(const nib_grid *g, nib_step step, float y)
{
    const uint32_t sign = nib_bits_of(y) & 0x80000000u;
    const float v = g->floats ? nib_float_of(nib_bits_of(nib_grid_magnitude(g, nib_abs(y))) | sign)
                              : nib_grid_integer(step, y);
    return nib_is_nan(y) ? g->nan_value : v;
}

/* What is stored of an integer, q = v + z: in two's complement of 4 bits, two to a byte, low nibble
 * first, if its element has no more; else of a byte. */
NIB_HD int nib_step_code_bits(int element) { return element <= NIB_GR_INT + 4 ? 4 : 8; }

/* low: the step's, lo - z. */
NIB_HD int nib_step_code(const nib_grid *g, float low, float v) { return (int)(v + (g->lo - low)); }

NIB_HD int nib_step_code_at(const uint8_t *codes, int bits, int64_t i)
{
    if (bits == 8) return (int8_t)codes[i];
    return (int)(((uint32_t)codes[i / 2] >> i % 2 * 4 & 15u) ^ 8u) - 8;
}

NIB_HD int nib_grid_is_clamped(nib_step step, float y)
{
    return !(y >= step.low && y <= step.high);
}

NIB_HD float nib_grid_slope(nib_step step, float y, float v)
{
    return nib_grid_is_clamped(step, y) ? v : v - y;
}

/* The sum of a piece, of its lanes' sums. Others may add the same pairs in another place. */
NIB_HD float nib_grid_sum_lanes(float *lane)
{
    for (int o = NIB_GRID_LANES / 2; o; o /= 2)
        for (int l = 0; l < o; l++) lane[l] += lane[l + o];
    return lane[0];
}

/* Pieces of n elements of a row. */
NIB_HD int64_t nib_grid_pieces(int64_t n) { return n / NIB_GRID_PIECE + (n % NIB_GRID_PIECE != 0); }

/* LSQ's factor for a group of n elements. The root is IEEE's; called on the host. */
static inline float nib_grid_factor(float given, int64_t n, float hi)
{
    return given != 0.0f ? given : (float)(1.0 / sqrt((double)n * (double)hi));
}

/* The product with the factor is exact in f64, so that for one piece it is the f32 product. */
NIB_HD float nib_grid_gradient(double sum, float factor)
{
    return nib_canonical((float)(sum * (double)factor));
}

#endif
