/* gpt2.c - the forward of GPT-2 (Radford et al. 2019), layer by layer.
 *
 * All tokens of a call pass one layer before any enters the next, in chunks of CHUNK_TOKENS: a
 * layer's weights are read once per chunk while they are warm, each KV page is written once, and
 * the attention of a chunk finds the pages of its layer resident. Only the hidden states [n][d] of
 * the whole call are kept; everything wider lives for one chunk.
 *
 * Invariants:
 *  1. K and V of every token reach every layer; hidden states that no logits depend on are not
 *     computed in the last one.
 *  2. Nothing is allocated in a call that is no larger than an earlier one. */
#include "integration/models/gpt2.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "integration/models/elementwise.h"

#define CHUNK_TOKENS ((size_t)128)

/* d = d_model, c = tokens of a chunk. */
typedef struct workspace {
    float *block; /* all of it */
    size_t bytes;
    size_t n_tokens; /* that it has room for */
    float *hidden;   /* [n_tokens][d] */
    float *norm;     /* [c][d] */
    float *qkv;      /* [c][3 d] */
    float *attended; /* [c][d] */
    float *inner;    /* [c][d_inner] */
    float *delta;    /* [c][d] what a block adds to hidden */
} workspace;

typedef struct gpt2 {
    model base; /* first: model.c knows only this */
    gpt2_config config;
    gpt2_weights weights;
    matmul *mm;
    workspace work;
} gpt2;

/* One call of forward. */
typedef struct pass {
    gpt2 *m;
    kvp_seq *seq;
    const model_forward_args *args;
} pass;

/* ---- workspace ------------------------------------------------------------------------------- */

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Cut `n` floats, rounded up to a cache line, from the block. */
static float *cut(float **at, size_t n)
{
    float *piece = *at;
    *at += (n + 15) & ~(size_t)15;
    return piece;
}

static size_t chunk_floats(const gpt2_config *c)
{
    return (size_t)c->d_model * 6 + c->d_inner;
}

static kvp_status reserve_products(gpt2 *m, size_t chunk)
{
    const gpt2_layer *layer = &m->weights.layers[0]; /* all have the same shapes */
    const matrix *const shapes[] = {&layer->qkv, &layer->attn_out, &layer->mlp_up, &layer->mlp_down,
                                    &m->weights.head};
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !status; i++)
        status = matmul_reserve(m->mm, shapes[i], chunk);
    return status;
}

static kvp_status reserve(gpt2 *m, size_t n_tokens)
{
    workspace *w = &m->work;
    if (n_tokens <= w->n_tokens)
        return KVP_OK;
    size_t d = m->config.d_model, chunk = min_size(n_tokens, CHUNK_TOKENS);
    kvp_status status = reserve_products(m, chunk);
    if (status)
        return status;
    size_t n_floats = n_tokens * d + chunk * chunk_floats(&m->config) + 6 * 16;
    size_t bytes = (n_floats * sizeof(float) + 63) & ~(size_t)63;
    float *block = aligned_alloc(64, bytes);
    if (!block)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of activations for %zu tokens",
                        bytes, n_tokens);
    free(w->block);
    float *at = block;
    *w = (workspace){.block = block,
                     .bytes = bytes,
                     .n_tokens = n_tokens,
                     .hidden = cut(&at, n_tokens * d),
                     .norm = cut(&at, chunk * d),
                     .qkv = cut(&at, chunk * 3 * d),
                     .attended = cut(&at, chunk * d),
                     .inner = cut(&at, chunk * m->config.d_inner),
                     .delta = cut(&at, chunk * d)};
    assert((size_t)(at - block) <= n_floats);
    return KVP_OK;
}

static uint64_t workspace_bytes(const model *base)
{
    const gpt2 *m = (const gpt2 *)base;
    return m->work.bytes + matmul_scratch_bytes(m->mm);
}

/* ---- forward --------------------------------------------------------------------------------- */

static void embed(const pass *p)
{
    const gpt2 *m = p->m;
    size_t d = m->config.d_model, first = (size_t)kvp_seq_length(p->seq);
    for (size_t i = 0; i < p->args->n_tokens; i++) {
        float *row = m->work.hidden + i * d;
        matrix_row(&m->weights.tokens, (size_t)p->args->tokens[i], row);
        add_to(row, m->weights.positions + (first + i) * d, d);
    }
}

/* Append K and V of the chunk's n tokens, out of the fused rows. */
static kvp_status append(const pass *p, uint32_t layer, size_t n)
{
    size_t d = p->m->config.d_model;
    const kvp_rows rows = {.k = p->m->work.qkv + d,
                           .v = p->m->work.qkv + 2 * d,
                           .dtype = KVP_F32,
                           .k_token_stride = 3 * d * sizeof(float),
                           .v_token_stride = 3 * d * sizeof(float)};
    return kvp_seq_append_rows(p->seq, layer, &rows, n);
}

/* Attention of the chunk's tokens [skip, n), which are the lane's last. */
static kvp_status attend(const pass *p, uint32_t layer, size_t skip, size_t n)
{
    const gpt2_config *c = &p->m->config;
    const workspace *w = &p->m->work;
    size_t d = c->d_model;
    float scale = c->scale_by_width ? 1.0f / sqrtf((float)(d / c->n_heads)) : 1.0f;
    if (c->scale_by_layer)
        scale /= (float)(layer + 1);
    const kvp_attend_args args = {.q = w->qkv + skip * 3 * d,
                                  .out = w->attended,
                                  .n_queries = n - skip,
                                  .n_heads = c->n_heads,
                                  .scale = scale,
                                  .q_stride = 3 * d,
                                  .window = p->args->window,
                                  .sinks = p->args->sinks};
    return kvp_attend(p->seq, layer, &args);
}

static kvp_status mlp(const pass *p, const gpt2_layer *layer, float *hidden, size_t n)
{
    const gpt2 *m = p->m;
    const workspace *w = &m->work;
    size_t d = m->config.d_model, inner = m->config.d_inner;
    layer_norm(hidden, n, d, layer->ln_2_weight, layer->ln_2_bias, m->config.epsilon, w->norm);
    kvp_status status = matmul_apply(m->mm, &layer->mlp_up, w->norm, n, w->inner);
    if (status)
        return status;
    gelu_tanh(w->inner, n * inner);
    status = matmul_apply(m->mm, &layer->mlp_down, w->inner, n, w->delta);
    if (!status)
        add_to(hidden, w->delta, n * d);
    return status;
}

/* Layer `index` for the chunk of n tokens at `hidden`; the first `skip` of them only leave K and V.
 */
static kvp_status run_chunk(const pass *p, uint32_t index, float *hidden, size_t skip, size_t n)
{
    const gpt2 *m = p->m;
    const workspace *w = &m->work;
    const gpt2_layer *layer = &m->weights.layers[index];
    size_t d = m->config.d_model;
    layer_norm(hidden, n, d, layer->ln_1_weight, layer->ln_1_bias, m->config.epsilon, w->norm);
    kvp_status status = matmul_apply(m->mm, &layer->qkv, w->norm, n, w->qkv);
    if (!status)
        status = append(p, index, n);
    if (status || skip == n)
        return status;
    status = attend(p, index, skip, n);
    if (!status)
        status = matmul_apply(m->mm, &layer->attn_out, w->attended, n - skip, w->delta);
    if (status)
        return status;
    hidden += skip * d;
    add_to(hidden, w->delta, (n - skip) * d);
    return mlp(p, layer, hidden, n - skip);
}

static kvp_status run_layer(const pass *p, uint32_t index)
{
    const gpt2_config *c = &p->m->config;
    size_t n = p->args->n_tokens;
    size_t unused = index + 1 < c->n_layers ? 0 : n - p->args->n_logits; /* invariant 1 */
    kvp_status status = KVP_OK;
    for (size_t at = 0, chunk; at < n && !status; at += chunk) {
        chunk = min_size(n - at, CHUNK_TOKENS);
        size_t skip = unused > at ? min_size(unused - at, chunk) : 0;
        status = run_chunk(p, index, p->m->work.hidden + at * c->d_model, skip, chunk);
    }
    return status;
}

static kvp_status write_logits(const pass *p)
{
    const gpt2 *m = p->m;
    const model_forward_args *args = p->args;
    size_t d = m->config.d_model, first = args->n_tokens - args->n_logits;
    kvp_status status = KVP_OK;
    for (size_t at = 0, chunk; at < args->n_logits && !status; at += chunk) {
        chunk = min_size(args->n_logits - at, CHUNK_TOKENS);
        layer_norm(m->work.hidden + (first + at) * d, chunk, d, m->weights.ln_f_weight,
                   m->weights.ln_f_bias, m->config.epsilon, m->work.norm);
        status = matmul_apply(m->mm, &m->weights.head, m->work.norm, chunk,
                              args->logits + at * m->config.n_vocab);
    }
    return status;
}

static kvp_status forward(model *base, kvp_seq *seq, const model_forward_args *args)
{
    gpt2 *m = (gpt2 *)base;
    const pass p = {.m = m, .seq = seq, .args = args};
    kvp_status status = reserve(m, args->n_tokens);
    if (status)
        return status;
    embed(&p);
    for (uint32_t layer = 0; layer < m->config.n_layers; layer++) {
        status = run_layer(&p, layer);
        if (status)
            return status;
        if (args->progress && !args->progress(args->progress_opaque, layer + 1, m->config.n_layers))
            return kvp_fail(KVP_E_AGAIN, "stopped after layer %u of %u", layer + 1,
                            m->config.n_layers);
    }
    return write_logits(&p);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void gpt2_close(model *base)
{
    gpt2 *m = (gpt2 *)base;
    matmul_close(m->mm);
    gpt2_weights_fini(&m->weights);
    free(m->work.block);
    free(m);
}

static void fill_info(gpt2 *m)
{
    const gpt2_config *c = &m->config;
    m->base.info = (model_info){.n_layers = c->n_layers,
                                .n_heads = c->n_heads,
                                .n_kv_heads = c->n_heads,
                                .head_dim = c->d_model / c->n_heads,
                                .d_model = c->d_model,
                                .n_ctx = c->n_ctx,
                                .n_vocab = c->n_vocab,
                                .n_ctx_trained = c->n_ctx,
                                .eos_ids = {c->eos_id},
                                .n_eos = c->eos_id >= 0,
                                .weights_bytes = m->weights.block_bytes};
}

static kvp_status gpt2_open(const model_source *source, model **out)
{
    gpt2 *m = calloc(1, sizeof *m);
    if (!m)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a model");
    kvp_status status = gpt2_config_read(&source->config, &m->config);
    if (!status)
        status = matmul_open(source->pool, &m->mm);
    if (!status)
        status = gpt2_weights_load(&m->config, source, &m->weights);
    if (status) {
        gpt2_close(&m->base);
        return status;
    }
    fill_info(m);
    *out = &m->base;
    return KVP_OK;
}

const model_arch gpt2_arch = {.model_type = "gpt2",
                              .class_prefix = "GPT2",
                              .open = gpt2_open,
                              .close = gpt2_close,
                              .forward = forward,
                              .workspace_bytes = workspace_bytes};
