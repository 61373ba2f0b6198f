/* runtime_cuda.cu: memory, streams, graphs and events, for tests and tools. */
#include "ops_cuda.cuh"

/* Runs what in ordinal's context and gives the caller's device back. */
#define ON_DEVICE(ordinal, why, name, call) \
    do { \
        const nib_cuda_current restored; \
        NIB_CUDA_TRY(nib_cuda_use(ordinal, why)); \
        const cudaError_t error_ = (call); \
        return error_ == cudaSuccess ? NIB_OK : nib_cuda_failed(why, name, error_); \
    } while (0)

static nib_status allocate(int32_t ordinal, size_t bytes, void **memory, char *why)
{
    *memory = nullptr;
    ON_DEVICE(ordinal, why, "cudaMalloc", cudaMalloc(memory, bytes));
}

static nib_status release(int32_t ordinal, void *memory, char *why)
{
    ON_DEVICE(ordinal, why, "cudaFree", cudaFree(memory));
}

static cudaError_t copy_and_wait(cudaStream_t stream, void *dst, const void *src, size_t bytes)
{
    const cudaError_t error = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream);
    return error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
}

static nib_status copy(int32_t ordinal, void *stream, void *dst, const void *src, size_t bytes,
                       char *why)
{
    ON_DEVICE(ordinal, why, "cudaMemcpyAsync",
              copy_and_wait((cudaStream_t)stream, dst, src, bytes));
}

static nib_status fill(int32_t ordinal, void *stream, void *dst, int byte, size_t bytes, char *why)
{
    ON_DEVICE(ordinal, why, "cudaMemsetAsync",
              cudaMemsetAsync(dst, byte, bytes, (cudaStream_t)stream));
}

/* Without the legacy default stream's orders, as most programs' own streams are. */
static nib_status stream_create(int32_t ordinal, void **stream, char *why)
{
    *stream = nullptr;
    ON_DEVICE(ordinal, why, "cudaStreamCreateWithFlags",
              cudaStreamCreateWithFlags((cudaStream_t *)stream, cudaStreamNonBlocking));
}

static nib_status stream_destroy(int32_t ordinal, void *stream, char *why)
{
    ON_DEVICE(ordinal, why, "cudaStreamDestroy", cudaStreamDestroy((cudaStream_t)stream));
}

static nib_status synchronize(int32_t ordinal, void *stream, char *why)
{
    ON_DEVICE(ordinal, why, "cudaStreamSynchronize", cudaStreamSynchronize((cudaStream_t)stream));
}

/* Other threads may go on with what a global capture would forbid them. */
static nib_status capture_begin(int32_t ordinal, void *stream, char *why)
{
    ON_DEVICE(ordinal, why, "cudaStreamBeginCapture",
              cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeThreadLocal));
}

static cudaError_t end_and_instantiate(cudaStream_t stream, void **graph)
{
    cudaGraph_t     captured = nullptr;
    cudaGraphExec_t exec = nullptr;
    cudaError_t     error = cudaStreamEndCapture(stream, &captured);
    if (error != cudaSuccess) return error;
    error = cudaGraphInstantiate(&exec, captured, 0);
    const cudaError_t destroyed = cudaGraphDestroy(captured);
    *graph = exec;
    return error != cudaSuccess ? error : destroyed;
}

static nib_status capture_end(int32_t ordinal, void *stream, void **graph, char *why)
{
    *graph = nullptr;
    ON_DEVICE(ordinal, why, "cudaStreamEndCapture",
              end_and_instantiate((cudaStream_t)stream, graph));
}

static nib_status graph_launch(int32_t ordinal, void *graph, void *stream, char *why)
{
    ON_DEVICE(ordinal, why, "cudaGraphLaunch",
              cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream));
}

static nib_status graph_destroy(int32_t ordinal, void *graph, char *why)
{
    ON_DEVICE(ordinal, why, "cudaGraphExecDestroy", cudaGraphExecDestroy((cudaGraphExec_t)graph));
}

static nib_status event_create(int32_t ordinal, void **event, char *why)
{
    *event = nullptr;
    ON_DEVICE(ordinal, why, "cudaEventCreate", cudaEventCreate((cudaEvent_t *)event));
}

static nib_status event_destroy(int32_t ordinal, void *event, char *why)
{
    ON_DEVICE(ordinal, why, "cudaEventDestroy", cudaEventDestroy((cudaEvent_t)event));
}

static nib_status event_record(int32_t ordinal, void *event, void *stream, char *why)
{
    ON_DEVICE(ordinal, why, "cudaEventRecord",
              cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream));
}

static nib_status event_elapsed(int32_t ordinal, void *from, void *to, float *milliseconds,
                                char *why)
{
    ON_DEVICE(ordinal, why, "cudaEventElapsedTime",
              cudaEventElapsedTime(milliseconds, (cudaEvent_t)from, (cudaEvent_t)to));
}

const nib_runtime_ops nib_runtime_cuda = {
    allocate, release, copy, fill, stream_create, stream_destroy, synchronize, capture_begin,
    capture_end, graph_launch, graph_destroy, event_create, event_destroy, event_record,
    event_elapsed,
};
