/* emu_warp.cc: barriers of blocks and warps, shuffles, votes, matches, reductions. */
#include "tests/emu/emu_internal.h"

#include <cstring>

namespace nib_emu {

void barrier(int id, unsigned expected, const char *file, int line)
{
    Unseen unseen;
    counts.barriers++;
    Barrier &b = block->barriers[id];
    const unsigned all = (unsigned)block->threads.size();
    if (expected == 0) expected = all;
    if (expected % 32 && expected != all) {
        fail("barrier %d at %s:%d: %u threads is no multiple of 32", id, file, line, expected);
    }
    if (b.arrived == 0) {
        b.expected = expected;
        b.file = file;
        b.line = line;
    } else if (b.line != line || strcmp(b.file, file)) {
        fail("barrier %d is reached at two places, %s:%d and %s:%d", id, b.file, b.line, file,
             line);
    } else if (b.expected != expected) {
        fail("barrier %d at %s:%d: one thread expects %u threads, another %u", id, file, line,
             b.expected, expected);
    }
    /* Two handles in turn: a thread that leaves late must not learn of the next phase. */
    char *order = &b.order[b.phase % 2];
    order_release(order);
    if (++b.arrived == b.expected) {
        b.arrived = 0;
        b.phase++;
        for (const Thread &t : block->threads) {
            if (t.state == State::in_barrier && t.barrier == id) wake(t.rank);
        }
    } else {
        thread->barrier = id;
        wait_for_others(State::in_barrier, file, line);
    }
    order_acquire(order);
}

/* The meeting of these lanes, begun or new. */
static Meeting *meet(Warp *warp, int op, unsigned mask, const char *file, int line)
{
    Meeting *empty = nullptr;
    for (Meeting &m : warp->meetings) {
        if (!m.arrived) {
            if (!empty) empty = &m;
            continue;
        }
        if (!(m.mask & mask)) continue;
        if (m.mask != mask) {
            fail("warp operations with masks 0x%08x at %s:%d and 0x%08x at %s:%d meet", m.mask,
                 m.file, m.line, mask, file, line);
        }
        if (m.op != op || m.line != line || strcmp(m.file, file)) {
            fail("lanes of one warp diverge: one operation at %s:%d, another at %s:%d", m.file,
                 m.line, file, line);
        }
        return &m;
    }
    empty->mask = mask;
    empty->op = op;
    empty->file = file;
    empty->line = line;
    empty->turn = warp->turns[__builtin_ctz(mask)]++;
    return empty;
}

void collective(int op, unsigned mask, const void *in, size_t in_bytes, void *out,
                size_t out_bytes, bool orders_memory, const char *file, int line,
                Combine *combine)
{
    Unseen unseen;
    counts.collectives++;
    Warp *warp = &block->warps[thread->warp];
    const unsigned lane = thread->lane, self = 1u << lane;
    if (!(mask & self)) {
        fail("warp operation at %s:%d: lane %u calls with mask 0x%08x, which lacks it", file, line,
             lane, mask);
    }
    if (mask & ~warp->alive) {
        fail("warp operation at %s:%d: mask 0x%08x names lanes that have ended or never were "
             "(0x%08x)", file, line, mask, mask & ~warp->alive);
    }
    Meeting *m = meet(warp, op, mask, file, line);
    memcpy(warp->in[lane], in, in_bytes);
    m->arrived |= self;
    char *order = &warp->order[__builtin_ctz(mask)][m->turn % 2];
    if (orders_memory) order_release(order);
    if (m->arrived == mask) {
        combine(mask, warp->in, warp->out);
        m->arrived = 0;
        for (unsigned rest = mask & ~self; rest; rest &= rest - 1) {
            wake(thread->warp * 32 + (unsigned)__builtin_ctz(rest));
        }
    } else {
        wait_for_others(State::in_warp, file, line);
    }
    if (orders_memory) order_acquire(order);
    memcpy(out, warp->out[lane], out_bytes);
}

template <class T> static T get(const unsigned char *slot)
{
    T value;
    memcpy(&value, slot, sizeof value);
    return value;
}
template <class T> static void put(unsigned char *slot, T value)
{
    memcpy(slot, &value, sizeof value);
}
template <class F> static void each_lane(unsigned mask, F f)
{
    for (; mask; mask &= mask - 1) f((unsigned)__builtin_ctz(mask));
}

void warp_barrier(unsigned mask, const char *file, int line)
{
    char nothing[1] = {};
    collective(OP_SYNC, mask, nothing, 0, nothing, 0, true, file, line,
               [](unsigned, unsigned char(*)[lane_bytes], unsigned char(*)[lane_bytes]) {});
}

/* Source lanes by PTX ISA, shfl.sync: a segment is width lanes; out of range reads itself. */
static int source_lane(Shuffle kind, int lane, int by, int width)
{
    const int first = lane & ~(width - 1), last = first | (width - 1);
    int from = lane;
    switch (kind) {
    case Shuffle::index:     from = first | (by & (width - 1)); break;
    case Shuffle::up:        from = by < 0 || lane - by < first ? lane : lane - by; break;
    case Shuffle::down:      from = by < 0 || lane + by > last ? lane : lane + by; break;
    case Shuffle::butterfly: from = (lane ^ (by & 31)) > last ? lane : lane ^ (by & 31); break;
    }
    return from;
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int by, int width, const char *file,
                 int line)
{
    struct In { uint64_t value; int from; } in = {};
    {
        Unseen unseen;
        if (width < 1 || width > 32 || (width & (width - 1))) {
            fail("shuffle at %s:%d: width %d is no power of two up to 32", file, line, width);
        }
        in.value = value;
        in.from = source_lane(kind, (int)thread->lane, by, width);
        if (!(mask >> in.from & 1)) {
            fail("shuffle at %s:%d: lane %u reads lane %d, which mask 0x%08x lacks", file, line,
                 thread->lane, in.from, mask);
        }
    }
    uint64_t result = 0;
    collective(OP_SHUFFLE + 100 * (int)kind, mask, &in, sizeof in, &result, sizeof result, false,
               file, line, [](unsigned m, unsigned char (*from)[lane_bytes],
                              unsigned char (*to)[lane_bytes]) {
                   each_lane(m, [&](unsigned lane) {
                       const In wish = get<In>(from[lane]);
                       put(to[lane], get<In>(from[wish.from]).value);
                   });
               });
    return result;
}

unsigned ballot(unsigned mask, bool predicate, const char *file, int line)
{
    unsigned result = 0;
    collective(OP_BALLOT, mask, &predicate, sizeof predicate, &result, sizeof result, false, file,
               line, [](unsigned m, unsigned char (*from)[lane_bytes],
                        unsigned char (*to)[lane_bytes]) {
                   unsigned votes = 0;
                   each_lane(m, [&](unsigned lane) { votes |= (unsigned)from[lane][0] << lane; });
                   each_lane(m, [&](unsigned lane) { put(to[lane], votes); });
               });
    return result;
}

unsigned match_any(unsigned mask, uint64_t value, const char *file, int line)
{
    unsigned result = 0;
    collective(OP_MATCH_ANY, mask, &value, sizeof value, &result, sizeof result, false, file, line,
               [](unsigned m, unsigned char (*from)[lane_bytes], unsigned char (*to)[lane_bytes]) {
                   each_lane(m, [&](unsigned lane) {
                       unsigned same = 0;
                       each_lane(m, [&](unsigned other) {
                           if (!memcmp(from[lane], from[other], 8)) same |= 1u << other;
                       });
                       put(to[lane], same);
                   });
               });
    return result;
}

unsigned match_all(unsigned mask, uint64_t value, const char *file, int line)
{
    return match_any(mask, value, file, line) == mask ? mask : 0;
}

unsigned reduce(Reduce kind, unsigned mask, unsigned value, const char *file, int line)
{
    struct In { unsigned value; Reduce kind; } in = { value, kind };
    unsigned result = 0;
    collective(OP_REDUCE + 100 * (int)kind, mask, &in, sizeof in, &result, sizeof result, false,
               file, line, [](unsigned m, unsigned char (*from)[lane_bytes],
                              unsigned char (*to)[lane_bytes]) {
                   const In first = get<In>(from[__builtin_ctz(m)]);
                   unsigned r = first.value;
                   each_lane(m & (m - 1), [&](unsigned lane) {
                       const unsigned v = get<In>(from[lane]).value;
                       switch (first.kind) {
                       case Reduce::add:        r += v; break;
                       case Reduce::min:        r = v < r ? v : r; break;
                       case Reduce::max:        r = v > r ? v : r; break;
                       case Reduce::min_signed: r = (int)v < (int)r ? v : r; break;
                       case Reduce::max_signed: r = (int)v > (int)r ? v : r; break;
                       case Reduce::bit_and:    r &= v; break;
                       case Reduce::bit_or:     r |= v; break;
                       case Reduce::bit_xor:    r ^= v; break;
                       }
                   });
                   each_lane(m, [&](unsigned lane) { put(to[lane], r); });
               });
    return result;
}

/* One handle for every fence: orders more than hardware does between threads that both fence, and
 * nothing for one that does not. */
void thread_fence()
{
    static char order;
    order_release(&order);
    order_acquire(&order);
}

} // namespace nib_emu
