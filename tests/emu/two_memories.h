/* two_memories.h: buffers for the same work by the CPU and by the emulated device. */
#ifndef NIB_EMU_TWO_MEMORIES_H
#define NIB_EMU_TWO_MEMORIES_H

#include "tests/emu/emu_test.h"

#include <stdlib.h>
#include <string.h>

/* Memory where one of the two computes. */
class Memory {
public:
    explicit Memory(bool cuda) : cuda_(cuda) {}
    ~Memory()
    {
        for (void *p : all_) {
            if (cuda_) cudaFree(p);
            else free(p);
        }
    }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    template <class T> T *put(const std::vector<T> &from)
    {
        void *const to = room(from.size() * sizeof(T));
        if (cuda_) {
            EXPECT_CUDA(cudaMemcpy(to, from.data(), from.size() * sizeof(T),
                                   cudaMemcpyHostToDevice));
            EXPECT_CUDA(cudaStreamSynchronize(cudaStreamLegacy)); /* as Device's does */
        } else {
            memcpy(to, from.data(), from.size() * sizeof(T));
        }
        return (T *)to;
    }
    template <class T> std::vector<T> get(const T *from, size_t n) const
    {
        std::vector<T> to(n);
        if (cuda_) EXPECT_CUDA(cudaMemcpy(to.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
        else memcpy(to.data(), from, n * sizeof(T));
        return to;
    }
    void *room(size_t bytes)
    {
        void *p = nullptr;
        if (cuda_) EXPECT_CUDA(cudaMalloc(&p, bytes));
        else p = aligned_alloc(64, (bytes + 63) / 64 * 64);
        all_.push_back(p);
        return p;
    }

private:
    bool                cuda_;
    std::vector<void *> all_;
};

#endif
