/* gguf_test.c: the GGUF reader on good files, one of them of the gguf package, and on bad ones.
 * Looks below include/: host/io is not public. */
#include <stdlib.h>

#include "host/io/gguf.h"
#include "tests/gguf_bytes.h"
#include "tests/shim.h"

/* ---- files of the gguf package: scripts/oracles/gen_gguf.py ---- */

static void check_scalars(const nib_gguf *gguf)
{
    EXPECT(nib_gguf_i64(gguf, "scalar.u8", 7) == 200, "u8");
    EXPECT(nib_gguf_i64(gguf, "scalar.i8", 7) == -100, "i8");
    EXPECT(nib_gguf_i64(gguf, "scalar.u16", 7) == 60000, "u16");
    EXPECT(nib_gguf_i64(gguf, "scalar.i16", 7) == -30000, "i16");
    EXPECT(nib_gguf_i64(gguf, "scalar.u32", 7) == 4000000000, "u32");
    EXPECT(nib_gguf_i64(gguf, "scalar.i32", 7) == -2000000000, "i32");
    EXPECT(nib_gguf_i64(gguf, "scalar.i64", 7) == INT64_MIN, "i64");
    EXPECT(nib_gguf_i64(gguf, "scalar.bool", 7) == 1, "bool");
    EXPECT(nib_gguf_i64(gguf, "scalar.u64", 7) == 7, "2^64 - 1 is no int64_t");
    EXPECT(nib_gguf_find(gguf, "scalar.u64")->as.u == UINT64_MAX, "u64");
    EXPECT(nib_gguf_f64(gguf, "scalar.u64", 7) == 0x1p64, "u64 as a double");
    EXPECT(nib_gguf_f64(gguf, "scalar.f32", 7) == 0.5, "f32");
    EXPECT(nib_gguf_f64(gguf, "scalar.f64", 7) == 1e300, "f64");
    EXPECT(nib_gguf_f64(gguf, "scalar.i16", 7) == -30000, "i16 as a double");

    EXPECT(nib_gguf_i64(gguf, "scalar.f32", 7) == 7, "a float is no integer");
    EXPECT(nib_gguf_i64(gguf, "scalar.string", 7) == 7, "nor is a string");
    EXPECT(nib_gguf_f64(gguf, "array.f32", 7) == 7, "nor is an array a float");
    EXPECT(nib_gguf_i64(gguf, "scalar.", 7) == 7, "no such key");
    EXPECT(nib_gguf_f64(gguf, "", 7) == 7, "no such key");
    EXPECT(nib_gguf_find(gguf, "zzz") == NULL, "no such key");

    const nib_gguf_string s = nib_gguf_str(gguf, "scalar.string");
    EXPECT(s.bytes == 6 && memcmp(s.data, "h\xc3\xa9llo", 6) == 0, "%llu bytes",
           (unsigned long long)s.bytes);
    EXPECT(nib_gguf_str(gguf, "scalar.u8").data == NULL, "a number is no string");
}

static void check_arrays(const nib_gguf *gguf)
{
    const nib_gguf_value *i32 = nib_gguf_find(gguf, "array.i32");
    const nib_gguf_value *f32 = nib_gguf_find(gguf, "array.f32");
    const nib_gguf_value *bools = nib_gguf_find(gguf, "array.bool");
    const nib_gguf_value *strings = nib_gguf_find(gguf, "array.string");
    REQUIRE(i32 && f32 && bools && strings, "four arrays");
    EXPECT(i32->type == NIB_GGUF_ARRAY && i32->item == NIB_GGUF_I32 && i32->count == 3, "i32");
    EXPECT(nib_gguf_item_i64(i32, 0) == 1 && nib_gguf_item_i64(i32, 1) == -2, "i32");
    EXPECT(nib_gguf_item_f64(i32, 2) == 3, "i32 as a double");
    EXPECT(nib_gguf_item_f64(f32, 1) == -4.0 && nib_gguf_item_i64(f32, 1) == 0, "f32");
    EXPECT(nib_gguf_item_i64(bools, 0) == 1 && nib_gguf_item_i64(bools, 1) == 0, "bool");
    EXPECT(strings->item == NIB_GGUF_STRING && strings->count == 3, "strings");
    EXPECT(nib_gguf_item_str(strings, 0).bytes == 0, "an empty string");
    const nib_gguf_string world = nib_gguf_item_str(strings, 2);
    EXPECT(world.bytes == 6 && memcmp(world.data, "\xe4\xb8\x96\xe7\x95\x8c", 6) == 0, "UTF-8");

    EXPECT(nib_gguf_item_str(strings, 3).data == NULL, "past the end");
    EXPECT(nib_gguf_item_i64(i32, 3) == 0 && nib_gguf_item_f64(f32, UINT64_MAX) == 0.0, "also");
    EXPECT(nib_gguf_item_str(i32, 0).data == NULL && nib_gguf_item_i64(strings, 0) == 0, "kinds");
    EXPECT(nib_gguf_item_i64(nib_gguf_find(gguf, "scalar.u8"), 0) == 0, "no array");
}

static void check_tensors(const nib_gguf *gguf, uint64_t alignment)
{
    static const struct { const char *name; int type; int32_t n; int64_t dims[4]; } want[] = {
        { "plain.f32", NIB_TT_F32, 2, { 2, 3 } },      { "plain.f16", NIB_TT_F16, 1, { 5 } },
        { "four.dims", NIB_TT_I32, 4, { 1, 2, 3, 4 } }, { "raw.Q4_1", NIB_TT_Q4_1, 2, { 3, 64 } },
        { "raw.Q8_0", NIB_TT_Q8_0, 2, { 3, 64 } },     { "raw.Q6_K", NIB_TT_Q6_K, 2, { 3, 512 } },
        { "raw.MXFP4", NIB_TT_MXFP4, 2, { 3, 64 } },   { "raw.NVFP4", NIB_TT_NVFP4, 2, { 3, 128 } },
    };
    size_t count;
    const nib_tensor *tensors = nib_gguf_tensors(gguf, &count);
    REQUIRE(count == sizeof want / sizeof *want, "%zu tensors", count);
    for (size_t i = 0; i < count; i++) {
        const nib_tensor *t = &tensors[i];
        EXPECT(strcmp(t->name, want[i].name) == 0 && (int)t->type == want[i].type, "%s", t->name);
        EXPECT(t->n_dims == want[i].n, "%s has %d dims", t->name, t->n_dims);
        EXPECT(memcmp(t->dims, want[i].dims, sizeof want[i].dims) == 0, "dims of %s", t->name);
        EXPECT((t->offset & (alignment - 1)) == 0 && t->file == 0, "%s", t->name);
        EXPECT(nib_gguf_find_tensor(gguf, t->name) == t, "finding %s", t->name);
        for (uint64_t b = 0; i >= 3 && b < t->bytes; b++) {
            REQUIRE(t->data[b] == (uint8_t)(7 * b + 3), "byte %llu of %s", (unsigned long long)b,
                    t->name);
        }
    }
    float last;
    memcpy(&last, tensors[0].data + 20, sizeof last);
    EXPECT(tensors[0].bytes == 24 && last == 5.0f, "plain.f32 ends with %g", (double)last);
    EXPECT(tensors[7].bytes == 3 * 2 * 36 && tensors[6].bytes == 3 * 2 * 17, "sizes");
    EXPECT(nib_gguf_find_tensor(gguf, "raw.") == NULL, "no such tensor");
    EXPECT(nib_gguf_find_tensor(gguf, "zzz") == NULL, "no such tensor");
}

NIB_TEST(Gguf, ReadsFilesOfTheGgufPackage)
{
    static const char *paths[] = { "tests/golden/tiny.gguf", "tests/golden/odd_alignment.gguf" };
    for (int i = 0; i < 2; i++) {
        nib_gguf *gguf;
        size_t pairs;
        REQUIRE(nib_gguf_open(paths[i], &gguf) == NIB_OK, "%s", nib_last_error());
        nib_gguf_pairs(gguf, &pairs);
        EXPECT(pairs == 17u + (size_t)i, "%zu pairs", pairs);
        check_scalars(gguf);
        check_arrays(gguf);
        check_tensors(gguf, i ? 256 : 32);
        nib_gguf_close(gguf);
    }
    nib_gguf_close(NULL);
}

NIB_TEST(Gguf, FilesThatCannotBeOpened)
{
    nib_gguf *gguf = (nib_gguf *)1;
    EXPECT(nib_gguf_open("/nonexistent/x.gguf", &gguf) == NIB_ERR_IO && !gguf, "absent");
    EXPECT(strstr(nib_last_error(), "/nonexistent/x.gguf"), "%s", nib_last_error());
    EXPECT(nib_gguf_open("tests/golden/tiny.safetensors", &gguf) == NIB_ERR_FORMAT && !gguf,
           "another format");
    EXPECT(strstr(nib_last_error(), "not \"GGUF\""), "%s", nib_last_error());
}

/* ---- bad bytes ---- */

/* The bytes lie at the end of an exact allocation, so that a sanitizer sees any step past it. */
static nib_status parse(const void *data, uint64_t bytes, nib_gguf **out)
{
    static uint8_t *copy;
    free(copy);
    copy = malloc(bytes + !bytes);
    memcpy(copy, data, bytes);
    return nib_gguf_parse("bad.gguf", copy, bytes, out);
}

/* Refused with this status and with these words. */
static void refuse(const gguf_bytes *b, nib_status status, const char *words)
{
    nib_gguf *gguf = (nib_gguf *)1;
    const nib_status got = parse(b->data, b->bytes, &gguf);
    EXPECT(got == status && !gguf, "wanted \"%s\", got %d: %s", words, (int)got,
           nib_last_error());
    EXPECT(strstr(nib_last_error(), words) && strstr(nib_last_error(), "bad.gguf"),
           "wanted \"%s\", got: %s", words, nib_last_error());
    if (got == NIB_OK) nib_gguf_close(gguf);
}

static void accept(const gguf_bytes *b, const char *why)
{
    nib_gguf *gguf;
    const nib_status got = parse(b->data, b->bytes, &gguf);
    EXPECT(got == NIB_OK, "%s: %s", why, nib_last_error());
    if (got == NIB_OK) nib_gguf_close(gguf);
}

NIB_TEST(Gguf, EveryPrefixIsRefused)
{
    gguf_bytes b;
    put_head(&b, 2, 2);
    put_text(&b, "words");
    put_u32(&b, NIB_GGUF_ARRAY);
    put_u32(&b, NIB_GGUF_STRING);
    put_u64(&b, 2);
    put_text(&b, "ab");
    put_text(&b, "");
    put_u32_pair(&b, "n", 1);
    put_info(&b, "a", 0, 4, 2, 0);
    put_info(&b, "b", 3, 32, 1, 32);
    put_data(&b, 32 + 20);
    accept(&b, "the whole");
    for (uint64_t n = 0; n < b.bytes; n++) {
        nib_gguf *gguf;
        REQUIRE(parse(b.data, n, &gguf) == NIB_ERR_FORMAT && !gguf, "%llu of %llu bytes",
                (unsigned long long)n, (unsigned long long)b.bytes);
    }
    put_data(&b, 100);
    accept(&b, "more after the last tensor");
}

NIB_TEST(Gguf, BadHeaders)
{
    gguf_bytes b;
    put_head(&b, 0, 0);
    accept(&b, "nothing in it");
    b.data[4] = 2;
    accept(&b, "version 2");
    b.data[4] = 1;
    refuse(&b, NIB_ERR_UNSUPPORTED, "version 1;");
    b.data[4] = 4;
    refuse(&b, NIB_ERR_UNSUPPORTED, "version 4;");
    memcpy(b.data + 4, "\0\0\0\3", 4);
    refuse(&b, NIB_ERR_UNSUPPORTED, "big-endian");
    b.data[0] = 'g';
    refuse(&b, NIB_ERR_FORMAT, "not \"GGUF\"");

    static const uint64_t huge[] = { 1, 1000, 1ull << 60, UINT64_MAX };
    for (int i = 0; i < 4; i++) { /* refused before anything is allocated */
        put_head(&b, 0, huge[i]);
        refuse(&b, NIB_ERR_FORMAT, "key-value pairs cannot lie in the 0 bytes");
        put_head(&b, huge[i], 0);
        refuse(&b, NIB_ERR_FORMAT, "tensor infos cannot lie in the 0 bytes");
    }
}

static void put_array_head(gguf_bytes *b, uint32_t item, uint64_t count)
{
    put_head(b, 0, 1);
    put_text(b, "list");
    put_u32(b, NIB_GGUF_ARRAY);
    put_u32(b, item);
    put_u64(b, count);
}

NIB_TEST(Gguf, BadPairs)
{
    gguf_bytes b;
    static const struct { const char *key; uint64_t bytes; const char *words; } keys[] = {
        { "", 0, "is empty" },         { "a\0b", 3, "holds a NUL" }, { "\xff", 1, "is not UTF-8" },
        { "\xc0\x80", 2, "not UTF-8" }, { "\xed\xa0\x80", 3, "not UTF-8" },
        { "\xf4\x90\x80\x80", 4, "not UTF-8" }, { "x\xe2\x82", 3, "not UTF-8" },
        { "\xe0\x9f\x80", 3, "not UTF-8" }, { "\xf0\x8f\x80\x80", 4, "not UTF-8" },
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        put_head(&b, 0, 1);
        put_u64(&b, keys[i].bytes);
        put_bytes(&b, keys[i].key, keys[i].bytes);
        put_u32(&b, NIB_GGUF_U32);
        put_u32(&b, 0);
        refuse(&b, NIB_ERR_FORMAT, keys[i].words);
    }
    put_head(&b, 0, 1);
    put_u32_pair(&b, "\xc3\xa9\xe4\xb8\x96\xf0\x9f\x98\x80", 1);
    accept(&b, "UTF-8 of 2, 3 and 4 bytes");

    put_head(&b, 0, 1);
    put_u64(&b, UINT64_MAX); /* the key's length */
    put_u64(&b, 0);
    refuse(&b, NIB_ERR_FORMAT, "18446744073709551615 bytes wanted at offset 32");
    put_head(&b, 0, 1);
    put_text(&b, "kind");
    put_u32(&b, 13);
    refuse(&b, NIB_ERR_FORMAT, "key \"kind\": unknown value type 13");
    put_head(&b, 0, 1);
    put_text(&b, "flag");
    put_u32(&b, NIB_GGUF_BOOL);
    put_u8(&b, 2);
    refuse(&b, NIB_ERR_FORMAT, "key \"flag\": bool 0 has the value 2");
    put_head(&b, 0, 3);
    put_u32_pair(&b, "twice", 1);
    put_u32_pair(&b, "once", 1);
    put_u32_pair(&b, "twice", 1);
    refuse(&b, NIB_ERR_FORMAT, "key \"twice\": it is there twice");

    put_array_head(&b, NIB_GGUF_ARRAY, 0);
    refuse(&b, NIB_ERR_FORMAT, "key \"list\": an array of arrays");
    put_array_head(&b, 99, 0);
    refuse(&b, NIB_ERR_FORMAT, "array items of unknown type 99");
    put_array_head(&b, NIB_GGUF_STRING, 1ull << 60);
    refuse(&b, NIB_ERR_FORMAT, "1152921504606846976 strings cannot lie in the 0 bytes");
    put_array_head(&b, NIB_GGUF_U64, UINT64_MAX / 8 + 2); /* whose size wraps to 8 bytes */
    put_u64(&b, 0);
    refuse(&b, NIB_ERR_FORMAT, "array items cannot lie in the 8 bytes");
    put_array_head(&b, NIB_GGUF_BOOL, 2);
    put_u8(&b, 1);
    put_u8(&b, 255);
    refuse(&b, NIB_ERR_FORMAT, "bool 1 has the value 255");
    put_array_head(&b, NIB_GGUF_STRING, 2);
    put_text(&b, "fine");
    put_u64(&b, 1ull << 63);
    refuse(&b, NIB_ERR_FORMAT, "9223372036854775808 bytes wanted");
    put_array_head(&b, NIB_GGUF_STRING, 0);
    accept(&b, "an empty array");
}

static void put_one(gguf_bytes *b, const char *name, uint32_t type, uint64_t dim0, uint64_t dim1,
                    uint64_t offset, uint64_t data_bytes)
{
    put_head(b, 1, 0);
    put_info(b, name, type, dim0, dim1, offset);
    put_data(b, data_bytes);
}

NIB_TEST(Gguf, BadTensors)
{
    gguf_bytes b;
    char name[66];
    memset(name, 'n', 65);
    name[65] = 0;
    put_one(&b, name, 0, 1, 1, 0, 4);
    refuse(&b, NIB_ERR_FORMAT, "tensor info 0: the name of 65 bytes is too long");
    put_one(&b, name + 1, 0, 1, 1, 0, 4);
    accept(&b, "64 bytes");
    put_one(&b, "", 0, 1, 1, 0, 4);
    refuse(&b, NIB_ERR_FORMAT, "is empty");
    put_one(&b, "a?b", 0, 1, 1, 0, 4);
    b.data[24 + 8 + 1] = 0;
    refuse(&b, NIB_ERR_FORMAT, "holds a NUL");

    put_one(&b, "w", 4, 32, 1, 0, 64);
    refuse(&b, NIB_ERR_UNSUPPORTED, "tensor \"w\": ggml type 4 ");
    put_one(&b, "w", UINT32_MAX, 32, 1, 0, 64);
    refuse(&b, NIB_ERR_UNSUPPORTED, "ggml type 4294967295 ");
    put_one(&b, "w", 2, 33, 2, 0, 64);
    refuse(&b, NIB_ERR_FORMAT, "innermost dim 33 is no multiple of Q4_0's block of 32");
    put_one(&b, "w", 0, 1ull << 63, 1, 0, 64);
    refuse(&b, NIB_ERR_FORMAT, "dim 0 is 9223372036854775808: the number of elements");
    put_one(&b, "w", 0, 1ull << 32, 1ull << 31, 0, 64);
    refuse(&b, NIB_ERR_FORMAT, "dim 1 is 2147483648: the number of elements");
    put_one(&b, "w", 0, 1ull << 31, 1ull << 31, 0, 64);
    refuse(&b, NIB_ERR_FORMAT, "its size in bytes overflows");
    put_one(&b, "w", 0, 0, UINT64_MAX, 0, 0);
    refuse(&b, NIB_ERR_FORMAT, "dim 1 is 18446744073709551615");
    put_one(&b, "w", 0, 0, 5, 0, 0);
    accept(&b, "an empty tensor");
    put_one(&b, "w", 0, 4, 4, 0, 63);
    refuse(&b, NIB_ERR_FORMAT, "64 bytes at offset 0 of the data, which has only 63");
    put_one(&b, "w", 0, 4, 4, 32, 95);
    refuse(&b, NIB_ERR_FORMAT, "64 bytes at offset 32 of the data, which has only 95");
    put_one(&b, "w", 0, 4, 4, UINT64_MAX - 31, 64);
    refuse(&b, NIB_ERR_FORMAT, "offset 18446744073709551584 of the data");
    put_one(&b, "w", 0, 0, 4, 64, 32);
    refuse(&b, NIB_ERR_FORMAT, "0 bytes at offset 64");
    put_one(&b, "w", 0, 4, 4, 16, 128);
    refuse(&b, NIB_ERR_FORMAT, "offset 16 is no multiple of the alignment 32");

    put_head(&b, 1, 0);
    put_text(&b, "five");
    put_u32(&b, 5);
    refuse(&b, NIB_ERR_FORMAT, "tensor infos cannot lie"); /* not even 25 bytes */
    put_data(&b, 64);
    refuse(&b, NIB_ERR_FORMAT, "tensor \"five\": 5 dims, more than 4");
    put_head(&b, 1, 0);
    put_text(&b, "scalar");
    put_u32(&b, 0);
    put_u32(&b, 0);
    put_u64(&b, 0);
    put_data(&b, 4);
    accept(&b, "a scalar");
}

static void put_two(gguf_bytes *b, const char *second, uint64_t first_at, uint64_t second_at)
{
    put_head(b, 2, 0);
    put_info(b, "w", 0, 4, 3, first_at); /* 48 bytes */
    put_info(b, second, 0, 4, 2, second_at);
    put_data(b, 128);
}

NIB_TEST(Gguf, TwoTensors)
{
    gguf_bytes b;
    put_two(&b, "w", 0, 64);
    refuse(&b, NIB_ERR_FORMAT, "tensor \"w\" is there twice");
    put_two(&b, "v", 0, 32);
    refuse(&b, NIB_ERR_FORMAT, "tensor \"v\" at ");
    EXPECT(strstr(nib_last_error(), "overlaps tensor \"w\" of 48 bytes"), "%s", nib_last_error());
    put_two(&b, "v", 64, 64);
    refuse(&b, NIB_ERR_FORMAT, "overlaps tensor");
    put_two(&b, "v", 0, 64);
    accept(&b, "one after the other");
    put_two(&b, "v", 32, 0);
    accept(&b, "in another order");
    put_two(&b, "v", 0, 96);
    accept(&b, "with a gap");
}

NIB_TEST(Gguf, Alignment)
{
    gguf_bytes b;
    static const uint32_t bad[] = { 0, 1, 3, 4, 24, 33, (1u << 20) + 1, 1u << 21, UINT32_MAX };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_head(&b, 0, 1);
        put_u32_pair(&b, "general.alignment", bad[i]);
        refuse(&b, NIB_ERR_FORMAT, "key \"general.alignment\": ");
    }
    put_head(&b, 0, 1);
    put_text(&b, "general.alignment");
    put_u32(&b, NIB_GGUF_U64);
    put_u64(&b, 1ull << 40);
    refuse(&b, NIB_ERR_FORMAT, "value type 10, not u32");

    put_head(&b, 1, 1);
    put_u32_pair(&b, "general.alignment", 8);
    put_info(&b, "w", 0, 1, 1, 8);
    put_data(&b, 32);
    accept(&b, "8");
    put_head(&b, 1, 1); /* data before the first multiple of 2^20 is not data */
    put_u32_pair(&b, "general.alignment", 1u << 20);
    put_info(&b, "w", 0, 1, 1, 0);
    put_data(&b, 32);
    refuse(&b, NIB_ERR_FORMAT, "the data, which has only 0");
}
