/* emu_arch.cc: the target that this program's kernels were compiled for; see emu_convert.h. */
#include "tests/emu/emu_convert.h"
#include "tests/emu/emu_runtime.h"

namespace nib_emu {
const int built_for = NIB_EMU_ARCH;
}
