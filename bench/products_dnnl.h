/* products_dnnl.h - oneDNN's inner product, as fast as it can be: its own layout of weights, made
 * for one number of rows, OpenMP threads that wait for each other. */
#ifndef BENCH_PRODUCTS_DNNL_H
#define BENCH_PRODUCTS_DNNL_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/view.h"

typedef struct dnnl_product dnnl_product;

/* For n_matrices of zeros. NULL: it has no product of this dtype here. */
dnnl_product *dnnl_product_new(size_t n_in, size_t n_out, size_t m, kvp_dtype dtype,
                               size_t n_matrices, uint32_t n_threads);
void dnnl_product_free(dnnl_product *p);
/* y[m][n_out]; x is taken for m rows of the dtype. */
void dnnl_product_run(dnnl_product *p, size_t matrix, void *x, float *y);

#endif
