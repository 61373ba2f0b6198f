/* checkpoint_integers_test.c: INT4 and INT8 exports. Bytes are compressed-tensors' own
 * (golden/pack_quantized.safetensors); layouts, configuration, and the same bytes in other ways. */
#include <math.h>

#include "model_fixture.h"
#include "shim.h"

#define GOLDEN "tests/golden/pack_quantized.safetensors"

static temp_dir dir;
static char src[300], dst[300], other[300];

static void begin(void)
{
    dir = temp_dir_make();
    snprintf(src, sizeof src, "%s/src", dir.path);
    snprintf(dst, sizeof dst, "%s/dst", dir.path);
    snprintf(other, sizeof other, "%s/other", dir.path);
}

static nib_format format_of(const char *name)
{
    nib_format f = 0;
    EXPECT(nib_int_format_from_name(name, &f) == NIB_OK, "%s", nib_last_error());
    return f;
}

static nib_status quantize(const char *to, const char *format)
{
    return fixture_quantize(src, to, NIB_EXPORT_COMPRESSED_TENSORS, format_of(format));
}

/* ---- what compressed-tensors writes ---- */

/* A golden tensor's name in a file of its own; NULL if it does not belong there. decoded: weights
 * of a setting, else what is stored; "": the source. */
static const char *name_in(const char *name, const char *setting, int decoded, int ragged)
{
    const size_t n = strlen(setting);
    if (!ragged && strstr(name, "ragged")) return NULL;
    if (!n) return strchr(name, '/') ? NULL : name;
    if (strncmp(name, setting, n) || name[n] != '/') return NULL;
    const char *tail = strrchr(name, '.');
    const int is_weight = strcmp(tail, ".weight") == 0;
    return is_weight == decoded ? name + n + 1 : NULL;
}

static int write_part(const nib_safetensors *golden, const char *path, const char *setting,
                      int decoded, int ragged)
{
    size_t n, used = 0;
    const nib_tensor *t = nib_safetensors_tensors(golden, &n), *chosen[64];
    nib_tensor_spec specs[64];
    nib_file_layout layout;
    for (size_t i = 0; i < n; i++) {
        const char *name = name_in(t[i].name, setting, decoded, ragged);
        if (!name || used == 64) continue;
        chosen[used] = &t[i];
        specs[used] = (nib_tensor_spec){ name, t[i].type, t[i].n_dims, { 0 } };
        memcpy(specs[used++].dims, t[i].dims, sizeof t[i].dims);
    }
    if (nib_safetensors_layout(specs, used, &layout) != NIB_OK) return 0;
    uint8_t *bytes = calloc(1, layout.file_bytes);
    memcpy(bytes, layout.header, layout.header_bytes);
    for (size_t i = 0; i < used; i++)
        memcpy(bytes + layout.offsets[i], chosen[i]->data, chosen[i]->bytes);
    const int ok = temp_write(path, bytes, layout.file_bytes);
    nib_file_layout_free(&layout);
    free(bytes);
    return ok && used > 0;
}

/* 1 if both models hold the same values. */
static int same_values(const char *a, const char *b)
{
    nib_checkpoint_report *r = NULL;
    const nib_status s = nib_checkpoint_compare(fixture_exec(0), a, b, NULL, &r);
    EXPECT(s == NIB_OK, "%s", nib_last_error());
    int same = s == NIB_OK && r->nonfinite == 0;
    for (uint64_t i = 0; s == NIB_OK && i < r->n_tensors; i++)
        same &= r->tensors[i].error.sum_sq_error == 0;
    nib_checkpoint_report_free(r);
    return same;
}

NIB_TEST(CheckpointIntegers, BytesOfCompressedTensors)
{
    nib_safetensors *golden = NULL;
    begin();
    REQUIRE(nib_safetensors_open(GOLDEN, &golden) == NIB_OK, "%s", nib_last_error());
    for (int i = 0; i < 8; i++) {
        char setting[32];
        const char *plain = temp_path(&dir, "plain"), *theirs = temp_path(&dir, "theirs");
        const int by_row = i / 2 % 2;
        snprintf(setting, sizeof setting, "int%d%s%s", i < 4 ? 4 : 8, by_row ? "-channel" : "",
                 i % 2 ? "-asym" : "");
        REQUIRE(write_part(golden, src, "", 0, by_row) && write_part(golden, plain, setting, 1, 1)
                    && write_part(golden, theirs, setting, 0, 1), "%s", setting);
        REQUIRE(quantize(dst, setting) == NIB_OK, "%s: %s", setting, nib_last_error());
        EXPECT(fixture_same_tensors(dst, theirs), "%s: other tensors", setting);
        EXPECT(same_values(dst, plain) && same_values(plain, theirs), "%s: decoded", setting);
        EXPECT(!same_values(src, dst), "%s: nothing was rounded", setting);
        temp_dir_remove_at(dst);
    }
    nib_safetensors_close(golden);
    temp_dir_remove(&dir);
}

/* ---- layout and configuration ---- */

static const json_t *at(const json_t *j, const char *a, const char *b, const char *c)
{
    j = json_object_get(j, a);
    if (b) j = json_object_get(j, b);
    return c ? json_object_get(j, c) : j;
}

static int is_text(const json_t *j, const char *text)
{
    return json_is_string(j) && !strcmp(json_string_value(j), text);
}

static void check_shapes(const char *tail, nib_tensor_type type, int64_t rows, int64_t cols)
{
    char name[128];
    nib_safetensors *st = NULL;
    snprintf(name, sizeof name, "model.layers.1.mlp.down_proj.%s", tail);
    REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
    const nib_tensor *t = nib_safetensors_find(st, name);
    EXPECT(t && t->type == type && t->n_dims == 1 + (cols != 0) && t->dims[0] == rows
               && (!cols || t->dims[1] == cols), "%s", name);
    nib_safetensors_close(st);
}

NIB_TEST(CheckpointIntegers, ConfigurationAndShapes)
{
    begin();
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_F16), FIXTURE_LLAMA, 2), "%s", src);
    REQUIRE(quantize(dst, "int4-b32-asym") == NIB_OK, "%s", nib_last_error());
    json_t *config = fixture_json(dst, "config.json");
    const json_t *q = json_object_get(config, "quantization_config");
    const json_t *g = at(q, "config_groups", "group_0", NULL), *w = json_object_get(g, "weights");
    EXPECT(is_text(at(q, "quant_method", NULL, NULL), "compressed-tensors")
               && is_text(at(q, "format", NULL, NULL), "pack-quantized")
               && is_text(at(q, "quantization_status", NULL, NULL), "compressed")
               && is_text(at(g, "format", NULL, NULL), "pack-quantized"), "formats");
    EXPECT(json_integer_value(json_object_get(w, "num_bits")) == 4
               && is_text(json_object_get(w, "type"), "int")
               && is_text(json_object_get(w, "strategy"), "group")
               && json_integer_value(json_object_get(w, "group_size")) == 32
               && json_is_false(json_object_get(w, "symmetric"))
               && json_is_false(json_object_get(w, "dynamic"))
               && json_is_null(json_object_get(w, "actorder")), "weights");
    EXPECT(is_text(json_array_get(json_object_get(g, "targets"), 0), "Linear")
               && is_text(json_array_get(json_object_get(q, "ignore"), 0), "lm_head"), "modules");
    json_decref(config);
    check_shapes("weight_packed", NIB_TT_I32, 64, 16);
    check_shapes("weight_scale", NIB_TT_F16, 64, 4);
    check_shapes("weight_zero_point", NIB_TT_I32, 8, 4);
    check_shapes("weight_shape", NIB_TT_I64, 2, 0);
    temp_dir_remove_at(dst);

    REQUIRE(quantize(dst, "int8-channel") == NIB_OK, "%s", nib_last_error());
    config = fixture_json(dst, "config.json");
    w = at(json_object_get(config, "quantization_config"), "config_groups", "group_0", "weights");
    EXPECT(json_integer_value(json_object_get(w, "num_bits")) == 8
               && is_text(json_object_get(w, "strategy"), "channel")
               && json_is_null(json_object_get(w, "group_size"))
               && json_is_true(json_object_get(w, "symmetric")), "weights");
    json_decref(config);
    check_shapes("weight_packed", NIB_TT_I32, 64, 32);
    check_shapes("weight_scale", NIB_TT_F16, 64, 1);
    temp_dir_remove(&dir);
}

/* GGUF's blocks have no type of their own that a step could have: --keep-dtype's. */
NIB_TEST(CheckpointIntegers, StepsOfBlocksHaveTheKeptType)
{
    begin();
    REQUIRE(fixture_gguf(src, fixture_llama_gguf(NIB_TT_Q8_0), FIXTURE_LLAMA), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS,
                                               format_of("int8-b32"));
    o.keep_dtype = NIB_F32;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    check_shapes("weight_scale", NIB_TT_F32, 64, 4);
    temp_dir_remove(&dir);
}

/* ---- policies ---- */

static json_t *by_policy(const char *text)
{
    nib_policy *policy = NULL;
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, NIB_NVFP4);
    nib_status s = nib_policy_parse("p", text, strlen(text), &policy);
    o.policy = policy;
    if (s == NIB_OK) s = nib_checkpoint_quantize(fixture_exec(0), src, dst, &o, NULL);
    nib_policy_close(policy);
    EXPECT(s == NIB_OK, "%s", nib_last_error());
    json_t *config = s == NIB_OK ? fixture_json(dst, "config.json") : NULL;
    temp_dir_remove_at(dst);
    return config;
}

NIB_TEST(CheckpointIntegers, BesideOtherFormats)
{
    begin();
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", src);
    json_t *config = by_policy("*.self_attn.*_proj.weight int4-b64\n*.down_proj.weight int8-channel"
                               "-asym\n*.mlp.*_proj.weight nvfp4\nlm_head.weight int4-b32\n");
    const json_t *q = json_object_get(config, "quantization_config");
    EXPECT(is_text(json_object_get(q, "format"), "mixed-precision")
               && json_object_size(json_object_get(q, "config_groups")) == 4, "format");
    EXPECT(is_text(at(q, "config_groups", "group_0", "format"), "nvfp4-pack-quantized")
               && is_text(at(q, "config_groups", "group_1", "format"), "pack-quantized"), "groups");
    const json_t *names = at(q, "config_groups", "group_1", "targets");
    EXPECT(json_array_size(names) == 2
               && is_text(json_array_get(names, 0), "model.layers.0.mlp.down_proj"), "targets");
    EXPECT(json_array_size(json_object_get(q, "ignore")) == 0, "lm_head is ignored");
    json_decref(config);
    config = by_policy("*.self_attn.*_proj.weight int4-b64\n*.mlp.*_proj.weight int8-b32\n");
    q = json_object_get(config, "quantization_config");
    EXPECT(is_text(json_object_get(q, "format"), "pack-quantized")
               && json_object_size(json_object_get(q, "config_groups")) == 2, "both are packed");
    json_decref(config);
    temp_dir_remove(&dir);
}

/* ---- the same bytes in other ways ---- */

/* Panels of asymmetric integers end where a word of zero points does, however long a row is. */
NIB_TEST(CheckpointIntegers, AnyThreadsAndPanels)
{
    static const fixture_tensor t[] = {
        { "a.down_proj.weight", NIB_TT_BF16, 2, { 21, 24576 }, 0.5f, NULL },
        { "b.down_proj.weight", NIB_TT_F32, 2, { 700, 512 }, 0.7f, NULL },
        { "c.down_proj.weight", NIB_TT_F16, 2, { 0, 256 }, 0.7f, NULL },
        { "d.down_proj.weight", NIB_TT_F16, 2, { 3, 256 }, 0.0f, NULL },
    };
    static const char *const formats[] = { "int4-asym", "int8-channel-asym", "int4-b8", "int8" };
    begin();
    REQUIRE(fixture_safetensors(src, t, 4), "%s", src);
    for (int i = 0; i < 4; i++) {
        nib_safetensors *st = NULL;
        const nib_format f = format_of(formats[i]);
        const nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS, f);
        for (int threads = 1; threads < 4; threads += 2) {
            const nib_status s = nib_checkpoint_quantize(fixture_exec(threads), src,
                                                         threads == 1 ? dst : other, &o, NULL);
            REQUIRE(s == NIB_OK, "%s: %s", formats[i], nib_last_error());
        }
        EXPECT(fixture_same(dst, other), "%s: threads", formats[i]);
        int64_t n;
        float *x = fixture_floats(&t[0], &n);
        const int64_t groups = nib_int_format_group(f) ? 24576 / nib_int_format_group(f) : 1;
        float *steps = malloc((size_t)(21 * groups) * 4);
        int8_t *zeros = malloc((size_t)(21 * groups));
        uint8_t *codes = malloc((size_t)n);
        const int asymmetric = nib_int_format_asymmetric(f);
        const int bits = (int)nib_int_format_element(f) - 16, each = 32 / bits;
        const nib_matrix m = { x, NIB_F32, 21, 24576, 24576 };
        const nib_packed_steps p = {
            .size = sizeof p, .element = nib_int_format_element(f), .asymmetric = asymmetric,
            .step_rule = NIB_STEP_BF16, .rows = 21, .cols = 24576, .group = 24576 / groups,
            .codes = codes, .ld_codes_bytes = 24576 * bits / 8, .steps = steps,
            .zeros = asymmetric ? zeros : NULL, .divisor = NIB_STEP_OF_HALF };
        EXPECT(nib_quantize_steps(fixture_exec(1), &m, 0, &p) == NIB_OK, "%s", nib_last_error());
        REQUIRE(nib_safetensors_open(dst, &st) == NIB_OK, "%s", nib_last_error());
        const nib_tensor *c = nib_safetensors_find(st, "a.down_proj.weight_packed");
        const nib_tensor *z = nib_safetensors_find(st, "a.down_proj.weight_zero_point");
        REQUIRE(c && c->bytes == (uint64_t)(21 * p.ld_codes_bytes) && !z == !asymmetric, "parts");
        for (uint64_t b = 0; b < c->bytes; b++)
            if (c->data[b] != (codes[b] ^ (bits == 4 ? 0x88 : 0x80)))
                REQUIRE(0, "%s: byte %llu of codes", formats[i], (unsigned long long)b);
        for (int64_t k = 0; z && k < 21 * groups; k++) {
            uint32_t word;
            const int64_t row = k / groups;
            memcpy(&word, z->data + (row / each * groups + k % groups) * 4, 4);
            const int got = (int)(word >> row % each * bits & ((1u << bits) - 1));
            if (got != zeros[k] + (1 << (bits - 1)))
                REQUIRE(0, "%s: zero point %lld is %d", formats[i], (long long)k, got);
        }
        nib_safetensors_close(st);
        free(x), free(steps), free(zeros), free(codes);
        temp_dir_remove_at(dst);
        temp_dir_remove_at(other);
    }
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointIntegers, PartsAreTheWhole)
{
    char parts[3][300];
    const char *paths[3];
    begin();
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 2), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS,
                                               format_of("int4-b16-asym"));
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), src, dst, &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    o.shards = 3;
    for (int i = 0; i < 3; i++) {
        snprintf(parts[i], sizeof parts[i], "%s/part%d", dir.path, i);
        paths[i] = parts[i];
        o.shard = i + 1;
        REQUIRE(nib_checkpoint_quantize(fixture_exec(2), src, parts[i], &o, NULL) == NIB_OK, "%s",
                nib_last_error());
    }
    REQUIRE(nib_checkpoint_merge(paths, 3, other, 0) == NIB_OK, "%s", nib_last_error());
    EXPECT(fixture_same_tensors(dst, other), "other tensors");
    temp_dir_remove_at(other);
    o.format = format_of("int4-b16"); /* a part of another run */
    temp_dir_remove_at(parts[2]);
    REQUIRE(nib_checkpoint_quantize(fixture_exec(2), src, parts[2], &o, NULL) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(nib_checkpoint_merge(paths, 3, other, 0) == NIB_ERR_ARGUMENT, "merged");
    temp_dir_remove(&dir);
}

NIB_TEST(CheckpointIntegers, ResumesToTheSameBytesAndFigures)
{
    fixture_stopper s = { 0, 0 };
    nib_checkpoint_report *whole = NULL, *r = NULL;
    begin();
    REQUIRE(fixture_folder(src, fixture_llama(NIB_TT_BF16), FIXTURE_LLAMA, 1), "%s", src);
    nib_checkpoint_options o = fixture_options(NIB_EXPORT_COMPRESSED_TENSORS,
                                               format_of("int8-b64-asym"));
    REQUIRE(nib_checkpoint_quantize(fixture_exec(1), src, other, &o, &whole) == NIB_OK, "%s",
            nib_last_error());
    o.progress = fixture_stop;
    o.user = &s;
    o.cancel = &s.cancel;
    o.resume = 1;
    for (s.after = 4; s.after < 18; s.after += 5) {
        s.cancel = 0;
        EXPECT(nib_checkpoint_quantize(fixture_exec(2), src, dst, &o, NULL) == NIB_ERR_CANCELLED,
               "%d: %s", s.after, nib_last_error());
    }
    s.after = 1000, s.cancel = 0;
    REQUIRE(nib_checkpoint_quantize(fixture_exec(2), src, dst, &o, &r) == NIB_OK, "%s",
            nib_last_error());
    EXPECT(fixture_same(dst, other), "other bytes");
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        const nib_quantize_report *a = &whole->tensors[i].error, *b = &r->tensors[i].error;
        EXPECT(a->elements == b->elements && a->saturated == b->saturated
                   && a->flushed == b->flushed && a->sum_sq_error == b->sum_sq_error
                   && a->max_error == b->max_error, "%s: other figures", r->tensors[i].name);
    }
    nib_checkpoint_report_free(whole);
    nib_checkpoint_report_free(r);
    temp_dir_remove(&dir);
}
