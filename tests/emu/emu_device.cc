/* emu_device.cc: the fake devices, and what tests ask for in emu.h. */
#include "tests/emu/emu_runtime.h"

#include <cstdlib>
#include <cstring>

namespace nib_emu {

/* Limits by CUDA C Programming Guide, "Technical Specifications per Compute Capability"; sizes of
 * a common card of each. */
static const Device devices[] = {
    { "emulated sm_75", 7, 5, 40, 1024, (size_t)16 << 30, 4 << 20, 64 << 10, 64 << 10 },
    { "emulated sm_80", 8, 0, 108, 2048, (size_t)40 << 30, 40 << 20, 163 << 10, 164 << 10 },
    { "emulated sm_90", 9, 0, 132, 2048, (size_t)80 << 30, 50 << 20, 227 << 10, 228 << 10 },
    { "emulated sm_100", 10, 0, 148, 2048, (size_t)180 << 30, 126 << 20, 227 << 10, 228 << 10 },
    { "emulated sm_120", 12, 0, 170, 1536, (size_t)32 << 30, 96 << 20, 99 << 10, 100 << 10 },
};

static const Device *chosen;
static size_t        memory_override;
static int           count = 2;
static bool          pageable;
static thread_local int ordinal_of_thread;

static const Device *find_device(int sm)
{
    for (const Device &d : devices) if (d.major * 10 + d.minor == sm) return &d;
    return nullptr;
}

const Device &device()
{
    if (!chosen) chosen = find_device(built_for);
    return *chosen;
}
size_t memory_limit() { return memory_override ? memory_override : device().memory; }
int  device_count() { return count; }
void set_device_count(int n) { count = n; }
int  current_device() { return ordinal_of_thread; }
bool reads_host_memory() { return pageable; }
void set_pageable(bool yes) { pageable = yes; }

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
    const Device *found = find_device(sm);
    if (found) chosen = found;
    return found ? 0 : -1;
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
    forget_cublaslt();
    forget_errors();
}

nib_emu_counts nib_emu_get_counts(void)
{
    Lock lock(device_lock());
    return counts;
}

} // extern "C"

/* Without a driver the count is left as it was, as by the real one. */
cudaError_t cudaGetDeviceCount(int *n)
{
    NIB_EMU_CALL();
    *n = count;
    return done(cudaSuccess);
}

cudaError_t cudaGetDevice(int *ordinal)
{
    NIB_EMU_CALL();
    *ordinal = ordinal_of_thread;
    return done(cudaSuccess);
}

cudaError_t cudaSetDevice(int ordinal)
{
    NIB_EMU_CALL();
    if (ordinal < 0 || ordinal >= count) return done(cudaErrorInvalidDevice);
    ordinal_of_thread = ordinal;
    return done(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int *version) { return *version = driver_version(), cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int ordinal)
{
    NIB_EMU_CALL();
    if (ordinal < 0 || ordinal >= count) return done(cudaErrorInvalidDevice);
    const Device &d = device();
    *p = {};
    strncpy(p->name, d.name, sizeof p->name - 1);
    p->totalGlobalMem = memory_limit();
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = d.shared_optin;
    p->sharedMemPerMultiprocessor = d.shared_per_processor;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = d.major;
    p->minor = d.minor;
    p->multiProcessorCount = d.processors;
    p->maxThreadsPerMultiProcessor = d.threads_per_processor;
    p->l2CacheSize = (int)d.l2;
    p->pageableMemoryAccess = pageable;
    p->concurrentKernels = p->unifiedAddressing = p->managedMemory = 1;
    return done(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int ordinal)
{
    NIB_EMU_CALL();
    cudaDeviceProp p;
    const cudaError_t error = cudaGetDeviceProperties(&p, ordinal);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:         *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxGridDimX:                *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY:                *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ:                *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock:    *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrWarpSize:                   *value = p.warpSize; break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = p.regsPerBlock; break;
    case cudaDevAttrClockRate:                  *value = 1000000; break; /* kHz */
    case cudaDevAttrMemoryClockRate:            *value = 1000000; break;
    case cudaDevAttrGlobalMemoryBusWidth:       *value = 512; break;
    case cudaDevAttrMultiProcessorCount:        *value = p.multiProcessorCount; break;
    case cudaDevAttrIntegrated:                 *value = 0; break;
    case cudaDevAttrL2CacheSize:                *value = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor:     *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor:     *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrPageableMemoryAccess:
    case cudaDevAttrPageableMemoryAccessUsesHostPageTables: *value = pageable; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentManagedAccess:
    case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrMemoryPoolsSupported:       *value = 1; break;
    default: return done(cudaErrorInvalidValue);
    }
    return done(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize()
{
    NIB_EMU_CALL();
    const cudaError_t error = forbidden_by_capture();
    return done(error != cudaSuccess ? error : finish_all());
}

/* Ends the context of every device. */
cudaError_t cudaDeviceReset()
{
    nib_emu_reset();
    return cudaSuccess;
}
