/* emu_memory.cc: device memory of exact size, poisoned; copies and fills, which happen when their
 * stream is waited for. Host memory is never staged: an asynchronous copy reads its source, and
 * writes its destination, as late as one from pinned memory may. */
#include "tests/emu/emu_runtime.h"

#include <cstdlib>
#include <cstring>
#include <map>

namespace nib_emu {

struct Allocation {
    size_t         bytes;
    int            device; /* -1: the host's */
    cudaMemoryType type;
    bool           owned;
};

static std::map<uintptr_t, Allocation> allocations;
static size_t                          used[most_devices];

/* The allocation that p lies in, and what is left of it from p on. */
static const Allocation *find(const void *p, size_t *left)
{
    auto next = allocations.upper_bound((uintptr_t)p);
    if (next == allocations.begin()) return nullptr;
    --next;
    const size_t at = (uintptr_t)p - next->first;
    if (at >= next->second.bytes) return nullptr;
    *left = next->second.bytes - at;
    return &next->second;
}

static cudaError_t allocate(void **pointer, size_t bytes, cudaMemoryType type)
{
    Unseen unseen;
    const bool on_device = type == cudaMemoryTypeDevice;
    const int at = current_device();
    if (on_device && bytes > memory_limit() - used[at]) return cudaErrorMemoryAllocation;
    void *p = nullptr;
    if (on_device) p = guarded_allocate(bytes);
    else if (posix_memalign(&p, 256, bytes)) p = nullptr;
    if (!p) return cudaErrorMemoryAllocation;
    {
        Guard guard;
        poison(p, bytes);
    }
    if (on_device) used[at] += bytes;
    allocations[(uintptr_t)p] = { bytes, type == cudaMemoryTypeHost ? -1 : at, type, true };
    *pointer = p;
    return cudaSuccess;
}

static void give_back(uintptr_t p, const Allocation &a)
{
    if (a.type == cudaMemoryTypeDevice) {
        used[a.device] -= a.bytes;
        guarded_release((void *)p, a.bytes);
    } else if (a.owned) {
        free((void *)p);
    }
}

static cudaError_t release(void *pointer, bool of_host)
{
    Unseen unseen;
    const auto it = allocations.find((uintptr_t)pointer);
    if (it == allocations.end() || (it->second.type == cudaMemoryTypeHost) != of_host ||
        !it->second.owned) {
        return cudaErrorInvalidValue;
    }
    give_back(it->first, it->second);
    allocations.erase(it);
    return cudaSuccess;
}

void forget_memory()
{
    for (const auto &a : allocations) give_back(a.first, a.second);
    allocations.clear();
}

/* Whether [p, p + bytes) can be what kind says: on the device wholly, or not at all. */
static bool fits(const void *p, size_t bytes, bool on_device)
{
    size_t left = 0;
    const Allocation *a = find(p, &left);
    if (a && a->type == cudaMemoryTypeManaged) return bytes <= left;
    if (a && a->type == cudaMemoryTypeDevice) return on_device && bytes <= left;
    return !on_device || reads_host_memory();
}

static bool on_device(const void *p)
{
    size_t left;
    const Allocation *a = find(p, &left);
    return a && a->type == cudaMemoryTypeDevice;
}

/* to_bytes: what the copy spans of dst. */
static cudaError_t check_copy(const void *dst, size_t to_bytes, const void *src, size_t bytes,
                              cudaMemcpyKind kind)
{
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) {
        return cudaErrorInvalidMemcpyDirection;
    }
    if (bytes == 0) return cudaSuccess;
    const bool any = kind == cudaMemcpyDefault;
    const bool to = any ? on_device(dst)
                        : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from = any ? on_device(src)
                          : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    const bool fit = dst && src && fits(dst, to_bytes, to) && fits(src, bytes, from);
    return fit ? cudaSuccess : cudaErrorInvalidValue;
}

static cudaError_t allocate_checked(void **pointer, size_t bytes, cudaMemoryType type)
{
    if (!pointer) return cudaErrorInvalidValue;
    *pointer = nullptr;
    const cudaError_t error = type == cudaMemoryTypeHost ? cudaSuccess : forbidden_by_capture();
    if (error != cudaSuccess || bytes == 0 || has_failed()) return error;
    return allocate(pointer, bytes, type);
}

} // namespace nib_emu

using namespace nib_emu;

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    NIB_EMU_CALL();
    return done(allocate_checked(pointer, bytes, cudaMemoryTypeDevice));
}

cudaError_t cudaMallocManaged(void **pointer, size_t bytes, unsigned)
{
    NIB_EMU_CALL();
    return done(allocate_checked(pointer, bytes, cudaMemoryTypeManaged));
}

/* There at once, as a pool may have it; gone in the stream's order. */
cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t stream)
{
    NIB_EMU_CALL();
    int ordinal;
    const cudaError_t error = device_of(stream, &ordinal);
    if (error != cudaSuccess) return done(error);
    if (is_captured(stream)) return done(cudaErrorNotSupported); /* no memory nodes */
    return done(allocate_checked(pointer, bytes, cudaMemoryTypeDevice));
}

cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream)
{
    NIB_EMU_CALL();
    size_t left;
    if (!pointer) return done(cudaSuccess);
    if (is_captured(stream)) return done(cudaErrorNotSupported);
    if (!on_device(pointer) || !find(pointer, &left)) return done(cudaErrorInvalidValue);
    return done(enqueue(stream, [=] { return release(pointer, false); }));
}

/* Waits for the device, as on a GPU. */
cudaError_t cudaFree(void *pointer)
{
    NIB_EMU_CALL();
    if (!pointer) return done(cudaSuccess);
    const cudaError_t refusal = forbidden_by_capture();
    if (refusal != cudaSuccess) return done(refusal);
    const cudaError_t pending = finish_all();
    const cudaError_t error = release(pointer, false);
    return done(error != cudaSuccess ? error : pending);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    NIB_EMU_CALL();
    return done(allocate_checked(pointer, bytes, cudaMemoryTypeHost));
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned)
{
    NIB_EMU_CALL();
    return done(allocate_checked(pointer, bytes, cudaMemoryTypeHost));
}

cudaError_t cudaFreeHost(void *pointer)
{
    NIB_EMU_CALL();
    if (!pointer) return done(cudaSuccess);
    const cudaError_t pending = finish_all();
    const cudaError_t error = release(pointer, true);
    return done(error != cudaSuccess ? error : pending);
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned)
{
    NIB_EMU_CALL();
    Unseen unseen;
    size_t left;
    if (!pointer || bytes == 0) return done(cudaErrorInvalidValue);
    if (find(pointer, &left)) return done(cudaErrorHostMemoryAlreadyRegistered);
    allocations[(uintptr_t)pointer] = { bytes, -1, cudaMemoryTypeHost, false };
    return done(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *pointer)
{
    NIB_EMU_CALL();
    Unseen unseen;
    const auto it = allocations.find((uintptr_t)pointer);
    if (it == allocations.end() || it->second.owned) return done(cudaErrorHostMemoryNotRegistered);
    const cudaError_t pending = finish_all();
    allocations.erase(it);
    return done(pending);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    NIB_EMU_CALL();
    size_t left;
    const Allocation *a = find(host, &left);
    if (!a || a->type != cudaMemoryTypeHost) return done(cudaErrorInvalidValue);
    *device = host;
    return done(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    NIB_EMU_CALL();
    *total_bytes = memory_limit();
    *free_bytes = *total_bytes - used[current_device()];
    return done(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *to, const void *pointer)
{
    NIB_EMU_CALL();
    size_t left;
    void *const p = const_cast<void *>(pointer);
    const Allocation *a = find(pointer, &left);
    *to = { cudaMemoryTypeUnregistered, -2, nullptr, p };
    if (a) *to = { a->type, a->device < 0 ? 0 : a->device, p, p };
    if (a && a->type == cudaMemoryTypeDevice) to->hostPointer = nullptr;
    return done(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    NIB_EMU_CALL();
    const cudaError_t error = check_copy(dst, bytes, src, bytes, kind);
    if (error != cudaSuccess || bytes == 0) return done(error);
    return done(enqueue(stream, [=] {
        memmove(dst, src, bytes);
        return cudaSuccess;
    }));
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    NIB_EMU_CALL();
    const cudaError_t refusal = forbidden_by_capture();
    if (refusal != cudaSuccess) return done(refusal);
    const cudaError_t error = cudaMemcpyAsync(dst, src, bytes, kind, nullptr);
    return error != cudaSuccess ? error : done(finish_stream(nullptr));
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    NIB_EMU_CALL();
    if (width > dst_pitch || width > src_pitch) return done(cudaErrorInvalidPitchValue);
    if (width == 0 || height == 0) return done(cudaSuccess);
    const size_t rows = height - 1;
    const cudaError_t error = check_copy(dst, rows * dst_pitch + width, src,
                                         rows * src_pitch + width, kind);
    if (error != cudaSuccess) return done(error);
    return done(enqueue(stream, [=] {
        for (size_t i = 0; i < height; i++) {
            memmove((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
        }
        return cudaSuccess;
    }));
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    NIB_EMU_CALL();
    if (bytes == 0) return done(cudaSuccess);
    if (!fits(dst, bytes, true)) return done(cudaErrorInvalidValue);
    return done(enqueue(stream, [=] {
        memset(dst, value, bytes);
        return cudaSuccess;
    }));
}

cudaError_t cudaMemset(void *dst, int value, size_t bytes)
{
    NIB_EMU_CALL();
    const cudaError_t refusal = forbidden_by_capture();
    if (refusal != cudaSuccess) return done(refusal);
    return cudaMemsetAsync(dst, value, bytes, nullptr); /* asynchronous on a GPU as well */
}
