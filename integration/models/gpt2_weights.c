/* gpt2_weights.c - the tensors of a GPT-2: one walk over them, done three times.
 *
 * walk() names every tensor once, with its shape and where it goes. The first pass checks the file
 * (so a lying config fails before memory is taken), the second lays the tensors out in one block,
 * the third converts them into it. */
#include "integration/models/gpt2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "integration/models/convert.h"

#define NAME_BYTES 96
#define ALIGN_BYTES ((size_t)64)
#define LOAD_ROWS ((size_t)32)

/* A tensor of the model: a vector or table of floats, or a matrix. */
typedef struct weight {
    char name[NAME_BYTES]; /* as in the file */
    uint32_t rank;
    size_t shape[2];
    float **floats; /* where its address goes: this one */
    matrix *matrix; /* or this */
} weight;

typedef struct loader {
    const gpt2_config *config;
    const safetensors *file;
    const char *prefix; /* "transformer.", or nothing */
    bool as_bf16;       /* matrices */
    unsigned char *block;
    size_t used; /* bytes of the block that are laid out */
} loader;

typedef kvp_status (*visitor)(loader *l, const weight *w);

/* ---- the walk -------------------------------------------------------------------------------- */

/* "<prefix><name>.<suffix>" */
static void set_name(weight *w, const char *prefix, const char *name, const char *suffix)
{
    snprintf(w->name, sizeof w->name, "%s%s.%s", prefix, name, suffix);
}

static kvp_status visit_vector(loader *l, visitor visit, const char *prefix, const char *name,
                               const char *suffix, float **floats, size_t width)
{
    weight w = {.rank = 1, .shape = {width}, .floats = floats};
    set_name(&w, prefix, name, suffix);
    return visit(l, &w);
}

static kvp_status visit_table(loader *l, visitor visit, const char *prefix, const char *name,
                              float **floats, size_t rows, size_t width)
{
    weight w = {.rank = 2, .shape = {rows, width}, .floats = floats};
    set_name(&w, prefix, name, "weight");
    return visit(l, &w);
}

static kvp_status visit_matrix(loader *l, visitor visit, const char *prefix, const char *name,
                               matrix *m, size_t n_in, size_t n_out, bool is_embedding)
{
    m->n_in = n_in;
    m->n_out = n_out;
    m->is_embedding = is_embedding;
    m->is_bf16 = l->as_bf16;
    weight w = {.rank = 2, .matrix = m};
    matrix_shape(m, &w.shape[0], &w.shape[1]);
    set_name(&w, prefix, name, "weight");
    return visit(l, &w);
}

/* Weight and bias of a Conv1D. */
static kvp_status visit_linear(loader *l, visitor visit, const char *prefix, const char *name,
                               matrix *m, float **bias, size_t n_in, size_t n_out)
{
    kvp_status status = visit_matrix(l, visit, prefix, name, m, n_in, n_out, false);
    if (!status)
        status = visit_vector(l, visit, prefix, name, "bias", bias, n_out);
    m->bias = *bias;
    return status;
}

static kvp_status visit_norm(loader *l, visitor visit, const char *prefix, const char *name,
                             float **weight, float **bias)
{
    size_t d = l->config->d_model;
    kvp_status status = visit_vector(l, visit, prefix, name, "weight", weight, d);
    return status ? status : visit_vector(l, visit, prefix, name, "bias", bias, d);
}

static kvp_status walk_layer(loader *l, visitor visit, uint32_t index, gpt2_layer *layer)
{
    char prefix[NAME_BYTES / 2];
    size_t d = l->config->d_model, inner = l->config->d_inner;
    snprintf(prefix, sizeof prefix, "%sh.%u.", l->prefix, index);
    kvp_status status =
        visit_norm(l, visit, prefix, "ln_1", &layer->ln_1_weight, &layer->ln_1_bias);
    if (!status)
        status =
            visit_linear(l, visit, prefix, "attn.c_attn", &layer->qkv, &layer->qkv_bias, d, 3 * d);
    if (!status)
        status = visit_linear(l, visit, prefix, "attn.c_proj", &layer->attn_out,
                              &layer->attn_out_bias, d, d);
    if (!status)
        status = visit_norm(l, visit, prefix, "ln_2", &layer->ln_2_weight, &layer->ln_2_bias);
    if (!status)
        status = visit_linear(l, visit, prefix, "mlp.c_fc", &layer->mlp_up, &layer->mlp_up_bias, d,
                              inner);
    if (!status)
        status = visit_linear(l, visit, prefix, "mlp.c_proj", &layer->mlp_down,
                              &layer->mlp_down_bias, inner, d);
    return status;
}

static kvp_status walk(loader *l, visitor visit, gpt2_weights *w)
{
    const gpt2_config *c = l->config;
    size_t d = c->d_model;
    kvp_status status = visit_matrix(l, visit, l->prefix, "wte", &w->tokens, d, c->n_vocab, true);
    if (!status)
        status = visit_table(l, visit, l->prefix, "wpe", &w->positions, c->n_ctx, d);
    for (uint32_t i = 0; i < c->n_layers && !status; i++)
        status = walk_layer(l, visit, i, &w->layers[i]);
    if (!status)
        status = visit_norm(l, visit, l->prefix, "ln_f", &w->ln_f_weight, &w->ln_f_bias);
    if (!status && !c->tied)
        status = visit_matrix(l, visit, "", "lm_head", &w->head, d, c->n_vocab, true);
    if (!status && c->tied)
        w->head = w->tokens;
    return status;
}

/* ---- first pass: is it there? ---------------------------------------------------------------- */

static void print_shape(char *text, size_t n, uint32_t rank, const uint64_t *shape)
{
    size_t used = (size_t)snprintf(text, n, "[");
    for (uint32_t i = 0; i < rank && used < n; i++)
        used += (size_t)snprintf(text + used, n - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)shape[i]);
    if (used < n)
        snprintf(text + used, n - used, "]");
}

static kvp_status check_weight(loader *l, const weight *w)
{
    const char *path = safetensors_path(l->file);
    const safetensors_tensor *t = safetensors_find(l->file, w->name);
    if (!t)
        return kvp_fail(KVP_E_INVALID, "%s: tensor \"%s\", which config.json calls for, is missing",
                        path, w->name);
    bool same = t->rank == w->rank;
    for (uint32_t i = 0; i < w->rank && same; i++)
        same = t->shape[i] == w->shape[i];
    if (!same) {
        char has[128], wants[64];
        const uint64_t shape[2] = {w->shape[0], w->shape[1]};
        print_shape(has, sizeof has, t->rank, t->shape);
        print_shape(wants, sizeof wants, w->rank, shape);
        return kvp_fail(KVP_E_INVALID,
                        "%s: tensor \"%s\" has the shape %s; config.json calls for %s", path,
                        w->name, has, wants);
    }
    if (!convert_is_float(t->dtype))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: tensor \"%s\" is %s; F32, F16 and BF16 weights are supported", path,
                        w->name, t->dtype);
    return KVP_OK;
}

static bool is_layer_part(const char *part)
{
    static const char *const parts[] = {
        "ln_1.weight",        "ln_1.bias",        "attn.c_attn.weight", "attn.c_attn.bias",
        "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight",        "ln_2.bias",
        "mlp.c_fc.weight",    "mlp.c_fc.bias",    "mlp.c_proj.weight",  "mlp.c_proj.bias",
        "attn.bias",          "attn.masked_bias"}; /* the last two: the causal mask, as buffers */
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(part, parts[i]) == 0)
            return true;
    }
    return false;
}

/* What a layer has that this forward would leave out changes the model: an error. Tensors outside
 * the layers (a tied lm_head, heads of other tasks) do not. */
static kvp_status check_extra(const loader *l, const safetensors_tensor *t)
{
    const char *name = t->name;
    if (strncmp(name, l->prefix, strlen(l->prefix)) == 0)
        name += strlen(l->prefix);
    if (strncmp(name, "h.", 2) != 0)
        return KVP_OK;
    char *part;
    unsigned long layer = strtoul(name + 2, &part, 10);
    if (part == name + 2 || *part != '.' || !is_layer_part(part + 1))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: tensor \"%s\" is not part of a GPT-2 layer",
                        safetensors_path(l->file), t->name);
    if (layer >= l->config->n_layers)
        return kvp_fail(KVP_E_INVALID,
                        "%s: tensor \"%s\" contradicts config.json, whose n_layer is %u",
                        safetensors_path(l->file), t->name, l->config->n_layers);
    return KVP_OK;
}

static kvp_status check_file(loader *l, gpt2_weights *w)
{
    kvp_status status = walk(l, check_weight, w);
    for (size_t i = 0; i < safetensors_count(l->file) && !status; i++)
        status = check_extra(l, safetensors_at(l->file, i));
    return status;
}

/* ---- second and third pass: where, and what -------------------------------------------------- */

static size_t count(const weight *w)
{
    return w->rank == 1 ? w->shape[0] : w->shape[0] * w->shape[1];
}

/* With no block yet, this only adds up. */
static kvp_status place_weight(loader *l, const weight *w)
{
    size_t bytes = w->matrix ? matrix_bytes(w->matrix) : count(w) * sizeof(float);
    if (l->block && w->matrix)
        w->matrix->data = l->block + l->used;
    else if (l->block)
        *w->floats = (float *)(void *)(l->block + l->used);
    l->used += (bytes + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
    return KVP_OK;
}

/* In portions of LOAD_ROWS: through a buffer that stays in cache. */
static kvp_status load_matrix(const safetensors_tensor *t, const unsigned char *from, matrix *m)
{
    size_t n_rows, width, element_bytes = (size_t)((t->end - t->begin) / t->n_elements);
    matrix_shape(m, &n_rows, &width);
    float *rows = malloc(LOAD_ROWS * width * sizeof *rows);
    if (!rows)
        return kvp_fail(KVP_E_NOMEM, "out of memory: loading tensor \"%s\"", t->name);
    for (size_t at = 0, n; at < n_rows; at += n) {
        n = n_rows - at < LOAD_ROWS ? n_rows - at : LOAD_ROWS;
        convert_to_f32(t->dtype, from + at * width * element_bytes, rows, n * width);
        matrix_put(m, at, n, rows);
    }
    free(rows);
    return KVP_OK;
}

static kvp_status load_weight(loader *l, const weight *w)
{
    const safetensors_tensor *t = safetensors_find(l->file, w->name);
    const unsigned char *from = safetensors_data(l->file, t);
    if (w->matrix)
        return load_matrix(t, from, w->matrix);
    convert_to_f32(t->dtype, from, *w->floats, count(w));
    return KVP_OK;
}

static kvp_status allocate(loader *l, gpt2_weights *w)
{
    kvp_status status = walk(l, place_weight, w);
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
    return walk(l, place_weight, w);
}

kvp_status gpt2_weights_load(const gpt2_config *config, const model_source *source,
                             gpt2_weights *out)
{
    loader l = {.config = config,
                .file = source->weights,
                .prefix = safetensors_find(source->weights, "wte.weight") ? "" : "transformer.",
                .as_bf16 = source->options->weights == MODEL_WEIGHTS_BF16};
    gpt2_weights w = {.layers = calloc(config->n_layers, sizeof *w.layers)};
    if (!w.layers)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %u layers", config->n_layers);
    kvp_status status = check_file(&l, &w);
    if (!status)
        status = allocate(&l, &w);
    if (!status)
        status = walk(&l, load_weight, &w);
    if (status) {
        gpt2_weights_fini(&w);
        return status;
    }
    *out = w;
    return KVP_OK;
}

void gpt2_weights_fini(gpt2_weights *w)
{
    if (w->block)
        munmap(w->block, w->block_bytes);
    free(w->layers);
    *w = (gpt2_weights){0};
}
