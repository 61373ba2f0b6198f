/* search.h: choosing a block's scale by its error instead of its amax.
 *
 * The error of a scale is the sum over the block of |x - value|^2 or |x - value|, in f32, in
 * this order whatever the machine: eight partial sums, element i into sum i % 8 in rising i,
 * then ((p0+p4) + (p2+p6)) + ((p1+p5) + (p3+p7)). Eight lanes of AVX2 or eight registers of a
 * thread compute it alike. Equal errors go to the candidate that is tried first: blocks so
 * small or so large that every square is 0 or Inf keep amax's scale.
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

/* Distance of candidate i from the byte of amax; amax itself first, so that it wins ties. E4M3
 * bytes are 1/8 of an octave apart. These are the best sets of eight on Gaussian, Laplacian,
 * uniform and Student-t(4) blocks and six tensors of SmolLM2-135M, found by exchange from the
 * full sweep's errors. Mean MSE over that of the full sweep, less 1, with blocks of 16 and the
 * tensor scale from amax; tests/search_test.c holds the rows to their bounds:
 *
 *     element      amax alone     eight candidates
 *     E2M1         23 .. 44 %     0.01 .. 0.06 %, uniform 0.17 %
 *     E2M3          7 .. 87 %     0.1 .. 0.4 %, uniform 0.6 %
 *     E4M3          8 .. 122 %    0.2 %, uniform 1.1 %
 *     E3M2, E5M2   19 .. 85 %     0.5 .. 0.6 %, uniform 0.0 %
 *
 * An E8M0 byte is an octave: amax and its neighbours lose at most 0.001 % by any MX rule. */
NIB_HD int nib_mse_offset(int element, int e4m3_scale, int i)
{
    const uint32_t m1 = 0x87650312u;   /* distance + 2 in nibble i: an array would lie in memory */
    const uint32_t m2 = 0x98654312u;   /* 0 -1 1 2 3 4 6 7; above: 0 -1 1 -2 3 4 5 6 */
    const uint32_t m3 = 0x98765432u;   /* 0 1 2 3 4 5 6 7 */
    const uint32_t e8m0 = 0x22222132u; /* 0 1 -1 */
    const int m = nib_element_traits_of(element).m;
    const uint32_t all = !e4m3_scale ? e8m0 : m == 1 ? m1 : m == 2 ? m2 : m3;
    return (int)(all >> (4 * i) & 15) - 2;
}

NIB_HD int nib_mse_candidates(int e4m3_scale) { return e4m3_scale ? NIB_MSE_CANDIDATES : 3; }

/* Something that computes what nib_block_error does. */
typedef float (*nib_block_error_function)(const nib_tensor_math *m, const float *x, int n,
                                          uint32_t byte, int absolute);

/* Scale byte of a block of n elements whose finite ones have amax a, by the chosen search. */
NIB_HD uint32_t nib_block_search_by(const nib_tensor_math *m, int choice, const float *x, int n,
                                    float a, nib_block_error_function error)
{
    const int e4m3 = m->rules.e4m3_scale;
    const uint32_t base = nib_block_scale(m, a);
    if (choice == NIB_SC_AMAX || !(a > 0.0f)) return base;

    if (choice == NIB_SC_46_MSE || choice == NIB_SC_46_MAE) {
        const int absolute = choice == NIB_SC_46_MAE;
        const uint32_t four = nib_e4m3_scale_byte(m, 1.5f * nib_block_scale_value(m, a));
        const float e6 = error(m, x, n, base, absolute);
        return error(m, x, n, four, absolute) < e6 ? four : base;
    }

    const int first = e4m3 ? 1 : 0, last = e4m3 ? (int)NIB_E4M3_LAST : 254;
    const int full = choice == NIB_SC_MSE_FULL;
    const int tries = full ? last - first + 1 : nib_mse_candidates(e4m3);
    uint32_t best = base;
    float least = error(m, x, n, base, 0);
    for (int i = full ? 0 : 1; i < tries; i++) {
        const int byte = full ? first + i : (int)base + nib_mse_offset(m->rules.element, e4m3, i);
        if (byte < first || byte > last) continue;
        const float e = error(m, x, n, (uint32_t)byte, 0);
        if (e < least) least = e, best = (uint32_t)byte;
    }
    return best;
}

NIB_HD uint32_t nib_block_search(const nib_tensor_math *m, int choice, const float *x, int n,
                                 float a)
{
    return nib_block_search_by(m, choice, x, n, a, nib_block_error);
}

#endif
