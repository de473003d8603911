/* test_prefix.c - shared prefixes: what is found, what is compared, what is forgotten, against a
 * list of everything that was put. */
#include "kvpager/budget.h"
#include "kvpager/prefix.h"
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define PAGE_TOKENS 16u
#define MAX_TOKENS 320u
#define LAYERS 2u

static const kvp_layer_kind kind = {2, 16, 16, KVP_F16};

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static kvp_pager *open_pager(uint64_t fingerprint)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = LAYERS,
                                  .n_kv_heads = 2,
                                  .head_dim = 16,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = 60000; /* a dozen pages: prefixes live on disk */
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    cfg.fingerprint = fingerprint;
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

static kvp_prefix_cache *open_cache(kvp_pager *pager, uint64_t max_tokens)
{
    kvp_prefix_cache *cache;
    must(kvp_prefix_cache_open(pager, NULL, max_tokens, &cache));
    return cache;
}

static kvp_prefix_stats stats_of(kvp_prefix_cache *cache)
{
    kvp_prefix_stats s;
    kvp_prefix_cache_stats(cache, &s);
    return s;
}

/* A text: its tokens are what its KV is made of, so KV of another text shows. */
typedef struct text {
    int32_t tokens[MAX_TOKENS];
    uint64_t n;
} text;

static text text_of(int32_t first, uint64_t n)
{
    text t = {.n = n};
    for (uint64_t i = 0; i < n; i++)
        t.tokens[i] = first + (int32_t)i;
    return t;
}

static kvp_status append(kvp_seq *seq, const text *t, uint64_t from)
{
    float k[MAX_TOKENS * 32], v[MAX_TOKENS * 32];
    uint32_t salts[MAX_TOKENS];
    for (uint64_t i = 0; i < t->n; i++)
        salts[i] = (uint32_t)t->tokens[i];
    pattern_rows(&kind, salts + from, t->n - from, k, v);
    kvp_status status = KVP_OK;
    for (uint32_t layer = 0; layer < LAYERS && !status && t->n > from; layer++)
        status = kvp_seq_append(seq, layer, k, v, t->n - from);
    return status;
}

static bool has_its_tokens(kvp_seq *seq, const text *t, uint64_t n)
{
    uint32_t salts[MAX_TOKENS];
    bool ok = kvp_seq_length(seq) == n;
    for (uint64_t i = 0; i < t->n; i++)
        salts[i] = (uint32_t)t->tokens[i];
    for (uint64_t at = 0; at < n && ok; at += PAGE_TOKENS) {
        kvp_page_view page;
        kvp_view view = {.pages = &page, .max_pages = 1};
        ok = !kvp_seq_pin(seq, at / PAGE_TOKENS % LAYERS, at, 1, KVP_FOREVER, &view) &&
             pattern_page_ok(&page, salts);
        kvp_view_unpin(&view);
    }
    return ok;
}

/* What is found of the text; its KV must be the text's. */
static uint64_t found(kvp_prefix_cache *cache, uint64_t salt, const text *t)
{
    kvp_seq *seq;
    uint64_t n;
    must(kvp_prefix_get(cache, salt, t->tokens, t->n, &seq, &n));
    assert_true(has_its_tokens(seq, t, n));
    kvp_seq_destroy(seq);
    return n;
}

static void put(kvp_pager *pager, kvp_prefix_cache *cache, uint64_t salt, const text *t)
{
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    must(append(seq, t, 0));
    must(kvp_prefix_put(cache, salt, t->tokens, t->n, seq));
    kvp_seq_destroy(seq);
}

static void test_the_longest_common_prefix_is_found_in_whole_pages(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(1);
    kvp_prefix_cache *cache = open_cache(pager, 1000);
    text t = text_of(1, 100);
    assert_int_equal(found(cache, 0, &t), 0);
    put(pager, cache, 0, &t);
    assert_int_equal(found(cache, 0, &t), 96);
    text shorter = text_of(1, 50), longer = text_of(1, 300), other = text_of(2, 100);
    assert_int_equal(found(cache, 0, &shorter), 48);
    assert_int_equal(found(cache, 0, &longer), 96);
    assert_int_equal(found(cache, 0, &other), 0);
    text branch = t;
    branch.tokens[70] = -5;
    assert_int_equal(found(cache, 0, &branch), 64);
    kvp_prefix_stats s = stats_of(cache);
    assert_true(s.n_gets == 6 && s.n_hits == 4 && s.tokens_found == 96 + 48 + 96 + 64);
    kvp_prefix_cache_close(cache);
    must(kvp_pager_check(pager));
    kvp_stats p = {.size = sizeof p};
    must(kvp_pager_stats(pager, &p));
    assert_int_equal(p.pages[KVP_TIER_RAM] + p.pages[KVP_TIER_DISK], 0); /* all given back */
    kvp_pager_close(pager);
}

static void test_get_reads_nothing_and_the_sequence_goes_on(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(1);
    kvp_prefix_cache *cache = open_cache(pager, 1000);
    text t = text_of(1, 200), other = text_of(9000, 300);
    put(pager, cache, 0, &t);
    put(pager, cache, 0, &other);
    kvp_stats before = {.size = sizeof before}, after = before;
    must(kvp_pager_stats(pager, &before));
    assert_true(before.pages[KVP_TIER_DISK] > 0);
    kvp_seq *seq;
    uint64_t n;
    text longer = text_of(1, 260);
    must(kvp_prefix_get(cache, 0, longer.tokens, longer.n, &seq, &n));
    must(kvp_pager_stats(pager, &after));
    assert_int_equal(n, 192);
    assert_int_equal(after.bytes_read, before.bytes_read);
    must(append(seq, &longer, n));
    assert_true(has_its_tokens(seq, &longer, longer.n));
    must(kvp_prefix_put(cache, 0, longer.tokens, longer.n, seq));
    assert_int_equal(found(cache, 0, &longer), 256);
    assert_int_equal(found(cache, 0, &t), 192);
    assert_int_equal(stats_of(cache).n_tokens, 256 + 288); /* what is common counts once */
    kvp_seq_destroy(seq);
    kvp_prefix_cache_close(cache);
    kvp_pager_close(pager);
}

static void test_salts_and_models_do_not_share(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(1);
    kvp_prefix_cache *cache = open_cache(pager, 1000);
    text t = text_of(1, 100);
    put(pager, cache, 7, &t);
    assert_int_equal(found(cache, 7, &t), 96);
    assert_int_equal(found(cache, 8, &t), 0);
    put(pager, cache, 8, &t);
    assert_int_equal(found(cache, 8, &t), 96);
    assert_int_equal(stats_of(cache).n_tokens, 192);
    kvp_prefix_cache_close(cache);
    kvp_pager_close(pager);
}

static void test_what_cannot_be_put_is_refused(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(1);
    kvp_prefix_cache *cache = open_cache(pager, 64);
    text t = text_of(1, 200);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    must(append(seq, &t, 0));
    assert_int_equal(kvp_prefix_put(cache, 0, t.tokens, 201, seq), KVP_E_RANGE);
    assert_int_equal(kvp_prefix_put(cache, 0, NULL, 1, seq), KVP_E_INVALID);
    must(kvp_prefix_put(cache, 0, t.tokens, 200, seq)); /* as much as the cache may have */
    assert_int_equal(found(cache, 0, &t), 64);
    must(kvp_seq_evict(seq, 1, 32, 64));
    assert_int_equal(kvp_prefix_put(cache, 1, t.tokens, 100, seq), KVP_E_RANGE);
    assert_int_equal(found(cache, 1, &t), 0);
    must(kvp_prefix_put(cache, 1, t.tokens, 32, seq)); /* before the gap */
    assert_int_equal(found(cache, 1, &t), 32);
    kvp_prefix_stats stats = {.n_tokens = 1};
    kvp_prefix_trim(NULL, 0);
    kvp_prefix_cache_stats(NULL, &stats);
    assert_int_equal(stats.n_tokens, 0);
    kvp_seq_destroy(seq);
    kvp_prefix_cache_close(cache);
    kvp_pager_close(pager);
}

/* Texts that branch off each other at random; the cache must find what the list of those put last
 * has, as far as it may remember. */
static void test_random_branches_under_a_cap(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(1);
    kvp_prefix_cache *cache = open_cache(pager, 640);
    static text texts[40];
    uint64_t random = 5, n_found = 0;
    texts[0] = text_of(1, MAX_TOKENS);
    for (uint32_t i = 1; i < 40; i++) {
        texts[i] = texts[pattern_random(&random) % i];
        texts[i].n = 1 + pattern_random(&random) % MAX_TOKENS;
        for (uint64_t at = pattern_random(&random) % MAX_TOKENS; at < MAX_TOKENS; at++)
            texts[i].tokens[at] = (int32_t)(i << 12 | at);
    }
    for (uint32_t round = 0; round < 300; round++) {
        const text *t = &texts[pattern_random(&random) % 40];
        n_found += found(cache, 0, t);
        put(pager, cache, 0, t);
        assert_int_equal(found(cache, 0, t), t->n / PAGE_TOKENS * PAGE_TOKENS); /* just put */
        kvp_prefix_stats s = stats_of(cache);
        assert_true(s.n_tokens <= 640);
        must(kvp_pager_check(pager));
    }
    kvp_prefix_stats s = stats_of(cache);
    assert_true(n_found > 0 && s.n_forgotten > 0 && s.n_hits > 0);
    kvp_prefix_trim(cache, 0);
    s = stats_of(cache);
    assert_int_equal(s.n_tokens + s.n_prefixes, 0);
    kvp_prefix_cache_close(cache);
    kvp_pager_close(pager);
}

typedef struct worker {
    kvp_pager *pager;
    kvp_prefix_cache *cache;
    uint32_t id;
    bool ok;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    w->ok = true;
    for (int32_t i = 0; i < 40 && w->ok; i++) {
        text t = text_of(1 + i % 3 * 1000, 120);
        t.tokens[64 + i % 40] = (int32_t)(w->id << 16);
        kvp_seq *seq;
        uint64_t n;
        w->ok = !kvp_prefix_get(w->cache, 0, t.tokens, t.n, &seq, &n) && !append(seq, &t, n) &&
                has_its_tokens(seq, &t, t.n) && !kvp_prefix_put(w->cache, 0, t.tokens, t.n, seq);
        kvp_seq_destroy(seq);
    }
    return NULL;
}

static void test_threads_that_share(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(1);
    kvp_prefix_cache *cache = open_cache(pager, 400);
    worker workers[6];
    pthread_t threads[6];
    for (uint32_t i = 0; i < 6; i++) {
        workers[i] = (worker){.pager = pager, .cache = cache, .id = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < 6; i++)
        assert_true(workers[i].ok);
    assert_true(stats_of(cache).n_hits > 0);
    kvp_prefix_cache_close(cache);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

/* Its prefixes are a tenant's: charged to the group, within its budget, and no one else's. */
static void test_a_cache_of_a_group(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(1), *other = open_pager(1);
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    kvp_budget b = kvp_budget_default();
    kvp_group *group;
    kvp_group_usage u = {.size = sizeof u};
    b.max[KVP_TIER_RAM] = 5 * s.slot_bytes;
    must(kvp_group_create(pager, NULL, &b, &group));
    kvp_prefix_cache *cache;
    assert_int_equal(kvp_prefix_cache_open(other, group, 1000, &cache), KVP_E_INVALID);
    must(kvp_prefix_cache_open(pager, group, 1000, &cache));
    text t = text_of(7, 3 * PAGE_TOKENS + 5);
    kvp_seq *seq, *stranger;
    uint64_t n;
    must(kvp_prefix_get(cache, 0, t.tokens, t.n, &seq, &n)); /* a miss is in the group too */
    assert_int_equal(n, 0);
    must(append(seq, &t, 0));
    must(kvp_group_stats(group, &u));
    assert_true(u.bytes[KVP_TIER_RAM] > 0 && u.n_seqs == 1);
    must(kvp_prefix_put(cache, 0, t.tokens, t.n, seq));
    kvp_seq_destroy(seq);
    must(kvp_prefix_get(cache, 0, t.tokens, t.n, &seq, &n));
    assert_int_equal(n, 3 * PAGE_TOKENS);
    must(append(seq, &t, n));
    must(kvp_group_stats(group, &u));
    assert_int_equal(u.n_seqs, 2); /* the one that is parked */
    assert_true(u.peak_bytes[KVP_TIER_RAM] <= u.max_bytes[KVP_TIER_RAM]);
    must(kvp_seq_create(pager, &stranger));
    must(append(stranger, &t, 0));
    assert_int_equal(kvp_prefix_put(cache, 0, t.tokens, t.n, stranger), KVP_E_INVALID);
    assert_non_null(strstr(kvp_error(), "group"));
    must(kvp_pager_check(pager));
    kvp_group_destroy(group); /* the cache and its sequences go on */
    kvp_seq_destroy(seq);
    must(kvp_prefix_get(cache, 0, t.tokens, t.n, &seq, &n));
    assert_int_equal(n, 3 * PAGE_TOKENS);
    kvp_prefix_cache_close(cache);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
    kvp_pager_close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_longest_common_prefix_is_found_in_whole_pages),
        cmocka_unit_test(test_get_reads_nothing_and_the_sequence_goes_on),
        cmocka_unit_test(test_salts_and_models_do_not_share),
        cmocka_unit_test(test_what_cannot_be_put_is_refused),
        cmocka_unit_test(test_random_branches_under_a_cap),
        cmocka_unit_test(test_threads_that_share),
        cmocka_unit_test(test_a_cache_of_a_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
