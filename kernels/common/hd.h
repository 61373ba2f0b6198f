/* hd.h: one spelling for "inline in C, and in host and device CUDA", and bit casts. */
#ifndef NIB_HD_H
#define NIB_HD_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define NIB_HD static __host__ __device__ __forceinline__
#else
#define NIB_HD static inline __attribute__((always_inline, unused))
#endif

#ifdef __FAST_MATH__
#error "nibble promises the same bits everywhere: build it without -ffast-math and -Ofast"
#endif

/* memcpy, not a union or a cast: the one type pun that C11, C++17 and nvcc all define. */
NIB_HD uint32_t nib_bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

NIB_HD float nib_float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

NIB_HD uint64_t nib_bits_of64(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

#define NIB_F32_INF_BITS 0x7f800000u
#define NIB_F64_INF_BITS 0x7ff0000000000000ull
#define NIB_F32_MAX      3.40282346638528859812e+38f

/* The NaN that every backend writes; the one CUDA's arithmetic returns. */
#define NIB_F32_NAN_BITS 0x7fffffffu

/* |x| as an integer: orders like the magnitudes, Inf and NaN above every finite one. */
NIB_HD uint32_t nib_magnitude_bits(float x) { return nib_bits_of(x) & 0x7fffffffu; }
NIB_HD float    nib_abs(float x) { return nib_float_of(nib_magnitude_bits(x)); }
NIB_HD int      nib_is_nan(float x) { return nib_magnitude_bits(x) > NIB_F32_INF_BITS; }
NIB_HD float    nib_min(float a, float b) { return a < b ? a : b; }

/* 2^e, exact, for -149 <= e <= 127. */
NIB_HD float nib_pow2(int e)
{
    return nib_float_of(e >= -126 ? (uint32_t)(e + 127) << 23 : 1u << (e + 149));
}

/* The same NaN on every machine: hardware differs in sign and payload. */
NIB_HD float nib_canonical(float x) { return nib_is_nan(x) ? nib_float_of(NIB_F32_NAN_BITS) : x; }

#endif
