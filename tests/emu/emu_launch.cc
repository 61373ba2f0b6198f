/* emu_launch.cc: a launch is checked at once, against the chosen device's limits, and runs when its
 * stream is waited for. Registers are not limited here: the build's budget checks them. */
#include "tests/emu/emu_launch.h"
#include "tests/emu/emu_runtime.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

namespace nib_emu {

static std::map<const void *, int> opted_in; /* bytes of dynamic shared memory, by kernel */
static std::set<std::string>       finished;

void forget_functions() { opted_in.clear(); }

cudaError_t set_function_attribute(const void *function, cudaFuncAttribute attribute, int value)
{
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return done(cudaSuccess);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        (size_t)value > device().shared_optin) {
        return done(cudaErrorInvalidValue);
    }
    opted_in[function] = value;
    return done(cudaSuccess);
}

static cudaError_t check(const void *function, dim3 grid, dim3 size, size_t smem_bytes,
                         size_t limit)
{
    if (!function) return cudaErrorInvalidDeviceFunction;
    if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535u ||
        grid.z > 65535u || !size.x || !size.y || !size.z || size.x > 1024 || size.y > 1024 ||
        size.z > 64 || size.x * size.y * size.z > 1024) {
        return cudaErrorInvalidConfiguration;
    }
    return smem_bytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

void launch(const char *name, const void *function, dim3 grid, dim3 size, size_t smem_bytes,
            cudaStream_t stream, std::function<void()> body)
{
    std::lock_guard<std::recursive_mutex> lock(device_lock());
    const auto wish = opted_in.find(function);
    const size_t usual = 48 << 10;
    const size_t limit = wish != opted_in.end() && (size_t)wish->second > usual
                             ? (size_t)wish->second : usual;
    const cudaError_t error = check(function, grid, size, smem_bytes, limit);
    if (error != cudaSuccess || has_failed()) {
        done(error);
        return;
    }
    /* Static shared memory counts against what the device can give, known as the kernel runs. */
    const size_t whole = limit > usual ? device().shared_optin : usual;
    done(enqueue(stream, [=] {
        const std::string failure = run_grid(name, grid, size, smem_bytes, whole, body);
        if (failure.empty()) finished.insert(name);
        else set_failure(failure);
        return failure.empty() ? cudaSuccess : cudaErrorLaunchFailure;
    }));
}

} // namespace nib_emu

/* Not a destructor function: those run after the set is gone. */
static const struct Report {
    ~Report()
    {
        const char *path = getenv("NIB_EMU_REPORT");
        FILE *file = path ? fopen(path, "a") : nullptr;
        if (!file) return;
        for (const std::string &name : nib_emu::finished) fprintf(file, "%s\n", name.c_str());
        fclose(file);
    }
} report;
