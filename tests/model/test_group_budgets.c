/* test_group_budgets.c - what groups and sequences may have, who gives way, and what is refused:
 * one case at a time. */
#include "budget_fixture.h"
#include "faulty_mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

/* ---- max ---- */

static void test_ram_max_is_kept_and_others_are_left_alone(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *small = group_of(pager, NULL, "small", 0, 6),
              *big = group_of(pager, NULL, "big", 0, 0);
    kvp_seq *a = seq_in(small), *b = seq_in(big);
    append_pages(b, 20);
    append_pages(a, 60);
    for (int i = 0; i < 3; i++)
        read_all(a);
    kvp_group_usage u = usage_of(small);
    assert_int_equal(u.peak_bytes[KVP_TIER_RAM], 6 * PAGE); /* all that it may have, no more */
    assert_int_equal(u.max_bytes[KVP_TIER_RAM], 6 * PAGE);
    assert_true(u.evictions_self > 0 && u.major_faults > 0);
    assert_int_equal(u.evictions_others, 0);
    assert_int_equal(pages_in(big, KVP_TIER_RAM), 20);
    assert_int_equal(usage_of(big).evictions_others, 0);
    read_all(b);
    assert_int_equal(usage_of(big).major_faults, 0);
    close_pager(pager);
}

static void test_disk_max_refuses_appends_and_names_the_group(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *g = group_of(pager, NULL, "tenant 7", 0, 8);
    kvp_seq *seq = seq_in(g), *other;
    must(kvp_seq_create(pager, &other));
    must(kvp_group_set_budget(g, KVP_TIER_DISK, 0, 10 * PAGE, 0));
    uint32_t n = fill(seq);
    assert_non_null(strstr(kvp_error(), "tenant 7"));
    assert_int_equal(n, 10 + 8 - 3); /* RAM keeps what a scan needs */
    assert_true(usage_of(g).peak_bytes[KVP_TIER_DISK] <= 10 * PAGE);
    read_all(seq);
    must(kvp_pager_check(pager));
    append_pages(other, 100); /* there is room for others */
    must(kvp_group_set_budget(g, KVP_TIER_DISK, 0, 30 * PAGE, 0));
    assert_int_equal(fill(seq), 20);
    read_all(seq);
    read_all(other);
    close_pager(pager);
}

static void test_zram_max_sends_pages_to_disk(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(12, 40, 200);
    kvp_group *g = group_of(pager, NULL, "a", 0, 0);
    kvp_seq *seq = seq_in(g);
    must(kvp_group_set_budget(g, KVP_TIER_ZRAM, 0, 5 * PAGE, 0));
    append_pages(seq, 60);
    kvp_group_usage u = usage_of(g);
    assert_true(u.peak_bytes[KVP_TIER_ZRAM] > 0 && u.peak_bytes[KVP_TIER_ZRAM] <= 5 * PAGE);
    assert_true(u.bytes[KVP_TIER_DISK] > 0);
    read_all(seq);
    must(kvp_group_set_budget(g, KVP_TIER_ZRAM, 0, 0, KVP_FOREVER));
    assert_int_equal(usage_of(g).bytes[KVP_TIER_ZRAM], 0);
    read_all(seq);
    close_pager(pager);
}

static void test_groups_in_a_group_share_its_max(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(60, 0, 200);
    kvp_group *outer = group_of(pager, NULL, "outer", 0, 10);
    kvp_group *a = group_of(pager, outer, "a", 0, 0), *b = group_of(pager, outer, "b", 0, 0);
    kvp_seq *sa = seq_in(a), *sb = seq_in(b);
    append_pages(sa, 20);
    assert_int_equal(pages_in(a, KVP_TIER_RAM), 10);
    append_pages(sb, 20);
    assert_int_equal(usage_of(outer).peak_bytes[KVP_TIER_RAM], 10 * PAGE);
    assert_int_equal(pages_in(a, KVP_TIER_RAM) + pages_in(b, KVP_TIER_RAM), 10);
    assert_true(usage_of(a).evictions_others > 0);
    assert_int_equal(usage_of(outer).evictions_others, 0);
    close_pager(pager);
}

/* ---- min ---- */

static void test_min_is_not_taken_by_others(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(20, 0, 200);
    kvp_group *kept = group_of(pager, NULL, "kept", 8, 0);
    kvp_seq *a = seq_in(kept), *b;
    kvp_page_view pages[20];
    kvp_view view = {.pages = pages, .max_pages = 20};
    must(kvp_seq_create(pager, &b));
    append_pages(a, 18);
    append_pages(b, 100);
    for (int i = 0; i < 3; i++)
        read_all(b);
    assert_true(pages_in(kept, KVP_TIER_RAM) >= 8);
    must(kvp_seq_pin(b, 0, 0, 12 * PAGE_TOKENS, KVP_FOREVER, &view));
    kvp_group_usage u = usage_of(kept);
    assert_int_equal(u.bytes[KVP_TIER_RAM], 8 * PAGE);
    assert_int_equal(u.evictions_others, 10); /* what it had above its min */
    must(kvp_pager_check(pager));
    append_pages(a, 20); /* its own may leave */
    u = usage_of(kept);
    assert_true(u.evictions_self > 0 && u.bytes[KVP_TIER_RAM] == 8 * PAGE);
    kvp_view_unpin(&view);
    assert_fails(kvp_seq_pin(b, 0, 0, 13 * PAGE_TOKENS, KVP_FOREVER, &view), KVP_E_NOSPACE,
                 "min of a group");
    close_pager(pager);
}

/* Pages that nobody can write down fill RAM, but not what is kept for others. */
static void test_min_is_kept_free_for_who_has_less(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(30, 0, 0);
    kvp_group *kept = group_of(pager, NULL, "kept", 10, 0),
              *rest = group_of(pager, NULL, "rest", 0, 0);
    kvp_seq *a = seq_in(kept), *b = seq_in(rest);
    assert_int_equal(fill(b), 20 - 3);
    assert_non_null(strstr(kvp_error(), "does not fit"));
    must(kvp_pager_check(pager));
    append_pages(a, 7);
    read_all(a);
    read_all(b);
    close_pager(pager);
}

static void test_disk_min_is_kept_free(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(8, 0, 40);
    kvp_group *kept = group_of(pager, NULL, "kept", 0, 0),
              *rest = group_of(pager, NULL, "rest", 0, 0);
    must(kvp_group_set_budget(kept, KVP_TIER_DISK, 15 * PAGE, KVP_UNLIMITED, 0));
    kvp_seq *a = seq_in(kept), *b = seq_in(rest);
    assert_int_equal(fill(b), 25 + 8 - 3);
    append_pages(a, 15);
    assert_fails(append_page(a), KVP_E_NOSPACE, "does not fit");
    read_all(a);
    read_all(b);
    close_pager(pager);
}

/* ---- sequences ---- */

static void test_sequence_has_a_budget_of_its_own(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *g = group_of(pager, NULL, "g", 0, 20);
    kvp_seq *a = seq_in(g), *b = seq_in(g);
    kvp_group_usage u = {.size = sizeof u};
    append_pages(a, 10);
    append_pages(b, 6);
    assert_fails(kvp_seq_stats(a, &u), KVP_E_INVALID, "no budget of its own");
    must(kvp_seq_set_budget(a, KVP_TIER_RAM, 0, 4 * PAGE, KVP_FOREVER));
    must(kvp_seq_stats(a, &u));
    assert_int_equal(u.bytes[KVP_TIER_RAM], 4 * PAGE);
    assert_int_equal(pages_in(g, KVP_TIER_RAM), 10);
    append_pages(a, 10);
    read_all(a);
    must(kvp_seq_stats(a, &u));
    assert_int_equal(u.bytes[KVP_TIER_RAM], 4 * PAGE);
    must(kvp_seq_set_budget(a, KVP_TIER_DISK, 0, 30 * PAGE, 0));
    fill(a);
    assert_non_null(strstr(kvp_error(), "sequence"));
    must(kvp_seq_set_budget(b, KVP_TIER_RAM, 6 * PAGE, KVP_UNLIMITED, 0));
    must(kvp_seq_set_budget(a, KVP_TIER_RAM, 0, KVP_UNLIMITED, 0));
    read_all(a);
    must(kvp_seq_stats(b, &u));
    assert_int_equal(u.bytes[KVP_TIER_RAM], 6 * PAGE); /* protected within its group */
    kvp_seq_destroy(a);
    kvp_seq_destroy(b);
    assert_int_equal(pages_in(g, KVP_TIER_RAM) + pages_in(g, KVP_TIER_DISK), 0);
    close_pager(pager);
}

static void test_what_sequences_share_is_the_groups(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *g = group_of(pager, NULL, "g", 0, 0);
    kvp_seq *parent = seq_in(g), *child;
    kvp_group_usage u = {.size = sizeof u};
    must(kvp_seq_set_budget(parent, KVP_TIER_RAM, 0, 6 * PAGE, 0));
    append_pages(parent, 12);
    must(kvp_seq_fork(parent, &child));
    must(kvp_seq_stats(parent, &u));
    assert_int_equal(u.bytes[KVP_TIER_RAM] + u.bytes[KVP_TIER_DISK], 0);
    assert_int_equal(usage_of(g).n_seqs, 2);
    read_all(child); /* beyond the parent's max */
    assert_int_equal(pages_in(g, KVP_TIER_RAM), 12);
    append_pages(parent, 8);
    must(kvp_seq_stats(parent, &u));
    assert_int_equal(u.bytes[KVP_TIER_RAM], 6 * PAGE);
    must(kvp_pager_check(pager));
    kvp_seq_destroy(parent);
    read_all(child);
    must(kvp_pager_check(pager));
    kvp_seq_destroy(child);
    assert_int_equal(pages_in(g, KVP_TIER_RAM) + pages_in(g, KVP_TIER_DISK), 0);
    close_pager(pager);
}

/* All that its group has is pinned by a sequence of the same group: its min gives way then, since
 * who has the reservation must go on. */
static void test_shared_pins_beside_a_sequence_with_a_min(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *g = group_of(pager, NULL, "g", 0, 12);
    kvp_seq *base = seq_in(g), *own, *fork;
    kvp_page_view pages[8];
    kvp_view view = {.pages = pages, .max_pages = 8};
    append_pages(base, 8);
    must(kvp_seq_fork(base, &own));
    must(kvp_seq_set_budget(own, KVP_TIER_RAM, 6 * PAGE, KVP_UNLIMITED, 0));
    append_pages(own, 20);
    must(kvp_seq_pin(own, 0, 0, 6 * PAGE_TOKENS, KVP_FOREVER, &view));
    must(kvp_seq_fork(base, &fork));
    append_pages(fork, 20);
    read_all(fork);
    must(kvp_pager_check(pager));
    kvp_view_unpin(&view);
    close_pager(pager);
}

/* ---- groups come and go ---- */

static void test_destroyed_group_has_no_limits(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *outer = group_of(pager, NULL, "outer", 0, 20);
    kvp_group *g = group_of(pager, outer, "g", 3, 6);
    kvp_seq *seq = seq_in(g);
    append_pages(seq, 12);
    kvp_group_destroy(g);
    must(kvp_pager_check(pager));
    read_all(seq);
    assert_int_equal(pages_in(outer, KVP_TIER_RAM), 12);
    append_pages(seq, 30);
    assert_int_equal(pages_in(outer, KVP_TIER_RAM), 20);
    kvp_group_destroy(outer);
    read_all(seq);
    kvp_seq_destroy(seq);
    must(kvp_pager_check(pager));
    for (uint32_t i = 0; i < 1000; i++) { /* numbers come back */
        g = group_of(pager, NULL, NULL, 0, 0);
        kvp_group_destroy(g);
    }
    kvp_group_destroy(NULL);
    close_pager(pager);
}

static void test_budgets_that_cannot_be(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200), *other = open_pager(10, 0, 10);
    kvp_group *g = group_of(pager, NULL, "g", 10, 20), *in,
              *far = group_of(other, NULL, "far", 0, 0);
    kvp_budget b = kvp_budget_default();
    kvp_group_usage u = {.size = sizeof u};
    assert_fails(kvp_group_create(NULL, NULL, &b, &in), KVP_E_INVALID, "NULL");
    assert_fails(kvp_group_create(pager, far, &b, &in), KVP_E_INVALID, "another pager");
    b.size = 1;
    assert_fails(kvp_group_create(pager, NULL, &b, &in), KVP_E_INVALID, "kvp_budget_default");
    b = kvp_budget_default();
    b.min[KVP_TIER_RAM] = 5 * PAGE;
    b.max[KVP_TIER_RAM] = 4 * PAGE;
    assert_fails(kvp_group_create(pager, NULL, &b, &in), KVP_E_BUDGET, "min is 20480");
    b.min[KVP_TIER_RAM] = 0;
    b.max[KVP_TIER_RAM] = 2 * PAGE;
    assert_fails(kvp_group_create(pager, NULL, &b, &in), KVP_E_BUDGET, "needs at least 12288");
    b.max[KVP_TIER_RAM] = KVP_UNLIMITED;
    b.min[KVP_TIER_RAM] = 31 * PAGE; /* beside the 10 of "g" */
    assert_fails(kvp_group_create(pager, NULL, &b, &in), KVP_E_BUDGET, "\"the pager\"");
    b.min[KVP_TIER_RAM] = 21 * PAGE;
    assert_fails(kvp_group_create(pager, g, &b, &in), KVP_E_BUDGET, "\"g\"");
    b.min[KVP_TIER_RAM] = 20 * PAGE; /* more than its parent's min: kept all the same */
    must(kvp_group_create(pager, g, &b, &in));
    assert_fails(kvp_group_set_budget(g, KVP_TIER_RAM, 0, 19 * PAGE, 0), KVP_E_BUDGET, "mins");
    assert_fails(kvp_group_set_budget(g, KVP_TIER_VRAM, 0, 1, 0), KVP_E_INVALID, "tier 0");
    assert_fails(kvp_group_set_budget(NULL, KVP_TIER_RAM, 0, 1, 0), KVP_E_INVALID, "NULL");
    assert_fails(kvp_seq_set_budget(NULL, KVP_TIER_RAM, 0, 1, 0), KVP_E_INVALID, "NULL");
    assert_fails(kvp_pager_set_budget(NULL, KVP_TIER_RAM, 1, 0), KVP_E_INVALID, "NULL");
    assert_fails(kvp_pager_set_budget(pager, (kvp_tier_id)9, 1, 0), KVP_E_INVALID, "tier 9");
    assert_fails(kvp_pager_set_budget(pager, KVP_TIER_RAM, 19 * PAGE, 0), KVP_E_BUDGET, "mins");
    assert_fails(kvp_seq_create_in(NULL, NULL), KVP_E_INVALID, "NULL");
    u.size = 3;
    assert_fails(kvp_group_stats(g, &u), KVP_E_INVALID, "size");
    assert_fails(kvp_group_stats(NULL, &u), KVP_E_INVALID, "NULL");
    kvp_group *deep = g;
    kvp_status status = KVP_OK;
    for (uint32_t i = 0; i < 100 && !status; i++)
        status = kvp_group_create(pager, deep, NULL, &deep);
    assert_fails(status, KVP_E_INVALID, "deep");
    close_pager(other);
    close_pager(pager);
}

static void test_pins_stand_in_the_way_of_a_first_budget(void **state)
{
    (void)state;
    kvp_pager *pager = open_pager(40, 0, 200);
    kvp_group *g = group_of(pager, NULL, "g", 0, 6);
    kvp_seq *seq = seq_in(g);
    kvp_page_view pages[8];
    kvp_view view = {.pages = pages, .max_pages = 8};
    append_pages(seq, 10);
    must(kvp_seq_pin(seq, 0, 0, 1, KVP_FOREVER, &view));
    assert_fails(kvp_seq_set_budget(seq, KVP_TIER_RAM, 0, 4 * PAGE, 0), KVP_E_BUSY, "unpin");
    kvp_view_unpin(&view);
    must(kvp_seq_set_budget(seq, KVP_TIER_RAM, 0, 4 * PAGE, KVP_FOREVER));
    assert_fails(kvp_seq_pin(seq, 0, 0, 5 * PAGE_TOKENS, KVP_FOREVER, &view), KVP_E_NOSPACE,
                 "holds 4");
    must(kvp_seq_pin(seq, 0, 0, 4 * PAGE_TOKENS, KVP_FOREVER, &view));
    must(kvp_pager_check(pager));
    assert_fails(append_page(seq), KVP_E_NOSPACE, "sequence");
    kvp_view_unpin(&view);
    append_pages(seq, 1);
    close_pager(pager);
}

/* Pages that are in use when they come under another policy: the old one must forget them. */
static void test_pinned_pages_change_accounts(void **state)
{
    (void)state;
    uint64_t n_faults = 0, n_taken = 0; /* whose pages go depends on policy and timing */
    for (size_t i = 0; kvp_placement_at(i); i++) {
        kvp_config cfg = config(40, 10, 250);
        kvp_pager *pager;
        cfg.placement = kvp_placement_at(i);
        must(kvp_pager_open(&cfg, &pager));
        kvp_group *g = group_of(pager, NULL, "g", 0, 0),
                  *rest = group_of(pager, NULL, "rest", 0, 0);
        kvp_seq *a = seq_in(g), *b = seq_in(rest), *child;
        kvp_page_view pages[8];
        kvp_view view = {.pages = pages, .max_pages = 8};
        append_pages(a, 20);
        read_all(a);
        must(kvp_seq_pin(a, 0, 0, 4 * PAGE_TOKENS, KVP_FOREVER, &view));
        must(kvp_group_set_budget(g, KVP_TIER_RAM, 10 * PAGE, 30 * PAGE, KVP_FOREVER));
        kvp_view_unpin(&view);
        append_pages(b, 60);
        read_all(a);
        read_all(b);
        must(kvp_seq_set_budget(a, KVP_TIER_RAM, 4 * PAGE, 12 * PAGE, KVP_FOREVER));
        must(kvp_seq_pin(a, 0, 0, 4 * PAGE_TOKENS, KVP_FOREVER, &view));
        must(kvp_seq_fork(a, &child)); /* what is shared is the group's */
        kvp_view_unpin(&view);
        append_pages(child, 20);
        append_pages(b, 20);
        read_all(a);
        read_all(child);
        n_faults += usage_of(g).major_faults;
        n_taken += usage_of(g).evictions_others;
        close_pager(pager);
    }
    assert_true(n_faults > 0 && n_taken > 0);
}

/* ---- no memory ---- */

static bool failed(kvp_status status)
{
    assert_true(status == KVP_OK || status == KVP_E_NOMEM);
    return status != KVP_OK;
}

static bool scenario(kvp_pager *pager)
{
    kvp_budget b = kvp_budget_default();
    kvp_group *outer, *g;
    kvp_seq *seq, *child;
    b.min[KVP_TIER_RAM] = 4 * PAGE;
    b.max[KVP_TIER_ZRAM] = 9 * PAGE;
    if (failed(kvp_group_create(pager, NULL, &b, &outer)))
        return true;
    if (failed(kvp_group_create(pager, outer, NULL, &g)))
        return true;
    if (failed(kvp_seq_create_in(g, &seq)))
        return true;
    for (int i = 0; i < 6; i++)
        if (failed(append_page(seq)))
            return true;
    if (failed(kvp_group_set_budget(g, KVP_TIER_RAM, 0, 5 * PAGE, KVP_FOREVER)))
        return true;
    if (failed(kvp_seq_set_budget(seq, KVP_TIER_RAM, 0, 4 * PAGE, KVP_FOREVER)))
        return true;
    for (int i = 0; i < 20; i++) { /* more numbers than the table had */
        if (failed(kvp_group_create(pager, g, NULL, &outer)))
            return true;
    }
    return failed(kvp_seq_fork(seq, &child));
}

static void test_nth_allocation_fails_cleanly(void **state)
{
    (void)state;
    uint64_t n = 1, n_failed = 0;
    for (;; n++) {
        faulty_mem m;
        kvp_pager *pager;
        faulty_mem_init(&m, n);
        kvp_config cfg = config(16, 10, 60);
        cfg.mem = &m.mem;
        if (!kvp_pager_open(&cfg, &pager)) {
            n_failed += scenario(pager);
            must(kvp_pager_check(pager));
            kvp_pager_close(pager);
        }
        assert_int_equal(m.outstanding_bytes, 0);
        if (!m.n_failed)
            break;
    }
    assert_true(n_failed > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ram_max_is_kept_and_others_are_left_alone),
        cmocka_unit_test(test_disk_max_refuses_appends_and_names_the_group),
        cmocka_unit_test(test_zram_max_sends_pages_to_disk),
        cmocka_unit_test(test_groups_in_a_group_share_its_max),
        cmocka_unit_test(test_min_is_not_taken_by_others),
        cmocka_unit_test(test_min_is_kept_free_for_who_has_less),
        cmocka_unit_test(test_disk_min_is_kept_free),
        cmocka_unit_test(test_sequence_has_a_budget_of_its_own),
        cmocka_unit_test(test_what_sequences_share_is_the_groups),
        cmocka_unit_test(test_shared_pins_beside_a_sequence_with_a_min),
        cmocka_unit_test(test_destroyed_group_has_no_limits),
        cmocka_unit_test(test_budgets_that_cannot_be),
        cmocka_unit_test(test_pins_stand_in_the_way_of_a_first_budget),
        cmocka_unit_test(test_pinned_pages_change_accounts),
        cmocka_unit_test(test_nth_allocation_fails_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
