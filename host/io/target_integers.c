/* target_integers.c: compressed-tensors' pack-quantized: integers in 32-bit words along a row,
 * steps and zero points beside them.
 *
 *     P.weight_packed      I32 [N, ceil(K * bits / 32)]   q - lo, lowest bits first
 *     P.weight_scale       F32, F16 or BF16 [N, G]
 *     P.weight_zero_point  I32 [ceil(N * bits / 32), G]   z - lo, packed along a column; asymmetric
 *     P.weight_shape       I64 [2] = N, K
 */
#include "host/io/integers.h"

nib_status nib_integers_check(nib_format format, const nib_logical *t)
{
    char name[48];
    if (!t) return NIB_OK;
    NIB_TRY(nib_int_format_name(format, name, sizeof name));
    NIB_REQUIRE(t->n_dims == 2, NIB_ERR_UNSUPPORTED,
                "%s: %d dimensions; %s in compressed-tensors is of matrices (exclude the tensor to "
                "keep it as it is)", t->name, t->n_dims, name);
    const int64_t group = nib_int_format_group(format);
    NIB_REQUIRE(t->cols > 0, NIB_ERR_UNSUPPORTED, "%s: no columns, for which %s has no step",
                t->name, name);
    NIB_REQUIRE(!group || t->cols % group == 0, NIB_ERR_UNSUPPORTED,
                "%s: %lld columns; %s in compressed-tensors needs a multiple of its group, %lld "
                "(another group, or the whole row, or exclude the tensor to keep it as it is)",
                t->name, (long long)t->cols, name, (long long)group);
    return NIB_OK;
}

nib_status nib_integers_specs(nib_format format, nib_tensor_type plain, const nib_logical *t,
                              nib_tensor_spec *specs, int *roles, int *n)
{
    const int64_t group = nib_int_format_group(format), groups = group ? t->cols / group : 1;
    const int bits = (int)nib_int_format_element(format) - 16;
    *n = 0;
    NIB_TRY(nib_target_spec(t, ".weight_packed", NIB_TT_I32, nib_integers_words(bits, t->cols),
                            NIB_ROLE_CODES, specs, roles, n));
    NIB_TRY(nib_target_spec(t, ".weight_scale", plain, groups, NIB_ROLE_SCALES, specs, roles, n));
    NIB_TRY(nib_target_spec(t, ".weight_shape", NIB_TT_I64, 2, NIB_ROLE_SHAPE, specs, roles, n));
    specs[2].n_dims = 1;
    specs[2].dims[0] = 2;
    if (!nib_int_format_asymmetric(format)) return NIB_OK;
    NIB_TRY(nib_target_spec(t, ".weight_zero_point", NIB_TT_I32, groups, NIB_ROLE_ZEROS, specs,
                            roles, n));
    specs[3].dims[0] = nib_integers_words(bits, t->rows);
    return NIB_OK;
}

json_t *nib_integers_group(nib_format format, int32_t act_order, json_t *names)
{
    const int64_t group = nib_int_format_group(format);
    /* Loaders read "weight" like null: steps stand in the order of the columns. Of whole rows
     * compressed-tensors (0.13 to 0.18) takes null alone. */
    json_t *order = act_order && group ? json_string("weight") : json_null();
    return json_pack("{s:o,s:{s:i,s:s,s:b,s:s,s:o,s:b,s:o},s:n,s:n,s:s}", "targets", names,
                     "weights", "num_bits", (int)nib_int_format_element(format) - 16, "type", "int",
                     "symmetric", !nib_int_format_asymmetric(format), "strategy",
                     group ? "group" : "channel", "group_size",
                     group ? json_integer(group) : json_null(), "dynamic", 0, "actorder", order,
                     "input_activations", "output_activations", "format", "pack-quantized");
}
