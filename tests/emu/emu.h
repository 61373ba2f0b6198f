/* emu.h: what a test may ask of the emulator beyond the CUDA runtime. C and C++.
 *
 * Blocks run one after another and CUDA threads as fibers, all on the host thread that waits for
 * their stream. A kernel that breaks a rule of CUDA stops; from then on every runtime call
 * returns cudaErrorLaunchFailure, as after a fault on a GPU, until nib_emu_reset.
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

/* The fake device: 80, 90, 100 or 120. Returns 0, or -1 for another. */
int nib_emu_set_architecture(int sm);

/* Bytes that cudaMalloc may hand out in all; 0: the architecture's. */
void nib_emu_set_memory(uint64_t bytes);

/* As a new process: no streams, events, functions' attributes, errors. Device memory is freed.
 * The schedule and the architecture stay. */
void nib_emu_reset(void);

/* What the first faulty kernel did wrong, with kernel, block, thread, file and line; "": none. */
const char *nib_emu_failure(void);

typedef struct nib_emu_counts {
    uint64_t kernels, blocks, threads, switches, collectives, barriers, mma, async_copies;
} nib_emu_counts;

nib_emu_counts nib_emu_get_counts(void); /* since the process started */

#ifdef __cplusplus
}
#endif
#endif
