/* tokenizer_merges.c: the merges of a BPE tokenizer.json. GGUF lists them for byte-level models;
 * for SentencePiece models they follow from the scores, as in transformers' generate_merges. */
#include <stdlib.h>
#include <string.h>

#include "host/internal.h"
#include "host/io/hf_parts.h"

#define PIECE_BYTES_MAX 1024 /* a piece is cut at every character: keeps the work linear */

static nib_status append_pair(json_t *merges, const char *left, size_t left_bytes,
                              const char *right, size_t right_bytes)
{
    json_t *pair = json_pack("[s%, s%]", left, left_bytes, right, right_bytes);
    NIB_REQUIRE(pair && json_array_append_new(merges, pair) == 0, NIB_ERR_OUT_OF_MEMORY,
                "no memory for %zu merges", json_array_size(merges));
    return NIB_OK;
}

/* "left right" -> vocabulary entries left, right and leftright; one space. */
static nib_status add_listed(const json_t *vocab, nib_gguf_string text, uint64_t i, char *buffer,
                             json_t *merges)
{
    const char *space = memchr(text.data, ' ', text.bytes);
    const uint64_t left = space ? (uint64_t)(space - text.data) : 0;
    const uint64_t right = space ? text.bytes - left - 1 : 0;
    NIB_REQUIRE(left && right && !memchr(space + 1, ' ', right) &&
                    !memchr(text.data, 0, text.bytes), NIB_ERR_FORMAT,
                "GGUF metadata: tokenizer.ggml.merges[%llu] is not two tokens with a space "
                "between them", (unsigned long long)i);
    memcpy(buffer, text.data, text.bytes);
    buffer[left] = 0;
    buffer[text.bytes] = 0;
    const int parts = json_object_get(vocab, buffer) && json_object_get(vocab, buffer + left + 1);
    memmove(buffer + left, buffer + left + 1, right + 1);
    NIB_REQUIRE(parts && json_object_get(vocab, buffer), NIB_ERR_FORMAT,
                "GGUF metadata: tokenizer.ggml.merges[%llu] names a token that is not in "
                "tokenizer.ggml.tokens", (unsigned long long)i);
    return append_pair(merges, text.data, left, space + 1, right);
}

nib_status nib_merges_from_list(const nib_gguf *gguf, const json_t *vocab, json_t **out)
{
    const nib_gguf_value *list = nib_gguf_find(gguf, "tokenizer.ggml.merges");
    NIB_REQUIRE(list && list->type == NIB_GGUF_ARRAY &&
                    (list->item == NIB_GGUF_STRING || list->count == 0), NIB_ERR_FORMAT,
                "GGUF metadata: tokenizer.ggml.merges is %s", list ? "no array of strings"
                                                                   : "missing");
    uint64_t longest = 0;
    for (uint64_t i = 0; i < list->count; i++) {
        const uint64_t bytes = nib_gguf_item_str(list, i).bytes;
        if (bytes > longest) longest = bytes;
    }
    json_t *merges = json_array();
    char *buffer = malloc(longest + 1);
    nib_status status = merges && buffer ? NIB_OK
                                         : nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for merges");
    for (uint64_t i = 0; i < list->count && status == NIB_OK; i++)
        status = add_listed(vocab, nib_gguf_item_str(list, i), i, buffer, merges);
    free(buffer);
    if (status != NIB_OK) json_decref(merges);
    else *out = merges;
    return status;
}

/* One way to cut a piece in two. */
typedef struct cut {
    float   score;
    int32_t left_id, right_id;
    int64_t piece;
    size_t  at;
} cut;

typedef struct cut_list {
    cut   *items;
    size_t count, room;
} cut_list;

static int by_score(const void *a, const void *b)
{
    const cut *x = a, *y = b;
    if (x->score < y->score || x->score > y->score) return x->score < y->score ? 1 : -1;
    if (x->piece != y->piece) return x->piece < y->piece ? -1 : 1;
    if (x->left_id != y->left_id) return x->left_id < y->left_id ? -1 : 1;
    return (x->right_id > y->right_id) - (x->right_id < y->right_id);
}

static nib_status push(cut_list *cuts, cut item)
{
    if (cuts->count == cuts->room) {
        const size_t room = cuts->room ? 2 * cuts->room : 4096;
        cut *items = realloc(cuts->items, room * sizeof *items);
        NIB_REQUIRE(items, NIB_ERR_OUT_OF_MEMORY, "no memory for %zu merges", room);
        cuts->items = items;
        cuts->room = room;
    }
    cuts->items[cuts->count++] = item;
    return NIB_OK;
}

static nib_status cut_piece(const nib_tokens *tokens, const json_t *vocab, int64_t id,
                            cut_list *cuts)
{
    const nib_gguf_string text = nib_gguf_item_str(tokens->text, (uint64_t)id);
    NIB_REQUIRE(text.bytes <= PIECE_BYTES_MAX, NIB_ERR_FORMAT,
                "GGUF metadata: tokenizer.ggml.tokens[%lld] has %llu bytes, over %d",
                (long long)id, (unsigned long long)text.bytes, PIECE_BYTES_MAX);
    char left[PIECE_BYTES_MAX + 1], right[PIECE_BYTES_MAX + 1];
    memcpy(right, text.data, text.bytes);
    right[text.bytes] = 0;
    for (size_t at = 1; at < text.bytes; at++) {
        if (((unsigned char)text.data[at] & 0xc0u) == 0x80u) continue; /* inside a character */
        memcpy(left, text.data, at);
        left[at] = 0;
        const json_t *l = json_object_get(vocab, left), *r = json_object_get(vocab, right + at);
        if (!l || !r) continue;
        const cut item = { (float)nib_gguf_item_f64(tokens->scores, (uint64_t)id),
                           (int32_t)json_integer_value(l), (int32_t)json_integer_value(r), id,
                           at };
        NIB_TRY(push(cuts, item));
    }
    return NIB_OK;
}

nib_status nib_merges_from_scores(const nib_tokens *tokens, const json_t *vocab, json_t **out)
{
    cut_list cuts = { NULL, 0, 0 };
    nib_status status = NIB_OK;
    for (int64_t id = 0; id < tokens->count && status == NIB_OK; id++)
        if (nib_tokens_type(tokens, id) == NIB_TOKEN_NORMAL)
            status = cut_piece(tokens, vocab, id, &cuts);
    if (cuts.count) qsort(cuts.items, cuts.count, sizeof *cuts.items, by_score);
    json_t *merges = json_array();
    if (!merges) status = nib_fail(NIB_ERR_OUT_OF_MEMORY, "no memory for merges");
    for (size_t i = 0; i < cuts.count && status == NIB_OK; i++) {
        const cut *c = &cuts.items[i];
        const nib_gguf_string text = nib_gguf_item_str(tokens->text, (uint64_t)c->piece);
        status = append_pair(merges, text.data, c->at, text.data + c->at, text.bytes - c->at);
    }
    free(cuts.items);
    if (status != NIB_OK) json_decref(merges);
    else *out = merges;
    return status;
}
