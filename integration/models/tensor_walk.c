/* tensor_walk.c - every tensor of a decoder, one after the other.
 *
 * The one place that knows which tensors a config calls for. Matrices that read the same input are
 * one: q, k and v; gate and up. */
#include "integration/models/tensor_walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NO_LAYER UINT32_MAX

/* Names in GGUF files, of every architecture. */
static const char *const no_names[] = {NULL};
static const tensor_names gguf_names = {.prefix = "",
                                        .layers = "blk.",
                                        .parts = {[PART_TOKENS] = "token_embd",
                                                  [PART_POSITIONS] = "position_embd",
                                                  [PART_NORM] = "output_norm",
                                                  [PART_HEAD] = "output",
                                                  [PART_ATTN_NORM] = "attn_norm",
                                                  [PART_QKV] = "attn_qkv",
                                                  [PART_Q] = "attn_q",
                                                  [PART_K] = "attn_k",
                                                  [PART_V] = "attn_v",
                                                  [PART_ATTN_OUT] = "attn_output",
                                                  [PART_MLP_NORM] = "ffn_norm",
                                                  [PART_GATE] = "ffn_gate",
                                                  [PART_UP] = "ffn_up",
                                                  [PART_DOWN] = "ffn_down"},
                                        .ignored = no_names};

bool tensor_walk_is_gguf(const tensor_walk *t)
{
    return weights_gguf(t->source->weights);
}

static bool has_part(const tensor_walk *t, tensor_part part)
{
    return t->source->arch->names->parts[part];
}

static bool is_interleaved(const tensor_walk *t, tensor_part part)
{
    return (part == PART_Q || part == PART_K) && tensor_walk_is_gguf(t) &&
           t->source->arch->gguf_interleaves;
}

/* ---- the walk -------------------------------------------------------------------------------- */

static kvp_status visit(const tensor_walk *t, uint32_t layer, tensor_part part, const char *suffix,
                        weight *w)
{
    const char *name = t->names->parts[part];
    if (layer != NO_LAYER)
        snprintf(w->name, sizeof w->name, "%s%s%u.%s.%s", t->prefix, t->names->layers, layer, name,
                 suffix);
    else
        snprintf(w->name, sizeof w->name, "%s%s.%s", part == PART_HEAD ? "" : t->prefix, name,
                 suffix);
    return t->visit(t->opaque, w);
}

/* Elements [first, first + n) of an array of n_floats. */
static kvp_status visit_vector(const tensor_walk *t, uint32_t layer, tensor_part part,
                               const char *suffix, float **floats, size_t n_floats, size_t first,
                               size_t n)
{
    weight w = {.rank = 1, .shape = {n}, .floats = floats, .n_floats = n_floats, .first = first};
    w.is_interleaved = is_interleaved(t, part);
    return visit(t, layer, part, suffix, &w);
}

static kvp_status visit_norm(const tensor_walk *t, uint32_t layer, tensor_part part,
                             norm_weights *norm)
{
    size_t d = t->source->config->d_model;
    kvp_status status = visit_vector(t, layer, part, "weight", &norm->weight, d, 0, d);
    if (!status && t->source->config->norm == NORM_LAYER)
        status = visit_vector(t, layer, part, "bias", &norm->bias, d, 0, d);
    return status;
}

/* Outputs [first, first + n) of a matrix. */
static kvp_status visit_matrix(const tensor_walk *t, uint32_t layer, tensor_part part, matrix *m,
                               size_t first, size_t n)
{
    weight w = {.rank = 2, .matrix = m, .first = first};
    w.shape[0] = m->is_out_major ? n : m->n_in;
    w.shape[1] = m->is_out_major ? m->n_in : n;
    w.is_interleaved = is_interleaved(t, part);
    return visit(t, layer, part, "weight", &w);
}

static kvp_status visit_outputs(const tensor_walk *t, uint32_t layer, tensor_part part, matrix *m,
                                size_t first, size_t n, bool has_bias)
{
    kvp_status status = visit_matrix(t, layer, part, m, first, n);
    if (!status && has_bias)
        status = visit_vector(t, layer, part, "bias", &m->bias, m->n_out, first, n);
    return status;
}

static void shape(const tensor_walk *t, matrix *m, size_t n_in, size_t n_out, bool is_out_major)
{
    m->n_in = n_in;
    m->n_out = n_out;
    m->is_out_major = is_out_major;
    m->dtype = t->source->dtype;
}

static kvp_status walk_qkv(const tensor_walk *t, uint32_t index, matrix *m)
{
    const decoder_config *c = t->source->config;
    size_t q = (size_t)c->n_heads * c->head_dim, kv = (size_t)c->n_kv_heads * c->head_dim;
    shape(t, m, c->d_model, q + 2 * kv, !t->names->is_in_major);
    if (has_part(t, PART_QKV))
        return visit_outputs(t, index, PART_QKV, m, 0, q + 2 * kv, c->bias_qkv);
    kvp_status status = visit_outputs(t, index, PART_Q, m, 0, q, c->bias_qkv);
    if (!status)
        status = visit_outputs(t, index, PART_K, m, q, kv, c->bias_qkv);
    if (!status)
        status = visit_outputs(t, index, PART_V, m, q + kv, kv, c->bias_qkv);
    return status;
}

static kvp_status walk_mlp(const tensor_walk *t, uint32_t index, decoder_layer *layer)
{
    const decoder_config *c = t->source->config;
    size_t d = c->d_model, inner = c->d_inner, first = 0;
    kvp_status status = KVP_OK;
    shape(t, &layer->up, d, decoder_up_width(c), !t->names->is_in_major);
    shape(t, &layer->down, inner, d, !t->names->is_in_major);
    if (has_part(t, PART_GATE)) {
        status = visit_outputs(t, index, PART_GATE, &layer->up, 0, inner, c->bias_mlp);
        first = inner;
    }
    if (!status)
        status = visit_outputs(t, index, PART_UP, &layer->up, first, inner, c->bias_mlp);
    if (!status)
        status = visit_outputs(t, index, PART_DOWN, &layer->down, 0, d, c->bias_mlp);
    return status;
}

static kvp_status walk_layer(const tensor_walk *t, uint32_t index, decoder_layer *layer)
{
    const decoder_config *c = t->source->config;
    size_t d = c->d_model, attended = (size_t)c->n_heads * c->head_dim;
    kvp_status status = visit_norm(t, index, PART_ATTN_NORM, &layer->attn_norm);
    if (!status)
        status = walk_qkv(t, index, &layer->qkv);
    shape(t, &layer->attn_out, attended, d, !t->names->is_in_major);
    if (!status)
        status = visit_outputs(t, index, PART_ATTN_OUT, &layer->attn_out, 0, d, c->bias_attn_out);
    if (!status)
        status = visit_norm(t, index, PART_MLP_NORM, &layer->mlp_norm);
    return status ? status : walk_mlp(t, index, layer);
}

static kvp_status walk_positions(const tensor_walk *t, decoder_weights *w)
{
    size_t d = t->source->config->d_model,
           rows = t->source->config->position_offset + t->source->config->n_ctx;
    weight table = {.rank = 2, .shape = {rows, d}, .floats = &w->positions, .n_floats = rows * d};
    return visit(t, NO_LAYER, PART_POSITIONS, "weight", &table);
}

static kvp_status walk_rope_dividers(const tensor_walk *t, decoder_weights *w)
{
    static const char name[] = TENSOR_ROPE_DIVIDERS;
    size_t n = t->source->config->rope.dim / 2;
    weight dividers = {.rank = 1, .shape = {n}, .floats = &w->rope_dividers, .n_floats = n};
    if (!n || !tensor_walk_is_gguf(t) || !weights_find(t->source->weights, name))
        return KVP_OK;
    snprintf(dividers.name, sizeof dividers.name, "%s", name);
    return t->visit(t->opaque, &dividers);
}

kvp_status tensor_walk_run(const tensor_walk *t, decoder_weights *w)
{
    const decoder_config *c = t->source->config;
    shape(t, &w->tokens, c->d_model, c->n_vocab, true);
    shape(t, &w->head, c->d_model, c->n_vocab, true);
    kvp_status status = visit_matrix(t, NO_LAYER, PART_TOKENS, &w->tokens, 0, c->n_vocab);
    if (!status && has_part(t, PART_POSITIONS))
        status = walk_positions(t, w);
    if (!status)
        status = walk_rope_dividers(t, w);
    for (uint32_t i = 0; i < t->n_layers && !status; i++)
        status = walk_layer(t, i, &w->layers[i]);
    if (!status)
        status = visit_norm(t, NO_LAYER, PART_NORM, &w->norm);
    if (!status && !c->tied)
        status = visit_matrix(t, NO_LAYER, PART_HEAD, &w->head, 0, c->n_vocab);
    if (c->tied)
        w->head.data = w->tokens.data;
    return status;
}

/* ---- names ----------------------------------------------------------------------------------- */

static const tensor *find_outside_layers(const tensor_walk *t, const char *prefix, tensor_part part)
{
    char name[TENSOR_NAME_BYTES];
    snprintf(name, sizeof name, "%s%s.weight", prefix, t->names->parts[part]);
    return weights_find(t->source->weights, name);
}

bool tensor_walk_has_own_head(const tensor_walk *t)
{
    const tensor *tokens = find_outside_layers(t, t->prefix, PART_TOKENS);
    const tensor *head = find_outside_layers(t, "", PART_HEAD);
    return tokens && head && !weights_are_equal(t->source->weights, tokens, head);
}

/* A bare model was saved without the outer modules: "decoder.layers." for "model.decoder.layers.",
 * as in the published files of OPT. */
static const char *find_prefix(const tensor_walk *t)
{
    for (const char *prefix = t->names->prefix;; prefix = strchr(prefix, '.') + 1) {
        if (find_outside_layers(t, prefix, PART_TOKENS))
            return prefix;
        if (!*prefix)
            return t->names->prefix;
    }
}

tensor_walk tensor_walk_of(const weights_source *source)
{
    tensor_walk t = {.source = source, .n_layers = source->config->n_layers};
    t.names = tensor_walk_is_gguf(&t) ? &gguf_names : source->arch->names;
    t.prefix = find_prefix(&t);
    return t;
}

const char *tensor_walk_layer_part(const tensor_walk *t, const char *name, unsigned long *layer)
{
    const char *layers = t->names->layers;
    if (strncmp(name, t->prefix, strlen(t->prefix)) == 0)
        name += strlen(t->prefix);
    if (strncmp(name, layers, strlen(layers)) != 0)
        return NULL;
    char *end;
    name += strlen(layers);
    *layer = strtoul(name, &end, 10);
    return end > name && *end == '.' ? end + 1 : "";
}
