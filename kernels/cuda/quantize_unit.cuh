/* quantize_unit.cuh: 16 elements in registers to codes and a scale, whatever is among them, by the
 * two usual ways: what transforms and groups do at the end. quantize_e2m1 does the same of blocks
 * that are finite, and reads the others again; here a source may be nowhere. */
#ifndef NIB_QUANTIZE_UNIT_CUH
#define NIB_QUANTIZE_UNIT_CUH

#include "quantize_ways.cuh"

/* Largest finite magnitude as the dtype's bits. Every NaN becomes the positive one, whose code has
 * no sign. */
template <int dtype> __device__ __forceinline__ uint32_t finite_amax(Unit<dtype> &x)
{
    constexpr uint32_t inf = Unit<dtype>::inf;
    uint32_t most = 0;
    NIB_UNROLL
    for (int i = 0; i < Unit<dtype>::words; i++) {
        const uint32_t w = x.word[i];
        if constexpr (dtype == NIB_DT_F32) {
            const uint32_t m = w & 0x7fffffffu;
            most = m < inf ? max(most, m) : most;
            x.word[i] = m > inf ? NIB_F32_NAN_BITS : w;
        } else {
            const uint32_t low = w & 0x7fff, high = w >> 16 & 0x7fff;
            most = low < inf ? max(most, low) : most;
            most = high < inf ? max(most, high) : most;
            x.word[i] = (low > inf ? 0x7fff : w & 0xffff)
                      | (high > inf ? 0x7fff0000u : w & 0xffff0000u);
        }
    }
    return most;
}

/* Of a unit's block: with the neighbour's lane if the block is of two; square: with the lanes of 16
 * rows, which are every second one. */
template <bool square>
__device__ __forceinline__ uint32_t block_most(const QuantizeJob &job, uint32_t most)
{
    if (job.lane_shift) most = max(most, __shfl_xor_sync(~0u, most, 1));
    NIB_UNROLL
    for (int other = 2; square && other < 32; other *= 2) {
        most = max(most, __shfl_xor_sync(~0u, most, other));
    }
    return most;
}

/* Where elements may be left without a factor of 1/4 or 1/8, a fold, that belongs to them: the
 * same codes come of it if amax and the block's factor are multiplied instead. Products by a power
 * of two are exact but near the dtype's limits: amax as the dtype's bits is to be from least on,
 * and what is subnormal then has code 0 if the block's factor is at most this. */
template <int dtype> struct FoldLimits {
    static constexpr uint32_t least = dtype == NIB_DT_F32 ? 16u << 23
                                    : dtype == NIB_DT_F16 ? 16u << 10 : 16u << 7;
    static constexpr float most_factor = dtype == NIB_DT_F16 ? 0x1p10f : 0x1p120f;
    static constexpr float least_factor = 0x1p-100f;
};

/* A unit of a block. All lanes of a warp call, those without a unit of their own with zeros or
 * another's and present false.
 *
 *   leads     stores the block's scale, of its row
 *   square    every second lane of a warp has a row's; without a unit: zeros
 *   largest   raised to the block's largest finite magnitude
 *   factor_of gives a byte's block_factor
 *   folded    x is to be multiplied by fold and rounded, which is what unfold returns */
template <int dtype, int way, bool folded, bool square, class Factor, class Unfold>
__device__ __forceinline__ void quantize_folded(const QuantizeJob &job, const nib_tensor_math &math,
                                                Factor factor_of, Unit<dtype> &x, float fold,
                                                Unfold unfold, bool present, bool leads,
                                                uint8_t *scale_wr, uint8_t *codes_wr,
                                                float &largest)
{
    static_assert(way == WAY_TE || way == WAY_MX, "ties to even, the input's sign");
    constexpr uint32_t inf = Unit<dtype>::inf;
    constexpr uint32_t least = folded ? FoldLimits<dtype>::least : 0;
    uint32_t most = block_most<square>(job, x.amax());
    bool     is_odd = most - least >= inf - least, is_nan = false;
    if (square || job.lane_shift) is_odd = __any_sync(~0u, is_odd); /* block_most is a warp's */
    if (is_odd) {
        if constexpr (folded) x = unfold(), fold = 1.0f, most = block_most<square>(job, x.amax());
        is_nan = most >= inf && math.rules.nonfinite == NIB_NF_NAN;
        most = block_most<square>(job, finite_amax(x));
    }
    const float amax = folded ? Unit<dtype>::amax_value(most) * fold
                              : Unit<dtype>::amax_value(most);
    if (present) largest = fmaxf(largest, amax);
    uint32_t byte = block_byte<way>(job, math, amax);
    float    factor = factor_of(byte);
    uint2    words = make_uint2(0, 0);
    if constexpr (folded) {
        const bool far = !(factor >= FoldLimits<dtype>::least_factor
                           && factor <= FoldLimits<dtype>::most_factor);
        if (far) x = unfold();
        else factor *= fold;
    }
    if (is_nan) {
        byte = nib_scale_nan_byte(math.rules.e4m3_scale);
    } else {
        words.x = codes8<CODES_PLAIN>(x, 0, factor, 0.0f, job.codes_rules);
        words.y = codes8<CODES_PLAIN>(x, 8, factor, 0.0f, job.codes_rules);
    }
    if (present && leads) *scale_wr = (uint8_t)byte;
    if (present) *(uint2 *)codes_wr = words;
}

template <int dtype, int way, bool square>
__device__ __forceinline__ void quantize_unit(const QuantizeJob &job, const nib_tensor_math &math,
                                              Unit<dtype> &x, bool present, bool leads,
                                              uint8_t *scale_wr, uint8_t *codes_wr,
                                              float &largest)
{
    quantize_folded<dtype, way, false, square>(
        job, math, [&](uint32_t byte) { return block_factor<way>(math, byte); }, x, 1.0f,
        [&] { return x; }, present, leads, scale_wr, codes_wr, largest);
}

/* Where the scale of column k lies from its row's first one. */
NIB_HD int64_t scale_column(const QuantizeJob &job, unsigned k)
{
    return job.swizzled ? (int64_t)(k >> 2) * 512 + (k & 3) : k;
}

/* ---- launching ---- */

/* Whether quantize_unit does these rules, for a matrix of whole blocks: its way, or -1. */
static inline int unit_way(const QuantizeJob *job)
{
    const int  way = way_of(&job->rules), block = job->rules.block;
    const bool fits = (way == WAY_TE || way == WAY_MX) && job->rules.element == NIB_EL_E2M1
                   && (block == 16 || block == 32) && job->choice == NIB_SC_AMAX
                   && !job->stochastic && !job->halves && job->cols > 0 && job->cols % block == 0
                   && aligned(job->codes, job->codes_ld, 0, 8) && job->padded_rows <= INT32_MAX
                   && job->cols <= INT32_MAX;
    return fits ? way : -1;
}

/* What every launch of a single matrix says: see QuantizeJob. */
static inline void unit_job(const nib_matrix *src, const nib_quantize_request *request,
                            const nib_packed *dst, QuantizeJob *job)
{
    job->rules = nib_block_rules_of(dst->format, &request->rules, request->scale_choice,
                                    src->dtype);
    job->choice = (int)request->scale_choice;
    job->stochastic = request->rounding == NIB_ROUND_STOCHASTIC;
    job->bits = nib_part_bits(dst->format);
    job->halves = dst->code_order == NIB_CODES_GGUF_HALVES;
    job->swizzled = dst->scale_layout == NIB_SCALES_SWIZZLED_128X4;
    job->lane_shift = job->rules.block == 32;
    job->round = nib_e8m0_round(&job->rules);
    job->codes_rules = nib_code_rules(&job->rules);
    job->codes = dst->codes;
    job->scales = dst->scales;
    job->tensor_scale = dst->tensor_scale;
    job->tensor_amax = request->tensor_amax;
    job->random = request->random;
    job->scale_cols = job->padded_cols = nib_ceil_div(dst->cols, job->rules.block);
    if (job->swizzled) {
        job->padded_rows = nib_ceil_div(job->rows, 128) * 128;
        job->padded_cols = nib_ceil_div(job->scale_cols, 4) * 4;
    }
    job->codes_ld = dst->ld_codes_bytes;
    job->count = job->x_next = 1;
    job->scale_rows = request->scale_rows > 1 ? request->scale_rows : 1;
}

#endif
