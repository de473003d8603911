/* arch_gpt2.c - GPT-2 (Radford et al. 2019), as Hugging Face writes it.
 *
 * Defaults are those of transformers' GPT2Config; members that change nothing in a float32 forward
 * (dropout, use_cache, reorder_and_upcast_attn, initializer_range, ...) are ignored. */
#include "integration/models/arch.h"

#include <math.h>

#define DEFAULT_EOS 50256

static kvp_status check_supported(const config_file *file)
{
    kvp_status status = config_expect(file, "activation_function", "gelu_new gelu_pytorch_tanh");
    if (!status)
        status = config_expect_flag(file, "add_cross_attention", false);
    if (!status)
        status = decoder_check_unsupported(file);
    return status;
}

static kvp_status read_sizes(const config_file *file, decoder_config *c)
{
    kvp_status status = config_count(file, "n_layer", 1, MAX_LAYERS, &c->n_layers);
    if (!status)
        status = config_count(file, "n_embd", 1, MAX_WIDTH, &c->d_model);
    if (!status)
        status = config_count(file, "n_head", 1, MAX_HEADS, &c->n_heads);
    if (!status)
        status = config_count(file, "vocab_size", 1, MAX_VOCAB, &c->n_vocab);
    /* n_positions decides; n_ctx is its older name, which transformers ignores beside it. */
    const char *positions =
        json_is_unset(json_object_get(file->root, "n_positions")) ? "n_ctx" : "n_positions";
    if (!status)
        status = config_count(file, positions, 1, MAX_POSITIONS, &c->n_ctx);
    if (status)
        return status;
    if (c->d_model % c->n_heads)
        return kvp_fail(KVP_E_INVALID, "%s: \"n_embd\" %u is not a multiple of \"n_head\" %u",
                        file->where, c->d_model, c->n_heads);
    c->n_kv_heads = c->n_heads;
    c->head_dim = c->d_model / c->n_heads;
    c->d_inner = 4 * c->d_model;
    return config_optional_count(file, "n_inner", 1, MAX_INNER, &c->d_inner);
}

static kvp_status read_flags(const config_file *file, decoder_config *c)
{
    double epsilon = 1e-5;
    bool scale_by_width = true;
    c->tied = true;
    kvp_status status = config_optional_number(file, "layer_norm_epsilon", 0, 1, &epsilon);
    if (!status)
        status = config_optional_flag(file, "scale_attn_weights", &scale_by_width);
    if (!status)
        status = config_optional_flag(file, "scale_attn_by_inverse_layer_idx", &c->scale_by_layer);
    if (!status)
        status = config_optional_flag(file, "tie_word_embeddings", &c->tied);
    c->epsilon = (float)epsilon;
    c->scale = scale_by_width ? 1.0f / sqrtf((float)c->head_dim) : 1.0f;
    return status;
}

static kvp_status read_config(const config_file *file, decoder_config *out)
{
    decoder_config c = {.norm = NORM_LAYER,
                        .mlp = MLP_GELU_TANH,
                        .bias_qkv = true,
                        .bias_attn_out = true,
                        .bias_mlp = true};
    kvp_status status = check_supported(file);
    if (!status)
        status = read_sizes(file, &c);
    if (!status)
        status = read_flags(file, &c);
    if (!status)
        status = decoder_read_eos(file, DEFAULT_EOS, &c);
    if (!status)
        *out = c;
    return status;
}

/* The causal mask, as buffers. */
static const char *const ignored[] = {"attn.bias", "attn.masked_bias", NULL};

static const tensor_names names = {.prefix = "transformer.",
                                   .layers = "h.",
                                   .is_in_major = true,
                                   .parts = {[PART_TOKENS] = "wte",
                                             [PART_POSITIONS] = "wpe",
                                             [PART_NORM] = "ln_f",
                                             [PART_HEAD] = "lm_head",
                                             [PART_ATTN_NORM] = "ln_1",
                                             [PART_QKV] = "attn.c_attn",
                                             [PART_ATTN_OUT] = "attn.c_proj",
                                             [PART_MLP_NORM] = "ln_2",
                                             [PART_UP] = "mlp.c_fc",
                                             [PART_DOWN] = "mlp.c_proj"},
                                   .ignored = ignored};

const model_arch gpt2_arch = {
    .model_type = "gpt2", .class_prefix = "GPT2", .read_config = read_config, .names = &names};
