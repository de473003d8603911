/* arch_llama.c - Llama (Touvron et al. 2023), and Mistral, whose sliding window must not matter. */
#include "integration/models/arch.h"

#include <math.h>

static kvp_status read_sizes(const config_file *file, decoder_config *c)
{
    kvp_status status = config_count(file, "num_hidden_layers", 1, MAX_LAYERS, &c->n_layers);
    if (!status)
        status = config_count(file, "hidden_size", 1, MAX_WIDTH, &c->d_model);
    if (!status)
        status = config_count(file, "intermediate_size", 1, MAX_INNER, &c->d_inner);
    if (!status)
        status = config_count(file, "vocab_size", 1, MAX_VOCAB, &c->n_vocab);
    if (!status)
        status = config_count(file, "num_attention_heads", 1, MAX_HEADS, &c->n_heads);
    if (!status)
        status = config_count(file, "max_position_embeddings", 1, MAX_POSITIONS, &c->n_ctx);
    if (status)
        return status;
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->d_model / c->n_heads;
    status = config_optional_count(file, "num_key_value_heads", 1, MAX_HEADS, &c->n_kv_heads);
    if (!status)
        status = config_optional_count(file, "head_dim", 1, MAX_WIDTH, &c->head_dim);
    return status ? status : decoder_check_heads(file, c);
}

kvp_status llama_config_read(const config_file *file, decoder_config *c)
{
    double epsilon = 1e-6;
    c->norm = NORM_RMS;
    c->mlp = MLP_GATED_SILU;
    kvp_status status = decoder_check_unsupported(file);
    if (!status)
        status = config_expect(file, "hidden_act", "silu swish");
    if (!status)
        status = read_sizes(file, c);
    if (!status)
        status = config_optional_number(file, "rms_norm_eps", 0, 1, &epsilon);
    if (!status)
        status = config_optional_flag(file, "tie_word_embeddings", &c->tied);
    if (!status)
        status = rope_config_read(file, c);
    c->epsilon = (float)epsilon;
    c->scale = 1.0f / sqrtf((float)c->head_dim);
    return status;
}

static kvp_status read_llama(const config_file *file, decoder_config *out)
{
    decoder_config c = {0};
    bool bias = false;
    kvp_status status = llama_config_read(file, &c);
    if (!status)
        status = config_optional_flag(file, "attention_bias", &bias);
    if (!status)
        status = config_optional_flag(file, "mlp_bias", &c.bias_mlp);
    if (!status)
        status = decoder_read_eos(file, 2, &c);
    c.bias_qkv = c.bias_attn_out = bias;
    if (!status)
        *out = c;
    return status;
}

/* Absent, Mistral's window is 4096; no window is written as null. */
static kvp_status read_mistral(const config_file *file, decoder_config *out)
{
    decoder_config c = {0};
    bool is_null = json_is_null(json_object_get(file->root, "sliding_window"));
    c.window = is_null ? 0 : 4096;
    kvp_status status = llama_config_read(file, &c);
    if (!status)
        status = config_optional_count(file, "sliding_window", 1, MAX_POSITIONS, &c.window);
    if (!status)
        status = decoder_read_eos(file, 2, &c);
    if (!status)
        *out = c;
    return status;
}

static const char *const ignored[] = {"self_attn.rotary_emb.inv_freq", NULL};

const tensor_names llama_names = {.prefix = "model.",
                                  .layers = "layers.",
                                  .parts = {[PART_TOKENS] = "embed_tokens",
                                            [PART_NORM] = "norm",
                                            [PART_HEAD] = "lm_head",
                                            [PART_ATTN_NORM] = "input_layernorm",
                                            [PART_Q] = "self_attn.q_proj",
                                            [PART_K] = "self_attn.k_proj",
                                            [PART_V] = "self_attn.v_proj",
                                            [PART_ATTN_OUT] = "self_attn.o_proj",
                                            [PART_MLP_NORM] = "post_attention_layernorm",
                                            [PART_GATE] = "mlp.gate_proj",
                                            [PART_UP] = "mlp.up_proj",
                                            [PART_DOWN] = "mlp.down_proj"},
                                  .ignored = ignored};

const model_arch llama_arch = {.model_type = "llama",
                               .class_prefix = "Llama",
                               .read_config = read_llama,
                               .names = &llama_names,
                               .gguf_interleaves = true};

const model_arch mistral_arch = {.model_type = "mistral",
                                 .class_prefix = "Mistral",
                                 .read_config = read_mistral,
                                 .names = &llama_names};
