/* tokenizer_config.c: what transformers wants to know beside tokenizer.json: the class, the
 * special tokens by role, the chat template. */
#include <stdio.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"

static const char template_key[] = "tokenizer.chat_template";

/* bos_token, eos_token, unk_token, pad_token: text by role; absent ones are left out. */
static int put_special(const nib_tokens *tokens, json_t *into)
{
    const struct { const char *role; int64_t id; } roles[] = {
        { "bos_token", tokens->ids.bos },
        { "eos_token", tokens->ids.eos },
        { "unk_token", tokens->ids.unk },
        { "pad_token", tokens->ids.pad },
    };
    int bad = 0;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (roles[i].id < 0) continue;
        const nib_gguf_string text = nib_gguf_item_str(tokens->text, (uint64_t)roles[i].id);
        bad |= json_object_set_new(into, roles[i].role, json_stringn(text.data, text.bytes));
    }
    return bad;
}

/* id -> the token's properties, as transformers 4 wants it. */
static json_t *added_decoder(const json_t *added)
{
    json_t *decoder = json_object();
    int bad = decoder == NULL;
    for (size_t i = 0; i < json_array_size(added) && !bad; i++) {
        char id[32];
        json_t *entry = json_copy(json_array_get(added, i));
        snprintf(id, sizeof id, "%lld",
                 (long long)json_integer_value(json_object_get(entry, "id")));
        bad |= json_object_del(entry, "id");
        bad |= json_object_set_new(decoder, id, entry);
    }
    if (bad) json_decref(decoder);
    return bad ? NULL : decoder;
}

static nib_status chat_template(const nib_gguf *gguf, json_t *config, nib_text_files *files)
{
    const nib_gguf_string text = nib_gguf_str(gguf, template_key);
    if (!text.data || !text.bytes) return NIB_OK;
    NIB_REQUIRE(!memchr(text.data, 0, text.bytes), NIB_ERR_FORMAT,
                "GGUF metadata: %s holds a NUL", template_key);
    json_t *json = json_stringn(text.data, text.bytes);
    NIB_REQUIRE(json, NIB_ERR_FORMAT, "GGUF metadata: %s is not UTF-8", template_key);
    /* In both places: transformers before 4.43 and some servers read only the first. */
    NIB_REQUIRE(json_object_set_new(config, "chat_template", json) == 0, NIB_ERR_OUT_OF_MEMORY,
                "no memory for %s", template_key);
    return nib_text_files_add(files, "chat_template.jinja", text.data, text.bytes);
}

nib_status nib_tokenizer_config_from_gguf(const nib_gguf *gguf, const nib_tokens *tokens,
                                          int64_t context, const json_t *added,
                                          nib_text_files *files)
{
    json_t *map = json_object();
    if (map && put_special(tokens, map)) {
        json_decref(map);
        map = NULL;
    }
    NIB_TRY(nib_text_files_add_json(files, "special_tokens_map.json", map));

    json_t *config = json_pack("{s:b, s:b, s:o, s:b, s:I, s:s}", "add_bos_token",
                               tokens->add_bos, "add_eos_token", tokens->add_eos,
                               "added_tokens_decoder", added_decoder(added),
                               "clean_up_tokenization_spaces", 0, "model_max_length",
                               (json_int_t)context, "tokenizer_class",
                               "PreTrainedTokenizerFast");
    NIB_REQUIRE(config, NIB_ERR_OUT_OF_MEMORY, "no memory for tokenizer_config.json");
    nib_status status = put_special(tokens, config)
                            ? nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for special tokens")
                            : chat_template(gguf, config, files);
    if (status == NIB_OK)
        return nib_text_files_add_json(files, "tokenizer_config.json", config);
    json_decref(config);
    return status;
}
