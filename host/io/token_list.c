/* token_list.c: every token of a folder's tokenizer by its id, with the type that GGUF gives it,
 * as convert_hf_to_gguf.py's get_vocab_base does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"
#include "host/io/json_util.h"

#define FILLER_BYTES 24 /* "[PAD16777215]" */

static nib_status reserve(nib_tokenizer_source *s, int64_t count)
{
    nib_token_list *l = &s->list;
    NIB_REQUIRE(count >= 1 && count <= NIB_VOCAB_MAX, NIB_ERR_FORMAT,
                "%s: %lld tokens, 1..%d are possible", s->path, (long long)count, NIB_VOCAB_MAX);
    if (count <= l->count) return NIB_OK;
    void *text = realloc(l->text, (size_t)count * sizeof *l->text);
    if (text) l->text = text;
    void *types = realloc(l->types, (size_t)count * sizeof *l->types);
    if (types) l->types = types;
    void *scores = realloc(l->scores, (size_t)count * sizeof *l->scores);
    if (scores) l->scores = scores;
    NIB_REQUIRE(text && types && scores, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %lld tokens",
                s->path, (long long)count);
    for (int64_t i = l->count; i < count; i++) {
        l->text[i] = (nib_gguf_string){ NULL, 0 };
        l->types[i] = NIB_TOKEN_UNUSED;
        l->scores[i] = -1000.0f; /* convert_hf_to_gguf.py's for what the model file lacks */
    }
    l->count = count;
    return NIB_OK;
}

static nib_status check_id(const nib_tokenizer_source *s, const char *text, const json_t *id,
                           uint64_t *out)
{
    NIB_REQUIRE(nib_json_u64(id, out) && *out < NIB_VOCAB_MAX, NIB_ERR_FORMAT,
                "%s: token \"%.60s\" has no id in 0..%d", s->path, text, NIB_VOCAB_MAX - 1);
    return NIB_OK;
}

static int is_byte_piece(const char *text)
{
    return strlen(text) == 6 && strncmp(text, "<0x", 3) == 0 && text[5] == '>';
}

static nib_status list_vocab(nib_tokenizer_source *s, const json_t *vocab)
{
    const char *text;
    json_t *value;
    uint64_t id, last = 0;
    NIB_REQUIRE(json_is_object(vocab) && json_object_size(vocab) > 0, NIB_ERR_FORMAT,
                "%s: model.vocab is no object or empty", s->path);
    json_object_foreach((json_t *)vocab, text, value) {
        NIB_TRY(check_id(s, text, value, &id));
        if (id > last) last = id;
    }
    NIB_TRY(reserve(s, (int64_t)last + 1));
    json_object_foreach((json_t *)vocab, text, value) {
        id = (uint64_t)json_integer_value(value);
        NIB_REQUIRE(!s->list.text[id].data, NIB_ERR_FORMAT,
                    "%s: tokens \"%.60s\" and \"%.60s\" have the same id %llu", s->path,
                    s->list.text[id].data, text, (unsigned long long)id);
        s->list.text[id] = (nib_gguf_string){ text, strlen(text) };
        s->list.types[id] = !s->pre && is_byte_piece(text) ? NIB_TOKEN_BYTE : NIB_TOKEN_NORMAL;
    }
    return NIB_OK;
}

/* convert_hf_to_gguf.py, does_token_look_special: some models forget to say it. */
static int looks_special(const char *text)
{
    const size_t n = strlen(text);
    return (n >= 4 && strncmp(text, "<|", 2) == 0 && strcmp(text + n - 2, "|>") == 0) ||
           strcmp(text, "<pad>") == 0 || strcmp(text, "<mask>") == 0;
}

static nib_status list_added(nib_tokenizer_source *s)
{
    const json_t *added = json_object_get(s->json, "added_tokens");
    const char *unk = nib_json_str(json_object_get(s->json, "model"), "unk_token");
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i);
        const char *text = nib_json_str(entry, "content");
        uint64_t id;
        NIB_REQUIRE(text && *text, NIB_ERR_FORMAT, "%s: added_tokens[%zu] has no content",
                    s->path, i);
        NIB_TRY(check_id(s, text, json_object_get(entry, "id"), &id));
        NIB_TRY(reserve(s, (int64_t)id + 1));
        const nib_gguf_string have = s->list.text[id];
        NIB_REQUIRE(!have.data || nib_str_is(have, text), NIB_ERR_FORMAT,
                    "%s: added_tokens[%zu] \"%.60s\" has the id %llu of another token", s->path,
                    i, text, (unsigned long long)id);
        s->list.text[id] = (nib_gguf_string){ text, strlen(text) };
        if (!s->pre && unk && strcmp(unk, text) == 0) s->list.types[id] = NIB_TOKEN_UNKNOWN;
        else if (json_is_true(json_object_get(entry, "special")) || looks_special(text))
            s->list.types[id] = NIB_TOKEN_CONTROL;
        else s->list.types[id] = NIB_TOKEN_USER_DEFINED;
    }
    return NIB_OK;
}

/* Without a model file the scores follow from the order of the merges. */
static nib_status score_by_merges(nib_tokenizer_source *s, const json_t *vocab)
{
    const json_t *merges = json_object_get(json_object_get(s->json, "model"), "merges");
    const size_t n = json_array_size(merges);
    for (int64_t id = 0; id < s->list.count; id++) {
        const int normal = s->list.types[id] == NIB_TOKEN_NORMAL;
        s->list.scores[id] = normal ? -(float)n - 1.0f : 0.0f;
    }
    for (size_t i = n; i-- > 0;) { /* backwards: the first merge that makes a token counts */
        char text[2048];
        const json_t *item = json_array_get(merges, i);
        const char *whole = json_string_value(item);
        const char *left = whole ? whole : json_string_value(json_array_get(item, 0));
        const char *right = whole ? strchr(whole, ' ') : json_string_value(json_array_get(item, 1));
        const size_t left_bytes = whole && right ? (size_t)(right - whole)
                                                 : left ? strlen(left) : 0;
        NIB_REQUIRE(left && right, NIB_ERR_FORMAT, "%s: merges[%zu] is no pair", s->path, i);
        snprintf(text, sizeof text, "%.*s%s", (int)(left_bytes < 1024 ? left_bytes : 1024), left,
                 right + (whole != NULL));
        const json_t *id = json_object_get(vocab, text);
        NIB_REQUIRE(id, NIB_ERR_FORMAT, "%s: merges[%zu] makes \"%.60s\", which is no token",
                    s->path, i, text);
        s->list.scores[json_integer_value(id)] = -(float)i;
    }
    return NIB_OK;
}

/* A prefix is a Prepend normalizer, or a Metaspace pre-tokenizer that prepends. */
static int prepends_space(const json_t *json)
{
    const json_t *normalizer = json_object_get(json, "normalizer");
    const json_t *list = json_object_get(normalizer, "normalizers");
    const json_t *metaspace = json_object_get(json, "pre_tokenizer");
    const char *scheme = nib_json_str(metaspace, "prepend_scheme");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (nib_json_str(json_array_get(list, i), "prepend")) return 1;
    return scheme ? strcmp(scheme, "never") != 0
                  : json_is_true(json_object_get(metaspace, "add_prefix_space"));
}

static nib_status list_all(nib_tokenizer_source *s)
{
    const json_t *vocab = json_object_get(json_object_get(s->json, "model"), "vocab");
    if (s->model.data) {
        NIB_TRY(nib_sentencepiece_read(s->path, s->model.data, s->model.bytes, &s->list,
                                       &s->add_prefix));
    } else {
        NIB_TRY(list_vocab(s, vocab));
        s->add_prefix = !s->pre && prepends_space(s->json);
        if (!s->pre) NIB_TRY(score_by_merges(s, vocab));
    }
    const int64_t from_model = s->model.data ? s->list.count : 0;
    nib_status status = NIB_OK;
    int32_t *kept = malloc((size_t)from_model * sizeof *kept + 1);
    NIB_REQUIRE(kept, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for tokens", s->path);
    if (from_model) memcpy(kept, s->list.types, (size_t)from_model * sizeof *kept);
    status = list_added(s);
    /* The model file's own types win: its <unk> is UNKNOWN. */
    if (status == NIB_OK && from_model)
        memcpy(s->list.types, kept, (size_t)from_model * sizeof *kept);
    free(kept);
    return status;
}

/* Rows of the embedding without a token: "[PAD<id>]", as llama.cpp names them. */
static nib_status fill_up(nib_tokenizer_source *s, int64_t vocab)
{
    NIB_REQUIRE(vocab < 0 || s->list.count <= vocab, NIB_ERR_FORMAT,
                "%s: token ids go up to %lld, config.json's vocab_size is %lld", s->path,
                (long long)s->list.count - 1, (long long)vocab);
    if (vocab > 0) NIB_TRY(reserve(s, vocab));
    int64_t holes = 0, at = 0;
    for (int64_t i = 0; i < s->list.count; i++) holes += !s->list.text[i].data;
    s->fillers = malloc((size_t)holes * FILLER_BYTES + 1);
    NIB_REQUIRE(s->fillers, NIB_ERR_OUT_OF_MEMORY, "%s: no memory for %lld fillers", s->path,
                (long long)holes);
    for (int64_t i = 0; i < s->list.count; i++) {
        if (s->list.text[i].data) continue;
        char *text = s->fillers + FILLER_BYTES * at++;
        const int chars = snprintf(text, FILLER_BYTES, "[PAD%lld]", (long long)i);
        s->list.text[i] = (nib_gguf_string){ text, (uint64_t)chars };
        s->list.types[i] = NIB_TOKEN_UNUSED;
    }
    return NIB_OK;
}

nib_status nib_token_list_fill(nib_tokenizer_source *s, int64_t vocab)
{
    NIB_TRY(list_all(s));
    return fill_up(s, vocab);
}
