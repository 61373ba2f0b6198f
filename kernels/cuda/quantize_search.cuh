/* quantize_search.cuh: the scale of least error for 16 elements that a thread holds, or 32 that it
 * shares with its neighbour: kernels/common/search.h for E2M1, finite elements and ties to even.
 *
 * Signs are left out: a code's is its element's, so the difference has the same magnitude. All
 * lanes of a warp call each function together, also those without a block, whose elements are
 * zeros.
 */
#ifndef NIB_QUANTIZE_SEARCH_CUH
#define NIB_QUANTIZE_SEARCH_CUH

#include "quantize_ways.cuh"

/* What one unit of a code is worth, and the factor, or the divisor and its inverse, that makes the
 * number to be rounded. */
struct Candidate {
    float factor, inverse, step;
};

template <int way>
__device__ __forceinline__ Candidate make_candidate(const nib_tensor_math &m, uint32_t byte)
{
    if constexpr (way == WAY_MX) {
        return { nib_block_unit_of(&m, byte).factor, 0.0f, nib_block_step(0, byte, 1.0f) };
    } else {
        const float scale = e4m3_value(byte), factor = nib_block_unit_e4m3(&m, scale).factor;
        return { factor, way == WAY_DIVIDE ? 1.0f / factor : 0.0f, scale * m.scales.decode };
    }
}

/* Of every E4M3 scale, kept by a block of threads: one load instead of a reciprocal. The first and
 * the last stand for those that a search would find beyond them. */
struct Candidates {
    float4 of_byte[2 + NIB_E4M3_LAST + 1 + 7]; /* from byte -2 on, to 6 above a NaN's: what an
                                                  element is multiplied by, the step, the factor
                                                  or divisor */
};

template <int way>
__device__ __forceinline__ void share_candidates(const nib_tensor_math &m, Candidates &table)
{
    const unsigned threads = blockDim.x * blockDim.y;
    const unsigned first = threadIdx.y * blockDim.x + threadIdx.x;
    for (unsigned i = first; i < NIB_E4M3_LAST + 10; i += threads) {
        const Candidate c = make_candidate<way>(m, i < 2 ? 0 : min(i - 2, NIB_E4M3_LAST));
        table.of_byte[i] = make_float4(way == WAY_DIVIDE ? c.inverse : c.factor, c.step, c.factor,
                                       0.0f);
    }
    __syncthreads();
}

template <int way>
__device__ __forceinline__ Candidate candidate_of(const nib_tensor_math &m, const Candidates &table,
                                                  uint32_t byte)
{
    if constexpr (way == WAY_MX) {
        return make_candidate<way>(m, byte);
    } else {
        const float4 c = table.of_byte[2 + byte];
        return { c.z, c.x, c.y };
    }
}

/* What the adder rounds 0 <= a <= 4.5 with: as for nib_e2m1_sum, whose bits these sums have. */
constexpr float low_magic = 0x1p23f - 2.0f;

/* |x| - |value| of the thread's elements. !clamps: nothing is scaled to 7 or more. */
template <int way, bool clamps, int dtype>
__device__ __forceinline__ void differences(const Unit<dtype> &x, const Candidate &c,
                                            float (&d)[16])
{
    NIB_UNROLL
    for (int i = 0; i < 16; i++) {
        const float a = fabsf(x.at(i));
        const float y = way == WAY_DIVIDE ? nib_quotient(a, c.factor, c.inverse) : a * c.factor;
        const float v = clamps ? nib_e2m1_nearest(y) : nib_e2m1_nearest_below7(y);
        d[i] = a - v * c.step;
    }
}

/* The largest number that a block's elements are scaled to, or a little more. */
template <int way> __device__ __forceinline__ float scaled_most(const Candidate &c, float amax)
{
    return amax * (way == WAY_DIVIDE ? c.inverse * 1.001f : c.factor);
}

/* A block's error, its sum in search.h's order. pair: of two lanes, the even one's elements first.
 */
template <bool absolute>
__device__ __forceinline__ float block_sum(const float (&d)[16], bool pair)
{
    float p[8];
    const auto error = [&](int i) { return absolute ? fabsf(d[i]) : d[i] * d[i]; };
    NIB_UNROLL
    for (int i = 0; i < 8; i++) p[i] = error(i) + error(i + 8);
    if (!pair) return nib_sum8(p);
    NIB_UNROLL
    for (int i = 0; i < 8; i++) {
        p[i] = (__shfl_sync(~0u, p[i], 0, 2) + error(i)) + error(i + 8);
    }
    return __shfl_sync(~0u, nib_sum8(p), 1, 2);
}

template <int way, bool absolute, int dtype>
__device__ __forceinline__ float candidate_error(const Unit<dtype> &x, const Candidate &c,
                                                 bool below7, bool pair)
{
    float d[16];
    if (below7) differences<way, false>(x, c, d);
    else differences<way, true>(x, c, d);
    return block_sum<absolute>(d, pair);
}

/* amax: of the block. */
template <int way, int dtype>
__device__ __forceinline__ float squared_error(const Unit<dtype> &x, const Candidate &c, float amax,
                                               bool pair)
{
    return candidate_error<way, false>(x, c, scaled_most<way>(c, amax) < 7.0f, pair);
}

/* Whether such differences are exact. */
template <int way>
__device__ __forceinline__ bool is_exact(int dtype, float amax, const Candidate &c)
{
    return way != WAY_DIVIDE || nib_quotient_is_exact(dtype, amax, c.factor);
}

/* ---- eight E4M3 scales ----
 * Nearly all blocks have one scale whose error is less than the others' by more than any rounding.
 * So errors are first estimated, which takes half the instructions: with products and sums fused,
 * in any order. Only candidates that come close to the least are then computed in full; for one
 * block of a few hundred there is more than one. */

/* Distance of candidate i from the base. */
NIB_HD int mse_distance(unsigned i) { return nib_mse_offset(NIB_EL_E2M1, 1, (int)i); }

/* Errors of all candidates: those of up to most may be the least. */
struct Estimates {
    float    e[8], most;
    unsigned best;
    bool     several; /* besides the best one's */
};

/* What is added and subtracted to round need not be of the very number that is rounded: from 3.5 to
 * 4.5, spacings of 1 and of 2 give the same, and low_magic has all others below. So candidates
 * within 9/7 of each other share a limit, up to which one takes low_magic and above which 2^24; and
 * from 13/9 of amax's scale on, no number is beyond 5, and those beyond 4.5 may be made less.
 *
 * Why that many candidates: a term x - v * step is off by less than 2^-18 x, a divisor's inverse
 * included, also where y lies so near a tie that it falls on the wrong side: then the distances to
 * both sides differ by no more. So a sum E of squares is off by less than
 * 2^-17 sqrt(E Z) + 2^-36 Z + 2^-19 E, with Z at least the sum of x^2: by
 * 12 * 2^-18 E + 0.1 * 2^-18 Z, since 2 sqrt(E Z) <= 11 E + Z / 11. Errors further apart than twice
 * that have the order of their estimates. */
template <int dtype>
__device__ __forceinline__ Estimates estimate(const Unit<dtype> &x, const Candidates &table,
                                              uint32_t base, bool pair)
{
    float     factor[8], step[8];
    Estimates all;
    float     (&e)[8] = all.e;
    const float4 *const of_base = table.of_byte + 2 + base;
    NIB_UNROLL
    for (unsigned i = 0; i < 8; i++) {
        const float4 c = of_base[mse_distance(i)];
        factor[i] = c.x, step[i] = c.y, e[i] = 0.0f;
    }
    const float most_least = 6.9f * step[3]; /* of -2: what is more has value 6 of -1 as well */
    const float limit_0 = 4.45f * step[3], limit_1 = 4.45f * step[2], limit_4 = 4.45f * step[5];
    const auto add = [&](int i, float a, float clamped, float magic) {
        const float v = fmaf(clamped, factor[i], magic) - magic;
        const float d = fmaf(-v, step[i], a);
        e[i] = fmaf(d, d, e[i]);
    };
    NIB_UNROLL
    for (int i = 0; i < 16; i++) {
        const float a = fabsf(x.at(i));
        float magic = a > limit_0 ? 0x1p24f : low_magic, clamped = fminf(a, most_least);
        add(0, a, a, magic), add(1, a, clamped, magic), add(3, a, clamped, magic);
        magic = a > limit_1 ? 0x1p24f : low_magic; /* 1 and 3 */
        add(2, a, a, magic), add(4, a, a, magic);
        clamped = fminf(a, limit_4); /* 4, 5 and 6: more has value 4 of each */
        add(5, a, clamped, low_magic), add(6, a, clamped, low_magic), add(7, a, clamped, low_magic);
    }
    float square = x.square_bound();
    if (pair) {
        square += __shfl_xor_sync(~0u, square, 1);
        NIB_UNROLL
        for (int i = 0; i < 8; i++) e[i] += __shfl_xor_sync(~0u, e[i], 1);
    }
    if (base + 6 > NIB_E4M3_LAST) {
        NIB_UNROLL
        for (unsigned i = 0; i < 8; i++) {
            const int byte = (int)base + mse_distance(i);
            e[i] = byte <= (int)NIB_E4M3_LAST ? e[i] : NIB_F32_MAX;
        }
    }
    /* Numbers end in their own number, and differ. */
    uint32_t key[8], first = ~0u, behind = ~0u;
    NIB_UNROLL
    for (uint32_t i = 0; i < 8; i++) first = min(first, key[i] = (nib_bits_of(e[i]) & ~7u) | i);
    NIB_UNROLL
    for (int i = 0; i < 8; i++) behind = min(behind, key[i] - first - 1); /* the first's is ~0 */
    all.best = first & 7;
    all.most = fmaf(nib_float_of(first | 7), 1.0f + 30 * 0x1p-18f, square * 0x1p-20f);
    all.several = nib_float_of((first + behind + 1) & ~7u) <= all.most;
    return all;
}

/* Whether estimate may be asked: scales are normal, nothing but the least differences of it
 * underflows, and nothing but lesser scales than amax's clamps. */
__device__ __forceinline__ bool is_estimable(uint32_t base, float amax, float factor)
{
    return base >= 10 && base <= NIB_E4M3_LAST && amax >= 0x1p-40f && amax <= 0x1p60f
        && amax * factor < 6.5f;
}

/* The byte of least MSE. exact: false if this cannot tell. */
template <int way, int dtype>
__device__ __forceinline__ uint32_t search_e4m3(const nib_tensor_math &m,
                                                const Candidates &table, const Unit<dtype> &x,
                                                uint32_t base, float amax,
                                                bool searches, bool pair, bool &exact)
{
    const Candidate first = candidate_of<way>(m, table, base);
    const float     factor = way == WAY_DIVIDE ? first.inverse : first.factor;
    const Estimates some = estimate(x, table, base, pair);
    const bool      all = !is_estimable(base, amax, factor);
    const bool      several = searches && (all || some.several);
    uint32_t        best = base + (uint32_t)mse_distance(some.best);
    if (!__any_sync(~0u, several)) return best;

    unsigned likely = 0;
    NIB_UNROLL
    for (int i = 0; i < 8; i++) likely |= some.e[i] <= some.most ? 1u << i : 0;

    float least = 0.0f;
    bool  tried = false;
    NIB_NO_UNROLL
    for (unsigned i = 0; i < 8; i++) {
        const int  byte = (int)base + mse_distance(i);
        const bool in_range = i == 0 || (byte >= 1 && byte <= (int)NIB_E4M3_LAST);
        const bool mine = several && (all ? in_range : likely >> i & 1);
        if (!__any_sync(~0u, mine)) continue;
        const Candidate c = candidate_of<way>(m, table, mine ? (uint32_t)byte : base);
        const float     e = squared_error<way>(x, c, amax, pair);
        if (!mine) continue;
        exact = exact && is_exact<way>(dtype, amax, c);
        if (!tried || e < least) least = e, best = (uint32_t)byte;
        tried = true;
    }
    return best;
}

/* The byte of least MSE of three E8M0 scales. */
template <int dtype>
__device__ __forceinline__ uint32_t search_e8m0(const nib_tensor_math &m, const Unit<dtype> &x,
                                                uint32_t base, float amax, bool pair)
{
    uint32_t best = base;
    float    least = squared_error<WAY_MX>(x, make_candidate<WAY_MX>(m, base), amax, pair);
    NIB_UNROLL
    for (int i = 1; i < 3; i++) {
        const int       byte = (int)base + (i == 1 ? 1 : -1);
        const bool      in_range = byte >= 0 && byte <= 254;
        const Candidate c = make_candidate<WAY_MX>(m, in_range ? (uint32_t)byte : base);
        const float     e = squared_error<WAY_MX>(x, c, amax, pair);
        if (in_range && e < least) least = e, best = (uint32_t)byte;
    }
    return best;
}

/* differences() and the codes' magnitudes. low: nothing is scaled to more than 4.5; else to less
 * than 7. Where 1 is the least normal number, an E2M1 value's bits are its code << 22. */
template <int way, bool low, int dtype>
__device__ __forceinline__ uint2 differences_and_codes(const Unit<dtype> &x, const Candidate &c,
                                                       float (&d)[16])
{
    uint32_t words[2] = { 0, 0 };
    NIB_UNROLL
    for (int i = 0; i < 16; i++) {
        const int   at = 4 * (i % 8);
        const float a = fabsf(x.at(i));
        const float y = way == WAY_DIVIDE ? nib_quotient(a, c.factor, c.inverse) : a * c.factor;
        const float magic = low ? low_magic : nib_e2m1_magic(y), sum = y + magic;
        const float v = sum - magic;
        d[i] = a - v * c.step;
        if (low) {
            words[i / 8] += (nib_bits_of(sum) - NIB_E2M1_SUM_0) << at;
        } else {
            const uint32_t bits = nib_bits_of(v * 0x1p-126f);
            words[i / 8] += at < 22 ? bits >> (22 - at) : bits << (at - 22);
        }
    }
    return make_uint2(words[0], words[1]);
}

/* The better of amax to 6 and amax to 4, and the codes by it. */
template <int way, bool absolute, int dtype>
__device__ __forceinline__ uint32_t four_over_six(const QuantizeJob &job, const nib_tensor_math &m,
                                                  const Candidates &table, const Unit<dtype> &x,
                                                  uint32_t base, float amax, bool pair,
                                                  uint2 &words, bool &exact)
{
    constexpr int   codes = way == WAY_DIVIDE ? CODES_DIVIDED : CODES_PLAIN;
    const float     v = 1.5f * nib_block_scale_value(&m, amax);
    const uint32_t  cast = e4m3_byte(v);
    const uint32_t  four = way == WAY_TE ? cast : nib_e4m3_scale_of(&m, v, cast);
    const Candidate c6 = candidate_of<way>(m, table, base), c4 = candidate_of<way>(m, table, four);
    const bool usual = scaled_most<way>(c6, amax) < 7.0f && scaled_most<way>(c4, amax) <= 4.5f;
    uint2 w6 = {}, w4 = {};
    float d[16];
    if (usual) w6 = differences_and_codes<way, false>(x, c6, d);
    else differences<way, true>(x, c6, d);
    const float e6 = block_sum<absolute>(d, pair);
    if (usual) w4 = differences_and_codes<way, true>(x, c4, d);
    else differences<way, true>(x, c4, d);
    const float e4 = block_sum<absolute>(d, pair);
    exact = exact && is_exact<way>(dtype, amax, c6) && is_exact<way>(dtype, amax, c4);
    const bool is_four = e4 < e6;
    if (usual) {
        words.x = (is_four ? w4.x : w6.x) | x.template signs<codes == CODES_DIVIDED>(0);
        words.y = (is_four ? w4.y : w6.y) | x.template signs<codes == CODES_DIVIDED>(8);
    } else {
        const Candidate c = is_four ? c4 : c6;
        words.x = codes8<codes>(x, 0, c.factor, c.inverse, job.codes_rules);
        words.y = codes8<codes>(x, 8, c.factor, c.inverse, job.codes_rules);
    }
    return is_four ? four : base;
}

#endif
