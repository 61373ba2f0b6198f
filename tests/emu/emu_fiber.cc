/* emu_fiber.cc: the switch itself is the machine's calling convention: saved registers go to the
 * old stack and come from the new one. */
#include "tests/emu/emu_fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

extern "C" void nib_emu_switch(void **save_sp, void *load_sp);

#if defined(__x86_64__) /* System V ABI: rbx, rbp, r12-r15 */
__asm__(".text\n.globl nib_emu_switch\n.type nib_emu_switch,@function\nnib_emu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size nib_emu_switch,.-nib_emu_switch\n");

static void *first_frame(char *top, void (*entry)())
{
    void **sp = (void **)top;
    *--sp = nullptr; /* a function is entered with 8 bytes above a multiple of 16 */
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    return sp;
}
#elif defined(__aarch64__) /* AAPCS64: x19-x30, the low halves of v8-v15 */
__asm__(".text\n.globl nib_emu_switch\n.type nib_emu_switch,%function\nnib_emu_switch:\n"
        "sub sp, sp, #160\n"
        "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
        "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
        "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\n"
        "stp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
        "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
        "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
        "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\n"
        "ldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
        "add sp, sp, #160\nret\n.size nib_emu_switch,.-nib_emu_switch\n");

static void *first_frame(char *top, void (*entry)())
{
    void **sp = (void **)top - 20;
    for (int i = 0; i < 20; i++) sp[i] = nullptr;
    sp[11] = (void *)entry; /* x30 */
    return sp;
}
#else
#error "the emulator switches fibers on x86-64 and aarch64 only"
#endif

namespace nib_emu {

#if defined(NIB_EMU_ASAN) || defined(NIB_EMU_TSAN)
static const size_t stack_bytes = 256 << 10;
#else
static const size_t stack_bytes = 64 << 10;
#endif
static const size_t guard_bytes = 64 << 10; /* a multiple of any page size */

static void *host_sp;
#ifdef NIB_EMU_ASAN
static const void *host_stack;
static size_t      host_stack_bytes;
#endif
#ifdef NIB_EMU_TSAN
static void *host_fiber;
static int   host_unseen;
int         *unseen_depth = &host_unseen;
static std::vector<void *> tsan_fibers; /* creating one takes most of a millisecond */
#endif

static char *stack_of(size_t slot)
{
    static std::vector<char *> stacks;
    while (stacks.size() <= slot) {
        void *p = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED || mprotect(p, guard_bytes, PROT_NONE)) {
            perror("emulator: a stack for a CUDA thread");
            abort();
        }
        stacks.push_back((char *)p + guard_bytes);
    }
    return stacks[slot];
}

void fiber_prepare(Fiber *fiber, size_t slot, void (*entry)())
{
    char *stack = stack_of(slot);
    fiber->stack = stack;
#ifdef NIB_EMU_ASAN
    __asan_unpoison_memory_region(stack, stack_bytes); /* of frames that were left for good */
#endif
#ifdef NIB_EMU_TSAN
    if (tsan_fibers.size() <= slot) tsan_fibers.resize(slot + 1);
    if (!tsan_fibers[slot]) tsan_fibers[slot] = __tsan_create_fiber(0);
    fiber->tsan = tsan_fibers[slot];
#endif
    fiber->sp = first_frame(stack + stack_bytes, entry);
}

void fiber_enter(Fiber *fiber)
{
#ifdef NIB_EMU_ASAN
    void *fake;
    __sanitizer_start_switch_fiber(&fake, fiber->stack, stack_bytes);
#endif
#ifdef NIB_EMU_TSAN
    host_fiber = __tsan_get_current_fiber();
    unseen_depth = &fiber->unseen;
    __tsan_switch_to_fiber(fiber->tsan, 1); /* 1: orders nothing */
#endif
    nib_emu_switch(&host_sp, fiber->sp);
#ifdef NIB_EMU_TSAN
    unseen_depth = &host_unseen;
#endif
#ifdef NIB_EMU_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void fiber_leave(Fiber *fiber, bool dying)
{
    (void)dying;
#ifdef NIB_EMU_ASAN
    __sanitizer_start_switch_fiber(dying ? nullptr : &fiber->fake_stack, host_stack,
                                   host_stack_bytes);
#endif
#ifdef NIB_EMU_TSAN
    __tsan_switch_to_fiber(host_fiber, 1);
#endif
    nib_emu_switch(&fiber->sp, host_sp);
#ifdef NIB_EMU_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake_stack, nullptr, nullptr);
#endif
}

void fiber_started()
{
#ifdef NIB_EMU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
#endif
}

void fiber_abandon(Fiber *fiber)
{
    (void)fiber;
#ifdef NIB_EMU_TSAN /* the sanitizer takes no thread for ended that still hides something */
    void *host = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->tsan, 1);
    while (fiber->unseen-- > 0) unseen_end();
    __tsan_switch_to_fiber(host, 1);
#endif
}

void fiber_forget_all()
{
#ifdef NIB_EMU_TSAN
    for (void *fiber : tsan_fibers) if (fiber) __tsan_destroy_fiber(fiber);
    tsan_fibers.clear();
#endif
}

} // namespace nib_emu
