/* emu_internal.h: the running block, its warps and threads, for the emulator's own sources. */
#ifndef NIB_EMU_INTERNAL_H
#define NIB_EMU_INTERNAL_H

#include "tests/emu/emu.h"
#include "tests/emu/emu_api.h"
#include "tests/emu/emu_device.h"
#include "tests/emu/emu_sanitizer.h"
#include "tests/emu/emu_types.h"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace nib_emu {

struct Fiber {
    void *stack = nullptr; /* lowest usable byte */
    void *sp = nullptr;    /* where it was left */
    void *tsan = nullptr;
    int   unseen = 0;           /* how many Unseen it is in */
    void *fake_stack = nullptr; /* the address sanitizer's */
};

enum class State { fresh, ready, in_barrier, in_warp, in_mbarrier, in_wgmma, done };

struct Copy { /* one cp.async that has not landed */
    void       *dst;
    const void *src;
    unsigned    bytes, from_src; /* the rest becomes zero */
};

struct WgmmaThread; /* emu_wgmma.cc */
struct WgmmaProduct;

struct Thread {
    Fiber       fiber;
    uint3       index;
    unsigned    rank, lane, warp;
    State       state = State::fresh;
    int         barrier = 0;
    size_t      slot = 0; /* of its stack */
    const char *file = nullptr; /* where it waits */
    int         line = 0;
    bool        waited = false; /* for the kernel before */
    std::vector<Copy>              open;   /* issued, in no group yet */
    std::vector<std::vector<Copy>> groups; /* committed, oldest first */
    std::shared_ptr<WgmmaThread>   wgmma;
    std::vector<std::pair<size_t, size_t>> landed; /* copies since its last proxy fence: words */
};

/* Lanes of one mask on their way to one collective. */
struct Meeting {
    unsigned    mask = 0, arrived = 0;
    int         op = 0;
    const char *file = nullptr;
    int         line = 0;
    unsigned    turn = 0;
};

constexpr size_t lane_bytes = 64;

struct Warp {
    Meeting  meetings[32];
    unsigned alive = 0;
    unsigned turns[32] = {}; /* meetings begun, by lowest lane of the mask */
    alignas(16) unsigned char in[32][lane_bytes], out[32][lane_bytes];
    char     order[32][2];  /* sanitizer's handles, by lowest lane and turn */
};

struct Barrier {
    unsigned    arrived = 0, expected = 0, phase = 0;
    const char *file = nullptr;
    int         line = 0;
    char        order[2];
};

struct MBarrier {
    void                 *address;
    unsigned              count, pending, phase;
    std::vector<unsigned> waiting;
    char                  order[2];
};

struct Warpgroup {
    std::deque<std::shared_ptr<WgmmaProduct>> begun; /* by some of its threads, not by all */
    size_t                                    complete = 0; /* how many came before these */
};

struct Variable { /* of shared memory */
    const void *key;
    void       *data;
    size_t      bytes;
};

constexpr int barriers_per_block = 16;

struct Block {
    const char                  *kernel = "";
    const std::function<void()> *body = nullptr;
    bool                         dependent = false; /* its threads wait for the kernel before */
    std::vector<Thread>          threads;
    std::vector<Warp>            warps;
    Barrier                      barriers[barriers_per_block];
    std::deque<MBarrier>         mbarriers;
    std::vector<Variable>        shared;
    std::vector<Warpgroup>       warpgroups;
    std::vector<uint16_t>        unfenced; /* words of dynamic memory; emu_wgmma.cc */
    unsigned char               *dynamic = nullptr;
    size_t                       dynamic_bytes = 0, static_bytes = 0, shared_limit = 0;
    size_t                       first_slot = 0;
    std::vector<unsigned>        ready;
    std::vector<unsigned>        batch; /* of these ... */
    size_t                       next = 0; /* ... this one comes next */
    unsigned                     live = 0;
    std::string                  failure;
    cudaError_t                  error = cudaErrorLaunchFailure; /* that the failure becomes */
};

extern Block         *block;
extern Thread        *thread; /* nullptr: the host */
extern nib_emu_counts counts;
extern nib_emu_schedule schedule;
extern uint64_t       random_state;

std::recursive_mutex &device_lock(); /* held through each runtime call and kernel */
uint32_t    next_random();
std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the block; the first reason counts. Does not return to a fiber. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void wait_for_others(State state, const char *file, int line); /* leaves the fiber until wake */
void wake(unsigned rank);

/* All blocks of a grid, in the schedule's order; "" or what went wrong. */
std::string run_grid(const char *kernel, dim3 grid, dim3 block, size_t smem_bytes,
                     size_t shared_limit, const std::function<void()> &body, bool dependent,
                     cudaError_t *error);

/* Writes 0xff: NaN in f32, f16, bf16 and E4M3, -1 in integers. */
void poison(void *data, size_t bytes);

/* fail unless [p, p + bytes) is shared memory of the running block, aligned to bytes. */
void need_shared(const void *p, size_t bytes, const char *what, const char *file, int line);

/* As need_shared, by the address that shared_address gave (emu_ptx.h). */
void *shared_pointer(uint32_t address, size_t bytes, const char *what, const char *file, int line);

/* A cp.async of the running thread has landed here. */
void landed_in_shared(const void *dst, size_t bytes);
bool wgmma_in_flight(const Thread &t);

/* Every lane of mask brings in; the last to come computes all lanes' out through combine, which
 * sees in[lane] and out[lane] as arrays of lane_bytes. Lanes that a mask names must all come, to
 * the same place in the source. */
typedef void Combine(unsigned mask, unsigned char (*in)[lane_bytes],
                     unsigned char (*out)[lane_bytes]);
void collective(int op, unsigned mask, const void *in, size_t in_bytes, void *out,
                size_t out_bytes, bool orders_memory, const char *file, int line,
                Combine *combine);

/* Operations of collective: equal ones meet. */
enum { OP_SYNC = 1, OP_SHUFFLE = 16, OP_BALLOT, OP_MATCH_ANY, OP_MATCH_ALL, OP_REDUCE,
       OP_LDMATRIX = 64, OP_MMA = 80 };

} // namespace nib_emu

#endif
