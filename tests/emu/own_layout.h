/* own_layout.h: the layouts of packed weights that kernels here can read: a GPU has the kernels of
 * its own family, and traps in those of the other; the emulator has both. */
#ifndef NIB_OWN_LAYOUT_H
#define NIB_OWN_LAYOUT_H

#include "kernels/cuda/gemm_job.cuh"
#include "tests/emu/emu_test.h"

namespace {

nib_device_info info_of(int ordinal)
{
    nib_device_info info = {};
    char            why[NIB_WHY_BYTES] = "";
    EXPECT(nib_cuda_probe(ordinal, &info, why) == NIB_OK, "%s", why);
    return info;
}

nib_gemm_layout own_layout() /* asked once: the driver takes its time */
{
    static const nib_gemm_layout own = info_of(0).compute_capability >= 100
        ? NIB_GEMM_LAYOUT_SM100 : NIB_GEMM_LAYOUT_SM80;
    return own;
}

} // namespace

#endif
