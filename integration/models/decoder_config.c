/* decoder_config.c - what readers of configs share. */
#include "integration/models/decoder_config.h"

#include <string.h>

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A class that is no language model has another head. */
static kvp_status check_class(const config_file *file)
{
    const json_t *names = json_object_get(file->root, "architectures");
    if (json_is_unset(names) || (json_is_array(names) && !json_array_size(names)))
        return KVP_OK;
    const char *name = json_string_value(json_array_get(names, 0));
    if (name &&
        (ends_in(name, "ForCausalLM") || ends_in(name, "LMHeadModel") || ends_in(name, "Model")))
        return KVP_OK;
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "%s: architecture %s is not supported; language models (...ForCausalLM, "
                    "...LMHeadModel, ...Model) are",
                    file->where, name ? name : "(not a text)");
}

kvp_status decoder_check_unsupported(const config_file *file)
{
    kvp_status status = check_class(file);
    if (status)
        return status;
    if (json_object_size(json_object_get(file->root, "pruned_heads")))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: pruned_heads are not supported", file->where);
    if (!json_is_unset(json_object_get(file->root, "quantization_config")))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: quantization_config: quantised weights in safetensors are not "
                        "supported; GGUF files may have them",
                        file->where);
    return KVP_OK;
}

kvp_status decoder_check_heads(const config_file *file, const decoder_config *c)
{
    if (!c->head_dim)
        return kvp_fail(KVP_E_INVALID, "%s: %u heads have no room in a width of %u", file->where,
                        c->n_heads, c->d_model);
    if (c->n_heads % c->n_kv_heads)
        return kvp_fail(KVP_E_INVALID,
                        "%s: \"num_attention_heads\" %u is not a multiple of "
                        "\"num_key_value_heads\" %u",
                        file->where, c->n_heads, c->n_kv_heads);
    if (decoder_qkv_width(c) > 3 * (size_t)MAX_INNER)
        return kvp_fail(KVP_E_INVALID, "%s: %u heads of %u elements are too many", file->where,
                        c->n_heads, c->head_dim);
    return KVP_OK;
}

static bool has_eos(const decoder_config *c, int32_t id)
{
    for (uint32_t i = 0; i < c->n_eos; i++) {
        if (c->eos_ids[i] == id)
            return true;
    }
    return false;
}

static kvp_status add_eos(const config_file *file, const json_t *json, bool skips_unknown,
                          decoder_config *c)
{
    if (!json_is_integer(json))
        return kvp_fail(KVP_E_INVALID,
                        "%s: \"eos_token_id\" is not a whole number or a list of them",
                        file->where);
    json_int_t id = json_integer_value(json);
    bool is_known = id >= 0 && id < (json_int_t)c->n_vocab;
    if (!is_known && !skips_unknown)
        return kvp_fail(KVP_E_INVALID, "%s: \"eos_token_id\" is %lld; it must lie in 0 .. %u",
                        file->where, (long long)id, c->n_vocab - 1);
    if (!is_known || has_eos(c, (int32_t)id))
        return KVP_OK;
    if (c->n_eos == MODEL_MAX_EOS)
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: \"eos_token_id\": more than %u end tokens",
                        file->where, MODEL_MAX_EOS);
    c->eos_ids[c->n_eos++] = (int32_t)id;
    return KVP_OK;
}

static kvp_status add_all_eos(const config_file *file, bool skips_unknown, decoder_config *c)
{
    const json_t *json = json_object_get(file->root, "eos_token_id");
    kvp_status status = KVP_OK;
    if (json_is_unset(json))
        return KVP_OK;
    if (!json_is_array(json))
        return add_eos(file, json, skips_unknown, c);
    for (size_t i = 0; i < json_array_size(json) && !status; i++)
        status = add_eos(file, json_array_get(json, i), skips_unknown, c);
    return status;
}

kvp_status decoder_read_eos(const config_file *file, int32_t otherwise, decoder_config *c)
{
    bool is_absent = !json_object_get(file->root, "eos_token_id");
    if (is_absent && otherwise >= 0 && (uint32_t)otherwise < c->n_vocab && !has_eos(c, otherwise))
        c->eos_ids[c->n_eos++] = otherwise;
    return add_all_eos(file, false, c);
}

kvp_status decoder_read_generation_eos(const config_file *file, decoder_config *c)
{
    return add_all_eos(file, true, c);
}
