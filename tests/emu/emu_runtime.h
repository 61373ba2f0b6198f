/* emu_runtime.h: the fake device's state, for the emulator's own sources. All under device_lock. */
#ifndef NIB_EMU_RUNTIME_H
#define NIB_EMU_RUNTIME_H

#include "tests/emu/emu_internal.h"

namespace nib_emu {

struct Device {
    const char *name;
    int         major, minor, processors, threads_per_processor;
    size_t      memory, l2, shared_optin, shared_per_processor;
};

const Device &device();

/* What a call returns: records it as the thread's last error; a faulty kernel overrides it. */
cudaError_t done(cudaError_t error);
void        set_failure(const std::string &sentence); /* as a fault on the device: sticky */
bool        has_failed();
void        forget_errors();

size_t memory_limit(); /* that nib_emu_set_memory gave, or the device's */

/* Queues work on a stream, or records it while the stream is captured. Nothing runs before some
 * call has to wait for it. */
cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work);
bool        capturing(); /* any stream: then calls that wait or allocate are refused */
cudaError_t finish_all();
cudaError_t finish_stream(cudaStream_t stream);
void        forget_streams();
void        forget_memory();
void        forget_functions();

} // namespace nib_emu

#endif
