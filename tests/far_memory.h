/* far_memory.h: buffers of many GiB of which little is used: memory that is mostly not there, or on
 * a GPU not filled. */
#ifndef NIB_TEST_FAR_MEMORY_H
#define NIB_TEST_FAR_MEMORY_H

#include "tests/device_fixture.h"

typedef struct far_buffer {
    const runner *on;
    uint8_t      *at; /* NULL: no such memory */
    size_t        bytes;
} far_buffer;

/* Whether it is the host's memory, which is zero at first. The emulator's kernels read that too;
 * its own allocator would fill all of it. */
int far_is_host(const runner *r);

far_buffer far_new(const runner *r, size_t bytes);
void       far_free(far_buffer *b);
void       far_copy(const far_buffer *b, int64_t offset, void *host, size_t bytes, int to_host);

#endif
