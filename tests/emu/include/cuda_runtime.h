/* cuda_runtime.h: stands in for the toolkit's header of this name where a C++ compiler builds
 * kernel sources for the emulator. Found first on the include path; needs no toolkit. */
#ifndef NIB_EMU_CUDA_RUNTIME_H
#define NIB_EMU_CUDA_RUNTIME_H

#include "tests/emu/emu_types.h"
#include "tests/emu/emu_api.h"
#include "tests/emu/emu_device.h"
#include "tests/emu/emu_atomic.h"
#include "tests/emu/emu_math.h"
#include "tests/emu/emu_ptx.h"
#include "tests/emu/emu_launch.h"

#endif
