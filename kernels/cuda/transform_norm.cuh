/* transform_norm.cuh: RMSNorm, with a rotation or without, stored or quantized: a block of threads
 * holds one or several rows, or the last piece of a longer row, whose others it reads again. */
#ifndef NIB_TRANSFORM_NORM_CUH
#define NIB_TRANSFORM_NORM_CUH

#include "transform_job.cuh"

/* Threads of a row at most, each with NIB_NORM_HELD units of it or, of any f32, half as many; and
 * blocks of an SM: 80 registers for bf16 in the usual case, more for all others. */
constexpr int norm_threads(int dtype, bool any)
{
    return any && dtype == NIB_DT_F32 ? 2 * NIB_TRANSFORM_THREADS : NIB_TRANSFORM_THREADS;
}
constexpr int norm_per_sm(int dtype, bool any)
{
    return any && dtype == NIB_DT_F32 ? 1 : NIB_NORM_PER_SM - (any || dtype != NIB_DT_BF16);
}

/* A row's weights in f32, which all turns of a block of threads use. Neighbouring threads' units
 * are neighbours in each quarter, which keeps their reads out of each other's banks. */
struct Weights {
    uint4 quarter[4][NIB_NORM_WEIGHT_UNITS];
};

template <int dtype>
__device__ __forceinline__ void share_weights_of(const TransformJob &job, unsigned held,
                                                 Weights &weights)
{
    const unsigned threads = blockDim.x * blockDim.y;
    for (unsigned u = threadIdx.y * blockDim.x + threadIdx.x; u < held * blockDim.x;
         u += threads) { /* zeros for those past the row's end */
        Unit<dtype> w = {};
        uint32_t    bits[NIB_UNIT];
        if (u < job.units) w.load(job.weight + (int64_t)u * (4 * Unit<dtype>::words), false);
        NIB_UNROLL
        for (int i = 0; i < NIB_UNIT; i++) bits[i] = nib_bits_of(w.at(i));
        NIB_UNROLL
        for (int q = 0; q < 4; q++) {
            weights.quarter[q][u] = make_uint4(bits[4 * q], bits[4 * q + 1], bits[4 * q + 2],
                                               bits[4 * q + 3]);
        }
    }
}

template <int dtype>
__device__ __forceinline__ void share_weights(const TransformJob &job, unsigned held,
                                              Weights &weights)
{
    if (job.weight_kind == WEIGHT_AS_SOURCE) share_weights_of<dtype>(job, held, weights);
    else share_weights_of<NIB_DT_F32>(job, held, weights);
}

/* v of a unit times its weights; those of a unit past the row's end are any. */
template <int dtype>
__device__ __forceinline__ void weigh_norm(const TransformJob &job, const Weights &weights,
                                           unsigned unit, float (&v)[NIB_UNIT])
{
    if (!job.shares_weight) {
        weigh<dtype>(job, min(unit, job.units - 1), v);
        return;
    }
    NIB_UNROLL
    for (int q = 0; q < 4; q++) {
        const uint4 w = weights.quarter[q][unit];
        v[4 * q] *= nib_float_of(w.x), v[4 * q + 1] *= nib_float_of(w.y);
        v[4 * q + 2] *= nib_float_of(w.z), v[4 * q + 3] *= nib_float_of(w.w);
    }
}

/* Zeros for the scales beside a row, and for those of a row that is padding, by its threads. */
__device__ __forceinline__ void pad_scales(const TransformJob &job, unsigned row, bool has_row)
{
    if (row >= (unsigned)job.padded_rows) return;
    uint8_t *const scales_wr = job.scales + scale_index(job, row, 0);
    for (unsigned k = (has_row ? (unsigned)job.scale_cols : 0) + threadIdx.x;
         k < (unsigned)job.padded_cols; k += blockDim.x) {
        scales_wr[scale_column(job, k)] = 0;
    }
}

/* A thread's units of the piece of a row that begins at unit base. first: as for load_unit. units:
 * 0 of a row that is only read. */
template <int dtype, int held>
__device__ __forceinline__ void load_row(const TransformJob &job, unsigned row, unsigned base,
                                         unsigned units, bool first, Unit<dtype> (&x)[held])
{
    const uint8_t *const x_row = job.x + row * job.x_ld;
    if (job.has_residual) {
        NIB_UNROLL
        for (int i = 0; i < held; i++) {
            const unsigned unit = base + threadIdx.x + i * blockDim.x;
            load_unit<dtype, NIB_TR_RMSNORM>(job, x_row, row, unit, first, unit < units, x[i]);
        }
        return;
    }
    NIB_UNROLL
    for (int i = 0; i < held; i++) {
        load_unit<dtype, NIB_TR_NONE>(job, x_row, row, base + threadIdx.x + i * blockDim.x, first,
                                      false, x[i]);
    }
}

/* Matrices, grid and block as for transform_e2m1. Threads without a unit or a row of their own do
 * another one again and store nothing. any: rows may be longer than a block holds, and rotated. */
template <int dtype, int way, bool any>
__global__ void __launch_bounds__(norm_threads(dtype, any), norm_per_sm(dtype, any))
norm_e2m1(const __grid_constant__ TransformJob job)
{
    NIB_SHARED(TensorShared, tensor, );
    NIB_SHARED(FactorTable, factors, );
    NIB_SHARED(RowSums, sums, );
    NIB_SHARED(Weights, weights, );
    constexpr int   held = any && dtype == NIB_DT_F32 ? NIB_NORM_HELD / 2 : NIB_NORM_HELD;
    constexpr bool  quantizes = way != WAY_APPLY;
    const bool      leads = (threadIdx.x & (unsigned)job.lane_shift) == 0;
    const bool      pads = job.padded_cols > job.scale_cols || job.padded_rows > job.rows;
    const unsigned  k0 = threadIdx.x >> job.lane_shift;
    const unsigned  step = held * blockDim.x;
    const unsigned  last = any ? (job.units - 1) / step * step : 0; /* piece's first unit */
    nib_tensor_math math = known_math<quantizes ? way : WAY_MX, dtype>(job);
    const auto      factor_of = [&](uint32_t byte) {
        return way == WAY_TE ? factors.of_byte[byte] : block_factor<WAY_MX>(math, byte);
    };
    float largest = 0.0f;

    if (job.shares_weight) share_weights<dtype>(job, held, weights);
    if (way == WAY_TE) {
        share_tensor(job, math.rules, 0, tensor);
        use_tensor(math, tensor);
        share_factors<WAY_TE>(math, factors);
    } else {
        __syncthreads();
    }
    unsigned row = blockIdx.x * job.turns * blockDim.y + threadIdx.y;
    for (unsigned turn = 0; turn < job.turns; turn++, row += blockDim.y) {
        const bool     has_row = row < (unsigned)job.rows;
        const unsigned units = has_row ? job.units : 0, row_rd = has_row ? row : 0;
        Unit<dtype> x[held];
        float       s[held];
        load_row(job, row_rd, 0, units, true, x);
        sum_squares(job, x, threadIdx.x, s);
        for (unsigned base = step; any && base <= last; base += step) {
            float sum[held];
            load_row(job, row_rd, base, units, true, x);
            sum_squares(job, x, base + threadIdx.x, sum);
            NIB_UNROLL
            for (int i = 0; i < held; i++) s[i] += sum[i];
        }
        const float r = row_sum(sums, s, [&](float sum) {
            return nib_rms_inverse(sum, job.cols, job.eps);
        });

        uint8_t *const out_row = quantizes ? job.codes + row * job.codes_ld
                                           : job.out + row * job.out_ld;
        for (unsigned base = last;; base -= step) {
            if (base != last) load_row(job, row_rd, base, units, false, x);
            uint8_t *scale_wr = !quantizes ? nullptr
                              : job.scales + scale_index(job, row, 0)
                                    + scale_column(job, (base >> job.lane_shift) + k0);
            NIB_UNROLL
            for (int i = 0; i < held; i++, scale_wr += job.scales_step) {
                const unsigned unit = base + threadIdx.x + i * blockDim.x;
                if (i > 0 && base + i * blockDim.x >= job.units) continue;
                float v[NIB_UNIT];
                values_of(x[i], v);
                scale_unit(r, v);
                weigh_norm<dtype>(job, weights, unit, v);
                if (any && job.hadamard) {
                    rotate_unit(job, min(unit, job.units - 1), v);
                    scale_unit(job.rotation_scale, v);
                }
                Unit<dtype> t = rounded_unit<dtype>(v);
                if constexpr (quantizes) {
                    quantize_folded<dtype, way, false, false>(
                        job, math, factor_of, t, 1.0f, [&] { return t; }, unit < units, leads,
                        scale_wr, out_row + (int64_t)unit * 8, largest);
                } else if (unit < units) {
                    store_unit(out_row + (int64_t)unit * (4 * Unit<dtype>::words), t);
                    if (job.amax) {
                        largest = fmaxf(largest, Unit<dtype>::amax_value(finite_amax(t)));
                    }
                }
            }
            if (!any || base == 0) break;
        }
        if (quantizes && pads) pad_scales(job, row, has_row);
    }
    if (job.amax) raise_amax(job, nib_bits_of(largest));
}

#endif
