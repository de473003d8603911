/* gpt2_config.h - the hyperparameters of a GPT-2. */
#ifndef KVPAGER_MODELS_GPT2_CONFIG_H
#define KVPAGER_MODELS_GPT2_CONFIG_H

#include "integration/models/config.h"

typedef struct gpt2_config {
    uint32_t n_layers, n_heads, d_model;
    uint32_t d_inner; /* of the MLP */
    uint32_t n_ctx;   /* positions */
    uint32_t n_vocab;
    int32_t eos_id;      /* -1: none */
    float epsilon;       /* of layer norms */
    bool scale_by_width; /* scores / sqrt(head_dim) */
    bool scale_by_layer; /* scores / (layer + 1) */
    bool tied;           /* the output matrix is the embedding */
} gpt2_config;

/* Errors: KVP_E_INVALID a member is missing, wrong, or contradicts another; KVP_E_UNSUPPORTED one
 * asks for what this forward does not have (the message names it). */
KVP_NODISCARD kvp_status gpt2_config_read(const config_file *c, gpt2_config *out);

#endif
