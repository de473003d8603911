/* arch_qwen2.c - Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): a Llama with biases of q,
 * k and v, and with layers that may have a sliding window, which must not matter. */
#include "integration/models/arch.h"

/* Layers with a sliding window: those that layer_types says, or those from max_window_layers on.
 */
static kvp_status read_window(const config_file *file, decoder_config *c)
{
    bool is_used = false, any = false;
    uint32_t window = 4096, first = 28;
    const json_t *type, *types = json_object_get(file->root, "layer_types");
    kvp_status status = config_optional_flag(file, "use_sliding_window", &is_used);
    if (!status)
        status = config_optional_count(file, "sliding_window", 1, MAX_POSITIONS, &window);
    if (!status)
        status = config_optional_count(file, "max_window_layers", 0, UINT32_MAX, &first);
    any = json_is_unset(types) && first < c->n_layers;
    size_t i;
    json_array_foreach(types, i, type) any = any || !json_is_text(type, "full_attention");
    if (json_is_null(json_object_get(file->root, "sliding_window")))
        is_used = false;
    c->window = is_used && any ? window : 0;
    return status;
}

static kvp_status read_config(const config_file *file, decoder_config *out)
{
    decoder_config c = {.bias_qkv = true};
    kvp_status status = llama_config_read(file, &c);
    if (!status)
        status = read_window(file, &c);
    if (!status)
        status = decoder_read_eos(file, -1, &c);
    if (!status)
        *out = c;
    return status;
}

const model_arch qwen2_arch = {.model_type = "qwen2",
                               .class_prefix = "Qwen2For",
                               .read_config = read_config,
                               .names = &llama_names};
