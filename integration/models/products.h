/* products.h - the loops that multiply rows by a panel of a weight matrix, per instruction set and
 * dtype of the weights.
 *
 * Every output is one chain of additions: 0, the products with inputs 0, 1, 2, ... in this order,
 * the bias, in float32. AVX2 and AVX-512 round a product and its addition once (FMA),
 * plain C each. Only bf16 weights on AVX512_BF16 are different: inputs are rounded to bf16 as well,
 * and the chain goes by pairs of inputs, as VDPBF16PS has it (products: exact; the odd one first;
 * each addition rounded; subnormals are 0).
 *
 * So what a row becomes depends on that row alone, bit for bit: not on which rows share the call,
 * nor on their number, nor on how columns are shared among threads. */
#ifndef KVPAGER_MODELS_PRODUCTS_H
#define KVPAGER_MODELS_PRODUCTS_H

#include <stddef.h>

#include "integration/models/isa.h"
#include "integration/models/matrix.h"

#define PRODUCT_MAX_ROWS ((size_t)8)

/* Some rows by one panel. */
typedef struct product_tile {
    const void *x;     /* packed rows */
    const void *panel; /* of weights: see matrix.h */
    size_t depth;      /* matrix_depth() */
    const float *bias; /* [MATRIX_PANEL] */
    float *y;          /* [n_rows][MATRIX_PANEL] */
    size_t y_stride;   /* floats from one row to the next */
} product_tile;

typedef struct product_kernel {
    /* Bring 1 .. tile_rows rows, x [n_rows][n_in], into the order in which they are read:
     * depth * n_rows elements of packed_bytes. */
    void (*pack)(const float *x, size_t n_in, size_t depth, size_t n_rows, void *packed);
    size_t packed_bytes;
    void (*multiply)(const product_tile *t, size_t n_rows);
} product_kernel;

typedef struct products {
    size_t tile_rows;          /* of a call, at most; <= PRODUCT_MAX_ROWS */
    product_kernel kernels[3]; /* [kvp_dtype] of the weights */
} products;

const products *products_for(model_isa isa);

/* Packed as floats, [depth][n_rows], with zeros behind n_in. */
void product_pack_floats(const float *x, size_t n_in, size_t depth, size_t n_rows, void *packed);

extern const products products_scalar;
#if defined(__x86_64__)
extern const products products_avx2;
extern const products products_avx512;
extern const products products_avx512_bf16;
#endif

#endif
