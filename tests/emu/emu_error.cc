/* emu_error.cc: errors, that stay or not, and trouble that tests make. */
#include "tests/emu/emu_runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace nib_emu {

struct Planned { /* one call that will fail */
    std::string call;
    cudaError_t error;
    int         after;
};

static std::string  failure;
static cudaError_t  sticky = cudaSuccess, missing = cudaSuccess; /* missing: driver or device */
static int          driver = CUDART_VERSION;
static std::vector<Planned>     planned;
static thread_local cudaError_t last_error;

cudaError_t failure_error() { return sticky; }
int driver_version() { return driver; }

cudaError_t done(cudaError_t error)
{
    if (has_failed()) error = sticky;
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

cudaError_t refused(const char *call)
{
    Unseen unseen;
    if (missing != cudaSuccess) return missing;
    for (size_t i = 0; i < planned.size(); i++) {
        if (planned[i].call != call || planned[i].after-- > 0) continue;
        const cudaError_t error = planned[i].error;
        planned.erase(planned.begin() + (ptrdiff_t)i);
        return error;
    }
    return cudaSuccess;
}

void set_failure(const std::string &sentence, cudaError_t error)
{
    if (has_failed()) return;
    failure = sentence;
    sticky = error;
}

void forget_errors()
{
    failure.clear();
    sticky = last_error = cudaSuccess;
    planned.clear();
}

static int no_trouble()
{
    nib_emu_set_memory(0);
    set_device_count(2);
    set_pageable(false);
    restore_libraries();
    set_shy_heuristic(false);
    set_old_solver(false);
    planned.clear();
    missing = cudaSuccess;
    driver = CUDART_VERSION;
    return 0;
}

static int no_driver(int version)
{
    missing = cudaErrorInsufficientDriver;
    driver = version;
    return 0;
}

static int inject(const std::string &word)
{
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
    const long long number = strtoll(value.c_str(), nullptr, 10);
    if (word == "none") return no_trouble();
    if (word == "no_driver") return no_driver(0);
    if (word == "old_driver") return no_driver(12000);
    if (word == "no_device") return missing = cudaErrorNoDevice, 0;
    if (word == "pageable" || word == "pinned") return set_pageable(word == "pageable"), 0;
    if (word == "shy_heuristic") return set_shy_heuristic(true), 0;
    if (word == "old_cusolver") return set_old_solver(true), 0;
    if (take_library(word.c_str())) return 0;
    if (key == "sm") return nib_emu_set_architecture((int)number);
    if (key == "memory" && number > 0) return nib_emu_set_memory((uint64_t)number), 0;
    if (key == "devices" && number >= 1 && number <= most_devices) {
        return set_device_count((int)number), 0;
    }
    if (key == "sticky" && number > 0) {
        set_failure("an earlier kernel's fault, injected", (cudaError_t)number);
        return 0;
    }
    char call[64];
    int error, after = 0;
    if (key == "fail" && sscanf(value.c_str(), "%63[^:]:%d:%d", call, &error, &after) >= 2) {
        planned.push_back({ call, (cudaError_t)error, after });
        return 0;
    }
    return -1;
}

} // namespace nib_emu

using namespace nib_emu;
typedef std::lock_guard<std::recursive_mutex> Lock;

extern "C" int nib_emu_inject(const char *what)
{
    Lock lock(device_lock());
    Unseen unseen;
    const std::string words = what;
    for (size_t at = 0, end; at < words.size(); at = end) {
        if (words[at] == ' ') { end = at + 1; continue; }
        end = std::min(words.find(' ', at), words.size());
        if (inject(words.substr(at, end - at))) return -1;
    }
    return 0;
}

__attribute__((constructor)) static void from_environment()
{
    const char *wish = getenv("NIB_EMU_INJECT");
    if (wish && nib_emu_inject(wish)) {
        fprintf(stderr, "emulator: NIB_EMU_INJECT='%s' is not understood\n", wish);
        abort();
    }
}

extern "C" const char *nib_emu_failure(void) { return failure.c_str(); }

static const struct { cudaError_t error; const char *name, *sentence; } error_texts[] = {
#define ROW(name, sentence) { name, #name, sentence }
    ROW(cudaSuccess, "no error"),
    ROW(cudaErrorInvalidValue, "invalid argument"),
    ROW(cudaErrorMemoryAllocation, "out of memory"),
    ROW(cudaErrorInitializationError, "initialization error"),
    ROW(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ROW(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    ROW(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    ROW(cudaErrorStubLibrary, "CUDA driver is a stub library"),
    ROW(cudaErrorInsufficientDriver,
        "CUDA driver version is insufficient for CUDA runtime version"),
    ROW(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    ROW(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ROW(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ROW(cudaErrorInvalidDevice, "invalid device ordinal"),
    ROW(cudaErrorNoKernelImageForDevice,
        "no kernel image is available for execution on the device"),
    ROW(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ROW(cudaErrorNotReady, "device not ready"),
    ROW(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ROW(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ROW(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is "
        "already mapped"),
    ROW(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory "
        "region"),
    ROW(cudaErrorMisalignedAddress, "misaligned address"),
    ROW(cudaErrorLaunchFailure, "unspecified launch failure"),
    ROW(cudaErrorNotSupported, "operation not supported"),
    ROW(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ROW(cudaErrorStreamCaptureInvalidated,
        "operation failed due to a previous error during capture"),
    ROW(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a "
        "capturing blocking stream"),
    ROW(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence "
        "from another thread"),
    ROW(cudaErrorUnknown, "unknown error"),
#undef ROW
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &row : error_texts) if (row.error == error) return row.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    if (has_failed() && error == sticky) return failure.c_str();
    for (const auto &row : error_texts) if (row.error == error) return row.sentence;
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError()
{
    Lock lock(device_lock());
    return has_failed() ? sticky : last_error;
}

cudaError_t cudaGetLastError()
{
    Lock lock(device_lock());
    const cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}
