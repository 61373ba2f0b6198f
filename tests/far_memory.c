/* far_memory.c: buffers of many GiB of which little is used. */
#include "tests/far_memory.h"

#include <string.h>
#include <sys/mman.h>

int far_is_host(const runner *r) { return !runner_is_cuda(r) || runner_is_emulated(r); }

far_buffer far_new(const runner *r, size_t bytes)
{
    char why[NIB_WHY_BYTES] = "";
    void *p = NULL;
    if (far_is_host(r)) {
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
        if (p == MAP_FAILED) p = NULL;
    } else if (r->runtime->allocate(r->ordinal, bytes, &p, why) != NIB_OK) {
        p = NULL;
    }
    return (far_buffer){ r, p, bytes };
}

void far_free(far_buffer *b)
{
    char why[NIB_WHY_BYTES] = "";
    if (!b->at) return;
    if (far_is_host(b->on)) munmap(b->at, b->bytes);
    else EXPECT(b->on->runtime->release(b->on->ordinal, b->at, why) == NIB_OK, "%s", why);
}

void far_copy(const far_buffer *b, int64_t offset, void *host, size_t bytes, int to_host)
{
    char why[NIB_WHY_BYTES] = "";
    void *device = b->at + offset, *dst = to_host ? host : device;
    const void *src = to_host ? device : host;
    if (far_is_host(b->on)) memcpy(dst, src, bytes);
    else
        EXPECT(b->on->runtime->copy(b->on->ordinal, b->on->stream, dst, src, bytes, why) == NIB_OK,
               "%s", why);
}
