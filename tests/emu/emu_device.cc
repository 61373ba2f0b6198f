/* emu_device.cc: the fake device, the errors and what tests ask for in emu.h. */
#include "tests/emu/emu_runtime.h"

#include <cstdlib>
#include <cstring>
#include <set>

namespace nib_emu {

/* Limits by CUDA C Programming Guide, "Technical Specifications per Compute Capability"; sizes of
 * a common card of each. */
static const Device devices[] = {
    { "emulated sm_80", 8, 0, 108, 2048, (size_t)40 << 30, 40 << 20, 163 << 10, 164 << 10 },
    { "emulated sm_90", 9, 0, 132, 2048, (size_t)80 << 30, 50 << 20, 227 << 10, 228 << 10 },
    { "emulated sm_100", 10, 0, 148, 2048, (size_t)180 << 30, 126 << 20, 227 << 10, 228 << 10 },
    { "emulated sm_120", 12, 0, 170, 1536, (size_t)32 << 30, 96 << 20, 99 << 10, 100 << 10 },
};

static const Device *chosen = &devices[1];
static size_t        memory_override;
static std::string   failure;
static thread_local cudaError_t last_error;

const Device &device() { return *chosen; }
size_t memory_limit() { return memory_override ? memory_override : chosen->memory; }
bool   has_failed() { return !failure.empty(); }

cudaError_t done(cudaError_t error)
{
    if (has_failed()) error = cudaErrorLaunchFailure;
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

void set_failure(const std::string &sentence)
{
    if (failure.empty()) failure = sentence;
}

void forget_errors()
{
    failure.clear();
    last_error = cudaSuccess;
}

} // namespace nib_emu

using namespace nib_emu;
typedef std::lock_guard<std::recursive_mutex> Lock;

extern "C" {

static const char *const schedule_names[] = { "forward", "reverse", "random", "skew" };

void nib_emu_set_schedule(nib_emu_schedule s, uint64_t seed)
{
    Lock lock(device_lock());
    schedule = s;
    random_state = seed * 0x9e3779b97f4a7c15u + 1;
}

const char *nib_emu_schedule_name(nib_emu_schedule s) { return schedule_names[s]; }

__attribute__((constructor)) static void schedule_from_environment()
{
    const char *wish = getenv("NIB_EMU_SCHEDULE");
    for (int i = 0; wish && i < NIB_EMU_SCHEDULES; i++) {
        if (!strcmp(wish, schedule_names[i])) nib_emu_set_schedule((nib_emu_schedule)i, 1);
    }
}

int nib_emu_set_architecture(int sm)
{
    Lock lock(device_lock());
    for (const Device &d : devices) {
        if (d.major * 10 + d.minor != sm) continue;
        chosen = &d;
        return 0;
    }
    return -1;
}

void nib_emu_set_memory(uint64_t bytes)
{
    Lock lock(device_lock());
    memory_override = bytes;
}

void nib_emu_reset(void)
{
    Lock lock(device_lock());
    forget_streams();
    forget_memory();
    forget_functions();
    forget_errors();
}

const char *nib_emu_failure(void) { return failure.c_str(); }

nib_emu_counts nib_emu_get_counts(void)
{
    Lock lock(device_lock());
    return counts;
}

} // extern "C"

static const struct { cudaError_t error; const char *name, *sentence; } error_texts[] = {
#define ROW(name, sentence) { name, #name, sentence }
    ROW(cudaSuccess, "no error"),
    ROW(cudaErrorInvalidValue, "invalid argument"),
    ROW(cudaErrorMemoryAllocation, "out of memory"),
    ROW(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ROW(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ROW(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ROW(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ROW(cudaErrorInvalidDevice, "invalid device ordinal"),
    ROW(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ROW(cudaErrorNotReady, "device not ready"),
    ROW(cudaErrorLaunchFailure, "unspecified launch failure"),
    ROW(cudaErrorNotSupported, "operation not supported"),
    ROW(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ROW(cudaErrorStreamCaptureInvalidated,
        "operation failed due to a previous error during capture"),
#undef ROW
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &row : error_texts) if (row.error == error) return row.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    if (error == cudaErrorLaunchFailure && has_failed()) return failure.c_str();
    for (const auto &row : error_texts) if (row.error == error) return row.sentence;
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError()
{
    Lock lock(device_lock());
    return has_failed() ? cudaErrorLaunchFailure : last_error;
}

cudaError_t cudaGetLastError()
{
    Lock lock(device_lock());
    const cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *ordinal)
{
    *ordinal = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int ordinal)
{
    Lock lock(device_lock());
    return done(ordinal == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int ordinal)
{
    Lock lock(device_lock());
    if (ordinal != 0) return done(cudaErrorInvalidDevice);
    *p = {};
    strncpy(p->name, chosen->name, sizeof p->name - 1);
    p->totalGlobalMem = memory_limit();
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = chosen->shared_optin;
    p->sharedMemPerMultiprocessor = chosen->shared_per_processor;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = chosen->major;
    p->minor = chosen->minor;
    p->multiProcessorCount = chosen->processors;
    p->maxThreadsPerMultiProcessor = chosen->threads_per_processor;
    p->l2CacheSize = (int)chosen->l2;
    p->concurrentKernels = p->unifiedAddressing = p->managedMemory = 1;
    return done(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int ordinal)
{
    Lock lock(device_lock());
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, ordinal) != cudaSuccess) return cudaErrorInvalidDevice;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:              *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock:         *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrWarpSize:                        *value = p.warpSize; break;
    case cudaDevAttrMultiProcessorCount:             *value = p.multiProcessorCount; break;
    case cudaDevAttrL2CacheSize:                     *value = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor:          *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor:          *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:    *value = (int)p.sharedMemPerBlockOptin; break;
    }
    return done(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize()
{
    Lock lock(device_lock());
    if (capturing()) return done(cudaErrorStreamCaptureUnsupported);
    return done(finish_all());
}
