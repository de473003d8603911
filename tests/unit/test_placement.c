/* test_placement.c - what sticky and LRU keep; the others are in test_placement_kinds.c, and what
 * all have in common in tests/contract/test_placement.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "placement_model.h"

#include <string.h>

static void insert(placement_model *m, uint32_t page, uint32_t lane, uint32_t lane_index,
                   bool is_open)
{
    model_insert(m, &(kvp_placement_page){
                        .page = page, .lane = lane, .lane_index = lane_index, .is_open = is_open});
}

static uint32_t first_victim(placement_model *m)
{
    return model_victim(m, KVP_PAGE_NONE);
}

static double hit_rate(const kvp_placement_ops *ops, uint32_t n_lanes, uint32_t lane_pages,
                       uint32_t n_frames, uint32_t group_pages)
{
    placement_model *m = model_open(ops, n_frames, group_pages);
    for (int i = 0; i < 4; i++) /* how long a cycle takes is found out on the way */
        model_scan(m, n_lanes, lane_pages);
    m->n_hits = m->n_faults = 0;
    for (int i = 0; i < 5; i++)
        model_scan(m, n_lanes, lane_pages);
    double rate = (double)m->n_hits / (m->n_hits + m->n_faults);
    assert_true(m->n_faults > 0);
    model_close(m);
    return rate;
}

/* ---- the claim: decode is a cyclic scan ---- */

static void test_cyclic_scan_hits_budget_over_size_with_sticky_and_never_with_lru(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_lanes, lane_pages, n_frames, group_pages;
    } shapes[] = {
        {1, 1000, 500, 4}, {1, 1000, 250, 4}, {12, 100, 600, 4},  {12, 100, 1100, 1},
        {60, 4, 120, 4},   {60, 4, 60, 1},    {24, 37, 100, 4},   {1, 4096, 64, 16},
        {36, 2, 16, 4},    {1, 64, 32, 4},    {12, 512, 3072, 4},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        uint32_t n_pages = shapes[i].n_lanes * shapes[i].lane_pages;
        double share = (double)shapes[i].n_frames / n_pages;
        double sticky = hit_rate(&kvp_placement_sticky, shapes[i].n_lanes, shapes[i].lane_pages,
                                 shapes[i].n_frames, shapes[i].group_pages);
        double lru = hit_rate(&kvp_placement_lru, shapes[i].n_lanes, shapes[i].lane_pages,
                              shapes[i].n_frames, shapes[i].group_pages);
        print_message("%u x %u pages, %u frames: sticky %.3f of %.3f, lru %.3f\n",
                      shapes[i].n_lanes, shapes[i].lane_pages, shapes[i].n_frames, sticky, share,
                      lru);
        assert_true(sticky >= share - 2.0 / n_pages && sticky <= share);
        assert_true(lru == 0);
    }
}

/* ---- sticky: spread and nested ---- */

/* What stays of a lane's groups when pages are dropped until n are left. */
static void kept_groups(uint32_t n_groups, uint32_t n_kept, bool *is_kept)
{
    placement_model *m = model_open(&kvp_placement_sticky, MODEL_MAX_PAGES, 1);
    for (uint32_t i = 0; i < n_groups; i++) {
        insert(m, i, 0, i, false);
        is_kept[i] = true;
    }
    for (uint32_t left = n_groups; left > n_kept; left--) {
        uint32_t victim = first_victim(m);
        model_remove(m, victim, KVP_REMOVED_GONE);
        is_kept[victim] = false;
    }
    model_close(m);
}

static void test_sticky_spreads_what_stays_over_the_lane(void **state)
{
    (void)state;
    enum { N = 600 };
    static bool is_kept[N];
    for (uint32_t share = 2; share <= 8; share++) {
        kept_groups(N, N / share, is_kept);
        uint32_t gap = 0, longest = 0;
        for (uint32_t i = 0; i < N; i++) {
            gap = is_kept[i] ? 0 : gap + 1;
            longest = gap > longest ? gap : longest;
        }
        print_message("1/%u kept: longest gap %u\n", share, longest);
        assert_true(longest <= 2 * share); /* golden-ratio gaps are of three lengths */
    }
}

static void test_sticky_spreads_what_stays_over_lanes_of_one_group(void **state)
{
    (void)state;
    enum { LANES = 60 };
    placement_model *m = model_open(&kvp_placement_sticky, MODEL_MAX_PAGES, 4);
    bool is_kept[LANES];
    for (uint32_t lane = 0; lane < LANES; lane++) {
        insert(m, lane, lane, 0, false);
        is_kept[lane] = true;
    }
    for (int i = 0; i < LANES / 2; i++) {
        is_kept[first_victim(m)] = false;
        model_remove(m, first_victim(m), KVP_REMOVED_GONE);
    }
    uint32_t gap = 0;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        gap = is_kept[lane] ? 0 : gap + 1;
        assert_true(gap <= 4);
    }
    model_close(m);
}

static void test_sticky_keeps_neighbours_of_a_group_together(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_sticky, MODEL_MAX_PAGES, 4);
    for (uint32_t i = 0; i < 400; i++)
        insert(m, i, 0, i, false);
    uint32_t page = first_victim(m), group = page / 4, n_changes = 0;
    for (int i = 0; i < 400; i++) {
        assert_true(page != KVP_PAGE_NONE);
        n_changes += page / 4 != group;
        group = page / 4;
        page = model_victim(m, page);
    }
    assert_int_equal(page, KVP_PAGE_NONE);
    assert_int_equal(n_changes, 99); /* each group leaves as a whole */
    model_close(m);
}

/* As a sequence grows under a fixed budget, what was dropped is not wanted back: what stays of the
 * longer one is part of what stayed of the shorter, but for its new groups. */
static void test_growing_sequence_only_drops_groups(void **state)
{
    (void)state;
    enum { MAX_GROUPS = 1000, BUDGET = 100 };
    static bool before[MAX_GROUPS], after[MAX_GROUPS];
    kept_groups(BUDGET, BUDGET, before);
    for (uint32_t n = BUDGET + 1; n <= MAX_GROUPS; n += 9) {
        memset(after, 0, sizeof after);
        kept_groups(n, BUDGET, after);
        uint32_t n_new = 0;
        for (uint32_t i = 0; i < n; i++) {
            bool is_new = n >= 9 && i >= n - 9;
            assert_true(!after[i] || before[i] || is_new);
            n_new += after[i] && is_new;
        }
        assert_true(n < 200 || n_new < 9);
        memcpy(before, after, sizeof before);
    }
}

static void test_sticky_open_pages_leave_last_and_oldest_first(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_sticky, MODEL_MAX_PAGES, 1);
    insert(m, 0, 0, 10, true);
    insert(m, 1, 1, 10, true);
    insert(m, 2, 2, 10, true);
    for (uint32_t i = 3; i < 200; i++)
        insert(m, i, 0, i, false);
    model_remove(m, 0, KVP_REMOVED_FOR_USE); /* used again */
    insert(m, 0, 0, 10, true);
    for (uint32_t i = 3; i < 200; i++) {
        uint32_t victim = first_victim(m);
        assert_true(victim >= 3);
        model_remove(m, victim, KVP_REMOVED_GONE);
    }
    assert_int_equal(first_victim(m), 1);
    assert_int_equal(model_victim(m, 1), 2);
    assert_int_equal(model_victim(m, 2), 0);
    assert_int_equal(model_victim(m, 0), KVP_PAGE_NONE);
    model_close(m);
}

/* Of the same rank: the one streamed in last leaves, the one that was there stays. */
static void test_sticky_streamed_page_leaves_before_a_resident_one(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_sticky, MODEL_MAX_PAGES, 4);
    for (uint32_t i = 100; i < 200; i++)
        model_insert(m, &(kvp_placement_page){.page = i, .lane = 1, .is_hot = true});
    insert(m, 7, 0, 0, false);
    insert(m, 8, 0, 1, false);
    insert(m, 9, 0, 2, false);
    assert_int_equal(first_victim(m), 9);
    model_close(m);
}

/* Pages 0 .. 99, the even ones hot, 98 and 99 open. */
static void test_sticky_hot_pages_leave_last_in_the_same_order(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_sticky, MODEL_MAX_PAGES, 1);
    uint32_t others[100], hot[100], order[100];
    size_t n_others = 0, n_hot = 0, n = 0;
    for (uint32_t i = 0; i < 98; i++)
        insert(m, i, 0, i, false);
    for (uint32_t v = first_victim(m); v != KVP_PAGE_NONE; v = model_victim(m, v))
        *(v % 2 ? &others[n_others++] : &hot[n_hot++]) = v;
    for (uint32_t i = 0; i < 98; i += 2) {
        model_remove(m, i, KVP_REMOVED_GONE);
        model_insert(m, &(kvp_placement_page){.page = i, .lane_index = i, .is_hot = true});
    }
    insert(m, 98, 0, 98, true);
    insert(m, 99, 0, 99, true);
    for (uint32_t v = first_victim(m); v != KVP_PAGE_NONE; v = model_victim(m, v))
        order[n++] = v;
    assert_int_equal(n, 100);
    assert_memory_equal(order, others, n_others * sizeof *others);
    assert_int_equal(order[n_others] + order[n_others + 1], 98 + 99);
    assert_memory_equal(order + n_others + 2, hot, n_hot * sizeof *hot);
    model_close(m);
}

/* Use pages [first, first + n) of a lane; how many were not there. */
static uint32_t scan_part(placement_model *m, uint32_t lane, uint32_t first, uint32_t n)
{
    uint32_t before = m->n_faults;
    for (uint32_t i = first; i < first + n; i++)
        model_use(m, &(kvp_placement_page){.page = i, .lane = lane, .lane_index = i - first});
    return m->n_faults - before;
}

/* Two conversations that do not fit together, one after the other: what the first one leaves behind
 * does not keep its share. And so when neither fits alone. */
static void test_sticky_lets_a_sequence_that_rests_go(void **state)
{
    (void)state;
    for (uint32_t n = 80; n <= 160; n += 80) {
        placement_model *m = model_open(&kvp_placement_sticky, 100, 4);
        uint32_t n_missing = n > 100 ? n - 100 + 3 : 0; /* and the one that comes in */
        for (uint32_t turn = 0; turn < 6; turn++)
            for (uint32_t round = 0; round < 12; round++) {
                uint32_t n_faults = scan_part(m, turn % 2, turn % 2 * 1000, n);
                assert_true(round < 6 || n_faults <= n_missing);
            }
        model_close(m);
    }
}

/* Pages that come round in time stay, in the middle of a scan over many that do not. */
static void test_sticky_keeps_what_comes_round_in_time(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_sticky, 100, 4);
    uint32_t n_late = 0;
    for (uint32_t round = 0; round < 10; round++)
        for (uint32_t part = 0; part < 10; part++) {
            uint32_t n_faults = scan_part(m, 0, 1000 + 40 * part, 40);
            n_late += round > 4 ? 40 - n_faults : 0;
            n_faults = scan_part(m, 1, 0, 20);
            assert_true(round == 0 || n_faults == 0);
        }
    assert_true(n_late >= 5 * 70); /* of the 400 others, 100 - 20 - the one that comes in fit */
    model_close(m);
}

/* ---- lru ---- */

static void test_lru_orders_by_last_use(void **state)
{
    (void)state;
    placement_model *m = model_open(&kvp_placement_lru, MODEL_MAX_PAGES, 1);
    assert_int_equal(first_victim(m), KVP_PAGE_NONE);
    for (uint32_t i = 0; i < 5; i++)
        insert(m, i, 0, i, false);
    model_remove(m, 1, KVP_REMOVED_FOR_USE); /* used again */
    insert(m, 1, 0, 1, false);
    model_remove(m, 3, KVP_REMOVED_GONE);
    static const uint32_t expected[] = {0, 2, 4, 1, KVP_PAGE_NONE};
    uint32_t page = KVP_PAGE_NONE;
    for (size_t i = 0; i < 5; i++) {
        page = model_victim(m, page);
        assert_int_equal(page, expected[i]);
    }
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cyclic_scan_hits_budget_over_size_with_sticky_and_never_with_lru),
        cmocka_unit_test(test_sticky_spreads_what_stays_over_the_lane),
        cmocka_unit_test(test_sticky_spreads_what_stays_over_lanes_of_one_group),
        cmocka_unit_test(test_sticky_keeps_neighbours_of_a_group_together),
        cmocka_unit_test(test_growing_sequence_only_drops_groups),
        cmocka_unit_test(test_sticky_hot_pages_leave_last_in_the_same_order),
        cmocka_unit_test(test_sticky_open_pages_leave_last_and_oldest_first),
        cmocka_unit_test(test_sticky_streamed_page_leaves_before_a_resident_one),
        cmocka_unit_test(test_sticky_lets_a_sequence_that_rests_go),
        cmocka_unit_test(test_sticky_keeps_what_comes_round_in_time),
        cmocka_unit_test(test_lru_orders_by_last_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
