/* gguf_writer.c - builds GGUF files in memory. */
#include "tests/support/gguf_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

void gguf_writer_fini(gguf_writer *w)
{
    free(w->bytes);
    *w = (gguf_writer){0};
}

void gguf_put(gguf_writer *w, const void *bytes, size_t n)
{
    if (!n)
        return;
    w->bytes = realloc(w->bytes, w->n + n);
    assert_non_null(w->bytes);
    memcpy(w->bytes + w->n, bytes, n);
    w->n += n;
}

static void put_bits(gguf_writer *w, uint64_t bits, size_t n_bytes)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = (unsigned char)(bits >> 8 * i);
    gguf_put(w, bytes, n_bytes);
}

void gguf_put_u32(gguf_writer *w, uint32_t value)
{
    put_bits(w, value, 4);
}

void gguf_put_u64(gguf_writer *w, uint64_t value)
{
    put_bits(w, value, 8);
}

void gguf_put_text(gguf_writer *w, const char *text)
{
    gguf_put_u64(w, strlen(text));
    gguf_put(w, text, strlen(text));
}

void gguf_put_header(gguf_writer *w, uint64_t n_tensors, uint64_t n_values)
{
    gguf_put(w, "GGUF", 4);
    gguf_put_u32(w, 3);
    gguf_put_u64(w, n_tensors);
    gguf_put_u64(w, n_values);
}

void gguf_put_key(gguf_writer *w, const char *key, uint32_t type)
{
    gguf_put_text(w, key);
    gguf_put_u32(w, type);
}

void gguf_put_value(gguf_writer *w, const char *key, uint32_t type, uint64_t bits, size_t n_bytes)
{
    gguf_put_key(w, key, type);
    put_bits(w, bits, n_bytes);
}

void gguf_put_array(gguf_writer *w, const char *key, uint32_t type, uint64_t n)
{
    gguf_put_key(w, key, 9);
    gguf_put_u32(w, type);
    gguf_put_u64(w, n);
}

void gguf_put_tensor(gguf_writer *w, const char *name, uint32_t rank, const uint64_t *dimensions,
                     uint32_t type, uint64_t offset)
{
    gguf_put_text(w, name);
    gguf_put_u32(w, rank);
    for (uint32_t i = 0; i < rank; i++)
        gguf_put_u64(w, dimensions[i]);
    gguf_put_u32(w, type);
    gguf_put_u64(w, offset);
}

void gguf_pad(gguf_writer *w, size_t alignment)
{
    while (w->n % alignment)
        gguf_put(w, "", 1);
}

void gguf_put_data(gguf_writer *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gguf_put(w, &(unsigned char){(unsigned char)(1 + i % 251)}, 1);
}
