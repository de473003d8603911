/* gpt2_config.c - the hyperparameters of a GPT-2, from config.json as Hugging Face writes it.
 *
 * Defaults are those of transformers' GPT2Config; members that change nothing in a float32 forward
 * (dropout, use_cache, reorder_and_upcast_attn, initializer_range, ...) are ignored. */
#include "integration/models/gpt2_config.h"

#include <stdio.h>

/* Far above any GPT-2; products of two of them fit 64 bits. */
#define MAX_LAYERS 4096u
#define MAX_WIDTH 65536u
#define MAX_INNER (MAX_WIDTH * 8u)
#define MAX_POSITIONS (1u << 24)
#define MAX_VOCAB (1u << 24)

#define DEFAULT_EOS 50256u

static kvp_status check_architecture(const config_file *c)
{
    const json_t *names = json_object_get(c->root, "architectures");
    if (json_is_unset(names) || (json_is_array(names) && !json_array_size(names)))
        return KVP_OK;
    const json_t *name = json_array_get(names, 0);
    if (json_is_text(name, "GPT2LMHeadModel") || json_is_text(name, "GPT2Model"))
        return KVP_OK;
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "%s: architecture %s is not supported; GPT2LMHeadModel and GPT2Model are",
                    c->where, json_is_string(name) ? json_string_value(name) : "(not a text)");
}

static kvp_status check_activation(const config_file *c)
{
    const json_t *name = json_object_get(c->root, "activation_function");
    if (json_is_unset(name) || json_is_text(name, "gelu_new") ||
        json_is_text(name, "gelu_pytorch_tanh"))
        return KVP_OK;
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "%s: activation_function %s is not supported; gelu_new and gelu_pytorch_tanh "
                    "are",
                    c->where, json_is_string(name) ? json_string_value(name) : "(not a text)");
}

static kvp_status check_unsupported(const config_file *c)
{
    bool cross_attention = false;
    kvp_status status = config_optional_flag(c, "add_cross_attention", &cross_attention);
    if (status)
        return status;
    if (cross_attention)
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: add_cross_attention true is not supported",
                        c->where);
    if (json_object_size(json_object_get(c->root, "pruned_heads")))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: pruned_heads are not supported", c->where);
    if (!json_is_unset(json_object_get(c->root, "quantization_config")))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: quantization_config: quantised weights are not supported", c->where);
    return KVP_OK;
}

static kvp_status read_sizes(const config_file *c, gpt2_config *g)
{
    kvp_status status = config_count(c, "n_layer", 1, MAX_LAYERS, &g->n_layers);
    if (!status)
        status = config_count(c, "n_embd", 1, MAX_WIDTH, &g->d_model);
    if (!status)
        status = config_count(c, "n_head", 1, MAX_WIDTH, &g->n_heads);
    if (!status)
        status = config_count(c, "vocab_size", 1, MAX_VOCAB, &g->n_vocab);
    /* n_positions decides; n_ctx is its older name, which transformers ignores beside it. */
    const char *positions =
        json_is_unset(json_object_get(c->root, "n_positions")) ? "n_ctx" : "n_positions";
    if (!status)
        status = config_count(c, positions, 1, MAX_POSITIONS, &g->n_ctx);
    if (status)
        return status;
    if (g->d_model % g->n_heads)
        return kvp_fail(KVP_E_INVALID, "%s: n_embd %u is not a multiple of n_head %u", c->where,
                        g->d_model, g->n_heads);
    g->d_inner = 4 * g->d_model;
    return config_optional_count(c, "n_inner", 1, MAX_INNER, &g->d_inner);
}

static kvp_status read_flags(const config_file *c, gpt2_config *g)
{
    double epsilon = 1e-5;
    g->scale_by_width = g->tied = true;
    g->scale_by_layer = false;
    kvp_status status = config_optional_number(c, "layer_norm_epsilon", 0, 1, &epsilon);
    if (!status)
        status = config_optional_flag(c, "scale_attn_weights", &g->scale_by_width);
    if (!status)
        status = config_optional_flag(c, "scale_attn_by_inverse_layer_idx", &g->scale_by_layer);
    if (!status)
        status = config_optional_flag(c, "tie_word_embeddings", &g->tied);
    g->epsilon = (float)epsilon;
    return status;
}

/* Without the member, GPT-2's own token is meant, where the vocabulary has it. */
static kvp_status read_eos(const config_file *c, gpt2_config *g)
{
    const json_t *json = json_object_get(c->root, "eos_token_id");
    uint32_t eos = DEFAULT_EOS;
    kvp_status status = config_optional_count(c, "eos_token_id", 0, g->n_vocab - 1, &eos);
    g->eos_id = json_is_null(json) || eos >= g->n_vocab ? -1 : (int32_t)eos;
    return status;
}

kvp_status gpt2_config_read(const config_file *c, gpt2_config *out)
{
    gpt2_config g = {0};
    kvp_status status = check_architecture(c);
    if (!status)
        status = check_activation(c);
    if (!status)
        status = check_unsupported(c);
    if (!status)
        status = read_sizes(c, &g);
    if (!status)
        status = read_flags(c, &g);
    if (!status)
        status = read_eos(c, &g);
    if (!status)
        *out = g;
    return status;
}
