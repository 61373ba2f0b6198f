/* emu_memory.cc: device memory of exact size, poisoned; copies and fills, which happen when their
 * stream is waited for. Host memory is never staged: an asynchronous copy reads its source, and
 * writes its destination, as late as one from pinned memory may. */
#include "tests/emu/emu_runtime.h"

#include <cstdlib>
#include <cstring>
#include <map>

namespace nib_emu {

static std::map<uintptr_t, size_t> device_memory, host_memory;
static size_t device_bytes;

typedef std::lock_guard<std::recursive_mutex> Lock;

/* The allocation that p lies in; npos bytes: none. */
static bool find(const std::map<uintptr_t, size_t> &in, const void *p, size_t *left)
{
    auto next = in.upper_bound((uintptr_t)p);
    if (next == in.begin()) return false;
    --next;
    const size_t at = (uintptr_t)p - next->first;
    *left = next->second - at;
    return at < next->second;
}

static cudaError_t allocate(std::map<uintptr_t, size_t> *in, void **pointer, size_t bytes)
{
    Unseen unseen;
    void *p = nullptr;
    if (posix_memalign(&p, 256, bytes)) return cudaErrorMemoryAllocation;
    poison(p, bytes);
    (*in)[(uintptr_t)p] = bytes;
    *pointer = p;
    return cudaSuccess;
}

static cudaError_t release(std::map<uintptr_t, size_t> *in, void *pointer, size_t *bytes)
{
    Unseen unseen;
    const auto it = in->find((uintptr_t)pointer);
    if (it == in->end()) return cudaErrorInvalidValue;
    *bytes = it->second;
    in->erase(it);
    free(pointer);
    return cudaSuccess;
}

void forget_memory()
{
    for (const auto &a : device_memory) free((void *)a.first);
    for (const auto &a : host_memory) free((void *)a.first);
    device_memory.clear();
    host_memory.clear();
    device_bytes = 0;
}

/* Whether [p, p + bytes) can be what kind says: on the device wholly, or not at all. */
static bool fits(const void *p, size_t bytes, bool on_device)
{
    size_t left = 0;
    const bool found = find(device_memory, p, &left);
    return on_device ? found && bytes <= left : !found;
}

static cudaError_t check_copy(const void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    size_t left;
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) {
        return cudaErrorInvalidMemcpyDirection;
    }
    if (bytes == 0) return cudaSuccess;
    const bool any = kind == cudaMemcpyDefault;
    const bool to = any ? find(device_memory, dst, &left)
                  : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from = any ? find(device_memory, src, &left)
                    : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (!dst || !src || !fits(dst, bytes, to) || !fits(src, bytes, from)) {
        return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

} // namespace nib_emu

using namespace nib_emu;

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    Lock lock(device_lock());
    if (!pointer) return done(cudaErrorInvalidValue);
    *pointer = nullptr;
    if (capturing()) return done(cudaErrorStreamCaptureUnsupported);
    if (bytes == 0 || has_failed()) return done(cudaSuccess);
    if (bytes > memory_limit() - device_bytes) return done(cudaErrorMemoryAllocation);
    const cudaError_t error = allocate(&device_memory, pointer, bytes);
    if (error == cudaSuccess) device_bytes += bytes;
    return done(error);
}

/* Waits for the device, as on a GPU. */
cudaError_t cudaFree(void *pointer)
{
    Lock lock(device_lock());
    size_t bytes = 0;
    if (!pointer) return done(cudaSuccess);
    if (capturing()) return done(cudaErrorStreamCaptureUnsupported);
    const cudaError_t pending = finish_all();
    const cudaError_t error = release(&device_memory, pointer, &bytes);
    device_bytes -= bytes;
    return done(error != cudaSuccess ? error : pending);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    Lock lock(device_lock());
    if (!pointer) return done(cudaErrorInvalidValue);
    *pointer = nullptr;
    return done(bytes ? allocate(&host_memory, pointer, bytes) : cudaSuccess);
}

cudaError_t cudaFreeHost(void *pointer)
{
    Lock lock(device_lock());
    size_t bytes = 0;
    if (!pointer) return done(cudaSuccess);
    const cudaError_t pending = finish_all();
    const cudaError_t error = release(&host_memory, pointer, &bytes);
    return done(error != cudaSuccess ? error : pending);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    Lock lock(device_lock());
    *total_bytes = memory_limit();
    *free_bytes = *total_bytes - device_bytes;
    return done(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *pointer)
{
    Lock lock(device_lock());
    size_t left;
    *a = { cudaMemoryTypeUnregistered, -2, nullptr, nullptr };
    if (find(device_memory, pointer, &left)) {
        *a = { cudaMemoryTypeDevice, 0, const_cast<void *>(pointer), nullptr };
    } else if (find(host_memory, pointer, &left)) {
        *a = { cudaMemoryTypeHost, 0, const_cast<void *>(pointer), const_cast<void *>(pointer) };
    }
    return done(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    Lock lock(device_lock());
    const cudaError_t error = check_copy(dst, src, bytes, kind);
    if (error != cudaSuccess || bytes == 0) return done(error);
    return done(enqueue(stream, [=] {
        memmove(dst, src, bytes);
        return cudaSuccess;
    }));
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    Lock lock(device_lock());
    if (capturing()) return done(cudaErrorStreamCaptureUnsupported);
    const cudaError_t error = cudaMemcpyAsync(dst, src, bytes, kind, nullptr);
    return error != cudaSuccess ? error : done(finish_stream(nullptr));
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    Lock lock(device_lock());
    if (bytes == 0) return done(cudaSuccess);
    if (!fits(dst, bytes, true)) return done(cudaErrorInvalidValue);
    return done(enqueue(stream, [=] {
        memset(dst, value, bytes);
        return cudaSuccess;
    }));
}

cudaError_t cudaMemset(void *dst, int value, size_t bytes)
{
    Lock lock(device_lock());
    if (capturing()) return done(cudaErrorStreamCaptureUnsupported);
    return cudaMemsetAsync(dst, value, bytes, nullptr); /* asynchronous on a GPU as well */
}
