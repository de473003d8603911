/* memory.c - pairs in a lane, and the mixture. */
#include "integration/recall/memory.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "integration/least.h"

#define PAGE_BYTES 65536u

struct memory {
    recall_fit fit;
    uint32_t n_vocab;
    uint64_t cap;
    kvp_pager *pager;
    kvp_seq *seq;
    uint64_t n; /* pairs */
    memory_counts counts;
    /* of the text that is read */
    uint64_t next;
    bool has_pending; /* row next - 1: its token is not known yet */
    float *pending;   /* [width] */
    /* of the last search */
    float *keys;     /* [MEMORY_ROWS][width] */
    kvp_hit *hits;   /* [MEMORY_ROWS][RECALL_K] */
    int32_t *tokens; /* [MEMORY_ROWS][RECALL_K] */
    size_t n_hits[MEMORY_ROWS];
    double *mass; /* [n_vocab], all zero between calls */
};

/* ---- life ------------------------------------------------------------------------------------ */

kvp_config memory_config(const memory_options *options, memory_layers *layers)
{
    const uint32_t width = options->fit->width, row = 2 * width + (uint32_t)sizeof(int32_t);
    const uint32_t rows = PAGE_BYTES / row / 16 * 16;
    *layers = (memory_layers){
        .kind = {.n_kv_heads = 1, .k_width = width, .v_width = sizeof(int32_t), .dtype = KVP_F16},
        .lookup = {.has_opaque_v = true, .has_digests = true}};
    kvp_config cfg = options->base;
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .layers = &layers->kind,
                                  .lookups = &layers->lookup,
                                  .page_tokens = rows ? rows : 16};
    cfg.fingerprint = options->fit->fingerprint;
    return cfg;
}

static kvp_status open_lane(memory *m, const memory_options *options)
{
    memory_layers layers;
    const kvp_config cfg = memory_config(options, &layers);
    kvp_status status = kvp_pager_open(&cfg, &m->pager);
    return status ? status : kvp_seq_create(m->pager, &m->seq);
}

kvp_status memory_open(const memory_options *options, memory **out)
{
    const uint32_t width = options->fit->width;
    memory *m = calloc(1, sizeof *m);
    if (!m)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a memory");
    m->fit = *options->fit;
    m->fit.centre = malloc(width * sizeof *m->fit.centre);
    m->n_vocab = options->n_vocab;
    m->cap = options->cap;
    m->pending = malloc(width * sizeof *m->pending);
    m->keys = malloc(MEMORY_ROWS * width * sizeof *m->keys);
    m->hits = malloc(MEMORY_ROWS * RECALL_K * sizeof *m->hits);
    m->tokens = malloc(MEMORY_ROWS * RECALL_K * sizeof *m->tokens);
    m->mass = calloc(m->n_vocab, sizeof *m->mass);
    kvp_status status = KVP_OK;
    if (m->fit.centre)
        memcpy(m->fit.centre, options->fit->centre, width * sizeof *m->fit.centre);
    if (!m->fit.centre || !m->pending || !m->keys || !m->hits || !m->tokens || !m->mass)
        status = kvp_fail(KVP_E_NOMEM, "out of memory: a memory");
    if (!status)
        status = open_lane(m, options);
    if (status) {
        memory_close(m);
        return status;
    }
    *out = m;
    return KVP_OK;
}

void memory_close(memory *m)
{
    if (!m)
        return;
    kvp_seq_destroy(m->seq);
    kvp_pager_close(m->pager);
    recall_fit_fini(&m->fit);
    free(m->pending);
    free(m->keys);
    free(m->hits);
    free(m->tokens);
    free(m->mass);
    free(m);
}

kvp_pager *memory_pager(memory *m)
{
    return m->pager;
}

memory_counts memory_get_counts(const memory *m)
{
    return m->counts;
}

const recall_fit *memory_get_fit(const memory *m)
{
    return &m->fit;
}

uint64_t memory_size(const memory *m)
{
    return m->n;
}

/* ---- pairs ----------------------------------------------------------------------------------- */

/* Keys of hidden states, into m->keys. */
static void make_keys(memory *m, const float *hidden, size_t n)
{
    const uint32_t width = m->fit.width;
    for (size_t i = 0; i < n; i++) {
        const float *h = hidden + i * width;
        float *key = m->keys + i * width;
        double norm2 = 0;
        for (uint32_t d = 0; d < width; d++) {
            key[d] = h[d] - m->fit.centre[d];
            norm2 += (double)key[d] * key[d];
        }
        float scale = norm2 > 0 ? (float)(1 / sqrt(norm2)) : 0;
        for (uint32_t d = 0; d < width; d++)
            key[d] *= scale;
    }
}

kvp_status memory_add(memory *m, const float *hidden, const int32_t *tokens, size_t n)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0, part; i < n && !status; i += part) {
        part = least(n - i, MEMORY_ROWS);
        make_keys(m, hidden + i * m->fit.width, part);
        const kvp_rows rows = {.k = m->keys, .v = tokens + i, .dtype = KVP_F32};
        status = kvp_seq_append_rows(m->seq, 0, &rows, part);
        m->n += status ? 0 : part;
    }
    return status;
}

kvp_status memory_find(memory *m, const float *hidden, size_t n, const uint64_t *begins,
                       const uint64_t *ends)
{
    kvp_search_counts counts;
    assert(n <= MEMORY_ROWS);
    make_keys(m, hidden, n);
    const kvp_search_args args = {.queries = m->keys,
                                  .n_queries = n,
                                  .k = RECALL_K,
                                  .begins = begins,
                                  .ends = ends,
                                  .hits = m->hits,
                                  .n_hits = m->n_hits,
                                  .values = m->tokens,
                                  .counts = &counts};
    kvp_status status = kvp_search(m->seq, 0, 0, &args);
    if (status)
        return status;
    m->counts.searches += n;
    m->counts.pages += counts.pages;
    m->counts.pages_skipped += counts.pages_skipped;
    return KVP_OK;
}

/* ---- what they say --------------------------------------------------------------------------- */

bool memory_best(const memory *m, size_t row, float *best)
{
    if (m->n_hits[row])
        *best = m->hits[row * RECALL_K].score;
    return m->n_hits[row] > 0;
}

/* Of hit i, relative to that of the best. */
static double weight(const kvp_hit *hits, size_t i, double theta)
{
    return exp(theta * ((double)hits[i].score - hits[0].score));
}

double memory_probability(const memory *m, size_t row, double theta, int32_t token)
{
    const kvp_hit *hits = m->hits + row * RECALL_K;
    const int32_t *tokens = m->tokens + row * RECALL_K;
    double all = 0, own = 0;
    for (size_t i = 0; i < m->n_hits[row]; i++) {
        double w = weight(hits, i, theta);
        all += w;
        own += tokens[i] == token ? w : 0;
    }
    return all > 0 ? own / all : 0;
}

/* log sum exp of the logits. */
static double log_total(const float *logits, size_t n)
{
    double top = logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - top);
    return top + log(sum);
}

/* What the memory gives to each token that it knows of, into m->mass; returns the sum. */
static double spread_mass(memory *m, size_t row)
{
    const kvp_hit *hits = m->hits + row * RECALL_K;
    const int32_t *tokens = m->tokens + row * RECALL_K;
    double all = 0;
    for (size_t i = 0; i < m->n_hits[row]; i++) {
        double w = weight(hits, i, m->fit.theta);
        m->mass[tokens[i]] += w;
        all += w;
    }
    return all;
}

void memory_mix(memory *m, size_t row, float *logits)
{
    float best;
    if (!memory_best(m, row, &best))
        return;
    const double lambda = m->fit.lambda[recall_bucket(&m->fit, best)];
    if (lambda == 0)
        return;
    const double all = spread_mass(m, row), total = log_total(logits, m->n_vocab);
    for (size_t w = 0; w < m->n_vocab; w++) {
        double model = logits[w] - total; /* log p */
        double mixed = log1p(-lambda) + model;
        if (m->mass[w] > 0)
            mixed = log((1 - lambda) * exp(model) + lambda * m->mass[w] / all);
        logits[w] = (float)mixed;
        m->mass[w] = 0;
    }
}

/* ---- as a text is read ----------------------------------------------------------------------- */

uint64_t memory_next(const memory *m)
{
    return m->next;
}

/* Pairs of the pending row and of all rows but the last, which is pending from now on. */
static kvp_status add_rows(memory *m, const memory_rows *r)
{
    const uint32_t width = m->fit.width;
    kvp_status status = KVP_OK;
    if (m->has_pending && r->first == m->next)
        status = memory_add(m, m->pending, r->text, 1);
    if (!status)
        status = memory_add(m, r->hidden, r->text + 1, r->n - 1);
    memcpy(m->pending, r->hidden + (r->n - 1) * width, width * sizeof *m->pending);
    m->has_pending = true;
    m->next = r->first + r->n;
    return status;
}

static kvp_status mix_rows(memory *m, const memory_rows *r)
{
    const uint64_t before = m->n - (r->n - 1); /* pairs that row 0 sees */
    kvp_status status = KVP_OK;
    for (size_t i = 0, n; i < r->n && !status; i += n) {
        uint64_t begins[MEMORY_ROWS], ends[MEMORY_ROWS];
        n = least(r->n - i, MEMORY_ROWS);
        for (size_t j = 0; j < n; j++) {
            ends[j] = before + i + j;
            begins[j] = m->cap && ends[j] > m->cap ? ends[j] - m->cap : 0;
        }
        status = memory_find(m, r->hidden + i * m->fit.width, n, begins, ends);
        for (size_t j = 0; j < n && !status; j++)
            memory_mix(m, j, r->logits + (i + j) * m->n_vocab);
    }
    return status;
}

kvp_status memory_read(memory *m, const memory_rows *rows)
{
    if (!rows->n)
        return KVP_OK;
    assert(rows->first >= m->next);
    kvp_status status = add_rows(m, rows);
    if (!status && rows->logits)
        status = mix_rows(m, rows);
    if (!status && m->cap && m->n > m->cap)
        status = kvp_seq_evict(m->seq, 0, 0, m->n - m->cap);
    return status;
}
