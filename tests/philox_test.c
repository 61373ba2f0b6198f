/* philox_test.c: kernels/common/philox.h against Random123's known answers. */
#include <stdint.h>

#include "kernels/common/philox.h"
#include "tests/shim.h"

/* philox4x32-10 rows of kat_vectors, Random123 1.14 (github.com/DEShawResearch/random123). */
NIB_TEST(Philox, KnownAnswers)
{
    const struct {
        uint32_t counter[4], key[2], word[4];
    } rows[] = {
        { { 0 }, { 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (int i = 0; i < 3; i++) {
        const uint64_t low = (uint64_t)rows[i].counter[1] << 32 | rows[i].counter[0];
        const uint64_t high = (uint64_t)rows[i].counter[3] << 32 | rows[i].counter[2];
        const uint64_t key = (uint64_t)rows[i].key[1] << 32 | rows[i].key[0];
        const nib_philox4 out = nib_philox128(low, high, key);
        for (int w = 0; w < 4; w++)
            EXPECT(out.word[w] == rows[i].word[w], "row %d word %d: %#x", i, w, out.word[w]);
    }
}

NIB_TEST(Philox, WordOfAnElement) /* word i % 4 of counter offset + i / 4; the counter wraps */
{
    const uint64_t seeds[] = { 0, 1, 0x123456789abcdef0u }, offsets[] = { 0, 7, UINT64_MAX - 1 };
    for (int s = 0; s < 3; s++)
        for (int o = 0; o < 3; o++)
            for (uint64_t i = 0; i < 40; i++) {
                const nib_philox4 out = nib_philox128(offsets[o] + i / 4, 0, seeds[s]);
                const uint32_t want = out.word[i % 4];
                EXPECT(nib_random_word(seeds[s], offsets[o], i) == want,
                       "seed %d, offset %d, element %d", s, o, (int)i);
            }
}

NIB_TEST(Philox, BitsAreBalanced) /* 2^18 words: each bit set half of the time, within 5 sigma */
{
    const int n = 1 << 18;
    int ones[32] = { 0 };
    for (int i = 0; i < n; i++) {
        const uint32_t word = nib_random_word(42, 0, (uint64_t)i);
        for (int b = 0; b < 32; b++) ones[b] += (int)(word >> b & 1);
    }
    for (int b = 0; b < 32; b++) /* sigma = sqrt(n) / 2 = 256 */
        EXPECT(ones[b] > n / 2 - 1280 && ones[b] < n / 2 + 1280, "bit %d: %d of %d", b, ones[b], n);
}
