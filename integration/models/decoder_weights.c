/* decoder_weights.c - the tensors of a decoder: one walk over them, done three times.
 *
 * walk() names every tensor once, with its shape and where it goes. The first pass checks the files
 * (so a lying config fails before memory is taken), the second lays the tensors out in one block,
 * the third converts them into it, and lets go of each one's part of the mapping.
 *
 * Matrices that read the same input are one: q, k and v; gate and up. */
#include "integration/models/decoder_weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NAME_BYTES 128
#define ALIGN_BYTES ((size_t)64)
#define LOAD_ROWS ((size_t)48)
#define MAX_LAYER_PARTS 32
#define NO_LAYER UINT32_MAX

/* A tensor of the model: floats, or outputs of a matrix. */
typedef struct weight {
    char name[NAME_BYTES]; /* as in the file */
    uint32_t rank;
    uint64_t shape[2];
    float **floats;      /* the array that it goes to */
    size_t n_floats;     /* of that array */
    matrix *matrix;      /* or this */
    size_t first;        /* where in the array, or in the matrix's outputs */
    bool is_interleaved; /* see model_arch */
} weight;

typedef struct loader loader;
typedef kvp_status (*visitor)(loader *l, const weight *w);

struct loader {
    const weights_source *source;
    const decoder_config *config;
    const tensor_names *names;
    const char *prefix; /* names->prefix, or nothing */
    uint32_t n_layers;  /* to walk over */
    visitor visit;
    unsigned char *block;
    size_t used; /* bytes of the block that are laid out */
    /* Names of a layer's tensors, without what is before and with the layer's number: of the first
     * pass. */
    char layer_parts[MAX_LAYER_PARTS][NAME_BYTES];
    size_t n_layer_parts;
};

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
static const char rope_dividers_name[] = "rope_freqs.weight";

static bool is_gguf(const loader *l)
{
    return weights_gguf(l->source->weights);
}

static bool has_part(const loader *l, tensor_part part)
{
    return l->source->arch->names->parts[part];
}

/* ---- the walk -------------------------------------------------------------------------------- */

static kvp_status visit(loader *l, uint32_t layer, tensor_part part, const char *suffix, weight *w)
{
    const char *name = l->names->parts[part];
    if (layer != NO_LAYER)
        snprintf(w->name, sizeof w->name, "%s%s%u.%s.%s", l->prefix, l->names->layers, layer, name,
                 suffix);
    else
        snprintf(w->name, sizeof w->name, "%s%s.%s", part == PART_HEAD ? "" : l->prefix, name,
                 suffix);
    return l->visit(l, w);
}

/* Elements [first, first + n) of an array of n_floats. */
static kvp_status visit_vector(loader *l, uint32_t layer, tensor_part part, const char *suffix,
                               float **floats, size_t n_floats, size_t first, size_t n)
{
    weight w = {.rank = 1, .shape = {n}, .floats = floats, .n_floats = n_floats, .first = first};
    w.is_interleaved =
        (part == PART_Q || part == PART_K) && is_gguf(l) && l->source->arch->gguf_interleaves;
    return visit(l, layer, part, suffix, &w);
}

static kvp_status visit_norm(loader *l, uint32_t layer, tensor_part part, norm_weights *norm)
{
    size_t d = l->config->d_model;
    kvp_status status = visit_vector(l, layer, part, "weight", &norm->weight, d, 0, d);
    if (!status && l->config->norm == NORM_LAYER)
        status = visit_vector(l, layer, part, "bias", &norm->bias, d, 0, d);
    return status;
}

/* Outputs [first, first + n) of a matrix. */
static kvp_status visit_matrix(loader *l, uint32_t layer, tensor_part part, matrix *m, size_t first,
                               size_t n)
{
    weight w = {.rank = 2, .matrix = m, .first = first};
    w.shape[0] = m->is_out_major ? n : m->n_in;
    w.shape[1] = m->is_out_major ? m->n_in : n;
    w.is_interleaved =
        (part == PART_Q || part == PART_K) && is_gguf(l) && l->source->arch->gguf_interleaves;
    return visit(l, layer, part, "weight", &w);
}

static kvp_status visit_outputs(loader *l, uint32_t layer, tensor_part part, matrix *m,
                                size_t first, size_t n, bool has_bias)
{
    kvp_status status = visit_matrix(l, layer, part, m, first, n);
    if (!status && has_bias)
        status = visit_vector(l, layer, part, "bias", &m->bias, m->n_out, first, n);
    return status;
}

static void shape(const loader *l, matrix *m, size_t n_in, size_t n_out, bool is_out_major)
{
    m->n_in = n_in;
    m->n_out = n_out;
    m->is_out_major = is_out_major;
    m->is_bf16 = l->source->as_bf16;
}

static kvp_status walk_qkv(loader *l, uint32_t index, matrix *m)
{
    const decoder_config *c = l->config;
    size_t q = (size_t)c->n_heads * c->head_dim, kv = (size_t)c->n_kv_heads * c->head_dim;
    shape(l, m, c->d_model, q + 2 * kv, !l->names->is_in_major);
    if (has_part(l, PART_QKV))
        return visit_outputs(l, index, PART_QKV, m, 0, q + 2 * kv, c->bias_qkv);
    kvp_status status = visit_outputs(l, index, PART_Q, m, 0, q, c->bias_qkv);
    if (!status)
        status = visit_outputs(l, index, PART_K, m, q, kv, c->bias_qkv);
    if (!status)
        status = visit_outputs(l, index, PART_V, m, q + kv, kv, c->bias_qkv);
    return status;
}

static kvp_status walk_mlp(loader *l, uint32_t index, decoder_layer *layer)
{
    const decoder_config *c = l->config;
    size_t d = c->d_model, inner = c->d_inner, first = 0;
    kvp_status status = KVP_OK;
    shape(l, &layer->up, d, decoder_up_width(c), !l->names->is_in_major);
    shape(l, &layer->down, inner, d, !l->names->is_in_major);
    if (has_part(l, PART_GATE)) {
        status = visit_outputs(l, index, PART_GATE, &layer->up, 0, inner, c->bias_mlp);
        first = inner;
    }
    if (!status)
        status = visit_outputs(l, index, PART_UP, &layer->up, first, inner, c->bias_mlp);
    if (!status)
        status = visit_outputs(l, index, PART_DOWN, &layer->down, 0, d, c->bias_mlp);
    return status;
}

static kvp_status walk_layer(loader *l, uint32_t index, decoder_layer *layer)
{
    const decoder_config *c = l->config;
    size_t d = c->d_model, attended = (size_t)c->n_heads * c->head_dim;
    kvp_status status = visit_norm(l, index, PART_ATTN_NORM, &layer->attn_norm);
    if (!status)
        status = walk_qkv(l, index, &layer->qkv);
    shape(l, &layer->attn_out, attended, d, !l->names->is_in_major);
    if (!status)
        status = visit_outputs(l, index, PART_ATTN_OUT, &layer->attn_out, 0, d, c->bias_attn_out);
    if (!status)
        status = visit_norm(l, index, PART_MLP_NORM, &layer->mlp_norm);
    return status ? status : walk_mlp(l, index, layer);
}

static kvp_status walk_positions(loader *l, decoder_weights *w)
{
    size_t d = l->config->d_model, rows = l->config->position_offset + l->config->n_ctx;
    weight table = {.rank = 2, .shape = {rows, d}, .floats = &w->positions, .n_floats = rows * d};
    return visit(l, NO_LAYER, PART_POSITIONS, "weight", &table);
}

/* GGUF only, and only where positions are scaled like Llama 3's. */
static kvp_status walk_rope_dividers(loader *l, decoder_weights *w)
{
    size_t n = l->config->rope.dim / 2;
    weight dividers = {.rank = 1, .shape = {n}, .floats = &w->rope_dividers, .n_floats = n};
    if (!n || !is_gguf(l) || !weights_find(l->source->weights, rope_dividers_name))
        return KVP_OK;
    snprintf(dividers.name, sizeof dividers.name, "%s", rope_dividers_name);
    return l->visit(l, &dividers);
}

static kvp_status walk(loader *l, decoder_weights *w, visitor how)
{
    const decoder_config *c = l->config;
    l->visit = how;
    shape(l, &w->tokens, c->d_model, c->n_vocab, true);
    shape(l, &w->head, c->d_model, c->n_vocab, true);
    kvp_status status = visit_matrix(l, NO_LAYER, PART_TOKENS, &w->tokens, 0, c->n_vocab);
    if (!status && has_part(l, PART_POSITIONS))
        status = walk_positions(l, w);
    if (!status)
        status = walk_rope_dividers(l, w);
    for (uint32_t i = 0; i < l->n_layers && !status; i++)
        status = walk_layer(l, i, &w->layers[i]);
    if (!status)
        status = visit_norm(l, NO_LAYER, PART_NORM, &w->norm);
    if (!status && !c->tied)
        status = visit_matrix(l, NO_LAYER, PART_HEAD, &w->head, 0, c->n_vocab);
    if (c->tied)
        w->head.data = w->tokens.data;
    return status;
}

/* ---- first pass: is it there? ---------------------------------------------------------------- */

static const char *config_name(const loader *l)
{
    return is_gguf(l) ? "the metadata" : "config.json";
}

static void print_shape(char *text, size_t n, uint32_t rank, const uint64_t *shape)
{
    size_t used = (size_t)snprintf(text, n, "[");
    for (uint32_t i = 0; i < rank && used < n; i++)
        used += (size_t)snprintf(text + used, n - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)shape[i]);
    if (used < n)
        snprintf(text + used, n - used, "]");
}

/* Where layer tensors begin with a number: after it and its dot. NULL: not such a name. */
static const char *layer_part(const loader *l, const char *name, unsigned long *layer)
{
    const char *layers = l->names->layers;
    if (strncmp(name, l->prefix, strlen(l->prefix)) == 0)
        name += strlen(l->prefix);
    if (strncmp(name, layers, strlen(layers)) != 0)
        return NULL;
    char *end;
    name += strlen(layers);
    *layer = strtoul(name, &end, 10);
    return end > name && *end == '.' ? end + 1 : "";
}

static kvp_status check_weight(loader *l, const weight *w)
{
    const char *path = l->source->path, *part;
    const tensor *t = weights_find(l->source->weights, w->name);
    unsigned long layer;
    if (!t)
        return kvp_fail(KVP_E_INVALID, "%s: tensor \"%s\", which %s calls for, is missing", path,
                        w->name, config_name(l));
    bool is_same = t->rank == w->rank;
    for (uint32_t i = 0; i < w->rank && is_same; i++)
        is_same = t->shape[i] == w->shape[i];
    if (!is_same) {
        char has[192], wants[64];
        print_shape(has, sizeof has, t->rank, t->shape);
        print_shape(wants, sizeof wants, w->rank, w->shape);
        return kvp_fail(KVP_E_INVALID, "%s: tensor \"%s\" has the shape %s; %s calls for %s", path,
                        w->name, has, config_name(l), wants);
    }
    if (!t->is_readable)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: tensor \"%s\" is %s; F32, F16, BF16, and in GGUF Q8_0, Q4_0, Q4_1, "
                        "Q4_K and Q6_K are supported",
                        path, w->name, t->dtype);
    part = layer_part(l, w->name, &layer);
    if (part && layer == 0 && l->n_layer_parts < MAX_LAYER_PARTS)
        snprintf(l->layer_parts[l->n_layer_parts++], NAME_BYTES, "%s", part);
    return KVP_OK;
}

static bool is_layer_part(const loader *l, const char *part)
{
    for (size_t i = 0; i < l->n_layer_parts; i++) {
        if (strcmp(part, l->layer_parts[i]) == 0)
            return true;
    }
    for (const char *const *ignored = l->names->ignored; *ignored; ignored++) {
        if (strcmp(part, *ignored) == 0)
            return true;
    }
    return false;
}

/* What a layer has that this forward would leave out changes the model: an error. In a folder,
 * tensors outside the layers (a tied head, heads of other tasks) do not; a GGUF file has only what
 * its forward needs. */
static kvp_status check_extra(const loader *l, const tensor *t)
{
    unsigned long layer = 0;
    const char *part = layer_part(l, t->name, &layer);
    if (part && !is_layer_part(l, part))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: tensor \"%.100s\" is not part of a layer of %s",
                        l->source->path, t->name, l->source->arch->model_type);
    if (part && layer >= l->config->n_layers)
        return kvp_fail(KVP_E_INVALID, "%s: tensor \"%.100s\" contradicts %s, which has %u layers",
                        l->source->path, t->name, config_name(l), l->config->n_layers);
    if (part || !is_gguf(l))
        return KVP_OK;
    static const char *const known[] = {"token_embd.weight",  "position_embd.weight",
                                        "output_norm.weight", "output_norm.bias",
                                        "output.weight",      rope_dividers_name};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(t->name, known[i]) == 0)
            return KVP_OK;
    }
    return kvp_fail(KVP_E_UNSUPPORTED, "%s: tensor \"%.100s\" is not part of %s", l->source->path,
                    t->name, l->source->arch->model_type);
}

static kvp_status check_files(loader *l, decoder_weights *w)
{
    const weights *files = l->source->weights;
    kvp_status status = walk(l, w, check_weight);
    for (size_t i = 0; i < weights_count(files) && !status; i++)
        status = check_extra(l, weights_at(files, i));
    return status;
}

/* ---- second pass: where ---------------------------------------------------------------------- */

/* With no block yet, this only adds up. Of an array or matrix in parts, the first part takes the
 * room. */
static kvp_status place_weight(loader *l, const weight *w)
{
    if (w->first)
        return KVP_OK;
    size_t bytes = w->matrix ? matrix_bytes(w->matrix) : w->n_floats * sizeof(float);
    if (l->block && w->matrix)
        w->matrix->data = l->block + l->used;
    else if (l->block)
        *w->floats = (float *)(void *)(l->block + l->used);
    l->used += (bytes + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
    return KVP_OK;
}

static kvp_status allocate(loader *l, decoder_weights *w)
{
    kvp_status status = walk(l, w, place_weight);
    w->real_bytes = l->used;
    if (!status && l->source->hollow_layers) {
        l->n_layers = l->source->hollow_layers;
        l->used = 0;
        status = walk(l, w, place_weight);
    }
    if (status)
        return status;
    size_t bytes = l->used;
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of weights: %s", bytes,
                        strerror(errno));
    (void)madvise(block, bytes, MADV_HUGEPAGE); /* a hint: fewer TLB misses while streaming */
    w->block = l->block = block;
    w->block_bytes = bytes;
    l->used = 0;
    return walk(l, w, place_weight);
}

/* ---- third pass: what ------------------------------------------------------------------------ */

/* The row of the file that becomes row i. */
static uint64_t source_row(const loader *l, const weight *w, uint64_t i)
{
    uint64_t dim = l->config->head_dim, half = dim / 2, at = i % dim;
    if (!w->is_interleaved)
        return i;
    return i - at + (at < half ? 2 * at : 2 * (at - half) + 1);
}

static kvp_status load_floats(const loader *l, const weight *w, const tensor *t)
{
    float *to = *w->floats + w->first;
    if (!w->is_interleaved) {
        weights_read_rows(t, 0, w->rank == 1 ? 1 : w->shape[0], to);
        return KVP_OK;
    }
    float *from = malloc(w->shape[0] * sizeof *from);
    if (!from)
        return kvp_fail(KVP_E_NOMEM, "out of memory: loading tensor \"%s\"", w->name);
    weights_read_rows(t, 0, 1, from);
    for (uint64_t i = 0; i < w->shape[0]; i++)
        to[i] = from[source_row(l, w, i)];
    free(from);
    return KVP_OK;
}

/* In portions of LOAD_ROWS: through a buffer that stays in cache. */
static kvp_status load_matrix(const loader *l, const weight *w, const tensor *t)
{
    uint64_t n_rows = w->shape[0];
    size_t width = (size_t)w->shape[1];
    float *rows = malloc(LOAD_ROWS * width * sizeof *rows);
    if (!rows)
        return kvp_fail(KVP_E_NOMEM, "out of memory: loading tensor \"%s\"", w->name);
    for (uint64_t at = 0, n; at < n_rows; at += n) {
        n = n_rows - at < LOAD_ROWS ? n_rows - at : LOAD_ROWS;
        if (!w->is_interleaved)
            weights_read_rows(t, at, n, rows);
        for (uint64_t i = 0; i < n && w->is_interleaved; i++)
            weights_read_rows(t, source_row(l, w, at + i), 1, rows + i * width);
        matrix_put(w->matrix, w->first + (size_t)at, (size_t)n, rows);
    }
    free(rows);
    return KVP_OK;
}

static kvp_status load_weight(loader *l, const weight *w)
{
    const tensor *t = weights_find(l->source->weights, w->name);
    kvp_status status = w->matrix ? load_matrix(l, w, t) : load_floats(l, w, t);
    weights_release(l->source->weights, t);
    return status;
}

/* Numbers of about the size of real ones, so that nothing overflows or becomes denormal. */
static kvp_status fill_weight(loader *l, const weight *w)
{
    (void)l;
    uint32_t state = 1;
    size_t n = w->matrix ? LOAD_ROWS * (size_t)w->shape[1] : (w->first ? 0 : w->n_floats);
    float *numbers = w->matrix ? malloc(n * sizeof *numbers) : *w->floats;
    if (!numbers)
        return kvp_fail(KVP_E_NOMEM, "out of memory: filling tensor \"%s\"", w->name);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        numbers[i] = ((float)(state >> 8) / (float)(1 << 24) - 0.5f) / 16;
    }
    if (!w->matrix)
        return KVP_OK;
    for (uint64_t at = 0; at < w->shape[0]; at += LOAD_ROWS)
        matrix_put(w->matrix, w->first + (size_t)at,
                   w->shape[0] - at < LOAD_ROWS ? (size_t)(w->shape[0] - at) : LOAD_ROWS, numbers);
    free(numbers);
    return KVP_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static const char *prefix_in(const weights_source *source, const tensor_names *names)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.weight", names->parts[PART_TOKENS]);
    return weights_find(source->weights, name) ? "" : names->prefix;
}

kvp_status decoder_weights_load(const weights_source *source, decoder_weights *out)
{
    const decoder_config *c = source->config;
    loader l = {.source = source, .config = c, .n_layers = c->n_layers};
    l.names = is_gguf(&l) ? &gguf_names : source->arch->names;
    l.prefix = prefix_in(source, l.names);
    decoder_weights w = {.layers = calloc(c->n_layers, sizeof *w.layers)};
    if (!w.layers)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %u layers", c->n_layers);
    kvp_status status = check_files(&l, &w);
    if (!status)
        status = allocate(&l, &w);
    if (!status)
        status = walk(&l, &w, source->hollow_layers ? fill_weight : load_weight);
    if (status) {
        decoder_weights_fini(&w);
        return status;
    }
    *out = w;
    return KVP_OK;
}

void decoder_weights_fini(decoder_weights *w)
{
    if (w->block)
        munmap(w->block, w->block_bytes);
    free(w->layers);
    *w = (decoder_weights){0};
}
