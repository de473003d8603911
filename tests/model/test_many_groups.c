/* test_many_groups.c - groups beside each other: many of them, deep ones, with limits that no tier
 * has; one that stands still holds no other up. */
#include "budget_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#define MANY 200u /* more than are compared for one victim */

static kvp_pager *open_unlimited(uint32_t n_frames)
{
    kvp_config cfg = config(n_frames, 0, 0);
    kvp_pager *pager;
    cfg.disk_bytes = KVP_UNLIMITED;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

static kvp_seq *filled_seq(kvp_group *g, uint32_t n_pages)
{
    kvp_seq *seq = seq_in(g);
    append_pages(seq, n_pages);
    return seq;
}

/* Its pages: those that have been read back need not be written first. */
static void send_away(kvp_seq *seq)
{
    kvp_page_view page;
    for (uint32_t i = 0; i < 2 * kvp_seq_page_count(seq, 0); i++) {
        kvp_view view = {.pages = &page, .max_pages = 1};
        uint64_t first = i % kvp_seq_page_count(seq, 0) * (uint64_t)PAGE_TOKENS;
        must(kvp_seq_pin(seq, 0, first, 1, KVP_FOREVER, &view));
        assert_true(is_as_appended(&page));
        kvp_view_unpin(&view);
    }
    must(kvp_seq_advise(seq, 0, UINT64_MAX, KVP_DONTNEED));
}

/* ---- many ---- */

/* Groups that have the same give the same, wherever they come in the tree. */
static void test_each_of_many_groups_gives_its_share(void **state)
{
    (void)state;
    kvp_pager *pager = open_unlimited(4 * MANY);
    kvp_group *outer[4], *groups[MANY];
    for (uint32_t i = 0; i < 4; i++)
        outer[i] = group_of(pager, NULL, NULL, 0, 0);
    for (uint32_t i = 0; i < MANY; i++) {
        groups[i] = group_of(pager, outer[i % 4], NULL, 0, 100);
        filled_seq(groups[i], 4);
    }
    kvp_group *taker = group_of(pager, NULL, NULL, 2 * MANY, 0);
    filled_seq(taker, 2 * MANY);
    must(kvp_pager_check(pager));
    assert_int_equal(pages_in(taker, KVP_TIER_RAM), 2 * MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        assert_in_range(pages_in(groups[i], KVP_TIER_RAM), 1, 3);
        assert_in_range(usage_of(groups[i]).evictions_others, 1, 3);
    }
    close_pager(pager);
}

/* The hand that goes round is at accounts that lose all their pages, or go. */
static void test_victims_are_found_while_groups_come_and_go(void **state)
{
    (void)state;
    kvp_pager *pager = open_unlimited(2 * MANY);
    kvp_group *outer[MANY];
    kvp_seq *seqs[MANY];
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < MANY; i++) {
            outer[i] = group_of(pager, NULL, NULL, 0, 0);
            seqs[i] = filled_seq(group_of(pager, outer[i], NULL, 0, 100), 2);
        }
        kvp_seq *taker = filled_seq(outer[0], MANY / 2 + 10 * round);
        must(kvp_pager_check(pager));
        for (uint32_t i = 0; i < MANY; i += i % 50 ? 1 : 2) /* some stay for the next round */
            kvp_seq_destroy(seqs[i]);
        must(kvp_pager_check(pager));
        uint64_t before = stats_of(pager).evictions;
        kvp_seq *more = filled_seq(outer[1], 2 * MANY);
        assert_true(stats_of(pager).evictions > before);
        kvp_seq_destroy(taker);
        kvp_seq_destroy(more);
        must(kvp_pager_check(pager));
        for (uint32_t i = 0; i < MANY; i++)
            kvp_group_destroy(outer[i]);
    }
    close_pager(pager);
}

/* ---- deep ---- */

static void test_sequences_have_budgets_in_the_deepest_group(void **state)
{
    (void)state;
    kvp_pager *pager = open_unlimited(40);
    kvp_group *deep = NULL, *g;
    uint32_t depth = 0;
    while (!kvp_group_create(pager, deep, NULL, &g)) {
        deep = g;
        depth++;
    }
    assert_int_equal(depth, 16);
    assert_non_null(strstr(kvp_error(), "16 deep"));
    kvp_seq *seq = filled_seq(deep, 10);
    must(kvp_seq_set_budget(seq, KVP_TIER_RAM, 0, 4 * PAGE, KVP_FOREVER));
    assert_int_equal(pages_in(deep, KVP_TIER_RAM), 4);
    close_pager(pager);
}

/* ---- limits at the edge ---- */

static void test_limits_that_no_tier_has(void **state)
{
    (void)state;
    static const kvp_tier_id tiers[] = {KVP_TIER_RAM, KVP_TIER_ZRAM, KVP_TIER_DISK};
    static const uint64_t huge[] = {KVP_UNLIMITED, KVP_UNLIMITED - 1, UINT64_C(1) << 63};
    kvp_pager *pager = open_unlimited(40);
    kvp_group *g = group_of(pager, NULL, NULL, 4, 0), *other = group_of(pager, NULL, NULL, 4, 0);
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < 3; i++) {
            kvp_tier_id tier = tiers[t];
            assert_int_equal(kvp_group_set_budget(g, tier, huge[i], KVP_UNLIMITED, 0),
                             KVP_E_BUDGET);
            must(kvp_group_set_budget(other, tier, 3 * PAGE, huge[i], 0));
            filled_seq(other, 5);
            must(kvp_pager_check(pager));
        }
    assert_int_equal(usage_of(other).max_bytes[KVP_TIER_DISK], KVP_UNLIMITED);
    close_pager(pager);
}

/* What a fork shares takes the room that was found for it, before pages that had no place take what
 * is left. */
static void test_fork_keeps_the_min_of_its_parent_beside_what_is_shared(void **state)
{
    (void)state;
    kvp_pager *pager = open_unlimited(40);
    kvp_group *g = group_of(pager, NULL, NULL, 0, 0);
    kvp_seq *seq = filled_seq(g, 0), *child;
    must(kvp_group_set_budget(g, KVP_TIER_DISK, 0, 12 * PAGE, 0));
    must(kvp_seq_set_budget(seq, KVP_TIER_DISK, 4 * PAGE, 8 * PAGE, 0));
    append_pages(seq, 13); /* 8 have a place on disk, or are promised one */
    must(kvp_seq_advise(seq, 7 * PAGE_TOKENS, 6 * PAGE_TOKENS, KVP_DONTNEED));
    assert_int_equal(usage_of(g).bytes[KVP_TIER_DISK], 6 * PAGE);
    must(kvp_seq_fork(seq, &child));
    must(kvp_pager_check(pager));
    append_pages(child, 4);
    must(kvp_pager_check(pager));
    close_pager(pager);
}

/* ---- nobody holds others up ---- */

/* Scans, each of which has reserved a frame for pages beside its workspace's, and reads none. */
static void open_scans(kvp_seq *seq, uint32_t n, kvp_scan **scans)
{
    const kvp_scan_args args = {.max_parts = 1, .end = UINT64_MAX, .workspace_bytes = 64};
    for (uint32_t i = 0; i < n; i++)
        must(kvp_scan_open(seq, &args, &scans[i]));
}

static void close_scans(uint32_t n, kvp_scan **scans)
{
    for (uint32_t i = 0; i < n; i++)
        kvp_scan_close(scans[i]);
}

static void test_a_group_without_room_does_not_stop_what_others_want(void **state)
{
    (void)state;
    kvp_pager *pager = open_unlimited(60);
    kvp_group *full = group_of(pager, NULL, NULL, 0, 4), *other = group_of(pager, NULL, NULL, 0, 4);
    kvp_seq *scanned = filled_seq(full, 20), *waits = filled_seq(full, 10),
            *wanted = filled_seq(other, 10);
    do { /* what is being written stays until it has been */
        send_away(scanned);
        send_away(waits);
        send_away(wanted);
    } while (pages_in(full, KVP_TIER_RAM) > 1 || pages_in(other, KVP_TIER_RAM) > 1);
    kvp_scan *scans[2];
    open_scans(scanned, 2, scans); /* all that the group may have */
    uint64_t before = stats_of(pager).prefetches_advised;
    must(kvp_seq_advise(waits, 0, UINT64_MAX, KVP_WILLNEED));
    assert_int_equal(stats_of(pager).prefetches_advised, before);
    must(kvp_seq_advise(wanted, 0, UINT64_MAX, KVP_WILLNEED));
    assert_true(stats_of(pager).prefetches_advised > before);
    close_scans(2, scans);
    must(kvp_seq_advise(waits, 0, UINT64_MAX, KVP_WILLNEED));
    close_pager(pager);
}

typedef struct shrinking {
    kvp_group *group;
    kvp_status status;
} shrinking;

static void *shrink(void *arg)
{
    shrinking *s = arg;
    s->status = kvp_group_set_budget(s->group, KVP_TIER_RAM, 0, 4 * PAGE, KVP_FOREVER);
    return NULL;
}

static void test_a_budget_that_shrinks_does_not_stop_groups_without_one(void **state)
{
    (void)state;
    kvp_pager *pager = open_unlimited(60);
    shrinking s = {.group = group_of(pager, NULL, NULL, 0, 10)};
    kvp_scan *scans[3];
    open_scans(filled_seq(s.group, 20), 3, scans);
    kvp_group *g;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, shrink, &s), 0);
    while (usage_of(s.group).max_bytes[KVP_TIER_RAM] != 4 * PAGE) /* it waits for scans */
        sched_yield();
    must(kvp_group_create(pager, NULL, NULL, &g));
    filled_seq(g, 10);
    close_scans(3, scans);
    pthread_join(thread, NULL);
    assert_int_equal(s.status, KVP_OK);
    assert_true(pages_in(s.group, KVP_TIER_RAM) <= 4);
    close_pager(pager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_of_many_groups_gives_its_share),
        cmocka_unit_test(test_victims_are_found_while_groups_come_and_go),
        cmocka_unit_test(test_sequences_have_budgets_in_the_deepest_group),
        cmocka_unit_test(test_limits_that_no_tier_has),
        cmocka_unit_test(test_fork_keeps_the_min_of_its_parent_beside_what_is_shared),
        cmocka_unit_test(test_a_group_without_room_does_not_stop_what_others_want),
        cmocka_unit_test(test_a_budget_that_shrinks_does_not_stop_groups_without_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
