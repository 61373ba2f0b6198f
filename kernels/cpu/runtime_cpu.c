/* runtime_cpu.c: the CPU's side of nib_runtime_ops: memory of the process, no streams. */
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

enum { ALIGNMENT = 256 }; /* what a CUDA allocation has */

static nib_status allocate(int32_t ordinal, size_t bytes, void **memory, char *why)
{
    (void)ordinal, (void)why;
    *memory = NULL;
    if (!bytes) return NIB_OK;
    return posix_memalign(memory, ALIGNMENT, bytes) ? NIB_ERR_OUT_OF_MEMORY : NIB_OK;
}

static nib_status release(int32_t ordinal, void *memory, char *why)
{
    (void)ordinal, (void)why;
    free(memory);
    return NIB_OK;
}

static nib_status copy(int32_t ordinal, void *stream, void *dst, const void *src, size_t bytes,
                       char *why)
{
    (void)ordinal, (void)stream, (void)why;
    if (bytes) memcpy(dst, src, bytes);
    return NIB_OK;
}

static nib_status fill(int32_t ordinal, void *stream, void *dst, int byte, size_t bytes, char *why)
{
    (void)ordinal, (void)stream, (void)why;
    if (bytes) memset(dst, byte, bytes);
    return NIB_OK;
}

static nib_status stream_create(int32_t ordinal, void **stream, char *why)
{
    (void)ordinal, (void)why;
    *stream = NULL;
    return NIB_OK;
}

static nib_status done_already(int32_t ordinal, void *stream, char *why)
{
    (void)ordinal, (void)stream, (void)why;
    return NIB_OK;
}

const nib_runtime_ops nib_runtime_cpu = {
    .allocate = allocate,
    .release = release,
    .copy = copy,
    .fill = fill,
    .stream_create = stream_create,
    .stream_destroy = done_already,
    .synchronize = done_already,
};
