/* search.h: choosing a block's scale by its error instead of its amax.
 *
 * The error of a scale is the sum over the block of |x - value|^2 or |x - value|, in f32, in
 * this order whatever the machine: eight partial sums, element i into sum i % 8 in rising i,
 * then ((p0+p4) + (p2+p6)) + ((p1+p5) + (p3+p7)). Eight lanes of AVX2 or eight registers of a
 * thread compute it alike. Equal errors go to the candidate that is tried first.
 */
#ifndef NIB_SEARCH_H
#define NIB_SEARCH_H

#include "block.h"

/* The values of nib_scale_choice. */
enum { NIB_SC_AMAX, NIB_SC_MSE, NIB_SC_MSE_FULL, NIB_SC_46_MSE, NIB_SC_46_MAE };

#define NIB_FOUR_OVER_SIX_MAX 256.0f
#define NIB_MSE_CANDIDATES    8

NIB_HD float nib_sum8(const float *p)
{
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

/* Error of n finite elements under a scale byte, nearest rounding. */
NIB_HD float nib_block_error(const nib_tensor_math *m, const float *x, int n, uint32_t byte,
                             int absolute)
{
    const nib_block_unit unit = nib_block_unit_of(m, byte);
    const float step = nib_block_step(m->rules.e4m3_scale, byte, m->scales.decode);
    float p[8] = { 0 };
    for (int i = 0; i < n; i++) {
        if (nib_magnitude_bits(x[i]) >= NIB_F32_INF_BITS) continue;
        const uint32_t code = nib_block_code(m, unit, x[i], 0, 0);
        const float d = x[i] - nib_block_value(m->rules.element, code, step);
        p[i % 8] += absolute ? nib_abs(d) : d * d;
    }
    return nib_sum8(p);
}

/* Distance of candidate i from the byte of amax. E4M3 bytes are 1/8 of an octave apart. The
 * set was chosen as the eight most frequent winners of the full sweep; see
 * tests/search_test.c, which states the loss. Amax first, so that it wins ties. */
NIB_HD int nib_mse_offset(int e4m3_scale, int i)
{
    const int e4m3[NIB_MSE_CANDIDATES] = { 0, -1, 1, -2, 2, 3, 4, 5 };
    const int e8m0[NIB_MSE_CANDIDATES] = { 0, 1, -1, 0, 0, 0, 0, 0 };
    return e4m3_scale ? e4m3[i] : e8m0[i];
}

NIB_HD int nib_mse_candidates(int e4m3_scale) { return e4m3_scale ? NIB_MSE_CANDIDATES : 3; }

/* Scale byte of a block of n elements whose finite ones have amax a, by the chosen search. */
NIB_HD uint32_t nib_block_search(const nib_tensor_math *m, int choice, const float *x, int n,
                                 float a)
{
    const int e4m3 = m->rules.e4m3_scale;
    const uint32_t base = nib_block_scale(m, a);
    if (choice == NIB_SC_AMAX || !(a > 0.0f)) return base;

    if (choice == NIB_SC_46_MSE || choice == NIB_SC_46_MAE) {
        const int absolute = choice == NIB_SC_46_MAE;
        const uint32_t four = nib_e4m3_scale_byte(m, 1.5f * nib_block_scale_value(m, a));
        const float e6 = nib_block_error(m, x, n, base, absolute);
        return nib_block_error(m, x, n, four, absolute) < e6 ? four : base;
    }

    const int first = e4m3 ? 1 : 0, last = e4m3 ? (int)NIB_E4M3_LAST : 254;
    const int full = choice == NIB_SC_MSE_FULL;
    const int tries = full ? last - first + 1 : nib_mse_candidates(e4m3);
    uint32_t best = base;
    float least = nib_block_error(m, x, n, base, 0);
    for (int i = full ? 0 : 1; i < tries; i++) {
        const int byte = full ? first + i : (int)base + nib_mse_offset(e4m3, i);
        if (byte < first || byte > last) continue;
        const float e = nib_block_error(m, x, n, (uint32_t)byte, 0);
        if (e < least) least = e, best = (uint32_t)byte;
    }
    return best;
}

#endif
