/* philox.h: Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3" (SC 2011); the constants are theirs. A counter and a key give
 * four words, so any thread can make the numbers of any element without state. */
#ifndef NIB_PHILOX_H
#define NIB_PHILOX_H

#include "hd.h"

typedef struct nib_philox4 {
    uint32_t word[4];
} nib_philox4;

#define NIB_PHILOX_ROUNDS 10
#define NIB_PHILOX_KEY0   0x9E3779B9u /* what a round adds to the halves of the key */
#define NIB_PHILOX_KEY1   0xBB67AE85u

/* low and high are the halves of the 128-bit counter. */
NIB_HD nib_philox4 nib_philox_counter(uint64_t low, uint64_t high)
{
    const nib_philox4 c = { { (uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high,
                              (uint32_t)(high >> 32) } };
    return c;
}

NIB_HD nib_philox4 nib_philox_round(nib_philox4 c, uint32_t k0, uint32_t k1)
{
    const uint64_t p0 = (uint64_t)0xD2511F53u * c.word[0], p1 = (uint64_t)0xCD9E8D57u * c.word[2];
    const nib_philox4 out = { { (uint32_t)(p1 >> 32) ^ c.word[1] ^ k0, (uint32_t)p1,
                                (uint32_t)(p0 >> 32) ^ c.word[3] ^ k1, (uint32_t)p0 } };
    return out;
}

/* The whole generator. */
NIB_HD nib_philox4 nib_philox128(uint64_t low, uint64_t high, uint64_t key)
{
    nib_philox4 c = nib_philox_counter(low, high);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < NIB_PHILOX_ROUNDS; round++) {
        c = nib_philox_round(c, k0, k1);
        k0 += NIB_PHILOX_KEY0, k1 += NIB_PHILOX_KEY1;
    }
    return c;
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
