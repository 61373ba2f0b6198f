/* safetensors_test.c: what is read, and every rule whose breach must be named. Looks below
 * include/. */
#include <stdint.h>
#include <time.h>

#include "host/io/safetensors.h"
#include "shim.h"
#include "temp_dir.h"

#define GOLDEN "tests/golden/tiny.safetensors" /* scripts/oracles/gen_safetensors.py */

/* n | header | data bytes of 'x' in a buffer of exactly this size, so that ASan sees a step over
 * its end. */
static uint8_t *make_file(const char *header, size_t header_bytes, size_t data, size_t *bytes)
{
    *bytes = 8 + header_bytes + data;
    uint8_t *file = malloc(*bytes);
    if (!file) return NULL;
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
    memcpy(file + 8, header, header_bytes);
    memset(file + 8 + header_bytes, 'x', data);
    return file;
}

static void expect_refused(const char *header, size_t header_bytes, size_t data,
                           const char *words)
{
    size_t bytes;
    uint8_t *file = make_file(header, header_bytes, data, &bytes);
    nib_safetensors *st = NULL;
    REQUIRE(file, " ");
    const nib_status status = nib_safetensors_parse("f.st", file, bytes, &st);
    EXPECT(status == NIB_ERR_FORMAT && !st, "%s: status %d", header, (int)status);
    EXPECT(strstr(nib_last_error(), "f.st") && strstr(nib_last_error(), words),
           "%s\n    gave: %s\n    not:  %s", header, nib_last_error(), words);
    nib_safetensors_close(st);
    free(file);
}

/* One tensor 'a' of these members over data bytes. */
static void expect_tensor_refused(const char *members, size_t data, const char *words)
{
    char header[512];
    const int n = snprintf(header, sizeof header, "{\"a\":%s}", members);
    expect_refused(header, (size_t)n, data, words);
}

/* ---- the golden file ---- */

static void expect_golden(const nib_safetensors *st, const char *name, nib_tensor_type type,
                          int32_t n_dims, int64_t d0, int64_t d1)
{
    const nib_tensor *tensor = nib_safetensors_find(st, name);
    REQUIRE(tensor, "%s is not found", name);
    EXPECT(tensor->type == type && tensor->n_dims == n_dims, "%s", name);
    EXPECT(n_dims < 1 || tensor->dims[0] == d0, "%s", name);
    EXPECT(n_dims < 2 || tensor->dims[1] == d1, "%s", name);
    EXPECT((tensor->bytes == 0) == (tensor->data == NULL), "%s", name);
    for (uint64_t i = 0; i < tensor->bytes; i++) {
        const uint8_t want = type == NIB_TT_BOOL ? (uint8_t)(1 - i % 2)
                                                 : (uint8_t)(i * 7 + strlen(name));
        EXPECT(tensor->data[i] == want, "%s: byte %d", name, (int)i);
    }
}

NIB_TEST(Safetensors, Golden)
{
    nib_safetensors *st;
    size_t count;
    REQUIRE(nib_safetensors_open(GOLDEN, &st) == NIB_OK, "%s", nib_last_error());
    const nib_tensor *tensors = nib_safetensors_tensors(st, &count);
    EXPECT(count == 19, "%zu", count);
    for (size_t i = 1; i < count; i++)
        EXPECT(tensors[i].offset == tensors[i - 1].offset + tensors[i - 1].bytes, "%zu", i);
    expect_golden(st, "f64", NIB_TT_F64, 1, 2, 0);
    expect_golden(st, "f32.matrix", NIB_TT_F32, 2, 3, 5);
    expect_golden(st, "f16", NIB_TT_F16, 1, 7, 0);
    expect_golden(st, "bf16", NIB_TT_BF16, 3, 2, 3);
    expect_golden(st, "e4m3", NIB_TT_F8_E4M3, 2, 4, 2);
    expect_golden(st, "e5m2", NIB_TT_F8_E5M2, 1, 3, 0);
    expect_golden(st, "e8m0", NIB_TT_F8_E8M0, 1, 5, 0);
    expect_golden(st, "i64", NIB_TT_I64, 1, 1, 0);
    expect_golden(st, "i32", NIB_TT_I32, 1, 3, 0);
    expect_golden(st, "i16", NIB_TT_I16, 1, 3, 0);
    expect_golden(st, "i8", NIB_TT_I8, 1, 3, 0);
    expect_golden(st, "u8", NIB_TT_U8, 2, 3, 1);
    expect_golden(st, "u16", NIB_TT_U16, 1, 2, 0);
    expect_golden(st, "u32", NIB_TT_U32, 1, 2, 0);
    expect_golden(st, "u64", NIB_TT_U64, 1, 2, 0);
    expect_golden(st, "bool", NIB_TT_BOOL, 1, 3, 0);
    expect_golden(st, "scalar", NIB_TT_F32, 0, 0, 0);
    expect_golden(st, "empty", NIB_TT_BF16, 2, 0, 16);
    expect_golden(st, "n\xc3\xa4me \"quoted\\", NIB_TT_U8, 1, 2, 0);
    EXPECT(!nib_safetensors_find(st, "absent") && !nib_safetensors_find(st, ""), " ");
    EXPECT(strcmp(nib_safetensors_metadata(st, "maker"), "gen_safetensors.py") == 0, " ");
    EXPECT(!nib_safetensors_metadata(st, "absent"), " ");
    EXPECT(nib_safetensors_files(st) == 1 && strcmp(nib_safetensors_path(st, 0), GOLDEN) == 0, " ");
    nib_safetensors_close(st);
}

NIB_TEST(Safetensors, EveryPrefixIsRefused)
{
    size_t bytes;
    char *whole = temp_read(GOLDEN, &bytes);
    REQUIRE(whole, "%s: run from the repository's root", GOLDEN);
    for (size_t n = 0; n <= bytes; n++) {
        uint8_t *part = malloc(n ? n : 1);
        REQUIRE(part, " ");
        memcpy(part, whole, n);
        nib_safetensors *st;
        const nib_status status = nib_safetensors_parse("cut", part, n, &st);
        EXPECT(status == (n == bytes ? NIB_OK : NIB_ERR_FORMAT), "%zu of %zu bytes: %d", n, bytes,
               (int)status);
        nib_safetensors_close(st);
        free(part);
    }
    free(whole);
}

/* Each byte of the header replaced by each of a few: no crash, and OK only if nothing broke. */
NIB_TEST(Safetensors, AnyChangedByteIsSafe)
{
    size_t bytes;
    char *whole = temp_read(GOLDEN, &bytes);
    REQUIRE(whole, "%s", GOLDEN);
    static const char other[] = { 0, '"', '{', '}', '[', ']', ',', '-', '9', '\x80', '\xff' };
    for (size_t at = 0; at < bytes; at++) {
        const char kept = whole[at];
        for (size_t k = 0; k < sizeof other; k++) {
            nib_safetensors *st;
            whole[at] = other[k];
            const nib_status status =
                nib_safetensors_parse("changed", (const uint8_t *)whole, bytes, &st);
            EXPECT((status == NIB_OK) == (st != NULL), "byte %zu", at);
            nib_safetensors_close(st);
        }
        whole[at] = kept;
    }
    free(whole);
}

/* ---- one breach at a time ---- */

NIB_TEST(Safetensors, HeaderLength)
{
    static const struct { uint64_t n; const char *words; } rows[] = {
        { 0, "0 bytes, outside 2..100000000" },
        { 1, "1 bytes, outside" },
        { 100000001, "100000001 bytes, outside" },
        { UINT64_MAX, "18446744073709551615 bytes, outside" },
        { (uint64_t)1 << 63, "outside" },
        { 3, "3 bytes, but only 2 follow" },
        { 100000000, "only 2 follow" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t file[10] = "........{}";
        for (int k = 0; k < 8; k++) file[k] = (uint8_t)(rows[i].n >> 8 * k);
        nib_safetensors *st;
        EXPECT(nib_safetensors_parse("f.st", file, sizeof file, &st) == NIB_ERR_FORMAT, " ");
        EXPECT(strstr(nib_last_error(), rows[i].words), "%s", nib_last_error());
    }
}

NIB_TEST(Safetensors, HeaderIsNoObject)
{
    static const struct { const char *header; const char *words; } rows[] = {
        { "[]", "begins with byte 0x5b" },
        { " {}", "begins with byte 0x20" },
        { "12", "begins with byte 0x31" },
        { "{}x", "byte 11 of the file" },
        { "{\"a\"", "JSON, line 1" },
        { "{\"a\":nul}", "JSON" },
        { "{}{}", "JSON" },
        { "{\"__metadata__\":[]}", "'__metadata__' is not an object" },
        { "{\"__metadata__\":{\"k\":1}}", "not a string: 'k'" },
        { "{\"__metadata__\":{\"k\":null}}", "not a string" },
        { "{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}", "duplicate object key" },
        { "{\"a\":1}", "tensor 'a' is described by no object" },
        { "{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", "name is empty" },
        { "{\"a\\u001b[2J\":{}}", "tensor 0 has control characters" },
        { "{\"a\\u0000b\":{}}", "JSON" },
        { "{\"\xff\":{}}", "JSON" },
        { "{\"\xc3\x28\":{}}", "JSON" },
        { "{\"\xed\xa0\x80\":{}}", "JSON" }, /* a lone surrogate in UTF-8 */
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", "duplicate object key" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refused(rows[i].header, strlen(rows[i].header), 1, rows[i].words);
    expect_refused("{\0}", 3, 0, "JSON");
    expect_refused("{}\0\0", 4, 0, "JSON"); /* padding is spaces */
}

NIB_TEST(Safetensors, DeepNesting)
{
    enum { DEPTH = 1 << 20 };
    char *header = malloc(DEPTH + 8);
    REQUIRE(header, " ");
    memset(header, '[', DEPTH + 8);
    memcpy(header, "{\"a\":", 5);
    expect_refused(header, DEPTH, 0, "depth");
    for (size_t i = 0; i + 5 <= DEPTH; i += 5) memcpy(header + i, "{\"a\":", 5);
    expect_refused(header, DEPTH / 5 * 5, 0, "depth");
    free(header);
}

NIB_TEST(Safetensors, TensorMembers)
{
#define D "\"dtype\":\"U8\""
#define S "\"shape\":[4]"
#define O "\"data_offsets\":[0,4]"
    static const struct { const char *members; size_t data; const char *words; } rows[] = {
        { "{" S "," O "}", 4, "no string 'dtype'" },
        { "{\"dtype\":7," S "," O "}", 4, "no string 'dtype'" },
        { "{\"dtype\":\"F33\"," S "," O "}", 4, "tensor 'a' has dtype 'F33', which is not known" },
        { "{\"dtype\":\"u8\"," S "," O "}", 4, "'u8'" },
        { "{\"dtype\":\"Q4_0\"," S "," O "}", 4, "'Q4_0'" }, /* ggml's, not safetensors' */
        { "{\"dtype\":\"\"," S "," O "}", 4, "dtype ''" },
        { "{\"dtype\":\"\\u001b[31m\"," S "," O "}", 4, "dtype '?[31m'" },
        { "{" D "," O "}", 4, "no array 'shape'" },
        { "{" D ",\"shape\":4," O "}", 4, "no array 'shape'" },
        { "{" D ",\"shape\":[-4]," O "}", 4, "shape[0] is not a non-negative integer" },
        { "{" D ",\"shape\":[1,4.0]," O "}", 4, "shape[1] is not a non-negative integer" },
        { "{" D ",\"shape\":[4e0]," O "}", 4, "shape[0]" },
        { "{" D ",\"shape\":[\"4\"]," O "}", 4, "shape[0]" },
        { "{" D ",\"shape\":[[4]]," O "}", 4, "shape[0]" },
        { "{" D ",\"shape\":[true]," O "}", 4, "shape[0]" },
        { "{" D ",\"shape\":[9223372036854775808]," O "}", 4, "JSON" },
        { "{" D ",\"shape\":[1,1,1,1,1,1,1,1,4]," O "}", 4, "9 dimensions, over the limit of 8" },
        { "{" D ",\"shape\":[9223372036854775807,2]," O "}", 4, "over 2^63" },
        { "{" D ",\"shape\":[4294967296,4294967296]," O "}", 0, "not a range" },
        { "{" D ",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}", 0, "over 2^63" },
        { "{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}", 0,
          "over 2^63" },
        { "{" D "," S "}", 4, "'data_offsets' is not two" },
        { "{" D "," S ",\"data_offsets\":[0]}", 4, "'data_offsets' is not two" },
        { "{" D "," S ",\"data_offsets\":[0,4,4]}", 4, "'data_offsets' is not two" },
        { "{" D "," S ",\"data_offsets\":[-4,0]}", 4, "'data_offsets' is not two" },
        { "{" D "," S ",\"data_offsets\":[0,4.0]}", 4, "'data_offsets' is not two" },
        { "{" D "," S ",\"data_offsets\":[0,1e3]}", 4, "'data_offsets' is not two" },
        { "{" D "," S ",\"data_offsets\":{\"0\":0}}", 4, "'data_offsets' is not two" },
        { "{" D "," S ",\"data_offsets\":[4,0]}", 4, "[4, 0] are not a range of the file's 4" },
        { "{" D "," S ",\"data_offsets\":[0,5]}", 4, "[0, 5] are not a range" },
        { "{" D "," S ",\"data_offsets\":[9223372036854775803,9223372036854775807]}", 4,
          "not a range" },
        { "{" D "," S ",\"data_offsets\":[0,3]}", 3,
          "takes 4 bytes, its data_offsets [0, 3] hold 3" },
        { "{" D "," S ",\"data_offsets\":[0,5]}", 5, "takes 4 bytes" },
        { "{\"dtype\":\"F32\"," S "," O "}", 4, "takes 16 bytes" },
        { "{" D ",\"shape\":[]," O "}", 4, "takes 1 bytes" },
        { "{" D "," S "," O "}", 5, "the last 1 bytes of the file belong to no tensor" },
        { "{" D "," S ",\"data_offsets\":[1,5]}", 5, "1 data bytes from offset 0 to tensor 'a'" },
    };
#undef D
#undef S
#undef O
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_tensor_refused(rows[i].members, rows[i].data, rows[i].words);
    expect_refused("{}", 2, 1, "the last 1 bytes");
}

#define U8(name, b, e, n) \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[" b "," e "]}"

NIB_TEST(Safetensors, Tiling)
{
    static const struct { const char *header; size_t data; const char *words; } rows[] = {
        { "{" U8("a", "0", "4", "4") "," U8("b", "3", "6", "3") "}", 6,
          "tensor 'b' begins at data offset 3, inside 'a', which ends at 4" },
        { "{" U8("b", "0", "4", "4") "," U8("a", "0", "4", "4") "}", 4, "inside 'a'" },
        { "{" U8("b", "5", "6", "1") "," U8("a", "0", "4", "4") "}", 6,
          "1 data bytes from offset 4 to tensor 'b' belong to no tensor" },
        { "{" U8("a", "0", "4", "4") "," U8("z", "2", "2", "0") "}", 4,
          "'z' begins at data offset 2, inside 'a'" },
        { "{" U8("z", "1", "1", "0") "}", 1, "1 data bytes from offset 0" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refused(rows[i].header, strlen(rows[i].header), rows[i].data, rows[i].words);
}

static nib_safetensors *parse_text(const char *header, size_t data, uint8_t **file)
{
    size_t bytes;
    nib_safetensors *st = NULL;
    *file = make_file(header, strlen(header), data, &bytes);
    EXPECT(*file && nib_safetensors_parse("f.st", *file, bytes, &st) == NIB_OK, "%s",
           nib_last_error());
    return st;
}

NIB_TEST(Safetensors, AnyOrderAndEmptyTensors)
{
    uint8_t *file;
    size_t count;
    nib_safetensors *st = parse_text("{" U8("y", "2", "2", "0") "," U8("b", "2", "5", "3") ","
                                     U8("z", "5", "5", "0,9") "," U8("a", "0", "2", "2") ","
                                     U8("x", "0", "0", "7,0") "}   ", 5, &file);
    REQUIRE(st, " ");
    const nib_tensor *tensors = nib_safetensors_tensors(st, &count);
    REQUIRE(count == 5, "%zu", count);
    const char *order = "xaybz";
    for (size_t i = 0; i < 5; i++) {
        EXPECT(tensors[i].name[0] == order[i], "%zu: %s", i, tensors[i].name);
        EXPECT(nib_safetensors_find(st, tensors[i].name) == &tensors[i], "%s", tensors[i].name);
    }
    EXPECT(!nib_safetensors_metadata(st, "format"), "there is no __metadata__");
    nib_safetensors_close(st);
    free(file);

    st = parse_text("{}", 0, &file);
    REQUIRE(st, " ");
    nib_safetensors_tensors(st, &count);
    EXPECT(count == 0 && !nib_safetensors_find(st, "a"), " ");
    nib_safetensors_close(st);
    free(file);

    st = parse_text("{\"a\":{\"shape\":[1],\"more\":{},\"data_offsets\":[0,1],"
                    "\"dtype\":\"U8\"}}", 1, &file); /* other members are ignored */
    nib_safetensors_close(st);
    free(file);
}

/* Types of which nibble knows no more than their bytes do not stand in the others' way. */
NIB_TEST(Safetensors, TypesThatAreNotComputedWith)
{
    static const char header[] =
        "{\"a\":{\"dtype\":\"F4\",\"shape\":[2,3],\"data_offsets\":[0,3]},"
        "\"b\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[3,6]},"
        "\"c\":{\"dtype\":\"F6_E3M2\",\"shape\":[2,2],\"data_offsets\":[6,9]},"
        "\"d\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[9,17]},"
        "\"e\":{\"dtype\":\"F8_E4M3FNUZ\",\"shape\":[1],\"data_offsets\":[17,18]},"
        "\"f\":{\"dtype\":\"F8_E5M2FNUZ\",\"shape\":[],\"data_offsets\":[18,19]},"
        "\"g\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[19,21]}}";
    static const struct { nib_tensor_type type; uint64_t bytes; } right[] = {
        { NIB_TT_F4, 3 }, { NIB_TT_F6_E2M3, 3 }, { NIB_TT_F6_E3M2, 3 }, { NIB_TT_C64, 8 },
        { NIB_TT_F8_E4M3FNUZ, 1 }, { NIB_TT_F8_E5M2FNUZ, 1 }, { NIB_TT_BF16, 2 },
    };
    uint8_t *file;
    size_t count;
    nib_safetensors *st = parse_text(header, 21, &file);
    REQUIRE(st, " ");
    const nib_tensor *tensors = nib_safetensors_tensors(st, &count);
    REQUIRE(count == 7, "%zu", count);
    for (size_t i = 0; i < count; i++)
        EXPECT(tensors[i].name[0] == (char)('a' + i) && tensors[i].type == right[i].type
                   && tensors[i].bytes == right[i].bytes, "%s", tensors[i].name);
    nib_safetensors_close(st);
    free(file);
    expect_tensor_refused("{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}", 2,
                          "no whole number");
    expect_tensor_refused("{\"dtype\":\"F6_E3M2\",\"shape\":[4],\"data_offsets\":[0,4]}", 4,
                          "takes 3 bytes");
}

/* ---- layout ---- */

NIB_TEST(Safetensors, LayoutReadsBack)
{
    static const nib_tensor_spec specs[] = {
        { "w.weight", NIB_TT_U8, 2, { 3, 8 } }, { "w.scale", NIB_TT_F8_E4M3, 2, { 3, 1 } },
        { "scalar", NIB_TT_F32, 0, { 0 } },     { "empty", NIB_TT_BF16, 2, { 0, 4 } },
        { "\"\\\xc3\xa4/", NIB_TT_F16, 1, { 5 } }, { "i", NIB_TT_I64, 1, { 2 } },
        { "four", NIB_TT_F4, 2, { 2, 5 } },     { "six", NIB_TT_F6_E2M3, 2, { 2, 6 } },
        { "complex", NIB_TT_C64, 1, { 2 } },
    };
    enum { COUNT = sizeof specs / sizeof *specs };
    for (size_t count = 0; count <= COUNT; count++) {
        nib_file_layout layout;
        nib_safetensors *st;
        REQUIRE(nib_safetensors_layout(specs, count, &layout) == NIB_OK, "%s", nib_last_error());
        EXPECT((layout.header_bytes & 63) == 0 && layout.header[8] == '{', " ");
        uint8_t *file = calloc(1, layout.file_bytes);
        REQUIRE(file, " ");
        memcpy(file, layout.header, layout.header_bytes);
        REQUIRE(nib_safetensors_parse("out", file, layout.file_bytes, &st) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(strcmp(nib_safetensors_metadata(st, "format"), "pt") == 0, " ");
        uint64_t at = layout.header_bytes;
        for (size_t i = 0; i < count; i++) {
            const nib_tensor *tensor = nib_safetensors_find(st, specs[i].name);
            REQUIRE(tensor, "%s", specs[i].name);
            EXPECT(tensor->type == specs[i].type && tensor->n_dims == specs[i].n_dims &&
                       memcmp(tensor->dims, specs[i].dims, sizeof specs[i].dims) == 0 &&
                       tensor->offset == layout.offsets[i] && tensor->offset == at, "%s",
                   specs[i].name);
            at += tensor->bytes;
        }
        EXPECT(at == layout.file_bytes, " ");
        nib_safetensors_close(st);
        free(file);
        nib_file_layout_free(&layout);
    }
}

NIB_TEST(Safetensors, LayoutRefusals)
{
    static const struct {
        nib_tensor_spec specs[2];
        nib_status      status;
        const char     *words;
    } rows[] = {
        { { { "a", NIB_TT_U8, 1, { 1 } }, { "a", NIB_TT_F32, 1, { 1 } } }, NIB_ERR_ARGUMENT,
          "two tensors named 'a'" },
        { { { "", NIB_TT_U8, 1, { 1 } } }, NIB_ERR_ARGUMENT, "without a name" },
        { { { NULL, NIB_TT_U8, 1, { 1 } } }, NIB_ERR_ARGUMENT, "without a name" },
        { { { "a\nb", NIB_TT_U8, 1, { 1 } } }, NIB_ERR_ARGUMENT, "control character 0x0a" },
        { { { "__metadata__", NIB_TT_U8, 1, { 1 } } }, NIB_ERR_ARGUMENT, "__metadata__" },
        { { { "\xff", NIB_TT_U8, 1, { 1 } } }, NIB_ERR_ARGUMENT, "UTF-8" },
        { { { "a", NIB_TT_COUNT, 1, { 1 } } }, NIB_ERR_ARGUMENT, "unknown type" },
        { { { "a", NIB_TT_Q4_K, 1, { 256 } } }, NIB_ERR_UNSUPPORTED, "type Q4_K" },
        { { { "a", NIB_TT_U8, 1, { -1 } } }, NIB_ERR_SHAPE, "tensor 'a'" },
        { { { "a", NIB_TT_U8, 9, { 1 } } }, NIB_ERR_SHAPE, "tensor 'a'" },
        { { { "a", NIB_TT_U8, 1, { INT64_MAX } }, { "b", NIB_TT_U8, 1, { 1 } } }, NIB_ERR_SHAPE,
          "with tensor 'b'" },
        { { { "a", NIB_TT_U8, 1, { INT64_MAX } }, { "b", NIB_TT_U8, 1, { 0 } } }, NIB_ERR_SHAPE,
          "over 2^63" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_file_layout layout;
        const size_t count = rows[i].specs[1].name ? 2 : 1;
        EXPECT(nib_safetensors_layout(rows[i].specs, count, &layout) == rows[i].status, "row %zu",
               i);
        EXPECT(strstr(nib_last_error(), rows[i].words), "%s", nib_last_error());
        EXPECT(!layout.header && !layout.offsets && !layout.file_bytes, "row %zu", i);
    }
}

/* 100,000 tensors: look-ups by table, not by walking. Names in an order that is not sorted. */
NIB_TEST(Safetensors, ManyTensors)
{
    enum { COUNT = 100000 };
    nib_tensor_spec *specs = calloc(COUNT, sizeof *specs);
    char (*names)[24] = malloc((size_t)COUNT * sizeof *names);
    nib_file_layout layout;
    nib_safetensors *st = NULL;
    REQUIRE(specs && names, " ");
    for (size_t i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof *names, "t.%zu", i * 7919 % COUNT);
        specs[i] = (nib_tensor_spec){ names[i], NIB_TT_U8, 1, { (int64_t)(i % 3) } };
    }
    const clock_t start = clock();
    REQUIRE(nib_safetensors_layout(specs, COUNT, &layout) == NIB_OK, "%s", nib_last_error());
    uint8_t *file = calloc(1, layout.file_bytes);
    REQUIRE(file, " ");
    memcpy(file, layout.header, layout.header_bytes);
    REQUIRE(nib_safetensors_parse("many", file, layout.file_bytes, &st) == NIB_OK, "%s",
            nib_last_error());
    for (size_t i = 0; i < COUNT && !nib_test_failed(); i++) {
        const nib_tensor *tensor = nib_safetensors_find(st, names[i]);
        EXPECT(tensor && tensor->offset == layout.offsets[i], "%s", names[i]);
    }
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    EXPECT(seconds < 30, "%.1f s: quadratic?", seconds); /* 0.3 s with -O2 */
    nib_safetensors_close(st);
    nib_file_layout_free(&layout);
    free(file);
    free(names);
    free(specs);
}
