/* emu_device.h: what kernels say to their block and warp: indices, barriers, shared memory,
 * shuffles, votes. __activemask is not offered: it promises nothing that a kernel may rely on. */
#ifndef NIB_EMU_DEVICE_H
#define NIB_EMU_DEVICE_H

#include "tests/emu/emu_types.h"

#include <string.h>
#include <type_traits>

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace nib_emu {

enum class Shuffle { index, up, down, butterfly };
enum class Reduce { add, min, max, min_signed, max_signed, bit_and, bit_or, bit_xor };

void     barrier(int id, unsigned threads, const char *file, int line); /* threads 0: all */
void     warp_barrier(unsigned mask, const char *file, int line);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int by, int width, const char *file,
                 int line);
unsigned ballot(unsigned mask, bool predicate, const char *file, int line);
unsigned match_any(unsigned mask, uint64_t value, const char *file, int line);
unsigned match_all(unsigned mask, uint64_t value, const char *file, int line);
unsigned reduce(Reduce kind, unsigned mask, unsigned value, const char *file, int line);
void     thread_fence();

/* The block's variable of this key, made and poisoned at the block's first call. */
void *shared(const void *key, size_t bytes, size_t align, const char *file, int line);
unsigned char *shared_dynamic();

template <class T> uint64_t to_bits(T value)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> T from_bits(uint64_t bits)
{
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

} // namespace nib_emu

#define NIB_SHARED(type, name, dims)                                                           \
    typedef type nib_shared_##name dims;                                                       \
    static const char nib_key_##name = 0;                                                      \
    nib_shared_##name &name = *(nib_shared_##name *)nib_emu::shared(                           \
        &nib_key_##name, sizeof(nib_shared_##name), alignof(nib_shared_##name), __FILE__, __LINE__)
#define NIB_SHARED_DYNAMIC(name) unsigned char *const name = nib_emu::shared_dynamic()
#define NIB_UNROLL
#define NIB_NO_UNROLL

static inline void __syncthreads(NIB_EMU_AT) { nib_emu::barrier(0, 0, file, line); }
static inline void __syncwarp(unsigned mask = ~0u, NIB_EMU_AT)
{
    nib_emu::warp_barrier(mask, file, line);
}
static inline void __threadfence() { nib_emu::thread_fence(); }
static inline void __threadfence_block() { nib_emu::thread_fence(); }

#define NIB_EMU_SHUFFLE(name, kind, by_type)                                                   \
    template <class T>                                                                         \
    T name(unsigned mask, T value, by_type by, int width = 32, NIB_EMU_AT)                     \
    {                                                                                          \
        return nib_emu::from_bits<T>(nib_emu::shuffle(nib_emu::Shuffle::kind, mask,            \
                                                      nib_emu::to_bits(value), (int)by, width, \
                                                      file, line));                            \
    }
NIB_EMU_SHUFFLE(__shfl_sync, index, int)
NIB_EMU_SHUFFLE(__shfl_up_sync, up, unsigned)
NIB_EMU_SHUFFLE(__shfl_down_sync, down, unsigned)
NIB_EMU_SHUFFLE(__shfl_xor_sync, butterfly, int)
#undef NIB_EMU_SHUFFLE

static inline unsigned __ballot_sync(unsigned mask, int predicate, NIB_EMU_AT)
{
    return nib_emu::ballot(mask, predicate != 0, file, line);
}
static inline int __any_sync(unsigned mask, int predicate, NIB_EMU_AT)
{
    return nib_emu::ballot(mask, predicate != 0, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, NIB_EMU_AT)
{
    return nib_emu::ballot(mask, predicate != 0, file, line) == mask;
}
template <class T> unsigned __match_any_sync(unsigned mask, T value, NIB_EMU_AT)
{
    return nib_emu::match_any(mask, nib_emu::to_bits(value), file, line);
}
template <class T> unsigned __match_all_sync(unsigned mask, T value, int *all, NIB_EMU_AT)
{
    const unsigned same = nib_emu::match_all(mask, nib_emu::to_bits(value), file, line);
    *all = same != 0;
    return same;
}

#define NIB_EMU_REDUCE(name, T, kind)                                                          \
    static inline T name(unsigned mask, T value, NIB_EMU_AT)                                   \
    {                                                                                          \
        return (T)nib_emu::reduce(nib_emu::Reduce::kind, mask, (unsigned)value, file, line);   \
    }
NIB_EMU_REDUCE(__reduce_add_sync, unsigned, add)
NIB_EMU_REDUCE(__reduce_add_sync, int, add)
NIB_EMU_REDUCE(__reduce_min_sync, unsigned, min)
NIB_EMU_REDUCE(__reduce_min_sync, int, min_signed)
NIB_EMU_REDUCE(__reduce_max_sync, unsigned, max)
NIB_EMU_REDUCE(__reduce_max_sync, int, max_signed)
NIB_EMU_REDUCE(__reduce_and_sync, unsigned, bit_and)
NIB_EMU_REDUCE(__reduce_or_sync, unsigned, bit_or)
NIB_EMU_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef NIB_EMU_REDUCE

#endif
