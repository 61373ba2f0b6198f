/* capture_emu_test.cu: what a capture forbids, to whom, and that it ends then. */
#include "tests/emu/emu_test.h"

#if NIB_ON_EMULATOR
#include <string.h>
#include <thread>

__global__ static void store(int *data, int value) { *data = value; }
__global__ static void store_again(int *data, int value) { *data = value; }

static void load()
{
    cudaFuncAttributes attributes;
    EXPECT_CUDA(cudaFuncGetAttributes(&attributes, store));
    EXPECT(attributes.binaryVersion == NIB_EMU_ARCH, "%d", attributes.binaryVersion);
}

/* Each of these ends the capture that it happens in. */
NIB_TEST(EmuCapture, RefusesWhatWaits)
{
    int *data = nullptr, *more;
    cudaStream_t stream;
    const struct {
        const char                  *name;
        std::function<cudaError_t()> call;
        cudaError_t                  want;
    } calls[] = {
        { "malloc", [&] { return cudaMalloc(&more, 4); }, cudaErrorStreamCaptureUnsupported },
        { "free", [&] { return cudaFree(data); }, cudaErrorStreamCaptureUnsupported },
        { "device", [] { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported },
        { "memset", [&] { return cudaMemset(data, 0, 4); }, cudaErrorStreamCaptureUnsupported },
        { "memcpy", [&] { return cudaMemcpy(data, &more, 4, cudaMemcpyHostToDevice); },
          cudaErrorStreamCaptureUnsupported },
        { "synchronize", [&] { return cudaStreamSynchronize(stream); },
          cudaErrorStreamCaptureUnsupported },
        { "query", [&] { return cudaStreamQuery(stream); }, cudaErrorStreamCaptureUnsupported },
        { "default stream", [&] {
              NIB_LAUNCH(store, 1, 1, 0, 0, data, 1);
              return cudaGetLastError();
          }, cudaErrorStreamCaptureImplicit },
        { "a kernel that is not loaded", [&] {
              NIB_LAUNCH(store_again, 1, 1, 0, stream, data, 1);
              return cudaGetLastError();
          }, cudaErrorStreamCaptureUnsupported } };
    for (const auto &c : calls) {
        nib_emu_reset();
        load();
        cudaGraph_t graph;
        cudaStreamCaptureStatus status;
        EXPECT_CUDA(cudaStreamCreate(&stream));
        EXPECT_CUDA(cudaMalloc(&data, 4));
        EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        EXPECT_CUDA(cudaStreamIsCapturing(stream, &status));
        EXPECT(status == cudaStreamCaptureStatusActive, "%s", c.name);
        const cudaError_t error = c.call();
        EXPECT(error == c.want, "%s: %s", c.name, cudaGetErrorName(error));
        EXPECT_CUDA(cudaStreamIsCapturing(stream, &status));
        EXPECT(status == cudaStreamCaptureStatusInvalidated, "%s", c.name);
        NIB_LAUNCH(store, 1, 1, 0, stream, data, 1);
        EXPECT(cudaGetLastError() == cudaErrorStreamCaptureInvalidated, "%s", c.name);
        EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph,
               "%s", c.name);
        EXPECT_CUDA(cudaStreamSynchronize(stream));
    }
    nib_emu_reset();
}

/* A thread-local capture binds its own thread, a relaxed one nobody. */
NIB_TEST(EmuCapture, ModesBindThreads)
{
    const struct { cudaStreamCaptureMode mode; bool here, elsewhere; } rows[] = {
        { cudaStreamCaptureModeGlobal, true, true },
        { cudaStreamCaptureModeThreadLocal, true, false },
        { cudaStreamCaptureModeRelaxed, false, false } };
    for (const auto &r : rows) {
        for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
            nib_emu_reset();
            cudaStream_t stream;
            cudaGraph_t graph;
            int *data;
            cudaError_t error = cudaSuccess;
            EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
            EXPECT_CUDA(cudaStreamBeginCapture(stream, r.mode));
            const auto allocate = [&] { error = cudaMalloc(&data, 4); };
            if (elsewhere) std::thread(allocate).join();
            else allocate();
            const bool refused = elsewhere ? r.elsewhere : r.here;
            EXPECT((error == cudaErrorStreamCaptureUnsupported) == refused, "mode %d, %d",
                   (int)r.mode, elsewhere);
            if (!refused && r.mode != cudaStreamCaptureModeRelaxed) {
                cudaError_t other = cudaSuccess;
                std::thread([&] { other = cudaStreamEndCapture(stream, &graph); }).join();
                EXPECT(other == cudaErrorStreamCaptureWrongThread, "another thread ends it");
            }
            error = cudaStreamEndCapture(stream, &graph);
            EXPECT((error == cudaErrorStreamCaptureInvalidated) == refused, "mode %d, %d",
                   (int)r.mode, elsewhere);
            if (graph) EXPECT_CUDA(cudaGraphDestroy(graph));
        }
    }
    nib_emu_reset();
}

NIB_TEST(EmuCapture, InfoAndNodes)
{
    nib_emu_reset();
    load();
    cudaStream_t stream;
    cudaGraph_t graph;
    int *data, host = 0;
    unsigned long long first = 0, second = 0;
    cudaStreamCaptureStatus status;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    EXPECT_CUDA(cudaMalloc(&data, 4));
    EXPECT_CUDA(cudaStreamGetCaptureInfo(stream, &status, &first));
    EXPECT(status == cudaStreamCaptureStatusNone, "%d", (int)status);
    for (unsigned long long *id : { &first, &second }) {
        EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        EXPECT_CUDA(cudaStreamGetCaptureInfo(stream, &status, id));
        EXPECT(status == cudaStreamCaptureStatusActive, "%d", (int)status);
        NIB_LAUNCH(store, 1, 1, 0, stream, data, 5);
        EXPECT_CUDA(cudaMemcpyAsync(&host, data, 4, cudaMemcpyDeviceToHost, stream));
        EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
        size_t n = 0;
        EXPECT_CUDA(cudaGraphGetNodes(graph, nullptr, &n));
        EXPECT(n == 2, "%zu nodes", n);
        EXPECT_CUDA(cudaGraphDestroy(graph));
    }
    EXPECT(first != second, "each capture has its own number");
    EXPECT(host == 0, "nothing ran");
    nib_emu_reset();
}
#endif
