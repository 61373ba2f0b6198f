/* emu_async.cc: cp.async and mbarrier. A copy lands at the wait, the last moment that the PTX ISA
 * allows; until then its destination is poisoned, so reading too early gives NaN every time. */
#include "tests/emu/emu_internal.h"
#include "tests/emu/emu_ptx.h"

#include <cstring>

namespace nib_emu {

void copy_async(void *dst, const void *src, int bytes, bool valid, const char *file, int line)
{
    {
        Unseen unseen;
        need_shared(dst, (size_t)bytes, "cp.async", file, line);
        if (valid && (uintptr_t)src % (size_t)bytes) {
            fail("cp.async at %s:%d: the global address is not aligned to %d bytes", file, line,
                 bytes);
        }
        counts.async_copies++;
        poison(dst, (size_t)bytes);
        thread->open.push_back({ dst, src, (unsigned)bytes, valid ? (unsigned)bytes : 0 });
    }
    saw_write(dst, (size_t)bytes);
}

void copy_async_commit()
{
    Unseen unseen;
    thread->groups.push_back(std::move(thread->open));
    thread->open.clear();
}

static void land(std::vector<Copy> *group)
{
    while (!group->empty()) {
        const Copy c = group->back();
        {
            Unseen unseen;
            group->pop_back();
            memcpy(c.dst, c.src, c.from_src);
            memset((char *)c.dst + c.from_src, 0, c.bytes - c.from_src);
            landed_in_shared(c.dst, c.bytes);
        }
        if (c.from_src) saw_read(c.src, c.from_src);
        saw_write(c.dst, c.bytes);
    }
}

void copy_async_wait(size_t groups_left)
{
    while (thread->groups.size() > groups_left) {
        land(&thread->groups.front());
        Unseen unseen;
        thread->groups.erase(thread->groups.begin());
    }
}

void copy_async_wait_all()
{
    copy_async_wait(0);
    land(&thread->open);
}

void bad_barrier(int id, unsigned threads, const char *file, int line)
{
    Unseen unseen;
    if (id < 0 || id >= barriers_per_block) {
        fail("bar.sync at %s:%d: barrier %d of %d", file, line, id, barriers_per_block);
    }
    if (threads == 0 || threads > block->threads.size() || threads % 32) {
        fail("bar.sync at %s:%d: %u threads of %zu, and it takes whole warps", file, line, threads,
             block->threads.size());
    }
}

static MBarrier *mbarrier_of(uint64_t *bar, const char *what, const char *file, int line)
{
    need_shared(bar, 8, what, file, line);
    for (MBarrier &m : block->mbarriers) if (m.address == bar) return &m;
    fail("%s at %s:%d: the mbarrier was not initialised", what, file, line);
    return nullptr; /* not reached: fail leaves the fiber */
}

void mbarrier_init(uint64_t *bar, unsigned count, const char *file, int line)
{
    {
        Unseen unseen;
        need_shared(bar, 8, "mbarrier.init", file, line);
        for (const MBarrier &m : block->mbarriers) {
            if (m.address == bar) fail("mbarrier.init at %s:%d: initialised before", file, line);
        }
        if (count == 0 || count >= 1u << 20) {
            fail("mbarrier.init at %s:%d: count %u is not in 1..2^20-1", file, line, count);
        }
        block->mbarriers.emplace_back();
        MBarrier &m = block->mbarriers.back();
        m.address = bar;
        m.count = m.pending = count;
        m.phase = 0;
    }
    saw_write(bar, 8);
}

void mbarrier_arrive(uint64_t *bar, const char *file, int line)
{
    saw_read(bar, 8); /* the operation is atomic; only mbarrier.init must come before it */
    Unseen unseen;
    MBarrier *m = mbarrier_of(bar, "mbarrier.arrive", file, line);
    order_release(&m->order[m->phase % 2]);
    if (--m->pending) return;
    m->pending = m->count;
    m->phase++;
    for (unsigned rank : m->waiting) wake(rank);
    m->waiting.clear();
}

/* Returns once the phase of this parity is complete. A phase that completed while this thread
 * was away for two of them is missed, as on hardware: then it waits for ever, and is reported. */
void mbarrier_wait(uint64_t *bar, unsigned parity, const char *file, int line)
{
    saw_read(bar, 8);
    Unseen unseen;
    MBarrier *m = mbarrier_of(bar, "mbarrier wait", file, line);
    while (m->phase % 2 == parity) {
        m->waiting.push_back(thread->rank);
        wait_for_others(State::in_mbarrier, file, line);
    }
    order_acquire(&m->order[parity % 2]);
}

} // namespace nib_emu
