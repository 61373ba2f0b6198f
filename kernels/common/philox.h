/* philox.h: Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3" (SC 2011); the constants are theirs. A counter and a key give
 * four words, so any thread can make the numbers of any element without state. */
#ifndef NIB_PHILOX_H
#define NIB_PHILOX_H

#include "hd.h"

typedef struct nib_philox4 {
    uint32_t word[4];
} nib_philox4;

/* The whole generator; low and high are the halves of its 128-bit counter. */
NIB_HD nib_philox4 nib_philox128(uint64_t low, uint64_t high, uint64_t key)
{
    uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32);
    uint32_t c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const nib_philox4 out = { { c0, c1, c2, c3 } };
    return out;
}

NIB_HD nib_philox4 nib_philox(uint64_t counter, uint64_t key)
{
    return nib_philox128(counter, 0, key);
}

/* The random word of element i; see nib_quantize_options.random. */
NIB_HD uint32_t nib_random_word(uint64_t seed, uint64_t offset, uint64_t i)
{
    return nib_philox(offset + i / 4, seed).word[i % 4];
}

#endif
