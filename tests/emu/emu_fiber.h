/* emu_fiber.h: stacks that take turns on one host thread. */
#ifndef NIB_EMU_FIBER_H
#define NIB_EMU_FIBER_H

#include "tests/emu/emu_internal.h"

namespace nib_emu {

/* Makes fiber ready to run entry. Fibers of one slot share a stack and are never alive together;
 * a guard page lies below it. */
void fiber_prepare(Fiber *fiber, size_t slot, void (*entry)());

void fiber_enter(Fiber *fiber);             /* from the host, until fiber_leave */
void fiber_leave(Fiber *fiber, bool dying); /* back to the host */
void fiber_started();                       /* first call on a new fiber */
void fiber_abandon(Fiber *fiber);           /* from the host: it is never entered again */
void fiber_forget_all();                    /* after that: none of their state is reused */

} // namespace nib_emu

#endif
