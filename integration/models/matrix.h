/* matrix.h - a weight matrix and the order of its numbers in memory. */
#ifndef KVPAGER_MODELS_MATRIX_H
#define KVPAGER_MODELS_MATRIX_H

#include <stdbool.h>
#include <stddef.h>

#include "kvpager/view.h"

typedef struct matrix {
    size_t n_in, n_out;
    bool is_out_major; /* how it is given: by rows of outputs, [n_out][n_in]; otherwise by rows of
                          inputs, [n_in][n_out], as GPT-2's Conv1D has them */
    kvp_dtype dtype;   /* of data: KVP_F32, KVP_F16, KVP_BF16 */
    void *data;        /* matrix_bytes(), aligned to 64, zeros at first */
    float *bias;       /* [n_out]; NULL: none */
} matrix;

/* Outputs lie in panels, one after the other: [depth][MATRIX_PANEL], the last one with zeros behind
 * its last output; bf16, as the instructions that multiply pairs read them,
 * [depth / 2][MATRIX_PANEL][2], with zeros behind an odd number of inputs. */
#define MATRIX_PANEL ((size_t)48)

/* Inputs of a panel: n_in; bf16: rounded up to 2. */
size_t matrix_depth(const matrix *w);
size_t matrix_panels(const matrix *w);
const void *matrix_panel(const matrix *w, size_t index);
size_t matrix_bytes(const matrix *w);
/* Set rows [first, first + n) of the shape that it is given in. */
void matrix_put(matrix *w, size_t first, size_t n, const float *rows);
/* The weights of output i (of an embedding: the vector of token i), as float [n_in]. */
void matrix_output(const matrix *w, size_t i, float *row);

#endif
