/* convert.h - number formats of weights. */
#ifndef KVPAGER_MODELS_CONVERT_H
#define KVPAGER_MODELS_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* bf16 is the upper half of a float; narrowing rounds to nearest even, NaN stays NaN. */
void convert_bf16_to_f32(const uint16_t *from, float *to, size_t n);
void convert_f32_to_bf16(const float *from, uint16_t *to, size_t n);

/* n elements of a weights file ("F32", "F16" or "BF16", little-endian, not aligned).
 * False if it is another dtype. */
bool convert_is_float(const char *dtype);
void convert_to_f32(const char *dtype, const unsigned char *from, float *to, size_t n);

#endif
