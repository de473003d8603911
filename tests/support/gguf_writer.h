/* gguf_writer.h - builds GGUF files in memory, piece by piece, so that each piece can lie. */
#ifndef TESTS_GGUF_WRITER_H
#define TESTS_GGUF_WRITER_H

#include <stddef.h>
#include <stdint.h>

typedef struct gguf_writer {
    unsigned char *bytes; /* [n]; malloc'd, so that sanitizers see reads past its end */
    size_t n;
} gguf_writer;

/* A zeroed writer is empty. */
void gguf_writer_fini(gguf_writer *w);

void gguf_put(gguf_writer *w, const void *bytes, size_t n);
void gguf_put_u32(gguf_writer *w, uint32_t value);
void gguf_put_u64(gguf_writer *w, uint64_t value);
void gguf_put_text(gguf_writer *w, const char *text);

/* "GGUF", version 3, and these numbers. */
void gguf_put_header(gguf_writer *w, uint64_t n_tensors, uint64_t n_values);
/* Key and type; the value is put next. */
void gguf_put_key(gguf_writer *w, const char *key, uint32_t type);
/* A value of 1 to 8 bytes. */
void gguf_put_value(gguf_writer *w, const char *key, uint32_t type, uint64_t bits, size_t n_bytes);
/* Key, type array, type of elements and their number; the elements are put next. */
void gguf_put_array(gguf_writer *w, const char *key, uint32_t type, uint64_t n);
/* dimensions: innermost first, as in the file. */
void gguf_put_tensor(gguf_writer *w, const char *name, uint32_t rank, const uint64_t *dimensions,
                     uint32_t type, uint64_t offset);
/* Zeros up to a multiple of alignment. */
void gguf_pad(gguf_writer *w, size_t alignment);
/* n bytes 1, 2, ... 251, 1, ... */
void gguf_put_data(gguf_writer *w, size_t n);

#endif
