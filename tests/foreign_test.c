/* foreign_test.c: decoders of ggml's blocks against the gguf package's values, and rows of
 * halves and GGUF's FP4 blocks against the scalar definitions. Looks below include/: it tests
 * kernels/common/foreign.h and the row functions that host code reaches through a table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/common/foreign.h"
#include "kernels/cpu/foreign_cpu.h"
#include "tests/shim.h"

static uint32_t next_random(uint32_t *state) { return *state = *state * 1664525u + 1013904223u; }

/* ---- golden ---- */

static void check_record(const uint32_t head[4], const uint8_t *blocks, const float *expected)
{
    const int64_t n = (int64_t)head[1] * head[3];
    float *got = malloc((size_t)n * sizeof *got);
    nib_decode_foreign_cpu((int32_t)head[0], blocks, n, got);
    for (int64_t i = 0; i < n; i++) {
        if (nib_bits_of(got[i]) == nib_bits_of(expected[i])) continue;
        EXPECT(0, "type %u block %lld element %lld: %a, gguf has %a", head[0],
               (long long)(i / head[1]), (long long)(i % head[1]), (double)got[i],
               (double)expected[i]);
        break;
    }
    free(got);
}

NIB_TEST(Foreign, GoldenBlocksOfTheGgufPackage) /* scripts/oracles/gen_foreign.py */
{
    uint32_t head[4], records = 0;
    FILE *file = fopen("tests/golden/foreign.bin", "rb");
    REQUIRE(file, "tests/golden/foreign.bin: run from the root of the tree");
    while (fread(head, sizeof head, 1, file) == 1) {
        uint8_t *blocks = malloc((size_t)head[2] * head[3]);
        float *expected = malloc((size_t)head[1] * head[3] * sizeof *expected);
        EXPECT(fread(blocks, head[2], head[3], file) == head[3], "blocks of type %u", head[0]);
        EXPECT(fread(expected, sizeof(float) * head[1], head[3], file) == head[3], "values");
        check_record(head, blocks, expected);
        free(blocks);
        free(expected);
        records++;
    }
    fclose(file);
    EXPECT(records == 10, "%u records", records);
}

/* ---- exact: one block of each kind by hand ---- */

NIB_TEST(Foreign, Q4_0ByHand)
{
    uint8_t block[18] = { 0x00, 0x40 }; /* d = 2 */
    float x[32];
    for (int j = 0; j < 16; j++) block[2 + j] = (uint8_t)(j | (15 - j) << 4);
    nib_decode_q4_0(block, x);
    for (int j = 0; j < 16; j++) {
        EXPECT(x[j] == 2.0f * (float)(j - 8) && x[j + 16] == 2.0f * (float)(7 - j), "%d", j);
    }
}

NIB_TEST(Foreign, Fp4ScaleBytesMeanWhatGgmlReads)
{
    EXPECT(nib_ggml_half_ue4m3(0x00) == 0.0f && nib_ggml_half_ue4m3(0x7f) == 0.0f, "zeros");
    EXPECT(nib_ggml_half_ue4m3(0x7e) == 224.0f, "448 / 2");
    EXPECT(nib_ggml_half_ue4m3(0xff) == 240.0f, "bit 7 is dropped, but 0xff is not 0x7f");
    EXPECT(nib_ggml_half_ue4m3(0x80) == 0.0f, "minus zero");
    for (unsigned b = 1; b < 0x7f; b++) {
        const float half = nib_ggml_half_ue4m3((uint8_t)b);
        EXPECT(half * 2.0f == nib_e4m3_to_f32(b), "byte %#x", b);
        EXPECT(half == nib_ggml_half_ue4m3((uint8_t)(b | 0x80)), "byte %#x", b | 0x80);
    }
    for (unsigned b = 0; b < 255; b++) {
        EXPECT(nib_ggml_half_e8m0((uint8_t)b) * 2.0f == nib_e8m0_to_f32(b), "byte %u", b);
    }
    EXPECT(nib_ggml_half_e8m0(255) == 0x1p127f, "no NaN");
    for (int c = 0; c < 16; c++) {
        const float twice = (float)nib_twice_e2m1((int8_t)c);
        EXPECT(twice == 2.0f * nib_element_to_f32(NIB_EL_E2M1, (uint32_t)c), "code %d", c);
    }
}

/* ---- halves: all 65536, and every f32 near a decision ---- */

NIB_TEST(Foreign, RowsOfHalvesEqualHalfH)
{
    uint8_t *bytes = malloc(2 * 65536 + 1);
    float *x = malloc(65536 * sizeof *x);
    for (int odd = 0; odd < 2; odd++) { /* also at an odd address */
        for (unsigned h = 0; h < 65536; h++) {
            const uint16_t value = (uint16_t)h;
            memcpy(bytes + odd + 2 * h, &value, 2);
        }
        nib_decode_foreign_cpu(NIB_GGML_F16, bytes + odd, 65536, x);
        for (unsigned h = 0; h < 65536 && !nib_test_failed(); h++) {
            EXPECT(nib_bits_of(x[h]) == nib_bits_of(nib_f16_to_f32((uint16_t)h)), "f16 %#x", h);
        }
        nib_decode_foreign_cpu(NIB_GGML_BF16, bytes + odd, 65536, x);
        for (unsigned h = 0; h < 65536 && !nib_test_failed(); h++) {
            EXPECT(nib_bits_of(x[h]) == h << 16, "bf16 %#x", h);
        }
    }
    free(bytes);
    free(x);
}

NIB_TEST(Foreign, RowsToHalvesEqualHalfH)
{
    enum { N = 1024 };
    float x[N], back[N];
    uint16_t f16[N], bf16[N];
    uint32_t seed = 7;
    for (uint32_t upper = 0; upper < 65536 && !nib_test_failed(); upper += 64) {
        for (uint32_t i = 0; i < N; i++) { /* 64 upper halves, 16 lower ones around the ties */
            const uint32_t low[] = { 0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000,
                                     0x3001, 0x7fff, 0x8000, 0x8001, 0xffff,
                                     next_random(&seed) >> 16, next_random(&seed) >> 16 };
            x[i] = nib_float_of((upper + i / 16) << 16 | low[i % 16]);
        }
        nib_from_f32_cpu(NIB_F16, x, N, f16);
        nib_from_f32_cpu(NIB_BF16, x, N, bf16);
        nib_from_f32_cpu(NIB_F32, x, N, back);
        for (int i = 0; i < N; i++) {
            if (f16[i] == nib_f16_from_f32(x[i]) && bf16[i] == nib_bf16_from_f32(x[i])
                && nib_bits_of(back[i]) == nib_bits_of(nib_canonical(x[i]))) continue;
            EXPECT(0, "%#x: f16 %#x, bf16 %#x, f32 %#x", nib_bits_of(x[i]), f16[i], bf16[i],
                   nib_bits_of(back[i]));
        }
    }
    nib_to_f32_cpu(NIB_F32, x, N, back);
    EXPECT(memcmp(x, back, sizeof x) == 0, "f32 is a copy");
    nib_to_f32_cpu(NIB_F32, NULL, 0, back);
    nib_to_f32_cpu(NIB_F16, NULL, 0, back);
}

/* ---- packing ---- */

static void check_packed_row(nib_format format, int64_t cols, uint32_t seed)
{
    const int nv = format == NIB_NVFP4, block = nv ? 16 : 32;
    uint8_t codes[1024] = { 0 }, scales[128] = { 0 }, packed[1280];
    float got[2048];
    for (int64_t i = 0; i < cols / 2; i++) codes[i] = (uint8_t)(next_random(&seed) >> 24);
    for (int64_t i = 0; i < cols / block; i++) {
        scales[i] = (uint8_t)(next_random(&seed) >> 24);
        if (nv) scales[i] &= 0x7f;
    }
    nib_pack_gguf_row_cpu(format, cols, codes, scales, packed);
    nib_decode_foreign_cpu(nv ? NIB_GGML_NVFP4 : NIB_GGML_MXFP4, packed, cols, got);

    for (int64_t i = 0; i < cols; i++) {
        const uint32_t code = codes[i / 2] >> (i % 2 * 4) & 15, byte = scales[i / block];
        if (byte == (nv ? NIB_E4M3_NAN : NIB_E8M0_NAN)) continue; /* ggml has no NaN scales */
        const float scale = nv ? nib_e4m3_to_f32(byte) : nib_e8m0_to_f32(byte);
        float expected = nib_element_to_f32(NIB_EL_E2M1, code) * scale;
        if (code == 8) expected = 0.0f; /* ggml's table has no minus zero */
        if (nib_bits_of(got[i]) == nib_bits_of(expected)) continue;
        EXPECT(0, "format %#x cols %lld element %lld code %u scale %#x: %a, not %a", format,
               (long long)cols, (long long)i, code, byte, (double)got[i], (double)expected);
        return;
    }
}

NIB_TEST(Foreign, PackedRowsDecodeToCodeTimesScale)
{
    for (uint32_t seed = 1; seed < 200 && !nib_test_failed(); seed++) {
        check_packed_row(NIB_MXFP4, 32 * (int64_t)(seed % 64), seed);
        check_packed_row(NIB_NVFP4, 64 * (int64_t)(seed % 32), seed);
    }
}

NIB_TEST(Foreign, PackedRowKeepsEveryByte) /* nothing is written past the row */
{
    const uint8_t codes[32] = { 0x10, 0x32, [8] = 0x54, [16] = 0x98 };
    const uint8_t scales[4] = { 1, 2, 3, 4 };
    uint8_t dst[40];
    memset(dst, 0xee, sizeof dst);
    nib_pack_gguf_row_cpu(NIB_MXFP4, 32, codes, scales, dst);
    EXPECT(dst[0] == 1 && dst[1] == 0x40 && dst[2] == 0x51 && dst[3] == 2 && dst[4] == 3,
           "%02x %02x %02x %02x %02x", dst[0], dst[1], dst[2], dst[3], dst[4]);
    EXPECT(dst[17] == 0xee, "%02x", dst[17]);
    nib_pack_gguf_row_cpu(NIB_NVFP4, 64, codes, scales, dst);
    EXPECT(memcmp(dst, scales, 4) == 0, "four scales first");
    EXPECT(dst[4] == 0x00 && dst[5] == 0x01 && dst[6] == 0x02 && dst[7] == 0x03, "%02x %02x",
           dst[4], dst[5]);
    EXPECT(dst[12] == 0x04 && dst[13] == 0x05 && dst[20] == 0x08 && dst[21] == 0x09, "%02x",
           dst[12]);
    EXPECT(dst[36] == 0xee, "%02x", dst[36]);
}
