/* emu_test.h: what tests of device code share. The same sources build for the emulator and, by
 * nvcc, for a GPU; what only the emulator can do stands under NIB_ON_EMULATOR. */
#ifndef NIB_EMU_TEST_H
#define NIB_EMU_TEST_H

#include "kernels/cuda/ptx.cuh"
#include "tests/shim.h"

#include <stdint.h>
#include <vector>

#ifdef __CUDACC__
#define NIB_ON_EMULATOR 0
#else
#define NIB_ON_EMULATOR 1
#include "tests/emu/emu.h"
#endif

#define EXPECT_CUDA(call)                                                       \
    do {                                                                        \
        const cudaError_t error_ = (call);                                      \
        EXPECT(error_ == cudaSuccess, "%s", cudaGetErrorString(error_));        \
    } while (0)

/* Device memory of n elements, and copies of it. */
template <class T> class Device {
public:
    explicit Device(size_t n) : n_(n) { EXPECT_CUDA(cudaMalloc(&data_, n * sizeof(T))); }
    explicit Device(const std::vector<T> &from) : Device(from.size())
    {
        EXPECT_CUDA(cudaMemcpy(data_, from.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
        EXPECT_CUDA(cudaStreamSynchronize(cudaStreamLegacy)); /* pageable: it may not be there yet,
                                                                 as other streams see it */
    }
    ~Device() { cudaFree(data_); }
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;
    operator T *() const { return data_; }
    std::vector<T> read() const
    {
        std::vector<T> host(n_);
        EXPECT_CUDA(cudaMemcpy(host.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }

private:
    T     *data_ = nullptr;
    size_t n_;
};

/* Runs body under each schedule there is; a GPU has its own. */
template <class F> void each_schedule(F body)
{
#if NIB_ON_EMULATOR
    for (int s = 0; s < NIB_EMU_SCHEDULES; s++) {
        nib_emu_set_schedule((nib_emu_schedule)s, 7);
        body();
        if (nib_test_failed()) {
            EXPECT(0, "under schedule %s", nib_emu_schedule_name((nib_emu_schedule)s));
            break;
        }
    }
    nib_emu_set_schedule(NIB_EMU_FORWARD, 1);
    nib_emu_reset();
#else
    body();
#endif
}

struct Random { /* xorshift64 */
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15u + 1) {}
    uint32_t next()
    {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return (uint32_t)(state >> 32);
    }
    int below(int n) { return (int)(next() % (uint32_t)n); }
};

#endif
