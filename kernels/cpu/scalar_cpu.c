/* scalar_cpu.c: the rules and conversions that host code needs for single numbers and rows. */
#include "calibrate_cpu.h"
#include "difference_cpu.h"
#include "foreign_cpu.h"
#include "kernels/packed.h"
#include "portable_cpu.h"

static void tensor_scale(nib_format format, const nib_rules *rules, nib_scale_choice choice,
                         nib_dtype source, float amax, float *encode, float *decode)
{
    const nib_block_rules r = nib_block_rules_of(format, rules, choice, source);
    const nib_tensor_scales scales = nib_tensor_factors(&r, amax);
    *encode = scales.encode;
    *decode = scales.decode;
}

static void tensor_stats_add(nib_tensor_stats *to, const nib_tensor_stats *part)
{
    nib_tensor_stats_merge(to, part);
}

const nib_scalar_ops nib_scalar_cpu = {
    .tensor_scale = tensor_scale,
    .decode_foreign = nib_decode_foreign_cpu,
    .to_f32 = nib_to_f32_cpu,
    .from_f32 = nib_from_f32_cpu,
    .pack_gguf_row = nib_pack_gguf_row_cpu,
    .difference = nib_difference_cpu,
    .percentile_amax = nib_percentile_amax,
    .kl_amax = nib_kl_amax,
    .mse_amax = nib_mse_amax,
    .tensor_stats_add = tensor_stats_add,
    .bad_step = nib_bad_step_cpu,
};
