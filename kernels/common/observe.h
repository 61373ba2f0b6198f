/* observe.h: the rules of calibrate.h's observers: how ranges order, how averages move, which bin a
 * number is in, and the one order in which statistics are summed. */
#ifndef NIB_OBSERVE_H
#define NIB_OBSERVE_H

#include "half.h"

/* ---- ranges ---- */

/* Orders as the floats do: -NaN, -Inf, ..., -0, +0, ..., Inf, NaN. IEEE 754's totalOrder. */
NIB_HD uint32_t nib_order_key(uint32_t bits) { return bits >> 31 ? ~bits : bits | 0x80000000u; }
NIB_HD uint32_t nib_order_bits(uint32_t key) { return key >> 31 ? key & 0x7fffffffu : ~key; }

/* Of {-min, max} of nothing. */
#define NIB_RANGE_NONE_BITS 0xff800000u

/* The two numbers that elements from least to most merge into a range, both zeros +0. */
NIB_HD float nib_range_low(float least) { return 0.0f - least; }
NIB_HD float nib_range_high(float most) { return 0.0f + most; }

NIB_HD float nib_range_merged(float range, float x)
{
    return nib_order_key(nib_bits_of(range)) >= nib_order_key(nib_bits_of(x)) ? range : x;
}

/* ---- averages ---- */

NIB_HD float nib_moved_average(float keep, float average, float now)
{
    if (nib_magnitude_bits(now) >= NIB_F32_INF_BITS) return average;
    if (nib_magnitude_bits(average) >= NIB_F32_INF_BITS) return now;
    const float part = 1.0f - keep, kept = keep * average, added = part * now;
    return kept + added;
}

/* ---- histograms ---- */

enum { NIB_HISTOGRAM_BINS = 8192 }; /* at most */

/* 0: nothing is counted. */
NIB_HD float nib_histogram_factor(float top, int bins)
{
    if (!(top > 0.0f) || nib_bits_of(top) >= NIB_F32_INF_BITS) return 0.0f;
    return nib_min((float)bins / top, NIB_F32_MAX);
}

/* Bin of a finite magnitude: its product with factor, rounded down. The adder rounds to an integer
 * in the low bits of up; a GPU's conversions are slower. */
NIB_HD int nib_histogram_bin(float magnitude, float factor, int bins)
{
    const float at = magnitude * factor, up = at + 0x1p23f;
    const int nearest = (int)(nib_bits_of(up) - nib_bits_of(0x1p23f));
    return at < (float)bins ? nearest - (up - 0x1p23f > at) : bins - 1;
}

/* ---- statistics ----
 * A row's columns make pieces of NIB_PIECE, the last of which may be short; pieces count along the
 * rows. Of a piece, f32: 8 neighbouring elements are added by nib_sum8_of, what is absent or not
 * finite being 0; the sum of elements 8 g .. 8 g + 7 adds to lane g % 32, in rising order; and the
 * 32 lanes s make a tree:
 *
 *     for h = 16, 8, 4, 2, 1:    s[t] = s[t] + s[t + h],  t < h
 *
 * In f64, piece p adds to partial sum p % NIB_PARTIALS in rising order; those that have no piece
 * are 0; they make a tree, h = NIB_PARTIALS / 2, ..., 2, 1 in the same way.
 *
 * No square overflows in f32, and what underflows is below 2^-40 of the piece's sum: a piece whose
 * largest magnitude is far from 1 is scaled by nib_piece_exponent's power of two, which is exact
 * but for what then is subnormal. x has one, and x - value has another. */
enum { NIB_PIECE = 1024, NIB_PIECE_LANES = 32, NIB_PARTIALS = 4096 };

/* What is kept of a partial sum's pieces. */
typedef struct nib_stats_partial {
    double   sum, sum_sq, sum_sq_error;
    uint64_t nonfinite, clipped, zeroed;
    float    range[2];
} nib_stats_partial;

/* What a piece of this largest magnitude (its bits) is scaled by, as a power of two; its negative
 * may be one as well. Inf, which only a difference can be, counts as 2^128. */
NIB_HD int nib_piece_exponent(uint32_t most)
{
    const int e = (int)(most >> 23) - 127;
    if (most == 0 || (e >= -40 && e < 40)) return 0;
    return e < -126 ? 126 : e > 126 ? -126 : -e;
}

NIB_HD float nib_sum8_of(float a, float b, float c, float d, float e, float f, float g, float h)
{
    return ((a + e) + (c + g)) + ((b + f) + (d + h));
}

/* A piece's sums in f64, after scaling by 2^ex (of x) and 2^ed (of the differences). */
NIB_HD double nib_piece_sum(float sum, int ex) { return (double)sum * (double)nib_pow2(-ex); }
NIB_HD double nib_piece_squares(float sum, int e)
{
    const double back = (double)nib_pow2(-e);
    return (double)sum * back * back;
}

#endif
