/* model_fixture.h: small synthetic models on disk, runs over them, and what came out. Looks below
 * include/: files are written through the library's own layouts. */
#ifndef NIB_TEST_MODEL_FIXTURE_H
#define NIB_TEST_MODEL_FIXTURE_H

#include <jansson.h>

#include "host/io/gguf.h"
#include "host/io/safetensors.h"
#include "nibble/nibble.h"
#include "temp_dir.h"

typedef struct fixture_tensor {
    const char     *name;
    nib_tensor_type type;
    int             n_dims;
    int64_t         dims[4];
    float           amp;                  /* values are amp * (-1..1), by the name; 0: zeros */
    void          (*edit)(float *x, int64_t n); /* changes values before they are encoded */
} fixture_tensor;

/* The tensor's bytes in its file; malloc'd. Floats by nib_scalar_cpu, integers count up. */
uint8_t *fixture_bytes(const fixture_tensor *t, uint64_t *bytes);

/* The same values as f32, after the rounding of the type. malloc'd. */
float *fixture_floats(const fixture_tensor *t, int64_t *n);

/* One safetensors file. 1 if it was written. */
int fixture_safetensors(const char *path, const fixture_tensor *t, size_t n);

/* One GGUF file of architecture "llama" with 4 heads, 2 of them for k and v. */
int fixture_gguf(const char *path, const fixture_tensor *t, size_t n);
/* The same, which says that it is the first of so many files of a model. */
int fixture_gguf_split(const char *path, const fixture_tensor *t, size_t n, uint32_t files);

/* A Hugging Face folder: config, generation config, tokenizer, chat template, and weights in
 * so many files, with an index when there is more than one. */
int fixture_folder(const char *path, const fixture_tensor *t, size_t n, size_t files);

/* Two layers of a Llama, hidden size 64, 4 heads (2 for k and v), intermediate size 128,
 * vocabulary 96, with lm_head. Amplitudes differ from tensor to tensor. The names are static. */
enum { FIXTURE_LLAMA = 21 };
const fixture_tensor *fixture_llama(nib_tensor_type type);
/* The same under GGUF's names. */
const fixture_tensor *fixture_llama_gguf(nib_tensor_type type);
/* The one with this name; NULL if none. */
const fixture_tensor *fixture_find(const fixture_tensor *t, size_t n, const char *name);

/* ---- runs ---- */

/* A CPU device that stays open. */
const nib_exec *fixture_exec(int threads);

nib_checkpoint_options fixture_options(nib_export export_as, nib_format format);

/* A run in all threads whose report nobody wants. */
nib_status fixture_quantize(const char *src, const char *dst, nib_export export_as,
                            nib_format format);

/* ---- what came out ---- */

/* 1 if both are the same file, byte for byte; or folders of the same files. */
int fixture_same(const char *a, const char *b);

/* 1 if both hold the same tensors, by name, type, shape and bytes, in any files. */
int fixture_same_tensors(const char *a, const char *b);

/* 1 if file folder/name is there. */
int fixture_has(const char *folder, const char *name);

/* 1 if something ".NAME.nibble-..." is left beside path. */
int fixture_leftovers(const char *path);

json_t *fixture_json(const char *folder, const char *name);

/* Options' progress and user: cancel becomes 1 when so many tensors are done. */
typedef struct fixture_stopper {
    int after, cancel;
} fixture_stopper;
void fixture_stop(void *stopper, const nib_progress *state);

/* 1 if the last error's text has this part. */
int fixture_error_has(const char *part);

#endif
