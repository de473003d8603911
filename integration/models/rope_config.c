/* rope_config.c - rotary positions as config.json describes them.
 *
 * transformers has written them in three ways: rope_theta beside rope_scaling {type, factor}, then
 * {rope_type, ...}, then everything in rope_parameters. All are read as transformers 5 does. */
#include "integration/models/decoder_config.h"

#include <stdio.h>
#include <string.h>

#include "integration/files/folder.h"

#define DEFAULT_THETA 10000.0
#define MAX_FACTOR 1e6
#define MAX_THETA 1e15

static bool is_empty(const json_t *json)
{
    return json_is_unset(json) || (json_is_object(json) && !json_object_size(json));
}

/* The object that says how positions are scaled; NULL: there is none. rope_scaling goes first: who
 * follows the advice to add one to a config may find rope_parameters there. */
static const json_t *find_parameters(const config_file *file, const char **key)
{
    *key = "rope_scaling";
    if (is_empty(json_object_get(file->root, *key)))
        *key = "rope_parameters";
    const json_t *parameters = json_object_get(file->root, *key);
    return is_empty(parameters) ? NULL : parameters;
}

/* A member of the parameters, which may also stand beside them. */
static kvp_status read_number(const config_file *file, const config_file *parameters,
                              const char *key, double low, double high, double *out)
{
    kvp_status status = config_optional_number(file, key, low, high, out);
    return status ? status : config_optional_number(parameters, key, low, high, out);
}

/* transformers rotates whole heads of every architecture here, whatever partial_rotary_factor
 * says, unless positions are scaled; a model that was trained otherwise is none of them. */
static kvp_status check_whole(const config_file *file, const config_file *parameters)
{
    double part = 1;
    kvp_status status =
        read_number(file, parameters, "partial_rotary_factor", 0, MAX_FACTOR, &part);
    if (!status && part != 1)
        status = kvp_fail(KVP_E_UNSUPPORTED,
                          "%s: \"partial_rotary_factor\" %g is not supported: heads are rotated "
                          "whole",
                          file->where, part);
    return status;
}

static kvp_status read_dim(const config_file *file, const config_file *parameters,
                           decoder_config *c)
{
    kvp_status status = check_whole(file, parameters);
    c->rope.dim = c->head_dim;
    if (!status)
        status = config_optional_count(file, CONFIG_ROTATED, 1, c->head_dim, &c->rope.dim);
    if (!status && c->rope.dim % 2)
        status = kvp_fail(KVP_E_INVALID,
                          "%s: %u elements of a head would be rotated; it must be an even number",
                          file->where, c->rope.dim);
    return status;
}

/* Positions before the scaling: those of the config, unless it names them. */
static kvp_status read_original(const config_file *file, const config_file *parameters,
                                decoder_config *c)
{
    c->rope.original_n_ctx = c->n_ctx;
    return read_number(parameters, file, "original_max_position_embeddings", 0, MAX_POSITIONS,
                       &c->rope.original_n_ctx);
}

/* max_position_embeddings is the length with the scaling, whatever original length times factor
 * says (transformers warns if they differ, and goes by it). Only where a config has been given a
 * YaRN later, as Qwen2.5's authors advise, it still is the original length, or no original length
 * is given: then transformers takes it for the length before. */
static kvp_status extend_yarn(const config_file *file, decoder_config *c)
{
    if (c->rope.original_n_ctx != c->n_ctx)
        return KVP_OK;
    double n_ctx = c->rope.original_n_ctx * c->rope.factor;
    if (n_ctx > MAX_POSITIONS)
        return kvp_fail(KVP_E_INVALID, "%s: %.0f positions, scaled by %g, are too many",
                        file->where, c->rope.original_n_ctx, c->rope.factor);
    c->n_ctx = n_ctx > c->n_ctx ? (uint32_t)n_ctx : c->n_ctx;
    return KVP_OK;
}

static kvp_status read_llama3(const config_file *parameters, rope_config *r)
{
    kvp_status status =
        config_number(parameters, "low_freq_factor", 0, MAX_FACTOR, &r->low_freq_factor);
    if (!status)
        status = config_number(parameters, "high_freq_factor", 0, MAX_FACTOR, &r->high_freq_factor);
    if (!status && r->high_freq_factor <= r->low_freq_factor)
        status = kvp_fail(KVP_E_INVALID,
                          "%s: \"high_freq_factor\" %g must be above \"low_freq_factor\" %g",
                          parameters->where, r->high_freq_factor, r->low_freq_factor);
    return status;
}

/* mscale and mscale_all_dim (DeepSeek) count only together. */
static kvp_status read_attention_factor(const config_file *parameters, rope_config *r)
{
    double mscale = 0, all_dim = 0;
    kvp_status status = config_optional_number(parameters, "mscale", -1, MAX_FACTOR, &mscale);
    if (!status)
        status = config_optional_number(parameters, "mscale_all_dim", -1, MAX_FACTOR, &all_dim);
    r->attention_factor = rope_attention_factor(r->factor);
    if (mscale > 0 && all_dim > 0)
        r->attention_factor =
            (1 + mscale * (r->attention_factor - 1)) / (1 + all_dim * (r->attention_factor - 1));
    if (!status)
        status = config_optional_number(parameters, "attention_factor", 0, MAX_FACTOR,
                                        &r->attention_factor);
    return status;
}

static kvp_status read_yarn(const config_file *parameters, rope_config *r)
{
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    kvp_status status = read_attention_factor(parameters, r);
    if (!status)
        status = config_optional_number(parameters, "beta_fast", 0, MAX_FACTOR, &r->beta_fast);
    if (!status)
        status = config_optional_number(parameters, "beta_slow", 0, MAX_FACTOR, &r->beta_slow);
    if (!status)
        status = config_optional_flag(parameters, "truncate", &r->truncate);
    if (!status && r->beta_fast < r->beta_slow)
        status = kvp_fail(KVP_E_INVALID, "%s: \"beta_fast\" %g is below \"beta_slow\" %g",
                          parameters->where, r->beta_fast, r->beta_slow);
    return status;
}

static kvp_status find_scaling(const config_file *parameters, rope_scaling *out)
{
    static const struct {
        const char *name;
        rope_scaling scaling;
    } known[] = {{"default", ROPE_UNSCALED},
                 {"none", ROPE_UNSCALED},
                 {"linear", ROPE_LINEAR},
                 {"llama3", ROPE_LLAMA3},
                 {"yarn", ROPE_YARN}};
    const json_t *type = json_object_get(parameters->root, "rope_type");
    if (json_is_unset(type))
        type = json_object_get(parameters->root, "type");
    *out = ROPE_UNSCALED;
    if (json_is_unset(type))
        return KVP_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (json_is_text(type, known[i].name)) {
            *out = known[i].scaling;
            return KVP_OK;
        }
    }
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "%s: scaling %s of rotary positions is not supported; linear, llama3 and yarn "
                    "are",
                    parameters->where,
                    json_is_string(type) ? json_string_value(type) : "(no text)");
}

static kvp_status read_scaling(const config_file *file, const config_file *parameters,
                               decoder_config *c)
{
    rope_config *r = &c->rope;
    kvp_status status = find_scaling(parameters, &r->scaling);
    if (status || r->scaling == ROPE_UNSCALED)
        return status;
    status = read_original(file, parameters, c);
    /* yarn may leave it to what it stretches, and to what. */
    if (r->scaling == ROPE_YARN && json_is_unset(json_object_get(parameters->root, "factor")))
        r->factor = c->n_ctx / r->original_n_ctx;
    else if (!status)
        status = config_number(parameters, "factor", 0, MAX_FACTOR, &r->factor);
    if (!status && r->scaling == ROPE_LLAMA3)
        status = read_llama3(parameters, r);
    if (!status && r->scaling == ROPE_YARN)
        status = read_yarn(parameters, r);
    return status || r->scaling != ROPE_YARN ? status : extend_yarn(file, c);
}

kvp_status rope_config_read(const config_file *file, decoder_config *c)
{
    const char *key;
    char where[FOLDER_PATH_BYTES + 64];
    const json_t *json = find_parameters(file, &key);
    snprintf(where, sizeof where, "%s: \"%s\"", file->where, key);
    if (json && !json_is_object(json))
        return kvp_fail(KVP_E_INVALID, "%s is not an object", where);
    const config_file parameters = {.root = json, .where = where};
    c->rope = (rope_config){.theta = DEFAULT_THETA, .factor = 1};
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)json, name, member)
    {
        if (json_is_object(member))
            return kvp_fail(KVP_E_UNSUPPORTED,
                            "%s: positions that differ by layer are not "
                            "supported",
                            where);
    }
    kvp_status status = read_dim(file, &parameters, c);
    if (!status)
        status = read_number(file, &parameters, "rope_theta", 1, MAX_THETA, &c->rope.theta);
    return status ? status : read_scaling(file, &parameters, c);
}

kvp_status rope_config_stretch(const config_file *file, uint64_t n_ctx, decoder_config *c)
{
    static const char *const names[] = {"none", "linear", "llama3", "yarn"};
    rope_config *r = &c->rope;
    if (!r->dim)
        return kvp_fail(KVP_E_RANGE,
                        "%s: positions are a table of %u; only rotary ones can be stretched",
                        file->where, c->n_ctx);
    if (r->scaling != ROPE_UNSCALED)
        return kvp_fail(KVP_E_RANGE,
                        "%s: the model's %u positions are scaled already (%s); they cannot be "
                        "stretched to %llu besides",
                        file->where, c->n_ctx, names[r->scaling], (unsigned long long)n_ctx);
    r->scaling = ROPE_YARN;
    r->original_n_ctx = c->n_ctx;
    r->factor = (double)n_ctx / c->n_ctx;
    r->attention_factor = rope_attention_factor(r->factor);
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    return KVP_OK;
}
