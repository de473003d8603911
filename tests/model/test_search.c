/* test_search.c - kvp_search() against float64 over flat arrays: which keys are hits, their order,
 * their values; the same bits whatever the budget, the number of threads, the disk engine, the
 * batch and the digests; and through appends, truncations, forks and evictions. */
#include "kvpager/search.h"
#include "tests/support/round.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 3, PAGE_HEADS = 2, PAGE_TOKENS = 16, V_BYTES = 12, MAX_TOKENS = 3000 };

static uint64_t rng_state;

static uint64_t random_bits(void)
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return rng_state * UINT64_C(0x2545f4914f6cdd1d);
}

static uint64_t below(uint64_t n)
{
    return (random_bits() >> 16) % n;
}

static float uniform(void)
{
    return (float)(random_bits() >> 40) * 0x1p-23f - 1;
}

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void assert_fails(kvp_status got, kvp_status expected, const char *word)
{
    assert_int_equal(got, expected);
    if (!strstr(kvp_error(), word))
        fail_msg("\"%s\" does not say \"%s\"", kvp_error(), word);
}

/* ---- a lane and what it holds ---------------------------------------------------------------- */

typedef struct setup {
    kvp_dtype dtype;
    uint32_t width;
    bool has_digests;
    uint64_t ram_bytes; /* 0: all */
    const char *engine;
    uint32_t n_threads;
} setup;

static kvp_pager *open_pager(const setup *s)
{
    const kvp_layer_kind kind = {
        .n_kv_heads = HEADS, .k_width = s->width, .v_width = V_BYTES, .dtype = s->dtype};
    const kvp_lookup_kind lookup = {.has_opaque_v = true, .has_digests = s->has_digests};
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .layers = &kind,
                                  .lookups = &lookup,
                                  .page_tokens = PAGE_TOKENS,
                                  .page_heads = PAGE_HEADS};
    cfg.ram_bytes = s->ram_bytes ? s->ram_bytes : KVP_UNLIMITED;
    cfg.disk_bytes = s->ram_bytes ? KVP_UNLIMITED : 0;
    cfg.zram_bytes = s->ram_bytes / 2;
    cfg.disk_engine = s->engine;
    cfg.n_threads = s->n_threads;
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

/* Rows of every head, as they lie in pages. */
typedef struct rows {
    uint32_t width;
    size_t n;
    bool is_gone[MAX_TOKENS]; /* evicted */
    float *k;                 /* [MAX_TOKENS][HEADS][width] */
    unsigned char *v;         /* [MAX_TOKENS][HEADS][V_BYTES] */
} rows;

static rows *make_rows(uint32_t width)
{
    rows *r = calloc(1, sizeof *r);
    r->width = width;
    r->k = calloc((size_t)MAX_TOKENS * HEADS * width, sizeof *r->k);
    r->v = calloc((size_t)MAX_TOKENS * HEADS, V_BYTES);
    return r;
}

static rows *copy_rows(const rows *from)
{
    rows *r = make_rows(from->width), own = *r;
    *r = *from;
    r->k = own.k;
    r->v = own.v;
    memcpy(r->k, from->k, from->n * HEADS * r->width * sizeof *r->k);
    memcpy(r->v, from->v, from->n * HEADS * V_BYTES);
    return r;
}

static void free_rows(rows *r)
{
    free(r->k);
    free(r->v);
    free(r);
}

/* Who makes keys: element d of the key of token t. */
typedef float (*key_maker)(size_t t, uint32_t d, uint32_t width);

/* Products of these are exact in float32, and equal ones are many. */
static float small_integers(size_t t, uint32_t d, uint32_t width)
{
    (void)t, (void)d, (void)width;
    return (float)below(5) - 2;
}

/* Neighbouring tokens point the same way, as what one text says about one thing. */
static float clustered(size_t t, uint32_t d, uint32_t width)
{
    (void)width;
    uint64_t x =
        (t / 24 + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (d + 1) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 31) * UINT64_C(0x94d049bb133111eb);
    return (float)(x >> 40) * 0x1p-23f - 1 + 0.05f * uniform();
}

static float random_elements(size_t t, uint32_t d, uint32_t width)
{
    (void)t, (void)d, (void)width;
    return uniform();
}

static float all_the_same(size_t t, uint32_t d, uint32_t width)
{
    (void)t, (void)width;
    return d % 2 ? 0.5f : -1;
}

/* A few keys of enormous and of no length among small ones. */
static float extreme(size_t t, uint32_t d, uint32_t width)
{
    (void)width;
    return t % 37 == 5 ? uniform() * 1e18f : t % 41 == 7 ? 0 : d == 3 ? 1 : uniform() * 1e-3f;
}

/* So long that products and squares overflow. */
static float too_long(size_t t, uint32_t d, uint32_t width)
{
    float x = extreme(t, d, width);
    return t % 37 == 5 ? x * 18 : x;
}

static void append(kvp_seq *seq, rows *r, size_t n, key_maker make, kvp_dtype dtype)
{
    const size_t k_row = (size_t)HEADS * r->width;
    float *k = r->k + r->n * k_row;
    unsigned char *v = r->v + r->n * HEADS * V_BYTES;
    for (size_t i = 0; i < n * k_row; i++)
        k[i] = round_to(make(r->n + i / k_row, (uint32_t)(i % r->width), r->width), dtype);
    for (size_t i = 0; i < n * HEADS * V_BYTES; i++)
        v[i] = (unsigned char)random_bits();
    must(kvp_seq_append_rows(seq, 0, &(kvp_rows){.k = k, .v = v, .dtype = KVP_F32}, n));
    memset(r->is_gone + r->n, 0, n);
    r->n += n;
}

/* ---- the oracle ------------------------------------------------------------------------------ */

static double similarity_of(const rows *r, size_t t, uint32_t head, const float *q,
                            kvp_similarity s)
{
    const float *k = r->k + (t * HEADS + head) * r->width;
    double product = 0, q2 = 0, k2 = 0;
    for (uint32_t d = 0; d < r->width; d++) {
        product += (double)q[d] * k[d];
        q2 += (double)q[d] * q[d];
        k2 += (double)k[d] * k[d];
    }
    if (s == KVP_PRODUCT)
        return product;
    return q2 > 0 && k2 > 0 ? product / sqrt(q2) / sqrt(k2) : 0;
}

typedef struct scored {
    double score;
    size_t t;
} scored;

static int compare(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->t < y->t ? -1 : x->t > y->t;
}

/* All that is visible, best first; returns how many. */
static size_t rank(const rows *r, uint32_t head, const float *q, kvp_similarity s, uint64_t begin,
                   uint64_t end, scored *out)
{
    size_t n = 0;
    for (size_t t = begin; t < r->n && t < end; t++)
        if (!r->is_gone[t])
            out[n++] = (scored){similarity_of(r, t, head, q, s), t};
    qsort(out, n, sizeof *out, compare);
    return n;
}

/* Is this what the oracle says? Scores closer than `tolerance` may change places. */
static void check_hits(const rows *r, uint32_t head, const float *q, const kvp_search_args *a,
                       size_t i, double tolerance)
{
    scored *all = malloc(MAX_TOKENS * sizeof *all);
    const kvp_hit *hits = a->hits + i * a->k;
    const unsigned char *values = (const unsigned char *)a->values + i * a->k * V_BYTES;
    size_t n = rank(r, head, q, a->similarity, a->begins ? a->begins[i] : 0,
                    a->ends ? a->ends[i] : UINT64_MAX, all);
    assert_int_equal(a->n_hits[i], n < a->k ? n : a->k);
    for (size_t h = 0; h < a->n_hits[i]; h++) {
        size_t t = hits[h].position;
        assert_int_equal(hits[h].place, h);
        assert_in_range(t, 0, r->n - 1);
        assert_false(r->is_gone[t]);
        double want = similarity_of(r, t, head, q, a->similarity);
        bool is_right =
            fabs(hits[h].score - want) <= tolerance && fabs(want - all[h].score) <= tolerance;
        if (!is_right || (tolerance == 0 && t != all[h].t))
            fail_msg("hit %zu is token %zu, %.9g; the oracle says %zu, %.9g", h, t,
                     (double)hits[h].score, all[h].t, all[h].score);
        assert_memory_equal(values + h * V_BYTES, r->v + (t * HEADS + head) * V_BYTES, V_BYTES);
    }
    free(all);
}

/* ---- searches -------------------------------------------------------------------------------- */

enum { MAX_QUERIES = 300, MAX_K = 300 };

typedef struct found {
    kvp_hit hits[MAX_QUERIES * MAX_K];
    size_t n_hits[MAX_QUERIES];
    unsigned char values[MAX_QUERIES * MAX_K * V_BYTES];
    kvp_search_counts counts;
} found;

static kvp_search_args search_args(found *f, const float *queries, size_t n, size_t k)
{
    memset(f, 0, sizeof *f);
    return (kvp_search_args){.queries = queries,
                             .n_queries = n,
                             .k = k,
                             .hits = f->hits,
                             .n_hits = f->n_hits,
                             .values = f->values,
                             .counts = &f->counts};
}

static float *make_queries(size_t n, uint32_t width, key_maker make)
{
    float *q = malloc(n * width * sizeof *q);
    for (size_t i = 0; i < n * width; i++)
        q[i] = make(i / width * 29, (uint32_t)(i % width), width);
    return q;
}

static void search_and_check(const setup *s, key_maker make, kvp_similarity similarity,
                             size_t n_tokens, double tolerance)
{
    static found f;
    kvp_pager *pager = open_pager(s);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    rows *r = make_rows(s->width);
    append(seq, r, n_tokens, make, s->dtype);
    const size_t n_queries = 7;
    float *q = make_queries(n_queries, s->width, make);
    uint64_t begins[] = {0, 0, 3, 3, n_tokens / 2 - 5, n_tokens - 40, n_tokens};
    uint64_t ends[] = {0, 1, 5, n_tokens / 3, n_tokens / 2, n_tokens, UINT64_MAX};
    for (size_t k = 1; k <= MAX_K; k = k < 16 ? k * 4 : k * 3 + 12) {
        for (uint32_t head = 0; head < HEADS; head++) {
            kvp_search_args a = search_args(&f, q, n_queries, k);
            a.similarity = similarity;
            a.ends = k % 2 ? ends : NULL;
            a.begins = k % 3 ? begins : NULL;
            must(kvp_search(seq, 0, head, &a));
            for (size_t i = 0; i < n_queries; i++)
                check_hits(r, head, q + i * s->width, &a, i, tolerance);
        }
    }
    free(q);
    free_rows(r);
    kvp_pager_close(pager);
}

static void test_hits_are_those_of_the_oracle(void **state)
{
    (void)state;
    for (int dtype = KVP_F32; dtype <= KVP_BF16; dtype++) {
        setup s = {.dtype = (kvp_dtype)dtype, .width = 20, .n_threads = 2};
        for (int digests = 0; digests < 2; digests++) {
            s.has_digests = digests;
            search_and_check(&s, small_integers, KVP_PRODUCT, 1000, 0);
            search_and_check(&s, all_the_same, KVP_PRODUCT, 900, 0);
            search_and_check(&s, random_elements, KVP_PRODUCT, 777, 1e-5);
            search_and_check(&s, random_elements, KVP_COSINE, 777, 1e-6);
            search_and_check(&s, clustered, KVP_COSINE, 1500, 1e-6);
        }
    }
}

static void test_keys_without_length_and_of_enormous_length(void **state)
{
    (void)state;
    setup s = {.dtype = KVP_F32, .width = 20, .n_threads = 2, .has_digests = true};
    search_and_check(&s, extreme, KVP_COSINE, 1300, 2e-6);
    search_and_check(&s, extreme, KVP_PRODUCT, 1300, 1e31); /* of up to 1e37 */
}

static void test_scores_beyond_float32_are_ranked_alike_with_and_without_digests(void **state)
{
    (void)state;
    static found f[2];
    for (int similarity = KVP_PRODUCT; similarity <= KVP_COSINE; similarity++) {
        for (int digests = 0; digests < 2; digests++) {
            setup s = {.dtype = KVP_F32, .width = 20, .has_digests = digests};
            kvp_pager *pager = open_pager(&s);
            kvp_seq *seq;
            must(kvp_seq_create(pager, &seq));
            rng_state = 5;
            rows *r = make_rows(s.width);
            append(seq, r, 1200, too_long, s.dtype);
            float *q = make_queries(40, s.width, too_long);
            kvp_search_args a = search_args(&f[digests], q, 40, 30);
            a.similarity = (kvp_similarity)similarity;
            must(kvp_search(seq, 0, 0, &a));
            free(q);
            free_rows(r);
            kvp_pager_close(pager);
        }
        assert_memory_equal(f[0].hits, f[1].hits, sizeof f[0].hits);
        for (size_t i = 0; i < 40 * 30; i++)
            assert_true(isfinite(f[0].hits[i].score));
        if (similarity == KVP_PRODUCT)
            assert_true(f[0].hits[4 * 30].score == FLT_MAX); /* query 4 is a long one */
    }
}

/* ---- the same bits --------------------------------------------------------------------------- */

/* The search of a fresh lane of clustered keys; queries in batches of up to n_batch. */
static void search_clusters(const setup *s, size_t n_batch, found *f, kvp_stats *stats)
{
    kvp_pager *pager = open_pager(s);
    kvp_seq *seq;
    const size_t n_queries = 270, k = 20;
    must(kvp_seq_create(pager, &seq));
    rng_state = 77;
    rows *r = make_rows(s->width);
    append(seq, r, 2900, clustered, s->dtype);
    float *q = make_queries(n_queries, s->width, clustered);
    kvp_search_args a = search_args(f, q, n_queries, k);
    kvp_search_counts counts = {0};
    for (size_t i = 0; i < n_queries; i += n_batch) {
        kvp_search_args part = a;
        part.queries = q + i * s->width;
        part.n_queries = n_queries - i < n_batch ? n_queries - i : n_batch;
        part.hits += i * k;
        part.n_hits += i;
        part.values = f->values + i * k * V_BYTES;
        must(kvp_search(seq, 0, 1, &part));
        counts.pages += f->counts.pages;
        counts.pages_skipped += f->counts.pages_skipped;
    }
    f->counts = counts;
    check_hits(r, 1, q + 5 * s->width, &a, 5, 1e-3);
    *stats = (kvp_stats){.size = sizeof *stats};
    must(kvp_pager_stats(pager, stats));
    must(kvp_pager_check(pager));
    free(q);
    free_rows(r);
    kvp_pager_close(pager);
}

static void assert_same(const found *a, const found *b)
{
    assert_memory_equal(a->hits, b->hits, sizeof a->hits);
    assert_memory_equal(a->n_hits, b->n_hits, sizeof a->n_hits);
    assert_memory_equal(a->values, b->values, sizeof a->values);
}

static void test_no_bit_depends_on_residency_threads_batches_or_digests(void **state)
{
    (void)state;
    static found resident, other;
    kvp_stats stats;
    setup s = {.dtype = KVP_F16, .width = 64, .n_threads = 1};
    search_clusters(&s, 64, &resident, &stats);
    assert_int_equal(stats.major_faults, 0);
    assert_int_equal(resident.counts.pages_skipped, 0);
    static const char *const engines[] = {NULL, "threads"};
    for (int digests = 0; digests < 2; digests++) {
        for (uint32_t threads = 1; threads <= 3; threads += 2) {
            for (int engine = 0; engine < 2; engine++) {
                s = (setup){.dtype = KVP_F16,
                            .width = 64,
                            .has_digests = digests,
                            .ram_bytes = 260000,
                            .engine = engines[engine],
                            .n_threads = threads};
                search_clusters(&s, engine ? 270 : 9, &other, &stats);
                assert_same(&resident, &other);
                assert_true(stats.major_faults > 0);
                assert_true(stats.demotions > 0);
                if (digests)
                    assert_true(other.counts.pages_skipped > 0);
            }
        }
    }
}

static void test_pages_that_are_skipped_are_not_read(void **state)
{
    (void)state;
    static found full, pruned, again;
    kvp_stats without, with;
    setup s = {.dtype = KVP_F32, .width = 64, .ram_bytes = 400000, .n_threads = 2};
    search_clusters(&s, 1, &full, &without);
    s.has_digests = true;
    search_clusters(&s, 1, &pruned, &with);
    assert_same(&full, &pruned);
    assert_true(pruned.counts.pages == full.counts.pages);
    assert_true(pruned.counts.pages_skipped > pruned.counts.pages / 2);
    assert_true(with.bytes_read < without.bytes_read);
    s.n_threads = 1; /* what is skipped depends on neither threads nor budget */
    s.ram_bytes = 0;
    search_clusters(&s, 1, &again, &with);
    assert_same(&full, &again);
    assert_int_equal(again.counts.pages_skipped, pruned.counts.pages_skipped);
}

/* ---- a life ---------------------------------------------------------------------------------- */

enum { MAX_SEQS = 4 };

typedef struct life {
    kvp_pager *pager;
    kvp_seq *seqs[MAX_SEQS];
    rows *r[MAX_SEQS];
    uint64_t skipped;
} life;

static void check_one(life *l, size_t i)
{
    static found f;
    uint32_t width = l->r[i]->width, head = (uint32_t)below(HEADS);
    float *q = make_queries(3, width, below(2) ? clustered : random_elements);
    kvp_search_args a = search_args(&f, q, 3, 1 + below(40));
    a.similarity = below(2) ? KVP_COSINE : KVP_PRODUCT;
    must(kvp_search(l->seqs[i], 0, head, &a));
    for (size_t n = 0; n < 3; n++)
        check_hits(l->r[i], head, q + n * width, &a, n, 1e-4);
    l->skipped += f.counts.pages_skipped;
    free(q);
}

static void evict_some(life *l, size_t i)
{
    rows *r = l->r[i];
    size_t begin = below(r->n / PAGE_TOKENS + 1), end = begin + below(4);
    must(kvp_seq_evict(l->seqs[i], 0, begin * PAGE_TOKENS, end * PAGE_TOKENS));
    for (size_t t = begin * PAGE_TOKENS; t < end * PAGE_TOKENS; t++)
        if (t / PAGE_TOKENS < (r->n - 1) / PAGE_TOKENS) /* the last page stays */
            r->is_gone[t] = true;
}

static void fork_one(life *l, size_t i)
{
    size_t to = below(MAX_SEQS);
    if (to == i)
        return;
    if (l->r[to])
        free_rows(l->r[to]);
    kvp_seq_destroy(l->seqs[to]);
    must(kvp_seq_fork(l->seqs[i], &l->seqs[to]));
    l->r[to] = copy_rows(l->r[i]);
}

static void truncate_one(life *l, size_t i)
{
    rows *r = l->r[i];
    size_t n = r->n - below(r->n < 60 ? r->n : 60);
    for (size_t t = 0; t < n; t++)
        if (r->is_gone[t] && t / PAGE_TOKENS >= (n - 1) / PAGE_TOKENS)
            return; /* what was evicted cannot be written to again */
    must(kvp_seq_truncate(l->seqs[i], n));
    r->n = n;
}

static void live(uint64_t seed, bool *all_happened)
{
    setup s = {
        .dtype = KVP_F16, .width = 32, .has_digests = true, .ram_bytes = 200000, .n_threads = 2};
    life l = {.pager = open_pager(&s)};
    rng_state = seed;
    must(kvp_seq_create(l.pager, &l.seqs[0]));
    l.r[0] = make_rows(s.width);
    append(l.seqs[0], l.r[0], 900, clustered, s.dtype);
    for (int step = 0; step < 150; step++) {
        size_t i = below(MAX_SEQS);
        if (!l.seqs[i])
            continue;
        uint64_t what = below(10);
        if (what < 4 && l.r[i]->n < MAX_TOKENS - 100)
            append(l.seqs[i], l.r[i], 1 + below(60), clustered, s.dtype);
        else if (what < 6)
            truncate_one(&l, i);
        else if (what < 7)
            evict_some(&l, i);
        else if (what < 9)
            fork_one(&l, i);
        check_one(&l, i);
    }
    must(kvp_pager_check(l.pager));
    kvp_stats stats = {.size = sizeof stats};
    must(kvp_pager_stats(l.pager, &stats));
    *all_happened = stats.major_faults && stats.copies_on_write && stats.demotions && l.skipped;
    for (size_t i = 0; i < MAX_SEQS; i++)
        if (l.r[i])
            free_rows(l.r[i]);
    kvp_pager_close(l.pager);
}

static void test_random_lives_agree_with_flat_arrays(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        bool all_happened;
        live(seed * 1000003, &all_happened);
        assert_true(all_happened);
    }
}

/* ---- bad input ------------------------------------------------------------------------------- */

static void test_bad_arguments_are_refused(void **state)
{
    (void)state;
    static found f;
    setup s = {.dtype = KVP_F32, .width = 8, .n_threads = 1};
    kvp_pager *pager = open_pager(&s);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    float q[16] = {0};
    kvp_search_args a = search_args(&f, q, 2, 3);
    must(kvp_search(seq, 0, 0, &a)); /* an empty lane */
    assert_int_equal(f.n_hits[0], 0);
    assert_fails(kvp_search(NULL, 0, 0, &a), KVP_E_INVALID, "seq");
    assert_fails(kvp_search(seq, 0, 0, NULL), KVP_E_INVALID, "args");
    assert_fails(kvp_search(seq, 1, 0, &a), KVP_E_INVALID, "layer 1");
    assert_fails(kvp_search(seq, 0, HEADS, &a), KVP_E_INVALID, "head 3");
    q[13] = NAN;
    assert_fails(kvp_search(seq, 0, 0, &a), KVP_E_RANGE, "element 5 of query 1");
    q[13] = 0;
    a.ends = (uint64_t[]){2, 1};
    assert_fails(kvp_search(seq, 0, 0, &a), KVP_E_RANGE, "ends[1] is 1");
    a.ends = NULL;
    a.begins = (uint64_t[]){1, 0};
    assert_fails(kvp_search(seq, 0, 0, &a), KVP_E_RANGE, "begins[1] is 0");
    a.begins = NULL;
    a.similarity = (kvp_similarity)7;
    assert_fails(kvp_search(seq, 0, 0, &a), KVP_E_INVALID, "similarity 7");
    a.similarity = KVP_PRODUCT;
    a.hits = NULL;
    assert_fails(kvp_search(seq, 0, 0, &a), KVP_E_INVALID, "hits is NULL");
    assert_fails(
        kvp_attend(seq, 0, &(kvp_attend_args){.q = q, .out = q, .n_queries = 1, .n_heads = 3}),
        KVP_E_UNSUPPORTED, "kvp_search");
    kvp_pager_close(pager);

    kvp_layer_kind kind = {1, 8, 3, KVP_F16};
    kvp_lookup_kind lookup = {.has_opaque_v = true};
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 1, .layers = &kind, .lookups = &lookup};
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "multiple of the 2");
    kind = (kvp_layer_kind){1, 8, 3, KVP_OPAQUE};
    lookup = (kvp_lookup_kind){.has_digests = true};
    assert_fails(kvp_pager_open(&cfg, &pager), KVP_E_INVALID, "no digests");
    lookup.has_digests = false;
    must(kvp_pager_open(&cfg, &pager));
    must(kvp_seq_create(pager, &seq));
    a = search_args(&f, q, 1, 3);
    assert_fails(kvp_search(seq, 0, 0, &a), KVP_E_UNSUPPORTED, "opaque");
    kvp_pager_close(pager);
}

static int set_up(void **state)
{
    (void)state;
    rng_state = UINT64_C(20260302);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_hits_are_those_of_the_oracle, set_up),
        cmocka_unit_test_setup(test_keys_without_length_and_of_enormous_length, set_up),
        cmocka_unit_test_setup(test_scores_beyond_float32_are_ranked_alike_with_and_without_digests,
                               set_up),
        cmocka_unit_test_setup(test_no_bit_depends_on_residency_threads_batches_or_digests, set_up),
        cmocka_unit_test_setup(test_pages_that_are_skipped_are_not_read, set_up),
        cmocka_unit_test_setup(test_random_lives_agree_with_flat_arrays, set_up),
        cmocka_unit_test_setup(test_bad_arguments_are_refused, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
