/* scalar_cpu.c: the rules and conversions that host code needs for single numbers and rows. */
#include "difference_cpu.h"
#include "foreign_cpu.h"
#include "packed_cpu.h"

static void tensor_scale(nib_format format, const nib_rules *rules, nib_scale_choice choice,
                         nib_dtype source, float amax, float *encode, float *decode)
{
    const nib_block_rules r = nib_block_rules_of(format, rules, choice, source);
    const nib_tensor_scales scales = nib_tensor_factors(&r, amax);
    *encode = scales.encode;
    *decode = scales.decode;
}

const nib_scalar_ops nib_scalar_cpu = {
    .tensor_scale = tensor_scale,
    .decode_foreign = nib_decode_foreign_cpu,
    .to_f32 = nib_to_f32_cpu,
    .from_f32 = nib_from_f32_cpu,
    .pack_gguf_row = nib_pack_gguf_row_cpu,
    .difference = nib_difference_cpu,
};
