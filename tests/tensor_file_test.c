/* tensor_file_test.c: the type table, sizes, mappings. Looks below include/. */
#include <stdint.h>
#include <sys/stat.h>

#include "host/io/tensor_file.h"
#include "shim.h"
#include "temp_dir.h"

NIB_TEST(TensorFile, TypeTableIsComplete)
{
    for (int i = 0; i < NIB_TT_COUNT; i++) {
        const nib_tensor_type_info *type = nib_tensor_type_get((nib_tensor_type)i);
        REQUIRE(type->name && type->block >= 1 && type->block_bytes >= 1, "type %d", i);
        EXPECT(type->ggml >= 0 || type->in_safetensors, "%s is in no format", type->name);
        if (type->ggml >= 0)
            EXPECT(nib_tensor_type_from_ggml((uint32_t)type->ggml) == (nib_tensor_type)i,
                   "%s: ggml %d", type->name, type->ggml);
        const nib_tensor_type found = nib_tensor_type_from_safetensors(type->name);
        EXPECT(found == (type->in_safetensors ? (nib_tensor_type)i : NIB_TT_COUNT), "%s",
               type->name);
        EXPECT(type->block == 1 || type->decodable || type->in_safetensors, "%s", type->name);
    }
}

/* ggml.h's enum ggml_type and the bytes of ggml-common.h's blocks, stated once more. */
NIB_TEST(TensorFile, GgmlNumbersAndBlocks)
{
    static const struct { uint32_t number; const char *name; int block, bytes; } rows[] = {
        { 0, "F32", 1, 4 },     { 1, "F16", 1, 2 },     { 2, "Q4_0", 32, 18 },
        { 3, "Q4_1", 32, 20 },  { 6, "Q5_0", 32, 22 },  { 7, "Q5_1", 32, 24 },
        { 8, "Q8_0", 32, 34 },  { 12, "Q4_K", 256, 144 }, { 13, "Q5_K", 256, 176 },
        { 14, "Q6_K", 256, 210 }, { 24, "I8", 1, 1 },   { 25, "I16", 1, 2 },
        { 26, "I32", 1, 4 },    { 27, "I64", 1, 8 },    { 28, "F64", 1, 8 },
        { 30, "BF16", 1, 2 },   { 39, "MXFP4", 32, 17 }, { 40, "NVFP4", 64, 36 },
    };
    size_t known = 0;
    for (uint32_t number = 0; number < 64; number++)
        known += nib_tensor_type_from_ggml(number) != NIB_TT_COUNT;
    EXPECT(known == sizeof rows / sizeof *rows, "%zu", known);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const nib_tensor_type type = nib_tensor_type_from_ggml(rows[i].number);
        REQUIRE(type != NIB_TT_COUNT, "ggml %u", rows[i].number);
        const nib_tensor_type_info *info = nib_tensor_type_get(type);
        EXPECT(strcmp(info->name, rows[i].name) == 0 && info->block == rows[i].block &&
                   info->block_bytes == rows[i].bytes, "ggml %u", rows[i].number);
    }
    EXPECT(nib_tensor_type_from_ggml(UINT32_MAX) == NIB_TT_COUNT, " ");
}

/* safetensors' Dtype and its bitsize(), stated once more. */
NIB_TEST(TensorFile, SafetensorsDtypesAndBits)
{
    static const struct { const char *name; int bits; } rows[] = {
        { "BOOL", 8 },    { "F4", 4 },      { "F6_E2M3", 6 }, { "F6_E3M2", 6 }, { "U8", 8 },
        { "I8", 8 },      { "F8_E5M2", 8 }, { "F8_E4M3", 8 }, { "F8_E8M0", 8 },
        { "F8_E4M3FNUZ", 8 }, { "F8_E5M2FNUZ", 8 }, { "I16", 16 }, { "U16", 16 }, { "F16", 16 },
        { "BF16", 16 },   { "I32", 32 },    { "U32", 32 },    { "F32", 32 },    { "C64", 64 },
        { "F64", 64 },    { "I64", 64 },    { "U64", 64 },
    };
    size_t known = 0;
    for (int i = 0; i < NIB_TT_COUNT; i++)
        known += nib_tensor_type_get((nib_tensor_type)i)->in_safetensors != 0;
    EXPECT(known == sizeof rows / sizeof *rows, "%zu", known);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const nib_tensor_type type = nib_tensor_type_from_safetensors(rows[i].name);
        REQUIRE(type != NIB_TT_COUNT, "%s", rows[i].name);
        const nib_tensor_spec spec = { "a", type, 2, { 3, 8 } };
        EXPECT(nib_tensor_spec_bytes(&spec) == 3 * rows[i].bits, "%s", rows[i].name);
    }
}

NIB_TEST(TensorFile, SpecBytes)
{
    static const struct { nib_tensor_spec spec; int64_t bytes; } rows[] = {
        { { "scalar", NIB_TT_F32, 0, { 0 } }, 4 },
        { { "matrix", NIB_TT_BF16, 2, { 3, 5 } }, 30 },
        { { "empty", NIB_TT_F32, 2, { 0, 7 } }, 0 },
        { { "empty inner", NIB_TT_Q4_K, 2, { 7, 0 } }, 0 },
        { { "blocks", NIB_TT_NVFP4, 2, { 3, 128 } }, 3 * 72 },
        { { "short block", NIB_TT_NVFP4, 1, { 96 } }, -1 },
        { { "inner, not all", NIB_TT_Q4_0, 2, { 32, 16 } }, -1 },
        { { "scalar of blocks", NIB_TT_Q4_0, 0, { 0 } }, -1 },
        { { "negative", NIB_TT_F32, 1, { -1 } }, -1 },
        { { "negative outer", NIB_TT_F32, 2, { -1, 4 } }, -1 },
        { { "two negatives", NIB_TT_F32, 2, { -2, -2 } }, -1 },
        { { "packed from row to row", NIB_TT_F4, 2, { 2, 3 } }, 3 },
        { { "half a byte", NIB_TT_F4, 2, { 3, 3 } }, -1 },
        { { "one of F4", NIB_TT_F4, 0, { 0 } }, -1 },
        { { "six bits", NIB_TT_F6_E2M3, 2, { 2, 6 } }, 9 },
        { { "half a byte of six bits", NIB_TT_F6_E3M2, 1, { 6 } }, -1 },
        { { "empty of six bits", NIB_TT_F6_E3M2, 2, { 5, 0 } }, 0 },
        { { "complex", NIB_TT_C64, 1, { 3 } }, 24 },
        { { "most", NIB_TT_U8, 1, { INT64_MAX } }, INT64_MAX },
        { { "over", NIB_TT_F16, 1, { INT64_MAX } }, -1 },
        { { "wraps to 0", NIB_TT_U8, 2, { (int64_t)1 << 32, (int64_t)1 << 32 } }, -1 },
        { { "eight dims", NIB_TT_U8, 8, { 2, 2, 2, 2, 2, 2, 2, 2 } }, 256 },
        { { "nine dims", NIB_TT_U8, 9, { 0 } }, -1 },
        { { "no dims", NIB_TT_U8, -1, { 0 } }, -1 },
        { { "no type", NIB_TT_COUNT, 1, { 1 } }, -1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        EXPECT(nib_tensor_spec_bytes(&rows[i].spec) == rows[i].bytes, "%s: %lld",
               rows[i].spec.name, (long long)nib_tensor_spec_bytes(&rows[i].spec));
    const nib_tensor tensor = { .n_dims = 3, .dims = { 2, 3, 4 } };
    EXPECT(nib_tensor_elements(&tensor) == 24, " ");
    EXPECT(nib_tensor_elements(&(nib_tensor){ .n_dims = 0 }) == 1, "a scalar");
}

static void expect_refused(const char *path, nib_status status, const char *words)
{
    nib_mapping map;
    EXPECT(nib_mapping_open(path, &map) == status, "%s: %s", path, nib_last_error());
    EXPECT(strstr(nib_last_error(), path) && strstr(nib_last_error(), words), "%s",
           nib_last_error());
    EXPECT(!map.data && !map.path, "%s", path);
}

NIB_TEST(TensorFile, MappingRefusals)
{
    const temp_dir dir = temp_dir_make();
    expect_refused(temp_path(&dir, "absent"), NIB_ERR_IO, "No such file");
    expect_refused(dir.path, NIB_ERR_IO, "folder");
    REQUIRE(temp_write(temp_path(&dir, "empty"), "", 0), " ");
    expect_refused(temp_path(&dir, "empty"), NIB_ERR_FORMAT, "empty");
    REQUIRE(mkfifo(temp_path(&dir, "pipe"), 0600) == 0, " ");
    expect_refused(temp_path(&dir, "pipe"), NIB_ERR_IO, "regular"); /* and does not wait */
    expect_refused("/dev/null", NIB_ERR_IO, "regular");
    temp_dir_remove(&dir);
}

NIB_TEST(TensorFile, ReleaseKeepsContent)
{
    const temp_dir dir = temp_dir_make();
    const size_t bytes = 5 * 4096 + 123;
    uint8_t *data = malloc(bytes);
    REQUIRE(data, " ");
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(i * 31 >> 3);
    REQUIRE(temp_write(temp_path(&dir, "file"), data, bytes), " ");
    nib_mapping map;
    REQUIRE(nib_mapping_open(temp_path(&dir, "file"), &map) == NIB_OK, "%s", nib_last_error());
    EXPECT(map.bytes == bytes && memcmp(map.data, data, bytes) == 0, " ");
    for (size_t from = 0; from < 3 * 4096; from += 1021)
        for (size_t n = 0; n <= bytes - from; n += 2039) nib_mapping_release(map.data + from, n);
    nib_mapping_release(map.data, map.bytes);
    nib_mapping_release(NULL, 0);
    EXPECT(memcmp(map.data, data, bytes) == 0, "content after release");
    nib_mapping_close(&map);
    nib_mapping_close(&map);
    nib_mapping_close(NULL);
    free(data);
    temp_dir_remove(&dir);
}

/* Pages outside the range stay: the neighbour's bytes may be in use. Shown on private memory, whose
 * content a release loses. */
NIB_TEST(TensorFile, ReleaseTouchesOnlyWholePages)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *data = aligned_alloc(page, 3 * page);
    REQUIRE(data, " ");
    memset(data, 0x5a, 3 * page);
    nib_mapping_release(data + 1, 2 * page - 2); /* ends inside the second page */
    for (size_t i = 0; i < 3 * page && !nib_test_failed(); i++)
        EXPECT(data[i] == 0x5a, "byte %zu", i);
    nib_mapping_release(data + 1, 2 * page); /* the second page only */
    EXPECT(data[page - 1] == 0x5a && data[2 * page] == 0x5a, " ");
    free(data);
}
