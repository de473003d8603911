/* bf16_products.h - oneDNN's inner products of bf16, by shape; what matmul.c makes strips of. */
#ifndef KVPAGER_MODELS_BF16_PRODUCTS_H
#define KVPAGER_MODELS_BF16_PRODUCTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct bf16_products bf16_products;
typedef struct bf16_product bf16_product; /* of one shape */

bool bf16_products_work_here(void); /* the CPU multiplies bf16 */
/* For calls from n_lanes threads at a time. */
KVP_NODISCARD kvp_status bf16_products_open(uint32_t n_lanes, bf16_products **out);
void bf16_products_close(bf16_products *b);

/* Be able to multiply 2^log2_rows rows of n_in by `width` outputs in matrix.h's order. */
KVP_NODISCARD kvp_status bf16_products_add(bf16_products *b, size_t n_in, size_t width,
                                           unsigned log2_rows);
/* One that was added. Additions make it invalid. */
const bf16_product *bf16_products_find(const bf16_products *b, size_t n_in, size_t width,
                                       unsigned log2_rows);
/* The most scratch that any of them asks for. */
size_t bf16_products_scratch_bytes(const bf16_products *b);
/* y[rows][width] in thread `lane`. Returns 0, or the number of oneDNN's error. */
int bf16_product_run(const bf16_products *b, const bf16_product *p, uint32_t lane, uint16_t *x,
                     uint16_t *weights, float *y, void *scratch);

#endif
