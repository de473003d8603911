/* kernels_scalar.c - the reference kernels: what every other instruction set must agree with.
 *
 * Source: online softmax, Milakov and Gimelshein 2018 (arXiv 1805.02867), algorithm 3, a block of
 * keys at a time. */
#include "attention/kernels.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define SUM_COLUMNS 8u

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    uint32_t bits = sign | mantissa << 13;
    bits |= exponent == 0x1f ? 0x7f800000u : (exponent + 112) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float bf16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float load(const void *row, size_t i, kvp_dtype dtype)
{
    switch (dtype) {
    case KVP_F16:
        return f16_to_f32(((const uint16_t *)row)[i]);
    case KVP_BF16:
        return bf16_to_f32(((const uint16_t *)row)[i]);
    default:
        return ((const float *)row)[i];
    }
}

static const void *row_at(const void *rows, size_t j, size_t width, kvp_dtype dtype)
{
    return (const char *)rows + j * width * kvp_dtype_bytes(dtype);
}

static float clamp_score(float s)
{
    return s > KVPI_SCORE_MAX ? KVPI_SCORE_MAX : s < -KVPI_SCORE_MAX ? -KVPI_SCORE_MAX : s;
}

static float score(const kvpi_keys *keys, const float *q, size_t j, kvp_dtype dtype)
{
    const void *k = row_at(keys->k, j, keys->k_width, dtype);
    float total = 0;
    for (size_t d = 0; d < keys->k_width;) { /* one long chain loses a digit */
        float sum = 0;
        for (size_t end = d + SUM_COLUMNS; d < end && d < keys->k_width; d++)
            sum += q[d] * load(k, d, dtype);
        total += sum;
    }
    return clamp_score(total * keys->scale);
}

/* Scores into probabilities relative to the largest. */
static void softmax(kvpi_row *row, float *s, size_t n)
{
    for (size_t j = 0; j < n; j++)
        row->block_m = fmaxf(row->block_m, s[j]);
    for (size_t j = 0; j < n; j++) {
        s[j] = expf(s[j] - row->block_m);
        row->block_l += s[j];
    }
}

/* Fold (m, l) of what comes next into a state's; *old and *next are what either is multiplied by to
 * have the same maximum. */
static void fold(float *m, float *l, float next_m, float next_l, float *old, float *next)
{
    float top = fmaxf(*m, next_m);
    *old = expf(*m - top);
    *next = expf(next_m - top);
    *l = *l * *old + next_l * *next;
    *m = top;
}

static void attend_row(const kvpi_keys *keys, kvpi_row *row, kvp_dtype dtype)
{
    float p[KVPI_BLOCK_KEYS];
    size_t n = row->n_visible;
    assert(n <= keys->n && keys->n <= KVPI_BLOCK_KEYS);
    row->block_m = -INFINITY;
    row->block_l = 0;
    if (n == 0)
        return;
    for (size_t j = 0; j < n; j++)
        p[j] = score(keys, row->q, j, dtype);
    softmax(row, p, n);
    fold(&row->m, &row->l, row->block_m, row->block_l, &row->old_factor, &row->block_factor);

    for (size_t c = 0; c < keys->v_width; c++) {
        float sum = 0;
        for (size_t j = 0; j < n; j++)
            sum += p[j] * load(row_at(keys->v, j, keys->v_width, dtype), c, dtype);
        row->o[c] = row->o[c] * row->old_factor + sum * row->block_factor;
        if (row->block_o)
            row->block_o[c] = sum;
    }
}

static void attend_f32(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    for (size_t r = 0; r < n_rows; r++)
        attend_row(keys, &rows[r], KVP_F32);
}

static void attend_f16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    for (size_t r = 0; r < n_rows; r++)
        attend_row(keys, &rows[r], KVP_F16);
}

static void attend_bf16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows)
{
    for (size_t r = 0; r < n_rows; r++)
        attend_row(keys, &rows[r], KVP_BF16);
}

static void merge(const kvp_partial *into, const kvp_partial *next, size_t v_width)
{
    float old, factor;
    if (*next->l == 0) /* saw no key; a NaN goes on */
        return;
    fold(into->m, into->l, *next->m, *next->l, &old, &factor);
    for (size_t c = 0; c < v_width; c++)
        into->o[c] = into->o[c] * old + next->o[c] * factor;
}

static void normalise(float *x, size_t n)
{
    float top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        top = fmaxf(top, x[i]);
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] == -INFINITY ? 0 : expf(x[i] - top);
        sum += x[i];
    }
    for (size_t i = 0; i < n && sum > 0; i++)
        x[i] /= sum;
}

static float distance(const float *a, const float *b, float factor, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (a[i] - b[i] * factor) * (a[i] - b[i] * factor);
    return sqrtf(sum);
}

const kvpi_kernels kvpi_kernels_scalar = {
    .name = "scalar",
    .attend = {[KVP_F32] = attend_f32, [KVP_F16] = attend_f16, [KVP_BF16] = attend_bf16},
    .merge = merge,
    .normalise = normalise,
    .distance = distance,
};
