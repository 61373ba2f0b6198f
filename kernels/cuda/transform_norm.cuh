/* transform_norm.cuh: RMSNorm, then codes, of rows of halves whose threads hold all of them: the
 * usual case, with less to do for an element than transform_e2m1 has. */
#ifndef NIB_TRANSFORM_NORM_CUH
#define NIB_TRANSFORM_NORM_CUH

#include "transform_job.cuh"

/* A row's weights in f32, which all turns of a block of threads use. Neighbouring threads' units
 * are neighbours in each quarter, which keeps their reads out of each other's banks. */
struct Weights {
    uint4 quarter[4][NIB_NORM_WEIGHT_UNITS];
};

template <int dtype>
__device__ __forceinline__ void share_weights_of(const TransformJob &job, Weights &weights)
{
    const unsigned threads = blockDim.x * blockDim.y;
    for (unsigned u = threadIdx.y * blockDim.x + threadIdx.x; u < NIB_NORM_HELD * blockDim.x;
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
__device__ __forceinline__ void share_weights(const TransformJob &job, Weights &weights)
{
    if (job.weight_kind == WEIGHT_AS_SOURCE) share_weights_of<dtype>(job, weights);
    else share_weights_of<NIB_DT_F32>(job, weights);
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

/* A thread's units of a row. units: 0 of one that is only read. */
template <int dtype, int held>
__device__ __forceinline__ void load_row(const TransformJob &job, unsigned row, unsigned units,
                                         Unit<dtype> (&x)[held])
{
    const uint8_t *const x_row = job.x + row * job.x_ld;
    if (job.has_residual) {
        NIB_UNROLL
        for (int i = 0; i < held; i++) {
            const unsigned unit = threadIdx.x + i * blockDim.x;
            load_unit<dtype, NIB_TR_RMSNORM>(job, x_row, row, unit, true, unit < units, x[i]);
        }
        return;
    }
    NIB_UNROLL
    for (int i = 0; i < held; i++) {
        load_unit<dtype, NIB_TR_NONE>(job, x_row, row, threadIdx.x + i * blockDim.x, true, false,
                                      x[i]);
    }
}

/* Matrices, grid and block as for transform_e2m1; no rotation. Threads without a unit or a row of
 * their own do another one again and store nothing. */
template <int dtype, int way>
__global__ void __launch_bounds__(NIB_TRANSFORM_THREADS,
                                  NIB_NORM_PER_SM - (dtype == NIB_DT_F16))
norm_e2m1(const __grid_constant__ TransformJob job)
{
    NIB_SHARED(TensorShared, tensor, );
    NIB_SHARED(FactorTable, factors, );
    NIB_SHARED(RowSums, sums, );
    NIB_SHARED(Weights, weights, );
    constexpr int   held = NIB_NORM_HELD;
    const bool      leads = (threadIdx.x & (unsigned)job.lane_shift) == 0;
    const bool      pads = job.padded_cols > job.scale_cols || job.padded_rows > job.rows;
    const unsigned  k0 = threadIdx.x >> job.lane_shift;
    nib_tensor_math math = known_math<way, dtype>(job);
    const auto      factor_of = [&](uint32_t byte) {
        return way == WAY_TE ? factors.of_byte[byte] : block_factor<way>(math, byte);
    };
    float largest = 0.0f;

    if (job.shares_weight) share_weights<dtype>(job, weights);
    if (way == WAY_TE) {
        share_tensor(job, math.rules, 0, tensor);
        use_tensor(math, tensor);
        share_factors<way>(math, factors);
    } else {
        __syncthreads();
    }
    unsigned row = blockIdx.x * job.turns * blockDim.y + threadIdx.y;
    for (unsigned turn = 0; turn < job.turns; turn++, row += blockDim.y) {
        const bool     has_row = row < (unsigned)job.rows;
        const unsigned units = has_row ? job.units : 0;
        Unit<dtype> x[held];
        float       s[held];
        load_row(job, has_row ? row : 0, units, x);
        sum_squares(job, x, threadIdx.x, s);
        const float r = row_sum(sums, s, [&](float sum) {
            return nib_rms_inverse(sum, job.cols, job.eps);
        });

        uint8_t       *scale_wr = job.scales + scale_index(job, row, 0) + scale_column(job, k0);
        uint8_t *const codes_wr = job.codes + row * job.codes_ld;
        NIB_UNROLL
        for (int i = 0; i < held; i++, scale_wr += job.scales_step) {
            const unsigned unit = threadIdx.x + i * blockDim.x;
            if (i > 0 && i * blockDim.x >= job.units) continue;
            float v[NIB_UNIT];
            values_of(x[i], v);
            scale_unit(r, v);
            weigh_norm<dtype>(job, weights, unit, v);
            Unit<dtype> t = rounded_unit<dtype>(v);
            quantize_folded<dtype, way, false, false>(
                job, math, factor_of, t, 1.0f, [&] { return t; }, unit < units, leads, scale_wr,
                codes_wr + (int64_t)unit * 8, largest);
        }
        if (pads) pad_scales(job, row, has_row);
    }
    if (job.amax) raise_amax(job, nib_bits_of(largest));
}

#endif
