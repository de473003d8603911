/* flat_kv.c - the calls a model makes, over KV that lies in one array. */
#include "tests/support/flat_kv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_PAGE_TOKENS 64u
#define MAX_DIM 256u

struct kvp_pager {
    kvp_geometry geometry;
};

/* [layer][position][head][dim] of K and of V, one growing array per layer. */
typedef struct flat_layer {
    float *k, *v;
    size_t n_tokens, capacity;
} flat_layer;

struct kvp_seq {
    kvp_geometry geometry;
    flat_layer *layers;
};

kvp_config kvp_config_default(void)
{
    return (kvp_config){.size = sizeof(kvp_config), .ram_bytes = KVP_UNLIMITED};
}

kvp_status kvp_pager_open(const kvp_config *cfg, kvp_pager **pager)
{
    if (cfg->geometry.dtype != KVP_F32 || cfg->geometry.layers || cfg->geometry.head_dim > MAX_DIM)
        return kvp_fail(KVP_E_UNSUPPORTED, "flat KV is uniform and float32");
    *pager = calloc(1, sizeof **pager);
    if (!*pager)
        return kvp_fail(KVP_E_NOMEM, "flat KV");
    (*pager)->geometry = cfg->geometry;
    return KVP_OK;
}

void kvp_pager_close(kvp_pager *pager)
{
    free(pager);
}

kvp_status kvp_seq_create(kvp_pager *pager, kvp_seq **seq)
{
    kvp_seq *s = calloc(1, sizeof *s);
    if (s)
        s->layers = calloc(pager->geometry.n_layers, sizeof *s->layers);
    if (!s || !s->layers) {
        free(s);
        return kvp_fail(KVP_E_NOMEM, "flat KV");
    }
    s->geometry = pager->geometry;
    *seq = s;
    return KVP_OK;
}

void kvp_seq_destroy(kvp_seq *seq)
{
    if (!seq)
        return;
    for (uint32_t i = 0; i < seq->geometry.n_layers; i++) {
        free(seq->layers[i].k);
        free(seq->layers[i].v);
    }
    free(seq->layers);
    free(seq);
}

/* Nobody is told of masses, so nobody asks whose pager it is, or how many pages there are. */

kvp_pager *kvp_seq_pager(const kvp_seq *seq)
{
    (void)seq;
    return NULL;
}

bool kvp_pager_wants_mass(const kvp_pager *pager)
{
    (void)pager;
    return false;
}

uint32_t kvp_seq_page_count(const kvp_seq *seq, uint32_t layer)
{
    (void)seq, (void)layer;
    return 0;
}

uint64_t kvp_seq_length(const kvp_seq *seq)
{
    size_t length = seq->layers[0].n_tokens;
    for (uint32_t i = 1; i < seq->geometry.n_layers; i++)
        length = seq->layers[i].n_tokens < length ? seq->layers[i].n_tokens : length;
    return length;
}

uint64_t kvp_seq_layer_length(const kvp_seq *seq, uint32_t layer)
{
    return seq->layers[layer].n_tokens;
}

static size_t page_tokens(const kvp_seq *seq)
{
    return seq->geometry.page_tokens ? seq->geometry.page_tokens : DEFAULT_PAGE_TOKENS;
}

kvp_status kvp_seq_layer_info(const kvp_seq *seq, uint32_t layer, kvp_layer_info *info)
{
    (void)layer;
    const kvp_geometry *g = &seq->geometry;
    *info = (kvp_layer_info){.kind = {.n_kv_heads = g->n_kv_heads,
                                      .k_width = g->head_dim,
                                      .v_width = g->head_dim,
                                      .dtype = g->dtype},
                             .page_tokens = (uint32_t)page_tokens(seq),
                             .page_heads = g->n_kv_heads};
    return KVP_OK;
}

kvp_status kvp_seq_truncate(kvp_seq *seq, uint64_t n_tokens)
{
    for (uint32_t i = 0; i < seq->geometry.n_layers; i++) {
        if (seq->layers[i].n_tokens > n_tokens)
            seq->layers[i].n_tokens = (size_t)n_tokens;
    }
    return KVP_OK;
}

static size_t row_floats(const kvp_seq *seq)
{
    return (size_t)seq->geometry.n_kv_heads * seq->geometry.head_dim;
}

static kvp_status grow(flat_layer *l, size_t need, size_t width)
{
    if (need <= l->capacity)
        return KVP_OK;
    size_t capacity = need * 2;
    float *k = realloc(l->k, capacity * width * sizeof *k);
    if (k)
        l->k = k;
    float *v = realloc(l->v, capacity * width * sizeof *v);
    if (v)
        l->v = v;
    if (!k || !v)
        return kvp_fail(KVP_E_NOMEM, "flat KV");
    l->capacity = capacity;
    return KVP_OK;
}

kvp_status kvp_seq_append_rows(kvp_seq *seq, uint32_t layer, const kvp_rows *rows, size_t n_tokens)
{
    flat_layer *l = &seq->layers[layer];
    size_t width = row_floats(seq), row_bytes = width * sizeof(float);
    size_t k_stride = rows->k_token_stride ? rows->k_token_stride : row_bytes;
    size_t v_stride = rows->v_token_stride ? rows->v_token_stride : row_bytes;
    if (rows->dtype != KVP_F32 || rows->k_head_stride || rows->v_head_stride)
        return kvp_fail(KVP_E_UNSUPPORTED, "flat KV takes dense float32 heads");
    kvp_status status = grow(l, l->n_tokens + n_tokens, width);
    if (status)
        return status;
    for (size_t i = 0; i < n_tokens; i++) {
        size_t at = (l->n_tokens + i) * width;
        memcpy(l->k + at, (const char *)rows->k + i * k_stride, row_bytes);
        memcpy(l->v + at, (const char *)rows->v + i * v_stride, row_bytes);
    }
    l->n_tokens += n_tokens;
    return KVP_OK;
}

/* Does the page of key j hold a position < sinks? */
static bool is_with_sinks(const kvp_seq *seq, const kvp_attend_args *args, size_t j)
{
    return j / page_tokens(seq) * page_tokens(seq) < args->sinks;
}

/* What a query at p may see of key j (kvp_attend_args.window: whole pages). */
static bool is_visible(const kvp_seq *seq, const kvp_attend_args *args, size_t p, size_t j)
{
    if (j > p || !args->window)
        return j <= p;
    size_t last = j / page_tokens(seq) * page_tokens(seq) + page_tokens(seq) - 1;
    return last + args->window > p || is_with_sinks(seq, args, j);
}

static double dot(const float *a, const float *b, size_t n)
{
    double lanes[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (size_t l = 0; l < 4; l++)
            lanes[l] += (double)a[i + l] * (double)b[i + l];
    }
    for (; i < n; i++)
        lanes[0] += (double)a[i] * (double)b[i];
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

/* q_at: where the query head begins in args->q and args->q_sinks. */
static void attend_one(const kvp_seq *seq, uint32_t layer, const kvp_attend_args *args, size_t p,
                       size_t q_at, size_t kv_head, double *scores, float *out)
{
    const flat_layer *l = &seq->layers[layer];
    size_t dim = seq->geometry.head_dim, width = row_floats(seq);
    double highest = -INFINITY, total = 0, sum[MAX_DIM] = {0};
    for (size_t j = 0; j <= p; j++) {
        bool has_own_query = args->q_sinks && is_with_sinks(seq, args, j);
        const float *q = (has_own_query ? args->q_sinks : args->q) + q_at;
        scores[j] = -INFINITY;
        if (is_visible(seq, args, p, j))
            scores[j] = dot(q, l->k + j * width + kv_head * dim, dim) * (double)args->scale;
        highest = scores[j] > highest ? scores[j] : highest;
    }
    for (size_t j = 0; j <= p; j++) {
        const float *v = l->v + j * width + kv_head * dim;
        double weight = exp(scores[j] - highest);
        total += weight;
        for (size_t i = 0; i < dim; i++)
            sum[i] += weight * (double)v[i];
    }
    for (size_t i = 0; i < dim; i++)
        out[i] = (float)(sum[i] / total);
}

kvp_status kvp_attend(kvp_seq *seq, uint32_t layer, const kvp_attend_args *args)
{
    size_t dim = seq->geometry.head_dim, n = seq->layers[layer].n_tokens;
    size_t group = args->n_heads / seq->geometry.n_kv_heads;
    size_t q_stride = args->q_stride ? args->q_stride : args->n_heads * dim;
    size_t out_stride = args->out_stride ? args->out_stride : args->n_heads * dim;
    double *scores = malloc((n + 1) * sizeof *scores);
    if (!scores)
        return kvp_fail(KVP_E_NOMEM, "flat KV");
    for (size_t i = 0; i < args->n_queries; i++) {
        size_t p = args->positions ? (size_t)args->positions[i] : n - args->n_queries + i;
        for (size_t h = 0; h < args->n_heads; h++)
            attend_one(seq, layer, args, p, i * q_stride + h * dim, h / group, scores,
                       args->out + i * out_stride + h * dim);
    }
    free(scores);
    return KVP_OK;
}
