/* matmul.h - products with weight matrices, through oneDNN. */
#ifndef KVPAGER_MODELS_MATMUL_H
#define KVPAGER_MODELS_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/pool.h"
#include "kvpager/status.h"

typedef struct matrix {
    size_t n_in, n_out;
    bool is_embedding; /* given and read by rows of outputs, [n_out][n_in]; otherwise given by rows
                          of inputs, [n_in][n_out], as GPT-2's Conv1D has them */
    bool is_bf16;      /* of data: uint16_t, otherwise float */
    void *data;        /* matrix_bytes(), aligned to 64; in what order, only matmul.c knows */
    const float *bias; /* [n_out]; NULL: none */
} matrix;

size_t matrix_bytes(const matrix *w);
/* The shape that it is given in: rows of `width` elements. */
void matrix_shape(const matrix *w, size_t *n_rows, size_t *width);
/* Set rows [first, first + n) of that shape. */
void matrix_put(matrix *w, size_t first, size_t n, const float *rows);
/* Row i of an embedding, the vector of token i, as float [n_in]. */
void matrix_row(const matrix *w, size_t i, float *row);

typedef struct matmul matmul;

/* Products run on the threads of `pool`, which must outlive this. Not for concurrent calls. */
KVP_NODISCARD kvp_status matmul_open(kvp_pool *p, matmul **out);
void matmul_close(matmul *mm);

/* Room for products of up to m rows with this matrix; later matmul_apply() calls allocate nothing.
 */
KVP_NODISCARD kvp_status matmul_reserve(matmul *mm, const matrix *w, size_t m);
/* y[m][n_out] = x[m][n_in] * w + bias. The same call gives the same bits, whatever the number of
 * threads; the order of additions depends on m. */
KVP_NODISCARD kvp_status matmul_apply(matmul *mm, const matrix *w, const float *x, size_t m,
                                      float *y);
/* Bytes of scratch held now. */
size_t matmul_scratch_bytes(const matmul *mm);

#endif
