/* fakequant_job.cuh: what fake-quantize's kernels are told, and any one block by any rules. */
#ifndef NIB_FAKEQUANT_JOB_CUH
#define NIB_FAKEQUANT_JOB_CUH

#include "quantize_job.cuh"

/* codes are nowhere, and scales are given or nowhere; padding is none. */
struct FakeJob : QuantizeJob {
    int            out_dtype, grad_dtype;
    uint8_t       *out;  /* values, or grad_in */
    const uint8_t *grad; /* grad_out */
    uint8_t       *mask; /* NULL: none */
    int64_t        out_ld, grad_ld, mask_ld;       /* in bytes */
    int64_t        out_step, grad_step, mask_step; /* of a turn */
};

NIB_HD int64_t fake_size(int dtype) { return dtype == NIB_DT_F32 ? 4 : 2; }

/* Element i of a row of gradients: its bits if the dtypes are equal. */
template <class Job>
__device__ __forceinline__ void pass_element(const Job &job, const uint8_t *grad, uint8_t *out,
                                             int64_t i, bool passes)
{
    if (!passes) nib_store_f32(job.out_dtype, out, i, 0.0f);
    else if (job.grad_dtype != job.out_dtype)
        nib_store_f32(job.out_dtype, out, i, nib_load_f32(job.grad_dtype, grad, i));
    else if (job.out_dtype == NIB_DT_F32) ((uint32_t *)out)[i] = ((const uint32_t *)grad)[i];
    else ((uint16_t *)out)[i] = ((const uint16_t *)grad)[i];
}

/* Row r of those that share a block's scale: its values and mask, or with gradient what passes of
 * grad. Each element is read before its place is written. */
template <Plain plain, bool gradient>
__device__ __forceinline__ void fake_row(const FakeJob &job, const nib_tensor_math &math,
                                         const ScaledBlock &block, int64_t row, int r)
{
    const BlockSource source = block.source.row(r);
    const nib_block_unit none = { 0.0f, 0 };
    const nib_block_unit unit = block.is_nan || gradient ? none
                                                         : nib_block_unit_of(&math, block.byte);
    const float step = nib_block_step(math.rules.e4m3_scale, block.byte, math.scales.decode);
    const float limit = nib_block_limit(math.rules.element, step);
    row += r;
    uint8_t *const out = job.out + row * job.out_ld + block.col * fake_size(job.out_dtype);
    const uint8_t *const grad = job.grad + row * job.grad_ld
                              + block.col * fake_size(job.grad_dtype);
    uint8_t *mask_wr = job.mask + row * job.mask_ld + block.col / 8;

    BlockRandom random = {};
    const bool  stochastic = plain == PLAIN_ANY && !gradient && job.stochastic;
    if (stochastic) random = block_random(job, 0, row, block.col);
    uint32_t bits = 0;
    NIB_NO_UNROLL
    for (int i = 0; i < block.n; i++) {
        const float x = source.at(i);
        const bool  passes = !nib_is_clamped(x, limit);
        if (gradient) {
            pass_element(job, grad, out, i, passes);
            continue;
        }
        uint32_t code = 0; /* as quantize_row's */
        if (!block.is_nan && stochastic) {
            code = nib_block_code(&math, unit, x, 1,
                                  random_word(random.seed, random.offset,
                                              random.first + (uint64_t)i));
        } else if (!block.is_nan) {
            code = nib_block_code(&math, unit, x, 0, 0);
        }
        nib_store_f32(job.out_dtype, out, i, nib_block_value(math.rules.element, code, step));
        bits |= (uint32_t)passes << i % 8;
        if (job.mask && (i % 8 == 7 || i == block.n - 1)) *mask_wr++ = (uint8_t)bits, bits = 0;
    }
}

/* Block k of so many rows from row on. math, plain: as for quantize_block. */
template <Plain plain, bool gradient>
__device__ __forceinline__ void fake_block(const FakeJob &job, const nib_tensor_math &math,
                                           int64_t row, int rows, int64_t k)
{
    const ScaledBlock block = plain == PLAIN_ANY && job.given
                                  ? given_block(job, math, 0, row, k)
                                  : scaled_block<plain>(job, math, 0, row, rows, k, job.choice);
    NIB_NO_UNROLL
    for (int r = 0; r < rows; r++) fake_row<plain, gradient>(job, math, block, row, r);
}

#endif
