/* pre_tokenizer.c: how text is cut into words before byte-level BPE. GGUF has a name for it,
 * tokenizer.json a structure; one table gives both, so that what is written is recognised. The
 * patterns are llama.cpp's (src/llama-vocab.cpp) and those of the models' own tokenizer.json. */
#include <stdio.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"

#define GPT2_PATTERN \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define WORDS_PATTERN(digits) \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const nib_pre_tokenizer known[] = {
    { .name = "smollm", .single_digits = 1, .gpt2_regex = 1 },
    { .name = "llama-bpe", .regexes = { WORDS_PATTERN("\\p{N}{1,3}") }, .ignore_merges = 1,
      .add_bos = 1 },
    { .name = "smaug-bpe", .regexes = { WORDS_PATTERN("\\p{N}{1,3}") } },
    { .name = "qwen2", .regexes = { WORDS_PATTERN("\\p{N}") }, .nfc = 1 },
    { .name = "gpt-2", .gpt2_regex = 1 },
    { .name = "default",
      .regexes = { "[\\p{P}\\$\\+<=>\\^~\\|]+|\\p{N}+", GPT2_PATTERN, "[0-9][0-9][0-9]" } },
};
#define KNOWN (sizeof known / sizeof *known)

static const char *list_known(char *text, size_t bytes)
{
    size_t used = 0;
    for (size_t i = 0; i < KNOWN; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", known[i].name);
    return text;
}

nib_status nib_pre_tokenizer_find(nib_gguf_string name, const nib_pre_tokenizer **out)
{
    char list[128];
    if (!name.data) name = (nib_gguf_string){ "default", 7 };
    /* Older names of llama.cpp for the same thing. */
    if (nib_str_is(name, "llama3") || nib_str_is(name, "llama-v3"))
        name = (nib_gguf_string){ "llama-bpe", 9 };
    for (size_t i = 0; i < KNOWN; i++) {
        if (!nib_str_is(name, known[i].name)) continue;
        *out = &known[i];
        return NIB_OK;
    }
    return nib_fail(NIB_ERR_UNSUPPORTED,
                    "GGUF metadata: tokenizer.ggml.pre \"%.*s\": only %s are known",
                    (int)(name.bytes < 64 ? name.bytes : 64), name.data,
                    list_known(list, sizeof list));
}

static json_t *split_json(const char *regex)
{
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", regex,
                     "behavior", "Isolated", "invert", 0);
}

json_t *nib_pre_tokenizer_json(const nib_pre_tokenizer *pre)
{
    json_t *list = json_array();
    int bad = list == NULL;
    if (pre->single_digits)
        bad |= json_array_append_new(list, json_pack("{s:s, s:b}", "type", "Digits",
                                                     "individual_digits", 1));
    for (size_t i = 0; i < 3 && pre->regexes[i]; i++)
        bad |= json_array_append_new(list, split_json(pre->regexes[i]));
    bad |= json_array_append_new(list, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                                 "add_prefix_space", 0, "trim_offsets", 1,
                                                 "use_regex", pre->gpt2_regex));
    if (bad) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

/* trim_offsets changes no token; use_regex is true where an old file leaves it out; a Sequence
 * of one is that one. */
static json_t *plain_form(const json_t *pre)
{
    json_t *copy = json_deep_copy(pre);
    if (json_is_object(copy) && !json_object_get(copy, "pretokenizers")) {
        json_t *list = json_pack("{s:s, s:[o]}", "type", "Sequence", "pretokenizers", copy);
        if (!list) return NULL;
        copy = list;
    }
    json_t *parts = json_object_get(copy, "pretokenizers");
    for (size_t i = 0; i < json_array_size(parts); i++) {
        json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "ByteLevel") != 0) continue;
        json_object_del(part, "trim_offsets");
        if (!json_object_get(part, "use_regex"))
            json_object_set_new(part, "use_regex", json_true());
    }
    return copy;
}

static int says_the_same(const nib_pre_tokenizer *pre, const json_t *plain, int ignore_merges)
{
    if (pre->ignore_merges != ignore_merges) return 0;
    json_t *own = nib_pre_tokenizer_json(pre);
    json_t *own_plain = plain_form(own);
    const int same = own_plain && json_equal(own_plain, plain);
    json_decref(own_plain);
    json_decref(own);
    return same;
}

nib_status nib_pre_tokenizer_recognise(const char *path, const json_t *tokenizer,
                                       const nib_pre_tokenizer **out)
{
    char list[128];
    const json_t *normalizer = json_object_get(tokenizer, "normalizer");
    const char *kind = json_string_value(json_object_get(normalizer, "type"));
    NIB_REQUIRE(!normalizer || json_is_null(normalizer) || (kind && strcmp(kind, "NFC") == 0),
                NIB_ERR_UNSUPPORTED,
                "%s: normalizer \"%.60s\": GGUF's byte-level tokenizers have none", path,
                kind ? kind : "?");
    const json_t *model = json_object_get(tokenizer, "model");
    const int ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    json_t *plain = plain_form(json_object_get(tokenizer, "pre_tokenizer"));
    *out = NULL;
    for (size_t i = 0; i < KNOWN && !*out; i++)
        if (says_the_same(&known[i], plain, ignore_merges)) *out = &known[i];
    json_decref(plain);
    NIB_REQUIRE(*out, NIB_ERR_UNSUPPORTED,
                "%s: its pre_tokenizer (ignore_merges %s) is none that has a name in GGUF here: %s",
                path, ignore_merges ? "true" : "false", list_known(list, sizeof list));
    return NIB_OK;
}
