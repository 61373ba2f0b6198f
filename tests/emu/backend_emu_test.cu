/* backend_emu_test.cu: what the CUDA backend says of machines without a device, and of errors that
 * callers and kernels make. The emulator makes the trouble; the library is linked with it. */
#include "tests/emu/emu_test.h"

#if NIB_ON_EMULATOR
#include "kernels/cuda/ops_cuda.cuh"
#include "nibble/device.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <string>

/* A process that has just begun, with this trouble. */
struct Trouble {
    explicit Trouble(const char *what)
    {
        nib_emu_reset();
        (void)cudaGetLastError();
        (void)cudaSetDevice(0);
        EXPECT(nib_emu_inject(what) == 0, "%s", what);
    }
    ~Trouble()
    {
        nib_emu_inject("none");
        nib_emu_set_architecture(NIB_EMU_ARCH);
        nib_emu_reset();
        (void)cudaGetLastError();
        (void)cudaSetDevice(0);
    }
};

static nib_status open_device(nib_backend_kind kind, int32_t ordinal, nib_device **device)
{
    nib_device_options options = {};
    options.size = sizeof options;
    options.backend = kind;
    options.ordinal = ordinal;
    return nib_device_open(&options, device);
}

/* Every word stands in the text. */
using Words = std::vector<const char *>;
static void expect_words(const char *label, const char *text, const Words &words)
{
    for (const char *word : words) {
        EXPECT(strstr(text, word), "%s: no '%s' in: %s", label, word, text);
    }
}

NIB_TEST(CudaBackend, SaysWhyThereIsNoDevice)
{
    static const struct {
        const char *trouble;
        int32_t     ordinal;
        nib_status  status;
        Words       words;
    } rows[] = {
        { "no_driver", 0, NIB_ERR_NO_DEVICE, { "no NVIDIA driver", "35", "InsufficientDriver" } },
        { "old_driver", 0, NIB_ERR_NO_DEVICE, { "driver is for CUDA 12.0", "needs 13.0", "35" } },
        { "no_device", 0, NIB_ERR_NO_DEVICE, { "sees no GPU", "100" } },
        { "sm=75", 0, NIB_ERR_NO_DEVICE, { "device 0", "capability 7.5", "8.0 or later" } },
        { "fail=cudaGetDeviceCount:34:0", 0, NIB_ERR_NO_DEVICE, { "stub", "34" } },
        { "fail=cudaGetDeviceCount:3:0", 0, NIB_ERR_NO_DEVICE, { "error 3" } },
        { "fail=cudaGetDeviceProperties:46:0", 0, NIB_ERR_NO_DEVICE, { "error 46" } },
        { "devices=1", 1, NIB_ERR_UNSUPPORTED, { "ordinal 1", "0 to 0" } },
        { "devices=3", 2147483647, NIB_ERR_UNSUPPORTED, { "2147483647", "0 to 2" } },
    };
    for (const auto &row : rows) {
        const Trouble trouble(row.trouble);
        nib_device *device = nullptr;
        const nib_status status = open_device(NIB_BACKEND_CUDA, row.ordinal, &device);
        EXPECT(status == row.status && !device, "%s: %s", row.trouble, nib_status_name(status));
        expect_words(row.trouble, nib_last_error(), row.words);
        EXPECT(cudaGetLastError() == cudaSuccess || !strncmp(row.trouble, "no", 2)
                   || !strncmp(row.trouble, "old", 3), "%s leaves an error", row.trouble);
    }
}

NIB_TEST(CudaBackend, AutoTakesTheDeviceOrSaysWhyNot)
{
    char *saved = getenv("NIBBLE_BACKEND") ? strdup(getenv("NIBBLE_BACKEND")) : nullptr;
    unsetenv("NIBBLE_BACKEND");
    for (int there = 0; there < 2; there++) {
        const Trouble trouble(there ? "none" : "no_device");
        nib_device *device = nullptr;
        EXPECT(open_device(NIB_BACKEND_AUTO, 0, &device) == NIB_OK, "%s", nib_last_error());
        EXPECT(nib_device_backend(device) == (there ? NIB_BACKEND_CUDA : NIB_BACKEND_CPU), "%d: %s",
               there, nib_device_description(device));
        expect_words("reason", nib_device_reason(device), { there ? "" : "sees no GPU" });
        EXPECT(!there == !!*nib_device_reason(device), "'%s'", nib_device_reason(device));
        nib_device_close(device);
        /* An ordinal that is not there is a mistake, not a reason to compute elsewhere. */
        EXPECT(open_device(NIB_BACKEND_AUTO, 5, &device) == NIB_ERR_UNSUPPORTED, "ordinal 5");
        expect_words("ordinal 5", nib_last_error(), { "ordinal 5", there ? "0 to 1" : "no GPU" });
    }
    if (saved) setenv("NIBBLE_BACKEND", saved, 1);
    free(saved);
}

NIB_TEST(CudaBackend, InfoIsTheDevices)
{
    const Trouble none("none");
    nib_emu_set_architecture(100);
    nib_device *device = nullptr;
    REQUIRE(open_device(NIB_BACKEND_CUDA, 1, &device) == NIB_OK, "%s", nib_last_error());
    nib_device_info info = {};
    info.size = sizeof info;
    EXPECT(nib_device_get_info(device, &info) == NIB_OK, "%s", nib_last_error());
    EXPECT(info.size == sizeof info && info.backend == NIB_BACKEND_CUDA && info.ordinal == 1,
           "backend %d, ordinal %d", (int)info.backend, info.ordinal);
    EXPECT(info.compute_capability == 100 && info.processors == 148, "%d, %d",
           info.compute_capability, info.processors);
    EXPECT(info.shared_bytes == 227 << 10 && info.memory_bytes && info.l2_bytes, "shared %zu",
           info.shared_bytes);
    EXPECT(info.runtime_version == CUDART_VERSION && info.driver_version >= 12080, "%d, %d",
           info.runtime_version, info.driver_version);
    expect_words("description", nib_device_description(device), { "cuda sm_100, ", info.name });
    nib_device_close(device);
}

NIB_TEST(CudaBackend, CodeOfATargetRunsWhereCudaSays)
{
    static const struct {
        const char *archs;
        int         runs[8];
    } rows[] = { /*                80 86 89 90 100 103 120 121 */
        { "sm_80",               { 1, 1, 1, 0, 0, 0, 0, 0 } },
        { "sm_89",               { 0, 0, 1, 0, 0, 0, 0, 0 } },
        { "sm_90a",              { 0, 0, 0, 1, 0, 0, 0, 0 } },
        { "sm_100f",             { 0, 0, 0, 0, 1, 1, 0, 0 } },
        { "sm_100a",             { 0, 0, 0, 0, 1, 0, 0, 0 } },
        { "sm_103f",             { 0, 0, 0, 0, 0, 1, 0, 0 } },
        { "compute_90",          { 0, 0, 0, 1, 1, 1, 1, 1 } },
        { "compute_90a",         { 0, 0, 0, 1, 0, 0, 0, 0 } },
        { "compute_120f",        { 0, 0, 0, 0, 0, 0, 1, 1 } },
        { "sm_80 sm_120f",       { 1, 1, 1, 0, 0, 0, 1, 1 } },
        { "",                    { 0, 0, 0, 0, 0, 0, 0, 0 } },
        { "80 sm_ x",            { 0, 0, 0, 0, 0, 0, 0, 0 } },
    };
    static const int capabilities[8] = { 80, 86, 89, 90, 100, 103, 120, 121 };
    for (const auto &row : rows) {
        for (int i = 0; i < 8; i++) {
            EXPECT(nib_cuda_compiled_for(row.archs, capabilities[i]) == !!row.runs[i],
                   "'%s' on %d", row.archs, capabilities[i]);
        }
    }
    EXPECT(nib_cuda_has_arch("sm_80 sm_90a", "sm_90a") && nib_cuda_has_arch("sm_90a", "sm_90a")
           && !nib_cuda_has_arch("sm_90a sm_80", "sm_90") && !nib_cuda_has_arch("", "sm_90")
           && !nib_cuda_has_arch("sm_90 compute_90", "sm_90a"), "whole words");
}

/* ---- one call: begin, checks, launch, end ---- */

__global__ static void store_one(float *p) { p[threadIdx.x] = 1.0f; }
__global__ static void diverge() { if (threadIdx.x < 32) __syncthreads(); }

struct Call {
    char       why[NIB_WHY_BYTES] = "";
    nib_launch launch = {};

    explicit Call(int32_t debug = 0, int32_t ordinal = 0)
    {
        launch.debug = debug;
        launch.ordinal = ordinal;
        launch.why = why;
    }
    nib_status store(float *p, const void *checked = nullptr, int64_t bytes = 0)
    {
        const nib_cuda_current restored;
        NIB_CUDA_TRY(nib_cuda_begin(&launch, 0));
        NIB_CUDA_TRY(nib_cuda_pointer(&launch, "src->data", checked ? checked : p,
                                      checked ? bytes : 4));
        NIB_LAUNCH(store_one, 1, 1, 0, (cudaStream_t)launch.stream, p);
        return nib_cuda_end(&launch, "store");
    }
};

#define EXPECT_CALL(call, expected, ...)                                              \
    do {                                                                              \
        const nib_status got_ = (call);                                               \
        EXPECT(got_ == (expected), "line %d: %s: %s", __LINE__, nib_status_name(got_), c.why); \
        expect_words("text", c.why, __VA_ARGS__);                                     \
    } while (0)

NIB_TEST(CudaCall, ErrorsOfTheCallerAreNeitherOursNorSwallowed)
{
    const Trouble none("none");
    const Device<float> memory(1);
    Call c;
    EXPECT(cudaSetDevice(77) != cudaSuccess, "the caller's mistake");
    const cudaError_t theirs = cudaPeekAtLastError();
    EXPECT_CALL(c.store(memory), NIB_ERR_DEVICE, Words{ "nothing was started", "not nibble's",
                cudaGetErrorName(theirs), "still usable" });
    EXPECT(cudaGetLastError() == theirs, "it is still there to be taken");
    Call next;
    EXPECT(next.store(memory) == NIB_OK, "%s", next.why);
}

NIB_TEST(CudaCall, ALostContextIsSaidToBe)
{
    for (int code : { 700, 719, 710, 702 }) {
        const Trouble none("none");
        const Device<float> memory(1);
        const std::string number = std::to_string(code);
        nib_emu_inject(("sticky=" + number).c_str());
        for (int again = 0; again < 2; again++) { /* never cleared */
            Call c;
            EXPECT_CALL(c.store(memory), NIB_ERR_DEVICE, Words{ number.c_str(), "earlier work",
                        "context is lost", "new process" });
        }
    }
}

NIB_TEST(CudaCall, FailuresOfItsOwnAreTakenOffTheRecord)
{
    static const struct {
        const char *inject;
        nib_status  status;
        Words       words;
    } rows[] = {
        { "fail=cudaLaunchKernel:9:0", NIB_ERR_DEVICE, { "launch of store", "9", "usable" } },
        { "fail=cudaLaunchKernel:701:0", NIB_ERR_DEVICE, { "launch of store", "701", "usable" } },
        { "fail=cudaLaunchKernel:2:0", NIB_ERR_OUT_OF_MEMORY, { "launch of store", "usable" } },
        { "fail=cudaLaunchKernel:209:0", NIB_ERR_DEVICE, { "209", "usable" } },
        { "fail=cudaGetDevice:3:1", NIB_ERR_NO_DEVICE, { "choosing the device", "error 3" } },
        { "fail=cudaGetDevice:3:0", NIB_OK, {} }, /* the scope's own, which asks in vain */
        { "fail=cudaSetDevice:46:0", NIB_ERR_NO_DEVICE, { "choosing the device", "46" } },
    };
    for (const auto &row : rows) {
        const Trouble none("none");
        const Device<float> memory(1);
        Call c(0, !strncmp(row.inject, "fail=cudaSet", 12)), next;
        EXPECT(nib_emu_inject(row.inject) == 0, "%s", row.inject);
        EXPECT_CALL(c.store(memory), row.status, row.words);
        EXPECT(cudaPeekAtLastError() == cudaSuccess, "%s: left behind", row.inject);
        EXPECT(next.store(memory) == NIB_OK, "%s: %s", row.inject, next.why);
    }
}

NIB_TEST(CudaCall, AStreamOfAnotherDeviceIsRefused)
{
    const Trouble none("devices=2");
    cudaStream_t here, there;
    EXPECT_CUDA(cudaStreamCreate(&here));
    EXPECT_CUDA(cudaSetDevice(1));
    EXPECT_CUDA(cudaStreamCreate(&there));
    EXPECT_CUDA(cudaSetDevice(0));
    const Device<float> memory(1);
    Call c, right;
    c.launch.stream = there;
    EXPECT_CALL(c.store(memory), NIB_ERR_ARGUMENT, Words{ "device 1", "exec->device is 0" });
    right.launch.stream = here;
    EXPECT(right.store(memory) == NIB_OK, "%s", right.why);
    /* A driver that cannot say: the check is left out. */
    nib_emu_inject("fail=cudaStreamGetDevice:36:0");
    EXPECT(right.store(memory) == NIB_OK, "%s", right.why);
    EXPECT(cudaPeekAtLastError() == cudaSuccess, "36 stays");
    EXPECT_CUDA(cudaDeviceSynchronize());
}

NIB_TEST(CudaCall, TheCallersDeviceStaysCurrent)
{
    const Trouble none("devices=4");
    for (int mine : { 0, 3 }) {
        EXPECT_CUDA(cudaSetDevice(2));
        Call c(0, mine);
        void *memory = nullptr;
        int   now = -1;
        EXPECT(nib_runtime_cuda.allocate(mine, 64, &memory, c.why) == NIB_OK, "%s", c.why);
        cudaPointerAttributes a;
        EXPECT_CUDA(cudaPointerGetAttributes(&a, memory));
        EXPECT(a.device == mine, "memory is on %d, not %d", a.device, mine);
        EXPECT(c.store((float *)memory) == NIB_OK, "%s", c.why);
        EXPECT(cudaGetDevice(&now) == cudaSuccess && now == 2, "after a call: %d", now);
        nib_emu_inject("fail=cudaLaunchKernel:9:0");
        EXPECT(c.store((float *)memory) == NIB_ERR_DEVICE, "%s", c.why);
        EXPECT(cudaGetDevice(&now) == cudaSuccess && now == 2, "after a failure: %d", now);
        EXPECT(nib_cuda_prepare(mine, NIB_PREPARE_ALL, c.why) == NIB_OK, "%s", c.why);
        EXPECT(cudaGetDevice(&now) == cudaSuccess && now == 2, "after prepare: %d", now);
        EXPECT(nib_runtime_cuda.synchronize(mine, nullptr, c.why) == NIB_OK, "%s", c.why);
        EXPECT(nib_runtime_cuda.release(mine, memory, c.why) == NIB_OK, "%s", c.why);
        EXPECT(cudaGetDevice(&now) == cudaSuccess && now == 2, "after release: %d", now);
    }
}

/* Device 7 is prepared by nobody else in this process. */
NIB_TEST(CudaCall, ACaptureNeedsItsKernelsLoaded)
{
    const Trouble none("devices=8");
    cudaStream_t stream;
    cudaGraph_t  graph;
    EXPECT_CUDA(cudaSetDevice(7));
    EXPECT_CUDA(cudaStreamCreate(&stream));
    for (int prepared = 0; prepared < 2; prepared++) {
        Call c(0, 7);
        c.launch.stream = stream;
        if (prepared) {
            nib_emu_inject("fail=cudaFuncGetAttributes:2:0");
            EXPECT_CALL(nib_cuda_prepare(7, NIB_PREPARE_QUANTIZE, c.why), NIB_ERR_OUT_OF_MEMORY,
                        Words{ "loading", "error 2", "usable" });
            EXPECT(nib_cuda_prepare(7, NIB_PREPARE_QUANTIZE, c.why) == NIB_OK, "%s", c.why);
            cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
            EXPECT(cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess
                       && mode == cudaStreamCaptureModeGlobal, "the mode is %d", (int)mode);
        }
        EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        const nib_status status = nib_cuda_begin(&c.launch, NIB_PREPARE_QUANTIZE);
        EXPECT(status == (prepared ? NIB_OK : NIB_ERR_NOT_PREPARED), "%s", nib_status_name(status));
        if (!prepared) expect_words("text", c.why, { "being captured", "nib_prepare" });
        EXPECT_CUDA(cudaStreamEndCapture(stream, &graph)); /* either way it goes on */
        EXPECT_CUDA(cudaGraphDestroy(graph));
    }
}

static void *prepare_device_6(void *status)
{
    char why[NIB_WHY_BYTES];
    *(nib_status *)status = nib_cuda_prepare(6, NIB_PREPARE_ALL, why);
    return nullptr;
}

NIB_TEST(CudaCall, ManyThreadsMayPrepare)
{
    const Trouble none("devices=8");
    pthread_t  threads[4];
    nib_status status[4];
    for (int i = 0; i < 4; i++) {
        REQUIRE(!pthread_create(&threads[i], nullptr, prepare_device_6, &status[i]), "no thread");
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], nullptr);
        EXPECT(status[i] == NIB_OK, "%d: %s", i, nib_status_name(status[i]));
    }
}

/* ---- debug mode ---- */

NIB_TEST(CudaDebug, PointersThatTheDeviceCannotReach)
{
    const Trouble none("devices=2");
    const Device<float> memory(64);
    float *on_stack = (float *)alloca(256), *pinned, *managed, *second;
    EXPECT_CUDA(cudaMallocHost(&pinned, 256));
    EXPECT_CUDA(cudaMallocManaged((void **)&managed, 256));
    EXPECT_CUDA(cudaSetDevice(1));
    EXPECT_CUDA(cudaMalloc(&second, 256));
    EXPECT_CUDA(cudaSetDevice(0));
    Call c(1);
    const Words host = { "src->data", "256 bytes", "byte 0", "of the host", "device 0", "usable" };
    EXPECT_CALL(c.store(memory, on_stack, 256), NIB_ERR_ARGUMENT, host);
    EXPECT_CALL(c.store(memory, memory + 0, 257), NIB_ERR_ARGUMENT, Words{ "byte 256", "shorter" });
    Call good(1);
    EXPECT(good.store(memory, memory + 0, 256) == NIB_OK, "%s", good.why);
    EXPECT(good.store(memory, pinned, 256) == NIB_OK, "%s", good.why);
    EXPECT(good.store(memory, managed, 256) == NIB_OK, "%s", good.why);
    EXPECT(good.store(memory, on_stack, 0) == NIB_OK, "no bytes: %s", good.why);
    Call quick(0);
    EXPECT(quick.store(memory, on_stack, 256) == NIB_OK, "only in debug mode: %s", quick.why);
    nib_emu_inject("pageable");
    EXPECT(good.store(memory, on_stack, 256) == NIB_OK, "it reads the host: %s", good.why);
    EXPECT_CUDA(cudaDeviceSynchronize());
}

NIB_TEST(CudaDebug, AFaultIsReportedByTheCallThatMadeIt)
{
    for (int ours = 0; ours < 2; ours++) {
        const Trouble none("none");
        const Device<float> memory(1);
        Call c(1), next(1);
        if (!ours) {
            NIB_LAUNCH(diverge, 1, 64, 0, 0);
            EXPECT_CALL(c.store(memory), NIB_ERR_DEVICE, Words{ "earlier work in exec->stream",
                        "719", "lost" });
        } else {
            EXPECT(nib_cuda_begin(&c.launch, 0) == NIB_OK, "%s", c.why);
            NIB_LAUNCH(diverge, 1, 64, 0, 0);
            EXPECT_CALL(nib_cuda_end(&c.launch, "store"), NIB_ERR_DEVICE,
                        Words{ "store on the device", "719", "lost" });
        }
        EXPECT(next.store(memory) == NIB_ERR_DEVICE, "it stays");
    }
}

/* Through the public call: its name and the backend's words in one sentence. */
NIB_TEST(CudaDebug, OptionOrEnvironmentTurnsItOn)
{
    const Trouble none("none");
    const Device<float>   on_device(32);
    const Device<uint8_t> codes(16), scales(1);
    float on_host[32] = { 0 };
    char *saved = getenv("NIBBLE_DEBUG") ? strdup(getenv("NIBBLE_DEBUG")) : nullptr;
    for (int by_environment = 0; by_environment < 2; by_environment++) {
        nib_device *device = nullptr;
        nib_device_options options = {};
        options.size = sizeof options;
        options.backend = NIB_BACKEND_CUDA;
        options.debug = !by_environment;
        setenv("NIBBLE_DEBUG", by_environment ? "1" : "0", 1);
        REQUIRE(nib_device_open(&options, &device) == NIB_OK, "%s", nib_last_error());
        nib_exec exec = {};
        exec.size = sizeof exec;
        exec.device = device;
        nib_matrix src = { on_host, NIB_F32, 1, 32, 32 };
        nib_packed dst = {};
        dst.size = sizeof dst;
        dst.format = NIB_MXFP4;
        dst.rows = 1;
        dst.cols = 32;
        dst.codes = codes;
        dst.ld_codes_bytes = 16;
        dst.scales = scales;
        EXPECT(nib_quantize(&exec, &src, nullptr, &dst) == NIB_ERR_ARGUMENT, "%d", by_environment);
        expect_words("text", nib_last_error(), { "quantize: src", "128 bytes", "of the host" });
        src.data = on_device;
        EXPECT(nib_quantize(&exec, &src, nullptr, &dst) == NIB_OK, "%s", nib_last_error());
        nib_device_close(device);
    }
    if (saved) setenv("NIBBLE_DEBUG", saved, 1);
    else unsetenv("NIBBLE_DEBUG");
    free(saved);
}

NIB_TEST(CudaDebug, OnACapturedStreamNobodyWaits)
{
    const Trouble none("none");
    const Device<float> memory(1);
    Call c(1);
    void *stream, *graph;
    cudaFuncAttributes loaded;
    EXPECT_CUDA(cudaFuncGetAttributes(&loaded, store_one));
    EXPECT(nib_runtime_cuda.stream_create(0, &stream, c.why) == NIB_OK, "%s", c.why);
    EXPECT(nib_runtime_cuda.capture_begin(0, stream, c.why) == NIB_OK, "%s", c.why);
    c.launch.stream = stream;
    EXPECT(c.store(memory) == NIB_OK, "%s", c.why);
    EXPECT(nib_runtime_cuda.capture_end(0, stream, &graph, c.why) == NIB_OK, "%s", c.why);
    EXPECT(nib_runtime_cuda.graph_launch(0, graph, stream, c.why) == NIB_OK, "%s", c.why);
    float value = 0;
    EXPECT(nib_runtime_cuda.copy(0, stream, &value, memory, 4, c.why) == NIB_OK, "%s", c.why);
    EXPECT(value == 1.0f, "the graph stored %g", (double)value);
    EXPECT(nib_runtime_cuda.graph_destroy(0, graph, c.why) == NIB_OK, "%s", c.why);
    EXPECT(nib_runtime_cuda.stream_destroy(0, stream, c.why) == NIB_OK, "%s", c.why);
}

NIB_TEST(CudaRuntime, FillsCopiesAndTimes)
{
    const Trouble none("none");
    char why[NIB_WHY_BYTES] = "";
    const nib_runtime_ops *r = &nib_runtime_cuda;
    void *memory, *stream, *from, *to;
    unsigned char back[3] = { 0, 0, 0 };
    float ms = -1;
    EXPECT(r->allocate(0, 3, &memory, why) == NIB_OK, "%s", why);
    EXPECT(r->stream_create(0, &stream, why) == NIB_OK, "%s", why);
    EXPECT(r->event_create(0, &from, why) == NIB_OK, "%s", why);
    EXPECT(r->event_create(0, &to, why) == NIB_OK, "%s", why);
    EXPECT(r->event_record(0, from, stream, why) == NIB_OK, "%s", why);
    EXPECT(r->fill(0, stream, memory, 0x5a, 3, why) == NIB_OK, "%s", why);
    EXPECT(r->event_record(0, to, stream, why) == NIB_OK, "%s", why);
    EXPECT(r->copy(0, stream, back, memory, 3, why) == NIB_OK, "%s", why);
    EXPECT(back[0] == 0x5a && back[2] == 0x5a, "%#x", back[0]);
    EXPECT(r->event_elapsed(0, from, to, &ms, why) == NIB_OK && ms >= 0, "%s, %g ms", why,
           (double)ms);
    EXPECT(r->event_destroy(0, from, why) == NIB_OK && r->event_destroy(0, to, why) == NIB_OK,
           "%s", why);
    EXPECT(r->stream_destroy(0, stream, why) == NIB_OK, "%s", why);
    EXPECT(r->release(0, memory, why) == NIB_OK, "%s", why);
    nib_emu_inject("memory=4096");
    EXPECT(r->allocate(0, 4097, &memory, why) == NIB_ERR_OUT_OF_MEMORY && !memory, "no memory");
    expect_words("text", why, { "cudaMalloc", "error 2", "usable" });
    EXPECT(r->allocate(0, 4096, &memory, why) == NIB_OK, "%s", why);
    EXPECT(r->release(0, memory, why) == NIB_OK, "%s", why);
}
#endif
