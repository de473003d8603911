/* sampler.h - the next token from logits. Deterministic: one seed, one sequence of tokens. */
#ifndef KVPAGER_TEXT_SAMPLER_H
#define KVPAGER_TEXT_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct sampler_options {
    float temperature; /* 0: greedy (the lowest id among equal maxima) */
    uint32_t top_k;    /* 0: all */
    float top_p;       /* in (0, 1]; 1: all */
    uint64_t seed;
} sampler_options;

typedef struct sampler sampler;

KVP_NODISCARD kvp_status sampler_create(const sampler_options *options, uint32_t n_vocab,
                                        sampler **out);
void sampler_destroy(sampler *s);
/* The next id from logits [n_vocab]. KVP_E_INVALID if one is NaN. `top2_margin` (optional): the
 * highest logit less the second. */
KVP_NODISCARD kvp_status sampler_next(sampler *s, const float *logits, int32_t *id,
                                      float *top2_margin);

#endif
