/* gguf_bytes.h: writes GGUF bytes by hand, right or wrong, for the tests of the reader. */
#ifndef NIB_TEST_GGUF_BYTES_H
#define NIB_TEST_GGUF_BYTES_H

#include <stdint.h>
#include <string.h>

typedef struct gguf_bytes {
    uint8_t  data[4096];
    uint64_t bytes;
} gguf_bytes;

static inline void put_bytes(gguf_bytes *b, const void *data, uint64_t bytes)
{
    memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
}

static inline void put_u8(gguf_bytes *b, uint8_t v) { put_bytes(b, &v, sizeof v); }
static inline void put_u32(gguf_bytes *b, uint32_t v) { put_bytes(b, &v, sizeof v); }
static inline void put_u64(gguf_bytes *b, uint64_t v) { put_bytes(b, &v, sizeof v); }

static inline void put_text(gguf_bytes *b, const char *text)
{
    put_u64(b, strlen(text));
    put_bytes(b, text, strlen(text));
}

static inline void put_head(gguf_bytes *b, uint64_t tensors, uint64_t pairs)
{
    b->bytes = 0;
    put_bytes(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, tensors);
    put_u64(b, pairs);
}

static inline void put_u32_pair(gguf_bytes *b, const char *key, uint32_t value)
{
    put_text(b, key);
    put_u32(b, 4);
    put_u32(b, value);
}

/* dims innermost first, as in the file. */
static inline void put_info(gguf_bytes *b, const char *name, uint32_t type, uint64_t dim0,
                            uint64_t dim1, uint64_t offset)
{
    put_text(b, name);
    put_u32(b, 2);
    put_u64(b, dim0);
    put_u64(b, dim1);
    put_u32(b, type);
    put_u64(b, offset);
}

/* Zeros up to a multiple of 32, then data_bytes more. */
static inline void put_data(gguf_bytes *b, uint64_t data_bytes)
{
    const uint64_t end = (b->bytes + 31) / 32 * 32 + data_bytes;
    memset(b->data + b->bytes, 0, end - b->bytes);
    b->bytes = end;
}

#endif
