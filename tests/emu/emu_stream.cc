/* emu_stream.cc: streams as a queue of work with the orders that CUDA promises and no others.
 * Waiting for a piece of work runs what it depends on, so a missing event or synchronisation shows
 * as data that has not arrived. */
#include "tests/emu/emu_runtime.h"

#include <chrono>
#include <memory>
#include <set>
#include <thread>

struct nib_emu_graph {
    std::vector<std::function<cudaError_t()>> work;
};
struct nib_emu_graph_exec {
    std::shared_ptr<nib_emu_graph> graph;
};
struct nib_emu_stream {
    int                            device = 0;
    bool                           blocking = true; /* ordered with the default stream */
    uint64_t                       last = 0;        /* its latest work */
    std::vector<uint64_t>          waits;           /* for what comes next */
    std::shared_ptr<nib_emu_graph> capture;
    cudaStreamCaptureMode          mode = cudaStreamCaptureModeGlobal;
    std::thread::id                capturer;
    unsigned long long             capture_id = 0;
    bool                           invalid = false; /* the capture */
};
struct nib_emu_event {
    bool                                  recorded = false;
    uint64_t                              work = 0;
    std::chrono::steady_clock::time_point when;
};

namespace nib_emu {

struct Work {
    std::vector<uint64_t>        after;
    std::function<cudaError_t()> run;
    int                          device = 0;
    bool                         needed = false, done = false;
};

static std::deque<Work>          queue;
static uint64_t                  first = 1; /* the number of queue.front() */
static nib_emu_stream            default_streams[most_devices];
static std::set<nib_emu_stream *> streams;
static std::set<nib_emu_event *>  events;

static Work *pending(uint64_t number)
{
    if (number < first || number >= first + queue.size()) return nullptr;
    Work *work = &queue[number - first];
    return work->done ? nullptr : work;
}

static nib_emu_stream *stream_of(cudaStream_t stream)
{
    if (!stream || stream == cudaStreamLegacy) {
        nib_emu_stream *s = &default_streams[current_device()];
        s->device = current_device();
        return s;
    }
    return streams.count(stream) ? stream : nullptr;
}

static bool is_default(const nib_emu_stream *s)
{
    return s >= default_streams && s < default_streams + most_devices;
}

/* As cudaStreamCaptureMode tells: a thread is held by its own captures and by "global" ones of
 * others, unless it is relaxed itself. */
static thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

static bool holds(const nib_emu_stream *s)
{
    if (!s->capture || s->mode == cudaStreamCaptureModeRelaxed ||
        thread_mode == cudaStreamCaptureModeRelaxed) {
        return false;
    }
    if (s->capturer == std::this_thread::get_id()) return true;
    return s->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
}

cudaError_t forbidden_by_capture()
{
    cudaError_t error = cudaSuccess;
    for (nib_emu_stream *s : streams) {
        if (!holds(s)) continue;
        s->invalid = true;
        error = cudaErrorStreamCaptureUnsupported;
    }
    return error;
}

bool is_capturing()
{
    for (const nib_emu_stream *s : streams)
        if (s->capture && s->capturer == std::this_thread::get_id()) return true;
    return false;
}

/* The default stream of a device waits for its blocking streams, which a capture does not bear. */
static cudaError_t default_forbidden(int device, bool ends_capture = true)
{
    cudaError_t error = cudaSuccess;
    for (nib_emu_stream *s : streams) {
        if (!s->capture || !s->blocking || s->device != device) continue;
        s->invalid |= ends_capture;
        error = cudaErrorStreamCaptureImplicit;
    }
    return error;
}

cudaError_t device_of(cudaStream_t stream, int *ordinal)
{
    const nib_emu_stream *s = stream_of(stream);
    if (!s) return cudaErrorInvalidResourceHandle;
    *ordinal = s->device;
    return cudaSuccess;
}

bool is_captured(cudaStream_t stream)
{
    const nib_emu_stream *s = stream_of(stream);
    return s && s->capture;
}

void invalidate_capture(cudaStream_t stream)
{
    nib_emu_stream *s = stream_of(stream);
    if (s && s->capture) s->invalid = true;
}

/* Runs the work of this number after all that it depends on, oldest first. */
static cudaError_t finish(uint64_t number)
{
    Unseen unseen;
    if (!pending(number)) return cudaSuccess;
    queue[number - first].needed = true;
    for (uint64_t n = number; n >= first; n--) {
        if (!pending(n) || !queue[n - first].needed) continue;
        for (uint64_t before : queue[n - first].after) {
            if (Work *work = pending(before)) work->needed = true;
        }
    }
    cudaError_t result = cudaSuccess;
    Guard guard;
    for (uint64_t n = first; n <= number; n++) {
        Work *work = pending(n);
        if (!work || !work->needed) continue;
        const cudaError_t error = has_failed() ? failure_error() : work->run();
        if (result == cudaSuccess) result = error;
        work->done = true;
        work->run = nullptr;
        work->after.clear();
    }
    while (!queue.empty() && queue.front().done) {
        queue.pop_front();
        first++;
    }
    return result;
}

static uint64_t add(nib_emu_stream *s, std::function<cudaError_t()> run)
{
    Work work;
    work.run = std::move(run);
    work.after.swap(s->waits);
    work.after.push_back(s->last);
    work.device = s->device;
    if (is_default(s)) {
        for (const nib_emu_stream *other : streams) {
            if (other->blocking && other->device == s->device) work.after.push_back(other->last);
        }
    } else if (s->blocking) {
        work.after.push_back(default_streams[s->device].last);
    }
    queue.push_back(std::move(work));
    return s->last = first + queue.size() - 1;
}

cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work)
{
    Unseen unseen;
    nib_emu_stream *s = stream_of(stream);
    if (!s) return cudaErrorInvalidResourceHandle;
    if (is_default(s) && default_forbidden(s->device) != cudaSuccess) {
        return cudaErrorStreamCaptureImplicit;
    }
    if (s->invalid) return cudaErrorStreamCaptureInvalidated;
    if (s->capture) s->capture->work.push_back(std::move(work));
    else add(s, std::move(work));
    return cudaSuccess;
}

cudaError_t finish_all()
{
    uint64_t last = 0;
    for (uint64_t i = 0; i < queue.size(); i++) {
        if (queue[i].device != current_device()) continue;
        queue[i].needed = true;
        last = first + i;
    }
    return finish(last);
}

cudaError_t finish_stream(cudaStream_t stream)
{
    nib_emu_stream *s = stream_of(stream);
    return s ? finish(s->last) : cudaErrorInvalidResourceHandle;
}

void forget_streams()
{
    for (nib_emu_stream *s : streams) delete s;
    for (nib_emu_event *e : events) delete e;
    streams.clear();
    events.clear();
    first += queue.size();
    queue.clear();
    for (nib_emu_stream &s : default_streams) s = nib_emu_stream();
}

} // namespace nib_emu

using namespace nib_emu;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    NIB_EMU_CALL();
    *stream = new nib_emu_stream;
    (*stream)->device = current_device();
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    streams.insert(*stream);
    return done(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int *device)
{
    NIB_EMU_CALL();
    return done(device_of(stream, device));
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    NIB_EMU_CALL();
    if (!streams.count(stream)) return done(cudaErrorInvalidResourceHandle);
    const cudaError_t error = finish(stream->last); /* sooner than a GPU promises */
    streams.erase(stream);
    delete stream;
    return done(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    NIB_EMU_CALL();
    nib_emu_stream *s = stream_of(stream);
    if (s && s->capture) s->invalid = true;
    if (s && s->capture) return done(cudaErrorStreamCaptureUnsupported);
    const cudaError_t refusal = s && is_default(s) ? default_forbidden(s->device)
                                                   : cudaSuccess;
    return done(refusal != cudaSuccess ? refusal : finish_stream(stream));
}

/* Each question brings the work nearer to its end: it is ready the second time. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    NIB_EMU_CALL();
    nib_emu_stream *s = stream_of(stream);
    if (!s) return done(cudaErrorInvalidResourceHandle);
    if (s->capture) s->invalid = true;
    if (s->capture) return done(cudaErrorStreamCaptureUnsupported);
    if (!pending(s->last)) return done(cudaSuccess);
    const cudaError_t error = finish(s->last);
    return done(error != cudaSuccess ? error : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    NIB_EMU_CALL();
    nib_emu_stream *s = stream_of(stream);
    if (!s || !events.count(event)) return done(cudaErrorInvalidResourceHandle);
    if (s->capture) return done(cudaErrorStreamCaptureUnsupported); /* one stream a graph */
    if (event->recorded) s->waits.push_back(event->work);
    return done(cudaSuccess);
}

static cudaStreamCaptureStatus status_of(const nib_emu_stream *s)
{
    return !s->capture ? cudaStreamCaptureStatusNone
         : s->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    NIB_EMU_CALL();
    nib_emu_stream *s = stream_of(stream);
    if (!s) return done(cudaErrorInvalidResourceHandle);
    if (is_default(s) && default_forbidden(s->device, false) != cudaSuccess) {
        return done(cudaErrorStreamCaptureImplicit);
    }
    *status = status_of(s);
    return done(cudaSuccess);
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies, const void **edges,
                                     size_t *n)
{
    NIB_EMU_CALL();
    const cudaError_t error = cudaStreamIsCapturing(stream, status);
    if (error != cudaSuccess || *status != cudaStreamCaptureStatusActive) return error;
    const nib_emu_stream *s = stream_of(stream);
    if (id) *id = s->capture_id;
    if (graph) *graph = s->capture.get();
    if (dependencies) *dependencies = nullptr;
    if (edges) *edges = nullptr;
    if (n) *n = 0;
    return done(cudaSuccess);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode)
{
    NIB_EMU_CALL();
    std::swap(*mode, thread_mode);
    return done(cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    NIB_EMU_CALL();
    static unsigned long long captures;
    nib_emu_stream *s = stream_of(stream);
    if (!s) return done(cudaErrorInvalidResourceHandle);
    if (is_default(s)) return done(cudaErrorStreamCaptureUnsupported);
    if (s->capture) return done(cudaErrorInvalidValue);
    s->capture = std::make_shared<nib_emu_graph>();
    s->mode = mode;
    s->capturer = std::this_thread::get_id();
    s->capture_id = ++captures;
    s->invalid = false;
    return done(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    NIB_EMU_CALL();
    nib_emu_stream *s = stream_of(stream);
    *graph = nullptr;
    if (!s || !s->capture) return done(cudaErrorInvalidValue);
    if (s->mode != cudaStreamCaptureModeRelaxed && s->capturer != std::this_thread::get_id()) {
        return done(cudaErrorStreamCaptureWrongThread);
    }
    const bool invalid = s->invalid;
    if (!invalid) *graph = new nib_emu_graph(*s->capture);
    s->capture.reset();
    s->invalid = false;
    return done(invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    NIB_EMU_CALL();
    return done(enqueue(stream, [=] {
        function(data);
        return cudaSuccess;
    }));
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
    NIB_EMU_CALL();
    for (size_t i = 0; nodes && i < *n; i++) nodes[i] = nullptr;
    *n = graph->work.size();
    return done(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    NIB_EMU_CALL();
    *exec = nullptr;
    if (!graph) return done(cudaErrorInvalidValue);
    *exec = new nib_emu_graph_exec{ std::make_shared<nib_emu_graph>(*graph) };
    return done(cudaSuccess);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t stream)
{
    NIB_EMU_CALL();
    int ordinal;
    return done(device_of(stream, &ordinal));
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    NIB_EMU_CALL();
    if (!exec) return done(cudaErrorInvalidValue);
    const std::shared_ptr<nib_emu_graph> graph = exec->graph;
    return done(enqueue(stream, [graph] {
        cudaError_t error = cudaSuccess;
        for (size_t i = 0; i < graph->work.size() && error == cudaSuccess; i++) {
            error = graph->work[i]();
        }
        return error;
    }));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    NIB_EMU_CALL();
    *event = new nib_emu_event;
    events.insert(*event);
    return done(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    NIB_EMU_CALL();
    if (!events.count(event)) return done(cudaErrorInvalidResourceHandle);
    const cudaError_t error = finish(event->work);
    events.erase(event);
    delete event;
    return done(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    NIB_EMU_CALL();
    nib_emu_stream *s = stream_of(stream);
    if (!s || !events.count(event)) return done(cudaErrorInvalidResourceHandle);
    if (s->capture) return done(cudaErrorStreamCaptureUnsupported);
    event->recorded = true;
    event->work = add(s, [event] {
        event->when = std::chrono::steady_clock::now();
        return cudaSuccess;
    });
    return done(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    NIB_EMU_CALL();
    if (!events.count(event)) return done(cudaErrorInvalidResourceHandle);
    return done(finish(event->work));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    NIB_EMU_CALL();
    if (!events.count(event)) return done(cudaErrorInvalidResourceHandle);
    if (!pending(event->work)) return done(cudaSuccess);
    const cudaError_t error = finish(event->work);
    return done(error != cudaSuccess ? error : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    NIB_EMU_CALL();
    if (!events.count(start) || !events.count(end) || !start->recorded || !end->recorded) {
        return done(cudaErrorInvalidResourceHandle);
    }
    if (pending(start->work) || pending(end->work)) return done(cudaErrorNotReady);
    *milliseconds = std::chrono::duration<float, std::milli>(end->when - start->when).count();
    return done(cudaSuccess);
}
