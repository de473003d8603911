/* codec_pages.c - see codec_pages.h. */
#include "codec_pages.h"

#include <math.h>
#include <string.h>

uint64_t page_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static float normal(uint64_t *seed)
{
    double u = (double)(page_random(seed) >> 11) * 0x1p-53 + 0x1p-54;
    double v = (double)(page_random(seed) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(2 * 3.14159265358979 * v));
}

/* An element of the dtype, by its parts. */
static void put_parts(unsigned char *at, kvp_dtype dtype, unsigned sign, unsigned exponent,
                      uint64_t mantissa)
{
    unsigned mantissa_bits = dtype == KVP_F32 ? 23 : dtype == KVP_F16 ? 10 : 7;
    unsigned exponent_bits = dtype == KVP_F16 ? 5 : 8;
    uint32_t x = (uint32_t)(mantissa & ((1u << mantissa_bits) - 1));
    x |= (exponent & ((1u << exponent_bits) - 1)) << mantissa_bits;
    x |= (sign & 1) << (mantissa_bits + exponent_bits);
    memcpy(at, &x, kvp_dtype_bytes(dtype));
}

static void put_float(unsigned char *at, kvp_dtype dtype, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    unsigned sign = bits >> 31, exponent = bits >> 23 & 0xff;
    uint32_t mantissa = bits & 0x7fffff;
    if (dtype == KVP_OPAQUE)
        *at = (unsigned char)(signed char)(x * 8); /* quantised to some bits */
    else if (dtype == KVP_F16)                     /* cut off; what is too small becomes 0 */
        put_parts(at, dtype, sign, exponent > 112 ? exponent - 112 : 0,
                  exponent > 112 ? mantissa >> 13 : 0);
    else
        put_parts(at, dtype, sign, exponent, dtype == KVP_BF16 ? mantissa >> 16 : mantissa);
}

/* What a kind has at one place. */
static void put_kind(unsigned char *at, const kvpi_codec_shape *s, page_kind kind, size_t i,
                     size_t width, uint64_t *seed)
{
    size_t bytes = kvp_dtype_bytes(s->dtype), channel = i % width;
    uint64_t r = page_random(seed);
    unsigned top = s->dtype == KVP_F16 ? 31 : 255;
    if (kind == PAGE_SPARSE && r >> 8 & 63)
        memset(at, 0, bytes);
    else if (kind == PAGE_NOISE || kind == PAGE_SPARSE)
        memcpy(at, &(uint64_t){r >> 20}, bytes);
    else if (kind == PAGE_ZEROS)
        memset(at, 0, bytes);
    else if (kind == PAGE_CONSTANT)
        memset(at, 0x3d, bytes);
    else if (kind == PAGE_TEXT)
        for (size_t b = 0; b < bytes; b++)
            at[b] = (unsigned char)"the cache of keys and values "[(i * bytes + b) % 29];
    else if (s->dtype == KVP_OPAQUE || kind == PAGE_NORMAL)
        put_float(at, s->dtype, normal(seed));
    else if (kind == PAGE_CHANNELS)
        put_float(at, s->dtype, normal(seed) * exp2f((float)(channel * 7 % 11) - 6));
    else if (kind == PAGE_DRIFT)
        put_float(at, s->dtype,
                  (float)(channel % 5 + 1) * (channel % 2 ? 1 : -1) + 0.02f * normal(seed));
    else if (kind == PAGE_SPECIAL)
        put_parts(at, s->dtype, (unsigned)r, r & 16 ? top : 0, r & 32 ? r >> 32 : 0);
    else if (kind == PAGE_DENORMAL)
        put_parts(at, s->dtype, (unsigned)r, 0, r >> (8 + r % 32));
    else if (kind == PAGE_EXPONENTS)
        put_parts(at, s->dtype, (unsigned)r, (unsigned)i, r >> 32);
    else
        put_parts(at, s->dtype, (unsigned)r, (unsigned)(r >> 8 & 0xffff) % 15 + 8, r >> 32);
}

void page_fill(void *page, const kvpi_codec_shape *s, page_kind kind, uint32_t n_valid,
               uint64_t seed)
{
    unsigned char *at = page;
    size_t bytes = kvp_dtype_bytes(s->dtype);
    for (size_t part = 0; part < 2; part++) {
        size_t width = part ? s->v_width : s->k_width;
        for (size_t row = 0; row < (size_t)s->n_heads * s->n_tokens; row++)
            for (size_t channel = 0; channel < width; channel++, at += bytes)
                if (row % s->n_tokens < n_valid)
                    put_kind(at, s, kind, row * width + channel, width, &seed);
                else
                    memset(at, 0, bytes);
    }
}
