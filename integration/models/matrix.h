/* matrix.h - a weight matrix and the order of its numbers in memory. */
#ifndef KVPAGER_MODELS_MATRIX_H
#define KVPAGER_MODELS_MATRIX_H

#include <stdbool.h>
#include <stddef.h>

typedef struct matrix {
    size_t n_in, n_out;
    bool is_out_major; /* how it is given: by rows of outputs, [n_out][n_in]; otherwise by rows of
                          inputs, [n_in][n_out], as GPT-2's Conv1D has them */
    bool is_bf16;      /* of data: uint16_t, otherwise float */
    void *data;        /* matrix_bytes(), aligned to 64 */
    float *bias;       /* [n_out]; NULL: none */
} matrix;

/* Columns of a panel of floats. Panels lie one after the other, each [n_in][its width], so one that
 * begins at column c begins at element c * n_in. bf16 matrices are [n_out][n_in]. */
#define MATRIX_PANEL ((size_t)48)

size_t matrix_bytes(const matrix *w);
/* The shape that it is given in: rows of `width` elements. */
void matrix_shape(const matrix *w, size_t *n_rows, size_t *width);
/* Set rows [first, first + n) of that shape. */
void matrix_put(matrix *w, size_t first, size_t n, const float *rows);
/* The weights of output i (of an embedding: the vector of token i), as float [n_in]. */
void matrix_output(const matrix *w, size_t i, float *row);

#endif
