/* int_format_test.c: integer formats: numbers, parts and names. */
#include <string.h>

#include "expect_status.h"
#include "nibble/int_format.h"

static const struct {
    const char      *name;
    nib_step_element element;
    int64_t          group;
    int32_t          asymmetric;
} named[] = {
    { "int4", NIB_INT4, 128, 0 },         { "int8", NIB_INT8, 128, 0 },
    { "int4-asym", NIB_INT4, 128, 1 },    { "int8-b8", NIB_INT8, 8, 0 },
    { "int4-b64-asym", NIB_INT4, 64, 1 }, { "int4-channel", NIB_INT4, 0, 0 },
    { "int8-channel-asym", NIB_INT8, 0, 1 }, { "int8-b16777216", NIB_INT8, 1 << 24, 0 },
};

NIB_TEST(IntFormat, NamesAndPartsOfEach)
{
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        char text[32];
        nib_format again = 0;
        const nib_format f = nib_int_format_make(named[i].element, named[i].group,
                                                 named[i].asymmetric);
        EXPECT(nib_int_format_is_valid(f) && !nib_format_is_valid(f), "%s: %#x", named[i].name, f);
        EXPECT(nib_int_format_element(f) == named[i].element
                   && nib_int_format_group(f) == named[i].group
                   && nib_int_format_asymmetric(f) == named[i].asymmetric, "%s", named[i].name);
        EXPECT(nib_int_format_name(f, text, sizeof text) == NIB_OK
                   && !strcmp(text, named[i].name), "'%s', not '%s'", text, named[i].name);
        EXPECT(nib_int_format_from_name(named[i].name, &again) == NIB_OK && again == f, "%s: %#x",
               named[i].name, again);
    }
    nib_format f = 0;
    EXPECT(nib_int_format_from_name("int4-b128", &f) == NIB_OK
               && f == nib_int_format_make(NIB_INT4, NIB_INT_FORMAT_GROUP, 0), "int4-b128: %#x", f);
}

NIB_TEST(IntFormat, OtherPartsMakeNone)
{
    EXPECT(nib_int_format_make(NIB_INT5, 128, 0) == 0xffffffffu
           && nib_int_format_make(NIB_STEP_E4M3, 128, 0) == 0xffffffffu
           && nib_int_format_make(NIB_INT4, 12, 0) == 0xffffffffu
           && nib_int_format_make(NIB_INT4, -8, 0) == 0xffffffffu
           && nib_int_format_make(NIB_INT4, (1 << 24) + 8, 0) == 0xffffffffu
           && nib_int_format_make(NIB_INT4, 128, 2) == 0xffffffffu
           && nib_int_format_make(NIB_INT4, 128, -1) == 0xffffffffu, "made");
    EXPECT(!nib_int_format_is_valid(NIB_NVFP4) && !nib_int_format_is_valid(0)
           && !nib_int_format_is_valid(0xffffffffu) && !nib_int_format_is_valid(0x80000013u)
           && !nib_int_format_is_valid(0xfffffe14u), "valid");
}

NIB_TEST(IntFormat, RefusesOtherNames)
{
    static const char *const unknown[] = {
        "", "int", "int5", "int44", "INT4", "int4 ", "int4-", "int4-b", "int4-b0", "int4-b12",
        "int4-b-8", "int4-b+8", "int4-b08", "int4-b16777224", "int4-b99999999999999999999",
        "int4-row", "int4-channel-", "int4-asym-channel", "int4-asymm", "int4-asym-asym", "nvfp4" };
    char text[8];
    nib_format f = 7;
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        EXPECT_FAILS(unknown[i], nib_int_format_from_name(unknown[i], &f), NIB_ERR_ARGUMENT,
                     "unknown integer format");
    EXPECT(f == 7, "%#x", f);
    EXPECT_FAILS("NULL", nib_int_format_from_name(NULL, &f), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("NULL", nib_int_format_from_name("int4", NULL), NIB_ERR_ARGUMENT, "NULL");
    const nib_format asym = nib_int_format_make(NIB_INT4, 128, 1);
    EXPECT_FAILS("NULL", nib_int_format_name(asym, NULL, 8), NIB_ERR_ARGUMENT, "NULL");
    EXPECT_FAILS("nvfp4", nib_int_format_name(NIB_NVFP4, text, sizeof text), NIB_ERR_ARGUMENT,
                 "0x101100");
    for (size_t bytes = 0; bytes < sizeof text; bytes++) { /* "int4-asym" needs 10 */
        memset(text, 'x', sizeof text);
        EXPECT_FAILS("cut", nib_int_format_name(asym, text, bytes), NIB_ERR_SHAPE, "9 characters");
        EXPECT(bytes == 0 || memchr(text, '\0', bytes), "%zu bytes without NUL", bytes);
    }
}
