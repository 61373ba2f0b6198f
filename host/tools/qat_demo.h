/* qat_demo.h: what the parts of the tool qat_demo share around the model of qat.h. */
#ifndef NIB_QAT_DEMO_H
#define NIB_QAT_DEMO_H

#include <jansson.h>

#include "host/tools/qat.h"
#include "nibble/nibble.h"

enum { QAT_SEQUENCES = 8 }; /* of a batch, at most; of one that judges, always */

/* "qat_demo: sentence" on stderr, and exit status 1. */
void qat_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ---- text (qat_text.c) ---- */

/* A text in two: of every 16 blocks of 16 KiB the last is for validation. */
typedef struct qat_text {
    uint8_t *train, *validation;
    int64_t  train_bytes, validation_bytes;
} qat_text;

/* Exits if the file cannot be read or either part is shorter than need bytes. */
void qat_text_read(const char *path, int64_t need, qat_text *text);
void qat_text_free(qat_text *text);

/* sequences rows of context + 1 bytes, from places that seed and step decide. */
void qat_text_batch(const qat_text *text, const qat_model *m, uint64_t seed, int64_t step,
                    uint8_t *tokens);

/* The i-th batch of the validation text; the rows of all batches follow each other. */
void qat_text_validation(const qat_text *text, const qat_model *m, int64_t i, uint8_t *tokens);

/* ---- fake-quantize by nibble (qat_fake.c) ---- */

typedef struct qat_fake_nibble {
    nib_exec          exec;
    nib_format        format;
    nib_fake_gradient gradient; /* through inputs */
} qat_fake_nibble;

/* How matrices become user->format's. */
qat_fake qat_fake_by(qat_fake_nibble *user);

/* ---- models as folders (qat_files.c) ---- */

/* config.json for LlamaForCausalLM and model.safetensors, in f32. Replaces what dst holds. */
void qat_model_write(const qat_model *m, const char *dst);
void qat_model_read(const char *src, qat_model *m);

/* ---- a training (qat_train.c) ---- */

typedef struct qat_arguments {
    const char *text, *model, *from, *run, *output;
    int64_t     seed, steps, sequences, validation_bytes;
    double      rate;
    int         small;
    nib_fake_gradient gradient;
} qat_arguments;

/* One run: what is trained, on what and how. */
typedef struct qat_run {
    const qat_arguments *a;
    qat_model        m;
    qat_text         text;
    nib_exec         exec;
    uint8_t         *tokens;
    nib_schedule     schedule;
    json_t          *curve;
} qat_run;

void qat_train(qat_run *r);

/* Writes r->a->output: the loss in the last format; of f32 also what quantizing makes of it. */
void qat_result_write(qat_run *r);

#endif
