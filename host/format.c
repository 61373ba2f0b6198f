/* format.c: formats and rules as values: their parts, names, sizes and presets. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

static const struct {
    nib_format  format;
    const char *name;
} named[] = {
    { NIB_NVFP4, "nvfp4" },               { NIB_NVFP4_B32, "nvfp4-b32" },
    { NIB_MXFP4, "mxfp4" },               { NIB_MXFP4_B16, "mxfp4-b16" },
    { NIB_MXFP6_E2M3, "mxfp6-e2m3" },     { NIB_MXFP6_E3M2, "mxfp6-e3m2" },
    { NIB_MXFP8_E4M3, "mxfp8-e4m3" },     { NIB_MXFP8_E5M2, "mxfp8-e5m2" },
    { NIB_FP6_E2M3_B8, "fp6-e2m3-b8" },   { NIB_FP6_E2M3_B16, "fp6-e2m3-b16" },
    { NIB_FP6_E2M3_B32, "fp6-e2m3-b32" }, { NIB_FP8_E4M3_B8, "fp8-e4m3-b8" },
    { NIB_FP8_E4M3_B16, "fp8-e4m3-b16" }, { NIB_FP8_E4M3_B32, "fp8-e4m3-b32" },
};
enum { NAMED = sizeof named / sizeof *named };

static const char *const element_names[] = { "e2m1", "e2m3", "e3m2", "e4m3", "e5m2" };
static const char *const scale_names[] = { "e8m0", "e4m3" };

nib_element    nib_format_element(nib_format format) { return (nib_element)(format & 0xff); }
nib_scale_type nib_format_scale(nib_format format) { return (nib_scale_type)(format >> 8 & 0xf); }
int32_t        nib_format_block(nib_format format) { return (int32_t)(format >> 16); }
int32_t        nib_format_has_tensor_scale(nib_format format) { return format >> 12 & 0xf; }

int32_t nib_format_is_valid(nib_format format)
{
    const int32_t block = nib_format_block(format), tensor = nib_format_has_tensor_scale(format);
    if (nib_format_element(format) > NIB_E5M2) return 0;
    if (nib_format_scale(format) > NIB_SCALE_E4M3) return 0;
    if (tensor > 1 || (tensor && nib_format_scale(format) != NIB_SCALE_E4M3)) return 0;
    return block == 8 || block == 16 || block == 32 || block == 64 || block == 128;
}

nib_format nib_format_make(nib_element element, nib_scale_type scale, int32_t block,
                           int32_t has_tensor_scale)
{
    const nib_format invalid = 0xffffffffu;
    if ((unsigned)element > NIB_E5M2 || (unsigned)scale > NIB_SCALE_E4M3) return invalid;
    if (block < 0 || block > 128 || has_tensor_scale < 0 || has_tensor_scale > 1) return invalid;
    const nib_format format = (uint32_t)element | (uint32_t)scale << 8
                            | (uint32_t)has_tensor_scale << 12 | (uint32_t)block << 16;
    return nib_format_is_valid(format) ? format : invalid;
}

int32_t nib_format_element_bits(nib_format format)
{
    switch (nib_format_element(format)) {
    case NIB_E2M1: return 4;
    case NIB_E2M3:
    case NIB_E3M2: return 6;
    case NIB_E4M3:
    case NIB_E5M2: return 8;
    }
    return 0;
}

nib_status nib_format_name(nib_format format, char *text, size_t text_bytes)
{
    NIB_REQUIRE(text, NIB_ERR_ARGUMENT, "format_name: text is NULL");
    if (text_bytes > 0) text[0] = '\0';
    NIB_REQUIRE(nib_format_is_valid(format), NIB_ERR_ARGUMENT,
                "format_name: %#x is not a format", format);

    char full[48];
    snprintf(full, sizeof full, "%s/%s/%d%s", element_names[nib_format_element(format)],
             scale_names[nib_format_scale(format)], (int)nib_format_block(format),
             nib_format_has_tensor_scale(format) ? "/tensor" : "");
    for (int i = 0; i < NAMED; i++)
        if (named[i].format == format) snprintf(full, sizeof full, "%s", named[i].name);

    const int need = snprintf(text, text_bytes, "%s", full);
    NIB_REQUIRE((size_t)need < text_bytes, NIB_ERR_SHAPE,
                "format_name: '%s' needs %d bytes, text has %zu", full, need + 1, text_bytes);
    return NIB_OK;
}

nib_status nib_format_from_name(const char *name, nib_format *format)
{
    NIB_REQUIRE(name && format, NIB_ERR_ARGUMENT, "format_from_name: name or format is NULL");
    for (int i = 0; i < NAMED; i++)
        if (!strcmp(named[i].name, name)) return *format = named[i].format, NIB_OK;

    for (int element = NIB_E2M1; element <= NIB_E5M2; element++)
        for (int scale = NIB_SCALE_E8M0; scale <= NIB_SCALE_E4M3; scale++)
            for (int block = 8; block <= 128; block *= 2)
                for (int tensor = 0; tensor <= scale; tensor++) {
                    const nib_format f = nib_format_make((nib_element)element,
                                                         (nib_scale_type)scale, block, tensor);
                    char text[48];
                    NIB_TRY(nib_format_name(f, text, sizeof text));
                    if (!strcmp(text, name)) return *format = f, NIB_OK;
                }

    char list[400] = "";
    for (int i = 0; i < NAMED; i++) {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", named[i].name);
    }
    return nib_fail(NIB_ERR_ARGUMENT, "unknown format '%s'; the named ones are %s", name, list);
}

int64_t nib_codes_row_bytes(nib_format format, int64_t cols)
{
    if (!nib_format_is_valid(format) || cols < 0) return -1;
    const int64_t bits = nib_format_element_bits(format);
    return cols / 8 * bits + (cols % 8 * bits + 7) / 8; /* cols * bits could overflow */
}

int64_t nib_scales_per_row(nib_format format, int64_t cols)
{
    if (!nib_format_is_valid(format) || cols < 0) return -1;
    const int64_t block = nib_format_block(format);
    return cols / block + (cols % block != 0);
}

int64_t nib_scales_bytes(nib_format format, nib_scale_layout layout, int64_t rows, int64_t cols)
{
    const int64_t columns = nib_scales_per_row(format, cols);
    if (columns < 0 || rows < 0 || (unsigned)layout > NIB_SCALES_SWIZZLED_128X4) return -1;
    const int swizzled = layout == NIB_SCALES_SWIZZLED_128X4;
    const int64_t unit_rows = swizzled ? 128 : 1, unit_cols = swizzled ? 4 : 1;
    int64_t padded_rows, padded_cols, bytes;
    if (__builtin_mul_overflow(rows / unit_rows + (rows % unit_rows != 0), unit_rows, &padded_rows)
        || __builtin_mul_overflow(columns / unit_cols + (columns % unit_cols != 0), unit_cols,
                                  &padded_cols)
        || __builtin_mul_overflow(padded_rows, padded_cols, &bytes))
        return -1;
    return bytes;
}

/* ---- rules ---- */

static const char *const preset_names[] = { "te", "modelopt", "compressed-tensors", "ocp", "gguf" };
enum { PRESETS = sizeof preset_names / sizeof *preset_names };

nib_status nib_rules_fill(nib_rules_preset preset, nib_format format, nib_rules *rules)
{
    NIB_REQUIRE(rules, NIB_ERR_ARGUMENT, "rules_fill: rules is NULL");
    NIB_REQUIRE(nib_format_is_valid(format), NIB_ERR_ARGUMENT,
                "rules_fill: %#x is not a format", format);

    const int e8m0 = nib_format_scale(format) == NIB_SCALE_E8M0;
    nib_rules r = { .size = sizeof r }; /* all zeros: TransformerEngine */
    switch (preset) {
    case NIB_RULES_TE: break;
    case NIB_RULES_MODELOPT: /* NVFP4QTensor, MXFP4QTensor */
        r.tensor = NIB_TENSOR_DECODE;
        r.block = NIB_BLOCK_DIVIDE;
        r.element = NIB_ELEMENT_DIVIDE;
        r.mx = NIB_MX_RCEIL_LOG2;
        r.ties = e8m0 ? NIB_TIES_DOWN : NIB_TIES_EVEN;
        r.zero_sign = e8m0 ? NIB_ZERO_MODELOPT : NIB_ZERO_INPUT;
        r.e4m3_zero = 0x38; /* 1.0 */
        r.e4m3_min = 0x01;  /* 2^-9 */
        break;
    case NIB_RULES_COMPRESSED_TENSORS: /* calculate_qparams, generate_gparam, cast_to_fp4 */
        r.tensor = NIB_TENSOR_SOURCE;
        r.block = NIB_BLOCK_TWO_STEP;
        r.element = NIB_ELEMENT_DIVIDE_ENC;
        r.mx = NIB_MX_EVEN_SOURCE;
        if (nib_format_element(format) == NIB_E2M1)
            r.zero_sign = e8m0 ? NIB_ZERO_SOURCE : NIB_ZERO_INPUT;
        r.e4m3_zero = 0x20; /* 0.125 */
        break;
    case NIB_RULES_OCP:
        r.mx = NIB_MX_FLOOR;
        r.nonfinite = NIB_NONFINITE_NAN;
        break;
    case NIB_RULES_GGUF:
        r.mx = NIB_MX_FLOOR_LOG2;
        r.ties = NIB_TIES_DOWN;
        r.zero_sign = NIB_ZERO_POSITIVE;
        break;
    default:
        return nib_fail(NIB_ERR_ARGUMENT, "rules_fill: unknown preset %d", (int)preset);
    }
    *rules = r;
    return NIB_OK;
}

const char *nib_rules_preset_name(nib_rules_preset preset)
{
    return (unsigned)preset < PRESETS ? preset_names[preset] : "?";
}

nib_status nib_rules_preset_from_name(const char *name, nib_rules_preset *preset)
{
    NIB_REQUIRE(name && preset, NIB_ERR_ARGUMENT, "rules_preset_from_name: NULL argument");
    for (int i = 0; i < PRESETS; i++)
        if (!strcmp(preset_names[i], name)) return *preset = (nib_rules_preset)i, NIB_OK;
    return nib_fail(NIB_ERR_ARGUMENT, "unknown rules '%s'; the choices are te, modelopt, "
                    "compressed-tensors, ocp, gguf", name);
}
