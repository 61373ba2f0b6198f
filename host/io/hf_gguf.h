/* hf_gguf.h: what a Hugging Face folder and a GGUF file say in different words: tensor names,
 * the order of q and k rows, configuration, tokenizer, chat template.
 *
 * Architectures: "llama" (LlamaForCausalLM, MistralForCausalLM), "qwen2" (Qwen2ForCausalLM),
 * "qwen3" (Qwen3ForCausalLM). Others: NIB_ERR_UNSUPPORTED with the name and this list.
 */
#ifndef NIB_HF_GGUF_H
#define NIB_HF_GGUF_H

#include "host/io/gguf.h"

/* HF's name of a GGUF tensor and back, into text. NIB_ERR_UNSUPPORTED for a name without a
 * counterpart, NIB_ERR_ARGUMENT if text is too short. "<name>.scale" style side tensors and
 * "rope_freqs.weight" are the caller's business. */
nib_status nib_name_gguf_to_hf(const char *gguf_name, char *text, size_t text_bytes);
nib_status nib_name_hf_to_gguf(const char *hf_name, char *text, size_t text_bytes);

/* 1 if Hugging Face folders have what this tensor says in config.json: "rope_freqs.weight". */
int nib_name_is_configuration(const char *gguf_name);

/* GGUF of architecture "llama" holds the rows of q_proj and k_proj (weights and biases) in
 * another order: within a head of d rows, GGUF row 2j + t = HF row t * d/2 + j, t in {0, 1}.
 * Returns the number of heads whose rows are permuted, or 0 for every other tensor. */
typedef struct nib_gguf_heads {
    int32_t permuted; /* 1 for architecture "llama" */
    int32_t q, kv;
} nib_gguf_heads;
int32_t nib_permuted_heads(const nib_gguf_heads *heads, const char *hf_name);
/* GGUF's row that holds HF's row, of rows in all; and back. rows % (2 * heads) == 0. */
int64_t nib_gguf_row_of_hf(int64_t hf_row, int64_t rows, int32_t heads);
int64_t nib_hf_row_of_gguf(int64_t gguf_row, int64_t rows, int32_t heads);

/* Small files made in memory: name and content, both malloc'd. */
typedef struct nib_text_file {
    char  *name;
    char  *data;
    size_t bytes;
} nib_text_file;
typedef struct nib_text_files {
    nib_text_file *items;
    size_t         count;
} nib_text_files;
void       nib_text_files_free(nib_text_files *files);
nib_status nib_text_files_add(nib_text_files *files, const char *name, const char *data,
                              size_t bytes); /* copies */

/* Makes config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
 * special_tokens_map.json and, when there is one, chat_template.jinja from GGUF metadata, and
 * adds them to *files. torch_dtype: "float32", "float16" or "bfloat16", of the tensors that stay
 * unquantized. On failure *files and *heads are as before.
 *
 * From the tensors come: tied embeddings (no "output.weight"), biases (layer 0), vocab_size
 * (rows of token_embd.weight) and Llama 3's rope scaling: "rope_freqs.weight" must be what its
 * rule gives (low 1, high 4, 8192 positions) and becomes rope_scaling; its data is read then, and
 * no tensor of the folder takes its place.
 *
 * tokenizer.json is of type BPE for both kinds of GGUF tokenizer: byte-level for "gpt2" (pre:
 * smollm, llama-bpe, smaug-bpe, qwen2, gpt-2, default), with byte_fallback for "llama".
 *
 * NIB_ERR_FORMAT: a key is missing, of another kind or out of range; tokens that are empty, not
 * UTF-8 or twice there; token_type or scores of another length than tokens; merges that are no
 * pair of tokens. NIB_ERR_UNSUPPORTED: architecture, tokenizer or scaling that is not known, or
 * a key that changes what the model computes and has no place in config.json. */
nib_status nib_hf_files_from_gguf(const nib_gguf *gguf, const char *torch_dtype,
                                  nib_text_files *files, nib_gguf_heads *heads);

/* Contents of the tensor "rope_freqs.weight", F32 [count], for Llama 3's rope scaling. */
typedef struct nib_rope_freqs {
    float  *data; /* malloc'd; NULL: the model needs no such tensor */
    int64_t count;
} nib_rope_freqs;

/* The reverse: metadata of a GGUF file from the folder's config.json, tokenizer.json or
 * tokenizer.model (SentencePiece BPE; it goes before a tokenizer.json with byte_fallback),
 * tokenizer_config.json and chat_template.jinja. general.file_type is the caller's to set, and to
 * write *freqs as a tensor and to free it.
 *
 * Ids below vocab_size without a token become "[PAD<id>]", unused. Without tokenizer.model the
 * scores of a SentencePiece vocabulary follow from the order of the merges.
 *
 * Errors as above; NIB_ERR_UNSUPPORTED also for rope scaling other than linear, yarn and llama3,
 * and for sliding windows. After a failure meta holds some of the keys. */
nib_status nib_gguf_meta_from_hf(const char *folder, nib_gguf_meta *meta, nib_gguf_heads *heads,
                                 nib_rope_freqs *freqs);

#endif
