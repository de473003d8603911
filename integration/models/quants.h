/* quants.h - numbers as weights files have them, plain or in quantised blocks, to floats. */
#ifndef KVPAGER_MODELS_QUANTS_H
#define KVPAGER_MODELS_QUANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Types are ggml's numbers (ggml_type.h). Supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K.
 */
bool quants_can_read(uint32_t type);
/* n elements, a whole number of blocks; `from` need not be aligned. Exact up to the rounding of
 * the float arithmetic that defines a type. */
void quants_read(uint32_t type, const unsigned char *from, float *to, size_t n);

#endif
