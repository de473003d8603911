/* tiny_file.h - writes model.safetensors of a few hundred weights, which are a function of their
 * names: small multiples of 1/64, exact in F32, F16 and BF16 alike. Failures fail the test. */
#ifndef TESTS_TINY_FILE_H
#define TESTS_TINY_FILE_H

#include <stddef.h>

/* Element i of the tensor of this name (without prefix). Weights of norms are around 1. */
float tiny_value(const char *name, size_t i);

typedef struct tiny_file tiny_file;

/* dtype: "F32", "F16", "BF16". */
tiny_file *tiny_file_begin(const char *dtype);
/* The tensor prefix + name of rows x width, or of `width` if rows is 0. */
void tiny_file_put(tiny_file *f, const char *prefix, const char *name, size_t rows, size_t width);
/* A tensor of given bytes. shape: as JSON. */
void tiny_file_put_bytes(tiny_file *f, const char *name, const char *dtype, const char *shape,
                         const void *bytes, size_t n);
/* Write it into the folder, and forget it. */
void tiny_file_end(tiny_file *f, const char *dir);

#endif
