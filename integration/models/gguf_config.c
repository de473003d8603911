/* gguf_config.c - the metadata of a GGUF file as the config.json that it was made from.
 *
 * Keys: ggml's docs/gguf.md, and what llama.cpp's convert_hf_to_gguf.py writes. */
#include "integration/models/gguf_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "integration/models/decoder_config.h"

#define KEY_BYTES 160

typedef enum key_kind { KEY_COUNT, KEY_NUMBER } key_kind;

/* A key "<architecture>.<name>", and what config.json calls it: of GPT-2, and of all others. NULL:
 * not there. */
typedef struct key_row {
    const char *name, *gpt2, *other;
    key_kind kind;
    bool is_needed;
} key_row;

static const key_row rows[] = {
    {"block_count", "n_layer", "num_hidden_layers", KEY_COUNT, true},
    {"embedding_length", "n_embd", "hidden_size", KEY_COUNT, true},
    {"feed_forward_length", "n_inner", "intermediate_size", KEY_COUNT, true},
    {"context_length", "n_positions", "max_position_embeddings", KEY_COUNT, true},
    {"attention.head_count", "n_head", "num_attention_heads", KEY_COUNT, true},
    {"attention.head_count_kv", NULL, "num_key_value_heads", KEY_COUNT, false},
    {"attention.key_length", NULL, "head_dim", KEY_COUNT, false},
    {"attention.sliding_window", NULL, "sliding_window", KEY_COUNT, false},
    {"attention.layer_norm_epsilon", "layer_norm_epsilon", NULL, KEY_NUMBER, true},
    {"attention.layer_norm_rms_epsilon", NULL, "rms_norm_eps", KEY_NUMBER, true},
    {"rope.freq_base", NULL, "rope_theta", KEY_NUMBER, false},
};

typedef struct builder {
    const gguf *g;
    char arch[GGUF_ARCHITECTURE_BYTES];
    json_t *config;
    bool is_out_of_memory;
} builder;

/* "<architecture>.<name>" */
static const char *full_key(const builder *b, const char *name, char key[KEY_BYTES])
{
    snprintf(key, KEY_BYTES, "%s.%s", b->arch, name);
    return key;
}

static void set(builder *b, json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value)) /* value NULL: out of memory as well */
        b->is_out_of_memory = true;
}

static kvp_status add_row(builder *b, const key_row *row)
{
    char key[KEY_BYTES];
    int64_t count = 0;
    double number = 0;
    const char *to = strcmp(b->arch, "gpt2") == 0 ? row->gpt2 : row->other;
    full_key(b, row->name, key);
    if (!to || (!row->is_needed && !gguf_has(b->g, key)))
        return KVP_OK;
    if (!gguf_has(b->g, key))
        return kvp_fail(KVP_E_INVALID, "%s: the metadata \"%s\" is missing", gguf_path(b->g), key);
    if (row->kind == KEY_COUNT && gguf_array_length(b->g, key))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: the metadata \"%s\" differs by layer, which is not supported",
                        gguf_path(b->g), key);
    bool is_good = row->kind == KEY_COUNT ? gguf_get_int(b->g, key, &count)
                                          : gguf_get_number(b->g, key, &number) && isfinite(number);
    if (!is_good)
        return kvp_fail(KVP_E_INVALID, "%s: the metadata \"%s\" is not a %snumber", gguf_path(b->g),
                        key, row->kind == KEY_COUNT ? "whole " : "");
    set(b, b->config, to, row->kind == KEY_COUNT ? json_integer(count) : json_real(number));
    return KVP_OK;
}

/* ---- what is not a plain number -------------------------------------------------------------- */

static int64_t int_or(const builder *b, const char *key, int64_t otherwise)
{
    (void)gguf_get_int(b->g, key, &otherwise);
    return otherwise;
}

/* What the metadata says, else what the tokenizer has, else what the embedding has. */
static void add_vocab_size(builder *b)
{
    char key[KEY_BYTES];
    const gguf_tensor *embedding = gguf_find_tensor(b->g, "token_embd.weight");
    int64_t n = (int64_t)gguf_array_length(b->g, "tokenizer.ggml.tokens");
    if (!n && embedding && embedding->rank == 2)
        n = (int64_t)embedding->shape[0];
    set(b, b->config, "vocab_size", json_integer(int_or(b, full_key(b, "vocab_size", key), n)));
}

static void add_eos(builder *b)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    json_t *ids = json_array();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t id = int_or(b, keys[i], -1);
        if (id >= 0 && json_array_append_new(ids, json_integer(id)))
            b->is_out_of_memory = true;
    }
    set(b, b->config, "eos_token_id", ids);
}

static void add_flags(builder *b)
{
    bool has_head = gguf_find_tensor(b->g, "output.weight");
    bool has_bias = gguf_find_tensor(b->g, "blk.0.attn_q.bias");
    bool has_mlp_bias = gguf_find_tensor(b->g, "blk.0.ffn_up.bias");
    set(b, b->config, "tie_word_embeddings", json_boolean(!has_head));
    set(b, b->config, "attention_bias", json_boolean(has_bias)); /* Llama; others know */
    set(b, b->config, "mlp_bias", json_boolean(has_mlp_bias));
}

static kvp_status add_rotated_part(builder *b)
{
    char key[KEY_BYTES];
    int64_t heads = int_or(b, full_key(b, "attention.head_count", key), 0);
    int64_t width = int_or(b, full_key(b, "embedding_length", key), 0);
    int64_t dim =
        int_or(b, full_key(b, "attention.key_length", key), heads > 0 ? width / heads : 0);
    int64_t value_dim = int_or(b, full_key(b, "attention.value_length", key), dim);
    int64_t rotated = int_or(b, full_key(b, CONFIG_ROTATED, key), dim);
    if (value_dim != dim)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: values of %lld elements beside keys of %lld are not supported",
                        gguf_path(b->g), (long long)value_dim, (long long)dim);
    if (rotated != dim)
        set(b, b->config, CONFIG_ROTATED, json_integer(rotated));
    return KVP_OK;
}

static void add_number(builder *b, json_t *object, const char *to, const char *name)
{
    char key[KEY_BYTES];
    double number;
    if (gguf_get_number(b->g, full_key(b, name, key), &number))
        set(b, object, to, json_real(number));
}

/* A factor alone (rope.scale_linear is its older name) means linear; 0 is none. */
static void add_rope_scaling(builder *b)
{
    static const char old_factor[] = "rope.scale_linear", factor[] = "rope.scaling.factor";
    char key[KEY_BYTES];
    const char *text = "linear";
    size_t n = strlen(text);
    double number = 0;
    if (!gguf_get_number(b->g, full_key(b, factor, key), &number))
        (void)gguf_get_number(b->g, full_key(b, old_factor, key), &number);
    bool is_scaled = number > 0 && number != 1;
    if (!gguf_get_text(b->g, full_key(b, "rope.scaling.type", key), &text, &n) && !is_scaled)
        return;
    json_t *scaling = json_object();
    set(b, scaling, "rope_type", json_stringn(text, n));
    add_number(b, scaling, "factor", old_factor);
    add_number(b, scaling, "factor", factor);
    add_number(b, scaling, "original_max_position_embeddings",
               "rope.scaling.original_context_length");
    add_number(b, scaling, "beta_fast", "rope.scaling.yarn_beta_fast");
    add_number(b, scaling, "beta_slow", "rope.scaling.yarn_beta_slow");
    set(b, b->config, "rope_scaling", scaling);
}

/* ---- all of it ------------------------------------------------------------------------------- */

kvp_status gguf_architecture(const gguf *g, char out[GGUF_ARCHITECTURE_BYTES])
{
    const char *text;
    size_t n;
    if (!gguf_get_text(g, "general.architecture", &text, &n) || n >= GGUF_ARCHITECTURE_BYTES)
        return kvp_fail(KVP_E_INVALID,
                        "%s: the metadata \"general.architecture\" is missing or not a name",
                        gguf_path(g));
    memcpy(out, text, n);
    out[n] = '\0';
    return KVP_OK;
}

/* Numbers that mean something this forward does not do, unless they are as here. */
static kvp_status check_supported(const builder *b)
{
    static const struct {
        const char *name;
        double plain;
    } numbers[] = {{"expert_count", 0},
                   {"attention.max_alibi_bias", 0},
                   {"attention.clamp_kqv", 0},
                   {"rope.scaling.yarn_log_multiplier", 0},
                   {"rope.scaling.yarn_ext_factor", 1},
                   {"rope.scaling.yarn_attn_factor", 1},
                   {"rope.scaling.attn_factor", 1}};
    char key[KEY_BYTES];
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double number = numbers[i].plain;
        if (gguf_get_number(b->g, full_key(b, numbers[i].name, key), &number) &&
            number != numbers[i].plain)
            return kvp_fail(KVP_E_UNSUPPORTED, "%s: the metadata \"%s\" is %g: not supported",
                            gguf_path(b->g), key, number);
    }
    if (int_or(b, "split.count", 1) > 1)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: one of several parts of a model; merge them with llama.cpp's "
                        "gguf-split --merge",
                        gguf_path(b->g));
    return KVP_OK;
}

kvp_status gguf_config(const gguf *g, json_t **out)
{
    builder b = {.g = g, .config = json_object()};
    kvp_status status = gguf_architecture(g, b.arch);
    set(&b, b.config, "model_type", json_string(b.arch));
    if (!status)
        status = check_supported(&b);
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !status; i++)
        status = add_row(&b, &rows[i]);
    if (!status)
        status = add_rotated_part(&b);
    if (!status) {
        add_vocab_size(&b);
        add_eos(&b);
        add_flags(&b);
        add_rope_scaling(&b);
    }
    if (!status && b.is_out_of_memory)
        status = kvp_fail(KVP_E_NOMEM, "out of memory: the metadata of %s", gguf_path(g));
    if (status)
        json_decref(b.config);
    else
        *out = b.config;
    return status;
}
