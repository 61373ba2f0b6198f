/* hf_gguf_test.c: GGUF metadata to a folder's files and back. Looks below include/. The GGUF
 * files are scripts/oracles/gen_hf_gguf.py's; the folders beside them were made by this code and
 * hold what scripts/oracles/check_tokenizer.py found equal to the reference. With
 * NIB_UPDATE_GOLDEN set the first test writes them anew. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/hf_gguf.h"
#include "shim.h"
#include "temp_dir.h"

#define GOLDEN "tests/golden/hf_gguf/"

static char *read_text(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    char *text = malloc(1 << 20);
    *bytes = text ? fread(text, 1, 1 << 20, file) : 0;
    fclose(file);
    return text;
}

static void write_text(const char *path, const char *text, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    EXPECT(file && fwrite(text, 1, bytes, file) == bytes, "%s", path);
    if (file) fclose(file);
}

static const struct { const char *name; int32_t permuted; } golden[] = {
    { "bpe", 1 }, { "llama3", 1 }, { "qwen2", 0 }, { "spm", 1 },
};
#define GOLDENS (sizeof golden / sizeof *golden)

static int make_files(const char *name, nib_text_files *files, nib_gguf_heads *heads)
{
    char path[128];
    nib_gguf *gguf;
    snprintf(path, sizeof path, GOLDEN "%s.gguf", name);
    if (nib_gguf_open(path, &gguf) != NIB_OK) return 0;
    const nib_status status = nib_hf_files_from_gguf(gguf, "bfloat16", files, heads);
    nib_gguf_close(gguf);
    return status == NIB_OK;
}

static void compare_with_golden(const char *name, const nib_text_file *file)
{
    char path[256];
    size_t bytes = 0;
    snprintf(path, sizeof path, GOLDEN "%s/%s", name, file->name);
    if (getenv("NIB_UPDATE_GOLDEN")) write_text(path, file->data, file->bytes);
    char *text = read_text(path, &bytes);
    EXPECT(text, "%s is missing", path);
    EXPECT(text && bytes == file->bytes && memcmp(text, file->data, bytes) == 0,
           "%s differs from what was made", path);
    free(text);
}

NIB_TEST(HfGguf, FilesAreTheGoldenOnes)
{
    for (size_t i = 0; i < GOLDENS; i++) {
        nib_text_files files = { NULL, 0 };
        nib_gguf_heads heads = { 9, 9, 9 };
        REQUIRE(make_files(golden[i].name, &files, &heads), "%s", nib_last_error());
        EXPECT(heads.permuted == golden[i].permuted && heads.q == 4 && heads.kv == 2, "%s",
               golden[i].name);
        EXPECT(files.count == (i == 0 ? 6u : 5u), "%s: %zu files", golden[i].name, files.count);
        for (size_t f = 0; f < files.count; f++)
            compare_with_golden(golden[i].name, &files.items[f]);
        nib_text_files_free(&files);
    }
}

/* ---- and back ---- */

static int same_item(const nib_gguf_value *a, const nib_gguf_value *b, uint64_t i)
{
    if (a->item != NIB_GGUF_STRING) return nib_gguf_item_i64(a, i) == nib_gguf_item_i64(b, i);
    const nib_gguf_string x = nib_gguf_item_str(a, i), y = nib_gguf_item_str(b, i);
    return x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0;
}

static int same_value(const nib_gguf_value *a, const nib_gguf_value *b)
{
    if (a->type != b->type) return 0;
    if (a->type == NIB_GGUF_STRING)
        return a->as.s.bytes == b->as.s.bytes &&
               memcmp(a->as.s.data, b->as.s.data, a->as.s.bytes) == 0;
    if (a->type != NIB_GGUF_ARRAY) return a->as.u == b->as.u;
    if (a->item != b->item || a->count != b->count) return 0;
    for (uint64_t i = 0; i < a->count; i++)
        if (!same_item(a, b, i)) return 0;
    return 1;
}

static void fill_folder(const temp_dir *dir, const nib_text_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        write_text(temp_path(dir, files->items[i].name), files->items[i].data,
                   files->items[i].bytes);
}

/* Lays metadata out and reads it: NULL on failure. The layout must outlive the result. */
static nib_gguf *reread(const nib_gguf_meta *meta, nib_file_layout *layout)
{
    nib_gguf *gguf = NULL;
    if (nib_gguf_layout(meta, NULL, 0, layout) == NIB_OK)
        EXPECT(nib_gguf_parse("made", layout->header, layout->header_bytes, &gguf) == NIB_OK,
               "%s", nib_last_error());
    return gguf;
}

/* Every key of the source comes back with its value, but for those listed. */
static void compare_pairs(const char *name, const nib_gguf *source, const nib_gguf *made)
{
    static const char *const other[] = { "tokenizer.ggml.scores" };
    size_t count;
    const nib_gguf_pair *pairs = nib_gguf_pairs(source, &count);
    for (size_t i = 0; i < count; i++) {
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)pairs[i].key.bytes, pairs[i].key.data);
        const nib_gguf_value *value = nib_gguf_find(made, key);
        EXPECT(value, "%s: %s is lost", name, key);
        if (strcmp(key, other[0]) == 0) continue;
        EXPECT(value && same_value(&pairs[i].value, value), "%s: %s differs", name, key);
    }
}

static void round_trip(const char *name, int32_t permuted)
{
    char path[128];
    nib_text_files files = { NULL, 0 };
    nib_gguf_heads heads, back = { 9, 9, 9 };
    nib_rope_freqs freqs;
    nib_gguf *source;
    nib_file_layout layout = { NULL, 0, NULL, 0 };
    REQUIRE(make_files(name, &files, &heads), "%s", nib_last_error());
    const temp_dir folder = temp_dir_make();
    fill_folder(&folder, &files);
    nib_gguf_meta *meta = nib_gguf_meta_new();
    EXPECT(nib_gguf_meta_from_hf(folder.path, meta, &back, &freqs) == NIB_OK, "%s: %s", name,
           nib_last_error());
    EXPECT(back.permuted == permuted && back.q == 4 && back.kv == 2, "%s", name);
    nib_gguf *made = reread(meta, &layout);
    snprintf(path, sizeof path, GOLDEN "%s.gguf", name);
    EXPECT(nib_gguf_open(path, &source) == NIB_OK, "%s", nib_last_error());
    if (made) compare_pairs(name, source, made);

    /* And once more to a folder: the same files, which holds for the scores' order too. */
    nib_text_files again = { NULL, 0 };
    if (made && strcmp(name, "qwen2") != 0 && !freqs.data) { /* made has no tensors */
        EXPECT(nib_hf_files_from_gguf(made, "bfloat16", &again, &heads) == NIB_OK, "%s",
               nib_last_error());
        for (size_t i = 0; i < again.count; i++)
            EXPECT(again.items[i].bytes == files.items[i].bytes &&
                       memcmp(again.items[i].data, files.items[i].data, files.items[i].bytes) == 0,
                   "%s: %s differs", name, files.items[i].name);
    }
    const nib_tensor *divisors = source ? nib_gguf_find_tensor(source, "rope_freqs.weight") : NULL;
    EXPECT(!divisors == !freqs.data, "%s: rope_freqs.weight", name);
    for (int64_t i = 0; divisors && freqs.data && i < freqs.count; i++) {
        float want;
        memcpy(&want, divisors->data + 4 * i, 4);
        EXPECT(fabsf(want - freqs.data[i]) <= 1e-5f * want, "%s: divisor %lld is %g, want %g", name,
               (long long)i, (double)freqs.data[i], (double)want);
    }
    free(freqs.data);
    nib_text_files_free(&again);
    nib_gguf_close(source);
    nib_gguf_close(made);
    nib_file_layout_free(&layout);
    nib_gguf_meta_free(meta);
    temp_dir_remove(&folder);
    nib_text_files_free(&files);
}

NIB_TEST(HfGguf, RoundTripKeepsEveryKey)
{
    round_trip("bpe", 1);
    round_trip("llama3", 1);
    round_trip("qwen2", 0);
    round_trip("spm", 1);
}
