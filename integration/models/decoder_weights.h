/* decoder_weights.h - the tensors of a decoder in memory. */
#ifndef KVPAGER_MODELS_DECODER_WEIGHTS_H
#define KVPAGER_MODELS_DECODER_WEIGHTS_H

#include "integration/models/arch.h"
#include "integration/models/matrix.h"
#include "integration/models/weights.h"

typedef struct norm_weights {
    float *weight, *bias; /* [d]; bias NULL: an RMS norm */
} norm_weights;

/* Shapes: d = d_model, widths of decoder_config.h. */
typedef struct decoder_layer {
    norm_weights attn_norm;
    matrix qkv;      /* [d][qkv width]: q, k, v */
    matrix attn_out; /* [n_heads * head_dim][d] */
    norm_weights mlp_norm;
    matrix up;   /* [d][up width]: gated: gate, up */
    matrix down; /* [d_inner][d] */
} decoder_layer;

typedef struct decoder_weights {
    decoder_layer *layers; /* [n_layers] */
    matrix tokens;         /* [d][n_vocab] */
    float *positions;      /* [position_offset + n_ctx][d]; NULL: rotary */
    norm_weights norm;     /* the last one */
    matrix head;           /* [d][n_vocab]; tied: the same data as tokens */
    float *rope_dividers;  /* [rope.dim / 2]; NULL: none */
    void *block;           /* all of it, mapped */
    size_t block_bytes;
    uint64_t real_bytes; /* that all of the model's layers take: block_bytes, unless hollow */
} decoder_weights;

/* What they are loaded from. */
typedef struct weights_source {
    const weights *weights;
    const char *path; /* for messages */
    const model_arch *arch;
    const decoder_config *config;
    kvp_dtype dtype;        /* of matrices */
    uint32_t hollow_layers; /* not 0: so many layers, filled with numbers of no meaning */
} weights_source;

/* Find, check and convert every tensor of the model, on the threads of `pool`. Errors:
 * KVP_E_INVALID a tensor is missing or has another shape; KVP_E_UNSUPPORTED a dtype, a tensor that
 * this model does not have (the message names it), or a weight that f16 cannot hold; KVP_E_CORRUPT
 * a divider of rotary frequencies that is not above 0; KVP_E_NOMEM. */
KVP_NODISCARD kvp_status decoder_weights_load(const weights_source *source, kvp_pool *pool,
                                              decoder_weights *out);
void decoder_weights_fini(decoder_weights *w);

#endif
