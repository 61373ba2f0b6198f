/* gemm_floor.cuh: E8M0 scales, 2^(e - 127) for any e, as factors of 16 bits.
 *
 * A warp has a floor f for each of its rows, a number like e. Weights are decoded relative to it,
 *
 *     code * 2^(e - f + c)          c: a kind's
 *
 * so the row's sums lack 2^(f - 127 - c), by which they are multiplied when all are added. While
 * 0 <= e - f <= span holds, four scales take one subtraction, and each then one permutation of
 * bytes. Where it does not for one of a warp's scales, the warp goes slowly, once: rows that have a
 * larger e get a higher floor, and their sums are multiplied by 2^(old - new); scales below the
 * floor have their factors as far as f16 has them, bf16's as if they were at it.
 *
 * A weight goes through f16 exactly from the row's largest e yet down to 22 below, with F16 sums to
 * 16 below; lower ones are off by 2^-23 of the largest scale at most, with F16 sums 2^-18. bf16's
 * are exact down to 119 below, and the row's largest stays near 1, so that products of small
 * activations do not underflow. That is within gemm.h's u. Scales of one row of trained weights are
 * presumably a few powers of two apart, so that its floor rises in the first tile and hardly again;
 * a row whose scales keep going below the floor is slow, and its warp with it.
 *
 * A floor depends on its row's scales in their order, not on tokens nor on other rows. */
#ifndef NIB_GEMM_FLOOR_CUH
#define NIB_GEMM_FLOOR_CUH

#include "gemm_decode.cuh"

/* The slow way: all four lanes that share a row come to the same floor. A NaN among a row's scales
 * makes its sums NaN, which they stay. */
template <class Kind, int tiles, class Rescale>
__device__ __forceinline__ void gemm_raise(GemmScales<tiles> *s, uint32_t (&floors)[tiles / 2],
                                           const Rescale &rescale)
{
    NIB_UNROLL
    for (int i = 0; i < tiles * 2; i++) {
        const int at = i % 4 * 8;
        const int e = (int)(s->word[i / 4] >> at & 255u), floor = (int)(floors[i / 4] >> at & 255u);
        int       top = e, other = __shfl_xor_sync(~0u, top, 1);
        top = other > top ? other : top;
        other = __shfl_xor_sync(~0u, top, 2);
        top = other > top ? other : top;
        const bool nan = top == (int)NIB_E8M0_NAN;
        const int  high = (top + Kind::above < 254 ? top + Kind::above : 254) - Kind::span;
        const int  raised = top > floor + Kind::span && !nan ? high : floor;
        const int  down = floor - raised > -126 ? floor - raised : -126;
        rescale(i / 2, i % 2, nib_float_of(nan ? NIB_F32_NAN_BITS : (uint32_t)(127 + down) << 23));
        const int least = Kind::dtype == NIB_DT_F16 ? -Kind::field : 0;
        const int d = e - raised < least ? least : e - raised;
        s->word[i / 4] = (s->word[i / 4] & ~(255u << at))
                       | (Kind::scale_bytes((uint32_t)(d < Kind::span ? d : Kind::span)) & 255u)
                             << at;
        floors[i / 4] = (floors[i / 4] & ~(255u << at)) | (uint32_t)raised << at;
    }
}

/* After the load, before Kind::pair_scale. rescale(row tile, h, by): multiplies the warp's f32 sums
 * of these rows; sums in f16 are not under way. The whole warp calls. */
template <class Kind, int tiles, class Rescale>
__device__ __forceinline__ void gemm_settle(GemmScales<tiles> *s, uint32_t (&floors)[tiles / 2],
                                            const Rescale &rescale)
{
    if constexpr (Kind::scale == GEMM_E8M0) {
        constexpr uint32_t within = Kind::span * 0x01010101u;
        uint32_t d[tiles / 2], all = 0;
        NIB_UNROLL
        for (int i = 0; i < tiles / 2; i++) {
            d[i] = s->word[i] - floors[i]; /* a byte below its floor takes 1 from the next: it is
                                              not within span itself */
            all |= d[i];
        }
        if (__any_sync(~0u, (all & ~within) != 0)) {
            gemm_raise<Kind>(s, floors, rescale);
        } else {
            NIB_UNROLL
            for (int i = 0; i < tiles / 2; i++) s->word[i] = Kind::scale_bytes(d[i]);
        }
    }
}

/* What the sums of a row lack in the end. */
template <class Kind>
__device__ __forceinline__ float gemm_row_factor(const uint32_t *floors, int i, int h)
{
    const uint32_t floor = floors[i / 2] >> (i % 2 * 2 + h) * 8 & 255u;
    return nib_float_of((floor + (uint32_t)(127 + Kind::row_log2)) << 23);
}

#endif
