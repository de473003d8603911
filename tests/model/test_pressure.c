/* test_pressure.c - what the statistics say of a run that was short of RAM: how many frames more
 * would have saved how many faults, and who waited for what. */
#include "pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sched.h>

#define PAGE_TOKENS 64u
#define PAGE 4096u /* 64 tokens of one head, K and V 8 floats wide */
#define N_PAGES 60u

static const kvp_layer_kind kind = {1, 8, 8, KVP_F32};
static uint32_t salts[PAGE_TOKENS * N_PAGES];

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

/* Time that passes by being looked at. */
static uint64_t tick(void *opaque)
{
    uint64_t *now_ns = opaque;
    return __atomic_add_fetch(now_ns, 1000, __ATOMIC_RELAXED);
}

static kvp_pager *open_pager(uint32_t n_frames, const kvp_env *env)
{
    kvp_config cfg = kvp_config_default();
    kvp_pager *pager;
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 8,
                                  .dtype = KVP_F32,
                                  .page_tokens = PAGE_TOKENS};
    cfg.n_threads = 1;
    cfg.placement = &kvp_placement_lru;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.ram_bytes = (n_frames + 1) * (uint64_t)PAGE - 1;
    cfg.env = env;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

static kvp_seq *filled_seq(kvp_pager *pager)
{
    static float k[PAGE_TOKENS * 8], v[PAGE_TOKENS * 8];
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    for (uint32_t i = 0; i < N_PAGES; i++) {
        pattern_rows(&kind, salts + i * PAGE_TOKENS, PAGE_TOKENS, k, v);
        must(kvp_seq_append(seq, 0, k, v, PAGE_TOKENS));
    }
    return seq;
}

/* Pins do not read ahead. */
static void read_all(kvp_seq *seq)
{
    for (uint32_t i = 0; i < N_PAGES; i++) {
        kvp_page_view page;
        kvp_view view = {.pages = &page, .max_pages = 1};
        must(kvp_seq_pin(seq, 0, i * PAGE_TOKENS, 1, KVP_FOREVER, &view));
        assert_true(pattern_page_ok(&page, salts));
        kvp_view_unpin(&view);
    }
}

static kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}

static uint64_t refaults_up_to(const kvp_stats *s, uint32_t bucket)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i <= bucket; i++)
        n += s->refaults[i];
    return n;
}

static uint64_t faults_of_cycles(uint32_t n_frames, uint32_t n_cycles, kvp_stats *s)
{
    kvp_pager *pager = open_pager(n_frames, NULL);
    kvp_seq *seq = filled_seq(pager);
    for (uint32_t i = 0; i < n_cycles; i++)
        read_all(seq);
    *s = stats_of(pager);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
    return s->major_faults;
}

static void test_refault_distance_says_how_many_frames_are_missing(void **state)
{
    (void)state;
    kvp_stats s;
    uint64_t n_faults = faults_of_cycles(N_PAGES - 16, 4, &s);
    assert_true(n_faults >= 3 * N_PAGES); /* LRU, in a cycle: no hits */
    assert_int_equal(refaults_up_to(&s, KVP_REFAULT_BUCKETS - 1), n_faults);
    assert_true(refaults_up_to(&s, 3) * 10 < n_faults);     /* 8 frames more do not help, */
    assert_true(refaults_up_to(&s, 4) * 10 > 9 * n_faults); /* 16 do: */
    assert_int_equal(faults_of_cycles(N_PAGES, 4, &s), 0);
    assert_true(faults_of_cycles(N_PAGES - 8, 4, &s) >= 3 * N_PAGES);
}

static void test_waiting_for_the_disk_is_counted(void **state)
{
    (void)state;
    uint64_t now_ns = 1;
    kvp_env env = *kvp_env_default();
    env.now_ns = tick;
    env.opaque = &now_ns;
    kvp_pager *pager = open_pager(20, &env);
    kvp_seq *seq = filled_seq(pager);
    kvp_stats before = stats_of(pager);
    read_all(seq);
    kvp_stats s = stats_of(pager);
    assert_true(s.stalls[KVP_TIER_DISK] > before.stalls[KVP_TIER_DISK]);
    assert_true(s.stall_some_ns[KVP_TIER_DISK] > before.stall_some_ns[KVP_TIER_DISK]);
    for (int t = 0; t < KVP_N_TIERS; t++) /* there is only one thread */
        assert_int_equal(s.stall_full_ns[t], s.stall_some_ns[t]);
    assert_int_equal(s.stalls[KVP_TIER_ZRAM], 0);
    kvp_pager_close(pager);
}

/* A scan has a page to compute with all the time. */
static void test_full_is_only_while_nobody_computes(void **state)
{
    (void)state;
    uint64_t now_ns = 1;
    kvp_env env = *kvp_env_default();
    env.now_ns = tick;
    env.opaque = &now_ns;
    kvp_pager *pager = open_pager(20, &env);
    kvp_seq *computing = filled_seq(pager), *seq = filled_seq(pager);
    kvp_scan *scan;
    kvp_scan_item item;
    kvp_page_view page;
    must(kvp_scan_open(computing, &(kvp_scan_args){.max_parts = 1, .end = UINT64_MAX}, &scan));
    must(kvp_scan_claim(scan, 0, &item));
    must(kvp_scan_next(scan, 0, &page));
    kvp_stats before = stats_of(pager);
    read_all(seq);
    kvp_stats s = stats_of(pager);
    assert_true(s.stall_some_ns[KVP_TIER_DISK] > before.stall_some_ns[KVP_TIER_DISK]);
    assert_int_equal(s.stall_full_ns[KVP_TIER_DISK], before.stall_full_ns[KVP_TIER_DISK]);
    kvp_scan_close(scan);
    read_all(seq);
    assert_true(stats_of(pager).stall_full_ns[KVP_TIER_DISK] > s.stall_full_ns[KVP_TIER_DISK]);
    kvp_pager_close(pager);
}

static void assert_no_stalls_since(kvp_pager *pager, const kvp_stats *before)
{
    kvp_stats s = stats_of(pager);
    assert_true(s.major_faults > before->major_faults);
    for (int t = 0; t < KVP_N_TIERS; t++)
        assert_int_equal(s.stalls[t], before->stalls[t]);
}

static void test_who_only_looks_does_not_wait(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(20, NULL);
    kvp_seq *seq = filled_seq(pager);
    kvp_page_view pages[4];
    kvp_ticket ticket = {.view = {.pages = pages, .max_pages = 4}};
    read_all(seq);
    kvp_stats before = stats_of(pager);
    must(kvp_seq_prepare(seq, 0, 0, 4 * PAGE_TOKENS, &ticket));
    kvp_status status;
    while ((status = kvp_ticket_wait(&ticket, 0)) == KVP_E_AGAIN)
        sched_yield();
    must(status);
    assert_no_stalls_since(pager, &before);
    kvp_view_unpin(&ticket.view);
    kvp_pager_close(pager);
}

/* The thread behind the descriptor waits, but nobody waits for it. */
static void test_what_is_fetched_in_the_background_holds_nobody_up(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(20, NULL);
    kvp_seq *seq = filled_seq(pager);
    int fd;
    kvp_page_info infos[N_PAGES];
    size_t n, n_there = 0;
    read_all(seq);
    must(kvp_pager_eventfd(pager, &fd));
    kvp_stats before = stats_of(pager);
    must(kvp_seq_advise(seq, 0, 8 * PAGE_TOKENS, KVP_WILLNEED));
    while (n_there < 8) {
        must(kvp_seq_pages(seq, infos, N_PAGES, &n));
        for (n_there = 0; n_there < 8 && infos[n_there].tier == KVP_TIER_RAM; n_there++)
            continue;
        sched_yield();
    }
    assert_no_stalls_since(pager, &before);
    kvp_pager_close(pager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refault_distance_says_how_many_frames_are_missing),
        cmocka_unit_test(test_waiting_for_the_disk_is_counted),
        cmocka_unit_test(test_full_is_only_while_nobody_computes),
        cmocka_unit_test(test_who_only_looks_does_not_wait),
        cmocka_unit_test(test_what_is_fetched_in_the_background_holds_nobody_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
