/* sentencepiece.c: reads tokenizer.model, a protobuf (sentencepiece_model.proto): of ModelProto
 * the pieces (1: text 1, score 2, type 3), trainer_spec (2: model_type 3) and normalizer_spec
 * (3: add_dummy_prefix 3). Other fields are skipped. */
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"

typedef struct span {
    const uint8_t *at, *end;
} span;

typedef struct field {
    uint32_t number, wire;
    uint64_t value; /* wire 0: the number; 5: 32 bits */
    span     bytes; /* wire 2 */
} field;

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { MODEL_UNIGRAM = 1, MODEL_BPE = 2 };

static int read_varint(span *in, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        const uint8_t byte = *in->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return 1;
    }
    return 0;
}

static int skip(span *in, uint64_t bytes, span *out)
{
    if (bytes > (uint64_t)(in->end - in->at)) return 0;
    *out = (span){ in->at, in->at + bytes };
    in->at += bytes;
    return 1;
}

/* 1: a field was read; 0: broken. */
static int read_field(span *in, field *out)
{
    uint64_t tag, bytes;
    if (!read_varint(in, &tag) || tag >> 3 == 0 || tag >> 32) return 0;
    memset(out, 0, sizeof *out);
    out->number = (uint32_t)(tag >> 3);
    out->wire = (uint32_t)(tag & 7);
    switch (out->wire) {
    case WIRE_VARINT: return read_varint(in, &out->value);
    case WIRE_BYTES:  return read_varint(in, &bytes) && skip(in, bytes, &out->bytes);
    case WIRE_64:     return skip(in, 8, &out->bytes);
    case WIRE_32:
        if (!skip(in, 4, &out->bytes)) return 0;
        for (int i = 3; i >= 0; i--) out->value = out->value << 8 | out->bytes.at[i];
        return 1;
    default: return 0;
    }
}

static int read_piece(span in, nib_gguf_string *text, float *score, int32_t *type)
{
    field f;
    *type = NIB_TOKEN_NORMAL;
    *score = 0.0f;
    while (in.at < in.end) {
        if (!read_field(&in, &f)) return 0;
        if (f.number == 1 && f.wire == WIRE_BYTES)
            *text = (nib_gguf_string){ (const char *)f.bytes.at,
                                       (uint64_t)(f.bytes.end - f.bytes.at) };
        if (f.number == 2 && f.wire == WIRE_32) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(score, &bits, sizeof bits);
        }
        if (f.number == 3 && f.wire == WIRE_VARINT)
            *type = f.value <= NIB_TOKEN_BYTE ? (int32_t)f.value : 0;
    }
    return text->data && *type >= NIB_TOKEN_NORMAL;
}

static int read_number(span in, uint32_t number, uint64_t *value)
{
    field f;
    while (in.at < in.end) {
        if (!read_field(&in, &f)) return 0;
        if (f.number == number && f.wire == WIRE_VARINT) *value = f.value;
    }
    return 1;
}

static int64_t count_pieces(span in)
{
    field f;
    int64_t count = 0;
    while (in.at < in.end) {
        if (!read_field(&in, &f)) return -1;
        count += f.number == 1 && f.wire == WIRE_BYTES;
    }
    return count;
}

nib_status nib_sentencepiece_read(const char *path, const uint8_t *data, uint64_t bytes,
                                  nib_token_list *list, int *add_prefix)
{
    span in = { data, data + bytes };
    const int64_t count = count_pieces(in);
    NIB_REQUIRE(count >= 1 && count <= NIB_VOCAB_MAX, NIB_ERR_FORMAT,
                "%s: %s, 1..%d pieces are possible", path,
                count < 0 ? "broken protobuf" : "no pieces or too many", NIB_VOCAB_MAX);
    list->text = calloc((size_t)count, sizeof *list->text);
    list->types = calloc((size_t)count, sizeof *list->types);
    list->scores = calloc((size_t)count, sizeof *list->scores);
    list->count = count;
    NIB_REQUIRE(list->text && list->types && list->scores, NIB_ERR_OUT_OF_MEMORY,
                "%s: no memory for %lld pieces", path, (long long)count);

    field f;
    int64_t i = 0;
    uint64_t model = MODEL_UNIGRAM, prefix = 1; /* the proto's defaults */
    while (in.at < in.end && read_field(&in, &f)) {
        if (f.wire != WIRE_BYTES) continue;
        int good = 1;
        if (f.number == 1) {
            good = read_piece(f.bytes, &list->text[i], &list->scores[i], &list->types[i]);
            i++;
        }
        if (f.number == 2) good = read_number(f.bytes, 3, &model);
        if (f.number == 3) good = read_number(f.bytes, 3, &prefix);
        NIB_REQUIRE(good, NIB_ERR_FORMAT, "%s: broken protobuf after piece %lld", path,
                    (long long)i);
    }
    NIB_REQUIRE(model == MODEL_BPE, NIB_ERR_UNSUPPORTED,
                "%s: model_type %llu: only SentencePiece's BPE (2) is known", path,
                (unsigned long long)model);
    *add_prefix = prefix != 0;
    return NIB_OK;
}
