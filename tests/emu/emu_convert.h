/* emu_convert.h: the conversions and wide loads of kernels/cuda/ptx.cuh for the emulator. What a
 * target lacks is lacking here too: NIB_EMU_ARCH, 80 or 100, is the target of a source file. */
#ifndef NIB_EMU_CONVERT_H
#define NIB_EMU_CONVERT_H

#include "tests/emu/emu_device.h"
#include "tests/emu/emu_types.h"

#include <cmath>

#ifndef NIB_EMU_ARCH
#define NIB_EMU_ARCH 80
#endif
#define NIB_HAS_CVT_E2M1 (NIB_EMU_ARCH >= 100)
#define NIB_HAS_CVT_E4M3 (NIB_EMU_ARCH >= 89)
#define NIB_HAS_MEM32    (NIB_EMU_ARCH >= 100)

namespace nib_emu {

/* One value by the text of the PTX ISA, section "cvt". They share nothing with kernels/common. */
uint32_t e2m1_of(float x); /* .rn.satfinite */
uint32_t e4m3_of(float x); /* .rn.satfinite */
uint32_t f16_of(float x);  /* .rn */
uint32_t bf16_of(float x); /* .rn */
uint32_t f16_of_e2m1(uint32_t code);
uint32_t f16_of_e4m3(uint32_t code);
float    f32_of_f16(uint32_t half);

void lacks(const char *instruction, int sm, const char *file, int line); /* stops the kernel */

} // namespace nib_emu

namespace nib_ptx {

/* static: each source file has its own target. */
static inline uint32_t cvt_e2m1x2(float lo, float hi, NIB_EMU_AT)
{
    if (!NIB_HAS_CVT_E2M1) nib_emu::lacks("cvt.e2m1x2.f32", NIB_EMU_ARCH, file, line);
    return nib_emu::e2m1_of(hi) << 4 | nib_emu::e2m1_of(lo);
}
static inline uint32_t cvt_e4m3x2(float lo, float hi, NIB_EMU_AT)
{
    if (!NIB_HAS_CVT_E4M3) nib_emu::lacks("cvt.e4m3x2.f32", NIB_EMU_ARCH, file, line);
    return nib_emu::e4m3_of(hi) << 8 | nib_emu::e4m3_of(lo);
}
template <int byte = 0> inline uint32_t cvt_f16x2_e2m1x2(uint32_t codes, NIB_EMU_AT)
{
    if (!NIB_HAS_CVT_E2M1) nib_emu::lacks("cvt.f16x2.e2m1x2", NIB_EMU_ARCH, file, line);
    codes >>= 8 * byte;
    return nib_emu::f16_of_e2m1(codes >> 4 & 15) << 16 | nib_emu::f16_of_e2m1(codes & 15);
}
static inline uint32_t cvt_f16x2_e4m3x2(uint32_t codes, NIB_EMU_AT)
{
    if (!NIB_HAS_CVT_E4M3) nib_emu::lacks("cvt.f16x2.e4m3x2", NIB_EMU_ARCH, file, line);
    return nib_emu::f16_of_e4m3(codes >> 8 & 255) << 16 | nib_emu::f16_of_e4m3(codes & 255);
}
static inline uint32_t cvt_f16x2(float lo, float hi)
{
    return nib_emu::f16_of(hi) << 16 | nib_emu::f16_of(lo);
}
static inline uint32_t cvt_bf16x2(float lo, float hi)
{
    return nib_emu::bf16_of(hi) << 16 | nib_emu::bf16_of(lo);
}
static inline float cvt_f32_f16(uint32_t half) { return nib_emu::f32_of_f16(half & 0xffff); }

/* Magnitudes order like integers; NaN becomes the canonical one, 0x7fff. The sign, which is the
 * exclusive or of both on some targets, is for nobody to use. */
static inline uint32_t max_abs_half(uint32_t a, uint32_t b, uint32_t inf)
{
    const uint32_t sign = (a ^ b) & 0x8000;
    a &= 0x7fff, b &= 0x7fff;
    return sign | (a > inf || b > inf ? 0x7fff : a > b ? a : b);
}
static inline uint32_t max_abs_bf16x2(uint32_t a, uint32_t b)
{
    return max_abs_half(a >> 16, b >> 16, 0x7f80) << 16 | max_abs_half(a, b, 0x7f80);
}
static inline uint32_t max_abs_f16x2(uint32_t a, uint32_t b)
{
    return max_abs_half(a >> 16, b >> 16, 0x7c00) << 16 | max_abs_half(a, b, 0x7c00);
}

/* Both in an order of integers; a NaN gives way, two are the canonical one. */
static inline uint32_t order_half(uint32_t a)
{
    return a & 0x8000 ? 0x7fff - (a & 0x7fff) : (a & 0x7fff) + 0x8000;
}
static inline uint32_t extreme_half(uint32_t a, uint32_t b, uint32_t inf, bool larger)
{
    a &= 0xffff, b &= 0xffff;
    const bool a_is_nan = (a & 0x7fff) > inf, b_is_nan = (b & 0x7fff) > inf;
    if (a_is_nan || b_is_nan) return a_is_nan && b_is_nan ? 0x7fff : a_is_nan ? b : a;
    return (order_half(a) > order_half(b)) == larger ? a : b;
}
#define NIB_EMU_HALVES(name, inf, larger)                                                    \
    static inline uint32_t name(uint32_t a, uint32_t b)                                      \
    {                                                                                        \
        return extreme_half(a >> 16, b >> 16, inf, larger) << 16                             \
             | extreme_half(a, b, inf, larger);                                              \
    }
NIB_EMU_HALVES(max_f16x2, 0x7c00, true)
NIB_EMU_HALVES(min_f16x2, 0x7c00, false)
NIB_EMU_HALVES(max_bf16x2, 0x7f80, true)
NIB_EMU_HALVES(min_bf16x2, 0x7f80, false)
#undef NIB_EMU_HALVES

/* To f32 with a sticky last bit: rounding to halves is the only one. */
static inline float sticky_float(double exact)
{
    float f = (float)exact;
    if (exact == exact && (double)f != exact) {
        uint32_t bits = nib_emu::to_bits(f);
        if (std::fabs((double)f) > std::fabs(exact)) bits--;
        f = nib_emu::from_bits<float>(bits | 1u);
    }
    return f;
}
static inline float product_of(float a, float b) { return sticky_float((double)a * (double)b); }
/* sum + lost, which is less than sum's last bit, towards 0 and with a sticky last bit. */
static inline double sticky_double(double sum, double lost)
{
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if ((lost < 0.0) != (sum < 0.0)) bits--;
    bits |= 1;
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}
static inline uint32_t mul_f16(uint32_t a, uint32_t b)
{
    return nib_emu::f16_of(product_of(nib_emu::f32_of_f16(a & 0xffff),
                                      nib_emu::f32_of_f16(b & 0xffff)));
}
static inline uint32_t mul_f16x2(uint32_t a, uint32_t b)
{
    return mul_f16(a >> 16, b >> 16) << 16 | mul_f16(a, b);
}
static inline uint32_t mul_bf16(uint32_t a, uint32_t b)
{
    return nib_emu::bf16_of(product_of(nib_emu::from_bits<float>(a << 16),
                                       nib_emu::from_bits<float>(b << 16)));
}
static inline uint32_t mul_bf16x2(uint32_t a, uint32_t b)
{
    return mul_bf16(a >> 16, b >> 16) << 16 | mul_bf16(a, b);
}

/* The same of a sum: what a double loses of it goes into its last bit first. */
static inline uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c)
{
    const double p = (double)nib_emu::from_bits<float>(a << 16)
                   * (double)nib_emu::from_bits<float>(b << 16);
    const double q = (double)nib_emu::from_bits<float>(c << 16), sum = p + q;
    if (!(std::fabs(sum) < HUGE_VAL)) return nib_emu::bf16_of((float)sum);
    const double part = sum - p, lost = (p - (sum - part)) + (q - part);
    return nib_emu::bf16_of(sticky_float(lost == 0.0 ? sum : sticky_double(sum, lost)));
}
static inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
    return fma_bf16(a >> 16, b >> 16, c >> 16) << 16 | fma_bf16(a, b, c);
}

static inline uint32_t above_f16x2(uint32_t a, uint32_t b)
{
    uint32_t mask = 0;
    for (int i = 0; i < 32; i += 16) {
        const float x = nib_emu::f32_of_f16(a >> i & 0xffff);
        const float y = nib_emu::f32_of_f16(b >> i & 0xffff);
        if (x > y) mask |= 0x3c00u << i;
    }
    return mask;
}

/* Bit 3 of a nibble would take the byte's sign: not written here, as no kernel is to need it. */
static inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t s)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t       r = 0;
    for (int i = 0; i < 32; i += 8) {
        const uint32_t pick = s >> (i / 2) & 15;
        r |= (pick & 8 ? 0xeeu : (uint32_t)(both >> (8 * pick)) & 0xff) << i;
    }
    return r;
}

struct alignas(32) Bytes32 {
    uint4 lo, hi;
};
template <class T> T ld_once(const T *p) { return *p; }
static inline void st_32(Bytes32 *p, const Bytes32 &v) { *p = v; }

} // namespace nib_ptx

#endif
