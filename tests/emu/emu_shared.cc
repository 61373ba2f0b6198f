/* emu_shared.cc: shared memory of exact size, so that the address sanitizer's red zones begin
 * right behind it; poisoned, so that what nobody wrote is NaN. */
#include "tests/emu/emu_internal.h"

#include <cstdlib>
#include <cstring>

namespace nib_emu {

void poison(void *data, size_t bytes) { memset(data, 0xff, bytes); }

void *shared(const void *key, size_t bytes, size_t align, const char *file, int line)
{
    Unseen unseen;
    for (const Variable &v : block->shared) if (v.key == key) return v.data;
    block->static_bytes += bytes;
    if (block->static_bytes > 48 << 10) {
        fail("static shared memory at %s:%d: %zu bytes in all, and 49152 are allowed", file, line,
             block->static_bytes);
    }
    if (block->static_bytes + block->dynamic_bytes > block->shared_limit) {
        fail("shared memory at %s:%d: %zu static and %zu dynamic bytes, and the launch may have "
             "%zu", file, line, block->static_bytes, block->dynamic_bytes, block->shared_limit);
    }
    void *p = nullptr;
    if (posix_memalign(&p, align < 16 ? 16 : align, bytes)) abort();
    poison(p, bytes);
    block->shared.push_back({ key, p, bytes });
    return p;
}

unsigned char *shared_dynamic() { return block->dynamic; }

static bool within(const void *p, size_t bytes, const void *data, size_t size)
{
    const uintptr_t a = (uintptr_t)p, b = (uintptr_t)data;
    return data && a >= b && a - b <= size && bytes <= size - (a - b);
}

static const uint32_t dynamic_at = 1024; /* address of the dynamic memory's first byte */

uint32_t shared_address(const void *p)
{
    Unseen unseen;
    if (!within(p, 1, block->dynamic, block->dynamic_bytes))
        fail("shared_address: not of dynamic shared memory");
    return dynamic_at + (uint32_t)((const unsigned char *)p - block->dynamic);
}

void *shared_pointer(uint32_t address, size_t bytes, const char *what, const char *file, int line)
{
    if (address < dynamic_at || address - dynamic_at + bytes > block->dynamic_bytes) {
        fail("%s at %s:%d: %zu bytes at %#x, outside of dynamic shared memory", what, file, line,
             bytes, address);
    }
    return block->dynamic + (address - dynamic_at);
}

void need_shared(const void *p, size_t bytes, const char *what, const char *file, int line)
{
    if ((uintptr_t)p % bytes) {
        fail("%s at %s:%d: the shared address is not aligned to %zu bytes", what, file, line,
             bytes);
    }
    if (within(p, bytes, block->dynamic, block->dynamic_bytes)) return;
    for (const Variable &v : block->shared) if (within(p, bytes, v.data, v.bytes)) return;
    fail("%s at %s:%d: %zu bytes outside shared memory", what, file, line, bytes);
}

} // namespace nib_emu
