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

constexpr int most_devices = 8;
extern const int built_for; /* NIB_EMU_ARCH of the kernels */

const Device &device(); /* they are all alike */
int           device_count();
int           current_device(); /* of the host thread */
bool          reads_host_memory();
void          set_pageable(bool pageable);
void          restore_libraries();
void          set_shy_heuristic(bool shy); /* of cublasLt: fails under capture */
void          set_old_solver(bool old);
bool          take_library(const char *word); /* of nib_emu_inject; false: no such word */
void          set_device_count(int n);
size_t        memory_limit(); /* of each; nib_emu_set_memory gave it, or the device's */

/* What a call returns: records it as the thread's last error; a faulty kernel overrides it. */
cudaError_t done(cudaError_t error);
cudaError_t refused(const char *call); /* what was injected for it */
void        set_failure(const std::string &sentence, cudaError_t error); /* sticky */
cudaError_t failure_error(); /* cudaSuccess: none */
inline bool has_failed() { return failure_error() != cudaSuccess; }
void        forget_errors();
int         driver_version();

/* Begins a call of the runtime. */
#define NIB_EMU_CALL_AS(name)                                       \
    std::lock_guard<std::recursive_mutex> call_lock(device_lock()); \
    do {                                                            \
        const cudaError_t refused_ = refused(name);                 \
        if (refused_ != cudaSuccess) return done(refused_);         \
    } while (0)
#define NIB_EMU_CALL() NIB_EMU_CALL_AS(__func__)

/* Queues work on a stream, or records it while the stream is captured. Nothing runs before some
 * call has to wait for it. */
cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work);

/* A call that waits or allocates: an error, and the end of the capture, if a capture forbids it. */
cudaError_t forbidden_by_capture();
bool        is_capturing(); /* whether this thread began a capture that goes on */
cudaError_t device_of(cudaStream_t stream, int *ordinal);
bool        is_captured(cudaStream_t stream);
void        invalidate_capture(cudaStream_t stream);
cudaError_t finish_all(); /* of the current device */
cudaError_t finish_stream(cudaStream_t stream);
void        forget_streams();
void        forget_memory();
void        forget_functions();
void        forget_cublaslt();
void       *cublaslt_symbol(const char *name); /* or NULL */
void       *cusolver_symbol(const char *name);

/* Device memory: p with everything that bytes may reach, and taken back. */
void *guarded_allocate(size_t bytes);
void  guarded_release(void *p, size_t bytes);
struct Guard { /* while one lives, device memory can be read and written */
    Guard();
    ~Guard();
};

std::string function_name(const void *function, const char *otherwise);

} // namespace nib_emu

#endif
