/* round.h - elements of every dtype, by arithmetic rather than bits: independent of the library. */
#ifndef KVPAGER_TESTS_ROUND_H
#define KVPAGER_TESTS_ROUND_H

#include <math.h>
#include <string.h>

#include "kvpager/view.h"

/* x rounded to `bits` bits of mantissa, to nearest even, with exponents no lower than `lowest`. */
static inline float round_to_bits(float x, int bits, int lowest)
{
    int exponent;
    if (x == 0 || !isfinite(x))
        return x;
    (void)frexpf(x, &exponent);
    exponent = exponent < lowest ? lowest : exponent;
    double unit = ldexp(1.0, exponent - bits);
    return (float)(nearbyint((double)x / unit) * unit);
}

/* x as the dtype holds it. */
static inline float round_to(float x, kvp_dtype dtype)
{
    return dtype == KVP_F16    ? round_to_bits(x, 11, -13)
           : dtype == KVP_BF16 ? round_to_bits(x, 8, -125)
                               : x;
}

/* The f16 code of a value that f16 holds exactly, or of NaN. */
static inline uint16_t f16_code(float x)
{
    int exponent;
    if (isnan(x))
        return 0x7e00;
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    float a = fabsf(x);
    if (a < 0x1p-14f)
        return (uint16_t)(sign | (uint16_t)(a * 0x1p24f));
    float fraction = frexpf(a, &exponent); /* 0.5 .. 1 */
    uint16_t mantissa = (uint16_t)((fraction * 2 - 1) * 1024);
    return (uint16_t)(sign | (uint16_t)((exponent + 14) << 10) | mantissa);
}

/* Store x, exact in `dtype`, as element i. */
static inline void store_element(void *p, size_t i, kvp_dtype dtype, float x)
{
    uint32_t bits;
    uint16_t half;
    switch (dtype) {
    case KVP_F16:
        half = f16_code(x);
        memcpy((char *)p + 2 * i, &half, 2);
        break;
    case KVP_BF16:
        memcpy(&bits, &x, 4);
        half = (uint16_t)(bits >> 16);
        memcpy((char *)p + 2 * i, &half, 2);
        break;
    default:
        memcpy((char *)p + 4 * i, &x, 4);
    }
}

#endif
