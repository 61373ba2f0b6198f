/* emu.h: what a test may ask of the emulator beyond the CUDA runtime. C and C++.
 *
 * Blocks run one after another and CUDA threads as fibers, all on the host thread that waits for
 * their stream. A kernel that breaks a rule of CUDA stops; from then on every runtime call
 * returns cudaErrorLaunchFailure, as after a fault on a GPU, until nib_emu_reset.
 *
 * Device memory can be touched by copies and kernels alone: a host that reads or writes it crashes,
 * and a kernel that leaves it fails with cudaErrorIllegalAddress. (Under the address sanitizer both
 * end in its report.)
 *
 * NIB_EMU_REPORT=file in the environment: at its end the process adds the names of the kernels
 * that ran without a fault, one a line. */
#ifndef NIB_EMU_H
#define NIB_EMU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nib_emu_schedule {
    NIB_EMU_FORWARD = 0, /* threads and blocks in order */
    NIB_EMU_REVERSE,     /* in reverse order */
    NIB_EMU_RANDOM,      /* in any order, by seed */
    NIB_EMU_SKEW         /* one warp runs as far ahead as it may before another moves */
} nib_emu_schedule;

#define NIB_EMU_SCHEDULES 4

/* How the following kernels run. NIB_EMU_SCHEDULE=forward|reverse|random|skew in the environment
 * sets the first one. */
void nib_emu_set_schedule(nib_emu_schedule schedule, uint64_t seed);
const char *nib_emu_schedule_name(nib_emu_schedule schedule);

/* The fake devices: 75, 80, 90, 100 or 120. Returns 0, or -1 for another. Kernels run on devices of
 * NIB_EMU_ARCH, which they were compiled for, and newer ones. */
int nib_emu_set_architecture(int sm);

/* Makes trouble; NIB_EMU_INJECT="word word" in the environment does so from the start.
 *
 *   no_driver             every call returns 35, and the driver's version is 0
 *   old_driver            every call returns 35, and the driver's version is 12000
 *   no_device             every call returns 100
 *   sm=75                 an architecture; 75 is one that no kernel was compiled for
 *   devices=N             1 to 8 (2)
 *   memory=BYTES          as nib_emu_set_memory
 *   pageable              devices read any memory of the host; "pinned": only what CUDA gave
 *   sticky=700            as after a kernel of the caller's that failed with this error
 *   fail=CALL:ERROR:N     CALL, cudaMalloc say, returns ERROR once, after N more that do not;
 *                         cudaLaunchKernel stands for launches; cublasLtMatmul, cusolverDnXpotrf
 *                         have statuses of their own; "info": a factorisation says ERROR
 *   no_cublaslt           its library cannot be opened; so does no_cusolver
 *   shy_heuristic         cublasLt's fails, with 14, in a thread that is capturing a stream
 *   old_cusolver          11.6.0, whose cusolverDnXtrtri_bufferSize counts elements, not bytes
 *   none                  none of these any more
 *
 * Returns 0, or -1 for an unknown word. */
int nib_emu_inject(const char *what);

/* Bytes that cudaMalloc may hand out in all; 0: the architecture's. */
void nib_emu_set_memory(uint64_t bytes);

/* As a new process: no streams, events, functions' attributes, errors. Device memory is freed.
 * The schedule, the architecture and injected trouble but "sticky" and "fail" stay. */
void nib_emu_reset(void);

/* What the first faulty kernel did wrong, with kernel, block, thread, file and line; "": none. */
const char *nib_emu_failure(void);

typedef struct nib_emu_counts {
    uint64_t kernels, blocks, threads, switches, collectives, barriers, mma, async_copies;
} nib_emu_counts;

/* Copies the n-th name, from 0, of the kernels that ran; returns how many there are. */
int nib_emu_kernel_name(int n, char *name, int bytes);

/* Launches that had to load their kernel, as a capture may forbid. */
int nib_emu_late_loads(void);

/* A product by cublasLt: m x n, row-major, of terms k. Types are cudaDataType's numbers. */
typedef struct nib_emu_product {
    int64_t     m, n, k;
    int32_t     transposed; /* w is n x k */
    int32_t     type, d_type;
    int32_t     factor_on_device;
    const void *workspace;
    uint64_t    workspace_bytes;
    int32_t     compute; /* cublasComputeType_t's number */
    int32_t     schemes; /* by which its sums may be cut into parts */
    const void *d;
    int64_t     a_ld, d_ld;
} nib_emu_product;

/* Copies the n-th, from 0, in the order of their calls; returns how many there were. */
int nib_emu_cublaslt_product(int n, nib_emu_product *product);
int nib_emu_cublaslt_heuristics(void); /* how often one was asked */

nib_emu_counts nib_emu_get_counts(void); /* since the process started */

#ifdef __cplusplus
}
#endif
#endif
