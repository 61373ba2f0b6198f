/* quantize_search.cuh: the scale of least error for 16 elements that a thread holds, or 32 that it
 * shares with its neighbour: kernels/common/search.h for E2M1, finite elements and ties to even.
 *
 * Signs are left out: a code's is its element's, so the difference has the same magnitude. All
 * lanes of a warp call each function together, also those without a block, whose elements are
 * zeros.
 */
#ifndef NIB_QUANTIZE_SEARCH_CUH
#define NIB_QUANTIZE_SEARCH_CUH

#include "quantize_estimate.cuh"

/* What the adder rounds 0 <= a <= 4.5 with: as for nib_e2m1_sum, whose bits these sums have. */
constexpr float low_magic = 0x1p23f - 2.0f;

/* |x| - |value| of an element of magnitude a. !clamps: it is scaled to less than 7. */
template <int way, bool clamps>
__device__ __forceinline__ float difference(float a, const Candidate &c)
{
    const float y = way == WAY_DIVIDE ? nib_quotient(a, c.factor, c.inverse) : a * c.factor;
    const float v = clamps ? nib_e2m1_nearest(y) : nib_e2m1_nearest_below7(y);
    return a - v * c.step;
}

/* The same of the thread's elements. */
template <int way, bool clamps, int dtype>
__device__ __forceinline__ void differences(const Unit<dtype> &x, const Candidate &c,
                                            float (&d)[16])
{
    NIB_UNROLL
    for (int i = 0; i < 16; i++) d[i] = difference<way, clamps>(fabsf(x.at(i)), c);
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
 * Nearly all blocks have one scale whose error is less than the others' by more than any rounding,
 * which estimates tell. Only candidates that come close to the least are computed in full; for one
 * block of several hundred there is more than one. */

/* Element j of a lane's unit, or j + 8: j < 8. */
template <int second, int dtype>
__device__ __forceinline__ float element_of(const Unit<dtype> &x, unsigned lane, unsigned j)
{
    constexpr int words = Unit<dtype>::words / 2; /* of 8 elements */
    Unit<dtype> found = {};
    NIB_UNROLL
    for (int i = 0; i < words; i++) {
        const uint32_t word = __shfl_sync(~0u, x.word[second * words + i], (int)lane);
        if (j * words / 8 == (unsigned)i) found.word[0] = word;
    }
    return words == 4 && j % 2 ? found.at(1) : found.at(0);
}

/* Candidates by the order in which they are tried, the best so far and its error. */
struct Tried {
    uint32_t todo, best;
    float    least;
    bool     any;
    __device__ __forceinline__ void take(uint32_t byte, float e)
    {
        if (!any || e < least) least = e, best = byte;
        any = true, todo &= todo - 1;
    }
};

__device__ __forceinline__ uint32_t byte_of_first(uint32_t base, uint32_t todo)
{
    return base + (uint32_t)mse_distance(todo ? (unsigned)__ffs((int)todo) - 1 : 0);
}

/* Errors of candidates of few lanes, 16 elements each: of two lanes' two at a time, by eight lanes,
 * each of which has two elements. */
template <int way, int dtype>
__device__ __forceinline__ void try_few(const nib_tensor_math &m, const Candidates &table,
                                        const Unit<dtype> &x, uint32_t base, Tried &tried)
{
    const unsigned lane = (threadIdx.y * blockDim.x + threadIdx.x) % 32, j = lane % 8;
    NIB_NO_UNROLL
    for (;;) {
        const unsigned asking = __ballot_sync(~0u, tried.todo != 0), more = asking & (asking - 1);
        if (!asking) return;
        const unsigned one = (unsigned)__ffs((int)asking) - 1;
        const unsigned other = more ? (unsigned)__ffs((int)more) - 1 : one;
        const unsigned source = lane < 16 ? one : other;
        uint32_t todo = __shfl_sync(~0u, tried.todo, (int)source);
        if (lane & 8) todo &= todo - 1;
        const uint32_t  byte = byte_of_first(__shfl_sync(~0u, base, (int)source), todo);
        const Candidate c = candidate_of<way>(m, table, byte);
        const float a[2] = { fabsf(element_of<0>(x, source, j)),
                             fabsf(element_of<1>(x, source, j)) };
        float d[2];
        NIB_UNROLL
        for (int i = 0; i < 2; i++) d[i] = difference<way, true>(a[i], c);
        float e = d[0] * d[0] + d[1] * d[1];
        NIB_UNROLL
        for (int by = 4; by >= 1; by /= 2) e += __shfl_xor_sync(~0u, e, by); /* nib_sum8 */
        const int   at = lane == one ? 0 : 16;
        const float first = __shfl_sync(~0u, e, at), second = __shfl_sync(~0u, e, at + 8);
        if (lane != one && lane != other) continue;
        tried.take(byte_of_first(base, tried.todo), first);
        if (tried.todo) tried.take(byte_of_first(base, tried.todo), second);
    }
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
    float           estimates[8];
    estimate(x, table, m.scales.encode, base, amax, pair, estimates);
    const float     likely = likely_candidates<dtype>(estimates, pair);
    const uint32_t  bits = nib_bits_of(likely);
    const uint32_t  best = base + (bits >> 23) - (127 + 2);
    const bool      all = !is_estimable(base, amax, factor);
    const bool      several = searches && (all || bits << 9);
    if (!__any_sync(~0u, several)) return best;

    const unsigned near_best = (unsigned)likely;
    uint32_t       todo = 0;
    NIB_UNROLL
    for (unsigned i = 0; i < 8; i++) {
        const int  byte = (int)base + mse_distance(i);
        const bool in_range = i == 0 || (byte >= 1 && byte <= (int)NIB_E4M3_LAST);
        todo |= (all ? (uint32_t)in_range : near_best >> (2 + mse_distance(i)) & 1) << i;
    }
    Tried tried = { several ? todo : 0, best, 0.0f, false };
    if (way == WAY_DIVIDE && several) { /* if the least and the largest divisor are, all are */
        const uint32_t low = base < 3 ? min(base, 1u) : base - 2;
        const uint32_t high = min(base + 6, NIB_E4M3_LAST);
        exact = is_exact<way>(dtype, amax, candidate_of<way>(m, table, low))
             && is_exact<way>(dtype, amax, candidate_of<way>(m, table, high));
    }
    if (!pair && !__any_sync(~0u, several && all)) {
        try_few<way>(m, table, x, base, tried);
        return tried.best;
    }
    NIB_NO_UNROLL
    while (__any_sync(~0u, tried.todo != 0)) { /* each lane its own */
        const uint32_t  byte = byte_of_first(base, tried.todo);
        const Candidate c = candidate_of<way>(m, table, byte);
        const float     e = squared_error<way>(x, c, amax, pair);
        if (tried.todo) tried.take(byte, e);
    }
    return tried.best;
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
