/* checkpoint_layout_test.c: what an exported folder consists of: names, types, shapes, files. */
#include "model_fixture.h"
#include "shim.h"

/* What must become of one weight [rows, cols]; tails as the loaders know them. */
typedef struct part {
    const char     *tail;
    nib_tensor_type type;
    int             n_dims;
    int64_t         divisor; /* columns per element of the last dimension; 0: it is 1 */
} part;

typedef struct layout {
    const char *name;
    nib_export  export_as;
    nib_format  format;
    int         n_parts;
    part        parts[3];
} layout;

static const layout layouts[] = {
    { "modelopt nvfp4", NIB_EXPORT_MODELOPT, NIB_NVFP4, 3,
      { { "", NIB_TT_U8, 2, 2 }, { "_scale", NIB_TT_F8_E4M3, 2, 16 },
        { "_scale_2", NIB_TT_F32, 0, 0 } } },
    { "compressed-tensors nvfp4", NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4, 3,
      { { "_packed", NIB_TT_U8, 2, 2 }, { "_scale", NIB_TT_F8_E4M3, 2, 16 },
        { "_global_scale", NIB_TT_F32, 1, 0 } } },
    { "compressed-tensors mxfp4", NIB_EXPORT_COMPRESSED_TENSORS, NIB_MXFP4, 2,
      { { "_packed", NIB_TT_U8, 2, 2 }, { "_scale", NIB_TT_U8, 2, 32 } } },
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static int is_linear(const fixture_tensor *t)
{
    return strstr(t->name, "_proj.weight") != NULL;
}

static void check_tensors(const layout *l, const char *dst)
{
    const fixture_tensor *t = fixture_llama(NIB_TT_BF16);
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s: %s", l->name, nib_last_error());
    size_t count, expected = 0;
    nib_safetensors_tensors(st, &count);
    for (size_t i = 0; i < FIXTURE_LLAMA; i++) {
        const int n = is_linear(&t[i]) ? l->n_parts : 1;
        expected += (size_t)n;
        for (int p = 0; p < n; p++) {
            const part *want = &l->parts[p];
            char name[128];
            snprintf(name, sizeof name, "%s%s", t[i].name, n > 1 ? want->tail : "");
            const nib_tensor *got = nib_safetensors_find(st, name);
            EXPECT(got, "%s: %s is missing", l->name, name);
            if (!got) continue;
            const uint64_t size = (uint64_t)nib_tensor_type_get(got->type)->block_bytes;
            const uint64_t past = got->offset % size;
            EXPECT(past == 0, "%s: %s lies at %llu", l->name, name,
                   (unsigned long long)got->offset);
            if (n == 1) {
                EXPECT(got->type == t[i].type && got->n_dims == t[i].n_dims
                           && !memcmp(got->dims, t[i].dims, sizeof t[i].dims),
                       "%s: %s changed", l->name, name);
                continue;
            }
            EXPECT(got->type == want->type, "%s: %s has type %d", l->name, name, got->type);
            EXPECT(got->n_dims == want->n_dims, "%s: %s has %d dims", l->name, name, got->n_dims);
            const int64_t last = want->divisor ? t[i].dims[1] / want->divisor : 1;
            if (want->n_dims == 2)
                EXPECT(got->dims[0] == t[i].dims[0] && got->dims[1] == last,
                       "%s: %s is %lld x %lld", l->name, name, (long long)got->dims[0],
                       (long long)got->dims[1]);
            if (want->n_dims == 1) EXPECT(got->dims[0] == 1, "%s: %s", l->name, name);
        }
    }
    EXPECT(count == expected, "%s: %zu tensors, not %zu", l->name, count, expected);
    nib_safetensors_close(st);
}

NIB_TEST(CheckpointLayout, TensorsOfEveryFolderExport)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *dst = temp_path(&dir, "dst");
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 2), "%s", src);
    for (int i = 0; i < LAYOUTS; i++) {
        const layout *l = &layouts[i];
        const nib_status status = fixture_quantize(src, dst, l->export_as, l->format);
        EXPECT(status == NIB_OK, "%s: %s", l->name, nib_last_error());
        EXPECT(!fixture_leftovers(dst), "%s", l->name);
        check_tensors(l, dst);
        temp_dir_remove_at(dst);
    }
    temp_dir_remove(&dir);
}

/* ---- configuration ---- */

static const char *text_at(const json_t *j, const char *a, const char *b, const char *c)
{
    j = json_object_get(j, a);
    if (b) j = json_object_get(j, b);
    if (c) j = json_object_get(j, c);
    const char *text = json_string_value(j);
    return text ? text : "(none)";
}

static int lists(const json_t *array, const char *text)
{
    for (size_t i = 0; i < json_array_size(array); i++)
        if (!strcmp(json_string_value(json_array_get(array, i)), text)) return 1;
    return 0;
}

/* What stood in config.json must stand there still. */
static void check_rest(const json_t *config)
{
    EXPECT(!strcmp(text_at(config, "model_type", NULL, NULL), "llama"), "model_type");
    EXPECT(json_integer_value(json_object_get(config, "hidden_size")) == 64, "hidden_size");
    EXPECT(json_real_value(json_object_get(config, "rope_theta")) == 10000.0, "rope_theta");
    EXPECT(json_object_size(config) == 8, "%zu members", json_object_size(config));
}

NIB_TEST(CheckpointLayout, ModelOptConfiguration)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *dst = temp_path(&dir, "dst");
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", src);
    REQUIRE(fixture_quantize(src, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    json_t *config = fixture_json(dst, "config.json");
    json_t *separate = fixture_json(dst, "hf_quant_config.json");
    check_rest(config);
    const json_t *q = json_object_get(config, "quantization_config");
    const json_t *s = json_object_get(separate, "quantization");
    const json_t *w = json_object_get(
        json_object_get(json_object_get(q, "config_groups"), "group_0"), "weights");
    EXPECT(!strcmp(text_at(q, "quant_algo", NULL, NULL), "W4A16_NVFP4"), "quant_algo");
    EXPECT(!strcmp(text_at(q, "quant_method", NULL, NULL), "modelopt"), "quant_method");
    EXPECT(json_integer_value(json_object_get(w, "group_size")) == 16, "group_size");
    EXPECT(json_integer_value(json_object_get(w, "num_bits")) == 4, "num_bits");
    EXPECT(lists(json_object_get(q, "ignore"), "lm_head"), "lm_head is not ignored");
    EXPECT(!strcmp(text_at(separate, "producer", "name", NULL), "nibble"), "producer");
    EXPECT(!strcmp(text_at(s, "quant_algo", NULL, NULL), "W4A16_NVFP4"), "quant_algo");
    EXPECT(json_integer_value(json_object_get(s, "group_size")) == 16, "group_size");
    EXPECT(json_is_null(json_object_get(s, "kv_cache_quant_algo")), "kv_cache_quant_algo");
    EXPECT(lists(json_object_get(s, "exclude_modules"), "lm_head"), "exclude_modules");
    EXPECT(json_array_size(json_object_get(s, "exclude_modules")) == 1, "exclude_modules");
    json_decref(config);
    json_decref(separate);
    temp_dir_remove(&dir);
}

/* Loaders look for plain weights in modules that are listed. */
NIB_TEST(CheckpointLayout, AQuantizedHeadIsNotIgnored)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *dst = temp_path(&dir, "dst");
    const char *const include[] = { "lm_head.weight", "*mlp.down_proj.weight" };
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    o.include = include, o.n_include = 2;
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", src);
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    json_t *separate = fixture_json(dst, "hf_quant_config.json");
    const json_t *excluded = json_object_get(json_object_get(separate, "quantization"),
                                             "exclude_modules");
    EXPECT(!lists(excluded, "lm_head"), "lm_head is excluded, and quantized");
    EXPECT(lists(excluded, "model.layers.0.mlp.up_proj"), "%zu excluded",
           json_array_size(excluded));
    json_decref(separate);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointLayout, CompressedTensorsConfiguration)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src");
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", src);
    for (int mx = 0; mx < 2; mx++) {
        const char *dst = temp_path(&dir, mx ? "mx" : "nv");
        const char *name = mx ? "mxfp4-pack-quantized" : "nvfp4-pack-quantized";
        nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS,
                                                   mx ? NIB_MXFP4 : NIB_NVFP4);
        const char *exclude[] = { "*layers.1.mlp.*" };
        o.exclude = exclude;
        o.n_exclude = 1;
        REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_OK, "%s",
                nib_last_error());
        json_t *config = fixture_json(dst, "config.json");
        check_rest(config);
        const json_t *q = json_object_get(config, "quantization_config");
        const json_t *group = json_object_get(json_object_get(q, "config_groups"), "group_0");
        const json_t *w = json_object_get(group, "weights"), *ignore = json_object_get(q, "ignore");
        EXPECT(!strcmp(text_at(q, "quant_method", NULL, NULL), "compressed-tensors"), "method");
        EXPECT(!strcmp(text_at(q, "format", NULL, NULL), name), "format");
        EXPECT(!strcmp(text_at(group, "format", NULL, NULL), name), "format of the group");
        EXPECT(!strcmp(text_at(q, "quantization_status", NULL, NULL), "compressed"), "status");
        EXPECT(!strcmp(text_at(w, "strategy", NULL, NULL), mx ? "group" : "tensor_group"), "%s",
               name);
        EXPECT(json_integer_value(json_object_get(w, "group_size")) == (mx ? 32 : 16), "%s", name);
        EXPECT(json_is_null(json_object_get(group, "input_activations")), "weights only");
        EXPECT(lists(json_object_get(group, "targets"), "Linear"), "targets");
        EXPECT(json_array_size(ignore) == 4 && lists(ignore, "lm_head")
                   && lists(ignore, "model.layers.1.mlp.gate_proj")
                   && lists(ignore, "model.layers.1.mlp.up_proj")
                   && lists(ignore, "model.layers.1.mlp.down_proj"),
               "%zu ignored", json_array_size(ignore));
        EXPECT(!fixture_has(dst, "hf_quant_config.json"), "hf_quant_config.json");
        json_decref(config);
    }
    temp_dir_remove(&dir);
}

/* ---- files ---- */

NIB_TEST(CheckpointLayout, SmallFilesAreCopiedAndWeightsAreNot)
{
    static const char *const copied[] = { "generation_config.json", "tokenizer.json",
                                          "tokenizer_config.json", "special_tokens_map.json",
                                          "chat_template.jinja", "README.md" };
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *dst = temp_path(&dir, "dst");
    char path[600];
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 3), "%s", src);
    static const char *const decoys[] = { "README.md", "pytorch_model.bin", ".hidden",
                                          "pytorch_model.bin.index.json", "old.pt" };
    for (size_t i = 0; i < sizeof decoys / sizeof *decoys; i++) {
        snprintf(path, sizeof path, "%s/%s", src, decoys[i]);
        REQUIRE(temp_write(path, "decoy", 5), "%s", path);
    }
    snprintf(path, sizeof path, "%s/folder", src);
    REQUIRE(mkdir(path, 0777) == 0, "%s", path);
    REQUIRE(fixture_quantize(src, dst, NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        char from[600], to[600];
        snprintf(from, sizeof from, "%s/%s", src, copied[i]);
        snprintf(to, sizeof to, "%s/%s", dst, copied[i]);
        EXPECT(fixture_same(from, to), "%s", copied[i]);
    }
    /* Those, config.json and model.safetensors: no index for one file, nothing else. */
    EXPECT(temp_count(dst) == 8, "%d files", temp_count(dst));
    EXPECT(fixture_has(dst, "model.safetensors"), "model.safetensors");
    EXPECT(!fixture_has(dst, "model.safetensors.index.json"), "an index came over");
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointLayout, FilesAreSplitByTheirSize)
{
    enum { LIMIT = 20000 };
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *one = temp_path(&dir, "one");
    const char *dst = temp_path(&dir, "dst");
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_F32), FIXTURE_LLAMA, 1), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_MODELOPT, NIB_NVFP4);
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, one, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    o.max_file_bytes = LIMIT;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    json_t *index = fixture_json(dst, "model.safetensors.index.json");
    const json_t *map = json_object_get(index, "weight_map");
    nib_safetensors *st = NULL;
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
    size_t n;
    uint64_t total = 0;
    const nib_tensor *t = nib_safetensors_tensors(st, &n);
    uint64_t used[64] = { 0 };
    int tensors[64] = { 0 };
    for (size_t i = 0; i < n; i++) {
        const char *path = nib_safetensors_path(st, (size_t)t[i].file);
        const char *named = json_string_value(json_object_get(map, t[i].name));
        EXPECT(named && !strcmp(strrchr(path, '/') + 1, named), "%s: %s", t[i].name, named);
        total += t[i].bytes;
        used[t[i].file] += t[i].bytes;
        tensors[t[i].file]++;
    }
    EXPECT(json_object_size(map) == n, "%zu of %zu tensors", json_object_size(map), n);
    EXPECT((uint64_t)json_integer_value(json_object_get(json_object_get(index, "metadata"),
                                                        "total_size")) == total, "total_size");
    EXPECT(nib_safetensors_files(st) > 3, "%zu files", nib_safetensors_files(st));
    for (size_t f = 0; f < nib_safetensors_files(st); f++) /* only a tensor alone may be larger */
        EXPECT(used[f] <= LIMIT || tensors[f] == 1, "file %zu: %llu bytes in %d tensors", f,
               (unsigned long long)used[f], tensors[f]);
    EXPECT(fixture_same_tensors(one, dst), "the split changed bytes");
    nib_safetensors_close(st);
    json_decref(index);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointLayout, OddSizesStayAligned)
{
    static const fixture_tensor odd[] = { /* 3 bytes of scales each, then wider types */
        { "a.q_proj.weight", NIB_TT_F16, 2, { 1, 48 }, 1.0f, NULL },
        { "b.norm.weight", NIB_TT_F32, 1, { 3 }, 1.0f, NULL },
        { "c.ids", NIB_TT_I64, 1, { 5 }, 0, NULL },
        { "d.mask", NIB_TT_U8, 1, { 7 }, 0, NULL },
        { "e.down_proj.weight", NIB_TT_F32, 2, { 3, 16 }, 1.0f, NULL },
    };
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "src"), *dst = temp_path(&dir, "dst");
    REQUIRE(fixture_folder(src, odd, 5, 1), "%s", src);
    REQUIRE(fixture_quantize(src, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    nib_safetensors *st = NULL;
    size_t n;
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
    const nib_tensor *t = nib_safetensors_tensors(st, &n);
    EXPECT(n == 9, "%zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        const uint64_t past = t[i].offset % (uint64_t)nib_tensor_type_get(t[i].type)->block_bytes;
        EXPECT(past == 0, "%s lies at %llu", t[i].name, (unsigned long long)t[i].offset);
    }
    nib_safetensors_close(st);
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointLayout, BareFileMakesAFolderWithoutConfiguration)
{
    const temp_dir dir = temp_dir_make();
    const char *src = temp_path(&dir, "x.safetensors"), *dst = temp_path(&dir, "dst");
    REQUIRE(fixture_safetensors(src, fixture_llama(NIB_TT_F16), FIXTURE_LLAMA), "%s", src);
    REQUIRE(fixture_quantize(src, dst, NIB_EXPORT_MODELOPT, NIB_NVFP4) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(!fixture_has(dst, "config.json"), "config.json out of nothing");
    EXPECT(fixture_has(dst, "hf_quant_config.json"), "hf_quant_config.json");
    EXPECT(fixture_has(dst, "model.safetensors"), "model.safetensors");
    temp_dir_remove(&dir);
}
