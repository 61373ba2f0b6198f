/* layout_test.c: the index maps of kernels/common/layout.h are bijections, their inverses
 * undo them, and what they leave out is the padding. */
#include <stdint.h>
#include <stdlib.h>

#include "kernels/common/layout.h"
#include "tests/shim.h"

NIB_TEST(Layout, CeilDiv)
{
    EXPECT(nib_ceil_div(0, 4) == 0 && nib_ceil_div(1, 4) == 1 && nib_ceil_div(4, 4) == 1, "small");
    EXPECT(nib_ceil_div(5, 4) == 2 && nib_ceil_div(INT64_MAX, 2) == (INT64_MAX >> 1) + 1, "large");
}

NIB_TEST(Layout, PairsByHand)
{
    const nib_nibble first = nib_nibble_pairs(0), second = nib_nibble_pairs(1);
    const nib_nibble seventh = nib_nibble_pairs(7);
    EXPECT(first.byte == 0 && first.shift == 0, "x[0] is low");
    EXPECT(second.byte == 0 && second.shift == 4, "x[1] is high");
    EXPECT(seventh.byte == 3 && seventh.shift == 4, "x[7]");
    for (int64_t col = 0; col < 1000; col++)
        EXPECT(nib_nibble_pairs_inverse(nib_nibble_pairs(col)) == col, "%d", (int)col);
}

NIB_TEST(Layout, HalvesAreABijectionInEachBlock)
{
    const nib_nibble low = nib_nibble_halves(33, 32), high = nib_nibble_halves(48, 32);
    EXPECT(low.byte == 17 && low.shift == 0, "x[33]: byte 1 of block 1");
    EXPECT(high.byte == 16 && high.shift == 4, "x[48] = x[32 + 16]: byte 0 of block 1");

    const int blocks[] = { 8, 16, 32, 64, 128 };
    for (int b = 0; b < 5; b++) {
        const int block = blocks[b];
        uint8_t seen[5 * 128] = { 0 };
        for (int64_t col = 0; col < 5 * block; col++) {
            const nib_nibble n = nib_nibble_halves(col, block);
            REQUIRE(n.byte >= 0 && n.byte < 5 * block / 2, "block %d, col %d", block, (int)col);
            EXPECT(n.byte / (block / 2) == col / block, "stays in its block");
            EXPECT(!seen[n.byte * 2 + n.shift / 4]++, "block %d: col %d collides", block, (int)col);
            EXPECT(nib_nibble_halves_inverse(n, block) == col, "block %d, col %d", block, (int)col);
        }
    }
}

NIB_TEST(Layout, SixBitsFillThreeBytes)
{
    uint8_t used[96] = { 0 }; /* bits of each byte */
    for (int64_t col = 0; col < 128; col++)
        for (int bit = 0; bit < 6; bit++) {
            const int64_t at = nib_six_bit_byte(col) * 8 + nib_six_bit_shift(col) + bit;
            EXPECT(at == col * 6 + bit, "col %d bit %d", (int)col, bit);
            used[at / 8] = (uint8_t)(used[at / 8] | 1u << at % 8);
        }
    for (int i = 0; i < 96; i++) EXPECT(used[i] == 0xff, "byte %d", i);
}

/* The picture in nibble/format.h, from the CUDA cuBLAS manual. */
NIB_TEST(Layout, SwizzleByHand)
{
    const struct { int64_t m, k, cols, offset; } rows[] = {
        { 0, 0, 4, 0 }, { 0, 3, 4, 3 }, { 32, 0, 4, 4 }, { 64, 1, 4, 9 }, { 96, 3, 4, 15 },
        { 1, 0, 4, 16 }, { 31, 0, 4, 496 }, { 127, 3, 4, 511 }, { 0, 4, 5, 512 },
        { 128, 0, 4, 512 }, { 128, 0, 5, 1024 }, { 129, 6, 9, 3 * 512 + 512 + 16 + 2 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int64_t offset = nib_swizzle_128x4(rows[i].m, rows[i].k, rows[i].cols);
        EXPECT(offset == rows[i].offset, "row %d of the table: %d", (int)i, (int)offset);
    }
}

/* Every (m, k) has its own place below the allocation's size; the inverse finds it again; and
 * the places that are left are those whose inverse lies outside the matrix. */
NIB_TEST(Layout, SwizzleIsABijectionWithItsPadding)
{
    const int64_t shapes[][2] = { { 1, 1 }, { 1, 7 }, { 31, 3 }, { 32, 4 }, { 33, 5 }, { 127, 1 },
                                  { 128, 4 }, { 129, 4 }, { 128, 5 }, { 200, 13 }, { 384, 16 },
                                  { 577, 2 } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t rows = shapes[s][0], cols = shapes[s][1];
        const int64_t size = nib_ceil_div(rows, 128) * 128 * nib_ceil_div(cols, 4) * 4;
        uint8_t *seen = calloc((size_t)size, 1);
        for (int64_t m = 0; m < rows; m++)
            for (int64_t k = 0; k < cols; k++) {
                const int64_t offset = nib_swizzle_128x4(m, k, cols);
                int64_t m2 = -1, k2 = -1;
                nib_swizzle_128x4_inverse(offset, cols, &m2, &k2);
                EXPECT(offset >= 0 && offset < size && !seen[offset], "%d x %d: (%d, %d) at %d",
                       (int)rows, (int)cols, (int)m, (int)k, (int)offset);
                EXPECT(m2 == m && k2 == k, "%d x %d: (%d, %d) comes back as (%d, %d)", (int)rows,
                       (int)cols, (int)m, (int)k, (int)m2, (int)k2);
                if (offset >= 0 && offset < size) seen[offset] = 1;
            }
        int64_t padding = 0;
        for (int64_t offset = 0; offset < size; offset++) {
            int64_t m, k;
            nib_swizzle_128x4_inverse(offset, cols, &m, &k);
            EXPECT((m < rows && k < cols) == seen[offset], "offset %d", (int)offset);
            EXPECT(nib_swizzle_128x4(m, k, cols) == offset, "offset %d comes back", (int)offset);
            padding += !seen[offset];
        }
        EXPECT(padding == size - rows * cols, "%d x %d: %d bytes of padding", (int)rows, (int)cols,
               (int)padding);
        free(seen);
    }
}
