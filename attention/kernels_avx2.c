/* kernels_avx2.c - AVX2 kernels for few query rows: bound by reading K and V.
 *
 * Rows go in tiles of up to 4, which share each loaded and converted row of K and V; lanes run
 * along the width. A score is one chain of fused multiply-adds over the width, an output element
 * one chain over the keys, in every tile shape: results do not depend on the grouping of rows.
 *
 * While a block is computed, the next one is fetched into L2, evenly over the loops: pages break
 * the streams that hardware prefetchers follow. GB/s on one thread, f16 at 8k tokens, 12/12 heads
 * of 64 and 32/8 of 128: without any prefetching 14 and 7; fetching V of the same block while
 * reading its K 14 and 10; the next block's V in one burst 21 and 10; as it is 22 and 15. */
#include "attention/avx2.h"

#if defined(__x86_64__)
#include <assert.h>

#define TILE_ROWS 4

typedef float scores[KVPI_BLOCK_KEYS];

/* Partial sums over the width elements at d of n_rows x n_keys scores. */
KVPI_AVX2_INLINE void dot_step(const char *k, size_t row_bytes, const float *const *q, size_t d,
                               size_t part, int n_rows, int n_keys, kvp_dtype dtype, __m256 *sum)
{
    __m256 x[TILE_ROWS];
    KVPI_UNROLL
    for (int r = 0; r < n_rows; r++)
        x[r] = part ? load_part(q[r] + d, part, KVP_F32) : _mm256_loadu_ps(q[r] + d);
    KVPI_UNROLL
    for (int j = 0; j < n_keys; j++) {
        const char *p = k + (size_t)j * row_bytes + d * kvp_dtype_bytes(dtype);
        __m256 y = part ? load_part(p, part, dtype) : load8(p, dtype);
        KVPI_UNROLL
        for (int r = 0; r < n_rows; r++)
            sum[r * n_keys + j] = _mm256_fmadd_ps(x[r], y, sum[r * n_keys + j]);
    }
}

/* Scores of n_rows x n_keys, both constants with n_keys 1 or a product that is a multiple of 4. */
KVPI_AVX2_INLINE void dot_tile(const char *k, size_t width, const float *const *q, int n_rows,
                               int n_keys, kvp_dtype dtype, scores *s, size_t j)
{
    const size_t row_bytes = width * kvp_dtype_bytes(dtype);
    __m256 sum[12];
    KVPI_UNROLL
    for (int i = 0; i < n_rows * n_keys; i++)
        sum[i] = _mm256_setzero_ps();

    size_t d = 0;
    for (; d + 8 <= width; d += 8)
        dot_step(k, row_bytes, q, d, 0, n_rows, n_keys, dtype, sum);
    if (d < width)
        dot_step(k, row_bytes, q, d, width - d, n_rows, n_keys, dtype, sum);

    KVPI_UNROLL
    for (int i = 0; i < n_rows * n_keys; i += n_keys == 1 ? 1 : 4) {
        if (n_keys == 1) {
            s[i][j] = sum_lanes(sum[i]);
            continue;
        }
        __m128 four = sum_lanes4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
        if (n_keys == 2) { /* of two rows */
            _mm_storel_pi((__m64 *)&s[i / 2][j], four);
            _mm_storeh_pi((__m64 *)&s[i / 2 + 1][j], four);
        } else {
            _mm_storeu_ps(&s[i / n_keys][j + (size_t)(i % n_keys)], four);
        }
    }
}

/* Fetch bytes [from, to) of what comes next into L2. */
KVPI_AVX2_INLINE void prefetch_lines(const void *next, size_t from, size_t to)
{
    if (next)
        for (size_t b = from; b < to; b += 64)
            _mm_prefetch((const char *)next + b, _MM_HINT_T1);
}

/* s[r][j] = q_r . k_j for the first n keys. */
KVPI_AVX2_INLINE void dot_rows(const kvpi_keys *keys, const kvpi_row *rows, size_t n, int n_rows,
                               kvp_dtype dtype, scores *s)
{
    const int n_keys = n_rows == 1 ? 8 : n_rows == 4 ? 2 : 4;
    const size_t k_bytes = keys->k_width * kvp_dtype_bytes(dtype);
    const char *k = keys->k;
    const float *q[TILE_ROWS];
    for (int r = 0; r < n_rows; r++)
        q[r] = rows[r].q;

    size_t j = 0;
    for (; j + (size_t)n_keys <= n; j += (size_t)n_keys) {
        prefetch_lines(keys->next_k, j * k_bytes, (j + (size_t)n_keys) * k_bytes);
        dot_tile(k + j * k_bytes, keys->k_width, q, n_rows, n_keys, dtype, s, j);
    }
    for (; j < n; j++)
        dot_tile(k + j * k_bytes, keys->k_width, q, n_rows, 1, dtype, s, j);
}

/* Scores into probabilities relative to the new maximum, zero from n_visible up to n; updates m and
 * l. Returns the factor by which the old state shrinks. */
KVPI_AVX2 static float softmax(kvpi_row *row, float *s, size_t n, float scale)
{
    const __m256 scale8 = _mm256_set1_ps(scale);
    const __m256 nothing = _mm256_set1_ps(-INFINITY);
    row->block_l = 0;
    if (row->n_visible == 0) {
        memset(s, 0, n * sizeof *s);
        return 1;
    }
    __m256 top = nothing;
    for (size_t j = 0; j < n; j += 8) {
        __m256 x = clamp_scores(_mm256_mul_ps(_mm256_loadu_ps(s + j), scale8));
        if (j + 8 > row->n_visible) {
            size_t n_lanes = j < row->n_visible ? row->n_visible - j : 0;
            x = _mm256_blendv_ps(nothing, x, _mm256_castsi256_ps(lanes_below(n_lanes)));
        }
        _mm256_storeu_ps(s + j, x);
        top = _mm256_max_ps(x, top);
    }
    float old = row->m;
    row->m = fmaxf(old, max_lanes(top));

    const __m256 m = _mm256_set1_ps(row->m);
    __m256 sum = _mm256_setzero_ps();
    for (size_t j = 0; j < n; j += 8) {
        __m256 p = exp8(_mm256_sub_ps(_mm256_loadu_ps(s + j), m));
        _mm256_storeu_ps(s + j, p);
        sum = _mm256_add_ps(sum, p);
    }
    float shrink = _mm256_cvtss_f32(exp8(_mm256_sub_ps(_mm256_set1_ps(old), m)));
    row->block_l = sum_lanes(sum);
    row->l = row->l * shrink + row->block_l;
    return shrink;
}

/* o[r] = o[r] * shrink[r] + sum_j s[r][j] * v_j for n_cols x 8 columns from c on, or `part` < 8. */
KVPI_AVX2_INLINE void weigh_tile(const kvpi_keys *keys, kvpi_row *rows, size_t n, int n_rows,
                                 size_t c, int n_cols, size_t part, kvp_dtype dtype,
                                 const float *shrink, scores *s)
{
    const size_t row_bytes = keys->v_width * kvp_dtype_bytes(dtype);
    const char *v = (const char *)keys->v + c * kvp_dtype_bytes(dtype);
    /* The lines that begin in these columns: all passes over the rows share the fetching evenly. */
    const size_t from = (c * kvp_dtype_bytes(dtype) + 63) / 64 * 64;
    const size_t to = (c + 8 * (size_t)n_cols) * kvp_dtype_bytes(dtype);
    __m256 sum[12];
    KVPI_UNROLL
    for (int i = 0; i < n_rows * n_cols; i++)
        sum[i] = _mm256_setzero_ps();

    for (size_t j = 0; j < n; j++, v += row_bytes) {
        prefetch_lines(keys->next_v, j * row_bytes + from, j * row_bytes + to);
        __m256 p[TILE_ROWS];
        KVPI_UNROLL
        for (int r = 0; r < n_rows; r++)
            p[r] = _mm256_broadcast_ss(&s[r][j]);
        KVPI_UNROLL
        for (int i = 0; i < n_cols; i++) {
            const char *at = v + 8 * (size_t)i * kvp_dtype_bytes(dtype);
            __m256 y = part ? load_part(at, part, dtype) : load8(at, dtype);
            KVPI_UNROLL
            for (int r = 0; r < n_rows; r++)
                sum[r * n_cols + i] = _mm256_fmadd_ps(p[r], y, sum[r * n_cols + i]);
        }
    }
    KVPI_UNROLL
    for (int r = 0; r < n_rows; r++) {
        __m256 factor = _mm256_set1_ps(shrink[r]);
        KVPI_UNROLL
        for (int i = 0; i < n_cols; i++) {
            float *o = rows[r].o + c + 8 * i;
            if (part) {
                __m256i lanes = lanes_below(part);
                __m256 old = _mm256_maskload_ps(o, lanes);
                _mm256_maskstore_ps(o, lanes, _mm256_fmadd_ps(old, factor, sum[r * n_cols + i]));
            } else {
                __m256 old = _mm256_loadu_ps(o);
                _mm256_storeu_ps(o, _mm256_fmadd_ps(old, factor, sum[r * n_cols + i]));
            }
        }
    }
}

KVPI_AVX2_INLINE void weigh_rows(const kvpi_keys *keys, kvpi_row *rows, size_t n, int n_rows,
                                 kvp_dtype dtype, const float *shrink, scores *s)
{
    const int n_cols = n_rows == 1 ? 8 : n_rows == 2 ? 4 : n_rows == 3 ? 3 : 2;
    const size_t width = keys->v_width;
    size_t c = 0;
    for (; c + 8 * (size_t)n_cols <= width; c += 8 * (size_t)n_cols)
        weigh_tile(keys, rows, n, n_rows, c, n_cols, 0, dtype, shrink, s);
    for (; n_cols > 2 && c + 16 <= width; c += 16)
        weigh_tile(keys, rows, n, n_rows, c, 2, 0, dtype, shrink, s);
    for (; c + 8 <= width; c += 8)
        weigh_tile(keys, rows, n, n_rows, c, 1, 0, dtype, shrink, s);
    if (c < width)
        weigh_tile(keys, rows, n, n_rows, c, 1, width - c, dtype, shrink, s);
}

KVPI_AVX2_INLINE void attend_tile(const kvpi_keys *keys, kvpi_row *rows, int n_rows,
                                  kvp_dtype dtype)
{
    scores s[TILE_ROWS];
    float shrink[TILE_ROWS];
    size_t n = 0;
    for (int r = 0; r < n_rows; r++)
        n = rows[r].n_visible > n ? rows[r].n_visible : n;
    assert(n <= keys->n && keys->n <= KVPI_BLOCK_KEYS);

    dot_rows(keys, rows, n, n_rows, dtype, s);
    for (int r = 0; r < n_rows; r++)
        shrink[r] = softmax(&rows[r], s[r], n, keys->scale);
    if (n)
        weigh_rows(keys, rows, n, n_rows, dtype, shrink, s);
}

KVPI_AVX2_INLINE void attend(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows, kvp_dtype dtype)
{
    kvpi_keys rest = *keys;
    for (; n_rows >= 4; rows += 4, n_rows -= 4) {
        attend_tile(&rest, rows, 4, dtype);
        rest.next_k = rest.next_v = NULL; /* once is enough */
    }
    if (n_rows == 3)
        attend_tile(&rest, rows, 3, dtype);
    else if (n_rows == 2)
        attend_tile(&rest, rows, 2, dtype);
    else if (n_rows == 1)
        attend_tile(&rest, rows, 1, dtype);
}

KVPI_AVX2 static void few_f32(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_F32);
}

KVPI_AVX2 static void few_f16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_F16);
}

KVPI_AVX2 static void few_bf16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_BF16);
}

const kvpi_kernels kvpi_kernels_avx2 = {
    .name = "avx2",
    .few = {[KVP_F32] = few_f32, [KVP_F16] = few_f16, [KVP_BF16] = few_bf16},
    .many = {[KVP_F32] = kvpi_avx2_many_f32,
             [KVP_F16] = kvpi_avx2_many_f16,
             [KVP_BF16] = kvpi_avx2_many_bf16},
};
#endif
