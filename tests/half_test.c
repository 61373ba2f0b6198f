/* half_test.c: kernels/common/half.h over all halves, and at every rounding midpoint. */
#include <math.h>
#include <stdint.h>

#include "kernels/common/half.h"
#include "tests/shim.h"

/* Magnitude of an f16 from IEEE 754's definition. 0x7c00 gives 65536, where Inf begins to be
 * nearer than 65504. */
static double f16_value(uint32_t a)
{
    return a >> 10 ? ldexp(1024 + (a & 1023), (int)(a >> 10) - 25) : ldexp(a, -24);
}

static float from_bits(uint32_t sign, float a) { return nib_float_of(nib_bits_of(a) | sign << 31); }

NIB_TEST(Half, AllF16DecodeAndComeBack)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t a = h & 0x7fff, sign = h >> 15;
        const float x = nib_f16_to_f32((uint16_t)h);
        if (a > 0x7c00) {
            EXPECT(nib_is_nan(x) && nib_f16_from_f32(x) == 0x7fff, "NaN %#x", h);
            continue;
        }
        const float want = from_bits(sign, a == 0x7c00 ? INFINITY : (float)f16_value(a));
        EXPECT(nib_bits_of(x) == nib_bits_of(want), "%#x is %g, want %g", h, (double)x,
               (double)want);
        EXPECT(nib_f16_from_f32(x) == h, "%#x comes back as %#x", h, nib_f16_from_f32(x));
    }
}

NIB_TEST(Half, F16Midpoints) /* every pair of neighbours: the tie to even, one ulp to either side */
{
    for (uint32_t a = 0; a < 0x7c00; a++)
        for (uint32_t sign = 0; sign < 2; sign++) {
            const uint32_t mid = nib_bits_of((float)(0.5 * (f16_value(a) + f16_value(a + 1))));
            const uint32_t got[3] = { nib_f16_from_f32(nib_float_of((mid - 1) | sign << 31)),
                                      nib_f16_from_f32(nib_float_of(mid | sign << 31)),
                                      nib_f16_from_f32(nib_float_of((mid + 1) | sign << 31)) };
            EXPECT(got[0] == (a | sign << 15), "below the midpoint of %#x: %#x", a, got[0]);
            EXPECT(got[1] == ((a + (a & 1)) | sign << 15), "midpoint of %#x: %#x", a, got[1]);
            EXPECT(got[2] == ((a + 1) | sign << 15), "above the midpoint of %#x: %#x", a, got[2]);
        }
}

NIB_TEST(Half, AllBf16DecodeAndRound)
{
    for (uint32_t b = 0; b < 65536; b++) {
        const uint32_t a = b & 0x7fff;
        const float x = nib_bf16_to_f32((uint16_t)b);
        EXPECT(nib_bits_of(x) == b << 16, "%#x", b);
        if (a > 0x7f80) {
            EXPECT(nib_bf16_from_f32(x) == 0x7fff, "NaN %#x", b);
            continue;
        }
        EXPECT(nib_bf16_from_f32(x) == b, "%#x comes back as %#x", b, nib_bf16_from_f32(x));
        if (a == 0x7f80) continue;
        const uint32_t mid = b << 16 | 0x8000;
        EXPECT(nib_bf16_from_f32(nib_float_of(mid - 1)) == b, "below the midpoint of %#x", b);
        EXPECT(nib_bf16_from_f32(nib_float_of(mid)) == b + (b & 1), "midpoint of %#x", b);
        EXPECT(nib_bf16_from_f32(nib_float_of(mid + 1)) == b + 1, "above the midpoint of %#x", b);
    }
}

NIB_TEST(Half, OverflowAndNan)
{
    EXPECT(nib_f16_from_f32(65519.996f) == 0x7bff && nib_f16_from_f32(65520.0f) == 0x7c00,
           "the largest f16");
    EXPECT(nib_f16_from_f32(-INFINITY) == 0xfc00 && nib_f16_from_f32(NIB_F32_MAX) == 0x7c00, "Inf");
    EXPECT(nib_bf16_from_f32(NIB_F32_MAX) == 0x7f80 && nib_bf16_from_f32(-INFINITY) == 0xff80,
           "bf16 Inf");
    EXPECT(nib_f16_from_f32(-NAN) == 0x7fff && nib_bf16_from_f32(-NAN) == 0x7fff, "NaN");
    for (uint32_t bits = 0x7f800001; bits < 0x7f900000; bits += 77) /* a payload that rounds away */
        EXPECT(nib_f16_from_f32(nib_float_of(bits)) == 0x7fff
                   && nib_bf16_from_f32(nib_float_of(bits)) == 0x7fff, "NaN %#x", bits);
}

NIB_TEST(Half, LoadAndStoreByDtype)
{
    const float x[4] = { 1.0f, -2.5f, 65536.0f, NAN };
    const uint32_t want[3][4] = { { 0x3f800000, 0xc0200000, 0x47800000, NIB_F32_NAN_BITS },
                                  { 0x3c00, 0xc100, 0x7c00, 0x7fff },
                                  { 0x3f80, 0xc020, 0x4780, 0x7fff } };
    for (int dtype = 0; dtype < 3; dtype++)
        for (int i = 0; i < 4; i++) {
            uint32_t wide[4] = { 0 };
            nib_store_f32(dtype, wide, i, x[i]);
            const uint32_t stored = dtype == NIB_DT_F32 ? wide[i] : ((const uint16_t *)wide)[i];
            EXPECT(stored == want[dtype][i], "dtype %d, %g: %#x", dtype, (double)x[i], stored);
            const float back = nib_load_f32(dtype, wide, i);
            const float round = nib_round_to_dtype(dtype, x[i]);
            EXPECT(nib_bits_of(nib_canonical(back)) == nib_bits_of(nib_canonical(round)),
                   "dtype %d, %g: loaded %g, rounded %g", dtype, (double)x[i], (double)back,
                   (double)round);
        }
}
