/* qbench_shapes.c: shapes by name: the layers of published models, and files of shapes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qbench.h"

/* From each model's config.json on huggingface.co: hidden_size, intermediate_size (of experts:
 * moe_intermediate_size where there is one), num_attention_heads, num_key_value_heads, head_dim,
 * the number of experts, and 1 where a checkpoint holds gate and up as one tensor. */
static const struct {
    const char *name, *repository;
    int         hidden, inner, heads, kv_heads, head_dim, experts, fused;
} models[] = {
    { "llama-3.1-8b", "meta-llama/Llama-3.1-8B", 4096, 14336, 32, 8, 128, 0, 0 },
    { "llama-3.1-70b", "meta-llama/Llama-3.1-70B", 8192, 28672, 64, 8, 128, 0, 0 },
    { "llama-3.2-1b", "meta-llama/Llama-3.2-1B", 2048, 8192, 32, 8, 64, 0, 0 },
    { "llama-3.2-3b", "meta-llama/Llama-3.2-3B", 3072, 8192, 24, 8, 128, 0, 0 },
    { "qwen3-0.6b", "Qwen/Qwen3-0.6B", 1024, 3072, 16, 8, 128, 0, 0 },
    { "qwen3-4b", "Qwen/Qwen3-4B", 2560, 9728, 32, 8, 128, 0, 0 },
    { "qwen3-8b", "Qwen/Qwen3-8B", 4096, 12288, 32, 8, 128, 0, 0 },
    { "qwen3-14b", "Qwen/Qwen3-14B", 5120, 17408, 40, 8, 128, 0, 0 },
    { "qwen3-32b", "Qwen/Qwen3-32B", 5120, 25600, 64, 8, 128, 0, 0 },
    { "qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", 2048, 768, 32, 4, 128, 128, 0 },
    { "mistral-7b", "mistralai/Mistral-7B-v0.3", 4096, 14336, 32, 8, 128, 0, 0 },
    { "mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", 4096, 14336, 32, 8, 128, 8, 0 },
    { "gpt-oss-20b", "openai/gpt-oss-20b", 2880, 2880, 64, 8, 64, 32, 1 },
    { "gpt-oss-120b", "openai/gpt-oss-120b", 2880, 2880, 64, 8, 64, 128, 1 },
    { "smollm2-135m", "HuggingFaceTB/SmolLM2-135M", 576, 1536, 9, 3, 64, 0, 0 },
};
enum { MODELS = sizeof models / sizeof *models };

static int append(nib_qb_shapes *shapes, const nib_qb_shape *shape)
{
    nib_qb_shape *more = realloc(shapes->shape, ((size_t)shapes->count + 1) * sizeof *more);
    if (!more) return 0;
    shapes->shape = more;
    shapes->shape[shapes->count++] = *shape;
    return 1;
}

/* A weight of out x in; one of the same shape as another of this model only adds its name. */
static int add_layer(nib_qb_shapes *shapes, int first, const char *model, const char *layer,
                     int64_t rows, int64_t cols, int64_t batch)
{
    nib_qb_shape shape = { .rows = rows, .cols = cols, .batch = batch };
    for (int i = first; i < shapes->count; i++) {
        nib_qb_shape *s = &shapes->shape[i];
        const size_t used = strlen(s->name);
        if (s->rows != rows || s->cols != cols || s->batch != batch) continue;
        snprintf(s->name + used, sizeof s->name - used, "+%s", layer);
        return 1;
    }
    snprintf(shape.name, sizeof shape.name, "%s %s", model, layer);
    return append(shapes, &shape);
}

static int add_model(nib_qb_shapes *shapes, int i)
{
    const int64_t hidden = models[i].hidden, inner = models[i].inner;
    const int64_t q = (int64_t)models[i].heads * models[i].head_dim;
    const int64_t kv = (int64_t)models[i].kv_heads * models[i].head_dim;
    const int64_t experts = models[i].experts ? models[i].experts : 1;
    const int first = shapes->count;
    const char *name = models[i].name;
    return add_layer(shapes, first, name, "q", q, hidden, 1)
        && add_layer(shapes, first, name, "k", kv, hidden, 1)
        && add_layer(shapes, first, name, "v", kv, hidden, 1)
        && add_layer(shapes, first, name, "o", hidden, q, 1)
        && (models[i].fused
                ? add_layer(shapes, first, name, "gate_up", 2 * inner, hidden, experts)
                : add_layer(shapes, first, name, "gate", inner, hidden, experts)
                      && add_layer(shapes, first, name, "up", inner, hidden, experts))
        && add_layer(shapes, first, name, "down", hidden, inner, experts);
}

void nib_qb_models_list(FILE *out)
{
    for (int i = 0; i < MODELS; i++)
        fprintf(out, "  %-14s %s\n", models[i].name, models[i].repository);
}

int nib_qb_shapes_of_models(const char *list, nib_qb_shapes *shapes, char *error,
                            size_t error_bytes)
{
    for (const char *at = list;; at++) {
        const size_t n = strcspn(at, ",");
        int found = -1;
        for (int i = 0; i < MODELS; i++)
            if (strlen(models[i].name) == n && !strncmp(models[i].name, at, n)) found = i;
        if (found < 0) {
            int used = snprintf(error, error_bytes, "--model: unknown '%.*s'; the choices are",
                                n < 64 ? (int)n : 64, at);
            for (int i = 0; i < MODELS && (size_t)used < error_bytes; i++)
                used += snprintf(error + used, error_bytes - (size_t)used, "%s %s", i ? "," : "",
                                 models[i].name);
            return 0;
        }
        if (!add_model(shapes, found)) {
            snprintf(error, error_bytes, "--model: no memory");
            return 0;
        }
        at += n;
        if (!*at) return 1;
    }
}

/* "rows cols [batch [name]]"; 1: a shape, 0: nothing but a comment, -1: neither. */
static int read_line(char *line, nib_qb_shape *shape)
{
    int64_t *const number[] = { &shape->rows, &shape->cols, &shape->batch };
    line[strcspn(line, "#\n")] = '\0';
    char *at = line + strspn(line, " \t");
    *shape = (nib_qb_shape){ .batch = 1 };
    if (!*at) return 0;
    for (int i = 0; i < 3; i++) {
        char *end;
        if (i == 2 && !*at) break;
        if (*at < '0' || *at > '9') return -1;
        errno = 0;
        *number[i] = strtoll(at, &end, 10);
        if (errno || *number[i] < 1 || !strchr(" \t", *end)) return -1;
        at = end + strspn(end, " \t");
    }
    size_t n = strlen(at);
    while (n > 0 && strchr(" \t", at[n - 1])) n--;
    snprintf(shape->name, sizeof shape->name, "%.*s", (int)n, at);
    return 1;
}

int nib_qb_shapes_of_file(const char *path, nib_qb_shapes *shapes, char *error,
                          size_t error_bytes)
{
    FILE *f = fopen(path, "r");
    if (!f) {
        snprintf(error, error_bytes, "--shapes: cannot read '%.300s': %s", path, strerror(errno));
        return 0;
    }
    char *line = NULL; /* of any length */
    size_t room = 0;
    int number = 0, good = 1;
    const int before = shapes->count;
    while (good && getline(&line, &room, f) >= 0) {
        nib_qb_shape shape;
        const int kind = read_line(line, &shape);
        number++;
        good = kind >= 0 && (kind == 0 || append(shapes, &shape));
        if (!good)
            snprintf(error, error_bytes, "--shapes: line %d of '%.300s' is not 'rows cols [batch "
                     "[name]]', numbers >= 1", number, path);
    }
    if (good && (ferror(f) || shapes->count == before)) {
        snprintf(error, error_bytes, "--shapes: '%.300s' has no shapes", path);
        good = 0;
    }
    free(line);
    fclose(f);
    return good;
}
