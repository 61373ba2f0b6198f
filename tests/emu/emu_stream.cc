/* emu_stream.cc: streams as a queue of work with the orders that CUDA promises and no others.
 * Waiting for a piece of work runs what it depends on, so a missing event or synchronisation shows
 * as data that has not arrived. */
#include "tests/emu/emu_runtime.h"

#include <chrono>
#include <memory>
#include <set>

struct nib_emu_graph {
    std::vector<std::function<cudaError_t()>> work;
};
struct nib_emu_graph_exec {
    std::shared_ptr<nib_emu_graph> graph;
};
struct nib_emu_stream {
    bool                           blocking = true; /* ordered with the default stream */
    uint64_t                       last = 0;        /* its latest work */
    std::vector<uint64_t>          waits;           /* for what comes next */
    std::shared_ptr<nib_emu_graph> capture;
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
    bool                         needed = false, done = false;
};

static std::deque<Work>          queue;
static uint64_t                  first = 1; /* the number of queue.front() */
static nib_emu_stream            default_stream;
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
    if (!stream) return &default_stream;
    return streams.count(stream) ? stream : nullptr;
}

bool capturing()
{
    for (const nib_emu_stream *s : streams) if (s->capture) return true;
    return false;
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
    for (uint64_t n = first; n <= number; n++) {
        Work *work = pending(n);
        if (!work || !work->needed) continue;
        const cudaError_t error = has_failed() ? cudaErrorLaunchFailure : work->run();
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
    if (s == &default_stream) {
        for (const nib_emu_stream *other : streams) {
            if (other->blocking) work.after.push_back(other->last);
        }
    } else if (s->blocking) {
        work.after.push_back(default_stream.last);
    }
    queue.push_back(std::move(work));
    return s->last = first + queue.size() - 1;
}

cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work)
{
    Unseen unseen;
    nib_emu_stream *s = stream_of(stream);
    if (!s) return cudaErrorInvalidResourceHandle;
    if (!stream && capturing()) return cudaErrorStreamCaptureUnsupported;
    if (s->capture) s->capture->work.push_back(std::move(work));
    else add(s, std::move(work));
    return cudaSuccess;
}

cudaError_t finish_all()
{
    for (Work &work : queue) work.needed = true;
    return queue.empty() ? cudaSuccess : finish(first + queue.size() - 1);
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
    default_stream = nib_emu_stream();
}

} // namespace nib_emu

using namespace nib_emu;
typedef std::lock_guard<std::recursive_mutex> Lock;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    Lock lock(device_lock());
    *stream = new nib_emu_stream;
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    streams.insert(*stream);
    return done(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    Lock lock(device_lock());
    if (!streams.count(stream)) return done(cudaErrorInvalidResourceHandle);
    const cudaError_t error = finish(stream->last); /* sooner than a GPU promises */
    streams.erase(stream);
    delete stream;
    return done(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    Lock lock(device_lock());
    const nib_emu_stream *s = stream_of(stream);
    if (s && (stream ? s->capture != nullptr : capturing())) {
        return done(cudaErrorStreamCaptureUnsupported);
    }
    return done(finish_stream(stream));
}

/* Each question brings the work nearer to its end: it is ready the second time. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    Lock lock(device_lock());
    nib_emu_stream *s = stream_of(stream);
    if (!s) return done(cudaErrorInvalidResourceHandle);
    if (!pending(s->last)) return done(cudaSuccess);
    const cudaError_t error = finish(s->last);
    return done(error != cudaSuccess ? error : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    Lock lock(device_lock());
    nib_emu_stream *s = stream_of(stream);
    if (!s || !events.count(event)) return done(cudaErrorInvalidResourceHandle);
    if (s->capture) return done(cudaErrorStreamCaptureUnsupported); /* one stream a graph */
    if (event->recorded) s->waits.push_back(event->work);
    return done(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    Lock lock(device_lock());
    nib_emu_stream *s = stream_of(stream);
    if (!s) return done(cudaErrorInvalidResourceHandle);
    *status = s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return done(cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    Lock lock(device_lock());
    nib_emu_stream *s = stream_of(stream);
    if (!s) return done(cudaErrorInvalidResourceHandle);
    if (!stream || s->capture) return done(cudaErrorStreamCaptureUnsupported);
    s->capture = std::make_shared<nib_emu_graph>();
    return done(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    Lock lock(device_lock());
    nib_emu_stream *s = stream_of(stream);
    *graph = nullptr;
    if (!s || !s->capture) return done(cudaErrorInvalidValue);
    *graph = new nib_emu_graph(*s->capture);
    s->capture.reset();
    return done(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    Lock lock(device_lock());
    *exec = new nib_emu_graph_exec{ std::make_shared<nib_emu_graph>(*graph) };
    return done(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    Lock lock(device_lock());
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
    Lock lock(device_lock());
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
    Lock lock(device_lock());
    if (!events.count(event)) return done(cudaErrorInvalidResourceHandle);
    const cudaError_t error = finish(event->work);
    events.erase(event);
    delete event;
    return done(error);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    Lock lock(device_lock());
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
    Lock lock(device_lock());
    if (!events.count(event)) return done(cudaErrorInvalidResourceHandle);
    return done(finish(event->work));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    Lock lock(device_lock());
    if (!events.count(event)) return done(cudaErrorInvalidResourceHandle);
    if (!pending(event->work)) return done(cudaSuccess);
    const cudaError_t error = finish(event->work);
    return done(error != cudaSuccess ? error : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    Lock lock(device_lock());
    if (!events.count(start) || !events.count(end) || !start->recorded || !end->recorded) {
        return done(cudaErrorInvalidResourceHandle);
    }
    if (pending(start->work) || pending(end->work)) return done(cudaErrorNotReady);
    *milliseconds = std::chrono::duration<float, std::milli>(end->when - start->when).count();
    return done(cudaSuccess);
}
