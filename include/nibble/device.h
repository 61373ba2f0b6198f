/* device.h: where a call computes, and with what.
 *
 * CUDA. A device's calls run in its primary context, which the first one (or nib_prepare, or the
 * caller) makes; opening a device makes none. The caller's current device is current again after
 * each call; where that is another one, CUDA 12 and later make its primary context as well, even
 * if the program never uses it. A thread that works on one GPU of several makes that one current
 * first, by cudaSetDevice. On any failure the text has CUDA's number and words, and says whether
 * the context is still usable or lost to this process. Every call that takes an exec may return:
 *
 *   NIB_ERR_DEVICE        CUDA refused a launch. Or nothing was started, because a kernel failed
 *                         earlier, ours or the caller's: that is never cleared. Or nothing was
 *                         started, because in a program that shares its CUDA runtime with nibble
 *                         (libnibble_cuda.a) an earlier call of the caller's left an error in this
 *                         thread's record: it stays there, for cudaGetLastError to take
 *   NIB_ERR_OUT_OF_MEMORY the device has none left to load or launch a kernel with
 *   NIB_ERR_ARGUMENT      exec->stream is of another device (seen with drivers from 12.8 on), or,
 *                         in debug mode, a pointer is of memory that the device cannot reach
 *   NIB_ERR_NOT_PREPARED  see nib_prepare
 *   NIB_ERR_NO_DEVICE     the device is no longer there, or another process has it to itself
 *
 * A kernel that fails after the call has returned is reported by a later call, as CUDA does. */
#ifndef NIBBLE_DEVICE_H
#define NIBBLE_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "nibble/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nib_backend_kind {
    NIB_BACKEND_AUTO = 0, /* CUDA when a device can be used, else CPU; see nib_device_open */
    NIB_BACKEND_CPU  = 1,
    NIB_BACKEND_CUDA = 2
} nib_backend_kind;

/* Instruction set of the CPU backend. Every one gives the same bytes, but for products (gemm.h). */
typedef enum nib_cpu_isa {
    NIB_CPU_ISA_AUTO     = 0, /* the best that this processor runs */
    NIB_CPU_ISA_PORTABLE = 1, /* plain C */
    NIB_CPU_ISA_AVX2     = 2, /* x86-64 with AVX2, FMA and F16C */
    NIB_CPU_ISA_AVX512   = 3  /* and AVX-512 F, BW, DQ, VL and VNNI: for products; else as AVX2 */
} nib_cpu_isa;

typedef struct nib_device_options {
    uint32_t         size;    /* sizeof(nib_device_options) */
    nib_backend_kind backend;
    int32_t          ordinal; /* CUDA device number; 0 for the CPU */
    nib_cpu_isa      cpu_isa; /* read by the CPU backend only */
    int32_t          debug;   /* CUDA: 1 checks that the device can reach a call's pointers, and
                                 waits for exec's stream before and after, so that a fault is
                                 reported by the call that made it; a captured stream is not waited
                                 for. 0: the same if NIBBLE_DEBUG=1 is in the environment */
} nib_device_options;

/* What a device is. Plain values; 0 or "" where a backend does not have such a thing. */
typedef struct nib_device_info {
    uint32_t         size;               /* in: sizeof(nib_device_info) */
    nib_backend_kind backend;
    int32_t          ordinal;
    int32_t          compute_capability; /* 10 * major + minor, 90 for Hopper */
    int32_t          processors;         /* multiprocessors, or the CPU's threads */
    int32_t          pageable_memory;    /* 1: the device reads any memory of the host */
    int32_t          driver_version;     /* 1000 * major + 10 * minor of CUDA */
    int32_t          runtime_version;
    size_t           memory_bytes;
    size_t           l2_bytes;
    size_t           shared_bytes;       /* a block's shared memory at most, after opting in */
    char             name[128];
} nib_device_info;

/* Immutable once open; any number of threads may use one at the same time. */
typedef struct nib_device nib_device;

/* How one call runs. Plain values that the caller owns and may change between calls. */
typedef struct nib_exec {
    uint32_t          size;            /* sizeof(nib_exec) */
    const nib_device *device;
    void             *stream;          /* cudaStream_t, NULL for the legacy default stream; must
                                          be NULL on the CPU */
    void             *workspace;       /* memory where the device computes; may be NULL */
    size_t            workspace_bytes; /* 0 when no function that is called asks for any */
    int32_t           threads;         /* CPU: 0 = all that OpenMP offers, else 1..1024 */
} nib_exec;

/* Opens a device into *device. options NULL means AUTO, ordinal 0, best instruction set.
 *
 * AUTO obeys the environment variable NIBBLE_BACKEND=cpu|cuda|auto; left to itself it takes CUDA
 * if a device can be used, else the CPU, and nib_device_reason then says why. A caller whose
 * buffers are host memory asks for the CPU. Synchronising. Allocates; nib_device_close frees. On
 * failure *device is NULL.
 *
 * CUDA's code lies in libnibble_cuda.so, which is looked for at the first request, once for the
 * whole process: the file that NIBBLE_CUDA_LIBRARY names, else the one beside libnibble.so (or
 * beside the program that holds libnibble.a), else where the system's loader looks. It must be of
 * the same version of nibble. A program that is linked with libnibble_cuda.a uses that one.
 *
 * Returns NIB_ERR_ARGUMENT for device NULL, a size smaller than the first version's, an
 * unknown enum value, a negative ordinal, debug not 0 or 1, or a NIBBLE_BACKEND that is none of
 * the three; NIB_ERR_NO_DEVICE if CUDA is asked for and its library, a driver or a device is
 * missing or too old (the text says which); NIB_ERR_UNSUPPORTED if the ordinal or the instruction
 * set is not to be had on this machine; NIB_ERR_OUT_OF_MEMORY. */
nib_status nib_device_open(const nib_device_options *options, nib_device **device);

/* Closes a device that no call is using. NULL is allowed. */
void nib_device_close(nib_device *device);

/* Returns the backend in use, never AUTO; NIB_BACKEND_AUTO for device NULL. */
nib_backend_kind nib_device_backend(const nib_device *device);

/* Returns a line for people, such as "cpu avx2, AMD EPYC": lasts as long as the device;
 * "" for device NULL. */
const char *nib_device_description(const nib_device *device);

/* Returns why AUTO took the CPU, a sentence that lasts as long as the device, or "". */
const char *nib_device_reason(const nib_device *device);

/* Fills in *info. Returns NIB_ERR_ARGUMENT for NULL or an info->size below the first version's. */
nib_status nib_device_get_info(const nib_device *device, nib_device_info *info);

/* Groups of operations that can be prepared, to be added up. */
typedef enum nib_prepare_ops {
    NIB_PREPARE_QUANTIZE      = 1, /* quantize.h */
    NIB_PREPARE_FAKE_QUANTIZE = 2, /* fakequant.h, steps.h, step_codes.h */
    NIB_PREPARE_OBSERVE       = 4, /* calibrate.h */
    NIB_PREPARE_TRANSFORM     = 8, /* transform.h */
    NIB_PREPARE_GROUPED       = 16, /* grouped.h */
    NIB_PREPARE_GEMM          = 32, /* gemm.h */
    NIB_PREPARE_GPTQ          = 64, /* hessian.h, gptq.h */
    NIB_PREPARE_ALL           = 0x7fffffff
} nib_prepare_ops;

/* Loads what these operations need on the device: kernels, libraries, handles. Without it a
 * CUDA kernel is loaded by its first call, which a stream that is being captured does not allow:
 * such a call returns NIB_ERR_NOT_PREPARED. On the CPU there is nothing to prepare.
 * Synchronising; any thread; again is harmless. Holds until the process ends. Before a capture
 * begins, or handles of the libraries of GEMM and GPTQ may end it by waiting for the device.
 *
 * Products by cublasLt, those of gemm.h's exact kernels and of nib_hessian_add, ask it for an
 * algorithm at their first call of a kind (sizes, ld_elems, dtypes, alignment, whether alpha is
 * given, device). Some versions of it do not answer while a stream is being captured: the call then
 * returns NIB_ERR_NOT_PREPARED after nib_prepare too, and the text says so. Run it once before the
 * capture; the latest 512 kinds or so are remembered. What it had enqueued by then stays captured.
 *
 * Returns NIB_ERR_ARGUMENT for device NULL or ops 0 or unknown, NIB_ERR_DEVICE (the text has
 * CUDA's words), NIB_ERR_OUT_OF_MEMORY. */
nib_status nib_prepare(const nib_device *device, uint32_t ops);

#ifdef __cplusplus
}
#endif

#endif
