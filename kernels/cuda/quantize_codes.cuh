/* quantize_codes.cuh: 16 elements to E2M1 codes, for blocks whose elements are all finite.
 *
 * Each function equals a rule of kernels/common bit for bit (tests/emu/quantize_emu_test.cu). The
 * limits of a GPU rule their form: on Hopper, integer and comparing instructions run at half the
 * rate of f32 arithmetic, which shares its pipe with integer multiply-adds.
 */
#ifndef NIB_QUANTIZE_CODES_CUH
#define NIB_QUANTIZE_CODES_CUH

#include "kernels/common/block.h"
#include "ptx.cuh"

#include <math.h>

#define NIB_E2M1_SUM_0 0x4afffffcu /* the bits of 2^23 - 2, code 0's sum */

/* NIB_E2M1_SUM_0 + nib_encode_nearest(E2M1, a) for any a >= 0, Inf allowed.
 *
 * The adder rounds to nearest even, at an ulp of 1/2 below 2^23 and of 1 from there on: so a sum
 * that passes 2^23 at a = 2 has E2M1's spacing up to a = 4, and its bits count codes. From 4 on
 * they are a / 2 + 4. The curve of codes is concave, so it is the least of both everywhere, and
 * rounding keeps the order. Integers, since Hopper takes the least of three in one instruction. */
NIB_HD uint32_t nib_e2m1_sum(float a)
{
    const uint32_t low = nib_bits_of(a + (0x1p23f - 2.0f));
    const uint32_t high = nib_bits_of(fmaf(a, 0.5f, 0x1p23f));
    return min(min(low, high), NIB_E2M1_SUM_0 + 7u);
}

/* What the adder rounds 0 <= a < 8 to E2M1's spacing with: half of a's binade, 0.5 at least, is the
 * ulp of 2^22 + 3 * 2^20 * binade, an even count of it:
 *
 *     binade  0 .. 1/2  1     2     4
 *     ulp     1/2       1/2   1     2       (1 to 1.375) * 2^22, 1.75 * 2^22, 1.25 * 2^23, 2^24 */
NIB_HD float nib_e2m1_magic(float a)
{
    return fmaf(nib_float_of(nib_bits_of(a) & NIB_F32_INF_BITS), 0x1.8p21f, 0x1p22f);
}

/* The E2M1 value nearest to 0 <= a < 7, ties to even codes: a code is even where the count of
 * spacings is. */
NIB_HD float nib_e2m1_nearest_below7(float a)
{
    const float magic = nib_e2m1_magic(a);
    return (a + magic) - magic;
}

/* The same for any a >= 0, Inf allowed. */
NIB_HD float nib_e2m1_nearest(float a) { return nib_e2m1_nearest_below7(fminf(a, 6.0f)); }

/* Eight such sums to a word of nibbles, the first lowest. */
NIB_HD uint32_t nib_e2m1_word(const uint32_t *sums)
{
    uint32_t word = 0u - NIB_E2M1_SUM_0 * 0x11111111u;
    NIB_UNROLL
    for (int i = 0; i < 8; i++) word += sums[i] << (4 * i);
    return word;
}

/* x / d but for its last bit, with inverse = RN(1 / d): the residual of the first quotient is
 * exact, and what is left of its error is far less than the distance of any x / d from the middle
 * between two floats. So this falls on the same side of E2M1's ties as the rounded x / d, or on the
 * tie with it: true of all 2^23 mantissas of d and the x beside each tie (tests/emu). Nothing
 * underflows where nib_quotient_is_exact says so, but quotients below 2^-20, whose code is 0
 * whatever their last bits. -0 gives +0. */
NIB_HD float nib_quotient(float x, float d, float inverse)
{
    const float q = x * inverse;
    return fmaf(fmaf(-q, d, x), inverse, q);
}

/* Whether nib_quotient has x / d's E2M1 code and, for x not 0, its sign, for every x of the dtype
 * up to amax. The upper limits keep the quotient of the least x from becoming 0. */
NIB_HD int nib_quotient_is_exact(int dtype, float amax, float d)
{
    const float most = dtype == NIB_DT_F32 ? 1.0f : dtype == NIB_DT_BF16 ? 0x1p16f : 0x1p60f;
    return d >= 0x1p-60f && d <= most && amax <= d * 0x1p20f;
}

/* What to add to a's bits so that they carry into the exponent exactly where an E8M0 rule goes up;
 * ~0 for rules that do not work so. nib_e8m0_scale has the rest. */
NIB_HD uint32_t nib_e8m0_round(const nib_block_rules *r)
{
    const nib_element_traits t = nib_element_traits_of(r->element);
    switch (r->mx) {
    case NIB_MX_RULE_RCEIL: return 0x7fffffu - (nib_bits_of(t.max) & 0x7fffffu);
    case NIB_MX_RULE_FLOOR: return 0;
    case NIB_MX_RULE_EVEN:  return 1u << (22 - t.m);
    case NIB_MX_RULE_CEIL:  return 0x7fffffu;
    case NIB_MX_RULE_EVEN_SOURCE:
        return r->source == NIB_DT_F16 ? ~0u : 1u << (r->element == NIB_EL_E2M3 ? 19 : 21);
    default: return ~0u;
    }
}

/* E2M1's scale byte; subnormal amax and 0 have exponent 0 and end in byte 0. */
NIB_HD uint32_t nib_e8m0_scale(float amax, uint32_t round)
{
    const int e = (int)((nib_bits_of(amax) + round) >> 23) - 2;
    return e > 0 ? (uint32_t)e : 0;
}

/* Ties and signs that differ from nearest even and the input's sign. */
struct CodeRules {
    float tie0, tie1, tie2; /* that nearest even sends up and the rule down; -1: none */
    float negative;         /* scaled elements below it are negative ... */
    bool  keep;             /* ... or, with this, those whose sign bit is set */
};

NIB_HD CodeRules nib_code_rules(const nib_block_rules *r)
{
    const bool down = r->ties == NIB_TIE_DOWN;
    CodeRules c = { down ? 0.75f : -1.0f, down ? 1.75f : -1.0f, down ? 3.5f : -1.0f, 0.0f, false };
    /* What rounds to 0 loses its sign: in f32 only 0 does, in f16 all up to 2^-25, in bf16 all up
     * to 2^-134; POSITIVE asks of E2M1, where 0.25 still does. */
    if (r->zero_sign == NIB_Z_KEEP) c.keep = true;
    if (r->zero_sign == NIB_Z_POSITIVE) c.negative = -0.25f;
    if (r->zero_sign == NIB_Z_MODELOPT) c.negative = nib_pow2(-149);
    if (r->zero_sign == NIB_Z_SOURCE && r->source == NIB_DT_F16) c.negative = -0x1p-25f;
    if (r->zero_sign == NIB_Z_SOURCE && r->source == NIB_DT_BF16) c.negative = -nib_pow2(-134);
    return c;
}

/* NIB_E2M1_SUM_0 + code with its sign, of scaled y. */
NIB_HD uint32_t nib_e2m1_signed_sum(const CodeRules &c, float y)
{
    const float a = fabsf(y);
    const bool  down = a == c.tie0 || a == c.tie1 || a == c.tie2;
    const bool  negative = c.keep ? nib_bits_of(y) >> 31 : y < c.negative;
    const uint32_t sum = nib_e2m1_sum(a) - (down ? 1 : 0);
    return negative ? sum + 8 : sum;
}

/* Byte of v's E4M3 scale before the rules' floor, and a byte's value: hardware's where there is. */
__device__ __forceinline__ uint32_t e4m3_byte(float v)
{
#if NIB_HAS_CVT_E4M3
    return nib_ptx::cvt_e4m3x2(v, 0.0f);
#else
    return nib_e4m3_from_f32(v);
#endif
}

__device__ __forceinline__ float e4m3_value(uint32_t byte)
{
#if NIB_HAS_CVT_E4M3
    return nib_ptx::cvt_f32_f16(nib_ptx::cvt_f16x2_e4m3x2(byte));
#else
    return nib_e4m3_to_f32(byte);
#endif
}

/* 16 elements as they lie in memory. */
template <int dtype> struct Unit {
    static constexpr int words = dtype == NIB_DT_F32 ? 16 : 8;
    uint32_t word[words];

    __device__ __forceinline__ void load(const uint8_t *p, bool aligned32)
    {
#if NIB_HAS_MEM32
        if (aligned32) {
            NIB_UNROLL
            for (int i = 0; i < words / 8; i++) {
                const nib_ptx::Bytes32 v = nib_ptx::ld_once((const nib_ptx::Bytes32 *)p + i);
                set(2 * i, v.lo), set(2 * i + 1, v.hi);
            }
            return;
        }
#endif
        (void)aligned32;
        NIB_UNROLL
        for (int i = 0; i < words / 4; i++) set(i, __ldg((const uint4 *)p + i));
    }

    /* The same of memory that this kernel writes, which read-only loads are not for. */
    __device__ __forceinline__ void load_written(const uint8_t *p)
    {
        NIB_UNROLL
        for (int i = 0; i < words / 4; i++) set(i, ((const uint4 *)p)[i]);
    }

    __device__ __forceinline__ void set(int i, uint4 v)
    {
        word[4 * i] = v.x, word[4 * i + 1] = v.y, word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
    }

    __device__ __forceinline__ float at(int i) const
    {
        if constexpr (dtype == NIB_DT_F32) {
            return nib_float_of(word[i]);
        } else if constexpr (dtype == NIB_DT_BF16) {
            return nib_float_of(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
        } else {
            return nib_ptx::cvt_f32_f16(i % 2 ? word[i / 2] >> 16 : word[i / 2]);
        }
    }

    static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b)
    {
        if constexpr (dtype == NIB_DT_BF16) return nib_ptx::max_abs_bf16x2(a, b);
        else return nib_ptx::max_abs_f16x2(a, b);
    }

    /* At least the sum of all squares of finite elements, and not much more: of halves, 4 times
     * that of the largest of each 4, which amax finds on its way. */
    __device__ __forceinline__ float square_bound() const
    {
        float sum = 0.0f;
        if constexpr (dtype == NIB_DT_F32) {
            NIB_UNROLL
            for (int i = 0; i < 16; i++) sum = fmaf(at(i), at(i), sum);
            return sum;
        } else {
            Unit most;
            most.word[0] = larger(larger(word[0], word[1]), larger(word[2], word[3]));
            most.word[1] = larger(larger(word[4], word[5]), larger(word[6], word[7]));
            NIB_UNROLL
            for (int i = 0; i < 4; i++) sum = fmaf(most.at(i), most.at(i), sum);
            return 4.0f * sum;
        }
    }

    /* Largest magnitude as the dtype's bits; NaN is above Inf. */
    __device__ __forceinline__ uint32_t amax() const
    {
        if constexpr (dtype == NIB_DT_F32) {
            uint32_t most = 0;
            NIB_UNROLL
            for (int i = 0; i < 16; i++) most = max(most, word[i] & 0x7fffffffu);
            return most;
        } else {
            const uint32_t a = larger(larger(word[0], word[1]), larger(word[2], word[3]));
            const uint32_t b = larger(larger(word[4], word[5]), larger(word[6], word[7]));
            const uint32_t both = larger(a, b);
            return larger(both, both >> 16) & 0x7fff;
        }
    }
    static constexpr uint32_t inf = dtype == NIB_DT_F32 ? NIB_F32_INF_BITS
                                  : dtype == NIB_DT_F16 ? 0x7c00 : 0x7f80;

    static __device__ __forceinline__ float amax_value(uint32_t bits)
    {
        if constexpr (dtype == NIB_DT_F32) return nib_float_of(bits);
        else if constexpr (dtype == NIB_DT_BF16) return nib_float_of(bits << 16);
        else return nib_ptx::cvt_f32_f16(bits);
    }

    /* Bit 3 of nibble i: the sign of element first + i; not_zero: of those that are not 0.
     *
     *   halves  | o0 e0 | o1 e1 | o2 e2 | o3 e3 |  (even elements are lower halves)
     *   byte i of the result: o[i]'s sign in bit 7, e[i]'s in bit 3 */
    template <bool not_zero> __device__ __forceinline__ uint32_t signs(int first) const
    {
        uint32_t even, odd;
        if constexpr (dtype == NIB_DT_F32) {
            uint32_t s[8];
            NIB_UNROLL
            for (int i = 0; i < 8; i++) { /* -0 + 0 is +0 */
                const float x = nib_float_of(word[first + i]);
                s[i] = nib_bits_of(not_zero ? x + 0.0f : x);
            }
            even = __byte_perm(__byte_perm(s[0], s[2], 0x73), __byte_perm(s[4], s[6], 0x73),
                               0x5410);
            odd = __byte_perm(__byte_perm(s[1], s[3], 0x73), __byte_perm(s[5], s[7], 0x73),
                              0x5410);
        } else {
            uint32_t s[4];
            NIB_UNROLL
            for (int i = 0; i < 4; i++) { /* the sum has a half's bit 15 unless it is 0 */
                const uint32_t w = word[first / 2 + i];
                s[i] = not_zero ? w & ((w & 0x7fff7fffu) + 0x7fff7fffu) : w;
            }
            const uint32_t a = __byte_perm(s[0], s[1], 0x7531);
            const uint32_t b = __byte_perm(s[2], s[3], 0x7531);
            even = __byte_perm(a, b, 0x6420);
            odd = __byte_perm(a, b, 0x7531);
        }
        return (odd & 0x80808080u) | (even >> 4 & 0x08080808u);
    }
};

/* How codes are made: by TransformerEngine's rules, by quotients where -0 becomes +0, or by any
 * ties and signs. */
enum Codes { CODES_PLAIN, CODES_DIVIDED, CODES_ANY };

/* Codes of elements first .. first + 7. */
template <int codes, int dtype>
__device__ __forceinline__ uint32_t codes8(const Unit<dtype> &unit, int first, float factor,
                                           float inverse, const CodeRules &rules)
{
    float y[8];
    uint32_t sums[8];
    NIB_UNROLL
    for (int i = 0; i < 8; i++) {
        const float x = unit.at(first + i);
        y[i] = codes == CODES_DIVIDED ? nib_quotient(x, factor, inverse) : x * factor;
    }
    if constexpr (codes == CODES_ANY) {
        NIB_UNROLL
        for (int i = 0; i < 8; i++) sums[i] = nib_e2m1_signed_sum(rules, y[i]);
        return nib_e2m1_word(sums);
    } else {
#if NIB_HAS_CVT_E2M1
        (void)sums;
        return nib_ptx::cvt_e2m1x2(y[0], y[1]) | nib_ptx::cvt_e2m1x2(y[2], y[3]) << 8
             | nib_ptx::cvt_e2m1x2(y[4], y[5]) << 16 | nib_ptx::cvt_e2m1x2(y[6], y[7]) << 24;
#else
        NIB_UNROLL
        for (int i = 0; i < 8; i++) sums[i] = nib_e2m1_sum(fabsf(y[i]));
        return nib_e2m1_word(sums) | unit.template signs<codes == CODES_DIVIDED>(first);
#endif
    }
}

#endif
