/* tokens_gguf.c: tokenizer.ggml.* read and checked, once for all files made of it. */
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"

static nib_status find_array(const nib_gguf *gguf, const char *key, int64_t count,
                             const nib_gguf_value **out)
{
    const nib_gguf_value *array = nib_gguf_find(gguf, key);
    *out = NULL;
    if (!array) return NIB_OK;
    NIB_REQUIRE(array->type == NIB_GGUF_ARRAY && array->item != NIB_GGUF_STRING, NIB_ERR_FORMAT,
                "GGUF metadata: %s is no array of numbers", key);
    NIB_REQUIRE(array->count == (uint64_t)count, NIB_ERR_FORMAT,
                "GGUF metadata: %s has %llu items for %lld tokens", key,
                (unsigned long long)array->count, (long long)count);
    *out = array;
    return NIB_OK;
}

nib_status nib_tokens_read(const nib_gguf *gguf, nib_tokens *out)
{
    memset(out, 0, sizeof *out);
    const nib_gguf_value *text = nib_gguf_find(gguf, "tokenizer.ggml.tokens");
    NIB_REQUIRE(text && text->type == NIB_GGUF_ARRAY && text->item == NIB_GGUF_STRING,
                NIB_ERR_FORMAT, "GGUF metadata: tokenizer.ggml.tokens is %s",
                text ? "no array of strings" : "missing");
    NIB_REQUIRE(text->count >= 1 && text->count <= NIB_VOCAB_MAX, NIB_ERR_FORMAT,
                "GGUF metadata: tokenizer.ggml.tokens has %llu items, 1..%d are possible",
                (unsigned long long)text->count, NIB_VOCAB_MAX);
    out->text = text;
    out->count = (int64_t)text->count;
    NIB_TRY(find_array(gguf, "tokenizer.ggml.token_type", out->count, &out->types));
    NIB_TRY(find_array(gguf, "tokenizer.ggml.scores", out->count, &out->scores));

    out->ids = (nib_special_ids){ -1, -1, -1, -1, -1 };
    const struct { const char *key; int64_t *id; } ids[] = {
        { "tokenizer.ggml.bos_token_id", &out->ids.bos },
        { "tokenizer.ggml.eos_token_id", &out->ids.eos },
        { "tokenizer.ggml.unknown_token_id", &out->ids.unk },
        { "tokenizer.ggml.padding_token_id", &out->ids.pad },
        { "tokenizer.ggml.eot_token_id", &out->ids.eot },
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        NIB_TRY(nib_meta_int(gguf, ids[i].key, 1, 0, out->count - 1, ids[i].id));

    const nib_gguf_string model = nib_gguf_str(gguf, "tokenizer.ggml.model");
    const int sentencepiece = nib_str_is(model, "llama");
    NIB_REQUIRE(sentencepiece || nib_str_is(model, "gpt2"), NIB_ERR_UNSUPPORTED,
                "GGUF metadata: tokenizer.ggml.model \"%.*s\": only gpt2 (byte-level BPE) and "
                "llama (SentencePiece) are known", (int)(model.bytes < 64 ? model.bytes : 64),
                model.data ? model.data : "");
    if (!sentencepiece)
        NIB_TRY(nib_pre_tokenizer_find(nib_gguf_str(gguf, "tokenizer.ggml.pre"), &out->pre));
    NIB_REQUIRE(!sentencepiece || out->scores, NIB_ERR_FORMAT,
                "GGUF metadata: no key tokenizer.ggml.scores, which a SentencePiece model needs");
    out->add_bos = nib_meta_bool(gguf, "tokenizer.ggml.add_bos_token",
                                 sentencepiece || out->pre->add_bos);
    out->add_eos = nib_meta_bool(gguf, "tokenizer.ggml.add_eos_token", 0);
    out->add_space_prefix = nib_meta_bool(gguf, "tokenizer.ggml.add_space_prefix", sentencepiece);
    NIB_REQUIRE((!out->add_bos || out->ids.bos >= 0) && (!out->add_eos || out->ids.eos >= 0),
                NIB_ERR_FORMAT, "GGUF metadata: add_bos_token %d and add_eos_token %d without "
                "the token's id", out->add_bos, out->add_eos);
    NIB_REQUIRE(sentencepiece || !out->add_space_prefix, NIB_ERR_UNSUPPORTED,
                "GGUF metadata: tokenizer.ggml.add_space_prefix with a byte-level tokenizer");
    return NIB_OK;
}

nib_token_type nib_tokens_type(const nib_tokens *tokens, int64_t id)
{
    const int64_t type = tokens->types ? nib_gguf_item_i64(tokens->types, (uint64_t)id)
                                       : NIB_TOKEN_NORMAL;
    return type >= NIB_TOKEN_NORMAL && type <= NIB_TOKEN_BYTE ? (nib_token_type)type
                                                              : NIB_TOKEN_NORMAL;
}
