/* emu_block.cc: runs a grid, block after block, and a block's threads by the chosen schedule. */
#include "tests/emu/emu_fiber.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>

uint3 threadIdx, blockIdx;
dim3  blockDim, gridDim;

namespace nib_emu {

Block            *block;
Thread           *thread;
nib_emu_counts    counts;
nib_emu_schedule  schedule = NIB_EMU_FORWARD;
uint64_t          random_state = 1;

std::recursive_mutex &device_lock()
{
    static std::recursive_mutex lock;
    return lock;
}

uint32_t next_random() /* Knuth's MMIX generator */
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

std::string text(const char *format, ...)
{
    char buffer[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(buffer, sizeof buffer, format, args);
    va_end(args);
    return buffer;
}

void fail(const char *format, ...)
{
    if (block->failure.empty()) {
        char what[800], where[200] = "";
        va_list args;
        va_start(args, format);
        vsnprintf(what, sizeof what, format, args);
        va_end(args);
        if (thread) {
            snprintf(where, sizeof where, ", block (%u,%u,%u), thread (%u,%u,%u)", blockIdx.x,
                     blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
        }
        block->failure.assign(block->kernel).append(": ").append(what).append(where);
    }
    if (thread) fiber_leave(&thread->fiber, false);
}

void wait_for_others(State state, const char *file, int line)
{
    Thread *self = thread;
    self->state = state;
    self->file = file;
    self->line = line;
    fiber_leave(&self->fiber, false);
}

void wake(unsigned rank)
{
    block->threads[rank].state = State::ready;
    block->ready.push_back(rank);
}

/* The sanitizer's handles. Blocks are ordered after the launch and before its end, not among
 * themselves. */
static char grid_start, grid_end;

/* Of a dependent launch: only now is what kernels before have written ordered before. */
void grid_dependency_wait(); /* emu_ptx.h */
void grid_dependency_wait()
{
    order_acquire(&grid_start);
    thread->waited = true;
}

static void run_thread()
{
    if (!block->dependent) order_acquire(&grid_start);
    (*block->body)();
    Thread *self = thread;
    {
        Unseen unseen;
        if (!self->open.empty() || !self->groups.empty()) {
            fail("the thread ends with a cp.async in flight");
        }
        if (block->dependent && !self->waited) fail("the thread never waits for the grid before");
        if (wgmma_in_flight(*self)) fail("the thread ends with a wgmma in flight");
        self->state = State::done;
        block->live--;
        block->warps[self->warp].alive &= ~(1u << self->lane);
    }
    order_release(&grid_end);
}

/* A thread that never waits leaves its fiber to the one that comes next, if that is new: kernels
 * without barriers run without switches. The thread sanitizer needs a fiber for each. */
#ifdef NIB_EMU_TSAN
static bool pass_fiber_on() { return false; }
static size_t slot_for(const Thread &t) { return block->first_slot + t.rank; }
static void abandon_slot(const Thread &) {}
#else
static std::vector<size_t> free_slots;

static void abandon_slot(const Thread &t) { free_slots.push_back(t.slot); }

static bool pass_fiber_on()
{
    Thread *self = thread;
    if (block->next < block->batch.size()) {
        Thread *next = &block->threads[block->batch[block->next]];
        if (next->state == State::fresh) {
            block->next++;
            next->state = State::ready;
            next->fiber = self->fiber;
            next->slot = self->slot;
            thread = next;
            threadIdx = next->index;
            return true;
        }
    }
    free_slots.push_back(self->slot);
    return false;
}

static size_t slot_for(const Thread &)
{
    static size_t slots;
    if (free_slots.empty()) return slots++;
    const size_t slot = free_slots.back();
    free_slots.pop_back();
    return slot;
}
#endif

static void fiber_main()
{
    fiber_started();
    do {
        run_thread();
    } while (pass_fiber_on());
    fiber_leave(&thread->fiber, true);
    abort(); /* a finished fiber is never entered */
}

static void enter(unsigned rank)
{
    thread = &block->threads[rank];
    threadIdx = thread->index;
    counts.switches++;
    if (thread->state == State::fresh) {
        thread->slot = slot_for(*thread);
        thread->state = State::ready;
        fiber_prepare(&thread->fiber, thread->slot, fiber_main);
    }
    fiber_enter(&thread->fiber);
    thread = nullptr;
}

static std::string deadlock()
{
    static const char *const names[] = { "no place", "ready", "a barrier", "a warp operation",
                                         "an mbarrier", "a wgmma", "done" };
    std::string who;
    int places = 0;
    const Thread *last = nullptr;
    for (const Thread &t : block->threads) {
        if (t.state == State::done) continue;
        if (last && last->line == t.line && last->file == t.file) continue;
        last = &t;
        if (places++ < 4) {
            who += text(" thread %u waits in %s at %s:%d;", t.rank, names[(int)t.state], t.file,
                        t.line);
        }
    }
    const unsigned ended = (unsigned)block->threads.size() - block->live;
    return text("%s: deadlock in block (%u,%u,%u):%s %u of %zu threads have ended", block->kernel,
                blockIdx.x, blockIdx.y, blockIdx.z, who.c_str(), ended, block->threads.size());
}

/* Each warp, in a random order of warps, runs until none of its lanes can. */
static void run_skewed(const std::vector<unsigned> &rank_of_warp)
{
    std::vector<std::vector<unsigned>> queues(rank_of_warp.size());
    size_t at = 0;
    while (at < queues.size() && block->failure.empty()) {
        for (unsigned rank : block->ready) queues[rank_of_warp[rank / 32]].push_back(rank);
        block->ready.clear();
        for (at = 0; at < queues.size() && queues[at].empty();) at++;
        if (at == queues.size()) break;
        const unsigned rank = queues[at].back();
        queues[at].pop_back();
        enter(rank);
    }
}

static void run_ready()
{
    std::vector<unsigned> &batch = block->batch;
    batch.clear();
    batch.swap(block->ready);
    if (schedule == NIB_EMU_REVERSE) {
        std::sort(batch.begin(), batch.end(), std::greater<unsigned>());
    }
    if (schedule == NIB_EMU_RANDOM) {
        for (size_t i = batch.size(); i > 1; i--) std::swap(batch[i - 1], batch[next_random() % i]);
    }
    block->next = 0;
    while (block->next < batch.size() && block->failure.empty()) enter(batch[block->next++]);
}

static void run_block()
{
    std::vector<unsigned> rank_of_warp(block->warps.size());
    for (size_t i = 0; i < rank_of_warp.size(); i++) {
        rank_of_warp[i] = (unsigned)i;
        std::swap(rank_of_warp[i], rank_of_warp[next_random() % (i + 1)]);
    }
    while (block->live && block->failure.empty()) {
        if (block->ready.empty()) block->failure = deadlock();
        else if (schedule == NIB_EMU_SKEW) run_skewed(rank_of_warp);
        else run_ready();
    }
}

static void start_threads(dim3 size)
{
    const unsigned n = size.x * size.y * size.z;
    block->threads.resize(n);
    block->warps.resize((n + 31) / 32);
    for (unsigned i = 0; i < n; i++) {
        Thread &t = block->threads[i];
        t.state = State::fresh;
        t.rank = i;
        t.lane = i % 32;
        t.warp = i / 32;
        t.landed.clear();
        t.wgmma.reset();
        t.waited = false;
        t.index = { i % size.x, i / size.x % size.y, i / (size.x * size.y) };
        block->warps[t.warp].alive |= 1u << t.lane;
        block->ready.push_back(i);
    }
    block->live = n;
    counts.threads += n;
    counts.blocks++;
}

/* A random stride that visits every block. */
static uint64_t coprime(uint64_t blocks)
{
    for (;;) {
        const uint64_t stride = 1 + next_random() % blocks;
        if (std::gcd(stride, blocks) == 1) return stride;
    }
}

/* The thread sanitizer forgets what a block's barriers ordered only with their memory. */
static void clear_block(std::unique_ptr<Block> *storage)
{
    if (*storage) for (const Variable &v : block->shared) free(v.data);
#ifdef NIB_EMU_TSAN
    storage->reset();
#endif
    if (!*storage) {
        storage->reset(new Block);
        block = storage->get();
        /* Neighbouring blocks share no fibers and no stacks, or races between them stay hidden. */
        static size_t first_slot;
        first_slot = first_slot ? 0 : 1024;
        block->first_slot = first_slot;
        return;
    }
    for (Barrier &b : block->barriers) b = Barrier();
    block->shared.clear();
    block->mbarriers.clear();
    block->warpgroups.clear();
    block->unfenced.clear();
    block->ready.clear();
    block->static_bytes = 0;
}

static unsigned char *dynamic_memory(size_t bytes)
{
    void *p = nullptr;
    if (bytes && posix_memalign(&p, 1024, bytes)) abort();
    if (p) poison(p, bytes);
    return (unsigned char *)p;
}

std::string run_grid(const char *kernel, dim3 grid, dim3 size, size_t smem_bytes,
                     size_t shared_limit, const std::function<void()> &body, bool dependent,
                     cudaError_t *error)
{
    Unseen unseen;
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    const uint64_t first = next_random() % blocks, stride = coprime(blocks);
    std::unique_ptr<Block> storage;
    std::string failure;
    order_release(&grid_start);
    gridDim = grid;
    blockDim = size;
    for (uint64_t i = 0; i < blocks && failure.empty(); i++) {
        const uint64_t at = schedule == NIB_EMU_REVERSE ? blocks - 1 - i
                          : schedule == NIB_EMU_RANDOM ? (first + i * stride) % blocks : i;
        clear_block(&storage);
        block->kernel = kernel;
        block->body = &body;
        block->dependent = dependent;
        block->shared_limit = shared_limit;
        block->dynamic_bytes = smem_bytes;
        block->dynamic = dynamic_memory(smem_bytes);
        blockIdx = { (unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y),
                     (unsigned)(at / ((uint64_t)grid.x * grid.y)) };
        start_threads(size);
        run_block();
        free(block->dynamic);
        failure = block->failure;
        *error = block->error;
        for (Thread &t : block->threads) {
            if (t.state == State::done || t.state == State::fresh) continue;
            fiber_abandon(&t.fiber);
            abandon_slot(t);
        }
    }
    for (const Variable &v : block->shared) free(v.data);
    block = nullptr;
    order_acquire(&grid_end);
    if (!failure.empty()) fiber_forget_all();
    counts.kernels++;
    return failure;
}

} // namespace nib_emu
