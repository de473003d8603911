/* matmul.h - products with weight matrices. */
#ifndef KVPAGER_MODELS_MATMUL_H
#define KVPAGER_MODELS_MATMUL_H

#include "integration/models/isa.h"
#include "integration/models/matrix.h"
#include "kvpager/pool.h"
#include "kvpager/status.h"

typedef struct matmul matmul;

/* Products run on the threads of `pool`, which must outlive this. Not for concurrent calls. */
KVP_NODISCARD kvp_status matmul_open(kvp_pool *pool, model_isa isa, matmul **out);
void matmul_close(matmul *mm);

/* Room for products of up to m rows with this matrix; later matmul_apply() calls allocate nothing.
 */
KVP_NODISCARD kvp_status matmul_reserve(matmul *mm, const matrix *w, size_t m);
/* y[m][n_out] = x[m][n_in] * w + bias. A row of y depends on its row of x alone, bit for bit: not
 * on m, on the other rows or on the number of threads (products.h has the order of additions). */
KVP_NODISCARD kvp_status matmul_apply(matmul *mm, const matrix *w, const float *x, size_t m,
                                      float *y);
/* Bytes of scratch held now. */
size_t matmul_scratch_bytes(const matmul *mm);

#endif
