/* products_avx2.c - up to 6 rows by a panel, as many columns at a time as leave all sums in the 16
 * registers. Prefetches lost here, too: 8.6 ms per token for 7.5 (see products_avx512.c). */
#if defined(__x86_64__)
#include "integration/models/products.h"

#include <immintrin.h>

#include "integration/models/convert.h"

#define MAX_ROWS 6
#define MAX_VECTORS 6 /* of 8: a panel */

#define TARGET __attribute__((target("avx2,fma,f16c")))
/* For templates: constant arguments become constants of the loops inside. */
#define INLINE static inline __attribute__((always_inline, target("avx2,fma,f16c")))
#define UNROLL _Pragma("GCC unroll 8")

_Static_assert(MATRIX_PANEL == MAX_VECTORS * 8, "a panel is six vectors");

INLINE __m256 load(kvp_dtype dtype, const void *weights)
{
    if (dtype == KVP_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128(weights));
    return _mm256_loadu_ps(weights);
}

INLINE void add_products(__m256 weights, const float *x, int n_rows, int c,
                         __m256 sums[][MAX_VECTORS])
{
    UNROLL
    for (int r = 0; r < n_rows; r++)
        sums[r][c] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + r), weights, sums[r][c]);
}

/* Inputs in steps of one, or of bf16's pairs, of which the first has the lower half of 32 bits. */
INLINE void add_step(kvp_dtype dtype, const char *w, const float *x, int n_rows, int n_vectors,
                     __m256 sums[][MAX_VECTORS])
{
    const __m256i upper = _mm256_set1_epi32((int)0xFFFF0000u);
    const int vector_bytes = dtype == KVP_F16 ? 16 : 32;
    UNROLL
    for (int c = 0; c < n_vectors; c++) {
        if (dtype == KVP_BF16) {
            __m256i pairs = _mm256_loadu_si256((const void *)(w + c * vector_bytes));
            add_products(_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), x, n_rows, c, sums);
            add_products(_mm256_castsi256_ps(_mm256_and_si256(pairs, upper)), x + n_rows, n_rows, c,
                         sums);
        } else {
            add_products(load(dtype, w + c * vector_bytes), x, n_rows, c, sums);
        }
    }
}

/* Columns [first, first + 8 * n_vectors). */
INLINE void multiply_columns(kvp_dtype dtype, const product_tile *t, int n_rows, int n_vectors,
                             size_t first)
{
    __m256 sums[MAX_ROWS][MAX_VECTORS];
    const int n_inputs = dtype == KVP_BF16 ? 2 : 1;
    const size_t column_bytes = dtype == KVP_F16 ? 2 : 4;
    const char *w = (const char *)t->panel + first * column_bytes;
    const float *x = t->x;
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int c = 0; c < n_vectors; c++)
            sums[r][c] = _mm256_setzero_ps();
    }
    for (size_t k = 0; k < t->depth; k += (size_t)n_inputs) {
        add_step(dtype, w, x, n_rows, n_vectors, sums);
        w += MATRIX_PANEL * column_bytes;
        x += n_rows * n_inputs;
    }
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int c = 0; c < n_vectors; c++) {
            __m256 bias = _mm256_loadu_ps(t->bias + first + 8 * c);
            _mm256_storeu_ps(t->y + (size_t)r * t->y_stride + first + 8 * c,
                             _mm256_add_ps(sums[r][c], bias));
        }
    }
}

INLINE void multiply(kvp_dtype dtype, const product_tile *t, int n_rows, int n_vectors)
{
    for (size_t first = 0; first < MATRIX_PANEL; first += 8 * (size_t)n_vectors)
        multiply_columns(dtype, t, n_rows, n_vectors, first);
}

INLINE void multiply_rows(kvp_dtype dtype, const product_tile *t, size_t n_rows)
{
    switch (n_rows) {
    case 1:
        multiply(dtype, t, 1, 6);
        break;
    case 2:
        multiply(dtype, t, 2, 6);
        break;
    case 3:
        multiply(dtype, t, 3, 3);
        break;
    case 4:
        multiply(dtype, t, 4, 3);
        break;
    case 5:
        multiply(dtype, t, 5, 2);
        break;
    default:
        multiply(dtype, t, 6, 2);
    }
}

TARGET static void multiply_f32(const product_tile *t, size_t n_rows)
{
    multiply_rows(KVP_F32, t, n_rows);
}

TARGET static void multiply_f16(const product_tile *t, size_t n_rows)
{
    multiply_rows(KVP_F16, t, n_rows);
}

TARGET static void multiply_bf16(const product_tile *t, size_t n_rows)
{
    multiply_rows(KVP_BF16, t, n_rows);
}

const products products_avx2 = {
    .tile_rows = MAX_ROWS,
    .kernels = {[KVP_F32] = {product_pack_floats, sizeof(float), multiply_f32},
                [KVP_F16] = {product_pack_floats, sizeof(float), multiply_f16},
                [KVP_BF16] = {product_pack_floats, sizeof(float), multiply_bf16}}};
#endif
