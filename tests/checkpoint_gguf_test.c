/* checkpoint_gguf_test.c: GGUF exports from both sides: names, types, blocks, the order of q and
 * k rows, metadata. Row orders are written out here anew (llama.cpp's permute). */
#include <math.h>

#include "host/io/hf_gguf.h"
#include "kernels/backend.h"
#include "model_fixture.h"
#include "shim.h"

static temp_dir dir;
static char folder[300], file[300], dst[300];

static void begin(void)
{
    dir = temp_dir_make();
    snprintf(folder, sizeof folder, "%s/folder", dir.path);
    snprintf(file, sizeof file, "%s/file.gguf", dir.path);
    snprintf(dst, sizeof dst, "%s/dst.gguf", dir.path);
}

/* A folder whose tokenizer is a real one: made from the GGUF fixture's metadata. */
static int make_folder(nib_tensor_type type)
{
    nib_gguf *g = NULL;
    nib_text_files texts = { 0 };
    nib_gguf_heads heads;
    char path[600];
    int ok = fixture_gguf(file, fixture_llama_gguf(type), FIXTURE_LLAMA)
          && nib_gguf_open(file, &g) == NIB_OK && mkdir(folder, 0777) == 0
          && nib_hf_files_from_gguf(g, "bfloat16", &texts, &heads) == NIB_OK;
    for (size_t i = 0; ok && i < texts.count; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, texts.items[i].name);
        ok = temp_write(path, texts.items[i].data, texts.items[i].bytes);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    ok = ok && fixture_safetensors(path, fixture_llama(type), FIXTURE_LLAMA);
    nib_text_files_free(&texts);
    nib_gguf_close(g);
    return ok;
}

/* GGUF's row of a head of d rows: 2j + t holds HF's row t * d/2 + j. */
static int64_t hf_row(int64_t gguf_row, int64_t rows, int heads)
{
    const int64_t d = rows / heads, in = gguf_row % d;
    return gguf_row - in + in % 2 * (d / 2) + in / 2;
}

static int heads_of(const char *name)
{
    return strstr(name, "q_proj") || strstr(name, "attn_q.") ? 4
         : strstr(name, "k_proj") || strstr(name, "attn_k.") ? 2 : 0;
}

/* 1: q, k, v; 2: gate, up; 0: alone. */
static int group_of(const char *name)
{
    return strstr(name, ".attn_q.") || strstr(name, ".attn_k.") || strstr(name, ".attn_v.") ? 1
         : strstr(name, ".ffn_gate.") || strstr(name, ".ffn_up.") ? 2 : 0;
}

static int same_group(const char *a, const char *b)
{
    const int same_layer = !strncmp(a, b, strlen("blk.0."));
    return !strcmp(a, b) || (same_layer && group_of(a) && group_of(a) == group_of(b));
}

/* The largest magnitude of all that share the scale of GGUF's tensor `name`. */
static float shared_amax(const fixture_tensor *values, const fixture_tensor *names,
                         const char *name)
{
    float amax = 0;
    for (int i = 0; i < FIXTURE_LLAMA; i++) {
        int64_t n;
        if (!same_group(name, names[i].name)) continue;
        float *x = fixture_floats(&values[i], &n);
        for (int64_t k = 0; k < n; k++)
            if (fabsf(x[k]) > amax) amax = fabsf(x[k]);
        free(x);
    }
    return amax;
}

/* Checks a tensor of blocks and its scale. values: the source's tensor; permute: its rows are in
 * HF's order and the file's in GGUF's. */
static void check_blocks(const nib_gguf *g, const fixture_tensor *values, const char *name,
                         nib_format format, float amax, int permute)
{
    int64_t n;
    const int64_t rows = values->dims[0], cols = values->dims[1];
    const int heads = permute ? heads_of(values->name) : 0, nvfp4 = format == NIB_NVFP4;
    float *x = fixture_floats(values, &n), scale = 1;
    float *ordered = malloc((size_t)n * sizeof *ordered);
    for (int64_t r = 0; r < rows; r++)
        memcpy(ordered + r * cols, x + (heads ? hf_row(r, rows, heads) : r) * cols,
               (size_t)cols * sizeof *x);
    uint8_t *codes = malloc((size_t)n), *scales = malloc((size_t)n), *blocks = malloc((size_t)n);
    nib_rules rules;
    nib_rules_fill(nvfp4 ? NIB_RULES_TE : NIB_RULES_GGUF, format, &rules);
    const nib_quantize_options q = { .size = sizeof q, .rules = &rules,
                                     .tensor_amax = nvfp4 ? &amax : NULL };
    const nib_matrix src = { ordered, NIB_F32, rows, cols, cols };
    const nib_packed packed = { .size = sizeof packed, .format = format, .rows = rows,
                                .cols = cols, .codes = codes, .ld_codes_bytes = cols / 2,
                                .scales = scales, .tensor_scale = nvfp4 ? &scale : NULL };
    EXPECT(nib_quantize(fixture_exec(1), &src, &q, &packed) == NIB_OK, "%s", nib_last_error());
    const int64_t per_row = nib_scales_per_row(format, cols), bytes = cols / 2 + per_row;
    for (int64_t r = 0; r < rows; r++)
        nib_scalar_cpu.pack_gguf_row(format, cols, codes + r * cols / 2, scales + r * per_row,
                                     blocks + r * bytes);
    const nib_tensor *t = nib_gguf_find_tensor(g, name);
    EXPECT(t && t->type == (nvfp4 ? NIB_TT_NVFP4 : NIB_TT_MXFP4), "%s: type", name);
    EXPECT(t && t->bytes == (uint64_t)(rows * bytes) && !memcmp(t->data, blocks, t->bytes),
           "%s: blocks", name);
    char side[80];
    snprintf(side, sizeof side, "%.*s.scale", (int)(strlen(name) - 7), name);
    const nib_tensor *s = nib_gguf_find_tensor(g, side);
    EXPECT(nvfp4 ? s && s->type == NIB_TT_F32 && s->n_dims == 1 && s->dims[0] == 1
                       && !memcmp(s->data, &scale, 4)
                 : !s, "%s", side);
    free(x);
    free(ordered);
    free(codes);
    free(scales);
    free(blocks);
}

static void check_file(const char *path, const fixture_tensor *values, nib_format format,
                       int from_folder)
{
    const fixture_tensor *names = fixture_llama_gguf(NIB_TT_F32);
    nib_gguf *g = NULL;
    size_t count;
    REQUIRE(nib_gguf_open(path, &g) == NIB_OK, "%s", nib_last_error());
    nib_gguf_tensors(g, &count);
    EXPECT(count == FIXTURE_LLAMA + (format == NIB_NVFP4 ? 14 : 0), "%zu tensors", count);
    for (int i = 0; i < FIXTURE_LLAMA; i++) {
        const int layer = !strncmp(names[i].name, "blk.", 4) && values[i].n_dims == 2;
        const float amax = shared_amax(values, names, names[i].name);
        if (layer) {
            check_blocks(g, &values[i], names[i].name, format, amax, from_folder);
            continue;
        }
        /* Kept, but vectors are F32 in every file that llama.cpp's converter makes. */
        fixture_tensor kept = values[i];
        uint64_t bytes;
        int64_t n;
        const nib_tensor *t = nib_gguf_find_tensor(g, names[i].name);
        const int vector = kept.n_dims == 1;
        uint8_t *data = vector ? (uint8_t *)fixture_floats(&kept, &n)
                               : fixture_bytes(&kept, &bytes);
        if (vector) bytes = (uint64_t)n * 4;
        EXPECT(t && t->type == (vector ? NIB_TT_F32 : kept.type), "%s: type", names[i].name);
        EXPECT(t && t->bytes == bytes && !memcmp(t->data, data, bytes), "%s", names[i].name);
        free(data);
    }
    EXPECT(nib_gguf_i64(g, "general.file_type", 0) == (format == NIB_NVFP4 ? 39 : 38), "type");
    EXPECT(nib_gguf_i64(g, "llama.attention.head_count", 0) == 4, "heads");
    EXPECT(!nib_gguf_find(g, "nibble.part.shard"), "a whole file says it is a part");
    nib_gguf_close(g);
}

NIB_TEST(CheckpointGguf, FromGguf)
{
    static const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4 };
    for (int f = 0; f < 2; f++) {
        begin();
        REQUIRE(fixture_gguf(file, fixture_llama_gguf(NIB_TT_F32), FIXTURE_LLAMA), "%s", file);
        REQUIRE(fixture_quantize(file, dst, NIB_EXPORT_GGUF, formats[f]) == NIB_OK, "%s",
                nib_last_error());
        check_file(dst, fixture_llama_gguf(NIB_TT_F32), formats[f], 0);
        temp_dir_remove(&dir);
    }
}

/* A third of a model would make a third of a model. */
NIB_TEST(CheckpointGguf, OneFileOfASplitModelIsRefused)
{
    begin();
    REQUIRE(fixture_gguf_split(file, fixture_llama_gguf(NIB_TT_F32), 5, 3), "%s", file);
    EXPECT(fixture_quantize(file, dst, NIB_EXPORT_GGUF, NIB_NVFP4) == NIB_ERR_UNSUPPORTED, "%s",
           nib_last_error());
    EXPECT(fixture_error_has("part 1 of a GGUF model in 3 files"), "%s", nib_last_error());
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointGguf, FromAFolder)
{
    static const nib_format formats[] = { NIB_NVFP4, NIB_MXFP4 };
    static const nib_tensor_type types[] = { NIB_TT_BF16, NIB_TT_F32 };
    for (int f = 0; f < 2; f++) {
        begin();
        REQUIRE(make_folder(types[f]), "%s", nib_last_error());
        REQUIRE(fixture_quantize(folder, dst, NIB_EXPORT_GGUF, formats[f]) == NIB_OK, "%s",
                nib_last_error());
        check_file(dst, fixture_llama(types[f]), formats[f], 1);
        /* And back: the rows are compared in Hugging Face's order. */
        nib_checkpoint_report *r = NULL;
        REQUIRE(nib_checkpoint_compare(fixture_exec(0), folder, dst, NULL, &r) == NIB_OK, "%s",
                nib_last_error());
        for (uint64_t i = 0; i < r->n_tensors; i++) {
            const nib_quantize_report *e = &r->tensors[i].error;
            EXPECT(e->sum_sq_error < 0.02 * e->sum_sq, "%s: error %g of %g", r->tensors[i].name,
                   e->sum_sq_error, e->sum_sq);
        }
        nib_checkpoint_report_free(r);
        temp_dir_remove(&dir);
    }
}

/* A folder made of a GGUF file undoes the permutation, in codes and scales alike. */
NIB_TEST(CheckpointGguf, ToAFolder)
{
    begin();
    const char *out = temp_path(&dir, "out");
    const fixture_tensor *t = fixture_llama_gguf(NIB_TT_F32);
    REQUIRE(fixture_gguf(file, t, FIXTURE_LLAMA), "%s", file);
    REQUIRE(fixture_quantize(file, out, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(out, &st) == NIB_OK, "%s", nib_last_error());
    for (int k = 0; k < 3; k++) { /* q, k, v */
        static const char *const hf[] = { "q", "k", "v" };
        char name[64], from[64];
        snprintf(name, sizeof name, "model.layers.1.self_attn.%s_proj.weight", hf[k]);
        snprintf(from, sizeof from, "blk.1.attn_%s.weight", hf[k]);
        const fixture_tensor *values = fixture_find(t, FIXTURE_LLAMA, from);
        const int64_t rows = values->dims[0], cols = values->dims[1];
        const int heads = heads_of(from);
        int64_t n;
        float *x = fixture_floats(values, &n), *y = malloc((size_t)n * sizeof *y), scale = 0;
        uint8_t *codes = malloc((size_t)n), *scales = malloc((size_t)n);
        for (int64_t r = 0; r < rows; r++)
            memcpy(y + (heads ? hf_row(r, rows, heads) : r) * cols, x + r * cols,
                   (size_t)cols * sizeof *x);
        nib_rules rules;
        nib_rules_fill(NIB_RULES_MODELOPT, NIB_NVFP4, &rules);
        const float amax = shared_amax(t, t, from);
        const nib_quantize_options q = { .size = sizeof q, .rules = &rules, .tensor_amax = &amax };
        const nib_matrix src = { y, NIB_F32, rows, cols, cols };
        const nib_packed p = { .size = sizeof p, .format = NIB_NVFP4, .rows = rows, .cols = cols,
                               .codes = codes, .ld_codes_bytes = cols / 2, .scales = scales,
                               .tensor_scale = &scale };
        EXPECT(nib_quantize(fixture_exec(1), &src, &q, &p) == NIB_OK, "%s", nib_last_error());
        const nib_tensor *c = nib_safetensors_find(st, name);
        EXPECT(c && !memcmp(c->data, codes, (size_t)n / 2), "%s: codes", name);
        snprintf(name, sizeof name, "model.layers.1.self_attn.%s_proj.weight_scale", hf[k]);
        const nib_tensor *s = nib_safetensors_find(st, name);
        EXPECT(s && !memcmp(s->data, scales, (size_t)n / 16), "%s: scales", name);
        free(x);
        free(y);
        free(codes);
        free(scales);
    }
    EXPECT(fixture_has(out, "tokenizer.json") && fixture_has(out, "config.json"), "small files");
    nib_safetensors_close(st);
    temp_dir_remove(&dir);
}
