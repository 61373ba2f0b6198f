/* gptq_scales.cuh: a block's scale chosen by a warp. The numbers and their order are those of
 * nib_block_search and of the CPU's gptq_lanes.h. */
#ifndef NIB_GPTQ_SCALES_CUH
#define NIB_GPTQ_SCALES_CUH

#include "gptq_layer.cuh"

#define GPTQ_ALL_LANES 0xffffffffu

/* Of n finite elements, one a lane. */
__device__ __forceinline__ float gptq_amax(float x, int n, int lane)
{
    return nib_float_of(__reduce_max_sync(GPTQ_ALL_LANES, lane < n ? nib_magnitude_bits(x) : 0u));
}

/* Scale byte of candidate i >= 1 of a search, or -1 for none. */
__device__ __forceinline__ int gptq_candidate(const GptqLayer &g, bool full, uint32_t base, int i)
{
    const int e4m3 = g.math.rules.e4m3_scale, first = e4m3 ? 1 : 0;
    const int last = e4m3 ? (int)NIB_E4M3_LAST : 254;
    const int byte = full ? first + i - 1
                          : (int)base + nib_mse_offset(g.math.rules.element, e4m3, i);
    return byte < first || byte > last ? -1 : byte;
}

__device__ __forceinline__ int gptq_candidates(const GptqLayer &g, bool full)
{
    const int e4m3 = g.math.rules.e4m3_scale;
    return !full ? nib_mse_candidates(e4m3) : e4m3 ? (int)NIB_E4M3_LAST + 1 : 256;
}

/* nib_block_error of finite x, whose eight sums would lie in memory: their number is not known. */
template <int kind>
__device__ __forceinline__ float gptq_error(const GptqLayer &g, const float *x, int n,
                                            uint32_t byte, bool absolute)
{
    const float factor = nib_block_unit_of(&g.math, byte).factor, step = gptq_step(g, byte);
    float       p[8] = { 0 };
    NIB_NO_UNROLL
    for (int first = 0; first < n; first += 8) {
        NIB_UNROLL
        for (int i = 0; i < 8; i++) {
            uint32_t code;
            if (first + i >= n) continue;
            const float v = x[first + i];
            const float d = v - gptq_rounded<kind>(g, v, factor, step, &code);
            p[i] += absolute ? nib_abs(d) : d * d;
        }
    }
    return nib_sum8(p);
}

/* nib_block_search of the n elements of x, which all lanes can read, a candidate a lane. own: the
 * lane's element. */
template <int kind>
__device__ __forceinline__ uint32_t gptq_choose_plain(const GptqLayer &g, const float *x, float own,
                                                      int n, int lane)
{
    const float    amax = gptq_amax(own, n, lane);
    const uint32_t base = nib_block_scale(&g.math, amax);
    if (g.choice == NIB_SC_AMAX || !(amax > 0.0f)) return base;
    const bool four_over_six = g.choice == NIB_SC_46_MSE || g.choice == NIB_SC_46_MAE;
    const bool full = g.choice == NIB_SC_MSE_FULL;
    const int  tries = four_over_six ? 2 : gptq_candidates(g, full);
    int        best = 0;
    uint32_t   byte = base;
    float      least = (float)INFINITY;
    NIB_NO_UNROLL
    for (int i = lane; i < tries; i += 32) {
        const int tried = !i ? (int)base
                        : four_over_six
                            ? (int)nib_e4m3_scale_byte(
                                  &g.math, 1.5f * nib_block_scale_value(&g.math, amax))
                            : gptq_candidate(g, full, base, i);
        if (tried < 0) continue;
        const float error = gptq_error<kind>(g, x, n, (uint32_t)tried,
                                                   g.choice == NIB_SC_46_MAE);
        if (i != lane && !(error < least)) continue;
        least = error, best = i, byte = (uint32_t)tried;
    }
    if (lane >= tries) best = tries;
    /* Nothing is less than amax's NaN. Else the least, the first of equals. */
    if (nib_is_nan(__shfl_sync(GPTQ_ALL_LANES, least, 0))) return base;
    if (nib_is_nan(least)) least = (float)INFINITY, best = tries;
    for (int by = 16; by; by /= 2) {
        const float    other = __shfl_xor_sync(GPTQ_ALL_LANES, least, by);
        const int      at = __shfl_xor_sync(GPTQ_ALL_LANES, best, by);
        const uint32_t its = __shfl_xor_sync(GPTQ_ALL_LANES, byte, by);
        if (other < least || (other == least && at < best)) least = other, best = at, byte = its;
    }
    return byte;
}

/* d h d^T of n elements v under a scale: lane i has element i, and row i of h's lower triangle. */
template <class T, int kind>
__device__ __forceinline__ T gptq_weighted(const GptqLayer &g, T v, int n, const T *h, int lane,
                                           uint32_t byte)
{
    uint32_t    code;
    const float factor = nib_block_unit_of(&g.math, byte).factor;
    const float q = gptq_rounded<kind>(g, (float)v, factor, gptq_step(g, byte), &code);
    const T     d = v - (T)q;
    T           twice = (T)0, sum = (T)0;
    for (int b = 0; b + 1 < n; b++) {
        const T other = __shfl_sync(GPTQ_ALL_LANES, d, b);
        if (b < lane && lane < n) twice += h[b] * other;
    }
    const T term = lane < n ? d * (h[lane] * d + (T)2 * twice) : (T)0;
    for (int c = 0; c < n; c++) sum += __shfl_sync(GPTQ_ALL_LANES, term, c);
    return sum;
}

/* The scale by the Hessian of the block's inputs, likewise. */
template <class T, int kind>
__device__ __forceinline__ uint32_t gptq_choose_hessian(const GptqLayer &g, T v, int n, const T *h,
                                                        int lane)
{
    const uint32_t base = nib_block_scale(&g.math, gptq_amax((float)v, n, lane));
    const int      tries = gptq_candidates(g, g.full != 0);
    uint32_t       best = base;
    T              least = (T)0;
    NIB_NO_UNROLL
    for (int i = 0; i < tries; i++) {
        const int byte = i ? gptq_candidate(g, g.full != 0, base, i) : (int)base;
        if (byte < 0) continue;
        const T loss = gptq_weighted<T, kind>(g, v, n, h, lane, (uint32_t)byte);
        if (!i || loss < least) least = loss, best = (uint32_t)byte;
    }
    return best;
}

#endif
