/* quantize_estimate.cuh: which of a block's eight E4M3 scales may have the least error.
 *
 * With values V = v * step the error is Z - 2 sum(x V) + sum(V^2), of which Z, the sum of x^2, is
 * the same for all scales: integers give the rest but for a few roundings, two or four elements an
 * instruction.
 *
 * Codes are rounded in bf16. Over the tensor's step an element is a, and a scale's ties are at
 * E4M3 value * E2M1 tie: 7 bits at most. So it does not matter where in the gap between two numbers
 * of 7 bits a lies: its first 7 bits and a 1 behind them, a bf16, stand for all of them. What they
 * are multiplied by, 1 / E4M3 value in bf16, is off by less than their distance from any tie: for
 * each scale and element the code is that of a, or a itself lies on a tie, whose two codes have the
 * same error (tests/emu).
 *
 * The adder rounds as in nib_e2m1_sum: 126 + a / scale counts codes up to a / scale = 4.5 in its
 * bits, 256 + a / scale, 0x80 higher, from 3.5 on and up to 7. Scales within 9/7 of each other have
 * a number between, and share a limit. */
#ifndef NIB_QUANTIZE_ESTIMATE_CUH
#define NIB_QUANTIZE_ESTIMATE_CUH

#include "quantize_ways.cuh"

#include <type_traits>

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

enum { NIB_CANDIDATE_BYTES = 2 + NIB_E4M3_LAST + 1 + 7 };

/* Of every E4M3 scale, kept by a block of threads: one load instead of a reciprocal. Those beyond
 * the first and the last have an error of Inf. */
struct Candidates {
    float4 of_byte[NIB_CANDIDATE_BYTES]; /* from byte -2 on, to 6 above a NaN's: the step, two bf16
                                            of 1 / E4M3 value, the factor or divisor, what an
                                            element is multiplied by */
    uint4  of_base[NIB_E4M3_NAN + 1]; /* pairs of bf16: what is above it has value 6 of scales 0, -1
                                         and -2; and the limits of these and of 1 and 3 */
};

__device__ __forceinline__ uint32_t bf16_pair(float v) { return nib_ptx::cvt_bf16x2(v, v); }

template <int way>
__device__ __forceinline__ void set_candidate(const nib_tensor_math &m, int byte, Candidates &table)
{
    const auto near_byte = [](int b) { return (uint32_t)max(0, min(b, (int)NIB_E4M3_LAST)); };
    const bool      is_scale = byte >= 0 && byte <= (int)NIB_E4M3_LAST;
    const Candidate c = make_candidate<way>(m, near_byte(byte));
    const float     inverse = 1.0f / e4m3_value(near_byte(byte));
    table.of_byte[2 + byte] = make_float4(is_scale ? c.step : nib_float_of(NIB_F32_INF_BITS),
                                          nib_float_of(bf16_pair(inverse)), c.factor,
                                          way == WAY_DIVIDE ? c.inverse : c.factor);
    if (byte < 0 || byte > (int)NIB_E4M3_NAN) return;
    const float low = e4m3_value(near_byte(byte - 2)), high = e4m3_value(near_byte(byte + 1));
    table.of_base[byte] = make_uint4(bf16_pair(6.9f * low), bf16_pair(4.45f * low),
                                     bf16_pair(4.45f * high), 0);
}

template <int way>
__device__ __forceinline__ void share_candidates(const nib_tensor_math &m, Candidates &table)
{
    const unsigned threads = blockDim.x * blockDim.y;
    const unsigned first = threadIdx.y * blockDim.x + threadIdx.x;
    for (unsigned i = first; i < NIB_CANDIDATE_BYTES; i += threads) {
        set_candidate<way>(m, (int)i - 2, table);
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
        return { c.z, c.w, c.x };
    }
}

/* Distance of candidate i from the base. */
NIB_HD int mse_distance(unsigned i) { return nib_mse_offset(NIB_EL_E2M1, 1, (int)i); }

/* Pairs of bf16. */
constexpr uint32_t near_magic = 0x42fc42fcu; /* 126, whose sums' bits count codes */
constexpr uint32_t far_less_near = 0x46824682u; /* 256 - 126, by 2^7: an f16's 1 is a bf16's 2^-7 */

/* A unit's magnitudes. Elements in pairs, as they lie; and as integers, the largest 2^15 to 2^16,
 * in the order of values8. */
struct Magnitudes {
    uint32_t cut[8], fixed[8];
};

template <int dtype>
__device__ __forceinline__ Magnitudes magnitudes(const Unit<dtype> &x, float encode, float to_fixed)
{
    Magnitudes m;
    uint32_t   fixed[16];
    NIB_UNROLL
    for (int i = 0; i < 8; i++) {
        const float a = fabsf(x.at(2 * i)), b = fabsf(x.at(2 * i + 1));
        m.cut[i] = __byte_perm(nib_bits_of(a * encode), nib_bits_of(b * encode), 0x7632)
                 | 0x00010001u;
        fixed[2 * i] = nib_bits_of(fmaf(a, to_fixed, 0x1p23f));
        fixed[2 * i + 1] = nib_bits_of(fmaf(b, to_fixed, 0x1p23f));
    }
    NIB_UNROLL
    for (int i = 0; i < 8; i++) { /* 0 2, 4 6, 1 3, 5 7 */
        const int at = i / 4 * 8 + i % 2 * 4 + i / 2 % 2;
        m.fixed[i] = __byte_perm(fixed[at], fixed[at + 2], 0x5410);
    }
    return m;
}

/* Twice the values of 8 elements' codes, a byte each: of elements 0, 2, 4, 6 and 1, 3, 5, 7.
 *
 *   sums  | x1 x0 | x3 x2 | x5 x4 | x7 x6 |  bits of 126 + code, or of 0x80 more with far
 *   word  nibble j: the code of x[2 j], nibble 4 + j: of x[2 j + 1]
 *
 * The 0x80 of an element is bit 3 of the next one's nibble. */
template <bool far>
__device__ __forceinline__ uint2 values8(const uint32_t (&sums)[4], uint32_t high_values)
{
    const uint32_t low = sums[0] + 16 * sums[1], high = sums[2] + 16 * sums[3];
    uint32_t word = low + 256 * high - near_magic * 0x1111u;
    if (far) word &= 0x77777777u;
    return make_uint2(nib_ptx::prmt(0x03020100u, high_values, word),
                      nib_ptx::prmt(0x03020100u, high_values, word >> 16));
}

/* A quarter of the error less Z, in units of fixed, in which quarter is of the step. */
template <bool far>
__device__ __forceinline__ float error_of(const Magnitudes &m, const uint32_t (&a)[8],
                                          const uint32_t (&magic)[8], uint32_t factor,
                                          uint32_t high_values, float quarter)
{
    uint32_t products = 0, squares = 0;
    NIB_UNROLL
    for (int i = 0; i < 8; i += 4) {
        uint32_t sums[4];
        NIB_UNROLL
        for (int j = 0; j < 4; j++) {
            sums[j] = nib_ptx::fma_bf16x2(a[i + j], factor, far ? magic[i + j] : near_magic);
        }
        const uint2 v = values8<far>(sums, high_values);
        products = __dp2a_lo(m.fixed[i], v.x, products);
        products = __dp2a_hi(m.fixed[i + 1], v.x, products);
        products = __dp2a_lo(m.fixed[i + 2], v.y, products);
        products = __dp2a_hi(m.fixed[i + 3], v.y, products);
        squares = __dp4a(v.y, v.y, __dp4a(v.x, v.x, squares));
    }
    return quarter * fmaf(quarter, (float)(int)squares, -(float)(int)products);
}

/* Estimates of all candidates: a quarter of each error less Z, in units of the integers. amax: of
 * the block, for which is_estimable. */
template <int dtype>
__device__ __forceinline__ void estimate(const Unit<dtype> &x, const Candidates &table,
                                         float encode, uint32_t base, float amax, bool pair,
                                         float (&e)[8])
{
    /* A little less than the power of two, so that nothing but bf16 becomes 2^16. */
    const float power = nib_float_of((269 - (nib_bits_of(amax) >> 23)) << 23);
    const float to_fixed = dtype == NIB_DT_BF16 ? power : power * (1.0f - 0x1p-16f);
    const Magnitudes m = magnitudes(x, encode, to_fixed);
    const uint4      limits = table.of_base[base];
    uint32_t clamped[8], magic[8];
    const auto set_magic = [&](const uint32_t (&a)[8], uint32_t limit) {
        NIB_UNROLL
        for (int i = 0; i < 8; i++) {
            magic[i] = nib_ptx::fma_bf16x2(nib_ptx::above_f16x2(a[i], limit), far_less_near,
                                           near_magic);
        }
    };
    const auto add = [&](int i, auto far, const uint32_t (&a)[8], uint32_t high_values) {
        const float4 c = table.of_byte[2 + (int)base + mse_distance((unsigned)i)];
        e[i] = error_of<decltype(far)::value>(m, a, magic, nib_bits_of(c.y), high_values,
                                              c.x * (0.25f * to_fixed));
    };
    const std::true_type  far{};
    const std::false_type near{};
    NIB_UNROLL
    for (int i = 0; i < 8; i++) clamped[i] = nib_ptx::min_bf16x2(m.cut[i], limits.x);
    set_magic(clamped, limits.y);
    add(0, far, clamped, 0x0c080604u);
    add(1, far, clamped, 0x0c080604u);
    add(3, far, clamped, 0x0c080604u);
    set_magic(m.cut, limits.z);
    add(2, far, m.cut, 0x0c080604u);
    add(4, far, m.cut, 0x0c080604u);
    add(5, near, m.cut, 0x08080604u); /* less than 5: all from 3.5 on have value 4 */
    add(6, near, m.cut, 0x08080604u);
    add(7, near, m.cut, 0x08080604u);
    if (pair) {
        NIB_UNROLL
        for (int i = 0; i < 8; i++) e[i] += __shfl_xor_sync(~0u, e[i], 1);
    }
}

/* The sum of 2^(2 + distance) of the candidates that may have the least error: as a number, since a
 * single one's distance is the exponent.
 *
 * Why no other: what is left out by an estimate of one scale, in units of 2^-24 Z, is 3 of its own
 * roundings, 2 of the reference's, and 10 of elements that lie so near a tie that the reference,
 * whose factors are off by 6 units, falls on its other side: the distances to both then differ by
 * 2 * 6 units of x. So errors further apart than 30 units have the order of their estimates. And Z
 * is at most 1.08 of the least estimate's magnitude: amax is scaled to 5.5 or more, so that the
 * block's error with its own scale is at most 0.039 Z, or 0.069 Z of 32 elements.
 *
 * Integers of bf16 elements are exact wherever some scale's value is not 0. Others are off by half
 * a unit, which changes the difference of two errors of up to E by 2 sqrt(n E): in quarters, for 16
 * elements, by 0.82 roots of the estimate's quarter, for 32 by 1.55. */
template <int dtype>
__device__ __forceinline__ float likely_candidates(const float (&e)[8], bool pair)
{
    const float least = fminf(fminf(fminf(e[0], e[1]), fminf(e[2], e[3])),
                              fminf(fminf(e[4], e[5]), fminf(e[6], e[7])));
    float       most = least * (1.0f - 40 * 0x1p-24f); /* least is negative */
    if (dtype != NIB_DT_BF16) most += (pair ? 1.6f : 0.85f) * (-least * rsqrtf(-least));
    float likely = 0.0f;
    NIB_UNROLL
    for (unsigned i = 0; i < 8; i++) {
        likely = fmaf(e[i] <= most ? 1.0f : 0.0f, (float)(1 << (2 + mse_distance(i))), likely);
    }
    return likely;
}

/* Whether likely_candidates may be asked: scales are normal, amax's is neither a least nor a
 * largest one, and nothing underflows. */
__device__ __forceinline__ bool is_estimable(uint32_t base, float amax, float factor)
{
    const float most = amax * factor;
    return base >= 10 && base <= NIB_E4M3_LAST && amax >= 0x1p-40f && amax <= 0x1p60f
        && most > 5.5f && most < 6.5f;
}

#endif
