/* pattern.c - KV that is known from where it belongs. */
#include "tests/support/pattern.h"

#include <string.h>

uint64_t pattern_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

static uint8_t byte_of(uint32_t salt, bool is_v, uint32_t head, uint32_t d)
{
    uint32_t x =
        salt * 2654435761u ^ (head * 2246822519u + d * 3266489917u + (is_v ? 374761393u : 0));
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    return (uint8_t)x;
}

/* An integer of at most 7 bits over 8: exact in every dtype, bf16 included. */
float pattern_value(uint32_t salt, bool is_v, uint32_t head, uint32_t d)
{
    return (float)(byte_of(salt, is_v, head, d) - 128) / 8.0f;
}

/* Half of the rows are one byte repeated, so that compression has something to find. */
static uint8_t opaque_byte(uint32_t salt, bool is_v, uint32_t head, uint32_t d)
{
    return byte_of(salt, is_v, head, salt % 2 ? d : 0);
}

void pattern_rows(const kvp_layer_kind *kind, const uint32_t *salts, size_t n, float *k, float *v)
{
    for (size_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < kind->n_kv_heads; h++) {
            for (uint32_t d = 0; d < kind->k_width; d++)
                *k++ = pattern_value(salts[t], false, h, d);
            for (uint32_t d = 0; d < kind->v_width; d++)
                *v++ = pattern_value(salts[t], true, h, d);
        }
}

void pattern_bytes(const kvp_layer_kind *kind, const uint32_t *salts, size_t n, void *k, void *v)
{
    uint8_t *to_k = k, *to_v = v;
    for (size_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < kind->n_kv_heads; h++) {
            for (uint32_t d = 0; d < kind->k_width; d++)
                *to_k++ = opaque_byte(salts[t], false, h, d);
            for (uint32_t d = 0; d < kind->v_width; d++)
                *to_v++ = opaque_byte(salts[t], true, h, d);
        }
}

kvp_status pattern_append(kvp_seq *seq, uint32_t layer, const kvp_layer_kind *kind,
                          const uint32_t *salts, size_t n, float *k, float *v)
{
    if (kind->dtype != KVP_OPAQUE) {
        pattern_rows(kind, salts, n, k, v);
        return kvp_seq_append(seq, layer, k, v, n);
    }
    pattern_bytes(kind, salts, n, k, v);
    kvp_rows rows = {.k = k, .v = kind->v_width ? v : NULL, .dtype = KVP_OPAQUE};
    return kvp_seq_append_rows(seq, layer, &rows, n);
}

static float f16_value(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits >> 15) << 31, exponent = (bits >> 10) & 31,
             mantissa = bits & 1023;
    float f;
    if (exponent == 0) {
        f = (float)mantissa / 16777216.0f;
        return sign ? -f : f;
    }
    uint32_t word = sign | (exponent + 112) << 23 | mantissa << 13;
    memcpy(&f, &word, sizeof f);
    return f;
}

static float element(const void *row, kvp_dtype dtype, uint32_t d)
{
    float f;
    if (dtype == KVP_F32)
        return ((const float *)row)[d];
    uint16_t bits = ((const uint16_t *)row)[d];
    if (dtype == KVP_F16)
        return f16_value(bits);
    uint32_t word = (uint32_t)bits << 16;
    memcpy(&f, &word, sizeof f);
    return f;
}

static bool rows_ok(const kvp_page_view *page, const uint32_t *salts, uint32_t h, bool is_v)
{
    uint32_t width = is_v ? page->v_width : page->k_width;
    const char *plane = is_v ? kvp_page_v(page, h) : kvp_page_k(page, h);
    for (uint32_t i = 0; i < page->n_valid; i++) {
        const char *row = plane + (size_t)i * width * kvp_dtype_bytes(page->dtype);
        uint32_t salt = salts[page->first_position + i];
        uint32_t head = page->first_head + h;
        for (uint32_t d = 0; d < width; d++) {
            bool ok = page->dtype == KVP_OPAQUE
                          ? (uint8_t)row[d] == opaque_byte(salt, is_v, head, d)
                          : element(row, page->dtype, d) == pattern_value(salt, is_v, head, d);
            if (!ok)
                return false;
        }
    }
    return true;
}

bool pattern_page_ok(const kvp_page_view *page, const uint32_t *salts)
{
    for (uint32_t h = 0; h < page->n_heads; h++)
        if (!rows_ok(page, salts, h, false) || !rows_ok(page, salts, h, true))
            return false;
    return true;
}
