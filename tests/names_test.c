/* names_test.c: tensor names and the order of q and k rows, in both directions. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/hf_gguf.h"
#include "nibble/status.h"
#include "shim.h"

static const struct { const char *gguf, *hf; } known[] = {
    { "token_embd.weight", "model.embed_tokens.weight" },
    { "output_norm.weight", "model.norm.weight" },
    { "output.weight", "lm_head.weight" },
    { "output.bias", "lm_head.bias" },
    { "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight" },
    { "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight" },
    { "blk.7.attn_q.bias", "model.layers.7.self_attn.q_proj.bias" },
    { "blk.9.attn_k.weight", "model.layers.9.self_attn.k_proj.weight" },
    { "blk.10.attn_k.bias", "model.layers.10.self_attn.k_proj.bias" },
    { "blk.31.attn_v.weight", "model.layers.31.self_attn.v_proj.weight" },
    { "blk.31.attn_v.bias", "model.layers.31.self_attn.v_proj.bias" },
    { "blk.100.attn_output.weight", "model.layers.100.self_attn.o_proj.weight" },
    { "blk.100.attn_output.bias", "model.layers.100.self_attn.o_proj.bias" },
    { "blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight" },
    { "blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight" },
    { "blk.2.ffn_norm.weight", "model.layers.2.post_attention_layernorm.weight" },
    { "blk.2.ffn_gate.weight", "model.layers.2.mlp.gate_proj.weight" },
    { "blk.2.ffn_up.weight", "model.layers.2.mlp.up_proj.weight" },
    { "blk.2.ffn_up.bias", "model.layers.2.mlp.up_proj.bias" },
    { "blk.123456789.ffn_down.weight", "model.layers.123456789.mlp.down_proj.weight" },
};

NIB_TEST(Names, KnownBothWays)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char text[128];
        REQUIRE(nib_name_gguf_to_hf(known[i].gguf, text, sizeof text) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(strcmp(text, known[i].hf) == 0, "%s gave %s", known[i].gguf, text);
        REQUIRE(nib_name_hf_to_gguf(known[i].hf, text, sizeof text) == NIB_OK, "%s",
                nib_last_error());
        EXPECT(strcmp(text, known[i].gguf) == 0, "%s gave %s", known[i].hf, text);
    }
}

NIB_TEST(Names, UnknownRefusedByName)
{
    static const char *const gguf[] = {
        "", ".", "weight", ".weight", "rope_freqs.weight", "blk.0.attn_qkv.weight",
        "blk.0.ffn_gate_exps.weight", "blk.attn_q.weight", "blk..attn_q.weight",
        "blk.-1.attn_q.weight", "blk.01.attn_q.weight", "blk.1x.attn_q.weight",
        "blk.1234567890.attn_q.weight", "blk.0.attn_q", "blk.0.attn_q.scale",
        "blk.0.attn_q.weight.scale", "attn_q.weight", "blk.0.token_embd.weight",
        "output.weigh", "output.weight ", "model.norm.weight", "blk.0", "blk.0.",
    };
    static const char *const hf[] = {
        "", "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.mlp.experts.0.w1.weight",
        "layers.0.self_attn.q_proj.weight", "model.layers.00.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.weight_scale", "model.layers.0.model.norm.weight",
        "self_attn.q_proj.weight", "model.layers.", "output.weight",
    };
    char text[128];
    for (size_t i = 0; i < sizeof gguf / sizeof *gguf; i++) {
        EXPECT(nib_name_gguf_to_hf(gguf[i], text, sizeof text) == NIB_ERR_UNSUPPORTED, "%s",
               gguf[i]);
        EXPECT(strstr(nib_last_error(), gguf[i]), "%s not in: %s", gguf[i], nib_last_error());
    }
    for (size_t i = 0; i < sizeof hf / sizeof *hf; i++) {
        EXPECT(nib_name_hf_to_gguf(hf[i], text, sizeof text) == NIB_ERR_UNSUPPORTED, "%s", hf[i]);
        EXPECT(strstr(nib_last_error(), hf[i]), "%s not in: %s", hf[i], nib_last_error());
    }
}

NIB_TEST(Names, BufferTooShort)
{
    char text[18]; /* "model.norm.weight" and its NUL: exactly 18 */
    EXPECT(nib_name_gguf_to_hf("output_norm.weight", text, 18) == NIB_OK, "%s", nib_last_error());
    EXPECT(nib_name_gguf_to_hf("output_norm.weight", text, 17) == NIB_ERR_ARGUMENT, "17 bytes");
    EXPECT(nib_name_gguf_to_hf("output_norm.weight", NULL, 0) == NIB_ERR_ARGUMENT, "0 bytes");
}

NIB_TEST(Names, WhichHeadsArePermuted)
{
    const nib_gguf_heads llama = { .permuted = 1, .q = 9, .kv = 3 };
    const nib_gguf_heads qwen = { .permuted = 0, .q = 9, .kv = 3 };
    static const struct { const char *name; int32_t heads; } cases[] = {
        { "model.layers.3.self_attn.q_proj.weight", 9 },
        { "model.layers.3.self_attn.q_proj.bias", 9 },
        { "model.layers.3.self_attn.k_proj.weight", 3 },
        { "model.layers.3.self_attn.k_proj.bias", 3 },
        { "model.layers.3.self_attn.v_proj.weight", 0 },
        { "model.layers.3.self_attn.o_proj.weight", 0 },
        { "model.layers.3.self_attn.q_norm.weight", 0 },
        { "model.layers.3.mlp.gate_proj.weight", 0 },
        { "self_attn.q_proj.weight", 0 },
        { "model.embed_tokens.weight", 0 },
        { "", 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        EXPECT(nib_permuted_heads(&llama, cases[i].name) == cases[i].heads, "%s", cases[i].name);
        EXPECT(nib_permuted_heads(&qwen, cases[i].name) == 0, "%s", cases[i].name);
    }
}

/* Two heads of six rows: HF a0 a1 a2 b0 b1 b2 | ...  GGUF a0 b0 a1 b1 a2 b2 | ... */
NIB_TEST(Permutation, WorkedByHand)
{
    static const int64_t gguf_of_hf[12] = { 0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11 };
    for (int64_t i = 0; i < 12; i++) {
        EXPECT(nib_gguf_row_of_hf(i, 12, 2) == gguf_of_hf[i], "row %d", (int)i);
        EXPECT(nib_hf_row_of_gguf(gguf_of_hf[i], 12, 2) == i, "row %d", (int)i);
    }
}

static const struct { int32_t heads; int64_t d; } shapes[] = {
    { 1, 2 }, { 2, 2 }, { 1, 4 }, { 9, 64 }, { 3, 64 }, { 32, 128 }, { 8, 128 }, { 5, 6 },
    { 7, 80 },
};

NIB_TEST(Permutation, BijectionAndInverse)
{
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int32_t heads = shapes[s].heads;
        const int64_t rows = heads * shapes[s].d;
        char *seen = calloc((size_t)rows, 1);
        REQUIRE(seen, "memory");
        for (int64_t r = 0; r < rows; r++) {
            const int64_t g = nib_gguf_row_of_hf(r, rows, heads);
            EXPECT(g >= 0 && g < rows && !seen[g], "row %d of %d", (int)r, (int)rows);
            if (g < 0 || g >= rows) break;
            seen[g] = 1;
            EXPECT(nib_hf_row_of_gguf(g, rows, heads) == r, "row %d of %d", (int)r, (int)rows);
            EXPECT(g / shapes[s].d == r / shapes[s].d, "row %d leaves its head", (int)r);
        }
        free(seen);
    }
}

/* llama.cpp: weights.reshape(n_head, 2, rows / n_head / 2, ...).swapaxes(1, 2).reshape(rows).
 * Written here as numpy would walk it: out[h][j][t] = in[h][t][j]. */
NIB_TEST(Permutation, EqualsConvertHfToGguf)
{
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t half = shapes[s].d / 2, rows = shapes[s].heads * shapes[s].d;
        int64_t out = 0;
        for (int64_t h = 0; h < shapes[s].heads; h++)
            for (int64_t j = 0; j < half; j++)
                for (int64_t t = 0; t < 2; t++, out++) {
                    const int64_t in = (h * 2 + t) * half + j;
                    EXPECT(nib_hf_row_of_gguf(out, rows, shapes[s].heads) == in, "row %d",
                           (int)out);
                    EXPECT(nib_gguf_row_of_hf(in, rows, shapes[s].heads) == out, "row %d",
                           (int)in);
                }
    }
}
