/* elementwise.h - the small arithmetic between matrix products. Instruction sets change no bit. */
#ifndef KVPAGER_MODELS_ELEMENTWISE_H
#define KVPAGER_MODELS_ELEMENTWISE_H

#include <stddef.h>

#include "integration/models/isa.h"

/* out[n_rows][width]: each row of x less its mean, over its standard deviation (with epsilon under
 * the root), times weight plus bias [width]. out may be x. */
void layer_norm(const float *x, size_t n_rows, size_t width, const float *weight, const float *bias,
                float epsilon, float *out);

/* out[n_rows][width]: each row of x over its root mean square (with epsilon under the root), times
 * weight [width] (Zhang and Sennrich 2019, arXiv 1910.07467). out may be x. */
void rms_norm(const float *x, size_t n_rows, size_t width, const float *weight, float epsilon,
              float *out);

/* GELU in its tanh form (Hendrycks and Gimpel 2016, arXiv 1606.08415), in place. */
void gelu_tanh(model_isa isa, float *x, size_t n);

/* max(x, 0), in place. */
void relu(float *x, size_t n);

/* out[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + e^-v) (Shazeer 2020, arXiv 2002.05202). */
void gated_silu(model_isa isa, const float *gate, const float *up, size_t n, float *out);

/* x += y */
void add_to(float *x, const float *y, size_t n);

#endif
