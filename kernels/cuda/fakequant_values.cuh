/* fakequant_values.cuh: 16 elements to the values that their E2M1 codes would have, and which of
 * them the largest value clamps. Held to kernels/common by tests/emu/fakequant_emu_test.cu. */
#ifndef NIB_FAKEQUANT_VALUES_CUH
#define NIB_FAKEQUANT_VALUES_CUH

#include "dequantize_values.cuh"
#include "quantize_codes.cuh"

/* A vector's values: elements first .. first + 16 / size - 1 of finite blocks by a finite step.
 * codes, factor, inverse, rules: as for codes8. !clamps: nothing is scaled to 7 or more. */
template <int codes, bool clamps, int dtype>
__device__ __forceinline__ uint4 fake_values(const Unit<dtype> &unit, int first, float factor,
                                             float inverse, float step, const CodeRules &rules)
{
    constexpr int n = dtype == NIB_DT_F32 ? 4 : 8;
    if constexpr (codes == CODES_ANY) {
        const uint32_t word = codes8<codes>(unit, first & 8, factor, inverse, rules);
        return e2m1_values<dtype>(word >> 4 * (first & 7), step);
    } else {
        float    v[n];
        uint32_t out[4];
        NIB_UNROLL
        for (int i = 0; i < n; i++) {
            const float x = unit.at(first + i);
            const float y = codes == CODES_DIVIDED ? nib_quotient(x, factor, inverse) : x * factor;
            const float a = clamps ? nib_e2m1_nearest(fabsf(y)) : nib_e2m1_nearest_below7(fabsf(y));
            v[i] = a * step;
        }
        NIB_UNROLL
        for (int i = 0; i < 4; i++) { /* rounding does not know the signs */
            if constexpr (dtype == NIB_DT_F32) {
                const uint32_t w = unit.word[first + i];
                const bool     zero = codes == CODES_DIVIDED && w << 1 == 0;
                out[i] = nib_bits_of(v[i]) | (zero ? 0 : w & 0x80000000u);
            } else {
                const uint32_t w = unit.word[first / 2 + i];
                const uint32_t signs = codes != CODES_DIVIDED
                    ? w : w & ((w & 0x7fff7fffu) + 0x7fff7fffu); /* see Unit::signs */
                out[i] = pack_halves<dtype>(v[2 * i], v[2 * i + 1]) | (signs & 0x80008000u);
            }
        }
        return make_uint4(out[0], out[1], out[2], out[3]);
    }
}

/* Bit i: element i is not clamped. */
template <int dtype>
__device__ __forceinline__ uint32_t fake_passes(const Unit<dtype> &unit, float limit)
{
    uint32_t bits = 0;
    NIB_UNROLL
    for (int i = 0; i < 16; i++) bits |= nib_is_clamped(unit.at(i), limit) ? 0 : 1u << i;
    return bits;
}

/* The elements of a vector that bits lets pass, the first by bit 0; zeros for the others. size: of
 * an element, 2 or 4. */
template <int size> __device__ __forceinline__ uint4 fake_keep(uint4 v, uint32_t bits)
{
    const uint32_t word[4] = { v.x, v.y, v.z, v.w };
    uint32_t out[4];
    NIB_UNROLL
    for (int i = 0; i < 4; i++) {
        if constexpr (size == 4) {
            out[i] = bits >> i & 1 ? word[i] : 0;
        } else {
            const uint32_t lo = bits >> (2 * i) & 1 ? 0xffffu : 0;
            const uint32_t hi = bits >> (2 * i + 1) & 1 ? 0xffff0000u : 0;
            out[i] = word[i] & (lo | hi);
        }
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

#endif
