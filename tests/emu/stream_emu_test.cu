/* stream_emu_test.cu: the fake runtime: memory, streams, events, graphs, limits and errors. */
#include "tests/emu/emu_test.h"

#include <string.h>
#include <thread>

__global__ static void add_one(int *data, int n)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) data[i]++;
}

__global__ static void indices(uint3 *threads, uint3 *blocks, unsigned *sizes)
{
    const unsigned per_block = blockDim.x * blockDim.y * blockDim.z;
    const unsigned b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    threads[b * per_block + t] = make_uint3(threadIdx.x, threadIdx.y, threadIdx.z);
    blocks[b * per_block + t] = make_uint3(blockIdx.x, blockIdx.y, blockIdx.z);
    sizes[b * per_block + t] = per_block * 1000 + gridDim.x * gridDim.y * gridDim.z;
}

NIB_TEST(EmuLaunch, EveryIndexOnce)
{
    each_schedule([] {
        const dim3 grid(3, 2, 2), block(5, 3, 4);
        const unsigned n = 12 * 60;
        Device<uint3> threads(n), blocks(n);
        Device<unsigned> sizes(n);
        NIB_LAUNCH(indices, grid, block, 0, 0, (uint3 *)threads, (uint3 *)blocks,
                   (unsigned *)sizes);
        const std::vector<uint3> t = threads.read(), b = blocks.read();
        const std::vector<unsigned> s = sizes.read();
        for (unsigned i = 0; i < n; i++) {
            const unsigned r = i % 60, q = i / 60;
            EXPECT(t[i].x == r % 5 && t[i].y == r / 5 % 3 && t[i].z == r / 15, "thread %u", i);
            EXPECT(b[i].x == q % 3 && b[i].y == q / 3 % 2 && b[i].z == q / 6, "block %u", i);
            EXPECT(s[i] == 60012, "sizes %u", i);
        }
    });
}

NIB_TEST(EmuStream, GraphReplays)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    EXPECT_CUDA(cudaStreamCreate(&stream));
    Device<int> data(std::vector<int>{ 1, 2, 3 });
    cudaFuncAttributes attributes; /* loads the kernel */
    EXPECT_CUDA(cudaFuncGetAttributes(&attributes, add_one));
    EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    NIB_LAUNCH(add_one, 1, 32, 0, stream, (int *)data, 3);
    NIB_LAUNCH(add_one, 1, 32, 0, stream, (int *)data, 2);
    EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
    EXPECT_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    EXPECT(data.read() == (std::vector<int>{ 1, 2, 3 }), "capture runs nothing");
    for (int i = 0; i < 3; i++) EXPECT_CUDA(cudaGraphLaunch(exec, stream));
    EXPECT_CUDA(cudaStreamSynchronize(stream));
    EXPECT(data.read() == (std::vector<int>{ 7, 8, 6 }), "three times both kernels");
    EXPECT_CUDA(cudaGraphExecDestroy(exec));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    EXPECT_CUDA(cudaStreamDestroy(stream));
}

NIB_TEST(EmuStream, TwoHostThreadsTwoStreams)
{
    std::vector<std::thread> threads;
    std::vector<int> results(2);
    for (int t = 0; t < 2; t++) {
        threads.emplace_back([t, &results] {
            cudaStream_t stream;
            int *data = nullptr, host = t * 100;
            cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
            cudaMalloc(&data, sizeof host);
            cudaMemcpyAsync(data, &host, sizeof host, cudaMemcpyHostToDevice, stream);
            for (int i = 0; i < 20; i++) NIB_LAUNCH(add_one, 1, 32, 0, stream, data, 1);
            cudaMemcpyAsync(&host, data, sizeof host, cudaMemcpyDeviceToHost, stream);
            cudaStreamSynchronize(stream);
            results[(size_t)t] = host;
            cudaFree(data);
            cudaStreamDestroy(stream);
        });
    }
    for (std::thread &t : threads) t.join();
    EXPECT(results == (std::vector<int>{ 20, 120 }), "%d %d", results[0], results[1]);
}

NIB_TEST(EmuStream, EventsOrderStreams)
{
    cudaStream_t one, two;
    cudaEvent_t start, event;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking));
    EXPECT_CUDA(cudaStreamCreateWithFlags(&two, cudaStreamNonBlocking));
    EXPECT_CUDA(cudaEventCreate(&start));
    EXPECT_CUDA(cudaEventCreate(&event));
    Device<int> data(std::vector<int>{ 5 });
    int host = -1;
    EXPECT_CUDA(cudaEventRecord(start, one));
    NIB_LAUNCH(add_one, 1, 1, 0, one, (int *)data, 1);
    EXPECT_CUDA(cudaEventRecord(event, one));
    EXPECT_CUDA(cudaStreamWaitEvent(two, event, 0));
    EXPECT_CUDA(cudaMemcpyAsync(&host, data, sizeof host, cudaMemcpyDeviceToHost, two));
    EXPECT_CUDA(cudaStreamSynchronize(two));
    EXPECT(host == 6, "the copy comes after the kernel: %d", host);
    float ms = -1;
    EXPECT_CUDA(cudaEventSynchronize(event));
    EXPECT_CUDA(cudaEventElapsedTime(&ms, start, event));
    EXPECT(ms >= 0, "%g ms", (double)ms);
    EXPECT_CUDA(cudaEventDestroy(start));
    EXPECT_CUDA(cudaEventDestroy(event));
    EXPECT_CUDA(cudaStreamDestroy(one));
    EXPECT_CUDA(cudaStreamDestroy(two));
}

#if NIB_ON_EMULATOR
/* What a GPU may do, the emulator does: work waits until somebody waits for it. */
NIB_TEST(EmuStream, WorkComesAsLateAsItMay)
{
    nib_emu_reset();
    cudaStream_t one, two;
    cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&two, cudaStreamNonBlocking);
    int *data, host = 8;
    cudaMalloc(&data, sizeof *data);
    cudaMemcpyAsync(data, &host, sizeof host, cudaMemcpyHostToDevice, one);
    host = 10; /* the copy has not read it yet */
    NIB_LAUNCH(add_one, 1, 1, 0, one, data, 1);
    EXPECT(cudaStreamQuery(one) == cudaErrorNotReady && cudaStreamQuery(one) == cudaSuccess, "");
    int seen = 0;
    NIB_LAUNCH(add_one, 1, 1, 0, one, data, 1);
    cudaMemcpyAsync(&seen, data, sizeof seen, cudaMemcpyDeviceToHost, two);
    cudaStreamSynchronize(two);
    EXPECT(seen == 11, "no event: the second kernel has not run: %d", seen);
    cudaMemcpy(&seen, data, sizeof seen, cudaMemcpyDeviceToHost);
    EXPECT(seen == 11, "nor does the default stream wait for one that does not block: %d", seen);
    cudaDeviceSynchronize();
    cudaMemcpy(&seen, data, sizeof seen, cudaMemcpyDeviceToHost);
    EXPECT(seen == 12, "%d", seen);

    cudaStream_t blocking;
    cudaStreamCreate(&blocking);
    NIB_LAUNCH(add_one, 1, 1, 0, blocking, data, 1);
    cudaMemcpy(&seen, data, sizeof seen, cudaMemcpyDeviceToHost);
    EXPECT(seen == 13, "the default stream waits for this one: %d", seen);
    nib_emu_reset();
}

NIB_TEST(EmuMemory, FreshMemoryIsPoisoned)
{
    nib_emu_reset();
    float *data, host = 0;
    EXPECT_CUDA(cudaMalloc(&data, sizeof *data));
    EXPECT_CUDA(cudaMemcpy(&host, data, sizeof host, cudaMemcpyDeviceToHost));
    EXPECT(host != host, "%g", (double)host);
    EXPECT_CUDA(cudaMemset(data, 0, sizeof *data));
    EXPECT_CUDA(cudaMemcpy(&host, data, sizeof host, cudaMemcpyDeviceToHost));
    EXPECT(host == 0, "%g", (double)host);
    nib_emu_reset();
}

__global__ static void read_unwritten(float *out)
{
    NIB_SHARED_DYNAMIC(smem);
    NIB_SHARED(float, fixed, [32]);
    out += 64 * blockIdx.x;
    out[threadIdx.x] = fixed[threadIdx.x];
    out[32 + threadIdx.x] = ((float *)smem)[threadIdx.x];
}

NIB_TEST(EmuMemory, FreshSharedMemoryIsPoisoned)
{
    nib_emu_reset();
    Device<float> out(std::vector<float>(128, 0.0f));
    NIB_LAUNCH(read_unwritten, 2, 32, 128, 0, (float *)out);
    for (float x : out.read()) EXPECT(x != x, "%g", (double)x);
}

__global__ static void note_order(int *order, int *turn)
{
    order[atomicAdd(turn, 1)] = (int)(blockIdx.x * blockDim.x + threadIdx.x);
}

NIB_TEST(EmuLaunch, SchedulesOrderThreadsAndBlocks)
{
    nib_emu_reset();
    std::vector<int> runs[NIB_EMU_SCHEDULES];
    for (int s = 0; s < NIB_EMU_SCHEDULES; s++) {
        nib_emu_set_schedule((nib_emu_schedule)s, 2);
        Device<int> order(320), turn(std::vector<int>{ 0 });
        NIB_LAUNCH(note_order, 5, 64, 0, 0, (int *)order, (int *)turn);
        runs[s] = order.read();
    }
    std::vector<bool> seen(320);
    for (size_t i = 0; i < 320; i++) {
        EXPECT(runs[NIB_EMU_FORWARD][i] == (int)i, "forward %zu", i);
        EXPECT(runs[NIB_EMU_REVERSE][i] == 319 - (int)i, "reverse %zu", i);
        seen[(size_t)runs[NIB_EMU_RANDOM][i]] = true;
        if (i % 32) { /* a warp stays together while nothing stops it */
            EXPECT(runs[NIB_EMU_SKEW][i] / 32 == runs[NIB_EMU_SKEW][i - 1] / 32, "skew %zu", i);
        }
    }
    EXPECT(seen == std::vector<bool>(320, true), "random runs each once");
    EXPECT(runs[NIB_EMU_RANDOM] != runs[NIB_EMU_FORWARD], "and not in order");
    nib_emu_set_schedule(NIB_EMU_FORWARD, 1);
}

NIB_TEST(EmuMemory, RefusesWhatADeviceRefuses)
{
    nib_emu_reset();
    nib_emu_set_memory(1000);
    char *one = nullptr, *two = nullptr, host[16] = {};
    EXPECT_CUDA(cudaMalloc(&one, 600));
    EXPECT(cudaMalloc(&two, 600) == cudaErrorMemoryAllocation && !two, "out of memory");
    EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation, "once");
    EXPECT(cudaGetLastError() == cudaSuccess, "and not again");
    EXPECT(cudaMemcpy(one + 590, host, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "end");
    EXPECT(cudaMemcpy(host, host, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "kind");
    EXPECT(cudaMemset(host, 0, 16) == cudaErrorInvalidValue, "host memory");
    EXPECT(cudaFree(one + 1) == cudaErrorInvalidValue, "not a start");
    EXPECT_CUDA(cudaFree(one));
    EXPECT(cudaFree(one) == cudaErrorInvalidValue, "twice");
    cudaPointerAttributes at;
    EXPECT(cudaPointerGetAttributes(&at, host) == cudaSuccess &&
           at.type == cudaMemoryTypeUnregistered, "host");
    cudaStream_t gone;
    cudaStreamCreate(&gone);
    cudaStreamDestroy(gone);
    EXPECT(cudaStreamSynchronize(gone) == cudaErrorInvalidResourceHandle, "a stream that is gone");
    nib_emu_set_memory(0);
    nib_emu_reset();
}

__global__ static void wide(int *out)
{
    NIB_SHARED_DYNAMIC(smem);
    NIB_SHARED(int, fixed, [256]);
    fixed[threadIdx.x] = smem[threadIdx.x];
    if (threadIdx.x == 0) *out = fixed[0] != 0;
}

NIB_TEST(EmuLaunch, Limits)
{
    const struct { int sm; unsigned optin; } devices[] = {
        { 80, 163 << 10 }, { 90, 227 << 10 }, { 100, 227 << 10 }, { 120, 99 << 10 } };
    EXPECT(nib_emu_set_architecture(70) == -1, "not one of them");
    for (const auto &d : devices) {
        nib_emu_reset();
        if (d.sm < NIB_EMU_ARCH) continue;
        EXPECT(nib_emu_set_architecture(d.sm) == 0, "");
        cudaDeviceProp p;
        int major = 0;
        EXPECT_CUDA(cudaGetDeviceProperties(&p, 0));
        EXPECT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
        EXPECT(p.major * 10 + p.minor == d.sm && major == p.major, "%d", d.sm);
        EXPECT(p.sharedMemPerBlockOptin == d.optin, "%zu", p.sharedMemPerBlockOptin);
        int *out;
        cudaMalloc(&out, 4);
        const struct { dim3 grid, block; unsigned smem; cudaError_t want; } launches[] = {
            { 1, 1024, 0, cudaSuccess },
            { 1, 1025, 0, cudaErrorInvalidConfiguration },
            { 1, dim3(1, 1, 65), 0, cudaErrorInvalidConfiguration },
            { 1, dim3(32, 33), 0, cudaErrorInvalidConfiguration },
            { 0, 32, 0, cudaErrorInvalidConfiguration },
            { dim3(1, 65536), 32, 0, cudaErrorInvalidConfiguration },
            { 1, 32, 48 << 10, cudaSuccess },
            { 1, 32, (48 << 10) + 1, cudaErrorInvalidValue } };
        for (const auto &l : launches) {
            NIB_LAUNCH(add_one, l.grid, l.block, l.smem, 0, out, 1);
            EXPECT(cudaGetLastError() == l.want, "sm_%d, %u threads, %u bytes", d.sm, l.block.x,
                   l.smem);
        }
        EXPECT_CUDA(cudaDeviceSynchronize());
        const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
        EXPECT(cudaFuncSetAttribute(wide, attribute, (int)d.optin + 1) == cudaErrorInvalidValue,
               "more than the device has");
        EXPECT_CUDA(cudaFuncSetAttribute(wide, attribute, (int)d.optin));
        NIB_LAUNCH(wide, 1, 32, d.optin - 1024, 0, out);
        EXPECT_CUDA(cudaDeviceSynchronize());
        cudaGetLastError();
        NIB_LAUNCH(wide, 1, 32, d.optin - 1023, 0, out); /* with 1 KiB of static memory too much */
        EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure, "static and dynamic");
        EXPECT(strstr(nib_emu_failure(), "1024 static"), "%s", nib_emu_failure());
    }
    nib_emu_reset();
    nib_emu_set_architecture(NIB_EMU_ARCH);
}
#endif
