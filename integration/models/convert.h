/* convert.h - number formats of weights. */
#ifndef KVPAGER_MODELS_CONVERT_H
#define KVPAGER_MODELS_CONVERT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float convert_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Exact, subnormals too: those are normalised by letting the FPU subtract the implicit bit
 * (F. Giesen, "half_to_float_fast5"). Inline, so that loops over it become vector code. */
static inline float convert_f16(uint16_t half)
{
    uint32_t magnitude = ((uint32_t)half & 0x7FFFu) << 13;
    uint32_t sign = ((uint32_t)half & 0x8000u) << 16;
    uint32_t exponent = magnitude & 0x0F800000u;
    magnitude += (127u - 15u) << 23;
    if (exponent == 0x0F800000u)
        magnitude += (128u - 16u) << 23; /* infinity, NaN */
    if (exponent == 0) {
        float value = convert_bits(magnitude + (1u << 23)) - convert_bits(113u << 23);
        memcpy(&magnitude, &value, sizeof magnitude);
    }
    return convert_bits(magnitude | sign);
}

/* bf16 is the upper half of a float; narrowing rounds to nearest even, NaN stays NaN. */
static inline uint16_t convert_narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t quiet = bits >> 16 | 0x0040u, nearest = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    return (uint16_t)((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : nearest);
}

/* To nearest even; beyond 65,519 infinite; NaN stays NaN. Subnormal halves are multiples of 2^-24,
 * the last bit of floats between 0.5 and 1: adding 0.5 rounds to them. */
static inline uint16_t convert_narrow_f16(float value)
{
    uint32_t bits, magnitude;
    memcpy(&bits, &value, sizeof bits);
    magnitude = bits & 0x7FFFFFFFu;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    if (magnitude > 0x7F800000u)
        return sign | 0x7E00u;
    if (magnitude >= (127u + 16u) << 23)
        return sign | 0x7C00u;
    if (magnitude < (127u - 14u) << 23) {
        float shifted = convert_bits(magnitude) + 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return sign | (uint16_t)(bits - (126u << 23));
    }
    magnitude += 0x0FFFu + (magnitude >> 13 & 1u) - (112u << 23);
    return sign | (uint16_t)(magnitude >> 13);
}

void convert_bf16_to_f32(const uint16_t *from, float *to, size_t n);
void convert_f32_to_bf16(const float *from, uint16_t *to, size_t n);

#endif
