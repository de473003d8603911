/* block.h - a block of keys under some query rows: the arithmetic, once for every instruction set.
 * Included by kernels_<isa>.c behind <isa>.h, which has the vectors (LANES floats) that it is
 * written in.
 *
 *     s[row][key]  = q . k           tiles of up to 4 rows x 16 keys, lanes along the width
 *     s[row][key]  = exp(scale * s - block_m[row])
 *     o[row][col]  = o * old + (sum over keys of s * v) * new     tiles of 4 rows x 6 vectors
 *
 * A tile loads and converts each row of K and V once for its query rows. More rows than a tile has
 * meet K and V that are converted once for all of them, into a buffer on the stack (`packed`).
 *
 * Order of sums: the same for every tile shape and instruction set, so that neither changes a bit.
 * 1. q . k: 16 chains of fused multiply-adds, column d in chain d % 16, in the order of columns;
 *    then chains 8 apart are added, then those 4, 2 and 1 apart.
 * 2. block_l: 16 chains, key j in chain j % 16; then as q . k.
 * 3. A column of the block's output: one chain of fused multiply-adds in the order of keys.
 * 4. Keys at or after n_visible take no part in 2 and 3: what they hold, even NaN, changes nothing.
 *
 * While a block is computed, the next one is fetched into L2, evenly over the loops: pages break
 * the streams that hardware prefetchers follow. */
#include <assert.h>
#include <stdalign.h>
#include <stdbool.h>

#include "attention/partials.h"

#define CHAINS 16u
#define TILE_ROWS 4u
#define TILE_VECS 6u    /* of an output tile, at most */
#define PACK_KEYS 16u   /* rows of K that are packed at a time */
#define PACK_WIDTH 512u /* wider ones are converted by each tile */

/* ---- scores ---------------------------------------------------------------------------------- */

/* Fetch bytes [from, to) of what comes next into L2. One row is bound by memory: it asks for every
 * second line, since processors fetch lines in pairs, and has half as many requests in flight (GB/s
 * of one Zen 4 core from DRAM at width 64, f32 and f16: 28 and 29, with all lines 19 and 22). More
 * rows wait for a line whose pair is late (4 rows at width 128: 15, with all lines 19). */
SIMD_INLINE void prefetch_lines(const void *next, size_t from, size_t to, size_t n_rows)
{
    const size_t step = n_rows == 1 ? 128 : 64;
    if (next)
        for (size_t b = from; b < to; b += step)
            _mm_prefetch((const char *)next + b, _MM_HINT_T1);
}

/* Columns [d, d + LANES) of the products of n_rows queries and keys [first, end) of a tile, or the
 * first `part` of those columns. */
SIMD_INLINE void dot_step(const char *k, size_t row_bytes, const float *const *q, size_t d,
                          size_t part, int n_rows, int n_keys, int first, int end, kvp_dtype dtype,
                          vec *sum)
{
    vec x[TILE_ROWS];
    KVPI_UNROLL
    for (int r = 0; r < n_rows; r++) {
        x[r] = part ? vec_load_part(q[r] + d, part, KVP_F32) : vec_load(q[r] + d, KVP_F32);
        vec_keep(x[r]);
    }
    KVPI_UNROLL
    for (int j = first; j < end; j++) {
        const char *p = k + (size_t)j * row_bytes + d * kvp_dtype_bytes(dtype);
        vec y = part ? vec_load_part(p, part, dtype) : vec_load(p, dtype);
        if (n_rows > 1)
            vec_keep(y);
        KVPI_UNROLL
        for (int r = 0; r < n_rows; r++)
            sum[sum_slot(r * n_keys + j)] = vec_fma(x[r], y, sum[sum_slot(r * n_keys + j)]);
    }
}

/* s[r][j + i] = q_r . k_i, n_rows and n_keys being constants. `next` points to as many bytes to be
 * fetched. */
SIMD_INLINE void dot_tile(const char *k, const char *next, size_t width, const float *const *q,
                          int n_rows, int n_keys, kvp_dtype dtype, scores *s, size_t j)
{
    const size_t row_bytes = width * kvp_dtype_bytes(dtype);
    const int n_together = n_keys < 4 ? n_keys : 4; /* rows that are read at the same time */
    vec sum[16], lower[16];
    KVPI_UNROLL
    for (size_t chain = 0; chain < CHAINS; chain += LANES) {
        KVPI_UNROLL
        for (int i = 0; i < 16; i++)
            sum[i] = vec_set1(0);
        KVPI_UNROLL
        for (int i = 0; i < n_keys; i += n_together) {
            if (chain == 0)
                prefetch_lines(next, (size_t)i * row_bytes, (size_t)(i + n_together) * row_bytes,
                               (size_t)n_rows);
            size_t d = chain;
            for (; d + LANES <= width; d += CHAINS)
                dot_step(k, row_bytes, q, d, 0, n_rows, n_keys, i, i + n_together, dtype, sum);
            if (d < width)
                dot_step(k, row_bytes, q, d, width - d, n_rows, n_keys, i, i + n_together, dtype,
                         sum);
        }
        KVPI_UNROLL
        for (int i = 0; LANES < CHAINS && i < n_rows * n_keys; i++) {
            if (chain == 0)
                lower[i] = sum[i];
            else
                sum[i] = vec_add(lower[i], sum[i]);
        }
    }
    store_sums(sum, n_rows, n_keys, s, j);
}

/* s[r][j + i] for the n rows of K at k; `next` points to as many bytes to be fetched. */
SIMD_INLINE void dot_rows(const char *k, const char *next, size_t width, size_t n,
                          const kvpi_row *rows, int n_rows, kvp_dtype dtype, scores *s, size_t j)
{
    const size_t n_keys = (size_t)tile_keys(n_rows), row_bytes = width * kvp_dtype_bytes(dtype);
    const float *q[TILE_ROWS];
    KVPI_UNROLL
    for (int r = 0; r < n_rows; r++)
        q[r] = rows[r].q;
    size_t i = 0;
    for (; i + n_keys <= n; i += n_keys) {
        dot_tile(k + i * row_bytes, next ? next + i * row_bytes : NULL, width, q, n_rows,
                 (int)n_keys, dtype, s, j + i);
    }
    for (; i < n; i++)
        dot_tile(k + i * row_bytes, NULL, width, q, n_rows, 1, dtype, s, j + i);
}

/* All rows, tile by tile. */
SIMD_INLINE void dot_tiles(const char *k, const char *next, size_t width, size_t n,
                           const kvpi_row *rows, size_t n_rows, kvp_dtype dtype, scores *s,
                           size_t j)
{
    for (size_t r = 0; r < n_rows; r += TILE_ROWS, next = NULL)
        switch (n_rows - r) {
        case 1:
            dot_rows(k, next, width, n, rows + r, 1, dtype, s + r, j);
            break;
        case 2:
            dot_rows(k, next, width, n, rows + r, 2, dtype, s + r, j);
            break;
        case 3:
            dot_rows(k, next, width, n, rows + r, 3, dtype, s + r, j);
            break;
        default:
            dot_rows(k, next, width, n, rows + r, 4, dtype, s + r, j);
        }
}

/* n_cols columns of n rows as float32, side by side; as many bytes of `next` are fetched. */
SIMD_INLINE void pack(float *packed, const char *rows, const char *next, size_t n, size_t row_bytes,
                      size_t n_cols, kvp_dtype dtype)
{
    const size_t e = kvp_dtype_bytes(dtype);
    for (size_t j = 0; j < n; j++, packed += n_cols) {
        const char *row = rows + j * row_bytes;
        prefetch_lines(next, j * row_bytes, j * row_bytes + n_cols * e, TILE_ROWS);
        size_t d = 0;
        for (; d + LANES <= n_cols; d += LANES)
            vec_store(packed + d, vec_load(row + d * e, dtype));
        if (d < n_cols)
            vec_store_part(packed + d, n_cols - d, vec_load_part(row + d * e, n_cols - d, dtype));
    }
}

SIMD_INLINE bool is_worth_packing(size_t n_rows, kvp_dtype dtype)
{
    return n_rows > TILE_ROWS && dtype != KVP_F32;
}

SIMD_INLINE void score(const kvpi_keys *keys, const kvpi_row *rows, size_t n_rows, size_t n,
                       kvp_dtype dtype, scores *s)
{
    const size_t width = keys->k_width, row_bytes = width * kvp_dtype_bytes(dtype);
    const char *k = keys->k, *next = keys->next_k;
    if (!is_worth_packing(n_rows, dtype) || width > PACK_WIDTH) {
        dot_tiles(k, next, width, n, rows, n_rows, dtype, s, 0);
        return;
    }
    alignas(64) float packed[PACK_KEYS * PACK_WIDTH];
    for (size_t j = 0; j < n; j += PACK_KEYS) {
        size_t n_keys = n - j < PACK_KEYS ? n - j : PACK_KEYS;
        pack(packed, k + j * row_bytes, next ? next + j * row_bytes : NULL, n_keys, row_bytes,
             width, dtype);
        dot_tiles((const char *)packed, NULL, width, n_keys, rows, n_rows, KVP_F32, s, j);
    }
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* Scaled scores, cut to the range where the softmax stays finite. NaN stays NaN. */
SIMD_INLINE vec scale_scores(const float *s, vec scale)
{
    vec x = vec_min(vec_set1(KVPI_SCORE_MAX), vec_mul(vec_load(s, KVP_F32), scale));
    return vec_max(vec_set1(-KVPI_SCORE_MAX), x);
}

/* Scores of the visible keys into probabilities relative to the block's maximum. */
SIMD_INLINE void softmax(kvpi_row *row, float *s, float scale)
{
    const vec nothing = vec_set1(-INFINITY);
    const size_t n = row->n_visible;
    vec top = nothing;
    for (size_t j = 0; j < n; j += LANES) {
        vec x = vec_first(n - j, scale_scores(s + j, vec_set1(scale)), nothing);
        vec_store(s + j, x);
        top = vec_max(x, top);
    }
    row->block_m = vec_max_across(top);

    const vec m = vec_set1(row->block_m);
    vec sum[CHAINS / LANES];
    for (size_t i = 0; i < CHAINS / LANES; i++)
        sum[i] = vec_set1(0);
    for (size_t j = 0; j < n; j += LANES) {
        vec p = vec_exp(vec_sub(vec_load(s + j, KVP_F32), m));
        vec_store(s + j, p);
        sum[j / LANES % (CHAINS / LANES)] = vec_add(sum[j / LANES % (CHAINS / LANES)], p);
    }
    row->block_l =
        vec_sum_across(CHAINS > LANES ? vec_add(sum[0], sum[CHAINS / LANES - 1]) : sum[0]);
}

SIMD_INLINE void softmax_rows(kvpi_row *rows, size_t n_rows, float scale, scores *s)
{
    for (size_t r = 0; r < n_rows; r++) {
        kvpi_row *row = &rows[r];
        row->block_m = -INFINITY;
        row->block_l = 0;
        if (!row->n_visible)
            continue;
        softmax(row, s[r], scale);
        fold(&row->m, &row->l, row->block_m, row->block_l, &row->old_factor, &row->block_factor);
    }
}

/* ---- output ---------------------------------------------------------------------------------- */

/* Columns of V, `n` rows of them; the first goes to column `column` of the outputs. */
typedef struct strip {
    const char *v, *next; /* next: as many bytes to be fetched */
    size_t row_bytes, column;
} strip;

/* n_vecs vectors of a row of V; of the last one, `part` < LANES columns (0: all). */
SIMD_INLINE void load_values(const char *v, int n_vecs, size_t part, int n_rows, kvp_dtype dtype,
                             vec *y)
{
    KVPI_UNROLL
    for (int i = 0; i < n_vecs; i++) {
        const char *at = v + LANES * (size_t)i * kvp_dtype_bytes(dtype);
        y[i] = part ? vec_load_part(at, part, dtype) : vec_load(at, dtype);
        if (n_rows > 1)
            vec_keep(y[i]);
    }
}

/* A strip of n_vecs vectors (1 if it is a part of one) under n_rows rows, all constants. */
SIMD_INLINE void weigh_tile(const strip *x, kvpi_row *rows, int n_rows, int n_vecs, size_t part,
                            kvp_dtype dtype, const scores *s)
{
    vec sum[TILE_ROWS][TILE_VECS], y[TILE_VECS];
    size_t n_common = KVPI_BLOCK_KEYS;
    KVPI_UNROLL
    for (int r = 0; r < n_rows; r++) {
        n_common = rows[r].n_visible < n_common ? rows[r].n_visible : n_common;
        KVPI_UNROLL
        for (int i = 0; i < n_vecs; i++)
            sum[r][i] = vec_set1(0);
    }
    for (size_t j = 0; j < n_common; j++) {
        const size_t at = j * x->row_bytes;
        prefetch_lines(x->next, at, at + LANES * (size_t)n_vecs * kvp_dtype_bytes(dtype),
                       (size_t)n_rows);
        load_values(x->v + at, n_vecs, part, n_rows, dtype, y);
        KVPI_UNROLL
        for (int r = 0; r < n_rows; r++) {
            KVPI_UNROLL
            for (int i = 0; i < n_vecs; i++)
                sum[r][i] = vec_fma(vec_set1(s[r][j]), y[i], sum[r][i]);
        }
    }
    KVPI_UNROLL
    for (int r = 0; r < n_rows; r++) {
        for (size_t j = n_common; j < rows[r].n_visible; j++) {
            load_values(x->v + j * x->row_bytes, n_vecs, part, 1, dtype, y);
            KVPI_UNROLL
            for (int i = 0; i < n_vecs; i++)
                sum[r][i] = vec_fma(vec_set1(s[r][j]), y[i], sum[r][i]);
        }
        if (!rows[r].n_visible)
            continue;
        KVPI_UNROLL
        for (int i = 0; i < n_vecs; i++)
            fold_output(rows[r].o + x->column + LANES * i, part, rows[r].old_factor, sum[r][i],
                        rows[r].block_factor);
        if (!rows[r].block_o)
            continue;
        KVPI_UNROLL
        for (int i = 0; i < n_vecs; i++)
            store_columns(rows[r].block_o + x->column + LANES * i, part, sum[r][i]);
    }
}

/* All rows, tile by tile. */
SIMD_INLINE void weigh_tiles(strip x, kvpi_row *rows, size_t n_rows, int n_vecs, size_t part,
                             kvp_dtype dtype, const scores *s)
{
    for (size_t r = 0; r < n_rows; r += TILE_ROWS, x.next = NULL)
        switch (n_rows - r) {
        case 1:
            weigh_tile(&x, rows + r, 1, n_vecs, part, dtype, s + r);
            break;
        case 2:
            weigh_tile(&x, rows + r, 2, n_vecs, part, dtype, s + r);
            break;
        case 3:
            weigh_tile(&x, rows + r, 3, n_vecs, part, dtype, s + r);
            break;
        default:
            weigh_tile(&x, rows + r, 4, n_vecs, part, dtype, s + r);
        }
}

SIMD_INLINE void weigh_strip(const strip *x, size_t n_vecs, size_t part, kvpi_row *rows,
                             size_t n_rows, kvp_dtype dtype, const scores *s)
{
    if (part)
        weigh_tiles(*x, rows, n_rows, 1, part, dtype, s);
    else if (n_vecs == 6)
        weigh_tiles(*x, rows, n_rows, 6, 0, dtype, s);
    else if (n_vecs == 5)
        weigh_tiles(*x, rows, n_rows, 5, 0, dtype, s);
    else if (n_vecs == 4)
        weigh_tiles(*x, rows, n_rows, 4, 0, dtype, s);
    else if (n_vecs == 3)
        weigh_tiles(*x, rows, n_rows, 3, 0, dtype, s);
    else if (n_vecs == 2)
        weigh_tiles(*x, rows, n_rows, 2, 0, dtype, s);
    else
        weigh_tiles(*x, rows, n_rows, 1, 0, dtype, s);
}

SIMD_INLINE void weigh(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows, size_t n,
                       kvp_dtype dtype, const scores *s)
{
    const size_t width = keys->v_width, e = kvp_dtype_bytes(dtype);
    alignas(64) float packed[KVPI_BLOCK_KEYS * TILE_VECS * LANES];
    for (size_t c = 0, n_cols; c < width; c += n_cols) {
        const size_t whole = (width - c) / LANES, part = whole ? 0 : width - c;
        const size_t n_vecs = part ? 1 : strip_vecs(n_rows, whole);
        n_cols = part ? part : n_vecs * LANES;
        strip x = {.v = (const char *)keys->v + c * e,
                   .next = keys->next_v ? (const char *)keys->next_v + c * e : NULL,
                   .row_bytes = width * e,
                   .column = c};
        if (!is_worth_packing(n_rows, dtype)) {
            weigh_strip(&x, n_vecs, part, rows, n_rows, dtype, s);
            continue;
        }
        pack(packed, x.v, x.next, n, x.row_bytes, n_cols, dtype);
        x = (strip){.v = (const char *)packed, .row_bytes = n_cols * sizeof(float), .column = c};
        weigh_strip(&x, n_vecs, part, rows, n_rows, KVP_F32, s);
    }
}

/* ---- the kernel ------------------------------------------------------------------------------ */

SIMD_INLINE void attend(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows, kvp_dtype dtype)
{
    alignas(64) scores s[KVPI_BLOCK_ROWS];
    size_t n = 0;
    for (size_t r = 0; r < n_rows; r++)
        n = rows[r].n_visible > n ? rows[r].n_visible : n;
    assert(n <= keys->n && keys->n <= KVPI_BLOCK_KEYS && n_rows <= KVPI_BLOCK_ROWS);
    if (n)
        score(keys, rows, n_rows, n, dtype, s);
    softmax_rows(rows, n_rows, keys->scale, s);
    if (n)
        weigh(keys, rows, n_rows, n, dtype, s);
}

SIMD_TARGET static void attend_f32(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_F32);
}

SIMD_TARGET static void attend_f16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_F16);
}

SIMD_TARGET static void attend_bf16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_BF16);
}
