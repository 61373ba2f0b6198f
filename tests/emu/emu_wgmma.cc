/* emu_wgmma.cc: products by a warpgroup, m64n128k16, by the PTX ISA's "Asynchronous warpgroup level
 * matrix instructions". B of K-major rows of 128 bytes with the 128-byte swizzle alone.
 *
 * A product is made when all 128 threads have called it, which none of them waits for, and lands at
 * a thread's wait, the last moment that is allowed. Until then its accumulators hold a signalling
 * NaN, and what is done to them, to A's registers and to B is seen at the wait. Registers are the
 * memory of the arrays that the kernel gives, which must be as they were at the last fence. */
#include "kernels/common/half.h"
#include "tests/emu/emu_internal.h"
#include "tests/emu/emu_ptx.h"
#include "tests/emu/emu_runtime.h"

#include <cstring>

namespace nib_emu {

enum { ROWS = 64, COLUMNS = 128, K = 16, THREADS = 128, D = 64, A = 4 };
static const uint32_t in_flight_bits = 0x7fa5a5a5u; /* arithmetic would make it quiet */

struct WgmmaProduct {
    Mma         kind;
    uint64_t    b_desc;
    const char *file;
    int         line;
    unsigned    arrived = 0;
    const char *b[COLUMNS][2]; /* where eight values lie each */
    uint16_t    b_was[COLUMNS][K];
    uint32_t    a[THREADS][A];
    float       sum[THREADS][D];
    std::vector<unsigned> waiting;
};

namespace {

struct Use { /* a thread's part of a product */
    std::shared_ptr<WgmmaProduct> product;
    float          *d;
    const uint32_t *a;
};

struct Registers { /* that products of this thread have used */
    const void *at;
    size_t      bytes;
    unsigned    in_flight; /* products that write them */
    uint32_t    was[D];    /* at the last fence; in flight: what they will be */
};

} // namespace

struct WgmmaThread {
    std::vector<Use>              open;
    std::vector<std::vector<Use>> groups;
    std::vector<Use>              ended; /* at the wait that is under way */
    std::deque<Registers>         registers;
    size_t                        begun = 0; /* products */
    bool                          fenced = false;
};

static WgmmaThread &of_thread(const char *what, const char *file, int line)
{
    if (device().major != 9) {
        fail("%s at %s:%d: sm_90a alone has it, and this is sm_%d%d", what, file, line,
             device().major, device().minor);
    }
    if (block->threads.size() % THREADS) {
        fail("%s at %s:%d: %zu threads are no whole warpgroups", what, file, line,
             block->threads.size());
    }
    if (!thread->wgmma) thread->wgmma = std::make_shared<WgmmaThread>();
    return *thread->wgmma;
}

/* ---- B ---- */

static uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

static void find_b(WgmmaProduct *p)
{
    const uint32_t start = (uint32_t)(p->b_desc & 0x3fff) << 4;
    const uint32_t stride = (uint32_t)(p->b_desc >> 32 & 0x3fff) << 4;
    if (p->b_desc >> 62 != 1 || (p->b_desc >> 46 & 0xffff) || p->b_desc >> 30 & 3
        || p->b_desc >> 14 & 3) {
        fail("wgmma at %s:%d: descriptor %#llx is not of the 128-byte swizzle with base offset 0",
             p->file, p->line, (unsigned long long)p->b_desc);
    }
    if (start >> 7 & 7 || stride % 1024) {
        fail("wgmma at %s:%d: eight rows of B begin at %#x, and %#x after each other: no multiples "
             "of 1024", p->file, p->line, start, stride);
    }
    if (start % 128 + 2 * K > 128)
        fail("wgmma at %s:%d: 16 values from %#x leave their row", p->file, p->line, start);
    for (uint32_t n = 0; n < COLUMNS; n++) {
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t at = swizzled(start + n / 8 * stride + n % 8 * 128 + half * 16);
            p->b[n][half] = (const char *)shared_pointer(at, 16, "wgmma", p->file, p->line);
        }
    }
}

/* What a warp's tensor core reads; each warp looks once when it begins and once when it ends. */
static void look_at_b(const WgmmaProduct &p)
{
    for (const auto &row : p.b) {
        for (const char *half : row) saw_read(half, 16);
    }
}

static void read_b(WgmmaProduct *p)
{
    for (int n = 0; n < COLUMNS; n++) {
        for (int half = 0; half < 2; half++) memcpy(&p->b_was[n][8 * half], p->b[n][half], 16);
    }
}

static void expect_b(const WgmmaProduct &p)
{
    for (int n = 0; n < COLUMNS; n++) {
        for (int half = 0; half < 2; half++) {
            if (!memcmp(&p.b_was[n][8 * half], p.b[n][half], 16)) continue;
            fail("wgmma at %s:%d: B has changed before the wait, column %d", p.file, p.line, n);
        }
    }
}

/* Copies land by the generic proxy: block->unfenced has by word who must fence them yet, + 1. */
void landed_in_shared(const void *dst, size_t bytes)
{
    const size_t at = (size_t)((const unsigned char *)dst - block->dynamic);
    if (device().major != 9 || !block->dynamic || at >= block->dynamic_bytes) return;
    block->unfenced.resize((block->dynamic_bytes + 3) / 4);
    for (size_t i = at / 4; i < (at + bytes) / 4; i++)
        block->unfenced[i] = (uint16_t)(thread->rank + 1);
    thread->landed.push_back({ at / 4, bytes / 4 });
}

void fence_proxy(const char *file, int line)
{
    Unseen unseen;
    (void)of_thread("fence.proxy.async", file, line);
    for (const auto &run : thread->landed) {
        for (size_t i = run.first; i < run.first + run.second; i++)
            if (block->unfenced[i] == thread->rank + 1) block->unfenced[i] = 0;
    }
    thread->landed.clear();
}

static void expect_fenced_b(const WgmmaProduct &p)
{
    if (block->unfenced.empty()) return;
    for (const auto &row : p.b) {
        for (const char *half : row) {
            const size_t at = (size_t)((const unsigned char *)half - block->dynamic) / 4;
            for (size_t i = at; i < at + 4 && at < block->unfenced.size(); i++) {
                if (!block->unfenced[i]) continue;
                fail("wgmma at %s:%d: B was copied by thread %d without fence.proxy.async since",
                     p.file, p.line, block->unfenced[i] - 1);
            }
        }
    }
}

/* ---- registers ---- */

static Registers *find_registers(WgmmaThread *w, const void *at)
{
    for (Registers &r : w->registers) if (r.at == at) return &r;
    return nullptr;
}

static bool untouched(const Registers &r)
{
    uint32_t now[D];
    memcpy(now, r.at, r.bytes);
    if (!r.in_flight) return !memcmp(now, r.was, r.bytes);
    for (size_t i = 0; i < r.bytes / 4; i++) if (now[i] != in_flight_bits) return false;
    return true;
}

/* A's or the accumulators', before a product: as they were at the fence, or in flight. */
static Registers *begin_registers(WgmmaThread *w, const void *at, size_t bytes, const char *name,
                                  const char *file, int line)
{
    Registers *r = find_registers(w, at);
    if (!r) {
        w->registers.push_back({ at, bytes, 0, {} });
        r = &w->registers.back();
        memcpy(r->was, at, bytes);
    } else if (!untouched(*r)) {
        fail("wgmma at %s:%d: registers of %s were touched %s", file, line, name,
             r->in_flight ? "while a product was in flight" : "after wgmma.fence");
    }
    return r;
}

void wgmma_fence(const char *file, int line)
{
    Unseen unseen;
    WgmmaThread &w = of_thread("wgmma.fence", file, line);
    w.fenced = true;
    for (Registers &r : w.registers) if (!r.in_flight) memcpy(r.was, r.at, r.bytes);
}

/* ---- products ---- */

/* Rows 16 * warp + g and + 8 of A, fragments of m16n8k16. */
static void multiply(WgmmaProduct *p)
{
    static float a[ROWS][K], b[COLUMNS][K];
    for (int t = 0; t < THREADS; t++) {
        const int row = t / 32 * 16 + t % 32 / 4, q = t % 4 * 2;
        for (int i = 0; i < 2 * A; i++) {
            const uint16_t bits = (uint16_t)(p->a[t][i / 2] >> 16 * (i % 2));
            a[row + 8 * (i / 2 & 1)][q + 8 * (i / 4) + i % 2] = value_of_16(p->kind, bits);
        }
    }
    for (int n = 0; n < COLUMNS; n++)
        for (int k = 0; k < K; k++) b[n][k] = value_of_16(p->kind, p->b_was[n][k]);
    for (int m = 0; m < ROWS; m++) {
        for (int n = 0; n < COLUMNS; n++) {
            float sum = 0;
            for (int k = 0; k < K; k++) sum += a[m][k] * b[n][k];
            const int t = m / 16 * 32 + m % 8 * 4 + n % 8 / 2;
            p->sum[t][n / 8 * 4 + m % 16 / 8 * 2 + n % 2] = sum;
        }
    }
}

/* The product that the thread's n-th call belongs to: all of a warpgroup begin the same ones. Owned
 * by the block or a thread alone, as all here: a fiber that fails never leaves its functions. */
static const std::shared_ptr<WgmmaProduct> &join(size_t n, Mma kind, uint64_t b, const char *file,
                                                 int line)
{
    block->warpgroups.resize(block->threads.size() / THREADS);
    Warpgroup &group = block->warpgroups[thread->rank / THREADS];
    if (n - group.complete == group.begun.size()) {
        group.begun.push_back(std::make_shared<WgmmaProduct>());
        WgmmaProduct *const p = group.begun.back().get();
        p->kind = kind, p->b_desc = b, p->file = file, p->line = line;
        find_b(p);
        read_b(p);
        return group.begun.back();
    }
    const std::shared_ptr<WgmmaProduct> &p = group.begun[n - group.complete];
    if (p->kind != kind || p->b_desc != b || p->line != line || strcmp(p->file, file)) {
        fail("the warps of a warpgroup diverge: wgmma at %s:%d with descriptor %#llx, and at %s:%d "
             "with %#llx", p->file, p->line, (unsigned long long)p->b_desc, file, line,
             (unsigned long long)b);
    }
    return p;
}

void wgmma(Mma kind, float *d, const uint32_t *a, uint64_t b, const char *file, int line)
{
    WgmmaProduct *p;
    {
        Unseen unseen;
        WgmmaThread &w = of_thread("wgmma", file, line);
        if (!w.fenced)
            fail("wgmma at %s:%d: its group does not begin with wgmma.fence", file, line);
        (void)begin_registers(&w, a, 4 * A, "A", file, line);
        Registers *acc = begin_registers(&w, d, 4 * D, "the accumulators", file, line);
        if (!acc->in_flight++) memcpy(acc->was, d, 4 * D);
        for (int i = 0; i < D; i++) memcpy(&d[i], &in_flight_bits, 4);
        w.open.push_back({ join(w.begun++, kind, b, file, line), d, a });
        p = w.open.back().product.get();
        memcpy(p->a[thread->rank % THREADS], a, 4 * A);
    }
    if (thread->lane == 0) look_at_b(*p);
    Unseen unseen;
    if (thread->lane == 0) expect_fenced_b(*p);
    if (++p->arrived < THREADS) return;
    counts.mma += ROWS * COLUMNS / (16 * 8);
    expect_b(*p);
    multiply(p);
    Warpgroup &group = block->warpgroups[thread->rank / THREADS];
    group.begun.pop_front();
    group.complete++;
    for (const unsigned rank : p->waiting) wake(rank);
    p->waiting.clear();
}

void wgmma_commit(const char *file, int line)
{
    Unseen unseen;
    WgmmaThread &w = of_thread("wgmma.commit_group", file, line);
    w.groups.push_back(std::move(w.open));
    w.open.clear();
    w.fenced = false;
}

static void land(WgmmaThread *w, const Use &use)
{
    WgmmaProduct &p = *use.product;
    while (p.arrived < THREADS) {
        p.waiting.push_back(thread->rank);
        wait_for_others(State::in_wgmma, p.file, p.line);
    }
    if (memcmp(p.a[thread->rank % THREADS], use.a, 4 * A)) {
        fail("wgmma at %s:%d: registers of A have changed before the wait", p.file, p.line);
    }
    if (thread->lane == 0) expect_b(p);
    Registers *acc = find_registers(w, use.d);
    if (!untouched(*acc)) {
        fail("wgmma at %s:%d: registers of the accumulators were touched while a product was in "
             "flight", p.file, p.line);
    }
    float *sums = (float *)acc->was;
    for (int i = 0; i < D; i++) sums[i] += p.sum[thread->rank % THREADS][i];
    if (!--acc->in_flight) memcpy(use.d, acc->was, 4 * D);
}

void wgmma_wait(size_t groups_left, const char *file, int line)
{
    {
        Unseen unseen;
        WgmmaThread &w = of_thread("wgmma.wait_group", file, line);
        w.ended.clear();
        while (w.groups.size() > groups_left) {
            for (const Use &use : w.groups.front()) {
                land(&w, use);
                w.ended.push_back(use);
            }
            w.groups.erase(w.groups.begin());
        }
    }
    for (const Use &use : thread->wgmma->ended)
        if (thread->lane == 0) look_at_b(*use.product);
    Unseen unseen;
    thread->wgmma->ended.clear();
}

bool wgmma_in_flight(const Thread &t)
{
    return t.wgmma && !(t.wgmma->open.empty() && t.wgmma->groups.empty());
}

} // namespace nib_emu
