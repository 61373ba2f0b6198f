/* emu_math.h: the device's arithmetic and loads that C++ does not name. The _rn forms are single
 * IEEE operations; the build forbids contraction, as -fmad=false does for nvcc. */
#ifndef NIB_EMU_MATH_H
#define NIB_EMU_MATH_H

#include "tests/emu/emu_device.h"

#include <algorithm>
#include <cmath>
#include <math.h>

using std::max;
using std::min;

static inline unsigned __float_as_uint(float x)
{
    return nib_emu::from_bits<unsigned>(nib_emu::to_bits(x));
}
static inline int __float_as_int(float x) { return nib_emu::from_bits<int>(nib_emu::to_bits(x)); }
static inline float __uint_as_float(unsigned x) { return nib_emu::from_bits<float>(x); }
static inline float __int_as_float(int x) { return nib_emu::from_bits<float>(nib_emu::to_bits(x)); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

/* Of a NaN, quiet or signalling, and a number the number; -0 is below 0 (PTX max, min). The C
 * library's give NaN for a signalling one. */
static inline float nib_emu_fmaxf(float a, float b)
{
    if (a != a || b != b) return a != a ? b : a;
    return a > b || (a == b && !std::signbit(a)) ? a : b;
}
static inline float nib_emu_fminf(float a, float b)
{
    if (a != a || b != b) return a != a ? b : a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
}
#define fmaxf nib_emu_fmaxf
#define fminf nib_emu_fminf

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __brev(unsigned x)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)((((uint64_t)hi << 32 | lo) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) >> (shift & 31));
}
/* Bytes of b:a chosen by nibbles of s; bit 3 of a nibble copies the byte's sign (PTX prmt). */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned pick = s >> (4 * i), byte = (unsigned)(both >> (8 * (pick & 7))) & 0xff;
        r |= (pick & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
    }
    return r;
}

/* Sums of products of unsigned integers: of bytes, and of halves of a with the lower or the upper
 * two bytes of b. */
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum)
{
    for (int i = 0; i < 32; i += 8) sum += (a >> i & 0xff) * (b >> i & 0xff);
    return sum;
}
static inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned sum)
{
    return sum + (a & 0xffff) * (b & 0xff) + (a >> 16) * (b >> 8 & 0xff);
}
static inline unsigned __dp2a_hi(unsigned a, unsigned b, unsigned sum)
{
    return __dp2a_lo(a, b >> 16, sum);
}

/* Cache hints change no value. */
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
template <class T> T __ldcs(const T *p) { return *p; }
template <class T> T __ldlu(const T *p) { return *p; }
template <class T> void __stcg(T *p, T value) { *p = value; }
template <class T> void __stcs(T *p, T value) { *p = value; }

#endif
