/* names.c: Hugging Face's tensor names and GGUF's, one table for both directions, and the order
 * of the q and k rows. The pairs are those of llama.cpp's gguf-py/gguf/tensor_mapping.py for
 * the architectures llama, qwen2 and qwen3. */
#include <stdio.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_gguf.h"

typedef struct name_pair {
    const char *gguf, *hf;
} name_pair;

static const name_pair of_model[] = {
    { "token_embd",  "model.embed_tokens" },
    { "output_norm", "model.norm" },
    { "output",      "lm_head" },
};

static const name_pair of_layer[] = {
    { "attn_norm",   "input_layernorm" },
    { "attn_q",      "self_attn.q_proj" },
    { "attn_k",      "self_attn.k_proj" },
    { "attn_v",      "self_attn.v_proj" },
    { "attn_output", "self_attn.o_proj" },
    { "attn_q_norm", "self_attn.q_norm" },
    { "attn_k_norm", "self_attn.k_norm" },
    { "ffn_norm",    "post_attention_layernorm" },
    { "ffn_gate",    "mlp.gate_proj" },
    { "ffn_up",      "mlp.up_proj" },
    { "ffn_down",    "mlp.down_proj" },
};

static const char gguf_layers[] = "blk.", hf_layers[] = "model.layers.";

/* A name taken apart: "blk.12.attn_q.weight" is layer "12", stem "attn_q", kind ".weight". */
typedef struct parts {
    const char *layer; /* NULL: not of a layer */
    int         layer_chars;
    const char *stem;
    size_t      stem_chars;
    const char *kind;
} parts;

/* A layer's number is decimal without sign or leading zeros, of at most 9 digits: then the
 * number and its text say the same, and both directions are inverse. */
static const char *skip_number(const char *text)
{
    const char *end = text;
    while (*end >= '0' && *end <= '9') end++;
    const long digits = end - text;
    if (digits < 1 || digits > 9 || (digits > 1 && *text == '0')) return NULL;
    return end;
}

static int take_apart(const char *name, const char *layers, parts *out)
{
    memset(out, 0, sizeof *out);
    out->stem = name;
    if (strncmp(name, layers, strlen(layers)) == 0) {
        out->layer = name + strlen(layers);
        const char *end = skip_number(out->layer);
        if (!end || *end != '.') return 0;
        out->layer_chars = (int)(end - out->layer);
        out->stem = end + 1;
    }
    out->kind = strrchr(out->stem, '.');
    if (!out->kind) return 0;
    out->stem_chars = (size_t)(out->kind - out->stem);
    return strcmp(out->kind, ".weight") == 0 || strcmp(out->kind, ".bias") == 0;
}

static int is_stem(const parts *name, const char *stem)
{
    return strlen(stem) == name->stem_chars && memcmp(stem, name->stem, name->stem_chars) == 0;
}

static const char *counterpart(const parts *name, int from_gguf)
{
    const name_pair *pairs = name->layer ? of_layer : of_model;
    const size_t count = name->layer ? sizeof of_layer / sizeof *of_layer
                                     : sizeof of_model / sizeof *of_model;
    for (size_t i = 0; i < count; i++) {
        if (is_stem(name, from_gguf ? pairs[i].gguf : pairs[i].hf))
            return from_gguf ? pairs[i].hf : pairs[i].gguf;
    }
    return NULL;
}

static nib_status translate(const char *name, int from_gguf, char *text, size_t text_bytes)
{
    parts part;
    const char *other = take_apart(name, from_gguf ? gguf_layers : hf_layers, &part)
                            ? counterpart(&part, from_gguf)
                            : NULL;
    NIB_REQUIRE(other, NIB_ERR_UNSUPPORTED, "tensor \"%.200s\": no counterpart in %s is known",
                name, from_gguf ? "Hugging Face names" : "GGUF names");
    const int chars = part.layer
                          ? snprintf(text, text_bytes, "%s%.*s.%s%s",
                                     from_gguf ? hf_layers : gguf_layers, part.layer_chars,
                                     part.layer, other, part.kind)
                          : snprintf(text, text_bytes, "%s%s", other, part.kind);
    NIB_REQUIRE(chars >= 0 && (size_t)chars < text_bytes, NIB_ERR_ARGUMENT,
                "tensor \"%.200s\": the other name has %d bytes, the buffer %zu", name, chars + 1,
                text_bytes);
    return NIB_OK;
}

nib_status nib_name_gguf_to_hf(const char *gguf_name, char *text, size_t text_bytes)
{
    return translate(gguf_name, 1, text, text_bytes);
}

nib_status nib_name_hf_to_gguf(const char *hf_name, char *text, size_t text_bytes)
{
    return translate(hf_name, 0, text, text_bytes);
}

int32_t nib_permuted_heads(const nib_gguf_heads *heads, const char *hf_name)
{
    parts part;
    if (!heads->permuted || !take_apart(hf_name, hf_layers, &part) || !part.layer) return 0;
    if (is_stem(&part, "self_attn.q_proj")) return heads->q;
    if (is_stem(&part, "self_attn.k_proj")) return heads->kv;
    return 0;
}

/* llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute: rotary pairs lie half a head apart in
 * HF (rotate_half) and side by side in GGUF. */
int64_t nib_gguf_row_of_hf(int64_t hf_row, int64_t rows, int32_t heads)
{
    const int64_t d = rows / heads, head = hf_row / d, in_head = hf_row % d;
    return head * d + 2 * (in_head % (d / 2)) + in_head / (d / 2);
}

int64_t nib_hf_row_of_gguf(int64_t gguf_row, int64_t rows, int32_t heads)
{
    const int64_t d = rows / heads, head = gguf_row / d, in_head = gguf_row % d;
    return head * d + in_head % 2 * (d / 2) + in_head / 2;
}

int nib_name_is_configuration(const char *gguf_name)
{
    return !strcmp(gguf_name, "rope_freqs.weight");
}
