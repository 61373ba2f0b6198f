/* tokenizer_from_gguf.c: the tokenizer's files from tokenizer.ggml.*. Both kinds become a
 * tokenizer.json of model type BPE, which transformers' tokenizers load without further
 * packages: "gpt2" is byte-level BPE; "llama" (SentencePiece) is BPE with byte_fallback and the
 * normalizer of Llama 2's own tokenizer.json. */
#include <stdio.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"

#define SPACE_PIECE "\xe2\x96\x81" /* U+2581, SentencePiece's space */

/* llama.cpp fills rows of the embedding that no token has with "[PAD<id>]", unused. */
static int is_filler(const nib_tokens *tokens, int64_t id)
{
    char name[32];
    snprintf(name, sizeof name, "[PAD%lld]", (long long)id);
    return nib_tokens_type(tokens, id) == NIB_TOKEN_UNUSED &&
           nib_str_is(nib_gguf_item_str(tokens->text, (uint64_t)id), name);
}

static int is_added(nib_token_type type)
{
    return type == NIB_TOKEN_CONTROL || type == NIB_TOKEN_USER_DEFINED ||
           type == NIB_TOKEN_UNKNOWN;
}

/* A token's text as a JSON string, which checks that it is UTF-8. */
static nib_status token_json(const nib_tokens *tokens, int64_t id, json_t **out)
{
    const nib_gguf_string text = nib_gguf_item_str(tokens->text, (uint64_t)id);
    NIB_REQUIRE(text.bytes && !memchr(text.data, 0, text.bytes), NIB_ERR_FORMAT,
                "GGUF metadata: tokenizer.ggml.tokens[%lld] is empty or holds a NUL",
                (long long)id);
    *out = json_stringn(text.data, text.bytes);
    NIB_REQUIRE(*out, NIB_ERR_FORMAT, "GGUF metadata: tokenizer.ggml.tokens[%lld] is not UTF-8",
                (long long)id);
    return NIB_OK;
}

static nib_status add_token(const nib_tokens *tokens, int64_t id, json_t *vocab, json_t *added)
{
    json_t *text;
    if (is_filler(tokens, id)) return NIB_OK;
    NIB_TRY(token_json(tokens, id, &text));
    const json_t *twin = json_object_get(vocab, json_string_value(text));
    if (twin) {
        json_decref(text);
        return nib_fail(NIB_ERR_FORMAT, "GGUF metadata: tokenizer.ggml.tokens[%lld] and [%lld] "
                        "are the same", (long long)json_integer_value(twin), (long long)id);
    }
    int bad = json_object_set_new(vocab, json_string_value(text), json_integer(id));
    const nib_token_type type = nib_tokens_type(tokens, id);
    if (is_added(type))
        bad |= json_array_append_new(
            added, json_pack("{s:I, s:O, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id,
                             "content", text, "single_word", 0, "lstrip", 0, "rstrip", 0,
                             "normalized", 0, "special", type != NIB_TOKEN_USER_DEFINED));
    json_decref(text);
    NIB_REQUIRE(!bad, NIB_ERR_OUT_OF_MEMORY, "no memory for token %lld", (long long)id);
    return NIB_OK;
}

/* Llama 2's: a space before the text if asked for, spaces as U+2581. */
static json_t *sentencepiece_normalizer(int prefix)
{
    json_t *first = prefix ? json_pack("{s:s, s:s}", "type", "Prepend", "prepend", SPACE_PIECE)
                           : NULL;
    return json_pack("{s:s, s:[o*, {s:s, s:{s:s}, s:s}]}", "type", "Sequence", "normalizers",
                     first, "type", "Replace", "pattern", "String", " ", "content", SPACE_PIECE);
}

static json_t *sentencepiece_decoder(int prefix)
{
    json_t *last = prefix ? json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ",
                                      "start", 1, "stop", 0)
                          : NULL;
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, o*]}", "type", "Sequence",
                     "decoders", "type", "Replace", "pattern", "String", SPACE_PIECE, "content",
                     " ", "type", "ByteFallback", "type", "Fuse", last);
}

static json_t *byte_level_decoder(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                     "trim_offsets", 1, "use_regex", 1);
}

static json_t *template_part(const char *kind, const char *id, int type)
{
    return json_pack("{s:{s:s, s:i}}", kind, "id", id, "type_id", type);
}

/* Template of one text or of two: [bos] A [eos] ([bos] B [eos]). */
static json_t *template_of(const char *bos, const char *eos, int texts)
{
    json_t *list = json_array();
    int bad = 0;
    for (int i = 0; i < texts; i++) {
        if (bos) bad |= json_array_append_new(list, template_part("SpecialToken", bos, i));
        bad |= json_array_append_new(list, template_part("Sequence", i ? "B" : "A", i));
        if (eos) bad |= json_array_append_new(list, template_part("SpecialToken", eos, i));
    }
    if (bad) json_decref(list);
    return bad ? NULL : list;
}

static nib_status post_processor(const nib_tokens *tokens, json_t **out)
{
    json_t *bos = NULL, *eos = NULL;
    *out = json_null();
    if (!tokens->add_bos && !tokens->add_eos) return NIB_OK;
    nib_status status = tokens->add_bos ? token_json(tokens, tokens->ids.bos, &bos) : NIB_OK;
    if (status == NIB_OK && tokens->add_eos) status = token_json(tokens, tokens->ids.eos, &eos);
    if (status == NIB_OK) {
        const struct { const json_t *text; int64_t id; } used[] = { { bos, tokens->ids.bos },
                                                                    { eos, tokens->ids.eos } };
        json_t *special = json_object();
        for (size_t i = 0; i < 2; i++) {
            const char *text = json_string_value(used[i].text);
            if (text)
                json_object_set_new(special, text,
                                    json_pack("{s:s, s:[I], s:[s]}", "id", text, "ids",
                                              (json_int_t)used[i].id, "tokens", text));
        }
        const char *b = json_string_value(bos), *e = json_string_value(eos);
        *out = json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single",
                         template_of(b, e, 1), "pair", template_of(b, e, 2), "special_tokens",
                         special);
        if (!*out) status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for post_processor");
    }
    json_decref(bos);
    json_decref(eos);
    return status;
}

/* Takes the references to vocab and merges. */
static nib_status model_json(const nib_tokens *tokens, json_t *vocab, json_t *merges,
                             json_t **out)
{
    json_t *unk = NULL;
    if (!tokens->pre && tokens->ids.unk >= 0 &&
        token_json(tokens, tokens->ids.unk, &unk) != NIB_OK)
        unk = NULL; /* not reached: every token was read before */
    *out = json_pack("{s:s, s:n, s:o?, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE",
                     "dropout", "unk_token", unk, "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", tokens->pre == NULL, "byte_fallback",
                     tokens->pre == NULL, "ignore_merges",
                     tokens->pre && tokens->pre->ignore_merges, "vocab", vocab, "merges", merges);
    NIB_REQUIRE(*out, NIB_ERR_OUT_OF_MEMORY, "no memory for the tokenizer's model");
    return NIB_OK;
}

/* Takes the references to added and model. */
static nib_status add_tokenizer(const nib_tokens *tokens, json_t *added, json_t *model,
                                nib_text_files *files)
{
    json_t *processor = NULL;
    const nib_status status = post_processor(tokens, &processor);
    if (status != NIB_OK) {
        json_decref(added);
        json_decref(model);
        return status;
    }
    const nib_pre_tokenizer *pre = tokens->pre;
    json_t *normalizer = !pre      ? sentencepiece_normalizer(tokens->add_space_prefix)
                         : pre->nfc ? json_pack("{s:s}", "type", "NFC")
                                    : json_null();
    return nib_text_files_add_json(
        files, "tokenizer.json",
        json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0",
                  "truncation", "padding", "added_tokens", added, "normalizer", normalizer,
                  "pre_tokenizer", pre ? nib_pre_tokenizer_json(pre) : json_null(),
                  "post_processor", processor, "decoder",
                  pre ? byte_level_decoder() : sentencepiece_decoder(tokens->add_space_prefix),
                  "model", model));
}

nib_status nib_tokenizer_from_gguf(const nib_gguf *gguf, const nib_tokens *tokens,
                                   int64_t context, nib_text_files *files)
{
    json_t *vocab = json_object(), *added = json_array(), *merges = NULL, *model = NULL;
    nib_status status = vocab && added ? NIB_OK
                                       : nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for tokens");
    for (int64_t id = 0; id < tokens->count && status == NIB_OK; id++)
        status = add_token(tokens, id, vocab, added);
    if (status == NIB_OK)
        status = tokens->pre ? nib_merges_from_list(gguf, vocab, &merges)
                             : nib_merges_from_scores(tokens, vocab, &merges);
    if (status != NIB_OK) {
        json_decref(vocab);
        json_decref(added);
        return status;
    }
    json_incref(added);
    status = model_json(tokens, vocab, merges, &model);
    if (status == NIB_OK) status = add_tokenizer(tokens, added, model, files);
    else json_decref(added);
    if (status == NIB_OK) status = nib_tokenizer_config_from_gguf(gguf, tokens, context, added,
                                                                  files);
    json_decref(added);
    return status;
}
