/* gguf_from_hf.c: GGUF metadata from config.json, under the keys that llama.cpp's
 * convert_hf_to_gguf.py writes. general.file_type is the writer's business. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/file_util.h"
#include "host/io/hf_parts.h"
#include "host/io/json_util.h"

typedef struct target {
    const char *path; /* of config.json */
    const json_t *config;
    const char *arch;
    nib_gguf_meta *meta;
    nib_rope_freqs *freqs;
    int64_t head_dim;
} target;

static const struct { const char *class_name, *arch; } classes[] = {
    { "LlamaForCausalLM", "llama" },
    { "MistralForCausalLM", "llama" },
    { "Qwen2ForCausalLM", "qwen2" },
    { "Qwen3ForCausalLM", "qwen3" },
};

static nib_status find_arch(target *t)
{
    const json_t *list = json_object_get(t->config, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    for (size_t i = 0; name && i < sizeof classes / sizeof *classes; i++) {
        if (strcmp(name, classes[i].class_name) != 0) continue;
        t->arch = classes[i].arch;
        return NIB_OK;
    }
    return nib_fail(NIB_ERR_UNSUPPORTED, "%s: architecture %.60s: only Llama, Mistral, Qwen2 and "
                    "Qwen3 ForCausalLM become GGUF", t->path, name ? name : "is not stated");
}

/* An integer in 1..hi. A key that is absent or null takes fallback; fallback 0: an error. */
static nib_status get_int(const target *t, const char *key, int64_t fallback, int64_t hi,
                          int64_t *out)
{
    const json_t *value = json_object_get(t->config, key);
    uint64_t number = (uint64_t)fallback;
    if ((!value || json_is_null(value)) && fallback) {
        *out = fallback;
        return NIB_OK;
    }
    NIB_REQUIRE(value, NIB_ERR_FORMAT, "%s: no key %s", t->path, key);
    NIB_REQUIRE(nib_json_u64(value, &number) && number >= 1 && number <= (uint64_t)hi,
                NIB_ERR_FORMAT, "%s: %s is no integer in 1..%lld", t->path, key, (long long)hi);
    *out = (int64_t)number;
    return NIB_OK;
}

static nib_status get_real(const target *t, const json_t *from, const char *key, double *out)
{
    const json_t *value = json_object_get(from, key);
    *out = json_number_value(value);
    NIB_REQUIRE(json_is_number(value) && isfinite((float)*out) && (float)*out > 0.0f,
                NIB_ERR_FORMAT, "%s: %s is %s", t->path, key,
                json_is_number(value) ? "not a finite number above 0" : "missing or no number");
    return NIB_OK;
}

static nib_status put_int(const target *t, const char *name, int64_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", t->arch, name);
    return nib_gguf_set_u32(t->meta, key, (uint32_t)value);
}

static nib_status put_real(const target *t, const char *name, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", t->arch, name);
    return nib_gguf_set_f32(t->meta, key, (float)value);
}

/* What changes the model's function and has no place in these GGUF architectures. */
static nib_status refuse_extras(const target *t)
{
    const char *act = nib_json_str(t->config, "hidden_act");
    NIB_REQUIRE(!act || strcmp(act, "silu") == 0, NIB_ERR_UNSUPPORTED,
                "%s: hidden_act %.40s: GGUF's Llama family has silu", t->path, act);
    const json_t *window = json_object_get(t->config, "sliding_window");
    const json_t *use = json_object_get(t->config, "use_sliding_window");
    const int qwen = t->arch[0] == 'q';
    const int slides = qwen ? json_is_true(use) : window && !json_is_null(window);
    NIB_REQUIRE(!slides, NIB_ERR_UNSUPPORTED,
                "%s: sliding_window %lld: llama.cpp attends to everything in architecture %s",
                t->path, (long long)json_integer_value(window), t->arch);
    const json_t *partial = json_object_get(t->config, "partial_rotary_factor");
    NIB_REQUIRE(!partial || fabs(json_number_value(partial) - 1.0) <= 0.0, NIB_ERR_UNSUPPORTED,
                "%s: partial_rotary_factor %g: only whole heads are rotated", t->path,
                json_number_value(partial));
    return NIB_OK;
}

static nib_status put_sizes(target *t, nib_gguf_heads *heads)
{
    int64_t layers, context, hidden, ffn, q, kv, head_dim, vocab;
    NIB_TRY(get_int(t, "num_hidden_layers", 0, 1 << 16, &layers));
    NIB_TRY(get_int(t, "max_position_embeddings", 0, INT32_MAX, &context));
    NIB_TRY(get_int(t, "hidden_size", 0, 1 << 24, &hidden));
    NIB_TRY(get_int(t, "intermediate_size", 0, 1 << 26, &ffn));
    NIB_TRY(get_int(t, "num_attention_heads", 0, 1 << 16, &q));
    NIB_TRY(get_int(t, "num_key_value_heads", q, 1 << 16, &kv));
    NIB_TRY(get_int(t, "vocab_size", 0, NIB_VOCAB_MAX, &vocab));
    NIB_REQUIRE(q % kv == 0, NIB_ERR_FORMAT,
                "%s: num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                t->path, (long long)q, (long long)kv);
    const json_t *stated = json_object_get(t->config, "head_dim");
    const int has_head_dim = stated && !json_is_null(stated);
    NIB_REQUIRE(has_head_dim || hidden % q == 0, NIB_ERR_FORMAT,
                "%s: hidden_size %lld is no multiple of num_attention_heads %lld", t->path,
                (long long)hidden, (long long)q);
    NIB_TRY(get_int(t, "head_dim", has_head_dim ? 0 : hidden / q, 1 << 16, &head_dim));
    NIB_REQUIRE(head_dim % 2 == 0, NIB_ERR_FORMAT, "%s: heads of %lld values", t->path,
                (long long)head_dim);

    NIB_TRY(put_int(t, "block_count", layers));
    NIB_TRY(put_int(t, "context_length", context));
    NIB_TRY(put_int(t, "embedding_length", hidden));
    NIB_TRY(put_int(t, "feed_forward_length", ffn));
    NIB_TRY(put_int(t, "attention.head_count", q));
    NIB_TRY(put_int(t, "attention.head_count_kv", kv));
    if (has_head_dim) {
        NIB_TRY(put_int(t, "attention.key_length", head_dim));
        NIB_TRY(put_int(t, "attention.value_length", head_dim));
    }
    NIB_TRY(put_int(t, "rope.dimension_count", head_dim));
    NIB_TRY(put_int(t, "vocab_size", vocab));
    t->head_dim = head_dim;
    *heads = (nib_gguf_heads){ strcmp(t->arch, "llama") == 0, (int32_t)q, (int32_t)kv };
    return NIB_OK;
}

static nib_status put_yarn(const target *t, const json_t *scaling)
{
    static const char *const tuned[] = { "attention_factor", "beta_fast", "beta_slow", "mscale",
                                         "mscale_all_dim", "truncate" };
    for (size_t i = 0; i < sizeof tuned / sizeof *tuned; i++) {
        const json_t *value = json_object_get(scaling, tuned[i]);
        const double usual = i == 1 ? 32.0 : i == 2 ? 1.0 : -1.0; /* YaRN paper, section 3.3 */
        NIB_REQUIRE(!value || json_is_null(value) ||
                        fabs(json_number_value(value) - usual) <= 0.0, NIB_ERR_UNSUPPORTED,
                    "%s: yarn with its own %s is not carried over", t->path, tuned[i]);
    }
    uint64_t original;
    NIB_REQUIRE(nib_json_u64(json_object_get(scaling, "original_max_position_embeddings"),
                             &original) && original >= 1 && original <= INT32_MAX,
                NIB_ERR_FORMAT, "%s: yarn needs original_max_position_embeddings", t->path);
    return put_int(t, "rope.scaling.original_context_length", (int64_t)original);
}

/* Llama 3's scaling becomes a tensor of divisors. */
static nib_status make_freqs(target *t, const json_t *scaling, double theta)
{
    nib_llama3_rope rope = { .theta = theta, .head_dim = t->head_dim };
    NIB_TRY(get_real(t, scaling, "factor", &rope.factor));
    NIB_TRY(get_real(t, scaling, "low_freq_factor", &rope.low));
    NIB_TRY(get_real(t, scaling, "high_freq_factor", &rope.high));
    NIB_TRY(get_real(t, scaling, "original_max_position_embeddings", &rope.positions));
    NIB_REQUIRE(rope.high > rope.low, NIB_ERR_FORMAT,
                "%s: rope scaling llama3 with high_freq_factor %g <= low_freq_factor %g", t->path,
                rope.high, rope.low);
    t->freqs->count = t->head_dim / 2;
    t->freqs->data = malloc((size_t)t->freqs->count * sizeof *t->freqs->data);
    NIB_REQUIRE(t->freqs->data, NIB_ERR_OUT_OF_MEMORY, "no memory for rope_freqs.weight");
    for (int64_t i = 0; i < t->freqs->count; i++)
        t->freqs->data[i] = (float)nib_llama3_divisor(&rope, i);
    return NIB_OK;
}

/* transformers 5 keeps rope_theta and the scaling in rope_parameters. */
static nib_status put_rope(target *t)
{
    const json_t *parameters = json_object_get(t->config, "rope_parameters");
    const json_t *scaling = json_object_get(t->config, "rope_scaling");
    if (!json_is_object(scaling)) scaling = parameters;
    double theta = 10000.0, factor;
    const json_t *holder = json_object_get(t->config, "rope_theta") ? t->config : parameters;
    if (json_object_get(holder, "rope_theta")) NIB_TRY(get_real(t, holder, "rope_theta", &theta));
    NIB_TRY(put_real(t, "rope.freq_base", theta));

    const char *type = nib_json_str(scaling, "rope_type");
    if (!type) type = nib_json_str(scaling, "type");
    if (!json_is_object(scaling) || !type || strcmp(type, "default") == 0) return NIB_OK;
    if (strcmp(type, "llama3") == 0) return make_freqs(t, scaling, theta);
    const int yarn = strcmp(type, "yarn") == 0;
    NIB_REQUIRE(yarn || strcmp(type, "linear") == 0, NIB_ERR_UNSUPPORTED,
                "%s: rope scaling %.40s: only linear, yarn and llama3 have a form in GGUF",
                t->path, type);
    NIB_TRY(get_real(t, scaling, "factor", &factor));
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.type", t->arch);
    NIB_TRY(nib_gguf_set_str(t->meta, key, type, strlen(type)));
    NIB_TRY(put_real(t, "rope.scaling.factor", factor));
    return yarn ? put_yarn(t, scaling) : NIB_OK;
}

/* The last part of the folder's path. */
static nib_status put_name(const target *t, const char *folder)
{
    size_t end = strlen(folder), start;
    while (end > 1 && folder[end - 1] == '/') end--;
    for (start = end; start > 0 && folder[start - 1] != '/'; start--) {}
    if (start == end) return NIB_OK;
    return nib_gguf_set_str(t->meta, "general.name", folder + start, end - start);
}

static nib_status write_meta(target *t, const char *folder, nib_gguf_heads *heads)
{
    double eps;
    NIB_TRY(find_arch(t));
    NIB_TRY(refuse_extras(t));
    NIB_TRY(nib_gguf_set_str(t->meta, "general.architecture", t->arch, strlen(t->arch)));
    NIB_TRY(nib_gguf_set_str(t->meta, "general.type", "model", 5));
    NIB_TRY(put_name(t, folder));
    NIB_TRY(put_sizes(t, heads));
    NIB_TRY(get_real(t, t->config, "rms_norm_eps", &eps));
    NIB_TRY(put_real(t, "attention.layer_norm_rms_epsilon", eps));
    NIB_TRY(put_rope(t));
    const int64_t vocab = json_integer_value(json_object_get(t->config, "vocab_size"));
    return nib_tokenizer_to_gguf(folder, t->config, vocab, t->meta);
}

nib_status nib_gguf_meta_from_hf(const char *folder, nib_gguf_meta *meta, nib_gguf_heads *heads,
                                 nib_rope_freqs *freqs)
{
    *freqs = (nib_rope_freqs){ 0 };
    json_t *config = NULL;
    char *path = nib_path_join(folder, "config.json");
    NIB_REQUIRE(path, NIB_ERR_OUT_OF_MEMORY, "no memory for a path");
    nib_status status = nib_json_load(path, &config);
    target t = { .path = path, .config = config, .meta = meta, .freqs = freqs };
    if (status == NIB_OK) status = write_meta(&t, folder, heads);
    if (status != NIB_OK) {
        free(freqs->data);
        *freqs = (nib_rope_freqs){ 0 };
    }
    json_decref(config);
    free(path);
    return status;
}
