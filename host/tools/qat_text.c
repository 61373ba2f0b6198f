/* qat_text.c: a text as bytes, split into training and validation, and batches of it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/tools/qat_demo.h"

enum { BLOCK = 16384, EVERY = 16, BYTES_MAX = 1 << 30 };

static uint8_t *file_read(const char *path, int64_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) qat_die("%s: %s", path, strerror(errno));
    const long size = ftell(file);
    if (size < 0 || size > BYTES_MAX) qat_die("%s: not a text of at most 1 GiB", path);
    rewind(file);
    uint8_t *data = malloc((size_t)size + 1);
    if (!data) qat_die("no memory for %s", path);
    if (fread(data, 1, (size_t)size, file) != (size_t)size) qat_die("%s: cannot be read", path);
    fclose(file);
    *bytes = size;
    return data;
}

/* A short text has blocks that are shorter in proportion, so that it has both parts. */
void qat_text_read(const char *path, int64_t need, qat_text *text)
{
    int64_t bytes;
    uint8_t *all = file_read(path, &bytes);
    const int64_t block = bytes / EVERY < BLOCK ? bytes / EVERY : BLOCK;
    *text = (qat_text){ .train = malloc((size_t)bytes + 1),
                        .validation = malloc((size_t)bytes + 1) };
    if (!text->train || !text->validation) qat_die("no memory for %s", path);
    for (int64_t at = 0, i = 0; at < bytes && block > 0; at += block, i++) {
        const int64_t n = bytes - at < block ? bytes - at : block;
        const int held_out = i % EVERY == EVERY - 1;
        uint8_t *to = held_out ? text->validation + text->validation_bytes
                               : text->train + text->train_bytes;
        memcpy(to, all + at, (size_t)n);
        *(held_out ? &text->validation_bytes : &text->train_bytes) += n;
    }
    free(all);
    const int64_t least = text->validation_bytes < text->train_bytes ? text->validation_bytes
                                                                     : text->train_bytes;
    if (least < need) qat_die("%s: %lld bytes are too few to train on", path, (long long)bytes);
}

void qat_text_free(qat_text *text)
{
    free(text->train);
    free(text->validation);
    memset(text, 0, sizeof *text);
}

void qat_text_batch(const qat_text *text, const qat_model *m, uint64_t seed, int64_t step,
                    uint8_t *tokens)
{
    const int64_t row = m->shape.context + 1;
    uint64_t state = seed * 0x100000000u + (uint64_t)step;
    (void)qat_random(&state);
    for (int64_t i = 0; i < m->sequences; i++) {
        const uint64_t places = (uint64_t)(text->train_bytes - row + 1);
        memcpy(tokens + i * row, text->train + qat_random(&state) % places, (size_t)row);
    }
}

void qat_text_validation(const qat_text *text, const qat_model *m, int64_t i, uint8_t *tokens)
{
    const int64_t context = m->shape.context;
    for (int64_t s = 0; s < m->sequences; s++)
        memcpy(tokens + s * (context + 1), text->validation + (i * m->sequences + s) * context,
               (size_t)context + 1);
}
