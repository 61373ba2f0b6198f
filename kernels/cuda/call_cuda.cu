/* call_cuda.cu: what every call of this backend does before and after its launches. */
#include "ops_cuda.cuh"

#include <stdio.h>

/* After these nothing works in the process any more (driver_types.h: "the process must be
 * terminated and relaunched"; 709: the context was destroyed). Every later call repeats them. */
static bool is_lost(cudaError_t error)
{
    switch ((int)error) {
    case 214: case 220: case 226: /* ECC, NVLink, contained memory errors */
    case 700: case 702: case 709: case 710: /* illegal address, timeout, destroyed, assert */
    case 714: case 715: case 716: case 717: case 718: case 719: /* exceptions of a kernel */
    case 721: case 911: return true; /* tensor memory leak, external device */
    }
    return false;
}

static nib_status status_of(cudaError_t error)
{
    switch ((int)error) {
    case 2: return NIB_ERR_OUT_OF_MEMORY;
    case 3: case 34: case 35: case 46: case 100: case 101: /* initialisation, stub library, driver
                                              too old or absent, busy, no device, no such one */
        return NIB_ERR_NO_DEVICE;
    }
    return NIB_ERR_DEVICE;
}

nib_status nib_cuda_failed(char *why, const char *what, cudaError_t error)
{
    const nib_status status = status_of(error);
    const char *then = is_lost(error)
        ? "; the CUDA context is lost, only a new process can use the device"
        : status == NIB_ERR_NO_DEVICE ? "" : "; the CUDA context is still usable";
    if (why) snprintf(why, NIB_WHY_BYTES, "%s: CUDA error %d, %s (%s)%s", what, (int)error,
                      cudaGetErrorName(error), cudaGetErrorString(error), then);
    if (!is_lost(error)) (void)cudaGetLastError(); /* told: the next call starts clean */
    return status;
}

/* An error that lay in the thread's record before this call did anything. One that is not fatal
 * came from the caller's own calls (ours are taken off the record above), in a program that shares
 * its CUDA runtime with us. A launch's own error could not be told from it. */
static nib_status left_over(char *why, cudaError_t error)
{
    if (is_lost(error)) return nib_cuda_failed(why, "earlier work on the device", error);
    if (why) snprintf(why, NIB_WHY_BYTES, "nothing was started: an earlier CUDA call of this "
                      "thread, not nibble's, left error %d, %s (%s), for cudaGetLastError to take; "
                      "the CUDA context is still usable", (int)error, cudaGetErrorName(error),
                      cudaGetErrorString(error));
    return NIB_ERR_DEVICE;
}

/* The scope's own failures are told by the call inside it, which asks for the device again, or by
 * the caller's next one; they must not look like errors that the caller left. */
static cudaError_t unrecorded(cudaError_t left, cudaError_t error)
{
    if (error != cudaSuccess && left == cudaSuccess) (void)cudaGetLastError();
    return error;
}

nib_cuda_current::nib_cuda_current()
{
    const cudaError_t left = cudaPeekAtLastError();
    error_ = unrecorded(left, cudaGetDevice(&before_));
}

nib_cuda_current::~nib_cuda_current()
{
    const cudaError_t left = cudaPeekAtLastError();
    int now = before_;
    if (error_ != cudaSuccess || unrecorded(left, cudaGetDevice(&now)) != cudaSuccess) return;
    if (now != before_) (void)unrecorded(left, cudaSetDevice(before_));
}

nib_status nib_cuda_use(int32_t ordinal, char *why)
{
    int now = -1;
    cudaError_t error = cudaGetDevice(&now);
    if (error == cudaSuccess && now != ordinal) error = cudaSetDevice(ordinal);
    return error == cudaSuccess ? NIB_OK : nib_cuda_failed(why, "choosing the device", error);
}

/* The default streams, 0, 1 and 2, are those of the current device. */
static nib_status check_stream(const nib_launch *launch)
{
    if ((uintptr_t)launch->stream <= 2) return NIB_OK;
    int device = launch->ordinal;
    const cudaError_t error = cudaStreamGetDevice((cudaStream_t)launch->stream, &device);
    if ((int)error == 36) return (void)cudaGetLastError(), NIB_OK; /* a driver before 12.8 */
    if (error != cudaSuccess) return nib_cuda_failed(launch->why, "exec->stream", error);
    if (device == launch->ordinal) return NIB_OK;
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "exec->stream %p is of CUDA device %d, "
                              "exec->device is %d", launch->stream, device, launch->ordinal);
    return NIB_ERR_ARGUMENT;
}

static nib_status is_capturing(const nib_launch *launch, bool *capturing)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing((cudaStream_t)launch->stream, &status);
    *capturing = status != cudaStreamCaptureStatusNone;
    return error == cudaSuccess ? NIB_OK : nib_cuda_failed(launch->why, "exec->stream", error);
}

/* Waits for the stream where that is allowed. */
static nib_status wait(const nib_launch *launch, const char *what)
{
    bool capturing = false;
    NIB_CUDA_TRY(is_capturing(launch, &capturing));
    if (capturing) return NIB_OK;
    const cudaError_t error = cudaStreamSynchronize((cudaStream_t)launch->stream);
    return error == cudaSuccess ? NIB_OK : nib_cuda_failed(launch->why, what, error);
}

nib_status nib_cuda_begin(const nib_launch *launch, uint32_t group)
{
    const cudaError_t left = cudaPeekAtLastError();
    if (left != cudaSuccess) return left_over(launch->why, left);
    NIB_CUDA_TRY(nib_cuda_use(launch->ordinal, launch->why));
    NIB_CUDA_TRY(check_stream(launch));
    if (!nib_cuda_is_prepared(launch->ordinal, group)) {
        bool capturing = false;
        NIB_CUDA_TRY(is_capturing(launch, &capturing));
        if (capturing) {
            if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "exec->stream %p is being "
                "captured, and its kernels are not loaded: call nib_prepare first",
                launch->stream);
            return NIB_ERR_NOT_PREPARED;
        }
        NIB_CUDA_TRY(nib_cuda_prepare(launch->ordinal, group, launch->why));
    }
    return launch->debug ? wait(launch, "earlier work in exec->stream") : NIB_OK;
}

nib_status nib_cuda_not_captured(const nib_launch *launch)
{
    bool capturing = false;
    NIB_CUDA_TRY(is_capturing(launch, &capturing));
    if (!capturing) return NIB_OK;
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "exec->stream %p is being captured, and "
                              "the call must wait for it", launch->stream);
    return NIB_ERR_UNSUPPORTED;
}

nib_status nib_cuda_begin_waiting(const nib_launch *launch, uint32_t group)
{
    NIB_CUDA_TRY(nib_cuda_begin(launch, group));
    return nib_cuda_not_captured(launch);
}

nib_status nib_cuda_end(const nib_launch *launch, const char *what)
{
    char step[64];
    const cudaError_t error = cudaPeekAtLastError();
    if (error != cudaSuccess) {
        snprintf(step, sizeof step, "%s %s", is_lost(error)
                 ? "earlier work on the device, seen at the launch of" : "launch of", what);
        return nib_cuda_failed(launch->why, step, error);
    }
    if (!launch->debug) return NIB_OK;
    snprintf(step, sizeof step, "%s on the device", what);
    return wait(launch, step);
}

/* One byte, as the device sees it. "" : it can read it. */
static nib_status byte_of_range(const nib_launch *launch, const char *what, const void *p,
                                int64_t bytes, const char *at)
{
    cudaPointerAttributes a;
    const cudaError_t error = cudaPointerGetAttributes(&a, at);
    if (error != cudaSuccess) return nib_cuda_failed(launch->why, what, error);
    int pageable = 0;
    const char *is = NULL;
    switch (a.type) {
    case cudaMemoryTypeManaged: break;
    case cudaMemoryTypeDevice: /* devicePointer: NULL without access between the two devices */
        if (a.device != launch->ordinal && !a.devicePointer) is = "memory of another CUDA device";
        break;
    case cudaMemoryTypeHost:
        if (a.devicePointer != at) is = "host memory that is registered at another address";
        break;
    default:
        (void)unrecorded(cudaSuccess, cudaDeviceGetAttribute(
            &pageable, cudaDevAttrPageableMemoryAccess, launch->ordinal));
        if (!pageable) is = "no memory that CUDA knows: of the host, freed, or shorter than that";
    }
    if (!is) return NIB_OK;
    if (launch->why) snprintf(launch->why, NIB_WHY_BYTES, "%s: %lld bytes at %p: byte %lld is %s; "
                              "CUDA device %d cannot reach it; the CUDA context is still usable",
                              what, (long long)bytes, p, (long long)(at - (const char *)p), is,
                              launch->ordinal);
    return NIB_ERR_ARGUMENT;
}

nib_status nib_cuda_pointer(const nib_launch *launch, const char *what, const void *p,
                            int64_t bytes)
{
    if (!launch->debug || !p || bytes <= 0) return NIB_OK;
    NIB_CUDA_TRY(byte_of_range(launch, what, p, bytes, (const char *)p));
    return byte_of_range(launch, what, p, bytes, (const char *)p + bytes - 1);
}
