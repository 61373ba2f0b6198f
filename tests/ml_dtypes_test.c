/* ml_dtypes_test.c: the scalar codecs against the ml_dtypes package. tests/golden/ml_dtypes.bin is
 * made by scripts/oracles/gen_ml_dtypes.py, whose header describes the file. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "kernels/common/half.h"
#include "kernels/common/scale.h"
#include "tests/shim.h"

enum { DECODED = 16 + 64 + 64 + 3 * 256, ROW = 13 };

static uint32_t u32_at(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static void check_decoders(const uint8_t *table)
{
    const uint32_t codes[6] = { 16, 64, 64, 256, 256, 256 };
    for (int type = 0; type < 6; type++)
        for (uint32_t code = 0; code < codes[type]; code++, table += 4) {
            const float want = nib_canonical(nib_float_of(u32_at(table)));
            const float x = type < 5 ? nib_element_to_f32(type, code) : nib_e8m0_to_f32(code);
            EXPECT(nib_bits_of(x) == nib_bits_of(want), "type %d code %#x: %g, want %g", type,
                   code, (double)x, (double)want);
        }
}

static void check_row(const uint8_t *row)
{
    const float x = nib_float_of(u32_at(row));
    for (int el = 0; el < 5; el++) {
        const uint32_t code = nib_element_from_f32(el, x);
        EXPECT(code == row[4 + el], "element %d of %a: %#x, want %#x", el, (double)x, code,
               row[4 + el]);
    }
    const uint32_t f16 = row[9] | (uint32_t)row[10] << 8, bf16 = row[11] | (uint32_t)row[12] << 8;
    EXPECT(nib_f16_from_f32(x) == f16, "f16 of %a: want %#x", (double)x, f16);
    EXPECT(nib_bf16_from_f32(x) == bf16, "bf16 of %a: want %#x", (double)x, bf16);
}

NIB_TEST(MlDtypes, SameCodesAndValues)
{
    static uint8_t golden[1 << 18];
    FILE *file = fopen("tests/golden/ml_dtypes.bin", "rb");
    REQUIRE(file, "tests/golden/ml_dtypes.bin is missing");
    const size_t bytes = fread(golden, 1, sizeof golden, file);
    fclose(file);
    const uint8_t *rows = golden + 8 + DECODED * 4 + 4;
    const uint32_t n = u32_at(rows - 4);
    REQUIRE(memcmp(golden, "NIBMLD01", 8) == 0 && n > 5000
                && bytes == (size_t)(rows - golden) + (size_t)n * ROW, "%zu bytes", bytes);
    check_decoders(golden + 8);
    for (uint32_t i = 0; i < n; i++) check_row(rows + (size_t)i * ROW);
}
