/* hessian_file_test.c: Hessians to a safetensors file and back; every file that is refused. Looks
 * below include/: files are also written and read by the library's own layouts. */
#include <math.h>

#include "expect_status.h"
#include "host/io/safetensors.h"
#include "model_fixture.h"
#include "nibble/hessian.h"

enum { MOST = 40 * 48 };

static temp_dir dir;
static char path[300];

static void begin(void)
{
    dir = temp_dir_make();
    snprintf(path, sizeof path, "%s/h.safetensors", dir.path);
}

/* A Hessian whose element (i, j) is number i * 64 + j + 1 / 3, and NaN where nobody may read. */
typedef struct sample {
    nib_hessian h;
    double      data[MOST];
    uint64_t    tokens;
} sample;

static void put(const nib_hessian *h, int64_t i, int64_t j, double x)
{
    if (h->real == NIB_REAL_F64) ((double *)h->data)[i * h->ld_elems + j] = x;
    else ((float *)h->data)[i * h->ld_elems + j] = (float)x;
}

static double get(const nib_hessian *h, int64_t i, int64_t j)
{
    return h->real == NIB_REAL_F64 ? ((const double *)h->data)[i * h->ld_elems + j]
                                   : (double)((const float *)h->data)[i * h->ld_elems + j];
}

static void fill(sample *s, nib_real real, int64_t k, int64_t ld, int with_tokens)
{
    s->tokens = 7000000000u + (uint64_t)k;
    s->h = (nib_hessian){ .size = sizeof s->h, .real = real, .k = k, .data = s->data,
                          .ld_elems = ld, .tokens = with_tokens ? &s->tokens : NULL };
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < ld; j++)
            put(&s->h, i, j, j <= i ? (double)(i * 64 + j) + 1.0 / 3 : NAN);
}

/* The file's Hessian is s, in a buffer of wider rows, whose other parts stay as they are. */
static void expect_loaded(const char *name, const sample *s)
{
    static sample got;
    nib_hessian h = { .size = sizeof h };
    const nib_status asked = nib_hessian_load(path, name, &h);
    REQUIRE(asked == NIB_OK, "%s: %s", name, nib_last_error());
    EXPECT(h.real == s->h.real && h.k == s->h.k && h.ld_elems == h.k && !h.data, "%s", name);
    uint64_t tokens = 5;
    h.data = got.data;
    h.ld_elems = h.k + 3;
    h.tokens = &tokens;
    for (int64_t i = 0; i < h.k; i++)
        for (int64_t j = 0; j < h.ld_elems; j++) put(&h, i, j, -1);
    const nib_status loaded = nib_hessian_load(path, name, &h);
    REQUIRE(loaded == NIB_OK, "%s: %s", name, nib_last_error());
    int64_t wrong = 0;
    for (int64_t i = 0; i < h.k; i++)
        for (int64_t j = 0; j < h.ld_elems; j++) {
            const double want = j <= i ? get(&s->h, i, j) : -1;
            const double is = get(&h, i, j);
            wrong += !(is >= want && is <= want);
        }
    EXPECT(!wrong, "%s: %lld elements", name, (long long)wrong);
    EXPECT(tokens == (s->h.tokens ? s->tokens : UINT64_MAX), "%s: %llu tokens", name,
           (unsigned long long)tokens);
    h.tokens = NULL;
    EXPECT(nib_hessian_load(path, name, &h) == NIB_OK, "%s: %s", name, nib_last_error());
}

/* In the file itself: square, aligned, zeros in the other triangle. */
static void expect_stored(const nib_safetensors *file, const char *name, const sample *s)
{
    const nib_tensor *t = nib_safetensors_find(file, name);
    const int64_t k = s->h.k, bytes = s->h.real == NIB_REAL_F64 ? 8 : 4;
    REQUIRE(t, "%s is not there", name);
    EXPECT(t->type == (bytes == 8 ? NIB_TT_F64 : NIB_TT_F32) && t->n_dims == 2 && t->dims[0] == k
               && t->dims[1] == k && t->offset % (uint64_t)bytes == 0, "%s", name);
    for (int64_t i = 0; i < k; i++)
        for (int64_t b = (i * k + i + 1) * bytes; b < (i + 1) * k * bytes; b++)
            EXPECT(t->data[b] == 0, "%s: byte %lld", name, (long long)b);
}

NIB_TEST(HessianFile, RoundTrip)
{
    static const char *const names[] = { "a", "model.layers.0.mlp", "b.weight", "none", "d" };
    static const int64_t ks[] = { 33, 1, 40, 0, 16 };
    static sample s[5];
    nib_hessian h[5];
    for (int i = 0; i < 5; i++) { /* every other F64; every third without tokens; ragged rows */
        fill(&s[i], i % 2 ? NIB_REAL_F64 : NIB_REAL_F32, ks[i], ks[i] + i, i % 3 != 0);
        h[i] = s[i].h;
    }
    begin();
    for (int n = 1; n <= 5; n += 2) {
        REQUIRE(nib_hessian_save(path, n, names, h, 1) == NIB_OK, "%s", nib_last_error());
        EXPECT(!fixture_leftovers(path), "something is left");
        nib_safetensors *file;
        REQUIRE(nib_safetensors_open(path, &file) == NIB_OK, "%s", nib_last_error());
        size_t count;
        nib_safetensors_tensors(file, &count);
        EXPECT(count == (n == 1 ? 1u : n == 3 ? 5u : 8u), "%zu tensors", count);
        for (int i = 0; i < n; i++) {
            expect_stored(file, names[i], &s[i]);
            expect_loaded(names[i], &s[i]);
        }
        nib_safetensors_close(file);
    }
    EXPECT(nib_hessian_save(path, 0, NULL, NULL, 1) == NIB_OK, "%s", nib_last_error());
    temp_dir_remove(&dir);
}

NIB_TEST(HessianFile, ReplacesOnlyByForce)
{
    static sample a, b;
    const char *const names[] = { "a" };
    fill(&a, NIB_REAL_F32, 8, 8, 1);
    fill(&b, NIB_REAL_F64, 5, 5, 0);
    begin();
    REQUIRE(nib_hessian_save(path, 1, names, &a.h, 0) == NIB_OK, "%s", nib_last_error());
    EXPECT_FAILS("there", nib_hessian_save(path, 1, names, &b.h, 0), NIB_ERR_EXISTS, path);
    expect_loaded("a", &a);
    EXPECT(nib_hessian_save(path, 1, names, &b.h, 1) == NIB_OK, "%s", nib_last_error());
    expect_loaded("a", &b);
    EXPECT_FAILS("no folder", nib_hessian_save("/no/such/folder/h", 1, names, &a.h, 0), NIB_ERR_IO,
                 "/no/such/folder");
    temp_dir_remove(&dir);
}

NIB_TEST(HessianFile, BadRequests)
{
    static sample s;
    const char *const names[] = { "a", "a" }, *const none[] = { NULL }, *const odd[] = { "a\n" };
    fill(&s, NIB_REAL_F64, 8, 8, 1);
    const nib_hessian good = s.h;
    begin();
#define SAVE(label, names, status, piece) \
    EXPECT_FAILS(label, nib_hessian_save(path, 1, names, &h, 0), status, piece)
#define BROKEN(member, value, status, piece)              \
    do {                                                  \
        h.member = value;                                 \
        SAVE(#member, names, status, piece);              \
        h = good;                                         \
    } while (0)
    nib_hessian h = good;
    EXPECT_FAILS("path", nib_hessian_save(NULL, 1, names, &h, 0), NIB_ERR_ARGUMENT, "path");
    EXPECT_FAILS("count", nib_hessian_save(path, -1, names, &h, 0), NIB_ERR_SHAPE, "-1");
    EXPECT_FAILS("names", nib_hessian_save(path, 1, NULL, &h, 0), NIB_ERR_ARGUMENT, "names");
    EXPECT_FAILS("NULL", nib_hessian_save(path, 1, names, NULL, 0), NIB_ERR_ARGUMENT, "hessians");
    SAVE("name", none, NIB_ERR_ARGUMENT, "names[0]");
    SAVE("control", odd, NIB_ERR_ARGUMENT, "control");
    BROKEN(size, 8, NIB_ERR_ARGUMENT, "size is 8");
    BROKEN(real, (nib_real)2, NIB_ERR_ARGUMENT, "real 2");
    BROKEN(k, -1, NIB_ERR_SHAPE, "-1");
    BROKEN(ld_elems, 7, NIB_ERR_SHAPE, "7");
    BROKEN(data, NULL, NIB_ERR_ARGUMENT, "data");
    BROKEN(data, (char *)s.data + 4, NIB_ERR_ALIGNMENT, "8 bytes");
    BROKEN(tokens, (uint64_t *)(void *)((char *)s.data + 4), NIB_ERR_ALIGNMENT, "tokens");
    const nib_hessian twice[] = { good, good };
    EXPECT_FAILS("twice", nib_hessian_save(path, 2, names, twice, 0), NIB_ERR_ARGUMENT, "'a");
    EXPECT(temp_count(dir.path) == 0, "something was written");

    REQUIRE(nib_hessian_save(path, 1, names, &good, 0) == NIB_OK, "%s", nib_last_error());
    EXPECT_FAILS("path", nib_hessian_load(NULL, "a", &h), NIB_ERR_ARGUMENT, "path");
    EXPECT_FAILS("name", nib_hessian_load(path, NULL, &h), NIB_ERR_ARGUMENT, "name");
    EXPECT_FAILS("NULL", nib_hessian_load(path, "a", NULL), NIB_ERR_ARGUMENT, "hessian");
    h.size = 8;
    EXPECT_FAILS("size", nib_hessian_load(path, "a", &h), NIB_ERR_ARGUMENT, "size is 8");
    h = good, h.ld_elems = 7;
    EXPECT_FAILS("ld", nib_hessian_load(path, "a", &h), NIB_ERR_SHAPE, "7");
    h = good, h.real = NIB_REAL_F32;
    EXPECT_FAILS("real", nib_hessian_load(path, "a", &h), NIB_ERR_SHAPE, "F64");
    h = good, h.k = 7;
    EXPECT_FAILS("k", nib_hessian_load(path, "a", &h), NIB_ERR_SHAPE, "k 8");
    EXPECT_FAILS("missing", nib_hessian_load(path, "b", &h), NIB_ERR_SHAPE, "'a'");
    EXPECT_FAILS("no file", nib_hessian_load("/no/such/file", "a", &h), NIB_ERR_IO,
                 "/no/such/file");
    temp_dir_remove(&dir);
}

#define SQUARE { "a", NIB_TT_F32, 2, { 4, 4 }, 1, NULL }

NIB_TEST(HessianFile, FilesThatAreNone)
{
    static const struct {
        fixture_tensor t[2];
        size_t         n;
        nib_status     status;
        const char    *says;
    } rows[] = {
        { { { "a", NIB_TT_F32, 2, { 4, 5 }, 1, NULL } }, 1, NIB_ERR_SHAPE, "4 x 5" },
        { { { "a", NIB_TT_F32, 1, { 16 }, 1, NULL } }, 1, NIB_ERR_SHAPE, "1 dimensions" },
        { { { "a", NIB_TT_F32, 3, { 1, 4, 4 }, 1, NULL } }, 1, NIB_ERR_SHAPE, "3 dimensions" },
        { { { "a", NIB_TT_BF16, 2, { 4, 4 }, 1, NULL } }, 1, NIB_ERR_SHAPE, "BF16" },
        { { { "a", NIB_TT_I64, 2, { 4, 4 }, 1, NULL } }, 1, NIB_ERR_SHAPE, "I64" },
        { { SQUARE, { "a.tokens", NIB_TT_I64, 1, { 1 }, 1, NULL } }, 2, NIB_ERR_SHAPE, "a.tokens" },
        { { SQUARE, { "a.tokens", NIB_TT_U64, 1, { 2 }, 1, NULL } }, 2, NIB_ERR_SHAPE, "a.tokens" },
        { { SQUARE, { "a.tokens", NIB_TT_U64, 0, { 0 }, 1, NULL } }, 2, NIB_ERR_SHAPE, "a.tokens" },
        { { { "x.tokens", NIB_TT_U64, 1, { 1 }, 1, NULL } }, 1, NIB_ERR_SHAPE, "none at all" },
    };
    begin();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        nib_hessian h = { .size = sizeof h };
        REQUIRE(fixture_safetensors(path, rows[i].t, rows[i].n), "%s", path);
        EXPECT_FAILS(rows[i].says, nib_hessian_load(path, "a", &h), rows[i].status, rows[i].says);
        EXPECT(strstr(nib_last_error(), path), "no path in: %s", nib_last_error());
        EXPECT(!h.k && !h.data, "%zu: written all the same", i);
    }
    temp_dir_remove(&dir);
}

NIB_TEST(HessianFile, CutAnywhere)
{
    static sample s;
    const char *const names[] = { "a" };
    size_t bytes = 0;
    fill(&s, NIB_REAL_F64, 6, 6, 1);
    begin();
    REQUIRE(nib_hessian_save(path, 1, names, &s.h, 0) == NIB_OK, "%s", nib_last_error());
    char *whole = temp_read(path, &bytes);
    REQUIRE(whole && bytes > 300, "%zu bytes", bytes);
    for (size_t n = 0; n < bytes; n += n < 16 || n + 16 > bytes ? 1 : 7) {
        nib_hessian h = s.h;
        REQUIRE(temp_write(path, whole, n), "%s", path);
        EXPECT_FAILS("cut", nib_hessian_load(path, "a", &h), NIB_ERR_FORMAT, path);
    }
    free(whole);
    temp_dir_remove(&dir);
}
