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

void convert_bf16_to_f32(const uint16_t *from, float *to, size_t n);
void convert_f32_to_bf16(const float *from, uint16_t *to, size_t n);

#endif
