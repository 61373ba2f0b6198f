/* emu_launch.cc: a launch is checked at once, against the chosen device's limits, and runs when its
 * stream is waited for. Registers are not limited here: the build's budget checks them.
 *
 * A kernel is loaded onto a device by its first launch, or before by cudaFuncGetAttributes; lazy
 * loading may leave it out at cudaFuncSetAttribute, and here does. A GPU may refuse to load under
 * capture; here it always does. */
#include "tests/emu/emu_launch.h"
#include "tests/emu/emu_runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace nib_emu {

struct Function {
    bool loaded = false;
    int  opted_in = 0; /* bytes of dynamic shared memory */
};
static std::map<std::pair<const void *, int>, Function> functions; /* with the device */
static std::map<const void *, std::string>              finished;
static int                                              late_loads;

void forget_functions() { functions.clear(); }

static const size_t usual = 48 << 10; /* shared memory without opting in */

/* The function on this device, loaded or not; or why it cannot be. */
static cudaError_t find(const void *function, int ordinal, Function **found)
{
    Unseen unseen;
    if (!function) return cudaErrorInvalidDeviceFunction;
    if (device().major * 10 + device().minor < built_for) return cudaErrorNoKernelImageForDevice;
    *found = &functions[{ function, ordinal }];
    return cudaSuccess;
}

static cudaError_t load(const void *function, int ordinal, bool captured, Function **loaded,
                        bool at_launch = false)
{
    const cudaError_t error = find(function, ordinal, loaded);
    if (error != cudaSuccess) return error;
    if (!(*loaded)->loaded && captured) return cudaErrorStreamCaptureUnsupported;
    late_loads += at_launch && !(*loaded)->loaded;
    (*loaded)->loaded = true;
    return cudaSuccess;
}

static cudaError_t check(dim3 grid, dim3 size, size_t smem_bytes, size_t limit)
{
    if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535u ||
        grid.z > 65535u || !size.x || !size.y || !size.z || size.x > 1024 || size.y > 1024 ||
        size.z > 64 || size.x * size.y * size.z > 1024) {
        return cudaErrorInvalidConfiguration;
    }
    return smem_bytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

static cudaError_t try_launch(const char *name, const void *function, dim3 grid, dim3 size,
                              size_t smem_bytes, cudaStream_t stream,
                              std::function<void()> body, bool dependent)
{
    int ordinal;
    Function *f = nullptr;
    cudaError_t error = refused("cudaLaunchKernel");
    if (error == cudaSuccess) error = device_of(stream, &ordinal);
    if (error == cudaSuccess && ordinal != current_device()) error = cudaErrorInvalidResourceHandle;
    if (error == cudaSuccess) error = load(function, ordinal, is_captured(stream), &f, true);
    if (error == cudaErrorStreamCaptureUnsupported) invalidate_capture(stream);
    if (error != cudaSuccess || has_failed()) return error;
    const size_t limit = std::max((size_t)f->opted_in, usual);
    error = check(grid, size, smem_bytes, limit);
    if (error != cudaSuccess) return error;
    /* Static shared memory counts against what the device can give, known as the kernel runs. */
    const size_t whole = limit > usual ? device().shared_optin : usual;
    return enqueue(stream, [=] {
        std::string &known = finished[function];
        if (known.empty()) known = function_name(function, name);
        cudaError_t fault = cudaErrorLaunchFailure;
        const std::string failure = run_grid(known.c_str(), grid, size, smem_bytes, whole, body,
                                             dependent, &fault);
        if (failure.empty()) return cudaSuccess;
        finished.erase(function);
        set_failure(failure, fault);
        return fault;
    });
}

void launch(const char *name, const void *function, dim3 grid, dim3 size, size_t smem_bytes,
            cudaStream_t stream, std::function<void()> body, bool dependent)
{
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    done(try_launch(name, function, grid, size, smem_bytes, stream, std::move(body), dependent));
}

} // namespace nib_emu

using namespace nib_emu;

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value)
{
    NIB_EMU_CALL();
    Function *f = nullptr;
    const cudaError_t error = find(function, current_device(), &f);
    if (error != cudaSuccess) return done(error);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return done(cudaSuccess);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        (size_t)value > device().shared_optin) {
        return done(cudaErrorInvalidValue);
    }
    f->opted_in = value;
    return done(cudaSuccess);
}

/* Registers, constants and static shared memory are not known here. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *function)
{
    NIB_EMU_CALL();
    Function *f = nullptr;
    const cudaError_t error = load(function, current_device(), false, &f);
    if (error != cudaSuccess) return done(error);
    *a = {};
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 32;
    a->ptxVersion = a->binaryVersion = built_for;
    a->maxDynamicSharedSizeBytes = (int)std::max((size_t)f->opted_in, usual);
    a->preferredShmemCarveout = -1;
    return done(cudaSuccess);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int threads, size_t smem_bytes)
{
    NIB_EMU_CALL();
    Function *f = nullptr;
    const cudaError_t error = load(function, current_device(), false, &f);
    if (error != cudaSuccess) return done(error);
    if (threads < 1) return done(cudaErrorInvalidValue);
    const int whole_warps = (threads + 31) / 32 * 32;
    *blocks = threads > 1024 ? 0 : std::min(32, device().threads_per_processor / whole_warps);
    if (smem_bytes > device().shared_optin) *blocks = 0;
    else if (smem_bytes) { /* each block takes a KiB more */
        *blocks = std::min(*blocks, (int)(device().shared_per_processor / (smem_bytes + 1024)));
    }
    return done(cudaSuccess);
}

extern "C" int nib_emu_late_loads(void)
{
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    return late_loads;
}

extern "C" int nib_emu_kernel_name(int n, char *name, int bytes)
{
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    int i = 0;
    for (const auto &f : finished) {
        if (i++ == n) snprintf(name, (size_t)bytes, "%s", f.second.c_str());
    }
    return (int)finished.size();
}

/* Not a destructor function: those run after the map is gone. */
static const struct Report {
    ~Report()
    {
        const char *path = getenv("NIB_EMU_REPORT");
        FILE *file = path ? fopen(path, "a") : nullptr;
        if (!file) return;
        for (const auto &f : finished) fprintf(file, "%s\n", f.second.c_str());
        fclose(file);
    }
} report;
