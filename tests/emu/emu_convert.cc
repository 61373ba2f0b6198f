/* emu_convert.cc: conversions of one value, written from the PTX ISA's text in doubles, where every
 * f32 and every product with a power of two is exact. */
#include "tests/emu/emu_internal.h"
#include "tests/emu/emu_convert.h"

#include <cmath>

namespace nib_emu {

void lacks(const char *instruction, int sm, const char *file, int line)
{
    Unseen unseen;
    fail("%s at %s:%d: sm_%d has no such instruction", instruction, file, line, sm);
}

/* The magnitude code of x >= 0 in a float of p mantissa bits whose smallest normal is 2^least:
 * nearest, ties to the even code. Not limited above. */
static uint64_t rounded(double x, int p, int least)
{
    if (x == 0.0) return 0;
    int e;
    std::frexp(x, &e); /* x = 0.5 .. 1 times 2^e */
    e = e - 1 < least ? least : e - 1;
    const double units = std::nearbyint(std::ldexp(x, p - e));
    return (uint64_t)units + ((uint64_t)(e - least) << p);
}

static uint32_t sign_of(float x) { return std::signbit(x) ? 1u : 0u; }

/* "For e2m1x2, NaN becomes positive MAX_NORM; satfinite: larger ones MAX_NORM of their sign." */
uint32_t e2m1_of(float x)
{
    if (std::isnan(x)) return 7;
    const double a = std::fabs((double)x);
    return sign_of(x) << 3 | (a >= 6.0 ? 7u : (uint32_t)rounded(a, 1, 0));
}

/* "For e4m3x2, NaN becomes the canonical 0x7f." 448 is MAX_NORM, code 0x7e. */
uint32_t e4m3_of(float x)
{
    if (std::isnan(x)) return 0x7f;
    const double a = std::fabs((double)x);
    return sign_of(x) << 7 | (a >= 448.0 ? 0x7eu : (uint32_t)rounded(a, 3, -6));
}

/* Without satfinite what rounds past the largest is Inf; canonical NaN is 0x7fff. */
static uint32_t half_of(float x, int p, int least, uint32_t infinity)
{
    if (std::isnan(x)) return 0x7fff;
    const double a = std::fabs((double)x);
    const uint64_t code = std::isinf(x) ? infinity : rounded(a, p, least);
    return sign_of(x) << 15 | (code < infinity ? (uint32_t)code : infinity);
}

uint32_t f16_of(float x) { return half_of(x, 10, -14, 0x7c00); }
uint32_t bf16_of(float x) { return half_of(x, 7, -126, 0x7f80); }

/* Value of a small float's magnitude. */
static double value_of(uint32_t code, int p, int least)
{
    const uint32_t e = code >> p, f = code & ((1u << p) - 1);
    return e ? std::ldexp((double)(f + (1u << p)), (int)e - 1 + least - p)
             : std::ldexp((double)f, least - p);
}

uint32_t f16_of_e2m1(uint32_t code)
{
    return (code & 8) << 12 | f16_of((float)value_of(code & 7, 1, 0));
}

uint32_t f16_of_e4m3(uint32_t code)
{
    if ((code & 0x7f) == 0x7f) return 0x7fff;
    return (code & 0x80) << 8 | f16_of((float)value_of(code & 0x7f, 3, -6));
}

float f32_of_f16(uint32_t half)
{
    const uint32_t a = half & 0x7fff;
    const double x = a > 0x7c00 ? (double)NAN : a == 0x7c00 ? (double)INFINITY
                                                            : value_of(a, 10, -14);
    return (float)std::copysign(x, half & 0x8000 ? -1.0 : 1.0);
}

} // namespace nib_emu
