/* gpt2.h - the parts of a GPT-2: what its weights are, and what its forward needs. */
#ifndef KVPAGER_MODELS_GPT2_H
#define KVPAGER_MODELS_GPT2_H

#include "integration/models/arch.h"
#include "integration/models/gpt2_config.h"
#include "integration/models/matmul.h"

/* Shapes: d = d_model. */
typedef struct gpt2_layer {
    float *ln_1_weight, *ln_1_bias; /* [d] */
    matrix qkv;                     /* [d][3 d]: q, k, v */
    float *qkv_bias;                /* [3 d] */
    matrix attn_out;                /* [d][d] */
    float *attn_out_bias;           /* [d] */
    float *ln_2_weight, *ln_2_bias; /* [d] */
    matrix mlp_up;                  /* [d][d_inner] */
    float *mlp_up_bias;             /* [d_inner] */
    matrix mlp_down;                /* [d_inner][d] */
    float *mlp_down_bias;           /* [d] */
} gpt2_layer;

typedef struct gpt2_weights {
    gpt2_layer *layers;             /* [n_layers] */
    matrix tokens;                  /* wte [n_vocab][d] */
    float *positions;               /* wpe [n_ctx][d] */
    float *ln_f_weight, *ln_f_bias; /* [d] */
    matrix head;                    /* [n_vocab][d]; tied: the same data as tokens */
    void *block;                    /* all of it, mapped */
    size_t block_bytes;
} gpt2_weights;

/* Find, check and convert every tensor of the model. Errors: KVP_E_INVALID a tensor is missing, has
 * another shape or dtype, or is one that this model does not have (the message names it);
 * KVP_E_NOMEM. */
KVP_NODISCARD kvp_status gpt2_weights_load(const gpt2_config *config, const model_source *source,
                                           gpt2_weights *out);
void gpt2_weights_fini(gpt2_weights *w);

#endif
