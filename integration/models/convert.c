/* convert.c - number formats of weights. */
#include "integration/models/convert.h"

void convert_bf16_to_f32(const uint16_t *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = convert_bits((uint32_t)from[i] << 16);
}

void convert_f32_to_bf16(const float *from, uint16_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = convert_narrow(from[i]);
}
