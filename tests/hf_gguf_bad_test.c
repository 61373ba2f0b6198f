/* hf_gguf_bad_test.c: metadata and folders that must be refused, each with the key or file in
 * the sentence. Looks below include/. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/hf_parts.h"
#include "shim.h"
#include "temp_dir.h"

#define GOLDEN "tests/golden/hf_gguf/"

/* One change of a golden file's metadata. */
typedef enum change { DROP, U32, U64, F32, STR, STRS, I32S, BOOLEAN } change;

typedef struct bad_key {
    const char *file, *key;
    change      change;
    double      number;
    const char *text;
    nib_status  status;
    const char *says;
} bad_key;

#define F NIB_ERR_FORMAT
#define U NIB_ERR_UNSUPPORTED
static const bad_key bad_keys[] = {
    { "bpe", "general.architecture", DROP, 0, "", F, "general.architecture" },
    { "bpe", "general.architecture", STR, 0, "gemma", U, "gemma" },
    { "bpe", "llama.block_count", DROP, 0, "", F, "llama.block_count" },
    { "bpe", "llama.block_count", U32, 0, "", F, "0, outside" },
    { "bpe", "llama.block_count", U32, 65537, "", F, "65537" },
    { "bpe", "llama.block_count", U64, 0x1p40, "", F, "1099511627776" },
    { "bpe", "llama.block_count", U64, 0x1p63, "", F, "9223372036854775808" },
    { "bpe", "llama.block_count", STR, 0, "2", F, "llama.block_count" },
    { "bpe", "llama.block_count", F32, 2, "", F, "llama.block_count" },
    { "bpe", "llama.embedding_length", DROP, 0, "", F, "embedding_length" },
    { "bpe", "llama.embedding_length", U32, 33, "", F, "33" },
    { "bpe", "llama.embedding_length", U32, 20, "", F, "heads of 5" },
    { "bpe", "llama.feed_forward_length", U32, 0, "", F, "feed_forward_length" },
    { "bpe", "llama.context_length", DROP, 0, "", F, "context_length" },
    { "bpe", "llama.attention.head_count", U32, 0, "", F, "head_count" },
    { "bpe", "llama.attention.head_count", I32S, 4, "", F, "head_count" },
    { "bpe", "llama.attention.head_count_kv", U32, 3, "", F, "3" },
    { "bpe", "llama.attention.head_count_kv", U32, 0, "", F, "head_count_kv" },
    { "bpe", "llama.attention.layer_norm_rms_epsilon", DROP, 0, "", F, "epsilon" },
    { "bpe", "llama.attention.layer_norm_rms_epsilon", F32, -1, "", F, "-1" },
    { "bpe", "llama.rope.freq_base", F32, 0, "", F, "freq_base" },
    { "bpe", "llama.rope.dimension_count", U32, 4, "", U, "rope.dimension_count 4" },
    { "bpe", "llama.attention.value_length", U32, 16, "", U, "value_length 16" },
    { "bpe", "llama.expert_count", U32, 8, "", U, "expert_count" },
    { "bpe", "llama.attention.sliding_window", U32, 64, "", U, "sliding_window" },
    { "bpe", "llama.logit_scale", F32, 2, "", U, "logit_scale" },
    { "bpe", "llama.rope.scaling.type", STR, 0, "longrope", U, "longrope" },
    { "bpe", "llama.rope.scaling.type", STR, 0, "linear", F, "rope.scaling.factor" },
    { "qwen2", "qwen2.rope.scaling.original_context_length", DROP, 0, "", F, "original_context" },
    { "llama3", "llama.rope.freq_base", F32, 500, "", U, "rope_freqs.weight" },
    { "llama3", "llama.rope.scaling.type", STR, 0, "yarn", U, "rope_freqs.weight" },
    { "bpe", "llama.vocab_size", U32, 300, "", F, "vocab_size 300" },
    { "bpe", "tokenizer.ggml.tokens", DROP, 0, "", F, "tokenizer.ggml.tokens" },
    { "bpe", "tokenizer.ggml.tokens", U32, 5, "", F, "tokenizer.ggml.tokens" },
    { "bpe", "tokenizer.ggml.tokens", STRS, 1, "a", F, "token_type" },
    { "bpe", "tokenizer.ggml.token_type", I32S, 3, "", F, "1 items for 262" },
    { "bpe", "tokenizer.ggml.token_type", STR, 0, "x", F, "token_type" },
    { "bpe", "tokenizer.ggml.merges", DROP, 0, "", F, "merges is missing" },
    { "bpe", "tokenizer.ggml.merges", STRS, 1, "he", F, "merges[0]" },
    { "bpe", "tokenizer.ggml.merges", STRS, 1, "h e l", F, "merges[0]" },
    { "bpe", "tokenizer.ggml.merges", STRS, 1, " he", F, "merges[0]" },
    { "bpe", "tokenizer.ggml.merges", STRS, 1, "he ", F, "merges[0]" },
    { "bpe", "tokenizer.ggml.merges", STRS, 1, "h x", F, "merges[0]" },
    { "bpe", "tokenizer.ggml.merges", I32S, 1, "", F, "merges" },
    { "bpe", "tokenizer.ggml.bos_token_id", U32, 262, "", F, "bos_token_id is 262" },
    { "bpe", "tokenizer.ggml.padding_token_id", U32, 4e9, "", F, "padding_token_id" },
    { "bpe", "tokenizer.ggml.add_eos_token", BOOLEAN, 1, "", NIB_OK, "" },
    { "bpe", "tokenizer.ggml.model", STR, 0, "bert", U, "bert" },
    { "bpe", "tokenizer.ggml.model", DROP, 0, "", U, "tokenizer.ggml.model" },
    { "bpe", "tokenizer.ggml.pre", STR, 0, "tekken", U, "smollm, llama-bpe" },
    { "bpe", "tokenizer.ggml.pre", DROP, 0, "", NIB_OK, "" }, /* llama.cpp's "default" */
    { "bpe", "tokenizer.ggml.add_space_prefix", BOOLEAN, 1, "", U, "add_space_prefix" },
    { "bpe", "tokenizer.chat_template", STR, 0, "\xff", F, "chat_template" },
    { "llama3", "tokenizer.ggml.bos_token_id", DROP, 0, "", F, "add_bos_token" },
    { "spm", "tokenizer.ggml.scores", DROP, 0, "", F, "scores" },
    { "spm", "tokenizer.ggml.scores", I32S, 1, "", F, "1 items for 269" },
};

static nib_status apply(const bad_key *bad, nib_gguf_meta *meta)
{
    const nib_gguf_string text = { bad->text, strlen(bad->text) };
    const int32_t number = bad->change == I32S ? (int32_t)bad->number : 0;
    const uint64_t wide = (uint64_t)bad->number;
    nib_gguf_pair pair;
    switch (bad->change) {
    case DROP:    return NIB_OK;
    case U32:     return nib_gguf_set_u32(meta, bad->key, (uint32_t)bad->number);
    case F32:     return nib_gguf_set_f32(meta, bad->key, (float)bad->number);
    case BOOLEAN: return nib_gguf_set_bool(meta, bad->key, 1);
    case STR:     return nib_gguf_set_str(meta, bad->key, text.data, text.bytes);
    case STRS:    return nib_gguf_set_str_array(meta, bad->key, &text, 1);
    case I32S:    return nib_gguf_set_i32_array(meta, bad->key, &number, 1);
    case U64:
        memset(&pair, 0, sizeof pair);
        pair.key = (nib_gguf_string){ bad->key, strlen(bad->key) };
        pair.value.type = NIB_GGUF_U64;
        pair.value.count = 1;
        pair.value.as.u = wide;
        return nib_gguf_set_pair(meta, &pair);
    }
    return NIB_ERR_ARGUMENT;
}

/* The golden file again, with its tensors (their data zero but for rope_freqs) and one change. */
static nib_gguf *changed(const bad_key *bad, nib_file_layout *layout, uint8_t **bytes)
{
    char path[128];
    nib_gguf *source, *made = NULL;
    snprintf(path, sizeof path, GOLDEN "%s.gguf", bad->file);
    if (nib_gguf_open(path, &source) != NIB_OK) return NULL;
    nib_gguf_meta *meta = nib_gguf_meta_new();
    size_t pairs, count;
    const nib_gguf_pair *pair = nib_gguf_pairs(source, &pairs);
    for (size_t i = 0; i < pairs; i++) {
        const int is_it = pair[i].key.bytes == strlen(bad->key) &&
                          memcmp(pair[i].key.data, bad->key, pair[i].key.bytes) == 0;
        if (!is_it) (void)nib_gguf_set_pair(meta, &pair[i]);
    }
    EXPECT(apply(bad, meta) == NIB_OK, "%s: %s", bad->key, nib_last_error());
    const nib_tensor *tensor = nib_gguf_tensors(source, &count);
    nib_tensor_spec *specs = calloc(count + 1, sizeof *specs);
    for (size_t i = 0; i < count; i++) {
        specs[i] = (nib_tensor_spec){ tensor[i].name, tensor[i].type, tensor[i].n_dims, { 0 } };
        memcpy(specs[i].dims, tensor[i].dims, sizeof specs[i].dims);
    }
    EXPECT(nib_gguf_layout(meta, specs, count, layout) == NIB_OK, "%s: %s", bad->key,
           nib_last_error());
    *bytes = calloc(layout->file_bytes + 1, 1);
    memcpy(*bytes, layout->header, layout->header_bytes);
    for (size_t i = 0; i < count; i++)
        memcpy(*bytes + layout->offsets[i], tensor[i].data, tensor[i].bytes);
    EXPECT(nib_gguf_parse("changed", *bytes, layout->file_bytes, &made) == NIB_OK, "%s: %s",
           bad->key, nib_last_error());
    free(specs);
    nib_gguf_meta_free(meta);
    nib_gguf_close(source);
    return made;
}

static void try_bad_key(const bad_key *bad)
{
    nib_file_layout layout = { NULL, 0, NULL, 0 };
    uint8_t *bytes = NULL;
    nib_text_files files = { NULL, 0 };
    nib_gguf_heads heads;
    nib_gguf *gguf = changed(bad, &layout, &bytes);
    const nib_status status = gguf ? nib_hf_files_from_gguf(gguf, "float16", &files, &heads)
                                   : NIB_ERR_IO;
    EXPECT(status == bad->status, "%s %s: %s, %s", bad->file, bad->key, nib_status_name(status),
           nib_last_error());
    if (status != NIB_OK) {
        EXPECT(strstr(nib_last_error(), bad->says), "\"%s\" not in: %s", bad->says,
               nib_last_error());
        EXPECT(files.count == 0, "%zu files after a failure", files.count);
    }
    nib_text_files_free(&files);
    nib_gguf_close(gguf);
    nib_file_layout_free(&layout);
    free(bytes);
}

NIB_TEST(HfGgufBad, MetadataIsRefusedByKey)
{
    for (size_t i = 0; i < sizeof bad_keys / sizeof *bad_keys; i++) try_bad_key(&bad_keys[i]);
}

/* ---- folders: one text of one file replaced by another ---- */

typedef struct bad_folder {
    const char *folder, *file, *from, *to; /* from NULL: the file is missing */
    nib_status  status;
    const char *says;
} bad_folder;

static const bad_folder bad_folders[] = {
    { "bpe", "config.json", NULL, "", NIB_ERR_IO, "config.json" },
    { "bpe", "config.json", "{", "[", F, "config.json" },
    { "bpe", "config.json", "LlamaForCausalLM", "GPT2LMHeadModel", U, "GPT2LMHeadModel" },
    { "bpe", "config.json", "\"architectures\"", "\"x\"", U, "is not stated" },
    { "bpe", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", F, "layers" },
    { "bpe", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2.5", F, "layers" },
    { "bpe", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 99999", F,
      "65536" },
    { "bpe", "config.json", "\"num_hidden_layers\"", "\"x\"", F, "num_hidden_layers" },
    { "bpe", "config.json", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", F, "3" },
    { "bpe", "config.json", "\"head_dim\": 8", "\"head_dim\": 7", F, "7" },
    { "bpe", "config.json", "1e-5", "0.0", F, "rms_norm_eps" },
    { "bpe", "config.json", "1e-5", "\"1e-5\"", F, "rms_norm_eps" },
    { "bpe", "config.json", "100000.0", "-1", F, "rope_theta" },
    { "bpe", "config.json", "\"silu\"", "\"gelu\"", U, "gelu" },
    { "bpe", "config.json", "\"use_cache\": true", "\"sliding_window\": 4096", U, "4096" },
    { "bpe", "config.json", "\"use_cache\": true", "\"partial_rotary_factor\": 0.5", U, "0.5" },
    { "bpe", "config.json", "\"rope_scaling\": null",
      "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}", U, "dynamic" },
    { "bpe", "config.json", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}",
      F, "factor" },
    { "qwen2", "config.json", "\"factor\": 4.0", "\"factor\": 4.0, \"beta_fast\": 16", U, "beta" },
    { "llama3", "config.json", "\"low_freq_factor\"", "\"x\"", F, "low_freq_factor" },
    { "bpe", "config.json", "\"vocab_size\": 262", "\"vocab_size\": 261", F, "261" },
    { "bpe", "config.json", "\"vocab_size\": 262", "\"vocab_size\": 1099511627776", F, "vocab" },
    { "bpe", "config.json", "\"vocab_size\": 262", "\"vocab_size\": 263", NIB_OK, "" },
    { "bpe", "tokenizer.json", NULL, "", F, "neither tokenizer.json nor tokenizer.model" },
    { "bpe", "tokenizer.json", "\"type\": \"BPE\"", "\"type\": \"Unigram\"", U, "Unigram" },
    { "bpe", "tokenizer.json", "\"individual_digits\": true", "\"individual_digits\": false", U,
      "pre_tokenizer" },
    { "bpe", "tokenizer.json", "\"ignore_merges\": false", "\"ignore_merges\": true", U,
      "ignore_merges" },
    { "bpe", "tokenizer.json", "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}", U,
      "NFKC" },
    { "bpe", "tokenizer.json", "\"ll\": 257", "\"ll\": 256", F, "same id 256" },
    { "bpe", "tokenizer.json", "\"ll\": 257", "\"ll\": -1", F, "\"ll\"" },
    { "bpe", "tokenizer.json", "\"ll\": 257", "\"ll\": 4000000000", F, "\"ll\"" },
    { "bpe", "tokenizer.json", "\"id\": 260", "\"id\": 256", F, "256" },
    { "bpe", "tokenizer.json", "\"content\": \"<|end|>\"", "\"content\": 5", F, "added_tokens[0]" },
    { "bpe", "tokenizer.json", "\"vocab\": {", "\"vocab\": 5, \"x\": {", F, "model.vocab" },
    { "bpe", "tokenizer.json", "\"merges\": [", "\"merges\": [[\"h\"], ", F, "merges[0]" },
    { "bpe", "tokenizer.json", "\"merges\": [", "\"merges\": [\"h e l\", ", F, "merges[0]" },
    { "bpe", "tokenizer.json", "\"merges\": [", "\"merges\": 5, \"x\": [", F, "model.merges" },
    { "spm", "tokenizer.json", "\"merges\": [", "\"merges\": [[\"q\", \"q\"], ", F, "\"qq\"" },
    { "bpe", "tokenizer_config.json", "{", "{,", F, "tokenizer_config.json" },
    { "bpe", "tokenizer_config.json", "\"model_max_length\": 512",
      "\"model_max_length\": 1000000000000000019884624838656", NIB_OK, "" },
};

static const char *const names[] = { "config.json", "tokenizer.json", "tokenizer_config.json" };

static void put_file(const temp_dir *dir, const bad_folder *bad, const char *name)
{
    char path[256];
    static char text[1 << 16], other[1 << 16];
    snprintf(path, sizeof path, GOLDEN "%s/%s", bad->folder, name);
    FILE *file = fopen(path, "rb");
    EXPECT(file, "%s", path);
    if (!file) return;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    if (strcmp(name, bad->file) == 0) {
        if (!bad->from) return;
        const char *at = strstr(text, bad->from);
        EXPECT(at, "%s: no %s", path, bad->from);
        if (!at) return;
        snprintf(other, sizeof other, "%.*s%s%s", (int)(at - text), text, bad->to,
                 at + strlen(bad->from));
        memcpy(text, other, sizeof text);
    }
    temp_write(temp_path(dir, name), text, strlen(text));
}

NIB_TEST(HfGgufBad, FolderIsRefusedByKey)
{
    for (size_t i = 0; i < sizeof bad_folders / sizeof *bad_folders; i++) {
        const bad_folder *bad = &bad_folders[i];
        const temp_dir dir = temp_dir_make();
        for (size_t n = 0; n < 3; n++) put_file(&dir, bad, names[n]);
        nib_gguf_meta *meta = nib_gguf_meta_new();
        nib_gguf_heads heads;
        nib_rope_freqs freqs;
        const nib_status status = nib_gguf_meta_from_hf(dir.path, meta, &heads, &freqs);
        EXPECT(status == bad->status, "%s, %s -> %s: %s, %s", bad->file,
               bad->from ? bad->from : "", bad->to, nib_status_name(status), nib_last_error());
        if (status != NIB_OK)
            EXPECT(strstr(nib_last_error(), bad->says), "\"%s\" not in: %s", bad->says,
                   nib_last_error());
        free(freqs.data);
        nib_gguf_meta_free(meta);
        temp_dir_remove(&dir);
    }
}

/* ---- tokenizer.model ---- */

/* <unk> (type 2), "a" (score -1.5); trainer: model_type 2; normalizer: no prefix; field 9, of
 * 8 bytes, is skipped. */
static const uint8_t model_file[] = {
    0x0a, 9, 0x0a, 5, '<', 'u', 'n', 'k', '>', 0x18, 2,
    0x0a, 8, 0x0a, 1, 'a', 0x15, 0, 0, 0xc0, 0xbf,
    0x12, 2, 0x18, 2, 0x1a, 2, 0x18, 0, 0x49, 1, 2, 3, 4, 5, 6, 7, 8,
};

static nib_status read_model(const uint8_t *data, size_t bytes, nib_token_list *list, int *prefix)
{
    *list = (nib_token_list){ NULL, NULL, NULL, 0 };
    uint8_t *copy = malloc(bytes + 1); /* of its own: reading past the end shows */
    memcpy(copy, data, bytes);
    const nib_status status = nib_sentencepiece_read("t.model", copy, bytes, list, prefix);
    if (status == NIB_OK && list->count == 2)
        EXPECT(memcmp(list->text[0].data, "<unk>", 5) == 0 && list->text[1].bytes == 1, "text");
    free(copy);
    return status;
}

static void free_list(nib_token_list *list)
{
    free(list->text);
    free(list->types);
    free(list->scores);
}

NIB_TEST(SentencePiece, Reads)
{
    nib_token_list list;
    int prefix = 5;
    EXPECT(read_model(model_file, sizeof model_file, &list, &prefix) == NIB_OK, "%s",
           nib_last_error());
    EXPECT(list.count == 2 && list.types[0] == NIB_TOKEN_UNKNOWN &&
               list.types[1] == NIB_TOKEN_NORMAL && prefix == 0, "%d", prefix);
    EXPECT(list.scores[1] >= -1.5f && list.scores[1] <= -1.5f, "%g", (double)list.scores[1]);
    free_list(&list);
}

NIB_TEST(SentencePiece, EveryCutAndEveryByte)
{
    nib_token_list list;
    int prefix;
    for (size_t bytes = 0; bytes < 23; bytes++) {
        EXPECT(read_model(model_file, bytes, &list, &prefix) != NIB_OK, "%zu bytes", bytes);
        EXPECT(strstr(nib_last_error(), "t.model"), "%s", nib_last_error());
        free_list(&list);
    }
    uint8_t changed_file[sizeof model_file];
    for (size_t at = 0; at < sizeof model_file; at++)
        for (int value = 0; value < 256; value++) { /* any status, no fault */
            memcpy(changed_file, model_file, sizeof model_file);
            changed_file[at] = (uint8_t)value;
            list = (nib_token_list){ NULL, NULL, NULL, 0 };
            (void)nib_sentencepiece_read("t.model", changed_file, sizeof changed_file, &list,
                                         &prefix);
            free_list(&list);
        }
}
