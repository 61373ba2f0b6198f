/* emu_types.h: CUDA's qualifiers and vector types for a C++ compiler. */
#ifndef NIB_EMU_TYPES_H
#define NIB_EMU_TYPES_H

#include <stddef.h>
#include <stdint.h>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define __forceinline__ inline /* else sanitized kernels take minutes to compile */
#else
#define __forceinline__ inline __attribute__((always_inline))
#endif
#define __align__(n)    __attribute__((aligned(n)))

/* Alignments as in the toolkit: a vector of 2 or 4 is aligned to its size, at most 16 bytes. */
#define NIB_EMU_VECTORS(T, name)                                                               \
    struct name##1 { T x; };                                                                   \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                         \
    struct name##3 { T x, y, z; };                                                             \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };         \
    static inline name##1 make_##name##1(T x) { return { x }; }                                \
    static inline name##2 make_##name##2(T x, T y) { return { x, y }; }                        \
    static inline name##3 make_##name##3(T x, T y, T z) { return { x, y, z }; }                \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return { x, y, z, w }; }

NIB_EMU_VECTORS(signed char, char)
NIB_EMU_VECTORS(unsigned char, uchar)
NIB_EMU_VECTORS(short, short)
NIB_EMU_VECTORS(unsigned short, ushort)
NIB_EMU_VECTORS(int, int)
NIB_EMU_VECTORS(unsigned, uint)
NIB_EMU_VECTORS(long long, longlong)
NIB_EMU_VECTORS(unsigned long long, ulonglong)
NIB_EMU_VECTORS(float, float)
NIB_EMU_VECTORS(double, double)
#undef NIB_EMU_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

/* Where a call stands, for messages and to tell one call from another: default arguments are
 * evaluated at the caller. */
#define NIB_EMU_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

#endif
