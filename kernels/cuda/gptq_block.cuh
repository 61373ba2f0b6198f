/* gptq_block.cuh: NIB_GPTQ_STEPS steps of a row, by a warp: what it loads, a group's scale or the
 * step of its integers, each step of the sweep, and what it stores. */
#ifndef NIB_GPTQ_BLOCK_CUH
#define NIB_GPTQ_BLOCK_CUH

#include "gptq_scales.cuh"

namespace {

enum { STEPS = NIB_GPTQ_STEPS, EACH = STEPS / 32, WARPS = NIB_GPTQ_WARPS };
enum { FROZEN, FRESH, FRESH_HESSIAN }; /* how a block of threads gets scales */

/* Of A's part: element (s, t), s < t, lies at a[triangle_row(s) + t]. */
__device__ __forceinline__ int triangle_row(int s) { return s * (2 * STEPS - s - 3) / 2 - 1; }

enum { TRIANGLE = STEPS * (STEPS - 1) / 2 };

/* The step of the block that the group of step c begins with. */
__device__ __forceinline__ int group_begin(const GptqLayer &g, int64_t first, int c)
{
    const int32_t group = g.order[first + c] / g.block;
    while (c > 0 && g.order[first + c - 1] / g.block == group) c--;
    return c;
}

/* Where row i of the Hessian of the group that begins with step c lies: up to its diagonal. */
__device__ __forceinline__ int hessian_row(const GptqLayer &g, int c, int i)
{
    return c * (g.block / 2 + 1) + i * (i + 1) / 2;
}

/* A's part, and of each step's row of its group's Hessian what comes up to it. */
template <class T, int scales>
__device__ __forceinline__ void load_shared(const GptqLayer &g, int64_t first, int count, T *a,
                                            T *h)
{
    const T *const l = (const T *)g.l;
    const int64_t  top = g.k - 1 - first;
    for (int i = threadIdx.x; i < count * STEPS; i += NIB_GPTQ_THREADS) {
        const int s = i / STEPS, t = i % STEPS;
        if (s < t && t < count) a[triangle_row(s) + t] = l[(top - s) * g.l_ld + top - t];
    }
    if constexpr (scales == FRESH_HESSIAN) {
        const T *const all = (const T *)g.h;
        for (int c = threadIdx.x; c < count; c += NIB_GPTQ_THREADS) {
            const int     begin = group_begin(g, first, c);
            const int64_t p = g.order[first + c];
            for (int j = begin; j <= c; j++) {
                const int64_t q = g.order[first + j];
                h[hessian_row(g, begin, c - begin) + j - begin] =
                    p > q ? all[p * g.h_ld + q] : all[q * g.h_ld + p];
            }
        }
    }
}

/* What a lane has of its steps: of lane + 32 r. */
template <class T> struct Steps {
    T       target[EACH], w[EACH];
    float   factor[EACH], step[EACH];
    int32_t input[EACH];
};

template <class T>
__device__ __forceinline__ void set_scale(const GptqLayer &g, Steps<T> *s, int r, uint32_t byte)
{
    s->factor[r] = nib_block_unit_of(&g.math, byte).factor;
    s->step[r] = gptq_step(g, byte);
}

template <class T>
__device__ __forceinline__ void set_step(Steps<T> *s, int r, const nib_step &step)
{
    s->factor[r] = step.s;
    s->step[r] = step.low;
}

template <class T, int kind, int scales>
__device__ __forceinline__ void load_steps(const GptqLayer &g, int64_t row, int64_t first,
                                           int count, Steps<T> *s)
{
    const T *const d = (const T *)g.d + row * g.k + g.k - 1 - first;
    NIB_UNROLL
    for (int r = 0; r < EACH; r++) {
        const int  c = (int)threadIdx.x % 32 + 32 * r;
        const bool in = c < count;
        s->input[r] = in ? g.order[first + c] : 0;
        s->target[r] = in ? d[-c] : (T)0;
        s->w[r] = in ? (T)gptq_weight(g, row, s->input[r]) : (T)0;
        s->factor[r] = s->step[r] = 0.0f;
        if (kind == GPTQ_INTEGER && scales == FROZEN && in)
            set_step(s, r, gptq_frozen_step(g, row, s->input[r] / g.block));
        else if (scales == FROZEN && in)
            set_scale(g, s, r, g.tile_scales[row * g.groups + s->input[r] / g.block]);
    }
}

/* The scale of the group of n inputs that begins with step c: from what its targets would be if
 * none of them were rounded, which the published loop holds at this point. They differ from the
 * targets by what the weights' own changes carry on within the group. stage: 64 reals of the
 * warp's own. */
template <class T, int kind, int scales>
__device__ __forceinline__ void fresh_scale(const GptqLayer &g, int64_t row, int32_t group, int c,
                                            int n, T *stage, const T *a, const T *h, Steps<T> *s)
{
    const int lane = threadIdx.x % 32;
    __syncwarp(); /* what the last group's readers read */
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        const int at = lane + 32 * i - c;
        if (at >= 0 && at < n) stage[at] = s->target[i], stage[32 + at] = s->w[i];
    }
    __syncwarp();
    T       now = lane < n ? stage[lane] : (T)0;
    const T w = lane < n ? stage[32 + lane] : (T)0;
    NIB_NO_UNROLL
    for (int i = 0; i + 1 < n; i++) {
        const T change = __shfl_sync(GPTQ_ALL_LANES, w - now, i);
        if (lane > i && lane < n) now += change * a[triangle_row(c + i) + c + lane];
    }
    uint32_t byte;
    if constexpr (scales == FRESH_HESSIAN) {
        byte = gptq_choose_hessian<T, kind>(g, now, n, h + hessian_row(g, c, lane), lane);
    } else {
        float *const x = (float *)stage;
        __syncwarp();
        if (lane < n) x[lane] = (float)now;
        __syncwarp();
        byte = gptq_choose_plain<kind>(g, x, (float)now, n, lane);
    }
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        const int at = lane + 32 * i - c;
        if (at >= 0 && at < n) set_scale(g, s, i, byte);
    }
    if (!lane) g.tile_scales[row * g.groups + group] = (uint8_t)byte;
}

/* Steps [c, end) of now, those of register r, as they would be if none of them were rounded. */
template <class T, int r>
__device__ __forceinline__ void settle_steps(int c, int end, const T *a, const Steps<T> &s,
                                             T (&now)[EACH])
{
    const int lane = threadIdx.x % 32;
    NIB_NO_UNROLL
    for (c = max(c, 32 * r); c < min(end, 32 * r + 32); c++) {
        const T        change = __shfl_sync(GPTQ_ALL_LANES, s.w[r] - now[r], c % 32);
        const T *const part = a + triangle_row(c);
        NIB_UNROLL
        for (int i = r; i < EACH; i++) {
            const int t = lane + 32 * i;
            if (t > c && t < end) now[i] += change * part[t];
        }
    }
}

/* The largest -x and x of a group's numbers [c, end), for all lanes. */
template <class T>
__device__ __forceinline__ nib_grid_range range_of(const T (&v)[EACH], int c, int end)
{
    nib_grid_range range = { 0.0f, 0.0f };
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        const int t = (int)threadIdx.x % 32 + 32 * i;
        if (t >= c && t < end) range = nib_grid_range_add(range, (float)v[i]);
    }
    for (int by = 16; by; by /= 2) {
        range.below = fmaxf(range.below, __shfl_xor_sync(GPTQ_ALL_LANES, range.below, by));
        range.above = fmaxf(range.above, __shfl_xor_sync(GPTQ_ALL_LANES, range.above, by));
    }
    return range;
}

/* d h d^T of a group's numbers [c, end) by a step; input: theirs. Of H the caches have rows that
 * the block's other warps read too. */
template <class T>
__device__ __forceinline__ T weighted_steps(const GptqLayer &g, const T (&v)[EACH],
                                            const int32_t (&input)[EACH], int c, int end,
                                            const nib_step &step)
{
    const int      lane = threadIdx.x % 32;
    const T *const h = (const T *)g.h;
    T              d[EACH], twice[EACH], sum = (T)0;
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        uint32_t code;
        d[i] = v[i] - (T)gptq_rounded<GPTQ_INTEGER>(g, (float)v[i], step.s, step.low, &code);
        twice[i] = (T)0;
    }
    NIB_UNROLL
    for (int r = 0; r < EACH; r++) {
        NIB_NO_UNROLL
        for (int b = max(c, 32 * r); b < min(end, 32 * r + 32); b++) {
            const T       other = __shfl_sync(GPTQ_ALL_LANES, d[r], b % 32);
            const int64_t q = __shfl_sync(GPTQ_ALL_LANES, input[r], b % 32);
            NIB_UNROLL
            for (int i = r; i < EACH; i++) {
                const int     t = lane + 32 * i;
                const int64_t p = input[i];
                if (t > b && t < end)
                    twice[i] += h[p > q ? p * g.h_ld + q : q * g.h_ld + p] * other;
            }
        }
    }
    NIB_UNROLL
    for (int r = 0; r < EACH; r++) {
        const int t = lane + 32 * r;
        const T   own = t >= c && t < end ? h[input[r] * (g.h_ld + 1)] : (T)0;
        const T   term = d[r] * (own * d[r] + (twice[r] + twice[r]));
        NIB_NO_UNROLL
        for (int b = max(c, 32 * r); b < min(end, 32 * r + 32); b++)
            sum += __shfl_sync(GPTQ_ALL_LANES, term, b % 32);
    }
    return sum;
}

/* The step of a group's numbers [c, end) by the dynamic rule; by_hessian: the best of some. */
template <class T, bool by_hessian>
__device__ __forceinline__ nib_step choose_step(const GptqLayer &g, const T (&v)[EACH],
                                                const int32_t (&input)[EACH], int c, int end)
{
    const nib_grid_range range = range_of(v, c, end);
    nib_step best = nib_step_dynamic(&g.grid, g.asymmetric, g.rule, 1.0f, range);
    if constexpr (by_hessian) {
        T least = weighted_steps(g, v, input, c, end, best);
        NIB_NO_UNROLL
        for (int i = 1; i < NIB_GRID_SHRINKS; i++) {
            const nib_step step = nib_step_dynamic(&g.grid, g.asymmetric, g.rule, 1.0f,
                                                   nib_grid_shrunk(range, i));
            const T        loss = weighted_steps(g, v, input, c, end, step);
            if (loss < least) least = loss, best = step;
        }
    }
    return best;
}

__device__ __forceinline__ void store_step(const GptqLayer &g, int64_t row, int64_t group,
                                           const nib_step &step)
{
    if (threadIdx.x % 32) return;
    g.tile_steps[row * g.groups + group] = step.s;
    g.tile_lows[row * g.groups + group] = step.low;
}

/* The step of the group of integers that are steps [c, end), likewise; groups of up to a block. */
template <class T, bool by_hessian>
__device__ __forceinline__ void fresh_step(const GptqLayer &g, int64_t row, int32_t group, int c,
                                           int end, const T *a, Steps<T> *s)
{
    T now[EACH];
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) now[i] = s->target[i];
    static_assert(EACH == 4, "these are all");
    settle_steps<T, 0>(c, end, a, *s, now);
    settle_steps<T, 1>(c, end, a, *s, now);
    settle_steps<T, 2>(c, end, a, *s, now);
    settle_steps<T, 3>(c, end, a, *s, now);
    const nib_step step = choose_step<T, by_hessian>(g, now, s->input, c, end);
    NIB_UNROLL
    for (int i = 0; i < EACH; i++) {
        const int t = (int)threadIdx.x % 32 + 32 * i;
        if (t >= c && t < end) set_step(s, i, step);
    }
    store_step(g, row, group, step);
}

/* Steps [c, end), those of register r: each lane rounds a step of its own, of which step c's is
 * right, and an earlier one's comes out as before. */
template <class T, int kind, int r>
__device__ __forceinline__ void take_steps(const GptqLayer &g, int c, int end, int count,
                                           const T *a, Steps<T> *s)
{
    const int lane = threadIdx.x % 32;
    NIB_NO_UNROLL
    for (c = max(c, 32 * r); c < min(end, 32 * r + 32); c++) {
        uint32_t    code;
        const float q = gptq_rounded<kind>(g, (float)s->target[r], s->factor[r], s->step[r],
                                                 &code);
        const T        d = __shfl_sync(GPTQ_ALL_LANES, s->w[r] - (T)q, c % 32);
        const T *const part = a + triangle_row(c);
        NIB_UNROLL
        for (int i = r; i < EACH; i++) {
            const int t = lane + 32 * i;
            if (t > c && t < count) s->target[i] += d * part[t];
        }
    }
}

/* Codes and d of a lane's steps. Returns what they add to the row's error: of H', less what the
 * diagonal had added. */
template <class T, int kind>
__device__ __forceinline__ double store_steps(const GptqLayer &g, int64_t row, int64_t first,
                                              int count, const Steps<T> &s)
{
    double error = 0.0;
    NIB_UNROLL
    for (int r = 0; r < EACH; r++) {
        const int c = (int)threadIdx.x % 32 + 32 * r;
        if (c >= count) continue;
        uint32_t      code;
        const float   q = gptq_rounded<kind>(g, (float)s.target[r], s.factor[r], s.step[r],
                                                   &code);
        const int64_t col = g.k - 1 - first - c, p = s.input[r];
        const double  pivot = (double)((const T *)g.l)[col * g.l_ld + col];
        const T       own = ((const T *)g.h)[p * g.h_ld + p];
        const T       e = s.target[r] - (T)q, d = s.w[r] - (T)q;
        if (own != (T)0) /* dead inputs are no part of an error */
            error += (double)(e * (e * (T)(pivot * pivot))) - (double)(d * (d * (T)g.added));
        ((T *)g.d)[row * g.k + col] = d;
        g.tile_codes[row * g.k + p] = (uint8_t)code;
    }
    return error;
}

} // namespace

#endif
