/* matmul.h - products with weight matrices, through oneDNN. */
#ifndef KVPAGER_MODELS_MATMUL_H
#define KVPAGER_MODELS_MATMUL_H

#include "integration/models/matrix.h"
#include "kvpager/pool.h"
#include "kvpager/status.h"

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
/* The least number of rows, m or more, of which it does not matter which is which: with so many,
 * the same row gives the same bits wherever it stands and whatever the others are. */
size_t matmul_fair_rows(const matmul *mm, const matrix *w, size_t m);
/* Bytes of scratch held now. */
size_t matmul_scratch_bytes(const matmul *mm);

#endif
