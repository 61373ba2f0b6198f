/* tokenizer_to_gguf.c: tokenizer.ggml.* from a folder's tokenizer, with the values that
 * llama.cpp's convert_hf_to_gguf.py writes (gguf-py's SpecialVocab). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/internal.h"
#include "host/io/file_util.h"
#include "host/io/hf_parts.h"
#include "host/io/json_util.h"

static void close_source(nib_tokenizer_source *s)
{
    json_decref(s->json);
    json_decref(s->config);
    if (s->model.data) nib_mapping_close(&s->model);
    free(s->path);
    free(s->list.text);
    free(s->list.types);
    free(s->list.scores);
    free(s->fillers);
}

/* tokenizer_config.json states "no limit" as the integer 1e30 (transformers' VERY_LARGE_INTEGER),
 * which jansson refuses unless integers become reals. No integer of that file is used here. */
static nib_status load_config(const char *path, json_t **out)
{
    nib_mapping file;
    json_error_t error;
    NIB_TRY(nib_mapping_open(path, &file));
    *out = json_loadb((const char *)file.data, (size_t)file.bytes,
                      JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
    nib_mapping_close(&file);
    NIB_REQUIRE(*out, NIB_ERR_FORMAT, "%s: JSON, line %d, column %d is broken", path, error.line,
                error.column);
    return NIB_OK;
}

/* *out stays NULL if there is no such file. */
static nib_status load_optional(const char *folder, const char *name,
                                nib_status (*load)(const char *, json_t **), json_t **out)
{
    char *path = nib_path_join(folder, name);
    NIB_REQUIRE(path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
    const nib_status status = access(path, F_OK) == 0 ? load(path, out) : NIB_OK;
    free(path);
    return status;
}

static nib_status open_source(nib_tokenizer_source *s)
{
    NIB_TRY(load_optional(s->folder, "tokenizer.json", nib_json_load, &s->json));
    NIB_TRY(load_optional(s->folder, "tokenizer_config.json", load_config, &s->config));
    const json_t *model = json_object_get(s->json, "model");
    const int bytes_fall_back = json_is_true(json_object_get(model, "byte_fallback"));
    s->path = nib_path_join(s->folder, s->json ? "tokenizer.json" : "tokenizer.model");
    NIB_REQUIRE(s->path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
    if (s->json && !bytes_fall_back) {
        const char *type = nib_json_str(model, "type");
        NIB_REQUIRE(type && strcmp(type, "BPE") == 0, NIB_ERR_UNSUPPORTED,
                    "%s: a tokenizer of type %.40s: only BPE becomes GGUF", s->path,
                    type ? type : "unknown");
        return nib_pre_tokenizer_recognise(s->path, s->json, &s->pre);
    }
    char *path = nib_path_join(s->folder, "tokenizer.model");
    NIB_REQUIRE(path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
    if (access(path, F_OK) == 0) {
        free(s->path);
        s->path = path;
        return nib_mapping_open(path, &s->model);
    }
    free(path);
    NIB_REQUIRE(s->json, NIB_ERR_FORMAT, "%s: neither tokenizer.json nor tokenizer.model",
                s->folder);
    return NIB_OK;
}

/* ---- the metadata ---- */

static nib_status set_str(nib_gguf_meta *meta, const char *key, const char *text)
{
    return nib_gguf_set_str(meta, key, text, strlen(text));
}

/* "left right" for each merge, spaces inside a token as byte-level BPE's U+0120 (gguf-py,
 * SpecialVocab._try_load_from_tokenizer_json). text is the caller's to free. */
static nib_status merge_text(const nib_tokenizer_source *s, size_t i, const json_t *item,
                             nib_gguf_string *out)
{
    const char *whole = json_string_value(item);
    const char *left = json_string_value(json_array_get(item, 0));
    const char *right = json_string_value(json_array_get(item, 1));
    const char *space = whole ? strchr(whole, ' ') : NULL;
    NIB_REQUIRE((space && space > whole && space[1] && !strchr(space + 1, ' ')) ||
                    (json_array_size(item) == 2 && left && *left && right && *right),
                NIB_ERR_FORMAT, "%s: merges[%zu] is not a pair of tokens", s->path, i);
    const size_t bytes = whole ? strlen(whole) : strlen(left) + 1 + strlen(right);
    char *text = malloc(2 * bytes + 1), *at = text;
    NIB_REQUIRE(text, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for merges", s->path);
    if (whole) {
        memcpy(text, whole, bytes);
        at = text + bytes;
    } else {
        for (const char *half = left; half; half = half == left ? right : NULL) {
            if (half == right) *at++ = ' ';
            for (const char *c = half; *c; c++) {
                if (*c != ' ') *at++ = *c;
                else { *at++ = '\xc4'; *at++ = '\xa0'; }
            }
        }
    }
    *out = (nib_gguf_string){ text, (uint64_t)(at - text) };
    return NIB_OK;
}

static nib_status set_merges(const nib_tokenizer_source *s, nib_gguf_meta *meta)
{
    const json_t *merges = json_object_get(json_object_get(s->json, "model"), "merges");
    const size_t n = json_array_size(merges);
    NIB_REQUIRE(json_is_array(merges), NIB_ERR_FORMAT, "%s: model.merges is no array", s->path);
    nib_gguf_string *text = calloc(n + 1, sizeof *text);
    NIB_REQUIRE(text, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %zu merges", s->path, n);
    nib_status status = NIB_OK;
    for (size_t i = 0; i < n && status == NIB_OK; i++)
        status = merge_text(s, i, json_array_get(merges, i), &text[i]);
    if (status == NIB_OK) status = nib_gguf_set_str_array(meta, "tokenizer.ggml.merges", text, n);
    for (size_t i = 0; i < n; i++) free((char *)(uintptr_t)text[i].data);
    free(text);
    return status;
}

static nib_status set_tokens(const nib_tokenizer_source *s, nib_gguf_meta *meta)
{
    const nib_token_list *l = &s->list;
    const uint64_t n = (uint64_t)l->count;
    NIB_TRY(set_str(meta, "tokenizer.ggml.model", s->pre ? "gpt2" : "llama"));
    NIB_TRY(set_str(meta, "tokenizer.ggml.pre", s->pre ? s->pre->name : "default"));
    NIB_TRY(nib_gguf_set_str_array(meta, "tokenizer.ggml.tokens", l->text, n));
    if (!s->pre) NIB_TRY(nib_gguf_set_f32_array(meta, "tokenizer.ggml.scores", l->scores, n));
    NIB_TRY(nib_gguf_set_i32_array(meta, "tokenizer.ggml.token_type", l->types, n));
    return s->pre ? set_merges(s, meta) : NIB_OK;
}

/* tokenizer_config.json has a token's text, bare or as an object's "content". */
static const char *role_text(const json_t *config, const char *role)
{
    const json_t *value = json_object_get(config, role);
    return json_is_string(value) ? json_string_value(value) : nib_json_str(value, "content");
}

static int64_t find_token(const nib_token_list *list, const char *text)
{
    for (int64_t i = 0; i < list->count; i++)
        if (nib_str_is(list->text[i], text)) return i;
    return -1;
}

/* config.json's id: a number, or the first of a list. */
static nib_status model_id(const json_t *config, const char *key, int64_t count, int64_t *id)
{
    const json_t *value = json_object_get(config, key);
    uint64_t number;
    if (json_is_array(value)) value = json_array_get(value, 0);
    *id = -1;
    if (!value || json_is_null(value)) return NIB_OK;
    if (json_is_integer(value) && json_integer_value(value) == -1) return NIB_OK; /* Llama 1 */
    NIB_REQUIRE(nib_json_u64(value, &number) && number < (uint64_t)count, NIB_ERR_FORMAT,
                "config.json: %s is no number in 0..%lld", key, (long long)count - 1);
    *id = (int64_t)number;
    return NIB_OK;
}

/* A role's token by the tokenizer's own word, else by the model's. */
static nib_status role_id(const nib_tokenizer_source *s, const json_t *config, const char *role,
                          int64_t *id)
{
    char key[40];
    const char *text = role_text(s->config, role);
    snprintf(key, sizeof key, "%s_id", role);
    if (text && (*id = find_token(&s->list, text)) >= 0) return NIB_OK;
    return model_id(config, key, s->list.count, id);
}

static nib_status set_roles(const nib_tokenizer_source *s, const json_t *config,
                            nib_gguf_meta *meta, int64_t *bos, int64_t *eos)
{
    int64_t ids[4];
    static const struct { const char *role, *key; } roles[4] = {
        { "bos_token", "tokenizer.ggml.bos_token_id" },
        { "eos_token", "tokenizer.ggml.eos_token_id" },
        { "unk_token", "tokenizer.ggml.unknown_token_id" },
        { "pad_token", "tokenizer.ggml.padding_token_id" },
    };
    for (int i = 0; i < 4; i++) {
        NIB_TRY(role_id(s, config, roles[i].role, &ids[i]));
        if (ids[i] >= 0) NIB_TRY(nib_gguf_set_u32(meta, roles[i].key, (uint32_t)ids[i]));
    }
    *bos = ids[0];
    *eos = ids[1];
    /* Two ends of generation: the one that is not the tokenizer's is the end of turn. */
    const json_t *ends = json_object_get(config, "eos_token_id");
    uint64_t end;
    for (size_t i = 0; json_array_size(ends) == 2 && i < 2; i++) {
        if (!nib_json_u64(json_array_get(ends, i), &end) || (int64_t)end == *eos) continue;
        if (end < (uint64_t)s->list.count)
            NIB_TRY(nib_gguf_set_u32(meta, "tokenizer.ggml.eot_token_id", (uint32_t)end));
    }
    return NIB_OK;
}

/* The first (last) part of the template for one text is this token. */
static int template_has(const json_t *processor, int last, const char *text)
{
    const json_t *list = json_object_get(processor, "processors");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (template_has(json_array_get(list, i), last, text)) return 1;
    const json_t *single = json_object_get(processor, "single");
    const size_t n = json_array_size(single);
    if (n < 2) return 0;
    const json_t *part = json_array_get(single, last ? n - 1 : 0);
    const char *id = nib_json_str(json_object_get(part, "SpecialToken"), "id");
    return id && text && strcmp(id, text) == 0;
}

static nib_status set_additions(const nib_tokenizer_source *s, nib_gguf_meta *meta, int64_t bos,
                                int64_t eos)
{
    const struct { const char *option, *key; int64_t id; int last; } add[] = {
        { "add_bos_token", "tokenizer.ggml.add_bos_token", bos, 0 },
        { "add_eos_token", "tokenizer.ggml.add_eos_token", eos, 1 },
    };
    const json_t *processor = json_object_get(s->json, "post_processor");
    for (size_t i = 0; i < 2; i++) {
        const json_t *option = json_object_get(s->config, add[i].option);
        const nib_gguf_string text = add[i].id >= 0 ? s->list.text[add[i].id]
                                                    : (nib_gguf_string){ NULL, 0 };
        int on = json_is_boolean(option) ? json_is_true(option)
                 : s->json ? template_has(processor, add[i].last, text.data)
                           : !add[i].last; /* SentencePiece models begin with bos */
        if (add[i].id < 0) on = 0;
        if (on || !add[i].last) NIB_TRY(nib_gguf_set_bool(meta, add[i].key, on));
    }
    return nib_gguf_set_bool(meta, "tokenizer.ggml.add_space_prefix", s->add_prefix);
}

/* chat_template.jinja goes before tokenizer_config.json's entry, as in transformers; of several
 * templates the one named "default" counts. */
static nib_status set_template(const nib_tokenizer_source *s, nib_gguf_meta *meta)
{
    char *path = nib_path_join(s->folder, "chat_template.jinja");
    NIB_REQUIRE(path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
    nib_mapping file = { NULL, 0, NULL };
    const int there = access(path, F_OK) == 0;
    nib_status status = there ? nib_mapping_open(path, &file) : NIB_OK;
    free(path);
    if (there) {
        if (status == NIB_OK && file.bytes)
            status = nib_gguf_set_str(meta, "tokenizer.chat_template", (const char *)file.data,
                                      file.bytes);
        if (status == NIB_OK) nib_mapping_close(&file);
        return status;
    }
    const json_t *entry = json_object_get(s->config, "chat_template");
    const char *text = json_string_value(entry);
    for (size_t i = 0; i < json_array_size(entry); i++) {
        const char *name = nib_json_str(json_array_get(entry, i), "name");
        if (name && strcmp(name, "default") == 0)
            text = nib_json_str(json_array_get(entry, i), "template");
    }
    return text ? set_str(meta, "tokenizer.chat_template", text) : NIB_OK;
}

static nib_status write_all(nib_tokenizer_source *s, const json_t *config, int64_t vocab,
                            nib_gguf_meta *meta)
{
    int64_t bos, eos;
    NIB_TRY(open_source(s));
    NIB_TRY(nib_token_list_fill(s, vocab));
    NIB_TRY(set_tokens(s, meta));
    NIB_TRY(set_roles(s, config, meta, &bos, &eos));
    NIB_TRY(set_additions(s, meta, bos, eos));
    return set_template(s, meta);
}

nib_status nib_tokenizer_to_gguf(const char *folder, const json_t *config, int64_t vocab,
                                 nib_gguf_meta *meta)
{
    nib_tokenizer_source s;
    memset(&s, 0, sizeof s);
    s.folder = folder;
    const nib_status status = write_all(&s, config, vocab, meta);
    close_source(&s);
    return status;
}
