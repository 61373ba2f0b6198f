/* model_fixture.c: writing models. What came out of runs is read in model_fixture_read.c. */
#include "model_fixture.h"

#include "kernels/backend.h"

/* ---- values ---- */

static uint64_t seed_of(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h | 1;
}

static int64_t count_of(const fixture_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->dims[i];
    return n;
}

/* Sum of two uniform numbers: a peak in the middle, as weights have. */
static void fill(const fixture_tensor *t, float *x, int64_t n)
{
    uint64_t s = seed_of(t->name);
    for (int64_t i = 0; i < n; i++) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17; /* Marsaglia's xorshift64 */
        const float u = (float)(s >> 40) * 0x1p-24f, v = (float)(s >> 16 & 0xffffff) * 0x1p-24f;
        x[i] = t->amp * (u + v - 1.0f);
    }
    if (t->edit) t->edit(x, n);
}

static int dtype_of(nib_tensor_type type, nib_dtype *dtype)
{
    *dtype = type == NIB_TT_F32 ? NIB_F32 : type == NIB_TT_F16 ? NIB_F16 : NIB_BF16;
    return type == NIB_TT_F32 || type == NIB_TT_F16 || type == NIB_TT_BF16;
}

uint8_t *fixture_bytes(const fixture_tensor *t, uint64_t *bytes)
{
    const nib_tensor_type_info *info = nib_tensor_type_get(t->type);
    const int64_t n = count_of(t);
    nib_dtype dtype;
    *bytes = (uint64_t)(n / info->block * info->block_bytes);
    uint8_t *data = malloc(*bytes + 4);
    float *x = malloc((size_t)n * sizeof *x + 4);
    if (dtype_of(t->type, &dtype)) {
        fill(t, x, n);
        nib_scalar_cpu.from_f32(dtype, x, n, data);
    } else {
        for (uint64_t i = 0; i < *bytes; i++) data[i] = (uint8_t)(i % 61);
    }
    free(x);
    return data;
}

float *fixture_floats(const fixture_tensor *t, int64_t *n)
{
    uint64_t bytes;
    nib_dtype dtype;
    uint8_t *data = fixture_bytes(t, &bytes);
    *n = count_of(t);
    float *x = malloc((size_t)*n * sizeof *x + 4);
    if (dtype_of(t->type, &dtype)) nib_scalar_cpu.to_f32(dtype, data, *n, x);
    free(data);
    return x;
}

/* ---- files ---- */

static int write_laid_out(const char *path, const nib_file_layout *layout,
                          const fixture_tensor *t, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f) return 0;
    int ok = fwrite(layout->header, 1, layout->header_bytes, f) == layout->header_bytes;
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes;
        uint8_t *data = fixture_bytes(&t[i], &bytes);
        ok &= !fseek(f, (long)layout->offsets[i], SEEK_SET);
        ok &= fwrite(data, 1, bytes, f) == bytes;
        free(data);
    }
    ok &= !fflush(f) && !ftruncate(fileno(f), (off_t)layout->file_bytes);
    return !fclose(f) && ok;
}

static nib_tensor_spec *specs_of(const fixture_tensor *t, size_t n)
{
    nib_tensor_spec *specs = calloc(n + 1, sizeof *specs);
    for (size_t i = 0; i < n; i++) {
        specs[i] = (nib_tensor_spec){ t[i].name, t[i].type, t[i].n_dims, { 0 } };
        memcpy(specs[i].dims, t[i].dims, sizeof t[i].dims);
    }
    return specs;
}

int fixture_safetensors(const char *path, const fixture_tensor *t, size_t n)
{
    nib_file_layout layout;
    nib_tensor_spec *specs = specs_of(t, n);
    const int ok = nib_safetensors_layout(specs, n, &layout) == NIB_OK
                && write_laid_out(path, &layout, t, n);
    nib_file_layout_free(&layout);
    free(specs);
    return ok;
}

/* What a GGUF file of the small Llama says: enough for a Hugging Face folder to be made of it. */
static int set_llama(nib_gguf_meta *meta)
{
    static const struct {
        const char *key;
        uint32_t    value;
    } numbers[] = { { "llama.block_count", 2 },          { "llama.context_length", 128 },
                    { "llama.embedding_length", 64 },    { "llama.feed_forward_length", 128 },
                    { "llama.attention.head_count", 4 }, { "llama.attention.head_count_kv", 2 },
                    { "llama.rope.dimension_count", 16 }, { "llama.vocab_size", 96 },
                    { "tokenizer.ggml.unknown_token_id", 0 },
                    { "tokenizer.ggml.bos_token_id", 1 }, { "tokenizer.ggml.eos_token_id", 2 } };
    enum { VOCAB = 96 };
    char text[VOCAB][8];
    nib_gguf_string tokens[VOCAB];
    float scores[VOCAB];
    int32_t types[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        snprintf(text[i], sizeof text[i], i ? "t%d" : "<unk>", i);
        tokens[i] = (nib_gguf_string){ text[i], strlen(text[i]) };
        scores[i] = -(float)i;
        types[i] = i == 0 ? 2 : i < 3 ? 3 : 1; /* unknown, control, normal */
    }
    int ok = nib_gguf_set_str(meta, "general.architecture", "llama", 5) == NIB_OK
          && nib_gguf_set_str(meta, "general.name", "fixture", 7) == NIB_OK
          && nib_gguf_set_str(meta, "tokenizer.ggml.model", "llama", 5) == NIB_OK
          && nib_gguf_set_f32(meta, "llama.attention.layer_norm_rms_epsilon", 1e-5f) == NIB_OK
          && nib_gguf_set_f32(meta, "llama.rope.freq_base", 1e4f) == NIB_OK
          && nib_gguf_set_str_array(meta, "tokenizer.ggml.tokens", tokens, VOCAB) == NIB_OK
          && nib_gguf_set_f32_array(meta, "tokenizer.ggml.scores", scores, VOCAB) == NIB_OK
          && nib_gguf_set_i32_array(meta, "tokenizer.ggml.token_type", types, VOCAB) == NIB_OK;
    for (size_t i = 0; ok && i < sizeof numbers / sizeof *numbers; i++)
        ok = nib_gguf_set_u32(meta, numbers[i].key, numbers[i].value) == NIB_OK;
    return ok;
}

int fixture_gguf(const char *path, const fixture_tensor *t, size_t n)
{
    return fixture_gguf_split(path, t, n, 0);
}

int fixture_gguf_split(const char *path, const fixture_tensor *t, size_t n, uint32_t files)
{
    nib_file_layout layout = { 0 };
    nib_tensor_spec *specs = specs_of(t, n);
    nib_gguf_meta *meta = nib_gguf_meta_new();
    const int ok = meta && set_llama(meta)
                && (!files || nib_gguf_set_u32(meta, "split.count", files) == NIB_OK)
                && nib_gguf_layout(meta, specs, n, &layout) == NIB_OK
                && write_laid_out(path, &layout, t, n);
    nib_file_layout_free(&layout);
    nib_gguf_meta_free(meta);
    free(specs);
    return ok;
}

static int write_text(const char *folder, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return temp_write(path, text, strlen(text));
}

static int write_index(const char *folder, const fixture_tensor *t, size_t n, size_t files)
{
    char path[600], file[64];
    json_t *map = json_object();
    for (size_t i = 0; i < n; i++) {
        snprintf(file, sizeof file, "model-%05zu-of-%05zu.safetensors", i * files / n + 1, files);
        json_object_set_new(map, t[i].name, json_string(file));
    }
    json_t *index = json_pack("{s:{s:i},s:o}", "metadata", "total_size", 0, "weight_map", map);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    const int ok = json_dump_file(index, path, 0) == 0;
    json_decref(index);
    return ok;
}

int fixture_folder(const char *path, const fixture_tensor *t, size_t n, size_t files)
{
    char name[600];
    if (mkdir(path, 0777)) return 0;
    int ok = write_text(path, "config.json",
                        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
                        "\"hidden_size\": 64, \"num_attention_heads\": 4, \"vocab_size\": 96,\n"
                        " \"rope_theta\": 10000.0, \"torch_dtype\": \"bfloat16\"}\n");
    ok &= write_text(path, "generation_config.json", "{\"eos_token_id\": 2}\n");
    ok &= write_text(path, "tokenizer.json", "{\"version\": \"1.0\", \"x\": \"\\u00e9\"}\n");
    ok &= write_text(path, "tokenizer_config.json", "{\"bos_token\": \"<s>\"}\n");
    ok &= write_text(path, "special_tokens_map.json", "{}\n");
    ok &= write_text(path, "chat_template.jinja", "{{ messages }}\n");
    for (size_t f = 0; f < files; f++) {
        const size_t from = (f * n + files - 1) / files, to = ((f + 1) * n + files - 1) / files;
        if (files == 1) snprintf(name, sizeof name, "%s/model.safetensors", path);
        else snprintf(name, sizeof name, "%s/model-%05zu-of-%05zu.safetensors", path, f + 1, files);
        ok &= fixture_safetensors(name, t + from, to - from);
    }
    return ok && (files == 1 || write_index(path, t, n, files));
}

/* ---- the small Llama ---- */

typedef struct row {
    const char *hf, *gguf;
    int         n_dims;
    int64_t     dims[2];
    float       amp;
} row;

#define LAYER(l)                                                                               \
    { "model.layers." l ".self_attn.q_proj.weight", "blk." l ".attn_q.weight", 2, { 64, 64 },  \
      0.5f },                                                                                  \
    { "model.layers." l ".self_attn.k_proj.weight", "blk." l ".attn_k.weight", 2, { 32, 64 },  \
      0.3f },                                                                                  \
    { "model.layers." l ".self_attn.v_proj.weight", "blk." l ".attn_v.weight", 2, { 32, 64 },  \
      0.7f },                                                                                  \
    { "model.layers." l ".self_attn.o_proj.weight", "blk." l ".attn_output.weight", 2,         \
      { 64, 64 }, 0.2f },                                                                      \
    { "model.layers." l ".mlp.gate_proj.weight", "blk." l ".ffn_gate.weight", 2, { 128, 64 },  \
      0.11f },                                                                                 \
    { "model.layers." l ".mlp.up_proj.weight", "blk." l ".ffn_up.weight", 2, { 128, 64 },      \
      0.13f },                                                                                 \
    { "model.layers." l ".mlp.down_proj.weight", "blk." l ".ffn_down.weight", 2, { 64, 128 },  \
      0.17f },                                                                                 \
    { "model.layers." l ".input_layernorm.weight", "blk." l ".attn_norm.weight", 1, { 64, 0 }, \
      1.0f },                                                                                  \
    { "model.layers." l ".post_attention_layernorm.weight", "blk." l ".ffn_norm.weight", 1,    \
      { 64, 0 }, 1.0f }

static const row rows[FIXTURE_LLAMA] = {
    { "model.embed_tokens.weight", "token_embd.weight", 2, { 96, 64 }, 0.9f },
    LAYER("0"),
    LAYER("1"),
    { "model.norm.weight", "output_norm.weight", 1, { 64, 0 }, 1.0f },
    { "lm_head.weight", "output.weight", 2, { 96, 64 }, 0.8f },
};

/* Norms are F32 in a GGUF file. */
static const fixture_tensor *table(nib_tensor_type type, int gguf)
{
    static fixture_tensor tables[2][NIB_TT_COUNT][FIXTURE_LLAMA];
    fixture_tensor *t = tables[gguf][type];
    for (size_t i = 0; i < FIXTURE_LLAMA; i++) {
        t[i] = (fixture_tensor){ gguf ? rows[i].gguf : rows[i].hf,
                                 gguf && rows[i].n_dims == 1 ? NIB_TT_F32 : type, rows[i].n_dims,
                                 { rows[i].dims[0], rows[i].dims[1] }, rows[i].amp, NULL };
    }
    return t;
}

const fixture_tensor *fixture_llama(nib_tensor_type type) { return table(type, 0); }
const fixture_tensor *fixture_llama_gguf(nib_tensor_type type) { return table(type, 1); }

const fixture_tensor *fixture_find(const fixture_tensor *t, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(t[i].name, name)) return &t[i];
    return NULL;
}

void fixture_stop(void *stopper, const nib_progress *state)
{
    fixture_stopper *const s = stopper;
    if (state->tensors_done >= (uint64_t)s->after) s->cancel = 1;
}
