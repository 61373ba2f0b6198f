/* quantize_source.h: formats and elements that quantize's tests and fake-quantize's share. */
#ifndef NIB_QUANTIZE_SOURCE_H
#define NIB_QUANTIZE_SOURCE_H

#include "kernels/common/half.h"
#include "nibble/quantize.h"
#include "tests/emu/emu_test.h"

#include <math.h>

namespace {

constexpr size_t guard = 64; /* bytes behind every buffer */
const nib_dtype  dtypes[] = { NIB_F32, NIB_F16, NIB_BF16 };

const nib_format named[] = {
    NIB_NVFP4, NIB_NVFP4_B32, NIB_MXFP4, NIB_MXFP4_B16, NIB_MXFP6_E2M3, NIB_MXFP6_E3M2,
    NIB_MXFP8_E4M3, NIB_MXFP8_E5M2, NIB_FP6_E2M3_B8, NIB_FP6_E2M3_B16, NIB_FP6_E2M3_B32,
    NIB_FP8_E4M3_B8, NIB_FP8_E4M3_B16, NIB_FP8_E4M3_B32,
    0x00100100 /* E2M1 by E4M3 without a tensor scale */
};

float unit(Random &random) { return (float)(random.next() >> 8) * 0x1p-23f - 1.0f; }

/* Stretches of 24 elements of one kind, so that blocks see one kind or a border of two. */
float element(Random &random, int kind)
{
    const float specials[] = { INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e-45f, -1e-40f, 3.4e38f };
    switch (kind) {
    case 0: return random.next() % 3 ? 0.0f : -0.0f;
    case 1: return (float)(random.below(57) - 28) * 0.25f; /* ties of every step */
    case 2: return specials[random.below(8)];
    case 3: return random.next() % 20 ? unit(random) : specials[random.below(8)];
    case 4: return ldexpf(unit(random), random.below(60) - 30);
    case 5: return ldexpf(unit(random), -120 - random.below(30));
    case 6: return ldexpf(unit(random), 100 + random.below(27));
    case 7: return -0.0f;
    default: return unit(random) * 0.05f;
    }
}

std::vector<uint8_t> source(nib_dtype dtype, size_t elements, Random &random)
{
    std::vector<uint8_t> x(elements * (dtype == NIB_F32 ? 4 : 2) + guard);
    int kind = 9;
    for (size_t i = 0; i < elements; i++) {
        if (i % 24 == 0) kind = random.below(14);
        nib_store_f32((int)dtype, x.data(), (int64_t)i, element(random, kind));
    }
    return x;
}

} // namespace

#endif
