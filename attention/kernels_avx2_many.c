/* kernels_avx2_many.c - AVX2 kernels for many query rows (prefill): bound by arithmetic.
 *
 * A call is two small matrix products with a softmax in between, all in buffers on the stack:
 *
 *     st[key][row]  = k[key][..] . qt[..][row]      lanes along rows, tiles of 16 rows x 6 keys
 *     st[key][row]  = exp(scale * st - m[row])      lanes along rows: no sums across lanes
 *     o[row][col]  += st[..][row] * v[..][col]      lanes along columns, tiles of 6 rows x 16
 *
 * Q is transposed and K and V are converted to float32 while they are packed, padded with zeros to
 * whole tiles, so that the products know neither dtypes nor odd widths. Wide heads go in strips of
 * STRIP columns. Rows of padding see no key. */
#include "attention/avx2.h"

#if defined(__x86_64__)
#include <assert.h>
#include <stdalign.h>

#define STRIP 128u     /* columns of Q, K or V that are packed at a time */
#define SUM_COLUMNS 8u /* of a score: what one chain of sums covers */
#define TILE_KEYS 6u   /* of scores: 2 x 6 accumulators */
#define TILE_ROWS 6u   /* of outputs: 6 x 2 accumulators */
#define PANEL_ROWS 16u /* two vectors */
#define N_PANELS (KVPI_MANY_ROWS / PANEL_ROWS)
#define PADDED_KEYS ((KVPI_BLOCK_KEYS + TILE_KEYS - 1) / TILE_KEYS * TILE_KEYS)

typedef struct buffers {
    alignas(32) float qt[N_PANELS][STRIP][PANEL_ROWS];
    alignas(32) float kv[PADDED_KEYS][STRIP];
    alignas(32) float st[PADDED_KEYS][KVPI_MANY_ROWS];
    alignas(32) float shrink[KVPI_MANY_ROWS];
} buffers;

/* ---- packing --------------------------------------------------------------------------------- */

/* Rows [0, n) of `width` elements, `n_cols` of them from c on, as float32; padded with zeros to
 * PANEL_ROWS columns and n_padded rows. */
KVPI_AVX2_INLINE void pack_rows(float (*out)[STRIP], const void *rows, size_t n, size_t n_padded,
                                size_t width, size_t c, size_t n_cols, kvp_dtype dtype)
{
    const size_t e = kvp_dtype_bytes(dtype);
    const size_t whole = n_cols / 8 * 8, padded = (n_cols + 15) / 16 * 16;
    for (size_t j = 0; j < n; j++) {
        const char *row = (const char *)rows + (j * width + c) * e;
        size_t d = 0;
        for (; d < whole; d += 8)
            _mm256_store_ps(&out[j][d], load8(row + d * e, dtype));
        if (d < n_cols) {
            _mm256_store_ps(&out[j][d], load_part(row + d * e, n_cols - d, dtype));
            d += 8;
        }
        for (; d < padded; d += 8)
            _mm256_store_ps(&out[j][d], _mm256_setzero_ps());
    }
    for (size_t j = n; j < n_padded; j++)
        memset(out[j], 0, padded * sizeof(float));
}

/* x[i] lane r becomes x[r] lane i. */
KVPI_AVX2_INLINE void transpose8(__m256 x[8])
{
    __m256 t[8];
    KVPI_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    KVPI_UNROLL
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        x[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    KVPI_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
    }
    memcpy(x, t, sizeof t);
}

/* Columns [c, c + n_cols) of 8 query rows, transposed into lanes [lane, lane + 8) of a panel. */
KVPI_AVX2_INLINE void pack_queries8(float (*panel)[PANEL_ROWS], size_t lane, const kvpi_row *rows,
                                    size_t n_rows, size_t c, size_t n_cols)
{
    for (size_t d = 0; d < n_cols; d += 8) {
        size_t n = n_cols - d < 8 ? n_cols - d : 8;
        __m256 x[8];
        for (size_t r = 0; r < 8; r++) {
            if (r >= n_rows)
                x[r] = _mm256_setzero_ps();
            else if (n == 8)
                x[r] = _mm256_loadu_ps(rows[r].q + c + d);
            else
                x[r] = load_part(rows[r].q + c + d, n, KVP_F32);
        }
        transpose8(x);
        for (size_t i = 0; i < n; i++)
            _mm256_store_ps(&panel[d + i][lane], x[i]);
    }
}

KVPI_AVX2 static void pack_queries(buffers *b, const kvpi_row *rows, size_t n_rows, size_t c,
                                   size_t n_cols)
{
    for (size_t row = 0; row < n_rows; row += PANEL_ROWS) {
        float(*panel)[PANEL_ROWS] = b->qt[row / PANEL_ROWS];
        for (size_t lane = 0; lane < PANEL_ROWS; lane += 8) {
            size_t first = row + lane < n_rows ? row + lane : n_rows;
            pack_queries8(panel, lane, rows + first, n_rows - first, c, n_cols);
        }
    }
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* st[j .. j + 6)[panel] (+)= kv . qt over columns [d, end): summed apart, then added. One chain of
 * sums over a whole head loses up to a digit where scores are large: the demo model's reach 3,228,
 * and its logits were off by 1.8e-3 instead of 1.1e-3. */
KVPI_AVX2_INLINE void score_tile(buffers *b, size_t panel, size_t j, size_t d, size_t end,
                                 bool is_first)
{
    __m256 sum[TILE_KEYS][2];
    KVPI_UNROLL
    for (size_t i = 0; i < TILE_KEYS; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_ps();
    for (; d < end; d++) {
        __m256 q0 = _mm256_load_ps(&b->qt[panel][d][0]);
        __m256 q1 = _mm256_load_ps(&b->qt[panel][d][8]);
        KVPI_UNROLL
        for (size_t i = 0; i < TILE_KEYS; i++) {
            __m256 k = _mm256_broadcast_ss(&b->kv[j + i][d]);
            sum[i][0] = _mm256_fmadd_ps(k, q0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(k, q1, sum[i][1]);
        }
    }
    KVPI_UNROLL
    for (size_t i = 0; i < TILE_KEYS; i++) {
        float *st = &b->st[j + i][panel * PANEL_ROWS];
        if (!is_first) {
            sum[i][0] = _mm256_add_ps(sum[i][0], _mm256_load_ps(st));
            sum[i][1] = _mm256_add_ps(sum[i][1], _mm256_load_ps(st + 8));
        }
        _mm256_store_ps(st, sum[i][0]);
        _mm256_store_ps(st + 8, sum[i][1]);
    }
}

KVPI_AVX2_INLINE void score(buffers *b, const kvpi_keys *keys, const kvpi_row *rows, size_t n_rows,
                            size_t n, kvp_dtype dtype)
{
    const size_t n_padded = (n + TILE_KEYS - 1) / TILE_KEYS * TILE_KEYS;
    for (size_t c = 0; c < keys->k_width; c += STRIP) {
        size_t n_cols = keys->k_width - c < STRIP ? keys->k_width - c : STRIP;
        pack_queries(b, rows, n_rows, c, n_cols);
        pack_rows(b->kv, keys->k, n, n_padded, keys->k_width, c, n_cols, dtype);
        for (size_t panel = 0; panel * PANEL_ROWS < n_rows; panel++)
            for (size_t j = 0; j < n; j += TILE_KEYS)
                for (size_t d = 0; d < n_cols; d += SUM_COLUMNS) {
                    size_t end = d + SUM_COLUMNS < n_cols ? d + SUM_COLUMNS : n_cols;
                    score_tile(b, panel, j, d, end, c + d == 0);
                }
    }
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* State of up to 8 rows, a lane each. */
typedef struct lanes {
    alignas(32) float m[8], l[8], block_l[8];
    alignas(32) float n_visible[8];
} lanes;

KVPI_AVX2_INLINE lanes load_lanes(const kvpi_row *rows, size_t n_rows)
{
    lanes x;
    for (size_t r = 0; r < 8; r++) {
        x.m[r] = r < n_rows ? rows[r].m : -INFINITY;
        x.l[r] = r < n_rows ? rows[r].l : 0;
        x.n_visible[r] = r < n_rows ? (float)rows[r].n_visible : 0;
    }
    return x;
}

/* Scores of rows [row, row + 8) into probabilities; zero for keys that a row does not see. */
KVPI_AVX2_INLINE void softmax8(buffers *b, size_t row, size_t n, float scale, lanes *x)
{
    const __m256 scale8 = _mm256_set1_ps(scale), nothing = _mm256_set1_ps(-INFINITY);
    const __m256 n_visible = _mm256_load_ps(x->n_visible);
    const __m256 old = _mm256_load_ps(x->m);
    __m256 m = old, sum = _mm256_setzero_ps();
    for (size_t j = 0; j < n; j++) {
        __m256 s = clamp_scores(_mm256_mul_ps(_mm256_load_ps(&b->st[j][row]), scale8));
        __m256 sees = _mm256_cmp_ps(_mm256_set1_ps((float)j), n_visible, _CMP_LT_OQ);
        s = _mm256_blendv_ps(nothing, s, sees);
        _mm256_store_ps(&b->st[j][row], s);
        m = _mm256_max_ps(s, m);
    }
    /* A row that has seen nothing yet: any finite maximum makes exp(-inf - m) zero. */
    __m256 is_empty = _mm256_cmp_ps(m, nothing, _CMP_EQ_OQ);
    __m256 finite_m = _mm256_andnot_ps(is_empty, m);
    for (size_t j = 0; j < n; j++) {
        __m256 p = exp8(_mm256_sub_ps(_mm256_load_ps(&b->st[j][row]), finite_m));
        _mm256_store_ps(&b->st[j][row], p);
        sum = _mm256_add_ps(sum, p);
    }
    __m256 factor = exp8(_mm256_sub_ps(old, finite_m));
    _mm256_store_ps(&b->shrink[row], factor);
    _mm256_store_ps(x->m, m);
    _mm256_store_ps(x->l, _mm256_fmadd_ps(_mm256_load_ps(x->l), factor, sum));
    _mm256_store_ps(x->block_l, sum);
}

KVPI_AVX2 static void softmax(buffers *b, kvpi_row *rows, size_t n_rows, size_t n, float scale)
{
    for (size_t row = 0; row < n_rows; row += 8) {
        size_t n_lanes = n_rows - row < 8 ? n_rows - row : 8;
        lanes x = load_lanes(rows + row, n_lanes);
        softmax8(b, row, n, scale, &x);
        for (size_t r = 0; r < n_lanes; r++) {
            rows[row + r].m = x.m[r];
            rows[row + r].l = x.l[r];
            rows[row + r].block_l = x.block_l[r];
        }
    }
}

/* ---- output ---------------------------------------------------------------------------------- */

/* o = o * shrink + sum for 8 columns, of which n exist. */
KVPI_AVX2_INLINE void update8(float *o, size_t n, float shrink, __m256 sum)
{
    __m256 factor = _mm256_set1_ps(shrink);
    if (n >= 8) {
        _mm256_storeu_ps(o, _mm256_fmadd_ps(_mm256_loadu_ps(o), factor, sum));
    } else if (n > 0) {
        __m256i exist = lanes_below(n);
        __m256 old = _mm256_maskload_ps(o, exist);
        _mm256_maskstore_ps(o, exist, _mm256_fmadd_ps(old, factor, sum));
    }
}

/* Rows [row, row + n_rows), columns [c, c + 16) of the strip that starts at `strip`; n_rows is
 * constant, n_cols of the columns exist. */
KVPI_AVX2_INLINE void weigh_tile(const buffers *b, const kvpi_row *rows, size_t row, size_t n_rows,
                                 size_t n, size_t strip, size_t c, size_t n_cols)
{
    __m256 sum[TILE_ROWS][2];
    KVPI_UNROLL
    for (size_t r = 0; r < n_rows; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (size_t j = 0; j < n; j++) {
        __m256 v0 = _mm256_load_ps(&b->kv[j][c]);
        __m256 v1 = _mm256_load_ps(&b->kv[j][c + 8]);
        KVPI_UNROLL
        for (size_t r = 0; r < n_rows; r++) {
            __m256 p = _mm256_broadcast_ss(&b->st[j][row + r]);
            sum[r][0] = _mm256_fmadd_ps(p, v0, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(p, v1, sum[r][1]);
        }
    }
    KVPI_UNROLL
    for (size_t r = 0; r < n_rows; r++) {
        float *o = rows[row + r].o + strip + c;
        update8(o, n_cols, b->shrink[row + r], sum[r][0]);
        if (n_cols > 8)
            update8(o + 8, n_cols - 8, b->shrink[row + r], sum[r][1]);
    }
}

KVPI_AVX2 static void weigh_strip(const buffers *b, const kvpi_row *rows, size_t n_rows, size_t n,
                                  size_t strip, size_t n_cols)
{
    for (size_t c = 0; c < n_cols; c += 16) {
        size_t row = 0;
        for (; row + TILE_ROWS <= n_rows; row += TILE_ROWS)
            weigh_tile(b, rows, row, TILE_ROWS, n, strip, c, n_cols - c);
        for (; row < n_rows; row++)
            weigh_tile(b, rows, row, 1, n, strip, c, n_cols - c);
    }
}

KVPI_AVX2_INLINE void weigh(buffers *b, const kvpi_keys *keys, const kvpi_row *rows, size_t n_rows,
                            size_t n, kvp_dtype dtype)
{
    for (size_t c = 0; c < keys->v_width; c += STRIP) {
        size_t n_cols = keys->v_width - c < STRIP ? keys->v_width - c : STRIP;
        pack_rows(b->kv, keys->v, n, n, keys->v_width, c, n_cols, dtype);
        weigh_strip(b, rows, n_rows, n, c, n_cols);
    }
}

KVPI_AVX2_INLINE void attend(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows, kvp_dtype dtype)
{
    buffers b;
    size_t n = 0;
    for (size_t r = 0; r < n_rows; r++) {
        n = rows[r].n_visible > n ? rows[r].n_visible : n;
        rows[r].block_l = 0;
    }
    assert(n <= keys->n && keys->n <= KVPI_BLOCK_KEYS && n_rows <= KVPI_MANY_ROWS);
    if (n == 0)
        return;
    score(&b, keys, rows, n_rows, n, dtype);
    softmax(&b, rows, n_rows, n, keys->scale);
    weigh(&b, keys, rows, n_rows, n, dtype);
}

KVPI_AVX2 void kvpi_avx2_many_f32(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_F32);
}

KVPI_AVX2 void kvpi_avx2_many_f16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_F16);
}

KVPI_AVX2 void kvpi_avx2_many_bf16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    attend(keys, rows, n_rows, KVP_BF16);
}
#endif
