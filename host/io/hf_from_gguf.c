/* hf_from_gguf.c: config.json and generation_config.json from GGUF metadata. What the metadata
 * says about the model's function is either carried over or refused, never dropped. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"

typedef struct family {
    const char *arch, *class_name;
    int         permuted;
    int         bias_option; /* config.json says whether attention has biases (qwen2: q, k, v) */
} family;

static const family families[] = {
    { "llama", "LlamaForCausalLM", 1, 1 },
    { "qwen2", "Qwen2ForCausalLM", 0, 0 },
    { "qwen3", "Qwen3ForCausalLM", 0, 1 },
};

typedef struct facts {
    const family *family;
    int64_t hidden, ffn, layers, heads, kv_heads, head_dim, context, vocab;
    double  eps, theta;
    int     tied, attention_bias, mlp_bias;
    json_t *rope_scaling; /* NULL: none */
} facts;

static nib_status find_family(const nib_gguf *gguf, const family **out)
{
    const nib_gguf_string arch = nib_gguf_str(gguf, "general.architecture");
    NIB_REQUIRE(arch.data, NIB_ERR_FORMAT, "GGUF metadata: no key general.architecture");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (!nib_str_is(arch, families[i].arch)) continue;
        *out = &families[i];
        return NIB_OK;
    }
    return nib_fail(NIB_ERR_UNSUPPORTED,
                    "GGUF architecture \"%.*s\": only llama, qwen2 and qwen3 become a Hugging "
                    "Face folder", (int)(arch.bytes < 64 ? arch.bytes : 64), arch.data);
}

static nib_status arch_int(const nib_gguf *gguf, const facts *f, const char *name, int optional,
                           int64_t hi, int64_t *value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", f->family->arch, name);
    return nib_meta_int(gguf, key, optional, 1, hi, value);
}

static nib_status arch_real(const nib_gguf *gguf, const facts *f, const char *name, int optional,
                            double *value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", f->family->arch, name);
    return nib_meta_real(gguf, key, optional, value);
}

static nib_status read_sizes(const nib_gguf *gguf, facts *f)
{
    NIB_TRY(arch_int(gguf, f, "block_count", 0, 1 << 16, &f->layers));
    NIB_TRY(arch_int(gguf, f, "embedding_length", 0, 1 << 24, &f->hidden));
    NIB_TRY(arch_int(gguf, f, "feed_forward_length", 0, 1 << 26, &f->ffn));
    NIB_TRY(arch_int(gguf, f, "context_length", 0, INT32_MAX, &f->context));
    NIB_TRY(arch_int(gguf, f, "attention.head_count", 0, 1 << 16, &f->heads));
    f->kv_heads = f->heads;
    NIB_TRY(arch_int(gguf, f, "attention.head_count_kv", 1, 1 << 16, &f->kv_heads));
    NIB_REQUIRE(f->heads % f->kv_heads == 0, NIB_ERR_FORMAT,
                "GGUF metadata: attention.head_count %lld is no multiple of head_count_kv %lld",
                (long long)f->heads, (long long)f->kv_heads);

    NIB_TRY(arch_int(gguf, f, "attention.key_length", 1, 1 << 16, &f->head_dim));
    if (!f->head_dim) {
        NIB_REQUIRE(f->hidden % f->heads == 0, NIB_ERR_FORMAT,
                    "GGUF metadata: embedding_length %lld is no multiple of head_count %lld",
                    (long long)f->hidden, (long long)f->heads);
        f->head_dim = f->hidden / f->heads;
    }
    NIB_REQUIRE(f->head_dim % 2 == 0, NIB_ERR_FORMAT, "GGUF metadata: heads of %lld values",
                (long long)f->head_dim);
    int64_t value_dim = f->head_dim, rope_dim = f->head_dim;
    NIB_TRY(arch_int(gguf, f, "attention.value_length", 1, 1 << 16, &value_dim));
    NIB_TRY(arch_int(gguf, f, "rope.dimension_count", 1, 1 << 16, &rope_dim));
    NIB_REQUIRE(value_dim == f->head_dim && rope_dim == f->head_dim, NIB_ERR_UNSUPPORTED,
                "GGUF metadata: heads of %lld values with value_length %lld and "
                "rope.dimension_count %lld: config.json has one number for the three",
                (long long)f->head_dim, (long long)value_dim, (long long)rope_dim);
    return NIB_OK;
}

/* Keys that change what the model computes and that config.json of these classes cannot say. */
static nib_status refuse_extras(const nib_gguf *gguf, const facts *f)
{
    static const char *const extras[] = {
        "expert_count", "attention.sliding_window", "attention.scale", "attention.clamp_kqv",
        "attention.max_alibi_bias", "logit_scale", "embedding_scale", "residual_scale",
        "rope.scale_linear", "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow", "attn_logit_softcapping", "final_logit_softcapping",
    };
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++) {
        char key[96];
        snprintf(key, sizeof key, "%s.%s", f->family->arch, extras[i]);
        const double value = nib_gguf_f64(gguf, key, 0.0);
        NIB_REQUIRE(!nib_gguf_find(gguf, key) || fabs(value) <= 0.0, NIB_ERR_UNSUPPORTED,
                    "GGUF metadata: %s is %g, which %s cannot express", key, value,
                    f->family->class_name);
    }
    return NIB_OK;
}

/* All published models have low 1, high 4 and 8192 positions; the factor is the largest divisor.
 * That guess is checked against every divisor. */
static nib_status llama3_scaling(const nib_tensor *freqs, facts *f)
{
    NIB_REQUIRE(freqs->type == NIB_TT_F32 && nib_tensor_elements(freqs) == f->head_dim / 2,
                NIB_ERR_FORMAT, "%s: %lld elements of type %s, F32 for %lld frequencies needed",
                freqs->name, (long long)nib_tensor_elements(freqs),
                nib_tensor_type_get(freqs->type)->name, (long long)(f->head_dim / 2));
    nib_llama3_rope rope = { .theta = f->theta, .head_dim = f->head_dim, .low = 1.0, .high = 4.0,
                             .positions = 8192.0 };
    float divisor;
    for (int64_t i = 0; i < f->head_dim / 2; i++) {
        memcpy(&divisor, freqs->data + 4 * i, 4);
        if ((double)divisor > rope.factor) rope.factor = (double)divisor;
    }
    for (int64_t i = 0; i < f->head_dim / 2; i++) {
        memcpy(&divisor, freqs->data + 4 * i, 4);
        const double expected = nib_llama3_divisor(&rope, i);
        NIB_REQUIRE(fabs(expected - (double)divisor) <= 1e-4 * expected, NIB_ERR_UNSUPPORTED,
                    "%s: element %lld is %g where Llama 3's rule gives %g: no rope_scaling for "
                    "config.json says this", freqs->name, (long long)i, (double)divisor, expected);
    }
    f->rope_scaling = json_pack("{s:s, s:o, s:f, s:f, s:i}", "rope_type", "llama3", "factor",
                                nib_json_f32(rope.factor), "low_freq_factor", rope.low,
                                "high_freq_factor", rope.high,
                                "original_max_position_embeddings", (int)rope.positions);
    NIB_REQUIRE(f->rope_scaling, NIB_ERR_OUT_OF_MEMORY, "no memory for rope_scaling");
    return NIB_OK;
}

static nib_status read_rope(const nib_gguf *gguf, facts *f)
{
    char key[96];
    f->theta = 10000.0; /* llama.cpp's when absent */
    NIB_TRY(arch_real(gguf, f, "rope.freq_base", 1, &f->theta));
    snprintf(key, sizeof key, "%s.rope.scaling.type", f->family->arch);
    const nib_gguf_string type = nib_gguf_str(gguf, key);
    const nib_tensor *freqs = nib_gguf_find_tensor(gguf, "rope_freqs.weight");
    const int scaled = type.data && !nib_str_is(type, "none");
    NIB_REQUIRE(!(scaled && freqs), NIB_ERR_UNSUPPORTED,
                "GGUF: %s together with the tensor rope_freqs.weight", key);
    if (freqs) return llama3_scaling(freqs, f);

    const int yarn = nib_str_is(type, "yarn");
    NIB_REQUIRE(!scaled || yarn || nib_str_is(type, "linear"), NIB_ERR_UNSUPPORTED,
                "GGUF metadata: %s \"%.*s\": only none, linear and yarn are known", key,
                (int)(type.bytes < 64 ? type.bytes : 64), type.data ? type.data : "");

    double factor = 0.0;
    NIB_TRY(arch_real(gguf, f, "rope.scaling.factor", !scaled, &factor));
    if (!scaled) {
        NIB_REQUIRE(fabs(factor) <= 0.0 || fabs(factor - 1.0) <= 0.0, NIB_ERR_FORMAT,
                    "GGUF metadata: rope.scaling.factor %g without a type", factor);
        return NIB_OK;
    }
    f->rope_scaling = json_pack("{s:s, s:o}", "rope_type", yarn ? "yarn" : "linear", "factor",
                                nib_json_f32(factor));
    NIB_REQUIRE(f->rope_scaling, NIB_ERR_OUT_OF_MEMORY, "no memory for rope_scaling");
    if (!yarn) return NIB_OK;
    int64_t original = f->context;
    NIB_TRY(arch_int(gguf, f, "rope.scaling.original_context_length", 0, INT32_MAX, &original));
    json_object_set_new(f->rope_scaling, "original_max_position_embeddings",
                        json_integer(original));
    return NIB_OK;
}

static nib_status read_vocab(const nib_gguf *gguf, const nib_tokens *tokens, facts *f)
{
    f->vocab = tokens->count;
    const nib_tensor *embd = nib_gguf_find_tensor(gguf, "token_embd.weight");
    if (embd) {
        NIB_REQUIRE(embd->n_dims == 2 && embd->dims[1] == f->hidden && embd->dims[0] > 0 &&
                        embd->dims[0] <= NIB_VOCAB_MAX, NIB_ERR_FORMAT,
                    "token_embd.weight: %d dims, %lld x %lld; embedding_length is %lld",
                    embd->n_dims, (long long)embd->dims[0], (long long)embd->dims[1],
                    (long long)f->hidden);
        f->vocab = embd->dims[0];
    }
    int64_t stated = f->vocab;
    NIB_TRY(arch_int(gguf, f, "vocab_size", 1, NIB_VOCAB_MAX, &stated));
    NIB_REQUIRE(tokens->count <= f->vocab && stated == f->vocab, NIB_ERR_FORMAT,
                "GGUF: %lld tokens, vocab_size %lld and %lld rows of token_embd.weight disagree",
                (long long)tokens->count, (long long)stated, (long long)f->vocab);
    return NIB_OK;
}

/* How many of these tensors of the first layer there are. */
static int count_tensors(const nib_gguf *gguf, const char *const *names, int count)
{
    int found = 0;
    for (int i = 0; i < count; i++) found += nib_gguf_find_tensor(gguf, names[i]) != NULL;
    return found;
}

/* One switch of config.json stands for all biases of a block. */
static nib_status read_biases(const nib_gguf *gguf, facts *f)
{
    static const char *const attention[] = { "blk.0.attn_q.bias", "blk.0.attn_k.bias",
                                             "blk.0.attn_v.bias", "blk.0.attn_output.bias" };
    static const char *const mlp[] = { "blk.0.ffn_gate.bias", "blk.0.ffn_up.bias",
                                       "blk.0.ffn_down.bias" };
    const int qkv = count_tensors(gguf, attention, 3);
    const int output = count_tensors(gguf, attention + 3, 1);
    const int in_mlp = count_tensors(gguf, mlp, 3);
    const int weights = nib_gguf_find_tensor(gguf, "blk.0.attn_q.weight") != NULL;
    const int good = f->family->bias_option ? (qkv == 0 && !output) || (qkv == 3 && output)
                                            : (qkv == 3 || !weights) && !output;
    NIB_REQUIRE(good && (in_mlp == 0 || (in_mlp == 3 && f->family->permuted)),
                NIB_ERR_UNSUPPORTED,
                "GGUF: layer 0 has %d biases of q, k, v, %d of attn_output, %d of the MLP, which "
                "%s cannot have", qkv, output, in_mlp, f->family->class_name);
    f->attention_bias = output;
    f->mlp_bias = in_mlp == 3;
    return NIB_OK;
}

static json_t *id_or_null(int64_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

/* An end of turn that is another token than the end of text ends generation too. */
static json_t *eos_json(const nib_special_ids *ids)
{
    if (ids->eot < 0 || ids->eot == ids->eos || ids->eos < 0) return id_or_null(ids->eos);
    return json_pack("[I, I]", (json_int_t)ids->eos, (json_int_t)ids->eot);
}

static nib_status add_config(const facts *f, const nib_tokens *tokens, const char *torch_dtype,
                             nib_text_files *files)
{
    json_t *j = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:O?, s:I, s:s, s:b, s:f}",
        "architectures", f->family->class_name, "model_type", f->family->arch, "hidden_size",
        (json_int_t)f->hidden, "intermediate_size", (json_int_t)f->ffn, "num_hidden_layers",
        (json_int_t)f->layers, "num_attention_heads", (json_int_t)f->heads,
        "num_key_value_heads", (json_int_t)f->kv_heads, "head_dim", (json_int_t)f->head_dim,
        "max_position_embeddings", (json_int_t)f->context, "rms_norm_eps", nib_json_f32(f->eps),
        "rope_theta", nib_json_f32(f->theta), "rope_scaling", f->rope_scaling, "vocab_size",
        (json_int_t)f->vocab, "hidden_act", "silu", "tie_word_embeddings", f->tied,
        "attention_dropout", 0.0);
    NIB_REQUIRE(j, NIB_ERR_OUT_OF_MEMORY, "no memory for config.json");
    int bad = json_object_set_new(j, "initializer_range", json_real(0.02));
    if (f->family->bias_option)
        bad |= json_object_set_new(j, "attention_bias", json_boolean(f->attention_bias));
    if (f->family->permuted)
        bad |= json_object_set_new(j, "mlp_bias", json_boolean(f->mlp_bias));
    else
        bad |= json_object_set_new(j, "use_sliding_window", json_false());
    bad |= json_object_set_new(j, "bos_token_id", id_or_null(tokens->ids.bos));
    bad |= json_object_set_new(j, "eos_token_id", eos_json(&tokens->ids));
    bad |= json_object_set_new(j, "pad_token_id", id_or_null(tokens->ids.pad));
    bad |= json_object_set_new(j, "use_cache", json_true());
    bad |= json_object_set_new(j, "torch_dtype", json_string(torch_dtype));
    bad |= json_object_set_new(j, "dtype", json_string(torch_dtype)); /* transformers 5 */
    if (bad) {
        json_decref(j);
        j = NULL;
    }
    return nib_text_files_add_json(files, "config.json", j);
}

static nib_status add_generation_config(const nib_tokens *tokens, nib_text_files *files)
{
    json_t *j = json_pack("{s:b, s:o, s:o, s:o}", "_from_model_config", 1, "bos_token_id",
                          id_or_null(tokens->ids.bos), "eos_token_id", eos_json(&tokens->ids),
                          "pad_token_id", id_or_null(tokens->ids.pad));
    return nib_text_files_add_json(files, "generation_config.json", j);
}

static nib_status make_files(const nib_gguf *gguf, const char *torch_dtype, facts *f,
                             nib_text_files *files)
{
    nib_tokens tokens;
    NIB_TRY(find_family(gguf, &f->family));
    NIB_TRY(read_sizes(gguf, f));
    NIB_TRY(refuse_extras(gguf, f));
    NIB_TRY(arch_real(gguf, f, "attention.layer_norm_rms_epsilon", 0, &f->eps));
    NIB_TRY(nib_tokens_read(gguf, &tokens));
    NIB_TRY(read_vocab(gguf, &tokens, f));
    NIB_TRY(read_biases(gguf, f));
    NIB_TRY(read_rope(gguf, f));
    f->tied = nib_gguf_find_tensor(gguf, "output.weight") == NULL;
    NIB_TRY(add_config(f, &tokens, torch_dtype, files));
    NIB_TRY(add_generation_config(&tokens, files));
    return nib_tokenizer_from_gguf(gguf, &tokens, f->context, files);
}

nib_status nib_hf_files_from_gguf(const nib_gguf *gguf, const char *torch_dtype,
                                  nib_text_files *files, nib_gguf_heads *heads)
{
    facts f;
    memset(&f, 0, sizeof f);
    nib_text_files made = { NULL, 0 };
    nib_status status = make_files(gguf, torch_dtype, &f, &made);
    json_decref(f.rope_scaling);
    for (size_t i = 0; i < made.count && status == NIB_OK; i++)
        status = nib_text_files_add(files, made.items[i].name, made.items[i].data,
                                    made.items[i].bytes);
    nib_text_files_free(&made);
    if (status == NIB_OK)
        *heads = (nib_gguf_heads){ f.family->permuted, (int32_t)f.heads, (int32_t)f.kv_heads };
    return status;
}
