/* hopper.h: the device of tests of wgmma: an emulated sm_90 for as long as the object lives, or a
 * GPU, if it is one. */
#ifndef NIB_EMU_HOPPER_H
#define NIB_EMU_HOPPER_H

#include "tests/emu/emu_test.h"

namespace {

class Hopper {
public:
    Hopper()
    {
        int major = 0;
#if NIB_ON_EMULATOR
        if (NIB_EMU_ARCH > 90) return; /* kernels of this build do not run on it */
        nib_emu_set_architecture(90);
#endif
        EXPECT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
        is_ = major == 9;
    }
    ~Hopper()
    {
#if NIB_ON_EMULATOR
        nib_emu_set_architecture(NIB_EMU_ARCH);
        nib_emu_reset();
#endif
    }
    explicit operator bool() const { return is_; }

private:
    bool is_ = false;
};

} // namespace

#define ON_HOPPER()      \
    const Hopper hopper; \
    if (!hopper) SKIP("no GPU of compute capability 9.0, nor an emulated one")

#endif
