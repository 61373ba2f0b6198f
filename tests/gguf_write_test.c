/* gguf_write_test.c: what the writer lays out, the reader reads as the same. Looks below
 * include/: host/io is not public. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/gguf.h"
#include "tests/shim.h"

/* The whole file, with byte i of tensor t set to 31 t + i; to be freed. */
static uint8_t *make_file(const nib_file_layout *layout, const nib_tensor_spec *specs, size_t count)
{
    uint8_t *file = calloc(1, layout->file_bytes);
    memcpy(file, layout->header, layout->header_bytes);
    for (size_t t = 0; t < count; t++) {
        const int64_t bytes = nib_tensor_spec_bytes(&specs[t]);
        for (int64_t i = 0; i < bytes; i++) {
            file[layout->offsets[t] + (uint64_t)i] = (uint8_t)(31 * (int64_t)t + i);
        }
    }
    return file;
}

/* Laid out, filled, and read; NULL after a failure. *file is to be freed after closing. */
static nib_gguf *round_trip(const nib_gguf_meta *meta, const nib_tensor_spec *specs, size_t count,
                            uint8_t **file)
{
    nib_gguf *gguf = NULL;
    nib_file_layout layout;
    *file = NULL;
    EXPECT(nib_gguf_layout(meta, specs, count, &layout) == NIB_OK, "%s", nib_last_error());
    if (!layout.header) return NULL;
    *file = make_file(&layout, specs, count);
    EXPECT(nib_gguf_parse("written", *file, layout.file_bytes, &gguf) == NIB_OK, "%s",
           nib_last_error());
    nib_file_layout_free(&layout);
    return gguf;
}

static void check_same_tensors(const nib_gguf *gguf, const nib_tensor_spec *specs, size_t count)
{
    size_t n;
    const nib_tensor *tensors = nib_gguf_tensors(gguf, &n);
    REQUIRE(n == count, "%zu tensors of %zu", n, count);
    for (size_t t = 0; t < n; t++) {
        EXPECT(strcmp(tensors[t].name, specs[t].name) == 0, "%s", tensors[t].name);
        EXPECT(tensors[t].type == specs[t].type && tensors[t].n_dims == specs[t].n_dims
               && memcmp(tensors[t].dims, specs[t].dims, sizeof specs[t].dims) == 0, "%s",
               tensors[t].name);
        EXPECT((int64_t)tensors[t].bytes == nib_tensor_spec_bytes(&specs[t]), "%s",
               tensors[t].name);
        for (uint64_t i = 0; i < tensors[t].bytes; i++) {
            REQUIRE(tensors[t].data[i] == (uint8_t)(31 * t + i), "byte %llu of %s",
                    (unsigned long long)i, tensors[t].name);
        }
    }
}

static nib_gguf_string text(const char *s) { return (nib_gguf_string){ s, strlen(s) }; }

/* One pair of every kind there is a setter for. */
static nib_gguf_meta *sample_meta(void)
{
    nib_gguf_meta *meta = nib_gguf_meta_new();
    const nib_gguf_string words[] = { text("a"), text(""), { "x\0y\xff", 4 } };
    const int32_t ints[] = { INT32_MIN, 0, INT32_MAX };
    const float floats[] = { 1.5f, -0.0f };
    EXPECT(nib_gguf_set_str(meta, "general.architecture", "llama", 5) == NIB_OK, "str");
    EXPECT(nib_gguf_set_u32(meta, "u32", UINT32_MAX) == NIB_OK, "u32");
    EXPECT(nib_gguf_set_f32(meta, "f32", 0.1f) == NIB_OK, "f32");
    EXPECT(nib_gguf_set_bool(meta, "yes", 17) == NIB_OK, "bool");
    EXPECT(nib_gguf_set_bool(meta, "no", 0) == NIB_OK, "bool");
    EXPECT(nib_gguf_set_str(meta, "empty", NULL, 0) == NIB_OK, "str");
    EXPECT(nib_gguf_set_str_array(meta, "words", words, 3) == NIB_OK, "strings");
    EXPECT(nib_gguf_set_i32_array(meta, "ints", ints, 3) == NIB_OK, "ints");
    EXPECT(nib_gguf_set_f32_array(meta, "floats", floats, 2) == NIB_OK, "floats");
    EXPECT(nib_gguf_set_i32_array(meta, "none", NULL, 0) == NIB_OK, "no ints");
    EXPECT(nib_gguf_set_str_array(meta, "nothing", NULL, 0) == NIB_OK, "no strings");
    return meta;
}

static void check_sample_pairs(const nib_gguf *gguf)
{
    const nib_gguf_value *words = nib_gguf_find(gguf, "words");
    const nib_gguf_value *ints = nib_gguf_find(gguf, "ints");
    const nib_gguf_value *floats = nib_gguf_find(gguf, "floats");
    size_t pairs;
    EXPECT(nib_gguf_pairs(gguf, &pairs)[1].key.bytes == 3 && pairs == 11, "%zu in order", pairs);
    EXPECT(nib_gguf_str(gguf, "general.architecture").bytes == 5, "llama");
    EXPECT(nib_gguf_str(gguf, "empty").bytes == 0 && nib_gguf_str(gguf, "empty").data, "empty");
    EXPECT(nib_gguf_i64(gguf, "u32", 0) == UINT32_MAX, "u32");
    EXPECT(nib_gguf_f64(gguf, "f32", 0) == (double)0.1f, "f32");
    EXPECT(nib_gguf_i64(gguf, "yes", 7) == 1 && nib_gguf_i64(gguf, "no", 7) == 0, "bools");
    REQUIRE(words && ints && floats, "arrays");
    EXPECT(words->count == 3 && nib_gguf_item_str(words, 2).bytes == 4, "any bytes");
    EXPECT(memcmp(nib_gguf_item_str(words, 2).data, "x\0y\xff", 4) == 0, "any bytes");
    EXPECT(nib_gguf_item_i64(ints, 0) == INT32_MIN && ints->count == 3, "ints");
    EXPECT(nib_gguf_item_f64(floats, 0) == 1.5 && floats->item == NIB_GGUF_F32, "floats");
    EXPECT(nib_gguf_find(gguf, "none")->count == 0, "none");
    EXPECT(nib_gguf_find(gguf, "nothing")->item == NIB_GGUF_STRING, "nothing");
}

static const nib_tensor_spec samples[] = {
    { "a.weight", NIB_TT_NVFP4, 2, { 3, 128 } }, { "a.weight.scale", NIB_TT_F32, 1, { 1 } },
    { "b.weight", NIB_TT_MXFP4, 2, { 5, 32 } },  { "norm.weight", NIB_TT_BF16, 1, { 7 } },
    { "scalar", NIB_TT_F32, 0, { 0 } },          { "hollow", NIB_TT_F16, 3, { 2, 0, 5 } },
    { "many", NIB_TT_I32, 4, { 2, 1, 3, 2 } },   { "q", NIB_TT_Q4_0, 1, { 64 } },
};
enum { N_SAMPLES = sizeof samples / sizeof *samples };

NIB_TEST(GgufWrite, RoundTrip)
{
    uint8_t *file;
    nib_gguf_meta *meta = sample_meta();
    nib_gguf *gguf = round_trip(meta, samples, N_SAMPLES, &file);
    if (gguf) {
        check_sample_pairs(gguf);
        check_same_tensors(gguf, samples, N_SAMPLES);
    }
    nib_gguf_close(gguf);
    free(file);
    nib_gguf_meta_free(meta);

    gguf = round_trip(NULL, NULL, 0, &file); /* the smallest file */
    EXPECT(gguf, "nothing in it");
    nib_gguf_close(gguf);
    free(file);
    nib_gguf_meta_free(NULL);
}

NIB_TEST(GgufWrite, CopiedPairsAreTheSameBytes)
{
    nib_gguf *source, *again;
    uint8_t *file;
    size_t n;
    REQUIRE(nib_gguf_open("tests/golden/tiny.gguf", &source) == NIB_OK, "%s", nib_last_error());
    nib_gguf_meta *meta = nib_gguf_meta_new();
    const nib_gguf_pair *pairs = nib_gguf_pairs(source, &n);
    const uint8_t *first = (const uint8_t *)pairs[0].key.data; /* after 24 + 8 bytes of header */
    for (size_t i = 0; i < n; i++) {
        EXPECT(nib_gguf_set_pair(meta, &pairs[i]) == NIB_OK, "%s", nib_last_error());
    }
    /* The same tensors too: then the whole header is what the gguf package wrote. */
    nib_tensor_spec specs[8];
    size_t count;
    const nib_tensor *tensors = nib_gguf_tensors(source, &count);
    REQUIRE(count == 8, "%zu", count);
    for (size_t i = 0; i < count; i++) {
        specs[i] = (nib_tensor_spec){ tensors[i].name, tensors[i].type, tensors[i].n_dims, { 0 } };
        memcpy(specs[i].dims, tensors[i].dims, sizeof specs[i].dims);
    }
    nib_file_layout layout;
    EXPECT(nib_gguf_layout(meta, specs, count, &layout) == NIB_OK, "%s", nib_last_error());
    EXPECT(layout.header_bytes == tensors[0].offset
           && memcmp(layout.header, first - 32, layout.header_bytes) == 0, "%llu bytes",
           (unsigned long long)layout.header_bytes);
    for (size_t i = 0; i < count; i++) EXPECT(layout.offsets[i] == tensors[i].offset, "%zu", i);
    nib_file_layout_free(&layout);
    again = round_trip(meta, specs, count, &file);
    nib_gguf_close(again);
    free(file);
    nib_gguf_meta_free(meta);
    nib_gguf_close(source);
}

NIB_TEST(GgufWrite, AKeySetAgainKeepsItsPlace)
{
    uint8_t *file;
    size_t n;
    nib_gguf_meta *meta = nib_gguf_meta_new();
    char key[16];
    for (uint32_t i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "key.%u", i);
        EXPECT(nib_gguf_set_u32(meta, key, i) == NIB_OK, "%s", nib_last_error());
    }
    EXPECT(nib_gguf_set_str(meta, "key.3", "three", 5) == NIB_OK, "%s", nib_last_error());
    nib_gguf *gguf = round_trip(meta, NULL, 0, &file);
    REQUIRE(gguf, "round trip");
    const nib_gguf_pair *pairs = nib_gguf_pairs(gguf, &n);
    EXPECT(n == 100 && pairs[3].value.type == NIB_GGUF_STRING && pairs[3].key.data[4] == '3',
           "%zu pairs", n);
    EXPECT(nib_gguf_i64(gguf, "key.99", 0) == 99 && nib_gguf_i64(gguf, "key.4", 0) == 4, "others");
    nib_gguf_close(gguf);
    free(file);
    nib_gguf_meta_free(meta);
}

NIB_TEST(GgufWrite, AlignmentOfTheMetadataHolds)
{
    nib_file_layout layout;
    nib_gguf_meta *meta = nib_gguf_meta_new();
    EXPECT(nib_gguf_set_u32(meta, "general.alignment", 24) == NIB_ERR_ARGUMENT, "24");
    EXPECT(nib_gguf_set_u32(meta, "general.alignment", 0) == NIB_ERR_ARGUMENT, "0");
    EXPECT(nib_gguf_set_f32(meta, "general.alignment", 64) == NIB_ERR_ARGUMENT, "f32");
    EXPECT(nib_gguf_set_u32(meta, "general.alignment", 512) == NIB_OK, "%s", nib_last_error());
    REQUIRE(nib_gguf_layout(meta, samples, N_SAMPLES, &layout) == NIB_OK, "%s", nib_last_error());
    for (int i = 0; i < N_SAMPLES; i++) EXPECT((layout.offsets[i] & 511) == 0, "%d", i);
    EXPECT((layout.file_bytes & 511) == 0, "padded at its end");
    nib_file_layout_free(&layout);
    uint8_t *file;
    nib_gguf *gguf = round_trip(meta, samples, N_SAMPLES, &file);
    if (gguf) check_same_tensors(gguf, samples, N_SAMPLES);
    nib_gguf_close(gguf);
    free(file);
    nib_gguf_meta_free(meta);
}

NIB_TEST(GgufWrite, Refusals)
{
    nib_file_layout layout;
    char name[65];
    memset(name, 'n', 64);
    name[64] = 0;
    const struct { nib_tensor_spec spec; nib_status status; const char *words; } bad[] = {
        { { "", NIB_TT_F32, 1, { 1 } }, NIB_ERR_ARGUMENT, "is empty" },
        { { NULL, NIB_TT_F32, 1, { 1 } }, NIB_ERR_ARGUMENT, "is empty" },
        { { name, NIB_TT_F32, 1, { 1 } }, NIB_ERR_ARGUMENT, "64 bytes is too long" },
        { { "\xff", NIB_TT_F32, 1, { 1 } }, NIB_ERR_ARGUMENT, "is not UTF-8" },
        { { "w", NIB_TT_COUNT, 1, { 1 } }, NIB_ERR_ARGUMENT, "unknown type" },
        { { "w", NIB_TT_F8_E4M3, 1, { 1 } }, NIB_ERR_UNSUPPORTED, "no type F8_E4M3" },
        { { "w", NIB_TT_F32, 5, { 1, 1, 1, 1, 1 } }, NIB_ERR_SHAPE, "5 dims" },
        { { "w", NIB_TT_F32, -1, { 1 } }, NIB_ERR_SHAPE, "-1 dims" },
        { { "w", NIB_TT_F32, 2, { 4, -1 } }, NIB_ERR_SHAPE, "dim 1 is -1" },
        { { "w", NIB_TT_F32, 2, { INT64_MAX, 2 } }, NIB_ERR_SHAPE, "dim 1 is 2" },
        { { "w", NIB_TT_F32, 3, { 0, INT64_MAX, 2 } }, NIB_ERR_SHAPE, "dim 2 is 2" },
        { { "w", NIB_TT_NVFP4, 2, { 4, 96 } }, NIB_ERR_SHAPE, "96 is no multiple of NVFP4's" },
        { { "w", NIB_TT_F32, 1, { INT64_MAX / 2 } }, NIB_ERR_SHAPE, "overflows" },
        { { "w", NIB_TT_I8, 1, { INT64_MAX } }, NIB_ERR_SHAPE, "overflow the file's size" },
        { { "a.weight", NIB_TT_F32, 1, { 1 } }, NIB_ERR_ARGUMENT, "\"a.weight\" is there twice" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const nib_tensor_spec specs[] = { samples[0], bad[i].spec };
        EXPECT(nib_gguf_layout(NULL, specs, 2, &layout) == bad[i].status, "%s", bad[i].words);
        EXPECT(strstr(nib_last_error(), bad[i].words), "%s", nib_last_error());
        EXPECT(!layout.header && !layout.offsets, "%s", bad[i].words);
    }

    nib_gguf_meta *meta = nib_gguf_meta_new();
    char *key = calloc(1, 65537);
    memset(key, 'k', 65535);
    EXPECT(nib_gguf_set_u32(meta, key, 1) == NIB_OK, "65535 bytes");
    key[65535] = 'k';
    EXPECT(nib_gguf_set_u32(meta, key, 1) == NIB_ERR_ARGUMENT, "65536 bytes");
    EXPECT(strstr(nib_last_error(), "of 65536 bytes is too long"), "%s", nib_last_error());
    EXPECT(nib_gguf_set_u32(meta, "", 1) == NIB_ERR_ARGUMENT, "no bytes");
    EXPECT(nib_gguf_set_bool(meta, "\xc3", 1) == NIB_ERR_ARGUMENT, "not UTF-8");
    const nib_gguf_pair odd[] = {
        { { "k\0k", 3 }, { .type = NIB_GGUF_U8, .count = 1 } },
        { { "kind", 4 }, { .type = NIB_GGUF_TYPES } },
        { { "deep", 4 }, { .type = NIB_GGUF_ARRAY, .item = NIB_GGUF_ARRAY } },
        { { "item", 4 }, { .type = NIB_GGUF_ARRAY, .item = NIB_GGUF_TYPES } },
    };
    for (int i = 0; i < 4; i++) {
        EXPECT(nib_gguf_set_pair(meta, &odd[i]) == NIB_ERR_ARGUMENT, "pair %d", i);
    }
    free(key);
    nib_gguf_meta_free(meta);
}
