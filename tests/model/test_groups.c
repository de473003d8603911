/* test_groups.c - tenants under random load: threads, each with sequences in a group of its own,
 * append, scan, pin, fork, truncate and destroy while budgets change at random. No group is ever
 * above a max; one that does nothing is never pushed below its min; and every page that is handed
 * out holds what was appended. */
#include "pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define TENANTS 8u
#define SEQS 3u
#define LAYERS 2u
#define HEADS 2u
#define DIM 16u
#define PAGE_TOKENS 32u
#define PAGE_BYTES (2u * PAGE_TOKENS * HEADS * DIM * 2u) /* 4 KiB */
#define MAX_TOKENS 512u
#define MAX_APPEND 48u
#define STEPS 120u
#define SLEEPER_MIN (5u * PAGE_BYTES)
#define SLEEPER_PAGES 10u

static const kvp_layer_kind kind = {HEADS, DIM, DIM, KVP_F16};

typedef struct model_seq {
    kvp_seq *seq;
    uint32_t length[LAYERS];
    uint32_t salts[LAYERS][MAX_TOKENS];
} model_seq;

/* What a tenant asked for and got: the group's budget is changed by its own thread only. */
typedef struct limits {
    uint64_t min[KVP_N_TIERS], max[KVP_N_TIERS];
} limits;

typedef struct tenant {
    kvp_pager *pager;
    kvp_group *group, *sleeper; /* sleeper: has pages, and does nothing */
    limits limits;
    uint64_t random;
    uint32_t max_frames, salt, n_verified, n_refused, n_resized;
    model_seq seqs[SEQS];
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
    return (uint32_t)(pattern_random(&t->random) >> 33) % n;
}

/* Assertions are for the main thread: what goes wrong here is told to it. */
static bool is_ok(tenant *t, kvp_status status)
{
    if (status && !t->status) {
        t->status = status;
        snprintf(t->message, sizeof t->message, "%s", kvp_error());
    }
    return !status;
}

/* It may also find no room. */
static bool is_done(tenant *t, kvp_status status)
{
    if (status == KVP_E_NOSPACE) {
        t->n_refused++;
        return false;
    }
    return is_ok(t, status);
}

static void verify(tenant *t, const model_seq *s, const kvp_page_view *page)
{
    if (!pattern_page_ok(page, s->salts[page->layer]))
        is_ok(t, kvp_fail(KVP_E_INVALID, "layer %u, position %llu: not what was appended",
                          page->layer, (unsigned long long)page->first_position));
    t->n_verified++;
}

static kvp_group_usage usage_of(tenant *t, kvp_group *group)
{
    kvp_group_usage u = {.size = sizeof u};
    is_ok(t, kvp_group_stats(group, &u));
    return u;
}

/* After every operation. */
static void check(tenant *t)
{
    kvp_group_usage u = usage_of(t, t->sleeper);
    if (u.bytes[KVP_TIER_RAM] < SLEEPER_MIN)
        is_ok(t, kvp_fail(KVP_E_INVALID, "%llu bytes are left of a min of %u",
                          (unsigned long long)u.bytes[KVP_TIER_RAM], SLEEPER_MIN));
    u = usage_of(t, t->group);
    for (int tier = KVP_TIER_RAM; tier < KVP_N_TIERS; tier++)
        if (u.bytes[tier] > t->limits.max[tier])
            is_ok(t, kvp_fail(KVP_E_INVALID, "tier %d: %llu bytes, but max is %llu", tier,
                              (unsigned long long)u.bytes[tier],
                              (unsigned long long)t->limits.max[tier]));
}

static void do_append(tenant *t, model_seq *s, uint32_t layer)
{
    float k[MAX_APPEND * HEADS * DIM], v[MAX_APPEND * HEADS * DIM];
    uint32_t n = 1 + pick(t, pick(t, 2) ? MAX_APPEND : 3);
    if (s->length[layer] + n > MAX_TOKENS)
        return;
    uint32_t *salts = s->salts[layer] + s->length[layer];
    for (uint32_t i = 0; i < n; i++)
        salts[i] = t->salt++;
    pattern_rows(&kind, salts, n, k, v);
    if (is_done(t, kvp_seq_append(s->seq, layer, k, v, n)))
        s->length[layer] += n;
}

static bool scan_item(tenant *t, const model_seq *s, kvp_scan *scan, uint32_t part)
{
    kvp_scan_item item;
    kvp_page_view page;
    if (!is_ok(t, kvp_scan_claim(scan, part, &item)))
        return false;
    for (uint32_t i = 0; i < item.n_pages; i++) {
        if (!is_ok(t, kvp_scan_next(scan, part, &page)))
            return false;
        verify(t, s, &page);
        check(t);
    }
    return item.n_pages > 0;
}

static void do_scan(tenant *t, const model_seq *s, uint32_t layer)
{
    kvp_scan *scan;
    kvp_scan_args args = {
        .layer = layer, .max_parts = 2, .end = UINT64_MAX, .workspace_bytes = pick(t, 2) * 4096};
    if (!is_done(t, kvp_scan_open(s->seq, &args, &scan)))
        return;
    for (uint32_t i = 0; scan_item(t, s, scan, i % kvp_scan_parts(scan)); i++)
        continue;
    kvp_scan_close(scan);
}

static void do_pin(tenant *t, const model_seq *s, uint32_t layer)
{
    kvp_page_view pages[2];
    kvp_view view = {.pages = pages, .max_pages = 2};
    if (!s->length[layer])
        return;
    uint64_t deadline_ns = pick(t, 2) ? KVP_FOREVER : 0;
    kvp_status status =
        kvp_seq_pin(s->seq, layer, pick(t, s->length[layer]), 1, deadline_ns, &view);
    if (status == KVP_E_AGAIN)
        return;
    if (is_done(t, status))
        verify(t, s, &pages[0]);
    check(t);
    kvp_view_unpin(&view);
}

static void do_truncate(tenant *t, model_seq *s)
{
    uint32_t n = pick(t, MAX_TOKENS);
    if (!is_ok(t, kvp_seq_truncate(s->seq, n)))
        return;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        s->length[layer] = n < s->length[layer] ? n : s->length[layer];
}

static void do_recreate(tenant *t, model_seq *s)
{
    kvp_seq_destroy(s->seq);
    memset(s->length, 0, sizeof s->length);
    is_ok(t, kvp_seq_create_in(t->group, &s->seq));
}

static void do_fork(tenant *t, model_seq *s)
{
    model_seq *child = &t->seqs[pick(t, SEQS)];
    if (child == s)
        return;
    kvp_seq_destroy(child->seq);
    *child = *s;
    if (!is_done(t, kvp_seq_fork(s->seq, &child->seq))) {
        memset(child, 0, sizeof *child);
        is_ok(t, kvp_seq_create_in(t->group, &child->seq));
    }
}

/* A budget is refused, comes too late, or is in force. */
static bool is_changed(tenant *t, kvp_status status)
{
    if (status == KVP_E_BUDGET || status == KVP_E_TIMEOUT || status == KVP_E_NOSPACE)
        return false;
    t->n_resized += !status;
    return is_ok(t, status);
}

static void do_resize(tenant *t)
{
    static const kvp_tier_id tiers[] = {KVP_TIER_RAM, KVP_TIER_RAM, KVP_TIER_ZRAM, KVP_TIER_DISK};
    kvp_tier_id tier = tiers[pick(t, 4)];
    uint64_t max = (3 + pick(t, 14)) * (uint64_t)PAGE_BYTES;
    uint64_t min = tier == KVP_TIER_RAM ? pick(t, 6) * (uint64_t)PAGE_BYTES : 0;
    if (pick(t, 4) == 0)
        max = KVP_UNLIMITED;
    if (tier == KVP_TIER_DISK && max != KVP_UNLIMITED)
        max *= 8;
    uint64_t deadline_ns = pick(t, 3) ? KVP_FOREVER : 0;
    if (is_changed(t, kvp_group_set_budget(t->group, tier, min, max, deadline_ns))) {
        t->limits.min[tier] = min;
        t->limits.max[tier] = max;
    }
}

static void do_resize_seq(tenant *t, model_seq *s)
{
    uint64_t max = pick(t, 3) ? (3 + pick(t, 8)) * (uint64_t)PAGE_BYTES : KVP_UNLIMITED;
    kvp_group_usage u = {.size = sizeof u};
    if (!is_changed(t, kvp_seq_set_budget(s->seq, KVP_TIER_RAM, pick(t, 3) * (uint64_t)PAGE_BYTES,
                                          max, KVP_FOREVER)))
        return;
    if (is_ok(t, kvp_seq_stats(s->seq, &u)) && u.bytes[KVP_TIER_RAM] > max)
        is_ok(t, kvp_fail(KVP_E_INVALID, "a sequence has %llu bytes, but its max is %llu",
                          (unsigned long long)u.bytes[KVP_TIER_RAM], (unsigned long long)max));
}

static void do_resize_pager(tenant *t)
{
    uint64_t bytes = (12 + pick(t, t->max_frames - 12)) * (uint64_t)PAGE_BYTES;
    is_changed(t, kvp_pager_set_budget(t->pager, KVP_TIER_RAM, pick(t, 4) ? bytes : KVP_UNLIMITED,
                                       pick(t, 2) ? KVP_FOREVER : 0));
}

static void step(tenant *t)
{
    model_seq *s = &t->seqs[pick(t, SEQS)];
    uint32_t what = pick(t, 100);
    if (what < 50) { /* a step of decoding, or a chunk of a prompt */
        for (uint32_t layer = 0; layer < LAYERS && !t->status; layer++) {
            do_append(t, s, layer);
            do_scan(t, s, layer);
        }
    } else if (what < 65) {
        do_pin(t, s, pick(t, LAYERS));
    } else if (what < 70) {
        do_truncate(t, s);
    } else if (what < 76) {
        do_fork(t, s);
    } else if (what < 80) {
        do_recreate(t, s);
    } else if (what < 90) {
        do_resize(t);
    } else if (what < 94) {
        do_resize_seq(t, s);
    } else if (what < 97) {
        do_resize_pager(t);
    } else {
        is_ok(t, kvp_seq_advise(s->seq, 0, UINT64_MAX,
                                (kvp_advice)(KVP_COLD + pick(t, KVP_NORMAL - KVP_COLD + 1))));
    }
    check(t);
    kvp_status status = kvp_pager_check(t->pager); /* in the middle of what others do */
    is_ok(t, status ? kvp_fail(KVP_E_INVALID, "%s", kvp_error()) : KVP_OK);
}

static void *tenant_main(void *arg)
{
    tenant *t = arg;
    for (uint32_t i = 0; i < SEQS; i++)
        is_ok(t, kvp_seq_create_in(t->group, &t->seqs[i].seq));
    for (uint32_t i = 0; i < STEPS && !t->status; i++)
        step(t);
    for (uint32_t i = 0; i < SEQS; i++)
        kvp_seq_destroy(t->seqs[i].seq);
    return NULL;
}

static kvp_group *open_sleeper(kvp_pager *pager)
{
    static float rows[SLEEPER_PAGES * PAGE_TOKENS * HEADS * DIM];
    kvp_budget b = kvp_budget_default();
    kvp_group *group;
    kvp_seq *seq;
    b.name = "sleeper";
    b.min[KVP_TIER_RAM] = SLEEPER_MIN;
    must(kvp_group_create(pager, NULL, &b, &group));
    must(kvp_seq_create_in(group, &seq));
    must(kvp_seq_append(seq, 0, rows, rows, SLEEPER_PAGES * PAGE_TOKENS));
    return group;
}

/* Groups with odd numbers are inside the one before. */
static void open_tenants(tenant *tenants, kvp_pager *pager, uint32_t max_frames, uint64_t seed)
{
    kvp_group *sleeper = open_sleeper(pager);
    for (uint32_t i = 0; i < TENANTS; i++) {
        tenants[i] = (tenant){.pager = pager,
                              .sleeper = sleeper,
                              .max_frames = max_frames,
                              .random = (seed * TENANTS + i + 1) * 2654435761u,
                              .salt = 1 + (i << 24)};
        for (int tier = 0; tier < KVP_N_TIERS; tier++)
            tenants[i].limits.max[tier] = KVP_UNLIMITED;
        must(kvp_group_create(pager, i % 2 ? tenants[i - 1].group : NULL, NULL, &tenants[i].group));
    }
}

static void run_tenants(kvp_config cfg, uint64_t seed)
{
    static tenant tenants[TENANTS];
    pthread_t threads[TENANTS];
    kvp_pager *pager;
    uint32_t n_resized = 0, n_verified = 0;
    must(kvp_pager_open(&cfg, &pager));
    open_tenants(tenants, pager, (uint32_t)(cfg.ram_bytes / PAGE_BYTES), seed);
    for (uint32_t i = 0; i < TENANTS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, tenant_main, &tenants[i]), 0);
    for (uint32_t i = 0; i < TENANTS; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < TENANTS; i++) {
        if (tenants[i].status)
            fail_msg("seed %u, tenant %u: %s", (unsigned)seed, i, tenants[i].message);
        n_verified += tenants[i].n_verified;
        n_resized += tenants[i].n_resized;
        kvp_group_usage u = usage_of(&tenants[i], tenants[i].group);
        for (int tier = 0; tier < KVP_N_TIERS; tier++)
            assert_int_equal(u.bytes[tier], 0);
        assert_int_equal(u.n_seqs, 0);
    }
    assert_true(n_resized > 0 && n_verified > 0);
    must(kvp_pager_check(pager));
    for (uint32_t i = 0; i < TENANTS; i++)
        kvp_group_destroy(tenants[i].group);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

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
    for (uint32_t i = 0; i < 6; i++) {
        kvp_config cfg = config(i % 2 ? 40 : 24);
        cfg.disk_engine = i % 3 ? "threads" : NULL;
        cfg.placement = kvp_placement_at(i % 6);
        run_tenants(cfg, i);
    }
}

static void test_with_zram(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        kvp_config cfg = config(i % 2 ? 40 : 24);
        cfg.zram_bytes = 30 * PAGE_BYTES;
        run_tenants(cfg, 20 + i);
    }
}

static void test_without_disk(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        kvp_config cfg = config(60);
        cfg.disk_bytes = 0;
        cfg.zram_bytes = i % 2 ? 30 * PAGE_BYTES : 0;
        run_tenants(cfg, 40 + i);
    }
}

static void test_on_a_small_disk(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        kvp_config cfg = config(40);
        cfg.disk_bytes = 50 * PAGE_BYTES;
        cfg.zram_bytes = i % 2 ? 30 * PAGE_BYTES : 0;
        run_tenants(cfg, 60 + i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_on_disk),
        cmocka_unit_test(test_with_zram),
        cmocka_unit_test(test_without_disk),
        cmocka_unit_test(test_on_a_small_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
