/* steps_job.cuh: what the kernels of steps.h are told, and eight elements: their range, values and
 * gradients. Held to kernels/common/grid.h by tests/emu/steps_emu_test.cu. */
#ifndef NIB_STEPS_JOB_CUH
#define NIB_STEPS_JOB_CUH

#include "fakequant_job.cuh"
#include "fakequant_values.cuh"
#include "kernels/common/grid.h"

/* Instead of a dtype: matrices of any, at any address. */
enum { ANY_DTYPE = 3 };

struct StepJob {
    nib_grid       grid;
    int            dtype, out_dtype, grad_dtype;
    int            asymmetric, rule, whole, clamp;
    int            shift;        /* log2 of a team's lanes; of given steps: of group_runs, or -1 */
    int            run_units;    /* of steps_units: that a thread has */
    const uint8_t *x, *grad;
    uint8_t       *out;          /* NULL: gradients that stay where they are */
    uint8_t       *mask;
    const float   *steps, *range, *tensor_scale;
    const int8_t  *zeros;
    float         *steps_out;
    int8_t        *zeros_out;
    float         *sums;         /* of pieces; with final, times factor: the gradients of steps */
    float         *grad_steps;
    int            final;
    float          factor, last_factor; /* of a group, and of a row's last one */
    int64_t        rows, cols, row_tiles;
    int64_t        group, group_units, group_runs; /* elements, units and runs of a group */
    int64_t        groups;       /* of a row */
    int64_t        pieces;       /* of a group; for steps_sum: of a step */
    int64_t        x_ld, grad_ld, out_ld, mask_ld; /* in bytes */
};

/* Eight elements as they lie in memory; of ANY_DTYPE, as f32. */
template <int dtype> struct Octet {
    static constexpr bool half = dtype == NIB_DT_F16 || dtype == NIB_DT_BF16;
    static constexpr int  words = half ? 4 : 8;
    uint32_t word[words];

    /* The first n of those at column col of row, zeros behind them. is: their dtype. */
    __device__ __forceinline__ void load(int is, const uint8_t *row, int64_t col, int n)
    {
        if (dtype != ANY_DTYPE && n == NIB_GRID_UNIT) {
            const uint4 *const p = (const uint4 *)(row + col * (half ? 2 : 4));
            NIB_UNROLL
            for (int i = 0; i < words / 4; i++) {
                const uint4 v = p[i];
                word[4 * i] = v.x, word[4 * i + 1] = v.y;
                word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
            }
            return;
        }
        NIB_UNROLL
        for (int i = 0; i < words; i++) word[i] = 0;
        NIB_UNROLL
        for (int i = 0; i < NIB_GRID_UNIT; i++) {
            if (i >= n) continue;
            if constexpr (half) {
                word[i / 2] |= (uint32_t)((const uint16_t *)row)[col + i] << i % 2 * 16;
            } else {
                word[i] = dtype == NIB_DT_F32 ? ((const uint32_t *)row)[col + i]
                                              : nib_bits_of(nib_load_f32(is, row, col + i));
            }
        }
    }

    __device__ __forceinline__ float at(int i) const
    {
        if constexpr (dtype == NIB_DT_BF16) {
            return nib_float_of(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
        } else if constexpr (dtype == NIB_DT_F16) {
            return nib_ptx::cvt_f32_f16(i % 2 ? word[i / 2] >> 16 : word[i / 2]);
        } else {
            return nib_float_of(word[i]);
        }
    }

    /* Largest magnitude as the dtype's bits; NaN is above Inf. */
    __device__ __forceinline__ uint32_t most() const
    {
        if constexpr (half) {
            using U = Unit<dtype>;
            const uint32_t both = U::larger(U::larger(word[0], word[1]),
                                            U::larger(word[2], word[3]));
            return U::larger(both, both >> 16) & 0x7fff;
        } else {
            uint32_t m = 0;
            NIB_UNROLL
            for (int i = 0; i < 8; i++) m = max(m, word[i] & 0x7fffffffu);
            return m;
        }
    }

    /* Whether no magnitude is over 2^60, and none NaN. */
    __device__ __forceinline__ bool is_moderate() const
    {
        return most() <= (dtype == NIB_DT_BF16 ? 0x5d80u
                          : dtype == NIB_DT_F16 ? 0x7bffu : 0x5d800000u);
    }

    /* Adds to a range, of which steps that are not asymmetric want only the larger part. fmaxf lets
     * NaN pass by; the rule, which looks at each element, Inf too. */
    __device__ __forceinline__ nib_grid_range add_range(nib_grid_range r, bool asymmetric) const
    {
        nib_grid_range sum = r;
        if (!asymmetric) {
            const uint32_t m = most();
            sum.above = fmaxf(sum.above, Unit<half ? dtype : NIB_DT_F32>::amax_value(m));
            if (m < Unit<half ? dtype : NIB_DT_F32>::inf) return sum;
        } else {
            NIB_UNROLL
            for (int i = 0; i < NIB_GRID_UNIT; i++) {
                sum.above = fmaxf(sum.above, at(i));
                sum.below = fmaxf(sum.below, -at(i));
            }
            if (fmaxf(sum.above, sum.below) <= NIB_F32_MAX) return sum;
        }
        NIB_UNROLL
        for (int i = 0; i < NIB_GRID_UNIT; i++) r = nib_grid_range_add(r, at(i));
        return r;
    }
};

/* A step for many elements: fast: their quotients come from the inverse. */
template <int dtype> struct StepUse {
    nib_step step;
    float    inverse;
    bool     fast;

    __device__ __forceinline__ explicit StepUse(const nib_step &s) : step(s)
    {
        const float most = dtype == NIB_DT_F32 ? 1.0f : dtype == NIB_DT_BF16 ? 0x1p16f : 0x1p60f;
        fast = dtype != ANY_DTYPE && s.s >= 0x1p-60f && s.s <= most;
        inverse = dtype != ANY_DTYPE ? 1.0f / s.s : 0.0f;
    }
};

/* RN(x / s) for |x| <= 2^60 and s as StepUse wants it, inverse = RN(1 / s). The first residual is
 * exact and leaves an error of less than an ulp; by Markstein's theorem (IBM J. Res. Dev. 34, 1990)
 * the second then rounds correctly. Where residuals underflow, |x / s| < 2^-40: the result is still
 * as small, and negative exactly if x is; s is not so large that it becomes 0. But -0 gives +0. */
NIB_HD float nib_step_quotient(float x, float s, float inverse)
{
    const float q = x * inverse, p = fmaf(fmaf(-q, s, x), inverse, q);
    return fmaf(fmaf(-p, s, x), inverse, p);
}

/* Values of a whole unit that is_moderate; with wants_passes, bit i: element i is not clamped. */
template <int dtype, bool floats>
__device__ __forceinline__ uint32_t values_of(const nib_grid &grid, const StepUse<dtype> &use,
                                              const Octet<dtype> &x, float (&value)[8],
                                              bool wants_passes)
{
    float y[8];
    NIB_UNROLL
    for (int i = 0; i < NIB_GRID_UNIT; i++) {
        const float    e = x.at(i);
        const uint32_t sign = nib_bits_of(e) & 0x80000000u;
        y[i] = nib_step_quotient(e, use.step.s, use.inverse);
        const float v = floats ? nib_float_of(nib_bits_of(nib_grid_magnitude(&grid, fabsf(y[i])))
                                              | sign)
                               : nib_grid_integer(use.step, y[i]);
        value[i] = v * use.step.s;
    }
    if (!wants_passes) return 0;
    uint32_t passes = 0;
    NIB_UNROLL
    for (int i = 0; i < NIB_GRID_UNIT; i++) {
        passes |= nib_grid_is_clamped(use.step, y[i]) ? 0 : 1u << i;
    }
    return passes;
}

/* n of grad_out's elements from column col on, those of passes; the others are 0. */
template <int dtype>
__device__ __forceinline__ void pass_unit(const StepJob &job, const Octet<dtype> &g, int64_t row,
                                          int64_t col, int n, uint32_t passes)
{
    uint8_t *const       out = job.out + row * job.out_ld;
    const uint8_t *const grad = job.grad + row * job.grad_ld;
    if (dtype != ANY_DTYPE && n == NIB_GRID_UNIT) {
        constexpr int size = Octet<dtype>::half ? 2 : 4, count = 16 / size;
        uint4 *const  to = (uint4 *)(out + col * size);
        NIB_UNROLL
        for (int i = 0; i < 8 / count; i++) {
            const uint4 v = make_uint4(g.word[4 * i], g.word[4 * i + 1], g.word[4 * i + 2],
                                       g.word[4 * i + 3]);
            to[i] = fake_keep<size>(v, passes >> (i * count));
        }
        return;
    }
    NIB_NO_UNROLL
    for (int i = 0; i < n; i++) pass_element(job, grad, out, col + i, passes >> i & 1);
}

/* n elements of any kind from column col on, one by one. */
template <int dtype, bool gradient>
__device__ __forceinline__ void use_step_on_each(const StepJob &job, const nib_step &step,
                                                 int64_t row, int64_t col, int n)
{
    const int            from = dtype == ANY_DTYPE ? job.dtype : dtype;
    const uint8_t *const x = job.x + row * job.x_ld, *const grad = job.grad + row * job.grad_ld;
    uint8_t *const       out = job.out + row * job.out_ld;
    uint32_t             mask = 0;
    NIB_NO_UNROLL
    for (int i = 0; i < n; i++) {
        const float y = nib_load_f32(from, x, col + i) / step.s;
        const bool  passes = !nib_grid_is_clamped(step, y);
        mask |= (uint32_t)passes << i;
        if (gradient) pass_element(job, grad, out, col + i, passes);
        else nib_store_f32(dtype == ANY_DTYPE ? job.out_dtype : dtype, out, col + i,
                           nib_grid_nearest(&job.grid, step, y) * step.s);
    }
    if (!gradient && job.mask) job.mask[row * job.mask_ld + col / 8] = (uint8_t)mask;
}

/* The unit's values and mask, or with gradient what passes of grad_out. x: the unit, if it is
 * whole and of a known dtype. */
template <int dtype, bool gradient>
__device__ __forceinline__ void use_step(const StepJob &job, const StepUse<dtype> &use,
                                         const Octet<dtype> &x, int64_t row, int64_t col, int n)
{
    if (dtype == ANY_DTYPE || n != NIB_GRID_UNIT || !use.fast || !x.is_moderate()) {
        use_step_on_each<dtype, gradient>(job, use.step, row, col, n);
        return;
    }
    float      value[8];
    const bool wants = gradient || job.mask;
    const uint32_t passes = job.grid.floats
        ? values_of<dtype, true>(job.grid, use, x, value, wants)
        : values_of<dtype, false>(job.grid, use, x, value, wants);
    if constexpr (gradient) {
        Octet<dtype> g;
        g.load(job.grad_dtype, job.grad + row * job.grad_ld, col, n);
        pass_unit<dtype>(job, g, row, col, n, passes);
        return;
    }
    if (job.mask) job.mask[row * job.mask_ld + col / 8] = (uint8_t)passes;
    uint4 *const to = (uint4 *)(job.out + row * job.out_ld + col * (Octet<dtype>::half ? 2 : 4));
    if constexpr (Octet<dtype>::half) {
        *to = make_uint4(pack_halves<dtype>(value[0], value[1]),
                         pack_halves<dtype>(value[2], value[3]),
                         pack_halves<dtype>(value[4], value[5]),
                         pack_halves<dtype>(value[6], value[7]));
    } else { /* none is NaN */
        to[0] = make_uint4(nib_bits_of(value[0]), nib_bits_of(value[1]), nib_bits_of(value[2]),
                           nib_bits_of(value[3]));
        to[1] = make_uint4(nib_bits_of(value[4]), nib_bits_of(value[5]), nib_bits_of(value[6]),
                           nib_bits_of(value[7]));
    }
}

/* Of the 8 elements from column col on, those before column end. */
__device__ __forceinline__ int unit_elements(int64_t col, int64_t end)
{
    return end - col >= NIB_GRID_UNIT ? NIB_GRID_UNIT : end > col ? (int)(end - col) : 0;
}

/* ---- steps ---- */

__device__ __forceinline__ float step_tensor_scale(const StepJob &job)
{
    return job.tensor_scale ? nib_tensor_given(*job.tensor_scale).decode : 1.0f;
}

__device__ __forceinline__ nib_step given_step(const StepJob &job, int64_t i)
{
    return nib_step_given(&job.grid, job.rule, step_tensor_scale(job), job.steps[i],
                          job.zeros ? job.zeros[i] : 0);
}

__device__ __forceinline__ nib_step dynamic_step(const StepJob &job, nib_grid_range range)
{
    return nib_step_dynamic(&job.grid, job.asymmetric, job.rule, step_tensor_scale(job), range);
}

__device__ __forceinline__ nib_step whole_step(const StepJob &job)
{
    return job.steps ? given_step(job, 0) : dynamic_step(job, nib_grid_range_given(job.range));
}

__device__ __forceinline__ void store_step(const StepJob &job, int64_t i, const nib_step &step)
{
    if (job.steps_out) job.steps_out[i] = step.s;
    if (job.zeros_out) job.zeros_out[i] = (int8_t)step.z;
}

#endif
