/* test_placement.c - placement policies: order, hits of a cyclic scan, and a choice that nests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "kvpager/placement.h"

#include <stdlib.h>
#include <string.h>

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- a tier of `n_frames`, reclaimed by a policy ---- */

enum { MAX_PAGES = 8192 };

typedef struct model {
    kvp_placement *policy;
    kvp_placement_node nodes[MAX_PAGES];
    bool is_resident[MAX_PAGES];
    uint32_t n_frames, n_resident, n_hits, n_faults;
} model;

static kvp_placement_node *node_of(void *opaque, uint32_t page)
{
    assert_true(page < MAX_PAGES);
    return &((model *)opaque)->nodes[page];
}

static model *open_model(const kvp_placement_ops *ops, uint32_t n_frames, uint32_t group_pages)
{
    model *m = calloc(1, sizeof *m);
    kvp_placement_config cfg = {
        .mem = &kvpi_mem_default, .node = node_of, .opaque = m, .group_pages = group_pages};
    m->n_frames = n_frames;
    assert_int_equal(ops->open(&cfg, &m->policy), KVP_OK);
    assert_ptr_equal(m->policy->ops, ops);
    return m;
}

static void close_model(model *m)
{
    m->policy->ops->close(m->policy);
    free(m);
}

static uint32_t first_victim(model *m)
{
    return m->policy->ops->victim(m->policy, KVP_PAGE_NONE);
}

static void insert(model *m, uint32_t page, uint32_t lane, uint32_t lane_index, bool is_open)
{
    m->policy->ops->insert(
        m->policy, &(kvp_placement_page){
                       .page = page, .lane = lane, .lane_index = lane_index, .is_open = is_open});
}

/* Pin a page and unpin it: as the pager does for every page of a scan. */
static void use(model *m, uint32_t page, uint32_t lane, uint32_t lane_index)
{
    if (m->is_resident[page]) {
        m->n_hits++;
        m->policy->ops->remove(m->policy, page);
    } else {
        m->n_faults++;
        if (m->n_resident == m->n_frames) {
            uint32_t victim = first_victim(m);
            assert_true(victim != KVP_PAGE_NONE && m->is_resident[victim]);
            m->policy->ops->remove(m->policy, victim);
            m->is_resident[victim] = false;
            m->n_resident--;
        }
        m->is_resident[page] = true;
        m->n_resident++;
    }
    insert(m, page, lane, lane_index, false);
}

/* Page numbers: lane after lane. */
static void scan(model *m, uint32_t n_lanes, uint32_t lane_pages)
{
    for (uint32_t lane = 0; lane < n_lanes; lane++)
        for (uint32_t i = 0; i < lane_pages; i++)
            use(m, lane * lane_pages + i, lane, i);
}

static double hit_rate(const kvp_placement_ops *ops, uint32_t n_lanes, uint32_t lane_pages,
                       uint32_t n_frames, uint32_t group_pages)
{
    model *m = open_model(ops, n_frames, group_pages);
    scan(m, n_lanes, lane_pages);
    scan(m, n_lanes, lane_pages);
    m->n_hits = m->n_faults = 0;
    for (int i = 0; i < 5; i++)
        scan(m, n_lanes, lane_pages);
    double rate = (double)m->n_hits / (m->n_hits + m->n_faults);
    assert_true(m->n_faults > 0);
    close_model(m);
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
    model *m = open_model(&kvp_placement_sticky, MAX_PAGES, 1);
    for (uint32_t i = 0; i < n_groups; i++) {
        insert(m, i, 0, i, false);
        is_kept[i] = true;
    }
    for (uint32_t left = n_groups; left > n_kept; left--) {
        uint32_t victim = first_victim(m);
        m->policy->ops->remove(m->policy, victim);
        is_kept[victim] = false;
    }
    close_model(m);
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
    model *m = open_model(&kvp_placement_sticky, MAX_PAGES, 4);
    bool is_kept[LANES];
    for (uint32_t lane = 0; lane < LANES; lane++) {
        insert(m, lane, lane, 0, false);
        is_kept[lane] = true;
    }
    for (int i = 0; i < LANES / 2; i++) {
        is_kept[first_victim(m)] = false;
        m->policy->ops->remove(m->policy, first_victim(m));
    }
    uint32_t gap = 0;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        gap = is_kept[lane] ? 0 : gap + 1;
        assert_true(gap <= 4);
    }
    close_model(m);
}

static void test_sticky_keeps_neighbours_of_a_group_together(void **state)
{
    (void)state;
    model *m = open_model(&kvp_placement_sticky, MAX_PAGES, 4);
    for (uint32_t i = 0; i < 400; i++)
        insert(m, i, 0, i, false);
    uint32_t page = first_victim(m), group = page / 4, n_changes = 0;
    for (int i = 0; i < 400; i++) {
        assert_true(page != KVP_PAGE_NONE);
        n_changes += page / 4 != group;
        group = page / 4;
        page = m->policy->ops->victim(m->policy, page);
    }
    assert_int_equal(page, KVP_PAGE_NONE);
    assert_int_equal(n_changes, 99); /* each group leaves as a whole */
    close_model(m);
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
    model *m = open_model(&kvp_placement_sticky, MAX_PAGES, 1);
    const kvp_placement_ops *ops = m->policy->ops;
    insert(m, 0, 0, 10, true);
    insert(m, 1, 1, 10, true);
    insert(m, 2, 2, 10, true);
    for (uint32_t i = 3; i < 200; i++)
        insert(m, i, 0, i, false);
    ops->remove(m->policy, 0); /* used again */
    insert(m, 0, 0, 10, true);
    for (uint32_t i = 3; i < 200; i++) {
        uint32_t victim = first_victim(m);
        assert_true(victim >= 3);
        ops->remove(m->policy, victim);
    }
    assert_int_equal(first_victim(m), 1);
    assert_int_equal(ops->victim(m->policy, 1), 2);
    assert_int_equal(ops->victim(m->policy, 2), 0);
    assert_int_equal(ops->victim(m->policy, 0), KVP_PAGE_NONE);
    close_model(m);
}

/* Of the same rank: the one streamed in last leaves, the one that was there stays. */
static void test_sticky_streamed_page_leaves_before_a_resident_one(void **state)
{
    (void)state;
    model *m = open_model(&kvp_placement_sticky, MAX_PAGES, 4);
    insert(m, 7, 0, 0, false);
    insert(m, 8, 0, 1, false);
    insert(m, 9, 0, 2, false);
    assert_int_equal(first_victim(m), 9);
    close_model(m);
}

/* Pages 0 .. 99, the even ones hot, 98 and 99 open. */
static void test_sticky_hot_pages_leave_after_others_in_the_same_order(void **state)
{
    (void)state;
    model *m = open_model(&kvp_placement_sticky, MAX_PAGES, 1);
    const kvp_placement_ops *ops = m->policy->ops;
    uint32_t others[100], hot[100], order[100];
    size_t n_others = 0, n_hot = 0, n = 0;
    for (uint32_t i = 0; i < 98; i++)
        insert(m, i, 0, i, false);
    for (uint32_t v = first_victim(m); v != KVP_PAGE_NONE; v = ops->victim(m->policy, v))
        *(v % 2 ? &others[n_others++] : &hot[n_hot++]) = v;
    for (uint32_t i = 0; i < 98; i += 2) {
        ops->remove(m->policy, i);
        ops->insert(m->policy, &(kvp_placement_page){.page = i, .lane_index = i, .is_hot = true});
    }
    insert(m, 98, 0, 98, true);
    insert(m, 99, 0, 99, true);
    for (uint32_t v = first_victim(m); v != KVP_PAGE_NONE; v = ops->victim(m->policy, v))
        order[n++] = v;
    assert_int_equal(n, 100);
    assert_memory_equal(order, others, n_others * sizeof *others);
    assert_memory_equal(order + n_others, hot, n_hot * sizeof *hot);
    assert_int_equal(order[98] + order[99], 98 + 99);
    close_model(m);
}

/* ---- lru ---- */

static void test_lru_orders_by_last_use(void **state)
{
    (void)state;
    model *m = open_model(&kvp_placement_lru, MAX_PAGES, 1);
    const kvp_placement_ops *ops = m->policy->ops;
    assert_int_equal(first_victim(m), KVP_PAGE_NONE);
    for (uint32_t i = 0; i < 5; i++)
        insert(m, i, 0, i, false);
    ops->remove(m->policy, 1); /* used again */
    insert(m, 1, 0, 1, false);
    ops->remove(m->policy, 3);
    static const uint32_t expected[] = {0, 2, 4, 1, KVP_PAGE_NONE};
    uint32_t page = KVP_PAGE_NONE;
    for (size_t i = 0; i < 5; i++) {
        page = ops->victim(m->policy, page);
        assert_int_equal(page, expected[i]);
    }
    close_model(m);
}

/* ---- both ---- */

static void insert_cold(model *m, uint32_t page, bool is_open)
{
    m->policy->ops->insert(
        m->policy, &(kvp_placement_page){
                       .page = page, .lane_index = page, .is_open = is_open, .is_cold = true});
}

static void test_cold_pages_leave_first_until_they_are_used_again(void **state)
{
    (void)state;
    static const kvp_placement_ops *const policies[] = {&kvp_placement_sticky, &kvp_placement_lru};
    for (size_t p = 0; p < 2; p++) {
        model *m = open_model(policies[p], MAX_PAGES, 1);
        const kvp_placement_ops *ops = m->policy->ops;
        for (uint32_t i = 0; i < 100; i++)
            insert(m, i, 0, i, false);
        for (uint32_t i = 10; i < 13; i++) {
            ops->remove(m->policy, i);
            insert_cold(m, i, i == 12);
        }
        ops->remove(m->policy, 11); /* used again */
        insert(m, 11, 0, 11, false);
        uint32_t first = first_victim(m), second = ops->victim(m->policy, first);
        assert_true((first == 10 && second == 12) || (first == 12 && second == 10));
        ops->remove(m->policy, 10);
        ops->remove(m->policy, 12);
        assert_int_not_equal(first_victim(m), KVP_PAGE_NONE);
        close_model(m);
    }
}

/* Every page that is in is named exactly once, whatever happened; twice the same calls give twice
 * the same order. */
static void check_random_calls(const kvp_placement_ops *ops, uint64_t seed, uint32_t *order)
{
    enum { N = 300 };
    model *m = open_model(ops, MAX_PAGES, 4);
    for (int step = 0; step < 4000; step++) {
        uint64_t r = next_random(&seed);
        uint32_t page = (uint32_t)(r % N);
        kvp_placement_page p = {
            .page = page, .lane = page % 3, .lane_index = page / 3, .is_open = page % 29 == 0};
        if (!m->is_resident[page]) {
            ops->insert(m->policy, &p);
            m->is_resident[page] = true;
            m->n_resident++;
        } else if (r >> 40 & 1) {
            ops->remove(m->policy, page);
            ops->insert(m->policy, &p);
        } else {
            ops->remove(m->policy, page);
            m->is_resident[page] = false;
            m->n_resident--;
        }
        if (step % 50)
            continue;
        bool seen[N] = {false};
        uint32_t n = 0;
        for (uint32_t v = first_victim(m); v != KVP_PAGE_NONE; v = ops->victim(m->policy, v)) {
            assert_true(v < N && m->is_resident[v] && !seen[v]);
            seen[v] = true;
            order[n++] = v;
        }
        assert_int_equal(n, m->n_resident);
        order[n] = KVP_PAGE_NONE;
    }
    close_model(m);
}

static void test_victims_are_all_pages_once_and_reproducible(void **state)
{
    (void)state;
    static const kvp_placement_ops *const both[] = {&kvp_placement_sticky, &kvp_placement_lru};
    for (size_t i = 0; i < 2; i++)
        for (uint64_t seed = 1; seed < 6; seed++) {
            static uint32_t first[400], second[400];
            check_random_calls(both[i], seed, first);
            check_random_calls(both[i], seed, second);
            assert_memory_equal(first, second, sizeof first);
        }
}

static void test_policies_are_found_by_name(void **state)
{
    (void)state;
    assert_ptr_equal(kvp_placement_find("sticky"), &kvp_placement_sticky);
    assert_ptr_equal(kvp_placement_find("lru"), &kvp_placement_lru);
    assert_null(kvp_placement_find("LRU"));
    assert_null(kvp_placement_find(""));
}

static void *no_alloc(void *opaque, size_t n, size_t align)
{
    (void)opaque, (void)n, (void)align;
    return NULL;
}

static void test_no_memory_is_reported(void **state)
{
    (void)state;
    kvp_mem none = {.alloc = no_alloc, .free = kvpi_mem_default.free};
    kvp_placement_config cfg = {.mem = &none, .node = node_of, .group_pages = 4};
    kvp_placement *p = NULL;
    assert_int_equal(kvp_placement_sticky.open(&cfg, &p), KVP_E_NOMEM);
    assert_int_equal(kvp_placement_lru.open(&cfg, &p), KVP_E_NOMEM);
    assert_null(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cyclic_scan_hits_budget_over_size_with_sticky_and_never_with_lru),
        cmocka_unit_test(test_sticky_spreads_what_stays_over_the_lane),
        cmocka_unit_test(test_sticky_spreads_what_stays_over_lanes_of_one_group),
        cmocka_unit_test(test_sticky_keeps_neighbours_of_a_group_together),
        cmocka_unit_test(test_growing_sequence_only_drops_groups),
        cmocka_unit_test(test_sticky_hot_pages_leave_after_others_in_the_same_order),
        cmocka_unit_test(test_sticky_open_pages_leave_last_and_oldest_first),
        cmocka_unit_test(test_sticky_streamed_page_leaves_before_a_resident_one),
        cmocka_unit_test(test_lru_orders_by_last_use),
        cmocka_unit_test(test_cold_pages_leave_first_until_they_are_used_again),
        cmocka_unit_test(test_victims_are_all_pages_once_and_reproducible),
        cmocka_unit_test(test_policies_are_found_by_name),
        cmocka_unit_test(test_no_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
