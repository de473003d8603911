/* score_scalar.c - the reference scores: what every other instruction set must agree with. */
#include "attention/score.h"

#include <stdint.h>
#include <string.h>

#define SUM_COLUMNS 8u /* short chains lose less to rounding */

static inline float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return from_bits(sign | (exponent + 112) << 23 | mantissa << 13); /* pages hold finite values */
}

static inline float load(const void *row, size_t i, kvp_dtype dtype)
{
    if (dtype == KVP_F16)
        return from_f16(((const uint16_t *)row)[i]);
    if (dtype == KVP_BF16)
        return from_bits((uint32_t)((const uint16_t *)row)[i] << 16);
    return ((const float *)row)[i];
}

static const void *key_at(const kvpi_score_keys *keys, size_t j, kvp_dtype dtype)
{
    return (const char *)keys->k + j * keys->width * kvp_dtype_bytes(dtype);
}

/* q: of dtype q_dtype. */
static inline float dot(const void *q, kvp_dtype q_dtype, const void *k, kvp_dtype dtype,
                        size_t width)
{
    float total = 0;
    for (size_t d = 0; d < width;) {
        float sum = 0;
        for (size_t end = d + SUM_COLUMNS; d < end && d < width; d++)
            sum += load(q, d, q_dtype) * load(k, d, dtype);
        total += sum;
    }
    return total;
}

static inline void score(const kvpi_score_keys *keys, const float *const *queries, size_t n,
                         float *scores, kvp_dtype dtype)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < keys->n; j++)
            scores[i * KVPI_SCORE_KEYS + j] =
                dot(queries[i], KVP_F32, key_at(keys, j, dtype), dtype, keys->width);
}

static inline void square(const kvpi_score_keys *keys, float *squares, kvp_dtype dtype)
{
    for (size_t j = 0; j < keys->n; j++) {
        const void *k = key_at(keys, j, dtype);
        squares[j] = dot(k, dtype, k, dtype, keys->width);
    }
}

static void score_f32(const kvpi_score_keys *k, const float *const *q, size_t n, float *s)
{
    score(k, q, n, s, KVP_F32);
}

static void score_f16(const kvpi_score_keys *k, const float *const *q, size_t n, float *s)
{
    score(k, q, n, s, KVP_F16);
}

static void score_bf16(const kvpi_score_keys *k, const float *const *q, size_t n, float *s)
{
    score(k, q, n, s, KVP_BF16);
}

static void square_f32(const kvpi_score_keys *k, float *s)
{
    square(k, s, KVP_F32);
}

static void square_f16(const kvpi_score_keys *k, float *s)
{
    square(k, s, KVP_F16);
}

static void square_bf16(const kvpi_score_keys *k, float *s)
{
    square(k, s, KVP_BF16);
}

const kvpi_scorers kvpi_scorers_scalar = {
    .name = "scalar",
    .score = {[KVP_F32] = score_f32, [KVP_F16] = score_f16, [KVP_BF16] = score_bf16},
    .square = {[KVP_F32] = square_f32, [KVP_F16] = square_f16, [KVP_BF16] = square_bf16},
};
