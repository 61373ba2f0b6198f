/* device_fixture.h: one suite for three backends: the tests named OnDevice*.
 *
 * NIBBLE_TEST_DEVICE=cpu (the default) compares the CPU's instruction sets and thread counts with
 * the portable code on one thread; =cuda compares CUDA's device 0, be it a GPU or, through
 * NIBBLE_CUDA_LIBRARY, the emulator, with the same. Tests use the public API; buffers and streams
 * come from below it, from host/internal.h.
 */
#ifndef NIB_TEST_DEVICE_FIXTURE_H
#define NIB_TEST_DEVICE_FIXTURE_H

#include "host/internal.h"
#include "nibble/quantize.h"
#include "tests/shim.h"

enum { MOST_RUNNERS = 10, POISON = 0xa5 };

/* One way to compute: a device, a stream, and a number of CPU threads. */
typedef struct runner {
    nib_device            *device;
    const nib_runtime_ops *runtime;
    int32_t                ordinal, threads;
    void                  *stream;
    char                   name[300];
} runner;

/* The ways, opened once for the process and kept. [0] is the reference: portable, one thread. On
 * the CPU 1..3 are portable with more threads and 4..7 AVX2; on CUDA [1] is the device. Returns
 * how many; 0, and the test has failed, if the device cannot be opened. */
int runners_open(const runner **list);

/* 1 if the runner computes on CUDA; on the emulator. */
int runner_is_cuda(const runner *r);
int runner_is_emulated(const runner *r);

nib_exec exec_of(const runner *r);

/* Whether a call of CUDA's may refuse this format: one without a name. */
int format_has_name(nib_format format);

/* Memory where a runner computes, with canaries before and behind it. Under the address sanitizer
 * it ends where it ends, and reading too much is seen as well. */
typedef struct buffer {
    const runner *on;
    void         *at;      /* what the library gets */
    size_t        bytes;
    void         *whole;
    size_t        before, after;
} buffer;

/* off: bytes by which at is off an alignment of 256. data NULL: filled with POISON. */
buffer buffer_new(const runner *on, const void *data, size_t bytes, size_t off);
void   buffer_put(const buffer *b, const void *data);
void   buffer_get(const buffer *b, void *data);
/* Releases it. Returns its bytes in the host's memory, to be freed, or NULL if it was empty; fails
 * the test if a canary has changed. */
void *buffer_take(buffer *b);
void  buffer_free(buffer *b);
void  runner_wait(const runner *r);

/* Runs a test of this program in a process of its own, where test_is_alone() is 1, with name=value
 * in its environment, and fails this one if it fails. */
void run_test_alone(const char *test, const char *name, const char *value);
int  test_is_alone(void);

/* 1 if an access to no memory ends this program, built with a sanitizer that reports it. */
int sanitizer_takes_faults(void);

/* Makes trouble of the emulator's, in words of tests/emu/emu.h. Returns 0; -1: no emulator. */
int emulator_inject(const char *what);

/* Kernels that the emulator ran; 0 without one. */
uint64_t emulator_kernels(void);

#endif
