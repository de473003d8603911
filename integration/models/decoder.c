/* decoder.c - the forward of a decoder-only transformer, layer by layer.
 *
 * All tokens of a call pass one layer before any enters the next, in chunks of CHUNK_TOKENS: a
 * layer's weights are read once per chunk while they are warm, each KV page is written once, and
 * the attention of a chunk finds the pages of its layer resident. Only the hidden states [n][d] of
 * the whole call are kept; everything wider lives for one chunk.
 *
 * The tokens of a batch lie one sequence after the other. Matrix products do not know which
 * sequence a row belongs to; a chunk's *spans* say so to everything else.
 *
 * Invariants:
 *  1. K and V of every token reach every layer; hidden states that nobody asks for are not computed
 *     in the last one. Those that are move to the front, item by item: kept_tokens() rows of each,
 *     the last of which logits are made of.
 *  2. Nothing is allocated in a call that is no larger than an earlier one.
 *  3. Rows do not depend on the number of threads. */
#include "integration/models/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "integration/least.h"
#include "integration/models/elementwise.h"
#include "integration/models/masses.h"
#include "integration/models/matmul.h"
#include "integration/models/rows.h"
#include "integration/models/workspace.h"

struct decoder {
    decoder_config config;
    decoder_weights weights;
    rope rope;
    matmul *mm;
    kvp_pool *pool;
    model_isa isa;
    uint32_t n_layers; /* of weights: fewer than the config's, if hollow */
    workspace work;
    masses masses;
};

/* One call of forward. */
typedef struct pass {
    decoder *m;
    const model_item *items;
    size_t n_items;
    size_t n_tokens; /* of all items */
    bool shifts;     /* an item does */
} pass;

/* Neighbouring tokens of one sequence in a chunk. */
typedef struct span {
    const model_item *item;
    size_t row, n;     /* rows of the chunk */
    size_t skip;       /* of these, so many are not computed any further than K and V */
    uint64_t position; /* of the first */
} span;

typedef struct chunk {
    size_t n;      /* rows */
    size_t n_kept; /* without those that spans skip */
    size_t n_spans;
    span spans[CHUNK_TOKENS];
} chunk;

/* ---- workspace ------------------------------------------------------------------------------- */

static kvp_status reserve(const pass *p)
{
    decoder *m = p->m;
    size_t rows = least(p->n_tokens, CHUNK_TOKENS);
    const decoder_layer *layer = &m->weights.layers[0]; /* all have the same shapes */
    const matrix *const shapes[] = {&layer->qkv, &layer->attn_out, &layer->up, &layer->down,
                                    &m->weights.head};
    kvp_status status = workspace_reserve(&m->work, &m->config, p->n_tokens, p->shifts);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !status; i++)
        status = matmul_reserve(m->mm, shapes[i], rows);
    return status;
}

uint64_t decoder_workspace_bytes(const decoder *m)
{
    return m->work.bytes + matmul_scratch_bytes(m->mm);
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static void embed(const pass *p)
{
    const decoder *m = p->m;
    size_t d = m->config.d_model;
    float *row = m->work.hidden;
    for (size_t k = 0; k < p->n_items; k++) {
        const model_forward_args *args = &p->items[k].args;
        size_t first = (size_t)kvp_seq_length(p->items[k].seq) + m->config.position_offset;
        for (size_t i = 0; i < args->n_tokens; i++, row += d) {
            matrix_output(&m->weights.tokens, (size_t)args->tokens[i], row);
            if (m->weights.positions)
                add_to(row, m->weights.positions + (first + i) * d, d);
        }
    }
}

/* Tokens of an item whose hidden states are computed to the end: its last ones. */
static size_t kept_tokens(const model_forward_args *args)
{
    return args->n_logits > args->n_hidden ? args->n_logits : args->n_hidden;
}

/* The next chunk of `layer`, from token `*at` of item `*item` on; both move on. */
static void next_chunk(const pass *p, uint32_t layer, size_t *item, size_t *at, chunk *c)
{
    bool is_last = layer + 1 == p->m->n_layers;
    c->n = c->n_kept = c->n_spans = 0;
    while (*item < p->n_items && c->n < CHUNK_TOKENS) {
        const model_item *i = &p->items[*item];
        size_t n = least(CHUNK_TOKENS - c->n, i->args.n_tokens - *at);
        size_t unused = is_last ? i->args.n_tokens - kept_tokens(&i->args) : 0; /* invariant 1 */
        size_t skip = unused > *at ? least(unused - *at, n) : 0;
        c->spans[c->n_spans++] = (span){.item = i,
                                        .row = c->n,
                                        .n = n,
                                        .skip = skip,
                                        .position = kvp_seq_layer_length(i->seq, layer)};
        c->n += n;
        c->n_kept += n - skip;
        *at += n;
        if (*at == i->args.n_tokens) {
            ++*item;
            *at = 0;
        }
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* How far a query at `position` is moved back for pages of sinks: by what lies between their last
 * page and the first page of the window (kvp_attend_args.window: pages are attended whole). */
static uint64_t gap_of(const model_forward_args *args, uint64_t position, uint64_t page_tokens)
{
    uint64_t sinks_end = (args->sinks + page_tokens - 1) / page_tokens * page_tokens;
    if (position < args->window)
        return 0;
    uint64_t first = (position - args->window + 1) / page_tokens * page_tokens;
    return first > sinks_end ? first - sinks_end : 0;
}

static kvp_status sinks_positions(const chunk *c, uint32_t layer, uint64_t *positions)
{
    for (size_t k = 0; k < c->n_spans; k++) {
        const span *s = &c->spans[k];
        kvp_layer_info info;
        kvp_status status = kvp_seq_layer_info(s->item->seq, layer, &info);
        if (status)
            return status;
        for (size_t i = 0; i < s->n; i++) {
            uint64_t p = s->position + i;
            positions[s->row + i] =
                p - (s->item->args.shift ? gap_of(&s->item->args, p, info.page_tokens) : 0);
        }
    }
    return KVP_OK;
}

/* Rotate q and k of the chunk. */
static kvp_status apply_rope(const pass *p, const chunk *c, uint32_t layer)
{
    decoder *m = p->m;
    const workspace *w = &m->work;
    const decoder_config *config = &m->config;
    size_t width = decoder_qkv_width(config);
    uint64_t positions[CHUNK_TOKENS];
    if (p->shifts) {
        kvp_status status = sinks_positions(c, layer, positions);
        if (status)
            return status;
        for (size_t i = 0; i < c->n; i++)
            memcpy(w->q_sinks + i * width, w->qkv + i * width,
                   decoder_attended_width(config) * sizeof(float));
        rope_angles(&m->rope, positions, c->n, w->sinks_angles);
        rows_rotate(m->pool, config, w->sinks_angles, config->n_heads, c->n, w->q_sinks);
    }
    for (size_t k = 0; k < c->n_spans; k++) {
        for (size_t i = 0; i < c->spans[k].n; i++)
            positions[c->spans[k].row + i] = c->spans[k].position + i;
    }
    rope_angles(&m->rope, positions, c->n, w->angles);
    rows_rotate(m->pool, config, w->angles, config->n_heads + config->n_kv_heads, c->n, w->qkv);
    return KVP_OK;
}

/* Append K and V of the chunk's tokens, out of the fused rows. */
static kvp_status append(const pass *p, const chunk *c, uint32_t layer)
{
    const decoder_config *config = &p->m->config;
    size_t width = decoder_qkv_width(config), q_width = decoder_attended_width(config);
    size_t kv_width = (size_t)config->n_kv_heads * config->head_dim;
    kvp_status status = KVP_OK;
    for (size_t k = 0; k < c->n_spans && !status; k++) {
        const span *s = &c->spans[k];
        const float *keys = p->m->work.qkv + s->row * width + q_width;
        const kvp_rows rows = {.k = keys,
                               .v = keys + kv_width,
                               .dtype = KVP_F32,
                               .k_token_stride = width * sizeof(float),
                               .v_token_stride = width * sizeof(float)};
        status = kvp_seq_append_rows(s->item->seq, layer, &rows, s->n);
    }
    return status;
}

/* Attention of the tokens that are kept, to rows side by side. */
static kvp_status attend(const pass *p, const chunk *c, uint32_t layer)
{
    const decoder_config *config = &p->m->config;
    const workspace *w = &p->m->work;
    size_t width = decoder_qkv_width(config), q_width = decoder_attended_width(config);
    float scale = config->scale_by_layer ? config->scale / (float)(layer + 1) : config->scale;
    float *out = w->attended;
    kvp_status status = KVP_OK;
    for (size_t k = 0; k < c->n_spans && !status; k++) {
        const span *s = &c->spans[k];
        const model_forward_args *from = &s->item->args;
        size_t row = s->row + s->skip, n = s->n - s->skip;
        float *page_mass = NULL;
        if (s->n == 1) /* of a prompt's tokens nobody wants to know */
            status =
                masses_reserve(&p->m->masses, s->item->seq, layer, config->n_heads, &page_mass);
        const kvp_attend_args args = {.q = w->qkv + row * width,
                                      .out = out,
                                      .n_queries = n,
                                      .n_heads = config->n_heads,
                                      .scale = scale,
                                      .role = s->n > 1 ? KVP_PREFILL : KVP_DECODE,
                                      .q_stride = width,
                                      .window = from->window,
                                      .sinks = from->sinks,
                                      .q_sinks = from->shift ? w->q_sinks + row * width : NULL,
                                      .page_mass = page_mass};
        if (n && !status)
            status = kvp_attend(s->item->seq, layer, &args);
        out += n * q_width;
    }
    return status;
}

/* ---- layers ---------------------------------------------------------------------------------- */

static kvp_status mlp(const pass *p, const decoder_layer *layer, float *hidden, size_t n)
{
    decoder *m = p->m;
    const workspace *w = &m->work;
    rows_normalise(m->pool, &m->config, &layer->mlp_norm, hidden, n, w->norm);
    kvp_status status = matmul_apply(p->m->mm, &layer->up, w->norm, n, w->up);
    if (status)
        return status;
    const float *inner = rows_activate(m->pool, m->isa, &m->config, w->up, w->gated, n);
    status = matmul_apply(p->m->mm, &layer->down, inner, n, w->delta);
    if (!status)
        rows_add(m->pool, w->delta, n, m->config.d_model, hidden);
    return status;
}

/* Move the rows that are kept to `to`, which does not lie behind any of them. */
static void keep_rows(const chunk *c, size_t d, const float *hidden, float *to)
{
    for (size_t k = 0; k < c->n_spans; k++) {
        const span *s = &c->spans[k];
        size_t n = (s->n - s->skip) * d;
        memmove(to, hidden + (s->row + s->skip) * d, n * sizeof *to);
        to += n;
    }
}

/* Layer `index` for the chunk at `hidden`; rows that are kept go to `to`. */
static kvp_status run_chunk(const pass *p, const chunk *c, uint32_t index, float *hidden, float *to)
{
    decoder *m = p->m;
    const workspace *w = &m->work;
    const decoder_layer *layer = &m->weights.layers[index];
    rows_normalise(m->pool, &m->config, &layer->attn_norm, hidden, c->n, w->norm);
    kvp_status status = matmul_apply(p->m->mm, &layer->qkv, w->norm, c->n, w->qkv);
    if (!status && m->config.rope.dim)
        status = apply_rope(p, c, index);
    if (!status)
        status = append(p, c, index);
    if (status || !c->n_kept)
        return status;
    status = attend(p, c, index);
    if (!status)
        status = matmul_apply(p->m->mm, &layer->attn_out, w->attended, c->n_kept, w->delta);
    if (status)
        return status;
    keep_rows(c, m->config.d_model, hidden, to);
    rows_add(m->pool, w->delta, c->n_kept, m->config.d_model, to);
    return mlp(p, layer, to, c->n_kept);
}

static kvp_status run_layer(const pass *p, uint32_t index)
{
    size_t d = p->m->config.d_model, item = 0, at = 0;
    float *hidden = p->m->work.hidden, *to = hidden;
    kvp_status status = KVP_OK;
    chunk c;
    while (item < p->n_items && !status) {
        next_chunk(p, index, &item, &at, &c);
        status = run_chunk(p, &c, index, hidden, to);
        hidden += c.n * d;
        to += c.n_kept * d;
    }
    return status;
}

/* ---- logits ---------------------------------------------------------------------------------- */

/* One product for rows whose logits lie side by side in memory. */
static kvp_status write_rows(const pass *p, size_t row, size_t n, float *logits)
{
    decoder *m = p->m;
    size_t d = m->config.d_model;
    kvp_status status = KVP_OK;
    for (size_t at = 0, rows; at < n && !status; at += rows) {
        rows = least(n - at, CHUNK_TOKENS);
        rows_normalise(m->pool, &m->config, &m->weights.norm, m->work.hidden + (row + at) * d, rows,
                       m->work.norm);
        status = matmul_apply(p->m->mm, &m->weights.head, m->work.norm, rows,
                              logits + at * m->config.n_vocab);
    }
    return status;
}

static kvp_status write_logits(const pass *p)
{
    size_t n_vocab = p->m->config.n_vocab, row = 0, n = 0;
    float *logits = NULL;
    kvp_status status = KVP_OK;
    for (size_t k = 0; k < p->n_items && !status; k++) {
        const model_forward_args *args = &p->items[k].args;
        size_t kept = kept_tokens(args);
        if (!kept)
            continue;
        if (n && (args->logits != logits + n * n_vocab || kept != args->n_logits)) {
            status = write_rows(p, row - n, n, logits);
            n = 0;
        }
        logits = n ? logits : args->logits;
        n += args->n_logits;
        row += kept;
    }
    return status || !n ? status : write_rows(p, row - n, n, logits);
}

static void write_hidden(const pass *p)
{
    const decoder *m = p->m;
    const size_t d = m->config.d_model;
    const float *row = m->work.hidden;
    for (size_t k = 0; k < p->n_items; k++) {
        const model_forward_args *args = &p->items[k].args;
        row += kept_tokens(args) * d;
        if (args->n_hidden)
            rows_normalise(m->pool, &m->config, &m->weights.norm, row - args->n_hidden * d,
                           args->n_hidden, args->hidden);
    }
}

kvp_status decoder_forward(decoder *m, const model_item *items, size_t n_items)
{
    const model_forward_args *first = &items[0].args;
    pass p = {.m = m, .items = items, .n_items = n_items};
    for (size_t i = 0; i < n_items; i++) {
        p.n_tokens += items[i].args.n_tokens;
        p.shifts = p.shifts || items[i].args.shift;
    }
    kvp_status status = reserve(&p);
    if (status)
        return status;
    embed(&p);
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        status = run_layer(&p, layer);
        if (status)
            return status;
        if (first->progress && !first->progress(first->progress_opaque, layer + 1, m->n_layers))
            return kvp_fail(KVP_E_AGAIN, "stopped after layer %u of %u", layer + 1, m->n_layers);
    }
    write_hidden(&p);
    return write_logits(&p);
}

/* ---- life ------------------------------------------------------------------------------------ */

kvp_status decoder_open(const weights_source *source, kvp_pool *pool, decoder **out)
{
    decoder *m = calloc(1, sizeof *m);
    if (!m)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a model");
    m->config = *source->config;
    m->pool = pool;
    m->n_layers = source->hollow_layers ? source->hollow_layers : source->config->n_layers;
    kvp_status status = model_isa_find(&m->isa);
    if (!status)
        status = matmul_open(pool, m->isa, &m->mm);
    if (!status)
        status = decoder_weights_load(source, pool, &m->weights);
    if (!status && m->config.rope.dim)
        status = rope_init(&m->config.rope, m->weights.rope_dividers, &m->rope);
    if (status) {
        decoder_close(m);
        return status;
    }
    *out = m;
    return KVP_OK;
}

void decoder_close(decoder *m)
{
    if (!m)
        return;
    matmul_close(m->mm);
    rope_fini(&m->rope);
    decoder_weights_fini(&m->weights);
    masses_fini(&m->masses);
    workspace_fini(&m->work);
    free(m);
}

const decoder_weights *decoder_get_weights(const decoder *m)
{
    return &m->weights;
}
