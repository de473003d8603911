/* search.c - kvp_search(): the best k keys of a lane for each query.
 *
 * Invariants
 * 1. Which keys are hits follows from their scores and positions alone (search_hits.c), so threads
 *    may take pages in any order, and pages without a hit may be left out.
 * 2. A page is left out for a query only if its bound is below the score of that query's k-th hit
 *    so far, which only rises.
 * 3. Which pages are read depends on scores alone, never on timing: they are scanned in waves, in
 *    order of decreasing bounds, and what a wave leaves out is settled by the waves before it.
 *
 * The first wave makes the k-th hits good, each further one is twice as large: so few waves are
 * needed where bounds exclude nothing, and where they do, no wave reads much for nothing. */
#include "attention/search.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_QUERIES 256u /* that share a scan */
#define TILE_QUERIES 16u   /* that are scored at a time */
#define FIRST_WAVE 32u     /* pages, at least */
#define BOUND_PAGES 32u    /* whose bounds are one task */
#define MESSAGE_BYTES 512

typedef struct query {
    const float *q;
    uint64_t begin, end; /* positions that it sees */
    double norm;
    float inverse_norm;
    kvpi_hits hits;
} query;

/* A page, and how good it may be. */
typedef struct candidate {
    float bound; /* of all queries, relative to their norms */
    uint32_t page;
} candidate;

typedef struct search {
    const kvp_search_args *args;
    kvp_seq *seq;
    kvp_pager *pager;
    uint32_t layer, head;
    kvp_layer_info info;
    const kvpi_scorers *scorers;
    size_t value_bytes;
    uint32_t n_pages; /* of the lane */
    kvp_search_counts counts;
    /* of the batch of queries at hand */
    query *queries; /* [n] */
    size_t n;
    uint64_t begin, end; /* that any of them sees */
    kvp_scan *scan;
    /* with digests */
    kvp_digest *digests;   /* [n_pages] */
    float *bounds;         /* [n_pages][BATCH_QUERIES] */
    candidate *candidates; /* [n_pages], best first; n_candidates: those that are visible */
    uint64_t *skip;        /* a bit per page */
    size_t n_candidates, n_words;

    pthread_mutex_t lock; /* hits, but for `least`; and the failure */
    kvp_status status;    /* the first failure */
    char message[MESSAGE_BYTES];
    atomic_bool has_failed;
} search;

/* ---- a page ---------------------------------------------------------------------------------- */

/* Keys [first, first + n) of a page, as one query scores them. */
typedef struct scored {
    const kvp_page_view *page;
    const char *values; /* V of the page's rows */
    uint32_t first, n;
} scored;

/* Rows of the page that lie before the position. */
static uint32_t rows_before(const kvp_page_view *page, uint64_t position)
{
    uint64_t n = position > page->first_position ? position - page->first_position : 0;
    return n < page->n_valid ? (uint32_t)n : page->n_valid;
}

/* Where the query's score of a page may be a hit. */
static bool is_wanted(const search *s, size_t i, uint32_t page)
{
    const query *q = &s->queries[i];
    return !s->bounds || !(s->bounds[(size_t)page * BATCH_QUERIES + i] < q->hits.least);
}

/* Also NaN, of infinities that cancel, becomes a number that can be ranked. */
static float clamp(float score)
{
    return score > FLT_MAX ? FLT_MAX : score > -FLT_MAX ? score : -FLT_MAX;
}

static void offer(search *s, query *q, const scored *keys, const float *scores)
{
    uint32_t found[KVPI_SCORE_KEYS], n_found = 0;
    const uint32_t begin = rows_before(keys->page, q->begin), end = rows_before(keys->page, q->end);
    const float least = q->hits.least;
    for (uint32_t j = begin > keys->first ? begin - keys->first : 0;
         j < keys->n && keys->first + j < end; j++)
        if (!(scores[j] < least))
            found[n_found++] = j;
    if (!n_found)
        return;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < n_found; i++) {
        uint32_t row = keys->first + found[i];
        kvpi_hits_offer(&q->hits, keys->page->first_position + row, scores[found[i]],
                        keys->values + row * s->value_bytes);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Products into similarities. */
static void finish_scores(const search *s, const query *q, uint32_t n, const float *squares,
                          float *scores)
{
    for (uint32_t j = 0; j < n; j++) {
        if (s->args->similarity == KVP_COSINE)
            scores[j] = squares[j] > 0 ? scores[j] * q->inverse_norm / sqrtf(squares[j]) : 0;
        scores[j] = clamp(scores[j]);
    }
}

static void score_block(search *s, const scored *keys, const kvpi_score_keys *rows)
{
    float scores[TILE_QUERIES][KVPI_SCORE_KEYS], squares[KVPI_SCORE_KEYS];
    const kvp_dtype dtype = keys->page->dtype;
    kvpi_score_keys fresh = *rows;
    if (s->args->similarity == KVP_COSINE)
        s->scorers->square[dtype](rows, squares);
    for (size_t i = 0; i < s->n;) {
        const float *tile[TILE_QUERIES];
        size_t which[TILE_QUERIES], n = 0;
        for (; i < s->n && n < TILE_QUERIES; i++) {
            if (!is_wanted(s, i, keys->page->index))
                continue;
            which[n] = i;
            tile[n++] = s->queries[i].q;
        }
        if (n)
            s->scorers->score[dtype](&fresh, tile, n, scores[0]);
        fresh.next = NULL; /* is on its way */
        for (size_t t = 0; t < n; t++) {
            query *q = &s->queries[which[t]];
            finish_scores(s, q, keys->n, squares, scores[t]);
            offer(s, q, keys, scores[t]);
        }
    }
}

static void score_page(search *s, const kvp_page_view *page)
{
    const uint32_t plane = s->head - page->first_head, n = rows_before(page, s->end);
    const size_t row_bytes = page->k_width * kvp_dtype_bytes(page->dtype);
    const char *k = kvp_page_k(page, plane);
    scored keys = {.page = page, .values = kvp_page_v(page, plane)};
    for (; keys.first < n; keys.first += keys.n) {
        keys.n = n - keys.first < KVPI_SCORE_KEYS ? n - keys.first : KVPI_SCORE_KEYS;
        const char *at = k + keys.first * row_bytes;
        const bool is_last = keys.first + keys.n == n;
        const kvpi_score_keys rows = {.k = at,
                                      .n = keys.n,
                                      .width = page->k_width,
                                      .next = is_last ? page->next : at + keys.n * row_bytes};
        score_block(s, &keys, &rows);
    }
}

/* ---- a scan ---------------------------------------------------------------------------------- */

/* Keep the first failure, with its text: kvp_error() is this thread's. */
static void fail(search *s, kvp_status status)
{
    pthread_mutex_lock(&s->lock);
    if (!s->has_failed) {
        s->status = status;
        snprintf(s->message, sizeof s->message, "%s", kvp_error());
        s->has_failed = true;
    }
    pthread_mutex_unlock(&s->lock);
}

static void run_part(void *arg, size_t part)
{
    search *s = arg;
    kvp_status status = KVP_OK;
    kvp_scan_item item;
    while (!status && !s->has_failed) {
        status = kvp_scan_claim(s->scan, (uint32_t)part, &item);
        if (status || !item.n_pages)
            break;
        for (uint32_t i = 0; i < item.n_pages && !status && !s->has_failed; i++) {
            kvp_page_view page;
            status = kvp_scan_next(s->scan, (uint32_t)part, &page);
            if (!status)
                score_page(s, &page);
        }
    }
    if (status)
        fail(s, status);
}

/* Every visible page that is not skipped. */
static kvp_status scan(search *s, const uint64_t *skip)
{
    uint32_t n_threads = kvp_pager_threads(s->pager);
    const kvp_scan_args args = {
        .layer = s->layer,
        .max_parts = n_threads < KVP_SCAN_MAX_PARTS ? n_threads : KVP_SCAN_MAX_PARTS,
        .begin = s->begin,
        .end = s->end,
        .is_one_group = true,
        .group = s->head / s->info.page_heads,
        .skip = skip,
    };
    kvp_status status = kvp_scan_open(s->seq, &args, &s->scan);
    if (status)
        return status;
    uint32_t n_parts = kvp_scan_parts(s->scan);
    if (n_parts == 1)
        run_part(s, 0);
    else
        kvp_parallel_for(s->pager, n_parts, run_part, s);
    kvp_scan_close(s->scan);
    return s->has_failed ? kvp_fail(s->status, "%s", s->message) : KVP_OK;
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static double centre_norm(const search *s, const uint16_t *centre)
{
    const kvpi_score_keys key = {.k = centre, .n = 1, .width = s->info.kind.k_width};
    float square;
    s->scorers->square[KVP_BF16](&key, &square);
    return sqrt(square);
}

/* bounds of a page, and the largest relative to the norms of queries. */
static float bound_page(const search *s, const kvp_digest *d, float *bounds)
{
    float products[TILE_QUERIES][KVPI_SCORE_KEYS] = {{0}}, best = -INFINITY;
    const kvpi_score_keys key = {.k = d->centre, .n = 1, .width = s->info.kind.k_width};
    kvpi_bound_terms terms = {.width = key.width,
                              .centre_norm = d->centre ? centre_norm(s, d->centre) : 0};
    for (size_t i = 0; i < s->n; i++) {
        if (i % TILE_QUERIES == 0 && d->centre) {
            const float *tile[TILE_QUERIES];
            size_t n = 0;
            for (; n < TILE_QUERIES && i + n < s->n; n++)
                tile[n] = s->queries[i + n].q;
            s->scorers->score[KVP_BF16](&key, tile, n, products[0]);
        }
        const query *q = &s->queries[i];
        terms.query_norm = q->norm;
        terms.product = products[i % TILE_QUERIES][0];
        bounds[i] = kvpi_search_bound(d, s->args->similarity, &terms);
        if (q->end <= d->first_position || q->begin >= d->first_position + s->info.page_tokens)
            bounds[i] = -INFINITY; /* it sees nothing of the page */
        float relative = q->norm > 0 && s->args->similarity == KVP_PRODUCT
                             ? bounds[i] / (float)q->norm
                             : bounds[i];
        best = fmaxf(best, relative);
    }
    return best;
}

static void bound_some(void *arg, size_t task)
{
    search *s = arg;
    for (size_t i = task * BOUND_PAGES; i < (task + 1) * BOUND_PAGES && i < s->n_pages; i++)
        s->candidates[i] =
            (candidate){.bound = bound_page(s, &s->digests[i], s->bounds + i * BATCH_QUERIES),
                        .page = (uint32_t)i};
}

static int compare_candidates(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->bound != y->bound)
        return x->bound < y->bound ? 1 : -1;
    return x->page < y->page ? -1 : x->page > y->page;
}

static void find_bounds(search *s)
{
    kvp_parallel_for(s->pager, (s->n_pages + BOUND_PAGES - 1) / BOUND_PAGES, bound_some, s);
    qsort(s->candidates, s->n_pages, sizeof *s->candidates, compare_candidates);
    s->n_candidates = s->n_pages;
    while (s->n_candidates && s->candidates[s->n_candidates - 1].bound == -INFINITY)
        s->n_candidates--;
}

/* ---- waves ----------------------------------------------------------------------------------- */

static bool is_needed(const search *s, uint32_t page)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->bounds[(size_t)page * BATCH_QUERIES + i] != -INFINITY && is_wanted(s, i, page))
            return true;
    return false;
}

/* The next pages that are needed, up to n_wanted of them; *at moves on. */
static size_t choose_wave(search *s, size_t n_wanted, size_t *at)
{
    size_t n = 0;
    memset(s->skip, 0xff, s->n_words * sizeof *s->skip);
    for (; *at < s->n_candidates && n < n_wanted; ++*at) {
        uint32_t page = s->candidates[*at].page;
        if (!is_needed(s, page)) {
            s->counts.pages_skipped++;
            continue;
        }
        s->skip[page / 64] &= ~(UINT64_C(1) << page % 64);
        n++;
    }
    return n;
}

static kvp_status scan_in_waves(search *s)
{
    size_t at = 0, n_wanted = 2 * s->args->k / s->info.page_tokens + 1;
    kvp_status status = KVP_OK;
    find_bounds(s);
    s->counts.pages += s->n_candidates;
    n_wanted = n_wanted > FIRST_WAVE ? n_wanted : FIRST_WAVE;
    while (!status && choose_wave(s, n_wanted, &at)) {
        status = scan(s, s->skip);
        n_wanted *= 2;
    }
    return status;
}

static kvp_status scan_all(search *s)
{
    for (uint32_t i = 0; i < s->n_pages; i++)
        s->counts.pages += s->digests[i].first_position < s->end &&
                           s->digests[i].first_position + s->info.page_tokens > s->begin;
    return scan(s, NULL);
}

/* ---- queries --------------------------------------------------------------------------------- */

static double norm_of(const float *x, size_t n)
{
    double norm2 = 0;
    for (size_t i = 0; i < n; i++)
        norm2 += (double)x[i] * x[i];
    return sqrt(norm2);
}

/* Queries [first, first + s->n) of the call. */
static void take_batch(search *s, size_t first)
{
    const kvp_search_args *args = s->args;
    const size_t width = s->info.kind.k_width;
    const uint64_t length = kvp_seq_layer_length(s->seq, s->layer);
    for (size_t i = 0; i < s->n; i++) {
        query *q = &s->queries[i];
        size_t n = first + i;
        q->q = args->queries + n * width;
        q->end = args->ends && args->ends[n] < length ? args->ends[n] : length;
        q->begin = args->begins ? args->begins[n] : 0;
        q->norm = norm_of(q->q, width);
        q->inverse_norm = q->norm > 0 ? (float)(1 / q->norm) : 0;
        char *values = args->values;
        kvpi_hits_init(&q->hits, args->hits + n * args->k, args->k,
                       values ? values + n * args->k * s->value_bytes : NULL, s->value_bytes);
        s->end = q->end;
    }
    s->begin = s->queries[0].begin;
}

static kvp_status run_batch(search *s, size_t first)
{
    kvp_status status = KVP_OK;
    take_batch(s, first);
    if (s->args->k && s->begin < s->end)
        status = s->bounds ? scan_in_waves(s) : scan_all(s);
    for (size_t i = 0; i < s->n && !status; i++) {
        kvpi_hits_sort(&s->queries[i].hits);
        s->args->n_hits[first + i] = s->queries[i].hits.n;
    }
    return status;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static kvp_status take(const search *s, size_t n, size_t size, void *out)
{
    void *p = NULL;
    const kvp_mem *mem = kvp_pager_mem(s->pager);
    if (n && size && n <= SIZE_MAX / size)
        p = mem->alloc(mem->opaque, n * size, 64);
    if (!p && n)
        return kvp_fail(KVP_E_NOMEM, "kvp_search: out of memory for %zu bytes", n * size);
    memcpy(out, &p, sizeof p);
    return KVP_OK;
}

static void give(const search *s, void *p, size_t n, size_t size)
{
    const kvp_mem *mem = kvp_pager_mem(s->pager);
    if (p)
        mem->free(mem->opaque, p, n * size);
}

static bool has_digests(const search *s)
{
    return s->info.lookup.has_digests && s->n_pages > FIRST_WAVE;
}

static kvp_status take_memory(search *s, size_t n_queries)
{
    const size_t n = s->n_pages;
    s->n_words = (n + 63) / 64;
    kvp_status status = take(s, n_queries, sizeof *s->queries, &s->queries);
    if (!status)
        status = take(s, n, sizeof *s->digests, &s->digests);
    if (status || !has_digests(s))
        return status;
    status = take(s, n * BATCH_QUERIES, sizeof *s->bounds, &s->bounds);
    if (!status)
        status = take(s, n, sizeof *s->candidates, &s->candidates);
    return status ? status : take(s, s->n_words, sizeof *s->skip, &s->skip);
}

static void give_memory(search *s, size_t n_queries)
{
    const size_t n = s->n_pages;
    give(s, s->queries, n_queries, sizeof *s->queries);
    give(s, s->digests, n, sizeof *s->digests);
    give(s, s->bounds, n * BATCH_QUERIES, sizeof *s->bounds);
    give(s, s->candidates, n, sizeof *s->candidates);
    give(s, s->skip, s->n_words, sizeof *s->skip);
}

/* ---- the call -------------------------------------------------------------------------------- */

static kvp_status check_ascent(const char *name, const uint64_t *positions, size_t n)
{
    for (size_t i = 1; positions && i < n; i++)
        if (positions[i] < positions[i - 1])
            return kvp_fail(KVP_E_RANGE,
                            "kvp_search: %s[%zu] is %llu, below %s[%zu] = %llu: they must ascend",
                            name, i, (unsigned long long)positions[i], name, i - 1,
                            (unsigned long long)positions[i - 1]);
    return KVP_OK;
}

static kvp_status check_queries(const search *s)
{
    const kvp_search_args *args = s->args;
    const size_t width = s->info.kind.k_width;
    for (size_t i = 0; i < args->n_queries * width; i++)
        if (!isfinite(args->queries[i]))
            return kvp_fail(KVP_E_RANGE, "kvp_search: element %zu of query %zu is not finite",
                            i % width, i / width);
    kvp_status status = check_ascent("begins", args->begins, args->n_queries);
    return status ? status : check_ascent("ends", args->ends, args->n_queries);
}

static kvp_status check_args(search *s)
{
    const kvp_search_args *args = s->args;
    const kvp_layer_kind *kind = &s->info.kind;
    if (kind->dtype == KVP_OPAQUE)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "kvp_search: layer %u is opaque: only the caller knows "
                        "what its keys mean",
                        s->layer);
    if (s->head >= kind->n_kv_heads)
        return kvp_fail(KVP_E_INVALID, "kvp_search: KV head %u, but layer %u has %u", s->head,
                        s->layer, kind->n_kv_heads);
    if (args->k >= UINT32_MAX)
        return kvp_fail(KVP_E_INVALID, "kvp_search: k is %zu, at most %u are possible", args->k,
                        UINT32_MAX - 1);
    if (args->similarity != KVP_PRODUCT && args->similarity != KVP_COSINE)
        return kvp_fail(KVP_E_INVALID, "kvp_search: there is no similarity %d",
                        (int)args->similarity);
    if (args->n_queries && (!args->queries || !args->n_hits || (args->k && !args->hits)))
        return kvp_fail(KVP_E_INVALID, "kvp_search: %s is NULL",
                        !args->queries  ? "queries"
                        : !args->n_hits ? "n_hits"
                                        : "hits");
    return check_queries(s);
}

static kvp_status make_search(search *s, kvp_seq *seq, const kvp_search_args *args)
{
    if (!seq || !args)
        return kvp_fail(KVP_E_INVALID, "kvp_search: %s is NULL", seq ? "args" : "seq");
    kvp_status status = kvp_seq_layer_info(seq, s->layer, &s->info);
    if (!status)
        status = check_args(s);
    if (status)
        return status;
    const kvp_layer_kind *kind = &s->info.kind;
    s->scorers = kvpi_scorers_find();
    s->pager = kvp_seq_pager(seq);
    s->n_pages = kvp_seq_page_count(seq, s->layer);
    s->value_bytes =
        kind->v_width * (s->info.lookup.has_opaque_v ? 1 : kvp_dtype_bytes(kind->dtype));
    return s->scorers ? KVP_OK : KVP_E_UNSUPPORTED;
}

kvp_status kvp_search(kvp_seq *seq, uint32_t layer, uint32_t head, const kvp_search_args *args)
{
    search s = {.args = args, .seq = seq, .layer = layer, .head = head};
    kvp_status status = make_search(&s, seq, args);
    if (status)
        return status;
    size_t batch = args->n_queries < BATCH_QUERIES ? args->n_queries : BATCH_QUERIES;
    pthread_mutex_init(&s.lock, NULL);
    status = take_memory(&s, batch);
    if (!status)
        kvp_seq_digests(seq, layer, head, s.digests);
    for (size_t first = 0; first < args->n_queries && !status; first += s.n) {
        s.n = args->n_queries - first < batch ? args->n_queries - first : batch;
        status = run_batch(&s, first);
    }
    give_memory(&s, batch);
    pthread_mutex_destroy(&s.lock);
    if (!status && args->counts)
        *args->counts = s.counts;
    return status;
}
