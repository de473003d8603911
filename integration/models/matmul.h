/* matmul.h - products with weight matrices, through oneDNN. */
#ifndef KVPAGER_MODELS_MATMUL_H
#define KVPAGER_MODELS_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

/* A weight matrix as the model's file has it: no copy, no reordering. */
typedef struct matrix {
    size_t n_in, n_out;
    bool is_out_major; /* [n_out][n_in] (an embedding); otherwise [n_in][n_out] (GPT-2's Conv1D) */
    bool is_bf16;      /* of data: uint16_t, otherwise float */
    void *data;        /* aligned to 64 bytes */
    const float *bias; /* [n_out]; NULL: none */
} matrix;

/* Elements and bytes of data. */
size_t matrix_elements(const matrix *w);
size_t matrix_bytes(const matrix *w);
/* Row i of data, as float: of an embedding, the vector of token i. */
void matrix_row(const matrix *w, size_t i, float *row);

typedef struct matmul matmul;

/* n_threads 0: one per CPU that this process may use. Not for concurrent calls. */
KVP_NODISCARD kvp_status matmul_open(uint32_t n_threads, matmul **out);
void matmul_close(matmul *mm);

/* Room for products of up to m rows with this matrix; later matmul_apply() calls allocate nothing.
 */
KVP_NODISCARD kvp_status matmul_reserve(matmul *mm, const matrix *w, size_t m);
/* y[m][n_out] = x[m][n_in] * w + bias. The same calls give the same bits. The sequence of additions
 * depends on m and on the number of threads. */
KVP_NODISCARD kvp_status matmul_apply(matmul *mm, const matrix *w, const float *x, size_t m,
                                      float *y);
/* Bytes of scratch held now. */
size_t matmul_scratch_bytes(const matmul *mm);

#endif
