/* transform_job.cuh: what transforms' kernels are told, and their arithmetic on 16 elements of a
 * row in registers. */
#ifndef NIB_TRANSFORM_JOB_CUH
#define NIB_TRANSFORM_JOB_CUH

#include "kernels/common/transform_rule.h"
#include "quantize_unit.cuh"
#include "transform_tune.h"

enum { WEIGHT_NONE, WEIGHT_AS_SOURCE, WEIGHT_F32 };
enum { WAY_APPLY = -1 }; /* of a kernel that stores what it makes */

/* Sizes and distances of matrices in bytes. For apply, codes, scales and the rules but source are
 * nothing. */
struct TransformJob : QuantizeJob {
    int            op, hadamard, weight_kind, out_dtype;
    int            has_residual;
    int            shares_weight; /* and a block of threads the weights of a row */
    unsigned       units, padded_units; /* of a row; with those of its scales' padding */
    int            exchanges;     /* lanes that share a rotation */
    float          eps, rotation_scale;
    float          fold;          /* that scale if it is a power of two, else 1 */
    const uint8_t *weight, *residual, *y, *signs;
    uint8_t       *residual_out, *out;
    int64_t        residual_ld, residual_out_ld, y_ld, out_ld;
    float         *amax;
};

template <int dtype>
__device__ __forceinline__ void store_unit(uint8_t *p, const Unit<dtype> &x)
{
    NIB_UNROLL
    for (int i = 0; i < Unit<dtype>::words / 4; i++) {
        ((uint4 *)p)[i] = make_uint4(x.word[4 * i], x.word[4 * i + 1], x.word[4 * i + 2],
                                     x.word[4 * i + 3]);
    }
}

/* nib_store_f32 of 16 elements, in registers. */
template <int dtype>
__device__ __forceinline__ Unit<dtype> rounded_unit(const float (&v)[NIB_UNIT])
{
    Unit<dtype> x;
    NIB_UNROLL
    for (int i = 0; i < Unit<dtype>::words; i++) {
        if constexpr (dtype == NIB_DT_F32) x.word[i] = nib_bits_of(nib_canonical(v[i]));
        else if constexpr (dtype == NIB_DT_F16) {
            x.word[i] = nib_ptx::cvt_f16x2(v[2 * i], v[2 * i + 1]);
        } else {
            x.word[i] = nib_ptx::cvt_bf16x2(v[2 * i], v[2 * i + 1]);
        }
    }
    return x;
}

/* Unit number unit of a row, which begins at x_row, with its residual, or the row's last one.
 * first: as load_source of the CPU's. Not present: any numbers. */
template <int dtype, int op>
__device__ __forceinline__ void load_unit(const TransformJob &job, const uint8_t *x_row,
                                          unsigned row, unsigned unit, bool first, bool present,
                                          Unit<dtype> &x)
{
    const int64_t at = (int64_t)min(unit, job.units - 1) * (4 * Unit<dtype>::words);
    if (op != NIB_TR_RMSNORM || !job.has_residual) {
        x.load(x_row + at, job.aligned32);
        return;
    }
    uint8_t *const kept = job.residual_out + row * job.residual_out_ld + at;
    if (!first && job.residual_out) {
        if (present) x.load_written(kept);
        return;
    }
    Unit<dtype> residual;
    float       sum[NIB_UNIT];
    x.load(x_row + at, job.aligned32);
    if (!present) return; /* the residual there may be residual_out, and just being written */
    residual.load_written(job.residual + row * job.residual_ld + at);
    NIB_UNROLL
    for (int i = 0; i < NIB_UNIT; i++) sum[i] = x.at(i) + residual.at(i);
    x = rounded_unit<dtype>(sum);
    if (first && job.residual_out) store_unit(kept, x);
}

__device__ __forceinline__ void scale_unit(float factor, float (&v)[NIB_UNIT])
{
    NIB_UNROLL
    for (int i = 0; i < NIB_UNIT; i++) v[i] *= factor;
}

template <int dtype>
__device__ __forceinline__ void values_of(const Unit<dtype> &x, float (&v)[NIB_UNIT])
{
    NIB_UNROLL
    for (int i = 0; i < NIB_UNIT; i++) v[i] = x.at(i);
}

/* nib_sum_sq16, with fewer roundings. A square of a half has at most 22 bits, so adding another to
 * it may round once.
 *
 * bf16's squares below 2^-134 are the exception, which the adder would have got rounded. A sum may
 * differ by that only if its greater term is less than 2^26 times as large, else the lesser one is
 * gone either way; so after four additions all sums from 2^-30 on are right. */
template <int dtype> __device__ __forceinline__ float fused_sum_sq(const Unit<dtype> &x)
{
    float v[NIB_UNIT];
    values_of(x, v);
    if constexpr (dtype == NIB_DT_F32) {
        return nib_sum_sq16(v);
    } else {
        float p[8];
        if constexpr (dtype == NIB_DT_BF16) { /* the same, but nothing that is kept for later */
            NIB_UNROLL
            for (int i = 0; i < NIB_UNIT; i++) {
                v[i] = nib_float_of(__byte_perm(x.word[i / 2], 0, i % 2 ? 0x3244 : 0x1044));
            }
        }
        NIB_UNROLL
        for (int i = 0; i < 8; i++) p[i] = fmaf(v[i], v[i], v[i + 8] * v[i + 8]);
        NIB_UNROLL
        for (int i = 0; i < 4; i++) p[i] += p[i + 4];
        return (p[0] + p[2]) + (p[1] + p[3]);
    }
}

/* The sums of a thread's units; first: its unit x[0]. Those past the row's end have none. */
template <int dtype, int held>
__device__ __forceinline__ void sum_squares(const TransformJob &job, const Unit<dtype> (&x)[held],
                                            unsigned first, float (&sum)[held])
{
    bool sure = true;
    NIB_UNROLL
    for (int i = 0; i < held; i++) {
        sum[i] = fused_sum_sq(x[i]);
        sure = sure && sum[i] >= 0x1p-30f;
    }
    if (dtype == NIB_DT_BF16 && !sure) {
        NIB_UNROLL
        for (int i = 0; i < held; i++) {
            float v[NIB_UNIT];
            values_of(x[i], v);
            sum[i] = nib_sum_sq16(v);
        }
    }
    NIB_UNROLL
    for (int i = 0; i < held; i++) {
        sum[i] = first + i * blockDim.x < job.units ? sum[i] : 0.0f;
    }
}

template <int dtype>
__device__ __forceinline__ void scale_by(const uint8_t *weight, unsigned unit,
                                         float (&v)[NIB_UNIT])
{
    Unit<dtype> w;
    w.load(weight + (int64_t)unit * (4 * Unit<dtype>::words), false);
    NIB_UNROLL
    for (int i = 0; i < NIB_UNIT; i++) v[i] *= w.at(i);
}

template <int dtype>
__device__ __forceinline__ void weigh(const TransformJob &job, unsigned unit, float (&v)[NIB_UNIT])
{
    if (job.weight_kind == WEIGHT_AS_SOURCE) scale_by<dtype>(job.weight, unit, v);
    else if (job.weight_kind == WEIGHT_F32) scale_by<NIB_DT_F32>(job.weight, unit, v);
}

template <int dtype>
__device__ __forceinline__ void apply_silu(const TransformJob &job, unsigned row, unsigned unit,
                                           float (&v)[NIB_UNIT])
{
    Unit<dtype> y;
    y.load(job.y + row * job.y_ld + (int64_t)unit * (4 * Unit<dtype>::words), false);
    NIB_UNROLL
    for (int i = 0; i < NIB_UNIT; i++) v[i] = nib_silu(v[i]) * y.at(i);
}

/* A unit's part of its rotation but its last product: by whole warps. */
__device__ __forceinline__ void rotate_unit(const TransformJob &job, unsigned unit,
                                            float (&v)[NIB_UNIT])
{
    if (job.signs) {
        const uint8_t *const at = job.signs + 2 * (int64_t)unit;
        const uint32_t bits = at[0] | (uint32_t)at[1] << 8;
        NIB_UNROLL
        for (int i = 0; i < NIB_UNIT; i++) v[i] = nib_with_sign(v[i], bits >> i & 1);
    }
    nib_butterflies(v, NIB_UNIT, 1);
    nib_butterflies(v, NIB_UNIT, 2);
    nib_butterflies(v, NIB_UNIT, 4);
    nib_butterflies(v, NIB_UNIT, 8);
    NIB_NO_UNROLL
    for (int lanes = 1; lanes < job.exchanges; lanes *= 2) {
        const uint32_t upper = (threadIdx.x & (unsigned)lanes) != 0; /* has b of a - b */
        NIB_UNROLL
        for (int i = 0; i < NIB_UNIT; i++) {
            v[i] = __shfl_xor_sync(~0u, v[i], lanes) + nib_with_sign(v[i], upper);
        }
    }
}

template <int n> __device__ __forceinline__ float sum_of_lanes(float s)
{
    NIB_UNROLL
    for (int d = n / 2; d >= 1; d /= 2) s += __shfl_xor_sync(~0u, s, d);
    return s;
}

/* Sums of warps and what comes of a row, by row of the block. */
struct RowSums {
    float warp[NIB_TRANSFORM_THREADS / 32][32], row[NIB_TRANSFORM_THREADS / 32];
};

/* finish() of the sum of a row's lanes, of which a thread has 2 or 4, numbers threadIdx.x + i *
 * blockDim.x. Rows of whole warps have one warp of them finish it. */
template <int held, class Finish>
__device__ __forceinline__ float row_sum(RowSums &sums, const float (&s)[held], Finish finish)
{
    const unsigned width = blockDim.x, lane = threadIdx.x % 32;
    if (width < 32) {
        float a = s[0] + s[1], b = 0.0f;
        if (held == 4 && width == 16) b = s[2] + s[held - 1]; /* a second run of 32 lanes */
        else if (held == 4) a = (s[0] + s[2 % held]) + (s[1] + s[held - 1]);
        for (int d = (int)width / 2; d >= 1; d /= 2) {
            a += __shfl_xor_sync(~0u, a, d);
            b += __shfl_xor_sync(~0u, b, d);
        }
        return finish(a + b);
    }
    /* Each addition across lanes leaves half of them another number: in the end there is one sum,
     * number i. */
    const auto halve = [&](float lower, float upper, unsigned d) {
        const bool has_upper = lane & d;
        return (has_upper ? upper : lower) + __shfl_xor_sync(~0u, has_upper ? lower : upper, d);
    };
    float    one = halve(s[0], s[1], 16);
    unsigned i = lane / 16;
    if constexpr (held == 4) one = halve(one, halve(s[2], s[3], 16), 8), i += lane / 8 % 2 * 2;
    one = sum_of_lanes<32 / held>(one);
    float *const of_row = sums.warp[threadIdx.y];
    if (lane % (32 / held) == 0) of_row[(threadIdx.x + i * width) / 32] = one;
    __syncthreads();
    if (threadIdx.x < 32) {
        const float all = sum_of_lanes<32>(lane < held * width / 32 ? of_row[lane] : 0.0f);
        if (lane == 0) sums.row[threadIdx.y] = finish(all);
    }
    __syncthreads();
    return sums.row[threadIdx.y];
}

/* Raises job.amax to the largest of a block's magnitudes, bits of floats. */
__device__ __forceinline__ void raise_amax(const TransformJob &job, uint32_t bits)
{
    const unsigned most = __reduce_max_sync(~0u, bits);
    if ((threadIdx.y * blockDim.x + threadIdx.x) % 32 == 0 && most) {
        atomicMax((unsigned *)(void *)job.amax, most);
    }
}

#endif
