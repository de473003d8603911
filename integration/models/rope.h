/* rope.h - rotary positions (Su et al. 2021, arXiv 2104.09864), in the layout of Hugging Face: of a
 * head's first `dim` elements, i and i + dim / 2 are rotated together. */
#ifndef KVPAGER_MODELS_ROPE_H
#define KVPAGER_MODELS_ROPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef enum rope_scaling {
    ROPE_UNSCALED = 0,
    ROPE_LINEAR = 1, /* positions / factor */
    ROPE_LLAMA3 = 2, /* slow frequencies / factor */
    ROPE_YARN = 3,   /* slow frequencies / factor, cos and sin * attention_factor */
} rope_scaling;

/* Names and meaning: transformers, modeling_rope_utils.py. */
typedef struct rope_config {
    uint32_t dim; /* even; 0: the model has no rotary positions */
    double theta;
    rope_scaling scaling;
    double factor;
    double original_n_ctx;                    /* llama3, yarn: positions before the scaling */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn: rotations over original_n_ctx */
    bool truncate;                            /* yarn: round the borders of the ramp */
    double attention_factor;                  /* yarn */
} rope_config;

/* What YaRN's paper gives for this factor (arXiv 2309.00071, section 3.4). */
double rope_attention_factor(double factor);

typedef struct rope {
    size_t n_freqs; /* dim / 2 */
    float attention_factor;
    double *freqs;  /* [n_freqs] radians per position */
    double *fine;   /* [n_freqs] cos, then [n_freqs] sin, of each position within a block */
    double *coarse; /* the same of the block's first position */
    uint64_t block; /* that `coarse` is of */
} rope;

/* dividers: [dim / 2], what each frequency is divided by besides; NULL: 1. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status rope_init(const rope_config *config, const float *dividers, rope *out);
void rope_fini(rope *r);

/* cos and sin of every angle at n positions: [n][2][n_freqs], times the attention factor. A
 * position's numbers do not depend on the others. */
void rope_angles(rope *r, const uint64_t *positions, size_t n, float *angles);
/* Rotate heads of head_dim elements that lie side by side. angles: [2][n_freqs]. */
void rope_rotate(const float *angles, size_t n_freqs, float *heads, size_t n_heads,
                 size_t head_dim);

#endif
