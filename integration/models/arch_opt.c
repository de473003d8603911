/* arch_opt.c - OPT (Zhang et al. 2022, arXiv 2205.01068), with norms before the blocks: all sizes
 * but the one of 350M parameters. */
#include "integration/models/arch.h"

#include <math.h>

#define POSITION_OFFSET 2u /* rows of its table before position 0's */

static kvp_status check_supported(const config_file *file)
{
    kvp_status status = config_expect(file, "activation_function", "relu");
    if (!status)
        status = config_expect_flag(file, "do_layer_norm_before", true);
    if (!status)
        status = config_expect_flag(file, "_remove_final_layer_norm", false);
    if (!status)
        status = config_expect_flag(file, "layer_norm_elementwise_affine", true);
    if (!status)
        status = decoder_check_unsupported(file);
    return status;
}

static kvp_status read_sizes(const config_file *file, decoder_config *c)
{
    kvp_status status = config_count(file, "num_hidden_layers", 1, MAX_LAYERS, &c->n_layers);
    if (!status)
        status = config_count(file, "hidden_size", 1, MAX_WIDTH, &c->d_model);
    if (!status)
        status = config_count(file, "ffn_dim", 1, MAX_INNER, &c->d_inner);
    if (!status)
        status = config_count(file, "vocab_size", 1, MAX_VOCAB, &c->n_vocab);
    if (!status)
        status = config_count(file, "num_attention_heads", 1, MAX_HEADS, &c->n_heads);
    if (!status)
        status = config_count(file, "max_position_embeddings", 1, MAX_POSITIONS, &c->n_ctx);
    if (status)
        return status;
    uint32_t embedding = c->d_model;
    status = config_optional_count(file, "word_embed_proj_dim", 1, MAX_WIDTH, &embedding);
    if (!status && embedding != c->d_model)
        status = kvp_fail(KVP_E_UNSUPPORTED,
                          "%s: \"word_embed_proj_dim\" %u that is not \"hidden_size\" %u is not "
                          "supported",
                          file->where, embedding, c->d_model);
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->d_model / c->n_heads;
    if (!status && c->d_model % c->n_heads)
        status = kvp_fail(KVP_E_INVALID,
                          "%s: \"hidden_size\" %u is not a multiple of \"num_attention_heads\" %u",
                          file->where, c->d_model, c->n_heads);
    return status ? status : decoder_check_heads(file, c);
}

static kvp_status read_config(const config_file *file, decoder_config *out)
{
    bool bias = true;
    decoder_config c = {.norm = NORM_LAYER,
                        .epsilon = 1e-5f,
                        .mlp = MLP_RELU,
                        .tied = true,
                        .position_offset = POSITION_OFFSET};
    kvp_status status = check_supported(file);
    if (!status)
        status = read_sizes(file, &c);
    if (!status)
        status = config_optional_flag(file, "enable_bias", &bias);
    if (!status)
        status = config_optional_flag(file, "tie_word_embeddings", &c.tied);
    if (!status)
        status = decoder_read_eos(file, 2, &c);
    c.bias_qkv = c.bias_attn_out = c.bias_mlp = bias;
    c.scale = 1.0f / sqrtf((float)c.head_dim);
    if (!status)
        *out = c;
    return status;
}

static const char *const ignored[] = {NULL};

static const tensor_names names = {.prefix = "model.decoder.",
                                   .layers = "layers.",
                                   .parts = {[PART_TOKENS] = "embed_tokens",
                                             [PART_POSITIONS] = "embed_positions",
                                             [PART_NORM] = "final_layer_norm",
                                             [PART_HEAD] = "lm_head",
                                             [PART_ATTN_NORM] = "self_attn_layer_norm",
                                             [PART_Q] = "self_attn.q_proj",
                                             [PART_K] = "self_attn.k_proj",
                                             [PART_V] = "self_attn.v_proj",
                                             [PART_ATTN_OUT] = "self_attn.out_proj",
                                             [PART_MLP_NORM] = "final_layer_norm",
                                             [PART_UP] = "fc1",
                                             [PART_DOWN] = "fc2"},
                                   .ignored = ignored};

const model_arch opt_arch = {
    .model_type = "opt", .class_prefix = "OPT", .read_config = read_config, .names = &names};
