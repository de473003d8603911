/* score_block.h - the vector kernels of score.h, written once. Who includes it says what a vector
 * is:
 *
 *   SCORE_NAME              "avx2"
 *   SCORE_TABLE             the kvpi_scorers to define
 *   SCORE_TARGET            attribute of functions; SCORE_INLINE: of templates, always inlined
 *   SCORE_LANES             floats in a vec
 *   SCORE_TILE_KEYS         keys per tile of TILE_QUERIES queries
 *   vec, vec_zero(), vec_load(p, dtype), vec_load_part(p, n, dtype): n < SCORE_LANES, the rest 0,
 *   vec_fma(a, b, c), vec_sum(a)
 *
 * A score is one chain of fused multiply-adds per lane, whatever tile it is computed in. */
#include "attention/score.h"

/* Tile loops must be unrolled at any -O level, or their accumulators live in memory. */
#define SCORE_UNROLL _Pragma("GCC unroll 16")
#define TILE_QUERIES 4
#define SINGLE_KEYS 8 /* keys per tile of one query */

/* Partial sums over the columns at d: all of a vector, or `part` of them. */
SCORE_INLINE void score_step(const char *k, size_t row_bytes, const float *const *q, size_t d,
                             size_t part, int n_queries, int n_keys, kvp_dtype dtype, vec *sum)
{
    vec x[TILE_QUERIES];
    SCORE_UNROLL
    for (int i = 0; i < n_queries; i++)
        x[i] = part ? vec_load_part(q[i] + d, part, KVP_F32) : vec_load(q[i] + d, KVP_F32);
    SCORE_UNROLL
    for (int j = 0; j < n_keys; j++) {
        const char *p = k + (size_t)j * row_bytes + d * kvp_dtype_bytes(dtype);
        vec y = part ? vec_load_part(p, part, dtype) : vec_load(p, dtype);
        SCORE_UNROLL
        for (int i = 0; i < n_queries; i++)
            sum[i * n_keys + j] = vec_fma(x[i], y, sum[i * n_keys + j]);
    }
}

/* n_queries x n_keys scores, both constants. */
SCORE_INLINE void score_tile(const char *k, size_t width, const float *const *q, int n_queries,
                             int n_keys, kvp_dtype dtype, float *scores)
{
    const size_t row_bytes = width * kvp_dtype_bytes(dtype);
    vec sum[16];
    SCORE_UNROLL
    for (int i = 0; i < n_queries * n_keys; i++)
        sum[i] = vec_zero();
    size_t d = 0;
    for (; d + SCORE_LANES <= width; d += SCORE_LANES)
        score_step(k, row_bytes, q, d, 0, n_queries, n_keys, dtype, sum);
    if (d < width)
        score_step(k, row_bytes, q, d, width - d, n_queries, n_keys, dtype, sum);
    SCORE_UNROLL
    for (int i = 0; i < n_queries * n_keys; i++)
        scores[i / n_keys * (int)KVPI_SCORE_KEYS + i % n_keys] = vec_sum(sum[i]);
}

/* Fetch bytes [from, to) of what comes next into L2: pages break the streams that hardware
 * prefetchers follow. */
SCORE_INLINE void prefetch_lines(const char *next, size_t from, size_t to)
{
    for (size_t b = from; next && b < to; b += 64)
        _mm_prefetch(next + b, _MM_HINT_T1);
}

SCORE_INLINE void score_rows(const kvpi_score_keys *keys, const char *next, const float *const *q,
                             int n_queries, int n_keys, kvp_dtype dtype, float *scores)
{
    const size_t row_bytes = keys->width * kvp_dtype_bytes(dtype);
    const char *k = keys->k;
    size_t j = 0;
    for (; j + (size_t)n_keys <= keys->n; j += (size_t)n_keys) {
        prefetch_lines(next, j * row_bytes, (j + (size_t)n_keys) * row_bytes);
        score_tile(k + j * row_bytes, keys->width, q, n_queries, n_keys, dtype, scores + j);
    }
    for (; j < keys->n; j++)
        score_tile(k + j * row_bytes, keys->width, q, n_queries, 1, dtype, scores + j);
}

SCORE_INLINE void score(const kvpi_score_keys *keys, const float *const *q, size_t n, float *scores,
                        kvp_dtype dtype)
{
    const char *next = keys->next; /* once is enough */
    for (; n >= TILE_QUERIES; n -= TILE_QUERIES, q += TILE_QUERIES) {
        score_rows(keys, next, q, TILE_QUERIES, SCORE_TILE_KEYS, dtype, scores);
        scores += TILE_QUERIES * KVPI_SCORE_KEYS;
        next = NULL;
    }
    for (; n; n--, q++, scores += KVPI_SCORE_KEYS) {
        score_rows(keys, next, q, 1, SINGLE_KEYS, dtype, scores);
        next = NULL;
    }
}

SCORE_INLINE void square(const kvpi_score_keys *keys, float *squares, kvp_dtype dtype)
{
    const size_t element = kvp_dtype_bytes(dtype);
    for (size_t j = 0; j < keys->n; j++) {
        const char *k = (const char *)keys->k + j * keys->width * element;
        vec sum = vec_zero();
        size_t d = 0;
        for (; d + SCORE_LANES <= keys->width; d += SCORE_LANES) {
            vec x = vec_load(k + d * element, dtype);
            sum = vec_fma(x, x, sum);
        }
        if (d < keys->width) {
            vec x = vec_load_part(k + d * element, keys->width - d, dtype);
            sum = vec_fma(x, x, sum);
        }
        squares[j] = vec_sum(sum);
    }
}

SCORE_TARGET static void score_f32(const kvpi_score_keys *k, const float *const *q, size_t n,
                                   float *s)
{
    score(k, q, n, s, KVP_F32);
}

SCORE_TARGET static void score_f16(const kvpi_score_keys *k, const float *const *q, size_t n,
                                   float *s)
{
    score(k, q, n, s, KVP_F16);
}

SCORE_TARGET static void score_bf16(const kvpi_score_keys *k, const float *const *q, size_t n,
                                    float *s)
{
    score(k, q, n, s, KVP_BF16);
}

SCORE_TARGET static void square_f32(const kvpi_score_keys *k, float *s)
{
    square(k, s, KVP_F32);
}

SCORE_TARGET static void square_f16(const kvpi_score_keys *k, float *s)
{
    square(k, s, KVP_F16);
}

SCORE_TARGET static void square_bf16(const kvpi_score_keys *k, float *s)
{
    square(k, s, KVP_BF16);
}

const kvpi_scorers SCORE_TABLE = {
    .name = SCORE_NAME,
    .score = {[KVP_F32] = score_f32, [KVP_F16] = score_f16, [KVP_BF16] = score_bf16},
    .square = {[KVP_F32] = square_f32, [KVP_F16] = square_f16, [KVP_BF16] = square_bf16},
};
