/* device.h: where a call computes, and with what. */
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

/* Instruction set of the CPU backend. Every one gives the same bytes. */
typedef enum nib_cpu_isa {
    NIB_CPU_ISA_AUTO     = 0, /* the best that this processor runs */
    NIB_CPU_ISA_PORTABLE = 1, /* plain C */
    NIB_CPU_ISA_AVX2     = 2  /* x86-64 with AVX2, FMA and F16C */
} nib_cpu_isa;

typedef struct nib_device_options {
    uint32_t         size;    /* sizeof(nib_device_options) */
    nib_backend_kind backend;
    int32_t          ordinal; /* CUDA device number; 0 for the CPU */
    nib_cpu_isa      cpu_isa; /* read by the CPU backend only */
} nib_device_options;

/* Immutable once open; any number of threads may use one at the same time. */
typedef struct nib_device nib_device;

/* How one call runs. Plain values that the caller owns and may change between calls. */
typedef struct nib_exec {
    uint32_t          size;            /* sizeof(nib_exec) */
    const nib_device *device;
    void             *stream;          /* cudaStream_t; must be NULL on the CPU */
    void             *workspace;       /* memory where the device computes; may be NULL */
    size_t            workspace_bytes; /* 0 when no function that is called asks for any */
    int32_t           threads;         /* CPU: 0 = all that OpenMP offers, else 1..1024 */
} nib_exec;

/* Opens a device into *device. options NULL means AUTO, ordinal 0, best instruction set.
 *
 * AUTO obeys the environment variable NIBBLE_BACKEND=cpu|cuda|auto. Synchronising.
 * Allocates; nib_device_close frees. On failure *device is NULL.
 *
 * Returns NIB_ERR_ARGUMENT for device NULL, a size smaller than the first version's, an
 * unknown enum value, a negative ordinal, or a NIBBLE_BACKEND that is none of the three;
 * NIB_ERR_UNSUPPORTED if the backend, the ordinal or the instruction set is not to be had
 * on this machine (the text says why); NIB_ERR_OUT_OF_MEMORY. */
nib_status nib_device_open(const nib_device_options *options, nib_device **device);

/* Closes a device that no call is using. NULL is allowed. */
void nib_device_close(nib_device *device);

/* Returns the backend in use, never AUTO; NIB_BACKEND_AUTO for device NULL. */
nib_backend_kind nib_device_backend(const nib_device *device);

/* Returns a line for people, such as "cpu avx2, AMD EPYC": lasts as long as the device;
 * "" for device NULL. */
const char *nib_device_description(const nib_device *device);

#ifdef __cplusplus
}
#endif

#endif
