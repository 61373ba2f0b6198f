/* format_test.c: formats as numbers and names, sizes, rules and their presets. */
#include <stdio.h>
#include <string.h>

#include "expect_status.h"

static const struct {
    nib_format  format;
    const char *name;
    int         element, scale, block, tensor, bits;
} named[] = {
    { NIB_NVFP4, "nvfp4", NIB_E2M1, NIB_SCALE_E4M3, 16, 1, 4 },
    { NIB_NVFP4_B32, "nvfp4-b32", NIB_E2M1, NIB_SCALE_E4M3, 32, 1, 4 },
    { NIB_MXFP4, "mxfp4", NIB_E2M1, NIB_SCALE_E8M0, 32, 0, 4 },
    { NIB_MXFP4_B16, "mxfp4-b16", NIB_E2M1, NIB_SCALE_E8M0, 16, 0, 4 },
    { NIB_MXFP6_E2M3, "mxfp6-e2m3", NIB_E2M3, NIB_SCALE_E8M0, 32, 0, 6 },
    { NIB_MXFP6_E3M2, "mxfp6-e3m2", NIB_E3M2, NIB_SCALE_E8M0, 32, 0, 6 },
    { NIB_MXFP8_E4M3, "mxfp8-e4m3", NIB_E4M3, NIB_SCALE_E8M0, 32, 0, 8 },
    { NIB_MXFP8_E5M2, "mxfp8-e5m2", NIB_E5M2, NIB_SCALE_E8M0, 32, 0, 8 },
    { NIB_FP6_E2M3_B8, "fp6-e2m3-b8", NIB_E2M3, NIB_SCALE_E4M3, 8, 1, 6 },
    { NIB_FP6_E2M3_B16, "fp6-e2m3-b16", NIB_E2M3, NIB_SCALE_E4M3, 16, 1, 6 },
    { NIB_FP6_E2M3_B32, "fp6-e2m3-b32", NIB_E2M3, NIB_SCALE_E4M3, 32, 1, 6 },
    { NIB_FP8_E4M3_B8, "fp8-e4m3-b8", NIB_E4M3, NIB_SCALE_E4M3, 8, 1, 8 },
    { NIB_FP8_E4M3_B16, "fp8-e4m3-b16", NIB_E4M3, NIB_SCALE_E4M3, 16, 1, 8 },
    { NIB_FP8_E4M3_B32, "fp8-e4m3-b32", NIB_E4M3, NIB_SCALE_E4M3, 32, 1, 8 },
};
enum { NAMED = sizeof named / sizeof *named, INVALID_SAMPLES = 7 };

static const nib_format invalid[INVALID_SAMPLES] = { 0, 0xffffffffu, 0x00101105, 0x00101200,
                                                     0x00101000, 0x00111100, 0x10101100 };

NIB_TEST(Format, NamedOnesArePartsAndNames)
{
    for (int i = 0; i < NAMED; i++) {
        const nib_format f = named[i].format;
        nib_format again = 0;
        char text[32];
        EXPECT(nib_format_is_valid(f) == 1, "%s", named[i].name);
        EXPECT((int)nib_format_element(f) == named[i].element, "%s", named[i].name);
        EXPECT((int)nib_format_scale(f) == named[i].scale, "%s", named[i].name);
        EXPECT(nib_format_block(f) == named[i].block, "%s", named[i].name);
        EXPECT(nib_format_has_tensor_scale(f) == named[i].tensor, "%s", named[i].name);
        EXPECT(nib_format_element_bits(f) == named[i].bits, "%s", named[i].name);
        EXPECT(nib_format_name(f, text, sizeof text) == NIB_OK, "%s", nib_last_error());
        EXPECT(!strcmp(text, named[i].name), "'%s' is called '%s'", named[i].name, text);
        EXPECT(nib_format_from_name(named[i].name, &again) == NIB_OK && again == f,
               "'%s' reads as %#x", named[i].name, again);
    }
}

/* All of 2^28 numbers would do no more: every value of each bit field, one field at a time. */
NIB_TEST(Format, ValidIsExactlyWhatTheHeaderSays)
{
    int valid = 0;
    for (uint32_t element = 0; element < 256; element++)
        for (uint32_t scale = 0; scale < 16; scale++)
            for (uint32_t tensor = 0; tensor < 16; tensor++)
                for (uint32_t block = 0; block < 300; block++) {
                    const nib_format f = element | scale << 8 | tensor << 12 | block << 16;
                    const int blocks = block == 8 || block == 16 || block == 32 || block == 64
                                    || block == 128;
                    const int right = element <= 4 && scale <= 1 && tensor <= scale && blocks;
                    valid += right;
                    if (nib_format_is_valid(f) != right)
                        EXPECT(0, "%#x is %s", f, right ? "a format" : "none");
                    if (nib_test_failed()) return;
                }
    EXPECT(valid == 5 * 3 * 5, "%d formats", valid);
    for (uint32_t bit = 28; bit < 32; bit++)
        EXPECT(!nib_format_is_valid(NIB_NVFP4 | 1u << bit), "bit %u is free", bit);
}

NIB_TEST(Format, MakeAndNamesRoundTripAndRefuse)
{
    for (int element = -1; element <= 6; element++)
        for (int scale = -1; scale <= 2; scale++)
            for (int block = -16; block <= 272; block += 8)
                for (int tensor = -1; tensor <= 2; tensor++) {
                    nib_element e;
                    nib_scale_type s;
                    memcpy(&e, &element, sizeof e);
                    memcpy(&s, &scale, sizeof s);
                    const nib_format f = nib_format_make(e, s, block, tensor);
                    const int right = element >= 0 && element <= 4 && scale >= 0 && scale <= 1
                                   && (block == 8 || block == 16 || block == 32 || block == 64
                                       || block == 128)
                                   && tensor >= 0 && tensor <= scale;
                    EXPECT(right == (f != 0xffffffffu), "%d %d %d %d makes %#x", element, scale,
                           block, tensor, f);
                    if (!right) continue;
                    char text[48];
                    nib_format again = 0;
                    EXPECT((int)nib_format_element(f) == element
                               && (int)nib_format_scale(f) == scale && nib_format_block(f) == block
                               && nib_format_has_tensor_scale(f) == tensor, "%#x", f);
                    EXPECT(nib_format_name(f, text, sizeof text) == NIB_OK, "%s", nib_last_error());
                    EXPECT(nib_format_from_name(text, &again) == NIB_OK && again == f,
                           "'%s' reads as %#x, not %#x", text, again, f);
                }
    EXPECT(nib_format_make(NIB_E2M1, NIB_SCALE_E4M3, 1 << 16 | 16, 1) == 0xffffffffu,
           "a block over 12 bits");
    EXPECT(nib_format_make(NIB_E2M1, NIB_SCALE_E4M3, INT32_MIN, 1) == 0xffffffffu, "block min");
}

NIB_TEST(Format, NameOfPartsIsAsDocumented)
{
    char text[32];
    const nib_format f = nib_format_make(NIB_E2M1, NIB_SCALE_E4M3, 64, 1);
    EXPECT(nib_format_name(f, text, sizeof text) == NIB_OK && !strcmp(text, "e2m1/e4m3/64/tensor"),
           "'%s'", text);
}

NIB_TEST(Format, NameChecksItsArguments)
{
    char text[16];
    nib_format f = 7;
    EXPECT_FAILS("text NULL", nib_format_name(NIB_NVFP4, NULL, 8), NIB_ERR_ARGUMENT, "NULL");
    for (int i = 0; i < INVALID_SAMPLES; i++) {
        char number[16];
        snprintf(number, sizeof number, "%#x", invalid[i]);
        memset(text, 'x', sizeof text);
        EXPECT_FAILS("invalid", nib_format_name(invalid[i], text, sizeof text), NIB_ERR_ARGUMENT,
                     invalid[i] ? number : "0");
        EXPECT(memchr(text, '\0', sizeof text), "no NUL after a failure");
    }
    for (size_t bytes = 0; bytes <= 5; bytes++) { /* "nvfp4" needs 6 */
        memset(text, 'x', sizeof text);
        EXPECT_FAILS("cut", nib_format_name(NIB_NVFP4, text, bytes), NIB_ERR_SHAPE, "6");
        EXPECT(bytes == 0 || memchr(text, '\0', bytes), "%zu bytes without NUL", bytes);
        EXPECT(text[bytes] == 'x', "wrote beyond %zu bytes", bytes);
    }
    EXPECT(nib_format_name(NIB_NVFP4, text, 6) == NIB_OK, "%s", nib_last_error());

    EXPECT_FAILS("name NULL", nib_format_from_name(NULL, &f), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("format NULL", nib_format_from_name("nvfp4", NULL), NIB_ERR_ARGUMENT, "NULL");
    static const char *const unknown[] = { "", "NVFP4", "nvfp4 ", "nvfp", "nvfp44", "e2m1",
                                           "e2m1/e4m3/64/", "e2m1/e8m0/32/tensor", "e2m1/e4m3/12",
                                           "e2m1/e4m3/16/tensor" };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        EXPECT_FAILS(unknown[i], nib_format_from_name(unknown[i], &f), NIB_ERR_ARGUMENT,
                     unknown[i]);
        for (int k = 0; k < NAMED; k++)
            EXPECT(strstr(nib_last_error(), named[k].name), "no '%s' in '%s'", named[k].name,
                   nib_last_error());
    }
}

NIB_TEST(Format, SizesEqualTheirFormulas)
{
    for (int i = 0; i < NAMED; i++)
        for (int64_t cols = 0; cols < 300; cols++) {
            const nib_format f = named[i].format;
            const int64_t block = named[i].block, s = (cols + block - 1) / block;
            EXPECT(nib_codes_row_bytes(f, cols) == (cols * named[i].bits + 7) / 8, "%s %lld",
                   named[i].name, (long long)cols);
            EXPECT(nib_scales_per_row(f, cols) == s, "%s %lld", named[i].name, (long long)cols);
            for (int64_t rows = 0; rows < 400; rows += 43) {
                EXPECT(nib_scales_bytes(f, NIB_SCALES_LINEAR, rows, cols) == rows * s,
                       "%s %lldx%lld", named[i].name, (long long)rows, (long long)cols);
                EXPECT(nib_scales_bytes(f, NIB_SCALES_SWIZZLED_128X4, rows, cols)
                           == (rows + 127) / 128 * 128 * ((s + 3) / 4 * 4), "%s %lldx%lld",
                       named[i].name, (long long)rows, (long long)cols);
            }
        }
}

NIB_TEST(Format, SizesAtTheEndsOfInt64)
{
    EXPECT(nib_codes_row_bytes(NIB_NVFP4, INT64_MAX) == INT64_MAX / 2 + 1, "4 bits");
    EXPECT(nib_codes_row_bytes(NIB_MXFP8_E4M3, INT64_MAX) == INT64_MAX, "8 bits");
    EXPECT(nib_codes_row_bytes(NIB_MXFP6_E2M3, INT64_MAX) == INT64_MAX / 8 * 6 + 6, "6 bits");
    EXPECT(nib_scales_per_row(NIB_NVFP4, INT64_MAX) == INT64_MAX / 16 + 1, "scales");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, 15, INT64_MAX) > 0, "fits");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, 16, INT64_MAX) == -1, "over");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, INT64_MAX, INT64_MAX) == -1, "over");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_SWIZZLED_128X4, INT64_MAX, 1) == -1, "over");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_SWIZZLED_128X4, INT64_MAX, 0) <= 0, "none");
    EXPECT(nib_codes_row_bytes(NIB_NVFP4, -1) == -1, "cols -1");
    EXPECT(nib_codes_row_bytes(NIB_NVFP4, INT64_MIN) == -1, "cols min");
    EXPECT(nib_scales_per_row(NIB_NVFP4, -1) == -1, "cols -1");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, -1, 16) == -1, "rows -1");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, -5, 64) == -1, "rows -5");
    EXPECT(nib_scales_bytes(NIB_NVFP4, NIB_SCALES_LINEAR, 1, -16) == -1, "cols -16");
    EXPECT(nib_scales_bytes(NIB_NVFP4, (nib_scale_layout)2, 1, 16) == -1, "layout 2");
    for (int i = 0; i < INVALID_SAMPLES; i++)
        EXPECT(nib_codes_row_bytes(invalid[i], 16) == -1 && nib_scales_per_row(invalid[i], 16) == -1
                   && nib_scales_bytes(invalid[i], NIB_SCALES_LINEAR, 1, 16) == -1,
               "%#x has sizes", invalid[i]);
}

NIB_TEST(Rules, PresetsByNameAndNumber)
{
    static const char *const names[] = { "te", "modelopt", "compressed-tensors", "ocp", "gguf" };
    for (int i = 0; i < 5; i++) {
        nib_rules_preset preset = (nib_rules_preset)99;
        EXPECT(!strcmp(nib_rules_preset_name((nib_rules_preset)i), names[i]), "%d is '%s'", i,
               nib_rules_preset_name((nib_rules_preset)i));
        EXPECT(nib_rules_preset_from_name(names[i], &preset) == NIB_OK && (int)preset == i,
               "'%s' reads as %d", names[i], (int)preset);
        for (int k = 0; k < NAMED; k++) {
            nib_rules rules;
            memset(&rules, 0xff, sizeof rules);
            EXPECT(nib_rules_fill((nib_rules_preset)i, named[k].format, &rules) == NIB_OK, "%s",
                   nib_last_error());
            EXPECT(rules.size == sizeof rules, "size %u", rules.size);
        }
    }
    EXPECT(!strcmp(nib_rules_preset_name((nib_rules_preset)5), "?"), "5 has a name");
    EXPECT(!strcmp(nib_rules_preset_name((nib_rules_preset)0x7fffffff), "?"), "max has a name");
}

NIB_TEST(Rules, PresetFunctionsCheckTheirArguments)
{
    nib_rules rules;
    nib_rules_preset preset;
    const nib_status status = nib_rules_fill(NIB_RULES_TE, NIB_NVFP4, NULL);
    EXPECT(status == NIB_ERR_ARGUMENT && strstr(nib_last_error(), "NULL"), "'%s'",
           nib_last_error());
    EXPECT_FAILS("preset 5", nib_rules_fill((nib_rules_preset)5, NIB_NVFP4, &rules),
                 NIB_ERR_ARGUMENT, "5");
    for (int i = 0; i < INVALID_SAMPLES; i++)
        EXPECT_FAILS("format", nib_rules_fill(NIB_RULES_TE, invalid[i], &rules), NIB_ERR_ARGUMENT,
                     "not a format");
    EXPECT_FAILS("name NULL", nib_rules_preset_from_name(NULL, &preset), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("preset NULL", nib_rules_preset_from_name("te", NULL), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("TE", nib_rules_preset_from_name("TE", &preset), NIB_ERR_ARGUMENT, "'TE'");
    EXPECT_FAILS("", nib_rules_preset_from_name("", &preset), NIB_ERR_ARGUMENT,
                 "te, modelopt, compressed-tensors, ocp, gguf");
}
