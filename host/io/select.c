/* select.c: knowledge of layer names. */
#include "host/io/select.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

int nib_name_matches(const char *pattern, const char *name)
{
    return fnmatch(pattern, name, 0) == 0;
}

static int has(const char *name, const char *part) { return strstr(name, part) != NULL; }

static int ends(const char *name, const char *tail)
{
    const size_t n = strlen(name), m = strlen(tail);
    return n >= m && !strcmp(name + n - m, tail);
}

void nib_layer_type(const char *name, char *text, size_t text_bytes)
{
    char module[256];
    snprintf(module, sizeof module, "%s", name);
    char *dot = strrchr(module, '.');
    const char *leaf = dot ? dot + 1 : module;
    if (!strcmp(leaf, "bias")) {
        snprintf(text, text_bytes, "bias");
        return;
    }
    if (dot && !strcmp(leaf, "weight")) {
        *dot = '\0';
        dot = strrchr(module, '.');
        leaf = dot ? dot + 1 : module;
    }
    snprintf(text, text_bytes, "%s", has(leaf, "norm") ? "norm" : leaf);
}

/* Mixture-of-experts routers: tiny, and every peer keeps them. */
static int is_router(const char *name)
{
    return ends(name, ".gate.weight") || ends(name, "_gate.weight") || has(name, "router");
}

static int begins(const char *name, const char *head)
{
    return !strncmp(name, head, strlen(head));
}

int nib_is_embedding(const char *name)
{
    static const char *const tails[] = { "embed", "embeds", "embedding", "embeddings" };
    static const char *const whole[] = { "wte", "wpe", "emb", "relative_attention_bias" };
    char leaf[256];
    nib_layer_type(name, leaf, sizeof leaf);
    for (int i = 0; i < 4; i++)
        if (ends(leaf, tails[i]) || !strcmp(leaf, whole[i])) return 1;
    if (!strcmp(name, "shared.weight") || !strcmp(name, "model.shared.weight")) return 1; /* T5 */
    return begins(leaf, "embed_") && strcmp(leaf, "embed_out"); /* that is GPT-NeoX's lm_head */
}

int nib_is_linear(const nib_logical *t)
{
    char type[256];
    if (t->n_dims == 3 && has(t->name, "experts")) return 1;
    if (t->n_dims != 2 || !ends(t->name, ".weight") || nib_is_embedding(t->name)) return 0;
    nib_layer_type(t->name, type, sizeof type);
    return strcmp(type, "norm") != 0;
}

int nib_selected_by_default(const nib_logical *t)
{
    if (!nib_is_linear(t) || is_router(t->name)) return 0;
    /* Fused experts without ".weight" are stored [experts, in, out]: blocks along the last
     * dimension would run along the output, which no runtime multiplies by. */
    if (t->n_dims == 3 && !ends(t->name, ".weight")) return 0;
    /* Layers that work on embeddings, as of diffusion models, are kept by peers too. */
    return !has(t->name, "embed") && !has(t->name, "lm_head") && !has(t->name, "visual.")
        && !has(t->name, "vision") && !has(t->name, "multi_modal");
}

/* What runtimes put into one matrix with one tensor scale. */
static const struct {
    const char *tail, *group;
} fused[] = {
    { ".q_proj.weight", ".qkv" },    { ".k_proj.weight", ".qkv" },
    { ".v_proj.weight", ".qkv" },    { ".gate_proj.weight", ".gate_up" },
    { ".up_proj.weight", ".gate_up" }, { ".w1.weight", ".gate_up" },
    { ".w3.weight", ".gate_up" },
};
enum { FUSED = sizeof fused / sizeof *fused };

/* FUSED if there is none. */
static int fused_row(const char *name)
{
    int i = 0;
    while (i < FUSED && !ends(name, fused[i].tail)) i++;
    return i;
}

static void with_tail(const char *name, int row, const char *tail, char *text, size_t text_bytes)
{
    const int stem = (int)(strlen(name) - strlen(fused[row].tail));
    snprintf(text, text_bytes, "%.*s%s", stem, name, tail);
}

void nib_scale_group(const char *name, char *text, size_t text_bytes)
{
    const int row = fused_row(name);
    if (row < FUSED) with_tail(name, row, fused[row].group, text, text_bytes);
    else snprintf(text, text_bytes, "%s", name);
}

int nib_scale_sibling(const char *name, int i, char *text, size_t text_bytes)
{
    const int row = fused_row(name);
    for (int other = 0; row < FUSED && other < FUSED; other++) {
        if (other == row || strcmp(fused[other].group, fused[row].group) || i--) continue;
        with_tail(name, row, fused[other].tail, text, text_bytes);
        return 1;
    }
    return 0;
}
