/* rows.h - what is done to each row of activations by itself, shared among threads. The number of
 * threads does not change a bit of any row. */
#ifndef KVPAGER_MODELS_ROWS_H
#define KVPAGER_MODELS_ROWS_H

#include "integration/models/decoder_config.h"
#include "integration/models/decoder_weights.h"
#include "integration/models/isa.h"
#include "kvpager/pool.h"

/* The config's norm: out[n][d_model] of rows [n][d_model]. */
void rows_normalise(kvp_pool *pool, const decoder_config *c, const norm_weights *norm,
                    const float *rows, size_t n, float *out);
/* rows[n][width] += delta */
void rows_add(kvp_pool *pool, const float *delta, size_t n, size_t width, float *rows);
/* The MLP between its matrices: up [n][up width] in place, or to gated [n][d_inner]. Returns where
 * the result is. */
const float *rows_activate(kvp_pool *pool, model_isa isa, const decoder_config *c, float *up,
                           float *gated, size_t n);
/* Rotate the first n_heads heads of rows [n][qkv width] by angles [n][rope.dim] (rope_angles()). */
void rows_rotate(kvp_pool *pool, const decoder_config *c, const float *angles, size_t n_heads,
                 size_t n, float *rows);

#endif
