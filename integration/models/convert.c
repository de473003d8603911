/* convert.c - number formats of weights. */
#include "integration/models/convert.h"

#include <assert.h>
#include <string.h>

static uint16_t f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x0040u); /* quiet */
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

void convert_bf16_to_f32(const uint16_t *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = convert_bits((uint32_t)from[i] << 16);
}

void convert_f32_to_bf16(const float *from, uint16_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = f32_to_bf16(from[i]);
}

bool convert_is_float(const char *dtype)
{
    return strcmp(dtype, "F32") == 0 || strcmp(dtype, "F16") == 0 || strcmp(dtype, "BF16") == 0;
}

void convert_to_f32(const char *dtype, const unsigned char *from, float *to, size_t n)
{
    assert(convert_is_float(dtype));
    if (strcmp(dtype, "F32") == 0) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
    bool is_f16 = strcmp(dtype, "F16") == 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        to[i] = is_f16 ? convert_f16(half) : convert_bits((uint32_t)half << 16);
    }
}
