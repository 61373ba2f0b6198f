/* qat_files.c: the model as a Hugging Face folder, for nibble's own tools and for any other. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/io/json_util.h"
#include "host/io/output.h"
#include "host/io/safetensors.h"
#include "host/tools/qat_demo.h"

enum { NAME_BYTES = 64, OF_LAYER = 2 + QAT_LINEARS };

static void tried(nib_status status)
{
    if (status != NIB_OK) qat_die("%s", nib_last_error());
}

static int64_t tensors(const qat_model *m) { return 2 + m->shape.layers * OF_LAYER; }

/* The i-th tensor: its name, shape and place. */
static size_t tensor_at(const qat_model *m, int64_t i, char name[NAME_BYTES],
                        nib_tensor_spec *spec)
{
    static const char *const of_layer[OF_LAYER] = {
        "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
        "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    };
    const qat_shape *s = &m->shape;
    *spec = (nib_tensor_spec){ .name = name, .type = NIB_TT_F32, .n_dims = 1,
                               .dims = { s->hidden } };
    if (i == 0) {
        snprintf(name, NAME_BYTES, "model.embed_tokens.weight");
        *spec = (nib_tensor_spec){ .name = name, .type = NIB_TT_F32, .n_dims = 2,
                                   .dims = { s->vocab, s->hidden } };
        return m->at.embedding;
    }
    if (i == tensors(m) - 1) {
        snprintf(name, NAME_BYTES, "model.norm.weight");
        return m->at.norm;
    }
    const int64_t l = (i - 1) / OF_LAYER, part = (i - 1) % OF_LAYER;
    const qat_layer_at *at = &m->at.layer[l];
    snprintf(name, NAME_BYTES, "model.layers.%d.%s.weight", (int)l, of_layer[part]);
    if (part < 2) return part == 0 ? at->norm_attention : at->norm_mlp;
    const qat_linear linear = (qat_linear)(part - 2);
    *spec = (nib_tensor_spec){ .name = name, .type = NIB_TT_F32, .n_dims = 2,
                               .dims = { qat_linear_rows(s, linear),
                                         qat_linear_cols(s, linear) } };
    return at->linear[linear];
}

static json_t *config_of(const qat_shape *s)
{
    json_t *config = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:b, s:b, s:b, s:i, "
        "s:i, s:s}",
        "architectures", "LlamaForCausalLM", "model_type", "llama",
        "hidden_size", (json_int_t)s->hidden, "intermediate_size", (json_int_t)s->inner,
        "num_hidden_layers", (json_int_t)s->layers, "num_attention_heads", (json_int_t)s->heads,
        "num_key_value_heads", (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim,
        "vocab_size", (json_int_t)s->vocab, "max_position_embeddings", (json_int_t)s->context,
        "rms_norm_eps", s->eps, "rope_theta", s->theta, "hidden_act", "silu",
        "attention_bias", 0, "mlp_bias", 0, "tie_word_embeddings", 1, "bos_token_id", 256,
        "eos_token_id", 257, "torch_dtype", "float32");
    if (!config) qat_die("no memory for config.json");
    return config;
}

void qat_model_write(const qat_model *m, const char *dst)
{
    const int64_t n = tensors(m);
    char (*names)[NAME_BYTES] = calloc((size_t)n, sizeof *names), *text;
    nib_tensor_spec *specs = calloc((size_t)n, sizeof *specs);
    size_t *places = calloc((size_t)n, sizeof *places), bytes;
    if (!names || !specs || !places) qat_die("no memory to write %s", dst);
    for (int64_t i = 0; i < n; i++) places[i] = tensor_at(m, i, names[i], &specs[i]);

    nib_file_layout layout;
    nib_output *out;
    nib_output_data *data;
    tried(nib_safetensors_layout(specs, (size_t)n, &layout));
    tried(nib_output_begin(dst, 1, 1, 0, "qat_demo", &out));
    tried(nib_output_file(out, "model.safetensors", layout.header, layout.header_bytes,
                          layout.file_bytes, &data));
    for (int64_t i = 0; i < n; i++)
        tried(nib_output_write(data, layout.offsets[i], m->value + places[i],
                               (uint64_t)nib_tensor_spec_bytes(&specs[i])));
    json_t *config = config_of(&m->shape);
    tried(nib_json_dump(config, 2, &text, &bytes));
    tried(nib_output_text(out, "config.json", text, bytes));
    tried(nib_output_commit(out));
    json_decref(config);
    free(text);
    nib_file_layout_free(&layout);
    free(names);
    free(specs);
    free(places);
}

void qat_model_read(const char *src, qat_model *m)
{
    nib_safetensors *st;
    tried(nib_safetensors_open(src, &st));
    for (int64_t i = 0; i < tensors(m); i++) {
        char name[NAME_BYTES];
        nib_tensor_spec spec;
        const size_t at = tensor_at(m, i, name, &spec);
        const nib_tensor *tensor = nib_safetensors_find(st, name);
        const uint64_t bytes = (uint64_t)nib_tensor_spec_bytes(&spec);
        if (!tensor || tensor->type != spec.type || tensor->bytes != bytes)
            qat_die("%s: no F32 tensor %s of %llu bytes", src, name, (unsigned long long)bytes);
        memcpy(m->value + at, tensor->data, bytes);
    }
    nib_safetensors_close(st);
}
