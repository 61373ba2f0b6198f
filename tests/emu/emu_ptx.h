/* emu_ptx.h: the wrappers of kernels/cuda/ptx.cuh for the emulator, of the same names and types.
 * Each ends in the place of its call, which tells one call from another. */
#ifndef NIB_EMU_PTX_H
#define NIB_EMU_PTX_H

#include "tests/emu/emu_convert.h"
#include "tests/emu/emu_types.h"

namespace nib_emu {
void copy_async(void *dst, const void *src, int bytes, bool valid, const char *file, int line);
void copy_async_commit();
void copy_async_wait(size_t groups_left);
void copy_async_wait_all();
void load_matrix(uint32_t *regs, int matrices, bool transposed, const void *row, const char *file,
                 int line);
enum class Mma { f16_f32, bf16_f32, f16_f16 };
void mma(Mma kind, void *d, const uint32_t *a, const uint32_t *b, const char *file, int line);
float value_of_16(Mma kind, uint16_t bits);
uint32_t shared_address(const void *p);
void fence_proxy(const char *file, int line);
void wgmma_fence(const char *file, int line);
void wgmma_commit(const char *file, int line);
void wgmma_wait(size_t groups_left, const char *file, int line);
void wgmma(Mma kind, float *d, const uint32_t *a, uint64_t b, const char *file, int line);
void grid_dependency_wait();
void barrier(int id, unsigned threads, const char *file, int line);
void mbarrier_init(uint64_t *bar, unsigned count, const char *file, int line);
void mbarrier_arrive(uint64_t *bar, const char *file, int line);
void mbarrier_wait(uint64_t *bar, unsigned parity, const char *file, int line);
void bad_barrier(int id, unsigned threads, const char *file, int line);
} // namespace nib_emu

#define NIB_HAS_WGMMA (NIB_EMU_ARCH < 100)

namespace nib_ptx {

/* Of dynamic shared memory alone, from 1024 on, as without static memory on a GPU. */
inline uint32_t shared_address(const void *p) { return nib_emu::shared_address(p); }

template <int bytes>
void cp_async(void *smem_wr, const void *gmem_rd, bool valid = true, NIB_EMU_AT)
{
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    nib_emu::copy_async(smem_wr, gmem_rd, bytes, valid, file, line);
}
inline void cp_async_commit() { nib_emu::copy_async_commit(); }
template <int groups> void cp_async_wait() { nib_emu::copy_async_wait(groups); }
inline void cp_async_wait_all() { nib_emu::copy_async_wait_all(); }

template <int matrices, bool transposed = false>
void ldmatrix(uint32_t (&regs)[matrices], const void *row, NIB_EMU_AT)
{
    static_assert(matrices == 1 || matrices == 2 || matrices == 4, "ldmatrix loads 1, 2 or 4");
    nib_emu::load_matrix(regs, matrices, transposed, row, file, line);
}

inline void mma_f16_f32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], NIB_EMU_AT)
{
    nib_emu::mma(nib_emu::Mma::f16_f32, d, a, b, file, line);
}
inline void mma_bf16_f32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], NIB_EMU_AT)
{
    nib_emu::mma(nib_emu::Mma::bf16_f32, d, a, b, file, line);
}
inline void mma_f16_f16(uint32_t (&d)[2], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        NIB_EMU_AT)
{
    nib_emu::mma(nib_emu::Mma::f16_f16, d, a, b, file, line);
}

inline void wgmma_fence(NIB_EMU_AT) { nib_emu::wgmma_fence(file, line); }
inline void wgmma_commit(NIB_EMU_AT) { nib_emu::wgmma_commit(file, line); }
template <int groups> void wgmma_wait(NIB_EMU_AT) { nib_emu::wgmma_wait(groups, file, line); }
inline void wgmma_hold(float (&)[64]) {}
inline void fence_proxy_async(NIB_EMU_AT) { nib_emu::fence_proxy(file, line); }
inline void wgmma_f16_f32(float (&d)[64], const uint32_t (&a)[4], uint64_t b, NIB_EMU_AT)
{
    nib_emu::wgmma(nib_emu::Mma::f16_f32, d, a, b, file, line);
}
inline void wgmma_bf16_f32(float (&d)[64], const uint32_t (&a)[4], uint64_t b, NIB_EMU_AT)
{
    nib_emu::wgmma(nib_emu::Mma::bf16_f32, d, a, b, file, line);
}

inline void grid_launch_dependents() {} /* a dependent kernel runs after all blocks all the same */
inline void grid_dependency_wait() { nib_emu::grid_dependency_wait(); }

inline void bar_sync(int id, int threads, NIB_EMU_AT)
{
    nib_emu::bad_barrier(id, (unsigned)threads, file, line);
    nib_emu::barrier(id, (unsigned)threads, file, line);
}

inline void mbarrier_init(uint64_t *bar, uint32_t count, NIB_EMU_AT)
{
    nib_emu::mbarrier_init(bar, count, file, line);
}
inline void mbarrier_arrive(uint64_t *bar, NIB_EMU_AT)
{
    nib_emu::mbarrier_arrive(bar, file, line);
}
inline void mbarrier_wait(uint64_t *bar, uint32_t parity, NIB_EMU_AT)
{
    nib_emu::mbarrier_wait(bar, parity, file, line);
}

inline uint32_t atom_add_acq_rel(uint32_t *p, uint32_t value)
{
    return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);
}
inline uint32_t ld_acquire(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void st_release(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}
inline void red_add_relaxed(uint32_t *p, uint32_t value)
{
    __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
inline void red_max_relaxed(uint32_t *p, uint32_t value)
{
    uint32_t seen = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(p, &seen, value, false, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {}
}

} // namespace nib_ptx

#endif
