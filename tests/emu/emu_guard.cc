/* emu_guard.cc: device memory that only copies and kernels can touch.
 *
 * Each allocation ends at the end of a page, 256 bytes aligned, with a page behind it that nobody
 * can touch; a freed one becomes such pages. While no work runs all of it is out of reach. The
 * address sanitizer does the same to the byte, and keeps malloc for it. */
#include "tests/emu/emu_fiber.h"
#include "tests/emu/emu_runtime.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>

namespace nib_emu {

static std::map<uintptr_t, size_t> ranges; /* what can be made accessible */
static int                         depth;

#ifdef NIB_EMU_ASAN
static void allow(uintptr_t at, size_t bytes, bool yes)
{
    if (yes) __asan_unpoison_memory_region((void *)at, bytes);
    else __asan_poison_memory_region((void *)at, bytes);
}

void *guarded_allocate(size_t bytes)
{
    void *p = nullptr;
    if (posix_memalign(&p, 256, bytes)) return nullptr;
    ranges[(uintptr_t)p] = bytes;
    allow((uintptr_t)p, bytes, depth > 0);
    return p;
}

void guarded_release(void *p, size_t bytes)
{
    ranges.erase((uintptr_t)p);
    allow((uintptr_t)p, bytes, true);
    free(p);
}
#else
static void allow(uintptr_t at, size_t bytes, bool yes)
{
    if (mprotect((void *)at, bytes, yes ? PROT_READ | PROT_WRITE : PROT_NONE)) abort();
}

static const size_t                 arena_bytes = (size_t)64 << 30;
static uintptr_t                    arena, arena_used;
static std::multimap<size_t, uintptr_t> freed; /* by pages' bytes */

#ifndef NIB_EMU_TSAN /* which has signals of its own */
static struct sigaction before;

/* A kernel's bad access ends the kernel, on its own stack; the host's ends the program. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    const uintptr_t at = (uintptr_t)info->si_addr;
    if (thread) {
        block->error = cudaErrorIllegalAddress;
        fail("an access to address %p, which is no memory of the device's", info->si_addr);
    }
    if (at - arena < arena_bytes) {
        static const char sentence[] =
            "emulator: the host reads or writes device memory; only copies and kernels may\n";
        const ssize_t written = write(2, sentence, sizeof sentence - 1);
        (void)written;
    }
    sigaction(number, &before, nullptr);
    if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
    } /* else the access happens again, and ends the program */
}

static void watch()
{
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER; /* fail does not return from the handler */
    sigaction(SIGSEGV, &action, &before);
}
#else
static void watch() {}
#endif

static size_t pages_of(size_t bytes) /* with the one behind */
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page + page;
}

static uintptr_t take_range(size_t bytes)
{
    if (!arena) {
        void *p = mmap(nullptr, arena_bytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return 0;
        arena = (uintptr_t)p;
        watch();
    }
    const auto old = freed.find(bytes);
    if (old != freed.end() && freed.count(bytes) > 4) { /* not at once: late users shall see it */
        const uintptr_t at = old->second;
        freed.erase(old);
        return at;
    }
    if (bytes > arena_bytes - arena_used) return 0;
    arena_used += bytes;
    return arena + arena_used - bytes;
}

void *guarded_allocate(size_t bytes)
{
    const size_t rounded = (bytes + 255) / 256 * 256, all = pages_of(rounded);
    const uintptr_t at = take_range(all);
    if (!at) return nullptr;
    const size_t usable = all - (size_t)sysconf(_SC_PAGESIZE);
    ranges[at] = usable;
    allow(at, usable, depth > 0);
    return (void *)(at + usable - rounded);
}

void guarded_release(void *p, size_t)
{
    const auto it = --ranges.upper_bound((uintptr_t)p);
    madvise((void *)it->first, it->second, MADV_DONTNEED);
    allow(it->first, it->second, false);
    freed.insert({ it->second + (size_t)sysconf(_SC_PAGESIZE), it->first });
    ranges.erase(it);
}
#endif

Guard::Guard()
{
    Unseen unseen;
    if (depth++) return;
    for (const auto &r : ranges) allow(r.first, r.second, true);
}

Guard::~Guard()
{
    Unseen unseen;
    if (--depth) return;
    for (const auto &r : ranges) allow(r.first, r.second, false);
}

} // namespace nib_emu
