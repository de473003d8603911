/* test_contention.c - several threads, each with sequences of its own, append, scan, pin, truncate,
 * evict and destroy over few frames, while read-ahead follows scans from one thread's sequences
 * into another's. Every page that is handed out holds what was appended, and nobody waits for ever.
 */
#include "faulty_disk.h"
#include "pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define THREADS 8u
#define SEQS 2u /* of each thread */
#define LAYERS 3u
#define HEADS 2u
#define DIM 16u
#define PAGE_TOKENS 32u
#define PAGE_BYTES (2u * PAGE_TOKENS * HEADS * DIM * 2u) /* 4 KiB */
#define MAX_TOKENS 512u
#define MAX_APPEND 48u
#define STEPS 150u

static const kvp_layer_kind kind = {HEADS, DIM, DIM, KVP_F16};

typedef struct tenant_seq {
    kvp_seq *seq;
    uint32_t length[LAYERS];
    uint32_t salts[LAYERS][MAX_TOKENS];
} tenant_seq;

typedef struct tenant {
    kvp_pager *pager;
    uint64_t random;
    uint32_t salt;
    bool may_fail; /* the disk does */
    bool pins;
    uint32_t n_verified;
    tenant_seq seqs[SEQS];
    kvp_status status; /* what should not have happened */
    char message[512];
} tenant;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static uint32_t pick(tenant *t, uint32_t n)
{
    return (uint32_t)(pattern_random(&t->random) % n);
}

/* Assertions are for the main thread: what goes wrong here is told to it. */
static bool is_ok(tenant *t, kvp_status status)
{
    bool is_expected =
        t->may_fail && (status == KVP_E_IO || status == KVP_E_CORRUPT || status == KVP_E_LOST);
    if (status && !is_expected && !t->status) {
        t->status = status;
        snprintf(t->message, sizeof t->message, "%s", kvp_error());
    }
    return !status;
}

static void verify(tenant *t, const tenant_seq *s, const kvp_page_view *page)
{
    if (!pattern_page_ok(page, s->salts[page->layer]))
        is_ok(t, kvp_fail(KVP_E_INVALID, "layer %u, position %llu: not what was appended",
                          page->layer, (unsigned long long)page->first_position));
    t->n_verified++;
}

static void do_append(tenant *t, tenant_seq *s, uint32_t layer)
{
    float k[MAX_APPEND * HEADS * DIM], v[MAX_APPEND * HEADS * DIM];
    uint32_t n = 1 + pick(t, pick(t, 2) ? MAX_APPEND : 3);
    if (s->length[layer] + n > MAX_TOKENS)
        return;
    uint32_t *salts = s->salts[layer] + s->length[layer];
    for (uint32_t i = 0; i < n; i++)
        salts[i] = t->salt++;
    pattern_rows(&kind, salts, n, k, v);
    if (is_ok(t, kvp_seq_append(s->seq, layer, k, v, n)))
        s->length[layer] += n;
}

static bool scan_item(tenant *t, const tenant_seq *s, kvp_scan *scan, uint32_t part)
{
    kvp_scan_item item;
    kvp_page_view page;
    if (!is_ok(t, kvp_scan_claim(scan, part, &item)))
        return false;
    for (uint32_t i = 0; i < item.n_pages; i++) {
        if (!is_ok(t, kvp_scan_next(scan, part, &page)))
            return false;
        verify(t, s, &page);
    }
    return item.n_pages > 0;
}

static void do_scan(tenant *t, const tenant_seq *s, uint32_t layer)
{
    kvp_scan *scan;
    kvp_scan_args args = {
        .layer = layer, .max_parts = 2, .end = UINT64_MAX, .workspace_bytes = pick(t, 2) * 4096};
    if (!is_ok(t, kvp_scan_open(s->seq, &args, &scan)))
        return;
    for (uint32_t i = 0; scan_item(t, s, scan, i % kvp_scan_parts(scan)); i++)
        continue;
    kvp_scan_close(scan);
}

static void do_pin(tenant *t, const tenant_seq *s, uint32_t layer)
{
    kvp_page_view page;
    kvp_view view = {.pages = &page, .max_pages = 1};
    if (!t->pins || !s->length[layer])
        return;
    uint64_t deadline_ns = pick(t, 2) ? KVP_FOREVER : 0;
    kvp_status status =
        kvp_seq_pin(s->seq, layer, pick(t, s->length[layer]), 1, deadline_ns, &view);
    if (status == KVP_E_AGAIN || status == KVP_E_RANGE) /* not there yet; evicted */
        return;
    if (is_ok(t, status))
        verify(t, s, &page);
    kvp_view_unpin(&view);
}

static void do_shorten(tenant *t, tenant_seq *s)
{
    uint32_t n = pick(t, MAX_TOKENS);
    kvp_status status = kvp_seq_truncate(s->seq, n);
    if (status == KVP_E_RANGE || !is_ok(t, status)) /* into what was evicted */
        return;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        s->length[layer] = n < s->length[layer] ? n : s->length[layer];
}

static void do_recreate(tenant *t, tenant_seq *s)
{
    kvp_seq_destroy(s->seq);
    memset(s->length, 0, sizeof s->length);
    is_ok(t, kvp_seq_create(t->pager, &s->seq));
}

static void step(tenant *t)
{
    tenant_seq *s = &t->seqs[pick(t, SEQS)];
    uint32_t what = pick(t, 100);
    if (what < 60) { /* a step of decoding, or a chunk of a prompt */
        for (uint32_t layer = 0; layer < LAYERS && !t->status; layer++) {
            do_append(t, s, layer);
            do_scan(t, s, layer);
        }
    } else if (what < 80) {
        do_pin(t, s, pick(t, LAYERS));
    } else if (what < 86) {
        do_shorten(t, s);
    } else if (what < 90) {
        is_ok(t, kvp_seq_evict(s->seq, KVP_ALL_LAYERS, pick(t, 200), 200 + pick(t, 200)));
    } else if (what < 94) {
        is_ok(t, kvp_seq_advise(s->seq, 0, UINT64_MAX, KVP_COLD));
    } else if (what < 97) {
        do_recreate(t, s);
    } else {
        kvp_status status = kvp_pager_check(t->pager); /* in the middle of what others do */
        is_ok(t, status ? kvp_fail(KVP_E_INVALID, "%s", kvp_error()) : KVP_OK);
    }
}

static void *tenant_main(void *arg)
{
    tenant *t = arg;
    for (uint32_t i = 0; i < SEQS; i++)
        is_ok(t, kvp_seq_create(t->pager, &t->seqs[i].seq));
    for (uint32_t i = 0; i < STEPS && !t->status; i++)
        step(t);
    for (uint32_t i = 0; i < SEQS; i++)
        kvp_seq_destroy(t->seqs[i].seq);
    return NULL;
}

static void check_stats(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    assert_true(s.prefetches_used > 0);
    assert_int_equal(s.prefetches, s.prefetches_used + s.prefetches_wasted); /* nothing is left */
    assert_true(s.ram_peak_bytes <= s.ram_budget_bytes);
    assert_int_equal(s.pages[KVP_TIER_RAM] + s.pages[KVP_TIER_ZRAM] + s.pages[KVP_TIER_DISK], 0);
}

static void run_tenants(kvp_config cfg, uint64_t seed, bool may_fail)
{
    static tenant tenants[THREADS];
    pthread_t threads[THREADS];
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    for (uint32_t i = 0; i < THREADS; i++) {
        tenants[i] = (tenant){.pager = pager,
                              .random = (seed * THREADS + i + 1) * 2654435761u,
                              .salt = 1 + (i << 24),
                              .may_fail = may_fail,
                              .pins = cfg.ram_bytes >= 12 * PAGE_BYTES};
        assert_int_equal(pthread_create(&threads[i], NULL, tenant_main, &tenants[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < THREADS; i++) {
        if (tenants[i].status)
            fail_msg("seed %u, thread %u: %s", (unsigned)seed, i, tenants[i].message);
        assert_true(tenants[i].n_verified > 0);
    }
    must(kvp_pager_check(pager));
    check_stats(pager);
    kvp_pager_close(pager);
}

/* Room for n frames and one staging buffer. */
static kvp_config config(uint32_t n_frames)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = LAYERS,
                                  .n_kv_heads = HEADS,
                                  .head_dim = DIM,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS};
    cfg.ram_bytes = n_frames * PAGE_BYTES + PAGE_BYTES / 2;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    return cfg;
}

static void test_on_disk(void **state)
{
    (void)state;
    static const uint32_t n_frames[] = {3, 5, 13, 30};
    for (uint32_t i = 0; i < 4; i++) {
        kvp_config cfg = config(n_frames[i]);
        cfg.disk_engine = i % 2 ? "threads" : NULL;
        cfg.placement = kvp_placement_at(i);
        run_tenants(cfg, i, false);
    }
}

static void test_with_zram(void **state)
{
    (void)state;
    static const uint32_t n_frames[] = {4, 8, 30};
    for (uint32_t i = 0; i < 3; i++) {
        kvp_config cfg = config(n_frames[i]);
        cfg.zram_bytes = 12 * PAGE_BYTES;
        run_tenants(cfg, 10 + i, false);
    }
}

/* Reads that fail, or bring other bytes, one in each run: a page that is wanted may be missing, but
 * none is wrong. */
static void test_on_a_disk_that_fails(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        faulty_disk disk;
        faulty_disk_init(&disk, NULL);
        faulty_disk_arm(&disk, (faulty_plan){.kind = i % 2 ? FAULT_FLIP : FAULT_EIO,
                                             .op = FAULT_READS,
                                             .nth = 1 + i * 40,
                                             .flip_bit = i * 1000});
        kvp_config cfg = config(i < 3 ? 3 : 14);
        cfg.env = &disk.env;
        run_tenants(cfg, 20 + i, true);
        assert_int_equal(faulty_disk_fired(&disk), 1);
        faulty_disk_fini(&disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_on_disk),
        cmocka_unit_test(test_with_zram),
        cmocka_unit_test(test_on_a_disk_that_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
