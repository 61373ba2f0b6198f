/* select.h: which tensors are quantized by default, what type of layer they are, and which
 * share one tensor scale. Everything goes by Hugging Face names. */
#ifndef NIB_SELECT_H
#define NIB_SELECT_H

#include "host/io/model.h"

/* "q_proj", "down_proj", "embed_tokens", "lm_head", "norm", "bias", ...; the last part of the
 * module's name when it is none of the known ones. Written into text. */
void nib_layer_type(const char *name, char *text, size_t text_bytes);

/* 1: a linear layer's weight that is quantized unless the caller says otherwise. */
int nib_selected_by_default(const nib_logical *t);

/* 1: a linear layer's weight; kept ones go into the target's ignore list. */
int nib_is_linear(const nib_logical *t);

/* 1: a table whose rows are looked up ("embed_tokens", "wte", "word_embeddings", ...), which
 * loaders of folders do not take as a linear layer. */
int nib_is_embedding(const char *name);

/* Key of the tensors that must share t's tensor scale, into text: its own name if none. */
void nib_scale_group(const char *name, char *text, size_t text_bytes);

/* The i-th name of a tensor that would share it, whether there is such a one or not, into text.
 * Returns 0 past the last. */
int nib_scale_sibling(const char *name, int i, char *text, size_t text_bytes);

/* Glob match in which * and ? match any character. */
int nib_name_matches(const char *pattern, const char *name);

#endif
