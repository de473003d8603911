/* test_pager_model.c - random operations against a model that knows what every token must be.
 *
 * After each operation the pager's own invariants are checked; pages are read through pins and
 * scans and compared element by element. One seed replays a run, as far as real disk engines allow.
 *
 * tests/sim/ plays the same game on a simulated disk and clock, with errors, tickets and deadlines,
 * a hundred times longer, and to the byte the same from a seed. What is here runs on the engines
 * that users have, and with threads. */
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 2048u
#define MAX_LAYERS 5u
#define MAX_SEQS 5u
#define MAX_APPEND 150u

typedef struct model_seq {
    kvp_seq *seq;
    uint32_t salts[MAX_LAYERS][MAX_TOKENS];
    uint64_t length[MAX_LAYERS];
} model_seq;

typedef struct run {
    kvp_pager *pager;
    kvp_layer_kind kinds[MAX_LAYERS];
    uint32_t n_layers;
    uint64_t random;
    uint32_t next_salt;
    model_seq seqs[MAX_SEQS];
    bool may_run_out; /* appends may find no room */
    uint32_t n_refused, n_verified, n_forks;
    float k[MAX_APPEND * 8 * 64], v[MAX_APPEND * 8 * 64];
} run;

static uint32_t pick(run *r, uint32_t n)
{
    return (uint32_t)(pattern_random(&r->random) >> 33) % n;
}

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void do_append(run *r, model_seq *s)
{
    uint32_t layer = pick(r, r->n_layers);
    uint64_t before = s->length[layer];
    uint32_t n = 1 + pick(r, pick(r, 2) ? 3 : MAX_APPEND);
    if (before + n > MAX_TOKENS)
        return;
    for (uint32_t i = 0; i < n; i++)
        s->salts[layer][before + i] = r->next_salt++;
    kvp_status status =
        pattern_append(s->seq, layer, &r->kinds[layer], &s->salts[layer][before], n, r->k, r->v);
    if (status == KVP_E_NOSPACE && r->may_run_out) {
        r->n_refused++;
        assert_int_equal(kvp_seq_layer_length(s->seq, layer), before);
        return;
    }
    must(status);
    s->length[layer] += n;
    assert_int_equal(kvp_seq_layer_length(s->seq, layer), s->length[layer]);
}

static void do_truncate(run *r, model_seq *s)
{
    uint32_t n = pick(r, MAX_TOKENS / 2);
    kvp_status status = kvp_seq_truncate(s->seq, n);
    if (status == KVP_E_RANGE) /* into what was evicted */
        return;
    must(status);
    for (uint32_t l = 0; l < r->n_layers; l++)
        s->length[l] = n < s->length[l] ? n : s->length[l];
}

static void do_evict(run *r, model_seq *s)
{
    uint64_t begin = pick(r, MAX_TOKENS / 2);
    must(kvp_seq_evict(s->seq, pick(r, 2) ? pick(r, r->n_layers) : KVP_ALL_LAYERS, begin,
                       begin + pick(r, 300)));
}

static void do_cool(run *r, model_seq *s)
{
    must(kvp_seq_advise(s->seq, pick(r, MAX_TOKENS / 2), pick(r, 300), KVP_COLD));
}

static void do_pin(run *r, model_seq *s)
{
    uint32_t layer = pick(r, r->n_layers);
    if (!s->length[layer])
        return;
    uint64_t first = pick(r, (uint32_t)s->length[layer]);
    kvp_page_view pages[64];
    kvp_view view = {.pages = pages, .max_pages = 64};
    kvp_status status = kvp_seq_pin(s->seq, layer, first, 1, KVP_FOREVER, &view);
    if (status == KVP_E_RANGE || status == KVP_E_NOSPACE) /* evicted; more groups than frames */
        return;
    must(status);
    must(kvp_pager_check(r->pager));
    for (size_t i = 0; i < view.n_pages; i++)
        assert_true(pattern_page_ok(&pages[i], s->salts[layer]));
    r->n_verified += (uint32_t)view.n_pages;
    kvp_view_unpin(&view);
}

static void do_scan(run *r, model_seq *s)
{
    uint32_t layer = pick(r, r->n_layers);
    kvp_scan_args args = {.layer = layer,
                          .max_parts = 1 + pick(r, 3),
                          .end = UINT64_MAX,
                          .workspace_bytes = pick(r, 2) * 4096};
    if (pick(r, 3) == 0) {
        args.sinks_end = pick(r, 200);
        args.begin = pick(r, MAX_TOKENS);
    }
    kvp_scan *scan;
    must(kvp_scan_open(s->seq, &args, &scan));
    must(kvp_pager_check(r->pager));
    uint64_t n_items = kvp_scan_items(scan), seen = 0;
    uint32_t n_parts = kvp_scan_parts(scan);
    bool done[4] = {false};
    for (uint32_t part = 0, left = n_parts; left; part = (part + 1) % n_parts) {
        kvp_scan_item item;
        if (done[part])
            continue;
        must(kvp_scan_claim(scan, part, &item));
        if (!item.n_pages) {
            done[part] = true;
            left--;
            continue;
        }
        assert_int_equal(item.index, seen++);
        for (uint32_t i = 0; i < item.n_pages; i++) {
            kvp_page_view page;
            must(kvp_scan_next(scan, part, &page));
            assert_true(pattern_page_ok(&page, s->salts[layer]));
            r->n_verified++;
        }
    }
    assert_int_equal(seen, n_items);
    kvp_scan_close(scan);
}

static void do_recreate(run *r, model_seq *s)
{
    kvp_seq_destroy(s->seq);
    memset(s->length, 0, sizeof s->length);
    must(kvp_seq_create(r->pager, &s->seq));
}

/* Another sequence becomes a copy of this one. */
static void do_fork(run *r, model_seq *s)
{
    model_seq *child = &r->seqs[pick(r, MAX_SEQS)];
    if (child == s)
        return;
    kvp_seq_destroy(child->seq);
    *child = *s;
    must(kvp_seq_fork(s->seq, &child->seq));
    r->n_forks++;
}

static void step(run *r)
{
    model_seq *s = &r->seqs[pick(r, MAX_SEQS)];
    uint32_t what = pick(r, 100);
    if (what < 55)
        do_append(r, s);
    else if (what < 60)
        do_truncate(r, s);
    else if (what < 64)
        do_evict(r, s);
    else if (what < 67)
        do_cool(r, s);
    else if (what < 84)
        do_pin(r, s);
    else if (what < 96)
        do_scan(r, s);
    else if (what < 98)
        do_fork(r, s);
    else
        do_recreate(r, s);
    must(kvp_pager_check(r->pager));
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats stats = {.size = sizeof stats};
    must(kvp_pager_stats(pager, &stats));
    return stats;
}

static void run_model(kvp_config cfg, uint64_t seed, uint32_t n_steps, kvp_stats *stats,
                      uint32_t *n_refused)
{
    run *r = calloc(1, sizeof *r);
    r->random = seed * 2654435761u + 1;
    r->n_layers = MAX_LAYERS;
    r->may_run_out = !cfg.disk_bytes;
    r->kinds[0] = (kvp_layer_kind){4, 16, 16, cfg.geometry.dtype};
    r->kinds[1] = (kvp_layer_kind){3, 24, 8, cfg.geometry.dtype};
    r->kinds[2] = (kvp_layer_kind){1, 5, 7, KVP_F32};
    r->kinds[3] = (kvp_layer_kind){2, 37, 11, KVP_OPAQUE};
    r->kinds[4] = (kvp_layer_kind){3, 61, 0, KVP_OPAQUE};
    cfg.geometry.n_layers = r->n_layers;
    cfg.geometry.layers = r->kinds;
    cfg.geometry.page_tokens = 32;
    cfg.geometry.page_heads = 2;
    must(kvp_pager_open(&cfg, &r->pager));
    for (uint32_t i = 0; i < MAX_SEQS; i++)
        must(kvp_seq_create(r->pager, &r->seqs[i].seq));
    for (uint32_t i = 0; i < n_steps; i++)
        step(r);
    *stats = stats_of(r->pager);
    assert_true(r->n_verified > 0 && r->n_forks > 0);
    assert_true(stats->copies_on_write > 0);
    *n_refused = r->n_refused;
    kvp_pager_close(r->pager);
    free(r);
}

static uint64_t least_ram(kvp_config cfg)
{
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .n_kv_heads = 2, .head_dim = 24, .dtype = KVP_F16, .page_tokens = 32};
    cfg.ram_bytes = 1;
    kvp_pager *pager;
    assert_int_equal(kvp_pager_open(&cfg, &pager), KVP_E_BUDGET);
    const char *needs = strstr(kvp_error(), "needs at least ");
    assert_non_null(needs);
    return strtoull(needs + strlen("needs at least "), NULL, 10);
}

static kvp_config base_config(void)
{
    kvp_config cfg = kvp_config_default();
    cfg.n_threads = 2;
    cfg.geometry.dtype = KVP_F16;
    return cfg;
}

static void assert_moved(const kvp_stats *s)
{
    assert_true(s->demotions > 0);
    assert_true(s->minor_faults + s->major_faults > 0);
}

static void test_random_operations_with_disk_only_keep_every_byte(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        kvp_config cfg = base_config();
        cfg.disk_bytes = KVP_UNLIMITED;
        cfg.disk_engine = seed % 2 ? "threads" : NULL;
        cfg.placement = kvp_placement_at(seed % 6);
        cfg.ram_bytes = seed < 3 ? 80000 : 300000;
        kvp_stats s;
        uint32_t refused;
        run_model(cfg, seed, 1500, &s, &refused);
        assert_moved(&s);
        assert_true(s.bytes_read > 0 && s.bytes_written > 0);
        assert_true(s.ram_peak_bytes <= cfg.ram_bytes);
    }
}

static void test_random_operations_with_zram_and_disk_keep_every_byte(void **state)
{
    (void)state;
    for (uint64_t seed = 11; seed <= 14; seed++) {
        kvp_config cfg = base_config();
        cfg.disk_bytes = KVP_UNLIMITED;
        cfg.zram_bytes = seed % 2 ? 100000 : 400000;
        cfg.placement = kvp_placement_at(seed % 6);
        cfg.ram_bytes = 120000;
        kvp_stats s;
        uint32_t refused;
        run_model(cfg, seed, 1500, &s, &refused);
        assert_moved(&s);
        assert_true(s.minor_faults > 0 && s.major_faults > 0);
        assert_true(s.zram_peak_bytes > 0 && s.zram_peak_bytes <= cfg.zram_bytes);
#ifdef KVP_HAVE_ZSTD
        assert_true(s.codec_raw_bytes > s.codec_stored_bytes);
#else
        assert_true(s.codec_raw_bytes >= s.codec_stored_bytes);
#endif
    }
}

static void test_random_operations_without_disk_refuse_cleanly(void **state)
{
    (void)state;
    for (uint64_t seed = 21; seed <= 24; seed++) {
        kvp_config cfg = base_config();
        cfg.zram_bytes = seed % 2 ? 200000 : 0;
        cfg.ram_bytes = 200000;
        kvp_stats s;
        uint32_t refused;
        run_model(cfg, seed, 1500, &s, &refused);
        assert_true(refused > 0);
        assert_true(s.ram_peak_bytes <= cfg.ram_bytes);
        if (cfg.zram_bytes)
            assert_true(s.minor_faults > 0);
    }
}

static void test_random_operations_on_a_small_disk_respect_its_cap(void **state)
{
    (void)state;
    kvp_config cfg = base_config();
    cfg.disk_bytes = 400000;
    cfg.ram_bytes = 120000;
    kvp_pager *pager;
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = 4,
                                  .head_dim = 16,
                                  .dtype = KVP_F16,
                                  .page_tokens = 32,
                                  .page_heads = 2};
    must(kvp_pager_open(&cfg, &pager));
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    static float rows[32 * 64];
    kvp_status status = KVP_OK;
    uint32_t n = 0;
    while (!status && n < 10000) {
        status = kvp_seq_append(seq, 0, rows, rows, 32);
        must(kvp_pager_check(pager));
        n += !status;
    }
    assert_int_equal(status, KVP_E_NOSPACE);
    assert_int_equal(kvp_seq_length(seq), n * 32);
    kvp_stats s = stats_of(pager);
    assert_true(s.disk_peak_bytes <= cfg.disk_bytes);
    assert_true(s.disk_peak_bytes >= cfg.disk_bytes / 2);
    kvp_seq_destroy(seq); /* room again */
    must(kvp_seq_create(pager, &seq));
    must(kvp_seq_append(seq, 0, rows, rows, 32));
    kvp_pager_close(pager);
}

/* ---- several threads, the smallest budget ---- */

typedef struct tenant {
    kvp_pager *pager;
    uint32_t id;
    bool pins;
    kvp_status status;
    char message[512];
} tenant;

#define TENANT_TOKENS 400u

static void *tenant_main(void *arg)
{
    tenant *t = arg;
    kvp_seq *seq = NULL;
    kvp_status status = kvp_seq_create(t->pager, &seq);
    float k[2 * 24], v[2 * 24], q[4 * 24], out[4 * 24];
    uint32_t salts[TENANT_TOKENS];
    kvp_layer_kind kind = {2, 24, 24, KVP_F16};
    for (uint32_t i = 0; i < 4 * 24; i++)
        q[i] = pattern_value(t->id, false, 9, i);
    for (uint32_t i = 0; i < TENANT_TOKENS && !status; i++) {
        salts[i] = t->id << 16 | i;
        pattern_rows(&kind, &salts[i], 1, k, v);
        status = kvp_seq_append(seq, 0, k, v, 1);
        if (!status && i % 7 == 0)
            status =
                kvp_attend(seq, 0,
                           &(kvp_attend_args){
                               .q = q, .out = out, .n_queries = 1, .n_heads = 4, .scale = 0.2f});
        kvp_page_view pages[2];
        kvp_view view = {.pages = pages, .max_pages = 2};
        if (!status && t->pins && i % 13 == 0)
            status = kvp_seq_pin(seq, 0, i / 2, 1, KVP_FOREVER, &view);
        if (!status && view.n_pages && !pattern_page_ok(&pages[0], salts))
            status = kvp_fail(KVP_E_CORRUPT, "wrong bytes handed out");
        kvp_view_unpin(&view);
    }
    t->status = status;
    snprintf(t->message, sizeof t->message, "%s", status ? kvp_error() : "");
    kvp_seq_destroy(seq);
    return NULL;
}

/* Attending needs no more than the smallest budget; a pin takes a frame of its own. */
static void run_tenants(uint32_t n_pins)
{
    for (int zram = 0; zram < 2; zram++) {
        kvp_config cfg = base_config();
        cfg.disk_bytes = KVP_UNLIMITED;
        cfg.zram_bytes = zram ? 100000 : 0;
        cfg.ram_bytes = least_ram(cfg) + n_pins * 8500;
        cfg.geometry = (kvp_geometry){
            .n_layers = 1, .n_kv_heads = 2, .head_dim = 24, .dtype = KVP_F16, .page_tokens = 32};
        kvp_pager *pager;
        must(kvp_pager_open(&cfg, &pager));
        tenant tenants[8];
        pthread_t threads[8];
        for (uint32_t i = 0; i < 8; i++) {
            tenants[i] = (tenant){.pager = pager, .id = i + 1, .pins = i < n_pins};
            assert_int_equal(pthread_create(&threads[i], NULL, tenant_main, &tenants[i]), 0);
        }
        for (uint32_t i = 0; i < 8; i++)
            pthread_join(threads[i], NULL);
        for (uint32_t i = 0; i < 8; i++)
            if (tenants[i].status)
                fail_msg("tenant %u: %s", i, tenants[i].message);
        kvp_stats s = stats_of(pager);
        assert_moved(&s);
        assert_true(s.ram_peak_bytes <= cfg.ram_bytes);
        must(kvp_pager_check(pager));
        kvp_pager_close(pager);
    }
}

static void test_eight_sequences_in_the_smallest_budget_never_deadlock(void **state)
{
    (void)state;
    run_tenants(0);
}

static void test_eight_threads_that_pin_see_only_their_own_bytes(void **state)
{
    (void)state;
    run_tenants(8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations_with_disk_only_keep_every_byte),
        cmocka_unit_test(test_random_operations_with_zram_and_disk_keep_every_byte),
        cmocka_unit_test(test_random_operations_without_disk_refuse_cleanly),
        cmocka_unit_test(test_random_operations_on_a_small_disk_respect_its_cap),
        cmocka_unit_test(test_eight_sequences_in_the_smallest_budget_never_deadlock),
        cmocka_unit_test(test_eight_threads_that_pin_see_only_their_own_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
