/* emu_atomic.h: CUDA's atomics are relaxed; a fence, or an ordered form in ptx.cuh, makes them
 * order other memory. Compiled into the kernels, so that the thread sanitizer sees each. */
#ifndef NIB_EMU_ATOMIC_H
#define NIB_EMU_ATOMIC_H

#include "tests/emu/emu_types.h"

namespace nib_emu {
/* Compares bits, as hardware does: a NaN equals itself. */
template <class T, class F> T update(T *address, F next)
{
    T seen, wanted;
    __atomic_load(address, &seen, __ATOMIC_RELAXED);
    do {
        wanted = next(seen);
    } while (!__atomic_compare_exchange(address, &seen, &wanted, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
    return seen;
}
} // namespace nib_emu

#define NIB_EMU_ATOMIC(T)                                                                      \
    static inline T atomicAdd(T *p, T v)                                                       \
    { return nib_emu::update(p, [=](T x) { return (T)(x + v); }); }                            \
    static inline T atomicExch(T *p, T v)                                                      \
    { return nib_emu::update(p, [=](T) { return v; }); }
#define NIB_EMU_ATOMIC_INTEGER(T)                                                              \
    NIB_EMU_ATOMIC(T)                                                                          \
    static inline T atomicSub(T *p, T v)                                                       \
    { return nib_emu::update(p, [=](T x) { return (T)(x - v); }); }                            \
    static inline T atomicMin(T *p, T v)                                                       \
    { return nib_emu::update(p, [=](T x) { return x < v ? x : v; }); }                         \
    static inline T atomicMax(T *p, T v)                                                       \
    { return nib_emu::update(p, [=](T x) { return x > v ? x : v; }); }                         \
    static inline T atomicAnd(T *p, T v)                                                       \
    { return nib_emu::update(p, [=](T x) { return (T)(x & v); }); }                            \
    static inline T atomicOr(T *p, T v)                                                        \
    { return nib_emu::update(p, [=](T x) { return (T)(x | v); }); }                            \
    static inline T atomicXor(T *p, T v)                                                       \
    { return nib_emu::update(p, [=](T x) { return (T)(x ^ v); }); }                            \
    static inline T atomicCAS(T *p, T expected, T v)                                           \
    {                                                                                          \
        __atomic_compare_exchange(p, &expected, &v, false, __ATOMIC_RELAXED,                   \
                                  __ATOMIC_RELAXED);                                           \
        return expected;                                                                       \
    }
NIB_EMU_ATOMIC(float)
NIB_EMU_ATOMIC(double)
NIB_EMU_ATOMIC_INTEGER(int)
NIB_EMU_ATOMIC_INTEGER(unsigned)
NIB_EMU_ATOMIC_INTEGER(unsigned long long)
#undef NIB_EMU_ATOMIC
#undef NIB_EMU_ATOMIC_INTEGER

#endif
