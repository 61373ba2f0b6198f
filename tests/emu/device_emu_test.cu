/* device_emu_test.cu: the fake devices: two of them, their memory, and injected trouble. */
#include "tests/emu/emu_test.h"

#if NIB_ON_EMULATOR
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

__global__ static void store(int *data, int value) { *data = value; }

NIB_TEST(EmuDevice, StreamsBelongToTheirs)
{
    nib_emu_reset();
    int n = 0, at = -1;
    cudaStream_t one, two;
    int *data;
    EXPECT(cudaGetDeviceCount(&n) == cudaSuccess && n == 2, "%d devices", n);
    EXPECT_CUDA(cudaStreamCreate(&one));
    EXPECT_CUDA(cudaSetDevice(1));
    EXPECT_CUDA(cudaStreamCreate(&two));
    EXPECT_CUDA(cudaMalloc(&data, 4));
    EXPECT(cudaStreamGetDevice(one, &at) == cudaSuccess && at == 0, "%d", at);
    EXPECT(cudaStreamGetDevice(two, &at) == cudaSuccess && at == 1, "%d", at);
    EXPECT(cudaStreamGetDevice(nullptr, &at) == cudaSuccess && at == 1, "%d", at);
    cudaPointerAttributes attributes;
    EXPECT_CUDA(cudaPointerGetAttributes(&attributes, data));
    EXPECT(attributes.device == 1 && attributes.type == cudaMemoryTypeDevice, "");
    NIB_LAUNCH(store, 1, 1, 0, one, data, 1);
    EXPECT(cudaGetLastError() == cudaErrorInvalidResourceHandle, "a stream of another device");
    NIB_LAUNCH(store, 1, 1, 0, two, data, 1);
    EXPECT_CUDA(cudaGetLastError());
    EXPECT(cudaSetDevice(2) == cudaErrorInvalidDevice, "there are two");
    EXPECT_CUDA(cudaSetDevice(0));
    int host = 0;
    EXPECT_CUDA(cudaDeviceSynchronize()); /* of device 0 alone */
    EXPECT_CUDA(cudaMemcpyAsync(&host, data, 4, cudaMemcpyDeviceToHost, one));
    EXPECT_CUDA(cudaStreamSynchronize(one));
    EXPECT(host != 1, "device 1 was not waited for");
    EXPECT_CUDA(cudaStreamSynchronize(two));
    EXPECT_CUDA(cudaMemcpy(&host, data, 4, cudaMemcpyDeviceToHost));
    EXPECT(host == 1, "%d", host);
    nib_emu_reset();
}

NIB_TEST(EmuDevice, PointersSayWhatTheyAre)
{
    nib_emu_reset();
    static int plain, registered;
    void *device, *pinned, *managed, *seen;
    EXPECT_CUDA(cudaMalloc(&device, 8));
    EXPECT_CUDA(cudaMallocHost(&pinned, 8));
    EXPECT_CUDA(cudaMallocManaged(&managed, 8));
    EXPECT_CUDA(cudaHostRegister(&registered, 4, cudaHostRegisterDefault));
    EXPECT(cudaHostRegister(&registered, 4, 0) == cudaErrorHostMemoryAlreadyRegistered, "twice");
    EXPECT(cudaHostGetDevicePointer(&seen, &registered, 0) == cudaSuccess && seen == &registered,
           "");
    const struct { void *p; cudaMemoryType type; } rows[] = {
        { device, cudaMemoryTypeDevice }, { (char *)device + 7, cudaMemoryTypeDevice },
        { (char *)device + 8, cudaMemoryTypeUnregistered }, { pinned, cudaMemoryTypeHost },
        { managed, cudaMemoryTypeManaged }, { &registered, cudaMemoryTypeHost },
        { &plain, cudaMemoryTypeUnregistered } };
    for (const auto &r : rows) {
        cudaPointerAttributes a;
        EXPECT_CUDA(cudaPointerGetAttributes(&a, r.p));
        EXPECT(a.type == r.type, "row %td: %d", &r - rows, (int)a.type);
    }
    EXPECT_CUDA(cudaHostUnregister(&registered));
    EXPECT(cudaHostUnregister(&registered) == cudaErrorHostMemoryNotRegistered, "gone");
    EXPECT(cudaFree(pinned) == cudaErrorInvalidValue, "not the device's");
    EXPECT_CUDA(cudaFreeHost(pinned));
    EXPECT_CUDA(cudaFree(managed));
    nib_emu_reset();
}

NIB_TEST(EmuDevice, CopiesOfRowsAndMemoryInStreamOrder)
{
    nib_emu_reset();
    cudaStream_t stream;
    char *data;
    const char rows[] = "abXXcdXXef";
    char back[9] = "........";
    EXPECT_CUDA(cudaStreamCreate(&stream));
    EXPECT_CUDA(cudaMallocAsync(&data, 8, stream));
    EXPECT_CUDA(cudaMemcpy2DAsync(data, 3, rows, 4, 2, 3, cudaMemcpyHostToDevice, stream));
    EXPECT(cudaMemcpy2DAsync(data, 4, rows, 4, 2, 3, cudaMemcpyHostToDevice, stream) ==
               cudaErrorInvalidValue, "10 bytes of 8");
    EXPECT(cudaMemcpy2DAsync(data, 1, rows, 4, 2, 3, cudaMemcpyHostToDevice, stream) ==
               cudaErrorInvalidPitchValue, "");
    EXPECT_CUDA(cudaMemcpy2DAsync(back, 3, data, 3, 2, 3, cudaMemcpyDeviceToHost, stream));
    EXPECT_CUDA(cudaFreeAsync(data, stream));
    EXPECT_CUDA(cudaStreamSynchronize(stream));
    EXPECT(!memcmp(back, "ab.cd.ef", 8), "%s", back);
    EXPECT(cudaFree(data) == cudaErrorInvalidValue, "freed");
    nib_emu_reset();
}

NIB_TEST(EmuDevice, Occupancy)
{
    nib_emu_reset();
    const struct { int threads; size_t smem; int want; } rows[] = {
        { 32, 0, 32 }, { 256, 0, 8 }, { 1024, 0, 2 }, { 1025, 0, 0 }, { 100, 0, 16 } };
    for (const auto &r : rows) {
        int blocks = -1;
        EXPECT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, store, r.threads,
                                                                  r.smem));
        EXPECT(blocks == r.want, "%d threads: %d", r.threads, blocks);
    }
    int blocks = -1;
    EXPECT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, store, 128, 60 << 10));
    EXPECT(blocks == 2 || blocks == 3, "60 KiB each: %d", blocks);
}

NIB_TEST(EmuTrouble, DriversAndDevices)
{
    nib_emu_reset();
    const struct { const char *what; int error, driver; } rows[] = {
        { "no_driver", cudaErrorInsufficientDriver, 0 },
        { "old_driver", cudaErrorInsufficientDriver, 12000 },
        { "no_device", cudaErrorNoDevice, CUDART_VERSION } };
    for (const auto &r : rows) {
        EXPECT(nib_emu_inject(r.what) == 0, "%s", r.what);
        int n = 77, version = -1;
        void *p;
        EXPECT(cudaGetDeviceCount(&n) == r.error && n == 77, "%s: the count is left", r.what);
        EXPECT(cudaDriverGetVersion(&version) == cudaSuccess && version == r.driver, "%s", r.what);
        EXPECT(cudaMalloc(&p, 4) == r.error, "%s", r.what);
        NIB_LAUNCH(store, 1, 1, 0, 0, nullptr, 0);
        EXPECT(cudaGetLastError() == r.error, "%s", r.what);
        EXPECT(nib_emu_inject("none") == 0, "");
    }
    int *data;
    EXPECT_CUDA(cudaMalloc(&data, 4));
    EXPECT(nib_emu_inject("sm=75") == 0, "");
    NIB_LAUNCH(store, 1, 1, 0, 0, data, 0);
    EXPECT(cudaGetLastError() == cudaErrorNoKernelImageForDevice, "an old device");
    nib_emu_set_architecture(NIB_EMU_ARCH);
    EXPECT(nib_emu_inject("sm=74") == -1 && nib_emu_inject("nonsense") == -1 &&
           nib_emu_inject("devices=0") == -1, "unknown words");
    EXPECT(nib_emu_inject("devices=1 memory=100 pageable") == 0, "");
    int n = 0, pageable = 0;
    size_t free_bytes, all;
    EXPECT(cudaGetDeviceCount(&n) == cudaSuccess && n == 1, "%d", n);
    EXPECT_CUDA(cudaDeviceGetAttribute(&pageable, cudaDevAttrPageableMemoryAccess, 0));
    EXPECT(pageable == 1, "%d", pageable);
    EXPECT(cudaMemGetInfo(&free_bytes, &all) == cudaSuccess && all == 100, "%zu", all);
    EXPECT(nib_emu_inject("none") == 0, "");
    nib_emu_reset();
}

NIB_TEST(EmuTrouble, OneCallOrAllThatFollow)
{
    nib_emu_reset();
    void *p;
    EXPECT(nib_emu_inject("fail=cudaMalloc:2:1 fail=cudaLaunchKernel:701") == 0, "");
    EXPECT_CUDA(cudaMalloc(&p, 4));
    EXPECT(cudaMalloc(&p, 4) == cudaErrorMemoryAllocation, "the second");
    EXPECT_CUDA(cudaMalloc(&p, 4));
    cudaGetLastError();
    NIB_LAUNCH(store, 1, 1, 0, 0, (int *)p, 0);
    EXPECT(cudaGetLastError() == cudaErrorLaunchOutOfResources, "");
    NIB_LAUNCH(store, 1, 1, 0, 0, (int *)p, 0);
    EXPECT_CUDA(cudaDeviceSynchronize());
    EXPECT(nib_emu_inject("sticky=700") == 0, "");
    for (int i = 0; i < 2; i++) {
        EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress, "");
        EXPECT(cudaGetLastError() == cudaErrorIllegalAddress, "it stays");
    }
    nib_emu_reset();
    EXPECT_CUDA(cudaDeviceSynchronize());
}

NIB_TEST(EmuTrouble, KernelsHaveNames)
{
    nib_emu_reset();
    void (*const kernel)(int *, int) = store;
    int *data;
    EXPECT_CUDA(cudaMalloc(&data, 4));
    NIB_LAUNCH(kernel, 1, 1, 0, 0, data, 0);
    EXPECT_CUDA(cudaDeviceSynchronize());
    const int n = nib_emu_kernel_name(0, nullptr, 0);
    int found = 0;
    char name[256];
    for (int i = 0; i < n; i++) {
        nib_emu_kernel_name(i, name, sizeof name);
        found += !strcmp(name, "store");
    }
    EXPECT(found >= 1, "%d kernels, none of them 'store'", n);
    nib_emu_reset();
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__has_feature)
#define SEES_BAD_ACCESS 1
#elif defined(__has_feature)
#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
#define SEES_BAD_ACCESS 1
#endif
#endif

#ifdef SEES_BAD_ACCESS
NIB_TEST(EmuGuard, KernelsThatLeaveDeviceMemoryFault)
{
    int *data = nullptr;
    for (int behind = 0; behind < 3; behind++) {
        nib_emu_reset();
        EXPECT_CUDA(cudaMalloc(&data, 4096));
        int *const at = behind == 0 ? nullptr : behind == 1 ? data + 1024 : data;
        if (behind == 2) EXPECT_CUDA(cudaFree(data));
        NIB_LAUNCH(store, 1, 32, 0, 0, at, 3);
        EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress, "%d", behind);
        EXPECT(strstr(nib_emu_failure(), "store: an access to address"), "%s", nib_emu_failure());
        EXPECT(cudaMalloc(&data, 4) == cudaErrorIllegalAddress, "it stays");
    }
    nib_emu_reset();
}

NIB_TEST(EmuGuard, TheHostCannotTouchDeviceMemory)
{
    nib_emu_reset();
    int *data;
    EXPECT_CUDA(cudaMalloc(&data, 4));
    EXPECT_CUDA(cudaMemset(data, 0, 4));
    EXPECT_CUDA(cudaDeviceSynchronize());
    const pid_t child = fork();
    if (child == 0) {
        close(2);
        _exit(*(volatile int *)data);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "status 0x%x", status);
    nib_emu_reset();
}
#endif
#endif
