/* decoder_config.h - what a decoder-only transformer is made of, whatever its architecture calls
 * it. */
#ifndef KVPAGER_MODELS_DECODER_CONFIG_H
#define KVPAGER_MODELS_DECODER_CONFIG_H

#include "integration/models/config.h"
#include "integration/models/model.h"
#include "integration/models/rope.h"

/* Limits far above any model; products of two of them fit 64 bits. */
#define MAX_LAYERS 4096u
#define MAX_HEADS 4096u
#define MAX_WIDTH 65536u
#define MAX_INNER (MAX_WIDTH * 8u)
#define MAX_POSITIONS (1u << 24)
#define MAX_VOCAB (1u << 24)

typedef enum norm_kind { NORM_LAYER = 0, NORM_RMS = 1 } norm_kind;

typedef enum mlp_kind {
    MLP_GELU_TANH = 0,  /* down(gelu(up(x))) */
    MLP_RELU = 1,       /* down(relu(up(x))) */
    MLP_GATED_SILU = 2, /* down(silu(gate(x)) * up(x)) */
} mlp_kind;

typedef struct decoder_config {
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, d_model;
    uint32_t d_inner; /* of the MLP */
    uint32_t n_vocab;
    uint32_t n_ctx;  /* positions it was made for */
    uint32_t window; /* tokens that attention sees; 0: all */
    norm_kind norm;
    float epsilon; /* of norms */
    mlp_kind mlp;
    bool bias_qkv, bias_attn_out, bias_mlp;
    float scale;         /* of scores */
    bool scale_by_layer; /* scores / (layer + 1) besides */
    bool tied;           /* the output matrix is the embedding */
    /* Positions: rotary (rope.dim is not 0), or a learned table, in which position 0 is row
     * position_offset. */
    rope_config rope;
    uint32_t position_offset;
    int32_t eos_ids[MODEL_MAX_EOS];
    uint32_t n_eos;
} decoder_config;

/* Widths of activations: q, k and v; what attention yields; before the MLP's activation. */
static inline size_t decoder_qkv_width(const decoder_config *c)
{
    return ((size_t)c->n_heads + 2 * (size_t)c->n_kv_heads) * c->head_dim;
}

static inline size_t decoder_attended_width(const decoder_config *c)
{
    return (size_t)c->n_heads * c->head_dim;
}

static inline size_t decoder_up_width(const decoder_config *c)
{
    return c->mlp == MLP_GATED_SILU ? 2 * (size_t)c->d_inner : c->d_inner;
}

/* ---- readers that architectures share. Errors: as model_open() ---- */

/* How many elements of a head are rotated: a member that gguf_config() adds, and no folder has. */
#define CONFIG_ROTATED "rope.dimension_count"

/* rope_scaling or rope_parameters, rope_theta, CONFIG_ROTATED; a YaRN may lengthen c->n_ctx. After
 * head_dim and n_ctx. */
KVP_NODISCARD kvp_status rope_config_read(const config_file *file, decoder_config *c);
/* YaRN from c->n_ctx positions to n_ctx. Errors: KVP_E_RANGE they cannot be stretched. */
KVP_NODISCARD kvp_status rope_config_stretch(const config_file *file, uint64_t n_ctx,
                                             decoder_config *c);
/* Add eos_token_id, a number or a list. Absent: `otherwise`, where the vocabulary has it (-1:
 * none). After n_vocab. */
KVP_NODISCARD kvp_status decoder_read_eos(const config_file *file, int32_t otherwise,
                                          decoder_config *c);
/* The same of generation_config.json, but ids outside the vocabulary, which no text will have, are
 * left out: transformers does not look at them. */
KVP_NODISCARD kvp_status decoder_read_generation_eos(const config_file *file, decoder_config *c);
/* Refuse what no forward here has: quantised weights of other formats, pruned heads ... */
KVP_NODISCARD kvp_status decoder_check_unsupported(const config_file *file);
/* n_heads, n_kv_heads and head_dim go together. */
KVP_NODISCARD kvp_status decoder_check_heads(const config_file *file, const decoder_config *c);

#endif
