/* tensor_file.c: the table of element types, and read-only mappings. */
#include "host/io/tensor_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/internal.h"

/* Names: safetensors' Dtype (safetensors/src/tensor.rs, which has bits of an element: 4 and 6 of F4
 * and F6) and ggml.h (enum ggml_type); blocks: ggml-common.h. */
static const nib_tensor_type_info types[NIB_TT_COUNT] = {
    /*                   name       block bytes ggml  st decodable */
    [NIB_TT_C64]     = { "C64",         1,   8,  -1,  1, 0 },
    [NIB_TT_F64]     = { "F64",         1,   8,  28,  1, 0 },
    [NIB_TT_F32]     = { "F32",         1,   4,   0,  1, 1 },
    [NIB_TT_F16]     = { "F16",         1,   2,   1,  1, 1 },
    [NIB_TT_BF16]    = { "BF16",        1,   2,  30,  1, 1 },
    [NIB_TT_F8_E4M3] = { "F8_E4M3",     1,   1,  -1,  1, 0 },
    [NIB_TT_F8_E5M2] = { "F8_E5M2",     1,   1,  -1,  1, 0 },
    [NIB_TT_F8_E8M0] = { "F8_E8M0",     1,   1,  -1,  1, 0 },
    [NIB_TT_F8_E4M3FNUZ] = { "F8_E4M3FNUZ", 1, 1, -1, 1, 0 },
    [NIB_TT_F8_E5M2FNUZ] = { "F8_E5M2FNUZ", 1, 1, -1, 1, 0 },
    [NIB_TT_F6_E2M3] = { "F6_E2M3",     4,   3,  -1,  1, 0 },
    [NIB_TT_F6_E3M2] = { "F6_E3M2",     4,   3,  -1,  1, 0 },
    [NIB_TT_F4]      = { "F4",          2,   1,  -1,  1, 0 },
    [NIB_TT_I64]     = { "I64",         1,   8,  27,  1, 0 },
    [NIB_TT_I32]     = { "I32",         1,   4,  26,  1, 0 },
    [NIB_TT_I16]     = { "I16",         1,   2,  25,  1, 0 },
    [NIB_TT_I8]      = { "I8",          1,   1,  24,  1, 0 },
    [NIB_TT_U64]     = { "U64",         1,   8,  -1,  1, 0 },
    [NIB_TT_U32]     = { "U32",         1,   4,  -1,  1, 0 },
    [NIB_TT_U16]     = { "U16",         1,   2,  -1,  1, 0 },
    [NIB_TT_U8]      = { "U8",          1,   1,  -1,  1, 0 },
    [NIB_TT_BOOL]    = { "BOOL",        1,   1,  -1,  1, 0 },
    [NIB_TT_Q4_0]    = { "Q4_0",       32,  18,   2,  0, 1 },
    [NIB_TT_Q4_1]    = { "Q4_1",       32,  20,   3,  0, 1 },
    [NIB_TT_Q5_0]    = { "Q5_0",       32,  22,   6,  0, 1 },
    [NIB_TT_Q5_1]    = { "Q5_1",       32,  24,   7,  0, 1 },
    [NIB_TT_Q8_0]    = { "Q8_0",       32,  34,   8,  0, 1 },
    [NIB_TT_Q4_K]    = { "Q4_K",      256, 144,  12,  0, 1 },
    [NIB_TT_Q5_K]    = { "Q5_K",      256, 176,  13,  0, 1 },
    [NIB_TT_Q6_K]    = { "Q6_K",      256, 210,  14,  0, 1 },
    [NIB_TT_MXFP4]   = { "MXFP4",      32,  17,  39,  0, 1 },
    [NIB_TT_NVFP4]   = { "NVFP4",      64,  36,  40,  0, 1 },
};

const nib_tensor_type_info *nib_tensor_type_get(nib_tensor_type type) { return &types[type]; }

nib_tensor_type nib_tensor_type_from_safetensors(const char *dtype)
{
    for (int i = 0; i < NIB_TT_COUNT; i++)
        if (types[i].in_safetensors && strcmp(types[i].name, dtype) == 0)
            return (nib_tensor_type)i;
    return NIB_TT_COUNT;
}

nib_tensor_type nib_tensor_type_from_ggml(uint32_t number)
{
    for (int i = 0; i < NIB_TT_COUNT; i++)
        if (types[i].ggml >= 0 && (uint32_t)types[i].ggml == number) return (nib_tensor_type)i;
    return NIB_TT_COUNT;
}

int64_t nib_tensor_elements(const nib_tensor *tensor)
{
    int64_t count = 1;
    for (int32_t i = 0; i < tensor->n_dims; i++) count *= tensor->dims[i];
    return count;
}

int64_t nib_tensor_spec_bytes(const nib_tensor_spec *spec)
{
    if ((uint32_t)spec->type >= NIB_TT_COUNT || spec->n_dims < 0 ||
        spec->n_dims > NIB_TENSOR_DIMS)
        return -1;
    const nib_tensor_type_info *type = &types[spec->type];
    const int64_t inner = spec->n_dims > 0 ? spec->dims[spec->n_dims - 1] : 1;
    if (!type->in_safetensors && inner % type->block != 0) return -1;

    int64_t n = 1;
    for (int32_t i = 0; i < spec->n_dims; i++)
        if (spec->dims[i] < 0 || __builtin_mul_overflow(n, spec->dims[i], &n)) return -1;
    if (n % type->block != 0) return -1;
    return __builtin_mul_overflow(n / type->block, type->block_bytes, &n) ? -1 : n;
}

void nib_file_layout_free(nib_file_layout *layout)
{
    if (!layout) return;
    free(layout->header);
    free(layout->offsets);
    *layout = (nib_file_layout){ 0 };
}

static nib_status map_file(int fd, const char *path, nib_mapping *mapping)
{
    struct stat info;
    NIB_REQUIRE(fstat(fd, &info) == 0, NIB_ERR_IO, "%s: cannot look at it: %s", path,
                strerror(errno));
    NIB_REQUIRE(!S_ISDIR(info.st_mode), NIB_ERR_IO, "%s: is a folder, a file is needed", path);
    NIB_REQUIRE(S_ISREG(info.st_mode), NIB_ERR_IO, "%s: is not a regular file", path);
    NIB_REQUIRE(info.st_size > 0, NIB_ERR_FORMAT, "%s: the file is empty", path);

    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    NIB_REQUIRE(data != MAP_FAILED, NIB_ERR_IO, "%s: cannot map %lld bytes: %s", path,
                (long long)info.st_size, strerror(errno));
    mapping->data = data;
    mapping->bytes = (uint64_t)info.st_size;
    mapping->path = strdup(path);
    if (mapping->path) return NIB_OK;
    nib_mapping_close(mapping);
    return nib_fail(NIB_ERR_OUT_OF_MEMORY, "%s: no memory for its name", path);
}

nib_status nib_mapping_open(const char *path, nib_mapping *mapping)
{
    *mapping = (nib_mapping){ 0 };
    /* O_NONBLOCK: opening a pipe must not wait for its writer; regular files ignore it. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    NIB_REQUIRE(fd >= 0, NIB_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    const nib_status status = map_file(fd, path, mapping);
    close(fd); /* the mapping keeps the file */
    return status;
}

void nib_mapping_close(nib_mapping *mapping)
{
    if (!mapping) return;
    if (mapping->data) munmap((void *)(uintptr_t)mapping->data, (size_t)mapping->bytes);
    free(mapping->path);
    *mapping = (nib_mapping){ 0 };
}

void nib_mapping_release(const void *data, uint64_t bytes)
{
    /* Only pages that lie inside: the pages at both ends may hold a neighbour's bytes. Advice,
     * so a refusal changes nothing. */
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)data + page - 1) & ~(page - 1);
    const uintptr_t to = ((uintptr_t)data + (uintptr_t)bytes) & ~(page - 1);
    if (data && to > from) (void)madvise((void *)from, to - from, MADV_DONTNEED);
}
