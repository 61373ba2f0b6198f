/* hf_parts.h: the pieces that hf_gguf.h is made of. The metadata and the JSON files that they
 * read may be hostile: every number is checked, and an error names its key or file. */
#ifndef NIB_HF_PARTS_H
#define NIB_HF_PARTS_H

#include <jansson.h>

#include "host/io/hf_gguf.h"

#define NIB_VOCAB_MAX (1 << 24) /* tokens; the largest known vocabularies have 2^18 */

/* llama.cpp's llama_token_type, which are SentencePiece's too. */
typedef enum nib_token_type {
    NIB_TOKEN_NORMAL = 1, NIB_TOKEN_UNKNOWN, NIB_TOKEN_CONTROL, NIB_TOKEN_USER_DEFINED,
    NIB_TOKEN_UNUSED, NIB_TOKEN_BYTE
} nib_token_type;

/* ---- hf_parts.c ---- */

/* An integer of GGUF's metadata within lo..hi, into *value. A key that is absent leaves *value
 * alone if optional, else it is NIB_ERR_FORMAT as is a value of another kind or range. */
nib_status nib_meta_int(const nib_gguf *gguf, const char *key, int optional, int64_t lo,
                        int64_t hi, int64_t *value);
/* A finite number above 0, likewise. */
nib_status nib_meta_real(const nib_gguf *gguf, const char *key, int optional, double *value);
/* 1, 0, or fallback if the key is absent or no boolean. */
int nib_meta_bool(const nib_gguf *gguf, const char *key, int fallback);
/* 1 if text equals word. */
int nib_str_is(nib_gguf_string text, const char *word);

/* The decimal with the fewest digits that reads back as the same f32, as JSON. */
json_t *nib_json_f32(double value);
/* Dumps json (indented) as a file; takes the reference. NULL json: out of memory. */
nib_status nib_text_files_add_json(nib_text_files *files, const char *name, json_t *json);

/* Llama 3's frequency scaling. llama.cpp keeps one divisor per frequency, computed from these
 * numbers (convert_hf_to_gguf.py, LlamaModel.generate_extra_tensors). */
typedef struct nib_llama3_rope {
    double  theta, factor, low, high, positions;
    int64_t head_dim;
} nib_llama3_rope;
double nib_llama3_divisor(const nib_llama3_rope *rope, int64_t i); /* i < head_dim / 2 */

/* ---- pre_tokenizer.c: tokenizer.ggml.pre and its meaning as tokenizer.json states it ---- */

typedef struct nib_pre_tokenizer {
    const char *name;
    const char *regexes[3];    /* Split patterns in their order */
    int         single_digits; /* Digits(individual_digits) comes first */
    int         gpt2_regex;    /* ByteLevel splits with its own pattern */
    int         ignore_merges; /* a word that is a token is taken whole */
    int         nfc;           /* HF normalizes; llama.cpp does not */
    int         add_bos;       /* llama.cpp's default where add_bos_token is absent */
} nib_pre_tokenizer;

/* NIB_ERR_UNSUPPORTED with the known names. No name (data NULL) is llama.cpp's "default". */
nib_status nib_pre_tokenizer_find(nib_gguf_string name, const nib_pre_tokenizer **out);
/* tokenizer.json's "pre_tokenizer"; NULL: out of memory. */
json_t *nib_pre_tokenizer_json(const nib_pre_tokenizer *pre);
/* The entry that says what tokenizer.json says. path: for the error. */
nib_status nib_pre_tokenizer_recognise(const char *path, const json_t *tokenizer,
                                       const nib_pre_tokenizer **out);

/* ---- tokens_gguf.c ---- */

/* Special tokens of a model, -1 where there is none. */
typedef struct nib_special_ids {
    int64_t bos, eos, unk, pad, eot;
} nib_special_ids;

/* tokenizer.ggml.tokens with what goes along. */
typedef struct nib_tokens {
    const nib_gguf_value *text, *types, *scores; /* types, scores: may be NULL */
    int64_t               count;
    nib_special_ids       ids;
    int                   add_bos, add_eos, add_space_prefix;
    const nib_pre_tokenizer *pre; /* NULL: SentencePiece ("llama") */
} nib_tokens;

nib_status nib_tokens_read(const nib_gguf *gguf, nib_tokens *out);
nib_token_type nib_tokens_type(const nib_tokens *tokens, int64_t id);

/* tokenizer_from_gguf.c: tokenizer.json and what the next function makes. */
nib_status nib_tokenizer_from_gguf(const nib_gguf *gguf, const nib_tokens *tokens,
                                   int64_t context, nib_text_files *files);
/* tokenizer_config.c: tokenizer_config.json, special_tokens_map.json, chat_template.jinja.
 * added: tokenizer.json's "added_tokens". */
nib_status nib_tokenizer_config_from_gguf(const nib_gguf *gguf, const nib_tokens *tokens,
                                          int64_t context, const json_t *added,
                                          nib_text_files *files);

/* tokenizer_merges.c: tokenizer.json's "merges", of GGUF's list or made from SentencePiece's
 * scores. vocab: object of text -> id. */
nib_status nib_merges_from_list(const nib_gguf *gguf, const json_t *vocab, json_t **out);
nib_status nib_merges_from_scores(const nib_tokens *tokens, const json_t *vocab, json_t **out);

/* ---- tokenizer_to_gguf.c ---- */

/* vocab: entries of the model (config.json's vocab_size), -1: as many as there are tokens. */
nib_status nib_tokenizer_to_gguf(const char *folder, const json_t *config, int64_t vocab,
                                 nib_gguf_meta *meta);

/* A vocabulary on its way into GGUF. */
typedef struct nib_token_list {
    nib_gguf_string *text;   /* NUL-terminated unless of a SentencePiece file; data NULL: none */
    int32_t         *types;
    float           *scores;
    int64_t          count;
} nib_token_list;

typedef struct nib_tokenizer_source {
    const char     *folder;
    char           *path;             /* of tokenizer.json or tokenizer.model, for errors */
    json_t         *json, *config;    /* tokenizer.json, tokenizer_config.json; NULL: none */
    nib_mapping     model;            /* tokenizer.model; data NULL: not used */
    const nib_pre_tokenizer *pre;     /* NULL: SentencePiece */
    nib_token_list  list;
    char           *fillers;          /* texts of list for ids that no token has */
    int             add_prefix;       /* a space goes before the text */
} nib_tokenizer_source;

/* token_list.c: list, fillers and add_prefix of what is open. */
nib_status nib_token_list_fill(nib_tokenizer_source *source, int64_t vocab);

/* sentencepiece.c: pieces of a SentencePiece model file that is in memory; text points into
 * data. Only BPE models. What list holds after a failure is the caller's to free. */
nib_status nib_sentencepiece_read(const char *path, const uint8_t *data, uint64_t bytes,
                                  nib_token_list *list, int *add_prefix);

#endif
